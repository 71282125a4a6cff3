"""Where the parts meet: what the bundle's configs, and scripts beside them, call."""

from .inference import (
    VolumeInference,
    check_inference,
    inference_records,
    load_weights,
    trained_settings,
)
from .records import split_records, training_records
from .settings import check_settings
from .training import check_run, train

__all__ = [
    "VolumeInference",
    "check_inference",
    "check_run",
    "check_settings",
    "inference_records",
    "load_weights",
    "split_records",
    "train",
    "trained_settings",
    "training_records",
]
