"""Deviation from the norm: of subjects like the reference, and of one that is far away."""

import numpy as np
import pytest
from subjects_of_numbers import subjects

from monai_betavae.data import CovariateCoding
from monai_betavae.evaluation import latent_deviation
from monai_betavae.evaluation.reconstruction import brain_mask
from monai_betavae.workflows.model_evaluation.norm_part import HealthyResiduals, normative_part


def residuals(n, seed, group):
    """Noise of a tenth inside the brain."""
    noise = 0.1 * np.random.default_rng(seed).standard_normal(group.images[:, 0].shape)
    return (noise * (group.images[:, 0] > 0)).astype(np.float32)[:n]


def validated(n, seed, group, covariates=None):
    """Residuals of n healthy subjects, with the mask of the group's brains."""
    return HealthyResiduals(residuals(n, seed, group), brain_mask(group.images[:, 0]).mean(axis=0) >= 0.5, covariates)


def test_a_subject_far_away_deviates_and_the_others_do_not():
    reference, held_out = subjects(60, 1), subjects(12, 2, prefix="new")
    held_out.mu[4] = 12.0
    part = normative_part(held_out, reference, residuals(12, 3, held_out), validated(60, 4, reference), "validation")
    table = part.files["deviation.csv"]
    assert table["subject"].tolist() == [f"new-{i}" for i in range(12)]
    assert table["latent_deviation"].idxmax() == 4
    assert table["p"][4] == pytest.approx(1 / 61)
    assert table["deviating_dimensions"][4] == 3
    assert table["deviating_dimensions"].drop(4).sum() <= 1
    assert table["latent_deviation"].drop(4).mean() == pytest.approx(np.sqrt(2 / np.pi), abs=0.2)  # of a normal
    assert part.scores["of"] == "validation"
    assert (part.scores["n_reference"], part.scores["n_subjects"]) == (60, 12)


def test_voxels_unlike_the_reference_are_counted():
    reference, held_out = subjects(60, 1), subjects(6, 2, prefix="new")
    ours = residuals(6, 3, held_out)
    ours[2, 3:6, 3:6, 3:6] += 2.0  # 27 voxels, twenty standard deviations off
    table = normative_part(held_out, reference, ours, validated(60, 4, reference), "training").files["deviation.csv"]
    assert 27 <= table["deviating_voxels"][2] <= 32
    assert table["deviating_voxels"].drop(2).max() <= 3


def test_a_small_reference_is_no_norm():
    held_out = subjects(6, 2)
    assert normative_part(held_out, subjects(19, 1), residuals(6, 3, held_out), None, "training") is None
    part = normative_part(held_out, subjects(20, 1), residuals(6, 3, held_out), None, "training")
    assert "deviating_voxels" not in part.files["deviation.csv"]
    texts = " ".join(arguments[0] for kind, arguments in part._content if kind == "text")
    assert "Training subjects deviate more than new ones" in texts


def calibrated(held_out, whose="validation", coding=None, reference=None):
    reference = subjects(60, 1) if reference is None else reference
    return normative_part(held_out, reference, residuals(len(held_out), 3, held_out), None, whose, coding)


def with_people(held_out):
    for i, record in enumerate(held_out.records):
        record.update(age=40.5 + i, sex="FM"[i % 2], iq=90.5 + i)
    return held_out


def test_healthy_subjects_like_the_reference_are_calibrated():
    held_out = with_people(subjects(90, 2, prefix="new"))
    part = calibrated(held_out)
    table, found = part.files["calibration.csv"], part.scores["calibration"]
    assert table["by"].tolist() == ["all", "age", "age", "age", "sex", "sex"]
    assert table["n"].tolist() == [90, 30, 30, 30, 45, 45]
    p = part.files["deviation.csv"]["p"].to_numpy()
    assert table["beyond"].tolist() == [
        int((p[rows] <= 0.05).sum())
        for rows in (slice(None), slice(0, 30), slice(30, 60), slice(60, 90), slice(0, 90, 2), slice(1, 90, 2))
    ]
    assert (found["n"], found["expected"]) == (90, pytest.approx(3 / 61))
    assert found["groups"][0]["share"]["value"] == table["share"][0]
    assert part.warnings == []
    assert part.pictures["calibration.png"].axes[0].lines[-1].get_ydata().tolist() == sorted(p)


