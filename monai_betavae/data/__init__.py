"""From files on disk to tensors: discovery, checks, splits, transforms, caches, order, and the simulated cohort."""

from .augmentation import AugmentedDataset, augmentation
from .caching import DiskCacheDataset, cached_dataset
from .checking import check_volumes
from .cohorts import decathlon, ixi, oasis_vbm
from .discovery import discover
from .sampling import GlobalOrder
from .simulation import simulate_cohort
from .splits import split_subjects
from .transforms import (
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
    "DiskCacheDataset",
    "GlobalOrder",
    "PadToGridd",
    "ReadVolumed",
    "ResampleAntiAliasedd",
    "RestoreVolume",
    "RestoreVolumed",
    "ScaleBrainIntensityd",
    "ToPlainSampled",
    "augmentation",
    "brain_transforms",
    "cached_dataset",
    "check_volumes",
    "decathlon",
    "discover",
    "ixi",
    "oasis_vbm",
    "simulate_cohort",
    "split_subjects",
    "volume_image",
]
