"""The description of a trained model, with everything that later runs need.

``model.json`` holds::

    format         "monai_betavae.model/2"
    network        {"builder": name, "arguments": {...}}, as in monai_betavae.saving.descriptions
    preprocessing  {"transforms": [{"name": ..., "arguments": {...}}, ...]}, as in data.transforms
    likelihood     {"distribution": "normal", "beta": 1.0}
    contrasts      names of the channels, such as ["T1w", "T2w"]; only of a model of several
    grid           {"spatial_shape": [...], "spacing": [...], "affine": [[...]]}
    trained_on     {"volumes": n, "subjects": n, "simulated": true or false, "digest": ..., "split": ...,
                    "told": {"suffix": ..., "image_column": ..., "entities": ..., "missing_values": ...}}
                   of a model that started from another one also "before", a list of the same for each earlier training,
                   the earliest first, and "init_weights", the digest of the weights that it started from

A user's object that can't be described is stored as ``{"own": its class}``. Later runs then stop and name the part that
their config must define again. Files of release 0.1.0, without "format", can be read too.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..data.transforms.brain import first_release_description
from ..data.volumes.contrasts import image_files
from ..losses import LIKELIHOODS
from ..networks import var_autoencoder as adapters  # noqa: F401 -- its builders are among those that a description may name
from ..networks.conditional_mean import n_covariates_of
from ..saving.atomic_files import atomic_path
from ..saving.descriptions import description_of, name_of
from .model_grid import centred_affine
from .records import PARTS, Record, is_simulated

MODEL_FILE, SETTINGS_FILE = "model.pt", "model.json"

FORMAT = "monai_betavae.model/2"
"""Identifier and version of a description."""


def describe_network(network: nn.Module) -> dict[str, Any]:
    """Return the description of a network with its current sizes, or ``{"own": class}`` if no builder made it."""
    description = copy.deepcopy(description_of(network))
    if description is None:
        return described_by_name(network)
    template = getattr(getattr(network, "decoder", None), "template", None)
    if template is not None:
        description["arguments"]["n_voxels"] = len(template.voxels)
    if "n_covariates" in description["arguments"]:
        description["arguments"]["n_covariates"] = n_covariates_of(network)
    return description


def describe_likelihood(criterion: Any) -> dict[str, Any]:
    """Return the decoder distribution and the beta of a loss, or ``{"own": class}`` if it lacks one of them.

    Beta is the weight of the KL divergence, from which the likelihood's variance follows. The other settings of an
    objective are in :func:`~monai_betavae.objectives.describe_objective`.

    Args:
        criterion: a :class:`~monai_betavae.BetaVAELoss`, a subclass, or another loss.

    Example:
        >>> from monai_betavae import BetaVAELoss
        >>> describe_likelihood(BetaVAELoss(beta=2.0, default_dist="laplace"))
        {'distribution': 'laplace', 'beta': 2.0}
    """
    distribution, beta = getattr(criterion, "default_dist", None), getattr(criterion, "beta", None)
    if distribution not in LIKELIHOODS or not isinstance(beta, int | float):
        return described_by_name(criterion)
    return {"distribution": distribution, "beta": float(getattr(criterion, "kl_weight", beta))}


def described_by_name(value: Any) -> dict[str, Any]:
    """Return the entry for an object that can't be described."""
    return {"own": "".join(letter if letter.isalnum() or letter in "._<>" else "_" for letter in name_of(value))}


def contrasts_of(description: Mapping[str, Any] | None) -> list[str] | None:
    """Return the names of a described model's channels, ``None`` for a model of one channel."""
    found = (description or {}).get("contrasts")
    return None if found is None else list(found)


def trained_contrasts(ckpt_dir: str | os.PathLike[str]) -> list[str] | None:
    """Return the names of a trained model's channels, such as ``["T1w", "T2w"]``; ``None`` for a model of one channel.

    Args:
        ckpt_dir: folder of the weights, with the ``model.json`` that training wrote.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as empty:  # nothing was trained
        ...     print(trained_contrasts(empty))
        None
    """
    return contrasts_of(read_description(ckpt_dir))


DATA_OPTIONS = ("suffix", "image_column", "entities", "missing_values")
"""Settings that select volumes of a cohort and read its tables; later runs reuse those of training."""


