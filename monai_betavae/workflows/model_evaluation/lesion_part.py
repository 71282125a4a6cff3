"""The part of an evaluation on lesion detection, compared with PCA, the mean image and an intensity threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...evaluation.anomaly import (
    detection_auroc,
    dice,
    healthy_pair_error,
    lesion_table,
    precision_recall,
    subject_scores,
    voxel_auprc,
)
from ...evaluation.intervals import estimate
from ...evaluation.reconstruction import brain_mask
from ...evaluation.residuals import erode_mask, healthy_threshold, intensity_scores, residual_map, segment
from ...plots import plot_maps, plot_precision_recall
from .part import INTENSITY_NAME, VAE_NAME, Part, as_dict, format_estimate, method_key, replace_non_finite
from .subjects import HEALTHY_KEY, LESION_KEY, Subjects, on_grid

Array = NDArray[Any]

LESION_KINDS = {"dark": "negative", "bright": "positive", "both": "absolute"}
"""Residuals that show a lesion: dark lesions are below their reconstruction."""

FALSE_POSITIVE_RATE, MIN_VOXELS, EROSION, MEDIAN = 0.01, 4, 1, 3


def anomaly_part(
    held_out: Subjects,
    reconstructions: Mapping[str, Array],
    validation: Subjects,
    validation_reconstructions: Mapping[str, Array],
    transform: Callable[..., Any],
    lesions: str,
    seed: int,
    label: str = "",
) -> Part | None:
    """Find lesions by the residuals of the model and of the baselines; return ``None`` without lesion masks.

    Args:
        held_out: the evaluated subjects; those with a lesion mask count.
        reconstructions: reconstructions of ``held_out.images`` by method.
        validation: subjects whose healthy members determine the thresholds.
        validation_reconstructions: reconstructions of ``validation.images`` by method.
        transform: function from a record to a sample, for the healthy counterparts.
        lesions: "dark", "bright" or "both".
        seed: seed of the intervals.
        label: title of the pictures.
    """
    records = [held_out.records[index] for index in held_out.shown]
    sick = [row for row, record in enumerate(records) if record.get(LESION_KEY)]
    well = [row for row, index in enumerate(validation.shown) if not validation.records[index].get(LESION_KEY)]
    if not sick or not well:
        return None
    part = Part("anomaly", "Lesions")
    people, others = held_out.shown_people[sick], validation.shown_people[well]
    images, kind = held_out.images[sick, 0], LESION_KINDS[lesions]
    shape = images.shape[1:]
    truth = np.stack([on_grid(records[row][LESION_KEY], held_out.affines[row], shape) for row in sick])
    mask, healthy_mask = brain_mask(images), brain_mask(validation.images[well, 0])
    inside, healthy_inside = erode_mask(mask, EROSION), erode_mask(healthy_mask, EROSION)
    options: dict[str, Any] = {"kind": kind, "erosion": EROSION, "median": MEDIAN}
    scores: dict[str, Array] = {}
    healthy_scores: dict[str, Array] = {}
    for method in reconstructions:
        scores[method] = residual_map(images, reconstructions[method][sick, 0], mask=mask, **options)
        healthy = validation_reconstructions[method][well, 0]
        healthy_scores[method] = residual_map(validation.images[well, 0], healthy, mask=healthy_mask, **options)
    if lesions != "both":
        scores[INTENSITY_NAME] = intensity_scores(images, mask=mask, **options)
        healthy_scores[INTENSITY_NAME] = intensity_scores(validation.images[well, 0], mask=healthy_mask, **options)
    rows, curves, labels = [], {}, {}
    prevalence = 0.0
    for method, values in scores.items():
        threshold = healthy_threshold(healthy_scores[method], healthy_inside, FALSE_POSITIVE_RATE)
        segmented = segment(values, threshold, MIN_VOXELS) & inside
        precision = voxel_auprc(values, truth & inside, inside)
        overlap = dice(segmented, truth)
        prevalence = precision.prevalence
        area, mean_dice = (estimate(each, subjects=people, seed=seed) for each in (precision.per_subject, overlap))
        part.scores[method_key(method)] = replace_non_finite(
            {
                "auprc": precision.pooled,
                "auprc_per_subject": as_dict(area),
                "dice": as_dict(mean_dice),
                "threshold": threshold,
            }
        )
        rows.append([method, precision.pooled, format_estimate(area), format_estimate(mean_dice), threshold])
        curve = precision_recall(values, truth & inside, inside)
        curves[method], labels[method] = (curve["precision"], curve["recall"]), f"{method}: {precision.pooled:.3f}"
    part.scores.update(n_subjects=len(sick), n_healthy=len(well), prevalence=prevalence, lesions=lesions)
    part.text(
        f"{len(sick)} subjects with a lesion; {lesions} residuals inside the brain mask, eroded by {EROSION} voxel, "
        f"with a median filter of {MEDIAN} voxels. The threshold of each method is the one that "
        f"{FALSE_POSITIVE_RATE:.0%} of the voxels of {len(well)} healthy validation subjects exceed; components of "
        f"fewer than {MIN_VOXELS} voxels are dropped for Dice. Chance is an AUPRC of {prevalence:.4f}, the share of "
        "lesion voxels."
    )
    part.table(["method", "AUPRC, all voxels", "AUPRC per subject", "Dice per subject", "threshold"], rows)
    ours = part.scores[method_key(VAE_NAME)]["auprc"]
    better = [method for method in scores if method != VAE_NAME and part.scores[method_key(method)]["auprc"] >= ours]
    if better:
        part.warn(f"Lesions are found no better than by: {', '.join(better)}. The residuals add nothing to it.")
    figure = plot_precision_recall(curves, prevalence, labels, label)
    part.picture("precision_recall.png", figure, "Precision and recall of lesion voxels; the area in the legend.")
    _by_lesion(
        part, scores[VAE_NAME], truth & inside, inside, [records[row] for row in sick], healthy_scores, healthy_inside
    )
    _pairs(part, images, reconstructions, truth, mask, sick, records, transform)
    largest = np.argsort(truth.reshape(len(truth), -1).sum(axis=1))[::-1][:4]
    names = [str(records[sick[row]].get("subject")) for row in largest]
    maps = plot_maps(scores[VAE_NAME][largest], images[largest], held_out.affines[0], names, label, truth[largest])
    part.picture(
        "residuals.png", maps, "Residuals over the anatomy, subjects with the largest lesions; green: the lesion."
    )
    # a row without a subject has its number as a label, which both groups may have
    labels_of_all = [f"evaluated {name}" for name in people] + [f"validation {name}" for name in others]
    _detection(part, scores, inside, healthy_scores, healthy_inside, labels_of_all, seed)
    return part


def _by_lesion(
    part: Part,
    scores: Array,
    truth: Array,
    inside: Array,
    records: Sequence[Mapping[str, Any]],
    healthy_scores: Mapping[str, Array],
    healthy_inside: Array,
) -> None:
    """Add the scores of lesion detection by size and intensity."""
    if len(records) < 6:
        return
    sizes = truth.reshape(len(truth), -1).sum(axis=1).astype(float)
    given = [record.get("factor_lesion_intensity") for record in records]
    intensities = np.array([np.nan if value is None else float(value) for value in given])
    known = np.isfinite(intensities).all()
    threshold = healthy_threshold(healthy_scores[VAE_NAME], healthy_inside, FALSE_POSITIVE_RATE)
    table = lesion_table(scores, truth, inside, threshold, sizes, intensities if known else sizes, 3, MIN_VOXELS)
    table = [row for row in table if known or row["by"] == "size"]
    part.scores["by_lesion"] = replace_non_finite(table)
    rows = [
        [row["by"], f"{row['low']:.3g} to {row['high']:.3g}", row["n"], row["prevalence"], row["auprc"], row["dice"]]
        for row in table
    ]
    caption = "This model, by the lesions' size in voxels and by how far they go from tissue (0) to CSF (1)"
    part.table(["by", "range", "n", "chance", "AUPRC", "Dice"], rows, caption)


def _pairs(
    part: Part,
    images: Array,
    reconstructions: Mapping[str, Array],
    truth: Array,
    mask: Array,
    sick: Sequence[int],
    records: Sequence[Mapping[str, Any]],
    transform: Callable[..., Any],
) -> None:
    """Add the error of the pseudo-healthy image against the true healthy one, where that is known."""
    paired = [i for i, row in enumerate(sick) if records[row].get(HEALTHY_KEY)]
    if not paired:
        return
    counterparts = [{**records[sick[i]], "image": records[sick[i]][HEALTHY_KEY]} for i in paired]
    healthy = np.stack([transform(counterpart)["image"][0].numpy() for counterpart in counterparts])
    rows = []
    for method, volumes in reconstructions.items():
        pseudo = volumes[[sick[i] for i in paired], 0]
        errors = healthy_pair_error(pseudo, healthy, images[paired], truth[paired], mask[paired])
        means = {name: float(np.nanmean(values)) for name, values in errors.items() if name != "lesion_ratio"}
        part.scores[method_key(method)]["healthy_pair"] = replace_non_finite(means)
        rows.append([method, means["lesion"], means["outside"]])
    rows.append(["image left as it is", means["lesion_untouched"], means["outside_untouched"]])
    caption = (
        f"Mean squared error of the pseudo-healthy image to the same brain without its lesion, {len(paired)} pairs"
    )
    part.table(["method", "inside the lesion", "outside"], rows, caption)


def _detection(
    part: Part,
    scores: Mapping[str, Array],
    inside: Array,
    healthy_scores: Mapping[str, Array],
    healthy_inside: Array,
    people: Sequence[str],
    seed: int,
) -> None:
    """Add the AUROC of the mean residual for subjects with a lesion against healthy ones."""
    rows = []
    n_sick, n_well = len(inside), len(healthy_inside)
    patient = np.array([True] * n_sick + [False] * n_well)
    for method, values in scores.items():
        healthy = subject_scores(healthy_scores[method], healthy_inside)
        both = np.concatenate([subject_scores(values, inside), healthy])
        found = detection_auroc(both, patient, subjects=people, seed=seed)
        part.scores[method_key(method)]["detection_auroc"] = as_dict(found)
        rows.append([method, format_estimate(found)])
    caption = f"AUROC of the mean score in the brain: {n_sick} subjects with a lesion among {n_well} healthy ones"
    part.table(["method", "AUROC"], rows, caption)
