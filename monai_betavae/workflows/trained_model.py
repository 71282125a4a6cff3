"""A trained model in later runs: network, preprocessing, likelihood and grid, rebuilt from its description."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Compose
from numpy.typing import NDArray
from torch import nn

from ..bundle import bundle_root as installed_bundle_root
from ..bundle import config_file
from ..data.transforms.transform_description import rebuild_transforms
from ..networks import var_autoencoder as adapters  # noqa: F401 -- its builders are among those that a description may name
from ..saving.descriptions import rebuild
from ..saving.safe_loading import load_weights_only
from .model_description import (
    MODEL_FILE,
    SETTINGS_FILE,
    check_likelihood,
    read_description,
    split_digest,
)
from .records import SPLIT_FILE, print_once, process_of_launch, read_split

GIVE_AGAIN = "give it again, as in training, with --{name} or in a config file that is merged"


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
        >>> from monai_betavae.workflows.model_description import write_description
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
        >>> from monai_betavae.workflows.model_description import write_description
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
    load_state(network, load_weights_only(checkpoint), checkpoint)
    return network.eval()


def load_state(network: nn.Module, weights: Any, checkpoint: str | os.PathLike[str]) -> None:
    """Load a state dict into a network, and print where it is from.

    Args:
        network: the network.
        weights: the state dict.
        checkpoint: file that it is from, with the ``model.json`` of its training beside it.

    Raises:
        ValueError: naming the file, if it doesn't fit the network.
    """
    try:
        network.load_state_dict(weights)
    except Exception as error:  # a file may hold values that torch doesn't expect in place of weights
        reasons = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
        raise ValueError(
            f"{os.fspath(checkpoint)} doesn't fit `network_def`, which needs the settings it was trained with: "
            f"{reasons[min(1, len(reasons) - 1)]}"
        ) from error
    print_once(f"Weights: {os.fspath(checkpoint)}{_said_of(Path(checkpoint).parent)}")


def _said_of(ckpt_dir: Path) -> str:
    """Return a summary of a model's training data, for the line that names the weights."""
    known = (read_description(ckpt_dir) or {}).get("trained_on")
    if not known:
        return ""
    before = [_volumes_of(each) for each in reversed(known.get("before", []))]
    return f" (trained on {_volumes_of(known)}{''.join(f', before that on {each}' for each in before)})"


def _volumes_of(trained_on: Mapping[str, Any]) -> str:
    """Return the numbers of a training's volumes and subjects."""
    if not trained_on:
        return "volumes that aren't known"
    simulated = "simulated " if trained_on.get("simulated") else ""
    return f"{trained_on.get('volumes')} {simulated}volumes of {trained_on.get('subjects')} subjects"
