"""What a trained model's files say, and how they are refused."""

import copy
import json
import re
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from described_models import write_model
from monai.data import DataLoader, MetaTensor

from monai_betavae import BetaVAELoss, bundle_root
from monai_betavae.data import brain_transforms
from monai_betavae.data.transforms.brain import first_release_description
from monai_betavae.networks.builders import build_network
from monai_betavae.networks.warm_start import warm_start
from monai_betavae.workflows.model_description import (
    check_likelihood,
    data_options_of,
    describe_likelihood,
    describe_network,
    describe_training,
    described_by_name,
    read_description,
    split_digest,
)
from monai_betavae.workflows.model_grid import centred_affine, common_affine
from monai_betavae.workflows.records import write_split
from monai_betavae.workflows.trained_model import (
    check_outputs,
    grid_affine,
    load_weights,
    network_arguments,
    of_another_run,
    trained_likelihood,
    trained_network,
    trained_preprocessing,
    training_folder,
)
from monai_betavae.workflows.volume_inference import InferenceRecords

SHAPE = (8, 10, 12)
ARGUMENTS = {"latent_dim": 3, "channels": (4, 8), "random_state": 0}
SPLIT = {
    "training": [{"image": f"/data/{name}.nii.gz", "subject": name[0]} for name in ("a1", "a2", "b1")],
    "validation": [{"image": "/data/c1.nii.gz", "subject": "c"}],
    "test": [{"image": "/data/d1.nii.gz", "subject": "d"}],
}


def network_of(**changes):
    return build_network(SHAPE, **{**ARGUMENTS, **changes})


def changed(folder, *path, to):
    """Change one value of a model's description."""
    content = json.loads((folder / "model.json").read_text())
    place = content
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = to
    (folder / "model.json").write_text(json.dumps(content))


def steps(transforms):
    return [type(step).__name__ for step in transforms.transforms]


# ---- what is written is read -----------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path):
    network = network_of()
    known = describe_training(SPLIT, "abc")
    write_model(tmp_path, network, SHAPE, 2.0, likelihood={"distribution": "laplace", "beta": 4.0}, trained_on=known)
    stored = read_description(tmp_path)
    assert list(stored) == ["format", "network", "preprocessing", "likelihood", "grid", "trained_on"]
    assert stored["format"] == "monai_betavae.model/2"
    assert stored["network"] == {"builder": "build_network", "arguments": network.description["arguments"]}
    assert stored["preprocessing"] == brain_transforms(SHAPE, 2.0).description
    assert stored["trained_on"] == known
    arguments = network_arguments(stored)
    assert (arguments["latent_dim"], arguments["channels"], arguments["spatial_shape"]) == (3, [4, 8], [8, 10, 12])
    assert grid_affine(tmp_path).tolist() == centred_affine(SHAPE, 2.0).tolist()
    assert trained_likelihood(tmp_path) == {"distribution": "laplace", "beta": 4.0}
    assert trained_preprocessing(tmp_path).description == brain_transforms(SHAPE, 2.0).description


