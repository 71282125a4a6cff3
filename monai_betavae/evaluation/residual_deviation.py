"""Deviation of a subject by its most unusual voxels: a local change that codes can't express."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .._checks import check_integer, check_real
from .volume_batches import mask_batch, volume_batch

Array = NDArray[Any]
Floats = NDArray[np.float64]

FWHM = 8.0
"""Smoothing of residuals in millimetres."""

QUANTILE = 0.999
"""The score is this quantile of |z| over the brain: of 1.5 litres, 1.5 ml deviate at least as much."""

SD_FLOOR = 1e-4
"""Smallest standard deviation of smoothed residuals, in units of the images: where all healthy subjects agree."""


class ResidualDeviation(NamedTuple):
    """Deviation of subjects by their residuals.

    Attributes:
        scores: of the subjects, shape (m,).
        p: p-values, shape (m,), ranks among the reference's scores.
        reference: scores of the reference's subjects, each against the others, shape (n,).
        z: maps of the subjects, shape (m, x, y, z), float32, 0 outside the mask.

    Example:
        >>> ResidualDeviation(np.ones(1), np.ones(1), np.ones(3), np.zeros((1, 2, 2, 2))).p.tolist()
        [1.0]
    """

    scores: Floats
    p: Floats
    reference: Floats
    z: Array


def residual_deviation(
    residuals: Array,
    healthy_residuals: Array,
    mask: Array,
    *,
    spacing: float | Sequence[float] = 1.0,
    fwhm: float = FWHM,
    quantile: float = QUANTILE,
    n_channels: int = 1,
) -> ResidualDeviation:
    r"""Score subjects by the voxels in which their residuals deviate most from healthy ones.

    Codes describe what varies in the training subjects. A local change that these don't have, such as a disease, is
    left in the residual r, image - reconstruction. With the mean m_i and the standard deviation s_i of the n healthy
    residuals in voxel i, all smoothed by a Gaussian:

    .. math:: z_i = \frac{r_i - m_i}{s_i}, \quad
        s = \frac{Q_{0.999}(|z_i|)}{\sqrt{\operatorname{mean}(z_i^2)}}

    The quantile finds changes of a few voxels, anywhere. The division by the subject's own typical |z| takes out how
    noisy or sharp the scan is. Scores of the reference are those of each healthy subject against the others, so that
    p, the rank of a score among them, assumes no distribution.

    Args:
        residuals: of the subjects, shape (m, x, y, z) or (m, 1, x, y, z).
        healthy_residuals: of healthy subjects that the model wasn't trained on, n of at least 3.
        mask: voxels of the brain, shape (x, y, z), the same for all.
        spacing: voxel size in millimetres, one number or three.
        fwhm: full width at half maximum of the smoothing in millimetres; 0 smooths nothing.
        quantile: of |z|, above 0 and at most 1.
        n_channels: number of channels that stand one after the other along x, as do their masks; nothing is smoothed
            from one into the next.

    Raises:
        ValueError: naming the argument.

    Source:
        The statistic of the largest deviations: Marquand et al., Biological Psychiatry 80, 2016 (extreme value
        statistics of normative models).

    Example:
        >>> rng = np.random.default_rng(1)
        >>> healthy, new = rng.standard_normal((40, 8, 8, 8)), rng.standard_normal((2, 8, 8, 8))
        >>> new[1, 3:5, 3:5, 3:5] += 4.0
        >>> found = residual_deviation(new, healthy, np.ones((8, 8, 8)), fwhm=2.0)
        >>> (found.p < 0.05).tolist()
        [False, True]
    """
    fwhm = check_real("fwhm", fwhm, minimum=0)
    n_channels = check_integer("n_channels", n_channels, minimum=1)
    quantile = check_real("quantile", quantile, minimum=0, maximum=1, exclusive=True)
    shape = np.shape(residuals)[-3:]
    inside = mask_batch("mask", mask, (1, *shape))[0]
    sides = np.broadcast_to(np.asarray(spacing, dtype=np.float64), 3)
    if not (np.isfinite(sides) & (sides > 0)).all():
        raise ValueError(f"`spacing` must be one or three numbers above 0, in millimetres, got {spacing!r}.")
    if len(healthy_residuals) < 3 or np.shape(healthy_residuals)[-3:] != shape:
        raise ValueError(
            f"`healthy_residuals` must hold at least three volumes of shape {shape}, got {np.shape(healthy_residuals)}."
        )
    if shape[0] % n_channels:
        raise ValueError(f"`n_channels` must divide the first side of the residuals, {shape[0]}, got {n_channels}.")
    if not inside.any():
        raise ValueError("`mask` must have a voxel, got none.")
    sigma = fwhm / np.sqrt(8 * np.log(2)) / sides
    known = _smoothed("healthy_residuals", healthy_residuals, inside, sigma, n_channels)
    n = len(known)
    mean, squares = known.mean(axis=0), known.var(axis=0) * n
    scale = np.sqrt(np.maximum(squares / (n - 1), SD_FLOOR**2))
    reference = np.empty(n)
    for row, values in enumerate(known):  # one at a time, to save memory
        away = values - mean  # from the mean of the others it is n / (n - 1) times that: factors cancel in the score
        others = (squares - away**2 * (n / (n - 1))) / (n - 2)
        reference[row] = _score(away / np.sqrt(np.maximum(others, SD_FLOOR**2)), quantile)
    z = np.zeros((len(residuals), *shape), np.float32)
    scores = np.empty(len(residuals))
    for row in range(len(residuals)):
        values = (_smoothed("residuals", residuals[row : row + 1], inside, sigma, n_channels)[0] - mean) / scale
        z[row][inside] = values
        scores[row] = _score(values, quantile)
    p = (1 + (reference >= scores[:, None]).sum(axis=1)) / (n + 1)
    return ResidualDeviation(scores, p, reference, z)


def _score(z: Array, quantile: float) -> float:
    typical = float(np.sqrt(np.mean(np.square(z, dtype=np.float64))))
    # a subject without any residual deviates nowhere
    return float(np.quantile(np.abs(z), quantile)) / typical if typical > 0 else 1.0


def _smoothed(name: str, volumes: Array, inside: NDArray[np.bool_], sigma: Floats, n_channels: int) -> Array:
    """Return the voxels of the mask of each smoothed volume, shape (n, n_voxels), float32."""
    made = np.empty((len(volumes), int(inside.sum())), np.float32)
    for row in range(len(volumes)):
        (volume,) = volume_batch(name, volumes[row : row + 1])
        channels = volume.reshape(n_channels, -1, *volume.shape[1:])
        made[row] = ndimage.gaussian_filter(channels, (0, *sigma)).reshape(volume.shape)[inside]
    return made
