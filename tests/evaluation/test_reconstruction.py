"""Errors and baselines on ideal, useless and duplicated input."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from monai_betavae.evaluation.reconstruction import mean_image_reconstruction, pca_reconstruction, squared_error

RNG = np.random.default_rng(0)
TRAIN, TEST = RNG.normal(size=(20, 1, 3, 4)), RNG.normal(size=(5, 1, 3, 4))


def test_squared_error():
    assert squared_error(TEST, TEST).tolist() == [0.0] * 5
    np.testing.assert_allclose(squared_error(TEST, 0 * TEST), (TEST**2).sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(squared_error(np.tile(TEST, (2, 1, 1, 1)), 0 * np.tile(TEST, (2, 1, 1, 1)))[5:],
                               squared_error(TEST, 0 * TEST))  # fmt: skip
    with pytest.raises(ValueError, match=r"`reconstructions` must have the shape .*\(5, 1, 3, 4\), got \(4, 1, 3, 4\)"):
        squared_error(TEST, TEST[:4])


def test_mean_image():
    np.testing.assert_allclose(mean_image_reconstruction(TRAIN, TEST)[3], TRAIN.mean(axis=0))


def test_pca_against_sklearn_and_its_limits():
    pca = PCA(3, svd_solver="full").fit(TRAIN.reshape(20, -1))
    expected = pca.inverse_transform(pca.transform(TEST.reshape(5, -1))).reshape(TEST.shape)
    np.testing.assert_allclose(pca_reconstruction(TRAIN, TEST, 3), expected, atol=1e-10)
    np.testing.assert_allclose(pca_reconstruction(TRAIN, TEST, 12), TEST, atol=1e-10)  # all directions: ideal
    errors = [squared_error(TRAIN, pca_reconstruction(TRAIN, TRAIN, n)).mean() for n in (1, 3, 6, 12)]
    assert errors == sorted(errors, reverse=True)


def test_more_components_than_subjects():
    assert pca_reconstruction(TRAIN[:4], TEST, 32).shape == TEST.shape


def test_bad_arguments():
    with pytest.raises(ValueError, match="`n_components` must be an integer >= 1, got 0"):
        pca_reconstruction(TRAIN, TEST, 0)
    with pytest.raises(ValueError, match=r"`train` must hold at least two images"):
        pca_reconstruction(TRAIN[:1], TEST, 1)
