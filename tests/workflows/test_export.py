"""A torch.export program gives what the network gives, for any batch size, without the package."""

import pytest
import torch

from monai_betavae.networks import build_network
from monai_betavae.workflows.export import export_program
from monai_betavae.workflows.trained_model import centred_affine, write_settings


def test_program(tmp_path):
    network = build_network((8, 10, 8), 3, channels=(4, 8), random_state=0)
    with torch.no_grad():
        for weights in network.decoder.parameters():  # the fresh output layer is zero
            weights.normal_(std=0.3)
    write_settings(network, {"spatial_shape": [8, 10, 8], "spacing": 2.0}, centred_affine((8, 10, 8), 2.0),
                   tmp_path / "model.json")  # fmt: skip
    torch.save(network.state_dict(), tmp_path / "model.pt")
    path, difference = export_program(tmp_path / "model.pt2", tmp_path)
    assert difference < 1e-6
    images = torch.rand(5, 1, 8, 10, 8)
    with torch.no_grad():
        expected = network.eval()(images)
        assert expected.std() > 0.01
        torch.testing.assert_close(torch.export.load(path).module()(images), expected)
    with pytest.raises(ValueError, match=r"`filepath` must be a new file with the suffix \.pt2"):
        export_program(path, tmp_path)
    with pytest.raises(ValueError, match=r"suffix \.pt2, got .*model\.onnx"):
        export_program(tmp_path / "model.onnx", tmp_path)
    with pytest.raises(ValueError, match="run training first"):
        export_program(tmp_path / "new.pt2", tmp_path / "nothing")
