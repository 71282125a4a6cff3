"""The order of an epoch and the noise of a step follow from the seed and their numbers."""

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler

from monai_betavae._randomness import derived_seed, generator
from monai_betavae.training.step_seeds import EpochOrder, order_by_epoch

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
