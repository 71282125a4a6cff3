"""Descriptions of preprocessing name known transforms with plain arguments, and nothing else."""

import inspect
import json
import warnings

import monai.transforms
import numpy as np
import pytest
import torch
from awkward_volumes import SHAPE, brain, save
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.transforms import Compose, MapTransform, RandomizableTrait
from monai.utils import GridSamplePadMode

from monai_betavae.data import brain_transforms
from monai_betavae.data.caching import fingerprint
from monai_betavae.data.transforms import transform_description
from monai_betavae.data.transforms.brain import first_release_description
from monai_betavae.data.transforms.transform_description import (
    LEFT_OUT,
    MONAI_NAMES,
    OWN,
    canonical_name,
    describe_call,
    is_random,
    rebuild_transforms,
    transforms_config,
)

NAMES = [name for name in MONAI_NAMES if hasattr(monai.transforms, name)]

EXAMPLES = {
    "AdjustContrastd": {"gamma": 2.0},
    "AsChannelLastd": {},
    "BorderPadd": {"spatial_border": 2},
    "CastToTyped": {"dtype": {"dtype": "numpy.float32"}},
    "CenterScaleCropd": {"roi_scale": 0.5},
    "CenterSpatialCropd": {"roi_size": [6, 6, 6]},
    "ClipIntensityPercentilesd": {"lower": 1, "upper": 99},
    "ConcatItemsd": {"name": "both"},
    "CopyItemsd": {"names": ["other"]},
    "CropForegroundd": {"source_key": "image", "margin": 1},
    "DeleteItemsd": {},
    "DivisiblePadd": {"k": 8},
    "EnsureChannelFirstd": {"channel_dim": 0},
    "EnsureTyped": {"dtype": {"dtype": "torch.float32"}},
    "Flipd": {"spatial_axis": 0},
    "GaussianSharpend": {},
    "GaussianSmoothd": {"sigma": [1, 1, 2]},
    "HistogramNormalized": {"num_bins": 16},
    "Identityd": {},
    "LoadImaged": {"reader": "NibabelReader", "ensure_channel_first": True},
    "MaskIntensityd": {"mask_key": "image"},
    "MedianSmoothd": {"radius": 1},
    "NormalizeIntensityd": {"nonzero": True},
    "Orientationd": {"axcodes": "LPS", "labels": None},
    "RepeatChanneld": {"repeats": 2},
    "ResampleToMatchd": {"key_dst": "image"},
    "ResizeWithPadOrCropd": {"spatial_size": [8, 8, 8]},
    "Resized": {"spatial_size": [8, 8, 8]},
    "Rotate90d": {"k": 1, "spatial_axes": [0, 2]},
    "Rotated": {"angle": [0.1, 0, 0]},
    "ScaleIntensityRangePercentilesd": {"lower": 1, "upper": 99, "b_min": 0, "b_max": 1, "clip": True},
    "ScaleIntensityRanged": {"a_min": 0, "a_max": 900, "b_min": 0, "b_max": 1},
    "ScaleIntensityd": {"dtype": {"dtype": "numpy.float32"}},
    "SelectItemsd": {},
    "ShiftIntensityd": {"offset": 3.5},
    "Spacingd": {"pixdim": [3, 3, 3], "dtype": {"dtype": "numpy.float64"}},
    "SpatialCropd": {"roi_start": [1, 1, 1], "roi_end": [8, 8, 8]},
    "SpatialPadd": {"spatial_size": [20, 20, 20], "mode": "edge"},
    "SpatialResampled": {"dst_keys": "affine"},
    "SqueezeDimd": {"dim": 0},
    "StdShiftIntensityd": {"factor": 0.5},
    "ThresholdIntensityd": {"threshold": 100},
    "ToTensord": {"dtype": {"dtype": "torch.float64"}},
    "Transposed": {"indices": [0, 2, 1, 3]},
    "Zoomd": {"zoom": 0.5, "keep_size": False},
}


