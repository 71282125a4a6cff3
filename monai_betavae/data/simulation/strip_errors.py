"""Errors of brain extraction: remnants of dura beyond the brain, or a bite out of the cortex."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monai_betavae.data.simulation.anatomy import Floats, smooth_noise

_SHARES = {"dura": 0.12, "bite": 0.08}
_EDGE_MM = 6.0
_OUTLINE_WIDTH_MM, _OUTLINE_MM = 10.0, 5.0


@dataclass(frozen=True)
class StripError:
    """What went wrong at one place of the outer surface.

    Attributes:
        kind: "none", "dura" (tissue beyond the brain is kept) or "bite" (cortex is cut away).
        site: place on the surface, from 0 to 1: a share of the list `FoldedAnatomy.surface_sites`.
        radius_mm: how far the error extends along the surface.
        thickness_mm: how far it extends beyond the brain or into it.
        intensity: signal of the dura, in which white matter is 1.
    """

    kind: str = "none"
    site: float = 0.0
    radius_mm: float = 25.0
    thickness_mm: float = 4.0
    intensity: float = 0.6


def draw_strip_error(rng: np.random.Generator) -> StripError:
    """Draw the error of one subject: 12 % have remnants of dura, 8 % a bite, 80 % none."""
    choice = rng.random()
    kind = "dura" if choice < _SHARES["dura"] else "bite" if choice < sum(_SHARES.values()) else "none"
    site, radius, thickness = rng.random(), rng.uniform(15, 40), rng.uniform(2.5, 6)
    intensity = rng.uniform(0.35, 1.1)
    if kind == "bite":
        radius, thickness = 0.6 * radius, 1.5 * thickness
    return StripError(kind, float(site), float(radius), float(thickness), float(intensity))


def strip_error_weight(
    error: StripError,
    surface_sites: Floats,
    position: Floats,
    margin: Floats,
    half_voxel: float,
    rng: np.random.Generator,
) -> Floats:
    """Return the share of each voxel that is dura, or of its content that is cut away; 0 without an error.

    Args:
        error: kind, place and size.
        surface_sites: positions ``(m, 3)`` on the surface in the template.
        position: positions in the template in mm, ``(3, n)``.
        margin: distance to the edge of the brain in mm, negative outside, ``(n,)``.
        half_voxel: half of the voxel size in mm of the template.
        rng: source of the irregular outline.
    """
    if error.kind == "none":
        return np.zeros_like(margin)
    site = surface_sites[min(int(error.site * len(surface_sites)), len(surface_sites) - 1)]
    away = np.sqrt(((position - site[:, None]) ** 2).sum(axis=0))
    away += np.float32(_OUTLINE_MM) * smooth_noise(rng, position, _OUTLINE_WIDTH_MM, _OUTLINE_WIDTH_MM / 2)
    patch = np.clip((error.radius_mm - away) / _EDGE_MM + 0.5, 0, 1)
    voxel = 2 * half_voxel
    if error.kind == "dura":
        layer = np.clip(0.5 - margin / voxel, 0, 1) * np.clip(0.5 + (margin + error.thickness_mm) / voxel, 0, 1)
    else:
        layer = np.clip(0.5 + (error.thickness_mm - margin) / voxel, 0, 1)
    weight: Floats = (patch * layer).astype(np.float32)
    return weight
