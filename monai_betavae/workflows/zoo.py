"""The bundle in the form of MONAI's model zoo: one trained model, its configs in ``configs/``."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..bundle import bundle_root, config_file
from .trained_model import MODEL_FILE, SETTINGS_FILE, network_arguments, read_settings

METADATA, LOGGING = "metadata.json", "logging.conf"


def write_zoo_bundle(
    output_dir: str | os.PathLike[str], ckpt_dir: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> Path:
    """Write a trained model as a bundle of the model zoo's form, which ``monai.bundle.load`` and the zoo's checks read.

    ``configs/`` holds the bundle's configs, metadata.json and logging.conf; ``models/`` model.pt and model.json; beside
    them ``docs/README.md``, ``scripts/`` and ``LICENSE``. The configs are the flat bundle's but for the settings of the
    model, which stand there as values: a zoo bundle is one model, and its consumers build ``network_def`` without
    looking at model.json. The image shape in metadata.json is the model's.

    Args:
        output_dir: the folder to make; it may exist if it is empty. It appears when everything is written.
        ckpt_dir: folder of the trained model.
        root: the flat bundle; default: :func:`~monai_betavae.bundle_root`.

    Returns:
        ``output_dir`` as a path.

    Raises:
        ValueError: if there is no trained model, or if ``output_dir`` holds files.
    """
    root = bundle_root() if root is None else Path(root)
    models = Path(ckpt_dir)
    target = Path(output_dir).resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(
            f"`output_dir` must be a new or an empty folder, got {os.fspath(output_dir)}, which holds files."
        )
    stored = read_settings(models)
    if stored is None or not (models / MODEL_FILE).is_file():
        raise ValueError(
            f"`ckpt_dir` must hold the {MODEL_FILE} and {SETTINGS_FILE} of a training run, got {models}: run training "
            "first."
        )
    if stored["network"] is None:
        raise ValueError(f"{models / SETTINGS_FILE} must describe a network of build_network, got one of your own.")
    settings = {**network_arguments(stored), **stored["preprocessing"]}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-building-", dir=target.parent) as holder:
        folder = Path(holder) / target.name  # one level down: the folder of tempfile is private
        (folder / "configs").mkdir(parents=True)
        (folder / "models").mkdir()
        for path in sorted(config_file(root, METADATA).parent.glob("*.json")):
            content = json.loads(path.read_text(encoding="utf-8"))
            made = zoo_metadata(content, settings) if path.name == METADATA else zoo_config(content, settings)
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


def zoo_config(config: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return a config with the settings of a trained model as values.

    Args:
        config: a config of the flat bundle.
        settings: of the model: the arguments of its network and of its preprocessing.

    Example:
        >>> zoo_config({"trained": "$...", "latent_dim": "$@trained['latent_dim']", "beta": 1.0}, {"latent_dim": 8})
        {'latent_dim': 8, 'beta': 1.0}
    """
    network: dict[str, Any] = config.get("network_def", {})
    names = {name for name, value in network.items() if value == f"@{name}"} | {"spacing"}
    names |= {name for name, value in config.items() if isinstance(value, str) and value.startswith("$@trained[")}
    return {
        name: settings[name] if name in names and name in settings else value
        for name, value in config.items()
        if name != "trained"
    }


def zoo_metadata(metadata: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return metadata.json with the image shape of a trained model.

    Args:
        metadata: that of the flat bundle.
        settings: of the model, with "spatial_shape" and "in_channels".
    """
    made: dict[str, Any] = json.loads(json.dumps(metadata))
    for side in ("inputs", "outputs"):
        for entry in made["network_data_format"][side].values():
            entry["spatial_shape"] = list(settings["spatial_shape"])
            entry["num_channels"] = settings.get("in_channels", entry["num_channels"])
    return made
