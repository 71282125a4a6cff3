"""Cortical surfaces: the hemispheres of fsaverage5 that nilearn ships, and the voxels inside a closed surface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# fsaverage lies in the space of MNI305; this is the affine that FreeSurfer publishes for the way to MNI152
MNI305_TO_MNI152 = np.array(
    [
        [0.9975, -0.0073, 0.0176, -0.0429],
        [0.0146, 1.0009, -0.0024, 1.5496],
        [-0.0130, -0.0093, 0.9971, 1.1840],
    ]
)


@dataclass(frozen=True)
class Hemisphere:
    """The pial surface of one hemisphere.

    Attributes:
        vertices: positions ``(n, 3)`` in MNI152 coordinates (mm).
        triangles: vertex numbers ``(m, 3)``, counterclockwise from outside.
        thickness: cortical thickness at each vertex in mm; about 0 on the medial wall, where there is no cortex.
    """

    vertices: npt.NDArray[np.float64]
    triangles: npt.NDArray[np.int64]
    thickness: Floats


def load_hemisphere(side: str) -> Hemisphere:
    """Return a hemisphere of fsaverage5, the mean of 40 people's cortical surfaces (10,242 vertices).

    Args:
        side: "left" or "right".

    Source:
        Fischl et al. 1999, Human Brain Mapping 8, 272-284.
    """
    from nilearn.datasets import load_fsaverage, load_fsaverage_data  # the import takes over a second

    mesh = load_fsaverage("fsaverage5")["pial"].parts[side]
    thickness = load_fsaverage_data("fsaverage5", "pial", "thickness").data.parts[side]
    vertices = np.asarray(mesh.coordinates, dtype=np.float64) @ MNI305_TO_MNI152[:, :3].T + MNI305_TO_MNI152[:, 3]
    return Hemisphere(vertices, np.asarray(mesh.faces, dtype=np.int64), np.asarray(thickness, dtype=np.float32).ravel())


def fill_surface(
    vertices: npt.NDArray[np.float64], triangles: npt.NDArray[np.int64], shape: tuple[int, ...]
) -> npt.NDArray[np.bool_]:
    """Return which voxel centres lie inside a closed surface, by its winding number along the last axis.

    A column of voxels enters the surface where it meets a triangle that faces down, and leaves it where it meets one
    that faces up. Columns that pass exactly through an edge would be counted twice, so the surface is shifted by 0.0001
    to 0.0002 voxels.

    Args:
        vertices: positions ``(n, 3)`` in voxels.
        triangles: vertex numbers ``(m, 3)``, counterclockwise from outside.
        shape: shape of the grid; it must contain the surface.
    """
    corners = (vertices + np.array([1.3e-4, 1.7e-4, 0.0]))[triangles]
    normal = _cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    low = np.ceil(corners[:, :, :2].min(axis=1)).astype(int)
    high = np.floor(corners[:, :, :2].max(axis=1)).astype(int)
    crossings = np.zeros((*shape[:2], shape[2] + 1), np.int32)
    across, along = (high - low).max(axis=0) + 1
    for offset in np.ndindex(across, along):
        column = low + np.array(offset)
        met = (column <= high).all(axis=1) & (normal != 0)
        height, inside = _height(corners[met], normal[met], column[met])
        x, y = column[met][inside].T
        z = np.clip(np.ceil(height[inside]).astype(int), 0, shape[2])
        np.add.at(crossings, (x, y, z), -np.sign(normal[met][inside]).astype(np.int32))
    filled: npt.NDArray[np.bool_] = crossings.cumsum(axis=2)[:, :, :-1] > 0
    return filled


def _height(
    corners: npt.NDArray[np.float64], normal: npt.NDArray[np.float64], column: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return where columns meet their triangles' planes, and whether inside of the triangles."""
    weights = np.empty((3, len(corners)))
    for number in range(3):
        one, two = corners[:, (number + 1) % 3, :2] - column, corners[:, (number + 2) % 3, :2] - column
        weights[number] = _cross(one, two) / normal
    inside: npt.NDArray[np.bool_] = np.min(weights, axis=0) >= 0
    return np.einsum("cm,mc->m", weights, corners[:, :, 2]), inside


def _cross(one: npt.NDArray[np.float64], two: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the third component of the cross product."""
    product: npt.NDArray[np.float64] = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
    return product
