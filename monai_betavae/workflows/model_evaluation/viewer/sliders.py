"""What the decoder makes of each latent that moves alone, and how far sums of such changes are right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ....networks.latent_model import decode_array, latent_dim_of
from ....plots.slices import middle_of
from .planes import planes_through

Array = NDArray[Any]

STEPS = (-3.0, -2.25, -1.5, -0.75, 0.0, 0.75, 1.5, 2.25, 3.0)
"""Where each latent is decoded; the middle one is zero."""

N_TRIED = 24
"""Codes at which sums are compared with what the decoder gives."""


class Sliders(NamedTuple):
    """Planes of the decoded volumes.

    Attributes:
        dimensions: latents that move.
        planes: shape (n_dimensions, n_steps, n_pixels), as from :func:`~.planes.planes_through`.
        centre: voxel through which the planes go.

    Example:
        >>> Sliders([0], np.zeros((1, 9, 12)), (0, 0, 0)).planes.shape
        (1, 9, 12)
    """

    dimensions: list[int]
    planes: Array
    centre: tuple[int, ...]


def decode_sliders(
    network: Any, dimensions: Sequence[int], device: torch.device | str = "cpu", factor: int = 1
) -> Sliders:
    """Decode each latent at :data:`STEPS` with all others at zero.

    Args:
        network: module with ``decode``.
        dimensions: latents to move, at least one.
        device: where to decode.
        factor: as for :func:`~.planes.planes_through`.

    Example:
        >>> from monai_betavae.networks import build_network
        >>> network = build_network((8, 8, 8), 3, random_state=0)
        >>> decode_sliders(network, [2, 0]).planes.shape
        (2, 9, 192)
    """
    codes = np.zeros((len(dimensions), len(STEPS), latent_dim_of(network)), np.float32)
    for row, dimension in enumerate(dimensions):
        codes[row, :, dimension] = STEPS
    centre = middle_of(decode_array(network, np.zeros((1, codes.shape[-1]), np.float32), device)[0, 0])
    # one latent after the other: volumes needn't all be in memory
    planes = [planes_through(decode_array(network, each, device)[:, 0], centre, factor) for each in codes]
    return Sliders([int(each) for each in dimensions], np.stack(planes), centre)


def error_of_sums(
    network: Any, sliders: Sliders, n_moved: int, device: torch.device | str = "cpu", seed: int = 0, factor: int = 1
) -> float | None:
    r"""Return how far the sum of several sliders' changes is from what the decoder gives.

    A page adds the changes of the sliders that were moved, d_0 + sum_k (d_k(z_k) - d_0), with d_0 the volume decoded
    at zero, and d_k(z) between two steps a blend of both. The error at codes from the prior is

    .. math:: \sqrt{\frac{\sum (\text{sum} - \text{decoded})^2}{\sum (\text{decoded} - d_0)^2}}

    over the pixels of the three planes.

    Args:
        network: module with ``decode``.
        sliders: as from :func:`decode_sliders`.
        n_moved: how many sliders move, others for each code.
        device: where to decode.
        seed: of the codes.
        factor: as for :func:`~.planes.planes_through`.

    Returns:
        the error; ``None`` with fewer sliders than that.

    Example:
        >>> from monai_betavae.networks import build_network
        >>> network = build_network((8, 8, 8), 3, warm_start="linear", random_state=0)
        >>> error_of_sums(network, decode_sliders(network, [2, 0]), 3) is None
        True
    """
    n = len(sliders.dimensions)
    if n_moved > n:
        return None
    rng = np.random.default_rng(seed)
    values = np.zeros((N_TRIED, n))
    for code in values:
        code[rng.permutation(n)[:n_moved]] = np.clip(rng.standard_normal(n_moved), -3, 3)
    tried = np.zeros((N_TRIED, latent_dim_of(network)), np.float32)
    tried[:, sliders.dimensions] = values
    decoded = planes_through(decode_array(network, tried, device)[:, 0], sliders.centre, factor)
    change = float(np.sum((decoded - sliders.planes[0, len(STEPS) // 2]) ** 2))
    missed = float(np.sum((added(sliders.planes, values) - decoded) ** 2))
    return float(np.sqrt(missed / change)) if change > 0 else 0.0


def added(planes: Array, values: Array) -> Array:
    """Return what the page shows for values of the sliders: the middle step plus the changes of all.

    Args:
        planes: as of :class:`Sliders`.
        values: shape (n, n_dimensions), from -3 to 3.

    Returns:
        shape (n, n_pixels).

    Example:
        >>> planes = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8], [4] * 9])[..., None]
        >>> added(planes, np.array([[0.0, 0.0], [3.0, 1.0], [0.375, -3.0]])).ravel().tolist()
        [4.0, 8.0, 4.5]
    """
    planes = np.asarray(planes, np.float64)
    start = planes[0, len(STEPS) // 2]
    shown = np.repeat(start[None], len(values), axis=0)
    places = (np.asarray(values, np.float64) - STEPS[0]) / (STEPS[1] - STEPS[0])
    below = np.clip(places.astype(int), 0, len(STEPS) - 2)
    share = (places - below)[..., None]
    for column, frames in enumerate(planes):
        rows = below[:, column]
        shown += (1 - share[:, column]) * frames[rows] + share[:, column] * frames[rows + 1] - start
    return shown
