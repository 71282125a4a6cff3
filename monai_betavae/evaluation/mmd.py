"""Maximum mean discrepancy: the distance between two sets of samples, and a permutation test of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._checks import check_integer, check_real, check_seed

Array = NDArray[Any]


class MMDTest(NamedTuple):
    """Outcome of a permutation test.

    Attributes:
        mmd: unbiased estimate of the squared maximum mean discrepancy.
        p_value: share of random splits of the pooled rows that are at least as far apart.
    """

    mmd: float
    p_value: float


def mmd(x: Array, y: Array, *, bandwidth: float | Sequence[float] | None = None) -> float:
    """Return the unbiased estimate of the squared maximum mean discrepancy of two sets.

    MMD^2 = mean_(i != j) k(x_i, x_j) + mean_(i != j) k(y_i, y_j) - 2 mean_(i, j) k(x_i, y_j), with the Gaussian kernel
    k(a, b) = exp(-|a - b|^2 / (2 s^2)) of bandwidth s, or the mean of the kernels of several bandwidths.

    Its expectation is zero if both sets come from one distribution (the estimate is then often negative) and positive
    otherwise. It is at most 2.

    Args:
        x: shape (n, d), at least two rows: codes, or flattened volumes at low resolution (at high resolution, noise
            dominates the distances).
        y: shape (m, d), at least two rows.
        bandwidth: s, in units of the data, or several bandwidths. ``None`` is the median distance between rows of the
            pooled sets, without distances of zero.

    Returns:
        the estimate, dimensionless.

    Raises:
        ValueError: if the shapes don't match, a value isn't finite, or a bandwidth isn't positive.

    Source:
        Gretton et al. 2012, "A Kernel Two-Sample Test", Journal of Machine Learning Research 13, 723-773, lemma 6.

    Example:
        >>> far = mmd(np.array([[0.0], [0.0]]), np.array([[9.0], [9.0]]), bandwidth=1.0)
        >>> round(far, 6)
        2.0
    """
    kernel, n = _kernel(x, y, bandwidth)
    labels = np.zeros((1, len(kernel)))
    labels[0, :n] = 1
    return float(_discrepancies(kernel, labels)[0])


def mmd_test(
    x: Array,
    y: Array,
    n_permutations: int = 1000,
    seed: int | None = 0,
    *,
    bandwidth: float | Sequence[float] | None = None,
) -> MMDTest:
    """Test whether two sets come from one distribution, by permuting the assignment of rows to sets.

    p = (1 + number of permutations with an MMD^2 at least as large as observed) / (1 + n_permutations). The test is
    valid for independent rows; several volumes of one subject aren't independent. A small p shows that the sets differ,
    not that the difference matters; a large p may only reflect that the sets are small.

    Args:
        x: as in :func:`mmd`.
        y: as in :func:`mmd`.
        n_permutations: number of permutations; p is at least 1 / (1 + n_permutations).
        seed: seed of the permutations.
        bandwidth: as in :func:`mmd`; the default is the same for every permutation.

    Returns:
        the MMD^2 of the two sets and its p-value.

    Raises:
        ValueError: as in :func:`mmd`.

    Source:
        Gretton et al. 2012, as in :func:`mmd`; the added 1: Phipson & Smyth 2010, Statistical Applications in Genetics
        and Molecular Biology 9, article 39.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(20, 3))
        >>> mmd_test(x, x + 2, n_permutations=99).p_value
        0.01
    """
    n_permutations = check_integer("n_permutations", n_permutations, minimum=1)
    rng = np.random.default_rng(check_seed("seed", seed))
    kernel, n = _kernel(x, y, bandwidth)
    labels = np.zeros((1 + n_permutations, len(kernel)))
    labels[:, :n] = 1
    labels[1:] = rng.permuted(labels[1:], axis=1)
    found = _discrepancies(kernel, labels)
    # permutations that give the same two sets differ from the observed value by rounding only
    as_far = int((found[1:] >= found[0] - 1e-12).sum())
    return MMDTest(float(found[0]), (1 + as_far) / (1 + n_permutations))


def _kernel(x: Array, y: Array, bandwidth: float | Sequence[float] | None) -> tuple[NDArray[np.float64], int]:
    """Return the kernel matrix of the pooled rows, 0 on the diagonal, and the number of rows of the first set."""
    from scipy.spatial.distance import pdist, squareform

    sets = {"x": np.asarray(x, dtype=np.float64), "y": np.asarray(y, dtype=np.float64)}
    for name, rows in sets.items():
        if rows.ndim != 2 or len(rows) < 2 or rows.shape[1] == 0:
            raise ValueError(f"`{name}` must have shape (n, d) with at least two rows, got {rows.shape}.")
        if not np.isfinite(rows).all():
            raise ValueError(f"`{name}` must be finite, got {int((~np.isfinite(rows)).sum())} values that aren't.")
    if sets["x"].shape[1] != sets["y"].shape[1]:
        raise ValueError(f"`y` must have {sets['x'].shape[1]} columns, as `x` has, got {sets['y'].shape[1]}.")
    squared = pdist(np.concatenate(list(sets.values())), "sqeuclidean")
    if bandwidth is None:
        apart = squared[squared > 0]
        # if all rows are equal, the kernel is 1 for every bandwidth
        widths = [float(np.median(np.sqrt(apart))) if len(apart) else 1.0]
    else:
        given = bandwidth if isinstance(bandwidth, Sequence | np.ndarray) else [bandwidth]
        widths = [check_real("bandwidth", width, minimum=0, exclusive=True) for width in given]
        if not widths:
            raise ValueError("`bandwidth` must be a number > 0, or at least one of them, got none.")
    kernel: NDArray[np.float64] = squareform(
        np.mean([np.exp(-squared / (2 * width**2)) for width in widths], axis=0), checks=False
    )
    return kernel, len(sets["x"])


def _discrepancies(kernel: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return MMD^2 for every split of the rows into two sets.

    Args:
        kernel: shape (rows, rows), 0 on the diagonal.
        labels: shape (splits, rows), 1 for the rows of the first set and 0 for those of the second.
    """
    n = labels[0].sum()
    m = len(kernel) - n
    others = 1 - labels
    towards_x, towards_y = labels @ kernel, others @ kernel
    within_x = np.einsum("ij,ij->i", towards_x, labels) / (n * (n - 1))
    within_y = np.einsum("ij,ij->i", towards_y, others) / (m * (m - 1))
    between = np.einsum("ij,ij->i", towards_x, others) / (n * m)
    values: NDArray[np.float64] = within_x + within_y - 2 * between
    return values
