"""Conditional models on simulated brains: sites taken out, adjusted deviation, the same brain at another age.

python benchmarks/conditional.py [--seeds "[0,1,2]"] [--n_epochs 20] [--work_dir folder]

Everything at 6 mm, 32 latents, from seeds that nothing else uses. Trainings run with each seed; figures are the mean,
with the lowest and highest. What is in the working folder already is used again.

Sites: 500 brains of three sites with strong effects (contrast, blur, noise, bias field, distortion), 300 for training
and 200 held out. The site is predicted from codes by a logistic regression that is fitted on the training subjects'
codes; the score is balanced accuracy, by chance 0.333. Age: ridge regression, R². "location and scale": each site's
codes shifted and scaled to the mean and spread of all training codes, as in ComBat without its shrinkage. "images":
decoded at the average site, then the same probes on principal components of the images.

Norm: 600 brains of three strong sites, 30 % of them patients with a known local atrophy. Training and reference take
controls alone: 240 and 60; the other controls and all patients are held out. p: the rank of the mean |z| of the codes
among the reference's. The share beyond the limit is that of held-out controls with p <= 0.05, ideally 0.05. The linear
norm is a regression of each voxel on the same coded covariates, its score the mean |z| over the brain.

Age curve: the ventricles of held-out subjects of the first cohort, decoded at 45 and at 70 years, by the darkness
within 8 mm of the template's ventricles; the slope relative to that of the simulator's own typical brains.

Repeats: 40 subjects of one site, scanned twice; ICC(1,1), median over latents.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fire
import nibabel as nib
import numpy as np
import torch
from measure import report
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader

from monai_betavae import build_vae
from monai_betavae.data import CovariateCoding, brain_transforms, discover, simulate_cohort
from monai_betavae.data.simulation import load_anatomy, simulate_subject
from monai_betavae.data.simulation.ageing import typical_factors
from monai_betavae.data.simulation.anatomy import cohort_grid
from monai_betavae.evaluation import intraclass_correlation, latent_deviation, squared_error
from monai_betavae.evaluation.reconstruction import fit_pca
from monai_betavae.networks.latent_model import decode_array, encode_array
from monai_betavae.training import warmup_and_decay

Array = NDArray[Any]

SPACING, SHAPE, LATENT_DIM, BETA = 6.0, (32, 40, 32), 32, 0.125
"""Beta 1 at 3 mm, for an eighth of the voxels."""

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
ALL = ("age", "sex", "site")


def images_of(place: Path, make: Callable[[Path], Any]) -> tuple[Array, list[dict[str, Any]]]:
    """Return the images and records of a cohort, which is simulated where it isn't there yet."""
    if not place.is_dir():
        make(place)
    records = sorted(discover(place), key=lambda each: (str(each["subject"]), str(each.get("session"))))
    stored = place.with_suffix(".npy")
    if not stored.is_file():
        transform: Any = brain_transforms(SHAPE, SPACING)
        np.save(stored, np.stack([transform(record)["image"].numpy() for record in records]))
    return np.load(stored), records


def fitted(images: Array, rows: Array | None, training: Array, n_epochs: int, seed: int) -> Any:
    """Train a model on some of the images, conditional on coded covariates if there are any."""
    vae = build_vae(
        SHAPE,
        LATENT_DIM,
        n_covariates=0 if rows is None else rows.shape[1],
        beta=BETA,
        noise="global",
        lr=1e-3,
        lr_scheduler=warmup_and_decay,
        random_state=seed,
        max_epochs=n_epochs,
        **QUIET,
    )
    samples = [
        {"image": torch.from_numpy(images[i]), **({} if rows is None else {"covariates": torch.from_numpy(rows[i])})}
        for i in training
    ]
    return vae.fit(DataLoader(samples, batch_size=4, shuffle=True))


def probes(codes: Array, site: Array, age: Array, training: Array, held_out: Array) -> dict[str, float]:
    """Return how well site and age are predicted from codes."""
    by_site = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)).fit(codes[training], site[training])
    by_age = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 5, 17))).fit(codes[training], age[training])
    return {
        "site": float(balanced_accuracy_score(site[held_out], by_site.predict(codes[held_out]))),
        "age": float(r2_score(age[held_out], by_age.predict(codes[held_out]))),
    }


def location_and_scale(codes: Array, site: Array, training: Array) -> Array:
    """Return codes with each site's mean and spread made those of all training codes."""
    made = np.empty_like(codes)
    mean, spread = codes[training].mean(axis=0), codes[training].std(axis=0)
    for name in np.unique(site):
        own = training[site[training] == name]
        here = site == name
        made[here] = (codes[here] - codes[own].mean(axis=0)) / codes[own].std(axis=0) * spread + mean
    return made


