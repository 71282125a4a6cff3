"""Diversity, distance and densities of codes: hand-computed, under the null, and where the truth is known."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import MultiScaleSSIMMetric
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist
from scipy.stats import kstest, multivariate_normal

from monai_betavae.evaluation.latent_mixture import LatentMixture, fit_latent_mixture, prior_codes, sample_codes
from monai_betavae.evaluation.mmd import mmd, mmd_test
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


# ---- diversity ------------------------------------------------------------------------------------------------------


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


# ---- distance -------------------------------------------------------------------------------------------------------


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


# ---- codes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_the_mixture_finds_two_clusters(covariance):
    rng = np.random.default_rng(2)
    mu = np.concatenate([rng.normal([-6, 0], 1, (60, 2)), rng.normal([6, 3], 1, (120, 2))])
    mixture = fit_latent_mixture(mu, np.full((180, 2), math.log(0.5)), covariance=covariance)
    order = np.argsort(mixture.weights)
    assert_allclose(mixture.weights[order], [1 / 3, 2 / 3], atol=0.01)
    assert_allclose(mixture.means[order], [[-6, 0], [6, 3]], atol=0.4)
    # the spread of the means and the posteriors' own: 1 + 0.5
    assert_allclose(mixture.covariances[order], np.tile(1.5 * np.eye(2), (2, 1, 1)), atol=0.4)
    assert fit_latent_mixture(mu, np.full((180, 2), math.log(0.5)), 1, covariance=covariance).bic > mixture.bic


@pytest.mark.parametrize(("n", "logvar"), [(20, -4.0), (20, 0.0), (10, -30.0), (3, -1.0)])
def test_one_cluster_has_one_component_however_few_subjects(n, logvar):
    mu = np.random.default_rng(3).normal(size=(n, 2))
    for n_draws in (10, 30):
        assert len(fit_latent_mixture(mu, np.full((n, 2), logvar), n_draws=n_draws).weights) == 1


def test_bic_by_hand_for_one_component():
    mu = np.random.default_rng(3).normal(size=(50, 2))
    full, diagonal = (fit_latent_mixture(mu, np.full((50, 2), -30.0), 1, covariance=c) for c in ("full", "diag"))
    # a maximum-likelihood normal: n log density = -(n / 2) (log |2 pi C| + d)
    for mixture, n_parameters in ((full, 5), (diagonal, 4)):
        log_determinant = np.linalg.slogdet(2 * math.pi * mixture.covariances[0])[1]
        expected = 50 * (log_determinant + 2) + n_parameters * math.log(50)
        assert mixture.bic == pytest.approx(expected, rel=1e-4)
    assert_allclose(full.covariances[0], np.cov(mu.T, bias=True), atol=1e-4)


def test_bic_by_hand_for_two_components():
    mu = np.random.default_rng(3).normal(size=(50, 2)) + np.repeat([[-5.0], [5.0]], 25, axis=0)
    # one weight, two means and two covariances: 1 + 4 + 6, or 1 + 4 + 4
    for covariance, n_parameters in (("full", 11), ("diag", 9)):
        found = fit_latent_mixture(mu, np.full((50, 2), -30.0), 2, covariance=covariance, n_draws=1)
        parts = zip(found.weights, found.means, found.covariances, strict=True)
        density = sum(weight * multivariate_normal(mean, c).pdf(mu) for weight, mean, c in parts)
        expected = -2 * np.log(density).sum() + n_parameters * math.log(50)
        assert found.bic == pytest.approx(expected, rel=1e-4)


def test_sampled_codes_have_the_density_of_the_mixture():
    covariances = np.array([[[2.0, 1.2], [1.2, 1.0]], [[0.5, 0.0], [0.0, 0.0]]])
    mixture = LatentMixture(np.array([0.25, 0.75]), np.array([[-50.0, 0.0], [50.0, 1.0]]), covariances, 0.0)
    codes = sample_codes(mixture, 20000)
    first = codes[:, 0] < 0
    assert first.mean() == pytest.approx(0.25, abs=0.01)
    for chosen, mean, covariance in zip((first, ~first), mixture.means, covariances, strict=True):
        assert_allclose(codes[chosen].mean(axis=0), mean, atol=0.06)
        assert_allclose(np.cov(codes[chosen].T), covariance, atol=0.08)


def test_codes_of_a_mixture_are_closer_to_the_aggregate_posterior_than_those_of_the_prior():
    mu = np.repeat([[-4.0, 0.0], [4.0, 0.0]], 40, axis=0)
    logvar = np.full((80, 2), -2.0)
    real = mu + np.exp(-1) * np.random.default_rng(4).normal(size=(80, 2))
    mixture = fit_latent_mixture(mu, logvar)
    fitted, prior = mmd_test(real, sample_codes(mixture, 80), 99), mmd_test(real, prior_codes(80, 2), 99)
    assert fitted.p_value > 0.05
    assert prior.p_value == pytest.approx(0.01)


def test_codes_of_the_prior_are_standard_normal():
    codes = prior_codes(4000, 3)
    assert codes.shape == (4000, 3)
    assert kstest(codes.ravel(), "norm").pvalue > 0.01
    assert_allclose(np.corrcoef(codes.T), np.eye(3), atol=0.06)


def test_codes_follow_from_the_seed_and_leave_the_global_generator():
    mu, logvar = RNG.normal(size=(30, 2)), np.zeros((30, 2))
    state = np.random.get_state()  # noqa: NPY002
    mixture = fit_latent_mixture(mu, logvar, 2)
    for again, value in zip(fit_latent_mixture(mu, logvar, 2), mixture, strict=True):
        assert_allclose(again, value, rtol=1e-12)
    assert (fit_latent_mixture(mu, logvar, 2, seed=1).means != mixture.means).all()
    assert (sample_codes(mixture, 5) == sample_codes(mixture, 5)).all()
    assert (sample_codes(mixture, 5, seed=1) != sample_codes(mixture, 5)).all()
    assert (prior_codes(5, 2) == prior_codes(5, 2)).all()
    assert (prior_codes(5, 2, seed=1) != prior_codes(5, 2)).all()
    fit_latent_mixture(mu, logvar, 2, seed=None)
    assert (prior_codes(5, 2, seed=None) != prior_codes(5, 2, seed=None)).all()
    np.testing.assert_equal(np.random.get_state(), state)  # noqa: NPY002


def test_two_streams_of_a_seed_are_unrelated():
    standard = LatentMixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None], 0.0)
    assert not np.isin(np.abs(sample_codes(standard, 50)), np.abs(prior_codes(50, 2))).any()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.zeros((3, 2)), np.zeros((3, 1))), {}, r"must have one shape .*, got \(3, 2\) and \(3, 1\)"),
        ((np.zeros((1, 2)), np.zeros((1, 2))), {}, "at least two rows"),
        ((np.full((3, 2), math.nan), np.zeros((3, 2))), {}, "`mu` must be finite, got 6 values"),
        (
            (np.zeros((3, 2)), np.zeros((3, 2)), 4),
            {},
            "`n_components` must be at most the number of subjects, 3, got 4",
        ),
        ((np.zeros((3, 2)), np.zeros((3, 2)), 0), {}, "`n_components` must be an integer >= 1"),
        ((np.zeros((3, 2)), np.zeros((3, 2))), {"covariance": "tied"}, "`covariance` must be one of 'full', 'diag'"),
        ((np.zeros((3, 2)), np.zeros((3, 2))), {"n_draws": 0}, "`n_draws` must be an integer >= 1"),
    ],
)
def test_refusals_of_the_mixture(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        fit_latent_mixture(*arguments, **options)


def test_refusals_of_counts():
    with pytest.raises(ValueError, match="`n_samples` must be an integer >= 1, got 0"):
        prior_codes(0, 2)
    with pytest.raises(ValueError, match="`latent_dim` must be an integer >= 1, got 0"):
        prior_codes(2, 0)
    with pytest.raises(ValueError, match="`n_samples` must be an integer >= 1, got -1"):
        sample_codes(LatentMixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None], 0.0), -1)
