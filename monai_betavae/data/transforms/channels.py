"""Volumes of several channels: steps that treat each channel by itself, and images on the grid of the first one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ...batches.images import plain_tensor

MIN_OVERLAP = 0.5
"""Smallest share of the first image's voxels that another image of the subject must cover."""

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))


def by_channel(volume: Any, step: Callable[..., Any], *values: Sequence[Any]) -> Any:
    """Return the result of a step on each channel, as one volume; of a volume of one channel, that of the volume.

    Args:
        volume: channel first; of a ``MetaTensor``, the result has the metadata of the first channel's result.
        step: called with each channel, of shape (1, ...), and with its entry in each of ``values``.
        values: sequences with an entry per channel.

    Example:
        >>> by_channel(torch.ones(2, 1, 1, 1), lambda channel, factor: channel * factor, [2, 3]).flatten().tolist()
        [2.0, 3.0]
    """
    if len(volume) == 1:
        return step(volume, *(each[0] for each in values))
    return stacked([step(volume[i : i + 1], *(each[i] for each in values)) for i in range(len(volume))])


def stacked(channels: Sequence[Any]) -> Any:
    """Return volumes of one channel as one volume, with the metadata of the first."""
    if len(channels) == 1:
        return channels[0]
    joined = torch.cat([plain_tensor(each) for each in channels])
    return MetaTensor(joined).copy_meta_from(channels[0]) if isinstance(channels[0], MetaTensor) else joined


def on_grid_of(name: str, volume: MetaTensor, reference: MetaTensor, background: float | None) -> MetaTensor:
    """Return a volume on the grid of another one, by their affines.

    Equal grids leave the voxels as they are. Otherwise the volume is smoothed along its axes where the other grid is
    coarser, as in :class:`~monai_betavae.data.ResampleAntiAliasedd`, and interpolated linearly. Beyond its faces it
    continues as its background, or as the voxels of its faces if it has none. Nothing is registered: the affines are
    trusted.

    Args:
        name: name of the volume, for messages.
        volume: shape (1, x, y, z).
        reference: the volume whose grid is used, shape (1, x, y, z).
        background: the volume's background, see :func:`~.background.background_value`.

    Raises:
        ValueError: naming the volume, if it covers less than half of the other one.
    """
    source, target = (np.asarray(each.affine, dtype=np.float64) for each in (volume, reference))
    if volume.shape == reference.shape and np.allclose(source, target, rtol=0, atol=1e-3):
        return MetaTensor(plain_tensor(volume)).copy_meta_from(reference)
    matrix = np.linalg.inv(source) @ target
    # where the grids coincide, a rounding error must not put a face outside
    matrix = np.round(matrix, 7)
    shape, sides = tuple(reference.shape[1:]), np.array(volume.shape[1:])
    covered = _share_inside(matrix, shape, sides)
    if covered < MIN_OVERLAP:
        raise ValueError(
            f"{name} must show what the subject's first image shows, got {covered:.0%} of its field of view: the two "
            "are aligned by their affines, which must be of one space."
        )
    values = plain_tensor(volume)[0].double().numpy()
    if background is not None:
        values = values - background  # so that interpolation leaves the background exactly as it is
    how: dict[str, Any] = {"mode": "nearest"} if background is None else {"mode": "constant", "cval": 0.0}
    sigmas = _smoothing(source, target)
    if sigmas.any():
        values = ndimage.gaussian_filter(values, sigmas, **how)
    values = ndimage.affine_transform(values, matrix[:3, :3], matrix[:3, 3], output_shape=shape, order=1, **how)
    values = values if background is None else values + background
    return MetaTensor(torch.from_numpy(values.astype(np.float32))[None]).copy_meta_from(reference)


def _share_inside(matrix: NDArray[np.float64], shape: Sequence[int], sides: NDArray[np.int64]) -> float:
    """Return the share of a grid's voxels that lie in the array of another one, from at most 16 voxels an axis."""
    steps = [np.linspace(0, side - 1, min(side, 16)) for side in shape]
    points = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
    index = points @ matrix[:3, :3].T + matrix[:3, 3]
    return float(((index >= -0.5) & (index <= sides - 0.5)).all(axis=1).mean())


def _smoothing(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard deviations, in voxels along each axis of a grid, of the smoothing for a coarser one."""
    own, others = (np.linalg.norm(each[:3, :3], axis=0) for each in (source, target))
    # the axes of the two grids that run along the same axis of the body
    along = {int(world): side for (world, _), side in zip(nib.io_orientation(target), others, strict=True)}
    wanted = np.array([along[int(world)] for world, _ in nib.io_orientation(source)])
    sigmas: NDArray[np.float64] = np.sqrt(np.maximum(wanted**2 - own**2, 0)) / own / FWHM_PER_SIGMA
    return np.where(wanted > own * 1.001, sigmas, 0.0)


def of_channels(values: Any) -> list[float]:
    """Return what a sample notes for each channel, from a scalar for one channel or a vector for several.

    Example:
        >>> of_channels(torch.tensor(2.0)), of_channels(torch.tensor([2.0, 3.0]))
        ([2.0], [2.0, 3.0])
    """
    return [float(value) for value in torch.as_tensor(values).reshape(-1)]


def noted_of_channels(values: Sequence[float]) -> Tensor:
    """Return what a sample notes for each channel: a float64 scalar for one channel, a vector for several."""
    found = torch.tensor(list(values), dtype=torch.float64)
    return found[0] if len(values) == 1 else found
