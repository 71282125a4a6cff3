"""Construction of an estimator with its networks in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .estimator import VAE
from .networks.builders import build_network

NETWORK_ARGUMENTS = (
    "in_channels",
    "channels",
    "n_blocks",
    "kernel_size",
    "norm",
    "act",
    "dropout",
    "warm_start",
    "n_corrections",
    "noise",
    "n_covariates",
)
"""Arguments of :func:`build_vae` that configure the networks."""


def build_vae(
    spatial_shape: Sequence[int],
    latent_dim: int,
    *,
    architecture: str = "conv",
    random_state: int | None = None,
    **vae_kwargs: Any,
) -> VAE:
    """Build an encoder, a decoder and an estimator for images of one spatial shape.

    The default model has the architecture "conv", group normalisation, and a deformable template as decoder.

    Args:
        spatial_shape: two or three side lengths of the images, any size.
        latent_dim: number of latent dimensions.
        architecture: "conv", "plain", "residual", "resnet" or "densenet"; see
            :func:`~monai_betavae.networks.builders.build_network`.
        random_state: seed of all weights, and of all random numbers that :class:`~monai_betavae.VAE` draws.
        vae_kwargs: further arguments of :func:`~monai_betavae.networks.builders.build_network` (``in_channels``,
            ``channels``, ``n_blocks``, ``kernel_size``, ``norm``, ``act``, ``dropout``, ``warm_start``,
            ``n_corrections``, ``noise``, ``n_covariates``) and of :class:`~monai_betavae.VAE` (``beta``,
            ``default_dist``, ``lr``, ``max_epochs``, ...). With ``default_dist="bernoulli"``, or a ``loss`` with it,
            the decoder ends in a sigmoid.

    Returns:
        the untrained estimator.

    Raises:
        ValueError: naming the argument, the value received and the values accepted.

    Example:
        >>> import torch
        >>> vae = build_vae((16, 20, 16), latent_dim=4, channels=(4, 8), random_state=0, beta=2.0, max_epochs=3)
        >>> vae.reconstruct(torch.zeros(1, 1, 16, 20, 16)).shape
        torch.Size([1, 1, 16, 20, 16])
    """
    shaping = {name: vae_kwargs.pop(name) for name in NETWORK_ARGUMENTS if name in vae_kwargs}
    default_dist = getattr(vae_kwargs.get("loss"), "default_dist", vae_kwargs.get("default_dist"))
    output = "sigmoid" if isinstance(default_dist, str) and default_dist == "bernoulli" else "linear"
    network = build_network(
        spatial_shape, latent_dim, architecture=architecture, output=output, random_state=random_state, **shaping
    )
    return VAE.from_network(network, random_state=random_state, **vae_kwargs)
