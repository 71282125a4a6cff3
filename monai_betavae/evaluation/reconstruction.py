"""How far reconstructions are from their images, beside the two baselines that need no network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._checks import check_integer

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
