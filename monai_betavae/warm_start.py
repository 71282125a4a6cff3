"""Where training starts: at the mean training image, or at a model at least as good as PCA of the training volumes.

A network with random weights spends its first epochs on what every brain has in common, and a convolutional VAE on a
few hundred volumes ends up behind PCA. So a network may start from the volumes themselves:

========== ===========================================================================================================
none       nothing is set
mean       the output starts at the mean image
linear     besides, encoder and decoder start as probabilistic PCA of as many components as latent dimensions, beside
           their convolutions
deformable besides, what a displacement of the mean image explains of each component becomes a displacement: where a
           component blends a larger and a smaller brain into a blurred one, a template grows and shrinks; it takes the
           place of the decoder's convolutions
========== ===========================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from .batches import check_images, image_tensor, item_names
from .randomness import seeded
from .template import DeformableTemplate, PrincipalProjection, interpolation_weights

WARM_STARTS = ("none", "mean", "linear", "deformable")
"""Where a network's training may start; see the module's text."""

MEAN_IMAGE_VOLUMES, VARIANCE_VOLUMES, PCA_VOLUMES = 256, 128, 1024
"""At most this many training volumes are read for a mean image, to find where they differ, and for components."""

CHUNK_BYTES = 2**30
"""Principal components are computed from this much at a time."""

VARIANCE_KEPT = 0.999
"""The components cover the voxels that hold this share of the variance between volumes."""

RIDGE = 30.0
"""Penalty on displacements, relative to the mean squared gradient at a control point (see docs/performance.md)."""


def warm_start(model: Any, train_dataloader: Iterable[Any], *, seed: int | None = None) -> bool:
    """Set the parts of a network that start from the training volumes, if it has such parts and they are unset.

    With the eigenvalues l_k and eigenvectors u_k of the training volumes' covariance, and the variance s2 of the
    likelihood that ``beta`` stands for (beta / 2 for "normal", see :mod:`~monai_betavae.losses`), the model becomes
    probabilistic PCA: decoder x_mean + sum_k z_k u_k sqrt(l_k - s2), posterior mean sqrt(l_k - s2) / l_k times the
    score u_k . (x - x_mean), posterior variance s2 / l_k; a dimension with l_k <= s2 is inactive. "deformable" then
    solves, for each component, a ridge regression on displacements of the mean image at control points.

    Args:
        model: estimator or network with ``encoder``, ``decoder``, ``fc_mu`` and ``fc_logvar``. A decoder without an
            attribute ``warm_start`` (one of your own) is left as it is.
        train_dataloader: loader of the training volumes. Its dataset is read directly, at most 256 volumes for a
            mean and 1024 for components, evenly spread; what isn't a ``DataLoader`` of a dataset with a length is
            read from its beginning.
        seed: of random transforms in the dataset.

    Returns:
        whether anything was set.

    Raises:
        ValueError: for non-finite images, or images that aren't of the shape the network was built for.

    Source:
        Tipping & Bishop, "Probabilistic Principal Component Analysis", JRSS B 61, 1999.

    Example:
        >>> from monai_betavae import build_vae
        >>> vae = build_vae((8, 10, 8), 2, channels=(4, 8), warm_start="linear", random_state=0)
        >>> volumes = torch.rand(12, 1, 8, 10, 8)
        >>> warm_start(vae, DataLoader(volumes, batch_size=4)), warm_start(vae, DataLoader(volumes, batch_size=4))
        (True, False)
    """
    decoder = model.decoder
    kind = getattr(decoder, "warm_start", "none")
    template: DeformableTemplate | None = getattr(decoder, "template", None)
    if kind == "none" or _is_set(decoder):
        return False
    n_components = model.fc_mu.out_features
    # iterating a loader draws a number from torch's global generator, which is the caller's
    with torch.random.fork_rng(devices=[]), seeded(seed):
        at_most = MEAN_IMAGE_VOLUMES if template is None else PCA_VOLUMES
        volumes = _Volumes(train_dataloader, at_most, decoder.out_shape, getattr(model, "image_key", "image"))
        if template is None:
            decoder.set_output_mean(volumes.mean())
            return True
        found = principal_components(volumes, n_components)
    decoder.set_output_mean(found.mean)
    _start_linear_path(model, template, found)
    return True


def _is_set(decoder: Any) -> bool:
    template: DeformableTemplate | None = decoder.template
    return bool(decoder.output_mean.any()) or (template is not None and bool(template.components.any()))


def check_started(model: Any) -> None:
    """Raise ``ValueError`` if a model's only decoder is a template that no warm start has set."""
    decoder = model.decoder
    template: DeformableTemplate | None = getattr(decoder, "template", None)
    if template is not None and decoder.levels is None and not _is_set(decoder):
        raise ValueError(
            f"`warm_start` {decoder.warm_start!r} needs the training volumes before a Trainer of your own trains: call "
            "monai_betavae.warm_start.warm_start(vae, train_dataloader) first, or VAE.fit, which does it."
        )


