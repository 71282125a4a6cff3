"""Rows in the dataset's order, on one process and on two."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.data import DataLoader, IterableDataset

from monai_betavae.ordering import OrderedRows, check_not_empty, row_noise


class Numbers(IterableDataset):
    def __iter__(self):
        yield from torch.arange(5.0)


def rows_of(loader):
    rows = OrderedRows(loader)
    return rows.gather(list(rows.batches())).tolist()


def test_one_process():
    data = torch.arange(7.0)
    for loader in (DataLoader(data, 3), DataLoader(data, 3, shuffle=True), DataLoader(data, 3, drop_last=True)):
        assert rows_of(loader) == list(range(7))


def test_loaders_without_a_length_are_read_as_they_come():
    assert rows_of(DataLoader(Numbers(), batch_size=2)) == list(range(5))
    assert rows_of([torch.tensor([3.0, 1.0]), torch.tensor([2.0])]) == [3.0, 1.0, 2.0]


def test_a_batch_sampler_is_undone():
    sampler = torch.utils.data.BatchSampler([6, 5, 4, 3, 2, 1, 0], batch_size=3, drop_last=True)
    assert rows_of(DataLoader(torch.arange(7.0), batch_sampler=sampler)) == list(range(7))


def test_the_callers_generator_is_not_advanced():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    rows_of(DataLoader(torch.arange(7.0), 3, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)


def on_rank(rank, world, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    found = {n: rows_of(DataLoader(torch.arange(float(n)), 2, shuffle=True)) for n in (1, 2, 7, 12)}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_give_every_row_once_in_order(tmp_path, world):
    mp.spawn(on_rank, (world, tmp_path), nprocs=world)
    for rank in range(world):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found == {n: [float(i) for i in range(n)] for n in (1, 2, 7, 12)}


def test_noise_belongs_to_rows_not_to_batches():
    whole = row_noise(range(10), 4, 0, "transform")
    torch.testing.assert_close(
        torch.cat([row_noise(range(3), 4, 0, "transform"), row_noise(range(3, 10), 4, 0, "transform")]), whole
    )
    assert not torch.equal(row_noise(range(10), 4, 1, "transform"), whole)
    assert not torch.equal(row_noise(range(10), 4, 0, "sample"), whole)


def test_check_not_empty():
    check_not_empty("loader", DataLoader(torch.zeros(2)))
    check_not_empty("loader", Numbers())  # length unknown
    with pytest.raises(
        ValueError, match=r"`loader` must give at least one batch.*dataset of 3 items, batch_size=5, drop_last=True"
    ):
        check_not_empty("loader", DataLoader(torch.zeros(3), 5, drop_last=True))
    for bad in (None, 3):
        with pytest.raises(ValueError, match="`loader` must be a DataLoader or another iterable"):
            check_not_empty("loader", bad)
