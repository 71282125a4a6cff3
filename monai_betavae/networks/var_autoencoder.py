"""Adapters that make MONAI's ``VarAutoEncoder`` a network of this package.

MONAI's class returns four tensors, decodes mu + std at inference, and returns more voxels than it received if a stride
doesn't divide a side. Here the same layers return one image, decoded from the posterior mean, with exactly the shape of
the input, as the estimator, the inferers and the bundle require.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.layers.factories import Act, Norm
from monai.networks.nets import VarAutoEncoder
from torch import nn

from .._checks import check_choice, check_integer, check_seed, check_spatial_shape
from .._randomness import seeded
from ..saving.descriptions import is_plain, register_builder
from .modules import Decoder, Encoder, ReconstructionNetwork

CHANNELS, STRIDES = (16, 32, 64, 128), (2, 2, 2, 2)
"""Default channels and strides, one entry per level."""

LayerName = str | tuple[str, dict[str, Any]]


@register_builder
def build_var_encoder(
    spatial_shape: Sequence[int],
    in_channels: int = 1,
    *,
    channels: Sequence[int] = CHANNELS,
    strides: Sequence[int] = STRIDES,
    num_res_units: int = 0,
    inter_channels: Sequence[int] | None = None,
    inter_dilations: Sequence[int] | None = None,
    num_inter_units: int = 2,
    norm: LayerName | None = "instance",
    act: LayerName | None = "prelu",
    kernel_size: int | Sequence[int] = 3,
    up_kernel_size: int | Sequence[int] = 3,
    dropout: float | None = None,
    bias: bool = True,
) -> Encoder:
    """Build the encoder of MONAI's ``VarAutoEncoder``, which maps images to feature vectors.

    The arguments are those of :func:`build_var_autoencoder`.

    Returns:
        a module with the attribute ``out_dim``, the number of features.

    Raises:
        ValueError: naming the argument that MONAI refuses.

    Example:
        >>> encoder = build_var_encoder((33, 20, 18), channels=(4, 8), strides=(2, 2))
        >>> encoder(torch.zeros(2, 1, 33, 20, 18)).shape[1] == encoder.out_dim
        True
    """
    settings = {name: value for name, value in locals().items() if name not in ("spatial_shape", "in_channels")}
    return _encoder(_monai_network(spatial_shape, 1, in_channels, settings))


@register_builder
def build_var_decoder(
    latent_dim: int,
    spatial_shape: Sequence[int],
    out_channels: int = 1,
    *,
    channels: Sequence[int] = CHANNELS,
    strides: Sequence[int] = STRIDES,
    num_res_units: int = 0,
    inter_channels: Sequence[int] | None = None,
    inter_dilations: Sequence[int] | None = None,
    num_inter_units: int = 2,
    norm: LayerName | None = "instance",
    act: LayerName | None = "prelu",
    kernel_size: int | Sequence[int] = 3,
    up_kernel_size: int | Sequence[int] = 3,
    dropout: float | None = None,
    bias: bool = True,
    use_sigmoid: bool = False,
) -> Decoder:
    """Build the decoder of MONAI's ``VarAutoEncoder``, which maps codes to images of exactly ``spatial_shape``.

    The arguments are those of :func:`build_var_autoencoder`.

    Raises:
        ValueError: naming the argument that MONAI refuses.

    Example:
        >>> build_var_decoder(3, (33, 20, 18), channels=(4, 8), strides=(2, 2))(torch.zeros(2, 3)).shape
        torch.Size([2, 1, 33, 20, 18])
    """
    left_out = ("latent_dim", "spatial_shape", "out_channels", "use_sigmoid")
    settings = {name: value for name, value in locals().items() if name not in ("left_out", *left_out)}
    network = _monai_network(spatial_shape, latent_dim, out_channels, settings)
    return _decoder(network, use_sigmoid)


@register_builder
def build_var_autoencoder(
    spatial_shape: Sequence[int],
    latent_dim: int,
    *,
    in_channels: int = 1,
    channels: Sequence[int] = CHANNELS,
    strides: Sequence[int] = STRIDES,
    num_res_units: int = 0,
    inter_channels: Sequence[int] | None = None,
    inter_dilations: Sequence[int] | None = None,
    num_inter_units: int = 2,
    norm: LayerName | None = "instance",
    act: LayerName | None = "prelu",
    kernel_size: int | Sequence[int] = 3,
    up_kernel_size: int | Sequence[int] = 3,
    dropout: float | None = None,
    bias: bool = True,
    use_sigmoid: bool = False,
    random_state: int | None = None,
) -> ReconstructionNetwork:
    """Build MONAI's ``VarAutoEncoder`` as a network that maps images to reconstructions of the same shape.

    Args:
        spatial_shape: two or three side lengths of the images, any size.
        latent_dim: number of latent dimensions.
        in_channels: number of channels of the images.
        channels: number of channels of each level.
        strides: stride of each level, as many as ``channels``.
        num_res_units: number of residual units per level; 0 for plain convolutions.
        inter_channels: channels of the blocks between encoder and posterior; ``None`` for no blocks.
        inter_dilations: dilation of each of these blocks; ``None`` for 1.
        num_inter_units: number of residual units of each of these blocks; 0 for plain convolutions.
        norm: MONAI's name of a normalisation, or (name, arguments), or ``None``.
        act: MONAI's name of an activation, or (name, arguments), or ``None``.
        kernel_size: odd side length of the kernels.
        up_kernel_size: odd side length of the decoder's transposed kernels.
        dropout: dropout probability, or ``None``.
        bias: whether convolutions have a bias.
        use_sigmoid: whether the output passes through a sigmoid (a Bernoulli likelihood); MONAI's default is ``True``.
        random_state: seed of all weights, independent of the global seed; ``None`` draws from the global generator.

    Returns:
        a module that maps images to reconstructions, with ``encode`` and ``decode``, ``encoder``, ``decoder``,
        ``fc_mu`` and ``fc_logvar``. The log-variance is bounded, as in all networks of this package.

    Raises:
        ValueError: naming the argument, the value received and the values accepted.

    Example:
        >>> network = build_var_autoencoder((33, 20, 18), latent_dim=3, channels=(4, 8), strides=(2, 2))
        >>> network(torch.zeros(1, 1, 33, 20, 18)).shape
        torch.Size([1, 1, 33, 20, 18])
    """
    latent_dim = check_integer("latent_dim", latent_dim, minimum=1)
    shared: dict[str, Any] = {
        "channels": channels,
        "strides": strides,
        "num_res_units": num_res_units,
        "inter_channels": inter_channels,
        "inter_dilations": inter_dilations,
        "num_inter_units": num_inter_units,
        "norm": norm,
        "act": act,
        "kernel_size": kernel_size,
        "up_kernel_size": up_kernel_size,
        "dropout": dropout,
        "bias": bias,
    }
    with seeded(check_seed("random_state", random_state)):
        encoder = build_var_encoder(spatial_shape, in_channels, **shared)
        decoder = build_var_decoder(latent_dim, spatial_shape, in_channels, use_sigmoid=use_sigmoid, **shared)
        return ReconstructionNetwork(encoder, decoder, latent_dim)


def from_var_autoencoder(network: VarAutoEncoder) -> ReconstructionNetwork:
    """Make a network of this package from MONAI's ``VarAutoEncoder``, trained or not, with shared layers.

    Args:
        network: the MONAI network. Its ``use_sigmoid`` is respected; its ``use_mean_at_inference`` is ignored, since
            the mean is always used.

    Returns:
        a module like that of :func:`build_var_autoencoder`. It has a description, with which a saved model can be
        rebuilt, if its numbers of input and output channels are equal and its arguments are plain values.

    Raises:
        ValueError: if ``network`` isn't a ``VarAutoEncoder``, or its layers don't fit together.

    Example:
        >>> theirs = VarAutoEncoder(2, (1, 9, 8), 1, latent_size=3, channels=(4, 8), strides=(2, 2)).eval()
        >>> ours, image = from_var_autoencoder(theirs), torch.rand(1, 1, 9, 8)
        >>> mean = theirs.encode_forward(image)[0]
        >>> torch.allclose(ours(image), theirs.decode_forward(mean)[..., :9, :8], atol=1e-5)
        True
    """
    if not isinstance(network, VarAutoEncoder):
        raise ValueError(f"`network` must be a monai.networks.nets.VarAutoEncoder, got {type(network).__name__}.")
    encoder, decoder = _encoder(network), _decoder(network, network.use_sigmoid)
    ours = ReconstructionNetwork.from_layers(encoder, decoder, network.mu, network.logvar)
    _describe(network, ours)
    return ours.train(network.training)


def _describe(network: VarAutoEncoder, ours: ReconstructionNetwork) -> None:
    """Attach the descriptions that the builders would attach, if they can build the network."""
    shared = {
        "channels": network.channels,
        "strides": network.strides,
        "num_res_units": network.num_res_units,
        "inter_channels": network.inter_channels,
        "inter_dilations": network.inter_dilations,
        "num_inter_units": network.num_inter_units,
        "norm": network.norm,
        "act": network.act,
        "kernel_size": network.kernel_size,
        "up_kernel_size": network.up_kernel_size,
        "dropout": network.dropout,
        "bias": network.bias,
    }
    shape, latent_dim = [int(side) for side in network.in_shape], network.latent_size
    encoder = {"spatial_shape": shape, "in_channels": network.in_channels, **shared}
    decoder = {
        "latent_dim": latent_dim,
        "spatial_shape": shape,
        "out_channels": network.out_channels,
        "use_sigmoid": network.use_sigmoid,
        **shared,
    }
    whole = {**encoder, "latent_dim": latent_dim, "use_sigmoid": network.use_sigmoid, "random_state": None}
    # a subclass of MONAI's class may have other layers
    same = type(network) is VarAutoEncoder and is_plain(shared)
    for module, builder, arguments in (
        (ours.encoder, "build_var_encoder", encoder),
        (ours.decoder, "build_var_decoder", decoder),
        (ours, "build_var_autoencoder", whole if network.in_channels == network.out_channels else None),
    ):
        known = same and arguments is not None
        module.description = {"builder": builder, "arguments": copy.deepcopy(arguments)} if known else None


def _monai_network(
    spatial_shape: Sequence[int], latent_dim: int, n_channels: int, settings: dict[str, Any]
) -> VarAutoEncoder:
    """Build MONAI's network, after checks of arguments that torch or MONAI would misread or fail on."""
    shape = check_spatial_shape("spatial_shape", spatial_shape)
    latent_dim = check_integer("latent_dim", latent_dim, minimum=1)
    n_channels = check_integer("in_channels", n_channels, minimum=1)
    channels = _integers("channels", settings["channels"])
    strides = _integers("strides", settings["strides"])
    if len(channels) != len(strides):
        raise ValueError(f"`strides` must have as many entries as `channels`, {len(channels)}, got {strides}.")
    for name in ("kernel_size", "up_kernel_size"):
        value = settings[name]
        sides = _integers(name, value if isinstance(value, Sequence) else [value])
        if len(sides) not in (1, len(shape)) or any(side % 2 == 0 for side in sides):
            raise ValueError(f"`{name}` must be one odd number, or one for each side of the images, got {value!r}.")
    _check_layer("norm", settings["norm"], Norm.names)
    _check_layer("act", settings["act"], Act.names)
    inter = settings["inter_channels"]
    return VarAutoEncoder(
        len(shape),
        (n_channels, *shape),
        n_channels,
        latent_dim,
        **{
            **settings,
            "channels": channels,
            "strides": strides,
            "inter_channels": None if inter is None else _integers("inter_channels", inter),
        },
    )


