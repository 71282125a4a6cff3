"""Conditional models: the mean of the prior follows the covariates, such as age, sex and site."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import check_integer
from .latent_model import device_of, evaluating
from .principal_components import TrainingVolumes

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
        mean_code: buffer of shape (latent_dim,), what the fit leaves of the training subjects' codes on average. Images
            don't depend on it: it is where the codes of a new site are moved to, see :func:`fit_condition`.
        weight: parameter B of shape (latent_dim, n_covariates), zero until it is fitted.
        n_fixed: number of first columns that fits leave as they are, 0 unless :func:`keep_condition` sets it. It isn't
            among the weights; files of :class:`~monai_betavae.VAE` have it in their description.

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
        self.n_fixed = 0
        self.block = 16  # columns of a product
        self.mean_code: Tensor
        self.register_buffer("mean_code", torch.zeros(latent_dim))
        self.weight = nn.Parameter(torch.zeros(latent_dim, n_covariates))

    def forward(self, covariates: Tensor) -> Tensor:
        """Map coded covariates of shape (batch, n_covariates) to means of shape (batch, latent_dim)."""
        if covariates.ndim != 2 or covariates.shape[1] != self.n_covariates:
            raise ValueError(
                f"`covariates` must have shape (batch, {self.n_covariates}), as this model was built, got "
                f"{list(covariates.shape)}."
            )
        # in products of one size: the order in which a product adds depends on its size, and a new column in which a
        # subject has zero must not change the last bit of the subject's mean
        width = -self.n_covariates % self.block
        rows = F.pad(covariates.to(self.weight.dtype), (0, width))
        weight = F.pad(self.weight, (0, width))
        mean = rows[:, : self.block].contiguous() @ weight[:, : self.block].contiguous().T
        for start in range(self.block, self.n_covariates, self.block):
            end = start + self.block
            mean = mean + rows[:, start:end].contiguous() @ weight[:, start:end].contiguous().T
        return mean


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


def keep_condition(model: Any, n_fixed: int) -> None:
    """Keep the first columns of a conditional mean as they are, in training and in :func:`fit_condition`.

    The others are left to :func:`fit_condition` alone: an optimizer sees none of them.

    Args:
        model: estimator or network; one without a conditional mean is left unchanged.
        n_fixed: number of first columns.

    Example:
        >>> from monai_betavae.networks import build_network
        >>> network = build_network((8, 8, 8), 2, channels=(2, 2), n_covariates=3)
        >>> keep_condition(network, 2)
        >>> network.decoder.condition.n_fixed, network.decoder.condition.weight.requires_grad
        (2, False)
    """
    condition = condition_of(model)
    if condition is None:
        return
    condition.n_fixed = check_integer("n_fixed", n_fixed, minimum=0, maximum=condition.n_covariates)
    condition.weight.requires_grad_(False)


def extend_condition(model: Any, n_new: int) -> None:
    """Add columns to a conditional mean, such as those of new sites, and keep the old ones as they are.

    The new columns are at the end and zero; :func:`fit_condition` fits them alone, see :func:`keep_condition`. Files of
    the model and descriptions of its networks have the new number of columns.

    Args:
        model: conditional estimator or network.
        n_new: number of new columns.

    Raises:
        ValueError: if the model isn't conditional.

    Example:
        >>> from monai_betavae.networks import build_network
        >>> network = build_network((8, 8, 8), 2, channels=(2, 2), n_covariates=3)
        >>> extend_condition(network, 1)
        >>> network.decoder.condition.weight.shape, network.description["arguments"]["n_covariates"]
        (torch.Size([2, 4]), 4)
    """
    condition = condition_of(model)
    if condition is None:
        raise ValueError(f"`model` must be conditional on covariates, got a {type(model).__name__} without any.")
    n_fixed, n_new = condition.n_covariates, check_integer("n_new", n_new, minimum=0)
    old = condition.weight.detach()
    condition.weight = nn.Parameter(torch.cat([old, old.new_zeros(len(old), n_new)], dim=1))
    condition.n_covariates = n_fixed + n_new
    for part in (model, model.decoder):
        description = getattr(part, "description", None)
        if isinstance(description, dict) and "n_covariates" in description.get("arguments", {}):
            description["arguments"]["n_covariates"] = condition.n_covariates
    keep_condition(model, n_fixed)


def fit_condition(model: Any, dataloader: Iterable[Any], n_rounds: int = 2) -> bool:
    """Fit the conditional mean to the codes of training subjects.

    The codes of a round are posterior means under the conditional prior of the round before. Where the first columns
    are kept (:func:`keep_condition`), the others are fitted to what the first ones leave of the codes, less the mean
    that these left of the first training's codes. So the codes of a new site end where those of the old ones are.

    Args:
        model: estimator or network with ``encode`` and ``decoder``; one without a conditional mean is left unchanged.
        dataloader: loader of the training samples with their coded covariates, read once for each round.
        n_rounds: number of rounds.

    Returns:
        whether there was anything to fit.
    """
    condition = condition_of(model)
    if condition is None or condition.n_fixed == condition.n_covariates:
        return False
    device, n_fixed = device_of(model), condition.n_fixed
    shape, image_key = list(model.decoder.out_shape), getattr(model, "image_key", "image")
    volumes = TrainingVolumes(dataloader, sys.maxsize, shape, image_key)
    for _ in range(n_rounds):
        codes, rows = [], []
        with evaluating(model), torch.no_grad():
            for images, covariates in volumes.pairs(condition.n_covariates):
                assert covariates is not None
                given = covariates.to(device)
                z = model.encode(images.to(device), given).mean
                codes.append((z + condition(given)).cpu())
                rows.append(covariates)
            targets, known = torch.cat(codes).double(), torch.cat(rows).double()
            if n_fixed:
                targets = targets - known[:, :n_fixed] @ condition.weight[:, :n_fixed].cpu().double().T
                targets = targets - condition.mean_code.cpu().double()
            found = regression(targets, known[:, n_fixed:])
            condition.weight[:, n_fixed:].copy_(found)
            if not n_fixed:
                condition.mean_code.copy_((targets - known @ found.T).mean(dim=0))
    return True
