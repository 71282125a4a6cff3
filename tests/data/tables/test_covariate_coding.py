"""Covariates as rows of numbers: values by hand, an independent spline, properties, and refusals."""

import json
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_betavae.data import CovariateCoding
from monai_betavae.data.tables.covariate_codes import natural_spline

PEOPLE = [{"age": 20 + i, "sex": "FM"[i % 2], "site": "AAB"[i % 3]} for i in range(60)]


def coded(values, name="x", **kwargs):
    return CovariateCoding.fit([{name: value} for value in values], [name], **kwargs)


def quietly(coding, records, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return coding.rows(records, **kwargs)


def harrell(x, t1, t2, t3):
    """Equations of Regression Modeling Strategies, section 2.4.5, for three knots, written with truncated cubes."""

    def cube(u):
        return np.where(u > 0, u, 0) ** 3

    unscaled = cube(x - t1) - cube(x - t2) * (t3 - t1) / (t3 - t2) + cube(x - t3) * (t2 - t1) / (t3 - t2)
    return unscaled / (t3 - t1) ** 2


# ---- quantities ----


def test_line_by_hand():
    coding = coded([1.0, 2.0, 6.0], kinds={"x": "quantity"})  # mean 3, variance (4 + 1 + 9) / 3
    assert coding.columns == ("x",)
    expected = np.array([-2, -1, 3, 0]) / np.sqrt(14 / 3)
    np.testing.assert_allclose(coding.rows([{"x": x} for x in (1, 2, 6, 3)])[:, 0], expected, rtol=1e-6)


def test_spline_is_harrells_without_what_is_linear():
    rng = np.random.default_rng(0)
    ages = rng.gamma(9, 6, size=80)
    coding = coded(ages, "age")
    assert coding.columns == ("age", "age, bend")
    rows = coding.rows([{"age": age} for age in ages])
    z = (ages - ages.mean()) / ages.std()
    spline = harrell(ages, *np.quantile(ages, [0.1, 0.5, 0.9]))
    rest = spline - np.polyval(np.polyfit(ages, spline, 1), ages)
    np.testing.assert_allclose(rows, np.stack([z, rest / rest.std()], axis=1), atol=1e-5)
    np.testing.assert_allclose(rows.astype(float).T @ rows / 80, np.eye(2), atol=1e-6)
    assert coding.description()["covariates"][0]["bend"]["knots"] == np.quantile(ages, [0.1, 0.5, 0.9]).tolist()


def test_spline_is_smooth_and_linear_beyond_the_outer_knots():
    knots = np.array([-1.3, 0.2, 1.1])
    x = np.linspace(-4, 4, 8001)
    step = x[1] - x[0]
    s = natural_spline(x, knots)
    np.testing.assert_allclose(s, harrell(x, *knots), atol=1e-12)
    slope, curve = np.diff(s) / step, np.diff(s, 2) / step**2
    beyond = (x[1:-1] < knots[0] - step) | (x[1:-1] > knots[2] + step)
    assert np.abs(curve[beyond]).max() < 1e-6
    assert np.abs(curve[~beyond]).max() > 1
    # no jump in the value, the slope or the curvature
    assert np.abs(np.diff(s)).max() < 3 * step
    assert np.abs(np.diff(slope)).max() < 4 * step
    assert np.abs(np.diff(curve)).max() < 10 * step


def test_extrapolation_is_a_line_even_far_away():
    coding = coded([float(x) for x in range(100)])
    low, mid, high = quietly(coding, [{"x": x} for x in (1e6, 2e6, 3e6)]).astype(float)
    np.testing.assert_allclose(high - mid, mid - low, rtol=1e-5)


@pytest.mark.parametrize(
    "values",
    [
        [float(x) for x in range(9)] * 5,  # too few distinct values
        [0.0] * 90 + [float(x) for x in range(1, 11)],  # the knots coincide
        [x / 45 for x in range(45)] + [1 + x / 15000 for x in range(60)],  # two knots nearly do
        [*(float(x) for x in range(100)), 1e9],  # all but one are at one place, and two places make a line
    ],
)
def test_no_bend_where_the_values_determine_none(values):
    assert coded(values, kinds={"x": "quantity"}).columns == ("x",)


def test_bend_from_ten_distinct_values():
    assert coded([float(x) for x in range(10)], kinds={"x": "quantity"}).columns == ("x", "x, bend")


def test_far_values_are_warned_of_with_counts():
    coding = coded([float(x) for x in range(20, 81)], "age")  # warned of below -10 and above 110
    assert quietly(coding, [{"age": 110}]).shape == (1, 2)
    with pytest.warns(UserWarning, match=r"'age' in 2 of 3 records, trained from 20 to 80") as caught:
        coding.rows([{"age": 110}, {"age": 111}, {"age": -11}])
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="'age' in 1 of 1 records"):
        coding.row_of({"age": 200})


