"""Checks that find the volumes of a cohort that can't be used, and those that differ from the others."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from ..._checks import check_integer
from ..transforms.background import MARGIN, background_value, foreground
from ..transforms.channels import of_channels
from ..transforms.field_of_view import scaled_background
from ..volumes.contrasts import other_images
from ..volumes.volume_files import open_volume, read_header, read_voxels, repair_non_finite, voxel_problem
from .findings import Finding
from .orientation import AGREE, OF_FORMAT, orientation_source

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
    "handedness",
    "dtype",
    "non_finite",
    "minimum",
    "median",
    "maximum",
    "background",
    "filled_ml",
    "extent",
    "duplicate_of",
    "cut_away",
    "filled",
    "padded",
    "background_level",
    "grid_shape",
    "grid_spacing",
)

MIN_TO_COMPARE = 8
"""In a cohort with fewer readable volumes, outliers are not looked for."""

OUTLIER_SCORE = 6.0
"""Robust deviations (median absolute deviation, scaled to a Gaussian's sd) beyond which a value is an outlier."""

FINER = 0.8
"""Volumes whose voxels are at most this share of the grid's spacing could have a finer grid."""

RARE, COMMON = 0.05, 0.5
"""A shape or spacing is odd if at most the first share of volumes has it and at least the second shares another."""

CLEAR = (AGREE, "sform", "qform", OF_FORMAT)
"""Sources of an orientation that leave no doubt."""

_MAX_SHOWN = {"problem": 12, "warning": 4}


def check_volumes(
    records: Iterable[Mapping[str, Any]],
    *,
    image_key: str = "image",
    voxels: bool = True,
    num_workers: int | None = None,
    progress: bool = True,
    transform: Callable[[dict[str, Any]], Mapping[Any, Any]] | None = None,
    on_sample: Callable[[int, Mapping[Any, Any]], None] | None = None,
) -> pd.DataFrame:
    """Check every volume of a cohort and describe it: one row per record, in their order. No file is changed.

    Further images of a record ("other_images") are checked as well; what is wrong with them is said in its row.

    A ``problem`` makes a volume unusable: it is unreadable, truncated, empty, of another kind, 2D or 4D, complex,
    constant or without finite voxels, its affine can't be inverted, or its voxel size can't be a brain's. A ``warning``
    says that a volume differs from the others: a rare shape, spacing or orientation, intensities or an extent far from
    the cohort's (more than 6 robust standard deviations in the logarithm), the voxels of another volume, or isolated
    non-finite voxels, which are repaired. :mod:`~monai_betavae.data.checks.findings` suggests remedies for the cohort.

    Args:
        records: records from :func:`~monai_betavae.data.discover`.
        image_key: key of the path in a record.
        voxels: whether to read voxels too; headers alone take some milliseconds per volume.
        num_workers: number of threads, at least 1; ``None`` for one per processor, at most 8.
        progress: whether to show a progress bar.
        transform: the preprocessing of a run, such as :func:`~monai_betavae.data.brain_transforms`. It is also applied
            to every volume, and the table then says what its grid does to the volume. A refusal is a problem.
        on_sample: called with the position and sample of every volume, from several threads.

    Returns:
        table with the columns subject, image, problem and warning (empty text if there is none), shape, spacing
        (mm), orientation, handedness (:func:`~.orientation.orientation_source`) and dtype; from the voxels, non_finite
        (count), background (the value of a constant one), minimum, median and maximum (of the foreground, in the file's
        units), filled_ml (its volume, millilitres), extent (of its bounding box along x, y and z, mm) and duplicate_of
        (path of an earlier volume with the same voxels); from the transform, cut_away (share of the foreground
        outside the grid), filled (share of the grid that is foreground), padded (share that is padding),
        background_level (scaled intensity of the background, 0 to 1), grid_shape and grid_spacing (mm).

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

    def described(position: int) -> dict[str, Any]:
        row = _with_others(_described(records[position], image_key, voxels), records[position], voxels)
        if transform is not None and not row["problem"]:
            row |= _transformed(position, records[position], image_key, transform, on_sample)
        return row

    with ThreadPoolExecutor(n_workers) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the table already has what a transform warns of in single volumes
        work = pool.map(described, range(len(records)))
        label = "checking volumes" if voxels else "checking headers"
        rows = list(tqdm(work, desc=label, unit="volume", total=len(records), disable=not progress))
    _mark_duplicates(rows)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    _mark_outliers(table)
    return table


def summary(table: pd.DataFrame, findings: Sequence[Finding] = ()) -> str:
    """Return the results of :func:`check_volumes`, with remedies, as a text that fits on one screen.

    Args:
        table: table from :func:`check_volumes`.
        findings: problems of the cohort to fix.
    """
    bad, odd = table[table["problem"] != ""], table[(table["problem"] == "") & (table["warning"] != "")]
    good = table[table["problem"] == ""]
    lines = [f"Volumes: {len(table)} checked, {len(bad)} can't be used, {len(odd)} are unlike the others."]
    for column in ("shape", "spacing", "orientation", "handedness", "dtype", "grid_shape", "grid_spacing"):
        counts = Counter(str(value) for value in good[column] if value == value and value != "")
        shown = ", ".join(f"{value} ({count})" for value, count in counts.most_common(4))
        more = f" and {len(counts) - 4} more" if len(counts) > 4 else ""
        lines += [f"  {column.replace('_', ' ')}: {shown}{more}"] if counts else []
    for column, what in (
        ("background", "background"),
        ("cut_away", "share of the head outside the grid"),
        ("filled", "share of the grid that is filled"),
    ):
        values = good[column].dropna().astype(float)
        if len(values):
            spread = f"{values.min():.3g} to {values.max():.3g}, median {values.median():.3g}"
            none = f", none in {len(good) - len(values)}" if len(values) < len(good) else ""
            lines.append(f"  {what}: {spread if values.min() < values.max() else format(values.min(), '.3g')}{none}")
    lines += [f"  {line}" for line in [_finer_grid(good)] if line]
    for column, rows in (("problem", bad), ("warning", odd)):
        messages = [f"{row['image']} {row[column]}" for _, row in rows.iterrows()]
        most = _MAX_SHOWN[column]
        lines += [f"  {column}: {message}" for message in messages[:most]]
        if len(messages) > most:
            lines.append(f"  and {len(messages) - most} more such")
    for finding in sorted(findings, key=lambda each: not each.stops):
        lines.append(f"  {'STOPS TRAINING' if finding.stops else 'change?'}: {finding.message}")
        lines.append(f"    -> {finding.option}")
    return "\n".join(lines)


def _finer_grid(good: pd.DataFrame) -> str:
    """Return the option for a grid as fine as the volumes, and its size; empty if the grid is about as fine."""
    known = [text for text in good["spacing"] if isinstance(text, str) and text]
    grids = Counter((shape, spacing) for shape, spacing in zip(good["grid_shape"], good["grid_spacing"], strict=True))
    (shape, spacing), _ = grids.most_common(1)[0] if grids else (("", ""), 0)
    if not known or not isinstance(shape, str) or not shape:
        return ""
    sides, extents = _numbers(spacing), _numbers(shape)
    # one length for a voxel that need not be a cube
    own = float(f"{np.median([np.prod(_numbers(text)) for text in known]) ** (1 / 3):.2g}")
    if np.ptp(sides) > 1e-3 or own > FINER * sides[0]:
        return ""
    shape = ",".join(str(round(extent * sides[0] / own)) for extent in extents)
    times = f"{(sides[0] / own) ** 3:.2g} times"
    return (
        f"finer grid: --spacing {own:.1f} --spatial_shape '[{shape}]' is as fine as the volumes: {times} the voxels, "
        "and roughly as many times the time and memory"
    )


def _numbers(text: str) -> list[float]:
    return [float(side) for side in text.split("x")]


def _described(record: Mapping[str, Any], image_key: str, voxels: bool) -> dict[str, Any]:
    path = os.fspath(record[image_key])
    row: dict[str, Any] = {"subject": record.get("subject"), "image": path, "problem": "", "warning": ""}
    try:
        image = read_header(path, record.get("channel"))
        spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
        row["shape"] = "x".join(str(side) for side in image.shape[:3])
        row["spacing"] = "x".join(f"{side:.4g}" for side in spacing)
        row["orientation"] = "".join(nib.aff2axcodes(image.affine))
        # the image of a single channel has lost the file's codes
        row["handedness"] = orientation_source(image if record.get("channel") is None else open_volume(path))
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
    background = background_value(values)
    row["background"] = background
    shown = foreground(values, background, margin=0 if background is not None else MARGIN)
    filled = values[shown]
    row["minimum"], row["median"], row["maximum"] = (float(f(filled)) for f in (np.min, np.median, np.max))
    row["filled_ml"] = filled.size * float(np.prod(spacing)) / 1000
    row["extent"] = _extent(foreground(values, background), image.affine, spacing)
    row["digest"] = hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).hexdigest()
    return row


def _with_others(row: dict[str, Any], record: Mapping[str, Any], voxels: bool) -> dict[str, Any]:
    """Add to a row what is wrong with a record's further images, such as its T2w."""
    digests = {row.get("digest"): "first"}
    row["other_digests"] = {}
    for name, path in other_images(record).items():
        other = _described({"image": path, "channel": record.get("channel")}, "image", voxels)
        digest = other.get("digest")
        if digest is not None and digest in digests:
            other["problem"] = f"has the voxels of the {digests[digest]} image"
        # where the first image's own header is clear, the doubt about another one counts
        if row.get("handedness") in CLEAR and other.get("handedness", OF_FORMAT) not in CLEAR:
            row["handedness"] = other["handedness"]
            other["warning"] = other["warning"] or "has a header that leaves the orientation open"
        for column in ("problem", "warning"):
            if other[column]:
                told = f"has the {name} image {path}, which {other[column]}"
                row[column] = f"{row[column]}; {told}" if row[column] else told
        digests.setdefault(digest, name)
        row["other_digests"][name] = digest
    return row


def _extent(shown: np.ndarray[Any, Any], affine: Any, spacing: np.ndarray[Any, Any]) -> str:
    """Return the sides of the foreground's bounding box along x, y and z in millimetres, ignoring isolated voxels."""
    sides = ["0"] * 3
    for axis, (world, _) in enumerate(nib.io_orientation(affine)):
        profile = shown.sum(axis=tuple(other for other in range(3) if other != axis)).cumsum()
        inside = np.flatnonzero((profile > 0.001 * profile[-1]) & (profile < 0.999 * profile[-1]))
        length = (inside[-1] - inside[0] + 2) if len(inside) else 1
        sides[int(world)] = f"{length * spacing[axis]:.0f}"
    return "x".join(sides)


def _transformed(
    position: int,
    record: Mapping[str, Any],
    image_key: str,
    transform: Callable[[dict[str, Any]], Mapping[Any, Any]],
    on_sample: Callable[[int, Mapping[Any, Any]], None] | None,
) -> dict[str, Any]:
    """Return the effect of the transform's grid on a volume, or the reason why the transform refused it."""
    try:
        sample = transform({**record, "image": record[image_key]} if image_key != "image" else dict(record))
    except Exception as error:  # MONAI wraps the errors of transforms
        cause: BaseException = error
        while isinstance(cause, RuntimeError) and cause.__cause__ is not None:
            cause = cause.__cause__
        path = os.fspath(record[image_key])
        return {"problem": str(cause).removeprefix(path).strip().rstrip(".") or type(cause).__name__}
    if on_sample is not None:
        on_sample(position, sample)
    return grid_measures(sample)


def grid_measures(sample: Mapping[Any, Any], key: str = "image") -> dict[str, Any]:
    """Return the known effects of a sample's grid on its volume, under the column names of :func:`check_volumes`.

    Args:
        sample: sample from the preprocessing.
        key: key of the image in the sample.
    """
    found: dict[str, Any] = {}
    for column in ("cut_away", "filled", "padded", "background"):
        value = sample.get(f"{key}_{column}")
        if value is not None:
            found[column] = of_channels(value)[0]
    if "background" in found:
        known = found["background"] == found["background"]  # NaN where there is none
        found["background_level"] = scaled_background(sample, key) if known else 0.0
    affine = sample.get(f"{key}_affine")
    if affine is not None:
        sides = np.linalg.norm(np.asarray(affine, dtype=float)[:3, :3], axis=0)
        found["grid_spacing"] = "x".join(f"{side:.4g}" for side in sides)
    found["grid_shape"] = "x".join(str(side) for side in sample[key].shape[1:])
    return found


def _mark_duplicates(rows: Sequence[dict[str, Any]]) -> None:
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        digests = {"": row.pop("digest", None), **row.pop("other_digests", {})}
        for name, digest in digests.items():
            if digest is None:
                continue
            other = first.setdefault(f"{name} {digest} {row['shape']}", row)
            if other is not row:
                row["duplicate_of"] = other["image"]
                image = f"the {name} image of {other['image']}" if name else other["image"]
                message = f"has the voxels of {image}, subject {other['subject']}"
                row["warning"] = f"{row['warning']}; {message}" if row["warning"] else message


def _mark_outliers(table: pd.DataFrame) -> None:
    """Add to the column ``warning`` how a usable volume differs from the others."""
    usable = table.index[table["problem"] == ""]
    if len(usable) < MIN_TO_COMPARE:
        return
    for column in ("shape", "spacing", "orientation"):
        counts = Counter(table.loc[usable, column])
        usual, most = counts.most_common(1)[0]
        if most < COMMON * len(usable):
            continue
        for index in usable:
            if counts[table.at[index, column]] <= RARE * len(usable):
                _warn(table, index, f"{column} {table.at[index, column]!s}, most have {usual!s}")
    backgrounds = Counter(table.loc[usable, "background"].dropna())
    usual_background, most = backgrounds.most_common(1)[0] if backgrounds else (0.0, 0)
    for index, value in table.loc[usable, "background"].items() if most >= COMMON * len(usable) else ():
        if value in backgrounds and backgrounds[value] <= RARE * len(usable):
            _warn(table, index, f"background {value:g}, most have {usual_background:g}")
    for column, what in (("median", "median intensity"), ("filled_ml", "volume of the foreground")):
        values = table.loc[usable, column].to_numpy(dtype=float)
        for index, score in zip(usable, _robust_scores(values), strict=True):
            if abs(score) > OUTLIER_SCORE:
                found, middle = values[list(usable).index(index)], float(np.median(values))
                _warn(table, index, f"{what} {found:.4g}, the cohort's median is {middle:.4g}")


def _robust_scores(values: Sequence[float] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the logarithms' deviations from their median in robust standard deviations, 0 for values <= 0."""
    logs = np.log(np.where(np.asarray(values) > 0, values, np.nan))
    if not np.isfinite(logs).any():
        return np.zeros(len(logs))
    deviations = logs - np.nanmedian(logs)
    # at least one percent: among copies of one volume, every difference would otherwise be an outlier
    scale = max(1.4826 * float(np.nanmedian(np.abs(deviations))), 0.01)
    scores: np.ndarray[Any, Any] = np.nan_to_num(deviations / scale)
    return scores


def _warn(table: pd.DataFrame, index: Any, message: str) -> None:
    before = table.at[index, "warning"]
    table.at[index, "warning"] = f"{before!s}; {message}" if before else message
