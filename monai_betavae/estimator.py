"""The VAE estimator: a LightningModule with scikit-learn's fit and transform."""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import lightning
import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor, nn, optim
from torch.distributions import Distribution, Normal
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from ._checks import check_choice, check_integer, check_real, check_seed
from ._randomness import StepSeeds, generator, order_by_epoch, seeded
from .batches.images import MAX_VALUE, batch_targets, check_images, image_tensor, item_names, plain_tensor
from .batches.ordering import BatchShare, OrderedRows, batch_share, check_not_empty, row_noise, shared_noise
from .losses import LIKELIHOODS, BetaVAELoss, likelihood, number_of
from .networks.lone_images import check_lone_images, naming_lone_values
from .networks.modules import check_network_parts
from .networks.posterior import posterior_distribution, posterior_parameters
from .networks.warm_start import check_started, warm_start
from .saving.descriptions import MAX_WEIGHTS, description_of, is_plain, name_of
from .saving.safe_loading import (
    described_networks,
    load_weights_only,
    name_file_in_errors,
    parse_description,
    refuse_stray_paths,
    resuming,
    save_weights,
    source_name,
)
from .training.optimization import check_length, make_optimizer, make_scheduler, resume_course

FILE_FORMAT = "monai_betavae.VAE/1"
"""Marks the files of :meth:`VAE.save`, and their version."""

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

CHECKPOINT_KEY = "monai_betavae_description"
"""Key of the JSON description in Lightning's checkpoints."""

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

FUSED_DEVICES = ("cpu", "cuda", "mps")
"""Devices for which torch has a fused AdamW."""

LOSSES = ("loss", "rec_loss", "kl_loss")
"""What a loss must give."""

INTERVALS = ("step", "epoch")
"""How often a learning rate scheduler takes a step."""

ADAMW_ARGUMENTS = ("lr", "weight_decay")
"""Arguments of the default optimizer; one that is passed in has its own."""

LOSS_DEFAULTS = {"beta": 1.0, "default_dist": "normal"}
"""Arguments of the default loss; a loss that is passed in has its own."""

AUTOCAST_TYPES = {
    "16-mixed": torch.float16,
    "16": torch.float16,
    "bf16-mixed": torch.bfloat16,
    "bf16": torch.bfloat16,
}

PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")
"""What a model can be trained at."""

PRECISION_ALIASES = ("32", "64", "bf16", "16")
"""Lightning's other names for them."""

KEPT_BYTES = 2**29
"""Networks of up to this much are copied before their first training, so that a clone can start where they did."""


