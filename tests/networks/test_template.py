import numpy as np
import pytest
import torch
from scipy import ndimage
from seeded_draws import generator

from monai_betavae.networks.field_of_view import no_edges
from monai_betavae.networks.template import (
    DEFORMABLE_UNITS,
    LINEAR_UNITS,
    DeformableTemplate,
    control_points,
)

SHAPE = (9, 12, 10)


def interior(shape=SHAPE, margin=2):
    inside = torch.zeros(shape, dtype=torch.bool)
    inside[tuple(slice(margin, side - margin) for side in shape)] = True
    return inside.flatten().nonzero().flatten()


def template(latent_dim=2, channels=1, shape=SHAPE, deformable=True, components=None, displacements=None, voxels=None):
    made = DeformableTemplate(latent_dim, (channels, *shape), deformable)
    voxels = interior(shape) if voxels is None else voxels
    components = torch.zeros(latent_dim, channels, len(voxels)) if components is None else components
    displacements = torch.zeros(made.displacements.shape) if displacements is None else displacements
    made.set_components(components, displacements, voxels)
    return made


def test_without_displacements_it_is_the_mean_plus_components():
    voxels = torch.tensor([3, 50, 51, 700])
    components, mean = torch.randn(2, 3, 4, generator=generator()), torch.rand(3, *SHAPE, generator=generator(1))
    made = template(channels=3, deformable=False, components=components, voxels=voxels)
    z = torch.tensor([[1.0, -2.0], [0.0, 0.5]])

    image = made(z, mean)

    expected = np.repeat(mean.flatten(1).numpy()[None], 2, axis=0)
    for number, voxel in enumerate(voxels):
        expected[:, :, voxel] += z.numpy() @ components[:, :, number].numpy()
    np.testing.assert_allclose(image.detach().flatten(2), expected, atol=1e-6)


def test_zero_displacements_change_nothing():
    components, mean = torch.randn(2, 1, len(interior()), generator=generator()), torch.rand(1, *SHAPE)
    z = torch.randn(3, 2, generator=generator(1))
    linear = template(deformable=False, components=components, displacements=torch.zeros(2, 3, 0, 0, 0))(z, mean)
    torch.testing.assert_close(template(components=components)(z, mean), linear, atol=1e-5, rtol=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_displacement_of_one_voxel_takes_the_neighbour(axis):
    mean = torch.rand(1, *SHAPE, generator=generator())
    displacements = torch.zeros(2, 3, *control_points(SHAPE))
    displacements[0, axis] = 1.0
    image = template(displacements=displacements)(torch.tensor([[1.0, 7.0]]), mean)[0]
    inner = tuple(slice(2, side - 2) for side in SHAPE)
    torch.testing.assert_close(image[0][inner], mean[0].roll(-1, axis)[inner], atol=1e-5, rtol=0)
    outside = torch.ones(SHAPE, dtype=torch.bool)
    outside[inner] = False
    assert torch.equal(image[0][outside], mean[0][outside])


@pytest.mark.parametrize("shape", [SHAPE, (14, 11)])
def test_against_scipy(shape):
    made = template(shape=shape)
    components = torch.randn(2, 1, len(made.voxels), generator=generator())
    displacements = torch.randn(made.displacements.shape, generator=generator(1))
    made = template(shape=shape, components=components, displacements=displacements)
    mean, z = torch.rand(1, *shape, generator=generator(2)), torch.tensor([[0.7, -0.4]])

    image = made(z, mean)[0, 0].detach().numpy()

    flat = mean.flatten().numpy().copy()
    flat[made.voxels] += z[0].numpy() @ components[:, 0].numpy()
    places = np.stack(np.unravel_index(made.voxels.numpy(), shape)).astype(float)
    controls = np.einsum("k,k...->...", z[0].numpy(), displacements.numpy())
    low, high = places.min(axis=1, keepdims=True), places.max(axis=1, keepdims=True)
    counts = np.array(controls.shape[1:])[:, None]
    inside = (places - low) / (high - low) * (counts - 1)
    field = np.stack([ndimage.map_coordinates(part, inside, order=1, mode="nearest") for part in controls])
    values = ndimage.map_coordinates(flat.reshape(shape), places + field, order=1, mode="nearest")
    expected = mean.flatten().numpy().copy()
    expected[made.voxels] = values
    np.testing.assert_allclose(image.ravel(), expected, atol=2e-5)


def test_gradients_reach_everything():
    made = template(components=torch.randn(2, 1, len(interior())))
    z = torch.randn(3, 2, requires_grad=True)
    made(z, torch.rand(1, *SHAPE)).square().sum().backward()
    for gradient in (z.grad, made.components.grad, made.displacements.grad):
        assert gradient.abs().max() > 0


def test_before_it_is_set_the_template_is_the_mean():
    mean = torch.rand(1, *SHAPE)
    assert DeformableTemplate(2, (1, *SHAPE), True)(torch.ones(3, 2), mean) is mean


@pytest.mark.parametrize("deformable", [True, False])
def test_an_empty_one_takes_its_sizes_from_a_state_dict(deformable):
    full = DeformableTemplate(2, (1, *SHAPE), deformable)
    full.set_components(torch.randn(2, 1, 30), torch.randn(full.displacements.shape), torch.arange(30) * 7)
    empty = DeformableTemplate(2, (1, *SHAPE), deformable)
    empty.load_state_dict(full.state_dict())
    z, mean = torch.randn(3, 2), torch.rand(1, *SHAPE)
    assert torch.equal(empty(z, mean), full(z, mean))
    assert {name for name, _ in empty.named_parameters()} == {"components", "displacements", "edges"}


@pytest.mark.parametrize("bad", ["beyond the grid", "another latent_dim", "components of other voxels"])
def test_a_state_dict_that_cannot_be_is_refused(bad):
    full = template()
    weights = full.state_dict()
    if bad == "beyond the grid":
        weights["voxels"] = weights["voxels"] + 1000
    elif bad == "another latent_dim":
        weights["components"] = torch.zeros(3, 1, len(weights["voxels"]))
    else:
        weights["components"] = torch.zeros(2, 1, 5)
    with pytest.raises(RuntimeError, match="size mismatch"):
        DeformableTemplate(2, (1, *SHAPE), True).load_state_dict(weights)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_torchscript_gives_the_same():
    made = template(components=torch.randn(2, 1, len(interior())), displacements=torch.randn(2, 3, 2, 2, 2))
    z, mean = torch.randn(3, 2), torch.rand(1, *SHAPE)
    assert torch.equal(torch.jit.script(made)(z, mean), made(z, mean))


def with_edges(shape=SHAPE, latent_dim=3, channels=2):
    """A template in float64 whose scans are cut off at three faces."""
    made = DeformableTemplate(latent_dim, (channels, *shape), True).double()
    voxels = interior(shape)
    edges = 0.3 * torch.randn(latent_dim, len(shape), 2, generator=generator(2)).double()
    mean_edges = no_edges(len(shape))
    mean_edges[0] = torch.tensor([1.2, shape[0] - 2.7])
    mean_edges[1, 1] = shape[1] - 3.3
    edges[:, mean_edges.abs() > 100] = 0.0
    components = torch.randn(latent_dim, channels, len(voxels), generator=generator())
    displacements = 0.3 * torch.randn(made.displacements.shape, generator=generator(1))
    made.set_components(components, displacements, voxels, edges, mean_edges)
    return made


@pytest.mark.parametrize("shape", [SHAPE, (14, 11)])
@pytest.mark.parametrize("kind", ["deformable", "linear", "cut off"])
def test_the_slope_is_autograds(shape, kind):
    if kind == "cut off":
        made = with_edges(shape)
    else:
        count = len(interior(shape))
        made = template(
            3, 2, shape, kind == "deformable", torch.randn(3, 2, count, generator=generator()).double()
        ).double()
    z = torch.randn(4, 3, generator=generator(3)).double().requires_grad_()
    mean = torch.rand(2, *shape, generator=generator(4)).double()
    images = torch.rand(4, 2, *shape, generator=generator(5)).double()

    (expected,) = torch.autograd.grad(-0.5 * (images - made(z, mean)).square().sum(), z)
    values, slope = made.energy_slope(z.detach(), mean, images)

    torch.testing.assert_close(slope, expected)
    assert slope.abs().max() > 1
    torch.testing.assert_close(values, made.varying_values(z, mean))
    image = made(z, mean)
    torch.testing.assert_close(values, image if kind == "cut off" else image.flatten(2)[:, :, made.voxels])


@pytest.mark.parametrize(("thinned", "scale"), [(1, 2), (2, 8)])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_slope_can_be_estimated_from_some_of_the_voxels(thinned, scale, weighted):
    shape = (20, 18, 16)
    voxels = interior(shape)
    made = template(3, shape=shape, components=torch.randn(3, 1, len(voxels), generator=generator()).double())
    made = made.double()
    z = torch.randn(4, 3, generator=generator(3)).double().requires_grad_()
    mean, images = torch.rand(1, *shape).double(), torch.rand(4, 1, *shape).double()
    weight = 0.5 + torch.rand(1, *shape).double()
    x, y, w = torch.unravel_index(voxels, shape)
    chosen = (x % 2 == 0) & ((y % 2 == 0) & (w % 2 == 0) | (thinned == 1))
    assert len(voxels) / int(chosen.sum()) == scale
    rest = ((images - made(z, mean)) * (weight if weighted else 1)).flatten(2)[:, :, voxels[chosen]]
    (expected,) = torch.autograd.grad(-0.5 * scale * rest.square().sum(), z)
    arguments = (mean, images, weight if weighted else None)
    values, slope = made.energy_slope(z.detach(), *arguments, thinned)
    torch.testing.assert_close(slope, expected)
    torch.testing.assert_close(values, made.varying_values(z.detach(), mean, arguments[2], thinned))
    there = images.flatten(2)[:, :, voxels[chosen]] * (weight.flatten(1)[:, voxels[chosen]] if weighted else 1)
    torch.testing.assert_close((there * scale**0.5 - values).square().sum(), scale * rest.square().sum())


def test_with_a_field_of_view_and_on_small_grids_slopes_are_those_of_all_voxels():
    for made in (with_edges((20, 18, 16)), template(3).double()):
        z = torch.randn(4, 3, generator=generator(3)).double()
        mean = torch.rand(made.shape, generator=generator(4)).double()
        images = torch.rand(4, *made.shape, generator=generator(5)).double()
        every, few = made.energy_slope(z, mean, images), made.energy_slope(z, mean, images, None, 2)
        assert torch.equal(every[0], few[0])
        assert torch.equal(every[1], few[1])


def test_edges_hide_what_is_beyond_them():
    made = with_edges()
    mean = torch.ones(2, *SHAPE).double()
    made.set_components(torch.zeros(3, 2, 4), 0 * made.displacements, torch.arange(4), made.edges, made.mean_edges)
    z = torch.tensor([[1.0, -0.5, 0.25]]).double()
    moved = made.mean_edges + torch.einsum("k,kaf->af", z[0], made.edges.detach())
    image = made(z, mean)[0, 0].detach().numpy()
    expected = np.ones(SHAPE)
    for axis, side in enumerate(SHAPE):
        place = np.arange(side)
        low, high = (float(edge) for edge in moved[axis])
        line = 1 / (1 + np.exp(4 * np.clip(low - place, -99, 99))) / (1 + np.exp(4 * np.clip(place - high, -99, 99)))
        expected *= line.reshape([-1 if other == axis else 1 for other in range(3)])
    np.testing.assert_allclose(image, expected, atol=1e-9)
    assert made.edges.requires_grad
    assert not template().edges.requires_grad


def test_edges_come_back_with_a_state_dict():
    full = with_edges().float()
    empty = DeformableTemplate(3, (2, *SHAPE), True)
    empty.load_state_dict(full.state_dict())
    z, mean = torch.randn(3, 3, generator=generator()), torch.rand(2, *SHAPE, generator=generator(1))
    assert torch.equal(empty(z, mean), full(z, mean))
    assert empty.edges.requires_grad


def test_weights_from_before_edges_still_load():
    full = template()
    older = {name: value for name, value in full.state_dict().items() if "edges" not in name}
    empty = DeformableTemplate(2, (1, *SHAPE), True)
    empty.load_state_dict(older)
    z, mean = torch.randn(3, 2, generator=generator()), torch.rand(1, *SHAPE, generator=generator(1))
    assert torch.equal(empty(z, mean), full(z, mean))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_torchscript_of_a_crop_gives_the_same():
    made = with_edges().float()
    z, mean = torch.randn(3, 3, generator=generator()), torch.rand(2, *SHAPE, generator=generator(1))
    assert torch.equal(torch.jit.script(made)(z, mean), made(z, mean))


@pytest.mark.parametrize(("deformable", "units"), [(True, DEFORMABLE_UNITS), (False, LINEAR_UNITS)])
def test_weights_are_stored_in_their_units(deformable, units):
    displacements = torch.full((2, 3, *control_points(SHAPE)), 0.8) if deformable else torch.zeros(2, 3, 0, 0, 0)
    components = torch.full((2, 1, len(interior())), 0.6)
    made = template(deformable=deformable, components=components, displacements=displacements)
    torch.testing.assert_close(made.components.detach(), components / units[0])
    torch.testing.assert_close(made.displacements.detach(), displacements / units[1])


def test_weights_without_units_are_of_the_first_release():
    displacements = 0.3 * torch.randn(2, 3, *control_points(SHAPE), generator=generator())
    components = torch.randn(2, 1, len(interior()), generator=generator(1))
    made = template(components=components, displacements=displacements)
    z, mean = torch.randn(3, 2, generator=generator(2)), torch.rand(1, *SHAPE, generator=generator(3))
    weights = {
        **made.state_dict(),
        "components": components / LINEAR_UNITS[0],
        "displacements": displacements / LINEAR_UNITS[1],
    }
    del weights["units"]
    again = template()
    again.load_state_dict(weights)
    torch.testing.assert_close(again(z, mean), made(z, mean))
    made.load_state_dict({}, strict=False)  # keeps its weights, and so its units
    torch.testing.assert_close(made(z, mean), again(z, mean))
    later = template()
    later.load_state_dict(again.state_dict())
    assert torch.equal(later(z, mean), again(z, mean))


@pytest.mark.parametrize("kind", ["bfloat16 autocast", "float64"])
def test_other_precisions_put_voxels_in_the_same_place(kind):
    shape = (60, 60, 60)
    line = torch.linspace(0, 1, 60)
    mean = (
        (line[:, None, None] + line[:, None] + line).expand(shape)[None].contiguous()
    )  # a ramp shows where a voxel comes from
    voxels = torch.arange(60**3)[::11]
    made = template(shape=shape, voxels=voxels, displacements=torch.full((2, 3, *control_points(shape)), 0.3))
    z = torch.tensor([[1.0, 0.5]])
    expected = made(z, mean).detach()
    assert (expected - mean).abs().max() > 0.01
    if kind == "float64":
        image = made.double()(z.double(), mean.double())
        assert image.dtype == torch.float64
    else:
        with torch.autocast("cpu", torch.bfloat16):
            image = made(z, mean)
    torch.testing.assert_close(image.detach().float(), expected, atol=1e-5, rtol=0)


def test_a_frozen_template_stays_frozen_when_it_takes_its_sizes():
    frozen = DeformableTemplate(2, (1, *SHAPE), True).requires_grad_(False)
    frozen.load_state_dict(template().state_dict())
    assert not any(weights.requires_grad for weights in frozen.parameters())
