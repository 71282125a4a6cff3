"""KL divergence of each latent dimension, and the dimensions that are active."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def kl_per_dimension(mu: Array, logvar: Array) -> NDArray[np.float64]:
    """Return the KL divergence of each latent dimension from the prior, averaged over subjects.

    D_k = mean_b (mu_bk^2 + exp(logvar_bk) - 1 - logvar_bk) / 2

    Args:
        mu: posterior means, shape (n, latent_dim).
        logvar: posterior log-variances, the same shape.

    Returns:
        shape (latent_dim,), nats.

    Raises:
        ValueError: if the shapes differ or aren't two-dimensional.

    Example:
        >>> kl_per_dimension(np.array([[0.0, 2.0]]), np.zeros((1, 2))).tolist()
        [0.0, 2.0]
    """
    mu, logvar = _matching(mu, logvar)
    kl: NDArray[np.float64] = np.mean(0.5 * (mu**2 + np.exp(logvar) - 1.0 - logvar), axis=0)
    return kl


def active_units(mu: Array, threshold: float = 0.01) -> NDArray[np.bool_]:
    """Return which latent dimensions are active: the variance of the posterior mean exceeds a threshold.

    Args:
        mu: posterior means, shape (n, latent_dim).
        threshold: threshold of the variance over subjects.

    Returns:
        shape (latent_dim,), boolean.

    Source:
        Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, section 5.1.2.

    Example:
        >>> active_units(np.array([[-1.0, 0.001], [1.0, -0.001]])).tolist()
        [True, False]
    """
    mu, _ = _matching(mu, mu)
    active: NDArray[np.bool_] = np.var(mu, axis=0) > threshold
    return active


def _matching(mu: Array, logvar: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mu, logvar = np.asarray(mu, dtype=np.float64), np.asarray(logvar, dtype=np.float64)
    if mu.ndim != 2 or mu.shape != logvar.shape:
        raise ValueError(f"`mu` and `logvar` must have one shape (n, latent_dim), got {mu.shape} and {logvar.shape}.")
    return mu, logvar
