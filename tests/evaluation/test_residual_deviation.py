"""Deviation by the most unusual voxels: a second implementation, ideal and useless residuals."""

import numpy as np
import pytest
from scipy import ndimage

from monai_betavae.evaluation import residual_deviation


def noise(n, seed, side=8):
    return np.random.default_rng(seed).standard_normal((n, side, side, side))


def score(z):
    return np.quantile(np.abs(z), 0.999) / np.sqrt(np.mean(z**2))


def test_equal_to_a_second_implementation_that_leaves_each_subject_out():
    healthy, new = noise(12, 0), noise(3, 1)
    mask = np.ones((8, 8, 8), bool)
    mask[0] = False
    found = residual_deviation(new[:, None], healthy, mask, spacing=(2.0, 1.0, 4.0), fwhm=3.0)
    sigma = 3.0 / 2.3548200450309493 / np.array([2.0, 1.0, 4.0])
    known = np.stack([ndimage.gaussian_filter(each, sigma) for each in healthy])[:, mask]
    ours = np.stack([ndimage.gaussian_filter(each, sigma) for each in new])[:, mask]
    z = (ours - known.mean(axis=0)) / known.std(axis=0, ddof=1)
    np.testing.assert_allclose(found.z[:, mask], z, rtol=1e-4, atol=1e-4)
    assert not found.z[:, ~mask].any()
    np.testing.assert_allclose(found.scores, [score(each) for each in z], rtol=1e-4)
    left_out = []
    for i in range(12):
        others = np.delete(known, i, axis=0)
        left_out.append(score((known[i] - others.mean(axis=0)) / others.std(axis=0, ddof=1)))
    np.testing.assert_allclose(found.reference, left_out, rtol=1e-4)
    assert found.p.tolist() == [(1 + np.sum(found.reference >= each)) / 13 for each in found.scores]


def test_a_local_change_is_found_at_its_place():
    new = noise(2, 1)
    new[1, 2:4, 5:7, 3:5] -= 4.0
    found = residual_deviation(new, noise(60, 0), np.ones((8, 8, 8)), fwhm=2.0)
    assert found.p[1] == pytest.approx(1 / 61)
    assert found.p[0] > 0.05
    assert np.unravel_index(np.argmin(found.z[1]), (8, 8, 8)) in {
        (x, y, z) for x in (2, 3) for y in (5, 6) for z in (3, 4)
    }


def test_channels_are_not_smoothed_into_each_other():
    healthy, new = noise(12, 0), noise(2, 1)
    mask = np.ones((8, 8, 8))
    both = [np.concatenate([each, each[:, ::-1]], axis=1) for each in (new, healthy)]
    found = residual_deviation(*both, np.ones((16, 8, 8)), fwhm=3.0, n_channels=2)
    alone = residual_deviation(new, healthy, mask, fwhm=3.0)
    np.testing.assert_allclose(found.z[:, :8], alone.z, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.z[:, :7:-1], alone.z, rtol=1e-5, atol=1e-5)


def test_scans_that_are_noisier_as_a_whole_do_not_deviate():
    found = residual_deviation(3 * noise(40, 1), noise(60, 0), np.ones((8, 8, 8)), fwhm=0)
    assert (found.p <= 0.05).mean() <= 0.15


def test_useless_residuals_have_uniform_p():
    found = residual_deviation(noise(400, 1, 6), noise(400, 0, 6), np.ones((6, 6, 6)), fwhm=0)
    assert (found.p <= 0.05).mean() == pytest.approx(0.05, abs=0.035)
    assert found.p.mean() == pytest.approx(0.5, abs=0.06)


def test_no_residual_at_all_deviates_nowhere():
    found = residual_deviation(np.zeros((1, 4, 4, 4)), np.zeros((5, 4, 4, 4)), np.ones((4, 4, 4)))
    assert found.scores.tolist() == [1.0]
    assert found.p.tolist() == [1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"healthy_residuals": np.zeros((2, 4, 4, 4))}, "at least three volumes"),
        ({"healthy_residuals": np.zeros((3, 4, 4, 5))}, "at least three volumes"),
        ({"mask": np.zeros((4, 4, 4))}, "`mask` must have a voxel"),
        ({"mask": np.ones((4, 4, 5))}, "`mask` must have shape"),
        ({"spacing": 0.0}, "`spacing` must be"),
        ({"quantile": 0.0}, "`quantile`"),
        ({"fwhm": -1.0}, "`fwhm`"),
        ({"n_channels": 3}, "`n_channels` must divide"),
        ({"residuals": np.full((1, 4, 4, 4), np.nan)}, "`residuals` must be finite"),
    ],
)
def test_refused(change, message):
    arguments = {
        "residuals": np.zeros((1, 4, 4, 4)),
        "healthy_residuals": np.zeros((3, 4, 4, 4)),
        "mask": np.ones((4, 4, 4)),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        residual_deviation(**arguments)
