"""Figures show the arrays they are given, where a reader expects them."""

import io

import numpy as np
import pytest
from PIL import Image

from monai_betavae.plots import (
    plot_contact_sheet,
    plot_kl,
    plot_latents,
    plot_losses,
    plot_maps,
    plot_p_values,
    plot_precision_recall,
    plot_predictions,
    plot_reconstructions,
    plot_reliability,
    plot_traversals,
    plot_volumes,
    save_figure,
    traversal_gif,
)
from monai_betavae.plots.contact_sheet import planes_of

VOLUMES = np.random.default_rng(0).uniform(size=(3, 10, 12, 8))


def test_losses():
    table = {"epoch": [0, 1], **{f"{stage}/{name}": [2.0, 1.0] for stage in ("train", "val") for name in
                                 ("loss", "rec_loss", "kl_loss")}}  # fmt: skip
    panels = plot_losses(table).axes
    assert [axes.get_title() for axes in panels] == ["objective", "reconstruction loss", "KL divergence [nats]"]
    for axes in panels:
        assert [line.get_label() for line in axes.lines[:2]] == ["training", "validation"]
        assert axes.lines[0].get_xdata().tolist() == [1, 2]
        assert axes.lines[2].get_xdata() == [2, 2]  # the second epoch has the lower validation loss
    assert panels[0].get_legend().get_texts()[2].get_text() == "lowest validation objective, epoch 2"
    without = {name: values for name, values in table.items() if not name.startswith("val")}
    assert [len(axes.lines) for axes in plot_losses(without).axes] == [1, 1, 1]


def test_reconstructions_show_input_output_and_their_difference():
    panels = plot_reconstructions(VOLUMES, VOLUMES + 0.25, ["a", "b", "c"]).axes
    shown = [np.asarray(axes.images[0].get_array()) for axes in panels[:27]]
    np.testing.assert_allclose(shown[1], shown[0] + 0.25)
    np.testing.assert_allclose(shown[2], -0.25)
    assert shown[0].shape == (8, 12)  # sagittal: z up, y across
    assert shown[3].shape == (8, 10)
    assert shown[6].shape == (12, 10)


def test_left_is_left_and_up_is_up():
    volume = np.zeros((1, 10, 12, 8))
    volume[0, :2] = 1.0  # RAS: the first voxels in x are the subject's left
    axial = plot_volumes(volume, ["a"]).axes[2].images[0]
    assert axial.origin == "lower"
    array = np.asarray(axial.get_array())
    assert array[:, 0].all()
    assert not array[:, -1].any()


def test_traversals():
    volumes = np.stack([VOLUMES, VOLUMES[::-1]])
    figure = plot_traversals(volumes, [-1.0, 0.0, 1.0], ["z0", "z1"])
    assert len(figure.axes) == 2 * (3 + 3)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["z = -1.0", "z = 0", "z = +1.0"]
    change = np.asarray(figure.axes[3].images[0].get_array())
    first, last = (np.asarray(figure.axes[index].images[0].get_array()) for index in (0, 2))
    np.testing.assert_allclose(change, last - first)


def test_contact_sheet_has_three_planes_for_each_volume():
    figure = plot_volumes(VOLUMES, ["a", "b", "c"], columns=2)
    assert sum(bool(axes.images) for axes in figure.axes) == 9


def test_save(tmp_path):
    save_figure(plot_volumes(VOLUMES, ["a", "b", "c"]), tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1


def test_kl_from_the_largest_down_with_inactive_ones_in_grey():
    axes = plot_kl(np.array([0.5, 3.0, 0.0]), np.array([True, True, False])).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [3.0, 0.5, 0.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "0", "2"]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] == colours[1] != colours[2]
    assert axes.get_title() == "2 of 3 active, 3.5 nats in all"