def test_the_network_comes_back_with_its_weights(tmp_path):
    images = torch.rand(2, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    network = network_of(kernel_size=5, output="sigmoid", dropout=0.1, warm_start="mean").eval()
    with torch.no_grad():
        for weights in network.decoder.parameters():  # zero in a fresh network
            weights.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    write_model(tmp_path, network, SHAPE)
    fresh = trained_network(tmp_path)
    arguments = fresh.description["arguments"]
    assert (arguments["kernel_size"], arguments["output"], arguments["dropout"]) == (5, "sigmoid", 0.1)
    again = load_weights(fresh, tmp_path / "model.pt")
    with torch.no_grad():
        expected = network(images)
        assert expected.std() > 0.01
        torch.testing.assert_close(again(images), expected, rtol=0, atol=0)


def test_the_size_of_the_template_is_the_one_it_has_now(tmp_path):
    network = network_of()
    images = torch.zeros(6, 1, *SHAPE)
    images[:, :, 2:6, 2:6, 2:6] = torch.rand(6, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    warm_start(network, DataLoader(images, batch_size=3))
    n_voxels = len(network.decoder.template.voxels)
    assert network.description["arguments"]["n_voxels"] == 0 < n_voxels
    assert describe_network(network)["arguments"]["n_voxels"] == n_voxels
    assert network.description["arguments"]["n_voxels"] == 0  # its own is left alone
    write_model(tmp_path, network, SHAPE)
    assert len(trained_network(tmp_path).decoder.template.voxels) == n_voxels


def test_transforms_come_back_and_do_the_same(tmp_path):
    write_model(tmp_path, network_of(), SHAPE, 2.0)
    values = torch.rand(9, 11, 12, generator=torch.Generator().manual_seed(0)) * 900
    volume = MetaTensor(values, affine=torch.diag(torch.tensor([-2.0, 2.0, 2.5, 1.0])))
    found, expected = (make({"image": volume})["image"] for make in (trained_preprocessing(tmp_path),
                                                                      brain_transforms(SHAPE, 2.0)))  # fmt: skip
    assert found.shape == (1, *SHAPE)
    assert found.std() > 0.1
    assert torch.equal(found, expected)


def test_what_has_never_been_trained_is_that_of_the_training_config(tmp_path):
    config = json.loads((bundle_root() / "train.json").read_text())
    for root in (bundle_root(), None):
        arguments = trained_network(tmp_path, root).description["arguments"]
        names = ("spatial_shape", "architecture", "channels", "norm", "act", "n_blocks", "latent_dim", "warm_start")
        assert {name: arguments[name] for name in names} == {name: config[name] for name in names}
        transforms = trained_preprocessing(tmp_path, root)
        assert steps(transforms) == steps(brain_transforms(config["spatial_shape"], config["spacing"]))
        assert list(transforms.transforms[2].spacing) == [3.0, 3.0, 3.0]
    assert arguments["latent_dim"] == 32
    assert trained_likelihood(tmp_path) == {"distribution": "normal", "beta": 1.0}


def test_nothing_is_read_where_there_is_nothing(tmp_path):
    assert read_description(tmp_path) is None
    assert network_arguments(None) == {}
    assert grid_affine(tmp_path).tolist() == np.eye(4).tolist()


def test_weights_without_a_description_are_refused_by_what_is_missing(tmp_path):
    torch.save(network_of().state_dict(), tmp_path / "model.pt")
    for name, read in {"network_def": trained_network, "preprocessing": trained_preprocessing,
                       "likelihood": trained_likelihood}.items():  # fmt: skip
        with pytest.raises(ValueError, match=rf"`{name}` must be given: there is .*model\.pt but no model\.json"):
            read(tmp_path)


# ---- what can't be described -----------------------------------------------------------------------------------------


class OwnLoss:
    """A loss that doesn't say what it stands for."""


def test_parts_of_ones_own_are_named_with_how_to_give_them_again(tmp_path):
    preprocessing = {"own": "mine.Mine", "where": "train#preprocessing#transforms#1"}
    write_model(
        tmp_path,
        torch.nn.Linear(2, 2),
        SHAPE,
        preprocessing=preprocessing,
        likelihood=describe_likelihood(OwnLoss()),
    )
    stored = read_description(tmp_path)
    assert network_arguments(stored) == {}
    assert stored["network"] == {"own": "torch.nn.modules.linear.Linear"}
    source = re.escape(str(tmp_path / "model.json"))
    with pytest.raises(ValueError, match=rf"`network_def` must be given: {source} says .*\.Linear, .*--network_def"):
        trained_network(tmp_path)
    with pytest.raises(
        ValueError,
        match=rf"`preprocessing` must be given: {source} says .* trained with mine\.Mine as "
        r"train#preprocessing#transforms#1, .* with --preprocessing or in a config",
    ):
        trained_preprocessing(tmp_path)
    with pytest.raises(ValueError, match=rf"`likelihood` must be given: {source} says .*OwnLoss, .* give --likelihood"):
        trained_likelihood(tmp_path)
    assert grid_affine(tmp_path).tolist() == centred_affine(SHAPE, None).tolist()  # the rest is there


def test_a_network_whose_arguments_are_no_values_is_ones_own():
    network = network_of(norm=("group", {"num_groups": np.int64(2)}))
    assert list(describe_network(network)) == ["own"]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (BetaVAELoss(beta=1.0), {"distribution": "normal", "beta": 1.0}),
        (BetaVAELoss(beta=2, default_dist="bernoulli"), {"distribution": "bernoulli", "beta": 2.0}),
        (SimpleNamespace(default_dist="laplace", beta=0.5), {"distribution": "laplace", "beta": 0.5}),
        (SimpleNamespace(default_dist="poisson", beta=1.0), {"own": "types.SimpleNamespace"}),
        (SimpleNamespace(default_dist="normal", beta="warm"), {"own": "types.SimpleNamespace"}),
        (SimpleNamespace(default_dist="normal"), {"own": "types.SimpleNamespace"}),
        (print, {"own": "builtins.print"}),
    ],
)
def test_the_likelihood_of_a_loss(loss, expected):
    assert describe_likelihood(loss) == expected


