"""The volumes of BIDS and OpenBHB folders, joined with the participants, sessions and scans tables."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..identity.bids_names import ListedVolume, Record, in_natural_order, is_volume, record_of, stem_of
from ..identity.joins import compare_keys
from ..identity.subject_patterns import listed
from ..tables.table_files import TableRow, parse_rows, read_table
from ..volumes.contrasts import OTHER_IMAGES, contrast_names, incomplete_problem, incomplete_warning
from ..volumes.openbhb import TEMPLATES, cohort_root, part_folders
from .bids_entities import choose_by_entities, refuse_several
from .matched_contrasts import FREE, match_contrasts


def is_bids(root: Path) -> bool:
    """Return whether a folder is a BIDS dataset."""
    marked = any((root / name).is_file() for name in ("dataset_description.json", "participants.tsv"))
    return marked or next(_anat_folders(root), None) is not None


def bids_volumes(
    root: Path,
    suffixes: Sequence[str],
    problems: list[str],
    entities: Mapping[str, str] | None = None,
    missing_values: Sequence[str] | None = None,
    skip_incomplete: bool = False,
) -> list[ListedVolume]:
    """Return the volumes of a BIDS dataset whose names end in ``_{suffix}``.

    Args:
        root: the dataset's folder.
        suffixes: suffixes of the file names to include, one per channel.
        problems: list to which problems are appended.
        entities: entities that the names must have, from :func:`~.bids_entities.check_entities`.
        missing_values: texts in the tables that mean missing.
        skip_incomplete: whether to leave out volumes that lack an image of a channel.
    """
    found = [file for anat in _anat_folders(root) for file in children(anat) if is_volume(file.name)]
    # which acquisition is meant is said of the first channel; those that belong to it are found by their names
    chosen = [entities or {}, {key: value for key, value in (entities or {}).items() if key not in FREE}]
    of_suffix = [
        _ending_in(suffix, found, root, chosen[min(number, 1)], problems) for number, suffix in enumerate(suffixes)
    ]
    images = of_suffix[0]
    others: dict[str, dict[str, str]] = {}
    if len(suffixes) > 1 and all(of_suffix):
        names = contrast_names(list(suffixes)) or []
        images, others = _complete(dict(zip(names, of_suffix, strict=True)), suffixes, skip_incomplete, problems)
    records = [record_of(image) for image in images]
    for record in records:
        folder = Path(record["image"]).relative_to(root).parts[0]
        if record["subject"] != folder:
            problems.append(
                f"{record['image']!r} is named {record['subject']!r} but stands in the folder of {folder!r}"
            )
    refuse_several(records, problems)
    joined = join_tables(records, root, problems, missing_values)
    return [ListedVolume({**record, OTHER_IMAGES: others[record["image"]]} if others else record) for record in joined]


def _ending_in(
    suffix: str, found: Sequence[Path], root: Path, entities: Mapping[str, str], problems: list[str]
) -> list[str]:
    """Return the files whose names end in ``_{suffix}`` and have the entities; it is a problem if there are none."""
    images = in_natural_order(str(file) for file in found if stem_of(file.name).endswith(f"_{suffix}"))
    if not images:
        others = sorted({stem_of(file.name).rsplit("_", 1)[-1] for file in found})
        there = f"; there is {', '.join(others)}: choose with --suffix {others[0]}" if others else ""
        if not found:
            there = (
                f"; a pattern reads other files, such as --dataset_dir {os.path.join(root, 'sub-*', '**', '*.nii*')!r}"
            )
        problems.append(f"no volume sub-*/[ses-*/]anat/*_{suffix}.nii[.gz] in this BIDS folder{there}")
    return choose_by_entities(images, entities, problems)


def _complete(
    of_contrast: Mapping[str, Sequence[str]], suffixes: Sequence[str], skip: bool, problems: list[str]
) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Return the images of the first contrast that have all others, and these; the rest is a problem or left out."""
    matched = match_contrasts(of_contrast, suffixes)
    problems += matched.ambiguous
    n_volumes = len(matched.complete) + len(matched.lacking)
    if matched.lacking and skip and matched.complete:
        warnings.warn(incomplete_warning(matched.lacking, n_volumes), stacklevel=2)
    elif matched.lacking:
        problems.append(incomplete_problem(matched.lacking, n_volumes))
    return list(matched.complete), matched.complete


