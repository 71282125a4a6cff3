"""The description of a trained model."""

import copy
import re
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from described_models import SHAPE, SPLIT, changed, network_of, write_model

from monai_betavae import BetaVAELoss
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
from monai_betavae.workflows.volume_inference import InferenceRecords


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


@pytest.mark.parametrize("value", ["$1", "@seed", "%seed", {"_target_": "os.mkdir"}, ["a", {"b": ["$1"]}]], ids=str)
def test_values_that_a_config_would_run_are_refused_by_name(tmp_path, value):
    write_model(tmp_path, network_of(), SHAPE, 2.0, trained_on=describe_training(SPLIT, "abc"))
    changed(tmp_path, "trained_on", "digest", to=value)
    with pytest.raises(ValueError, match=r"model\.json must hold values only, got .* MONAI's configs would run"):
        read_description(tmp_path)


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"network": null}', '{"preprocessing": {}}', "{}"])
def test_other_texts_are_refused_by_name(tmp_path, text):
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(ValueError, match=r"model\.json must be the model\.json that training wrote"):
        read_description(tmp_path)


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


def test_brackets_without_end_are_refused_by_name(tmp_path):
    (tmp_path / "model.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"model\.json must be"):
        read_description(tmp_path)
