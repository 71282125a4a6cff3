"""Checks that run before training starts: existing results, unsuitable parts, changed model or settings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import nn

from ..bundle import config_file, running_bundle_root, running_config
from ..estimator import VAE
from ..networks.modules import check_network_parts
from ..saving.atomic_files import check_available
from ..training.callbacks import BestWeights, MetricsTable
from ..training.checkpoints import settings_of
from ..training.optimizers import refuses_fused
from .model_description import MODEL_FILE, SETTINGS_FILE, read_description
from .preprocessing_description import PREPROCESSING
from .records import print_once, process_rank
from .resumption import check_told, collect_settings

RESUME_FILE, METRICS_FILE = "last.ckpt", "metrics.csv"

SLURM_CHECKPOINTS = "hpc_ckpt_*.ckpt"
"""Checkpoints that Lightning itself writes under SLURM, and resumes from if they are in the output folder."""


def check_run(
    output_dir: str | os.PathLike[str], ckpt_dir: str | os.PathLike[str], resume: bool = False, overwrite: bool = False
) -> None:
    """Refuse to train over an existing result, before any data is loaded.

    Nothing is deleted here. With ``overwrite`` each file is replaced once its successor is complete, so a run that
    fails on its data loses nothing.

    Args:
        output_dir: folder of tables and figures.
        ckpt_dir: folder of weights.
        resume: whether to continue from ``<ckpt_dir>/last.ckpt``, or to start from the beginning if no epoch was
            finished. A job that may be preempted and requeued can set it from the start.
        overwrite: whether an existing result may be replaced.

    Raises:
        ValueError: if there is a result and neither ``resume`` nor ``overwrite`` is set, both are set, the checkpoint
            of a run is missing, another run has locked a folder, or a folder can't be written.
    """
    if resume and overwrite:
        raise ValueError("Only one of `resume` and `overwrite` can be True, got both.")
    last, metrics = Path(ckpt_dir) / RESUME_FILE, Path(output_dir) / METRICS_FILE
    if process_rank() != 0:
        return  # the first process has checked already, and may have begun to write
    if resume and not last.is_file():
        # a run that was killed before its first checkpoint was complete leaves at most the first row
        if metrics.is_file() and len(metrics.read_text(encoding="utf-8").splitlines()) > 2:
            raise ValueError(f"`resume` needs {last}, which is gone; {metrics} is from a run of several epochs.")
        print_once(f"Nothing to resume: there is no {last} yet, so the run starts from the beginning.")
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
            f"{foreign[0]} must be moved away: under SLURM Lightning would resume from it, whatever the settings."
        )
    check_available(output_dir, ckpt_dir)


FREE_ARGUMENTS = ("random_state", "n_voxels")
"""Network arguments that may differ when a run is resumed, since the checkpoint holds the weights and their sizes."""


def check_parts(trainer: Any, estimator: Any, network: Any, preprocessing: Any) -> None:
    """Refuse unsuitable parts of a run; as arguments, they are built before any volume is read.

    Args:
        trainer: the Lightning trainer; its callbacks must include those that write the weights and the table.
        estimator: a :class:`~monai_betavae.VAE`.
        network: the network that it trains.
        preprocessing: the transforms.

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
    check_network_parts("network_def", network)
    _check_fused(trainer, estimator)
    if not callable(preprocessing):
        raise ValueError(f"'train#preprocessing' must be a transform, got {type(preprocessing).__name__}.")
    for needed in (BestWeights, MetricsTable):
        if not any(isinstance(callback, needed) for callback in trainer.callbacks):
            raise ValueError(
                f"'train#callbacks' must keep {needed.__name__}, without which a run leaves nothing; add your own with "
                "'+train#callbacks' in a config file that is merged."
            )


def _check_fused(trainer: pl.Trainer, estimator: VAE) -> None:
    """Refuse gradient clipping of a fused optimizer at mixed precision, where Lightning fails in the first step."""
    fused = getattr(estimator.optimizer, "keywords", {}).get("fused")
    if fused and refuses_fused(trainer):
        raise ValueError(
            f"Lightning can't clip the gradients of a fused optimizer at --precision {trainer.precision}: give "
            "--optimizer#fused False."
        )


