"""Options that would settle the subjects; each is tried on the paths and shown with the subjects that it gives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .path_fields import Field, partition
from .path_words import MAPS, SEGMENTATIONS, chunks_of
from .subject_patterns import SubjectPattern, listed

_MAX_READINGS = 5
_MAX_LITERAL_LENGTH = 40


def subject_readings(paths: Sequence[str], levels: Sequence[Sequence[str]], fields: Sequence[Field]) -> list[str]:
    """Return options whose patterns take different parts of the paths as the subject."""
    open_ones = [field for field in fields if field.role in ("unknown", "subject", "group")]
    depth = len(levels[0])
    patterns = [(_pattern(levels, field, fields), field.groups) for field in open_ones]
    # names that restart in every folder: the subject is two parts, such as a date folder and the number below it
    by_level = dict.fromkeys([field.level for field in [*open_ones, *fields] if field.role != "kind"])
    both: list[tuple[str, None]] = []
    if len(by_level) > 1:
        parts = ["*"] * depth
        for name, level in zip(("{subject1}", "{subject2}"), sorted([*by_level][:2]), strict=True):
            parts[level] = name
        both.append(("/".join(parts), None))
    whole = [("/".join("{subject}" if i == own else "*" for i in range(depth)), None) for own in range(depth)]
    return _tried(paths, [*patterns, *both, *whole])


def depth_readings(paths: Sequence[str]) -> list[str]:
    """Return options whose patterns take one of the first or last folders, or the file, as the subject."""
    patterns = ("{subject}/**", "*/{subject}/**", "**/{subject}/*", "**/{subject}")
    return _tried(paths, [(pattern, None) for pattern in patterns])


def kind_readings(paths: Sequence[str], kinds: Iterable[str]) -> list[str]:
    """Return options whose patterns select one kind of image each, or one kind of map if there are no images.

    Args:
        paths: paths of all files.
        kinds: words that occur in some of the paths, spelled as there.
    """
    images: list[str] = []
    maps: list[str] = []
    segmentations: list[str] = []
    for kind in dict.fromkeys(kinds):
        word = kind.casefold()
        to = segmentations if word in SEGMENTATIONS else maps if word in MAPS else images
        to += _of_kind(paths, kind)
    return (images or maps or segmentations)[:_MAX_READINGS]


def channel_readings(paths: Sequence[str], channels: Iterable[str]) -> list[str]:
    """Return options whose patterns select one nnU-Net channel each."""
    lines: list[str] = []
    for channel in channels:
        lines += _tried_some(paths, ["**/{subject}_" + channel])[:1]
    return lines[:_MAX_READINGS]


def prefix_readings(paths: Sequence[str], level: int, prefixes: Iterable[str]) -> list[str]:
    """Return options whose patterns select the images with one SPM or CAT12 prefix each."""
    before = "*/" * level
    lines: list[str] = []
    for prefix in prefixes:
        lines += _tried_some(paths, [f"{before}{prefix}{{subject}}" + "/**" * (paths[0].count("/") > level)])
    return lines[:_MAX_READINGS]


def _of_kind(paths: Sequence[str], kind: str) -> list[str]:
    """Return the option whose pattern selects only the files with a word at the end or beginning of a name."""
    levels = [path.split("/") for path in paths]
    for place in (-1, 0):
        for at in range(max(map(len, levels))):
            own = [parts for parts in levels if at < len(parts) and chunks_of(parts[at])[place:][:1] == [kind]]
            if not 1 < len(own) < len(paths) or len({len(parts) for parts in own}) > 1:
                continue
            rests = {_rest(parts[at], kind, place) for parts in own}
            if len(rests) > 1:
                continue
            wanted = {"/".join(parts) for parts in own}
            for text in _kind_patterns(len(own[0]), at, kind, place, rests.pop()):
                found = {path: SubjectPattern(text).match(path) for path in paths}
                subjects = [each["subject"] for each in found.values() if each is not None]
                if {path for path, each in found.items() if each is not None} == wanted and len(set(subjects)) > 1:
                    return [_line(text, subjects)]
    return []


def _rest(name: str, kind: str, place: int) -> str | None:
    """Return the separator between the word of a kind and the rest of a name, ``None`` if there is no rest."""
    if name == kind:
        return None
    return _separators(name)[-2 if place == -1 else 1]


def _kind_patterns(depth: int, at: int, kind: str, place: int, joint: str | None) -> list[str]:
    """Return patterns with a kind in the name at one level, and the subject at any level."""
    if joint is None:
        return [
            "/".join({at: kind, own: "{subject}"}.get(i, "*") for i in range(depth))
            for own in range(depth)
            if own != at
        ]
    with_kind = ("{}" + joint + kind) if place == -1 else (kind + joint + "{}")
    folders = [
        "/".join({at: with_kind.format("*"), own: "{subject}"}.get(i, "*") for i in range(depth))
        for own in range(depth)
        if own != at
    ]
    name = "/".join(with_kind.format("{subject}") if i == at else "*" for i in range(depth))
    return [*folders, name]


def _pattern(levels: Sequence[Sequence[str]], field: Field, fields: Sequence[Field]) -> str:
    """Return the pattern in which a field is the subject."""
    sessions = [each for each in fields if each.role == "session"]
    named = sessions[0] if len(sessions) == 1 else None
    alone = all(each.groups == field.groups for each in fields if each.level == field.level)
    return "/".join(
        "{subject}" if level == field.level and alone else _level_pattern(levels, level, field, named)
        for level in range(len(levels[0]))
    )


def _level_pattern(levels: Sequence[Sequence[str]], level: int, field: Field, session: Field | None) -> str:
    """Return the part of a pattern for one folder or the file's name, where ``field`` is the subject."""
    names = [parts[level] for parts in levels]
    if len(set(names)) == 1:
        return names[0] if _is_literal(names[0]) else "*"
    own = field.level == level
    if own and field.chunk is None:
        return "{subject}"
    if session is not None and (session.level, session.chunk) == (level, None):
        return "{session}"
    if len({_separators(name) for name in names}) > 1:
        return "{subject}" if own else "*"
    chunks = [chunks_of(name) for name in names]
    separators = _separators(names[0])
    text = separators[0]
    for number in range(len(chunks[0])):
        column = {each[number] for each in chunks}
        if own and number == field.chunk:
            text += "{subject}"
        elif session is not None and (session.level, session.chunk) == (level, number):
            text += "{session}"
        else:
            text += next(iter(column)) if len(column) == 1 else "*"
        text += separators[number + 1]
    return text if _is_literal(re.sub(r"\{\w+\}|\*", "", text)) and (own or "{session}" in text) else "*"


