"""Records of files without a list: their subjects come from a pattern, from BIDS names or from the other paths."""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from .bids_names import Record, record_of, stem_of
from .path_fields import Identity, UnknownIdentityError
from .path_sessions import is_session_folder, sessions_of
from .path_words import KINDS, MAPS, SESSION_WORDS, SESSIONS, TEMPLATE_SUBJECT, atoms_of, chunks_of
from .subject_patterns import SubjectPattern, listed
from .subject_rule import identities, refuse_kinds, refuse_twins

_MAX_PATHS = 4
_MAX_KINDS = 4

TABLE_LINE = "or give a table (.csv, .tsv) with the columns image and subject as --dataset_dir."


def path_records(images: Sequence[str], base: str | os.PathLike[str], subject_from: str | None = None) -> list[Record]:
    """Return a record for each file, with its subject, and the session, run and group if the path contains them.

    The first of these that applies determines the subject: ``subject_from``, a pattern of the paths below ``base``; the
    BIDS entity ``sub-`` in the name of the file or of a folder; :func:`~.subject_rule.identities` of the paths.
    FreeSurfer's templates, such as ``fsaverage`` among its subjects, are left out with a warning.

    Args:
        images: absolute paths, each once.
        base: the folder below which paths are compared.
        subject_from: pattern such as ``"{group}/{subject}/*"``; files that don't match are left out with a warning.

    Raises:
        ValueError: if the subjects are ambiguous (the message lists options that settle it), or if no file matches.
    """
    images = _without_templates(images, base)
    if not images:
        return []
    paths = [_relative(image, base) for image in images]
    if subject_from is not None:
        return _by_pattern(images, paths, SubjectPattern(unicodedata.normalize("NFC", subject_from)))
    records = [record_of(image) for image in images]
    # in a name such as sub-01.visit2, the rest must be interpreted too
    stated = [re.fullmatch(r"sub-[A-Za-z0-9]+", record["subject"]) is not None for record in records]
    stems = [f"{path[: len(path) - len(os.path.basename(path))]}{stem_of(os.path.basename(path))}" for path in paths]
    try:
        if all(stated):
            _check_stated(stems, records, base)
            return _with_sessions(stems, records)
        if any(stated):
            without = [path for path, is_stated in zip(paths, stated, strict=True) if not is_stated]
            # suggest a pattern for the plain sub- names, unless all others are names such as sub-01-2 or sub-01.T1
            in_names = all(os.path.basename(path).startswith("sub-") for path in paths if path not in set(without))
            alone = [f'--dataset_dir "{os.path.join(base, "**", "sub-*" if in_names else "sub-*/**/*")}"']
            raise UnknownIdentityError(
                f"are named by sub- and letters or digits in {sum(stated)} of {len(records)} cases only, "
                f"not {listed(without)}",
                [] if any("sub-" in path for path in without) else alone,
            )
        return [_with(record, identity) for record, identity in zip(records, identities(stems), strict=True)]
    except UnknownIdentityError as error:
        raise ValueError(_refusal(paths, error)) from None


def _with(record: Record, identity: Identity) -> Record:
    return {"image": record["image"], "subject": identity.subject, **identity.entries}


def _relative(image: str, base: str | os.PathLike[str]) -> str:
    # macOS decomposes accented characters
    return unicodedata.normalize("NFC", Path(os.path.relpath(image, base)).as_posix())


def _without_templates(images: Sequence[str], base: str | os.PathLike[str]) -> Sequence[str]:
    """Return the files that don't belong to FreeSurfer's templates."""
    left_out = [
        path
        for path in (_relative(image, base) for image in images if TEMPLATE_SUBJECT.search(image))
        if any(TEMPLATE_SUBJECT.fullmatch(folder) for folder in path.split("/")[:-1])
    ]
    if not left_out or len(left_out) == len(images):
        return images
    warnings.warn(
        f"{len(left_out)} of {len(images)} volumes are FreeSurfer's templates, not a subject's, and are left out "
        f"({listed(left_out)}).",
        stacklevel=2,
    )
    lacking = set(left_out)
    return [image for image in images if _relative(image, base) not in lacking]


def _by_pattern(images: Sequence[str], paths: Sequence[str], pattern: SubjectPattern) -> list[Record]:
    records, left_out = [], []
    for image, path in zip(images, paths, strict=True):
        folder = path[: len(path) - len(os.path.basename(path))]
        found = pattern.match(folder + stem_of(os.path.basename(path)), path)
        if found is None:
            left_out.append(path)
        else:
            records.append({**record_of(image), **found})
    if not records:
        raise ValueError(
            f"`subject_from` {pattern.text!r} must match the paths below the folder, such as {listed(list(paths))}."
        )
    if left_out:
        warnings.warn(
            f"--subject_from {pattern.text}: {len(left_out)} of {len(images)} volumes don't match and are left out "
            f"({listed(left_out)}).",
            stacklevel=2,
        )
    keys = dict.fromkeys(key for record in records for key in record)
    return [{key: record.get(key) for key in keys} for record in records]


