"""Which volumes there are: one record per volume, from whatever form of list or folder holds them."""

from __future__ import annotations

import csv
import glob
import io
import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .volumes import VOLUME_SUFFIXES

Record = dict[str, Any]

# folders are searched for NIfTI only: one of FreeSurfer's holds dozens of .mgz files that are no images
_NIFTI_SUFFIXES = (".nii.gz", ".nii")
_ACCEPTED = (
    "a BIDS folder, a folder of NIfTI files, a datalist (.json), a table (.csv, .tsv), "
    "a volume (.nii, .nii.gz, .mgz, .mgh) or a glob pattern"
)
_SECTIONS = {
    "training": "training",
    "train": "training",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
# What BIDS ("n/a"), pandas (""), R ("NA"), numpy ("nan") and Excel ("#N/A") write. "none" is left out:
# it is a category in columns such as medication.
_MISSING = {"", "n/a", "na", "nan", "#n/a"}
# A leading zero ("007") or more than 18 digits is an identifier: a number would not give it back.
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]{0,17})(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MOST_PROBLEMS_SHOWN = 10


class _Volume(NamedTuple):
    """A record, and the place that lists it: empty for a file that was met in a folder."""

    record: Record
    place: str = ""


class _Row(NamedTuple):
    """A row of a table as text, and the place where it stands."""

    cells: dict[str, str]
    place: str


def discover(
    source: str | os.PathLike[str],
    *,
    suffix: str = "T1w",
    image_column: str = "image",
) -> list[Record]:
    r"""List the volumes of a cohort: one record per volume, without reading a voxel.

    Every record is ``{"image": absolute path, "subject": id, ...covariates}``, and all records have the same
    keys; what is missing is ``None``, never NaN. ``"session"`` and ``"run"`` are added where file names have the
    BIDS entities. Identifiers from BIDS names keep their prefix (``"sub-01"``, ``"ses-1"``, ``"run-1"``); a file
    without a ``sub-`` in its name or folders takes its name without suffix as subject; in a folder where such names
    repeat (``person/T1.nii.gz``) the folder below the root is the subject.

    ========================  ========================================================================================
    ``source``                what is taken
    ========================  ========================================================================================
    BIDS folder               ``sub-*/[ses-*/]anat/*_{suffix}.nii[.gz]``, with the columns of ``participants.tsv``
                              and, by session, of ``sub-*/sub-*_sessions.tsv``;
                              known by ``dataset_description.json``, ``participants.tsv`` or ``sub-*/[ses-*/]anat``
    datalist (``.json``)      ``{"training": [{"image": path, ...}], "validation": ..., "test": ...}`` as in MONAI and
                              the Decathlon; plain paths as entries too; several sections give ``"split"``
    table (``.csv, .tsv``)    the column ``image_column``; ``subject`` or ``participant_id`` for the subject, if there
    folder                    its ``dataset.json``, if it has one (a Decathlon folder holds label maps as well),
                              otherwise every NIfTI file below it but hidden ones and ``derivatives``
    glob pattern              the NIfTI and MGH files that match; ``**`` goes into folders
    NIfTI or MGH file         that file
    ========================  ========================================================================================

    Paths in a datalist or a table are relative to its folder. A column of a table is ``int`` if all its values are
    integers, ``float`` if all are numbers, otherwise ``str`` (identifiers such as ``"007"`` too). Lists keep the
    order of their file; folders and patterns give natural order (``sub-2`` before ``sub-10``).

    Args:
        source: where the volumes are.
        suffix: the end of the file names to take from a BIDS folder, such as ``"FLAIR"`` or ``"desc-preproc_T1w"``.
        image_column: the column of a table, or key of a datalist's entries, that holds the path.

    Returns:
        the records.

    Raises:
        ValueError: if ``source`` is not one of these, or anything in it is wrong: files that are not there, a
            volume listed twice, a subject twice in ``participants.tsv``, a table that cannot be read, nothing found.
            One error lists all problems, with file and line.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for subject in ("sub-2", "sub-10"):
        ...     (root / subject / "anat").mkdir(parents=True)
        ...     (root / subject / "anat" / f"{subject}_T1w.nii.gz").touch()
        >>> _ = (root / "participants.tsv").write_text("participant_id\tage\tsex\nsub-2\t31\tn/a\n")
        >>> for record in discover(root):
        ...     print(Path(record["image"]).name, record["subject"], record["age"], record["sex"])
        sub-2_T1w.nii.gz sub-2 31 None
        sub-10_T1w.nii.gz sub-10 None None
    """
    _check_name("suffix", suffix)
    _check_name("image_column", image_column)
    text = _source_text(source)
    problems: list[str] = []
    volumes = _volumes(text, suffix, image_column, problems)
    problems += [*_absent(volumes), *_repeated(volumes)]
    if problems:
        raise ValueError(_summary(text, problems))
    keys = dict.fromkeys(key for volume in volumes for key in volume.record)
    return [{key: volume.record.get(key) for key in keys} for volume in volumes]


# ---- which form the source has ----


def _check_name(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{name}` must be a non-empty string, got {value!r}.")


def _source_text(source: Any) -> str:
    """Return the source as text; the empty string is refused, since as a path it means the working directory."""
    text = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"`source` must be {_ACCEPTED}, got {source!r}.")
    return os.path.expanduser(text)


def _volumes(text: str, suffix: str, image_column: str, problems: list[str]) -> list[_Volume]:
    """Return what the source lists, by the form it has, and append to ``problems`` what is wrong with it."""
    # Not resolved: a link's own name has the BIDS entities, the file behind it (git-annex) is called by its hash.
    path = Path(os.path.abspath(text))
    ending = path.suffix.lower()
    if path.is_dir():
        return _from_directory(path, suffix, image_column, problems)
    if path.is_file() and ending == ".json":
        return _from_datalist(path, image_column, problems)
    if path.is_file() and ending in (".csv", ".tsv"):
        return _from_table(path, image_column, problems)
    if path.is_file() and _is_volume(path.name, VOLUME_SUFFIXES):
        return [_Volume(_record(str(path)))]
    if not path.exists() and glob.has_magic(text):
        return _from_pattern(text, problems)
    came = "a file of another kind" if path.exists() else "and nothing is there"
    raise ValueError(f"`source` must be {_ACCEPTED}, got {text!r}, {came}.")


def _from_directory(root: Path, suffix: str, image_column: str, problems: list[str]) -> list[_Volume]:
    try:
        if _is_bids(root):
            return _from_bids(root, suffix, problems)
        if (root / "dataset.json").is_file():
            return _from_datalist(root / "dataset.json", image_column, problems)
        return _from_folder(root, problems)
    except OSError as error:
        # a folder that may not be read: passed over, part of the cohort would be missing without a word
        problems.append(f"{error.filename!r}: {error.strerror}")
        return []


def _is_volume(name: str, suffixes: tuple[str, ...] = _NIFTI_SUFFIXES) -> bool:
    # macOS leaves "._sub-01_T1w.nii.gz" beside the real file on foreign disks
    return name.lower().endswith(suffixes) and not name.startswith(".")


def _is_bids(root: Path) -> bool:
    marked = any((root / name).is_file() for name in ("dataset_description.json", "participants.tsv"))
    return marked or next(_anat_folders(root), None) is not None


# ---- the forms ----


def _from_bids(root: Path, suffix: str, problems: list[str]) -> list[_Volume]:
    found = [file for anat in _anat_folders(root) for file in _children(anat) if _is_volume(file.name)]
    images = _in_natural_order(str(file) for file in found if _stem(file.name).endswith(f"_{suffix}"))
    if not images:
        others = sorted({_stem(file.name).rsplit("_", 1)[-1] for file in found})
        there = f"; there is {', '.join(others)}" if others else ""
        problems.append(f"no volume sub-*/[ses-*/]anat/*_{suffix}.nii[.gz] in this BIDS folder{there}")
    columns, participants = _participants(root / "participants.tsv", problems)
    folders = dict.fromkeys(Path(image).relative_to(root).parts[0] for image in images)
    session_columns, sessions = _sessions([root / folder for folder in folders], problems)
    unknown: Record = dict.fromkeys(columns)
    unknown_session: Record = dict.fromkeys(session_columns)
    volumes = []
    taken: set[str] = set()
    for image in images:
        own = _record(image)
        taken.update(own)
        folder = Path(image).relative_to(root).parts[0]
        if own["subject"] != folder:
            problems.append(f"{image!r} is named {own['subject']!r} but stands in the folder of {folder!r}")
        visit = sessions.get((folder, own.get("session")), unknown_session)
        # a visit's own age stands over the one at enrolment; where it is missing, that of participants.tsv is taken
        person = participants.get(folder, unknown)
        known = {key: value for key, value in visit.items() if value is not None or key not in person}
        volumes.append(_Volume({**own, **person, **known, **own}))
    _warn_left_out("participants.tsv", taken.intersection(columns))
    _warn_left_out("*_sessions.tsv", taken.intersection(session_columns))
    return volumes


def _from_datalist(path: Path, image_column: str, problems: list[str]) -> list[_Volume]:
    try:
        # NaN and Infinity are no JSON, but Python writes them: here they are missing values
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        problems.append(f"{path.name}, line {error.lineno}: not JSON: {error.msg}")
        return []
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name}: cannot be read: {error}")
        return []
    keys = list(content) if isinstance(content, dict) else []
    sections = [key for key in keys if key in _SECTIONS]
    if not sections:
        there = f"the keys there are: {', '.join(keys)}" if keys else f"the file holds a {type(content).__name__}"
        problems.append(f'{path.name}: no section "training", "validation" or "test"; {there}')
    volumes = []
    left_out: set[str] = set()
    for section in sections:
        split = {"split": _SECTIONS[section]} if len(sections) > 1 else {}
        if not isinstance(content[section], list):
            problems.append(f"{path.name}: {section!r} must be a list of entries, got {content[section]!r:.80}")
            continue
        for index, entry in enumerate(content[section]):
            place = f"{path.name}, {section}[{index}]"
            fields = entry if isinstance(entry, dict) else {image_column: entry}
            left_out.update(_clash(fields, image_column))
            volumes += _listed(fields, image_column, path.parent, place, split, problems)
    _warn_left_out(path.name, left_out)
    if sections and not volumes and not problems:
        problems.append(f"{path.name}: no entry in {', '.join(sections)}")
    return volumes


def _from_table(path: Path, image_column: str, problems: list[str]) -> list[_Volume]:
    columns, rows = _read_table(path, problems)
    if rows and image_column not in columns:
        there = f"the columns there are: {', '.join(columns)} (choose one with `image_column`)"
        problems.append(f"{path.name}: no column {image_column!r}; {there}")
        return []
    subject = next((column for column in ("subject", "participant_id") if column in columns), None)
    text_columns = [image_column] if subject is None else [image_column, subject]
    volumes = []
    for row, covariates in zip(rows, _typed_rows(rows, columns, text_columns), strict=True):
        if subject is not None and covariates[subject] is None:
            problems.append(f"{row.place}: no {subject}")
        volumes += _listed(covariates, image_column, path.parent, row.place, {}, problems)
    _warn_left_out(path.name, _clash(columns, image_column))
    return volumes


def _from_folder(root: Path, problems: list[str]) -> list[_Volume]:
    images = _in_natural_order(_volumes_below(root))
    if not images:
        problems.append("no .nii or .nii.gz file in this folder or below it")
    records = [_record(image) for image in images]
    named = [record["subject"] for record in records if record["subject"] == _stem(os.path.basename(record["image"]))]
    if len(set(named)) < len(named):
        # person/T1.nii.gz: the folder below the root is the person
        for record in records:
            parts = Path(record["image"]).relative_to(root).parts
            if len(parts) > 1 and record["subject"] == _stem(parts[-1]):
                record["subject"] = parts[0]
    return [_Volume(record) for record in records]


def _from_pattern(pattern: str, problems: list[str]) -> list[_Volume]:
    # a set, because "**/**" meets the same file several times
    matches = {os.path.abspath(match) for match in glob.glob(pattern, recursive=True)}
    images = _in_natural_order(
        match for match in matches if _is_volume(os.path.basename(match), VOLUME_SUFFIXES) and not os.path.isdir(match)
    )
    if not images:
        problems.append("no .nii, .nii.gz, .mgz or .mgh file matches this pattern")
    return [_Volume(_record(image)) for image in images]


# ---- folders ----


def _children(folder: Path, prefix: str = "") -> list[Path]:
    return [child for child in folder.iterdir() if child.name.startswith(prefix)]


def _anat_folders(root: Path) -> Iterator[Path]:
    """Yield the ``sub-*/[ses-*/]anat`` folders; ``derivatives`` and ``sourcedata`` are never entered."""
    for subject in _children(root, "sub-"):
        if subject.is_dir():
            for holder in (subject, *_children(subject, "ses-")):
                if (holder / "anat").is_dir():
                    yield holder / "anat"


def _volumes_below(root: Path) -> Iterator[str]:
    """Yield the NIfTI files below a folder, through links to folders too; no folder is entered twice."""
    entered = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_raise):
        real = os.path.realpath(folder)
        # os.walk reads this list again; sorted, so that of two ways to one folder the same is taken every time
        folders[:] = [] if real in entered else sorted(f for f in folders if f[0] != "." and f != "derivatives")
        if real not in entered:
            entered.add(real)
            yield from (os.path.join(folder, file) for file in files if _is_volume(file))


def _raise(error: OSError) -> None:
    raise error


def _in_natural_order(paths: Iterable[str]) -> list[str]:
    """Sort paths part by part, numbers by their value; equal ones (``1``, ``01``) by their characters."""

    def key(path: str) -> tuple[list[list[str | int]], str]:
        # re.split alternates text and digits: numbers are compared with numbers only
        pieces = [re.split(r"([0-9]+)", part) for part in Path(path).parts]
        return [[int(piece) if i % 2 else piece for i, piece in enumerate(part)] for part in pieces], path

    return sorted(paths, key=key)


# ---- tables ----


def _read_table(path: Path, problems: list[str]) -> tuple[list[str], list[_Row]]:
    """Return the named columns and the rows of a table as text, without blank rows."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.reader(io.StringIO(text), delimiter=_delimiter(path, text), strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader]
    except OSError as error:
        problems.append(f"{path.name}: cannot be read: {error.strerror}")
        return [], []
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        problems.append(f"{path.name}, line {line}: not UTF-8 text")
        return [], []
    except csv.Error as error:
        problems.append(f"{path.name}, line {reader.line_num}: not a table: {error}")
        return [], []
    lines = [(number, cells) for number, cells in lines if any(cells)]
    header = lines[0][1] if lines else []
    if len(lines) < 2:
        problems.append(f"{path.name}: no rows below the header" if lines else f"{path.name}: an empty table")
    # pandas writes its index as a column without a name, spreadsheets add empty columns at the right
    columns = [column for column in header if column]
    if len(set(columns)) < len(columns):
        twice = sorted({column for column in columns if columns.count(column) > 1})
        problems.append(f"{path.name}: columns of the same name: {', '.join(twice)}")
    width = 1 + max((i for i, column in enumerate(header) if column), default=-1)
    rows = []
    for number, cells in lines[1:]:
        place = f"{path.name}, line {number}"
        if len(cells) < width or any(cells[width:]):
            problems.append(f"{place}: {len(cells)} fields, the header has {width}")
        else:
            pairs = zip(header[:width], cells[:width], strict=True)
            rows.append(_Row({column: cell for column, cell in pairs if column}, place))
    return columns, rows


def _delimiter(path: Path, text: str) -> str:
    """Return the tab for a TSV; for a CSV what its header has most of: spreadsheets in Europe write semicolons."""
    header = text.lstrip().partition("\n")[0]
    return "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)


def _typed(cells: list[str]) -> list[int | float | str | None]:
    """Return a column's cells as int if all are integers, as float if all are numbers, otherwise as str."""
    missing = [cell.casefold() in _MISSING for cell in cells]
    present = [cell for cell, absent in zip(cells, missing, strict=True) if not absent]
    kind: type[int] | type[float] | type[str] = str
    if all(_INTEGER.fullmatch(cell) for cell in present):
        kind = int
    elif all(_NUMBER.fullmatch(cell) and math.isfinite(float(cell)) for cell in present):
        kind = float
    return [None if absent else kind(cell) for cell, absent in zip(cells, missing, strict=True)]


def _typed_rows(rows: list[_Row], columns: list[str], text_columns: Iterable[str]) -> list[Record]:
    """Return the rows with typed values; ``text_columns`` hold paths and identifiers, and stay as they are."""
    typed: dict[str, list[Any]] = {}
    for column in columns:
        cells = [row.cells[column] for row in rows]
        typed[column] = (
            [None if cell in ("", "n/a") else cell for cell in cells] if column in text_columns else _typed(cells)
        )
    return [{column: typed[column][i] for column in columns} for i in range(len(rows))]


def _participants(path: Path, problems: list[str]) -> tuple[list[str], dict[str, Record]]:
    """Return the covariates' names and, by subject, their values; nothing if there is no ``participants.tsv``."""
    # a link whose file was not fetched is a table that cannot be read, not an absent one
    if not os.path.lexists(path):
        return [], {}
    columns, rows = _read_table(path, problems)
    if rows and "participant_id" not in columns:
        problems.append(f"{path.name}: no column 'participant_id'; the columns there are: {', '.join(columns)}")
        return [], {}
    covariates = [column for column in columns if column != "participant_id"]
    places: dict[str, str] = {}
    participants = {}
    for row, values in zip(rows, _typed_rows(rows, covariates, ()), strict=True):
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
    merged: list[_Row] = []
    columns: dict[str, None] = {}
    for folder in folders:
        path = folder / f"{folder.name}_sessions.tsv"
        if not os.path.lexists(path):
            continue
        own_columns, rows = _read_table(path, problems)
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
    rows = [_Row({column: row.cells.get(column, "") for column in columns}, row.place) for row in merged]
    return list(columns), dict(zip(keys, _typed_rows(rows, list(columns), ()), strict=True))


# ---- records ----


def _record(image: str, subject: str | None = None) -> Record:
    """Return the record of a volume with what its path says: subject, and session and run if they are named."""
    stem = _stem(os.path.basename(image))
    session = _entity("ses", stem) or _folder_entity("ses", image)
    run = _entity("run", stem)
    return {
        "image": image,
        "subject": subject or _entity("sub", stem) or _folder_entity("sub", image) or stem,
        **({"session": session} if session else {}),
        **({"run": run} if run else {}),
    }


def _entity(name: str, stem: str) -> str | None:
    """Return a BIDS entity of a file's name, whole: ``sub-01``."""
    found = re.search(rf"(?:^|_)({name}-[^_]+)", stem)
    return found.group(1) if found else None


def _folder_entity(name: str, image: str) -> str | None:
    """Return the name of the nearest folder that is called by a BIDS entity."""
    folders = reversed(Path(image).parts[:-1])
    return next((folder for folder in folders if re.fullmatch(rf"{name}-[^_]+", folder)), None)


def _stem(name: str) -> str:
    ending = next((ending for ending in VOLUME_SUFFIXES if name.lower().endswith(ending)), None)
    return name[: -len(ending)] if ending else os.path.splitext(name)[0]


def _listed(
    fields: Mapping[str, Any],
    image_column: str,
    folder: Path,
    place: str,
    split: Mapping[str, str],
    problems: list[str],
) -> list[_Volume]:
    """Return the volume that one entry of a datalist or row of a table lists, or none and a problem."""
    image = fields.get(image_column)
    if not isinstance(image, str) or not image.strip():
        problems.append(f"{place}: {image_column!r} must be the path of one volume, got {image!r:.80}")
        return []
    subject_key = next((key for key in ("subject", "participant_id") if fields.get(key) is not None), None)
    subject = None if subject_key is None else str(fields[subject_key])
    own = {**_record(_path_in(folder, image), subject), **split}
    # The list's own "session" and "run" stand: it was written by hand, the file's name perhaps by a scanner
    covariates = {
        key: _path_in(folder, value) if _is_volume_path(value) else value
        for key, value in fields.items()
        if key not in {image_column, subject_key, "image", "subject", *split}
    }
    return [_Volume({**own, **covariates}, place)]


def _is_volume_path(value: Any) -> bool:
    # a label map or a mask: nothing here needs it, so it does not have to exist, but its folder must not be lost
    return isinstance(value, str) and _is_volume(os.path.basename(value))


def _path_in(folder: Path, path: str) -> str:
    return os.path.abspath(os.path.join(folder, os.path.expanduser(path.strip())))


def _clash(fields: Iterable[str], image_column: str) -> set[str]:
    return {"image"}.intersection(fields) - {image_column}


def _warn_left_out(place: str, columns: set[str]) -> None:
    if columns:
        names = ", ".join(sorted(columns))
        warnings.warn(f"{place}: {names} left out: records have something else by that name.", stacklevel=2)


# ---- what is wrong ----


def _absent(volumes: list[_Volume]) -> Iterator[str]:
    for record, place in volumes:
        image = record["image"]
        if os.path.isfile(image):
            continue
        where = f"{place}: " if place else ""
        if os.path.isdir(image):
            yield f"{where}{image!r} is a folder, not a volume"
        elif os.path.islink(image):
            yield f"{where}{image!r} is a link to a file that is not there (with DataLad: `datalad get`)"
        else:
            yield f"{where}no such file: {image!r}"


def _repeated(volumes: list[_Volume]) -> Iterator[str]:
    places: dict[str, str] = {}
    for record, place in volumes:
        image = record["image"]
        if image in places:
            yield f"{place}: {image!r} is listed before, in {places[image]}"
        places.setdefault(image, place)


def _summary(source: str, problems: list[str]) -> str:
    shown = [f"  - {problem}" for problem in problems[:_MOST_PROBLEMS_SHOWN]]
    if len(problems) > len(shown):
        shown.append(f"  - and {len(problems) - len(shown)} more")
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n".join([f"`source` {source!r} cannot be used: {count}", *shown])
