"""What a run was told is told again when it is resumed: settings by id, and which of them may differ."""

import json
import pathlib

import pytest
import torch
from monai.bundle import ConfigParser

from monai_betavae import bundle_root
from monai_betavae.workflows.resumption import check_told, collect_settings, is_free

A = {"_target_": "A", "keys": "image"}
OWN = {
    "beta": 1.0,
    "channels": [4, 8],
    "loss": {"_target_": "Loss", "beta": "@beta", "default_dist": "normal"},
    "train": {"preprocessing": {"_target_": "Compose", "transforms": [A, {"_target_": "B"}]}},
    "validate": {"preprocessing": "%train#preprocessing", "dataset": {"_target_": "Dataset", "data": "@split"}},
    "run": "%training",
}


def bundle_config():
    return json.loads((bundle_root() / "train.json").read_text())


def told_of(own=OWN, **overrides):
    """Return what a config with overrides, made and read by MONAI's parser, is told."""
    parser = ConfigParser(json.loads(json.dumps(own)))
    parser.update({name.replace("__", "#"): value for name, value in overrides.items()})
    return collect_settings(parser.config, own)


# ---- told ------------------------------------------------------------------------------------------------------------


def test_a_config_as_it_is_tells_nothing():
    assert told_of() == {}
    assert collect_settings(OWN, OWN) == {}
    assert told_of(bundle_config()) == {}


def test_what_parsing_replaces_is_not_told():
    """MONAI writes "::" for "#" and puts what a macro names in its place."""
    parser = ConfigParser(json.loads(json.dumps(bundle_config())))
    parser.parse()
    assert "%" not in json.dumps(parser.config["validate"])  # the macro is gone
    assert collect_settings(parser.config, bundle_config()) == {}


def test_macros_are_compared_with_what_they_name_now():
    own = {"a": {"x": 1}, "b": "%a"}
    assert collect_settings({"a": {"x": 1}, "b": {"x": 1}}, own) == {}
    # resolved from the changed config: told once, where it was said
    assert collect_settings({"a": {"x": 2}, "b": {"x": 2}}, own) == {"a#x": 2}
    assert collect_settings({"a": {"x": 1}, "b": {"x": 2}}, own) == {"b#x": 2}
    assert collect_settings({"a": {"x": 1}, "b": 3}, own) == {"b": 3}


def test_nested_settings_are_told_by_their_id():
    assert told_of(beta=4.0, loss__default_dist="laplace") == {"beta": 4.0, "loss#default_dist": "laplace"}
    assert told_of(loss__extra=1) == {"loss#extra": 1}
    assert told_of(bundle_config(), optimizer__fused=False) == {"optimizer#fused": False}


def test_lists_are_told_by_index_while_they_have_the_same_length():
    assert told_of(channels=[4, 16]) == {"channels#1": 16}
    assert told_of(channels=[4]) == {"channels": [4]}
    assert told_of(train__preprocessing__transforms__0__keys="t1") == {"train#preprocessing#transforms#0#keys": "t1"}
    added = [A, {"_target_": "B"}, {"_target_": "C"}]
    # the macro of the validation is of the running config
    assert told_of(train__preprocessing__transforms=added) == {"train#preprocessing#transforms": added}


def test_an_entry_with_another_target_is_told_as_a_whole():
    other = {"_target_": "Other", "beta": "@beta", "default_dist": "normal"}
    assert told_of(loss=other) == {"loss": other}
    step = {"_target_": "C"}
    assert told_of(train__preprocessing__transforms__1=step) == {"train#preprocessing#transforms#1": step}


def test_an_entry_that_lacks_something_is_told_as_a_whole():
    shorter = {"_target_": "Loss", "beta": "@beta"}
    assert told_of(loss=shorter) == {"loss": shorter}


def test_an_id_that_is_gone_is_told():
    config = {name: value for name, value in OWN.items() if name != "beta"}
    assert collect_settings(config, OWN) == {"beta": "absent"}


def test_an_id_of_ones_own_is_told():
    assert told_of(width=8) == {"width": 8}


def test_objects_in_place_of_json_are_told_by_their_class():
    """What lies where in memory isn't told, or no run would be resumed."""
    made = [told_of(loss=torch.nn.Linear(2, 2)) for _ in range(2)]
    assert made == [{"loss": "torch.nn.modules.linear.Linear"}] * 2
    assert told_of(beta=torch.device("cpu")) == {"beta": "torch.device"}
    where = type(pathlib.Path())
    assert told_of(channels=[4, pathlib.Path("/a")]) == {"channels#1": f"{where.__module__}.{where.__qualname__}"}


def test_what_is_told_is_json():
    found = told_of(loss=torch.nn.Linear(2, 2), channels=(4, 16), beta="$torch.pi")
    assert json.loads(json.dumps(found)) == found
    assert found["channels#1"] == 16


