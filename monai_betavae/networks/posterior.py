"""The approximate posterior q(z|x) = N(mu, exp(logvar)), in float32 whatever precision the encoder ran in."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal

LOGVAR_RANGE = (-30.0, 20.0)
"""Bounds of the log-variance, those of MONAI's AutoencoderKL: exp(12) is already infinite in float16."""


def posterior_parameters(features: Tensor, fc_mu: nn.Linear, fc_logvar: nn.Linear) -> tuple[Tensor, Tensor]:
    """Map encoder features to the mean and the bounded log-variance of the posterior.

    Under autocast a linear layer would run, and leave its result, in half precision, and a KL divergence
    computed from that is off in its second digit. Here autocast is switched off.

    Args:
        features: shape (batch, encoder_out_dim).
        fc_mu: linear layer to the mean.
        fc_logvar: linear layer to the log-variance.

    Returns:
        mu and logvar, each of shape (batch, latent_dim), float32 (float64 for a float64 model).
    """
    with torch.autocast(device_type=features.device.type, enabled=False):
        features = features.to(fc_mu.weight.dtype)
        return bounded(fc_mu(features), fc_logvar(features))


def bounded(
    mu: Tensor, logvar: Tensor, low: float = LOGVAR_RANGE[0], high: float = LOGVAR_RANGE[1]
) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance in at least float32, the latter within bounds.

    Apart from :func:`posterior_parameters` so that TorchScript, which can't pass modules to functions, compiles it.
    """
    if mu.dtype in (torch.float16, torch.bfloat16):
        mu, logvar = mu.float(), logvar.float()
    return mu, logvar.clamp(low, high)


def posterior_distribution(mu: Tensor, logvar: Tensor) -> Normal:
    """Return q(z|x) as a ``Normal`` of scale exp(logvar / 2).

    Arguments aren't validated: that would make the GPU wait for the CPU at every step.
    """
    return Normal(mu, torch.exp(0.5 * logvar), validate_args=False)
