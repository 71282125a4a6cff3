"""Builders of encoders and decoders for any spatial shape in 2D and 3D."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

from .._checks import check_choice, check_integer, check_seed, check_spatial_shape
from .._randomness import seeded
from ..saving.descriptions import BUILDERS, register_builder
from .levels import LayerName, Style, downward, flat_features, halved, upward
from .modules import Decoder, Encoder, ReconstructionNetwork
from .noise import NOISES
from .principal_projection import PrincipalProjection
from .warm_start import WARM_STARTS

ENCODERS = ("conv", "plain", "residual", "resnet", "densenet")
"""Architectures of :func:`build_encoder`."""

DECODERS = ("conv", "plain", "residual")
"""Architectures of :func:`build_decoder`."""

DECODER_OF = {"conv": "conv", "plain": "plain", "residual": "residual", "resnet": "residual", "densenet": "conv"}
"""The decoder that goes with each encoder in :func:`build_network`."""

CHANNELS = (16, 32, 64, 128)
"""Default channels, one entry per level."""

MAX_BLOCKS = 100
"""Largest accepted number of blocks per level; more is a mistake."""

CORRECTIONS = 2
"""Default number of steps by which a deformable template corrects the encoder's codes."""

MAX_CORRECTIONS = 100
"""Largest accepted number of such steps; more is a mistake."""

P = ParamSpec("P")


def default_warm_start(warm_start: str | None, output: str) -> str:
    """Return ``warm_start``, or its default for ``None``: "mean" for a sigmoid output, else "deformable"."""
    if warm_start is not None:
        return warm_start
    return "mean" if output == "sigmoid" else "deformable"


def default_noise(noise: str, output: str) -> str:
    """Return ``noise``, or for "auto" the noise that goes with an output."""
    if noise != "auto":
        return noise
    return "unit" if output == "sigmoid" else "global"


def _with_defaults(builder: Callable[P, ReconstructionNetwork]) -> Callable[P, ReconstructionNetwork]:
    """Replace ``warm_start=None`` and ``noise="auto"``, so that the network's description stores the actual values."""
    signature = inspect.signature(builder)

    @functools.wraps(builder)
    def build(*args: P.args, **kwargs: P.kwargs) -> ReconstructionNetwork:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        kwargs["warm_start"] = default_warm_start(bound.arguments["warm_start"], bound.arguments["output"])
        kwargs["noise"] = default_noise(bound.arguments["noise"], bound.arguments["output"])
        return builder(*args, **kwargs)

    BUILDERS[builder.__name__] = build
    return build


@register_builder
def build_encoder(
    spatial_shape: Sequence[int],
    in_channels: int = 1,
    *,
    architecture: str = "conv",
    channels: Sequence[int] = CHANNELS,
    n_blocks: int = 1,
    kernel_size: int = 3,
    norm: LayerName | None = "group",
    act: LayerName | None = "relu",
    dropout: float = 0.0,
    n_components: int = 0,
    n_voxels: int = 0,
) -> Encoder:
    """Build an encoder that maps images of one spatial shape to feature vectors.

    Args:
        spatial_shape: two or three side lengths of the images, any size.
        in_channels: number of channels of the images.
        architecture: "conv" (blocks of 4 voxels per side become channels, followed by strided MONAI ``Convolution``),
            "plain" (strided from the full grid on), "residual" (MONAI ``ResidualUnit``), "resnet" (MONAI ``ResNet`` of
            basic blocks, four levels) or "densenet" (MONAI ``DenseNet``; ``channels[0]`` initial features and growth
            rate, one dense block per further level). The last two keep their last feature map instead of averaging it,
            since location matters in a registered brain.
        channels: number of channels of each level; each level halves the grid. "conv" merges its first two levels into
            one step, to ``channels[1]``.
        n_blocks: number of blocks per level.
        kernel_size: odd side length of the kernels of "conv", "plain" and "residual".
        norm: MONAI's name of a normalisation ("instance", "group", "batch", ...), or (name, arguments), or ``None``.
            "group", the default, uses up to eight groups unless ``num_groups`` is given; "instance" hides contrast from
            the code; "batch" makes the loss depend on batch size and number of processes.
        act: MONAI's name of an activation ("relu", "prelu", "swish", ...), or (name, arguments), or ``None``.
        dropout: dropout probability of "conv", "plain", "residual" and "densenet".
        n_components: number of principal component scores appended to the features, zero until a warm start sets the
            components (see :mod:`~monai_betavae.networks.warm_start`).
        n_voxels: number of voxels of these components in a state dict to be loaded. It is needed only for MONAI's
            ``copy_model_state``, which compares sizes first; ``load_state_dict`` adapts them.

    Returns:
        a module with the attribute ``out_dim``, the number of features.

    Raises:
        ValueError: naming the argument, the value received and the values accepted.

    Example:
        >>> import torch
        >>> encoder = build_encoder((33, 47, 29), channels=(4, 8))
        >>> encoder.out_dim, encoder(torch.zeros(2, 1, 33, 47, 29)).shape
        (6912, torch.Size([2, 6912]))
    """
    shape = check_spatial_shape("spatial_shape", spatial_shape)
    in_channels = check_integer("in_channels", in_channels, minimum=1)
    check_choice("architecture", architecture, ENCODERS)
    channels = _check_channels(channels)
    n_blocks = check_integer("n_blocks", n_blocks, minimum=1, maximum=MAX_BLOCKS)
    style = Style(shape, channels, kernel_size, norm, act, dropout)
    body = downward(architecture, shape, in_channels, channels, n_blocks, style)
    n_components = check_integer("n_components", n_components, minimum=0)
    projection = (
        PrincipalProjection(n_components, (in_channels, *shape), _check_voxels(n_voxels, shape))
        if n_components
        else None
    )
    out_dim = flat_features(body, (in_channels, *shape), architecture) + n_components
    return Encoder(body, (in_channels, *shape), out_dim, projection)