def _check_layer(name: str, layer: Any, accepted: Sequence[str]) -> None:
    if layer is not None:
        layer_name = layer[0] if isinstance(layer, list | tuple) and layer else layer
        check_choice(name, str(layer_name).lower(), [entry.lower() for entry in accepted])


def _integers(name: str, values: Any) -> list[int]:
    if not isinstance(values, Sequence) or isinstance(values, str) or (not values and name != "inter_channels"):
        raise ValueError(f"`{name}` must be a sequence of positive integers, got {values!r}.")
    return [check_integer(name, value, minimum=1) for value in values]


def _encoder(network: VarAutoEncoder) -> Encoder:
    body = nn.Sequential(OrderedDict(encode=network.encode, intermediate=network.intermediate))
    in_shape = [int(side) for side in (network.in_channels, *network.in_shape)]
    features = _on_meta(body, torch.empty(2, *in_shape, device="meta")).flatten(1).shape[1]
    if features != network.mu.in_features:
        raise ValueError(
            f"`network` must have layers that fit, got {features} features for a posterior of {network.mu.in_features}."
        )
    return Encoder(body, in_shape, features)


def _decoder(network: VarAutoEncoder, use_sigmoid: bool) -> Decoder:
    # the channels of the intermediate blocks count here; MONAI's decode_forward would take those of the last level
    start_shape = [int(side) for side in (network.encoded_channels, *network.final_size)]
    levels = nn.Sequential(OrderedDict(relu=nn.ReLU(), decode=network.decode))
    out_shape = [int(side) for side in (network.out_channels, *network.in_shape)]
    given = list(_on_meta(levels, torch.empty(2, *start_shape, device="meta")).shape[1:])
    if any(side < wanted for side, wanted in zip(given, out_shape, strict=True)):
        raise ValueError(f"`network` must give at least its input's shape {out_shape}, got {given}.")
    decoder = Decoder(network.latent_size, start_shape, None, out_shape, use_sigmoid, warm_start="none")
    decoder.to(network.decodeL.weight)
    decoder.linear, decoder.levels = network.decodeL, levels
    return decoder


def _on_meta(module: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """Return a module's output on torch's meta device, which has a shape but no values."""
    try:
        result: torch.Tensor = copy.deepcopy(module).to("meta", torch.float32).train()(values)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"`spatial_shape`, `channels` and `strides` must fit each other: {error}") from error
    return result
