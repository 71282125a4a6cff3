"""Random streams derived from one seed that leave the caller's generators unchanged."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from ._checks import check_seed


def derived_seed(seed: int, stream: str) -> int:
    """Return a seed in [0, 2**63) that is a fixed function of ``seed`` and the name of the stream.

    Streams of one seed with different names are independent; otherwise the noise of ``transform`` and the codes of
    ``sample`` would be the same numbers.

    Args:
        seed: the user's seed.
        stream: name of the stream, after the purpose of its numbers.

    Example:
        >>> derived_seed(0, "sample") == derived_seed(0, "sample")
        True
        >>> derived_seed(0, "sample") == derived_seed(0, "transform")
        False
    """
    digest = hashlib.sha256(f"{stream}:{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int | None, stream: str) -> torch.Generator | None:
    """Return a CPU generator for ``stream`` of ``seed``, or ``None``, torch's global one, if ``seed`` is ``None``.

    The generator is on the CPU whatever the model's device, so that a seed gives the same numbers on every device.
    """
    return None if seed is None else torch.Generator().manual_seed(derived_seed(seed, stream))


def numpy_generator(seed: int | None, stream: str) -> np.random.Generator:
    """Return numpy's generator for one stream of a seed; different streams of a seed give different numbers."""
    seed = check_seed("seed", seed)
    return np.random.default_rng(None if seed is None else derived_seed(seed, stream))


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed ``random``, numpy and torch inside the block, and restore the caller's states after it.

    Args:
        seed: the seed; with ``None`` the block uses the caller's generators and advances them.

    Example:
        >>> before = torch.get_rng_state()
        >>> with seeded(3):
        ...     first = torch.rand(2)
        >>> with seeded(3):
        ...     second = torch.rand(2)
        >>> bool((first == second).all()), bool((before == torch.get_rng_state()).all())
        (True, True)
    """
    if seed is None:
        yield
        return
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 -- other libraries draw from the legacy state
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
