"""Three planes of volumes, in the order in which a page draws them, as bytes of a stated range."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Range(NamedTuple):
    """Range of intensities: byte 0 stands for ``low``, byte 255 for ``high``.

    Attributes:
        low: smallest value.
        high: largest value, above ``low``.

    Example:
        >>> Range(-1.0, 1.0).step
        0.00784313725490196
    """

    low: float
    high: float

    @property
    def step(self) -> float:
        """What one byte stands for."""
        return (self.high - self.low) / 255


def range_of(values: Array) -> Range:
    """Return the range from the smallest to the largest value.

    Example:
        >>> range_of(np.array([0.0, 0.5])), range_of(np.array([1.0, 1.0]))
        (Range(low=0.0, high=0.5), Range(low=1.0, high=2.0))
    """
    low, high = float(values.min()), float(values.max())
    return Range(low, high if high > low else low + 1)


def symmetric_range(values: Array, quantile: float = 1.0) -> Range:
    """Return the range about zero that holds the values, or a quantile of their magnitudes.

    Example:
        >>> symmetric_range(np.array([-0.5, 0.25]))
        Range(low=-0.5, high=0.5)
    """
    extent = float(np.quantile(np.abs(values), quantile)) or 1.0
    return Range(-extent, extent)


def planes_through(volumes: Array, centre: Sequence[int], factor: int = 1) -> Array:
    """Return three planes of each volume: sagittal, coronal and axial, each row by row from the top, one after another.

    Args:
        volumes: shape (n, x, y, z), RAS.
        centre: voxel through which the planes go.
        factor: side of the blocks of voxels in a plane that are averaged.

    Returns:
        shape (n, number of pixels of the three planes), float32.

    Example:
        >>> volume = np.arange(8.0).reshape(1, 2, 2, 2)
        >>> planes_through(volume, (0, 0, 0)).astype(int).tolist()  # z = 1 stands above z = 0
        [[1, 3, 0, 2, 1, 5, 0, 4, 2, 6, 0, 4]]
    """
    parts = []
    for axis in range(3):
        plane = np.take(volumes, centre[axis], axis=axis + 1).transpose(0, 2, 1)[:, ::-1]
        n, rows, columns = plane.shape
        rows, columns = rows // factor, columns // factor
        cut = plane[:, : rows * factor, : columns * factor].astype(np.float32)
        parts.append(cut.reshape(n, rows, factor, columns, factor).mean(axis=(2, 4)).reshape(n, -1))
    return np.concatenate(parts, axis=1)


def plane_sizes(shape: Sequence[int], factor: int = 1) -> list[tuple[int, int]]:
    """Return the width and height of the sagittal, coronal and axial plane in pixels.

    Example:
        >>> plane_sizes((64, 80, 64)), sum(width * height for width, height in plane_sizes((64, 80, 64), 2))
        ([(80, 64), (64, 64), (64, 80)], 3584)
    """
    x, y, z = (side // factor for side in shape)
    return [(y, z), (x, z), (x, y)]


def to_bytes(values: Array, stored: Range) -> NDArray[np.uint8]:
    """Return values as bytes of a range, rounded; those outside of it are at its ends.

    Example:
        >>> to_bytes(np.array([-1.0, 0.0, 0.5, 2.0]), Range(0.0, 1.0)).tolist()
        [0, 0, 128, 255]
    """
    scaled = (np.asarray(values, np.float64) - stored.low) / stored.step
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def packed(values: Array, stored: Range) -> str:
    """Return values as the base64 text of their bytes.

    Example:
        >>> packed(np.array([0.0, 1.0]), Range(0.0, 1.0))
        'AP8='
    """
    return base64.b64encode(to_bytes(values, stored).tobytes()).decode("ascii")


def unpacked(text: str, stored: Range) -> Array:
    """Return the values that a text of :func:`packed` stands for, each within half a step of what was packed.

    Example:
        >>> unpacked("AP8=", Range(0.0, 1.0)).tolist()
        [0.0, 1.0]
    """
    values: Array = np.frombuffer(base64.b64decode(text), np.uint8) * stored.step + stored.low
    return values
