"""How probable volumes are under a model, in nats with all constants: the ELBO, importance-weighted bounds, and PCA's.

What a model must have
----------------------
The functions here take the estimator :class:`~monai_betavae.VAE`, or another
:class:`~monai_betavae.networks.latent_model.DensityModel`. Its modules are put in eval mode and get their own modes
back. Nothing has a gradient, and autocast is off.

What the numbers are
--------------------
The decoder's exact distribution counts, not the loss: a unit-scale normal has SSE/2 + (N/2) log 2 pi for N voxels where
the loss has SSE. A decoder that gives a Normal or Laplace counts with its own scale. The unit scale of a tensor is a
convention, not an estimate of the noise: it is far too wide for intensities in [0, 1], so that the constant
(N/2) log 2 pi hides how subjects differ; ``scale`` puts a calibrated noise in its place, such as the root mean squared
residual of validation data. Compare models only with the same likelihood and scale. For a Bernoulli and grey
values the term is the cross entropy, as in the loss, which isn't a normalised density.

The networks run in their own precision; densities and their sums over voxels are float64. A volume has 10^6 voxels and
a log-density of -10^6 nats, where float32 numbers are 0.06 apart, and the weights of importance sampling are
differences of such sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence, Sized
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Laplace, Normal

from .._checks import check_choice, check_integer, check_real, check_seed
from ..batches.covariates import batch_covariates
from ..batches.images import check_images, image_tensor
from ..batches.ordering import OrderedRows, check_not_empty
from ..losses import LIKELIHOODS, likelihood
from ..networks.conditional_mean import n_covariates_of
from ..networks.latent_model import DensityModel, device_of, encode_images, evaluating
from ..networks.noise import noise_of

Array = NDArray[Any]

CHUNK_SIZE = 16
"""Codes decoded at once, unless said otherwise: at 10^6 voxels about 0.5 GiB beside what the decoder itself takes."""

LOG_2PI = math.log(2 * math.pi)


class Elbo(NamedTuple):
    """The evidence lower bound of each volume and its two terms, each of shape (n,), in nats.

    Attributes:
        log_density: E_q(z|x) log p(x|z), the mean over the codes drawn.
        kl: KL divergence of q(z|x) from the prior N(0, I), in closed form.
        elbo: ``log_density - kl``.
    """

    log_density: NDArray[np.float64]
    kl: NDArray[np.float64]
    elbo: NDArray[np.float64]


def elbo(
    model: DensityModel,
    dataloader: Iterable[Any],
    *,
    n_samples: int = 1,
    image_key: str = "image",
    seed: int | None = 0,
    scale: float | None = None,
    chunk_size: int = CHUNK_SIZE,
    progress: bool = True,
) -> Elbo:
    """Return the evidence lower bound of each volume, with the KL divergence unweighted whatever the model's beta.

    ELBO(x) = E_q(z|x) log p(x|z) - KL(q(z|x) || N(0, I)) <= log p(x)

    Row i is item i of the loader's dataset, whatever its sampler; a loader without a dataset of known length is read
    as it comes. The codes of a volume are the first ones that :func:`log_likelihood` draws for it, so that the two
    compare without the noise of different draws.

    Args:
        model: the estimator, or what the module's docstring describes.
        dataloader: loader of the volumes, in any of the forms a batch can have.
        n_samples: codes drawn for each volume.
        image_key: key of the images in dictionary batches.
        seed: of the codes; with ``None`` they differ from call to call.
        scale: replaces the scale of a decoder that gives a tensor, which is that of its noise (see
            :mod:`~monai_betavae.networks.noise`) or 1, in units of the images: the standard deviation of a "normal",
            the b of a "laplace".
        chunk_size: codes decoded at once.
        progress: whether to show a progress bar.

    Returns:
        log_density, kl and elbo, each of shape (n,), nats.

    Raises:
        ValueError: for an empty loader, images that aren't finite, a model that isn't as described, or a ``scale`` for
            a decoder that has its own or none.

    Source:
        Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014.

    Example:
        >>> class Nothing(torch.nn.Module):  # ignores its input: q is the prior
        ...     default_dist = "normal"
        ...     def encode(self, x):
        ...         return Normal(torch.zeros(len(x), 1), torch.ones(len(x), 1))
        ...     def decoder(self, z):
        ...         return torch.zeros(len(z), 1, 2, 2)
        >>> found = elbo(Nothing(), [torch.zeros(3, 1, 2, 2)])
        >>> found.kl.tolist(), bool(np.allclose(found.elbo, -2 * np.log(2 * np.pi)))
        ([0.0, 0.0, 0.0], True)
    """
    n_samples = check_integer("n_samples", n_samples, minimum=1)
    draws = _Draws(model, dataloader, n_samples, image_key, seed, scale, chunk_size, progress)
    parts = [torch.stack([drawn.log_density.mean(dim=1), drawn.kl]) for drawn in draws.batches("ELBO")]
    log_density, kl = draws.gather([part.T for part in parts]).T
    return Elbo(log_density, kl, log_density - kl)


def log_likelihood(
    model: DensityModel,
    dataloader: Iterable[Any],
    n_samples: int = 100,
    *,
    chunk_size: int = CHUNK_SIZE,
    image_key: str = "image",
    seed: int | None = 0,
    scale: float | None = None,
    progress: bool = True,
) -> NDArray[np.float64]:
    """Return the importance-weighted bound on the log-likelihood of each volume.

    L_K(x) = log (1/K) sum_k p(x|z_k) p(z_k) / q(z_k|x), with K draws z_k from q(z|x).

    In expectation ELBO = L_1 <= L_K <= L_(K+1) <= log p(x), with equality where q(z|x) is the true posterior. The gap
    closes slowly: where the posterior is poor, one draw has nearly all the weight, and a larger K still raises the
    bound. Compare models at the same K.

    The noise of draw k of row i depends on ``seed``, i and k alone. So the batch size and ``chunk_size`` change
    nothing but rounding, and the first draws of a larger K are those of a smaller one. Rows are as in :func:`elbo`.

    Args:
        model: the estimator, or what the module's docstring describes.
        dataloader: loader of the volumes, in any of the forms a batch can have.
        n_samples: K, exactly as many codes for each volume.
        chunk_size: codes decoded at once, whether of one volume or several; bounds the memory.
        image_key: key of the images in dictionary batches.
        seed: of the codes; with ``None`` they differ from call to call.
        scale: as in :func:`elbo`.
        progress: whether to show a progress bar.

    Returns:
        shape (n,), nats.

    Raises:
        ValueError: as in :func:`elbo`.

    Source:
        Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016.

    Example:
        >>> class Nothing(torch.nn.Module):
        ...     default_dist = "laplace"
        ...     def encode(self, x):
        ...         return Normal(torch.zeros(len(x), 1), torch.ones(len(x), 1))
        ...     def decoder(self, z):
        ...         return torch.zeros(len(z), 1, 2, 2)
        >>> log_likelihood(Nothing(), [torch.zeros(2, 1, 2, 2)], n_samples=3).round(4).tolist()  # -4 log 2
        [-2.7726, -2.7726]
    """
    n_samples = check_integer("n_samples", n_samples, minimum=1)
    draws = _Draws(model, dataloader, n_samples, image_key, seed, scale, chunk_size, progress)
    rows = [
        torch.logsumexp(drawn.log_density + drawn.log_ratio, dim=1) - math.log(n_samples)
        for drawn in draws.batches("log-likelihood")
    ]
    return draws.gather(rows)


def probabilistic_pca_log_density(
    images: Array, pca_mean: Array, loadings: Array, noise_variance: float
) -> NDArray[np.float64]:
    """Return the log-density of images under probabilistic PCA, the closed form of a VAE with a linear decoder.

    x ~ N(m, C), C = W W^T + s^2 I. With D voxels, k components, d = x - m and M = W^T W + s^2 I (k x k):

    - log |C| = (D - k) log s^2 + log |M|;
    - d^T C^-1 d = |d - W h|^2 / s^2 + |h|^2, where h = M^-1 W^T d is the posterior mean of the code;

    which never forms C, and has no difference of large numbers in it, as the Woodbury identity written out has.

    Args:
        images: shape (n, ...), of D values each.
        pca_mean: m, of D values.
        loadings: W, shape (D, k). Those of scikit-learn's ``PCA`` are
            ``components_.T * sqrt(explained_variance_ - noise_variance_)``.
        noise_variance: s^2 > 0, in squared units of the images.

    Returns:
        shape (n,), nats.

    Raises:
        ValueError: if shapes don't go together or ``noise_variance`` isn't positive.

    Source:
        Tipping & Bishop 1999, Journal of the Royal Statistical Society B 61, 611-622; that the best linear VAE is it:
        Lucas et al., "Don't Blame the ELBO!", NeurIPS 2019.

    Example:
        >>> found = probabilistic_pca_log_density(np.zeros((1, 2)), np.zeros(2), np.zeros((2, 1)), 1.0)
        >>> bool(np.isclose(found[0], -np.log(2 * np.pi)))
        True
    """
    s2 = check_real("noise_variance", noise_variance, minimum=0, exclusive=True)
    images = np.asarray(images, dtype=np.float64)
    if images.ndim < 2 or len(images) == 0:
        raise ValueError(f"`images` must have shape (n, ...) with at least one row, got {images.shape}.")
    flat, mean = images.reshape(len(images), -1), np.asarray(pca_mean, dtype=np.float64).reshape(-1)
    w, n_values = np.asarray(loadings, dtype=np.float64), flat.shape[1]
    if len(mean) != n_values:
        raise ValueError(f"`pca_mean` must have the {n_values} values of an image, got {len(mean)}.")
    if w.ndim != 2 or len(w) != n_values:
        raise ValueError(f"`loadings` must have shape ({n_values}, k), as an image has values, got {w.shape}.")
    k = w.shape[1]
    d = flat - mean
    m = w.T @ w + s2 * np.eye(k)
    h = np.linalg.solve(m, w.T @ d.T).T
    residual = d - h @ w.T
    squared = np.einsum("ij,ij->i", residual, residual) / s2 + np.einsum("ij,ij->i", h, h)
    log_determinant = (n_values - k) * math.log(s2) + np.linalg.slogdet(m)[1]
    density: NDArray[np.float64] = -0.5 * (n_values * LOG_2PI + log_determinant + squared)
    return density


class _Drawn(NamedTuple):
    """One batch: log p(x|z_k) and log p(z_k) - log q(z_k|x), of shape (batch, K); the KL divergence, (batch,)."""

    log_density: Tensor
    log_ratio: Tensor
    kl: Tensor


class _Draws:
    """Codes drawn for every volume of a loader, and how probable they make it."""

    def __init__(
        self,
        model: DensityModel,
        dataloader: Iterable[Any],
        n_samples: int,
        image_key: str,
        seed: int | None,
        scale: float | None,
        chunk_size: int,
        progress: bool,
    ) -> None:
        self.chunk_size = check_integer("chunk_size", chunk_size, minimum=1)
        seed = check_seed("seed", seed)
        self.entropy: Any = np.random.SeedSequence().entropy if seed is None else seed
        self.scale = None if scale is None else check_real("scale", scale, minimum=0, exclusive=True)
        for name in ("encode", "decoder"):
            if not callable(getattr(model, name, None)):
                raise ValueError(f"`model` must have a callable `{name}`, got a {type(model).__name__} without.")
        self.model = model
        if not hasattr(model, "default_dist"):
            raise ValueError(
                f"`model` must have `default_dist`, one of {', '.join(map(repr, LIKELIHOODS))}, got a "
                f"{type(model).__name__} without."
            )
        self.default_dist = check_choice("model.default_dist", model.default_dist, LIKELIHOODS)
        check_not_empty("dataloader", dataloader)
        self.rows = OrderedRows(dataloader)
        n_volumes = None if self.rows.shared else _n_volumes(dataloader, image_key)
        self.n_codes = None if n_volumes is None else n_volumes * n_samples
        self.n_samples = n_samples
        self.image_key = image_key
        self.progress = progress

    def batches(self, doing: str) -> list[_Drawn]:
        """Return this process's batches, with numbers in float64 on the CPU."""
        from tqdm.auto import tqdm

        drawn: list[_Drawn] = []
        device = device_of(self.model)
        bar = tqdm(desc=doing, total=self.n_codes, unit="code", delay=2, disable=not self.progress)
        with bar, evaluating(self.model), torch.no_grad(), torch.autocast(device.type, enabled=False):
            for batch in self.rows.image_batches(self.image_key):
                images = batch.images.to(device)
                rows = batch_covariates(batch.content, n_covariates_of(self.model), len(images))
                rows = None if rows is None else rows.to(device)
                q = encode_images(self.model, images, "model", rows)
                loc, scale = _float64(q.loc), _float64(q.scale)
                noise = self._noise(batch.rows, loc)
                z = loc[:, None] + scale[:, None] * noise
                # with the noise, not (z - loc) / scale: the same number, but for its digits where scale is tiny
                log_q = -0.5 * (noise.square() + LOG_2PI).sum(dim=2) - scale.log().sum(dim=1, keepdim=True)
                log_prior = -0.5 * (z.square() + LOG_2PI).sum(dim=2)
                kl = (0.5 * (loc.square() + scale.square() - 1) - scale.log()).sum(dim=1)
                log_density = self._log_density(images, rows, z.to(q.loc.dtype), f"batch {batch.number}", bar)
                drawn.append(_Drawn(log_density.cpu(), (log_prior - log_q).cpu(), kl.cpu()))
        return drawn

    def gather(self, parts: list[Tensor]) -> NDArray[np.float64]:
        """Concatenate the rows of all batches, and of all processes if they share the work."""
        if not parts and not self.rows.shared:
            raise ValueError("`dataloader` must give at least one batch, got none.")
        gathered: NDArray[np.float64] = self.rows.gather(parts).numpy()
        return gathered

    def _noise(self, rows: range, loc: Tensor) -> Tensor:
        """Return standard normal noise of shape (batch, K, latent_dim), each row from a generator of its own.

        From numpy, whose generator fills an array in order; the first rows of a larger ``torch.randn`` differ from a
        smaller one.
        """
        shape = (self.n_samples, loc.shape[1])
        noise = np.empty((len(loc), *shape))
        for index, row in enumerate(rows):
            source = np.random.SeedSequence(self.entropy, spawn_key=(row,))
            noise[index] = np.random.default_rng(source).standard_normal(shape)
        return torch.from_numpy(noise).to(loc.device)

    def _log_density(self, images: Tensor, covariates: Tensor | None, z: Tensor, where: str, bar: Any) -> Tensor:
        """Return log p(x|z_k) of shape (batch, K), at most ``chunk_size`` codes decoded at a time."""
        codes = z.flatten(0, 1).to(images.device)
        found: list[Tensor] = []
        for start in range(0, len(codes), self.chunk_size):
            chunk = codes[start : start + self.chunk_size]
            owners = torch.arange(start, start + len(chunk), device=images.device) // self.n_samples
            x = images[owners]
            p = self._decoded(chunk, None if covariates is None else covariates[owners])
            if p.batch_shape != x.shape:
                raise ValueError(
                    f"`model.decoder` must give the shape of the images, {tuple(x.shape)}, got {tuple(p.batch_shape)}."
                )
            if isinstance(p, Bernoulli):
                check_images(x, where, probabilities=True)
            found.append(_log_density(p, x))
            bar.update(len(chunk))
        return torch.cat(found).reshape(z.shape[:2])

    def _decoded(self, codes: Tensor, covariates: Tensor | None) -> Distribution:
        output = self.model.decoder(codes) if covariates is None else self.model.decoder(codes, covariates)
        p = likelihood(output, self.default_dist)
        if self.scale is None:
            noise = noise_of(self.model)
            if noise is None or not isinstance(output, Tensor) or isinstance(p, Bernoulli):
                return p
            deviation = noise.deviation().expand(p.batch_shape)
            return (Normal if isinstance(p, Normal) else Laplace)(p.mean, deviation, validate_args=False)
        if not isinstance(output, Tensor) or isinstance(p, Bernoulli):
            reason = "a bernoulli has none" if isinstance(p, Bernoulli) else "its distribution has its own"
            raise ValueError(f"`scale` must be None for this decoder ({reason}), got {self.scale!r}.")
        return (Normal if isinstance(p, Normal) else Laplace)(p.mean, self.scale, validate_args=False)


