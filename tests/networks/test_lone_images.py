"""Which batch is of one image, and which layer can't be trained on it."""

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from monai_betavae.networks.lone_images import check_lone_images, lone_batch, lone_layer, naming_lone_values


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1)


@pytest.mark.parametrize("n_items", range(1, 12))
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_the_batch_of_one_image_is_the_one_that_comes(n_items, batch_size):
    loader = DataLoader(list(range(n_items)), batch_size=batch_size)
    lone = [number for number, batch in enumerate(loader) if len(batch) == 1]
    found = lone_batch(loader)
    assert found == (lone[-1] if lone else None)
    assert lone_batch(DataLoader(list(range(n_items)), batch_size=batch_size, drop_last=True)) is None


def test_what_is_not_known():
    own = BatchSampler(SequentialSampler(range(7)), 3, drop_last=False)

    class Mine(BatchSampler):
        pass

    assert lone_batch(DataLoader(range(7), batch_sampler=own)) is None  # the loader has no batch size then
    assert lone_batch(DataLoader(range(7), batch_sampler=Mine(SequentialSampler(range(7)), 3, drop_last=False))) is None
    assert lone_batch(DataLoader(Endless(), batch_size=3)) is None
    assert lone_batch(DataLoader(range(7), batch_size=None)) is None
    assert lone_batch([torch.zeros(3, 1), torch.zeros(1, 1)]) is None
    # of 13 images each of two processes gets 7, as a distributed sampler fills up
    assert lone_batch(DataLoader(range(13), batch_size=3), n_processes=2) == 2


def test_the_layer_with_one_value_per_channel():
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2), nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3))

    def run():
        with torch.no_grad():
            network.eval()(torch.zeros(1, 1, 4, 4, 4))
        network.train()

    means = network[1].running_mean.clone()
    assert lone_layer(network, run) == "3"
    assert torch.equal(network[1].running_mean, means)
    network[3].eval()
    assert lone_layer(network, run) is None
    network.train()
    assert lone_layer(network, lambda: network(torch.zeros(2))) is None  # what can't be run isn't known
    assert not any(layer._forward_pre_hooks for layer in network)
    with pytest.raises(ValueError, match=r"training batch 2 is of one image \(7 in batches of 3\), .* `3`"):
        check_lone_images(network, DataLoader(range(7), batch_size=3), 1, run)
    check_lone_images(network, DataLoader(range(6), batch_size=3), 1, run)


def test_other_errors_stay_as_they_are():
    def other():
        with naming_lone_values("batch 1"):
            raise ValueError("something else")

    with pytest.raises(ValueError, match=r"^something else$"):
        other()
