"""What several test files share."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # as many workers as cores: two threads each would wait for one another. Before torch is imported, which reads it
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch.distributed as dist


@pytest.fixture
def group(monkeypatch):
    """Say that this is process ``rank`` of ``world``."""

    def pretend(rank, world):
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_world_size", lambda: world)
        monkeypatch.setattr(dist, "get_rank", lambda: rank)

    return pretend
