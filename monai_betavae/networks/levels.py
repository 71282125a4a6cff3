"""Levels of encoders and decoders, from MONAI's networks and blocks.

Each level halves the grid, rounding up (91 -> 46 -> 23 -> 12 -> 6), and the decoder goes through the same sizes in
reverse. Its output therefore has exactly the encoder's input shape, odd sides included, without interpolation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks import Convolution, ResidualUnit, SubpixelUpsample
from monai.networks.layers.factories import Act, Norm
from monai.networks.layers.utils import get_act_layer, get_norm_layer
from monai.networks.nets import DenseNet, ResNet
from monai.networks.nets.resnet import ResNetBlock
from torch import Tensor, nn

from .._checks import check_choice, check_integer, check_real
from .modules import BlocksToChannels

BLOCK_LEVELS = 2
"""Number of levels that "conv" merges into one step: in measurements the finest grids cost most and gained least."""

NamedLayer = tuple[str, dict[str, Any]]
LayerName = str | NamedLayer


class Style:
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
        coarsest = halved(shape, len(channels))[-1]
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


def downward(
    architecture: str,
    shape: tuple[int, ...],
    in_channels: int,
    channels: tuple[int, ...],
    n_blocks: int,
    style: Style,
) -> nn.Module:
    """Return the levels of an encoder, from images to feature maps on the coarsest grid."""
    if architecture == "resnet":
        return _resnet(shape, in_channels, channels, n_blocks, style)
    if architecture == "densenet":
        return _densenet(shape, in_channels, channels, n_blocks, style)
    body = nn.Sequential()
    before, first = in_channels, 0
    if architecture == "conv":
        first = min(BLOCK_LEVELS, len(channels))
        before = channels[first - 1]
        body.add_module(f"level_{first - 1}", style.from_blocks(in_channels, before, first, n_blocks))
    for level, after in enumerate(channels[first:], start=first):
        body.add_module(f"level_{level}", style.down(architecture, before, after, n_blocks))
        before = after
    return body


def upward(
    architecture: str,
    out_channels: int,
    channels: Sequence[int],
    sides: Sequence[Sequence[int]],
    n_blocks: int,
    style: Style,
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


def _resnet(
    shape: tuple[int, ...], in_channels: int, channels: tuple[int, ...], n_blocks: int, style: Style
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
    shape: tuple[int, ...], in_channels: int, channels: tuple[int, ...], n_blocks: int, style: Style
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


def flat_features(body: nn.Module, in_shape: Sequence[int], architecture: str) -> int:
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


def halved(shape: Sequence[int], n_levels: int) -> list[tuple[int, ...]]:
    """Return the grid at every level, from ``shape`` itself to the coarsest one: n_levels + 1 entries.

    Example:
        >>> halved((91, 8), 2)
        [(91, 8), (46, 4), (23, 2)]
    """
    sides = [tuple(shape)]
    for _ in range(n_levels):
        sides.append(tuple((side + 1) // 2 for side in sides[-1]))
    return sides


def _check_layer(name: str, layer: Any, accepted: Sequence[str]) -> NamedLayer | None:
    """Return (lower-case name, arguments) of a layer in MONAI's notation, or ``None`` for no layer."""
    if layer is None:
        return None
    layer_name, arguments = (layer, {}) if not isinstance(layer, list | tuple) or len(layer) != 2 else layer
    if not isinstance(layer_name, str) or not isinstance(arguments, dict):
        raise ValueError(f"`{name}` must be a name, (name, arguments) or None, got {layer!r}.")
    check_choice(name, layer_name.lower(), [entry.lower() for entry in accepted])
    return layer_name.lower(), arguments
