"""Who a viewer's page is about: names, codes, covariates and scores of volumes, and who is shown with pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...._checks import is_missing
from ...._texts import make_visible
from ....data.tables.covariate_values import level_of, value_of
from ....data.tables.covariates import is_number, kind_of_covariate
from ..subjects import Subjects, covariates_of

Array = NDArray[Any]

MAX_COLUMNS = 12
"""Covariates that a page holds, at most."""

MAX_TEXT = 80
"""Characters of a name or level, at most."""

LARGEST_DEVIATIONS = 5
"""Subjects of the largest deviation who are always shown."""


class Column(NamedTuple):
    """A covariate or score of every volume.

    Attributes:
        name: what the page calls it.
        kind: "quantity" or "category".
        values: a number, a level's text, or ``None`` where it is missing.
        is_score: whether it is a score of the evaluation.

    Example:
        >>> Column("sex", "category", ["F", "M", None]).entry(["F", "M", None])
        {'name': 'sex', 'kind': 'category', 'score': False, 'levels': ['F', 'M']}
    """

    name: str
    kind: str
    values: list[Any]
    is_score: bool = False

    def entry(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return what the page is told of the column, of which it has these values."""
        told: dict[str, Any] = {"name": short(self.name), "kind": self.kind, "score": self.is_score}
        if self.kind == "category":
            told["levels"] = sorted({value for value in values if value is not None})
        return told


def columns_of(subjects: Subjects, scores: Mapping[str, Sequence[float] | Array]) -> list[Column]:
    """Return the covariates of volumes, the usual ones first and factors of a simulation last, then their scores.

    Args:
        subjects: the volumes.
        scores: a number per volume, NaN where it is unknown, by name.

    Example:
        >>> records = [{"subject": "a", "image": "a.nii", "age": 61.5}, {"subject": "b", "image": "b.nii", "age": 70.5}]
        >>> nothing = np.zeros((0, 1))
        >>> found = columns_of(Subjects(records, *[nothing] * 5), {"error": [0.5, float("nan")]})
        >>> [(column.name, column.values, column.is_score) for column in found]
        [('age', [61.5, 70.5], False), ('error', [0.5, None], True)]
    """
    found = covariates_of(subjects.records)
    usual = ("age", "sex", "site", "group", "diagnosis")
    names = [name for name in usual if name in found]
    names += sorted((name for name in found if name not in usual), key=lambda name: name.startswith("factor_"))
    columns = []
    for name in names[:MAX_COLUMNS]:
        values = [value_of(value) for value in found[name]]
        if kind_of_covariate(name, values) == "quantity":
            columns.append(Column(name, "quantity", [_number(value) for value in values]))
        else:
            levels = [level_of(value) for value in values]
            columns.append(Column(name, "category", [None if each is None else short(each) for each in levels]))
    for name, numbers in scores.items():
        columns.append(Column(name, "quantity", [_number(float(value)) for value in numbers], True))
    return columns


def names_of(subjects: Subjects) -> list[str]:
    """Return what each volume is called: its subject, with the session and run where the record says them.

    Example:
        >>> records = [{"subject": "a", "session": 2, "image": "a.nii"}, {"image": "b.nii"}]
        >>> names_of(Subjects(records, *[np.zeros((0, 1))] * 5))
        ['a, session 2', 'volume 2']
    """
    names = []
    for row, record in enumerate(subjects.records):
        given = [(key, record.get(key)) for key in ("subject", "session", "run")]
        words = [str(value) if key == "subject" else f"{key} {value}" for key, value in given if not is_missing(value)]
        names.append(short(", ".join(words) if words else f"volume {row + 1}"))
    return names


def choose_shown(errors: Array, deviations: Array | None, at_most: int) -> list[int]:
    """Return the rows of those who are shown with pictures, in order: evenly from the best to the worst reconstructed.

    The best, the worst, and the five of the largest deviation are always among them.

    Args:
        errors: of the reconstructions, shape (n,).
        deviations: a score, the larger the more deviating, NaN where unknown; ``None`` without one.
        at_most: number of rows.

    Example:
        >>> choose_shown(np.array([3.0, 1.0, 2.0, 5.0, 4.0]), None, 3)
        [0, 1, 3]
        >>> choose_shown(np.arange(100.0), np.arange(100.0) % 50, 10)  # the worst is 99; 47 to 49, and 98, deviate
        [0, 19, 38, 47, 48, 49, 59, 78, 98, 99]
    """
    order = np.argsort(errors, kind="stable")
    if len(order) <= at_most:
        return list(range(len(order)))
    kept = {int(order[-1]), int(order[0])} if at_most > 1 else {int(order[-1])}
    if deviations is not None:
        known = np.where(np.isnan(deviations), -np.inf, deviations)
        for row in np.argsort(-known, kind="stable")[:LARGEST_DEVIATIONS]:
            if len(kept) < at_most and np.isfinite(known[row]):
                kept.add(int(row))
    others = [int(row) for row in order if int(row) not in kept]
    places = np.linspace(0, len(others) - 1, at_most - len(kept) + 2)[1:-1]
    kept.update(others[int(place)] for place in places)
    return sorted(kept)


def short(text: Any) -> str:
    r"""Return a text from outside in a form that a page can show: no hidden characters, one line, not too long.

    Example:
        >>> short("sub-\u202e1"), len(short("a" * 1000))
        ('sub-\\u202e1', 80)
    """
    shown = " ".join(make_visible(text).split())
    return shown if len(shown) <= MAX_TEXT else shown[: MAX_TEXT - 1] + "…"


def _number(value: Any) -> float | None:
    if not is_number(value) or not math.isfinite(value):
        return None
    return float(f"{float(value):.5g}")
