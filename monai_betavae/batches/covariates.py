"""Coded covariates of the images of a batch, for conditional models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .images import image_tensor, plain_tensor

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


class ConditionalBatches:
    """Images and coded covariates of a loader, in the order of its dataset; iterated as often as wanted.

    Args:
        loader: a ``DataLoader``, whose dataset is read item by item, or any other iterable of batches.
        n_covariates: number of columns.
        image_key: key of the images.
        batch_size: number of items at once.

    Example:
        >>> items = [{"image": torch.zeros(1, 4, 4), "covariates": torch.tensor([float(i)])} for i in range(3)]
        >>> loader = torch.utils.data.DataLoader(items, batch_size=1, shuffle=True)
        >>> [rows.flatten().tolist() for _, rows in ConditionalBatches(loader, 1, batch_size=2)]
        [[0.0, 1.0], [2.0]]
    """

    def __init__(self, loader: Iterable[Any], n_covariates: int, image_key: str = "image", batch_size: int = 4) -> None:
        self.loader, self.n_covariates = loader, n_covariates
        self.image_key, self.batch_size = image_key, batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images of shape (batch, channel, ...) and covariates of shape (batch, n_covariates)."""
        dataset: Any = getattr(self.loader, "dataset", None)
        if dataset is None or not hasattr(dataset, "__len__") or isinstance(dataset, torch.utils.data.IterableDataset):
            for batch in self.loader:
                yield self._pair(batch)
            return
        for start in range(0, len(dataset), self.batch_size):
            items = [dataset[row] for row in range(start, min(start + self.batch_size, len(dataset)))]
            batch = {key: torch.stack([item[key] for item in items]) for key in (self.image_key, COVARIATES_KEY)
                     if isinstance(items[0], Mapping) and key in items[0]}  # fmt: skip
            yield self._pair(batch)

    def _pair(self, batch: Any) -> tuple[Tensor, Tensor]:
        images = image_tensor(batch, self.image_key)
        covariates = batch_covariates(batch, self.n_covariates, len(images))
        assert covariates is not None
        return images, covariates
