"""The path from files on disk to tensors: discovery, checks, splits, transforms, caches, order, simulated cohort."""

from .caching import DiskCacheDataset, cached_dataset
from .checks.volume_checks import check_volumes
from .discovery.cohort_loaders import decathlon, ixi, oasis_vbm
from .discovery.sources import discover
from .sampling import GlobalOrder
from .simulation.cohort import simulate_cohort
from .splits import split_subjects
from .transforms.augmentation import AugmentedDataset, augmentation
from .transforms.brain import (
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
