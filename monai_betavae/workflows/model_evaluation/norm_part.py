"""The part of an evaluation that says how far each subject is from healthy ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...evaluation.normative import correct_p_values, latent_deviation, significant_count, voxel_deviation
from ...evaluation.reconstruction import brain_mask
from .part import MIN_TO_FIT, Part
from .subjects import Subjects

Array = NDArray[Any]


def normative_part(
    held_out: Subjects, reference: Subjects, held_out_residuals: Array, reference_residuals: Array | None, whose: str
) -> Part | None:
    """Say how far each subject is from the reference; ``None`` where that is too small.

    Args:
        held_out: the evaluated subjects.
        reference: training or validation subjects without a known lesion.
        held_out_residuals: image - reconstruction of ``held_out.images``, shape (k, x, y, z).
        reference_residuals: the same of validation subjects; ``None`` where there are too few.
        whose: of which part the reference is.
    """
    import pandas as pd

    if len(reference) < MIN_TO_FIT:
        return None
    part = Part("normative", "Deviation from the norm")
    found = latent_deviation(held_out.mu, held_out.logvar, reference.mu, reference.logvar)
    q = correct_p_values(found["p_subject"][None])[0]
    table = pd.DataFrame(
        {
            "subject": held_out.column("subject"),
            "image": [record["image"] for record in held_out.records],
            "latent_deviation": found["score"],
            "p": found["p_subject"],
            "q": q,
            "deviating_dimensions": significant_count(correct_p_values(found["p_values"])),
        }
    )
    part.text(
        f"Of each subject's code against those of {len(reference)} {whose} subjects without a known lesion: the mean "
        "over dimensions of |mu - mean| / sqrt(variance + posterior variance). p by its rank among the reference's "
        "own; q with the false discovery rate controlled over subjects (Benjamini-Hochberg), and over dimensions for "
        "the count."
        + (
            ""
            if whose == "validation"
            else " Training subjects deviate more than new ones: validation would be better."
        )
    )
    part.scores.update(
        n_reference=len(reference), deviating_subjects=int((q <= 0.05).sum()), n_subjects=len(held_out), of=whose
    )
    if reference_residuals is not None and len(reference_residuals) >= MIN_TO_FIT:
        inside = brain_mask(held_out.images[:, 0])
        counts = []
        for residual, mask in zip(held_out_residuals, inside, strict=True):  # one subject at a time: memory
            tested = voxel_deviation(residual[None], reference_residuals, mask)
            counts.append(int(significant_count(correct_p_values(tested["p"]))[0]))
        column = np.full(len(held_out), np.nan)
        column[held_out.shown] = counts
        table["deviating_voxels"] = column
        part.text(
            f"deviating_voxels: residuals unlike those of {len(reference_residuals)} healthy validation subjects in "
            "the same voxel, false discovery rate 5 % within the subject."
        )
    part.files["deviation.csv"] = table
    shown = table.sort_values("latent_deviation", ascending=False).drop(columns="image").head(10)
    rows = [[None if value != value else value for value in row] for row in shown.to_numpy(dtype=object).tolist()]
    part.table(list(shown.columns), rows, "The ten that deviate most; all in deviation.csv")
    return part
