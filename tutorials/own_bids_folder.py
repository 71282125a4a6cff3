# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Your own BIDS folder: check, train, read the report
#
# Check a folder of brains, train a beta-VAE on it, score it on held-out subjects beside two baselines, and join the
# latents with `participants.tsv`. These are the four commands `check`, `train`, `evaluate`, and `embed`.
#
# `TUTORIAL_DATA=/data/bids python tutorials/own_bids_folder.py my_folder` uses your BIDS folder, or any other source
# that the package takes. Its volumes must be brain-extracted and roughly aligned. Without `TUTORIAL_DATA`, a simulated
# cohort takes its place; the tutorial then takes about three minutes on two CPU cores. `my_folder` must be
# empty. To open this script as a notebook: `pip install jupytext`, then
# `jupytext --to ipynb tutorials/own_bids_folder.py`.

# %%
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from PIL import Image

from monai_betavae.data import simulate_cohort

folder = Path(sys.argv[1]) if len(sys.argv) == 2 and __name__ == "__main__" else Path(tempfile.mkdtemp())

# %% [markdown]
# ## The size
# `TUTORIAL_SIZE=small` uses few subjects, voxels, and epochs. It shows that the code runs; its numbers mean nothing.
# The full size resamples all volumes to 4 mm. For your own study, choose the finest grid that you have the memory and
# the time for.

# %%
SIZES = {
    "full": {"n_subjects": 140, "spacing": 4.0, "shape": [48, 60, 48], "latent_dim": 16, "max_epochs": 15},
    "small": {"n_subjects": 28, "spacing": 12.0, "shape": [16, 20, 16], "latent_dim": 4, "max_epochs": 2},
}
size = SIZES[os.environ.get("TUTORIAL_SIZE", "full")]
grid = ["--spacing", str(size["spacing"]), "--spatial_shape", json.dumps(size["shape"])]
model = [*grid, "--latent_dim", str(size["latent_dim"]), "--max_epochs", str(size["max_epochs"])]

# %% [markdown]
# ## The data
# The simulated cohort is a BIDS folder with one T1w volume per subject and a `participants.tsv`. One of its files is
# cut off in the middle, as after an interrupted copy, so that the next steps have something to find. Your own files are
# only read.

# %%
data = os.environ.get("TUTORIAL_DATA", "")
is_own = data != ""
if not is_own:
    cohort = simulate_cohort(
        folder / "cohort",
        size["n_subjects"],
        seed=7,
        spacing=size["spacing"],
        lesion_fraction=0.0,
        progress=False,
    )
    data = str(cohort)
    people = pd.read_csv(cohort / "participants.tsv", sep="\t")
    damaged = people.loc[people["split"] == "training", "participant_id"].iloc[0]
    image = cohort / damaged / "anat" / f"{damaged}_T1w.nii.gz"
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    print("Damaged:", image.name)

# %% [markdown]
# ## Check
# `check` reads every voxel and changes nothing. Read its output in this order:
#
# 1. **The first line.** Compare the numbers of volumes and subjects with the numbers that you know.
# 2. **Shapes, spacings, and orientations.** More than one value often means more than one scanner or pipeline.
# 3. **The head and the grid.** The share of the head outside the grid should be near 0. A small share of the grid that
#    is filled means that most voxels are background.
# 4. **Problems and warnings.** A problem means that the volume can't be used. A warning means that it differs from the
#    other volumes. Look at it before you decide.
#
# `volumes.tsv` has the same findings, one row per volume.

# %%
checked = subprocess.run(
    ["monai-betavae", "check", data, "--out", str(folder / "checked"), *grid],
    stdout=subprocess.PIPE,
    text=True,
    check=True,
)
print(checked.stdout[checked.stdout.index("Data:") :])

# %% [markdown]
# The picture shows the volumes as training sees them, after resampling and cropping. Look for skull or eyes that are
# left, for a head that is turned or cut off, and for a contrast unlike the others. The names of volumes with a warning
# are red. A volume that can't be used isn't drawn. Large cohorts fill several pictures, `volumes_02.png` and so on.

# %%
Image.open(folder / "checked" / "volumes_01.png")

# %% [markdown]
# ## A volume that can't be used
# Training stops at such a volume, and its message names the file. This cell shows it for the damaged file of the
# simulated cohort. On your own data, repair or replace the file if you can.

# %%
run = folder / "run"
train = ["monai-betavae", "train", data, "--out", str(run), *model]
if not is_own:
    refused = subprocess.run(train, capture_output=True, text=True)
    print("Exit status:", refused.returncode)
    print(refused.stderr.splitlines()[-1])

# %% [markdown]
# ## Train
# With `--on_bad_volume skip`, training leaves such volumes out and lists them in `left_out.tsv`. The tutorial gives
# this option with the simulated cohort only: leaving out subjects is a decision about your study, so report them.
#
# The subjects are split into training, validation, and held-out subjects. The validation subjects choose the epoch
# whose weights are kept. The held-out subjects aren't used before the end. Without an option, the shares are 70, 15,
# and 15 %. Of your own subjects, a quarter is held out here, so that a small cohort has some. The simulated cohort
# names its split itself, and a split that the data name is used.
#
# Watch both losses. If `val/loss` rises while `train/loss` falls, the model fits what is particular to the training
# subjects. This is usual with few subjects, and the reason to keep the best epoch rather than the last one.

# %%
train += ["--fractions", "[0.6,0.15,0.25]"] if is_own else ["--on_bad_volume", "skip"]
subprocess.run(train, check=True)
if (run / "left_out.tsv").is_file():
    left_out = pd.read_csv(run / "left_out.tsv", sep="\t")
    print("Left out:")
    print(left_out[["subject", "problem"]].to_string(index=False))

