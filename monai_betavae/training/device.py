"""The device and the precision at which ``fit`` would run a model, for what runs outside a Trainer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch

PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")
"""Precisions that a model can be trained at."""

PRECISION_ALIASES = ("32", "64", "bf16", "16")
"""Lightning's other names for them."""

AUTOCAST_TYPES = {
    "16-mixed": torch.float16,
    "16": torch.float16,
    "bf16-mixed": torch.bfloat16,
    "bf16": torch.bfloat16,
}


def check_precision(precision: Any, name: str = "`precision`") -> None:
    """Refuse a precision that a VAE can't be trained at, before any data are read.

    Args:
        precision: Lightning's name of it; ``None`` for its default.
        name: what the message calls it.

    Raises:
        ValueError: naming it, what came and what is accepted.

    Example:
        >>> check_precision("bf16-mixed")
        >>> try:
        ...     check_precision("bf16-true")
        ... except ValueError as error:
        ...     print(str(error).split(":")[0])
        `precision` must be one of '32-true', '64-true', 'bf16-mixed', '16-mixed', got 'bf16-true'
    """
    if precision is not None and str(precision) not in PRECISIONS + PRECISION_ALIASES:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, PRECISIONS))}, got {precision!r}: posterior, noise and losses "
            "are computed in float32, which networks with weights of half precision don't take; with 'bf16-mixed' the "
            "networks run in half precision too, on weights of single precision."
        )


@contextlib.contextmanager
def on_fit_device(model: pl.LightningModule, trainer_params: Mapping[str, Any]) -> Iterator[torch.device]:
    """Put a model on the device that ``fit`` would use, and run it at that precision; bring it back at the end.

    Args:
        model: the model; one that is on an accelerator already stays there.
        trainer_params: the arguments of the Trainer that ``fit`` makes.

    Yields:
        the device.
    """
    home = model.device
    device = accelerator_device(trainer_params) if home.type == "cpu" else home
    half = AUTOCAST_TYPES.get(str(trainer_params["precision"]))
    if half is torch.float16 and device.type == "cpu":
        half = torch.bfloat16  # as Lightning: float16 isn't for CPUs
    model.to(device)
    try:
        with torch.autocast(device.type, half) if half is not None else contextlib.nullcontext():
            yield device
    finally:
        model.to(home)


def accelerator_device(trainer_params: Mapping[str, Any]) -> torch.device:
    """Return the device that a Trainer of these arguments would train on, in this process.

    Lightning's Fabric isn't used for it: it refuses a machine without the GPU that a model was trained on, and has no
    notion of the device of this process among several (docs/decisions/0020-libraries-that-were-tried.md).
    """
    accelerator, devices = trainer_params["accelerator"], trainer_params["devices"]
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        listed = isinstance(devices, Sequence) and not isinstance(devices, str) and len(devices) == 1
        return torch.device("cuda", devices[0] if listed else torch.cuda.current_device())
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
