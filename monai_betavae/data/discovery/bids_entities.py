"""Entities of BIDS names, such as ``space-MNI152``, that select among several volumes of one session."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..identity.bids_names import Record, stem_of
from ..identity.subject_patterns import listed

ABSENT = "none"
"""Value that requires an entity to be absent from a name: ``--entities space=none``."""

GEOMETRY = ("space", "res", "den")
"""Entities whose values determine the grid: a cohort must not mix different values."""

_NAMED_OTHERWISE = ("sub", "ses", "run")
_MAX_OPTIONS = 6


def entities_of(image: str) -> dict[str, str]:
    """Return the entities of a file's name.

    Example:
        >>> entities_of("/data/sub-01_space-MNI152_res-2_T1w.nii.gz")
        {'sub': '01', 'space': 'MNI152', 'res': '2'}
    """
    return dict(re.findall(r"(?:^|_)([A-Za-z]+)-([^_]+)", stem_of(os.path.basename(image))))


def check_entities(entities: Any) -> dict[str, str]:
    """Return the selected entities as a dictionary, or raise ``ValueError``.

    Args:
        entities: ``{"space": "MNI152", "desc": None}``, the text ``"space=MNI152,desc=none"``, or ``None``.

    Example:
        >>> check_entities("space=MNI152, desc=none")
        {'space': 'MNI152', 'desc': 'none'}
    """
    if entities is None:
        return {}
    if isinstance(entities, str):
        pairs = [part.split("=", 1) for part in entities.split(",") if part.strip()]
    elif isinstance(entities, Mapping):
        pairs = [[key, ABSENT if value is None else str(value)] for key, value in entities.items()]
    else:
        pairs = [[""]]
    cleaned = [[part.strip() for part in pair] for pair in pairs]
    good = all(len(pair) == 2 and re.fullmatch(r"[A-Za-z]+", pair[0]) and pair[1] for pair in cleaned)
    if not good or not cleaned:
        raise ValueError(
            "`entities` must be pairs such as space=MNI152NLin2009cAsym,desc=none (none: names without it), "
            f"got {entities!r}."
        )
    # the value may repeat the entity's name: space=space-MNI152 means space=MNI152
    return {key: value.removeprefix(f"{key}-") for key, value in cleaned}


def choose_by_entities(images: Sequence[str], entities: Mapping[str, str], problems: list[str]) -> list[str]:
    """Return the files whose names have the selected entities; it is a problem if there are none.

    Args:
        images: paths.
        entities: entities from :func:`check_entities`.
        problems: list to which the problem is appended.
    """
    kept = [
        image
        for image in images
        if all(entities_of(image).get(key, ABSENT) == value for key, value in entities.items())
    ]
    if images and not kept:
        asked = ",".join(f"{key}={value}" for key, value in entities.items())
        there = "; ".join(f"{key}: {_values(images, key)}" for key in entities)
        problems.append(f"no volume has the entities {asked}; there is {there}")
    return kept


def refuse_several(records: Iterable[Record], problems: list[str]) -> None:
    """Append a problem if a subject has several volumes of one session and run, or if different grids are mixed.

    Args:
        records: records with "image", "subject", and "session" and "run" if known.
        problems: list to which the problem is appended.
    """
    records = list(records)
    groups: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for record in records:
        groups[record["subject"], record.get("session"), record.get("run")].append(record["image"])
    several = [images for images in groups.values() if len(images) > 1]
    images = [record["image"] for record in records]
    if several:
        shown = " and ".join(_shown(several[0][:3]))
        problems.append(
            f"{len(several)} of {len(groups)} visits have several volumes, such as {shown}; {_settles(several, images)}"
        )
        return
    for key in GEOMETRY:
        if len({entities_of(image).get(key) for image in images}) > 1:
            problems.append(
                f"the volumes are mixed, {key}: {_values(images, key)}; choose one with {_options(images, [key])}"
            )


def _settles(several: Sequence[Sequence[str]], images: Sequence[str]) -> str:
    differing = Counter(key for group in several for key in _differing(group))
    if differing:
        return f"they differ in {', '.join(differing)}: choose with {_options(images, list(differing))}"
    if any(len({stem_of(image) for image in group}) < len(group) for group in several):
        return "the same name twice, .nii beside .nii.gz: remove one of each"
    return (
        "if these are kinds, take one with a pattern as --dataset_dir, such as '<folder>/**/*_T1w.nii.gz'; if they are "
        'sessions, name them with --subject_from, such as "{subject}/{session}/*"; or give a table with image, subject '
        "and session"
    )


def _shown(images: Sequence[str]) -> list[str]:
    """Return the names of files, with their folders if names occur twice."""
    names = [os.path.basename(image) for image in images]
    if len(set(names)) == len(names):
        return names
    above = os.path.commonpath([os.path.dirname(image) for image in images])
    return [os.path.relpath(image, above) for image in images]


def _differing(images: Sequence[str]) -> list[str]:
    found = [entities_of(image) for image in images]
    keys = dict.fromkeys(key for each in found for key in each if key not in _NAMED_OTHERWISE)
    return [key for key in keys if len({each.get(key) for each in found}) > 1]


def _options(images: Sequence[str], keys: Sequence[str]) -> str:
    lines = []
    for key in keys:
        counts = Counter(entities_of(image).get(key, ABSENT) for image in images)
        lines += [f"--entities {key}={value} ({count})" for value, count in counts.most_common(4)]
    return listed(lines, _MAX_OPTIONS)


def _values(images: Sequence[str], key: str) -> str:
    counts = Counter(entities_of(image).get(key, ABSENT) for image in images)
    return listed([f"{value} ({count})" for value, count in counts.most_common()], 4)
