"""Folders of empty files: discovery reads no voxels, so it needs none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_betavae.data.discovery import discover


def touch(root: str | os.PathLike[str], *names: str | os.PathLike[str]) -> None:
    """Make empty files below root; names without an ending get ``.nii.gz``."""
    for name in names:
        file = Path(root) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        (file if file.suffix else file.with_name(f"{file.name}.nii.gz")).touch()


def subjects_of(
    root: str | os.PathLike[str], source: str | os.PathLike[str] | None = None, **options: Any
) -> dict[str, str]:
    """Return the subject that discovery gives to each file below root."""
    records = discover(root if source is None else source, **options)
    return {Path(record["image"]).relative_to(root).as_posix(): record["subject"] for record in records}


def is_true_partition(found: Mapping[str, str], truth: Mapping[str, Any]) -> bool:
    """Whether files are of one found subject exactly if they are of one true one."""
    pairs = {(subject, truth[file]) for file, subject in found.items()}
    return len(pairs) == len({subject for subject, _ in pairs}) == len({person for _, person in pairs})


def refusal(function: Any, *arguments: Any, **options: Any) -> str:
    """Return the message of the ``ValueError`` that a call raises."""
    try:
        result = function(*arguments, **options)
    except ValueError as error:
        return str(error)
    raise AssertionError(f"not refused: {result!r}")
