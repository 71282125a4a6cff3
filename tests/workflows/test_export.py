"""A torch.export program gives what the network gives, for any batch size, without the package."""

from importlib.util import find_spec

import pytest
import torch
from described_models import write_model
from monai.data import DataLoader

from monai_betavae.networks.builders import build_network
from monai_betavae.networks.warm_start import warm_start as start_warm
from monai_betavae.workflows import export
from monai_betavae.workflows.export import export_program


@pytest.mark.parametrize("warm_start", ["mean", "deformable"])
def test_program(tmp_path, warm_start):
    network = build_network((8, 10, 8), 3, channels=(4, 8), warm_start=warm_start, random_state=0)
    start_warm(network, DataLoader(torch.rand(6, 1, 8, 10, 8), batch_size=3))
    with torch.no_grad():
        for weights in network.decoder.parameters():  # the fresh output layer is zero
            weights.normal_(std=0.3)
    write_model(tmp_path, network, (8, 10, 8), 2.0)
    path, difference = export_program(tmp_path / "model.pt2", tmp_path)
    assert difference < 1e-6
    images = torch.rand(5, 1, 8, 10, 8)
    with torch.no_grad():
        expected = network.eval()(images)
        assert expected.std() > 0.01
        torch.testing.assert_close(torch.export.load(path).module()(images), expected)
    with pytest.raises(ValueError, match=r"`filepath` must be a new file with the suffix \.pt2 or \.onnx"):
        export_program(path, tmp_path)
    with pytest.raises(ValueError, match=r"suffix \.pt2 or \.onnx, got .*model\.ts"):
        export_program(tmp_path / "model.ts", tmp_path)
    with pytest.raises(ValueError, match="run training first"):
        export_program(tmp_path / "new.pt2", tmp_path / "nothing")


def test_the_shape_is_the_grids_where_the_network_does_not_say_it(tmp_path):
    network = build_network((8, 10, 8), 3, in_channels=2, channels=(4, 8), warm_start="mean", random_state=0)
    write_model(tmp_path, network, (8, 10, 8))
    path, difference = export_program(tmp_path / "model.pt2", tmp_path)
    assert difference < 1e-6
    assert torch.export.load(path).module()(torch.rand(3, 2, 8, 10, 8)).shape == (3, 2, 8, 10, 8)


def test_what_onnx_needs_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name))
    with pytest.raises(ValueError, match=r"model\.onnx needs onnxscript: pip install 'monai-betavae\[export\]'"):
        export_program(tmp_path / "model.onnx", tmp_path)


def test_a_network_of_ones_own_is_named(tmp_path):
    write_model(tmp_path, torch.nn.Linear(2, 2), (8, 8, 8))
    with pytest.raises(ValueError, match=r"`network_def` must be given: .*model\.json says .*torch\.nn\..*Linear"):
        export_program(tmp_path / "model.pt2", tmp_path)
    assert not (tmp_path / "model.pt2").exists()
