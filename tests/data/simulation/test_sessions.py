from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from monai_betavae.data.simulation.anatomy import cohort_grid, warp_grid
from monai_betavae.data.simulation.cohort_texts import SESSION_COLUMNS
from monai_betavae.data.simulation.folded_subject import simulate_folded_subject
from monai_betavae.data.simulation.sessions import draw_session, session_columns
from monai_betavae.data.simulation.subject import simulate_subject
from monai_betavae.data.simulation.subject_factors import Factors, Nuisance, draw_nuisance, draw_subject

SPACING = 6.0


@pytest.fixture(scope="module")
def anatomy(warped_anatomy):
    return warped_anatomy


def test_the_first_session_is_the_scan_without_sessions():
    assert draw_session(3, 4, 0) == draw_nuisance(3, 4)


def test_later_sessions_keep_the_anatomy_and_change_the_scan():
    first, second, third = (draw_session(3, 4, number) for number in range(3))
    for later in (second, third):
        for name in ("tilt_degrees", "shift_mm", "stretch", "deformation_mm", "seed", "subject"):
            assert getattr(later, name) == getattr(first, name)
        for name in ("deformation", "lesion", "sulci", "strip_outline"):
            assert (later.stream(name).random(3) == first.stream(name).random(3)).all()
        for name in ("bias", "noise"):
            assert (later.stream(name).random(3) != first.stream(name).random(3)).all()
    assert second != replace(third, session=1)
    assert session_columns(second).keys() == SESSION_COLUMNS.keys()


def test_movement_and_intensity_are_small():
    drawn = [draw_session(0, subject, 1) for subject in range(300)]
    turned, moved = (np.array([getattr(scan, name) for scan in drawn]) for name in ("turn_degrees", "move_mm"))
    assert turned.std() == pytest.approx(2.5, rel=0.08)
    assert moved.std() == pytest.approx(1.5, rel=0.08)
    assert np.abs(moved).max() <= 3.75
    exponents = np.array([scan.exponent for scan in drawn])
    assert np.log(exponents).std() == pytest.approx(0.03, rel=0.15)
    for scan in drawn:
        assert 0.02 <= scan.bias <= 0.06
        assert 0.01 <= scan.noise <= 0.025


def rotation(degrees):
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def moved_back(image, nuisance):
    """Return a session's image on the grid of the first one, by the movement that its columns give."""
    _, affine = cohort_grid(SPACING)
    centre = np.array([0.0, -25.0, 0.0])
    turn = np.eye(4)
    turn[:3, :3] = rotation(nuisance.turn_degrees)
    turn[:3, 3] = centre + nuisance.move_mm - turn[:3, :3] @ centre
    voxels = np.linalg.inv(affine) @ turn @ affine
    return ndimage.affine_transform(image.astype(float), voxels[:3, :3], voxels[:3, 3], order=3)


@pytest.mark.parametrize("subject", [0, 1, 2])
def test_a_session_differs_by_the_movement_that_is_told(anatomy, subject):
    factors, _ = draw_subject(8, subject, lesion=False)
    first, later = (
        replace(draw_session(8, subject, number), noise=0.0, bias=0.0, gain=900.0, exponent=1.0) for number in (0, 1)
    )
    one, two = (simulate_subject(anatomy, factors, nuisance, spacing=SPACING) for nuisance in (first, later))
    inside = ndimage.binary_erosion(one.volume > 300, iterations=2)

    def difference(image):
        # smoothed, since interpolation between voxels is what would remain
        return np.abs(ndimage.gaussian_filter(one.volume - image.astype(float), 1.0))[inside].mean()

    assert difference(moved_back(two.volume, later)) < 0.3 * difference(two.volume)
    for name in ("brain_ml", "gm_ml", "wm_ml", "ventricle_ml"):
        assert two.truth[name] == pytest.approx(one.truth[name], rel=0.01)


def test_a_head_that_moved_is_the_same_in_the_template(anatomy):
    shape, affine = cohort_grid(SPACING)
    nuisance = replace(draw_session(1, 0, 1), stretch=(1.0, 1.0, 1.0), deformation_mm=0.0)
    warp = warp_grid(anatomy, shape, affine, Factors(), nuisance)
    first = warp_grid(anatomy, shape, affine, Factors(), replace(nuisance, turn_degrees=(0, 0, 0), move_mm=(0, 0, 0)))
    assert first.head is None
    # the position in the first session of what a voxel shows, computed here
    centre = np.array([0.0, -25.0, 0.0])[:, None]
    back = rotation(nuisance.turn_degrees).T @ (warp.scanner - centre - np.array(nuisance.move_mm)[:, None]) + centre
    np.testing.assert_allclose(warp.head, back, atol=1e-3)
    assert warp.in_head is warp.head
    some = warp.only(warp.voxels % 2 == 0)
    np.testing.assert_array_equal(some.head, warp.head[:, warp.voxels % 2 == 0])


def test_a_lesion_stays_where_it_is_in_the_head(anatomy):
    factors = Factors(lesion=12.0, lesion_intensity=0.8)
    scans = {number: draw_session(8, 3, number) for number in (0, 1)}
    masks = {
        number: simulate_subject(anatomy, factors, nuisance, spacing=SPACING).lesion_mask
        for number, nuisance in scans.items()
    }
    back = moved_back(masks[1], scans[1]) > 0.5
    overlap = 2 * (back & (masks[0] == 1)).sum() / (back.sum() + masks[0].sum())
    # masks of whole voxels of 6 mm that lie otherwise
    assert overlap > 0.6
    assert masks[1].sum() == pytest.approx(masks[0].sum(), rel=0.1)


def test_sessions_of_a_folded_brain_have_its_sulci(folded_anatomy):
    factors, _ = draw_subject(8, 0, lesion=False)
    one, two = (
        simulate_folded_subject(folded_anatomy, factors, nuisance=draw_session(8, 0, number), spacing=SPACING)
        for number in (0, 1)
    )
    for name in ("brain_ml", "ventricle_ml", "sulcal_csf_ml", "own_sulci_ml", "sulcal_depth_mm"):
        assert two.truth[name] == pytest.approx(one.truth[name], rel=0.05)


def test_without_movement_nothing_is_moved(anatomy):
    same = Nuisance(session=1, turn_degrees=(0.0, 0.0, 0.0), move_mm=(0.0, 0.0, 0.0))
    one, two = (simulate_subject(anatomy, Factors(), nuisance, spacing=SPACING) for nuisance in (Nuisance(), same))
    np.testing.assert_array_equal(one.volume, two.volume)
