from dataclasses import replace

import numpy as np
import pytest

from monai_betavae.data.simulation.anatomy import (
    FIELD_CENTRE_MM,
    TYPICAL_SCALE,
    cohort_grid,
    load_anatomy,
    sample_tissues,
    smooth_noise,
    warp_grid,
)
from monai_betavae.data.simulation.subject_factors import Factors, Nuisance, draw_nuisance

# no factor moves anything away from the template
TEMPLATE = Factors(brain_size=TYPICAL_SCALE**-3, ventricles=1.0, atrophy=0.0)
SPACING = 4.0
SHAPE, AFFINE = cohort_grid(SPACING)


@pytest.fixture(scope="module")
def anatomy():
    return load_anatomy(SPACING)


@pytest.mark.parametrize(
    ("spacing", "shape"), [(3.0, (64, 80, 64)), (1.0, (192, 240, 192)), (8.0, (24, 30, 24)), (7.0, (28, 35, 28))]
)
def test_grid_covers_the_field_of_view_around_its_centre(spacing, shape):
    got, affine = cohort_grid(spacing)
    assert got == shape
    assert np.diag(affine).tolist() == [spacing, spacing, spacing, 1]
    np.testing.assert_allclose(affine @ [*(np.array(shape) - 1) / 2, 1], [*FIELD_CENTRE_MM, 1])


def test_grid_is_mirror_symmetric_about_the_midline():
    np.testing.assert_allclose(AFFINE[0, 3], -(AFFINE[0, 3] + SPACING * (SHAPE[0] - 1)))


def test_tissues_add_up_to_the_mask_of_the_template(anatomy):
    millilitres = {name: values.sum(dtype=float) / 1000 for name, values in anatomy.maps.items()}
    # 1886.5 ml is the volume of the voxels in which the T1 template is not 0
    assert millilitres["gm"] + millilitres["wm"] + millilitres["csf"] == pytest.approx(1886.5, rel=1e-3)
    assert millilitres["gm"] == pytest.approx(996.6, rel=1e-3)
    assert millilitres["wm"] == pytest.approx(670.1, rel=2e-3)


def test_ventricles_are_the_lateral_ones(anatomy):
    ventricle = anatomy.maps["ventricle"]
    positions = np.argwhere(ventricle > 0.3) + anatomy.origin
    assert 15 < ventricle.sum(dtype=float) / 1000 < 22
    # frontal horns in front, atria behind, nothing in the cisterns below or near the cortex
    low, high = positions.min(axis=0), positions.max(axis=0)
    assert (low > [-45, -60, -16]).all()
    assert (high < [45, 40, 38]).all()
    assert high[0] > 25
    assert high[1] > 22
    assert low[1] < -45


def test_template_is_mirror_symmetric(anatomy):
    for values in anatomy.maps.values():
        np.testing.assert_allclose(values, values[::-1], atol=1e-5)


def test_atrophy_removes_no_more_grey_matter_than_there_is(anatomy):
    left = anatomy.maps["gm"] - anatomy.maps["rim_0"] - anatomy.maps["rim_1"]
    assert left.min() > -1e-5


def test_without_any_factor_the_warp_is_the_identity(anatomy):
    warp = warp_grid(anatomy, SHAPE, AFFINE, TEMPLATE, Nuisance())
    np.testing.assert_allclose(warp.template, warp.scanner, atol=1e-3)
    tissues = sample_tissues(anatomy, warp, atrophy=0.0)
    total = sum(float(tissues[name].sum()) for name in ("gm", "wm", "csf")) * SPACING**3 / 1000
    assert total == pytest.approx(1886.5, rel=2e-3)


def test_positions_are_those_of_the_affine(anatomy):
    warp = warp_grid(anatomy, SHAPE, AFFINE, TEMPLATE, Nuisance())
    index = np.stack(np.unravel_index(warp.voxels, SHAPE))
    np.testing.assert_allclose(warp.scanner, AFFINE[:3, :3] @ index + AFFINE[:3, 3:], atol=1e-4)


def test_brain_size_is_a_scale_of_volume(anatomy):
    warp = warp_grid(anatomy, SHAPE, AFFINE, replace(TEMPLATE, brain_size=1.2 * TEMPLATE.brain_size), Nuisance())
    np.testing.assert_allclose(warp.template * 1.2 ** (1 / 3), warp.scanner, atol=1e-3)


