"""Conditional models: the mean of the prior follows the covariates, such as age, sex and site."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .latent_model import device_of, evaluating

RIDGE = 0.1
"""Penalty of the regression of codes on covariates, in subjects at one standard deviation of a covariate."""


class ConditionalMean(nn.Module):
    r"""The mean of the prior given covariates, linear in their coding e(c).

    .. math:: u = z + B e(c), \quad z \sim N(0, I) \quad \text{or} \quad u \sim N(B e(c), I)

    The decoder makes the image of u, so that covariates act through the same intensities, displacements and edges as
    codes do, whatever the decoder is. The posterior of u comes from the image and the conditional prior, and the
    model's codes are what is left of u without the covariates: z = u - B e(c). Codings have a mean of zero over the
    training subjects, so that a row of zeros stands for the average subject.

    Attributes:
        weight: parameter B of shape (latent_dim, n_covariates), zero until it is fitted.

    Args:
        n_covariates: number of columns of the coding, see :class:`~monai_betavae.data.CovariateCoding`.
        latent_dim: number of latent dimensions.

    Source:
        Sohn, Lee & Yan, "Learning Structured Output Representation using Deep Conditional Generative Models", NeurIPS
        2015 (the conditional prior).

    Example:
        >>> condition = ConditionalMean(n_covariates=2, latent_dim=3)
        >>> with torch.no_grad():
        ...     _ = condition.weight.fill_(0.5)
        >>> condition(torch.tensor([[1.0, 3.0]]))
        tensor([[2., 2., 2.]], grad_fn=<MmBackward0>)
    """

    def __init__(self, n_covariates: int, latent_dim: int) -> None:
        super().__init__()
        self.n_covariates = n_covariates
        self.weight = nn.Parameter(torch.zeros(latent_dim, n_covariates))

    def forward(self, covariates: Tensor) -> Tensor:
        """Map coded covariates of shape (batch, n_covariates) to means of shape (batch, latent_dim)."""
        if covariates.ndim != 2 or covariates.shape[1] != self.n_covariates:
            raise ValueError(
                f"`covariates` must have shape (batch, {self.n_covariates}), as this model was built, got "
                f"{list(covariates.shape)}."
            )
        return covariates.to(self.weight.dtype) @ self.weight.T


def condition_of(model: Any) -> ConditionalMean | None:
    """Return the conditional mean of a model's decoder, or ``None`` for a model without covariates."""
    condition = getattr(getattr(model, "decoder", None), "condition", None)
    return condition if isinstance(condition, ConditionalMean) else None


def n_covariates_of(model: Any) -> int:
    """Return the number of coded covariates that a model takes, 0 for a model without."""
    condition = condition_of(model)
    return 0 if condition is None else condition.n_covariates


def regression(codes: Tensor, covariates: Tensor, ridge: float = RIDGE) -> Tensor:
    r"""Return the ridge regression of codes on covariates without an intercept.

    .. math:: B = U^T E (E^T E + r I)^{-1}

    Args:
        codes: U, shape (n, latent_dim).
        covariates: E, shape (n, n_covariates).
        ridge: penalty r; it also makes the fit unique where columns of categories sum to zero.

    Returns:
        shape (latent_dim, n_covariates), float64.

    Example:
        >>> regression(torch.tensor([[2.0], [-2.0]]), torch.tensor([[1.0], [-1.0]]), ridge=0.0)
        tensor([[2.]], dtype=torch.float64)
    """
    rows, targets = covariates.double(), codes.double()
    matrix = rows.T @ rows + ridge * torch.eye(rows.shape[1], dtype=torch.float64)
    found: Tensor = torch.linalg.solve(matrix, rows.T @ targets).T
    return found


def fit_condition(model: Any, batches: Iterable[tuple[Tensor, Tensor]], n_rounds: int = 2) -> bool:
    """Fit the conditional mean to the codes of training subjects.

    The codes of a round are posterior means under the conditional prior of the round before.

    Args:
        model: estimator or network with ``encode`` and ``decoder``; one without a conditional mean is left unchanged.
        batches: images and coded covariates; iterated once for each round.
        n_rounds: number of rounds.

    Returns:
        whether there is a conditional mean to fit.
    """
    condition = condition_of(model)
    if condition is None:
        return False
    device = device_of(model)
    for _ in range(n_rounds):
        codes, rows = [], []
        with evaluating(model), torch.no_grad():
            for images, covariates in batches:
                covariates = covariates.to(device)
                z = model.encode(images.to(device), covariates).mean
                codes.append((z + condition(covariates)).cpu())
                rows.append(covariates.cpu())
            condition.weight.copy_(regression(torch.cat(codes), torch.cat(rows)))
    return True
