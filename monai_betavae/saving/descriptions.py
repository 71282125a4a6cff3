"""Descriptions from which saved networks can be rebuilt without executing anything from a file.

A builder registered here attaches a description of plain values to its network, ``{"builder": name, "arguments":
{...}}``. A file stores that description as JSON; :func:`rebuild` looks the name up in the registry and calls the
builder. A name that isn't registered is refused, so a file can't cause an import or an evaluation.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
Network = TypeVar("Network", bound=nn.Module)

BUILDERS: dict[str, Callable[..., nn.Module]] = {}
"""The builders a description may name."""

MAX_WEIGHTS = 2**32
"""Largest accepted number of weights, 16 GiB in float32; more is a mistake."""


def is_plain(value: Any) -> bool:
    """Return whether ``value`` consists of JSON types only (tuples count as lists) and can be stored as text."""
    if value is None or isinstance(value, bool | int | float | str):
        return True
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return isinstance(value, dict) and all(isinstance(key, str) and is_plain(item) for key, item in value.items())


def name_of(value: Any) -> str:
    """Return the module and the name of a class or function, or of the class of another object.

    Example:
        >>> name_of(nn.Linear), name_of(nn.ReLU()), name_of(functools.partial(json.dumps, indent=1))
        ('torch.nn.modules.linear.Linear', 'torch.nn.modules.activation.ReLU', 'json.dumps')
    """
    while isinstance(value, functools.partial):
        value = value.func
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def register_builder(builder: Callable[P, Network]) -> Callable[P, Network]:
    """Register ``builder`` and make it attach a description to every network it returns.

    If an argument doesn't consist of plain values (for example a class as activation), ``description`` is ``None``, and
    the network has to be passed in when the model is loaded.

    The network is first built without memory (:func:`dry_run`), so that unsuitable arguments neither exhaust the memory
    nor fail with a torch error about an inner layer.
    """
    signature = inspect.signature(builder)

    @functools.wraps(builder)
    def build(*args: P.args, **kwargs: P.kwargs) -> Network:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        # a builder that calls this one on the meta device is in its own dry run
        if torch.get_default_device().type != "meta":
            dry_run(builder, *args, **kwargs)
        network = builder(*args, **kwargs)
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


def dry_run(builder: Callable[P, Network], *args: P.args, **kwargs: P.kwargs) -> Network:
    """Build the network on torch's meta device, where weights have sizes but take no memory.

    Raises:
        ValueError: if the builder, torch or MONAI refuse the arguments, or the network has more than 2**32 weights.
    """
    try:
        with torch.device("meta"):
            network = builder(*args, **kwargs)
    except ValueError:
        raise
    except Exception as error:  # torch and MONAI raise all kinds of errors for unsuitable arguments
        raise ValueError(
            f"{builder.__name__} must be given arguments that make a network, got {_shown(args, kwargs)}: {error}"
        ) from error
    n_weights = sum(value.numel() for value in network.state_dict().values())
    if n_weights > MAX_WEIGHTS:
        raise ValueError(
            f"{builder.__name__} must be given arguments that make a network of at most {MAX_WEIGHTS} weights, got "
            f"{_shown(args, kwargs)}, which make {n_weights}."
        )
    return network


def _shown(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    return ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])[:500]


def description_of(network: nn.Module) -> dict[str, Any] | None:
    """Return the description of ``network``, or ``None`` if no registered builder made it."""
    found = getattr(network, "description", None)
    return found if isinstance(found, dict) else None


ADDED_LATER = ("edges", "edge_weight", "mean_edges", "gain", "variance", "units")
"""Names of tensors that the weights of release 0.1.0 lack: without them a network is as it was then."""


def rebuild(description: Any, source: str, weights: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the network of a description.

    Args:
        description: ``{"builder": name, "arguments": {...}}``.
        source: origin of the description, for error messages.
        weights: state dict with the network's weights, if available; a network that needs more weights is refused
            before it takes any memory.

    Returns:
        the network, with fresh weights.

    Raises:
        ValueError: naming the source, if the description is malformed, names an unknown builder, its arguments are
            refused, or the network has more weights than ``weights`` stores.
    """
    if (
        not isinstance(description, dict)
        or not isinstance(description.get("arguments"), dict)
        or not isinstance(description.get("builder"), str)
        or description["builder"] not in BUILDERS
    ):
        raise ValueError(
            f"{source}: a network's description must name one of {', '.join(sorted(BUILDERS))} with its arguments, "
            f"got {description!r:.500}."
        )
    builder = BUILDERS[description["builder"]]
    try:
        inspect.signature(builder).bind(**description["arguments"])
    except TypeError as error:
        raise ValueError(f"{source}: {description['builder']} refuses its description: {error}.") from error
    try:
        if weights is not None:
            state = dry_run(builder, **description["arguments"]).state_dict()
            needed = sum(value.numel() for name, value in state.items() if name.split(".")[-1] not in ADDED_LATER)
            there = _n_stored(weights)
            if needed > there:
                raise ValueError(
                    f"the description doesn't fit the weights: {description['builder']} makes a network of {needed}, "
                    f"and {there} are stored."
                )
        return builder(**description["arguments"])
    except Exception as error:  # a file may hold values that no builder expects
        raise ValueError(f"{source}: {description['builder']} refuses its description: {error}") from error


def _n_stored(weights: Mapping[str, Any]) -> int:
    """Return how many numbers a state dict stores; an expanded tensor stores fewer than its shape suggests."""
    tensors = [value for value in weights.values() if isinstance(value, Tensor)]
    return sum(value.untyped_storage().nbytes() // value.element_size() for value in tensors)