class _Volumes:
    """Training volumes, a batch at a time.

    Args:
        loader: the training loader.
        at_most: number of volumes.
        shape: channels and spatial shape.
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
                # iterating a loader draws a seed: from here, not from the caller's global generator
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
    """Principal components of volumes on the voxels where they differ.

    Attributes:
        mean: mean image, shape (channel, ...).
        voxels: flat numbers of those voxels, ascending.
        components: orthonormal, shape (n, channel, voxel), with the largest eigenvalue first.
        eigenvalues: variances of the scores, shape (n,), in squared units of the images.
    """

    mean: Tensor
    voxels: Tensor
    components: Tensor
    eigenvalues: Tensor


def principal_components(volumes: _Volumes, n_components: int) -> PrincipalComponents:
    """Compute principal components out of core: one pass over the volumes, a chunk in memory at a time.

    Args:
        volumes: at least two volumes.
        n_components: how many; there are no more than volumes minus one, the rest is zero.
    """
    total, count = torch.zeros(volumes.shape), 0
    held: list[Tensor] = []
    voxels: Tensor | None = None
    # more than wanted: what one chunk ranks too low, a later one may raise
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
    """The scatter matrix of rows that come in chunks, as a few rows r with the same sum of r r^T about the mean.

    sklearn's IncrementalPCA with the eigenvectors of the products of rows, (n, n), in place of singular vectors of the
    chunk, (n, voxels): several times faster where rows are much longer than many, as good for the largest components.

    Args:
        n_rows: how many rows to keep.
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
        """Return orthonormal components, (n, value), and the variances along them, in float64; n may be smaller."""
        squares = self.rows.double().square().sum(dim=1)
        n_found = min(n_components, self.n_seen - 1, int((squares > 1e-10 * squares.max()).sum()))
        scale = squares[:n_found].clamp_min(1e-30).rsqrt().float()
        return self.rows[:n_found] * scale[:, None], squares[:n_found] / max(self.n_seen - 1, 1)


def _products(rows: Tensor, block: int = 2**16) -> Tensor:
    """Return the products of all rows, summed in float64: the smallest of them decide where components end."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for start in range(0, rows.shape[1], block):
        part = rows[:, start : start + block].double()
        total += part @ part.T
    return total


def varying_voxels(images: Tensor) -> Tensor:
    """Return the flat numbers of the voxels that hold 99.9 % of the variance between images, ascending.

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
    # volumes that don't differ at all have no component; one voxel keeps the shapes from being empty
    return chosen.nonzero().flatten() if bool(chosen.any()) else torch.zeros(1, dtype=torch.long)


def _start_linear_path(model: Any, template: DeformableTemplate, found: PrincipalComponents) -> None:
    variance = likelihood_variance(model)
    eigenvalues = found.eigenvalues
    present = eigenvalues > 1e-12 * eigenvalues.max().clamp_min(1e-30)
    safe = torch.where(present, eigenvalues, 1.0)
    signal = (eigenvalues - variance).clamp_min(0).sqrt()
    components = found.components * signal.float()[:, None, None]
    displacements = torch.zeros(template.displacements.shape)
    if template.deformable:
        components, displacements = displaced(components, found.mean, found.voxels, displacements.shape[2:])
    template.set_components(components, displacements, found.voxels)
    projection: PrincipalProjection = model.encoder.projection
    whitened = found.components * torch.where(present, safe.rsqrt(), 0.0).float()[:, None, None]
    projection.set_components(whitened, found.mean.flatten(1)[:, found.voxels], found.voxels)
    n = len(eigenvalues)
    with torch.no_grad():
        for layer in (model.fc_mu, model.fc_logvar):
            layer.weight.zero_()
            layer.bias.zero_()
        # the encoder gives its scores last
        model.fc_mu.weight[:, -n:] = torch.diag(signal * safe.rsqrt()).to(model.fc_mu.weight)
        posterior = torch.where(present, (variance / safe).clamp(1e-9, 1.0), 1.0)
        model.fc_logvar.bias.copy_(posterior.log())


