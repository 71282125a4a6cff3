"""Lightning callbacks of a training run: table of losses, best weights, learning rate schedule."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn

from .._checks import check_integer, check_real
from ..saving.atomic_files import write_table
from ..saving.safe_loading import save_weights
from .divergence import non_finite
from .learning_rate import rate_factor

LOSSES = ("loss", "rec_loss", "kl_loss")
TIMING_FILE = "timing.csv"


class MetricsTable(pl.Callback):
    """Write ``metrics.csv``: one row per epoch with the mean training and validation losses.

    Columns: epoch, step, train/loss, train/rec_loss, train/kl_loss, an objective's further terms, val/..., lr, and what
    else training logs, such as train/beta of a schedule. Training losses are averaged over the batches of the epoch,
    while the weights change; validation losses are computed after the epoch. The checkpoint stores the rows, so that a
    resumed run continues its table and ends with the same table as an uninterrupted run. The duration of each epoch,
    which differs between runs, is in ``timing.csv`` next to it.

    Args:
        path: the file; it is complete after every epoch.

    Example:
        >>> import tempfile
        >>> import pandas
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> from monai_betavae import build_vae
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = MetricsTable(Path(folder) / "metrics.csv")
        ...     options = {"callbacks": [table], "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
        ...     options |= {"enable_progress_bar": False, "enable_model_summary": False, "random_state": 0}
        ...     vae = build_vae((4, 4, 4), 1, channels=(2, 2), warm_start="none", max_epochs=2, **options)
        ...     _ = vae.fit(DataLoader(torch.zeros(4, 1, 4, 4, 4), batch_size=2))
        ...     written = pandas.read_csv(table.path)
        >>> written[["epoch", "step"]].to_numpy().tolist(), list(written.columns[2:])
        ([[0, 2], [1, 4]], ['train/loss', 'train/rec_loss', 'train/kl_loss', 'lr'])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.rows: list[dict[str, float]] = []
        self.seconds: list[dict[str, float]] = []
        self._sums: dict[str, Tensor] = {}
        self._batches = 0
        self._started = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far and the sums of an unfinished epoch."""
        taken = time.monotonic() - self._started
        unfinished = {"sums": self._sums, "batches": self._batches, "seconds": taken}
        return {"rows": self.rows, "seconds": self.seconds, "unfinished": unfinished}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows of the resumed run and the sums of its unfinished epoch."""
        self.rows = list(state_dict["rows"])
        self.seconds = list(state_dict.get("seconds", []))
        unfinished = state_dict.get("unfinished")
        if unfinished is not None:
            self._sums, self._batches = dict(unfinished["sums"]), int(unfinished["batches"])
            self._started = time.monotonic() - float(unfinished["seconds"])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Create the folder now; if it disappears later, writing fails instead of creating it again."""
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the sums for a new epoch."""
        self._sums, self._batches, self._started = {}, 0, time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the losses of a batch on their device, since reading their values would make a GPU synchronise."""
        if isinstance(outputs, Mapping):
            for name in (*LOSSES, *(name for name in outputs if name not in LOSSES)):
                value = outputs[name]
                # a derived class may return more than its terms
                if name in LOSSES or (isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()):
                    value = value.detach()
                    self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._batches += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the row of the epoch and write the table."""
        row: dict[str, float] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        for name, total in self._sums.items():
            mean = trainer.strategy.reduce(total / self._batches, reduce_op="mean")
            row[f"train/{name}"] = float(mean)
        for name in list(self._sums) or LOSSES:
            if f"val/{name}" in trainer.callback_metrics:
                row[f"val/{name}"] = float(trainer.callback_metrics[f"val/{name}"])
        # what else was logged of the last batch, such as a weight that follows a schedule
        others = [name for name in trainer.callback_metrics if name.startswith("train/") and name not in row]
        row.update({name: float(trainer.callback_metrics[name]) for name in others})
        row["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        self.rows.append(row)
        taken = round(time.monotonic() - self._started, 3)
        self.seconds.append({"epoch": row["epoch"], "seconds": taken})
        if trainer.is_global_zero:
            import pandas as pd

            write_table(pd.DataFrame(self.rows), self.path, make_folder=False)
            write_table(pd.DataFrame(self.seconds), self.path.with_name(TIMING_FILE), make_folder=False)


class BestWeights(pl.Callback):
    """Keep the weights of the epoch with the lowest validation loss, as a bare state dict.

    Without validation, keep the weights of the last epoch. Weights with a loss or a value that isn't finite are never
    written. The weights before the first epoch, which a warm start may already have made good, count too if the Trainer
    validates them (``num_sanity_val_steps=-1``).

    Args:
        network: the module whose state dict is written.
        path: the file.

    Example:
        >>> import tempfile
        >>> from types import SimpleNamespace
        >>> import torch
        >>> network = nn.Linear(1, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     callback = BestWeights(network, Path(folder) / "model.pt")
        ...     for loss, weight in [(3.0, 0.1), (2.0, 0.2), (2.5, 0.3)]:  # the second epoch is the best one
        ...         _ = nn.init.constant_(network.weight, weight)
        ...         trainer = SimpleNamespace(callback_metrics={"val/loss": torch.tensor(loss)}, is_global_zero=True)
        ...         callback.on_train_epoch_end(trainer, network)
        ...     best = torch.load(callback.path)
        >>> callback.best, round(best["weight"].item(), 3)
        (2.0, 0.2)
    """

    def __init__(self, network: nn.Module, path: str | os.PathLike[str]) -> None:
        self.network = network
        self.path = Path(path)
        self.best = math.inf

    def state_dict(self) -> dict[str, Any]:
        """Return the lowest validation loss so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the lowest validation loss of the resumed run."""
        self.best = float(state_dict["best"])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Create the folder now; if it disappears later, writing fails instead of creating it again."""
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the weights before training if they were validated in full."""
        if trainer.num_sanity_val_steps == float("inf") and "val/loss" in trainer.callback_metrics:
            self._write_if_best(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the weights if they are the best ones so far."""
        self._write_if_best(trainer)

    def _write_if_best(self, trainer: pl.Trainer) -> None:
        metrics = trainer.callback_metrics
        loss = float(metrics["val/loss"] if "val/loss" in metrics else metrics["train/loss"])
        better = math.isfinite(loss) and (loss < self.best or "val/loss" not in metrics)
        if better and not non_finite(self.network):
            self.best = loss
            if trainer.is_global_zero:
                weights = {name: value.detach().cpu() for name, value in self.network.state_dict().items()}
                save_weights(weights, self.path, make_folder=False)


class WarmupAndDecay(pl.Callback):
    """Apply the schedule of :func:`~monai_betavae.training.warmup_and_decay` from outside the estimator.

    This callback serves configs written for release 0.1.0. New configs pass that function to
    :class:`~monai_betavae.VAE` as ``lr_scheduler``.

    Args:
        warmup_steps: number of warm-up steps.
        decay_fraction: share of all steps over which the learning rate decays, in (0, 1].

    Example:
        >>> schedule = WarmupAndDecay(warmup_steps=4, decay_fraction=0.5)
        >>> [schedule.factor(step, n_steps=100) for step in (0, 1, 3, 50, 75)]
        [0.25, 0.5, 1.0, 1.0, 0.5]
    """

    def __init__(self, warmup_steps: int = 20, decay_fraction: float = 0.4) -> None:
        self.warmup_steps = check_integer("warmup_steps", warmup_steps, minimum=1)
        self.decay_fraction = check_real("decay_fraction", decay_fraction, minimum=0, maximum=1, exclusive=True)
        self._total = math.inf
        self._rates: list[float] = []

    def factor(self, step: int, n_steps: float) -> float:
        """Return the factor of the learning rate at a step.

        Example:
            >>> [round(WarmupAndDecay(4, 0.5).factor(step, 100), 3) for step in (0, 3, 50, 75, 99)]
            [0.25, 1.0, 1.0, 0.5, 0.02]
        """
        return rate_factor(step, n_steps, self.warmup_steps, self.decay_fraction)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the total number of steps, on which the decay depends."""
        self._total = trainer.estimated_stepping_batches

    def state_dict(self) -> dict[str, Any]:
        """Return the full learning rates, since the optimizer in a checkpoint holds scaled ones."""
        return {"rates": self._rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the full learning rates of the resumed run."""
        self._rates = list(state_dict["rates"])

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rates of the next step."""
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        if not self._rates:
            self._rates = [float(group["lr"]) for group in groups]
        factor = self.factor(trainer.global_step, self._total)
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * factor
