"""What objectives ask of codes and posteriors."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Normal

from .._checks import ArgumentTypeError


def check_posteriors(q: Normal) -> None:
    """Raise ``ValueError`` unless ``q`` has one row of parameters for each of at least one image."""
    if not isinstance(q, Normal):
        raise ArgumentTypeError(f"`q` must be a torch.distributions Normal, got {type(q).__name__}.")
    if len(q.batch_shape) != 2 or 0 in q.batch_shape:
        raise ValueError(
            f"`q` must have parameters of shape (batch, latent_dim) for this objective, got {tuple(q.batch_shape)}."
        )


def check_codes_of(z: Tensor, q: Normal) -> None:
    """Raise ``ValueError`` unless ``z`` holds one code for each of the posteriors."""
    check_posteriors(q)
    if not isinstance(z, Tensor):
        raise ArgumentTypeError(f"`z` must be a tensor, got {type(z).__name__}.")
    if z.shape != q.batch_shape:
        raise ValueError(f"`z` must have the shape of the posteriors, {tuple(q.batch_shape)}, got {tuple(z.shape)}.")
