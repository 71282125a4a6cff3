"""What a training run is refused for before any volume is read: existing results, unfit parts, another model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import nn

from ..callbacks import BestWeights, MetricsTable
from ..description import description_of
from ..estimator import VAE
from ..files import check_available
from .records import process_rank, say
from .trained_model import MODEL_FILE, SETTINGS_FILE, network_arguments, read_settings

RESUME_FILE, METRICS_FILE = "last.ckpt", "metrics.csv"

SLURM_CHECKPOINTS = "hpc_ckpt_*.ckpt"
"""What Lightning itself writes under SLURM, and begins from by itself if it lies in the output folder."""


def check_run(
    output_dir: str | os.PathLike[str], ckpt_dir: str | os.PathLike[str], resume: bool = False, overwrite: bool = False
) -> None:
    """Refuse to train over an existing result, before any data is loaded.

    Nothing is deleted here: with ``overwrite`` each file is replaced when its successor is complete, so that a run that
    fails on its data costs nothing.

    Args:
        output_dir: folder of tables and pictures.
        ckpt_dir: folder of weights.
        resume: whether to continue from ``<ckpt_dir>/last.ckpt``, or to start where no epoch was finished: what a job
            that is preempted and queued again says from its first time on.
        overwrite: whether an existing result may be replaced.

    Raises:
        ValueError: if there is a result and neither is set, a run's checkpoint is gone, another run holds a folder, or
            one can't be written.
    """
    if resume and overwrite:
        raise ValueError("Only one of `resume` and `overwrite` can be True, got both.")
    last, metrics = Path(ckpt_dir) / RESUME_FILE, Path(output_dir) / METRICS_FILE
    if process_rank() != 0:
        return  # the first process has asked already, and may have begun to write
    if resume and not last.is_file():
        # killed before its first checkpoint was whole, a run leaves the first row at most
        if metrics.is_file() and len(metrics.read_text(encoding="utf-8").splitlines()) > 2:
            raise ValueError(f"`resume` needs {last}, which is gone; {metrics} tells of a run of several epochs.")
        say(f"Nothing to resume: there is no {last} yet, so the run starts from the beginning.")
    results = [metrics, Path(ckpt_dir) / MODEL_FILE, last]
    existing = [path for path in results if path.exists()]
    if existing and not (resume or overwrite):
        raise ValueError(
            f"{existing[0]} exists: a run is there already. Give --resume True to continue it, --overwrite True to "
            "replace it, or other folders with --output_dir and --ckpt_dir."
        )
    foreign = sorted(Path(output_dir).glob(SLURM_CHECKPOINTS))
    if foreign:
        raise ValueError(
            f"{foreign[0]} must be moved away: under SLURM Lightning would begin from it, whatever this run is told."
        )
    check_available(output_dir, ckpt_dir)


FREE = ("random_state", "n_voxels")
"""Arguments of a network that may differ when a run is resumed: the weights are in the checkpoint, with their sizes."""


def check_parts(trainer: Any, estimator: Any, network: Any, preprocessing: Any) -> None:
    """Refuse parts that can't make a run; since they are the arguments, they are built before any volume is read.

    Args:
        trainer: the Lightning trainer; its callbacks must keep those that write weights and table.
        estimator: a :class:`~monai_betavae.VAE`.
        network: the network it trains.
        preprocessing: transforms.

    Raises:
        ValueError: naming the part.
    """
    parts = {
        "train#trainer": (trainer, pl.Trainer, "a lightning.pytorch.Trainer"),
        "estimator": (estimator, VAE, "a monai_betavae.VAE"),
        "network_def": (network, nn.Module, "a torch.nn.Module"),
    }
    for name, (part, kind, description) in parts.items():
        if not isinstance(part, kind):
            raise ValueError(f"'{name}' must be {description}, got {type(part).__name__}.")
    if not callable(preprocessing):
        raise ValueError(f"'train#preprocessing' must be a transform, got {type(preprocessing).__name__}.")
    for needed in (BestWeights, MetricsTable):
        if not any(isinstance(callback, needed) for callback in trainer.callbacks):
            raise ValueError(
                f"'train#callbacks' must keep {needed.__name__}, without which a run leaves nothing; add your own with "
                "'+train#callbacks' in a config file that is merged."
            )


def check_resumed(network: nn.Module, preprocessing: Mapping[str, Any], ckpt_dir: str | os.PathLike[str]) -> None:
    """Refuse to resume a model of other settings.

    Args:
        network: the network as it is set now.
        preprocessing: ``spatial_shape`` and ``spacing`` as they are set now.
        ckpt_dir: folder of the weights, with the ``model.json`` of the run.

    Raises:
        ValueError: naming each setting that differs, with its value then and now.
    """
    stored = read_settings(ckpt_dir)
    if stored is None:
        return
    before = {**network_arguments(stored), **stored["preprocessing"]}
    now = {**network_arguments({"network": description_of(network)}), **json.loads(json.dumps(dict(preprocessing)))}
    differing = [name for name in before.keys() & now.keys() if before[name] != now[name] and name not in FREE]
    if differing:
        told = "; ".join(f"{name} was {before[name]}, now {now[name]}" for name in sorted(differing))
        raise ValueError(f"`resume` needs the settings of {Path(ckpt_dir) / SETTINGS_FILE}: {told}.")
