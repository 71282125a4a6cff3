"""Transforms of volumes from a file to the model's grid, and back.

=========================  =====================================================================================
``brain``                  ``brain_transforms``: all steps in order
``volume_reading``         ``ReadVolumed``: read a file, or take an image from memory
``images_in_memory``       voxels, affine and file name of an image in memory
``channels``               volumes of several channels, such as T1w and T2w
``resampling``             ``ResampleAntiAliasedd``: to another voxel size
``field_of_view``          ``CropToGridd``, ``PadToGridd``: to the model's grid
``background``             the value of the background
``intensity``              ``ScaleBrainIntensityd``: to [0, 1] by percentiles
``plain_samples``          ``ToPlainSampled``: plain tensors
``restoration``            back to the grid, affine and intensities of the file
``augmentation``           random changes of training volumes
``transform_description``  the steps as JSON, and back
=========================  =====================================================================================
"""

from .augmentation import AugmentedDataset, augmentation
from .brain import brain_transforms
from .field_of_view import CropToGridd, PadToGridd
from .intensity import ScaleBrainIntensityd
from .plain_samples import ToPlainSampled
from .resampling import ResampleAntiAliasedd
from .restoration import RestoreVolume, RestoreVolumed, volume_image
from .volume_reading import ReadVolumed

__all__ = [
    "AugmentedDataset",
    "CropToGridd",
    "PadToGridd",
    "ReadVolumed",
    "ResampleAntiAliasedd",
    "RestoreVolume",
    "RestoreVolumed",
    "ScaleBrainIntensityd",
    "ToPlainSampled",
    "augmentation",
    "brain_transforms",
    "volume_image",
]
