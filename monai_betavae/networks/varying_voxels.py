"""Base of modules that hold values for the voxels that vary between subjects only.

They are about a quarter of the usual grid around a brain. Which ones they are is known after
:func:`~monai_betavae.networks.warm_start.warm_start`, or from a state dict, whose sizes the module adopts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..saving.descriptions import ADDED_LATER


class VaryingVoxels(nn.Module):
    """Base of modules on the voxels that vary between subjects; a state dict determines the sizes of all tensors.

    A derived class says in ``_sized`` which of its tensors depend on the number of voxels, and derives plain numbers
    from its tensors in ``_adopt``, which is called whenever these have changed.

    Attributes:
        voxels: buffer of the flat indices of the voxels in the grid, ascending.

    Args:
        shape: channels and spatial shape of the images.
        n_voxels: expected number of voxels, for code that compares sizes before it loads a state dict.
    """

    def __init__(self, shape: Sequence[int], n_voxels: int = 0) -> None:
        super().__init__()
        self.shape = list(shape)
        # annotated here, not in the class: TorchScript can't read class annotations that are strings
        self.voxels: Tensor
        self.register_buffer("voxels", torch.arange(n_voxels))

    def _set(self, **tensors: Tensor) -> None:
        """Replace tensors by copies of the given ones, whatever their sizes."""
        for name, value in tensors.items():
            old = getattr(self, name)
            value = value.detach().to(old.device, old.dtype).clone()
            setattr(self, name, nn.Parameter(value, old.requires_grad) if name in self._parameters else value)

    def _sized(self, n_voxels: int) -> dict[str, list[int]]:
        """Return the shape of each tensor for this number of voxels."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        found = state_dict.get(prefix + "voxels")
        if isinstance(found, Tensor) and found.ndim == 1 and found.dtype == torch.long:
            # indices outside the grid would fail at every use; without resizing, the usual check of sizes refuses them
            n_grid = math.prod(self.shape[1:])
            fits = len(found) <= n_grid  # checked first: a file of a kilobyte may expand to a tensor of 2^40 numbers
            inside = len(found) == 0 or (fits and int(found.min()) >= 0 and int(found.max()) < n_grid)
            if inside and len(found) != len(self.voxels):
                for name, size in self._sized(len(found)).items():
                    self._set(**{name: torch.zeros(size)})
            for name in ADDED_LATER:
                if hasattr(self, name):
                    state_dict.setdefault(prefix + name, getattr(self, name).detach().clone())
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._adopt()

    def _adopt(self) -> None:
        """Derive from the values of the tensors what is kept as plain numbers."""
