"""A trained model in later runs."""

import json
import re

import numpy as np
import pytest
import torch
from described_models import SHAPE, SPLIT, changed, network_of, write_model
from monai.data import DataLoader, MetaTensor

from monai_betavae import bundle_root
from monai_betavae.data import brain_transforms
from monai_betavae.data.transforms.brain import first_release_description
from monai_betavae.networks.builders import build_network
from monai_betavae.networks.warm_start import warm_start
from monai_betavae.workflows.model_description import (
    describe_likelihood,
    describe_network,
    describe_training,
    read_description,
)
from monai_betavae.workflows.model_grid import centred_affine
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


def steps(transforms):
    return [type(step).__name__ for step in transforms.transforms]


def test_what_is_written_is_read(tmp_path):
    network = network_of()
    known = describe_training(SPLIT, "abc")
    write_model(tmp_path, network, SHAPE, 2.0, likelihood={"distribution": "laplace", "beta": 4.0}, trained_on=known)
    stored = read_description(tmp_path)
    assert list(stored) == [
        "format",
        "network",
        "preprocessing",
        "likelihood",
        "objective",
        "grid",
        "trained_on",
        "covariates",
    ]
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


def elsewhere(split, reverse=True):
    moved = {}
    for part, members in reversed(list(split.items())):
        rows = [{**record, "image": record["image"].replace("/data", "/mnt/copy/deep")} for record in members]
        moved[part] = rows[::-1] if reverse else rows
    return moved


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