def sites(folder: Path, seed: int, n_epochs: int) -> dict[str, Any]:
    """Take the site out of codes and images."""
    images, records = images_of(
        folder / "strong6",
        lambda place: simulate_cohort(place, 500, 2030, spacing=SPACING, lesion_fraction=0.0, site_effects="strong"),
    )
    site, age = np.array([each["site"] for each in records]), np.array([float(each["age"]) for each in records])
    training, held_out = np.arange(300), np.arange(300, 500)
    found: dict[str, Any] = {}
    base = squared_error(images[held_out], np.broadcast_to(images[training].mean(axis=0), images[held_out].shape)).sum()
    for name, names in (("plain", ()), ("conditional on site", ("site",)), ("conditional on age, sex and site", ALL)):
        coding = CovariateCoding.fit([records[i] for i in training], names) if names else None
        rows = None if coding is None else coding.rows(records)
        vae = fitted(images, rows, training, n_epochs, seed)
        codes, _ = encode_array(vae, images, covariates=rows)
        restored = decode_array(vae, codes, covariates=rows)
        found[name] = probes(codes, site, age, training, held_out)
        found[name]["error"] = float(squared_error(images[held_out], restored[held_out]).sum() / base)
        if name == "plain":
            moved = location_and_scale(codes, site, training)
            found["plain, location and scale"] = probes(moved, site, age, training, held_out)
        if names == ("site",):
            average = decode_array(vae, codes, covariates=0 * rows)
            for what, volumes in (("images", images), ("images, decoded", restored), ("images, at one site", average)):
                pca = fit_pca(volumes[training], LATENT_DIM)
                found[what] = probes(pca.transform(volumes.reshape(500, -1)), site, age, training, held_out)
        if names == ALL:
            found["slope"] = age_slope(vae, coding, codes[held_out], folder)
    return found


def darkness(volumes: Array, inside: Array) -> Array:
    """Return the volume of what is dark near the ventricles, in ml, shape (n,)."""
    bright = np.array([np.percentile(volume[volume > 0.1], 90) for volume in volumes])
    dark = np.clip(1 - volumes[:, 0] / bright[:, None, None, None], 0, 1)
    found: Array = dark[:, inside].sum(axis=1) * SPACING**3 / 1000
    return found


def age_slope(vae: Any, coding: Any, codes: Array, folder: Path) -> float:
    """Return how fast decoded ventricles grow with age, relative to the simulator's typical brains."""
    transform: Any = brain_transforms(SHAPE, SPACING)
    anatomy, ages = load_anatomy(SPACING), (45, 70)
    true = []
    for age in ages:
        subject = simulate_subject(anatomy, typical_factors(age), spacing=SPACING)
        path = folder / f"typical_{age}.nii.gz"
        nib.save(nib.Nifti1Image(subject.volume, cohort_grid(SPACING)[1]), path)
        sample = transform({"image": str(path), "subject": f"typical-{age}"})
        true.append(sample["image"].numpy())
    inside = near_ventricles(anatomy, np.asarray(sample["image_affine"]))
    first, last = darkness(np.stack(true), inside)
    decoded = [
        darkness(
            decode_array(vae, codes, covariates=np.repeat(coding.row_of({"age": age})[None], len(codes), axis=0)),
            inside,
        )
        for age in ages
    ]
    return float((decoded[1] - decoded[0]).mean() / (last - first))


def near_ventricles(anatomy: Any, affine: Array) -> Array:
    """Return the voxels of the model's grid within 8 mm of the template's ventricles."""
    wide = ndimage.binary_dilation(anatomy.maps["ventricle"] > 0.5, iterations=8)
    grid = np.stack(np.meshgrid(*(np.arange(side) for side in SHAPE), indexing="ij"), axis=-1)
    places = (grid @ affine[:3, :3].T + affine[:3, 3] - anatomy.origin).round().astype(int)
    known = ((places >= 0) & (places < np.array(wide.shape))).all(axis=-1)
    inside = np.zeros(SHAPE, bool)
    inside[known] = wide[tuple(places[known].T)]
    return inside


def norm(folder: Path, seed: int, n_epochs: int) -> dict[str, Any]:
    """Score held-out controls and patients against a norm of controls."""
    images, records = images_of(
        folder / "disease",
        lambda place: simulate_cohort(
            place, 600, 2031, spacing=SPACING, lesion_fraction=0.0, site_effects="strong", disease_fraction=0.3
        ),
    )
    patient = np.array([each["diagnosis"] == "patient" for each in records])
    age, site = np.array([float(each["age"]) for each in records]), np.array([each["site"] for each in records])
    controls = np.flatnonzero(~patient)
    training, reference = controls[:240], controls[240:300]
    held_out = np.concatenate([controls[300:], np.flatnonzero(patient)])
    thirds = np.quantile(age[training], [1 / 3, 2 / 3])
    coding = CovariateCoding.fit([records[i] for i in training], ALL)
    found: dict[str, Any] = {}
    for name, rows in (("unadjusted", None), ("adjusted", coding.rows(records))):
        vae = fitted(images, rows, training, n_epochs, seed)
        mu, logvar = encode_array(vae, images, covariates=rows)
        scored = latent_deviation(mu[held_out], logvar[held_out], mu[reference], logvar[reference])
        found[name] = summary(scored["score"], scored["p_subject"], patient, age, site, held_out, thirds)
    flat = images.reshape(len(images), -1)
    inside = images[training].mean(axis=(0, 1)).ravel() > 0.1
    design = np.column_stack([np.ones(len(images)), coding.rows(records)])
    weights = np.linalg.lstsq(design[training], flat[training][:, inside], rcond=None)[0]
    rest = flat[:, inside] - design @ weights
    z = np.abs(rest / rest[training].std(axis=0)).mean(axis=1)
    p = (1 + (z[reference][None] >= z[held_out][:, None]).sum(axis=1)) / (len(reference) + 1)
    found["linear norm of each voxel"] = summary(z[held_out], p, patient, age, site, held_out, thirds)
    return found


