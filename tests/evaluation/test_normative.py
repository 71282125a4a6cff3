"""Deviations from a healthy reference: hand-computed, calibrated where nothing deviates, found where something does."""

import math

import numpy as np
import pytest
from scipy import stats

from monai_betavae.evaluation.normative import correct_p_values, latent_deviation, significant_count, voxel_deviation

CERTAIN = -60.0  # a log-variance that is nothing


def test_latent_z_and_p_by_hand():
    train = np.array([[0.0, 10], [2, 10], [4, 13]])  # means 2 and 11, variances 4 and 3
    logvar = np.log([[5.0, 1.0]])
    found = latent_deviation(np.array([[8.0, 9.0]]), logvar, train)
    np.testing.assert_allclose(found["z"], [[6 / 3, -2 / 2]])
    np.testing.assert_allclose(found["score"], [1.5])
    t = [6 / math.sqrt(4 * 4 / 3 + 5), -2 / math.sqrt(3 * 4 / 3 + 1)]
    # Student's t with 2 degrees: P(T > t) = 1/2 - t / (2 sqrt(2 + t^2))
    p = [1 - abs(value) / math.sqrt(2 + value**2) for value in t]
    np.testing.assert_allclose(found["p_values"], [p])
    np.testing.assert_allclose(found["q_values"], [[min(2 * p[0], p[1]), p[1]]])
    assert found["active"].tolist() == [True, True]


def test_p_subject_is_the_rank_among_left_out_scores():
    rng = np.random.default_rng(0)
    train, train_logvar = rng.normal(size=(12, 3)) * [1, 2, 0.5], rng.normal(size=(12, 3))
    mu, logvar = rng.normal(size=(7, 3)) * [1, 2, 0.5], rng.normal(size=(7, 3))
    left_out = []
    for row in range(12):
        others = np.delete(train, row, axis=0)
        scale = np.sqrt(others.var(axis=0, ddof=1) + np.exp(train_logvar[row]))
        left_out.append(np.mean(np.abs(train[row] - others.mean(axis=0)) / scale))
    found = latent_deviation(mu, logvar, train, train_logvar)
    expected = [(1 + sum(other >= score for other in left_out)) / 13 for score in found["score"]]
    np.testing.assert_allclose(found["p_subject"], expected)
    assert len(set(expected)) > 3
    np.testing.assert_allclose(found["q_subject"], stats.false_discovery_control(expected))


def test_without_the_references_posteriors_p_subject_is_conservative():
    rng = np.random.default_rng(1)
    train, mu = rng.normal(size=(50, 4)), rng.normal(size=(40, 4))
    known = latent_deviation(mu, np.zeros((40, 4)), train, np.zeros((50, 4)))["p_subject"]
    unknown = latent_deviation(mu, np.zeros((40, 4)), train)["p_subject"]
    assert (unknown >= known).all()
    assert unknown.mean() > known.mean() + 0.1


def test_p_values_are_uniform_under_the_null():
    rng = np.random.default_rng(2)
    per_dimension, per_subject = [], []
    for _ in range(400):  # new reference each time: subjects of one share its error
        train = 3 * rng.normal(size=(10, 2)) + 5
        found = latent_deviation(3 * rng.normal(size=(1, 2)) + 5, np.full((1, 2), CERTAIN), train)
        per_dimension += found["p_values"].ravel().tolist()
        per_subject.append(found["p_subject"].item())
    assert stats.kstest(per_dimension, "uniform").pvalue > 0.05
    ranks = np.round(np.array(per_subject) * 11).astype(int)
    assert stats.chisquare(np.bincount(ranks, minlength=12)[1:]).pvalue > 0.01


def test_the_normal_distribution_would_be_wrong_for_a_small_reference():
    rng = np.random.default_rng(3)
    z, p = [], []
    for _ in range(1000):
        found = latent_deviation(rng.normal(size=(1, 1)), np.full((1, 1), CERTAIN), rng.normal(size=(5, 1)))
        z.append(found["z"].item())
        p.append(found["p_values"].item())
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.02)
    assert np.mean(2 * stats.norm.sf(np.abs(z)) < 0.05) > 0.12


def test_posterior_variance_makes_p_conservative():
    rng = np.random.default_rng(4)
    train, mu = rng.normal(size=(200, 3)), rng.normal(size=(2000, 3))
    p = latent_deviation(mu, np.zeros((2000, 3)), train)["p_values"]
    assert np.mean(p < 0.05) < 0.02


def test_a_shifted_subject_is_found():
    rng = np.random.default_rng(5)
    train, mu = rng.normal(size=(200, 8)), rng.normal(size=(20, 8))
    mu[3] += 3
    mu[7, 2] -= 8
    small = np.full(mu.shape, -3.0)
    found = latent_deviation(mu, small, train, np.full(train.shape, -3.0))
    assert found["score"].argmax() == 3
    assert found["p_subject"][3] == 1 / 201
    assert found["q_subject"][3] < 0.05
    assert found["q_values"][7, 2] < 0.001
    assert found["z"][7, 2] < -6
    others = np.delete(found["q_values"], [3, 7], axis=0)
    assert (others < 0.05).sum() <= 2


