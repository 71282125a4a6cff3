"""Builders of encoders and decoders from MONAI's networks and blocks, for any spatial shape in 2D and 3D.

Each level halves the grid, rounding up (91 -> 46 -> 23 -> 12 -> 6), and the decoder goes through the same sizes in
reverse. Its output therefore has exactly the encoder's input shape, odd sides included, without interpolation.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import torch
from monai.networks.blocks import Convolution, ResidualUnit, SubpixelUpsample
from monai.networks.layers.factories import Act, Norm
from monai.networks.layers.utils import get_act_layer, get_norm_layer
from monai.networks.nets import DenseNet, ResNet
from monai.networks.nets.resnet import ResNetBlock
from torch import Tensor, nn

from .._checks import check_choice, check_integer, check_real, check_seed, check_spatial_shape
from .._randomness import seeded
from ..saving.descriptions import BUILDERS, register_builder
from .modules import BlocksToChannels, Decoder, Encoder, ReconstructionNetwork
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

BLOCK_LEVELS = 2
"""Number of levels that "conv" merges into one step: in measurements the finest grids cost most and gained least."""

MAX_BLOCKS = 100
"""Largest accepted number of blocks per level; more is a mistake."""

CORRECTIONS = 1
"""Default number of steps by which a deformable template corrects the encoder's codes."""

MAX_CORRECTIONS = 100
"""Largest accepted number of such steps; more is a mistake."""

NamedLayer = tuple[str, dict[str, Any]]
LayerName = str | NamedLayer
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
        >>> encoder = build_encoder((33, 47, 29), channels=(4, 8))
        >>> encoder.out_dim, encoder(torch.zeros(2, 1, 33, 47, 29)).shape
        (6912, torch.Size([2, 6912]))
    """
    shape = check_spatial_shape("spatial_shape", spatial_shape)
    in_channels = check_integer("in_channels", in_channels, minimum=1)
    check_choice("architecture", architecture, ENCODERS)
    channels = _check_channels(channels)
    n_blocks = check_integer("n_blocks", n_blocks, minimum=1, maximum=MAX_BLOCKS)
    style = _Style(shape, channels, kernel_size, norm, act, dropout)
    if architecture == "resnet":
        body = _resnet(shape, in_channels, channels, n_blocks, style)
    elif architecture == "densenet":
        body = _densenet(shape, in_channels, channels, n_blocks, style)
    else:
        body = nn.Sequential()
        before, first = in_channels, 0
        if architecture == "conv":
            first = min(BLOCK_LEVELS, len(channels))
            before = channels[first - 1]
            body.add_module(f"level_{first - 1}", style.from_blocks(in_channels, before, first, n_blocks))
        for level, after in enumerate(channels[first:], start=first):
            body.add_module(f"level_{level}", style.down(architecture, before, after, n_blocks))
            before = after
    n_components = check_integer("n_components", n_components, minimum=0)
    projection = (
        PrincipalProjection(n_components, (in_channels, *shape), _check_voxels(n_voxels, shape))
        if n_components
        else None
    )
    out_dim = _flat_features(body, (in_channels, *shape), architecture) + n_components
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

    Returns:
        a module that maps (batch, latent_dim) to (batch, out_channels, *spatial_shape).

    Raises:
        ValueError: naming the argument, the value received and the values accepted.

    Example:
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
    style = _Style(shape, channels, kernel_size, norm, act, dropout)
    sides = _halved(shape, len(channels))
    levels = (
        None if warm_start == "deformable" else _upward(architecture, out_channels, channels, sides, n_blocks, style)
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
    )


def _upward(
    architecture: str,
    out_channels: int,
    channels: Sequence[int],
    sides: Sequence[Sequence[int]],
    n_blocks: int,
    style: _Style,
) -> nn.Module:
    """Return the levels of a decoder, from the coarsest grid to the image's grid or a slightly larger one."""
    n_axes = style.spatial_dims
    levels = nn.Sequential()
    last = min(BLOCK_LEVELS, len(channels)) if architecture == "conv" else 1
    for level in range(len(channels) - 1, last - 1, -1):
        levels.add_module(
            f"level_{level}", style.up(architecture, channels[level], channels[level - 1], sides[level], n_blocks)
        )
    before, factor = channels[last - 1], 2**last
    to_subpixels = Convolution(n_axes, before, out_channels * factor**n_axes, kernel_size=1, conv_only=True, strides=1)
    # zero, so that the first reconstructions are the mean image (see Decoder.set_output_mean) without noise
    nn.init.zeros_(to_subpixels.conv.weight)
    nn.init.zeros_(to_subpixels.conv.bias)
    levels.add_module(
        "output",
        SubpixelUpsample(n_axes, before, out_channels, factor, conv_block=to_subpixels, apply_pad_pool=False),
    )
    return levels


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
        random_state: seed of all weights, independent of the global seed; ``None`` draws from the global generator.

    Returns:
        a module that maps images to reconstructions, with the methods ``encode`` and ``decode``.

    Raises:
        ValueError: naming the argument, the value received and the values accepted.

    Example:
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
            **style,
        )
        n_components = latent_dim if decoder.template is not None else 0
        encoder = build_encoder(
            spatial_shape, in_channels, architecture=architecture, n_components=n_components, **style
        )
        return ReconstructionNetwork(encoder, decoder, latent_dim)


