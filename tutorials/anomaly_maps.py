# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Anomaly maps and thresholds
#
# Train a model on brains without lesions, map what it can't reconstruct in brains with lesions, and choose a threshold
# on healthy subjects alone. The lesions are simulated, so their masks and the same brains without them are known. The
# tutorial takes about one minute on two CPU cores. Nothing is downloaded.
#
# `python tutorials/anomaly_maps.py my_folder` writes everything to `my_folder`. To open this script as a notebook:
# `pip install jupytext`, then `jupytext --to ipynb tutorials/anomaly_maps.py`.

# %%
import os
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from monai.data import CacheDataset, DataLoader
from PIL import Image

from monai_betavae import build_vae
from monai_betavae.data import brain_transforms, discover, simulate_cohort, split_subjects
from monai_betavae.evaluation import (
    brain_mask,
    dice,
    estimate,
    healthy_pair_error,
    healthy_threshold,
    pca_reconstruction,
    residual_map,
    voxel_auprc,
)
from monai_betavae.evaluation.residuals import erode_mask
from monai_betavae.plots import plot_maps, save_figure
from monai_betavae.training import warmup_and_decay

folder = Path(sys.argv[1]) if len(sys.argv) == 2 and __name__ == "__main__" else Path(tempfile.mkdtemp())

# %% [markdown]
# `TUTORIAL_SIZE=small` runs the same code on fewer and coarser brains in about half a minute. It shows that the
# code runs; its numbers mean nothing.

# %%
SIZES = {
    "full": {"n_subjects": 240, "lesions": 0.15, "spacing": 4.0, "shape": (48, 60, 48), "beta": 0.4, "epochs": 6},
    "small": {"n_subjects": 48, "lesions": 0.25, "spacing": 6.0, "shape": (32, 40, 32), "beta": 0.125, "epochs": 2},
}
size = SIZES[os.environ.get("TUTORIAL_SIZE", "full")]

# %% [markdown]
# ## Healthy subjects for the model, lesions for the test
# The lesions are dark spots in the white matter, of half a millilitre or more. Each has an intensity between those of
# white matter and CSF. The cohort holds the mask of each lesion and the same image without it.
#
# Three groups of healthy subjects have different tasks: the model is trained on the first, the threshold comes from
# the second, and the third checks the threshold. Subjects with lesions take part in none of this.

# %%
cohort = folder / "cohort"
if not cohort.is_dir():
    options = {"spacing": size["spacing"], "lesion_fraction": size["lesions"], "progress": False}
    simulate_cohort(cohort, size["n_subjects"], seed=2031, **options)
records = discover(cohort)
train, validation, healthy = split_subjects([record for record in records if record["group"] == "control"], seed=1)
lesioned = [record for record in records if record["group"] == "lesion"]
lesion_table = pd.DataFrame(lesioned)
print(f"Healthy: {len(train)} for training, {len(validation)} for the threshold, {len(healthy)} held out")
print(f"With a lesion, all held out: {len(lesioned)}. Volumes in ml:")
print(lesion_table["lesion_ml"].quantile([0, 0.5, 1]).round(1).to_string())

# %%
preprocess = brain_transforms(size["shape"], size["spacing"])


def images_of(part: list) -> np.ndarray:
    """Return the preprocessed images of records, shape (n, x, y, z)."""
    return np.stack([preprocess(record)["image"][0].numpy() for record in part])


def derivative(record: dict, name: str, file: str) -> Path:
    """Return a file that the simulated cohort has of a subject with a lesion."""
    return cohort / "derivatives" / name / record["subject"] / "anat" / f"{record['subject']}_{file}.nii.gz"


images = {"validation": images_of(validation), "healthy": images_of(healthy), "lesioned": images_of(lesioned)}
unharmed = images_of([{**r, "image": str(derivative(r, "healthy", "desc-healthy_T1w"))} for r in lesioned])
masks = [nib.load(derivative(record, "lesions", "label-lesion_mask")) for record in lesioned]
affine = preprocess(lesioned[0])["image_affine"].numpy()
assert np.allclose(affine, masks[0].affine)  # the images have the grid of the files, so the masks fit as they are
truth = np.stack([np.asarray(mask.dataobj) > 0 for mask in masks])

# %% [markdown]
# ## Train
# The loss sums over voxels, so beta 1 at 3 mm is a smaller number on a coarser grid.

# %%
quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": False}
training_set = CacheDataset(train, preprocess, progress=False)
vae = build_vae(
    size["shape"],
    latent_dim=32,
    beta=size["beta"],
    random_state=1,
    lr=1e-3,
    max_epochs=size["epochs"],
    lr_scheduler=warmup_and_decay,
    **quiet,
)
vae.fit(DataLoader(training_set, batch_size=4, shuffle=True))

