"""A warp of the simulated cohort that leaves every voxel where it is."""

import numpy as np

from monai_betavae.data.simulation.anatomy import Warp

VOXEL_MM = 3.0


def warp_of(shape):
    """Positions around the centre of a grid, the same in the subject and in the template."""
    index = np.indices(shape).reshape(3, -1).astype(np.float32)
    position = (index - index.mean(axis=1, keepdims=True)) * np.float32(VOXEL_MM)
    return Warp(np.arange(np.prod(shape)), position, position)
