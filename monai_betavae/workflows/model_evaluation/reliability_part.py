"""The part of an evaluation that compares repeated scans: do the codes tell subjects apart, or days?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.tables.covariates import kind_of_covariate, ordered_covariates
from ...evaluation.latent_activity import active_units
from ...evaluation.probes import predict_quantity
from ...evaluation.reliability import (
    EXCELLENT,
    estimate_intraclass_correlation,
    identification_rate,
    intraclass_correlation,
    within_subject_deviation,
)
from ...plots import plot_reliability
from .covariate_part import MAX_COVARIATES
from .part import (
    MIN_TO_FIT,
    PCA_NAME,
    VAE_NAME,
    Part,
    as_dict,
    covariate_label,
    format_estimate,
    method_key,
    replace_non_finite,
)
from .subjects import Subjects, covariates_of

Array = NDArray[Any]

MIN_REPEATED = 5
"""Smallest number of subjects with two or more scans."""


def reliability_part(
    held_out: Subjects,
    training: Subjects,
    codes: Mapping[str, tuple[Array, Array]],
    covariates: Sequence[str] | None,
    seed: int,
    label: str = "",
    conditional: Sequence[str] = (),
) -> Part | None:
    """Compare the codes of repeated scans; return ``None`` if fewer than :data:`MIN_REPEATED` subjects have any.

    Args:
        held_out: the evaluated subjects, a row per scan.
        training: the training subjects, on which probes are fitted.
        codes: codes of the training and of the evaluated subjects, by method.
        covariates: names to probe, or ``None`` for all; only quantities are.
        seed: of the intervals.
        label: title of the picture.
        conditional: covariates that the model is conditional on.
    """
    import pandas as pd

    people = held_out.people
    scans = [count for count in Counter(people.tolist()).values() if count > 1]
    if len(scans) < MIN_REPEATED:
        return None
    part = Part("reliability", "Reliability across repeated scans")
    part.scores.update(n_subjects=len(scans), n_scans=sum(scans), threshold=EXCELLENT)
    part.text(
        f"{len(scans)} of the evaluated subjects have two or more scans, {sum(scans)} in all. The intraclass "
        "correlation, ICC(1,1), is the share of a latent's variance that lies between subjects: 1 if a subject's scans "
        "have the same code, about 0 or negative if they are no more alike than those of two people. What truly "
        "changes from scan to scan, such as age, counts as error, so scans years apart agree less."
    )
    kept = {method: _varying(method, test_codes) for method, (_, test_codes) in codes.items()}
    each = {method: intraclass_correlation(test_codes, people) for method, (_, test_codes) in codes.items()}
    drawn = {method: each[method][kept[method]] for method in codes if kept[method].any()}
    columns = {
        method: _scored(part, method_key(method), codes[method][1], kept[method], each[method], people, seed)
        for method in codes
    }
    names = (
        "dimensions that vary",
        "median of their ICC",
        f"share of them with an ICC above {EXCELLENT:g}",
        "scans whose nearest other scan is of the same subject",
    )
    part.table(["", *codes], [[name, *(columns[m][row] for m in codes)] for row, name in enumerate(names)])
    part.text(
        f"By chance the nearest scan would be of the same subject in {100 * part.scores['identification_chance']:.1f} "
        "% of scans. Distances are Euclidean, all dimensions scaled to unit variance. Latents of this model that are "
        "inactive in these scans (variance of the posterior mean at most 0.01) don't count. Intervals are 95 % "
        "bootstrap intervals over subjects."
    )
    if {VAE_NAME, PCA_NAME} <= drawn.keys() and _is_surpassed(codes, kept, people, seed):
        part.warn("PCA's codes are more reliable (95 % interval of the difference between the median ICC).")
    if drawn:
        figure = plot_reliability(drawn, EXCELLENT, label)
        part.picture("reliability.png", figure, "Intraclass correlation of each dimension, sorted by method.")
    part.files["reliability.csv"] = pd.concat(
        [
            pd.DataFrame(
                {"method": method_key(method), "latent": np.arange(len(icc)), "varies": kept[method], "icc": icc}
            )
            for method, icc in each.items()
        ],
        ignore_index=True,
    )
    _add_probes(part, held_out, training, codes, covariates, people, seed, conditional)
    part.scores = replace_non_finite(part.scores)
    return part


def _varying(method: str, codes: Array) -> NDArray[np.bool_]:
    """Return which dimensions count: active ones; of PCA, whose scale is another, all that aren't constant."""
    varying: NDArray[np.bool_] = np.ptp(codes, axis=0) > 0 if method == PCA_NAME else active_units(codes)
    return varying


