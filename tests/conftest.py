"""What several test files share."""

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
