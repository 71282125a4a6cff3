"""Bootstrap intervals: the textbook's, paired, and refusals."""

import math

import numpy as np
import pytest

from monai_betavae.evaluation.intervals import estimate


def test_the_interval_of_a_mean_is_the_normal_one_where_that_holds():
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = estimate(values, n_resamples=5000)
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)


def test_it_covers_what_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for number in range(200):
        found = estimate(rng.exponential(1.0, 60), level=0.8, n_resamples=300, seed=number)
        hits += found.low <= 1.0 <= found.high
    assert 140 <= hits <= 175  # binomial(200, 0.8): mean 160, sd 5.7; of a skewed mean a little fewer


def test_rows_stay_together():
    x = np.arange(30.0)
    found = estimate(x, x, statistic=lambda a, b: float(np.abs(a - b).max()))
    assert found == (0.0, 0.0, 0.0)
    assert estimate(x, -x, statistic=lambda a, b: float(np.corrcoef(a, b)[0, 1])).high == pytest.approx(-1)


def test_a_seed_draws_the_same_subjects():
    values = np.random.default_rng(2).normal(size=50)
    assert estimate(values, seed=3) == estimate(values, seed=3)
    assert estimate(values, seed=3) != estimate(values, seed=4)
    difference = estimate(values + 5, seed=3).low - estimate(values, seed=3).low
    assert difference == pytest.approx(5)


def test_a_wider_level_is_a_wider_interval():
    values = np.random.default_rng(2).normal(size=50)
    narrow, wide = estimate(values, level=0.5), estimate(values, level=0.99)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_one_subject_has_no_interval():
    found = estimate(np.array([4.0]))
    assert found.value == 4
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def clusters(sizes, seed=0):
    """Rows of subjects, in mixed order: a value of each subject, and a little noise of each row."""
    rng = np.random.default_rng(seed)
    subjects = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return rng.normal(size=len(sizes))[subjects] + 0.1 * rng.normal(size=len(subjects)), subjects


def ratio(values, weights):
    return float((values * weights).sum() / weights.sum())


@pytest.mark.parametrize("sizes", [[2] * 12, [1, 2, 3, 1, 5, 2, 1, 4]])
def test_subjects_are_drawn_with_all_their_rows(sizes):
    values, subjects = clusters(sizes)
    weights = np.linspace(1, 2, len(values))
    found = estimate(values, weights, statistic=ratio, subjects=subjects, seed=5, n_resamples=300)
    # independently: how often each subject is drawn, as weights of its rows
    first = list(dict.fromkeys(subjects.tolist()))
    drawn = np.random.default_rng(5).integers(0, len(sizes), (300, len(sizes)))
    counts = np.stack([(drawn == first.index(subject)).sum(axis=1) for subject in subjects], axis=1)
    scores = (counts * values * weights).sum(axis=1) / (counts * weights).sum(axis=1)
    assert found.value == ratio(values, weights)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])), rel=1e-12)


def test_repeated_rows_leave_the_interval_as_it_is():
    values, _ = clusters([1] * 20)
    once = estimate(values, np.abs(values), statistic=ratio)
    five = np.repeat(values, 5)
    again = estimate(five, np.abs(five), statistic=ratio, subjects=np.repeat(np.arange(20), 5))
    assert again == pytest.approx(once, rel=1e-12)
    # as rows of different subjects they would promise too much
    naive = estimate(five, np.abs(five), statistic=ratio)
    assert naive.high - naive.low < 0.6 * (once.high - once.low)


def test_subjects_of_one_row_each_change_no_bit():
    values, _ = clusters([1] * 23)
    for names in (np.arange(23)[::-1], [f"subject {i}" for i in range(23)], np.random.default_rng(0).permutation(23)):
        assert estimate(values, subjects=names) == estimate(values)


def test_the_interval_of_alike_scans_covers_what_it_says():
    rng = np.random.default_rng(1)
    hits, naive_hits = 0, 0
    for number in range(200):
        scans = np.repeat(rng.normal(size=30), 4) + 0.1 * rng.normal(size=120)
        found = estimate(scans, level=0.8, n_resamples=200, seed=number, subjects=np.repeat(np.arange(30), 4))
        naive = estimate(scans, level=0.8, n_resamples=200, seed=number)
        hits += found.low <= 0 <= found.high
        naive_hits += naive.low <= 0 <= naive.high
    assert 140 <= hits <= 178  # binomial(200, 0.8)
    assert naive_hits < 120  # half as wide


def test_scans_of_one_subject_have_no_interval():
    found = estimate(np.arange(4.0), subjects=["a"] * 4)
    assert found.value == 1.5
    assert math.isnan(found.low)


def test_resamples_without_a_value_are_left_out():
    labels = np.array([1.0, 0, 0, 0])
    found = estimate(labels, statistic=lambda a: a.mean() / (a.max() > 0) if a.max() > 0 else math.nan)
    assert found.low >= 0.25


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ((), {}, "`arrays` must have the same number of rows"),
        ((np.zeros(0),), {}, "`arrays` must have the same number of rows, at least one, got \\[0\\]"),
        ((np.zeros(3), np.zeros(4)), {}, "got \\[3, 4\\]"),
        ((np.zeros(3),), {"level": 1.5}, "`level` must be a finite number > 0 and <= 1, got 1.5"),
        ((np.zeros(3),), {"subjects": [1, 2]}, r"`subjects` must have shape \(3,\), a label for each row, got \(2,\)"),
        ((np.zeros(3),), {"n_resamples": 0}, "`n_resamples` must be an integer >= 1"),
    ],
)
def test_refusals(arrays, options, message):
    with pytest.raises(ValueError, match=message):
        estimate(*arrays, **options)


@pytest.mark.parametrize("row", [0, 7, 19])
def test_every_subject_is_drawn(row):
    values = np.zeros(20)
    values[row] = 1.0
    assert estimate(values).high >= 0.1  # drawn twice or more in one of forty resamples
