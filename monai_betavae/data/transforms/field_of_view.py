"""The model's field of view: cropping of volumes to the grid, and padding where a volume doesn't fill it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import BorderPad, MapTransform, SpatialCrop
from numpy.typing import NDArray
from torch import Tensor

from ..._checks import check_choice, check_real, check_spatial_shape
from ...batches.images import plain_tensor
from .background import background_value, foreground, noted_background
from .channels import by_channel, of_channels

CENTERS = ("image", "foreground")
PADDINGS = ("background", "edge")

TAIL = 0.005
"""Share of the foreground, at either end of an axis, that doesn't count towards its extent, since it may be specks."""

IN_MEMORY = "The image in memory"
"""Name in messages of an image without a known file."""

Center = str | tuple[float, float, float]


def check_center(value: Any) -> Center:
    """Return a valid centre of a grid, or raise ``ValueError``.

    Example:
        >>> check_center("image"), check_center([0, -18, 8])
        ('image', (0.0, -18.0, 8.0))
    """
    if isinstance(value, str) and value in CENTERS:
        return value
    if isinstance(value, str | bytes) or not isinstance(value, Sequence | np.ndarray) or len(value) != 3:
        raise ValueError(
            f"`center` must be {' or '.join(map(repr, CENTERS))}, or three numbers, a point in mm (RAS+) such as "
            f"[0, -18, 8], got {value!r:.80}."
        )
    x, y, z = (check_real("center", entry) for entry in value)
    return x, y, z


