"""Wrong settings are named, with what is accepted, and right ones pass."""

import json
import sys

import pytest
import torch
from monai.bundle import ConfigParser

from monai_betavae import bundle_root
from monai_betavae.workflows.settings import (
    check_config,
    check_settings,
    listed_lines,
    one_line,
    shorten_errors,
    unwrap_error,
)


def own(name="train.json"):
    return json.loads((bundle_root() / name).read_text())


def refused(**overrides):
    """Return the message for overrides of the training config, given as on the command line."""
    parser = ConfigParser(own())
    parser.update({name.replace("__", "#"): value for name, value in overrides.items()})
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the callers look at the message
        check_config(parser.get(), own())
    return str(caught.value)


def accepted(**overrides):
    parser = ConfigParser(own())
    parser.update({name.replace("__", "#"): value for name, value in overrides.items()})
    check_config(parser.get(), own())


@pytest.mark.parametrize(
    "name", sorted(path.name for path in bundle_root().glob("*.json") if '"run": "%' in path.read_text())
)
def test_the_bundles_own_configs_pass(name):
    check_config(own(name), own(name))


def test_unknown_ids():
    assert refused(latent_dims=8) == "'latent_dims' isn't an id of this config; did you mean 'latent_dim'?"
    message = refused(zzz=8)
    assert message.startswith("'zzz' isn't an id of this config. Accepted: dataset_dir, ")
    assert "batch_size" in message
    assert "network_def" not in message  # a part, not a setting
    assert refused(simulated_cohort__n_subject=3) == (
        "'simulated_cohort#n_subject' isn't an id of this config; did you mean 'n_subjects'?"
    )


def test_an_id_of_the_training_is_a_setting_of_several_trainings():
    config = own("cross_validate.json")
    with pytest.raises(
        ValueError, match=r"'max_epochs' isn't an id.*goes into --settings \"\{'max_epochs': ...\}\"\.$"
    ):
        check_config({**config, "max_epochs": 3}, config)


def test_ids_of_ones_own_that_something_refers_to():
    accepted(width=8, latent_dim="@width")
    accepted(width=8, latent_dim="$2 * @width")
    accepted(my_steps=["$print(1)"])
    accepted(extra={"a": 3}, beta="%extra#a")
    assert "'widt'" in refused(widt=8, latent_dim="$2 * @width_of_it")


@pytest.mark.parametrize(
    ("name", "value", "accepted_text"),
    [
        ("resume", "yes", "True or False"),
        ("overwrite", 1, "True or False"),
        ("max_epochs", 2.5, "an integer >= 1"),
        ("max_epochs", 0, "an integer >= 1"),
        ("batch_size", 0, "an integer >= 1"),
        ("batch_size", True, "an integer >= 1"),
        ("num_workers", -1, "an integer >= 0"),
        ("spacing", "abc", "a number"),
        ("beta", True, "a number"),
        ("channels", 8, "a list of integers such as [16, 32, 64, 128]"),
        ("channels", [8, 2.5], "a list of integers"),
        ("spatial_shape", [], "a list of integers"),
        ("fractions", "abc", "a list of numbers"),
    ],
)
def test_values_of_another_type(name, value, accepted_text):
    message = refused(**{name: value})
    assert message.startswith(f"'{name}' must be {accepted_text}")
    assert message.endswith(f"got {value!r}.")


def test_values_that_pass():
    accepted(max_epochs=1, batch_size=2, spacing=[1.0, 1.0, 2.0], channels=(4, 8), beta=4, norm=["group", {}])
    accepted(dataset_dir="/data", output_dir="/out", norm=None, device=torch.device("cpu"), spacing=None)
    accepted(train__trainer__devices=2, train__trainer__max_epochs=3)
    accepted(simulated_cohort__n_subjects=3)


