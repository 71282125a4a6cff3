"""The model's field of view: which part of a volume lies in its grid, and what stands where there is no volume."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
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

CENTERS = ("image", "foreground")
PADDINGS = ("background", "edge")

TAIL = 0.005
"""Share of the foreground that may lie beyond either end of what counts as its extent along an axis: specks."""

IN_MEMORY = "The image in memory"
"""How messages call an image that doesn't say which file it is from."""

Center = str | tuple[float, float, float]


def check_center(value: Any) -> Center:
    """Return what a grid is centred on, or raise ``ValueError``.

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
    """Return the middle of a foreground's bounding box, in voxels; that of the volume if it is empty.

    Along each axis the box begins at the first voxel up to which more than 0.5 % of the foreground lies, and ends
    likewise, so that specks don't count. It depends on nothing but the foreground: an array that was cropped or padded
    around it gives the same place.

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
    """Return the point in the world that a volume's grid is centred on; ``None`` for the middle of its array.

    The foreground's is noted in the record under ``<key>_center`` by the first step that asks for it, so that it is
    that of the file's own voxels.

    Args:
        center: as :func:`check_center` gives it.
        record: with the volume, a ``MetaTensor``, channel first.
        key: of the volume.

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
    """Return how messages call a record's volume: its file if it is known."""
    return str(record.get(f"{key}_path") or IN_MEMORY)


def nearest_voxel(index: Any) -> NDArray[np.int64]:
    """Return the voxels that indices with fractions lie in; rounding errors don't decide where one is halfway."""
    return np.floor(np.asarray(index) + 0.501).astype(np.int64)


class CropToGridd(MapTransform):
    """Cut off what lies outside the model's grid; :class:`PadToGridd` then fills the grid up.

    The two come apart so that intensities are scaled between them, by the volume's own voxels alone.

    The record also gets ``<key>_cut_away``, the share of the volume's foreground outside the grid, and
    ``<key>_filled``, the share of the grid's voxels that are foreground: scalars of float64 from 0 to 1, of voxels as
    large as the model's. Foreground is what :func:`~monai_betavae.data.transforms.background.foreground` says.

    Args:
        keys: key of the volume, channel first, in its file's units.
        spatial_size: three sides of the grid, in voxels.
        center: what the grid is centred on. "image": the middle of the array, where MONAI's ``ResizeWithPadOrCrop``
            centres it. "foreground": the middle of the foreground's bounding box; of a raw head that is not the
            brain's, since the neck counts. Three numbers: a point in mm, RAS+, which comes to lie in voxel N // 2
            along each axis of N voxels. The last two are the same wherever the file's array ends.

    Raises:
        ValueError: naming the argument; or, when applied, the file, if nothing of it lies in the grid.

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
                # the middle voxel is put where ResizeWithPadOrCrop puts it, which differs between crop and padding
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
    """Fill the model's grid up around a volume that :class:`CropToGridd` has cropped.

    The record also gets ``<key>_padded``, the share of the grid's voxels that are padding: a scalar of float64.

    Args:
        keys: key of the volume, channel first.
        spatial_size: three sides of the grid, in voxels, as in :class:`CropToGridd`. Without that before it the volume
            comes to the grid's middle.
        padding: what the padding is. "background": the volume's constant background, as
            :class:`~monai_betavae.data.ScaleBrainIntensityd` has scaled it, and 0 if it has none. "edge": each voxel
            takes the value of the nearest voxel of the volume. Around a crop of tissue, which has no background,
            a constant leaves an edge, and codes then tell the size of the crop best of all; with "edge" they tell no
            more of it than without padding.

    Raises:
        ValueError: naming the argument; or, when applied, the file, if it doesn't fit into the grid.

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
            how: dict[str, Any] = {"mode": "edge"}
            if self.padding == "background":
                how = {"mode": "constant", "value": scaled_background(result, key)}
            result[key] = BorderPad(spatial_border=borders.ravel().tolist(), **how)(volume)
        return result


def scaled_background(record: Mapping[Hashable, Any], key: Hashable) -> float:
    """Return the value that a volume's background has after scaling; 0 if it has none.

    Args:
        record: with ``<key>_background`` and ``<key>_range``, in the file's units. Without the range, as after other
            transforms, the background is looked for in the volume as it is now.
        key: of the volume.

    Example:
        >>> noted = {"image_background": torch.tensor(2.0), "image_range": torch.tensor([0.0, 8.0])}
        >>> scaled_background(noted, "image")
        0.25
    """
    background, scale = record.get(f"{key}_background"), record.get(f"{key}_range")
    if scale is None:
        return background_value(plain_tensor(record[key])[0].cpu().numpy()) or 0.0
    if background is None or math.isnan(background):
        return 0.0
    low, high = (float(end) for end in scale)
    return min(max((float(background) - low) / (high - low), 0.0), 1.0)


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
    """Return the message about a grid that nothing of a volume lies in."""
    corners = np.stack(np.meshgrid(*[(0, side - 1) for side in shape], indexing="ij"), axis=-1).reshape(-1, 3)
    world = corners @ affine[:3, :3].T + affine[:3, 3]
    spans = zip("xyz", world.min(axis=0), world.max(axis=0), strict=True)
    shown = ", ".join(f"{axis} from {low:.0f} to {high:.0f}" for axis, low, high in spans)
    return (
        f"{name} lies wholly outside the grid around `center` {list(center)}: it spans {shown} mm. Give a point "
        "inside, or --center image."
    )
