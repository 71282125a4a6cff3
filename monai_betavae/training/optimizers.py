"""Optimizers: the default AdamW, or one that the user's factory makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import optim

FUSED_DEVICES = ("cpu", "cuda", "mps")
"""Devices for which torch has a fused AdamW."""


def make_optimizer(
    factory: Callable[..., Any] | None,
    parameters: Sequence[torch.nn.Parameter],
    lr: float = 1e-4,
    weight_decay: float = 0.01,
    trainer: pl.Trainer | None = None,
) -> optim.Optimizer:
    """Return the optimizer that a factory makes; without one, a fused AdamW where that can be had.

    Args:
        factory: callable from the parameters to an optimizer, or ``None``.
        parameters: the parameters.
        lr: learning rate of the AdamW.
        weight_decay: its weight decay.
        trainer: the Trainer, ``None`` outside one.

    Raises:
        ValueError: naming ``optimizer``, if the factory stops or gives anything else.
    """
    if factory is not None:
        return _made_by(factory, parameters)
    fused = not refuses_fused(trainer) and all(
        weights.is_floating_point() and weights.device.type in FUSED_DEVICES for weights in parameters
    )
    return optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=fused)


def refuses_fused(trainer: pl.Trainer | None) -> bool:
    """Return whether a Trainer can't train with a fused optimizer: Lightning (2.6) clips none at mixed precision."""
    return trainer is not None and bool(trainer.gradient_clip_val) and str(trainer.precision).endswith("-mixed")


def _made_by(factory: Callable[..., Any], parameters: Sequence[torch.nn.Parameter]) -> optim.Optimizer:
    accepted = "`optimizer` must be a callable from the parameters to a torch.optim.Optimizer"
    try:
        optimizer = factory(parameters)
    except Exception as error:  # a factory is the user's, and torch's refuse arguments in several ways
        raise ValueError(f"{accepted}, but stops: {error}") from error
    if not isinstance(optimizer, optim.Optimizer):
        raise ValueError(f"{accepted}, got one that gives {kind_of(optimizer)}.")
    return optimizer


def kind_of(value: Any) -> str:
    """Return a value's type in words, for messages."""
    return f"a value of type {type(value).__name__}"
