from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from monai_betavae.data.simulation.subject_factors import Factors, Nuisance, draw_nuisance, draw_subject, stream


@pytest.fixture(scope="module")
def drawn():
    rows = []
    for subject in range(1500):
        factors, covariates = draw_subject(3, subject, lesion=True)
        rows.append(asdict(factors) | asdict(covariates))
    return pd.DataFrame(rows)


def test_factors_are_independent(drawn):
    knobs = drawn[[*asdict(Factors()), "control"]]
    correlation = knobs.corr().to_numpy()
    # five standard errors of a correlation of 1500 independent pairs
    assert np.abs(correlation - np.eye(len(correlation))).max() < 5 / np.sqrt(1500)


def test_factors_stay_in_their_ranges(drawn):
    assert drawn["ventricles"].between(0.6, 3.0).all()
    assert drawn["ventricles"].min() < 0.65
    assert drawn["ventricles"].max() > 2.8
    assert drawn["atrophy"].between(0, 1).all()
    assert drawn["brain_size"].std() == pytest.approx(0.08, abs=0.01)
    assert drawn["lesion"].between(0.5, 15.0).all()
    assert drawn["lesion_intensity"].between(0.1, 1.0).all()
    assert drawn["asymmetry"].abs().max() <= 0.075


def test_covariates_follow_from_the_factors(drawn):
    assert drawn["age"].between(18, 95).all()
    assert drawn["age"].corr(np.log(drawn["ventricles"])) > 0.5
    assert drawn["age"].corr(drawn["atrophy"]) > 0.5
    size = drawn.groupby("sex")["brain_size"].mean()
    assert size["M"] - size["F"] == pytest.approx(0.09, abs=0.015)
    contrast = drawn.groupby("site")["contrast"].mean()
    assert contrast["site-C"] - contrast["site-A"] == pytest.approx(0.06, abs=0.01)
    assert drawn["control"].mean() == pytest.approx(0, abs=0.1)
    assert drawn["control"].std() == pytest.approx(1, abs=0.1)
    assert drawn["control"].corr(drawn["age"]) == pytest.approx(0, abs=0.1)


def test_a_lesion_changes_nothing_else():
    with_lesion, covariates = draw_subject(0, 4, lesion=True)
    without, same = draw_subject(0, 4, lesion=False)
    assert with_lesion.lesion > 0
    assert replace(with_lesion, lesion=0.0, lesion_intensity=0.0) == without
    assert covariates == same


def test_streams_follow_from_seed_subject_and_name():
    first = stream(0, 1, "noise").random(4)
    assert (stream(0, 1, "noise").random(4) == first).all()
    for other in (stream(1, 1, "noise"), stream(0, 2, "noise"), stream(0, 1, "bias")):
        assert (other.random(4) != first).all()


def test_nuisance_is_small_and_keeps_volume():
    for subject in range(50):
        nuisance = draw_nuisance(0, subject)
        assert np.prod(nuisance.stretch) == pytest.approx(1)
        assert np.abs(nuisance.tilt_degrees).max() <= 6.25
        assert np.abs(nuisance.shift_mm).max() <= 3.75
        assert 0.7 <= nuisance.deformation_mm <= 1.5
    assert draw_nuisance(0, 1) != replace(draw_nuisance(0, 2), subject=1)


def test_nuisance_by_default_adds_nothing():
    assert Nuisance().deformation_mm == Nuisance().bias == Nuisance().noise == 0
