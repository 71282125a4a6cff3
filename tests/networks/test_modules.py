"""The modules that networks are made of."""

import pytest
import torch

from monai_betavae import VAE
from monai_betavae.networks.builders import build_decoder, build_network
from monai_betavae.networks.modules import BlocksToChannels, ReconstructionNetwork, reconstruction_network

TINY = {"channels": (4, 4, 8, 8)}


def test_the_output_starts_at_the_mean_image():
    network = build_network((9, 8, 7), 2, channels=(4, 8))
    mean = torch.rand(1, 9, 8, 7)
    network.decoder.set_output_mean(mean)
    torch.testing.assert_close(network(torch.rand(3, 1, 9, 8, 7)).detach(), mean.expand(3, -1, -1, -1, -1))
    assert torch.equal(network.state_dict()["decoder.output_mean"], mean)
    with pytest.raises(ValueError, match=r"`mean` must have the output's shape \[1, 9, 8, 7\], got \[9, 8, 7\]"):
        network.decoder.set_output_mean(mean[0])


def test_the_mean_image_through_a_sigmoid():
    decoder = build_decoder(2, (8, 8), channels=(4, 8), output="sigmoid")
    mean = torch.rand(1, 8, 8) * 0.9 + 0.05
    decoder.set_output_mean(mean)
    torch.testing.assert_close(decoder(torch.randn(1, 2)).detach()[0], mean)
    decoder.set_output_mean(torch.zeros(1, 8, 8))
    assert decoder(torch.randn(1, 2)).isfinite().all()


def test_forward_is_one_tensor_and_equal_in_both_modes():
    network = build_network((8, 8, 8), 2, channels=(4, 8), warm_start="mean", random_state=0)
    torch.nn.init.normal_(network.decoder.levels.output.conv_block.conv.weight)
    image = torch.rand(2, 1, 8, 8, 8)
    trained, evaluated = network.train()(image), network.eval()(image)
    assert type(trained) is torch.Tensor
    torch.testing.assert_close(trained, evaluated)
    torch.testing.assert_close(evaluated, network.decode(network.encode(image).mean))
    assert not torch.allclose(network(image)[0], network(image)[1])


def test_reconstruction_network_takes_custom_parts():
    encoder = torch.nn.Linear(6, 4)
    encoder.out_dim = 4
    network = ReconstructionNetwork(encoder, torch.nn.Linear(2, 6), latent_dim=2)
    assert network(torch.rand(3, 6)).shape == (3, 6)


def test_blocks_of_voxels_become_channels():
    image = torch.arange(2 * 3 * 5.0).reshape(1, 2, 3, 5)
    blocks = BlocksToChannels(2)(image)
    assert blocks.shape == (1, 8, 2, 3)  # sides of 3 and 5, padded to 4 and 6
    padded = torch.nn.functional.pad(image, (0, 1, 0, 1))
    for channel in range(2):
        for row in range(2):
            for column in range(2):
                expected = padded[0, channel, row::2, column::2]
                assert torch.equal(blocks[0, 4 * channel + 2 * row + column], expected)


class Parts(torch.nn.Module):
    """What a checkpoint of another package gives: four parts, and no way to run them."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.encoder = torch.nn.Flatten()
        self.decoder = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.Unflatten(1, (1, 6)))
        self.fc_mu, self.fc_logvar = torch.nn.Linear(6, 2), torch.nn.Linear(6, 2)
        self.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_four_parts_make_a_network_that_shares_them(dtype):
    parts = Parts(dtype).eval()
    state = torch.get_rng_state()
    network = reconstruction_network(parts)
    assert torch.equal(torch.get_rng_state(), state)
    assert not network.training
    for name in ("encoder", "decoder", "fc_mu", "fc_logvar"):
        assert getattr(network, name) is getattr(parts, name)
    assert network.state_dict().keys() == parts.state_dict().keys()
    image = torch.rand(3, 1, 6, dtype=dtype)
    if dtype != torch.bfloat16:
        torch.testing.assert_close(network(image), parts.decoder(parts.fc_mu(image.flatten(1))))
    mu, logvar = network.posterior_parameters(image)
    assert mu.shape == logvar.shape == (3, 2)


def test_a_network_with_its_own_methods_is_returned_as_it_is():
    network = build_network((8, 8), 2, channels=(4, 8))
    assert reconstruction_network(network) is network

    class Methods(Parts):
        def encode(self, image):
            features = self.encoder(image)
            return torch.distributions.Normal(self.fc_mu(features), torch.exp(0.5 * self.fc_logvar(features)))

        def decode(self, z):
            return self.decoder(z)

    without_forward = Methods()
    assert type(reconstruction_network(without_forward)) is ReconstructionNetwork
    Methods.forward = lambda self, image: self.decode(self.encode(image).mean)
    own = Methods()
    assert reconstruction_network(own) is own


def test_what_is_missing_is_named():
    with pytest.raises(
        ValueError, match="`network_def` must have encoder, decoder, fc_mu and fc_logvar, got a Linear without encoder"
    ):
        reconstruction_network(torch.nn.Linear(2, 2))
    parts = Parts()
    parts.fc_mu = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"`network_def\.fc_mu` must be a torch\.nn\.Linear, got a Identity"):
        reconstruction_network(parts)
    parts.fc_mu = torch.nn.Linear(6, 3)
    with pytest.raises(ValueError, match=r"fc_mu and fc_logvar of one size, got \(3, 6\) and \(2, 6\)"):
        VAE.from_network(parts)


def test_an_estimator_of_four_parts_needs_no_out_dim():
    parts = Parts()
    vae = VAE.from_network(parts, beta=2.0)
    assert (vae.encoder_out_dim, vae.latent_dim, vae.beta) == (6, 2, 2.0)
    assert vae.fc_mu is parts.fc_mu
    assert vae.reconstruct(torch.rand(2, 1, 6)).shape == (2, 1, 6)


def test_codes_of_several_rows_are_refused():
    """A template that isn't set gives one image for all, and would not look at them."""
    for start in ("mean", "deformable"):
        with pytest.raises(ValueError, match=r"`z` must have shape \(batch, latent_dim\), got \[3, 4, 2\]"):
            build_decoder(2, (8, 8), channels=(4, 8), warm_start=start)(torch.zeros(3, 4, 2))
