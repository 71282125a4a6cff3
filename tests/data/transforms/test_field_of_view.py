"""What lies in the model's grid: where it is put, what is cut away, and what fills it up."""

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import ResizeWithPadOrCrop

from monai_betavae.data import CropToGridd, PadToGridd, RestoreVolumed, brain_transforms
from monai_betavae.data.transforms.field_of_view import (
    check_center,
    foreground_middle,
    nearest_voxel,
    scaled_background,
)

AFFINE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, -0.05, 0.2) @ np.diag([2.0, 1.5, 2.5]), [-20, -25, -15])


def in_memory(values, affine=AFFINE):
    return MetaTensor(torch.as_tensor(values), affine=torch.as_tensor(np.asarray(affine, dtype=float)))


def head(shape=(24, 26, 22), centre=(12, 13, 11), radius=8.0, lowest=0.0):
    """Return a smooth bright ball in a constant background; it may be cut off by the array's faces."""
    grid = np.stack(np.meshgrid(*(np.arange(side) - c for side, c in zip(shape, centre, strict=True)), indexing="ij"))
    squared = (grid**2).sum(axis=0) / radius**2
    return np.where(squared < 1, 900 - 500 * squared + 40 * np.sin(grid[0]) + 30 * np.cos(2 * grid[1]), lowest).astype(
        np.float32
    )


# ---- center ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["image", "foreground", [1, 2.5, -3], (0, 0, 0), np.array([1.0, 2.0, 3.0])])
def test_centers(value):
    found = check_center(value)
    assert found == (value if isinstance(value, str) else tuple(float(entry) for entry in value))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("brain", r"`center` must be 'image' or 'foreground', or three numbers, a point in mm .* got 'brain'"),
        ("1,2", r"`center` must be .* got '1,2'"), ([1, 2], r"`center` must be .* got \[1, 2\]"),
        (3, r"`center` must be .* got 3"), (None, r"`center` must be .* got None"),
        ([1, 2, math.nan], "`center` must be a finite number, got nan"),
        ([1, 2, "3"], "`center` must be a finite number, got '3'"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "make", [lambda center: CropToGridd("image", (4, 4, 4), center), lambda c: brain_transforms((4, 4, 4), center=c)]
)
def test_other_centers_are_refused(make, value, message):
    with pytest.raises(ValueError, match=message):
        make(value)


@pytest.mark.parametrize("kind", [CropToGridd, PadToGridd])
@pytest.mark.parametrize(
    ("size", "message"), [((8, 8), "`spatial_size` must have three sides"), ((0, 8, 8), "`spatial_size`")]
)
def test_other_sizes_are_refused(kind, size, message):
    with pytest.raises(ValueError, match=message):
        kind("image", size)


def test_the_middle_of_the_foreground_leaves_specks_out():
    mask = np.zeros((40, 40, 40), bool)
    mask[10:20, 12:25, 5:20] = True  # 1950 voxels: 9 others are less than 0.5 %
    assert foreground_middle(mask).tolist() == [14.5, 18.0, 12.0]
    mask[0, 0, 30:39] = True
    assert foreground_middle(mask).tolist() == [14.5, 18.0, 12.0]
    mask[0, 0, :3] = True  # 12 of 1962 are more
    assert foreground_middle(mask).tolist() == [9.5, 12.0, 12.0]
    assert foreground_middle(np.zeros((4, 5, 6), bool)).tolist() == [1.5, 2.0, 2.5]


@given(st.integers(0, 2**16))
def test_a_turned_foreground_has_the_turned_middle(seed):
    mask = np.random.default_rng(seed).random((7, 8, 9)) > 0.8
    x, y, z = foreground_middle(mask)
    assert foreground_middle(mask[::-1].transpose(2, 0, 1)).tolist() == [z, 6 - x, y]


def test_halves_are_rounded_up_whatever_rounding_did():
    assert nearest_voxel([2.5, 2.5 - 1e-9, 2.5 + 1e-9, 2.49, -0.5, -0.52]).tolist() == [3, 3, 3, 2, 0, -1]