def test_duplicated_and_permuted_subjects():
    rng = np.random.default_rng(6)
    train, mu, logvar = rng.normal(size=(30, 3)), rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    once = latent_deviation(mu, logvar, train)
    twice = latent_deviation(np.tile(mu, (2, 1)), np.tile(logvar, (2, 1)), train[::-1])
    for key in ("z", "score", "p_values", "q_values", "p_subject"):
        reps = (2, 1) if once[key].ndim == 2 else 2
        np.testing.assert_allclose(twice[key], np.tile(once[key], reps))


def test_collapsed_dimensions_dilute_and_can_be_left_out():
    rng = np.random.default_rng(7)
    train = np.concatenate([rng.normal(size=(40, 2)), 1e-3 * rng.normal(size=(40, 2)), np.full((40, 1), 0.1)], axis=1)
    mu = np.array([[4.0, -4, 0, 0, 0.1]])
    logvar = np.array([[CERTAIN, CERTAIN, 0, 0, 0]])
    everything = latent_deviation(mu, logvar, train)
    assert everything["active"].tolist() == [True] * 4 + [False]  # the constant one has no scale
    chosen = latent_deviation(mu, logvar, train, min_variance=0.01)
    assert chosen["active"].tolist() == [True, True, False, False, False]
    assert chosen["score"] == pytest.approx(2 * everything["score"], rel=1e-3)
    alone = latent_deviation(mu[:, :2], logvar[:, :2], train[:, :2])
    for key in ("z", "p_values", "q_values"):
        np.testing.assert_allclose(chosen[key][:, :2], alone[key])
        assert np.isnan(chosen[key][:, 2:]).all()
    assert chosen["p_subject"] == alone["p_subject"]


def test_the_only_subject_off_a_constant_is_a_reference_all_the_same():
    train = np.zeros((5, 1))
    train[4] = 1
    found = latent_deviation(np.array([[9.0]]), np.array([[CERTAIN]]), train)
    assert found["p_subject"].item() == 2 / 6  # one left-out score is infinite


def test_voxel_z_and_p_by_hand():
    healthy = np.zeros((3, 1, 1, 4))
    healthy[:, 0, 0, 0] = [1, 2, 3]  # mean 2, sd 1
    healthy[:, 0, 0, 1] = [0, 0, 0.003]  # sd below the floor
    residuals = np.array([[4.0, 0.101, 0.0, 7.0], [1.0, 0.001, 0.2, 7.0]]).reshape(2, 1, 1, 1, 4)
    mask = np.array([1, 1, 1, 0]).reshape(1, 1, 4)
    found = voxel_deviation(residuals, healthy[:, None], mask, sd_floor=0.1)
    np.testing.assert_allclose(found["z"][:, 0, 0], [[2, 1, 0, 0], [-1, 0, 2, 0]], atol=1e-12)
    t = 2 / math.sqrt(4 / 3)
    assert found["p"][0, 0, 0, 0] == pytest.approx(1 - t / math.sqrt(2 + t**2))
    assert found["p"][0, 0, 0, 2] == 1
    assert np.isnan(found["p"][..., 3]).all()
    assert not np.isnan(found["p"][..., :3]).any()


def test_voxel_p_values_are_uniform_under_the_null():
    rng = np.random.default_rng(8)
    spread = rng.uniform(0.5, 2, size=(12, 12, 12))
    residuals, healthy = (rng.normal(0.3, spread, size=(n, 12, 12, 12)) for n in (1, 8))
    p = voxel_deviation(residuals, healthy)["p"].ravel()
    assert stats.kstest(p, "uniform").pvalue > 0.05


def test_a_masks_subject_has_its_own_voxels():
    rng = np.random.default_rng(9)
    residuals, healthy, masks = rng.normal(size=(2, 4, 4, 4)), rng.normal(size=(6, 4, 4, 4)), np.zeros((2, 4, 4, 4))
    masks[0, :2], masks[1, 2:] = 1, 1
    found = voxel_deviation(residuals, healthy, masks)
    whole = voxel_deviation(residuals, healthy)
    np.testing.assert_array_equal(found["z"], np.where(masks, whole["z"], 0))
    np.testing.assert_array_equal(found["p"], np.where(masks, whole["p"], np.nan))


def test_a_lesion_is_found_and_training_residuals_would_find_it_in_anyone():
    rng = np.random.default_rng(10)
    train, healthy = 0.3 * rng.normal(size=(40, 10, 10, 10)), rng.normal(size=(40, 10, 10, 10))
    residuals = rng.normal(size=(2, 10, 10, 10))
    residuals[1, 2:5, 2:5, 2:5] += 12
    lesion = np.zeros((10, 10, 10), dtype=bool)
    lesion[2:5, 2:5, 2:5] = True
    q = correct_p_values(voxel_deviation(residuals, healthy)["p"])
    assert (q[1] <= 0.05)[lesion].all()
    assert significant_count(q)[0] == 0
    assert significant_count(q)[1] <= 27 + 5
    overfit = correct_p_values(voxel_deviation(residuals, train)["p"])
    assert significant_count(overfit)[0] > 200


