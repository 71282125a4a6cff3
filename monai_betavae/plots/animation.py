"""Animated traversals: the effect of latent dimensions as a GIF."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .._texts import figure_label
from .slices import draw_slice, middle_of

Array = NDArray[Any]

FRAME_MS = 120


def traversal_gif(
    volumes: Array,
    steps: Sequence[float],
    labels: Sequence[str],
    title: str = "",
    spacing: Sequence[float] = (1, 1, 1),
) -> bytes:
    """Draw the effect of moving latent dimensions back and forth: one row per dimension, in three planes.

    Args:
        volumes: decoded images, shape (n_dimensions, n_steps, x, y, z), RAS.
        steps: the value of the dimension at each step.
        labels: one per dimension.
        title: title of the animation.
        spacing: voxel size along x, y and z.

    Returns:
        the bytes of a GIF that loops forever.

    Example:
        >>> from PIL import Image
        >>> gif = traversal_gif(np.random.default_rng(0).random((1, 3, 8, 8, 8)), [-2, 0, 2], ["dimension 0"])
        >>> Image.open(io.BytesIO(gif)).n_frames  # -2, 0, 2 and back to 0
        4
    """
    from PIL import Image

    volumes = np.asarray(volumes)
    centre = middle_of(volumes.mean(axis=(0, 1)))
    low, high = (float(value) for value in np.percentile(volumes, (20, 99.8)))
    figure = Figure(figsize=(5.4, 1.7 * len(volumes) + 0.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    heading = figure.suptitle(title)
    grid = figure.subplots(len(volumes), 3, squeeze=False)
    artists = []
    for row, label in enumerate(labels):
        for plane in range(3):
            scale = {"cmap": "gray", "vmin": low, "vmax": high}
            artists.append(draw_slice(grid[row, plane], volumes[row, 0], plane, centre, spacing, **scale))
        grid[row, 0].set_ylabel(figure_label(label), fontsize=8)
    frames = []
    for step in [*range(len(steps)), *range(len(steps) - 2, 0, -1)]:
        heading.set_text(f"{title}   z = {steps[step]:+.1f}")
        for number, artist in enumerate(artists):
            row, plane = divmod(number, 3)
            artist.set_data(np.take(volumes[row, step], centre[plane], axis=plane).T)
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(64))
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0)
    return stream.getvalue()
