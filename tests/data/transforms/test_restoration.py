"""Reconstructions go back to the grid, affine and intensities they came from, with a file or without."""

import nibabel as nib
import numpy as np
import pytest
import torch
from awkward_volumes import READ, SHAPE, brain, save
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


# ---- outside the field of view ---------------------------------------------------------------------------------------


def in_memory(values):
    return {"image": MetaTensor(torch.from_numpy(values.astype(np.float32)), affine=torch.from_numpy(AFFINE))}


@pytest.mark.parametrize("background", [0.0, -70.0, 450.0])
@pytest.mark.parametrize("center", ["image", "foreground"])
def test_outside_the_field_of_view_stands_the_background(background, center):
    values = np.where(brain() > 0, brain() + 10, background)
    assert float(values[0, 0, 0]) == background
    made = brain_transforms((8, 8, 8), percentiles=(0, 100), center=center)
    sample = made(in_memory(values))
    restored = RestoreVolumed()({**sample, "pred": sample["image"]})["pred"][0].numpy()
    start = np.round(np.linalg.inv(AFFINE) @ sample["image_affine"].numpy()[:, 3])[:3].astype(int)
    # the file is stored from right to left
    inside = (slice(start[0] - 7, start[0] + 1), *(slice(each, each + 8) for each in start[1:]))
    expected = np.full(SHAPE, background)
    expected[inside] = values[inside]
    np.testing.assert_allclose(restored, expected, atol=0.02)
    outside = np.ones(SHAPE, bool)
    outside[inside] = False
    assert np.count_nonzero(outside) == np.prod(SHAPE) - 512
    assert (restored[outside] == background).all()


def test_without_intensities_it_is_the_scaled_background():
    values = np.where(brain() > 0, brain() + 10, 450)
    sample = brain_transforms((8, 8, 8), percentiles=(0, 100))(in_memory(values))
    low, high = sample["image_range"].tolist()
    restored = RestoreVolumed(restore_intensity=False)({**sample, "pred": sample["image"]})["pred"][0].numpy()
    assert restored[0, 0, 0] == pytest.approx((450 - low) / (high - low))


def test_where_no_background_is_known_it_is_zero():
    rng = np.random.default_rng(0)
    noisy = brain_transforms((8, 8, 8))(in_memory(rng.uniform(300, 900, SHAPE)))
    assert noisy["image_background"].isnan()
    other = brain_transforms((8, 8, 8))(in_memory(np.where(brain() > 0, brain(), -70)))
    for sample, lacking in ((noisy, ()), (other, ("image_background",)), (other, ("image_range",))):
        sample = {key: value for key, value in sample.items() if key not in lacking}
        restored = RestoreVolumed()({**sample, "pred": sample["image"]})["pred"][0].numpy()
        assert restored[0, 0, 0] == restored[-1, -1, -1] == 0


# ---- what a file's header lends --------------------------------------------------------------------------------------

NAMES = {
    "descrip": b"Jane Doe", "aux_file": b"doe_jane.txt", "db_name": b"doe_jane", "data_type": b"doe",
    "intent_name": b"label of Doe", "unused_str": b"jane",
}  # fmt: skip
NUMBERS = {
    "intent_code": 1002, "intent_p1": 3, "intent_p2": 4, "intent_p3": 5, "cal_min": 1, "cal_max": 2, "slice_code": 2,
    "slice_start": 1, "slice_end": 9, "slice_duration": 0.5, "dim_info": 57, "toffset": 7, "glmax": 3, "glmin": 1,
    "extents": 4, "session_error": 2,
}  # fmt: skip


SIDES = np.linalg.norm(AFFINE[:3, :3], axis=0)


def full_header(kind, **codes):
    """Return an image whose header has all that a header can have."""
    image = kind((brain() + 10).astype(np.int16), AFFINE)
    for name, value in {**NAMES, **NUMBERS}.items():
        if name in image.header:
            image.header[name] = value
    turned = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, 0.1, -0.2) @ np.diag(SIDES), [1, 2, 3])
    image.set_qform(turned, code=codes.get("q", 1))
    image.set_sform(AFFINE, code=codes.get("s", 2))
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4:] = 2.5
    image.header.set_slope_inter(2, 1)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe, born 1 April 1950"))
    return image


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image], ids=["NIfTI-1", "NIfTI-2"])
@pytest.mark.parametrize("codes", [{"q": 1, "s": 2}, {"q": 3, "s": 0}, {"q": 0, "s": 4}], ids=str)
def test_a_header_lends_its_geometry_alone(tmp_path, kind, codes):
    path = tmp_path / "sub-1.nii"
    nib.save(full_header(kind, **codes), path)
    sample = TRANSFORMS({"image": str(path)})
    nib.save(RestoreVolume()(sample["image"], sample), tmp_path / "restored.nii")
    source, found = nib.load(path), nib.load(tmp_path / "restored.nii")
    content = (tmp_path / "restored.nii").read_bytes()
    assert b"Doe" in path.read_bytes()
    assert not any(word in content for word in (b"Doe", b"doe", b"Jane", b"jane", b"1950"))
    assert not found.header.extensions
    assert type(found) is kind
    assert found.affine.tobytes() == source.affine.tobytes()
    for form in ("sform", "qform"):
        (ours, code), (theirs, other) = (getattr(each, f"get_{form}")(coded=True) for each in (found, source))
        assert code == other == codes[form[0]]
        np.testing.assert_array_equal(ours, theirs)
    assert found.header.get_zooms() == source.header.get_zooms()
    assert found.header.get_xyzt_units() == ("mm", "sec")
    blank = kind(np.zeros(SHAPE, np.float32), np.eye(4)).header
    for name in [*NAMES, *NUMBERS]:
        if name in blank:
            np.testing.assert_array_equal(found.header[name], blank[name], err_msg=name)
            assert not np.array_equal(source.header[name], blank[name]), name
    np.testing.assert_array_equal(found.header["pixdim"][4:], blank["pixdim"][4:])
    assert found.header.get_slope_inter() in ((None, None), (1, 0))
    np.testing.assert_allclose(found.get_fdata(), source.get_fdata(), atol=0.02)


@pytest.mark.parametrize("name", READ)
@pytest.mark.filterwarnings("ignore:.*non-finite voxels")
def test_whatever_was_read_goes_back_onto_its_grid(tmp_path, name):
    path = READ[name](tmp_path)
    sample = brain_transforms(SHAPE, percentiles=(0, 100))({"image": str(path)})
    nib.save(RestoreVolume()(sample["image"], sample), tmp_path / "restored.nii.gz")
    source, found = nib.load(path), nib.load(tmp_path / "restored.nii.gz")
    assert found.shape == source.shape[:3]
    assert found.get_data_dtype() == np.float32
    np.testing.assert_allclose(found.affine, source.affine, atol=1e-6)
    if isinstance(source, nib.Nifti1Image):
        assert found.affine.tobytes() == source.affine.tobytes()
