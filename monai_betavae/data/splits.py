"""Splits of a cohort by subject, stratified by covariates."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, overload

import numpy as np

from monai_betavae._checks import check_choice, check_real, check_seed, is_missing
from monai_betavae.data.tables.covariates import MAX_CATEGORIES, is_number, kind_of_covariate

RecordT = TypeVar("RecordT", bound=Mapping[str, Any])

_BINS = 5
# str() of the missing values of pandas, numpy and Python
_NOBODY = frozenset({"nan", "NaN", "None", "<NA>", "NaT"})


@overload
def split_subjects(
    records: Iterable[RecordT],
    fractions: Mapping[str, float],
    seed: int | None = 0,
    stratify: str | Sequence[str] | None = None,
) -> dict[str, list[RecordT]]: ...


@overload
def split_subjects(
    records: Iterable[RecordT],
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int | None = 0,
    stratify: str | Sequence[str] | None = None,
) -> tuple[list[RecordT], ...]: ...


def split_subjects(
    records: Iterable[RecordT],
    fractions: Sequence[float] | Mapping[str, float] = (0.7, 0.15, 0.15),
    seed: int | None = 0,
    stratify: str | Sequence[str] | None = None,
) -> tuple[list[RecordT], ...] | dict[str, list[RecordT]]:
    r"""Split records into parts by subject: all volumes of a subject are in the same part.

    With :math:`n` subjects, part :math:`p` gets :math:`n f_p` of them, rounded by the largest remainder, and at
    least one if :math:`f_p > 0`. The subjects are shuffled, sorted by stratum (combination of values), and dealt one by
    one so that each part is always within one of its share (Tijdeman, "The chairman assignment problem", Discrete
    Mathematics 32, 1980). The sizes are therefore exact, and every subject has the same chances. The number of subjects
    that a part gets from a stratum differs from its share by less than 2, and by 0 if all shares are whole numbers.

    The split depends on ``seed`` and on the set of records, not on their order. ``[1 / k] * k`` gives k folds.

    Args:
        records: records from :func:`discover`; each needs a ``"subject"``.
        fractions: two or more numbers that sum to 1, or a mapping from the parts' names to such numbers.
        seed: selects the split; ``None`` draws a new one each time.
        stratify: covariates to balance across the parts. Each value is a category, except that a numeric covariate with
            more than 10 different values is cut at its quintiles; whole numbers stay categories if the covariate's name
            says so, as ``site_id`` does (:func:`~monai_betavae.data.tables.covariates.kind_of_covariate`). Missing
            values form their own category. A subject with several values (visits) counts with the smallest.

    Returns:
        the parts in the order of ``fractions``, each with its records in their original order; a dict if
        ``fractions`` is a mapping.

    Raises:
        ValueError: if there are fewer subjects than parts, a record has no subject (``None``, NaN, pandas' ``NA``, a
            blank text, or the text form of one of these), no record has a covariate named in ``stratify``, or an
            argument is not as described.

    Example:
        >>> records = [{"image": f"{i}.nii.gz", "subject": f"sub-{i // 2}", "sex": "FM"[i // 2 % 2]} for i in range(40)]
        >>> parts = split_subjects(records, {"training": 0.8, "test": 0.2}, seed=3, stratify="sex")
        >>> {name: len({record["subject"] for record in part}) for name, part in parts.items()}
        {'training': 16, 'test': 4}
        >>> sorted(record["sex"] for record in parts["test"])
        ['F', 'F', 'F', 'F', 'M', 'M', 'M', 'M']
    """
    check_seed("seed", seed)
    shares = _check_fractions(fractions)
    records = list(records)
    by_subject = records_by_subject(records)
    covariates = _check_covariates(records, stratify)

    subjects = sorted(by_subject)
    sizes = _sizes(len(subjects), shares)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(subjects)).tolist()
    ranks = [_ranks(name, [_value(by_subject[s], name) for s in subjects]) for name in covariates]
    # sorted is stable: within a stratum the order stays shuffled
    dealt = sorted(order, key=lambda i: [rank[i] for rank in ranks])
    turns = _deal(sizes)
    # A random start in the round gives every subject the same chances, however rare its stratum is. From a fixed
    # start, the only subject of the first stratum would be in the same part under every seed.
    start = int(rng.integers(len(turns)))
    part_of = {subjects[i]: part for i, part in zip(dealt, turns[start:] + turns[:start], strict=True)}

    parts: list[list[RecordT]] = [[] for _ in shares]
    for record in records:
        parts[part_of[str(record["subject"])]].append(record)
    return dict(zip(fractions, parts, strict=True)) if isinstance(fractions, Mapping) else tuple(parts)


def _check_fractions(fractions: Any) -> list[float]:
    """Return the fractions divided by their sum, so that they sum to 1 as exactly as floats allow."""
    if isinstance(fractions, Mapping):
        named = {f"fractions[{name!r}]": value for name, value in fractions.items()}
    elif isinstance(fractions, Iterable) and not isinstance(fractions, str):
        named = {f"fractions[{i}]": value for i, value in enumerate(fractions)}
    else:
        named = {}
    values = [check_real(name, value, 0.0, 1.0) for name, value in named.items()]
    if len(values) < 2 or not math.isclose(math.fsum(values), 1.0, abs_tol=1e-6):
        accepted = "two or more numbers that sum to 1, or a mapping from names to them"
        raise ValueError(f"`fractions` must be {accepted}, got {fractions!r}.")
    return [value / math.fsum(values) for value in values]


def records_by_subject(records: Sequence[RecordT]) -> dict[str, list[RecordT]]:
    """Return the records of each subject, in their original order.

    Args:
        records: records from :func:`discover`.

    Returns:
        the records by subject name as text, in the order of the subjects' first records.

    Raises:
        ValueError: if records have no subject; the message gives the position and value of the first one, and how many.

    Example:
        >>> list(records_by_subject([{"subject": "b"}, {"subject": 1}, {"subject": "b"}]))
        ['b', '1']
    """
    by_subject: dict[str, list[RecordT]] = {}
    nobody = []
    for i, record in enumerate(records):
        if not isinstance(record, Mapping) or "subject" not in record:
            raise ValueError(f"`records` must each have a 'subject', got {record!r:.200} at position {i}.")
        if _is_nobody(record["subject"]):
            nobody.append(i)
        else:
            by_subject.setdefault(str(record["subject"]), []).append(record)
    if nobody:
        first = records[nobody[0]]
        raise ValueError(
            f"`records` must each have a 'subject', got {first['subject']!r} at position {nobody[0]} "
            f"(image {first.get('image')!r:.200}); {len(nobody)} of {len(records)} records have none. Volumes "
            "without a subject could put one person in both training and test: say whose they are, or leave them out."
        )
    return by_subject


def _is_nobody(subject: Any) -> bool:
    """Return whether a subject is absent: missing, blank, or the text form of a missing value."""
    return is_missing(subject) or (isinstance(subject, str) and (not subject.strip() or subject.strip() in _NOBODY))


def _check_covariates(records: Iterable[Mapping[str, Any]], stratify: Any) -> list[str]:
    names = [stratify] if isinstance(stratify, str) else stratify or []
    if not isinstance(names, Iterable):
        raise ValueError(f"`stratify` must be None, the name of a covariate or a list of names, got {stratify!r}.")
    there = sorted({key for record in records for key in record} - {"image", "subject"})
    return [check_choice("stratify", name, there) for name in names]


def _value(records: Iterable[Mapping[str, Any]], covariate: str) -> Any:
    """Return a subject's value of a covariate: the smallest among its records, or ``None`` if all are missing."""
    # records from a pandas table contain NaN
    values = [record[covariate] for record in records if not is_missing(record.get(covariate))]
    return min(values, default=None) if all(map(is_number, values)) else min(values, key=str)


def _ranks(name: str, values: list[Any]) -> list[int]:
    """Return the rank of each value's category: missing first, then numbers by size, other values as text."""
    present = [value for value in values if value is not None]
    labels: list[Any]
    if not all(map(is_number, present)):
        labels = [None if value is None else str(value) for value in values]
    elif len(set(present)) > MAX_CATEGORIES and kind_of_covariate(name, present) == "quantity":
        ordered = sorted(present)
        # the smallest value that at least k / _BINS of the subjects do not exceed
        edges = [ordered[(len(ordered) * k - 1) // _BINS] for k in range(1, _BINS)]
        labels = [None if value is None else bisect.bisect_left(edges, value) for value in values]
    else:
        labels = values
    categories = sorted(set(labels), key=lambda label: (label is not None, 0 if label is None else label))
    rank = {label: i for i, label in enumerate(categories)}
    return [rank[label] for label in labels]


def _sizes(n: int, shares: Sequence[float]) -> list[int]:
    """Return integer sizes that sum to ``n``, by the largest remainder, and are at least 1 where the share is not 0."""
    wanted = [i for i, share in enumerate(shares) if share > 0]
    if n < len(wanted):
        raise ValueError(f"`records` must have at least one subject for each of {len(wanted)} parts, got {n}.")
    sizes = [math.floor(n * share) for share in shares]
    # rounded, so that the float error of 0.15 * 10 does not decide between equal remainders
    by_remainder = sorted(wanted, key=lambda i: -round(n * shares[i] - sizes[i], 9))
    for i in by_remainder[: n - sum(sizes)]:
        sizes[i] += 1
    for i in wanted:
        if sizes[i] == 0:
            largest = max((j for j in wanted if sizes[j] > 1), key=lambda j: sizes[j] - n * shares[j])
            sizes[largest] -= 1
            sizes[i] = 1
    return sizes


def _deal(sizes: Sequence[int]) -> list[int]:
    """Return the part of each position; in every prefix, the count of each part is within 1 of its share.

    This is Tijdeman's rule: among the parts that are far enough behind their share, the one that must be served
    soonest comes next. Whole numbers (everything times ``2 (P - 1) n``) give the same result on all machines.
    """
    n = sum(sizes)
    parts = [i for i, size in enumerate(sizes) if size > 0]
    scale = 2 * max(len(parts) - 1, 1)
    given = [0] * len(sizes)
    turns = []
    for k in range(1, n + 1):
        behind = {i: scale * (sizes[i] * k - n * given[i]) for i in parts}
        ready = [i for i in parts if behind[i] >= n]
        turn = min(ready, key=lambda i: ((scale - 1) * n - behind[i]) / sizes[i])
        given[turn] += 1
        turns.append(turn)
    return turns
