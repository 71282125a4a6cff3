"""Plots of volumes in RAS order: reconstructions, traversals, contact sheets. The subject's left is on the left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .._texts import figure_label

Array = NDArray[Any]

PLANES = ("sagittal", "coronal", "axial")


def plot_reconstructions(
    images: Array, reconstructions: Array, names: Sequence[str], title: str = "", spacing: Sequence[float] = (1, 1, 1)
) -> Figure:
    """Draw the input, reconstruction and difference of images, in three planes.

    Args:
        images: shape (n, x, y, z), RAS.
        reconstructions: reconstructions of the same shape.
        names: one per image.
        title: title of the figure.
        spacing: voxel size along x, y and z, for the aspect ratio of the slices.

    Returns:
        the figure, with one row per image.

    Example:
        >>> images = np.zeros((2, 8, 8, 8))
        >>> images[:, 2:6, 2:6, 2:6] = 1
        >>> figure = plot_reconstructions(images, 0.75 * images, ["sub-1", "sub-2"])
        >>> float(figure.axes[2].images[0].get_array().max())  # input - reconstruction of sub-1, sagittal
        0.25
    """
    images, reconstructions = np.asarray(images), np.asarray(reconstructions)
    centre = middle_of(images.mean(axis=0))
    low, high = float(images.min()), float(np.percentile(images, 99.8))
    difference = images - reconstructions  # the sign of residuals everywhere
    extent = float(np.percentile(np.abs(difference), 99.8)) or 1.0
    figure = Figure(figsize=(13.5, 1.75 * len(images) + 0.9), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(len(images), 9, squeeze=False)
    for row, name in enumerate(names):
        for plane in range(3):
            shown = (images[row], reconstructions[row], difference[row])
            for column, (volume, label) in enumerate(
                zip(shown, ("input", "reconstruction", "difference"), strict=True)
            ):
                axes = grid[row, 3 * plane + column]
                scale = {"cmap": "RdBu_r", "vmin": -extent, "vmax": extent} if column == 2 else {
                    "cmap": "gray", "vmin": low, "vmax": high,
                }  # fmt: skip
                drawn = draw_slice(axes, volume, plane, centre, spacing, **scale)
                if row == 0:
                    axes.set_title(f"{PLANES[plane]}\n{label}" if column == 0 else f"\n{label}", fontsize=9)
                if plane == 0 and column == 0:
                    axes.set_ylabel(figure_label(name), fontsize=8)
    figure.colorbar(drawn, ax=grid[:, -1], label="input − reconstruction", shrink=0.8)
    return figure


def plot_traversals(
    volumes: Array,
    steps: Sequence[float],
    labels: Sequence[str],
    title: str = "",
    spacing: Sequence[float] = (1, 1, 1),
) -> Figure:
    """Draw the effect of moving one latent dimension at a time: the axial plane at each step, and the total change.

    Args:
        volumes: decoded images, shape (n_dimensions, n_steps, x, y, z), RAS.
        steps: the value of the dimension at each step.
        labels: one per dimension.
        title: title of the figure.
        spacing: voxel size along x, y and z.

    Returns:
        the figure, with one row per dimension; the change, last step minus first, is shown in three planes.

    Example:
        >>> cube = np.pad(np.ones((4, 4, 4)), 2)
        >>> figure = plot_traversals(np.array([[0.5 * cube, cube, 1.5 * cube]]), [-2, 0, 2], ["dimension 0"])
        >>> [axes.get_title() for axes in figure.axes[:3]], float(figure.axes[3].images[0].get_array().max())
        (['z = -2.0', 'z = 0', 'z = +2.0'], 1.0)
    """
    volumes = np.asarray(volumes)
    centre = middle_of(volumes.mean(axis=(0, 1)))
    # the background, which is most of a volume, is drawn black although decoders leave it slightly off zero
    low, high = (float(value) for value in np.percentile(volumes, (20, 99.8)))
    change = volumes[:, -1] - volumes[:, 0]
    n_steps = len(steps)
    figure = Figure(figsize=(1.35 * (n_steps + 3) + 1.2, 1.65 * len(volumes) + 0.9), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(len(volumes), n_steps + 3, squeeze=False)
    for row, label in enumerate(labels):
        extent = float(np.percentile(np.abs(change[row]), 99.8)) or 1.0
        for column, step in enumerate(steps):
            draw_slice(grid[row, column], volumes[row, column], 2, centre, spacing, cmap="gray", vmin=low, vmax=high)
            if row == 0:
                grid[row, column].set_title(f"z = {step:+.1f}" if step else "z = 0", fontsize=9)
        grid[row, 0].set_ylabel(figure_label(label), fontsize=8)
        for offset, plane in enumerate((2, 1, 0)):
            axes = grid[row, n_steps + offset]
            draw_slice(axes, change[row], plane, centre, spacing, cmap="RdBu_r", vmin=-extent, vmax=extent)
            if row == 0:
                axes.set_title(f"z = {steps[-1]:+g} minus {steps[0]:+g}\n{PLANES[plane]}", fontsize=8)
        grid[row, n_steps + 1].set_xlabel(f"blue -{extent:.2g}, red +{extent:.2g}", fontsize=7)
    return figure


def plot_volumes(
    volumes: Array, names: Sequence[str], title: str = "", spacing: Sequence[float] = (1, 1, 1), columns: int = 4
) -> Figure:
    """Draw a contact sheet: each volume's three central planes side by side.

    Args:
        volumes: shape (n, x, y, z), RAS.
        names: one per volume.
        title: title of the figure.
        spacing: voxel size along x, y and z.
        columns: number of volumes per row.

    Returns:
        the figure.

    Example:
        >>> figure = plot_volumes(np.ones((2, 8, 8, 8)), ["sub-1", "sub-2"])
        >>> [axes.get_title() for axes in figure.axes]
        ['', 'sub-1', '', '', 'sub-2', '']
    """
    volumes = np.asarray(volumes)
    centre = middle_of(volumes.mean(axis=0))
    columns = min(columns, len(volumes))
    rows = -(-len(volumes) // columns)
    figure = Figure(figsize=(2.7 * columns, 1.25 * rows + 0.6), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, 3 * columns, squeeze=False)
    high = float(np.percentile(volumes, 99.8))
    for axes in grid.flat:
        axes.set_axis_off()
    for index, name in enumerate(names):
        row, column = divmod(index, columns)
        for plane in range(3):
            axes = grid[row, 3 * column + plane]
            axes.set_axis_on()
            draw_slice(axes, volumes[index], plane, centre, spacing, cmap="gray", vmin=0, vmax=high)
        grid[row, 3 * column + 1].set_title(figure_label(name), fontsize=8)
    return figure


def draw_slice(
    axes: Any, volume: Array, plane: int, centre: Sequence[int], spacing: Sequence[float], **scale: Any
) -> Any:
    """Draw one plane (0 sagittal, 1 coronal, 2 axial) of a volume and return the artist."""
    image = np.take(volume, centre[plane], axis=plane).T
    across, up = (axis for axis in range(3) if axis != plane)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes.imshow(image, origin="lower", aspect=spacing[up] / spacing[across], interpolation="nearest", **scale)


def middle_of(volume: Array) -> tuple[int, ...]:
    """Return the voxel at the centre of mass of the positive intensities, shifted slightly off the midline in x."""
    mass = np.clip(volume, 0, None)
    total = float(mass.sum())
    if total == 0:
        return tuple(side // 2 for side in volume.shape)
    centre = []
    for axis, side in enumerate(volume.shape):
        profile = mass.sum(axis=tuple(other for other in range(volume.ndim) if other != axis))
        centre.append(int(np.clip(round(float(profile @ np.arange(side)) / total), 0, side - 1)))
    # exactly between the hemispheres, a sagittal slice shows little but the fissure
    centre[0] = min(centre[0] + max(1, volume.shape[0] // 16), volume.shape[0] - 1)
    return tuple(centre)
