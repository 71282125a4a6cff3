"""Splits of a cohort by subject, balanced by covariates."""

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
# what str() makes of the values that mean nothing in pandas, numpy and Python
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
    r"""Split records into parts by subject: all volumes of a subject are in one part.

    With :math:`n` subjects, part :math:`p` gets :math:`n f_p` of them, rounded by the largest remainder, and at
    least one if :math:`f_p > 0`. The subjects are shuffled, brought in the order of their strata (combinations of
    values), and dealt one by one so that each part is always within one of its share (Tijdeman, "The chairman
    assignment problem", Discrete Mathematics 32, 1980). So the sizes are exact, every subject has the same chances,
    and what a part gets of a stratum is less than 2 away from its share, and exactly that if all its shares are whole.

    The split depends on ``seed`` and on the set of records, not on their order. ``[1 / k] * k`` gives k folds.

    Args:
        records: what :func:`discover` returns; each needs a ``"subject"``.
        fractions: two or more numbers that sum to 1, or a mapping from the parts' names to them.
        seed: which split; ``None`` draws a new one each time.
        stratify: covariates by which the parts are to be alike. Values are categories; a numeric covariate with
            more than 10 different ones is cut at its quintiles, but for whole numbers that their name says are
            categories, such as ``site_id`` (:func:`~monai_betavae.data.tables.covariates.kind_of_covariate`). Missing
            values are a category of their own. A subject with several values (visits) counts with its smallest.

    Returns:
        the parts in the order of ``fractions``, each with its records in their original order; a dict if
        ``fractions`` is a mapping.

    Raises:
        ValueError: if there are fewer subjects than parts, a record has no subject (``None``, NaN, pandas' ``NA``, a
            blank text, or what these are as text), no record has a covariate named in ``stratify``, or an argument is
            not as described.

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
    # sorted is stable: inside a stratum the order stays shuffled
    dealt = sorted(order, key=lambda i: [rank[i] for rank in ranks])
    turns = _deal(sizes)
    # Starting anywhere in the round gives every subject the same chances, however rare its stratum;
    # from its beginning, the only subject of the first stratum would be in the same part under every seed.
    start = int(rng.integers(len(turns)))
    part_of = {subjects[i]: part for i, part in zip(dealt, turns[start:] + turns[:start], strict=True)}

    parts: list[list[RecordT]] = [[] for _ in shares]
    for record in records:
        parts[part_of[str(record["subject"])]].append(record)
    return dict(zip(fractions, parts, strict=True)) if isinstance(fractions, Mapping) else tuple(parts)


def _check_fractions(fractions: Any) -> list[float]:
    """Return the fractions, divided by their sum, as exactly 1 as floats allow."""
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
    """Return the records of each subject, in their order.

    Args:
        records: what :func:`discover` returns.

    Returns:
        by the subjects' names as text, in the order in which they come first.

    Raises:
        ValueError: if a record says of no subject whose it is: with the first one's position and value, and how many.

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
            f"(image {first.get('image')!r:.200}); {len(nobody)} of {len(records)} records have none. Volumes of "
            "unknown subjects could be one person's in training and test: say whose they are, or leave them out."
        )
    return by_subject


def _is_nobody(subject: Any) -> bool:
    """Whether a record's subject says nothing: missing, blank, or the text that a missing one turns into."""
    return is_missing(subject) or (isinstance(subject, str) and (not subject.strip() or subject.strip() in _NOBODY))


def _check_covariates(records: Iterable[Mapping[str, Any]], stratify: Any) -> list[str]:
    names = [stratify] if isinstance(stratify, str) else stratify or []
    if not isinstance(names, Iterable):
        raise ValueError(f"`stratify` must be None, the name of a covariate or a list of names, got {stratify!r}.")
    there = sorted({key for record in records for key in record} - {"image", "subject"})
    return [check_choice("stratify", name, there) for name in names]


def _value(records: Iterable[Mapping[str, Any]], covariate: str) -> Any:
    """Return a subject's value of a covariate: the smallest of its records', whatever their order; None if missing."""
    # records made from a pandas table have NaN
    values = [record[covariate] for record in records if not is_missing(record.get(covariate))]
    return min(values, default=None) if all(map(is_number, values)) else min(values, key=str)


def _ranks(name: str, values: list[Any]) -> list[int]:
    """Return for each value the rank of its category: missing first, then numbers by size, others as text."""
    present = [value for value in values if value is not None]
    labels: list[Any]
    if not all(map(is_number, present)):
        labels = [None if value is None else str(value) for value in values]
    elif len(set(present)) > MAX_CATEGORIES and kind_of_covariate(name, present) == "quantity":
        ordered = sorted(present)
        # the smallest value that k / _BINS of the subjects do not exceed
        edges = [ordered[(len(ordered) * k - 1) // _BINS] for k in range(1, _BINS)]
        labels = [None if value is None else bisect.bisect_left(edges, value) for value in values]
    else:
        labels = values
    categories = sorted(set(labels), key=lambda label: (label is not None, 0 if label is None else label))
    rank = {label: i for i, label in enumerate(categories)}
    return [rank[label] for label in labels]


def _sizes(n: int, shares: Sequence[float]) -> list[int]:
    """Return whole sizes that sum to ``n``, by the largest remainder, and at least 1 where the share is not 0."""
    wanted = [i for i, share in enumerate(shares) if share > 0]
    if n < len(wanted):
        raise ValueError(f"`records` must have at least one subject for each of {len(wanted)} parts, got {n}.")
    sizes = [math.floor(n * share) for share in shares]
    # rounded, so that the error of 0.15 * 10 as a float does not decide between equal remainders
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
    """Return the part of each position in turn, so that every beginning has each part within 1 of its share.

    This is Tijdeman's rule: of the parts far enough behind their share, the next one is that which must
    be served soonest. In whole numbers (everything times ``2 (P - 1) n``), so that it is the same on all machines.
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
