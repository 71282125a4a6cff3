"""Findings: problems of a cohort to fix before training, each with the option that fixes it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..identity.subject_patterns import listed
from .orientation import GUESSED, MIRRORED, TURNED

if TYPE_CHECKING:
    import pandas as pd

CUT_AWAY_NOTED = 0.02
"""Share of a head outside the grid above which there is a warning."""

MAX_CUT_AWAY, MIN_FILLED = 0.2, 0.02
"""Training stops above the first share of a head outside the grid, or below the second share of the grid filled."""

PADDED_NOTED = 0.05
"""Share of padding, around a volume without a background, above which the codes reflect the volume's edge."""

SIDES_OF_GRID = 8
"""The sides of a suggested grid are multiples of this number."""


class Finding(NamedTuple):
    """A problem to fix before training.

    Attributes:
        stops: whether it stops training.
        message: the problem, with counts and the first few files.
        option: the option to set, or another remedy.
        rows: positions of the volumes to leave out, if that would solve the problem.
    """

    stops: bool
    message: str
    option: str
    rows: tuple[int, ...] = ()


def duplicate_findings(
    groups: Iterable[Sequence[int]], subjects: Sequence[Any], images: Sequence[str]
) -> list[Finding]:
    """Return the findings about files with identical content.

    Args:
        groups: positions of identical files, from :func:`~.duplicates.same_content`.
        subjects: subject of each volume.
        images: path of each volume.

    Example:
        >>> (finding,) = duplicate_findings([[0, 2]], ["anna", "ben", "clara"], ["a.nii", "b.nii", "c.nii"])
        >>> finding.stops, finding.message
        (True, '1 scan is in the cohort as several subjects: c.nii of clara is a.nii of anna')
    """
    found = []
    for stops in (True, False):
        pairs, rows = [], []
        for group in groups:
            first = group[0]
            for other in group[1:]:
                if (subjects[other] != subjects[first]) == stops:
                    pairs.append(f"{images[other]} of {subjects[other]} is {images[first]} of {subjects[first]}")
                    rows.append(other)
        if pairs:
            what = "as several subjects" if stops else "several times, as the same subject"
            found.append(
                Finding(
                    stops,
                    f"{_count(len(pairs), 'scan')} {_is(len(pairs))} in the cohort {what}: {listed(pairs)}",
                    "remove the copies, or --on_bad_volume skip, which keeps the first of each",
                    tuple(rows),
                )
            )
    return found


def orientation_findings(table: pd.DataFrame) -> list[Finding]:
    """Return the findings about headers that leave left and right ambiguous.

    Args:
        table: table with the columns image, handedness (:func:`~.orientation.orientation_source`) and problem.
    """
    usable = table[table["problem"] == ""]
    found = []
    mirrored = usable.index[usable["handedness"] == MIRRORED]
    if len(mirrored):
        found.append(
            Finding(
                True,
                f"{_count(len(mirrored), 'file')} {_has(len(mirrored))} an sform and a qform that are mirror images of "
                f"each other: {_files(usable, mirrored)}",
                "correct the header (fslorient -copysform2qform, or -copyqform2sform), or --on_bad_volume skip",
                tuple(mirrored),
            )
        )
    guessed = usable.index[usable["handedness"] == GUESSED]
    if 0 < len(guessed) < len(usable):
        found.append(
            Finding(
                True,
                f"{len(guessed)} of {len(usable)} files don't say their orientation (sform and qform codes are 0); "
                f"they may be mirrored relative to the others: {_files(usable, guessed)}",
                "set it in the header (fslorient -setsformcode 1 once the sform is right), or --on_bad_volume skip",
                tuple(guessed),
            )
        )
    elif len(guessed):
        found.append(
            Finding(
                False,
                "no file says its orientation (sform and qform codes are 0): x is taken to run to the left, as in "
                f"ANALYZE, in all {len(guessed)}",
                "compare the picture with what you know of left and right",
            )
        )
    turned = usable.index[usable["handedness"] == TURNED]
    if len(turned):
        found.append(
            Finding(
                False,
                f"{_count(len(turned), 'file')} {_has(len(turned))} an sform and a qform along different axes "
                f"(the sform counts): {_files(usable, turned)}",
                "look at these in the picture",
            )
        )
    return found


