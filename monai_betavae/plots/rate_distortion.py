"""The picture of rate and distortion of models and of PCA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .._texts import figure_label

COLOURS = {"PCA": "#7f7f7f"}
OTHERS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd")


def plot_rate_distortion(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    points: Mapping[str, tuple[float, float]] | None = None,
    scale: float | None = None,
    title: str = "",
) -> Figure:
    """Draw the error that is left against the nats that the codes spend.

    Args:
        curves: rates in nats and distortions, by name. Names that begin with "PCA" are grey and dashed.
        points: single rates and distortions, by name.
        scale: error of the mean image, to which distortions are relative; ``None`` for absolute ones.
        title: title of the figure.

    Returns:
        the figure: the lower and the further left, the better.

    Example:
        >>> figure = plot_rate_distortion({"PCA, 2": ([0, 5], [8, 4])}, {"this model": (4.0, 5.0)}, scale=8.0)
        >>> (axes,) = figure.axes
        >>> axes.lines[0].get_ydata().tolist(), axes.get_ylabel()
        ([1.0, 0.5], 'squared error / mean image')
    """
    figure = Figure(figsize=(6.2, 4.2), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    factor, others = 1.0 if scale is None else 1 / scale, iter(OTHERS * (1 + len(curves) + len(points or {})))
    for name, (rates, distortions) in curves.items():
        linear = name.startswith("PCA")
        axes.plot(
            np.asarray(rates, dtype=float),
            factor * np.asarray(distortions, dtype=float),
            color=COLOURS["PCA"] if linear else next(others),
            linestyle="--" if linear else "-",
            marker=None if linear else ".",
            label=figure_label(name),
        )
    for name, (rate, distortion) in (points or {}).items():
        axes.plot([rate], [factor * distortion], color=next(others), marker="o", linestyle="", label=figure_label(name))
    axes.set(xlabel="KL divergence [nats]", ylabel="squared error" + ("" if scale is None else " / mean image"))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return figure
