"""What objectives do for codes of brains whose factors are known.

python benchmarks/objectives.py [--work_dir folder] [--n_epochs 30] [--seeds "[0,1,2]"] [--latent_dim 10]
    [--parts "['warm','uncorrected']"]

A simulated cohort of 300 at 6 mm (210 for training, 90 held out), 10 latents, batches of 16: in batches of 4, as the
bundle has them, covariances and total correlations are noise. Everything is measured on the held-out subjects. The
error is relative to that of the mean training image. UDR compares the three seeds, and needs no labels. MIG, SAP and
DCI use the six factors. Probes: ridge regression fitted on the training subjects' codes, mean R² of the factors.
What is in the working folder already is used again.

Objectives that compare the images of a batch act on means, which a template's correction of codes settles: the second
table is without it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch
from measure import report
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from monai_betavae import BetaVAELoss, build_vae
from monai_betavae.data import brain_transforms, discover, simulate_cohort
from monai_betavae.evaluation import active_units, dci, kl_per_dimension, mig, sap, squared_error, udr
from monai_betavae.evaluation.probes import probe_held_out
from monai_betavae.objectives import (
    BetaTCVAELoss,
    CapacityLoss,
    DIPVAELoss,
    FreeBitsLoss,
    InfoVAELoss,
    SigmaVAELoss,
)
from monai_betavae.training.learning_rate import warmup_and_decay

Array = NDArray[Any]

COHORT_SEED, N_SUBJECTS, N_TRAINING, SPACING, SHAPE, BATCH_SIZE = 2028, 300, 210, 6.0, (32, 40, 32), 16
FACTORS = ("brain_ml", "ventricle_ml", "gm_ml", "cortical_csf_fraction", "asymmetry_index", "contrast")
N_RISING = 15
"""Number of epochs in which schedules rise."""

PCA = "PCA"
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}

OBJECTIVES: dict[str, Callable[[], BetaVAELoss]] = {
    "beta-VAE, beta 0.25": lambda: BetaVAELoss(0.25),
    "beta-VAE, beta 1": lambda: BetaVAELoss(1.0),
    "beta-VAE, beta 4": lambda: BetaVAELoss(4.0),
    "beta-VAE, beta 16": lambda: BetaVAELoss(16.0),
    "free bits of 0.25 nats, beta 4": lambda: FreeBitsLoss(4.0, free_nats=0.25),
    "free bits of 0.25 nats, beta 16": lambda: FreeBitsLoss(16.0, free_nats=0.25),
    "capacity of 20 nats, beta 16": lambda: CapacityLoss(
        16.0, capacity=20.0, schedule={"kind": "linear", "length": N_RISING, "unit": "epoch"}
    ),
    "sigma-VAE": lambda: SigmaVAELoss(1.0),
}
"""The objectives of the first table: those that don't compare the images of a batch."""

OF_MEANS: dict[str, Callable[[], BetaVAELoss]] = {
    "beta-VAE, beta 1": lambda: BetaVAELoss(1.0),
    "beta-VAE, beta 4": lambda: BetaVAELoss(4.0),
    "beta-TCVAE, beta 4": lambda: BetaTCVAELoss(4.0),
    "beta-TCVAE, beta 16": lambda: BetaTCVAELoss(16.0),
    "DIP-VAE I": lambda: DIPVAELoss(1.0, kind="I"),
    "DIP-VAE II": lambda: DIPVAELoss(1.0, kind="II"),
    "InfoVAE, alpha 0, lambda 1000": lambda: InfoVAELoss(1.0),
    "MMD-VAE": lambda: InfoVAELoss(1.0, alpha=1.0),
}
"""The objectives of the second table."""


def cohort(folder: Path) -> tuple[Array, dict[str, Array]]:
    """Return the images and factors of the cohort, which is simulated where it isn't there yet."""
    place = folder / "brains"
    if not place.is_dir():
        simulate_cohort(place, N_SUBJECTS, COHORT_SEED, spacing=SPACING, lesion_fraction=0.0)
    records = sorted(discover(place), key=lambda record: str(record["subject"]))
    transform: Any = brain_transforms(SHAPE, SPACING)
    images = np.stack([transform(record)["image"].numpy() for record in records])
    return images, {name: np.array([float(record[name]) for record in records]) for name in FACTORS}


def fitted(
    loss: BetaVAELoss,
    images: Array,
    latent_dim: int,
    warm_start: str,
    n_epochs: int,
    seed: int,
    n_corrections: int | None,
) -> Any:
    """Train a model on the training subjects."""
    vae = build_vae(
        SHAPE,
        latent_dim,
        warm_start=warm_start,
        loss=loss,
        lr=1e-3,
        lr_scheduler=warmup_and_decay,
        random_state=seed,
        max_epochs=n_epochs,
        **({} if n_corrections is None else {"n_corrections": n_corrections}),
        **QUIET,
    )
    training = torch.from_numpy(images[:N_TRAINING])
    vae.fit(DataLoader(training, batch_size=BATCH_SIZE, shuffle=True))
    return vae