def one(name, /, **arguments):
    return {"transforms": [{"name": name, "arguments": {"keys": "image", **arguments}}]}


@pytest.fixture
def record(tmp_path):
    return {"image": str(save(tmp_path / "a.nii.gz", brain() + 10)), "affine": torch.diag(torch.tensor([3.0, 3, 3, 1]))}


def equal(found, expected):
    assert found.keys() == expected.keys()
    for key, value in found.items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(expected[key]))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"spacing": 2.5},
        {"spacing": (2, 3, 4.5), "percentiles": (1, 99), "keep": ("subject", "age")},
        {"center": "foreground", "padding": "edge", "spacing": 2.5},
        {"center": (10, np.float64(12.5), 8), "spacing": 2.5},
        {"center": np.array([10.0, 12.5, 8.0])},
    ],
)
def test_preprocessing_comes_back_from_its_description(record, arguments):
    transforms = brain_transforms(SHAPE, **arguments)
    stored = json.loads(json.dumps(transforms.description, allow_nan=False))
    again = rebuild_transforms(stored, "model.json")
    assert again.description == transforms.description == stored
    assert fingerprint(again) == fingerprint(transforms)
    record |= {"subject": "a", "age": 3}
    expected = transforms(record)
    equal(again(record), expected)
    parser = ConfigParser({"preprocessing": transforms_config(stored)})
    equal(parser.get_parsed_content("preprocessing")(record), expected)


def test_the_mask_is_described(tmp_path, record):
    record["mask"] = str(save(tmp_path / "mask.nii.gz", (brain() > 700).astype(np.uint8)))
    transforms = brain_transforms(SHAPE, mask_key="mask")
    equal(rebuild_transforms(transforms.description, "model.json")(record), transforms(record))


def test_descriptions_written_before_keep_their_meaning(record):
    # what a model trained before says, argument for argument: its background is 0, and 0 its padding
    steps = [
        {"name": "ReadVolumed", "arguments": {"keys": "image", "mask_key": None}},
        {"name": "Orientationd", "arguments": {"keys": "image", "axcodes": "RAS", "labels": None}},
        {"name": "ResampleAntiAliasedd", "arguments": {"keys": "image", "spacing": [2.5, 2.5, 2.5]}},
        {"name": "ResizeWithPadOrCropd", "arguments": {"keys": "image", "spatial_size": [16, 8, 12]}},
        {"name": "ScaleBrainIntensityd", "arguments": {"keys": "image", "percentiles": [0.5, 99.5]}},
        {"name": "ToPlainSampled", "arguments": {"keys": "image", "keep": ["subject"]}},
    ]
    assert first_release_description((16, 8, 12), 2.5) == {"transforms": steps}
    sample = rebuild_transforms({"transforms": steps}, "model.json")(record)
    assert list(sample) == [
        "image", "image_path", "image_affine", "image_range", "image_source_affine", "image_source_shape",
    ]  # fmt: skip
    assert sample["image"].shape == (1, 16, 8, 12)
    # the file's lowest value is 10, and 0 counts as background all the same
    assert sample["image_range"][0] == 0
    assert float(sample["image"][0, 3:13, :, 2:10].min()) > 0
    assert float(sample["image"][0].sum()) == pytest.approx(float(sample["image"][0, 3:13, :, 2:10].sum()))


def test_a_changed_description_changes_nothing_that_was_built():
    entries = one("Flipd", spatial_axis=0)
    transforms = rebuild_transforms(entries, "model.json")
    entries["transforms"].clear()
    assert len(transforms.description["transforms"]) == 1


