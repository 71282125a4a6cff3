"""The terms of the KL divergence against closed forms, numerical integration, and each other."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from monai_betavae.evaluation.aggregate_posterior import aggregate_posterior
from monai_betavae.evaluation.latent_activity import kl_per_dimension

RNG = np.random.default_rng(0)
MU, LOGVAR = RNG.normal(size=(25, 3)) * [2.0, 1.0, 0.1], RNG.normal(size=(25, 3)) - 1


def densities(grid, mu, logvar):
    """Return N(z; mu_i, exp(logvar_i)) of shape (len(grid), n)."""
    return np.exp(-0.5 * (grid[:, None] - mu) ** 2 / np.exp(logvar)) / np.sqrt(2 * np.pi * np.exp(logvar))


def integral(values, *steps):
    return float(values.sum() * math.prod(steps))


def xlogy(x, y):
    return np.where(x > 1e-300, x * np.log(np.maximum(y, 1e-300)), 0.0)


def test_the_terms_sum_to_the_kl():
    found = aggregate_posterior(MU, LOGVAR, n_samples=3)
    total = found["mutual_information"] + found["total_correlation"] + found["dimension_kl"].sum()
    assert total == pytest.approx(found["kl_estimate"], rel=1e-12)
    assert found["kl"] == pytest.approx(kl_per_dimension(MU, LOGVAR).sum())
    assert found["dimension_kl"].shape == (3,)
    many = aggregate_posterior(MU, LOGVAR, n_samples=2000, chunk_size=1000)
    assert many["kl_estimate"] == pytest.approx(many["kl"], abs=0.03)


def test_useless_codes_carry_nothing():
    found = aggregate_posterior(np.zeros((30, 4)), np.zeros((30, 4)))
    assert found["mutual_information"] == pytest.approx(0, abs=1e-12)
    assert found["total_correlation"] == pytest.approx(0, abs=1e-12)
    assert_allclose(found["dimension_kl"], 0, atol=1e-12)
    assert found["kl"] == 0


def test_identical_posteriors_have_no_information_but_a_distance_from_the_prior():
    found = aggregate_posterior(np.tile([[1.0, -2.0]], (30, 1)), np.full((30, 2), -1.0), n_samples=300, chunk_size=500)
    assert found["mutual_information"] == pytest.approx(0, abs=1e-12)
    assert found["total_correlation"] == pytest.approx(0, abs=1e-12)
    rest = 0.5 * (math.exp(-1) - 1 + 1)
    assert_allclose(found["dimension_kl"], [0.5 + rest, 2 + rest], atol=0.06)


def test_separated_codes_tell_every_subject():
    mu = 20.0 * np.arange(16)[:, None]
    found = aggregate_posterior(mu, np.zeros((16, 1)))
    assert found["mutual_information"] == pytest.approx(math.log(16), rel=1e-9)
    assert found["total_correlation"] == pytest.approx(0, abs=1e-9)


def test_duplicated_subjects_carry_what_the_single_ones_do():
    mu = np.repeat(20.0 * np.arange(8)[:, None], 3, axis=0)
    assert aggregate_posterior(mu, np.zeros((24, 1)))["mutual_information"] == pytest.approx(math.log(8), rel=1e-9)


def test_independent_dimensions_have_no_total_correlation():
    a, b = np.meshgrid([-3.0, 0.0, 0.5, 4.0], [-1.0, 0.2, 2.0], indexing="ij")  # a full grid: q(z) = q(z_1) q(z_2)
    mu = np.stack([a.ravel(), b.ravel()], axis=1)
    found = aggregate_posterior(mu, np.tile([[-1.0, 0.3]], (12, 1)))
    assert found["total_correlation"] == pytest.approx(0, abs=1e-12)
    assert 1 < found["mutual_information"] < math.log(12)


@pytest.mark.parametrize("copies", [2, 4])
def test_duplicated_dimensions_have_all_the_total_correlation(copies):
    mu = np.tile(20.0 * np.arange(10)[:, None], (1, copies))
    found = aggregate_posterior(mu, np.zeros((10, copies)))
    # knowing which of ten one dimension shows, the others add nothing
    assert found["total_correlation"] == pytest.approx((copies - 1) * math.log(10), rel=1e-9)
    assert found["mutual_information"] == pytest.approx(math.log(10), rel=1e-9)


def test_one_dimension_against_numerical_integration():
    mu, logvar = MU[:8, :1], LOGVAR[:8, :1]
    grid = np.linspace(-15, 15, 20001)
    each = densities(grid, mu[:, 0], logvar[:, 0])
    mixture, step = each.mean(axis=1), grid[1] - grid[0]
    prior = np.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi)
    entropies = 0.5 * (1 + math.log(2 * math.pi) + logvar[:, 0])
    information = integral(-xlogy(mixture, mixture), step) - entropies.mean()
    divergence = integral(xlogy(mixture, mixture) - xlogy(mixture, prior), step)
    found = aggregate_posterior(mu, logvar, n_samples=4000, chunk_size=4000)
    assert found["mutual_information"] == pytest.approx(information, abs=0.02)
    assert found["dimension_kl"][0] == pytest.approx(divergence, abs=0.03)
    assert information + divergence == pytest.approx(found["kl"], rel=1e-6)


def test_total_correlation_against_numerical_integration():
    mu = np.array([[-1.0, -1.2], [0.3, 0.0], [1.5, 1.0], [0.0, 0.5]])
    logvar = np.log(np.array([[0.3, 0.5], [0.2, 0.2], [0.4, 0.1], [0.3, 0.3]]))
    grid = np.linspace(-8, 8, 1001)
    step = grid[1] - grid[0]
    first, second = densities(grid, mu[:, 0], logvar[:, 0]), densities(grid, mu[:, 1], logvar[:, 1])
    joint = first @ second.T / 4
    independent = np.outer(first.mean(axis=1), second.mean(axis=1))
    expected = integral(xlogy(joint, joint) - xlogy(joint, independent), step, step)
    found = aggregate_posterior(mu, logvar, n_samples=10000, chunk_size=5000)["total_correlation"]
    assert expected > 0.2
    assert found == pytest.approx(expected, abs=0.02)


def test_it_holds_at_the_bound_of_the_log_variance():
    mu = RNG.normal(size=(20, 2))
    found = aggregate_posterior(mu, np.full((20, 2), -30.0))
    assert found["mutual_information"] == pytest.approx(math.log(20))
    assert found["total_correlation"] == pytest.approx(math.log(20))
    assert found["kl_estimate"] == pytest.approx(found["kl"], abs=0.2)
    assert np.isfinite(found["dimension_kl"]).all()


def test_chunks_change_nothing_and_seeds_do():
    one, whole = (aggregate_posterior(MU, LOGVAR, chunk_size=size) for size in (7, 10**4))
    for key in one:
        assert_allclose(one[key], whole[key], rtol=1e-12)
    again, other = aggregate_posterior(MU, LOGVAR), aggregate_posterior(MU, LOGVAR, seed=1)
    assert again["mutual_information"] == aggregate_posterior(MU, LOGVAR)["mutual_information"]
    assert again["mutual_information"] != other["mutual_information"]
    assert again["kl"] == other["kl"]


def test_the_order_of_subjects_and_dimensions_is_irrelevant():
    found = aggregate_posterior(MU, LOGVAR, n_samples=1000, chunk_size=1000)
    turned = aggregate_posterior(MU[::-1, ::-1], LOGVAR[::-1, ::-1], n_samples=1000, chunk_size=1000)
    assert_allclose(turned["dimension_kl"][::-1], found["dimension_kl"], atol=0.05)
    assert turned["total_correlation"] == pytest.approx(found["total_correlation"], abs=0.05)


@pytest.mark.parametrize(
    ("mu", "logvar", "options", "message"),
    [
        (MU, LOGVAR[:, :2], {}, r"must have one shape .*, got \(25, 3\) and \(25, 2\)"),
        (MU[0], LOGVAR[0], {}, r"got \(3,\) and \(3,\)"),
        (MU[:0], LOGVAR[:0], {}, "not empty"),
        (MU * math.nan, LOGVAR, {}, "`mu` must be finite, got 75 values"),
        (MU, LOGVAR - math.inf, {}, "`logvar` must be finite"),
        (MU, LOGVAR, {"n_samples": 0}, "`n_samples` must be an integer >= 1"),
        (MU, LOGVAR, {"chunk_size": 0}, "`chunk_size` must be an integer >= 1"),
        (MU, LOGVAR, {"seed": "a"}, "`seed` must be None or an integer"),
    ],
)
def test_refusals(mu, logvar, options, message):
    with pytest.raises(ValueError, match=message):
        aggregate_posterior(mu, logvar, **options)
