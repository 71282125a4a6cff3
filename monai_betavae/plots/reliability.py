"""The picture of how much repeated scans agree in each latent dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .._texts import figure_label

Array = NDArray[Any]

LINEAR = "#7f7f7f"
OTHERS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd")


def plot_reliability(correlations: Mapping[str, Array], threshold: float | None = None, title: str = "") -> Figure:
    """Draw the intraclass correlations of the dimensions of several methods, the highest first.

    Args:
        correlations: intraclass correlations by method, shape (n_dimensions,); NaN are left out. Names that begin with
            "PCA" are grey and dashed.
        threshold: height of a dotted line; ``None`` for no line.
        title: title of the figure.

    Returns:
        the figure: the higher a line and the further right it stays high, the more dimensions can be trusted.

    Example:
        >>> (axes,) = plot_reliability({"this model": np.array([0.5, 0.9]), "PCA": np.array([0.8])}, 0.75).axes
        >>> axes.lines[0].get_ydata().tolist(), [text.get_text() for text in axes.get_legend().get_texts()]
        ([0.9, 0.5], ['this model', 'PCA', '0.75'])
    """
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    others = iter(OTHERS * (1 + len(correlations)))
    lowest = 0.0
    for name, values in correlations.items():
        values = np.asarray(values, dtype=float)
        values = np.sort(values[np.isfinite(values)])[::-1]
        lowest = min(lowest, values.min(initial=0.0))
        linear = name.startswith("PCA")
        axes.plot(
            np.arange(1, len(values) + 1),
            values,
            color=LINEAR if linear else next(others),
            linestyle="--" if linear else "-",
            marker=".",
            label=figure_label(name),
        )
    if threshold is not None:
        axes.axhline(threshold, color="#999999", linestyle=":", label=f"{threshold:g}")
    axes.set(xlabel="dimensions, the most reliable first", ylabel="intraclass correlation")
    axes.set_ylim(lowest - 0.04, 1.04)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return figure