def _n_volumes(loader: Any, image_key: str) -> int | None:
    """Return how many volumes a loader or a list of batches has, ``None`` if it can't be said before they are read."""
    if isinstance(loader, Sequence):
        return sum(len(image_tensor(batch, image_key)) for batch in loader)
    dataset = getattr(loader, "dataset", None)
    return len(dataset) if isinstance(dataset, Sized) else None


def _log_density(p: Distribution, x: Tensor) -> Tensor:
    """Return the log-density of each image, shape (batch,): in float64 from the parameters on."""
    x = _float64(x)
    if isinstance(p, Bernoulli):
        # as in the loss: log p is at least -100, where the formula with probabilities has -inf for p = 0
        if "probs" in p.__dict__:
            cross_entropy = F.binary_cross_entropy(_float64(p.probs), x, reduction="none")
        else:
            cross_entropy = F.binary_cross_entropy_with_logits(_float64(p.logits), x, reduction="none")
        return -cross_entropy.flatten(1).sum(dim=1)
    assert isinstance(p, Normal | Laplace)
    exact = type(p)(_float64(p.loc), _float64(p.scale), validate_args=False)
    total: Tensor = exact.log_prob(x).flatten(1).sum(dim=1)
    return total


def _float64(value: Tensor) -> Tensor:
    # Apple's GPUs have no float64
    return (value.cpu() if value.device.type == "mps" else value).double()
