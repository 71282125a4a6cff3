"""The images of a record with several channels, such as T1w and T2w: their names, and their files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

OTHER_IMAGES = "other_images"
"""Key of a record's further images: a dictionary of their paths by the name of the contrast, in the order of channels.

The first channel stays under "image": its grid is that of all channels, and its file names the results.
"""

ON_INCOMPLETE = ("stop", "skip")
"""What to do with volumes that lack an image of a contrast: refuse the cohort, or leave them out with a warning."""


def names_in(name: str, value: Any) -> tuple[str, ...]:
    """Return one or several names as a tuple, or raise ``ValueError``.

    Args:
        name: name of the argument, for the message.
        value: a text that isn't empty, or a list of different ones.

    Example:
        >>> names_in("suffix", "T1w"), names_in("suffix", ["T1w", "T2w"])
        (('T1w',), ('T1w', 'T2w'))
    """
    listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    names = list(value) if listed else [value]
    if not names or not all(isinstance(each, str) and each.strip() for each in names):
        raise ValueError(f"`{name}` must be a non-empty string or a list of such, got {value!r}.")
    if len(set(names)) < len(names):
        raise ValueError(f"`{name}` must name different images, got {value!r}.")
    return tuple(names)


def contrast_names(
    suffix: str | Sequence[str] | None, image_column: str | Sequence[str] | None = None
) -> list[str] | None:
    """Return the names of a model's channels, or ``None`` for a model of one channel.

    A channel is named after the suffix proper ("T2w" for "desc-preproc_T2w") where that tells them apart, else after
    all of it; for tables, after the column.

    Args:
        suffix: suffix or suffixes of the files in a BIDS folder, in the order of channels.
        image_column: column or columns of a table.

    Raises:
        ValueError: if both are lists that name different channels.

    Example:
        >>> contrast_names(["desc-preproc_T1w", "FLAIR"]), contrast_names("T1w", ["t1", "t2"]), contrast_names("T1w")
        (['T1w', 'FLAIR'], ['t1', 't2'], None)
    """
    suffixes = () if suffix is None else names_in("suffix", suffix)
    columns = () if image_column is None else names_in("image_column", image_column)
    short = [each.rsplit("_", 1)[-1] for each in suffixes]
    of_suffixes = short if len(set(short)) == len(short) else list(suffixes)
    if len(suffixes) > 1 and len(columns) > 1 and of_suffixes != list(columns):
        raise ValueError(
            f"`suffix` and `image_column` must not name different channels, got {list(suffixes)} and {list(columns)}: "
            "the suffix is for BIDS folders, the column for tables."
        )
    if len(suffixes) > 1:
        return of_suffixes
    return list(columns) if len(columns) > 1 else None


def other_images(record: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a record's images beside the first one, by contrast; empty for a record of one channel."""
    found = record.get(OTHER_IMAGES)
    return dict(found) if isinstance(found, Mapping) else {}


def image_files(record: Mapping[Any, Any], image_key: str = "image") -> list[str]:
    """Return the files of all channels of a record, the first one first.

    Example:
        >>> image_files({"image": "a_T1w.nii", "other_images": {"T2w": "a_T2w.nii"}})
        ['a_T1w.nii', 'a_T2w.nii']
    """
    return [os.fspath(path) for path in (record[image_key], *other_images(record).values())]


def incomplete_problem(lacking: Sequence[str], n_volumes: int) -> str:
    """Return the problem that some volumes lack an image, with the option that leaves them out.

    Args:
        lacking: what is lacking, one text for each volume.
        n_volumes: number of volumes.
    """
    shown = "; ".join(lacking[:6]) + (f"; and {len(lacking) - 6} more" if len(lacking) > 6 else "")
    if len(lacking) == n_volumes:
        return f"no volume has an image of every channel: {shown}"
    return (
        f"{len(lacking)} of {n_volumes} volumes lack an image: {shown}. Leave these out with --on_incomplete skip "
        '(in Python: on_incomplete="skip")'
    )


def incomplete_warning(lacking: Sequence[str], n_volumes: int) -> str:
    """Return the warning that volumes without all images were left out; see :func:`incomplete_problem`."""
    counts = Counter(lacking)
    return f"Left out: {len(lacking)} of {n_volumes} volumes, which lack an image: {'; '.join(counts)}."