def join_tables(
    records: Sequence[Record], root: Path, problems: list[str], missing_values: Sequence[str] | None = None
) -> list[Record]:
    """Add the covariates of subjects, sessions and files from a BIDS dataset's tables to records.

    Unless it is missing, a file's value in ``*_scans.tsv`` overrides that of its session in ``*_sessions.tsv``, which
    overrides that of its subject in ``participants.tsv``.

    Args:
        records: records of volumes below ``root``.
        root: the dataset's folder.
        problems: list to which problems are appended.
        missing_values: texts in the tables that mean missing.
    """
    columns, participants = read_participants(root / "participants.tsv", problems, missing_values)
    # bids_volumes reports a volume in another subject's folder; here it gets the covariates of the folder's subject
    folders = [_subject_folder(record, root) for record in records]
    if participants:
        compare_keys("participants.tsv", "subject", folders, participants, problems)
    own_folders = [root / folder for folder in dict.fromkeys(folders)]
    session_columns, sessions = _sessions(own_folders, problems, missing_values)
    with_table = {subject for subject, _ in sessions}
    visits = [
        f"{folder}/{record.get('session')}"
        for folder, record in zip(folders, records, strict=True)
        if folder in with_table
    ]
    compare_keys(
        "*_sessions.tsv", "session", visits, (f"{subject}/{session}" for subject, session in sessions), problems
    )
    scan_columns, scans = _scans([record["image"] for record in records], problems, missing_values)
    joined = []
    taken: set[str] = set()
    for folder, own in zip(folders, records, strict=True):
        taken.update(own)
        levels = [
            participants.get(folder, dict.fromkeys(columns)),
            sessions.get((folder, own.get("session")), dict.fromkeys(session_columns)),
            scans.get(own["image"], dict.fromkeys(scan_columns)),
        ]
        known: Record = {}
        for level in levels:
            known.update({key: value for key, value in level.items() if value is not None or key not in known})
        joined.append({**own, **known, **own})
    warn_left_out("participants.tsv", taken.intersection(columns))
    warn_left_out("*_sessions.tsv", taken.intersection(session_columns))
    warn_left_out("*_scans.tsv", taken.intersection(scan_columns))
    return joined


def _subject_folder(record: Record, root: Path) -> str:
    return Path(record["image"]).relative_to(root).parts[0]


def openbhb_volumes(
    root: Path, suffix: str, problems: list[str], missing_values: Sequence[str] | None = None
) -> list[ListedVolume]:
    """Return the arrays of an OpenBHB folder, or of one of its parts, whose names end in ``_{suffix}``."""
    found = [
        file
        for part in part_folders(root)
        for file in (part / "derivatives").glob("sub-*/ses-*/*.npy")
        if any(file.stem.endswith(ending) for ending in TEMPLATES)
    ]
    images = in_natural_order(str(file) for file in found if file.stem.endswith(f"_{suffix}"))
    kinds = sorted({ending for image in images for ending in TEMPLATES if Path(image).stem.endswith(ending)})
    if len(kinds) != 1:
        there = " and ".join(repr(kind) for kind in kinds) if kinds else "none"
        accepted = " or ".join(repr(ending) for ending in TEMPLATES)
        problems.append(f"`suffix` must choose one kind of OpenBHB's arrays, {accepted}, got {suffix!r} for {there}")
    columns, participants = read_participants(cohort_root(root) / "participants.tsv", problems, missing_values)
    # the table covers both parts
    subjects = [record_of(image)["subject"] for image in images]
    compare_keys("participants.tsv", "subject", subjects, participants, problems, complete=False)
    unknown: Record = dict.fromkeys(columns)
    # the column "split" has its own names (train, internal_test, external_test): a covariate, not the parts of this run
    names = {column: "official_split" if column == "split" else column for column in columns}
    volumes = []
    for image in images:
        own = record_of(image)
        person = participants.get(own["subject"], unknown)
        volumes.append(ListedVolume({**own, **{names[key]: value for key, value in person.items()}, **own}))
    return volumes


def children(folder: Path, prefix: str = "") -> list[Path]:
    """Return the files and folders in a folder whose names start with a prefix."""
    return [child for child in folder.iterdir() if child.name.startswith(prefix)]


def _anat_folders(root: Path) -> Iterator[Path]:
    """Yield the ``sub-*/[ses-*/]anat`` folders without entering ``derivatives`` or ``sourcedata``."""
    for subject in children(root, "sub-"):
        if subject.is_dir():
            for holder in (subject, *children(subject, "ses-")):
                if (holder / "anat").is_dir():
                    yield holder / "anat"


