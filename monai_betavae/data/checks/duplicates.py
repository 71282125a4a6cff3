"""A search for files with identical content, such as one scan under two names."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

_BLOCK = 1 << 16
_HEADER = 352
"""Bytes of a NIfTI file before its voxels: the checksum of shorter content distinguishes nothing."""


def same_content(paths: Sequence[str | os.PathLike[str]]) -> list[list[int]]:
    """Return the groups of files with identical content, regardless of names and compression.

    For most files, only a few bytes are read: the checksum and length of the content at the end of a gzip-compressed
    file, or the length and three blocks of any other. Files that agree so far are read completely.

    Args:
        paths: files; folders and unreadable files match nothing.

    Returns:
        groups of at least two positions in ``paths``, each in ascending order.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> for name, content in (("a.nii", b"brain"), ("b.nii", b"brain"), ("c.nii", b"other")):
        ...     with open(os.path.join(folder, name), "wb") as file:
        ...         _ = file.write(content * 200)
        >>> same_content([os.path.join(folder, name) for name in ("a.nii", "b.nii", "c.nii")])
        [[0, 1]]
    """
    names = [os.fspath(path) for path in paths]
    alike = _grouped(names, range(len(names)), _ends)
    return sorted(group for candidates in alike for group in _grouped(names, candidates, _digest))


def _grouped(names: Sequence[str], among: Sequence[int], key_of: Callable[[str], Hashable | None]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index in among:
        try:
            key = key_of(names[index])
        except (OSError, EOFError, zlib.error):
            key = None
        if key is not None:
            groups[key].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _ends(name: str) -> Hashable | None:
    """Return a key that is cheap to read and distinguishes most files."""
    if os.path.isdir(name):
        return None
    with open(name, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return None
        if file.read(2) == b"\x1f\x8b":
            file.seek(max(size - 8, 0))
            end = file.read(8)
            # blocked gzip ends with an empty block, whose checksum distinguishes nothing
            return end if int.from_bytes(end[4:], "little") > _HEADER else _digest(name)
        blocks = []
        for start in (0, size // 2, max(size - _BLOCK, 0)):
            file.seek(start)
            blocks.append(file.read(_BLOCK))
    return size, hashlib.blake2b(b"".join(blocks), digest_size=16).digest()


def _digest(name: str) -> Hashable:
    with open(name, "rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    digest = hashlib.blake2b(digest_size=16)
    with gzip.open(name, "rb") if compressed else open(name, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()
