"""Patterns such as ``{subject}/{session}/*`` that say which part of a path is the subject."""

from __future__ import annotations

import re
from collections.abc import Sequence

NAME = re.compile(r"\{([^{}/]*)\}")
SUBJECT = re.compile(r"subject[0-9]?")
_TOKENS = re.compile(r"\{([^{}/]*)\}|\*\*/|\*\*|\*|\?")

EXAMPLES = '"{subject}/*", "{group}/{subject}/*", "{subject}_{session}_T1w.nii.gz"'


class SubjectPattern:
    """A pattern of paths; ``{subject}``, ``{session}`` and other names match parts of a folder's or the file's name.

    ``{name}`` matches as few characters as possible, at least one and no ``/``. A name that occurs twice must match the
    same text. If numbers restart in every group, ``{subject1}/{subject2}/*`` joins both into one subject, ``AD_01``.
    ``*`` matches any characters except ``/``, ``?`` matches one, and ``**/`` matches any number of folders, including
    none. The pattern must match the entire path below the given folder; the file extension (``.nii.gz``) is optional.

    Args:
        text: the pattern; it must contain ``{subject}``.

    Raises:
        ValueError: if ``subject_from`` isn't such a pattern.

    Example:
        >>> pattern = SubjectPattern("{group}/{subject}_visit{session}*")
        >>> pattern.match("AD/P01_visit2_T1w", "AD/P01_visit2_T1w.nii.gz")
        {'subject': 'P01', 'group': 'AD', 'session': '2'}
        >>> pattern.match("P01/T1w", "P01/T1w.nii.gz") is None
        True
    """

    def __init__(self, text: str) -> None:
        names = NAME.findall(text)
        bad = [name for name in names if not name.isidentifier() or name in ("image", "split")]
        whole = [name for name in names if SUBJECT.fullmatch(name)]
        if bad or not whole or re.search(r"[{}]", NAME.sub("", text)):
            got = f"the name {bad[0]!r} in {text!r}" if bad else repr(text)
            raise ValueError(
                f"`subject_from` must be a pattern with {{subject}} such as {EXAMPLES}, or, for a table or datalist, "
                f"the name of a column, got {got}."
            )
        self.text = text
        self._parts = sorted(set(whole))
        self._regex = re.compile(_regex_of(text.removeprefix("./").lstrip("/")), re.DOTALL)

    def match(self, *paths: str) -> dict[str, str] | None:
        """Return the text of each name in the first of several forms of a path that matches, or ``None``."""
        for path in paths:
            found = self._regex.fullmatch(path)
            if found is not None:
                texts = found.groupdict()
                subject = "_".join(texts.pop(part) for part in self._parts)
                return {"subject": subject, **texts}
        return None


def _regex_of(text: str) -> str:
    parts: list[str] = []
    seen: set[str] = set()
    end = 0
    for token in _TOKENS.finditer(text):
        parts.append(re.escape(text[end : token.start()]))
        end = token.end()
        name = token[1]
        if name is not None:
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)")
            seen.add(name)
        else:
            parts.append({"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}[token[0]])
    parts.append(re.escape(text[end:]))
    return "".join(parts)


def is_pattern(text: str) -> bool:
    """Return whether a text is a pattern rather than the name of a column."""
    return any(sign in text for sign in "{}*/")


def listed(values: Sequence[str], at_most: int = 3) -> str:
    """Return the first few values as text, with the number of further ones."""
    shown = ", ".join(values[:at_most])
    return shown if len(values) <= at_most else f"{shown} and {len(values) - at_most} more"
