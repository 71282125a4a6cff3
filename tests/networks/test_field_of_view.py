"""Boxes on a grid, balls that are no boxes, and what lies between."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_betavae.networks.field_of_view import (
    MIN_SIDE,
    cut_faces,
    edge_profiles,
    field_edges,
    has_edges,
    inside_indices,
    no_edges,
)


def box(sides, low, high, channels=1, batch=1, seed=0):
    """An image that is filled from ``low`` to ``high`` (inclusive) along each axis, with a few dark voxels."""
    image = torch.zeros(batch, channels, *sides)
    where = (..., *(slice(first, last + 1) for first, last in zip(low, high, strict=True)))
    values = torch.rand(image[where].shape, generator=torch.Generator().manual_seed(seed))
    image[where] = torch.where(values < 0.1, torch.zeros(()), 0.1 + values)
    return image


def ball(side=64, radius=25.0):
    axes = torch.meshgrid(*[torch.arange(side) - (side - 1) / 2] * 3, indexing="ij")
    return (sum(axis**2 for axis in axes) < radius**2).float()[None, None]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_edges_of_any_box_are_found(data):
    sides = data.draw(st.lists(st.integers(8, 20), min_size=2, max_size=3))
    low = [data.draw(st.integers(0, side - 6)) for side in sides]
    high = [data.draw(st.integers(first + 4, side - 1)) for first, side in zip(low, sides, strict=True)]
    found = field_edges(box(sides, low, high, channels=2, batch=2))
    expected = torch.tensor([[first - 0.5, last + 0.5] for first, last in zip(low, high, strict=True)])
    torch.testing.assert_close(found, expected.expand(2, -1, -1), atol=0, rtol=0)


def test_stray_voxels_are_no_edges():
    image = box((30, 30, 30), (5, 6, 7), (24, 25, 26))
    expected = field_edges(image)
    image[0, 0, 1, 2, 3] = image[0, 0, 28, 28, 28] = 1.0
    assert torch.equal(field_edges(image), expected)


def test_an_empty_image_is_one_box():
    assert field_edges(torch.zeros(1, 1, 6, 9))[0].tolist() == [[-0.5, 5.5], [-0.5, 8.5]]


def test_a_crop_is_cut_at_the_faces_inside_the_grid():
    faces = cut_faces(box((40, 40, 40), (5, 0, 3), (34, 30, 39)))
    assert faces.tolist() == [[True, True], [False, True], [True, False]]


def test_a_brain_is_not_cut_and_one_without_its_vertex_is_once():
    assert not cut_faces(ball()).any()
    lower = ball()
    lower[..., 44:] = 0.0
    assert cut_faces(lower).tolist() == [[False, False], [False, False], [False, True]]


def test_half_of_the_images_decide():
    cut, whole = box((40, 40), (5, 5), (34, 34)), box((40, 40), (0, 0), (39, 39))
    assert cut_faces(torch.cat([cut, whole])).all()
    assert not cut_faces(torch.cat([cut, whole, whole])).any()


def test_a_short_box_cannot_be_told_from_something_round():
    side = MIN_SIDE
    assert cut_faces(box((40, 40), (5, 5), (4 + side, 4 + side))).all()
    assert not cut_faces(box((40, 40), (5, 5), (3 + side, 3 + side))).any()


@pytest.mark.parametrize("sides", [(9,), (7, 8), (7, 8, 9)])
def test_voxels_outside_take_the_nearest_inside(sides):
    edges = torch.tensor([[1.5, side - 2.5] for side in sides])[None]
    voxels = torch.arange(int(np.prod(sides)))
    places = np.stack(np.unravel_index(voxels.numpy(), sides))
    nearest = [np.clip(place, 3, side - 4) for place, side in zip(places, sides, strict=True)]
    assert np.array_equal(inside_indices(edges, list(sides), voxels)[0].numpy(), np.ravel_multi_index(nearest, sides))


def test_edges_far_away_or_beyond_the_grid_change_no_voxel():
    voxels = torch.arange(56)
    assert torch.equal(inside_indices(no_edges(2)[None], [7, 8], voxels)[0], voxels)
    for profile in edge_profiles(no_edges(2)[None], [7, 8]):
        assert torch.equal(profile, torch.ones_like(profile))


def test_a_box_of_one_slice_is_still_an_index():
    assert inside_indices(torch.tensor([[[2.5, 3.5]]]), [8], torch.arange(8)).tolist() == [[4] * 8]


def test_a_step_is_a_half_at_the_edge_and_moves_with_it():
    low, high = edge_profiles(torch.tensor([[[2.0, 5.0]], [[3.0, 5.0]]]), [9])[0].unbind(1)
    assert low[0, 2] == 0.5
    assert torch.equal(low[0, :-1], low[1, 1:])
    torch.testing.assert_close(high[0], low[1].flip(0))  # 5 is as far from the end as 3 from the beginning
    # around an edge between two voxels, the step has the slope of partial volume: one per voxel
    fine = edge_profiles(torch.tensor([[[2.01, 90.0]]]), [9])[0][0, 0, 2]
    assert abs(float(0.5 - fine) / 0.01 - 1) < 0.01


def test_edges_within_reach_are_told_from_those_far_away():
    edges = no_edges(3)
    assert not has_edges(edges)
    edges[1, 0] = 4.0
    assert has_edges(edges)
    assert not has_edges(edges.to("meta"))
