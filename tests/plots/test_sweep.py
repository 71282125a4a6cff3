import pytest

from monai_betavae.plots import plot_sweep


def row(udr=0.4, **setting):
    made = {"error": 4.0, "error_sd": 0.1, "error_ratio": 0.4, "kl": 20.0, "kl_sd": None, "active_units": 3, "udr": udr}
    return {**setting, **made, "chosen": False}


def test_settings_that_differ_in_the_first_id_are_joined():
    rows = [row(beta=beta, latent_dim=size) for size in (8, 16) for beta in (4.0, 1.0)]
    rows[1]["chosen"] = True
    figure = plot_sweep(rows, ["beta", "latent_dim"], {"mean_image": 10.0, "pca": {8: 5.0, 16: 4.0}}, "simulated")
    assert figure.get_suptitle() == "simulated"
    left, right = figure.axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["latent_dim 16", "latent_dim 8"]
    assert right.get_xscale() == "log"
    assert right.lines[0].get_xdata().tolist() == [1.0, 4.0]
    assert right.get_ylabel() == "UDR over seeds"
    assert {"PCA, 8", "beta 1.0"} <= {text.get_text() for text in left.texts}
    figure.canvas.draw()


@pytest.mark.parametrize("values", [["conv", "residual"], [True, False], [0.0, 1.0]])
def test_any_values_are_drawn(values):
    rows = [{**row(udr=None, option=value), "error_ratio": None} for value in values]
    figure = plot_sweep(rows, ["option"], {"mean_image": None, "pca": {}})
    assert [axes.get_ylabel() for axes in figure.axes] == ["validation error", "active units"]
    figure.canvas.draw()


def test_linear_models_of_any_beta_are_a_dashed_curve_as_far_as_the_settings():
    rows = [row(beta=beta) for beta in (1.0, 4.0)]
    curve = ([0.0, 10.0, 20.0, 200.0], [10.0, 8.0, 6.0, 5.0])
    figure = plot_sweep(rows, ["beta"], {"mean_image": 10.0, "pca": {8: 5.0}, "pca_curves": {8: curve}})
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert [line.get_ydata().tolist() for line in dashed] == [pytest.approx([1.0, 0.8, 0.6])]
    figure.canvas.draw()
