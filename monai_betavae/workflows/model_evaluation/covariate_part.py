"""Parts of an evaluation on the information in the codes: probes of covariates, and disentanglement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._checks import is_missing
from ...data.tables.covariates import head_of, kind_of_covariate, ordered_covariates
from ...evaluation.disentanglement import dci, factor_vae_score, mig, sap
from ...evaluation.intervals import estimate
from ...evaluation.probes import ProbeScore, balanced_accuracy, probe, probe_held_out, r_squared
from ...plots import plot_predictions
from .part import (
    MIN_TO_FIT,
    PCA_NAME,
    VAE_NAME,
    Part,
    conditional_text,
    covariate_label,
    method_key,
    replace_non_finite,
)
from .subjects import Subjects, covariates_of, left_out_of

Array = NDArray[Any]

MAX_COVARIATES = 24
"""Maximum number of covariates that are probed unless they are requested by name."""

NOT_PROBED = "not_probed"
"""Key of the scores for the columns that aren't probed, each with the reason."""

KINDS = {"quantity": "regression", "category": "classification"}
"""Kind of probe for each kind of covariate."""

_NAMES_SHOWN, _ROWS_SHOWN = 12, 40

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
    conditional: Sequence[str] = (),
) -> Part:
    """Predict covariates from codes, with probes fitted to training subjects and scored on the evaluated ones.

    Args:
        held_out: the evaluated subjects.
        training: the training subjects; if they are too few, the probes are cross-validated in the evaluated ones.
        codes: codes of the training and of the evaluated subjects, by method.
        covariates: names, or ``None`` for those in the records, age and sex first, at most 24. Columns that aren't
            probed are listed in a table with the reason, and in the scores under "not_probed".
        control: name of a covariate that has no effect.
        seed: seed of folds, permutations and resamples.
        n_permutations: number of permutations.
        label: title of the pictures.
        conditional: covariates that the model is conditional on.
    """
    part = Part("probes", "What the latents say about covariates")
    records = [*training.records, *held_out.records]
    found, left_out = covariates_of(records), left_out_of(records)
    if covariates is None:
        names = ordered_covariates(found)
        beyond = f"beyond the first {MAX_COVARIATES}: name it with --covariates"
        left_out |= dict.fromkeys(names[MAX_COVARIATES:], beyond)
        names = names[:MAX_COVARIATES]
    else:
        asked = list(dict.fromkeys([covariates] if isinstance(covariates, str) else covariates))
        names = [name for name in asked if name in found]
        there = {key for record in records for key in record}
        others = [name for name in asked if name in there and name not in found]
        left_out = {name: left_out.get(name, "it names the volume, or holds paths") for name in others}
        _warn_of_unknown(part, [name for name in asked if name not in there], found)
    rows: list[list[Any]] = []
    predictions: dict[tuple[str, str], ProbeScore] = {}
    surpassed: list[str] = []
    crossed = False
    for name in names:
        kind = KINDS[kind_of_covariate(name, found[name])]
        reason = _lacking_classes(training.column(name), held_out.column(name)) if kind == "classification" else ""
        if reason or name == NOT_PROBED:
            left_out[name] = reason or "the report calls something else by this name"
            continue
        row: list[Any] = []
        entry: dict[str, Any] = {}
        probed: dict[str, ProbeScore] = {}
        for method, (train_codes, test_codes) in codes.items():
            try:
                score, was_crossed = _probed(
                    training, held_out, train_codes, test_codes, name, kind, n_permutations, seed
                )
            except ValueError as error:
                left_out[name] = _in_plain_words(error)
                break
            crossed = crossed or was_crossed
            row = row or [name, {"r2": "R²", "balanced_accuracy": "balanced accuracy"}[score.score], score.chance]
            row += [_with_interval(score), score.p_value]
            probed[method] = score
            entry[method_key(method)] = replace_non_finite(
                {"value": score.value, "low": score.low, "high": score.high, "p_value": score.p_value}
            )
            entry.update(score=score.score, chance=score.chance, n=score.n_used)
            if score.kind == "regression":
                predictions.setdefault((name, method), score)
            if name == control and method == VAE_NAME and score.p_value <= 0.01 and score.value > score.chance + 0.1:
                part.warn(
                    f"The control {name}, which has no effect, is predicted ({score.value:.2f}): look for a leak."
                )
        if name in left_out:
            continue
        part.scores[name] = entry
        if name in conditional:
            entry["conditioned"] = True  # its codes are meant to say nothing of it, so PCA's aren't better
        elif (
            name != control
            and {VAE_NAME, PCA_NAME} <= probed.keys()
            and is_surpassed(probed[VAE_NAME], probed[PCA_NAME], held_out.people, seed)
        ):
            surpassed.append(name)
        marked = covariate_label(name, conditional)
        rows.append([f"{marked} (control: no effect)" if name == control else marked, *row[1:]])
    if left_out:
        part.scores[NOT_PROBED] = left_out
    if left_out and covariates is not None:
        part.warn("Asked for, but not probed: " + "; ".join(f"{name} ({why})" for name, why in left_out.items()) + ".")
    if not rows:
        if left_out:
            part.text("No column of the records can be probed.")
            _list_left_out(part, left_out)
        else:
            part.text(
                "The records have no covariate: give a table with columns, or a BIDS folder with participants.tsv."
            )
        return part
    part.text(
        "A linear probe (ridge or logistic regression on standardised codes). "
        + (
            "Cross-validated within the evaluated subjects, as too few training subjects have the covariate. "
            if crossed
            else "Fitted on the training subjects, scored on the evaluated ones, new to model and probe. "
        )
        + "R² is 0 where the codes say nothing and can be negative; 95 % bootstrap intervals over subjects; p by "
        f"{n_permutations} permutations. PCA has as many dimensions, or all that there are, fitted on the same "
        "training volumes."
    )
    if conditional:
        part.text(
            f"{conditional_text(conditional)}, so that a probe of what is conditioned on should be near chance. PCA's "
            "codes are of the whole images."
        )
    heads = [head for method in codes for head in (method, "p")]
    part.table(["covariate", "score", "chance", *heads], rows)
    _list_left_out(part, left_out)
    if surpassed:
        part.warn(f"PCA's codes say more about {', '.join(surpassed)} (95 % interval of the difference).")
    _draw_predictions(part, predictions, codes, held_out, label)
    return part


