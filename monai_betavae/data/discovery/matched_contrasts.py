"""Which images of several contrasts, such as T1w and T2w, belong together in a BIDS folder."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..identity.bids_names import stem_of
from .bids_entities import entities_of

FREE = ("acq", "run")
"""Entities that number or name acquisitions: they may differ between contrasts, where that leaves one image of each."""


class Matched(NamedTuple):
    """Images that belong together.

    Attributes:
        complete: the further images by contrast of each image of the first contrast, by its path.
        lacking: what each incomplete volume lacks, a text each.
        ambiguous: problems with images that could belong to several volumes.
    """

    complete: dict[str, dict[str, str]]
    lacking: list[str]
    ambiguous: list[str]


def match_contrasts(of_contrast: Mapping[str, Sequence[str]], suffixes: Sequence[str]) -> Matched:
    """Match images by folder and entities.

    An image belongs to the one of the first contrast in the same folder whose name has the same entities. Images that
    are left are matched without ``acq`` and ``run``, if there is one image of either contrast.

    Args:
        of_contrast: paths by contrast, in the order of channels.
        suffixes: the end of the names of each contrast.

    Example:
        >>> found = match_contrasts(
        ...     {"T1w": ["/d/sub-1_acq-a_T1w.nii", "/e/sub-2_T1w.nii"], "T2w": ["/d/sub-1_acq-b_T2w.nii"]},
        ...     ["T1w", "T2w"],
        ... )
        >>> found.complete, found.lacking
        ({'/d/sub-1_acq-a_T1w.nii': {'T2w': '/d/sub-1_acq-b_T2w.nii'}}, ['sub-2_T1w.nii has no T2w'])
    """
    names = list(of_contrast)
    first = of_contrast[names[0]]
    found: dict[str, dict[str, str]] = {image: {} for image in first}
    ambiguous: list[str] = []
    unclear: set[str] = set()
    visits = {_place(image, suffixes[0], FREE) for image in first}
    without_first: dict[str, None] = {}
    for name, suffix in zip(names[1:], suffixes[1:], strict=True):
        rest = {suffixes[0]: list(first), suffix: list(of_contrast[name])}
        for free in ((), FREE):
            groups: dict[tuple[str, ...], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
            for side, (ending, images) in enumerate(rest.items()):
                for image in images:
                    groups[_place(image, ending, free)][side].append(image)
            for ours, theirs in groups.values():
                if len(ours) == 1 and len(theirs) == 1:
                    found[ours[0]][name] = theirs[0]
                    rest[suffixes[0]].remove(ours[0])
                    rest[suffix].remove(theirs[0])
                elif ours and theirs and free:
                    shown = ", ".join(os.path.basename(image) for image in (*ours, *theirs))
                    ambiguous.append(
                        f"it isn't clear which {name} belongs to which {names[0]}: {shown}; choose with --entities, or "
                        "give a table with a column for each"
                    )
                    unclear.update(ours)
        # a further image of a visit that has its own, such as a second run, isn't needed
        without_first |= {image: None for image in rest[suffix] if _place(image, suffix, FREE) not in visits}
    complete = {image: others for image, others in found.items() if len(others) == len(names) - 1}
    lacking = [
        f"{os.path.basename(image)} has no {' and no '.join(name for name in names[1:] if name not in others)}"
        for image, others in found.items()
        if image not in complete and image not in unclear
    ]
    lacking += [f"{os.path.basename(image)} has no {names[0]}" for image in without_first]
    return Matched(complete, lacking, ambiguous)


def _place(image: str, suffix: str, free: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the folder of an image and the entities of its name apart from the suffix and the free ones."""
    stem = stem_of(os.path.basename(image)).removesuffix(f"_{suffix}")
    kept = {key: value for key, value in entities_of(stem).items() if key not in free}
    return (os.path.dirname(image), *(f"{key}-{value}" for key, value in sorted(kept.items())))
