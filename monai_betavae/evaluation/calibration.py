"""Whether p-values of a norm are what they say: shares of healthy subjects beyond a limit, by covariate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._checks import check_integer, check_real, is_missing
from .intervals import LEVEL, Estimate

Array = NDArray[Any]


class GroupCalibration(NamedTuple):
    """How many of a group of healthy subjects are beyond a limit.

    Attributes:
        by: the covariate that the group comes from, or "all".
        group: the range of a quantity or the level of a category, or "all".
        n: number of subjects.
        beyond: number of those with p <= limit.
        share: ``beyond / n`` with its exact binomial interval.
        expected: ends of the interval in which the share of a calibrated norm lies.

    Example:
        >>> (everyone,) = calibration_by_group(np.full(50, 0.01))  # a norm that calls all of them deviating
        >>> everyone.beyond, everyone.share.value, everyone.expected
        (50, 1.0, (0.0, 0.12))
    """

    by: str
    group: str
    n: int
    beyond: int
    share: Estimate
    expected: tuple[float, float]


def calibration_by_group(
    p: Array,
    quantities: Mapping[str, Sequence[Any]] | None = None,
    categories: Mapping[str, Sequence[Any]] | None = None,
    *,
    limit: float = 0.05,
    n_reference: int | None = None,
    n_parts: int = 3,
) -> list[GroupCalibration]:
    r"""Return the share of healthy subjects beyond a limit, of all and by covariate.

    A norm is calibrated if :math:`P(p \leq l) = l` in every group: it then calls as many of the healthy old
    subjects deviating as of the young ones. p-values that are ranks among n reference scores, as those of
    :func:`~monai_betavae.evaluation.normative.latent_deviation`, are at most l with the probability k / (n + 1),
    k = floor(l (n + 1)). All subjects are ranked among the same reference, so the number of m subjects beyond
    the limit isn't binomial: with calibration it is beta-binomial with parameters m, k and n + 1 - k, from which
    ``expected`` comes. The interval of ``share`` is the binomial one (Clopper-Pearson), which takes the
    reference as given.

    Args:
        p: p-values of healthy subjects, shape (m,), one for each subject.
        quantities: values of each subject by covariate; each is cut into ``n_parts`` groups of similar sizes. Equal
            values are in one group, and subjects whose value is missing in none.
        categories: levels of each subject by covariate, each a group; the same holds for missing ones.
        limit: l, above 0 and below 1.
        n_reference: n, or ``None`` for p-values that aren't ranks; the counts then are binomial.
        n_parts: number of groups of a quantity.

    Returns:
        a row of all subjects, then one of each group.

    Raises:
        ValueError: naming the argument.

    Source:
        Clopper & Pearson, Biometrika 26, 1934 (the interval); Phipson & Smyth, Statistical Applications in
        Genetics and Molecular Biology 9, 39, 2010 (ranks as p-values).

    Example:
        >>> p = np.array([0.01, 0.04, 0.3, 0.5, 0.7, 0.9])
        >>> rows = calibration_by_group(p, {"age": [80, 79, 50, 51, 20, 21]}, {"sex": list("FMFMFM")})
        >>> for row in rows:
        ...     print(row.by, row.group, row.n, row.beyond)
        all all 6 2
        age 20 to 21 2 0
        age 50 to 51 2 0
        age 79 to 80 2 2
        sex F 3 1
        sex M 3 1
    """
    limit = check_real("limit", limit, minimum=0, maximum=1, exclusive=True)
    if limit == 1:
        raise ValueError("`limit` must be below 1, got 1.")
    n_parts = check_integer("n_parts", n_parts, minimum=1)
    if n_reference is not None:
        n_reference = check_integer("n_reference", n_reference, minimum=1)
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"`p` must have shape (m,) with at least one value, got {values.shape}.")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"`p` must be from 0 to 1, got {values.min():g} to {values.max():g}.")
    beyond = values <= limit
    rows = [_row("all", "all", beyond, limit, n_reference)]
    for name, found in (quantities or {}).items():
        numbers = np.array([np.nan if is_missing(value) else float(value) for value in found])
        _check_length("quantities", name, numbers, values)
        rows += [
            _row(name, f"{numbers[part].min():g} to {numbers[part].max():g}", beyond[part], limit, n_reference)
            for part in _parts(numbers, n_parts)
        ]
    for name, found in (categories or {}).items():
        levels = np.array(["" if is_missing(value) else str(value) for value in found], dtype=object)
        _check_length("categories", name, levels, values)
        rows += [_row(name, level, beyond[levels == level], limit, n_reference) for level in sorted(set(levels) - {""})]
    return rows


def expected_share(limit: float, n_reference: int | None = None) -> float:
    """Return the share beyond a limit with calibration: k / (n + 1) for ranks, see :func:`calibration_by_group`.

    Example:
        >>> expected_share(0.05), expected_share(0.05, 19), round(expected_share(0.05, 30), 4)
        (0.05, 0.05, 0.0323)
    """
    return limit if n_reference is None else _first_ranks(limit, n_reference) / (n_reference + 1)


def binomial_interval(count: int, n: int, level: float = LEVEL) -> Estimate:
    """Return a share and its exact binomial interval (Clopper-Pearson).

    Args:
        count: number of successes, 0 to ``n``.
        n: number of trials, at least 1.
        level: coverage, between 0 and 1.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> [round(number, 3) for number in binomial_interval(1, 20)]
        [0.05, 0.001, 0.249]
    """
    from scipy.stats import binomtest

    n = check_integer("n", n, minimum=1)
    count = check_integer("count", count, minimum=0, maximum=n)
    check_real("level", level, minimum=0, maximum=1, exclusive=True)
    interval = binomtest(count, n).proportion_ci(level, method="exact")
    return Estimate(count / n, float(interval.low), float(interval.high))


def _row(by: str, group: str, beyond: NDArray[np.bool_], limit: float, n_reference: int | None) -> GroupCalibration:
    from scipy.stats import betabinom, binom

    n, count = len(beyond), int(beyond.sum())
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    if n_reference is None:
        counts = binom.ppf(tails, n, limit)
    else:
        k = _first_ranks(limit, n_reference)
        counts = betabinom.ppf(tails, n, k, n_reference + 1 - k) if k else np.zeros(2)
    ends = float(counts[0]) / n, float(counts[1]) / n
    return GroupCalibration(by, group, n, count, binomial_interval(count, n), ends)


def _first_ranks(limit: float, n_reference: int) -> int:
    """Return how many of the ranks 1 / (n + 1), 2 / (n + 1), ... are at most the limit."""
    ranks = np.arange(1, n_reference + 2) / (n_reference + 1)  # divided as the p-values are, so that equal ones count
    return int((ranks <= limit).sum())


def _parts(numbers: NDArray[np.float64], n_parts: int) -> list[NDArray[np.int64]]:
    """Return the subjects of each part of a quantity, from the lowest values to the highest."""
    known = np.flatnonzero(np.isfinite(numbers))
    if not len(known):
        return []
    inner = np.quantile(numbers[known], np.arange(1, n_parts) / n_parts)
    place = np.searchsorted(inner, numbers[known], side="left")
    return [known[place == part] for part in range(n_parts) if (place == part).any()]


def _check_length(argument: str, name: str, found: Array, p: Array) -> None:
    if len(found) != len(p):
        raise ValueError(f"`{argument}` must have a value for each of {len(p)} `p`, got {len(found)} of {name!r}.")