class VAE(pl.LightningModule):
    r"""Variational autoencoder with a weighted KL divergence (beta-VAE).

    An encoder maps an image x to features, two linear layers (``fc_mu``, ``fc_logvar``) map those to the posterior
    q(z|x) = N(mu, diag(exp(logvar))), and a decoder maps a code z to p(x|z). Training minimises

    .. math:: L = L_\text{rec}(x, p(x|z)) + \beta \, D_{KL}(q(z|x) \,\|\, N(0, I)), \quad z \sim q(z|x)

    with :class:`~monai_betavae.BetaVAELoss`, which says what the scale of ``beta`` means. Signature, defaults,
    attributes, methods, logged names and numbers are those of nidl 0.0.2's ``VAE``. It works in a Lightning Trainer
    that you build, and alone through :meth:`fit` and :meth:`transform`.

    A batch may be a tensor, a ``MetaTensor``, a tuple or list with the images first, or a dictionary with the
    images under ``image_key``. Posterior, noise and losses are computed in float32 under any autocast; the
    log-variance is bounded to [-30, 20].

    It follows scikit-learn's rules for parameters: :meth:`get_params`, :meth:`set_params` and ``sklearn.base.clone``,
    which gives an untrained model of the same arguments whose networks are copies of those passed in, with the weights
    that they had before training. Its data are loaders, so that a search over it takes a list of batches. For arrays,
    pipelines and searches over rows there is :class:`~monai_betavae.transformer.VAETransformer`.

    Args:
        encoder: network from images to features of shape (batch, encoder_out_dim).
        decoder: network from codes (batch, latent_dim) to a tensor of the images' shape, which is the mean of
            ``default_dist``, or to a ``torch.distributions`` Normal, Laplace or Bernoulli.
        encoder_out_dim: number of features the encoder gives.
        latent_dim: number of latent dimensions.
        beta: weight of the KL divergence, >= 0.
        default_dist: what a tensor from the decoder stands for: "normal", "laplace" or "bernoulli".
        stochastic_transform: whether :meth:`transform` draws from the posterior (the reference's default) or gives
            its mean.
        lr: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        random_state: seed of ``fc_mu`` and ``fc_logvar``, of everything drawn in :meth:`fit` (order, noise), of
            :meth:`transform` and of :meth:`sample`, whatever the global seed is. The weights of networks that are
            passed in exist already; :func:`~monai_betavae.build_vae` seeds those too. ``None``: not seeded, except
            that :meth:`transform` always draws the same noise, so that two calls agree.
        image_key: key of the images in dictionary batches.
        loss: the loss, in place of ``BetaVAELoss(beta, default_dist)``: another :class:`~monai_betavae.BetaVAELoss`,
            one derived from it, or any callable from images, decoder distribution and posterior to a dictionary with
            "loss", "rec_loss" and "kl_loss". If it has ``beta`` and ``default_dist``, those count; else the arguments
            do. One of your own isn't stored: :meth:`load` and :meth:`load_from_checkpoint` need it again.
        optimizer: a callable from the list of parameters to a torch optimizer, such as
            ``functools.partial(torch.optim.SGD, lr=0.1)``, in place of AdamW with ``lr`` and ``weight_decay``.
        lr_scheduler: a callable from the optimizer to a torch scheduler, such as
            :func:`~monai_betavae.training.optimization.warmup_and_decay`, or to Lightning's dictionary of one. If it
            takes ``total_steps`` or ``T_max`` and hasn't got it, it gets the length of the training. A
            ``ReduceLROnPlateau`` follows "val/loss".
        lr_interval: what the scheduler counts, "step" or "epoch".
        ignore: names of arguments that are left out of ``hparams``.
        save_hparams: whether there are ``hparams``; files keep what they need either way.
        kwargs: arguments of ``lightning.pytorch.Trainer`` for :meth:`fit`.

    Attributes:
        encoder: the encoder network.
        decoder: the decoder network.
        fc_mu: linear layer to the mean of the posterior.
        fc_logvar: linear layer to its log-variance.
        criterion: the loss, a :class:`~monai_betavae.BetaVAELoss` or what was passed in.
        beta: its weight of the KL divergence.
        fitted: whether the model was trained, or loaded from a trained one.
        trainer_params: arguments that :meth:`fit` gives to the Trainer.
        hparams: the arguments above and those of the Trainer that the reference has, without networks and objects.

    Raises:
        ValueError: naming the argument, what came and what is accepted.

    Source:
        Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014; Higgins et al., "beta-VAE", ICLR 2017.

    Example:
        >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        >>> decoder = nn.Sequential(nn.Linear(2, 64), nn.Unflatten(1, (1, 4, 4, 4)))
        >>> vae = VAE(encoder, decoder, encoder_out_dim=16, latent_dim=2, random_state=0, stochastic_transform=False)
        >>> images = torch.rand(5, 1, 4, 4, 4)
        >>> vae.encode(images).mean.shape, vae.reconstruct(images).shape, vae.sample(3).shape
        (torch.Size([5, 2]), torch.Size([5, 1, 4, 4, 4]), torch.Size([3, 1, 4, 4, 4]))
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        encoder_out_dim: int,
        latent_dim: int,
        beta: float = 1.0,
        default_dist: str = "normal",
        stochastic_transform: bool = True,
        lr: float = 1e-4,
        weight_decay: float = 0.01,
        random_state: int | None = None,
        *,
        image_key: str = "image",
        loss: Callable[..., Any] | None = None,
        optimizer: Callable[..., Any] | None = None,
        lr_scheduler: Callable[..., Any] | None = None,
        lr_interval: str = "step",
        ignore: Sequence[str] | None = None,
        save_hparams: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        _check_module("encoder", encoder)
        _check_module("decoder", decoder)
        self.encoder_out_dim = check_integer("encoder_out_dim", encoder_out_dim, minimum=1)
        self.latent_dim = check_integer("latent_dim", latent_dim, minimum=1)
        beta = number_of(beta)
        if loss is None:
            self.criterion: Callable[..., Any] = BetaVAELoss(beta=beta, default_dist=default_dist)
        else:
            beta, default_dist = _settings_of_loss(loss, beta, default_dist)
            self.criterion = loss
        self.beta = beta = check_real("beta", number_of(getattr(self.criterion, "beta", beta)), minimum=0)
        self._default_dist = default_dist
        self._loss_given = loss is not None
        for name, factory in (("optimizer", optimizer), ("lr_scheduler", lr_scheduler)):
            if factory is not None and not callable(factory):
                raise ValueError(
                    f"`{name}` must be None or a callable that makes one, such as functools.partial(torch.optim.SGD, "
                    f"lr=0.1), got a value of type {type(factory).__name__}."
                )
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.lr_interval = check_choice("lr_interval", lr_interval, INTERVALS)
        self.stochastic_transform = bool(stochastic_transform)
        # what a factory says of itself is what loggers are told
        keywords = getattr(optimizer, "keywords", {})
        told = {name: value for name, value in keywords.items() if isinstance(value, int | float)}
        known = [name for name in ADAMW_ARGUMENTS if optimizer is None or name in told]
        lr, weight_decay = told.get("lr", lr), told.get("weight_decay", weight_decay)
        self.lr = check_real("lr", lr, minimum=0, exclusive=True)
        self.weight_decay = check_real("weight_decay", weight_decay, minimum=0)
        self.random_state = check_seed("random_state", random_state)
        if not isinstance(image_key, str):
            raise ValueError(f"`image_key` must be a string, got {image_key!r}.")
        self.image_key = image_key
        _check_trainer_arguments(kwargs)
        check_precision(kwargs.get("precision"))
        ignored = _check_ignored(ignore)
        if not isinstance(save_hparams, bool):
            raise ValueError(f"`save_hparams` must be True or False, got {save_hparams!r}.")
        self.trainer_params_ = {**TRAINER_DEFAULTS, **kwargs}
        # objects (callbacks, loggers, networks) stay out: a checkpoint must load under weights_only
        objects = ["callbacks", *(name for name, value in self.trainer_params_.items() if not is_plain(value))]
        # the checked values: a numpy number, say, couldn't be written as JSON
        self._arguments: dict[str, Any] = {
            **{name: getattr(self, name) for name in CHECKED},
            "default_dist": default_dist,
            **{name: value for name, value in self.trainer_params_.items() if name not in objects},
        }
        if save_hparams:
            kept_out = {*objects, *ignored, *NOT_HPARAMS, *(name for name in ADAMW_ARGUMENTS if name not in known)}
            # first Lightning's way, which also finds the arguments of a class derived from this one
            self.save_hyperparameters(ignore=list(kept_out))
            self.save_hyperparameters({name: self._arguments[name] for name in self._arguments.keys() - kept_out})
        else:
            self._arguments["save_hparams"] = False
        if ignored:
            self._arguments["ignore"] = ignored
        self.fitted_ = False
        self._started = False
        self._initial: dict[str, Any] | None = None
        self._target_key = "label"
        self._transform_rows: range | None = None

        self.encoder = encoder
        self.decoder = decoder
        if self.encoder_out_dim * self.latent_dim > MAX_WEIGHTS:
            raise ValueError(
                f"`encoder_out_dim` times `latent_dim` must be at most {MAX_WEIGHTS}, got {self.encoder_out_dim} and "
                f"{self.latent_dim}."
            )
        with seeded(self.random_state):
            self.fc_mu = nn.Linear(self.encoder_out_dim, self.latent_dim)
            self.fc_logvar = nn.Linear(self.encoder_out_dim, self.latent_dim)

    @classmethod
    def from_network(cls, network: nn.Module, **kwargs: Any) -> VAE:
        """Make an estimator that trains ``network`` in place: the modules are shared, not copied.

        Args:
            network: module with ``encoder``, ``decoder``, and the linear layers ``fc_mu`` and ``fc_logvar``, such as
                :class:`~monai_betavae.networks.modules.ReconstructionNetwork`.
            kwargs: the other arguments of :class:`VAE`.

        Raises:
            ValueError: if ``network`` lacks one of them; if ``beta`` or ``default_dist`` are given beside ``loss``, or
                ``lr`` or ``weight_decay`` beside ``optimizer``.
        """
        check_network_parts("network", network)
        if kwargs.get("loss") is not None:
            for name in LOSS_DEFAULTS:
                if name in kwargs:
                    raise ValueError(
                        f"`{name}` must not be given beside `loss`, whose setting it is: give it to the loss, got "
                        f"{name}={kwargs[name]!r} and loss={name_of(kwargs['loss'])}."
                    )
        for name in ADAMW_ARGUMENTS:
            if name in kwargs and kwargs.get("optimizer") is not None:
                raise ValueError(
                    f"`{name}` must not be given beside `optimizer`, whose setting it is, got {name}={kwargs[name]!r}."
                )
        parts: Any = network
        fc_mu: nn.Linear = parts.fc_mu
        vae = cls(parts.encoder, parts.decoder, fc_mu.in_features, fc_mu.out_features, **kwargs)
        vae.fc_mu, vae.fc_logvar = fc_mu, parts.fc_logvar
        return vae

    @property
    def default_dist(self) -> str:
        """What a tensor from the decoder stands for: the loss's setting, or the argument if the loss has none."""
        return str(getattr(self.criterion, "default_dist", self._default_dist))

    @property
    def fitted(self) -> bool:
        """Whether the model was trained, or loaded from a trained one."""
        return self.fitted_

    @property
    def trainer_params(self) -> dict[str, Any]:
        """Arguments that :meth:`fit` gives to the Trainer."""
        return self.trainer_params_

    # ---- scikit-learn's parameters ------------------------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments that make a model like this one, as scikit-learn asks for them.

        Args:
            deep: ignored: no argument is an estimator.

        Returns:
            by name, the arguments of the class and those of the Trainer. A class derived from this one has its own
            arguments as attributes, or among its ``hparams``.

        Raises:
            ValueError: naming an argument of a derived class that is neither.
        """
        current = {
            "encoder": self.encoder,
            "decoder": self.decoder,
            "loss": self.criterion if self._loss_given else None,
            "optimizer": self.optimizer,
            "lr_scheduler": self.lr_scheduler,
            "default_dist": self.default_dist,
            "ignore": self._arguments.get("ignore"),
            "save_hparams": self._arguments.get("save_hparams", True),
            **{name: getattr(self, name) for name in CHECKED},
        }
        names, takes_more = self._argument_names()
        found = {}
        for name in names:
            if name in current:
                found[name] = current[name]
            elif hasattr(self, name) or name in self.hparams:
                found[name] = getattr(self, name) if hasattr(self, name) else self.hparams[name]
            else:
                raise ValueError(
                    f"{type(self).__name__} must keep its argument `{name}` as an attribute of that name, for "
                    "get_params and clone."
                )
        return {**found, **self.trainer_params_} if takes_more else found

    def set_params(self, **params: Any) -> VAE:
        """Give arguments other values, as scikit-learn does; see :class:`VAE` for what they may be.

        Weights stay, unless the sizes or the networks change: then the model is untrained again, with the networks
        that it has or is given. ``random_state`` draws the linear layers of an untrained model anew.

        Args:
            params: arguments of the class or of the Trainer.

        Returns:
            the estimator itself; as it was, if a value is refused.

        Raises:
            ValueError: naming the argument, what came and what is accepted.
        """
        if not params:
            return self
        known = self.get_params()
        accepted = list(known)
        if self._argument_names()[1]:
            more = [*inspect.signature(VAE.__init__).parameters, *inspect.signature(pl.Trainer.__init__).parameters]
            accepted += [name for name in more if name not in (*known, "self", "kwargs")]
        for name in params:
            check_choice(f"name of a parameter of {type(self).__name__}", name, accepted)
        made = type(self)(**{**known, **params})
        networks = {name for name in ("encoder", "decoder") if getattr(made, name) is not getattr(self, name)}
        same = not networks and (made.encoder_out_dim, made.latent_dim) == (self.encoder_out_dim, self.latent_dim)
        if same and (self.fitted_ or made.random_state == self.random_state):
            made.fc_mu, made.fc_logvar = self.fc_mu, self.fc_logvar
        if same:
            made.fitted_, made._started = self.fitted_, self._started
            if self._initial is not None:
                made._initial = {name: value for name, value in self._initial.items() if name not in params}
        made.to(self.device)
        self.__dict__.update(made.__dict__)
        return self

    def _argument_names(self) -> tuple[list[str], bool]:
        """Return the names of the arguments of this model's class, and whether it takes others beside them."""
        parameters = list(inspect.signature(type(self).__init__).parameters.values())[1:]
        further = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        named = [parameter.name for parameter in parameters if parameter.kind not in further]
        return named, any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)

    def __sklearn_clone__(self) -> VAE:
        """Return an untrained model of the same arguments, for ``sklearn.base.clone``.

        Raises:
            ValueError: if it is trained, and how its networks were before isn't known.
        """
        if self._initial is None and self.fitted_:
            raise ValueError(
                "clone needs the weights that the networks had before training, and this VAE was loaded trained, or "
                f"has networks of over {KEPT_BYTES // 2**20} MiB, which are not kept: build a new one."
            )
        params, own = self.get_params(), self._stateful()
        copies = copy.deepcopy({**own, **(self._initial or {})})
        made = type(self)(**{**params, **{name: value for name, value in copies.items() if name in params}})
        if {"encoder", "decoder"} <= params.keys():
            made.fc_mu, made.fc_logvar = copies["fc_mu"], copies["fc_logvar"]
        return made

    def _stateful(self) -> dict[str, Any]:
        """Return what a training changes: networks, a loss of one's own, the Trainer's callbacks."""
        changing = {
            name: value
            for name, value in self.get_params().items()
            if isinstance(value, nn.Module) or (name in ("loss", "callbacks") and value is not None)
        }
        return {**changing, "fc_mu": self.fc_mu, "fc_logvar": self.fc_logvar}

    def _keep_initial(self) -> None:
        """Copy what the first training changes, for a clone."""
        size = sum(weights.nbytes for weights in self.state_dict().values())
        if self._initial is None and not self.fitted_ and size <= KEPT_BYTES:
            # what can't be copied can't be cloned either
            with contextlib.suppress(Exception):
                kept = copy.deepcopy(self._stateful())
                self._initial = {
                    name: value.cpu() if isinstance(value, nn.Module) else value for name, value in kept.items()
                }

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn asks of an estimator: nothing in particular."""
        from sklearn.base import BaseEstimator

        return BaseEstimator().__sklearn_tags__()

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether ``sklearn.utils.validation.check_is_fitted`` passes."""
        return self.fitted

    # ---- training -----------------------------------------------------------------------------------------------

    def fit(
        self,
        train_dataloader: Iterable[Any],
        val_dataloader: Iterable[Any] | None = None,
        *,
        ckpt_path: str | Path | None = None,
    ) -> VAE:
        """Train the model with a Lightning Trainer made of ``trainer_params``.

        Networks of the package's builders start from the training volumes first, in the way their ``warm_start`` says,
        if they haven't yet, here as in a Trainer of your own; see
        :func:`~monai_betavae.networks.warm_start.warm_start`. Other networks start as they are.

        As in the reference and in Lightning, a second ``fit`` goes on from the weights of the first, and warns;
        ``sklearn.base.clone(vae).fit(...)`` starts anew. With a ``random_state`` the order of the images and the noise
        of each step follow from it and the numbers of epoch and step, so that a training that is resumed from the
        checkpoint of an epoch's end ends with the weights of one that wasn't interrupted. That doesn't hold for random
        transforms of worker processes, nor for samplers of your own.

        Args:
            train_dataloader: loader of the training images.
            val_dataloader: loader of the validation images; without it no validation runs.
            ckpt_path: a Lightning checkpoint to resume from.

        Returns:
            the estimator itself.

        Raises:
            ValueError: for an empty loader, non-finite images, or networks whose shapes don't fit; each before the
                first optimizer step it would spoil; naming the checkpoint, if it can't be resumed from; naming
                ``precision``, for one that it can't be trained at; for a batch normalisation that would get one image.
        """
        check_precision(self.trainer_params_["precision"])
        check_not_empty("train_dataloader", train_dataloader)
        if val_dataloader is not None:
            check_not_empty("val_dataloader", val_dataloader)
        self._keep_initial()
        if ckpt_path is None:
            if self.fitted_:
                warnings.warn(
                    "This VAE is trained: `fit` goes on from its weights. To start anew, fit sklearn.base.clone(vae).",
                    stacklevel=2,
                )
            warm_start(self, train_dataloader, seed=self.random_state)
            self._started = True
        elif os.path.isfile(ckpt_path):
            load_weights_only(ckpt_path)  # refuses by name what Lightning would stumble over
        with seeded(self.random_state), order_by_epoch(train_dataloader, self.random_state):
            trainer = pl.Trainer(**{**self.trainer_params_, "callbacks": self._callbacks()})
            training, validation = (_one_loader(loader) for loader in (train_dataloader, val_dataloader))
            with resuming(trainer):
                trainer.fit(self, training, validation, ckpt_path=ckpt_path, weights_only=True)
        self.fitted_ = True
        return self

    def _callbacks(self) -> list[pl.Callback]:
        """Return the Trainer's callbacks, in a list of their own: Lightning adds its defaults to the one it gets."""
        given = self.trainer_params_["callbacks"]
        listed = [given] if isinstance(given, pl.Callback) else list(given or [])
        return listed if self.random_state is None else [StepSeeds(self.random_state), *listed]

    def training_step(self, batch: Any, batch_idx: int, dataloader_idx: int | None = 0) -> dict[str, Tensor]:
        """Compute and log the training losses, as "train/loss", "train/rec_loss" and "train/kl_loss".

        Args:
            batch: images, in any of the forms a batch can have.
            batch_idx: number of the batch, for messages.
            dataloader_idx: ignored.

        Returns:
            "loss", "rec_loss" and "kl_loss". On several processes the images that a distributed sampler repeats, so
            that all have as many, don't count; where that leaves some fewer images than others, each process's losses
            are weighted, so that their average, and that of the gradients, is over all images.
        """
        trainer = self._trainer
        loader = None if trainer is None else trainer.train_dataloader
        images = self._images(batch, f"training batch {batch_idx}")
        share = batch_share(loader, batch_idx, len(images))
        with naming_lone_values(f"training batch {batch_idx}"):
            losses = self._losses(images[: max(share.n_own, 1)], share)
        self._log_losses("train", losses, len(images), on_step=True, on_epoch=False)
        if share.weight == 1:
            return losses
        # the processes' gradients are averaged as they are: weighted, they are those of the whole batch's mean
        return {name: share.weight * value for name, value in losses.items()}

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int | None = 0) -> dict[str, Tensor]:
        """Compute and log the validation losses, as "val/loss", "val/rec_loss" and "val/kl_loss".

        The definition is that of training: one code drawn per image. On several processes the images that a
        distributed sampler repeats, so that all have as many, don't count.

        Args:
            batch: images, in any of the forms a batch can have.
            batch_idx: number of the batch, for messages.
            dataloader_idx: ignored.

        Returns:
            "loss", "rec_loss" and "kl_loss".
        """
        images = self._images(batch, f"validation batch {batch_idx}")
        share = batch_share(self._val_loader(dataloader_idx or 0), batch_idx, len(images))
        losses = self._losses(images[: max(share.n_own, 1)], share)
        # Lightning averages the counts over the processes as integers; multiples of their number stay whole
        self._log_losses("val", losses, share.n_own * share.n_processes, sync_dist=True)
        return losses

    def configure_optimizers(self) -> Any:
        """Return ``[optimizer]``, or with an ``lr_scheduler`` Lightning's dictionary of both.

        The default is an AdamW over all parameters, with ``lr`` and ``weight_decay``. It is torch's fused one, which
        updates all weights in one pass over memory (on 2 CPU cores five times faster than the usual one), except where
        Lightning refuses that: gradient clipping at 16-mixed precision.

        Raises:
            ValueError: naming ``optimizer`` or ``lr_scheduler``, if one stops or gives anything else, needs the length
                of a training that has no end, or follows a validation that doesn't take place.
        """
        optimizer = self._make_optimizer()
        if self.lr_scheduler is None:
            return [optimizer]
        return {"optimizer": optimizer, "lr_scheduler": self._make_schedule(optimizer)}

    def _make_optimizer(self) -> optim.Optimizer:
        parameters = list(self.parameters())
        if self.optimizer is not None:
            return make_optimizer(self.optimizer, parameters)
        trainer = self._trainer
        clipped = trainer is not None and bool(trainer.gradient_clip_val) and trainer.precision == "16-mixed"
        fused = not clipped and all(
            weights.is_floating_point() and weights.device.type in FUSED_DEVICES for weights in parameters
        )
        return optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=fused)

    def _make_schedule(self, optimizer: optim.Optimizer) -> dict[str, Any]:
        """Return Lightning's description of the scheduler."""
        assert self.lr_scheduler is not None
        made = make_scheduler(self.lr_scheduler, optimizer, self._training_length)
        if isinstance(made, dict):
            return made
        if not isinstance(made, ReduceLROnPlateau):
            return {"scheduler": made, "interval": self.lr_interval}
        trainer = self._trainer
        if trainer is not None and not trainer.enable_validation:
            raise ValueError(
                "`lr_scheduler` ReduceLROnPlateau follows 'val/loss', so it needs a validation loader, got none."
            )
        every = 1 if trainer is None else trainer.check_val_every_n_epoch or 1
        return {"scheduler": made, "interval": "epoch", "frequency": every, "monitor": "val/loss"}

    def _training_length(self) -> int:
        """Return the number of steps, or epochs, of the training."""
        trainer = self._trainer
        if trainer is None:
            return check_length(math.inf)
        n_steps = trainer.estimated_stepping_batches
        if self.lr_interval == "step":
            return check_length(n_steps)
        if trainer.max_steps == -1:
            return check_length(math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs)
        if trainer.train_dataloader is None:  # Lightning hasn't needed it to know the number of steps
            trainer.fit_loop.setup_data()
        per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        return check_length(max(1, math.ceil(n_steps / per_epoch)))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Check images while they are still on the CPU, where it doesn't make a GPU wait."""
        if batch is None:  # Lightning would pass over it, and with ``max_steps`` wait for ever for a step
            image_tensor(batch, self.image_key)
        if self.device.type != "cpu":
            self._check_images(batch, "the batch")
        return batch

    def setup(self, stage: str) -> None:
        """Start networks that ask for it from the training volumes, before a Trainer makes the optimizers.

        Not where a checkpoint is resumed, whose weights take their place.

        Raises:
            ValueError: naming ``precision``, for one that the model can't be trained at.
        """
        trainer = self._trainer
        if stage != "fit" or trainer is None:
            return
        check_precision(trainer.precision)
        self._keep_initial()
        if self._started or _resumes(trainer) is not False:
            return
        loader = _training_loader(trainer)
        if loader is not None:
            # processes that drew other numbers would get components of other voxels
            seed = 0 if self.random_state is None and trainer.world_size > 1 else self.random_state
            warm_start(self, loader, seed=seed)
            self._started = True

    def on_fit_start(self) -> None:
        """Refuse to train networks that should have started from the training volumes and haven't.

        And those whose batch normalisation would stop at a batch of one image, as far as that can be known.
        """
        check_started(self)
        trainer = self._trainer
        if trainer is not None and trainer.limit_train_batches == 1.0:
            check_lone_images(self, _training_loader(trainer), trainer.world_size, self._run_on_zeros)

    def on_fit_end(self) -> None:
        """Note that the model is trained, also when a Trainer of the user's did it."""
        self.fitted_ = True

    # ---- embedding ----------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Encode the images and draw from the posterior q(z|x).

        Args:
            x: images, shape (batch, channel, ...).

        Returns:
            z, shape (batch, latent_dim).
        """
        return posterior_distribution(*self._posterior(image_tensor(x, self.image_key))).rsample()

    def transform_step(self, batch: Any, batch_idx: int, dataloader_idx: int | None = 0) -> Tensor:
        """Embed one batch: a draw from the posterior, or its mean if ``stochastic_transform`` is false.

        Args:
            batch: images, in any of the forms a batch can have.
            batch_idx: number of the batch, for messages.
            dataloader_idx: ignored.

        Returns:
            z, shape (batch, latent_dim).
        """
        images = self._images(batch, f"batch {batch_idx}")
        mu, logvar = self._posterior(images)
        if not self.stochastic_transform:
            return mu
        if self._transform_rows is None:
            return posterior_distribution(mu, logvar).rsample()
        # 0 where unseeded: two calls on the same volumes must agree
        noise = row_noise(self._transform_rows, mu[0].numel(), self.random_state or 0, "transform")
        return mu + torch.exp(0.5 * logvar) * noise.reshape(mu.shape).to(mu)

    def transform_step_with_targets(
        self, batch: Any, batch_idx: int, dataloader_idx: int | None = 0
    ) -> dict[str, Tensor]:
        """Embed one batch and return its targets beside it; :meth:`transform_with_targets` calls this.

        Args:
            batch: ``(images, targets)``, or a dictionary with the targets under "label", or under the ``target_key``
                that :meth:`transform_with_targets` was given.
            batch_idx: number of the batch, for messages.
            dataloader_idx: ignored.

        Returns:
            "features", as :meth:`transform_step` gives them, and "targets", on the CPU.
        """
        features = self.transform_step(batch, batch_idx, dataloader_idx)
        return {"features": features, "targets": batch_targets(batch, self._target_key, len(features))}

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int | None = 0) -> Tensor:
        """Embed one batch in ``Trainer.predict``; see :meth:`transform_step`."""
        return self.transform_step(batch, batch_idx, dataloader_idx)

    def transform(self, test_dataloader: Iterable[Any]) -> Tensor:
        """Embed every item of the loader's dataset, in the dataset's order.

        Row i is item i of the dataset, whatever the loader's sampler, ``drop_last`` or number of workers, and on
        any number of processes (each embeds its share, all get all rows). A loader without a dataset of known
        length is read as it comes. Runs in eval mode without gradient, on the accelerator :meth:`fit` would use,
        with the precision of ``trainer_params``, and involves none of its callbacks or loggers.

        Args:
            test_dataloader: loader of the images.

        Returns:
            tensor of shape (n, latent_dim) on the CPU, (n, ..., latent_dim) for an encoder that gives several rows of
            features for an image. With ``stochastic_transform`` row i is a draw from q(z|x_i)
            whose noise depends on ``random_state`` and i alone.

        Raises:
            sklearn.exceptions.NotFittedError: (a ``ValueError``) if the model isn't fitted.
            ValueError: for an empty loader or non-finite images.
        """
        return self._embed(test_dataloader, target_key=None)[0]

    def transform_with_targets(
        self, test_dataloader: Iterable[Any], *, target_key: str = "label"
    ) -> tuple[Tensor, Tensor]:
        """Embed every item of the loader's dataset and return its targets with it, in the same order.

        Args:
            test_dataloader: loader of batches ``(images, targets)``, or of dictionaries.
            target_key: key of the targets in a dictionary.

        Returns:
            features of shape (n, latent_dim) and targets of shape (n, ...), on the CPU.

        Raises:
            sklearn.exceptions.NotFittedError: (a ``ValueError``) if the model isn't fitted.
            ValueError: if a batch has no targets, or as in :meth:`transform`.
        """
        features, targets = self._embed(test_dataloader, target_key=target_key)
        assert targets is not None
        return features, targets

    # ---- the model as a pair of maps ----------------------------------------------------------------------------

    def encode(self, x: Any) -> Normal:
        """Return the posterior q(z|x) in eval mode.

        Args:
            x: images, shape (batch, channel, ...), or any batch that holds them.

        Returns:
            ``Normal`` with parameters of shape (batch, latent_dim), or (batch, ..., latent_dim) for an encoder that
            gives several rows of features for an image.
        """
        with _evaluating(self):
            return posterior_distribution(*self._posterior(self._images(x, "`x`").to(self.device)))

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of p(x|z) in eval mode: intensities, or probabilities for a Bernoulli.

        Args:
            z: codes, shape (batch, latent_dim), or (batch, ..., latent_dim) for a decoder that takes such.

        Raises:
            ValueError: if ``z`` hasn't ``latent_dim`` columns of real numbers, or no row; or, on the CPU, if it isn't
                finite and of at most 1e15 in magnitude.
        """
        if (
            not isinstance(z, Tensor)
            or z.ndim < 2
            or z.shape[-1] != self.latent_dim
            or z.numel() == 0
            or z.is_complex()
        ):
            came = f"shape {tuple(z.shape)}, {z.dtype}" if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(f"`z` must be a tensor of shape (batch, latent_dim={self.latent_dim}), got {came}.")
        z = plain_tensor(z).to(self.device, self.fc_mu.weight.dtype)
        if z.device.type == "cpu":
            check_images(z, "`z`", largest=MAX_VALUE, what="codes")
        return self._decoded_mean(z)

    def reconstruct(self, x: Any) -> Tensor:
        """Return the decoded posterior mean of the images, in eval mode.

        Args:
            x: images, shape (batch, channel, ...), or any batch that holds them.

        Returns:
            tensor of the images' shape.
        """
        return self._decoded_mean(self.encode(x).mean)

    @torch.no_grad()
    def sample(self, n_samples: int) -> Tensor:
        """Generate images: the mean of p(x|z) for codes drawn from the prior N(0, I).

        One code of ``latent_dim`` numbers for an image. Without gradient, in eval mode (the mode is restored), on the
        model's device. With a ``random_state`` every
        call gives the same codes, on every device.

        Args:
            n_samples: number of images, at least 1.

        Returns:
            tensor of shape (n_samples, channel, ...).
        """
        n_samples = check_integer("n_samples", n_samples, minimum=1)
        z = torch.randn(n_samples, self.latent_dim, generator=generator(self.random_state, "sample"))
        return self.decode(z)

    # ---- files --------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write weights and a JSON description to one file, whole or not at all.

        Networks made by the package's builders come back by themselves in :meth:`load`; others are passed in there.

        Args:
            path: where to write; an existing file is replaced once the new one is complete.

        Returns:
            the path.
        """
        content = {
            "format": FILE_FORMAT,
            "description": json.dumps(self._description(), indent=1),
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
    ) -> VAE:
        """Read a model written by :meth:`save`; nothing in the file is unpickled or executed.

        Args:
            path: the file.
            encoder: the encoder, for a model whose encoder no builder of the package made; its weights are replaced.
            decoder: likewise the decoder.
            loss: the loss, for a model that was trained with one of your own; its settings replace stored ones.

        Returns:
            the estimator, on the CPU.

        Raises:
            ValueError: naming the file, if it isn't such a file, holds code, lacks a network or loss that is to be
                passed in, or doesn't fit the networks passed in.
        """
        content = load_weights_only(path)
        if not isinstance(content, dict) or content.get("format") != FILE_FORMAT:
            raise ValueError(f"{os.fspath(path)} must be a file written by VAE.save (format {FILE_FORMAT!r}).")
        description = parse_description(content.get("description"), os.fspath(path))
        networks: dict[str, Any] = described_networks(
            description, {"encoder": encoder, "decoder": decoder}, os.fspath(path), content.get("state_dict", {})
        )
        _check_loss_given(description, loss, os.fspath(path))
        with name_file_in_errors(os.fspath(path)):
            _check_layer_sizes(description["hparams"], content["state_dict"])
            arguments = {**_without_folder(description["hparams"]), **_with_loss(loss)}
            vae = cls(**networks, **arguments)
        try:
            vae.load_state_dict(content["state_dict"])
        except Exception as error:  # what a file may hold in place of weights is more than torch expects
            raise ValueError(f"{os.fspath(path)}: the weights don't fit the networks. {error}") from error
        vae.fitted_ = bool(description.get("fitted", True))
        return vae

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> VAE:
        """Read a model from a Lightning checkpoint; networks made by the package's builders come back by themselves.

        Args:
            checkpoint_path: a checkpoint written while training this class.
            map_location: as in ``torch.load``.
            hparams_file: as in Lightning.
            strict: whether the state dict must fit exactly; Lightning's default.
            weights_only: nothing in the file is executed unless this is set to false.
            kwargs: arguments of :class:`VAE` that replace stored ones; ``encoder`` and ``decoder`` for custom networks,
                ``loss`` for a custom loss.

        Raises:
            ValueError: naming the file, if it holds code or lacks a network or loss that is to be passed in.
        """
        loader = super().load_from_checkpoint
        vae: VAE
        kwargs = {**_with_loss(kwargs.get("loss")), **kwargs}
        if weights_only is False:
            vae = loader(checkpoint_path, map_location, hparams_file, strict, weights_only=False, **kwargs)
            return vae
        source = source_name(checkpoint_path)
        content = load_weights_only(checkpoint_path)  # refuses by name what Lightning would stumble over
        if not isinstance(checkpoint_path, str | os.PathLike):
            checkpoint_path.seek(0)
        if not isinstance(content, dict):
            raise ValueError(f"{source} must be a Lightning checkpoint of a VAE, got a {type(content).__name__}.")
        custom = "encoder" in kwargs and "decoder" in kwargs
        stored: dict[str, Any] = {}
        if CHECKPOINT_KEY in content or not custom:
            description = parse_description(content.get(CHECKPOINT_KEY), source)
            _check_loss_given(description, kwargs.get("loss"), source)
            stored = _without_folder(description["hparams"])
        if not custom:
            given = {name: kwargs.get(name) for name in ("encoder", "decoder")}
            kwargs.update(described_networks(description, given, source, content.get("state_dict", {})))
        with name_file_in_errors(source):
            # the description has what was left out of the hyperparameters
            left_out = stored.keys() - _hyperparameters(content).keys()
            public = {name: stored[name] for name in left_out if not name.startswith("_")}
            kwargs = {**public, **_loaded_overrides(content), **kwargs}
            vae = loader(checkpoint_path, map_location, hparams_file, strict, weights_only=True, **kwargs)
        return vae

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the JSON description to Lightning's checkpoint."""
        checkpoint[CHECKPOINT_KEY] = json.dumps(self._description())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note that the weights are those of a trained model, and put the learning rate where the run was.

        Raises:
            ValueError: for paths of files that Lightning would remove; if the run had a loss of one's own and this
                model hasn't; naming ``lr_scheduler``, if its course isn't the one that is resumed.
        """
        trainer = self._trainer
        if trainer is not None:
            refuse_stray_paths(
                checkpoint, [getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks]
            )
        if CHECKPOINT_KEY in checkpoint:
            description = parse_description(checkpoint[CHECKPOINT_KEY], "the checkpoint")
            _check_loss_given(description, self.criterion if self._loss_given else None, "the checkpoint")
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING and self.lr_scheduler is not None:
            self._resume_schedule(checkpoint)
        self.fitted_ = True

    def _resume_schedule(self, checkpoint: dict[str, Any]) -> None:
        optimizer = self._make_optimizer()
        schedule = self._make_schedule(optimizer)
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
        resume_course(checkpoint, optimizer, schedule["scheduler"], done)

    # ---- internals ----------------------------------------------------------------------------------------------

    def _run_on_zeros(self) -> None:
        """Run the networks on one image of zeros in eval mode; the decoder knows the images' shape."""
        with torch.no_grad(), _evaluating(self):
            image = self._decoded(torch.zeros(1, self.latent_dim).to(self.fc_mu.weight)).mean
            self._posterior(torch.zeros_like(image))

    def _images(self, batch: Any, where: str) -> Tensor:
        """Return the batch's images as a plain tensor, checked unless that would make a GPU wait."""
        images = image_tensor(batch, self.image_key)
        if images.device.type == "cpu":
            self._check_images(batch, where)
        return images

    def _check_images(self, batch: Any, where: str) -> None:
        check_images(
            image_tensor(batch, self.image_key),
            where,
            item_names(batch),
            probabilities=self.default_dist == "bernoulli",
            largest=MAX_VALUE,
        )

    def _posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with _given_to("encoder", "images", images):
            features = self.encoder(images.to(self.fc_mu.weight.dtype))
        if not isinstance(features, Tensor) or features.ndim < 2 or features.shape[-1] != self.encoder_out_dim:
            gave = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else f"a {type(features).__name__}"
            raise ValueError(
                f"`encoder_out_dim` must be the number of features the encoder gives, got {self.encoder_out_dim}; "
                f"the encoder gave {gave} for images of shape {tuple(images.shape)}."
            )
        return posterior_parameters(features, self.fc_mu, self.fc_logvar)

    def _decoded(self, z: Tensor) -> Distribution:
        with _given_to("decoder", "codes", z):
            output = self.decoder(z)
        return likelihood(output, self.default_dist)

    def _decoded_mean(self, z: Tensor) -> Tensor:
        with _evaluating(self):
            mean: Tensor = self._decoded(z).mean
        return mean

    def _run_step(self, images: Tensor, share: BatchShare | None = None) -> tuple[Distribution, Normal]:
        """Return the decoder's distribution for one code drawn per image, and the posterior."""
        q = posterior_distribution(*self._posterior(images))
        z = q.rsample() if share is None or share.n_processes == 1 else q.mean + q.scale * shared_noise(q.mean, share)
        p = self._decoded(z)
        if p.batch_shape != images.shape:
            raise ValueError(
                f"`decoder` must give the shape of the images, {tuple(images.shape)}, got {tuple(p.batch_shape)}."
            )
        return p, q

    def _val_loader(self, dataloader_idx: int) -> Any:
        loaders = None if self._trainer is None else self._trainer.val_dataloaders
        return loaders[dataloader_idx] if isinstance(loaders, Sequence) else loaders

    def _losses(self, images: Tensor, share: BatchShare) -> dict[str, Tensor]:
        p, q = self._run_step(images, share)
        losses = self.criterion(images, p, q)
        if type(self.criterion) is not BetaVAELoss:
            _check_losses(losses)
        checked: dict[str, Tensor] = losses
        return checked

    def _log_losses(self, stage: str, losses: Mapping[str, Tensor], weight: int, **options: Any) -> None:
        trainer = self._trainer
        # the steps can be called without a Trainer, and after its run is over
        if trainer is not None and (trainer.training or trainer.validating or trainer.sanity_checking):
            named = {f"{stage}/{name}": value for name, value in losses.items()}
            self.log_dict(named, prog_bar=True, batch_size=weight, **options)

    def _embed(self, loader: Iterable[Any], target_key: str | None) -> tuple[Tensor, Tensor | None]:
        if not self.fitted:
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("This VAE is not fitted: call `fit`, or load a trained model, before `transform`.")
        check_not_empty("test_dataloader", loader)
        rows = OrderedRows(loader)
        row = rows.start
        features: list[Tensor] = []
        targets: list[Tensor] = []
        with _evaluating(self), torch.inference_mode(), self._on_accelerator() as device:
            try:
                for batch_idx, batch in enumerate(rows.batches(), rows.first_batch):
                    n_images = len(image_tensor(batch, self.image_key))
                    if device.type != "cpu":  # where transform_step checks, it would make a GPU wait
                        self._check_images(batch, f"batch {batch_idx}")
                    self._transform_rows = range(row, row + n_images)
                    moved = move_data_to_device(batch, device)
                    if target_key is None:
                        embedded = self.transform_step(moved, batch_idx)
                    else:
                        self._target_key = target_key
                        found = self.transform_step_with_targets(moved, batch_idx)
                        embedded = found["features"]
                        targets.append(found["targets"].cpu())
                    features.append(embedded.float().cpu())
                    row += n_images
            finally:
                self._transform_rows, self._target_key = None, "label"
        return rows.gather(features), rows.gather(targets) if target_key is not None else None

    @contextlib.contextmanager
    def _on_accelerator(self) -> Iterator[torch.device]:
        """Put the model where, and run it at the precision with which, ``fit`` would; bring it back after."""
        home = self.device
        device = _accelerator_device(self.trainer_params_) if home.type == "cpu" else home
        half = AUTOCAST_TYPES.get(str(self.trainer_params_["precision"]))
        self.to(device)
        try:
            with torch.autocast(device.type, half) if half is not None else contextlib.nullcontext():
                yield device
        finally:
            self.to(home)

    def _description(self) -> dict[str, Any]:
        description = {
            "class": type(self).__name__,
            "hparams": {**self._arguments, **self.hparams},
            "encoder": description_of(self.encoder),
            "decoder": description_of(self.decoder),
            "fitted": self.fitted,
            "versions": {"torch": str(torch.__version__), "lightning": lightning.__version__},
        }
        if type(self.criterion) is not BetaVAELoss:
            description["loss"] = name_of(self.criterion)
        return description


