"""Total correlation of the aggregated posterior, estimated from batches, and the beta-TCVAE loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from .._checks import check_choice, check_integer, check_real
from ..losses import BetaVAELoss, at_least_float32, weighted_sum
from ..schedules import Schedule
from .codes import check_codes_of

ESTIMATORS = ("stratified", "weighted")
"""Names of the estimators of the aggregated posterior's density."""


def log_weights(n_batch: int, n_images: int, estimator: str, like: Tensor) -> Tensor:
    """Return the logarithm of each posterior's weight in the aggregated density at each code.

    Args:
        n_batch: number B of images in the batch.
        n_images: number N of images in the dataset, at least B.
        estimator: "weighted", where each posterior of the batch has the weight 1 / (N B); or "stratified", where a
            code's own posterior has 1 / N, one other (N - M) / (N M) with M = B - 1, and the others 1 / M, which is
            unbiased for the density and has weights that sum to 1.
        like: tensor of the wanted type and device.

    Returns:
        shape (B, B): code by posterior.
    """
    if estimator == "weighted":
        return like.new_full((n_batch, n_batch), -math.log(n_images * n_batch))
    if n_batch == 1:
        return like.new_zeros(1, 1)
    others = n_batch - 1
    weights = like.new_full((n_batch, n_batch), 1 / others)
    rows = torch.arange(n_batch, device=like.device)
    weights[rows, rows] = 1 / n_images
    weights[rows, (rows + 1) % n_batch] = (n_images - others) / (n_images * others)
    return weights.log()


def decomposed_kl(z: Tensor, q: Normal, n_images: int, estimator: str = "stratified") -> tuple[Tensor, Tensor, Tensor]:
    r"""Estimate the three parts of the KL divergence: mutual information, total correlation, dimension-wise KL.

    .. math::
        \overline{D_{KL}(q(z|x) \,\|\, p(z))} = \underbrace{I_q(x; z)}_{E \log q(z|x) / q(z)}
        + \underbrace{D_{KL}(q(z) \,\|\, \textstyle\prod_k q(z_k))}_{E \log q(z) / \prod_k q(z_k)}
        + \underbrace{\textstyle\sum_k D_{KL}(q(z_k) \,\|\, p(z_k))}_{E \log \prod_k q(z_k) / p(z)}

    with the aggregated posterior q(z), the mean of the posteriors of all N images. Its density is estimated from the
    posteriors of the batch. Both estimators are biased for its logarithm, and the more so, the smaller the batch and
    the more latents there are: see docs/concepts/objectives.md for how large.

    Args:
        z: codes drawn from the posteriors, shape (batch, latent_dim).
        q: posteriors with parameters of that shape.
        n_images: number of images in the dataset that the batch is drawn from.
        estimator: "stratified" or "weighted" sampling; see :func:`log_weights`.

    Returns:
        three scalar tensors, in nats: mutual information, total correlation, dimension-wise KL divergence.

    Raises:
        ValueError: for other shapes, or ``n_images`` below the size of the batch.

    Source:
        Chen et al., "Isolating Sources of Disentanglement in VAEs", NeurIPS 2018.

    Example:
        >>> q = Normal(torch.zeros(4, 2), torch.ones(4, 2))  # all posteriors are the prior
        >>> [abs(round(float(part), 5)) for part in decomposed_kl(torch.randn(4, 2), q, n_images=100)]
        [0.0, 0.0, 0.0]
    """
    check_codes_of(z, q)
    check_choice("estimator", estimator, ESTIMATORS)
    n_batch = len(z)
    if n_images < n_batch:
        raise ValueError(f"`n_images` must be at least the {n_batch} images of the batch, got {n_images}.")
    with torch.autocast(device_type=z.device.type, enabled=False):
        z, loc, scale = at_least_float32(z), at_least_float32(q.loc), at_least_float32(q.scale)
        pairs = Normal(loc[None], scale[None], validate_args=False).log_prob(z[:, None])  # code, posterior, latent
        weights = log_weights(n_batch, n_images, estimator, pairs)
        by_own = pairs.diagonal().sum(dim=0)
        joint = torch.logsumexp(pairs.sum(dim=2) + weights, dim=1)
        product = torch.logsumexp(pairs + weights[:, :, None], dim=1).sum(dim=1)
        prior = Normal(z.new_zeros(()), z.new_ones(()), validate_args=False).log_prob(z).sum(dim=1)
        return (by_own - joint).mean(), (joint - product).mean(), (product - prior).mean()


