"""Volumes listed by a table or a datalist, one per entry, with their files, subjects and covariates."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..identity.bids_names import NIFTI_SUFFIXES, ListedVolume, Record, is_volume, record_of
from ..identity.path_records import path_records
from ..identity.subject_patterns import SubjectPattern, is_pattern, listed
from ..volumes.contrasts import OTHER_IMAGES, incomplete_problem, incomplete_warning
from .bids import warn_left_out

SUBJECT_COLUMNS = (
    "subject",
    "participant_id",
    "subject_id",
    "subjectid",
    "participant",
    "participantid",
    "patient",
    "patient_id",
    "patientid",
    "sub_id",
)
"""Columns that hold the subject, in any case."""

PERHAPS_SUBJECT_COLUMNS = frozenset(
    ["id", "ptid", "rid", "eid", "case", "case_id", "caseid", "sub", "subj", "subj_id", "subjid", "person", "person_id",
     "subjectkey", "src_subject_id", "guid", "code", "name", "mrn"]
)  # fmt: skip
"""Columns that may hold the subject or something else, in any case."""


class Entry(NamedTuple):
    """An entry of a datalist or a row of a table, with its place in the file and the split that lists it."""

    fields: Mapping[str, Any]
    place: str
    split: Mapping[str, str]


def subject_columns(columns: Iterable[str]) -> list[str]:
    """Return the columns that hold the subject, the most certain first.

    Example:
        >>> subject_columns(["image", "Participant_ID", "age"])
        ['Participant_ID']
    """
    order = {name: i for i, name in enumerate(SUBJECT_COLUMNS)}
    return sorted((column for column in columns if column.casefold() in order), key=lambda c: order[c.casefold()])


def listed_volumes(
    entries: Sequence[Entry],
    path: Path,
    image_columns: Sequence[str],
    subject_from: str | None,
    problems: list[str],
    skip_incomplete: bool = False,
) -> list[ListedVolume]:
    """Return the volumes of a list's entries.

    Args:
        entries: entries of the list.
        path: path of the list; the entries' paths are relative to its folder.
        image_columns: the fields that hold the images' paths, one per channel.
        subject_from: the field that holds the subject, or a pattern of the paths; ``None`` to infer it.
        problems: list to which problems are appended.
        skip_incomplete: whether to leave out entries that lack an image of a channel.
    """
    image_column = image_columns[0]
    if len(image_columns) > 1:
        entries = _complete(entries, image_columns, skip_incomplete, problems)
    usable: list[Entry] = []
    images: list[str] = []
    for entry in entries:
        image = entry.fields.get(image_column)
        if not isinstance(image, str) or not image.strip():
            problems.append(f"{entry.place}: {image_column!r} must be the path of one volume, got {image!r:.80}")
        else:
            usable.append(entry)
            images.append(_path_in(path.parent, image))
    fields = list(dict.fromkeys(field for entry in usable for field in entry.fields))
    column = _subject_column(usable, fields, path.name, subject_from, problems)
    pattern = subject_from if subject_from is not None and is_pattern(subject_from) else None
    if column is not None:
        named = [_named(entry, image, column, problems) for entry, image in zip(usable, images, strict=True)]
    elif subject_from is not None and pattern is None:
        return []
    else:
        named = _from_paths(usable, images, path, pattern, problems)
        if pattern is None:
            _check_other_columns(usable, named, fields, path.name, problems)
    left_out = {column, *image_columns, "image", "subject"}
    volumes = []
    for entry, own in zip(usable, named, strict=True):
        if own is None:
            continue
        # the list's "session" and "run" take precedence: a person wrote it, but perhaps a scanner named the file
        covariates = {
            key: _path_in(path.parent, value) if _is_volume_path(value) else value
            for key, value in entry.fields.items()
            if key not in left_out and key not in entry.split
        }
        others = {name: _path_in(path.parent, entry.fields[name]) for name in image_columns[1:]}
        if others:
            covariates[OTHER_IMAGES] = others
        volumes.append(ListedVolume({**own, **entry.split, **covariates}, entry.place))
    warn_left_out(path.name, {"image", "subject"}.intersection(fields) - {*image_columns, column})
    return volumes


def _complete(
    entries: Sequence[Entry], image_columns: Sequence[str], skip: bool, problems: list[str]
) -> Sequence[Entry]:
    """Return the entries that have an image of every channel; the others are a problem, or are left out."""
    complete, lacking = [], []
    for entry in entries:
        values = {name: entry.fields.get(name) for name in image_columns}
        wrong = {name: value for name, value in values.items() if value is not None and not isinstance(value, str)}
        absent = [name for name, value in values.items() if value is None or (value == "" and not wrong)]
        if wrong:
            name, value = next(iter(wrong.items()))
            problems.append(f"{entry.place}: {name!r} must be the path of one volume, got {value!r:.80}")
        elif absent:
            lacking.append(f"{entry.place} has no {' and no '.join(absent)}")
        else:
            complete.append(entry)
    if lacking and skip and complete:
        warnings.warn(incomplete_warning(lacking, len(entries)), stacklevel=2)
    elif lacking:
        problems.append(incomplete_problem(lacking, len(entries)))
    return complete


def _subject_column(
    entries: Sequence[Entry], fields: Sequence[str], name: str, subject_from: str | None, problems: list[str]
) -> str | None:
    """Return the field that holds the subject, or ``None`` if none does."""
    if subject_from is not None:
        if is_pattern(subject_from):
            return None
        if entries and subject_from not in fields:
            problems.append(
                f"{name}: no column {subject_from!r} for `subject_from`; the columns there are: {', '.join(fields)}"
            )
            return None
        return subject_from
    columns = subject_columns(fields)
    if not columns:
        return None
    partitions = {column: _partition([entry.fields.get(column) for entry in entries]) for column in columns}
    if len(set(partitions.values())) > 1:
        options = " or ".join(f"--subject_from {column}" for column in columns)
        problems.append(f"{name}: the columns {', '.join(columns)} say different subjects; choose one with {options}")
    return columns[0]


def _named(entry: Entry, image: str, column: str, problems: list[str]) -> Record | None:
    value = entry.fields.get(column)
    if value is None or not str(value).strip():
        problems.append(f"{entry.place}: no {column}")
        return None
    return record_of(image, str(value))


def _from_paths(
    entries: Sequence[Entry], images: Sequence[str], path: Path, pattern: str | None, problems: list[str]
) -> list[Record | None]:
    """Return the records read from the files' paths, ``None`` for files that a pattern leaves out."""
    distinct = list(dict.fromkeys(images))  # discover reports files that are listed twice
    inside = all(Path(image).is_relative_to(path.parent) for image in distinct)
    base = path.parent if inside else Path(os.path.commonpath([os.path.dirname(image) for image in distinct]))
    try:
        if pattern is not None:
            SubjectPattern(pattern)
        found = {record["image"]: record for record in path_records(distinct, base, pattern)} if distinct else {}
    except ValueError as error:
        problems.append(f"{path.name}: {error}")
        return [None] * len(entries)
    # groups named by folders are only used for cohorts without a table
    keys = ("image", "subject", "session", "run")
    records = [found.get(image) for image in images]
    if pattern is None:
        return [record and {key: record[key] for key in keys if key in record} for record in records]
    return records


