"""Which volumes there are: one record per volume, from whatever form of list or folder holds them."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .bids import bids_volumes, is_bids, openbhb_volumes, warn_left_out
from .dicom import is_dicom_folder
from .naming import ListedVolume, Record, in_natural_order, is_volume, record_of, stem_of
from .openbhb import is_openbhb
from .tables import read_table, typed_rows
from .volumes import VOLUME_SUFFIXES

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
_MOST_PROBLEMS_SHOWN = 10
_FILES = (*VOLUME_SUFFIXES, ".npy")


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
                              otherwise every NIfTI file below it but hidden ones and ``derivatives``; if there is
                              none, every folder that holds DICOM files (with the extra ``dicom``), one series each
    OpenBHB's folder          ``{train,val}/derivatives/sub-*/ses-*/*_{suffix}.npy`` with ``participants.tsv``; also one
                              of the two parts. Affines are those of the templates in its ``resource``
    glob pattern              the NIfTI and MGH files that match, or the DICOM folders; ``**`` goes into folders
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


def _volumes(text: str, suffix: str, image_column: str, problems: list[str]) -> list[ListedVolume]:
    """Return what the source lists, by the form it has, and append to ``problems`` what is wrong with it."""
    # Not resolved: a link's own name has the BIDS entities, the file behind it (git-annex) is called by its hash.
    path = Path(os.path.abspath(text))
    ending = path.suffix.lower()
    # os.path and not Path's own, which stop at a name that is too long for the file system
    is_file, exists = os.path.isfile(path), os.path.exists(path)
    if os.path.isdir(path):
        return _from_directory(path, suffix, image_column, problems)
    if is_file and ending == ".json":
        return _from_datalist(path, image_column, problems)
    if is_file and ending in (".csv", ".tsv"):
        return _from_table(path, image_column, problems)
    if is_file and is_volume(path.name, _FILES):
        return [ListedVolume(record_of(str(path)))]
    if not exists and glob.has_magic(text):
        return _from_pattern(text, problems)
    came = "a file of another kind" if exists else "and nothing is there"
    raise ValueError(f"`source` must be {_ACCEPTED}, got {text!r}, {came}.")


def _from_directory(root: Path, suffix: str, image_column: str, problems: list[str]) -> list[ListedVolume]:
    try:
        if is_openbhb(root):
            return openbhb_volumes(root, suffix, problems)
        if is_bids(root):
            return bids_volumes(root, suffix, problems)
        if (root / "dataset.json").is_file():
            return _from_datalist(root / "dataset.json", image_column, problems)
        return _from_folder(root, problems)
    except OSError as error:
        # a folder that may not be read: passed over, part of the cohort would be missing without a word
        problems.append(f"{error.filename!r}: {error.strerror}")
        return []


# ---- the forms ----


def _from_datalist(path: Path, image_column: str, problems: list[str]) -> list[ListedVolume]:
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
    warn_left_out(path.name, left_out)
    if sections and not volumes and not problems:
        problems.append(f"{path.name}: no entry in {', '.join(sections)}")
    return volumes


def _from_table(path: Path, image_column: str, problems: list[str]) -> list[ListedVolume]:
    columns, rows = read_table(path, problems)
    if rows and image_column not in columns:
        there = f"the columns there are: {', '.join(columns)} (choose one with `image_column`)"
        problems.append(f"{path.name}: no column {image_column!r}; {there}")
        return []
    subject = next((column for column in ("subject", "participant_id") if column in columns), None)
    text_columns = [image_column] if subject is None else [image_column, subject]
    volumes = []
    for row, covariates in zip(rows, typed_rows(rows, columns, text_columns), strict=True):
        if subject is not None and covariates[subject] is None:
            problems.append(f"{row.place}: no {subject}")
        volumes += _listed(covariates, image_column, path.parent, row.place, {}, problems)
    warn_left_out(path.name, _clash(columns, image_column))
    return volumes


def _from_folder(root: Path, problems: list[str]) -> list[ListedVolume]:
    images = in_natural_order(_volumes_below(root))
    if not images:
        return _from_dicom_folders(root, problems)
    records = [record_of(image) for image in images]
    named = [record["subject"] for record in records if record["subject"] == stem_of(os.path.basename(record["image"]))]
    if len(set(named)) < len(named):
        # person/T1.nii.gz: the folder below the root is the person
        for record in records:
            parts = Path(record["image"]).relative_to(root).parts
            if len(parts) > 1 and record["subject"] == stem_of(parts[-1]):
                record["subject"] = parts[0]
    return [ListedVolume(record) for record in records]


def _from_dicom_folders(root: Path, problems: list[str]) -> list[ListedVolume]:
    """Return a volume for each folder that holds DICOM files; its subject is the folder below the root."""
    images = in_natural_order(folder for folder in _folders_below(root) if is_dicom_folder(folder))
    if not images:
        problems.append("no .nii or .nii.gz file in this folder or below it, and no DICOM file")
    volumes = []
    for image in images:
        record = record_of(image)
        parts = Path(image).relative_to(root).parts
        if record["subject"] == stem_of(os.path.basename(image)) and parts:
            record["subject"] = parts[0]
        volumes.append(ListedVolume(record))
    return volumes


def _from_pattern(pattern: str, problems: list[str]) -> list[ListedVolume]:
    # a set, because "**/**" meets the same file several times
    matches = {os.path.abspath(match) for match in glob.glob(pattern, recursive=True)}
    files = [match for match in matches if is_volume(os.path.basename(match), _FILES) and not os.path.isdir(match)]
    images = in_natural_order(files or [match for match in matches if is_dicom_folder(match)])
    if not images:
        problems.append("no .nii, .nii.gz, .mgz or .mgh file matches this pattern, and no folder of DICOM files")
    return [ListedVolume(record_of(image)) for image in images]


# ---- folders ----


def _volumes_below(root: Path) -> Iterator[str]:
    """Yield the NIfTI files below a folder."""
    for folder in _folders_below(root):
        yield from (os.path.join(folder, file) for file in os.listdir(folder) if is_volume(file))


def _folders_below(root: Path) -> Iterator[str]:
    """Yield a folder and those below it, through links too, but no hidden ones, no ``derivatives``, and none twice."""
    entered = set()
    for folder, folders, _ in os.walk(root, followlinks=True, onerror=_raise):
        real = os.path.realpath(folder)
        # os.walk reads this list again; sorted, so that of two ways to one folder the same is taken every time
        folders[:] = [] if real in entered else sorted(f for f in folders if f[0] != "." and f != "derivatives")
        if real not in entered:
            entered.add(real)
            yield folder


def _raise(error: OSError) -> None:
    raise error


# ---- records ----


def _listed(
    fields: Mapping[str, Any],
    image_column: str,
    folder: Path,
    place: str,
    split: Mapping[str, str],
    problems: list[str],
) -> list[ListedVolume]:
    """Return the volume that one entry of a datalist or row of a table lists, or none and a problem."""
    image = fields.get(image_column)
    if not isinstance(image, str) or not image.strip():
        problems.append(f"{place}: {image_column!r} must be the path of one volume, got {image!r:.80}")
        return []
    subject_key = next((key for key in ("subject", "participant_id") if fields.get(key) is not None), None)
    subject = None if subject_key is None else str(fields[subject_key])
    own = {**record_of(_path_in(folder, image), subject), **split}
    # The list's own "session" and "run" stand: it was written by hand, the file's name perhaps by a scanner
    covariates = {
        key: _path_in(folder, value) if _is_volume_path(value) else value
        for key, value in fields.items()
        if key not in {image_column, subject_key, "image", "subject", *split}
    }
    return [ListedVolume({**own, **covariates}, place)]


def _is_volume_path(value: Any) -> bool:
    # a label map or a mask: nothing here needs it, so it does not have to exist, but its folder must not be lost
    return isinstance(value, str) and is_volume(os.path.basename(value))


def _path_in(folder: Path, path: str) -> str:
    return os.path.abspath(os.path.join(folder, os.path.expanduser(path.strip())))


def _clash(fields: Iterable[str], image_column: str) -> set[str]:
    return {"image"}.intersection(fields) - {image_column}


# ---- what is wrong ----


def _absent(volumes: list[ListedVolume]) -> Iterator[str]:
    for record, place in volumes:
        image = record["image"]
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
