"""A sampler that gives the same global batches on any number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DistributedSampler

from .._checks import check_integer
from .._randomness import derived_seed


class GlobalOrder(DistributedSampler[int]):
    r"""Read a dataset in one order that all processes share: each process takes every W-th item.

    Of the order o, process r of W reads o_r, o_{r+W}, o_{r+2W}, ... With a batch of b per process, the global batch k
    is then o_{kbW}, ..., o_{(k+1)bW-1}, however b W is divided: two processes with batches of 2 train on the same
    items as one process with batches of 4. At the end, the first items are repeated until every process has the same
    number; the estimator leaves these repeats out of its validation losses.

    The sampler looks up the number and rank of the processes when items are read, because the bundle's config is built
    before Lightning starts the process group. Lightning uses the sampler unchanged and tells it the epoch.

    Args:
        dataset: the dataset.
        shuffle: whether to draw a new order in every epoch.
        seed: seed of the order, which depends only on the seed and the epoch; a resumed run therefore continues in the
            same order.

    Raises:
        ValueError: if ``seed`` isn't an integer >= 0.

    Example:
        >>> list(GlobalOrder(range(5))), len(GlobalOrder(range(5), shuffle=True, seed=3))
        ([0, 1, 2, 3, 4], 5)
    """

    def __init__(self, dataset: Any, shuffle: bool = False, seed: int = 0) -> None:
        _length(dataset)
        super().__init__(dataset, num_replicas=1, rank=0, shuffle=shuffle, seed=check_integer("seed", seed, minimum=0))
        self._left_out = 0
        self.follow_process_group()

    def follow_process_group(self) -> None:
        """Take the number and rank of the processes from the process group, if it exists by now."""
        grouped = dist.is_available() and dist.is_initialized()
        self.num_replicas = dist.get_world_size() if grouped else 1
        self.rank = dist.get_rank() if grouped else 0
        self.num_samples = -(-_length(self.dataset) // self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, and pass it on to a dataset that has a ``set_epoch`` method."""
        super().set_epoch(epoch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def start_at(self, epoch: int, n_items: int) -> None:
        """Start the next pass in the middle of an epoch: it skips this process's first items; later passes don't.

        Args:
            epoch: number of the epoch.
            n_items: number of items to skip.

        Example:
            >>> order = GlobalOrder(range(5))
            >>> order.start_at(0, 3)
            >>> list(order), list(order)
            ([3, 4], [0, 1, 2, 3, 4])
        """
        self.set_epoch(check_integer("epoch", epoch, minimum=0))
        self._left_out = check_integer("n_items", n_items, minimum=0)

    def __iter__(self) -> Iterator[int]:
        self.follow_process_group()
        n_items = _length(self.dataset)
        if self.shuffle:
            source = torch.Generator().manual_seed(derived_seed(self.seed, f"order of epoch {self.epoch}"))
            order = torch.randperm(n_items, generator=source)
        else:
            order = torch.arange(n_items)
        padded = order[torch.arange(self.total_size) % max(n_items, 1)]
        own = padded[self.rank :: self.num_replicas].tolist()
        own, self._left_out = own[self._left_out :], 0
        return iter(own)

    def __len__(self) -> int:
        self.follow_process_group()
        return self.num_samples


def _length(dataset: Any) -> int:
    if not isinstance(dataset, Sized):
        raise ValueError(f"`dataset` must have a length, got a {type(dataset).__name__}.")
    return len(dataset)
