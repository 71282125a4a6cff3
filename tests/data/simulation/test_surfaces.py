import numpy as np
import pytest

from monai_betavae.data.simulation.surfaces import fill_surface, load_hemisphere

# a regular octahedron: corners at distance 1 along each axis, faces counterclockwise from outside
CORNERS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
FACES = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])


def test_inside_of_an_octahedron_is_what_its_formula_says():
    centre, radius = np.array([10.3, 9.8, 11.1]), 7.45
    filled = fill_surface(CORNERS * radius + centre, FACES, (20, 20, 22))
    away = sum(np.abs(np.indices(filled.shape)[axis] - centre[axis]) for axis in range(3))
    # the surface is shifted by up to 0.0003 voxels along the diagonal
    clear = np.abs(away - radius) > 1e-3
    np.testing.assert_array_equal(filled[clear], (away < radius)[clear])
    assert filled.sum() == pytest.approx(4 / 3 * radius**3, rel=0.03)


def test_columns_through_corners_and_edges_are_counted_once():
    filled = fill_surface(CORNERS * 5 + 8, FACES, (17, 17, 17))
    away = np.abs(np.indices(filled.shape) - 8).sum(axis=0)
    assert filled[away < 4.9].all()
    assert not filled[away > 5.1].any()


def test_a_cavity_is_outside():
    vertices = np.concatenate([CORNERS * 8 + 10, CORNERS * 3 + 10])
    # turned inside out, the inner surface bounds a hole
    faces = np.concatenate([FACES, FACES[:, ::-1] + len(CORNERS)])
    filled = fill_surface(vertices, faces, (21, 21, 21))
    away = np.abs(np.indices(filled.shape) - 10).sum(axis=0)
    assert not filled[away < 2.9].any()
    assert filled[(away > 3.1) & (away < 7.9)].all()


@pytest.mark.parametrize(("side", "sign"), [("left", -1), ("right", 1)])
def test_hemispheres_have_their_side_and_volume(side, sign):
    hemisphere = load_hemisphere(side)
    assert hemisphere.vertices.shape == (10242, 3)
    assert hemisphere.triangles.shape == (20480, 3)
    assert sign * hemisphere.vertices[:, 0].mean() > 20
    # the divergence theorem: a sixth of the triple products of the triangles' corners
    corners = hemisphere.vertices[hemisphere.triangles]
    volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    origin = np.array([-80, -115, -80])
    filled = fill_surface(hemisphere.vertices - origin, hemisphere.triangles, (161, 197, 171))
    assert filled.sum() == pytest.approx(volume, rel=0.002)
    # no cortex on the medial wall
    bare = hemisphere.vertices[hemisphere.thickness < 0.3]
    assert 0.02 < len(bare) / 10242 < 0.06
    assert np.abs(bare[:, 0]).mean() < 15
