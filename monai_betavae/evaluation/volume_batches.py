"""Validation of batches of volumes and masks: shape (n, x, y, z), masks boolean or 0 and 1.

Volumes have shape (n, x, y, z) or (n, 1, x, y, z); results have no channel axis. A single volume is refused: pass
``volume[None]``. A mask is one volume (x, y, z) for all subjects or a batch with one mask for each subject.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


def volume_batch(name: str, volumes: Array) -> Floats:
    """Return volumes as float64 of shape (n, x, y, z), or raise ``ValueError``.

    Args:
        name: name of the argument, for the error message.
        volumes: shape (n, x, y, z) or (n, 1, x, y, z), finite.

    Example:
        >>> volume_batch("images", np.zeros((2, 1, 4, 5, 6))).shape
        (2, 4, 5, 6)
    """
    array = _without_channel(np.asarray(volumes, dtype=np.float64))
    if array.ndim != 4 or array.size == 0:
        raise ValueError(f"`{name}` must have shape (n, x, y, z) or (n, 1, x, y, z), got {np.shape(volumes)}.")
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity.")
    return array


def mask_batch(name: str, mask: Array | None, shape: tuple[int, ...], *, shared: bool = True) -> Booleans:
    """Return a mask for each subject as booleans of shape (n, x, y, z), or raise ``ValueError``.

    Args:
        name: name of the argument, for the error message.
        mask: boolean or 0 and 1, shape (x, y, z), (n, x, y, z) or (n, 1, x, y, z); ``None`` includes every voxel.
        shape: shape of the volumes, (n, x, y, z).
        shared: whether one mask may serve all subjects.

    Example:
        >>> mask_batch("mask", np.ones((4, 5, 6)), (2, 4, 5, 6)).shape
        (2, 4, 5, 6)
    """
    if mask is None:
        return np.broadcast_to(np.True_, shape)
    array = _without_channel(check_binary(name, mask))
    if array.shape != shape and not (shared and array.shape in (shape[1:], (1, *shape[1:]))):
        accepted = f"{shape[1:]} or {shape}" if shared else f"{shape}"
        raise ValueError(f"`{name}` must have shape {accepted}, got {np.shape(mask)}.")
    return np.broadcast_to(array, shape)


def inside_batch(name: str, mask: Array | None, shape: tuple[int, ...]) -> Booleans:
    """Return a mask for each subject, as :func:`mask_batch` does, or raise ``ValueError`` if one is empty."""
    inside = mask_batch(name, mask, shape)
    empty = np.flatnonzero(voxel_counts(inside) == 0)
    if len(empty):
        raise ValueError(f"`{name}` must have a voxel for each subject, got none for subject {int(empty[0])}.")
    return inside


def binary_batch(name: str, mask: Array) -> Booleans:
    """Return masks of booleans, or of 0 and 1, as booleans of shape (n, x, y, z), or raise ``ValueError``."""
    array = _without_channel(check_binary(name, mask))
    if array.ndim != 4 or array.size == 0:
        raise ValueError(f"`{name}` must have shape (n, x, y, z) or (n, 1, x, y, z), got {np.shape(mask)}.")
    return array


def check_binary(name: str, mask: Array) -> Booleans:
    """Return a mask of booleans, or of 0 and 1, as booleans, or raise ``ValueError``."""
    array = np.asarray(mask)
    # a mask resampled by linear interpolation has values in between; treating them as true would enlarge it
    if array.dtype != np.bool_ and not ((array == 0) | (array == 1)).all():
        raise ValueError(f"`{name}` must be boolean or hold 0 and 1 only, got other values.")
    return array.astype(np.bool_)


def _without_channel(array: Array) -> Array:
    return array[:, 0] if array.ndim == 5 and array.shape[1] == 1 else array


def voxel_counts(voxels: Booleans) -> Floats:
    """Return the number of voxels of each subject."""
    counts: Floats = voxels.sum(axis=(1, 2, 3)).astype(np.float64)
    return counts
