"""The files of a trained model, without a training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_betavae.data import brain_transforms
from monai_betavae.networks import build_network
from monai_betavae.workflows.model_description import write_description
from monai_betavae.workflows.model_grid import centred_affine

NORMAL = {"distribution": "normal", "beta": 1.0}
SHAPE = (8, 10, 12)
ARGUMENTS = {"latent_dim": 3, "channels": (4, 8), "random_state": 0}
SPLIT = {
    "training": [{"image": f"/data/{name}.nii.gz", "subject": name[0]} for name in ("a1", "a2", "b1")],
    "validation": [{"image": "/data/c1.nii.gz", "subject": "c"}],
    "test": [{"image": "/data/d1.nii.gz", "subject": "d"}],
}


def network_of(**changes: Any) -> nn.Module:
    """Build a small network for volumes of :data:`SHAPE`."""
    return build_network(SHAPE, **{**ARGUMENTS, **changes})


def changed(folder: Path, *path: str, to: Any) -> None:
    """Change one value of a model's description."""
    content = json.loads((folder / "model.json").read_text())
    place = content
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = to
    (folder / "model.json").write_text(json.dumps(content))


def write_model(
    folder: Path, network: nn.Module, spatial_shape: Sequence[int], spacing: float | None = None, **changes: Any
) -> Path:
    """Write model.pt and model.json of a network as training does, and return the folder.

    Args:
        folder: made if it isn't there.
        network: whose weights these are.
        spatial_shape: of the volumes; the brain transforms' description is written where there are three sides.
        spacing: of the same.
        changes: other values of :func:`~monai_betavae.workflows.model_description.write_description`.
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
