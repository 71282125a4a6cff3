from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_betavae.data.simulation.ageing import factors_at_age, typical_factors
from monai_betavae.data.simulation.subject import simulate_subject
from monai_betavae.data.simulation.subject_factors import Factors, draw_nuisance, draw_subject

AGES = st.floats(18, 95)


def test_the_curve_is_what_the_subjects_follow():
    drawn = [draw_subject(5, subject, lesion=False) for subject in range(4000)]
    table = pd.DataFrame(
        {"age": who.age, "ventricles": np.log(factors.ventricles), "atrophy": factors.atrophy} for factors, who in drawn
    )
    slopes = {name: np.polyfit(table["age"], table[name], 1)[0] for name in ("ventricles", "atrophy")}
    young, old = typical_factors(45), typical_factors(65)
    assert np.log(old.ventricles / young.ventricles) / 20 == pytest.approx(0.4 * 11 / 278)
    # clipping at the limits of factors and ages makes the cohort's slope a little flatter
    assert slopes["ventricles"] == pytest.approx(0.4 * 11 / 278, rel=0.07)
    assert slopes["atrophy"] == pytest.approx((old.atrophy - young.atrophy) / 20, rel=0.07)
    at_55 = np.polyval(np.polyfit(table["age"], table["ventricles"], 1), 55)
    assert np.exp(at_55) == pytest.approx(typical_factors(55).ventricles, rel=0.03)


@given(AGES, AGES, AGES)
def test_a_way_through_another_age_leads_to_the_same_brain(one, two, three):
    start = Factors(ventricles=1.2, atrophy=0.45, brain_size=1.1)
    # 1.2 and 0.45 are far enough from the limits to reach any age and return
    direct, by_way = factors_at_age(start, 55, three), factors_at_age(factors_at_age(start, 55, two), two, three)
    assert by_way.ventricles == pytest.approx(direct.ventricles)
    assert by_way.atrophy == pytest.approx(direct.atrophy, abs=1e-9)
    assert factors_at_age(start, one, one) == start
    assert replace(direct, ventricles=1.2, atrophy=0.45) == start


@given(AGES, AGES)
def test_factors_stay_within_their_limits(age, new_age):
    for extreme in (Factors(ventricles=0.6, atrophy=0.0), Factors(ventricles=3.0, atrophy=1.0)):
        moved = factors_at_age(extreme, age, new_age)
        assert 0.6 <= moved.ventricles <= 3.0
        assert 0.0 <= moved.atrophy <= 1.0


def test_measured_ventricles_follow_the_curve(warped_anatomy):
    nuisance = draw_nuisance(0, 1)
    ages = np.array([30, 50, 70, 90])
    measured = [
        simulate_subject(warped_anatomy, typical_factors(age), nuisance, spacing=6.0).truth["ventricle_ml"]
        for age in ages
    ]
    slope = np.polyfit(ages, np.log(measured), 1)[0]
    # partial volume at the edge of the ventricles, much of them at 6 mm, does not grow with them
    assert slope == pytest.approx(0.4 * 11 / 278, rel=0.25)


@pytest.mark.parametrize(("name", "ages"), [("age", (17, 50)), ("new_age", (50, 96)), ("age", (None, 50))])
def test_ages_outside_of_the_cohort_are_refused(name, ages):
    with pytest.raises(ValueError, match=rf"^`{name}` must be a finite number >= 18 and <= 95, got"):
        factors_at_age(Factors(), *ages)
