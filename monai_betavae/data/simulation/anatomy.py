"""The anatomy of the simulated cohort: the MNI152 template as tissue maps, and their deformation for a subject.

The template is symmetric and is the mean of many people, so everything that differs between simulated subjects comes
from the warp in this module and from the rendering in `monai_betavae.data.simulation.rendering`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from monai_betavae.data.simulation.subject_factors import Factors, Nuisance

Floats = npt.NDArray[np.float32]

# The MNI152 brain (1.67 l of tissue) is larger than a typical one; a scale of 0.9 along each axis gives a usual 1.2 l.
TYPICAL_SCALE = 0.9
FIELD_OF_VIEW_MM = (192.0, 240.0, 192.0)
# Centre of the grid in mm from the anterior commissure. x = 0 keeps the grid mirror-symmetric, like the template.
FIELD_CENTRE_MM = (0.0, -15.0, 4.0)
# T1 intensity of the template in pure grey matter and CSF, relative to its white matter (medians of 95 % voxels).
TEMPLATE_GM, TEMPLATE_CSF = 0.737, 0.300

_LEFT_VENTRICLE_MM = (-21, -38, 17)
_VENTRICLE_CENTRE_MM, _VENTRICLE_REACH_MM = np.array([0.0, -10.0, 15.0], np.float32), 20.0
_ROTATION_CENTRE_MM = np.array([0.0, -25.0, 0.0])
_FLOW_STEP_MM = 2
_FLOW_STEPS_BACK, _FLOW_STEPS_FORTH = (4, 0.2), (8, 0.33)
_SUPPORT_STEP_MM, _SUPPORT_MARGIN = 4, 4
_MARGIN_MM = 8


@dataclass(frozen=True)
class Anatomy:
    """Tissue maps of the template and the data needed to deform them, in MNI coordinates (mm).

    Attributes:
        maps: 1 mm maps: ``gm``, ``wm``, ``csf`` (fractions that add up to the brain mask), ``ventricle`` (lateral
            ventricles, part of ``csf``), ``rim_0``, ``rim_1`` (shares of ``gm`` that atrophy removes, outermost first)
            and ``texture`` (what remains of the T1 template beyond its tissues, in units of its white matter).
        origin: position of voxel (0, 0, 0) of every map.
        support: mask of where the brain may be after any deformation; one voxel per 4 mm, from 16 mm before ``origin``.
        flow: displacements ``(entry, axis, x, y, z)`` in mm on a 2 mm grid, which map positions in a brain with
            enlarged ventricles to positions in the template.
        flow_volumes: volume of the ventricles at each entry of ``flow``, relative to the template; increasing.
        lesion_sites: positions ``(n, 3)`` in cerebral white matter.
    """

    maps: dict[str, Floats]
    origin: npt.NDArray[np.float64]
    support: npt.NDArray[np.bool_]
    flow: Floats
    flow_volumes: npt.NDArray[np.float64]
    lesion_sites: Floats


@dataclass(frozen=True)
class Warp:
    """The voxels of a subject's grid that may contain brain, and their positions in the template.

    Attributes:
        voxels: flat indices into the grid, ``(n,)``.
        scanner: positions in the subject's space in mm, ``(3, n)``.
        template: positions in the template in mm, ``(3, n)``.
        head: positions in the head as it lay in the first session, in mm, ``(3, n)``; fields that belong to the
            subject, not to the scan, are evaluated there. ``None`` if they are those of ``scanner``.
    """

    voxels: npt.NDArray[np.intp]
    scanner: Floats
    template: Floats
    head: Floats | None = None

    @property
    def in_head(self) -> Floats:
        """``head``, or ``scanner`` where they are the same."""
        return self.scanner if self.head is None else self.head

    def only(self, which: npt.NDArray[np.bool_]) -> Warp:
        """Return the warp of some of the voxels."""
        head = None if self.head is None else self.head[:, which]
        return Warp(self.voxels[which], self.scanner[:, which], self.template[:, which], head)


@dataclass(frozen=True)
class LocalGrowth:
    """Ventricles that are wider in one region.

    Attributes:
        volume: volume that the template's ventricles would have if they widened as much everywhere, from 1 to 3.1
            times theirs; a subject's ventricles gain as much.
        share: the part of it at positions ``(3, n)`` in the template, from 0 to 1.
    """

    volume: float
    share: Callable[[Floats], Floats]


def cohort_grid(spacing: float) -> tuple[tuple[int, int, int], npt.NDArray[np.float64]]:
    """Return the shape and RAS affine of the cohort's grid: 192 x 240 x 192 mm, isotropic.

    Args:
        spacing: voxel size in mm.

    Example:
        >>> shape, affine = cohort_grid(3.0)
        >>> shape
        (64, 80, 64)
    """
    x, y, z = (math.ceil(side / spacing) for side in FIELD_OF_VIEW_MM)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = np.array(FIELD_CENTRE_MM) - spacing * (np.array([x, y, z]) - 1) / 2
    return (x, y, z), affine


def load_anatomy(spacing: float) -> Anatomy:
    """Return the template's maps, smoothed for sampling at ``spacing`` mm without aliasing."""
    return smoothed(fine_anatomy(), spacing)


