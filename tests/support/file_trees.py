"""Folders of empty files: discovery reads no voxels, so it needs none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def touch(root: str | os.PathLike[str], *names: str | os.PathLike[str]) -> None:
    """Make empty files below root."""
    for name in names:
        file = Path(root) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def is_true_partition(found: Mapping[str, str], truth: Mapping[str, Any]) -> bool:
    """Whether files are of one found subject exactly if they are of one true one."""
    pairs = {(subject, truth[file]) for file, subject in found.items()}
    return len(pairs) == len({subject for subject, _ in pairs}) == len({person for _, person in pairs})
