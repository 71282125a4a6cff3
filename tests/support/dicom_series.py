"""DICOM series as a scanner exports them, written slice by slice with ITK."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_betavae.data.volumes.dicom import itk_alone

UID = "1.2.826.0.1.3680043.10.1"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_series(
    folder: Path,
    values: np.ndarray[Any, Any],
    affine: np.ndarray[Any, Any],
    *,
    series: int = 1,
    slices: Sequence[int] | None = None,
    shift: Sequence[float] = (0.0, 0.0, 0.0),
    prefix: str = "IM",
) -> Path:
    """Write int16 values (x, y, z) with a RAS affine; ``shift`` moves each slice by its number times that, in mm."""
    folder.mkdir(parents=True, exist_ok=True)
    with itk_alone():
        _write(folder, values, affine, series, slices, shift, prefix)
    return folder


def _write(
    folder: Path,
    values: np.ndarray[Any, Any],
    affine: np.ndarray[Any, Any],
    series: int,
    slices: Sequence[int] | None,
    shift: Sequence[float],
    prefix: str,
) -> None:
    import itk

    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    for number in range(values.shape[2]) if slices is None else slices:
        origin = (lps @ [0, 0, number, 1])[:3] + number * np.asarray(shift)
        image = itk.image_from_array(np.ascontiguousarray(values[:, :, number].T[None]))
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(origin.tolist())
        image.SetDirection(direction)
        tags = image.GetMetaDataDictionary()
        for tag, value in {
            "0020|000d": f"{UID}.1",
            "0020|000e": f"{UID}.2.{series}",
            "0008|0018": f"{UID}.3.{series}.{number}",
            "0008|0021": "20200101",
            "0008|0060": "MR",
            "0010|0020": "person",
            "0020|0013": str(number),
            "0020|0032": "\\".join(f"{entry:.6f}" for entry in origin),
            "0020|0037": "\\".join(f"{entry:.8f}" for entry in [*direction[:, 0], *direction[:, 1]]),
        }.items():
            tags[tag] = value
        writer = itk.ImageFileWriter.New(image)
        gdcm = itk.GDCMImageIO.New()
        gdcm.SetKeepOriginalUID(True)
        writer.SetImageIO(gdcm)
        writer.SetFileName(str(folder / f"{prefix}{number:04d}"))
        writer.UseInputMetaDataDictionaryOn()
        writer.Update()
