"""The picture of a cross-validation."""

import pandas as pd
import pytest

from monai_betavae.plots import plot_folds


def test_bars_are_ratios_of_sums_and_points_those_of_volumes():
    table = pd.DataFrame(
        {"fold": [0, 0, 1], "sse": [1.0, 3.0, 2.0], "sse_mean_image": [4.0, 4.0, 4.0], "sse_pca": [2.0, 2.0, 4.0]}
    )
    (axes,) = plot_folds(table, "simulated").axes
    points = [collection.get_offsets()[:, 1].tolist() for collection in axes.collections]
    assert points == [[0.25, 0.75], [0.5], [0.5, 0.5], [1.0]]  # the model's folds, then PCA's
    bars = [line.get_ydata()[0] for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 2.5]
    assert bars == pytest.approx([0.5, 0.5, 0.5, 1.0])
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["this model: 0.50", "PCA: 0.67", "mean training image"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1"]


def test_a_baseline_that_a_fold_lacks_is_left_out():
    table = pd.DataFrame({"fold": [0, 1], "sse": [1.0, 2.0], "sse_mean_image": 4.0, "sse_pca": [2.0, None]})
    (axes,) = plot_folds(table).axes
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["this model: 0.38", "mean training image"]


def test_without_baselines_the_errors_themselves():
    (axes,) = plot_folds(pd.DataFrame({"fold": [0, 1], "sse": [100.0, 300.0]})).axes
    assert axes.get_ylabel() == "summed squared error"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["this model: 200"]