def check_precision(precision: Any, name: str = "`precision`") -> None:
    """Refuse a precision that a VAE can't be trained at, before anything is read.

    Args:
        precision: Lightning's name of it; ``None`` for its default.
        name: what the message calls it.

    Raises:
        ValueError: naming it, what came and what is accepted.

    Example:
        >>> check_precision("bf16-mixed")
        >>> try:
        ...     check_precision("bf16-true")
        ... except ValueError as error:
        ...     print(str(error).split(":")[0])
        `precision` must be one of '32-true', '64-true', 'bf16-mixed', '16-mixed', got 'bf16-true'
    """
    if precision is not None and str(precision) not in PRECISIONS + PRECISION_ALIASES:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, PRECISIONS))}, got {precision!r}: posterior, noise and losses "
            "are computed in float32, which networks with weights of half precision don't take; with 'bf16-mixed' the "
            "networks run in half precision too, on weights of single precision."
        )


def _check_module(name: str, value: Any) -> None:
    if not isinstance(value, nn.Module):
        raise ValueError(f"`{name}` must be a torch.nn.Module, got {type(value).__name__}.")


def _settings_of_loss(loss: Any, beta: Any, default_dist: Any) -> tuple[Any, str]:
    """Return the settings of a loss that was passed in, the arguments where it has none.

    Raises:
        ValueError: if it isn't a loss, or an argument says something else than the loss.
    """
    if not callable(loss):
        raise ValueError(
            "`loss` must be None, a BetaVAELoss or another callable (x, p, q) -> dict, got a value of type "
            f"{type(loss).__name__}."
        )
    given = {"beta": beta, "default_dist": default_dist}
    for name, value in given.items():
        own = number_of(getattr(loss, name, value))
        if value != LOSS_DEFAULTS[name] and value != own:
            raise ValueError(
                f"`{name}` must not be given beside `loss`, whose setting it is: got {value!r}, the loss has {own!r}."
            )
        given[name] = own
    check_real("beta" if not hasattr(loss, "beta") else "loss.beta", given["beta"], minimum=0)
    name = "loss.default_dist" if hasattr(loss, "default_dist") else "default_dist"
    return given["beta"], check_choice(name, given["default_dist"], LIKELIHOODS)