# ---- crop and pad ----------------------------------------------------------------------------------------------------


sides = st.tuples(*[st.integers(1, 9)] * 3)


@given(sides, sides)
def test_about_the_image_it_is_monais_resize_with_pad_or_crop(shape, size):
    volume = in_memory(torch.arange(1.0, 1 + math.prod(shape)).reshape(1, *shape))
    expected = ResizeWithPadOrCrop(size)(volume)
    record = {"image": volume, "image_background": torch.tensor(0.0), "image_range": torch.tensor([0.0, 1.0])}
    found = PadToGridd("image", size)(CropToGridd("image", size)(record))
    assert torch.equal(found["image"].as_tensor(), expected.as_tensor())
    assert torch.equal(found["image"].affine, expected.affine)
    padding = 1 - math.prod(map(min, shape, size)) / math.prod(size)
    assert float(found["image_padded"]) == pytest.approx(padding, abs=1e-12)
    assert "image_margins" not in found
    # and without the step before it, if the volume fits
    if all(side <= most for side, most in zip(shape, size, strict=True)):
        alone = PadToGridd("image", size)(record)["image"]
        assert torch.equal(alone.as_tensor(), expected.as_tensor())


@given(sides, sides, st.tuples(*[st.integers(0, 8)] * 3))
def test_a_point_comes_to_the_middle_voxel(shape, size, voxel):
    voxel = np.minimum(voxel, np.array(shape) - 1)
    volume = in_memory(torch.zeros(1, *shape))
    volume[(0, *voxel)] = 5
    point = nib.affines.apply_affine(AFFINE, voxel)
    found = CropToGridd("image", size, point)({"image": volume})
    found = PadToGridd("image", size)({**found, "image_range": torch.tensor([0.0, 5.0])})
    middle = np.array(size) // 2
    assert tuple(found["image"].shape[1:]) == size
    assert np.argwhere(found["image"][0].numpy() == 5).tolist() == [middle.tolist()]
    np.testing.assert_allclose(nib.affines.apply_affine(found["image"].affine.numpy(), middle), point, atol=1e-9)


def test_shares_counted_by_hand():
    # 4 x 6 x 6 = 144 voxels of foreground, of which the window of (8, 4, 4) about the middle of (10, 10, 10) keeps
    # x 1..8 (3 of 4), y and z 3..6 (4 of 6)
    volume = np.full((10, 10, 10), -2, np.float32)
    volume[:4, 2:8, 2:8] = 1
    found = CropToGridd("image", (8, 4, 4))({"image": in_memory(volume[None])})
    assert tuple(found["image"].shape) == (1, 8, 4, 4)
    assert float(found["image_cut_away"]) == 1 - 3 * 4 * 4 / 144
    assert float(found["image_filled"]) == 3 * 4 * 4 / (8 * 4 * 4)
    assert float(found["image_background"]) == -2
    # on a large grid nothing is cut away, and 144 of 8000 voxels are filled
    found = PadToGridd("image", (20, 20, 20))(CropToGridd("image", (20, 20, 20))({"image": in_memory(volume[None])}))
    assert [float(found[f"image_{name}"]) for name in ("cut_away", "filled", "padded")] == [0, 144 / 8000, 7 / 8]
    for name in ("cut_away", "filled", "padded", "background"):
        assert (found[f"image_{name}"].dtype, found[f"image_{name}"].shape) == (torch.float64, ())


def test_about_the_foreground():
    volume = np.zeros((12, 12, 12), np.float32)
    volume[1:6, 2:9, 4:12] = np.random.default_rng(0).uniform(500, 900, (5, 7, 8))  # its middle is at 3, 5, 7.5
    found = CropToGridd("image", (5, 7, 8), "foreground")({"image": in_memory(volume[None], np.eye(4))})
    assert found["image_center"].tolist() == [3, 5, 7.5]
    assert found["image"].affine[:3, 3].tolist() == [1, 2, 4]  # 8 - 8 // 2: a half is rounded up
    assert float(found["image_cut_away"]) == 0
    assert float(found["image_filled"]) == 1


