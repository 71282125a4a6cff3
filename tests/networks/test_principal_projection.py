import numpy as np
import torch
from seeded_draws import generator

from monai_betavae.networks.principal_projection import PrincipalProjection

SHAPE = (9, 12, 10)


def test_before_it_is_set_scores_are_zero():
    assert torch.equal(
        PrincipalProjection(4, (1, *SHAPE))(torch.rand(3, 1, *SHAPE, generator=generator())), torch.zeros(3, 4)
    )


def test_projection_is_a_product_with_the_centred_voxels():
    voxels = torch.tensor([1, 5, 1000])
    weight, mean = torch.randn(2, 3, 3, generator=generator()), torch.rand(3, 3, generator=generator(1))
    projection = PrincipalProjection(2, (3, *SHAPE))
    projection.set_components(weight, mean, voxels)
    image = torch.rand(4, 3, *SHAPE, generator=generator(2))
    centred = (image.flatten(2).numpy()[:, :, voxels] - mean.numpy()).reshape(4, -1)
    np.testing.assert_allclose(projection(image), centred @ weight.numpy().reshape(2, -1).T, rtol=1e-4, atol=1e-5)


def test_an_empty_one_takes_its_sizes_from_a_state_dict():
    full = PrincipalProjection(2, (1, *SHAPE))
    full.set_components(torch.randn(2, 1, 30, generator=generator()), torch.rand(1, 30), torch.arange(30) * 7)
    empty = PrincipalProjection(2, (1, *SHAPE))
    empty.load_state_dict(full.state_dict())
    images = torch.rand(2, 1, *SHAPE, generator=generator(1))
    assert torch.equal(empty(images), full(images))
    assert full(images).abs().max() > 0.1


def test_scores_of_a_crop_are_those_of_its_extension_and_its_edges():
    voxels = torch.arange(28 * 26)
    weight, mean = (
        torch.randn(2, 1, len(voxels), generator=generator()),
        torch.rand(1, len(voxels), generator=generator(3)),
    )
    edge_weight = torch.randn(2, 2, 2, generator=generator(1))
    mean_edges = torch.tensor([[2.5, 24.5], [1.5, 22.5]])
    projection = PrincipalProjection(2, (1, 28, 26))
    projection.set_components(weight, mean, voxels, edge_weight, mean_edges)
    image = torch.zeros(1, 1, 28, 26)
    image[:, :, 4:25, 2:24] = 0.5 + torch.rand(1, 1, 21, 22, generator=generator(2))

    extended = np.pad(image[0, 0, 5:24, 3:23].numpy(), ((5, 4), (3, 3)), mode="edge").ravel()
    edges = np.array([[3.5, 24.5], [1.5, 23.5]]) - mean_edges.numpy()
    expected = weight[:, 0].numpy() @ (extended - mean[0].numpy()) + edge_weight.flatten(1).numpy() @ edges.ravel()
    np.testing.assert_allclose(projection(image)[0], expected, rtol=1e-4)
