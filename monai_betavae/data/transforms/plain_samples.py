"""The last step of the preprocessing: samples of plain tensors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from ...batches.images import plain_tensor
from .images_in_memory import as_float64, file_of, in_ras, meta_of, without_pending

BESIDE_THE_IMAGE = ("range", "background", "cut_away", "filled", "padded", "source_affine", "source_shape")
"""Suffixes of the keys under which a sample stores tensors with information about its image."""


class ToPlainSampled(MapTransform):
    """Finish the preprocessing: make plain tensors, which collate and cache fast, and keep only the requested keys.

    The sample has the float32 image under ``<key>`` and the information about it under ``<key>_path``,
    ``<key>_affine``, ``<key>_range``, ``<key>_background``, ``<key>_cut_away``, ``<key>_filled``, ``<key>_padded``,
    ``<key>_source_affine`` and ``<key>_source_shape``, as :func:`~monai_betavae.data.brain_transforms` describes them.
    After transforms from outside this package, path and source are those that MONAI's ``LoadImage`` left in the image's
    ``MetaTensor``. Unknown entries are left out; an unknown path is "".

    Args:
        keys: key of the volume.
        keep: further keys to keep; keys that the record lacks are left out.

    Example:
        >>> sample = ToPlainSampled("image")({"image": MetaTensor(torch.rand(1, 4, 4, 4)), "label": 3})
        >>> list(sample)
        ['image', 'image_path', 'image_affine']
    """

    def __init__(self, keys: str, keep: Sequence[str] = ()) -> None:
        super().__init__(keys)
        self.keep = (keep,) if isinstance(keep, str) else tuple(keep)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample."""
        sample: dict[Hashable, Any] = {}
        for key in self.keys:
            volume = without_pending(data[key])
            meta = meta_of(volume, data, key)
            sample[key] = plain_tensor(torch.as_tensor(volume)).float().contiguous()
            sample[f"{key}_path"] = str(data.get(f"{key}_path") or file_of(meta))
            if isinstance(volume, MetaTensor):
                sample[f"{key}_affine"] = torch.from_numpy(in_ras(as_float64(volume.affine), meta))
            source = _source_in(meta)
            for name in BESIDE_THE_IMAGE:
                value = data.get(f"{key}_{name}", source.get(name))
                if value is not None:
                    sample[f"{key}_{name}"] = value
        sample.update({key: data[key] for key in self.keep if data.get(key) is not None})
        return sample


def _source_in(meta: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the affine and shape of the file's grid as noted by MONAI's ``LoadImage``, or nothing."""
    affine, shape = meta.get("original_affine"), meta.get("spatial_shape")
    # a volume that was reoriented on loading has the shape of one grid and the affine of another
    if affine is None or shape is None or meta.get("as_closest_canonical"):
        return {}
    grid, sides = as_float64(affine), as_float64(shape)[:3].astype(np.int64)
    if grid.shape != (4, 4) or sides.shape != (3,):
        return {}
    return {"source_affine": torch.from_numpy(in_ras(grid, meta)), "source_shape": torch.from_numpy(sides)}
