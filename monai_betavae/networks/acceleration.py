"""Options that trade computing time for memory, or compile the network, without changing its results."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def accelerate(network: nn.Module, *, compile: bool = False, recompute_activations: bool = False) -> nn.Module:  # noqa: A002  # torch's name of it
    """Enable compilation or recomputation of activations in place; weights and their names stay the same.

    Args:
        network: estimator or network with ``encoder`` and ``decoder``.
        compile: whether to compile both with ``torch.compile`` at their first use, which takes about a minute and, on
            the CPU, needs a C++ compiler.
        recompute_activations: whether to recompute the activations inside each level in the backward pass instead of
            storing them (activation checkpointing). It saves memory and takes about a third more time. With batch
            normalisation, running statistics are updated twice per step.

    Returns:
        the same network.

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
