"""The folding of one subject's cortex: sulci as thin sheets of CSF, grey matter along them, white matter between.

A sulcus is a sheet that enters the hemisphere from its outline down to a depth D. At a point whose distance to the
sheet is s and whose depth below the outline is h, the distance to the sulcus is d = sqrt(s² + max(h - D, 0)²). CSF
fills d < w, grey matter w < d < w + t. There are three kinds of sheets:

- Shared sulci come from a source that many subjects have in common, but each subject has its own depth, interruptions
  and position. The deeper a sulcus of the source, the more subjects have it.
- Own sulci are the zeros of a random field on the outline. They have ends and forks where the depth, another random
  field, goes to 0, and keep away from the shared sulci that the subject has.
- The paracingulate sulcus exists or doesn't, on each side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from monai_betavae.data.simulation.anatomy import FIELD_CENTRE_MM, FIELD_OF_VIEW_MM, Floats
from monai_betavae.data.simulation.cortex import Columns, FoldedAnatomy, sample_coarse
from monai_betavae.data.simulation.interpolation import interpolate

# how each base anatomy takes its shared sulci: source, and the hemisphere whose pattern the left and the right one show
BASES: dict[str, tuple[str, str, str]] = {
    "fsaverage": ("fsaverage", "left", "right"),
    "fsaverage-swapped": ("fsaverage", "right", "left"),
    "fsaverage-left": ("fsaverage", "left", "left"),
    "fsaverage-right": ("fsaverage", "right", "right"),
    "mni152": ("mni152", "left", "right"),
}

_FIELD_LATTICE_MM, _SMOOTH_LATTICE_MM = 3.0, 5.0
_SHIFT_WIDTH_MM, _DEPTH_WIDTH_MM = 12.0, 10.0
# mean and spread over the outline of `Sulci.primary`, and mean of `Sulci.half_width`
_PRIMARY_MM = {"fsaverage": (4.4, 1.2), "mni152": (4.0, 2.0)}
_HALF_WIDTH_MM = {"fsaverage": 2.2, "mni152": 1.1}
_SHARED_DEPTH_MM, _OWN_DEPTH_MM, _DEEPEST_OWN_MM = 22.0, 14.0, 19.0
_OWN_WIDTH = 0.8
# the paracingulate sulcus follows an ellipse around the corpus callosum in the plane of y and z
_PARACINGULATE_CENTRE_MM, _PARACINGULATE_AXES_MM = (0.0, 8.0), (55.0, 42.0)


@dataclass(frozen=True)
class Folding:
    """How one subject's cortex is folded; the defaults describe a typical subject.

    Attributes:
        base: base anatomy, a key of `BASES`.
        shared: how much of the shared sulci the subject has; 0.5 gives half of those of mean depth.
        own: depth of the own sulci relative to typical ones.
        wavelength_mm: wavelength of the own sulci; neighbouring ones are about half as far apart.
        shift_mm: standard deviation of the shift of the shared sulci along each axis.
        paracingulate_left: depth of the left paracingulate sulcus in mm, 0 if there is none.
        paracingulate_right: depth of the right one.
    """

    base: str = "fsaverage"
    shared: float = 0.7
    own: float = 1.0
    wavelength_mm: float = 21.0
    shift_mm: float = 2.5
    paracingulate_left: float = 0.0
    paracingulate_right: float = 0.0


@dataclass(frozen=True)
class Sheets:
    """Distances of a subject's voxels to everything that is CSF around the cortex.

    Attributes:
        depth: depth below the outline of the hemisphere in mm of the template, negative outside.
        sulci: distance to the sulci in mm of the template, and their width relative to a typical one, by kind:
            "shared", "own" and, if the subject has any, "paracingulate".
    """

    depth: Floats
    sulci: dict[str, tuple[Floats, Floats]]


def draw_folding(rng: np.random.Generator) -> Folding:
    """Draw the folding of one subject: 45 % have a left, 30 % a right paracingulate sulcus.

    Source:
        Paus et al. 1996, Cerebral Cortex 6, 207-214 (the paracingulate sulcus is more frequent on the left).
    """
    base = list(BASES)[rng.integers(len(BASES))]
    shared, own, wavelength = rng.beta(5, 3), rng.normal(1, 0.18), rng.normal(21, 1.5)
    left, right = (float(rng.uniform(8, 15)) * (rng.random() < share) for share in (0.45, 0.3))
    return Folding(
        base=base,
        shared=float(shared),
        own=float(np.clip(own, 0.5, 1.5)),
        wavelength_mm=float(np.clip(wavelength, 17, 25)),
        paracingulate_left=left,
        paracingulate_right=right,
    )


def fold(
    anatomy: FoldedAnatomy, position: Floats, columns: Columns, folding: Folding, rng: np.random.Generator
) -> Sheets:
    """Return the distances to the outline and to the sulci of a subject.

    Args:
        anatomy: the result of `cortex.load_folded_anatomy`.
        position: positions in the template in mm, ``(3, n)``.
        columns: the result of `cortex.sample_columns` at ``position``.
        folding: how the subject differs from others.
        rng: source of the subject's fields.
    """
    source, left, right = BASES[folding.base]
    source_sulci = anatomy.sulci[source]
    depth, column, inward = columns.depth, columns.column, columns.inward
    fields = _smooth_fields(rng, column)
    shift, chance, own_depth = np.float32(folding.shift_mm) * fields[:3], fields[3], fields[4]
    mirrored = np.where(position[0] < 0, left == "right", right == "left")
    origin = anatomy.template.origin.astype(np.float32)[:, None]

    def in_source(at: Floats) -> Floats:
        moved: Floats = at + shift
        moved[0] = np.where(mirrored, -moved[0], moved[0])
        return moved

    def distance_in_source(at: Floats) -> Floats:
        sampled: Floats = ndimage.map_coordinates(source_sulci.distance, at - origin, order=1, mode="nearest")
        return sampled

    at = in_source(position)
    half_width, mean_depth = sample_coarse(anatomy, source_sulci.around, at)
    middle, spread = _PRIMARY_MM[source]
    presence = _logistic(2 * (mean_depth - middle) / spread + 3 * chance + 6 * (folding.shared - 0.5))
    width = 0.5 + 0.5 * half_width / np.float32(_HALF_WIDTH_MM[source])
    shared = _to_sulcus(distance_in_source(at), depth, presence * np.float32(_SHARED_DEPTH_MM))

    # where the shared sulci are at the surface, which is the same all the way down a column
    mouth = distance_in_source(in_source(column + 4 * inward))
    room = np.clip((mouth + 12 * (1 - presence) - 4) / 4, 0, 1)
    deepest = np.float32(folding.own * _OWN_DEPTH_MM) * np.clip(1 + 0.5 * own_depth, 0, 2) * room
    # sulci of the medial surface are shallower, since the corpus callosum lies below
    medial = np.clip((12 - np.abs(column[0])) / 4, 0, 1)
    deepest = np.minimum(deepest * (1 - 0.35 * medial), np.float32(_DEEPEST_OWN_MM))
    sheet = _distance_to_zeros(rng, columns, folding.wavelength_mm) / np.maximum(columns.convergence, 1)
    # a sheet would jump from the columns of one side to those of the other
    sheet = sheet + 8 * np.maximum(columns.convergence - 1.7, 0)
    own = _to_sulcus(sheet.astype(np.float32), depth, deepest.astype(np.float32))
    sulci = {"shared": (shared, width), "own": (own, np.full_like(own, _OWN_WIDTH))}
    if folding.paracingulate_left or folding.paracingulate_right:
        distance = _to_paracingulate(position, position + shift, depth, folding)
        sulci["paracingulate"] = (distance, np.ones_like(distance))
    return Sheets(depth, sulci)


def cortical_tissues(
    sheets: Sheets,
    thickness: Floats,
    half_voxel: float,
    sulcus_mm: float | npt.NDArray[np.float64],
    retreat: Floats,
    *,
    without: str = "",
) -> tuple[Floats, Floats]:
    """Return the fractions of grey and white matter in voxels of the cortex.

    The fraction of a voxel that lies in a layer of tissue is that of an interval as long as the voxel across it.
    Layers of different sulci cover a voxel independently: what is left of it is the product of what each leaves.

    Args:
        sheets: the result of `fold`.
        thickness: thickness of the cortex in mm.
        half_voxel: half of the voxel size in mm of the template.
        sulcus_mm: half of the width of a typical sulcus.
        retreat: how many mm the cortex lies below the outline.
        without: kind of sulci to leave out.
    """
    half = np.float32(half_voxel)

    def layer(distance: Floats, half_width: Floats) -> Floats:
        high = np.clip(distance + half, -half_width, half_width)
        covered: Floats = (high - np.clip(distance - half, -half_width, half_width)) / (2 * half)
        return covered

    left = []
    for grey in (np.zeros_like(thickness), thickness):
        inside = np.clip(0.5 + (sheets.depth - retreat - grey) / (2 * half), 0, 1)
        for kind, (distance, width) in sheets.sulci.items():
            if kind != without:
                inside *= 1 - layer(distance, np.asarray(sulcus_mm, dtype=np.float32) * width + grey)
        left.append(inside)
    white = np.minimum(left[0], left[1])
    return left[0] - white, white


def _smooth_fields(rng: np.random.Generator, column: Floats) -> Floats:
    """Return five smooth fields of unit variance: the shift of the shared sulci, the depths of shared and own ones."""
    widths = np.array([_SHIFT_WIDTH_MM] * 3 + [_DEPTH_WIDTH_MM] * 2) / _SMOOTH_LATTICE_MM
    fields = [ndimage.gaussian_filter(_white(rng, _SMOOTH_LATTICE_MM), width, mode="wrap") for width in widths]
    unit = np.stack([field / np.float32(field.std(dtype=np.float64)) for field in fields], axis=-1)
    return interpolate(unit, _on_lattice(column, _SMOOTH_LATTICE_MM))


def _distance_to_zeros(rng: np.random.Generator, columns: Columns, wavelength_mm: float) -> Floats:
    """Return the distance along the outline to the zeros of a random field f of one wavelength: |f| / |grad f|."""
    # the difference of two Gaussians of widths s and 1.6 s passes most at the wavelength 5.72 s
    sigma = wavelength_mm / 5.72 / _FIELD_LATTICE_MM
    field = ndimage.gaussian_filter(_white(rng, _FIELD_LATTICE_MM), sigma, mode="wrap")
    field -= ndimage.gaussian_filter(field, sigma * math.sqrt(1.6**2 - 1), mode="wrap")
    field /= np.float32(field.std(dtype=np.float64))
    maps = np.stack([field, *np.gradient(field, np.float32(_FIELD_LATTICE_MM))], axis=-1)
    values = interpolate(maps, _on_lattice(columns.column, _FIELD_LATTICE_MM))
    slope = values[1:] - columns.inward * (values[1:] * columns.inward).sum(axis=0)
    # the floor keeps saddles, where the slope is 0, from becoming wide pools
    steepness = np.sqrt((slope**2).sum(axis=0) + np.float32(0.3 * 2 * math.pi / wavelength_mm) ** 2)
    distance: Floats = np.abs(values[0]) / steepness
    return distance


def _white(rng: np.random.Generator, lattice_mm: float) -> Floats:
    """Return white noise on a lattice that covers the field of view and 12 mm beyond."""
    return rng.standard_normal([math.ceil((side + 24) / lattice_mm) + 1 for side in FIELD_OF_VIEW_MM], dtype=np.float32)


def _on_lattice(position: Floats, lattice_mm: float) -> Floats:
    """Return positions in mm as positions on the lattice of `_white`."""
    origin = np.array(FIELD_CENTRE_MM) - (np.array(FIELD_OF_VIEW_MM) + 24) / 2
    return (position - origin.astype(np.float32)[:, None]) / np.float32(lattice_mm)


def _to_paracingulate(position: Floats, moved: Floats, depth: Floats, folding: Folding) -> Floats:
    """Return the distance to the paracingulate sulci that the subject has."""
    y, z = ((moved[axis + 1] - np.float32(_PARACINGULATE_CENTRE_MM[axis])) for axis in range(2))
    a, b = _PARACINGULATE_AXES_MM
    radius = np.sqrt((y / a) ** 2 + (z / b) ** 2)
    # |rho - 1| / |gradient of rho|
    sheet = np.abs(radius - 1) * radius / np.maximum(np.sqrt((y / a**2) ** 2 + (z / b**2) ** 2), 1e-4)
    side = np.where(position[0] < 0, folding.paracingulate_left, folding.paracingulate_right).astype(np.float32)
    # above and in front of the corpus callosum, on the medial surface
    extent = np.clip((y + 15) / 10, 0, 1) * np.clip((z + 15) / 10, 0, 1) * np.clip((22 - np.abs(position[0])) / 4, 0, 1)
    return _to_sulcus(sheet.astype(np.float32), depth, side * extent)


def _to_sulcus(sheet: Floats, depth: Floats, bottom: Floats) -> Floats:
    """Return the distance to a sheet that goes down to ``bottom``; the less below 4 mm, the farther it withdraws."""
    below = np.hypot(sheet, np.maximum(depth - bottom, 0))
    return np.asarray(below + 2 * np.maximum(4 - bottom, 0), dtype=np.float32)


def _logistic(value: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-value)), dtype=np.float32)
