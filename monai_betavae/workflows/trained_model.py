"""A trained model's files: its weights, the settings they belong to, the grid of its volumes."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..bundle import config_file
from ..description import description_of
from ..files import atomic_path
from ..persistence import load_weights_only
from .records import process_of_launch

MODEL_FILE, SETTINGS_FILE = "model.pt", "model.json"

SAME_GRID_MM = 0.01
"""Volumes whose affines differ by less are on one grid."""


def write_settings(
    network: nn.Module, preprocessing: Mapping[str, Any], grid_affine: NDArray[np.float64], path: Path
) -> None:
    """Write what weights belong to: the network's description, the preprocessing and the affine of its grid."""
    description = copy.deepcopy(description_of(network))
    template = getattr(getattr(network, "decoder", None), "template", None)
    if description is not None and template is not None:
        description["arguments"]["n_voxels"] = len(template.voxels)
    settings = {
        "network": description,
        "preprocessing": dict(preprocessing),
        "grid_affine": np.asarray(grid_affine, dtype=float).tolist(),
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def read_settings(ckpt_dir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read what :func:`write_settings` wrote; ``None`` if there is no such file.

    Raises:
        ValueError: naming the file, if it isn't what training writes.
    """
    path = Path(ckpt_dir) / SETTINGS_FILE
    if not os.path.isfile(path):
        return None
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        # a network of one's own has no description
        described = stored["network"] is None or isinstance(stored["network"]["arguments"], dict)
        if not (described and isinstance(stored["preprocessing"], dict)):
            raise ValueError("of another form")
        affine = stored.get("grid_affine")
        if affine is not None and np.asarray(affine, dtype=float).shape != (4, 4):
            raise ValueError("grid_affine is no 4x4 matrix")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} must be the {SETTINGS_FILE} that training wrote.") from error
    found = next(_programs(stored), None)
    if found is not None:
        raise ValueError(f"{path} must hold values only, got {found!r:.80}, which MONAI's configs would run.")
    return stored


def _programs(value: Any) -> Iterator[Any]:
    """Yield what would be code or a reference in one of MONAI's configs: a zoo bundle's has these settings in it."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from [key] * key.startswith("_")
            yield from _programs([key, entry])
    elif isinstance(value, list):
        for entry in value:
            yield from _programs(entry)
    elif isinstance(value, str) and ("$" in value or "@" in value or "%" in value):
        yield value


def network_arguments(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of a described network; none for one that no builder of this package made."""
    return dict(settings["network"]["arguments"]) if settings and settings["network"] else {}


def trained_settings(ckpt_dir: str | os.PathLike[str], root: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the settings that a model was trained with, so that inference needs no repeated overrides.

    Args:
        ckpt_dir: folder of the weights, with the ``model.json`` that training left there.
        root: the bundle, the values of whose training config hold where there is no such file.

    Returns:
        values of the ids that shape network and preprocessing: spatial_shape, spacing, latent_dim, architecture, ...

    Raises:
        ValueError: if the file isn't what training writes.
    """
    config = json.loads(config_file(root, "train.json").read_text(encoding="utf-8"))
    names = {name for name, reference in config["network_def"].items() if reference == f"@{name}"} | {"spacing"}
    settings = {name: config[name] for name in names}
    stored = read_settings(ckpt_dir)
    found = {**network_arguments(stored), **(stored["preprocessing"] if stored else {})}
    settings.update({name: value for name, value in found.items() if name in names})
    return settings


def grid_affine(
    ckpt_dir: str | os.PathLike[str], spatial_shape: Sequence[int], spacing: float | Sequence[float] | None
) -> NDArray[np.float64]:
    """Return the affine of a trained model's grid: that of its training volumes, if they shared one.

    Args:
        ckpt_dir: folder of the weights.
        spatial_shape: the grid.
        spacing: its voxel size in millimetres, used where training left no affine.

    Returns:
        4x4 affine, RAS+, millimetres.
    """
    stored = (read_settings(ckpt_dir) or {}).get("grid_affine")
    return centred_affine(spatial_shape, spacing) if stored is None else np.asarray(stored, dtype=float)


def common_affine(
    affines: Iterable[Any], spatial_shape: Sequence[int], spacing: float | Sequence[float] | None
) -> NDArray[np.float64]:
    """Return the affine that all volumes share, or that of a grid centred on the origin if they don't.

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
    """Return the affine of an axis-aligned grid whose centre is the origin; a spacing of ``None`` counts as 1 mm."""
    sides = np.broadcast_to(np.asarray(1.0 if spacing is None else spacing, dtype=float), (3,))
    affine = np.diag([*sides, 1.0])
    affine[:3, 3] = -sides * (np.asarray(spatial_shape, dtype=float) - 1) / 2
    return affine


def check_outputs(result: Path, checkpoint: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Refuse to start without weights, or over an existing result, before any volume is read.

    Args:
        result: the file that says that the work was done.
        checkpoint: the weights.
        overwrite: whether an existing result may be replaced.

    Raises:
        ValueError: naming the file.
    """
    if not Path(checkpoint).is_file():
        raise ValueError(
            f"{os.fspath(checkpoint)} must be the {MODEL_FILE} of a training run, and doesn't exist: run training "
            "first, or name another with --ckpt_dir."
        )
    first = process_of_launch()[0] == 0
    if first and result.exists() and not overwrite:  # the others may come when the first has written it already
        raise ValueError(f"{result} exists. Give --overwrite True to replace it, or another folder with --output_dir.")


def load_weights(network: nn.Module, checkpoint: str | os.PathLike[str]) -> nn.Module:
    """Load a bare state dict into a network; nothing in the file is executed.

    Args:
        network: the network.
        checkpoint: the file.

    Returns:
        the network, in eval mode.

    Raises:
        ValueError: naming the file, if it can't be read or doesn't fit the network.
    """
    weights = load_weights_only(checkpoint)
    try:
        network.load_state_dict(weights)
    except Exception as error:  # what a file may hold in place of weights is more than torch expects
        reasons = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
        raise ValueError(
            f"{os.fspath(checkpoint)} doesn't fit `network_def`, which needs the settings it was trained with: "
            f"{reasons[min(1, len(reasons) - 1)]}"
        ) from error
    return network.eval()
