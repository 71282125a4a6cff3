# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # First latents
#
# Simulate brains whose anatomy is known, train a beta-VAE for about two minutes, embed held-out subjects, and ask with
# scikit-learn what the latents know. Everything runs on two CPU cores; nothing is downloaded.
#
# `python tutorials/first_latents.py my_folder` keeps everything in `my_folder`. `TUTORIAL_SIZE=small` runs the same
# code on fewer subjects; its numbers mean nothing. To open this script as a notebook: `pip install jupytext`, then
# `jupytext --to ipynb tutorials/first_latents.py`.

# %%
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from monai.data import CacheDataset, DataLoader
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from monai_betavae import build_vae
from monai_betavae.data import brain_transforms, discover, simulate_cohort, split_subjects
from monai_betavae.plots import plot_reconstructions, save_figure
from monai_betavae.training import warmup_and_decay

folder = Path(sys.argv[1]) if len(sys.argv) == 2 and __name__ == "__main__" else Path(tempfile.mkdtemp())
SIZES = {
    "full": {"n_subjects": 200, "spacing": 4.0, "shape": (48, 60, 48), "max_epochs": 20},
    "small": {"n_subjects": 60, "spacing": 8.0, "shape": (24, 32, 24), "max_epochs": 4},
}
size = SIZES[os.environ.get("TUTORIAL_SIZE", "full")]

# %% [markdown]
# ## Brains with known truth
# Every subject's row of `participants.tsv` holds the knobs that made it and the volumes measured afterwards. Scores on
# it are scores on *simulated* data.

# %%
cohort = simulate_cohort(folder / "cohort", n_subjects=size["n_subjects"], seed=1, spacing=size["spacing"])
records = discover(cohort)
train, test = split_subjects(records, fractions=(0.7, 0.3), seed=1)
print(len(train), "training and", len(test), "held-out subjects; one record:", records[0])

# %% [markdown]
# ## Train
# Preprocessing ends in plain tensors that MONAI's `CacheDataset` keeps in memory. Training starts from the principal
# components of the training volumes, turned into a template that they deform.

# %%
shape = size["shape"]
transform = brain_transforms(shape, spacing=size["spacing"])
train_loader = DataLoader(CacheDataset(train, transform, progress=False), batch_size=4, shuffle=True)
test_loader = DataLoader(CacheDataset(test, transform, progress=False), batch_size=4)

vae = build_vae(
    shape,
    latent_dim=32,
    beta=27 / size["spacing"] ** 3,  # the loss sums over voxels; 1 is for 3 mm
    random_state=1,
    stochastic_transform=False,
    lr=1e-3,
    max_epochs=size["max_epochs"],
    lr_scheduler=warmup_and_decay,
    logger=False,
    enable_checkpointing=False,
    enable_model_summary=False,
    enable_progress_bar=False,
)
vae.fit(train_loader)

# %% [markdown]
# ## Embed and probe
# A ridge regression from latents to the measured truth, fitted on the training subjects, scored on the held-out ones;
# beside it the same with as many principal components, and a negative control: `control` changes nothing in the image,
# so its R² must not be above zero.

# %%
ordered_loader = DataLoader(train_loader.dataset, batch_size=4)
images = np.stack([sample["image"].numpy().ravel() for sample in train_loader.dataset])
held_out = np.stack([sample["image"].numpy().ravel() for sample in test_loader.dataset])
pca = PCA(vae.latent_dim, random_state=0).fit(images)
codes = {
    "VAE": (vae.transform(ordered_loader).numpy(), vae.transform(test_loader).numpy()),
    "PCA": (pca.transform(images), pca.transform(held_out)),
}
truth, held_out_truth = pd.DataFrame(train), pd.DataFrame(test)
names = ["intracranial_ml", "brain_ml", "cortical_csf_fraction", "ventricle_ml", "asymmetry_index", "control"]


def probe(name: str, fitted_on: np.ndarray, scored_on: np.ndarray) -> float:
    """Return the held-out R² of a ridge regression to one column of the truth."""
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 3, 12))).fit(fitted_on, truth[name])
    return float(model.score(scored_on, held_out_truth[name]))


table = pd.DataFrame({code: [probe(name, *pair) for name in names] for code, pair in codes.items()}, index=names)
print("R² of a ridge probe on held-out subjects (simulated)")
print(table.round(2))

# %% [markdown]
# ## Look at reconstructions

# %%
shown = test[:3]
samples = held_out[:3].reshape(3, 1, *shape)
reconstructions = vae.reconstruct(torch.from_numpy(samples)).detach().numpy()
figure = plot_reconstructions(
    samples[:, 0], reconstructions[:, 0], [r["subject"] for r in shown], "Held-out (simulated)"
)
save_figure(figure, folder / "reconstructions.png")
Image.open(folder / "reconstructions.png")

# %% [markdown]
# ## Keep the model
# The file holds weights and a description, and is read without executing anything: `VAE.load(folder / "vae.pt")`.

# %%
vae.save(folder / "vae.pt")
print("Picture and model are in", folder)
