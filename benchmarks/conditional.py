"""Conditional models on simulated brains: sites taken out, adjusted deviation, other ages, new sites.

python benchmarks/conditional.py [--seeds "[0,1,2]"] [--n_epochs 20] [--work_dir folder]

1,500 brains at 6 mm of three sites with strong effects (contrast, blur, noise, bias field, distortion), 240 of them
patients with a known local atrophy; 32 latents, beta 1 at 3 mm (0.125 at 6 mm), the noise measured. Of the controls,
400 are for training, 400 the reference of the norm, and the others are held out. Trainings run with each seed. A
figure is the mean over seeds with a 95 % bootstrap interval over the held-out subjects, resampled alike for all seeds;
differences are paired. What is in the working folder already is used again.

Sites: predicted from codes by a logistic regression and by a support vector machine with a Gaussian kernel; the score
is balanced accuracy, by chance 0.333. Age: ridge regression, R². All probes are fitted on the reference, which neither
the model nor its harmonisation was fitted on, and scored on the held-out controls. "ComBat":
neuroCombat 0.2.12 on the plain model's codes of all controls together, age and sex preserved, its usual use. "fitted to
all controls": likewise, the conditional mean is fitted to all controls after the training, by `fit_condition`.
"location and scale": each site's codes shifted and scaled to the mean and spread of all training codes. "images":
principal components of the images, as they are, decoded, and decoded at the average site.

Norm: "codes" is the mean |z| of the codes, "residuals" the 0.999 quantile of smoothed residuals' |z|
(`residual_deviation`), both ranked among the reference, after an adjustment for the covariates if adjusted
(`adjust_scores`). The linear norm is a regression of each voxel on the same coded covariates; its residuals are scored
in the same way. Calibration: 3,000 further controls of the same sites, each half ranked among the other, by the first
seed's model conditional on age, sex and site, with and without the adjustment of scores. Ideally 0.05 are beyond the
5 % limit in every group.

Age curve: the ventricles of 60 held-out controls, decoded at 45 and at 70 years, by the darkness within 8 mm of the
template's ventricles, relative to the same subjects simulated at these ages, scanned at the same site and measured in
the same way. The correlation is that of the subjects' own growth, decoded and simulated.

New site: a model of 400 controls of sites A and B is fine-tuned for as many epochs on 20 of site C, with a fifth of the
learning rate, or keeps all but its new column; beside models of 20 and of 200 subjects of site C alone. Error on 150
other controls of site C, relative to the mean image of the 200.

Repeats: 40 subjects of one site, scanned twice, plain models of 300 others; ICC(1,1), median over latents. The interval
is over subjects.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
import warnings
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
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from monai_betavae import VAE, build_vae
from monai_betavae.data import CovariateCoding, brain_transforms, discover, simulate_cohort
from monai_betavae.data.simulation import load_anatomy, simulate_subject
from monai_betavae.data.simulation.ageing import factors_at_age
from monai_betavae.data.simulation.anatomy import cohort_grid
from monai_betavae.data.simulation.scanners import draw_scanner
from monai_betavae.data.simulation.sessions import draw_session
from monai_betavae.data.simulation.subject_factors import draw_subject
from monai_betavae.evaluation import (
    adjust_scores,
    intraclass_correlation,
    latent_deviation,
    residual_deviation,
    squared_error,
)
from monai_betavae.evaluation.reconstruction import brain_mask, fit_pca
from monai_betavae.networks.conditional_mean import extend_condition, fit_condition, keep_condition, n_covariates_of
from monai_betavae.networks.latent_model import decode_array, encode_array
from monai_betavae.training import warmup_and_decay

Array = NDArray[Any]

SPACING, SHAPE, LATENT_DIM, BETA = 6.0, (32, 40, 32), 32, 0.125
"""Beta 1 at 3 mm, for an eighth of the voxels."""

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
ALL = ("age", "sex", "site")
COHORT_SEED, N_SUBJECTS, N_TRAINING, N_REFERENCE, N_AGED, N_FURTHER = 2034, 1500, 400, 400, 60, 3000
N_RESAMPLES = 1000


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


def fitted(
    images: Array, rows: Array | None, training: Array, n_epochs: int, seed: int, start: Path | None = None
) -> Any:
    """Train a model on some of the images, conditional on coded covariates if there are any."""
    samples = [
        {"image": torch.from_numpy(images[i]), **({} if rows is None else {"covariates": torch.from_numpy(rows[i])})}
        for i in training
    ]
    loader = DataLoader(samples, batch_size=4, shuffle=True)
    if start is not None:  # fit goes on from the weights
        vae = VAE.load(start)
        keep_condition(vae, n_covariates_of(vae) - 1)
        vae.lr, vae.lr_scheduler = 2e-4, warmup_and_decay
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This VAE is trained")
            return vae.fit(loader)
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
    return vae.fit(loader)


class Cohort:
    """The cohort of sites and patients, and who is for what."""

    def __init__(self, folder: Path) -> None:
        self.images, self.records = images_of(
            folder / "brains",
            lambda place: simulate_cohort(
                place,
                N_SUBJECTS,
                COHORT_SEED,
                spacing=SPACING,
                lesion_fraction=0.0,
                site_effects="strong",
                disease_fraction=0.16,
            ),
        )
        self.patient = np.array([each["diagnosis"] == "patient" for each in self.records])
        self.site = np.array([each["site"] for each in self.records])
        self.age = np.array([float(each["age"]) for each in self.records])
        self.controls, self.patients = np.flatnonzero(~self.patient), np.flatnonzero(self.patient)
        self.training = self.controls[:N_TRAINING]
        self.reference = self.controls[N_TRAINING : N_TRAINING + N_REFERENCE]
        self.held_out = self.controls[N_TRAINING + N_REFERENCE :]

    def coding(self, names: Sequence[str], rows: Array | None = None) -> CovariateCoding:
        """Return the coding of the training subjects' covariates."""
        return CovariateCoding.fit([self.records[i] for i in (self.training if rows is None else rows)], names)


