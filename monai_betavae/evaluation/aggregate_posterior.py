"""Decomposition of the mean KL divergence of a cohort, from its aggregate posterior.

The aggregate posterior q(z) = (1/n) sum_i q(z|x_i) is the distribution that the decoder sees in training. With its
marginals q(z_k),

    mean_i KL(q(z|x_i) || p(z)) = I(x; z) + KL(q(z) || prod_k q(z_k)) + sum_k KL(q(z_k) || p(z_k))

which are the mutual information, the total correlation, and the divergence of each dimension from the prior.
"""

from __future__ import annotations

import math
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from .._checks import check_integer, check_seed

Array = NDArray[Any]

LOG_2PI = math.log(2 * math.pi)


class AggregatePosterior(TypedDict):
    """The terms of the mean KL divergence, in nats; "dimension_kl" has shape (latent_dim,).

    :func:`aggregate_posterior` describes each key.
    """

    mutual_information: float
    total_correlation: float
    dimension_kl: NDArray[np.float64]
    kl_estimate: float
    kl: float


def aggregate_posterior(
    mu: Array,
    logvar: Array,
    *,
    n_samples: int = 10,
    seed: int | None = 0,
    chunk_size: int = 64,
    progress: bool = True,
) -> AggregatePosterior:
    r"""Split the mean KL divergence of a cohort into mutual information, total correlation and dimension-wise KL.

    With :math:`q(z) = \frac1n \sum_j q(z|x_j)` and expectations over i and :math:`z \sim q(z|x_i)`:

    .. math::
        I(x; z) = E[\log q(z|x_i) - \log q(z)] \quad
        TC = E[\log q(z) - \sum_k \log q(z_k)] \quad
        D_k = E[\log q(z_k) - \log p(z_k)]

    The estimator is Monte Carlo over z: ``n_samples`` draws for every subject, the same draws in all terms. It uses the
    exact mixture of all n posteriors as the density, which costs O(n_samples n^2 latent_dim). It needs no minibatch
    weights: the stratified weights of beta-TCVAE code are a rough estimate for training, and most libraries copy a
    version that has 1/N in the wrong place.

    The terms treat this cohort as the whole population. I(x; z) is at most log n, the value for codes that distinguish
    all subjects, however much more information they hold; the total correlation depends on n too. Compare cohorts of
    the same size, or models on the same cohort.

    Args:
        mu: posterior means, shape (n, latent_dim).
        logvar: posterior log-variances, the same shape.
        n_samples: number of draws from the posterior of each subject.
        seed: seed of the draws.
        chunk_size: number of draws whose densities are held in memory at once; each takes n latent_dim numbers.
        progress: whether to show a progress bar.

    Returns:
        in nats: "mutual_information"; "total_correlation"; "dimension_kl" of shape (latent_dim,), :math:`D_k`;
        "kl_estimate", the mean of log q(z|x) - log p(z) over the draws, which the three terms sum to; and "kl", the
        mean KL divergence in closed form. The last two differ by the Monte Carlo error only.

    Raises:
        ValueError: if the shapes differ, aren't two-dimensional or empty, or a value isn't finite.

    Source:
        Hoffman & Johnson, "ELBO surgery", NIPS workshop 2016; Chen et al., "Isolating Sources of Disentanglement in
        Variational Autoencoders", NeurIPS 2018, equation 2.

    Example:
        >>> apart = np.array([[-50.0], [50.0], [0.0], [100.0]])  # posteriors of four subjects that don't overlap
        >>> found = aggregate_posterior(apart, np.zeros((4, 1)))
        >>> round(found["mutual_information"], 6) == round(math.log(4), 6), found["total_correlation"]
        (True, 0.0)
    """
    from scipy.special import logsumexp
    from tqdm.auto import tqdm

    n_samples = check_integer("n_samples", n_samples, minimum=1)
    chunk_size = check_integer("chunk_size", chunk_size, minimum=1)
    rng = np.random.default_rng(check_seed("seed", seed))
    mu, logvar = np.asarray(mu, dtype=np.float64), np.asarray(logvar, dtype=np.float64)
    if mu.ndim != 2 or mu.shape != logvar.shape or mu.size == 0:
        raise ValueError(
            f"`mu` and `logvar` must have one shape (n, latent_dim), not empty, got {mu.shape} and {logvar.shape}."
        )
    for name, values in (("mu", mu), ("logvar", logvar)):
        if not np.isfinite(values).all():
            raise ValueError(f"`{name}` must be finite, got {int((~np.isfinite(values)).sum())} values that aren't.")

    n, latent_dim = mu.shape
    noise = rng.standard_normal((n_samples, n, latent_dim)).reshape(-1, latent_dim)
    owners = np.tile(np.arange(n), n_samples)
    precision, log_scale = np.exp(-0.5 * logvar), 0.5 * logvar
    information, correlation, estimate = 0.0, 0.0, 0.0
    dimension_kl = np.zeros(latent_dim)
    starts = range(0, len(noise), chunk_size)
    for start in tqdm(starts, desc="aggregate posterior", unit="chunk", delay=2, disable=not progress):
        chunk = slice(start, start + chunk_size)
        own = owners[chunk]
        z = mu[own] + np.exp(log_scale[own]) * noise[chunk]
        # (draw, subject, dimension)
        log_densities = -0.5 * ((z[:, None] - mu) * precision) ** 2 - log_scale - 0.5 * LOG_2PI
        log_conditional = log_densities[np.arange(len(own)), own].sum(axis=1)
        log_joint = logsumexp(log_densities.sum(axis=2), axis=1) - math.log(n)
        log_marginals = logsumexp(log_densities, axis=1) - math.log(n)
        log_prior = -0.5 * (z**2 + LOG_2PI)
        information += float((log_conditional - log_joint).sum())
        correlation += float((log_joint - log_marginals.sum(axis=1)).sum())
        estimate += float((log_conditional - log_prior.sum(axis=1)).sum())
        dimension_kl += (log_marginals - log_prior).sum(axis=0)
    kl = 0.5 * (mu**2 + np.exp(logvar) - 1.0 - logvar).sum(axis=1)
    return {
        "mutual_information": information / len(noise),
        "total_correlation": correlation / len(noise),
        "dimension_kl": dimension_kl / len(noise),
        "kl_estimate": estimate / len(noise),
        "kl": float(kl.mean()),
    }
