"""What a trained model's files say, and how they are refused."""

import json

import numpy as np
import pytest
import torch

from monai_betavae import bundle_root
from monai_betavae.networks import build_network
from monai_betavae.workflows.trained_model import (
    centred_affine,
    check_outputs,
    common_affine,
    grid_affine,
    load_weights,
    network_arguments,
    read_settings,
    trained_settings,
    write_settings,
)

PREPROCESSING = {"spatial_shape": [8, 10, 12], "spacing": 2.0}


def test_settings_default_to_the_training_config(tmp_path):
    settings = trained_settings(tmp_path, bundle_root())
    config = json.loads((bundle_root() / "train.json").read_text())
    assert settings["latent_dim"] == config["latent_dim"] == 32
    assert settings["spacing"] == 3.0
    assert {"spatial_shape", "architecture", "channels", "norm", "act", "n_blocks"} <= set(settings)


def test_settings_of_a_trained_model(tmp_path):
    stored = {
        "network": {"builder": "build_network", "arguments": {"latent_dim": 7}},
        "preprocessing": {"spacing": 2.0},
    }
    (tmp_path / "model.json").write_text(json.dumps(stored))
    settings = trained_settings(tmp_path, bundle_root())
    assert (settings["latent_dim"], settings["spacing"], settings["architecture"]) == (7, 2.0, "conv")
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(ValueError, match=r"model\.json must be the model\.json that training wrote"):
        trained_settings(tmp_path, bundle_root())


def test_what_is_written_is_read(tmp_path):
    network = build_network((8, 10, 12), 3, channels=(4, 8))
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    write_settings(network, PREPROCESSING, affine, tmp_path / "model.json")
    stored = read_settings(tmp_path)
    assert network_arguments(stored)["latent_dim"] == 3
    assert stored["preprocessing"] == PREPROCESSING
    assert grid_affine(tmp_path, (8, 10, 12), 2.0).tolist() == affine.tolist()
    assert trained_settings(tmp_path, bundle_root())["channels"] == [4, 8]


def test_a_network_of_ones_own_has_no_arguments(tmp_path):
    write_settings(torch.nn.Linear(2, 2), PREPROCESSING, np.eye(4), tmp_path / "model.json")
    assert network_arguments(read_settings(tmp_path)) == {}
    assert trained_settings(tmp_path, bundle_root())["spacing"] == 2.0
    assert trained_settings(tmp_path, bundle_root())["latent_dim"] == 32  # the config's


def test_arguments_that_were_overridden_deep_in_training_come_back(tmp_path):
    network = build_network((8, 10, 12), 3, channels=(4, 8), kernel_size=5, output="sigmoid", dropout=0.1)
    write_settings(network, PREPROCESSING, np.eye(4), tmp_path / "model.json")
    settings = trained_settings(tmp_path, bundle_root())
    assert (settings["kernel_size"], settings["output"], settings["dropout"]) == (5, "sigmoid", 0.1)
    configs = [
        json.loads((bundle_root() / f"{name}.json").read_text()) for name in ("inference", "evaluate", "generate")
    ]
    for config in configs:
        network_def = config["network_def"]
        arguments = set(network_arguments(read_settings(tmp_path))) - {"in_channels", "random_state"}
        assert set(network_def) - {"_target_"} == arguments  # none is lost on the way
        assert all(config[name] == f"$@trained['{name}']" for name in arguments)


def test_nothing_is_read_where_there_is_nothing(tmp_path):
    assert read_settings(tmp_path) is None
    assert network_arguments(None) == {}
    assert grid_affine(tmp_path, (4, 4, 4), 2.0).tolist() == centred_affine((4, 4, 4), 2.0).tolist()


def test_the_centre_of_a_centred_grid_is_the_origin():
    affine = centred_affine((5, 8, 11), (1.0, 2.0, 3.0))
    centre = affine @ np.array([2.0, 3.5, 5.0, 1.0])
    np.testing.assert_allclose(centre, [0, 0, 0, 1])
    assert np.linalg.norm(affine[:3, :3], axis=0).tolist() == [1.0, 2.0, 3.0]
    assert centred_affine((3, 3, 3), None)[0].tolist() == [1.0, 0.0, 0.0, -1.0]


def test_a_common_affine_tolerates_rounding_only():
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    near, far = affine.copy(), affine.copy()
    near[0, 3], far[0, 3] = 0.001, 0.5
    assert common_affine([affine, near], (4, 4, 4), 2.0).tolist() == affine.tolist()
    assert common_affine([affine, far], (4, 4, 4), 2.0).tolist() == centred_affine((4, 4, 4), 2.0).tolist()
    assert common_affine([], (4, 4, 4), 2.0).tolist() == centred_affine((4, 4, 4), 2.0).tolist()


def test_check_outputs(tmp_path):
    with pytest.raises(ValueError, match=r"model\.pt must be the model\.pt of a training run, and doesn't exist"):
        check_outputs(tmp_path / "scores.json", tmp_path / "model.pt")
    (tmp_path / "model.pt").touch()
    check_outputs(tmp_path / "scores.json", tmp_path / "model.pt")
    (tmp_path / "scores.json").touch()
    with pytest.raises(ValueError, match=r"scores\.json exists\. Give --overwrite True"):
        check_outputs(tmp_path / "scores.json", tmp_path / "model.pt")
    check_outputs(tmp_path / "scores.json", tmp_path / "model.pt", overwrite=True)


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path):
    small, large = (build_network((8, 8, 8), latent_dim=n, channels=(4, 8)) for n in (2, 3))
    torch.save(small.state_dict(), tmp_path / "model.pt")
    assert not load_weights(build_network((8, 8, 8), 2, channels=(4, 8)), tmp_path / "model.pt").training
    with pytest.raises(ValueError, match=r"model\.pt doesn't fit `network_def`"):
        load_weights(large, tmp_path / "model.pt")


@pytest.mark.parametrize("affine", [{"a": 1}, [[1.0]], "x", [[10**400] * 4] * 4])
def test_an_affine_of_another_form_is_refused_by_name(tmp_path, affine):
    stored = {"network": None, "preprocessing": {}, "grid_affine": affine}
    (tmp_path / "model.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"model\.json must be the model\.json that training wrote"):
        read_settings(tmp_path)


def test_brackets_without_end_are_refused_by_name(tmp_path):
    (tmp_path / "model.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"model\.json must be"):
        read_settings(tmp_path)
