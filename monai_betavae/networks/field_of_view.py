"""The field of view of a scan on the grid: the box outside of which there is only padding.

Crops of different sizes on one grid have edges in different places. A moving edge isn't linear in any code, so it would
take many latents; here it is six numbers, which are.
"""

from __future__ import annotations

import torch
from torch import Tensor

FILLED = 0.02
"""Intensity from which a voxel counts as filled; 0 is the background, 1 about the brightest tissue."""

FAR = 1e4
"""Distance, in voxels, of an edge that isn't there."""

MIN_SIDE = 20
"""Length, in voxels, from which the ends of a box can be told from those of something round."""

STEEPNESS = 4.0
"""Slope of an edge is STEEPNESS / 4 per voxel: at 4, an edge between two voxels shares its voxel as partial volume."""


def _profiles(images: Tensor, threshold: float = FILLED) -> list[Tensor]:
    """Return the share of filled voxels of each slice across each axis, relative to the fullest, each (batch, side)."""
    filled = (images.abs().amax(dim=1) > threshold).to(images.dtype)
    profiles: list[Tensor] = []
    for axis in range(filled.ndim - 1):
        moved = filled.transpose(1, axis + 1).flatten(2)
        share = moved.mean(dim=2)
        profiles.append(share / share.amax(dim=1, keepdim=True).clamp_min(1e-12))
    return profiles


def field_edges(images: Tensor) -> Tensor:
    """Return where the filled box of each image begins and ends along each axis.

    A slice belongs to the box if at least half as many of its voxels are filled as in the fullest slice. An image
    without a filled voxel is one box.

    Args:
        images: shape (batch, channel, ...), background 0.

    Returns:
        shape (batch, axis, 2), in voxels; a box of voxels i to j has the edges i - 0.5 and j + 0.5.

    Example:
        >>> image = torch.zeros(1, 1, 6, 8)
        >>> image[:, :, 1:4, 2:8] = 1.0
        >>> field_edges(image)[0].tolist()
        [[0.5, 3.5], [1.5, 7.5]]
    """
    edges: list[Tensor] = []
    for profile in _profiles(images):
        inside = (profile >= 0.5).to(torch.int64)
        empty = inside.amax(dim=1) == 0
        first = inside.argmax(dim=1)
        last = profile.shape[1] - 1 - inside.flip(1).argmax(dim=1)
        first = torch.where(empty, torch.zeros_like(first), first)
        last = torch.where(empty, torch.full_like(last, profile.shape[1] - 1), last)
        edges.append(torch.stack([first - 0.5, last + 0.5], dim=1))
    return torch.stack(edges, dim=1).to(images.dtype)


def cut_faces(images: Tensor) -> Tensor:
    """Return which faces of the box are plane cuts of the field of view, in at least half of the images.

    At a plane cut a slice that is half as full as the fullest follows on empty slices, within two voxels. A
    skull-stripped brain ends in small slices instead, if the grid is fine enough to tell: boxes shorter than
    :data:`MIN_SIDE` count as not cut. An image that reaches the border of the grid has no edge there.

    Args:
        images: shape (batch, channel, ...), background 0.

    Returns:
        booleans of shape (axis, 2).

    Example:
        >>> image = torch.zeros(1, 1, 40, 40)
        >>> image[:, :, 1:34, 2:] = 1.0
        >>> cut_faces(image).tolist()
        [[True, True], [True, False]]
    """
    faces: list[Tensor] = []
    for profile in _profiles(images):
        long_enough = (profile >= 0.5).sum(dim=1) >= MIN_SIDE
        for turned in (profile, profile.flip(1)):
            first = (turned >= 0.5).to(torch.int64).argmax(dim=1)
            number = torch.arange(turned.shape[1], device=turned.device)
            before = torch.where(number[None] < first[:, None] - 1, turned, torch.zeros_like(turned))
            plane = long_enough & (first > 0) & (before.amax(dim=1) <= 0.1)
            faces.append(plane.to(images.dtype).mean() >= 0.5)
    return torch.stack(faces).reshape(-1, 2)


def inside_indices(edges: Tensor, sides: list[int], voxels: Tensor) -> Tensor:
    """Return, for each voxel, the flat index of the nearest voxel well inside the box of each image.

    The outermost slice of the box is left out, since resampling mixes it with the padding.

    Args:
        edges: edges of the boxes, shape (batch, axis, 2).
        sides: sides of the grid.
        voxels: flat indices of voxels, shape (n,).

    Returns:
        shape (batch, n).

    Example:
        >>> inside_indices(torch.tensor([[[0.5, 4.5]]]), [8], torch.arange(8)).tolist()
        [[2, 2, 2, 3, 3, 3, 3, 3]]
    """
    stride, found = 1, torch.zeros_like(voxels)[None]
    for level in range(len(sides)):
        axis = len(sides) - 1 - level
        side = sides[axis]
        place = torch.div(voxels, stride, rounding_mode="floor") % side
        low = (edges[:, axis, 0] + 1.5).clamp(0, side - 1).round().to(torch.int64)[:, None]
        high = (edges[:, axis, 1] - 1.5).clamp(0, side - 1).round().to(torch.int64)[:, None]
        # a box of one or two slices has no slice well inside
        found = found + torch.minimum(torch.maximum(place[None], low), torch.maximum(high, low)) * stride
        stride = stride * side
    return found


def edge_profiles(edges: Tensor, sides: list[int], steepness: float = STEEPNESS) -> list[Tensor]:
    """Return the steps at the edges of a box: 1 on the side of the box, 0 on the other, 1/2 at the edge.

    Args:
        edges: shape (batch, axis, 2), in voxels.
        sides: sides of the grid.
        steepness: four times the slope at an edge, per voxel.

    Returns:
        for each axis the steps at the lower and at the upper edge, shape (batch, 2, side); their product is how visible
        a slice is.

    Example:
        >>> edge_profiles(torch.tensor([[[1.0, 8.5]]]), [4])[0].mul(100).round().tolist()  # in per cent
        [[[2.0, 50.0, 98.0, 100.0], [100.0, 100.0, 100.0, 100.0]]]
    """
    profiles: list[Tensor] = []
    for axis in range(len(sides)):
        number = torch.arange(sides[axis], device=edges.device, dtype=edges.dtype)
        distance = torch.stack([number - edges[:, axis, :1], edges[:, axis, 1:] - number], dim=1)
        profiles.append(torch.sigmoid(steepness * distance))
    return profiles


def no_edges(n_axes: int) -> Tensor:
    """Return mean edges, shape (axis, 2), for images that aren't cut off anywhere."""
    return FAR * torch.tensor([-1.0, 1.0]).expand(n_axes, 2).clone()


def has_edges(mean_edges: Tensor) -> bool:
    """Return whether any edge is within reach."""
    return not mean_edges.is_meta and bool((mean_edges.abs() < FAR / 2).any())


def visible_edges(image: Tensor, mean_edges: Tensor, reach: float = FAR / 2) -> Tensor:
    """Return the edges of images, shape (batch, axis, 2), with the mean's where there is no edge to look for."""
    return torch.where(mean_edges.abs() < reach, field_edges(image).to(mean_edges.dtype), mean_edges)
