"""Checks of the data of a run before it starts: usable volumes, a suitable grid, and held-out subjects."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import check_choice, check_real
from ..data import CovariateCoding, cached_dataset, check_volumes
from ..data.checks.duplicates import same_content
from ..data.checks.findings import (
    CUT_AWAY_NOTED,
    MAX_CUT_AWAY,
    MIN_FILLED,
    Finding,
    duplicate_findings,
    grid_findings,
    orientation_findings,
)
from ..data.checks.volume_checks import grid_measures, summary
from ..data.volumes.contrasts import image_files, other_images
from ..plots import plot_contact_sheet, save_figure
from ..plots.contact_sheet import PlanesOfVolume, planes_of
from ..saving.atomic_files import write_table
from .covariates import with_covariates
from .records import (
    SPLIT_FILE,
    Record,
    is_simulated,
    is_working_process,
    print_once,
    process_rank,
    read_earlier,
    read_split,
)

if TYPE_CHECKING:
    import pandas as pd

ON_BAD_VOLUME = ("stop", "skip")
VOLUMES_FILE, LEFT_OUT_FILE, PAGES = "volumes.tsv", "left_out.tsv", "volumes_{}.png"

VOLUMES_PER_PAGE = 60
"""Number of volumes on a page of the picture."""

GO_ON = (
    "Go on without such volumes with --on_bad_volume skip; `python -m monai.bundle run check` with the same options "
    "tells all of them."
)

MANY = 500
"""Number of volumes above which reading headers shows a progress bar."""

_MAX_SHOWN = 10


def checked_records(
    records: Sequence[Record], on_bad_volume: str = "stop", output_dir: str | os.PathLike[str] = "."
) -> list[Record]:
    """Refuse or leave out unusable volumes before any slow step.

    With "stop" only the headers are read, which takes some milliseconds per volume; problems that only voxels reveal
    are found when the volumes are cached, before training. With "skip" all voxels are read once, and
    ``<output_dir>/left_out.tsv`` lists the volumes that are left out. Besides unreadable volumes, the same scan under
    two subjects and headers that leave left and right undefined are problems
    (:mod:`~monai_betavae.data.checks.findings`).

    Args:
        records: the records of all volumes.
        on_bad_volume: "stop" or "skip".
        output_dir: folder of the run's tables.

    Returns:
        the usable records.

    Raises:
        ValueError: naming every unusable volume; with "skip", if none is left.

    Example:
        >>> import tempfile
        >>> import nibabel
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     paths = {name: Path(folder) / f"{name}.nii.gz" for name in ("good", "damaged")}
        ...     volume = np.random.default_rng(0).random((8, 8, 8), dtype=np.float32)
        ...     nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), paths["good"])
        ...     _ = paths["damaged"].write_bytes(b"not an image")
        ...     records = [{"image": str(path), "subject": name} for name, path in paths.items()]
        ...     usable = checked_records(records, "skip", folder)
        Left out: 1 of 2 volumes that can't be used, see ...left_out.tsv
        >>> [record["subject"] for record in usable]
        ['good']
    """
    first = process_rank() == 0
    if check_choice("on_bad_volume", on_bad_volume, ON_BAD_VOLUME) == "stop":
        table = refuse_bad_headers(records, GO_ON)
        findings = _file_findings(records, table)
        _stop_or_warn(findings)
        return list(records)
    table = check_volumes(records, progress=first)
    for finding in _file_findings(records, table):
        for row in finding.rows if finding.stops else ():
            table.loc[row, "problem"] = str(table.at[row, "problem"]) or finding.message
        if first and not finding.stops:
            print_once(f"Worth a look: {finding.message}. {finding.option}")
    bad = table[table["problem"] != ""]
    if bad.empty:
        return list(records)
    if len(bad) == len(records):
        raise ValueError(f"No volume can be used. {_listed(bad)}")
    if first:
        path = Path(output_dir) / LEFT_OUT_FILE
        _write(bad, path)
        print_once(f"Left out: {len(bad)} of {len(records)} volumes that can't be used, see {path}")
    kept = set(table.index[table["problem"] == ""])
    return [record for position, record in enumerate(records) if position in kept]


def _file_findings(records: Sequence[Record], table: pd.DataFrame) -> list[Finding]:
    """Return the findings about a cohort from its files and headers alone."""
    images = [str(record["image"]) for record in records]
    # several volumes of one file differ by their channel and are no duplicates
    subjects = [record.get("subject") for record in records]
    found: list[Finding] = []
    for name in dict.fromkeys(["", *(name for record in records for name in other_images(record))]):
        of_channel = [str(other_images(record).get(name, "")) for record in records] if name else images
        groups = same_content(of_channel) if all(record.get("channel") is None for record in records) else []
        found += duplicate_findings(groups, subjects, of_channel)
    return [*found, *orientation_findings(table)]


def _stop_or_warn(findings: Sequence[Finding]) -> None:
    stopping = [finding for finding in findings if finding.stops]
    if stopping:
        raise ValueError("\n".join(f"{_sentence(finding.message)} To go on: {finding.option}." for finding in stopping))
    for finding in findings:
        print_once(f"Worth a look: {finding.message}. {finding.option}")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def check_grid(
    datasets: Iterable[Sequence[Mapping[Any, Any]]],
    max_cut_away: float = MAX_CUT_AWAY,
    min_filled: float = MIN_FILLED,
    at_most: int = 500,
) -> None:
    """Stop or warn if the grid cuts off heads or is nearly empty, according to measures stored in the samples.

    Args:
        datasets: the preprocessed volumes of each part.
        max_cut_away: largest accepted share of a volume's foreground outside the grid.
        min_filled: smallest accepted share of the grid that is foreground.
        at_most: maximum number of volumes of a part to check, evenly spread.

    Raises:
        ValueError: with counts, the first files, and the options that change the limits.
    """
    import pandas as pd

    rows = []
    for dataset in datasets:
        positions = np.linspace(0, max(len(dataset) - 1, 0), min(at_most, len(dataset))).round().astype(int)
        for position in positions.tolist():
            sample = dataset[position]
            if isinstance(sample, Mapping) and "image_cut_away" in sample:
                row = {"image": sample.get("image_path", ""), "problem": "", **grid_measures(sample)}
                rows.append({"filled": 1.0, "padded": 0.0, "background": None, "background_level": 0.0, **row})
    if rows:
        table = pd.DataFrame(rows)
        _stop_or_warn(
            grid_findings(
                table,
                check_real("max_cut_away", max_cut_away, 0, 1),
                check_real("min_filled", min_filled, 0, 1),
            )
        )


def refuse_bad_headers(records: Sequence[Record], advice: str = "") -> pd.DataFrame:
    """Read all headers, some milliseconds per volume, and refuse unusable ones.

    Args:
        records: the records.
        advice: end of the error message.

    Returns:
        the table of :func:`~monai_betavae.data.check_volumes`, without its checks of voxels.

    Raises:
        ValueError: naming every volume with an unusable header.
    """
    table = check_volumes(records, voxels=False, progress=process_rank() == 0 and len(records) > MANY)
    bad = table[table["problem"] != ""]
    if not bad.empty:
        raise ValueError(f"{_listed(bad)} {advice}".rstrip())
    return table


def check_data(
    records: Sequence[Record],
    output_dir: str | os.PathLike[str],
    overwrite: bool = False,
    transform: Callable[[dict[str, Any]], Mapping[Any, Any]] | None = None,
    max_cut_away: float = MAX_CUT_AWAY,
    min_filled: float = MIN_FILLED,
) -> None:
    """Check every volume with its voxels, print what to change, and write a table and pictures of the volumes.

    The table is ``<output_dir>/volumes.tsv``, with a row per volume. With a transform, the pictures
    ``<output_dir>/volumes_01.png`` and so on show the three middle planes of every preprocessed volume, 60 volumes per
    page, with red titles where a closer look is advised.

    Args:
        records: the records of all volumes.
        output_dir: folder of the table.
        overwrite: whether an existing table may be replaced.
        transform: the preprocessing of a training run.
        max_cut_away: as in :func:`check_grid`.
        min_filled: as in :func:`check_grid`.

    Raises:
        ValueError: if there is a table and it may not be replaced.

    Example:
        >>> import contextlib
        >>> import tempfile
        >>> import nibabel
        >>> import pandas
        >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        ...     empty = nibabel.Nifti1Image(np.zeros((8, 8, 8), dtype=np.float32), np.eye(4))
        ...     nibabel.save(empty, f"{folder}/scan.nii.gz")
        ...     check_data([{"image": f"{folder}/scan.nii.gz", "subject": "sub-1"}], folder)
        ...     table = pandas.read_table(f"{folder}/{VOLUMES_FILE}")
        >>> table[["shape", "problem"]].to_numpy().tolist()
        [['8x8x8', 'must not be constant, got 0 in every voxel']]
    """
    if not is_working_process("The check"):
        return
    path = Path(output_dir) / VOLUMES_FILE
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists; give --overwrite True to replace it, or another folder with --output_dir.")
    planes: dict[int, list[PlanesOfVolume]] = {}
    table = check_volumes(
        records,
        transform=transform,
        on_sample=lambda position, sample: planes.update({position: _planes(sample)}),
    )
    findings = [*duplicate_findings(_copies(table), list(table["subject"]), list(table["image"]))]
    findings += [*orientation_findings(table), *grid_findings(table, max_cut_away, min_filled)]
    _write(table, path)
    others = list(other_images(records[0])) if len(records) else []
    label = "simulated; " if is_simulated(records) else ""
    pages = _draw_pages(table, planes, findings, Path(output_dir), others, label)
    ready = ""
    if any(finding.stops for finding in findings) or table["problem"].astype(bool).any():
        ready = "Training would stop because of the problems above."
    elif len(table):
        ready = "Ready: give the same options to the training."
    pictures = f"\nPicture: {pages[0]}{f' to {pages[-1].name}' if len(pages) > 1 else ''}" if pages else ""
    print("\n".join(filter(None, [f"{summary(table, findings)}\nTable: {path}{pictures}", ready])))


def _copies(table: pd.DataFrame) -> list[list[int]]:
    """Return the groups of volumes with the same voxels."""
    first = {image: position for position, image in reversed(list(enumerate(table["image"])))}
    groups: dict[int, list[int]] = {}
    for position, other in enumerate(table["duplicate_of"]):
        if isinstance(other, str):
            groups.setdefault(first[other], [first[other]]).append(position)
    return list(groups.values())


def _planes(sample: Mapping[Any, Any]) -> list[PlanesOfVolume]:
    """Return the middle planes of each channel of a sample's volume."""
    affine = sample.get("image_affine")
    spacing = (1.0, 1.0, 1.0) if affine is None else np.linalg.norm(np.asarray(affine, dtype=float)[:3, :3], axis=0)
    sides = [float(side) for side in spacing]
    return [planes_of(np.asarray(channel, dtype=np.float32), sides) for channel in sample["image"]]


