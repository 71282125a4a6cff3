"""Sampling of codes, and comparison of generated with real volumes: diversity (MS-SSIM) and distance (MMD)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._checks import check_choice, check_integer, check_real, check_seed

Array = NDArray[Any]

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, finest first (Wang et al. 2003)."""

WINDOWS = (5, 11)
"""The smallest accepted window of MS-SSIM and the usual one, in voxels."""

MAX_COMPONENTS = 8
"""Largest number of components that :func:`fit_latent_mixture` tries by default."""

COVARIANCES = ("full", "diag")


# ---- diversity ------------------------------------------------------------------------------------------------------


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


# ---- distance -------------------------------------------------------------------------------------------------------


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


# ---- codes ----------------------------------------------------------------------------------------------------------


class LatentMixture(NamedTuple):
    """A Gaussian mixture over codes.

    Attributes:
        weights: weights of the components, shape (n_components,), summing to 1.
        means: shape (n_components, latent_dim).
        covariances: shape (n_components, latent_dim, latent_dim).
        bic: Bayesian information criterion, with subjects as observations; lower is better.
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    covariances: NDArray[np.float64]
    bic: float


def fit_latent_mixture(
    mu: Array,
    logvar: Array,
    n_components: int | None = None,
    *,
    covariance: str = "full",
    n_draws: int = 10,
    seed: int | None = 0,
    progress: bool = True,
) -> LatentMixture:
    """Fit a Gaussian mixture to the aggregate posterior q(z) = mean_i q(z|x_i).

    If q(z) differs from the prior, the prior yields codes that the decoder never saw in training; a density fitted to
    q(z) yields fewer of them. The mixture is fitted to draws from the posteriors. A mixture fitted to the posterior
    means would be too narrow, since it would lack the posterior variance.

    BIC = -2 n E[log density of a draw] + p log n for n subjects and p free parameters. The draws of one subject count
    as one observation, so more draws don't favour more components. With few subjects, single draws or very narrow
    posteriors let a component fit a handful of points exactly, and BIC then selects too many components.

    Args:
        mu: posterior means, shape (n, latent_dim), at least two rows.
        logvar: posterior log-variances, the same shape.
        n_components: number of components, at most n; ``None`` selects the number from 1 to 8 with the lowest BIC,
            among those with no more free parameters than subjects.
        covariance: "full", or "diag" if there are too few subjects for latent_dim^2 / 2 parameters per component.
        n_draws: number of draws from the posterior of each subject.
        seed: seed of the draws and of the initialisation of the fit.
        progress: whether to show a progress bar.

    Returns:
        the mixture, an argument of :func:`sample_codes`.

    Raises:
        ValueError: if the shapes differ, a value isn't finite, or another argument isn't as described.

    Source:
        Ghosh et al., "From Variational to Deterministic Autoencoders", ICLR 2020 (density estimation after training);
        Schwarz 1978, Annals of Statistics 6, 461-464; ``sklearn.mixture.GaussianMixture``.

    Example:
        >>> mu = np.repeat([[-9.0], [9.0]], 50, axis=0)
        >>> mixture = fit_latent_mixture(mu, np.zeros((100, 1)))
        >>> sorted(mixture.means[:, 0].round().tolist()), mixture.weights.round(3).tolist()
        ([-9.0, 9.0], [0.5, 0.5])
    """
    from sklearn.mixture import GaussianMixture
    from tqdm.auto import tqdm

    mu, logvar = np.asarray(mu, dtype=np.float64), np.asarray(logvar, dtype=np.float64)
    if mu.ndim != 2 or mu.shape != logvar.shape or len(mu) < 2 or mu.shape[1] == 0:
        raise ValueError(
            "`mu` and `logvar` must have one shape (n, latent_dim) with at least two rows, "
            f"got {mu.shape} and {logvar.shape}."
        )
    for name, values in (("mu", mu), ("logvar", logvar)):
        if not np.isfinite(values).all():
            raise ValueError(f"`{name}` must be finite, got {int((~np.isfinite(values)).sum())} values that aren't.")
    check_choice("covariance", covariance, COVARIANCES)
    n_draws = check_integer("n_draws", n_draws, minimum=1)
    n, latent_dim = mu.shape
    each = latent_dim + (latent_dim * (latent_dim + 1) // 2 if covariance == "full" else latent_dim)
    if n_components is None:
        # free parameters: all weights but one, means, covariances
        candidates = [k for k in range(1, MAX_COMPONENTS + 1) if k - 1 + k * each <= n] or [1]
    else:
        candidates = [check_integer("n_components", n_components, minimum=1)]
        if candidates[0] > n:
            raise ValueError(f"`n_components` must be at most the number of subjects, {n}, got {candidates[0]}.")

    rng = _generator(seed, "latent mixture")
    draws = (mu + np.exp(0.5 * logvar) * rng.standard_normal((n_draws, n, latent_dim))).reshape(-1, latent_dim)
    start = int(rng.integers(2**31))  # not None: scikit-learn would then draw from numpy's global generator
    best: LatentMixture | None = None
    for count in tqdm(candidates, desc="latent mixture", unit="fit", delay=2, disable=not progress):
        options = {"covariance_type": covariance, "max_iter": 500, "n_init": 3, "random_state": start}
        fitted = GaussianMixture(count, **options).fit(draws)
        bic = -2 * n * float(fitted.score(draws)) + (count - 1 + count * each) * math.log(n)
        if best is None or bic < best.bic:
            covariances = fitted.covariances_
            if covariance == "diag":
                covariances = covariances[:, :, None] * np.eye(latent_dim)
            best = LatentMixture(fitted.weights_, fitted.means_, covariances, bic)
    assert best is not None
    return best


def sample_codes(mixture: LatentMixture, n_samples: int, seed: int | None = 0) -> NDArray[np.float64]:
    """Draw codes from a mixture.

    Args:
        mixture: the mixture, from :func:`fit_latent_mixture`.
        n_samples: number of codes.
        seed: seed of the draws.

    Returns:
        shape (n_samples, latent_dim).

    Raises:
        ValueError: if ``n_samples`` isn't a positive integer.

    Example:
        >>> sample_codes(LatentMixture(np.ones(1), np.full((1, 2), 7.0), np.zeros((1, 2, 2)), 0.0), 2).tolist()
        [[7.0, 7.0], [7.0, 7.0]]
    """
    n_samples = check_integer("n_samples", n_samples, minimum=1)
    rng = _generator(seed, "mixture codes")
    chosen = rng.choice(len(mixture.weights), n_samples, p=mixture.weights)
    # root by eigendecomposition: unlike a Cholesky factor, it exists for a singular covariance
    values, vectors = np.linalg.eigh(mixture.covariances)
    roots = vectors * np.sqrt(np.maximum(values, 0))[:, None, :]
    noise = rng.standard_normal((n_samples, mixture.means.shape[1]))
    codes: NDArray[np.float64] = np.array(mixture.means[chosen], dtype=np.float64)
    for component, root in enumerate(roots):
        rows = chosen == component
        codes[rows] += noise[rows] @ root.T
    return codes


def prior_codes(n_samples: int, latent_dim: int, seed: int | None = 0) -> NDArray[np.float64]:
    """Draw codes from the prior N(0, I).

    Args:
        n_samples: number of codes.
        latent_dim: number of latent dimensions.
        seed: seed of the draws.

    Returns:
        shape (n_samples, latent_dim).

    Raises:
        ValueError: if one of the counts isn't a positive integer.

    Example:
        >>> prior_codes(3, 2).shape
        (3, 2)
    """
    shape = check_integer("n_samples", n_samples, minimum=1), check_integer("latent_dim", latent_dim, minimum=1)
    codes: NDArray[np.float64] = _generator(seed, "prior codes").standard_normal(shape)
    return codes


def _generator(seed: int | None, stream: str) -> np.random.Generator:
    """Return a generator for one ``stream`` of ``seed``; different streams of a seed give different numbers."""
    from .._randomness import derived_seed

    seed = check_seed("seed", seed)
    return np.random.default_rng(None if seed is None else derived_seed(seed, stream))