def describe_training(
    split: Mapping[str, Sequence[Record]],
    digest: str,
    config: Mapping[str, Any] | None = None,
    before: Sequence[Mapping[str, Any]] = (),
    init_weights: str | None = None,
) -> dict[str, Any]:
    """Return a description of the data that a model was trained on.

    Args:
        split: the records of each part.
        digest: digest of the training volumes, as in ``run.json``.
        config: the config of the run, for its settings in :data:`DATA_OPTIONS`.
        before: descriptions of the trainings of the model that the run starts from, the earliest first.
        init_weights: digest of that model's weights.
    """
    training = split["training"]
    return {
        "volumes": len(training),
        "subjects": len({str(record.get("subject")) for record in training}),
        "simulated": is_simulated(training),
        "digest": digest,
        "split": split_digest(split),
        "told": {name: config[name] for name in DATA_OPTIONS if config.get(name) is not None} if config else {},
        **({} if init_weights is None else {"before": [dict(each) for each in before], "init_weights": init_weights}),
    }


def data_options_of(ckpt_dir: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Return the settings with which a training run selected volumes and read tables, as far as they are known.

    Args:
        ckpt_dir: folder of the weights, or ``None``.
    """
    description = None if ckpt_dir is None else read_description(ckpt_dir)
    told = ((description or {}).get("trained_on") or {}).get("told")
    return {name: told[name] for name in DATA_OPTIONS if name in told} if isinstance(told, Mapping) else {}


def split_digest(split: Mapping[str, Sequence[Record]]) -> str:
    """Return a digest of the subjects and file names in each part, whatever the folders of the files."""
    rows = sorted(
        [part, str(record.get("subject")), *(os.path.basename(image) for image in image_files(record))]
        for part in PARTS
        for record in split.get(part, ())
    )
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]


def write_description(
    path: Path,
    *,
    network: nn.Module,
    preprocessing: Mapping[str, Any],
    likelihood: Mapping[str, Any],
    grid: Mapping[str, Any],
    trained_on: Mapping[str, Any] | None = None,
    objective: Mapping[str, Any] | None = None,
    covariates: Mapping[str, Any] | None = None,
    contrasts: Sequence[str] | None = None,
) -> None:
    """Write ``model.json``, the description that belongs to the weights.

    Args:
        path: path of the file.
        network: network of the weights.
        preprocessing: description of its transforms.
        likelihood: output of :func:`describe_likelihood`.
        grid: "spatial_shape", "spacing" and "affine" of its input volumes.
        trained_on: output of :func:`describe_training`.
        objective: output of :func:`~monai_betavae.objectives.describe_objective`.
        covariates: description of the :class:`~monai_betavae.data.CovariateCoding` of a conditional model.
        contrasts: names of the channels of a model of several.
    """
    description = {
        "format": FORMAT,
        "network": describe_network(network),
        "preprocessing": dict(preprocessing),
        "likelihood": dict(likelihood),
        "objective": None if objective is None else dict(objective),
        "grid": dict(grid),
        "trained_on": None if trained_on is None else dict(trained_on),
        "covariates": None if covariates is None else dict(covariates),
        **({} if contrasts is None else {"contrasts": list(contrasts)}),
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def read_description(ckpt_dir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read the ``model.json`` of a training run, or return ``None`` if there is none.

    Args:
        ckpt_dir: folder of the weights.

    Returns:
        the description. A file of release 0.1.0 is converted to the current format; missing information is ``None``.

    Raises:
        ValueError: naming the file, if training can't have written it.
    """
    path = Path(ckpt_dir) / SETTINGS_FILE
    if not os.path.isfile(path):
        return None
    try:
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, dict):
            raise TypeError("no object")
        version = stored.get("format")
        if version is not None and version != FORMAT:
            raise ValueError(f"format {version!r:.80} of another version")
        found = _of_first_release(stored) if version is None else stored
        _check_form(found)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} must be the {SETTINGS_FILE} that training wrote: {error!s:.200}") from error
    code = next(_programs(stored), None)
    if code is not None:
        raise ValueError(f"{path} must hold values only, got {code!r:.80}, which MONAI's configs would run.")
    return found


