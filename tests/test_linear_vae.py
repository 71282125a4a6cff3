"""A linear VAE is probabilistic PCA (Lucas et al. 2019, arXiv 1911.02469): its optimum is known in closed form."""

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from torch import nn
from torch.utils.data import DataLoader

from monai_betavae import VAE
from monai_betavae.evaluation import elbo, log_likelihood, probabilistic_pca_log_density

SHAPE, LATENTS, N = (1, 4, 5), 3, 1000


def data():
    """Images of three directions of different strength and noise of unit variance."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(20, LATENTS)))[0] * [5.0, 3.5, 2.5]
    flat = 0.5 + rng.normal(size=(N, LATENTS)) @ directions.T + rng.normal(size=(N, 20))
    return flat.reshape(N, *SHAPE).astype(np.float32)


@pytest.fixture(scope="module")
def trained():
    images = torch.from_numpy(data())
    decoder = nn.Sequential(nn.Linear(LATENTS, 20), nn.Unflatten(1, SHAPE))
    # the loss is the squared error without the half: beta = 2 is twice the negative ELBO of unit noise
    vae = VAE(
        nn.Flatten(),
        decoder,
        encoder_out_dim=20,
        latent_dim=LATENTS,
        beta=2.0,
        weight_decay=0.0,
        random_state=0,
        max_epochs=20,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        logger=False,
        accelerator="cpu",
    )
    for rate in (2e-2, 1e-2, 3e-3, 1e-3):
        vae.lr = rate
        vae.fit(DataLoader([images] * 50, batch_size=None))  # an epoch of fifty steps on all images
    return vae, images


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*goes on from its weights.*")
def test_a_linear_vae_finds_the_subspace_and_the_likelihood_of_pca(trained):
    vae, images = trained
    flat = images.numpy().reshape(N, -1).astype(float)
    pca = PCA(LATENTS).fit(flat)
    found = vae.decoder[0].weight.detach().double().numpy()
    angle = np.degrees(subspace_angles(found, pca.components_.T).max())
    # the maximum of the likelihood for noise of variance 1: W = U (Lambda - 1)^(1/2)
    variances = pca.explained_variance_ * (N - 1) / N
    loadings = pca.components_.T * np.sqrt(variances - 1)
    closed = probabilistic_pca_log_density(flat, flat.mean(axis=0), loadings, 1.0).mean()
    loader = DataLoader(images, batch_size=100)
    bound = elbo(vae, loader, n_samples=20, progress=False).elbo.mean()
    weighted = log_likelihood(vae, loader, 200, progress=False).mean()
    print(f"largest principal angle {angle:.2f} degrees; ELBO {bound:.3f}, IW {weighted:.3f}, closed form {closed:.3f}")
    assert angle < 2
    assert weighted == pytest.approx(closed, rel=0.002)  # the acceptance is one per cent
    assert bound == pytest.approx(closed, rel=0.005)
    assert weighted <= closed + 0.01  # nothing linear with this noise is better
    # the axes are those of PCA too, since the posterior is diagonal: each column along one component
    cosines = np.abs(found.T @ pca.components_.T) / np.linalg.norm(found, axis=0)[:, None]
    assert np.sort(cosines.max(axis=1))[0] > 0.98


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*goes on from its weights.*")
def test_another_weight_of_the_kl_is_another_model(trained):
    # beta = 1 is noise of variance 1/2 in this convention: columns of another length
    vae, images = trained
    flat = images.numpy().reshape(N, -1).astype(float)
    pca = PCA(LATENTS).fit(flat)
    lengths = np.sort(np.linalg.norm(vae.decoder[0].weight.detach().double().numpy(), axis=0))[::-1]
    right, wrong = (np.sqrt(pca.explained_variance_ * (N - 1) / N - noise) for noise in (1.0, 0.5))
    assert np.abs(lengths - right).max() < np.abs(lengths - wrong).max()
    np.testing.assert_allclose(lengths, right, rtol=0.02)
