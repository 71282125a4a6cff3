"""Reliability of codes: how much repeated scans of a subject agree, beside how much subjects differ.

Scans of a subject are exchangeable here, and a subject may have any number of them: a second scan isn't the same
occasion in all subjects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .intervals import LEVEL, N_RESAMPLES, Estimate, estimate
from .targets import subject_numbers

Array = NDArray[Any]
Floats = NDArray[np.float64]

EXCELLENT = 0.75
"""Intraclass correlation from which Cicchetti, Psychological Assessment 6, 1994, calls a measure excellent."""


class Identification(NamedTuple):
    """How often a scan's nearest other scan is of the same subject.

    Attributes:
        rate: the share of scans, with its interval.
        chance: the share that codes without any information have on average.

    Example:
        >>> found = identification_rate(np.array([0.0, 0.1, 5.0, 5.1]), np.array(["a", "a", "b", "b"]))
        >>> found.rate.value, round(found.chance, 3)
        (1.0, 0.333)
    """

    rate: Estimate
    chance: float


def intraclass_correlation(values: Array, subjects: Array) -> Floats:
    r"""Return the intraclass correlation ICC(1,1) of values of repeated scans: one-way random effects, single scan.

    With the scans j of subject i, k_i in number, n in all of g subjects:

    .. math::
        ICC = \frac{MS_b - MS_w}{MS_b + (k_0 - 1) MS_w}, \quad
        MS_b = \frac{\sum_i k_i (\bar{y}_i - \bar{y})^2}{g - 1}, \quad
        MS_w = \frac{\sum_{ij} (y_{ij} - \bar{y}_i)^2}{n - g}, \quad
        k_0 = \frac{n - \sum_i k_i^2 / n}{g - 1}

    It estimates the share of the variance that lies between subjects. Subjects with one scan count towards MS_b.
    Whatever truly changes from one scan to the next, such as age, counts as error.

    Args:
        values: a row per scan, shape (n,) or (n, n_dimensions): codes, or predictions from them.
        subjects: the subject of each scan, shape (n,); at least two have two or more scans.

    Returns:
        shape (n_dimensions,), or a number for values of shape (n,): 1 if the scans of a subject are equal, about 0 if
        they are no more alike than those of different subjects, and down to -1 / (k_0 - 1) by chance or if they are
        less alike; NaN where all values are equal.

    Raises:
        ValueError: if the shapes aren't as described, a value isn't finite, a scan's subject is missing, or fewer than
            two subjects have two or more scans.

    Source:
        Shrout & Fleiss, "Intraclass Correlations: Uses in Assessing Rater Reliability", Psychological Bulletin 86,
        1979; for k_0, Lessells & Boag, "Unrepeatable Repeatabilities: A Common Mistake", The Auk 104, 1987.

    Example:
        >>> scans, subjects = np.array([1.0, 1.0, 3.0, 5.0]), np.array(["a", "a", "b", "b"])
        >>> float(intraclass_correlation(scans, subjects))  # MS_b = 9, MS_w = 1, k_0 = 2
        0.8
    """
    return _shaped_as(values, _SubjectSums.of(values, subjects).intraclass_correlation())


def within_subject_deviation(values: Array, subjects: Array) -> Floats:
    """Return the standard deviation between scans of the same subject, sqrt(MS_w), in units of the values.

    Two scans of a subject differ by less than 1.96 sqrt(2) times that in 95 % of subjects, if differences are normal.

    Args:
        values: a row per scan, shape (n,) or (n, n_dimensions).
        subjects: the subject of each scan, shape (n,); at least two have two or more scans.

    Returns:
        shape (n_dimensions,), or a number for values of shape (n,).

    Raises:
        ValueError: as in :func:`intraclass_correlation`.

    Source:
        Bland & Altman, "Measurement error", BMJ 313, 1996.

    Example:
        >>> float(within_subject_deviation(np.array([1.0, 1.0, 3.0, 5.0]), np.array(["a", "a", "b", "b"])))
        1.0
    """
    return _shaped_as(values, np.sqrt(_SubjectSums.of(values, subjects).mean_square_within()))


def estimate_intraclass_correlation(
    values: Array,
    subjects: Array,
    *,
    summary: Callable[[Floats], Any] = np.median,
    level: float = LEVEL,
    n_resamples: int = N_RESAMPLES,
    seed: int | None = 0,
) -> Estimate:
    """Return a summary of the dimensions' intraclass correlations and its bootstrap interval over subjects.

    Subjects are drawn with all their scans. With fewer than about 20 subjects such intervals are too narrow.

    Args:
        values: a row per scan, shape (n,) or (n, n_dimensions).
        subjects: the subject of each scan, shape (n,); at least two have two or more scans.
        summary: function that maps correlations, shape (n_dimensions,), to a number. Give it the dimensions of two
            methods side by side for an interval of their difference.
        level: coverage, between 0 and 1.
        n_resamples: number of resamples.
        seed: seed of the resamples; see :func:`~monai_betavae.evaluation.estimate`.

    Returns:
        the summary, and the ends of its interval.

    Raises:
        ValueError: as in :func:`intraclass_correlation`, or if an argument isn't as described.

    Source:
        Ukoumunne et al., "Non-parametric bootstrap confidence intervals for the intraclass correlation coefficient",
        Statistics in Medicine 22, 2003.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> codes = np.repeat(rng.normal(size=(50, 4)), 2, axis=0) + 0.5 * rng.normal(size=(100, 4))
        >>> found = estimate_intraclass_correlation(codes, np.repeat(np.arange(50), 2))
        >>> found.low < 0.8 < found.high  # 1 / (1 + 0.5²)
        True
    """
    return estimate(
        *_SubjectSums.of(values, subjects),
        statistic=lambda *drawn: float(summary(_SubjectSums(*drawn).intraclass_correlation())),
        level=level,
        n_resamples=n_resamples,
        seed=seed,
    )


def identification_rate(
    codes: Array,
    subjects: Array,
    *,
    level: float = LEVEL,
    n_resamples: int = N_RESAMPLES,
    seed: int | None = 0,
) -> Identification:
    """Return the share of scans whose nearest other scan, by their codes, is of the same subject ("fingerprinting").

    Distances are Euclidean, between codes whose dimensions have been scaled to unit variance over the scans; dimensions
    without variance are left out. Scans of subjects with one scan are among the others, but can't be identified
    themselves and don't count. If several scans are nearest, their share of the same subject counts.

    Chance is the mean of (k - 1) / (n - 1) over the scans that count, k scans of the subject, n in all.

    Args:
        codes: a row per scan, shape (n, n_dimensions) or (n,).
        subjects: the subject of each scan, shape (n,); at least two have two or more scans.
        level: coverage, between 0 and 1.
        n_resamples: number of resamples.
        seed: seed of the resamples.

    Returns:
        the rate with its bootstrap interval over subjects, and chance. Among more subjects identification is harder,
        so compare codes of the same scans only; the resampled subjects are identified among all.

    Raises:
        ValueError: as in :func:`intraclass_correlation`, or if an argument isn't as described.

    Source:
        Finn et al., "Functional connectome fingerprinting", Nature Neuroscience 18, 2015; of anatomy, Wachinger et al.,
        "BrainPrint", NeuroImage 109, 2015.

    Example:
        >>> codes = np.array([[0.0, 3.0], [0.1, 3.1], [5.0, 0.0], [5.1, 4.0]])
        >>> identification_rate(codes, np.array(["a", "a", "b", "b"])).rate.value
        0.75
    """
    table, numbers = _checked("codes", codes, subjects)
    counts = np.bincount(numbers)
    scaled = table[:, np.ptp(table, axis=0) > 0]
    scaled = scaled / scaled.std(axis=0)
    repeated = np.flatnonzero(counts[numbers] > 1)
    hits = np.zeros(len(table))
    for row in repeated:  # one scan at a time, to save memory
        distances = np.square(scaled - scaled[row]).sum(axis=1)
        distances[row] = np.inf
        hits[row] = (numbers[distances == distances.min()] == numbers[row]).mean()
    by_subject = np.bincount(numbers, weights=hits)[counts > 1]
    rate = estimate(
        by_subject,
        counts[counts > 1],
        statistic=lambda found, scans: float(found.sum() / scans.sum()),
        level=level,
        n_resamples=n_resamples,
        seed=seed,
    )
    return Identification(rate, float((counts[numbers[repeated]] - 1).mean() / (len(table) - 1)))


class _SubjectSums(NamedTuple):
    """What the mean squares need of each subject, so that resamples of subjects work on a row each, not on scans."""

    scans: Floats  # (g,)
    totals: Floats  # (g, n_dimensions), of values with a mean of 0 over all scans
    between: Floats  # totals² / scans
    within: Floats  # squared distances from the subject's mean, summed

    @classmethod
    def of(cls, values: Array, subjects: Array) -> _SubjectSums:
        table, numbers = _checked("values", values, subjects)
        # rounding would give a constant dimension a mean square above 0
        centred = np.where(np.ptp(table, axis=0) > 0, table - table.mean(axis=0), 0.0)
        scans = np.bincount(numbers).astype(np.float64)
        totals, within = np.zeros((2, len(scans), table.shape[1]))
        np.add.at(totals, numbers, centred)
        np.add.at(within, numbers, np.square(centred - (totals / scans[:, None])[numbers]))
        return cls(scans, totals, totals**2 / scans[:, None], within)

    def mean_square_within(self) -> Floats:
        found: Floats = self.within.sum(axis=0) / (self.scans.sum() - len(self.scans))
        return found

    def intraclass_correlation(self) -> Floats:
        """Return the correlation of each dimension; NaN if all its values are equal, or no subject has two scans."""
        g, n = len(self.scans), self.scans.sum()
        scans_per_subject = (n - np.square(self.scans).sum() / n) / (g - 1)
        between = (self.between.sum(axis=0) - np.square(self.totals.sum(axis=0)) / n) / (g - 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            within = self.mean_square_within()
            found: Floats = (between - within) / (between + (scans_per_subject - 1) * within)
        return found


def _shaped_as(values: Array, found: Floats) -> Floats:
    result: Floats = found[0] if np.ndim(values) == 1 else found
    return result


def _checked(name: str, values: Array, subjects: Array) -> tuple[Floats, NDArray[np.intp]]:
    """Return values of shape (n, n_dimensions) and the subjects counted from 0, or raise ``ValueError``."""
    try:
        table = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be numbers, a row per scan, got {values!r:.80}.") from error
    if table.ndim not in (1, 2) or table.size == 0:
        raise ValueError(f"`{name}` must have shape (n,) or (n, n_dimensions), a row per scan, got {table.shape}.")
    bad = np.flatnonzero(~np.isfinite(table.reshape(len(table), -1)).all(axis=1))
    if len(bad):
        raise ValueError(f"`{name}` must be finite, got non-finite values in {len(bad)} rows, the first {bad[0]}.")
    numbers = subject_numbers("subjects", subjects, len(table))
    repeated = int((np.bincount(numbers) > 1).sum())
    if repeated < 2:
        raise ValueError(f"`subjects` must name at least 2 subjects that have 2 or more scans, got {repeated}.")
    return table.reshape(len(table), -1), numbers