def _draw_pages(
    table: pd.DataFrame,
    planes: Mapping[int, Sequence[PlanesOfVolume]],
    findings: Sequence[Finding],
    output_dir: Path,
    others: Sequence[str] = (),
    label: str = "",
) -> list[Path]:
    shown = [(position, channel) for position in sorted(planes) for channel in range(len(planes[position]))]
    # the name of the first channel isn't known to its records
    labels = ["", *others]
    # remaining pages of an earlier check of a larger cohort would be mistaken for pages of this one
    for old in output_dir.glob(PAGES.format("*")):
        old.unlink()
    stopped = {row for finding in findings if finding.stops for row in finding.rows}
    pages = []
    for start in range(0, len(shown), VOLUMES_PER_PAGE):
        members = shown[start : start + VOLUMES_PER_PAGE]
        names, marked = [], []
        for position, channel in members:
            row = table.loc[position]
            cut = row["cut_away"]
            notes = [f"{cut:.0%} cut" if cut == cut and cut is not None and cut > CUT_AWAY_NOTED else ""]
            label = labels[channel] if channel < len(labels) else f"channel-{channel + 1}"
            names.append("\n".join(filter(None, [str(row["subject"]), label, *notes])))
            marked.append(bool(row["warning"]) or bool(notes[0]) or position in stopped)
        number = start // VOLUMES_PER_PAGE + 1
        of = f", page {number} of {-(-len(shown) // VOLUMES_PER_PAGE)}" if len(shown) > VOLUMES_PER_PAGE else ""
        title = f"{len(planes)} volumes as training sees them{of} ({label}red: worth a look)"
        drawn = [planes[position][channel] for position, channel in members]
        figure = plot_contact_sheet(drawn, names, marked, title)
        pages.append(output_dir / PAGES.format(f"{number:02d}"))
        save_figure(figure, pages[-1])
    return pages