def test_number_that_float32_cannot_hold_is_refused():
    with pytest.raises(ValueError, match=r"have a 'x' whose code float32 can hold, got 1e\+300"):
        quietly(coded([1.0, 2.0, 3.0], kinds={"x": "quantity"}), [{"x": 2.0}, {"x": 1e300}])
    with pytest.raises(ValueError, match="standard deviation of 'x' that a float can hold, got values from 0 to"):
        coded([0.0, 5e-324, 0.0], kinds={"x": "quantity"})


# ---- categories ----


def test_category_by_hand():
    coding = coded(["b", "a", "b", "b"])
    assert coding.columns == ("x=a", "x=b")
    np.testing.assert_array_equal(coding.rows([{"x": "a"}, {"x": "b"}]), [[0.75, -0.75], [-0.25, 0.25]])


def test_levels_are_the_same_from_every_reader():
    training = [1, 1.0, "1", "1.0", np.int64(1), np.float32(1), Fraction(1), torch.tensor(1), 2, "2 ", np.float64(2)]
    coding = coded(training, "site", kinds={"site": "category"})
    assert coding.columns == ("site=1", "site=2")
    assert coding.description()["covariates"][0]["shares"] == [8 / 11, 3 / 11]
    rows = coding.rows([{"site": value} for value in training])
    assert (rows[:8] == rows[0]).all()
    assert (rows[8:] == rows[8]).all()
    assert coded(["01", "1", "01", "1"]).columns == ("x=01", "x=1")


def test_booleans_are_texts():
    coding = coded([True, False, True, np.bool_(False)], "smoker")
    assert coding.columns == ("smoker=False", "smoker=True")
    np.testing.assert_array_equal(coding.rows([{"smoker": "True"}, {"smoker": True}])[:, 1], [0.5, 0.5])


def test_unseen_category_is_refused_until_settled():
    coding = CovariateCoding.fit(PEOPLE, ["age", "site"])
    strange = [{"age": 30, "site": site} for site in "ACCD"]
    with pytest.raises(ValueError, match="known values of 'site'") as caught:
        coding.rows(strange)
    assert str(caught.value) == (
        "`records` must have known values of 'site', 'A', 'B', got 'C' (2), 'D' (1). "
        "`unseen={'site': {'C': 'A', 'D': 'A'}}` codes them as 'A', "
        "`unseen={'site': {'C': None, 'D': None}}` as the average."
    )
    rows = coding.rows(strange, unseen={"site": {"C": "A", "D": None}})
    np.testing.assert_array_equal(rows[1], rows[0])
    np.testing.assert_array_equal(rows[3, coding.slices()["site"]], [0, 0])
    assert rows[3, 0] == rows[0, 0]


def test_unseen_level_as_the_average_is_not_a_missing_one():
    coding = coded(["a", "b", "a", None])
    np.testing.assert_array_equal(coding.rows([{"x": "c"}], unseen={"x": {"c": None}}), [[0, 0, 0]])


@pytest.mark.parametrize(
    ("unseen", "message"),
    [
        ({"sites": {"C": "A"}}, r"`unseen` must be one of 'site', got 'sites'\. Did you mean 'site'\?"),
        ({"age": {"C": "A"}}, "`unseen` must be one of 'site', got 'age'"),
        ({"site": "A"}, "`unseen` must map categories to mappings"),
        ({"site": {"C": "E"}}, "`unseen` must map 'C' to None or a known level of 'site', 'A', 'B', got 'E'"),
        ({"site": {"A": "B"}}, "`unseen` must map new levels of 'site', got 'A', known are 'A', 'B'"),
    ],
)
def test_wrong_unseen(unseen, message):
    with pytest.raises(ValueError, match=message):
        CovariateCoding.fit(PEOPLE, ["age", "site"]).rows(PEOPLE, unseen=unseen)


