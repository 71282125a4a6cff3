"""Lesion maps and thresholds, against slow loops and hand-computed values."""

import math

import numpy as np
import pytest
from lesion_boxes import boxes

from monai_betavae.evaluation.anomaly import voxel_auprc
from monai_betavae.evaluation.reconstruction import pca_reconstruction
from monai_betavae.evaluation.residuals import (
    drop_small_components,
    erode_mask,
    healthy_threshold,
    intensity_scores,
    residual_map,
    segment,
)

SHAPE = (2, 6, 5, 4)
RNG = np.random.default_rng(0)
IMAGES, RESTORED = RNG.normal(size=SHAPE), RNG.normal(size=SHAPE)


def slow_median(volume, side):
    half = side // 2
    padded = np.pad(volume, half, mode="symmetric")
    out = np.empty_like(volume)
    for x, y, z in np.ndindex(volume.shape):
        out[x, y, z] = np.median(padded[x : x + side, y : y + side, z : z + side])
    return out


def slow_erosion(mask, layers):
    for _ in range(layers):
        padded = np.pad(mask, 1)
        out = np.zeros_like(mask)
        for x, y, z in np.ndindex(mask.shape):
            around = [(1, 1, 1), (0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2)]
            out[x, y, z] = all(padded[x + a, y + b, z + c] for a, b, c in around)
        mask = out
    return mask


def test_kinds_by_hand():
    image, restored = np.zeros((1, 1, 1, 3)), np.array([-1.0, 0.25, 0.5]).reshape(1, 1, 1, 3)
    found = {
        kind: residual_map(image, restored, kind=kind, median=0).ravel().tolist()
        for kind in ("positive", "negative", "absolute")
    }
    assert found == {"positive": [1, 0, 0], "negative": [0, 0.25, 0.5], "absolute": [1, 0.25, 0.5]}


@pytest.mark.parametrize("side", [3, 5])
def test_median_is_the_slow_one(side):
    found = residual_map(IMAGES, RESTORED, median=side)
    expected = [slow_median(np.maximum(volume, 0), side) for volume in IMAGES - RESTORED]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_erosion_is_the_slow_one(layers):
    mask = np.random.default_rng(1).random((9, 8, 7)) < 0.97
    mask[2:7, 2:7, 2:6] = True
    expected = slow_erosion(mask, layers)
    assert 0 < expected.sum() < 9 * 8 * 7
    np.testing.assert_array_equal(erode_mask(mask, layers), expected)


def test_erosion_is_of_each_subject_alone():
    masks = np.random.default_rng(2).random((2, 1, 6, 6, 6)) < 0.95
    found = erode_mask(masks)
    assert found.shape == masks.shape
    for one, many in zip(masks[:, 0], found[:, 0], strict=True):
        np.testing.assert_array_equal(erode_mask(one), many)


def test_outside_the_eroded_mask_is_zero_and_inside_unchanged():
    mask = np.zeros(SHAPE[1:])
    mask[1:6, 0:5, 0:4] = 1
    whole = residual_map(IMAGES, RESTORED, kind="absolute")
    found = residual_map(IMAGES, RESTORED, kind="absolute", mask=mask, erosion=1)
    inside = slow_erosion(mask.astype(bool), 1)
    assert (found[:, ~inside] == 0).all()
    np.testing.assert_array_equal(found[:, inside], whole[:, inside])
    assert (found[:, inside] > 0).all()


def test_a_mask_for_each_subject():
    masks = np.zeros(SHAPE)
    masks[0, :4], masks[1, 2:] = 1, 1
    found = residual_map(IMAGES, RESTORED, kind="absolute", mask=masks[:, None], erosion=0)
    for number in range(2):
        alone = residual_map(IMAGES[[number]], RESTORED[[number]], kind="absolute", mask=masks[number], erosion=0)
        np.testing.assert_array_equal(found[[number]], alone)
    assert not found[0, 4:].any()
    assert not found[1, :2].any()


def test_the_channel_axis_is_dropped():
    np.testing.assert_array_equal(residual_map(IMAGES[:, None], RESTORED[:, None]), residual_map(IMAGES, RESTORED))


