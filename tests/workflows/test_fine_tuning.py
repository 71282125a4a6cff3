"""A run that starts from a trained model: what it takes over, what it changes, and what it refuses."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from bundle_runs import TINY, run_bundle, tiny_cohort, train
from described_models import network_of, write_model

from monai_betavae.data import CovariateCoding, discover
from monai_betavae.networks.conditional_mean import n_covariates_of
from monai_betavae.training.checkpoints import LastCheckpoint
from monai_betavae.workflows import check_held_out, covariate_coding, initial_model, training_network
from monai_betavae.workflows.fine_tuning import CONDITION_WEIGHT, check_train_only, widened
from monai_betavae.workflows.model_training import ModelTraining
from monai_betavae.workflows.records import read_earlier, write_split
from monai_betavae.workflows.trained_model import load_weights, trained_network

pytestmark = pytest.mark.filterwarnings("ignore")

STILL = {"learning_rate": 1e-30, "weight_decay": 0.0}
"""Settings of a training that changes no weight."""


def with_sites(cohort, table, sites, names=slice(None)):
    """Write a table of some of a cohort's volumes, at sites in turn."""
    records = discover(cohort)[names]
    rows = [
        {"image": record["image"], "subject": record["subject"], "sex": "FM"[number % 2], "site": site}
        for number, (record, site) in enumerate(zip(records, np.resize(sites, len(records)), strict=True))
    ]
    pd.DataFrame(rows).to_csv(table, index=False)
    return table


def weights_of(folder):
    return torch.load(folder / "model.pt", weights_only=True)


