"""The part of an evaluation on the deviation of each subject from healthy ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..._checks import is_missing
from ...data import CovariateCoding
from ...data.tables.covariate_values import level_of, value_of
from ...data.tables.covariates import head_of, is_number, kind_of_covariate, ordered_covariates
from ...evaluation.adjusted_scores import MIN_PER_COLUMN, adjust_scores
from ...evaluation.calibration import calibration_by_group, expected_share
from ...evaluation.normative import correct_p_values, latent_deviation, significant_count, voxel_deviation
from ...evaluation.reconstruction import brain_mask
from ...evaluation.residual_deviation import FWHM, QUANTILE, residual_deviation
from ...plots import channel_labels, channel_rows, plot_maps, plot_p_values
from .part import MIN_TO_FIT, Part, as_dict, conditional_text, format_estimate, replace_non_finite
from .subjects import Subjects, covariates_of, is_healthy, spacing_of

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]

LIMIT = 0.05
"""p from which a subject counts as deviating."""

USUAL = ("age", "sex", "gender", "site")
"""What the calibration is broken down by for a model that isn't conditional."""

MAPPED = 5
"""Number of subjects whose map of deviating voxels is drawn and written, those of the largest residual deviation."""

MAP_FROM = 3.0
"""|z| from which a voxel is drawn."""


class HealthyResiduals(NamedTuple):
    """Residuals of healthy validation subjects.

    Attributes:
        residuals: image - reconstruction, shape (n, x, y, z).
        mask: voxels that are brain in at least half of them, shape (x, y, z).
        covariates: coded ones, shape (n, n_covariates); ``None`` for a model that isn't conditional.
    """

    residuals: Array
    mask: Array
    covariates: Array | None = None


