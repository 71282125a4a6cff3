# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Coming from nidl
#
# Run a script that was written for nidl's `VAE` with one changed line, the import. Compare the loss with the formulas,
# see what improves without a change, and then take two steps further: batches that are dictionaries, and a network
# that starts from the training volumes. nidl itself isn't needed.
#
# `python tutorials/coming_from_nidl.py my_folder` takes about two minutes on two CPU cores and keeps everything in
# `my_folder`. To open this script as a notebook: `pip install jupytext`, then
# `jupytext --to ipynb tutorials/coming_from_nidl.py`. `docs/coming_from_nidl.md` lists all intended differences.

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
from monai.transforms import Compose, LoadImaged, ScaleIntensityd
from PIL import Image
from sklearn.base import clone
from torch import nn

from monai_betavae import build_vae
from monai_betavae.data import ToPlainSampled, discover, simulate_cohort, split_subjects
from monai_betavae.evaluation import estimate, pca_reconstruction, squared_error
from monai_betavae.plots import plot_reconstructions, save_figure
from monai_betavae.training import warmup_and_decay

folder = Path(sys.argv[1]) if len(sys.argv) == 2 and __name__ == "__main__" else Path(tempfile.mkdtemp())
SIZES = {
    "full": {"n_subjects": 160, "max_epochs": 60, "warm_epochs": 12},
    "small": {"n_subjects": 20, "max_epochs": 2, "warm_epochs": 1},
}
size = SIZES[os.environ.get("TUTORIAL_SIZE", "full")]

# %% [markdown]
# ## Volumes as tensors
# The cohort is simulated at a coarse spacing of 6 mm, so that everything is fast. The script reads each file with
# nibabel, divides it by its largest value, and stacks the volumes into one tensor per part. Whole subjects are held
# out.

# %%
cohort = folder / "cohort"
if not cohort.is_dir():
    simulate_cohort(cohort, size["n_subjects"], seed=4, spacing=6.0, lesion_fraction=0.0, progress=False)
training, validation, held_out = split_subjects(discover(cohort), (0.7, 0.1, 0.2), seed=4)


def read(records: list) -> torch.Tensor:
    """Return the volumes of records, scaled to [0, 1], with a channel axis."""
    volumes = np.stack([nib.load(record["image"]).get_fdata(dtype=np.float32) for record in records])
    return torch.from_numpy(volumes / volumes.max(axis=(1, 2, 3), keepdims=True))[:, None]


volumes = {"training": read(training), "validation": read(validation), "held out": read(held_out)}
print("Volumes (simulated):", {part: tuple(stack.shape) for part, stack in volumes.items()})

# %% [markdown]
# ## The script
# This cell is a script as users of nidl 0.0.2 write it. The networks are their own, the loaders yield tensors, and the
# arguments of the Trainer go to `VAE`. Only the import has changed: it was
# `from nidl.estimators.autoencoders.vae import VAE`.
#
# `beta` keeps its meaning. The reconstruction loss is the squared error summed over voxels, so a suitable beta grows
# with the number of voxels.

# %%
from monai_betavae import VAE

