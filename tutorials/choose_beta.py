# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Choose beta
#
# Simulate brains whose factors are known, train models with several values of beta, and choose one by validation ELBO.
# Then evaluate the choice once on held-out subjects. Nothing is downloaded.
#
# `python tutorials/choose_beta.py my_folder` keeps everything in `my_folder`, and goes on there if it was stopped. To
# open this script as a notebook: `pip install jupytext`, then `jupytext --to ipynb tutorials/choose_beta.py`. The
# results of the full size are in `docs/choose_beta.md`.

# %%
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two trainings run at once, each on one core

import numpy as np
import pandas as pd
import torch
from PIL import Image

from monai_betavae import VAE
from monai_betavae.data import simulate_cohort
from monai_betavae.evaluation import dci, mig, pca_codes, probe_held_out
from monai_betavae.plots import plot_reconstructions, save_figure
from monai_betavae.workflows import Sweep, load_weights, trained_network, trained_preprocessing

folder = Path(sys.argv[1]) if len(sys.argv) == 2 and __name__ == "__main__" else Path(tempfile.mkdtemp())

# %% [markdown]
# ## The size
# The tutorial has two sizes with the same code. `TUTORIAL_SIZE=small python tutorials/choose_beta.py` takes about two
# minutes. It shows that the code runs; its numbers mean nothing.

# %%
SIZES = {
    "full": {"n_subjects": 200, "betas": [0.00025, 0.004, 1.0, 16.0], "seeds": [0, 1, 2], "max_epochs": 20},
    "small": {"n_subjects": 84, "betas": [1.0, 16.0], "seeds": [0, 1], "max_epochs": 1},
}
size = SIZES[os.environ.get("TUTORIAL_SIZE", "full")]

# %% [markdown]
# ## Brains with known factors
# Each image follows from factors that are drawn independently: the size of the brain, the ventricles, atrophy, the
# contrast of grey and white matter, and asymmetry. The table also has `control`, which changes nothing in the image.
# Every score below is one on *simulated* data.

# %%
cohort = folder / "cohort"
if not cohort.is_dir():
    simulate_cohort(cohort, size["n_subjects"], seed=2030, spacing=6.0, lesion_fraction=0.0)

# %% [markdown]
# ## The sweep
# `Sweep` trains each value of beta with each seed. Every training is the bundle's own command in a process of its own.
# A quarter of the subjects is held out (`n_folds`), and the sweep never opens them. The rest is for training and
# validation. On the command line the same is `python -m monai.bundle run sweep --config_file bundles/vae/sweep.json`.
#
# Beta has a scale. The loss is the summed squared error plus beta times the KL divergence, so beta stands for a
# Gaussian likelihood with variance beta / 2. The betas span nearly five powers of ten, because the right one isn't
# known beforehand; 1 is the bundle's default.

# %%
settings = {
    "dataset_dir": str(cohort),
    "spatial_shape": [32, 40, 32],
    "spacing": 6.0,
    "latent_dim": 16,
    "batch_size": 8,
    "max_epochs": size["max_epochs"],
    "n_folds": 4,
}
swept = folder / "sweep"
Sweep(swept, {"beta": size["betas"]}, settings, seeds=size["seeds"], n_processes=2).run()

# %% [markdown]
# ## Read the table and the picture
# Each row of `sweep.csv` is the mean over seeds on the validation subjects. `sweep.png` shows two of its relations:
#
# - **Rate and distortion**: the error of the reconstruction against the KL divergence. The KL divergence is the
#   information that the posterior carries beyond the prior. Each beta buys a different amount of it. The dashed curve
#   is that of the best linear models of as many latents with every beta: probabilistic PCA.
# - **UDR** compares the latents of models that differ in their seed alone. It is 1 if all seeds find the same latents.
#   All models start from the same PCA, so they agree more than their loss would have them.
#
# The table has **active units** too: latents whose posterior mean varies between subjects, by a variance above 0.01.

# %%
table = pd.read_csv(swept / "sweep.csv")
columns = ["beta", "error_ratio", "elbo", "elbo_sd", "kl", "active_units", "udr", "chosen"]
print("Validation subjects (simulated), mean over seeds")
print(table[columns].to_string(index=False, float_format="{:.5g}".format))
Image.open(swept / "sweep.png")

