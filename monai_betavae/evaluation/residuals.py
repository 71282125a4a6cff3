"""Lesion maps from residuals, and their thresholds.

`residual_map` makes maps for a model and for PCA (with reconstructions from
`evaluation.reconstruction.pca_reconstruction`); `intensity_scores` makes them for the baseline without a model. The
threshold comes from healthy validation subjects (`healthy_threshold`), never from the subjects with lesions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._checks import check_choice, check_integer, check_real
from .volume_batches import binary_batch, check_binary, inside_batch, mask_batch, volume_batch

Array = NDArray[Any]
Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

KINDS = ("positive", "negative", "absolute")
POOLS = ("voxels", "subjects")


def erode_mask(mask: Array, erosion: int = 1) -> Booleans:
    """Remove the outer voxels of a mask, where partial volume and misregistration leave residuals in every subject.

    A voxel stays if its six neighbours are all in the mask; what lies outside the field of view counts as outside.

    Args:
        mask: boolean or 0 and 1, shape (..., x, y, z).
        erosion: number of layers of voxels to remove.

    Returns:
        boolean, the shape of ``mask``.

    Raises:
        ValueError: if the mask isn't binary or has fewer than three axes, no voxel of it is left, or ``erosion`` is
            negative.

    Example:
        >>> int(erode_mask(np.ones((5, 5, 5))).sum())
        27
    """
    from scipy import ndimage

    erosion = check_integer("erosion", erosion, minimum=0)
    whole = check_binary("mask", mask)
    if whole.ndim < 3:
        raise ValueError(f"`mask` must have shape (..., x, y, z), got {whole.shape}.")
    volumes = whole.reshape(-1, *whole.shape[-3:])
    if erosion > 0:  # scipy takes 0 iterations to mean "until nothing changes"
        volumes = np.stack([ndimage.binary_erosion(volume, iterations=erosion) for volume in volumes])
    if not volumes.any(axis=(1, 2, 3)).all():
        raise ValueError(f"`mask` must have voxels left after `erosion` of {erosion}, got none for some subject.")
    return volumes.reshape(whole.shape)


def residual_map(
    images: Array,
    reconstructions: Array,
    *,
    kind: str = "positive",
    mask: Array | None = None,
    erosion: int = 1,
    median: int = 3,
) -> Floats:
    """Return how much each voxel deviates from its reconstruction, smoothed and restricted to the brain.

    With d = image - reconstruction, the map is max(d, 0) for lesions brighter than tissue (FLAIR), max(-d, 0) for
    darker lesions (T1; the simulated cohort), and |d| where both occur. It is then median-filtered and set to zero
    outside the eroded mask.

    A lesion in the rim that erosion removes has a score of zero. Evaluate in the whole mask to count it as missed, or
    in the eroded mask to leave it out.

    Args:
        images: shape (n, x, y, z) or (n, 1, x, y, z).
        reconstructions: the same shape; from a model, or from `evaluation.reconstruction.pca_reconstruction` with as
            many components as the model has latent dimensions for the baseline.
        kind: "positive", "negative" or "absolute".
        mask: brain mask, shape (x, y, z) or one for each subject; ``None`` keeps all voxels.
        erosion: number of layers of voxels removed from the mask.
        median: width of the filter window in voxels, odd; 0 or 1 for no filter. The volume is mirrored at its edges.

    Returns:
        shape (n, x, y, z), non-negative, in the units of the images.

    Raises:
        ValueError: if the shapes differ, a value isn't finite, no voxel of the mask is left, or an argument isn't as
            described. An even window is refused, since it would shift the map by half a voxel.

    Source:
        Baur et al. 2021, Medical Image Analysis 69, 101952 (their window is 5 voxels wide).

    Example:
        >>> images = np.zeros((1, 5, 5, 5))
        >>> images[0, 1:4, 1:4, 1:4] = 2.0
        >>> float(residual_map(images, np.full((1, 5, 5, 5), 0.5))[0, 2, 2, 2])
        1.5
    """
    from scipy import ndimage

    check_choice("kind", kind, KINDS)
    median = check_integer("median", median, minimum=0)
    if median % 2 == 0 and median > 0:
        raise ValueError(f"`median` must be 0 or odd, got {median}.")
    pictures, restored = volume_batch("images", images), volume_batch("reconstructions", reconstructions)
    if pictures.shape != restored.shape:
        raise ValueError(
            f"`reconstructions` must have the shape of the images, {np.shape(images)}, got {np.shape(reconstructions)}."
        )
    difference = pictures - restored
    scores: Floats = np.abs(difference) if kind == "absolute" else difference
    if kind != "absolute":
        scores = np.maximum(scores if kind == "positive" else -scores, 0.0)
    if median > 1:
        scores = np.stack([ndimage.median_filter(volume, size=median, mode="reflect") for volume in scores])
    if mask is None:
        check_integer("erosion", erosion, minimum=0)
        return scores
    mask_batch("mask", mask, scores.shape)  # checks the shape before erosion, which accepts any
    return np.where(mask_batch("mask", erode_mask(mask, erosion), scores.shape), scores, 0.0)


def intensity_scores(
    images: Array,
    reference: float | Array | None = None,
    *,
    kind: str = "positive",
    mask: Array | None = None,
    erosion: int = 1,
    median: int = 3,
) -> Floats:
    """Return the score maps of the baseline without a model: the intensity, or its deviation from the healthy mean.

    The map is that of `residual_map` with ``reference`` in place of the reconstruction. Thresholding the intensity
    beats most published models on bright lesions, so a model has to improve on this map. For the other baseline, PCA,
    call `residual_map` with the reconstructions of `evaluation.reconstruction.pca_reconstruction`.

    Args:
        images: shape (n, x, y, z) or (n, 1, x, y, z).
        reference: a number at one end of the intensity scale, to score the intensity itself; or the mean image of
            healthy training subjects, shape (x, y, z) or (1, x, y, z). ``None`` is 0 for "positive" and 1 for
            "negative", the ends of the scale of images in [0, 1]; "absolute" needs a reference. Intensities on the
            other side of the reference score 0.
        kind: "positive" for bright lesions, "negative" for dark ones, "absolute" for both.
        mask: as for `residual_map`.
        erosion: as for `residual_map`.
        median: as for `residual_map`.

    Returns:
        shape (n, x, y, z), non-negative, in the units of the images.

    Raises:
        ValueError: as for `residual_map`, and if the reference has another shape or is missing for "absolute".

    Source:
        Meissen, Kaissis & Rueckert 2022, "Challenging current semi-supervised anomaly segmentation methods for brain
        MRI", BrainLes 2021, arXiv 2109.06023.

    Example:
        >>> images = np.full((1, 3, 3, 3), 0.25)
        >>> float(intensity_scores(images)[0, 1, 1, 1]), float(intensity_scores(images, kind="negative")[0, 1, 1, 1])
        (0.25, 0.75)
    """
    check_choice("kind", kind, KINDS)
    pictures = volume_batch("images", images)
    if reference is None:
        if kind == "absolute":
            raise ValueError('`reference` must be a number or an image for the kind "absolute", got None.')
        reference = 0.0 if kind == "positive" else 1.0
    level = np.asarray(reference, dtype=np.float64)
    if level.shape not in ((), pictures.shape[1:], (1, *pictures.shape[1:])):
        raise ValueError(f"`reference` must be a number or have shape {pictures.shape[1:]}, got {level.shape}.")
    if not np.isfinite(level).all():
        raise ValueError("`reference` must be finite, got NaN or infinity.")
    expected = np.broadcast_to(level, pictures.shape)
    return residual_map(pictures, expected, kind=kind, mask=mask, erosion=erosion, median=median)


def drop_small_components(binary: Array, min_voxels: int) -> Booleans:
    """Remove connected components of fewer than ``min_voxels`` voxels from segmentations.

    Voxels of a subject that share a face, an edge or a corner are connected (26 neighbours).

    Args:
        binary: boolean or 0 and 1, shape (n, x, y, z) or (n, 1, x, y, z).
        min_voxels: smallest component to keep; 0 or 1 keeps all.

    Returns:
        boolean, shape (n, x, y, z).

    Raises:
        ValueError: if an argument isn't as described.

    Example:
        >>> binary = np.zeros((1, 4, 4, 4), dtype=bool)
        >>> binary[0, 0, 0, 0] = binary[0, 1, 1, 1] = binary[0, 3, 3, 3] = True
        >>> np.argwhere(drop_small_components(binary, 2)[0]).tolist()
        [[0, 0, 0], [1, 1, 1]]
    """
    from scipy import ndimage

    min_voxels = check_integer("min_voxels", min_voxels, minimum=0)
    volumes = binary_batch("binary", binary)
    kept = np.zeros(volumes.shape, dtype=bool)
    for volume, out in zip(volumes, kept, strict=True):
        components, _ = ndimage.label(volume, structure=np.ones((3, 3, 3)))
        large = np.bincount(components.ravel()) >= min_voxels
        large[0] = False  # the background
        out[...] = large[components]
    return kept


def segment(scores: Array, threshold: float, min_voxels: int = 0) -> Booleans:
    """Return the voxels that score above the threshold, without components of fewer than ``min_voxels`` voxels.

    Args:
        scores: shape (n, x, y, z) or (n, 1, x, y, z), zero outside the brain.
        threshold: voxels with exactly this score aren't segmented. A negative threshold segments the background too.
        min_voxels: smallest component to keep.

    Returns:
        boolean, shape (n, x, y, z).

    Raises:
        ValueError: if an argument isn't as described.

    Example:
        >>> scores = np.arange(8.0).reshape(1, 2, 2, 2)
        >>> int(segment(scores, 5).sum())
        2
    """
    threshold = check_real("threshold", threshold)
    return drop_small_components(volume_batch("scores", scores) > threshold, min_voxels)


def healthy_threshold(
    scores: Array, mask: Array | None, false_positive_rate: float = 0.01, *, pool: str = "voxels"
) -> float:
    """Return the lowest threshold that at most a given share of healthy voxels exceeds.

    Pass scores of healthy validation subjects only. A model fits its training subjects too well, so a threshold from
    them is too low. A threshold tuned on lesions has seen the test data. The rate applies to single voxels, before
    small components are dropped.

    Args:
        scores: scores of healthy subjects, shape (n, x, y, z) or (n, 1, x, y, z).
        mask: brain mask, shape (x, y, z) or one for each subject; ``None`` includes every voxel.
        false_positive_rate: accepted share, from 0 (the threshold is the highest healthy score) to 1.
        pool: "voxels" pools the voxels of all subjects; "subjects" takes the median of one threshold per subject, which
            is robust to a few bad scans but lets half of the subjects exceed the rate.

    Returns:
        the threshold, one of the scores (or the mean of two for "subjects").

    Raises:
        ValueError: if a subject has no voxel in the mask, or an argument isn't as described.

    Example:
        >>> healthy_threshold(np.arange(1000.0).reshape(1, 10, 10, 10), None, 0.01)
        989.0
    """
    check_choice("pool", pool, POOLS)
    rate = check_real("false_positive_rate", false_positive_rate, minimum=0, maximum=1)
    values = volume_batch("scores", scores)
    inside = inside_batch("mask", mask, values.shape)
    if pool == "voxels":
        return _upper_quantile(values[inside], rate)
    own = [_upper_quantile(value[chosen], rate) for value, chosen in zip(values, inside, strict=True)]
    return float(np.median(own))


def _upper_quantile(values: Floats, rate: float) -> float:
    n = len(values)
    # the margin absorbs rounding: 0.29 of 100 voxels is 28.999999999999996 and must give 29
    above = min(math.floor(rate * n + 1e-9), n - 1)
    return float(np.partition(values, n - 1 - above)[n - 1 - above])
