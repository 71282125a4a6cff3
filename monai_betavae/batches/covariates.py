"""Coded covariates of the images of a batch, for conditional models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .images import plain_tensor

COVARIATES_KEY = "covariates"
"""Key of the coded covariates in dictionary batches."""


def batch_covariates(batch: Any, n_covariates: int, n_images: int) -> Tensor | None:
    """Return the coded covariates of a batch, ``None`` for a model without.

    Args:
        batch: a dictionary with ``covariates`` of shape (batch, n_covariates).
        n_covariates: number of columns that the model takes, 0 for none.
        n_images: number of images in the batch.

    Raises:
        ValueError: if a conditional model's batch lacks them, or they aren't finite numbers of that shape.

    Example:
        >>> batch = {"image": torch.zeros(2, 1, 4, 4, 4), "covariates": torch.tensor([[0.5], [-0.5]])}
        >>> batch_covariates(batch, n_covariates=1, n_images=2).flatten().tolist()
        [0.5, -0.5]
    """
    if n_covariates == 0:
        return None
    if not isinstance(batch, Mapping) or COVARIATES_KEY not in batch:
        holds = (
            ", ".join(map(repr, batch)) if isinstance(batch, Mapping) else f"no keys: it is a {type(batch).__name__}"
        )
        raise ValueError(
            f"The batch must hold {COVARIATES_KEY!r}, {n_covariates} coded columns for each image, since the model is "
            f"conditional; it holds {holds}. CodeCovariatesd adds them to samples."
        )
    return covariate_rows(batch[COVARIATES_KEY], n_covariates, n_images)


def covariate_rows(values: Any, n_covariates: int, n_rows: int) -> Tensor:
    """Return coded covariates as rows, checked; a single row stands for all.

    Args:
        values: a tensor or array of shape (n_rows, n_covariates), (1, n_covariates) or (n_covariates,).
        n_covariates: number of columns.
        n_rows: number of rows.

    Raises:
        ValueError: naming ``covariates``, what came and what is accepted.

    Example:
        >>> covariate_rows([1.0, 2.0], n_covariates=2, n_rows=3).shape
        torch.Size([3, 2])
    """
    try:
        rows = plain_tensor(values) if isinstance(values, Tensor) else torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"`covariates` must be numbers, got {type(values).__name__}: {error}") from error
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != n_covariates or len(rows) not in (1, n_rows):
        raise ValueError(
            f"`covariates` must have shape ({n_rows}, {n_covariates}), or one row for all, got {tuple(rows.shape)}."
        )
    if rows.is_complex() or (rows.device.type == "cpu" and not bool(rows.isfinite().all())):
        raise ValueError("`covariates` must be finite real numbers: code missing values before.")
    return rows.float().expand(n_rows, -1)


def array_batches(
    images: NDArray[np.float32],
    covariates: NDArray[np.float32] | None,
    batch_size: int = 4,
    image_key: str = "image",
) -> Sequence[Any]:
    """Return images in batches, with the coded covariates of a conditional model.

    Args:
        images: shape (n, channel, ...).
        covariates: shape (n, n_covariates), ``None`` for a model without.
        batch_size: images at once.
        image_key: key of the images in the batches of a conditional model.

    Example:
        >>> images = np.zeros((3, 1, 4, 4), np.float32)
        >>> [len(batch) for batch in array_batches(images, None, 2)]
        [2, 1]
        >>> batches = array_batches(images, np.zeros((3, 5), np.float32), 2)
        >>> [tuple(batch["covariates"].shape) for batch in batches]
        [(2, 5), (1, 5)]
    """
    parts: Sequence[Tensor] = torch.from_numpy(images).split(batch_size)
    if covariates is None:
        return parts
    rows = torch.from_numpy(covariates).split(batch_size)
    return [{image_key: part, COVARIATES_KEY: of_part} for part, of_part in zip(parts, rows, strict=True)]