def test_the_middle_of_the_files_own_voxels_is_kept():
    # whatever a step between does to the voxels
    volume = in_memory(head()[None], np.eye(4))
    noted = torch.tensor([5.0, 6.0, 7.0], dtype=torch.float64)
    found = CropToGridd("image", (4, 4, 4), "foreground")({"image": volume, "image_center": noted})
    assert found["image"].affine[:3, 3].tolist() == [3, 4, 5]
    # but a covariate of that name is none
    other = CropToGridd("image", (4, 4, 4), "foreground")({"image": volume, "image_center": "London"})
    assert other["image_center"].tolist() == [12, 13, 11]


@pytest.mark.parametrize("path", ["", "/data/sub-1.nii.gz"])
def test_a_volume_outside_the_grid_is_refused_by_name(path):
    record = {"image": in_memory(head()[None], np.diag([2.0, 2, 2, 1])), "image_path": path}
    with pytest.raises(
        ValueError,
        match=rf"^{path or 'The image in memory'} lies wholly outside the grid around `center` \[0\.0, -90\.0, 8\.0\]: "
        "it spans x from 0 to 46, y from 0 to 50, z from 0 to 42 mm. Give a point inside, or --center image",
    ):
        CropToGridd("image", (16, 16, 16), (0, -90, 8))(record)
    # the window of 8 voxels about -4 ends at 0: one voxel further in it holds a slice
    with pytest.raises(ValueError, match="lies wholly outside"):
        CropToGridd("image", (8, 8, 8), (24, -8, 24))(record)
    assert CropToGridd("image", (8, 8, 8), (24, -6, 24))(record)["image"].shape == (1, 8, 1, 8)


def test_what_has_no_affine_has_a_middle_only():
    volume = torch.rand(1, 6, 6, 6)
    assert CropToGridd("image", (4, 4, 4))({"image": volume})["image"].shape == (1, 4, 4, 4)
    for center in ("foreground", (1, 2, 3)):
        with pytest.raises(ValueError, match=r"must be a MetaTensor, with an affine, for `center` .* got Tensor"):
            CropToGridd("image", (4, 4, 4), center)({"image": volume})


@pytest.mark.parametrize("step", [CropToGridd("image", (4, 4, 4)), PadToGridd("image", (4, 4, 4))])
def test_two_axes_are_refused(step):
    with pytest.raises(ValueError, match=r"a\.nii must be channel first, with three axes, got shape \(1, 6, 6\)"):
        step({"image": torch.rand(1, 6, 6), "image_path": "a.nii"})


def test_another_size_than_the_crop_had_is_refused():
    record = CropToGridd("image", (8, 8, 8))({"image": in_memory(head()[None]), "image_path": "a.nii"})
    with pytest.raises(ValueError, match=r"a\.nii must fit .* \[8, 10, 8\] of PadToGridd, got shape \(1, 8, 8, 8\)"):
        PadToGridd("image", (8, 10, 8))(record)
    with pytest.raises(ValueError, match=r"The image in memory must fit .* give CropToGridd"):
        PadToGridd("image", (8, 8, 8))({"image": in_memory(head()[None])})


# ---- padding ---------------------------------------------------------------------------------------------------------


def test_the_edge_is_drawn_out():
    values = np.random.default_rng(0).random((1, 3, 4, 5)).astype(np.float32)
    found = PadToGridd("image", (5, 5, 9), "edge")({"image": in_memory(values)})["image"]
    expected = np.pad(values, ((0, 0), (1, 1), (0, 1), (2, 2)), mode="edge")
    np.testing.assert_array_equal(found.numpy(), expected)
    with pytest.raises(ValueError, match="`padding` must be one of 'background', 'edge', got 'zeros'"):
        PadToGridd("image", (4, 4, 4), "zeros")
    with pytest.raises(ValueError, match="`padding` must be one of 'background', 'edge', got 'reflect'"):
        brain_transforms((4, 4, 4), padding="reflect")


