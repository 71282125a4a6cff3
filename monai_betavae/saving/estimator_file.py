"""Files of an estimator: what ``save`` writes, what ``load`` and checkpoints bring back, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Self

import lightning
import torch
from torch import nn

from .descriptions import description_of
from .safe_loading import (
    described_networks,
    load_weights_only,
    name_file_in_errors,
    parse_description,
    refuse_stray_paths,
    save_weights,
    source_name,
)

FILE_FORMAT = "monai_betavae.VAE/1"
"""Marks the files of ``VAE.save``, and their version."""

CHECKPOINT_KEY = "monai_betavae_description"
"""Key of the JSON description in Lightning's checkpoints."""

LOSS_SETTINGS = ("beta", "default_dist")
"""Arguments of an estimator that a loss may have as attributes."""


class EstimatorFiles:
    """``save``, ``load`` and Lightning's checkpoints for an estimator that is made of networks."""

    def save(self: Any, path: str | os.PathLike[str]) -> Path:
        """Write weights and a JSON description to one file, whole or not at all.

        Networks made by the package's builders come back by themselves in :meth:`load`; others are passed in there.

        Args:
            path: where to write; an existing file is replaced once the new one is complete.

        Returns:
            the path.

        Example:
            >>> import tempfile
            >>> from monai_betavae import VAE, build_vae
            >>> vae = build_vae((16, 16, 16), latent_dim=2, beta=4.0)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     VAE.load(vae.save(f"{folder}/vae.pt")).beta
            4.0
        """
        content = {
            "format": FILE_FORMAT,
            "description": json.dumps(describe_estimator(self), indent=1),
            "state_dict": {name: value.detach().cpu() for name, value in self.state_dict().items()},
        }
        save_weights(content, path)
        return Path(path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        loss: Callable[..., Any] | None = None,
    ) -> Self:
        """Read a model written by :meth:`save`; nothing in the file is unpickled or executed.

        Args:
            path: the file.
            encoder: the encoder, for a model whose encoder no builder of the package made; its weights are replaced.
            decoder: the decoder, on the same condition.
            loss: the loss, for a model that was trained with one of your own; its settings replace stored ones.

        Returns:
            the estimator, on the CPU.

        Raises:
            ValueError: naming the file, if it isn't such a file, holds code, lacks a network or loss that is to be
                passed in, or doesn't fit the networks passed in.
        """
        estimator: Self = load_estimator(cls, path, {"encoder": encoder, "decoder": decoder}, loss)
        return estimator

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> Self:
        """Read a model from a Lightning checkpoint; networks made by the package's builders come back by themselves.

        Args:
            checkpoint_path: a checkpoint written while training this class.
            map_location: as in ``torch.load``.
            hparams_file: as in Lightning.
            strict: whether the state dict must fit exactly; Lightning's default.
            weights_only: nothing in the file is executed unless this is set to false.
            kwargs: arguments of :class:`~monai_betavae.VAE` that replace stored ones; ``encoder`` and ``decoder`` for
                custom networks, ``loss`` for a custom loss.

        Raises:
            ValueError: naming the file, if it holds code or lacks a network or loss that is to be passed in.
        """
        lightning_module: Any = super()
        places = (checkpoint_path, map_location, hparams_file, strict)
        kwargs = {**loss_arguments(kwargs.get("loss")), **kwargs}
        estimator: Self
        if weights_only is False:
            estimator = lightning_module.load_from_checkpoint(*places, weights_only=False, **kwargs)
            return estimator
        arguments = checkpoint_arguments(cls, checkpoint_path, kwargs)
        with name_file_in_errors(source_name(checkpoint_path)):
            estimator = lightning_module.load_from_checkpoint(*places, weights_only=True, **arguments)
        return estimator

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the JSON description to Lightning's checkpoint."""
        checkpoint[CHECKPOINT_KEY] = json.dumps(describe_estimator(self))


def describe_estimator(estimator: Any) -> dict[str, Any]:
    """Return the description of an estimator in files: class, arguments, networks and versions, as plain values."""
    description = {
        "class": type(estimator).__name__,
        "hparams": {**estimator._arguments, **estimator.hparams},
        "encoder": description_of(estimator.encoder),
        "decoder": description_of(estimator.decoder),
        "fitted": estimator.fitted,
        "versions": {"torch": str(torch.__version__), "lightning": lightning.__version__},
    }
    loss = estimator._described_loss()
    if loss is not None:
        description["loss"] = loss
    if estimator._n_kept_covariates:
        description["kept_covariates"] = estimator._n_kept_covariates
    return description


