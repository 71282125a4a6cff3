"""Networks that know how they were made, so that a saved model brings them back without executing anything.

A builder registered here leaves on its network a description of plain values, ``{"builder": name, "arguments":
{...}}``. A file holds that description as JSON; :func:`rebuild` looks the name up in the registry and calls the
builder. A name that isn't registered is refused: nothing is imported or evaluated because a file says so.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torch import nn

P = ParamSpec("P")
Network = TypeVar("Network", bound=nn.Module)

BUILDERS: dict[str, Callable[..., nn.Module]] = {}
"""The builders a description may name."""


def is_plain(value: Any) -> bool:
    """Whether ``value`` is made of JSON's types alone (tuples count as lists), so that it can be stored as text."""
    if value is None or isinstance(value, bool | int | float | str):
        return True
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return isinstance(value, dict) and all(isinstance(key, str) and is_plain(item) for key, item in value.items())


def described(builder: Callable[P, Network]) -> Callable[P, Network]:
    """Register ``builder`` and make it leave a description on every network it returns.

    An argument that isn't made of plain values (a class as activation, say) leaves ``description`` at ``None``:
    such a network is passed in again when the model is loaded.
    """
    signature = inspect.signature(builder)

    @functools.wraps(builder)
    def build(*args: P.args, **kwargs: P.kwargs) -> Network:
        network = builder(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                arguments.update(value)
            else:
                arguments[name] = value
        plain = is_plain(arguments)
        description = {"builder": builder.__name__, "arguments": json.loads(json.dumps(arguments))} if plain else None
        network.description = description  # type: ignore[assignment]  # nn.Module types its attributes as tensors
        return network

    BUILDERS[builder.__name__] = build
    return build


def description_of(network: nn.Module) -> dict[str, Any] | None:
    """Return how ``network`` was made, or ``None`` for one that no registered builder made."""
    found = getattr(network, "description", None)
    return found if isinstance(found, dict) else None


def rebuild(description: Any, source: str) -> nn.Module:
    """Make the network a description stands for.

    Args:
        description: ``{"builder": name, "arguments": {...}}``.
        source: where it came from, for messages.

    Returns:
        the network, with fresh weights.

    Raises:
        ValueError: if the description is malformed, names an unknown builder, or its arguments are refused.
    """
    if (
        not isinstance(description, dict)
        or not isinstance(description.get("arguments"), dict)
        or not isinstance(description.get("builder"), str)
        or description["builder"] not in BUILDERS
    ):
        raise ValueError(
            f"{source}: a network's description must name one of {', '.join(sorted(BUILDERS))} with its arguments, "
            f"got {description!r}."
        )
    builder = BUILDERS[description["builder"]]
    try:
        inspect.signature(builder).bind(**description["arguments"])
    except TypeError as error:
        raise ValueError(f"{source}: {description['builder']} refuses its description: {error}.") from error
    return builder(**description["arguments"])
