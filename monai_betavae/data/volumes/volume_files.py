"""Readers and checks of one volume's file: its content, and whether a model can use it."""

from __future__ import annotations

import math
import os
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .dicom import is_dicom, open_series
from .lazy_voxels import LazyVoxels
from .openbhb import open_array

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh")
"""Extensions of the files that nibabel reads as one volume."""

PLAUSIBLE_SPACING = (0.05, 20.0)
"""Range of the voxel sides of brain volumes in mm; values outside it mean another unit or a broken header."""

MAX_NON_FINITE = 0.01
"""Largest share of non-finite voxels that are repaired from their neighbours."""

MAX_VOXELS = 2**31
"""A header with more voxels is broken: this many take 8 GiB in float32, as in a cube with sides of 1290."""


def open_volume(path: str | os.PathLike[str]) -> Any:
    """Open a volume without checks, from a file that nibabel reads, a DICOM folder or an array of OpenBHB.

    Args:
        path: the file or folder.

    Returns:
        a nibabel image with unread voxels.
    """
    name = os.fspath(path)
    if os.path.isdir(name):
        return open_series(name)
    return open_array(name) if name.lower().endswith(".npy") else nib.load(name)


def read_header(path: str | os.PathLike[str], channel: int | None = None) -> Any:
    """Open a volume's file and check everything that can be checked without reading voxels.

    Args:
        path: the file, or a folder of one DICOM series.
        channel: index of the volume, from 0, in a file with several along a fourth axis.

    Returns:
        the nibabel image with unread voxels.

    Raises:
        ValueError: if the file doesn't exist, is empty, truncated or of another kind, isn't one three-dimensional
            volume of real numbers, or has an unusable affine; the message names the file and the problem.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "sub-1_T1w.nii.gz")
        >>> nib.save(nib.Nifti1Image(np.ones((4, 5, 6, 2), np.float32), np.eye(4)), path)
        >>> try:
        ...     read_header(path)
        ... except ValueError as error:
        ...     print(str(error).replace(path, "sub-1_T1w.nii.gz"))
        sub-1_T1w.nii.gz must hold one three-dimensional volume, got 2 of them: shape (4, 5, 6, 2); `channel` takes one.
        >>> read_header(path, channel=1).shape
        (4, 5, 6)
    """
    name = os.fspath(path)
    try:
        size = os.stat(name).st_size
    except OSError as error:
        raise ValueError(f"{name} can't be read: {error.strerror}.") from error
    if size == 0:
        raise ValueError(f"{name} is an empty file.")
    try:
        image: Any = open_volume(name)
        shape, dtype, affine = tuple(image.shape), image.get_data_dtype(), image.affine
    except ValueError as error:
        if str(error).startswith(name):
            raise
        raise _unreadable(name, error) from error
    except Exception as error:  # a broken header can raise any error in nibabel, gzip, zlib or struct
        raise _unreadable(name, error) from error
    problem = _channel_problem(shape, channel)
    if channel is not None and problem is None:
        shape = shape[:3]
    problem = (
        problem or shape_problem(shape) or type_problem(dtype) or affine_problem(affine, getattr(image, "header", None))
    )
    if problem is None and Path(name).suffix.lower() == ".nii":
        needed = image.dataobj.offset + math.prod(image.shape) * dtype.itemsize
        problem = f"is truncated: {size} of {needed} bytes" if size < needed else None
    if problem is not None:
        raise ValueError(f"{name} {problem}.")
    return image if channel is None or len(image.shape) == 3 else _one_of(image, channel)


def _unreadable(name: str, error: Exception) -> ValueError:
    misnamed = _misnamed(name) if os.path.isfile(name) else None
    if misnamed is not None:
        return ValueError(f"{name} {misnamed}.")
    dicom = is_dicom(name) if os.path.isfile(name) else False
    hint = ". It is a DICOM file: give the folder of its series" if dicom else f": {first_line(error)}"
    return ValueError(f"{name} can't be read as a NIfTI or MGH volume{hint}")