# %% [markdown]
# ## Residual maps, and simpler maps beside them
# `residual_map` takes image and reconstruction. Dark lesions are below their reconstruction, hence `kind="negative"`.
# The outermost voxels of the brain are left out (`erosion`), because partial volume leaves residuals there in everyone.
# `median=1` switches the filter off: at this spacing a window of three voxels is as large as many of the lesions.
#
# A residual of a beta-VAE is worth the effort only if it beats maps that need no neural network:
#
# - **PCA**: the residual of as many principal components as the model has latents.
# - **mean image**: the deviation from the mean of the training images.
# - **intensity**: how dark a voxel is.

# %%
training_images = np.stack([sample["image"][0].numpy() for sample in training_set])


def restored_by_vae(volumes: np.ndarray) -> np.ndarray:
    """Return the model's reconstructions."""
    with torch.no_grad():
        parts = [vae.reconstruct(part[:, None]) for part in torch.from_numpy(volumes).split(8)]
    return torch.cat(parts)[:, 0].numpy()


restore = {
    "VAE": restored_by_vae,
    "PCA": lambda volumes: pca_reconstruction(training_images, volumes, vae.latent_dim),
    "mean image": lambda volumes: np.broadcast_to(training_images.mean(axis=0), volumes.shape),
    "intensity": np.ones_like,
}
brains = {part: brain_mask(volumes) for part, volumes in images.items()}
inside = {part: erode_mask(brain) for part, brain in brains.items()}
restored = {name: {part: made(volumes) for part, volumes in images.items()} for name, made in restore.items()}
maps = {
    name: {
        part: residual_map(images[part], volumes[part], kind="negative", mask=brains[part], median=1) for part in images
    }
    for name, volumes in restored.items()
}

# %% [markdown]
# ## A threshold from healthy subjects
# `healthy_threshold` returns the lowest threshold that at most 0.1 % of the voxels of healthy validation subjects
# exceed. So the meaning of the threshold is a share of false positives: in healthy brains, 0.1 % of the voxels are
# expected to be marked, about a millilitre of each brain. It says nothing about the share of lesions that is found. The
# share is a decision, made before the lesions are looked at. A threshold that is tuned on the lesions would have seen
# the answer. One from the training subjects would be too low, since the model fits them better than new ones.
#
# The third group of healthy subjects checks the share. Look at two things: whether the interval of the mean contains
# 0.1 %, and how much subjects differ. The share is one of all voxels of all subjects. In a single brain it may be
# several times as large. The interval takes the threshold as given. The threshold itself follows from the few
# validation subjects that deviate most, so other validation subjects would give another one: expect the share to be of
# this order, not exact.

# %%
RATE = 0.001
thresholds = {name: healthy_threshold(own["validation"], inside["validation"], RATE) for name, own in maps.items()}
rows = []
for name, own in maps.items():
    marked = (own["healthy"] > thresholds[name]) & inside["healthy"]
    share = 100 * marked.sum(axis=(1, 2, 3)) / inside["healthy"].sum(axis=(1, 2, 3))
    rows.append({"map": name, "threshold": thresholds[name], **estimate(share)._asdict(), "most": share.max()})
false_positives = pd.DataFrame(rows)
print(f"Voxels beyond the threshold in percent, {len(healthy)} held-out healthy subjects (simulated), 95 % intervals")
print(false_positives.to_string(index=False, float_format="{:.3f}".format))
false_positives.to_csv(folder / "false_positives.csv", index=False)

# %% [markdown]
# ## Score the lesions
# - **AUPRC**: the area under the curve of precision and recall of a subject's voxels, over all thresholds. Chance is
#   the share of lesion voxels.
# - **Dice**: the overlap of lesion and marked voxels, at the one threshold that was chosen above. The false positives
#   that the threshold allows are as large as a small lesion, so Dice is low for such even where the map is good.
# - **repaired**: the error of the reconstruction against the true healthy image within the lesion, relative to that of
#   the image as it is (`healthy_pair_error`). Below 1, the reconstruction is nearer to the healthy brain. The mean
#   image repairs lesions too, but it isn't this brain: see **RMSE outside**, the error in the rest of the brain.

# %%
lesion = truth & inside["lesioned"]
areas, rows = {}, []
for name, own in maps.items():
    precision = voxel_auprc(own["lesioned"], lesion, inside["lesioned"])
    overlap = dice((own["lesioned"] > thresholds[name]) & inside["lesioned"], lesion)
    found = {"AUPRC": precision.per_subject, "Dice": overlap}
    if name != "intensity":  # which has no reconstruction
        pairs = healthy_pair_error(restored[name]["lesioned"], unharmed, images["lesioned"], truth, brains["lesioned"])
        found |= {"repaired": pairs["lesion_ratio"], "RMSE outside": np.sqrt(pairs["outside"])}
    for score, values in found.items():
        value = estimate(values, statistic=np.nanmedian if score == "repaired" else np.nanmean)
        text = f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"
        rows.append({"map": name, "score": score, **value._asdict(), "text": text})
    areas[name] = precision.per_subject
