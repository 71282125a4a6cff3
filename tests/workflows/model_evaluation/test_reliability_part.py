"""Repeated scans in the report: of numbers, and of files in the sessions of a BIDS folder."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.inferers import SimpleInferer
from subjects_of_numbers import subjects

from monai_betavae.data import brain_transforms, discover
from monai_betavae.evaluation import estimate_intraclass_correlation, intraclass_correlation
from monai_betavae.networks.builders import build_network
from monai_betavae.networks.latent_model import encode_images
from monai_betavae.networks.warm_start import warm_start
from monai_betavae.workflows import ModelEvaluation
from monai_betavae.workflows.model_evaluation.part import PCA_NAME, VAE_NAME
from monai_betavae.workflows.model_evaluation.reliability_part import reliability_part
from monai_betavae.workflows.records import write_split

SHAPE = (12, 12, 12)


def repeated(n_subjects=12, noise=0.5, seed=2):
    """Evaluated subjects, two scans of each: codes of unit variance, and noise."""
    held_out = subjects(2 * n_subjects, seed)
    rng = np.random.default_rng(seed)
    held_out.mu[:] = np.repeat(rng.normal(size=(n_subjects, 3)), 2, axis=0) + noise * rng.normal(size=held_out.mu.shape)
    for row, record in enumerate(held_out.records):
        record["subject"] = f"sub-{row // 2}"
    return held_out


def trained():
    training = subjects(40, 1, prefix="train")
    for record, code in zip(training.records, training.mu, strict=True):
        record.update(age=float(60 + 10 * code[0]), site=int(code[1] > 0), note="one")
    return training


def of(held_out, training, covariates=None, **others):
    codes = {VAE_NAME: (training.mu, held_out.mu), **others}
    return reliability_part(held_out, training, codes, covariates, seed=0)


def test_codes_and_predictions_of_known_reliability():
    held_out, training = repeated(100), trained()
    part = of(held_out, training)
    scores = part.scores
    assert (scores["n_subjects"], scores["n_scans"], scores["threshold"]) == (100, 200, 0.75)
    assert scores["model"]["icc"]["low"] < 0.8 < scores["model"]["icc"]["high"]
    people = np.repeat(np.arange(100), 2)
    np.testing.assert_allclose(scores["model"]["icc_per_dimension"], intraclass_correlation(held_out.mu, people))
    # age is 10 times the first latent, up to the ridge's shrinkage
    assert set(scores["probes"]) == {"age"}
    age = scores["probes"]["age"]["model"]
    expected = estimate_intraclass_correlation(held_out.mu[:, 0], people)
    assert age["icc"]["value"] == pytest.approx(expected.value, abs=0.01)
    assert age["within_subject_deviation"] == pytest.approx(5, abs=0.6)
    assert part.warnings == []
    table = part.files["reliability.csv"]
    assert table["latent"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(table["icc"], scores["model"]["icc_per_dimension"])
    json.dumps(scores, allow_nan=False)


def test_ideal_and_useless_codes_stand_beside_each_other_and_the_better_is_named():
    held_out, training = repeated(noise=0.0), trained()
    useless = np.random.default_rng(9).normal(size=held_out.mu.shape)
    ideal = held_out.mu.copy()
    held_out.mu[:] = useless
    part = of(held_out, training, **{PCA_NAME: (training.mu, ideal)})
    assert part.scores["pca"]["icc"]["value"] == pytest.approx(1)
    assert part.scores["pca"]["identification"]["value"] == 1
    assert part.scores["pca"]["share_above_threshold"]["value"] == 1
    assert abs(part.scores["model"]["icc"]["value"]) < 0.5
    assert part.scores["model"]["identification"]["value"] < 0.4
    assert part.scores["identification_chance"] == pytest.approx(1 / 23)
    assert part.warnings == ["PCA's codes are more reliable (95 % interval of the difference between the median ICC)."]
    assert part.files["reliability.csv"]["method"].tolist() == ["model"] * 3 + ["pca"] * 3


def test_inactive_latents_are_listed_and_do_not_count():
    held_out, training = repeated(40), trained()
    held_out.mu[:, 1] = 0.01 * np.random.default_rng(0).normal(size=80)
    part = of(held_out, training)
    assert part.files["reliability.csv"]["varies"].tolist() == [True, False, True]
    assert part.scores["model"]["n_dimensions"] == 2
    assert part.scores["model"]["icc"]["value"] > 0.7
    held_out.mu[:] = 0.0
    part = of(held_out, training)
    assert part.scores["model"] == {"n_dimensions": 0, "icc_per_dimension": [None] * 3}
    assert "reliability.png" not in part.pictures
    (table, *_) = [arguments for kind, arguments in part._content if kind == "table"]
    assert [row[1] for row in table[1]][:3] == ["0 of 3", None, None]


def test_without_repeated_scans_there_is_no_part():
    held_out = subjects(30, 2)
    assert of(held_out, trained()) is None
    for record in held_out.records:
        record["subject"] = None  # of nobody knows whom: not all of one person
    assert of(held_out, trained()) is None
    assert of(repeated(4), trained()) is None
    assert of(repeated(5), trained()) is not None


def test_probes_need_training_subjects_and_are_those_asked_for():
    held_out, training = repeated(), trained()
    assert set(of(held_out, training, covariates=["site"]).scores["probes"]) == set()
    assert set(of(held_out, training, covariates="age").scores["probes"]) == {"age"}
    for record in training.records[19:]:
        record["age"] = None
    part = of(held_out, training)
    assert part.scores["probes"] == {}
    texts = " ".join(arguments[0] for kind, arguments in part._content if kind == "text")
    assert "No quantity is known of 20 training subjects" in texts


SESSIONS = {f"sub-{i:02d}": [f"ses-{j}" for j in range(1, n + 1)] for i, n in enumerate([2, 3, 2, 1, 2, 2, 2])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BIDS folder: balls whose sides and brightness are the subject's own, with a little noise in each scan."""
    root = tmp_path_factory.mktemp("bids")
    rng = np.random.default_rng(0)
    sessions = SESSIONS | {f"sub-{i}": ["ses-1"] for i in range(50, 74)}
    places = np.stack(np.meshgrid(*[np.arange(12) - 5.5] * 3, indexing="ij"))
    rows = []
    for subject, visits in sessions.items():
        sides = rng.uniform(3, 5.5, (3, 1, 1, 1))
        rows.append(f"{subject}\t{20 + 10 * float(sides[0, 0, 0, 0]):.2f}")
        for visit in visits:
            ball = ((places / (sides + 0.05 * rng.normal(size=sides.shape))) ** 2).sum(axis=0)
            image = np.clip(1.5 - ball, 0, 1) * 100
            path = root / subject / visit / "anat" / f"{subject}_{visit}_T1w.nii.gz"
            path.parent.mkdir(parents=True)
            nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), np.diag([2.0, 2, 2, 1])), path)
    (root / "participants.tsv").write_text("\n".join(["participant_id\tage", *rows]) + "\n")
    return root


