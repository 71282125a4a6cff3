"""Real NIfTI files to tensors, and back onto their own grid."""

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, Flip, Spacing

from monai_betavae.data import (
    ReadVolumed,
    ResampleAntiAliasedd,
    RestoreVolume,
    ScaleBrainIntensityd,
    ToPlainSampled,
    brain_transforms,
    cached_dataset,
)
from monai_betavae.data.transforms.brain import first_release_description
from monai_betavae.data.transforms.transform_description import rebuild_transforms

OBLIQUE = np.array([[1.9, 0.3, 0, -20], [-0.3, 1.9, 0.1, -25], [0, -0.1, 2.1, -15], [0, 0, 0, 1]])
AFFINES = {
    "RAS": np.array([[2.0, 0, 0, -20], [0, 2.0, 0, -25], [0, 0, 2.0, -15], [0, 0, 0, 1]]),
    "LAS": np.array([[-2.0, 0, 0, 20], [0, 2.0, 0, -25], [0, 0, 2.0, -15], [0, 0, 0, 1]]),
    "axes turned": np.array([[0, 0, 2.0, -20], [-2.0, 0, 0, 25], [0, 2.0, 0, -15], [0, 0, 0, 1]]),
    "oblique": OBLIQUE,
    "anisotropic": np.diag([1.0, 1.5, 4.0, 1.0]),
}


def smooth(shape=(20, 24, 18)):
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij"))
    return (800 * np.exp(-3 * (grid**2).sum(axis=0)) + 5 * (grid[0] + 1)).astype(np.float32)


def write(path, volume, affine=AFFINES["RAS"]):
    nib.save(nib.Nifti1Image(volume, affine), path)
    return {"image": str(path), "subject": path.name.split(".")[0]}


def test_sample(tmp_path):
    record = {**write(tmp_path / "sub-1.nii.gz", smooth()), "age": 50, "site": None}
    sample = brain_transforms((24, 20, 18), keep=("subject", "age", "site"))(record)
    image = sample["image"]
    assert type(image) is torch.Tensor
    assert (image.dtype, tuple(image.shape)) == (torch.float32, (1, 24, 20, 18))
    assert (float(image.min()), float(image.max())) == (0.0, 1.0)
    assert (sample["subject"], sample["age"], sample["image_path"]) == ("sub-1", 50, record["image"])
    assert "site" not in sample
    batch = next(iter(DataLoader(Dataset([record, record], brain_transforms((8, 8, 8))), batch_size=2)))
    assert type(batch["image"]) is torch.Tensor
    assert batch["subject"] == ["sub-1", "sub-1"]


def test_the_same_head_in_other_orientations_gives_the_same_tensor(tmp_path):
    volume = smooth()
    ras = write(tmp_path / "ras.nii.gz", volume)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = volume.shape[0] - 1
    las = write(tmp_path / "las.nii.gz", volume[::-1], AFFINES["RAS"] @ flip)
    swap = np.eye(4)[[1, 2, 0, 3]]
    turned = write(tmp_path / "turned.nii.gz", volume.transpose(2, 0, 1), AFFINES["RAS"] @ swap)
    transform = brain_transforms((24, 24, 24))
    expected = transform(ras)["image"]
    torch.testing.assert_close(transform(las)["image"], expected)
    torch.testing.assert_close(transform(turned)["image"], expected)


def test_one_hot_voxel_changes_nothing_else(tmp_path):
    volume, hot = smooth((30, 30, 30)), smooth((30, 30, 30))
    hot[3, 3, 3] = 1e6
    transform = brain_transforms((30, 30, 30))
    images = [transform(write(tmp_path / f"{i}.nii.gz", v))["image"] for i, v in enumerate((volume, hot))]
    difference = (images[0] - images[1]).abs()
    difference[0, 3, 3, 3] = 0
    assert float(difference.max()) < 1e-3


def test_a_zero_background_stays_zero_there_and_back(tmp_path):
    volume = smooth() + 100
    volume[:5] = 0
    record = write(tmp_path / "a.nii.gz", volume)
    sample = brain_transforms((20, 24, 18))(record)
    assert not sample["image"][0, :5].any()
    assert not RestoreVolume()(sample["image"], sample).get_fdata()[:5].any()


def test_negative_intensities_use_the_lower_percentile(tmp_path):
    volume = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    low, high = brain_transforms((20, 20, 20), percentiles=(1, 99))(write(tmp_path / "z.nii.gz", volume))["image_range"]
    assert (float(low), float(high)) == pytest.approx(tuple(np.percentile(volume, (1, 99))), rel=1e-5)


