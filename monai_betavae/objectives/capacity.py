"""Controlled capacity: the KL divergence is held at a value that rises in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributions import Distribution, Normal

from .._checks import check_real
from ..losses import BetaVAELoss
from ..schedules import Schedule


class CapacityLoss(BetaVAELoss):
    r"""The loss of beta-VAE with controlled capacity: the KL divergence is pulled to a capacity C.

    .. math:: L = L_\text{rec} + \beta \, |D_{KL}(q(z|x) \,\|\, N(0, I)) - C|

    The schedule is one of C, which it multiplies; the usual one rises linearly from 0. With ``capacity=0`` it is the
    beta-VAE loss, exactly.

    Args:
        beta: weight of the distance from the capacity, >= 0.
        default_dist: as in :class:`~monai_betavae.BetaVAELoss`.
        capacity: capacity C at the end of the schedule, in nats per image.
        schedule: schedule of the capacity.

    Raises:
        ValueError: naming the argument, what came and what is accepted.

    Source:
        Burgess et al., "Understanding disentangling in beta-VAE", NeurIPS workshop 2017.

    Example:
        >>> import torch
        >>> x, q = torch.zeros(2, 1, 2, 2, 2), Normal(torch.ones(2, 3), torch.ones(2, 3))  # a divergence of 1.5
        >>> {name: float(value) for name, value in CapacityLoss(10.0, capacity=2.0)(x, x, q).items()}
        {'rec_loss': 0.0, 'kl_loss': 1.5, 'loss': 5.0}
    """

    scheduled = ("capacity",)

    def __init__(
        self,
        beta: float = 10.0,
        default_dist: str = "normal",
        *,
        capacity: float = 25.0,
        schedule: Schedule | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(beta, default_dist, schedule=schedule)
        self.capacity = check_real("capacity", capacity, minimum=0)

    def __call__(self, x: Tensor, p: Tensor | Distribution, q: Normal) -> dict[str, Tensor]:
        """Compute the loss of a batch; arguments and keys are those of :class:`~monai_betavae.BetaVAELoss`."""
        losses = self._terms(x, p, q)
        # the divergence isn't negative, but its rounding may be
        distance = losses["kl_loss"] if self.capacity == 0 else (losses["kl_loss"] - self.capacity).abs()
        return {**losses, "loss": self._weighted(losses["rec_loss"], distance)}
