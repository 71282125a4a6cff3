"""Scores of a trained run on its validation subjects: nothing here has seen the held-out ones, or a label."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from numpy.typing import NDArray

from ...estimator import VAE
from ...evaluation.latent_activity import active_units, kl_per_dimension
from ...evaluation.rate_distortion import linear_rate_distortion
from ...evaluation.reconstruction import fit_pca, squared_error
from ...networks.latent_model import decode_array
from ...saving.atomic_files import atomic_path
from ..covariates import trained_covariates
from ..model_description import MODEL_FILE
from ..model_evaluation.subjects import Subjects, embed
from ..records import SPLIT_FILE, read_split
from ..trained_model import load_weights, trained_likelihood, trained_network, trained_preprocessing
from ..training_results import PCA_BYTES, exact_bound

Array = NDArray[Any]

VALIDATION_FILE = "validation.json"


def validation_scores(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the scores of a run on its validation subjects, measured once and then read.

    Args:
        folder: of a finished training.
        device: where to compute.

    Returns:
        "error", the summed squared error, mean over subjects; "elbo", the exact ELBO in nats under the calibrated
        noise; "kl", nats; "active_units"; "n_latents"; and for the comparison of seeds "codes" and "kl_per_dimension".

    Raises:
        ValueError: if the run has no validation subjects.
    """
    stored = folder / VALIDATION_FILE
    if stored.is_file():
        found: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))
        return found
    network = load_weights(trained_network(folder), folder / MODEL_FILE)
    subjects = subjects_of(folder, "validation", network, device)
    covariates = subjects.shown_covariates
    restored = decode_array(network, subjects.mu[subjects.shown], torch.device(device), covariates=covariates)
    likelihood = trained_likelihood(folder)
    estimator = VAE.from_network(network, beta=likelihood["beta"], default_dist=likelihood["distribution"])
    kl = kl_per_dimension(subjects.mu, subjects.logvar)
    found = {
        "error": float(squared_error(subjects.images, restored).mean()),
        "elbo": exact_bound(estimator, subjects.images, restored, 0, covariates)["elbo_nats"],
        "kl": float(kl.sum()),
        "n_latents": len(kl),
        "active_units": int(active_units(subjects.mu).sum()),
        "codes": subjects.mu.tolist(),
        "kl_per_dimension": kl.tolist(),
    }
    with atomic_path(stored) as temporary:
        temporary.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return found


def subjects_of(folder: Path, part: str, network: Any, device: torch.device | str) -> Subjects:
    """Return a part's subjects of a run with their images and codes."""
    records = read_split(folder / SPLIT_FILE)[part]
    if not records:
        raise ValueError(f"`fractions` must leave {part} subjects, by which a sweep chooses; {folder} has none.")
    dataset = Dataset(records, trained_preprocessing(folder))
    return embed(
        network,
        DataLoader(dataset, batch_size=4),
        records,
        device,
        description=f"{part} of {folder.name}",
        coding=trained_covariates(folder),
    )


def baselines(folder: Path, sizes: Sequence[int]) -> dict[str, Any]:
    """Return the validation errors of the mean training image and of PCA, with the images of one run.

    Args:
        folder: of a finished training.
        sizes: numbers of components.

    Returns:
        "mean_image"; "pca", errors by number of components, and "pca_curves", rates and errors of linear beta-VAEs by
        number of components, both empty where the training volumes don't fit in memory.
    """
    network = load_weights(trained_network(folder), folder / MODEL_FILE)
    training, validation = (subjects_of(folder, part, network, "cpu").images for part in ("training", "validation"))
    mean = np.broadcast_to(training.mean(axis=0), validation.shape)
    found: dict[str, Any] = {"mean_image": float(squared_error(validation, mean).mean()), "pca": {}, "pca_curves": {}}
    if training.nbytes <= PCA_BYTES and len(training) > 1:
        pca = fit_pca(training, min(max(sizes), len(training) - 1), 0)
        flat = validation.reshape(len(validation), -1) - pca.mean_
        scores = flat @ pca.components_.T
        for size in sizes:
            if size <= pca.n_components_:
                rest = flat - scores[:, :size] @ pca.components_[:size]
                found["pca"][size] = float((rest.astype(np.float64) ** 2).sum(axis=1).mean())
                curve = linear_rate_distortion(pca, validation, n_latents=size)
                found["pca_curves"][size] = curve.rate.tolist(), curve.distortion.tolist()
    return found


def without_codes(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores that are single numbers."""
    return {name: value for name, value in scores.items() if not isinstance(value, list)}
