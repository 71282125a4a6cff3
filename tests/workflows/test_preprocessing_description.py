"""What the description of a model says of its transforms is what their config makes."""

import json

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd, Lambdad

from monai_betavae import bundle_root
from monai_betavae.data import brain_transforms
from monai_betavae.data.transforms.transform_description import rebuild_transforms
from monai_betavae.workflows.preprocessing_description import check_preprocessing, describe_preprocessing

READ = {"_target_": "monai_betavae.data.ReadVolumed", "keys": "image"}
SCALE = {"_target_": "monai_betavae.data.ScaleBrainIntensityd", "keys": "image"}
CROP = {"_target_": "CropForegroundd", "keys": "image", "source_key": "image"}
READ_CALL = {"name": "ReadVolumed", "arguments": {"keys": "image"}}


class Own:
    """A transform that no description may name."""

    def __call__(self, data):
        """Return what came."""
        return data


def config_of(*steps, **more):
    return {"train": {"preprocessing": {"_target_": "Compose", "transforms": list(steps)}}, **more}


def described(config, **overrides):
    """Return the description of what a config's transforms are made to."""
    parser = ConfigParser(json.loads(json.dumps(config)))
    parser.update({name.replace("__", "#"): value for name, value in overrides.items()})
    return describe_preprocessing(parser.get_parsed_content("train#preprocessing"), parser)


def bundle_parser(**overrides):
    parser = ConfigParser(json.loads((bundle_root() / "train.json").read_text()))
    parser.update({name.replace("__", "#"): value for name, value in overrides.items()})
    return parser


def calls(description):
    return [(entry["name"], entry["arguments"]) for entry in description["transforms"]]


# ---- described_preprocessing -----------------------------------------------------------------------------------------


def test_brain_transforms_describe_themselves():
    transforms = brain_transforms((8, 9, 10), 2.0, percentiles=(1, 99))
    assert describe_preprocessing(transforms) == transforms.description
    assert describe_preprocessing(transforms, bundle_parser()) == transforms.description
    assert rebuild_transforms(transforms.description, "here").description == transforms.description


def test_the_bundles_transforms_are_the_brain_transforms():
    parser = bundle_parser(spatial_shape=[8, 9, 10], spacing=2.0)
    found = describe_preprocessing(parser.get_parsed_content("train#preprocessing"), parser)
    volume = MetaTensor(
        torch.rand(9, 11, 12, generator=torch.Generator().manual_seed(0)) * 900,
        affine=torch.diag(torch.tensor([-2.0, 2.0, 2.5, 1.0])),
    )
    made, expected = rebuild_transforms(found, "model.json"), brain_transforms((8, 9, 10), 2.0)
    assert torch.equal(made({"image": volume})["image"], expected({"image": volume})["image"])
    assert [name for name, _ in calls(found)] == [name for name, _ in calls(expected.description)]


def test_where_the_grid_lies_and_what_fills_it_up_are_ids_of_their_own():
    given = {"center": [1.0, 2, -3.5], "padding": "edge"}
    parser = bundle_parser(spatial_shape=[8, 9, 10], spacing=2.0, **given)
    found = dict(calls(describe_preprocessing(parser.get_parsed_content("train#preprocessing"), parser)))
    expected = dict(calls(brain_transforms((8, 9, 10), 2.0, **given).description))
    for name, argument in (("ResampleAntiAliasedd", "center"), ("CropToGridd", "center"), ("PadToGridd", "padding")):
        assert found[name][argument] == expected[name][argument] == given[argument]
    for name in ("ReadVolumed", "ScaleBrainIntensityd"):
        assert found[name]["background"] == expected[name]["background"] == "auto"


