"""A training that starts from a trained model: its network, its covariates, and what it has seen."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import check_choice
from ..bundle import config_file, running_bundle_root
from ..data import CovariateCoding
from ..networks.builders import build_network
from ..networks.conditional_mean import condition_of, extend_condition, keep_condition, n_covariates_of
from ..networks.correction import renew_gain, set_variance
from ..networks.warm_start import likelihood_variance
from ..saving.descriptions import rebuild
from ..saving.safe_loading import load_weights_only
from .model_description import MODEL_FILE, SETTINGS_FILE, read_description
from .records import SPLIT_FILE, Earlier, read_earlier, read_split
from .run_checks import FREE_ARGUMENTS, LIKELIHOOD, RESUME_FILE, flat_settings
from .trained_model import load_state, training_folder

TRAIN_ONLY = ("condition",)
"""Parts of a model that a training may be restricted to."""

CONDITION_WEIGHT = "decoder.condition.weight"
"""Name of a conditional model's B among its weights."""

OPTION_OF = {"spatial_size": "spatial_shape", "spacing": "spacing", "center": "center", "padding": "padding"}
"""Options of the command line, by the argument of a transform that they set."""

CHOSEN_ANEW = (*FREE_ARGUMENTS, "n_covariates")
"""Network arguments that aren't compared: seed and number of voxels say nothing, and new sites add covariates."""


@dataclass(frozen=True)
class InitialModel:
    """The trained model that a training starts from.

    Attributes:
        weights: its ``model.pt``.
        description: its ``model.json``.
    """

    weights: Path
    description: Mapping[str, Any]

    @property
    def source(self) -> str:
        """Its ``model.json``, for messages."""
        return str(self.weights.with_name(SETTINGS_FILE))

    @cached_property
    def digest(self) -> str:
        """Digest of the weights, as ``run.json`` and ``model.json`` hold it."""
        return hashlib.sha256(self.weights.read_bytes()).hexdigest()[:32]

    @cached_property
    def coding(self) -> CovariateCoding | None:
        """The coding of its covariates, ``None`` for a model that isn't conditional."""
        stored = self.description.get("covariates")
        return None if stored is None else CovariateCoding.from_description(stored)

    @property
    def n_covariates(self) -> int:
        """Number of its coded covariates."""
        return 0 if self.coding is None else self.coding.n_columns

    def seen(self) -> list[dict[str, Any]]:
        """Return what it was trained on, the earliest training first; an empty entry for one that isn't known."""
        last = dict(self.description.get("trained_on") or {})
        return [*last.pop("before", []), last]

    def earlier(self) -> list[Earlier]:
        """Return the training and validation volumes of each training in :meth:`seen`, ``None`` where unknown.

        They are known if the training's ``split.json`` lies with the weights, or in ``output`` beside their folder.
        """
        seen, models = self.seen(), self.weights.parent
        folder = training_folder(models, models, models.parent)
        if not (folder / SPLIT_FILE).is_file() or seen[-1].get("split") is None:
            return [None] * len(seen)
        split = read_split(folder / SPLIT_FILE)
        before = read_earlier(folder)
        if len(before) != len(seen) - 1:
            before = [None] * (len(seen) - 1)
        return [*before, [*split["training"], *split["validation"]]]


def initial_model(init_from: str | os.PathLike[str] | None) -> InitialModel | None:
    """Return the trained model that a training starts from, or ``None`` for a training from the beginning.

    Args:
        init_from: the ``model.pt`` of a training run, with its ``model.json`` beside it, or the folder of both.

    Raises:
        ValueError: naming ``init_from``, if there is no such model, or the file that training can't have written.

    Example:
        >>> initial_model(None) is None
        True
        >>> initial_model("nowhere")
        Traceback (most recent call last):
        ValueError: `init_from` must be the model.pt of a training run or its folder, got nowhere, where there is none.
    """
    if init_from is None:
        return None
    given = Path(init_from)
    weights = given / MODEL_FILE if given.is_dir() else given
    if not weights.is_file():
        raise ValueError(
            f"`init_from` must be the {MODEL_FILE} of a training run or its folder, got {os.fspath(init_from)}, where "
            "there is none."
        )
    if weights.name == RESUME_FILE:
        raise ValueError(f"`init_from` must be a {MODEL_FILE}, got {weights}: --resume True goes on from a checkpoint.")
    description = read_description(weights.parent)
    if description is None:
        raise ValueError(
            f"`init_from` must have the {SETTINGS_FILE} of its training run beside it, got {weights} without: copy it "
            "there."
        )
    return InitialModel(weights, description)


