"""Networks and estimator in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .estimator import VAE
from .networks.builders import build_network

NETWORK_ARGUMENTS = ("in_channels", "channels", "n_blocks", "kernel_size", "norm", "act", "dropout", "warm_start")
"""Arguments of :func:`build_vae` that shape the networks."""


def build_vae(
    spatial_shape: Sequence[int],
    latent_dim: int,
    *,
    architecture: str = "conv",
    random_state: int | None = None,
    **vae_kwargs: Any,
) -> VAE:
    """Build encoder, decoder and estimator for images of one spatial shape.

    The default is the package's one default model: "conv", group normalisation, a deformable template as decoder.

    Args:
        spatial_shape: two or three sides of the images, any size.
        latent_dim: number of latent dimensions.
        architecture: "conv", "plain", "residual", "resnet" or "densenet"; see
            :func:`~monai_betavae.networks.builders.build_network`.
        random_state: seed of all weights, and of everything that :class:`~monai_betavae.VAE` draws.
        vae_kwargs: further arguments of :func:`~monai_betavae.networks.builders.build_network` (``in_channels``,
            ``channels``, ``n_blocks``, ``kernel_size``, ``norm``, ``act``, ``dropout``, ``warm_start``) and of
            :class:`~monai_betavae.VAE` (``beta``, ``default_dist``, ``lr``, ``max_epochs``, ...). With
            ``default_dist="bernoulli"``, or a ``loss`` of that, the decoder ends in a sigmoid.

    Returns:
        the estimator, untrained.

    Raises:
        ValueError: naming the argument, what came and what is accepted.

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
