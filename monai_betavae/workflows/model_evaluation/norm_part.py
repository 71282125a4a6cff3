"""The part of an evaluation on the deviation of each subject from healthy ones."""

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
    """Report how far each subject deviates from the reference; return ``None`` if the reference is too small.

    Args:
        held_out: the evaluated subjects.
        reference: training or validation subjects without a known lesion.
        held_out_residuals: image - reconstruction for ``held_out.images``, shape (k, x, y, z).
        reference_residuals: the same for validation subjects; ``None`` if there are too few.
        whose: part of the split that the reference comes from, "training" or "validation".
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
        f"latent_deviation compares each subject's code with those of {len(reference)} {whose} subjects without a "
        "known lesion: the mean over dimensions of |mu - mean| / sqrt(variance + posterior variance). p is its rank "
        "among the reference's own scores; q controls the false discovery rate over subjects (Benjamini-Hochberg), and "
        "over dimensions for the count."
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
        for residual, mask in zip(held_out_residuals, inside, strict=True):  # one subject at a time, to save memory
            tested = voxel_deviation(residual[None], reference_residuals, mask)
            counts.append(int(significant_count(correct_p_values(tested["p"]))[0]))
        column = np.full(len(held_out), np.nan)
        column[held_out.shown] = counts
        table["deviating_voxels"] = column
        part.text(
            f"deviating_voxels counts the voxels whose residuals differ from those of {len(reference_residuals)} "
            "healthy validation subjects in the same voxel, at a false discovery rate of 5 % within the subject."
        )
    part.files["deviation.csv"] = table
    shown = table.sort_values("latent_deviation", ascending=False).drop(columns="image").head(10)
    rows = [[None if value != value else value for value in row] for row in shown.to_numpy(dtype=object).tolist()]
    part.table(list(shown.columns), rows, "The ten subjects that deviate most; deviation.csv lists all")
    return part
