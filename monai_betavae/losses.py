"""The beta-VAE loss: reconstruction loss by likelihood, KL divergence, and their weighted sum.

The scale of beta
-----------------
With N voxels per image, the reconstruction loss of the "normal" likelihood is the summed squared error SSE, without the
factor 1/2 of a unit-variance Gaussian, whose negative log-likelihood is SSE/2 + (N/2) log(2 pi). ``beta=1`` here is
therefore equivalent to ``beta=0.5`` in the unit-variance ELBO; in other words, it gives the exact ELBO (beta=1) of a
Gaussian with variance 1/2. For "laplace" (summed absolute error, unit scale up to N log 2) and "bernoulli" (cross
entropy), beta has its textbook scale. A loss written as mean squared error + w KL corresponds to ``beta = w N`` here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Laplace, Normal

from ._checks import ArgumentTypeError, check_choice, check_real
from .batches.images import check_images, plain_tensor
from .schedules import Schedule, as_schedule

LIKELIHOODS = ("normal", "laplace", "bernoulli")
"""Names of the decoder distributions that a tensor output can represent."""


def at_least_float32(value: Tensor) -> Tensor:
    """Return a plain tensor in float32, or in float64 if it is float64 already; complex numbers are refused."""
    value = plain_tensor(value)
    if value.is_complex():
        raise ValueError(f"Images and parameters of a distribution must be real numbers, got {value.dtype}.")
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def number_of(value: Any) -> Any:
    """Return the Python number of a tensor without axes, and any other value unchanged."""
    return value.item() if isinstance(value, Tensor) and value.ndim == 0 else value


def likelihood(p: Tensor | Distribution, default_dist: str = "normal") -> Distribution:
    """Return the decoder's output as a distribution over images.

    Args:
        p: a ``Normal``, ``Laplace`` or ``Bernoulli``, returned unchanged; or a tensor, which is the mean of a
            unit-scale ``Normal`` or ``Laplace``, or the success probability of a ``Bernoulli``.
        default_dist: distribution that a tensor represents: "normal", "laplace" or "bernoulli".

    Raises:
        ArgumentTypeError: (a ``ValueError`` and a ``TypeError``) if ``p`` is anything else.
        ValueError: if ``default_dist`` is unknown.
    """
    if isinstance(p, Normal | Laplace | Bernoulli):
        return p
    if not isinstance(p, Tensor):
        raise ArgumentTypeError(
            "The decoder's output must be a tensor or a torch.distributions Normal, Laplace or Bernoulli, "
            f"got {type(p).__name__}."
        )
    check_choice("default_dist", default_dist, LIKELIHOODS)
    p = at_least_float32(p)
    if default_dist == "bernoulli":
        return Bernoulli(probs=p, validate_args=False)
    # made on the device: a copy from the CPU would make a GPU wait, and stop the capture of a CUDA graph
    return (Normal if default_dist == "normal" else Laplace)(p, p.new_ones(()), validate_args=False)


def reconstruction_loss(p: Distribution, data: Tensor) -> Tensor:
    r"""Compute the reconstruction loss per image: summed over voxels and channels, averaged over the batch.

    .. math::
        \text{normal: } \frac1B \sum_{b,i} (x_{bi} - \mu_{bi})^2 \quad
        \text{laplace: } \frac1B \sum_{b,i} |x_{bi} - \mu_{bi}| \quad
        \text{bernoulli: } -\frac1B \sum_{b,i} x_{bi} \log p_{bi} + (1 - x_{bi}) \log (1 - p_{bi})

    The ``scale`` of the distribution is ignored: these are the losses of nidl's BetaVAELoss, not exact log-likelihoods
    (see the module's docstring for the constants). Under autocast they are computed in float32.

    Args:
        p: decoder distribution, ``Normal``, ``Laplace`` or ``Bernoulli``, with the shape of ``data``.
        data: images, shape (batch, channel, ...); in [0, 1] for a ``Bernoulli``.

    Returns:
        scalar tensor, in nats up to these constants.

    Raises:
        ArgumentTypeError: (a ``ValueError`` and a ``TypeError``) for another distribution, or data that is no tensor.
        ValueError: for different shapes, data without an image, complex numbers, or data or probabilities outside
            [0, 1] for a ``Bernoulli`` (checked on the CPU only, as the check would make a GPU synchronise).

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
        >>> float(reconstruction_loss(Normal(torch.zeros(2, 2), 1.0), x))
        2.5
    """
    if not isinstance(p, Normal | Laplace | Bernoulli):
        raise ArgumentTypeError(
            f"`p` must be a torch.distributions Normal, Laplace or Bernoulli, got {type(p).__name__}."
        )
    if not isinstance(data, Tensor):
        raise ArgumentTypeError(f"`data` must be a tensor of at least one image, got {type(data).__name__}.")
    if data.ndim == 0 or data.numel() == 0:
        raise ValueError(f"`data` must be a tensor of at least one image, got shape {tuple(data.shape)}.")
    if p.batch_shape != data.shape:
        raise ValueError(f"`p` must have the shape of the images, {tuple(data.shape)}, got {tuple(p.batch_shape)}.")
    x = at_least_float32(data)
    with torch.autocast(device_type=x.device.type, enabled=False):
        given = p.loc if isinstance(p, Normal | Laplace) else p.probs if "probs" in p.__dict__ else p.logits
        parameter = at_least_float32(given)
        # torch's cross entropy and some gradients need a common type
        common = torch.promote_types(parameter.dtype, x.dtype)
        parameter, x = parameter.to(common), x.to(common)
        if isinstance(p, Normal):
            total = F.mse_loss(parameter, x, reduction="sum")
        elif isinstance(p, Laplace):
            total = F.l1_loss(parameter, x, reduction="sum")
        else:
            if x.device.type == "cpu":
                check_images(x, "the batch", probabilities=True)
            if "probs" in p.__dict__:
                total = _cross_entropy(parameter, x)
            else:
                total = F.binary_cross_entropy_with_logits(parameter, x, reduction="sum")
        return total / len(x)


def _cross_entropy(probabilities: Tensor, x: Tensor) -> Tensor:
    """Return the summed cross entropy, or NaN if a probability is NaN or, on a GPU, outside [0, 1].

    On the CPU, probabilities outside [0, 1] raise an error. torch itself fails with an assertion for such values, and
    on a GPU the process can't use the GPU afterwards: a run that diverges would then end with that assertion instead of
    the message of :class:`~monai_betavae.training.divergence.StopOnDivergence`.
    """
    if x.device.type == "cpu":
        low, high = (float(bound) for bound in torch.aminmax(probabilities.detach()))
        if low < 0 or high > 1:
            raise ValueError(
                "The decoder's output must lie in [0, 1] for a Bernoulli, whose probability it is, got values from "
                f"{low:g} to {high:g}: end the decoder in a sigmoid, or give Bernoulli(logits=...)."
            )
    valid = (probabilities >= 0) & (probabilities <= 1)
    total = F.binary_cross_entropy(torch.where(valid, probabilities, 0.5), x, reduction="sum")
    return torch.where(valid.all(), total, torch.nan)


def kl_per_dimension(q: Normal) -> Tensor:
    r"""Compute the KL divergence of each latent dimension from the standard normal prior, averaged over the batch.

    .. math:: D_k = \frac1B \sum_b \tfrac12 (\mu_{bk}^2 + \sigma_{bk}^2 - 1 - \log \sigma_{bk}^2)

    Args:
        q: posterior, a ``Normal`` with parameters of shape (batch, latent_dim), or (batch, ..., latent_dim) for an
            encoder that returns several feature vectors per image.

    Returns:
        tensor of shape (latent_dim,) or (..., latent_dim), in nats, each value >= 0 up to rounding.

    Raises:
        ArgumentTypeError: (a ``ValueError`` and a ``TypeError``) if ``q`` isn't a ``Normal``.
        ValueError: for parameters of another shape, or an empty batch.
    """
    if not isinstance(q, Normal):
        raise ArgumentTypeError(f"`q` must be a torch.distributions Normal, got {type(q).__name__}.")
    if len(q.batch_shape) < 2 or 0 in q.batch_shape:
        raise ValueError(f"`q` must have parameters of shape (batch, latent_dim), got {tuple(q.batch_shape)}.")
    with torch.autocast(device_type=q.loc.device.type, enabled=False):
        loc, scale = at_least_float32(q.loc), at_least_float32(q.scale)
        # not the logarithm of the square: in float32 the square of a scale beyond 1e19 is infinite, and infinity minus
        # infinity is NaN; for a scale below 1e-23 the logarithm is minus infinity
        return (0.5 * (loc.square() + scale.square() - 1) - scale.log()).mean(dim=0)


def kl_normal_loss(q: Normal) -> Tensor:
    """Compute the KL divergence of the posterior from the standard normal prior, summed over latent dimensions.

    Args:
        q: posterior, a ``Normal`` with parameters of shape (batch, latent_dim) or (batch, ..., latent_dim).

    Returns:
        scalar tensor, nats per image: averaged over the batch, summed over everything else.

    Raises:
        ValueError: as in :func:`kl_per_dimension`.

    Example:
        >>> float(kl_normal_loss(Normal(torch.tensor([[2.0, 0.0]]), 1.0)))
        2.0
    """
    return kl_per_dimension(q).sum()


def weighted_sum(first: Tensor, *terms: tuple[float, Tensor]) -> Tensor:
    """Return the first term plus the others times their weights; a weight below the smallest normal number counts as 0.

    Infinity times 0 would be NaN.

    Example:
        >>> float(weighted_sum(torch.tensor(1.0), (2.0, torch.tensor(3.0)), (0.0, torch.tensor(float("inf")))))
        7.0
    """
    for weight, term in terms:
        first = first + weight * term if abs(weight) >= torch.finfo(torch.float32).tiny else first
    return first


class BetaVAELoss:
    r"""The beta-VAE loss: reconstruction loss plus beta times the KL divergence to the prior.

    .. math:: L = L_\text{rec}(x, p(x|z)) + \beta \, D_{KL}(q(z|x) \,\|\, N(0, I))

    Arguments, values and returned keys are those of ``BetaVAELoss`` in nidl 0.0.2. Both terms are sums per image (over
    voxels and over latent dimensions), averaged over the batch; under autocast they are computed in float32.
    :mod:`monai_betavae.losses` explains the meaning of ``beta=1`` for each likelihood.

    Shapes and types are checked. Values aren't, since that would make a GPU synchronise, except for the range of a
    Bernoulli on the CPU. For values up to 1e15 in magnitude, the limit of :class:`~monai_betavae.VAE`, the loss of ten
    million voxels is finite. Larger finite values give finite or infinite losses, never NaN. A value that isn't finite
    makes its term not finite.

    Args:
        beta: weight of the KL divergence, >= 0 and finite in float32; a tensor of one number counts as that number. 1
            gives the VAE; larger values pull the posterior closer to the prior at the expense of reconstruction.
        default_dist: meaning of a tensor from the decoder: the mean of a "normal" (squared error) or "laplace"
            (absolute error) distribution, or the probability of a "bernoulli" one (cross entropy).
        schedule: schedule of ``beta`` in training, a :class:`~monai_betavae.schedules.Schedule` or its arguments by
            name; ``None`` for a constant beta. :class:`~monai_betavae.VAE` applies it, see :meth:`at`.

    Attributes:
        takes_codes: whether the loss also takes the codes that were decoded, and the number of images in the dataset.
        of_the_batch: whether a term compares the images of a batch, and so isn't a mean over images. On several
            processes such a loss gets ``gathered``, posteriors and codes of all processes' images, if it takes that.
        scheduled: names of the weights that the schedule multiplies.

    Raises:
        ValueError: if ``beta`` is negative or not finite, ``default_dist`` is unknown, or ``schedule`` is neither.

    Source:
        Higgins et al., "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework",
        ICLR 2017.

    Example:
        >>> loss = BetaVAELoss(beta=4.0)
        >>> x, p = torch.zeros(2, 1, 2, 2, 2), torch.full((2, 1, 2, 2, 2), 0.5)
        >>> q = Normal(torch.ones(2, 3), torch.ones(2, 3))
        >>> {name: float(value) for name, value in loss(x, p, q).items()}
        {'rec_loss': 2.0, 'kl_loss': 1.5, 'loss': 8.0}
    """

    takes_codes = False
    of_the_batch = False
    schedule: Schedule | None = None  # also of a derived class that doesn't call this one's __init__
    scheduled: tuple[str, ...] = ("beta",)

    def __init__(
        self,
        beta: float = 4.0,
        default_dist: str = "normal",
        *,
        schedule: Schedule | Mapping[str, Any] | None = None,
    ) -> None:
        # a Python number: it is written to files, and must neither keep a graph nor wait for a GPU
        self.beta = check_real("beta", number_of(beta), minimum=0)
        if self.beta > torch.finfo(torch.float32).max:
            raise ValueError(f"`beta` must be finite in float32, got {beta!r}.")
        self.default_dist = check_choice("default_dist", default_dist, LIKELIHOODS)
        self.schedule = as_schedule(schedule)

    @property
    def kl_weight(self) -> float:
        """Weight of the KL divergence in closed form, from which the variance of the likelihood follows."""
        return self.beta

    def at(self, step: int, epoch: int) -> BetaVAELoss:
        """Return the loss at a position in training: this one, or with a schedule a copy with its weights of then.

        Args:
            step: number of the optimizer's steps so far.
            epoch: number of whole epochs so far.

        Example:
            >>> loss = BetaVAELoss(4.0, schedule={"kind": "linear", "length": 10})
            >>> loss.at(step=5, epoch=0).beta, loss.beta
            (2.0, 4.0)
        """
        if not isinstance(self.schedule, Schedule):
            return self
        factor, now = self.schedule(step, epoch), copy.copy(self)
        now.schedule = None
        for name in self.scheduled:
            setattr(now, name, factor * getattr(self, name))
        return now

    def __call__(self, x: Tensor, p: Tensor | Distribution, q: Normal) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            x: images, shape (batch, channel, ...).
            p: decoder output of the same shape, a tensor or a ``Normal``, ``Laplace`` or ``Bernoulli``.
            q: posterior, a ``Normal`` with parameters of shape (batch, latent_dim) or (batch, ..., latent_dim).

        Returns:
            scalar tensors under "rec_loss", "kl_loss" and "loss".

        Raises:
            ValueError: as in :func:`reconstruction_loss` and :func:`kl_per_dimension`, or if ``q`` doesn't have
                one row for each image.
        """
        losses = self._terms(x, p, q)
        return {**losses, "loss": self._weighted(losses["rec_loss"], losses["kl_loss"])}

    def _terms(self, x: Tensor, p: Tensor | Distribution, q: Normal) -> dict[str, Tensor]:
        """Return both terms of a batch, without weights."""
        rec_loss = self.reconstruction_loss(self._parse_distribution(p), x)
        kl_loss = self.kl_normal_loss(q)
        if q.batch_shape[0] != len(x):
            raise ValueError(f"`q` must have a row for each of the {len(x)} images, got {q.batch_shape[0]}.")
        return {"rec_loss": rec_loss, "kl_loss": kl_loss}

    def _weighted(self, rec_loss: Tensor, divergence: Tensor) -> Tensor:
        """Return their sum with the weight beta."""
        return weighted_sum(rec_loss, (self.beta, divergence))

    def reconstruction_loss(self, p: Distribution, data: Tensor) -> Tensor:
        """Compute the reconstruction loss per image; see :func:`reconstruction_loss`."""
        return reconstruction_loss(p, data)

    def kl_normal_loss(self, q: Normal) -> Tensor:
        """Compute the KL divergence per image; see :func:`kl_normal_loss`."""
        return kl_normal_loss(q)

    def _parse_distribution(self, p: Tensor | Distribution) -> Distribution:
        """Return the decoder's output as a distribution; the name is nidl's, for losses derived from its loss."""
        return likelihood(p, self.default_dist)

    def __repr__(self) -> str:
        schedule = "" if self.schedule is None else f", schedule={self.schedule!r}"
        return f"{type(self).__name__}(beta={self.beta:g}, default_dist={self.default_dist!r}{schedule})"
