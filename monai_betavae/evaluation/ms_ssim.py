"""Multi-scale structural similarity between pairs of volumes, a measure of how diverse samples are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._checks import check_integer, check_real, check_seed

Array = NDArray[Any]

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, finest first (Wang et al. 2003)."""

WINDOWS = (5, 11)
"""The smallest accepted window of MS-SSIM and the usual one, in voxels."""


def ms_ssim_pairs(
    volumes: Array,
    *,
    n_pairs: int = 100,
    seed: int | None = 0,
    data_range: float = 1.0,
    progress: bool = True,
) -> NDArray[np.float64]:
    """Return the multi-scale structural similarity of random pairs among volumes.

    MS-SSIM(a, b) = SSIM_S^w_S prod_(s<S) CS_s^w_s, with the contrast-structure term CS_s at scale s; each scale has
    half the resolution of the previous one, and negative terms count as 0. A generator that always returns the same
    volume scores 1. Compare the mean with that of pairs of real volumes on the same grid: a far higher mean indicates
    less diversity than among real brains, a far lower one indicates noise or distortions.

    The settings depend on the grid alone, so two sets on one grid share them. Five scales and a window of 11 voxels
    need 176 voxels per side. A smaller grid gets as many of the five scales as leave room for a window of 5 voxels on
    the coarsest grid. The window (Gaussian, sigma 1.5) is the largest odd one, up to 11, that fits the coarsest grid,
    and the weights of the remaining scales are scaled to sum to 1. For example, 64 voxels per side give 4 scales and a
    window of 7. Scores for different settings are not comparable.

    Args:
        volumes: shape (n, channel, ...), 2D or 3D, at least two, with at least 5 voxels per side.
        n_pairs: number of distinct pairs of different volumes; if there are fewer, all n (n - 1) / 2 pairs are used.
        seed: seed for the choice of pairs.
        data_range: difference between the highest and the lowest intensity a volume can have.
        progress: whether to show a progress bar.

    Returns:
        shape (min(n_pairs, n (n - 1) / 2),), each from 0 to 1.

    Raises:
        ValueError: if the volumes' shape or another argument isn't as described, or a volume of a pair isn't finite.

    Source:
        Wang, Simoncelli & Bovik 2003, "Multiscale structural similarity for image quality assessment" (computed by
        ``monai.metrics.MultiScaleSSIMMetric``); as a measure of diversity: Odena, Olah & Shlens, ICML 2017.

    Example:
        >>> same = np.repeat(np.random.default_rng(0).random((1, 1, 12, 12, 12)), 3, axis=0)
        >>> ms_ssim_pairs(same).round(4).tolist()
        [1.0, 1.0, 1.0]
    """
    import torch
    from monai.metrics import MultiScaleSSIMMetric
    from tqdm.auto import tqdm

    n_pairs = check_integer("n_pairs", n_pairs, minimum=1)
    data_range = check_real("data_range", data_range, minimum=0, exclusive=True)
    shape = np.shape(volumes)
    if len(shape) not in (4, 5) or shape[0] < 2 or min(shape[2:]) < WINDOWS[0]:
        raise ValueError(
            "`volumes` must have shape (n, channel, ...), 2D or 3D, with at least two volumes and at least "
            f"{WINDOWS[0]} voxels a side, got {shape}."
        )
    n_scales, window = _scales_and_window(min(shape[2:]))
    weights = np.array(MS_SSIM_WEIGHTS[:n_scales]) / sum(MS_SSIM_WEIGHTS[:n_scales])
    metric = MultiScaleSSIMMetric(
        spatial_dims=len(shape) - 2,
        data_range=data_range,
        kernel_size=window,
        weights=weights.tolist(),
        reduction="none",
    )
    values = []
    pairs = _pairs(shape[0], n_pairs, np.random.default_rng(check_seed("seed", seed)))
    # one pair at a time: volumes are large, and `volumes` may be a memory map
    for pair in tqdm(pairs, desc="MS-SSIM", unit="pair", delay=2, disable=not progress):
        first, second = (torch.from_numpy(np.array(volumes[index], dtype=np.float32))[None] for index in pair)
        value = float(metric(first, second))
        if not math.isfinite(value):
            raise ValueError(f"`volumes` must be finite, got values that aren't in volume {pair[0]} or {pair[1]}.")
        values.append(value)
    return np.array(values)


def _scales_and_window(side: int) -> tuple[int, int]:
    """Return the number of scales and the window for a grid with this shortest side.

    MONAI requires a side of more than (window - 1) (n_scales - 1)^2 voxels; the scales themselves need
    2^(n_scales - 1) window. Both conditions are met.
    """
    for n_scales in range(len(MS_SSIM_WEIGHTS), 0, -1):
        coarsest = side // max((n_scales - 1) ** 2, 2 ** (n_scales - 1))
        if coarsest >= WINDOWS[0]:
            return n_scales, min(WINDOWS[1], coarsest - 1 + coarsest % 2)
    raise AssertionError("a side of at least a window has one scale")


def _pairs(n: int, n_pairs: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return distinct random pairs i < j of n items, shape (pairs, 2)."""
    n_all = n * (n - 1) // 2
    numbers = rng.choice(n_all, min(n_pairs, n_all), replace=False)
    # in the order (0, 1), (0, 2), (1, 2), (0, 3), ..., pair i < j has number j (j - 1) / 2 + i
    j = np.array([(1 + math.isqrt(1 + 8 * int(number))) // 2 for number in numbers], dtype=np.int64)
    return np.stack([numbers - j * (j - 1) // 2, j], axis=1)
