"""Networks and estimator in one call."""

import pytest
import torch

from monai_betavae import build_vae


def test_arguments_reach_networks_and_estimator():
    vae = build_vae((8, 8), 3, architecture="residual", channels=(4, 8), in_channels=2, beta=3.0, lr=0.1, max_epochs=7)
    assert (vae.latent_dim, vae.beta, vae.lr, vae.trainer_params["max_epochs"]) == (3, 3.0, 0.1, 7)
    assert vae.encoder.description["arguments"]["architecture"] == "residual"
    assert vae.reconstruct(torch.rand(1, 2, 8, 8)).shape == (1, 2, 8, 8)


def test_an_unknown_argument_is_named():
    with pytest.raises(ValueError, match="got 'chanels'"):
        build_vae((32, 32), 3, chanels=(4, 8))
