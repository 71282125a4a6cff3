"""A training run: from the checks to the scores of the held-out subjects."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from torch.utils.data import DataLoader

from .._randomness import seeded
from ..batches.images import image_tensor
from ..bundle import running_config, running_parser
from ..data.checks.findings import MAX_CUT_AWAY, MIN_FILLED
from ..estimator import VAE
from ..evaluation.latent_activity import active_units, kl_per_dimension
from ..networks.acceleration import accelerate
from ..networks.conditional_mean import fit_condition, n_covariates_of
from ..networks.latent_model import decode_array, encode_array
from ..networks.noise import calibrate_noise
from ..networks.warm_start import MEAN_IMAGE_VOLUMES, warm_start
from ..objectives import describe_objective
from ..plots import plot_activity, plot_losses, save_figure
from ..saving.atomic_files import atomic_path, check_space, lock_folders, remove_unfinished
from ..saving.safe_loading import load_weights_only, name_resumed_checkpoint, save_weights
from ..training.callbacks import TIMING_FILE, BestWeights
from ..training.checkpoints import LastCheckpoint, Position, begin_at, position_of
from ..training.latent_activity import ACTIVITY_FILE
from .covariates import check_coding, stack_covariates
from .data_checks import check_grid
from .fine_tuning import (
    InitialModel,
    begin_from,
    check_initial,
    check_train_only,
    check_unchanged,
    keep_old_condition,
)
from .model_card import CARD_FILE, write_model_card
from .model_description import (
    MODEL_FILE,
    SETTINGS_FILE,
    describe_likelihood,
    describe_network,
    describe_training,
    read_description,
    write_description,
)
from .model_grid import common_affine
from .preprocessing_description import check_preprocessing, describe_preprocessing
from .provenance import RUN_FILE, data_fingerprint, write_run
from .records import EARLIER_FILE, SPLIT_FILE, Split, is_simulated, print_once, write_earlier, write_split
from .run_checks import (
    METRICS_FILE,
    RESUME_FILE,
    check_parts,
    check_resumed,
    check_resumed_settings,
    check_run,
    check_validated,
    running_settings,
)
from .training_course import best_epoch, describe_course, is_overfitted, is_still_falling
from .training_results import (
    SCORES_FILE,
    as_batch,
    draw_reconstructions,
    draw_traversals,
    exact_bound,
    held_out_scores,
    print_files,
    print_scores,
    spacing_of_sample,
    stack_images,
)

WRITTEN = (
    MODEL_FILE,
    SETTINGS_FILE,
    CARD_FILE,
    RESUME_FILE,
    METRICS_FILE,
    TIMING_FILE,
    SPLIT_FILE,
    EARLIER_FILE,
    RUN_FILE,
    SCORES_FILE,
    ACTIVITY_FILE,
    "loss_curves.png",
    "latent_activity.png",
    "reconstructions.png",
    "traversals.png",
)
"""Files of a training run: what is left half-written of them when it starts is of a run that was killed."""

CHECKPOINT_TIMES = 8
"""Room for a run's weights, as often: the best ones, those of the checkpoint with AdamW's two moments, each twice while
a new one is written and the old one is still there."""

KNOWN_NOISE = (
    # the volumes are cached: worker processes would only copy them
    ".*does not have many workers.*",
    # torch's deprecation, inside lightning
    ".*isinstance\\(treespec, LeafSpec\\).*",
    # a small cohort has fewer batches than Lightning's logging interval; metrics.csv doesn't depend on that
    ".*smaller than the logging interval.*",
    # the folder is ours: check_run has asked already
    ".*Checkpoint directory .* exists and is not empty.*",
    # Lightning knows no sampler that begins in the middle of an epoch; begin_at has told ours
    ".*resuming from a checkpoint that ended before the epoch ended.*",
)


class ModelTraining:
    """A training run of the bundle: its checks, the training itself, and its scores and pictures.

    Args:
        trainer: the Lightning trainer, with the callbacks that write tables and weights.
        estimator: the estimator around ``network``.
        network: the module whose weights ``model.pt`` holds.
        preprocessing: the transforms of the volumes.
        output_dir: folder of tables and pictures.
        ckpt_dir: folder of weights.
        seed: seed of order and noise.
        resume: whether to continue from ``<ckpt_dir>/last.ckpt`` if it is there.
        overwrite: whether an existing result may be replaced.
        resume_changes: ids of settings that may differ from those of the run that is resumed.
        compile: as in :func:`~monai_betavae.networks.acceleration.accelerate`.
        recompute_activations: as in :func:`~monai_betavae.networks.acceleration.accelerate`.
        max_cut_away: share of a volume's foreground outside the grid above which training stops.
        min_filled: share of the grid below which training stops, if the median volume fills less.
        covariate_coding: coding of the covariates that the model is conditional on, ``None`` without any.
        initial: the trained model to start from, from :func:`~.fine_tuning.initial_model`; ``None`` for a start from
            the training volumes.
        train_only: ``None`` to train the whole model, "condition" to fit the columns of new levels of its categories
            alone, which takes no epochs.
        contrasts: names of the channels of a model of several, such as ``["T1w", "T2w"]``.

    Example:
        >>> from monai_betavae.data import brain_transforms
        >>> from monai_betavae.networks import build_network
        >>> network, transform = build_network((8, 8, 8), latent_dim=2), brain_transforms((8, 8, 8))
        >>> run = ModelTraining(pl.Trainer(logger=False), VAE.from_network(network), network, transform, "out", "out")
        >>> try:
        ...     run.check()
        ... except ValueError as error:  # the bundle's config has this callback
        ...     print(str(error).split(",")[0])
        'train#callbacks' must keep BestWeights
    """

    def __init__(
        self,
        trainer: Any,
        estimator: Any,
        network: Any,
        preprocessing: Any,
        output_dir: str | os.PathLike[str],
        ckpt_dir: str | os.PathLike[str],
        seed: int | None = 0,
        resume: bool = False,
        overwrite: bool = False,
        resume_changes: Sequence[str] = (),
        compile: bool = False,  # noqa: A002 -- the id of the bundle
        recompute_activations: bool = False,
        max_cut_away: float = MAX_CUT_AWAY,
        min_filled: float = MIN_FILLED,
        covariate_coding: Any = None,
        initial: InitialModel | None = None,
        train_only: str | None = None,
        contrasts: Sequence[str] | None = None,
    ) -> None:
        self.trainer = trainer
        self.estimator = estimator
        self.network = network
        self.preprocessing = preprocessing
        self.output_dir, self.ckpt_dir = Path(output_dir), Path(ckpt_dir)
        self.seed = seed
        self.resume = resume
        self.overwrite = overwrite
        self.resume_changes = resume_changes
        self.compile = compile
        self.recompute_activations = recompute_activations
        self.max_cut_away = max_cut_away
        self.min_filled = min_filled
        self.covariate_coding = covariate_coding
        self.initial = initial
        self.train_only = train_only
        self.contrasts = contrasts

    def check(self) -> None:
        """Refuse what can't make a run, before any volume is read.

        Raises:
            ValueError: naming the setting, part or file.
        """
        parser = running_parser()
        check_run(self.output_dir, self.ckpt_dir, self.resume, self.overwrite)
        check_parts(self.trainer, self.estimator, self.network, self.preprocessing)
        check_coding(self.network, self.covariate_coding)
        check_preprocessing(parser)
        now = {
            "network": describe_network(self.network),
            "preprocessing": describe_preprocessing(self.preprocessing, parser),
            "likelihood": describe_likelihood(self.estimator.criterion),
            "objective": describe_objective(self.estimator.criterion),
        }
        check_train_only(self.train_only, self.network, self.initial, self.ckpt_dir, self.output_dir)
        if self.initial is not None:
            self._check_initial(self.initial, now)
        accelerate(self.network, compile=self.compile, recompute_activations=self.recompute_activations)
        if self.resume and (self.ckpt_dir / RESUME_FILE).is_file():
            check_resumed(now, self.ckpt_dir)
            changed = check_resumed_settings(self.ckpt_dir / RESUME_FILE, self.resume_changes)
            if changed:
                print_once(f"Resuming with other settings: {'; '.join(changed)}")

    def _check_initial(self, initial: InitialModel, now: dict[str, Any]) -> None:
        """Refuse what can't start from a model, and keep what the run mustn't change of it."""
        if initial.weights.parent.resolve() == self.ckpt_dir.resolve():
            raise ValueError(
                f"`init_from` must not lie in `ckpt_dir` {self.ckpt_dir}, whose {MODEL_FILE} the run replaces: give "
                "another folder with --ckpt_dir."
            )
        check_initial(now, initial, self.train_only)
        if self.resume:
            check_unchanged(initial, read_description(self.ckpt_dir))
        keep_old_condition(self.network, initial)

    def run(
        self,
        train_dataloader: Iterable[Any],
        val_dataloader: Iterable[Any] | None,
        test_dataset: Sequence[Any],
        split: Split,
    ) -> None:
        """Train, keep the best weights, score them on held-out subjects, draw pictures, say where everything is.

        Args:
            train_dataloader: loader of the training volumes.
            val_dataloader: loader of the validation volumes, or ``None``.
            test_dataset: held-out samples.
            split: the records of each part.
        """
        with lock_folders(self.output_dir, self.ckpt_dir) if self.trainer.is_global_zero else contextlib.nullcontext():
            if self.trainer.is_global_zero:
                for folder in (self.output_dir, self.ckpt_dir):
                    remove_unfinished(folder, WRITTEN)
            check_validated(self.trainer, val_dataloader)
            plain = _without_augmentation(train_dataloader)
            if self.trainer.is_global_zero:
                parts = [plain.dataset, getattr(val_dataloader, "dataset", ()), test_dataset]
                check_grid(parts, self.max_cut_away, self.min_filled)
            # without a checkpoint, check has said that the run starts from the beginning
            resume = self.resume and (self.ckpt_dir / RESUME_FILE).is_file()
            self._begin(train_dataloader, plain, split, resume)
            if self.train_only is not None:
                if self.trainer.is_global_zero:
                    self._save_weights()
                    self._end(plain, val_dataloader, test_dataset, split)
                return
            with warnings.catch_warnings(), seeded(self.seed):
                for message in KNOWN_NOISE:
                    warnings.filterwarnings("ignore", message=message)
                checkpoint = self.ckpt_dir / RESUME_FILE if resume else None
                # the best weights get theirs below, from volumes that aren't augmented
                self.estimator.fits_condition = False
                with name_resumed_checkpoint(self.trainer):
                    self.trainer.fit(
                        self.estimator, train_dataloader, val_dataloader, ckpt_path=checkpoint, weights_only=True
                    )
            if self.trainer.is_global_zero:
                self.network.load_state_dict(load_weights_only(self.ckpt_dir / MODEL_FILE))
                if fit_condition(self.estimator, plain):
                    self._save_weights()
                self._end(plain, val_dataloader, test_dataset, split)

    def _end(self, plain: Any, val_dataloader: Iterable[Any] | None, test_dataset: Sequence[Any], split: Split) -> None:
        """Measure the noise of the model as it is now, and score it."""
        self._calibrate(plain if val_dataloader is None else val_dataloader, val_dataloader is not None)
        self._finish(plain, val_dataloader is not None, test_dataset, split)

    def _begin(self, train_dataloader: Any, plain: Any, split: Split, resume: bool) -> None:
        """Start from the training volumes or the checkpoint, and write what is known before the training."""
        last = self.ckpt_dir / RESUME_FILE
        if resume:
            position = position_of(last)
            _print_resumed(last, position, self.trainer.max_epochs)
            begin_at(train_dataloader, position, self.trainer.world_size)
        else:
            if self.initial is None:
                _start_warm(self.estimator, plain, self.seed)
            else:
                begin_from(self.estimator, self.network, self.initial, self.train_only)
            fit_condition(self.estimator, plain)
        _print_scale(self.estimator, _image_shape(plain), self.trainer, last if resume else None)
        settings = running_settings()
        for callback in self.trainer.callbacks:
            if isinstance(callback, LastCheckpoint):
                callback.settings = None if settings is None else json.dumps(settings)
        if not self.trainer.is_global_zero:
            return
        check_space(
            self.ckpt_dir, CHECKPOINT_TIMES * sum(weights.nbytes for weights in self.estimator.state_dict().values())
        )
        if not (resume and (self.output_dir / SPLIT_FILE).is_file()):
            write_split(split, self.output_dir / SPLIT_FILE)
            self._write_earlier()
        data = data_fingerprint(split)
        if not (resume and (self.ckpt_dir / SETTINGS_FILE).is_file()):
            write_description(
                self.ckpt_dir / SETTINGS_FILE,
                network=self.network,
                preprocessing=describe_preprocessing(self.preprocessing, running_parser()),
                likelihood=describe_likelihood(self.estimator.criterion),
                grid=_grid(plain),
                trained_on=self._trained_on(split, data["training"]["digest"]),
                objective=describe_objective(self.estimator.criterion),
                covariates=None if self.covariate_coding is None else self.covariate_coding.description(),
                contrasts=self.contrasts,
            )
        weights = None if self.initial is None else self.initial.weights
        write_run(self.output_dir / RUN_FILE, split, seed=self.seed, weights=weights, resumed=resume, data=data)

    def _trained_on(self, split: Split, digest: str) -> dict[str, Any]:
        """Return the description of what the model has seen once it is trained."""
        initial = self.initial
        if initial is None:
            return describe_training(split, digest, running_config())
        return describe_training(split, digest, running_config(), initial.seen(), initial.digest)

    def _write_earlier(self) -> None:
        """Write whom the initial model was trained on, as far as it is known; evaluation refuses them too."""
        path = self.output_dir / EARLIER_FILE
        if self.initial is not None:
            write_earlier(self.initial.earlier(), path)
        else:
            path.unlink(missing_ok=True)  # of a run that this one replaces

    def _calibrate(self, loader: Any, validated: bool) -> None:
        """Measure the noise, and write the weights again with it."""
        with seeded(self.seed):
            deviation = calibrate_noise(self.estimator, loader)
        if deviation is None:
            return
        self._save_weights()
        which = "validation volumes" if validated else "training volumes (too small a value; there is no validation)"
        print(f"Noise: standard deviation {deviation:.3g} of the intensities' scale, measured on {which}")

    def _save_weights(self) -> None:
        """Write the weights again, with what was measured after the training."""
        weights = {name: value.detach().cpu() for name, value in self.network.state_dict().items()}
        save_weights(weights, self.ckpt_dir / MODEL_FILE, make_folder=False)

    def _finish(self, plain: Any, validated: bool, test_dataset: Sequence[Any], split: Split) -> None:
        """Score and draw what was trained, and say where it is."""
        import pandas as pd

        held_out = split["test"]
        simulated = is_simulated(split["training"])
        label = "simulated" if simulated else ""
        metrics: Any = {}
        if self.train_only is None:
            metrics = pd.read_csv(self.output_dir / METRICS_FILE).to_dict("list")
            save_figure(plot_losses(metrics, title=label), self.output_dir / "loss_curves.png")
        if (self.output_dir / ACTIVITY_FILE).is_file():
            activity: Any = pd.read_csv(self.output_dir / ACTIVITY_FILE).to_dict("list")
            save_figure(plot_activity(activity, title=label), self.output_dir / "latent_activity.png")
        if not held_out:
            print("No subject is held out: nothing is scored, and no reconstruction drawn.")
        else:
            self._score(plain, test_dataset, held_out, simulated, best_epoch(metrics, self._kept))
        try:
            print(f"Card:      {write_model_card(self.ckpt_dir, self.output_dir)}")
        except ValueError as error:  # a description that later runs refuse mustn't cost the run its end
            print(f"Model card: not written. {error}")
        for line in describe_course(metrics, self._kept):
            print(line)
        print_files(
            self.output_dir,
            self.ckpt_dir,
            validated,
            scored=bool(held_out),
            epochs=self.train_only is None,
            longer=is_still_falling(metrics, self._kept) and not is_overfitted(metrics, self._kept),
        )

    @property
    def _kept(self) -> float:
        """Validation loss of the weights that are kept."""
        return min((each.best for each in self.trainer.callbacks if isinstance(each, BestWeights)), default=math.inf)

    def _score(
        self,
        plain: Any,
        test_dataset: Sequence[Any],
        held_out: Sequence[Any],
        simulated: bool,
        epoch: int | None,
    ) -> None:
        label = "simulated" if simulated else ""
        estimator = self.estimator
        images, covariates = stack_images(test_dataset), stack_covariates(test_dataset, n_covariates_of(estimator))
        mu, logvar = encode_array(estimator, images, estimator.device, covariates=covariates)
        reconstructions = decode_array(estimator, mu, estimator.device, covariates=covariates)
        # a config may score other images than the split's; whose they are isn't known then
        people = [str(record.get("subject")) for record in held_out] if len(held_out) == len(images) else None
        scores = held_out_scores(plain, images, reconstructions, estimator.latent_dim, self.seed or 0, people)
        active = active_units(mu)
        scores.update(
            n_held_out=len(images),
            simulated=simulated,
            n_voxels=int(np.prod(images.shape[1:])),
            objective=(describe_objective(estimator.criterion) or {"name": "own"})["name"],
            beta=estimator.beta,
            latent_dim=estimator.latent_dim,
            best_epoch=epoch,
            # whether a mean varies over subjects can't be told of one
            active_units=int(active.sum()) if len(mu) > 1 else None,
            kl_nats=float(kl_per_dimension(mu, logvar).sum()),
            **exact_bound(estimator, images, reconstructions, self.seed or 0, covariates),
        )
        with atomic_path(self.output_dir / SCORES_FILE) as temporary:
            temporary.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
        spacing = spacing_of_sample(test_dataset[0])
        pictures = self.output_dir
        names, file = self.contrasts, pictures / "reconstructions.png"
        draw_reconstructions(images, reconstructions, held_out, label, spacing, file, contrasts=names)
        draw_traversals(estimator, mu, logvar, label, spacing, pictures / "traversals.png", contrasts=names)
        print_scores(scores)


def _without_augmentation(loader: Any) -> Any:
    """Return a loader of the volumes as they are: what the output starts at, and what PCA sees, isn't augmented."""
    plain = getattr(getattr(loader, "dataset", None), "plain", None)
    return loader if plain is None else DataLoader(plain, batch_size=loader.batch_size)