@pytest.mark.parametrize(
    "value",
    [3, abs, lambda: None, torch.nn.Linear(1, 1), type("$(evil)@%", (), {})()],
    ids=lambda value: str(type(value)),
)
def test_the_name_of_what_is_ones_own_is_no_program(tmp_path, value):
    entry = described_by_name(value)
    assert set(entry) == {"own"}
    assert not set(entry["own"]) & set("$@%#() ")
    write_model(tmp_path, network_of(), SHAPE, preprocessing={**entry, "where": "train#preprocessing"})
    assert read_description(tmp_path)["preprocessing"]["own"] == entry["own"]


@pytest.mark.parametrize(
    "likelihood",
    [
        None,
        "normal",
        {},
        {"distribution": "normal"},
        {"distribution": "poisson", "beta": 1.0},
        {"distribution": "normal", "beta": -1},
        {"distribution": "normal", "beta": float("nan")},
        {"distribution": "normal", "beta": float("inf")},
        {"distribution": "normal", "beta": True},
        {"distribution": "normal", "beta": "1"},
        {"distribution": ["normal"], "beta": 1.0},
    ],
    ids=str,
)
def test_other_likelihoods_are_refused(likelihood):
    with pytest.raises(ValueError, match=r"`likelihood` must be {'distribution': one of 'normal', 'laplace', '"):
        check_likelihood(likelihood)


def test_a_likelihood_is_given_back_with_a_number():
    assert check_likelihood({"distribution": "laplace", "beta": 0}) == {"distribution": "laplace", "beta": 0.0}


# ---- files of another form -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("format",), "monai_betavae.model/3", "format 'monai_betavae.model/3' of another version"),
        (("network",), None, "'network' is no object"),
        (("network",), {"builder": "build_network"}, "'network' has no arguments"),
        (("preprocessing",), {"spacing": 2.0}, "'preprocessing' has no transforms"),
        (("likelihood",), {"distribution": "poisson", "beta": 1.0}, "'likelihood' must be"),
        (("grid",), [], "'grid' is no object"),
        (("grid", "affine"), [[1.0]], "affine is no 4x4 matrix"),
        (("grid", "affine"), "x", "could not convert"),
        (("trained_on",), [], "'trained_on' is no object"),
    ],
)
def test_another_form_is_refused_by_name(tmp_path, path, value, reason):
    write_model(tmp_path, network_of(), SHAPE, 2.0)
    changed(tmp_path, *path, to=value)
    with pytest.raises(ValueError, match=rf"model\.json must be the model\.json that training wrote: .*{reason}"):
        read_description(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("network", "builder"), "os.system", "must name one of"),
        (("network", "arguments", "latent_dim"), "3", "refuses its description"),
        (("network", "arguments", "latent_dim"), 4096, "doesn't fit the weights"),
        (("network", "arguments", "no_such"), 3, "refuses its description"),
    ],
)
def test_a_description_that_makes_no_network_is_refused_by_name(tmp_path, path, value, reason):
    write_model(tmp_path, network_of(), SHAPE, 2.0)
    changed(tmp_path, *path, to=value)
    with pytest.raises(ValueError, match=rf"model\.json: .*{reason}"):
        trained_network(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "os.system", "arguments": {"command": "ls"}},
        {"name": "Lambdad", "arguments": {"keys": "image", "func": "print"}},
        {"name": "Orientationd", "arguments": {"keys": "image", "axcodes": 3}},
        {"name": "Orientationd"},
        "Orientationd",
    ],
    ids=str,
)
def test_transforms_that_no_description_may_name_are_refused_by_name(tmp_path, entry):
    write_model(tmp_path, network_of(), SHAPE, 2.0, preprocessing={"transforms": [entry]})
    with pytest.raises(ValueError, match=r"model\.json: transform 0"):
        trained_preprocessing(tmp_path)


