"""What the losses of a training say about its length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

HARDLY = 0.02
"""Share by which a validation loss that hardly fell is below its first value at most."""

HALF = 0.5
"""Share of its first value below which the training loss has fallen by much."""


def describe_course(metrics: Mapping[str, Sequence[float]]) -> list[str]:
    """Return lines about the epoch of the lowest validation loss, and about overfitting.

    Overfitting is said where the training loss fell below half of its first value, while the validation loss never fell
    by more than 2 %. Epochs count from 1, as while training.

    Args:
        metrics: columns "train/loss" and "val/loss" of ``metrics.csv``, a value per epoch.

    Returns:
        no line where nothing was validated.

    Example:
        >>> for line in describe_course({"train/loss": [9.0, 6.0, 2.0], "val/loss": [10.0, 9.9, 9.95]}):
        ...     print(line.partition(": ")[0])
        Lowest validation loss
        Overfitted
        >>> describe_course({"train/loss": [9.0, 6.0], "val/loss": [10.0, 6.5]})
        ['Lowest validation loss: 6.5, after epoch 2 of 2']
    """
    training, validation = ([float(value) for value in metrics.get(name, [])] for name in ("train/loss", "val/loss"))
    finite = [index for index, value in enumerate(validation) if math.isfinite(value)]
    if not finite:
        return []
    best = min(finite, key=lambda index: validation[index])
    lines = [f"Lowest validation loss: {validation[best]:.4g}, after epoch {best + 1} of {len(validation)}"]
    # a loss with another sign or a start at 0 has no shares
    if len(training) == len(validation) and training[0] > 0 and validation[finite[0]] > 0:
        fell = 1 - validation[best] / validation[finite[0]]
        if training[-1] < HALF * training[0] and fell <= HARDLY:
            lines.append(
                f"Overfitted: the training loss fell from {training[0]:.4g} to {training[-1]:.4g}, the validation loss "
                f"by {max(fell, 0):.1%} at most. More epochs won't help; more subjects or fewer latents "
                "(--latent_dim) may."
            )
    return lines
