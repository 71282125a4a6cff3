"""What models learn of brains whose truth is known, beside PCA: probes, disentanglement, likelihood, lesions.

python benchmarks/truth.py [--work_dir folder] [--latent_dim 64] [--n_epochs 15] [--betas "[0.5,1.0,4.0,16.0]"]
    [--seeds "[0,1,2]"] [--refined_seeds "[0]"]

A simulated cohort of 300 (210 for training, 45 held out) from a seed that nothing else uses. Each model is trained and
evaluated by the bundle's own commands; what is in the working folder already is used again. PCA has as many components
as the models have latents, fitted on the same volumes. Probes: ridge regression fitted on training subjects, R² on
held-out ones. "refined": codes one Gauss-Newton step nearer to the mode of the posterior than the encoder's. Two
supervised methods, which have no codes, say what the images tell: see benchmarks/real.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fire
import numpy as np
from measure import report
from real import KERNEL, SUPERVISED, kernel_ridge, supervised_network

from monai_betavae import bundle_root
from monai_betavae.data import brain_transforms, simulate_cohort
from monai_betavae.evaluation.probes import r_squared

COHORT_SEED, N_SUBJECTS, SPACING, N_DRAWS = 2026, 300, 3.0, 10
SPATIAL_SHAPE = (64, 80, 64)
TARGETS = {
    "brain_ml": 0.95,
    "ventricle_ml": 0.85,
    "gm_ml": None,
    "cortical_csf_fraction": None,
    "asymmetry_index": 0.8,
    "contrast": 0.7,
    "lesion_ml": None,
    "control": None,
}
"""Measured truth, and the least R² that a model should reach of it."""


def bundle(run_id: str, config: str, *words: Any) -> None:
    """Run a command of the bundle; its output is shown only if it fails."""
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(bundle_root() / config)]
    done = subprocess.run([*command, *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-4000:])


def name_of(latent_dim: int, beta: float, seed: int) -> str:
    """Return the name of a model's folder."""
    return f"latents{latent_dim}_beta{beta}_seed{seed}"


def model(work_dir: Path, latent_dim: int, beta: float, seed: int, n_epochs: int, refined: bool) -> dict[str, Any]:
    """Return the scores of a model, which is trained and evaluated where that isn't done yet."""
    folder = work_dir / name_of(latent_dim, beta, seed)
    if not (folder / "scores.json").is_file():
        start = time.monotonic()
        places = ("--dataset_dir", work_dir / "cohort", "--output_dir", folder, "--ckpt_dir", folder)
        settings = ("--latent_dim", latent_dim, "--beta", beta, "--seed", seed, "--max_epochs", n_epochs)
        settings += ("--logger", "none")
        bundle("training", "train.json", *places, *settings, "--overwrite", True)
        (folder / "minutes.txt").write_text(f"{(time.monotonic() - start) / 60:.2f}\n")
    scores = folder / "evaluation" / "scores.json"
    if not scores.is_file():
        places = ("--training_output_dir", folder, "--output_dir", folder, "--ckpt_dir", folder)
        parts = "['reconstruction','likelihood','latents','probes','disentanglement','anomaly']"
        settings = ("--covariates", str(list(TARGETS)), "--n_samples", N_DRAWS, "--parts", parts)
        settings += ("--refinement_steps", int(refined))
        bundle("evaluation", "evaluate.json", *places, *settings)
    found: dict[str, Any] = json.loads(scores.read_text(encoding="utf-8"))
    minutes = folder / "minutes.txt"
    found["minutes"] = float(minutes.read_text()) if minutes.is_file() else None
    return found


def ceilings(folder: Path, n_epochs: int, seed: int) -> list[dict[str, Any]]:
    """Return the R² of both supervised methods, with the subjects of a trained model's split."""
    split = json.loads((folder / "split.json").read_text(encoding="utf-8"))
    parts = [split[part] for part in ("training", "validation", "test")]
    records = [record for part in parts for record in part]
    ends = np.cumsum([len(part) for part in parts])
    rows = np.split(np.arange(len(records)), ends[:-1])
    transform: Any = brain_transforms(SPATIAL_SHAPE, SPACING)
    images = np.stack([transform(record)["image"].numpy() for record in records])
    targets = {name: np.array([float(record[name]) for record in records]) for name in TARGETS}
    found = {
        KERNEL: {name: kernel_ridge(images, values, rows) for name, values in targets.items()},
        SUPERVISED: supervised_network(images, targets, rows, n_epochs, seed),
    }
    held_out = rows[2]
    return [
        {"model": name, **{key: f"{r_squared(targets[key][held_out], of):.3g}" for key, of in predicted.items()}}
        for name, predicted in found.items()
    ]


