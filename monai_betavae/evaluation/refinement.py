"""Codes that explain a volume better than the encoder's guess: how much of a score the encoder loses.

An encoder guesses the posterior in one pass, the same weights for every volume. What it misses beside the best code of
each volume is the amortization gap. Refined codes cost hundreds of times as much as encoded ones, and say which of the
two, encoder or decoder, holds a score back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._checks import check_integer, check_real

Array = NDArray[Any]

CODE_STEP = 0.1
"""Distance of codes whose images are compared for a slope: wide for float32, narrow beside the prior."""

HALVINGS = 3
"""How often a step that makes things worse is halved before the code stays as it is."""


def refined_codes(
    decode: Callable[..., Tensor],
    images: Array | Tensor,
    codes: Array | Tensor,
    *,
    variance: float = 0.5,
    n_steps: int = 1,
    device: torch.device | str = "cpu",
    chunk_size: int = 16,
    progress: bool = False,
    covariates: Array | Tensor | None = None,
) -> NDArray[np.float32]:
    r"""Return codes nearer to the mode of the true posterior, by Gauss-Newton steps from given ones.

    The mode of p(z|x) under a normal likelihood and the prior N(0, I) minimises

    .. math:: E(z) = |x - f(z)|^2 + s^2 |z|^2

    with the decoder f and the likelihood's variance s^2. A step solves, with the Jacobian J of f at z by finite
    differences,

    .. math:: (J^T J + s^2 I) \Delta = J^T (x - f(z)) - s^2 z

    and is halved while E doesn't fall, so that no code becomes worse. For a linear decoder one step is exact. Each
    step decodes latent_dim codes per volume.

    Args:
        decode: from codes (batch, latent_dim) to images (batch, channel, ...), on ``device``.
        images: shape (n, channel, ...).
        codes: where to start, shape (n, latent_dim), such as the encoder's means.
        variance: s^2, in squared units of the images. A VAE trained with the "normal" loss, SSE + beta KL, has
            beta / 2 (see :mod:`~monai_betavae.losses`).
        n_steps: number of steps; from an encoder's means one takes most of the way.
        device: where to decode.
        chunk_size: codes decoded at once.
        progress: whether to show a progress bar.
        covariates: coded covariates of a conditional decoder, shape (n, n_covariates), which ``decode`` gets as its
            second argument, a row for each code. The prior of its codes is N(0, I), too.

    Returns:
        shape (n, latent_dim).

    Raises:
        ValueError: if shapes don't go together, numbers aren't finite, or an argument is out of range.

    Source:
        Cremer, Li & Duvenaud, "Inference Suboptimality in Variational Autoencoders", ICML 2018 (the gap); Nocedal &
        Wright, "Numerical Optimization", chapter 10 (Gauss-Newton).

    Example:
        >>> w = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])  # a linear decoder has its mode in closed form
        >>> found = refined_codes(lambda z: z @ w.T, np.array([[2.5, 1.5, 9.0]]), np.zeros((1, 2)))
        >>> [round(float(value), 3) for value in found[0]]  # 2 * 2.5 / (4 + 0.5), 1.5 / (1 + 0.5)
        [1.111, 1.0]
    """
    from tqdm.auto import tqdm

    variance = check_real("variance", variance, minimum=0, exclusive=True)
    n_steps = check_integer("n_steps", n_steps, minimum=0)
    chunk_size = check_integer("chunk_size", chunk_size, minimum=1)
    volumes, start = torch.as_tensor(images), torch.as_tensor(codes).float()
    if start.ndim != 2 or volumes.ndim < 2 or len(volumes) != len(start):
        raise ValueError(
            f"`codes` must have shape (n={len(volumes)}, latent_dim), a row for each of `images`, got "
            f"{tuple(start.shape)} for images of shape {tuple(volumes.shape)}."
        )
    for name, values in (("images", volumes), ("codes", start)):
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"`{name}` must be finite, got NaN or infinity.")
    conditions = None if covariates is None else torch.as_tensor(covariates).float()
    if conditions is not None and (conditions.ndim != 2 or len(conditions) != len(volumes)):
        raise ValueError(
            f"`covariates` must have shape (n={len(volumes)}, n_covariates), a row for each of `images`, got "
            f"{tuple(conditions.shape)}."
        )
    found = start.clone()
    with torch.no_grad():
        rows = tqdm(range(len(start) if n_steps else 0), "refining codes", unit="volume", disable=not progress)
        for row in rows:
            condition = None if conditions is None else conditions[row : row + 1].to(device)
            refining = _Refining(decode, volumes[row].float().to(device).flatten(), condition, variance, chunk_size)
            found[row] = refining.run(start[row].to(device), n_steps).cpu()
    return found.numpy()


class _Refining:
    """One volume, and how well a code explains it."""

    def __init__(
        self,
        decode: Callable[..., Tensor],
        image: Tensor,
        covariates: Tensor | None,
        variance: float,
        chunk_size: int,
    ) -> None:
        self.decode = decode
        self.image = image
        self.covariates = covariates
        self.variance = variance
        self.chunk_size = chunk_size

    def run(self, code: Tensor, n_steps: int) -> Tensor:
        restored = self._decoded(code[None])[0]
        energy = self._energy(code, restored)
        for _ in range(n_steps):
            step = self._step(code, restored)
            for _ in range(HALVINGS + 1):
                tried = code + step
                image = self._decoded(tried[None])[0]
                new = self._energy(tried, image)
                if new < energy:
                    code, restored, energy = tried, image, new
                    break
                step = step / 2
            else:
                break
        return code

    def _decoded(self, codes: Tensor) -> Tensor:
        decoded = torch.cat([self._of(chunk).flatten(1) for chunk in codes.split(self.chunk_size)])
        if decoded.shape[1] != self.image.numel():
            raise ValueError(f"`decode` must give the {self.image.numel()} values of an image, got {decoded.shape[1]}.")
        return decoded

    def _of(self, codes: Tensor) -> Tensor:
        if self.covariates is None:
            return self.decode(codes)
        return self.decode(codes, self.covariates.expand(len(codes), -1))

    def _energy(self, code: Tensor, restored: Tensor) -> float:
        return float((self.image - restored).double().square().sum() + self.variance * code.double().square().sum())

    def _step(self, code: Tensor, restored: Tensor) -> Tensor:
        shifts = CODE_STEP * torch.eye(len(code), device=code.device)
        # one-sided: twice as fast as differences to both sides, and where the image bends E still has to fall
        slopes = (self._decoded(code + shifts) - restored) / CODE_STEP
        # products in float32: a float64 copy of the slopes would take twice their memory, already the largest here
        normal = (slopes @ slopes.T).double()
        right = (slopes @ (self.image - restored)).double() - self.variance * code.double()
        normal.diagonal().add_(self.variance)
        step: Tensor = torch.linalg.solve(normal, right)
        return step.to(code.dtype)