def test_int16_with_a_slope(tmp_path):
    image = nib.Nifti1Image(np.round(smooth()).astype(np.int16), AFFINES["RAS"])
    image.header.set_slope_inter(0.5, 0)
    nib.save(image, tmp_path / "slope.nii.gz")
    assert nib.load(tmp_path / "slope.nii.gz").dataobj.slope == 0.5
    transform = brain_transforms((20, 24, 18))
    sloped = transform({"image": str(tmp_path / "slope.nii.gz")})
    plain = transform(write(tmp_path / "plain.nii.gz", np.round(smooth()).astype(np.float32)))
    torch.testing.assert_close(sloped["image"], plain["image"])
    torch.testing.assert_close(sloped["image_range"], plain["image_range"] / 2)


def test_a_trailing_singleton_axis_is_squeezed(tmp_path):
    transform = brain_transforms((20, 24, 18))
    flat, extra = write(tmp_path / "a.nii.gz", smooth()), write(tmp_path / "b.nii.gz", smooth()[..., None])
    torch.testing.assert_close(transform(extra)["image"], transform(flat)["image"])


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (np.ones((6, 6, 6, 3), np.float32) * np.arange(3, dtype=np.float32), "one three-dimensional volume"),
        (np.full((6, 6, 6), 7.0, np.float32), "must not be constant, got 7"),
        (np.where(np.arange(216).reshape(6, 6, 6) < 5, np.nan, 1.0).astype(np.float32), "5 non-finite voxels, 2%"),
    ],
    ids=["4D", "constant", "NaN"],
)
def test_bad_volumes_are_refused_by_name(tmp_path, volume, message):
    record = write(tmp_path / "broken.nii.gz", volume)
    with pytest.raises(RuntimeError) as caught:  # MONAI wraps what a transform raises
        brain_transforms((6, 6, 6))(record)
    assert isinstance(caught.value.__cause__, ValueError)
    assert "broken.nii.gz" in str(caught.value.__cause__)
    assert message in str(caught.value.__cause__)


def test_coarsening_does_not_alias(tmp_path):
    board = (np.indices((24, 24, 24)).sum(axis=0) % 2).astype(np.float32) * 100 + 10
    sample = brain_transforms((8, 8, 8), spacing=3.0, percentiles=(0, 100))(
        write(tmp_path / "board.nii.gz", board, np.eye(4))
    )
    low, high = sample["image_range"].tolist()
    inner = sample["image"][0, 2:-2, 2:-2, 2:-2] * (high - low) + low
    assert float((inner - 60).abs().max()) < 10  # the mean, where picking voxels would give 10 and 110


@pytest.mark.parametrize("name", AFFINES)
def test_round_trip_on_the_files_own_spacing(tmp_path, name):
    record = write(tmp_path / "a.nii.gz", smooth(), AFFINES[name])
    sample = brain_transforms((26, 26, 26), percentiles=(0, 100))(record)
    restored = RestoreVolume()(sample["image"], sample)
    nib.save(restored, tmp_path / "restored.nii.gz")
    original, again = nib.load(record["image"]), nib.load(tmp_path / "restored.nii.gz")
    assert again.affine.tobytes() == original.affine.tobytes()
    assert (again.shape, again.get_data_dtype()) == (original.shape, np.float32)
    np.testing.assert_allclose(again.get_fdata(), original.get_fdata(), atol=0.01)


@pytest.mark.parametrize("name", AFFINES)
def test_round_trip_through_another_spacing(tmp_path, name):
    record = write(tmp_path / "a.nii.gz", smooth(), AFFINES[name])
    sample = brain_transforms((60, 70, 80), spacing=1.0, percentiles=(0, 100))(record)
    restored = RestoreVolume()(sample["image"], sample).get_fdata()
    inner = np.abs(restored - smooth())[2:-2, 2:-2, 2:-2]
    assert float(inner.max()) < 0.03 * 800


def test_outside_the_field_of_view_is_zero(tmp_path):
    record = write(tmp_path / "a.nii.gz", smooth() + 50)
    sample = brain_transforms((10, 12, 8))(record)
    restored = RestoreVolume()(sample["image"], sample).get_fdata()
    assert not restored[:5].any()
    assert restored[5:15, 6:18, 5:13].all()


