"""A table of what each latent dimension does while a model trains."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from ..losses import at_least_float32
from ..saving.atomic_files import write_table

ACTIVITY_FILE = "latent_activity.csv"


class LatentActivity(pl.Callback):
    r"""Write ``latent_activity.csv``: KL divergence of each latent dimension on the validation images, epoch by epoch.

    .. math:: D_k = \frac1n \sum_b \tfrac12 (\mu_{bk}^2 + \sigma_{bk}^2 - 1 - \log \sigma_{bk}^2), \quad
        V_k = \frac1n \sum_b (\mu_{bk} - \bar\mu_k)^2

    Columns: epoch (0 for the weights before the training, if the Trainer validates them), latent, kl [nats], and
    variance, that of the posterior's mean, not a number for one image; a dimension is active where it exceeds 0.01. The
    checkpoint stores the rows,
    so that a resumed run ends with the same table. Without validation images nothing is written.

    Args:
        path: the file; it is complete after every validation.

    Example:
        >>> import tempfile
        >>> import pandas
        >>> from torch.utils.data import DataLoader
        >>> from monai_betavae import build_vae
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = LatentActivity(Path(folder) / ACTIVITY_FILE)
        ...     options = {"callbacks": [table], "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
        ...     options |= {"enable_progress_bar": False, "enable_model_summary": False, "random_state": 0}
        ...     options |= {"max_epochs": 1, "num_sanity_val_steps": -1}
        ...     vae = build_vae((4, 4, 4), 2, channels=(2, 2), warm_start="none", **options)
        ...     loader = DataLoader(torch.zeros(4, 1, 4, 4, 4), batch_size=2)
        ...     _ = vae.fit(loader, loader)
        ...     written = pandas.read_csv(table.path)
        >>> written[["epoch", "latent"]].to_numpy().tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.rows: list[dict[str, float]] = []
        self._sums: Tensor | None = None
        self._n_images = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows of the resumed run."""
        self.rows = list(state_dict["rows"])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Create the folder now; if it disappears later, writing fails instead of creating it again."""
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a new sum."""
        self._sums, self._n_images = None, 0

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the posteriors of a batch on their device, since reading their values would make a GPU synchronise."""
        q = getattr(pl_module, "validated_posterior", None)
        if q is None or dataloader_idx != 0:
            return
        mu, sigma = at_least_float32(q.mean.detach()), at_least_float32(q.scale.detach())
        if mu.ndim != 2:  # several rows of features per image have no single row of dimensions
            return
        kl = 0.5 * (mu.square() + sigma.square() - 1) - sigma.log()
        sums = torch.stack([kl.sum(dim=0), mu.sum(dim=0), mu.square().sum(dim=0)])
        self._sums = sums if self._sums is None else self._sums + sums
        self._n_images += len(mu)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the rows of the epoch and write the table."""
        n_latents = int(getattr(pl_module, "latent_dim", 0))
        sums = torch.zeros(3, n_latents, device=pl_module.device) if self._sums is None else self._sums
        count = torch.tensor(float(self._n_images), device=pl_module.device)
        # a process without images of its own takes part in the sum
        sums, count = (trainer.strategy.reduce(each, reduce_op="sum") for each in (sums, count))
        if trainer.sanity_checking and (self.rows or trainer.num_sanity_val_steps != float("inf")):
            return  # a resumed run has the row of its start already; a few batches are another set of images
        if float(count) == 0:
            return
        epoch = 0 if trainer.sanity_checking else trainer.current_epoch + 1
        # a validation within an epoch is followed by that at its end
        self.rows = [row for row in self.rows if row["epoch"] != epoch]
        kl, mean, square = (sums / count).cpu()
        variance = (square - mean.square()).clamp(min=0)
        if float(count) < 2:
            variance = torch.full_like(variance, math.nan)
        self.rows += [
            {"epoch": epoch, "latent": latent, "kl": float(kl[latent]), "variance": float(variance[latent])}
            for latent in range(len(kl))
        ]
        if trainer.is_global_zero:
            import pandas as pd

            write_table(pd.DataFrame(self.rows), self.path, make_folder=False)