class _Style:
    """Settings that all convolutions of a network share, and the levels built from them."""

    def __init__(
        self,
        shape: tuple[int, ...],
        channels: tuple[int, ...],
        kernel_size: int,
        norm: LayerName | None,
        act: LayerName | None,
        dropout: float,
    ) -> None:
        self.kernel_size = check_integer("kernel_size", kernel_size, minimum=1)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"`kernel_size` must be odd, so that a level halves every side alike, got {kernel_size}.")
        self.norm = _check_layer("norm", norm, Norm.names)
        self.act = _check_layer("act", act, Act.names)
        self.dropout = check_real("dropout", dropout, minimum=0, maximum=1)
        self.spatial_dims = len(shape)
        coarsest = _halved(shape, len(channels))[-1]
        if self.norm is not None and self.norm[0].startswith("instance") and math.prod(coarsest) == 1:
            raise ValueError(
                f"`norm` must not be {norm!r} with {len(channels)} `channels` for `spatial_shape` {shape}: the "
                "coarsest grid is a single voxel, which instance normalisation would set to zero. Use fewer levels "
                "or 'group'."
            )

    def norm_of(self, *channels: int) -> NamedLayer | None:
        """Return MONAI's (name, arguments) of the normalisation for layers with these numbers of channels."""
        if self.norm is None:
            return None
        name, arguments = self.norm
        if name == "group" and "num_groups" not in arguments:
            # at least two channels per group: on a grid of one voxel, a group of one channel would always become zero
            groups = math.gcd(8, *(count // 2 if count % 2 == 0 else 1 for count in channels))
            arguments = {"num_groups": groups, **arguments}
        return (name, arguments)

    def shared(self, channels: int) -> dict[str, Any]:
        """Return the arguments that MONAI's blocks share."""
        return {
            "spatial_dims": self.spatial_dims,
            "kernel_size": self.kernel_size,
            "norm": self.norm_of(channels),
            "act": self.act,
            "dropout": self.dropout or None,
        }

    def from_blocks(self, in_channels: int, after: int, n_levels: int, n_blocks: int) -> nn.Module:
        """Return several levels as one: blocks of 2**n_levels voxels a side become channels of a 1x1x1 convolution."""
        factor = 2**n_levels
        shared = self.shared(after)
        blocks = [
            Convolution(
                in_channels=in_channels * factor**self.spatial_dims,
                out_channels=after,
                **{**shared, "kernel_size": 1},
            )
        ]
        blocks += [Convolution(in_channels=after, out_channels=after, **shared) for _ in range(n_blocks - 1)]
        return nn.Sequential(BlocksToChannels(factor), *blocks)

    def down(self, architecture: str, before: int, after: int, n_blocks: int) -> nn.Module:
        """Return a level that halves the grid, rounding up."""
        if architecture == "residual":
            unit: nn.Module = ResidualUnit(
                in_channels=before, out_channels=after, strides=2, subunits=2 * n_blocks, **self.shared(after)
            )
            return unit
        blocks = [Convolution(in_channels=before, out_channels=after, strides=2, **self.shared(after))]
        blocks += [
            Convolution(in_channels=after, out_channels=after, **self.shared(after)) for _ in range(n_blocks - 1)
        ]
        return nn.Sequential(*blocks)

    def up(self, architecture: str, before: int, after: int, sides: Sequence[int], n_blocks: int) -> nn.Module:
        """Return a level that doubles the grid to exactly ``sides``, even or odd."""
        residual = architecture == "residual"
        doubled = Convolution(
            in_channels=before,
            out_channels=after,
            strides=2,
            is_transposed=True,
            # from (n + 1) // 2 voxels the convolution makes 2 ((n + 1) // 2) - 1; the padding adds what n needs
            output_padding=tuple(1 - side % 2 for side in sides),
            conv_only=residual,
            **self.shared(after),
        )
        if residual:
            blocks = [ResidualUnit(in_channels=after, out_channels=after, subunits=2 * n_blocks, **self.shared(after))]
        else:
            blocks = [
                Convolution(in_channels=after, out_channels=after, **self.shared(after)) for _ in range(n_blocks - 1)
            ]
        return nn.Sequential(doubled, *blocks)


def _resnet(
    shape: tuple[int, ...], in_channels: int, channels: tuple[int, ...], n_blocks: int, style: _Style
) -> nn.Module:
    if len(channels) != 4:
        raise ValueError(f"`channels` must have four entries for architecture 'resnet', got {channels}.")
    name, arguments = _required("norm", style.norm_of(*channels))
    if name == "instance":
        arguments = {"affine": True, **arguments}  # MONAI's ResNet initialises the weights of its normalisations
    act = _required("act", style.act)
    network: nn.Module = ResNet(
        "basic",
        [n_blocks] * 4,
        list(channels),
        spatial_dims=len(shape),
        n_input_channels=in_channels,
        conv1_t_size=3,
        conv1_t_stride=2,
        no_max_pool=True,
        feed_forward=False,
        act=act,
        norm=(name, arguments),
    )
    network.avgpool = nn.Identity()
    for block in [module for module in network.modules() if isinstance(module, ResNetBlock)]:
        _set_layers(block, (name, arguments), act, len(shape))
    return network


def _set_layers(block: nn.Module, norm: NamedLayer, act: NamedLayer, n_axes: int) -> None:
    """Replace normalisation and activation in a block of MONAI's ResNet by the requested ones.

    ResNet uses ``norm`` and ``act`` for its stem only; its blocks always have batch normalisation and ReLU
    (https://github.com/Project-MONAI/MONAI/pull/9028), which makes a loss depend on the other volumes of the batch.
    """
    block.act = get_act_layer(act)
    for module in block.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(module, name, get_norm_layer(norm, n_axes, child.num_features))


def _densenet(
    shape: tuple[int, ...], in_channels: int, channels: tuple[int, ...], n_blocks: int, style: _Style
) -> nn.Module:
    if len(channels) < 2:
        raise ValueError(f"`channels` must have at least two entries for architecture 'densenet', got {channels}.")
    growth, levels = channels[0], len(channels) - 1
    # collect the width of every layer's input, since the groups of a normalisation must divide all of them
    widths, width = [growth, 4 * growth], growth
    for level in range(levels):
        widths += [width + growth * layer for layer in range(1, n_blocks + 1)]
        width += growth * n_blocks
        if level < levels - 1:
            width //= 2
            widths.append(width)
    body: nn.Module = DenseNet(
        len(shape),
        in_channels,
        1,
        init_features=growth,
        growth_rate=growth,
        block_config=(n_blocks,) * levels,
        act=_required("act", style.act),
        norm=_required("norm", style.norm_of(*widths)),
        dropout_prob=style.dropout,
    ).features
    return body


def _required(name: str, value: NamedLayer | None) -> NamedLayer:
    if value is None:
        raise ValueError(f"`{name}` must be given for architectures 'resnet' and 'densenet', got None.")
    return value


def _flat_features(body: nn.Module, in_shape: Sequence[int], architecture: str) -> int:
    """Return the size of the flattened feature map, found on torch's meta device without any computation."""
    twin = copy.deepcopy(body).to("meta").eval()
    try:
        features: Tensor = twin(torch.empty(2, *in_shape, device="meta"))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"`spatial_shape` must be larger for architecture {architecture!r} with these `channels`, "
            f"got {tuple(in_shape[1:])}: {error}"
        ) from error
    return features.flatten(1).shape[1]


def _halved(shape: Sequence[int], n_levels: int) -> list[tuple[int, ...]]:
    """Return the grid at every level, from ``shape`` itself to the coarsest one: n_levels + 1 entries.

    Example:
        >>> _halved((91, 8), 2)
        [(91, 8), (46, 4), (23, 2)]
    """
    sides = [tuple(shape)]
    for _ in range(n_levels):
        sides.append(tuple((side + 1) // 2 for side in sides[-1]))
    return sides


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


def _check_layer(name: str, layer: Any, accepted: Sequence[str]) -> NamedLayer | None:
    """Return (lower-case name, arguments) of a layer in MONAI's notation, or ``None`` for no layer."""
    if layer is None:
        return None
    layer_name, arguments = (layer, {}) if not isinstance(layer, list | tuple) or len(layer) != 2 else layer
    if not isinstance(layer_name, str) or not isinstance(arguments, dict):
        raise ValueError(f"`{name}` must be a name, (name, arguments) or None, got {layer!r}.")
    check_choice(name, layer_name.lower(), [entry.lower() for entry in accepted])
    return layer_name.lower(), arguments