torch.manual_seed(0)
encoder = nn.Sequential(
    nn.Conv3d(1, 8, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.Conv3d(8, 16, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.Conv3d(16, 32, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.Flatten(),
)
decoder = nn.Sequential(
    nn.Linear(16, 32 * 4 * 5 * 4),
    nn.Unflatten(1, (32, 4, 5, 4)),
    nn.ReLU(),
    nn.ConvTranspose3d(32, 16, 4, stride=2, padding=1),
    nn.ReLU(),
    nn.ConvTranspose3d(16, 8, 4, stride=2, padding=1),
    nn.ReLU(),
    nn.ConvTranspose3d(8, 1, 4, stride=2, padding=1),
)
trainer_arguments = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
trainer_arguments |= {"enable_progress_bar": False, "enable_model_summary": False}
vae = VAE(
    encoder,
    decoder,
    encoder_out_dim=32 * 4 * 5 * 4,
    latent_dim=16,
    beta=0.1,
    lr=2e-3,
    random_state=0,
    max_epochs=size["max_epochs"],
    **trainer_arguments,
)
train_loader = torch.utils.data.DataLoader(volumes["training"], batch_size=4, shuffle=True)
val_loader = torch.utils.data.DataLoader(volumes["validation"], batch_size=8)
test_loader = torch.utils.data.DataLoader(volumes["held out"], batch_size=8)
vae.fit(train_loader, val_loader)

z = vae.transform(test_loader)
print("Latents of the held-out subjects:", tuple(z.shape))
print("Images sampled from the prior:", tuple(vae.sample(4).shape))

# %% [markdown]
# ## The loss by hand
# The three losses are those of nidl: the squared error summed over voxels, the KL divergence from the posterior to
# N(0, I) in closed form, and their sum weighted by beta, each averaged over the batch. Compute them from the formulas
# and compare them with `BetaVAELoss`, which nidl has under the same name. A script that takes the squared error's mean
# over voxels plus w times the KL divergence corresponds to beta = w times the number of voxels.

# %%
from monai_betavae import BetaVAELoss

images = volumes["held out"]
with torch.no_grad():
    q = vae.encode(images)
    p = vae.decode(q.rsample())
    found = BetaVAELoss(beta=0.1)(images, p, q)

variance = q.scale.square()
squared = (images - p).square().flatten(1).sum(dim=1)
divergence = 0.5 * (q.mean.square() + variance - 1 - variance.log()).sum(dim=1)
by_hand = {"rec_loss": squared.mean(), "kl_loss": divergence.mean(), "loss": (squared + 0.1 * divergence).mean()}
losses = pd.DataFrame({"BetaVAELoss": found, "by hand": by_hand}).astype(float)
print("Losses of the held-out subjects (simulated)")
print(losses.to_string(float_format="{:.5f}".format))

# %% [markdown]
# ## What improves without a change
# - **Order**: row i of `transform` is item i of the dataset, whatever the loader's sampler. Rows can be joined to a
#   table of subjects.
# - **Noise**: `transform` draws from the posterior, as in nidl. Two calls draw the same noise, so they agree. With
#   `stochastic_transform=False` it returns the posterior mean.
# - **Seed**: `random_state` seeds `fc_mu`, `fc_logvar`, the order and the noise, so the same seed gives the same model.
#   The generators of your program stay as they are. `clone` of scikit-learn gives an untrained copy, whose networks
#   have the weights from before training. A second `vae.fit` would go on from the trained weights.
# - **Files**: `save` writes weights and a description. `load` reads them without pickle, so that a file can't execute
#   anything. Pass the networks that are your own; their weights are replaced.

# %%
shuffled = torch.utils.data.DataLoader(volumes["held out"], batch_size=5, shuffle=True)
print("Equal at a second call:", torch.equal(vae.transform(test_loader), z))
print("Equal from a shuffled loader:", torch.allclose(vae.transform(shuffled), z, atol=1e-5))

twins = [clone(vae).set_params(max_epochs=2) for _ in range(2)]
for twin in twins:
    twin.fit(train_loader)
latents = [twin.transform(test_loader) for twin in twins]
print("Equal after training twice with one seed:", torch.equal(*latents))

file = vae.save(folder / "vae.pt")
loaded = VAE.load(file, encoder=clone(vae).encoder, decoder=clone(vae).decoder)
print("Equal after save and load:", torch.equal(loaded.transform(test_loader), z))
print("Content of the file:", list(torch.load(file, weights_only=True)))

# %% [markdown]
# ## A step further: dictionaries
# MONAI's datasets yield dictionaries, with the image and its path, affine and covariates together. `VAE` takes them as
# they are; `image_key` names the image. The same steps as in `read`, written as MONAI transforms, run once, and
# `CacheDataset` keeps the result in memory. `ToPlainSampled` ends them in plain tensors.
#
# The voxels and the seed are those of the tensors, so a model that is trained on dictionaries is equal, too.

# %%
transform = Compose(
    [
        LoadImaged("image", ensure_channel_first=True),
        ScaleIntensityd("image", minv=0, maxv=1),
        ToPlainSampled("image", keep=["subject", "age"]),
    ]
)
datasets = {
    part: CacheDataset(records, transform, progress=False)
    for part, records in (("training", training), ("held out", held_out))
}
same = [torch.equal(datasets["training"][i]["image"], volumes["training"][i]) for i in range(len(training))]
print("Equal voxels:", all(same))

dictionaries = {part: DataLoader(dataset, batch_size=4) for part, dataset in datasets.items()}
third = clone(vae).set_params(max_epochs=2)
third.fit(DataLoader(datasets["training"], batch_size=4, shuffle=True))
print("Equal after training on dictionaries:", torch.equal(third.transform(dictionaries["held out"]), latents[0]))

table = pd.DataFrame(vae.transform(dictionaries["held out"]).numpy()).add_prefix("z")
table.insert(0, "subject", [record["subject"] for record in held_out])
table.insert(1, "age", [record["age"] for record in held_out])
table.to_csv(folder / "latents.csv", index=False)

# %% [markdown]
# ## A step further: a warm start
# `build_vae` takes the place of both networks. Its decoder deforms a template, and training starts from the principal
# components of the training volumes instead of random weights. The model needs fewer epochs, and here it gets a smaller
# learning rate with a warm-up and a decay.

# %%
warm = build_vae(
    volumes["training"].shape[2:],
    latent_dim=16,
    beta=0.1,
    lr=1e-3,
    lr_scheduler=warmup_and_decay,
    random_state=0,
    max_epochs=size["warm_epochs"],
    **trainer_arguments,
)
warm.fit(DataLoader(datasets["training"], batch_size=4, shuffle=True))

# %% [markdown]
# ## Compare on held-out subjects
# The error is the squared error of reconstructions from the posterior mean, summed over held-out subjects. It is shown
# relative to that of the mean training image, and relative to that of PCA with as many components. Intervals are 95 %
# bootstrap intervals over held-out subjects; both sums of a ratio are of the same subjects.
#
# Look at whether the interval of `/ PCA` contains 1. Networks with random weights spend their first epochs on what all
# brains have in common, and with a few hundred subjects they often stay behind PCA. The ported network isn't tuned: the
# table says how this one did in its epochs, not how well such networks can do.

# %%
truth, fitted = images.numpy(), volumes["training"].numpy()
with torch.no_grad():
    reconstructed = {
        "ported network": vae.reconstruct(images).numpy(),
        "build_vae, warm start": warm.reconstruct(images).numpy(),
    }
pca = squared_error(truth, pca_reconstruction(fitted, truth, n_components=16))
mean = squared_error(truth, np.broadcast_to(fitted.mean(axis=0), truth.shape))
errors = {"PCA": pca, **{name: squared_error(truth, each) for name, each in reconstructed.items()}}

rows = []
for name, error in errors.items():
    to_mean, to_pca = (estimate(error, base, statistic=lambda a, b: a.sum() / b.sum()) for base in (mean, pca))
    row = {"model": name, "/ mean image": to_mean.value, "low": to_mean.low, "high": to_mean.high}
    rows.append({**row, "/ PCA": to_pca.value, "PCA low": to_pca.low, "PCA high": to_pca.high})
table = pd.DataFrame(rows)
table.to_csv(folder / "errors.csv", index=False)
print(f"Squared error on {len(held_out)} held-out subjects (simulated)")
print(table.to_string(index=False, float_format="{:.3f}".format))

# %%
shown = np.stack([each[0, 0] for each in reconstructed.values()])
title = f"{held_out[0]['subject']}, held out (simulated)"
figure = plot_reconstructions(np.stack([truth[0, 0]] * 2), shown, ["ported", "warm start"], title)
save_figure(figure, folder / "reconstructions.png")
Image.open(folder / "reconstructions.png")