def volume_dataset(
    data: Sequence[Record],
    transform: Callable[..., Any],
    cache: str = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    storage: str = "float32",
    num_workers: int = 2,
    coding: CovariateCoding | None = None,
) -> Any:
    """Make the cached dataset of a part of the cohort, reading every volume now.

    Args:
        data: the records of the part.
        transform: the preprocessing.
        cache: as in :func:`~monai_betavae.data.cached_dataset`.
        cache_dir: as in :func:`~monai_betavae.data.cached_dataset`.
        storage: as in :func:`~monai_betavae.data.cached_dataset`.
        num_workers: as in :func:`~monai_betavae.data.cached_dataset`.
        coding: coding of a conditional model's covariates, which the samples then hold; ``None`` without any.

    Raises:
        ValueError: naming the file of an unusable volume, and how to continue.

    Example:
        >>> dataset = volume_dataset([{"image": 1.0}, {"image": 2.0}], lambda record: record["image"] * 10, "memory")
        >>> len(dataset), dataset[1]
        (2, 20.0)
    """
    try:
        volumes = cached_dataset(
            data,
            transform,
            cache,
            cache_dir=cache_dir,
            storage=storage,
            num_workers=num_workers,
            progress=process_rank() == 0,
        )
        return with_covariates(volumes, data, coding)
    except RuntimeError as error:
        cause: BaseException | None = error  # MONAI wraps what a transform raises
        while isinstance(cause, RuntimeError):
            cause = cause.__cause__
        if isinstance(cause, ValueError):
            raise ValueError(f"{str(cause).rstrip('.')}. {GO_ON}") from error
        raise


