"""The rows of all processes in the global batch's order, for terms that compare the images of a batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributions import Normal

from .process_shares import BatchShare


def gather_rows(own: Tensor, share: BatchShare) -> Tensor:
    r"""Return the rows of all processes in the global batch's order, of which this process's keep their gradient.

    A term T of all rows has the same value on every process, but each differentiates it by its own rows alone, and then
    multiplies the gradient by ``share.weight`` and averages it over the processes. The gradient that reaches the own
    rows is therefore multiplied by what undoes both:

    .. math:: \frac1W \sum_r w_r \, \frac{W}{w_r} \frac{\partial T}{\partial \text{rows}_r}
        \frac{\partial \text{rows}_r}{\partial \theta} = \frac{dT}{d\theta}

    All processes must call this as often as each other, and each waits for the others.

    Args:
        own: this process's rows, shape (rows, ...). Rows from ``share.n_own`` on repeat those of others, and are left
            out.
        share: what this process holds of the global batch.

    Returns:
        shape (global rows, ...); on one process, or where no process owns a row, ``own`` itself.

    Example:
        >>> gather_rows(torch.tensor([[1.0], [2.0]]), BatchShare(rank=0, n_processes=1, n_own=2, n_global=2))
        tensor([[1.],
                [2.]])
    """
    if share.n_processes == 1:
        return own
    held = own[: share.n_own]
    # asked, not reckoned: without a distributed sampler, a process doesn't know how many rows the others have
    counts = _counts(held, share.n_processes)
    largest = max(counts)
    if largest == 0:
        return own
    if held.requires_grad and len(held) > 0:
        factor = share.n_processes / share.weight
        held.register_hook(lambda gradient: factor * gradient)
    padded = own.new_zeros(largest, *own.shape[1:])
    padded[: len(held)] = held.detach()
    received = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(received, padded)
    rows = [part.unbind() for part in received]
    rows[share.rank] = held.unbind()
    dealt = [(row, rank) for row in range(largest) for rank, count in enumerate(counts) if row < count]
    return torch.stack([rows[rank][row] for row, rank in dealt])


def _counts(held: Tensor, n_processes: int) -> list[int]:
    """Return how many rows each process holds."""
    count = torch.tensor([len(held)], device=held.device)
    counts = [torch.empty_like(count) for _ in range(n_processes)]
    dist.all_gather(counts, count)
    found: list[int] = torch.cat(counts).tolist()
    return found


def gather_posteriors(q: Normal, z: Tensor, share: BatchShare) -> tuple[Normal, Tensor]:
    """Return posteriors and codes of all processes' images, as objectives take them under ``gathered``.

    Args:
        q: posteriors of this process's images, with parameters of shape (batch, ...).
        z: codes drawn from them, of that shape.
        share: what this process holds of the global batch.

    Returns:
        posteriors and codes with a row for each image of the global batch, in its order; see :func:`gather_rows`.

    Example:
        >>> q, z = Normal(torch.zeros(4, 2), torch.ones(4, 2)), torch.randn(4, 2)
        >>> everyone, codes = gather_posteriors(q, z, BatchShare(rank=0, n_processes=1, n_own=4, n_global=4))
        >>> everyone is q, codes is z
        (True, True)
    """
    if share.n_processes == 1:
        return q, z
    codes, loc, scale = gather_rows(torch.stack([z, q.loc, q.scale], dim=1), share).unbind(dim=1)
    return Normal(loc, scale, validate_args=False), codes