def checkpoint_of(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def described(folder):
    return json.loads((folder / "model.json").read_text())


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    from monai_betavae.workflows import model_training, training_results

    for module, names in {
        model_training: ("save_figure", "plot_losses", "plot_activity"),
        training_results: ("save_figure", "plot_reconstructions", "plot_traversals"),
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, lambda *args, **kwargs: None)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A cohort as two tables: sites A and B, and a new one."""
    folder = tmp_path_factory.mktemp("place")
    cohort = tiny_cohort(folder / "cohort")
    with_sites(cohort, folder / "old.csv", ["A", "B", "A"])
    with_sites(cohort, folder / "new.csv", ["C", "C", "A"])
    return folder


@pytest.fixture(scope="module")
def old(place):
    """A conditional model of sites A and B, beside its split."""
    folder = place / "old"
    train(folder, place / "old.csv", covariates=["sex", "site"])
    return folder


@pytest.fixture(scope="module")
def plain(place):
    """A model without covariates, on other settings than the bundle's."""
    folder = place / "plain"
    train(folder, place / "old.csv")
    return folder


def latents_at(folder, place, sites=("A", "B")):
    """Return codes of all volumes as if they were of known sites."""
    network = load_weights(trained_network(folder), folder / "model.pt")
    coding = CovariateCoding.from_description(described(folder)["covariates"])
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(12, 1, *TINY["spatial_shape"], generator=generator)
    rows = torch.from_numpy(coding.rows([{"sex": "FM"[n % 2], "site": sites[n % len(sites)]} for n in range(12)]))
    with torch.no_grad():
        return network.encode(images, rows).mean


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_a_plain_model_is_continued_with_its_own_settings(plain, place, tmp_path, capsys):
    # the transforms are repeated, the network is the model's
    given = {name: value for name, value in TINY.items() if name not in ("channels", "latent_dim")} | STILL
    before = weights_of(plain)
    again = tmp_path / "again"
    folders = {"output_dir": str(again), "ckpt_dir": str(again)}
    run_bundle("train", **{**given, **folders, "dataset_dir": str(place / "new.csv"), "init_from": str(plain)})
    said = capsys.readouterr().out
    assert f"Weights: {plain / 'model.pt'} (trained on 8 simulated volumes of 8 subjects)" in said
    assert "Warm start" not in said
    after = weights_of(again)
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(value, after[name], rtol=0, atol=1e-20)
    stored, first = described(again)["trained_on"], described(plain)["trained_on"]
    assert stored["before"] == [first]
    assert stored["init_weights"] == initial_model(plain).digest
    assert json.loads((again / "run.json").read_text())["provenance"]["weights"] == stored["init_weights"]
    split = json.loads((plain / "split.json").read_text())
    trained = {record["subject"] for part in ("training", "validation") for record in split[part]}
    assert {record["subject"] for record in read_earlier(again)[0]} == trained
    # a third training tells of both
    third = tmp_path / "third"
    train(third, place / "new.csv", init_from=str(again / "model.pt"), max_epochs=1)
    assert described(third)["trained_on"]["before"] == [first, {k: v for k, v in stored.items() if k != "before"}]
    assert len(read_earlier(third)) == 2
    load_weights(trained_network(third), third / "model.pt")
    said = "(trained on 8 simulated volumes of 8 subjects, before that on 8 simulated volumes of 8 subjects, before"
    assert said in capsys.readouterr().out
    # the error before a step is the old model's, on the same subjects
    errors = [json.loads((folder / "scores.json").read_text())["sse"] for folder in (plain, again)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-6)


def test_a_new_site_is_fitted_alone(old, place, tmp_path, capsys):
    folder = tmp_path / "site"
    train(folder, place / "new.csv", init_from=str(old), train_only="condition")
    said = capsys.readouterr().out
    assert "Covariates: sex, site, coded as in" in said
    assert "new levels: site=C (" in said
    before, after = weights_of(old), weights_of(folder)
    for name, value in before.items():
        if name == CONDITION_WEIGHT:
            n_old = value.shape[1]
            assert after[name].shape[1] == n_old + 1
            assert torch.equal(after[name][:, :n_old], value)
            assert after[name][:, n_old:].abs().max() > 0.01
        else:
            assert name == "decoder.noise.scale" or torch.equal(value, after[name]), name
    assert torch.equal(latents_at(old, place), latents_at(folder, place))
    assert described(folder)["network"]["arguments"]["n_covariates"] == n_old + 1
    assert not (folder / "metrics.csv").exists()
    # to repeat it is to do it again
    train(folder, place / "new.csv", init_from=str(old), train_only="condition", resume=True)
    assert torch.equal(weights_of(folder)[CONDITION_WEIGHT], after[CONDITION_WEIGHT])
    # and a second new site comes after the first
    records = discover(place / "cohort")
    with_sites(place / "cohort", tmp_path / "more.csv", ["D", "C"], slice(0, len(records)))
    more = tmp_path / "more"
    train(more, tmp_path / "more.csv", init_from=str(folder), train_only="condition")
    assert described(more)["covariates"]["added"] == [["site", "C"], ["site", "D"]]
    assert torch.equal(latents_at(folder, place, ("A", "C")), latents_at(more, place, ("A", "C")))


def test_old_columns_stay_where_the_rest_is_trained(old, place, tmp_path, monkeypatch):
    folder = tmp_path / "whole"
    given = {"init_from": str(old), "covariates": ["site", "sex"], "max_epochs": 3}
    train(folder, place / "new.csv", **given)
    before, after = weights_of(old), checkpoint_of(folder)
    n_old = before[CONDITION_WEIGHT].shape[1]
    for found in (after, weights_of(folder)):
        assert torch.equal(found[CONDITION_WEIGHT][:, :n_old], before[CONDITION_WEIGHT])
        assert found[CONDITION_WEIGHT][:, n_old:].abs().max() > 0.01
    assert not torch.equal(after["decoder.template.components"], before["decoder.template.components"])
    assert not torch.equal(after["fc_mu.weight"], before["fc_mu.weight"])

    # killed after an epoch and resumed, it ends with the same weights
    stopped, real = tmp_path / "stopped", LastCheckpoint.on_train_epoch_end

    def then_stop(self, trainer, module):
        real(self, trainer, module)
        raise KeyError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_epoch_end", then_stop)
        with pytest.raises(KeyError, match="stopped"):
            train(stopped, place / "new.csv", **given)
    changed = {**given, "init_from": str(shutil.copytree(old, tmp_path / "copied"))}
    with pytest.raises(ValueError, match="init_from was "):
        train(stopped, place / "new.csv", **changed, resume=True)
    train(stopped, place / "new.csv", **given, resume=True)
    assert described(stopped) == described(folder)
    for found, expected in ((checkpoint_of(stopped), after), (weights_of(stopped), weights_of(folder))):
        for name, value in expected.items():
            assert torch.equal(value, found[name]), name


def test_a_model_that_changed_meanwhile_isnt_resumed_from(plain, place, tmp_path):
    copied, folder = shutil.copytree(plain, tmp_path / "copied"), tmp_path / "run"
    train(folder, place / "new.csv", init_from=str(copied), max_epochs=1)
    weights = weights_of(copied)
    torch.save({**weights, "fc_mu.bias": weights["fc_mu.bias"] + 1}, copied / "model.pt")
    with pytest.raises(ValueError, match="has changed since the run that is resumed started from it"):
        train(folder, place / "new.csv", init_from=str(copied), max_epochs=2, resume=True)


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"latent_dim": 3}, r"latent_dim is 2 there, here 3\. The network is that of the model"),
        ({"noise": "voxel"}, "noise is global there, here voxel"),
        ({"spacing": 20.0}, r"#spacing is \[24.0, 24.0, 24.0\] there, here \[20.0, 20.0, 20.0\].*--spacing"),
        ({"padding": "edge"}, "#padding is background there, here edge"),
        (
            {"covariates": ["sex"]},
            "`covariates` must be those of the model that the run starts from, .* which has none",
        ),
        ({"train_only": "condition"}, "`train_only` 'condition' needs a model with covariates"),
        ({"train_only": "decoder"}, "`train_only` must be one of 'condition', got 'decoder'"),
    ],
)
def test_contradictions_are_refused_by_name(plain, place, tmp_path, given, said):
    with pytest.raises(ValueError, match=said):
        train(tmp_path / "run", place / "new.csv", init_from=str(plain), **given)
    assert not (tmp_path / "run" / "split.json").exists()


