"""Codes to sample from: the prior, or a Gaussian mixture fitted to the codes of training subjects."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._checks import check_choice, check_integer
from .._randomness import numpy_generator

Array = NDArray[Any]

MAX_COMPONENTS = 8
"""Largest number of components that :func:`fit_latent_mixture` tries by default."""

COVARIANCES = ("full", "diag")


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

    rng = numpy_generator(seed, "latent mixture")
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
    rng = numpy_generator(seed, "mixture codes")
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
    codes: NDArray[np.float64] = numpy_generator(seed, "prior codes").standard_normal(shape)
    return codes
