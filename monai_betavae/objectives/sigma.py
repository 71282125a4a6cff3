"""sigma-VAE: the likelihood's scale is learned with the model, so that nobody has to choose beta."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Laplace, Normal

from .._checks import check_choice, check_real
from ..losses import BetaVAELoss
from ..schedules import Schedule

LEAST_SCALE = 1e-3
"""Scale that a perfect reconstruction has, in units of the images: the likelihood stays finite."""


def optimal_scale_nll(rec_loss: Tensor, n_values: int, distribution: str = "normal") -> tuple[Tensor, Tensor]:
    r"""Return the negative log-likelihood of images under the scale that suits them best, and this scale.

    .. math::
        \text{normal: } \sigma^2 = \frac{SSE}{N}, \; \frac{N}{2} (\log 2 \pi \sigma^2 + 1), \quad
        \text{laplace: } b = \frac{SAE}{N}, \; N (\log 2 b + 1)

    where N is the number of values of an image.

    Args:
        rec_loss: summed squared or absolute error per image, averaged over the batch.
        n_values: number N of values of an image, voxels times channels.
        distribution: "normal" or "laplace".

    Returns:
        negative log-likelihood per image in nats, and the scale.

    Source:
        Rybkin, Daniilidis & Levine, "Simple and Effective VAE Training with Calibrated Decoders", ICML 2021.

    Example:
        >>> nll, scale = optimal_scale_nll(torch.tensor(4.0), 100)
        >>> round(float(scale), 3), round(float(nll), 3)
        (0.2, -19.05)
    """
    mean_error = rec_loss / n_values
    if distribution == "laplace":
        scale = mean_error.clamp_min(LEAST_SCALE)
        return n_values * ((2 * scale).log() + mean_error / scale), scale
    variance = mean_error.clamp_min(LEAST_SCALE**2)
    return n_values / 2 * ((2 * math.pi * variance).log() + mean_error / variance), variance.sqrt()


class SigmaVAELoss(BetaVAELoss):
    """The sigma-VAE loss: the negative log-likelihood under the best scale of the batch, plus beta times the KL.

    With beta 1 it is the exact negative ELBO of a model whose likelihood has one scale, which follows the
    reconstruction's error. "rec_loss" remains the summed error.

    Args:
        beta: weight of the KL divergence, >= 0; 1 gives the ELBO.
        default_dist: "normal" or "laplace".
        start_scale: scale that the warm start and a template's correction of codes assume, in units of the images: the
            learned one isn't known then, and a correction whose assumptions changed with every batch could not be
            resumed.
        schedule: schedule of ``beta``.

    Raises:
        ValueError: naming the argument, what came and what is accepted.

    Source:
        Rybkin, Daniilidis & Levine, ICML 2021.

    Example:
        >>> x, q = torch.zeros(2, 1, 2, 2, 2), Normal(torch.zeros(2, 3), torch.ones(2, 3))
        >>> {name: round(float(value), 2) for name, value in SigmaVAELoss()(x, x + 0.5, q).items()}
        {'rec_loss': 2.0, 'kl_loss': 0.0, 'nll': 5.81, 'scale': 0.5, 'loss': 5.81}
    """

    def __init__(
        self,
        beta: float = 1.0,
        default_dist: str = "normal",
        *,
        start_scale: float = 0.1,
        schedule: Schedule | Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("default_dist", default_dist, ("normal", "laplace"))
        super().__init__(beta, default_dist, schedule=schedule)
        self.start_scale = check_real("start_scale", start_scale, minimum=0)
        if self.start_scale == 0:
            raise ValueError(f"`start_scale` must be larger than 0, got {start_scale!r}.")

    @property
    def kl_weight(self) -> float:
        """Weight of the KL divergence beside a summed error, at the scale of the start."""
        return self.beta * (self.start_scale if self.default_dist == "laplace" else 2 * self.start_scale**2)

    def __call__(self, x: Tensor, p: Tensor | Distribution, q: Normal) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            x: images, shape (batch, channel, ...).
            p: decoder output of the same shape.
            q: posterior, a ``Normal`` with parameters of shape (batch, latent_dim) or (batch, ..., latent_dim).

        Returns:
            scalar tensors under "rec_loss", "kl_loss", "nll", "scale" and "loss".
        """
        p = self._parse_distribution(p)
        if not isinstance(p, Normal | Laplace):
            raise ValueError(f"`p` must be a Normal or a Laplace, which have a scale, got {type(p).__name__}.")
        losses = self._terms(x, p, q)
        with torch.autocast(device_type=x.device.type, enabled=False):
            distribution = "laplace" if isinstance(p, Laplace) else "normal"
            nll, scale = optimal_scale_nll(losses["rec_loss"], x[0].numel(), distribution)
        return {**losses, "nll": nll, "scale": scale.detach(), "loss": self._weighted(nll, losses["kl_loss"])}