# ---- names with sub- ----


def _check_stated(paths: Sequence[str], records: Sequence[Record], base: str | os.PathLike[str]) -> None:
    """Refuse ambiguous ``sub-01`` names: in several folders, with a suffix attached, or of several kinds of images."""
    places: dict[str, str] = {}
    for path, record in zip(paths, records, strict=True):
        subject = record["subject"]
        folders = path.split("/")[:-1]
        above = folders[: folders.index(subject)] if subject in folders else folders
        place = "/".join(
            folder
            for folder in above
            if not is_session_folder(folder) and folder != "anat" and not _repeats(folder, subject)
        )
        other = places.setdefault(subject, place)
        if other != place:
            raise UnknownIdentityError(
                f"have {subject!r} in {other or '.'!r} and in {place or '.'!r}: one subject, or two",
                ['--subject_from "{subject1}/{subject2}/**"  for subjects of their own in every folder'],
            )
    subjects = list(dict.fromkeys(record["subject"] for record in records))
    refuse_twins(subjects)
    _refuse_glued(subjects)
    if all(path.rpartition("/")[2].startswith("sub-") for path in paths):
        _refuse_suffixes(paths, base)
    else:
        refuse_kinds(paths)


def _repeats(folder: str, subject: str) -> bool:
    """Return whether a folder's name repeats the subject, as ``OAS30001_MR_d0129`` repeats ``sub-OAS30001``."""
    label = subject.removeprefix("sub-")
    return folder.startswith(subject) or (len(label) > 4 and folder.startswith(label))


def _refuse_glued(subjects: Sequence[str]) -> None:
    """Refuse labels that end in a word for a kind of image or a session, such as ``sub-01T1`` or ``sub-01pre``."""
    labels: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for subject in subjects:
        found = re.fullmatch(r"(sub-.*?\d)([A-Za-z]\w*)", subject)
        labels[found[1] if found else subject].append((found[2].casefold() if found else "", subject))
    for of_one in labels.values():
        if len(of_one) > 1 and any(
            word in KINDS | MAPS | SESSIONS or set(atoms_of(word)[:1]) & SESSION_WORDS for word, _ in of_one
        ):
            names = " and ".join(repr(subject) for _, subject in of_one[:2])
            raise UnknownIdentityError(f"have names that could be one subject's or two subjects': {names}")


def _refuse_suffixes(paths: Sequence[str], base: str | os.PathLike[str]) -> None:
    """Refuse files of several kinds, according to the last word of their names (the BIDS suffix)."""
    last = [(chunks_of(path.rpartition("/")[2]) or [""])[-1] for path in paths]
    kinds = Counter(word.casefold().removesuffix("w") for word in last if word.casefold() in KINDS | MAPS)
    if kinds and (len(kinds) > 1 or kinds.total() < len(paths)):
        counts = Counter(last)
        shown = listed([f"{word} ({count})" for word, count in counts.most_common()], _MAX_KINDS + 2)
        images = [word for word, _ in counts.most_common() if word.casefold() in KINDS]
        options = [f'--dataset_dir "{os.path.join(base, "**", f"*{word}.nii*")}"' for word in images[:_MAX_KINDS]]
        raise UnknownIdentityError(f"are of several kinds, of which one must be chosen: {shown}", options)


def _with_sessions(paths: Sequence[str], records: Sequence[Record]) -> list[Record]:
    """Add sessions whose names don't follow ``ses-*`` to records of ``sub-*``."""
    if any("session" in record for record in records):
        return list(records)
    sessions = sessions_of(paths, [record["subject"] for record in records])
    return [{**record, **({"session": text} if text else {})} for record, text in zip(records, sessions, strict=True)]


def _refusal(paths: Sequence[str], error: UnknownIdentityError) -> str:
    few = paths if len(paths) <= _MAX_PATHS else [*paths[: _MAX_PATHS - 1], paths[-1]]
    lines = [f"  {path}" for path in few]
    if len(paths) > len(few):
        lines.insert(-1, f"  ... {len(paths) - len(few)} more")
    options = [f"  {reading}" for reading in error.readings]
    settle = ["Say whose they are with one of", *options, TABLE_LINE] if options else [
        'Say whose they are with a pattern, such as --subject_from "{subject}/*" or "{subject}_T1",', TABLE_LINE,
    ]  # fmt: skip
    return "\n".join([f"whose the {len(paths)} volumes are can't be told: they {error.reason}.", *lines, *settle])
