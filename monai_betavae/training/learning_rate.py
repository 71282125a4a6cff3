"""How the learning rate changes: schedules, their length in a training, and how they resume."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
from torch import optim
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from .._checks import check_integer, check_real
from .optimizers import kind_of

INTERVALS = ("step", "epoch")
"""How often a scheduler takes a step."""

LENGTHS = ("total_steps", "T_max")
"""Parameters of schedulers that say how long the training is."""


def warmup_and_decay(
    optimizer: optim.Optimizer, total_steps: int, warmup_steps: int = 20, decay_fraction: float = 0.4
) -> LambdaLR:
    """Scale the learning rate: linearly up over the first steps, constant, linearly down to almost zero at the end.

    The factor at step i of n is min(1, (i + 1) / warmup_steps) * clip((1 - i / n) / decay_fraction, 0.02, 1). The loss
    at a constant rate keeps the noise of its last steps; going down at the end removes it.

    As ``lr_scheduler`` of :class:`~monai_betavae.VAE` it is told the number of steps; a run that is resumed to more
    epochs follows the course over all of them.

    Args:
        optimizer: whose rates, as they are, are the full ones.
        total_steps: steps of the whole training.
        warmup_steps: steps of the rise.
        decay_fraction: share of all steps over which it goes down, in (0, 1].

    Returns:
        the scheduler; step it after every optimizer step.

    Raises:
        ValueError: naming the argument, what came and what is accepted.

    Example:
        >>> import torch
        >>> optimizer = optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> scheduler, rates = warmup_and_decay(optimizer, 100, warmup_steps=4, decay_fraction=0.5), []
        >>> for _ in range(100):
        ...     rates += scheduler.get_last_lr()
        ...     optimizer.step()
        ...     scheduler.step()
        >>> [round(rates[step], 3) for step in (0, 3, 50, 75, 99)]
        [0.25, 1.0, 1.0, 0.5, 0.02]
    """
    total_steps = check_integer("total_steps", total_steps, minimum=1)
    warmup_steps = check_integer("warmup_steps", warmup_steps, minimum=1)
    decay_fraction = check_real("decay_fraction", decay_fraction, minimum=0, maximum=1, exclusive=True)
    return LambdaLR(optimizer, lambda step: rate_factor(step, total_steps, warmup_steps, decay_fraction))


def rate_factor(step: int, n_steps: float, warmup_steps: int, decay_fraction: float) -> float:
    """Return what the learning rate is multiplied by at a step of :func:`warmup_and_decay`."""
    decay = (1 - step / n_steps) / decay_fraction
    return min(1.0, (step + 1) / warmup_steps) * min(1.0, max(0.02, decay))


def make_scheduler(
    factory: Callable[..., Any], optimizer: optim.Optimizer, length: Callable[[], int]
) -> LRScheduler | dict[str, Any]:
    """Call a factory of a scheduler, with the length of the training if it takes that and hasn't got it.

    Args:
        factory: callable from the optimizer to a scheduler, or to Lightning's dictionary of one.
        optimizer: the optimizer.
        length: gives the number of the scheduler's steps in the training.

    Raises:
        ValueError: naming ``lr_scheduler``, if the factory stops or gives anything else.

    Example:
        >>> import torch
        >>> optimizer = optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> make_scheduler(optim.lr_scheduler.CosineAnnealingLR, optimizer, lambda: 30).T_max
        30
    """
    accepted = "`lr_scheduler` must be a callable from the optimizer to a scheduler of torch.optim.lr_scheduler"
    name = missing_length(factory)
    arguments = {} if name is None else {name: length()}
    try:
        made = factory(optimizer, **arguments)
    except Exception as error:  # likewise
        raise ValueError(f"{accepted}, but stops: {error}") from error
    scheduler = made.get("scheduler") if isinstance(made, Mapping) else made
    if not isinstance(scheduler, LRScheduler):
        gives = kind_of(scheduler)
        if isinstance(made, Mapping):
            gives = f"a dictionary whose 'scheduler' is {gives}"
        raise ValueError(f"{accepted}, got one that gives {gives}.")
    if scheduler.optimizer is not optimizer:
        raise ValueError(f"{accepted}, got one that gives a scheduler of another optimizer.")
    return dict(made) if isinstance(made, Mapping) else scheduler


def missing_length(factory: Callable[..., Any]) -> str | None:
    """Return the parameter of a scheduler's factory that says how long the training is, if it hasn't been given.

    Example:
        >>> missing_length(functools.partial(optim.lr_scheduler.OneCycleLR, max_lr=0.1))
        'total_steps'
        >>> missing_length(functools.partial(optim.lr_scheduler.CosineAnnealingLR, T_max=10)) is None
        True
    """
    given: set[str] = set()
    inner = factory
    while isinstance(inner, functools.partial):
        given.update(name for name, value in inner.keywords.items() if value is not None)
        inner = inner.func
    try:
        # positional arguments of a partial are not in its signature
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a callable that doesn't say what it takes
        return None
    if {"epochs", "steps_per_epoch"} <= given:  # OneCycleLR's other way
        return None
    return next((name for name in LENGTHS if name in parameters and name not in given), None)


def make_schedule(
    factory: Callable[..., Any], optimizer: optim.Optimizer, interval: str, trainer: pl.Trainer | None
) -> dict[str, Any]:
    """Return Lightning's description of the scheduler that a factory makes.

    Args:
        factory: as in :func:`make_scheduler`.
        optimizer: the optimizer.
        interval: "step" or "epoch".
        trainer: the Trainer, ``None`` outside one.

    Raises:
        ValueError: as in :func:`make_scheduler`; for a ``ReduceLROnPlateau`` without a validation that it can follow.
    """
    made = make_scheduler(factory, optimizer, lambda: training_length(trainer, interval))
    if isinstance(made, dict):
        return made
    if not isinstance(made, ReduceLROnPlateau):
        return {"scheduler": made, "interval": interval}
    if trainer is not None and not trainer.enable_validation:
        raise ValueError(
            "`lr_scheduler` ReduceLROnPlateau follows 'val/loss', so it needs a validation loader, got none."
        )
    every = 1 if trainer is None else trainer.check_val_every_n_epoch or 1
    return {"scheduler": made, "interval": "epoch", "frequency": every, "monitor": "val/loss"}


def training_length(trainer: pl.Trainer | None, interval: str) -> int:
    """Return the number of steps, or epochs, of the whole training.

    Raises:
        ValueError: if the training has no end.
    """
    if trainer is None:
        return check_length(math.inf)
    n_steps = trainer.estimated_stepping_batches
    if interval == "step":
        return check_length(n_steps)
    if trainer.max_steps == -1:
        return check_length(math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs)
    if trainer.train_dataloader is None:  # Lightning hasn't needed it to know the number of steps
        trainer.fit_loop.setup_data()
    per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    return check_length(max(1, math.ceil(n_steps / per_epoch)))


def resume_schedule(checkpoint: dict[str, Any], optimizer: optim.Optimizer, schedule: Mapping[str, Any]) -> None:
    """Make a Lightning checkpoint resume a learning rate schedule where the run was, by changing what it holds.

    Args:
        checkpoint: Lightning's checkpoint, loaded.
        optimizer: a new optimizer, as at the beginning of a run; it and the scheduler are used up.
        schedule: what :func:`make_schedule` gives for it.

    Raises:
        ValueError: as in :func:`resume_scheduler`.
    """
    by_epoch = schedule.get("interval", "epoch") == "epoch"
    done = (
        checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        if by_epoch
        else checkpoint["global_step"]
    )
    done = check_integer("steps of the checkpoint", done, minimum=0) // schedule.get("frequency", 1)
    if not checkpoint.get("lr_schedulers") and isinstance(checkpoint.get("callbacks"), dict):
        # it did in release 0.1.0 what the scheduler does now; Lightning would warn that it is gone
        checkpoint["callbacks"].pop("WarmupAndDecay", None)
    resume_scheduler(checkpoint, optimizer, schedule["scheduler"], done)


def resume_scheduler(checkpoint: dict[str, Any], optimizer: optim.Optimizer, scheduler: LRScheduler, done: int) -> None:
    """Make a Lightning checkpoint resume the course of the learning rate where it was, by changing what it holds.

    A checkpoint without a scheduler's state gets that of one which has taken ``done`` steps. One of a ``LambdaLR`` gets
    the rate that the function of now gives, which may be for a longer training.

    Args:
        checkpoint: Lightning's checkpoint, loaded.
        optimizer: a new optimizer, made as in a run from the beginning; it and the scheduler are used up.
        scheduler: its new scheduler.
        done: steps that a scheduler without a stored state has behind it.

    Raises:
        ValueError: naming ``lr_scheduler``, if the stored course is one for another length of training, or was over
            before.
    """
    states = checkpoint.get("lr_schedulers")
    optimizers = checkpoint.get("optimizer_states")
    # a file of weights alone is refused by Lightning; what follows metrics has no course to be placed on
    if states is None or not optimizers or isinstance(scheduler, ReduceLROnPlateau):
        return
    stored_groups = optimizers[0]["param_groups"]
    if states:
        _check_length(states[0], scheduler)
        scheduler.load_state_dict(copy.deepcopy(states[0]))
        for group, stored in zip(optimizer.param_groups, stored_groups, strict=True):
            group.update({name: value for name, value in stored.items() if name != "params"})
    before = [dict(group) for group in optimizer.param_groups]
    if isinstance(scheduler, LambdaLR):
        scheduler.last_epoch = scheduler.last_epoch if states else done
        rates = [
            rate * factor(scheduler.last_epoch)
            for rate, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler._last_lr = rates
    elif not states:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch misses the optimizer's steps, which were taken before
            try:
                for _ in range(done):
                    scheduler.step()
            except ValueError as error:
                raise ValueError(f"`lr_scheduler` can't go on after {done} steps, the checkpoint's: {error}") from error
    for stored, group, old in zip(stored_groups, optimizer.param_groups, before, strict=True):
        moved = [name for name in group if name == "lr" or name not in stored or group[name] != old[name]]
        stored.update({name: group[name] for name in moved if name != "params"})
    checkpoint["lr_schedulers"] = [scheduler.state_dict()]


def _check_length(stored: Mapping[str, Any], scheduler: LRScheduler) -> None:
    for name in LENGTHS:
        then, now = stored.get(name), getattr(scheduler, name, None)
        if then is not None and now is not None and then != now:
            raise ValueError(
                f"`lr_scheduler` {type(scheduler).__name__} can't change its course: `{name}` was {then} in the run "
                f"that is resumed and is {now} now; leave max_epochs as it was."
            )


def check_length(length: float) -> int:
    """Return the number of steps or epochs of a training, or raise ``ValueError`` if it has no end."""
    if not math.isfinite(length) or length < 1:
        raise ValueError(
            "`lr_scheduler` needs the length of the training: set max_epochs or max_steps, or give it "
            f"{' or '.join(LENGTHS)} yourself."
        )
    return int(length)
