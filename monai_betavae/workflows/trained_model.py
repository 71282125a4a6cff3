"""Files of a trained model: its weights, and a description with everything that later runs need.

``model.json`` holds::

    format         "monai_betavae.model/2"
    network        {"builder": name, "arguments": {...}}, as in monai_betavae.saving.descriptions
    preprocessing  {"transforms": [{"name": ..., "arguments": {...}}, ...]}, as in data.transforms
    likelihood     {"distribution": "normal", "beta": 1.0}
    grid           {"spatial_shape": [...], "spacing": [...], "affine": [[...]]}
    trained_on     {"volumes": n, "subjects": n, "simulated": true or false, "digest": ..., "split": ...,
                    "told": {"suffix": ..., "image_column": ..., "entities": ..., "missing_values": ...}}

A user's object that can't be described is stored as ``{"own": its class}``. Later runs then stop and name the part that
their config must define again. Files of release 0.1.0, without "format", can be read too.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Compose
from numpy.typing import NDArray
from torch import nn

from ..bundle import bundle_root as installed_bundle_root
from ..bundle import config_file
from ..data.transforms.brain import first_release_description
from ..data.transforms.transform_description import rebuild_transforms
from ..losses import LIKELIHOODS
from ..networks import var_autoencoder as adapters  # noqa: F401 -- its builders are among those that a description may name
from ..saving.atomic_files import atomic_path
from ..saving.descriptions import description_of, name_of, rebuild
from ..saving.safe_loading import load_weights_only
from .records import PARTS, SPLIT_FILE, Record, is_simulated, print_once, process_of_launch, read_split

MODEL_FILE, SETTINGS_FILE = "model.pt", "model.json"

FORMAT = "monai_betavae.model/2"
"""Identifier and version of a description."""

SAME_GRID_MM = 0.01
"""Volumes whose affines differ by less than this share a grid."""

GIVE_AGAIN = "give it again, as in training, with --{name} or in a config file that is merged"


# ---- writing ---------------------------------------------------------------------------------------------------------


def describe_network(network: nn.Module) -> dict[str, Any]:
    """Return the description of a network with its current sizes, or ``{"own": class}`` if no builder made it."""
    description = copy.deepcopy(description_of(network))
    if description is None:
        return own(network)
    template = getattr(getattr(network, "decoder", None), "template", None)
    if template is not None:
        description["arguments"]["n_voxels"] = len(template.voxels)
    return description


def describe_likelihood(criterion: Any) -> dict[str, Any]:
    """Return the decoder distribution and the beta of a loss, or ``{"own": class}`` if it lacks one of them.

    Args:
        criterion: a :class:`~monai_betavae.BetaVAELoss`, a subclass, or another loss.

    Example:
        >>> from monai_betavae import BetaVAELoss
        >>> describe_likelihood(BetaVAELoss(beta=2.0, default_dist="laplace"))
        {'distribution': 'laplace', 'beta': 2.0}
    """
    distribution, beta = getattr(criterion, "default_dist", None), getattr(criterion, "beta", None)
    if distribution not in LIKELIHOODS or not isinstance(beta, int | float):
        return own(criterion)
    return {"distribution": distribution, "beta": float(beta)}


def own(value: Any) -> dict[str, Any]:
    """Return the entry for an object that can't be described."""
    return {"own": "".join(letter if letter.isalnum() or letter in "._<>" else "_" for letter in name_of(value))}


TOLD = ("suffix", "image_column", "entities", "missing_values")
"""Settings that select volumes of a cohort and read its tables; later runs reuse those of training."""


