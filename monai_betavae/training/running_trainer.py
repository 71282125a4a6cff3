"""What a Lightning Trainer knows before it trains, and doesn't say: read off it in one place."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader


def resumes(trainer: pl.Trainer) -> bool | None:
    """Return whether a running ``Trainer.fit`` resumes from a checkpoint, ``None`` if that can't be told.

    Lightning (2.6) says so only after ``setup``, when it is too late to change sizes. So the argument of its running
    method ``_run`` is read.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "_run" and frame.f_locals.get("self") is trainer and "ckpt_path" in frame.f_locals:
            return frame.f_locals["ckpt_path"] is not None
        frame = frame.f_back
    return None


def training_loader(trainer: pl.Trainer) -> Iterable[Any] | None:
    """Return the training loader that a Trainer was given, ``None`` if it can't be had before the training.

    That is so if reading it would take its batches away, or if it is several loaders.
    """
    source = getattr(trainer.fit_loop, "_data_source", None)  # not public in Lightning 2.6
    if source is None or getattr(source, "instance", None) is None or not hasattr(source, "dataloader"):
        return None
    loader = source.dataloader()
    several = isinstance(loader, Mapping | list | tuple | CombinedLoader)
    if several or not isinstance(loader, Iterable) or isinstance(loader, Iterator):
        return None
    return loader


def validation_loader(trainer: pl.Trainer | None, dataloader_idx: int) -> Any:
    """Return the validation loader of a number, ``None`` outside a Trainer."""
    loaders = None if trainer is None else trainer.val_dataloaders
    return loaders[dataloader_idx] if isinstance(loaders, list | tuple) else loaders


def position_in_training(trainer: pl.Trainer | None) -> tuple[int, int] | None:
    """Return the numbers of the optimizer's steps and of whole epochs so far, or ``None`` outside a training."""
    if trainer is None or not trainer.training:
        return None
    return trainer.global_step, trainer.current_epoch


def n_images_of(loader: Any) -> int | None:
    """Return the number of images in a loader's dataset, or ``None`` if nothing says it."""
    if getattr(loader, "batch_size", 1) is None:  # the dataset's items are batches
        return None
    try:
        return len(loader.dataset)
    except (AttributeError, TypeError):
        return None


def is_running(trainer: pl.Trainer | None) -> bool:
    """Return whether a step may log: steps can be called without a Trainer, and after its run is over."""
    return trainer is not None and bool(trainer.training or trainer.validating or trainer.sanity_checking)


def as_one_loader(loader: Any) -> Any:
    """Return a loader that gives a list's batches, which Lightning would take for as many loaders."""
    listed = isinstance(loader, list | tuple) and not any(isinstance(item, DataLoader) for item in loader)
    return DataLoader(loader, batch_size=None) if listed else loader