def test_values_are_those_that_references_and_expressions_come_to():
    found = described(
        config_of(
            READ,
            {"_target_": "ResizeWithPadOrCropd", "keys": "@key", "spatial_size": "$[2 * side for side in @shape]"},
            {**SCALE, "percentiles": ["@low", "$100 - 1"]},
            key="image",
            shape=[4, 5, 6],
            low=2,
        )
    )
    assert calls(found) == [
        ("ReadVolumed", {"keys": "image"}),
        ("ResizeWithPadOrCropd", {"keys": "image", "spatial_size": [8, 10, 12]}),
        ("ScaleBrainIntensityd", {"keys": "image", "percentiles": [2, 99]}),
    ]


def test_an_override_is_described():
    config = config_of(READ, {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None})
    found = described(config, train__preprocessing__transforms__1__axcodes="LPS")
    assert calls(found)[1] == ("Orientationd", {"keys": "image", "axcodes": "LPS", "labels": None})


@pytest.mark.parametrize(
    ("disabled", "there"),
    [
        (True, False),
        (False, True),
        ("$@spacing is None", False),
        ("$@spacing is not None", True),
        ("true", False),
        ("False", True),
    ],
)
def test_a_disabled_step_is_left_out(disabled, there):
    step = {"_target_": "Flipd", "keys": "image", "spatial_axis": 0, "_disabled_": disabled}
    config = config_of(READ, step, {"_target_": "SqueezeDimd", "keys": "image"}, spacing=None)
    found = described(config)
    assert [name for name, _ in calls(found)] == ["ReadVolumed", *["Flipd"] * there, "SqueezeDimd"]
    # as MONAI makes them
    parser = ConfigParser(config)
    assert len(parser.get_parsed_content("train#preprocessing").transforms) == len(found["transforms"])


def test_types_are_named():
    imports = {"imports": ["$import torch", "$import numpy as np"]}
    for value, expected in (
        ("$torch.float32", "torch.float32"),
        ("$np.float32", "numpy.float32"),
        ("@type", "torch.float64"),
    ):
        step = {"_target_": "CastToTyped", "keys": "image", "dtype": value}
        found = described(config_of(READ, step, type="$torch.float64", **imports))
        assert calls(found)[1] == ("CastToTyped", {"keys": "image", "dtype": {"dtype": expected}})
    made = rebuild_transforms({"transforms": found["transforms"][1:]}, "model.json")
    assert made({"image": torch.ones(2)})["image"].dtype == torch.float64


def test_numbers_of_numpy_are_plain():
    step = {"_target_": "Flipd", "keys": "image", "spatial_axis": "$np.int64(2)"}
    found = described(config_of(READ, step, imports=["$import numpy as np"]))
    assert calls(found)[1] == ("Flipd", {"keys": "image", "spatial_axis": 2})


def test_steps_and_transforms_that_are_references():
    config = config_of(READ, "@flip", flip={"_target_": "Flipd", "keys": "image"})
    assert calls(described(config)) == [("ReadVolumed", {"keys": "image"}), ("Flipd", {"keys": "image"})]
    config["train"]["preprocessing"]["transforms"] = "@my_steps"
    config["my_steps"] = [READ, "@flip"]
    assert [name for name, _ in calls(described(config))] == ["ReadVolumed", "Flipd"]
    config["mine"] = {"_target_": "Compose", "transforms": "@my_steps"}
    config["train"]["preprocessing"] = "@mine"
    assert [name for name, _ in calls(described(config))] == ["ReadVolumed", "Flipd"]


def test_a_reference_to_what_describes_itself():
    config = {
        "imports": ["$import monai_betavae.data"],
        "mine": {"_target_": "monai_betavae.data.brain_transforms", "spatial_shape": [8, 8, 8], "spacing": 2.0},
        "train": {"preprocessing": "@mine"},
    }
    assert described(config) == brain_transforms((8, 8, 8), 2.0).description


