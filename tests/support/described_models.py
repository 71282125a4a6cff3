"""The files of a trained model, without a training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_betavae.data import brain_transforms
from monai_betavae.workflows.model_description import write_description
from monai_betavae.workflows.model_grid import centred_affine

NORMAL = {"distribution": "normal", "beta": 1.0}


def write_model(
    folder: Path, network: nn.Module, spatial_shape: Sequence[int], spacing: float | None = None, **changes: Any
) -> Path:
    """Write model.pt and model.json of a network as training does, and return the folder.

    Args:
        folder: made if it isn't there.
        network: whose weights these are.
        spatial_shape: of the volumes; the brain transforms' description is written where there are three sides.
        spacing: of the same.
        changes: other values of :func:`~monai_betavae.workflows.trained_model.write_description`.
    """
    three = len(spatial_shape) == 3
    affine = centred_affine(spatial_shape, spacing) if three else np.eye(4)
    given: dict[str, Any] = {
        "preprocessing": brain_transforms(spatial_shape, spacing).description if three else {"transforms": []},
        "likelihood": NORMAL,
        "grid": {"spatial_shape": list(spatial_shape), "spacing": None, "affine": affine.tolist()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_description(folder / "model.json", network=network, **{**given, **changes})
    torch.save(network.state_dict(), folder / "model.pt")
    return folder
