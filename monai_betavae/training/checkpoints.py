"""The checkpoint for resuming a run, written after every epoch and when a signal stops the run."""

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
    """Position in a training run at which a checkpoint was written.

    Attributes:
        epochs: number of finished epochs.
        batches: number of finished batches of the next epoch.
        global_batch: number of items of a batch over all processes; ``None`` if the checkpoint doesn't contain it.
    """

    epochs: int
    batches: int
    global_batch: int | None


class LastCheckpoint(Checkpoint):
    """Write the state of a run after every epoch: weights, optimizer, loops and callbacks.

    The file is written under a temporary name in the same folder, flushed and renamed. A run that is killed at any
    moment leaves the checkpoint of the previous epoch or the new one, never a partial file. Lightning runs checkpoint
    callbacks last, so the other callbacks are stored in their state after the epoch.

    After SIGTERM or SIGUSR1 the run stops after the current step; in the last step of an epoch or during validation it
    stops at the end of the epoch. The state at that step is written if the loader's sampler can start in the middle of
    an epoch (:class:`~monai_betavae.data.GlobalOrder`); otherwise the checkpoint of the last epoch stays. All processes
    of a run stop at the same step, whichever of them received the signal.

    Lightning's ``ModelCheckpoint`` is no replacement: with ``save_top_k=0`` it writes ``last.ckpt`` only at the end of
    the whole training (2.6), and it doesn't flush to the disk before it renames.

    Attributes:
        settings: JSON text with the settings of the run, for resuming it, or ``None``. The caller that runs the
            training sets it; :func:`settings_of` reads it back.

    Args:
        path: the file.

    Raises:
        UnwritableFileError: naming the file, if it can't be written.
        Preempted: (a ``SystemExit``) after a signal, once the state is written.

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
        """Return the number and size of the finished batches of an unfinished epoch, and the settings."""
        return {"batches": self._batches, "global_batch": self._global_batch, "settings": self.settings}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Create the folder now; if it disappears later, writing fails instead of creating it again."""
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals from now on; Lightning restores the previous handlers after the run."""
        self._ending = EndingSignals()
        self._ending.listen()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here after a signal, unless the epoch ends here anyway or gradients are being accumulated."""
        number = self._asked(trainer)
        done = batch_idx + 1
        if number is None or trainer.is_last_batch or done % trainer.accumulate_grad_batches != 0:
            return
        loader = trainer.train_dataloader
        where = f"in epoch {trainer.current_epoch + 1} after {done} of {trainer.num_training_batches} batches"
        if not hasattr(getattr(loader, "sampler", None), "start_at"):
            self._end(trainer, number, f"{where}; this epoch is begun anew, its loader can't begin in the middle")
        self._batches, self._global_batch = done, loader.batch_size * trainer.world_size  # type: ignore[union-attr]  # it has a sampler
        self._write(trainer)
        self._end(trainer, number, where)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the checkpoint, and stop here after a signal."""
        self._batches = 0
        self._write(trainer)
        number = self._asked(trainer)
        if number is not None:
            self._end(trainer, number, f"after epoch {trainer.current_epoch + 1}")

    def _asked(self, trainer: pl.Trainer) -> int | None:
        """Return the signal that any of the processes received."""
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
        """Write the checkpoint; every process takes part, and the first one writes."""
        temporary = self.path.with_name(UNFINISHED + self.path.name)
        with name_unwritable_file(self.path):
            if not self.path.parent.is_dir():  # Lightning would create it again, without the run's other files
                raise FileNotFoundError(2, "its folder is gone", str(self.path.parent))
            try:
                # this is the default, but Lightning logs a line at every checkpoint if it isn't passed
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
    """Return the position in the run at which a checkpoint was written, without executing anything in the file.

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
    """Return the settings that a :class:`LastCheckpoint` stored, without executing anything in the file.

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
    """Make a loader start at the position of a checkpoint: in its epoch, after the finished batches.

    Args:
        loader: loader of the training volumes.
        position: position of the checkpoint, from :func:`position_of`.
        world_size: number of processes.

    Raises:
        ValueError: if the checkpoint was written in the middle of an epoch, and the loader can't start there.
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
