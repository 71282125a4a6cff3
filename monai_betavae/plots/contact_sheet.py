"""Contact sheets of a whole cohort: the three middle planes of every volume as small images, for visual checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .._texts import figure_label

Array = NDArray[Any]
PlanesOfVolume = tuple[Array, tuple[float, float]]
"""An image of three planes side by side, and its width and height in millimetres."""

MARKED, PLAIN = "#c1121f", "black"


def planes_of(volume: Array, spacing: Sequence[float] = (1, 1, 1)) -> PlanesOfVolume:
    """Return the middle sagittal, coronal and axial planes of a volume, side by side.

    Args:
        volume: shape (x, y, z), RAS.
        spacing: voxel size along x, y and z, in millimetres.

    Returns:
        the image, whose first row is the top of each plane and whose pixels have the finest of the voxel sizes; and its
        width and height in mm.

    Example:
        >>> image, extent = planes_of(np.zeros((4, 5, 6)), (2, 2, 2))
        >>> image.shape, extent
        ((6, 13), (26.0, 12.0))
    """
    finest = min(spacing)
    planes = []
    for plane in range(3):
        across, up = (axis for axis in range(3) if axis != plane)
        image = np.take(volume, volume.shape[plane] // 2, axis=plane).T[::-1]
        rows = np.floor((np.arange(round(volume.shape[up] * spacing[up] / finest)) + 0.5) * finest / spacing[up])
        columns = np.floor(
            (np.arange(round(volume.shape[across] * spacing[across] / finest)) + 0.5) * finest / spacing[across]
        )
        planes.append(image[np.ix_(rows.astype(int), columns.astype(int))])
    height = max(len(plane) for plane in planes)
    framed = []
    for plane in planes:
        above = (height - len(plane)) // 2
        framed.append(np.pad(plane, ((above, height - len(plane) - above), (0, 0))))
    sheet = np.concatenate(framed, axis=1).astype(np.float32)
    return sheet, (float(sheet.shape[1] * finest), float(height * finest))


def plot_contact_sheet(
    planes: Sequence[PlanesOfVolume],
    names: Sequence[str],
    marked: Sequence[bool] | None = None,
    title: str = "",
    columns: int = 6,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """Draw the planes of many volumes with a common grey scale.

    Args:
        planes: planes of each volume, from :func:`planes_of`.
        names: one per volume.
        marked: whether to draw each name in red; ``None`` for no marks.
        title: title of the figure.
        columns: number of volumes per row.
        limits: intensities drawn in black and in white.

    Returns:
        the figure.

    Example:
        >>> planes = [planes_of(np.zeros((4, 5, 6))), planes_of(np.ones((4, 5, 6)))]
        >>> figure = plot_contact_sheet(planes, ["sub-1", "sub-2"], marked=[False, True])
        >>> [(axes.get_title(), axes.title.get_color()) for axes in figure.axes]
        [('sub-1', 'black'), ('sub-2', '#c1121f')]
    """
    marked = [False] * len(planes) if marked is None else marked
    columns = max(1, min(columns, len(planes)))
    rows = max(1, -(-len(planes) // columns))
    width, height = planes[0][1] if planes else (3.0, 1.0)
    cell = 2.5
    figure = Figure(figsize=(cell * columns, (cell * height / width + 0.3) * rows + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (image, extent), name, is_marked in zip(grid.flat, planes, names, marked, strict=False):
        axes.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1], extent=(0, extent[0], 0, extent[1]))
        axes.set_title(figure_label(name, width=28), fontsize=7, color=MARKED if is_marked else PLAIN, pad=2)
    return figure
