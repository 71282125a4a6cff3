"""The code of one covariate: the numbers that stand for its values, as measured on the training records."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._checks import check_real
from .covariate_values import is_finite

Array = NDArray[np.float64]

KNOTS = (10.0, 50.0, 90.0)
"""Percentiles of the training values at which the three knots of a spline stand."""

MIN_DISTINCT = 10
"""Distinct values from which a quantity gets a nonlinear column."""

MIN_GAP, MIN_REST = 0.01, 0.001
"""Smallest distance of two knots, as a share of that of the outer ones, and smallest share of the spline's standard
deviation that is nonlinear, with which a quantity gets a nonlinear column."""


@dataclass(frozen=True)
class Bend:
    """The nonlinear column of a quantity: its spline without what is constant or linear on the training records.

    Attributes:
        knots: the three knots, in the quantity's unit.
        intercept: constant of the spline's regression on the standardised values.
        slope: slope of that regression.
        scale: standard deviation of what the regression leaves.
    """

    knots: tuple[float, float, float]
    intercept: float
    slope: float
    scale: float


@dataclass(frozen=True)
class QuantityCode:
    """The code of a quantity: :math:`z`, the standardised value, and a nonlinear function of it.

    See :class:`~monai_betavae.data.CovariateCoding` for the formula.

    Attributes:
        name: name of the covariate.
        mean: mean of the training values.
        sd: their standard deviation, with :math:`n` in the denominator.
        range: lowest and highest training value.
        missing: share of the training records without a value.
        bend: the nonlinear column, or ``None`` for a quantity that is coded by a line only.

    Example:
        >>> code = QuantityCode.fit("age", [20.0, 40.0, None])
        >>> code.columns, code.coded([50.0, None]).round(2).tolist()
        (('age', 'age, missing'), [[2.0, -0.33], [0.0, 0.67]])
    """

    name: str
    mean: float
    sd: float
    range: tuple[float, float]
    missing: float
    bend: Bend | None

    @classmethod
    def fit(cls, name: str, values: Sequence[float | None]) -> QuantityCode:
        """Measure the code on the training values, of which ``None`` is missing."""
        present = np.array([value for value in values if value is not None])
        with np.errstate(over="ignore", invalid="ignore"):
            mean, sd = float(present.mean()), float(present.std())
        if not (math.isfinite(mean) and math.isfinite(sd) and sd > 0):
            raise ValueError(
                f"`records` must have a standard deviation of {name!r} that a float can hold, got values from "
                f"{present.min():g} to {present.max():g}. Write them in another unit."
            )
        return cls(
            name,
            mean,
            sd,
            (float(present.min()), float(present.max())),
            (len(values) - len(present)) / len(values),
            _bend(present, mean, sd),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return (self.name, *[f"{self.name}, bend"] * (self.bend is not None), *_missing_name(self.name, self.missing))

    def coded(self, values: Sequence[float | None]) -> Array:
        """Return the columns, float64 of shape (len(values), len(columns)); those of ``None`` are 0."""
        there = np.array([value is not None for value in values], dtype=bool)
        with np.errstate(over="ignore", invalid="ignore"):  # the caller refuses what isn't finite
            z = (
                np.array([self.mean if value is None else value for value in values], dtype=float) - self.mean
            ) / self.sd
        columns = [z]
        if self.bend is not None:
            with np.errstate(all="ignore"):
                spline = natural_spline(z, (np.array(self.bend.knots) - self.mean) / self.sd)
                columns.append((spline - self.bend.intercept - self.bend.slope * z) / self.bend.scale)
        coded = np.where(there[:, None], np.stack(columns, axis=1), 0.0)
        return np.concatenate([coded, missing_column(there, self.missing)], axis=1)

    def n_far(self, values: Iterable[float | None]) -> int:
        """Return how many values lie outside the training range by more than half of its width."""
        low, high = self.range
        margin = high / 2 - low / 2
        return sum(value is not None and not low - margin <= value <= high + margin for value in values)

    def description(self) -> dict[str, Any]:
        """Return the code as plain values."""
        bend = self.bend
        return {
            "name": self.name,
            "kind": "quantity",
            "mean": self.mean,
            "sd": self.sd,
            "range": list(self.range),
            "missing": self.missing,
            "bend": None
            if bend is None
            else {
                "knots": list(bend.knots),
                "intercept": bend.intercept,
                "slope": bend.slope,
                "scale": bend.scale,
            },
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> QuantityCode:
        """Return the code of a description, whose name and kind were checked."""
        name, what = description["name"], f"of {description['name']!r}"
        checked_keys(
            f"description: code {what}", description, ("name", "kind", "mean", "sd", "range", "missing", "bend")
        )
        given, bend = description["bend"], None
        if given is not None:
            what_bend = f"bend {what}"
            checked_keys(f"description: {what_bend}", given, ("knots", "intercept", "slope", "scale"))
            first, second, third = _increasing(f"description: knots of {what_bend}", given["knots"], 3)
            bend = Bend(
                (first, second, third),
                check_real(f"description: intercept of {what_bend}", given["intercept"]),
                check_real(f"description: slope of {what_bend}", given["slope"]),
                check_real(f"description: scale of {what_bend}", given["scale"], 0, exclusive=True),
            )
        low, high = _increasing(f"description: range {what}", description["range"], 2)
        return cls(
            name,
            check_real(f"description: mean {what}", description["mean"]),
            check_real(f"description: sd {what}", description["sd"], 0, exclusive=True),
            (low, high),
            check_real(f"description: missing {what}", description["missing"], 0, 1),
            bend,
        )


@dataclass(frozen=True)
class CategoryCode:
    """The code of a category: a column for each level, 1 or 0, minus the level's share among the training records.

    Attributes:
        name: name of the covariate.
        levels: the levels that the training records have, as sorted texts.
        shares: share of each among the training records with a value.
        missing: share of the training records without a value.

    Example:
        >>> code = CategoryCode.fit("sex", ["M", "F", "F", "F"])
        >>> code.columns, code.coded(["M", None]).tolist()
        (('sex=F', 'sex=M'), [[-0.75, 0.75], [0.0, 0.0]])
    """

    name: str
    levels: tuple[str, ...]
    shares: tuple[float, ...]
    missing: float

    @classmethod
    def fit(cls, name: str, values: Sequence[str | None]) -> CategoryCode:
        """Measure the code on the training records' levels, of which ``None`` is missing."""
        counts = Counter(value for value in values if value is not None)
        levels = tuple(sorted(counts))
        n_present = counts.total()
        return cls(
            name, levels, tuple(counts[level] / n_present for level in levels), (len(values) - n_present) / len(values)
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return (*(f"{self.name}={level}" for level in self.levels), *_missing_name(self.name, self.missing))

    def coded(self, values: Sequence[str | None]) -> Array:
        """Return the columns, float64 of shape (len(values), len(columns)); those of ``None`` are 0."""
        there = np.array([value is not None for value in values], dtype=bool)
        is_level = np.array([[value == level for level in self.levels] for value in values], dtype=float)
        coded = np.where(there[:, None], is_level.reshape(len(values), len(self.levels)) - np.array(self.shares), 0.0)
        return np.concatenate([coded, missing_column(there, self.missing)], axis=1)

    def description(self) -> dict[str, Any]:
        """Return the code as plain values."""
        return {
            "name": self.name,
            "kind": "category",
            "levels": list(self.levels),
            "shares": list(self.shares),
            "missing": self.missing,
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> CategoryCode:
        """Return the code of a description, whose name and kind were checked."""
        name, what = description["name"], f"of {description['name']!r}"
        checked_keys(f"description: code {what}", description, ("name", "kind", "levels", "shares", "missing"))
        levels, shares = description["levels"], description["shares"]
        if (
            not isinstance(levels, list | tuple)
            or not levels
            or not all(isinstance(level, str) for level in levels)
            or len(set(levels)) != len(levels)
        ):
            raise ValueError(f"`description: levels {what}` must be a list of different texts, got {levels!r:.200}.")
        if not isinstance(shares, list | tuple) or len(shares) != len(levels):
            raise ValueError(
                f"`description: shares {what}` must be a list of {len(levels)} numbers, got {shares!r:.200}."
            )
        numbers = tuple(check_real(f"description: shares {what}", share, 0, 1) for share in shares)
        if abs(sum(numbers) - 1) > 1e-6:
            raise ValueError(f"`description: shares {what}` must sum to 1, got {shares!r:.200}.")
        return cls(
            name, tuple(levels), numbers, check_real(f"description: missing {what}", description["missing"], 0, 1)
        )


def natural_spline(x: Array, knots: Array) -> Array:
    r"""Return the nonlinear term of the natural cubic spline with three knots: cubic between them, linear beyond.

    With :math:`(u)_+ = \max(u, 0)`,

    .. math::
        s(x) = \frac{1}{(t_3 - t_1)^2} \left[ (x - t_1)_+^3 - \frac{t_3 - t_1}{t_3 - t_2} (x - t_2)_+^3
        + \frac{t_2 - t_1}{t_3 - t_2} (x - t_3)_+^3 \right].

    It is 0 below :math:`t_1` and has the slope :math:`3 (t_2 - t_1) / (t_3 - t_1)` above :math:`t_3`.

    Args:
        x: values, of any shape.
        knots: the knots, increasing.

    Returns:
        s(x), of the shape of ``x``.

    Example:
        >>> natural_spline(np.array([-1.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0])).tolist()
        [0.0, 0.25, 1.5, 3.0]
    """
    first, second, third = knots
    inside = np.clip(x, first, third)
    cubic = (inside - first) ** 3 - (third - first) / (third - second) * np.maximum(inside - second, 0) ** 3
    # beyond the last knot the three cubes cancel to a line, which they would lose to rounding far away
    beyond = 3 * (second - first) / (third - first) * np.maximum(x - third, 0)
    return np.asarray(cubic / (third - first) ** 2 + beyond)


def missing_column(there: NDArray[np.bool_], share: float) -> Array:
    """Return the column of a covariate's missing values, of shape (n, 1), or (n, 0) if none were missing in training.

    It is 1 or 0, minus the share of the training records without a value.
    """
    return (~there - np.float64(share))[:, None] if share > 0 else np.zeros((len(there), 0))


def checked_keys(what: str, value: Any, keys: Sequence[str]) -> None:
    """Raise ``ValueError`` unless a value is a mapping with exactly these keys."""
    if not isinstance(value, Mapping) or set(value) != set(keys):
        raise ValueError(f"`{what}` must have the entries {', '.join(map(repr, keys))}, got {value!r:.200}.")


def _missing_name(name: str, share: float) -> tuple[str, ...]:
    return (f"{name}, missing",) if share > 0 else ()


def _bend(present: Array, mean: float, sd: float) -> Bend | None:
    """Return the nonlinear column of training values, or ``None`` if they don't determine one."""
    if len(np.unique(present)) < MIN_DISTINCT:
        return None
    first, second, third = (float(knot) for knot in np.percentile(present, KNOTS))
    if min(second - first, third - second) <= MIN_GAP * (third - first):
        return None
    z = (present - mean) / sd
    spline = natural_spline(z, (np.array([first, second, third]) - mean) / sd)
    intercept, slope = float(spline.mean()), float((spline * z).mean())  # z has mean 0 and variance 1
    scale = float((spline - intercept - slope * z).std())
    if not scale > MIN_REST * spline.std():
        return None
    return Bend((first, second, third), intercept, slope, scale)


def _increasing(what: str, value: Any, length: int) -> list[float]:
    numbers = list(value) if isinstance(value, list | tuple) else []
    if len(numbers) != length or not all(map(is_finite, numbers)) or sorted(set(numbers)) != numbers:
        raise ValueError(f"`{what}` must be {length} increasing numbers, got {value!r:.200}.")
    return [float(number) for number in numbers]
