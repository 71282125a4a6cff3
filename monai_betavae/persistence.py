"""Reading model files without executing anything: weights under ``weights_only``, descriptions as JSON."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from .description import rebuild


def source_name(source: str | os.PathLike[str] | IO[bytes]) -> str:
    """Return how messages name a file or stream."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else repr(source)


def load_weights_only(source: str | os.PathLike[str] | IO[bytes]) -> Any:
    """Read a torch file of tensors and plain values onto the CPU.

    Args:
        source: path or binary stream.

    Raises:
        ValueError: naming the file, if it doesn't exist, isn't a torch file, or holds objects whose loading would
            execute code.
    """
    if isinstance(source, str | os.PathLike) and not Path(source).is_file():
        raise ValueError(f"{os.fspath(source)} must be an existing model file.")
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{source_name(source)} was refused: it holds more than tensors and plain values, and loading that could "
            "execute code."
        ) from error
    except Exception as error:  # torch's reader of old files raises whatever foreign bytes make it stumble over
        raise ValueError(f"{source_name(source)} can't be read as a torch file: {error}") from error


def parse_description(text: Any, source: str) -> dict[str, Any]:
    """Parse a model's JSON description.

    Args:
        text: JSON of an object with "hparams", "encoder" and "decoder".
        source: where it came from, for messages.

    Raises:
        ValueError: if it isn't that.
    """
    try:
        description = json.loads(text)
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{source} must hold a JSON description of the model, got {text!r:.80}.") from error
    if not isinstance(description, dict) or not isinstance(description.get("hparams"), dict):
        raise ValueError(f"{source}: the description must have the model's 'hparams', got {text!r:.80}.")
    return description


def described_networks(
    description: dict[str, Any], given: dict[str, nn.Module | None], source: str
) -> dict[str, nn.Module]:
    """Return the networks of a model: those given, the others rebuilt from the description.

    Raises:
        ValueError: if a network is neither given nor described.
    """
    networks = {}
    for name, network in given.items():
        if network is None and description.get(name) is None:
            raise ValueError(
                f"`{name}` must be passed in: {source} was saved with one that no builder of monai_betavae made."
            )
        networks[name] = network if network is not None else rebuild(description[name], source)
    return networks
