"""Builders: exact shapes, MONAI's names, seeds, and refusals."""

import contextlib
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_betavae import BetaVAELoss, build_vae
from monai_betavae.networks.builders import DECODERS, ENCODERS, build_decoder, build_encoder, build_network
from monai_betavae.networks.warm_start import warm_start
from monai_betavae.saving.descriptions import rebuild
from monai_betavae.transformer import VAETransformer

TINY = {"channels": (4, 4, 8, 8)}


@pytest.mark.parametrize("architecture", ENCODERS)
@pytest.mark.parametrize("shape", [(91, 109, 91), (33, 47, 29), (40, 37)], ids=str)
def test_any_shape_comes_back_exactly(shape, architecture):
    network = build_network(shape, 3, architecture=architecture, in_channels=2, **TINY)
    image = torch.rand(1, 2, *shape)
    with torch.no_grad():
        features, reconstruction = network.encoder(image), network(image)
    assert features.shape == (1, network.encoder.out_dim)
    assert reconstruction.shape == image.shape


@pytest.mark.parametrize(("architecture", "n_levels"), [*itertools.product(DECODERS, (1, 2, 5))])
def test_decoder_of_any_depth(architecture, n_levels):
    decoder = build_decoder(3, (7, 12, 5), architecture=architecture, channels=(4,) * n_levels, norm="group")
    assert decoder(torch.zeros(2, 3)).shape == (2, 1, 7, 12, 5)


@pytest.mark.parametrize("norm", ["instance", "group", "batch", ("group", {"num_groups": 1}), "INSTANCE", None])
@pytest.mark.parametrize("act", ["prelu", "relu", "swish", ("leakyrelu", {"negative_slope": 0.2}), None])
def test_monai_names(norm, act):
    network = build_network((8, 8, 8), 2, channels=(4, 8), norm=norm, act=act)
    assert network(torch.rand(2, 1, 8, 8, 8)).shape == (2, 1, 8, 8, 8)


def test_norm_and_act_are_what_was_asked_for():
    kinds = {type(module) for module in build_encoder((8, 8, 8), channels=(4, 8), norm="batch", act="swish").modules()}
    assert torch.nn.BatchNorm3d in kinds
    assert torch.nn.InstanceNorm3d not in kinds
    assert not kinds & {torch.nn.PReLU, torch.nn.ReLU}


@pytest.mark.parametrize("architecture", ENCODERS)
def test_norm_and_act_reach_every_layer(architecture):
    """MONAI's ResNet gives its blocks batch normalisation and ReLU whatever it is told."""
    for shape, norm, kind in itertools.product([(40, 37), (33, 47, 29)], ("batch", "group"), ("relu", "swish")):
        network = build_network(shape, 2, architecture=architecture, norm=norm, act=kind, n_blocks=2, **TINY)
        found = {type(module) for module in network.modules()}
        batch = {torch.nn.BatchNorm2d, torch.nn.BatchNorm3d}
        assert bool(found & batch) == (norm == "batch")
        assert (torch.nn.GroupNorm in found) == (norm == "group")
        assert (torch.nn.ReLU in found) == (kind == "relu")


@pytest.mark.parametrize("architecture", ["resnet", "densenet"])
def test_arguments_of_a_norm_reach_every_layer(architecture):
    norm = ("batch", {"momentum": 0.25})
    network = build_encoder((40, 37), architecture=architecture, norm=norm, **TINY)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) > 4
    assert {module.momentum for module in norms} == {0.25}


