"""The part of an evaluation on the deviation of each subject from healthy ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data import CovariateCoding
from ...data.tables.covariate_values import level_of, value_of
from ...data.tables.covariates import head_of, is_number, kind_of_covariate, ordered_covariates
from ...evaluation.calibration import calibration_by_group, expected_share
from ...evaluation.normative import correct_p_values, latent_deviation, significant_count, voxel_deviation
from ...evaluation.reconstruction import brain_mask
from ...plots import plot_p_values
from .part import MIN_TO_FIT, Part, as_dict, conditional_text, format_estimate, replace_non_finite
from .subjects import Subjects, covariates_of, is_healthy

Array = NDArray[Any]

LIMIT = 0.05
"""p from which a subject counts as deviating."""

USUAL = ("age", "sex", "gender", "site")
"""What the calibration is broken down by for a model that isn't conditional."""


def normative_part(
    held_out: Subjects,
    reference: Subjects,
    held_out_residuals: Array,
    reference_residuals: Array | None,
    whose: str,
    coding: CovariateCoding | None = None,
    label: str = "",
) -> Part | None:
    """Report how far each subject deviates from the reference; return ``None`` if the reference is too small.

    Args:
        held_out: the evaluated subjects.
        reference: training or validation subjects without a known lesion and without the diagnosis "patient".
        held_out_residuals: image - reconstruction for ``held_out.images``, shape (k, x, y, z).
        reference_residuals: the same for validation subjects; ``None`` if there are too few.
        whose: part of the split that the reference comes from, "training" or "validation".
        coding: of the covariates that the model is conditional on; ``None`` without any.
        label: title of the picture.
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
        "known lesion or disease: the mean over dimensions of |mu - mean| / sqrt(variance + posterior variance). p is "
        "its rank among the reference's own scores; q controls the false discovery rate over subjects "
        "(Benjamini-Hochberg), and over dimensions for the count."
        + (
            ""
            if whose == "validation"
            else " Training subjects deviate more than new ones: validation would be better."
        )
    )
    part.scores.update(
        n_reference=len(reference), deviating_subjects=int((q <= 0.05).sum()), n_subjects=len(held_out), of=whose
    )
    if coding is not None:
        part.text(
            f"{conditional_text(coding.names)}. The deviation is therefore adjusted for them: it is that from subjects "
            "alike in these, as far as the conditional mean describes how codes follow them."
        )
    if whose == "validation":
        _add_calibration(part, held_out, found["p_subject"], len(reference), coding, label)
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


def _add_calibration(
    part: Part, held_out: Subjects, p: Array, n_reference: int, coding: CovariateCoding | None, label: str
) -> None:
    """Add how many healthy subjects are beyond the limit, of all and by covariate, and the quantiles of p."""
    import pandas as pd

    scans = _one_scan_each(held_out)
    if len(scans) < MIN_TO_FIT:
        return
    tested = [row for row in scans if is_healthy(held_out.records[row])]
    if not tested:
        return
    quantities, categories = _grouped(held_out, tested, coding)
    rows = calibration_by_group(p[tested], quantities, categories, limit=LIMIT, n_reference=n_reference)
    expected = expected_share(LIMIT, n_reference)
    part.scores["calibration"] = {
        "limit": LIMIT,
        "expected": expected,
        "n": len(tested),
        "groups": replace_non_finite(
            [{**row._asdict(), "share": as_dict(row.share), "expected": list(row.expected)} for row in rows]
        ),
    }
    part.files["calibration.csv"] = pd.DataFrame(
        [[row.by, row.group, row.n, row.beyond, *row.share, *row.expected] for row in rows],
        columns=["by", "group", "n", "beyond", "share", "low", "high", "expected_low", "expected_high"],
    )
    part.text(
        f"Calibration: of {len(tested)} evaluated subjects without a known lesion or disease (the first scan of each), "
        f"the share with p of at most {LIMIT:g}. As p is a rank among {n_reference} subjects, a calibrated norm has "
        f"{100 * expected:.1f} % of healthy subjects there, in every group. The interval of the share is the binomial "
        "one, 95 %. The last column is where the share of a calibrated norm lies in 95 % of studies with as many "
        "subjects and as large a reference; of 20 groups about one is outside by chance."
    )
    part.table(
        ["by", "group", "n", f"p ≤ {LIMIT:g}", "share", "if calibrated"],
        [[row.by, row.group, row.n, row.beyond, format_estimate(row.share), _range_text(row.expected)] for row in rows],
        "Healthy subjects beyond the limit",
    )
    low, high = rows[0].expected
    if not low <= rows[0].share.value <= high:
        many = "too many" if rows[0].share.value > high else "too few"
        part.warn(
            f"The norm isn't calibrated: {rows[0].beyond} of {len(tested)} healthy subjects have p of at most "
            f"{LIMIT:g}, {many} ({_range_text(rows[0].expected)} of them would be right)."
        )
    part.picture(
        "calibration.png",
        plot_p_values(p[tested], n_reference, label),
        "p of the healthy subjects against uniform quantiles, with the band that holds 95 % of uniform p.",
    )


def _one_scan_each(subjects: Subjects) -> list[int]:
    """Return the row of each subject's first scan: repeated scans aren't independent."""
    first: dict[str, int] = {}
    for row, name in enumerate(subjects.column("subject")):
        first.setdefault(f"row {row}" if name is None else f"subject {name}", row)
    return list(first.values())


def _grouped(
    held_out: Subjects, tested: Sequence[int], coding: CovariateCoding | None
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Return the values of the tested subjects by quantity, and by category."""
    if coding is None:
        found = covariates_of(held_out.records)
        kinds = {
            name: kind_of_covariate(name, found[name]) for name in ordered_covariates(found) if head_of(name) in USUAL
        }
    else:
        kinds = {entry["name"]: entry["kind"] for entry in coding.description()["covariates"]}
    quantities: dict[str, list[Any]] = {}
    categories: dict[str, list[Any]] = {}
    for name, kind in kinds.items():
        values = [value_of(held_out.records[row].get(name)) for row in tested]
        if kind == "quantity":
            quantities[name] = [value if is_number(value) else None for value in values]
        else:
            categories[name] = [level_of(value) for value in values]
    return quantities, categories


def _range_text(ends: tuple[float, float]) -> str:
    low, high = (round(100 * end, 1) for end in ends)
    return f"{low:g} to {high:g} %"
