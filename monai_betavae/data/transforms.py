"""Volumes on disk to tensors of one shape, and reconstructions back onto the grid of their file."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor, NibabelReader
from monai.transforms import (
    Compose,
    CopyItemsd,
    GaussianSmooth,
    LoadImage,
    MapTransform,
    Orientationd,
    ResizeWithPadOrCropd,
    SpatialResample,
)
from scipy import ndimage

from .._checks import check_real, check_spatial_shape
from ..batches import plain_tensor
from .dicom import load_series
from .lazy_voxels import LazyVoxels
from .volumes import first_line, open_volume, read_header, read_voxels, repair_non_finite, voxel_problem

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))


def brain_transforms(
    spatial_shape: Sequence[int],
    spacing: float | Sequence[float] | None = None,
    *,
    percentiles: tuple[float, float] = (0.5, 99.5),
    image_key: str = "image",
    mask_key: str | None = None,
    keep: Sequence[str] = ("subject",),
) -> Compose:
    """Make the deterministic transforms from a record with a file's path to a sample of plain tensors.

    Load, turn to RAS, resample to ``spacing`` (smoothed first where that is coarser, so that it doesn't alias), pad or
    crop around the centre to ``spatial_shape`` (nothing is stretched), scale intensities.

    Intensities: with p_lo, p_hi percentiles of the non-zero voxels and lo = min(p_lo, 0), x becomes
    clip((x - lo) / (p_hi - lo), 0, 1). One hot voxel changes nothing, and a background of zero around positive
    intensities stays zero, there and back.

    Args:
        spatial_shape: three sides of the result, in voxels.
        spacing: voxel size of the result in millimetres, one number or three; ``None`` keeps each file's own.
        percentiles: lower and upper percentile, 0 <= lower < upper <= 100.
        image_key: key of the path in a record, and of the image in a sample.
        mask_key: key of the path of a mask in a record, on the image's grid; outside it the image becomes 0.
        keep: further keys of the record that a sample keeps; one a record lacks is left out.

    Returns:
        MONAI ``Compose`` from a record to a dictionary with, under ``image_key``, a float32 ``torch.Tensor`` of shape
        (1, *spatial_shape) in [0, 1]; under ``<image_key>_path`` the file; under ``<image_key>_affine`` the 4x4 affine
        of the tensor's grid (millimetres, RAS+); under ``<image_key>_range`` (lo, p_hi) in the file's units.

    Raises:
        ValueError: naming the argument; or, when applied, the file.

    Example:
        >>> import tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "sub-1_T1w.nii.gz")
        >>> volume = np.random.default_rng(0).uniform(100, 900, (20, 24, 18)).astype(np.float32)
        >>> nib.save(nib.Nifti1Image(volume, np.diag([2.0, 2.0, 2.0, 1.0])), path)
        >>> sample = brain_transforms((16, 16, 16))({"image": path, "subject": "sub-1"})
        >>> sample["image"].shape, sample["subject"], float(sample["image"].max())
        (torch.Size([1, 16, 16, 16]), 'sub-1', 1.0)
    """
    shape = check_spatial_shape("spatial_shape", spatial_shape)
    if len(shape) != 3:
        raise ValueError(f"`spatial_shape` must have three sides for brain volumes, got {spatial_shape!r}.")
    low = check_real("percentiles[0]", percentiles[0], minimum=0, maximum=100)
    high = check_real("percentiles[1]", percentiles[1], minimum=low, maximum=100, exclusive=True)
    path_key = f"{image_key}_path"
    steps: list[Any] = [
        CopyItemsd(image_key, names=path_key),
        ReadVolumed(image_key, mask_key),
        Orientationd(image_key, axcodes="RAS", labels=None),
    ]
    if spacing is not None:
        steps.append(ResampleAntiAliasedd(image_key, _three("spacing", spacing)))
    steps += [
        ResizeWithPadOrCropd(image_key, shape),
        ScaleBrainIntensityd(image_key, (low, high)),
        ToPlainSampled(image_key, keep),
    ]
    return Compose(steps)


class ReadVolumed(MapTransform):
    """Read a volume with MONAI's ``LoadImage``; refuse, by file name, one that a model can't use.

    A folder of one DICOM series is read by MONAI's ITK reader, and of a file with a fourth axis the volume that the
    record names under "channel". Trailing axes of length one are dropped, and integers scaled as the header says.
    Isolated non-finite voxels, up to 1 %, are replaced by the mean of the finite ones around, with a warning that
    names the file.

    Args:
        keys: key of the file's path; the volume takes its place, float32, channel first.
        mask_key: key of the path of a mask on the same grid: the voxels where it is 0 become 0. A record without
            one is an error.
    """

    def __init__(self, keys: str, mask_key: str | None = None) -> None:
        super().__init__(keys)
        self.mask_key = mask_key
        reader = NibabelReader(squeeze_non_spatial_dims=True)
        self.load = LoadImage(reader, image_only=True, ensure_channel_first=True, dtype=np.float32)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the record with the volume, or raise ``ValueError``."""
        result = dict(data)
        for key in self.keys:
            path = os.fspath(data[key])
            volume = self._read(path, data.get("channel"))
            if self.mask_key is not None:
                volume = volume * self._read_mask(data, path, volume)
            result[key] = volume
        return result

    def _read(self, path: str, channel: int | None) -> MetaTensor:
        image = read_header(path, channel)
        try:
            volume = self._load(path, image)
        except Exception as error:  # truncated or damaged: gzip, zlib and nibabel have an error each
            raise ValueError(f"{path} is truncated or damaged: {first_line(error)}") from error
        values = plain_tensor(volume).numpy()[0]
        problem = voxel_problem(values)
        if problem is not None:
            raise ValueError(f"{path} {problem}.")
        n_bad = values.size - int(np.count_nonzero(np.isfinite(values)))
        if n_bad:
            warnings.warn(f"{path} has {n_bad} non-finite voxels; they take the mean of those around.", stacklevel=2)
            volume = MetaTensor(torch.from_numpy(repair_non_finite(values))[None], meta=volume.meta)
        return volume

    def _load(self, path: str, image: Any) -> MetaTensor:
        if os.path.isdir(path):
            series: MetaTensor = load_series(path)
            return series
        if isinstance(image.dataobj, LazyVoxels):  # one volume of several, or an array: nothing MONAI has a reader for
            return MetaTensor(torch.from_numpy(read_voxels(path, image).copy())[None], affine=image.affine)
        volume: MetaTensor = self.load(path)
        return volume

    def _read_mask(self, data: Mapping[Hashable, Any], path: str, volume: MetaTensor) -> torch.Tensor:
        found = data.get(self.mask_key)
        if not isinstance(found, str | os.PathLike):
            raise ValueError(f"The record of {path} must have a mask's path under {self.mask_key!r}, got {found!r}.")
        name = os.fspath(found)
        image = read_header(name)
        mask = read_voxels(name, image)
        same = mask.shape == volume.shape[1:] and np.allclose(image.affine, volume.affine.numpy(), atol=1e-3)
        if not same:
            raise ValueError(f"{name} must be on the grid of {path}, of the same shape and affine, got {mask.shape}.")
        if not (mask > 0).any():
            raise ValueError(f"{name} must have a voxel above 0.")
        return torch.from_numpy(mask > 0)[None]


