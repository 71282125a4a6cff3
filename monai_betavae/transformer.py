"""The VAE as a scikit-learn transformer that maps arrays to posterior means."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ._checks import check_choice, check_integer, check_spatial_shape
from ._randomness import seeded
from .estimator import VAE
from .evaluation.reconstruction import squared_error
from .models import build_vae

Array = NDArray[Any]

HIDDEN = 64
"""Width of the one hidden layer of encoder and decoder, for plain features."""

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
"""Accelerators on which a model can train."""


class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Embed arrays with a beta-VAE, as a scikit-learn transformer for pipelines, searches and cross-validation.

    With ``spatial_shape``, the rows are volumes and the model is that of :func:`~monai_betavae.build_vae`. Intensities
    aren't rescaled, so ``beta`` has the same meaning; the defaults were tested on intensities in [0, 1]. Without
    ``spatial_shape``, the rows are plain features, standardised with the training data, and encoder and decoder are
    perceptrons with one hidden layer of 64 units. Training is quiet and writes no file.

    Args:
        spatial_shape: two or three side lengths of the volumes; ``None`` for plain features.
        latent_dim: number of latent dimensions.
        beta: weight of the KL divergence; see :mod:`monai_betavae.losses` for its scale.
        architecture: architecture of the networks for volumes; see :func:`~monai_betavae.build_vae`. Ignored for plain
            features.
        warm_start: warm start of the networks for volumes, "none", "mean", "linear" or "deformable" (which ``None``
            means); see :mod:`monai_betavae.networks.warm_start`. Ignored for plain features. Unlike scikit-learn's
            ``warm_start``, it doesn't continue an earlier ``fit``.
        channels: number of channels of each level of the networks for volumes; ``None`` for the builder's default.
            Small volumes need fewer levels.
        max_epochs: number of epochs.
        batch_size: number of rows in a step.
        lr: learning rate of AdamW.
        random_state: seed of weights, order and noise; from a ``numpy.random.RandomState``, or numpy's global one for
            ``None``, the seed is drawn.
        accelerator: accelerator for training: "auto", "cpu", "gpu", "cuda" or "mps".
        verbose: a value above 0 shows Lightning's progress bar.

    Attributes:
        vae_: the trained :class:`~monai_betavae.VAE`.
        mean_: mean of each plain feature, shape (n_features,); ``None`` for volumes.
        scale_: standard deviation of each plain feature, 1 for a constant one; ``None`` for volumes.
        n_features_in_: number of features or voxels.
        feature_names_in_: names of the features, if X was a data frame in ``fit``.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(40, 6))
        >>> transformer = VAETransformer(latent_dim=2, max_epochs=2, random_state=0)
        >>> transformer.fit_transform(X).shape, transformer.get_feature_names_out().tolist()
        ((40, 2), ['vaetransformer0', 'vaetransformer1'])
    """

    def __init__(
        self,
        spatial_shape: Sequence[int] | None = None,
        latent_dim: int = 8,
        *,
        beta: float = 1.0,
        architecture: str = "conv",
        warm_start: str | None = None,
        channels: Sequence[int] | None = None,
        max_epochs: int = 30,
        batch_size: int = 16,
        lr: float = 1e-3,
        random_state: int | np.random.RandomState | None = None,
        accelerator: str = "auto",
        verbose: int = 0,
    ) -> None:
        # scikit-learn's rule: arguments are stored unchanged and checked in fit
        self.spatial_shape = spatial_shape
        self.latent_dim = latent_dim
        self.beta = beta
        self.architecture = architecture
        self.warm_start = warm_start
        self.channels = channels
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.random_state = random_state
        self.accelerator = accelerator
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> VAETransformer:  # noqa: N803 -- scikit-learn's name
        """Train a new model.

        Args:
            X: shape (n, n_features), n >= 2; volumes also as (n, *spatial_shape).
            y: ignored.

        Returns:
            the transformer itself.

        Raises:
            ValueError: naming the argument, the value received and the values accepted; for values that aren't finite;
                for fewer than two rows.
        """
        rows = self._rows(X, reset=True)
        batch_size = check_integer("batch_size", self.batch_size, minimum=1)
        seed = _seed(self.random_state)
        options: dict[str, Any] = {
            "beta": self.beta,
            "lr": self.lr,
            "random_state": seed,
            "stochastic_transform": False,
            "max_epochs": check_integer("max_epochs", self.max_epochs, minimum=1),
            "accelerator": check_choice("accelerator", self.accelerator, ACCELERATORS),
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "enable_progress_bar": _is_verbose(self.verbose),
        }
        self.mean_ = self.scale_ = None
        if self.spatial_shape is None:
            scaler = StandardScaler().fit(rows)
            self.mean_, self.scale_ = scaler.mean_, scaler.scale_
            vae = _perceptron(rows.shape[1], self.latent_dim, options)
        else:
            shaping: dict[str, Any] = {} if self.channels is None else {"channels": self.channels}
            vae = build_vae(
                self.spatial_shape,
                self.latent_dim,
                architecture=self.architecture,
                warm_start=self.warm_start,
                **shaping,
                **options,
            )
        with _quiet_lightning():
            vae.fit(DataLoader(self._tensor(rows).float(), batch_size=batch_size, shuffle=True))  # type: ignore[arg-type]  # a tensor is a dataset of its rows
        vae.trainer = None  # the trainer holds the training data
        if self.spatial_shape is None:
            # in double precision, on the CPU, a row's code doesn't depend on the other rows of its batch
            vae.double().trainer_params["accelerator"] = "cpu"
        self.vae_ = vae
        return self

    def transform(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Return the posterior means.

        Args:
            X: as in :meth:`fit`.

        Returns:
            shape (n, latent_dim).

        Raises:
            sklearn.exceptions.NotFittedError: before :meth:`fit`.
            ValueError: for another number of features, or values that aren't finite.
        """
        check_is_fitted(self)
        rows = self._tensor(self._rows(X, reset=False))
        with _quiet_lightning():
            codes = self.vae_.transform(DataLoader(rows, batch_size=int(self.batch_size)))  # type: ignore[arg-type]  # a tensor is a dataset of its rows
        return codes.numpy().astype(np.float64)

    def inverse_transform(self, Z: Any) -> NDArray[np.float64]:  # noqa: N803
        """Decode codes, in the units of X.

        Args:
            Z: codes, shape (n, latent_dim).

        Returns:
            decoded rows, shape (n, n_features); volumes are flattened.

        Raises:
            sklearn.exceptions.NotFittedError: before :meth:`fit`.
            ValueError: if ``Z`` doesn't have ``latent_dim`` columns, or isn't finite.
        """
        check_is_fitted(self)
        checked = check_array(Z, dtype=np.float64, input_name="Z")
        if checked.shape[1] != self.vae_.latent_dim:
            raise ValueError(f"`Z` must have latent_dim={self.vae_.latent_dim} columns, got {checked.shape[1]}.")
        codes = torch.tensor(checked).to(self.vae_.fc_mu.weight.dtype)
        with torch.no_grad():
            parts = [self.vae_.decode(part).flatten(1).double() for part in codes.split(int(self.batch_size))]
        decoded: NDArray[np.float64] = torch.cat(parts).numpy()
        return decoded if self.scale_ is None else decoded * self.scale_ + self.mean_

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """Return the negative squared reconstruction error, summed over features and averaged over rows.

        The score is -1/n sum_i sum_j (x_ij - r_ij)^2 for the decoded posterior means r, in squared units of X. Larger
        is better, and the score is comparable with that of PCA. It ignores the KL divergence, so it can't be used to
        choose ``beta``.

        Args:
            X: as in :meth:`fit`.
            y: ignored.
        """
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        return -float(squared_error(rows, self.inverse_transform(self.transform(X))).mean())

    @property
    def _n_features_out(self) -> int:
        return self.vae_.latent_dim

    def _rows(self, X: Any, *, reset: bool) -> Array:  # noqa: N803
        """Return X as a validated array of shape (n, n_features)."""
        shape = None if self.spatial_shape is None else check_spatial_shape("spatial_shape", self.spatial_shape)
        if shape is not None and len(np.shape(X)) == 1 + len(shape):
            if tuple(np.shape(X)[1:]) != shape:
                raise ValueError(f"`X` must have shape (n, {', '.join(map(str, shape))}), got {tuple(np.shape(X))}.")
            X = np.asarray(X).reshape(len(X), -1)  # noqa: N806
        accepted: dict[str, Any] = {"dtype": [np.float64, np.float32], "ensure_min_samples": 2 if reset else 1}
        try:
            from sklearn.utils.validation import validate_data
        except ImportError:  # before scikit-learn 1.6 it is a method
            rows: Array = self._validate_data(X, reset=reset, **accepted)
        else:
            rows = validate_data(self, X, reset=reset, **accepted)
        if shape is not None and rows.shape[1] != math.prod(shape):
            raise ValueError(
                f"`X` must have {math.prod(shape)} columns, the voxels of `spatial_shape` {shape}, got {rows.shape[1]}."
            )
        return rows

    def _tensor(self, rows: Array) -> Tensor:
        """Return the networks' input: standardised features, or volumes with one channel in single precision."""
        if self.spatial_shape is None:
            return torch.from_numpy((rows - self.mean_) / self.scale_)
        volumes = np.ascontiguousarray(rows, dtype=np.float32)
        # torch warns of read-only memory
        volumes = volumes if volumes.flags.writeable else volumes.copy()
        return torch.from_numpy(volumes).reshape(len(rows), 1, *self.spatial_shape)


def _perceptron(n_features: int, latent_dim: Any, options: dict[str, Any]) -> VAE:
    latent_dim = check_integer("latent_dim", latent_dim, minimum=1)
    with seeded(options["random_state"]):
        encoder = nn.Sequential(nn.Linear(n_features, HIDDEN), nn.ReLU())
        decoder = nn.Sequential(nn.Linear(latent_dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, n_features))
    return VAE(encoder, decoder, HIDDEN, latent_dim, **options)


def _seed(random_state: Any) -> int:
    """Return the seed itself, or one drawn from numpy's generators, as scikit-learn does."""
    if not isinstance(random_state, np.random.RandomState | None):
        try:
            check_random_state(random_state)
        except ValueError as error:
            raise ValueError(
                f"`random_state` must be None, an integer from 0 to 2**32 - 1 or a RandomState, got {random_state!r}."
            ) from error
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _is_verbose(verbose: Any) -> bool:
    return verbose if isinstance(verbose, bool) else check_integer("verbose", verbose, minimum=0) > 0


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's advice and reports, since a search fits a transformer many times."""
    from lightning.fabric.utilities.warnings import PossibleUserWarning

    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)
        # Lightning 2.6 uses functions that torch 2.13 deprecates
        warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
