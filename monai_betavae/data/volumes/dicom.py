"""A reader of DICOM folders: one series as a volume, through MONAI's ITK reader, with the slice geometry checked."""

from __future__ import annotations

import contextlib
import ctypes
import locale
import os
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from .lazy_voxels import LazyVoxels

MAX_FILES_TRIED = 20
"""Number of files in a folder that are opened to see whether it contains DICOM."""

TOLERANCE = 0.05
"""Allowed deviation of a slice position, in slice distances: scanners round; a missing slice gives a deviation of 1."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_ITK_LOCK = threading.Lock()
_KEPT: set[str] = set()


def is_dicom_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder directly contains DICOM files, recognised by the letters at byte 128, not by name."""
    try:
        with os.scandir(path) as entries:
            files = sorted(entry.path for entry in entries if entry.name[0] != "." and entry.is_file())
    except OSError:
        return False
    return any(is_dicom(file) for file in files[:MAX_FILES_TRIED])


def open_series(folder: str | os.PathLike[str]) -> Any:
    """Open the DICOM series of a folder, reading the header of every slice but no voxels.

    Args:
        folder: folder of one series.

    Returns:
        a nibabel image (RAS+) with unread voxels.

    Raises:
        ValueError: if the folder has no series or several, if slices are missing, duplicated, of different sizes or
            directions, or shifted against each other (the message names the folder), or if ITK isn't installed.
    """
    name = os.fspath(folder)
    if find_spec("itk") is None:
        raise ValueError(f"{name} is a DICOM folder, which needs ITK: pip install 'monai-betavae[dicom]'.")
    with itk_alone():
        slices = [_slice(file) for file in _series(name)]
    shape, affine = _grid(name, slices)
    dtype = np.dtype("V3") if slices[0]["n_components"] > 1 else np.dtype(np.float32)
    return nib.Nifti1Image(LazyVoxels(shape, dtype, lambda: _voxels(name)), _LPS_TO_RAS @ affine)


def load_series(folder: str | os.PathLike[str]) -> Any:
    """Load a folder that :func:`open_series` accepts, as a float32 MONAI ``MetaTensor`` of shape (1, x, y, z)."""
    from monai.data import ITKReader
    from monai.transforms import LoadImage

    with itk_alone():
        return LoadImage(ITKReader(), image_only=True, ensure_channel_first=True, dtype=np.float32)(os.fspath(folder))


@contextlib.contextmanager
def itk_alone() -> Iterator[None]:
    """Let one thread at a time use ITK, restore the locale afterwards, and prevent a crash when the process ends.

    ITK loads its modules on first use, which isn't thread-safe. Its GDCM leaves the process in the locale "C", in which
    Python would decode files and the output of other programs as ASCII.
    """
    with _ITK_LOCK:
        before = locale.setlocale(locale.LC_ALL)
        try:
            yield
        finally:
            locale.setlocale(locale.LC_ALL, before)
            _keep_types_of_itk()


def _keep_types_of_itk() -> None:
    """Keep SWIG's table of ITK types from ever being freed.

    The function that frees the table makes Python objects of its own type. When the process ends, the order in which
    modules are unloaded sometimes destroys that type before the table, and a run that has finished and written its
    results ends in a segmentation fault. The memory is returned with the process anyway.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("swig_runtime_data") and name not in _KEPT:
            for entry in vars(module).values():
                if type(entry).__name__ == "PyCapsule":
                    ctypes.pythonapi.Py_IncRef(ctypes.py_object(entry))
            _KEPT.add(name)


def _voxels(folder: str) -> NDArray[np.float32]:
    values: NDArray[np.float32] = load_series(folder).numpy()[0]
    return values


def is_dicom(file: str) -> bool:
    """Return whether a file is DICOM, recognised by the letters at byte 128."""
    if os.path.basename(file).upper() == "DICOMDIR":  # an index of other files
        return False
    try:
        with open(file, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _series(folder: str) -> list[str]:
    """Return the files of the only series, in the order in which MONAI's reader stacks the slices."""
    import itk

    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.AddSeriesRestriction("0008|0021")  # like MONAI's reader: by series and date
    names.SetDirectory(folder)
    found = list(names.GetSeriesUIDs())
    if len(found) != 1:
        sizes = ", ".join(str(len(names.GetFileNames(each))) for each in found)
        got = f"{len(found)}, of {sizes} files: give each a folder of its own" if found else "none"
        raise ValueError(f"{folder} must hold one DICOM series, got {got}.")
    return list(names.GetFileNames(found[0]))


def _slice(file: str) -> dict[str, Any]:
    import itk

    reader = itk.GDCMImageIO.New()
    reader.SetFileName(file)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ValueError(f"{file} can't be read as DICOM: {str(error).strip().splitlines()[-1].strip()}") from error
    return {
        "size": [int(reader.GetDimensions(axis)) if axis < reader.GetNumberOfDimensions() else 1 for axis in range(3)],
        "spacing": np.array([reader.GetSpacing(axis) for axis in range(3)]),
        "origin": np.array([reader.GetOrigin(axis) for axis in range(3)]),
        "direction": np.array([list(reader.GetDirection(axis)) for axis in range(3)]).T,
        "n_components": int(reader.GetNumberOfComponents()),
    }


def _grid(folder: str, slices: list[dict[str, Any]]) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Return the shape and affine (LPS, as in DICOM) of a stack of slices, or refuse it."""
    first = slices[0]
    columns, rows, depth = first["size"]
    spacing = first["spacing"].copy()
    for other in slices[1:]:
        alike = other["size"] == first["size"] and other["n_components"] == first["n_components"]
        alike = alike and np.allclose(other["spacing"][:2], spacing[:2], rtol=1e-3)
        if not (alike and np.allclose(other["direction"][:, :2], first["direction"][:, :2], atol=1e-3)):
            raise ValueError(f"{folder} must hold slices of one size, spacing and direction, got different ones.")
    if len(slices) > 1:
        origins = np.array([each["origin"] for each in slices])
        normal = np.cross(first["direction"][:, 0], first["direction"][:, 1])
        places = (origins - origins[0]) @ normal
        steps = np.diff(places)
        step = float(np.median(steps))
        # ITK's reader sorts by position: a step of zero means two slices at one position
        if step <= 0 or (steps < TOLERANCE * step).any():
            raise ValueError(
                f"{folder} must hold one slice at each place, got {len(slices)} slices at "
                f"{len(set(np.round(places, 3)))} places: more than one volume (echoes, repetitions)?"
            )
        if (np.abs(steps - step) > TOLERANCE * step).any():
            gap = int(np.argmax(np.abs(steps - step)))
            raise ValueError(
                f"{folder} must hold slices at equal distances, got {steps[gap]:.3g} mm after slice {gap + 1} of "
                f"{len(slices)}, otherwise {step:.3g} mm: is one missing?"
            )
        shift = np.abs(origins - origins[0] - places[:, None] * normal).max()
        if shift > TOLERANCE * min(spacing[:2]) * len(slices):
            raise ValueError(f"{folder} must hold slices above each other, got ones shifted by {shift:.3g} mm.")
        spacing[2], depth = (places[-1] / (len(slices) - 1)), len(slices)
    affine = np.eye(4)
    axes = first["direction"].copy()
    axes[:, 2] = np.cross(axes[:, 0], axes[:, 1]) if len(slices) > 1 else axes[:, 2]
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = first["origin"]
    return (columns, rows, depth), affine
