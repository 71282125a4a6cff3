"""Where the cortex of the template is, and where its shared sulci run: what all folded brains of a cohort start from.

The sulci come from two sources: the pial surfaces of fsaverage5 and the CSF of the MNI152 template. Of each source only
the medial sheets of the sulci are kept, since sulci of one voxel or less must be drawn as thin at any spacing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage, spatial

from monai_betavae.data.simulation.anatomy import Anatomy, Floats, brain_stem_distance, fine_anatomy, smoothed
from monai_betavae.data.simulation.interpolation import interpolate
from monai_betavae.data.simulation.surfaces import fill_surface, load_hemisphere

Mask = npt.NDArray[np.bool_]

STEP_MM = 2
_TISSUES = ("gm", "wm", "csf", "ventricle", "texture")
_GYRAL_GAP_MM = 10
_SHELL_MM, _ROUNDING_MM = 3, 4.0
_DEEPEST_MM = 6.0
_OUTER_CSF_MM, _CLOSED_MM = 1.0, 6.0
_FOLD_CSF, _DEEPEST_FOLD_MM = 0.3, 25
_RIDGE_SLOPE, _SMALLEST_SHEET = 0.75, 200
_WIDTH_REACH_MM, _PRIMARY_REACH_MM = 3.0, 6.0
_LOWEST_SITE_MM = -30


@dataclass(frozen=True)
class Sulci:
    """The sulci of one source.

    Attributes:
        distance: distance in mm to the medial sheet of the nearest sulcus, 1 mm grid.
        around: half of the width of the sulci around, and their mean depth, which is large around primary sulci; both
            in mm, ``(x, y, z, 2)`` on a 2 mm grid.
    """

    distance: Floats
    around: Floats


@dataclass(frozen=True)
class Columns:
    """The surroundings of positions in the template.

    Attributes:
        depth: distance in mm to the outline of the hemisphere without its sulci, negative outside.
        column: nearest position on the outline, ``(3, n)`` in mm; about constant along a column of the cortex, so that
            a field that is evaluated there runs straight down a sulcus.
        inward: unit vectors from the outline to the inside, ``(3, n)``.
        convergence: how many mm the column moves per mm along the outline: 1 near a flat outline, far more in the
            middle of the hemisphere, where columns of two sides meet.
        thickness: thickness of the cortex in mm.
        unfolded: share that stays as in the template: cerebellum, brainstem and what lies at the medial wall.
    """

    depth: Floats
    column: Floats
    inward: Floats
    convergence: Floats
    thickness: Floats
    unfolded: Floats


@dataclass(frozen=True)
class FoldedAnatomy:
    """The template and its cortex; grids start where the template's do.

    Attributes:
        template: the maps of the template, smoothed for the spacing of the cohort.
        tissues: the template's gm, wm, csf, ventricle, texture and the grey matter of the deep nuclei, smoothed
            likewise; ``(x, y, z, 6)`` on the 1 mm grid.
        columns: the fields of `Columns` one after another, ``(x, y, z, 10)`` on a 2 mm grid.
        margin: distance in mm to the edge of the brain mask, negative outside, 2 mm grid.
        sulci: shared sulci by source: "fsaverage" and "mni152".
        surface_sites: positions ``(n, 3)`` on the outer surface of the cerebrum, where brain extraction may fail.
    """

    template: Anatomy
    tissues: Floats
    columns: Floats
    margin: Floats
    sulci: dict[str, Sulci]
    surface_sites: Floats


def sample_coarse(anatomy: FoldedAnatomy, maps: Floats, position: Floats) -> Floats:
    """Return maps ``(x, y, z, n_maps)`` of the 2 mm grid at ``position``, ``(3, n)`` in mm, as ``(n_maps, n)``."""
    return interpolate(maps, (position - anatomy.template.origin.astype(np.float32)[:, None]) / np.float32(STEP_MM))


def sample_columns(anatomy: FoldedAnatomy, position: Floats) -> Columns:
    """Return the surroundings of ``position``, ``(3, n)`` in mm of the template."""
    values = sample_coarse(anatomy, anatomy.columns, position)
    return Columns(values[0], values[1:4], values[4:7], *values[7:])


def sample_template(anatomy: FoldedAnatomy, position: Floats) -> dict[str, Floats]:
    """Return the template's fractions at ``position``, by name; "deep" is the grey matter of the deep nuclei."""
    values = interpolate(anatomy.tissues, position - anatomy.template.origin.astype(np.float32)[:, None])
    return dict(zip((*_TISSUES, "deep"), values, strict=True))


