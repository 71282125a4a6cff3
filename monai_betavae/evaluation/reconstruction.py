"""How far reconstructions are from their images, beside the two baselines that need no network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._checks import check_integer, check_real

Array = NDArray[Any]


def squared_error(images: Array, reconstructions: Array) -> NDArray[np.float64]:
    """Return the summed squared error of each image, SSE_b = sum_i (x_bi - r_bi)^2.

    Args:
        images: shape (n, ...).
        reconstructions: the same shape.

    Returns:
        shape (n,), in squared units of the images.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> squared_error(np.zeros((2, 3)), np.array([[1.0, 0, 0], [1, 1, 2]])).tolist()
        [1.0, 6.0]
    """
    images, reconstructions = np.asarray(images), np.asarray(reconstructions)
    if images.shape != reconstructions.shape:
        raise ValueError(
            f"`reconstructions` must have the shape of the images, {images.shape}, got {reconstructions.shape}."
        )
    difference = (images - reconstructions).reshape(len(images), -1)
    summed: NDArray[np.float64] = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
    return summed


def reconstruction_scores(
    images: Array, reconstructions: Array, data_range: float = 1.0
) -> dict[str, NDArray[np.float64]]:
    """Return scores of each reconstruction over its whole field of view.

    With N voxels and errors e_i: SSE = sum e_i^2, MSE = SSE / N, MAE = sum |e_i| / N, PSNR = 10 log10(R^2 / MSE) in
    decibels for a data range R, infinite where the error is zero; SSIM with a Gaussian window of 11 voxels
    (sigma 1.5), or the largest odd window that a smaller grid holds.

    Args:
        images: shape (n, channel, ...), 2D or 3D.
        reconstructions: the same shape.
        data_range: R, the distance between the lowest and the highest intensity an image can have.

    Returns:
        "sse", "mse", "mae", "psnr" and "ssim", each of shape (n,).

    Raises:
        ValueError: if the shapes differ, or ``data_range`` isn't positive.

    Source:
        Wang et al. 2004, IEEE Transactions on Image Processing 13, 600-612 (SSIM); ``monai.metrics.SSIMMetric``.

    Example:
        >>> images = np.zeros((1, 1, 12, 12, 12))
        >>> scores = reconstruction_scores(images, images + 0.1)
        >>> round(float(scores["mse"][0]), 6), round(float(scores["psnr"][0]), 6)
        (0.01, 20.0)
    """
    import torch
    from monai.metrics import SSIMMetric

    data_range = check_real("data_range", data_range, minimum=0, exclusive=True)
    sse = squared_error(images, reconstructions)
    n_voxels = int(np.prod(np.shape(images)[1:]))
    absolute = np.abs(np.asarray(images, dtype=np.float64) - reconstructions).reshape(len(sse), -1).mean(axis=1)
    with np.errstate(divide="ignore"):
        psnr = 10 * np.log10(data_range**2 * n_voxels / sse)
    sides = np.shape(images)[2:]
    window = min(11, min(sides) - 1 + min(sides) % 2)
    metric = SSIMMetric(spatial_dims=len(sides), data_range=data_range, win_size=window, reduction="none")
    pair = [torch.as_tensor(np.array(values, dtype=np.float32)) for values in (reconstructions, images)]
    ssim = metric(*pair).mean(dim=1).double().numpy()
    return {"sse": sse, "mse": sse / n_voxels, "mae": absolute, "psnr": psnr, "ssim": ssim}


def mean_image_reconstruction(train: Array, images: Array) -> Array:
    """Reconstruct every image as the mean training image, what a model that ignores its input can do at best.

    Args:
        train: training images, shape (n_train, ...).
        images: images to reconstruct, shape (n, ...).
    """
    return np.broadcast_to(np.mean(train, axis=0), np.shape(images))


def pca_reconstruction(train: Array, images: Array, n_components: int, seed: int = 0) -> Array:
    """Reconstruct images from their projection on the principal components of the training images.

    The best linear autoencoder of that width, and the baseline that a VAE has to beat.

    Args:
        train: training images, shape (n_train, ...).
        images: images to reconstruct, shape (n, ...).
        n_components: number of components; no more than n_train - 1 are used, since there are no more.
        seed: of the randomised solver.

    Returns:
        reconstructions, of the shape of ``images``.

    Raises:
        ValueError: if ``n_components`` isn't a positive integer, or the shapes don't go together.

    Source:
        ``sklearn.decomposition.PCA``.

    Example:
        >>> train = np.outer(np.arange(6.0), np.ones(4)).reshape(6, 2, 2)
        >>> bool(np.allclose(pca_reconstruction(train, train + 10, 1), train + 10))
        True
    """
    from sklearn.decomposition import PCA

    n_components = check_integer("n_components", n_components, minimum=1)
    train, images = np.asarray(train), np.asarray(images)
    if train.shape[1:] != images.shape[1:] or len(train) < 2:
        raise ValueError(
            f"`train` must hold at least two images of the shape {images.shape[1:]}, got shape {train.shape}."
        )
    flat = train.reshape(len(train), -1)
    pca = PCA(min(n_components, len(train) - 1, flat.shape[1]), svd_solver="auto", random_state=seed).fit(flat)
    restored: Array = pca.inverse_transform(pca.transform(images.reshape(len(images), -1)))
    return restored.reshape(images.shape)
