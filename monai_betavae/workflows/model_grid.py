"""The affine of a model's grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..networks import var_autoencoder as adapters  # noqa: F401 -- its builders are among those that a description may name

SAME_GRID_MM = 0.01
"""Volumes whose affines differ by less than this share a grid."""


def common_affine(
    affines: Iterable[Any], spatial_shape: Sequence[int], spacing: float | Sequence[float] | None
) -> NDArray[np.float64]:
    """Return the affine that all volumes share, or that of a grid centred on the origin if they don't share one.

    Example:
        >>> common_affine([np.eye(4), np.eye(4)], (4, 4, 4), 1.0)[0].tolist()
        [1.0, 0.0, 0.0, 0.0]
        >>> common_affine([np.eye(4), 2 * np.eye(4)], (4, 4, 4), 1.0)[0].tolist()
        [1.0, 0.0, 0.0, -1.5]
    """
    stack = [np.asarray(affine, dtype=float) for affine in affines]
    if stack and all(np.abs(affine - stack[0]).max() < SAME_GRID_MM for affine in stack):
        return stack[0]
    return centred_affine(spatial_shape, spacing)


def centred_affine(spatial_shape: Sequence[int], spacing: float | Sequence[float] | None) -> NDArray[np.float64]:
    """Return the affine of an axis-aligned grid centred on the origin; a spacing of ``None`` counts as 1 mm."""
    sides = np.broadcast_to(np.asarray(1.0 if spacing is None else spacing, dtype=float), (3,))
    affine = np.diag([*sides, 1.0])
    affine[:3, 3] = -sides * (np.asarray(spatial_shape, dtype=float) - 1) / 2
    return affine