class ResampleAntiAliasedd(MapTransform):
    """Resample to a voxel size about the centre of the field of view, smoothing along each axis that becomes coarser.

    The Gaussian's full width at half maximum is sqrt(target^2 - source^2), so that a voxel of the result has about
    the extent of its spacing; MONAI's ``Spacing`` alone picks single voxels when it coarsens, and puts the grid of an
    oblique volume by up to a voxel elsewhere if its affine changes by 1e-7, as from NIfTI to DICOM.

    Args:
        keys: key of the volume, a channel-first ``MetaTensor``.
        spacing: target voxel size in millimetres, per axis.
    """

    def __init__(self, keys: str, spacing: Sequence[float]) -> None:
        super().__init__(keys)
        self.spacing = np.asarray(spacing, dtype=float)
        self.resample = SpatialResample(mode="bilinear", padding_mode="border")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the record with its volume resampled."""
        result = dict(data)
        for key in self.keys:
            volume: MetaTensor = result[key]
            source = np.linalg.norm(volume.affine[:3, :3].numpy(), axis=0)
            if not np.allclose(source, self.spacing, rtol=1e-3):
                widths = np.sqrt(np.maximum(self.spacing**2 - source**2, 0)) / source
                if np.any(widths > 0):
                    volume = GaussianSmooth(sigma=tuple(widths / FWHM_PER_SIGMA))(volume)
                affine, shape = _resampled_grid(volume.affine.numpy(), volume.shape[1:], source, self.spacing)
                volume = self.resample(volume, dst_affine=torch.from_numpy(affine), spatial_size=shape)
            result[key] = volume
        return result


def _resampled_grid(
    affine: np.ndarray[Any, Any], shape: Sequence[int], source: np.ndarray[Any, Any], target: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], list[int]]:
    """Return affine and shape of another voxel size: the same axes, the same centre, about the same extent."""
    # a little more than half, so that rounding errors don't decide where the extent is n and a half voxels
    sides = np.maximum(np.floor(np.asarray(shape) * source / target + 0.501), 1)
    grid = affine.copy()
    grid[:3, :3] = affine[:3, :3] / source * target
    centre = affine[:3, :3] @ ((np.asarray(shape) - 1) / 2) + affine[:3, 3]
    grid[:3, 3] = centre - grid[:3, :3] @ ((sides - 1) / 2)
    return grid, [int(side) for side in sides]


class ScaleBrainIntensityd(MapTransform):
    """Scale intensities by percentiles of the non-zero voxels and clip to [0, 1]; store the range beside it.

    Args:
        keys: key of the volume.
        percentiles: lower and upper percentile.
    """

    def __init__(self, keys: str, percentiles: tuple[float, float]) -> None:
        super().__init__(keys)
        self.percentiles = percentiles

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the record with its volume scaled, and ``<key>_range`` added."""
        result = dict(data)
        for key in self.keys:
            volume = result[key]
            values = plain_tensor(volume).numpy()
            brain = values[values != 0]
            if brain.size == 0:
                raise ValueError(
                    f"{result.get(f'{key}_path', key)} has no non-zero voxel inside the field of view that "
                    "`spatial_shape` and `spacing` leave."
                )
            low, high = np.percentile(brain, self.percentiles)
            low = min(low, 0.0)
            if high <= low:  # nearly all non-zero voxels are equal and negative
                low, high = float(values.min()), float(values.max())
            result[key] = (volume - float(low)) / float(high - low)
            result[key] = result[key].clamp(0.0, 1.0)
            result[f"{key}_range"] = torch.tensor([low, high], dtype=torch.float64)
        return result