def _misnamed(name: str) -> str | None:
    """Return how a file's name contradicts its content, and the right name, as the end of a sentence, or ``None``."""
    compressed, kind = _content(name)
    said = next((suffix for suffix in VOLUME_SUFFIXES if name.lower().endswith(suffix)), None)
    if kind is None or said is None:
        return None
    if compressed > 1:
        return f"is gzip-compressed {compressed} times, one is usual: decompress it with gunzip"
    suffix = {("nii", 0): ".nii", ("nii", 1): ".nii.gz", ("mgh", 0): ".mgh", ("mgh", 1): ".mgz"}[kind, compressed]
    if suffix == said:
        return None
    stem = os.path.basename(name)
    while (ending := next((each for each in VOLUME_SUFFIXES if stem.lower().endswith(each)), None)) is not None:
        stem = stem[: -len(ending)]
    right = f"rename it to {stem}{suffix}"
    if (kind == "nii") != said.startswith(".nii"):
        held = "a NIfTI" if kind == "nii" else "an MGH"
        return f"holds {held} volume{', gzip-compressed,' if compressed else ''} but its name ends in {said}: {right}"
    if compressed:
        return f"is gzip-compressed but its name doesn't end in {'.gz' if kind == 'nii' else '.mgz'}: {right}"
    return f"isn't gzip-compressed but its name ends in {'.gz' if kind == 'nii' else '.mgz'}: {right}"