def test_tilt_and_shift_move_the_head_rigidly(anatomy):
    # turned by 90 degrees about z through (0, -25, 0): what is 40 mm to the right comes to lie 40 mm ahead
    moved = Nuisance(tilt_degrees=(0, 0, 90), shift_mm=(2, 0, 0))
    warp = warp_grid(anatomy, SHAPE, AFFINE, TEMPLATE, moved)
    expected = np.stack([warp.scanner[1] + 25, -(warp.scanner[0] - 2) - 25, warp.scanner[2]])
    np.testing.assert_allclose(warp.template, expected, atol=1e-3)


def test_asymmetry_moves_only_left_and_right(anatomy):
    plain = warp_grid(anatomy, SHAPE, AFFINE, TEMPLATE, Nuisance())
    warp = warp_grid(anatomy, SHAPE, AFFINE, replace(TEMPLATE, asymmetry=0.05), Nuisance())
    assert (warp.voxels == plain.voxels).all()
    np.testing.assert_allclose(warp.template[1:], plain.template[1:], atol=1e-3)
    # |x| with a rounded tip: 0.05 * (sqrt(62² + 2²) - 2) = 3.001612, 0.05 * (sqrt(2² + 2²) - 2) = 0.041421
    for side, template in ((-62, -65.001612), (2, 1.958579), (62, 58.998388)):
        np.testing.assert_allclose(warp.template[0][np.isclose(warp.scanner[0], side)], template, atol=1e-3)


def test_ventricles_push_the_tissue_beside_them_and_leave_the_outline(anatomy):
    plain = warp_grid(anatomy, SHAPE, AFFINE, TEMPLATE, Nuisance())
    warp = warp_grid(anatomy, SHAPE, AFFINE, replace(TEMPLATE, ventricles=2.5), Nuisance())
    moved = np.linalg.norm(warp.template - plain.template, axis=0)
    beside = np.linalg.norm(plain.scanner - np.array([[14], [-10], [22]]), axis=0) < 12
    far = np.linalg.norm(plain.scanner - np.array([[0], [-15], [15]]), axis=0) > 75
    assert moved[beside].max() > 3
    assert moved[far].max() < 0.5
    tissues = sample_tissues(anatomy, warp, 0.0)
    before = sample_tissues(anatomy, plain, 0.0)
    # a little less than 2.5: the maps are smoothed for 4 mm voxels, and what spills over the edge does not grow
    assert 2.25 < tissues["ventricle"].sum() / before["ventricle"].sum() < 2.5


@pytest.mark.parametrize("subject", range(4))
@pytest.mark.parametrize("ventricles", [0.6, 3.0])
def test_no_warp_folds(anatomy, subject, ventricles):
    factors = Factors(brain_size=1.2, ventricles=ventricles, asymmetry=0.075)
    nuisance = replace(draw_nuisance(7, subject), deformation_mm=1.5)
    warp = warp_grid(anatomy, SHAPE, AFFINE, factors, nuisance)
    field = np.full((3, np.prod(SHAPE)), np.nan)
    field[:, warp.voxels] = warp.template
    field = field.reshape(3, *SHAPE)
    gradient = np.stack([np.stack(np.gradient(axis, SPACING)) for axis in field])
    jacobian = np.moveaxis(gradient, (0, 1), (-2, -1)).reshape(-1, 3, 3)
    volume = np.linalg.det(jacobian[np.isfinite(jacobian).all(axis=(1, 2))])
    assert volume.size > 10000
    # 0 is a fold; the inside of the widest ventricles is stretched up to ten times in volume
    assert volume.min() > 0.05


def test_smooth_noise_has_unit_variance_and_the_width_asked_for():
    # smoothing white noise with a Gaussian of width w gives the autocorrelation exp(-d² / 4w²)
    width = 8.0
    x, y, z = np.meshgrid(np.arange(-90, 91, 4.0), np.arange(-130, 101, 4.0), np.arange(-88, 93, 4.0), indexing="ij")
    position = np.stack([x.ravel(), y.ravel(), z.ravel()]).astype(np.float32)
    field = smooth_noise(np.random.default_rng(0), position, width, 2.0).reshape(x.shape)
    assert field.std() == pytest.approx(1, abs=0.05)
    assert abs(field.mean()) < 0.1
    for steps in (1, 2, 4):
        got = np.corrcoef(field[steps:].ravel(), field[:-steps].ravel())[0, 1]
        assert got == pytest.approx(np.exp(-((4 * steps) ** 2) / (4 * width**2)), abs=0.05)
