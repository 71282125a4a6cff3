"""Session names in the paths of known subjects, such as ``visit2``, ``2019-01-31`` or ``baseline``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .path_words import SESSION_WORDS, SESSIONS, atoms_of, chunks_of, is_date


def sessions_of(paths: Sequence[str], subjects: Sequence[str]) -> list[str]:
    """Return the name of the session in each path, without the words that all paths contain.

    If one volume of a subject has no session name, none of the subject's volumes gets one, since the name may denote
    another kind of image.

    Args:
        paths: paths of the volumes.
        subjects: subject of each volume.

    Example:
        >>> sessions_of(["anna/visit1/T1", "anna/visit2/T1", "ben/T1", "ida/visit1/T1", "ida/visit1bet/T1"],
        ...             ["anna", "anna", "ben", "ida", "ida"])
        ['visit1', 'visit2', '', '', '']
    """
    found = [session_words(path) for path in paths]
    common = set.intersection(*map(set, found))
    texts = ["_".join(word for word in words if word not in common) for words in found]
    lacking = {subject for subject, text in zip(subjects, texts, strict=True) if not text}
    return [text if subject not in lacking else "" for subject, text in zip(subjects, texts, strict=True)]


def session_words(path: str) -> list[str]:
    """Return the words of a path that name a session.

    Example:
        >>> session_words("anna/2019-01-31/baseline_visit-2_sess-d0129_m06")
        ['2019-01-31', 'baseline', 'visit2', 'sessd0129', 'm06']
    """
    words: dict[str, None] = {}
    for part in path.split("/"):
        chunks = chunks_of(part)
        for chunk, after in zip(chunks, [*chunks[1:], ""], strict=True):
            word = chunk.casefold()
            atoms = atoms_of(word)
            counted = len(atoms) == 2 and atoms[0] in SESSION_WORDS and re.fullmatch(r"\d{1,4}", atoms[1])
            if is_date(chunk) or word in SESSIONS or re.fullmatch(r"m\d{1,3}", word) or counted:
                words[chunk] = None
            elif word in SESSION_WORDS and re.fullmatch(r"[A-Za-z]?\d{1,4}|[A-Za-z]", after):
                words[f"{chunk}{after}"] = None
    return list(words)


def is_session_folder(folder: str) -> bool:
    """Return whether a folder's name is that of a session.

    Example:
        >>> [is_session_folder(name) for name in ("ses-pre", "visit_2", "20190131", "siteA")]
        [True, True, True, False]
    """
    name = folder.casefold()
    return (
        name.startswith("ses-")
        or name in SESSIONS
        or is_date(name)
        or name.rstrip("0123456789").rstrip("-_ ") in SESSION_WORDS
    )
