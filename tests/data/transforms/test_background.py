"""What of a volume is background, whatever its intensities' zero and unit are."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_betavae.data.transforms.background import background_value, foreground, noted_background

SIDE = 10


def faces(shape=(SIDE,) * 3):
    """Return where the six faces are, each voxel once."""
    mask = np.ones(shape, bool)
    mask[1:-1, 1:-1, 1:-1] = False
    return mask


def tissue(seed=0, shape=(SIDE,) * 3):
    """Return a volume in which no two voxels are alike."""
    return np.random.default_rng(seed).permutation(math.prod(shape)).reshape(shape).astype(np.float32) + 1


# ---- background_value ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -0.5, 7.0, -1024.0])
@pytest.mark.parametrize("extra", [0, -1])
def test_half_of_the_faces_is_the_least(value, extra):
    volume = tissue()
    places = np.flatnonzero(faces())
    assert len(places) == 488  # 10^3 - 8^3
    volume.reshape(-1)[np.random.default_rng(1).permutation(places)[: 244 + extra]] = value
    assert background_value(volume) == (value if extra == 0 else None)


@pytest.mark.parametrize(("n_voxels", "found"), [(84_768, None), (85_799, None), (85_800, 0.0)])
def test_a_twentieth_of_all_voxels_is_the_least(n_voxels, found):
    # 130 x 120 x 110 = 1,716,000 voxels, of which 84,768 are on the faces: a frame alone is no background
    volume = tissue(shape=(130, 120, 110))
    frame = faces(volume.shape)
    assert (volume.size, np.count_nonzero(frame)) == (1_716_000, 84_768)
    volume[frame] = 0
    volume.reshape(-1)[np.flatnonzero(volume)[: n_voxels - 84_768]] = 0
    assert background_value(volume) == found


def test_of_two_at_half_each_the_darker_is_taken():
    volume = tissue()
    volume[faces()] = np.tile([3.5, -2.0], 244)
    assert background_value(volume) == -2.0


def test_an_edge_counts_once():
    # 2 x 2 x 2: eight corners, all of them on three faces
    volume = np.array([0, 0, 0, 0, 1, 2, 3, 4], np.float32).reshape(2, 2, 2)
    assert background_value(volume) == 0.0
    volume[0, 0, 0] = 9
    assert background_value(volume) is None


def test_a_noisy_background_and_a_crop_of_tissue_have_none():
    rng = np.random.default_rng(0)
    noise = np.hypot(*rng.normal(0, 20, (2, 20, 20, 20))).astype(np.float32)
    assert background_value(noise) is None
    assert background_value(np.round(noise)) is None
    assert background_value(tissue()) is None


def test_minus_zero_is_zero():
    volume = tissue()
    volume[faces()] = -0.0
    assert math.copysign(1, background_value(volume)) == 1


@pytest.mark.parametrize("shape", [(12, 9), (5, 6, 7)])
def test_other_numbers_of_axes(shape):
    volume = np.full(shape, 3.0, np.float32)
    volume[(slice(2, -2),) * len(shape)] = 5
    assert background_value(volume) == 3.0


# what float32 holds without merging neighbours: the offset is at most some hundred times the range
maps = st.tuples(st.floats(1e-3, 1e3), st.floats(-100, 100))


def mapped(volume, a, c):
    """Return a x + c in float32, c in units of the range."""
    return (a * (volume.astype(np.float64) + c * float(np.ptp(volume)))).astype(np.float32)


def skull_stripped(seed, inside_out=False):
    """Return a ball of tissue in a constant background, which lies within the tissue's range on demand."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 16)] * 3, indexing="ij"))
    ball = (grid**2).sum(axis=0) < rng.uniform(0.4, 0.9)
    inner = (
        np.round(300 + 200 * rng.normal(size=ball.shape)) if inside_out else np.round(rng.uniform(50, 900, ball.shape))
    )
    return np.where(ball, inner, 300 if inside_out else 0).astype(np.float32)


@given(st.integers(0, 2**16), st.booleans(), maps)
def test_a_background_moves_with_the_intensities(seed, inside_out, changed):
    volume = skull_stripped(seed, inside_out)
    copy = mapped(volume, *changed)
    found = background_value(copy)
    assert found == copy[0, 0, 0]
    np.testing.assert_array_equal(copy == found, volume == background_value(volume))


# ---- foreground ------------------------------------------------------------------------------------------------------


def test_foreground_stands_out_by_a_margin():
    # 100 voxels other than the background, at distances 1 to 100: their 99.5th percentile is 1 + 0.995 * 99
    values = np.concatenate([np.full(50, -3.0), -3.0 + np.arange(1, 101), [-3.0 - 20]])[None, None]
    distances = np.sort(np.append(np.arange(1, 101), 20.0))
    threshold = 0.1 * np.percentile(distances, 99.5)
    assert 9 < threshold < 10
    shown = foreground(values, -3.0)
    assert np.count_nonzero(shown) == 91 + 1
    np.testing.assert_array_equal(shown, np.abs(values + 3) > threshold)
    assert np.count_nonzero(foreground(values, -3.0, margin=0)) == 101
    assert not foreground(np.full((2, 2), 5.0), 5.0).any()


def test_without_a_background_the_darkest_tenth_of_the_range_is_none():
    values = np.arange(201.0)  # p_0.5 = 1, p_99.5 = 199: above 1 + 19.8
    np.testing.assert_array_equal(foreground(values, None), values > 20.8)


@given(st.integers(0, 2**16), st.booleans(), st.booleans(), maps)
def test_foreground_is_the_same_of_every_copy(seed, inside_out, known, changed):
    volume = skull_stripped(seed, inside_out)
    copy = mapped(volume, *changed)
    found, expected = (
        foreground(each, background_value(each) if known else None) for each in (copy.astype(np.float64), volume)
    )
    # a voxel at the threshold itself may round to either side
    assert np.count_nonzero(found != expected) <= 0.005 * volume.size


# ---- noted_background ------------------------------------------------------------------------------------------------


def test_it_is_looked_for_once():
    volume = torch.from_numpy(skull_stripped(0))[None] - 5
    record = {"image": MetaTensor(volume)}
    assert noted_background(record, "image") == -5.0
    assert record["image_background"].dtype == torch.float64
    record["image"] = record["image"] * 0 + torch.rand(volume.shape)
    assert noted_background(record, "image") == -5.0
    assert noted_background({"image": record["image"]}, "image") is None


@pytest.mark.parametrize("other", [None, "blue", 3.0])
def test_a_covariate_of_that_name_is_none(other):
    record = {"image": torch.from_numpy(tissue())[None], "image_background": other}
    assert noted_background(record, "image") is None
    assert math.isnan(record["image_background"])


def test_of_several_channels_the_first_counts():
    volume = torch.from_numpy(np.stack([skull_stripped(0) + 2, tissue(shape=(16,) * 3)]))
    assert noted_background({"image": volume}, "image") == 2.0
