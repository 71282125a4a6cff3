"""InfoVAE: the maximum mean discrepancy between the aggregated posterior and the prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from .._checks import check_real
from ..losses import BetaVAELoss, at_least_float32, weighted_sum
from ..schedules import Schedule
from .codes import check_posteriors


def mmd(q: Normal, bandwidth: float | None = None) -> Tensor:
    r"""Return the squared maximum mean discrepancy between the aggregated posterior and the standard normal prior.

    .. math::
        \frac{1}{B (B - 1)} \sum_{i \neq j} E\, k(z_i, z_j) - \frac2B \sum_i E\, k(z_i, y) + E\, k(y, y'), \quad
        k(a, b) = \exp\left(-\frac{|a - b|^2}{2 h^2}\right)

    with codes z_i from the posteriors and y from the prior. All expectations are in closed form, since both are normal:
    nothing is drawn, and the estimate is unbiased over batches. It may therefore be negative.

    Args:
        q: posteriors with parameters of shape (batch, latent_dim).
        bandwidth: width h of the kernel; ``None`` for the square root of latent_dim.

    Returns:
        scalar tensor; for a batch of one image, without the first term's pairs, 0.

    Raises:
        ValueError: for other shapes.

    Source:
        Gretton et al., "A Kernel Two-Sample Test", JMLR 13, 2012; Zhao, Song & Ermon, "InfoVAE", AAAI 2019.

    Example:
        >>> prior = Normal(torch.zeros(8, 2), torch.ones(8, 2))
        >>> abs(float(mmd(prior))) < 1e-6, float(mmd(Normal(prior.loc + 3, prior.scale))) > 0.5
        (True, True)
    """
    check_posteriors(q)
    with torch.autocast(device_type=q.loc.device.type, enabled=False):
        loc, variance = at_least_float32(q.loc), at_least_float32(q.scale).square()
        n_batch, latent_dim = loc.shape
        if n_batch == 1:
            return loc.new_zeros(()) * (loc.sum() + variance.sum())
        width = float(latent_dim) if bandwidth is None else bandwidth**2
        # the expectation over a normal difference of variance v is that of a wider, lower kernel
        spread = width + variance[:, None] + variance[None]
        logs = -(loc[:, None] - loc[None]).square() / spread + (width / spread).log()
        pairs = (0.5 * logs.sum(dim=2)).exp()
        among = (pairs.sum() - pairs.diagonal().sum()) / (n_batch * (n_batch - 1))
        spread = width + variance + 1
        across = (0.5 * (-loc.square() / spread + (width / spread).log()).sum(dim=1)).exp().mean()
        prior = (width / (width + 2)) ** (latent_dim / 2)
        discrepancy: Tensor = among - 2 * across + prior
        return discrepancy


class InfoVAELoss(BetaVAELoss):
    r"""The InfoVAE loss: KL divergence and maximum mean discrepancy, each with a weight of its own.

    .. math:: L = L_\text{rec} + \beta \left((1 - \alpha) D_{KL} + (\alpha + \lambda - 1) \, MMD(q(z), p(z))\right)

    ``alpha=1`` gives the MMD-VAE; ``alpha=0, weight=1`` gives the beta-VAE loss, exactly.

    Args:
        beta: weight of both, >= 0.
        default_dist: as in :class:`~monai_betavae.BetaVAELoss`.
        alpha: how much of the KL divergence is left out, in [0, 1].
        weight: weight lambda of the aggregated posterior's divergence, at least 1 - alpha.
        bandwidth: width of the kernel, see :func:`mmd`.
        schedule: schedule of ``beta``.

    Raises:
        ValueError: naming the argument, what came and what is accepted.

    Source:
        Zhao, Song & Ermon, "InfoVAE: Balancing Learning and Inference in Variational Autoencoders", AAAI 2019.

    Example:
        >>> x, q = torch.zeros(2, 1, 2, 2, 2), Normal(torch.zeros(2, 3), torch.ones(2, 3))
        >>> sorted(InfoVAELoss()(x, x, q))
        ['kl_loss', 'loss', 'mmd', 'rec_loss']
    """

    of_the_batch = True

    def __init__(
        self,
        beta: float = 1.0,
        default_dist: str = "normal",
        *,
        alpha: float = 0.0,
        weight: float = 1000.0,
        bandwidth: float | None = None,
        schedule: Schedule | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(beta, default_dist, schedule=schedule)
        self.alpha = check_real("alpha", alpha, minimum=0, maximum=1)
        self.weight = check_real("weight", weight, minimum=1 - self.alpha)
        self.bandwidth = None if bandwidth is None else check_real("bandwidth", bandwidth, minimum=0)
        if self.bandwidth == 0:
            raise ValueError(f"`bandwidth` must be larger than 0, got {bandwidth!r}.")

    @property
    def kl_weight(self) -> float:
        """Weight of the KL divergence."""
        return self.beta * (1 - self.alpha)

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
            scalar tensors under "rec_loss", "kl_loss", "mmd" and "loss".
        """
        losses = self._terms(x, p, q)
        discrepancy = mmd(q if gathered is None else gathered[0], self.bandwidth)
        of_both = self.beta * (self.alpha + self.weight - 1)
        loss = weighted_sum(losses["rec_loss"], (self.kl_weight, losses["kl_loss"]), (of_both, discrepancy))
        return {**losses, "mmd": discrepancy, "loss": loss}
