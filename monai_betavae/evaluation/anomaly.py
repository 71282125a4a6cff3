"""Scores of lesion detection: overlap, precision and recall, by lesion property and by subject.

The lesion maps come from `evaluation.residuals`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._checks import check_integer, check_real
from .intervals import LEVEL, N_RESAMPLES, Estimate, estimate
from .residuals import drop_small_components
from .volume_batches import binary_batch, check_binary, inside_batch, mask_batch, volume_batch, voxel_counts

Array = NDArray[Any]
Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


class AveragePrecision(NamedTuple):
    """Area under precision-recall curves, with its chance level; NaN where there is no lesion voxel.

    Attributes:
        pooled: area for all voxels of all subjects together.
        per_subject: area for the voxels of each subject, shape (n,).
        prevalence: share of lesion voxels among all voxels, the pooled value of an uninformative map.
        prevalence_per_subject: the same for each subject, shape (n,).
    """

    pooled: float
    per_subject: Floats
    prevalence: float
    prevalence_per_subject: Floats


def dice(segmentation: Array, truth: Array) -> Floats:
    """Return the overlap of each segmentation with the truth, Dice = 2 |S and T| / (|S| + |T|).

    Where both are empty, there was nothing to find and the score is NaN, not 1: healthy subjects without a false
    positive would otherwise raise the mean of a cohort. Where only one is empty, the score is 0.

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
    found = binary_batch("segmentation", segmentation)
    lesions = mask_batch("truth", truth, found.shape, shared=False)
    return _ratio(2.0 * voxel_counts(found & lesions), voxel_counts(found) + voxel_counts(lesions))


def voxel_auprc(scores: Array, truth: Array, mask: Array | None = None) -> AveragePrecision:
    """Return the average precision of voxel scores, sum_k (R_k - R_(k-1)) P_k over the distinct scores.

    Voxels of equal score are taken together. The pooled value rewards scores that share one threshold across subjects;
    the per-subject value depends on the ranking within each subject only. The chance level is the prevalence, which
    depends on the mask and on lesion size: compare values for the same voxels only.

    Args:
        scores: shape (n, x, y, z) or (n, 1, x, y, z), high where a lesion is.
        truth: the lesions, boolean or 0 and 1, the same shape.
        mask: which voxels count, shape (x, y, z) or one for each subject; lesion voxels outside it are left out.

    Returns:
        the pooled and the per-subject values, with their prevalences.

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

    At each point the voxels that score at least the threshold count as positive: precision = TP / (TP + FP),
    recall = TP / (TP + FN). Each distinct score gives one point. If there are more than ``n_points``, those are kept
    that first reach evenly spaced recalls. No artificial point of recall 0 and precision 1 is added.

    Args:
        scores: shape (n, x, y, z) or (n, 1, x, y, z).
        truth: the lesions, boolean or 0 and 1, the same shape.
        mask: which voxels count, shape (x, y, z) or one for each subject.
        n_points: maximum number of points, at least 2.

    Returns:
        "precision", "recall" and "threshold", each of shape (points,), in order of falling threshold.

    Raises:
        ValueError: as for `voxel_auprc`, and if there is no lesion voxel.

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
    """Return how well lesions are detected, by lesion size and by lesion intensity.

    Residuals have a blind spot where a lesion looks like healthy tissue, and a single mean over all lesions hides it.
    Subjects are divided into groups of about equal size by the quantiles of the property. Equal values stay in one
    group, so there may be fewer groups. Subjects without a lesion voxel in the mask are left out.

    Args:
        scores: shape (n, x, y, z) or (n, 1, x, y, z).
        truth: the lesions, boolean or 0 and 1, the same shape.
        mask: which voxels count, for both scores, shape (x, y, z) or one for each subject.
        threshold: threshold of the segmentation, from `healthy_threshold`.
        sizes: sizes of the subjects' lesions, shape (n,), any unit.
        intensities: intensities of the subjects' lesions, shape (n,), any unit.
        n_bins: number of groups, 3 for terciles.
        min_voxels: smallest component of the segmentation to keep.

    Returns:
        one dict for each group, first those for "size", then those for "intensity", by rising value: "by", the
        property; "group", its number from 1; "low" and "high", the range of the property in the group; "n", the number
        of subjects; "prevalence", "auprc" and "dice", each the mean over subjects. Larger lesions have a higher AUPRC
        by chance alone: compare it with the prevalence.

    Raises:
        ValueError: as for `voxel_auprc` and `segment`, and if no subject has a lesion voxel in the mask.

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

    For the pseudo-healthy image P, the healthy image H and the lesioned image L, return MSE(P, H) inside and outside
    the lesion, and MSE(L, H), the error of leaving the image as it is. A good model repairs the lesion (ratio below 1)
    and leaves the rest unchanged.

    Args:
        pseudo_healthy: reconstructions of the lesioned images, shape (n, x, y, z) or (n, 1, x, y, z).
        healthy: the true images without the lesion, the same shape.
        lesioned: the images with the lesion, the same shape.
        lesion_mask: the lesions, boolean or 0 and 1, the same shape.
        mask: brain mask, shape (x, y, z) or one for each subject; lesion voxels outside it are left out.

    Returns:
        each of shape (n,): "lesion" and "outside", MSE(P, H) inside the lesion and in the brain outside it;
        "lesion_untouched" and "outside_untouched", MSE(L, H) there; "lesion_ratio", "lesion" divided by
        "lesion_untouched". A region without voxels gives NaN. A ratio to 0 is infinite, and NaN for 0 to 0.

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
    brain = inside_batch("mask", mask, target.shape)
    lesions = mask_batch("lesion_mask", lesion_mask, target.shape, shared=False) & brain
    regions = {"lesion": lesions, "outside": brain & ~lesions}
    errors: dict[str, Floats] = {}
    for region, voxels in regions.items():
        errors[region] = _masked_mean((repaired - target) ** 2, voxels)
        errors[f"{region}_untouched"] = _masked_mean((diseased - target) ** 2, voxels)
    return {**errors, "lesion_ratio": _ratio(errors["lesion"], errors["lesion_untouched"])}