def test_new_categories_are_appended():
    coding = CovariateCoding.fit(PEOPLE, ["site", "sex"])
    longer = (
        coding.with_categories("site", ["D", "C", "A", 7.0]).with_categories("sex", "X").with_categories("site", "E")
    )
    assert longer.columns == (*coding.columns, "site=7", "site=C", "site=D", "sex=X", "site=E")
    assert longer.slices() == {"site": [0, 1, 4, 5, 6, 8], "sex": [2, 3, 7]}
    rows = longer.rows(PEOPLE)
    np.testing.assert_array_equal(rows[:, :4], coding.rows(PEOPLE))
    assert not rows[:, 4:].any()
    new = longer.rows([{"site": "C", "sex": "F"}])[0]
    np.testing.assert_allclose(new, [-2 / 3, -1 / 3, 0.5, -0.5, 0, 1, 0, 0, 0], rtol=1e-6)
    assert longer.rows([{"site": "C", "sex": "Q"}], unseen={"sex": {"Q": "X"}})[0, 7] == 1
    with pytest.raises(ValueError, match=r"'A', 'B', '7', 'C', 'D', 'E', got 'Z' \(1\)"):
        longer.rows([{"site": "Z", "sex": "F"}])


def test_new_levels_of_records_are_appended():
    coding = CovariateCoding.fit(PEOPLE, ["age", "site", "sex"])
    records = [{"site": "D", "sex": "M"}, {"site": None, "sex": "X", "age": 3}, {"site": "C"}, {"site": "A"}]
    longer = coding.with_levels_of(records)
    assert longer == coding.with_categories("site", ["C", "D"]).with_categories("sex", ["X"])
    assert longer.with_levels_of(records) == longer


def test_new_categories_of_what_is_none():
    coding = CovariateCoding.fit(PEOPLE, ["age", "site"])
    with pytest.raises(ValueError, match="`name` must be one of 'site', got 'age'"):
        coding.with_categories("age", ["C"])
    with pytest.raises(ValueError, match="`values` must be texts, numbers or booleans that aren't missing, got None"):
        coding.with_categories("site", ["C", None])


# ---- missing values ----


@pytest.mark.parametrize("nothing", [None, float("nan"), pd.NA, pd.NaT, np.float32("nan"), "", "n/a", " NaN"])
def test_missing_by_hand(nothing):
    training = [{"age": 1.0, "sex": "F"}, {"age": 3.0, "sex": "M"}, {"age": nothing, "sex": "M"}, {"sex": "F"}]
    coding = CovariateCoding.fit(training, ["age", "sex"])
    assert coding.columns == ("age", "age, missing", "sex=F", "sex=M")
    with pytest.warns(UserWarning, match=r"average subject: 'age' in 2 of 4 records\.$") as caught:
        rows = coding.rows(training)
    assert len(caught) == 1
    np.testing.assert_array_equal(rows[:, :2], [[-1, -0.5], [1, -0.5], [0, 0.5], [0, 0.5]])
    with pytest.warns(UserWarning, match="'sex' in 1 of 1 records, which have no such column"):
        np.testing.assert_array_equal(coding.rows([{"age": 2.0}]), [[0, -0.5, 0, 0]])


def test_missing_category_has_a_column_after_the_levels():
    coding = coded(["b", "a", "b", None, None])
    assert coding.columns == ("x=a", "x=b", "x, missing")
    rows = quietly(coding, [{"x": "a"}, {"x": None}])
    np.testing.assert_allclose(rows, [[2 / 3, -2 / 3, -0.4], [0, 0, 0.6]], rtol=1e-6)


# ---- one subject ----


def test_row_of_the_given_covariates():
    training = [*PEOPLE, {"age": None, "sex": "F", "site": "A"}]
    coding = CovariateCoding.fit(training, ["age", "sex", "site"])
    assert not coding.row_of({}).any()
    row, places = coding.row_of({"sex": "M", "age": 80}), coding.slices()
    expected = quietly(coding, [{"sex": "M", "age": 80, "site": "A"}])[0]
    np.testing.assert_array_equal(row[places["sex"] + places["age"]], expected[places["sex"] + places["age"]])
    assert not row[places["site"]].any()
    np.testing.assert_allclose(coding.row_of({"age": None})[:3], [0, 0, 60 / 61], rtol=1e-6)
    with pytest.raises(ValueError, match=r"`values` must be one of 'age', 'sex', 'site', got 'aged'"):
        coding.row_of({"aged": 80})
    with pytest.raises(ValueError, match="`values` must be a mapping"):
        coding.row_of([80])