def load_estimator(
    make: Callable[..., Any],
    path: str | os.PathLike[str],
    given: dict[str, nn.Module | None],
    loss: Any,
) -> Any:
    """Return the estimator of a file that :meth:`EstimatorFiles.save` wrote.

    Args:
        make: the class.
        path: the file.
        given: "encoder" and "decoder", ``None`` for one that the file describes.
        loss: the loss that was passed in, if any.

    Raises:
        ValueError: naming the file, if it isn't such a file, holds code, lacks a network or loss that is to be passed
            in, or doesn't fit the networks passed in.
    """
    source = os.fspath(path)
    content = load_weights_only(path)
    if not isinstance(content, dict) or content.get("format") != FILE_FORMAT:
        raise ValueError(f"{source} must be a file written by VAE.save (format {FILE_FORMAT!r}).")
    description = parse_description(content.get("description"), source)
    networks = described_networks(description, given, source, content.get("state_dict", {}))
    loss = loss_of(make, description, loss, source)
    with name_file_in_errors(source):
        _check_layer_sizes(description["hparams"], content["state_dict"])
        arguments = {**networks, **without_folder(description["hparams"])}
        try:
            estimator = make(**{**arguments, **loss_arguments(loss)})
        except TypeError as error:
            if "'loss'" not in str(error):
                raise
            estimator = make(**arguments)  # a derived class that makes its loss itself
    try:
        estimator.load_state_dict(content["state_dict"])
    except Exception as error:  # what a file may hold in place of weights is more than torch expects
        raise ValueError(f"{source}: the weights don't fit the networks. {error}") from error
    with name_file_in_errors(source):
        estimator._keep_covariates(description.get("kept_covariates"))
    estimator.fitted_ = bool(description.get("fitted", True))
    return estimator