def _start_warm(estimator: VAE, loader: Iterable[Any], seed: int | None) -> None:
    started = time.monotonic()
    if warm_start(estimator, loader, seed=seed):
        kind: Any = estimator.decoder.warm_start
        dataset: Any = loader.dataset  # type: ignore[attr-defined]  # any DataLoader has one
        n_components = min(estimator.latent_dim, len(dataset) - 1)
        what = {
            "mean": "the output starts at the mean training image",
            "linear": f"starts as PCA with {n_components} components",
            "deformable": f"starts as PCA with {n_components} components and displacements",
        }[kind]
        print_once(f"Warm start: {what} ({time.monotonic() - started:.1f} s)")


def _affines(loader: Iterable[Any]) -> list[Any]:
    """Return the affines of the volumes whose mean the output starts at."""
    dataset: Any = loader.dataset  # type: ignore[attr-defined]  # any DataLoader has one
    samples = (dataset[index] for index in range(min(MEAN_IMAGE_VOLUMES, len(dataset))))
    return [sample["image_affine"] for sample in samples if isinstance(sample, Mapping) and "image_affine" in sample]


def _image_shape(loader: Any) -> tuple[int, ...]:
    """Return the channels and the spatial shape of a loader's images."""
    return tuple(image_tensor(as_batch(loader.dataset[0])).shape[1:])


