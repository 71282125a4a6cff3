"""A cross-validation: pooled scores by hand, refusals, and folds of tiny trainings that go on where they stopped."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from bundle_runs import TINY, tiny_cohort
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_betavae.workflows import CrossValidation
from monai_betavae.workflows.cross_validation import pool_folds


def fold_table(subjects, sse, mean=None, pca=None):
    columns = {"subject": subjects, "image": [f"{subject}.nii" for subject in subjects], "sse": sse}
    columns |= {} if mean is None else {"sse_mean_image": mean}
    columns |= {} if pca is None else {"sse_pca": pca}
    return pd.DataFrame(columns)


def test_pooled_scores_by_hand():
    folds = [
        fold_table(["a", "b"], [1.0, 3.0], mean=[4.0, 8.0], pca=[2.0, 2.0]),
        fold_table(["c"], [2.0], mean=[4.0], pca=[4.0]),
    ]
    table, scores = pool_folds(folds)
    assert table.columns[:2].tolist() == ["subject", "fold"]
    assert table[["subject", "fold"]].to_numpy().tolist() == [["a", 0], ["b", 0], ["c", 1]]
    assert (scores["n_folds"], scores["n_volumes"], scores["n_subjects"]) == (2, 3, 3)
    assert scores["sse"]["value"] == 2.0
    assert scores["sse"]["by_fold"] == [2.0, 2.0]
    assert scores["sse_ratio"]["value"] == pytest.approx(6 / 16)
    assert scores["sse_ratio"]["by_fold"] == pytest.approx([4 / 12, 2 / 4])
    assert scores["sse_ratio_to_pca"]["value"] == pytest.approx(6 / 8)
    assert scores["sse_ratio_to_pca"]["low"] < 6 / 8 < scores["sse_ratio_to_pca"]["high"]


def test_an_ideal_a_useless_and_a_duplicated_model():
    subjects, errors = [f"s{number}" for number in range(12)], np.arange(1.0, 13.0)
    halves = (slice(0, 5), slice(5, 12))

    def scored(ours, n_scans=1):
        folds = [
            fold_table(
                np.repeat(subjects[half], n_scans), np.repeat(ours[half], n_scans), np.repeat(errors[half], n_scans)
            )
            for half in halves
        ]
        return pool_folds(folds)[1]["sse_ratio"]

    ideal = scored(0 * errors)
    assert (ideal["value"], ideal["low"], ideal["high"]) == (0, 0, 0)
    useless = scored(errors)
    assert (useless["value"], useless["low"], useless["high"]) == (1, 1, 1)
    ours = errors[::-1].copy()
    # scans of one subject that are all alike tell no more than one of them
    thrice, once = scored(ours, n_scans=3), scored(ours)
    assert [thrice[key] for key in ("value", "low", "high")] == pytest.approx(
        [once["value"], once["low"], once["high"]]
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=4, max_size=12), st.integers(1, 3), st.integers(0, 100))
def test_the_order_of_subjects_and_a_common_factor_change_no_ratio(errors, cut, seed):
    ours, subjects = np.array(errors), [f"s{number}" for number in range(len(errors))]
    mean = np.random.default_rng(seed).uniform(1, 2, len(ours))

    def ratio(factor, order):
        parts = [order[:cut], order[cut:]]
        return pool_folds(
            [fold_table([subjects[i] for i in part], factor * ours[part], factor * mean[part]) for part in parts]
        )[1]["sse_ratio"]["value"]

    order = np.random.default_rng(seed).permutation(len(ours))
    assert ratio(1, np.arange(len(ours))) == pytest.approx(ours.sum() / mean.sum())
    assert ratio(3.0, order) == pytest.approx(ratio(1, np.arange(len(ours))))


def test_a_baseline_that_a_fold_lacks_is_left_out():
    _, scores = pool_folds([fold_table(["a"], [1.0], [2.0], [1.0]), fold_table(["b"], [1.0], [2.0])])
    assert "sse_ratio_to_pca" not in scores
    assert scores["sse_ratio"]["value"] == 0.5


def test_a_subject_in_two_folds_is_refused():
    with pytest.raises(ValueError, match=r"`tables` must hold each subject in one fold, got 'b' in 0 and 1"):
        pool_folds([fold_table(["a", "b"], [1.0, 2.0]), fold_table(["b"], [1.0])])
    with pytest.raises(ValueError, match="`tables` must hold the table of at least one fold"):
        pool_folds([])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_folds": 1}, "`n_folds` must be"),
        ({"settings": "max_epochs"}, "`settings` must hold values by id"),
        ({"settings": {"fold": 1}}, "`settings` must not hold fold, which the cross-validation sets"),
        ({"settings": {"output_dir": "o", "seed": 3}}, "`settings` must not hold output_dir, seed"),
        ({"n_processes": 0}, "`n_processes` must be"),
        ({"seed": -1}, "`seed` must be"),
    ],
)
def test_bad_arguments(given, message):
    with pytest.raises(ValueError, match=message):
        CrossValidation("cv", **given)


# ---- tiny trainings --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    cohort = tiny_cohort(folder / "brains")
    tiny = {**TINY, "device": "cpu", "max_epochs": 1}
    code = "import sys; from monai_betavae.command import main; main()"
    words = ["cross-validate", str(cohort), "--out", "cv", "--n_folds", "2", "--settings", repr(tiny)]

    def run(*more):
        return subprocess.run([sys.executable, "-c", code, *words, *more], cwd=folder, capture_output=True, text=True)

    return folder / "cv", tiny, cohort, run, run()


@pytest.mark.slow
def test_every_subject_is_scored_by_a_model_that_never_saw_it(validated):
    folder, _, cohort, _, done = validated
    assert done.returncode == 0, done.stderr[-3000:]
    table = pd.read_csv(folder / "subjects.csv")
    people = [path.name for path in sorted(cohort.glob("sub-*"))]
    assert sorted(table["subject"]) == people
    for fold in range(2):
        split = json.loads((folder / f"fold{fold}" / "split.json").read_text())
        used = {record["subject"] for part in ("training", "validation") for record in split[part]}
        assert set(table.loc[table["fold"] == fold, "subject"]) == set(people) - used
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["simulated"]
    assert scores["sse_ratio"]["value"] == pytest.approx(table["sse"].sum() / table["sse_mean_image"].sum())
    assert f"relative to the mean training image's: {scores['sse_ratio']['value']:.2f} (" in done.stdout
    assert "12 volumes of 12 subjects, simulated, each scored by one of 2 models that never saw" in done.stdout
    assert (folder / "folds.png").stat().st_size > 10_000


@pytest.mark.slow
def test_what_is_there_is_used_again_and_other_settings_are_refused(validated):
    folder, _, _, run, _ = validated
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("model.pt")}
    table = (folder / "subjects.csv").read_text()
    (folder / "subjects.csv").unlink()
    (folder / "fold1" / "evaluation" / "scores.json").unlink()  # as if it was stopped in the evaluation
    assert run().returncode == 0
    assert (folder / "subjects.csv").read_text() == table
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("model.pt")} == before
    refused = run("--seed", "1")
    assert refused.returncode != 0
    assert "`output_dir` must be another one" in refused.stderr
    assert "seed was 0, now 1" in refused.stderr


@pytest.mark.slow
def test_data_that_changed_between_the_trainings_are_refused(validated, tmp_path):
    folder, tiny, cohort, _, _ = validated
    shutil.copytree(folder, tmp_path / "cv")
    path = tmp_path / "cv" / "fold1" / "split.json"
    split = json.loads(path.read_text())
    gone = split["training"].pop()["subject"]
    path.write_text(json.dumps(split))
    message = rf"fold1.split.json must have the subjects of .*fold0.split.json, got 1 .* the first is {gone}"
    with pytest.raises(ValueError, match=message):
        CrossValidation(tmp_path / "cv", cohort, 2, settings=tiny).run()


@pytest.mark.slow
def test_a_training_that_fails_is_named(tmp_path):
    cohort = tiny_cohort(tmp_path / "brains")
    with pytest.raises(RuntimeError, match=r"'latent_dims' isn't an id of this config.*Its log is .*fold0"):
        CrossValidation(tmp_path / "cv", cohort, 3, settings={"latent_dims": 3}).run()
    # nothing has been trained with it, so that it may be corrected
    corrected = CrossValidation(tmp_path / "cv", cohort, 3, settings={"latent_dim": "few"})
    with pytest.raises(RuntimeError, match="'latent_dim' must be"):
        corrected.run()
