"""The transforms that turn a volume, on disk or in memory, into a sample of plain tensors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor, NibabelReader
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.transforms import BorderPad, GaussianSmooth, LoadImage, MapTransform, SpatialResample
from monai.transforms.lazy.functional import apply_pending
from numpy.typing import NDArray
from torch import Tensor

from ..._checks import check_choice, check_real
from ...batches.images import plain_tensor
from ..volumes.dicom import load_series
from ..volumes.lazy_voxels import LazyVoxels
from ..volumes.volume_files import (
    affine_problem,
    first_line,
    read_header,
    read_voxels,
    repair_non_finite,
    shape_problem,
    type_problem,
    voxel_problem,
)
from .background import RANGE, background_value, foreground, note_background, noted_background
from .field_of_view import IN_MEMORY, check_center, named, point_of

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))

BACKGROUNDS = ("zero", "auto")

FAINT = 1e-4
"""Share of the intensity range below which voxels of a grid about a point count as background."""

TRUNCATED = 4.0
"""Number of standard deviations at which MONAI truncates its Gaussian."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


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

    The record also gets ``<key>_path``, the file, or "" for an image in memory without a known file;
    ``<key>_source_affine``, the affine of the volume's original grid (4x4, float64, millimetres, RAS+); and
    ``<key>_source_shape``, that grid's three sides (int64). With ``background`` "auto" it also gets
    ``<key>_background`` for the following steps, the value of the volume's constant background (a float64 scalar, NaN
    if there is none); see :func:`~monai_betavae.data.transforms.background.background_value`.

    Args:
        keys: key of the file's path or of the image in memory; the float32, channel-first volume replaces it.
        mask_key: key of a mask on the same grid, as a path or in memory; the voxels where it is 0 become background. A
            record without a mask is an error.
        background: "auto", or "zero" for the behaviour of release 0.1.0. With "zero" the voxels outside the mask become
            0. With "auto" they become the volume's background, or its 0.5th percentile if it has none, but at most the
            0.5th percentile inside the mask (the 0 around a z-scored brain would be brighter).

    Raises:
        ValueError: if a volume can't be used; the message names the file.

    Example:
        >>> image = MetaTensor(torch.rand(5, 6, 7), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
        >>> record = ReadVolumed("image")({"image": image})
        >>> record["image"].shape, record["image_source_shape"].tolist()
        (torch.Size([1, 5, 6, 7]), [5, 6, 7])
    """

    def __init__(self, keys: str, mask_key: str | None = None, background: str = "zero") -> None:
        super().__init__(keys)
        self.mask_key = mask_key
        self.background = check_choice("background", background, BACKGROUNDS)
        reader = NibabelReader(squeeze_non_spatial_dims=True)
        self.load = LoadImage(reader, image_only=True, ensure_channel_first=True, dtype=np.float32)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the record with the volume, or raise ``ValueError``."""
        result = dict(data)
        for key in self.keys:
            given = data[key]
            if _is_array(given):
                path, volume, affine = self._take(given, data, key)
            elif isinstance(given, str | os.PathLike):
                path = str(os.fspath(given))
                volume, affine = self._read(path, data.get("channel"))
            else:
                raise ValueError(
                    f"The record must have a path or an image under {key!r}, got {type(given).__name__}: {given!r:.80}."
                )
            volume = _checked(path or IN_MEMORY, volume)
            mask = None
            if self.mask_key is not None:
                mask = self._read_mask(data, path or IN_MEMORY.replace("The", "the"), volume)
            if self.background == "auto":
                value = background_value(plain_tensor(volume)[0].numpy())
                if mask is not None and not mask.all():
                    value = _background_around(volume, mask, value)
                    volume = torch.where(mask, volume, value)
                note_background(result, key, value)
            elif mask is not None:
                volume = volume * mask
            result[key] = volume
            result[f"{key}_path"] = path
            result[f"{key}_source_affine"] = torch.tensor(affine, dtype=torch.float64)
            result[f"{key}_source_shape"] = torch.tensor(volume.shape[1:], dtype=torch.int64)
        return result

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
                stacklevel=3,
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
        meta = _meta_of(image, data, key)
        path = file_of(meta) or str(data.get(f"{key}_path") or "")
        name = path or IN_MEMORY
        values = _voxels_in_memory(name, image)
        affine = _affine_in_memory(name, image, meta)
        if affine is None:
            warnings.warn(
                f"An image in memory under {key!r} has no affine: it is taken for RAS with voxels of 1 mm.",
                stacklevel=3,
            )
            affine = np.eye(4)
        kept = {entry: value for entry, value in meta.items() if entry not in ("affine", "space")}
        meta = {**kept, "space": "RAS", **({"filename_or_obj": path} if path else {})}
        return path, MetaTensor(torch.from_numpy(values)[None], affine=torch.from_numpy(affine), meta=meta), affine

    def _read_mask(self, data: Mapping[Hashable, Any], path: str, volume: MetaTensor) -> Tensor:
        found = data.get(self.mask_key)
        if _is_array(found):
            name = f"The mask of {path}"
            found = without_pending(found)
            mask = _voxels_in_memory(name, found)
            affine = _affine_in_memory(name, found, _meta_of(found, data, self.mask_key))
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


def without_pending(image: Any) -> Any:
    """Return an image with MONAI's pending lazy transforms applied; the given image is not changed."""
    if not isinstance(image, MetaTensor) or not image.has_pending_operations:
        return image
    plain = MetaTensor(image.as_tensor(), meta=dict(image.meta))
    done, _ = apply_pending(plain, pending=list(image.pending_operations))
    return done


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


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _meta_of(image: Any, data: Mapping[Hashable, Any], key: Hashable) -> dict[str, Any]:
    """Return the metadata of an image in memory: those of the ``MetaTensor``, or the record's ``<key>_meta_dict``."""
    meta = image.meta if isinstance(image, MetaTensor) else data.get(f"{key}_meta_dict")
    return dict(meta) if isinstance(meta, Mapping) else {}


def file_of(meta: Mapping[str, Any]) -> str:
    """Return the file named in the metadata of a ``MetaTensor``, or ""."""
    found = meta.get("filename_or_obj")
    return str(os.fspath(found)) if isinstance(found, str | os.PathLike) else ""


def as_float64(value: Any) -> NDArray[np.float64]:
    """Return a float64 array copied from a tensor on any device, or from anything that numpy can convert."""
    if isinstance(value, Tensor):
        value = plain_tensor(value).detach().cpu().numpy()
    return np.array(value, dtype=np.float64)


def _voxels_in_memory(name: str, image: Any) -> NDArray[np.float32]:
    """Return a copy of an image's voxels as float32, shape (x, y, z)."""
    values = plain_tensor(image).detach() if isinstance(image, Tensor) else image
    while values.ndim > 3 and values.shape[0] == 1:
        values = values[0]
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise ValueError(
            f"{name} must be one three-dimensional volume, of shape (1, x, y, z) or (x, y, z), "
            f"got shape {tuple(image.shape)}."
        )
    if isinstance(values, Tensor):
        problem = "must hold real numbers, got complex numbers" if values.is_complex() else None
        values = values.cpu().float().numpy() if problem is None else values
    else:
        problem = type_problem(values.dtype)
    problem = problem or shape_problem(tuple(values.shape))
    if problem is not None:
        raise ValueError(f"{name} {problem}.")
    with np.errstate(over="ignore"):  # a float64 value beyond float32 becomes infinite and counts as non-finite
        return np.array(values, dtype=np.float32, order="C")


def _affine_in_memory(name: str, image: Any, meta: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Return the RAS+ affine of an image in memory, or ``None`` if it has none."""
    found = image.affine if isinstance(image, MetaTensor) else meta.get("affine")
    if found is None:
        return None
    try:
        affine = as_float64(found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must have an affine of 4x4 numbers, got {found!r:.80}.") from error
    if affine.shape != (4, 4) or not np.allclose(affine[3], [0, 0, 0, 1]):
        raise ValueError(f"{name} must have an affine of 4x4 numbers that ends in 0, 0, 0, 1, got {affine.tolist()}.")
    problem = affine_problem(affine)
    if problem is not None:
        raise ValueError(f"{name} {problem}.")
    return _in_ras(affine, meta)


def _in_ras(affine: NDArray[np.float64], meta: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return an affine in RAS+; the affine of an ITK reader may be in LPS+, which its metadata says."""
    return LPS_TO_RAS @ affine if meta.get("space") == "LPS" else affine


class ResampleAntiAliasedd(MapTransform):
    """Resample to a voxel size about the centre of the field of view, smoothing along each axis that becomes coarser.

    The Gaussian's full width at half maximum is sqrt(target^2 - source^2), so that the extent of a voxel of the result
    is about its spacing. MONAI's ``Spacing`` alone picks single voxels when it coarsens, and shifts the grid of an
    oblique volume by up to a voxel if its affine changes by 1e-7, for example from NIfTI to DICOM.

    Beyond its faces, a volume continues as its background if the record notes one (see :class:`ReadVolumed`), and as
    the voxels of its faces if the record notes that there is none. If the record notes nothing, as in release 0.1.0,
    smoothing continues the volume as 0. A volume with a background b other than 0 becomes float64, so that background
    and foreground remain as distinguishable as they are around 0.

    Args:
        keys: key of the volume, a channel-first ``MetaTensor``.
        spacing: target voxel size in millimetres, one number or three.
        center: point about which the grid is placed, as in :class:`CropToGridd`; with "foreground" or a point, a
            voxel's centre is placed there, wherever the file's array ends.

    Example:
        >>> volume = MetaTensor(torch.ones(1, 8, 8, 8), affine=torch.eye(4))
        >>> resampled = ResampleAntiAliasedd("image", 2)({"image": volume})["image"]
        >>> tuple(resampled.shape), resampled.affine[:3, 3].tolist()  # the same centre, 3.5 mm
        ((1, 4, 4, 4), [0.5, 0.5, 0.5])
    """

    def __init__(self, keys: str, spacing: float | Sequence[float], center: str | Sequence[float] = "image") -> None:
        super().__init__(keys)
        self.spacing = np.asarray(three_spacings("spacing", spacing))
        self.center = check_center(center)
        self.resample = SpatialResample(mode="bilinear", padding_mode="border")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the record with its volume resampled."""
        result = dict(data)
        for key in self.keys:
            source = np.linalg.norm(result[key].affine[:3, :3].numpy(), axis=0)
            if not np.allclose(source, self.spacing, rtol=1e-3):
                result[key] = self._resampled(result, key, source)
        return result

    def _resampled(self, record: dict[Hashable, Any], key: Hashable, source: NDArray[np.float64]) -> MetaTensor:
        volume: MetaTensor = record[key]
        point = point_of(self.center, record, key)
        is_noted = isinstance(record.get(f"{key}_background"), Tensor)
        background = noted_background(record, key) if is_noted else None
        if background:
            volume = volume - background  # so that the background is 0, inside the volume and beyond its faces
        sigmas = np.sqrt(np.maximum(self.spacing**2 - source**2, 0)) / source / FWHM_PER_SIGMA
        if point is not None and background is not None:
            # as far as the volume has any effect, so that a copy with more background around it gives the same result
            reach = np.ceil(TRUNCATED * sigmas + self.spacing / source) + 1
            volume = BorderPad(spatial_border=[int(side) for side in np.repeat(reach, 2)])(volume)
        if np.any(sigmas > 0):
            smooth = _smoothed_to_the_edge if is_noted and background is None else _smoothed_to_zero
            volume = smooth(volume, sigmas)
        affine, shape = _resampled_grid(volume.affine.numpy(), volume.shape[1:], source, self.spacing, point)
        volume = self.resample(volume, dst_affine=torch.from_numpy(affine), spatial_size=shape)
        if point is not None and background is not None:
            # where voxels of both grids coincide, rounding decides whether a neighbour leaves a trace: set traces to 0
            volume = volume * torch.from_numpy(foreground(plain_tensor(volume).numpy(), 0.0, FAINT))
        return _shifted(volume, background) if background else volume


def _shifted(volume: MetaTensor, background: float) -> MetaTensor:
    """Return a volume plus its background as float64; only its zeros become the background."""
    shifted = volume.double() + background
    # far out in the Gaussian's tail, even float64 rounds a sum to the background
    beside = torch.nextafter(torch.full_like(shifted, background), torch.sign(volume).double() * torch.inf)
    found: MetaTensor = torch.where((volume != 0) & (shifted == background), beside, shifted)
    return found


def _smoothed_to_zero(volume: MetaTensor, sigmas: NDArray[np.float64]) -> MetaTensor:
    smoothed: MetaTensor = GaussianSmooth(sigma=tuple(sigmas))(volume)
    return smoothed


def _smoothed_to_the_edge(volume: MetaTensor, sigmas: NDArray[np.float64]) -> MetaTensor:
    """Smooth like ``GaussianSmooth``, but continue the volume as the voxels of its faces, not as 0."""
    kernels = [gaussian_1d(torch.tensor(float(sigma)), truncated=TRUNCATED) for sigma in sigmas]
    smoothed = separable_filtering(plain_tensor(volume)[None], kernels, mode="replicate")[0]
    return MetaTensor(smoothed).copy_meta_from(volume)


def _resampled_grid(
    affine: NDArray[np.float64],
    shape: Sequence[int],
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    point: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], list[int]]:
    """Return the affine and shape of a grid with another voxel size, the same axes and about the same extent.

    Without a point, the centre stays the same. With one, it coincides with a voxel's centre of the grid, extended if
    necessary.
    """
    sides = np.asarray(shape)
    grid = affine.copy()
    grid[:3, :3] = affine[:3, :3] / source * target
    # a little more than half, so that rounding errors don't decide if the extent is n and a half voxels
    if point is None:
        n_voxels = np.maximum(np.floor(sides * source / target + 0.501), 1)
        centre = affine[:3, :3] @ ((sides - 1) / 2) + affine[:3, 3]
        grid[:3, 3] = centre - grid[:3, :3] @ ((n_voxels - 1) / 2)
    else:
        index, step = np.linalg.solve(affine[:3, :3], point - affine[:3, 3]), target / source
        n_before = np.floor((index + 0.501) / step)
        n_voxels = np.maximum(np.floor((sides - 1 + 0.501 - index) / step) + n_before + 1, 1)
        grid[:3, 3] = point - grid[:3, :3] @ n_before
    return grid, [int(side) for side in n_voxels]


def three_spacings(name: str, value: float | Sequence[float]) -> tuple[float, float, float]:
    """Return one or three voxel sizes as three, or raise ``ValueError``."""
    values = list(value) if isinstance(value, Sequence) else [value] * 3
    if len(values) != 3:
        raise ValueError(f"`{name}` must be one number or three, in millimetres, got {value!r}.")
    x, y, z = (check_real(name, entry, minimum=0, exclusive=True) for entry in values)
    return x, y, z


class ScaleBrainIntensityd(MapTransform):
    """Scale intensities by percentiles of the foreground, clip them to [0, 1], and store the range in the record.

    With b the volume's constant background and p_lo, p_hi percentiles of the voxels other than b (of all voxels if
    there is none), x becomes clip((x - lo) / (p_hi - lo), 0, 1), with lo = min(p_lo, b) (p_lo if there is none). A
    copy a x + c of a volume, a > 0, gives the same. A background within the range of the foreground, such as the 0
    around a z-scored brain, becomes grey, since b > lo.

    The record also gets ``<key>_range``, (lo, p_hi), float64.

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
            background = 0.0 if self.background == "zero" else noted_background(result, key)
            volume = result[key]
            values = plain_tensor(volume).cpu().numpy()
            brain = values if background is None else values[values != background]
            if brain.size == 0:
                what = "non-zero voxel" if background == 0 else f"voxel other than its background of {background:g}"
                raise ValueError(
                    f"{named(result, key)} has no {what} inside the field of view that `spatial_shape`, `spacing` and "
                    "`center` leave."
                )
            low, high = np.percentile(brain, self.percentiles)
            if background is not None:
                low = min(low, background)
            if high <= low:  # nearly all foreground voxels are equal and darker than the background
                low, high = float(values.min()), float(values.max())
            if high <= low:
                raise ValueError(
                    f"{named(result, key)} is constant, {low:g}, inside the field of view that `spatial_shape`, "
                    "`spacing` and `center` leave."
                )
            result[key] = (volume - float(low)) / float(high - low)
            result[key] = result[key].clamp(0.0, 1.0)
            result[f"{key}_range"] = torch.tensor([low, high], dtype=torch.float64)
        return result


def check_percentiles(percentiles: Any) -> tuple[float, float]:
    """Return a lower and an upper percentile, or raise ``ValueError``."""
    if not isinstance(percentiles, Sequence) or isinstance(percentiles, str) or len(percentiles) != 2:
        raise ValueError(f"`percentiles` must be a lower and an upper percentile, got {percentiles!r}.")
    low = check_real("percentiles[0]", percentiles[0], minimum=0, maximum=100)
    return low, check_real("percentiles[1]", percentiles[1], minimum=low, maximum=100, exclusive=True)


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
            meta = _meta_of(volume, data, key)
            sample[key] = plain_tensor(torch.as_tensor(volume)).float().contiguous()
            sample[f"{key}_path"] = str(data.get(f"{key}_path") or file_of(meta))
            if isinstance(volume, MetaTensor):
                sample[f"{key}_affine"] = torch.from_numpy(_in_ras(as_float64(volume.affine), meta))
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
    return {"source_affine": torch.from_numpy(_in_ras(grid, meta)), "source_shape": torch.from_numpy(sides)}
