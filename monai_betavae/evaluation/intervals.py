"""Bootstrap intervals of scores over subjects."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._checks import check_integer, check_real, check_seed

Array = NDArray[Any]

N_RESAMPLES = 2000
LEVEL = 0.95


class Estimate(NamedTuple):
    """A score and its interval; both ends are NaN if there are fewer than two subjects.

    Attributes:
        value: the score of the given subjects.
        low: lower end of the interval.
        high: upper end of the interval.

    Example:
        >>> value, low, high = estimate(np.array([1.0, 2.0, 3.0, 4.0]))
        >>> value, low < value < high
        (2.5, True)
        >>> estimate(np.array([2.0]))  # one subject can't tell how much subjects vary
        Estimate(value=2.0, low=nan, high=nan)
    """

    value: float
    low: float
    high: float


def estimate(
    *arrays: Array,
    statistic: Callable[..., float] = np.mean,
    subjects: ArrayLike | None = None,
    level: float = LEVEL,
    n_resamples: int = N_RESAMPLES,
    seed: int | None = 0,
) -> Estimate:
    """Return a statistic of subjects and its bootstrap interval (percentile method).

    Subjects are drawn with replacement; the rows of a subject in all arrays stay together. A resample whose statistic
    isn't finite (such as a correlation when one subject is drawn n times) is left out of the interval.

    Where ``subjects`` says that some rows are of one subject, such as repeated scans, subjects are drawn and bring all
    their rows (cluster bootstrap): rows of one subject are alike, and drawn one by one they would make the interval too
    narrow. Where each subject has one row, the interval is the same with and without ``subjects``, to the last bit.

    Args:
        arrays: one or more arrays, each of shape (n, ...), with a row per subject, or per scan.
        subjects: label of each row's subject, shape (n,); ``None`` for rows of different subjects.
        statistic: function that maps these arrays, or resamples of their rows, to a number.
        level: coverage, between 0 and 1.
        n_resamples: number of resamples.
        seed: seed of the resamples; the same seed draws the same subjects, so the intervals of two methods are paired.

    Returns:
        the statistic and the ends of its interval.

    Raises:
        ValueError: if there is no array, they have no rows or different numbers of rows, or an argument isn't as
            described.

    Source:
        Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; Davison & Hinkley, "Bootstrap Methods
        and their Application", 1997, section 3.8 (subjects with several rows).

    Example:
        >>> found = estimate(np.arange(101.0))
        >>> found.value, 43 < found.low < 45, 55 < found.high < 57
        (50.0, True, True)
        >>> scans = np.repeat(np.arange(101.0), 4)  # four scans of each subject, all alike, tell no more
        >>> found == estimate(scans, subjects=np.repeat(np.arange(101), 4))
        True
    """
    check_real("level", level, minimum=0, maximum=1, exclusive=True)
    check_integer("n_resamples", n_resamples, minimum=1)
    rows = [np.asarray(array) for array in arrays]
    counts = {len(array) if array.ndim else 0 for array in rows}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"`arrays` must have the same number of rows, at least one, got {sorted(counts)}.")
    n = counts.pop()
    value = float(statistic(*rows))
    members = _rows_by_subject(subjects, n)
    if len(members) < 2:
        return Estimate(value, float("nan"), float("nan"))
    rng = np.random.default_rng(check_seed("seed", seed))
    drawn: Iterable[Array] = rng.integers(0, len(members), (n_resamples, len(members)))
    if len(members) < n:
        drawn = (np.concatenate([members[number] for number in numbers]) for numbers in drawn)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.array([float(statistic(*(array[chosen] for array in rows))) for chosen in drawn])
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))


def _rows_by_subject(subjects: ArrayLike | None, n: int) -> list[Array]:
    """Return the rows of each subject, in the order in which subjects come first."""
    if subjects is None:
        return [np.array([row]) for row in range(n)]
    labels = np.asarray(subjects)
    if labels.shape != (n,):
        raise ValueError(f"`subjects` must have shape ({n},), a label for each row, got {labels.shape}.")
    rows: dict[Any, list[int]] = {}
    for row, label in enumerate(labels.tolist()):
        rows.setdefault(label, []).append(row)
    return [np.array(each) for each in rows.values()]
