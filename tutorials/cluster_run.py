# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A cluster run with resume
#
# Write a job script for SLURM, stop a training as the scheduler does at the time limit, and submit the same command
# again. The run that was stopped ends with the same files as a run that was never stopped, byte for byte. Then change a
# setting of a run on purpose. No cluster is needed: the tutorial sends the signal itself. The brains are simulated and
# tiny, so their scores mean nothing.
#
# `python tutorials/cluster_run.py my_folder` takes about one minute on two CPU cores; `my_folder` must be new or empty.
# To open this script as a notebook: `pip install jupytext`, then `jupytext --to ipynb tutorials/cluster_run.py`.

# %%
import hashlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from monai_betavae.data import simulate_cohort

folder = Path(sys.argv[1]) if len(sys.argv) == 2 and __name__ == "__main__" else Path(tempfile.mkdtemp())

# %% [markdown]
# ## The size
# `TUTORIAL_SIZE=small` trains for fewer epochs with the same code.

# %%
SIZES = {"full": {"max_epochs": 40}, "small": {"max_epochs": 15}}
size = SIZES[os.environ.get("TUTORIAL_SIZE", "full")]

# %% [markdown]
# ## The command
# Give `--resume True` from the first submission on. The run starts from the beginning if its folder has no checkpoint.
# Otherwise it goes on from `last.ckpt`. So every submission is the same command, and the job script needs no case for
# the first one. On your data, replace the cohort by your BIDS folder, and leave out the other options.
#
# `--warm_start none` starts from random weights. On so few brains the usual start from principal components is best in
# its first epoch. Then `model.pt` would hold weights from before the interruption, and comparing it would show nothing.

# %%
cohort = simulate_cohort(folder / "cohort", 14, seed=5, spacing=12.0, progress=False)
settings = ["--spacing", "12.0", "--spatial_shape", "[16,20,16]", "--channels", "[4,8]", "--latent_dim", "3"]
settings += ["--warm_start", "none", "--device", "cpu", "--logger", "none", "--max_epochs", str(size["max_epochs"])]
command = ["monai-betavae", "train", str(cohort), *settings, "--resume", "True"]
run, whole = folder / "run", folder / "whole"

# %% [markdown]
# ## The job script
# `--signal=USR1@120` tells SLURM to send SIGUSR1 to the training 120 seconds before the time limit. The training
# finishes its step, writes `last.ckpt` and ends with status 138, which is 128 plus the number of the signal. The last
# line of the script then puts the job into the queue again. `--requeue` lets SLURM do so itself after a preemption,
# which sends SIGTERM: the status is 143. Add the partition, the GPU, and the memory that your cluster asks for.

# %%
job = f"""#!/bin/bash
#SBATCH --job-name=betavae --time=04:00:00
#SBATCH --requeue --signal=USR1@120 --open-mode=append
srun {shlex.join([*command, "--out", str(run)])}
if [ $? -eq 138 ]; then scontrol requeue "$SLURM_JOB_ID"; fi  # the time limit was reached
"""
(folder / "job.sh").write_text(job, encoding="utf-8")
print(job)

# %% [markdown]
# ## The time limit
# The next cell runs the line that `srun` would run. When epoch 5 is over, it sends SIGUSR1 to the training. A second
# training with the same settings, in the folder `whole`, isn't stopped. It serves as the comparison.

# %%
uninterrupted = subprocess.Popen([*command, "--out", str(whole)], stdout=subprocess.DEVNULL)

# %%
stopped = subprocess.Popen([*command, "--out", str(run)], stdout=subprocess.PIPE, text=True)
for line in stopped.stdout:
    if line.startswith(("Epoch", "Stopped")):
        print(line, end="")
    if line.startswith("Epoch 5/"):
        stopped.send_signal(signal.SIGUSR1)
stopped_status = stopped.wait()
print("Exit status:", stopped_status)

