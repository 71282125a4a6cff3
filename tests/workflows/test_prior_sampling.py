"""Samples are decoded codes of the prior, on the model's grid."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from monai_betavae import VAE
from monai_betavae.networks.builders import build_network
from monai_betavae.workflows import PriorSampling, check_generation

AFFINE = np.array([[3.0, 0, 0, -30], [0, 3, 0, -40], [0, 0, 3, -30], [0, 0, 0, 1]])


@pytest.fixture
def network():
    network = build_network((8, 10, 8), 3, channels=(4, 8), warm_start="mean", random_state=0)
    with torch.no_grad():
        for weights in network.decoder.parameters():
            weights.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    return network


def test_samples(network, tmp_path, capsys):
    PriorSampling(network, 5, AFFINE, tmp_path, seed=4, batch_size=2).run()
    folder = tmp_path / "samples"
    table = pd.read_csv(folder / "codes.csv")
    assert table.columns.tolist() == ["sample", "z_0", "z_1", "z_2"]
    assert sorted(path.name for path in folder.glob("*.nii.gz")) == [f"{name}.nii.gz" for name in table["sample"]]
    codes = torch.tensor(table.filter(like="z_").to_numpy(), dtype=torch.float32)
    with torch.no_grad():
        expected = network.eval().decode(codes)[:, 0].numpy()
    assert np.std(expected, axis=0).max() > 0.01  # they differ
    for name, volume in zip(table["sample"], expected, strict=True):
        image = nib.load(folder / f"{name}.nii.gz")
        assert image.affine.tolist() == AFFINE.tolist()
        assert image.get_data_dtype() == np.float32
        np.testing.assert_allclose(image.get_fdata(), volume, atol=1e-5)
    assert (folder / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    assert "5 volumes" in capsys.readouterr().out


def test_codes_are_those_of_the_estimator(network, tmp_path):
    PriorSampling(network, 3, AFFINE, tmp_path, seed=4).run()
    expected = VAE.from_network(network, random_state=4).sample(3)[:, 0].numpy()
    for index in range(3):
        image = nib.load(tmp_path / "samples" / f"sample_{index:03d}.nii.gz")
        np.testing.assert_allclose(image.get_fdata(), expected[index], atol=1e-5)


def test_a_smaller_set_leaves_nothing_of_the_larger_one(network, tmp_path):
    PriorSampling(network, 4, AFFINE, tmp_path, seed=0).run()
    PriorSampling(network, 2, AFFINE, tmp_path, seed=1).run()
    assert len(list((tmp_path / "samples").glob("*.nii.gz"))) == 2


def test_refusals(network, tmp_path):
    with pytest.raises(ValueError, match="`n_samples` must be an integer >= 1, got 0"):
        PriorSampling(network, 0, AFFINE, tmp_path)
    (tmp_path / "model.pt").touch()
    (tmp_path / "samples").mkdir()
    check_generation(tmp_path, tmp_path / "model.pt")
    (tmp_path / "samples" / "codes.csv").touch()
    with pytest.raises(ValueError, match=r"codes\.csv exists"):
        check_generation(tmp_path, tmp_path / "model.pt")
