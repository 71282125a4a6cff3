"""The approximate posterior q(z|x) = N(mu, exp(logvar)), in float32 at any precision of the encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

LOGVAR_RANGE = (-30.0, 20.0)
"""Bounds of the log-variance, those of MONAI's AutoencoderKL: exp(12) is already infinite in float16."""


EXPORTING: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
"""Whether torch.export is tracing; before torch 2.7 it could only be told that something is."""


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


class LossScale:
    """What the gradient of a loss is multiplied by: a weight, a part of an accumulated batch, a scaler's factor.

    The gradient by which an encoder learns corrected codes isn't that of the loss, and has to be multiplied alike. The
    scale is known when the loss is differentiated: before anything that leads to it.

    Example:
        >>> scale, x = LossScale(), torch.ones((), requires_grad=True)
        >>> (0.25 * scale.of(3 * x)).backward()
        >>> float(scale.value), float(x.grad)
        (0.25, 0.75)
    """

    def __init__(self) -> None:
        self.value: float | Tensor = 1.0

    def of(self, loss: Tensor) -> Tensor:
        """Return the loss unchanged, as what tells the scale."""
        told: Tensor = _Told.apply(loss, self)
        return told


class _Told(torch.autograd.Function):
    """The identity; backward, note the gradient that arrives."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, scale: LossScale) -> Tensor:
        ctx.scale = scale
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.scale.value = gradient.detach()
        return gradient, None


def corrected_means(
    decoder: Any, images: Tensor, mu: Tensor, scale: LossScale | None = None, prior: Tensor | None = None
) -> Tensor:
    """Return posterior means after the feedback of a decoder that gives any, and other means unchanged.

    A decoder with a method ``corrected_codes(images, codes)``, such as
    :class:`~monai_betavae.networks.modules.Decoder`, returns codes that explain the images better than the encoder's.
    No gradient passes through the correction. The encoder learns to need less of it instead: as its gradient it gets
    that of half the squared distance between its means and the corrected ones, averaged over the batch.

    Args:
        decoder: any decoder.
        images: shape (batch, channel, ...).
        mu: the encoder's means, shape (batch, latent_dim).
        scale: of the loss that the means go into, by which the encoder's gradient is multiplied; ``None`` for 1.
        prior: mean of the prior of a conditional model, of the shape of ``mu``; ``None`` for zero.
    """
    correct = getattr(decoder, "corrected_codes", None)
    if correct is None or mu.ndim != 2:
        return mu
    given = () if prior is None else (prior.detach(),)
    if EXPORTING():
        # torch.export traces neither contexts within contexts nor gradients, and needs none of them
        exported: Tensor = correct(images.to(mu.dtype), mu, *given)
        return exported
    with torch.no_grad(), torch.autocast(device_type=mu.device.type, enabled=False):
        start = mu.detach()
        corrected = correct(images.detach().to(mu.dtype), start, *given)
    if corrected is start:
        return mu
    means: Tensor = _Distilled.apply(mu, corrected, scale)
    return means


class _Distilled(torch.autograd.Function):
    """The corrected means; backward, the gradient of half their squared distance from the encoder's."""

    @staticmethod
    def forward(ctx: Any, mu: Tensor, corrected: Tensor, scale: LossScale | None) -> Tensor:
        ctx.save_for_backward(mu, corrected)
        ctx.scale = scale
        return corrected.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        mu, corrected = ctx.saved_tensors
        scale = 1.0 if ctx.scale is None else ctx.scale.value
        return scale * (mu - corrected) / len(mu), None, None


def posterior_distribution(mu: Tensor, logvar: Tensor, prior: Tensor | None = None) -> Normal:
    """Return q(z|x) as a ``Normal`` of scale exp(logvar / 2), of codes less the mean of a conditional prior.

    Arguments aren't validated: that would make the GPU wait for the CPU at every step.
    """
    return Normal(mu if prior is None else mu - prior, torch.exp(0.5 * logvar), validate_args=False)


def call_network(name: str, network: nn.Module, what: str, given: Tensor, covariates: Tensor | None = None) -> Any:
    """Run a network; where it stops at a shape or a type, name the network beside torch's message.

    Args:
        name: the argument's name, "encoder" or "decoder".
        network: the network.
        what: what it is given, "images" or "codes".
        given: the tensor.
        covariates: coded covariates of a conditional decoder; ``None`` to give none.

    Raises:
        ValueError: naming the network and the shape that it was given.
    """
    try:
        return network(given) if covariates is None else network(given, covariates)
    except (RuntimeError, IndexError) as error:
        # what isn't about shapes and types, such as a GPU's full memory, has classes of its own below RuntimeError
        if type(error) not in (RuntimeError, IndexError):
            raise
        raise ValueError(f"`{name}` must take {what} of shape {tuple(given.shape)}, but stops: {error}") from error


def check_features(features: Any, encoder_out_dim: int, images: Tensor) -> None:
    """Raise ``ValueError`` if an encoder's output isn't a tensor of ``encoder_out_dim`` features."""
    if not isinstance(features, Tensor) or features.ndim < 2 or features.shape[-1] != encoder_out_dim:
        gave = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise ValueError(
            f"`encoder_out_dim` must be the number of features the encoder gives, got {encoder_out_dim}; "
            f"the encoder gave {gave} for images of shape {tuple(images.shape)}."
        )


def check_codes(z: Any, latent_dim: int) -> None:
    """Raise ``ValueError`` if codes aren't rows of ``latent_dim`` real numbers."""
    rows = isinstance(z, Tensor) and z.ndim >= 2 and z.numel() > 0 and not z.is_complex()
    if not rows or z.shape[-1] != latent_dim:
        came = f"shape {tuple(z.shape)}, {z.dtype}" if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(f"`z` must be a tensor of shape (batch, latent_dim={latent_dim}), got {came}.")
