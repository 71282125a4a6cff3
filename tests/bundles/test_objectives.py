"""An objective and a schedule through the bundle: trained, described, used, resumed, refused."""

import json

import pandas as pd
import pytest
from bundle_runs import TINY, evaluated, latents, tiny_cohort, train


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return tiny_cohort(tmp_path_factory.mktemp("cohort") / "brains")


OBJECTIVE = {
    "loss___target_": "monai_betavae.objectives.FreeBitsLoss",
    "loss__free_nats": 0.3,
    "loss__schedule": {"kind": "linear", "length": 4, "unit": "epoch", "start": 0.5},
}


def test_a_run_with_an_objective(cohort, tmp_path):
    train(tmp_path, cohort, **OBJECTIVE)
    described = json.loads((tmp_path / "model.json").read_text())
    assert described["objective"]["name"] == "free-bits"
    assert described["objective"]["arguments"]["free_nats"] == 0.3
    assert described["objective"]["arguments"]["schedule"]["length"] == 4
    assert described["likelihood"] == {"distribution": "normal", "beta": TINY["beta"]}
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert (metrics["val/free_bits_kl"] >= 0.3 * TINY["latent_dim"] - 1e-6).all()
    assert (metrics["train/free_bits_kl"] >= metrics["train/kl_loss"]).all()
    assert (metrics["train/beta"] / TINY["beta"]).tolist() == pytest.approx([0.5, 0.625])
    assert len(latents(tmp_path)) > 0
    evaluated(tmp_path)

    resumed = {**OBJECTIVE, "max_epochs": 3}
    train(tmp_path, cohort, resume=True, **resumed)
    assert len(pd.read_csv(tmp_path / "metrics.csv")) == 3
    with pytest.raises(ValueError, match=r"loss#free_nats was 0\.3, now 0\.4"):
        train(tmp_path, cohort, resume=True, **{**resumed, "max_epochs": 4, "loss__free_nats": 0.4})
    with pytest.raises(ValueError, match="objective was free-bits, now beta-vae"):
        train(tmp_path, cohort, resume=True, max_epochs=4, loss__schedule=OBJECTIVE["loss__schedule"])


def test_a_plain_run_is_not_resumed_with_a_schedule(cohort, tmp_path):
    train(tmp_path, cohort)
    assert json.loads((tmp_path / "model.json").read_text())["objective"]["name"] == "beta-vae"
    with pytest.raises(ValueError, match="loss#schedule"):
        train(tmp_path, cohort, resume=True, max_epochs=3, loss__schedule={"kind": "linear", "length": 4})


def test_the_variance_of_refined_codes_is_that_of_the_divergence(cohort, tmp_path):
    train(tmp_path, cohort, loss___target_="monai_betavae.objectives.BetaTCVAELoss", loss__gamma=0.02, n_corrections=0)
    assert json.loads((tmp_path / "model.json").read_text())["likelihood"]["beta"] == 0.02
