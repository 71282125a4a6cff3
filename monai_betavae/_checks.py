"""Argument checks whose messages share one style: the name, the accepted values and the value received."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

MAX_VOXELS = 2**31
"""Most voxels of a plausible image: they take 8 GiB in float32, as in a cube with sides of 1290."""


class ArgumentTypeError(TypeError, ValueError):
    """An argument of the wrong type: a ``ValueError``, like all refusals here, and a ``TypeError``, as nidl raises."""


def is_missing(value: Any) -> bool:
    """Return whether a value is missing: ``None``, NaN of any float type, pandas' ``NA`` or ``NaT``, numpy's ``NaT``.

    Example:
        >>> [is_missing(value) for value in (None, float("nan"), 0, "", "nan")]
        [True, True, False, False, False]
    """
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas' NA compares as neither true nor false
        return True
    except (ValueError, RuntimeError):  # an array or a tensor compares element by element; it isn't missing
        return False


def _is_integer(value: Any) -> bool:
    # numpy integers count; True and False don't, although they are integers in Python
    return not isinstance(value, bool) and isinstance(value, numbers.Integral)


def check_integer(name: str, value: Any, minimum: int, maximum: float = math.inf) -> int:
    """Return ``value`` as an int, or raise ``ValueError`` if it is not an integer between the bounds."""
    if not _is_integer(value) or value < minimum or value > maximum:
        accepted = f">= {minimum}" if maximum == math.inf else f"from {minimum} to {maximum}"
        raise ValueError(f"`{name}` must be an integer {accepted}, got {value!r}.")
    return int(value)


def check_real(
    name: str,
    value: Any,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    *,
    exclusive: bool = False,
) -> float:
    """Return ``value`` as a float, or raise ``ValueError`` if it is not a finite number between the bounds.

    Args:
        name: the argument's name, for the message.
        value: the value to check.
        minimum: smallest accepted value.
        maximum: largest accepted value.
        exclusive: whether to refuse ``minimum`` itself.
    """
    if not _is_finite(value) or value < minimum or value > maximum or (exclusive and value == minimum):
        bounds = []
        if minimum > -math.inf:
            bounds.append(f"{'>' if exclusive else '>='} {minimum:g}")
        if maximum < math.inf:
            bounds.append(f"<= {maximum:g}")
        accepted = " ".join(["a finite number", " and ".join(bounds)]).strip()
        raise ValueError(f"`{name}` must be {accepted}, got {value!r}.")
    return float(value)


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:  # the int is outside the range of floats
        return False


def check_choice(name: str, value: Any, accepted: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``accepted``, or raise ``ValueError`` that lists them."""
    options = list(accepted)
    if value not in options:
        close = difflib.get_close_matches(str(value), options, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, options))}, got {value!r}.{hint}")
    return str(value)


def check_spatial_shape(name: str, value: Any) -> tuple[int, ...]:
    """Return ``value`` as the two or three positive ints of an image's shape, or raise ``ValueError``."""
    sides = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if len(sides) not in (2, 3) or not all(_is_integer(side) and side >= 1 for side in sides):
        raise ValueError(f"`{name}` must be two or three positive integers, such as (64, 80, 64), got {value!r}.")
    if math.prod(int(side) for side in sides) > MAX_VOXELS:
        raise ValueError(f"`{name}` must have at most {MAX_VOXELS} voxels, got {value!r}.")
    return tuple(int(side) for side in sides)


def check_seed(name: str, value: Any) -> int | None:
    """Return ``value`` as an int that seeds a generator, or ``None``; raise ``ValueError`` for anything else."""
    if value is None:
        return None
    if not _is_integer(value) or not 0 <= value < 2**32:
        raise ValueError(f"`{name}` must be None or an integer from 0 to 2**32 - 1, got {value!r}.")
    return int(value)
