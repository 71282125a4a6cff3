"""A reader of OpenBHB's folder: its arrays have no affine and take that of the template they were registered to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from .lazy_voxels import LazyVoxels

PARTS = ("train", "val")
"""Folders of the cohort's official parts."""

TEMPLATES = {
    "preproc-quasiraw_T1w": "quasiraw_space-MNI152_desc-brain_T1w.nii.gz",
    "preproc-cat12vbm_desc-gm_T1w": "cat12vbm_space-MNI152_desc-gm_TPM.nii.gz",
}
"""Template in the folder ``resource`` for each ending of an array's name."""


def is_openbhb(root: Path) -> bool:
    """Return whether a folder is OpenBHB's or one of its parts."""
    return any((part / "derivatives").is_dir() for part in part_folders(root))


def part_folders(root: Path) -> list[Path]:
    """Return the folders of the official parts: both, or only the given one."""
    if root.name in PARTS:
        return [root]
    return [root / part for part in PARTS if (root / part).is_dir()]


def cohort_root(root: Path) -> Path:
    """Return the folder above the parts, which contains participants.tsv and ``resource``."""
    return root.parent if root.name in PARTS else root


def open_array(path: str | os.PathLike[str]) -> Any:
    """Open an array of OpenBHB (``.npy``), reading only its shape and type.

    Args:
        path: ``<root>/{train,val}/derivatives/sub-*/ses-*/sub-*_preproc-{quasiraw,cat12vbm_desc-gm}_T1w.npy``.

    Returns:
        a nibabel image with unread voxels and the affine of ``<root>/resource/<template>``.

    Raises:
        ValueError: if the file isn't an array or no template has its shape; the message names the file.
    """
    name = os.fspath(path)
    try:
        array = np.load(name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{name} can't be read as an array (.npy): {error}") from error
    shape = tuple(array.shape)
    while len(shape) > 3 and shape[0] == 1:  # (1, 1, x, y, z)
        shape = shape[1:]
    template = _template_of(Path(os.path.abspath(name)))
    if template is None:
        raise ValueError(
            f"{name} is an array without an affine. Such arrays are read only in OpenBHB's folder with its templates "
            f"resource/{' and resource/'.join(TEMPLATES.values())}; otherwise save it as NIfTI."
        )
    reference: Any = nib.load(template)
    if shape != reference.shape[:3]:
        raise ValueError(f"{name} must have the shape of {template.name}, {reference.shape[:3]}, got {shape}.")
    return nib.Nifti1Image(LazyVoxels(shape, array.dtype, lambda: np.reshape(array, shape)), reference.affine)


def _template_of(path: Path) -> Path | None:
    template = next((TEMPLATES[ending] for ending in TEMPLATES if path.stem.endswith(ending)), None)
    if template is None:
        return None
    return next((file for parent in path.parents if (file := parent / "resource" / template).is_file()), None)