def row(name: str, scores: Sequence[dict[str, Any]], method: str) -> dict[str, dict[str, Any]]:
    """Return the cells of each table for a method: the mean over seeds, and the range where there are several."""

    def cell(*keys: str, digits: int = 3) -> Any:
        values: list[Any] = []
        for found in scores:
            entry: Any = found
            for key in keys:
                entry = None if entry is None else entry.get(key)
            values.append(entry)
        if any(value is None for value in values):
            return None
        if len(values) == 1 or max(values) - min(values) < 1e-9:
            return f"{values[0]:.{digits}g}"
        return f"{np.mean(values):.{digits}g} ({min(values):.{digits}g}–{max(values):.{digits}g})"

    end = {"model": "", "refined": "_refined", "pca": "_pca"}[method]
    ours = method == "model"
    return {
        "probes": {"model": name, **{target: cell("probes", target, method, "value") for target in TARGETS}},
        "latents": {
            "model": name,
            "MIG": cell("disentanglement", method, "MIG"),
            "SAP": cell("disentanglement", method, "SAP"),
            "DCI disentanglement": cell("disentanglement", method, "DCI disentanglement"),
            "DCI completeness": cell("disentanglement", method, "DCI completeness"),
            "DCI informativeness": cell("disentanglement", method, "DCI informativeness"),
            "active": cell("latents", "active_units") if ours else None,
            "KL [nats]": cell("latents", "kl") if ours else None,
        },
        "reconstruction": {
            "model": name,
            "held-out SSE": cell("reconstruction", f"sse{end}", "value"),
            "SSIM in the brain": cell("reconstruction", f"ssim_brain{end}", "value"),
            "ELBO [nats]": cell("likelihood", "elbo", "value", digits=7) if ours else None,
            f"log p(x), {N_DRAWS} draws [nats]": cell("likelihood", "log_likelihood", "value", digits=7)
            if ours
            else None,
            "minutes": cell("minutes") if ours else None,
        },
        "lesions": {
            "model": name,
            "AUPRC": cell("anomaly", method, "auprc"),
            "Dice": cell("anomaly", method, "dice", "value"),
            "pair error inside": cell("anomaly", method, "healthy_pair", "lesion"),
            "detection AUROC": cell("anomaly", method, "detection_auroc", "value"),
        },
    }


def main(
    work_dir: str | None = None,
    latent_dim: int = 64,
    n_epochs: int = 15,
    betas: Sequence[float] = (0.5, 1.0, 4.0, 16.0),
    seeds: Sequence[int] = (0, 1, 2),
    refined_seeds: Sequence[int] = (0,),
) -> None:
    """Train and evaluate all models, and print the tables."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(work_dir or temporary)
        if not (folder / "cohort").is_dir():
            simulate_cohort(folder / "cohort", n_subjects=N_SUBJECTS, spacing=SPACING, seed=COHORT_SEED)
        found = {}
        for seed in seeds:
            for beta in betas:
                found[beta, seed] = model(folder, latent_dim, beta, seed, n_epochs, seed in refined_seeds)
                print(f"beta {beta}, seed {seed}: done", flush=True)
        supervised = ceilings(folder / name_of(latent_dim, betas[0], seeds[0]), n_epochs, seeds[0])
    rows = [row(f"beta {beta:g}", [found[beta, seed] for seed in seeds], "model") for beta in betas]
    for beta in betas:
        refined = [found[beta, seed] for seed in seeds if seed in refined_seeds]
        if refined:
            rows.append(row(f"beta {beta:g}, refined", refined, "refined"))
    first = next(iter(found.values()))
    rows.append(row("PCA", [first], "pca"))
    tables = {
        # what a method has no number of at all is no row
        name: [each[name] for each in rows if any(value is not None for value in list(each[name].values())[1:])]
        for name in rows[0]
    }
    tables["probes"] += supervised
    for method, label in (("mean_image", "mean image residual"), ("intensity", "intensity threshold")):
        scores = first["anomaly"].get(method)
        if scores:
            cells = {"model": label, "AUPRC": scores["auprc"], "Dice": scores["dice"]["value"]}
            tables["lesions"].append({**dict.fromkeys(tables["lesions"][0]), **cells})
    headings = {
        "probes": f"R² of the measured truth, {len(seeds)} seeds: mean (range)",
        "latents": "Disentanglement against the five factors; latents",
        "reconstruction": "Reconstruction and likelihood of held-out subjects",
        "lesions": "Lesions (simulated)",
    }
    report(
        "truth",
        "What models learn of simulated brains",
        {headings[name]: table for name, table in tables.items()},
        notes=f"{latent_dim} latents, {n_epochs} epochs. A simulated" + (__doc__ or "").partition("\n\nA simulated")[2],
        targets=TARGETS,
    )


if __name__ == "__main__":
    fire.Fire(main)
