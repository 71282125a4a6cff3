"""Fields, which are the parts of paths that differ between files, and the identity that is read from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple


class Identity(NamedTuple):
    """The subject of a volume and the other entries of its record that the path gives."""

    subject: str
    entries: dict[str, str]  # session, run, group, split


class UnknownIdentityError(Exception):
    """The paths don't determine the subjects of the volumes.

    Args:
        reason: the end of a sentence about the volumes.
        readings: lines with options that would settle it.
    """

    def __init__(self, reason: str, readings: Iterable[str] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.readings = list(readings)


@dataclass(frozen=True)
class Field:
    """A part of the paths that differs between files: its level (folder or file), chunk and atom, and its texts."""

    level: int
    chunk: int | None  # None for the whole name
    atom: int | None  # None for the whole chunk
    texts: tuple[str, ...]
    word: str  # the word that precedes it in all paths
    role: str

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """The partition of the files by this part: files with the same text have the same number."""
        return partition([normal_text(text) for text in self.texts])


def partition(texts: Sequence[Any]) -> tuple[int, ...]:
    """Return a number for each text, the same for equal texts.

    Example:
        >>> partition(["b", "a", "b"])
        (0, 1, 0)
    """
    numbers: dict[Any, int] = {}
    return tuple(numbers.setdefault(text, len(numbers)) for text in texts)


def normal_text(text: str) -> str:
    """Return a text in lower case, or a number without leading zeros.

    Example:
        >>> normal_text("Anna"), normal_text("007")
        ('anna', '7')
    """
    return (text.lstrip("0") or "0") if text.isdigit() and text.isascii() else text.casefold()