def test_images_keep_their_values():
    before = IMAGES.copy()
    residual_map(IMAGES, RESTORED, mask=np.ones(SHAPE[1:]), erosion=0)
    np.testing.assert_array_equal(IMAGES, before)


def test_intensity_is_the_residual_of_a_constant():
    images = np.random.default_rng(3).random(SHAPE)
    np.testing.assert_array_equal(intensity_scores(images, median=0), images)
    np.testing.assert_array_equal(intensity_scores(images, kind="negative", median=0), 1 - images)
    mean = images.mean(axis=0)
    np.testing.assert_array_equal(
        intensity_scores(images, mean, kind="absolute"), residual_map(images, np.stack([mean] * 2), kind="absolute")
    )


def test_a_bright_lesion_is_found_by_intensity_and_a_dark_one_by_its_negative():
    truth = boxes()
    rng = np.random.default_rng(4)
    for shift, right, wrong in ((0.4, "positive", "negative"), (-0.4, "negative", "positive")):
        images = 0.5 + 0.02 * rng.normal(size=truth.shape) + shift * truth
        good, bad = (voxel_auprc(intensity_scores(images, kind=kind, median=0), truth) for kind in (right, wrong))
        assert good.pooled > 0.999
        assert bad.pooled < bad.prevalence


def test_pca_makes_a_map_by_the_same_function():
    rng = np.random.default_rng(5)
    train = rng.normal(size=(20, 1)) * rng.normal(size=(1, 512))
    truth = boxes((2, 8, 8, 8))
    images = (train[:2].reshape(truth.shape)) + 3 * truth
    restored = pca_reconstruction(train.reshape(-1, 8, 8, 8), images, 1)
    assert voxel_auprc(residual_map(images, restored, median=0), truth).pooled > 0.95


def test_small_components_by_hand():
    binary = np.zeros((2, 6, 6, 6), dtype=np.uint8)
    binary[0, 0, 0, 0:3] = 1  # 3 in a row
    binary[0, 2, 2, 2] = binary[0, 3, 3, 3] = 1  # 2 that share a corner
    binary[0, 5, 5, 5] = 1  # alone
    binary[1, 5, 5, 5] = binary[1, 5, 5, 4] = 1  # touches nothing of the first subject
    assert [drop_small_components(binary, n).sum(axis=(1, 2, 3)).tolist() for n in range(5)] == [
        [6, 2],
        [6, 2],
        [5, 2],
        [3, 0],
        [0, 0],
    ]
    assert drop_small_components(binary, 3)[0, 0, 0, :4].tolist() == [True, True, True, False]
    assert not drop_small_components(np.ones((1, 2, 2, 2)), 9).any()


def test_segment_is_above_the_threshold():
    scores = np.zeros((1, 3, 3, 3))
    scores[0, 0, 0, 0], scores[0, 2, 2, 1:] = 0.5, [0.7, 0.9]
    assert np.argwhere(segment(scores, 0.5)[0]).tolist() == [[2, 2, 1], [2, 2, 2]]
    assert segment(scores, 0.4).sum() == 3
    assert segment(scores, 0.4, min_voxels=2).sum() == 2


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.29, 0.5, 1.0])
def test_the_threshold_holds_its_rate_and_no_lower_one_would(rate):
    scores = np.random.default_rng(6).gamma(2.0, size=(4, 5, 5, 5))
    mask = np.zeros((5, 5, 5), dtype=bool)
    mask.ravel()[:25] = True  # 100 voxels in all
    values = np.sort(scores[:, mask].ravel())
    threshold = healthy_threshold(scores, mask, rate)
    assert segment(scores, threshold)[:, mask].sum() == min(round(100 * rate), 99)
    below = values[values < threshold]
    if len(below):
        assert (values > below[-1]).mean() > rate
    assert threshold in values