def test_corrections_by_hand():
    p = np.array([[0.01, 0.04, 0.03, 0.5], [0.2, 0.2, 0.2, 0.2]])
    np.testing.assert_allclose(correct_p_values(p), [[0.04, 4 * 0.04 / 3, 4 * 0.04 / 3, 0.5], [0.2] * 4])
    np.testing.assert_allclose(correct_p_values(p, "bonferroni"), [[0.04, 0.16, 0.12, 1], [0.8] * 4])
    harmonic = 1 + 1 / 2 + 1 / 3 + 1 / 4
    expected = [[0.04 * harmonic, 0.16 / 3 * harmonic, 0.16 / 3 * harmonic, 1], [0.2 * harmonic] * 4]
    np.testing.assert_allclose(correct_p_values(p, "by"), expected)


@pytest.mark.parametrize("method", ["bh", "by", "bonferroni"])
def test_untested_voxels_dont_count(method):
    p = np.random.default_rng(11).random((2, 3, 4)) / 5
    holes = np.full((2, 3, 9), np.nan)
    holes[:, :, 2:6] = p
    found = correct_p_values(holes, method)
    np.testing.assert_allclose(found[:, :, 2:6], correct_p_values(p, method))
    assert np.isnan(found).sum() == 2 * 3 * 5
    holes[1] = np.nan
    assert np.isnan(correct_p_values(holes, method)[1]).all()


def test_false_discoveries_are_as_many_as_promised():
    rng = np.random.default_rng(12)
    false_shares, any_false = [], []
    for _ in range(150):
        healthy, residuals = rng.normal(size=(30, 10, 5, 4)), rng.normal(size=(1, 10, 5, 4))
        residuals[:, :2] += 6  # a fifth of the voxels
        p = voxel_deviation(residuals, healthy)["p"]
        found = correct_p_values(p)[0] <= 0.1
        assert found.sum() >= 20
        false_shares.append(found[2:].sum() / found.sum())
        any_false.append((correct_p_values(p, "bonferroni")[0] <= 0.1)[2:].any())
    assert np.mean(false_shares) == pytest.approx(0.08, abs=0.02)  # level times the share of true nulls
    assert np.mean(any_false) < 0.15


def test_significant_counts():
    q = np.array([[[0.05, 0.051], [0.001, np.nan]], [[1.0, 1.0], [0.5, 0.06]]])
    assert significant_count(q).tolist() == [2, 0]
    assert significant_count(q, 0.06).tolist() == [3, 1]


CODES, VOLUMES = np.random.default_rng(13).normal(size=(4, 2)), np.zeros((3, 2, 2, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: latent_deviation(CODES[0], CODES, CODES), "`mu` must have shape .n, latent_dim., got .2,."),
        (lambda: latent_deviation(CODES, CODES[:, :1], CODES), "`logvar` must have the shape of `mu`, .4, 2., got"),
        (lambda: latent_deviation(CODES, CODES, CODES[:, :1]), "`train_mu` must have at least 3 rows of the 2 dim"),
        (lambda: latent_deviation(CODES, CODES, CODES[:2]), "`train_mu` must have at least 3 rows"),
        (lambda: latent_deviation(CODES, CODES, CODES, CODES[:3]), "`train_logvar` must have the shape of `train_mu`"),
        (lambda: latent_deviation(CODES, CODES * np.nan, CODES), "`logvar` must be finite"),
        (lambda: latent_deviation(CODES, CODES, CODES * 0), "`train_mu` must have a dimension of variance above 0"),
        (lambda: latent_deviation(CODES, CODES, CODES, min_variance=-1), "`min_variance` must be a finite number >= 0"),
        (lambda: voxel_deviation(VOLUMES[0], VOLUMES), "`residuals` must have shape"),
        (lambda: voxel_deviation(VOLUMES, VOLUMES[:1]), "`healthy_residuals` must hold at least two volumes of shape"),
        (lambda: voxel_deviation(VOLUMES, np.zeros((3, 2, 2, 3))), "`healthy_residuals` must hold at least two vol"),
        (lambda: voxel_deviation(VOLUMES, VOLUMES, np.ones((2, 2))), "`mask` must have shape"),
        (lambda: voxel_deviation(VOLUMES, VOLUMES, sd_floor=0), "`sd_floor` must be a finite number > 0"),
        (lambda: correct_p_values(np.ones(3)), "`p` must have shape .n, \\.\\.\\.., a row per subject, got .3,."),
        (lambda: correct_p_values(np.array([[0.1, 1.2]])), "`p` must be from 0 to 1, got 0.1 to 1.2"),
        (lambda: correct_p_values(np.ones((1, 2)), "fdr"), "`method` must be one of 'bh', 'by', 'bonferroni'"),
        (lambda: significant_count(np.ones(3)), "`q` must have shape"),
        (lambda: significant_count(np.ones((1, 2)), 0), "`level` must be a finite number > 0 and <= 1"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
