"""Atomic writing of figures to files."""

from __future__ import annotations

import os

from matplotlib.figure import Figure

from ..saving.atomic_files import atomic_path


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 110) -> None:
    """Write a figure to a file atomically: the file is complete or not written at all.

    Args:
        figure: the figure.
        path: path of the file; its suffix determines the format.
        dpi: dots per inch.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_figure(Figure(figsize=(1, 1)), os.path.join(folder, "empty.png"))
        ...     files = {file.name: file.read_bytes()[1:4] for file in pathlib.Path(folder).iterdir()}
        >>> files
        {'empty.png': b'PNG'}
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, bbox_inches="tight", facecolor="white")
