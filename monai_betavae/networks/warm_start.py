"""Warm starts: initialisation of a network from the mean training image or from PCA of the training volumes.

A network with random weights spends its first epochs on what all brains have in common, and a convolutional VAE trained
on a few hundred volumes reconstructs worse than PCA. A network can therefore start from the training volumes:

========== ===========================================================================================================
none       sets nothing
mean       starts the output at the mean image
linear     also starts encoder and decoder as probabilistic PCA with one component per latent dimension, in parallel
           with their convolutions
deformable also turns the part of each component that a displacement of the mean image explains into a displacement:
           where a component would blend a larger and a smaller brain into a blurred one, the template grows and
           shrinks. The template replaces the convolutions of the decoder
========== ===========================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .._randomness import seeded
from .correction import mean_curvature
from .noise import noise_of, residual_variances
from .principal_components import PrincipalComponents, TrainingVolumes, principal_components
from .principal_projection import PrincipalProjection
from .template import DeformableTemplate
from .voxel_lattice import interpolation_weights

WARM_STARTS = ("none", "mean", "linear", "deformable")
"""Warm starts of a network; see the module's docstring."""

MEAN_IMAGE_VOLUMES, PCA_VOLUMES, NOISE_VOLUMES = 256, 1024, 64
"""Maximum number of training volumes read for a mean image, for principal components, and for the noise of voxels."""

RIDGE = 30.0
"""Penalty on displacements, relative to the mean squared gradient at a control point (see docs/performance.md)."""

SMOOTHING = 0.7
"""Standard deviation, in voxels, of the Gaussian that smooths the intensities of components."""


def warm_start(model: Any, train_dataloader: Iterable[Any], *, seed: int | None = None) -> bool:
    """Initialise a network from the training volumes, if it has a warm start and is still unset.

    With the eigenvalues l_k and eigenvectors u_k of the training volumes' covariance, and the likelihood variance s2
    that ``beta`` implies (beta / 2 for "normal", see :mod:`~monai_betavae.losses`), the model becomes
    probabilistic PCA: decoder x_mean + sum_k z_k u_k sqrt(l_k - s2), posterior mean sqrt(l_k - s2) / l_k times the
    score u_k . (x - x_mean), posterior variance s2 / l_k; a dimension with l_k <= s2 is inactive. "deformable" then
    solves, for each component, a ridge regression on displacements of the mean image at control points.

    Args:
        model: estimator or network with ``encoder``, ``decoder``, ``fc_mu`` and ``fc_logvar``. A decoder without an
            attribute ``warm_start`` (a custom one) is left unchanged.
        train_dataloader: loader of the training volumes. Its dataset is read directly: at most 256 volumes for a mean
            and 1024 for components, evenly spread. A loader that isn't a ``DataLoader`` of a dataset with a length is
            read from its beginning.
        seed: seed of random transforms in the dataset.

    Returns:
        whether anything was set.

    Raises:
        ValueError: for non-finite images, or images of another shape than the network was built for.

    Source:
        Tipping & Bishop, "Probabilistic Principal Component Analysis", JRSS B 61, 1999.

    Example:
        >>> from monai_betavae import build_vae
        >>> from torch.utils.data import DataLoader
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
        volumes = TrainingVolumes(train_dataloader, at_most, decoder.out_shape, getattr(model, "image_key", "image"))
        if template is None:
            decoder.set_output_mean(volumes.mean())
            return True
        found = principal_components(volumes, n_components, find_field_of_view=template.deformable)
        decoder.set_output_mean(found.mean)
        _start_linear_path(model, template, found)
        noise = noise_of(model)
        if noise is not None and noise.by_voxel:
            # what the first start leaves unexplained says how much each voxel counts in the second
            some = TrainingVolumes(train_dataloader, NOISE_VOLUMES, volumes.shape, volumes.image_key)
            noise.set_variances(residual_variances(model, some), found.voxels)
            weight = noise.weight().cpu()
            found = principal_components(volumes, n_components, template.deformable, weight)
            _start_linear_path(model, template, found, weight)
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
            f"`warm_start` {decoder.warm_start!r} needs the training volumes first, and they couldn't be read from the "
            "Trainer: call monai_betavae.networks.warm_start.warm_start(vae, train_dataloader) before it trains, or "
            "VAE.fit."
        )


def _start_linear_path(
    model: Any, template: DeformableTemplate, found: PrincipalComponents, voxel_weight: Tensor | None = None
) -> None:
    variance = likelihood_variance(model)
    eigenvalues = found.eigenvalues
    present = eigenvalues > 1e-12 * eigenvalues.max().clamp_min(1e-30)
    safe = torch.where(present, eigenvalues, 1.0)
    signal = (eigenvalues - variance).clamp_min(0).sqrt()
    components = found.components * signal.float()[:, None, None]
    displacements = torch.zeros(template.displacements.shape)
    if template.deformable:
        components, displacements = displace(components, found.mean, found.voxels, displacements.shape[2:])
        components = smooth(components, found.voxels, list(found.mean.shape[1:]), SMOOTHING)
    whitening = torch.where(present, safe.rsqrt(), 0.0).float()
    field = found.field_of_view
    weight, edges, edge_weight, mean_edges = found.components, None, None, None
    if voxel_weight is not None:
        # components of weighted rows: once for the row, once for the component
        weight = weight * voxel_weight.flatten(1)[:, found.voxels].square()
    if field is not None:
        # components of the rows, in which voxels weigh as often as they are seen
        weight = weight * field.seen.square()
        edges, edge_weight = (
            field.components * signal.float()[:, None, None],
            field.projection * whitening[:, None, None],
        )
        mean_edges = field.mean_edges
    template.set_components(components, displacements, found.voxels, edges, mean_edges)
    projection: PrincipalProjection = model.encoder.projection
    mean = found.mean.flatten(1)[:, found.voxels]
    projection.set_components(weight * whitening[:, None, None], mean, found.voxels, edge_weight, mean_edges)
    n = len(eigenvalues)
    with torch.no_grad():
        for layer in (model.fc_mu, model.fc_logvar):
            layer.weight.zero_()
            layer.bias.zero_()
        # the encoder puts the scores after its other features
        model.fc_mu.weight[:, -n:] = torch.diag(signal * safe.rsqrt()).to(model.fc_mu.weight)
        posterior = torch.where(present, (variance / safe).clamp(1e-9, 1.0), 1.0)
        correction = getattr(model.decoder, "correction", None)
        if correction is not None:
            correction.variance.fill_(variance)
            curvature = mean_curvature(template, model.decoder.output_mean, voxel_weight)
            correction.set_curvature(curvature)
            posterior = variance / (curvature.diagonal() + variance)
        model.fc_logvar.bias.copy_(posterior.log())


def smooth(components: Tensor, voxels: Tensor, sides: list[int], width: float) -> Tensor:
    """Return components smoothed by a Gaussian, which generalise better: what they say of single voxels is noise.

    Args:
        components: shape (n, channel, voxel).
        voxels: flat indices of the voxels in the grid.
        sides: sides of the grid.
        width: standard deviation of the Gaussian in voxels.

    Returns:
        shape (n, channel, voxel); other voxels count as 0.
    """
    smoothed = torch.empty_like(components)
    for row, component in enumerate(components):
        for channel, values in enumerate(component):
            grid = np.zeros(sides, np.float32)
            grid.ravel()[voxels.numpy()] = values.numpy()
            found = ndimage.gaussian_filter(grid, width, mode="nearest").ravel()[voxels.numpy()]
            smoothed[row, channel] = torch.from_numpy(found)
    return smoothed


def likelihood_variance(model: Any) -> float:
    """Return the variance of the likelihood for which a model's loss is the exact ELBO; see :func:`variance_of`."""
    criterion = getattr(model, "criterion", None)
    # a custom loss may lack both; then the estimator's arguments count
    beta = float(getattr(criterion, "beta", getattr(model, "beta", 1.0)))
    beta = float(getattr(criterion, "kl_weight", beta))
    return variance_of(getattr(criterion, "default_dist", getattr(model, "default_dist", "normal")), beta)


