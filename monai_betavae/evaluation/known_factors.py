"""Validated known factors of the subjects, discrete or continuous, with their bins and folds."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .._checks import check_integer

if TYPE_CHECKING:
    from pandas import DataFrame

Array = NDArray[Any]
Factors: TypeAlias = "Array | Mapping[str, Any] | DataFrame"

MIN_SUBJECTS = 20
MAX_LEVELS = 10  # numbers with more distinct values are continuous, unless `discrete` names the factor
MISSING_TEXT = ("", "n/a", "nan")  # "n/a" is the BIDS convention; numpy writes NaN as "nan" in arrays of text
N_FOLDS = 5


class Factor(NamedTuple):
    """One factor of all subjects.

    Attributes:
        name: name of the factor.
        values: shape (n,); for a discrete factor 0, 1, ..., the position among its sorted values.
        discrete: whether the factor is discrete.
    """

    name: str
    values: NDArray[np.float64]
    discrete: bool

    @property
    def levels(self) -> NDArray[np.float64]:
        """Return the distinct values in ascending order."""
        return np.unique(self.values)


def check_factors(
    codes: Array,
    factors: Factors,
    names: Sequence[str] | None,
    discrete: Iterable[str] | None,
    min_factors: int = 1,
) -> tuple[NDArray[np.float64], list[Factor]]:
    """Return codes and factors as numbers, or raise ``ValueError`` naming the argument; arguments as for ``mig``."""
    codes = np.asarray(codes, dtype=np.float64)
    if codes.ndim != 2 or len(codes) < MIN_SUBJECTS or codes.shape[1] < 2:
        raise ValueError(
            f"`codes` must have shape (n, latent_dim), at least {MIN_SUBJECTS} subjects and 2 dimensions, "
            f"got {codes.shape}."
        )
    if not np.isfinite(codes).all():
        raise ValueError(f"`codes` must be finite, got {np.count_nonzero(~np.isfinite(codes))} values that aren't.")
    columns = _named_columns(factors, names)
    if len(columns) < min_factors:
        raise ValueError(f"`factors` must be at least {min_factors}, got {len(columns)}.")
    chosen = None if discrete is None else [discrete] if isinstance(discrete, str) else list(discrete)
    unknown = [name for name in chosen or [] if name not in columns]
    if unknown:
        raise ValueError(f"`discrete` must name factors among {list(columns)}, got {unknown}.")
    typed = []
    for name, column in columns.items():
        if column.shape != (len(codes),):
            raise ValueError(
                f"`factors` must have a value for each of {len(codes)} subjects, got {name!r} of shape {column.shape}."
            )
        typed.append(_typed(name, column, None if chosen is None else name in chosen))
    return codes, typed


def _named_columns(factors: Factors, names: Sequence[str] | None) -> dict[str, Array]:
    if isinstance(names, str):
        names = [names]
    if names is not None and len(set(names)) != len(names):
        raise ValueError(f"`names` must be different from each other, got {list(names)}.")
    if isinstance(factors, Mapping) or hasattr(factors, "columns"):
        unknown = [name for name in names or [] if name not in factors]
        if unknown:
            raise ValueError(f"`names` must be among the factors {[str(name) for name in factors]}, got {unknown}.")
        table: Any = factors
        return {str(name): np.asarray(table[name]) for name in (table if names is None else names)}
    array = np.asarray(factors)
    if array.ndim != 2:
        raise ValueError(f"`factors` must have shape (n, n_factors) or be columns by name, got shape {array.shape}.")
    if names is None:
        names = [f"factor_{number}" for number in range(array.shape[1])]
    if len(names) != array.shape[1]:
        raise ValueError(f"`names` must be one for each of {array.shape[1]} factors, got {list(names)}.")
    return {str(name): column for name, column in zip(names, array.T, strict=True)}


def _typed(name: str, column: Array, discrete: bool | None) -> Factor:
    """Return a factor as numbers: its values or the positions of its levels; ``discrete=None`` infers the kind."""
    import pandas

    missing = pandas.isna(column) | np.isin(column.astype(str), MISSING_TEXT)
    if missing.any():
        raise ValueError(
            f"`factors` must have no missing values, got {np.count_nonzero(missing)} in {name!r}: "
            "leave these subjects out of `codes` and `factors`."
        )
    number = column.dtype.kind in "iuf" or (
        column.dtype.kind == "O" and all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in column)
    )
    values = column.astype(np.float64) if number else column.astype(str)
    if number and not np.isfinite(values).all():
        raise ValueError(f"`factors` must be finite, got {np.count_nonzero(np.isinf(values))} infinite in {name!r}.")
    levels, positions, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(levels) == 1:
        raise ValueError(f"`factors` must vary, got the one value {levels[0]} for all subjects in {name!r}.")
    if number and not (len(levels) <= MAX_LEVELS if discrete is None else discrete):
        return Factor(name, values, discrete=False)
    if counts.min() < 2:
        raise ValueError(
            f"`factors` that are discrete must have at least 2 subjects of each value, "
            f"got 1 of {levels[counts.argmin()]} in {name!r}, which has {len(levels)} values."
        )
    return Factor(name, positions.astype(np.float64), discrete=True)


def standardize(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return columns with mean 0 and variance 1; a constant column becomes exactly zero, free of rounding errors."""
    constant = np.ptp(columns, axis=0) == 0
    spread = np.where(constant, 1.0, columns.std(axis=0))
    return np.where(constant, 0.0, (columns - columns.mean(axis=0)) / spread)


