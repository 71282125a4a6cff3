"""Volumes of several channels as the rows of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def channel_rows(
    volumes: Array, names: Sequence[str], contrasts: Sequence[str] | None = None
) -> tuple[Array, list[str]]:
    r"""Return each channel of volumes as a volume of its own, with its name below that of the volume.

    Args:
        volumes: shape (n, ..., channel, x, y, z).
        names: one per volume.
        contrasts: names of the channels; ``None`` for their numbers.

    Returns:
        shape (n * channel, ..., x, y, z), the channels of a volume one after the other, and their names. The names of
        volumes of one channel are unchanged.

    Example:
        >>> rows, names = channel_rows(np.zeros((1, 2, 4, 5, 6)), ["sub-1"], ["T1w", "T2w"])
        >>> rows.shape, names
        ((2, 4, 5, 6), ['sub-1\nT1w', 'sub-1\nT2w'])
    """
    volumes = np.asarray(volumes)
    n_channels = volumes.shape[-4]
    if n_channels == 1:
        return volumes[..., 0, :, :, :], list(names)
    labels = channel_labels(n_channels, contrasts)
    rows = np.moveaxis(volumes, -4, 1)
    return rows.reshape(-1, *rows.shape[2:]), [f"{name}\n{label}" for name in names for label in labels]


def channel_labels(n_channels: int, contrasts: Sequence[str] | None = None) -> list[str]:
    """Return the names of channels, or their numbers if they aren't known.

    Example:
        >>> channel_labels(2), channel_labels(2, ["T1w", "T2w"])
        (['channel-1', 'channel-2'], ['T1w', 'T2w'])
    """
    if contrasts is not None and len(contrasts) == n_channels:
        return list(contrasts)
    return [f"channel-{number + 1}" for number in range(n_channels)]