@register_builder
def build_decoder(
    latent_dim: int,
    spatial_shape: Sequence[int],
    out_channels: int = 1,
    *,
    architecture: str = "conv",
    channels: Sequence[int] = CHANNELS,
    n_blocks: int = 1,
    kernel_size: int = 3,
    norm: LayerName | None = "group",
    act: LayerName | None = "relu",
    dropout: float = 0.0,
    output: str = "linear",
    warm_start: str = "mean",
    n_voxels: int = 0,
    n_corrections: int = CORRECTIONS,
    noise: str = "unit",
    n_covariates: int = 0,
) -> Decoder:
    """Build a decoder that maps codes to images of exactly ``spatial_shape``.

    All levels but the last double the grid by a transposed convolution. The last level is a sub-pixel convolution
    (MONAI ``SubpixelUpsample`` around a 1x1x1 convolution), which costs a third of a transposed convolution at full
    resolution. With "conv" it enlarges the grid by a factor of 4.

    Args:
        latent_dim: number of latent dimensions.
        spatial_shape: two or three side lengths of the images, any size.
        out_channels: number of channels of the images.
        architecture: "conv" and "plain" (MONAI ``Convolution``) or "residual" (each followed by a MONAI
            ``ResidualUnit``).
        channels: number of channels of each level, in the encoder's order: the last entry is the coarsest grid. "conv"
            goes from ``channels[1]`` to the image in one step.
        n_blocks: number of blocks per level.
        kernel_size: odd side length of the kernels.
        norm: as in :func:`build_encoder`.
        act: as in :func:`build_encoder`.
        dropout: dropout probability.
        output: "linear", or "sigmoid" for probabilities (a Bernoulli likelihood).
        warm_start: start of training: "none", "mean", or, with a linear output, "linear" (principal components in
            parallel with the convolutions) or "deformable" (a deformable template in place of the convolutions); see
            :mod:`~monai_betavae.networks.warm_start`. The default here is "mean", since components need an encoder that
            returns their scores (``n_components``), which :func:`build_network` provides.
        n_voxels: as in :func:`build_encoder`.
        n_corrections: number of steps by which a deformable template corrects the encoder's codes; see
            :meth:`~monai_betavae.networks.modules.Decoder.corrected_codes`. 0 leaves them as they are.
        noise: standard deviation of the likelihood: "unit" (the reference's), "global" (one for all voxels) or "voxel"
            (one for each, from a warm start beyond the mean image); see :mod:`~monai_betavae.networks.noise`.
        n_covariates: number of coded covariates that the mean of the prior follows, 0 for none; see
            :mod:`~monai_betavae.networks.conditional_mean`.

    Returns:
        a module that maps (batch, latent_dim) to (batch, out_channels, *spatial_shape).

    Raises:
        ValueError: naming the argument, the value received and the values accepted.

    Example:
        >>> import torch
        >>> build_decoder(8, (33, 47, 29), channels=(4, 8))(torch.zeros(2, 8)).shape
        torch.Size([2, 1, 33, 47, 29])
    """
    latent_dim = check_integer("latent_dim", latent_dim, minimum=1)
    shape = check_spatial_shape("spatial_shape", spatial_shape)
    out_channels = check_integer("out_channels", out_channels, minimum=1)
    check_choice("architecture", architecture, DECODERS)
    check_choice("output", output, ("linear", "sigmoid"))
    check_choice("warm_start", warm_start, WARM_STARTS)
    if output == "sigmoid" and warm_start not in ("none", "mean"):
        raise ValueError(f"`warm_start` must be 'none' or 'mean' for a sigmoid output, got {warm_start!r}.")
    check_choice("noise", noise, NOISES)
    if noise != "unit" and output == "sigmoid":
        raise ValueError(f"`noise` must be 'unit' for a sigmoid output, a probability, got {noise!r}.")
    if noise == "voxel" and warm_start not in ("linear", "deformable"):
        raise ValueError(
            f"`noise` must be 'unit' or 'global' for `warm_start` {warm_start!r}, got 'voxel', which is measured when "
            "components start, by 'linear' or 'deformable'."
        )
    channels = _check_channels(channels)
    n_blocks = check_integer("n_blocks", n_blocks, minimum=1, maximum=MAX_BLOCKS)
    style = Style(shape, channels, kernel_size, norm, act, dropout)
    sides = halved(shape, len(channels))
    levels = (
        None if warm_start == "deformable" else upward(architecture, out_channels, channels, sides, n_blocks, style)
    )
    start_shape = (channels[-1], *sides[-1])
    return Decoder(
        latent_dim,
        start_shape,
        levels,
        (out_channels, *shape),
        sigmoid=output == "sigmoid",
        warm_start=warm_start,
        n_voxels=_check_voxels(n_voxels, shape),
        n_corrections=check_integer("n_corrections", n_corrections, minimum=0, maximum=MAX_CORRECTIONS),
        noise=noise,
        n_covariates=check_integer("n_covariates", n_covariates, minimum=0),
    )


