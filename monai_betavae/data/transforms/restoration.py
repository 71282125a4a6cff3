"""The way back from a reconstruction on the model's grid to the grid, affine and intensities of its source volume."""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Mapping
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ...batches.images import plain_tensor
from ..volumes.volume_files import open_volume
from .channels import of_channels
from .field_of_view import scaled_background
from .images_in_memory import as_float64


class RestoreVolumed(MapTransform):
    """Restore a reconstruction to the grid, affine and intensities of the volume that was the model's input.

    Voxels outside the model's field of view become the volume's background if the sample notes one
    (``<image_key>_background``), otherwise 0. Values between voxels of the model's grid are interpolated linearly;
    where the grids coincide (only padded, cropped or flipped), values are unchanged. No file is needed: the sample
    contains the volume's original grid (``<image_key>_source_affine``, ``<image_key>_source_shape``). Only for a sample
    without these is the file under ``<image_key>_path`` opened.

    Args:
        keys: key of the reconstruction, shape (1, ...), on the grid of the sample's image.
        image_key: key of the image in a sample of :func:`~monai_betavae.data.brain_transforms`.
        restore_intensity: whether to undo the intensity scaling recorded in ``<image_key>_range``, if present;
            clipped intensities stay clipped.
        allow_missing_keys: whether a sample may lack ``keys``.

    Example:
        >>> from monai_betavae.data import brain_transforms
        >>> volume = MetaTensor(torch.rand(20, 24, 18) * 900, affine=torch.diag(torch.tensor([-2.0, 2.0, 2.0, 1.0])))
        >>> sample = brain_transforms((24, 24, 24), percentiles=(0, 100))({"image": volume})
        >>> restored = RestoreVolumed()({**sample, "pred": sample["image"]})["pred"]
        >>> restored.shape, bool((restored - volume).abs().max() < 1e-3), bool((restored.affine == volume.affine).all())
        (torch.Size([1, 20, 24, 18]), True, True)
    """

    def __init__(
        self,
        keys: Any = "pred",
        image_key: str = "image",
        restore_intensity: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.restore_intensity = restore_intensity

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the reconstruction as a float32 ``MetaTensor``, shape (channel, x, y, z).

        Raises:
            ValueError: if the sample lacks the original grid of its image, or the reconstruction isn't one volume
                of its channels; the message names the key.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self._restored(key, result[key], data)
        return result

    def _restored(self, key: Hashable, reconstruction: Any, sample: Mapping[Hashable, Any]) -> MetaTensor:
        volume = plain_tensor(torch.as_tensor(reconstruction)).detach().cpu().float()
        noted = [sample.get(f"{self.image_key}_{name}") for name in ("range", "background")]
        n_channels = 1 if noted[0] is None else max(as_float64(noted[0]).size // 2, 1)
        if volume.ndim != 4 or (len(volume) != n_channels and noted[0] is not None):
            raise ValueError(
                f"{key!r} must be one volume of shape ({n_channels}, x, y, z), got shape {tuple(volume.shape)}."
            )
        affine, shape = self._source(sample)
        to_model = np.linalg.inv(self._model_affine(sample)) @ affine
        # if the grids coincide, a rounding error must not push their edge outside
        to_model = np.round(to_model, 7)
        scales = [None] * len(volume) if noted[0] is None else as_float64(noted[0]).reshape(-1, 2)
        backgrounds = [None] * len(volume) if noted[1] is None else of_channels(noted[1])
        channels = [
            self._in_file(values, to_model, shape, *of_channel)
            for values, *of_channel in zip(volume.numpy(), scales, backgrounds, strict=True)
        ]
        path = str(sample.get(f"{self.image_key}_path") or "")
        meta = {
            "original_affine": torch.from_numpy(affine),
            "spatial_shape": np.array(shape),
            "space": "RAS",
            # MONAI's writers name their file after this entry, and number the files without it
            **({"filename_or_obj": path} if path else {}),
        }
        restored = torch.from_numpy(np.stack([each.astype(np.float32) for each in channels]))
        return MetaTensor(restored, affine=torch.from_numpy(affine), meta=meta)

    def _in_file(
        self, values: NDArray[Any], to_model: NDArray[np.float64], shape: tuple[int, ...], scale: Any, background: Any
    ) -> NDArray[Any]:
        """Return a channel on the grid of the source volume, in its file's units."""
        to_voxels = {"offset": to_model[:3, 3], "output_shape": shape, "order": 1}
        inside: NDArray[Any] = ndimage.affine_transform(values, to_model[:3, :3], **to_voxels)
        low, high = (0.0, 1.0) if scale is None or not self.restore_intensity else scale
        fill = _filling(background, scale, self.restore_intensity)
        if low or fill:
            weight = ndimage.affine_transform(np.ones_like(values), to_model[:3, :3], **to_voxels)
            return np.asarray(inside * (high - low) + low * weight + fill * (1 - weight))
        return np.asarray(inside * (high - low))

    def _source(self, sample: Mapping[Hashable, Any]) -> tuple[NDArray[np.float64], tuple[int, ...]]:
        """Return the affine and shape of the original grid of the sample's image."""
        affine = sample.get(f"{self.image_key}_source_affine")
        shape = sample.get(f"{self.image_key}_source_shape")
        if affine is not None and shape is not None:
            return as_float64(affine), tuple(int(side) for side in as_float64(shape))
        path = sample.get(f"{self.image_key}_path")
        if not path:
            raise ValueError(
                f"The sample must say where its image came from, under '{self.image_key}_source_affine' and "
                f"'{self.image_key}_source_shape' or '{self.image_key}_path', got {_shown(sample)}."
            )
        reference = open_volume(path)
        return np.array(reference.affine, dtype=np.float64), tuple(reference.shape[:3])

    def _model_affine(self, sample: Mapping[Hashable, Any]) -> NDArray[np.float64]:
        affine = sample.get(f"{self.image_key}_affine")
        if affine is None:
            affine = getattr(sample.get(self.image_key), "affine", None)  # a MetaTensor before ToPlainSampled
        if affine is None:
            raise ValueError(
                f"The sample must have the affine of its image's grid under '{self.image_key}_affine', "
                f"got {_shown(sample)}."
            )
        return as_float64(affine)


def _filling(background: Any, scale: Any, restore_intensity: bool) -> float:
    """Return the value outside the model's field of view: the noted background, scaled or original, or 0."""
    if background is None or scale is None or math.isnan(background):
        return 0.0
    noted: dict[Hashable, Any] = {"image_background": background, "image_range": scale}
    return float(background) if restore_intensity else scaled_background(noted, "image")


class RestoreVolume(RestoreVolumed):
    """A :class:`RestoreVolumed` that is called with a reconstruction and its sample, and returns the image to save.

    Args:
        image_key: key of the image in a sample of :func:`~monai_betavae.data.brain_transforms`.
        restore_intensity: as in :class:`RestoreVolumed`.
        keys: as in :class:`RestoreVolumed`.

    Example:
        >>> import tempfile, os
        >>> from monai_betavae.data import brain_transforms
        >>> path = os.path.join(tempfile.mkdtemp(), "sub-1_T1w.nii.gz")
        >>> volume = np.random.default_rng(0).uniform(100, 900, (20, 24, 18)).astype(np.float32)
        >>> nib.save(nib.Nifti1Image(volume, np.diag([-2.0, 2.0, 2.0, 1.0])), path)
        >>> sample = brain_transforms((24, 24, 24), percentiles=(0, 100))({"image": path})
        >>> restored = RestoreVolume()(sample["image"], sample)
        >>> bool(np.abs(restored.get_fdata() - volume).max() < 1e-3)
        True
    """

    def __init__(self, image_key: str = "image", restore_intensity: bool = True, keys: str = "pred") -> None:
        super().__init__(keys, image_key, restore_intensity)

    def __call__(self, reconstruction: Any, sample: Mapping[Any, Any] | None = None) -> Any:
        """Return a nibabel image; or, given only a sample, return the sample like :class:`RestoreVolumed`.

        Args:
            reconstruction: the model's output for one image, shape (1, ...); or a sample with it under ``keys``.
            sample: the sample of that image from :func:`~monai_betavae.data.brain_transforms`.

        Returns:
            a float32 image on the volume's grid; see :func:`volume_image`.
        """
        if sample is None:
            return super().__call__(reconstruction)
        restored = self._restored("reconstruction", reconstruction, sample)
        return volume_image(restored, str(sample.get(f"{self.image_key}_path") or ""))


def volume_image(restored: MetaTensor, path: str | os.PathLike[str] = "") -> Any:
    """Make the nibabel image to save from the result of :class:`RestoreVolumed`.

    Args:
        restored: the restored volume, shape (1, x, y, z); several channels become the fourth axis of the image.
        path: the file of the original volume. If it can be opened and is on the grid of ``restored``, the geometry of
            its header is kept: exact sform and qform, their codes, the voxel sides and the units. Nothing else is kept,
            neither the meaning of the values nor texts and extensions, which may contain a name.

    Returns:
        a float32 nibabel image of shape (x, y, z), or (x, y, z, channel).

    Raises:
        ValueError: if ``restored`` isn't one volume with an affine.

    Example:
        >>> image = volume_image(MetaTensor(torch.rand(1, 4, 5, 6), affine=torch.diag(torch.tensor([2.0, 2, 2, 1]))))
        >>> image.shape, image.affine.diagonal().tolist()
        ((4, 5, 6), [2.0, 2.0, 2.0, 1.0])
    """
    if not isinstance(restored, MetaTensor) or restored.ndim != 4 or len(restored) < 1:
        got = tuple(restored.shape) if isinstance(restored, Tensor) else ""
        raise ValueError(f"`restored` must be a MetaTensor of shape (1, x, y, z), got {type(restored).__name__} {got}.")
    channels = plain_tensor(restored).detach().cpu().float().numpy()
    values = channels[0] if len(channels) == 1 else np.moveaxis(channels, 0, -1)
    affine = as_float64(restored.affine)
    reference = _opened(path) if os.fspath(path) else None
    if isinstance(reference, nib.Nifti1Image) and _on_grid(reference, values.shape[:3], affine):
        return _like(reference, values)
    return nib.Nifti1Image(values, affine)


def _opened(path: str | os.PathLike[str]) -> Any:
    try:
        return open_volume(path)
    except Exception:  # the file may be missing or moved, for instance on another machine: go on without it
        return None


def _on_grid(reference: Any, shape: tuple[int, ...], affine: NDArray[np.float64]) -> bool:
    return tuple(reference.shape[:3]) == shape and np.allclose(reference.affine, affine, rtol=0, atol=1e-4)


GEOMETRY = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip
"""Fields of a NIfTI header that locate its voxels, together with the voxel sides.

All other fields describe the intensities or acquisition of the input, or may contain a name, as may any extension.
"""


def _like(reference: Any, values: NDArray[np.float32]) -> Any:
    """Return a float32 image with the exact geometry of the reference and nothing else of its header."""
    # copy the sform and qform: writing an affine derived from a quaternion anew would round it to float32
    header = type(reference.header)()
    header.set_data_dtype(np.float32)
    for name in GEOMETRY:
        header[name] = reference.header[name]
    header["pixdim"][:4] = reference.header["pixdim"][:4]
    image = type(reference)(values, reference.affine, header)  # nibabel keeps a header that agrees with the affine
    image.header.set_slope_inter(1, 0)
    return image


def _shown(sample: Mapping[Hashable, Any]) -> str:
    return ", ".join(map(repr, sample)) or "nothing"
