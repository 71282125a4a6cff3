"""Validated codes and targets for a probe, without the rows whose target is missing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._checks import check_choice, is_missing

Array = NDArray[Any]
Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

KINDS = ("regression", "classification")
"""Kinds of probes."""

MAX_CLASSES = 10
"""Whole numbers with more distinct values than this are a quantity, such as age, and not classes."""

MIN_SUBJECTS = 4
"""Smallest number of subjects for a probe."""


@dataclasses.dataclass(frozen=True, eq=False)
class ProbeData:
    """The rows that have a target: codes, targets as numbers (classes counted from 0), subjects counted from 0."""

    kind: str
    codes: Floats
    values: Array
    classes: Array  # empty for a regression
    subjects: Rows
    used: Rows
    n_rows: int


def read_probe_data(
    codes_name: str, codes: Any, target_name: str, target: Any, groups_name: str, groups: Any, kind: str | None
) -> ProbeData:
    """Return the rows that have a target, or raise ``ValueError`` with the argument's name."""
    codes = _check_codes(codes_name, codes)
    used, values = present_targets(target, target_name)
    n_rows = len(codes)
    if len(target) != n_rows:
        raise ValueError(f"`{target_name}` must have {n_rows} rows as `{codes_name}` has, got {len(target)}.")
    kind = kind_of(values) if kind is None else check_choice("kind", kind, KINDS)
    classes = np.empty(0)
    if kind == "classification":
        classes, values = np.unique(values, return_inverse=True)
    elif values.dtype.kind == "U":
        raise ValueError(f"`{target_name}` must be numbers for a regression, got {str(values[0])!r}.")
    else:
        values = values.astype(np.float64)
    if len(np.unique(values)) < 2:
        raise ValueError(
            f"`{target_name}` must have more than one value, got {len(used)} rows with a value out of {n_rows}, "
            f"all the same."
        )
    subjects = subject_numbers(groups_name, groups, n_rows)[used]
    return ProbeData(kind, codes[used], values, classes, subjects, used, n_rows)


def _check_codes(name: str, codes: Any) -> Floats:
    try:
        numbers = np.asarray(codes, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be numbers of shape (n, n_codes), got {codes!r:.80}.") from error
    if numbers.ndim != 2 or numbers.shape[1] == 0:
        raise ValueError(f"`{name}` must have shape (n, n_codes), n_codes >= 1, got {numbers.shape}.")
    bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
    if len(bad):
        raise ValueError(f"`{name}` must be finite, got non-finite values in {len(bad)} rows, the first {bad[0]}.")
    return numbers


def present_targets(target: Any, name: str = "target") -> tuple[Rows, Array]:
    """Return which rows have a target, and those targets, as strings, booleans or numbers."""
    raw = np.asarray(target)
    if raw.ndim != 1:
        raise ValueError(f"`{name}` must have shape (n,), got {raw.shape}.")
    if raw.dtype.kind in "OMm":
        raw = np.asarray(target, dtype=object)
    rows: Rows = np.flatnonzero([not is_missing(value) for value in raw])
    values = raw[rows]
    if values.dtype.kind == "O":
        listed = values.tolist()
        # numpy would turn a mixture of True and "a" into strings
        strings, booleans = (sum(isinstance(value, kind) for value in listed) for kind in (str, bool | np.bool_))
        if {strings, booleans} <= {0, len(listed)}:
            values = np.array(listed)
    if values.dtype.kind not in "Ubiuf":
        raise ValueError(f"`{name}` must be numbers, booleans or strings, all of one kind, got {raw.tolist()!r:.80}.")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"`{name}` must be finite or missing (None, NaN), got an infinite value.")
    return rows, values


def kind_of(values: Array) -> str:
    """Return "classification" for strings, booleans and few distinct whole numbers, else "regression"."""
    if values.dtype.kind in "Ub":
        return "classification"
    # a table column of whole numbers with a missing value is read as floats
    whole = values.dtype.kind in "iu" or bool((values == np.round(values)).all())
    return "classification" if whole and len(np.unique(values)) <= MAX_CLASSES else "regression"


def subject_numbers(name: str, groups: Any, n_rows: int) -> Rows:
    """Return each row's subject, counted from 0; without groups each row is a subject of its own."""
    if groups is None:
        return np.arange(n_rows)
    names = np.asarray(groups)
    if names.shape != (n_rows,):
        raise ValueError(f"`{name}` must have shape ({n_rows},), a subject for each row, got {names.shape}.")
    missing = [row for row, value in enumerate(names) if is_missing(value)]
    if missing:
        raise ValueError(f"`{name}` must say every row's subject, got none for {len(missing)}, the first {missing[0]}.")
    numbers: Rows = np.unique(names.astype(str) if names.dtype.kind == "O" else names, return_inverse=True)[1]
    return numbers


def check_subjects(data: ProbeData, at_least: int, name: str = "target") -> None:
    """Raise ``ValueError`` if the target is known for fewer than ``at_least`` subjects, or for fewer than 4."""
    at_least = max(at_least, MIN_SUBJECTS)
    n_subjects = len(np.unique(data.subjects))
    if n_subjects < at_least:
        raise ValueError(f"`{name}` must be known for at least {at_least} subjects (`n_folds`), got {n_subjects}.")


def listed(classes: Array) -> str:
    """Return the classes as text for an error message."""
    return ", ".join(map(repr, classes.tolist()))
