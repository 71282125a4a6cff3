"""The model zoo's form differs from the flat bundle in nothing but the model's settings."""

import json

import pytest
import torch
from described_models import write_model
from monai.bundle import ConfigParser, ConfigWorkflow

from monai_betavae import bundle_root
from monai_betavae.bundle import config_file
from monai_betavae.data import CovariateCoding, brain_transforms
from monai_betavae.networks.builders import build_network
from monai_betavae.objectives import BetaTCVAELoss, describe_objective
from monai_betavae.workflows.model_description import read_description
from monai_betavae.workflows.preprocessing_description import describe_preprocessing
from monai_betavae.workflows.zoo import write_zoo_bundle, zoo_config

SETTINGS = {"spatial_shape": [16, 20, 16], "latent_dim": 3, "channels": [4, 8], "beta": 4.0}
UNREAD = {"spatial_shape", "spacing", "architecture", "channels", "n_blocks", "norm", "act", "kernel_size", "dropout",
          "output", "warm_start", "n_voxels", "n_corrections", "noise", "latent_dim"}  # fmt: skip
"""Ids of train.json that only the network and the transforms read, which stand as values in the zoo's form."""

LIKELIHOOD = {"distribution": "laplace", "beta": 4.0}


@pytest.fixture
def models(tmp_path):
    network = build_network((16, 20, 16), 3, channels=(4, 8), random_state=0)
    return write_model(tmp_path / "models", network, (16, 20, 16), 12.0, likelihood=LIKELIHOOD)


def test_both_forms_agree(models, tmp_path):
    folder = write_zoo_bundle(tmp_path / "zoo" / "vae", models)
    flat_files = {path.name for path in bundle_root().glob("*.json")} | {"logging.conf"}
    assert {path.name for path in (folder / "configs").iterdir()} == flat_files
    for name in ("train.json", "inference.json", "evaluate.json", "generate.json", "multi_gpu_train.json"):
        flat, zoo = (json.loads(config_file(root, name).read_text()) for root in (bundle_root(), folder))
        # the entries that read these ids hold values, so an override of one is refused, and not lost
        unread = UNREAD if name == "train.json" else set()
        assert list(zoo) == [key for key in flat if key not in unread], name
        differing = {key for key in zoo if flat[key] != zoo[key]}
        parts = {"network_def", "preprocessing", "likelihood", "covariate_coding", "contrasts", "ckpt_dir"}
        training = {"network_def", "train", "loss", "beta"}
        expected = {"train.json": training, "multi_gpu_train.json": set()}.get(name, parts & set(flat))
        assert differing == expected, name
        assert "monai_betavae.workflows.trained_" not in json.dumps(zoo)
    for name in ("docs/README.md", "LICENSE", "scripts/export_program.py"):
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
    network = build_network((16, 20, 16), 3, channels=(4, 8), random_state=0)
    for part, (module, changes) in {
        "network": (torch.nn.Linear(2, 2), {}),
        "preprocessing": (network, {"preprocessing": {"own": "mine.Transform", "where": "train#preprocessing"}}),
    }.items():
        write_model(models, module, (16, 20, 16), **changes)
        with pytest.raises(ValueError, match=f"must describe the model's {part}, got one of your own, .*holds no code"):
            write_zoo_bundle(tmp_path / "vae", models)
    assert not (tmp_path / "vae").exists()


def test_the_model_stands_in_the_configs_as_values(models, tmp_path):
    folder = write_zoo_bundle(tmp_path / "vae", models)
    transforms = [entry["name"] for entry in brain_transforms((16, 20, 16), 12.0).description["transforms"]]
    for name in ("inference.json", "evaluate.json", "generate.json", "train.json"):
        zoo = json.loads((folder / "configs" / name).read_text())
        network = zoo["network_def"]
        assert network.pop("_target_") == "monai_betavae.networks.builders.build_network"
        assert network == read_description(models)["network"]["arguments"]
        assert network["channels"] == [4, 8]
        preprocessing = zoo["train"]["preprocessing"] if name == "train.json" else zoo.get("preprocessing")
        if preprocessing is not None:
            targets = [step["_target_"].rpartition(".")[2] for step in preprocessing["transforms"]]
            assert targets == transforms
            assert preprocessing["transforms"][2]["spacing"] == [12.0, 12.0, 12.0]
        if name != "train.json":
            assert zoo["ckpt_dir"] == "$@bundle_root + '/models'"
    assert json.loads((folder / "configs" / "evaluate.json").read_text())["likelihood"] == LIKELIHOOD
    training = json.loads((folder / "configs" / "train.json").read_text())
    assert training["beta"] == SETTINGS["beta"]
    assert not UNREAD & training.keys()
    assert (training["loss"]["beta"], training["loss"]["default_dist"]) == ("@beta", "laplace")


