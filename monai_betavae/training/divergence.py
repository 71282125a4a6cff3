"""Detection of failing training: stop if values aren't finite, warn if the latents collapse or explode."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from ..batches.images import item_names

COLLAPSED_KL = 0.01
"""KL divergence in nats per subject below which the posterior equals the prior and no latent unit is active."""

EXPLODING_KL, EXPLODING_TIMES = 100.0, 10.0
"""The KL divergence explodes if it exceeds this value and this multiple of the first epoch's value."""

MAX_NAMED = 8


class StopOnDivergence(pl.Callback):
    """Stop training with a one-line error if the loss or the weights aren't finite, and warn of early signs.

    The loss is checked after every step and the weights at the end of every epoch. Place this callback before those
    that write weights, so that it stops before they write. It warns once if the posterior collapses (a KL divergence
    below 0.01 nats per subject) and once if it explodes (above 100 nats and 10 times the first epoch's value).

    Args:
        checkpoint: the last good checkpoint, for the message; it needn't exist.

    Raises:
        ValueError: naming step, epoch, the subjects of the batch and the last good checkpoint.

    Example:
        >>> StopOnDivergence("models/last.ckpt").checkpoint.name
        'last.ckpt'
    """

    def __init__(self, checkpoint: str | os.PathLike[str]) -> None:
        self.checkpoint = Path(checkpoint)
        self._before: list[str] = []
        self._first_kl: float | None = None
        self._warned: set[str] = set()

    def state_dict(self) -> dict[str, Any]:
        """Return the KL divergence of the first epoch."""
        return {"first_kl": self._first_kl}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the first epoch's KL divergence of the resumed run."""
        self._first_kl = state_dict["first_kl"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the loss of a step."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        names = item_names(batch)
        if isinstance(loss, torch.Tensor) and not bool(torch.isfinite(loss.detach()).all()):
            # the optimizer has already stepped, so the weights may be spoilt; the batch before may be the cause
            what = f"the loss is {float(loss.detach().float().mean()):g}, of {_listed(names)}"
            if self._before:
                what += f"; the step before was of {_listed(self._before)}"
            raise ValueError(self._message(trainer, what))
        self._before = names

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the weights and the KL divergence."""
        bad = non_finite(pl_module)
        if bad:
            what = f"{len(bad)} weights or buffers aren't finite, the first {bad[0]}; the last step was of "
            raise ValueError(self._message(trainer, what + _listed(self._before)))
        metrics = trainer.callback_metrics
        found = metrics.get("val/kl_loss", metrics.get("train/kl_loss"))
        if found is not None:
            self._look_at_kl(float(found))

    def _look_at_kl(self, kl: float) -> None:
        if self._first_kl is None:
            self._first_kl = kl
        if kl < COLLAPSED_KL:
            self._warn(
                "collapsed",
                f"The posterior has collapsed: its KL divergence is {kl:.2g} nats, so no latent unit is active. Lower "
                "beta or train longer.",
            )
        elif kl > max(EXPLODING_KL, EXPLODING_TIMES * self._first_kl):
            self._warn(
                "exploding",
                f"The KL divergence explodes: {kl:.3g} nats, after {self._first_kl:.3g} in the first epoch. Lower the "
                "learning rate or raise beta.",
            )

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, stacklevel=2)

    def _message(self, trainer: pl.Trainer, what: str) -> str:
        kept = (
            f"The last good checkpoint is {self.checkpoint}: go on from it with --resume True, a lower --learning_rate "
            "or without these volumes."
            if self.checkpoint.is_file()
            else "No checkpoint was written yet: lower --learning_rate, or leave these volumes out."
        )
        return f"Training diverged at step {trainer.global_step} (epoch {trainer.current_epoch + 1}): {what}. {kept}"


def non_finite(module: nn.Module) -> list[str]:
    """Return the names of the weights and buffers of a module that contain values that aren't finite.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = nn.init.constant_(layer.bias, float("nan"))
        >>> non_finite(layer)
        ['bias']
    """
    return [
        name
        for name, value in module.state_dict().items()
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]


def _listed(names: list[str]) -> str:
    if not names:
        return "a batch without names"
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