@pytest.mark.parametrize(
    ("background", "scale", "expected"),
    [(2.0, (0.0, 8.0), 0.25), (-5.0, (0.0, 8.0), 0.0), (9.0, (0.0, 8.0), 1.0), (math.nan, (-1.0, 1.0), 0.0),
     (None, (-1.0, 1.0), 0.0), (-1.0, (-1.0, 1.0), 0.0)],
)  # fmt: skip
def test_the_background_is_scaled(background, scale, expected):
    record = {"image": in_memory(torch.ones(1, 2, 2, 2)), "image_range": torch.tensor(scale)}
    if background is not None:
        record["image_background"] = torch.tensor(background)
    assert scaled_background(record, "image") == expected
    padded = PadToGridd("image", (4, 2, 2))(record)["image"]
    assert padded[0, :, 0, 0].tolist() == [expected, 1, 1, expected]


def test_after_other_transforms_the_padding_is_what_the_background_has_become():
    volume = in_memory(((head() - 300) / 200)[None])  # the background is -1.5
    record = CropToGridd("image", (30, 30, 30))({"image": volume})
    found = PadToGridd("image", (30, 30, 30))({**record, "image": record["image"] * 2 + 1})["image"]
    assert float(found[0, 0, 0, 0]) == -2
    assert float(found.min()) == -2
    # of a crop of tissue nothing is known
    tissue = in_memory(torch.rand(1, 4, 4, 4) + 1)
    assert float(PadToGridd("image", (6, 6, 6))({"image": tissue})["image"].min()) == 0


# ---- copies of a volume ----------------------------------------------------------------------------------------------


def recut(values, affine, low, high, fill):
    """Return a volume with so many voxels more (or fewer, where negative) at both ends of each axis."""
    more = [(max(a, 0), max(b, 0)) for a, b in zip(low, high, strict=True)]
    less = tuple(slice(max(-a, 0), side - max(-b, 0)) for a, b, side in zip(low, high, values.shape, strict=True))
    moved = affine.copy()
    moved[:3, 3] -= affine[:3, :3] @ np.array(low)
    return np.pad(values[less], more, constant_values=fill), moved


