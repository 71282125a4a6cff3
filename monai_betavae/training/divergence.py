"""Training that goes wrong: stopped where numbers are not finite, warned of where latents collapse or explode."""

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
"""Nats per subject under which the posterior is the prior: no latent unit says anything."""

EXPLODING_KL, EXPLODING_TIMES = 100.0, 10.0
"""A KL divergence above this, and this many times that of the first epoch, explodes."""

MAX_NAMED = 8


class StopOnDivergence(pl.Callback):
    """Stop with one clear line where the loss or the weights aren't finite any more, and warn of what leads there.

    The loss is looked at after every step, the weights at the end of every epoch, before anything is written: place
    it before the callbacks that write weights. A warning comes once for a posterior that has collapsed (a KL divergence
    below 0.01 nats per subject) and once for one that explodes (above 100 nats and 10 times the first epoch's).

    Args:
        checkpoint: the last good checkpoint, for the message; it needn't exist.

    Raises:
        ValueError: naming step, epoch, the batch's subjects and the last good checkpoint.

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
        """Return the first epoch's KL divergence."""
        return {"first_kl": self._first_kl}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the first epoch's KL divergence of the run that is resumed."""
        self._first_kl = state_dict["first_kl"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss of a step."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        names = item_names(batch)
        if isinstance(loss, torch.Tensor) and not bool(torch.isfinite(loss.detach()).all()):
            # the weights have had their step since; if this loss spoilt them, they were good before
            what = f"the loss is {float(loss.detach().float().mean()):g}, of {_listed(names)}"
            if self._before:
                what += f"; the step before was of {_listed(self._before)}"
            raise ValueError(self._message(trainer, what))
        self._before = names

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the weights, and at the KL divergence."""
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
        return f"Training diverged at step {trainer.global_step} (epoch {trainer.current_epoch}): {what}. {kept}"


def non_finite(module: nn.Module) -> list[str]:
    """Return the names of a module's weights and buffers that hold a value that isn't finite.

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