# %% [markdown]
# ## Choose by the validation ELBO
# The ELBO bounds the log-likelihood of unseen images from below. It weighs the error against the KL divergence in nats,
# under the noise that was measured on the validation subjects. Beta isn't part of it, so it can be compared between
# betas. No label takes part in it.
#
# Look at two things before you trust the choice:
#
# - A difference smaller than `elbo_sd`, the standard deviation over seeds, is none.
# - A best value at the end of the grid isn't known to be the best. Add values beyond it and run the same sweep again:
#   the trainings that exist are used.
#
# In theory the ELBO is highest where beta / 2 is the variance of what the model can't explain. That variance is small,
# and so is this beta. If you want codes with less information, you want a larger beta. Then say so, and choose it on
# the curve of rate and distortion. Don't choose it by a label.

# %%
best = table.loc[table["elbo"].idxmax()]
chosen = float(best["beta"])
lead = best["elbo"] - table["elbo"].nlargest(2).iloc[1]
print(f"Chosen: beta {chosen:g}, validation ELBO {best['elbo']:.0f} ± {best['elbo_sd']:.0f} nats over seeds")
print(f"The next beta is {lead:.0f} nats lower")
if chosen in (min(size["betas"]), max(size["betas"])):
    print("It is at an end of the grid: add values beyond it")

# %% [markdown]
# ## What beta 16 does
# A large beta pulls every posterior towards the prior: its mean shrinks towards 0, and its standard deviation grows
# towards 1. The decoder gets less information, so reconstructions shrink towards the mean brain. "Variance left" is the
# variance of the reconstructions between subjects, as a share of the images' variance. Active units tell less: a latent
# counts as active as long as its mean varies a little.

# %%
split = json.loads((swept / "split.json").read_text(encoding="utf-8"))
runs = pd.read_csv(swept / "runs.csv")
run_of = {row.beta: swept / row.folder for row in runs.itertuples() if row.seed == size["seeds"][0]}
preprocess = trained_preprocessing(run_of[chosen])


def images_of(part: str) -> torch.Tensor:
    """Return the preprocessed images of a part of the split."""
    return torch.stack([torch.as_tensor(preprocess(record)["image"]) for record in split[part]])


def model_of(run: Path) -> VAE:
    """Return a trained model of the sweep."""
    return VAE.from_network(load_weights(trained_network(run), run / "model.pt"))


validation = images_of("validation")
rows, restored = [], {}
for beta, run in sorted(run_of.items()):
    vae = model_of(run)
    with torch.no_grad():
        posterior = vae.encode(validation)
        restored[beta] = vae.decode(posterior.mean)
    rows.append(
        {
            "beta": beta,
            "SD of posterior means": float(posterior.mean.std(dim=0).mean()),
            "SD of the posterior": float(posterior.scale.mean()),
            "variance left": float(restored[beta].var(dim=0).sum() / validation.var(dim=0).sum()),
        }
    )
shrinkage = pd.DataFrame(rows)
print("Shrinkage on validation subjects (simulated), first seed")
print(shrinkage.to_string(index=False, float_format="{:.3g}".format))
shrinkage.to_csv(folder / "shrinkage.csv", index=False)

# %%
furthest = (validation - validation.mean(dim=0)).square().flatten(1).sum(dim=1).argmax()
shown = torch.stack([restored[beta][furthest, 0] for beta in (chosen, 16.0)]).numpy()
figure = plot_reconstructions(
    np.stack([validation[furthest, 0].numpy()] * 2),
    shown,
    [f"beta {chosen:g}", "beta 16"],
    "The validation subject furthest from the mean (simulated)",
)
save_figure(figure, folder / "reconstructions.png")
Image.open(folder / "reconstructions.png")

