"""Folder of the bundle, the config that is running, and the folder of its runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

HOME_VARIABLE = "MONAI_BETAVAE_HOME"
"""Environment variable with the default folder of everything that runs write."""


def bundle_root() -> Path:
    """Return the folder of the MONAI Bundle: ``bundles/vae`` of the checkout, or its copy in the installed package.

    Raises:
        FileNotFoundError: if the installation lacks the bundle.

    Example:
        >>> (bundle_root() / "train.json").is_file()
        True
    """
    package = Path(__file__).resolve().parent
    candidates = [package / "bundles" / "vae", package.parent / "bundles" / "vae"]
    for folder in candidates:
        if (folder / "metadata.json").is_file():
            return folder
    raise FileNotFoundError(f"The bundle is in none of {', '.join(map(str, candidates))}; reinstall monai-betavae.")


def running_bundle_root() -> Path:
    """Return the folder of the bundle whose config is being evaluated, or :func:`bundle_root` if there is none.

    A config doesn't know its own path, and the usual ``"bundle_root": "."`` is the user's working directory. So the
    config is found among the callers. A copy of the bundle, flat or in the layout of the model zoo (configs in
    ``configs/``), then finds its own weights and writes into its own folder.

    Example:
        >>> running_bundle_root() == bundle_root()
        True
    """
    for frame in _callers():
        attributes = _attributes(frame)
        if "config_root_path" in attributes:
            folder = Path(attributes["config_root_path"])
        elif frame.f_globals.get("__name__") == "monai.bundle.scripts" and frame.f_locals.get("config_file_"):
            # ckpt_export and similar commands evaluate a config without a workflow
            files = frame.f_locals["config_file_"]
            folder = Path(files if isinstance(files, str) else files[0]).parent
        else:
            continue
        folder = folder.resolve()
        if (folder / "metadata.json").is_file():
            return folder.parent if folder.name == "configs" else folder
    return bundle_root()


def config_file(root: str | os.PathLike[str], name: str) -> Path:
    """Return the path of a config of a bundle: in ``configs/``, as in the model zoo, or directly in its folder.

    Args:
        root: folder of the bundle.
        name: name of the file.

    Example:
        >>> config_file(bundle_root(), "train.json").name
        'train.json'
    """
    folder = Path(root) / "configs"
    return (folder if folder.is_dir() else Path(root)) / name


def running_parser() -> Any:
    """Return MONAI's ``ConfigParser`` of the config that is being evaluated, or ``None`` if there is none.

    It is found among the callers, since MONAI's ``$`` expressions can't refer to it.
    """
    for frame in _callers():
        attributes = _attributes(frame)
        if "ref_resolver" in attributes and isinstance(attributes.get("config"), dict):
            return frame.f_locals["self"]
    return None


def running_config() -> dict[str, Any] | None:
    """Return the unresolved config that is being evaluated, with overrides, or ``None`` if there is none."""
    parser = running_parser()
    config: dict[str, Any] | None = None if parser is None else parser.config
    return config


def _callers() -> Iterator[FrameType]:
    """Yield the frames of the callers, the nearest one first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _attributes(frame: FrameType) -> dict[str, Any]:
    """Return the attributes of the object whose method is being called.

    ``config_root_path`` identifies a ``ConfigWorkflow``, ``ref_resolver`` a ``ConfigParser``. They are read from
    ``__dict__``, because a parser looks up any other attribute as an id of its config.
    """
    return getattr(frame.f_locals.get("self"), "__dict__", {})


def run_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the default folder for the data, weights and results of the bundle's configs.

    It doesn't depend on the working directory. In order of priority it is: ``root``, if it differs from the folder of
    the running config; ``$MONAI_BETAVAE_HOME``, if set; ``~/monai_betavae/vae`` for the copy in an installed package,
    which must not write into site-packages; or the folder of the bundle.

    Args:
        root: folder of the bundle; default: :func:`running_bundle_root`.
    """
    named = root is not None and Path(root).resolve() != running_bundle_root().resolve()
    if os.environ.get(HOME_VARIABLE) and not named:
        return Path(os.environ[HOME_VARIABLE]).expanduser().resolve()
    folder = running_bundle_root() if root is None else Path(root).resolve()
    installed = folder.is_relative_to(Path(__file__).resolve().parent)
    return Path.home() / "monai_betavae" / "vae" if installed else folder
