"""Feedback through a deforming template: the steps that correct an encoder's codes, and the curvature that they need.

The curvature of the squared error by the code is measured at the warm start, and again while the template changes:
every :data:`RENEWAL_BATCHES` batches, before each validation and at the end of each epoch. With the gain of the start,
a correction would lower the error by only part of what it can (docs/decisions/0028-a-gain-that-follows-training.md).
:class:`~monai_betavae.VAE` measures in the hooks of any Trainer; a class derived from it that has such hooks calls
``super()``. A loop of your own, and a LightningModule of your own, call :func:`renew_gain`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .template import DeformableTemplate

RENEWAL_BATCHES = 50
"""Number of training batches after which the curvature is measured anew; that takes as long as a few steps."""

CURVATURE_PAIRS = 2
"""Number of pairs of opposite codes at which curvatures are measured."""

CURVATURE_SHIFT = 0.1
"""Distance of the codes whose images are compared for a slope."""

THINNED = 2
"""Voxels that the curvature is measured at, as in the template: it is the same for all and for an eighth of them."""

CURVATURE_CHUNK = 4
"""Number of images made at once."""


class CodeCorrection(nn.Module):
    r"""A step from a code towards the mode of its posterior: its gain, and the likelihood's variance.

    .. math:: g = J^T (x - \hat x(z)) - s^2 z, \quad \Delta = A g, \quad A = (\overline{J^T J} + s^2 I)^{-1}

    with the slopes :math:`J = \partial \hat x / \partial z` and the mean of their products over codes of the prior.

    Attributes:
        gain: buffer A of shape (latent_dim, latent_dim), zero until it is measured, at a warm start and again in
            training.
        variance: buffer without axes, the likelihood's variance s^2, which a warm start sets.

    Args:
        latent_dim: number of latent dimensions.

    Source:
        Matthews & Baker, "Active Appearance Models Revisited", IJCV 60, 2004.

    Example:
        >>> correction = CodeCorrection(2)
        >>> correction.set_curvature(torch.diag(torch.tensor([3.0, 1.0])))  # the variance is 1
        True
        >>> correction.gain.diagonal()
        tensor([0.2500, 0.5000])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.gain: Tensor
        self.variance: Tensor
        self.register_buffer("gain", torch.zeros(latent_dim, latent_dim))
        self.register_buffer("variance", torch.ones(()))
        # share of a step at which the image's change is measured, and the largest multiple of a step that is taken
        self.probe, self.longest = 0.5, 1.5

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # weights from before the correction load too: without a gain the codes stay as they are
        state_dict.setdefault(prefix + "gain", torch.zeros_like(self.gain))
        state_dict.setdefault(prefix + "variance", torch.ones_like(self.variance))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def set_curvature(self, curvature: Tensor) -> bool:
        """Set the gain from a curvature.

        Args:
            curvature: mean of J^T J, shape (latent_dim, latent_dim), float64, on the CPU.

        Returns:
            whether it was set: a curvature that isn't finite, or plus s^2 isn't positive definite, leaves the gain as
            it is.
        """
        total = curvature + float(self.variance) * torch.eye(len(curvature), dtype=curvature.dtype)
        factor, info = torch.linalg.cholesky_ex(total)
        if int(info) != 0:
            return False
        gain = torch.cholesky_inverse(factor).to(self.gain.dtype)
        if not bool(gain.isfinite().all()) or not bool(gain.any()):
            return False
        self.gain.copy_(gain)
        return True

    def forward(self, z: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Return the step A g and the slope g.

        Args:
            z: codes less the mean of their prior, shape (batch, latent_dim).
            slope: J^T (x - x_hat(z)), shape (batch, latent_dim).
        """
        slope = slope - self.variance * z
        return slope @ self.gain, slope

    def line_length(self, change: Tensor, step: Tensor, slope: Tensor) -> Tensor:
        """Return the multiple of each step, shape (batch, 1).

        Args:
            change: what ``probe`` of the step changes in the values, (batch, ...).
            step: the step, shape (batch, latent_dim).
            slope: the slope along it.
        """
        curvature = (change / self.probe).flatten(1).square().sum(dim=1)
        curvature = curvature + self.variance * step.square().sum(dim=1)
        length = (slope * step).sum(dim=1) / curvature.clamp_min(1e-12)
        return length.clamp(0.0, self.longest)[:, None]


def mean_curvature(template: DeformableTemplate, mean: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Return the mean curvature of half the squared error by the code.

    .. math:: \frac1n \sum_{i=1}^n J(z_i)^T W^2 J(z_i), \quad J = \partial \hat x / \partial z

    over opposite pairs of codes of the prior, with slopes by finite differences, from few
    voxels. Codes and differences are always the same: the result depends on the weights alone.

    Args:
        template: a template whose components are set.
        mean: mean image, shape (channel, ...).
        weight: factor W of each voxel, shape (channel, ...); ``None`` stands for 1.

    Returns:
        shape (latent_dim, latent_dim), float64, on the CPU, in squared units of the images.
    """
    latent_dim = template.latent_dim
    seeded = torch.Generator().manual_seed(0)
    half = torch.randn(CURVATURE_PAIRS, latent_dim, generator=seeded, dtype=torch.float32)
    codes = torch.cat([half, -half]).to(mean)  # what changes linearly with the code cancels
    shifts = (CURVATURE_SHIFT * torch.eye(latent_dim)).to(mean)
    weight = None if weight is None else weight.to(mean)
    total = torch.zeros(latent_dim, latent_dim, dtype=torch.float64)
    # as the correction itself, at full precision also in a loop under autocast
    with torch.no_grad(), torch.autocast(device_type=mean.device.type, enabled=False):
        for code in codes:
            image = template.varying_values(code[None], mean, weight, THINNED).flatten(1)
            shifted = [
                template.varying_values(code + part, mean, weight, THINNED).flatten(1)
                for part in shifts.split(CURVATURE_CHUNK)
            ]
            slopes = (torch.cat(shifted) - image) / CURVATURE_SHIFT
            total += (slopes @ slopes.T).cpu().double() / len(codes)
    return total


def set_variance(model: Any, variance: float) -> None:
    """Set the likelihood's variance of a model's correction, where it has one; the gain follows when it is renewed."""
    correction = getattr(getattr(model, "decoder", None), "correction", None)
    if isinstance(correction, CodeCorrection):
        correction.variance.fill_(variance)


def renew_gain(model: Any) -> bool:
    """Measure the curvature of a model's template anew, and set the gain of its correction; see :func:`mean_curvature`.

    Args:
        model: estimator or network with a ``decoder``.

    Returns:
        whether there is a gain and it was measured: a decoder without a deforming template has none, and neither has
        one that no warm start has set or whose weights are from before the correction. Weights that diverge leave the
        gain as it is.

    Example:
        >>> from monai_betavae import build_vae
        >>> from monai_betavae.networks.correction import renew_gain
        >>> from monai_betavae.networks.warm_start import warm_start
        >>> vae = build_vae((8, 10, 8), 2, channels=(4, 8), random_state=0)
        >>> renew_gain(vae)
        False
        >>> started = warm_start(vae, [torch.rand(12, 1, 8, 10, 8)])
        >>> renew_gain(vae)
        True
    """
    decoder: Any = getattr(model, "decoder", None)
    correction, template = getattr(decoder, "correction", None), getattr(decoder, "template", None)
    if not isinstance(correction, CodeCorrection) or not isinstance(template, DeformableTemplate):
        return False
    if template.voxels.numel() == 0 or not bool(correction.gain.any()):
        return False
    noise = decoder.noise
    weight = noise.weight() if noise is not None and noise.by_voxel else None
    return correction.set_curvature(mean_curvature(template, decoder.output_mean, weight))
