"""DIP-VAE: the covariance of the aggregated posterior is pulled to the identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from .._checks import check_choice, check_real
from ..losses import BetaVAELoss, at_least_float32
from ..schedules import Schedule
from .codes import check_posteriors

KINDS = ("I", "II")
"""Whose covariance counts: that of the posteriors' means, or of the codes."""


def dip_penalty(q: Normal, off_diagonal: float, diagonal: float, kind: str = "II") -> Tensor:
    r"""Return the distance of a covariance from the identity.

    .. math:: \lambda_{od} \sum_{i \neq j} C_{ij}^2 + \lambda_d \sum_i (C_{ii} - 1)^2

    where C is the covariance of the means over the batch (kind "I"), or that of the codes, which adds the mean variance
    of each dimension to the diagonal (kind "II"). From B images it is estimated by a mean over B, with B - 1 degrees of
    freedom for latent_dim (latent_dim + 1) / 2 values: small batches say little.

    Args:
        q: posteriors with parameters of shape (batch, latent_dim).
        off_diagonal: weight of the covariances.
        diagonal: weight of the variances' distance from 1.
        kind: "I" or "II".

    Returns:
        scalar tensor.

    Source:
        Kumar, Sattigeri & Balakrishnan, "Variational Inference of Disentangled Latent Concepts from Unlabeled
        Observations", ICLR 2018.

    Example:
        >>> q = Normal(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.ones(2, 2))  # covariance of the means: all 1
        >>> float(dip_penalty(q, 10.0, 5.0, "I")), float(dip_penalty(q, 10.0, 5.0, "II"))
        (20.0, 30.0)
    """
    check_posteriors(q)
    check_choice("kind", kind, KINDS)
    with torch.autocast(device_type=q.loc.device.type, enabled=False):
        loc, scale = at_least_float32(q.loc), at_least_float32(q.scale)
        centred = loc - loc.mean(dim=0)
        covariance = centred.T @ centred / len(loc)
        if kind == "II":
            covariance = covariance + torch.diag(scale.square().mean(dim=0))
        variances = covariance.diagonal()
        others = covariance.square().sum() - variances.square().sum()
        return off_diagonal * others + diagonal * (variances - 1).square().sum()


class DIPVAELoss(BetaVAELoss):
    """The DIP-VAE loss: the beta-VAE loss plus :func:`dip_penalty`.

    Args:
        beta: weight of the KL divergence, >= 0; 1 in the source.
        default_dist: as in :class:`~monai_betavae.BetaVAELoss`.
        off_diagonal: weight of the covariances.
        diagonal: weight of the variances' distance from 1; ``None`` for the source's, 10 times ``off_diagonal`` for
            kind "I" and ``off_diagonal`` for kind "II".
        kind: "I", the covariance of the posteriors' means, or "II", that of the codes.
        schedule: schedule of ``beta`` and of both weights.

    Raises:
        ValueError: naming the argument, what came and what is accepted.

    Source:
        Kumar, Sattigeri & Balakrishnan, ICLR 2018.

    Example:
        >>> x, q = torch.zeros(2, 1, 2, 2, 2), Normal(torch.zeros(2, 3), torch.ones(2, 3))
        >>> sorted(DIPVAELoss()(x, x, q))
        ['dip_loss', 'kl_loss', 'loss', 'rec_loss']
    """

    of_the_batch = True
    scheduled = ("beta", "off_diagonal", "diagonal")

    def __init__(
        self,
        beta: float = 1.0,
        default_dist: str = "normal",
        *,
        off_diagonal: float = 10.0,
        diagonal: float | None = None,
        kind: str = "II",
        schedule: Schedule | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(beta, default_dist, schedule=schedule)
        self.kind = check_choice("kind", kind, KINDS)
        self.off_diagonal = check_real("off_diagonal", off_diagonal, minimum=0)
        if diagonal is None:
            diagonal = self.off_diagonal * (10 if kind == "I" else 1)
        self.diagonal = check_real("diagonal", diagonal, minimum=0)

    def __call__(
        self,
        x: Tensor,
        p: Tensor | Distribution,
        q: Normal,
        *,
        gathered: tuple[Normal, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            x: images, shape (batch, channel, ...).
            p: decoder output of the same shape.
            q: posterior, a ``Normal`` with parameters of shape (batch, latent_dim).
            gathered: posteriors and codes of the whole batch, if ``x``, ``p`` and ``q`` are this process's share of it:
                see :func:`~monai_betavae.batches.gathered_rows.gather_posteriors`; ``None`` for ``q``.

        Returns:
            scalar tensors under "rec_loss", "kl_loss", "dip_loss" and "loss".
        """
        losses = self._terms(x, p, q)
        everyone = q if gathered is None else gathered[0]
        penalty = dip_penalty(everyone, self.off_diagonal, self.diagonal, self.kind)
        loss = self._weighted(losses["rec_loss"], losses["kl_loss"])
        return {**losses, "dip_loss": penalty, "loss": loss + penalty}
