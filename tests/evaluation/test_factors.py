"""Factors by arrays, mappings and tables; which are discrete; their bins."""

import math

import numpy as np
import pandas as pd
import pytest

from monai_betavae.evaluation.disentanglement import mig

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
