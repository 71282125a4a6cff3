"""Principal components of training volumes, out of core in one pass, restricted to the voxels that vary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from ..batches.images import check_images, image_tensor, item_names

VARIANCE_VOLUMES = 128
"""Number of volumes from which the varying voxels are determined, if there are as many."""

CHUNK_BYTES = 2**30
"""Memory of the volumes that are processed at a time."""

EXACT_BLOCK = 2**24
"""Number of values that exact components process at a time."""

VARIANCE_KEPT = 0.999
"""Share of the variance between volumes in the voxels that the components cover."""


class TrainingVolumes:
    """Training volumes, read one batch at a time.

    Args:
        loader: the training loader.
        at_most: maximum number of volumes to read.
        shape: channels and spatial shape of the volumes.
        image_key: key of the images in dictionary batches.
    """

    def __init__(self, loader: Iterable[Any], at_most: int, shape: list[int], image_key: str) -> None:
        self.shape = list(shape)
        self._image_key = image_key
        self._at_most = at_most
        self._loader = loader
        dataset = getattr(loader, "dataset", None)
        if isinstance(loader, DataLoader) and isinstance(dataset, Sized) and not isinstance(dataset, IterableDataset):
            rows = np.linspace(0, len(dataset) - 1, min(at_most, len(dataset))).round().astype(int)
            self._loader = DataLoader(
                Subset(dataset, rows.tolist()),  # type: ignore[arg-type]  # a Dataset of known length
                batch_size=loader.batch_size or 1,
                num_workers=loader.num_workers,
                collate_fn=loader.collate_fn,
                # iterating a loader draws a seed: take it from this generator, not from the caller's global one
                generator=torch.Generator(),
            )

    def batches(self) -> Iterator[Tensor]:
        """Yield batches of shape (n, channel, ...)."""
        from tqdm.auto import tqdm

        seen = 0
        with tqdm(desc="reading training volumes for the start", unit="volume", delay=5, leave=False) as bar:
            for batch in self._loader:
                images = image_tensor(batch, self._image_key)[: self._at_most - seen].float()
                check_images(images, f"the training batch after {seen} volumes", item_names(batch))
                if list(images.shape[1:]) != self.shape:
                    raise ValueError(
                        f"`train_dataloader` must give images of the decoder's shape {self.shape}, got "
                        f"{list(images.shape[1:])}."
                    )
                seen += len(images)
                bar.update(len(images))
                yield images.cpu()
                if seen >= self._at_most:
                    return

    def mean(self) -> Tensor:
        """Return the mean image."""
        total, count = torch.zeros(self.shape), 0
        for images in self.batches():
            total += images.sum(dim=0)
            count += len(images)
        return total / max(count, 1)


@dataclass(frozen=True)
class PrincipalComponents:
    """Principal components of volumes, on the voxels that vary between them.

    Attributes:
        mean: mean image, shape (channel, ...).
        voxels: flat indices of those voxels, ascending.
        components: orthonormal components, shape (n, channel, voxel), by falling eigenvalue.
        eigenvalues: variances of the scores, shape (n,), in squared units of the images.
    """

    mean: Tensor
    voxels: Tensor
    components: Tensor
    eigenvalues: Tensor


def principal_components(volumes: TrainingVolumes, n_components: int) -> PrincipalComponents:
    """Compute principal components out of core, in one pass over the volumes with one chunk in memory at a time.

    Args:
        volumes: at least two volumes.
        n_components: number of components; those beyond the number of volumes minus one are zero.
    """
    total, count = torch.zeros(volumes.shape), 0
    held: list[Tensor] = []
    voxels: Tensor | None = None
    # keep more than requested: a direction that ranks too low in one chunk may rise with a later one
    scatter = _Scatter(2 * n_components)
    for images in volumes.batches():
        total += images.sum(dim=0)
        count += len(images)
        held.append(images.flatten(2) if voxels is None else images.flatten(2)[:, :, voxels])
        n_held = sum(map(len, held))
        if voxels is None and n_held >= VARIANCE_VOLUMES:
            voxels = varying_voxels(torch.cat(held))
            held = [torch.cat(held)[:, :, voxels]]
        if voxels is not None and held[0][0].numel() * n_held * 4 > CHUNK_BYTES:
            scatter.add(torch.cat(held).flatten(1))
            held = []
    if count < 2:
        raise ValueError(f"`train_dataloader` must give at least two volumes for a warm start, got {count}.")
    if voxels is None:
        voxels = varying_voxels(torch.cat(held))
        held = [torch.cat(held)[:, :, voxels]]
    if held:
        scatter.add(torch.cat(held).flatten(1))
    found, variances = scatter.components(n_components)
    components = torch.zeros(n_components, volumes.shape[0], len(voxels))
    components[: len(found)] = found.unflatten(1, (volumes.shape[0], -1))
    eigenvalues = torch.zeros(n_components, dtype=torch.float64)
    eigenvalues[: len(variances)] = variances
    return PrincipalComponents(total / count, voxels, components, eigenvalues)


class _Scatter:
    """The scatter matrix of rows that arrive in chunks, kept as a few rows r with the same sum of r r^T.

    The method is that of scikit-learn's IncrementalPCA, but with eigenvectors of the products of rows, (n, n), in place
    of singular vectors of the chunk, (n, voxels). It is several times faster if rows are much longer than there are
    rows, and as accurate for the largest components.

    Args:
        n_rows: number of rows to keep.
    """

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows
        self.n_seen = 0
        self.mean = torch.zeros(0)
        self.rows = torch.zeros(0)

    def add(self, chunk: Tensor) -> None:
        """Add rows of shape (n, value)."""
        mean = chunk.mean(dim=0)
        parts = [chunk - mean]
        if self.n_seen:
            together = self.n_seen + len(chunk)
            between = (self.n_seen * len(chunk) / together) ** 0.5 * (self.mean - mean)
            parts += [self.rows, between[None]]
            mean = (self.n_seen * self.mean + len(chunk) * mean) / together
        rows = torch.cat(parts)
        self.mean, self.n_seen = mean, self.n_seen + len(chunk)
        _, vectors = torch.linalg.eigh(_products(rows))
        self.rows = vectors.flip(1)[:, : self.n_rows].T.float() @ rows

    def components(self, n_components: int) -> tuple[Tensor, Tensor]:
        """Return orthonormal components, (n, value), and their variances in float64; n may be less than requested."""
        squares = self.rows.double().square().sum(dim=1)
        n_found = min(n_components, self.n_seen - 1, int((squares > 1e-10 * squares.max()).sum()))
        scale = squares[:n_found].clamp_min(1e-30).rsqrt().float()
        return self.rows[:n_found] * scale[:, None], squares[:n_found] / max(self.n_seen - 1, 1)


def _products(rows: Tensor, block: int = 2**16, mean: Tensor | None = None) -> Tensor:
    """Return the products of all rows, in float64, since the smallest eigenvalues decide how many components exist."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for start in range(0, rows.shape[1], block):
        part = rows[:, start : start + block].double()
        if mean is not None:
            part = part - mean[start : start + block]
        total += part @ part.T
    return total


