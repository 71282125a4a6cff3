"""One protocol of a latent model, and its runs over many images."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal

from monai_betavae import build_vae
from monai_betavae.networks import build_network
from monai_betavae.networks.latent_model import (
    LatentModel,
    decode_array,
    device_of,
    encode_array,
    encode_images,
    evaluating,
    latent_dim_of,
    logvar_of,
    reconstruct_array,
)

SHAPE = (8, 8, 8)


def images(n=5):
    return np.random.default_rng(0).random((n, 1, *SHAPE), dtype=np.float32)


def vae():
    return build_vae(SHAPE, latent_dim=3, channels=(4, 8), dropout=0.5, random_state=0)


def network():
    return build_network(SHAPE, latent_dim=3, channels=(4, 8), dropout=0.5, random_state=0)


class Stretch(nn.Module):
    """z = 2 x with variance 9, and back: what each function must give is known."""

    def __init__(self):
        super().__init__()
        self.modes = []

    def encode(self, x):
        self.modes.append(self.training)
        return Normal(2 * x.flatten(1), torch.full_like(x.flatten(1), 3.0))

    def decode(self, z):
        return z.reshape(-1, 1, 2) / 2


@pytest.mark.parametrize("make", [vae, network, Stretch])
def test_estimator_network_and_ones_own_are_latent_models(make):
    assert isinstance(make(), LatentModel)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), object()])
def test_what_lacks_a_map_is_none(model):
    assert not isinstance(model, LatentModel)


def test_the_estimator_and_its_network_encode_alike():
    estimator, plain = vae(), network()
    plain.load_state_dict(estimator.state_dict())
    x = torch.from_numpy(images())
    ours, theirs = estimator.encode(x), plain.eval().encode(x)
    assert torch.equal(ours.mean, theirs.mean)
    assert torch.equal(ours.scale, theirs.scale)
    mu, logvar = plain.posterior_parameters(x)
    torch.testing.assert_close(logvar_of(theirs), logvar)
    assert torch.equal(theirs.mean, mu)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_arrays_in_batches_give_what_the_maps_give(batch_size):
    x = np.arange(10, dtype=np.float32).reshape(5, 1, 2)
    mu, logvar = encode_array(Stretch(), x, batch_size=batch_size)
    np.testing.assert_array_equal(mu, 2 * x[:, 0])
    np.testing.assert_allclose(logvar, np.full((5, 2), np.log(9.0)), rtol=1e-6)
    np.testing.assert_array_equal(decode_array(Stretch(), mu, batch_size=batch_size), x)
    np.testing.assert_array_equal(reconstruct_array(Stretch(), x, batch_size=batch_size), x)


def test_no_image_is_no_reconstruction():
    assert reconstruct_array(Stretch(), np.zeros((0, 1, 2), np.float32)).shape == (0, 1, 2)


def test_arrays_are_run_in_eval_mode_without_gradient_and_the_mode_comes_back():
    model = Stretch().train()
    encode_array(model, np.zeros((3, 1, 2), np.float32), batch_size=2)
    assert model.modes == [False, False]
    assert model.training
    estimator = vae().train()
    first, second = reconstruct_array(estimator, images()), reconstruct_array(estimator, images())
    np.testing.assert_array_equal(first, second)  # dropout is off


def test_a_frozen_part_keeps_its_mode():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)).train()
    model[1].eval()
    with evaluating(model):
        assert [model.training, model[0].training, model[1].training] == [False, False, False]
    assert [model.training, model[0].training, model[1].training] == [True, True, False]


class Encodes(nn.Module):
    def __init__(self, posterior):
        super().__init__()
        self.posterior = posterior

    def encode(self, x):
        return self.posterior


@pytest.mark.parametrize(
    ("posterior", "came"),
    [
        # MONAI's AutoencoderKL gives (mean, standard deviation), other models (mean, log-variance)
        ((torch.zeros(2, 3), torch.ones(2, 3)), "got a tuple"),
        (torch.zeros(2, 3), "got a Tensor"),
        (Normal(torch.zeros(4, 3), 1.0), r"got one of shape \(4, 3\)"),
        (Normal(torch.zeros(2), 1.0), r"got one of shape \(2,\)"),
    ],
)
def test_an_encode_of_another_kind_is_refused(posterior, came):
    with pytest.raises(ValueError, match=rf"`network_def.encode` must give .*Normal .*\(batch=2, latent_dim\), {came}"):
        encode_images(Encodes(posterior), torch.zeros(2, 1, 4))


def test_device_and_size():
    assert device_of(vae()) == torch.device("cpu")
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(Stretch()) == torch.device("cpu")
    assert latent_dim_of(network()) == latent_dim_of(vae()) == 3


def test_arrays_of_a_conditional_model_have_rows_of_covariates():
    model = build_network((8, 8, 8), 2, channels=(4,), warm_start="mean", n_covariates=1, random_state=0)
    with torch.no_grad():
        model.decoder.condition.weight.fill_(0.5)
    images, rows = np.random.default_rng(0).random((5, 1, 8, 8, 8), np.float32), np.arange(5.0)[:, None]
    mu, _ = encode_array(model, images, batch_size=2, covariates=rows)
    plain, _ = encode_array(model, images, batch_size=2, covariates=0 * rows)
    np.testing.assert_allclose(mu, plain - 0.5 * rows, rtol=1e-5, atol=1e-5)
    restored = reconstruct_array(model, images, batch_size=2, covariates=rows)
    np.testing.assert_allclose(decode_array(model, mu, covariates=rows), restored, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="`covariates` must have a row for each of 5 rows, got 4"):
        encode_array(model, images, covariates=rows[:4])
