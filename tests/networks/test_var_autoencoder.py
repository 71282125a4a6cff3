"""MONAI's VarAutoEncoder as a network of this package."""

import json

import pytest
import torch
from monai.networks.nets import VarAutoEncoder
from quiet_trainer import QUIET

from monai_betavae import VAE
from monai_betavae.networks.var_autoencoder import (
    build_var_autoencoder,
    build_var_decoder,
    build_var_encoder,
    from_var_autoencoder,
)
from monai_betavae.saving.descriptions import description_of, rebuild

SMALL = {"channels": (4, 8), "strides": (2, 2)}
ARGUMENTS = {
    "plain": {},
    "residual units": {"num_res_units": 2},
    "blocks in between": {"inter_channels": [8, 8], "inter_dilations": [1, 2]},
    "plain blocks in between": {"inter_channels": [8], "num_inter_units": 0},
    "batch normalisation": {"norm": "batch", "act": ("leakyrelu", {"negative_slope": 0.2})},
    "large kernels": {"kernel_size": 5, "up_kernel_size": (3, 5, 3), "bias": False},
    "dropout": {"dropout": 0.2},
}


def theirs(shape=(16, 12, 8), latent_dim=3, **arguments):
    torch.manual_seed(0)
    network = VarAutoEncoder(len(shape), (1, *shape), 1, latent_dim, **{**SMALL, **arguments})
    return network.eval()


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
@pytest.mark.parametrize("use_sigmoid", [True, False])
def test_the_numbers_are_monais(arguments, use_sigmoid):
    network = theirs(use_sigmoid=use_sigmoid, **arguments)
    ours, image = from_var_autoencoder(network), torch.rand(2, 1, 16, 12, 8)
    mu, logvar = network.encode_forward(image)
    assert torch.equal(torch.stack(ours.posterior_parameters(image)), torch.stack([mu, logvar]))
    expected = network.decode_forward(mu, use_sigmoid)
    assert torch.equal(ours.decode(mu), expected)
    assert torch.equal(ours(image), expected)


@pytest.mark.parametrize("shape", [(15, 13, 9), (5, 7), (16, 16), (91, 109, 91)])
@pytest.mark.parametrize("strides", [(2, 2), (1, 2), (3, 2)])
def test_odd_shapes_come_back_exactly(shape, strides):
    network = build_var_autoencoder(shape, 2, channels=(2, 4), strides=strides)
    image = torch.rand(1, 1, *shape)
    assert network(image).shape == image.shape
    assert network.encoder(image).shape == (1, network.encoder.out_dim)


def test_layers_are_shared_and_nothing_is_drawn():
    network = theirs()
    before = torch.get_rng_state()
    ours = from_var_autoencoder(network)
    assert torch.equal(torch.get_rng_state(), before)
    assert {id(weight) for weight in ours.parameters()} == {id(weight) for weight in network.parameters()}
    assert not ours.training
    assert all(weight.device.type == "cpu" for weight in ours.state_dict().values())
    assert from_var_autoencoder(theirs().double())(torch.rand(1, 1, 16, 12, 8).double()).dtype == torch.float64


def test_blocks_in_between_may_change_the_channels():
    # MONAI's own decode_forward fails there
    assert from_var_autoencoder(theirs(inter_channels=[6]))(torch.rand(1, 1, 16, 12, 8)).shape == (1, 1, 16, 12, 8)


@pytest.mark.parametrize(
    "make",
    [lambda: build_var_autoencoder((9, 8, 7), 2, **SMALL), lambda: from_var_autoencoder(theirs((9, 8, 7), 2))],
    ids=["built", "wrapped"],
)
def test_the_estimator_trains_saves_and_loads_it(make, tmp_path):
    network = make().train()
    vae = VAE.from_network(network, random_state=0, max_epochs=1, **QUIET)
    before = [weight.clone() for weight in network.parameters()]
    images = torch.rand(4, 1, 9, 8, 7)
    loader = torch.utils.data.DataLoader(images, batch_size=4)
    vae.fit(loader, loader)
    moved = [not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    again = VAE.load(vae.save(tmp_path / "model.pt"))
    assert torch.equal(again.reconstruct(images), vae.reconstruct(images))


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_a_description_brings_it_back(arguments):
    for network in (
        build_var_autoencoder((16, 12, 8), 3, random_state=1, **SMALL, **arguments),
        from_var_autoencoder(theirs(use_sigmoid=False, **arguments)),
    ):
        weights = network.state_dict()
        stored = json.loads(json.dumps(description_of(network)))
        again = rebuild(stored, "model.json", weights)
        again.load_state_dict(weights)
        image = torch.rand(1, 1, 16, 12, 8)
        assert torch.equal(again.eval()(image), network.eval()(image))


def test_a_class_derived_from_monais_has_no_description():
    class Other(VarAutoEncoder):
        pass

    ours = from_var_autoencoder(Other(2, (1, 8, 8), 1, 2, **SMALL))
    assert [description_of(part) for part in (ours, ours.encoder, ours.decoder)] == [None] * 3
    two = from_var_autoencoder(VarAutoEncoder(2, (1, 8, 8), 2, 2, **SMALL))
    assert description_of(two) is None
    assert description_of(two.decoder)["arguments"]["out_channels"] == 2


def test_the_seed_makes_the_weights():
    one, same, other = (build_var_autoencoder((8, 8), 2, **SMALL, random_state=seed) for seed in (0, 0, 1))
    image = torch.rand(1, 1, 8, 8)
    assert torch.equal(one(image), same(image))
    assert not torch.equal(one(image), other(image))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strides": (2,)}, "`strides` must have as many entries as `channels`, 2"),
        ({"channels": ()}, "`channels` must be a sequence of positive integers"),
        ({"channels": (4, 0)}, "`channels` must be an integer >= 1"),
        ({"kernel_size": 4}, "`kernel_size` must be one odd number"),
        ({"up_kernel_size": (3, 3, 3)}, "`up_kernel_size` must be one odd number"),
        ({"norm": "no_such"}, "`norm` must be one of"),
        ({"latent_dim": 0}, "`latent_dim` must be an integer >= 1"),
        ({"spatial_shape": (8,)}, "`spatial_shape` must be two or three positive integers"),
        ({"spatial_shape": (2, 2)}, "must fit each other"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_var_autoencoder(**{"spatial_shape": (8, 8), "latent_dim": 2, **SMALL, **arguments})


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match=r"must be a monai\.networks\.nets\.VarAutoEncoder, got Linear"):
        from_var_autoencoder(torch.nn.Linear(1, 1))
    broken = theirs()
    broken.mu = torch.nn.Linear(5, 3)
    with pytest.raises(ValueError, match="must have layers that fit"):
        from_var_autoencoder(broken)


def test_parts_alone():
    assert build_var_encoder((8, 9), 2, **SMALL)(torch.rand(3, 2, 8, 9)).shape[0] == 3
    image = build_var_decoder(2, (8, 9), use_sigmoid=True, **SMALL)(100 * torch.randn(3, 2))
    assert image.shape == (3, 1, 8, 9)
    assert 0 <= float(image.min().detach()) <= float(image.max().detach()) <= 1