def _warn_of_unknown(part: Part, names: Sequence[str], found: Sequence[str] | Mapping[str, Any]) -> None:
    if names:
        there = ordered_covariates(found)
        more = f" and {len(there) - _NAMES_SHOWN} more" if len(there) > _NAMES_SHOWN else ""
        listed = ", ".join(there[:_NAMES_SHOWN]) or "none"
        part.warn(f"Covariates that no record has: {', '.join(names)}. There are: {listed}{more}.")


def _lacking_classes(train_target: Sequence[Any], test_target: Sequence[Any]) -> str:
    """Return why a category can't be probed, if a part lacks some of its classes, or an empty text."""
    ours, theirs = (
        # a datalist may contain lists, which can't be in a set
        {value if isinstance(value, str | int | float) else str(value) for value in target if not is_missing(value)}
        for target in (train_target, test_target)
    )
    if sum(not is_missing(value) for value in train_target) < MIN_TO_FIT or ours == theirs:
        return ""
    alone = sorted(map(str, ours ^ theirs))
    shown = ", ".join(alone[:3]) + (", ..." if len(alone) > 3 else "")
    return (
        f"too few volumes of a class: {len(alone)} of {len(ours | theirs)} classes ({shown}) not among both the "
        "training and the evaluated volumes"
    )


def _in_plain_words(error: ValueError) -> str:
    """Return the error message of a probe without the names of its arguments."""
    text = str(error)
    for argument, words in (("train_target", "training"), ("test_target", "evaluated"), ("target", "evaluated")):
        text = text.replace(f"`{argument}`", f"the values of the {words} volumes")
    text = text.replace(" (`n_folds`)", "")
    return text.rstrip(".")


