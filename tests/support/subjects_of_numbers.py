"""Subjects of an evaluation, made of numbers: no file, no network."""

import numpy as np

from monai_betavae.workflows.model_evaluation.subjects import Subjects


def subjects(n, seed=0, latent_dim=3, side=10, prefix="sub"):
    """Return n subjects with codes of unit variance and ball-shaped brains."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*[np.arange(side) - (side - 1) / 2] * 3, indexing="ij"))
    ball = ((places**2).sum(axis=0) <= (side / 2) ** 2).astype(np.float32)
    images = np.stack([ball * (0.5 + 0.1 * rng.standard_normal(ball.shape)) for _ in range(n)]).astype(np.float32)
    records = [{"subject": f"{prefix}-{i}", "image": f"{prefix}-{i}.nii"} for i in range(n)]
    mu = rng.standard_normal((n, latent_dim)).astype(np.float32)
    logvar = np.full((n, latent_dim), -3.0, np.float32)
    return Subjects(records, mu, logvar, images[:, None], np.arange(n), np.tile(np.diag([3.0, 3, 3, 1]), (n, 1, 1)))
