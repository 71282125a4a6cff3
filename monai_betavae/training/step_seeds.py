"""Seeds of a training run that follow from the numbers of epoch and step, so that a resumed run draws the same."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from .._checks import check_seed
from .._randomness import derived_seed, generator

TORCHS_SAMPLERS = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
"""Samplers whose order follows from their ``generator``, if they have one."""


class StepSeeds(pl.Callback):
    """Seed torch before every training step and every validation, from the run's seed and the number of the step.

    The noise of a step and its dropout are therefore the same in a run that was resumed as in one that was not, and
    other draws in between change nothing.

    Args:
        seed: seed of the run; ``None`` seeds nothing.

    Example:
        >>> from types import SimpleNamespace
        >>> trainer, seeds = SimpleNamespace(current_epoch=2), StepSeeds(0)
        >>> seeds.on_train_batch_start(trainer, None, None, 7)
        >>> noise = torch.randn(3)
        >>> seeds.on_train_batch_start(trainer, None, None, 7)
        >>> bool((torch.randn(3) == noise).all())
        True
    """

    def __init__(self, seed: int | None) -> None:
        self.seed = check_seed("seed", seed)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed a step."""
        self._seed(f"epoch {trainer.current_epoch}, batch {batch_idx}")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed a validation, the one before the first step included."""
        self._seed(f"validation at step {trainer.global_step}")

    def _seed(self, stream: str) -> None:
        if self.seed is not None:
            torch.manual_seed(derived_seed(self.seed, stream))


class EpochOrder(Sampler[int]):
    """The order of another sampler, as a function of the seed and the number of the epoch.

    Its first row seeds torch as well, for what is drawn from then to the first step, such as random transforms.

    Args:
        sampler: one of :data:`TORCHS_SAMPLERS`.
        seed: of the order.

    Example:
        >>> from monai_betavae._randomness import seeded
        >>> order = EpochOrder(RandomSampler(range(5)), seed=0)
        >>> with seeded(0):
        ...     rows = []
        ...     for epoch in (1, 2, 1):
        ...         order.set_epoch(epoch)
        ...         rows.append(list(order))
        >>> rows[0] == rows[2], rows[0] == rows[1], sorted(rows[0])
        (True, False, [0, 1, 2, 3, 4])
    """

    def __init__(self, sampler: Any, seed: int) -> None:
        self.sampler = sampler
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; Lightning calls this before each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Yield the rows of the epoch."""
        sampler = copy.copy(self.sampler)
        if hasattr(sampler, "generator"):
            sampler.generator = generator(self.seed, f"order of epoch {self.epoch}")
        # here and not before: a loader draws when its iterator is made, which is elsewhere where a run is resumed
        torch.manual_seed(derived_seed(self.seed, f"epoch {self.epoch}"))
        yield from sampler

    def __len__(self) -> int:
        return len(self.sampler)


@contextlib.contextmanager
def order_by_epoch(loader: Any, seed: int | None) -> Iterator[None]:
    """Inside the block, let a loader's order follow from the seed and the epoch alone, so that a run can be resumed.

    That of torch's samplers without a generator of their own; any other loader is left as it is.

    Args:
        loader: what gives the batches.
        seed: of the order; with ``None`` the loader is left as it is.
    """
    batches = loader.batch_sampler if isinstance(loader, DataLoader) else None
    sampler: Any = batches.sampler if type(batches) is BatchSampler else None
    if seed is None or type(sampler) not in TORCHS_SAMPLERS or getattr(sampler, "generator", None) is not None:
        yield
        return
    assert isinstance(batches, BatchSampler)
    batches.sampler = EpochOrder(sampler, seed)
    try:
        yield
    finally:
        batches.sampler = sampler
