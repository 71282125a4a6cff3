"""What inference refuses, and how it names its files."""

import json

import pytest
import torch

from monai_betavae import bundle_root
from monai_betavae.networks import build_network
from monai_betavae.workflows.inference import (
    _OutputNames,
    check_inference,
    inference_records,
    load_weights,
    trained_settings,
)

DEFAULTS = bundle_root() / "train.json"


def test_settings_default_to_the_training_config(tmp_path):
    settings = trained_settings(tmp_path, DEFAULTS)
    config = json.loads(DEFAULTS.read_text())
    assert settings["latent_dim"] == config["latent_dim"] == 32
    assert settings["spacing"] == 3.0
    assert {"spatial_shape", "architecture", "channels", "norm", "act", "n_blocks"} <= set(settings)


def test_settings_of_a_trained_model(tmp_path):
    stored = {
        "network": {"builder": "build_network", "arguments": {"latent_dim": 7}},
        "preprocessing": {"spacing": 2.0},
    }
    (tmp_path / "model.json").write_text(json.dumps(stored))
    settings = trained_settings(tmp_path, DEFAULTS)
    assert (settings["latent_dim"], settings["spacing"], settings["architecture"]) == (7, 2.0, "conv")
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(ValueError, match=r"model\.json must be the model\.json that training wrote"):
        trained_settings(tmp_path, DEFAULTS)


def test_check_inference(tmp_path):
    with pytest.raises(ValueError, match=r"model\.pt must be the model\.pt of a training run, and doesn't exist"):
        check_inference(tmp_path, tmp_path / "model.pt")
    (tmp_path / "model.pt").touch()
    check_inference(tmp_path, tmp_path / "model.pt")
    (tmp_path / "latents.csv").touch()
    with pytest.raises(ValueError, match=r"latents\.csv exists"):
        check_inference(tmp_path, tmp_path / "model.pt")
    check_inference(tmp_path, tmp_path / "model.pt", overwrite=True)


def test_records_need_data_or_a_training_run(tmp_path):
    with pytest.raises(ValueError, match="`dataset_dir` must be given"):
        inference_records(None, tmp_path)
    gone = {"training": [], "validation": [], "test": [{"image": str(tmp_path / "gone.nii.gz"), "subject": "a"}]}
    (tmp_path / "split.json").write_text(json.dumps(gone))
    with pytest.raises(ValueError, match=r"1 files are gone, the first is .*gone\.nii\.gz"):
        inference_records(None, tmp_path)


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path):
    small, large = (build_network((8, 8, 8), latent_dim=n, channels=(4, 8)) for n in (2, 3))
    torch.save(small.state_dict(), tmp_path / "model.pt")
    assert not load_weights(build_network((8, 8, 8), 2, channels=(4, 8)), tmp_path / "model.pt").training
    with pytest.raises(ValueError, match=r"model\.pt doesn't fit `network_def`"):
        load_weights(large, tmp_path / "model.pt")


def test_output_names_are_unique_and_stay_in_their_folder():
    names = _OutputNames()
    found = [
        names.unique(path, subject)
        for path, subject in (
            ("/d/sub-1/T1.nii.gz", "sub-1"),
            ("/d/sub-2/T1.nii.gz", "../sub-2"),
            ("/e/sub-2/T1.nii", "../sub-2"),
        )
    ]
    assert found == [
        "T1_reconstruction.nii.gz",
        ".._sub-2_T1_reconstruction.nii.gz",
        ".._sub-2_T1_2_reconstruction.nii.gz",
    ]
