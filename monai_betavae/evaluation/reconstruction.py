"""Scores of reconstructions, and two baselines without a network: principal components and the mean image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._checks import check_integer, check_real
from ..networks.principal_components import exact_components

MAX_EXACT = 2048
"""Largest number of training images for which components are always exact; beyond it the solver may be randomised."""

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


def brain_mask(images: Array, threshold: float = 0.02) -> NDArray[np.bool_]:
    """Return brain masks of brain-extracted images: the voxels above a threshold and the holes inside them.

    Args:
        images: shape (n, ...) of two or three spatial axes, intensities in [0, 1], 0 outside the brain.
        threshold: intensity above which a voxel counts as brain; it excludes the faint rim that resampling leaves.

    Returns:
        the same shape; an image without a voxel above the threshold has an empty mask.

    Raises:
        ValueError: if the images don't have two or three spatial axes.

    Example:
        >>> image = np.zeros((1, 5, 5, 5))
        >>> image[0, 1:4, 1:4, 1:4] = 1
        >>> image[0, 2, 2, 2] = 0  # a dark ventricle
        >>> int(brain_mask(image).sum())
        27
    """
    from scipy import ndimage

    images = np.asarray(images)
    if images.ndim not in (3, 4):
        raise ValueError(f"`images` must have shape (n, x, y) or (n, x, y, z), got {images.shape}.")
    above = images > check_real("threshold", threshold)
    return np.stack([ndimage.binary_fill_holes(image) for image in above])


def reconstruction_scores(
    images: Array, reconstructions: Array, data_range: float = 1.0, mask: Array | None = None
) -> dict[str, NDArray[np.float64]]:
    """Return scores of each reconstruction over the whole field of view and, with a mask, inside the brain.

    With N voxels and errors e_i: SSE = sum e_i^2, MSE = SSE / N, MAE = sum |e_i| / N, PSNR = 10 log10(R^2 / MSE) in
    decibels for a data range R, infinite where the error is zero; SSIM with a Gaussian window of 11 voxels
    (sigma 1.5), or the largest odd window that a smaller grid holds, averaged over the windows inside the field of
    view. Inside a mask, the sums run over its voxels and the SSIM average over the windows centred in it.

    Args:
        images: shape (n, channel, ...), 2D or 3D.
        reconstructions: the same shape.
        data_range: R, the difference between the highest and the lowest intensity an image can have.
        mask: brain mask, shape (n, ...) without channels; ``None`` skips the scores inside the brain.

    Returns:
        "sse", "mse", "mae", "psnr" and "ssim", each of shape (n,); with a mask also "mse_brain", "mae_brain",
        "psnr_brain" and "ssim_brain", NaN where the mask is empty.

    Raises:
        ValueError: if the shapes differ, or ``data_range`` isn't positive.

    Source:
        Wang et al. 2004, IEEE Transactions on Image Processing 13, 600-612 (SSIM), computed by ``monai.metrics``.

    Example:
        >>> images = np.zeros((1, 1, 12, 12, 12))
        >>> scores = reconstruction_scores(images, images + 0.1)
        >>> round(float(scores["mse"][0]), 6), round(float(scores["psnr"][0]), 6)
        (0.01, 20.0)
    """
    data_range = check_real("data_range", data_range, minimum=0, exclusive=True)
    sse = squared_error(images, reconstructions)
    n_voxels = int(np.prod(np.shape(images)[1:]))
    error = np.asarray(images, dtype=np.float64) - reconstructions
    similarity = _ssim_maps(np.asarray(images), np.asarray(reconstructions), data_range)
    scores = {
        "sse": sse,
        "mse": sse / n_voxels,
        "mae": np.abs(error).reshape(len(sse), -1).mean(axis=1),
        "psnr": _psnr(sse / n_voxels, data_range),
        "ssim": similarity.reshape(len(sse), -1).mean(axis=1, dtype=np.float64),
    }
    if mask is None:
        return scores
    mask = np.asarray(mask, dtype=bool)
    if mask.shape != (len(error), *error.shape[2:]):
        raise ValueError(f"`mask` must have shape {(len(error), *error.shape[2:])}, got {mask.shape}.")
    inside = np.broadcast_to(mask[:, None], error.shape)
    # distance of the outermost window centres from the edge
    margins = [(side - part) // 2 for side, part in zip(error.shape[2:], similarity.shape[2:], strict=True)]
    window: Any = (..., *(slice(m, side - m) for m, side in zip(margins, error.shape[2:], strict=True)))
    centres = inside[window]
    mse = _masked_mean(error**2, inside)
    return {
        **scores,
        "mse_brain": mse,
        "mae_brain": _masked_mean(np.abs(error), inside),
        "psnr_brain": _psnr(mse, data_range),
        "ssim_brain": _masked_mean(similarity, centres),
    }


def _psnr(mse: NDArray[np.float64], data_range: float) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        decibels: NDArray[np.float64] = 10 * np.log10(data_range**2 / mse)
    return decibels


def _masked_mean(values: Array, inside: Array) -> NDArray[np.float64]:
    """Return the mean of each image's values inside its mask; NaN where that is empty."""
    n = len(values)
    count = inside.reshape(n, -1).sum(axis=1)
    total = np.where(inside, values, 0).reshape(n, -1).sum(axis=1, dtype=np.float64)
    mean: NDArray[np.float64] = np.divide(total, count, out=np.full(n, np.nan), where=count > 0)
    return mean


