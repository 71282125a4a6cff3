"""Discovery of a cohort's volumes: one record per volume, from any supported list or folder."""

from __future__ import annotations

import glob
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..._checks import check_choice
from ..identity.bids_names import ListedVolume, Record, in_natural_order, is_volume
from ..identity.path_records import path_records
from ..tables.table_files import parse_rows, read_table
from ..volumes.contrasts import ON_INCOMPLETE, image_files, names_in, other_images
from ..volumes.dicom import is_dicom_folder
from ..volumes.openbhb import is_openbhb
from ..volumes.volume_files import VOLUME_SUFFIXES
from .bids import bids_volumes, is_bids, join_tables, openbhb_volumes
from .bids_entities import check_entities, choose_by_entities, refuse_several
from .listed_volumes import Entry, listed_volumes, subject_columns

_ACCEPTED = (
    "a BIDS folder, a folder of NIfTI files or of DICOM folders, a datalist (.json), a table (.csv, .tsv), "
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
_MAX_PROBLEMS_SHOWN = 10
_FILES = (*VOLUME_SUFFIXES, ".npy")


class Request(NamedTuple):
    """The arguments of :func:`discover` other than the source."""

    suffix: tuple[str, ...]
    image_column: tuple[str, ...]
    subject_from: str | None
    entities: Mapping[str, str]
    missing_values: Sequence[str] | None
    skip_incomplete: bool


def discover(
    source: str | os.PathLike[str],
    *,
    suffix: str | Sequence[str] = "T1w",
    image_column: str | Sequence[str] = "image",
    subject_from: str | None = None,
    entities: str | Mapping[str, str | None] | None = None,
    missing_values: str | Sequence[str] | None = None,
    on_incomplete: str = "stop",
) -> list[Record]:
    r"""List the volumes of a cohort: one record per volume, without reading a voxel.

    Every record is ``{"image": absolute path, "subject": id, ...covariates}``, and all records have the same
    keys; missing values are ``None``, never NaN. ``"session"``, ``"run"``, ``"group"`` and ``"split"`` are added if
    names contain them. Identifiers from BIDS names keep their prefix (``"sub-01"``, ``"ses-1"``, ``"run-1"``).

    ========================  ========================================================================================
    ``source``                volumes
    ========================  ========================================================================================
    BIDS folder               ``sub-*/[ses-*/]anat/*_{suffix}.nii[.gz]``, with the columns of ``participants.tsv``, of
                              ``sub-*/sub-*_sessions.tsv`` by session, and of ``sub-*/[ses-*/]*_scans.tsv`` by file;
                              recognised by ``dataset_description.json``, ``participants.tsv`` or ``sub-*/[ses-*/]anat``
    datalist (``.json``)      ``{"training": [{"image": path, ...}], "validation": ..., "test": ...}`` as in MONAI and
                              the Decathlon; entries may be plain paths; several sections give ``"split"``
    table (``.csv, .tsv``)    the column ``image_column``; the subject from ``subject`` or ``participant_id`` if present
    folder                    those of its ``dataset.json``, if it has one (a Decathlon folder also holds label maps),
                              otherwise every NIfTI file below it except hidden ones and ``derivatives``; if there is
                              none, every folder of DICOM files (needs the extra ``dicom``), one series each
    OpenBHB folder            ``{train,val}/derivatives/sub-*/ses-*/*_{suffix}.npy`` with ``participants.tsv``; one of
                              the two parts also works. The affines are those of the templates in ``resource``
    glob pattern              the NIfTI and MGH files, or DICOM folders, that match; ``**`` descends into folders
    NIfTI or MGH file         that file
    ========================  ========================================================================================

    The subject is determined by the first of these that applies: ``subject_from``; the column or key ``subject`` or
    ``participant_id``; the BIDS entity ``sub-`` of the file or a folder; the one part of the paths that differs between
    files, apart from parts whose names mark them as sessions, repeats or groups. If two parts could be the subject,
    there is an error with the options that settle it (docs/identity.md has the complete rule).

    Paths in a datalist or a table are relative to its folder. A column of a table is ``int`` if all its values are
    integers, ``float`` if all are numbers, otherwise ``str`` (also for identifiers such as ``"007"``). Lists keep the
    order of their file; folders and patterns give natural order (``sub-2`` before ``sub-10``).

    Several suffixes or columns are the channels of one model, such as ``["T1w", "T2w"]``. There is one record for each
    image of the first; ``"other_images"`` holds the paths of the others by name, ``{"T2w": path}``. In a BIDS folder,
    images belong together if they are of one session and their names have the same entities; ``acq`` and ``run`` may
    differ where only one image of each suffix is left.

    Args:
        source: location of the volumes.
        suffix: end of the file names to include from a BIDS folder, such as ``"FLAIR"`` or ``"desc-preproc_T1w"``; or
            several, one per channel.
        image_column: the column of a table, or key of a datalist's entries, that holds the path; or several, one per
            channel.
        subject_from: a pattern of the paths below the folder, such as ``"{group}/{subject}/*"``
            (:class:`~.subject_patterns.SubjectPattern`); or the column of a table, or key of a datalist's entries, that
            holds the subject.
        entities: BIDS entities that the names must have, such as ``"space=MNI152NLin2009cAsym,desc=none"``; "none"
            selects names without the entity. Not for tables and datalists.
        missing_values: texts in tables that mean missing, such as ``["-9", "unknown"]``, in addition to empty cells,
            "n/a", "NA" and "NaN". If given, no other value is treated as missing.
        on_incomplete: what to do if volumes lack an image of a channel: "stop", an error that names them; or "skip",
            leave them out, with a warning that names them.

    Returns:
        the records.

    Raises:
        ValueError: if ``source`` is none of these or has problems: files that don't exist, a volume that is listed
            twice or under two subjects, ambiguous subjects, several volumes of one BIDS session, a subject listed twice
            in ``participants.tsv``, a table that cannot be read or whose rows match no subject, or no volume at all.
            One error lists all problems, with file and line.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for subject in ("sub-2", "sub-10"):
        ...     (root / subject / "anat").mkdir(parents=True)
        ...     (root / subject / "anat" / f"{subject}_T1w.nii.gz").touch()
        >>> _ = (root / "participants.tsv").write_text("participant_id\tage\tsex\nsub-2\t31\tn/a\nsub-10\tn/a\tF\n")
        >>> for record in discover(root):
        ...     print(Path(record["image"]).name, record["subject"], record["age"], record["sex"])
        sub-2_T1w.nii.gz sub-2 31 None
        sub-10_T1w.nii.gz sub-10 None F
    """
    suffixes, columns = names_in("suffix", suffix), names_in("image_column", image_column)
    if subject_from is not None:
        _check_name("subject_from", subject_from)
    if isinstance(missing_values, str):
        missing_values = [value.strip() for value in missing_values.split(",")]
    skip = check_choice("on_incomplete", on_incomplete, ON_INCOMPLETE) == "skip"
    request = Request(suffixes, columns, subject_from, check_entities(entities), missing_values, skip)
    text = _source_text(source)
    problems: list[str] = []
    volumes = _volumes(text, request, problems)
    problems += [*_absent(volumes), *_repeated(volumes)]
    if problems:
        raise ValueError(_summary(text, problems))
    keys = dict.fromkeys(key for volume in volumes for key in volume.record)
    return [{key: volume.record.get(key) for key in keys} for volume in volumes]


# ---- form of the source ----


def _check_name(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{name}` must be a non-empty string, got {value!r}.")


def _source_text(source: Any) -> str:
    """Return the source as text; refuse the empty string, which as a path means the working directory."""
    text = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"`source` must be {_ACCEPTED}, got {source!r}.")
    return os.path.expanduser(text)


def _volumes(text: str, request: Request, problems: list[str]) -> list[ListedVolume]:
    """Return the volumes of a source, read according to its form, and append problems to ``problems``."""
    # Not resolved: the name of a link has the BIDS entities, but its target (git-annex) is named by its hash.
    path = Path(os.path.abspath(text))
    ending = path.suffix.lower()
    # os.path, because Path's methods fail for a name that is too long for the file system
    is_file, exists = os.path.isfile(path), os.path.exists(path)
    if os.path.isdir(path):
        return _from_directory(path, request, problems)
    if is_file and ending == ".json":
        return _from_datalist(path, request, problems)
    if is_file and ending in (".csv", ".tsv"):
        return _from_table(path, request, problems)
    if is_file and is_volume(path.name, _FILES):
        return _plain([str(path)], path.parent, request, problems)
    if not exists and glob.has_magic(text):
        return _from_pattern(text, request, problems)
    came = "a file of another kind" if exists else "and nothing is there"
    raise ValueError(f"`source` must be {_ACCEPTED}, got {text!r}, {came}.")


def _from_directory(root: Path, request: Request, problems: list[str]) -> list[ListedVolume]:
    try:
        if is_openbhb(root):
            _refuse_unused(request, "OpenBHB's folder", problems)
            _refuse_several_suffixes(request, "OpenBHB's folder", problems)
            return openbhb_volumes(root, request.suffix[0], problems, request.missing_values)
        if is_bids(root):
            if request.subject_from is not None:
                problems.append(
                    "`subject_from` isn't used for a BIDS folder, whose names say the subjects; give a pattern such as "
                    f"{os.path.join(root, 'sub-*/anat/*')!r} to read it as plain files"
                )
            return bids_volumes(
                root, request.suffix, problems, request.entities, request.missing_values, request.skip_incomplete
            )
        if (root / "dataset.json").is_file():
            return _from_datalist(root / "dataset.json", request, problems)
        return _from_folder(root, request, problems)
    except OSError as error:
        # skipping an unreadable folder would silently lose part of the cohort
        problems.append(f"{error.filename!r}: {error.strerror}")
        return []


def _refuse_unused(request: Request, form: str, problems: list[str]) -> None:
    for name in ("subject_from", "entities"):
        if getattr(request, name):
            problems.append(f"`{name}` isn't used for {form}, got {getattr(request, name)!r}")


def _refuse_several_suffixes(request: Request, form: str, problems: list[str]) -> None:
    if len(request.suffix) > 1:
        problems.append(
            f"`suffix` must be one for {form}, got {list(request.suffix)}: several are for a BIDS folder; otherwise "
            "give a table with a column for each image, named with `image_column`"
        )


# ---- the forms ----


def _from_datalist(path: Path, request: Request, problems: list[str]) -> list[ListedVolume]:
    try:
        # NaN and Infinity aren't valid JSON, but Python writes them: they are read as missing values
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
    # the Decathlon's files have "test": []; an empty section is no split
    filled = [section for section in sections if content[section] != []]
    entries: list[Entry] = []
    for section in filled:
        split = {"split": _SECTIONS[section]} if len(filled) > 1 else {}
        if not isinstance(content[section], list):
            problems.append(f"{path.name}: {section!r} must be a list of entries, got {content[section]!r:.80}")
            continue
        for index, entry in enumerate(content[section]):
            fields = entry if isinstance(entry, dict) else {request.image_column[0]: entry}
            entries.append(Entry(fields, f"{path.name}, {section}[{index}]", split))
    if sections and not entries and not problems:
        problems.append(f"{path.name}: no entry in {', '.join(sections)}")
    return listed_volumes(entries, path, request.image_column, request.subject_from, problems, request.skip_incomplete)


def _from_table(path: Path, request: Request, problems: list[str]) -> list[ListedVolume]:
    columns, rows = read_table(path, problems)
    absent = [column for column in request.image_column if column not in columns]
    if rows and absent:
        there = f"the columns there are: {', '.join(columns)} (choose one with `image_column`)"
        problems.append(f"{path.name}: no column {absent[0]!r}; {there}")
        return []
    text_columns = [*request.image_column, *subject_columns(columns)]
    if request.subject_from in columns:
        text_columns.append(request.subject_from)
    typed = parse_rows(rows, columns, text_columns, missing_values=request.missing_values)
    entries = [Entry(fields, row.place, {}) for row, fields in zip(rows, typed, strict=True)]
    return listed_volumes(entries, path, request.image_column, request.subject_from, problems, request.skip_incomplete)


def _from_folder(root: Path, request: Request, problems: list[str]) -> list[ListedVolume]:
    images = in_natural_order(_volumes_below(root))
    if images:
        return _plain(images, root, request, problems)
    series = in_natural_order(folder for folder in _folders_below(root) if is_dicom_folder(folder))
    if not series:
        problems.append("no .nii or .nii.gz file in this folder or below it, and no DICOM file")
    # if the folder itself is a series, its name counts as part of the path
    return _plain(series, root.parent if str(root) in series else root, request, problems)


def _from_pattern(pattern: str, request: Request, problems: list[str]) -> list[ListedVolume]:
    # a set, because "**/**" matches the same file several times
    matches = {os.path.abspath(match) for match in glob.glob(pattern, recursive=True)}
    files = [match for match in matches if is_volume(os.path.basename(match), _FILES) and not os.path.isdir(match)]
    images = in_natural_order(files or [match for match in matches if is_dicom_folder(match)])
    if not images:
        problems.append("no .nii, .nii.gz, .mgz or .mgh file matches this pattern, and no folder of DICOM files")
    parts = Path(os.path.abspath(pattern)).parts
    fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), parts[:-1]))
    return _plain(images, Path(*fixed), request, problems)


def _plain(images: list[str], base: Path, request: Request, problems: list[str]) -> list[ListedVolume]:
    """Return the volumes of files that are not described by a list."""
    _refuse_several_suffixes(request, "files without a list", problems)
    images = choose_by_entities(images, request.entities, problems)
    try:
        records = path_records(images, base, request.subject_from)
    except ValueError as error:
        problems.append(str(error))
        return []
    # with a pattern, several volumes per session are the user's choice
    if request.subject_from is None and len(records) > 1:
        refuse_several(records, problems)
    root = _bids_root(records)
    if root is not None:
        records = join_tables(records, root, problems, request.missing_values)
    return [ListedVolume(record) for record in records]


def _bids_root(records: Sequence[Record]) -> Path | None:
    """Return the one BIDS dataset that contains all files, if it has a table of participants."""
    roots = set()
    for record in records:
        folders = Path(record["image"]).parents
        roots.add(next((folder.parent for folder in folders if folder.name == record["subject"]), None))
    root = roots.pop() if len(roots) == 1 else None
    return root if root is not None and os.path.lexists(root / "participants.tsv") else None


# ---- folders ----


def _volumes_below(root: Path) -> Iterator[str]:
    """Yield the NIfTI files below a folder."""
    for folder in _folders_below(root):
        yield from (os.path.join(folder, file) for file in os.listdir(folder) if is_volume(file))


def _folders_below(root: Path) -> Iterator[str]:
    """Yield a folder and those below it, each once, following links but skipping hidden ones and ``derivatives``."""
    entered = set()
    for folder, folders, _ in os.walk(root, followlinks=True, onerror=_raise):
        real = os.path.realpath(folder)
        # os.walk reads this list again; sorting it fixes which of two paths to the same folder is used
        folders[:] = [] if real in entered else sorted(f for f in folders if f[0] != "." and f != "derivatives")
        if real not in entered:
            entered.add(real)
            yield folder


def _raise(error: OSError) -> None:
    raise error


# ---- problems ----


def _absent(volumes: list[ListedVolume]) -> Iterator[str]:
    for image, place in ((image, place) for record, place in volumes for image in image_files(record)):
        if os.path.isfile(image):
            continue
        where = f"{place}: " if place else ""
        if os.path.isdir(image):
            if not is_dicom_folder(image):
                yield f"{where}{image!r} is a folder without DICOM files, not a volume"
        elif os.path.islink(image):
            yield f"{where}{image!r} is a link to a file that is not there (with DataLad: `datalad get`)"
        else:
            yield f"{where}no such file: {image!r}"


def _repeated(volumes: list[ListedVolume]) -> Iterator[str]:
    places: dict[str, ListedVolume] = {}
    files: dict[str, Record] = {}
    for volume in volumes:
        record, place = volume
        image = record["image"]
        if image in places:
            yield f"{place}: {image!r} is listed before, in {places[image].place}"
        elif os.path.exists(image):
            other = files.setdefault(os.path.realpath(image), record)
            if other["subject"] != record["subject"]:
                yield (
                    f"{place + ': ' if place else ''}{image!r} of subject {record['subject']} is the same file as "
                    f"{other['image']!r} of subject {other['subject']}"
                )
        places.setdefault(image, volume)
    yield from _repeated_others(volumes)


def _repeated_others(volumes: list[ListedVolume]) -> Iterator[str]:
    """Yield the files that stand for two channels, or for a channel of two volumes."""
    taken: dict[str, str] = {}
    if not any(other_images(record) for record, _ in volumes):
        return
    for record, place in volumes:
        for image in image_files(record):
            real, whose = os.path.realpath(image), f"the volume {record['image']!r}"
            where = f"{place}: " if place else ""
            if real in taken:
                yield f"{where}{image!r} is an image of {whose} and already one of {taken[real]}"
            taken.setdefault(real, whose)


def _summary(source: str, problems: list[str]) -> str:
    shown = ["  - " + problem.replace("\n", "\n    ") for problem in problems[:_MAX_PROBLEMS_SHOWN]]
    if len(problems) > len(shown):
        shown.append(f"  - and {len(problems) - len(shown)} more")
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n".join([f"`source` {source!r} cannot be used: {count}", *shown])
