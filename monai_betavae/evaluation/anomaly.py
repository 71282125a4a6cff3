"""Lesion maps from residuals: how they are made, where to cut them, and how well they find the lesions.

Volumes come in batches of shape (n, x, y, z) or (n, 1, x, y, z); the channel axis is dropped and never comes back. One
volume alone is refused: give ``volume[None]``. A mask is boolean or holds 0 and 1; it is either one volume (x, y, z)
for all subjects or a batch with one for each.

Maps are made by `residual_map` for a model and for a PCA alike (its reconstructions come from
`evaluation.reconstruction.pca_reconstruction`), and by `intensity_scores` for the baseline without any model. The
threshold comes from healthy validation subjects (`healthy_threshold`), never from the subjects with lesions.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._checks import check_choice, check_integer, check_real
from .intervals import LEVEL, N_RESAMPLES, Estimate, estimate

Array = NDArray[Any]
Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

KINDS = ("positive", "negative", "absolute")
POOLS = ("voxels", "subjects")


class AveragePrecision(NamedTuple):
    """Area under precision-recall curves, and what chance gives; NaN where there is no lesion voxel.

    Attributes:
        pooled: of all voxels of all subjects together.
        per_subject: of each subject's voxels, shape (n,).
        prevalence: share of lesion voxels among all, which a useless map has as its pooled value.
        prevalence_per_subject: the same for each subject, shape (n,).
    """

    pooled: float
    per_subject: Floats
    prevalence: float
    prevalence_per_subject: Floats


def volume_batch(name: str, volumes: Array) -> Floats:
    """Return volumes as float64 of shape (n, x, y, z), or raise ``ValueError``.

    Args:
        name: the argument's name, for the message.
        volumes: shape (n, x, y, z) or (n, 1, x, y, z), finite.

    Example:
        >>> volume_batch("images", np.zeros((2, 1, 4, 5, 6))).shape
        (2, 4, 5, 6)
    """
    array = _without_channel(np.asarray(volumes, dtype=np.float64))
    if array.ndim != 4 or array.size == 0:
        raise ValueError(f"`{name}` must have shape (n, x, y, z) or (n, 1, x, y, z), got {np.shape(volumes)}.")
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity.")
    return array


def mask_batch(name: str, mask: Array | None, shape: tuple[int, ...], *, shared: bool = True) -> Booleans:
    """Return a mask for each subject as booleans of shape (n, x, y, z), or raise ``ValueError``.

    Args:
        name: the argument's name, for the message.
        mask: boolean or 0 and 1, shape (x, y, z), (n, x, y, z) or (n, 1, x, y, z); ``None`` takes every voxel.
        shape: (n, x, y, z), that of the volumes.
        shared: whether one volume may stand for all subjects.

    Example:
        >>> mask_batch("mask", np.ones((4, 5, 6)), (2, 4, 5, 6)).shape
        (2, 4, 5, 6)
    """
    if mask is None:
        return np.broadcast_to(np.True_, shape)
    array = _without_channel(_binary(name, mask))
    if array.shape != shape and not (shared and array.shape in (shape[1:], (1, *shape[1:]))):
        accepted = f"{shape[1:]} or {shape}" if shared else f"{shape}"
        raise ValueError(f"`{name}` must have shape {accepted}, got {np.shape(mask)}.")
    return np.broadcast_to(array, shape)


def eroded_mask(mask: Array, erosion: int = 1) -> Booleans:
    """Return a mask without its outer voxels, where partial volume and misregistration leave residuals in anyone.

    A voxel stays if its six neighbours are all in the mask; what lies outside the field of view counts as outside.

    Args:
        mask: boolean or 0 and 1, shape (..., x, y, z).
        erosion: how many layers of voxels to take off.

    Returns:
        boolean, the shape of ``mask``.

    Raises:
        ValueError: if the mask isn't binary or has fewer than three axes, nothing is left of it, or ``erosion`` is
            negative.

    Example:
        >>> int(eroded_mask(np.ones((5, 5, 5))).sum())
        27
    """
    from scipy import ndimage

    erosion = check_integer("erosion", erosion, minimum=0)
    whole = _binary("mask", mask)
    if whole.ndim < 3:
        raise ValueError(f"`mask` must have shape (..., x, y, z), got {whole.shape}.")
    volumes = whole.reshape(-1, *whole.shape[-3:])
    if erosion > 0:  # scipy takes 0 iterations for "until nothing changes"
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
    """Return how much each voxel departs from its reconstruction, smoothed and inside the brain.

    With d = image - reconstruction, the map is max(d, 0) for lesions brighter than tissue (FLAIR), max(-d, 0) for
    darker ones (T1; the simulated cohort's), |d| where both occur. A median filter follows, then zeros outside the
    eroded mask.

    A lesion in the rim that erosion takes off has a score of zero. To count it as missed, evaluate in the whole mask;
    in the eroded one it is left out.

    Args:
        images: shape (n, x, y, z) or (n, 1, x, y, z).
        reconstructions: the same shape; of a model, or of `evaluation.reconstruction.pca_reconstruction`, the baseline
            with as many components as the model has latents.
        kind: "positive", "negative" or "absolute".
        mask: brain mask, shape (x, y, z) or one for each subject; ``None`` zeroes nothing.
        erosion: layers of voxels taken off the mask.
        median: side of the filter's window in voxels, odd; 0 or 1 for no filter. The volume is mirrored at its edges.

    Returns:
        shape (n, x, y, z), not negative, in units of the images.

    Raises:
        ValueError: if the shapes differ, a value isn't finite, nothing is left of the mask, or an argument isn't as
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
    mask_batch("mask", mask, scores.shape)  # its shape, before the erosion that takes any
    return np.where(mask_batch("mask", eroded_mask(mask, erosion), scores.shape), scores, 0.0)


def intensity_scores(
    images: Array,
    reference: float | Array | None = None,
    *,
    kind: str = "positive",
    mask: Array | None = None,
    erosion: int = 1,
    median: int = 3,
) -> Floats:
    """Return the baseline without a model: the intensity itself, or its deviation from the healthy mean.

    It is `residual_map` with ``reference`` in place of the reconstruction. Thresholds of intensity beat most published
    models on bright lesions, so a model's map is worth what it adds to this one. For the other baseline, PCA, call
    `residual_map` with the reconstructions of `evaluation.reconstruction.pca_reconstruction`.

    Args:
        images: shape (n, x, y, z) or (n, 1, x, y, z).
        reference: a number, an end of the intensity scale, for the intensity itself; or the mean image of healthy
            training subjects, shape (x, y, z) or (1, x, y, z). ``None`` is 0 for "positive" and 1 for "negative", the
            ends of the scale of images between 0 and 1; "absolute" needs a reference. Intensities on the reference's
            other side all have score 0.
        kind: "positive" for bright lesions, "negative" for dark ones, "absolute" for both.
        mask: as of `residual_map`.
        erosion: as of `residual_map`.
        median: as of `residual_map`.

    Returns:
        shape (n, x, y, z), not negative, in units of the images.

    Raises:
        ValueError: as of `residual_map`, and if the reference has another shape or there is none for "absolute".

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
    """Return segmentations without their connected components of fewer than ``min_voxels`` voxels.

    Voxels that share a face, an edge or a corner are connected (26 neighbours), each subject by itself.

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
    volumes = _binary_batch("binary", binary)
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
        threshold: voxels of exactly this score aren't segmented. Below 0 it takes what is outside the brain, too.
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
    """Return the lowest threshold with at most this share of healthy voxels above it.

    Only scores of healthy subjects go in, of a validation set and not of training: a model fits its training subjects
    too well, so a threshold from them is too low. A threshold tuned on lesions has seen what it is tested on. The rate
    is of single voxels, before small components are dropped.

    Args:
        scores: of healthy subjects, shape (n, x, y, z) or (n, 1, x, y, z).
        mask: brain mask, shape (x, y, z) or one for each subject; ``None`` takes every voxel.
        false_positive_rate: from 0 (the highest healthy score) to 1.
        pool: "voxels" of all subjects together, or "subjects": the median of the subjects' own thresholds, which a
            few bad scans don't move; half of the subjects may then exceed the rate.

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
    inside = _inside("mask", mask, values.shape)
    if pool == "voxels":
        return _upper_quantile(values[inside], rate)
    own = [_upper_quantile(value[chosen], rate) for value, chosen in zip(values, inside, strict=True)]
    return float(np.median(own))


def dice(segmentation: Array, truth: Array) -> Floats:
    """Return the overlap of each segmentation with the truth, Dice = 2 |S and T| / (|S| + |T|).

    Where both are empty there was nothing to find, and the score is NaN, not 1: healthy subjects that are left alone
    would otherwise raise a cohort's mean. Where only one is empty it is 0.

    Args:
        segmentation: boolean or 0 and 1, shape (n, x, y, z) or (n, 1, x, y, z).
        truth: the lesions, the same shape.

    Returns:
        shape (n,), from 0 to 1.

    Raises:
        ValueError: if the shapes differ or a value is neither 0 nor 1.

    Source:
        Dice 1945, Ecology 26, 297-302.

    Example:
        >>> truth = np.zeros((1, 2, 2, 2))
        >>> truth[0, 0] = 1
        >>> dice(np.ones((1, 2, 2, 2)), truth).round(3).tolist()
        [0.667]
    """
    found = _binary_batch("segmentation", segmentation)
    lesions = mask_batch("truth", truth, found.shape, shared=False)
    return _ratio(2.0 * _count(found & lesions), _count(found) + _count(lesions))


def voxel_auprc(scores: Array, truth: Array, mask: Array | None = None) -> AveragePrecision:
    """Return the average precision of voxel scores, sum_k (R_k - R_(k-1)) P_k over the distinct scores.

    Voxels of equal score are taken together. The pooled value asks for one threshold that serves all subjects; the
    per-subject one for a ranking within each. Chance is the prevalence, which depends on the mask and on lesion size:
    compare values of the same voxels only.

    Args:
        scores: shape (n, x, y, z) or (n, 1, x, y, z), high where a lesion is.
        truth: the lesions, boolean or 0 and 1, the same shape.
        mask: which voxels count, shape (x, y, z) or one for each subject; lesion voxels outside it are left out.

    Returns:
        pooled and per subject, with prevalences.

    Raises:
        ValueError: if the shapes differ, a score isn't finite, or a subject has no voxel in the mask.

    Source:
        ``sklearn.metrics.average_precision_score``; Davis & Goadrich, ICML 2006, on why not the trapezium rule.

    Example:
        >>> truth = np.zeros((1, 2, 2, 2))
        >>> truth[0, 0, 0] = 1
        >>> found = voxel_auprc(truth * 0.3, truth)
        >>> found.pooled, found.prevalence
        (1.0, 0.25)
    """
    values, lesions, inside = _scored(scores, truth, mask)
    pairs = [(value[chosen], lesion[chosen]) for value, lesion, chosen in zip(values, lesions, inside, strict=True)]
    return AveragePrecision(
        pooled=_average_precision(values[inside], lesions[inside]),
        per_subject=np.array([_average_precision(*pair) for pair in pairs]),
        prevalence=float(lesions[inside].mean()),
        prevalence_per_subject=np.array([lesion.mean() for _, lesion in pairs]),
    )


def precision_recall(scores: Array, truth: Array, mask: Array | None = None, n_points: int = 500) -> dict[str, Floats]:
    """Return the precision-recall curve of all subjects' voxels together, thinned for a plot.

    A point is what the voxels of at least its threshold give: precision = TP / (TP + FP), recall = TP / (TP + FN).
    There is one for each distinct score; of more than ``n_points``, those are kept that first reach evenly spaced
    recalls. No point of recall 0 and precision 1 is made up.

    Args:
        scores: shape (n, x, y, z) or (n, 1, x, y, z).
        truth: the lesions, boolean or 0 and 1, the same shape.
        mask: which voxels count, shape (x, y, z) or one for each subject.
        n_points: at most so many points, at least 2.

    Returns:
        "precision", "recall" and "threshold", each of shape (points,), by falling threshold.

    Raises:
        ValueError: as of `voxel_auprc`, and if there is no lesion voxel.

    Example:
        >>> truth = np.array([1, 0, 1, 0, 0, 0, 0, 0]).reshape(1, 2, 2, 2)
        >>> curve = precision_recall(np.arange(8.0, 0, -1).reshape(1, 2, 2, 2), truth)
        >>> curve["precision"][:3].round(2).tolist(), curve["recall"][:3].tolist()
        ([1.0, 0.5, 0.67], [0.5, 0.5, 1.0])
    """
    n_points = check_integer("n_points", n_points, minimum=2)
    values, lesions, inside = _scored(scores, truth, mask)
    falling = np.argsort(-values[inside], kind="stable")
    thresholds = values[inside][falling]
    hits = np.cumsum(lesions[inside][falling])
    if hits[-1] == 0:
        raise ValueError("`truth` must have a lesion voxel in the mask, got none.")
    ends = np.append(np.flatnonzero(np.diff(thresholds)), len(thresholds) - 1)  # the last voxel of each distinct score
    recall = hits[ends] / hits[-1]
    if len(ends) > n_points:
        kept = np.unique(np.searchsorted(recall, np.linspace(recall[0], 1.0, n_points)))
        ends, recall = ends[kept], recall[kept]
    return {"precision": hits[ends] / (ends + 1), "recall": recall, "threshold": thresholds[ends]}


def lesion_table(
    scores: Array,
    truth: Array,
    mask: Array | None,
    threshold: float,
    sizes: Array,
    intensities: Array,
    n_bins: int = 3,
    min_voxels: int = 0,
) -> list[dict[str, Any]]:
    """Return how well lesions are found, by their size and by their intensity.

    Residuals have a blind spot where a lesion looks like tissue, which one mean over all lesions hides. Subjects are
    put into groups of about equal number by the quantiles of the property; equal values are in one group, so that there
    may be fewer groups. Subjects without a lesion voxel in the mask are left out.

    Args:
        scores: shape (n, x, y, z) or (n, 1, x, y, z).
        truth: the lesions, boolean or 0 and 1, the same shape.
        mask: which voxels count, for both scores, shape (x, y, z) or one for each subject.
        threshold: of the segmentation, from `healthy_threshold`.
        sizes: of the subjects' lesions, shape (n,), any unit.
        intensities: of the subjects' lesions, shape (n,), any unit.
        n_bins: number of groups, 3 for terciles.
        min_voxels: smallest component of the segmentation to keep.

    Returns:
        for "size" and then "intensity", by rising value, a dict for each group: "by"; "group" from 1; "low" and "high",
        the property's range in the group; "n" subjects; "prevalence", "auprc" and "dice", each the mean over subjects.
        Larger lesions have a higher AUPRC by chance alone: read it beside the prevalence.

    Raises:
        ValueError: as of `voxel_auprc` and `segment`, and if no subject has a lesion voxel in the mask.

    Example:
        >>> truth = np.zeros((3, 2, 2, 2))
        >>> truth[:, 0] = 1
        >>> table = lesion_table(truth, truth, None, 0.5, np.array([1, 2, 3]), np.array([5, 5, 5]))
        >>> [(row["by"], row["group"], row["n"], row["dice"]) for row in table]
        [('size', 1, 1, 1.0), ('size', 2, 1, 1.0), ('size', 3, 1, 1.0), ('intensity', 1, 3, 1.0)]
    """
    n_bins = check_integer("n_bins", n_bins, minimum=1)
    values, lesions, inside = _scored(scores, truth, mask)
    properties = {
        "size": _per_subject("sizes", sizes, len(values)),
        "intensity": _per_subject("intensities", intensities, len(values)),
    }
    precision = voxel_auprc(values, lesions, inside)
    found = drop_small_components((values > check_real("threshold", threshold)) & inside, min_voxels)
    overlap = dice(found, lesions & inside)
    chosen = precision.prevalence_per_subject > 0
    if not chosen.any():
        raise ValueError("`truth` must have a lesion voxel in the mask, got none.")
    rows: list[dict[str, Any]] = []
    for by, property_ in properties.items():
        groups = np.searchsorted(np.quantile(property_[chosen], np.arange(1, n_bins) / n_bins), property_)
        for number, group in enumerate(np.unique(groups[chosen]), start=1):
            members = chosen & (groups == group)
            rows.append(
                {
                    "by": by,
                    "group": number,
                    "low": float(property_[members].min()),
                    "high": float(property_[members].max()),
                    "n": int(members.sum()),
                    "prevalence": float(precision.prevalence_per_subject[members].mean()),
                    "auprc": float(precision.per_subject[members].mean()),
                    "dice": float(overlap[members].mean()),
                }
            )
    return rows


def healthy_pair_error(
    pseudo_healthy: Array, healthy: Array, lesioned: Array, lesion_mask: Array, mask: Array | None = None
) -> dict[str, Floats]:
    """Return how close reconstructions of lesioned images are to the same brains without the lesion.

    With P the pseudo-healthy image, H the healthy one and L the lesioned one: MSE(P, H) inside the lesion and outside
    it, and MSE(L, H), what doing nothing gives. A good model repairs the lesion (ratio below 1) and leaves the rest
    alone.

    Args:
        pseudo_healthy: reconstructions of the lesioned images, shape (n, x, y, z) or (n, 1, x, y, z).
        healthy: the true images without lesion, the same shape.
        lesioned: the images with lesion, the same shape.
        lesion_mask: the lesions, boolean or 0 and 1, the same shape.
        mask: brain mask, shape (x, y, z) or one for each subject; lesion voxels outside it are left out.

    Returns:
        each of shape (n,): "lesion" and "outside", MSE(P, H) inside the lesion and in the brain outside it;
        "lesion_untouched" and "outside_untouched", MSE(L, H) there; "lesion_ratio", the first over the third. NaN where
        there are no such voxels, and a ratio to 0 is infinite, or NaN for 0 to 0.

    Raises:
        ValueError: if the shapes differ, or a value isn't finite or a mask isn't binary.

    Source:
        Hassanaly et al. 2024, "Evaluation of pseudo-healthy image reconstruction for anomaly detection with deep
        generative models: Application to brain FDG PET", MELBA 2.

    Example:
        >>> healthy, lesion = np.zeros((1, 2, 2, 2)), np.zeros((1, 2, 2, 2))
        >>> lesion[0, 0, 0, 0] = 1
        >>> found = healthy_pair_error(healthy + 0.5, healthy, lesion, lesion)
        >>> found["lesion"].tolist(), found["lesion_untouched"].tolist(), found["lesion_ratio"].tolist()
        ([0.25], [1.0], [0.25])
    """
    target = volume_batch("healthy", healthy)
    repaired, diseased = volume_batch("pseudo_healthy", pseudo_healthy), volume_batch("lesioned", lesioned)
    for name, volumes in (("pseudo_healthy", repaired), ("lesioned", diseased)):
        if volumes.shape != target.shape:
            raise ValueError(f"`{name}` must have the shape of `healthy`, {target.shape}, got {volumes.shape}.")
    brain = _inside("mask", mask, target.shape)
    lesions = mask_batch("lesion_mask", lesion_mask, target.shape, shared=False) & brain
    regions = {"lesion": lesions, "outside": brain & ~lesions}
    errors: dict[str, Floats] = {}
    for region, voxels in regions.items():
        errors[region] = _masked_mean((repaired - target) ** 2, voxels)
        errors[f"{region}_untouched"] = _masked_mean((diseased - target) ** 2, voxels)
    return {**errors, "lesion_ratio": _ratio(errors["lesion"], errors["lesion_untouched"])}


def subject_scores(residuals: Array, mask: Array | None = None) -> Floats:
    """Return one score for each subject, the mean residual in the mask, to say who is a patient.

    It stands beside the latent deviation (`evaluation.normative.latent_deviation`) and the negative ELBO; compare them
    by `detection_auroc`.

    Args:
        residuals: of `residual_map` or `intensity_scores`, shape (n, x, y, z) or (n, 1, x, y, z).
        mask: shape (x, y, z) or one for each subject.

    Returns:
        shape (n,), in units of the residuals.

    Raises:
        ValueError: if a subject has no voxel in the mask, or the shapes don't go together.

    Example:
        >>> subject_scores(np.arange(16.0).reshape(2, 2, 2, 2)).tolist()
        [3.5, 11.5]
    """
    values = volume_batch("residuals", residuals)
    return _masked_mean(values, _inside("mask", mask, values.shape))


def detection_auroc(
    scores: Array,
    is_patient: Array,
    *,
    level: float = LEVEL,
    n_resamples: int = N_RESAMPLES,
    seed: int | None = 0,
) -> Estimate:
    """Return how well a score tells patients from controls: the chance that a patient's is the higher one.

    AUROC = P(patient > control) + P(patient = control) / 2, over all pairs; 0.5 is useless.

    Args:
        scores: shape (n,), high for patients.
        is_patient: boolean or 0 and 1, shape (n,).
        level: coverage of the interval.
        n_resamples: number of bootstrap resamples of subjects.
        seed: of the resamples; the same seed pairs the intervals of two scores.

    Returns:
        value, low, high.

    Raises:
        ValueError: if there is no patient or no control, or an argument isn't as described.

    Source:
        Hanley & McNeil 1982, Radiology 143, 29-36.

    Example:
        >>> detection_auroc(np.array([1.0, 2, 3, 4]), np.array([0, 1, 0, 1])).value
        0.75
    """
    patients = _binary("is_patient", is_patient)
    if patients.ndim != 1 or patients.all() or not patients.any():
        raise ValueError(
            f"`is_patient` must have shape (n,), with patients and controls, got shape {patients.shape} "
            f"with {int(patients.sum())} patients."
        )
    values = _per_subject("scores", scores, len(patients))
    return estimate(values, patients, statistic=_auroc, level=level, n_resamples=n_resamples, seed=seed)


def _auroc(values: Floats, patients: Booleans) -> float:
    from scipy.stats import rankdata

    n_patients = int(patients.sum())
    n_controls = len(patients) - n_patients
    if n_patients == 0 or n_controls == 0:
        return float("nan")  # a resample that drew one group only
    ranks = rankdata(values)[patients].sum()
    return float((ranks - n_patients * (n_patients + 1) / 2) / (n_patients * n_controls))


def _average_precision(values: Floats, lesions: Booleans) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(lesions, values)) if lesions.any() else float("nan")


def _upper_quantile(values: Floats, rate: float) -> float:
    n = len(values)
    # the margin keeps a rate like 0.29 of 100 voxels, 28.999999999999996, at 29
    above = min(math.floor(rate * n + 1e-9), n - 1)
    return float(np.partition(values, n - 1 - above)[n - 1 - above])


def _scored(scores: Array, truth: Array, mask: Array | None) -> tuple[Floats, Booleans, Booleans]:
    values = volume_batch("scores", scores)
    lesions = mask_batch("truth", truth, values.shape, shared=False)
    return values, lesions, _inside("mask", mask, values.shape)


def _inside(name: str, mask: Array | None, shape: tuple[int, ...]) -> Booleans:
    inside = mask_batch(name, mask, shape)
    empty = np.flatnonzero(_count(inside) == 0)
    if len(empty):
        raise ValueError(f"`{name}` must have a voxel for each subject, got none for subject {int(empty[0])}.")
    return inside


def _per_subject(name: str, values: Array, n: int) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.shape == (n,) and not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity.")
    if array.shape != (n,):
        raise ValueError(f"`{name}` must hold {n} numbers, one for each subject, got shape {array.shape}.")
    return array


def _binary(name: str, mask: Array) -> Booleans:
    array = np.asarray(mask)
    # a mask resampled by linear interpolation has values between; to take them for true would enlarge it
    if array.dtype != np.bool_ and not ((array == 0) | (array == 1)).all():
        raise ValueError(f"`{name}` must be boolean or hold 0 and 1 only, got other values.")
    return array.astype(np.bool_)


def _binary_batch(name: str, mask: Array) -> Booleans:
    array = _without_channel(_binary(name, mask))
    if array.ndim != 4 or array.size == 0:
        raise ValueError(f"`{name}` must have shape (n, x, y, z) or (n, 1, x, y, z), got {np.shape(mask)}.")
    return array


def _without_channel(array: Array) -> Array:
    return array[:, 0] if array.ndim == 5 and array.shape[1] == 1 else array


def _count(voxels: Booleans) -> Floats:
    counts: Floats = voxels.sum(axis=(1, 2, 3)).astype(np.float64)
    return counts


def _masked_mean(values: Floats, voxels: Booleans) -> Floats:
    return _ratio(np.where(voxels, values, 0.0).sum(axis=(1, 2, 3)), _count(voxels))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Floats = numerator / denominator
    return ratio