def test_a_comment_is_no_argument():
    found = described(config_of({**READ, "_desc_": "read it"}))
    assert found == {"transforms": [READ_CALL]}


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        ({"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x"}, "Lambdad"),
        ({"_target_": "EnsureTyped", "keys": "image", "device": "cpu"}, "EnsureTyped"),
        ({**CROP, "select_fn": "$bool"}, "CropForegroundd"),
        ("$lambda data: data", "<lambda>"),
    ],
    ids=str,
)
def test_a_transform_that_cannot_be_described_is_named_by_its_place(step, kind):
    found = described(config_of(READ, step, {"_target_": "Flipd", "keys": "image"}))
    assert list(found) == ["own", "where"]
    assert found["where"] == "train#preprocessing#transforms#1"
    assert found["own"].rpartition(".")[2] == kind


def test_the_place_counts_disabled_steps_too():
    disabled = {"_target_": "Flipd", "keys": "image", "_disabled_": True}
    found = described(config_of(disabled, disabled, {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x"}))
    assert found["where"] == "train#preprocessing#transforms#2"


@pytest.mark.parametrize("config", [None, {}, {"train": {"preprocessing": Own()}}], ids=["none", "empty", "set"])
def test_transforms_that_no_config_made_are_ones_own(config):
    parser = None if config is None else ConfigParser(config)
    found = describe_preprocessing(Own(), parser)
    assert found == {"own": f"{Own.__module__}.Own".replace("/", "_"), "where": "train#preprocessing"}
    made = describe_preprocessing(Compose([Flipd("image")]), parser)
    assert made == {"own": "monai.transforms.compose.Compose", "where": "train#preprocessing"}


def test_a_compose_with_more_than_transforms_is_ones_own():
    config = config_of(READ)
    config["train"]["preprocessing"]["map_items"] = False
    assert described(config) == {"own": "monai.transforms.compose.Compose", "where": "train#preprocessing"}


# ---- check_preprocessing ---------------------------------------------------------------------------------------------


def test_the_bundles_transforms_pass_and_outside_a_config_nothing_is_known():
    check_preprocessing(None)
    parser = bundle_parser()
    check_preprocessing(parser)
    parser.parse()  # MONAI has put what macros name in their place
    check_preprocessing(parser)
    check_preprocessing(bundle_parser(validate__preprocessing="@train#preprocessing"))
    check_preprocessing(bundle_parser(validate__preprocessing="@train::preprocessing"))


@pytest.mark.parametrize("target", ["RandFlipd", "monai.transforms.RandGaussianNoised", "RandAffineDict"])
@pytest.mark.parametrize("parsed", [False, True])
def test_random_transforms_are_refused_by_their_place(target, parsed):
    step = {"_target_": target, "keys": "image"}
    parser = bundle_parser(train__preprocessing__transforms__4=step)
    if parsed:
        parser.parse()
    with pytest.raises(
        ValueError,
        match=rf"'train#preprocessing#transforms#4' must be deterministic, .* got {target}: .*--train#augmentation",
    ):
        check_preprocessing(parser)


def test_random_transforms_behind_references_are_refused():
    steps = [READ, "@flip"]
    parser = bundle_parser(steps=steps, flip={"_target_": "RandFlipd", "keys": "image"})
    parser["train#preprocessing#transforms"] = "@steps"
    with pytest.raises(ValueError, match=r"'train#preprocessing#transforms#1' must be deterministic"):
        check_preprocessing(parser)


@pytest.mark.parametrize("part", ["validate", "test"])
@pytest.mark.parametrize("parsed", [False, True])
def test_other_transforms_for_validation_or_test_are_refused(part, parsed):
    mine = {"_target_": "Compose", "transforms": [READ]}
    parser = bundle_parser(**{f"{part}__preprocessing": mine})
    if parsed:
        parser.parse()
    with pytest.raises(ValueError, match=rf"'{part}#preprocessing' must be that of training, .*'train#preprocessing'"):
        check_preprocessing(parser)


def test_transforms_that_are_an_object_are_left_to_the_one_who_gave_them():
    check_preprocessing(ConfigParser({"train": {"preprocessing": Compose([Lambdad("image", np.abs)])}}))
