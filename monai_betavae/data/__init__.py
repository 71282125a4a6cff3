"""From files on disk to tensors: discovery, splits, transforms, order, and the simulated cohort."""

from .discovery import discover
from .sampling import GlobalOrder
from .simulation import simulate_cohort
from .splits import split_subjects
from .transforms import RestoreVolume, brain_transforms

__all__ = ["GlobalOrder", "RestoreVolume", "brain_transforms", "discover", "simulate_cohort", "split_subjects"]
