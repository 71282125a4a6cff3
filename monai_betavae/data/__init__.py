"""From files on disk to tensors: discovery, splits, transforms, and the simulated cohort."""

from .discovery import discover
from .simulation import simulate_cohort
from .splits import split_subjects
from .transforms import RestoreVolume, brain_transforms

__all__ = ["RestoreVolume", "brain_transforms", "discover", "simulate_cohort", "split_subjects"]
