"""One order for all processes, and the same global batches however they share it."""

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from monai_betavae.data import GlobalOrder


def test_in_order_and_shuffled():
    assert list(GlobalOrder(range(5))) == [0, 1, 2, 3, 4]
    sampler = GlobalOrder(range(50), shuffle=True, seed=3)
    first = list(sampler)
    assert sorted(first) == list(range(50))
    assert first != list(range(50))
    assert list(sampler) == first  # the epoch decides, not how often it was read
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(GlobalOrder(range(50), shuffle=True, seed=4)) != first
    assert list(GlobalOrder(range(50), shuffle=True, seed=3)) == first


def test_the_global_seed_changes_nothing():
    torch.manual_seed(0)
    first = list(GlobalOrder(range(20), shuffle=True, seed=1))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert list(GlobalOrder(range(20), shuffle=True, seed=1)) == first
    assert torch.equal(torch.get_rng_state(), before)


@given(n_items=st.integers(1, 30), epoch=st.integers(0, 5), done=st.integers(0, 40))
def test_it_begins_once_in_the_middle_of_an_epoch(n_items, epoch, done):
    whole = GlobalOrder(range(n_items), shuffle=True, seed=2)
    whole.set_epoch(epoch)
    expected = list(whole)
    sampler = GlobalOrder(range(n_items), shuffle=True, seed=2)
    sampler.start_at(epoch, done)
    assert len(sampler) == n_items  # a loader's length, by which Lightning knows the last batch
    assert list(sampler) == expected[done:]
    assert list(sampler) == expected
    with pytest.raises(ValueError, match="`n_items`"):
        sampler.start_at(epoch, -1)


@given(n_items=st.integers(1, 40), world=st.integers(1, 5), local=st.integers(1, 4))
def test_every_division_gives_the_same_global_batches(n_items, world, local):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "is_initialized", lambda: True)
        patch.setattr(dist, "get_world_size", lambda: world)
        shares = []
        for rank in range(world):
            patch.setattr(dist, "get_rank", lambda rank=rank: rank)
            sampler = GlobalOrder(range(n_items), shuffle=True, seed=5)
            shares.append(list(DataLoader(range(n_items), batch_size=local, sampler=sampler)))
            assert len(sampler) == -(-n_items // world)
    whole = list(GlobalOrder(range(n_items), shuffle=True, seed=5))
    assert len({len(share) for share in shares}) == 1  # as many steps everywhere: nobody waits for ever
    dealt = []
    for batches in zip(*shares, strict=True):
        for row in range(max(map(len, batches))):
            dealt += [int(batch[row]) for batch in batches if row < len(batch)]
    assert dealt[:n_items] == whole
    assert dealt[n_items:] == [whole[index % n_items] for index in range(len(dealt) - n_items)]


def test_it_follows_a_group_that_starts_later(group):
    sampler = GlobalOrder(range(7))
    assert (len(sampler), sampler.num_replicas) == (7, 1)
    group(1, 2)
    assert list(sampler) == [1, 3, 5, 0]
    assert (len(sampler), sampler.rank, sampler.num_replicas, sampler.total_size) == (4, 1, 2, 8)


def test_lightning_leaves_it_alone():
    assert isinstance(GlobalOrder(range(3)), torch.utils.data.DistributedSampler)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`seed` must be an integer >= 0, got -1"):
        GlobalOrder(range(3), seed=-1)
    with pytest.raises(ValueError, match="`dataset` must have a length, got a generator"):
        GlobalOrder(x for x in range(3))