scores = pd.DataFrame(rows)
print(f"Mean over {len(lesioned)} subjects with a lesion (simulated) and 95 % interval; of 'repaired' the median")
print(scores.pivot(index="map", columns="score", values="text").loc[list(maps)].fillna("").to_string())
print(f"AUPRC by chance: {precision.prevalence_per_subject.mean():.4f}")
for other in list(maps)[1:]:
    gain = estimate(areas["VAE"] - areas[other], statistic=np.nanmean)
    print(f"AUPRC of the VAE minus that of {other}: {gain.value:.3f} ({gain.low:.3f} to {gain.high:.3f}), paired")
scores.drop(columns="text").to_csv(folder / "scores.csv", index=False)

# %% [markdown]
# ## A good, a median and a bad case
# The maps are drawn where they exceed the threshold, with the lesion's outline in green. In every case, look at what is
# marked outside of the outline: these are false positives.

# %%
order = np.argsort(areas["VAE"])
order = order[np.isfinite(areas["VAE"][order])]
shown = order[[-1, len(order) // 2, 0]]
names = [
    f"{case}: {lesion_table['lesion_ml'][row]:.1f} ml, AUPRC {areas['VAE'][row]:.2f}"
    for case, row in zip(("best", "median", "worst"), shown, strict=True)
]
figure = plot_maps(
    maps["VAE"]["lesioned"][shown],
    images["lesioned"][shown],
    affine,
    names,
    "Residuals above the threshold (simulated)",
    truth[shown],
    threshold=thresholds["VAE"],
)
save_figure(figure, folder / "maps.png")
Image.open(folder / "maps.png")

# %% [markdown]
# ## What residual maps can't do
# **What the model reconstructs stays invisible.** The table says which share of the lesion's darkness the
# reconstruction takes over: the change of the reconstruction within the lesion, between the image with the lesion and
# the one without, relative to the change of the image. More latents and longer training lower the residuals of healthy
# tissue, and may raise this share.


# %%
def darkness(healthy_images: np.ndarray, lesioned_images: np.ndarray) -> np.ndarray:
    """Return how much darker each subject's lesion is than the same voxels without it, summed."""
    return np.where(lesion, healthy_images - lesioned_images, 0).sum(axis=(1, 2, 3))


of_images, rows = darkness(unharmed, images["lesioned"]), []
for name in ("VAE", "PCA"):
    of_model = darkness(restore[name](unharmed), restored[name]["lesioned"])
    share = estimate(of_model, of_images, statistic=lambda own, whole: own.sum() / whole.sum())
    rows.append({"model": name, **share._asdict()})
echo = pd.DataFrame(rows)
print("Share of the lesions' darkness that reconstructions take over (simulated), 95 % intervals over subjects")
print(echo.to_string(index=False, float_format="{:.3f}".format))
echo.to_csv(folder / "echo.csv", index=False)

# %% [markdown]
# **Faint and small lesions drown.** A lesion is found if its contrast is larger than what the model fails to explain in
# healthy tissue. The groups below are halves of the same subjects. The groups are small: look at the intervals.

# %%
rows = []
for name, column in (("volume", "lesion_ml"), ("contrast", "factor_lesion_intensity")):
    low = lesion_table[column] <= lesion_table[column].median()
    for half, members in (("lower half", low), ("upper half", ~low)):
        value = estimate(areas["VAE"][members.to_numpy()], statistic=np.nanmean)
        rows.append({"lesions by": name, "group": half, "n": int(members.sum()), **value._asdict()})
halves = pd.DataFrame(rows)
print("Mean AUPRC of the VAE's residuals (simulated), 95 % intervals over subjects")
print(halves.to_string(index=False, float_format="{:.3f}".format))
halves.to_csv(folder / "halves.csv", index=False)

# %% [markdown]
# **A mean residual isn't a diagnosis.** Residuals at every gyrus outweigh one lesion. In the measurements of
# `docs/evaluation.md`, the mean over the brain didn't tell who has a lesion. `residual_deviation` is a score of
# subjects that is made for local changes: see `tutorials/adjusted_norms.py`.
#
# These brains are simulated: one contrast, one kind of lesion, and healthy subjects that are known to be healthy. On
# real images, bad registration, other scanners and the ageing of vessels leave residuals as well, and no mask says
# which is which.

# %%
vae.save(folder / "vae.pt")
print("Pictures, tables and model are in", folder)