def check_held_out(
    records: Iterable[Mapping[str, Any]],
    training_output_dir: str | os.PathLike[str],
    allow_training_subjects: bool = False,
) -> None:
    """Refuse to score subjects that the model was trained or validated on, according to its run's ``split.json``.

    Args:
        records: the volumes to score.
        training_output_dir: folder of the training run.
        allow_training_subjects: whether to allow such subjects.

    Raises:
        ValueError: with the number of such volumes and the first of them.

    Example:
        >>> import tempfile
        >>> from monai_betavae.workflows.records import write_split
        >>> trained, new = ({"image": f"/data/sub-{n}.nii.gz", "subject": f"sub-{n}"} for n in (1, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_split({"training": [trained], "validation": [], "test": [new]}, f"{folder}/{SPLIT_FILE}")
        ...     check_held_out([new], folder)
        ...     try:
        ...         check_held_out([new, trained], folder)
        ...     except ValueError as error:
        ...         print(str(error).split(",")[0])
        1 of the volumes are of subjects that the model was trained or validated on
    """
    if allow_training_subjects:
        return
    unknown = unknown_subjects(training_output_dir)
    if unknown is not None:
        print_once(unknown)
    _refuse_seen(records, training_output_dir)


def held_out_warnings(records: Iterable[Mapping[str, Any]], training_output_dir: str | os.PathLike[str]) -> list[str]:
    """Return what :func:`check_held_out` says of the volumes, without refusing any."""
    seen = _seen_text(records, training_output_dir)
    found = [] if seen is None else [f"{seen}."]
    unknown = unknown_subjects(training_output_dir)
    return found if unknown is None else [*found, unknown]


