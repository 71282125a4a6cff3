"""Where the bundle lives, and where its runs are written."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "MONAI_BETAVAE_HOME"
"""Environment variable that moves everything a run writes by default."""


def bundle_root() -> Path:
    """Return the folder of the MONAI Bundle: ``bundles/vae`` of the checkout, or its copy in the installed package.

    Raises:
        FileNotFoundError: if the installation lacks it.

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


def run_root() -> Path:
    """Return the folder under which the bundle's configs put data, weights and results by default.

    It doesn't depend on the working directory: ``$MONAI_BETAVAE_HOME`` if that is set; in a checkout the bundle's own
    folder; for an installed package, which must not write into site-packages, ``~/monai_betavae/vae``.
    """
    if os.environ.get(HOME_VARIABLE):
        return Path(os.environ[HOME_VARIABLE]).expanduser().resolve()
    root = bundle_root()
    installed = root.is_relative_to(Path(__file__).resolve().parent)
    return Path.home() / "monai_betavae" / "vae" if installed else root
