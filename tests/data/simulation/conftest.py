import pytest

from monai_betavae.data.simulation.anatomy import load_anatomy
from monai_betavae.data.simulation.cortex import load_folded_anatomy

FOLDED_SPACING = 6.0


@pytest.fixture(scope="session")
def warped_anatomy():
    """The anatomy at 6 mm, which takes several seconds to prepare."""
    return load_anatomy(6.0)


@pytest.fixture(scope="session")
def folded_anatomy():
    """The folded anatomy at 6 mm, which takes a quarter of a minute to prepare."""
    return load_folded_anatomy(FOLDED_SPACING)