def test_texts_in_a_config():
    assert refused(output_dir=20240501) == (
        "'output_dir' must be a text that isn't empty, got 20240501. In a config file write \"20240501\""
    )
    assert refused(dataset_dir="") == "'dataset_dir' must be a text that isn't empty or null, got ''."
    assert refused(output_dir=None) == "'output_dir' must be a text that isn't empty, got None."
    assert refused(logger=["none"]) == "'logger' must be a text that isn't empty or null, got ['none']."
    assert refused(suffix=["T1w", ""]) == (
        "'suffix' must be a text that isn't empty, a list of such or null, got ['T1w', '']."
    )
    assert "a list of such or null, got 3." in refused(stratify=3)
    assert refused(simulated_cohort__output_dir=3).startswith("'simulated_cohort#output_dir' must be a text")
    accepted(suffix=["T1w", "T2w"], image_column=["t1", "t2"])
    accepted(dataset_dir=None, stratify=["age", "sex"], run_name=None, cache_dir=None, output_dir="$@run_root")


def test_precisions():
    message = refused(precision="bf16-true")
    assert message.startswith(
        "'precision' must be one of '32-true', '64-true', 'bf16-mixed', '16-mixed', got 'bf16-true'"
    )
    assert refused(train__trainer__precision="16-true").startswith("'train#trainer#precision' must be one of")
    accepted(precision="bf16-mixed", train__trainer__precision="64-true")
    accepted(precision=16, train__trainer__precision="$'32-true'")


def test_settings_that_may_not_be_null():
    assert refused(max_epochs=None) == "'max_epochs' must be an integer >= 1, got None."
    assert refused(resume=None) == "'resume' must be True or False, got None."
    accepted(seed=None, spacing=None, norm=None)


def test_unknown_arguments_of_a_part():
    assert refused(train__trainer__devcies=2) == (
        "'train#trainer#devcies' isn't an argument of lightning.pytorch.Trainer; did you mean 'devices'?"
    )
    assert "isn't an argument of monai_betavae.workflows.training_network" in refused(network_def__width=3)


def test_arguments_of_parts_that_monai_finds_by_itself():
    assert refused(train__dataloader__pin_memry=True) == (
        "'train#dataloader#pin_memry' isn't an argument of DataLoader; did you mean 'pin_memory'?"
    )
    assert "'train#dataloader#batch_siz' isn't an argument of DataLoader" in refused(train__dataloader__batch_siz=2)
    accepted(train__dataloader__drop_last=True, train__dataloader__pin_memory=True)  # torch's, through MONAI's
    accepted(validate__dataset__cache="none")