def load_folded_anatomy(spacing: float) -> FoldedAnatomy:
    """Return the cortex of the template, prepared for folding at ``spacing`` mm."""
    fine = fine_anatomy()
    maps, origin = fine.maps, fine.origin
    mask = maps["gm"] + maps["wm"] + maps["csf"] > 0.5
    shape = mask.shape
    hemispheres = {side: load_hemisphere(side) for side in ("left", "right")}
    coarse_x = origin[0] + STEP_MM * np.arange(_coarse(mask).shape[0])
    pial, hull = np.zeros(shape, bool), np.zeros(_coarse(mask).shape, bool)
    nearest = _nearest_vertex(hemispheres["left"].vertices, hemispheres["right"].vertices, origin, hull.shape)
    for side, hemisphere in hemispheres.items():
        filled = fill_surface(hemisphere.vertices - origin, hemisphere.triangles, shape)
        pial |= filled
        # fsaverage is a mean, so its gyri end before those of the template
        closed = _dilated(_closed(_coarse(filled), _GYRAL_GAP_MM), _SHELL_MM)
        own = coarse_x > 0 if side == "right" else coarse_x < 0
        hull |= closed & own[:, None, None]
    # round off where the gyri of fsaverage end
    hull = ndimage.gaussian_filter(hull.astype(np.float32), _ROUNDING_MM / STEP_MM) > 0.5
    hull &= (_signed_distance(_coarse(mask)) > 0) & (coarse_x != 0)[:, None, None]

    thickness = np.concatenate([hemispheres[side].thickness for side in ("left", "right")])[nearest]
    medial_wall = ndimage.gaussian_filter((thickness < 0.3).astype(np.float32), 1.0)
    depth = _signed_distance(hull)
    stem = brain_stem_distance(origin, shape)[::STEP_MM, ::STEP_MM, ::STEP_MM]
    below = np.clip((1.1 - stem) / 0.1, 0, 1) * np.clip(0.5 - depth / 4, 0, 1)
    ventricles = _coarse(maps["ventricle"] > 0.3)
    beside = np.clip(1.5 - ndimage.distance_transform_edt(~ventricles) * STEP_MM / 6, 0, 1)
    unfolded = np.maximum(np.maximum(below, np.clip(2 * medial_wall - 0.5, 0, 1)), beside).astype(np.float32)
    # brain extraction follows the outline of the hemispheres more closely than the mask of the template does
    kept = _dilated(hull, _OUTER_CSF_MM) | (unfolded > 0.5)
    margin = _signed_distance(_closed(kept, _CLOSED_MM) & _coarse(mask))

    indices = ndimage.distance_transform_edt(hull, return_distances=False, return_indices=True)
    column = np.stack([ndimage.gaussian_filter(axis.astype(np.float32), 1.5) for axis in indices]) * STEP_MM
    column += origin.astype(np.float32)[:, None, None, None]
    inward = np.stack(np.gradient(ndimage.gaussian_filter(depth, 1.0)))
    inward /= np.maximum(np.sqrt((inward**2).sum(axis=0)), 1e-3)

    # how far the column moves per mm along the outline: 1 near a flat outline, far more where two sides meet
    slopes = [np.gradient(ndimage.gaussian_filter(axis, 0.7), STEP_MM) for axis in column]
    convergence = np.sqrt(sum((slope**2 for axis in slopes for slope in axis), np.zeros_like(depth)) / 2)

    inside = _fine_like(_signed_distance(_coarse(pial)), shape)
    deep = maps["gm"] * np.clip((inside - _DEEPEST_MM) / 2, 0, 1) * _central(origin, shape)
    deep_grey = ndimage.gaussian_filter(deep, 0.34 * spacing / 0.9)
    fine_depth = _fine_like(depth, shape)
    folds = ~mask | ((maps["csf"] - maps["ventricle"] > _FOLD_CSF) & (fine_depth < _DEEPEST_FOLD_MM))
    sulci = {"fsaverage": _medial_sulci(~pial, fine_depth), "mni152": _medial_sulci(folds, fine_depth)}
    sites = np.argwhere((np.abs(margin) <= 1) & (np.abs(depth) <= 3))[::7] * STEP_MM + origin
    template = smoothed(fine, spacing)
    thickness = np.clip(ndimage.gaussian_filter(thickness, 1.0), 1.5, 3.5)
    columns = np.stack([depth, *column, *inward, convergence, thickness, unfolded], axis=-1)
    tissues = np.stack([*(template.maps[name] for name in _TISSUES), deep_grey], axis=-1)
    return FoldedAnatomy(
        template,
        tissues.astype(np.float32),
        columns.astype(np.float32),
        margin,
        sulci,
        sites[sites[:, 2] > _LOWEST_SITE_MM].astype(np.float32),
    )


