"""Adjustment of scores for covariates: identities, a second implementation, and what it must not hide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from monai_betavae.evaluation import adjust_scores


def cohort(n, seed, effect=1.0, spread=1.0):
    """Return scores whose mean and spread follow one covariate, and the covariate."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, 1))
    noise = rng.standard_normal(n) * np.exp(0.3 * spread * rows[:, 0])
    return np.exp(effect * rows[:, 0] + 0.2 * noise), rows


def test_equal_to_a_second_implementation_that_leaves_each_subject_out():
    scores, rows = cohort(40, 0)
    new, new_rows = cohort(6, 1)
    found = adjust_scores(new, new_rows, scores, rows, ridge=1e-9)
    rest = np.empty(40)
    for i in range(40):
        others = np.arange(40) != i
        fit = LinearRegression().fit(rows[others], np.log(scores[others]))
        rest[i] = np.log(scores[i]) - fit.predict(rows[i : i + 1])[0]
    scale = LinearRegression().fit(rows, np.log(np.abs(rest)))
    np.testing.assert_allclose(found.reference, rest / np.exp(scale.predict(rows)), rtol=1e-6)
    location = LinearRegression().fit(rows, np.log(scores))
    adjusted = (np.log(new) - location.predict(new_rows)) / np.exp(scale.predict(new_rows))
    np.testing.assert_allclose(found.scores, adjusted, rtol=1e-6)
    ranks = [(1 + np.sum(found.reference >= value)) / 41 for value in adjusted]
    assert found.p.tolist() == ranks


def test_p_is_uniform_for_every_value_of_the_covariate():
    scores, rows = cohort(2000, 2)
    new, new_rows = cohort(6000, 3)
    found = adjust_scores(new, new_rows, scores, rows)
    for low, high in ((-9, -0.5), (-0.5, 0.5), (0.5, 9)):
        group = (new_rows[:, 0] > low) & (new_rows[:, 0] <= high)
        assert (found.p[group] <= 0.05).mean() == pytest.approx(0.05, abs=0.02)
    raw = (1 + (scores >= new[:, None]).sum(axis=1)) / 2001
    assert (raw[new_rows[:, 0] > 0.5] <= 0.05).mean() > 0.1  # what the adjustment is for


def test_a_score_beyond_those_of_subjects_alike_is_found_where_its_own_size_is_usual():
    scores, rows = cohort(400, 4)
    found = adjust_scores([np.exp(-1.5)], [[-3.0]], scores, rows)  # expected: exp(-3)
    assert found.p[0] <= 0.01
    assert (1 + np.sum(scores >= np.exp(-1.5))) / 401 > 0.5


@given(seed=st.integers(0, 1000), factor=st.floats(0.01, 100))
def test_a_common_factor_of_all_scores_changes_nothing(seed, factor):
    scores, rows = cohort(30, seed)
    new, new_rows = cohort(5, seed + 1)
    first = adjust_scores(new, new_rows, scores, rows)
    second = adjust_scores(factor * new, new_rows, factor * scores, rows)
    np.testing.assert_allclose(first.scores, second.scores, rtol=1e-6, atol=1e-8)


def test_without_an_effect_the_order_of_scores_stays():
    scores, rows = np.exp(np.random.default_rng(0).standard_normal(50)), np.zeros((50, 1))
    new = np.exp(np.linspace(-2, 2, 9))
    assert (np.diff(adjust_scores(new, np.zeros((9, 1)), scores, rows).p) <= 0).all()


def test_equal_scores_are_no_division_by_zero():
    found = adjust_scores([1.0, 2.0], [[0.0], [1.0]], np.ones(20), np.arange(20.0)[:, None])
    assert np.isfinite(found.scores).all()
    assert found.p[1] == pytest.approx(1 / 21)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [0.0]}, "`scores` must have shape"),
        ({"scores": [[1.0]]}, "`scores` must have shape"),
        ({"covariates": [[1.0], [2.0]]}, r"`covariates` must have shape \(1, k\)"),
        ({"covariates": [[1.0, 2.0]]}, "`covariates` must have the 1 columns"),
        ({"covariates": [[np.nan]]}, "`covariates` must have shape"),
        ({"reference_scores": np.ones(9), "reference_covariates": np.ones((9, 1))}, "at least 5 subjects for each"),
        ({"ridge": 0.0}, "`ridge`"),
    ],
)
def test_refused(change, message):
    arguments = {
        "scores": [1.0],
        "covariates": [[0.0]],
        "reference_scores": np.ones(10),
        "reference_covariates": np.ones((10, 1)),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        adjust_scores(**arguments)
