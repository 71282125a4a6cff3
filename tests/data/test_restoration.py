"""Reconstructions go back to the grid, affine and intensities they came from, with a file or without."""

import nibabel as nib
import numpy as np
import pytest
import torch
from awkward_volumes import SHAPE, brain, save
from monai.data import MetaTensor
from monai.transforms import Compose

from monai_betavae.data import RestoreVolume, RestoreVolumed, brain_transforms, volume_image

AFFINE = np.array([[-1.9, 0.3, 0, 20], [0.3, 1.9, 0.1, -25], [0, -0.1, 2.1, -15], [0, 0, 0, 1]])
TRANSFORMS = brain_transforms((14, 16, 12), percentiles=(0, 100))


@pytest.fixture
def sample(tmp_path):
    return TRANSFORMS({"image": str(save(tmp_path / "sub-1.nii.gz", brain() + 10, AFFINE))})


def older(sample):
    return {key: value for key, value in sample.items() if "_source_" not in key}


def test_the_three_ways_agree(sample):
    image = RestoreVolume()(sample["image"], sample)
    ways = [
        Compose([RestoreVolumed()])({**sample, "pred": sample["image"]}),
        Compose([RestoreVolume()])({**sample, "pred": sample["image"]}),
        RestoreVolumed()({**older(sample), "pred": MetaTensor(sample["image"])}),
    ]
    assert np.array_equal(RestoreVolume()(sample["image"], older(sample)).get_fdata(), image.get_fdata())
    for data in ways:
        restored = data["pred"]
        assert type(restored) is MetaTensor
        assert restored.dtype == torch.float32
        assert np.array_equal(restored[0].numpy(), image.get_fdata(dtype=np.float32))
        assert restored.affine.numpy().tobytes() == image.affine.tobytes()
        assert restored.meta["filename_or_obj"] == sample["image_path"]
    np.testing.assert_allclose(image.get_fdata(), brain() + 10, atol=0.01)


def test_no_file_is_needed(sample, tmp_path):
    expected = RestoreVolume()(sample["image"], sample)
    (tmp_path / "sub-1.nii.gz").unlink()
    for path in (sample["image_path"], ""):
        found = RestoreVolume()(sample["image"], {**sample, "image_path": path})
        assert np.array_equal(found.get_fdata(), expected.get_fdata())
        np.testing.assert_array_equal(found.affine, expected.affine)
        nib.save(found, tmp_path / "restored.nii.gz")
        np.testing.assert_allclose(nib.load(tmp_path / "restored.nii.gz").affine, expected.affine, atol=1e-6)
    pred = RestoreVolumed()({**sample, "image_path": "", "pred": sample["image"]})["pred"]
    assert "filename_or_obj" not in pred.meta


def test_another_file_of_that_name_lends_no_header(sample, tmp_path):
    restored = RestoreVolumed()({**sample, "pred": sample["image"]})["pred"]
    flipped = AFFINE @ np.diag([-1, 1, 1, 1])
    for values, affine in ((brain(), flipped), (brain()[1:], AFFINE)):
        save(tmp_path / "sub-1.nii.gz", values, affine)
        image = volume_image(restored, sample["image_path"])
        assert image.shape == SHAPE
        np.testing.assert_array_equal(image.affine, restored.affine.numpy())


def test_intensities_stay_scaled_on_demand(sample):
    for data in (sample, {key: value for key, value in sample.items() if key != "image_range"}):
        scaled = RestoreVolumed(restore_intensity=data is not sample)({**data, "pred": sample["image"]})["pred"]
        assert float(scaled.max()) == pytest.approx(1)


def test_other_keys():
    transforms = brain_transforms((14, 16, 12), image_key="scan")
    sample = transforms({"scan": MetaTensor(torch.from_numpy(brain()), affine=torch.from_numpy(AFFINE))})
    data = RestoreVolumed(["mean", "draw"], image_key="scan", allow_missing_keys=True)(
        {**sample, "mean": sample["scan"]}
    )
    assert data["mean"].shape == (1, *SHAPE)
    assert "draw" not in data
    with pytest.raises(KeyError, match="draw"):
        RestoreVolumed("draw", image_key="scan")(sample)
    np.testing.assert_array_equal(RestoreVolume("scan")(sample["scan"], sample).affine, AFFINE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred": torch.zeros(2, 4, 4, 4)}, r"'pred' must be one volume of shape \(1, x, y, z\), got shape \(2, 4"),
        ({"pred": torch.zeros(4, 4, 4)}, r"'pred' must be one volume"),
        ({"image_affine": None}, "must have the affine of its image's grid under 'image_affine', got 'image'"),
        ({"image_source_affine": None, "image_path": ""}, "must say where its image came from"),
    ],
)
def test_what_is_missing_is_named(sample, change, message):
    with pytest.raises(ValueError, match=message):
        RestoreVolumed()({**sample, "pred": sample["image"], **change})


@pytest.mark.parametrize("value", [torch.zeros(1, 2, 2, 2), MetaTensor(torch.zeros(2, 2, 2)), None], ids=type)
def test_an_image_is_made_of_a_restored_volume(value):
    with pytest.raises(ValueError, match="`restored` must be a MetaTensor of shape"):
        volume_image(value)


def test_before_the_sample_is_made_plain(tmp_path):
    data = {"image": str(save(tmp_path / "sub-1.nii.gz", brain(), AFFINE))}
    for step in TRANSFORMS.transforms[:-1]:
        data = step(data)
    np.testing.assert_allclose(RestoreVolumed()({**data, "pred": data["image"]})["pred"][0], brain(), atol=0.01)
