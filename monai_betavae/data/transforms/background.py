"""What of a volume is background: a constant value around the head, whatever its intensities' zero and unit are."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...batches.images import plain_tensor

SHARE_OF_FACES = 0.5
"""Share of the voxels of a volume's six faces that the background has at least.

More than one value can't have it. Zeroed backgrounds have 0.85 to 1 of the faces of whole heads (0.52 where only an
eighth of the head is in view); of backgrounds with noise, rounded to integers, one value has less as soon as the
noise's standard deviation is 1; of crops of tissue 0.03.
"""

SHARE_OF_VOLUME = 0.05
"""Share of all voxels that the background has at least: a frame of a voxel or two, as interpolation leaves, is none."""

MARGIN = 0.1
"""Share of the range of intensities by which foreground stands out from the background."""

RANGE = (0.5, 99.5)
"""Percentiles that the range of intensities is taken between: single hot voxels don't count."""


def background_value(values: NDArray[Any]) -> float | None:
    """Return the value of a volume's constant background.

    It is the value that at least half of the voxels on the volume's six faces have, if at least 5 % of all voxels have
    it. Values are compared exactly: a background with noise is none, nor is the tissue at the faces of a crop. For
    a x + c with a > 0 it is a b + c.

    Args:
        values: the volume, finite.

    Returns:
        the value; ``None`` if there is none.

    Example:
        >>> values = np.full((8, 8, 8), -0.5)
        >>> values[2:6, 2:6, 2:6] = np.arange(64).reshape(4, 4, 4)
        >>> background_value(values), background_value(values[2:6, 2:6, 2:6])
        (-0.5, None)
    """
    inner, faces = values, []
    for axis in range(values.ndim):
        faces += [inner.take(end, axis).ravel() for end in (0, -1)]
        inner = inner[(slice(None),) * axis + (slice(1, -1),)]  # no voxel counts twice
    edge = np.concatenate(faces)
    # sorted, the voxels of a value that half of them have reach the middle from either side
    middle = [(len(edge) - 1) // 2, len(edge) // 2]
    for candidate in np.unique(np.partition(edge, middle)[middle]):
        enough = np.count_nonzero(edge == candidate) >= SHARE_OF_FACES * len(edge)
        if enough and np.count_nonzero(values == candidate) >= SHARE_OF_VOLUME * values.size:
            return float(candidate) + 0.0  # -0.0 is 0.0
    return None


def foreground(values: NDArray[Any], background: float | None, margin: float = MARGIN) -> NDArray[np.bool_]:
    """Return where a volume shows something.

    With a constant background b, where abs(x - b) > margin * r, r being the 99.5th percentile of abs(x - b) over the
    voxels other than b; so that the rim that smoothing and interpolation leave around the head doesn't count.
    Without one, where x > p_0.5 + margin * (p_99.5 - p_0.5), percentiles of all voxels. Either is the same for
    a x + c with a > 0.

    Args:
        values: the volume, of any shape, finite.
        background: its constant background, as :func:`background_value` gives it.
        margin: at least 0; with 0 and a background every voxel that isn't exactly b is foreground.

    Returns:
        of the volume's shape.

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


def noted_background(record: dict[Hashable, Any], key: Hashable) -> float | None:
    """Return the background that a record notes for its volume, found and noted here if no step before has done it.

    Args:
        record: with a volume under ``key``, channel first, in its file's units; ``<key>_background`` becomes a scalar
            of float64, NaN for none. Of several channels the first counts.
        key: of the volume.
    """
    name = f"{key}_background"
    if not isinstance(record.get(name), Tensor):
        note_background(record, key, background_value(plain_tensor(record[key])[0].cpu().numpy()))
    value = float(record[name])
    return None if math.isnan(value) else value


def note_background(record: dict[Hashable, Any], key: Hashable, value: float | None) -> None:
    """Note a volume's background in its record."""
    record[f"{key}_background"] = torch.tensor(math.nan if value is None else value, dtype=torch.float64)