class ToPlainSampled(MapTransform):
    """End the preprocessing: plain tensors that collate and cache fast, and only the keys asked for.

    Args:
        keys: key of the volume.
        keep: further keys to keep.
    """

    def __init__(self, keys: str, keep: Sequence[str]) -> None:
        super().__init__(keys)
        self.keep = tuple(keep)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample."""
        sample: dict[Hashable, Any] = {}
        for key in self.keys:
            volume = data[key]
            sample[key] = plain_tensor(volume).float().contiguous()
            sample[f"{key}_path"] = str(data[f"{key}_path"])
            sample[f"{key}_affine"] = plain_tensor(volume.affine).double()
            sample[f"{key}_range"] = data[f"{key}_range"]
        sample.update({key: data[key] for key in self.keep if data.get(key) is not None})
        return sample


class RestoreVolume:
    """Bring a reconstruction back to the grid, affine and intensities of the file its input came from.

    Voxels of the file outside the model's field of view become zero. Between voxels of the model's grid it
    interpolates linearly; where the grids coincide (only padded, cropped or flipped) values are unchanged.

    Args:
        image_key: key of the image in a sample of :func:`brain_transforms`.
        restore_intensity: whether to undo the intensity scaling; clipped intensities stay clipped.

    Example:
        >>> import tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "sub-1_T1w.nii.gz")
        >>> volume = np.random.default_rng(0).uniform(100, 900, (20, 24, 18)).astype(np.float32)
        >>> nib.save(nib.Nifti1Image(volume, np.diag([-2.0, 2.0, 2.0, 1.0])), path)
        >>> sample = brain_transforms((24, 24, 24), percentiles=(0, 100))({"image": path})
        >>> restored = RestoreVolume()(sample["image"], sample)
        >>> bool(np.abs(restored.get_fdata() - volume).max() < 1e-3)
        True
    """

    def __init__(self, image_key: str = "image", restore_intensity: bool = True) -> None:
        self.image_key = image_key
        self.restore_intensity = restore_intensity

    def __call__(self, reconstruction: torch.Tensor, sample: Mapping[str, Any]) -> Any:
        """Return the reconstruction, shape (1, ...), as a float32 image on its file's grid.

        Args:
            reconstruction: the model's output for one image, shape (1, ...).
            sample: that image's sample, as :func:`brain_transforms` made it.
        """
        reference = open_volume(sample[f"{self.image_key}_path"])
        values = plain_tensor(reconstruction).detach().cpu().float().numpy()[0]
        low, high = np.asarray(sample[f"{self.image_key}_range"], dtype=float)
        to_model = np.linalg.inv(np.asarray(sample[f"{self.image_key}_affine"], dtype=float)) @ reference.affine
        # a grid that coincides must not miss its edge by a rounding error
        to_model = np.round(to_model, 7)
        shape = reference.shape[:3]
        inside = ndimage.affine_transform(values, to_model[:3, :3], to_model[:3, 3], output_shape=shape, order=1)
        if self.restore_intensity:
            weight = ndimage.affine_transform(
                np.ones_like(values), to_model[:3, :3], to_model[:3, 3], output_shape=shape, order=1
            )
            inside = inside * (high - low) + low * weight
        return _like(reference, inside.astype(np.float32))


def _like(reference: Any, values: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    """Return a float32 image with the reference's affine, to the bit."""
    if isinstance(reference, nib.Nifti1Image):
        # the header's own sform and qform: writing the affine anew would round a quaternion's to float32
        header = copy.deepcopy(reference.header)
        header.set_data_dtype(np.float32)
        header["cal_min"] = header["cal_max"] = 0
        image = type(reference)(values, reference.affine, header)  # nibabel leaves a header that says so as it is
        image.header.set_slope_inter(1, 0)
        return image
    return nib.Nifti1Image(values, reference.affine)


def _three(name: str, value: float | Sequence[float]) -> tuple[float, float, float]:
    values = list(value) if isinstance(value, Sequence) else [value] * 3
    if len(values) != 3:
        raise ValueError(f"`{name}` must be one number or three, in millimetres, got {value!r}.")
    x, y, z = (check_real(name, entry, minimum=0, exclusive=True) for entry in values)
    return x, y, z
