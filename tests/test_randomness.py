"""Streams follow from one seed and leave others alone."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_betavae._randomness import derived_seed, generator, seeded


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002 -- the global state is meant


def test_seeded_gives_the_same_numbers_and_restores_all_three_states():
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    expected = draw()
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    with seeded(5):
        first = draw()

    def fail():
        with seeded(5):
            assert draw() == first
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert draw() == expected


def test_none_runs_on_the_callers_generators():
    torch.manual_seed(0)
    with seeded(None):
        first = torch.rand(())
    torch.manual_seed(0)
    assert torch.equal(torch.rand(()), first)
    assert generator(None, "sample") is None


@given(st.integers(0, 2**32 - 1), st.text(), st.text())
def test_derived_seeds(seed, one, other):
    assert 0 <= derived_seed(seed, one) < 2**63
    assert (derived_seed(seed, one) == derived_seed(seed, other)) == (one == other)
    assert derived_seed(seed, one) != derived_seed(seed + 1, one)