def _content(name: str) -> tuple[int, str | None]:
    """Return how often a file is gzip-compressed, and its format by the first bytes: "nii", "mgh" or ``None``.

    A NIfTI header begins with its size, 348 or 540, in either byte order; an MGH header begins with its version, 1.
    """
    try:
        with open(name, "rb") as file:
            head = file.read(2**16)
    except OSError:
        return 0, None
    times = 0
    while head.startswith(b"\x1f\x8b") and times < 4:
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, 2**12)
        except zlib.error:
            return times, None
        times += 1
    if len(head) >= 348 and {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")} & {348, 540}:
        return times, "nii"
    return times, "mgh" if len(head) >= 284 and head.startswith(b"\0\0\0\x01") else None


def _one_of(image: Any, channel: int) -> Any:
    """Return one volume of a four-dimensional image, with unread voxels."""
    dtype = np.dtype(np.float32)  # scaled according to the header
    voxels = LazyVoxels(image.shape[:3], dtype, lambda: np.asarray(image.dataobj[..., channel], dtype=dtype))
    chosen = nib.Nifti1Image(voxels, image.affine)
    chosen.set_data_dtype(image.get_data_dtype())
    return chosen


def read_voxels(path: str | os.PathLike[str], image: Any) -> NDArray[np.float32]:
    """Read an image's voxels as float32, scaled according to its header, without trailing axes of length one.

    Args:
        path: the file, for messages.
        image: the image from :func:`read_header`.

    Raises:
        ValueError: if the voxels can't be read; the message names the file.
    """
    try:
        values = np.asarray(image.dataobj, dtype=np.float32)
    except Exception as error:  # truncated or damaged: EOFError, zlib.error, OSError, ValueError ...
        raise ValueError(f"{os.fspath(path)} is truncated or damaged: {first_line(error)}") from error
    return values.reshape(values.shape[:3])


def voxel_problem(values: NDArray[Any]) -> str | None:
    """Return why voxels can't be used, as the end of a sentence about their file, or ``None``.

    Example:
        >>> voxel_problem(np.zeros((2, 2, 2)))
        'must not be constant, got 0 in every voxel'
    """
    finite = np.isfinite(values)
    n_bad = values.size - int(np.count_nonzero(finite))
    if n_bad == values.size:
        return "has no finite voxel"
    if n_bad > MAX_NON_FINITE * values.size:
        return (
            f"must be finite, got {n_bad} non-finite voxels, {n_bad / values.size:.0%}; up to {MAX_NON_FINITE:.0%} "
            "are repaired. If they are the background, set them to 0 in the file"
        )
    known = values[finite] if n_bad else values
    if known.min() == known.max():
        return f"must not be constant, got {float(known.min()):g} in every voxel"
    return None


def repair_non_finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace non-finite voxels by the mean of the finite ones in their 3x3x3 neighbourhood, or by 0 without any.

    Example:
        >>> values = np.full((3, 3, 3), 2.0, np.float32)
        >>> values[1, 1, 1] = np.nan
        >>> float(repair_non_finite(values)[1, 1, 1])
        2.0
    """
    finite = np.isfinite(values)
    known = np.where(finite, values, 0)
    weight = ndimage.uniform_filter(finite.astype(np.float64), 3, mode="constant")
    around = ndimage.uniform_filter(known.astype(np.float64), 3, mode="constant")
    # the filter's sums have rounding errors: a weight of less than half a voxel counts as none
    mean = np.divide(around, weight, out=np.zeros_like(around), where=weight > 0.5 / 27)
    return np.where(finite, values, mean).astype(np.float32)


def _channel_problem(shape: tuple[int, ...], channel: int | None) -> str | None:
    if channel is None:
        return None
    n_channels = shape[3] if len(shape) == 4 else 1
    if isinstance(channel, bool) or not isinstance(channel, int | np.integer) or not 0 <= channel < n_channels:
        return f"has no channel {channel!r}: its shape is {shape}, channels count from 0"
    return None


def shape_problem(shape: tuple[int, ...]) -> str | None:
    """Return why a shape isn't that of a volume, as the end of a sentence about the volume, or ``None``."""
    spatial = shape
    while len(spatial) > 3 and spatial[-1] == 1:
        spatial = spatial[:-1]
    if math.prod(shape) == 0:
        return f"must hold one three-dimensional volume, got none: shape {shape}"
    if len(spatial) > 3:
        count = math.prod(spatial[3:])
        return f"must hold one three-dimensional volume, got {count} of them: shape {shape}; `channel` takes one"
    if len(spatial) < 3 or 1 in spatial:
        return f"must hold one three-dimensional volume, got one slice: shape {shape}"
    if math.prod(spatial) > MAX_VOXELS:
        return f"claims {math.prod(spatial) / 2**30:.0f} * 2^30 voxels, shape {shape}: its header is broken"
    return None


def type_problem(dtype: np.dtype[Any]) -> str | None:
    """Return why a voxel type can't be used, as the end of a sentence about the volume, or ``None``."""
    if dtype.kind not in "biuf":
        kind = "complex numbers" if dtype.kind == "c" else "colours" if dtype.fields else str(dtype)
        return f"must hold real numbers, got {kind}"
    return None


def affine_problem(affine: NDArray[Any] | None, header: Any = None) -> str | None:
    """Return why an affine can't be used, as the end of a sentence about the volume, or ``None``.

    Args:
        affine: 4x4 affine.
        header: header of the file, which may contain the unit.
    """
    if affine is None or not np.isfinite(affine).all():
        return f"must have a finite affine, got {None if affine is None else affine.tolist()}"
    axes = affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    low, high = PLAUSIBLE_SPACING
    if not ((spacing >= low) & (spacing <= high)).all():
        unit = header.get_xyzt_units()[0] if hasattr(header, "get_xyzt_units") else "mm"
        hint = f" (the header's unit is the {unit})" if unit in ("meter", "micron") else ""
        sides = " x ".join(f"{side:g}" for side in spacing)
        return f"must have voxels of {low:g} to {high:g} mm, got {sides}{hint}"
    if abs(np.linalg.det(axes / spacing)) < 1e-3:  # axes as unit vectors, so that the spacing doesn't matter
        return f"must have an invertible affine, got {affine.tolist()}"
    return None


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's name if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
