"""Feedback through a deforming template: its constants, and the curvature of the squared error by the code.

The curvature is measured at the warm start, and again while the template changes: every :data:`RENEWAL_STEPS` steps and
at the end of each epoch. A correction with the gain of the start gains only part of what it could
(docs/decisions/0028-a-gain-that-follows-training.md). :class:`~monai_betavae.VAE` does this in any Trainer; a loop of
your own calls :func:`renew_gain`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .template import DeformableTemplate

RENEWAL_STEPS = 50
"""Number of training steps after which the curvature is measured anew, which takes about as long as three steps."""

CURVATURE_PAIRS, CURVATURE_SHIFT, CURVATURE_CHUNK = 2, 0.1, 4
"""Number of pairs of opposite codes at which curvatures are measured, the distance of codes whose images are compared,
and the number of images made at once."""


class CodeCorrection(nn.Module):
    """The constants of a decoder's feedback: gain and likelihood variance, which a warm start sets.

    Attributes:
        gain: buffer of shape (latent_dim, latent_dim), the inverse of the mean curvature; zero until it is measured.
        variance: buffer without axes, the likelihood's variance s^2.

    Args:
        latent_dim: number of latent dimensions.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.gain: Tensor
        self.variance: Tensor
        self.register_buffer("gain", torch.zeros(latent_dim, latent_dim))
        self.register_buffer("variance", torch.ones(()))
        # share of a step at which the image's change is measured, and the largest multiple of a step that is gone
        self.probe, self.longest = 0.5, 1.5

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # weights from before the correction load too: without a gain the codes stay as they are
        state_dict.setdefault(prefix + "gain", torch.zeros_like(self.gain))
        state_dict.setdefault(prefix + "variance", torch.ones_like(self.variance))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, z: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Return the step from codes and the slope along it, of -E / 2, from the slope of the squared error's half."""
        slope = slope - self.variance * z
        return slope @ self.gain, slope

    def line_length(self, change: Tensor, step: Tensor, slope: Tensor, stride: int) -> Tensor:
        """Return the multiple of each step, shape (batch, 1).

        Args:
            change: what ``probe`` of the step changes in the values of one in ``stride`` voxels, (batch, ...).
            step: the step, shape (batch, latent_dim).
            slope: the slope along it.
            stride: as in the template.
        """
        curvature = stride * (change / self.probe).flatten(1).square().sum(dim=1)
        curvature = curvature + self.variance * step.square().sum(dim=1)
        length = (slope * step).sum(dim=1) / curvature.clamp_min(1e-12)
        return length.clamp(0.0, self.longest)[:, None]

    def set_curvature(self, curvature: Tensor) -> None:
        """Set the gain, (curvature + s^2)^-1, from the mean of J J^T, shape (latent_dim, latent_dim)."""
        total = curvature + float(self.variance) * torch.eye(len(curvature), dtype=curvature.dtype)
        self.gain.copy_(torch.linalg.inv(total))


def mean_curvature(template: DeformableTemplate, mean: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean of J W^2 J^T over codes of the prior, with the slopes J of the images by finite differences.

    Codes and differences are always the same, so that the result depends on the weights alone.

    Args:
        template: a template whose components are set.
        mean: mean image, shape (channel, ...).
        weight: factor W of each voxel, shape (channel, ...); ``None`` stands for 1.

    Returns:
        shape (latent_dim, latent_dim), float64, on the CPU, in squared units of the images.
    """
    latent_dim = template.latent_dim
    half = torch.randn(CURVATURE_PAIRS, latent_dim, generator=torch.Generator().manual_seed(0))
    codes = torch.cat([half, -half])  # what changes linearly with the code cancels
    shifts = CURVATURE_SHIFT * torch.eye(latent_dim).to(mean)
    total = torch.zeros(latent_dim, latent_dim, dtype=torch.float64)
    with torch.no_grad():
        for code in codes.to(mean):
            image = template.varying_values(code[None], mean, weight).flatten(1)
            slopes = torch.cat(
                [
                    template.varying_values(code + part, mean, weight).flatten(1) - image
                    for part in shifts.split(CURVATURE_CHUNK)
                ]
            )
            slopes = slopes / CURVATURE_SHIFT
            total += template.stride * (slopes @ slopes.T).cpu().double() / len(codes)
    return total


def renew_gain(model: Any) -> bool:
    """Measure the curvature of a model's template anew, for the correction of codes.

    Args:
        model: estimator or network with a ``decoder``.

    Returns:
        whether there is a gain and it was measured: a decoder without a deforming template has none, and neither has
        one that no warm start has set or whose weights are from before the correction. Weights that aren't finite leave
        the gain as it is.

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
    decoder = getattr(model, "decoder", None)
    correction, template = getattr(decoder, "correction", None), getattr(decoder, "template", None)
    if not isinstance(correction, CodeCorrection) or not isinstance(template, DeformableTemplate):
        return False
    if template.voxels.numel() == 0 or not bool(correction.gain.any()):
        return False
    noise: Any = getattr(decoder, "noise", None)
    weight = noise.weight() if noise is not None and noise.by_voxel else None
    mean: Tensor = decoder.output_mean  # type: ignore[union-attr]  # a decoder that has both is a Decoder
    curvature = mean_curvature(template, mean, weight)
    if not bool(curvature.isfinite().all()):
        return False
    correction.set_curvature(curvature)
    return True
