from dataclasses import replace

import numpy as np
import pytest

from monai_betavae.data.simulation.disease import draw_severity, hippocampal_loss, local_atrophy, local_growth
from monai_betavae.data.simulation.folded_subject import (
    Morphology,
    simulate_folded_subject,
    typical_folded_disease_effect,
)
from monai_betavae.data.simulation.subject import simulate_subject, typical_disease_effect
from monai_betavae.data.simulation.subject_factors import Factors, draw_nuisance, draw_subject

SPACING = 6.0


@pytest.fixture(scope="module")
def anatomy(warped_anatomy):
    return warped_anatomy


def at(x, y, z):
    return np.array([[x], [y], [z]], np.float32)


def test_the_disease_acts_in_its_regions_alike_on_both_sides_and_nowhere_else():
    growth = local_growth(1.0)
    assert growth.volume == pytest.approx(3.1)
    for side in (-1, 1):
        assert growth.share(at(27 * side, -40, 6)) == 1
        assert local_atrophy(at(54 * side, -20, -20), 1.0) == pytest.approx(0.6)
        assert hippocampal_loss(at(28 * side, -20, -15), 1.0, 1.0) == pytest.approx(0.6)
    # frontal pole, occipital pole, vertex, cerebellum, brainstem
    for x, y, z in ((20, 60, 0), (10, -95, 0), (5, -20, 70), (20, -65, -45), (0, -30, -45)):
        assert growth.share(at(x, y, z)) == 0
        assert local_atrophy(at(x, y, z), 1.0) == 0
        assert hippocampal_loss(at(x, y, z), 1.0, 1.0) == 0
    assert local_growth(0.0) is None


def test_severity_is_drawn_for_each_subject():
    drawn = np.array([draw_severity(0, subject) for subject in range(800)])
    assert drawn.min() >= 0.2
    assert drawn.max() <= 1
    assert drawn.mean() == pytest.approx(0.6, abs=0.03)
    ages = [draw_subject(0, subject, lesion=False)[1].age for subject in range(800)]
    assert abs(np.corrcoef(drawn, ages)[0, 1]) < 4 / np.sqrt(800)


def test_truth_grows_with_severity(anatomy):
    factors, _ = draw_subject(3, 1, lesion=False)
    scans = [
        simulate_subject(anatomy, factors, draw_nuisance(3, 1), spacing=SPACING, severity=severity)
        for severity in (0.0, 0.3, 0.6, 1.0)
    ]
    ventricles = np.array([scan.truth["ventricle_ml"] for scan in scans])
    assert (np.diff(ventricles) > 0).all()
    assert 1.15 < ventricles[-1] / ventricles[0] < 1.9
    assert (np.diff([scan.truth["gm_ml"] for scan in scans]) < 0).all()
    assert "disease_csf_ml" not in scans[0].truth
    for scan in scans[1:]:
        assert scan.truth["disease_csf_ml"] == pytest.approx(scan.truth["csf_ml"] - scans[0].truth["csf_ml"])
        # what is neither tissue nor space does not change
        assert scan.truth["intracranial_ml"] == pytest.approx(scans[0].truth["intracranial_ml"], rel=2e-3)


def check_effect(simulate):
    """Check that the disease changes what its map says, and nothing else."""
    patient, control = simulate(1.0), simulate(0.0)
    np.testing.assert_array_equal(patient.unaffected, control.volume)
    assert control.unaffected is control.disease_map is control.disease_mask is None
    change = patient.disease_map
    assert change.dtype == np.float32
    assert 0.2 < change.max() <= 1
    # most of the brain has nothing to do with it
    assert (change > 0).sum() < 0.5 * (control.volume > 300).sum()
    difference = np.abs(patient.volume.astype(int) - control.volume)
    assert difference[change == 0].max() <= 0.02 * 900
    inside = patient.disease_mask == 1
    assert difference[inside].mean() > 10 * difference[~inside].mean()
    np.testing.assert_array_equal(inside, change >= 0.05)


def test_the_disease_is_where_its_map_says(anatomy):
    nuisance = draw_nuisance(2, 0)
    check_effect(lambda severity: simulate_subject(anatomy, Factors(), nuisance, spacing=SPACING, severity=severity))


def test_the_disease_of_a_folded_brain_is_where_its_map_says(folded_anatomy):
    nuisance = draw_nuisance(2, 0)
    check_effect(
        lambda severity: simulate_folded_subject(
            folded_anatomy, Factors(), Morphology(), nuisance, spacing=SPACING, severity=severity
        )
    )


def test_the_typical_effect_is_that_of_a_head_without_nuisance(anatomy, folded_anatomy):
    whole = simulate_subject(anatomy, Factors(), spacing=SPACING, severity=1.0).disease_map
    np.testing.assert_array_equal(typical_disease_effect(anatomy, spacing=SPACING), whole)
    # the template is symmetric
    np.testing.assert_allclose(whole, whole[::-1], atol=2e-3)
    folded = typical_folded_disease_effect(folded_anatomy, spacing=SPACING)
    assert 0.3 * whole.sum() < folded.sum() < 3 * whole.sum()


def test_a_lesion_and_a_disease_are_told_apart(anatomy):
    factors, nuisance = Factors(lesion=8.0, lesion_intensity=0.8), draw_nuisance(4, 0)
    scan = simulate_subject(anatomy, factors, nuisance, spacing=SPACING, severity=0.7)
    plain = simulate_subject(anatomy, replace(factors, lesion=0.0), nuisance, spacing=SPACING, severity=0.7)
    np.testing.assert_array_equal(scan.healthy, plain.volume)
    np.testing.assert_array_equal(scan.unaffected, plain.unaffected)
    outside = scan.lesion_mask == 0
    np.testing.assert_array_equal(scan.volume[outside], scan.healthy[outside])
