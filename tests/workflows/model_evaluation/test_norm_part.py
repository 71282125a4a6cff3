"""Deviation from the norm: of subjects like the reference, and of one that is far away."""

import numpy as np
import pytest
from subjects_of_numbers import subjects

from monai_betavae.data import CovariateCoding
from monai_betavae.workflows.model_evaluation.norm_part import normative_part


def residuals(n, seed, group):
    """Noise of a tenth inside the brain."""
    noise = 0.1 * np.random.default_rng(seed).standard_normal(group.images[:, 0].shape)
    return (noise * (group.images[:, 0] > 0)).astype(np.float32)[:n]


def test_a_subject_far_away_deviates_and_the_others_do_not():
    reference, held_out = subjects(60, 1), subjects(12, 2, prefix="new")
    held_out.mu[4] = 12.0
    part = normative_part(held_out, reference, residuals(12, 3, held_out), residuals(60, 4, reference), "validation")
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
    table = normative_part(held_out, reference, ours, residuals(60, 4, reference), "training").files["deviation.csv"]
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
    assert "The norm isn't calibrated" in warning
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