def subject_scores(residuals: Array, mask: Array | None = None) -> Floats:
    """Return one score for each subject, the mean residual in the mask, for telling patients from controls.

    Alternatives are the latent deviation (`evaluation.normative.latent_deviation`) and the negative ELBO; compare them
    with `detection_auroc`.

    Args:
        residuals: output of `residual_map` or `intensity_scores`, shape (n, x, y, z) or (n, 1, x, y, z).
        mask: shape (x, y, z) or one for each subject.

    Returns:
        shape (n,), in the units of the residuals.

    Raises:
        ValueError: if a subject has no voxel in the mask, or the shapes don't match.

    Example:
        >>> subject_scores(np.arange(16.0).reshape(2, 2, 2, 2)).tolist()
        [3.5, 11.5]
    """
    values = volume_batch("residuals", residuals)
    return _masked_mean(values, inside_batch("mask", mask, values.shape))


def detection_auroc(
    scores: Array,
    is_patient: Array,
    *,
    subjects: ArrayLike | None = None,
    level: float = LEVEL,
    n_resamples: int = N_RESAMPLES,
    seed: int | None = 0,
) -> Estimate:
    """Return how well a score tells patients from controls: the probability that the patient scores higher.

    AUROC = P(patient > control) + P(patient = control) / 2, over all pairs of a patient and a control; 0.5 is chance.

    Args:
        scores: one score for each subject, shape (n,), high for patients.
        is_patient: boolean or 0 and 1, shape (n,).
        subjects: label of each score's subject where some have several, as in
            :func:`~monai_betavae.evaluation.estimate`.
        level: coverage of the interval.
        n_resamples: number of bootstrap resamples of subjects.
        seed: seed of the resamples; with the same seed, the intervals of two scores are paired.

    Returns:
        the AUROC and the ends of its interval.

    Raises:
        ValueError: if there is no patient or no control, or an argument isn't as described.

    Source:
        Hanley & McNeil 1982, Radiology 143, 29-36.

    Example:
        >>> detection_auroc(np.array([1.0, 2, 3, 4]), np.array([0, 1, 0, 1])).value
        0.75
    """
    patients = check_binary("is_patient", is_patient)
    if patients.ndim != 1 or patients.all() or not patients.any():
        raise ValueError(
            f"`is_patient` must have shape (n,), with patients and controls, got shape {patients.shape} "
            f"with {int(patients.sum())} patients."
        )
    values = _per_subject("scores", scores, len(patients))
    return estimate(
        values, patients, statistic=_auroc, subjects=subjects, level=level, n_resamples=n_resamples, seed=seed
    )


def _auroc(values: Floats, patients: Booleans) -> float:
    from scipy.stats import rankdata

    n_patients = int(patients.sum())
    n_controls = len(patients) - n_patients
    if n_patients == 0 or n_controls == 0:
        return float("nan")  # the resample drew one group only
    ranks = rankdata(values)[patients].sum()
    return float((ranks - n_patients * (n_patients + 1) / 2) / (n_patients * n_controls))


def _average_precision(values: Floats, lesions: Booleans) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(lesions, values)) if lesions.any() else float("nan")


def _scored(scores: Array, truth: Array, mask: Array | None) -> tuple[Floats, Booleans, Booleans]:
    values = volume_batch("scores", scores)
    lesions = mask_batch("truth", truth, values.shape, shared=False)
    return values, lesions, inside_batch("mask", mask, values.shape)


def _per_subject(name: str, values: Array, n: int) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.shape == (n,) and not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity.")
    if array.shape != (n,):
        raise ValueError(f"`{name}` must hold {n} numbers, one for each subject, got shape {array.shape}.")
    return array


def _masked_mean(values: Floats, voxels: Booleans) -> Floats:
    return _ratio(np.where(voxels, values, 0.0).sum(axis=(1, 2, 3)), voxel_counts(voxels))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Floats = numerator / denominator
    return ratio
