"""Codes to sample from."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import kstest, multivariate_normal

from monai_betavae.evaluation.latent_mixture import LatentMixture, fit_latent_mixture, prior_codes, sample_codes

RNG = np.random.default_rng(0)


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
