"""Plots of losses, KL divergences, latents, predictions, and precision and recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from numpy.typing import NDArray

from .._texts import figure_label

Array = NDArray[Any]

TRAINING, VALIDATION = "#1f77b4", "#d95f02"
COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#7f7f7f", "#9467bd")


def plot_losses(table: Mapping[str, Sequence[float]], title: str = "") -> Figure:
    """Draw the objective, reconstruction loss and KL divergence of training and validation per epoch.

    Args:
        table: columns "epoch", "train/loss", "train/rec_loss", "train/kl_loss" and, with validation, "val/...".
        title: title of the figure.

    Returns:
        the figure; losses have a logarithmic axis if all are positive. A dotted line marks the epoch of the lowest
        validation loss.

    Example:
        >>> losses = {"train/loss": [4.0, 3.0], "train/rec_loss": [3.0, 1.0], "train/kl_loss": [1.0, 2.0]}
        >>> figure = plot_losses({"epoch": [0, 1], **losses})
        >>> [(axes.get_title(), axes.get_yscale()) for axes in figure.axes]
        [('objective', 'log'), ('reconstruction loss', 'log'), ('KL divergence [nats]', 'linear')]
    """
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    figure.suptitle(title)
    names = {"loss": "objective", "rec_loss": "reconstruction loss", "kl_loss": "KL divergence [nats]"}
    epochs, validation = np.asarray(table["epoch"]) + 1, np.asarray(table.get("val/loss", ()), dtype=float)
    for axes, (key, label) in zip(figure.subplots(1, 3), names.items(), strict=True):
        for stage, colour in (("train", TRAINING), ("val", VALIDATION)):
            if f"{stage}/{key}" in table:
                values = np.asarray(table[f"{stage}/{key}"], dtype=float)
                stage_name = "training" if stage == "train" else "validation"
                axes.plot(epochs, values, color=colour, label=stage_name, marker="." if len(epochs) < 40 else None)
        positive = all(np.all(np.asarray(line.get_ydata()) > 0) for line in axes.lines)
        if key != "kl_loss" and positive:
            axes.set_yscale("log")
            # powers of ten are hard to read on an axis of less than a decade
            for each in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                each(LogFormatter(minor_thresholds=(1, 0.4)))
        if np.isfinite(validation).any():
            best = epochs[np.nanargmin(validation)]
            label_of_best = f"lowest validation objective, epoch {best}" if key == "loss" else None
            axes.axvline(best, color="#999999", linestyle=":", label=label_of_best)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set(title=label, xlabel="epoch")
        axes.grid(alpha=0.3, which="both")
        axes.legend(frameon=False, fontsize=8)
    return figure


def plot_kl(kl: Array, active: Array, title: str = "") -> Figure:
    """Draw the KL divergence of each latent dimension, the largest first, with inactive ones in grey.

    Args:
        kl: KL divergence in nats, shape (latent_dim,).
        active: whether each dimension is active, shape (latent_dim,).
        title: title of the figure.

    Returns:
        the figure.

    Example:
        >>> (axes,) = plot_kl(np.array([0.0, 2.5, 1.0]), np.array([False, True, True])).axes
        >>> [label.get_text() for label in axes.get_xticklabels()], axes.get_title()
        (['1', '2', '0'], '2 of 3 active, 3.5 nats in all')
    """
    kl, active = np.asarray(kl, dtype=float), np.asarray(active, dtype=bool)
    order = np.argsort(kl)[::-1]
    figure = Figure(figsize=(max(5.0, 0.24 * len(kl) + 1.5), 3.0), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    colours = [COLOURS[0] if active[index] else "#bbbbbb" for index in order]
    axes.bar(np.arange(len(kl)), kl[order], color=colours)
    axes.set_xticks(np.arange(len(kl)), [str(index) for index in order], fontsize=7)
    axes.set(xlabel="latent dimension", ylabel="KL divergence [nats]")
    axes.grid(alpha=0.3, axis="y")
    axes.set_title(f"{int(active.sum())} of {len(kl)} active, {kl.sum():.1f} nats in all", fontsize=9)
    return figure


def plot_latents(
    codes: Array,
    covariates: Mapping[str, Sequence[Any]],
    title: str = "",
    columns: int = 3,
    dimensions: tuple[int, int] | None = None,
) -> Figure:
    """Draw the codes along two dimensions or their first two principal axes, one panel per covariate.

    Args:
        codes: posterior means, shape (n, latent_dim).
        covariates: n numbers or categories for each name; ``None`` for missing values.
        title: title of the figure.
        columns: number of panels per row.
        dimensions: dimensions on the horizontal and vertical axis; ``None`` for the principal axes.

    Returns:
        the figure; codes without a value of the covariate are grey.

    Example:
        >>> codes = np.random.default_rng(0).normal(size=(4, 3))
        >>> (axes,) = plot_latents(codes, {"sex": ["F", "M", "F", None]}, dimensions=(0, 2)).axes
        >>> axes.get_xlabel(), axes.get_ylabel(), [text.get_text() for text in axes.get_legend().get_texts()]
        ('z0', 'z2', ['F', 'M'])
    """
    codes = np.asarray(codes, dtype=float)
    names = ["first axis of the codes", "second axis"] if dimensions is None else [f"z{each}" for each in dimensions]
    centred = codes - codes.mean(axis=0)
    _, _, axes_of_codes = np.linalg.svd(centred, full_matrices=False)
    # a one-dimensional latent space has only one axis
    places = (
        centred @ axes_of_codes[:2].T if codes.shape[1] > 1 else np.column_stack([centred[:, 0], np.zeros(len(codes))])
    )
    if dimensions is not None:
        places = codes[:, list(dimensions)]
    columns = min(columns, max(len(covariates), 1))
    rows = -(-len(covariates) // columns)
    figure = Figure(figsize=(3.9 * columns, 3.3 * rows + 0.3), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(covariates) :]:
        axes.set_axis_off()
    for axes, (name, values) in zip(grid.flat, covariates.items(), strict=False):
        known = np.array([value is not None and value == value for value in values])
        axes.scatter(*places[~known].T, s=10, color="#dddddd")
        present = [value for value, there in zip(values, known, strict=True) if there]
        if all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in present):
            drawn = axes.scatter(*places[known].T, s=14, c=np.asarray(present, dtype=float), cmap="viridis")
            figure.colorbar(drawn, ax=axes)
        else:
            for number, category in enumerate(sorted({str(value) for value in present})):
                chosen = known & np.array([str(value) == category for value in values])
                axes.scatter(
                    *places[chosen].T, s=14, color=COLOURS[number % len(COLOURS)], label=figure_label(category)
                )
            axes.legend(frameon=False, fontsize=8)
        axes.set_title(figure_label(name), fontsize=10)
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.tick_params(labelsize=8)
    return figure


def plot_predictions(
    true: Array,
    predicted: Mapping[str, Array],
    covariate: str,
    labels: Mapping[str, str] | None = None,
    title: str = "",
) -> Figure:
    r"""Draw the predicted against the true values of a covariate, one panel per method.

    Args:
        true: true values, shape (n,).
        predicted: predicted values by method, shape (n,).
        covariate: name of the covariate, with its unit.
        labels: a line such as the score by method; ``None`` for no labels.
        title: title of the figure.

    Returns:
        the figure; predictions on the diagonal line are exact.

    Example:
        >>> true, predicted = np.array([20.0, 60.0]), {"VAE": np.array([25.0, 50.0]), "PCA": np.array([40.0, 40.0])}
        >>> figure = plot_predictions(true, predicted, "age [years]", labels={"VAE": "R² = 0.84"})
        >>> [axes.get_title() for axes in figure.axes], figure.axes[0].get_xlabel()
        (['VAE\nR² = 0.84', 'PCA'], 'true age [years]')
    """
    true = np.asarray(true, dtype=float)
    figure = Figure(figsize=(3.6 * len(predicted), 3.5), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, len(predicted), squeeze=False, sharex=True, sharey=True)[0]
    low, high = float(true.min()), float(true.max())
    for axes, (method, values) in zip(panels, predicted.items(), strict=True):
        axes.plot([low, high], [low, high], color="#999999", linewidth=1)
        axes.scatter(true, np.asarray(values, dtype=float), s=16, color=COLOURS[0], alpha=0.8)
        axes.set(xlabel=f"true {figure_label(covariate)}", ylabel=f"predicted {figure_label(covariate)}")
        axes.set_title(figure_label(f"{method}\n{(labels or {}).get(method, '')}".strip()), fontsize=9)
        axes.grid(alpha=0.3)
    return figure


def plot_precision_recall(
    curves: Mapping[str, tuple[Array, Array]],
    prevalence: float,
    labels: Mapping[str, str] | None = None,
    title: str = "",
) -> Figure:
    """Draw precision against recall for several methods, and the chance level.

    Args:
        curves: precision and recall by method, two arrays of the same shape.
        prevalence: share of positive voxels, which is the precision at chance level.
        labels: legend entries by method; ``None`` for the methods' names.
        title: title of the figure.

    Returns:
        the figure.

    Example:
        >>> curves = {"VAE": (np.array([1.0, 0.5]), np.array([0.5, 1.0]))}
        >>> (axes,) = plot_precision_recall(curves, prevalence=0.125, labels={"VAE": "VAE, AP 0.75"}).axes
        >>> [text.get_text() for text in axes.get_legend().get_texts()]
        ['VAE, AP 0.75', 'chance 0.125']
    """
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    for number, (method, (precision, recall)) in enumerate(curves.items()):
        axes.plot(
            recall,
            precision,
            color=COLOURS[number % len(COLOURS)],
            label=figure_label((labels or {}).get(method, method)),
        )
    axes.axhline(prevalence, color="#999999", linestyle=":", label=f"chance {prevalence:.3f}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return figure
