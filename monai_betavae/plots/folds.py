"""The picture of a cross-validation: the error of each held-out subject, fold by fold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from .curves import COLOURS

if TYPE_CHECKING:
    import pandas as pd


def plot_folds(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw the error of each subject, relative to that of the mean training image, fold by fold.

    Args:
        table: a row per volume, with "fold", "sse", and "sse_mean_image" and "sse_pca" where there is such a baseline.
        title: title of the figure.

    Returns:
        the figure; a point is a volume, a bar the ratio of the sums over the fold, a dashed line that over all folds.
        A baseline that a fold lacks is left out; without the mean image's error, the errors aren't relative.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"fold": [0, 1], "sse": [1.0, 2.0], "sse_pca": 2.0, "sse_mean_image": 4.0})
        >>> (axes,) = plot_folds(table).axes
        >>> axes.get_ylabel(), [text.get_text() for text in axes.get_legend().get_texts()]
        ('squared error / mean image', ['this model: 0.38', 'PCA: 0.50', 'mean training image'])
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    known = {name for name in ("sse_mean_image", "sse_pca") if name in table and table[name].notna().all()}
    relative = "sse_mean_image" in known
    scale = table["sse_mean_image"] if relative else table["sse"] * 0 + 1
    folds = sorted(table["fold"].unique())
    methods = [("this model", "sse"), *([("PCA", "sse_pca")] if "sse_pca" in known else [])]
    width = 0.7 / len(methods)
    for number, (name, column) in enumerate(methods):
        colour = COLOURS[number]
        offset = (number - (len(methods) - 1) / 2) * width
        overall = table[column].sum() / scale.sum()
        for fold in folds:
            rows = table["fold"] == fold
            spread = np.linspace(-0.3, 0.3, rows.sum()) if rows.sum() > 1 else np.zeros(1)
            axes.scatter(
                fold + offset + width * spread,
                table[column][rows] / scale[rows],
                s=12,
                color=colour,
                alpha=0.7,
                linewidth=0,
            )
            mean = table[column][rows].sum() / scale[rows].sum()
            axes.plot(
                [fold + offset - 0.42 * width, fold + offset + 0.42 * width], [mean] * 2, color=colour, linewidth=2.5
            )
        shown = f"{overall:.2f}" if relative else f"{overall:.4g}"
        axes.axhline(overall, color=colour, linestyle="--", linewidth=1, label=f"{name}: {shown}")
    if relative:
        axes.axhline(1, color="#999999", linewidth=1, label="mean training image")
    axes.set_xticks(folds, [str(fold) for fold in folds])
    axes.set(xlabel="fold", ylabel="squared error / mean image" if relative else "summed squared error")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return figure