def read_participants(
    path: Path, problems: list[str], missing_values: Sequence[str] | None = None
) -> tuple[list[str], dict[str, Record]]:
    """Return the names of the covariates and their values by subject, both empty without a ``participants.tsv``."""
    # a link to a file that was not fetched is an unreadable table, not an absent one
    if not os.path.lexists(path):
        return [], {}
    columns, rows = read_table(path, problems)
    if rows and "participant_id" not in columns:
        problems.append(f"{path.name}: no column 'participant_id'; the columns there are: {', '.join(columns)}")
        return [], {}
    covariates = [column for column in columns if column != "participant_id"]
    places: dict[str, str] = {}
    participants = {}
    for row, values in zip(rows, _typed(rows, covariates, missing_values), strict=True):
        identifier = row.cells["participant_id"]
        subject = identifier if identifier.startswith("sub-") else f"sub-{identifier}"
        if not identifier:
            problems.append(f"{row.place}: no participant_id")
        elif subject in places:
            problems.append(f"{row.place}: subject {identifier!r} is listed before, in {places[subject]}")
        places.setdefault(subject, row.place)
        participants[subject] = values
    return covariates, participants


def _sessions(
    folders: Iterable[Path], problems: list[str], missing_values: Sequence[str] | None
) -> tuple[list[str], dict[tuple[str, str | None], Record]]:
    """Return the names of the covariates in the sessions tables, and their values by subject and session."""
    keys: list[tuple[str, str | None]] = []
    merged: list[TableRow] = []
    columns: dict[str, None] = {}
    for folder in folders:
        path = folder / f"{folder.name}_sessions.tsv"
        if not os.path.lexists(path):
            continue
        own_columns, rows = read_table(path, problems)
        if rows and "session_id" not in own_columns:
            problems.append(f"{path.name}: no column 'session_id'; the columns there are: {', '.join(own_columns)}")
            continue
        columns.update(dict.fromkeys(column for column in own_columns if column != "session_id"))
        for row in rows:
            identifier = row.cells["session_id"]
            key = (folder.name, identifier if identifier.startswith("ses-") else f"ses-{identifier}")
            if not identifier:
                problems.append(f"{row.place}: no session_id")
            elif key in keys:
                problems.append(
                    f"{row.place}: session {identifier!r} is listed before, in {merged[keys.index(key)].place}"
                )
            keys.append(key)
            merged.append(row)
    # typed together: "007" in one subject's table makes the column text in all tables
    rows = [TableRow({column: row.cells.get(column, "") for column in columns}, row.place) for row in merged]
    return list(columns), dict(zip(keys, _typed(rows, list(columns), missing_values), strict=True))


def _scans(
    images: Sequence[str], problems: list[str], missing_values: Sequence[str] | None
) -> tuple[list[str], dict[str, Record]]:
    """Return the names of the covariates in ``[ses-*/]sub-*_scans.tsv`` above the files, and their values by file."""
    keys: list[str] = []
    merged: list[TableRow] = []
    columns: dict[str, None] = {}
    of_table: dict[Path, list[str]] = {}
    for image in images:
        visit = Path(image).parents[1]
        names = [part for part in visit.parts[-2:] if part.startswith(("sub-", "ses-"))]
        of_table.setdefault(visit / f"{'_'.join(names)}_scans.tsv", []).append(image)
    wanted: list[str] = []
    for path, files in of_table.items():
        if not os.path.lexists(path):
            continue
        own_columns, rows = read_table(path, problems)
        if rows and "filename" not in own_columns:
            problems.append(f"{path.name}: no column 'filename'; the columns there are: {', '.join(own_columns)}")
            continue
        wanted += files
        columns.update(dict.fromkeys(column for column in own_columns if column != "filename"))
        for row in rows:
            key = os.path.abspath(path.parent / row.cells["filename"])
            if key in keys:
                problems.append(f"{row.place}: {row.cells['filename']!r} is listed before")
            elif key in files:  # the table also lists other kinds of images
                keys.append(key)
                merged.append(row)
    if wanted and not keys:
        first = os.path.basename(wanted[0])
        problems.append(
            f"*_scans.tsv: no row names a volume of this cohort, such as {first!r} by its path anat/{first}"
        )
    elif len(keys) < len(wanted):
        warnings.warn(
            f"*_scans.tsv: {len(wanted) - len(keys)} of {len(wanted)} volumes have no row "
            f"({listed([os.path.basename(image) for image in wanted if image not in set(keys)])}).",
            stacklevel=2,
        )
    rows = [TableRow({column: row.cells.get(column, "") for column in columns}, row.place) for row in merged]
    return list(columns), dict(zip(keys, _typed(rows, list(columns), missing_values), strict=True))


def _typed(rows: list[TableRow], columns: list[str], missing_values: Sequence[str] | None) -> list[Record]:
    return parse_rows(rows, columns, (), missing_values=missing_values)


def warn_left_out(place: str, columns: set[str]) -> None:
    """Warn of columns that are left out because records already have entries of the same name."""
    if columns:
        names = ", ".join(sorted(columns))
        warnings.warn(f"{place}: {names} left out: records have something else by that name.", stacklevel=2)