def _grid(loader: Any) -> dict[str, Any]:
    """Return the grid of a loader's images, as a model's description holds it."""
    shape, affines = _image_shape(loader)[1:], _affines(loader)
    spacings = [np.linalg.norm(np.asarray(affine, dtype=float)[:3, :3], axis=0) for affine in affines]
    same = bool(spacings) and all(np.allclose(each, spacings[0], rtol=1e-3) for each in spacings)
    spacing = [round(float(side), 6) for side in spacings[0]] if same else None
    affine = common_affine(affines, shape, spacing).tolist() if len(shape) == 3 else np.eye(4).tolist()
    return {"spatial_shape": list(shape), "spacing": spacing, "affine": affine}


def _print_scale(estimator: VAE, image_shape: Sequence[int], trainer: pl.Trainer, checkpoint: Path | None) -> None:
    """Say how large the model is: with its template, which a checkpoint holds where one is resumed."""
    n_voxels, n_weights = math.prod(image_shape), sum(weights.numel() for weights in estimator.parameters())
    if checkpoint is not None:
        stored = load_weights_only(checkpoint)["state_dict"]
        n_weights = sum(stored[name].numel() for name, _ in estimator.named_parameters() if name in stored)
    devices = f"{trainer.world_size} {trainer.strategy.root_device.type} device" + "s" * (trainer.world_size > 1)
    size = f"{n_voxels} voxels" + (f" of {image_shape[0]} channels" if image_shape[0] > 1 else "")
    print_once(
        f"Model: {estimator.latent_dim} latent dimensions, {n_weights / 1e6:.2f} million weights, "
        f"N = {size}, beta = {estimator.beta:g}, beta / N = {estimator.beta / n_voxels:.3g}; on {devices}"
    )


def _print_resumed(checkpoint: Path, position: Position, max_epochs: int | None) -> None:
    more = max_epochs is None or max_epochs < 0 or max_epochs > position.epochs
    what = "going on" if more else f"max_epochs is {max_epochs}, so it is only scored and drawn; give more to train on"
    inside = f" and {position.batches} batches of the next" if position.batches else ""
    print_once(f"Resuming: {checkpoint} has {position.epochs} epochs{inside}; {what}")
