"""The values that records have of a covariate, read as numbers or as levels of a category, or refused."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..._checks import is_missing
from .columns import MISSING, MOSTLY
from .covariates import is_named_category, is_number, kind_of_covariate

MAX_NAMES, MAX_VALUES = 20, 10
"""Columns and values that a message lists."""

Record = Mapping[str, Any]

_WHOLE = re.compile(r"([+-]?(?:0|[1-9][0-9]*))\.0+")


def value_of(value: Any) -> Any:
    """Return a record's value as a plain one, ``None`` if it is missing or a text by which tables mean missing.

    Example:
        >>> [value_of(value) for value in (np.float32(2), float("nan"), " n/a", "A ")]
        [2.0, None, None, 'A']
    """
    if is_missing(value):
        return None
    if hasattr(value, "item") and np.ndim(value) == 0:  # a number of numpy, a tensor
        value = value.item()
    if isinstance(value, str):
        value = value.strip()
        return None if value.casefold() in MISSING else str(value)
    return value


def level_of(value: Any) -> str | None:
    """Return the text of a category's level, the same for 1, 1.0, "1" and "1.0", or ``None`` if it can't be a level.

    Example:
        >>> [level_of(value) for value in (1, 1.0, "1.0", 1.5, "01", True, [1])]
        ['1', '1', '1', '1.5', '01', 'True', None]
    """
    value = value_of(value)
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value)
        return str(int(whole[1])) if whole and len(value) < 20 else value
    if isinstance(value, bool):
        return str(value)
    if not is_number(value):
        return None
    return str(int(value)) if is_finite(value) and value == value // 1 else str(value)


def is_finite(value: Any) -> bool:
    """Return whether a value is a number that a float can hold."""
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:  # an int beyond the range of floats
        return False


def checked_records(records: Iterable[Record]) -> list[Record]:
    """Return records as a list, or raise ``ValueError`` if they aren't mappings."""
    listed = list(records) if isinstance(records, Iterable) and not isinstance(records, Mapping | str) else None
    if listed is None or not all(isinstance(record, Mapping) for record in listed):
        raise ValueError(
            f"`records` must be a list of mappings, one for each subject or scan, got {records!r:.100} "
            "(a DataFrame's are `frame.to_dict('records')`)."
        )
    return listed


def judged_kind(name: str, values: Sequence[Any]) -> str:
    """Judge a covariate's kind; refuse numbers among which a few values aren't."""
    present = [value for value in values if value is not None]
    others = Counter(repr(value) for value in present if not is_number(value))
    if others and len(present) - others.total() >= MOSTLY * len(present) and not is_named_category(name):
        raise ValueError(
            f"`records` must have only numbers or only texts as {name!r}, got numbers and {counted_text(others)}. "
            f"Make these None if they mean missing; `kinds={{{name!r}: 'category'}}` makes every value a category."
        )
    return kind_of_covariate(name, present)


def numbers_of(name: str, values: Sequence[Any]) -> list[float | None]:
    """Return a quantity's values as floats, or raise ``ValueError``."""
    others = Counter(repr(value) for value in values if value is not None and not is_finite(value))
    if others:
        raise ValueError(
            f"`records` must have finite numbers as {name!r}, a quantity, got {counted_text(others)}. "
            "Make these None if they mean missing."
        )
    return [None if value is None else float(value) for value in values]


def levels_of(name: str, values: Sequence[Any]) -> list[str | None]:
    """Return a category's values as the texts of levels, or raise ``ValueError``."""
    levels = [level_of(value) for value in values]
    others = [value for value, level in zip(values, levels, strict=True) if value is not None and level is None]
    if others:
        raise ValueError(
            f"`records` must have texts, numbers or booleans as {name!r}, a category, got {others[0]!r:.100}."
        )
    return levels


def check_several(name: str, values: Sequence[float | str | None]) -> None:
    """Raise ``ValueError`` unless a covariate has two different values or more."""
    different = {value for value in values if value is not None}
    if not different:
        raise ValueError(f"`names` must name covariates with values, got {name!r}, which is missing in every record.")
    if len(different) == 1:
        raise ValueError(
            f"`names` must name covariates that differ among the records, got {name!r}, whose only value is "
            f"{different.pop()!r}: there is nothing to condition on. Leave it out."
        )


def check_shared(name: str, levels: Sequence[str | None], subjects: Sequence[Any], numeric: bool) -> None:
    """Raise ``ValueError`` if each level of a category belongs to one subject."""
    pairs = {(level, subject) for level, subject in zip(levels, subjects, strict=True) if level is not None}
    different = sorted({level for level, _ in pairs})
    if len(pairs) == len(different):
        quantity = f", or pass `kinds={{{name!r}: 'quantity'}}`" if numeric else ""
        raise ValueError(
            f"`names` must name categories that subjects share, got {name!r}, which has as many levels as subjects or "
            f"more ({listed_text(different, 3)}), like an identifier. Leave it out{quantity}."
        )


def listed_text(values: Sequence[str], at_most: int = MAX_NAMES) -> str:
    """Return texts in quotes, for a message; of many, the first."""
    more = f" and {len(values) - at_most} more" if len(values) > at_most else ""
    return ", ".join(map(repr, values[:at_most])) + more


def counted_text(counts: Counter[str]) -> str:
    """Return counted values, which are written as code, for a message; of many, the most frequent."""
    more = f" and {len(counts) - MAX_VALUES} more" if len(counts) > MAX_VALUES else ""
    return ", ".join(f"{value[:80]} ({count})" for value, count in counts.most_common(MAX_VALUES)) + more
