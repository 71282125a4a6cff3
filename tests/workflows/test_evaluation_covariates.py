"""Probes and disentanglement of codes whose content is known."""

import numpy as np
import pytest
from subjects_of_numbers import subjects

from monai_betavae.evaluation.probes import probe_held_out
from monai_betavae.workflows.evaluation_covariates import (
    DISENTANGLED,
    disentanglement_part,
    is_surpassed,
    probes_part,
)
from monai_betavae.workflows.evaluation_part import PCA_NAME, REFINED_NAME, VAE_NAME


def two_groups(columns, n_train=60, n_test=30):
    """Training and held-out subjects whose covariates are functions of their codes."""
    groups = []
    for n, seed, prefix in ((n_train, 1, "train"), (n_test, 2, "new")):
        group = subjects(n, seed, prefix=prefix)
        noise = np.random.default_rng(seed + 10).normal(size=n)
        for i, record in enumerate(group.records):
            record.update({name: make(group.mu[i], noise[i]) for name, make in columns.items()})
        groups.append(group)
    return groups


COLUMNS = {
    "age": lambda z, _e: float(60 + 10 * z[0]),
    "sex": lambda z, _e: "M" if z[1] > 0 else "F",
    "control": lambda _z, e: float(e),
}


def probed(columns=COLUMNS, codes=None, covariates=None, **sizes):
    training, held_out = two_groups(columns, **sizes)
    ours = {VAE_NAME: (training.mu, held_out.mu)}
    more = codes(training, held_out) if codes else {}
    return probes_part(held_out, training, {**ours, **more}, covariates, "control", seed=0, n_permutations=99)


def test_what_is_in_the_codes_is_found_and_what_is_not_is_not():
    part = probed()
    assert part.scores["age"]["score"] == "r2"
    assert part.scores["age"]["model"]["value"] > 0.99
    assert part.scores["sex"]["score"] == "balanced_accuracy"
    assert part.scores["sex"]["model"]["value"] > 0.85
    assert part.scores["sex"]["chance"] == 0.5
    assert abs(part.scores["control"]["model"]["value"]) < 0.25
    assert part.scores["control"]["model"]["p_value"] > 0.05
    assert part.warnings == []
    table = part.files["predictions.csv"]
    assert table["subject"].tolist() == [f"new-{i}" for i in range(30)]
    _, held_out = two_groups(COLUMNS)
    np.testing.assert_allclose(table["age_predicted"], 60 + 10 * held_out.mu[:, 0], atol=0.5)


def test_a_control_that_is_predicted_is_a_leak():
    part = probed({**COLUMNS, "control": COLUMNS["age"]})
    assert len(part.warnings) == 1
    assert "The control control, which has no effect, is predicted (1.00): look for a leak" in part.warnings[0]


def test_methods_stand_beside_each_other_and_the_better_one_is_named():
    def worse(training, held_out):  # this model's codes are noise, PCA's are the right ones
        return {VAE_NAME: (training.mu[::-1], held_out.mu[::-1]), PCA_NAME: (training.mu, held_out.mu)}

    part = probed(codes=worse)
    assert part.scores["age"]["pca"]["value"] > 0.99
    assert part.scores["age"]["model"]["value"] < 0.3
    assert part.warnings == ["PCA's codes say more about age, sex (95 % interval of the difference)."]

    part = probed(codes=lambda training, held_out: {REFINED_NAME: (training.mu, held_out.mu)})
    assert part.scores["age"]["refined"] == part.scores["age"]["model"]


def test_few_training_subjects_are_left_aside():
    part = probed(n_train=10, n_test=40)
    texts = " ".join(arguments[0] for kind, arguments in part._content if kind == "text")
    assert "Cross-validated within the evaluated subjects" in texts
    assert part.scores["age"]["model"]["value"] > 0.95
    assert part.scores["age"]["n"] == 40


def test_covariates_are_chosen_and_missing_ones_named():
    part = probed(covariates=["age", "height"])
    assert set(part.scores) == {"age"}
    assert part.warnings == ["Covariates that no record has, or that don't vary: height."]


def test_factors_of_their_own_codes_are_disentangled_and_mixed_ones_less():
    training, held_out = two_groups({name: (lambda z, _e, k=k: float(z[k])) for k, name in enumerate(DISENTANGLED[:3])})
    rotation = np.eye(3, dtype=np.float32) - np.float32(2 / 3)
    codes = {
        VAE_NAME: [training.mu, held_out.mu],
        PCA_NAME: [training.mu @ rotation, held_out.mu @ rotation],
    }
    part = disentanglement_part([training, held_out], codes, seed=0)
    assert part.scores["factors"] == list(DISENTANGLED[:3])
    for name in ("MIG", "SAP", "DCI disentanglement", "DCI completeness"):
        assert part.scores["model"][name] > 0.5 > part.scores["pca"][name]
    assert part.scores["model"]["DCI informativeness"] > 0.8


@pytest.mark.parametrize("names", [[], DISENTANGLED[:1]])
def test_without_two_known_factors_there_is_no_disentanglement(names):
    training, held_out = two_groups({name: (lambda z, _e: float(z[0])) for name in names})
    assert disentanglement_part([training, held_out], {VAE_NAME: [training.mu, held_out.mu]}, seed=0) is None


def test_a_difference_within_the_interval_is_no_warning():
    rng = np.random.default_rng(0)
    target = rng.normal(size=40)
    scores = [
        probe_held_out(target[:, None], target, target[:, None] + noise, target, n_permutations=0)
        for noise in (0.5 * rng.normal(size=(40, 1)), 0.5 * rng.normal(size=(40, 1)), 0.0)
    ]
    worse, better = sorted(scores[:2], key=lambda score: score.value)
    assert better.value > worse.value
    assert not is_surpassed(worse, better, seed=0)
    assert is_surpassed(worse, scores[2], seed=0)
    assert not is_surpassed(scores[2], worse, seed=0)
