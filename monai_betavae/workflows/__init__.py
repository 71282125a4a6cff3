"""Where the parts meet: what the bundle's configs, and scripts beside them, call."""

from ..data.volumes.contrasts import contrast_names
from .covariates import covariate_coding, trained_covariates, with_covariates
from .cross_validation import CrossValidation
from .data_checks import check_data, check_held_out, checked_records, volume_dataset
from .fine_tuning import initial_model, training_network
from .model_card import write_model_card
from .model_description import trained_contrasts
from .model_evaluation.run import ModelEvaluation, check_evaluation
from .model_training import ModelTraining
from .prior_sampling import PriorSampling, check_generation
from .provenance import write_run
from .records import split_records, training_records
from .settings import check_settings
from .sharing import SharedModel, pull_model, push_model
from .sweep.run import Sweep
from .trained_model import (
    grid_affine,
    load_weights,
    trained_likelihood,
    trained_network,
    trained_preprocessing,
    training_folder,
)
from .volume_inference import InferenceRecords, VolumeInference, check_inference

__all__ = [
    "CrossValidation",
    "InferenceRecords",
    "ModelEvaluation",
    "ModelTraining",
    "PriorSampling",
    "SharedModel",
    "Sweep",
    "VolumeInference",
    "check_data",
    "check_evaluation",
    "check_generation",
    "check_held_out",
    "check_inference",
    "check_settings",
    "checked_records",
    "contrast_names",
    "covariate_coding",
    "grid_affine",
    "initial_model",
    "load_weights",
    "pull_model",
    "push_model",
    "split_records",
    "trained_contrasts",
    "trained_covariates",
    "trained_likelihood",
    "trained_network",
    "trained_preprocessing",
    "training_folder",
    "training_network",
    "training_records",
    "volume_dataset",
    "with_covariates",
    "write_model_card",
    "write_run",
]
