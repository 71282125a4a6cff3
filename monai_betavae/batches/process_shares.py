"""The share of a global batch that each process holds, and the noise that its rows get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributions import Normal
from torch.utils.data import DistributedSampler


@dataclass(frozen=True)
class BatchShare:
    """What one process holds of a global batch: rows ``rank``, ``rank + n_processes``, ... of it.

    Attributes:
        rank: number of this process.
        n_processes: how many there are.
        n_own: rows here that aren't repeats; a distributed sampler repeats items until all processes have as many.
        n_global: rows of the global batch without repeats.
    """

    rank: int
    n_processes: int
    n_own: int
    n_global: int

    @property
    def weight(self) -> float:
        """What a mean over the own rows is multiplied by so that the processes' average is the whole batch's mean."""
        return self.n_own * self.n_processes / max(self.n_global, 1)


def batch_share(loader: Any, batch_idx: int, n_items: int) -> BatchShare:
    """Return which rows of the global batch a process's batch holds.

    Args:
        loader: the loader; one whose sampler is a ``DistributedSampler`` knows what it repeats.
        batch_idx: number of the batch.
        n_items: rows of this process's batch.

    Example:
        >>> batch_share(None, 0, 4)
        BatchShare(rank=0, n_processes=1, n_own=4, n_global=4)
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return BatchShare(0, 1, n_items, n_items)
    rank, n_processes = dist.get_rank(), dist.get_world_size()
    sampler, batch_size = getattr(loader, "sampler", None), getattr(loader, "batch_size", None)
    if not isinstance(sampler, DistributedSampler) or batch_size is None or sampler.drop_last:
        return BatchShare(rank, n_processes, n_items, n_items * n_processes)
    n_dataset = len(sampler.dataset)  # type: ignore[arg-type]  # a DistributedSampler's dataset has a length
    own = len(range(rank, n_dataset, n_processes)) - batch_idx * batch_size
    everyone = n_dataset - batch_idx * batch_size * n_processes
    return BatchShare(rank, n_processes, min(max(own, 0), n_items), min(max(everyone, 0), n_items * n_processes))


def shared_noise(like: Tensor, share: BatchShare) -> Tensor:
    """Return standard normal noise for a batch: this process's rows of what a single process would draw.

    Every process draws the noise of the whole global batch from its generator, which all seed alike, and takes its own
    rows. A repeated item gets the noise of an earlier row.

    Args:
        like: tensor of the wanted shape, dtype and device.
        share: which rows these are.
    """
    shape = (max(share.n_global, 1), *like.shape[1:])
    zeros = torch.zeros(shape, dtype=like.dtype, device=like.device)
    noise = torch.normal(zeros, torch.ones_like(zeros))
    rows = torch.arange(share.rank, share.rank + share.n_processes * len(like), share.n_processes, device=like.device)
    return noise[rows % len(noise)]


def draw_codes(q: Normal, share: BatchShare | None) -> Tensor:
    """Draw a code per image from the posterior; on several processes, with the noise that a single one would draw."""
    if share is None or share.n_processes == 1:
        return q.rsample()
    z: Tensor = q.mean + q.scale * shared_noise(q.mean, share)
    return z
