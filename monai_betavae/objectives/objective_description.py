"""Objectives as plain values, so that a file brings them back without executing anything."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..losses import BetaVAELoss
from .capacity import CapacityLoss
from .dip import DIPVAELoss
from .free_bits import FreeBitsLoss
from .mmd import InfoVAELoss
from .sigma import SigmaVAELoss
from .total_correlation import BetaTCVAELoss

OBJECTIVES: dict[str, type[BetaVAELoss]] = {
    "beta-vae": BetaVAELoss,
    "free-bits": FreeBitsLoss,
    "capacity": CapacityLoss,
    "beta-tcvae": BetaTCVAELoss,
    "dip-vae": DIPVAELoss,
    "info-vae": InfoVAELoss,
    "sigma-vae": SigmaVAELoss,
}
"""The objectives by name."""


def describe_objective(loss: Any) -> dict[str, Any] | None:
    """Return name and arguments of an objective as plain values, or ``None`` for a loss of another class.

    Example:
        >>> describe_objective(FreeBitsLoss(2.0))["arguments"]["free_nats"]
        0.25
        >>> describe_objective(lambda x, p, q: {}) is None
        True
    """
    names = [name for name, kind in OBJECTIVES.items() if type(loss) is kind]
    if not names:
        return None
    arguments = {name: getattr(loss, name) for name in inspect.signature(type(loss)).parameters}
    if arguments["schedule"] is not None:
        arguments["schedule"] = arguments["schedule"].describe()
    return {"name": names[0], "arguments": arguments}


def objective_from_description(description: Mapping[str, Any]) -> BetaVAELoss:
    """Return the objective that :func:`describe_objective` described.

    Raises:
        ValueError: if the name or an argument is unknown, or an argument is wrong.

    Example:
        >>> objective_from_description({"name": "capacity", "arguments": {"beta": 5.0, "capacity": 12.0}}).capacity
        12.0
    """
    name, arguments = description.get("name"), description.get("arguments")
    if not isinstance(name, str) or name not in OBJECTIVES:
        raise ValueError(f"An objective must be one of {', '.join(OBJECTIVES)}, got {name!r:.100}.")
    known = inspect.signature(OBJECTIVES[name]).parameters
    if not isinstance(arguments, Mapping) or not set(arguments) <= set(known):
        raise ValueError(f"The arguments of {name!r} must be some of {', '.join(known)}, got {arguments!r:.200}.")
    return OBJECTIVES[name](**arguments)
