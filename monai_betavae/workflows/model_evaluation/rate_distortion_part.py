"""The part of an evaluation that asks what the codes' nats buy: rate and distortion, beside linear models."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...evaluation.latent_activity import kl_per_dimension
from ...evaluation.rate_distortion import distortion_at, linear_rate_distortion, truncated_rate_distortion
from ...evaluation.reconstruction import PrincipalComponentModel, squared_error
from ...networks.latent_model import decode_array
from ...plots import plot_rate_distortion
from .part import PCA_NAME, VAE_NAME, Part, replace_non_finite
from .subjects import Subjects

Array = NDArray[Any]


def rate_distortion_part(
    network: Any,
    held_out: Subjects,
    restored: Array,
    pca: PrincipalComponentModel | None,
    mean_image: Array | None,
    device: torch.device | str,
    label: str = "",
) -> Part:
    """Draw the error against the KL divergence: of the model, of its codes cut short, and of linear beta-VAEs.

    Args:
        network: module with ``decode``.
        held_out: the subjects.
        restored: reconstructions of ``held_out.images``.
        pca: components of the training images; ``None`` without them.
        mean_image: the mean training image, to whose error others are relative; ``None`` without it.
        device: where to compute.
        label: title of the picture.
    """
    part = Part("rate_distortion", "Rate and distortion")
    mu, logvar = held_out.mu[held_out.shown], held_out.logvar[held_out.shown]
    rate, distortion = float(kl_per_dimension(mu, logvar).sum()), float(squared_error(held_out.images, restored).mean())
    curve = truncated_rate_distortion(
        lambda codes: decode_array(network, codes, device, covariates=held_out.shown_covariates),
        mu,
        logvar,
        images=held_out.images,
    )
    curves = {f"{VAE_NAME}, codes cut short": curve}
    part.scores.update(
        rate=rate,
        distortion=distortion,
        truncated={"rate": curve.rate.tolist(), "distortion": curve.distortion.tolist()},
    )
    part.text(
        "What the codes say of an image, as their KL divergence from the prior in nats, against the squared error that "
        "is left. The lower and the further left, the better. Of the codes cut short, only the dimensions of the "
        "largest KL divergence are kept: 0, 1, 2, 4, 8, ... of them. A smaller beta moves a model to the right and "
        "down."
    )
    if held_out.covariates is not None:
        part.text("This model knows each subject's covariates beside the code, which cost no nats; PCA doesn't.")
    if pca is not None and np.any(pca.explained_variance_ > 0):
        name = f"{PCA_NAME}, {pca.n_components_} components, any beta"
        linear = linear_rate_distortion(pca, held_out.images)
        curves[name] = linear
        part.scores["pca"] = {"rate": linear.rate.tolist(), "distortion": linear.distortion.tolist()}
        same = distortion_at(linear, rate)
        part.scores["pca_distortion_at_rate"] = same
        at_rate = (
            f"It ends at {max(linear.rate):.1f} nats, and this model's rate is {rate:.1f}: no linear model of as many "
            "components says as much of an image, so there is none to compare with at this rate."
            if same is None
            else f"At this model's rate, {rate:.1f} nats, the best linear model leaves an error of {same:.4g}; this "
            f"model leaves {distortion:.4g}, {distortion / same:.2f} of it."
        )
        part.text(
            "The dashed line is that of the best linear models, probabilistic PCA of the training volumes with every "
            f"beta. {at_rate}"
        )
    scale = None
    if mean_image is not None:
        scale = float(squared_error(held_out.images, np.broadcast_to(mean_image, held_out.images.shape)).mean())
    figure = plot_rate_distortion(
        {name: (each.rate.tolist(), each.distortion.tolist()) for name, each in curves.items()},
        {VAE_NAME: (rate, distortion)},
        scale or None,
        label,
    )
    part.picture("rate_distortion.png", figure, "Squared error against the nats of the codes, of evaluated subjects.")
    part.scores = replace_non_finite(part.scores)
    return part
