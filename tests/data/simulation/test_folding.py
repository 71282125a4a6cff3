from dataclasses import replace

import numpy as np
import pytest

from monai_betavae.data.simulation.cortex import sample_columns
from monai_betavae.data.simulation.folding import BASES, Folding, Sheets, cortical_tissues, draw_folding, fold

FAR = np.float32(50)


def sheet(distance, depth=20.0, width=1.0):
    distance = np.atleast_1d(np.array(distance, np.float32))
    return Sheets(np.full_like(distance, depth), {"shared": (distance, np.full_like(distance, width))})


def tissues(sheets, half_voxel=0.05, thickness=2.5, sulcus_mm=0.5, retreat=0.0, **others):
    flat = np.ones_like(sheets.depth)
    grey, white = cortical_tissues(sheets, thickness * flat, half_voxel, sulcus_mm, retreat * flat, **others)
    return np.stack([1 - grey - white, grey, white])


@pytest.fixture(scope="module")
def cortex(folded_anatomy):
    """Positions 1 to 12 mm below the outline on a grid of 3 mm, and what is around them."""
    axes = [np.arange(low, high, 3.0, dtype=np.float32) for low, high in ((-75, 75), (-105, 75), (-50, 80))]
    position = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    columns = sample_columns(folded_anatomy, position)
    inside = (columns.depth > 1) & (columns.depth < 12) & (columns.unfolded < 0.05)
    return position[:, inside], sample_columns(folded_anatomy, position[:, inside])


def folded(anatomy, cortex, seed=0, **arguments):
    return fold(anatomy, *cortex, Folding(**arguments), np.random.default_rng(seed))


# tissues around a sheet, by hand


def test_csf_then_grey_then_white_matter_away_from_a_sulcus():
    # CSF up to 0.5 mm, grey matter up to 0.5 + 2.5 mm
    got = tissues(sheet([0.2, 0.8, 2.8, 3.2]))
    np.testing.assert_allclose(got, [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], atol=1e-5)


def test_a_sulcus_thinner_than_a_voxel_takes_its_share():
    # a voxel of 4 mm around a sheet of 1 mm: a quarter is CSF; with 2.5 mm on both sides the rest is grey matter
    np.testing.assert_allclose(tissues(sheet([0.0]), half_voxel=2.0)[:, 0], [0.25, 0.75, 0], atol=1e-5)
    # its centre 2 mm away: from 0 to 4 mm, of which 0.5 mm are CSF and 2.5 mm grey matter
    np.testing.assert_allclose(tissues(sheet([2.0]), half_voxel=2.0)[:, 0], [0.125, 0.625, 0.25], atol=1e-5)


def test_cortex_lies_below_the_outline():
    outline = Sheets(np.array([-1, 1, 2.4, 2.6], np.float32), {"shared": (np.full(4, FAR), np.ones(4, np.float32))})
    np.testing.assert_allclose(tissues(outline), [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], atol=1e-5)
    # 1.5 mm of retreat make CSF of what was 1 mm below the outline
    np.testing.assert_allclose(tissues(outline, retreat=1.5)[0], [1, 1, 0, 0], atol=1e-5)


def test_fractions_add_up_and_are_fractions(folded_anatomy, cortex):
    got = tissues(folded(folded_anatomy, cortex), half_voxel=1.5)
    assert got.min() > -1e-6
    np.testing.assert_allclose(got.sum(axis=0), 1, atol=1e-6)


# the folding of a subject


def csf(sheets, **others):
    return tissues(sheets, half_voxel=1.5, sulcus_mm=0.8, **others)[0]


def test_deeper_and_more_sulci_hold_more_csf(folded_anatomy, cortex):
    own = [csf(folded(folded_anatomy, cortex, own=own)).sum() for own in (0.5, 1.0, 1.5)]
    assert own[0] < 0.97 * own[1]
    assert own[1] < 0.97 * own[2]
    shared = [csf(folded(folded_anatomy, cortex, shared=shared), without="own").sum() for shared in (0.2, 0.5, 0.9)]
    assert shared[0] < 0.9 * shared[1]
    assert shared[1] < 0.9 * shared[2]