def measured(vae: Any, images: Array, factors: dict[str, Array]) -> dict[str, Any]:
    """Return what the table needs of a model, as plain values."""
    with torch.no_grad():
        q = vae.encode(torch.from_numpy(images))
        mu, logvar = q.mean.numpy().astype(np.float64), 2 * q.scale.log().numpy().astype(np.float64)
        restored = vae.decode(q.mean[N_TRAINING:]).numpy()
    kl = kl_per_dimension(mu[N_TRAINING:], logvar[N_TRAINING:])
    return {
        **scored(mu, restored, images, factors),
        "KL": float(kl.sum()),
        "active units": int(active_units(mu[N_TRAINING:]).sum()),
        "codes": mu[N_TRAINING:].tolist(),
        "kl": kl.tolist(),
    }


def scored(codes: Array, restored: Array, images: Array, factors: dict[str, Array]) -> dict[str, float]:
    """Return error, probes and disentanglement from codes of all subjects and the held-out ones' reconstructions."""
    training, held_out = images[:N_TRAINING], images[N_TRAINING:]
    mean = np.broadcast_to(training.mean(axis=0), held_out.shape)
    truth = {name: values[N_TRAINING:] for name, values in factors.items()}
    first, rest = codes[:N_TRAINING], codes[N_TRAINING:]
    probes = [
        probe_held_out(first, values[:N_TRAINING], rest, values[N_TRAINING:], n_permutations=0).value
        for values in factors.values()
    ]
    alive = codes[N_TRAINING:, codes[N_TRAINING:].std(axis=0) > 1e-6]
    scores = {"MIG": np.nan, "SAP": np.nan, "DCI": np.nan}
    if alive.shape[1] > 1:
        scores = {
            "MIG": mig(alive, truth)["score"],
            "SAP": sap(alive, truth)["score"],
            "DCI": dci(alive, truth)["disentanglement"],
        }
    error = float(squared_error(held_out, restored).sum() / squared_error(held_out, mean).sum())
    return {"error": error, **{name: float(value) for name, value in scores.items()}, "probes": float(np.mean(probes))}


def row(name: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and range over seeds of each score."""
    made: dict[str, Any] = {"objective": name}
    for column, digits in (
        ("error", 3),
        ("KL", 1),
        ("active units", 1),
        ("MIG", 3),
        ("SAP", 3),
        ("DCI", 3),
        ("probes", 3),
    ):
        values = [run[column] for run in runs if column in run]
        if values:
            low, mean, high = (f"{value:.{digits}f}" for value in (min(values), np.mean(values), max(values)))
            made[column] = mean if len(values) == 1 else f"{mean} ({low}–{high})"
        else:
            made[column] = "–"
        if column == "active units":
            made["UDR"] = "–"
            if len(runs) > 1 and "codes" in runs[0]:
                found = udr([np.array(run["codes"]) for run in runs], [np.array(run["kl"]) for run in runs])
                made["UDR"] = f"{found['score']:.3f}"
    return made


def main(
    work_dir: str | None = None,
    n_epochs: int = 30,
    seeds: Sequence[int] = (0, 1, 2),
    latent_dim: int = 10,
    parts: Sequence[str] = ("warm", "uncorrected"),
) -> None:
    """Train and measure every objective with every seed, and write the tables."""
    folder = Path(work_dir or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    images, factors = cohort(folder)
    tables: dict[str, list[dict[str, Any]]] = {}
    made = {
        "warm": (f"{latent_dim} latents, the default warm start", OBJECTIVES, "deformable", None, n_epochs),
        "uncorrected": ("The same without the correction of codes", OF_MEANS, "deformable", 0, n_epochs),
    }
    for heading, losses, start, n_corrections, taken in (made[part] for part in parts):
        tables[heading] = []
        for name, make in losses.items():
            runs = []
            for seed in seeds:
                kind = start if n_corrections is None else f"{start} uncorrected"
                stored = folder / f"{kind}_{latent_dim}_{taken}_{name}_{seed}.json"
                if not stored.is_file():
                    began = time.monotonic()
                    vae = fitted(make(), images, latent_dim, start, taken, seed, n_corrections)
                    found = measured(vae, images, factors)
                    stored.write_text(json.dumps(found))
                    print(name, seed, f"{time.monotonic() - began:.0f} s, error {found['error']:.3f}", flush=True)
                runs.append(json.loads(stored.read_text()))
            tables[heading].append(row(name, runs))
        if losses is OBJECTIVES:
            tables[heading].append(row(PCA, [by_pca(images, factors, latent_dim)]))
    report(
        "objectives",
        "Objectives on a simulated cohort",
        tables,
        notes=(__doc__ or "").partition("'uncorrected']\"]\n\n")[2],
    )


def by_pca(images: Array, factors: dict[str, Array], latent_dim: int) -> dict[str, Any]:
    """Return the scores of principal components fitted on the training subjects."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    mean = flat[:N_TRAINING].mean(axis=0)
    _, _, components = np.linalg.svd(flat[:N_TRAINING] - mean, full_matrices=False)
    codes = (flat - mean) @ components[:latent_dim].T
    restored = (mean + codes[N_TRAINING:] @ components[:latent_dim]).reshape(images[N_TRAINING:].shape)
    return scored(codes, restored.astype(np.float32), images, factors)


if __name__ == "__main__":
    fire.Fire(main)
