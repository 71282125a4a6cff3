# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Deploy a model
#
# Train a small model, write it as TorchScript, as a `torch.export` program, as an ONNX model and as a bundle of MONAI's
# model zoo, run each of them, and compare what they compute with the model itself. It takes about two minutes on two
# CPU cores; nothing is downloaded. The ONNX part needs the extra `export`.
#
# `python tutorials/deploying.py my_folder` keeps everything in `my_folder`. To open this script as a notebook:
# `pip install jupytext`, then `jupytext --to ipynb tutorials/deploying.py`.

# %%
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from monai.bundle import ckpt_export, create_workflow, load
from monai.transforms import SaveImage
from PIL import Image

from monai_betavae import bundle_root
from monai_betavae.data import RestoreVolumed, simulate_cohort
from monai_betavae.plots import plot_reconstructions, save_figure
from monai_betavae.workflows import load_weights, trained_network, trained_preprocessing
from monai_betavae.workflows.export import export_program
from monai_betavae.workflows.zoo import write_zoo_bundle

folder = Path(sys.argv[1]) if len(sys.argv) == 2 and __name__ == "__main__" else Path(tempfile.mkdtemp())
SIZES = {
    "full": {"n_subjects": 100, "spacing": 4.0, "shape": [48, 60, 48], "max_epochs": 8},
    "small": {"n_subjects": 40, "spacing": 8.0, "shape": [24, 32, 24], "max_epochs": 1},
}
size = SIZES[os.environ.get("TUTORIAL_SIZE", "full")]

# %% [markdown]
# ## A model to pass on
# The training writes the weights, `model.pt`, and `model.json`, which describes network and preprocessing. All exports
# below are made from these two files. The brains are simulated.

# %%
cohort = simulate_cohort(folder / "cohort", size["n_subjects"], seed=5, spacing=size["spacing"])
run = folder / "run"
grid = ["--spatial_shape", str(size["shape"]), "--spacing", str(size["spacing"])]
epochs = ["--latent_dim", "16", "--max_epochs", str(size["max_epochs"])]
subprocess.run(["monai-betavae", "train", str(cohort), "--out", str(run), *grid, *epochs], check=True)

# %% [markdown]
# ## What all of them must compute
# The reference is the network in Python: latents and reconstructions of three held-out volumes. Preprocessing is the
# same for all: it ends in an array of the model's grid.

# %%
records = json.loads((run / "split.json").read_text(encoding="utf-8"))["test"][:3]
preprocess = trained_preprocessing(run)
samples = [preprocess(record) for record in records]
images = torch.stack([torch.as_tensor(sample["image"]) for sample in samples])
network = load_weights(trained_network(run), run / "model.pt").eval()
with torch.inference_mode():
    latents, expected = network.encode(images).mean, network(images)
columns = [f"mu_{index}" for index in range(latents.shape[1])]
embedded = pd.DataFrame(latents.numpy(), columns=columns)
embedded.insert(0, "subject", [record["subject"] for record in records])
embedded.to_csv(folder / "latents.csv", index=False)
rows = []


def compare(name: str, path: Path, compute: Callable) -> None:
    """Add a row to the table: size of the file, largest difference, time per volume."""
    for _ in range(3):  # TorchScript compiles in its first calls
        start = time.perf_counter()
        restored, codes = compute(images)
        seconds = (time.perf_counter() - start) / len(images)
    rows.append(
        {
            "form": name,
            "MB": path.stat().st_size / 1e6,
            "difference of the image": float((torch.as_tensor(restored) - expected).abs().max()),
            "of the latents": float((torch.as_tensor(codes) - latents).abs().max()),
            "ms per volume": 1e3 * seconds,
        }
    )


with torch.inference_mode():
    compare("the model itself", run / "model.pt", lambda x: (network(x), network.encode(x).mean))

# %% [markdown]
# ## TorchScript
# MONAI's own `ckpt_export` writes it; on the command line it is `python -m monai.bundle ckpt_export network_def` with
# the same options. The file needs PyTorch alone, from Python or C++.

