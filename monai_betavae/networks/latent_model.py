"""What inference, evaluation and scores ask of a trained model: one protocol, and how it is run on many images.

Everything that reads a model goes through :class:`LatentModel`: :class:`~monai_betavae.VAE`,
:class:`~monai_betavae.networks.ReconstructionNetwork`, and any module of the user that has the two methods.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Normal

Array = NDArray[Any]
Device = torch.device | str


@runtime_checkable
class LatentModel(Protocol):
    """A pair of maps between images and codes.

    ``encode`` takes images of shape (batch, channel, ...) on the model's device and returns q(z|x), a ``Normal`` with
    parameters of shape (batch, latent_dim). ``decode`` takes codes of that shape and returns the mean of p(x|z), of the
    images' shape.

    Example:
        >>> from monai_betavae import build_vae
        >>> from monai_betavae.networks import build_network
        >>> shape = (16, 16, 16)
        >>> isinstance(build_vae(shape, latent_dim=2), LatentModel), isinstance(nn.Flatten(), LatentModel)
        (True, False)
        >>> build_network(shape, latent_dim=2).encode(torch.zeros(3, 1, *shape)).mean.shape
        torch.Size([3, 2])
    """

    def encode(self, x: Any) -> Normal:
        """Return q(z|x)."""

    def decode(self, z: Any) -> Tensor:
        """Return the mean of p(x|z)."""


class DensityModel(Protocol):
    """A model whose likelihood can be computed.

    ``encode`` is that of :class:`LatentModel`. ``decoder`` takes codes and returns a tensor of the images' shape, or a
    ``torch.distributions`` Normal, Laplace or Bernoulli of that shape. ``default_dist`` says what a tensor stands for:
    the mean of a unit-scale "normal" or "laplace", or the probability of a "bernoulli".
    """

    @property
    def default_dist(self) -> str:
        """What a tensor from the decoder stands for."""

    @property
    def decoder(self) -> Any:
        """Map codes to a tensor or a distribution."""

    def encode(self, x: Any) -> Normal:
        """Return q(z|x)."""


def latent_dim_of(network: Any) -> int:
    """Return the number of latent dimensions of a network with the linear layer ``fc_mu``."""
    return int(network.fc_mu.out_features)


def encode_images(model: Any, images: Tensor, name: str = "network_def", covariates: Tensor | None = None) -> Normal:
    """Return the posterior of images, and refuse a model whose ``encode`` gives anything else.

    Args:
        model: the model.
        images: shape (batch, channel, ...).
        name: what messages call the model.
        covariates: coded covariates of a conditional model, shape (batch, n_covariates).

    Raises:
        ValueError: naming the model's method and what it gave. A tuple is refused too: it may hold a log-variance,
            a variance or, as in MONAI's ``AutoencoderKL``, a standard deviation.
    """
    q = model.encode(images) if covariates is None else model.encode(images, covariates)
    if not isinstance(q, Normal) or q.loc.ndim != 2 or len(q.loc) != len(images):
        came = f"one of shape {tuple(q.batch_shape)}" if isinstance(q, Normal) else f"a {type(q).__name__}"
        raise ValueError(
            f"`{name}.encode` must give a torch.distributions.Normal of shape (batch={len(images)}, latent_dim), "
            f"got {came}."
        )
    return q


def logvar_of(q: Normal) -> Tensor:
    """Return the log-variance of a posterior."""
    return 2 * q.scale.log()


def decode_codes(model: Any, codes: Tensor, covariates: Tensor | None = None) -> Tensor:
    """Return the images of codes, at a conditional model's covariates."""
    images: Tensor = model.decode(codes) if covariates is None else model.decode(codes, covariates)
    return images


def encode_array(
    model: Any, images: Array, device: Device = "cpu", batch_size: int = 8, covariates: Array | None = None
) -> tuple[Array, Array]:
    """Return means and log-variances of the posteriors of many images, each of shape (n, latent_dim), float32.

    Here and below, ``covariates`` are the coded ones of a conditional model, a row for each image.
    """

    def encode(part: Tensor, rows: Tensor | None) -> tuple[Tensor, ...]:
        q = encode_images(model, part, covariates=rows)
        return q.mean, logvar_of(q)

    mu, logvar = _in_batches(model, encode, images, device, batch_size, covariates)
    return mu, logvar


def decode_array(
    model: Any, codes: Array, device: Device = "cpu", batch_size: int = 4, covariates: Array | None = None
) -> Array:
    """Return the images of many codes, shape (n, channel, ...), float32."""

    def decode(part: Tensor, rows: Tensor | None) -> tuple[Tensor, ...]:
        return (decode_codes(model, part, rows),)

    return _in_batches(model, decode, codes, device, batch_size, covariates)[0]


def reconstruct_array(
    model: Any, images: Array, device: Device = "cpu", batch_size: int = 4, covariates: Array | None = None
) -> Array:
    """Return the decoded posterior means of many images, of their shape, float32."""
    if not len(images):
        return np.zeros_like(images)

    def reconstruct(part: Tensor, rows: Tensor | None) -> tuple[Tensor, ...]:
        return (decode_codes(model, encode_images(model, part, covariates=rows).mean, rows),)

    return _in_batches(model, reconstruct, images, device, batch_size, covariates)[0]


def _in_batches(
    model: Any,
    run: Callable[[Tensor, Tensor | None], tuple[Tensor, ...]],
    values: Array,
    device: Device,
    batch_size: int,
    covariates: Array | None,
) -> list[Array]:
    if covariates is not None and len(covariates) != len(values):
        raise ValueError(f"`covariates` must have a row for each of {len(values)} rows, got {len(covariates)}.")
    parts: list[list[Array]] = []
    model.to(device)

    def on_device(rows: Array, start: int) -> Tensor:
        return torch.from_numpy(np.asarray(rows[start : start + batch_size], np.float32)).to(device)

    with evaluating(model), torch.inference_mode():
        for start in range(0, len(values), batch_size):
            rows = None if covariates is None else on_device(covariates, start)
            parts.append([found.float().cpu().numpy() for found in run(on_device(values, start), rows)])
    return [np.concatenate(found) for found in zip(*parts, strict=True)]


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Run in eval mode and give every module its own mode back: a frozen part may have been in eval mode before.

    Args:
        model: a module, or an object whose attributes are modules.
    """
    modes = {module: module.training for part in modules_of(model) for module in part.modules()}
    for part in modules_of(model):
        part.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def modules_of(model: Any) -> list[nn.Module]:
    """Return the model, or those of its attributes that are modules."""
    parts = [model] if isinstance(model, nn.Module) else list(getattr(model, "__dict__", {}).values())
    return [part for part in parts if isinstance(part, nn.Module)]


def device_of(model: Any) -> torch.device:
    """Return where a model's weights are; the CPU if it has none."""
    for module in modules_of(model):
        for tensor in (*module.parameters(), *module.buffers()):
            return tensor.device
    return torch.device("cpu")