def test_leaving_sulci_out_leaves_the_others(folded_anatomy, cortex):
    sheets = folded(folded_anatomy, cortex)
    alone = Sheets(sheets.depth, {"shared": sheets.sulci["shared"]})
    np.testing.assert_array_equal(csf(sheets, without="own"), csf(alone))


def test_subjects_share_some_sulci_and_have_others_of_their_own(folded_anatomy, cortex):
    def correlation(first, second):
        return np.corrcoef(first, second)[0, 1]

    one, other = (folded(folded_anatomy, cortex, seed=seed) for seed in (1, 2))
    again = folded(folded_anatomy, cortex, seed=1)
    np.testing.assert_array_equal(csf(one), csf(again))
    shared = correlation(csf(one, without="own"), csf(other, without="own"))
    own = correlation(csf(one, without="shared"), csf(other, without="shared"))
    everything = correlation(csf(one), csf(other))
    # with nothing but the outline in common, the correlation is that of the depth below it
    outline = correlation(csf(one, without="shared"), csf(folded(folded_anatomy, cortex, 3, own=0.0), without="shared"))
    assert own < 0.5
    assert own < shared < 0.85
    assert everything < 0.7
    assert outline < 0.5


def test_interruptions_and_depths_differ_between_subjects(folded_anatomy, cortex):
    # distance to the shared sulci without any shift: only depth and presence make the difference
    found = [folded(folded_anatomy, cortex, seed, shift_mm=0.0).sulci["shared"][0] < 1 for seed in range(4)]
    often = np.mean(found, axis=0)
    assert 0.2 < (often[often > 0] == 1).mean() < 0.9


def test_neighbouring_own_sulci_are_farther_apart_for_a_longer_wavelength(folded_anatomy, cortex):
    near = [
        np.mean([(folded(folded_anatomy, cortex, s, wavelength_mm=w).sulci["own"][0] < 3).mean() for s in range(3)])
        for w in (17.0, 25.0)
    ]
    assert near[0] > 1.15 * near[1]


def test_bases_differ_and_mirrored_ones_are_mirror_images(folded_anatomy, cortex):
    position, _ = cortex
    maps = {}
    for base in BASES:
        sheets = folded(folded_anatomy, cortex, base=base, shift_mm=0.0, shared=1.0)
        maps[base] = sheets.sulci["shared"][0] < 1.5
    for one, other in (("fsaverage", "mni152"), ("fsaverage", "fsaverage-swapped"), ("mni152", "fsaverage-right")):
        assert np.corrcoef(maps[one], maps[other])[0, 1] < 0.6
    left = position[0] < 0
    np.testing.assert_array_equal(maps["fsaverage"][left], maps["fsaverage-left"][left])
    np.testing.assert_array_equal(maps["fsaverage"][~left], maps["fsaverage-right"][~left])
    np.testing.assert_array_equal(maps["fsaverage-swapped"][left], maps["fsaverage-right"][left])


@pytest.mark.parametrize("side", ["left", "right"])
def test_paracingulate_sulcus_is_on_its_side_and_medial(folded_anatomy, cortex, side):
    position, _ = cortex
    sheets = folded(folded_anatomy, cortex, **{f"paracingulate_{side}": 12.0})
    gained = csf(sheets) - csf(sheets, without="paracingulate")
    assert gained.sum() > 1
    assert gained.min() > -1e-6
    where = position[:, gained > 0.1]
    assert (where[0] < 0).all() if side == "left" else (where[0] > 0).all()
    assert np.abs(where[0]).max() < 24
    assert where[1].min() > -20


def test_without_a_paracingulate_sulcus_there_is_none(folded_anatomy, cortex):
    assert set(folded(folded_anatomy, cortex).sulci) == {"shared", "own"}


def test_draws_are_varied_and_as_frequent_as_promised():
    drawn = [draw_folding(np.random.default_rng(seed)) for seed in range(2000)]
    for base in BASES:
        assert np.mean([folding.base == base for folding in drawn]) == pytest.approx(0.2, abs=0.04)
    for side, share in (("left", 0.45), ("right", 0.3)):
        assert np.mean([getattr(f, f"paracingulate_{side}") > 0 for f in drawn]) == pytest.approx(share, abs=0.045)
    assert np.std([folding.shared for folding in drawn]) == pytest.approx(0.161, abs=0.02)
    assert replace(drawn[0], base="mni152") != replace(drawn[1], base="mni152")
