"""What the arguments of :class:`~monai_betavae.VAE` may be, and how some of them settle others."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn

from ._checks import check_choice, check_real
from .losses import LIKELIHOODS, BetaVAELoss, number_of
from .saving.descriptions import MAX_WEIGHTS, name_of

TRAINER_DEFAULTS: dict[str, Any] = {
    "callbacks": None,
    "check_val_every_n_epoch": 1,
    "num_sanity_val_steps": None,
    "val_check_interval": None,
    "max_epochs": None,
    "min_epochs": None,
    "max_steps": -1,
    "min_steps": None,
    "enable_checkpointing": None,
    "enable_progress_bar": None,
    "enable_model_summary": None,
    "accelerator": "auto",
    "strategy": "auto",
    "devices": "auto",
    "num_nodes": 1,
    "precision": None,
}
"""Trainer arguments that ``trainer_params`` always holds, as in the reference estimator."""

CHECKED = (
    "encoder_out_dim",
    "latent_dim",
    "beta",
    "stochastic_transform",
    "lr",
    "weight_decay",
    "random_state",
    "image_key",
    "lr_interval",
)
"""Arguments whose checked values are attributes."""

NOT_HPARAMS = ("encoder", "decoder", "loss", "optimizer", "lr_scheduler", "ignore", "save_hparams")
"""Arguments that are never among the hyperparameters."""

LOSSES = ("loss", "rec_loss", "kl_loss")
"""What a loss must give."""

LOSS_DEFAULTS = {"beta": 1.0, "default_dist": "normal"}
"""Arguments of the default loss; a loss that is passed in has its own."""

ADAMW_ARGUMENTS = ("lr", "weight_decay")
"""Arguments of the default optimizer; one that is passed in has its own."""


def check_module(name: str, value: Any) -> None:
    """Raise ``ValueError`` if a network is no module."""
    if not isinstance(value, nn.Module):
        raise ValueError(f"`{name}` must be a torch.nn.Module, got {type(value).__name__}.")


def check_factory(name: str, value: Any) -> None:
    """Raise ``ValueError`` if something that makes an optimizer or a scheduler can't be called."""
    if value is not None and not callable(value):
        raise ValueError(
            f"`{name}` must be None or a callable that makes one, such as functools.partial(torch.optim.SGD, lr=0.1), "
            f"got a value of type {type(value).__name__}."
        )


def check_layer_size(encoder_out_dim: int, latent_dim: int) -> None:
    """Raise ``ValueError`` before linear layers are made that no memory holds."""
    if encoder_out_dim * latent_dim > MAX_WEIGHTS:
        raise ValueError(
            f"`encoder_out_dim` times `latent_dim` must be at most {MAX_WEIGHTS}, got {encoder_out_dim} and "
            f"{latent_dim}."
        )


def check_trainer_arguments(kwargs: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` naming the first keyword argument that Lightning's Trainer doesn't have."""
    accepted = [name for name in inspect.signature(pl.Trainer.__init__).parameters if name != "self"]
    for name in kwargs:
        check_choice("name of a keyword argument of VAE or lightning.pytorch.Trainer", name, accepted)


def check_ignored(ignore: Any) -> list[str]:
    """Return the names of arguments that ``hparams`` leaves out."""
    names = [ignore] if isinstance(ignore, str) else list(ignore or []) if isinstance(ignore, Iterable | None) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`ignore` must be None or a list of names of arguments, got {ignore!r}.")
    return names


def make_loss(loss: Any, beta: Any, default_dist: Any) -> tuple[Callable[..., Any], float, str]:
    """Return the loss, and the settings that count: its own where it has them, else the arguments.

    Args:
        loss: the loss that was passed in, or ``None`` for a :class:`~monai_betavae.BetaVAELoss`.
        beta: weight of the KL divergence.
        default_dist: what a tensor from the decoder stands for.

    Raises:
        ValueError: if ``loss`` isn't a loss, or an argument contradicts it.
    """
    given = {"beta": number_of(beta), "default_dist": default_dist}
    if loss is None:
        loss = BetaVAELoss(**given)
    elif not callable(loss):
        raise ValueError(
            "`loss` must be None, a BetaVAELoss or another callable (x, p, q) -> dict, got a value of type "
            f"{type(loss).__name__}."
        )
    else:
        for name, value in given.items():
            own = number_of(getattr(loss, name, value))
            if value != LOSS_DEFAULTS[name] and value != own:
                raise ValueError(
                    f"`{name}` must not be given beside `loss`, whose setting it is: got {value!r}, the loss has "
                    f"{own!r}."
                )
            given[name] = own
    name = "beta" if not hasattr(loss, "beta") else "loss.beta"
    check_real(name, given["beta"], minimum=0)
    name = "loss.default_dist" if hasattr(loss, "default_dist") else "default_dist"
    default_dist = check_choice(name, given["default_dist"], LIKELIHOODS)
    return loss, check_real("beta", number_of(getattr(loss, "beta", given["beta"])), minimum=0), default_dist


def check_losses(losses: Any) -> None:
    """Raise ``ValueError`` if what a loss of the user gives is not what training needs."""
    found = losses if isinstance(losses, Mapping) else {}
    wrong = [name for name in LOSSES if not isinstance(found.get(name), Tensor) or found[name].numel() != 1]
    if wrong:
        came = f"keys {', '.join(map(repr, losses))}" if isinstance(losses, Mapping) else f"a {type(losses).__name__}"
        raise ValueError(
            f"`loss` must give a dictionary with tensors of one number under {', '.join(map(repr, LOSSES))}, got "
            f"{came}, where {', '.join(map(repr, wrong))} isn't one."
        )


def adamw_arguments(optimizer: Any, lr: Any, weight_decay: Any) -> tuple[float, float, list[str]]:
    """Return learning rate and weight decay for loggers, and which of the two are known.

    A factory of an optimizer may say them itself, as ``functools.partial(torch.optim.SGD, lr=0.1)`` does.
    """
    keywords = getattr(optimizer, "keywords", {})
    told = {name: value for name, value in keywords.items() if isinstance(value, int | float)}
    known = [name for name in ADAMW_ARGUMENTS if optimizer is None or name in told]
    lr = check_real("lr", told.get("lr", lr), minimum=0, exclusive=True)
    return lr, check_real("weight_decay", told.get("weight_decay", weight_decay), minimum=0), known


def check_not_beside(arguments: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if arguments give a setting of the loss or the optimizer beside the object that has it."""
    if arguments.get("loss") is not None:
        for name in LOSS_DEFAULTS:
            if name in arguments:
                raise ValueError(
                    f"`{name}` must not be given beside `loss`, whose setting it is: give it to the loss, got "
                    f"{name}={arguments[name]!r} and loss={name_of(arguments['loss'])}."
                )
    for name in ADAMW_ARGUMENTS:
        if name in arguments and arguments.get("optimizer") is not None:
            raise ValueError(
                f"`{name}` must not be given beside `optimizer`, whose setting it is, got {name}={arguments[name]!r}."
            )
