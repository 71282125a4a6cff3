"""The epoch of the lowest validation loss, and when a training counts as overfitted."""

import math

import pytest

from monai_betavae.workflows.training_course import best_epoch, describe_course, is_still_falling


def course(training, validation, **kept):
    return describe_course({"train/loss": training, "val/loss": validation}, **kept)


def test_the_best_epoch_counts_from_one():
    assert course([5, 4, 3], [9, 7, 8]) == ["Lowest validation loss: 7, after epoch 2 of 3"]


def test_the_weights_may_be_those_before_the_first_epoch():
    (line,) = course([5, 4, 3], [9, 8, 8.5], kept=7.5)
    assert line.startswith("Lowest validation loss: 7.5, before the first of 3 epochs")
    assert course([5, 4, 3], [9, 8, 8.5], kept=8.0) == ["Lowest validation loss: 8, after epoch 2 of 3"]
    # a training loss that fell by much, and weights that no epoch has bettered
    assert course([5, 4, 2], [9, 8, 8.5], kept=7.5)[1].startswith("Overfitted")


def test_without_validation_nothing_is_said():
    assert describe_course({"train/loss": [3.0, 2.0]}) == []
    assert course([3, 2], [float("nan")] * 2) == []


@pytest.mark.parametrize(
    ("training", "validation", "overfitted"),
    [
        ([165, 100, 51], [1255, 1245, 1254], True),
        ([165, 100, 51], [1255, 1300, 1400], True),
        ([165, 100, 51], [1255, 1100, 1254], False),  # it helped for a while
        ([165, 120, 100], [1255, 1245, 1254], False),  # the training loss hardly fell either
        ([-1, -2, -3], [-1, -1, -1], False),
        ([51], [1255], False),
    ],
)
def test_overfitting_is_a_loss_that_falls_in_training_alone(training, validation, overfitted):
    lines = course(training, validation)
    assert len(lines) == 1 + overfitted
    if overfitted:
        assert lines[1].startswith(f"Overfitted: the training loss fell from {training[0]} to {training[-1]}")
        assert "--latent_dim" in lines[1]


@pytest.mark.parametrize(
    ("validation", "kept", "epoch", "falling"),
    [
        ([5.0, 4.0, 3.0], math.inf, 3, True),
        ([5.0, 3.0, 4.0], math.inf, 2, False),
        ([5.0 - 0.1 * n for n in range(19)] + [9.0], math.inf, 19, True),  # the last but one of twenty
        ([5.0 - 0.1 * n for n in range(17)] + [9.0] * 3, math.inf, 17, False),
        ([5.0, 4.0], 3.0, 0, False),  # the weights before the first epoch were better
        ([math.nan], math.inf, None, True),
        ([], math.inf, None, True),  # nothing was validated
    ],
)
def test_more_epochs_may_help_where_the_lowest_loss_is_recent(validation, kept, epoch, falling):
    assert best_epoch({"val/loss": validation}, kept) == epoch
    assert is_still_falling({"val/loss": validation}, kept) is falling
