"""The noise of the images: how far voxels may lie from a decoder's mean, the same for all or for each its own.

The loss of the reference knows no scale: its ELBO is that of a likelihood with the variance that ``beta`` implies (see
:mod:`monai_betavae.losses`), which is hundreds of times the variance of what a good model leaves unexplained. With a
noise the likelihood is that of the data, as measured on volumes that the model wasn't trained on:

====== ==============================================================================================================
unit   none: the likelihood has unit scale, and the loss is the reference's
global one standard deviation for all voxels; the loss is the reference's
voxel  one for each voxel, as in factor analysis; the loss and the correction of codes count voxels that a warm start
       explains worse than the mean voxel accordingly less
====== ==============================================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.distributions import Distribution, Laplace, Normal

from .conditional_mean import n_covariates_of
from .latent_model import decode_codes, device_of, encode_images, evaluating
from .principal_components import TrainingVolumes

NOISES = ("unit", "global", "voxel")
"""Kinds of noise; see the module's docstring."""

NOISE_FLOOR = 0.5
"""Least standard deviation of a voxel, relative to the root of the mean variance: a constant background has none, and a
volume that isn't constant there would outweigh all else."""

NOISE_SMOOTHING = 0.7
"""Standard deviation, in voxels, of the Gaussian that smooths the variances of voxels."""

CALIBRATION_VOLUMES = 256
"""Maximum number of volumes from which a scale is measured."""


class Noise(nn.Module):
    r"""Standard deviation of each voxel's likelihood, :math:`s \rho_v`.

    Attributes:
        relative: buffer of the images' shape (channel, ...), or of ones along every axis for a noise that all voxels
            share: :math:`\rho_v`, relative to the root of the mean variance; 1 until a warm start sets it.
        scale: buffer without axes, s in units of the images; 1 until :func:`calibrate_noise` sets it.

    Args:
        kind: "global" or "voxel".
        out_shape: channels and spatial shape of the images.

    Source:
        Rybkin, Daniilidis & Levine, "Simple and Effective VAE Training with Calibrated Decoders", ICML 2021 (a scale
        for all); Bartholomew, Knott & Moustaki, "Latent Variable Models and Factor Analysis", 2011 (one for each).

    Example:
        >>> noise = Noise("voxel", (1, 2))
        >>> noise.set_variances(torch.tensor([[1.0, 7.0]]), torch.tensor([0, 1]))
        >>> noise.relative, noise.weight()
        (tensor([[0.5000, 1.3229]]), tensor([[1.0000, 0.7559]]))
    """

    def __init__(self, kind: str, out_shape: Iterable[int]) -> None:
        super().__init__()
        self.by_voxel = kind == "voxel"
        self.relative: Tensor
        self.scale: Tensor
        self.register_buffer("relative", torch.ones([side if self.by_voxel else 1 for side in out_shape]))
        self.register_buffer("scale", torch.ones(()))

    def weight(self) -> Tensor:
        """Return the factor of each voxel's residual in the loss: 1 / relative, at most 1."""
        return 1.0 / self.relative.clamp_min(1.0)

    def deviation(self) -> Tensor:
        """Return the standard deviation of each voxel, in units of the images."""
        return self.scale * self.relative

    def set_variances(self, variances: Tensor, voxels: Tensor) -> None:
        """Set ``relative`` from the variance of what is unexplained at each voxel.

        Args:
            variances: shape (channel, ...).
            voxels: flat indices of the voxels over which the mean variance is taken.
        """
        mean = variances.flatten(1)[:, voxels].mean().clamp_min(1e-20)
        self.relative.copy_((variances / mean).clamp_min(NOISE_FLOOR**2).sqrt())


