"""The rows of a dataset in its own order, on one process or shared among several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

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
