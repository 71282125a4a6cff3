"""A comparison of a table's keys with those of the cohort that it is joined to."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Sequence

from .subject_patterns import listed
from .subject_rule import normal_id


def compare_keys(
    place: str,
    what: str,
    wanted: Iterable[str],
    rows: Iterable[str],
    problems: list[str],
    *,
    complete: bool = True,
) -> None:
    """Compare the keys of a cohort with those of a table that is joined to it.

    If they have no key in common, that is a problem, and the message names keys that differ only in spelling. If some
    keys occur on one side only, there is a warning with both counts.

    Args:
        place: the table's name in messages.
        what: the kind of key, such as "subject".
        wanted: keys of the cohort.
        rows: keys of the table's rows.
        problems: list to which the problem is appended.
        complete: whether to warn of rows without a volume in the cohort.

    Example:
        >>> problems = []
        >>> compare_keys("participants.tsv", "subject", ["sub-001"], ["sub-1"], problems)
        >>> print(problems[0].partition(":")[2])
         no row is of a subject with volumes, although they are alike: 'sub-1' for 'sub-001'. Write them the same way
    """
    there, listed_rows = list(dict.fromkeys(wanted)), list(dict.fromkeys(rows))
    if not there or not listed_rows:
        return
    lacking = [key for key in there if key not in set(listed_rows)]
    spare = [key for key in listed_rows if key not in set(there)]
    alike = _alike(lacking, spare)
    hint = f", although they are alike: {alike}. Write them the same way" if alike else ""
    if len(lacking) == len(there):
        if not alike:
            hint = f": the volumes are of {_shown(there)}, the rows of {_shown(listed_rows)}"
        problems.append(f"{place}: no row is of a {what} with volumes{hint}")
        return
    parts = []
    if lacking:
        parts.append(f"{len(lacking)} of {len(there)} {what}s with volumes have no row ({listed(lacking)})")
    if spare and complete:
        parts.append(f"{len(spare)} of {len(listed_rows)} rows have no volume ({listed(spare)})")
    if parts:
        warnings.warn(f"{place}: {', and '.join(parts)}{hint}.", stacklevel=2)


def _alike(lacking: Sequence[str], spare: Sequence[str]) -> str:
    """Return pairs of keys that differ only in case, separators, leading zeros or prefix."""
    by_normal: dict[Hashable, str] = {normal_id(key): key for key in spare}
    pairs = [f"{by_normal[normal_id(key)]!r} for {key!r}" for key in lacking if normal_id(key) in by_normal]
    return listed(pairs)


def _shown(keys: Sequence[str]) -> str:
    return listed([repr(key) for key in keys])