# ---- refusals ----


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([None, None], r"got 'x', which is missing in every record"),
        ([5.5, 5.5, None], r"got 'x', whose only value is 5\.5: there is nothing to condition on"),
        (["F", "F"], r"got 'x', whose only value is 'F': there is nothing to condition on"),
        (
            ["s1", "s2", "s3", "s4"],
            r"'x', which has as many levels as subjects or more \('s1', 's2', 's3' and 1 more\)",
        ),
        ([1, 2, 3], r"like an identifier\. Leave it out, or pass `kinds=\{'x': 'quantity'\}`"),
        ([[1], [2], [1]], r"texts, numbers or booleans as 'x', a category, got \[1\]"),
        ([1.5, 2.5, float("inf")], r"finite numbers as 'x', a quantity, got inf \(1\)"),
        (
            [*range(20), "old", "old"],
            r"only numbers or only texts as 'x', got numbers and 'old' \(2\)\. Make these None",
        ),
    ],
)
def test_values_that_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        coded(values)


def test_text_where_a_number_is_expected():
    coding = CovariateCoding.fit(PEOPLE, ["age"])
    with pytest.raises(ValueError, match=r"finite numbers as 'age', a quantity, got '30' \(2\), True \(1\)"):
        coding.rows([{"age": "30"}, {"age": 31}, {"age": "30"}, {"age": True}])
    with pytest.raises(ValueError, match="finite numbers as 'sex', a quantity"):
        CovariateCoding.fit(PEOPLE, ["sex"], kinds={"sex": "quantity"})


def test_level_of_one_subject_each_is_judged_by_subject():
    visits = [{"subject": f"sub-{i // 2}", "participant": f"P{i // 2}", "visit": i % 2 + 1} for i in range(8)]
    with pytest.raises(ValueError, match="got 'participant', which has as many levels as subjects"):
        CovariateCoding.fit(visits, ["participant"])
    assert CovariateCoding.fit(visits[:4], ["visit"]).columns == ("visit=1", "visit=2")  # two levels of two subjects


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["aeg"], r"`names` must be columns of `records`, 'age', 'sex', 'site', got 'aeg'\. Did you mean 'age'\?"),
        (["age", "sex", "age"], "`names` must name each covariate once, got 'age' twice"),
        ([], "`names` must be the names of one covariate or more"),
        ([3], "`names` must be the names of one covariate or more"),
    ],
)
def test_wrong_names(names, message):
    with pytest.raises(ValueError, match=message):
        CovariateCoding.fit(PEOPLE, names)


def test_wrong_records_and_kinds():
    for records in (PEOPLE[0], pd.DataFrame(PEOPLE), "age", 3):
        with pytest.raises(ValueError, match="`records` must be a list of mappings"):
            CovariateCoding.fit(records, ["age"])
    with pytest.raises(ValueError, match="`records` must contain the training records, got none"):
        CovariateCoding.fit([], ["age"])
    with pytest.raises(ValueError, match=r"`kinds\['age'\]` must be one of 'quantity', 'category', got 'number'"):
        CovariateCoding.fit(PEOPLE, ["age"], kinds={"age": "number"})
    with pytest.raises(ValueError, match="`kinds` must be one of 'age', got 'sex'"):
        CovariateCoding.fit(PEOPLE, ["age"], kinds={"sex": "category"})
    with pytest.raises(ValueError, match="`kinds` must map covariates"):
        CovariateCoding.fit(PEOPLE, ["age"], kinds=["age"])


def test_columns_of_one_name_are_refused():
    records = [{"a": "bc"[i % 2], "a=b": i + 0.5} for i in range(6)]
    with pytest.raises(ValueError, match=r"different columns, got 'a=b' twice from \['a', 'a=b'\]"):
        CovariateCoding.fit(records, ["a", "a=b"])


def test_one_name_and_no_records():
    coding = CovariateCoding.fit(PEOPLE, "age")
    assert coding.names == ("age",)
    empty = CovariateCoding.fit(PEOPLE, ["age", "sex"]).rows([])
    assert empty.shape == (0, 4)
    assert empty.dtype == np.float32


# ---- descriptions ----


