"""What of a cohort may never leave with a model, and whether a file holds any of it.

Searched are names of subjects, paths and folders of their volumes, and home and name of the user who trained. Names are
compared without regard to case, Unicode form and Markdown's backslashes, and match as whole words.
"""

from __future__ import annotations

import contextlib
import getpass
import html
import json
import os
import pickletools
import re
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from .._texts import MARKDOWN_WIDTH, make_visible, without_markup
from .records import Record

SHORTEST, SHORTEST_NUMBER = 3, 5
"""Characters of the shortest name, and digits of the shortest number, that can be told from chance by itself."""

SHORTEST_IN_TENSORS = 8
"""Characters of the shortest text that is searched between the numbers of a tensor; short ones occur by chance."""

FOLDER = "folder of volumes"

STORAGE = re.compile(r"(?:^|/)data/\d+$")
"""Names of the records of a torch file that hold the numbers of a tensor."""

PRINTABLE = re.compile(rb"[\x20-\x7e]{%d,}" % SHORTEST_IN_TENSORS)


def personal_data_of(records: Iterable[Record], *, home: str | None = None, user: str | None = None) -> dict[str, str]:
    """Return what to search for: each text with what it is.

    A name that is too short to be told from chance (fewer than three characters, or five digits) is searched with
    "sub-" before it. A folder's or file's own name is searched if it is that of one subject alone.

    Args:
        records: the volumes that the model has seen, and those that were held out.
        home: home folder of the user; default: of the current one.
        user: name of the user; default: of the current one.

    Example:
        >>> record = {"image": "/study/ann-7/t1.nii.gz", "subject": "ann-7"}
        >>> found = personal_data_of([record], home="/home/jo", user="jo")
        >>> for text, kind in found.items():  # the user "jo" has too short a name
        ...     print(f"{text}: {kind}")
        /study/ann-7/t1.nii.gz: path of a volume
        sub-ann-7: name of a subject
        t1.nii.gz: file name of a volume
        /home/jo: home folder of the user
        ann-7: name of a subject
        /study/ann-7: folder of volumes
        /study: folder of volumes
    """
    found: dict[str, str] = {}
    owners: dict[str, set[str]] = defaultdict(set)
    for record in records:
        subject = str(record.get("subject"))
        stem = subject.removeprefix("sub-")
        for name in (subject, stem):
            if not is_common(name):
                found.setdefault(name, "name of a subject")
        found.setdefault(f"sub-{stem}", "name of a subject")
        for path in _paths_of(record):
            found.setdefault(str(path), "path of a volume")
            found.setdefault(path.name, "file name of a volume")
            for folder in path.parents:
                if folder != folder.parent:
                    found.setdefault(str(folder), FOLDER)
                    owners[folder.name].add(subject)
            owners[path.name.split(".")[0]].add(subject)
    if len({subject for subjects in owners.values() for subject in subjects}) > 1:
        for name, subjects in owners.items():
            if len(subjects) == 1 and not is_common(name):
                found.setdefault(name, "name of a subject's file or folder")
    home = str(Path.home()) if home is None else home
    if len(home) > 1:
        found.setdefault(home, "home folder of the user")
    if user is None:
        with contextlib.suppress(OSError, KeyError):  # a container may know no name for its user
            user = getpass.getuser()
    if user is not None and not is_common(user):
        found.setdefault(user, "name of the user")
    texts = [text for text in found if text not in (".", "sub-")]
    # the most telling first: a message names the first few that were found
    return {text: found[text] for text in sorted(texts, key=lambda text: (found[text] == FOLDER, -len(text)))}


def is_common(name: str) -> bool:
    """Return whether a name is so short that it occurs by chance.

    Example:
        >>> is_common("7"), is_common("0042"), is_common("al"), is_common("10042"), is_common("ann")
        (True, True, True, False, False)
    """
    return len(name) < (SHORTEST_NUMBER if name.isdigit() else SHORTEST)


def _paths_of(record: Record) -> Iterator[PurePath]:
    for name, value in record.items():
        if name == "image" or (isinstance(value, str) and os.path.isabs(value)):
            yield PurePath(str(value))


