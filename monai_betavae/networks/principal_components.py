"""Principal components of training volumes, out of core in one pass, restricted to the voxels that vary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from ..batches.covariates import batch_covariates
from ..batches.images import check_images, image_tensor, item_names
from .field_of_view import cut_faces, edge_profiles, field_edges, inside_indices, no_edges

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
        self.image_key = image_key
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
        for images, _ in self.pairs(0):
            yield images

    def pairs(self, n_covariates: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield batches with their coded covariates, ``None`` for a model without any."""
        from tqdm.auto import tqdm

        seen = 0
        with tqdm(desc="reading volumes", unit="volume", delay=5, leave=False) as bar:
            for batch in self._loader:
                images = image_tensor(batch, self.image_key)
                covariates = batch_covariates(batch, n_covariates, len(images))
                images = images[: self._at_most - seen].float()
                check_images(images, f"the training batch after {seen} volumes", item_names(batch))
                if list(images.shape[1:]) != self.shape:
                    raise ValueError(
                        f"`train_dataloader` must give images of the decoder's shape {self.shape}, got "
                        f"{list(images.shape[1:])}."
                    )
                seen += len(images)
                bar.update(len(images))
                yield images.cpu(), None if covariates is None else covariates[: len(images)].cpu()
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
class FieldOfView:
    """Where the scans of a cohort are cut off, and what a shift of an edge weighs beside intensities.

    Attributes:
        mean_edges: mean edges, shape (axis, 2), in voxels; far away where scans aren't cut off.
        components: what each component moves the edges by, shape (n, axis, 2), in voxels.
        projection: weights of the edges in the scores, shape (n, axis, 2), per voxel.
        seen: weight of each voxel's intensity, shape (voxel,): the root of the share of scans that see it.
    """

    mean_edges: Tensor
    components: Tensor
    projection: Tensor
    seen: Tensor


@dataclass(frozen=True)
class PrincipalComponents:
    """Principal components of volumes, on the voxels that vary between them.

    Attributes:
        mean: mean image, shape (channel, ...); with a field of view that of the scans extended beyond their edges.
        voxels: flat indices of those voxels, ascending.
        components: intensities, shape (n, channel, voxel), by falling eigenvalue; orthonormal, or with a field of view
            orthonormal together with the edges in the weights of both.
        eigenvalues: variances of the scores, shape (n,), in squared units of the images.
        field_of_view: where the scans are cut off, ``None`` if they aren't.
    """

    mean: Tensor
    voxels: Tensor
    components: Tensor
    eigenvalues: Tensor
    field_of_view: FieldOfView | None = None


def principal_components(
    volumes: TrainingVolumes, n_components: int, find_field_of_view: bool = False, weight: Tensor | None = None
) -> PrincipalComponents:
    """Compute principal components out of core, in one pass over the volumes with one chunk in memory at a time.

    Args:
        volumes: at least two volumes.
        n_components: number of components; those beyond the number of volumes minus one are zero.
        find_field_of_view: whether the edges of scans that are cut off count as values beside the intensities; voxels
            outside then take the intensity of the nearest voxel inside.
        weight: factor of each voxel's intensity, shape (channel, ...): the components are those that explain most of
            the weighted variance. ``None`` stands for 1.
    """
    rows: _Rows | None = None
    held: list[Tensor] = []
    # keep more than requested: a direction that ranks too low in one chunk may rise with a later one
    scatter = _Scatter(2 * n_components)
    for images in volumes.batches():
        held.append(images if rows is None else rows.of(images))
        n_held = sum(map(len, held))
        if rows is None and n_held >= VARIANCE_VOLUMES:
            first = torch.cat(held)
            rows = _Rows(first, find_field_of_view, weight)
            held = [rows.of(first)]
        if rows is not None and held[0][0].numel() * n_held * 4 > CHUNK_BYTES:
            scatter.add(torch.cat(held))
            held = []
    if rows is None:
        count = sum(map(len, held))
        if count < 2:
            raise ValueError(f"`train_dataloader` must give at least two volumes for a warm start, got {count}.")
        first = torch.cat(held)
        rows = _Rows(first, find_field_of_view, weight)
        held = [rows.of(first)]
    if held:
        scatter.add(torch.cat(held))
    found, variances = scatter.components(n_components)
    components = torch.zeros(n_components, found.shape[1])
    components[: len(found)] = found
    eigenvalues = torch.zeros(n_components, dtype=torch.float64)
    eigenvalues[: len(variances)] = variances
    return rows.components(components, eigenvalues)


