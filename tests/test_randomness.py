"""Streams follow from one seed and leave others alone."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler

from monai_betavae._randomness import EpochOrder, derived_seed, generator, order_by_epoch, seeded


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


SAMPLERS = {
    "sequential": lambda: SequentialSampler(range(9)),
    "random": lambda: RandomSampler(range(9)),
    "with replacement": lambda: RandomSampler(range(9), replacement=True, num_samples=5),
    "subset": lambda: SubsetRandomSampler(range(3, 9)),
    "weighted": lambda: WeightedRandomSampler(torch.arange(1.0, 10), 7),
}


@pytest.mark.parametrize("kind", SAMPLERS)
def test_an_order_by_epoch_is_that_of_its_sampler_with_a_generator(kind):
    torch.manual_seed(1)
    orders = []
    for epoch in (0, 3, 0):
        order = EpochOrder(SAMPLERS[kind](), seed=4)
        order.set_epoch(epoch)
        torch.rand(epoch + 1)  # whatever was drawn before
        orders.append(list(order))
        drawn = float(torch.rand(()))
        torch.manual_seed(derived_seed(4, f"epoch {epoch}"))
        assert drawn == float(torch.rand(()))
        sampler = SAMPLERS[kind]()
        sampler.generator = generator(4, f"order of epoch {epoch}")
        assert orders[-1] == list(sampler)
        assert len(order) == len(sampler)
    assert orders[0] == orders[2]
    assert (orders[0] == orders[1]) == (kind == "sequential")


def test_a_loader_gets_its_own_order_back():
    loader = DataLoader(list(range(9)), batch_size=2, shuffle=True)
    sampler = loader.batch_sampler.sampler
    with order_by_epoch(loader, 0):
        assert isinstance(loader.batch_sampler.sampler, EpochOrder)
    assert loader.batch_sampler.sampler is sampler

    def fail():
        with order_by_epoch(loader, 0):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert loader.batch_sampler.sampler is sampler


def test_orders_that_are_left_as_they_are():
    own = DataLoader(list(range(9)), batch_size=2, shuffle=True, generator=torch.Generator())
    single = DataLoader(list(range(9)), batch_size=None)
    plain = DataLoader(list(range(9)), batch_size=2, shuffle=True)
    for loader, seed in ((own, 0), (single, 0), (plain, None), ([1, 2], 0)):
        before = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
        with order_by_epoch(loader, seed):
            assert getattr(getattr(loader, "batch_sampler", None), "sampler", None) is before
