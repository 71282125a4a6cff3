from dataclasses import replace

import numpy as np
import pytest

from monai_betavae.data.simulation.cohort_texts import FOLDED_COLUMNS
from monai_betavae.data.simulation.folded_subject import (
    Morphology,
    draw_morphology,
    morphology_columns,
    simulate_folded_subject,
)
from monai_betavae.data.simulation.folding import Folding
from monai_betavae.data.simulation.strip_errors import StripError
from monai_betavae.data.simulation.structures import draw_structures
from monai_betavae.data.simulation.subject_factors import Factors, Nuisance, draw_nuisance, draw_subject

SPACING = 6.0
VOXEL_ML = SPACING**3 / 1000
WITH_PARACINGULATE = Folding(paracingulate_left=12.0, paracingulate_right=12.0)


def all_structures():
    """The structures of a subject who has every one of them."""
    found = {}
    for seed in range(200):
        found |= draw_structures(np.random.default_rng(seed))
    assert set(found) == {"cavum", "cyst", "cisterna"}
    return found


@pytest.fixture(scope="module")
def simulate(folded_anatomy):
    def simulated(factors=None, nuisance=None, **morphology):
        return simulate_folded_subject(
            folded_anatomy, factors or Factors(), Morphology(**morphology), nuisance, spacing=SPACING
        )

    return simulated


KNOBS = {
    "brain_size": ("intracranial_ml", (0.8, 1.0, 1.2)),
    "ventricles": ("ventricle_ml", (0.6, 1.3, 3.0)),
    "atrophy": ("cortical_csf_fraction", (0.0, 0.5, 1.0)),
    "contrast": ("contrast", (0.14, 0.27, 0.42)),
    "asymmetry": ("asymmetry_index", (-0.075, 0.0, 0.075)),
    "lesion": ("lesion_ml", (0.0, 5.0, 15.0)),
}


@pytest.mark.parametrize("knob", KNOBS)
def test_truth_follows_its_knob_and_only_its_knob(simulate, knob):
    nuisance = draw_nuisance(1, 2)
    truths = [
        simulate(replace(Factors(lesion_intensity=0.5), **{knob: value}), nuisance).truth for value in KNOBS[knob][1]
    ]
    for other, (measure, values) in KNOBS.items():
        got = np.array([truth[measure] for truth in truths])
        if other == knob:
            assert (np.diff(got) > 0).all()
            assert np.corrcoef(got, values)[0, 1] > 0.97
        # larger brains have larger ventricles, and sulci of the same width are a smaller share of them
        elif (knob, other) not in (("brain_size", "ventricles"), ("brain_size", "atrophy")):
            spread = {"intracranial_ml": 20, "ventricle_ml": 0.7, "lesion_ml": 0.01}.get(measure, 0.02)
            assert np.ptp(got) < spread


def test_volumes_are_those_of_a_brain(simulate):
    truth = simulate().truth
    assert 950 < truth["brain_ml"] < 1300
    assert truth["brain_ml"] == pytest.approx(truth["gm_ml"] + truth["wm_ml"])
    assert truth["intracranial_ml"] == pytest.approx(truth["brain_ml"] + truth["csf_ml"])
    # grey to white matter: 1.1 to 1.7 in adults
    assert 1.1 < truth["gm_ml"] / truth["wm_ml"] < 1.7
    assert truth["ventricle_ml"] + truth["sulcal_csf_ml"] < truth["csf_ml"]
    assert 4 < truth["sulcal_depth_mm"] < 20


def test_deeper_sulci_raise_cortical_csf_and_lower_white_matter(simulate):
    truths = [simulate(folding=Folding(own=own)).truth for own in (0.5, 1.0, 1.5)]
    for name in ("own_sulci_ml", "sulcal_csf_ml", "cortical_csf_fraction"):
        assert (np.diff([truth[name] for truth in truths]) > 0).all()
    assert (np.diff([truth["wm_ml"] for truth in truths]) < 0).all()
    # the brain mask stays
    assert np.ptp([truth["intracranial_ml"] for truth in truths]) < 1e-3


def test_a_thicker_cortex_has_more_grey_matter(simulate):
    thin, thick = (simulate(thickness=thickness).truth for thickness in (0.9, 1.1))
    assert thick["gm_ml"] > 1.05 * thin["gm_ml"]
    assert thick["csf_ml"] == pytest.approx(thin["csf_ml"], abs=0.5)


@pytest.mark.parametrize("name", ["cavum", "cyst", "cisterna"])
def test_without_a_structure_there_are_as_many_ml_of_csf_less(simulate, name):
    structures = all_structures()
    having = simulate(structures={name: structures[name]})
    lacking = simulate()
    assert having.truth["csf_ml"] - lacking.truth["csf_ml"] == pytest.approx(having.truth[f"{name}_ml"], abs=1e-3)
    assert having.truth[f"{name}_ml"] > 0.1
    assert lacking.truth[f"{name}_ml"] == 0
    assert having.truth["intracranial_ml"] == pytest.approx(lacking.truth["intracranial_ml"], abs=1e-3)
    # and it is seen as a dark place
    drop = having.volume.astype(int) - lacking.volume
    assert drop.max() <= 20
    assert drop.min() < -60


