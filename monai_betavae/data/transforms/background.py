"""The background of a volume: a constant value around the head, independent of the zero and unit of the intensities."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...batches.images import plain_tensor
from .channels import noted_of_channels, of_channels

BACKGROUNDS = ("zero", "auto")
"""What a volume's background is taken to be: 0, or the constant value that is found."""

SHARE_OF_FACES = 0.5
"""Smallest share of the voxels on a volume's six faces that have the background's value.

Only one value can exceed it. Zeroed backgrounds make up 0.85 to 1 of the faces of whole heads (0.52 if only an eighth
of the head is in view). In integer backgrounds with noise, each value has a smaller share once the noise's standard
deviation is 1. In crops of tissue, the share is 0.03.
"""

SHARE_OF_VOLUME = 0.05
"""Smallest share of background among all voxels: a frame of one or two voxels, left by interpolation, is none."""

MARGIN = 0.1
"""Share of the intensity range by which foreground differs from the background."""

RANGE = (0.5, 99.5)
"""Percentiles that bound the intensity range: single hot voxels don't count."""


def background_value(values: NDArray[Any]) -> float | None:
    """Return the value of a volume's constant background.

    It is the value of at least half of the voxels on the volume's six faces, provided that at least 5 % of all voxels
    have it. Values are compared exactly: neither a background with noise nor the tissue at the faces of a crop counts.
    If the background of x is b, that of a x + c with a > 0 is a b + c.

    Args:
        values: the volume, finite.

    Returns:
        the value, or ``None`` if the volume has no constant background.

    Example:
        >>> values = np.full((8, 8, 8), -0.5)
        >>> values[2:6, 2:6, 2:6] = np.arange(64).reshape(4, 4, 4)
        >>> background_value(values), background_value(values[2:6, 2:6, 2:6])
        (-0.5, None)
    """
    inner, faces = values, []
    for axis in range(values.ndim):
        faces += [inner.take(end, axis).ravel() for end in (0, -1)]
        inner = inner[(slice(None),) * axis + (slice(1, -1),)]  # so that no voxel counts twice
    edge = np.concatenate(faces)
    # in sorted order, a value that half of the voxels have reaches the middle from either side
    middle = [(len(edge) - 1) // 2, len(edge) // 2]
    for candidate in np.unique(np.partition(edge, middle)[middle]):
        enough = np.count_nonzero(edge == candidate) >= SHARE_OF_FACES * len(edge)
        if enough and np.count_nonzero(values == candidate) >= SHARE_OF_VOLUME * values.size:
            return float(candidate) + 0.0  # turns -0.0 into 0.0
    return None


def foreground(values: NDArray[Any], background: float | None, margin: float = MARGIN) -> NDArray[np.bool_]:
    """Return the mask of a volume's foreground.

    With a constant background b, the foreground is where abs(x - b) > margin * r; r is the 99.5th percentile of
    abs(x - b) over the voxels other than b. The margin excludes the rim that smoothing and interpolation leave around
    the head. Without a background, it is where x > p_0.5 + margin * (p_99.5 - p_0.5), with percentiles of all voxels.
    Both masks are the same for a x + c with a > 0.

    Args:
        values: the volume, of any shape, finite.
        background: the volume's constant background, from :func:`background_value`.
        margin: at least 0; with 0 and a background, every voxel that isn't exactly b is foreground.

    Returns:
        a mask of the volume's shape.

    Example:
        >>> foreground(np.array([-1.0, -1.0, -0.99, 0.0, 1.0]), -1.0).tolist()
        [False, False, False, True, True]
        >>> foreground(np.array([5.0, 6.0, 7.0]), None).tolist()
        [False, True, True]
    """
    if background is not None:
        distance = np.abs(values - background)
        others = distance[distance > 0]
        threshold = margin * np.percentile(others, RANGE[1]) if margin > 0 and others.size else 0.0
        return np.asarray(distance > threshold)
    low, high = np.percentile(values, RANGE)
    return np.asarray(values > low + margin * (high - low))


def noted_backgrounds(record: dict[Hashable, Any], key: Hashable) -> list[float | None]:
    """Return the background noted in a record for each channel; find and note them if no earlier step has done so.

    Args:
        record: record with a volume under ``key``, channel first, in its file's units; ``<key>_background`` becomes a
            float64 scalar, or a vector for several channels, NaN for none.
        key: key of the volume.
    """
    name = f"{key}_background"
    if not isinstance(record.get(name), Tensor):
        note_backgrounds(record, key, [background_value(values.cpu().numpy()) for values in plain_tensor(record[key])])
    return [None if math.isnan(value) else value for value in of_channels(record[name])]


def noted_background(record: dict[Hashable, Any], key: Hashable) -> float | None:
    """Return the background noted in a record for its first channel; see :func:`noted_backgrounds`."""
    return noted_backgrounds(record, key)[0]


def note_backgrounds(record: dict[Hashable, Any], key: Hashable, values: Sequence[float | None]) -> None:
    """Note the background of each channel of a volume in its record."""
    record[f"{key}_background"] = noted_of_channels([math.nan if value is None else value for value in values])
