"""Scores per subject and their summary, for ideal and useless networks."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from monai.inferers import SimpleInferer
from torch import nn
from torch.utils.data import DataLoader

from monai_betavae.networks import build_network
from monai_betavae.workflows import ReconstructionEvaluation, check_evaluation

IMAGES = torch.rand(5, 1, 8, 10, 8, generator=torch.Generator().manual_seed(0))


def evaluate(network, folder, batch_size=2):
    records = [
        {"image": image, "image_path": f"/data/{index}.nii.gz", "subject": f"sub-{index}"}
        for index, image in enumerate(IMAGES)
    ]
    ReconstructionEvaluation(network, DataLoader(records, batch_size=batch_size), SimpleInferer(), folder).run()
    table = pd.read_csv(folder / "evaluation" / "reconstruction.csv")
    return table, json.loads((folder / "evaluation" / "scores.json").read_text())


def test_a_network_that_gives_the_mean_image(tmp_path, capsys):
    network = build_network((8, 10, 8), 3, channels=(4, 8), random_state=0)
    mean = IMAGES.mean(dim=0)
    network.decoder.set_output_mean(mean)
    table, summary = evaluate(network, tmp_path)
    assert table["subject"].tolist() == [f"sub-{index}" for index in range(5)]
    assert table["image"].tolist() == [f"/data/{index}.nii.gz" for index in range(5)]
    expected = ((IMAGES - mean) ** 2).sum(dim=(1, 2, 3, 4)).numpy()
    np.testing.assert_allclose(table["sse"], expected, rtol=1e-5)
    np.testing.assert_allclose(table["sse_mean_image"], expected, rtol=1e-5)
    np.testing.assert_allclose(table["mse"], expected / 640, rtol=1e-5)
    assert summary["sse_ratio"] == pytest.approx(1)
    assert (summary["n_volumes"], summary["simulated"], summary["latent_dim"]) == (5, False, 3)
    for name in ("sse", "mse", "mae", "psnr", "ssim"):
        column = table[name]
        assert summary[name]["mean"] == pytest.approx(column.mean())
        assert summary[name]["sd"] == pytest.approx(column.std(ddof=1))
        assert summary[name]["median"] == pytest.approx(column.median())
        assert (summary[name]["min"], summary[name]["max"]) == pytest.approx((column.min(), column.max()))
    assert "1.00 of the mean training image's" in capsys.readouterr().out


def test_any_module_and_any_batch_size(tmp_path):
    half = nn.Sequential(nn.Identity())
    half.register_forward_hook(lambda module, inputs, output: 0.5 * output)
    one, _ = evaluate(half, tmp_path / "1", batch_size=1)
    table, summary = evaluate(half, tmp_path / "5", batch_size=5)
    pd.testing.assert_frame_equal(one, table)
    np.testing.assert_allclose(table["sse"], (IMAGES**2).sum(dim=(1, 2, 3, 4)).numpy() / 4, rtol=1e-5)
    assert "sse_ratio" not in summary


def test_refusals(tmp_path):
    (tmp_path / "model.pt").touch()
    check_evaluation(tmp_path, tmp_path / "model.pt")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "scores.json").touch()
    with pytest.raises(ValueError, match=r"scores\.json exists"):
        check_evaluation(tmp_path, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="`dataloader` must give at least one volume"):
        ReconstructionEvaluation(nn.Identity(), [], SimpleInferer(), tmp_path).run()