# %%
scripted = folder / "model.ts"
bundle = bundle_root()
ckpt_export(
    "network_def",
    filepath=str(scripted),
    ckpt_file=str(run / "model.pt"),
    config_file=str(bundle / "inference.json"),
    meta_file=str(bundle / "metadata.json"),
    ckpt_dir=str(run),
)
script = torch.jit.load(scripted).eval()
with torch.inference_mode():
    compare("TorchScript", scripted, lambda x: (script(x), script.posterior_parameters(x)[0]))

# %% [markdown]
# ## torch.export and ONNX
# `codes=True` adds mean and log-variance of the posterior to the outputs. The batch may have any size. On the command
# line the same is `python bundles/vae/scripts/export_program.py model.onnx --codes True`.

# %%
path, _ = export_program(folder / "model.pt2", run, codes=True)
program = torch.export.load(path).module()
with torch.inference_mode():
    compare("torch.export", Path(path), lambda x: program(x)[:2])

# %%
try:
    import onnxruntime
except ImportError:
    print('ONNX is left out: pip install -c constraints.txt -e ".[export]"')
else:
    path, _ = export_program(folder / "model.onnx", run, codes=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    compare("ONNX", Path(path), lambda x: session.run(["pred", "mu"], {"image": x.numpy()}))

# %% [markdown]
# ## How far they are from the model
# Differences are the largest over all voxels or latents of the three volumes. Intensities are in [0, 1], and latents
# have a standard deviation of about 1. What is left is rounding, since each runtime sums in another order.

# %%
table = pd.DataFrame(rows).set_index("form")
print("Exports against the model, three held-out volumes (simulated)")
print(table.to_string(float_format="{:.2g}".format))
table.to_csv(folder / "exports.csv")

# %% [markdown]
# ## A bundle for others
# The zoo's form has the configs with the model's own network and transforms as values, weights, documentation and a
# licence. A consumer loads the network with `monai.bundle.load`, or runs the inference as a workflow. Both need the
# installed package, and nothing of this checkout.

# %%
zoo = write_zoo_bundle(folder / "zoo" / "brains", run, bundle)
print("\n".join(sorted(path.relative_to(zoo.parent).as_posix() for path in zoo.rglob("*.*"))))

# %%
loaded = load(zoo.name, bundle_dir=str(zoo.parent)).eval()
with torch.inference_mode():
    print("Same latents:", torch.equal(loaded.encode(images).mean, latents))

# %%
consumed = folder / "consumed"
workflow = create_workflow(
    config_file=str(zoo / "configs" / "inference.json"),
    workflow_type="inference",
    dataset_dir=str(cohort),
    output_dir=str(consumed),
)
workflow.run()
workflow.finalize()
written = pd.read_csv(consumed / "latents.csv")
same = written.set_index("subject").loc[embedded["subject"], columns]
difference = np.abs(same.to_numpy() - latents.numpy()).max()
print(f"{len(written)} rows of latents; those of the three volumes differ from the model's by at most {difference:.1e}")

# %% [markdown]
# ## From one file to one file
# An application such as MONAI Deploy or MONAI Label has one volume at a time. The preprocessing takes a path or an
# array in memory, the network gives an image on its own grid, and `RestoreVolumed` puts it back on the grid of the
# input file, in the input's intensities.

# %%
sample = samples[0]
with torch.inference_mode():
    restored = RestoreVolumed("pred")({**sample, "pred": network(images[:1])[0]})["pred"]
SaveImage(output_dir=folder / "restored", output_postfix="restored", separate_folder=False, print_log=False)(restored)
print("Shape of the volume that was written:", tuple(restored.shape[1:]))
figure = plot_reconstructions(
    images[:, 0].numpy(), expected[:, 0].numpy(), [record["subject"] for record in records], "Held-out (simulated)"
)
save_figure(figure, folder / "reconstructions.png")
Image.open(folder / "reconstructions.png")

# %% [markdown]
# ## What to pass on
# - TorchScript, `torch.export` and ONNX hold the network alone. The receiver has to do the same preprocessing:
#   `model.json` describes it.
# - The bundle holds both. It is the form for MONAI's tools, and for anyone with Python.
# - `MODEL_CARD.md` of the training says on whom the model was trained, how well it does, and what it is not for. Pass
#   it on with any of these. `docs/passing_models_on.md` has one command that pushes both to Hugging Face.

# %%
print("\n".join((run / "MODEL_CARD.md").read_text(encoding="utf-8").splitlines()[:40]))