def _check_losses(losses: Any) -> None:
    """Refuse what a loss of one's own gives, if training can't go on with it."""
    found = losses if isinstance(losses, Mapping) else {}
    wrong = [name for name in LOSSES if not isinstance(found.get(name), Tensor) or found[name].numel() != 1]
    if wrong:
        came = f"keys {', '.join(map(repr, losses))}" if isinstance(losses, Mapping) else f"a {type(losses).__name__}"
        raise ValueError(
            f"`loss` must give a dictionary with tensors of one number under {', '.join(map(repr, LOSSES))}, got "
            f"{came}, where {', '.join(map(repr, wrong))} isn't one."
        )


def _check_ignored(ignore: Any) -> list[str]:
    names = [ignore] if isinstance(ignore, str) else list(ignore or []) if isinstance(ignore, Iterable | None) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`ignore` must be None or a list of names of arguments, got {ignore!r}.")
    return names


def _check_loss_given(description: Mapping[str, Any], loss: Any, source: str) -> None:
    """Refuse to go on without the loss that a file's model was trained with."""
    stored = description.get("loss")
    if stored is not None and loss is None:
        raise ValueError(f"`loss` must be passed in: {source} was written with one of its own, {stored!r:.200}.")


def _with_loss(loss: Any) -> dict[str, Any]:
    """Return the arguments that a loss passed in stands for: its settings in place of stored ones."""
    if loss is None:
        return {}
    return {"loss": loss, **{name: getattr(loss, name) for name in LOSS_DEFAULTS if hasattr(loss, name)}}


