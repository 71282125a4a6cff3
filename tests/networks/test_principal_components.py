"""Components of volumes of low rank and a little noise, in a ball that fills a part of the grid."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.utils.data import DataLoader, IterableDataset

import monai_betavae.networks.principal_components as module
from monai_betavae.networks.principal_components import (
    TrainingVolumes,
    exact_components,
    principal_components,
    varying_voxels,
)

SHAPE = (12, 14, 10)


class Volumes(list):
    """Volumes as what principal_components reads: batches of a known shape."""

    @property
    def shape(self):
        return list(self[0].shape[1:])

    def batches(self):
        yield from self


def low_rank(n_volumes=40, rank=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in SHAPE), indexing="ij")
    inside = (sum(axis**2 for axis in axes) < 0.7).float()
    modes = torch.randn(rank, 1, *SHAPE, generator=generator) * inside
    scores = torch.randn(n_volumes, rank, generator=generator) * torch.tensor([8.0, 5.0, 3.0, 2.0])[:rank]
    noise = 0.1 * torch.randn(n_volumes, 1, *SHAPE, generator=generator)
    return torch.einsum("nr,r...->n...", scores, modes) + inside + noise * (inside + 0.01)


def test_components_are_sklearns():
    volumes = low_rank()
    found = principal_components(Volumes([volumes]), 4)
    reference = PCA(4).fit(volumes.flatten(1).double().numpy()[:, found.voxels])
    np.testing.assert_allclose(found.eigenvalues, reference.explained_variance_, rtol=1e-4)
    np.testing.assert_allclose(np.abs(found.components[:, 0].numpy() @ reference.components_.T), np.eye(4), atol=1e-3)
    torch.testing.assert_close(found.mean, volumes.mean(0))


def test_exact_components_are_sklearns(monkeypatch):
    rows = low_rank().flatten(1)
    reference = PCA(4, svd_solver="full").fit(rows.double().numpy())
    whole = exact_components(rows, 4)
    monkeypatch.setattr(module, "EXACT_BLOCK", 1000)  # blocks of 25 values
    for mean, components, variances in (whole, exact_components(rows, 4)):
        np.testing.assert_allclose(mean, reference.mean_, atol=1e-12)
        np.testing.assert_allclose(components, reference.components_, atol=1e-9)  # signs too
        np.testing.assert_allclose(variances, reference.explained_variance_, rtol=1e-12)


def test_exact_components_end_where_variance_does():
    rows = low_rank(6).flatten(1)
    assert len(exact_components(rows, 9)[1]) == 5
    assert len(exact_components(torch.cat([rows, rows]), 9)[1]) == 5
    mean, components, variances = exact_components(rows[:1].expand(3, -1), 2)
    torch.testing.assert_close(mean, rows[0].double())
    assert (len(components), float(components.abs().max()), variances.tolist()) == (1, 0.0, [0.0])


def test_out_of_core_components_are_those_of_all_volumes(monkeypatch):
    volumes = low_rank(90)
    whole = principal_components(Volumes([volumes]), 4)
    monkeypatch.setattr(module, "VARIANCE_VOLUMES", 20)
    monkeypatch.setattr(module, "CHUNK_BYTES", 30 * 4 * len(whole.voxels))
    parts = principal_components(Volumes(volumes.split(7)), 4)
    np.testing.assert_allclose(parts.eigenvalues, whole.eigenvalues, rtol=0.02)
    torch.testing.assert_close(parts.mean, whole.mean)

    def spread(found):
        full = torch.zeros(4, volumes[0].numel())
        full[:, found.voxels] = found.components[:, 0]
        return full

    assert torch.linalg.svdvals(spread(parts) @ spread(whole).T).min() > 0.99


def test_voxels_that_hardly_differ_are_left_out():
    volumes = low_rank()
    variance = volumes.flatten(2).var(dim=0)[0]
    voxels = varying_voxels(volumes.flatten(2))
    assert 0.999 <= variance[voxels].sum() / variance.sum() < 0.9999
    assert len(voxels) < 0.5 * variance.numel()


def test_no_more_components_than_volumes_allow():
    found = principal_components(Volumes([low_rank(3)]), 5)
    assert (found.eigenvalues[:2] > 0).all()
    assert torch.equal(found.eigenvalues[2:], torch.zeros(3, dtype=torch.float64))
    assert not found.components[2:].any()
    with pytest.raises(ValueError, match=r"at least two volumes.*got 1"):
        principal_components(Volumes([low_rank(1)]), 2)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([{"image": torch.zeros(1, 4, 4), "covariates": torch.tensor([float(i)])} for i in range(3)])


@pytest.mark.parametrize("dataset", [list(Stream()), Stream()])
def test_volumes_with_covariates_can_be_read_twice(dataset):
    volumes = TrainingVolumes(DataLoader(dataset, batch_size=2), 3, [1, 4, 4], "image")
    for _ in range(2):
        assert [rows.flatten().tolist() for _, rows in volumes.pairs(1)] == [[0.0, 1.0], [2.0]]
    with pytest.raises(ValueError, match="covariates"):
        next(volumes.pairs(2))
    assert [rows for _, rows in volumes.pairs(0)] == [None, None]
