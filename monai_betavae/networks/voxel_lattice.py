"""Voxels of a template at every n-th position of their bounding box, and the interpolation to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class VoxelLattice(nn.Module):
    """Voxels at every n-th position of a bounding box, and linear interpolation from control points to them.

    Control points are evenly spaced from end to end of the box of all voxels.

    Attributes:
        voxels: buffer of the flat indices of the voxels in the grid.
        in_box: buffer of their flat indices among the positions of the lattice in the box.
        corner: first position of the box along each axis of the grid.
        box: size of the box along each axis, in voxels.
        steps: distance of two positions along each axis, in voxels.
        sides: number of positions along each axis.
        scale: number of all voxels over that of the lattice's.

    Args:
        n_axes: number of axes of the grid.

    Example:
        >>> lattice = VoxelLattice(2)
        >>> lattice.choose(torch.arange(64), (8, 8), steps=(2, 2), minimum=16)
        >>> len(lattice.voxels), lattice.scale, lattice.voxels[:5].tolist()
        (16, 4.0, [0, 2, 4, 6, 16])
        >>> ramp = torch.tensor([0.0, 7.0]).repeat(2, 1)[None, None]  # two control points along each axis
        >>> lattice.interpolated(ramp)[0, 0, :5]
        tensor([0.0000, 2.0000, 4.0000, 6.0000, 0.0000])
    """

    def __init__(self, n_axes: int) -> None:
        super().__init__()
        self.voxels: Tensor
        self.in_box: Tensor
        self.register_buffer("voxels", torch.zeros(0, dtype=torch.long), persistent=False)
        self.register_buffer("in_box", torch.zeros(0, dtype=torch.long), persistent=False)
        # plain numbers, since indexing with tensors makes a GPU synchronise
        self.corner = [0] * n_axes
        self.box = [0] * n_axes
        self.steps = [1] * n_axes
        self.sides = [0] * n_axes
        self.scale = 1.0

    def choose(self, voxels: Tensor, shape: Sequence[int], steps: Sequence[int], minimum: int = 0) -> None:
        """Choose among voxels.

        Args:
            voxels: flat indices of all voxels in the grid, at least one.
            shape: spatial shape of the grid.
            steps: distance of two positions along each axis.
            minimum: number of voxels below which distances become 1, from the last axis on.
        """
        places = torch.unravel_index(voxels, list(shape))
        self.corner = [int(place.min()) for place in places]
        self.box = [int(place.max()) + 1 - start for place, start in zip(places, self.corner, strict=True)]
        taken = list(steps)
        while True:
            self.steps = list(taken)
            chosen = torch.ones_like(voxels, dtype=torch.bool)
            for place, start, step in zip(places, self.corner, taken, strict=True):
                chosen &= (place - start) % step == 0
            if int(chosen.sum()) >= minimum or max(taken) == 1:
                break
            taken[max(axis for axis, step in enumerate(taken) if step > 1)] = 1
        self.sides = [-(-size // step) for size, step in zip(self.box, self.steps, strict=True)]
        number = torch.zeros_like(voxels)
        for axis, place in enumerate(places):
            number = number * self.sides[axis] + torch.div(
                place - self.corner[axis], self.steps[axis], rounding_mode="floor"
            )
        self.voxels, self.in_box = voxels[chosen], number[chosen]
        self.scale = len(voxels) / len(self.voxels)

    def picked(self, image: Tensor) -> Tensor:
        """Return the values of images, shape (batch, channel, ...), at the voxels, (batch, channel, voxel)."""
        # gather and scatter use all cores of a CPU, index_select and index_add only one
        return image.flatten(2).gather(2, self.voxels.expand(image.shape[0], image.shape[1], -1))

    def interpolated(self, controls: Tensor) -> Tensor:
        """Return fields at control points, (batch, channel, *controls), at the voxels, (batch, channel, voxel)."""
        field = controls
        n_axes = len(self.sides)
        # from the last axis to the first, so that only one product is large, and it has long rows
        for level in range(n_axes):
            axis = n_axes - 1 - level
            weights = self._weights(axis, controls.shape[axis + 2], field)
            if level == 0:
                field = torch.matmul(field, weights.T)
            else:
                after = list(field.shape[axis + 3 :])
                field = torch.matmul(weights, field.flatten(axis + 3)).unflatten(axis + 3, after)
        where = self.in_box.expand(field.shape[0], field.shape[1], -1)
        chosen: Tensor = field.flatten(2).gather(2, where)
        return chosen

    def spread(self, values: Tensor, n_controls: list[int]) -> Tensor:
        """Return what the transpose of :meth:`interpolated` makes of values, shape (batch, channel, voxel)."""
        n_axes = len(self.sides)
        n_batch, n_channels = values.shape[0], values.shape[1]
        field = values.new_zeros([n_batch, n_channels] + self.sides).flatten(2)  # noqa: RUF005  # TorchScript
        field = field.scatter(2, self.in_box.expand(n_batch, n_channels, -1), values)
        field = field.reshape([n_batch, n_channels] + self.sides)  # noqa: RUF005  # has no unpacking
        # the last axis, which lies together in memory, comes first
        for level in range(n_axes):
            axis = n_axes - 1 - level
            weights = self._weights(axis, n_controls[axis], field)
            if level == 0:
                field = torch.matmul(field, weights)
            else:
                after = list(field.shape[axis + 3 :])
                field = torch.matmul(weights.T, field.flatten(axis + 3)).unflatten(axis + 3, after)
        return field

    def _weights(self, axis: int, n_controls: int, like: Tensor) -> Tensor:
        return interpolation_weights(self.box[axis], n_controls, like.device, like.dtype)[:: self.steps[axis]]


def interpolation_weights(side: int, n_controls: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return linear interpolation weights, (side, n), from control points evenly spaced from end to end.

    Example:
        >>> interpolation_weights(3, 2, torch.device("cpu"), torch.float32).tolist()
        [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    """
    positions = torch.linspace(0.0, float(n_controls - 1), side, device=device, dtype=dtype)
    nodes = torch.arange(n_controls, device=device, dtype=dtype)
    return (1 - (positions[:, None] - nodes[None]).abs()).clamp_min(0)
