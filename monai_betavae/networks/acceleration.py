"""Options that trade time, memory and arithmetic for one another without changing what is computed."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def accelerate(network: nn.Module, *, compile: bool = False, recompute_activations: bool = False) -> nn.Module:  # noqa: A002  # torch's name of it
    """Switch a network's options on, in place: its weights and their names stay the same.

    Args:
        network: estimator or network with ``encoder`` and ``decoder``.
        compile: compile both with ``torch.compile`` at their first use, which takes a minute and, on the CPU, needs a
            C++ compiler.
        recompute_activations: keep no activations inside a level, and compute them again in the backward pass (also
            known as activation checkpointing): less memory for about a third more time. With batch normalisation
            running statistics are updated twice per step.

    Returns:
        the network.

    Example:
        >>> import torch
        >>> from monai_betavae.networks.builders import build_network
        >>> network = accelerate(build_network((8, 8, 8), 2, channels=(4, 8)), recompute_activations=True)
        >>> network(torch.zeros(1, 1, 8, 8, 8)).shape
        torch.Size([1, 1, 8, 8, 8])
    """
    parts: Any = (network.encoder, network.decoder)
    if recompute_activations:
        for part in parts:
            levels = getattr(part, "body", getattr(part, "levels", None))
            for level in [part] if levels is None else levels.children():
                level.forward = functools.partial(checkpoint, level.forward, use_reentrant=False)
    if compile:
        for part in parts:
            part.compile()
    return network
