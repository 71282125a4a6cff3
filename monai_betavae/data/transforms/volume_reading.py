"""Reading of a volume, from a file or from memory, into a float32 image with its affine."""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor, NibabelReader
from monai.transforms import LoadImage, MapTransform
from torch import Tensor

from ..._checks import check_choice
from ...batches.images import plain_tensor
from ..volumes.contrasts import names_in, other_images
from ..volumes.dicom import load_series
from ..volumes.lazy_voxels import LazyVoxels
from ..volumes.volume_files import (
    first_line,
    read_header,
    read_voxels,
    repair_non_finite,
    voxel_problem,
)
from .background import BACKGROUNDS, RANGE, background_value, note_backgrounds
from .channels import on_grid_of, stacked
from .field_of_view import IN_MEMORY
from .images_in_memory import (
    affine_in_memory,
    as_float64,
    file_of,
    is_array,
    meta_of,
    voxels_in_memory,
    without_pending,
)


class ReadVolumed(MapTransform):
    """Read a volume with MONAI's ``LoadImage`` or take one from memory, and refuse a volume that a model can't use.

    MONAI's ITK reader reads a folder of one DICOM series. From a file with a fourth axis, the volume that the record
    names under "channel" is read. Trailing axes of length one are dropped, and integers are scaled according to the
    header. Isolated non-finite voxels, up to 1 %, are replaced by the mean of the finite ones around them, with a
    warning that names the file.

    A program that has loaded the volume itself (MONAI Deploy, MONAI Label) passes it instead of the path, as a tensor,
    ``MetaTensor`` or array of shape (1, x, y, z) or (x, y, z). The result is identical to that of reading the file. The
    affine is that of the ``MetaTensor``, or the entry "affine" of the record's ``<key>_meta_dict``; without one, RAS
    with voxels of 1 mm is assumed, with a warning. Pending transforms of MONAI are applied.

    A record with further images under "other_images" (see :func:`~monai_betavae.data.discover`) becomes a volume of
    several channels on the grid of the first one. An image on another grid is resampled by its affine, see
    :func:`~monai_betavae.data.transforms.channels.on_grid_of`; the images must be of one space. The mask counts for all
    channels.

    The record also gets ``<key>_path``, the file, or "" for an image in memory without a known file;
    ``<key>_source_affine``, the affine of the volume's original grid (4x4, float64, millimetres, RAS+); and
    ``<key>_source_shape``, that grid's three sides (int64). With ``background`` "auto" it also gets
    ``<key>_background`` for the following steps, the value of the volume's constant background (a float64 scalar, NaN
    if there is none; a vector for several channels); see
    :func:`~monai_betavae.data.transforms.background.background_value`.

    Args:
        keys: key of the file's path or of the image in memory; the float32, channel-first volume replaces it.
        mask_key: key of a mask on the same grid, as a path or in memory; the voxels where it is 0 become background. A
            record without a mask is an error.
        background: "auto", or "zero" for the behaviour of release 0.1.0. With "zero" the voxels outside the mask become
            0. With "auto" they become the volume's background, or its 0.5th percentile if it has none, but at most the
            0.5th percentile inside the mask (the 0 around a z-scored brain would be brighter).
        contrasts: names of the channels, the first one's first, of which a record must have all; ``None`` for those
            that it has.

    Raises:
        ValueError: if a volume can't be used; the message names the file.

    Example:
        >>> image = MetaTensor(torch.rand(5, 6, 7), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
        >>> record = ReadVolumed("image")({"image": image})
        >>> record["image"].shape, record["image_source_shape"].tolist()
        (torch.Size([1, 5, 6, 7]), [5, 6, 7])
    """

    def __init__(
        self,
        keys: str,
        mask_key: str | None = None,
        background: str = "zero",
        contrasts: Sequence[str] | None = None,
    ) -> None:
        super().__init__(keys)
        self.contrasts = None if contrasts is None else list(names_in("contrasts", contrasts))
        self.mask_key = mask_key
        self.background = check_choice("background", background, BACKGROUNDS)
        reader = NibabelReader(squeeze_non_spatial_dims=True)
        self.load = LoadImage(reader, image_only=True, ensure_channel_first=True, dtype=np.float32)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the record with the volume, or raise ``ValueError``."""
        result = dict(data)
        for key in self.keys:
            path, volume, affine = self._read_or_take(data[key], data, key)
            volume = _checked(path or IN_MEMORY, volume)
            mask = None
            if self.mask_key is not None:
                mask = self._read_mask(data, path or IN_MEMORY.replace("The", "the"), volume)
            channels, backgrounds = [volume, *self._read_others(data, path or IN_MEMORY, volume)], []
            for number, channel in enumerate(channels):
                if self.background == "auto":
                    value = background_value(plain_tensor(channel)[0].numpy())
                    if mask is not None and not mask.all():
                        value = _background_around(channel, mask, value)
                        channels[number] = torch.where(mask, channel, value)
                    backgrounds.append(value)
                elif mask is not None:
                    channels[number] = channel * mask
            if self.background == "auto":
                note_backgrounds(result, key, backgrounds)
            result[key] = stacked(channels)
            result[f"{key}_path"] = path
            result[f"{key}_source_affine"] = torch.tensor(affine, dtype=torch.float64)
            result[f"{key}_source_shape"] = torch.tensor(volume.shape[1:], dtype=torch.int64)
        return result

    def _read_or_take(self, given: Any, data: Mapping[Hashable, Any], key: Hashable) -> tuple[str, MetaTensor, Any]:
        """Return the path, volume and affine of an image from a file or from memory."""
        if is_array(given):
            return self._take(given, data, key)
        if isinstance(given, str | os.PathLike):
            path = str(os.fspath(given))
            return (path, *self._read(path, data.get("channel")))
        raise ValueError(
            f"The record must have a path or an image under {key!r}, got {type(given).__name__}: {given!r:.80}."
        )

    def _read_others(self, data: Mapping[Hashable, Any], path: str, first: MetaTensor) -> list[MetaTensor]:
        """Return the further channels of a record on the grid of the first one."""
        found = other_images(data)
        names = list(found) if self.contrasts is None else self.contrasts[1:]
        lacking = [name for name in names if found.get(name) is None]
        if lacking:
            raise ValueError(
                f"{path} must have the images of {', '.join(self.contrasts or names)}, got none of "
                f"{' and '.join(lacking)}: name them in order, as in training, with --suffix or --image_column."
            )
        channels = []
        for name in names:
            # what the record says of an image in memory is of the first one
            known: dict[Hashable, Any] = {entry: value for entry, value in data.items() if entry == "channel"}
            other, volume, _ = self._read_or_take(found[name], known, name)
            other = other or f"The {name} image of {path}"
            volume = _checked(other, volume)
            channels.append(on_grid_of(other, volume, first, background_value(plain_tensor(volume)[0].numpy())))
        return channels

    def _read(self, path: str, channel: int | None) -> tuple[MetaTensor, Any]:
        image = read_header(path, channel)
        try:
            volume = self._load(path, image)
        except Exception as error:  # gzip, zlib and nibabel raise different errors for a truncated or damaged file
            raise ValueError(f"{path} is truncated or damaged: {first_line(error)}") from error
        affine = as_float64(image.affine)
        if not np.allclose(volume.affine.numpy(), affine, rtol=0, atol=1e-4):
            # MONAI then uses the qform, but nibabel and this package use the sform
            warnings.warn(
                f"{path} has a sform whose voxels have other sides than its header says (pixdim): the sform counts.",
                stacklevel=4,
            )
        volume.affine = torch.from_numpy(affine)
        return volume, affine

    def _load(self, path: str, image: Any) -> MetaTensor:
        if os.path.isdir(path):
            series: MetaTensor = load_series(path)
            return series
        if isinstance(image.dataobj, LazyVoxels):  # one volume of several, or an array: MONAI can't read it
            return MetaTensor(torch.from_numpy(read_voxels(path, image).copy())[None], affine=image.affine)
        volume: MetaTensor = self.load(path)
        return volume

    def _take(self, image: Any, data: Mapping[Hashable, Any], key: Hashable) -> tuple[str, MetaTensor, Any]:
        """Return the path, volume and affine of an image in memory."""
        image = without_pending(image)
        meta = meta_of(image, data, key)
        path = file_of(meta) or str(data.get(f"{key}_path") or "")
        name = path or IN_MEMORY
        values = voxels_in_memory(name, image)
        affine = affine_in_memory(name, image, meta)
        if affine is None:
            warnings.warn(
                f"An image in memory under {key!r} has no affine: it is taken for RAS with voxels of 1 mm.",
                stacklevel=4,
            )
            affine = np.eye(4)
        kept = {entry: value for entry, value in meta.items() if entry not in ("affine", "space")}
        meta = {**kept, "space": "RAS", **({"filename_or_obj": path} if path else {})}
        return path, MetaTensor(torch.from_numpy(values)[None], affine=torch.from_numpy(affine), meta=meta), affine

    def _read_mask(self, data: Mapping[Hashable, Any], path: str, volume: MetaTensor) -> Tensor:
        found = data.get(self.mask_key)
        if is_array(found):
            name = f"The mask of {path}"
            found = without_pending(found)
            mask = voxels_in_memory(name, found)
            affine = affine_in_memory(name, found, meta_of(found, data, self.mask_key))
            affine = volume.affine.numpy() if affine is None else affine
        elif isinstance(found, str | os.PathLike):
            name = os.fspath(found)
            image = read_header(name)
            mask, affine = read_voxels(name, image), image.affine
        else:
            raise ValueError(f"The record of {path} must have a mask's path under {self.mask_key!r}, got {found!r}.")
        same = mask.shape == volume.shape[1:] and np.allclose(affine, volume.affine.numpy(), atol=1e-3)
        if not same:
            raise ValueError(f"{name} must be on the grid of {path}, of the same shape and affine, got {mask.shape}.")
        if not (mask > 0).any():
            raise ValueError(f"{name} must have a voxel above 0.")
        return torch.from_numpy(mask > 0)[None]


def _background_around(volume: Tensor, mask: Tensor, background: float | None) -> float:
    """Return the value of the voxels outside a mask, as dark as the volume's darkest voxels and never a mid-grey."""
    values, inside = plain_tensor(volume).numpy(), plain_tensor(volume)[mask].numpy()
    shown = inside if background is None else inside[inside != background]
    darkest = np.percentile(values, RANGE[0]) if background is None else background
    return float(np.float32(min(darkest, np.percentile(shown, RANGE[0]) if shown.size else darkest)))


def _checked(name: str, volume: MetaTensor) -> MetaTensor:
    """Return a volume with its few non-finite voxels repaired, or refuse it."""
    values = plain_tensor(volume).numpy()[0]
    problem = voxel_problem(values)
    if problem is not None:
        raise ValueError(f"{name} {problem}.")
    n_bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if n_bad:
        warnings.warn(f"{name} has {n_bad} non-finite voxels; they take the mean of their neighbours.", stacklevel=3)
        volume = MetaTensor(torch.from_numpy(repair_non_finite(values))[None], meta=volume.meta)
    return volume
