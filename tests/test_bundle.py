"""Where the bundle is found and where it writes."""

import json
from pathlib import Path

import pytest

from monai_betavae import bundle, bundle_root


def test_in_a_checkout(monkeypatch):
    monkeypatch.delenv("MONAI_BETAVAE_HOME", raising=False)
    assert bundle_root() == Path(__file__).parents[1] / "bundles" / "vae"
    assert bundle.run_root() == bundle_root()


def test_installed(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "monai_betavae"
    (package / "bundles" / "vae").mkdir(parents=True)
    (package / "bundles" / "vae" / "metadata.json").touch()
    monkeypatch.setattr(bundle, "__file__", str(package / "bundle.py"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MONAI_BETAVAE_HOME", raising=False)
    assert bundle_root() == package / "bundles" / "vae"
    assert bundle.run_root() == tmp_path / "home" / "monai_betavae" / "vae"  # never into site-packages


def test_home_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("MONAI_BETAVAE_HOME", str(tmp_path))
    assert bundle.run_root() == tmp_path


def test_a_missing_bundle_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "__file__", str(tmp_path / "monai_betavae" / "bundle.py"))
    with pytest.raises(FileNotFoundError, match="reinstall monai-betavae"):
        bundle_root()


def test_metadata_has_what_consumers_require():
    metadata = json.loads((bundle_root() / "metadata.json").read_text())
    required = {"schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version", "task"}
    required |= {"required_packages_version", "description", "authors", "copyright", "network_data_format"}
    assert required <= set(metadata)
    assert metadata["version"] in metadata["changelog"]
    formats = metadata["network_data_format"]
    config = json.loads((bundle_root() / "train.json").read_text())
    assert formats["inputs"]["image"]["spatial_shape"] == config["spatial_shape"]
    assert formats["outputs"]["pred"]["spatial_shape"] == config["spatial_shape"]


@pytest.mark.parametrize(
    ("config", "ids"),
    [
        (
            "train.json",
            "bundle_root output_dir ckpt_dir dataset_dir device network_def latent_dim beta max_epochs train#dataset "
            "train#dataloader train#trainer train#inferer train#preprocessing validate#dataset training run",
        ),
        (
            "inference.json",
            "bundle_root output_dir ckpt_dir dataset_dir device network_def latent_dim dataset dataloader inferer "
            "evaluator preprocessing postprocessing inference run",
        ),
    ],
)
def test_ids_that_later_tools_rely_on(config, ids):
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(bundle_root() / config)
    assert [name for name in ids.split() if name not in parser] == []