@_with_defaults
@register_builder
def build_network(
    spatial_shape: Sequence[int],
    latent_dim: int,
    *,
    in_channels: int = 1,
    architecture: str = "conv",
    channels: Sequence[int] = CHANNELS,
    n_blocks: int = 1,
    kernel_size: int = 3,
    norm: LayerName | None = "group",
    act: LayerName | None = "relu",
    dropout: float = 0.0,
    output: str = "linear",
    warm_start: str | None = None,
    n_voxels: int = 0,
    n_corrections: int = CORRECTIONS,
    noise: str = "unit",
    n_covariates: int = 0,
    random_state: int | None = None,
) -> ReconstructionNetwork:
    """Build an encoder, a posterior and a decoder of one architecture as one module.

    Args:
        spatial_shape: two or three side lengths of the images, any size.
        latent_dim: number of latent dimensions.
        in_channels: number of channels of the images.
        architecture: architecture of the encoder, "conv", "plain", "residual", "resnet" or "densenet"; the decoder is
            "plain" for "plain", "residual" for "residual" and "resnet", else "conv".
        channels: number of channels of each level.
        n_blocks: number of blocks per level.
        kernel_size: odd side length of the kernels.
        norm: normalisation, as in :func:`build_encoder`.
        act: activation, as in :func:`build_encoder`.
        dropout: dropout probability.
        output: "linear" or "sigmoid", as in :func:`build_decoder`.
        warm_start: "none", "mean", "linear" or "deformable"; see :mod:`~monai_betavae.networks.warm_start`. ``None``
            means "deformable", or "mean" with a sigmoid output.
        n_voxels: as in :func:`build_encoder`.
        n_corrections: as in :func:`build_decoder`.
        noise: as in :func:`build_decoder`, or "auto": "global" for a linear output, "unit" for a sigmoid.
        n_covariates: as in :func:`build_decoder`.
        random_state: seed of all weights, independent of the global seed; ``None`` draws from the global generator.

    Returns:
        a module that maps images to reconstructions, with the methods ``encode`` and ``decode``.

    Raises:
        ValueError: naming the argument, the value received and the values accepted.

    Example:
        >>> import torch
        >>> network = build_network((16, 20, 16), latent_dim=4, channels=(4, 8), random_state=0)
        >>> network(torch.zeros(1, 1, 16, 20, 16)).shape
        torch.Size([1, 1, 16, 20, 16])
    """
    check_choice("architecture", architecture, ENCODERS)
    latent_dim = check_integer("latent_dim", latent_dim, minimum=1)
    style: dict[str, Any] = {
        "channels": channels,
        "n_blocks": n_blocks,
        "kernel_size": kernel_size,
        "norm": norm,
        "act": act,
        "dropout": dropout,
        "n_voxels": n_voxels,
    }
    with seeded(check_seed("random_state", random_state)):
        decoder = build_decoder(
            latent_dim,
            spatial_shape,
            in_channels,
            architecture=DECODER_OF[architecture],
            output=output,
            warm_start=default_warm_start(warm_start, output),
            n_corrections=n_corrections,
            noise=noise,
            n_covariates=n_covariates,
            **style,
        )
        n_components = latent_dim if decoder.template is not None else 0
        encoder = build_encoder(
            spatial_shape, in_channels, architecture=architecture, n_components=n_components, **style
        )
        return ReconstructionNetwork(encoder, decoder, latent_dim)


def _check_voxels(n_voxels: int, shape: Sequence[int]) -> int:
    n_voxels = check_integer("n_voxels", n_voxels, minimum=0)
    if n_voxels > math.prod(shape):
        raise ValueError(
            f"`n_voxels` must be at most {math.prod(shape)}, the voxels of `spatial_shape`, got {n_voxels}."
        )
    return n_voxels


def _check_channels(channels: Any) -> tuple[int, ...]:
    if not isinstance(channels, Sequence) or isinstance(channels, str) or not channels:
        raise ValueError(f"`channels` must be a sequence of positive integers, one per level, got {channels!r}.")
    return tuple(check_integer("channels", entry, minimum=1) for entry in channels)