def trained_description(ckpt_dir: Path) -> dict[str, Any]:
    """Return the description of a trained model whose weights are there.

    Args:
        ckpt_dir: folder of the trained model.

    Raises:
        ValueError: if it holds no trained model.
    """
    description = read_description(ckpt_dir)
    if description is None or not (ckpt_dir / MODEL_FILE).is_file():
        raise ValueError(
            f"`ckpt_dir` must hold the {MODEL_FILE} and {SETTINGS_FILE} of a training run, got {ckpt_dir}: run "
            "training first."
        )
    return description


def _of_first_release(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a description of release 0.1.0, which had a network, shape and spacing, and an affine."""
    network, given, affine = stored["network"], stored["preprocessing"], stored.get("grid_affine")
    if not (network is None or isinstance(network["arguments"], dict)) or not isinstance(given, dict):
        raise ValueError("of another form")
    arguments = {} if network is None else network["arguments"]
    shape = given.get("spatial_shape", arguments.get("spatial_shape"))
    if shape is None:
        raise ValueError("it doesn't say the spatial shape")
    spacing = given.get("spacing")
    if affine is None:
        affine = centred_affine(shape, spacing).tolist()
    return {
        "format": None,
        "network": {"own": "a network that release 0.1.0 didn't describe"} if network is None else network,
        "preprocessing": first_release_description(shape, spacing),
        "likelihood": None,
        "grid": {"spatial_shape": list(shape), "spacing": None, "affine": affine},
        "trained_on": None,
    }


def _check_form(found: Mapping[str, Any]) -> None:
    """Raise an error that names the first problem of a description, if there is one."""
    for name in ("network", "preprocessing", "grid"):
        if not isinstance(found[name], dict):
            raise ValueError(f"{name!r} is no object")
    if "own" not in found["network"] and not isinstance(found["network"].get("arguments"), dict):
        raise ValueError("'network' has no arguments")
    if "own" not in found["preprocessing"] and not isinstance(found["preprocessing"].get("transforms"), list):
        raise ValueError("'preprocessing' has no transforms")
    likelihood = found["likelihood"]
    if likelihood is not None and "own" not in likelihood:
        check_likelihood(likelihood, "'likelihood'")
    if np.asarray(found["grid"]["affine"], dtype=float).shape != (4, 4):
        raise ValueError("the grid's affine is no 4x4 matrix")
    objective = found.get("objective")
    if objective is not None and not (isinstance(objective, dict) and isinstance(objective.get("arguments"), dict)):
        raise ValueError("'objective' has no arguments")
    if not isinstance(found.get("covariates"), dict | None):
        raise ValueError("'covariates' is no object")
    contrasts = found.get("contrasts", ["", ""])
    if not isinstance(contrasts, list) or len(contrasts) < 2 or not all(isinstance(each, str) for each in contrasts):
        raise ValueError("'contrasts' is no list of names")
    if not isinstance(found.get("trained_on"), dict | None):
        raise ValueError("'trained_on' is no object")
    before = (found.get("trained_on") or {}).get("before", [])
    if not isinstance(before, list) or not all(isinstance(entry, dict) for entry in before):
        raise ValueError("'before' is no list of objects")


def _programs(value: Any) -> Iterator[Any]:
    """Yield values that would be code or a reference in a MONAI config, since zoo bundles copy them into configs."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from [key] * key.startswith("_")
            yield from _programs([key, entry])
    elif isinstance(value, list):
        for entry in value:
            yield from _programs(entry)
    elif isinstance(value, str) and ("$" in value or "@" in value or "%" in value):
        yield value


def check_likelihood(likelihood: Any, what: str = "`likelihood`") -> dict[str, Any]:
    """Return a likelihood, or raise ``ValueError`` if it isn't ``{"distribution": ..., "beta": ...}``."""
    known = isinstance(likelihood, Mapping) and likelihood.get("distribution") in LIKELIHOODS
    beta = likelihood.get("beta") if known else None
    if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 <= beta < float("inf"):
        raise ValueError(
            f"{what} must be {{'distribution': one of {', '.join(map(repr, LIKELIHOODS))}, 'beta': a number >= 0}}, "
            f"got {likelihood!r:.200}."
        )
    return {"distribution": likelihood["distribution"], "beta": float(beta)}
