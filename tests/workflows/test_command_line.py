"""The bundle through MONAI's runner, as a user types it, on a small simulated cohort."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

pytestmark = pytest.mark.slow

BUNDLE = Path(__file__).parents[2] / "bundles" / "vae"
SMALL = {
    "simulated_cohort#n_subjects": 16,
    "simulated_cohort#spacing": 6.0,
    "spatial_shape": "[32,40,32]",
    "spacing": 6.0,
    "channels": "[4,8]",
    "latent_dim": 4,
    "num_workers": 0,
}


def run(run_id, home, cwd, **overrides):
    """Run a bundle's config in a fresh process and return it."""
    config = BUNDLE / ("inference.json" if run_id == "inference" else "train.json")
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(config)]
    for name, value in overrides.items():
        command += [f"--{name}", str(value)]
    environment = {**os.environ, "MONAI_BETAVAE_HOME": str(home)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home with a training run of two epochs, started from an unrelated folder."""
    home, elsewhere = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("elsewhere")
    done = run("training", home, elsewhere, max_epochs=2, **SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not list(elsewhere.iterdir())  # nothing is left where the user stands
    return home, done.stdout


@pytest.fixture(scope="module")
def inferred(trained, tmp_path_factory):
    home, _ = trained
    done = run("inference", home, tmp_path_factory.mktemp("inference"))
    assert done.returncode == 0, done.stderr[-3000:]
    return home


def test_training_leaves_the_files_of_the_contract(trained):
    home, _ = trained
    weights = torch.load(home / "models" / "model.pt", weights_only=True)
    assert weights["fc_mu.weight"].shape[0] == 4
    assert all(type(value) is torch.Tensor for value in weights.values())
    checkpoint = torch.load(home / "models" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6  # 12 volumes in batches of 4, twice
    metrics = pd.read_csv(home / "output" / "metrics.csv")
    assert metrics["epoch"].tolist() == [0, 1]
    for stage in ("train", "val"):
        losses = metrics[[f"{stage}/loss", f"{stage}/rec_loss", f"{stage}/kl_loss"]].to_numpy()
        np.testing.assert_allclose(losses[:, 0], losses[:, 1] + losses[:, 2], rtol=1e-5)  # beta = 1
    for picture in ("loss_curves", "reconstructions", "traversals"):
        assert (home / "output" / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_training_says_what_it_did(trained):
    home, printed = trained
    assert "no dataset_dir given, simulating a cohort of 16 brains" in printed
    assert "Split by subject: 12 training, 2 validation, 2 test" in printed
    assert "N = 40960 voxels, beta = 1, beta / N = 2.44e-05" in printed
    assert "PCA with 4 components" in printed
    assert str(home / "models" / "model.pt") in printed
    assert "run inference" in printed


def test_scores_hold_baselines_and_say_simulated(trained):
    scores = json.loads((trained[0] / "output" / "scores.json").read_text())
    assert scores["simulated"] is True
    assert scores["n_held_out"] == 2
    assert scores["sse_ratio"] == pytest.approx(scores["sse"] / scores["sse_mean_image"])
    assert 0 < scores["sse_ratio"] < 1.2  # it starts at the mean image


def test_an_existing_run_is_not_overwritten(trained, tmp_path):
    home, _ = trained
    before = (home / "models" / "model.pt").read_bytes()
    done = run("training", home, tmp_path, max_epochs=2, **SMALL)
    assert done.returncode != 0
    assert "Give --resume True to continue it, --overwrite True to replace it" in done.stderr
    assert "Loading dataset" not in done.stderr  # refused before any data is loaded
    assert (home / "models" / "model.pt").read_bytes() == before


def test_a_missing_dataset_is_an_error_and_never_a_simulation(tmp_path):
    done = run("training", tmp_path / "home", tmp_path, dataset_dir="/does/not/exist", **SMALL)
    assert done.returncode != 0
    assert "/does/not/exist" in done.stderr
    assert not (tmp_path / "home" / "data").exists()


def test_inference_gives_latents_in_input_order(inferred):
    table = pd.read_csv(inferred / "output" / "latents.csv")
    held_out = json.loads((inferred / "output" / "split.json").read_text())["test"]
    assert table["subject"].tolist() == [record["subject"] for record in held_out]
    assert table["image"].tolist() == [record["image"] for record in held_out]
    expected = ["subject", "image", *[f"mu_{i}" for i in range(4)], *[f"logvar_{i}" for i in range(4)]]
    assert table.columns.tolist() == expected


def test_latents_are_those_of_the_trained_network(inferred):
    from monai_betavae.data import brain_transforms
    from monai_betavae.networks import build_network

    settings = json.loads((inferred / "models" / "model.json").read_text())
    network = build_network(**settings["network"]["arguments"])
    network.load_state_dict(torch.load(inferred / "models" / "model.pt", weights_only=True))
    table = pd.read_csv(inferred / "output" / "latents.csv")
    transform = brain_transforms((32, 40, 32), 6.0)
    images = torch.stack([transform({"image": path})["image"] for path in table["image"]])
    with torch.no_grad():
        mu, logvar = network.eval().encode(images)
    np.testing.assert_allclose(table.filter(like="mu_").to_numpy(), mu.numpy(), atol=1e-4)
    np.testing.assert_allclose(table.filter(like="logvar_").to_numpy(), logvar.numpy(), atol=1e-4)


def test_reconstructions_are_on_the_grid_of_their_input(inferred):
    table = pd.read_csv(inferred / "output" / "latents.csv")
    for path in table["image"]:
        name = Path(path).name.removesuffix(".nii.gz") + "_reconstruction.nii.gz"
        volume, reconstruction = nib.load(path), nib.load(inferred / "output" / "reconstructions" / name)
        assert reconstruction.affine.tobytes() == volume.affine.tobytes()
        assert reconstruction.shape == volume.shape
        assert reconstruction.get_data_dtype() == np.float32
        correlation = np.corrcoef(volume.get_fdata().ravel(), reconstruction.get_fdata().ravel())[0, 1]
        assert correlation > 0.8


def test_inference_on_a_foreign_volume_of_an_odd_grid(trained, tmp_path):
    from nilearn.datasets import load_mni152_template
    from nilearn.image import resample_img

    affine = np.array([[-2.7, 0.1, 0, 88], [0.1, 3.3, 0.05, -126], [0, -0.05, 2.9, -71], [0, 0, 0, 1]])
    template = load_mni152_template(resolution=2)
    odd = resample_img(template, affine, (67, 71, 53), force_resample=True, copy_header=True)
    path = tmp_path / "template.nii.gz"
    nib.save(odd, path)
    before = path.read_bytes()
    done = run("inference", trained[0], tmp_path, dataset_dir=path, output_dir=tmp_path / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    reconstruction = nib.load(tmp_path / "out" / "reconstructions" / "template_reconstruction.nii.gz")
    assert reconstruction.affine.tobytes() == nib.load(path).affine.tobytes()
    assert reconstruction.shape == (67, 71, 53)
    assert np.corrcoef(odd.get_fdata().ravel(), reconstruction.get_fdata().ravel())[0, 1] > 0.6
    assert path.read_bytes() == before


def test_inference_does_not_overwrite(inferred, tmp_path):
    done = run("inference", inferred, tmp_path)
    assert done.returncode != 0
    assert "latents.csv exists. Give --overwrite True" in done.stderr


def test_resume_continues_the_table(inferred, tmp_path):
    """This and the next change the run, so they are last."""
    done = run("training", inferred, tmp_path, max_epochs=3, resume=True, **SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    assert pd.read_csv(inferred / "output" / "metrics.csv")["epoch"].tolist() == [0, 1, 2]
    assert torch.load(inferred / "models" / "last.ckpt", weights_only=True)["global_step"] == 9


def test_overwrite_costs_nothing_when_the_data_are_missing_and_replaces_otherwise(inferred, tmp_path):
    weights = inferred / "models" / "model.pt"
    before = weights.read_bytes()
    failed = run("training", inferred, tmp_path, overwrite=True, dataset_dir="/does/not/exist", **SMALL)
    assert failed.returncode != 0
    assert weights.read_bytes() == before
    done = run("training", inferred, tmp_path, overwrite=True, max_epochs=1, **{**SMALL, "latent_dim": 3})
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.load(weights, weights_only=True)["fc_mu.weight"].shape[0] == 3
    assert torch.load(inferred / "models" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert sorted(path.name for path in (inferred / "models").glob("*.ckpt")) == ["last.ckpt"]
    assert pd.read_csv(inferred / "output" / "metrics.csv")["epoch"].tolist() == [0]
