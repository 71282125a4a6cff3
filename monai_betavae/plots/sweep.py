"""The picture of a sweep: rate and distortion of its settings, and the stability of their codes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .._texts import figure_label

COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#7f7f7f", "#9467bd", "#8c564b", "#e377c2", "#bcbd22")


def plot_sweep(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], baselines: Mapping[str, Any], title: str = ""
) -> Figure:
    """Draw error against KL divergence, and the stability of codes, of each setting.

    Args:
        rows: one per setting, with the ids of the space, "error", "error_ratio", "kl" and their "_sd", "udr" and
            "active_units", and "chosen".
        names: ids of the space. Settings that differ in the first of them alone are joined by a line.
        baselines: "mean_image", the error of the mean training image; "pca", errors by number of components, and
            "pca_curves", rates and errors of linear beta-VAEs by number of components.
        title: title of the figure.

    Returns:
        the figure, with two panels.

    Example:
        >>> rows = [
        ...     {"beta": beta, "error": error, "error_ratio": error / 10, "kl": kl, "active_units": 2, "udr": None}
        ...     for beta, error, kl in ((1.0, 3.0, 20.0), (4.0, 4.0, 9.0))
        ... ]
        >>> figure = plot_sweep(rows, ["beta"], {"mean_image": 10.0, "pca": {2: 5.0}})
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['validation error / mean image', 'active units']
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    relative = all(row.get("error_ratio") is not None for row in rows)
    scale = 1.0 if not relative else 1 / float(baselines["mean_image"])
    stable = all(row.get("udr") is not None for row in rows)
    first = names[0]
    numbers = all(_is_number(row[first]) for row in rows)
    furthest = max(row["kl"] for row in rows)

    def group_of(row: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {row[name]}" for name in names[1:])

    for colour, (group, members) in zip(
        itertools.cycle(COLOURS), itertools.groupby(sorted(rows, key=group_of), key=group_of), strict=False
    ):
        listed = list(members)
        if numbers:
            listed.sort(key=lambda row: row[first])
        errors = [scale * row["error"] for row in listed]
        bars = [scale * (row.get("error_sd") or 0.0) for row in listed]
        kl, kl_bars = [row["kl"] for row in listed], [row.get("kl_sd") or 0.0 for row in listed]
        style = {"color": colour, "marker": "o", "capsize": 2, "linestyle": "-" if len(listed) > 1 else ""}
        left.errorbar(kl, errors, xerr=kl_bars, yerr=bars, label=figure_label(group) if group else None, **style)
        for row, x, y in zip(listed, kl, errors, strict=True):
            # the curve is steep on the left and flat on the right, where a label beside its point would meet the next
            left.annotate(
                figure_label(f"{first} {row[first]}"),
                (x, y),
                xytext=(0, 9) if x > 0.5 * furthest else (5, 5),
                textcoords="offset points",
                ha="center" if x > 0.5 * furthest else "left",
                size=7,
            )
            if row.get("chosen"):
                left.plot(
                    x, y, marker="o", markersize=14, markerfacecolor="none", markeredgecolor="black", linestyle=""
                )
        places = [row[first] for row in listed] if numbers else np.arange(len(listed))
        right.plot(places, [row["udr"] if stable else row["active_units"] for row in listed], color=colour, marker="o")
        if not numbers:
            right.set_xticks(np.arange(len(listed)), [figure_label(str(row[first])) for row in listed], size=7)
    curves = baselines.get("pca_curves", {})
    widest = max(row["kl"] + (row.get("kl_sd") or 0.0) for row in rows)
    for size, (rates, errors) in curves.items():
        shown = np.asarray(rates) <= 1.25 * widest
        places, heights = np.asarray(rates)[shown], scale * np.asarray(errors)[shown]
        left.plot(places, heights, color="#7f7f7f", linestyle="--", linewidth=1)
        left.annotate(
            f"PCA, {size}", (places[-1], heights[-1]), xytext=(0, 3), textcoords="offset points", ha="right", size=7
        )
    for size, error in baselines.get("pca", {}).items():
        if size in curves:
            continue
        left.axhline(scale * error, color="#7f7f7f", linestyle="--", linewidth=1)
        left.annotate(
            f"PCA, {size}", (0.99, scale * error), xycoords=("axes fraction", "data"), ha="right", va="bottom", size=7
        )
    left.set(xlabel="KL divergence [nats]", ylabel="validation error" + (" / mean image" if relative else ""))
    left.set_title("rate and distortion; the ring is the choice", size=10)
    right.set(xlabel=figure_label(first), ylabel="UDR over seeds" if stable else "active units")
    if not stable:
        right.set_ylim(bottom=0)  # a constant number would else be shown between fractions of a unit
    right.set_title("stability of codes across seeds" if stable else "latents that vary between subjects", size=10)
    if numbers and min(row[first] for row in rows) > 0:
        right.set_xscale("log")
        values = sorted({row[first] for row in rows})
        right.set_xticks(values, [f"{value:g}" for value in values])
        right.set_xticks([], minor=True)
    left.margins(0.15)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    if len(names) > 1:
        left.legend(frameon=False, fontsize=7)
    return figure


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