@pytest.mark.parametrize("value", ["$1", "@seed", "%seed", {"_target_": "os.mkdir"}, ["a", {"b": ["$1"]}]], ids=str)
def test_values_that_a_config_would_run_are_refused_by_name(tmp_path, value):
    write_model(tmp_path, network_of(), SHAPE, 2.0, trained_on=describe_training(SPLIT, "abc"))
    changed(tmp_path, "trained_on", "digest", to=value)
    with pytest.raises(ValueError, match=r"model\.json must hold values only, got .* MONAI's configs would run"):
        read_description(tmp_path)


# ---- files of release 0.1.0 ------------------------------------------------------------------------------------------


def first_release(network=None, spacing: float | None = 2.0, **changes):
    return json.dumps(
        {
            "network": network_of().description if network is None else network,
            "preprocessing": {"spatial_shape": list(SHAPE), "spacing": spacing},
            "grid_affine": np.diag([2.0, 2.0, 2.0, 1.0]).tolist(),
            **changes,
        }
    )


def test_a_file_of_the_first_release_is_read(tmp_path, capsys):
    (tmp_path / "model.json").write_text(first_release())
    stored = read_description(tmp_path)
    assert (stored["format"], stored["likelihood"], stored["trained_on"]) == (None, None, None)
    assert network_arguments(stored)["latent_dim"] == 3
    assert trained_network(tmp_path).description == network_of().description
    assert trained_preprocessing(tmp_path).description == first_release_description(SHAPE, 2.0)
    assert grid_affine(tmp_path).tolist() == np.diag([2.0, 2.0, 2.0, 1.0]).tolist()
    capsys.readouterr()
    assert trained_likelihood(tmp_path) == {"distribution": "normal", "beta": 1.0}
    printed = capsys.readouterr().out
    assert printed.startswith(f"Likelihood: {tmp_path / 'model.json'} is of release 0.1.0 and doesn't say it")
    assert "--likelihood" in printed


def test_what_a_file_of_the_first_release_does_not_say_follows_from_the_rest(tmp_path):
    content = json.loads(first_release())
    del content["grid_affine"], content["preprocessing"]["spatial_shape"]
    (tmp_path / "model.json").write_text(json.dumps(content))
    assert read_description(tmp_path)["grid"]["spatial_shape"] == list(SHAPE)  # the network's
    assert grid_affine(tmp_path).tolist() == centred_affine(SHAPE, 2.0).tolist()
    own_network = json.loads(first_release())
    own_network["network"] = None
    (tmp_path / "model.json").write_text(json.dumps(own_network))
    with pytest.raises(ValueError, match=r"`network_def` must be given: .*release 0\.1\.0 didn't describe"):
        trained_network(tmp_path)
    assert len(trained_preprocessing(tmp_path).transforms) == 6
    (tmp_path / "model.json").write_text(json.dumps({**own_network, "preprocessing": {"spacing": 2.0}}))
    with pytest.raises(ValueError, match=r"model\.json must be .*: it doesn't say the spatial shape"):
        read_description(tmp_path)


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"network": null}', '{"preprocessing": {}}', "{}"])
def test_other_texts_are_refused_by_name(tmp_path, text):
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(ValueError, match=r"model\.json must be the model\.json that training wrote"):
        read_description(tmp_path)


# ---- which training it was -------------------------------------------------------------------------------------------


def elsewhere(split, reverse=True):
    moved = {}
    for part, members in reversed(list(split.items())):
        rows = [{**record, "image": record["image"].replace("/data", "/mnt/copy/deep")} for record in members]
        moved[part] = rows[::-1] if reverse else rows
    return moved


def test_the_digest_of_a_split_does_not_depend_on_folders_or_order():
    digest = split_digest(SPLIT)
    assert re.fullmatch("[0-9a-f]{32}", digest)
    assert split_digest(elsewhere(SPLIT)) == digest
    with_ages = {part: [{**record, "age": 3} for record in members] for part, members in SPLIT.items()}
    assert split_digest(with_ages) == digest


@pytest.mark.parametrize(
    "change",
    [
        lambda split: split["test"].append({"image": "/data/e1.nii.gz", "subject": "e"}),
        lambda split: split["test"].append(split["validation"].pop()),
        lambda split: split["training"].pop(),
        lambda split: split["training"][0].update(subject="z"),
        lambda split: split["training"][0].update(image="/data/a3.nii.gz"),
    ],
)
def test_the_digest_of_another_split_is_another(change):
    other = copy.deepcopy(SPLIT)
    change(other)
    assert split_digest(other) != split_digest(SPLIT)


def test_what_a_model_was_trained_on():
    expected = {"volumes": 3, "subjects": 2, "simulated": False, "digest": "abc", "split": split_digest(SPLIT)}
    assert describe_training(SPLIT, "abc") == {**expected, "told": {}}
    told = {"suffix": "FLAIR", "entities": "space=none", "missing_values": None, "beta": 4.0}
    assert describe_training(SPLIT, "abc", told)["told"] == {"suffix": "FLAIR", "entities": "space=none"}


def test_what_training_was_told_is_done_later(tmp_path, capsys):
    told = {"suffix": "FLAIR", "image_column": "image", "entities": "acq=fast"}
    write_model(tmp_path, network_of(), SHAPE, trained_on=describe_training(SPLIT, "abc", told))
    assert data_options_of(tmp_path) == {"suffix": "FLAIR", "image_column": "image", "entities": "acq=fast"}
    assert data_options_of(None) == data_options_of(tmp_path / "nowhere") == {}
    bids = tmp_path / "bids"
    for name in ("sub-1_acq-fast_FLAIR", "sub-1_acq-slow_FLAIR", "sub-1_T1w"):
        (bids / "sub-1" / "anat").mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(np.random.default_rng(0).random((4, 4, 4)), np.eye(4))
        nib.save(image, bids / "sub-1" / "anat" / f"{name}.nii.gz")
    (record,) = InferenceRecords(str(bids), tmp_path, ckpt_dir=tmp_path)
    assert record["image"].endswith("sub-1_acq-fast_FLAIR.nii.gz")
    assert "As in training: suffix FLAIR, entities acq=fast" in capsys.readouterr().out
    (record,) = InferenceRecords(str(bids), tmp_path, suffix="T1w", entities="acq=none", ckpt_dir=tmp_path)
    assert record["image"].endswith("sub-1_T1w.nii.gz")
    assert "Other than in training: suffix T1w, not FLAIR; entities acq=none, not acq=fast" in capsys.readouterr().out


def test_the_training_folder_is_the_one_with_the_models_split(tmp_path):
    models, output, root = tmp_path / "models", tmp_path / "output", tmp_path / "root"
    write_model(models, network_of(), SHAPE, trained_on=describe_training(SPLIT, "abc"))
    others = {**SPLIT, "test": [{"image": "/data/z1.nii.gz", "subject": "z"}]}
    assert training_folder(models, output, root) == root / "output"  # none is there
    write_split(elsewhere(SPLIT), root / "output" / "split.json")
    write_split(others, output / "split.json")
    assert training_folder(models, output, root) == root / "output"  # passes over another run's
    assert of_another_run(models, output)
    assert not of_another_run(models, root / "output")
    assert not of_another_run(models, tmp_path / "nowhere")
    write_split(SPLIT, output / "split.json")
    assert training_folder(models, output, root) == output
    write_split(SPLIT, models / "split.json")
    assert training_folder(models, output, root) == models