class _Rows:
    """What components are computed from: the intensities of the varying voxels, and edges that are cut off.

    Args:
        images: the first volumes, shape (n, channel, ...), which say what varies and what is cut off.
        find_field_of_view: whether to look for edges.
        weight: factor of each voxel's intensity, or ``None``.
    """

    def __init__(self, images: Tensor, find_field_of_view: bool, weight: Tensor | None = None) -> None:
        self.sides = list(images.shape[2:])
        self.n_channels = images.shape[1]
        self.total, self.count = torch.zeros(images.shape[1:]), 0
        self.faces = cut_faces(images) if find_field_of_view else torch.zeros(len(self.sides), 2, dtype=torch.bool)
        self.cut = bool(self.faces.any())
        if not self.cut:
            self.voxels = varying_voxels(images.flatten(2))
            self.weight = self._chosen(weight)
            return
        edges = self._edges(images)
        everywhere = torch.arange(math.prod(self.sides))
        inside = torch.ones(len(images), 1, *self.sides)
        for axis, steps in enumerate(edge_profiles(edges, self.sides)):
            shape = [len(images), 1] + [1] * len(self.sides)
            shape[axis + 2] = -1
            inside = inside * (steps[:, 0] * steps[:, 1]).reshape(shape)
        seen = inside.mean(dim=0).flatten().clamp_min(1.0 / len(images)).sqrt()
        self.voxels = varying_voxels(_extended(images, edges, everywhere) * seen)
        self.seen = seen[self.voxels]
        self.weight = self._chosen(weight)
        # a shift by one voxel changes the image by its intensity on the face
        power = float((images.square() * inside).sum() / inside.sum())
        lengths = (edges[:, :, 1] - edges[:, :, 0]).mean(dim=0).clamp(max=float(max(self.sides)))
        lengths = torch.minimum(lengths, torch.tensor(self.sides, dtype=lengths.dtype))
        areas = lengths.prod() / lengths
        self.edge_weight = (areas * power).sqrt()[:, None] * self.faces
        self.edge_total = torch.zeros(len(self.sides), 2)

    def _chosen(self, weight: Tensor | None) -> Tensor:
        """Return the weights of the varying voxels, shape (channel, voxel)."""
        return torch.ones(1, 1) if weight is None else weight.flatten(1)[:, self.voxels]

    def _edges(self, images: Tensor) -> Tensor:
        """Return the edges at the faces that are cut, and edges far away at the others."""
        return torch.where(self.faces, field_edges(images), no_edges(len(self.sides)))

    def of(self, images: Tensor) -> Tensor:
        """Return the rows of volumes, shape (n, value), and count the volumes in the mean."""
        self.count += len(images)
        if not self.cut:
            self.total += images.sum(dim=0)
            return (images.flatten(2)[:, :, self.voxels] * self.weight).flatten(1)
        edges = self._edges(images)
        everywhere = torch.arange(math.prod(self.sides))
        extended = _extended(images, edges, everywhere)
        self.total += extended.sum(dim=0).unflatten(1, self.sides)
        self.edge_total += edges.sum(dim=0)
        weighted = extended[:, :, self.voxels] * self.weight * self.seen
        return torch.cat([weighted.flatten(1), (edges * self.edge_weight).flatten(1)], dim=1)

    def components(self, found: Tensor, eigenvalues: Tensor) -> PrincipalComponents:
        """Return components of such rows as components of images and edges."""
        mean = self.total / self.count
        n_values = self.n_channels * len(self.voxels)
        intensities = found[:, :n_values].unflatten(1, (self.n_channels, -1)) / self.weight
        if not self.cut:
            return PrincipalComponents(mean, self.voxels, intensities, eigenvalues)
        edges = found[:, n_values:].unflatten(1, (len(self.sides), 2))
        moved = torch.where(self.faces, edges / self.edge_weight.clamp_min(1e-12), torch.zeros(()))
        mean_edges = torch.where(self.faces, self.edge_total / self.count, no_edges(len(self.sides)))
        field = FieldOfView(mean_edges, moved, edges * self.edge_weight, self.seen)
        return PrincipalComponents(mean, self.voxels, intensities / self.seen, eigenvalues, field)


def _extended(images: Tensor, edges: Tensor, voxels: Tensor) -> Tensor:
    """Return intensities of voxels, (n, channel, voxel): outside the edges those of the nearest voxel inside."""
    where = inside_indices(edges, list(images.shape[2:]), voxels)
    return images.flatten(2).gather(2, where[:, None].expand(-1, images.shape[1], -1))


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
