"""The VAE estimator: a LightningModule with scikit-learn's fit and transform."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from ._checks import check_choice, check_integer, check_seed
from ._estimator_arguments import (
    ADAMW_ARGUMENTS,
    CHECKED,
    NOT_HPARAMS,
    TRAINER_DEFAULTS,
    adamw_arguments,
    check_factory,
    check_ignored,
    check_layer_size,
    check_losses,
    check_module,
    check_not_beside,
    check_trainer_arguments,
    make_loss,
)
from ._randomness import generator, seeded
from ._sklearn_parameters import SklearnParameters
from .batches.covariates import batch_covariates, covariate_rows
from .batches.gathered_rows import gather_posteriors
from .batches.images import MAX_VALUE, batch_targets, check_images, image_tensor, item_names, plain_tensor
from .batches.ordering import OrderedRows, check_not_empty, row_noise
from .batches.process_shares import BatchShare, batch_share, draw_codes
from .losses import BetaVAELoss, likelihood
from .networks.conditional_mean import condition_of, fit_condition, keep_condition, n_covariates_of
from .networks.correction import RENEWAL_BATCHES, renew_gain, set_variance
from .networks.latent_model import evaluating
from .networks.lone_images import check_lone_images, naming_lone_values
from .networks.modules import check_network_parts
from .networks.noise import calibrate_noise, weighted_residuals
from .networks.posterior import (
    LossScale,
    call_network,
    check_codes,
    check_features,
    corrected_means,
    posterior_distribution,
    posterior_parameters,
)
from .networks.warm_start import check_started, variance_of, warm_start
from .objectives import describe_objective, objective_from_description
from .objectives.batch_terms import takes_gathered, warn_of_batch_terms
from .saving.descriptions import is_plain, name_of
from .saving.estimator_file import EstimatorFiles, check_checkpoint, kept_covariates
from .saving.safe_loading import load_weights_only, name_resumed_checkpoint
from .schedules import Schedule
from .training.device import check_precision, on_fit_device
from .training.learning_rate import INTERVALS, make_schedule, resume_schedule
from .training.optimizers import make_optimizer
from .training.running_trainer import (
    as_one_loader,
    is_running,
    n_images_of,
    position_in_training,
    resumes,
    training_loader,
    validation_loader,
)
from .training.step_seeds import StepSeeds, order_by_epoch


class VAE(SklearnParameters, EstimatorFiles, pl.LightningModule):
    r"""Variational autoencoder with a weighted KL divergence (beta-VAE).

    An encoder maps an image x to features, two linear layers (``fc_mu``, ``fc_logvar``) map those to the posterior
    q(z|x) = N(mu, diag(exp(logvar))), and a decoder maps a code z to p(x|z). Training minimises

    .. math:: L = L_\text{rec}(x, p(x|z)) + \beta \, D_{KL}(q(z|x) \,\|\, N(0, I)), \quad z \sim q(z|x)

    with :class:`~monai_betavae.BetaVAELoss`, which says what the scale of ``beta`` means. Signature, defaults,
    attributes, methods, logged names and numbers are those of the reference, ``VAE`` of nidl 0.0.2. It works in a
    Lightning Trainer that you build, and alone through :meth:`fit` and :meth:`transform`.

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
            such as one with a schedule; an objective of :mod:`monai_betavae.objectives`; one derived from them; or any
            callable from images, decoder distribution and posterior to a dictionary with "loss", "rec_loss" and
            "kl_loss". If it has ``beta`` and ``default_dist``, those count; else the arguments do. One of your own
            isn't stored: :meth:`load` and :meth:`load_from_checkpoint` need it again.
        optimizer: a callable from the list of parameters to a torch optimizer, such as
            ``functools.partial(torch.optim.SGD, lr=0.1)``, in place of AdamW with ``lr`` and ``weight_decay``.
        lr_scheduler: a callable from the optimizer to a torch scheduler, such as
            :func:`~monai_betavae.training.learning_rate.warmup_and_decay`, or to Lightning's dictionary of one. If it
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
        fits_condition: whether the training of a conditional model ends with a fit of its conditional mean, also in a
            Trainer that you build. Set it to false if you go back to weights of an earlier epoch and call
            :func:`~monai_betavae.networks.conditional_mean.fit_condition` after that.
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
        check_module("encoder", encoder)
        check_module("decoder", decoder)
        self.encoder_out_dim = check_integer("encoder_out_dim", encoder_out_dim, minimum=1)
        self.latent_dim = check_integer("latent_dim", latent_dim, minimum=1)
        self._loss_given = loss is not None
        self.criterion, self.beta, default_dist = make_loss(loss, beta, default_dist)
        self._default_dist = default_dist
        beta = self.beta  # save_hyperparameters reads the values of this frame
        check_factory("optimizer", optimizer)
        check_factory("lr_scheduler", lr_scheduler)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.lr_interval = check_choice("lr_interval", lr_interval, INTERVALS)
        self.stochastic_transform = bool(stochastic_transform)
        self.lr, self.weight_decay, known = adamw_arguments(optimizer, lr, weight_decay)
        lr, weight_decay = self.lr, self.weight_decay  # likewise
        self.random_state = check_seed("random_state", random_state)
        if not isinstance(image_key, str):
            raise ValueError(f"`image_key` must be a string, got {image_key!r}.")
        self.image_key = image_key
        check_trainer_arguments(kwargs)
        check_precision(kwargs.get("precision"))
        ignored = check_ignored(ignore)
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
        self._started = False  # whether the warm start took place
        # the step at which the template's curvature was measured, and the likelihood's variance if a schedule sets it
        self._renewed_at: tuple[int, float | None] = (-1, None)
        self._at_end = False
        self.fits_condition = True
        # of the images of the last validation batch, for callbacks; None where this process owns none of them
        self.validated_posterior: Normal | None = None
        self._initial: dict[str, Any] | None = None  # copies of what training changes, for sklearn.base.clone
        # what `transform` tells its hook `transform_step` about the current batch
        self._target_key = "label"
        self._transform_rows: range | None = None

        self.encoder = encoder
        self.decoder = decoder
        check_layer_size(self.encoder_out_dim, self.latent_dim)
        with seeded(self.random_state):
            self.fc_mu = nn.Linear(self.encoder_out_dim, self.latent_dim)
            self.fc_logvar = nn.Linear(self.encoder_out_dim, self.latent_dim)

    @classmethod
    def from_network(cls, network: nn.Module, **kwargs: Any) -> VAE:
        """Make an estimator that trains ``network`` in place: the modules are shared, not copied.

        Args:
            network: module with ``encoder``, ``decoder``, and the linear layers ``fc_mu`` and ``fc_logvar``, such as
                :class:`~monai_betavae.networks.ReconstructionNetwork`.
            kwargs: the other arguments of :class:`VAE`.

        Raises:
            ValueError: if ``network`` lacks one of them; if ``beta`` or ``default_dist`` are given beside ``loss``, or
                ``lr`` or ``weight_decay`` beside ``optimizer``.

        Example:
            >>> from monai_betavae.networks import build_network
            >>> network = build_network((16, 16, 16), latent_dim=2)
            >>> VAE.from_network(network, beta=4.0).encoder is network.encoder
            True
        """
        check_network_parts("network", network)
        check_not_beside(kwargs)
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
    def _own_loss(self) -> Callable[..., Any] | None:
        """The loss, if it is one that files can't bring back."""
        return None if describe_objective(self.criterion) is not None else self.criterion

    def _criterion_now(self) -> Callable[..., Any]:
        """Return the loss with the weights that it has at this position in training."""
        position = position_in_training(self._trainer)
        if position is None or not isinstance(self.criterion, BetaVAELoss):
            return self.criterion
        return self.criterion.at(*position)

    def _n_training_images(self, loader: Any) -> int | None:
        """Return the number of training images, or without a training that of a loader."""
        trainer = self._trainer
        known = None if trainer is None else n_images_of(trainer.train_dataloader)
        return n_images_of(loader) if known is None else known

    @staticmethod
    def _objective_of(description: Mapping[str, Any]) -> Callable[..., Any]:
        """Return the loss that a file describes."""
        return objective_from_description(description)

    def _described_loss(self) -> dict[str, Any] | str | None:
        """Return what a file says of the loss beside beta and distribution, or ``None`` if those are all."""
        described = describe_objective(self.criterion)
        if described is None:
            return name_of(self.criterion)
        return None if described["name"] == "beta-vae" and described["arguments"]["schedule"] is None else described

    @property
    def _n_kept_covariates(self) -> int:
        """Number of first columns of the conditional mean that fits leave as they are."""
        condition = condition_of(self)
        return 0 if condition is None else condition.n_fixed

    def _keep_covariates(self, n_kept: Any) -> None:
        """Keep the columns that the model of a file kept."""
        if n_kept:
            keep_condition(self, n_kept)

    @property
    def fitted(self) -> bool:
        """Whether the model was trained, or loaded from a trained one."""
        return self.fitted_

    @property
    def trainer_params(self) -> dict[str, Any]:
        """Arguments that :meth:`fit` gives to the Trainer."""
        return self.trainer_params_

    # ---- the model: q(z|x), p(x|z), one step ----------------------------------------------------------------------

    def _posterior(self, images: Tensor, covariates: Tensor | None = None, scale: LossScale | None = None) -> Normal:
        """Return q(z|x), or q(z|x, c)."""
        prior = self._prior_mean(covariates)
        features = call_network("encoder", self.encoder, "images", images.to(self.fc_mu.weight.dtype))
        check_features(features, self.encoder_out_dim, images)
        mu, logvar = posterior_parameters(features, self.fc_mu, self.fc_logvar)
        return posterior_distribution(corrected_means(self.decoder, images, mu, scale, prior), logvar, prior)

    def _prior_mean(self, covariates: Tensor | None) -> Tensor | None:
        """Return what the covariates move codes by, ``None`` for a model without covariates."""
        condition = condition_of(self)
        if condition is None:
            return None
        if covariates is None:
            raise ValueError(
                f"`covariates` must be given, {condition.n_covariates} coded columns for each image: the model is "
                "conditional on them."
            )
        mean: Tensor = condition(covariates)
        return mean

    def _likelihood(self, z: Tensor, covariates: Tensor | None = None) -> Distribution:
        """Return p(x|z), or p(x|z, c)."""
        return likelihood(call_network("decoder", self.decoder, "codes", z, covariates), self.default_dist)

    def _run_step(
        self, images: Tensor, share: BatchShare | None = None, covariates: Tensor | None = None
    ) -> tuple[Distribution, Normal]:
        """Return p(x|z) for one code drawn per image, and q(z|x)."""
        return self._drawn(images, share, covariates)[:2]

    def _drawn(
        self,
        images: Tensor,
        share: BatchShare | None,
        covariates: Tensor | None = None,
        scale: LossScale | None = None,
    ) -> tuple[Distribution, Normal, Tensor]:
        """Return p(x|z) for one code drawn per image, q(z|x), and the codes."""
        q = self._posterior(images, covariates, scale)
        z = draw_codes(q, share)
        p = self._likelihood(z, covariates)
        if p.batch_shape != images.shape:
            raise ValueError(
                f"`decoder` must give the shape of the images, {tuple(images.shape)}, got {tuple(p.batch_shape)}."
            )
        return p, q, z

    def _losses(
        self, batch: Any, images: Tensor, share: BatchShare, criterion: Callable[..., Any], loader: Any
    ) -> tuple[dict[str, Tensor], Normal]:
        """Return the losses of a batch, and its posteriors."""
        scale, covariates = LossScale(), self._covariates(batch, len(images))
        images = images[: max(share.n_own, 1)]
        covariates = None if covariates is None else covariates[: len(images)]
        p, q, z = self._drawn(images, share, covariates, scale)
        images, p = weighted_residuals(self, images, p)
        codes = (z, self._n_training_images(loader)) if getattr(criterion, "takes_codes", False) else ()
        shared = share.n_processes > 1 and takes_gathered(criterion)
        of_all = {"gathered": gather_posteriors(q, z, share)} if shared else {}
        losses: dict[str, Tensor] = criterion(images, p, q, *codes, **of_all)
        if self._own_loss is not None:
            check_losses(losses)
        return {**losses, "loss": scale.of(losses["loss"])}, q

    def encode(self, x: Any, covariates: Any = None) -> Normal:
        """Return the posterior q(z|x) in eval mode, or q(z|x, c) of a conditional model.

        Args:
            x: images, shape (batch, channel, ...), or any batch that holds them.
            covariates: coded covariates of a conditional model, shape (batch, n_covariates), or one row for all;
                ``None`` for those that the batch holds under "covariates".

        Returns:
            ``Normal`` with parameters of shape (batch, latent_dim), or (batch, ..., latent_dim) for an encoder that
            gives several rows of features per image.
        """
        images = self._images(x, "`x`")
        with evaluating(self):
            return self._posterior(images.to(self.device), self._rows_of(x, covariates, len(images)))

    def decode(self, z: Tensor, covariates: Any = None) -> Tensor:
        """Return the mean of p(x|z) in eval mode: intensities, or probabilities for a Bernoulli.

        Args:
            z: codes, shape (batch, latent_dim), or (batch, ..., latent_dim) for a decoder that takes such.
            covariates: coded covariates of a conditional model, as in :meth:`encode`; ``None`` for the average subject.

        Raises:
            ValueError: if ``z`` hasn't ``latent_dim`` columns of real numbers, or no row; or, on the CPU, if it isn't
                finite and of at most 1e15 in magnitude.
        """
        check_codes(z, self.latent_dim)
        z = plain_tensor(z).to(self.device, self.fc_mu.weight.dtype)
        if z.device.type == "cpu":
            check_images(z, "`z`", largest=MAX_VALUE, what="codes")
        rows = None if covariates is None else self._rows_of(None, covariates, len(z))
        with evaluating(self):
            mean: Tensor = self._likelihood(z, rows).mean
        return mean

    def reconstruct(self, x: Any, covariates: Any = None) -> Tensor:
        """Return the decoded posterior mean of the images, in eval mode.

        Args:
            x: images, shape (batch, channel, ...), or any batch that holds them.
            covariates: coded covariates of a conditional model, as in :meth:`encode`.

        Returns:
            tensor of the images' shape.
        """
        codes = self.encode(x, covariates).mean
        with evaluating(self):
            mean: Tensor = self._likelihood(codes, self._rows_of(x, covariates, len(codes))).mean
        return mean

    @torch.no_grad()
    def sample(self, n_samples: int, *, covariates: Any = None) -> Tensor:
        """Generate images: the mean of p(x|z) for codes drawn from the prior N(0, I), one code per image.

        It runs without gradient, in eval mode (the mode is restored), on the model's device. With a ``random_state``
        every call gives the same codes, on every device.

        Args:
            n_samples: number of images, at least 1.
            covariates: coded covariates of a conditional model, a row for each image or one for all; ``None`` for the
                average subject.

        Returns:
            tensor of shape (n_samples, channel, ...).
        """
        n_samples = check_integer("n_samples", n_samples, minimum=1)
        codes = torch.randn(n_samples, self.latent_dim, generator=generator(self.random_state, "sample"))
        return self.decode(codes, covariates)

    def forward(self, x: Tensor, *, covariates: Tensor | None = None) -> Tensor:
        """Encode the images and draw from the posterior q(z|x).

        Args:
            x: images, shape (batch, channel, ...).
            covariates: coded covariates of a conditional model, as in :meth:`encode`.

        Returns:
            z, shape (batch, latent_dim).
        """
        images = image_tensor(x, self.image_key)
        return self._posterior(images, self._rows_of(x, covariates, len(images))).rsample()

    # ---- training ---------------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int, dataloader_idx: int | None = 0) -> dict[str, Tensor]:
        """Compute and log the training losses, as "train/loss", "train/rec_loss" and "train/kl_loss".

        An objective's further terms are logged likewise, and the weights that a schedule changes.

        Args:
            batch: images, in any of the forms a batch can have.
            batch_idx: number of the batch, for messages.
            dataloader_idx: ignored.

        Returns:
            "loss", "rec_loss" and "kl_loss". On several processes, images that a distributed sampler repeats to give
            every process the same number don't count. Where some processes then have fewer images than others, the
            losses are weighted so that their average, and that of the gradients, is over all images. Terms that compare
            the images of a batch, such as a total correlation, are those of all processes' images.
        """
        trainer = self._trainer
        loader = None if trainer is None else trainer.train_dataloader
        images = self._images(batch, f"training batch {batch_idx}")
        # a process that owns none of its images computes one, so that all take part in the gradients' average: weight 0
        share = batch_share(loader, batch_idx, len(images))
        with naming_lone_values(f"training batch {batch_idx}"):
            criterion = self._criterion_now()
            losses, _ = self._losses(batch, images, share, criterion, loader)
        self._log_losses("train", losses, len(images), on_step=True, on_epoch=False)
        if criterion is not self.criterion and is_running(trainer):
            weights: Any = criterion
            self.log_dict({f"train/{name}": getattr(weights, name) for name in weights.scheduled})
        if share.weight == 1:
            return losses
        # the processes' gradients are averaged as they are: weighted, they are those of the whole batch's mean
        return {name: share.weight * value for name, value in losses.items()}

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int | None = 0) -> dict[str, Tensor]:
        """Compute and log the validation losses, as "val/loss", "val/rec_loss" and "val/kl_loss".

        They are defined as in training: one code is drawn per image. With a schedule the weights are those at its end,
        so that epochs can be compared. On several processes, images that a distributed sampler repeats don't count.

        Args:
            batch: images, in any of the forms a batch can have.
            batch_idx: number of the batch, for messages.
            dataloader_idx: number of the validation loader.

        Returns:
            "loss", "rec_loss" and "kl_loss".
        """
        images = self._images(batch, f"validation batch {batch_idx}")
        loader = validation_loader(self._trainer, dataloader_idx or 0)
        share = batch_share(loader, batch_idx, len(images))
        losses, q = self._losses(batch, images, share, self.criterion, loader)
        self.validated_posterior = q if share.n_own else None
        # Lightning averages the counts over the processes as integers; multiples of their number stay whole
        self._log_losses("val", losses, share.n_own * share.n_processes, sync_dist=True)
        return losses

    def configure_optimizers(self) -> Any:
        """Return ``[optimizer]``, or with an ``lr_scheduler`` Lightning's dictionary of both.

        The default is AdamW over all parameters that have a gradient, with ``lr`` and ``weight_decay``: torch's fused
        implementation, which updates all weights in one pass over memory (five times faster on 2 CPU cores), except
        where Lightning refuses it, which is gradient clipping at a mixed precision.

        Raises:
            ValueError: naming ``optimizer`` or ``lr_scheduler``, if one stops or gives anything else, needs the length
                of a training that has no end, or follows a validation that doesn't take place.
        """
        # frozen parameters aren't the optimizer's: Lightning's finetuning callbacks add them when they thaw
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        parameters = trained or list(self.parameters())
        optimizer = make_optimizer(self.optimizer, parameters, self.lr, self.weight_decay, self._trainer)
        if self.lr_scheduler is None:
            return [optimizer]
        schedule = make_schedule(self.lr_scheduler, optimizer, self.lr_interval, self._trainer)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def fit(
        self,
        train_dataloader: Iterable[Any],
        val_dataloader: Iterable[Any] | None = None,
        *,
        ckpt_path: str | Path | None = None,
    ) -> VAE:
        """Train the model with a Lightning Trainer made of ``trainer_params``.

        Networks of the package's builders first start from the training volumes in the way that their ``warm_start``
        says, unless they did so before; so they do in a Trainer that you build (see
        :func:`~monai_betavae.networks.warm_start.warm_start`). Other networks start as they are.

        As in the reference and in Lightning, a second ``fit`` goes on from the weights of the first, and warns;
        ``sklearn.base.clone(vae).fit(...)`` starts anew. With a ``random_state`` the order of the images and the noise
        of each step follow from it and from the numbers of epoch and step. A training that is resumed from the
        checkpoint of an epoch's end therefore ends with the weights of one that wasn't interrupted. That doesn't hold
        for random transforms of worker processes, nor for samplers of your own.

        Args:
            train_dataloader: loader of the training images.
            val_dataloader: loader of the validation images; without it no validation runs.
            ckpt_path: a Lightning checkpoint to resume from.

        Returns:
            the estimator itself.

        Raises:
            ValueError: for an empty loader, non-finite images, or networks whose shapes don't fit, each before the
                first optimizer step that it would spoil; naming a checkpoint that can't be resumed from; naming a
                ``precision`` that the model can't be trained at; for batch normalisation of a single image.
        """
        check_precision(self.trainer_params_["precision"])
        check_not_empty("train_dataloader", train_dataloader)
        if val_dataloader is not None:
            check_not_empty("val_dataloader", val_dataloader)
        self._initial = self._untrained_copies()
        if ckpt_path is None:
            if self.fitted_:
                warnings.warn(
                    "This VAE is trained: `fit` goes on from its weights. To start anew, fit sklearn.base.clone(vae).",
                    stacklevel=2,
                )
            if warm_start(self, train_dataloader, seed=self.random_state):
                fit_condition(self, train_dataloader)
            self._started = True
        elif os.path.isfile(ckpt_path):  # "last" and addresses are Lightning's to find
            load_weights_only(ckpt_path)  # only to refuse by name what Lightning would stumble over
        with seeded(self.random_state), order_by_epoch(train_dataloader, self.random_state):
            trainer = pl.Trainer(**{**self.trainer_params_, "callbacks": self._callbacks()})
            training, validation = as_one_loader(train_dataloader), as_one_loader(val_dataloader)
            with name_resumed_checkpoint(trainer):
                trainer.fit(self, training, validation, ckpt_path=ckpt_path, weights_only=True)
        self.fitted_ = True
        if val_dataloader is not None:
            calibrate_noise(self, val_dataloader)
        return self

    # ---- embedding --------------------------------------------------------------------------------------------------

    def transform(self, test_dataloader: Iterable[Any]) -> Tensor:
        """Embed every item of the loader's dataset, in the dataset's order.

        Row i is item i of the dataset, whatever the loader's sampler, ``drop_last`` or number of workers, and on any
        number of processes (each embeds its share, all get all rows). A loader without a dataset of known length is
        read in its own order. The model runs in eval mode without gradient, on the accelerator and at the precision
        that :meth:`fit` would use, without its callbacks and loggers.

        Args:
            test_dataloader: loader of the images.

        Returns:
            tensor of shape (n, latent_dim) on the CPU, (n, ..., latent_dim) for an encoder that gives several rows of
            features per image. With ``stochastic_transform``, row i is a draw from q(z|x_i) whose noise depends on
            ``random_state`` and i alone.

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

    def transform_step(self, batch: Any, batch_idx: int, dataloader_idx: int | None = 0) -> Tensor:
        """Embed one batch: a draw from the posterior, or its mean if ``stochastic_transform`` is false.

        Within :meth:`transform` the noise of a row follows from ``random_state`` and the row's number; in a call of its
        own it comes from torch's generator.

        Args:
            batch: images, in any of the forms a batch can have.
            batch_idx: number of the batch, for messages.
            dataloader_idx: ignored.

        Returns:
            z, shape (batch, latent_dim).
        """
        images = self._images(batch, f"batch {batch_idx}")
        q = self._posterior(images, self._covariates(batch, len(images)))
        if not self.stochastic_transform:
            return q.mean
        if self._transform_rows is None:
            return q.rsample()
        # 0 where unseeded: two calls on the same volumes must agree
        noise = row_noise(self._transform_rows, q.mean[0].numel(), self.random_state or 0, "transform")
        z: Tensor = q.mean + q.scale * noise.reshape(q.mean.shape).to(q.mean)
        return z

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

    def _embed(self, loader: Iterable[Any], target_key: str | None) -> tuple[Tensor, Tensor | None]:
        if not self.fitted:
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("This VAE is not fitted: call `fit`, or load a trained model, before `transform`.")
        check_not_empty("test_dataloader", loader)
        rows = OrderedRows(loader)
        features: list[Tensor] = []
        targets: list[Tensor] = []
        with evaluating(self), torch.inference_mode(), on_fit_device(self, self.trainer_params_) as device:
            # on the CPU transform_step checks the images; on a GPU it would wait for them
            check = None if device.type == "cpu" else self._check_images
            try:
                for batch in rows.image_batches(self.image_key, check):
                    self._transform_rows = batch.rows
                    moved = move_data_to_device(batch.content, device)
                    if target_key is None:
                        embedded = self.transform_step(moved, batch.number)
                    else:
                        self._target_key = target_key
                        found = self.transform_step_with_targets(moved, batch.number)
                        embedded = found["features"]
                        targets.append(found["targets"].cpu())
                    features.append(embedded.float().cpu())
            finally:
                self._transform_rows, self._target_key = None, "label"
        return rows.gather(features), rows.gather(targets) if target_key is not None else None

    # ---- Lightning's hooks ------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Start networks that ask for it from the training volumes, before a Trainer makes the optimizers.

        A run that resumes a checkpoint doesn't: the checkpoint's weights take their place.

        Raises:
            ValueError: naming a ``precision`` that the model can't be trained at.
        """
        trainer = self._trainer
        if stage != "fit" or trainer is None:
            return
        check_precision(trainer.precision)
        self._initial = self._untrained_copies()
        if self._started or resumes(trainer) is not False:
            return
        loader = training_loader(trainer)
        if loader is not None:
            # processes that drew other numbers would get components of other voxels
            seed = 0 if self.random_state is None and trainer.world_size > 1 else self.random_state
            if warm_start(self, loader, seed=seed):
                fit_condition(self, loader)
            self._started = True

    def on_fit_start(self) -> None:
        """Refuse networks that should have started from the training volumes and haven't.

        Also refuse batch normalisation that would get a batch of one image, as far as that can be known before.
        """
        check_started(self)
        self._renewed_at = (-1, None)
        trainer = self._trainer
        warn_of_batch_terms(self.criterion, self.decoder, 1 if trainer is None else trainer.world_size)
        if trainer is not None and trainer.limit_train_batches == 1.0:
            check_lone_images(self, training_loader(trainer), trainer.world_size, self._run_on_zeros)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Measure anew how codes are corrected, once in so many batches."""
        # a validation within the epoch had the weights of a schedule's end
        if batch_idx % RENEWAL_BATCHES == 0 or (self._at_end and self._has_schedule):
            self._renew_gain(end=False)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure how codes are corrected after an epoch's last batch: callbacks store weights before the next hook."""
        trainer = self.trainer
        if trainer.is_last_batch or 0 <= trainer.max_steps <= trainer.global_step:
            self._renew_gain(end=True)

    def on_validation_model_eval(self) -> None:
        """Measure how codes are corrected before a validation, which scores the weights as they are now."""
        self._renew_gain(end=True)
        super().on_validation_model_eval()

    def on_train_epoch_end(self) -> None:
        """Measure how codes are corrected when the training is stopped within an epoch."""
        self._renew_gain(end=True)

    def on_fit_end(self) -> None:
        """Note that the model is trained, and fit its conditional mean, also when a Trainer of the user's did it."""
        self.fitted_ = True
        if not self.fits_condition or n_covariates_of(self) == 0:
            return
        loader = training_loader(self.trainer)
        if loader is None:
            warnings.warn(
                "The conditional mean is as the optimizer left it: it is fitted to the training volumes, which came "
                "from an iterator or several loaders. Call monai_betavae.networks.conditional_mean."
                "fit_condition(vae, loader) with one loader of them.",
                stacklevel=2,
            )
            return
        fit_condition(self, loader)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Check images while they are still on the CPU, where it doesn't make a GPU wait."""
        if batch is None:  # Lightning would pass over it, and with ``max_steps`` wait for ever for a step
            image_tensor(batch, self.image_key)
        if self.device.type != "cpu":
            self._check_images(batch, image_tensor(batch, self.image_key), "the batch")
        return batch

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note that the weights are those of a trained model, and put the learning rate where the run was.

        Raises:
            ValueError: for paths of files that Lightning would remove; if the run had a loss that was passed in and
                this model has none; naming ``lr_scheduler``, if its schedule isn't the one that is resumed.
        """
        trainer = self._trainer
        fitting = trainer is not None and trainer.state.fn == TrainerFn.FITTING
        described = self._described_loss() if fitting else None
        check_checkpoint(checkpoint, trainer, self.criterion if self._loss_given else None, described)
        # before anything makes an optimizer, which gets none of the columns that are kept
        self._keep_covariates(kept_covariates(checkpoint))
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING and self.lr_scheduler is not None:
            made = self.configure_optimizers()
            resume_schedule(checkpoint, made["optimizer"], made["lr_scheduler"])
        self.fitted_ = True

    # ---- images and logs --------------------------------------------------------------------------------------------

    def _images(self, batch: Any, where: str) -> Tensor:
        """Return the batch's images as a plain tensor, checked unless that would make a GPU wait."""
        images = image_tensor(batch, self.image_key)
        if images.device.type == "cpu":
            self._check_images(batch, images, where)
        return images

    def _covariates(self, batch: Any, n_images: int) -> Tensor | None:
        """Return a batch's coded covariates, ``None`` for a model without."""
        covariates = batch_covariates(batch, n_covariates_of(self), n_images)
        return None if covariates is None else covariates.to(self.device)

    def _rows_of(self, batch: Any, covariates: Any, n_rows: int) -> Tensor | None:
        """Return coded covariates that were given, or those of the batch."""
        if covariates is None:
            return self._covariates(batch, n_rows)
        n_covariates = n_covariates_of(self)
        if n_covariates == 0:
            raise ValueError("`covariates` must not be given: the model isn't conditional.")
        return covariate_rows(covariates, n_covariates, n_rows).to(self.device)

    def _check_images(self, batch: Any, images: Tensor, where: str) -> None:
        bernoulli = self.default_dist == "bernoulli"
        check_images(images, where, item_names(batch), probabilities=bernoulli, largest=MAX_VALUE)

    @property
    def _has_schedule(self) -> bool:
        return isinstance(self.criterion, BetaVAELoss) and isinstance(self.criterion.schedule, Schedule)

    def _renew_gain(self, end: bool) -> None:
        """Measure a template's curvature anew, unless it is frozen or that happened at this step already.

        Args:
            end: whether the likelihood's variance is that of a schedule's end, as in validations and in what an epoch
                leaves, or that of the position in training.
        """
        trainer = self.trainer
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._at_end, variance = end, None
        if self._has_schedule:
            loss: Any = self.criterion
            now = loss if end else loss.at(trainer.global_step, trainer.current_epoch)
            variance = variance_of(now.default_dist, now.kl_weight)
        if self._renewed_at == (trainer.global_step, variance):
            return
        if any(parameter.requires_grad for parameter in self.decoder.parameters()):
            if variance is not None:
                set_variance(self, variance)
            renew_gain(self)
        self._renewed_at = (trainer.global_step, variance)

    def _run_on_zeros(self) -> None:
        """Run the networks on one image of zeros in eval mode; the decoder knows the images' shape."""
        with torch.no_grad(), evaluating(self):
            image = self._likelihood(torch.zeros(1, self.latent_dim).to(self.fc_mu.weight)).mean
            n_covariates = n_covariates_of(self)
            self._posterior(torch.zeros_like(image), image.new_zeros(1, n_covariates) if n_covariates else None)

    def _callbacks(self) -> list[pl.Callback]:
        """Return the Trainer's callbacks, in a list of their own: Lightning adds its defaults to the one it gets."""
        given = self.trainer_params_["callbacks"]
        listed = [given] if isinstance(given, pl.Callback) else list(given or [])
        return listed if self.random_state is None else [StepSeeds(self.random_state), *listed]

    def _log_losses(self, stage: str, losses: Mapping[str, Tensor], weight: int, **options: Any) -> None:
        if is_running(self._trainer):
            named = {f"{stage}/{name}": value for name, value in losses.items()}
            self.log_dict(named, prog_bar=True, batch_size=weight, **options)