def test_a_norm_that_is_too_narrow_or_too_wide_is_warned_of():
    shifted = subjects(60, 2, prefix="new")
    shifted.mu += 2.0
    (warning,) = calibrated(shifted).warnings
    assert "The norm of latents isn't calibrated" in warning
    assert "too many" in warning
    useless = subjects(120, 2, prefix="new")
    useless.mu[:] = 0.0  # nobody deviates: p is 1
    part = calibrated(useless, reference=subjects(400, 1))
    assert part.files["calibration.csv"]["beyond"].tolist() == [0]
    assert "too few" in part.warnings[0]


def test_patients_lesions_and_repeated_scans_do_not_count():
    held_out = subjects(40, 2, prefix="new")
    for record in held_out.records[:5]:
        record["diagnosis"] = "Patient"
    for record in held_out.records[5:8]:
        record["lesion_mask"] = "mask.nii"
    for record in held_out.records[30:]:
        record["subject"] = "new-29"
    held_out.mu[[*range(8), *range(30, 40)]] = 12.0
    part = calibrated(held_out)
    assert part.scores["calibration"]["n"] == 22
    assert part.scores["calibration"]["groups"][0]["beyond"] <= 3


def test_no_calibration_by_training_subjects_or_of_few():
    assert "calibration" not in calibrated(subjects(40, 2), whose="training").scores
    assert "calibration" not in calibrated(subjects(19, 2)).scores
    few = subjects(40, 2)
    for record in few.records:
        record["subject"] = "one"
    assert "calibration" not in calibrated(few).scores
    sick = subjects(40, 2)
    for record in sick.records:
        record["diagnosis"] = "patient"
    assert "calibration" not in calibrated(sick).scores


def test_a_conditional_model_is_broken_down_by_what_it_is_conditional_on():
    held_out = with_people(subjects(40, 2, prefix="new"))
    held_out.records[0]["iq"] = "n/a"
    coding = CovariateCoding.fit(held_out.records, ["iq", "sex"])
    part = calibrated(held_out, coding=coding)
    table = part.files["calibration.csv"]
    assert table["by"].tolist() == ["all", "iq", "iq", "iq", "sex", "sex"]
    assert table["n"].tolist() == [40, 13, 13, 13, 20, 20]
    texts = " ".join(arguments[0] for kind, arguments in part._content if kind == "text")
    assert "The model is conditional on iq, sex: its codes are what is left of the images without them" in texts
    assert "adjusted for them" in texts


def test_residuals_find_a_local_change_and_map_it():
    reference, held_out = subjects(60, 1), subjects(40, 2, prefix="new")
    ours = residuals(40, 3, held_out)
    ours[7, 4:6, 4:6, 4:6] -= 2.0
    held_out.records[7]["session"] = "ses-2"
    held_out.records[8]["subject"] = "../new"
    part = normative_part(held_out, reference, ours, validated(60, 4, reference), "validation")
    table = part.files["deviation.csv"]
    assert table["residual_deviation"].idxmax() == 7
    assert table["p_residual"][7] == pytest.approx(1 / 61)
    assert (table["p_residual"].drop(7) > 0.05).mean() > 0.85
    volume, affine = part.maps["deviation_maps/new-7_ses-2_zmap.nii.gz"]
    assert volume.shape == (10, 10, 10)
    assert np.unravel_index(np.argmin(volume), volume.shape) in {
        (x, y, z) for x in (4, 5) for y in (4, 5) for z in (4, 5)
    }
    assert np.array_equal(affine, held_out.affines[7])
    assert len(part.maps) == 5
    assert "deviation.png" in part.pictures
    assert part.scores["calibration_residuals"]["n"] == 40
    assert part.files["calibration_residuals.csv"]["beyond"][0] == (table["p_residual"] <= 0.05).sum()


