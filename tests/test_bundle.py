"""Where the bundle is found and where it writes."""

import json
import shutil
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


@pytest.fixture
def copies(tmp_path):
    """A copy of the bundle as it is, and one in the zoo's form."""
    names = ("metadata.json", "train.json", "inference.json", "logging.conf")
    for folder in (tmp_path / "flat", tmp_path / "zoo" / "configs"):
        folder.mkdir(parents=True)
        for name in names:
            shutil.copy(bundle_root() / name, folder)
    return tmp_path


@pytest.mark.parametrize(("config", "root"), [("flat/train.json", "flat"), ("zoo/configs/train.json", "zoo")])
@pytest.mark.parametrize("relative", [False, True])
def test_a_copy_finds_itself_from_any_folder(copies, monkeypatch, config, root, relative):
    from monai.bundle import ConfigWorkflow

    monkeypatch.delenv("MONAI_BETAVAE_HOME", raising=False)
    monkeypatch.chdir(copies if relative else Path(__file__).parent)
    workflow = ConfigWorkflow(config if relative else str(copies / config), logging_file=False)
    workflow.initialize()
    assert workflow.bundle_root == str(copies / root)
    assert workflow.parser.get_parsed_content("ckpt_dir") == str(copies / root / "models")
    assert bundle.running_bundle_root() == bundle_root()  # nothing is running out here


def test_a_command_without_a_workflow_finds_its_bundle(copies, monkeypatch):
    from monai.bundle import verify_net_in_out

    monkeypatch.delenv("MONAI_BETAVAE_HOME", raising=False)
    seen = []
    real = bundle.run_root
    monkeypatch.setattr(bundle, "run_root", lambda root: seen.append(Path(root)) or real(root))
    folder = copies / "zoo" / "configs"
    verify_net_in_out("network_def", str(folder / "metadata.json"), str(folder / "inference.json"), device="cpu")
    assert set(seen) == {copies / "zoo"}


def test_overrides_are_part_of_the_running_config():
    from monai.bundle import ConfigParser

    parser = ConfigParser({"imports": ["$import monai_betavae", "$import monai_betavae.bundle"], "beta": 1.0})
    parser["beta"] = 4.0
    parser["seen"] = "$monai_betavae.bundle.running_config()['beta']"
    assert parser.get_parsed_content("seen") == 4.0
    assert bundle.running_config() is None


def test_the_run_root_of_a_bundle(tmp_path, monkeypatch):
    monkeypatch.delenv("MONAI_BETAVAE_HOME", raising=False)
    assert bundle.run_root(tmp_path) == tmp_path
    monkeypatch.setenv("MONAI_BETAVAE_HOME", str(tmp_path / "home"))
    assert bundle.run_root(bundle_root()) == bundle.run_root() == tmp_path / "home"
    assert bundle.run_root(tmp_path) == tmp_path  # somebody named another


@pytest.mark.parametrize("config", ["flat/train.json", "zoo/configs/train.json"])
def test_the_home_variable_moves_a_running_copy_but_not_a_named_root(copies, monkeypatch, config):
    from monai.bundle import ConfigWorkflow

    monkeypatch.setenv("MONAI_BETAVAE_HOME", str(copies / "home"))
    for override, expected in (({}, copies / "home"), ({"bundle_root": str(copies / "other")}, copies / "other")):
        workflow = ConfigWorkflow(str(copies / config), logging_file=False, **override)
        workflow.initialize()
        assert workflow.parser.get_parsed_content("ckpt_dir") == str(expected / "models")


def test_config_files_of_both_forms(copies):
    assert bundle.config_file(copies / "flat", "train.json") == copies / "flat" / "train.json"
    assert bundle.config_file(copies / "zoo", "train.json") == copies / "zoo" / "configs" / "train.json"


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
            "bundle_root output_dir ckpt_dir dataset_dir device network_def dataset dataloader inferer "
            "evaluator preprocessing postprocessing training_output_dir checkpoint records inference run",
        ),
    ],
)
def test_ids_that_later_tools_rely_on(config, ids):
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(bundle_root() / config)
    assert [name for name in ids.split() if name not in parser] == []
