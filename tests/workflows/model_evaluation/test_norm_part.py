"""Deviation from the norm: of subjects like the reference, and of one that is far away."""

import numpy as np
import pytest
from subjects_of_numbers import subjects

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