def summary(
    score: Array, p: Array, patient: Array, age: Array, site: Array, held_out: Array, thirds: Array
) -> dict[str, Any]:
    """Return the AUROC of patients, and the share of controls beyond the limit, overall and by age and site."""
    sick, controls = patient[held_out], ~patient[held_out]
    beyond = {"all": float((p[controls] <= 0.05).mean())}
    which = np.digitize(age[held_out], thirds)
    for number, name in enumerate(("youngest", "middle", "oldest")):
        beyond[name] = float((p[controls & (which == number)] <= 0.05).mean())
    for name in np.unique(site):
        beyond[str(name)] = float((p[controls & (site[held_out] == name)] <= 0.05).mean())
    return {"AUROC": float(roc_auc_score(sick, score)), "beyond": beyond}


def repeats(folder: Path, seed: int, n_epochs: int) -> dict[str, float]:
    """Return the reliability of codes of repeated scans, of a plain model of the first cohort's site and PCA."""
    images, records = images_of(
        folder / "plain6", lambda place: simulate_cohort(place, 300, 2033, spacing=SPACING, lesion_fraction=0.0)
    )
    scans, twice = images_of(
        folder / "repeats",
        lambda place: simulate_cohort(place, 40, 2032, spacing=SPACING, lesion_fraction=0.0, n_sessions=2),
    )
    vae = fitted(images, None, np.arange(len(records)), n_epochs, seed)
    subjects = [each["subject"] for each in twice]
    codes = {"this model": encode_array(vae, scans)[0]}
    pca = fit_pca(images, LATENT_DIM)
    codes["PCA"] = pca.transform(scans.reshape(len(scans), -1))
    return {name: float(np.median(intraclass_correlation(each, subjects))) for name, each in codes.items()}


def range_text(values: Sequence[float], digits: int = 3) -> str:
    """Return the mean with the lowest and the highest value."""
    text = f"{np.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def main(seeds: Sequence[int] = (0, 1, 2), n_epochs: int = 20, work_dir: str | None = None) -> None:
    """Train, score and write the tables."""
    folder = Path(work_dir or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[Any]] = {}
    for part in (sites, norm, repeats):
        for seed in seeds:
            stored = folder / f"{part.__name__}_{n_epochs}_{seed}.json"
            if not stored.is_file():
                began = time.monotonic()
                stored.write_text(json.dumps(part(folder, seed, n_epochs)))
                print(part.__name__, seed, f"{time.monotonic() - began:.0f} s", stored.read_text(), flush=True)
            runs.setdefault(part.__name__, []).append(json.loads(stored.read_text()))
    site_rows = []
    for name in runs["sites"][0]:
        if name == "slope":
            continue
        row: dict[str, Any] = {"codes": name}
        for column, key in (("site, balanced accuracy", "site"), ("age, R²", "age"), ("error", "error")):
            values = [run[name][key] for run in runs["sites"] if key in run[name]]
            row[column] = range_text(values) if values else "–"
        site_rows.append(row)
    norm_rows = []
    for name in runs["norm"][0]:
        row = {"norm": name, "AUROC of patients": range_text([run[name]["AUROC"] for run in runs["norm"]])}
        for group in runs["norm"][0][name]["beyond"]:
            row[group] = range_text([run[name]["beyond"][group] for run in runs["norm"]])
        norm_rows.append(row)
    slope = [{"growth of decoded ventricles / simulator's": range_text([run["slope"] for run in runs["sites"]], 2)}]
    icc = [
        {"codes": name, "median ICC": range_text([run[name] for run in runs["repeats"]])} for name in runs["repeats"][0]
    ]
    report(
        "conditional",
        "Conditional models on simulated brains",
        {
            "Sites": site_rows,
            "Adjusted deviation; share of held-out controls beyond the 5 % limit": norm_rows,
            "The same brain at another age": slope,
            "Repeated scans": icc,
        },
        notes=(__doc__ or "").partition("folder]\n\n")[2],
    )


if __name__ == "__main__":
    fire.Fire(main)