# %% [markdown]
# ## Look at reconstructions
# Each row is a held-out subject, from the best reconstructed one to the worst: the input, the reconstruction, and their
# difference in three planes. Reconstructions are smoother than inputs, because a few latents can't hold the folding of
# one brain. Structure in the difference shows what the latents leave out. If a whole outline appears in it, the model
# hasn't learned the size or position of that head: check the alignment, or train for more epochs.

# %%
Image.open(run / "reconstructions.png")

# %% [markdown]
# ## Evaluate
# `evaluate` scores the held-out subjects that training recorded in `split.json`. It writes `evaluation/report.html`,
# one file that opens in a browser, and `evaluation/scores.json` with the same numbers.

# %%
subprocess.run(["monai-betavae", "evaluate", "--model", str(run)], check=True)
print("Open in a browser:", run / "evaluation" / "report.html")

# %% [markdown]
# ## Read the scores
# The error is the squared difference between image and reconstruction, summed over voxels, and averaged over the
# held-out subjects.
# An error alone says little, so two baselines stand beside it:
#
# - **The mean image** is the mean of the training images. It knows nothing of the subject. A model that isn't clearly
#   better than it has learned little.
# - **PCA** is the best linear model of the training images with as many components as the model has latents, or fewer
#   if there are too few training subjects. A model that isn't better than PCA has no advantage in reconstruction.
#
# The intervals are 95 % bootstrap intervals over held-out subjects. They say how much the mean would change with other
# subjects. They don't say how much it would change with another training run. Compare the model with PCA by the ratio
# of both errors, not by two intervals that overlap: the ratio is paired, because both have the same subjects.

# %%
scores = json.loads((run / "evaluation" / "scores.json").read_text(encoding="utf-8"))
n_subjects = scores["n_subjects"]
names = {
    "error of the model": "sse",
    f"error of PCA ({scores['pca_components']} components)": "sse_pca",
    "error of the mean image": "sse_mean_image",
    "model / mean image": "sse_ratio",
    "model / PCA": "sse_ratio_to_pca",
}
table = pd.DataFrame({name: scores["reconstruction"][key] for name, key in names.items()}).T.astype(float)
print(f"Held-out subjects: {n_subjects}{' (simulated)' if scores['simulated'] else ''}; 95 % intervals over subjects")
print(table.to_string(float_format="{:.3g}".format))
table.to_csv(folder / "scores.csv", index_label="score")

# %% [markdown]
# Bootstrap intervals of few subjects are too narrow. So the next cell draws a conclusion only if at least 20 subjects
# are held out. Below this number `evaluate` warns, too. With fewer subjects, hold out each subject once in a
# cross-validation (`monai-betavae cross-validate`), and don't compare models by one split.

# %%
ratio = table.loc["model / PCA"]
if n_subjects < 20:
    print(f"Too few held-out subjects ({n_subjects}): the table proves nothing about other subjects, whatever it shows")
elif ratio["high"] < 1:
    print(f"On these {n_subjects} subjects the model reconstructs better than PCA: the interval is below 1")
elif ratio["low"] > 1:
    print(f"On these {n_subjects} subjects PCA reconstructs better than the model: the interval is above 1")
else:
    print(f"{n_subjects} subjects show no difference between the model and PCA: the interval contains 1")

# %% [markdown]
# ## Read the report
# Open `report.html` and read it from the top: the summary says where PCA is better, and which scores are missing and
# why. Move the latents one by one, and look at the subjects that are reconstructed worst. The section on probes asks
# how well the columns of `participants.tsv` can be predicted from the latents, again beside PCA. A better
# reconstruction doesn't imply a better prediction. With many columns, some comparisons with PCA come out by chance. The
# simulated cohort has a column `control` that changes nothing in the image: whatever the probes say of it is chance.
#
# The report holds names and slices of subjects. Share it as you would share these.
#
# ## Latents and participants
# `embed` writes one row per held-out volume into `latents.csv`: `subject`, `image`, the posterior means `mu_0` and so
# on, and the log variances `logvar_0` and so on. Use the means as the code of a brain. The column `subject` is the
# `participant_id` of BIDS, so one merge adds age, sex, and all other columns.

# %%
subprocess.run(["monai-betavae", "embed", "--model", str(run)], check=True)
latents = pd.read_csv(run / "latents.csv", dtype={"subject": str})
participants_file = Path(data) / "participants.tsv"
if participants_file.is_file():
    participants = pd.read_csv(participants_file, sep="\t", dtype={"participant_id": str})
    joined = latents.merge(
        participants, left_on="subject", right_on="participant_id", how="left", validate="many_to_one"
    )
    joined.to_csv(folder / "latents_and_participants.csv", index=False)
    shown = ["subject", *(name for name in ("age", "sex") if name in participants), "mu_0", "mu_1"]
    print(f"{joined['participant_id'].notna().sum()} of {len(latents)} rows of latents.csv are in participants.tsv")
    print(f"The first rows{' (simulated)' if scores['simulated'] else ''}")
    print(joined[shown].head().to_string(index=False, float_format="{:.2f}".format))
else:
    print("There is no participants.tsv. Join the table of your cohort in the same way, by subject.")

# %% [markdown]
# `monai-betavae embed /data/new --model run --out latents` embeds other volumes with the same preprocessing. Don't mix
# the latents of training and held-out subjects in one test: the model has seen the training subjects. Fit a predictor
# on the training subjects' latents, and score it on those of the held-out subjects.