def test_a_qform_only_file_keeps_its_affine_to_the_bit(tmp_path):
    angle = 0.3
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = 2 * rotation
    image = nib.Nifti1Image(smooth(), affine)
    image.set_qform(affine, code=1)
    image.set_sform(None, code=0)
    nib.save(image, tmp_path / "q.nii.gz")
    record = {"image": str(tmp_path / "q.nii.gz")}
    sample = brain_transforms((26, 26, 26))(record)
    nib.save(RestoreVolume()(sample["image"], sample), tmp_path / "restored.nii.gz")
    assert nib.load(tmp_path / "restored.nii.gz").affine.tobytes() == nib.load(record["image"]).affine.tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((8, 8),), "`spatial_shape` must have three sides"),
        (((8, 8, 8), 0.0), "`spacing` must be a finite number > 0, got 0"),
        (((8, 8, 8), (1.0, 1.0)), "`spacing` must be one number or three"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        brain_transforms(*arguments)


def test_bad_percentiles():
    with pytest.raises(ValueError, match=r"`percentiles\[1\]` must be .*> 50 and <= 100, got 20"):
        brain_transforms((8, 8, 8), percentiles=(50, 20))


def test_rounding_in_an_oblique_affine_changes_nothing(tmp_path):
    # MONAI's Spacing moves the grid of such a pair by most of a voxel
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([2, 1.5, 3]), [-30, 10, 5])
    rng = np.random.default_rng(0)
    record = write(tmp_path / "a.nii.gz", smooth(), affine)
    transform = brain_transforms((24, 24, 24), spacing=2.5, percentiles=(0, 100))
    expected = transform(record)
    for number in range(5):
        noisy = affine + np.vstack([rng.uniform(-3e-7, 3e-7, (3, 4)), np.zeros(4)])
        found = transform(write(tmp_path / f"{number}.nii.gz", smooth(), noisy))
        torch.testing.assert_close(found["image"], expected["image"], atol=1e-4, rtol=0)
        torch.testing.assert_close(found["image_affine"], expected["image_affine"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("spacing", [0.7, 1.3])
def test_resampled_values_stand_where_the_affine_says(tmp_path, name, spacing):
    # a linear function of the place in the world is itself after linear interpolation
    shape, slope = (20, 24, 18), np.array([3.0, -2.0, 5.0])
    world = nib.affines.apply_affine(AFFINES[name], np.moveaxis(np.indices(shape), 0, -1))
    values = (world @ slope + 1000).astype(np.float32)
    sample = brain_transforms((12, 12, 12), spacing=spacing, percentiles=(0, 100))(
        write(tmp_path / "a.nii.gz", values, AFFINES[name])
    )
    low, high = sample["image_range"].tolist()
    grid = np.moveaxis(np.indices((12, 12, 12)), 0, -1)
    expected = nib.affines.apply_affine(sample["image_affine"].numpy(), grid) @ slope + 1000
    found = sample["image"][0].numpy() * (high - low) + low
    inside = np.abs(nib.affines.apply_affine(np.linalg.inv(AFFINES[name]) @ sample["image_affine"].numpy(), grid))
    kept = (inside < np.array(shape) - 4).all(-1) & (inside > 3).all(-1)
    assert kept.sum() > 100
    assert np.abs(found - expected)[kept].max() < 0.5  # of values that span hundreds
    # and the middle of the field of view stays where it was
    middle = nib.affines.apply_affine(AFFINES[name], (np.array(shape) - 1) / 2)
    voxel = nib.affines.apply_affine(np.linalg.inv(sample["image_affine"].numpy()), middle)
    assert np.abs(voxel - 5.5).max() < 0.51


def test_a_sform_that_the_header_contradicts_counts(tmp_path):
    # MONAI's reader takes the qform if that has the sides that pixdim says
    image = nib.Nifti1Image(smooth(), OBLIQUE)
    image.set_sform(OBLIQUE, code=2)
    image.set_qform(np.diag([2.0, 2.0, 2.2, 1.0]), code=1)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.warns(UserWarning, match=r"a\.nii\.gz has a sform whose voxels have other sides .* the sform counts"):
        found = ReadVolumed("image")({"image": str(tmp_path / "a.nii.gz")})
    stored = nib.load(tmp_path / "a.nii.gz").affine
    assert found["image"].affine.numpy().tobytes() == found["image_source_affine"].numpy().tobytes() == stored.tobytes()
    with pytest.warns(UserWarning, match="the sform counts"):
        sample = brain_transforms((26, 26, 26), percentiles=(0, 100))({"image": str(tmp_path / "a.nii.gz")})
    np.testing.assert_allclose(RestoreVolume()(sample["image"], sample).get_fdata(), smooth(), atol=0.01)


# ---- images in memory ----


def in_memory(values, affine=AFFINES["RAS"], **meta):
    return MetaTensor(torch.as_tensor(values), affine=torch.as_tensor(affine), meta=meta)


@pytest.mark.parametrize(
    "form",
    [
        lambda v: v, lambda v: v[None], lambda v: v[..., None], lambda v: v[None, ..., None], lambda v: v[None, None],
        lambda v: torch.from_numpy(v), lambda v: torch.from_numpy(v)[None].double().requires_grad_(),
        lambda v: v.astype(">f4"), lambda v: v.astype(np.float64)[::-1][::-1], lambda v: np.asfortranarray(v),
    ],
)  # fmt: skip
def test_shapes_and_types_in_memory(form):
    volume = smooth()
    given = form(volume)
    found = ReadVolumed("image")({"image": given, "image_meta_dict": {"affine": OBLIQUE, "filename_or_obj": "a.nii"}})
    assert found["image"].shape == (1, 20, 24, 18)
    assert found["image"].dtype == torch.float32
    assert np.array_equal(found["image"].numpy()[0], volume)
    assert found["image"].affine.tolist() == found["image_source_affine"].tolist() == OBLIQUE.tolist()
    assert (found["image_path"], found["image_source_shape"].tolist()) == ("a.nii", [20, 24, 18])
    found["image"][:] = 0
    assert volume.any()  # what was given stays as it was


@pytest.mark.parametrize(("dtype", "scale"), [(np.int16, 1), (np.uint16, 50), (np.uint8, 0.2)])
def test_integers_in_memory(dtype, scale):
    values = (smooth() * scale).astype(dtype)
    found = ReadVolumed("image")({"image": values, "image_meta_dict": {"affine": np.eye(4)}})["image"]
    assert np.array_equal(found.numpy()[0], values.astype(np.float32))


def test_an_affine_in_lps_is_turned():
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ OBLIQUE
    found = brain_transforms((20, 24, 18))({"image": in_memory(smooth(), lps, space="LPS")})
    expected = brain_transforms((20, 24, 18))({"image": in_memory(smooth(), OBLIQUE)})
    for key in ("image", "image_affine", "image_source_affine"):
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=1e-6)
    plain = Compose([ToPlainSampled("image")])
    meta = {"space": "LPS", "original_affine": lps, "spatial_shape": np.array([20, 24, 18])}
    sample = plain({"image": in_memory(smooth()[None], lps, **meta)})
    np.testing.assert_array_equal(sample["image_source_affine"], OBLIQUE)
    np.testing.assert_array_equal(sample["image_affine"], OBLIQUE)
    # turned while it was loaded: whose shape that is isn't known
    assert "image_source_shape" not in plain({"image": in_memory(smooth()[None], **meta, as_closest_canonical=True)})


BAD_AFFINE = np.diag([2.0, 2.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.zeros((3, 6, 6, 6)),
            r"must be one three-dimensional volume, of shape \(1, x, y, z\) .* got shape \(3, 6, 6, 6",
        ),
        (np.zeros((6, 6)), "must be one three-dimensional volume"),
        (np.zeros((1, 6, 6)), "one slice"),
        (np.zeros((1, 0, 6, 6)), "got none"),
        (np.full((6, 6, 6), 7.0), "must not be constant, got 7"),
        (torch.full((1, 6, 6, 6), torch.nan), "has no finite voxel"),
        (torch.zeros(6, 6, 6, dtype=torch.complex64), "must hold real numbers, got complex numbers"),
        (np.zeros((6, 6, 6), complex), "must hold real numbers, got complex numbers"),
        (np.zeros((6, 6, 6), object), "must hold real numbers, got object"),
        (np.full((6, 6, 6), 1e300), "has no finite voxel"),
        (in_memory(smooth(), BAD_AFFINE), "must have voxels of 0.05 to 20 mm, got 2 x 2 x 0"),
        (in_memory(smooth(), 2 * np.eye(4)), "ends in 0, 0, 0, 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("path", ["", "/data/sub-1.nii.gz"])
def test_bad_images_in_memory_are_refused_by_name(image, message, path):
    record = {"image": image, "image_meta_dict": {"affine": np.eye(4)}, "image_path": path}
    with pytest.raises(ValueError, match=f"^{path or 'The image in memory'} .*{message}"):
        ReadVolumed("image")(record)


@pytest.mark.parametrize("affine", ["text", [[1, 2], [3, 4]], np.eye(3), [[1], [2, 3]], {}])
def test_an_affine_that_is_none_is_refused(affine):
    with pytest.raises(ValueError, match="The image in memory must have an affine of 4x4 numbers"):
        ReadVolumed("image")({"image": smooth(), "image_meta_dict": {"affine": affine}})


@pytest.mark.parametrize("value", [None, 3, ["a.nii"], b"a.nii"])
def test_neither_a_path_nor_an_image(value):
    with pytest.raises(ValueError, match="The record must have a path or an image under 'image', got"):
        ReadVolumed("image")({"image": value})


def test_non_finite_voxels_in_memory_are_repaired():
    volume = smooth()
    volume[3, 4, 5] = np.inf
    with pytest.warns(UserWarning, match=r"sub-1\.nii has 1 non-finite voxels"):
        found = ReadVolumed("image")({"image": in_memory(volume, filename_or_obj="sub-1.nii")})["image"]
    assert found.isfinite().all()
    assert found.affine.tolist() == AFFINES["RAS"].tolist()
    assert np.isinf(volume[3, 4, 5])


def test_without_an_affine_it_is_taken_for_ras():
    with pytest.warns(UserWarning, match="'image' has no affine: it is taken for RAS with voxels of 1 mm") as caught:
        sample = brain_transforms((20, 24, 18))({"image": smooth()})
    assert len(caught) == 1
    assert sample["image_path"] == ""
    assert sample["image_source_affine"].tolist() == np.eye(4).tolist()


@pytest.mark.parametrize("form", [lambda mask: mask, lambda mask: torch.from_numpy(mask)[None], in_memory])
def test_a_mask_in_memory(form):
    mask = smooth() > 300
    sample = brain_transforms((20, 24, 18), mask_key="mask")({"image": in_memory(smooth() + 1), "mask": form(mask)})
    np.testing.assert_array_equal(sample["image"][0].numpy() > 0, mask)


def test_a_mask_in_memory_that_does_not_fit():
    read = ReadVolumed("image", "mask")
    image = in_memory(smooth())
    for mask in (smooth()[1:], in_memory(smooth(), OBLIQUE)):
        with pytest.raises(ValueError, match="The mask of the image in memory must be on the grid of"):
            read({"image": image, "mask": mask})
    with pytest.raises(ValueError, match="must have a mask's path under 'mask', got 3"):
        read({"image": image, "mask": 3})


@pytest.mark.parametrize("axes", [0, (0, 2)])
def test_transforms_that_are_pending_on_an_image_in_memory_are_applied(axes):
    volume, mask = in_memory(smooth()[None], OBLIQUE), in_memory((smooth() > 300)[None], OBLIQUE)
    lazy, done = (Flip(axes, lazy=lazy) for lazy in (True, False))
    pending = lazy(volume)
    assert pending.has_pending_operations
    read = ReadVolumed("image", "mask")
    found = read({"image": pending, "mask": lazy(mask)})
    expected = read({"image": done(volume), "mask": done(mask)})
    assert torch.equal(found["image"].as_tensor(), expected["image"].as_tensor())
    assert not torch.equal(found["image"].as_tensor(), read({"image": volume, "mask": mask})["image"].as_tensor())
    torch.testing.assert_close(found["image_source_affine"], expected["image_source_affine"])
    assert pending.has_pending_operations  # what was given stays as it was
    # at the end of a pipeline whose steps are called one by one, likewise
    sample = ToPlainSampled("image")({"image": pending})
    assert torch.equal(sample["image"], done(volume).as_tensor())
    torch.testing.assert_close(sample["image_affine"], done(volume).affine)


def test_a_pending_transform_of_another_shape_is_applied():
    lazy, done = (Spacing((3.0, 3.0, 3.0), lazy=lazy)(in_memory(smooth()[None])) for lazy in (True, False))
    found = ReadVolumed("image")({"image": lazy})
    assert found["image_source_shape"].tolist() == list(done.shape[1:]) != [20, 24, 18]
    np.testing.assert_allclose(found["image"].numpy(), done.numpy(), atol=0.01)


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_samples_of_images_in_memory_are_cached_and_collated(tmp_path, cache):
    records = [{"image": in_memory(smooth() + 10 * i)} for i in range(2)]
    transforms = brain_transforms((10, 12, 9), spacing=4.0)
    dataset = cached_dataset(records, transforms, cache, cache_dir=tmp_path, progress=False)
    batch = next(iter(DataLoader(dataset, batch_size=2)))
    assert batch["image_source_shape"].tolist() == [[20, 24, 18]] * 2
    assert batch["image_path"] == ["", ""]
    for index, record in enumerate(records):
        assert torch.equal(batch["image"][index], transforms(record)["image"])


def test_the_file_and_its_grid_are_in_the_sample(tmp_path):
    record = write(tmp_path / "a.nii.gz", smooth(), OBLIQUE)
    sample = brain_transforms((10, 12, 9), spacing=4.0)({**record, "image": tmp_path / "a.nii.gz"})
    assert sample["image_path"] == record["image"]
    assert sample["image_source_affine"].dtype == torch.float64
    assert sample["image_source_affine"].numpy().tobytes() == nib.load(record["image"]).affine.tobytes()
    assert sample["image_source_shape"].dtype == torch.int64
    assert sample["image_source_shape"].tolist() == [20, 24, 18]
    assert all(type(value) in (torch.Tensor, str) for value in sample.values())


# ---- intensities, whatever their zero and unit -----------------------------------------------------------------------


def ball(shape=(20, 24, 18), radius=0.8):
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij"))
    return (grid**2).sum(axis=0) < radius**2


def textured(shape=(20, 24, 18), seed=0):
    return np.random.default_rng(seed).gamma(4, 40, shape).astype(np.float32) + smooth(shape)


KINDS = {
    "skull-stripped": lambda seed: np.where(ball(), textured(seed=seed), 0),
    "a crop without background": lambda seed: textured(seed=seed) + 100,
    "a head in noise": lambda seed: np.hypot(
        np.where(ball(), textured(seed=seed), 0) + np.random.default_rng(seed).normal(0, 20, (20, 24, 18)),
        np.random.default_rng(seed + 1).normal(0, 20, (20, 24, 18)),
    ),
    "tissue at the faces": lambda seed: np.where(np.indices((20, 24, 18))[2] < 9, textured(seed=seed), 0),
    "darker than its background": lambda seed: np.where(ball(), textured(seed=seed), 5000),
    "a background within the range": lambda seed: np.where(ball(), textured(seed=seed), 400),
}


def sample_of(values, *arguments, affine=AFFINES["oblique"], mask=None, **options):
    record = {"image": in_memory(np.asarray(values, dtype=np.float32), affine), "mask": mask}
    return brain_transforms(*arguments, mask_key=None if mask is None else "mask", **options)(record)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [False, True])
@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 1000), st.floats(1e-3, 1e3), st.floats(-30, 30), st.sampled_from([None, 1.3, 4.0]),
    st.sampled_from(["background", "edge"]), st.sampled_from(["image", "foreground", (1.0, 2.0, 3.0)]),
    st.sampled_from([(9, 12, 8), (30, 26, 24)]),
)  # fmt: skip
def test_a_copy_with_other_intensities_gives_the_same(kind, masked, seed, a, c, spacing, padding, center, shape):
    values = KINDS[kind](seed).astype(np.float32)
    mask = ball(radius=0.7) if masked else None
    options = {"mask": mask, "padding": padding, "center": center}
    if center == "foreground":
        options["center"] = "image" if kind in ("a crop without background", "a head in noise") else center
    copy = a * (values.astype(float) + c * values.std())
    found, expected = (sample_of(each, shape, spacing, **options) for each in (copy, values))
    torch.testing.assert_close(found["image"], expected["image"], atol=1e-4, rtol=0)
    assert float(expected["image"].max()) > 0.9
    for name in ("cut_away", "filled", "padded"):
        torch.testing.assert_close(found[f"image_{name}"], expected[f"image_{name}"], atol=2e-3, rtol=0)
    scale = a * values.std()
    expected_range = a * expected["image_range"].numpy() + c * scale
    np.testing.assert_allclose(found["image_range"], expected_range, atol=1e-3 * scale)


