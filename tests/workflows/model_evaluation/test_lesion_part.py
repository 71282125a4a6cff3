"""Lesions: found by a model that repairs them, not by one that copies them."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest
from subjects_of_numbers import subjects

from monai_betavae.data import brain_transforms
from monai_betavae.workflows.model_evaluation.lesion_part import anomaly_part
from monai_betavae.workflows.model_evaluation.part import MEAN_RESIDUAL_NAME, PCA_NAME, VAE_NAME
from monai_betavae.workflows.model_evaluation.subjects import HEALTHY_KEY, LESION_KEY

SIDE = 16
TRANSFORM = brain_transforms((SIDE,) * 3)


def save(path, values, affine):
    nib.Nifti1Image(values.astype(np.float32), affine).to_filename(path)
    return str(path)


@pytest.fixture
def cohort(tmp_path):
    """Eight subjects, six with a dark lesion that grows, and healthy validation subjects; the healthy images too."""
    held_out, validation = subjects(8, 1, side=SIDE), subjects(8, 2, side=SIDE, prefix="well")
    healthy = held_out.images.copy()
    for number in range(6):
        mask = np.zeros((SIDE,) * 3, bool)
        mask[5 : 8 + number // 2, 5:9, 5:9] = True
        held_out.images[number, 0][mask] *= 0.4
        affine = held_out.affines[number]
        held_out.records[number][LESION_KEY] = save(tmp_path / f"lesion-{number}.nii", mask, affine)
        held_out.records[number][HEALTHY_KEY] = save(tmp_path / f"healthy-{number}.nii", healthy[number, 0], affine)
        held_out.records[number]["factor_lesion_intensity"] = 0.1 * (number + 1)
    return held_out, validation, healthy


def blurred(images):
    """A model that gives every brain the same intensity: it repairs lesions, and leaves the noise in the residual."""
    return np.where(images > 0, np.float32(0.5), np.float32(0))


def found(cohort, ours, theirs, lesions="dark"):
    held_out, validation, _ = cohort
    return anomaly_part(held_out, ours, validation, theirs, TRANSFORM, lesions, seed=0)


def test_a_model_that_repairs_finds_lesions_and_one_that_copies_does_not(cohort):
    held_out, validation, healthy = cohort
    ours = {VAE_NAME: blurred(healthy), PCA_NAME: held_out.images.copy()}
    theirs = {VAE_NAME: blurred(validation.images), PCA_NAME: validation.images.copy()}
    part = found(cohort, ours, theirs)
    scores = part.scores
    assert (scores["n_subjects"], scores["n_healthy"], scores["lesions"]) == (6, 8, "dark")
    assert scores["model"]["auprc"] > 0.85  # the median filter rounds the lesions' corners off
    assert scores["model"]["dice"]["value"] > 0.6
    # a copy has no residual anywhere: chance
    assert scores["pca"]["auprc"] == pytest.approx(scores["prevalence"])
    # the true image on disk is scaled by its percentiles, these images of numbers aren't: not 0
    assert scores["model"]["healthy_pair"]["lesion"] < 0.3 * scores["model"]["healthy_pair"]["lesion_untouched"]
    pca = scores["pca"]["healthy_pair"]
    assert pca["lesion"] == pytest.approx(pca["lesion_untouched"], rel=1e-6)
    assert scores["model"]["detection_auroc"]["value"] == 1
    assert part.warnings == [], "nothing finds lesions better"
    by_size = [row for row in scores["by_lesion"] if row["by"] == "size"]
    assert [row["n"] for row in by_size] == [2, 2, 2]
    assert set(part.pictures) == {"precision_recall.png", "residuals.png"}


def test_intervals_are_those_of_subjects(cohort):
    """Each volume twice, as of two sessions that are alike."""

    def twice(group):
        rows = np.repeat(np.arange(len(group)), 2)
        arrays = {name: getattr(group, name)[rows] for name in ("mu", "logvar", "images", "affines")}
        records = [dict(group.records[row]) for row in rows]
        return dataclasses.replace(group, records=records, shown=np.arange(len(rows)), **arrays)

    held_out, validation, healthy = cohort
    restored = blurred(healthy)
    restored[:3] = held_out.images[:3]  # half of the lesions are copied
    noise = np.random.default_rng(0).uniform(0, 0.02, (len(validation), 1, 1, 1, 1)).astype(np.float32)
    restored_well = validation.images + noise
    alone = found(cohort, {VAE_NAME: restored}, {VAE_NAME: restored_well}).scores["model"]
    groups = twice(held_out), twice(validation), None
    again = found(groups, {VAE_NAME: restored.repeat(2, 0)}, {VAE_NAME: restored_well.repeat(2, 0)}).scores["model"]
    for name in ("auprc_per_subject", "detection_auroc"):
        assert again[name] == pytest.approx(alone[name]), name
        assert alone[name]["low"] < alone[name]["value"] - 0.05, name
    # as volumes of different people they would seem to tell more
    for record in (*groups[0].records, *groups[1].records):
        del record["subject"]
    nameless = found(groups, {VAE_NAME: restored.repeat(2, 0)}, {VAE_NAME: restored_well.repeat(2, 0)}).scores["model"]
    for name in ("auprc_per_subject", "detection_auroc"):
        assert nameless[name]["high"] - nameless[name]["low"] < 0.9 * (alone[name]["high"] - alone[name]["low"]), name


def test_a_baseline_that_finds_them_as_well_is_a_warning(cohort):
    held_out, validation, healthy = cohort
    ours = {VAE_NAME: held_out.images.copy(), MEAN_RESIDUAL_NAME: blurred(healthy)}
    theirs = {VAE_NAME: validation.images.copy(), MEAN_RESIDUAL_NAME: blurred(validation.images)}
    part = found(cohort, ours, theirs)
    assert len(part.warnings) == 1
    assert "Lesions are found no better than by: mean image residual" in part.warnings[0]


def test_residuals_of_the_wrong_sign_find_nothing(cohort):
    _, validation, healthy = cohort
    models = {VAE_NAME: blurred(healthy)}, {VAE_NAME: blurred(validation.images)}
    dark, bright, both = (found(cohort, *models, lesions=kind).scores for kind in ("dark", "bright", "both"))
    assert bright["model"]["auprc"] < 0.3 * dark["model"]["auprc"]
    assert both["model"]["auprc"] > 0.9
    assert "intensity" in dark
    assert "intensity" not in both  # no end of the scale to measure from


def test_without_masks_or_healthy_subjects_there_is_no_part(cohort):
    held_out, validation, healthy = cohort
    ours, theirs = {VAE_NAME: blurred(healthy)}, {VAE_NAME: blurred(validation.images)}
    for record in validation.records:
        record[LESION_KEY] = held_out.records[0][LESION_KEY]
    assert found(cohort, ours, theirs) is None
    for record in [*validation.records, *held_out.records]:
        record.pop(LESION_KEY, None)
    assert found(cohort, ours, theirs) is None
