"""A covariate as a probe takes it: which kind it is, what is missing, who is whom."""

import math

import numpy as np
import pandas as pd
import pytest

from monai_betavae.evaluation.targets import check_subjects, kind_of, read_probe_data

N = 80
CODES = np.random.default_rng(0).normal(size=(N, 2))
AGE = 60 + 10 * CODES[:, 0]
SEX = np.where(CODES[:, 1] > 0, "m", "f")


def read(target, groups=None, kind=None, codes=CODES):
    return read_probe_data("codes", codes, "target", target, "groups", groups, kind)


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (AGE, "regression"),
        (np.round(AGE).astype(int), "regression"),
        (SEX, "classification"),
        (SEX.astype(object), "classification"),
        (SEX == "m", "classification"),
        ((SEX == "m").astype(int), "classification"),
        (np.where(np.arange(N) < 3, np.nan, SEX == "m"), "classification"),
        ((SEX == "m") * 0.5, "regression"),
        (pd.Series(SEX), "classification"),
    ],
)
def test_kinds_are_told_from_the_values(target, kind):
    assert read(target).kind == kind
    if np.asarray(target).dtype.kind in "if":
        assert read(target, kind="regression").kind == "regression"


def test_ten_different_whole_numbers_are_classes_and_eleven_are_not():
    assert kind_of(np.arange(30) % 10) == "classification"
    assert kind_of(np.arange(33) % 11) == "regression"


@pytest.mark.parametrize("missing", [None, math.nan, np.float32("nan"), pd.NA, pd.NaT], ids=str)
def test_rows_without_a_target_are_left_out_of_everything(missing):
    target = np.array([70.5, missing, 60.5, 65.5, missing, 61.5], dtype=object)
    groups = ["c", "x", "a", "b", "x", "a"]
    data = read(target, groups, codes=CODES[:6])
    assert data.used.tolist() == [0, 2, 3, 5]
    assert data.values.tolist() == [70.5, 60.5, 65.5, 61.5]
    assert (data.codes == CODES[[0, 2, 3, 5]]).all()
    assert (data.subjects[1] == data.subjects[3], len(set(data.subjects)), data.n_rows) == (True, 3, 6)


def test_classes_are_numbered_in_their_order():
    data = read(np.array(["m", "f", "x", "f"] * 20))
    assert data.classes.tolist() == ["f", "m", "x"]
    assert data.values[:4].tolist() == [1, 0, 2, 0]


def test_subjects_are_counted_not_rows():
    data = read(AGE, groups=np.arange(N) // 16)
    check_subjects(data, 5)
    with pytest.raises(ValueError, match=r"`target` must be known for at least 6 subjects .*got 5"):
        check_subjects(data, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": np.ones(N)}, "`target` must have more than one value, got 80 rows with a value out of 80"),
        ({"target": AGE[:9]}, "`target` must have 80 rows as `codes` has, got 9"),
        ({"target": np.append(AGE[1:], np.inf)}, "`target` must be finite or missing"),
        ({"target": np.array([True, "a"] * 40, dtype=object)}, "`target` must be numbers, booleans or strings"),
        ({"target": SEX, "kind": "regression"}, "`target` must be numbers for a regression, got '[mf]'"),
        ({"target": AGE, "kind": "cluster"}, "`kind` must be one of"),
        ({"target": AGE, "codes": np.where(CODES > 0, CODES, np.nan)}, "`codes` must be finite"),
        ({"target": AGE, "codes": CODES[:, 0]}, r"`codes` must have shape \(n, n_codes\)"),
        ({"target": AGE, "groups": np.arange(3)}, r"`groups` must have shape \(80,\)"),
        ({"target": AGE, "groups": [None, *range(79)]}, "`groups` must say every row's subject, got none for 1"),
    ],
)
def test_refusals_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        read(**options)
