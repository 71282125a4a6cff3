"""Decoders on two simulated cohorts and three cohort sizes: held-out error, probes, and the noise as the limit.

python benchmarks/cohorts.py [--cohorts "['warped', 'folded']"] [--sizes "[140, 500, 2000]"] [--latent_dim 32]
    [--n_epochs 20] [--models "['ours, default', ...]"] [--work_dir folder]

"warped": smooth deformations of one template, the family of the default decoder. "folded": cortical folding drawn from
random fields, several base anatomies, structures that exist or not, skull-strip errors. Both at 3 mm, without lesions,
from a seed that nothing else uses. The first 60 subjects are held out, the next 40 choose the epoch whose weights
count, and training takes the first 140, 500 or 2,000 of the others, for 20, 10 and 10 epochs or as many as told. PCA
has as many components as the models have latents. Errors are summed squared errors of reconstructions from the
posterior mean, relative to that of the mean training image; intervals are a bootstrap over subjects. "noise floor" is
the error of a model that knows each held-out subject without the scanner's noise: of its noise-free scan, after the
best linear match of intensities. Probes are as in benchmarks/real.py, and so are the supervised ceilings. What is in
the working folder already is used again.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fire
import numpy as np
from measure import report
from numpy.typing import NDArray
from real import KERNEL, OURS, PCA, SUPERVISED, interval, r_squared_difference, ratio_of_sums, run_fold
from tqdm import tqdm

from monai_betavae.data import brain_transforms, discover, simulate_cohort
from monai_betavae.evaluation.intervals import estimate
from monai_betavae.evaluation.probes import r_squared
from monai_betavae.evaluation.reconstruction import squared_error

Array = NDArray[Any]

COHORT_SEED, SPACING, N_HELD_OUT, N_VALIDATION = 2027, 3.0, 60, 40
EPOCHS = {140: 20, 500: 10, 2000: 10}
LINEAR, CONVOLUTIONS = "ours, linear start", "ours, convolutions from the mean image"
MODELS = (PCA, OURS, LINEAR, CONVOLUTIONS, KERNEL, SUPERVISED)
TARGETS = ("brain_ml", "ventricle_ml", "gm_ml", "cortical_csf_fraction", "asymmetry_index", "contrast")
FLOOR = "noise floor"


def volumes_of(folder: Path, anatomy: str, n_subjects: int, noise: bool) -> tuple[Array, list[dict[str, Any]]]:
    """Return the images and records of a cohort, which is simulated where it isn't there yet."""
    place = folder / f"{anatomy}_{n_subjects}{'' if noise else '_without_noise'}"
    if not place.is_dir():
        simulate_cohort(
            place, n_subjects, COHORT_SEED, spacing=SPACING, lesion_fraction=0.0, anatomy=anatomy, noise=noise
        )
    stored = place.with_suffix(".npy")
    records = sorted(discover(place), key=lambda record: str(record["subject"]))
    if not stored.is_file():
        transform: Any = brain_transforms((64, 80, 64), SPACING)
        images = [transform(record)["image"].numpy() for record in tqdm(records, f"reading {place.name}")]
        np.save(stored, np.stack(images))
    return np.load(stored), records


def noise_floor(noisy: Array, clean: Array) -> Array:
    """Return each subject's squared error of its noise-free scan, after the best linear match of intensities."""
    matched = np.empty_like(noisy)
    for row, (image, true) in enumerate(zip(noisy, clean, strict=True)):
        slope, offset = np.polyfit(true[true > 0], image[true > 0], 1)
        matched[row] = np.where(true > 0, slope * true + offset, 0.0)
    return squared_error(noisy, matched)


def one_size(
    name: str, images: Array, targets: dict[str, Array], size: int, latent_dim: int, n_epochs: int, seed: int
) -> dict[str, Any]:
    """Fit a model on as many training subjects, and score it."""
    first = N_HELD_OUT + N_VALIDATION
    used = images[: first + size]
    rows = (np.arange(first, first + size), np.arange(N_HELD_OUT, first), np.arange(N_HELD_OUT))
    part = {key: values[: first + size] for key, values in targets.items()}
    return run_fold(name, used, part, rows, latent_dim, n_epochs, seed)


def tables_of(
    results: dict[tuple[str, int, str], dict[str, Any]], true: dict[str, dict[str, Array]]
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of all tables, one row for each cohort, size and model."""
    errors, probes = [], []
    for (cohort, size, name), found in results.items():
        pca = results[cohort, size, PCA]
        row: dict[str, Any] = {"cohort": cohort, "volumes": size, "model": name}
        if "errors" in found:
            own, base = np.asarray(found["errors"]), np.asarray(pca["mean image"])
            errors.append(
                {
                    **row,
                    "error": interval(estimate(own, base, statistic=ratio_of_sums)),
                    "/ PCA's": interval(estimate(own, np.asarray(pca["errors"]), statistic=ratio_of_sums)),
                    "calibration": found.get("calibration"),
                    "seconds": found.get("seconds"),
                }
            )
        if "predicted" not in found:
            continue
        scores = dict(row)
        for target, values in true[cohort].items():
            predicted = np.asarray(found["predicted"][target])
            scores[target] = f"{r_squared(values, predicted):.3f}"
            if name != PCA:
                other = np.asarray(pca["predicted"][target])
                scores[target] += ", " + interval(
                    estimate(values, predicted, other, statistic=r_squared_difference), signed=True
                )
        probes.append(scores)
    return {"Held-out error": errors, "R² of the measured truth; minus PCA's": probes}


def main(
    cohorts: Sequence[str] = ("warped", "folded"),
    sizes: Sequence[int] = tuple(EPOCHS),
    models: Sequence[str] = MODELS,
    latent_dim: int = 32,
    n_epochs: int | None = None,
    work_dir: str | None = None,
    seed: int = 0,
) -> None:
    """Simulate, fit, score and print the tables."""
    results: dict[tuple[str, int, str], dict[str, Any]] = {}
    true: dict[str, dict[str, Array]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(work_dir or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        n_subjects = N_HELD_OUT + N_VALIDATION + max(sizes)
        for cohort in cohorts:
            images, records = volumes_of(folder, cohort, n_subjects, noise=True)
            clean, _ = volumes_of(folder, cohort, N_HELD_OUT, noise=False)
            targets = {name: np.array([float(record[name]) for record in records]) for name in TARGETS}
            true[cohort] = {name: values[:N_HELD_OUT] for name, values in targets.items()}
            floor = noise_floor(images[:N_HELD_OUT], clean).tolist()
            for size in sizes:
                taken = EPOCHS.get(size, 5) if n_epochs is None else n_epochs
                for name in [PCA, *(model for model in models if model != PCA)]:
                    stored = folder / f"{cohort}_{size}_{name}_{latent_dim}_{taken}.json"
                    if not stored.is_file():
                        start = time.monotonic()
                        found = one_size(name, images, targets, size, latent_dim, taken, seed)
                        stored.write_text(json.dumps(found), encoding="utf-8")
                        print(f"{cohort}, {size}, {name}: {time.monotonic() - start:.0f} s", flush=True)
                    results[cohort, size, name] = json.loads(stored.read_text(encoding="utf-8"))
                results[cohort, size, FLOOR] = {"errors": floor}
    report(
        "cohorts",
        "Two simulated cohorts, three sizes",
        tables_of(results, true),
        notes=f"{latent_dim} latents. " + (__doc__ or "").partition("folder]\n\n")[2],
    )


if __name__ == "__main__":
    fire.Fire(main)
