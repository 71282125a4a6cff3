"""OpenBHB's folder: arrays without an affine, which take that of the template they were registered to."""

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
"""By the end of an array's name, its template in the folder ``resource``."""


def is_openbhb(root: Path) -> bool:
    """Whether a folder is OpenBHB's, or one of its parts."""
    return any((part / "derivatives").is_dir() for part in part_folders(root))


def part_folders(root: Path) -> list[Path]:
    """Return the folders of the official parts: both, or the one that is given."""
    if root.name in PARTS:
        return [root]
    return [root / part for part in PARTS if (root / part).is_dir()]


def cohort_root(root: Path) -> Path:
    """Return the folder of participants.tsv and ``resource``, above the parts."""
    return root.parent if root.name in PARTS else root


def open_array(path: str | os.PathLike[str]) -> Any:
    """Open an array of OpenBHB (``.npy``), nothing read but its shape and type.

    Args:
        path: ``<root>/{train,val}/derivatives/sub-*/ses-*/sub-*_preproc-{quasiraw,cat12vbm_desc-gm}_T1w.npy``.

    Returns:
        a nibabel image, its voxels unread, with the affine of ``<root>/resource/<template>``.

    Raises:
        ValueError: naming the file: not an array, or no template of its shape.
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
            f"{name} is an array without an affine. Such are read in OpenBHB's folder only, beside its templates "
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
