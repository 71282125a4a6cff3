"""The comparison of a sweep's settings: one row each, and the choice among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..._checks import check_choice
from ...evaluation.stability import udr

CRITERIA = {"elbo": "highest", "error": "lowest", "udr": "highest"}
"""By which a setting may be chosen, none of them by labels, and which end of it is best."""

MIN_SUBJECTS = 10
"""Fewer validation subjects say nothing of the stability of codes."""


def compare(
    settings: Sequence[Mapping[str, Any]], scores: Sequence[Sequence[Mapping[str, Any]]], mean_image: float | None
) -> list[dict[str, Any]]:
    """Return a row for each setting, with the mean over seeds and their standard deviation.

    Args:
        settings: values by id.
        scores: for each setting the validation scores of each seed.
        mean_image: error of the mean training image; ``None`` if the settings differ in their images.

    Returns:
        the setting's ids, "seeds", and mean and "_sd" of "error", "error_ratio" (over the mean image's), "elbo", "kl"
        and "active_units"; "udr" of two or more seeds with at least 10 subjects, else ``None``.

    Example:
        >>> score = {"error": 5.0, "elbo": -1.0, "kl": 2.0, "active_units": 1, "codes": [[0.0]]}
        >>> row = compare([{"beta": 1.0}], [[score, {**score, "error": 7.0}]], mean_image=12.0)[0]
        >>> row["beta"], row["error"], row["error_sd"], row["error_ratio"], row["udr"]
        (1.0, 6.0, 1.4142135623730951, 0.5, None)
    """
    rows = []
    for setting, by_seed in zip(settings, scores, strict=True):
        row: dict[str, Any] = {**setting, "seeds": len(by_seed)}
        for name in ("error", "elbo", "kl", "active_units"):
            values = np.array([score[name] for score in by_seed], dtype=np.float64)
            row[name] = float(values.mean())
            row[f"{name}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else None
            if name == "error":
                row["error_ratio"] = None if mean_image is None else row[name] / mean_image
        several = len(by_seed) > 1 and len(by_seed[0]["codes"]) >= MIN_SUBJECTS
        row["udr"] = None
        if several:
            codes = [np.array(score["codes"]) for score in by_seed]
            row["udr"] = udr(codes, [np.array(score["kl_per_dimension"]) for score in by_seed])["score"]
        rows.append(row)
    return rows


def choose(rows: Sequence[Mapping[str, Any]], criterion: str) -> int:
    """Return the number of the best row.

    Args:
        rows: of :func:`compare`.
        criterion: "elbo" (highest), "error" (lowest) or "udr" (highest).

    Raises:
        ValueError: if the criterion is unknown, or no row has it.

    Example:
        >>> choose([{"error": 5.0}, {"error": 4.0}], "error")
        1
    """
    check_choice("choose_by", criterion, tuple(CRITERIA))
    known = [(row[criterion], number) for number, row in enumerate(rows) if row.get(criterion) is not None]
    if not known:
        raise ValueError(
            f"`choose_by` must be 'elbo' or 'error' for one seed or fewer than {MIN_SUBJECTS} validation subjects, got "
            f"{criterion!r}."
        )
    return (max if CRITERIA[criterion] == "highest" else min)(known, key=lambda each: each[0])[1]


def doubts(rows: Sequence[Mapping[str, Any]], best: int, criterion: str, names: Sequence[str]) -> list[str]:
    """Return what speaks against a choice: the best value ends its list, or another row is as good over seeds.

    Args:
        rows: of :func:`compare`.
        best: number of the chosen row.
        criterion: by which it was chosen.
        names: ids of the space.

    Example:
        >>> rows = [{"beta": 1.0, "elbo": -5.0, "elbo_sd": 2.0}, {"beta": 4.0, "elbo": -6.0, "elbo_sd": 2.0}]
        >>> for doubt in doubts(rows, 0, "elbo", ["beta"]):
        ...     print(doubt)
        beta 1.0 is the lowest of its values: lower ones may be better.
        1 other setting is within a standard deviation over seeds (2): the elbo doesn't tell them apart.
    """
    found = []
    for name in names:
        values = [row[name] for row in rows]
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        if not numbers or len(set(values)) < 2:
            continue
        for end, other in ((min, "lower"), (max, "higher")):
            if values[best] == end(values):
                which = "lowest" if end is min else "highest"
                found.append(f"{name} {values[best]} is the {which} of its values: {other} ones may be better.")
    spread = rows[best].get(f"{criterion}_sd")
    if spread is not None:
        scores = [row.get(criterion) for row in rows]
        near = sum(
            score is not None and abs(score - scores[best]) <= spread
            for number, score in enumerate(scores)
            if number != best
        )
        if near:
            settings = "1 other setting is" if near == 1 else f"{near} other settings are"
            found.append(
                f"{settings} within a standard deviation over seeds ({spread:.2g}): the {criterion} doesn't tell them "
                "apart."
            )
    return found
