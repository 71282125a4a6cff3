"""Reading a loader's dataset in the dataset's own order, on one process or many, so that row i is item i."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from .randomness import generator


def check_not_empty(name: str, loader: Any) -> None:
    """Raise ``ValueError`` if ``loader`` can say that it has no batch to give."""
    if loader is None or not isinstance(loader, Iterable):
        raise ValueError(f"`{name}` must be a DataLoader or another iterable of batches, got {loader!r}.")
    if _known_length(loader) == 0:
        details = ""
        if isinstance(loader, DataLoader):
            n_items = len(loader.dataset) if isinstance(loader.dataset, Sized) else "unknown"
            details = f" (dataset of {n_items} items, batch_size={loader.batch_size}, drop_last={loader.drop_last})"
        raise ValueError(f"`{name}` must give at least one batch, got an empty loader{details}.")


def _known_length(loader: Any) -> int | None:
    """Return the number of batches, ``None`` if the loader can't say: a DataLoader over a stream has a failing len."""
    try:
        return len(loader)
    except TypeError:
        return None


class OrderedRows:
    """The batches of a loader's dataset in the dataset's order, and which rows this process reads.

    A loader's sampler may shuffle, drop the last batch or, on several processes, interleave and pad; so the dataset
    is read without it: with the loader's batch size, collate function and workers, and, in a process group, each
    process one contiguous share. A loader whose dataset has no length, or that isn't a ``DataLoader``, is read as it
    comes, whole, by every process.

    Args:
        loader: a ``DataLoader``, or any iterable of batches.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.start = 0
        self.shared = False
        self._loader = loader
        if not isinstance(loader, DataLoader):
            return
        dataset = loader.dataset
        if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
            return
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            n_items, rank, world = len(dataset), dist.get_rank(), dist.get_world_size()
            self.start, stop = n_items * rank // world, n_items * (rank + 1) // world
            self.shared = True
            dataset = Subset(dataset, range(self.start, stop))
        batch_size = loader.batch_size
        if batch_size is None and loader.batch_sampler is not None:
            batch_size = getattr(loader.batch_sampler, "batch_size", 1)
        self._loader = DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=False,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            # iterating a loader draws a seed: from here, not from the caller's global generator
            generator=torch.Generator(),
        )

    def batches(self) -> Iterator[Any]:
        """Yield this process's batches, in order."""
        yield from self._loader

    def gather(self, parts: list[Tensor]) -> Tensor:
        """Concatenate this process's rows, and those of all processes in order if they share the work."""
        if self.shared:
            every: list[list[Tensor]] = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(every, parts)
            parts = [part for share in every for part in share]
        if not parts:
            raise ValueError("`test_dataloader` must give at least one batch, got none.")
        return torch.cat(parts)


def row_noise(rows: range, width: int, seed: int, stream: str) -> Tensor:
    """Return standard normal noise of shape (len(rows), width) in which each row depends on seed and row number alone.

    So neither batch size nor the number of processes changes what a volume gets.

    Example:
        >>> whole = row_noise(range(0, 4), 3, seed=0, stream="transform")
        >>> bool((row_noise(range(2, 4), 3, seed=0, stream="transform") == whole[2:]).all())
        True
    """
    return torch.stack([torch.randn(width, generator=generator(seed, f"{stream} {row}")) for row in rows])
