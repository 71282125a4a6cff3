"""Names of the package, which are imported when they are first used."""

import importlib
import subprocess
import sys
from types import ModuleType

import pytest

import monai_betavae


@pytest.mark.parametrize("name", monai_betavae.__all__)
def test_a_public_name_is_what_its_module_has(name):
    value = getattr(monai_betavae, name)
    if isinstance(value, ModuleType):
        assert value is importlib.import_module(f"monai_betavae.{name}")
    else:
        assert value is getattr(importlib.import_module(value.__module__), name)
        assert value.__module__.startswith("monai_betavae.")
    assert name in dir(monai_betavae)
    assert getattr(monai_betavae, name) is value


def test_a_module_needs_no_import_of_its_own():
    code = "import sys, monai_betavae; assert 'torch' not in sys.modules; print(monai_betavae.plots.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "monai_betavae.plots\n"


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'monai_betavae' has no attribute 'VAEE'"):
        monai_betavae.VAEE  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'BetaVAE'"):
        from monai_betavae import BetaVAE  # noqa: F401