def likelihood_variance(model: Any) -> float:
    """Return the variance of the likelihood whose exact ELBO a model's loss is, 1/2 for the default loss.

    The "normal" loss is SSE + beta KL, proportional to the ELBO of a Gaussian of variance beta / 2; "laplace" is that
    of a scale of beta, whose variance is 2 beta squared.
    """
    criterion = getattr(model, "criterion", None)
    beta = max(float(getattr(criterion, "beta", 1.0)), 1e-3)
    return 2 * beta**2 if getattr(criterion, "default_dist", "normal") == "laplace" else beta / 2


def displaced(components: Tensor, mean: Tensor, voxels: Tensor, n_controls: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Split components into what a displacement of the mean image explains of them, and the rest.

    To first order an image displaced by d is mean + grad(mean) . d. For each component c the d at control points
    minimises |c - grad(mean) . d|^2 + ridge |d|^2; the rest is c - grad(mean) . d, so that small codes give the same
    image as before, up to the kinks of linear interpolation between voxels.

    Args:
        components: shape (n, channel, voxel).
        mean: mean image, shape (channel, ...).
        voxels: which voxels the components are for, flat numbers.
        n_controls: control points along each axis of the box around them.

    Returns:
        what remains of the components, and displacements of shape (n, axis, *n_controls) in voxels.
    """
    sides = list(mean.shape[1:])
    interpolation = _interpolation(voxels, sides, n_controls)
    # an axis of a single voxel has no gradient
    slopes = [
        torch.gradient(mean.double(), dim=axis + 1)[0] if side > 1 else torch.zeros_like(mean).double()
        for axis, side in enumerate(sides)
    ]
    gradients = torch.stack(slopes).flatten(2)[:, :, voxels].numpy()
    targets = components.double().numpy()
    n_axes, n_points = len(sides), interpolation.shape[1]
    normal = np.zeros((n_axes, n_points, n_axes, n_points))
    right = np.zeros((n_axes, n_points, len(components)))
    transposed = interpolation.T.tocsr()
    for first in range(n_axes):
        for second in range(first + 1):
            weighted = interpolation.copy()
            weighted.data *= np.repeat(
                (gradients[first] * gradients[second]).sum(axis=0), np.diff(interpolation.indptr)
            )
            block = (transposed @ weighted).toarray()
            normal[first, :, second] = block
            normal[second, :, first] = block.T
        right[first] = transposed @ np.einsum("cv,kcv->vk", gradients[first], targets)
    size = n_axes * n_points
    matrix = normal.reshape(size, size)
    matrix[np.diag_indices(size)] += RIDGE * max(float(matrix.trace()) / size, 1e-12)
    factor = torch.linalg.cholesky(torch.from_numpy(matrix))
    solved = (
        torch.cholesky_solve(torch.from_numpy(right.reshape(size, -1)), factor).reshape(n_axes, n_points, -1).numpy()
    )
    explained = np.zeros_like(targets)
    for axis in range(n_axes):
        explained += gradients[axis][None] * (interpolation @ solved[axis]).T[:, None]
    rest = torch.from_numpy(targets - explained).float()
    displacements = torch.from_numpy(solved).permute(2, 0, 1).reshape(-1, n_axes, *n_controls).float()
    return rest, displacements


def _interpolation(voxels: Tensor, sides: Sequence[int], n_controls: Sequence[int]) -> Any:
    """Return the sparse matrix from control points to voxels, (voxel, control point)."""
    from scipy import sparse

    numbers = torch.zeros(len(voxels), 1, dtype=torch.long)
    products = torch.ones(len(voxels), 1, dtype=torch.float64)
    for place, count in zip(torch.unravel_index(voxels, tuple(sides)), n_controls, strict=True):
        start, side = int(place.min()), int(place.max() - place.min()) + 1
        weights = interpolation_weights(side, count, torch.device("cpu"), torch.float64)[place - start]
        # the two control points around each voxel
        left = (weights > 0).double().argmax(dim=1).clamp_max(count - 2)
        pair = torch.stack([left, left + 1], dim=1)
        numbers = (numbers[:, :, None] * count + pair[:, None]).flatten(1)
        products = (products[:, :, None] * weights.gather(1, pair)[:, None]).flatten(1)
    n_voxels, n_corners = numbers.shape
    pointers = np.arange(0, n_voxels * n_corners + 1, n_corners)
    shape = (n_voxels, int(np.prod(n_controls)))
    return sparse.csr_matrix((products.flatten().numpy(), numbers.flatten().numpy(), pointers), shape=shape)