def training_network(initial: InitialModel | None = None, **arguments: Any) -> nn.Module:
    """Build the network of a training: that of the settings, or that of the model that the training starts from.

    The settings of a described network count. Settings that are left as the bundle has them may differ from them,
    others may not. Weights are loaded later, by :func:`load_initial`. A conditional mean gets a column for each new
    level, and keeps its old ones.

    Args:
        initial: the model to start from.
        arguments: arguments of :func:`~monai_betavae.networks.build_network`.

    Raises:
        ValueError: naming each setting that contradicts the model, with both values.

    Example:
        >>> training_network(spatial_shape=(8, 8, 8), latent_dim=2, channels=(2, 2)).fc_mu.out_features
        2
    """
    if initial is None or "own" in initial.description["network"]:
        # a network of the user's own can't be rebuilt: the check of the run refuses any other in its place
        return build_network(**arguments)
    found = initial.description["network"]
    stored, given = found["arguments"], json.loads(json.dumps(arguments))
    own = _own_arguments()
    refuse_contradictions(
        {
            name: (stored.get(name, "no setting of its network"), value)
            for name, value in given.items()
            if name not in CHOSEN_ANEW and value != stored.get(name) and (name not in own or value != own[name])
        },
        initial.source,
        "The network is that of the model: leave these settings out.",
    )
    network = rebuild(found, initial.source, load_weights_only(initial.weights))
    n_new = given.get("n_covariates", 0) - n_covariates_of(network)
    if condition_of(network) is not None and n_new >= 0:
        extend_condition(network, n_new)
    return network


_shown = inspect.signature(build_network)
# the checks of a config read the accepted arguments from here
training_network.__signature__ = _shown.replace(  # type: ignore[attr-defined]  # functions may have one, mypy has none
    parameters=[
        inspect.Parameter("initial", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None),
        *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in _shown.parameters.values()),
    ]
)


def _own_arguments() -> dict[str, Any]:
    """Return the network's arguments as the bundle's own config has them."""
    config = json.loads(config_file(running_bundle_root(), "train.json").read_text(encoding="utf-8"))
    entry = config.get("network_def", {})
    found = {
        name: config.get(value[1:]) if isinstance(value, str) and value.startswith("@") else value
        for name, value in entry.items()
    }
    # an expression of the channels, one unless several are named
    return {**found, "in_channels": 1}


def refuse_contradictions(found: Mapping[str, tuple[Any, Any]], source: str, advice: str) -> None:
    """Raise ``ValueError`` if settings of a run contradict the model that it starts from.

    Args:
        found: by setting, the model's value and the run's.
        source: the model's description.
        advice: what settles it.

    Example:
        >>> refuse_contradictions({"latent_dim": (2, 3)}, "old/model.json", "Leave it out.")
        Traceback (most recent call last):
        ValueError: `init_from` needs the settings of old/model.json: latent_dim is 2 there, here 3. Leave it out.
    """
    if found:
        told = "; ".join(f"{name} is {then} there, here {now}" for name, (then, now) in sorted(found.items()))
        raise ValueError(f"`init_from` needs the settings of {source}: {told}. {advice}")


def check_initial(now: Mapping[str, Any], initial: InitialModel, train_only: str | None = None) -> None:
    """Refuse a run whose network or preprocessing isn't that of the model that it starts from.

    Args:
        now: current descriptions of "network", "preprocessing", "likelihood" and "objective".
        initial: the model.
        train_only: as in :func:`check_train_only`; then the likelihood must be the same too.

    Raises:
        ValueError: naming each setting that differs, with both values.
    """
    then, today = (flat_settings(each) for each in (initial.description, json.loads(json.dumps(dict(now)))))
    # the loss of a training may be another, unless nothing is trained
    same_loss = train_only is not None and initial.description["likelihood"] is not None
    # a description of an earlier version lacks settings that are as they were before there was a choice
    added = today.keys() & dict(now["network"]).get("arguments", {}).keys() - then.keys()
    differing = {
        name: (then.get(name, "absent"), today.get(name, "absent"))
        for name in dict.fromkeys([*then, *today])
        if then.get(name) != today.get(name)
        and name not in CHOSEN_ANEW
        and name not in added
        and (same_loss or not (name in LIKELIHOOD or name.startswith("loss#")))
    }
    options = {
        OPTION_OF[name.rsplit("#", 1)[-1]]: json.dumps(values[0])
        for name, values in differing.items()
        if name.rsplit("#", 1)[-1] in OPTION_OF and values[0] != "absent"
    }
    if "beta" in differing:
        options["beta"] = str(differing["beta"][0])
    repeat = "Repeat the options of that run" + (": " if options else "")
    advice = repeat + " ".join(f"--{name} '{value}'" for name, value in sorted(options.items())) + "."
    refuse_contradictions(differing, initial.source, advice)


