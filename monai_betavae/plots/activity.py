"""The picture of what each latent dimension does while a model trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

THRESHOLD, FAINTEST = 0.01, 0.01
"""Variance above which a dimension is active, and KL divergence in nats at the end of the colours."""


def plot_activity(table: Mapping[str, Sequence[float]], title: str = "") -> Figure:
    """Draw the KL divergence of each latent dimension by epoch, and the number of active ones.

    Args:
        table: columns "epoch", "latent", "kl" and "variance" of ``latent_activity.csv``, see
            :class:`~monai_betavae.training.LatentActivity`.
        title: title of the figure.

    Returns:
        the figure, with two panels and a colour bar; dimensions are ordered by their last KL divergence.

    Example:
        >>> table = {"epoch": [0, 0, 1, 1], "latent": [0, 1, 0, 1], "kl": [0, 0, 1, 3], "variance": [0, 0, 0.5, 0.9]}
        >>> figure = plot_activity(table)
        >>> figure.axes[1].get_title(), [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ('2 of 2 active at the end', ['1', '0'])
    """
    epochs, latents = np.unique(np.asarray(table["epoch"])), np.unique(np.asarray(table["latent"]))
    place = np.searchsorted(latents, table["latent"]), np.searchsorted(epochs, table["epoch"])
    kl, variance = np.zeros((2, len(latents), len(epochs)))
    kl[place], variance[place] = table["kl"], table["variance"]
    order, active = np.argsort(-kl[:, -1], kind="stable"), (variance > THRESHOLD).sum(axis=0)
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    highest = max(float(kl.max()), 10 * FAINTEST)
    drawn = left.pcolormesh(
        epochs,
        np.arange(len(latents)),
        np.clip(kl[order], FAINTEST, None),
        norm=LogNorm(FAINTEST, highest),
        cmap="viridis",
        shading="nearest",
    )
    figure.colorbar(drawn, ax=left, label="KL divergence [nats]")
    left.invert_yaxis()
    step = -(-len(latents) // 16)
    shown = range(0, len(latents), step)
    left.set_yticks(list(shown), [f"{latents[order[row]]:g}" for row in shown], fontsize=7)
    left.set(xlabel="epoch", ylabel="latent dimension, by its KL at the end", title="KL divergence of each dimension")
    # of one validation image no variance is known
    known = bool(np.isfinite(variance).all())
    if known:
        right.plot(epochs, active, color="#1f77b4", marker="." if len(epochs) < 40 else None)
    right.set(xlabel="epoch", ylabel="active dimensions (validation)", ylim=(0, len(latents) * 1.05))
    right.set_title(f"{active[-1]} of {len(latents)} active at the end" if known else "")
    right.grid(alpha=0.3)
    if not known:
        right.set_axis_off()
        right.text(0.5, 0.5, "active dimensions:\nneed two validation subjects", ha="center", va="center")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    right.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
