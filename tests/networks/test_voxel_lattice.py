import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seeded_draws import generator

from monai_betavae.networks.voxel_lattice import VoxelLattice, interpolation_weights


def some_voxels(shape, margin=1):
    """Voxels of a box with holes."""
    inside = torch.zeros(shape, dtype=torch.bool)
    inside[tuple(slice(margin, side - margin) for side in shape)] = True
    inside &= torch.rand(shape, generator=generator()) < 0.8
    inside[tuple([margin] * len(shape))] = inside[tuple(side - margin - 1 for side in shape)] = True
    return inside.flatten().nonzero().flatten()


def lattice(shape, steps, minimum=0):
    made = VoxelLattice(len(shape))
    made.choose(some_voxels(shape), shape, steps, minimum)
    return made


@given(st.integers(1, 300), st.integers(2, 12))
@settings(max_examples=50, deadline=None)
def test_interpolation_weights_are_a_partition_of_one_and_exact_for_lines(side, n_controls):
    weights = interpolation_weights(side, n_controls, torch.device("cpu"), torch.float64)
    assert weights.shape == (side, n_controls)
    torch.testing.assert_close(weights.sum(1), torch.ones(side, dtype=torch.float64))
    line = weights @ torch.arange(n_controls, dtype=torch.float64)
    torch.testing.assert_close(line, torch.linspace(0, n_controls - 1, side, dtype=torch.float64))


@pytest.mark.parametrize(("shape", "steps"), [((9, 8, 11), (2, 2, 2)), ((9, 8, 11), (2, 1, 1)), ((13, 10), (2, 2))])
def test_interpolation_gives_the_same_at_the_lattices_voxels_as_at_all(shape, steps):
    every, some = lattice(shape, [1] * len(shape)), lattice(shape, steps)
    controls = torch.randn(2, 3, *([4, 3, 5][: len(shape)]), generator=generator(1)).double()
    everywhere = torch.zeros(2, 3, math.prod(shape)).double()
    everywhere[:, :, every.voxels] = every.interpolated(controls)
    torch.testing.assert_close(some.interpolated(controls), everywhere[:, :, some.voxels])
    assert len(some.voxels) < len(every.voxels)


def test_the_lattices_voxels_are_at_every_second_position_of_the_box():
    shape = (9, 8, 11)
    every, some = lattice(shape, (1, 1, 1)), lattice(shape, (2, 1, 2))
    assert some.corner == [1, 1, 1]
    assert some.box == [7, 6, 9]
    assert some.sides == [4, 6, 5]
    x, _y, z = torch.unravel_index(every.voxels, shape)
    expected = every.voxels[((x - 1) % 2 == 0) & ((z - 1) % 2 == 0)]
    assert torch.equal(some.voxels, expected)
    assert some.scale == len(every.voxels) / len(expected)
    image = torch.randn(2, 1, *shape, generator=generator())
    assert torch.equal(some.picked(image), image.flatten(2)[:, :, expected])


@pytest.mark.parametrize(("shape", "steps"), [((9, 8, 11), (2, 2, 2)), ((9, 8, 11), (1, 1, 1)), ((13, 10), (2, 1))])
def test_spread_is_the_transpose_of_interpolated(shape, steps):
    made, n_controls = lattice(shape, steps), [4, 3, 5][: len(shape)]
    controls = torch.randn(2, 3, *n_controls, generator=generator(1)).double()
    values = torch.randn(2, 3, len(made.voxels), generator=generator(2)).double()
    there = (made.interpolated(controls) * values).sum()
    torch.testing.assert_close((made.spread(values, n_controls) * controls).sum(), there)


def test_a_lattice_keeps_at_least_so_many_voxels_if_there_are():
    shape = (9, 8, 11)
    counts = {steps: len(lattice(shape, steps).voxels) for steps in ((1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2))}
    found = {
        minimum: lattice(shape, (2, 2, 2), minimum).steps
        for minimum in (counts[2, 2, 2], counts[2, 2, 2] + 1, counts[2, 2, 1] + 1, counts[1, 1, 1] + 1)
    }
    assert list(found.values()) == [[2, 2, 2], [2, 2, 1], [2, 1, 1], [1, 1, 1]]