def _check_other_columns(
    entries: Sequence[Entry], named: Sequence[Record | None], fields: Sequence[str], name: str, problems: list[str]
) -> None:
    """Refuse columns such as ``ID`` that assign the volumes to different subjects than the paths do."""
    rows = [i for i, record in enumerate(named) if record is not None]
    by_path = _partition([record["subject"] for record in named if record is not None])
    for column in fields:
        if column.casefold() in PERHAPS_SUBJECT_COLUMNS and len(rows) == len(entries):
            values = [entries[i].fields.get(column) for i in rows]
            if None not in values and _partition(values) != by_path:
                shown = listed([str(value) for value in dict.fromkeys(values)])
                problems.append(
                    f"{name}: no column 'subject', and the paths say other subjects than the column {column!r} does "
                    f"({shown}): choose with --subject_from {column}, "
                    "or --subject_from and a pattern of the paths"
                )
                return


def _partition(values: Sequence[Any]) -> tuple[int, ...]:
    numbers: dict[Any, int] = {}
    return tuple(numbers.setdefault(str(value), len(numbers)) for value in values)


def _is_volume_path(value: Any) -> bool:
    # a label map or mask is not used here and need not exist, but its path must stay relative to the list's folder
    return isinstance(value, str) and is_volume(os.path.basename(value), NIFTI_SUFFIXES)


def _path_in(folder: Path, path: str) -> str:
    return os.path.abspath(os.path.join(folder, os.path.expanduser(path.strip())))