def _ssim_maps(images: Array, reconstructions: Array, data_range: float) -> NDArray[np.float32]:
    """Return the SSIM of every window inside the field of view, shape (n, channel, ...), one image at a time."""
    import torch
    from monai.metrics.regression import compute_ssim_and_cs

    sides = images.shape[2:]
    window = min(11, min(sides) - 1 + min(sides) % 2)
    maps = []
    for image, reconstruction in zip(images, reconstructions, strict=True):
        pair = [torch.as_tensor(np.array(each[None], dtype=np.float32)) for each in (reconstruction, image)]
        similarity, _ = compute_ssim_and_cs(
            *pair,
            spatial_dims=len(sides),
            data_range=torch.tensor(data_range),
            kernel_size=(window,) * len(sides),
            kernel_sigma=(1.5,) * len(sides),
            kernel_type="gaussian",
        )
        maps.append(similarity.numpy())
    return np.concatenate(maps)


def mean_image_reconstruction(train: Array, images: Array) -> Array:
    """Reconstruct every image as the mean training image, the best reconstruction that ignores the input.

    Args:
        train: training images, shape (n_train, ...).
        images: images to reconstruct, shape (n, ...).
    """
    return np.broadcast_to(np.mean(train, axis=0), np.shape(images))


@dataclass(frozen=True)
class PrincipalComponentModel:
    """Principal components of training images, with the attribute and method names of scikit-learn's ``PCA``.

    Attributes:
        mean_: mean image, shape (value,).
        components_: orthonormal components, shape (n_components_, value), by falling variance.
        explained_variance_: variances of the codes, shape (n_components_,), in squared units of the images.
        exact: whether the components are exact; those of a randomised solver make a slightly too weak baseline.
    """

    mean_: NDArray[np.float64]
    components_: NDArray[np.float64]
    explained_variance_: NDArray[np.float64]
    exact: bool

    @property
    def n_components_(self) -> int:
        """Number of components, which may be smaller than requested."""
        return len(self.components_)

    def transform(self, images: Array) -> NDArray[np.float64]:
        """Return the codes of flattened images, (n, value) to (n, n_components_)."""
        rows = [self.components_ @ (row.astype(np.float64) - self.mean_) for row in np.asarray(images)]
        return np.array(rows).reshape(-1, self.n_components_)

    def inverse_transform(self, codes: Array) -> NDArray[np.float64]:
        """Return the flattened images of codes, (n, n_components_) to (n, value)."""
        restored: NDArray[np.float64] = np.asarray(codes, dtype=np.float64) @ self.components_ + self.mean_
        return restored


