"""The checkpoint that a run is resumed from: written after every epoch, and where the run is asked to end."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from ..saving.atomic_files import UNFINISHED, name_unwritable_file
from ..saving.safe_loading import load_weights_only
from .preemption import EndingSignals, Preempted


class Position(NamedTuple):
    """Where in a training run a checkpoint was written.

    Attributes:
        epochs: that are finished.
        batches: of the next epoch that are finished.
        global_batch: items of a batch, of all processes together; ``None`` if the checkpoint doesn't say.
    """

    epochs: int
    batches: int
    global_batch: int | None


class LastCheckpoint(Checkpoint):
    """Write the state of a run after every epoch: weights, optimizer, loops, callbacks.

    It is written under a temporary name in the same folder, flushed, and renamed: a run that is killed at any moment
    leaves the checkpoint of the epoch before or the new one, never half of one. Lightning puts checkpoint callbacks
    last, so that the state of the others is that after the epoch.

    A run that is asked to end (SIGTERM, SIGUSR1) ends after the step it is at, or, in the last step of an epoch or in
    its validation, at the end of the epoch. The state is written there if the loader's sampler can begin in the middle
    of an epoch (:class:`~monai_betavae.data.GlobalOrder`); otherwise the last epoch's stays. All processes of a run end
    at the same step, whichever of them was asked.

    Not Lightning's ``ModelCheckpoint``: with ``save_top_k=0`` it writes ``last.ckpt`` at the end of the whole training
    only (2.6), and it doesn't flush to the disk before it renames.

    Attributes:
        settings: JSON text with the settings of the run, for whoever resumes it; set by whoever runs it, and read back
            by :func:`settings_of`. ``None`` for none.

    Args:
        path: the file.

    Raises:
        UnwritableFileError: naming the file, if it can't be written.
        Preempted: (a ``SystemExit``) where the run was asked to end, after the state was written.

    Example:
        >>> LastCheckpoint("models/last.ckpt").path.name
        'last.ckpt'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.settings: str | None = None
        self._ending = EndingSignals()
        self._batches = 0
        self._global_batch: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches of an unfinished epoch were trained on, how large they were, and the settings."""
        return {"batches": self._batches, "global_batch": self._global_batch, "settings": self.settings}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the folder: if it is gone later, that is an error."""
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals from now on; Lightning puts back the former handlers when the run is over."""
        self._ending = EndingSignals()
        self._ending.listen()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End here if the run was asked to, unless the epoch ends here anyway or gradients are being summed up."""
        number = self._asked(trainer)
        done = batch_idx + 1
        if number is None or trainer.is_last_batch or done % trainer.accumulate_grad_batches != 0:
            return
        loader = trainer.train_dataloader
        where = f"in epoch {trainer.current_epoch} after {done} of {trainer.num_training_batches} batches"
        if not hasattr(getattr(loader, "sampler", None), "start_at"):
            self._end(trainer, number, f"{where}; this epoch is begun anew, its loader can't begin in the middle")
        self._batches, self._global_batch = done, loader.batch_size * trainer.world_size  # type: ignore[union-attr]  # it has a sampler
        self._write(trainer)
        self._end(trainer, number, where)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the checkpoint, and end here if the run was asked to."""
        self._batches = 0
        self._write(trainer)
        number = self._asked(trainer)
        if number is not None:
            self._end(trainer, number, f"after epoch {trainer.current_epoch}")

    def _asked(self, trainer: pl.Trainer) -> int | None:
        """Return the signal that came, on any process."""
        received = self._ending.received
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(received is not None, all=False):
            return received or int(signal.SIGTERM)
        return received

    def _end(self, trainer: pl.Trainer, number: int, where: str) -> None:
        ended = Preempted(number)
        if trainer.is_global_zero:
            kept = f"{self.path} is written" if self.path.is_file() else "no epoch was finished"
            print(f"\nStopped by {ended.name} {where}: {kept}; --resume True goes on.", flush=True)
        raise ended

    def _write(self, trainer: pl.Trainer) -> None:
        """Write the checkpoint; every process takes part, the first one writes."""
        temporary = self.path.with_name(UNFINISHED + self.path.name)
        with name_unwritable_file(self.path):
            if not self.path.parent.is_dir():  # Lightning would make it again, without the run's other files
                raise FileNotFoundError(2, "its folder is gone", str(self.path.parent))
            try:
                # the default, but Lightning logs a line at every checkpoint if it isn't said
                trainer.save_checkpoint(temporary, weights_only=False)
                if trainer.is_global_zero:
                    with open(temporary, "rb") as written:
                        os.fsync(written.fileno())
                    os.replace(temporary, self.path)
            except BaseException:
                if trainer.is_global_zero:
                    temporary.unlink(missing_ok=True)
                raise


def position_of(checkpoint: str | os.PathLike[str]) -> Position:
    """Return where in a run a checkpoint was written; nothing in the file is executed.

    Raises:
        ValueError: naming the file, if it isn't the checkpoint of a training run.
    """
    content = load_weights_only(checkpoint)
    try:
        epochs = int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
        state = content.get("callbacks", {}).get(LastCheckpoint.__name__) or {}
        stored = state.get("global_batch")
        batches, global_batch = int(state.get("batches", 0)), None if stored is None else int(stored)
        if not isinstance(content.get("state_dict"), Mapping):
            raise TypeError("no weights")
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"{os.fspath(checkpoint)} must be the checkpoint of a training run.") from error
    return Position(epochs, batches, global_batch)


def settings_of(checkpoint: str | os.PathLike[str]) -> str | None:
    """Return the settings that a :class:`LastCheckpoint` stored; nothing in the file is executed.

    Args:
        checkpoint: the file.

    Returns:
        JSON text, or ``None`` if the checkpoint has none.

    Raises:
        ValueError: naming the file, if it isn't a checkpoint, or its settings aren't text.
    """
    content = load_weights_only(checkpoint)
    callbacks = content.get("callbacks") if isinstance(content, Mapping) else None
    if not isinstance(callbacks, Mapping):
        raise ValueError(f"{os.fspath(checkpoint)} must be the checkpoint of a training run.")
    state = callbacks.get(LastCheckpoint.__name__)
    settings = state.get("settings") if isinstance(state, Mapping) else None
    if settings is not None and not isinstance(settings, str):
        raise ValueError(
            f"{os.fspath(checkpoint)}: the settings of the run must be text, got {type(settings).__name__}."
        )
    return settings


def begin_at(loader: Any, position: Position, world_size: int = 1) -> None:
    """Let a loader begin where a checkpoint was written: in that epoch, after the batches that were trained on.

    Args:
        loader: of the training volumes.
        position: see :func:`position_of`.
        world_size: number of processes.

    Raises:
        ValueError: if the checkpoint was written in the middle of an epoch, and the loader can't begin there.
    """
    sampler = getattr(loader, "sampler", None)
    if hasattr(sampler, "start_at"):
        if position.batches and position.global_batch != loader.batch_size * world_size:
            raise ValueError(
                f"`batch_size` times the number of processes must be {position.global_batch} until the epoch that was "
                f"interrupted is over, got {loader.batch_size * world_size}."
            )
        sampler.start_at(position.epochs, position.batches * loader.batch_size)  # type: ignore[union-attr]  # it has it
    elif position.batches:
        raise ValueError(
            f"The run was interrupted after {position.batches} batches of an epoch: `train_dataloader` needs a sampler "
            f"that can begin there, such as monai_betavae.data.GlobalOrder, got {type(sampler).__name__}."
        )
