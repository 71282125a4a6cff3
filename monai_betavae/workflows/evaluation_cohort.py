"""Parts of an evaluation that ask the cohort: probes, disentanglement, anomaly, normative deviation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.transforms import brain_transforms
from ..evaluation.anomaly import (
    detection_auroc,
    dice,
    healthy_pair_error,
    lesion_table,
    precision_recall,
    subject_scores,
    voxel_auprc,
)
from ..evaluation.disentanglement import dci, factor_vae_score, mig, sap
from ..evaluation.intervals import estimate
from ..evaluation.normative import corrected, latent_deviation, significant_count, voxel_deviation
from ..evaluation.probes import ProbeScore, probe, probe_held_out
from ..evaluation.reconstruction import brain_mask
from ..evaluation.residuals import eroded_mask, healthy_threshold, intensity_scores, residual_map, segment
from ..plots import plot_maps, plot_precision_recall, plot_predictions
from .evaluation_data import HEALTHY_KEY, LESION_KEY, Subjects, covariates_of, on_grid
from .evaluation_model import PCA_NAME, VAE_NAME
from .evaluation_part import Part, as_dict, finite, spread

Array = NDArray[Any]

MEAN_NAME, INTENSITY_NAME = "mean image residual", "intensity threshold"
LESION_KINDS = {"dark": "negative", "bright": "positive", "both": "absolute"}
"""Which residuals show a lesion: dark ones are below their reconstruction."""

FEWEST_TO_FIT, MOST_COVARIATES = 20, 24
FALSE_POSITIVE_RATE, MIN_VOXELS, EROSION, MEDIAN = 0.01, 4, 1, 3
DISENTANGLED = ("factor_brain_size", "factor_ventricles", "factor_atrophy", "factor_contrast", "factor_asymmetry")


def probes_part(
    held_out: Subjects,
    training: Subjects,
    codes: Mapping[str, tuple[Array, Array]],
    covariates: Sequence[str] | None,
    control: str | None,
    seed: int,
    n_permutations: int = 200,
    label: str = "",
) -> Part:
    """Predict covariates from codes: fitted on training subjects, scored on the evaluated ones, beside PCA.

    Args:
        held_out: the evaluated subjects.
        training: the training subjects; where they are too few, the evaluated ones are cross-validated.
        codes: by method, those of the training and of the evaluated subjects.
        covariates: names, or ``None`` for all that the records have.
        control: name of a covariate that has no effect.
        seed: of folds, permutations and resamples.
        n_permutations: number of permutations.
        label: title of the pictures.
    """
    part = Part("probes", "What the latents say about covariates")
    found = covariates_of([*training.records, *held_out.records])
    names = [name for name in (covariates if covariates is not None else found) if name in found][:MOST_COVARIATES]
    missing = sorted(set(covariates or ()) - set(found))
    if missing:
        part.warn(f"Covariates that no record has, or that don't vary: {', '.join(missing)}.")
    rows: list[list[Any]] = []
    predictions: dict[str, ProbeScore] = {}
    crossed = False
    for name in names:
        row: list[Any] = []
        entry: dict[str, Any] = {}
        for method, (train_codes, test_codes) in codes.items():
            try:
                score, was_crossed = _probed(training, held_out, train_codes, test_codes, name, n_permutations, seed)
            except ValueError as error:
                row = [name, f"not probed: {error}", *[None] * (1 + 2 * len(codes))]
                break
            crossed = crossed or was_crossed
            row = row or [name, {"r2": "R²", "balanced_accuracy": "balanced accuracy"}[score.score], score.chance]
            row += [f"{score.value:.2f} [{score.low:.2f}, {score.high:.2f}]", score.p_value]
            entry[_key(method)] = finite(
                {"value": score.value, "low": score.low, "high": score.high, "p_value": score.p_value}
            )
            entry.update(score=score.score, chance=score.chance, n=score.n_used)
            if score.kind == "regression":
                predictions.setdefault(f"{name}\n{method}", score)
            if name == control and method == VAE_NAME and score.p_value < 0.01 and score.value > score.chance + 0.1:
                part.warn(
                    f"The control {name}, which has no effect, is predicted ({score.value:.2f}): look for a leak."
                )
        if entry:
            part.scores[name] = entry
        rows.append([f"{name} (control: no effect)" if name == control else name, *row[1:]])
    if not rows:
        part.text("The records have no covariate: give a table with columns, or a BIDS folder with participants.tsv.")
        return part
    part.text(
        "A linear probe (ridge or logistic regression on standardised codes). "
        + (
            "Cross-validated within the evaluated subjects, as too few training subjects have the covariate. "
            if crossed
            else "Fitted on the training subjects, scored on the evaluated ones, new to model and probe. "
        )
        + "R² is 0 where the codes say nothing and can be negative; 95 % bootstrap intervals over subjects; p by "
        f"{n_permutations} permutations. PCA has as many dimensions, fitted on the same training volumes."
    )
    heads = [head for method in codes for head in (method, "p")]
    part.table(["covariate", "score", "chance", *heads], rows)
    worse = [
        name
        for name, entry in part.scores.items()
        if _key(PCA_NAME) in entry
        and entry[_key(PCA_NAME)]["value"] > entry[_key(VAE_NAME)]["value"] + 0.02
        and entry[_key(PCA_NAME)]["p_value"] < 0.05
    ]
    if worse:
        part.text(f"PCA says more about: {', '.join(worse)}.")
    _draw_predictions(part, predictions, codes, held_out, label)
    return part


def _probed(
    training: Subjects,
    held_out: Subjects,
    train_codes: Array,
    test_codes: Array,
    name: str,
    n_permutations: int,
    seed: int,
) -> tuple[ProbeScore, bool]:
    """Return the probe of a covariate, and whether it had to be cross-validated."""
    train_target, test_target = training.column(name), held_out.column(name)
    groups = np.array([str(record.get("subject")) for record in held_out.records])
    if sum(value is not None for value in train_target) >= FEWEST_TO_FIT:
        train_groups = np.array([str(record.get("subject")) for record in training.records])
        score = probe_held_out(
            train_codes,
            np.array(train_target, dtype=object),
            test_codes,
            np.array(test_target, dtype=object),
            train_groups=train_groups,
            test_groups=groups,
            n_permutations=n_permutations,
            seed=seed,
        )
        return score, False
    target = np.array(test_target, dtype=object)
    return probe(test_codes, target, groups=groups, n_permutations=n_permutations, seed=seed), True


def _draw_predictions(
    part: Part, predictions: Mapping[str, ProbeScore], codes: Mapping[str, Any], held_out: Subjects, label: str
) -> None:
    """Draw age, or the covariate that is predicted best, and write the predictions of all."""
    import pandas as pd

    ours = {key.split("\n")[0]: score for key, score in predictions.items() if key.endswith(VAE_NAME)}
    if not ours:
        return
    name = "age" if "age" in ours else max(ours, key=lambda each: ours[each].value)
    shown = {method: predictions[f"{name}\n{method}"] for method in codes if f"{name}\n{method}" in predictions}
    labels = {method: f"R² {s.value:.2f} [{s.low:.2f}, {s.high:.2f}]" for method, s in shown.items()}
    true = np.asarray(ours[name].target, dtype=float)
    drawn = {method: np.asarray(score.predicted, dtype=float) for method, score in shown.items()}
    figure = plot_predictions(true, drawn, name, labels, label)
    part.picture("predictions.png", figure, f"Predicted against true {name} of subjects that weren't fitted to.")
    table = pd.DataFrame(
        {"subject": held_out.column("subject"), "image": [record["image"] for record in held_out.records]}
    )
    for each, score in ours.items():
        column = np.full(len(held_out), np.nan)
        column[score.rows] = np.asarray(score.predicted, dtype=float)
        table[f"{each}_predicted"] = column
    part.files["predictions.csv"] = table


def disentanglement_part(subjects: Sequence[Subjects], codes: Mapping[str, Sequence[Array]], seed: int) -> Part | None:
    """Score disentanglement against the simulated cohort's factors; ``None`` where the records have none."""
    records = [record for group in subjects for record in group.records]
    names = [name for name in DISENTANGLED if all(record.get(name) is not None for record in records)]
    if len(names) < 2 or len(records) < FEWEST_TO_FIT:
        return None
    part = Part("disentanglement", "Disentanglement")
    factors = {name: np.array([float(record[name]) for record in records]) for name in names}
    measures: dict[str, Callable[[Array], Any]] = {
        "MIG": lambda each: mig(each, factors, seed=seed)["score"],
        "SAP": lambda each: sap(each, factors, seed=seed)["score"],
        "FactorVAE score": lambda each: factor_vae_score(each, factors, seed=seed)["score"],
    }
    columns: dict[str, dict[str, float | None]] = {}
    for method, parts in codes.items():
        together = np.concatenate(parts).astype(float)
        column: dict[str, float | None] = {}
        for name, measure in measures.items():
            try:
                column[name] = float(measure(together))
            except ValueError:  # too few subjects in a bin
                column[name] = None
        found = dci(together, factors, seed=seed)
        for name in ("disentanglement", "completeness", "informativeness"):
            column[f"DCI {name}"] = float(found[name])
        columns[method] = column
        part.scores[_key(method)] = finite(column)
    part.scores["factors"] = names
    part.text(
        f"Of {len(records)} simulated subjects, against the {len(names)} factors they were made from. 1 is ideal, 0 "
        "useless (the FactorVAE score's chance is 1 over the number of factors). Good disentangled models can't be "
        "picked without labels, and beta alone doesn't make one (Locatello et al. 2019): read it as a description."
    )
    rows = [[name, *(columns[method][name] for method in codes)] for name in next(iter(columns.values()))]
    part.table(["", *codes], rows)
    return part


