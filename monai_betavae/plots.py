"""Arrays in, Figure out. Volumes are in RAS order; slices are drawn with the subject's left on the left."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from numpy.typing import NDArray

from .files import atomic_path

Array = NDArray[Any]

PLANES = ("sagittal", "coronal", "axial")
TRAINING, VALIDATION = "#1f77b4", "#d95f02"


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 110) -> None:
    """Write a figure, whole or not at all.

    Args:
        figure: the figure.
        path: where to; the suffix chooses the format.
        dpi: dots per inch.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, bbox_inches="tight", facecolor="white")


def plot_losses(table: Mapping[str, Sequence[float]], title: str = "") -> Figure:
    """Draw objective, reconstruction loss and KL divergence per epoch, training and validation.

    Args:
        table: columns "epoch", "train/loss", "train/rec_loss", "train/kl_loss" and, if there was validation, "val/...".
        title: of the figure.
    """
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    figure.suptitle(title)
    names = {"loss": "objective", "rec_loss": "reconstruction loss", "kl_loss": "KL divergence [nats]"}
    epochs = np.asarray(table["epoch"]) + 1
    for axes, (key, label) in zip(figure.subplots(1, 3), names.items(), strict=True):
        for stage, colour in (("train", TRAINING), ("val", VALIDATION)):
            if f"{stage}/{key}" in table:
                values = np.asarray(table[f"{stage}/{key}"], dtype=float)
                stage_name = "training" if stage == "train" else "validation"
                axes.plot(epochs, values, color=colour, label=stage_name, marker="." if len(epochs) < 40 else None)
        positive = all(np.all(np.asarray(line.get_ydata()) > 0) for line in axes.lines)
        if key != "kl_loss" and positive:
            axes.set_yscale("log")
            # over less than a decade powers of ten are hard to read
            for each in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                each(LogFormatter(minor_thresholds=(1, 0.4)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(title=label, xlabel="epoch")
        axes.grid(alpha=0.3, which="both")
        axes.legend(frameon=False)
    return figure


def plot_reconstructions(
    images: Array, reconstructions: Array, names: Sequence[str], title: str = "", spacing: Sequence[float] = (1, 1, 1)
) -> Figure:
    """Draw input, reconstruction and difference of some subjects, in three planes.

    Args:
        images: shape (n, x, y, z), RAS.
        reconstructions: the same shape.
        names: one per image.
        title: of the figure.
        spacing: voxel size along x, y and z, for the aspect of the slices.
    """
    images, reconstructions = np.asarray(images), np.asarray(reconstructions)
    centre = _centre(images.mean(axis=0))
    low, high = float(images.min()), float(np.percentile(images, 99.8))
    difference = reconstructions - images
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
                drawn = _draw_slice(axes, volume, plane, centre, spacing, **scale)
                if row == 0:
                    axes.set_title(f"{PLANES[plane]}\n{label}" if column == 0 else f"\n{label}", fontsize=9)
                if plane == 0 and column == 0:
                    axes.set_ylabel(name, fontsize=8)
    figure.colorbar(drawn, ax=grid[:, -1], label="reconstruction − input", shrink=0.8)
    return figure


def plot_traversals(
    volumes: Array,
    steps: Sequence[float],
    labels: Sequence[str],
    title: str = "",
    spacing: Sequence[float] = (1, 1, 1),
) -> Figure:
    """Draw what each of some latent dimensions changes when it alone moves.

    Args:
        volumes: decoded images, shape (n_dimensions, n_steps, x, y, z), RAS.
        steps: the value of the dimension at each step.
        labels: one per dimension.
        title: of the figure.
        spacing: voxel size along x, y and z.
    """
    volumes = np.asarray(volumes)
    centre = _centre(volumes.mean(axis=(0, 1)))
    # the background, most of a volume, is black although a decoder leaves it a little above and below zero
    low, high = (float(value) for value in np.percentile(volumes, (20, 99.8)))
    change = volumes[:, -1] - volumes[:, 0]
    n_steps = len(steps)
    figure = Figure(figsize=(1.35 * (n_steps + 3) + 1.2, 1.65 * len(volumes) + 0.9), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(len(volumes), n_steps + 3, squeeze=False)
    for row, label in enumerate(labels):
        extent = float(np.percentile(np.abs(change[row]), 99.8)) or 1.0
        for column, step in enumerate(steps):
            _draw_slice(grid[row, column], volumes[row, column], 2, centre, spacing, cmap="gray", vmin=low, vmax=high)
            if row == 0:
                grid[row, column].set_title(f"z = {step:+.1f}" if step else "z = 0", fontsize=9)
        grid[row, 0].set_ylabel(label, fontsize=8)
        for offset, plane in enumerate((2, 1, 0)):
            axes = grid[row, n_steps + offset]
            _draw_slice(axes, change[row], plane, centre, spacing, cmap="RdBu_r", vmin=-extent, vmax=extent)
            if row == 0:
                axes.set_title("change\n" + PLANES[plane], fontsize=9)
    return figure


def plot_volumes(
    volumes: Array, names: Sequence[str], title: str = "", spacing: Sequence[float] = (1, 1, 1), columns: int = 4
) -> Figure:
    """Draw a contact sheet: each volume's three central planes side by side.

    Args:
        volumes: shape (n, x, y, z), RAS.
        names: one per volume.
        title: of the figure.
        spacing: voxel size along x, y and z.
        columns: volumes per row.
    """
    volumes = np.asarray(volumes)
    centre = _centre(volumes.mean(axis=0))
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
            _draw_slice(axes, volumes[index], plane, centre, spacing, cmap="gray", vmin=0, vmax=high)
        grid[row, 3 * column + 1].set_title(name, fontsize=8)
    return figure


def _draw_slice(
    axes: Any, volume: Array, plane: int, centre: Sequence[int], spacing: Sequence[float], **scale: Any
) -> Any:
    """Draw one plane (0 sagittal, 1 coronal, 2 axial) of a volume and return the artist."""
    image = np.take(volume, centre[plane], axis=plane).T
    across, up = (axis for axis in range(3) if axis != plane)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes.imshow(image, origin="lower", aspect=spacing[up] / spacing[across], interpolation="nearest", **scale)


def _centre(volume: Array) -> tuple[int, ...]:
    """Return the voxel at the centre of mass of the positive intensities, a little off the midline in x."""
    mass = np.clip(volume, 0, None)
    total = float(mass.sum())
    if total == 0:
        return tuple(side // 2 for side in volume.shape)
    centre = []
    for axis, side in enumerate(volume.shape):
        profile = mass.sum(axis=tuple(other for other in range(volume.ndim) if other != axis))
        centre.append(int(np.clip(round(float(profile @ np.arange(side)) / total), 0, side - 1)))
    # exactly between the hemispheres a sagittal slice shows little but the fissure
    centre[0] = min(centre[0] + max(1, volume.shape[0] // 16), volume.shape[0] - 1)
    return tuple(centre)
