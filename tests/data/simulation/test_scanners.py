from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unmoved_warps import VOXEL_MM, warp_of

from monai_betavae.data.simulation.anatomy import FIELD_CENTRE_MM
from monai_betavae.data.simulation.rendering import scan
from monai_betavae.data.simulation.scanners import (
    Scanner,
    blurred,
    distortion,
    distortion_of,
    draw_scanner,
    response,
    site_bias_field,
)
from monai_betavae.data.simulation.subject_factors import Nuisance

SHAPE = (32, 32, 32)


def test_a_site_follows_from_seed_and_name():
    assert draw_scanner(0, "site-A") == draw_scanner(0, "site-A")
    others = [draw_scanner(0, "site-B"), draw_scanner(1, "site-A")]
    for field in fields(Scanner):
        if field.name not in ("seed", "site", "slice_axis"):
            assert all(getattr(draw_scanner(0, "site-A"), field.name) != getattr(other, field.name) for other in others)


def test_sites_stay_in_the_ranges_of_the_documentation():
    for seed in range(60):
        scanner = draw_scanner(seed, "site-C")
        assert 0.5 <= scanner.in_plane_mm <= 2.5
        assert scanner.in_plane_mm <= scanner.slice_mm <= 6
        assert 0.6 <= scanner.noise_scale <= 2.5
        assert 0.5 <= scanner.bias_scale <= 2
        assert 0.03 <= scanner.site_bias <= 0.12
        assert 0.3 <= scanner.distortion_mm <= 1.2


@given(st.floats(0.8, 1.25), st.floats(-0.25, 0.35))
def test_response_keeps_black_and_white_and_order(exponent, bend):
    signal = np.linspace(0, 1.2, 50, dtype=np.float32)
    mapped = response(signal, Scanner(exponent=exponent, bend=bend))
    assert mapped[0] == 0
    assert response(np.ones(1, np.float32), Scanner(exponent=exponent, bend=bend))[0] == pytest.approx(1, abs=1e-6)
    assert (np.diff(mapped) > 0).all()


def test_response_has_the_value_of_the_formula():
    assert response(np.full(1, 0.5, np.float32), Scanner(exponent=2.0, bend=0.5))[0] == pytest.approx(
        (0.5 * 1.5 / 1.25) ** 2
    )
    plain = np.linspace(0, 1, 5, dtype=np.float32)
    assert response(plain, Scanner()) is plain


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_point_spread_has_the_widths_asked_for(axis):
    away = VOXEL_MM * (np.arange(32) - 16)
    # a smooth spot, since a point would have side lobes; variances add up
    profile = np.exp(-(away**2) / (2 * 5.0**2))
    spot = profile[:, None, None] * profile[None, :, None] * profile
    full = np.ones(spot.size, np.float32)
    scanner = Scanner(in_plane_mm=2.0, slice_mm=6.0, slice_axis=axis)
    seen = blurred(spot.ravel().astype(np.float32), full, warp_of(SHAPE), SHAPE, VOXEL_MM, scanner)
    seen = seen.reshape(SHAPE).astype(float)
    assert seen.sum() == pytest.approx(spot.sum(), rel=1e-3)
    for number, name in enumerate("xyz"):
        along = seen.sum(axis=tuple(other for other in range(3) if other != number))
        variance = (along * away**2).sum() / along.sum() - (profile * away**2).sum() / profile.sum()
        assert 2.3548 * np.sqrt(variance) == pytest.approx(6 if name == axis else 2, rel=0.03)


def test_point_spread_leaves_flat_signal_and_the_edge_of_the_brain_alone():
    inside = np.zeros(SHAPE, np.float32)
    inside[8:24, 8:24, 8:24] = 1
    signal = 0.7 * inside.ravel()
    seen = blurred(signal, inside.ravel(), warp_of(SHAPE), SHAPE, VOXEL_MM, Scanner(in_plane_mm=5.0, slice_mm=6.0))
    np.testing.assert_allclose(seen, signal, atol=1e-4)
    assert blurred(signal, inside.ravel(), warp_of(SHAPE), SHAPE, VOXEL_MM, Scanner()) is signal


def test_distortion_is_cubic_and_as_large_as_asked():
    rng = np.random.default_rng(0)
    ball = rng.standard_normal((3, 20000))
    ball *= 80 * rng.random(20000) ** (1 / 3) / np.linalg.norm(ball, axis=0)
    centre = np.array(FIELD_CENTRE_MM)[:, None]
    scanner = Scanner(site="site-A", distortion_mm=0.9)
    moved = distortion((ball + centre).astype(np.float32), scanner)
    assert np.sqrt((moved**2).sum(axis=0).mean()) == pytest.approx(0.9, rel=0.05)
    halfway = distortion((ball / 2 + centre).astype(np.float32), scanner)
    np.testing.assert_allclose(8 * halfway, moved, atol=1e-3)
    assert distortion_of(None) is None
    assert distortion_of(Scanner()) is None


def test_distortion_never_folds():
    step = np.linspace(-75, 75, 16, dtype=np.float32)
    centre = np.array(FIELD_CENTRE_MM, np.float32)[:, None]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(step, step, step, indexing="ij")])
    inside = np.linalg.norm(grid, axis=0) < 80
    for seed in range(10):
        scanner = draw_scanner(seed, "site-B")
        columns = []
        for axis in range(3):
            after = grid.copy()
            after[axis] += 1
            columns.append(distortion(after + centre, scanner) - distortion(grid + centre, scanner))
        jacobian = np.eye(3)[:, :, None] + np.stack(columns, axis=1)
        volume = np.linalg.det(np.moveaxis(jacobian, -1, 0))[inside]
        assert (volume > 0.6).all()
        assert (volume < 1.5).all()


def test_scans_of_a_site_have_its_noise_its_bias_and_no_more():
    ones = np.ones(np.prod(SHAPE), np.float32)
    nuisance = Nuisance(noise=0.02, bias=0.03, gain=10000)

    def seen(scanner, **changes):
        return scan(ones, ones, warp_of(SHAPE), SHAPE, nuisance, scanner, VOXEL_MM).astype(float)

    plain = seen(None)
    np.testing.assert_array_equal(seen(Scanner()), plain)
    quiet, loud = seen(Scanner(noise_scale=0.5)), seen(Scanner(noise_scale=2.0))
    noise = [np.diff(image, axis=0).std() for image in (quiet, loud)]
    assert noise[1] / noise[0] == pytest.approx(4, rel=0.05)
    scanner = Scanner(site="site-A", site_bias=0.1)
    ratio = np.log(seen(scanner) / plain).ravel()
    field = site_bias_field(warp_of(SHAPE).scanner, scanner)
    # the noise of both is the same, so that little of it is left in the ratio
    assert np.corrcoef(ratio, field)[0, 1] > 0.99
    assert (ratio - field).std() < 0.005
