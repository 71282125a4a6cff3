"""Voxels, affine and file name of an image that a program passes in memory."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms.lazy.functional import apply_pending
from numpy.typing import NDArray
from torch import Tensor

from ...batches.images import plain_tensor
from ..volumes.volume_files import (
    affine_problem,
    shape_problem,
    type_problem,
)

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def without_pending(image: Any) -> Any:
    """Return an image with MONAI's pending lazy transforms applied; the given image is not changed."""
    if not isinstance(image, MetaTensor) or not image.has_pending_operations:
        return image
    plain = MetaTensor(image.as_tensor(), meta=dict(image.meta))
    done, _ = apply_pending(plain, pending=list(image.pending_operations))
    return done


def is_array(value: Any) -> bool:
    """Return whether a record holds an image itself, and not its path."""
    return isinstance(value, Tensor | np.ndarray)


def meta_of(image: Any, data: Mapping[Hashable, Any], key: Hashable) -> dict[str, Any]:
    """Return the metadata of an image in memory: those of the ``MetaTensor``, or the record's ``<key>_meta_dict``."""
    meta = image.meta if isinstance(image, MetaTensor) else data.get(f"{key}_meta_dict")
    return dict(meta) if isinstance(meta, Mapping) else {}


def file_of(meta: Mapping[str, Any]) -> str:
    """Return the file named in the metadata of a ``MetaTensor``, or ""."""
    found = meta.get("filename_or_obj")
    return str(os.fspath(found)) if isinstance(found, str | os.PathLike) else ""


def as_float64(value: Any) -> NDArray[np.float64]:
    """Return a float64 array copied from a tensor on any device, or from anything that numpy can convert."""
    if isinstance(value, Tensor):
        value = plain_tensor(value).detach().cpu().numpy()
    return np.array(value, dtype=np.float64)


def voxels_in_memory(name: str, image: Any) -> NDArray[np.float32]:
    """Return a copy of an image's voxels as float32, shape (x, y, z)."""
    values = plain_tensor(image).detach() if isinstance(image, Tensor) else image
    while values.ndim > 3 and values.shape[0] == 1:
        values = values[0]
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise ValueError(
            f"{name} must be one three-dimensional volume, of shape (1, x, y, z) or (x, y, z), "
            f"got shape {tuple(image.shape)}."
        )
    if isinstance(values, Tensor):
        problem = "must hold real numbers, got complex numbers" if values.is_complex() else None
        values = values.cpu().float().numpy() if problem is None else values
    else:
        problem = type_problem(values.dtype)
    problem = problem or shape_problem(tuple(values.shape))
    if problem is not None:
        raise ValueError(f"{name} {problem}.")
    with np.errstate(over="ignore"):  # a float64 value beyond float32 becomes infinite and counts as non-finite
        return np.array(values, dtype=np.float32, order="C")


def affine_in_memory(name: str, image: Any, meta: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Return the RAS+ affine of an image in memory, or ``None`` if it has none."""
    found = image.affine if isinstance(image, MetaTensor) else meta.get("affine")
    if found is None:
        return None
    try:
        affine = as_float64(found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must have an affine of 4x4 numbers, got {found!r:.80}.") from error
    if affine.shape != (4, 4) or not np.allclose(affine[3], [0, 0, 0, 1]):
        raise ValueError(f"{name} must have an affine of 4x4 numbers that ends in 0, 0, 0, 1, got {affine.tolist()}.")
    problem = affine_problem(affine)
    if problem is not None:
        raise ValueError(f"{name} {problem}.")
    return in_ras(affine, meta)


def in_ras(affine: NDArray[np.float64], meta: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return an affine in RAS+; the affine of an ITK reader may be in LPS+, which its metadata says."""
    return LPS_TO_RAS @ affine if meta.get("space") == "LPS" else affine