def _resumes(trainer: pl.Trainer) -> bool | None:
    """Return whether a running ``Trainer.fit`` resumes from a checkpoint, ``None`` if that can't be told.

    Lightning (2.6) says so only after ``setup``, when it is too late to change sizes: so it is read off the argument of
    its own method that is running.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "_run" and frame.f_locals.get("self") is trainer and "ckpt_path" in frame.f_locals:
            return frame.f_locals["ckpt_path"] is not None
        frame = frame.f_back
    return None


def _training_loader(trainer: pl.Trainer) -> Iterable[Any] | None:
    """Return the training loader that a Trainer was given, ``None`` if it can't be had before it trains.

    Nor if reading it would take its batches away, or if it is several.
    """
    source = getattr(trainer.fit_loop, "_data_source", None)  # not public in Lightning 2.6
    if source is None or not hasattr(source, "dataloader"):
        return None
    loader = source.dataloader()
    several = isinstance(loader, Mapping | list | tuple | CombinedLoader)
    if several or not isinstance(loader, Iterable) or isinstance(loader, Iterator):
        return None
    return loader


def _check_trainer_arguments(kwargs: Mapping[str, Any]) -> None:
    accepted = [name for name in inspect.signature(pl.Trainer.__init__).parameters if name != "self"]
    for name in kwargs:
        check_choice("name of a keyword argument of VAE or lightning.pytorch.Trainer", name, accepted)


@contextlib.contextmanager
def _given_to(name: str, what: str, given: Tensor) -> Iterator[None]:
    """Say which network stops at what, beside torch's words on one of its layers."""
    try:
        yield
    except (RuntimeError, IndexError) as error:
        # what isn't about shapes and types, such as a GPU's full memory, has classes of its own below RuntimeError
        if type(error) not in (RuntimeError, IndexError):
            raise
        raise ValueError(f"`{name}` must take {what} of shape {tuple(given.shape)}, but stops: {error}") from error


