"""Free bits: a KL divergence up to a floor costs nothing, so that latents don't collapse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributions import Distribution, Normal

from .._checks import check_choice, check_real
from ..losses import BetaVAELoss, kl_per_dimension
from ..schedules import Schedule

GROUPS = ("dimension", "total")
"""What has a floor: each latent dimension, or their sum."""


def free_bits_kl(q: Normal, free_nats: float, group: str = "dimension") -> Tensor:
    r"""Return the KL divergence where values below a floor count as the floor.

    .. math::
        \text{dimension: } \sum_k \max(D_k, \lambda), \quad \text{total: } \max(\sum_k D_k, \lambda)

    with the divergence D_k of each dimension, averaged over the batch. Below the floor there is no gradient.

    Args:
        q: posteriors with parameters of shape (batch, latent_dim) or (batch, ..., latent_dim).
        free_nats: the floor in nats, 0 for none.
        group: "dimension" or "total".

    Returns:
        scalar tensor, nats per image.

    Source:
        Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", NeurIPS 2016, appendix C.

    Example:
        >>> import torch
        >>> q = Normal(torch.tensor([[2.0, 0.0]]), torch.ones(1, 2))  # divergences 2 and 0
        >>> float(free_bits_kl(q, 0.5)), float(free_bits_kl(q, 0.5, "total"))
        (2.5, 2.0)
    """
    check_choice("group", group, GROUPS)
    by_dimension = kl_per_dimension(q)
    if group == "total":
        return by_dimension.sum().clamp_min(free_nats)
    return by_dimension.clamp_min(free_nats).sum()


class FreeBitsLoss(BetaVAELoss):
    """The beta-VAE loss with free bits, see :func:`free_bits_kl`.

    With ``free_nats=0`` it is the beta-VAE loss, exactly. "kl_loss" remains the KL divergence.

    Args:
        beta: weight of the KL divergence, >= 0.
        default_dist: as in :class:`~monai_betavae.BetaVAELoss`.
        free_nats: floor of a divergence, in nats.
        group: what has the floor, each "dimension" or the "total".
        schedule: schedule of ``beta``.

    Raises:
        ValueError: naming the argument, what came and what is accepted.

    Source:
        Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", NeurIPS 2016.

    Example:
        >>> import torch
        >>> x, q = torch.zeros(2, 1, 2, 2, 2), Normal(torch.zeros(2, 3), torch.ones(2, 3))
        >>> {name: float(value) for name, value in FreeBitsLoss(4.0, free_nats=0.25)(x, x, q).items()}
        {'rec_loss': 0.0, 'kl_loss': 0.0, 'free_bits_kl': 0.75, 'loss': 3.0}
    """

    def __init__(
        self,
        beta: float = 4.0,
        default_dist: str = "normal",
        *,
        free_nats: float = 0.25,
        group: str = "dimension",
        schedule: Schedule | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(beta, default_dist, schedule=schedule)
        self.free_nats = check_real("free_nats", free_nats, minimum=0)
        self.group = check_choice("group", group, GROUPS)

    def __call__(self, x: Tensor, p: Tensor | Distribution, q: Normal) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            x: images, shape (batch, channel, ...).
            p: decoder output of the same shape.
            q: posterior, a ``Normal`` with parameters of shape (batch, latent_dim) or (batch, ..., latent_dim).

        Returns:
            scalar tensors under "rec_loss", "kl_loss", "free_bits_kl" and "loss".
        """
        losses = self._terms(x, p, q)
        kl = losses["kl_loss"] if self.free_nats == 0 else free_bits_kl(q, self.free_nats, self.group)
        return {**losses, "free_bits_kl": kl, "loss": self._weighted(losses["rec_loss"], kl)}
