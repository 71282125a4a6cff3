"""The epoch of the lowest validation loss, and when a training counts as overfitted."""

import pytest

from monai_betavae.workflows.training_course import describe_course


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
