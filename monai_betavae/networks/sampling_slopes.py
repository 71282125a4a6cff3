"""Slopes of ``grid_sample`` by what it samples and where: torch's backward function, and the same for ONNX."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor


def sampling_slopes(output: Tensor, image: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slopes of sampled values by image and places: torch's backward function of ``grid_sample``.

    Args:
        output: slopes by the sampled values, shape (batch, channel, ..., n).
        image: what is sampled, shape (batch, channel, ...).
        places: where, shape (batch, ..., n, axis), as in ``grid_sample`` with border padding and aligned corners.

    Returns:
        slopes of the shape of ``image`` and of ``places``.
    """
    if image.ndim == 5:
        by_image, by_places = torch.ops.aten.grid_sampler_3d_backward(output, image, places, 0, 1, True, [True, True])
    else:
        by_image, by_places = torch.ops.aten.grid_sampler_2d_backward(output, image, places, 0, 1, True, [True, True])
    return by_image, by_places


def written_out_slopes(output: Tensor, image: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return :func:`sampling_slopes` by operations that ONNX has, several times slower.

    Arguments and results are the same.
    """
    sides = image.shape[2:]
    n_axes, n_places = len(sides), places.shape[-2]
    values, rest = image.flatten(2), output.reshape(*image.shape[:2], n_places)
    lower, shares, inside = [], [], []
    for axis, side in enumerate(sides):
        place = (places[..., n_axes - 1 - axis].reshape(-1, n_places) + 1) / 2 * (side - 1)
        inside.append(((place > 0) & (place < side - 1)).to(place.dtype))
        place = place.clamp(0, side - 1)
        lower.append(place.floor().clamp(0, max(side - 2, 0)))
        shares.append(place - lower[-1])
    by_values = torch.zeros_like(values)
    along = [torch.zeros_like(share) for share in shares]
    for corner in itertools.product((0, 1), repeat=n_axes):
        index = torch.zeros_like(lower[0])
        for axis, side in enumerate(sides):
            index = index * side + (lower[axis] + corner[axis]).clamp(0, side - 1)
        weights = [share if upper else 1 - share for share, upper in zip(shares, corner, strict=True)]
        where = index.long()[:, None].expand(-1, image.shape[1], -1)
        by_values = by_values.scatter_add(2, where, rest * math.prod(weights[1:], start=weights[0])[:, None])
        product = (values.gather(2, where) * rest).sum(dim=1)
        for axis, upper in enumerate(corner):
            others = [weight for other, weight in enumerate(weights) if other != axis]
            along[axis] = along[axis] + (1 if upper else -1) * math.prod(others, start=product)
    scaled = [slope * seen * (side - 1) / 2 for slope, seen, side in zip(along, inside, sides, strict=True)]
    return by_values.reshape(image.shape), torch.stack(scaled[::-1], dim=-1).reshape(places.shape)