def test_other_refusals_of_conditional_models(old, place, tmp_path):
    def refused(said, data="new.csv", folder=tmp_path / "run", **given):
        with pytest.raises(ValueError, match=said):
            train(folder, place / data, **{"init_from": str(old), **given})

    refused(r"which has \['sex', 'site'\], got \['site'\]", covariates=["site"])
    refused(r"needs a new level of a category .*\(sex: F, M; site: A, B\)", "old.csv", train_only="condition")
    refused("beta is 0.01 there, here 4.0", train_only="condition", beta=4.0)
    refused("needs a trained model: name it with --init_from", train_only="condition", init_from=None)
    refused("`init_from` must not lie in `ckpt_dir`", folder=old, overwrite=True)
    with pytest.raises(ValueError, match=r"has no epochs, and .*last\.ckpt is from others"):
        check_train_only("condition", network_of(n_covariates=9), initial_model(old), old, tmp_path)


def test_files_that_are_no_model_are_refused_and_nothing_in_them_runs(old, tmp_path):
    with pytest.raises(ValueError, match=r"`init_from` must be the model\.pt .* got .*, where there is none"):
        initial_model(tmp_path)
    shutil.copy(old / "model.pt", tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"must have the model\.json of its training run beside it"):
        initial_model(tmp_path)
    with pytest.raises(ValueError, match="--resume True goes on from a checkpoint"):
        initial_model(old / "last.ckpt")
    shutil.copy(old / "model.json", tmp_path / "model.json")

    class Harm:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'harm')!r}, 'w')",))

    torch.save({"a": Harm()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="was refused: it holds more than tensors"):
        training_network(initial_model(tmp_path), spatial_shape=[8, 10, 8], latent_dim=2)
    assert not (tmp_path / "harm").exists()


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_the_network_is_the_models(tmp_path):
    write_model(tmp_path, network_of(), (8, 10, 12))
    # left as the bundle has them
    made = training_network(initial_model(tmp_path), spatial_shape=[64, 80, 64], latent_dim=32, noise="auto")
    assert made.fc_mu.out_features == 3
    assert n_covariates_of(made) == 0


def test_weights_without_a_conditional_mean_stay_as_they_are():
    weights = {"a": torch.ones(1)}
    assert widened(weights, 3) is weights
    assert widened([1], 3) == [1]


def test_the_coding_of_a_resumed_run_is_its_own(old):
    records = [{"sex": "F", "site": "C"}, {"sex": "M", "site": "A"}]
    initial = initial_model(old)
    coding = covariate_coding(records, None, None, initial)
    assert coding.columns == (*initial.coding.columns, "site=C")
    assert covariate_coding(records, ["site", "sex"], old, initial).columns == initial.coding.columns


def test_whom_an_earlier_training_saw_is_refused_or_said(plain, place, tmp_path, capsys):
    split = json.loads((plain / "split.json").read_text())
    run = ModelTraining(None, None, None, None, tmp_path, tmp_path, initial=initial_model(plain))
    write_split({"training": [], "validation": [], "test": []}, tmp_path / "split.json")
    run._write_earlier()
    check_held_out(split["test"], tmp_path)
    with pytest.raises(ValueError, match="in an earlier training, 1 by"):
        check_held_out(split["training"], tmp_path)
    assert "Not known" not in capsys.readouterr().out
    # weights alone don't tell
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("model.pt", "model.json"):
        shutil.copy(plain / name, alone / name)
    run.initial = initial_model(alone)
    run._write_earlier()
    check_held_out(split["training"], tmp_path)
    assert "Not known: the subjects of 1 earlier training of this model" in capsys.readouterr().out
    run.initial = None
    run._write_earlier()
    assert read_earlier(tmp_path) == []