class BetaTCVAELoss(BetaVAELoss):
    r"""The beta-TCVAE loss: the total correlation of the aggregated posterior has a weight of its own.

    .. math::
        L = L_\text{rec} + \alpha \, I_q(x; z) + \beta \, TC(z) + \gamma \, \textstyle\sum_k D_{KL}(q(z_k) \| p(z_k))

    computed as :math:`L_\text{rec} + \gamma D_{KL} + (\alpha - \gamma) I_q + (\beta - \gamma) TC`, which has the same
    expectation, since the three parts sum to the KL divergence, whose closed form has no sampling noise. With
    alpha = beta = gamma = 1 it is the beta-VAE loss with beta 1, exactly.

    Args:
        beta: weight of the total correlation, >= 0.
        default_dist: as in :class:`~monai_betavae.BetaVAELoss`.
        alpha: weight of the mutual information, >= 0.
        gamma: weight of the dimension-wise KL divergence, >= 0.
        estimator: "stratified" or "weighted", see :func:`decomposed_kl`.
        n_images: number of training images; ``None`` for what the estimator's training loader holds.
        schedule: schedule of the three weights.

    Raises:
        ValueError: naming the argument, what came and what is accepted.

    Source:
        Chen et al., "Isolating Sources of Disentanglement in VAEs", NeurIPS 2018.

    Example:
        >>> loss = BetaTCVAELoss(beta=6.0, n_images=100)
        >>> x, q = torch.zeros(4, 1, 2, 2, 2), Normal(torch.zeros(4, 3), torch.ones(4, 3))
        >>> sorted(loss(x, x, q, torch.randn(4, 3)))
        ['dimension_kl', 'kl_loss', 'loss', 'mutual_information', 'rec_loss', 'total_correlation']
    """

    takes_codes = True
    of_the_batch = True
    scheduled = ("alpha", "beta", "gamma")

    def __init__(
        self,
        beta: float = 6.0,
        default_dist: str = "normal",
        *,
        alpha: float = 1.0,
        gamma: float = 1.0,
        estimator: str = "stratified",
        n_images: int | None = None,
        schedule: Schedule | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(beta, default_dist, schedule=schedule)
        self.alpha = check_real("alpha", alpha, minimum=0)
        self.gamma = check_real("gamma", gamma, minimum=0)
        self.estimator = check_choice("estimator", estimator, ESTIMATORS)
        self.n_images = None if n_images is None else check_integer("n_images", n_images, minimum=1)

    @property
    def kl_weight(self) -> float:
        """Weight of the KL divergence in closed form."""
        return self.gamma

    def __call__(
        self,
        x: Tensor,
        p: Tensor | Distribution,
        q: Normal,
        z: Tensor | None = None,
        n_images: int | None = None,
        *,
        gathered: tuple[Normal, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            x: images, shape (batch, channel, ...).
            p: decoder output of the same shape.
            q: posterior, a ``Normal`` with parameters of shape (batch, latent_dim).
            z: the codes that were decoded, shape (batch, latent_dim); ``None`` to draw others.
            n_images: number of images in the dataset, unless the loss has got it.
            gathered: posteriors and codes of the whole batch, if ``x``, ``p`` and ``q`` are this process's share of it:
                see :func:`~monai_betavae.batches.gathered_rows.gather_posteriors`; ``None`` for ``q`` and ``z``.

        Returns:
            scalar tensors under "rec_loss", "kl_loss", "mutual_information", "total_correlation", "dimension_kl" and
            "loss".

        Raises:
            ValueError: as in :func:`decomposed_kl`, or if nothing says the number of images.
        """
        losses = self._terms(x, p, q)
        n_images = self.n_images or n_images
        if n_images is None:
            raise ValueError("`n_images` must be given, the number of training images: the loader has no length.")
        everyone, codes = (q, q.rsample() if z is None else z) if gathered is None else gathered
        information, correlation, by_dimension = decomposed_kl(codes, everyone, n_images, self.estimator)
        loss = weighted_sum(
            losses["rec_loss"],
            (self.gamma, losses["kl_loss"]),
            (self.alpha - self.gamma, information),
            (self.beta - self.gamma, correlation),
        )
        named = {"mutual_information": information, "total_correlation": correlation, "dimension_kl": by_dimension}
        return {**losses, **named, "loss": loss}
