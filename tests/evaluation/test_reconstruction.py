"""Errors and baselines on ideal, useless and duplicated input."""

import math

import numpy as np
import pytest
from sklearn.decomposition import PCA

from monai_betavae.evaluation.reconstruction import (
    brain_mask,
    fit_pca,
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
    assert fit_pca(TRAIN[:10], 32).n_components_ == 9
    twice = np.concatenate([TRAIN[:5], TRAIN[:5]])
    assert fit_pca(twice, 8).n_components_ == 4  # five images, each twice
    same = np.repeat(TRAIN[:1], 4, axis=0)
    np.testing.assert_allclose(pca_reconstruction(same, TEST, 2), np.broadcast_to(TRAIN[0], TEST.shape))


@pytest.mark.parametrize(
    ("n_train", "shape", "scale"), [(30, (1, 9, 8, 7), 1.0), (30, (1, 3, 4), 1e-3), (50, (900,), 50.0)]
)
def test_pca_is_exact(n_train, shape, scale):
    """Against numpy's singular value decomposition in double precision, on images of single precision."""
    rng = np.random.default_rng(3)
    modes = (
        rng.normal(size=(min(20, math.prod(shape)), math.prod(shape)))
        * np.logspace(0, -3, min(20, math.prod(shape)))[:, None]
    )
    scores = rng.normal(size=(n_train + 6, len(modes)))
    images = (100 + scale * (scores @ modes + 1e-4 * rng.normal(size=(n_train + 6, math.prod(shape))))).astype(
        np.float32
    )
    train, test = (part.reshape(-1, *shape) for part in (images[:n_train], images[n_train:]))
    exact = images.astype(np.float64)
    mean = exact[:n_train].mean(axis=0)
    _, singular, directions = np.linalg.svd(exact[:n_train] - mean, full_matrices=False)
    for n_components in (1, 5, 10):
        pca = fit_pca(train, n_components)
        assert pca.exact
        kept = directions[:n_components]
        expected = (exact[n_train:] - mean) @ kept.T @ kept
        found = pca.inverse_transform(pca.transform(test.reshape(6, -1))) - mean
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
        np.testing.assert_allclose(pca.explained_variance_, singular[:n_components] ** 2 / (n_train - 1), rtol=1e-6)
        np.testing.assert_allclose(pca.components_ @ pca.components_.T, np.eye(n_components), atol=1e-12)
        error = ((exact[n_train:] - mean - expected) ** 2).sum()
        assert ((exact[n_train:] - mean - found) ** 2).sum() == pytest.approx(error, rel=1e-6)
        restored = pca_reconstruction(train, test, n_components)
        assert restored.dtype == np.float32
        np.testing.assert_allclose(restored.reshape(6, -1), expected + mean, rtol=1e-6)


def test_pca_of_whole_numbers_and_of_what_may_not_be_written_to():
    whole = RNG.integers(0, 9, size=(12, 4, 4))
    expected = PCA(3, svd_solver="full").fit(whole.reshape(12, -1))
    np.testing.assert_allclose(fit_pca(whole, 3).components_, expected.components_, atol=1e-10)
    frozen = TRAIN.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(fit_pca(frozen, 3).components_, fit_pca(TRAIN, 3).components_)


def test_pca_of_more_images_than_are_exact(monkeypatch):
    monkeypatch.setattr("monai_betavae.evaluation.reconstruction.MAX_EXACT", 15)
    wide = RNG.normal(size=(20, 40)) * np.logspace(0, -3, 40)
    pca = fit_pca(wide, 3)
    assert not pca.exact
    assert (pca.components_ == fit_pca(wide, 3).components_).all()
    narrow = fit_pca(TRAIN, 3)  # 12 values: no more than images
    assert narrow.exact
    monkeypatch.undo()
    np.testing.assert_allclose(narrow.components_, fit_pca(TRAIN, 3).components_, atol=1e-10)
    np.testing.assert_allclose(pca.explained_variance_, fit_pca(wide, 3).explained_variance_, rtol=0.01)


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


@pytest.mark.parametrize("data_range", [1.0, 5.0])
def test_ssim_is_that_of_a_window_written_out(data_range):
    rng = np.random.default_rng(4)
    image = rng.uniform(0, data_range, size=(13, 12, 11))
    other = 0.7 * image + 0.3 * rng.uniform(0, data_range, size=image.shape)
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = line[:, None, None] * line[:, None] * line
    window /= window.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for i, j in np.ndindex(3, 2):  # the windows inside the field of view
        x, y = image[i : i + 11, j : j + 11], other[i : i + 11, j : j + 11]
        mx, my = (window * x).sum(), (window * y).sum()
        vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
        cov = (window * (x - mx) * (y - my)).sum()
        values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    found = reconstruction_scores(image[None, None], other[None, None], data_range)["ssim"][0]
    assert found == pytest.approx(np.mean(values), abs=1e-3)


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


def test_scores_inside_a_mask_by_hand():
    images = np.zeros((2, 1, 16, 16, 16))
    reconstructions = images.copy()
    reconstructions[0, 0, 5:9, 5:9, 5:9] = 0.2
    reconstructions[0, 0, 0, 0, 0] = 1.0
    mask = np.zeros((2, 16, 16, 16), bool)
    mask[0, 5:9, 5:9, 5:7] = True
    mask[0, 4, 5:9, 5:7] = True  # 8 voxels without error beside 32 with 0.2
    scores = reconstruction_scores(images, reconstructions, mask=mask)
    assert scores["mse_brain"][0] == pytest.approx(0.04 * 32 / 40)
    assert scores["mae_brain"][0] == pytest.approx(0.2 * 32 / 40)
    assert scores["psnr_brain"][0] == pytest.approx(10 * np.log10(40 / (0.04 * 32)))
    assert scores["mse"][0] == pytest.approx((0.04 * 64 + 1) / 16**3)
    assert all(np.isnan(scores[f"{name}_brain"][1]) for name in ("mse", "mae", "psnr", "ssim"))  # an empty mask
    assert scores["ssim"][1] == pytest.approx(1)


def test_ssim_inside_a_mask_is_that_of_the_windows_centred_there():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(1, 1, 20, 18, 14))
    reconstructions = images.copy()
    reconstructions[..., :9, :, :] = rng.uniform(size=(1, 1, 9, 18, 14))
    # windows reach 5 voxels: centres from 14 on see no error
    clean, whole = np.zeros((1, 20, 18, 14), bool), np.ones((1, 20, 18, 14), bool)
    clean[:, 14:] = True
    assert reconstruction_scores(images, reconstructions, mask=clean)["ssim_brain"][0] == pytest.approx(1, abs=1e-6)
    scores = reconstruction_scores(images, reconstructions, mask=whole)
    assert scores["ssim_brain"][0] == pytest.approx(scores["ssim"][0])
    assert scores["ssim"][0] < 0.9


def test_brain_mask_has_no_holes_and_no_background():
    image = np.zeros((2, 9, 9, 9))
    image[0, 2:7, 2:7, 2:7] = 0.8
    image[0, 4, 4, 4] = 0.0  # a ventricle
    image[0, 2, 2, 4] = 0.01  # the rim that resampling leaves
    mask = brain_mask(image)
    assert mask[0].sum() == 124
    assert not mask[1].any()
    with pytest.raises(ValueError, match="`images` must have shape"):
        brain_mask(np.zeros((2, 1, 4, 4, 4)))


def test_a_mask_of_another_shape():
    with pytest.raises(ValueError, match=r"`mask` must have shape \(1, 8, 8, 8\), got \(1, 1, 8, 8, 8\)"):
        reconstruction_scores(np.zeros((1, 1, 8, 8, 8)), np.zeros((1, 1, 8, 8, 8)), mask=np.ones((1, 1, 8, 8, 8)))
