"""The bundle in the layout of MONAI's model zoo: one trained model with its configs in ``configs/``."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bundle import bundle_root, config_file
from ..data.transforms.transform_description import transforms_config
from ..losses import BetaVAELoss
from ..objectives import objective_from_description
from ..saving.descriptions import BUILDERS, name_of
from .model_description import MODEL_FILE, SETTINGS_FILE, contrasts_of, read_description
from .trained_model import network_arguments

METADATA, LOGGING = "metadata.json", "logging.conf"


def write_zoo_bundle(
    output_dir: str | os.PathLike[str], ckpt_dir: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> Path:
    """Write a trained model as a bundle in the model zoo's layout, for ``monai.bundle.load`` and the zoo's checks.

    ``configs/`` contains the bundle's configs, metadata.json and logging.conf; ``models/`` contains model.pt and
    model.json. ``docs/README.md``, ``scripts/`` and ``LICENSE`` are next to them. The configs are those of the flat
    bundle, but with the values of the model's network, transforms, likelihood and coding of covariates, since a zoo
    bundle is one model and its users read them there. Its weights are those in ``models/``, whatever
    ``MONAI_BETAVAE_HOME`` is. The image shape in metadata.json is that of the model.

    Args:
        output_dir: the folder to create; an empty one may exist. It appears once everything is written.
        ckpt_dir: folder of the trained model.
        root: folder of the flat bundle; default: :func:`~monai_betavae.bundle_root`.

    Returns:
        ``output_dir`` as a path.

    Raises:
        ValueError: if there is no trained model, a part of it is the user's own, or ``output_dir`` holds files.
    """
    root = bundle_root() if root is None else Path(root)
    models = Path(ckpt_dir)
    target = Path(output_dir).resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(
            f"`output_dir` must be a new or an empty folder, got {os.fspath(output_dir)}, which holds files."
        )
    stored = read_description(models)
    if stored is None or not (models / MODEL_FILE).is_file():
        raise ValueError(
            f"`ckpt_dir` must hold the {MODEL_FILE} and {SETTINGS_FILE} of a training run, got {models}: run training "
            "first."
        )
    for part in ("network", "preprocessing"):
        if "own" in stored[part]:
            raise ValueError(
                f"{models / SETTINGS_FILE} must describe the model's {part}, got one of your own, "
                f"{stored[part]['own']}: a zoo bundle holds no code."
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-building-", dir=target.parent) as holder:
        folder = Path(holder) / target.name  # one level down, since tempfile creates private folders
        (folder / "configs").mkdir(parents=True)
        (folder / "models").mkdir()
        for path in sorted(config_file(root, METADATA).parent.glob("*.json")):
            content = json.loads(path.read_text(encoding="utf-8"))
            made = zoo_metadata(content, stored) if path.name == METADATA else zoo_config(content, stored)
            (folder / "configs" / path.name).write_text(json.dumps(made, indent=4) + "\n", encoding="utf-8")
        shutil.copyfile(config_file(root, LOGGING), folder / "configs" / LOGGING)
        for name in (MODEL_FILE, SETTINGS_FILE):
            shutil.copyfile(models / name, folder / "models" / name)
        for name in ("docs", "scripts"):
            shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(root / "LICENSE", folder / "LICENSE")
        if target.exists():
            target.rmdir()
        folder.rename(target)
    return Path(output_dir)


def zoo_config(config: dict[str, Any], description: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with the values of a trained model's network, transforms, likelihood and covariates.

    Args:
        config: a config of the flat bundle.
        description: description of the model; see :mod:`~.trained_model`.

    Example:
        >>> network = {"builder": "build_network", "arguments": {"latent_dim": 8}}
        >>> described = {"network": network, "preprocessing": {"transforms": []}, "likelihood": None}
        >>> zoo_config({"network_def": {"_target_": "..."}, "batch_size": 4}, described)
        {'network_def': {'_target_': 'monai_betavae.networks.builders.build_network', 'latent_dim': 8}, 'batch_size': 4}
    """
    network, made = description["network"], dict(config)
    values: dict[str, Any] = {
        "network_def": {"_target_": _path_of(network["builder"]), **network["arguments"]},
        "preprocessing": transforms_config(description["preprocessing"]),
    }
    likelihood = description["likelihood"]
    if likelihood is not None and "own" not in likelihood:
        values["likelihood"] = dict(likelihood)
    contrasts = contrasts_of(description)
    told = (description.get("trained_on") or {}).get("told") or {}
    if contrasts is not None and "trainer" in made.get("train", {}):
        made.update({name: told[name] for name in ("suffix", "image_column") if isinstance(told.get(name), list)})
    covariates = description.get("covariates")
    if "trainer" in made.get("train", {}):
        # training measures its coding on its own volumes
        if covariates is not None and "covariates" in made:
            made["covariates"] = [entry["name"] for entry in covariates["covariates"]]
    else:
        coding = {"_target_": "monai_betavae.data.CovariateCoding.from_description", "description": covariates}
        values["covariate_coding"] = None if covariates is None else coding
        values["contrasts"] = contrasts
    made.update({name: value for name, value in values.items() if name in made})
    if "trainer" in made.get("train", {}):
        # further training from this bundle starts with the model's settings
        made["train"] = {**made["train"], "preprocessing": values["preprocessing"]}
        if likelihood is not None and "beta" in likelihood and "loss" in made:
            made["beta"] = likelihood["beta"]
            made["loss"] = {**made["loss"], "default_dist": likelihood["distribution"]}
            objective = description.get("objective")
            if objective is not None:
                kind = objective_from_description(objective)
                made["beta"] = kind.beta
                made["loss"] = {"_target_": name_of(type(kind)), **objective["arguments"], "beta": "@beta"}
                if type(kind) is BetaVAELoss:
                    made["loss"]["_target_"] = "monai_betavae.BetaVAELoss"
        # an id that no part reads any more would silently ignore an override; without the id, the override is refused
        text = json.dumps(made)
        unread = [
            name
            for name in (*network["arguments"], "spatial_shape", "spacing")
            if name in made and f'"@{name}"' not in text
        ]
        made = {name: value for name, value in made.items() if name not in unread}
    elif "ckpt_dir" in made:
        made["ckpt_dir"] = "$@bundle_root + '/models'"
    return made


def _path_of(builder: str) -> str:
    """Return the import path of a registered builder."""
    made = inspect.unwrap(BUILDERS[builder])
    return f"{made.__module__}.{made.__qualname__}"


def zoo_metadata(metadata: dict[str, Any], description: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata.json with the image shape and the channels of a trained model.

    Args:
        metadata: content of the flat bundle's metadata.json.
        description: description of the model.
    """
    made: dict[str, Any] = json.loads(json.dumps(metadata))
    for side in ("inputs", "outputs"):
        for entry in made["network_data_format"][side].values():
            entry["spatial_shape"] = list(description["grid"]["spatial_shape"])
            entry["num_channels"] = network_arguments(description).get("in_channels", entry["num_channels"])
    contrasts = contrasts_of(description)
    if contrasts is not None:
        for side, what in (("inputs", "image"), ("outputs", "reconstruction")):
            for entry in made["network_data_format"][side].values():
                entry["channel_def"] = {str(number): f"{name} {what}" for number, name in enumerate(contrasts)}
        named = ", ".join(contrasts)
        made["image_classes"] = f"channels {named} of one brain, on one grid, each scaled to [0, 1]"
        made["pred_classes"] = f"reconstructions of the channels {named}, in [0, 1] up to the decoder's error"
    return made