def test_of_a_model_that_does_not_know_its_split_any_is_taken(tmp_path):
    write_split(SPLIT, tmp_path / "output" / "split.json")
    (tmp_path / "models").mkdir()
    for text in (None, first_release()):
        if text is not None:
            (tmp_path / "models" / "model.json").write_text(text)
        assert not of_another_run(tmp_path / "models", tmp_path / "output")
        assert training_folder(tmp_path / "models", tmp_path / "output", tmp_path) == tmp_path / "output"


def test_the_line_that_names_the_weights_says_what_they_were_trained_on(tmp_path, capsys):
    network = network_of()
    path = tmp_path / "model.pt"
    simulated = {**describe_training(SPLIT, "abc"), "simulated": True}
    for known, said in (
        (None, ""),
        (describe_training(SPLIT, "abc"), " (trained on 3 volumes of 2 subjects)"),
        (simulated, " (trained on 3 simulated volumes of 2 subjects)"),
    ):
        write_model(tmp_path, network, SHAPE, trained_on=known)
        load_weights(network_of(), path)
        assert capsys.readouterr().out == f"Weights: {path}{said}\n"
    (tmp_path / "model.json").unlink()
    load_weights(network_of(), path)
    assert capsys.readouterr().out == f"Weights: {path}\n"


# ---- grids, outputs, weights -----------------------------------------------------------------------------------------


def test_the_centre_of_a_centred_grid_is_the_origin():
    affine = centred_affine((5, 8, 11), (1.0, 2.0, 3.0))
    centre = affine @ np.array([2.0, 3.5, 5.0, 1.0])
    np.testing.assert_allclose(centre, [0, 0, 0, 1])
    assert np.linalg.norm(affine[:3, :3], axis=0).tolist() == [1.0, 2.0, 3.0]
    assert centred_affine((3, 3, 3), None)[0].tolist() == [1.0, 0.0, 0.0, -1.0]


def test_a_common_affine_tolerates_rounding_only():
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    near, far = affine.copy(), affine.copy()
    near[0, 3], far[0, 3] = 0.001, 0.5
    assert common_affine([affine, near], (4, 4, 4), 2.0).tolist() == affine.tolist()
    assert common_affine([affine, far], (4, 4, 4), 2.0).tolist() == centred_affine((4, 4, 4), 2.0).tolist()
    assert common_affine([], (4, 4, 4), 2.0).tolist() == centred_affine((4, 4, 4), 2.0).tolist()


def test_check_outputs(tmp_path):
    with pytest.raises(ValueError, match=r"model\.pt must be the model\.pt of a training run, and doesn't exist"):
        check_outputs(tmp_path / "scores.json", tmp_path / "model.pt")
    (tmp_path / "model.pt").touch()
    check_outputs(tmp_path / "scores.json", tmp_path / "model.pt")
    (tmp_path / "scores.json").touch()
    with pytest.raises(ValueError, match=r"scores\.json exists\. Give --overwrite True"):
        check_outputs(tmp_path / "scores.json", tmp_path / "model.pt")
    check_outputs(tmp_path / "scores.json", tmp_path / "model.pt", overwrite=True)


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path):
    small, large = (build_network((8, 8, 8), latent_dim=n, channels=(4, 8)) for n in (2, 3))
    torch.save(small.state_dict(), tmp_path / "model.pt")
    assert not load_weights(build_network((8, 8, 8), 2, channels=(4, 8)), tmp_path / "model.pt").training
    with pytest.raises(ValueError, match=r"model\.pt doesn't fit `network_def`"):
        load_weights(large, tmp_path / "model.pt")


@pytest.mark.parametrize("affine", [{"a": 1}, [[1.0]], "x", [[10**400] * 4] * 4])
def test_an_affine_of_another_form_is_refused_by_name(tmp_path, affine):
    (tmp_path / "model.json").write_text(first_release(grid_affine=affine))
    with pytest.raises(ValueError, match=r"model\.json must be the model\.json that training wrote"):
        read_description(tmp_path)


def test_brackets_without_end_are_refused_by_name(tmp_path):
    (tmp_path / "model.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"model\.json must be"):
        read_description(tmp_path)
