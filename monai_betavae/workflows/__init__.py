"""Where the parts meet: what the bundle's configs, and scripts beside them, call."""

from .data_checks import check_data, check_held_out, checked_records, volume_dataset
from .evaluation import ModelEvaluation, check_evaluation
from .generation import PriorSampling, check_generation
from .inference import InferenceRecords, VolumeInference, check_inference
from .provenance import write_run
from .records import split_records, training_records
from .settings import check_settings
from .trained_model import (
    grid_affine,
    load_weights,
    trained_likelihood,
    trained_network,
    trained_preprocessing,
    training_folder,
)
from .training import ModelTraining

__all__ = [
    "InferenceRecords",
    "ModelEvaluation",
    "ModelTraining",
    "PriorSampling",
    "VolumeInference",
    "check_data",
    "check_evaluation",
    "check_generation",
    "check_held_out",
    "check_inference",
    "check_settings",
    "checked_records",
    "grid_affine",
    "load_weights",
    "split_records",
    "trained_likelihood",
    "trained_network",
    "trained_preprocessing",
    "training_folder",
    "training_records",
    "volume_dataset",
    "write_run",
]
