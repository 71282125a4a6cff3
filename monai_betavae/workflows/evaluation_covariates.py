"""Parts of an evaluation that ask what the codes say of the subjects: probes of covariates, disentanglement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.disentanglement import dci, factor_vae_score, mig, sap
from ..evaluation.intervals import estimate
from ..evaluation.probes import ProbeScore, balanced_accuracy, probe, probe_held_out, r_squared
from ..plots import plot_predictions
from .evaluation_data import Subjects, covariates_of
from .evaluation_part import FEWEST_TO_FIT, PCA_NAME, VAE_NAME, Part, finite, method_key

Array = NDArray[Any]

MOST_COVARIATES = 24
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
    predictions: dict[tuple[str, str], ProbeScore] = {}
    surpassed: list[str] = []
    crossed = False
    for name in names:
        row: list[Any] = []
        entry: dict[str, Any] = {}
        probed: dict[str, ProbeScore] = {}
        for method, (train_codes, test_codes) in codes.items():
            try:
                score, was_crossed = _probed(training, held_out, train_codes, test_codes, name, n_permutations, seed)
            except ValueError as error:
                row = [name, f"not probed: {error}", *[None] * (1 + 2 * len(codes))]
                break
            crossed = crossed or was_crossed
            row = row or [name, {"r2": "R²", "balanced_accuracy": "balanced accuracy"}[score.score], score.chance]
            row += [_with_interval(score), score.p_value]
            probed[method] = score
            entry[method_key(method)] = finite(
                {"value": score.value, "low": score.low, "high": score.high, "p_value": score.p_value}
            )
            entry.update(score=score.score, chance=score.chance, n=score.n_used)
            if score.kind == "regression":
                predictions.setdefault((name, method), score)
            if name == control and method == VAE_NAME and score.p_value <= 0.01 and score.value > score.chance + 0.1:
                part.warn(
                    f"The control {name}, which has no effect, is predicted ({score.value:.2f}): look for a leak."
                )
        if entry:
            part.scores[name] = entry
        if VAE_NAME in probed and PCA_NAME in probed and is_surpassed(probed[VAE_NAME], probed[PCA_NAME], seed):
            surpassed.append(name)
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
    if surpassed:
        part.warn(f"PCA's codes say more about {', '.join(surpassed)} (95 % interval of the difference).")
    _draw_predictions(part, predictions, codes, held_out, label)
    return part


def is_surpassed(ours: ProbeScore, theirs: ProbeScore, seed: int) -> bool:
    """Whether another probe of the same rows is better, by the bootstrap interval of the difference of the scores."""
    score: Callable[[Array, Array], float] = r_squared if ours.kind == "regression" else balanced_accuracy
    if not np.array_equal(ours.rows, theirs.rows) or theirs.value <= ours.value:
        return False

    def difference(target: Array, better: Array, worse: Array) -> float:
        try:
            return score(target, better) - score(target, worse)
        except ValueError:  # a resample of one value only
            return float("nan")

    return estimate(ours.target, theirs.predicted, ours.predicted, statistic=difference, seed=seed).low > 0


def _with_interval(score: ProbeScore) -> str:
    # + 0.0: no "-0.00"; the spaces don't break
    value, low, high = (round(number, 2) + 0.0 for number in (score.value, score.low, score.high))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]".replace(" ", "\N{NO-BREAK SPACE}")


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
    part: Part,
    predictions: Mapping[tuple[str, str], ProbeScore],
    codes: Mapping[str, Any],
    held_out: Subjects,
    label: str,
) -> None:
    """Draw age, or the covariate that is predicted best, and write the predictions of all."""
    import pandas as pd

    ours = {name: score for (name, method), score in predictions.items() if method == VAE_NAME}
    if not ours:
        return
    name = "age" if "age" in ours else max(ours, key=lambda each: ours[each].value)
    shown = {method: predictions[name, method] for method in codes if (name, method) in predictions}
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
        part.scores[method_key(method)] = finite(column)
    part.scores["factors"] = names
    part.text(
        f"Of {len(records)} simulated subjects, against the {len(names)} factors they were made from. 1 is ideal, 0 "
        "useless (the FactorVAE score's chance is 1 over the number of factors). Good disentangled models can't be "
        "picked without labels, and beta alone doesn't make one (Locatello et al. 2019): read it as a description."
    )
    rows = [[name, *(columns[method][name] for method in codes)] for name in next(iter(columns.values()))]
    part.table(["", *codes], rows)
    return part