def anomaly_part(
    held_out: Subjects,
    reconstructions: Mapping[str, Array],
    validation: Subjects,
    validation_reconstructions: Mapping[str, Array],
    preprocessing: Mapping[str, Any],
    lesions: str,
    seed: int,
    label: str = "",
) -> Part | None:
    """Find lesions by residuals, beside PCA's, the mean image's and an intensity threshold; ``None`` without masks.

    Args:
        held_out: the evaluated subjects; those with a lesion's mask count.
        reconstructions: by method, of ``held_out.images``.
        validation: healthy subjects, from whom the thresholds come.
        validation_reconstructions: by method, of ``validation.images``.
        preprocessing: ``spatial_shape`` and ``spacing``, for the healthy counterparts.
        lesions: "dark", "bright" or "both".
        seed: of the intervals.
        label: title of the pictures.
    """
    records = [held_out.records[index] for index in held_out.shown]
    sick = [row for row, record in enumerate(records) if record.get(LESION_KEY)]
    well = [row for row, index in enumerate(validation.shown) if not validation.records[index].get(LESION_KEY)]
    if not sick or not well:
        return None
    part = Part("anomaly", "Lesions")
    images, kind = held_out.images[sick, 0], LESION_KINDS[lesions]
    shape = images.shape[1:]
    truth = np.stack([on_grid(records[row][LESION_KEY], held_out.affines[row], shape) for row in sick])
    mask, healthy_mask = brain_mask(images), brain_mask(validation.images[well, 0])
    inside, healthy_inside = eroded_mask(mask, EROSION), eroded_mask(healthy_mask, EROSION)
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
        area, mean_dice = estimate(precision.per_subject, seed=seed), estimate(overlap, seed=seed)
        part.scores[_key(method)] = finite(
            {
                "auprc": precision.pooled,
                "auprc_per_subject": as_dict(area),
                "dice": as_dict(mean_dice),
                "threshold": threshold,
            }
        )
        rows.append([method, precision.pooled, spread(area), spread(mean_dice), threshold])
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
    ours = part.scores[_key(VAE_NAME)]["auprc"]
    better = [method for method in scores if method != VAE_NAME and part.scores[_key(method)]["auprc"] >= ours]
    if better:
        part.warn(f"Lesions are found no better than by: {', '.join(better)}. The residuals add nothing to it.")
    figure = plot_precision_recall(curves, prevalence, labels, label)
    part.picture("precision_recall.png", figure, "Precision and recall of lesion voxels; the area in the legend.")
    _by_lesion(
        part, scores[VAE_NAME], truth & inside, inside, [records[row] for row in sick], healthy_scores, healthy_inside
    )
    _pairs(part, images, reconstructions, truth, mask, sick, records, preprocessing)
    largest = np.argsort(truth.reshape(len(truth), -1).sum(axis=1))[::-1][:4]
    names = [str(records[sick[row]].get("subject")) for row in largest]
    maps = plot_maps(scores[VAE_NAME][largest], images[largest], held_out.affines[0], names, label, truth[largest])
    part.picture(
        "residuals.png", maps, "Residuals over the anatomy, subjects with the largest lesions; green: the lesion."
    )
    _detection(part, scores, inside, healthy_scores, healthy_inside, seed)
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
    """Add how well lesions are found by size and intensity."""
    if len(records) < 6:
        return
    sizes = truth.reshape(len(truth), -1).sum(axis=1).astype(float)
    given = [record.get("factor_lesion_intensity") for record in records]
    intensities = np.array([np.nan if value is None else float(value) for value in given])
    known = np.isfinite(intensities).all()
    threshold = healthy_threshold(healthy_scores[VAE_NAME], healthy_inside, FALSE_POSITIVE_RATE)
    table = lesion_table(scores, truth, inside, threshold, sizes, intensities if known else sizes, 3, MIN_VOXELS)
    table = [row for row in table if known or row["by"] == "size"]
    part.scores["by_lesion"] = finite(table)
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
    preprocessing: Mapping[str, Any],
) -> None:
    """Add how close the pseudo-healthy image is to the true one, where that is known."""
    paired = [i for i, row in enumerate(sick) if records[row].get(HEALTHY_KEY)]
    if not paired:
        return
    transform = brain_transforms(**preprocessing)
    healthy = np.stack([transform({"image": records[sick[i]][HEALTHY_KEY]})["image"][0].numpy() for i in paired])
    rows = []
    for method, volumes in reconstructions.items():
        pseudo = volumes[[sick[i] for i in paired], 0]
        errors = healthy_pair_error(pseudo, healthy, images[paired], truth[paired], mask[paired])
        means = {name: float(np.nanmean(values)) for name, values in errors.items() if name != "lesion_ratio"}
        part.scores[_key(method)]["healthy_pair"] = finite(means)
        rows.append([method, means["lesion"], means["outside"]])
    rows.append(["doing nothing", means["lesion_untouched"], means["outside_untouched"]])
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
    seed: int,
) -> None:
    """Add how well the mean residual tells subjects with a lesion from healthy ones."""
    rows = []
    n_sick, n_well = len(inside), len(healthy_inside)
    patient = np.array([True] * n_sick + [False] * n_well)
    for method, values in scores.items():
        healthy = subject_scores(healthy_scores[method], healthy_inside)
        found = detection_auroc(np.concatenate([subject_scores(values, inside), healthy]), patient, seed=seed)
        part.scores[_key(method)]["detection_auroc"] = as_dict(found)
        rows.append([method, spread(found)])
    caption = f"AUROC of the mean score in the brain: {n_sick} subjects with a lesion among {n_well} healthy ones"
    part.table(["method", "AUROC"], rows, caption)


