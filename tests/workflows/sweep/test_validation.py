"""Scores of a run on its validation subjects: of a conditional model, with each subject's covariates."""

import numpy as np
import pytest
import torch
from bundle_runs import tiny_cohort
from described_models import write_model
from monai.data import DataLoader, Dataset

from monai_betavae import VAE
from monai_betavae.data import CovariateCoding, brain_transforms, discover
from monai_betavae.evaluation import elbo
from monai_betavae.networks import build_network
from monai_betavae.networks.warm_start import warm_start
from monai_betavae.workflows.records import write_split
from monai_betavae.workflows.sweep.validation import baselines, validation_scores

SHAPE, SPACING = (8, 10, 8), 24.0


def test_a_conditional_model_is_scored_with_each_subjects_covariates(tmp_path):
    records = sorted(discover(tiny_cohort(tmp_path / "cohort")), key=lambda record: record["age"])
    split = {"training": [*records[:2], *records[6:]], "validation": records[2:6], "test": []}
    coding = CovariateCoding.fit(split["training"], ["age", "sex"])
    network = build_network(
        SHAPE, 2, channels=(4, 8), warm_start="linear", n_covariates=coding.n_columns, random_state=0
    ).eval()
    transform = brain_transforms(SHAPE, SPACING)
    # brains of 24 mm vary less than beta 1 stands for
    warm_start(VAE.from_network(network, beta=0.01), DataLoader(Dataset(split["training"], transform), batch_size=4))
    with torch.no_grad():
        network.decoder.condition.weight.copy_(
            torch.randn(2, coding.n_columns, generator=torch.Generator().manual_seed(0))
        )
    folder = write_model(tmp_path / "run", network, SHAPE, SPACING, covariates=coding.description())
    write_split(split, folder / "split.json")
    found = validation_scores(folder)
    images = torch.stack([transform(record)["image"] for record in split["validation"]])
    rows = torch.from_numpy(coding.rows(split["validation"]))
    with torch.no_grad():
        q = network.encode(images, rows)
        restored = network.decode(q.mean, rows)
        average = network.decode(q.mean)
    assert not torch.allclose(restored, average)
    np.testing.assert_allclose(found["codes"], q.mean, atol=1e-5)
    assert found["error"] == pytest.approx(((images - restored) ** 2).flatten(1).sum(1).mean().item(), rel=1e-4)
    estimator = VAE.from_network(network, beta=1.0)
    bound = elbo(estimator, [{"image": images, "covariates": rows}], progress=False).elbo.mean()
    assert found["elbo"] == pytest.approx(bound, rel=1e-5)
    assert set(baselines(folder, [1])["pca"]) == {1}
