"""Maps on top of anatomical images, drawn by nilearn."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .._texts import figure_label

Array = NDArray[Any]


def plot_maps(
    maps: Array,
    images: Array,
    affine: Array,
    names: Sequence[str],
    title: str = "",
    masks: Array | None = None,
    *,
    threshold: float | None = None,
) -> Figure:
    """Draw maps on top of their images with nilearn, in three planes through the centre of mass of each map.

    Args:
        maps: shape (n, x, y, z); zero is transparent.
        images: anatomical images of the same shape.
        affine: 4x4 affine of the common grid, millimetres, RAS+.
        names: one per map.
        title: title of the figure.
        masks: masks of the same shape, drawn as outlines; the planes then go through their centres. ``None`` for none.
        threshold: magnitude from which a voxel is drawn; the planes then go through the voxel of the largest magnitude,
            unless there are masks. ``None`` for a fifth of the largest ones (99th percentile).

    Returns:
        the figure, with one row per map.

    Example:
        >>> maps = np.zeros((1, 8, 8, 8))
        >>> maps[0, 6, 3, 2] = 1
        >>> figure = plot_maps(maps, np.ones_like(maps), np.diag([2.0, 2.0, 2.0, 1.0]), ["sub-1"])
        >>> [text.get_text() for axes in figure.axes for text in axes.texts if "=" in text.get_text()]
        ['x=12', 'y=6', 'z=4']
    """
    from nilearn import plotting

    maps, images = np.asarray(maps, dtype=np.float32), np.asarray(images, dtype=np.float32)
    drawn = np.abs(maps) > (threshold or 0)
    extent = float(np.percentile(np.abs(maps[drawn]), 99)) if np.any(drawn) else 1.0
    drawn_from = extent / 5 if threshold is None else threshold
    # a diverging colour map would suggest negative values
    colours = "inferno" if float(maps.min()) >= 0 else "RdBu_r"
    figure = Figure(figsize=(9.0, 2.6 * len(maps) + 0.4))
    figure.suptitle(title, y=0.995)
    for row, name in enumerate(names):
        shown = maps[row] if masks is None or not np.any(masks[row]) else np.asarray(masks[row], dtype=np.float32)
        bottom = 1 - (row + 1) / len(maps)
        height = 1 / len(maps)
        axes = figure.add_axes((0.02, bottom * 0.96, 0.9, height * 0.9))
        if threshold is not None and masks is None:
            # of weak voxels all over the brain, the centre of mass would always be the brain's middle
            shown = np.where(np.abs(shown) == np.abs(shown).max(), np.abs(shown), 0)
        place: dict[str, Any] = {
            "cut_coords": _middle(shown, affine),
            "axes": axes,
            "figure": figure,
            "title": figure_label(name),
        }
        anatomy = nib.Nifti1Image(images[row], affine)
        with warnings.catch_warnings():
            # a map in which nothing is drawn keeps the view and the colours of the others
            warnings.filterwarnings("ignore", message="empty mask")
            display = plotting.plot_stat_map(
                nib.Nifti1Image(maps[row], affine),
                bg_img=anatomy,
                threshold=drawn_from,
                vmax=max(extent, drawn_from),
                cmap=colours,
                black_bg=False,
                **place,
            )
        if masks is not None and np.any(masks[row]):
            display.add_contours(nib.Nifti1Image(masks[row].astype(np.float32), affine), levels=[0.5], colors="lime")
    return figure


def _middle(values: Array, affine: Array) -> tuple[float, float, float]:
    """Return the centre of mass of a map's magnitude in millimetres."""
    weight = np.abs(values)
    total = float(weight.sum())
    if total == 0:
        weight, total = np.ones_like(weight), float(weight.size)
    voxel = [float((weight.sum(axis=tuple(o for o in range(3) if o != axis)) * np.arange(side)).sum() / total)
             for axis, side in enumerate(values.shape)]  # fmt: skip
    x, y, z = (np.asarray(affine) @ [*voxel, 1.0])[:3]
    return float(x), float(y), float(z)