def fine_anatomy() -> Anatomy:
    """Build everything that does not depend on the spacing."""
    t1, gm, wm, origin = _read_template()
    mask = t1 > 0
    gm, wm = gm * mask, wm * mask
    csf = np.clip(mask - gm - wm, 0, 1).astype(np.float32)
    ventricles = _lateral_ventricles(csf, mask, origin)
    # the rim of partial volume around the ventricles counts as ventricle
    ventricle = csf * ndimage.binary_dilation(ventricles, iterations=3)
    rim_0, rim_1 = _cortical_rim(gm, csf, mask, ventricles, origin)
    texture = t1 / np.float32(np.median(t1[wm > 0.95])) - (TEMPLATE_GM * gm + wm + TEMPLATE_CSF * csf) * mask
    maps = {
        "gm": gm,
        "wm": wm,
        "csf": csf,
        "ventricle": ventricle,
        "rim_0": rim_0,
        "rim_1": rim_1,
        "texture": texture.astype(np.float32),
    }
    coarse = mask[::_SUPPORT_STEP_MM, ::_SUPPORT_STEP_MM, ::_SUPPORT_STEP_MM]
    support = ndimage.binary_dilation(np.pad(coarse, _SUPPORT_MARGIN), iterations=_SUPPORT_MARGIN)
    volumes, flow = _ventricle_flow(ventricle, wm, mask)
    return Anatomy(maps, origin, support, flow, volumes, _lesion_sites(wm, mask, origin))


def smoothed(fine: Anatomy, spacing: float) -> Anatomy:
    """Return maps that are smoothed for sampling at ``spacing`` mm without aliasing."""
    # a Gaussian whose full width at half maximum is 0.8 voxels, with voxels measured in the larger template
    sigma = 0.34 * spacing / TYPICAL_SCALE
    maps = {name: ndimage.gaussian_filter(values, sigma, mode="constant") for name, values in fine.maps.items()}
    return Anatomy(maps, fine.origin, fine.support, fine.flow, fine.flow_volumes, fine.lesion_sites)


