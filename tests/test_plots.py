"""Figures show the arrays they are given, where a reader expects them."""

import numpy as np

from monai_betavae.plots import plot_losses, plot_reconstructions, plot_traversals, plot_volumes, save_figure

VOLUMES = np.random.default_rng(0).uniform(size=(3, 10, 12, 8))


def test_losses():
    table = {"epoch": [0, 1], **{f"{stage}/{name}": [2.0, 1.0] for stage in ("train", "val") for name in
                                 ("loss", "rec_loss", "kl_loss")}}  # fmt: skip
    panels = plot_losses(table).axes
    assert [axes.get_title() for axes in panels] == ["objective", "reconstruction loss", "KL divergence [nats]"]
    for axes in panels:
        assert [line.get_label() for line in axes.lines] == ["training", "validation"]
        assert axes.lines[0].get_xdata().tolist() == [1, 2]


def test_reconstructions_show_input_output_and_their_difference():
    panels = plot_reconstructions(VOLUMES, VOLUMES + 0.25, ["a", "b", "c"]).axes
    shown = [np.asarray(axes.images[0].get_array()) for axes in panels[:27]]
    np.testing.assert_allclose(shown[1], shown[0] + 0.25)
    np.testing.assert_allclose(shown[2], 0.25)
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
