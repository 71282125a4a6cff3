"""The model zoo's form differs from the flat bundle in nothing but the model's settings."""

import json

import pytest
import torch

from monai_betavae import bundle_root
from monai_betavae.bundle import config_file
from monai_betavae.networks import build_network
from monai_betavae.workflows.trained_model import centred_affine, write_settings
from monai_betavae.workflows.zoo import write_zoo_bundle, zoo_config

SETTINGS = {"spatial_shape": [16, 20, 16], "latent_dim": 3, "channels": [4, 8], "spacing": 12.0}


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    network = build_network((16, 20, 16), 3, channels=(4, 8), random_state=0)
    preprocessing = {"spatial_shape": [16, 20, 16], "spacing": 12.0}
    write_settings(network, preprocessing, centred_affine((16, 20, 16), 12.0), folder / "model.json")
    torch.save(network.state_dict(), folder / "model.pt")
    return folder


def test_both_forms_agree(models, tmp_path):
    folder = write_zoo_bundle(tmp_path / "zoo" / "vae", models)
    flat_files = {path.name for path in bundle_root().glob("*.json")} | {"logging.conf"}
    assert {path.name for path in (folder / "configs").iterdir()} == flat_files
    for name in ("train.json", "inference.json", "evaluate.json", "generate.json", "multi_gpu_train.json"):
        flat, zoo = (json.loads(config_file(root, name).read_text()) for root in (bundle_root(), folder))
        flat.pop("trained", None)
        assert list(zoo) == list(flat), name
        differing = {key for key in flat if flat[key] != zoo[key]}
        assert all(zoo[key] == SETTINGS.get(key, zoo[key]) for key in differing)
        shared = {
            "architecture",
            "n_blocks",
            "norm",
            "act",
            "kernel_size",
            "dropout",
            "output",
            "warm_start",
            "n_voxels",
        }  # settings too, that may equal the flat ones
        assert differing <= set(SETTINGS) | shared, name
        assert "@trained" not in json.dumps(zoo)
    for name in ("docs/README.md", "LICENSE", "scripts/contact_sheet.py"):
        assert (folder / name).read_bytes() == (bundle_root() / name).read_bytes()
    assert (folder / "configs" / "logging.conf").read_bytes() == (bundle_root() / "logging.conf").read_bytes()
    assert (folder / "models" / "model.pt").read_bytes() == (models / "model.pt").read_bytes()
    assert [path.name for path in folder.parent.iterdir()] == ["vae"]


def test_metadata_has_the_models_shape(models, tmp_path):
    folder = write_zoo_bundle(tmp_path / "vae", models)
    flat, zoo = (json.loads(config_file(root, "metadata.json").read_text()) for root in (bundle_root(), folder))
    formats = zoo["network_data_format"]
    assert formats["inputs"]["image"]["spatial_shape"] == formats["outputs"]["pred"]["spatial_shape"] == [16, 20, 16]
    for side in ("inputs", "outputs"):
        for entry in (*flat["network_data_format"][side].values(), *formats[side].values()):
            del entry["spatial_shape"]
    assert zoo == flat


def test_refusals(models, tmp_path):
    with pytest.raises(ValueError, match=r"`ckpt_dir` must hold .*run training first"):
        write_zoo_bundle(tmp_path / "vae", tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"`output_dir` must be a new or an empty folder, got .*models, which holds"):
        write_zoo_bundle(models, models)
    (tmp_path / "empty").mkdir()
    write_zoo_bundle(tmp_path / "empty", models)
    write_settings(torch.nn.Linear(2, 2), {"spacing": 1.0}, centred_affine((2, 2, 2), 1.0), models / "model.json")
    with pytest.raises(ValueError, match="must describe a network of build_network, got one of your own"):
        write_zoo_bundle(tmp_path / "vae", models)
    assert not (tmp_path / "vae").exists()


def test_settings_that_a_config_does_not_have_are_not_added():
    assert zoo_config({"beta": 1.0}, {"latent_dim": 8}) == {"beta": 1.0}