def warp_grid(
    anatomy: Anatomy,
    shape: tuple[int, int, int],
    affine: npt.NDArray[np.float64],
    factors: Factors,
    nuisance: Nuisance,
    *,
    ventricle_form: tuple[float, float, float] = (0.0, 0.0, 0.0),
    growth: LocalGrowth | None = None,
    distortion: Callable[[Floats], Floats] | None = None,
) -> Warp:
    """Trace every voxel of the grid back to the template.

    A position is mapped through head tilt, random deformation, brain size, left-right asymmetry and ventricle
    enlargement, in that order; each step is smooth and invertible for the ranges from which factors are drawn.

    Args:
        anatomy: the result of `load_anatomy`.
        shape: shape of the subject's grid.
        affine: voxel-to-mm affine of the subject's grid.
        factors: the subject's anatomy.
        nuisance: tilt and deformation.
        ventricle_form: direction in which the ventricles are wider than elsewhere; its length is the log of the ratio
            of either end to the middle. ``(0, 0.3, 0)`` widens the frontal horns and narrows the occipital ones.
        growth: where the ventricles are wider still.
        distortion: displacement in mm from where the scanner shows a position ``(3, n)`` to where it is.
    """
    rotation, shift = _rotation(nuisance.tilt_degrees), np.array(nuisance.shift_mm) + _ROTATION_CENTRE_MM
    to_head = _to_first_session(nuisance)
    placed = affine if to_head is None else to_head @ affine
    to_upright = rotation.T @ placed[:3, :3]
    offset = rotation.T @ (placed[:3, 3] - shift) + _ROTATION_CENTRE_MM
    index = np.ogrid[tuple(slice(side) for side in shape)]
    upright = np.empty((3, math.prod(shape)), np.float32)
    for axis in range(3):
        along = [to_upright[axis, other] * index[other] for other in range(3)]
        upright[axis] = (along[0] + along[1] + along[2] + offset[axis]).ravel()
    away = None
    if distortion is not None:
        away = distortion(_positions(np.arange(math.prod(shape)), shape, affine))
        if to_head is not None:
            away = _turned(to_head[:3, :3], away)
        upright += _turned(rotation.T, away)

    scale = TYPICAL_SCALE * factors.brain_size ** (1 / 3) * np.array(nuisance.stretch)
    scale = scale.astype(np.float32)[:, None]
    origin = anatomy.origin.astype(np.float32)[:, None]
    coarse = (upright / scale - origin) / _SUPPORT_STEP_MM + _SUPPORT_MARGIN
    voxels = np.flatnonzero(ndimage.map_coordinates(anatomy.support.view(np.uint8), coarse, order=0, mode="constant"))
    position = upright[:, voxels]
    scanner = _positions(voxels, shape, affine)
    head = None
    if to_head is not None or away is not None:
        head = scanner if to_head is None else _turned(to_head[:3, :3], scanner) + to_head[:3, 3:].astype(np.float32)
        head = head if away is None else head + away[:, voxels]

    position = position + _deformation(position, nuisance)
    position /= scale
    # a smooth |x|: the right half grows by 1 / (1 - a), the left shrinks by 1 / (1 + a), so (R - L) / (R + L) is a
    position[0] -= np.float32(factors.asymmetry) * (np.sqrt(position[0] ** 2 + 4) - 2)
    if growth is not None:
        # one flow after the other: volumes add up, however wide the ventricles are
        position = position + growth.share(position) * _ventricle_displacement(anatomy, position, growth.volume)
    return Warp(voxels, scanner, _with_ventricles(anatomy, position, factors.ventricles, ventricle_form), head)


def sample_tissues(anatomy: Anatomy, warp: Warp, atrophy: float | npt.NDArray[np.float64]) -> dict[str, Floats]:
    """Return the maps at the subject's voxels, after atrophy has turned the outer grey matter into CSF.

    Args:
        anatomy: the result of `load_anatomy`.
        warp: the result of `warp_grid`.
        atrophy: from 0 (the template) to 1; the outer half of the rim goes first. One number, or one for each voxel.
    """
    at = warp.template - anatomy.origin.astype(np.float32)[:, None]
    tissues = {
        name: ndimage.map_coordinates(values, at, order=1, mode="constant") for name, values in anatomy.maps.items()
    }
    outer, inner = (np.asarray(np.clip(2 * atrophy - half, 0, 1), dtype=np.float32) for half in (0, 1))
    removed = outer * tissues.pop("rim_0") + inner * tissues.pop("rim_1")
    tissues["gm"] -= removed
    tissues["csf"] += removed
    return tissues


