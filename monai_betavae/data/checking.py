"""The volumes of a cohort before a model sees them: which can't be used, and which are unlike the others."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from .._checks import check_integer
from .volumes import read_header, read_voxels, repair_non_finite, voxel_problem

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "subject",
    "image",
    "problem",
    "warning",
    "shape",
    "spacing",
    "orientation",
    "dtype",
    "non_finite",
    "minimum",
    "median",
    "maximum",
    "filled_ml",
)

FEWEST_TO_COMPARE = 8
"""A cohort with fewer readable volumes has no outliers."""

OUTLIER_SCORE = 6.0
"""Robust deviations (median absolute deviation, scaled to a Gaussian's sd) from which a value is an outlier."""

RARE, COMMON = 0.05, 0.5
"""A shape or spacing that at most this share has is odd where another has at least that share."""

_MOST_SHOWN = 12


def check_volumes(
    records: Iterable[Mapping[str, Any]],
    *,
    image_key: str = "image",
    voxels: bool = True,
    num_workers: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Check every volume of a cohort and describe it: one row per record, in their order. No file is changed.

    A ``problem`` makes a volume unusable: unreadable, truncated, empty, of another kind, 2D or 4D, complex, constant,
    without finite voxels, an affine that can't be inverted, voxels that can't be a brain's. A ``warning`` says
    that one is unlike the others: a rare shape or spacing, intensities or extent far from the cohort's
    (more than 6 robust standard deviations in the logarithm), or isolated non-finite voxels, which are repaired.

    Args:
        records: what :func:`~monai_betavae.data.discover` returns.
        image_key: key of the path in a record.
        voxels: whether voxels are read too; otherwise headers only, some milliseconds per volume.
        num_workers: threads, at least 1; ``None`` for one per processor, at most 8.
        progress: whether to show a progress bar.

    Returns:
        table with the columns subject, image, problem and warning (empty text where there is none), shape, spacing
        (mm), orientation, dtype, and from the voxels non_finite (count), minimum, median and maximum (of the non-zero
        voxels, in the file's units) and filled_ml (their volume, millilitres).

    Raises:
        ValueError: if a record has no path under ``image_key``.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "sub-1_T1w.nii.gz")
        >>> nib.save(nib.Nifti1Image(np.full((4, 4, 4), 7, np.int16), np.eye(4)), path)
        >>> table = check_volumes([{"image": path, "subject": "sub-1"}], progress=False)
        >>> print(table["problem"][0])
        must not be constant, got 7 in every voxel
    """
    import pandas as pd
    from tqdm.auto import tqdm

    records = list(records)
    for position, record in enumerate(records):
        if not isinstance(record.get(image_key), str | os.PathLike):
            raise ValueError(f"`records` must each have a path under {image_key!r}, got {record!r:.200} at {position}.")
    n_workers = min(os.cpu_count() or 1, 8) if num_workers is None else check_integer("num_workers", num_workers, 1)
    with ThreadPoolExecutor(n_workers) as pool:
        work = pool.map(lambda record: _described(record, image_key, voxels), records)
        label = "checking volumes" if voxels else "checking headers"
        rows = list(tqdm(work, desc=label, unit="volume", total=len(records), disable=not progress))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    _mark_outliers(table)
    return table


def summary(table: pd.DataFrame) -> str:
    """Return what :func:`check_volumes` found, on one screen."""
    bad, odd = table[table["problem"] != ""], table[(table["problem"] == "") & (table["warning"] != "")]
    good = table[table["problem"] == ""]
    lines = [f"Volumes: {len(table)} checked, {len(bad)} can't be used, {len(odd)} are unlike the others."]
    for column in ("shape", "spacing", "orientation", "dtype"):
        counts = Counter(str(value) for value in good[column])
        shown = ", ".join(f"{value} ({count})" for value, count in counts.most_common(4))
        more = f" and {len(counts) - 4} more" if len(counts) > 4 else ""
        lines += [f"  {column}: {shown}{more}"] if counts else []
    for column, rows in (("problem", bad), ("warning", odd)):
        messages = [f"{row['image']} {row[column]}" for _, row in rows.iterrows()]
        lines += [f"  {column}: {message}" for message in messages[:_MOST_SHOWN]]
        if len(messages) > _MOST_SHOWN:
            lines.append(f"  and {len(messages) - _MOST_SHOWN} more such")
    return "\n".join(lines)


def _described(record: Mapping[str, Any], image_key: str, voxels: bool) -> dict[str, Any]:
    path = os.fspath(record[image_key])
    row: dict[str, Any] = {"subject": record.get("subject"), "image": path, "problem": "", "warning": ""}
    try:
        image = read_header(path, record.get("channel"))
        spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
        row["shape"] = "x".join(str(side) for side in image.shape[:3])
        row["spacing"] = "x".join(f"{side:.4g}" for side in spacing)
        row["orientation"] = "".join(nib.aff2axcodes(image.affine))
        row["dtype"] = str(image.get_data_dtype())
        if not voxels:
            return row
        values = read_voxels(path, image)
    except ValueError as error:
        row["problem"] = str(error).removeprefix(path).strip().rstrip(".")
        return row
    n_bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    row["non_finite"] = n_bad
    row["problem"] = voxel_problem(values) or ""
    if row["problem"]:
        return row
    if n_bad:
        row["warning"] = f"{n_bad} non-finite voxels, which are repaired from their neighbours"
        values = repair_non_finite(values)
    filled = values[values != 0]
    row["minimum"], row["median"], row["maximum"] = (float(f(filled)) for f in (np.min, np.median, np.max))
    row["filled_ml"] = filled.size * float(np.prod(spacing)) / 1000
    return row


def _mark_outliers(table: pd.DataFrame) -> None:
    """Add to ``warning`` what sets a usable volume apart from the others."""
    usable = table.index[table["problem"] == ""]
    if len(usable) < FEWEST_TO_COMPARE:
        return
    for column in ("shape", "spacing"):
        counts = Counter(table.loc[usable, column])
        usual, most = counts.most_common(1)[0]
        if most < COMMON * len(usable):
            continue
        for index in usable:
            if counts[table.at[index, column]] <= RARE * len(usable):
                _warn(table, index, f"{column} {table.at[index, column]!s}, most have {usual!s}")
    for column, what in (("median", "median intensity"), ("filled_ml", "volume of non-zero voxels")):
        values = table.loc[usable, column].to_numpy(dtype=float)
        for index, score in zip(usable, _robust_scores(values), strict=True):
            if abs(score) > OUTLIER_SCORE:
                found, middle = values[list(usable).index(index)], float(np.median(values))
                _warn(table, index, f"{what} {found:.4g}, the cohort's median is {middle:.4g}")


def _robust_scores(values: Sequence[float] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return deviations of the logarithms from their median, in robust standard deviations; 0 where not positive."""
    logs = np.log(np.where(np.asarray(values) > 0, values, np.nan))
    if not np.isfinite(logs).any():
        return np.zeros(len(logs))
    deviations = logs - np.nanmedian(logs)
    # at least one percent: among copies of one volume every difference would be an outlier
    scale = max(1.4826 * float(np.nanmedian(np.abs(deviations))), 0.01)
    scores: np.ndarray[Any, Any] = np.nan_to_num(deviations / scale)
    return scores


def _warn(table: pd.DataFrame, index: Any, message: str) -> None:
    before = table.at[index, "warning"]
    table.at[index, "warning"] = f"{before!s}; {message}" if before else message
