"""Transforms of volumes from a file to the model's grid, and back.

=========================  =====================================================================================
``brain``                  ``brain_transforms``: all steps in order
``preprocessing``          read, resample, scale intensities
``field_of_view``          crop and pad to the grid
``background``             the value of the background
``restoration``            back to the grid, affine and intensities of the file
``augmentation``           random changes of training volumes
``transform_description``  the steps as JSON, and back
=========================  =====================================================================================
"""

from .augmentation import AugmentedDataset, augmentation
from .brain import (
    CropToGridd,
    PadToGridd,
    ReadVolumed,
    ResampleAntiAliasedd,
    RestoreVolume,
    RestoreVolumed,
    ScaleBrainIntensityd,
    ToPlainSampled,
    brain_transforms,
    volume_image,
)

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