def _list_left_out(part: Part, left_out: Mapping[str, str]) -> None:
    """Add a table of the columns that aren't probed, grouped by reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    rows: list[list[Any]] = []
    for reason, names in by_reason.items():
        more = f" and {len(names) - _NAMES_SHOWN} more, in scores.json" if len(names) > _NAMES_SHOWN else ""
        rows.append([", ".join(names[:_NAMES_SHOWN]) + more, reason])
    if len(rows) > _ROWS_SHOWN:
        rows = [*rows[:_ROWS_SHOWN], [f"and {len(rows) - _ROWS_SHOWN} more, in scores.json", None]]
    if rows:
        part.table(["not probed", "why"], rows)


def is_surpassed(ours: ProbeScore, theirs: ProbeScore, people: Array, seed: int) -> bool:
    """Return whether another probe of the same rows scores higher, by the bootstrap interval of the difference.

    Args:
        ours: of this model.
        theirs: of the other.
        people: label of each volume's subject, among which are the probes' rows.
        seed: of the interval.
    """
    score: Callable[[Array, Array], float] = r_squared if ours.kind == "regression" else balanced_accuracy
    if not np.array_equal(ours.rows, theirs.rows) or theirs.value <= ours.value:
        return False

    def difference(target: Array, better: Array, worse: Array) -> float:
        try:
            return score(target, better) - score(target, worse)
        except ValueError:  # the resample has a single value
            return float("nan")

    arrays = ours.target, theirs.predicted, ours.predicted
    return estimate(*arrays, statistic=difference, subjects=people[ours.rows], seed=seed).low > 0


def _with_interval(score: ProbeScore) -> str:
    # + 0.0 avoids "-0.00"; no-break spaces keep the text on one line
    value, low, high = (round(number, 2) + 0.0 for number in (score.value, score.low, score.high))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]".replace(" ", "\N{NO-BREAK SPACE}")


def _probed(
    training: Subjects,
    held_out: Subjects,
    train_codes: Array,
    test_codes: Array,
    name: str,
    kind: str,
    n_permutations: int,
    seed: int,
) -> tuple[ProbeScore, bool]:
    """Return the probe of a covariate and whether it had to be cross-validated."""
    train_target, test_target = training.column(name), held_out.column(name)
    groups = np.array([str(record.get("subject")) for record in held_out.records])
    if sum(value is not None for value in train_target) >= MIN_TO_FIT:
        train_groups = np.array([str(record.get("subject")) for record in training.records])
        score = probe_held_out(
            train_codes,
            np.array(train_target, dtype=object),
            test_codes,
            np.array(test_target, dtype=object),
            train_groups=train_groups,
            test_groups=groups,
            kind=kind,
            n_permutations=n_permutations,
            seed=seed,
        )
        return score, False
    target = np.array(test_target, dtype=object)
    return probe(test_codes, target, groups=groups, kind=kind, n_permutations=n_permutations, seed=seed), True


def _draw_predictions(
    part: Part,
    predictions: Mapping[tuple[str, str], ProbeScore],
    codes: Mapping[str, Any],
    held_out: Subjects,
    label: str,
) -> None:
    """Plot age, or else the covariate that is predicted best, and write the predictions of all covariates."""
    import pandas as pd

    ours = {name: score for (name, method), score in predictions.items() if method == VAE_NAME}
    if not ours:
        return
    ages = [each for each in ordered_covariates(ours) if head_of(each) == "age"]
    name = ages[0] if ages else max(ours, key=lambda each: ours[each].value)
    shown = {method: predictions[name, method] for method in codes if (name, method) in predictions}
    labels = {method: f"R² {s.value:.2f} [{s.low:.2f}, {s.high:.2f}]" for method, s in shown.items()}
    true = np.asarray(ours[name].target, dtype=float)
    drawn = {method: np.asarray(score.predicted, dtype=float) for method, score in shown.items()}
    figure = plot_predictions(true, drawn, name, labels, label)
    part.picture("predictions.png", figure, f"Predicted against true {name} of subjects not used to fit the probe.")
    table = pd.DataFrame(
        {"subject": held_out.column("subject"), "image": [record["image"] for record in held_out.records]}
    )
    for each, score in ours.items():
        column = np.full(len(held_out), np.nan)
        column[score.rows] = np.asarray(score.predicted, dtype=float)
        table[f"{each}_predicted"] = column
    part.files["predictions.csv"] = table


def disentanglement_part(subjects: Sequence[Subjects], codes: Mapping[str, Sequence[Array]], seed: int) -> Part | None:
    """Score disentanglement against the factors of the simulated cohort; return ``None`` if the records lack them."""
    records = [record for group in subjects for record in group.records]
    names = [name for name in DISENTANGLED if all(record.get(name) is not None for record in records)]
    if len(names) < 2 or len(records) < MIN_TO_FIT:
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
        part.scores[method_key(method)] = replace_non_finite(column)
    part.scores["factors"] = names
    part.text(
        f"Scores of {len(records)} simulated subjects for the {len(names)} factors they were made from. 1 is ideal, "
        "0 useless (the chance level of the FactorVAE score is 1 over the number of factors). A well disentangled "
        "model can't be selected without labels, and beta alone doesn't make one (Locatello et al. 2019): the scores "
        "describe this model only."
    )
    rows = [[name, *(columns[method][name] for method in codes)] for name in next(iter(columns.values()))]
    part.table(["", *codes], rows)
    return part
