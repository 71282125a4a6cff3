"""BIDS folders, and OpenBHB's: their volumes, joined with participants.tsv and the subjects' sessions tables."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from .naming import ListedVolume, Record, in_natural_order, is_volume, record_of, stem_of
from .openbhb import TEMPLATES, cohort_root, part_folders
from .tables import TableRow, read_table, typed_rows


def is_bids(root: Path) -> bool:
    """Whether a folder is a BIDS dataset."""
    marked = any((root / name).is_file() for name in ("dataset_description.json", "participants.tsv"))
    return marked or next(_anat_folders(root), None) is not None


def bids_volumes(root: Path, suffix: str, problems: list[str]) -> list[ListedVolume]:
    """Return the volumes of a BIDS dataset that end in ``_{suffix}``, and append to ``problems`` what is wrong."""
    found = [file for anat in _anat_folders(root) for file in children(anat) if is_volume(file.name)]
    images = in_natural_order(str(file) for file in found if stem_of(file.name).endswith(f"_{suffix}"))
    if not images:
        others = sorted({stem_of(file.name).rsplit("_", 1)[-1] for file in found})
        there = f"; there is {', '.join(others)}" if others else ""
        problems.append(f"no volume sub-*/[ses-*/]anat/*_{suffix}.nii[.gz] in this BIDS folder{there}")
    columns, participants = participants_of(root / "participants.tsv", problems)
    folders = dict.fromkeys(Path(image).relative_to(root).parts[0] for image in images)
    session_columns, sessions = _sessions([root / folder for folder in folders], problems)
    unknown: Record = dict.fromkeys(columns)
    unknown_session: Record = dict.fromkeys(session_columns)
    volumes = []
    taken: set[str] = set()
    for image in images:
        own = record_of(image)
        taken.update(own)
        folder = Path(image).relative_to(root).parts[0]
        if own["subject"] != folder:
            problems.append(f"{image!r} is named {own['subject']!r} but stands in the folder of {folder!r}")
        visit = sessions.get((folder, own.get("session")), unknown_session)
        # a visit's own age stands over the one at enrolment; where it is missing, that of participants.tsv is taken
        person = participants.get(folder, unknown)
        known = {key: value for key, value in visit.items() if value is not None or key not in person}
        volumes.append(ListedVolume({**own, **person, **known, **own}))
    warn_left_out("participants.tsv", taken.intersection(columns))
    warn_left_out("*_sessions.tsv", taken.intersection(session_columns))
    return volumes


def openbhb_volumes(root: Path, suffix: str, problems: list[str]) -> list[ListedVolume]:
    """Return the arrays of OpenBHB's folder, or of one of its parts, that end in ``_{suffix}``."""
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
    columns, participants = participants_of(cohort_root(root) / "participants.tsv", problems)
    unknown: Record = dict.fromkeys(columns)
    # the column "split" has names of its own (train, internal_test, external_test): a covariate, not this run's parts
    names = {column: "official_split" if column == "split" else column for column in columns}
    volumes = []
    for image in images:
        own = record_of(image)
        person = participants.get(own["subject"], unknown)
        volumes.append(ListedVolume({**own, **{names[key]: value for key, value in person.items()}, **own}))
    return volumes


def children(folder: Path, prefix: str = "") -> list[Path]:
    """Return what is in a folder, by the beginning of its name."""
    return [child for child in folder.iterdir() if child.name.startswith(prefix)]


def _anat_folders(root: Path) -> Iterator[Path]:
    """Yield the ``sub-*/[ses-*/]anat`` folders; ``derivatives`` and ``sourcedata`` are never entered."""
    for subject in children(root, "sub-"):
        if subject.is_dir():
            for holder in (subject, *children(subject, "ses-")):
                if (holder / "anat").is_dir():
                    yield holder / "anat"


def participants_of(path: Path, problems: list[str]) -> tuple[list[str], dict[str, Record]]:
    """Return the covariates' names and, by subject, their values; nothing if there is no ``participants.tsv``."""
    # a link whose file was not fetched is a table that cannot be read, not an absent one
    if not os.path.lexists(path):
        return [], {}
    columns, rows = read_table(path, problems)
    if rows and "participant_id" not in columns:
        problems.append(f"{path.name}: no column 'participant_id'; the columns there are: {', '.join(columns)}")
        return [], {}
    covariates = [column for column in columns if column != "participant_id"]
    places: dict[str, str] = {}
    participants = {}
    for row, values in zip(rows, typed_rows(rows, covariates, ()), strict=True):
        identifier = row.cells["participant_id"]
        subject = identifier if identifier.startswith("sub-") else f"sub-{identifier}"
        if not identifier:
            problems.append(f"{row.place}: no participant_id")
        elif subject in places:
            problems.append(f"{row.place}: subject {identifier!r} is listed before, in {places[subject]}")
        places.setdefault(subject, row.place)
        participants[subject] = values
    return covariates, participants


def _sessions(folders: Iterable[Path], problems: list[str]) -> tuple[list[str], dict[tuple[str, str | None], Record]]:
    """Return the covariates' names and, by subject and session, their values, from the subjects' sessions tables."""
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
    # typed together: "007" in one subject's table makes a column text in all
    rows = [TableRow({column: row.cells.get(column, "") for column in columns}, row.place) for row in merged]
    return list(columns), dict(zip(keys, typed_rows(rows, list(columns), ()), strict=True))


def warn_left_out(place: str, columns: set[str]) -> None:
    """Warn of columns that would replace what a record has already."""
    if columns:
        names = ", ".join(sorted(columns))
        warnings.warn(f"{place}: {names} left out: records have something else by that name.", stacklevel=2)