def check_validated(trainer: Any, val_dataloader: Any) -> None:
    """Refuse early stopping without validation, which Lightning would detect only after an epoch.

    Raises:
        ValueError: naming the setting.
    """
    if val_dataloader is None and trainer.early_stopping_callbacks:
        raise ValueError(
            "`early_stopping` needs validation subjects, got none: give a second number above 0 in --fractions, or a "
            "validation part in the data."
        )


def check_resumed(now: Mapping[str, Any], ckpt_dir: str | os.PathLike[str]) -> None:
    """Refuse to resume a model with another description.

    Args:
        now: current descriptions of "network", "preprocessing", "likelihood" and "objective".
        ckpt_dir: folder of the weights, with the ``model.json`` of the run.

    Raises:
        ValueError: naming each setting that differs, with its old and its new value.
    """
    stored = read_description(ckpt_dir)
    if stored is None:
        return
    differing = []
    then, today = (flat_settings(each) for each in (stored, json.loads(json.dumps(dict(now)))))
    for name in dict.fromkeys([*then, *today]):
        before, after = then.get(name), today.get(name)
        if before != after and name not in FREE_ARGUMENTS and not (stored["likelihood"] is None and name in LIKELIHOOD):
            differing.append(f"{name} was {before}, now {after}")
    if differing:
        told = "; ".join(sorted(differing))
        raise ValueError(f"`resume` needs the settings of {Path(ckpt_dir) / SETTINGS_FILE}: {told}.")


LIKELIHOOD = ("distribution", "beta", "loss", "objective")
"""Names of the likelihood's settings in :func:`flat_settings`."""


def flat_settings(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a description by the names that users know.

    Args:
        description: "network", "preprocessing", "likelihood" and "objective" of a model.
    """
    network, preprocessing = description["network"], description["preprocessing"]
    likelihood = description["likelihood"] or {}
    found: dict[str, Any] = {**network.get("arguments", {}), "network_def": network.get("own", network.get("builder"))}
    if "own" in preprocessing:
        found["preprocessing"] = preprocessing["own"]
    for index, step in enumerate(preprocessing.get("transforms", [])):
        place = f"{PREPROCESSING}#transforms#{index}"
        found[place] = step["name"]
        # null counts as not given, that is, as the transform's default
        arguments = {name: value for name, value in step["arguments"].items() if value is not None}
        if isinstance(arguments.get("spacing"), int | float):
            arguments["spacing"] = [float(arguments["spacing"])] * 3
        found.update({f"{place}#{name}": value for name, value in arguments.items()})
    found["loss"] = likelihood.get("own", "")
    found.update({name: likelihood[name] for name in ("distribution", "beta") if name in likelihood})
    # a file from before there were objectives is of the beta-VAE loss, whose settings are those of the likelihood
    objective = description.get("objective") or {}
    found["objective"] = objective.get("name", "beta-vae")
    arguments = {name: value for name, value in objective.get("arguments", {}).items() if value is not None}
    # the beta-VAE's beta is the likelihood's; another objective's may be a weight of something else
    known = ("default_dist", "beta") if found["objective"] == "beta-vae" else ("default_dist",)
    found.update({f"loss#{name}": value for name, value in arguments.items() if name not in known})
    return found


def running_settings() -> dict[str, Any] | None:
    """Return the settings of the running config that differ from the bundle's, or ``None`` if no config runs."""
    config = running_config()
    return None if config is None else collect_settings(config, _bundle_config())


def check_resumed_settings(checkpoint: str | os.PathLike[str], may_change: str | Sequence[str] = ()) -> list[str]:
    """Refuse to resume a run with other settings.

    Args:
        checkpoint: the ``last.ckpt`` of the run.
        may_change: one or several ids that may differ.

    Returns:
        the permitted differences.

    Raises:
        ValueError: naming each setting that differs, or the checkpoint, if it isn't one.
    """
    now, stored = running_settings(), settings_of(checkpoint)
    if now is None or stored is None:  # called from Python, or a run of release 0.1.0
        return []
    try:
        then = json.loads(stored)
        if not isinstance(then, dict):
            raise TypeError(type(then).__name__)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{os.fspath(checkpoint)} must be the checkpoint of a training run: {error}") from error
    names = [may_change] if isinstance(may_change, str) else list(may_change)
    return check_told(then, now, _bundle_config(), names, os.fspath(checkpoint))


def _bundle_config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads(config_file(running_bundle_root(), "train.json").read_text(encoding="utf-8"))
    return config