def _separators(name: str) -> tuple[str, ...]:
    """Return the texts before, between and after the chunks of a name."""
    parts, end = [], 0
    for chunk in chunks_of(name):
        start = name.index(chunk, end)
        parts.append(name[end:start])
        end = start + len(chunk)
    return (*parts, name[end:])


def _is_literal(text: str) -> bool:
    return len(text) <= _MAX_LITERAL_LENGTH and not re.search(r"[{}*?\"$`\\!]", text)


def _tried(paths: Sequence[str], patterns: Iterable[tuple[str, tuple[int, ...] | None]]) -> list[str]:
    """Return options with the patterns that give the wanted partition of the paths, one option per partition."""
    lines: dict[tuple[int, ...], str] = {}
    for text, wanted in patterns:
        found = [SubjectPattern(text).match(path) for path in paths]
        subjects = [each["subject"] for each in found if each is not None]
        groups = partition(subjects)
        if len(subjects) == len(paths) and len(set(subjects)) > 1 and wanted in (None, groups):
            lines.setdefault(groups, _line(text, subjects))
    return list(lines.values())[:_MAX_READINGS]


def _tried_some(paths: Sequence[str], patterns: Iterable[str]) -> list[str]:
    """Return options with the patterns that find several subjects among some of the paths."""
    lines = []
    for text in patterns:
        found = [SubjectPattern(text).match(path) for path in paths]
        subjects = [each["subject"] for each in found if each is not None]
        if len(set(subjects)) > 1:
            lines.append(_line(text, subjects))
    return lines


def _line(pattern: str, subjects: Sequence[str]) -> str:
    names = list(dict.fromkeys(subjects))
    return f'--subject_from "{pattern}"  {len(names)} subjects: {listed(names)}'