def test_maps_are_named_by_row_where_a_subject_is_no_plain_word():
    reference, held_out = subjects(60, 1), subjects(6, 2, prefix="new")
    ours = residuals(6, 3, held_out)
    ours[3, 4:6, 4:6, 4:6] -= 2.0
    held_out.records[3]["subject"] = "../new"
    part = normative_part(held_out, reference, ours, validated(60, 4, reference), "validation")
    assert "deviation_maps/volume-3_zmap.nii.gz" in part.maps
    assert not any(".." in name for name in part.maps)


def test_a_conditional_model_ranks_scores_adjusted_for_covariates():
    """At site B healthy codes vary more; p is uniform at each site all the same."""
    rng = np.random.default_rng(5)
    coding = CovariateCoding.fit([{"site": "AB"[i % 2]} for i in range(600)], ["site"])
    reference, held_out = subjects(600, 1), subjects(600, 2, prefix="new")
    for group in (reference, held_out):
        for row, record in enumerate(group.records):
            record["site"] = "AB"[row % 2]
        group.mu[1::2] = 3 * rng.standard_normal(group.mu[1::2].shape)
    raw = normative_part(held_out, reference, held_out.images[:, 0], None, "validation").files["deviation.csv"]["p"]
    assert (raw[1::2] <= 0.05).mean() - (raw[::2] <= 0.05).mean() > 0.05
    for group in (reference, held_out):
        group.covariates = coding.rows(group.records)
    part = normative_part(held_out, reference, held_out.images[:, 0], None, "validation", coding)
    p = part.files["deviation.csv"]["p"]
    for site in (0, 1):
        assert 0.01 <= (p[site::2] <= 0.05).mean() <= 0.1
    texts = " ".join(arguments[0] for kind, arguments in part._content if kind == "text")
    assert "they are also adjusted for how much healthy subjects" in texts


def test_a_reference_too_small_to_adjust_scores_is_said():
    reference, held_out = subjects(20, 1), subjects(6, 2, prefix="new")
    coding = CovariateCoding.fit([{"site": "ABCDEF"[i % 6]} for i in range(60)], ["site"])
    for group in (reference, held_out):
        for row, record in enumerate(group.records):
            record["site"] = "ABCDEF"[row % 6]
        group.covariates = coding.rows(group.records)
    part = normative_part(held_out, reference, held_out.images[:, 0], None, "validation", coding)
    texts = " ".join(arguments[0] for kind, arguments in part._content if kind == "text")
    assert "Scores are ranked as they are" in texts
    ranks = latent_deviation(held_out.mu, held_out.logvar, reference.mu, reference.logvar)["p_subject"]
    assert part.files["deviation.csv"]["p"].tolist() == ranks.tolist()


def test_each_channel_has_its_map():
    reference, held_out = subjects(60, 1), subjects(40, 2, prefix="new")
    held_out.images = np.concatenate([held_out.images, held_out.images], axis=1)
    ours = np.concatenate([residuals(40, 3, held_out), residuals(40, 5, held_out)], axis=1)
    ours[7, 14:16, 4:6, 4:6] -= 2.0  # in the second channel
    one = validated(60, 4, reference)
    both = HealthyResiduals(
        np.concatenate([one.residuals, residuals(60, 6, reference)], axis=1), np.tile(one.mask, (2, 1, 1))
    )
    part = normative_part(held_out, reference, ours, both, "validation", contrasts=["T1w", "T2w"])
    assert part.files["deviation.csv"]["residual_deviation"].idxmax() == 7
    assert len(part.maps) == 10
    first, second = (part.maps[f"deviation_maps/new-7_{name}_zmap.nii.gz"][0] for name in ("T1w", "T2w"))
    assert second.shape == (10, 10, 10)
    assert second.min() < -5 < first.min()
    assert np.unravel_index(np.argmin(second), second.shape)[0] in (4, 5)
