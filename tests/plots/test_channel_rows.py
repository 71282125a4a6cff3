"""Volumes of several channels as rows of a picture."""

import numpy as np

from monai_betavae.plots import channel_rows

SIDES = (2, 3, 4)


def test_the_channels_of_a_volume_follow_each_other():
    volumes = np.random.default_rng(0).random((3, 2, *SIDES))
    rows, names = channel_rows(volumes, ["a", "b", "c"], ["T1w", "T2w"])
    assert names == ["a\nT1w", "a\nT2w", "b\nT1w", "b\nT2w", "c\nT1w", "c\nT2w"]
    for row, (volume, channel) in enumerate((i, j) for i in range(3) for j in range(2)):
        np.testing.assert_array_equal(rows[row], volumes[volume, channel])


def test_steps_stay_together():
    steps = np.random.default_rng(0).random((2, 5, 3, *SIDES))
    rows, names = channel_rows(steps, ["z0", "z1"])
    assert names == [f"z{i}\nchannel-{j}" for i in range(2) for j in (1, 2, 3)]
    np.testing.assert_array_equal(rows[4], steps[1, :, 1])


def test_one_channel_has_its_own_name():
    volumes = np.random.default_rng(0).random((3, 1, *SIDES))
    rows, names = channel_rows(volumes, ["a", "b", "c"], None)
    np.testing.assert_array_equal(rows, volumes[:, 0])
    assert names == ["a", "b", "c"]
