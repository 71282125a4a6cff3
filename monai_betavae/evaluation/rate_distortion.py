"""Rate and distortion: nats that codes spend on an image, against the error that is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._checks import check_integer, check_real
from .latent_activity import kl_per_dimension
from .reconstruction import PrincipalComponentModel, squared_error

Array = NDArray[Any]


class RateDistortion(NamedTuple):
    """Points of a curve, means over images.

    Attributes:
        rate: KL divergence from the prior, nats.
        distortion: summed squared error of the reconstruction from the posterior's mean.

    Example:
        >>> RateDistortion(rate=np.array([0.0, 5.0]), distortion=np.array([10.0, 6.0])).rate.tolist()
        [0.0, 5.0]
    """

    rate: NDArray[np.float64]
    distortion: NDArray[np.float64]


def linear_rate_distortion(
    pca: PrincipalComponentModel, images: Array, n_points: int = 24, n_latents: int | None = None
) -> RateDistortion:
    r"""Return the curve of linear beta-VAEs, whose optimum is known in closed form: probabilistic PCA.

    With eigenvalues :math:`\lambda_k` of the training images' covariance, orthonormal components :math:`u_k` and the
    variance v of the likelihood, to which beta is proportional, the optimal linear decoder has the columns
    :math:`u_k \sqrt{\lambda_k - v}` where :math:`\lambda_k > v`, and no other. The posterior of an image x with the
    score :math:`s_k = u_k^T (x - m)` is

    .. math:: q(z_k|x) = N\left(\frac{\sqrt{\lambda_k - v}}{\lambda_k} s_k, \; \frac{v}{\lambda_k}\right)

    Args:
        pca: components of the training images, from :func:`~monai_betavae.evaluation.reconstruction.fit_pca`.
        images: other images, shape (n, ...).
        n_points: number of points: variances from the largest eigenvalue down to a hundredth of the smallest one used,
            evenly spaced on a logarithmic scale.
        n_latents: number of components; ``None`` for all that ``pca`` holds.

    Returns:
        rates and distortions, shape (n_points,), by rising rate of the training images.

    Raises:
        ValueError: naming the argument.

    Source:
        Tipping & Bishop, "Probabilistic Principal Component Analysis", JRSS B 61, 1999; Lucas et al., "Don't Blame the
        ELBO!", NeurIPS 2019.

    Example:
        >>> from monai_betavae.evaluation.reconstruction import fit_pca
        >>> images = np.random.default_rng(0).normal(size=(50, 6)) * [9, 3, 1, 0, 0, 0]
        >>> curve = linear_rate_distortion(fit_pca(images, 2), images)
        >>> float(curve.rate[0]), bool(np.all(np.diff(curve.rate) > 0)), bool(np.all(np.diff(curve.distortion) < 0))
        (0.0, True, True)
    """
    n_points = check_integer("n_points", n_points, minimum=2)
    n_latents = pca.n_components_ if n_latents is None else check_integer("n_latents", n_latents, minimum=1)
    eigenvalues = np.asarray(pca.explained_variance_[:n_latents], dtype=np.float64)
    eigenvalues = eigenvalues[eigenvalues > 0]
    if not len(eigenvalues):
        raise ValueError("`pca` must have a component with a variance above 0, got none.")
    scores = pca.transform(np.asarray(images).reshape(len(images), -1))[:, : len(eigenvalues)]
    rest = _outside(pca, np.asarray(images), scores)
    rates, distortions = [], []
    for variance in np.geomspace(eigenvalues[0], eigenvalues[-1] / 100, n_points):
        kept = np.maximum(eigenvalues - variance, 0.0) / eigenvalues  # what the posterior's mean keeps of a score
        mu = np.sqrt(kept / eigenvalues) * scores
        logvar = np.broadcast_to(np.log1p(-kept), mu.shape)
        rates.append(float(kl_per_dimension(mu, logvar).sum()))
        distortions.append(float((rest + ((1 - kept) ** 2 * scores**2).sum(axis=1)).mean()))
    return RateDistortion(np.array(rates), np.array(distortions))


def truncated_rate_distortion(
    decode: Callable[[Array], Array], mu: Array, logvar: Array, images: Array, counts: Sequence[int] | None = None
) -> RateDistortion:
    """Return the curve of a model whose codes keep their most informative dimensions only.

    The dimensions are ordered by their mean KL divergence. The others are decoded from the prior's mean, 0.

    Args:
        decode: from codes (n, latent_dim) to reconstructions of the shape of ``images``.
        mu: posterior means, shape (n, latent_dim).
        logvar: posterior log-variances, the same shape.
        images: shape (n, ...).
        counts: how many dimensions are kept, for each point; ``None`` for 0, 1, 2, 4, 8, ... and all.

    Returns:
        rates and distortions, one for each count.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> mu = np.array([[1.0, 3.0], [-1.0, -3.0]])
        >>> curve = truncated_rate_distortion(lambda codes: codes, mu, np.zeros((2, 2)), images=mu)
        >>> curve.rate.tolist(), curve.distortion.tolist()
        ([0.0, 4.5, 5.0], [10.0, 1.0, 0.0])
    """
    kl = kl_per_dimension(mu, logvar)
    order, n_latents = np.argsort(-kl, kind="stable"), len(kl)
    if counts is None:
        counts = [0, *(2**power for power in range(n_latents.bit_length()) if 2**power < n_latents), n_latents]
    rates, distortions = [], []
    for count in counts:
        kept = order[: check_integer("counts", count, minimum=0)]
        codes = np.zeros_like(mu)
        codes[:, kept] = mu[:, kept]
        rates.append(float(kl[kept].sum()))
        distortions.append(float(squared_error(images, decode(codes)).mean()))
    return RateDistortion(np.array(rates), np.array(distortions))


def distortion_at(curve: RateDistortion, rate: float) -> float | None:
    """Return a curve's distortion at a rate, interpolated linearly; ``None`` outside of its rates.

    Example:
        >>> curve = RateDistortion(np.array([0.0, 10.0]), np.array([8.0, 4.0]))
        >>> distortion_at(curve, 5.0), distortion_at(curve, 11.0)
        (6.0, None)
    """
    rate = check_real("rate", rate)
    order = np.argsort(curve.rate)
    rates, distortions = curve.rate[order], curve.distortion[order]
    return float(np.interp(rate, rates, distortions)) if rates[0] <= rate <= rates[-1] else None


def _outside(pca: PrincipalComponentModel, images: Array, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each image's squared distance from the plane of the components; one image at a time in float64."""
    rest = [
        float(np.square(image.reshape(-1).astype(np.float64) - pca.mean_).sum() - np.square(row).sum())
        for image, row in zip(images, scores, strict=True)
    ]
    return np.maximum(rest, 0.0)
