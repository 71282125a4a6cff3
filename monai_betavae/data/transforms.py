"""Volumes, on disk or in memory, to tensors of one shape; the way back is in :mod:`~monai_betavae.data.restoration`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.transforms import Compose

from .._checks import check_spatial_shape
from .preprocessing import (
    ReadVolumed,
    ResampleAntiAliasedd,
    ScaleBrainIntensityd,
    ToPlainSampled,
    check_percentiles,
    three_spacings,
)
from .restoration import RestoreVolume, RestoreVolumed, volume_image
from .transform_description import rebuild_transforms

__all__ = [
    "ReadVolumed",
    "ResampleAntiAliasedd",
    "RestoreVolume",
    "RestoreVolumed",
    "ScaleBrainIntensityd",
    "ToPlainSampled",
    "brain_transforms",
    "volume_image",
]


def brain_transforms(
    spatial_shape: Sequence[int],
    spacing: float | Sequence[float] | None = None,
    *,
    percentiles: tuple[float, float] = (0.5, 99.5),
    image_key: str = "image",
    mask_key: str | None = None,
    keep: Sequence[str] = ("subject",),
) -> Compose:
    """Make the deterministic transforms from a record with a volume's path to a sample of plain tensors.

    In place of a path a record may hold the image itself, as MONAI Deploy and MONAI Label give it; see
    :class:`ReadVolumed`.

    Load, turn to RAS, resample to ``spacing`` (smoothed first where that is coarser, so that it doesn't alias), pad or
    crop around the centre to ``spatial_shape`` (nothing is stretched), scale intensities.

    Intensities: with p_lo, p_hi percentiles of the non-zero voxels and lo = min(p_lo, 0), x becomes
    clip((x - lo) / (p_hi - lo), 0, 1). One hot voxel changes nothing, and a background of zero around positive
    intensities stays zero, there and back.

    Args:
        spatial_shape: three sides of the result, in voxels.
        spacing: voxel size of the result in millimetres, one number or three; ``None`` keeps each file's own.
        percentiles: lower and upper percentile, 0 <= lower < upper <= 100.
        image_key: key of the path or image in a record, and of the image in a sample.
        mask_key: key of a mask in a record, its path or in memory, on the image's grid; outside it the image becomes 0.
        keep: further keys of the record that a sample keeps; one a record lacks is left out.

    Returns:
        MONAI ``Compose`` from a record to a dictionary with, under ``image_key``, a float32 ``torch.Tensor`` of shape
        (1, *spatial_shape) in [0, 1]; under ``<image_key>_path`` the file; under ``<image_key>_affine`` the 4x4 affine
        of the tensor's grid (millimetres, RAS+); under ``<image_key>_range`` (lo, p_hi) in the file's units; under
        ``<image_key>_source_affine`` and ``<image_key>_source_shape`` the grid that the volume came on. Its attribute
        ``description`` holds all this as plain values; see :mod:`~monai_betavae.data.transform_description`.

    Raises:
        ValueError: naming the argument; or, when applied, the file.

    Example:
        >>> import nibabel as nib, numpy as np, os, tempfile
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
    low, high = check_percentiles(percentiles)
    kept = [keep] if isinstance(keep, str) else list(keep)
    steps: list[dict[str, Any]] = [
        {"name": "ReadVolumed", "arguments": {"keys": image_key, "mask_key": mask_key}},
        {"name": "Orientationd", "arguments": {"keys": image_key, "axcodes": "RAS", "labels": None}},
    ]
    if spacing is not None:
        sides = list(three_spacings("spacing", spacing))
        steps.append({"name": "ResampleAntiAliasedd", "arguments": {"keys": image_key, "spacing": sides}})
    steps += [
        {"name": "ResizeWithPadOrCropd", "arguments": {"keys": image_key, "spatial_size": list(shape)}},
        {"name": "ScaleBrainIntensityd", "arguments": {"keys": image_key, "percentiles": [low, high]}},
        {"name": "ToPlainSampled", "arguments": {"keys": image_key, "keep": kept}},
    ]
    return rebuild_transforms({"transforms": steps}, "brain_transforms")