# %% [markdown]
# ## What a warm-up is for
# `loss#schedule` multiplies beta by a factor that rises from 0 to 1 in the first half of the epochs. The decoder learns
# to use the code before the KL divergence counts in full. This is for networks that start from nothing: there, a large
# beta can switch latents off before they carry anything. The bundle's models start from PCA, and their latents carry
# information from the first step on. The end of the schedule is the same loss as without. So train once more with beta
# 16 and the first seed, and see whether the result differs. It isn't a better result by definition: fewer steps remain
# with the full beta.

# %%
first_seed = size["seeds"][:1]
schedule = {"kind": "linear", "length": max(1, size["max_epochs"] // 2), "unit": "epoch"}
Sweep(folder / "warm_up", {"loss#schedule": [schedule]}, {**settings, "beta": 16.0}, seeds=first_seed).run()
constant = runs[(runs["beta"] == 16.0) & runs["seed"].isin(first_seed)]
both = pd.concat([constant, pd.read_csv(folder / "warm_up" / "runs.csv")])
both.index = pd.Index(["constant beta 16", "warm-up to beta 16"])
print("With and without a warm-up, validation subjects (simulated), first seed")
print(both[["error", "elbo", "kl", "active_units"]].to_string(float_format="{:.5g}".format))

# %% [markdown]
# ## Evaluate the choice, once
# The choice is made, and only now the held-out subjects and the factors are read. The model is that of the first seed,
# as decided beforehand: the best of three seeds on held-out subjects would be a choice by them.
#
# A ridge regression predicts each factor from the latents. It is fitted on the training subjects. Beside it stands the
# same with as many principal components. The intervals are 95 % bootstrap intervals over held-out subjects. `control`
# must not be above zero by more than chance.

# %%
vae = model_of(run_of[chosen])
training, held_out = images_of("training"), images_of("test")
with torch.no_grad():
    means = {part: vae.encode(images).mean.numpy() for part, images in (("fit", training), ("score", held_out))}
components = {
    "fit": pca_codes(training.numpy(), training.numpy(), vae.latent_dim),
    "score": pca_codes(training.numpy(), held_out.numpy(), vae.latent_dim),
}
truth = {"fit": pd.DataFrame(split["training"]), "score": pd.DataFrame(split["test"])}
factors = ["factor_brain_size", "factor_ventricles", "factor_atrophy", "factor_contrast", "factor_asymmetry"]

rows = []
for name in [*factors, "control"]:
    target = {part: frame[name].to_numpy(dtype=float) for part, frame in truth.items()}
    row = {"factor": name}
    for code, codes in (("VAE", means), ("PCA", components)):
        probe = probe_held_out(codes["fit"], target["fit"], codes["score"], target["score"], n_permutations=0)
        row |= {code: probe.value, f"{code} low": probe.low, f"{code} high": probe.high}
    rows.append(row)
probes = pd.DataFrame(rows)
print(f"R² of ridge probes on {len(held_out)} held-out subjects (simulated), beta {chosen:g}")
print(probes.round(2).to_string(index=False))
probes.to_csv(folder / "probes.csv", index=False)

# %% [markdown]
# ## What scores of disentanglement say
# **MIG** asks whether each factor is in one latent: the gap between the two latents that know most of it. **DCI
# disentanglement** asks whether each latent is used for one factor. Both need the true factors, which real brains don't
# come with. Age and sex aren't factors of the image in this sense, because one changes many things at once.
#
# - A high score says that single latents can be named. It doesn't say that the codes predict better.
# - A low score doesn't say that the information is missing. A probe uses all latents together and may still find it.
# - A rotation of the latents changes the scores and not the likelihood of the images. The ELBO prefers some rotations,
#   because the posterior is diagonal, but nothing ties this preference to the true factors.
# - In our measurements on simulated brains no objective beat plain beta, and a larger beta lowered the scores
#   (`benchmarks/results/objectives.md`).

# %%
known = truth["score"][factors].astype(float)
scores = pd.DataFrame(
    {
        code: {"MIG": mig(codes["score"], known)["score"], "DCI": dci(codes["score"], known)["disentanglement"]}
        for code, codes in (("VAE", means), ("PCA", components))
    }
)
print("Disentanglement on held-out subjects (simulated); 1 is the best")
print(scores.round(2))
scores.to_csv(folder / "disentanglement.csv")