def check_train_only(
    train_only: str | None,
    network: Any,
    initial: InitialModel | None,
    ckpt_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
) -> None:
    """Refuse a training of a part alone that there is nothing to train of.

    Args:
        train_only: ``None``, or "condition" for the columns of new levels alone.
        network: the network.
        initial: the model to start from.
        ckpt_dir: folder of weights.
        output_dir: folder of tables.

    Raises:
        ValueError: naming ``train_only`` and what is missing, or the file that is in the way.
    """
    if train_only is None:
        return
    check_choice("train_only", train_only, TRAIN_ONLY)
    if initial is None:
        raise ValueError("`train_only` 'condition' needs a trained model: name it with --init_from.")
    if initial.coding is None:
        raise ValueError(
            f"`train_only` 'condition' needs a model with covariates, got {initial.weights}, which was trained without."
        )
    if n_covariates_of(network) <= initial.n_covariates:
        categories = [
            f"{entry['name']}: {', '.join(map(str, [*entry['levels'], *_added(initial.coding, entry['name'])]))}"
            for entry in initial.coding.description()["covariates"]
            if entry["kind"] == "category"
        ]
        raise ValueError(
            "`train_only` 'condition' needs a new level of a category among the training subjects, such as a new site; "
            f"{initial.source} knows all of them ({'; '.join(categories) or 'it has no category'})."
        )
    # such a run writes no table of epochs and no checkpoint, so that others' would count as its own
    for path in (Path(ckpt_dir) / RESUME_FILE, Path(output_dir) / "metrics.csv"):
        if path.exists():
            raise ValueError(f"`train_only` 'condition' has no epochs, and {path} is from others: give a new folder.")


def _added(coding: CovariateCoding, name: str) -> list[str]:
    return [level for covariate, level in coding.added if covariate == name]


def load_initial(network: nn.Module, initial: InitialModel) -> None:
    """Load the weights of the initial model into a network, whose conditional mean may have more columns.

    Args:
        network: the network.
        initial: the model.

    Raises:
        ValueError: naming the file, if it can't be read, holds code or doesn't fit.
    """
    weights = load_weights_only(initial.weights)
    load_state(network, widened(weights, n_covariates_of(network)), initial.weights)


def widened(weights: Any, n_covariates: int) -> Any:
    """Return weights whose conditional mean has so many columns; new ones are zero, at the end.

    Example:
        >>> widened({CONDITION_WEIGHT: torch.ones(1, 2)}, 3)[CONDITION_WEIGHT]
        tensor([[1., 1., 0.]])
    """
    old = weights.get(CONDITION_WEIGHT) if isinstance(weights, Mapping) else None
    if not isinstance(old, Tensor) or old.ndim != 2 or old.shape[1] >= n_covariates:
        return weights
    new = old.new_zeros(len(old), n_covariates - old.shape[1])
    return {**weights, CONDITION_WEIGHT: torch.cat([old, new], dim=1)}


def begin_from(estimator: Any, network: nn.Module, initial: InitialModel, train_only: str | None) -> None:
    """Start an estimator from a model: its weights, and a correction measured for this run's loss.

    Args:
        estimator: the estimator around ``network``.
        network: the network.
        initial: the model.
        train_only: as in :func:`check_train_only`; then even the correction stays as it is.
    """
    load_initial(network, initial)
    if train_only is None:
        set_variance(estimator, likelihood_variance(estimator))
        renew_gain(estimator)


def check_unchanged(initial: InitialModel, stored: Mapping[str, Any] | None) -> None:
    """Refuse to resume a run whose initial model has changed since.

    Args:
        initial: the model.
        stored: description of the run that is resumed.

    Raises:
        ValueError: naming the file.
    """
    then = ((stored or {}).get("trained_on") or {}).get("init_weights")
    if then is not None and then != initial.digest:
        raise ValueError(f"`init_from` {initial.weights} has changed since the run that is resumed started from it.")


def keep_old_condition(network: nn.Module, initial: InitialModel) -> None:
    """Keep the columns of the initial model's covariates as they are; see ``keep_condition``."""
    if 0 < initial.n_covariates <= n_covariates_of(network):
        keep_condition(network, initial.n_covariates)
