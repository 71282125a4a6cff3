"""Write the files of a release that later versions must read: `python tests/released/write.py tests/released/0.1.0`.

Once per release, from its own commit, and never again: what stands in a version's folder is what that version wrote.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from monai_betavae import VAE, build_vae, bundle_root
from monai_betavae.data import brain_transforms, discover, simulate_cohort
from monai_betavae.workflows import load_weights, trained_network

SHAPE, SPACING = (8, 9, 7), 24.0
BUNDLE_FILES = ("model.pt", "model.json", "last.ckpt")
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "devices": 1,
}


def bundle_training(folder):
    """Train the bundle's model, whose decoder is a template that the code deforms, on few small simulated brains."""
    settings = {
        "dataset_dir": folder / "cohort",
        "output_dir": folder / "run",
        "ckpt_dir": folder / "run",
        "spatial_shape": list(SHAPE),
        "spacing": SPACING,
        "channels": [4, 8],
        "latent_dim": 2,
        # where subjects vary less than beta stands for, every code is the same
        "beta": 0.01,
        "max_epochs": 2,
        "num_workers": 0,
        "logger": "none",
        "device": "$torch.device('cpu')",
    }
    command = [sys.executable, "-m", "monai.bundle", "run", "training"]
    command += ["--config_file", str(bundle_root() / "train.json")]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    subprocess.run(command, check=True)


def fitted_vae(images):
    """Train the estimator by itself, likewise."""
    vae = build_vae(
        SHAPE,
        2,
        channels=(4, 8),
        norm="group",
        warm_start="deformable",
        beta=0.01,
        lr=0.01,
        random_state=0,
        max_epochs=2,
        **QUIET,
    )
    return vae.fit(DataLoader(images, batch_size=4))


def estimator_outputs(vae, images):
    """Return what an estimator makes of images."""
    with torch.no_grad():
        posterior = vae.encode(images)
        return {
            "mean": posterior.mean.numpy(),
            "scale": posterior.stddev.numpy(),
            "transform": vae.transform(DataLoader(images, batch_size=2)).numpy(),
            "reconstruction": vae.reconstruct(images).numpy(),
            "sample": vae.sample(2).numpy(),
        }


def network_outputs(network, images):
    """Return what the bundle's network makes of images."""
    with torch.no_grad():
        mean, logvar = network.posterior_parameters(images)
        return {"mean": mean.numpy(), "logvar": logvar.numpy(), "reconstruction": network(images).numpy()}


def bundle_network(folder):
    """Build the network that model.json describes, with the weights of model.pt."""
    return load_weights(trained_network(folder), folder / "model.pt")


def write(target):
    """Train both, and keep their files with what comes out of them for three volumes that neither has seen."""
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate_cohort(folder / "cohort", 16, seed=0, spacing=12.0, progress=False)
        bundle_training(folder)
        for file in BUNDLE_FILES:
            shutil.copyfile(folder / "run" / file, target / file)
        transform = brain_transforms(SHAPE, SPACING)
        volumes = torch.stack([transform(record)["image"] for record in discover(folder / "cohort")])
    images = volumes[-3:]
    vae = fitted_vae(volumes[:-3])
    vae.save(target / "vae.pt")
    found = {
        "vae.pt": estimator_outputs(vae, images),
        "last.ckpt": estimator_outputs(VAE.load_from_checkpoint(target / "last.ckpt"), images),
        "model.pt": network_outputs(bundle_network(target), images),
    }
    arrays = {f"{file} {name}": value for file, outputs in found.items() for name, value in outputs.items()}
    np.savez_compressed(target / "expected.npz", images=images.numpy(), **arrays)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