def changed(path, value):
    description = CovariateCoding.fit(PEOPLE, ["age", "sex"]).with_categories("sex", ["X"]).description()
    description = json.loads(json.dumps(description))
    inner = description
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return description


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["other"], 1, "`description` must have the entries 'covariates', 'added'"),
        (["covariates"], [], "`description: covariates` must be a list with an entry or more"),
        (["covariates", 0], 3, "`description: covariates` must each have a name"),
        (["covariates", 0, "name"], "sex", "must have different names"),
        (["covariates", 0, "kind"], "__import__", "`description: kind of 'age'` must be one of"),
        (["covariates", 0, "sd"], 0, "`description: sd of 'age'` must be a finite number > 0, got 0"),
        (["covariates", 0, "mean"], "$1", "`description: mean of 'age'` must be a finite number"),
        (["covariates", 0, "range"], [3, 1], "`description: range of 'age'` must be 2 increasing numbers"),
        (["covariates", 0, "missing"], 2, "`description: missing of 'age'` must be a finite number >= 0 and <= 1"),
        (["covariates", 0, "extra"], 2, "`description: code of 'age'` must have the entries"),
        (["covariates", 0, "bend"], 2, "`description: bend of 'age'` must have the entries 'knots'"),
        (["covariates", 0, "bend", "knots"], [1, 2], "`description: knots of bend of 'age'` must be 3 increasing"),
        (
            ["covariates", 0, "bend", "scale"],
            -1,
            "`description: scale of bend of 'age'` must be a finite number > 0",
        ),
        (["covariates", 1, "levels"], ["F", "F"], "`description: levels of 'sex'` must be a list of different texts"),
        (["covariates", 1, "shares"], [1.0], "`description: shares of 'sex'` must be a list of 2 numbers"),
        (["covariates", 1, "shares"], [1.0, 1.0], "`description: shares of 'sex'` must sum to 1"),
        (["added"], 3, "`description: added` must be a list"),
        (["added", 0], ["sex", "F"], "pairs of a category and a new level, got"),
        (["added", 0], ["age", "F"], "pairs of a category and a new level, got"),
    ],
)
def test_wrong_descriptions(path, value, message):
    with pytest.raises(ValueError, match=message):
        CovariateCoding.from_description(changed(path, value))


# ---- properties ----

NUMBERS = st.none() | st.floats(-1e6, 1e6).map(lambda x: round(x, 3)) | st.integers(-50, 50)
LEVELS = st.sampled_from(["a", "b", "Ä", "$x", None, 2, 2.0])


@st.composite
def cohorts(draw):
    n = draw(st.integers(3, 40))
    ages = draw(st.lists(NUMBERS, min_size=n, max_size=n))
    sites = draw(st.lists(LEVELS, min_size=n, max_size=n))
    # two values of each at least, and levels that subjects share
    ages = [*ages, 1.25, 7.5]
    sites = [*sites, "a", "b", "a", "b"]
    pairs = zip(ages, sites[-len(ages) :], strict=True)
    return [{"age": age, "site": site} for age, site in pairs]


@settings(max_examples=80, deadline=None)
@given(cohorts())
def test_training_rows_have_mean_zero_and_quantities_unit_variance(records):
    coding = CovariateCoding.fit(records, ["age", "site"], kinds={"age": "quantity", "site": "category"})
    rows = quietly(coding, records).astype(float)
    assert rows.shape == (len(records), coding.n_columns)
    assert np.abs(rows.mean(axis=0)).max() < 1e-5
    there = [record["age"] is not None for record in records]
    quantity = [place for place in coding.slices()["age"] if coding.columns[place] != "age, missing"]
    second = rows[there][:, quantity].T @ rows[there][:, quantity] / sum(there)
    np.testing.assert_allclose(second, np.eye(len(quantity)), atol=1e-4)
    assert sorted(place for places in coding.slices().values() for place in places) == list(range(coding.n_columns))


@settings(max_examples=50, deadline=None)
@given(cohorts(), st.lists(st.sampled_from(["c", "d", "a", 3]), max_size=3))
def test_description_and_further_categories_keep_rows(records, new):
    coding = CovariateCoding.fit(records, ["age", "site"], kinds={"age": "quantity", "site": "category"})
    longer = coding.with_categories("site", new)
    np.testing.assert_array_equal(quietly(longer, records)[:, : coding.n_columns], quietly(coding, records))
    again = CovariateCoding.from_description(json.loads(json.dumps(longer.description(), allow_nan=False)))
    assert again == longer
    np.testing.assert_array_equal(quietly(again, records), quietly(longer, records))