def test_every_name_has_an_example():
    assert sorted(EXAMPLES) == sorted(MONAI_NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_may_be_named_works(record, name):
    kind = getattr(monai.transforms, name)
    assert issubclass(kind, MapTransform)
    assert not issubclass(kind, RandomizableTrait)
    description = one(name, **EXAMPLES[name])
    transforms = rebuild_transforms(json.loads(json.dumps(description)), "model.json")
    if name != "LoadImaged":
        record = monai.transforms.LoadImaged("image", ensure_channel_first=True)(record)
    expected = transforms(record)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        configured = ConfigParser({"steps": transforms_config(description)}).get_parsed_content("steps")
    assert [type(step) for step in configured.transforms] == [kind]
    assert fingerprint(configured.transforms) == fingerprint(rebuild_transforms(description, "model.json").transforms)
    equal(configured(record), expected)


@pytest.mark.parametrize("name", NAMES)
def test_no_parameter_takes_a_function_or_imports(name):
    # what a new version of MONAI adds is looked at before a description may set it
    kind = getattr(monai.transforms, name)
    for parameter in inspect.signature(kind.__init__).parameters.values():
        words = str(parameter.annotation) + parameter.name
        suspicious = any(word in words for word in ("Callable", "slice", "func", "fn", "pattern", "device", "use_re"))
        if suspicious:
            assert parameter.name in LEFT_OUT[name] or (parameter.name, name) == ("roi_slices", "SpatialCropd")
            assert describe_call(name, {"keys": "image", parameter.name: "text"}) is None


@pytest.mark.parametrize("name", NAMES)
def test_monais_names(name):
    module = getattr(monai.transforms, name).__module__
    for alias in (name, f"{name[:-1]}D", f"{name[:-1]}Dict"):
        assert getattr(monai.transforms, alias) is getattr(monai.transforms, name)
        for prefix in ("", "monai.transforms.", f"{module}."):
            assert canonical_name(prefix + alias) == name
    for other in (f"mine.{name}", f"monai.{name}", name[:-1], f"monai.transforms.os.{name}", f".{name}", f"{name}."):
        assert canonical_name(other) is None


@pytest.mark.parametrize("name", OWN)
def test_own_names(name):
    for module in ("monai_betavae.data.", "monai_betavae.data.transforms.brain.", f"{OWN[name].__module__}.", ""):
        assert canonical_name(module + name) == name
    assert canonical_name(f"monai.transforms.{name}") is None


@pytest.mark.parametrize(
    ("target", "random"),
    [
        ("RandFlipd", True), ("RandAffineDict", True), ("monai.transforms.RandFlipd", True), ("OneOf", True),
        ("monai.transforms.spatial.dictionary.RandFlipd", True), ("Flipd", False), ("Compose", False),
        ("mine.RandFlipd", False), ("RandNoSuchd", False), ("os", False), ("np", False), (None, False), (3, False),
    ],
)  # fmt: skip
def test_random_transforms(target, random):
    assert is_random(target) is random


def test_calls():
    call = describe_call(
        "monai.transforms.SpacingD",
        {
            "keys": ("image",), "pixdim": (1, np.float32(2.5), np.int64(3)), "mode": "bilinear",
            "padding_mode": GridSamplePadMode.BORDER, "dtype": np.float64, "align_corners": np.bool_(True),
        },
    )  # fmt: skip
    assert call == {
        "name": "Spacingd",
        "arguments": {
            "keys": ["image"], "pixdim": [1, 2.5, 3], "mode": "bilinear", "padding_mode": "border",
            "dtype": {"dtype": "numpy.float64"}, "align_corners": True,
        },
    }  # fmt: skip
    json.dumps(call)
    for dtype in (torch.float16, "$torch.float16"):
        assert describe_call("EnsureTyped", {"keys": "image", "dtype": dtype})["arguments"]["dtype"] == {
            "dtype": "torch.float16"
        }
    for dtype in (np.dtype("uint8"), np.uint8, "$np.uint8", "$numpy.uint8"):
        assert describe_call("CastToTyped", {"keys": "image", "dtype": dtype})["arguments"]["dtype"] == {
            "dtype": "numpy.uint8"
        }


def looped():
    value = []
    value.append(value)
    return value


def deep(levels=10_000):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


REFUSED_CALLS = [
    ("os.system", {"command": "ls"}),
    ("Lambdad", {"keys": "image", "func": "print"}),
    ("SaveImaged", {"keys": "image"}),
    ("LoadImaged", {"keys": "image", "reader": "subprocess.Popen"}),
    ("LoadImaged", {"keys": "image", "reader": "NumpyReader"}),
    ("LoadImaged", {"keys": "image", "reader": ["NibabelReader"]}),
    ("LoadImaged", {"keys": "image", "allow_pickle": True}),
    ("LoadImaged", {"keys": "image", "prune_meta_pattern": "(a+)+$"}),
    ("TorchVisiond", {"keys": "image", "name": "ColorJitter"}),
    ("ForegroundMaskd", {"keys": "image", "threshold": "otsu"}),
    ("RandFlipd", {"keys": "image"}),
    ("Compose", {"transforms": []}),
    ("MapTransform", {"keys": "image"}),
    ("__class__", {}),
    ("SpatialPadd", {"keys": "image", "spatial_size": 8, "constant_values": 3}),
    ("SpatialPadd", {"keys": "image", "spatial_size": [10**6] * 3}),
    ("SpatialPadd", {"keys": "image", "spatial_size": 10**5}),
    ("RepeatChanneld", {"keys": "image", "repeats": 10**9}),
    ("Flipd", {"keys": "image", "_target_": "os.system"}),
    ("Flipd", {"keys": "image", "self": 1}),
    ("Flipd", {"keys": "image", "kwargs": 1}),
    ("Flipd", {"keys": "$print('x')"}),
    ("Flipd", {"keys": " $print('x')"}),
    ("Flipd", {"keys": "@image_key"}),
    ("Flipd", {"keys": ["image", "%other.json"]}),
    ("Flipd", {"keys": {"_target_": "os.system", "command": "ls"}}),
    ("Flipd", {"keys": {"dtype": "os.system"}}),
    ("Flipd", {"keys": {"dtype": "torch.load"}}),
    ("Flipd", {"keys": {"dtype": ["torch.float32"]}}),
    ("Flipd", {"keys": "image", "spatial_axis": float("nan")}),
    ("Flipd", {"keys": "image", "spatial_axis": 10**5000}),
    ("Flipd", {"keys": ["image"] * 10**6}),
    ("Flipd", {"keys": "x" * 10**6}),
    ("Flipd", {"keys": [["x" * 1000] * 1000] * 5}),
    ("Flipd", {"keys": looped()}),
    ("Flipd", {"keys": deep()}),
    ("CropForegroundd", {"keys": "image", "source_key": "image", "select_fn": "os.system"}),
    ("DeleteItemsd", {"keys": "(a+)+$", "use_re": True}),
    ("ReadVolumed", {"keys": "image", "load": "os.system"}),
    ("ReadVolumed", {"keys": "image", "mask_key": {"a": 1}}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments"), REFUSED_CALLS, ids=transform_description._shown)
def test_what_is_refused(name, arguments, monkeypatch):
    called = []
    monkeypatch.setattr("os.system", lambda command: called.append(command))
    monkeypatch.setattr("subprocess.Popen", lambda *args, **kwargs: called.append(args))
    assert describe_call(name, arguments) is None
    good = {"name": "Flipd", "arguments": {"keys": "image"}}
    description = {"transforms": [good, {"name": name, "arguments": arguments}]}
    with pytest.raises(ValueError, match=r"^model\.json: transform 1") as caught:
        rebuild_transforms(description, "model.json")
    assert len(str(caught.value)) < 1000
    with pytest.raises(ValueError, match=r"^The description of transforms: transform 1"):
        transforms_config(description)
    assert not called


@pytest.mark.parametrize(
    "value", [print, object(), {1, 2}, torch.zeros(2), np.zeros(2), b"x", 1j, np.datetime64("now")]
)
def test_objects_are_refused(value):
    assert describe_call("Flipd", {"keys": "image", "spatial_axis": value}) is None
    with pytest.raises(ValueError, match=r"^model\.json: transform 0: 'spatial_axis' of Flipd must be"):
        rebuild_transforms(one("Flipd", spatial_axis=value), "model.json")


@pytest.mark.parametrize(
    "description",
    [
        None, [], "Flipd", {}, {"transforms": None}, {"transforms": {}}, {"transforms": "Flipd"},
        {"transforms": [], "imports": "os"}, {"transforms": [{}] * 10**5}, {"transforms": deep()}, looped(),
        {"transforms": [None]}, {"transforms": [[]]}, {"transforms": [{"name": "Flipd"}]},
        {"transforms": [{"name": "Flipd", "arguments": []}]},
        {"transforms": [{"name": ["Flipd"], "arguments": {}}]},
        {"transforms": [{"name": {}, "arguments": {}}]},
        {"transforms": [{"name": "OrientationD", "arguments": {"keys": "image"}}]},
        {"transforms": [{"name": "Flipd", "arguments": {"keys": "image"}, "_requires_": "$print(1)"}]},
        {"transforms": [{"name": "Flipd", "arguments": {}}]},
        {"transforms": [{"name": "Orientationd", "arguments": {"keys": "image", "axcodes": None, "labels": None}}]},
        {"transforms": [{"name": "ScaleBrainIntensityd", "arguments": {"keys": "image", "percentiles": 3}}]},
        {"transforms": [{"name": "ScaleBrainIntensityd", "arguments": {"keys": "image", "percentiles": [60, 40]}}]},
        {"transforms": [{"name": "ResampleAntiAliasedd", "arguments": {"keys": "image", "spacing": [0, 1, 1]}}]},
        {"transforms": [{"name": "ResampleAntiAliasedd", "arguments": {"keys": "image", "spacing": None}}]},
        one("CropToGridd", spatial_size=[8, 8]), one("CropToGridd", spatial_size=[10**5] * 3),
        one("CropToGridd", spatial_size=[8, 8, 8], center="brain"),
        one("CropToGridd", spatial_size=[8, 8, 8], center=[1, 2]), one("PadToGridd", spatial_size=[10**5] * 3),
        one("PadToGridd", spatial_size=[8, 8, 8], padding="zeros"), one("ReadVolumed", background="black"),
        one("ScaleBrainIntensityd", percentiles=[0, 99], background=0),
        one("ResampleAntiAliasedd", spacing=2, center=3),
    ],
    ids=transform_description._shown,
)  # fmt: skip
def test_other_descriptions_are_refused(description):
    with pytest.raises(ValueError, match=r"^model\.json: "):
        rebuild_transforms(description, "model.json")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["$x", "torch.float32"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("dtype"), inner, max_size=3),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "name": st.sampled_from([*MONAI_NAMES, *OWN]) | st.text(),
        "arguments": st.dictionaries(
            st.sampled_from(["keys", "mode", "dtype", "reader", "spatial_size", "percentiles", "keep"]) | st.text(),
            plain,
            max_size=3,
        ),
    }
)


@pytest.mark.filterwarnings("ignore")
@given(st.fixed_dictionaries({"transforms": st.lists(entries | plain, max_size=3)}) | plain)
def test_any_json_is_built_or_refused(description):
    try:
        transforms = rebuild_transforms(description, "model.json")
    except ValueError as error:
        message = str(error)
    else:
        message = "model.json: none"
        assert isinstance(transforms, Compose)
        assert all(type(step).__name__ in {*MONAI_NAMES, *OWN} for step in transforms.transforms)
        json.dumps(transforms.description, allow_nan=False)
    assert message.startswith("model.json: ")


def test_names_that_another_version_of_monai_lacks_are_no_error():
    assert set(transform_description._MONAI) <= set(MONAI_NAMES)
