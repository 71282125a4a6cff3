"""What the losses of a training say about its length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

HARDLY = 0.02
"""Share by which a validation loss that hardly fell is below its first value at most."""

RECENT = 0.1
"""Share of the epochs, at the end, that the lowest validation loss is among where more epochs promise a lower one."""

HALF = 0.5
"""Share of its first value below which the training loss has fallen by much."""


def is_overfitted(metrics: Mapping[str, Sequence[float]], start: float = math.inf) -> bool:
    """Return whether the training loss fell below half of its first value, and the validation loss by at most 2 %.

    Args:
        metrics: columns "train/loss" and "val/loss" of ``metrics.csv``, a value per epoch.
        start: validation loss before the first epoch, where it is lower than that of every epoch.

    Example:
        >>> is_overfitted({"train/loss": [9.0, 6.0, 2.0], "val/loss": [10.0, 9.9, 9.95]})
        True
        >>> is_overfitted({"train/loss": [9.0, 6.0, 2.0], "val/loss": [10.0, 6.5, 7.0]})
        False
    """
    training, validation = list(metrics.get("train/loss", [])), _finite(metrics)
    # a loss with another sign or a start at 0 has no shares
    if not validation or not training or min(training[0], validation[0][0]) <= 0:
        return False
    lowest = min(validation)[0]
    return training[-1] < HALF * training[0] and (start < lowest or lowest >= (1 - HARDLY) * validation[0][0])


def overfitting_text(metrics: Mapping[str, Sequence[float]], start: float = math.inf) -> str | None:
    """Return the line about overfitting, ``None`` where there is none; arguments as in :func:`is_overfitted`."""
    if not is_overfitted(metrics, start):
        return None
    training = metrics["train/loss"]
    return (
        f"Overfitted: the training loss fell from {training[0]:.4g} to {training[-1]:.4g}, and the validation loss "
        "hardly or not at all. More epochs won't help; more subjects or fewer latents (--latent_dim) may."
    )


def best_epoch(metrics: Mapping[str, Sequence[float]], kept: float = math.inf) -> int | None:
    """Return the epoch of the lowest validation loss, from 1; 0 for the weights before the first epoch.

    Args:
        metrics: column "val/loss" of ``metrics.csv``, a value per epoch.
        kept: validation loss of the weights that were kept.

    Returns:
        ``None`` where nothing was validated.

    Example:
        >>> best_epoch({"val/loss": [3.0, 2.0, 2.5]}), best_epoch({"val/loss": [3.0]}, kept=2.0), best_epoch({})
        (2, 0, None)
    """
    validation = _finite(metrics)
    if not validation:
        return None
    lowest, epoch = min(validation)
    return 0 if kept < lowest else epoch


def epochs_text(n_epochs: int, best: int | None) -> str:
    """Return how long a training was, and of which epoch its weights are, where that is known.

    Example:
        >>> epochs_text(20, 6), epochs_text(20, 0), epochs_text(20, None)
        ('20, weights of epoch 6', '20, weights of before the first', '20')
    """
    if best is None:
        return str(n_epochs)
    return f"{n_epochs}, weights of {f'epoch {best}' if best else 'before the first'}"


def is_still_falling(metrics: Mapping[str, Sequence[float]], kept: float = math.inf) -> bool:
    """Return whether the lowest validation loss is among the last tenth of the epochs, or nothing was validated.

    Example:
        >>> is_still_falling({"val/loss": [3.0, 2.0, 1.0]}), is_still_falling({"val/loss": [3.0, 2.0, 2.5]})
        (True, False)
    """
    epoch = best_epoch(metrics, kept)
    return epoch is None or (epoch > 0 and epoch > len(metrics["val/loss"]) * (1 - RECENT))


def describe_course(metrics: Mapping[str, Sequence[float]], kept: float = math.inf) -> list[str]:
    """Return lines about the epoch of the lowest validation loss, and about overfitting.

    Args:
        metrics: columns "train/loss" and "val/loss" of ``metrics.csv``, a value per epoch.
        kept: validation loss of the weights that were kept, which may be those before the first epoch.

    Returns:
        no line where nothing was validated. Epochs count from 1, as while training.

    Example:
        >>> describe_course({"train/loss": [9.0, 6.0], "val/loss": [10.0, 6.5]})
        ['Lowest validation loss: 6.5, after epoch 2 of 2']
        >>> describe_course({"train/loss": [9.0, 6.0], "val/loss": [10.0, 6.5]}, kept=6.0)
        ['Lowest validation loss: 6, before the first of 2 epochs: the weights are those that training started from']
    """
    validation = _finite(metrics)
    if not validation:
        return []
    lowest, epoch = min(validation)[0], best_epoch(metrics, kept)
    n_epochs = len(metrics["val/loss"])
    if epoch == 0:
        lines = [
            f"Lowest validation loss: {kept:.4g}, before the first of {n_epochs} epochs: the weights are those that "
            "training started from"
        ]
    else:
        lines = [f"Lowest validation loss: {lowest:.4g}, after epoch {epoch} of {n_epochs}"]
    overfitted = overfitting_text(metrics, kept)
    return lines if overfitted is None else [*lines, overfitted]


def _finite(metrics: Mapping[str, Sequence[float]]) -> list[tuple[float, int]]:
    """Return each finite validation loss with its epoch, from 1."""
    losses = enumerate(metrics.get("val/loss", []), start=1)
    return [(float(loss), epoch) for epoch, loss in losses if math.isfinite(loss)]
