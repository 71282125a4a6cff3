import numpy as np
import pytest

from monai_betavae.evaluation import (
    RateDistortion,
    distortion_at,
    linear_rate_distortion,
    pca_reconstruction,
    truncated_rate_distortion,
)
from monai_betavae.evaluation.reconstruction import fit_pca


def images(n_images=60, n_values=7, seed=0):
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.normal(size=(n_values, n_values)))[0]
    return rng.normal(size=(n_images, n_values)) * np.geomspace(8, 0.2, n_values) @ mixing + 3


def by_bayes(pca, x, variance):
    """Rate and distortion of probabilistic PCA by the textbook's posterior, with matrices of all components."""
    weights = pca.components_.T * np.sqrt(np.maximum(pca.explained_variance_ - variance, 0))
    precision = weights.T @ weights + variance * np.eye(weights.shape[1])
    covariance = variance * np.linalg.inv(precision)
    mu = np.linalg.solve(precision, weights.T @ (x - pca.mean_).T).T
    kl = 0.5 * (
        np.trace(covariance) + np.square(mu).sum(axis=1) - len(covariance) - np.linalg.slogdet(covariance).logabsdet
    )
    return kl.mean(), np.square(x - pca.mean_ - mu @ weights.T).sum(axis=1).mean()


def test_it_is_the_posterior_of_probabilistic_pca():
    pca, others = fit_pca(images(), 4), images(seed=1)
    curve = linear_rate_distortion(pca, others.reshape(-1, 1, 7), n_points=9)
    variances = np.geomspace(pca.explained_variance_[0], pca.explained_variance_[-1] / 100, 9)
    for variance, rate, distortion in zip(variances, *curve, strict=True):
        np.testing.assert_allclose((rate, distortion), by_bayes(pca, others, variance), rtol=1e-9, atol=1e-9)


def test_its_ends_are_the_mean_image_and_pca():
    train, others = images(), images(seed=1)
    curve = linear_rate_distortion(fit_pca(train, 3), others)
    assert curve.rate[0] == pytest.approx(0, abs=1e-9)
    assert curve.distortion[0] == pytest.approx(np.square(others - train.mean(axis=0)).sum(axis=1).mean())
    best = np.square(others - pca_reconstruction(train, others, 3)).sum(axis=1).mean()
    assert best < curve.distortion[-1] < 1.01 * best


def test_fewer_latents_are_those_of_the_largest_variance():
    train, others = images(), images(seed=1)
    of_all, of_two = fit_pca(train, 5), fit_pca(train, 2)
    few = linear_rate_distortion(of_all, others, n_latents=2)
    np.testing.assert_allclose(np.array(few), np.array(linear_rate_distortion(of_two, others)), rtol=1e-9)


def test_components_without_variance_are_refused():
    same = np.ones((4, 3))
    with pytest.raises(ValueError, match="`pca` must have a component with a variance above 0"):
        linear_rate_distortion(fit_pca(same, 2), same)


def test_codes_are_cut_in_the_order_of_their_kl_divergence():
    mu = np.array([[0.0, 2.0, 1.0], [0.0, -2.0, 1.0]])
    mixing = np.array([[1.0, 0, 0], [0, 3, 0], [0, 0, 5]])
    x = mu @ mixing
    curve = truncated_rate_distortion(lambda codes: codes @ mixing, mu, np.zeros_like(mu), x, counts=[0, 1, 2, 3])
    np.testing.assert_allclose(curve.rate, [0, 2, 2.5, 2.5])
    np.testing.assert_allclose(curve.distortion, [61, 25, 0, 0])


def test_useless_and_duplicated_codes():
    rng = np.random.default_rng(0)
    x, mu = rng.normal(size=(20, 5)), rng.normal(size=(20, 3))
    useless = truncated_rate_distortion(lambda codes: np.zeros((20, 5)), mu, np.zeros_like(mu), x)
    assert np.ptp(useless.distortion) == 0
    assert useless.rate[-1] > 1
    both = np.hstack([mu, mu])
    twice = truncated_rate_distortion(lambda codes: np.zeros((20, 5)), both, np.zeros_like(both), x)
    assert twice.rate[-1] == pytest.approx(2 * useless.rate[-1])  # a copy costs as much again, and tells nothing


@pytest.mark.parametrize("rate", [0.0, 4.0, 10.0])
def test_distortion_between_points(rate):
    curve = RateDistortion(np.array([10.0, 0.0]), np.array([4.0, 8.0]))
    assert distortion_at(curve, rate) == pytest.approx(8 - 0.4 * rate)
    assert distortion_at(curve, 10.1) is None
