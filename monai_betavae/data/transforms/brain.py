"""The preprocessing that turns volumes, on disk or in memory, into tensors of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.transforms import Compose

from ..._checks import check_choice, check_spatial_shape
from .field_of_view import PADDINGS, check_center
from .intensity import check_percentiles
from .resampling import three_spacings
from .transform_description import rebuild_transforms


def brain_transforms(
    spatial_shape: Sequence[int],
    spacing: float | Sequence[float] | None = None,
    *,
    percentiles: tuple[float, float] = (0.5, 99.5),
    center: str | Sequence[float] = "image",
    padding: str = "background",
    image_key: str = "image",
    mask_key: str | None = None,
    keep: Sequence[str] = ("subject",),
    contrasts: Sequence[str] | None = None,
) -> Compose:
    """Make the deterministic transforms from a record with a volume's path to a sample of plain tensors.

    Instead of a path, a record may contain the image itself, as in MONAI Deploy and MONAI Label; see
    :class:`ReadVolumed`.

    The steps are: load, turn to RAS, resample to ``spacing`` (with prior smoothing along coarser axes, to prevent
    aliasing), crop to a grid of ``spatial_shape`` (without stretching), scale intensities, and pad to the grid.

    Intensities: b is the value of the volume's constant background, if it has one: at least half of the voxels on its
    six faces have it, and at least 5 % of all; see :func:`~monai_betavae.data.transforms.background.background_value`.
    With p_lo, p_hi percentiles of the voxels other than b (of all voxels if there is no b), and lo = min(p_lo, b)
    (or p_lo), x becomes

        clip((x - lo) / (p_hi - lo), 0, 1).

    A copy a x + c of a volume with a > 0, such as a z-scored or shifted one, therefore gives the same result. A single
    hot voxel has no effect. A background that isn't brighter than the foreground becomes 0, and restoration gives it
    its original value.

    Args:
        spatial_shape: three sides of the result, in voxels.
        spacing: voxel size of the result in millimetres, one number or three; ``None`` keeps each file's own.
        percentiles: lower and upper percentile, 0 <= lower < upper <= 100.
        center: centre of the grid: "image", the middle of the file's array; "foreground", the middle of the bounding
            box of the foreground; or three numbers, a point in mm (RAS+). See :class:`CropToGridd`.
        padding: value of the voxels outside the volume: "background", the scaled b, or 0 without one; or "edge", the
            value of the nearest voxel, for crops of tissue. See :class:`PadToGridd`.
        image_key: key of the path or image in a record, and of the image in a sample.
        mask_key: key of a mask in a record, as a path or in memory, on the image's grid; the image becomes background
            outside it; see :class:`ReadVolumed`.
        keep: further keys of the record to keep in a sample; keys that a record lacks are left out.
        contrasts: names of the channels for a model of several, such as ``["T1w", "T2w"]``, of which every record must
            have all; ``None`` for the images that a record has. See :class:`ReadVolumed`.

    Returns:
        a MONAI ``Compose`` from a record to a dictionary with, under ``image_key``, a float32 ``torch.Tensor`` of shape
        (1, *spatial_shape) in [0, 1]; under ``<image_key>_path`` the file; under ``<image_key>_affine`` the 4x4 affine
        of the tensor's grid (millimetres, RAS+); under ``<image_key>_range`` (lo, p_hi) and under
        ``<image_key>_background`` b, NaN if there is none, both in the file's units; under ``<image_key>_cut_away``
        the share of the foreground that lies outside the grid, under ``<image_key>_filled`` the share of the grid that
        is foreground, under ``<image_key>_padded`` the share that is padding; under ``<image_key>_source_affine`` and
        ``<image_key>_source_shape`` the original grid of the volume. Numbers are float64 tensors. Of C channels, the
        image has the shape (C, *spatial_shape), each channel is scaled by itself, the range has the shape (C, 2) and
        the background (C,); all else is of the first channel, whose grid is that of the others. The attribute
        ``description`` of the ``Compose`` contains the steps as plain values; see
        :mod:`~monai_betavae.data.transforms.transform_description`.

    Raises:
        ValueError: if an argument is invalid; or, when applied, if a volume can't be used. The message names the
            argument or the file.

    Example:
        >>> import nibabel as nib, numpy as np, os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "sub-1_T1w.nii.gz")
        >>> volume = np.random.default_rng(0).uniform(100, 900, (20, 24, 18)).astype(np.float32)
        >>> nib.save(nib.Nifti1Image(volume, np.diag([2.0, 2.0, 2.0, 1.0])), path)
        >>> sample = brain_transforms((16, 16, 16))({"image": path, "subject": "sub-1"})
        >>> sample["image"].shape, sample["subject"], float(sample["image"].max())
        (torch.Size([1, 16, 16, 16]), 'sub-1', 1.0)
    """
    shape = _three_sides(spatial_shape)
    low, high = check_percentiles(percentiles)
    checked = check_center(center)
    where = checked if isinstance(checked, str) else list(checked)
    check_choice("padding", padding, PADDINGS)
    kept = [keep] if isinstance(keep, str) else list(keep)
    # named for several channels only, so that the description of one is that of earlier versions
    named = {} if contrasts is None else {"contrasts": list(contrasts)}
    steps = [
        _step("ReadVolumed", image_key, mask_key=mask_key, background="auto", **named),
        _step("Orientationd", image_key, axcodes="RAS", labels=None),
    ]
    if spacing is not None:
        sides = list(three_spacings("spacing", spacing))
        steps.append(_step("ResampleAntiAliasedd", image_key, spacing=sides, center=where))
    steps += [
        _step("CropToGridd", image_key, spatial_size=shape, center=where),
        _step("ScaleBrainIntensityd", image_key, percentiles=[low, high], background="auto"),
        _step("PadToGridd", image_key, spatial_size=shape, padding=padding),
        _step("ToPlainSampled", image_key, keep=kept),
    ]
    return rebuild_transforms({"transforms": steps}, "brain_transforms")


def first_release_description(
    spatial_shape: Sequence[int], spacing: float | Sequence[float] | None = None
) -> dict[str, Any]:
    """Return the description of the transforms that :func:`brain_transforms` of release 0.1.0 made.

    They assumed that the background of every volume is 0, and padded with 0. That release didn't save the description.

    Args:
        spatial_shape: three sides of the result, in voxels.
        spacing: voxel size of the result in millimetres, one number or three; ``None`` keeps each file's own spacing.

    Example:
        >>> [step["name"] for step in first_release_description((8, 8, 8))["transforms"]][2:4]
        ['ResizeWithPadOrCropd', 'ScaleBrainIntensityd']
    """
    shape = _three_sides(spatial_shape)
    steps = [
        _step("ReadVolumed", "image", mask_key=None),
        _step("Orientationd", "image", axcodes="RAS", labels=None),
    ]
    if spacing is not None:
        steps.append(_step("ResampleAntiAliasedd", "image", spacing=list(three_spacings("spacing", spacing))))
    steps += [
        _step("ResizeWithPadOrCropd", "image", spatial_size=shape),
        _step("ScaleBrainIntensityd", "image", percentiles=[0.5, 99.5]),
        _step("ToPlainSampled", "image", keep=["subject"]),
    ]
    return {"transforms": steps}


def _three_sides(spatial_shape: Sequence[int]) -> list[int]:
    shape = check_spatial_shape("spatial_shape", spatial_shape)
    if len(shape) != 3:
        raise ValueError(f"`spatial_shape` must have three sides for brain volumes, got {spatial_shape!r}.")
    return list(shape)


def _step(name: str, keys: str, **arguments: Any) -> dict[str, Any]:
    """Return a transform as an entry of a description."""
    return {"name": name, "arguments": {"keys": keys, **arguments}}
