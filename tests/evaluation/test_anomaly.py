"""Scores of lesion maps on ideal, useless and duplicated input, against hand-computed values and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
from lesion_boxes import boxes
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from monai_betavae.evaluation.anomaly import (
    detection_auroc,
    dice,
    healthy_pair_error,
    lesion_table,
    precision_recall,
    subject_scores,
    voxel_auprc,
)
from monai_betavae.evaluation.residuals import healthy_threshold, residual_map, segment

SHAPE = (2, 6, 5, 4)
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=SHAPE)


def test_dice_by_hand():
    found, truth = np.zeros((5, 2, 2, 2)), np.zeros((5, 2, 2, 2))
    found[0], truth[0] = 1, 1  # ideal
    found[1, 0], truth[1, 1] = 1, 1  # apart
    found[2, 0], truth[2, :, 0] = 1, 1  # 2 of 4 and 4
    found[3, 0, 0, 0] = 1  # nothing to find, yet something found
    np.testing.assert_array_equal(dice(found, truth), [1, 0, 0.5, 0, math.nan])
    np.testing.assert_array_equal(dice(truth, found), dice(found, truth))


def test_the_ideal_map():
    truth = boxes()
    images = np.full(truth.shape, 0.5) - 0.3 * truth
    scores = residual_map(images, np.full(truth.shape, 0.5), kind="negative", median=0)
    found = voxel_auprc(scores, truth)
    assert found.pooled == 1
    assert found.per_subject.tolist() == [1, 1, 1]
    assert found.prevalence == truth.mean()
    healthy = np.zeros((2, 8, 8, 8))
    assert dice(segment(scores, healthy_threshold(healthy, None)), truth).tolist() == [1, 1, 1]
    np.testing.assert_allclose(precision_recall(scores, truth)["precision"][0], 1)


def test_the_useless_map():
    rng = np.random.default_rng(9)
    truth = np.zeros((4, 16, 16, 16), dtype=bool)
    truth[:, :8, :4] = True
    found = voxel_auprc(rng.random(truth.shape), truth)
    assert found.prevalence == 0.125
    assert found.pooled == pytest.approx(0.125, abs=0.008)
    np.testing.assert_allclose(found.per_subject, 0.125, atol=0.015)
    constant = voxel_auprc(np.ones(truth.shape), truth)
    assert constant.pooled == 0.125
    assert constant.per_subject.tolist() == [0.125] * 4


def test_the_inverted_map_is_worse_than_chance():
    truth = boxes()
    found = voxel_auprc(-truth.astype(float), truth)
    assert found.pooled == found.prevalence  # all voxels are needed to have the lesions, and the others tie
    spread = voxel_auprc(np.random.default_rng(10).random(truth.shape) - truth, truth)
    assert spread.pooled < 0.6 * found.prevalence


def test_duplicated_subjects():
    rng = np.random.default_rng(11)
    truth = boxes()
    scores = rng.normal(size=truth.shape).round(1) + truth
    once, twice = voxel_auprc(scores, truth), voxel_auprc(np.tile(scores, (2, 1, 1, 1)), np.tile(truth, (2, 1, 1, 1)))
    assert twice.pooled == pytest.approx(once.pooled)
    assert twice.prevalence == pytest.approx(once.prevalence)
    np.testing.assert_array_equal(twice.per_subject, np.tile(once.per_subject, 2))
    threshold = healthy_threshold(scores, None, 0.1)
    assert healthy_threshold(np.tile(scores, (2, 1, 1, 1)), None, 0.1) == threshold
    again = dice(segment(np.tile(scores, (2, 1, 1, 1)), threshold), np.tile(truth, (2, 1, 1, 1)))
    np.testing.assert_array_equal(again, np.tile(dice(segment(scores, threshold), truth), 2))


def test_auprc_by_hand():
    scores = np.array([8, 7, 6, 5, 4, 3, 2, 1.0]).reshape(1, 2, 2, 2)
    truth = np.array([1, 0, 1, 0, 0, 1, 0, 0]).reshape(1, 2, 2, 2)
    assert voxel_auprc(scores, truth).pooled == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    mask = np.array([1, 0, 1, 1, 1, 1, 1, 1]).reshape(2, 2, 2)
    masked = voxel_auprc(scores, truth, mask)
    assert masked.pooled == pytest.approx((1 + 1 + 3 / 5) / 3)
    assert masked.prevalence == pytest.approx(3 / 7)


def test_masks_pick_the_voxels_of_each_subject():
    rng = np.random.default_rng(12)
    truth, masks = rng.random(SHAPE) < 0.3, rng.random(SHAPE) < 0.6
    scores = rng.normal(size=SHAPE)
    found = voxel_auprc(scores, truth, masks)
    for number in range(2):
        inside = masks[number]
        expected = average_precision_score(truth[number][inside], scores[number][inside])
        assert found.per_subject[number] == pytest.approx(expected)
        assert found.prevalence_per_subject[number] == truth[number][inside].mean()
    assert found.pooled == pytest.approx(average_precision_score(truth[masks], scores[masks]))


def test_a_subject_without_lesion_has_no_auprc():
    truth = boxes()
    truth[1] = False
    found = voxel_auprc(truth * 1.0, truth)
    np.testing.assert_array_equal(found.per_subject, [1, math.nan, 1])
    assert found.prevalence_per_subject[1] == 0
    assert found.pooled == 1
    assert math.isnan(voxel_auprc(truth[[1]] * 1.0, truth[[1]]).pooled)


def test_the_curve_by_hand_and_by_scikit_learn():
    scores = np.array([0.9, 0.9, 0.5, 0.5, 0.5, 0.2, 0.2, 0.1]).reshape(1, 2, 2, 2)
    truth = np.array([1, 0, 1, 1, 0, 0, 0, 1]).reshape(1, 2, 2, 2)
    found = precision_recall(scores, truth)
    np.testing.assert_allclose(found["precision"], [1 / 2, 3 / 5, 3 / 7, 4 / 8])
    np.testing.assert_allclose(found["recall"], [1 / 4, 3 / 4, 3 / 4, 1])
    assert found["threshold"].tolist() == [0.9, 0.5, 0.2, 0.1]
    precision, recall, threshold = precision_recall_curve(truth.ravel(), scores.ravel())
    np.testing.assert_allclose(found["precision"], precision[:-1][::-1])
    np.testing.assert_allclose(found["recall"], recall[:-1][::-1])
    np.testing.assert_allclose(found["threshold"], threshold[::-1])


def test_a_thinned_curve_keeps_its_area():
    rng = np.random.default_rng(13)
    truth = boxes()
    mask = np.ones((8, 8, 8))
    mask[0] = 0
    scores = rng.normal(size=truth.shape) + 2 * truth
    full, thin = (precision_recall(scores, truth, mask, n_points) for n_points in (10**6, 60))
    assert len(full["recall"]) == 3 * 7 * 64
    assert 30 < len(thin["recall"]) <= 60
    assert thin["recall"][-1] == 1
    points = set(zip(*full.values(), strict=True))
    assert points.issuperset(zip(*thin.values(), strict=True))
    area = float(np.sum(np.diff(thin["recall"], prepend=0) * thin["precision"]))
    assert area == pytest.approx(voxel_auprc(scores, truth, mask).pooled, abs=0.02)


def test_lesion_table_by_size_and_intensity():
    rng = np.random.default_rng(14)
    truth = np.zeros((9, 8, 8, 8), dtype=bool)
    sizes = np.array([1, 3, 2, 1, 3, 2, 1, 2, 3])
    contrast = np.array([0.0, 1, 2, 2, 0, 1, 1, 0, 2])  # each size at each contrast
    for volume, size in zip(truth, sizes, strict=True):
        volume[1 : 1 + 2 * size, 2:6, 2:6] = True
    scores = 0.1 * rng.normal(size=truth.shape) + truth * contrast[:, None, None, None]
    table = lesion_table(scores, truth, None, 0.5, sizes, contrast)
    rows = [(row["by"], row["group"], row["low"], row["high"], row["n"]) for row in table]
    assert rows == [("size", k, k, k, 3) for k in (1, 2, 3)] + [("intensity", k + 1, k, k, 3) for k in (0, 1, 2)]
    per_subject, overlap = voxel_auprc(scores, truth).per_subject, dice(scores > 0.5, truth)
    for row in table:
        members = sizes == row["low"] if row["by"] == "size" else contrast == row["low"]
        assert row["auprc"] == pytest.approx(per_subject[members].mean())
        assert row["dice"] == pytest.approx(overlap[members].mean())
        assert row["prevalence"] == pytest.approx(truth[members].mean())
    blind, _, seen = table[3:]
    assert blind["dice"] < 0.05
    assert blind["auprc"] == pytest.approx(blind["prevalence"], abs=0.05)
    assert seen["auprc"] == 1


def test_lesion_table_leaves_out_subjects_without_lesion_in_the_mask():
    truth = boxes((4, 8, 8, 8))
    truth[3] = False
    mask = np.ones((8, 8, 8))
    mask[5:] = 0  # cuts into the last lesion
    values = np.arange(4.0)
    scores = truth * 1.0
    scores[:, 7, 7, 6:] = 1.0
    scores[:, 0, 0, 0] = 1.0
    table = lesion_table(scores, truth, mask, 0.5, values, values, n_bins=2, min_voxels=2)
    assert [(row["low"], row["high"], row["n"]) for row in table[:2]] == [(0, 1, 2), (2, 2, 1)]
    assert [row["dice"] for row in table] == [1] * 4  # what is outside the mask or small doesn't count
    with pytest.raises(ValueError, match="`truth` must have a lesion voxel in the mask"):
        lesion_table(scores[3:], truth[3:], None, 0.5, values[:1], values[:1])


def test_equal_sizes_are_one_group():
    truth = boxes()
    table = lesion_table(truth * 1.0, truth, None, 0.5, np.ones(3), np.array([1.0, 1, 2]))
    assert [(row["by"], row["group"], row["n"]) for row in table] == [
        ("size", 1, 3),
        ("intensity", 1, 2),
        ("intensity", 2, 1),
    ]


def test_healthy_pairs_by_hand():
    healthy = np.full((2, 2, 2, 2), 0.5)
    lesion = np.zeros((2, 2, 2, 2))
    lesion[0, 0, 0], lesion[1, 1, 1, 1] = 1, 1  # 2 voxels and 1
    mask = np.ones((2, 2, 2, 2))
    mask[:, 0, 1, 1] = 0
    lesioned = healthy - 0.4 * lesion
    repaired = healthy + 0.1 - 0.3 * lesion
    repaired[:, 0, 1, 1] = 99.0
    found = healthy_pair_error(repaired[:, None], healthy[:, None], lesioned[:, None], lesion[:, None], mask)
    np.testing.assert_allclose(found["lesion"], 0.04)
    np.testing.assert_allclose(found["outside"], 0.01)
    np.testing.assert_allclose(found["lesion_untouched"], 0.16)
    np.testing.assert_allclose(found["outside_untouched"], 0, atol=1e-20)
    np.testing.assert_allclose(found["lesion_ratio"], 0.25)
    without_mask = healthy_pair_error(repaired, healthy, lesioned, lesion)["outside"]
    np.testing.assert_allclose(without_mask, [(5 * 0.01 + 98.5**2) / 6, (6 * 0.01 + 98.5**2) / 7])


def test_healthy_pairs_of_ideal_and_idle_models():
    healthy = np.random.default_rng(15).random(SHAPE)
    lesion = healthy > 0.8
    lesioned = np.where(lesion, 0.1, healthy)
    ideal, idle = (healthy_pair_error(image, healthy, lesioned, lesion) for image in (healthy, lesioned))
    assert ideal["lesion_ratio"].tolist() == ideal["outside"].tolist() == [0, 0]
    assert idle["lesion_ratio"].tolist() == [1, 1]
    none = healthy_pair_error(healthy, healthy, lesioned, np.zeros(SHAPE))
    assert np.isnan(none["lesion"]).all()
    assert np.isnan(none["lesion_ratio"]).all()


def test_subject_scores_are_means_in_the_mask():
    masks = np.random.default_rng(16).random(SHAPE) < 0.5
    expected = [IMAGES[number][masks[number]].mean() for number in range(2)]
    np.testing.assert_allclose(subject_scores(IMAGES[:, None], masks), expected)


def test_auroc_is_the_share_of_pairs_and_scikit_learns():
    rng = np.random.default_rng(17)
    patients = rng.random(60) < 0.4
    scores = (rng.normal(size=60) + patients).round(1)
    found = detection_auroc(scores, patients, n_resamples=300)
    pairs = [(a > b) + (a == b) / 2 for a, b in itertools.product(scores[patients], scores[~patients])]
    assert found.value == pytest.approx(np.mean(pairs)) == pytest.approx(roc_auc_score(patients, scores))
    assert 0.5 < found.low < found.value < found.high < 1
    assert found == detection_auroc(scores, patients, n_resamples=300)
    # scans of one subject, which are all alike, tell no more than one of them
    four = [np.repeat(each, 4) for each in (scores, patients, np.arange(len(scores)))]
    assert detection_auroc(*four[:2], subjects=four[2], n_resamples=300) == pytest.approx(found, abs=1e-12)
    assert detection_auroc(-scores, patients, n_resamples=2).value == pytest.approx(1 - found.value)


def test_auroc_of_ideal_and_useless_scores():
    patients = np.array([0, 0, 0, 1, 1, 1])
    assert detection_auroc(patients * 2.0, patients, n_resamples=200) == (1, 1, 1)  # one-sided resamples are left out
    assert detection_auroc(np.ones(6), patients, n_resamples=200) == (0.5, 0.5, 0.5)


VOLUMES, MASK = np.zeros((2, 3, 3, 3)), np.ones((3, 3, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dice(VOLUMES, MASK), "`truth` must have shape .2, 3, 3, 3., got .3, 3, 3."),
        (lambda: voxel_auprc(VOLUMES, VOLUMES[:1]), "`truth` must have shape"),
        (lambda: voxel_auprc(VOLUMES + np.inf, VOLUMES), "`scores` must be finite"),
        (lambda: precision_recall(VOLUMES, VOLUMES), "`truth` must have a lesion voxel in the mask, got none"),
        (lambda: precision_recall(VOLUMES, VOLUMES + 1, n_points=1), "`n_points` must be an integer >= 2"),
        (lambda: lesion_table(VOLUMES, VOLUMES, None, 0, np.ones(3), np.ones(2)), "`sizes` must hold 2 numbers"),
        (lambda: lesion_table(VOLUMES, VOLUMES, None, 0, np.ones(2), np.full(2, np.nan)), "`intensities` must be fin"),
        (lambda: healthy_pair_error(VOLUMES[:1], VOLUMES, VOLUMES, VOLUMES), "`pseudo_healthy` must have the shape of"),
        (lambda: healthy_pair_error(VOLUMES, VOLUMES, VOLUMES[:1], VOLUMES), "`lesioned` must have the shape of"),
        (lambda: healthy_pair_error(VOLUMES, VOLUMES, VOLUMES, MASK), "`lesion_mask` must have shape"),
        (lambda: subject_scores(VOLUMES, MASK[1:]), "`mask` must have shape"),
        (lambda: detection_auroc(np.ones(2), np.ones(2)), "`is_patient` must have shape .n,., with patients and"),
        (lambda: detection_auroc(np.ones(3), np.array([0, 1])), "`scores` must hold 2 numbers"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