def normative_part(
    held_out: Subjects, reference: Subjects, held_out_residuals: Array, reference_residuals: Array | None, whose: str
) -> Part | None:
    """Say how far each subject is from the reference; ``None`` where that is too small.

    Args:
        held_out: the evaluated subjects.
        reference: training or validation subjects without a known lesion.
        held_out_residuals: image - reconstruction of ``held_out.images``, shape (k, x, y, z).
        reference_residuals: the same of validation subjects; ``None`` where there are too few.
        whose: of which part the reference is.
    """
    import pandas as pd

    if len(reference) < FEWEST_TO_FIT:
        return None
    part = Part("normative", "Deviation from the norm")
    found = latent_deviation(held_out.mu, held_out.logvar, reference.mu, reference.logvar)
    q = corrected(found["p_subject"][None])[0]
    table = pd.DataFrame(
        {
            "subject": held_out.column("subject"),
            "image": [record["image"] for record in held_out.records],
            "latent_deviation": found["score"],
            "p": found["p_subject"],
            "q": q,
            "deviating_dimensions": significant_count(corrected(found["p_values"])),
        }
    )
    part.text(
        f"Of each subject's code against those of {len(reference)} {whose} subjects without a known lesion: the mean "
        "over dimensions of |mu - mean| / sqrt(variance + posterior variance). p by its rank among the reference's "
        "own; q with the false discovery rate controlled over subjects (Benjamini-Hochberg), and over dimensions for "
        "the count."
        + (
            ""
            if whose == "validation"
            else " Training subjects deviate more than new ones: validation would be better."
        )
    )
    part.scores.update(
        n_reference=len(reference), deviating_subjects=int((q <= 0.05).sum()), n_subjects=len(held_out), of=whose
    )
    if reference_residuals is not None and len(reference_residuals) >= FEWEST_TO_FIT:
        inside = brain_mask(held_out.images[:, 0])
        counts = []
        for residual, mask in zip(held_out_residuals, inside, strict=True):  # one subject at a time: memory
            tested = voxel_deviation(residual[None], reference_residuals, mask)
            counts.append(int(significant_count(corrected(tested["p"]))[0]))
        column = np.full(len(held_out), np.nan)
        column[held_out.shown] = counts
        table["deviating_voxels"] = column
        part.text(
            f"deviating_voxels: residuals unlike those of {len(reference_residuals)} healthy validation subjects in "
            "the same voxel, false discovery rate 5 % within the subject."
        )
    part.files["deviation.csv"] = table
    shown = table.sort_values("latent_deviation", ascending=False).drop(columns="image").head(10)
    rows = [[None if value != value else value for value in row] for row in shown.to_numpy(dtype=object).tolist()]
    part.table(list(shown.columns), rows, "The ten that deviate most; all in deviation.csv")
    return part


def _key(method: str) -> str:
    return {VAE_NAME: "model", PCA_NAME: "pca", MEAN_NAME: "mean_image", INTENSITY_NAME: "intensity"}.get(
        method, method
    )