def describe_training(
    split: Mapping[str, Sequence[Record]], digest: str, config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a description of the data that a model was trained on.

    Args:
        split: the records of each part.
        digest: digest of the training volumes, as in ``run.json``.
        config: the config of the run, for its settings in :data:`TOLD`.
    """
    training = split["training"]
    return {
        "volumes": len(training),
        "subjects": len({str(record.get("subject")) for record in training}),
        "simulated": is_simulated(training),
        "digest": digest,
        "split": split_digest(split),
        "told": {name: config[name] for name in TOLD if config.get(name) is not None} if config else {},
    }


def told_in_training(ckpt_dir: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Return the settings with which a training run selected volumes and read tables, as far as they are known.

    Args:
        ckpt_dir: folder of the weights, or ``None``.
    """
    description = None if ckpt_dir is None else read_description(ckpt_dir)
    told = ((description or {}).get("trained_on") or {}).get("told")
    return {name: told[name] for name in TOLD if name in told} if isinstance(told, Mapping) else {}


def split_digest(split: Mapping[str, Sequence[Record]]) -> str:
    """Return a digest of the subjects and file names in each part, whatever the folders of the files."""
    rows = sorted(
        [part, str(record.get("subject")), os.path.basename(str(record["image"]))]
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
) -> None:
    """Write ``model.json``, the description that belongs to the weights.

    Args:
        path: path of the file.
        network: network of the weights.
        preprocessing: description of its transforms.
        likelihood: output of :func:`describe_likelihood`.
        grid: "spatial_shape", "spacing" and "affine" of its input volumes.
        trained_on: output of :func:`describe_training`.
    """
    description = {
        "format": FORMAT,
        "network": describe_network(network),
        "preprocessing": dict(preprocessing),
        "likelihood": dict(likelihood),
        "grid": dict(grid),
        "trained_on": None if trained_on is None else dict(trained_on),
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


# ---- reading ---------------------------------------------------------------------------------------------------------


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
    if not isinstance(found.get("trained_on"), dict | None):
        raise ValueError("'trained_on' is no object")


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


def network_arguments(description: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of a described network; empty if no builder of this package made it."""
    return dict(description["network"].get("arguments", {})) if description else {}


def trained_network(ckpt_dir: str | os.PathLike[str], bundle_root: str | os.PathLike[str] | None = None) -> nn.Module:
    """Build the network of a trained model without its weights; see :func:`load_weights`.

    Args:
        ckpt_dir: folder of the weights, with the ``model.json`` that training wrote.
        bundle_root: the bundle whose training config defines the network if nothing was trained yet.

    Raises:
        ValueError: naming the file, if training can't have written it, or ``network_def``, if the network was the
            user's own.

    Example:
        >>> import tempfile
        >>> from monai_betavae.data import brain_transforms
        >>> from monai_betavae.networks import build_network
        >>> network = build_network((8, 8, 8), latent_dim=2, channels=(2, 2), warm_start="mean")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_description(
        ...         Path(folder) / SETTINGS_FILE,
        ...         network=network,
        ...         preprocessing=brain_transforms((8, 8, 8), spacing=16.0).description,
        ...         likelihood={"distribution": "normal", "beta": 1.0},
        ...         grid={"spatial_shape": [8, 8, 8], "spacing": [16.0] * 3, "affine": np.eye(4).tolist()},
        ...     )
        ...     rebuilt = trained_network(folder)
        >>> [list(part.shape) for part in rebuilt.parameters()] == [list(part.shape) for part in network.parameters()]
        True
    """
    description = _description_or_none(ckpt_dir, "network_def")
    if description is None:
        network: nn.Module = _of_training_config(bundle_root, "network_def")
        return network
    source = str(Path(ckpt_dir) / SETTINGS_FILE)
    if "own" in description["network"]:
        raise ValueError(
            f"`network_def` must be given: {source} says that the model's network is {description['network']['own']}, "
            f"which no builder of monai_betavae made; {GIVE_AGAIN.format(name='network_def')}."
        )
    weights = Path(ckpt_dir) / MODEL_FILE
    return rebuild(description["network"], source, load_weights_only(weights) if weights.is_file() else None)


def trained_preprocessing(
    ckpt_dir: str | os.PathLike[str], bundle_root: str | os.PathLike[str] | None = None
) -> Compose:
    """Build the transforms with which a model was trained; see :func:`trained_network`.

    Args:
        ckpt_dir: as in :func:`trained_network`.
        bundle_root: as in :func:`trained_network`.

    Raises:
        ValueError: naming the file, if training can't have written it, or ``preprocessing``, if a transform was the
            user's own.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as empty:  # nothing was trained: the transforms of the training config
        ...     transforms = trained_preprocessing(empty)
        >>> type(transforms.transforms[0]).__name__
        'ReadVolumed'
    """
    description = _description_or_none(ckpt_dir, "preprocessing")
    if description is None:
        return _of_training_config(bundle_root, "train#preprocessing")
    source = str(Path(ckpt_dir) / SETTINGS_FILE)
    if "own" in description["preprocessing"]:
        where = description["preprocessing"].get("where")
        raise ValueError(
            f"`preprocessing` must be given: {source} says that the model was trained with "
            f"{description['preprocessing']['own']}{f' as {where}' if where else ''}, which can't be described; "
            f"{GIVE_AGAIN.format(name='preprocessing')}."
        )
    return rebuild_transforms(description["preprocessing"], source)


def trained_likelihood(ckpt_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the distribution and the beta with which a model was trained.

    Args:
        ckpt_dir: folder of the weights, with the ``model.json`` that training wrote.

    Returns:
        {"distribution": "normal", "laplace" or "bernoulli", "beta": a number}; "normal" and 1 if nothing was trained
        yet.

    Raises:
        ValueError: naming the file, if training can't have written it, or ``likelihood``, if the user's own loss lacks
            one of them.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as empty:
        ...     trained_likelihood(empty)
        {'distribution': 'normal', 'beta': 1.0}
    """
    description = _description_or_none(ckpt_dir, "likelihood")
    source = Path(ckpt_dir) / SETTINGS_FILE
    if description is None or description["likelihood"] is None:
        if description is not None:
            print_once(
                f"Likelihood: {source} is of release 0.1.0 and doesn't say it; taken as normal with beta 1. Another: "
                "--likelihood \"{'distribution':'laplace','beta':2.0}\"."
            )
        return {"distribution": "normal", "beta": 1.0}
    if "own" in description["likelihood"]:
        raise ValueError(
            f"`likelihood` must be given: {source} says that the model was trained with the loss "
            f"{description['likelihood']['own']}, which names no distribution and beta; give --likelihood "
            "\"{'distribution':'normal','beta':1.0}\"."
        )
    return check_likelihood(description["likelihood"])


def _description_or_none(ckpt_dir: str | os.PathLike[str], name: str) -> dict[str, Any] | None:
    """Return a model's description, or ``None`` if nothing was trained yet."""
    description = read_description(ckpt_dir)
    weights = Path(ckpt_dir) / MODEL_FILE
    if description is None and weights.is_file():
        raise ValueError(
            f"`{name}` must be given: there is {weights} but no {SETTINGS_FILE} next to it, which describes the "
            f"weights; copy it there, or {GIVE_AGAIN.format(name=name)}."
        )
    return description


def _of_training_config(root: str | os.PathLike[str] | None, name: str) -> Any:
    """Build a part from the unchanged training config of the bundle."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(config_file(installed_bundle_root() if root is None else root, "train.json"))
    return parser.get_parsed_content(name)


def grid_affine(ckpt_dir: str | os.PathLike[str]) -> NDArray[np.float64]:
    """Return the affine of a trained model's grid, which is that of its training volumes if they shared one.

    Args:
        ckpt_dir: folder of the weights.

    Returns:
        4x4 affine, RAS+, in millimetres; the identity if nothing was trained yet.

    Example:
        >>> import tempfile
        >>> from monai_betavae.data import brain_transforms
        >>> from monai_betavae.networks import build_network
        >>> network = build_network((8, 8, 8), latent_dim=2, channels=(2, 2), warm_start="mean")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_description(
        ...         Path(folder) / SETTINGS_FILE,
        ...         network=network,
        ...         preprocessing=brain_transforms((8, 8, 8), spacing=16.0).description,
        ...         likelihood={"distribution": "normal", "beta": 1.0},
        ...         grid={"spatial_shape": [8] * 3, "spacing": [16.0] * 3, "affine": np.diag([16, 16, 16, 1]).tolist()},
        ...     )
        ...     affine = grid_affine(folder)
        >>> np.diag(affine).tolist()
        [16.0, 16.0, 16.0, 1.0]
    """
    description = read_description(ckpt_dir)
    return np.eye(4) if description is None else np.asarray(description["grid"]["affine"], dtype=float)


def training_folder(
    ckpt_dir: str | os.PathLike[str], output_dir: str | os.PathLike[str], run_root: str | os.PathLike[str]
) -> Path:
    """Return the folder of a model's training run, which contains its ``split.json``.

    The candidates are ``ckpt_dir``, ``output_dir`` and ``<run_root>/output``, in this order. A split that doesn't match
    the model's description belongs to another run and is skipped.

    Args:
        ckpt_dir: folder of the weights.
        output_dir: folder of the results.
        run_root: folder under which the bundle writes by default.

    Returns:
        the folder; ``<run_root>/output`` if no candidate has the split.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / SPLIT_FILE).write_text("{}")
        ...     found = training_folder(Path(folder) / "models", folder, "runs")
        ...     found == Path(folder), training_folder("models", "results", "runs").as_posix()
        (True, 'runs/output')
    """
    candidates = [Path(ckpt_dir), Path(output_dir), Path(run_root) / "output"]
    for folder in candidates:
        if (folder / SPLIT_FILE).is_file() and not of_another_run(ckpt_dir, folder):
            return folder
    return candidates[-1]


def of_another_run(ckpt_dir: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder's ``split.json`` is known to belong to another run than the weights in ``ckpt_dir``."""
    path, description = Path(folder) / SPLIT_FILE, read_description(ckpt_dir)
    known = ((description or {}).get("trained_on") or {}).get("split")
    return known is not None and path.is_file() and split_digest(read_split(path)) != known


def common_affine(
    affines: Iterable[Any], spatial_shape: Sequence[int], spacing: float | Sequence[float] | None
) -> NDArray[np.float64]:
    """Return the affine that all volumes share, or that of a grid centred on the origin if they don't share one.

    Example:
        >>> common_affine([np.eye(4), np.eye(4)], (4, 4, 4), 1.0)[0].tolist()
        [1.0, 0.0, 0.0, 0.0]
        >>> common_affine([np.eye(4), 2 * np.eye(4)], (4, 4, 4), 1.0)[0].tolist()
        [1.0, 0.0, 0.0, -1.5]
    """
    stack = [np.asarray(affine, dtype=float) for affine in affines]
    if stack and all(np.abs(affine - stack[0]).max() < SAME_GRID_MM for affine in stack):
        return stack[0]
    return centred_affine(spatial_shape, spacing)


def centred_affine(spatial_shape: Sequence[int], spacing: float | Sequence[float] | None) -> NDArray[np.float64]:
    """Return the affine of an axis-aligned grid centred on the origin; a spacing of ``None`` counts as 1 mm."""
    sides = np.broadcast_to(np.asarray(1.0 if spacing is None else spacing, dtype=float), (3,))
    affine = np.diag([*sides, 1.0])
    affine[:3, 3] = -sides * (np.asarray(spatial_shape, dtype=float) - 1) / 2
    return affine


def check_outputs(
    result: Path,
    checkpoint: str | os.PathLike[str],
    overwrite: bool = False,
    training_output_dir: str | os.PathLike[str] | None = None,
) -> None:
    """Refuse to start without weights or to replace an existing result, before any volume is read.

    Args:
        result: the file that marks the work as done.
        checkpoint: the weights.
        overwrite: whether an existing result may be replaced.
        training_output_dir: folder of the training run whose ``split.json`` will be read.

    Raises:
        ValueError: naming the file.
    """
    if not Path(checkpoint).is_file():
        raise ValueError(
            f"{os.fspath(checkpoint)} must be the {MODEL_FILE} of a training run, and doesn't exist: run training "
            "first, or name another with --ckpt_dir."
        )
    first = process_of_launch()[0] == 0
    if first and result.exists() and not overwrite:  # other processes may check after the first one has written it
        raise ValueError(f"{result} exists. Give --overwrite True to replace it, or another folder with --output_dir.")
    if training_output_dir is not None and of_another_run(Path(checkpoint).parent, training_output_dir):
        raise ValueError(
            f"{Path(training_output_dir) / SPLIT_FILE} is of another training run than {os.fspath(checkpoint)}: name "
            "the folder of that run with --training_output_dir."
        )


def load_weights(network: nn.Module, checkpoint: str | os.PathLike[str]) -> nn.Module:
    """Load a bare state dict into a network without executing anything in the file.

    Args:
        network: the network.
        checkpoint: the file.

    Returns:
        the same network, in eval mode.

    Raises:
        ValueError: naming the file, if it can't be read or doesn't fit the network.

    Example:
        >>> import tempfile
        >>> import torch
        >>> trained, fresh = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(trained.state_dict(), f"{folder}/{MODEL_FILE}")
        ...     loaded = load_weights(fresh, f"{folder}/{MODEL_FILE}")
        Weights: ...model.pt
        >>> loaded is fresh, loaded.training, torch.equal(loaded.weight, trained.weight)
        (True, False, True)
    """
    weights = load_weights_only(checkpoint)
    try:
        network.load_state_dict(weights)
    except Exception as error:  # a file may hold values that torch doesn't expect in place of weights
        reasons = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
        raise ValueError(
            f"{os.fspath(checkpoint)} doesn't fit `network_def`, which needs the settings it was trained with: "
            f"{reasons[min(1, len(reasons) - 1)]}"
        ) from error
    print_once(f"Weights: {os.fspath(checkpoint)}{_said_of(Path(checkpoint).parent)}")
    return network.eval()


def _said_of(ckpt_dir: Path) -> str:
    """Return a summary of a model's training data, for the line that names the weights."""
    known = (read_description(ckpt_dir) or {}).get("trained_on")
    if not known:
        return ""
    simulated = "simulated " if known.get("simulated") else ""
    return f" (trained on {known.get('volumes')} {simulated}volumes of {known.get('subjects')} subjects)"
