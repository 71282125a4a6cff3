"""The path from files on disk to tensors: discovery, checks, splits, transforms, caches, order, simulated cohort."""

from .caching import DiskCacheDataset, cached_dataset
from .checks.volume_checks import check_volumes
from .coded_samples import CodeCovariatesd
from .discovery import decathlon, discover, ixi, oasis_vbm
from .sampling import GlobalOrder
from .simulation import simulate_cohort
from .splits import split_subjects
from .tables.covariate_coding import CovariateCoding
from .transforms import (
    AugmentedDataset,
    CropToGridd,
    PadToGridd,
    ReadVolumed,
    ResampleAntiAliasedd,
    RestoreVolume,
    RestoreVolumed,
    ScaleBrainIntensityd,
    ToPlainSampled,
    augmentation,
    brain_transforms,
    volume_image,
)

__all__ = [
    "AugmentedDataset",
    "CodeCovariatesd",
    "CovariateCoding",
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