def test_the_threshold_holds_on_other_healthy_subjects_and_ignores_lesions():
    rng = np.random.default_rng(7)
    validation, test = rng.exponential(size=(10, 12, 12, 12)), rng.exponential(size=(10, 12, 12, 12))
    mask = np.ones((12, 12, 12))
    threshold = healthy_threshold(validation, mask, 0.02)
    assert threshold == pytest.approx(-math.log(0.02), rel=0.04)  # quantile of the exponential distribution
    assert (test > threshold).mean() == pytest.approx(0.02, abs=0.003)
    outside = np.zeros((12, 12, 12))
    outside[:6] = 1
    lesioned = validation.copy()
    lesioned[:, 6:] += 100
    assert healthy_threshold(lesioned, outside, 0.02) == healthy_threshold(validation, outside, 0.02)


def test_ties_keep_the_rate():
    scores = np.zeros((1, 10, 10, 1))
    scores.ravel()[:30] = 1.0
    assert healthy_threshold(scores, None, 0.2) == 1.0
    assert healthy_threshold(scores, None, 0.3) == 0.0


def test_one_bad_scan_moves_the_pooled_threshold_only():
    scores = np.random.default_rng(8).exponential(size=(9, 10, 10, 10))
    bad = scores.copy()
    bad[0] *= 50
    assert healthy_threshold(bad, None, 0.05) > 2 * healthy_threshold(scores, None, 0.05)
    own = [healthy_threshold(scores[[number]], None, 0.05) for number in range(9)]
    assert healthy_threshold(scores, None, 0.05, pool="subjects") == np.median(own)
    assert healthy_threshold(bad, None, 0.05, pool="subjects") == pytest.approx(np.median(own), rel=0.05)


VOLUMES, MASK = np.zeros((2, 3, 3, 3)), np.ones((3, 3, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: residual_map(VOLUMES[0], VOLUMES[0]), "`images` must have shape .n, x, y, z. or .n, 1, x, y, z., got"),
        (lambda: residual_map(np.zeros((2, 2, 3, 3, 3)), VOLUMES), "`images` must have shape"),
        (lambda: residual_map(VOLUMES, VOLUMES[:1]), "`reconstructions` must have the shape of the images"),
        (lambda: residual_map(VOLUMES, VOLUMES * np.nan), "`reconstructions` must be finite"),
        (lambda: residual_map(VOLUMES, VOLUMES, kind="both"), "`kind` must be one of 'positive'"),
        (lambda: residual_map(VOLUMES, VOLUMES, median=2), "`median` must be 0 or odd, got 2"),
        (lambda: residual_map(VOLUMES, VOLUMES, erosion=-1), "`erosion` must be an integer >= 0"),
        (lambda: residual_map(VOLUMES, VOLUMES, mask=MASK, erosion=2), "`mask` must have voxels left after `erosion`"),
        (lambda: residual_map(VOLUMES, VOLUMES, mask=MASK[:2]), "`mask` must have shape .3, 3, 3. or .2, 3, 3, 3."),
        (lambda: residual_map(VOLUMES, VOLUMES, mask=MASK * 0.3), "`mask` must be boolean or hold 0 and 1 only"),
        (lambda: erode_mask(MASK[0]), "`mask` must have shape"),
        (lambda: intensity_scores(VOLUMES, kind="absolute"), "`reference` must be a number or an image"),
        (lambda: intensity_scores(VOLUMES, VOLUMES), "`reference` must be a number or have shape"),
        (lambda: intensity_scores(VOLUMES, math.inf), "`reference` must be finite"),
        (lambda: drop_small_components(VOLUMES + 2, 1), "`binary` must be boolean"),
        (lambda: drop_small_components(VOLUMES[0], 1), "`binary` must have shape"),
        (lambda: drop_small_components(VOLUMES, -1), "`min_voxels` must be an integer >= 0"),
        (lambda: segment(VOLUMES, math.nan), "`threshold` must be a finite number"),
        (lambda: healthy_threshold(VOLUMES, MASK, 1.2), "`false_positive_rate` must be a finite number >= 0 and <= 1"),
        (lambda: healthy_threshold(VOLUMES, MASK * 0), "`mask` must have a voxel for each subject, got none for sub"),
        (lambda: healthy_threshold(VOLUMES, MASK, pool="scans"), "`pool` must be one of 'voxels', 'subjects'"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
