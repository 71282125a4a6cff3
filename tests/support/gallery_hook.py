"""The hook that executes the tutorials, docs/hooks/gallery.py, as a module."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location(
    "executed_gallery", Path(__file__).parents[2] / "docs" / "hooks" / "gallery.py"
)
gallery = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gallery)

needs_jupyter = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("jupytext", "nbclient", "nbconvert", "ipykernel")),
    reason="needs the extra gallery",
)