def foreground_middle(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the middle of a foreground's bounding box in voxels, or of the volume if the foreground is empty.

    Along each axis, the box begins at the first voxel up to which more than 0.5 % of the foreground lies, and its end
    is found in the same way from the other side, so that specks don't count. The middle depends only on the foreground:
    cropping or padding the array around it gives the same place.

    Example:
        >>> mask = np.zeros((10, 10, 10), bool)
        >>> mask[2:5, 2:6, 4:9] = True
        >>> foreground_middle(mask).tolist()
        [3.0, 3.5, 6.0]
    """
    middle = []
    for axis, side in enumerate(mask.shape):
        counts = np.count_nonzero(mask, axis=tuple(other for other in range(mask.ndim) if other != axis))
        beyond = TAIL * counts.sum()
        first = int(np.argmax(np.cumsum(counts) > beyond))
        last = side - 1 - int(np.argmax(np.cumsum(counts[::-1]) > beyond))
        middle.append((first + last) / 2 if counts.any() else (side - 1) / 2)
    return np.array(middle)


def point_of(center: Center, record: dict[Hashable, Any], key: Hashable) -> NDArray[np.float64] | None:
    """Return the centre of a volume's grid in world coordinates, or ``None`` for the middle of its array.

    The first step that asks for the centre of the foreground notes it in the record under ``<key>_center``, so that it
    is computed from the file's own voxels.

    Args:
        center: the centre, from :func:`check_center`.
        record: record with the volume, a channel-first ``MetaTensor``.
        key: key of the volume.

    Returns:
        three numbers, millimetres, RAS+.
    """
    if center == "image":
        return None
    volume = record[key]
    if not isinstance(volume, MetaTensor):
        raise ValueError(
            f"{named(record, key)} must be a MetaTensor, with an affine, for `center` {center!r}, got "
            f"{type(volume).__name__}; --center image needs none."
        )
    if not isinstance(center, str):
        return np.array(center)
    noted = record.get(f"{key}_center")
    if not isinstance(noted, Tensor):
        values = plain_tensor(volume)[0].cpu().numpy()
        middle = foreground_middle(foreground(values, noted_background(record, key)))
        affine = np.asarray(volume.affine, dtype=np.float64)
        noted = torch.from_numpy(affine[:3, :3] @ middle + affine[:3, 3])
        record[f"{key}_center"] = noted
    return noted.numpy()


def named(record: Mapping[Hashable, Any], key: Hashable) -> str:
    """Return the name of a record's volume for messages: its file, if known."""
    return str(record.get(f"{key}_path") or IN_MEMORY)


def nearest_voxel(index: Any) -> NDArray[np.int64]:
    """Return the voxels nearest to fractional indices, unaffected by rounding errors at the halfway points."""
    return np.floor(np.asarray(index) + 0.501).astype(np.int64)


class CropToGridd(MapTransform):
    """Crop a volume to the model's grid; :class:`PadToGridd` then fills up the grid.

    They are two steps so that intensities can be scaled between them, from the volume's own voxels only.

    The record also gets ``<key>_cut_away``, the share of the volume's foreground outside the grid, and
    ``<key>_filled``, the share of the grid's voxels that are foreground: float64 scalars from 0 to 1, counted in voxels
    of the model's size. :func:`~monai_betavae.data.transforms.background.foreground` defines the foreground. Of several
    channels, the first one's counts, here and for the centre.

    Args:
        keys: key of the volume, channel first, in its file's units.
        spatial_size: three sides of the grid, in voxels.
        center: centre of the grid. "image": the middle of the array, as in MONAI's ``ResizeWithPadOrCrop``.
            "foreground": the middle of the foreground's bounding box; in a raw head this isn't the middle of the
            brain, since the neck counts. Three numbers: a point in mm, RAS+, which is placed in voxel N // 2 along each
            axis of N voxels. The last two don't depend on where the file's array ends.

    Raises:
        ValueError: if an argument is invalid; or, when applied, if no part of the volume lies in the grid. The message
            names the argument or the file.

    Example:
        >>> volume = torch.zeros(1, 10, 10, 10)
        >>> volume[:, :4, 3:7, 3:7] = 1
        >>> record = CropToGridd("image", (8, 8, 4))({"image": MetaTensor(volume)})
        >>> tuple(record["image"].shape), float(record["image_cut_away"]), float(record["image_filled"])
        ((1, 8, 8, 4), 0.25, 0.1875)
    """

    def __init__(self, keys: Any, spatial_size: Sequence[int], center: str | Sequence[float] = "image") -> None:
        super().__init__(keys)
        self.spatial_size = check_grid(spatial_size)
        self.center = check_center(center)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the record with its volume cropped, or raise ``ValueError``."""
        result = dict(data)
        for key in self.keys:
            volume = _channel_first(result, key)
            shape, size = np.array(volume.shape[1:]), np.array(self.spatial_size)
            point = point_of(self.center, result, key)
            if point is None:
                # the middle voxel goes where ResizeWithPadOrCrop puts it, which differs between cropping and padding
                start = np.where(shape < size, -((size - shape) // 2), shape // 2 - size // 2)
            else:
                affine = np.asarray(result[key].affine, dtype=np.float64)
                index = np.linalg.solve(affine[:3, :3], point - affine[:3, 3])
                start = nearest_voxel(index) - size // 2
                if np.any(start >= shape) or np.any(start + size <= 0):
                    raise ValueError(_outside(named(result, key), self.center, affine, shape))
            first, last = np.maximum(start, 0), np.minimum(start + size, shape)
            inside = tuple(slice(*ends) for ends in zip(first, last, strict=True))
            shown = foreground(plain_tensor(volume)[0].cpu().numpy(), noted_background(result, key))
            n_inside, n_all = np.count_nonzero(shown[inside]), np.count_nonzero(shown)
            result[key] = SpatialCrop(roi_start=first.tolist(), roi_end=last.tolist())(volume)
            result[f"{key}_margins"] = torch.from_numpy(np.stack([first - start, start + size - last], axis=1))
            result[f"{key}_cut_away"] = _scalar(1 - n_inside / n_all if n_all else 0.0)
            result[f"{key}_filled"] = _scalar(n_inside / math.prod(self.spatial_size))
        return result


class PadToGridd(MapTransform):
    """Pad a volume that :class:`CropToGridd` has cropped to the model's grid.

    The record also gets ``<key>_padded``, the share of the grid's voxels that are padding, a float64 scalar.

    Args:
        keys: key of the volume, channel first.
        spatial_size: three sides of the grid, in voxels, as in :class:`CropToGridd`. If that step didn't come before,
            the volume is placed in the middle of the grid.
        padding: value of the padding. "background": the volume's constant background, as scaled by
            :class:`~monai_betavae.data.ScaleBrainIntensityd`, or 0 if there is none. "edge": each voxel takes the value
            of the nearest voxel of the volume. Around a crop of tissue, which has no background, a constant leaves an
            edge, and the codes then encode above all the size of the crop; with "edge" they encode no more of it than
            without padding.

    Raises:
        ValueError: if an argument is invalid; or, when applied, if the volume doesn't fit into the grid. The message
            names the argument or the file.

    Example:
        >>> record = PadToGridd("image", (4, 2, 2), padding="edge")({"image": MetaTensor(torch.rand(1, 2, 2, 2))})
        >>> bool((record["image"][:, 0] == record["image"][:, 1]).all()), float(record["image_padded"])
        (True, 0.5)
    """

    def __init__(self, keys: Any, spatial_size: Sequence[int], padding: str = "background") -> None:
        super().__init__(keys)
        self.spatial_size = check_grid(spatial_size)
        self.padding = check_choice("padding", padding, PADDINGS)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the record with its volume padded, or raise ``ValueError``."""
        result = dict(data)
        for key in self.keys:
            volume = _channel_first(result, key)
            shape, size = np.array(volume.shape[1:]), np.array(self.spatial_size)
            before = (size - shape) // 2
            borders = np.stack([before, size - shape - before], axis=1)
            margins = result.pop(f"{key}_margins", None)
            if isinstance(margins, Tensor):
                borders = margins.numpy()
            if np.any(borders < 0) or np.any(shape + borders.sum(axis=1) != size):
                raise ValueError(
                    f"{named(result, key)} must fit into the grid of `spatial_size` {list(self.spatial_size)} of "
                    f"PadToGridd, got shape {tuple(volume.shape)}: give CropToGridd, which comes before it, the same."
                )
            n_all = math.prod(self.spatial_size)
            result[f"{key}_padded"] = _scalar(1 - math.prod(shape.tolist()) / n_all)
            border = borders.ravel().tolist()
            if self.padding == "edge":
                result[key] = BorderPad(spatial_border=border, mode="edge")(volume)
            else:
                result[key] = by_channel(volume, partial(_padded, border=border), scaled_backgrounds(result, key))
        return result


def _padded(channel: Any, value: float, border: list[int]) -> Any:
    return BorderPad(spatial_border=border, mode="constant", value=value)(channel)


def scaled_backgrounds(record: Mapping[Hashable, Any], key: Hashable) -> list[float]:
    """Return the value of the background of each channel after scaling, 0 if it has none; see below.

    Args:
        record: as in :func:`scaled_background`.
        key: as in :func:`scaled_background`.
    """
    background, scale = record.get(f"{key}_background"), record.get(f"{key}_range")
    if scale is None:
        return [background_value(values.cpu().numpy()) or 0.0 for values in plain_tensor(record[key])]
    ranges = torch.as_tensor(scale, dtype=torch.float64).reshape(-1, 2).tolist()
    backgrounds = [math.nan] * len(ranges) if background is None else of_channels(background)
    return [
        0.0 if math.isnan(value) else min(max((value - low) / (high - low), 0.0), 1.0)
        for value, (low, high) in zip(backgrounds, ranges, strict=True)
    ]


def scaled_background(record: Mapping[Hashable, Any], key: Hashable) -> float:
    """Return the value of the background of a volume's first channel after scaling, or 0 if it has none.

    Args:
        record: record with ``<key>_background`` and ``<key>_range``, in the file's units. Without the range, for
            example after other transforms, the background is determined from the current volume.
        key: key of the volume.

    Example:
        >>> noted = {"image_background": torch.tensor(2.0), "image_range": torch.tensor([0.0, 8.0])}
        >>> scaled_background(noted, "image")
        0.25
    """
    return scaled_backgrounds(record, key)[0]


def check_grid(value: Any) -> tuple[int, ...]:
    """Return three sides of a grid, or raise ``ValueError``."""
    shape = check_spatial_shape("spatial_size", value)
    if len(shape) != 3:
        raise ValueError(f"`spatial_size` must have three sides, got {value!r}.")
    return shape


def _channel_first(record: Mapping[Hashable, Any], key: Hashable) -> Tensor:
    volume = torch.as_tensor(record[key])
    if volume.ndim != 4:
        raise ValueError(
            f"{named(record, key)} must be channel first, with three axes, got shape {tuple(volume.shape)}."
        )
    return volume


def _scalar(value: float) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float64)


def _outside(name: str, center: Center, affine: NDArray[np.float64], shape: NDArray[np.int64]) -> str:
    """Return the message about a grid that contains no part of a volume."""
    corners = np.stack(np.meshgrid(*[(0, side - 1) for side in shape], indexing="ij"), axis=-1).reshape(-1, 3)
    world = corners @ affine[:3, :3].T + affine[:3, 3]
    spans = zip("xyz", world.min(axis=0), world.max(axis=0), strict=True)
    shown = ", ".join(f"{axis} from {low:.0f} to {high:.0f}" for axis, low, high in spans)
    return (
        f"{name} lies wholly outside the grid around `center` {list(center)}: it spans {shown} mm. Give a point "
        "inside, or --center image."
    )