def find_personal_data(
    path: str | os.PathLike[str],
    known: Mapping[str, str],
    known_file: str | os.PathLike[str] | None = None,
) -> list[str]:
    r"""Return what a file holds of a cohort's personal data.

    Args:
        path: a text, a JSON file, or a file of torch, in which the names of its parts, the texts beside the tensors and
            whatever is readable between their numbers are searched.
        known: output of :func:`personal_data_of`.
        known_file: a file that is known to be harmless; what ``path`` holds as often as it isn't a finding.

    Returns:
        findings such as "name of a subject 'sub-01'", in the order of ``known``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "card.md"
        ...     _ = file.write_text("Thanks to ANN\\-7, whose mean is 7.5")
        ...     find_personal_data(file, personal_data_of([{"image": "t1.nii.gz", "subject": "ann-7"}]))
        ["name of a subject 'ann-7'"]
    """
    text, harmless = _searchable(path), None
    found = []
    for name, kind in known.items():
        # a card shows hidden characters, and cuts long names
        cut = [f"{name[: MARKDOWN_WIDTH - 1]}…"] * (len(name) > MARKDOWN_WIDTH)
        for form in dict.fromkeys(_folded(form) for form in (name, make_visible(name), *cut)):
            if form not in text:
                continue
            if known_file is not None and harmless is None:
                harmless = _searchable(known_file)
            pattern = _pattern(form)
            if len(pattern.findall(text)) > len(pattern.findall(harmless or "")):
                found.append(f"{kind} {name!r}")
                break
    return found


def _pattern(form: str) -> re.Pattern[str]:
    """Return the pattern of a name as a whole word; digits after a decimal point are no name."""
    number = form.isdigit()
    before = (r"(?<![^\W_])" if form[0].isalnum() else "") + r"(?<!\d\.)" * number
    after = r"(?![^\W_])" if form[-1].isalnum() else ""
    return re.compile(before + re.escape(form) + after)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _searchable(path: str | os.PathLike[str]) -> str:
    """Return all texts of a file, folded, in each of the forms that they may have in it."""
    path = Path(path)
    if path.suffix == ".pt":
        return _folded("\n".join(_texts_of_weights(path)))
    text = path.read_text(encoding="utf-8", errors="replace")
    forms = [text]
    if path.suffix == ".json":
        with contextlib.suppress(ValueError, RecursionError):
            forms.append("\n".join(_texts_of_json(json.loads(text))))
    else:
        plain = html.unescape(without_markup(text))
        forms += [plain] * (plain != text)
    return _folded("\n".join(forms))


def _texts_of_json(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield key
            yield from _texts_of_json(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _texts_of_json(entry)
    elif isinstance(value, str):
        yield value


def _texts_of_weights(path: Path) -> Iterator[str]:
    """Yield the texts of a torch file: names of records, what is pickled, and readable bytes anywhere."""
    content = path.read_bytes()
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path.name} must be a torch file as training writes it, got another format; nothing was pushed."
        )
    for run in PRINTABLE.findall(content):
        yield run.decode("ascii")
    with zipfile.ZipFile(path) as archive:
        yield archive.comment.decode("utf-8", errors="replace")
        for record in archive.infolist():
            yield record.filename
            yield record.comment.decode("utf-8", errors="replace")
            if STORAGE.search(record.filename):
                continue
            stored = archive.read(record)
            yield stored.decode("utf-8", errors="replace")
            if record.filename.endswith(".pkl"):
                yield from _texts_of_pickle(stored)


def _texts_of_pickle(stored: bytes) -> Iterator[str]:
    """Yield the texts in a pickle, which is taken apart and not loaded."""
    with contextlib.suppress(ValueError):  # a pickle that ends early: what there was has been yielded
        for _, argument, _ in pickletools.genops(stored):
            if isinstance(argument, bytes | bytearray):
                yield bytes(argument).decode("utf-8", errors="replace")
            elif isinstance(argument, str):
                yield argument


def check_no_personal_data(
    files: Mapping[str, Path], known: Mapping[str, str], known_files: Mapping[str, Path], allow: Sequence[str] = ()
) -> None:
    """Refuse files that hold personal data.

    Args:
        files: the files by their names in messages.
        known: output of :func:`personal_data_of`.
        known_files: harmless files of the same names; see :func:`find_personal_data`.
        allow: texts that may occur, since they are no personal data although a subject or folder is called so.

    Raises:
        ValueError: naming the file and what was found.
    """
    allowed = {_folded(text) for text in allow}
    searched = {text: kind for text, kind in known.items() if _folded(text) not in allowed}
    for name, path in files.items():
        found = find_personal_data(path, searched, known_files.get(name))
        if found:
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            raise ValueError(
                f"{name} must hold no personal data, got the {', the '.join(found[:5])}{more}; nothing was pushed. If "
                "that is no one's name and no folder of yours, give the text in `allow`."
            )