def test_a_z_scored_volume_has_no_bright_frame(tmp_path):
    values = np.where(ball(), textured(), 0).astype(np.float32)
    z = ((values - values.mean()) / values.std()).astype(np.float32)
    assert z.min() == z[0, 0, 0] < -0.4
    transforms = brain_transforms((40, 40, 40), 2.5)
    sample = transforms(write(tmp_path / "z.nii.gz", z))
    assert float(sample["image_background"]) == z[0, 0, 0]
    assert not sample["image"][0, :6].any()
    assert not sample["image"][0, :, :, -6:].any()
    plain = transforms(write(tmp_path / "a.nii.gz", values))
    torch.testing.assert_close(sample["image"], plain["image"], atol=1e-5, rtol=0)
    # release 0.1.0 padded with 0, which is no background there
    earlier = rebuild_transforms(first_release_description((40, 40, 40), 2.5), "0.1.0")
    assert float(earlier(write(tmp_path / "z.nii.gz", z))["image"][0, :6].min()) > 0.1


@pytest.mark.parametrize("spacing", [None, 1.3, 4.0])
@pytest.mark.parametrize("shape", [(9, 12, 8), (30, 26, 24), (20, 24, 18)])
@pytest.mark.parametrize("kind", ["skull-stripped", "tissue at the faces"])
def test_around_a_background_of_zero_nothing_has_changed(tmp_path, spacing, shape, kind):
    record = write(tmp_path / "a.nii.gz", KINDS[kind](0).astype(np.float32), OBLIQUE)
    found = brain_transforms(shape, spacing)(record)
    earlier = rebuild_transforms(first_release_description(shape, spacing), "0.1.0")(record)
    assert earlier.keys() == found.keys() - {"image_background", "image_cut_away", "image_filled", "image_padded"}
    for name, value in earlier.items():
        assert torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value
    restored = [RestoreVolume()(sample["image"], sample).get_fdata() for sample in (found, earlier)]
    np.testing.assert_array_equal(*restored)


