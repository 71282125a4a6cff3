"""Voxels that are read on request, as the data of a nibabel image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class LazyVoxels:
    """The interface that nibabel requires of an image's data: a shape, a type, and an array on request.

    Args:
        shape: shape of the array.
        dtype: type of the array.
        read: function that reads the array.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], read: Callable[[], NDArray[Any]]) -> None:
        self.shape = shape
        self.ndim = len(shape)
        self.dtype = dtype
        self.read = read

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.read(), dtype=dtype)