def pca_reconstruction(train: Array, images: Array, n_components: int, seed: int = 0) -> Array:
    """Reconstruct images from their projection on the principal components of the training images.

    This is the best linear autoencoder with that many latent dimensions, and the baseline for a VAE.

    Args:
        train: training images, shape (n_train, ...).
        images: images to reconstruct, shape (n, ...).
        n_components: number of components; at most n_train - 1 exist and are used.
        seed: seed of the randomised solver, for more than 2048 training images.

    Returns:
        reconstructions, of the shape of ``images``; float32 for float32 images, else float64.

    Raises:
        ValueError: if ``n_components`` isn't a positive integer, or the shapes don't match.

    Source:
        :func:`fit_pca`.

    Example:
        >>> train = np.outer(np.arange(6.0), np.ones(4)).reshape(6, 2, 2)
        >>> bool(np.allclose(pca_reconstruction(train, train + 10, 1), train + 10))
        True
    """
    train, images = np.asarray(train), np.asarray(images)
    if train.shape[1:] != images.shape[1:]:
        raise ValueError(f"`train` must hold images of the shape {images.shape[1:]}, got shape {train.shape}.")
    return reconstruct_by_pca(fit_pca(train, n_components, seed), images)


def reconstruct_by_pca(pca: PrincipalComponentModel, images: Array) -> Array:
    """Reconstruct images with fitted components.

    Args:
        pca: components from :func:`fit_pca`.
        images: shape (n, ...).

    Returns:
        reconstructions, of the shape of ``images``; float32 for float32 images, else float64.
    """
    images = np.asarray(images)
    restored = np.empty(images.shape, dtype=np.float32 if images.dtype == np.float32 else np.float64)
    for row, image in enumerate(images):  # one at a time: all in float64 would take twice the memory of the images
        restored[row] = pca.inverse_transform(pca.transform(image.reshape(1, -1))).reshape(image.shape)
    return restored


def fit_pca(train: Array, n_components: int, seed: int | None = 0) -> PrincipalComponentModel:
    """Fit principal components to flattened training images, at most n_train - 1.

    For up to 2048 images they are exact, from an eigenproblem in float64
    (:func:`~monai_betavae.networks.principal_components.exact_components`). Beyond that they come from scikit-learn's
    randomised solver, unless an image has at most 2048 values.

    Args:
        train: training images, shape (n_train, ...), at least two.
        n_components: number of components.
        seed: seed of the randomised solver.

    Returns:
        the components.

    Raises:
        ValueError: if ``n_components`` isn't a positive integer, or there are fewer than two images.

    Source:
        Halko, Martinsson & Tropp, SIAM Review 53, 2011 (the randomised solver, by ``sklearn.decomposition.PCA``).

    Example:
        >>> fit_pca(np.random.default_rng(0).normal(size=(5, 3, 3)), 8).n_components_
        4
    """
    n_components = check_integer("n_components", n_components, minimum=1)
    train = np.asarray(train)
    if len(train) < 2:
        raise ValueError(f"`train` must hold at least two images, got shape {train.shape}.")
    flat = train.reshape(len(train), -1)
    if len(flat) > MAX_EXACT:
        from sklearn.decomposition import PCA

        small = flat.shape[1] <= MAX_EXACT
        solver = "full" if small else "randomized"
        pca = PCA(min(n_components, flat.shape[1]), svd_solver=solver, random_state=seed).fit(flat)
        mean, components, variances = (
            part.astype(np.float64) for part in (pca.mean_, pca.components_, pca.explained_variance_)
        )
        return PrincipalComponentModel(mean, components, variances, exact=small)
    import torch

    # torch can share the memory of writable arrays only
    rows = torch.from_numpy(flat if flat.flags.writeable and flat.dtype.kind == "f" else flat.astype(np.float64))
    mean, components, variances = (part.numpy() for part in exact_components(rows, n_components))
    return PrincipalComponentModel(mean, components, variances, exact=True)