def checkpoint_arguments(make: Any, checkpoint: str | Path | IO[bytes], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with which Lightning can load a model from a checkpoint, once it is known to be harmless.

    Args:
        make: the class.
        checkpoint: the file.
        given: arguments of the class that were passed in.

    Raises:
        ValueError: naming the file, if it holds code or lacks a network or loss that is to be passed in.
    """
    source = source_name(checkpoint)
    content = load_weights_only(checkpoint)  # refuses by name what Lightning would stumble over
    if not isinstance(checkpoint, str | os.PathLike):
        checkpoint.seek(0)
    if not isinstance(content, dict):
        raise ValueError(f"{source} must be a Lightning checkpoint of a VAE, got a {type(content).__name__}.")
    arguments = dict(given)
    custom = "encoder" in given and "decoder" in given
    stored: dict[str, Any] = {}
    if CHECKPOINT_KEY in content or not custom:
        description = parse_description(content.get(CHECKPOINT_KEY), source)
        arguments = {**loss_arguments(loss_of(make, description, given.get("loss"), source)), **arguments}
        stored = without_folder(description["hparams"])
        if not custom:
            networks = {name: given.get(name) for name in ("encoder", "decoder")}
            arguments.update(described_networks(description, networks, source, content.get("state_dict", {})))
    with name_file_in_errors(source):
        # the description has what was left out of the hyperparameters
        left_out = stored.keys() - _hyperparameters(content).keys()
        public = {name: stored[name] for name in left_out if not name.startswith("_")}
        return {**public, **_loaded_overrides(content), **arguments}


def check_checkpoint(
    checkpoint: dict[str, Any], trainer: Any, loss: Any, described: Mapping[str, Any] | str | None = None
) -> None:
    """Refuse a checkpoint that a model or its Trainer must not go on from.

    Args:
        checkpoint: Lightning's checkpoint, loaded.
        trainer: the Trainer, ``None`` outside one.
        loss: the loss that was passed in to the model, if any.
        described: what the model's own file would say of its loss, if it goes on to train.

    Raises:
        ValueError: for paths of files that Lightning would remove, or if the run had another loss than this model.
    """
    if trainer is not None:
        folders = [getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks]
        refuse_stray_paths(checkpoint, folders)
    if CHECKPOINT_KEY in checkpoint:
        description = parse_description(checkpoint[CHECKPOINT_KEY], "the checkpoint")
        check_loss_given(description, loss, "the checkpoint")
        before = description.get("loss")
        objectives = isinstance(before, Mapping) or isinstance(described, Mapping)
        if trainer is not None and trainer.state.fn == "fit" and objectives and before != described:
            raise ValueError(
                f"`loss` must be that of the run which is resumed: the checkpoint's was {_brief(before)}, this model's "
                f"is {_brief(described)}."
            )


def kept_covariates(checkpoint: Mapping[str, Any]) -> Any:
    """Return how many first columns of its conditional mean the model of a checkpoint kept, ``None`` for none.

    Args:
        checkpoint: Lightning's checkpoint, loaded.

    Example:
        >>> kept_covariates({}) is None
        True
    """
    if CHECKPOINT_KEY not in checkpoint:
        return None
    return parse_description(checkpoint[CHECKPOINT_KEY], "the checkpoint").get("kept_covariates")


def _brief(described: Any) -> str:
    """Return a loss's description in words."""
    if isinstance(described, Mapping):
        return f"the objective {described.get('name')} with {json.dumps(described.get('arguments'))}"[:300]
    return "the beta-VAE's without a schedule" if described is None else str(described)


def loss_arguments(loss: Any) -> dict[str, Any]:
    """Return the arguments that a loss stands for when a file is loaded: its settings replace stored ones."""
    if loss is None:
        return {}
    return {"loss": loss, **{name: getattr(loss, name) for name in LOSS_SETTINGS if hasattr(loss, name)}}


def loss_of(make: Any, description: Mapping[str, Any], given: Any, source: str) -> Any:
    """Return the loss that was passed in, or the objective that a file describes, or ``None`` for the default loss.

    Raises:
        ValueError: naming the file, if its loss was one of the user's own and none was passed in, or its description of
            an objective is wrong.
    """
    stored = description.get("loss")
    if given is None and isinstance(stored, Mapping):
        with name_file_in_errors(source):
            return make._objective_of(stored)
    check_loss_given(description, given, source)
    return given


def check_loss_given(description: Mapping[str, Any], loss: Any, source: str) -> None:
    """Refuse to go on without the loss that a file's model was trained with."""
    stored = description.get("loss")
    if stored is not None and loss is None:
        what = (
            f"the objective {stored.get('name')!r:.100}"
            if isinstance(stored, Mapping)
            else f"one of its own, {stored!r:.200}"
        )
        raise ValueError(f"`loss` must be passed in: {source} was written with {what}.")


def without_folder(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's arguments but for the folder to write into, which a file doesn't choose: the default then."""
    return {name: None if name == "default_root_dir" else value for name, value in hparams.items()}


def _check_layer_sizes(hparams: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Refuse a file whose arguments ask for other linear layers than it holds, before they take any memory."""
    sizes = (hparams.get("latent_dim"), hparams.get("encoder_out_dim"))
    stored = tuple(weights["fc_mu.weight"].shape)
    if sizes != stored:
        raise ValueError(
            f"the weights don't fit the networks: `latent_dim` and `encoder_out_dim` are {sizes} in the description, "
            f"{stored} in the weights."
        )


def _hyperparameters(checkpoint: Mapping[str, Any]) -> dict[Any, Any]:
    """Return the arguments that Lightning finds in a checkpoint, under any of the names that it had for them."""
    stored = [checkpoint.get(key, {}) for key in ("hyper_parameters", "hparams", "module_arguments")]
    return {name: arguments[name] for arguments in stored for name in arguments}


def _loaded_overrides(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a checkpoint that are to be replaced, and refuse names of code to be called."""
    names = list(_hyperparameters(checkpoint))
    # Lightning imports and calls what "_instantiator" says; from 2.6.2 on, only its own
    private = [name for name in names if not isinstance(name, str) or name.startswith("_")]
    if private:
        raise ValueError(f"its arguments must be those of VAE, got {private[0]!r}.")
    return without_folder(dict.fromkeys(name for name in names if name == "default_root_dir"))