SPACINGS = [None, 3.0, (1.2, 4.0, 2.0), 0.9]


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("center", ["foreground", (4.0, -7.0, 11.0)], ids=str)
@pytest.mark.parametrize("lowest", [0.0, -250.0])
@pytest.mark.parametrize("touching", [False, True], ids=["free", "cut by a face"])
def test_where_the_array_ends_changes_nothing(spacing, center, lowest, touching):
    values = head(lowest=lowest, radius=7.0, centre=(12, 13, 3 if touching else 11))
    transforms = brain_transforms((17, 20, 14), spacing, center=center)
    expected = transforms({"image": in_memory(values, AFFINE)})
    assert float(expected["image_filled"]) > 0.05
    cuts = [((3, 0, 5), (0, 2, 0)), ((9, 9, 9), (8, 8, 8)), ((-3, -4, 2), (-2, -1, 0)), ((-4, 6, 1), (3, -5, 7))]
    for low, high in cuts:
        copy = recut(values, AFFINE, low, high, lowest)
        found = transforms({"image": in_memory(*copy)})
        torch.testing.assert_close(found["image"], expected["image"], atol=1e-3, rtol=0)
        torch.testing.assert_close(found["image_affine"], expected["image_affine"], atol=1e-9, rtol=0)
        for name in ("cut_away", "filled", "background"):
            torch.testing.assert_close(found[f"image_{name}"], expected[f"image_{name}"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
def test_about_the_image_the_array_decides(spacing):
    # what the other centers are for: this test would pass for them
    values = head()
    transforms = brain_transforms((17, 20, 14), spacing)
    expected = transforms({"image": in_memory(values)})
    copy = transforms({"image": in_memory(*recut(values, AFFINE, (6, 0, 0), (0, 0, 0), 0.0))})
    assert float((copy["image"] - expected["image"]).abs().max()) > 0.1


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.integers(-3, 6)] * 3), st.tuples(*[st.integers(-3, 6)] * 3), st.sampled_from(SPACINGS),
    st.sampled_from([np.eye(3), np.diag([-1, 1, 1]), np.eye(3)[[1, 2, 0]], np.eye(3)[[2, 0, 1]] * [1, -1, 1]]),
)  # fmt: skip
def test_nor_does_how_the_file_is_turned(low, high, spacing, turn):
    values = head(lowest=-3.0, radius=7.0)
    transforms = brain_transforms((17, 20, 14), spacing, center="foreground")
    expected = transforms({"image": in_memory(values)})
    copy, affine = recut(values, AFFINE, low, high, -3.0)
    turned = nib.orientations.io_orientation(nib.affines.from_matvec(turn))
    stored = nib.orientations.apply_orientation(copy, turned).copy()
    affine = affine @ nib.orientations.inv_ornt_aff(turned, copy.shape)
    found = transforms({"image": in_memory(stored, affine)})
    torch.testing.assert_close(found["image"], expected["image"], atol=1e-3, rtol=0)
    torch.testing.assert_close(found["image_affine"], expected["image_affine"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("spacing", [3.0, (1.2, 4.0, 2.0), 0.9], ids=str)
def test_a_voxel_lies_at_the_point(spacing):
    point = np.array([4.0, -7.0, 11.0])
    for size in ((17, 20, 14), (60, 60, 60)):
        sample = brain_transforms(size, spacing, center=point.tolist())({"image": in_memory(head())})
        middle = nib.affines.apply_affine(sample["image_affine"].numpy(), np.array(size) // 2)
        np.testing.assert_allclose(middle, point, atol=1e-9)


@pytest.mark.parametrize("center", ["foreground", (4.0, -7.0, 11.0)], ids=str)
@pytest.mark.parametrize("spacing", [0.9, 1.7], ids=str)
def test_resampled_values_stand_where_the_affine_says(center, spacing):
    # a linear function of the place in the world is itself after linear interpolation; it has no background
    slope = np.array([3.0, -2.0, 5.0])
    world = nib.affines.apply_affine(AFFINE, np.moveaxis(np.indices((20, 24, 18)), 0, -1))
    values = (world @ slope + 1000).astype(np.float32)
    sample = brain_transforms((12, 12, 12), spacing, percentiles=(0, 100), center=center)({"image": in_memory(values)})
    low, high = sample["image_range"].tolist()
    grid = np.moveaxis(np.indices((12, 12, 12)), 0, -1)
    expected = nib.affines.apply_affine(sample["image_affine"].numpy(), grid) @ slope + 1000
    np.testing.assert_allclose(sample["image"][0].numpy() * (high - low) + low, expected, atol=0.1)


@pytest.mark.parametrize("center", ["foreground", (4.0, -7.0, 11.0)], ids=str)
@pytest.mark.parametrize("spacing", [None, 1.4], ids=str)
def test_there_and_back(center, spacing):
    values = head()
    sample = brain_transforms((60, 60, 60), spacing, percentiles=(0, 100), center=center)({"image": in_memory(values)})
    restored = RestoreVolumed()({**sample, "pred": sample["image"]})["pred"]
    assert restored.shape == (1, *values.shape)
    apart = np.abs(restored[0].numpy() - values)
    assert float(apart.max() if spacing is None else apart[values > 0].mean()) < (0.01 if spacing is None else 40)


def test_a_point_far_from_a_volume_is_refused_after_resampling_too():
    transforms = brain_transforms((8, 8, 8), 3.0, center=[500, 0, 0])
    with pytest.raises(RuntimeError) as caught:
        transforms({"image": in_memory(head())})
    assert "The image in memory lies wholly outside the grid around `center` [500.0, 0.0, 0.0]" in str(
        caught.value.__cause__
    )
