"""Factors by arrays, mappings and tables; which are discrete; their bins."""

import math

import numpy as np
import pandas as pd
import pytest

from monai_betavae.evaluation.disentanglement import mig
from monai_betavae.evaluation.known_factors import N_FOLDS, Factor, folds_of, quantile_bins

N = 150


@pytest.mark.parametrize(("n", "n_bins"), [(20, 3), (100, 5), (300, 7), (1000, 9), (20000, 19)])
def test_bins_follow_the_number_of_subjects_and_have_equal_mass(n, n_bins):
    codes = np.random.default_rng(2).normal(size=(n, 2)) ** 3
    result = mig(codes, codes[:, :1])
    assert result["n_bins"] == n_bins
    assert result["entropy"]["factor_0"] == pytest.approx(math.log(n_bins), rel=1e-2)


def test_equal_values_share_a_bin():
    codes = np.zeros((60, 2))
    codes[:, 1] = np.arange(60)
    result = mig(codes, {"x": np.arange(60.0)})
    assert result["mutual_information"][0, 0] == 0
    assert result["score"] == pytest.approx(1)


def entropies(factors, **options):
    n = len(next(iter(factors.values())))
    return mig(np.random.default_rng(15).normal(size=(n, 2)), factors, n_bins=3, **options)["entropy"]


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        (np.arange(40) % 4, 4),
        ((np.arange(40) % 4) / 3, 4),
        (np.arange(40) % 10, 10),
        (np.arange(40) % 2 == 0, 2),
        (np.array(list("abcde") * 8), 5),
        (np.array(["M", "F"] * 20, dtype=object), 2),
        (np.array([1.5, 3] * 20, dtype=object), 2),
        (pd.Series(["x", "y"] * 20, dtype="category"), 2),
        (pd.Series([True, False] * 20, dtype="boolean"), 2),
        (["a", "b"] * 20, 2),
        (np.arange(40), None),
        (np.arange(40.0), None),
        (np.arange(40) % 20, None),
        (pd.Series(range(40), dtype="Int64"), None),
    ],
)
def test_few_values_are_levels_and_many_numbers_are_continuous(values, levels):
    expected = math.log(levels) if levels else math.log(3)
    assert entropies({"x": values})["x"] == pytest.approx(expected, rel=1e-2)


def test_discrete_overrides_the_rule():
    factors = {"rating": np.arange(40) % 4, "age": np.arange(40) % 20, "sex": ["M", "F"] * 20}
    found_entropies = entropies(factors, discrete=["age"])
    assert found_entropies["age"] == pytest.approx(math.log(20))
    assert found_entropies["rating"] < math.log(3.01)
    assert found_entropies["sex"] == pytest.approx(math.log(2))  # text stays discrete


def test_arrays_mappings_and_tables_are_the_same_factors():
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(N, 3))
    codes = factors @ (np.eye(3) - 2 / 3) + 0.3 * rng.normal(size=(N, 3))
    expected = list(mig(codes, factors)["per_factor"].values())
    table = pd.DataFrame(factors, columns=["a", "b", "c"], index=range(5, 5 + N))
    assert mig(codes, factors, names=["a", "b", "c"])["per_factor"] == dict(zip("abc", expected, strict=True))
    assert mig(codes, table)["per_factor"] == dict(zip("abc", expected, strict=True))
    assert mig(codes, table.assign(id="s"), names=["c", "a"])["per_factor"] == {"c": expected[2], "a": expected[0]}
    assert mig(codes, factors)["per_factor"].keys() == {"factor_0", "factor_1", "factor_2"}


def test_bins_by_hand_and_in_reverse():
    # ranks 1 to 6 in three bins: positions 1/4, 3/4, 5/4, ... of a bin's width
    assert quantile_bins(np.array([3.0, 1, 2, 6, 5, 4]), 3).tolist() == [1, 0, 0, 2, 2, 1]
    # three equal values share rank 2, position 3/4 of two bins
    assert quantile_bins(np.array([0.0, 0, 0, 7]), 2).tolist() == [0, 0, 0, 1]
    # five values in two bins: the middle one's position is the edge, and goes to the side of the median: below
    assert quantile_bins(np.arange(5.0), 2).tolist() == [0, 0, 0, 1, 1]
    # six in four: ranks 2 and 5 lie on edges 1 and 3 of the first and last bin, and go towards the middle
    assert quantile_bins(np.arange(6.0), 4).tolist() == [0, 1, 1, 2, 2, 3]
    for values in (np.arange(6.0), np.array([0.0, 0, 1, 5, 5, 9])):
        for n_bins in (2, 3, 4, 5):
            assert quantile_bins(-values, n_bins).tolist() == (n_bins - 1 - quantile_bins(values, n_bins)).tolist()


def test_folds_deal_out_subjects_and_each_level():
    rng = np.random.default_rng(0)
    folds = folds_of(Factor("age", np.arange(23.0), discrete=False), rng)
    assert sorted(np.bincount(folds, minlength=N_FOLDS)) == [23 // N_FOLDS] * (N_FOLDS - 23 % N_FOLDS) + [
        23 // N_FOLDS + 1
    ] * (23 % N_FOLDS)
    sex = np.array([0.0] * 10 + [1.0] * 13)
    folds = folds_of(Factor("sex", sex, discrete=True), rng)
    for level in (0.0, 1.0):
        counts = np.bincount(folds[sex == level], minlength=N_FOLDS)
        assert counts.max() - counts.min() <= 1
        assert counts.min() >= 1