def _check_layer_sizes(hparams: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Refuse a file whose arguments ask for other linear layers than it holds, before they take any memory."""
    sizes = (hparams.get("latent_dim"), hparams.get("encoder_out_dim"))
    stored = tuple(weights["fc_mu.weight"].shape)
    if sizes != stored:
        raise ValueError(
            f"the weights don't fit the networks: `latent_dim` and `encoder_out_dim` are {sizes} in the description, "
            f"{stored} in the weights."
        )


def _one_loader(loader: Any) -> Any:
    """Return a loader that gives a list's batches, which Lightning would take for as many loaders."""
    listed = isinstance(loader, list | tuple) and not any(isinstance(item, DataLoader) for item in loader)
    return DataLoader(loader, batch_size=None) if listed else loader


def _without_folder(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's arguments but for the folder to write into, which a file doesn't choose: the default then."""
    return {name: None if name == "default_root_dir" else value for name, value in hparams.items()}


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
    return _without_folder(dict.fromkeys(name for name in names if name == "default_root_dir"))


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Run in eval mode and give every module its own mode back: a frozen part may have been in eval mode before."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _accelerator_device(trainer_params: Mapping[str, Any]) -> torch.device:
    """Return the device a Trainer of these arguments would train on, in this process."""
    accelerator, devices = trainer_params["accelerator"], trainer_params["devices"]
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        listed = isinstance(devices, Sequence) and not isinstance(devices, str) and len(devices) == 1
        return torch.device("cuda", devices[0] if listed else torch.cuda.current_device())
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