def grid_findings(
    table: pd.DataFrame, max_cut_away: float = MAX_CUT_AWAY, min_filled: float = MIN_FILLED
) -> list[Finding]:
    """Return the findings about truncated heads, nearly empty grids and edges of padding.

    Args:
        table: table with the columns image, problem, cut_away, filled, padded, background and background_level (the
            scaled intensity of the background), plus extent and spacing for a suggested grid.
        max_cut_away: share of a volume's foreground outside the grid above which training stops.
        min_filled: share of foreground in the grid below which training stops.
    """
    usable = table[(table["problem"] == "") & table["cut_away"].notna()]
    if usable.empty:
        return []
    found = []
    cut = usable["cut_away"].astype(float)
    far = usable.index[cut > max_cut_away]
    some = usable.index[(cut > CUT_AWAY_NOTED) & (cut <= max_cut_away)]
    for stops, rows in ((True, far), (False, some)):
        if len(rows):
            worst = cut[rows].sort_values(ascending=False)
            shares = [f"{usable.at[row, 'image']!s} {share:.0%}" for row, share in worst.items()]
            found.append(
                Finding(
                    stops,
                    f"the grid cuts away over {max_cut_away if stops else CUT_AWAY_NOTED:.0%} of {len(rows)} of "
                    f"{len(usable)} heads (necks count): {listed(shares)}",
                    _larger_grid(usable) + (f"; or accept it with --max_cut_away {_ceiling(worst.iloc[0])}" * stops),
                    tuple(rows) if stops else (),
                )
            )
    filled = usable["filled"].astype(float)
    median = float(filled.median())
    empty = usable.index[filled < min_filled]
    if len(empty):
        worst = filled[empty].sort_values()
        stops = median < min_filled
        found.append(
            Finding(
                stops,
                f"{len(empty)} of {len(usable)} volumes fill less than {min_filled:.1%} of the grid, the emptiest is "
                f"{usable.at[worst.index[0], 'image']!s} with {worst.iloc[0]:.2%}",
                _finer_grid(usable) + (f"; or accept it with --min_filled {_floor(worst.iloc[0])}" * stops),
                tuple(empty) if not stops else (),
            )
        )
    elif median < 3 * min_filled:
        found.append(Finding(False, f"the volumes fill {median:.1%} of the grid only (median)", _finer_grid(usable)))
    found += _background_findings(usable)
    return found


def _background_findings(usable: pd.DataFrame) -> list[Finding]:
    found = []
    without = usable["background"].isna()
    padded = usable["padded"].astype(float)
    edged = usable.index[without & (padded > PADDED_NOTED)]
    if len(edged) and (padded[edged].max() - padded[edged].min() > 0.01):
        found.append(
            Finding(
                False,
                f"{len(edged)} of {len(usable)} volumes have no background and are padded by "
                f"{padded[edged].min():.0%} to {padded[edged].max():.0%} of the grid: the codes will tell where each "
                "ends",
                "--padding edge hides most of it; or a grid that all volumes fill",
            )
        )
    level = usable["background_level"].astype(float)
    grey = usable.index[level > 0.02]
    if len(grey):
        found.append(
            Finding(
                False,
                f"{len(grey)} of {len(usable)} volumes have a background within the range of the head's intensities "
                f"(z-scored without it?): it becomes grey, {level[grey].median():.2f} of 1: {_files(usable, grey)}",
                "give the volumes as they were before, or masks (--train#preprocessing#transforms#0#mask_key <column>)",
            )
        )
    shares = Counter("none" if missing else "constant" for missing in without)
    if len(shares) > 1 and min(shares.values()) <= 0.2 * len(usable):
        rare = min(shares, key=lambda kind: shares[kind])
        rows = usable.index[without] if rare == "none" else usable.index[~without]
        what = "no constant background" if rare == "none" else "a constant background"
        found.append(
            Finding(
                False,
                f"{len(rows)} of {len(usable)} volumes have {what}, unlike the others: {_files(usable, rows)}",
                "look at these in the picture: stripped of the skull, masked or cropped otherwise?",
            )
        )
    return found


def _larger_grid(usable: pd.DataFrame) -> str:
    """Return the options for a grid that contains whole heads."""
    shapes = _sides(usable)
    if shapes is None:
        return (
            "--center foreground, or a larger --spatial_shape or --spacing; `run check` with these options says which"
        )
    sides, now = shapes
    if all(side <= present for side, present in zip(sides, now, strict=True)):
        return "--center foreground"
    sides = [max(side, present) for side, present in zip(sides, now, strict=True)]
    return f'--center foreground --spatial_shape "{_text(sides)}"'


def _finer_grid(usable: pd.DataFrame) -> str:
    """Return the options for a grid that the volumes fill."""
    if "extent" not in usable or "spacing" not in usable:
        return "a smaller --spatial_shape or --spacing; `run check` with these options says which"
    extents = [_numbers(text) for text in usable["extent"]]
    spacing = float(_median([min(_numbers(text)) for text in usable["spacing"]]))
    sides = [_up(max(extent[axis] for extent in extents) / spacing) for axis in range(3)]
    return f'--spacing {spacing:g} --spatial_shape "{_text(sides)}"'


def _sides(usable: pd.DataFrame) -> tuple[list[int], list[int]] | None:
    """Return the sides that hold all heads' extents at the grid's voxel size, and the grid's present sides."""
    if not {"extent", "grid_shape", "grid_spacing"} <= set(usable.columns):
        return None
    spacing = _numbers(usable["grid_spacing"].iloc[0])
    now = [int(side) for side in _numbers(usable["grid_shape"].iloc[0])]
    extents = [_numbers(text) for text in usable["extent"]]
    sides = [_up(max(extent[axis] for extent in extents) / spacing[axis]) for axis in range(3)]
    return sides, now


def _numbers(text: Any) -> list[float]:
    return [float(side) for side in str(text).split("x")]


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _up(side: float) -> int:
    return SIDES_OF_GRID * max(1, math.ceil(side / SIDES_OF_GRID))


def _text(sides: Iterable[int]) -> str:
    return f"[{','.join(str(side) for side in sides)}]"


def _ceiling(share: float) -> str:
    return f"{math.ceil(100 * share - 1e-6) / 100:g}"


def _floor(share: float) -> str:
    return f"{math.floor(1000 * share + 1e-6) / 1000:g}"


def _files(table: pd.DataFrame, rows: Iterable[Any]) -> str:
    return listed([str(table.at[row, "image"]) for row in rows])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _has(number: int) -> str:
    return "has" if number == 1 else "have"