def number_of_bins(n_bins: int | None, n: int) -> int:
    """Return a valid number of bins for n subjects; ``None`` is the odd number nearest to n^(1/3), from 3 to 19."""
    if n_bins is None:
        # odd, so that with an odd number of subjects the middle one is inside a bin, not on an edge
        root: float = n ** (1 / 3)
        return min(max(2 * round((root - 1) / 2) + 1, 3), 19)
    n_bins = check_integer("n_bins", n_bins, minimum=2)
    if n_bins > n:
        raise ValueError(f"`n_bins` must be at most the number of subjects, {n}, got {n_bins}.")
    return n_bins


def quantile_bins(values: NDArray[np.float64], n_bins: int) -> NDArray[np.int64]:
    """Assign each value to a bin of equal mass, from its rank alone.

    Equal values share their mean rank r in 1..n, and the position (r - 1/2) n_bins / n determines the bin. A position
    on an edge goes to the bin on the side of the median, so that reversing the values reverses the bins. The positions
    are computed in integers, since rounding would move them across edges.
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    doubled = 2 * (np.cumsum(counts) - counts) + counts  # 2 r - 1
    position, edge = doubled[inverse] * n_bins, 2 * len(values)
    return np.where(2 * position < n_bins * edge, position // edge, (position - 1) // edge)


def levels_of(factor: Factor, n_bins: int) -> NDArray[np.int64]:
    """Return the level of each subject: its value of a discrete factor, or its bin of equal mass."""
    return factor.values.astype(np.int64) if factor.discrete else quantile_bins(factor.values, n_bins)


def by_name(factors: list[Factor], values: NDArray[np.float64]) -> dict[str, float]:
    """Map the name of each factor to its value."""
    return {factor.name: float(value) for factor, value in zip(factors, values, strict=True)}


def folds_of(factor: Factor, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the fold of each subject; the subjects of a level are dealt to the folds in turn, so that they spread."""
    shuffled = rng.permutation(len(factor.values))
    if factor.discrete:
        shuffled = shuffled[np.argsort(factor.values[shuffled], kind="stable")]
    folds = np.empty(len(shuffled), dtype=np.int64)
    folds[shuffled] = np.arange(len(shuffled)) % N_FOLDS
    return folds
