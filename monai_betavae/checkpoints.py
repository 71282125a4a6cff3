"""The checkpoint that a run is resumed from: written after every epoch, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from .files import UNFINISHED


class LastCheckpoint(Checkpoint):
    """Write the state of a run after every epoch: weights, optimizer, loops, callbacks.

    It is written under a temporary name in the same folder, flushed, and renamed: a run that is killed at any moment
    leaves the checkpoint of the epoch before or the new one, never half of one. Lightning puts checkpoint callbacks
    last, so that the state of the others is that after the epoch.

    Not Lightning's ``ModelCheckpoint``: with ``save_top_k=0`` it writes ``last.ckpt`` at the end of the whole training
    only (2.6), and it doesn't flush to the disk before it renames.

    Args:
        path: the file.

    Example:
        >>> LastCheckpoint("models/last.ckpt").path.name
        'last.ckpt'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the checkpoint; every process takes part, the first one writes."""
        temporary = self.path.with_name(UNFINISHED + self.path.name)
        try:
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                with open(temporary, "rb") as written:
                    os.fsync(written.fileno())
                os.replace(temporary, self.path)
        except BaseException:
            if trainer.is_global_zero:
                temporary.unlink(missing_ok=True)
            raise
