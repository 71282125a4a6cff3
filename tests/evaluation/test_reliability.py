"""Reliability of repeated scans: a published table, ideal and useless codes, unbalanced subjects."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_betavae.evaluation import (
    estimate_intraclass_correlation,
    identification_rate,
    intraclass_correlation,
    within_subject_deviation,
)

# Shrout & Fleiss 1979, table 2: ratings of 6 targets by 4 judges; table 4: ICC(1,1) = .17
RATINGS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)
TARGETS = np.repeat(np.arange(6), 4)


def scans(counts, noise, n_latents=1, seed=0):
    """Codes of subjects of unit variance, and noise of a given deviation for each scan."""
    rng = np.random.default_rng(seed)
    subjects = np.repeat(np.arange(len(counts)), counts)
    return rng.normal(size=(len(counts), n_latents))[subjects] + noise * rng.normal(
        size=(len(subjects), n_latents)
    ), subjects


def by_loops(values, subjects):
    """ICC(1,1) by the definition, one subject at a time."""
    groups = [values[subjects == name] for name in sorted(set(subjects.tolist()))]
    n, g = len(values), len(groups)
    between = sum(len(each) * (each.mean() - values.mean()) ** 2 for each in groups) / (g - 1)
    within = sum(((each - each.mean()) ** 2).sum() for each in groups) / (n - g)
    size = (n - sum(len(each) ** 2 for each in groups) / n) / (g - 1)
    return (between - within) / (between + (size - 1) * within)


def test_the_published_table():
    found = float(intraclass_correlation(RATINGS.ravel(), TARGETS))
    assert found == pytest.approx(0.17, abs=0.005)
    # the paper's mean squares: 11.24 between targets, 6.26 within
    assert found == pytest.approx((11.24 - 6.26) / (11.24 + 3 * 6.26), abs=2e-4)
    assert float(within_subject_deviation(RATINGS.ravel(), TARGETS)) ** 2 == pytest.approx(6.26, abs=0.005)


def test_the_mean_squares_are_those_of_an_analysis_of_variance():
    from scipy.stats import f_oneway

    counts = [2, 3, 1, 5, 2, 4]
    values, subjects = scans(counts, 0.7, seed=3)
    f = f_oneway(*(values[subjects == i, 0] for i in range(6))).statistic
    size = (17 - np.square(counts).sum() / 17) / 5
    assert float(intraclass_correlation(values, subjects)[0]) == pytest.approx((f - 1) / (f + size - 1))
    assert float(intraclass_correlation(values[:, 0], subjects)) == pytest.approx(by_loops(values[:, 0], subjects))


def test_equal_repeats_are_ideal_and_independent_ones_useless():
    values, subjects = scans([2, 3, 1, 2] * 20, 0.0, n_latents=3)
    np.testing.assert_allclose(intraclass_correlation(values, subjects), 1)
    np.testing.assert_allclose(within_subject_deviation(values, subjects), 0, atol=1e-7)
    noise = np.random.default_rng(1).normal(size=(600, 20))
    assert abs(intraclass_correlation(noise, np.repeat(np.arange(300), 2)).mean()) < 0.05
    # scans of a subject that are as different as they can be
    assert float(intraclass_correlation(np.array([-1.0, 1.0] * 3), np.repeat(np.arange(3), 2))) == -1


def test_a_known_share_of_variance_is_found_however_unbalanced_the_subjects_are():
    for counts in ([2] * 3000, [1, 2, 3, 8] * 750):
        values, subjects = scans(counts, 0.5)
        assert float(intraclass_correlation(values, subjects)[0]) == pytest.approx(0.8, abs=0.02)
        assert float(within_subject_deviation(values, subjects)[0]) == pytest.approx(0.5, abs=0.02)


def test_duplicates():
    values, subjects = scans([2] * 40, 0.5, n_latents=2)
    once = intraclass_correlation(values, subjects)
    # a latent that is there twice: the same number twice
    np.testing.assert_allclose(intraclass_correlation(values[:, [0, 1, 0]], subjects), once[[0, 1, 0]])
    # everyone twice under another name: as many degrees of freedom more, nothing else
    twice = intraclass_correlation(np.vstack([values, values]), np.concatenate([subjects, subjects + 40]))
    np.testing.assert_allclose(twice, once, atol=0.02)
    # every scan listed twice looks more reliable than it is, which is why volumes of one file mustn't be repeats
    assert (intraclass_correlation(np.repeat(values, 2, axis=0), np.repeat(subjects, 2)) > once).all()


@given(st.integers(0, 1000), st.lists(st.integers(1, 4), min_size=3, max_size=8), st.floats(0.01, 100))
@settings(max_examples=40, deadline=None)
def test_it_knows_no_scale_shift_order_or_name(seed, counts, scale):
    counts = [2, 3, *counts]
    values, subjects = scans(counts, 0.8, n_latents=2, seed=seed)
    found = intraclass_correlation(values, subjects)
    size = (sum(counts) - np.square(counts).sum() / sum(counts)) / (len(counts) - 1)
    assert (found <= 1).all()
    assert (found >= -1 / (size - 1) - 1e-9).all()
    np.testing.assert_allclose(found, [by_loops(column, subjects) for column in values.T], atol=1e-9)
    order = np.random.default_rng(seed).permutation(len(subjects))
    names = np.array([f"sub-{97 * each % 31}" for each in subjects])
    changed = intraclass_correlation(7 - scale * values[order], names[order])
    np.testing.assert_allclose(changed, found, atol=1e-9)


def test_a_constant_latent_has_no_reliability():
    values, subjects = scans([2] * 10, 0.5, n_latents=2)
    values[:, 1] = 0.1  # its mean isn't 0.1 in floating point
    found = intraclass_correlation(values, subjects)
    assert np.isfinite(found).tolist() == [True, False]
    assert np.isnan(estimate_intraclass_correlation(values, subjects, n_resamples=20).value)
    far = intraclass_correlation(values[:, 0] + 1e6, subjects)
    assert float(far) == pytest.approx(found[0], abs=1e-6)


def test_the_interval_covers_the_truth_and_draws_subjects_with_all_their_scans():
    covered = [
        found.low < 0.8 < found.high
        for found in (
            estimate_intraclass_correlation(*scans([2, 2, 3] * 20, 0.5, seed=seed), n_resamples=200)
            for seed in range(60)
        )
    ]
    assert 0.85 <= np.mean(covered) <= 1
    values, subjects = scans([2, 2, 3, 1] * 5, 0.5, n_latents=3)
    first, again = (estimate_intraclass_correlation(values, subjects, n_resamples=50, seed=2) for _ in range(2))
    assert first == again
    assert first.value == np.median(intraclass_correlation(values, subjects))
    # by hand: 20 subjects drawn, with all their scans, as subjects of their own
    drawn = np.random.default_rng(2).integers(0, 20, (50, 20))
    by_hand = []
    for chosen in drawn:
        rows = [np.flatnonzero(subjects == each) for each in chosen]
        names = np.repeat(np.arange(20), [len(each) for each in rows])
        by_hand.append(np.median(intraclass_correlation(values[np.concatenate(rows)], names)))
    np.testing.assert_allclose(first[1:], np.quantile(by_hand, [0.025, 0.975]))


def test_resamples_without_a_repeated_scan_are_left_out():
    values, subjects = scans([2, 2, *[1] * 30], 0.5)
    found = estimate_intraclass_correlation(values, subjects, n_resamples=100)
    assert np.isfinite(found).all()


def test_two_methods_side_by_side_have_an_interval_of_their_difference():
    values, subjects = scans([2] * 60, 0.4, n_latents=4)
    worse = values + np.random.default_rng(5).normal(size=values.shape)
    found = estimate_intraclass_correlation(
        np.hstack([values, worse]), subjects, summary=lambda icc: icc[:4].mean() - icc[4:].mean(), n_resamples=200
    )
    assert 0 < found.low < found.value < found.high < 1


def test_scans_are_identified_by_good_codes_and_at_chance_by_useless_ones():
    good, subjects = scans([2, 3, 1, 2] * 10, 0.01, n_latents=4)
    found = identification_rate(good, subjects)
    assert found.rate == (1, 1, 1)
    counts = np.repeat([2, 3, 1, 2] * 10, [2, 3, 1, 2] * 10)
    assert found.chance == pytest.approx((counts[counts > 1] - 1).mean() / (len(counts) - 1))
    noise = np.random.default_rng(0).normal(size=(600, 4))
    useless = identification_rate(noise, np.repeat(np.arange(200), 3))
    assert useless.chance == pytest.approx(2 / 599)
    assert abs(useless.rate.value - useless.chance) < 0.01
    # codes that are all the same are all equally near
    same = identification_rate(np.ones((80, 3)), subjects)
    assert same.rate.value == pytest.approx(same.chance)


def test_identification_is_of_the_nearest_other_scan_in_standardised_codes():
    codes = np.array([[0.0, 0.0], [0.1, 300.0], [5.0, 100.0], [5.1, 900.0]])
    subjects = np.array(["a", "a", "b", "b"])
    # in raw units every scan is nearest to one of the other subject; in standardised ones only the third is
    assert identification_rate(codes, subjects).rate.value == 0.75
    assert identification_rate(codes * [1e4, 1e-3] + 3, subjects).rate.value == 0.75
    constant = np.column_stack([codes[:, 0], np.full(4, 0.1)])
    assert identification_rate(constant, subjects) == identification_rate(codes[:, 0], subjects)
    # a subject with one scan can be mistaken for others, but isn't looked for itself
    more = np.array([0.0, 2.0, 10.0, 12.0, 1.0, 11.5])
    found = identification_rate(more, np.array(["a", "a", "b", "b", "c", "d"]))
    assert found.rate.value == 0
    assert found.chance == 1 / 5


@pytest.mark.parametrize(
    ("values", "subjects", "message"),
    [
        (np.ones((4, 2, 2)), [1, 1, 2, 2], r"must have shape \(n,\) or \(n, n_dimensions\), a row per scan, got \(4"),
        (np.ones(0), [], "must have shape"),
        (["a", "b", "c", "d"], [1, 1, 2, 2], "must be numbers"),
        (np.array([1.0, np.nan, 3.0, 4.0]), [1, 1, 2, 2], "finite, got non-finite values in 1 rows, the first 1"),
        (np.arange(4.0), [1, 1, 2], r"`subjects` must have shape \(4,\)"),
        (np.arange(4.0), np.array(["a", None, "b", "b"], dtype=object), "`subjects` must say every row's subject"),
        (np.arange(4.0), [1, 1, 2, 3], "`subjects` must name at least 2 subjects that have 2 or more scans, got 1"),
        (np.arange(4.0), [1, 2, 3, 4], "got 0"),
    ],
)
@pytest.mark.parametrize(
    "score",
    [intraclass_correlation, within_subject_deviation, estimate_intraclass_correlation, identification_rate],
)
def test_wrong_input_is_refused(score, values, subjects, message):
    with pytest.raises(ValueError, match=message) as caught:
        score(values, subjects)
    if "subjects" not in message and "got 0" not in message:
        assert str(caught.value).startswith("`codes`" if score is identification_rate else "`values`")
