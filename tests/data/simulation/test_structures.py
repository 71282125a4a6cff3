import numpy as np
import pytest

from monai_betavae.data.simulation.structures import Pocket, add_pocket, draw_structures, pocket_weight


def grid(step=1.0, half=20.0):
    axis = np.arange(-half, half + step, step, dtype=np.float32)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij")).reshape(3, -1)


@pytest.mark.parametrize("radii", [(8.0, 8.0, 8.0), (6.0, 12.0, 9.0)])
def test_volume_is_that_of_the_ellipsoid(radii):
    weight = pocket_weight(Pocket((1.0, -2.0, 0.5), radii), grid(), half_voxel=0.5)
    assert weight.sum() == pytest.approx(4 / 3 * np.pi * np.prod(radii), rel=0.03)
    assert weight.min() == 0
    assert weight.max() == 1


def test_weight_at_the_edge_is_one_half():
    pocket = Pocket((0.0, 0.0, 0.0), (6.0, 12.0, 9.0))
    edge = np.diag(np.array([6, 12, 9], np.float32))
    np.testing.assert_allclose(pocket_weight(pocket, edge, half_voxel=1.0), 0.5, atol=1e-5)


def test_tissue_turns_into_csf_and_nothing_gets_lost():
    before = {"gm": [0.5, 0.2, 0.0], "wm": [0.5, 0.0, 0.0], "csf": [0.0, 0.8, 0.0], "texture": [0.1, 0.1, 0.1]}
    tissues = {name: np.array(values, np.float32) for name, values in before.items()}
    gained = add_pocket(tissues, np.array([1.0, 0.5, 1.0], np.float32))
    np.testing.assert_allclose(gained, [1.0, 0.1, 0.0])
    np.testing.assert_allclose(tissues["csf"], [1.0, 0.9, 0.0])
    np.testing.assert_allclose(tissues["gm"], [0.0, 0.1, 0.0])
    np.testing.assert_allclose(sum(tissues[name] for name in ("gm", "wm", "csf")), [1.0, 1.0, 0.0])


def test_structures_are_drawn_as_often_as_promised_and_independently():
    drawn = [draw_structures(np.random.default_rng(seed)) for seed in range(3000)]
    has = {name: np.array([name in found for found in drawn]) for name in ("cavum", "cyst", "cisterna")}
    for name, share in (("cavum", 0.15), ("cyst", 0.08), ("cisterna", 0.1)):
        # four standard errors
        assert has[name].mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 3000))
    assert abs(np.corrcoef(has["cavum"], has["cisterna"])[0, 1]) < 4 / np.sqrt(3000)
    left = np.mean([found["cyst"].centre_mm[0] < 0 for found in drawn if "cyst" in found])
    assert left == pytest.approx(0.65, abs=0.13)
