"""Shares of healthy subjects beyond a limit: of ideal, useless and shifted p, by covariate, and how they vary."""

import numpy as np
import pytest
from scipy.stats import betabinom

from monai_betavae.evaluation import binomial_interval, calibration_by_group, expected_share
from monai_betavae.evaluation.normative import latent_deviation

IDEAL = (np.arange(200) + 0.5) / 200


def test_ideal_p_have_the_share_that_is_expected():
    (row,) = calibration_by_group(IDEAL)
    assert (row.by, row.group, row.n, row.beyond) == ("all", "all", 200, 10)
    assert row.share.value == 0.05
    assert row.share.low < 0.05 < row.share.high
    assert row.expected[0] <= 0.05 <= row.expected[1]


def test_a_useless_norm_calls_nobody_deviating():
    (row,) = calibration_by_group(np.ones(200))
    assert (row.beyond, row.share.value, row.share.low) == (0, 0.0, 0.0)
    assert row.share.high == pytest.approx(1 - 0.025 ** (1 / 200))  # in closed form for no success
    assert row.share.value < row.expected[0]


def test_a_shift_in_one_group_is_seen_there():
    p = IDEAL.copy()
    site = np.array(list("AB") * 100)
    p[site == "B"] /= 10  # half of B beyond the limit
    everyone, a, b = calibration_by_group(p, categories={"site": site.tolist()})
    assert (a.group, a.n, a.beyond) == ("A", 100, 5)
    assert (b.group, b.n, b.beyond) == ("B", 100, 50)
    assert everyone.beyond == 55
    assert a.expected[0] <= a.share.value <= a.expected[1] < b.share.low


def test_a_shift_with_age_is_seen_in_the_oldest_third():
    rng = np.random.default_rng(0)
    age = rng.uniform(20, 80, 90)
    p = np.where(age > np.quantile(age, 2 / 3), 0.01, 0.5)
    rows = calibration_by_group(p, {"age": age})[1:]
    assert [row.n for row in rows] == [30, 30, 30]
    assert [row.beyond for row in rows] == [0, 0, 30]
    ends = [[float(end) for end in row.group.split(" to ")] for row in rows]
    assert ends[0][0] == pytest.approx(age.min(), rel=1e-4)
    assert ends[2][1] == pytest.approx(age.max(), rel=1e-4)
    assert ends[0][1] < ends[1][0] < ends[1][1] < ends[2][0]


def test_equal_and_missing_values():
    rows = calibration_by_group(
        [0.01, 0.5, 0.5, 0.5, 0.5], {"age": [None, 3, 3, 3, float("nan")]}, {"sex": ["F", None, "M", "M", None]}
    )
    assert [(row.by, row.group, row.n, row.beyond) for row in rows] == [
        ("all", "all", 5, 1), ("age", "3 to 3", 3, 0), ("sex", "F", 1, 1), ("sex", "M", 2, 0)
    ]  # fmt: skip
    assert len(calibration_by_group([0.5], {"age": [None]}, {"sex": [None]})) == 1


@pytest.mark.parametrize(("n", "k"), [(19, 1), (20, 1), (39, 2), (10, 0), (99, 5)])
def test_ranks_among_a_reference_have_a_share_of_their_own(n, k):
    ranks = np.arange(1, n + 2) / (n + 1)
    assert expected_share(0.05, n) == k / (n + 1)
    (row,) = calibration_by_group(ranks, n_reference=n)
    assert row.beyond == k
    if k == 0:
        assert row.expected == (0, 0)


def test_the_range_of_a_calibrated_norm_holds_95_percent_of_simulated_studies():
    rng = np.random.default_rng(0)
    n, m = 40, 30
    shares = []
    for _ in range(2000):
        reference, scores = rng.normal(size=n), rng.normal(size=m)
        p = (1 + (reference >= scores[:, None]).sum(axis=1)) / (n + 1)
        shares.append((p <= 0.05).mean())
    low, high = calibration_by_group(p, n_reference=n)[0].expected
    inside = np.mean([(low <= share <= high) for share in shares])
    assert 0.95 <= inside < 0.99
    assert np.mean(shares) == pytest.approx(expected_share(0.05, n), abs=0.004)
    assert high == betabinom.ppf(0.975, m, 2, 39) / m


def test_codes_of_the_reference_s_population_are_calibrated():
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(60):
        reference, new = rng.normal(size=(60, 4)), rng.normal(size=(50, 4))
        p = latent_deviation(new, np.full(new.shape, -3.0), reference, np.full(reference.shape, -3.0))["p_subject"]
        shares.append(calibration_by_group(p, n_reference=60)[0].share.value)
    assert np.mean(shares) == pytest.approx(expected_share(0.05, 60), abs=0.012)


def test_the_binomial_interval_is_that_of_clopper_and_pearson():
    found = binomial_interval(2, 40)
    assert [round(value, 4) for value in found] == [0.05, 0.0061, 0.1692]  # R: binom.test(2, 40)
    assert binomial_interval(7, 7).high == 1.0


def test_refusals():
    for arguments, message in (
        ({"p": []}, "`p` must have shape"),
        ({"p": [[0.5]]}, "`p` must have shape"),
        ({"p": [0.5, 1.5]}, "`p` must be from 0 to 1, got 0.5 to 1.5"),
        ({"p": [float("nan")]}, "`p` must be from 0 to 1"),
        ({"p": [0.5], "limit": 0}, "`limit` must be"),
        ({"p": [0.5], "limit": 1}, "`limit` must be below 1"),
        ({"p": [0.5], "n_parts": 0}, "`n_parts` must be an integer >= 1"),
        ({"p": [0.5], "n_reference": 0}, "`n_reference` must be an integer >= 1"),
        (
            {"p": [0.5], "quantities": {"age": [1, 2]}},
            "`quantities` must have a value for each of 1 `p`, got 2 of 'age'",
        ),
        ({"p": [0.5], "categories": {"sex": []}}, "`categories` must have a value for each of 1 `p`, got 0 of 'sex'"),
    ):
        with pytest.raises(ValueError, match=message):
            calibration_by_group(**arguments)
    with pytest.raises(ValueError, match="`count` must be an integer from 0 to 3"):
        binomial_interval(4, 3)