def test_latents_lie_on_their_main_axes():
    rng = np.random.default_rng(0)
    codes = np.outer(rng.normal(size=20), [0, 3.0, 0, 4.0]) + np.outer(rng.normal(size=20), [0.1, 0, 0, 0])
    covariates = {"age": [float(i) if i else None for i in range(20)], "sex": ["F", "M"] * 10}
    figure = plot_latents(codes, covariates)
    age, sex = figure.axes[0], figure.axes[1]
    unknown, known = (np.asarray(each.get_offsets()) for each in age.collections)
    assert (len(unknown), len(known)) == (1, 19)
    np.testing.assert_allclose(known[:, 0].std() / known[:, 1].std(), 50, rtol=0.6)
    np.testing.assert_allclose(np.asarray(age.collections[1].get_array()), np.arange(1, 20))
    assert [text.get_text() for text in sex.get_legend().get_texts()] == ["F", "M"]
    together = np.concatenate([np.asarray(each.get_offsets()) for each in sex.collections])
    assert len(together) == 20
    assert len(plot_latents(codes[:, :1], covariates).axes) >= 2  # one dimension has one axis
    chosen = plot_latents(codes, {"sex": ["F"] * 20}, dimensions=(3, 1)).axes[0]
    np.testing.assert_allclose(np.asarray(chosen.collections[-1].get_offsets()), codes[:, [3, 1]])
    assert (chosen.get_xlabel(), chosen.get_ylabel()) == ("z3", "z1")


def test_predictions_against_truth():
    true = np.array([20.0, 40.0, 60.0])
    figure = plot_predictions(true, {"model": true + 1, "PCA": true - 1}, "age", {"model": "R² 0.9"})
    for axes, shift in zip(figure.axes, (1, -1), strict=True):
        offsets = np.asarray(axes.collections[0].get_offsets())
        np.testing.assert_allclose(offsets, np.column_stack([true, true + shift]))
        assert axes.lines[0].get_xdata().tolist() == axes.lines[0].get_ydata().tolist() == [20.0, 60.0]
    assert [axes.get_title() for axes in figure.axes] == ["model\nR² 0.9", "PCA"]


def test_precision_recall_and_chance():
    curve = (np.array([1.0, 0.5]), np.array([0.5, 1.0]))
    axes = plot_precision_recall({"model": curve}, 0.1, {"model": "model: 0.75"}).axes[0]
    assert axes.lines[0].get_xdata().tolist() == [0.5, 1.0]  # recall across, precision up
    assert axes.lines[0].get_ydata().tolist() == [1.0, 0.5]
    assert set(axes.lines[1].get_ydata()) == {0.1}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["model: 0.75", "chance 0.100"]


def test_maps_over_the_anatomy(tmp_path):
    maps = np.zeros((2, 10, 12, 8))
    maps[0, 4:6, 5:7, 3:5] = 1.0
    figure = plot_maps(maps, VOLUMES[:2], np.diag([4.0, 4.0, 4.0, 1.0]), ["a", "b"], masks=maps > 0)
    save_figure(figure, tmp_path / "maps.png")  # the second map is empty
    with Image.open(tmp_path / "maps.png") as picture:
        assert picture.size[0] > 300


def test_maps_from_a_threshold_are_cut_at_their_largest_voxel():
    maps = 2.5 * np.random.default_rng(0).uniform(-1, 1, (2, 10, 12, 8))
    maps[0, 2, 9, 6] = -8.0
    figure = plot_maps(maps, VOLUMES[:2], np.diag([4.0, 4.0, 4.0, 1.0]), ["a", "b"], threshold=3.0)
    places = [text.get_text() for axes in figure.axes for text in axes.texts if "=" in text.get_text()]
    assert places[:3] == ["x=8", "y=36", "z=24"]  # nothing of the second map is drawn


