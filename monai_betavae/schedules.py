"""Schedules of a loss's weight in training: how much of it counts at a step or in an epoch.

A schedule is a function of the position alone, so a run that resumes goes on as if it had not stopped, and every
process has the same weight. Steps are those of the optimizer: batches whose gradients are accumulated share one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ._checks import check_choice, check_integer, check_real

KINDS = ("constant", "linear", "cosine", "cyclical")
"""Accepted kinds of a schedule."""

UNITS = ("step", "epoch")
"""What the length of a schedule is counted in."""


class Schedule:
    r"""A factor from ``start`` to 1 by the position t in training.

    .. math::
        \text{linear: } s + (1 - s) \min(t / T, 1), \quad
        \text{cosine: } s + (1 - s) \tfrac12 (1 - \cos(\pi \min(t / T, 1))), \quad
        \text{cyclical: } s + (1 - s) \min(\tfrac{t \bmod T}{r T}, 1)

    with the length T, the start s and the share r of a cycle in which the factor rises. A cyclical schedule stays at 1
    after its last cycle.

    Args:
        kind: "constant" (always 1), "linear", "cosine" or "cyclical".
        length: number T of steps or epochs until the factor is 1; of a "cyclical" schedule, of one cycle.
        unit: "step" of the optimizer, or "epoch", whose steps share one factor.
        start: factor s at position 0, in [0, 1].
        ramp: share r of a cycle in which the factor of a "cyclical" schedule rises, in (0, 1].
        n_cycles: number of cycles of a "cyclical" schedule.

    Raises:
        ValueError: naming the argument, what came and what is accepted.

    Source:
        Bowman et al., "Generating Sentences from a Continuous Space", CoNLL 2016 (warm-up); Fu et al., "Cyclical
        Annealing Schedule", NAACL 2019.

    Example:
        >>> warm_up = Schedule("linear", length=100)
        >>> [warm_up(step, 0) for step in (0, 50, 100, 500)]
        [0.0, 0.5, 1.0, 1.0]
        >>> cyclical = Schedule("cyclical", length=10, unit="epoch", n_cycles=2)
        >>> [cyclical(0, epoch) for epoch in (0, 4, 5, 9, 10, 14, 30)]
        [0.0, 0.8, 1.0, 1.0, 0.0, 0.8, 1.0]
    """

    def __init__(
        self,
        kind: str = "constant",
        length: float = 1.0,
        unit: str = "step",
        start: float = 0.0,
        ramp: float = 0.5,
        n_cycles: int = 4,
    ) -> None:
        self.kind = check_choice("kind", kind, KINDS)
        self.length = check_real("length", length, minimum=0)
        if self.length == 0:
            raise ValueError(f"`length` must be larger than 0, got {length!r}.")
        self.unit = check_choice("unit", unit, UNITS)
        self.start = check_real("start", start, minimum=0, maximum=1)
        self.ramp = check_real("ramp", ramp, minimum=0, maximum=1)
        if self.ramp == 0:
            raise ValueError(f"`ramp` must be larger than 0, got {ramp!r}.")
        self.n_cycles = check_integer("n_cycles", n_cycles, minimum=1)

    def __call__(self, step: int, epoch: int) -> float:
        """Return the factor.

        Args:
            step: number of the optimizer's steps so far.
            epoch: number of whole epochs so far.
        """
        if self.kind == "constant":
            return 1.0
        position = float(step if self.unit == "step" else epoch)
        if self.kind == "cyclical":
            if position >= self.n_cycles * self.length:
                return 1.0
            share = min((position % self.length) / (self.ramp * self.length), 1.0)
        else:
            share = min(position / self.length, 1.0)
        if self.kind == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.start + (1 - self.start) * share

    def describe(self) -> dict[str, Any]:
        """Return the arguments, as plain values."""
        return {name: getattr(self, name) for name in ("kind", "length", "unit", "start", "ramp", "n_cycles")}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.describe() == other.describe()

    def __hash__(self) -> int:
        return hash(tuple(self.describe().values()))

    def __repr__(self) -> str:
        return f"Schedule({', '.join(f'{name}={value!r}' for name, value in self.describe().items())})"


def as_schedule(schedule: Schedule | Mapping[str, Any] | None) -> Schedule | None:
    """Return a schedule from itself or from its arguments by name.

    Raises:
        ValueError: if it is neither, or an argument is unknown or wrong.

    Example:
        >>> as_schedule({"kind": "linear", "length": 5, "unit": "epoch"})(0, 1)
        0.2
    """
    if schedule is None or isinstance(schedule, Schedule):
        return schedule
    known = ("kind", "length", "unit", "start", "ramp", "n_cycles")
    if not isinstance(schedule, Mapping) or not set(schedule) <= set(known):
        raise ValueError(
            f"`schedule` must be None, a Schedule or a mapping with some of {', '.join(known)}, got {schedule!r}."
        )
    return Schedule(**schedule)