def smooth_noise(
    rng: np.random.Generator,
    position: Floats,
    width_mm: float,
    lattice_mm: float,
) -> Floats:
    """Return a smooth random field at ``position``, with mean 0 and standard deviation 1 over the whole grid.

    Args:
        rng: source of the field.
        position: positions at which to evaluate the field, ``(3, n)`` in mm.
        width_mm: standard deviation of the Gaussian that smooths white noise into the field.
        lattice_mm: distance between the points at which the field is drawn; at most half of ``width_mm``.
    """
    extent = np.array(FIELD_OF_VIEW_MM) + 24.0
    shape = tuple(math.ceil(side / lattice_mm) + 1 for side in extent)
    field = rng.standard_normal(shape, dtype=np.float32)
    field = ndimage.gaussian_filter(field, width_mm / lattice_mm, mode="wrap")
    field /= field.std(dtype=np.float64)
    origin = (np.array(FIELD_CENTRE_MM) - extent / 2).astype(np.float32)[:, None]
    at = (position - origin) / np.float32(lattice_mm)
    sampled: Floats = ndimage.map_coordinates(field, at, order=1, mode="nearest")
    return sampled


def brain_stem_distance(origin: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return 1 at the edges of two ellipsoids around cerebellum and brainstem, less inside and more outside.

    Args:
        origin: position of voxel (0, 0, 0) of a 1 mm grid.
        shape: shape of that grid.
    """
    x, y, z = (start + np.arange(size) for start, size in zip(origin, shape, strict=True))
    x, y, z = x[:, None, None], y[None, :, None], z[None, None, :]
    cerebellum = np.sqrt((x / 58) ** 2 + ((y + 62) / 36) ** 2 + ((z + 38) / 27) ** 2)
    brainstem = np.sqrt((x / 18) ** 2 + ((y + 28) / 18) ** 2 + ((z + 35) / 32) ** 2)
    nearest: npt.NDArray[np.float64] = np.minimum(cerebellum, brainstem)
    return nearest


def _read_template() -> tuple[Floats, Floats, Floats, npt.NDArray[np.float64]]:
    """Return the MNI152 2009a template's T1, grey and white matter at 1 mm, cropped to the brain, and their origin."""
    from nilearn import datasets  # the import takes over a second, and only simulation needs it

    loaders = (
        datasets.load_mni152_template,
        datasets.load_mni152_gm_template,
        datasets.load_mni152_wm_template,
    )
    images = [load(resolution=1) for load in loaders]
    t1, gm, wm = (np.asarray(image.dataobj, dtype=np.float32) for image in images)
    found = ndimage.find_objects((t1 > 0).astype(np.uint8))[0]
    origin = images[0].affine[:3, 3] + np.array([side.start for side in found]) - _MARGIN_MM
    t1, gm, wm = (np.pad(values[found], _MARGIN_MM) for values in (t1, gm, wm))
    return t1, gm, wm, origin


def _lateral_ventricles(csf: Floats, mask: npt.NDArray[np.bool_], origin: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return the deep CSF component that contains the body of the ventricles, without cisterns and sulci."""
    depth = _distance_mm(mask)
    labels, _ = ndimage.label((csf > 0.5) & (depth > 15))
    inside = labels[tuple((np.array(_LEFT_VENTRICLE_MM) - origin).astype(int))]
    assert inside > 0, "the template's lateral ventricle is not where it should be"
    component: npt.NDArray[np.bool_] = labels == inside
    return component


def _cortical_rim(
    gm: Floats,
    csf: Floats,
    mask: npt.NDArray[np.bool_],
    ventricles: npt.NDArray[np.bool_],
    origin: npt.NDArray[Any],
) -> tuple[Floats, Floats]:
    """Return the outermost share of cortical grey matter, which atrophy removes first, and the next one."""
    # 0.2 CSF marks the sulci: in a mean of many people, only the widest sulci are pure CSF
    pial = (csf < 0.2) & mask
    # exclude cerebellum and brainstem, where "outer grey matter" means little, with a soft edge
    cortex = np.clip((brain_stem_distance(origin, gm.shape) - 0.9) / 0.2, 0, 1)
    # "grey matter" next to the ventricles is partial volume of white matter and CSF, or deep nuclei
    cortex = gm * cortex * np.clip((_distance_mm(~ventricles) - 8) / 6, 0, 1)
    outer = cortex * ~pial
    inner = 0.7 * cortex * (pial & ndimage.binary_dilation(~pial))
    return outer.astype(np.float32), inner.astype(np.float32)


def _ventricle_flow(
    ventricle: Floats, wm: Floats, mask: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], Floats]:
    """Return the volumes and displacements of the flow that widens or narrows the ventricles.

    The velocity is the gradient of a potential whose source is the ventricles and whose sink is the white matter. It is
    radial around the ventricles, fades with distance, and, being a flow, never folds. White matter gives way, and the
    outline of the brain is preserved. Since the velocity has divergence 1 in the ventricles, their volume after a time
    t is about 1 + t times that of the template for t > 0 and exp(t) times for t < 0; the exact volume is measured.
    """
    step = _FLOW_STEP_MM
    source, sink = (ndimage.gaussian_filter(values, 0.5 * step)[::step, ::step, ::step] for values in (ventricle, wm))
    source = source - sink * (source.sum(dtype=np.float64) / sink.sum(dtype=np.float64))
    size = [fft.next_fast_len(side + 8) for side in source.shape]
    spectrum = fft.rfftn(source, size)
    waves = [2 * np.pi * fft.fftfreq(size[0], step), 2 * np.pi * fft.fftfreq(size[1], step)]
    waves.append(2 * np.pi * fft.rfftfreq(size[2], step))
    k = np.meshgrid(*waves, indexing="ij", sparse=True)
    squared = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    squared[0, 0, 0] = 1.0
    crop = tuple(slice(side) for side in source.shape)
    velocity = [fft.irfftn(-1j * axis * spectrum / squared, size)[crop].astype(np.float32) / step for axis in k]

    inside = ndimage.binary_dilation(mask[::step, ::step, ::step], iterations=4)
    start = np.stack(np.nonzero(inside)).astype(np.float32)

    def move(position: Floats, time: float) -> Floats:
        # midpoint rule; positions and velocities in voxels of the coarse grid
        half = position + np.float32(0.5 * time) * sample(position)
        return np.asarray(position + np.float32(time) * sample(half), dtype=np.float32)

    def sample(position: Floats) -> Floats:
        return np.stack([ndimage.map_coordinates(axis, position, order=1, mode="nearest") for axis in velocity])

    entries: dict[float, Floats] = {0.0: np.zeros_like(start)}
    for (count, length), sign in ((_FLOW_STEPS_BACK, -1), (_FLOW_STEPS_FORTH, 1)):
        position = start
        for number in range(1, count + 1):
            # the backward flow leads from a grid point of the deformed brain to its position in the template
            position = move(position, -sign * length)
            entries[sign * length * number] = position - start
    flow = np.zeros((len(entries), 3, *source.shape), np.float32)
    volumes = np.empty(len(entries))
    for slot, time in enumerate(sorted(entries)):
        flow[slot][:, inside] = entries[time] * step
        grown = ndimage.map_coordinates(ventricle, (start + entries[time]) * step, order=1)
        volumes[slot] = grown.sum(dtype=np.float64)
    return volumes / volumes[sorted(entries).index(0.0)], flow


def _distance_mm(inside: npt.NDArray[np.bool_]) -> Floats:
    """Return the distance to the nearest voxel outside, computed on a 2 mm grid, eight times faster than at 1 mm."""
    coarse = 2 * ndimage.distance_transform_edt(inside[::2, ::2, ::2]).astype(np.float32)
    # interpolation, since repetition would shift everything to one side;
    # the full matrix, since older versions of scipy warn of a diagonal alone
    halved = np.diag([0.5] * 3)
    distance: Floats = ndimage.affine_transform(coarse, halved, output_shape=inside.shape, order=1, mode="nearest")
    return distance


def _lesion_sites(wm: Floats, mask: npt.NDArray[np.bool_], origin: npt.NDArray[Any]) -> Floats:
    """Return the positions of white matter well inside the cerebrum."""
    deep = ndimage.minimum_filter(wm, 5) > 0.8
    sites = np.argwhere(deep & mask)[::7] + origin
    above: Floats = sites[sites[:, 2] > -5].astype(np.float32)
    return above


def _ventricle_displacement(anatomy: Anatomy, position: Floats, volume: float) -> Floats:
    """Return the flow's displacement for ventricles of ``volume`` times that of the template."""
    volumes = anatomy.flow_volumes
    after = int(np.clip(np.searchsorted(volumes, volume), 1, len(volumes) - 1))
    share = np.float32((volume - volumes[after - 1]) / (volumes[after] - volumes[after - 1]))
    field = anatomy.flow[after - 1] * (1 - share) + anatomy.flow[after] * share
    at = (position - anatomy.origin.astype(np.float32)[:, None]) / np.float32(_FLOW_STEP_MM)
    return np.stack([ndimage.map_coordinates(axis, at, order=1, mode="nearest") for axis in field])


def _with_ventricles(anatomy: Anatomy, position: Floats, volume: float, form: tuple[float, float, float]) -> Floats:
    """Return the positions in the template for ventricles of ``volume`` times its volume, wider towards one end."""
    if not any(form):
        return position + _ventricle_displacement(anatomy, position, volume)
    least, most = anatomy.flow_volumes[[0, -1]]
    length = math.hypot(*form)
    direction = np.array(form) / length
    way = np.tensordot(direction, position - _VENTRICLE_CENTRE_MM[:, None], 1) / _VENTRICLE_REACH_MM
    share = (0.5 + 0.5 * np.tanh(way)).astype(np.float32)
    volumes = [float(np.clip(volume * math.exp(end * length), least, most)) for end in (-1, 1)]
    ends = [_ventricle_displacement(anatomy, position, volume) for volume in volumes]
    return np.asarray(position + (1 - share) * ends[0] + share * ends[1], dtype=np.float32)


def _deformation(position: Floats, nuisance: Nuisance) -> Floats:
    """Return a random displacement in mm, the sum of a wide one (lobes) and a narrow one (gyri)."""
    total = np.zeros_like(position)
    # a wider one would make the two halves of the brain differ as much as the asymmetry factor does
    rng = nuisance.stream("deformation")
    for width, amplitude in ((16.0, nuisance.deformation_mm), (8.0, 0.5 * nuisance.deformation_mm)):
        for axis in range(3):
            field = smooth_noise(rng, position, width, width / 2)
            total[axis] += np.float32(amplitude) * field
    return total


def _positions(voxels: npt.NDArray[np.intp], shape: tuple[int, int, int], affine: npt.NDArray[np.float64]) -> Floats:
    """Return the positions in mm, ``(3, n)``, of voxels given by flat indices into a grid."""
    index = np.stack(np.unravel_index(voxels, shape)).astype(np.float32)
    return (index * np.diag(affine)[:3, None] + affine[:3, 3:]).astype(np.float32)


def _to_first_session(nuisance: Nuisance) -> npt.NDArray[np.float64] | None:
    """Return the affine from the scanner to the head as it lay in the first session, ``None`` if it has not moved."""
    if not any((*nuisance.turn_degrees, *nuisance.move_mm)):
        return None
    back = _rotation(nuisance.turn_degrees).T
    affine = np.eye(4)
    affine[:3, :3] = back
    affine[:3, 3] = _ROTATION_CENTRE_MM - back @ (_ROTATION_CENTRE_MM + np.array(nuisance.move_mm))
    return affine


def _turned(rotation: npt.NDArray[np.float64], vectors: Floats) -> Floats:
    """Return rotated vectors ``(3, n)``."""
    # sums rather than a matrix product, since the order in which BLAS adds may depend on the number of threads
    rows = [sum(row[axis] * vectors[axis] for axis in range(3)) for row in rotation.astype(np.float32)]
    return np.stack(rows).astype(np.float32)


def _rotation(degrees: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """Return the rotation about the x axis (nod), then y (tilt), then z (turn)."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x, dtype=np.float64)
