"""Resampling to another voxel size, with smoothing along each axis that becomes coarser."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.transforms import BorderPad, GaussianSmooth, MapTransform, SpatialResample
from numpy.typing import NDArray
from torch import Tensor

from ..._checks import check_real
from ...batches.images import plain_tensor
from .background import foreground, noted_backgrounds
from .channels import FWHM_PER_SIGMA, by_channel
from .field_of_view import check_center, point_of

FAINT = 1e-4
"""Share of the intensity range below which voxels of a grid about a point count as background."""

TRUNCATED = 4.0
"""Number of standard deviations at which MONAI truncates its Gaussian."""


class ResampleAntiAliasedd(MapTransform):
    """Resample to a voxel size about the centre of the field of view, smoothing along each axis that becomes coarser.

    The Gaussian's full width at half maximum is sqrt(target^2 - source^2), so that the extent of a voxel of the result
    is about its spacing. MONAI's ``Spacing`` alone picks single voxels when it coarsens, and shifts the grid of an
    oblique volume by up to a voxel if its affine changes by 1e-7, for example from NIfTI to DICOM.

    Beyond its faces, a volume continues as its background if the record notes one (see :class:`ReadVolumed`), and as
    the voxels of its faces if the record notes that there is none. If the record notes nothing, as in release 0.1.0,
    smoothing continues the volume as 0. Each channel is resampled by itself. A volume with a background b other than 0
    becomes float64, so that background and foreground remain as distinguishable as they are around 0.

    Args:
        keys: key of the volume, a channel-first ``MetaTensor``.
        spacing: target voxel size in millimetres, one number or three.
        center: point about which the grid is placed, as in :class:`CropToGridd`; with "foreground" or a point, a
            voxel's centre is placed there, wherever the file's array ends.

    Example:
        >>> volume = MetaTensor(torch.ones(1, 8, 8, 8), affine=torch.eye(4))
        >>> resampled = ResampleAntiAliasedd("image", 2)({"image": volume})["image"]
        >>> tuple(resampled.shape), resampled.affine[:3, 3].tolist()  # the same centre, 3.5 mm
        ((1, 4, 4, 4), [0.5, 0.5, 0.5])
    """

    def __init__(self, keys: str, spacing: float | Sequence[float], center: str | Sequence[float] = "image") -> None:
        super().__init__(keys)
        self.spacing = np.asarray(three_spacings("spacing", spacing))
        self.center = check_center(center)
        self.resample = SpatialResample(mode="bilinear", padding_mode="border")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the record with its volume resampled."""
        result = dict(data)
        for key in self.keys:
            source = np.linalg.norm(result[key].affine[:3, :3].numpy(), axis=0)
            if not np.allclose(source, self.spacing, rtol=1e-3):
                point = point_of(self.center, result, key)
                is_noted = isinstance(result.get(f"{key}_background"), Tensor)
                backgrounds = noted_backgrounds(result, key) if is_noted else [None] * len(result[key])
                step = partial(self._resampled, source=source, point=point, is_noted=is_noted)
                result[key] = by_channel(result[key], step, backgrounds)
        return result

    def _resampled(
        self,
        volume: MetaTensor,
        background: float | None,
        *,
        source: NDArray[np.float64],
        point: NDArray[np.float64] | None,
        is_noted: bool,
    ) -> MetaTensor:
        """Return a channel on the other grid."""
        if background:
            volume = volume - background  # so that the background is 0, inside the volume and beyond its faces
        sigmas = np.sqrt(np.maximum(self.spacing**2 - source**2, 0)) / source / FWHM_PER_SIGMA
        if point is not None and background is not None:
            # as far as the volume has any effect, so that a copy with more background around it gives the same result
            reach = np.ceil(TRUNCATED * sigmas + self.spacing / source) + 1
            volume = BorderPad(spatial_border=[int(side) for side in np.repeat(reach, 2)])(volume)
        if np.any(sigmas > 0):
            smooth = _smoothed_to_the_edge if is_noted and background is None else _smoothed_to_zero
            volume = smooth(volume, sigmas)
        affine, shape = _resampled_grid(volume.affine.numpy(), volume.shape[1:], source, self.spacing, point)
        volume = self.resample(volume, dst_affine=torch.from_numpy(affine), spatial_size=shape)
        if point is not None and background is not None:
            # where voxels of both grids coincide, rounding decides whether a neighbour leaves a trace: set traces to 0
            volume = volume * torch.from_numpy(foreground(plain_tensor(volume).numpy(), 0.0, FAINT))
        return _shifted(volume, background) if background else volume


def _shifted(volume: MetaTensor, background: float) -> MetaTensor:
    """Return a volume plus its background as float64; only its zeros become the background."""
    shifted = volume.double() + background
    # far out in the Gaussian's tail, even float64 rounds a sum to the background
    beside = torch.nextafter(torch.full_like(shifted, background), torch.sign(volume).double() * torch.inf)
    found: MetaTensor = torch.where((volume != 0) & (shifted == background), beside, shifted)
    return found


def _smoothed_to_zero(volume: MetaTensor, sigmas: NDArray[np.float64]) -> MetaTensor:
    smoothed: MetaTensor = GaussianSmooth(sigma=tuple(sigmas))(volume)
    return smoothed


def _smoothed_to_the_edge(volume: MetaTensor, sigmas: NDArray[np.float64]) -> MetaTensor:
    """Smooth like ``GaussianSmooth``, but continue the volume as the voxels of its faces, not as 0."""
    kernels = [gaussian_1d(torch.tensor(float(sigma)), truncated=TRUNCATED) for sigma in sigmas]
    smoothed = separable_filtering(plain_tensor(volume)[None], kernels, mode="replicate")[0]
    return MetaTensor(smoothed).copy_meta_from(volume)


def _resampled_grid(
    affine: NDArray[np.float64],
    shape: Sequence[int],
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    point: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], list[int]]:
    """Return the affine and shape of a grid with another voxel size, the same axes and about the same extent.

    Without a point, the centre stays the same. With one, it coincides with a voxel's centre of the grid, extended if
    necessary.
    """
    sides = np.asarray(shape)
    grid = affine.copy()
    grid[:3, :3] = affine[:3, :3] / source * target
    # a little more than half, so that rounding errors don't decide if the extent is n and a half voxels
    if point is None:
        n_voxels = np.maximum(np.floor(sides * source / target + 0.501), 1)
        centre = affine[:3, :3] @ ((sides - 1) / 2) + affine[:3, 3]
        grid[:3, 3] = centre - grid[:3, :3] @ ((n_voxels - 1) / 2)
    else:
        index, step = np.linalg.solve(affine[:3, :3], point - affine[:3, 3]), target / source
        n_before = np.floor((index + 0.501) / step)
        n_voxels = np.maximum(np.floor((sides - 1 + 0.501 - index) / step) + n_before + 1, 1)
        grid[:3, 3] = point - grid[:3, :3] @ n_before
    return grid, [int(side) for side in n_voxels]


def three_spacings(name: str, value: float | Sequence[float]) -> tuple[float, float, float]:
    """Return one or three voxel sizes as three, or raise ``ValueError``."""
    values = list(value) if isinstance(value, Sequence) else [value] * 3
    if len(values) != 3:
        raise ValueError(f"`{name}` must be one number or three, in millimetres, got {value!r}.")
    x, y, z = (check_real(name, entry, minimum=0, exclusive=True) for entry in values)
    return x, y, z
