"""Progress of a training: one bar for all its steps, or a line per epoch where there is no terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor

SHOWN = ("train/loss", "val/loss")
"""Losses that are shown: the training loss is the mean over the epoch, as in ``metrics.csv``."""


class TrainingProgress(ProgressBar):
    """Show one bar for the whole training, with the time left, the epoch and its losses.

    Without a terminal, such as in a log file of a cluster, a line is printed per epoch instead. Metrics are read once
    per epoch: to read them after every step would make a GPU wait.

    Args:
        as_lines: whether to print a line per epoch; ``None`` for lines wherever there is neither a terminal nor a
            notebook.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> from monai_betavae import build_vae
        >>> options = {"callbacks": [TrainingProgress(as_lines=True)], "accelerator": "cpu", "logger": False}
        >>> options |= {"enable_checkpointing": False, "enable_model_summary": False, "random_state": 0}
        >>> vae = build_vae((4, 4, 4), 1, channels=(2, 2), warm_start="none", max_epochs=1, **options)
        >>> _ = vae.fit(DataLoader(torch.zeros(4, 1, 4, 4, 4), batch_size=2))  # doctest: +ELLIPSIS
        Epoch 1/1: train/loss ... (... s)
    """

    def __init__(self, as_lines: bool | None = None) -> None:
        super().__init__()
        self.as_lines = as_lines
        self._enabled = True
        self._bar: Any = None
        self._started_at = self._epoch_started_at = 0.0
        self._first_epoch = 0
        self._loss_sum: Any = None
        self._n_losses = 0

    def disable(self) -> None:
        """Show nothing, as on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show progress again."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the bar, at the epoch that a resumed training goes on from."""
        self._started_at, self._first_epoch = time.monotonic(), trainer.current_epoch
        if not self._enabled or self._lines():
            return
        from tqdm.auto import tqdm

        n_batches, n_epochs = trainer.num_training_batches, trainer.max_epochs or -1
        known = math.isfinite(n_batches)
        self._bar = tqdm(
            total=int(n_batches * n_epochs) if known and n_epochs > 0 else None,
            initial=int(n_batches * trainer.current_epoch) if known else 0,
            desc="training",
            unit="step",
            dynamic_ncols=True,
        )

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Note when the epoch starts."""
        self._epoch_started_at = time.monotonic()
        self._loss_sum, self._n_losses = None, 0
        if self._bar is not None and trainer.current_epoch == self._first_epoch:
            self._bar.set_postfix_str(f"epoch {_of(trainer)}")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar by a step, and add the loss on its device, since reading it would make a GPU wait."""
        if isinstance(outputs, Mapping) and isinstance(outputs.get("loss"), Tensor):
            loss = outputs["loss"].detach()
            self._loss_sum = loss if self._loss_sum is None else self._loss_sum + loss
            self._n_losses += 1
        if self._bar is not None:
            self._bar.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the epoch's losses."""
        shown = {name: trainer.callback_metrics[name] for name in SHOWN if name in trainer.callback_metrics}
        if self._n_losses:
            # what is logged is the last batch's loss, and of one process; all of them take part here
            shown["train/loss"] = trainer.strategy.reduce(self._loss_sum / self._n_losses, reduce_op="mean")
        if not self._enabled:
            return
        losses = [f"{name} {float(shown[name]):.4g}" for name in SHOWN if name in shown]
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join([f"epoch {_of(trainer)}", *losses]))
        elif self._lines():
            seconds = time.monotonic() - self._epoch_started_at
            print(f"Epoch {_of(trainer)}: {', '.join(losses)} ({seconds:.0f} s{self._left(trainer)})", flush=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error starts on a line of its own."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _lines(self) -> bool:
        if self.as_lines is not None:
            return self.as_lines
        return not sys.stderr.isatty() and not _in_notebook()

    def _left(self, trainer: pl.Trainer) -> str:
        done = trainer.current_epoch + 1
        remaining = (trainer.max_epochs or 0) - done
        if remaining <= 0:
            return ""
        seconds = (time.monotonic() - self._started_at) / (done - self._first_epoch) * remaining
        return f", about {duration_text(seconds)} left"


def _in_notebook() -> bool:
    """Return whether this process is a notebook's kernel; a library may import ``ipykernel`` in any other."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def duration_text(seconds: float) -> str:
    """Return a duration in the unit that one would say it in.

    Example:
        >>> [duration_text(seconds) for seconds in (8, 100, 3000, 9000)]
        ['8 s', '2 min', '50 min', '2.5 h']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _of(trainer: pl.Trainer) -> str:
    """Return the number of the epoch, from 1, and how many there are."""
    n_epochs = trainer.max_epochs or -1
    return f"{trainer.current_epoch + 1}" + (f"/{n_epochs}" if n_epochs > 0 else "")
