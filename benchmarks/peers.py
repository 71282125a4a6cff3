"""The models that are compared, all with 32 latents, channels 16-32-64-128 the same loss; and a step of each.

``pip install --no-deps nidl==0.0.2 toml==0.10.2`` adds the peer that isn't among this package's dependencies.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from monai_betavae import VAE, BetaVAELoss
from monai_betavae.networks.builders import build_network
from monai_betavae.networks.correction import RENEWAL_BATCHES, renew_gain
from monai_betavae.networks.warm_start import warm_start

SHAPE = (64, 80, 64)
CHANNELS = (16, 32, 64, 128)
LATENT_DIM = 32

OURS = {
    "ours, default (conv, warm start deformable)": {
        "architecture": "conv",
        "warm_start": "deformable",
        "norm": "group",
    },
    "ours, conv, warm start linear": {"architecture": "conv", "warm_start": "linear", "norm": "group"},
    "ours, conv, from the mean image": {"architecture": "conv", "warm_start": "mean"},
    "ours, plain, from the mean image": {"architecture": "plain", "warm_start": "mean", "act": "prelu"},
}
PEER = "MONAI VarAutoEncoder"


def nidl_vae() -> Any:
    """Return nidl's estimator, which isn't among this package's dependencies."""
    from nidl.estimators.autoencoders import vae

    return vae.VAE


def brain_like(n_volumes: int, shape: Sequence[int] = SHAPE, seed: int = 0) -> Tensor:
    """Return smooth random volumes inside an ellipsoid that fills a quarter of the grid, as a brain does."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n_volumes, 1, *(max(4, side // 8) for side in shape), generator=generator)
    smooth = nn.functional.interpolate(coarse, tuple(shape), mode="trilinear")
    axes = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in shape), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.78**2
    noise = 0.05 * torch.rand(n_volumes, 1, *shape, generator=generator)
    return torch.where(inside, smooth + noise, torch.zeros(()))


def our_vae(shape: Sequence[int] = SHAPE, images: Tensor | None = None, lr: float = 1e-3, **arguments: Any) -> VAE:
    """Return our estimator, started from ``images`` if its warm start needs some."""
    # instance normalisation, as in MONAI's VarAutoEncoder, unless a benchmark says another
    options = {"norm": "instance", **arguments}
    network = build_network(shape, LATENT_DIM, channels=CHANNELS, random_state=0, **options)
    vae = VAE.from_network(network, lr=lr, random_state=0)
    if images is not None:
        warm_start(vae, torch.utils.data.DataLoader(images, batch_size=8), seed=0)
    return vae


def our_loss(vae: VAE) -> Callable[[Tensor], Tensor]:
    """Return the loss of one training step of ours as a hand-written loop computes it."""
    n_batches = itertools.count()

    def loss(images: Tensor) -> Tensor:
        if next(n_batches) % RENEWAL_BATCHES == 0:
            renew_gain(vae)
        return vae.training_step(images, 0)["loss"]

    return loss


def our_step(vae: VAE) -> Callable[[Tensor], None]:
    """Return one training step of ours as a hand-written loop does it."""
    vae.train()
    optimizer, loss = vae.configure_optimizers()[0], our_loss(vae)

    def step(images: Tensor) -> None:
        optimizer.zero_grad()
        loss(images).backward()
        optimizer.step()

    return step


def var_autoencoder(shape: Sequence[int] = SHAPE) -> nn.Module:
    """Return MONAI's VarAutoEncoder with its defaults (instance norm, PReLU, no residual units)."""
    from monai.networks.nets import VarAutoEncoder

    torch.manual_seed(0)
    network: nn.Module = VarAutoEncoder(
        spatial_dims=len(shape),
        in_shape=(1, *shape),
        out_channels=1,
        latent_size=LATENT_DIM,
        channels=CHANNELS,
        strides=(2,) * len(CHANNELS),
    )
    return network


def var_autoencoder_step(network: Any, lr: float = 1e-3) -> Callable[[Tensor], None]:
    """Return one training step of it: the same loss, and AdamW as torch makes it."""
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    criterion = BetaVAELoss(beta=1.0)

    def step(images: Tensor) -> None:
        optimizer.zero_grad()
        reconstruction, mu, logvar, _ = network(images)
        posterior = torch.distributions.Normal(mu, torch.exp(0.5 * logvar), validate_args=False)
        criterion(images, reconstruction, posterior)["loss"].backward()
        optimizer.step()

    return step


def reconstruct_with_var_autoencoder(network: Any, images: Tensor) -> Tensor:
    """Return its reconstructions from the posterior mean: calling it in eval mode would decode mean + deviation."""
    network.eval()
    with torch.inference_mode():
        reconstruction: Tensor = network.decode_forward(network.encode_forward(images)[0])
    network.train()
    return reconstruction
