"""The modules that networks are made of."""

import pytest
import torch

from monai_betavae.modules import BlocksToChannels, ReconstructionNetwork
from monai_betavae.networks import build_decoder, build_network

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
    network = build_network((8, 8, 8), 2, channels=(4, 8), random_state=0)
    torch.nn.init.normal_(network.decoder.levels.output.conv_block.conv.weight)
    image = torch.rand(2, 1, 8, 8, 8)
    trained, evaluated = network.train()(image), network.eval()(image)
    assert type(trained) is torch.Tensor
    torch.testing.assert_close(trained, evaluated)
    torch.testing.assert_close(evaluated, network.decode(network.encode(image)[0]))
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
