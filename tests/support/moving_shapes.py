"""Volumes of shapes that move, grow and brighten, whole or cropped, and an estimator that starts from them."""

import numpy as np
import torch
from torch.utils.data import DataLoader

from monai_betavae import build_vae
from monai_betavae.networks.warm_start import warm_start

SHAPE = (12, 14, 10)


def blobs(n_volumes=40, shape=SHAPE, channels=1, seed=0):
    """Volumes of an ellipsoid whose place, size and brightness vary: what a displacement explains, and what not."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.arange(side) - (side - 1) / 2 for side in shape), indexing="ij")
    volumes = np.empty((n_volumes, channels, *shape), dtype=np.float32)
    for volume in volumes:
        centre, size = rng.normal(0, 0.7, len(shape)), 3 * np.exp(rng.normal(0, 0.1))
        distance = np.sqrt(sum((axis - place) ** 2 for axis, place in zip(axes, centre, strict=True)))
        for channel in range(channels):
            volume[channel] = 4 * rng.normal(1, 0.05) / (1 + np.exp(2 * (distance - size)))
    return torch.from_numpy(volumes)


def grown(n_volumes=60, shape=SHAPE, seed=0):
    """Samples of ellipsoids that grow with a covariate, move by chance, and are dimmer at one of two sites.

    The coded covariates are the growth, and the site as 0.5 or -0.5.
    """
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.arange(side) - (side - 1) / 2 for side in shape), indexing="ij")
    samples = []
    for number in range(n_volumes):
        growth, site = rng.normal(), number % 2 - 0.5
        centre, size = rng.normal(0, 0.7, len(shape)), 3 * np.exp(0.12 * growth + rng.normal(0, 0.05))
        distance = np.sqrt(sum((axis - place) ** 2 for axis, place in zip(axes, centre, strict=True)))
        image = 4 * (1 + 0.5 * site) * rng.normal(1, 0.02) / (1 + np.exp(2 * (distance - size)))
        image = torch.from_numpy(image[None].astype(np.float32))
        samples.append({"image": image, "covariates": torch.tensor([growth, site], dtype=torch.float32)})
    return samples


def told_by(codes, values, others, true):
    """R² of a linear probe of a covariate, fitted on codes of training subjects and scored on those of others."""
    rows = np.column_stack([np.asarray(codes), np.ones(len(codes))])
    weights = np.linalg.lstsq(rows, np.asarray(values), rcond=None)[0]
    true = np.asarray(true)
    rest = true - np.column_stack([np.asarray(others), np.ones(len(others))]) @ weights
    return 1 - np.square(rest).sum() / np.square(true - true.mean()).sum()


def crops(n_volumes=60, shape=(44, 40), seed=0):
    """Crops of different sizes of a picture that moves and brightens, on a grid that none of them fills."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.arange(side) - (side - 1) / 2 for side in shape), indexing="ij")
    volumes, edges = np.zeros((n_volumes, 1, *shape), np.float32), np.zeros((n_volumes, len(shape), 2))
    for number in range(n_volumes):
        turned = [axis + rng.normal(0, 0.8) for axis in axes]
        picture = 0.8 + 0.3 * np.prod([np.sin(0.3 * axis) for axis in turned], axis=0) * rng.normal(1, 0.1)
        low = rng.integers(2, 8, len(shape))
        high = np.array(shape) - 1 - rng.integers(2, 8, len(shape))
        where = tuple(slice(first, last + 1) for first, last in zip(low, high, strict=True))
        volumes[(number, 0, *where)] = picture[where]
        edges[number] = np.stack([low - 0.5, high + 0.5], axis=1)
    return torch.from_numpy(volumes), edges


def started(kind, volumes, latent_dim=4, **arguments):
    vae = build_vae(volumes.shape[2:], latent_dim, channels=(4, 8), warm_start=kind, random_state=0, **arguments)
    assert warm_start(vae, DataLoader(volumes, batch_size=8))
    return vae