def test_a_traversal_moves_there_and_back():
    volumes = np.linspace(0, 1, 5)[None, :, None, None, None] * np.ones((1, 5, 8, 9, 7))
    picture = Image.open(io.BytesIO(traversal_gif(volumes, [-2, -1, 0, 1, 2], ["z0"])))
    assert (picture.format, picture.n_frames, picture.info["loop"]) == ("GIF", 8, 0)
    # the darkest pixel of the middle of each frame: there and back
    shades = []
    for frame in range(picture.n_frames):
        picture.seek(frame)
        grey = np.asarray(picture.convert("L"))
        shades.append(int(grey[grey.shape[0] // 2 + 20, grey.shape[1] // 2]))
    assert shades[:5] == sorted(shades[:5])
    assert shades[0] < shades[2] < shades[4]
    assert shades[5:] == shades[3:0:-1]


def test_a_contact_sheet_shows_each_volumes_middle_planes():
    volume = np.zeros((4, 6, 8), np.float32)
    volume[2, 3, 4] = 1  # the middle of each axis
    image, extent = planes_of(volume, (2.0, 1.0, 1.0))
    # sagittal 6 x 8, coronal 8 x 8 (x is twice as coarse), axial 8 x 6, side by side
    assert image.shape == (8, 6 + 8 + 8)
    assert extent == (22.0, 8.0)
    # up is up: voxel 4 of 8 in z is the fourth row from the top
    assert image[3, 3] == 1
    assert image[3, 6 + 4] == image[3, 6 + 5] == 1
    assert image[3, 14 + 4] == image[3, 14 + 5] == 1
    assert image.sum() == 5


def test_a_contact_sheet_marks_names():
    planes = [planes_of(np.random.default_rng(i).random((5, 6, 7))) for i in range(8)]
    figure = plot_contact_sheet(planes, [f"sub-{i}" for i in range(8)], [i == 3 for i in range(8)], "title", columns=3)
    titles = [axes.title for axes in figure.axes if axes.title.get_text()]
    assert [title.get_text() for title in titles] == [f"sub-{i}" for i in range(8)]
    assert [title.get_color() != "black" for title in titles] == [i == 3 for i in range(8)]
    assert len(figure.axes) == 9


def test_reliability_from_the_highest_down_without_what_is_unknown():
    (axes,) = plot_reliability({"a": np.array([0.2, np.nan, 0.9]), "PCA": np.array([-0.3]), "b": np.zeros(0)}).axes
    lines = [line.get_ydata().tolist() for line in axes.lines]
    assert lines == [[0.9, 0.2], [-0.3], []]
    assert axes.lines[0].get_xdata().tolist() == [1, 2]
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--", "-"]
    assert axes.get_ylim()[0] < -0.3


def test_p_values_against_the_uniform_distribution_with_their_band():
    p = np.array([0.9, np.nan, 0.2, 0.6])
    (axes,) = plot_p_values(p).axes
    points = axes.lines[-1]
    assert points.get_xdata().tolist() == [0.25, 0.5, 0.75]
    assert points.get_ydata().tolist() == [0.2, 0.6, 0.9]
    band = axes.collections[0].get_paths()[0].vertices
    lowest = band[band[:, 0] == 0.25][:, 1]
    # the smallest of three uniform numbers is below x with the probability 1 - (1 - x)^3
    np.testing.assert_allclose([lowest.min(), lowest.max()], 1 - np.array([0.975, 0.025]) ** (1 / 3), rtol=1e-6)


def test_the_band_of_ranks_holds_95_percent_of_simulated_studies():
    rng = np.random.default_rng(0)
    n, m = 30, 20
    reference, scores = rng.normal(size=(4000, n)), rng.normal(size=(4000, m))
    p = (1 + (reference[:, None] >= scores[:, :, None]).sum(axis=2)) / (n + 1)
    (axes,) = plot_p_values(p[0], n_reference=n).axes
    band = axes.collections[0].get_paths()[0].vertices
    sorted_p = np.sort(p, axis=1)
    for i in (0, 9, 19):
        ends = band[np.isclose(band[:, 0], (i + 1) / (m + 1))][:, 1]
        inside = ((sorted_p[:, i] >= ends.min() - 1e-9) & (sorted_p[:, i] <= ends.max() + 1e-9)).mean()
        assert 0.94 < inside < 0.99


def test_p_values_that_cannot_be_drawn_are_refused():
    for p in ([], [float("nan")], [1.2], [-0.1, 0.5]):
        with pytest.raises(ValueError, match="`p` must hold values from 0 to 1, at least one"):
            plot_p_values(np.array(p))
    with pytest.raises(ValueError, match="`n_reference` must be an integer >= 1"):
        plot_p_values(np.array([0.5]), n_reference=0)
