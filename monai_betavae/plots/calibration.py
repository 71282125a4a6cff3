"""The picture of whether p-values of healthy subjects are uniform."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .._checks import check_integer

Array = NDArray[Any]

BAND = (0.025, 0.975)
"""Ends of the band, as probabilities."""


def plot_p_values(p: Array, n_reference: int | None = None, title: str = "") -> Figure:
    """Draw sorted p-values of healthy subjects against the quantiles of the uniform distribution.

    The band holds each point with a probability of 95 % if the p-values are uniform. Points below it are too many
    small p-values: the norm calls healthy subjects deviating. Points above it are too few: the norm is too wide.

    Args:
        p: p-values, shape (m,); NaN are left out.
        n_reference: n, for p-values that are ranks among the same n reference scores. Those of one reference err
            together, which makes the band wider. ``None`` for independent p-values.
        title: title of the figure.

    Returns:
        the figure.

    Raises:
        ValueError: if there is no p-value, or one isn't from 0 to 1.

    Example:
        >>> (axes,) = plot_p_values(np.array([0.75, 0.25, 0.5])).axes
        >>> points = axes.lines[-1]
        >>> points.get_xdata().tolist(), points.get_ydata().tolist()
        ([0.25, 0.5, 0.75], [0.25, 0.5, 0.75])
    """
    from scipy.stats import beta, betabinom

    values = np.asarray(p, dtype=float).ravel()
    values = np.sort(values[~np.isnan(values)])
    if not len(values) or values[0] < 0 or values[-1] > 1:
        raise ValueError(f"`p` must hold values from 0 to 1, at least one, got {values.tolist()!r:.100}.")
    m = len(values)
    ranks = np.arange(1, m + 1)
    expected = ranks / (m + 1)
    if n_reference is None:
        low, high = (beta.ppf(end, ranks, m + 1 - ranks) for end in BAND)
    else:
        n = check_integer("n_reference", n_reference, minimum=1)
        # of n reference scores, how many are beyond the i-th of m subjects: a Polya urn
        low, high = ((1 + betabinom.ppf(end, n, ranks, m + 1 - ranks)) / (n + 1) for end in BAND)
    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    axes.fill_between(expected, low, high, color="#1f77b4", alpha=0.2, linewidth=0, label="95 % of uniform p")
    axes.plot([0, 1], [0, 1], color="#7f7f7f", linestyle="--", linewidth=1)
    axes.plot(expected, values, color="#1f77b4", linestyle="none", marker=".", label="healthy subjects")
    axes.set(xlabel="expected p (uniform)", ylabel="p", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_aspect("equal", adjustable="box")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure
