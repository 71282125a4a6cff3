"""The order of rows on one process or many: a dataset in its own order, and the shares of a global batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributions import Normal
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Subset

from .._randomness import generator
from .images import check_images, image_tensor, item_names


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


class ImageBatch(NamedTuple):
    """One batch of a loader: what the loader gave, its images, and which rows of the dataset they are.

    Attributes:
        content: the batch as the loader gave it.
        images: its images, a plain tensor of shape (batch, channel, ...).
        rows: the numbers of their rows.
        number: the number of the batch.
    """

    content: Any
    images: Tensor
    rows: range
    number: int


def check_batch(batch: Any, images: Tensor, where: str) -> None:
    """Raise ``ValueError`` naming the items of a batch whose images can't be used."""
    check_images(images, where, item_names(batch))


class OrderedRows:
    """The batches of a loader's dataset in the dataset's order, and which rows this process reads.

    A loader's sampler may shuffle, drop the last batch or, on several processes, interleave and pad; so the dataset
    is read without it: with the loader's batch size, collate function and workers, and, in a process group, each
    process one contiguous share. Shares are whole batches, those that one process alone would read: rows are then the
    same to the last bit, since the digits of a matrix product depend on how many rows it has. A loader that doesn't
    batch (``batch_size=None``), whose dataset has no length, or that isn't a ``DataLoader``, is read as it comes,
    whole, by every process.

    Attributes:
        start: number of this process's first row.
        first_batch: number of its first batch.
        shared: whether the processes share the work.

    Args:
        loader: a ``DataLoader``, or any iterable of batches.
        share: whether the processes of a group share the work; if not, this one reads everything.
    """

    def __init__(self, loader: Iterable[Any], *, share: bool = True) -> None:
        self.start = 0
        self.first_batch = 0
        self.shared = False
        self._loader = loader
        if not isinstance(loader, DataLoader):
            return
        dataset = loader.dataset
        if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
            return
        batch_size = loader.batch_size
        if batch_size is None and loader.batch_sampler is not None:
            batch_size = getattr(loader.batch_sampler, "batch_size", 1)
        grouped = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        # how many rows an item has that is a batch itself isn't known before it is read
        if share and grouped and batch_size is not None:
            rank, world = dist.get_rank(), dist.get_world_size()
            total = -(-len(dataset) // batch_size)
            self.first_batch, end = total * rank // world, total * (rank + 1) // world
            self.start = self.first_batch * batch_size
            self.shared = True
            dataset = Subset(dataset, range(self.start, min(end * batch_size, len(dataset))))
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

    @property
    def n_batches(self) -> int | None:
        """How many batches this process reads; ``None`` for a loader that can't say."""
        return _known_length(self._loader)

    def batches(self) -> Iterator[Any]:
        """Yield this process's batches, in order."""
        yield from self._loader

    def image_batches(
        self, image_key: str = "image", check: Callable[[Any, Tensor, str], None] | None = check_batch
    ) -> Iterator[ImageBatch]:
        """Yield this process's batches in order, with their images and the rows that these are.

        Args:
            image_key: key of the images in dictionary batches.
            check: called with the batch, its images and its name, before it is given; ``None`` for no check.

        Raises:
            ValueError: for a batch without images, or one that the check refuses.

        Example:
            >>> loader = DataLoader([{"image": torch.full((1, 2), float(i))} for i in range(3)], 2, shuffle=True)
            >>> [(batch.rows, batch.images[:, 0, 0].tolist()) for batch in OrderedRows(loader).image_batches()]
            [(range(0, 2), [0.0, 1.0]), (range(2, 3), [2.0])]
        """
        row = self.start
        for number, content in enumerate(self.batches(), self.first_batch):
            images = image_tensor(content, image_key)
            if check is not None:
                check(content, images, f"batch {number}")
            yield ImageBatch(content, images, range(row, row + len(images)), number)
            row += len(images)

    def gather(self, parts: list[Tensor]) -> Tensor:
        """Concatenate this process's rows, and those of all processes in order if they share the work."""
        if self.shared:
            every: list[list[Tensor]] = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(every, parts)
            parts = [part for share in every for part in share]
        if not parts:
            raise ValueError("`test_dataloader` must give at least one batch, got none.")
        shapes = {tuple(part.shape[1:]) for part in parts}
        if len(shapes) > 1:
            raise ValueError(f"All batches must have rows of one shape, got {' and '.join(map(str, sorted(shapes)))}.")
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
