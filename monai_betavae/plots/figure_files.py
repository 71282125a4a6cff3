"""Figures to files, whole or not at all."""

from __future__ import annotations

import os

from matplotlib.figure import Figure

from ..saving.atomic_files import atomic_path


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 110) -> None:
    """Write a figure, whole or not at all.

    Args:
        figure: the figure.
        path: where to; the suffix chooses the format.
        dpi: dots per inch.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, bbox_inches="tight", facecolor="white")