def test_a_dictionary_that_replaces_too_much():
    message = refused(simulated_cohort={"n_subjects": 3})
    assert message.startswith("'simulated_cohort' lacks output_dir, spacing, seed: a dictionary replaces the whole")
    message = refused(train__trainer={"gradient_clip_val": 1.0})
    assert message.startswith("'train#trainer' lacks _target_")
    assert "--train#trainer#<name> <value>" in message
    accepted(network_def={"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2})


def test_references_to_nothing():
    assert refused(beta="@betta") == (
        "'beta' refers to @betta, but 'betta' isn't an id of this config; did you mean 'beta'?"
    )
    assert "'train#trainer#max_epochs' refers to @zzz" in refused(train__trainer__max_epochs="@zzz")
    accepted(beta="@learning_rate", width=3, latent_dim="@width")


def test_references_whose_middle_is_wrong():
    expected = "'beta' refers to @train#trainr#max_epochs, but 'trainr' isn't an id of 'train'; did you mean 'trainer'?"
    assert refused(beta="@train#trainr#max_epochs") == expected
    assert refused(beta="@train::trainr::max_epochs") == expected  # the other separator of MONAI
    assert "'trai' isn't an id of this config; did you mean 'train'?" in refused(beta="@trai#trainer")
    assert "but 'zzz' isn't an id of 'train#trainer'. Accepted: " in refused(beta="@train#trainer#zzz")
    assert refused(beta="@batch_size#x") == "'beta' refers to @batch_size#x, but 'batch_size' has no parts."
    accepted(beta="@train#trainer#max_epochs", latent_dim="@train::trainer::devices")


def test_references_to_entries_of_lists():
    n_callbacks = len(own()["train"]["callbacks"])
    for index in (99, n_callbacks, "last"):
        assert refused(beta=f"@train#callbacks#{index}") == (
            f"'beta' refers to @train#callbacks#{index}, but 'train#callbacks' is a list of {n_callbacks}, counted "
            f"from 0, got '{index}'."
        )
    accepted(beta=f"@train#callbacks#{n_callbacks - 1}", latent_dim="@channels#0")
    assert "'patiens' isn't an id of 'train#callbacks#6'; did you mean 'patience'?" in refused(
        beta="@train#callbacks#6#patiens"
    )


def test_references_inside_expressions():
    assert refused(beta="$2 * @train#trainr#max_epochs + @beta") == (
        "'beta' refers to @train#trainr#max_epochs, but 'trainr' isn't an id of 'train'; did you mean 'trainer'?"
    )
    assert "'train#callbacks' is a list of" in refused(train__samples="$@train#callbacks#99")
    accepted(beta="$@learning_rate * 2", latent_dim="$@channels#0 + @channels::1", width=2, n_blocks="$@width")
    accepted(beta="$(lambda a: a @a)(1)")  # a single @ is Python's product of matrices
    accepted(beta="$@split['training'].anything")  # of what an expression gives nothing is known


def test_what_a_reference_leads_to_is_not_looked_through():
    accepted(beta="@loss#beta", latent_dim="@train#dataset#transform#transforms")


def test_ids_inside_a_group_that_a_merged_file_made_by_a_typing_error():
    assert refused(train__trainr={"max_epochs": 3}) == (
        "'train#trainr' isn't an id of this config; did you mean 'trainer'?"
    )
    message = refused(validate__zzz=3)
    assert message.startswith("'validate#zzz' isn't an id of this config. Accepted: ")
    assert "dataset" in message
    accepted(train__extra={"value": 3}, beta="@train#extra#value")
    accepted(train__extra=3, beta="$2 * @train::extra")
    # the name of another id begins alike: that refers to nothing
    assert "'train#extr' isn't an id" in refused(train__extr=3, train__extra=3, beta="@train#extra")


def test_monais_tracking_is_refused_with_what_to_use():
    message = refused(train__trainer__train_handlers=["@mlflow"])
    assert "'train#trainer', which isn't an ignite engine: use --logger mlflow" in message


def test_outside_a_config():
    with pytest.raises(ValueError, match="must be called by a config"):
        check_settings("train.json")


def test_inside_a_config_the_overrides_are_seen():
    imports = ["$import monai_betavae", "$import monai_betavae.workflows"]
    parser = ConfigParser({"imports": imports, "latent_dims": 3})
    parser["run"] = "$monai_betavae.workflows.check_settings('train.json')"
    with pytest.raises(RuntimeError, match="Failed to evaluate") as caught:
        parser.get_parsed_content("run")
    assert "did you mean 'latent_dim'?" in str(unwrap_error(caught.value))


def test_the_error_behind_monais_wrappers():
    inner = ValueError("the reason")
    middle, outer = RuntimeError("Failed to instantiate component"), RuntimeError("Failed to evaluate it")
    outer.__cause__, middle.__cause__ = middle, inner
    assert unwrap_error(outer) is inner
    assert unwrap_error(inner) is inner
    other = RuntimeError("out of memory")
    other.__cause__ = inner
    assert unwrap_error(other) is other  # not a wrapper


def test_an_error_that_lists_keeps_its_lines():
    assert listed_lines(ValueError("a\n  - b\n  - c\n")) == "Error: a\n  - b\n  - c"
    assert listed_lines(ValueError("a  b")) == "Error: a b"
    long = listed_lines(ValueError("\n".join("x" * 50))).splitlines()
    assert (len(long), long[-1]) == (41, "  ... 10 more lines")


def test_one_line():
    assert one_line(ValueError("a\n  b")) == "Error: a b"
    assert one_line(KeyError("x")) == "Error: KeyError: 'x'"
    long = one_line(ValueError("x" * 1000))
    assert len(long) < 410
    assert long.endswith(" ...")


def test_only_the_runner_gets_short_errors(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    shorten_errors()
    assert sys.excepthook is sys.__excepthook__


def test_a_sweeps_values_are_by_id_of_the_training():
    own = {"space": {"beta": [1.0]}, "settings": {}, "seeds": [0, 1]}
    check_config({**own, "space": {"latent_dim": [8]}, "settings": {"max_epochs": 3}}, own)
    with pytest.raises(ValueError, match="'setting' isn't an id"):
        check_config({**own, "setting": {}}, own)
