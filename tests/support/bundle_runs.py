"""The bundle's configs run in this process, on a few tiny simulated brains: what several test files share."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from monai.bundle import ConfigWorkflow

from monai_betavae import bundle_root
from monai_betavae.data import simulate_cohort
from monai_betavae.workflows.settings import unwrap_error

N_SUBJECTS = 12

TINY = {
    "spatial_shape": [8, 10, 8],
    "spacing": 24.0,
    "channels": [4, 8],
    "latent_dim": 2,
    # brains of 24 mm vary less than beta 1 stands for, and every code would be the same
    "beta": 0.01,
    "learning_rate": 0.02,
    "max_epochs": 2,
    "num_workers": 0,
    "logger": "none",
    "device": "$torch.device('cpu')",
}
"""Overrides of train.json that make a run of a second."""


def tiny_cohort(folder):
    """Simulate brains whose table says no split, so that training splits them itself."""
    cohort = simulate_cohort(folder, N_SUBJECTS, seed=0, spacing=12.0, progress=False)
    (cohort / "dataset.json").unlink()
    path = cohort / "participants.tsv"
    table = pd.read_csv(path, sep="\t")
    table.drop(columns=["split"]).to_csv(path, sep="\t", index=False, na_rep="n/a")
    return cohort


def run_bundle(name, **overrides):
    """Run one of the bundle's configs, and return its workflow; ids are given with ``__`` in place of ``#``."""
    given = {key.replace("__", "#"): value for key, value in overrides.items()}
    run_id = {"train": "training", "evaluate": "evaluation", "generate": "generation"}.get(name, name)
    workflow = ConfigWorkflow(
        str(bundle_root() / f"{name}.json"),
        logging_file=False,
        workflow_type="train" if name == "train" else "inference",
        run_id=run_id,
        **given,
    )
    try:
        workflow.initialize()
        workflow.run()
    except RuntimeError as error:  # MONAI's wrapper
        raise unwrap_error(error) from error
    return workflow


def train(folder, cohort, **overrides):
    """Train in a folder; see :data:`TINY`."""
    return run_bundle(
        "train", **{**TINY, "dataset_dir": str(cohort), "output_dir": str(folder), "ckpt_dir": str(folder), **overrides}
    )


def latents(folder, **overrides):
    """Run inference on who was held out, and return its table's codes."""
    options = {"ckpt_dir": str(folder), "output_dir": str(folder), "device": "$torch.device('cpu')", "overwrite": True}
    run_bundle("inference", **{**options, **overrides})
    table = pd.read_csv(Path(folder) / "latents.csv")
    return table[[name for name in table if name.startswith("mu_")]].to_numpy()


def evaluated(folder, **overrides):
    """Evaluate who was held out, and return the summary."""
    options = {"ckpt_dir": str(folder), "output_dir": str(folder), "device": "$torch.device('cpu')", "overwrite": True}
    run_bundle("evaluate", **{**options, "parts": ["reconstruction", "likelihood"], "n_samples": 2, **overrides})
    return json.loads((Path(folder) / "evaluation" / "scores.json").read_text())


def by_hand(workflow, folder):
    """Return codes and summed squared errors of the held out, with the objects that trained."""
    transform = workflow.parser.get_parsed_content("train#preprocessing")
    network = workflow.parser.get_parsed_content("network_def").cpu().eval()
    records = json.loads((Path(folder) / "split.json").read_text())["test"]
    images = torch.stack([transform(record)["image"] for record in records])
    images = images.to(network.fc_mu.weight.dtype)
    coding = workflow.parser.get_parsed_content("covariate_coding")
    with torch.no_grad():
        # a conditional decoder's codes are what is left of those around which their prior lies
        prior = 0.0
        if coding is not None:
            prior = network.decoder.condition(torch.from_numpy(coding.rows(records)).to(images.dtype))
        mu = network.fc_mu(network.encoder(images))
        if hasattr(network.decoder, "corrected_codes"):
            mu = network.decoder.corrected_codes(images, mu, prior=None if coding is None else prior)
        restored = network.decoder(mu)
    return (mu - prior).numpy(), ((images - restored) ** 2).flatten(1).sum(1).numpy().mean()


def metrics(folder):
    """Return the losses of a run as an array."""
    return np.loadtxt(Path(folder) / "metrics.csv", delimiter=",", skiprows=1)