@pytest.mark.parametrize("architecture", ENCODERS)
def test_an_image_s_features_do_not_depend_on_the_other_images(architecture):
    encoder = build_encoder((40, 37), architecture=architecture, norm="group", **TINY).train()
    images = torch.rand(3, 1, 40, 37, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder(images)[:1], encoder(images[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["conv", "residual"])
def test_n_blocks_adds_convolutions(architecture):
    def count(n_blocks):
        encoder = build_encoder((8, 8, 8), architecture=architecture, channels=(4, 8), n_blocks=n_blocks)
        return sum(isinstance(module, torch.nn.Conv3d) for module in encoder.modules())

    assert count(3) > count(2) > count(1)


def test_random_state_alone_decides_the_weights():
    def weights(global_seed, random_state):
        torch.manual_seed(global_seed)
        return build_network((8, 8, 8), 2, channels=(4, 8), random_state=random_state).state_dict()

    first, same, other = weights(1, 5), weights(2, 5), weights(1, 6)
    assert all(torch.equal(value, same[name]) for name, value in first.items())
    assert not torch.equal(first["fc_mu.weight"], other["fc_mu.weight"])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    build_network((8, 8, 8), 2, channels=(4, 8), random_state=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("architecture", ENCODERS)
def test_description_makes_the_same_network_again(architecture):
    network = build_network((33, 17, 20), 3, architecture=architecture, act="relu", **TINY)
    for part in (network, network.encoder, network.decoder):
        again = rebuild(part.description, "a test").state_dict()
        assert {name: value.shape for name, value in part.state_dict().items()} == {
            name: value.shape for name, value in again.items()
        }


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: build_encoder((8,)), r"`spatial_shape` must be two or three positive integers.*got \(8,\)"),
        (lambda: build_encoder((8, 8, 0)), r"`spatial_shape` must be .*got \(8, 8, 0\)"),
        (lambda: build_encoder((8, 8), 0), "`in_channels` must be an integer >= 1, got 0"),
        (lambda: build_encoder((8, 8), architecture="unet"), "`architecture` must be one of 'conv'.*got 'unet'"),
        (lambda: build_decoder(2, (8, 8), architecture="resnet"), "`architecture` must be one of .*got 'resnet'"),
        (lambda: build_encoder((8, 8), channels=()), r"`channels` must be a sequence of positive integers.*got \(\)"),
        (lambda: build_encoder((8, 8), channels=(4, -1)), "`channels` must be an integer >= 1, got -1"),
        (lambda: build_encoder((8, 8), kernel_size=2), "`kernel_size` must be odd.*got 2"),
        (lambda: build_encoder((8, 8), norm="btch"), "`norm` must be one of .*got 'btch'. Did you mean 'batch'"),
        (lambda: build_encoder((8, 8), act="reluu"), "`act` must be one of .*got 'reluu'. Did you mean"),
        (lambda: build_encoder((8, 8), norm=3), r"`norm` must be a name, \(name, arguments\) or None, got 3"),
        (lambda: build_encoder((8, 8), act=["relu"]), r"`act` must be a name, .*got \['relu'\]"),
        (lambda: build_encoder((8, 8), act=("relu", 1)), r"`act` must be a name, .*got \('relu', 1\)"),
        (lambda: build_encoder((8, 8), n_blocks=101), "`n_blocks` must be an integer from 1 to 100, got 101"),
        (lambda: build_encoder((8, 8), channels=(10**10,)), "network of at most 4294967296 weights, got .*10000000000"),
        (lambda: build_encoder((8, 8), dropout=2), "`dropout` must be .* <= 1, got 2"),
        (lambda: build_decoder(0, (8, 8)), "`latent_dim` must be an integer >= 1, got 0"),
        (lambda: build_decoder(2, (8, 8), output="tanh"), "`output` must be one of 'linear', 'sigmoid', got 'tanh'"),
        (lambda: build_encoder((64, 64), architecture="resnet", channels=(4, 8)), r"four entries.*got \(4, 8\)"),
        (lambda: build_encoder((64, 64), architecture="resnet", norm=None), "`norm` must be given.*got None"),
        (
            lambda: build_encoder((3, 3, 3), architecture="densenet", norm="group"),
            r"`spatial_shape` must be larger.*\(3, 3, 3\)",
        ),
        (lambda: build_encoder((8, 8), channels=(4, 4, 4), norm="instance"), "coarsest grid is a single voxel"),
    ],
)
def test_refusals(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("architecture", ENCODERS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # what MONAI's ckpt_export still calls
def test_torchscript_gives_the_same(architecture):
    shape = {"norm": "group", "channels": (4, 8, 8, 8)}
    network = build_network(
        (16, 20, 16), 4, architecture=architecture, warm_start="mean", random_state=0, **shape
    ).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 1, 16, 20, 16, generator=generator)
    with torch.no_grad():
        for name, weights in network.decoder.named_parameters():
            if "output" in name:  # zero in a fresh network
                weights.normal_(std=1.0, generator=generator)
        expected = network(images)
        assert (expected[0] - expected[1]).abs().max() > 0.1
        torch.testing.assert_close(torch.jit.script(network)(images), expected)


# ---- defaults --------------------------------------------------------------------------------------------------------


def test_one_default_model_everywhere():
    network = build_network((8, 8, 8), 2)
    assert network.description["arguments"]["warm_start"] == "deformable"
    assert network.description["arguments"]["norm"] == "group"
    vae = build_vae((8, 8, 8), 2)
    for part in ("encoder", "decoder"):
        assert getattr(vae, part).description == getattr(network, part).description
    assert vae.decoder.description["arguments"]["warm_start"] == "deformable"
    assert build_network((8, 8), 2, warm_start=None).description["arguments"]["warm_start"] == "deformable"
    for sigmoid in (build_network((8, 8), 2, output="sigmoid"), build_vae((8, 8), 2, default_dist="bernoulli")):
        assert sigmoid.decoder.description["arguments"]["warm_start"] == "mean"
    assert build_vae((8, 8), 2, loss=BetaVAELoss(1.0, "bernoulli")).decoder.sigmoid
    assert build_decoder(2, (8, 8)).warm_start == "mean"  # it has no encoder to give it scores
    assert VAETransformer().get_params()["warm_start"] is None


def test_a_description_without_a_warm_start_makes_the_default():
    network = rebuild({"builder": "build_network", "arguments": {"spatial_shape": [8, 8], "latent_dim": 2}}, "a test")
    assert network.description["arguments"]["warm_start"] == "deformable"


def train_default(shape, **arguments):
    """Build with defaults alone, start from a few volumes, take one step and embed."""
    volumes = torch.rand(3, 1, *shape, generator=torch.Generator().manual_seed(0))
    vae = build_vae(shape, 2, random_state=0, **arguments)
    assert warm_start(vae, volumes.split(1))
    optimizer = vae.configure_optimizers()[0]
    losses = vae.train().training_step(volumes[:1], 0)  # a batch of one, in training mode
    losses["loss"].backward()
    optimizer.step()
    vae.fitted_ = True
    assert vae.reconstruct(volumes).shape == volumes.shape
    assert torch.isfinite(vae.transform([volumes])).all()


@pytest.mark.parametrize(
    "shape",
    [(1, 1), (1, 2), (3, 1), (5, 4), (1, 1, 1), (2, 2, 2), (1, 5, 9), (3, 3, 3), (17, 1, 9), (16, 16, 16)],
    ids=str,
)
@pytest.mark.parametrize("default_dist", ["normal", "bernoulli"])
@pytest.mark.parametrize("architecture", ["conv", "plain", "residual"])
def test_defaults_work_for_every_shape(shape, default_dist, architecture):
    train_default(shape, default_dist=default_dist, architecture=architecture)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 21), min_size=2, max_size=3))
def test_defaults_work_for_any_shape(shape):
    train_default(tuple(shape))


@pytest.mark.parametrize("architecture", ["resnet", "densenet"])
@pytest.mark.parametrize("side", [1, 2, 3, 8, 16])
def test_defaults_of_other_architectures_work_or_say_that_the_shape_is_too_small(architecture, side):
    too_small = architecture == "densenet" and side < 16
    refused = (
        pytest.raises(ValueError, match="`spatial_shape` must be larger") if too_small else contextlib.nullcontext()
    )
    with refused:
        train_default((side, side, side), architecture=architecture)
