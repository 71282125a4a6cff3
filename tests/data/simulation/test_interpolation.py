import numpy as np
import pytest
from scipy import ndimage

from monai_betavae.data.simulation.interpolation import interpolate


def test_a_map_that_is_linear_in_each_axis_comes_back_exactly():
    x, y, z = np.indices((4, 5, 6)).astype(np.float32)
    maps = np.stack([x + 2 * y - z, x * y * z], axis=-1)
    at = np.array([[0, 3, 1.25, 2.5], [0, 4, 3.5, 0.75], [0, 5, 4.75, 2.0]], np.float32)
    a, b, c = at
    np.testing.assert_allclose(interpolate(maps, at), [a + 2 * b - c, a * b * c], rtol=1e-5)


@pytest.mark.parametrize("n_maps", [1, 7])
def test_same_as_scipy_inside_and_outside(n_maps):
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((7, 6, 5, n_maps), dtype=np.float32)
    at = rng.uniform(-3, 9, (3, 500)).astype(np.float32)
    got = interpolate(maps, at)
    assert got.dtype == np.float32
    for number in range(n_maps):
        expected = ndimage.map_coordinates(maps[..., number], at, order=1, mode="nearest")
        np.testing.assert_allclose(got[number], expected, atol=1e-5)
