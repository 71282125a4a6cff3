"""Subject, session and run from the BIDS entities of one path, file stems, and the natural order of paths."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..volumes.volume_files import VOLUME_SUFFIXES

Record = dict[str, Any]

# folders are searched for NIfTI only: a FreeSurfer folder has dozens of .mgz files that aren't images
NIFTI_SUFFIXES = (".nii.gz", ".nii")
_ENDINGS = (*VOLUME_SUFFIXES, ".img.gz", ".hdr.gz", ".img", ".hdr", ".npy")


class ListedVolume(NamedTuple):
    """A record and the place that lists it, which is empty for a file found in a folder."""

    record: Record
    place: str = ""


def is_volume(name: str, suffixes: tuple[str, ...] = NIFTI_SUFFIXES) -> bool:
    """Return whether a file name is that of a volume."""
    # macOS writes "._sub-01_T1w.nii.gz" next to the real file on foreign disks
    return name.lower().endswith(suffixes) and not name.startswith(".")


def record_of(image: str, subject: str | None = None) -> Record:
    """Return the record of a volume with the subject, and the session and run if its path names them."""
    stem = stem_of(os.path.basename(image))
    session = _entity("ses", stem) or _folder_entity("ses", image)
    run = _entity("run", stem)
    return {
        "image": image,
        "subject": subject or _entity("sub", stem) or _folder_entity("sub", image) or stem,
        **({"session": session} if session else {}),
        **({"run": run} if run else {}),
    }


def _entity(name: str, stem: str) -> str | None:
    """Return a BIDS entity of a file name, including its key: ``sub-01``."""
    found = re.search(rf"(?:^|_)({name}-[^_]+)", stem)
    return found.group(1) if found else None


def _folder_entity(name: str, image: str) -> str | None:
    """Return the name of the nearest folder whose name is a BIDS entity."""
    folders = reversed(Path(image).parts[:-1])
    return next((folder for folder in folders if re.fullmatch(rf"{name}-[^_]+", folder)), None)


def stem_of(name: str) -> str:
    """Return the name of a volume without its extension; a DICOM folder, such as ``1.2.840``, has none."""
    ending = next((ending for ending in _ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def in_natural_order(paths: Iterable[str]) -> list[str]:
    """Sort paths part by part, numbers by value, and equal numbers (``1``, ``01``) by their characters."""

    def key(path: str) -> tuple[list[list[str | int]], str]:
        # re.split alternates text and digits, so numbers are only compared with numbers
        pieces = [re.split(r"([0-9]+)", part) for part in Path(path).parts]
        return [[int(piece) if i % 2 else piece for i, piece in enumerate(part)] for part in pieces], path

    return sorted(paths, key=key)