def variance_of(distribution: str, beta: float) -> float:
    """Return the variance of the likelihood for which the loss is the exact ELBO, 1/2 for the default loss.

    The "normal" loss, SSE + beta KL, is proportional to the negative ELBO of a Gaussian with variance beta / 2. The
    "laplace" loss is that of a Laplace distribution with scale beta, whose variance is 2 beta^2. A beta below 0.001
    counts as 0.001.

    Args:
        distribution: "normal", "laplace" or "bernoulli".
        beta: weight of the KL divergence.

    Example:
        >>> variance_of("normal", 1.0), variance_of("laplace", 2.0)
        (0.5, 8.0)
    """
    beta = max(beta, 1e-3)
    return 2 * beta**2 if distribution == "laplace" else beta / 2


def displace(components: Tensor, mean: Tensor, voxels: Tensor, n_controls: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Split components into the part that a displacement of the mean image explains, and the remainder.

    To first order, an image displaced by d is mean + grad(mean) . d. For each component c, the d at control points
    minimises |c - grad(mean) . d|^2 + ridge |d|^2, and the remainder is c - grad(mean) . d. Small codes therefore give
    the same image as before, up to the kinks of linear interpolation between voxels.

    Args:
        components: shape (n, channel, voxel).
        mean: mean image, shape (channel, ...).
        voxels: flat indices of the voxels of the components.
        n_controls: number of control points along each axis of their bounding box.

    Returns:
        the remainders of the components, and displacements of shape (n, axis, *n_controls) in voxels.
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
    """Return the sparse interpolation matrix from control points to voxels, shape (voxel, control point)."""
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
