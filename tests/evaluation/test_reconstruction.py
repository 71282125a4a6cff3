"""Errors and baselines on ideal, useless and duplicated input."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from monai_betavae.evaluation.reconstruction import (
    mean_image_reconstruction,
    pca_reconstruction,
    reconstruction_scores,
    squared_error,
)

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


VOLUMES = np.random.default_rng(1).random((3, 1, 12, 14, 16)).astype(np.float32)


def test_scores_by_hand():
    scores = reconstruction_scores(VOLUMES, VOLUMES + np.float32(0.1), data_range=2.0)
    n_voxels = 12 * 14 * 16
    np.testing.assert_allclose(scores["sse"], 0.01 * n_voxels, rtol=1e-4)
    np.testing.assert_allclose(scores["mse"], 0.01, rtol=1e-4)
    np.testing.assert_allclose(scores["mae"], 0.1, rtol=1e-4)
    np.testing.assert_allclose(scores["psnr"], 10 * np.log10(4 / 0.01), rtol=1e-4)
    assert all(values.shape == (3,) and values.dtype == np.float64 for values in scores.values())


def test_ssim_of_constants_by_hand():
    # two constant images have no variance: SSIM = (2 a b + c1) / (a^2 + b^2 + c1)
    a, b, c1 = 0.4, 0.6, 0.01**2
    images = np.full((1, 1, 12, 12, 12), a)
    ssim = reconstruction_scores(images, np.full_like(images, b))["ssim"]
    # MONAI's window sums to 1.00008 instead of 1, which leaves constants a little variance
    np.testing.assert_allclose(ssim, (2 * a * b + c1) / (a**2 + b**2 + c1), rtol=5e-3)


def test_scores_of_ideal_useless_and_duplicated_reconstructions():
    ideal = reconstruction_scores(VOLUMES, VOLUMES)
    assert ideal["sse"].tolist() == ideal["mae"].tolist() == [0.0] * 3
    assert np.isposinf(ideal["psnr"]).all()
    np.testing.assert_allclose(ideal["ssim"], 1, atol=1e-5)
    useless = reconstruction_scores(VOLUMES, np.random.default_rng(2).random(VOLUMES.shape))
    assert (np.abs(useless["ssim"]) < 0.1).all()
    twice = reconstruction_scores(np.tile(VOLUMES, (2, 1, 1, 1, 1)), np.tile(0 * VOLUMES, (2, 1, 1, 1, 1)))
    for values in twice.values():
        np.testing.assert_allclose(values[:3], values[3:])


def test_scores_of_small_grids_and_2d():
    for shape in ((1, 1, 4, 5, 6), (2, 1, 9, 12), (1, 2, 3, 3, 3)):
        images = np.random.default_rng(0).random(shape)
        np.testing.assert_allclose(reconstruction_scores(images, images)["ssim"], 1, atol=1e-4)
    with pytest.raises(ValueError, match="`data_range` must be a finite number > 0, got 0"):
        reconstruction_scores(VOLUMES, VOLUMES, data_range=0)