def test_sessions_of_a_subject_in_files_are_its_repeated_scans(folder, tmp_path):
    records = discover(folder)
    split = {"training": [], "validation": [], "test": []}
    for record in records:
        split["test" if record["subject"] in SESSIONS else "training"].append(record)
    assert (len(split["training"]), len(split["test"])) == (24, 14)
    write_split(split, tmp_path / "split.json")
    transform = brain_transforms(SHAPE, 2.0)
    network = build_network(SHAPE, 3, channels=(4, 8), warm_start="linear", architecture="plain", random_state=0)
    warm_start(network, DataLoader(Dataset(split["training"], transform), batch_size=8))
    ModelEvaluation(
        network,
        split["test"],
        DataLoader(Dataset(split["test"], transform), batch_size=5),
        SimpleInferer(),
        transform,
        {"distribution": "normal", "beta": 1.0},
        tmp_path,
        tmp_path,
        parts=["reliability"],
    ).run()
    output = tmp_path / "evaluation"
    scores = json.loads((output / "scores.json").read_text())["reliability"]
    assert (scores["n_subjects"], scores["n_scans"]) == (6, 13)
    with torch.no_grad():
        images = torch.stack([transform(record)["image"] for record in split["test"]])
        codes = encode_images(network, images).mean.numpy()
    # whose a scan is, by the folder it lies in
    people = np.array([Path(record["image"]).parts[-4] for record in split["test"]])
    assert dict(zip(*np.unique(people, return_counts=True), strict=True)) == {k: len(v) for k, v in SESSIONS.items()}
    table = pd.read_csv(output / "reliability.csv")
    expected = intraclass_correlation(codes, people)
    np.testing.assert_allclose(table.loc[table["method"] == "model", "icc"], expected, atol=1e-4)
    assert (table.loc[table["method"] == "pca", "icc"] > 0.9).all()
    assert scores["model"]["icc"]["value"] > 0.9
    assert scores["model"]["identification"]["value"] > 3 * scores["identification_chance"]
    assert scores["probes"]["age"]["pca"]["icc"]["value"] > 0.9
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "6 of the evaluated subjects have two or more scans, 13 in all" in page
    assert (output / "reliability.png").stat().st_size > 1000
