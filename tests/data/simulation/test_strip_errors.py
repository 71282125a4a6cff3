import numpy as np
import pytest

from monai_betavae.data.simulation.strip_errors import StripError, draw_strip_error, strip_error_weight

# a half space: the brain is where z < 0
AXIS = np.arange(-40, 41, 1.0, dtype=np.float32)
POSITION = np.stack(np.meshgrid(AXIS, AXIS, np.arange(-12, 13, 1.0, dtype=np.float32), indexing="ij")).reshape(3, -1)
MARGIN = -POSITION[2]
SITES = np.array([[0, 0, 0], [30, 0, 0]], np.float32)


def weight(seed=0, **arguments):
    error = StripError(**({"kind": "dura", "radius_mm": 20.0, "thickness_mm": 4.0} | arguments))
    return strip_error_weight(error, SITES, POSITION, MARGIN, 0.5, np.random.default_rng(seed))


def test_no_error_changes_nothing():
    assert (weight(kind="none") == 0).all()


def test_dura_lies_outside_and_a_bite_inside():
    dura, bite = weight(), weight(kind="bite")
    assert (dura[MARGIN >= 1] == 0).all()
    assert (dura[MARGIN <= -5] == 0).all()
    assert dura.max() == 1
    assert (bite[MARGIN >= 5] == 0).all()
    # what lies outside of the brain beside the bite is not kept either
    assert bite[MARGIN <= 0].max() == 1


def test_a_patch_is_as_large_as_asked_and_irregular():
    # a disc of 20 mm that is 4 mm thick, whose edge moves in and out by 5 mm
    small, large = weight(radius_mm=10.0), weight(radius_mm=20.0)
    assert large.sum() == pytest.approx(np.pi * (20**2 + 5**2) * 4, rel=0.3)
    assert 2 < large.sum() / small.sum() < 6
    away = np.hypot(POSITION[0], POSITION[1])[np.isclose(MARGIN, -2)]
    at_two = large[np.isclose(MARGIN, -2)]
    # a disc would hold every voxel nearer than its farthest one
    assert away[at_two > 0.5].max() > 1.15 * away[at_two < 0.5].min()


def test_site_chooses_the_place():
    first, second = weight(site=0.0), weight(site=0.99)
    assert abs((first * POSITION[0]).sum() / first.sum()) < 8
    assert (second * POSITION[0]).sum() / second.sum() > 18


def test_errors_are_drawn_as_often_as_promised():
    drawn = [draw_strip_error(np.random.default_rng(seed)) for seed in range(3000)]
    kinds = [error.kind for error in drawn]
    for kind, share in (("dura", 0.12), ("bite", 0.08), ("none", 0.8)):
        assert kinds.count(kind) / 3000 == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 3000))
    # what the rest of the module counts on: nothing reaches farther than 7 mm outside
    assert max(error.thickness_mm for error in drawn if error.kind == "dura") < 7