def residual_variances(model: Any, volumes: TrainingVolumes) -> Tensor:
    """Return the mean squared residual of each voxel, smoothed, shape (channel, ...), from reconstructions.

    Args:
        model: a :class:`~monai_betavae.networks.latent_model.LatentModel`.
        volumes: the volumes.
    """
    total, count, device = torch.zeros(volumes.shape, dtype=torch.float64), 0, device_of(model)
    with torch.no_grad(), evaluating(model):
        for images, rows in volumes.pairs(n_covariates_of(model)):
            rest = _residuals(model, images.to(device), None if rows is None else rows.to(device))
            total += rest.square().sum(dim=0).double().cpu()
            count += len(images)
    smoothed = [ndimage.gaussian_filter(channel, NOISE_SMOOTHING, mode="nearest") for channel in total.numpy()]
    return torch.from_numpy(np.stack(smoothed) / max(count, 1)).float()


def _residuals(model: Any, images: Tensor, covariates: Tensor | None) -> Tensor:
    """Return what the decoded posterior means differ by from the images."""
    codes = encode_images(model, images, "model", covariates).mean
    return decode_codes(model, codes, covariates) - images


def noise_of(model: Any) -> Noise | None:
    """Return the noise of a model's decoder; ``None`` for unit scale, and for decoders of another kind."""
    noise = getattr(getattr(model, "decoder", None), "noise", None)
    return noise if isinstance(noise, Noise) else None


def weighted_residuals(model: Any, images: Tensor, p: Distribution) -> tuple[Tensor, Distribution]:
    """Return images and likelihood for the loss, whose difference is the weighted one if each voxel has its noise.

    Args:
        model: estimator or network.
        images: shape (batch, channel, ...).
        p: the decoder's distribution of the images' shape.
    """
    noise = noise_of(model)
    if noise is None or not noise.by_voxel or not isinstance(p, Normal | Laplace):
        return images, p
    weight = noise.weight()
    return images * weight, type(p)(p.loc * weight, p.scale, validate_args=False)


def calibrate_noise(model: Any, dataloader: Iterable[Any]) -> float | None:
    r"""Set the scale of a decoder's noise to what the model leaves unexplained in volumes it wasn't trained on.

    .. math:: s^2 = \frac1{nN} \sum_{i,v} (x_{iv} - \hat x_{iv})^2 / \rho_v^2

    for n volumes of N values, with reconstructions from the posterior means. It is the scale under which these volumes
    are most likely, and their mean squared standardised residual is 1. A "laplace" likelihood has the mean of
    :math:`|x_{iv} - \hat x_{iv}| / \rho_v` in its place.

    Args:
        model: estimator or network whose decoder may have a :class:`Noise`.
        dataloader: loader of validation volumes, of which at most 256 are read. Volumes that the model was trained on
            make s too small.

    Returns:
        s in units of the images; ``None``, and nothing is read, for a model without noise.

    Raises:
        ValueError: for an empty loader, or images that aren't finite or of another shape.

    Example:
        >>> from monai_betavae import build_vae
        >>> from monai_betavae.networks.noise import calibrate_noise
        >>> vae = build_vae((8, 8, 8), 2, channels=(2, 4), warm_start="mean", noise="global", random_state=0)
        >>> images = torch.randn(64, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> round(calibrate_noise(vae, images.split(8)), 2), build_vae((8, 8, 8), 2).decoder.noise
        (1.0, None)
    """
    noise = noise_of(model)
    if noise is None:
        return None
    shape = list(model.decoder.out_shape)
    volumes = TrainingVolumes(dataloader, CALIBRATION_VOLUMES, shape, getattr(model, "image_key", "image"))
    total, count, device = 0.0, 0, device_of(model)
    power = 1 if getattr(model, "default_dist", "normal") == "laplace" else 2
    with torch.no_grad(), evaluating(model):
        for images, rows in volumes.pairs(n_covariates_of(model)):
            rows = None if rows is None else rows.to(device)
            rest = _residuals(model, images.to(device), rows) / noise.relative
            total += float(rest.double().abs().pow(power).sum())
            count += len(images)
    if count == 0:
        raise ValueError("`dataloader` must give at least one volume, got none.")
    scale: float = max((total / (count * math.prod(shape))) ** (1 / power), torch.finfo(torch.float32).tiny)
    noise.scale.fill_(scale)
    return scale
