"""The diversity of volumes."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import MultiScaleSSIMMetric
from numpy.testing import assert_allclose

from monai_betavae.evaluation.ms_ssim import _scales_and_window, ms_ssim_pairs

RNG = np.random.default_rng(0)


def blobs(n, seed=0):
    """Return smooth volumes that differ in where their blob is."""
    rng = np.random.default_rng(seed)
    axis = np.arange(16)
    centres = rng.uniform(6.5, 8.5, (n, 3))
    far = sum((axis.reshape([-1 if d == k else 1 for d in range(3)]) - centres[:, k, None, None, None]) ** 2
              for k in range(3))  # fmt: skip
    return np.exp(-far / 18)[:, None]


def test_duplicated_volumes_have_no_diversity_and_noise_has_all():
    same = np.repeat(blobs(1), 4, axis=0)
    assert_allclose(ms_ssim_pairs(same), 1, atol=1e-5)
    noise = ms_ssim_pairs(RNG.random((4, 1, 16, 16, 16)))
    between = ms_ssim_pairs(blobs(4))
    assert noise.max() < 0.15
    assert noise.max() < between.mean() < 0.95


def test_pairs_differ_and_none_comes_twice():
    values = np.zeros((6, 1, 8, 8))
    values += np.linspace(0.1, 1, 6).reshape(-1, 1, 1, 1)  # each pair has a luminance term of its own
    found = ms_ssim_pairs(values, n_pairs=1000)
    c1, level = 0.01**2, np.linspace(0.1, 1, 6)
    expected = [
        (2 * a * b + c1) / (a**2 + b**2 + c1) for i, a in enumerate(level) for b in level[i + 1 :]
    ]  # constant images: structure 1, one scale
    assert_allclose(np.sort(found), np.sort(expected), rtol=1e-3)
    few = ms_ssim_pairs(values, n_pairs=9)
    assert len(np.unique(few.round(5))) == 9
    assert np.isin(few, found).all()


def test_pairs_follow_from_the_seed():
    volumes = blobs(8)
    first = ms_ssim_pairs(volumes, n_pairs=5, seed=3)
    assert first.tolist() == ms_ssim_pairs(volumes, n_pairs=5, seed=3).tolist()
    assert first.tolist() != ms_ssim_pairs(volumes, n_pairs=5, seed=4).tolist()


def test_the_data_range_is_that_of_the_volumes():
    volumes = blobs(2)
    assert_allclose(ms_ssim_pairs(255 * volumes, data_range=255), ms_ssim_pairs(volumes), rtol=1e-3)
    assert abs(float(ms_ssim_pairs(volumes, data_range=10.0)[0] - ms_ssim_pairs(volumes)[0])) > 0.05


def test_a_large_grid_has_the_usual_settings():
    volumes = RNG.random((2, 1, 176, 180)) * 0.3 + np.linspace(0, 0.7, 180)
    usual = MultiScaleSSIMMetric(spatial_dims=2, data_range=1.0, reduction="none")
    expected = float(usual(*(torch.from_numpy(volume).float()[None] for volume in volumes)))
    # the published weights sum to 1.0000, to four digits
    assert ms_ssim_pairs(volumes)[0] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("side", "expected"),
    [(5, (1, 5)), (9, (1, 9)), (10, (2, 5)), (16, (2, 7)), (20, (3, 5)), (64, (4, 7)), (128, (5, 7)), (176, (5, 11))],
)
def test_scales_and_window_of_a_grid(side, expected):
    assert _scales_and_window(side) == expected


@pytest.mark.parametrize("side", [5, 6, 8, 9, 10, 11, 19, 20, 24, 44, 45, 46])
def test_every_grid_can_be_computed(side):
    assert ms_ssim_pairs(np.tile(RNG.random((1, 1, side, side)), (2, 1, 1, 1)))[0] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("volumes", "options", "message"),
    [
        (blobs(1), {}, r"`volumes` must have shape .*, got \(1, 1, 16, 16, 16\)"),
        (np.zeros((3, 8, 8)), {}, "`volumes` must have shape"),
        (np.zeros((3, 1, 8, 8, 4)), {}, "at least 5 voxels a side"),
        (blobs(2) * math.nan, {}, "`volumes` must be finite, got values that aren't in volume 0 or 1"),
        (blobs(2), {"n_pairs": 0}, "`n_pairs` must be an integer >= 1"),
        (blobs(2), {"data_range": 0}, "`data_range` must be a finite number > 0"),
        (blobs(2), {"seed": 1.5}, "`seed` must be None or an integer"),
    ],
)
def test_refusals_of_ms_ssim(volumes, options, message):
    with pytest.raises(ValueError, match=message):
        ms_ssim_pairs(volumes, **options)