def test_a_training_in_the_zoo_form_makes_the_same_network_and_transforms(models, tmp_path, monkeypatch):
    monkeypatch.delenv("MONAI_BETAVAE_HOME", raising=False)
    folder = write_zoo_bundle(tmp_path / "vae", models)
    workflow = ConfigWorkflow(str(folder / "configs" / "train.json"), logging_file=False)
    workflow.initialize()
    weights = torch.load(models / "model.pt", weights_only=True)
    made = workflow.parser.get_parsed_content("network_def").state_dict()
    assert {name: value.shape for name, value in made.items()} == {name: w.shape for name, w in weights.items()}
    found = describe_preprocessing(workflow.parser.get_parsed_content("train#preprocessing"), workflow.parser)
    assert found == brain_transforms((16, 20, 16), 12.0).description


def test_the_coding_of_a_conditional_model_stands_in_the_configs(models, tmp_path):
    records = [{"age": 20.5 + i, "sex": "FM"[i % 2]} for i in range(12)]
    coding = CovariateCoding.fit(records, ["age", "sex"])
    network = build_network((16, 20, 16), 3, channels=(4, 8), n_covariates=coding.n_columns, random_state=0)
    write_model(models, network, (16, 20, 16), 12.0, covariates=coding.description())
    folder = write_zoo_bundle(tmp_path / "vae", models)
    for name in ("inference.json", "evaluate.json"):
        parser = ConfigParser(json.loads((folder / "configs" / name).read_text()))
        assert parser.get_parsed_content("covariate_coding") == coding
        assert parser["covariates"] is None if "covariates" in parser else True  # those to probe
    training = json.loads((folder / "configs" / "train.json").read_text())
    assert training["covariates"] == ["age", "sex"]
    assert training["network_def"]["n_covariates"] == coding.n_columns
    assert "workflows.covariate_coding(" in training["covariate_coding"]


def test_a_likelihood_of_ones_own_leaves_the_configs_as_they_are(models, tmp_path):
    network = build_network((16, 20, 16), 3, channels=(4, 8), random_state=0)
    write_model(models, network, (16, 20, 16), likelihood={"own": "mine.Loss"})
    folder = write_zoo_bundle(tmp_path / "vae", models)
    for name, ids in (("evaluate.json", ["likelihood"]), ("train.json", ["loss", "beta"])):
        flat, zoo = (json.loads(config_file(root, name).read_text()) for root in (bundle_root(), folder))
        assert all(flat[key] == zoo[key] for key in ids)


def test_the_objective_stands_in_the_training_config(models, tmp_path):
    network = build_network((16, 20, 16), 3, channels=(4, 8), random_state=0)
    loss = BetaTCVAELoss(6.0, gamma=2.0, schedule={"kind": "linear", "length": 5})
    write_model(models, network, (16, 20, 16), objective=describe_objective(loss))
    folder = write_zoo_bundle(tmp_path / "vae", models)
    workflow = ConfigWorkflow(str(folder / "configs" / "train.json"), logging_file=False)
    workflow.initialize()
    assert describe_objective(workflow.parser.get_parsed_content("loss")) == describe_objective(loss)
    assert workflow.parser["beta"] == 6.0  # the id that users set


def test_parts_that_a_config_does_not_have_are_not_added(models):
    assert zoo_config({"beta": 1.0}, read_description(models)) == {"beta": 1.0}
