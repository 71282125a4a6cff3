"""Scaling of intensities by percentiles of the foreground."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform
from numpy.typing import NDArray

from ..._checks import check_choice, check_real
from ...batches.images import plain_tensor
from .background import BACKGROUNDS, noted_backgrounds
from .channels import by_channel
from .field_of_view import named


class ScaleBrainIntensityd(MapTransform):
    """Scale intensities by percentiles of the foreground, clip them to [0, 1], and store the range in the record.

    With b the volume's constant background and p_lo, p_hi percentiles of the voxels other than b (of all voxels if
    there is none), x becomes clip((x - lo) / (p_hi - lo), 0, 1), with lo = min(p_lo, b) (p_lo if there is none). A
    copy a x + c of a volume, a > 0, gives the same. A background within the range of the foreground, such as the 0
    around a z-scored brain, becomes grey, since b > lo.

    Each channel is scaled by itself. The record also gets ``<key>_range``, (lo, p_hi), float64; for several channels
    a row of them for each, shape (channel, 2).

    Args:
        keys: key of the volume.
        percentiles: lower and upper percentile.
        background: "auto" for the b that the record notes under ``<key>_background`` (see :class:`ReadVolumed`), or
            else the background of the volume at this step; or "zero" for b = 0 in every volume, as in release 0.1.0.

    Raises:
        ValueError: if an argument is invalid; or, when applied, if the volume has nothing but background. The message
            names the argument or the file.

    Example:
        >>> volume = torch.full((1, 6, 6, 6), -1.0)
        >>> volume[:, 2:4, 2:4, 2:4] = torch.linspace(0, 1, 8).reshape(2, 2, 2)
        >>> record = ScaleBrainIntensityd("image", (0, 100), background="auto")({"image": volume})
        >>> float(record["image"].min()), record["image_range"].tolist()
        (0.0, [-1.0, 1.0])
    """

    def __init__(self, keys: str, percentiles: Sequence[float], background: str = "zero") -> None:
        super().__init__(keys)
        self.percentiles = check_percentiles(percentiles)
        self.background = check_choice("background", background, BACKGROUNDS)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the record with its volume scaled, and ``<key>_range`` added."""
        result = dict(data)
        for key in self.keys:
            volume = result[key]
            backgrounds = [0.0] * len(volume) if self.background == "zero" else noted_backgrounds(result, key)
            values = plain_tensor(volume).cpu().numpy()
            ranges = [
                self._range(named(result, key), channel, background)
                for channel, background in zip(values, backgrounds, strict=True)
            ]
            result[key] = by_channel(volume, _scaled, ranges)
            result[f"{key}_range"] = torch.tensor(ranges[0] if len(ranges) == 1 else ranges, dtype=torch.float64)
        return result

    def _range(self, name: str, values: NDArray[Any], background: float | None) -> tuple[Any, Any]:
        """Return the intensities of a channel that become 0 and 1, in the precision of its percentiles."""
        brain = values if background is None else values[values != background]
        if brain.size == 0:
            what = "non-zero voxel" if background == 0 else f"voxel other than its background of {background:g}"
            raise ValueError(
                f"{name} has no {what} inside the field of view that `spatial_shape`, `spacing` and `center` leave."
            )
        low, high = np.percentile(brain, self.percentiles)
        if background is not None:
            low = min(low, background)
        if high <= low:  # nearly all foreground voxels are equal and darker than the background
            low, high = float(values.min()), float(values.max())
        if high <= low:
            raise ValueError(
                f"{name} is constant, {low:g}, inside the field of view that `spatial_shape`, `spacing` and `center` "
                "leave."
            )
        return low, high


def _scaled(channel: Any, ends: tuple[Any, Any]) -> Any:
    low, high = ends
    return ((channel - float(low)) / float(high - low)).clamp(0.0, 1.0)


def check_percentiles(percentiles: Any) -> tuple[float, float]:
    """Return a lower and an upper percentile, or raise ``ValueError``."""
    if not isinstance(percentiles, Sequence) or isinstance(percentiles, str) or len(percentiles) != 2:
        raise ValueError(f"`percentiles` must be a lower and an upper percentile, got {percentiles!r}.")
    low = check_real("percentiles[0]", percentiles[0], minimum=0, maximum=100)
    return low, check_real("percentiles[1]", percentiles[1], minimum=low, maximum=100, exclusive=True)