def test_what_release_010_made_of_a_volume(tmp_path):
    # by hand: percentiles of the voxels that aren't 0, and no range above 0
    values = KINDS["a background within the range"](3).astype(np.float32) - 400
    record = write(tmp_path / "a.nii.gz", values)
    sample = rebuild_transforms(first_release_description((24, 30, 18)), "0.1.0")(record)
    low, high = np.percentile(values[values != 0], (0.5, 99.5))
    assert low < 0
    expected = np.clip((np.pad(values, ((2, 2), (3, 3), (0, 0))) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(sample["image"][0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("background", [-70.0, 30.0, None])
def test_the_formula_of_the_scaling(background):
    rng = np.random.default_rng(0)
    values = rng.permutation(1000).astype(np.float32).reshape(10, 10, 10)
    if background is not None:
        values[:, :, :5] = background
        values[..., 9] = background
    record = ScaleBrainIntensityd("image", (2, 90), background="auto")({"image": torch.from_numpy(values)[None]})
    shown = values.ravel() if background is None else values[values != background]
    low, high = np.percentile(shown, (2, 90))
    low = min(low, background) if background is not None else low
    np.testing.assert_allclose(record["image_range"], (low, high))
    np.testing.assert_allclose(record["image"][0], np.clip((values - low) / (high - low), 0, 1), atol=1e-6)
    assert (record["image_background"].item() if background is not None else None) == background
    assert (math.isnan(record["image_background"])) == (background is None)
    # a background within the range becomes grey, and that can be seen
    if background == 30:
        assert 0 < float(record["image"][0, 0, 0, 0]) < 0.1
        assert float(record["image_background"]) > float(record["image_range"][0])


def test_a_background_brighter_than_all_keeps_the_order():
    values = np.where(ball(), 100 + 50 * np.random.default_rng(0).random((20, 24, 18)), 900)
    sample = sample_of(values, (20, 24, 18), affine=np.eye(4))
    assert float(sample["image_background"]) == 900
    assert bool((sample["image"][0, 0] == 1).all())
    order = np.argsort(values[ball()])
    assert (np.diff(sample["image"][0].numpy()[ball()][order]) >= 0).all()


def test_the_record_notes_a_background_for_those_who_ask(tmp_path):
    record = write(tmp_path / "a.nii.gz", np.where(ball(), textured(), -3).astype(np.float32))
    found = ReadVolumed("image", background="auto")(record)
    assert float(found["image_background"]) == -3
    assert found["image_background"].dtype == torch.float64
    assert "image_background" not in ReadVolumed("image")(record)
    assert math.isnan(
        ReadVolumed("image", background="auto")(write(tmp_path / "b.nii.gz", textured()))["image_background"]
    )
    for make in (
        lambda word: ReadVolumed("image", background=word),
        lambda w: ScaleBrainIntensityd("image", (0, 9), w),
    ):
        with pytest.raises(ValueError, match="`background` must be one of 'zero', 'auto', got 'black'"):
            make("black")


def test_nothing_but_background_in_view():
    values = np.full((20, 20, 20), -2, np.float32)
    values[:3, :3, :3] = 5
    with pytest.raises(RuntimeError) as caught:
        sample_of(values, (8, 8, 8), affine=np.eye(4))
    assert "has no voxel other than its background of -2 inside the field of view" in str(caught.value.__cause__)
    grey = np.random.default_rng(0).random((20, 20, 20)).astype(np.float32)
    grey[5:15, 5:15, 5:15] = 0.5
    with pytest.raises(RuntimeError) as caught:
        sample_of(grey, (8, 8, 8), affine=np.eye(4))
    assert "is constant, 0.5, inside the field of view" in str(caught.value.__cause__)


# ---- masks -----------------------------------------------------------------------------------------------------------


def masked_volume(values, mask, background="auto"):
    record = {"image": in_memory(values.astype(np.float32)), "mask": mask}
    found = ReadVolumed("image", "mask", background)(record)
    return found["image"][0].numpy(), float(found["image_background"]) if background == "auto" else None


def test_outside_the_mask_is_background():
    mask, values = ball(radius=0.6), np.where(ball(), textured() + 10, 0)
    cut, background = masked_volume(values, mask)
    np.testing.assert_array_equal(cut, np.where(mask, values, 0))
    assert background == 0
    cut, background = masked_volume(values - 700, mask)
    np.testing.assert_array_equal(cut, np.where(mask, values - 700, -700).astype(np.float32))
    assert background == -700
    cut, _ = masked_volume(values - 700, mask, "zero")
    np.testing.assert_array_equal(cut, (values - 700).astype(np.float32) * mask)  # what release 0.1.0 did


def test_a_background_within_the_range_is_none_for_a_mask():
    # 0 around a z-scored brain: the mask's outside must not be mid-grey
    mask = ball(radius=0.6)
    values = np.where(ball(), (textured() - 500) / 200, 0).astype(np.float32)
    expected = np.float32(np.percentile(values[mask], 0.5))
    cut, background = masked_volume(values, mask)
    assert expected < -0.5
    assert background == expected
    np.testing.assert_array_equal(cut, np.where(mask, values, expected))
    sample = sample_of(values, (20, 24, 18), mask=mask)
    assert not sample["image"][0].numpy()[~mask].any()


def test_a_head_in_noise_keeps_its_floor_under_a_mask():
    mask, values = ball(radius=0.6), KINDS["a head in noise"](0).astype(np.float32)
    cut, background = masked_volume(values, mask)
    assert background == np.float32(np.percentile(values, 0.5)) < np.percentile(values[mask], 0.5)
    assert (cut[~mask] == background).all()
    # and what is darker than that inside the mask is no brighter
    cut, background = masked_volume(values, ~mask)
    assert background == np.float32(min(np.percentile(values, 0.5), np.percentile(values[~mask], 0.5)))


def test_a_mask_of_everything_changes_nothing():
    for values in (textured(), np.where(ball(), textured(), -4)):
        cut, background = masked_volume(values, np.ones((20, 24, 18)))
        np.testing.assert_array_equal(cut, values.astype(np.float32))
        assert math.isnan(background) if values.min() > 0 else background == -4


# ---- what a volume goes on as ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [3.0, (1.0, 5.0, 2.0)], ids=str)
def test_a_crop_of_tissue_does_not_darken_at_its_faces(spacing):
    values = np.full((20, 24, 18), 50, np.float32)
    values[10, 12, 9] = 51
    step = ResampleAntiAliasedd("image", spacing)
    volume = in_memory(values[None], np.eye(4))
    noted = step({"image": volume, "image_background": torch.tensor(math.nan)})["image"].numpy()
    inner = noted.max()
    np.testing.assert_allclose(noted, 50, rtol=2e-3)
    # in a record that notes nothing, as in release 0.1.0, it goes on as 0
    assert step({"image": volume})["image"].numpy().min() < 0.8 * inner


@pytest.mark.parametrize(("spacing", "voxel"), [(4.0, False), (2.0, True)], ids=["a ball", "one voxel"])
def test_a_volume_with_another_background_is_told_apart_from_it_as_well_as_around_zero(spacing, voxel):
    values = np.where(ball(), textured(), 0).astype(np.float32)
    if voxel:  # in the corners of its smoothed self less is left than float64 has room for beside 4096
        values = np.zeros((21, 21, 21), np.float32)
        values[10, 10, 10] = 1
    affine = np.eye(4) if voxel else AFFINES["RAS"]
    step = ResampleAntiAliasedd("image", spacing)
    zero, high = (
        step({"image": in_memory(values[None] + b, affine), "image_background": torch.tensor(float(b))})[
            "image"
        ].numpy()
        for b in (0, 4096)
    )
    assert (zero.dtype, high.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(high != 4096, zero != 0)
    np.testing.assert_allclose(high - 4096, zero, atol=1e-3)
