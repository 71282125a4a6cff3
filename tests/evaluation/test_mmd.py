"""The distance between two sets of samples."""

import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import kstest

from monai_betavae.evaluation.latent_mixture import fit_latent_mixture, prior_codes, sample_codes
from monai_betavae.evaluation.mmd import mmd, mmd_test

RNG = np.random.default_rng(0)


def test_mmd_of_two_and_two_points_by_hand():
    x, y = np.array([[0.0], [1.0]]), np.array([[3.0], [5.0]])
    # distances: 1 within x, 2 within y, and 3, 5, 2, 4 between
    between = sum(math.exp(-(d**2) / 8) for d in (3, 5, 2, 4)) / 4
    expected = math.exp(-1 / 8) + math.exp(-4 / 8) - 2 * between
    assert mmd(x, y, bandwidth=2.0) == pytest.approx(expected)
    assert mmd(y, x, bandwidth=2.0) == pytest.approx(expected)
    # the median of 1, 2, 3, 5, 2, 4
    assert mmd(x, y) == pytest.approx(mmd(x, y, bandwidth=2.5))
    assert mmd(x, y, bandwidth=[1.0, 2.0]) == pytest.approx((mmd(x, y, bandwidth=1.0) + mmd(x, y, bandwidth=2.0)) / 2)


def test_mmd_of_unequal_sets_is_its_definition():
    x, y = RNG.normal(size=(7, 3)), RNG.normal(size=(4, 3)) + 1
    xx, yy, xy = (np.exp(-cdist(a, b, "sqeuclidean") / 2) for a, b in ((x, x), (y, y), (x, y)))
    expected = (xx.sum() - 7) / 42 + (yy.sum() - 4) / 12 - 2 * xy.mean()
    assert mmd(x, y, bandwidth=1.0) == pytest.approx(expected)


def test_identical_sets_are_not_apart():
    x = RNG.normal(size=(60, 3))
    found = mmd(x, x)
    # between the sets the kernel of a point with itself counts, within them it doesn't
    off_diagonal = (np.exp(-cdist(x, x, "sqeuclidean") / 2).sum() - 60) / (60 * 59)
    assert mmd(x, x, bandwidth=1.0) == pytest.approx(-2 / 60 * (1 - off_diagonal))
    assert -0.03 < found < 0
    assert mmd_test(x, x, 99).p_value > 0.9
    assert mmd(np.ones((3, 2)), np.ones((5, 2))) == pytest.approx(0)  # no two rows that differ
    assert mmd_test(np.ones((3, 2)), np.ones((5, 2)), 20).p_value == 1


def test_p_is_uniform_where_the_sets_are_of_one_distribution():
    rng = np.random.default_rng(1)
    tests = [mmd_test(rng.normal(size=(12, 2)), rng.normal(size=(9, 2)), 199, seed=k) for k in range(150)]
    assert kstest([test.p_value for test in tests], "uniform").pvalue > 0.01
    values = np.array([test.mmd for test in tests])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(150)  # unbiased
    assert values.min() < 0


def test_sets_that_differ_are_found():
    x = RNG.normal(size=(40, 4))
    shifted, wider = RNG.normal(size=(30, 4)) + 0.8, 3 * RNG.normal(size=(30, 4))
    for other in (shifted, wider):
        found = mmd_test(x, other, 199)
        assert found.p_value == pytest.approx(1 / 200)
        assert found.mmd == pytest.approx(mmd(x, other))
    assert mmd(x, x[::-1] + 3) > mmd(x, x[::-1] + 1) > 0.05


def test_permutations_follow_from_the_seed():
    x, y = RNG.normal(size=(10, 2)), RNG.normal(size=(10, 2)) + 0.4
    assert mmd_test(x, y, 50, seed=2) == mmd_test(x, y, 50, seed=2)
    assert len({mmd_test(x, y, 50, seed=seed).p_value for seed in range(5)}) > 1


def test_units_are_irrelevant_with_the_median_bandwidth():
    x, y = RNG.normal(size=(10, 2)), RNG.normal(size=(8, 2)) + 1
    assert mmd(1000 * x, 1000 * y) == pytest.approx(mmd(x, y))


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (np.zeros((1, 2)), np.zeros((3, 2)), {}, r"`x` must have shape \(n, d\) with at least two rows, got \(1, 2\)"),
        (np.zeros((3, 2)), np.zeros((3, 1, 2)), {}, r"`y` must have shape .*, got \(3, 1, 2\)"),
        (np.zeros((3, 2)), np.zeros((3, 4)), {}, "`y` must have 2 columns, as `x` has, got 4"),
        (np.full((3, 2), math.inf), np.zeros((3, 2)), {}, "`x` must be finite, got 6 values"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"bandwidth": 0.0}, "`bandwidth` must be a finite number > 0, got 0.0"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"bandwidth": [1.0, -1.0]}, "`bandwidth` must be a finite number > 0"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"bandwidth": []}, "`bandwidth` must be a number > 0, or at least one"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"n_permutations": 0}, "`n_permutations` must be an integer >= 1"),
    ],
)
def test_refusals_of_mmd(x, y, options, message):
    with pytest.raises(ValueError, match=message):
        mmd_test(x, y, **options)


def test_codes_of_a_mixture_are_closer_to_the_aggregate_posterior_than_those_of_the_prior():
    mu = np.repeat([[-4.0, 0.0], [4.0, 0.0]], 40, axis=0)
    logvar = np.full((80, 2), -2.0)
    real = mu + np.exp(-1) * np.random.default_rng(4).normal(size=(80, 2))
    mixture = fit_latent_mixture(mu, logvar)
    fitted, prior = mmd_test(real, sample_codes(mixture, 80), 99), mmd_test(real, prior_codes(80, 2), 99)
    assert fitted.p_value > 0.05
    assert prior.p_value == pytest.approx(0.01)