def test_free_settings_are_not_told():
    overrides = {"max_epochs": 3, "output_dir": "/a", "num_workers": 0, "device": "$torch.device('cpu')"}
    overrides |= {"train__trainer__devices": 4, "cache": "none", "simulated_cohort__n_subjects": 3, "resume": True}
    overrides |= {"train__dataloader__num_workers": 3, "training": ["$print(1)"], "logger": "none"}
    assert told_of(bundle_config(), **overrides) == {}
    assert told_of(bundle_config(), **overrides, train__trainer__precision="64-true") == {
        "train#trainer#precision": "64-true"
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, True) for name in ("device", "max_epochs", "ckpt_dir", "n_folds", "fold", "split_file", "run#0")),
        *((name, True) for name in ("train#trainer#devices", "train#dataset#cache", "simulated_cohort#seed", "check")),
        *((name, True) for name in ("train#trainer#log_every_n_steps", "train#trainer#enable_progress_bar")),
        *((name, False) for name in ("beta", "seed", "batch_size", "learning_rate", "train", "train#trainer")),
        *(
            (name, False)
            for name in ("train#trainer#precision", "train#dataset#storage", "storage", "my_fold", "augment")
        ),
        *((name, False) for name in ("early_stopping", "patience", "train#callbacks#6#patience", "suffixes")),
        *((name, False) for name in ("train#preprocessing#transforms#2#spacing", "train#dataloader#batch_size")),
    ],
)
def test_which_settings_may_differ(name, expected):
    assert is_free(name) is expected


# ---- check_told ------------------------------------------------------------------------------------------------------


def test_the_same_settings_are_resumed():
    assert check_told({}, {}, OWN, [], "last.ckpt") == []
    assert check_told({"beta": 4.0}, {"beta": 4.0}, OWN, [], "last.ckpt") == []


def test_each_setting_that_differs_is_named_with_how_to_let_it():
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the whole message is compared
        check_told({"beta": 4.0}, {"beta": 2.0, "loss#default_dist": "laplace"}, OWN, [], "/run/last.ckpt")
    assert str(caught.value) == (
        "`resume` needs the settings of /run/last.ckpt: beta was 4.0, now 2.0; loss#default_dist was normal, now "
        "laplace. Repeat those of then, or say that they may change: --resume_changes \"['beta']\"."
    )


def test_what_was_not_told_is_the_bundles_own():
    assert check_told({"beta": 1.0}, {}, OWN, [], "last.ckpt") == []  # told what it is anyway
    assert check_told({}, {"channels#1": 8}, OWN, [], "last.ckpt") == []
    for then, now, said in (
        ({"beta": 4.0}, {}, r"beta was 4\.0, now 1\.0\."),
        ({}, {"channels#1": 16}, r"channels#1 was 8, now 16\."),
        ({}, {"train#preprocessing#transforms#0#keys": "t1"}, r"transforms#0#keys was image, now t1\."),
        ({}, {"width": 8}, r"width was absent, now 8\."),
        ({"channels#7": 16}, {}, r"channels#7 was 16, now absent\."),
    ):
        with pytest.raises(ValueError, match=said):
            check_told(then, now, OWN, [], "last.ckpt")


def test_settings_that_may_change_are_given_back():
    then, now = {"beta": 4.0, "loss": {"_target_": "Mine"}}, {"loss#default_dist": "laplace"}
    with pytest.raises(ValueError, match=r"`resume` needs"):
        check_told(then, now, OWN, ["beta"], "last.ckpt")
    changed = check_told(then, now, OWN, ["beta", "loss"], "last.ckpt")
    assert changed[0] == "beta was 4.0, now 1.0"
    assert changed[1].startswith('loss was {"_target_": "Mine"}, now {"_target_": "Loss"')
    assert changed[2] == "loss#default_dist was normal, now laplace"  # a part of what may change
    with pytest.raises(ValueError, match="bet_a"):  # the name of another begins alike
        check_told({}, {"bet_a": 1}, OWN, ["bet"], "last.ckpt")


def test_many_settings_are_counted_and_long_ones_cut():
    now = {f"width{index}": "x" * 100 for index in range(7)}
    with pytest.raises(ValueError, match=r"now x{77}\.\.\.; .* and 3 more\. Repeat") as caught:
        check_told({}, now, OWN, [], "last.ckpt")
    assert "width3" in str(caught.value)
    assert "width4" not in str(caught.value)


def test_what_an_earlier_config_was_told_survives_the_checkpoint():
    """As JSON, in which tuples are lists."""
    then = json.loads(json.dumps(told_of(channels=(4, 16), loss={"_target_": "Mine", "sizes": (1, 2)})))
    assert check_told(then, told_of(channels=[4, 16], loss={"_target_": "Mine", "sizes": [1, 2]}), OWN, [], "x") == []