def unknown_subjects(training_output_dir: str | os.PathLike[str]) -> str | None:
    """Return a line about earlier trainings of the model whose subjects aren't known, ``None`` without any.

    Args:
        training_output_dir: folder of the training run.
    """
    earlier = read_earlier(training_output_dir)
    n_unknown = sum(records is None for records in earlier)
    if n_unknown == 0:
        return None
    return (
        f"Not known: the subjects of {n_unknown} earlier training{'s' * (n_unknown > 1)} of this model, whose "
        "split.json wasn't beside its weights. Evaluated subjects may be among them."
    )


def seen_in_training(
    records: Iterable[Mapping[str, Any]], training_output_dir: str | os.PathLike[str]
) -> list[tuple[Mapping[str, Any], str]]:
    """Return the volumes of subjects that the model was trained or validated on, each with the part it was in.

    Args:
        records: the volumes.
        training_output_dir: folder of the training run; without a ``split.json`` nothing is known of any.
    """
    path = Path(training_output_dir) / SPLIT_FILE
    if not path.is_file():
        return []
    split = read_split(path)
    parts = {f"an earlier training, {number}": each or [] for number, each in enumerate(read_earlier(path.parent), 1)}
    parts |= {part: split[part] for part in ("training", "validation")}
    used: dict[str, str] = {}
    for part, members in parts.items():
        for record in members:
            used.update({os.path.realpath(image): part for image in image_files(record)})
            if record.get("subject") is not None:
                used[f"subject {record['subject']}"] = part
    seen: list[tuple[Mapping[str, Any], str]] = []
    for scored in records:
        names = [*map(os.path.realpath, image_files(scored)), f"subject {scored.get('subject')}"]
        where = next((used[name] for name in names if name in used), None)
        if where is not None:
            seen.append((scored, where))
    return seen


def _refuse_seen(records: Iterable[Mapping[str, Any]], training_output_dir: str | os.PathLike[str]) -> None:
    seen = _seen_text(records, training_output_dir)
    if seen is not None:
        raise ValueError(
            f"{seen}. Give others, or --allow_training_subjects True, also where it is only the name that "
            "is the same. To score every subject once, `monai-betavae cross-validate` trains a model per fold."
        )


def _seen_text(records: Iterable[Mapping[str, Any]], training_output_dir: str | os.PathLike[str]) -> str | None:
    """Return how many of the volumes are of subjects of the training, and which is the first."""
    seen = seen_in_training(records, training_output_dir)
    if not seen:
        return None
    first, where = seen[0]
    return (
        f"{len(seen)} of the volumes are of subjects that the model was trained or validated on, the first is "
        f"{first['image']}, subject {first.get('subject')}, in {where} by {Path(training_output_dir) / SPLIT_FILE}: "
        "scores on them say nothing about new ones"
    )


def _listed(bad: pd.DataFrame) -> str:
    shown = [f"{row['image']} {row['problem']}." for _, row in bad.head(_MAX_SHOWN).iterrows()]
    more = f" And {len(bad) - _MAX_SHOWN} more." if len(bad) > _MAX_SHOWN else ""
    return "\n".join(shown) + more


def _write(table: pd.DataFrame, path: Path) -> None:
    write_table(table, path, sep="\t", na_rep="n/a")