# %% [markdown]
# ## What the stopped run leaves
# `last.ckpt` holds the weights, the state of the optimizer, the position within the epoch, and the settings.
# `metrics.csv` has the finished epochs. The files that a run writes at its end, such as `scores.json`, aren't there
# yet. `model.pt` has the weights of the best epoch so far.

# %%
print("\n".join(sorted(path.name for path in run.iterdir() if not path.name.startswith("."))))
print("Finished epochs:", len(pd.read_csv(run / "metrics.csv")), "of", size["max_epochs"])

# %% [markdown]
# ## Submit again
# The same command continues from the step at which the run was stopped, between two epochs or within one.

# %%
resumed = subprocess.run([*command, "--out", str(run)], stdout=subprocess.PIPE, text=True, check=True)
lines = [line for line in resumed.stdout.splitlines() if line.startswith(("Resuming", "Epoch"))]
print(lines[0], lines[1], "...", lines[-1], sep="\n")
print("Exit status:", resumed.returncode)

# %% [markdown]
# ## Compare with the uninterrupted run
# The order of the subjects, the noise, and the learning rate of each step follow from the seed and the number of the
# step. So the stopped run has done the same steps as the run that wasn't stopped. Equal digests mean equal bytes. This
# holds on a CPU with one process and the same versions. On a GPU, a resumed run continues from the same step, but its
# sums may be rounded differently.

# %%
if uninterrupted.wait() != 0:
    raise RuntimeError(f"The uninterrupted training ended with status {uninterrupted.returncode}")
files = ["model.pt", "metrics.csv", "scores.json"]
digests = {
    name: [hashlib.sha256((place / file).read_bytes()).hexdigest()[:12] for file in files]
    for name, place in (("stopped and resumed", run), ("uninterrupted", whole))
}
table = pd.DataFrame(digests, index=pd.Index(files, name="file"))
table["equal"] = table["stopped and resumed"] == table["uninterrupted"]
print("SHA-256 (first 12 digits) of the files of both runs (simulated)")
print(table.to_string())
table.to_csv(folder / "digests.csv")
best = pd.read_csv(run / "metrics.csv")["val/loss"].idxmin() + 1
print("model.pt has the weights of epoch", best)

# %% [markdown]
# ## Another setting is refused
# A resumed run must have the settings that it was started with. Otherwise a job script that was edited in the meantime
# would train one half of a model with one setting, and the other half with another. The message names the setting, with
# its old and its new value.

# %%
before = (run / "last.ckpt").read_bytes()
refused = subprocess.run([*command, "--out", str(run), "--batch_size", "2"], capture_output=True, text=True)
print("Exit status:", refused.returncode)
print(refused.stderr.splitlines()[-1])
print("The checkpoint is unchanged:", (run / "last.ckpt").read_bytes() == before)

# %% [markdown]
# ## Change a setting on purpose
# `max_epochs` may always differ: a larger number trains a finished run for longer. Paths, devices, caches, and loggers
# may differ, too. List any other setting in `--resume_changes`. The network, the preprocessing, and the likelihood
# can't change, because they are the model.
#
# The learning rate follows its schedule over the new number of epochs. So a run that was extended isn't the run that
# was planned with as many epochs from the start. If you report results, report both numbers.

# %%
longer = size["max_epochs"] + 5
changes = ["--batch_size", "2", "--resume_changes", "['batch_size']", "--max_epochs", str(longer)]
extended = subprocess.run([*command, "--out", str(run), *changes], stdout=subprocess.PIPE, text=True, check=True)
print("\n".join(line for line in extended.stdout.splitlines() if line.startswith(("Resuming", "Epoch"))))
print("Finished epochs:", len(pd.read_csv(run / "metrics.csv")), "of", longer)

# %% [markdown]
# ## On your cluster
# Submit the script with `sbatch job.sh`. In `--signal=USR1@120`, choose more seconds than one training step and one
# pass over the validation subjects take: a run that receives the signal during validation ends after it. A run that is
# killed without a signal that it can catch continues from its last finished epoch. The page *Run on a cluster* of the
# documentation covers several GPUs and nodes.
