"""Export of a trained network as a ``torch.export`` program, which runs without this package."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import torch

from ..networks.conditional_mean import n_covariates_of
from ..saving.atomic_files import atomic_path
from .model_description import MODEL_FILE, SETTINGS_FILE, read_description
from .trained_model import load_weights, trained_network


def export_program(filepath: str | os.PathLike[str], ckpt_dir: str | os.PathLike[str]) -> tuple[Path, float]:
    """Write the trained network as a ``torch.export`` program (``.pt2``) for any batch size, and test it.

    ``torch.export.load(filepath).module()`` maps images of shape (batch, 1, *spatial_shape) to reconstructions. Of a
    conditional model it takes the coded covariates as its second argument.

    Args:
        filepath: new file with the suffix ``.pt2``.
        ckpt_dir: folder of the trained model.

    Returns:
        the file, and the largest difference between its output and the network's on random images.

    Raises:
        ValueError: if ``filepath`` has another suffix or exists, or if there is no trained model.

    Source:
        https://docs.pytorch.org/docs/stable/export.html
    """
    path = Path(filepath)
    if path.suffix != ".pt2" or path.exists():
        raise ValueError(f"`filepath` must be a new file with the suffix .pt2, got {os.fspath(filepath)}.")
    models = Path(ckpt_dir)
    stored = read_description(models)
    if stored is None:
        raise ValueError(
            f"`ckpt_dir` must hold the {SETTINGS_FILE} of a training run, got {models}: run training first."
        )
    network = load_weights(trained_network(models), models / MODEL_FILE)
    shape = (stored["network"]["arguments"].get("in_channels", 1), *stored["grid"]["spatial_shape"])
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))  # a batch of 1 would count as constant
    n_covariates, batch = n_covariates_of(network), torch.export.Dim("batch")
    inputs: tuple[torch.Tensor, ...] = (images,)
    shapes: dict[str, Any] = {"image": {0: batch}, "covariates": None}
    if n_covariates:
        inputs = images, torch.rand(2, n_covariates, generator=torch.Generator().manual_seed(1))
        shapes["covariates"] = {0: batch}
    with torch.no_grad():
        program = torch.export.export(network, inputs, dynamic_shapes=_named(network, shapes, len(inputs)))
        with atomic_path(path) as temporary:
            torch.export.save(program, temporary)
        written = torch.export.load(path).module()
        three = [torch.cat([each, each[:1]]) for each in inputs]
        difference = float((written(*three) - network(*three)).abs().max())
    return path, difference


def _named(network: torch.nn.Module, shapes: dict[str, Any], n_inputs: int) -> dict[str, Any]:
    """Return the shapes of the first arguments of a network's ``forward``, by its own names."""
    names = list(inspect.signature(network.forward).parameters)[:n_inputs]
    return dict(zip(names, list(shapes.values())[:n_inputs], strict=True))