def _scored(
    part: Part, key: str, codes: Array, kept: NDArray[np.bool_], each: Array, people: Array, seed: int
) -> list[Any]:
    """Add the scores of a method's codes to the part, and return its cells of the table."""
    entry: dict[str, Any] = {"n_dimensions": int(kept.sum()), "icc_per_dimension": each.tolist()}
    part.scores[key] = entry
    cells: list[Any] = [f"{int(kept.sum())} of {len(kept)}"]
    # without a dimension that varies, identification is chance, and there is nothing else to score
    found = identification_rate(codes[:, kept] if kept.any() else np.zeros((len(codes), 1)), people, seed=seed)
    part.scores["identification_chance"] = found.chance
    if not kept.any():
        return [*cells, None, None, format_estimate(found.rate)]
    median = estimate_intraclass_correlation(codes[:, kept], people, seed=seed)
    share = estimate_intraclass_correlation(codes[:, kept], people, summary=_excellent_share, seed=seed)
    entry.update(icc=as_dict(median), share_above_threshold=as_dict(share), identification=as_dict(found.rate))
    return [*cells, *map(format_estimate, (median, share, found.rate))]


def _excellent_share(correlations: Array) -> float:
    return float((correlations > EXCELLENT).mean())


def _is_surpassed(
    codes: Mapping[str, tuple[Array, Array]], kept: Mapping[str, NDArray[np.bool_]], people: Array, seed: int
) -> bool:
    """Return whether PCA's median correlation is higher, by the bootstrap interval of the difference."""
    ours, theirs = (codes[method][1][:, kept[method]] for method in (VAE_NAME, PCA_NAME))
    n_ours = ours.shape[1]
    difference = estimate_intraclass_correlation(
        np.hstack([ours, theirs]),
        people,
        summary=lambda icc: np.median(icc[n_ours:]) - np.median(icc[:n_ours]),
        seed=seed,
    )
    return difference.low > 0


def _add_probes(
    part: Part,
    held_out: Subjects,
    training: Subjects,
    codes: Mapping[str, tuple[Array, Array]],
    covariates: Sequence[str] | None,
    people: Array,
    seed: int,
    conditional: Sequence[str],
) -> None:
    """Add the reliability of what probes, fitted to training subjects, predict of each quantity."""
    found = covariates_of([*training.records, *held_out.records])
    asked = ordered_covariates(found)[:MAX_COVARIATES] if covariates is None else covariates
    asked = [asked] if isinstance(asked, str) else asked
    rows: list[list[Any]] = []
    probes: dict[str, Any] = {}
    for name in dict.fromkeys(asked):
        target = training.column(name)
        known = sum(value is not None for value in target)
        if name not in found or kind_of_covariate(name, found[name]) != "quantity" or known < MIN_TO_FIT:
            continue
        row: list[Any] = [covariate_label(name, conditional)]
        entry: dict[str, Any] = {}
        for method, (train_codes, test_codes) in codes.items():
            try:
                predicted = predict_quantity(train_codes, np.array(target, dtype=object), test_codes)
            except ValueError:  # one value in all training subjects
                break
            icc = estimate_intraclass_correlation(predicted, people, seed=seed)
            deviation = float(within_subject_deviation(predicted, people))
            entry[method_key(method)] = {"icc": as_dict(icc), "within_subject_deviation": deviation}
            row += [format_estimate(icc), deviation]
        else:
            probes[name] = entry
            rows.append(row)
    part.scores["probes"] = probes
    if not rows:
        part.text(f"No quantity is known of {MIN_TO_FIT} training subjects, so no probe's reliability can be told.")
        return
    part.text(
        "What probes predict from each scan (ridge regression, fitted on the training subjects): the intraclass "
        "correlation, and the standard deviation between scans of a subject, in units of the covariate. A prediction "
        "can be reliable and wrong: the part on covariates says how right it is."
    )
    heads = [head for method in codes for head in (f"{method}: ICC", "deviation")]
    part.table(["predicted", *heads], rows)