def _medial_sulci(outside: Mask, depth: Floats) -> Sulci:
    """Return the sulci of what is outside the grey matter, from the ridges of the distance to the grey matter."""
    away = ndimage.distance_transform_edt(outside).astype(np.float32)
    # the distance rises by 1 per mm except at ridges, which two or more banks have in common
    slope = np.sqrt(sum(np.gradient(away, axis=axis) ** 2 for axis in range(3)))
    sheet = outside & (slope < _RIDGE_SLOPE) & (depth > 0)
    # a few voxels of noise are no sulcus
    labels, count = ndimage.label(sheet, np.ones((3, 3, 3)))
    sheet &= (np.bincount(labels.ravel(), minlength=count + 1) > _SMALLEST_SHEET)[labels]
    distance = ndimage.distance_transform_edt(~sheet).astype(np.float32)
    width = _mean_around(away, sheet, _WIDTH_REACH_MM)
    primary = _mean_around(depth, sheet, _PRIMARY_REACH_MM)
    return Sulci(distance, np.stack([np.clip(width, 0.5, 4), primary], axis=-1))


def _mean_around(values: Floats, sheet: Mask, reach_mm: float) -> Floats:
    """Return the mean of values on a sheet under a Gaussian around each voxel of the 2 mm grid."""
    # a small Gaussian before every second voxel is left out, the rest of it after
    narrow, wide = 1.0, np.sqrt(reach_mm**2 - 1) / STEP_MM
    sums = []
    for part in (values * sheet, sheet.astype(np.float32)):
        coarse = ndimage.gaussian_filter(part, narrow)[::STEP_MM, ::STEP_MM, ::STEP_MM]
        sums.append(ndimage.gaussian_filter(coarse, wide))
    mean: Floats = (sums[0] / np.maximum(sums[1], 1e-4)).astype(np.float32)
    return mean


def _nearest_vertex(
    left: npt.NDArray[np.float64],
    right: npt.NDArray[np.float64],
    origin: npt.NDArray[np.float64],
    shape: tuple[int, ...],
) -> npt.NDArray[np.intp]:
    """Return the number of the vertex nearest to each voxel of the 2 mm grid; right ones count on from left ones."""
    position = np.indices(shape).reshape(3, -1).T * STEP_MM + origin
    nearest = np.empty(len(position), np.intp)
    is_right = position[:, 0] > 0
    for vertices, own, first in ((left, ~is_right, 0), (right, is_right, len(left))):
        nearest[own] = first + spatial.cKDTree(vertices).query(position[own])[1]
    return nearest.reshape(shape)


def _central(origin: npt.NDArray[np.float64], shape: tuple[int, ...]) -> Floats:
    """Return 1 in the box of the deep nuclei, with soft edges."""
    x, y, z = np.ogrid[tuple(slice(start, start + side) for start, side in zip(origin, shape, strict=True))]
    outside = np.maximum(np.maximum(np.abs(x) - 36, np.abs(y + 8) - 32), np.abs(z - 2) - 24)
    return np.asarray(np.clip(0.5 - outside / 4, 0, 1), dtype=np.float32)


def _coarse(mask: Mask) -> Mask:
    return mask[::STEP_MM, ::STEP_MM, ::STEP_MM]


def _fine_like(coarse: Floats, shape: tuple[int, ...]) -> Floats:
    """Return a map of the 2 mm grid on the 1 mm grid."""
    scale = np.diag([1 / STEP_MM] * 3)
    fine: Floats = ndimage.affine_transform(coarse, scale, output_shape=shape, order=1, mode="nearest")
    return fine


def _signed_distance(inside: Mask) -> Floats:
    """Return the distance in mm to the edge of a mask on the 2 mm grid, negative outside."""
    within, beyond = ndimage.distance_transform_edt(inside), ndimage.distance_transform_edt(~inside)
    # half a voxel, since the edge lies between the voxels
    signed: Floats = (STEP_MM * (within - beyond) - STEP_MM / 2 * np.sign(within - beyond)).astype(np.float32)
    return signed


def _dilated(mask: Mask, millimetres: float) -> Mask:
    grown: Mask = ndimage.distance_transform_edt(~mask) * STEP_MM <= millimetres
    return grown


def _closed(mask: Mask, millimetres: float) -> Mask:
    """Return the mask with gaps of up to twice ``millimetres`` filled."""
    closed: Mask = ndimage.distance_transform_edt(_dilated(mask, millimetres)) * STEP_MM > millimetres
    return closed
