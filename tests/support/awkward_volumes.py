"""Volumes as labs have them: awkward ones that must be read, and broken ones that must be refused by name."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (12, 14, 10)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
Writer = Callable[[Path], Path]


def brain() -> np.ndarray[Any, Any]:
    """Return a smooth bright ellipsoid in an empty background."""
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE), indexing="ij")
    distance = sum(axis**2 for axis in axes)
    return np.where(distance < 1, 900 - 400 * distance + 50 * axes[0], 0).astype(np.float32)


def save(path: Path, values: Any, affine: Any = AFFINE, kind: Any = nib.Nifti1Image) -> Path:
    nib.save(kind(values, affine), path)
    return path


def _flipped(folder: Path) -> Path:
    las = AFFINE.copy()
    las[0] = [-2.0, 0, 0, 2.0 * (SHAPE[0] - 1)]
    return save(folder / "las.nii.gz", brain()[::-1].copy(), las)


def _permuted(folder: Path) -> Path:
    affine = AFFINE[:, [2, 0, 1, 3]]
    return save(folder / "permuted.nii.gz", brain().transpose(2, 0, 1).copy(), affine)


def _sloped(folder: Path) -> Path:
    image = nib.Nifti1Image(np.round(brain() * 10).astype(np.int16), AFFINE)
    image.header.set_slope_inter(0.1, 0)
    image.header["vox_offset"] = 352
    raw = folder / "sloped.nii"
    with raw.open("wb") as file:
        file.write(image.header.binaryblock + b"\0\0\0\0")
        file.write(np.asarray(image.dataobj).tobytes(order="F"))
    return raw


def _hot(folder: Path) -> Path:
    values = brain()
    values[6, 7, 5] = 1e7
    return save(folder / "hot.nii.gz", values)


def _one_nan(folder: Path) -> Path:
    values = brain()
    values[6, 7, 5] = np.nan
    return save(folder / "one_nan.nii.gz", values)


def _qform_only(folder: Path) -> Path:
    image = nib.Nifti1Image(brain(), AFFINE)
    image.set_qform(AFFINE, code=1)
    image.set_sform(None, code=0)
    nib.save(image, folder / "qform.nii.gz")
    return folder / "qform.nii.gz"


def _no_code(folder: Path) -> Path:
    image = nib.Nifti1Image(brain(), None)
    image.header.set_zooms((2, 2, 2))
    nib.save(image, folder / "no_code.nii.gz")
    return folder / "no_code.nii.gz"


READ: dict[str, Writer] = {
    "plain": lambda folder: save(folder / "plain.nii.gz", brain()),
    "uncompressed": lambda folder: save(folder / "uncompressed.nii", brain()),
    "an ending in capitals": lambda folder: save(folder / "a.nii.gz", brain()).rename(folder / "A.NII.GZ"),
    "NIfTI-2": lambda folder: save(folder / "two.nii.gz", brain(), kind=nib.Nifti2Image),
    "MGZ": lambda folder: save(folder / "brain.mgz", brain(), kind=nib.MGHImage),
    "LAS": _flipped,
    "permuted axes": _permuted,
    "int16 with a slope": _sloped,
    "float64": lambda folder: save(folder / "double.nii.gz", brain().astype(np.float64)),
    "uint8": lambda folder: save(folder / "uint8.nii.gz", (brain() / 4).astype(np.uint8)),
    "big endian": lambda folder: save(
        folder / "big.nii.gz", brain(), kind=lambda v, a: nib.Nifti1Image(v, a, nib.Nifti1Header(endianness=">"))
    ),
    "a trailing axis": lambda folder: save(folder / "four.nii.gz", brain()[..., None]),
    "two trailing axes": lambda folder: save(folder / "five.nii.gz", brain()[..., None, None]),
    "a hot voxel": _hot,
    "one NaN": _one_nan,
    "a qform only": _qform_only,
    "no orientation code": _no_code,
    "a space in the name": lambda folder: save(folder / "my brain é.nii.gz", brain()),
}


def _truncated(folder: Path) -> Path:
    path = save(folder / "truncated.nii.gz", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _truncated_raw(folder: Path) -> Path:
    path = save(folder / "truncated.nii", brain())
    path.write_bytes(path.read_bytes()[:-100])
    return path


def _header_only(folder: Path) -> Path:
    path = save(folder / "header.nii.gz", brain())
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:352]))
    return path


def _damaged(folder: Path) -> Path:
    path = save(folder / "damaged.nii.gz", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 40):
        content[place] ^= 0xFF
    path.write_bytes(bytes(content))
    return path


def _written(name: str, content: bytes) -> Writer:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _nan_share(share: float) -> Writer:
    def write(folder: Path) -> Path:
        values = brain()
        values.reshape(-1)[: int(share * values.size)] = np.nan
        return save(folder / "nan.nii.gz", values)

    return write


def _affine(rows: dict[int, list[float]]) -> Writer:
    def write(folder: Path) -> Path:
        affine = AFFINE.copy()
        for row, values in rows.items():
            affine[row] = values
        image = nib.Nifti1Image(brain(), None)
        image.header["sform_code"] = 1
        for name, line in zip(("srow_x", "srow_y", "srow_z"), affine, strict=False):
            image.header[name] = line
        # nibabel writes the affine it has; the header alone carries a broken one
        raw = folder / "affine.nii"
        with raw.open("wb") as file:
            image.header["vox_offset"] = 352
            image.header["magic"] = b"n+1"
            file.write(image.header.binaryblock + b"\0\0\0\0" + brain().tobytes(order="F"))
        return raw

    return write


def _colours(folder: Path) -> Path:
    values = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return save(folder / "colours.nii.gz", values)


def _huge(folder: Path) -> Path:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((32000, 32000, 32000))
    (folder / "huge.nii.gz").write_bytes(gzip.compress(header.binaryblock + b"\0\0\0\0" + b"\0" * 1000))
    return folder / "huge.nii.gz"


_COMPLEX = brain().astype(np.complex64)

# kind: (how to write it, what the message says, whether the header alone gives it away)
REFUSED: dict[str, tuple[Writer, str, bool]] = {
    "an empty file": (_written("empty.nii.gz", b""), "is an empty file", True),
    "text": (_written("text.nii", b"participant_id\tage\n" * 40), "can't be read as a NIfTI or MGH volume", True),
    "text in gzip": (_written("text.nii.gz", gzip.compress(b"no" * 400)), "can't be read as a NIfTI", True),
    "not gzip": (_written("zip.nii.gz", b"PK\3\4" + b"0" * 400), "can't be read as a NIfTI", True),
    "truncated, compressed": (_truncated, "is truncated or damaged", False),
    "truncated": (_truncated_raw, "is truncated", True),
    "a header alone": (_header_only, "is truncated or damaged", False),
    "damaged": (_damaged, "is truncated or damaged", False),
    "4D": (lambda f: save(f / "4d.nii.gz", np.stack([brain()] * 3, -1)), r"3 of them: shape \(12, 14, 10, 3\)", True),
    "a vector field": (
        lambda f: save(f / "5d.nii.gz", np.stack([brain()] * 3, -1)[:, :, :, None]),
        "3 of them",
        True,
    ),
    "2D": (lambda f: save(f / "2d.nii.gz", brain()[:, :, 5]), "got one slice", True),
    "one slice": (lambda f: save(f / "slice.nii.gz", brain()[:, :, 5:6]), "got one slice", True),
    "complex": (lambda f: save(f / "complex.nii.gz", _COMPLEX), "real numbers, got complex", True),
    "colours": (_colours, "real numbers, got colours", True),
    "constant": (lambda f: save(f / "c.nii.gz", np.full(SHAPE, 3, np.float32)), "must not be constant, got 3", False),
    "zeros": (lambda f: save(f / "z.nii.gz", np.zeros(SHAPE, np.int16)), "must not be constant, got 0", False),
    "all NaN": (lambda f: save(f / "n.nii.gz", np.full(SHAPE, np.nan, np.float32)), "no finite voxel", False),
    "a background of NaN": (_nan_share(0.3), "504 non-finite voxels, 30%", False),
    "a singular affine": (_affine({1: [0, 2, 2, 0], 2: [0, 2, 2, 0]}), "invertible affine", True),
    "an affine of zeros": (_affine({0: [0, 0, 0, 0]}), "must have voxels of 0.05 to 20 mm", True),
    "an affine with NaN": (_affine({2: [0, 0, float("nan"), 0]}), "must have a finite affine", True),
    "voxels of a metre": (
        lambda f: save(f / "m.nii.gz", brain(), np.diag([1000.0, 1000, 1000, 1])),
        "0.05 to 20 mm, got 1000 x 1000 x 1000",
        True,
    ),
    "voxels in metres": (
        lambda f: save(f / "mm.nii.gz", brain(), np.diag([0.002, 0.002, 0.002, 1])),
        "got 0.002 x 0.002 x 0.002",
        True,
    ),
    "a header of 32000 cubed": (_huge, "its header is broken", True),
    "nothing there": (lambda f: f / "absent.nii.gz", "can't be read: No such file", True),
}
