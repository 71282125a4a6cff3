import numpy as np
import pytest
from scipy import ndimage
from unmoved_warps import VOXEL_MM, warp_of

from monai_betavae.data.simulation.anatomy import Anatomy
from monai_betavae.data.simulation.rendering import add_lesion, place_lesion, render_signal, scan
from monai_betavae.data.simulation.subject_factors import Factors, Nuisance

SHAPE = (24, 24, 24)


def anatomy_with(site):
    nothing = np.zeros(0)
    return Anatomy({}, nothing, nothing > 0, nothing.astype(np.float32), nothing, np.array([site], np.float32))


def test_pure_tissues_have_the_intensities_of_the_formula():
    names = ("wm", "gm", "csf", "texture")
    tissues = dict(zip(names, np.eye(4, dtype=np.float32), strict=True))
    np.testing.assert_allclose(render_signal(tissues, contrast=0.25), [1, 0.75, 0.3, 1], rtol=1e-6)


def test_signal_is_never_negative():
    tissues = {name: np.zeros(1, np.float32) for name in ("wm", "gm", "csf")} | {"texture": np.full(1, -1, np.float32)}
    assert render_signal(tissues, 0.2).tolist() == [0]


def test_lesion_goes_part_of_the_way_to_csf():
    signal = np.ones(3, np.float32)
    weight = np.array([0, 0.5, 1], np.float32)
    np.testing.assert_allclose(add_lesion(signal, weight, 1.0), [1, 0.65, 0.3], rtol=1e-6)
    np.testing.assert_allclose(add_lesion(signal, weight, 0.1), [1, 0.965, 0.93], rtol=1e-6)


def test_scan_without_nuisance_is_the_signal_times_the_gain():
    signal = np.linspace(0, 1, np.prod(SHAPE), dtype=np.float32)
    image = scan(signal, np.ones_like(signal), warp_of(SHAPE), SHAPE, Nuisance(gain=800))
    assert image.dtype == np.int16
    np.testing.assert_array_equal(image.ravel(), np.rint(800 * signal))


def test_noise_is_rician():
    zeros, ones = np.zeros(np.prod(SHAPE), np.float32), np.ones(np.prod(SHAPE), np.float32)
    nuisance = Nuisance(noise=0.05, gain=10000)
    # without signal: Rayleigh of mean sigma * sqrt(pi / 2); with much signal A: mean A + sigma² / 2A, deviation sigma
    empty = scan(zeros, ones, warp_of(SHAPE), SHAPE, nuisance)
    assert empty.mean() == pytest.approx(500 * np.sqrt(np.pi / 2), rel=0.02)
    full = scan(ones, ones, warp_of(SHAPE), SHAPE, nuisance)
    assert full.mean() == pytest.approx(10000 * (1 + 0.05**2 / 2), rel=0.002)
    assert full.std() == pytest.approx(500, rel=0.03)


def test_noise_fades_with_the_brain():
    ones, zeros = np.ones(np.prod(SHAPE), np.float32), np.zeros(np.prod(SHAPE), np.float32)
    assert (scan(zeros, zeros, warp_of(SHAPE), SHAPE, Nuisance(noise=0.05)) == 0).all()
    half = scan(ones, 0.5 * ones, warp_of(SHAPE), SHAPE, Nuisance(noise=0.05, gain=10000))
    assert half.std() == pytest.approx(250, rel=0.03)


def test_bias_field_is_smooth_and_as_strong_as_asked():
    ones = np.ones(np.prod(SHAPE), np.float32)
    weak, strong = (
        np.log(scan(ones, ones, warp_of(SHAPE), SHAPE, Nuisance(bias=bias, gain=20000)) / 20000.0)
        for bias in (0.02, 0.06)
    )
    # one seed, one field: three times as strong
    np.testing.assert_allclose(strong, 3 * weak, atol=5e-4)
    assert np.abs(np.diff(strong, axis=0)).max() < 0.01
    assert strong.std() > 0.005


@pytest.mark.parametrize("millilitres", [0.6, 4.0, 12.0])
def test_lesion_has_the_volume_asked_for_and_one_piece_around_its_site(millilitres):
    white = np.ones(np.prod(SHAPE), np.float32)
    site = np.array([4.5, -7.5, 1.5])
    voxel_ml = VOXEL_MM**3 / 1000
    factors = Factors(lesion=millilitres, lesion_intensity=0.5)
    weight = place_lesion(anatomy_with(site), warp_of(SHAPE), white, SHAPE, voxel_ml, factors, Nuisance())
    inside = weight.reshape(SHAPE) > 0
    assert inside.sum() * voxel_ml == pytest.approx(millilitres, rel=0.1)
    assert ndimage.label(inside)[1] == 1
    assert weight[np.argmin(np.linalg.norm(warp_of(SHAPE).scanner - site[:, None], axis=0))] == 1
    assert weight[weight > 0].min() >= 0.3


def test_lesion_is_irregular():
    white = np.ones(np.prod(SHAPE), np.float32)
    site = np.array([1.5, 1.5, 1.5])
    weight = place_lesion(anatomy_with(site), warp_of(SHAPE), white, SHAPE, 0.027, Factors(lesion=6.0), Nuisance())
    distance = np.linalg.norm(warp_of(SHAPE).scanner - site[:, None], axis=0)
    # a ball would hold every voxel nearer than its farthest one
    assert distance[weight > 0].max() > 1.15 * distance[weight == 0].min()


def test_lesion_stays_in_white_matter():
    white = (warp_of(SHAPE).scanner[0] > 0).astype(np.float32)
    weight = place_lesion(
        anatomy_with([1.5, 1.5, 1.5]), warp_of(SHAPE), white, SHAPE, 0.027, Factors(lesion=8.0), Nuisance()
    )
    assert (weight[white == 0] == 0).all()
    assert (weight > 0).sum() * 0.027 == pytest.approx(8.0, rel=0.05)