def probed(codes: Array, cohort: Cohort) -> dict[str, Array]:
    """Return the site and age of held-out controls that are predicted from codes by probes of the reference."""
    of, asked = cohort.reference, cohort.held_out
    site, age = cohort.site[of], cohort.age[of]
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000, class_weight="balanced"))
    curved = make_pipeline(StandardScaler(), SVC(class_weight="balanced"))
    by_age = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 5, 17)))
    return {
        "linear": linear.fit(codes[of], site).predict(codes[asked]),
        "kernel": curved.fit(codes[of], site).predict(codes[asked]),
        "age": by_age.fit(codes[of], age).predict(codes[asked]),
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


def combat(codes: Array, cohort: Cohort) -> Array | None:
    """Return the controls' codes harmonised by ComBat; ``None`` where neuroCombat isn't installed."""
    try:
        from neuroCombat import neuroCombat
    except ImportError:
        print("No row of ComBat without neuroCombat: pip install 'monai-betavae[combat]'")
        return None
    import pandas as pd

    who = cohort.controls
    sex = [str(cohort.records[i]["sex"]) for i in who]
    covariates = pd.DataFrame({"site": cohort.site[who], "age": cohort.age[who], "sex": sex})
    made = codes.copy()
    made[who] = neuroCombat(
        dat=codes[who].T, covars=covariates, batch_col="site", categorical_cols=["sex"], continuous_cols=["age"]
    )["data"].T
    return made


def refitted(vae: Any, cohort: Cohort, rows: Array) -> list[list[float]]:
    """Return codes after the conditional mean was fitted to all controls, as ComBat is: an analysis of one cohort."""
    fit_condition(vae, loader_of(cohort.images, rows, cohort.controls))
    codes: list[list[float]] = encode_array(vae, cohort.images, covariates=rows)[0].tolist()
    return codes


def models(folder: Path, seed: int, n_epochs: int) -> dict[str, Any]:
    """Train the models of the cohort: sites, norm and age curve."""
    cohort = Cohort(folder)
    images = cohort.images
    asked = np.concatenate([cohort.held_out, cohort.patients])
    errors: dict[str, Any] = {}
    found: dict[str, Any] = {"codes": {}, "norm": {}}
    mean = images[cohort.training].mean(axis=0)
    inside = brain_mask(images[cohort.training][:, 0]).mean(axis=0) >= 0.5
    known = cohort.coding(ALL).rows(cohort.records)

    def scored(name: str, residuals: Array, adjusted: bool) -> None:
        of = residual_deviation(residuals[asked], residuals[cohort.reference], inside, spacing=SPACING)
        ranked("residuals, " + name, of.scores, of.reference, adjusted)

    def ranked(name: str, scores: Array, reference: Array, adjusted: bool) -> None:
        if adjusted:
            scores = adjust_scores(scores, known[asked], reference, known[cohort.reference]).scores
        found["norm"][name] = scores.tolist()

    for name, names in (("plain", ()), ("conditional on site", ("site",)), ("conditional on age, sex and site", ALL)):
        coding = cohort.coding(names) if names else None
        rows = None if coding is None else coding.rows(cohort.records)
        vae = fitted(images, rows, cohort.training, n_epochs, seed)
        codes, logvar = encode_array(vae, images, covariates=rows)
        restored = decode_array(vae, codes, covariates=rows)
        found["codes"][name] = codes.tolist()
        errors[name] = squared_error(images[cohort.held_out], restored[cohort.held_out]).tolist()
        if names == ("site",):
            average = decode_array(vae, codes, covariates=0 * rows)
            found["codes"]["conditional on site, fitted to all controls"] = refitted(vae, cohort, rows)
            for what, volumes in (("images", images), ("images, decoded", restored), ("images, at one site", average)):
                pca = fit_pca(volumes[cohort.training], LATENT_DIM)
                found["codes"][what] = pca.transform(volumes.reshape(len(volumes), -1)).tolist()
            continue
        if name == "plain":
            moved = location_and_scale(codes, cohort.site, cohort.training)
            found["codes"]["plain, location and scale"] = moved.tolist()
            harmonised = combat(codes, cohort)
            if harmonised is not None:
                found["codes"]["plain, ComBat"] = harmonised.tolist()
        adjusted = names == ALL
        kind = "adjusted" if adjusted else "unadjusted"
        of = latent_deviation(codes[asked], logvar[asked], codes[cohort.reference], logvar[cohort.reference])
        ranked(f"codes, {kind}", of["score"], of["reference_score"], adjusted)
        scored(kind, (images - restored)[:, 0], adjusted)
        if adjusted:
            found["growth"] = growth(vae, coding, codes, cohort, folder)
    design = np.column_stack([np.ones(len(images)), known])
    flat = images.reshape(len(images), -1)
    weights = np.linalg.lstsq(design[cohort.training], flat[cohort.training], rcond=None)[0]
    scored("linear norm of each voxel", (flat - design @ weights).reshape(images[:, 0].shape).astype(np.float32), True)
    base = squared_error(images[cohort.held_out], np.broadcast_to(mean, images[cohort.held_out].shape))
    return {**found, "errors": errors, "base": base.tolist()}


def darkness(volumes: Array, inside: Array) -> Array:
    """Return the volume of what is dark near the ventricles, in ml, shape (n,)."""
    bright = np.array([np.percentile(volume[volume > 0.1], 90) for volume in volumes])
    dark = np.clip(1 - volumes[:, 0] / bright[:, None, None, None], 0, 1)
    found: Array = dark[:, inside].sum(axis=1) * SPACING**3 / 1000
    return found


def growth(vae: Any, coding: Any, codes: Array, cohort: Cohort, folder: Path) -> dict[str, Any]:
    """Return how much each subject's decoded ventricles grow from 45 to 70 years, and the simulated ones."""
    transform: Any = brain_transforms(SHAPE, SPACING)
    ages, who = (45, 70), cohort.held_out[:N_AGED]
    inside = near_ventricles(np.asarray(transform(cohort.records[who[0]])["image_affine"], dtype=float))
    stored = folder / "aged.npy"
    if not stored.is_file():
        np.save(stored, np.stack([[aged(cohort.records[i], age, transform) for i in who] for age in ages]))
    simulated = [darkness(each, inside) for each in np.load(stored)]
    told = [{name: cohort.records[i][name] for name in ("sex", "site")} for i in who]
    decoded = [
        darkness(
            decode_array(vae, codes[who], covariates=np.stack([coding.row_of({**each, "age": age}) for each in told])),
            inside,
        )
        for age in ages
    ]
    return {"decoded": (decoded[1] - decoded[0]).tolist(), "simulated": (simulated[1] - simulated[0]).tolist()}


def aged(record: dict[str, Any], age: float, transform: Any) -> Array:
    """Return the image of a subject of the cohort at another age, of the same head in the same scanner."""
    subject = int(str(record["subject"]).removeprefix("sub-")) - 1
    image, found = scanned(subject, age, transform)
    if found["site"] != record["site"] or abs(found["age"] - float(record["age"])) > 0.1:
        raise AssertionError(f"{record['subject']} isn't the subject that the seed draws.")
    return image


@functools.cache
def anatomy() -> Any:
    """Return the template's maps, which take a while to load."""
    return load_anatomy(SPACING)


def scanned(subject: int, age: float | None, transform: Any) -> tuple[Array, dict[str, Any]]:
    """Return the image of a healthy subject of the cohort's seed, at an age or its own, and its covariates."""
    factors, covariates = draw_subject(COHORT_SEED, subject, lesion=False)
    scan = simulate_subject(
        anatomy(),
        factors if age is None else factors_at_age(factors, covariates.age, age),
        draw_session(COHORT_SEED, subject, 0),
        spacing=SPACING,
        scanner=draw_scanner(COHORT_SEED, covariates.site),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/scanned.nii.gz"
        nib.save(nib.Nifti1Image(scan.volume, cohort_grid(SPACING)[1]), path)
        image: Array = transform({"image": path, "subject": str(subject)})["image"].numpy()
    return image, {"age": covariates.age, "sex": covariates.sex, "site": covariates.site}


def further_controls(folder: Path) -> tuple[Array, list[dict[str, Any]]]:
    """Return images and covariates of healthy subjects beyond the cohort, of the same sites and scanners."""
    images, told = folder / "further.npy", folder / "further.json"
    if not told.is_file():
        transform: Any = brain_transforms(SHAPE, SPACING)
        who = range(N_SUBJECTS, N_SUBJECTS + N_FURTHER)
        made, known = zip(*(scanned(subject, None, transform) for subject in tqdm(who)), strict=True)
        np.save(images, np.stack(made))
        told.write_text(json.dumps(known))
    return np.load(images), json.loads(told.read_text())


def calibration(folder: Path, seed: int, n_epochs: int) -> dict[str, Any]:
    """Rank further controls, each half among the other, by a model conditional on age, sex and site."""
    cohort, (images, records) = Cohort(folder), further_controls(folder)
    coding = cohort.coding(ALL)
    vae = fitted(cohort.images, coding.rows(cohort.records), cohort.training, n_epochs, seed)
    inside = brain_mask(cohort.images[cohort.training][:, 0]).mean(axis=0) >= 0.5
    rows = coding.rows(records)
    codes, logvar = encode_array(vae, images, covariates=rows)
    residuals = (images - decode_array(vae, codes, covariates=rows))[:, 0]
    raw, adjusted = {}, {}
    halves = np.arange(len(images)) % 2 == 0
    for name in ("codes", "residuals"):
        raw[name], adjusted[name] = np.empty(len(images)), np.empty(len(images))
        for half in (halves, ~halves):
            if name == "codes":
                of = latent_deviation(codes[half], logvar[half], codes[~half], logvar[~half])
                scores, p, reference = of["score"], of["p_subject"], of["reference_score"]
            else:
                scores, p, reference, _ = residual_deviation(residuals[half], residuals[~half], inside, spacing=SPACING)
            raw[name][half] = p
            adjusted[name][half] = adjust_scores(scores, rows[half], reference, rows[~half]).p
    return {
        "raw": {name: p.tolist() for name, p in raw.items()},
        "adjusted": {name: p.tolist() for name, p in adjusted.items()},
    }


def near_ventricles(affine: Array) -> Array:
    """Return the voxels of the model's grid within 8 mm of the template's ventricles."""
    wide = ndimage.binary_dilation(anatomy().maps["ventricle"] > 0.5, iterations=8)
    grid = np.stack(np.meshgrid(*(np.arange(side) for side in SHAPE), indexing="ij"), axis=-1)
    places = (grid @ affine[:3, :3].T + affine[:3, 3] - anatomy().origin).round().astype(int)
    known = ((places >= 0) & (places < np.array(wide.shape))).all(axis=-1)
    inside = np.zeros(SHAPE, bool)
    inside[known] = wide[tuple(places[known].T)]
    return inside


def new_site(folder: Path, seed: int, n_epochs: int) -> dict[str, Any]:
    """Bring a model of two sites to a third."""
    cohort = Cohort(folder)
    images, third = cohort.images, sorted(set(cohort.site))[-1]
    old = cohort.controls[cohort.site[cohort.controls] != third][:N_TRAINING]
    new = cohort.controls[cohort.site[cohort.controls] == third]
    few, many, held_out = new[:20], new[:200], new[200:350]
    coding = cohort.coding(("site",), old)
    rows = np.zeros((len(images), coding.n_columns), np.float32)
    rows[old] = coding.rows([cohort.records[i] for i in old])
    vae = fitted(images, rows, old, n_epochs, seed)
    file = folder / f"two_sites_{seed}.pt"
    vae.save(file)
    found = {"this model, not told of the site": restored_error(vae, images, rows, held_out)}
    extend_condition(vae, 1)
    widened = np.concatenate([rows, (cohort.site == third)[:, None].astype(np.float32)], axis=1)
    vae.save(folder / f"three_sites_{seed}.pt")
    fit_condition(vae, loader_of(images, widened, few))
    found["only its new column, 20 subjects"] = restored_error(vae, images, widened, held_out)
    vae = fitted(images, widened, few, n_epochs, seed, folder / f"three_sites_{seed}.pt")
    found["fine-tuned on 20 subjects"] = restored_error(vae, images, widened, held_out)
    for which, name in ((few, "20"), (many, "200")):
        vae = fitted(images, None, which, n_epochs, seed)
        found[f"from the start on {name} subjects"] = restored_error(vae, images, None, held_out)
    base = np.broadcast_to(images[many].mean(axis=0), images[held_out].shape)
    return {"errors": found, "base": squared_error(images[held_out], base).tolist()}


def loader_of(images: Array, rows: Array, which: Array) -> Any:
    """Return a loader of some subjects with their coded covariates."""
    return DataLoader(
        [{"image": torch.from_numpy(images[i]), "covariates": torch.from_numpy(rows[i])} for i in which], batch_size=4
    )


def restored_error(vae: Any, images: Array, rows: Array | None, which: Array) -> list[float]:
    """Return each subject's squared error."""
    given = None if rows is None else rows[which]
    codes, _ = encode_array(vae, images[which], covariates=given)
    error: list[float] = squared_error(images[which], decode_array(vae, codes, covariates=given)).tolist()
    return error


def repeats(folder: Path, seed: int, n_epochs: int) -> dict[str, Any]:
    """Return codes of repeated scans, of a plain model of the first cohort's site and PCA."""
    images, _ = images_of(
        folder / "plain6", lambda place: simulate_cohort(place, 300, 2033, spacing=SPACING, lesion_fraction=0.0)
    )
    scans, twice = images_of(
        folder / "repeats",
        lambda place: simulate_cohort(place, 40, 2032, spacing=SPACING, lesion_fraction=0.0, n_sessions=2),
    )
    vae = fitted(images, None, np.arange(len(images)), n_epochs, seed)
    codes = {"this model": encode_array(vae, scans)[0].tolist()}
    codes["PCA"] = fit_pca(images, LATENT_DIM).transform(scans.reshape(len(scans), -1)).tolist()
    return {"codes": codes, "subjects": [str(each["subject"]) for each in twice]}


def interval(statistic: Callable[[Array], float], n: int, digits: int = 3) -> str:
    """Return a statistic of rows of subjects, with its 95 % bootstrap interval over the n subjects."""
    rng = np.random.default_rng(0)
    made = [statistic(rng.integers(0, n, n)) for _ in range(N_RESAMPLES)]
    low, high = np.nanquantile(made, [0.025, 0.975])
    return f"{statistic(np.arange(n)):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def r_squared(true: Array, predicted: Array) -> float:
    """Return the share of variance that is predicted."""
    return float(1 - ((true - predicted) ** 2).sum() / ((true - true.mean()) ** 2).sum())


def balanced(true: Array, predicted: Array) -> float:
    """Return the mean over sites of the share of its subjects that are told rightly."""
    return float(np.mean([(predicted[true == name] == name).mean() for name in np.unique(true)]))


def auroc(sick: Array, score: Array) -> float:
    """Return the probability that a patient's score is above a control's."""
    ranks = rankdata(score)
    n = int(sick.sum())
    return float((ranks[sick].sum() - n * (n + 1) / 2) / (n * (len(sick) - n)))


def site_rows(runs: Sequence[Any], cohort: Cohort) -> list[dict[str, Any]]:
    """Return the table of sites."""
    site, age, n = cohort.site[cohort.held_out], cohort.age[cohort.held_out], len(cohort.held_out)
    rows: list[dict[str, Any]] = []
    for name in runs[0]["codes"]:
        found = [probed(np.array(run["codes"][name]), cohort) for run in runs]
        row: dict[str, Any] = {"codes": name}
        for probe in ("linear", "kernel"):
            row[f"site, {probe} probe"] = interval(
                lambda of, found=found, probe=probe: np.mean([balanced(site[of], each[probe][of]) for each in found]),
                n,
            )
        row["age, R²"] = interval(
            lambda of, found=found: np.mean([r_squared(age[of], each["age"][of]) for each in found]), n
        )
        row["error"] = "–"
        if name in runs[0]["errors"]:
            errors = np.mean([run["errors"][name] for run in runs], axis=0)
            base = np.array(runs[0]["base"])
            row["error"] = interval(lambda of, errors=errors, base=base: errors[of].sum() / base[of].sum(), len(base))
        rows.append(row)
    return rows


def norm_rows(runs: Sequence[Any], cohort: Cohort) -> list[dict[str, Any]]:
    """Return the table of AUROC with paired differences."""
    asked = np.concatenate([cohort.held_out, cohort.patients])
    sick = cohort.patient[asked]
    score = {name: [np.array(run["norm"][name]) for run in runs] for name in runs[0]["norm"]}
    best = "residuals, adjusted"

    def area(name: str, of: Array) -> float:
        return float(np.mean([auroc(sick[of], each[of]) for each in score[name]]))

    areas = []
    for name in score:
        row = {"norm": name, "AUROC of patients": interval(lambda of, name=name: area(name, of), len(asked))}
        row["residuals, adjusted, minus it"] = (
            "–" if name == best else interval(lambda of, name=name: area(best, of) - area(name, of), len(asked))
        )
        areas.append(row)
    return areas


def calibration_rows(runs: Sequence[Any], cohort: Cohort, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the table of shares of healthy subjects beyond the limit, by age and site."""
    age, site = np.array([each["age"] for each in records]), np.array([each["site"] for each in records])
    third = np.digitize(age, np.quantile(cohort.age[cohort.training], [1 / 3, 2 / 3]))
    groups = {"all": np.ones(len(age), bool)}
    groups |= {name: third == number for number, name in enumerate(("youngest", "middle", "oldest"))}
    groups |= {str(name): site == name for name in np.unique(site)}
    rows = []
    for score in ("codes", "residuals"):
        for kind, key in (("as they are", "raw"), ("adjusted", "adjusted")):
            p = np.array([run[key][score] for run in runs])
            row = {"scores": f"{score}, {kind}"}
            for name, who in groups.items():
                row[name] = interval(lambda of, p=p, who=who: (p[:, of][:, who[of]] <= 0.05).mean(), len(age))
            rows.append(row)
    return rows


def growth_rows(runs: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the table of the same brain at another age."""
    decoded = np.mean([run["growth"]["decoded"] for run in runs], axis=0)
    simulated = np.array(runs[0]["growth"]["simulated"])
    n = len(simulated)
    return [
        {
            "growth of decoded ventricles / simulated": interval(
                lambda of: decoded[of].mean() / simulated[of].mean(), n, 2
            ),
            "by seed": ", ".join(f"{np.mean(run['growth']['decoded']) / simulated.mean():.2f}" for run in runs),
            "correlation over subjects": interval(
                lambda of: float(np.corrcoef(decoded[of], simulated[of])[0, 1]), n, 2
            ),
        }
    ]


def new_site_rows(runs: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the table of a new site."""
    base = np.array(runs[0]["base"])
    errors = {name: np.mean([run["errors"][name] for run in runs], axis=0) for name in runs[0]["errors"]}
    many = errors["from the start on 200 subjects"]
    return [
        {
            "model": name,
            "error": interval(lambda of, own=own: own[of].sum() / base[of].sum(), len(base)),
            "relative to 200 subjects": interval(lambda of, own=own: own[of].sum() / many[of].sum(), len(base)),
        }
        for name, own in errors.items()
    ]


def repeat_rows(runs: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the table of reliability."""
    subjects = np.array(runs[0]["subjects"])
    names = np.unique(subjects)

    def median(which: str, of: Array) -> float:
        scans = [(number, row) for number, index in enumerate(of) for row in np.flatnonzero(subjects == names[index])]
        who, rows = [f"{number}" for number, _ in scans], [row for _, row in scans]
        return float(
            np.mean(
                [np.median(intraclass_correlation(np.array(run["codes"][which])[rows], np.array(who))) for run in runs]
            )
        )

    return [
        {"codes": name, "median ICC": interval(lambda of, name=name: median(name, of), len(names))}
        for name in runs[0]["codes"]
    ]


def main(seeds: Sequence[int] = (0, 1, 2), n_epochs: int = 20, work_dir: str | None = None) -> None:
    """Train, score and write the tables."""
    folder = Path(work_dir or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[Any]] = {}
    for part in (models, new_site, repeats, calibration):
        for seed in seeds[:1] if part is calibration else seeds:
            stored = folder / f"{part.__name__}_{n_epochs}_{seed}.json"
            if not stored.is_file():
                began = time.monotonic()
                stored.write_text(json.dumps(part(folder, seed, n_epochs)))
                print(part.__name__, seed, f"{time.monotonic() - began:.0f} s", flush=True)
            runs.setdefault(part.__name__, []).append(json.loads(stored.read_text()))
    cohort = Cohort(folder)
    report(
        "conditional",
        "Conditional models on simulated brains",
        {
            "Sites": site_rows(runs["models"], cohort),
            "Patients among held-out controls": norm_rows(runs["models"], cohort),
            "Share of healthy subjects beyond the 5 % limit": calibration_rows(
                runs["calibration"], cohort, further_controls(folder)[1]
            ),
            "The same brain at another age": growth_rows(runs["models"]),
            "A new site": new_site_rows(runs["new_site"]),
            "Repeated scans": repeat_rows(runs["repeats"]),
        },
        notes=(__doc__ or "").partition("folder]\n\n")[2],
    )


if __name__ == "__main__":
    fire.Fire(main)