def test_without_paracingulate_sulci_there_are_as_many_ml_of_csf_less(simulate):
    having, lacking = simulate(folding=WITH_PARACINGULATE).truth, simulate().truth
    assert having["paracingulate_ml"] > 0.3
    assert having["csf_ml"] - lacking["csf_ml"] == pytest.approx(having["paracingulate_ml"], abs=1e-3)
    assert lacking["paracingulate_ml"] == 0


def test_errors_of_brain_extraction_change_the_image_and_not_the_anatomy(simulate):
    plain = simulate()
    for kind in ("dura", "bite"):
        error = StripError(kind, site=0.4, radius_mm=30.0, thickness_mm=6.0, intensity=1.0)
        wrong = simulate(strip_error=error)
        assert wrong.truth["brain_ml"] == plain.truth["brain_ml"]
        assert wrong.truth[f"{kind}_ml"] > 2
        changed = wrong.volume.astype(int) - plain.volume
        if kind == "bite":
            assert changed.max() == 0
            # a voxel of the brain lost about 0.3 (CSF) to 1 (white matter) of 900
            lost = -changed.sum() / 900 * VOXEL_ML
            assert 0.3 * wrong.truth["bite_ml"] < lost < wrong.truth["bite_ml"]
        else:
            assert changed.min() >= 0
            assert changed.sum() / 900 * VOXEL_ML == pytest.approx(wrong.truth["dura_ml"], rel=0.02)
            assert plain.truth["dura_ml"] == 0


def test_ventricle_form_moves_volume_between_front_and_back(simulate):
    front, back = (simulate(ventricle_form=(0.0, sign * 0.4, 0.0)) for sign in (1, -1))
    more = front.volume.astype(int) - back.volume
    y = np.arange(more.shape[1])[:, None]
    # wide ventricles are dark: in front where y is larger
    darker = (np.minimum(more, 0) * y).sum() / np.minimum(more, 0).sum()
    brighter = (np.maximum(more, 0) * y).sum() / np.maximum(more, 0).sum()
    assert darker > brighter + 1.5


def test_folding_of_two_subjects_is_alike_in_part(simulate):
    # same factors, no warp, no noise; what is left of each image beyond a brain without sulci is the folding alone
    smooth = simulate(folding=Folding(shared=-3.0, own=0.0)).volume.astype(float)
    one, again, other = (simulate(nuisance=Nuisance(subject=subject)).volume - smooth for subject in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    inside = smooth > 0
    assert one[inside].mean() < -30
    assert 0.2 < np.corrcoef(one[inside], other[inside])[0, 1] < 0.8
    # with other shared sulci there is less in common
    third = simulate(nuisance=Nuisance(subject=2), folding=Folding(base="mni152")).volume - smooth
    assert np.corrcoef(one[inside], third[inside])[0, 1] < np.corrcoef(one[inside], other[inside])[0, 1]


@pytest.mark.parametrize("subject", range(4))
def test_a_lesion_changes_the_mask_and_nothing_else(folded_anatomy, subject):
    factors, _ = draw_subject(11, subject, lesion=True)
    error = StripError("bite", site=0.3 * subject, radius_mm=25.0, thickness_mm=9.0)
    morphology = replace(draw_morphology(11, subject), strip_error=error)
    nuisance = draw_nuisance(11, subject)
    scan = simulate_folded_subject(folded_anatomy, factors, morphology, nuisance, spacing=SPACING)
    inside = scan.lesion_mask == 1
    np.testing.assert_array_equal(scan.volume[~inside], scan.healthy[~inside])
    assert (scan.volume[inside] < scan.healthy[inside]).mean() > 0.95
    assert scan.truth["lesion_ml"] == pytest.approx(inside.sum() * VOXEL_ML)
    plain = simulate_folded_subject(folded_anatomy, replace(factors, lesion=0.0), morphology, nuisance, spacing=SPACING)
    np.testing.assert_array_equal(plain.volume, scan.healthy)


def test_every_column_is_described(simulate):
    scan = simulate()
    columns = morphology_columns(draw_morphology(0, 0))
    assert set(FOLDED_COLUMNS) <= set(columns) | set(scan.truth)
    assert set(columns) <= set(FOLDED_COLUMNS)
    for column, value in columns.items():
        if isinstance(value, str):
            assert value in FOLDED_COLUMNS[column]["Levels"]


def test_morphology_depends_on_seed_and_subject_only():
    assert draw_morphology(3, 5) == draw_morphology(3, 5)
    assert draw_morphology(3, 5) != draw_morphology(3, 6)
    assert draw_morphology(3, 5) != draw_morphology(4, 5)