def exact_components(rows: Tensor, n_components: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the exact principal components of rows in memory, from the products of the rows.

    With the centred rows X, shape (n, value), and X X^T = V diag(s^2) V^T, the components are the rows of
    diag(1/s) V^T X. The eigenproblem has size (n, n), whatever the number of values. Products, eigenvectors and
    components are float64, and the components are orthogonalised once more. Besides rows and components, the
    computation takes a few hundred megabytes.

    Args:
        rows: shape (n, value), at least two rows.
        n_components: number of components.

    Returns:
        the mean, shape (value,); orthonormal components, shape (k, value), by falling variance, each with its largest
        entry positive; and their variances, shape (k,). All are float64. k is at most n - 1, and smaller than
        ``n_components`` if fewer directions have variance. If none has, there is one component of zeros.

    Example:
        >>> rows = torch.tensor([[0.0, 0.0, 1.0], [3.0, 4.0, 1.0]])
        >>> mean, components, variances = exact_components(rows, 2)
        >>> mean.tolist(), components.round(decimals=6).tolist(), variances.tolist()
        ([1.5, 2.0, 1.0], [[0.6, 0.8, 0.0]], [12.5])
    """
    n_rows, n_values = rows.shape
    block = max(1, EXACT_BLOCK // n_rows)
    starts = range(0, n_values, block)
    mean = torch.cat([rows[:, start : start + block].double().mean(dim=0) for start in starts])
    squares, vectors = torch.linalg.eigh(_products(rows, block, mean))
    squares, vectors = squares.flip(0), vectors.flip(1)
    # eigenvalues are squares, so rounding errors are about 1e-16 of the largest
    n_found = min(n_components, n_rows - 1, n_values, int((squares > 1e-12 * squares[0]).sum()))
    if n_found < 1:
        return mean, torch.zeros(1, n_values, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    chosen = vectors[:, :n_found].T / squares[:n_found].sqrt()[:, None]
    components = torch.cat(
        [chosen @ (rows[:, start : start + block].double() - mean[start : start + block]) for start in starts], dim=1
    )
    # rounding makes components of small variance less than orthogonal
    components = torch.linalg.qr(components.T).Q.T
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return mean, components * largest.sign(), squares[:n_found] / (n_rows - 1)


def varying_voxels(images: Tensor) -> Tensor:
    """Return the flat indices of the voxels that hold 99.9 % of the variance between images, ascending.

    Args:
        images: shape (n, channel, voxel).

    Example:
        >>> images = torch.zeros(2, 1, 20)
        >>> images[0, 0, 5:9] = 1.0
        >>> varying_voxels(images)
        tensor([5, 6, 7, 8])
    """
    variance = images.var(dim=0).sum(dim=0).double()
    ordered = variance.sort(descending=True).values
    enough = int(torch.searchsorted(ordered.cumsum(0), VARIANCE_KEPT * ordered.sum()))
    chosen = (variance >= ordered[min(enough, len(ordered) - 1)]) & (variance > 0)
    # identical volumes have no varying voxel; one voxel keeps the shapes from being empty
    return chosen.nonzero().flatten() if bool(chosen.any()) else torch.zeros(1, dtype=torch.long)