def normative_part(
    held_out: Subjects,
    reference: Subjects,
    held_out_residuals: Array,
    validated: HealthyResiduals | None,
    whose: str,
    coding: CovariateCoding | None = None,
    label: str = "",
    contrasts: Sequence[str] | None = None,
) -> Part | None:
    """Report how far each subject deviates from the reference; return ``None`` if the reference is too small.

    Args:
        held_out: the evaluated subjects.
        reference: training or validation subjects without a known lesion and without the diagnosis "patient".
        held_out_residuals: image - reconstruction for ``held_out.images``, shape (k, x, y, z); of several channels, one
            after the other along x.
        validated: the same for healthy validation subjects; ``None`` if there are none.
        whose: part of the split that the reference comes from, "training" or "validation".
        coding: of the covariates that the model is conditional on; ``None`` without any.
        label: title of the pictures.
        contrasts: names of the channels of a model of several.
    """
    import pandas as pd

    if len(reference) < MIN_TO_FIT:
        return None
    part = Part("normative", "Deviation from the norm")
    found = latent_deviation(held_out.mu, held_out.logvar, reference.mu, reference.logvar)
    p = found["p_subject"]
    adjusted = _adjusted_p(found["score"], held_out.covariates, found["reference_score"], reference.covariates)
    p = p if adjusted is None else adjusted
    q = correct_p_values(p[None])[0]
    table = pd.DataFrame(
        {
            "subject": held_out.column("subject"),
            "image": [record["image"] for record in held_out.records],
            "latent_deviation": found["score"],
            "p": p,
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
        n_reference=len(reference), deviating_subjects=int((q <= LIMIT).sum()), n_subjects=len(held_out), of=whose
    )
    if coding is not None:
        part.text(
            f"{conditional_text(coding.names)}. The deviation is therefore adjusted for them: it is that from subjects "
            "alike in these, as far as the conditional mean describes how codes follow them."
            + (
                " Before scores are ranked, they are also adjusted for how much healthy subjects of these covariates "
                "deviate."
                if adjusted is not None
                else f" Scores are ranked as they are: to adjust them, too, {MIN_PER_COLUMN} reference subjects for "
                "each coded covariate are needed."
            )
        )
    n_by_score = {"latents": (p, len(reference))} if whose == "validation" else {}
    if validated is not None and len(validated.residuals) >= MIN_TO_FIT:
        p_residual = _add_residuals(part, table, held_out, held_out_residuals, validated, label, contrasts)
        n_by_score["residuals"] = p_residual, len(validated.residuals)
    _add_calibration(part, held_out, n_by_score, coding, label)
    part.files["deviation.csv"] = table
    shown = table.sort_values("latent_deviation", ascending=False).drop(columns="image").head(10)
    rows = [[None if value != value else value for value in row] for row in shown.to_numpy(dtype=object).tolist()]
    part.table(list(shown.columns), rows, "The ten subjects whose codes deviate most; deviation.csv lists all")
    return part


def _adjusted_p(scores: Array, covariates: Array | None, healthy: Array, known: Array | None) -> Array | None:
    """Return p of scores adjusted for covariates; ``None`` for a model without any or too small a reference."""
    if covariates is None or known is None or len(known) < MIN_PER_COLUMN * (known.shape[1] + 1):
        return None
    return adjust_scores(scores, covariates, healthy, known).p


def _add_residuals(
    part: Part,
    table: pd.DataFrame,
    held_out: Subjects,
    residuals: Array,
    validated: HealthyResiduals,
    label: str,
    contrasts: Sequence[str] | None,
) -> Array:
    """Add columns, maps and pictures of deviating voxels; return p of each volume, NaN where the image isn't kept."""
    n = len(validated.residuals)
    n_channels = held_out.images.shape[1]
    inside = np.tile(brain_mask(held_out.images[:, 0]), (1, n_channels, 1, 1))
    counts = []
    for residual, mask in zip(residuals, inside, strict=True):  # one subject at a time, to save memory
        tested = voxel_deviation(residual[None], validated.residuals, mask)
        counts.append(int(significant_count(correct_p_values(tested["p"]))[0]))
    spacing = spacing_of(held_out.affines[0])
    found = residual_deviation(residuals, validated.residuals, validated.mask, spacing=spacing, n_channels=n_channels)
    # of the first channel, for the viewer, in half the memory
    part.z = found.z.reshape(held_out.images.shape)[:, 0].astype(np.float16)
    adjusted = _adjusted_p(found.scores, held_out.shown_covariates, found.reference, validated.covariates)
    p = found.p if adjusted is None else adjusted
    columns = {
        "residual_deviation": found.scores,
        "p_residual": p,
        "q_residual": correct_p_values(p[None])[0],
        "deviating_voxels": counts,
    }
    for name, values in columns.items():
        table[name] = np.full(len(held_out), np.nan)
        table.loc[held_out.shown, name] = values
    part.scores["deviating_subjects_residual"] = int((columns["q_residual"] <= LIMIT).sum())
    part.text(
        "residual_deviation finds what codes can't express, such as a local disease. Residuals, image - "
        f"reconstruction, are smoothed by {FWHM:g} mm and compared with those of {n} healthy validation subjects in "
        f"the same voxel. The score is the {QUANTILE:g} quantile of |z| over the brain, relative to the subject's own "
        "root mean square; p_residual is its rank among the reference's, adjusted for covariates as p is. "
        "deviating_voxels counts the "
        "voxels whose unsmoothed residuals deviate at a false discovery rate of 5 % within the subject."
    )
    most = np.argsort(-found.scores, kind="stable")[:MAPPED]
    captions = [f"{held_out.records[held_out.shown[row]].get('subject')}\np {p[row]:.3g}" for row in most]
    z = found.z[most].reshape(held_out.images[most].shape)
    maps, names = channel_rows(z, captions, contrasts)
    anatomy, _ = channel_rows(held_out.images[most], captions, contrasts)
    figure = plot_maps(maps, anatomy, held_out.affines[0], names, label, threshold=MAP_FROM)
    part.picture(
        "deviation.png",
        figure,
        f"Where the subjects of the largest residual deviation differ from healthy ones: z of smoothed residuals, from "
        f"{MAP_FROM:g}. Blue: darker than expected.",
    )
    for volumes, row in zip(z, most, strict=True):
        index = int(held_out.shown[row])
        name = _map_name(held_out.records[index], index)
        for volume, channel in zip(volumes, channel_labels(n_channels, contrasts), strict=True):
            file_name = f"{name}_{channel}" if n_channels > 1 else name
            part.maps[f"deviation_maps/{file_name}_zmap.nii.gz"] = volume, held_out.affines[row]
    return _of_all(held_out, p)


def _map_name(record: Mapping[str, Any], row: int) -> str:
    """Return the start of a map's file name: subject and session where they are plain words, else the row."""
    words = [str(record[key]) for key in ("subject", "session") if not is_missing(record.get(key))]
    plain = words and all(re.fullmatch(r"[\w-]{1,100}", word) for word in words)
    return "_".join(words) if plain else f"volume-{row}"


def _of_all(held_out: Subjects, values: Array) -> Array:
    """Return values of the volumes whose images are kept as one for each volume, NaN for the others."""
    column = np.full(len(held_out), np.nan)
    column[held_out.shown] = values
    return column


def _add_calibration(
    part: Part,
    held_out: Subjects,
    p_by_score: Mapping[str, tuple[Array, int]],
    coding: CovariateCoding | None,
    label: str,
) -> None:
    """Add, for each score, how many healthy subjects are beyond the limit, and the quantiles of p.

    Args:
        part: to add to.
        held_out: the evaluated subjects.
        p_by_score: p of each volume, NaN where unknown, and the size of the reference, by what the score is of.
        coding: as for :func:`normative_part`.
        label: title of the pictures.
    """
    scans = _one_scan_each(held_out)
    if len(scans) < MIN_TO_FIT:
        return
    for name, (p, n_reference) in p_by_score.items():
        tested = [row for row in scans if is_healthy(held_out.records[row]) and np.isfinite(p[row])]
        if tested:
            _add_one_calibration(part, held_out, name, p, tested, n_reference, coding, label)


def _add_one_calibration(
    part: Part,
    held_out: Subjects,
    name: str,
    p: Array,
    tested: Sequence[int],
    n_reference: int,
    coding: CovariateCoding | None,
    label: str,
) -> None:
    import pandas as pd

    end = "" if name == "latents" else f"_{name}"
    quantities, categories = _grouped(held_out, tested, coding)
    rows = calibration_by_group(p[tested], quantities, categories, limit=LIMIT, n_reference=n_reference)
    expected = expected_share(LIMIT, n_reference)
    part.scores[f"calibration{end}"] = {
        "limit": LIMIT,
        "expected": expected,
        "n": len(tested),
        "groups": replace_non_finite(
            [{**row._asdict(), "share": as_dict(row.share), "expected": list(row.expected)} for row in rows]
        ),
    }
    part.files[f"calibration{end}.csv"] = pd.DataFrame(
        [[row.by, row.group, row.n, row.beyond, *row.share, *row.expected] for row in rows],
        columns=["by", "group", "n", "beyond", "share", "low", "high", "expected_low", "expected_high"],
    )
    part.text(
        f"Calibration of the deviation of {name}: of {len(tested)} evaluated subjects without a known lesion or "
        "disease (the first scan of each), "
        f"the share with p of at most {LIMIT:g}. As p is a rank among {n_reference} subjects, a calibrated norm has "
        f"{100 * expected:.1f} % of healthy subjects there, in every group. The interval of the share is the binomial "
        "one, 95 %. The last column is where the share of a calibrated norm lies in 95 % of studies with as many "
        "subjects and as large a reference; of 20 groups about one is outside by chance."
    )
    part.table(
        ["by", "group", "n", f"p ≤ {LIMIT:g}", "share", "if calibrated"],
        [[row.by, row.group, row.n, row.beyond, format_estimate(row.share), _range_text(row.expected)] for row in rows],
        f"Healthy subjects beyond the limit, by the deviation of {name}",
    )
    low, high = rows[0].expected
    if not low <= rows[0].share.value <= high:
        many = "too many" if rows[0].share.value > high else "too few"
        part.warn(
            f"The norm of {name} isn't calibrated: {rows[0].beyond} of {len(tested)} healthy subjects have p of at "
            f"most {LIMIT:g}, {many} ({_range_text(rows[0].expected)} of them would be right)."
        )
    part.picture(
        f"calibration{end}.png",
        plot_p_values(p[tested], n_reference, label),
        f"p of the healthy subjects by the deviation of {name}, against uniform quantiles, with the band that holds "
        "95 % of uniform p.",
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
