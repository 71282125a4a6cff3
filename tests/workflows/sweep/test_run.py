"""A sweep of tiny trainings: its table, its choice, and that it goes on after it was killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from bundle_runs import TINY, tiny_cohort

from monai_betavae.workflows import Sweep

pytestmark = pytest.mark.slow

SPACE = {"beta": [0.001, 0.01], "latent_dim": [3]}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    cohort = tiny_cohort(tmp_path_factory.mktemp("cohort") / "brains")
    # half of the subjects for validation, enough to compare the seeds' codes
    kept = {name: value for name, value in TINY.items() if name not in SPACE}
    return {**kept, "dataset_dir": str(cohort), "device": "cpu", "fractions": [0.5, 0.5, 0.0], "max_epochs": 2}


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, Sweep(folder, SPACE, settings, seeds=[0, 1], choose_by="error", n_processes=2).run()


def test_a_sweep_gives_a_row_per_setting_and_chooses(whole):
    folder, rows = whole
    table = pd.read_csv(folder / "sweep.csv")
    assert table[["beta", "latent_dim"]].to_numpy().tolist() == [[0.001, 3], [0.01, 3]]
    assert table["error"].tolist() == pytest.approx([row["error"] for row in rows])
    assert table["chosen"].sum() == 1
    assert table.loc[table["chosen"], "error"].item() == table["error"].min()
    assert (table["error_ratio"] < 1.2).all()
    assert (table["error_sd"] > 0).any()  # the seeds differ
    runs = pd.read_csv(folder / "runs.csv")
    assert len(runs) == 4
    assert set(runs["n_latents"]) == {3}
    splits = {(folder / path / "split.json").read_text() for path in runs["folder"]}
    assert len(splits) == 1  # all see the same subjects
    assert (folder / "sweep.png").stat().st_size > 10_000


def test_what_is_there_is_not_trained_again(whole, settings):
    folder, rows = whole
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("model.pt")}
    again = Sweep(folder, SPACE, settings, seeds=[0, 1], choose_by="elbo").run()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("model.pt")} == before
    assert [row["error"] for row in again] == [row["error"] for row in rows]
    with pytest.raises(ValueError, match=r"max_epochs': 2.*now.*'max_epochs': 3"):
        Sweep(folder, SPACE, {**settings, "max_epochs": 3}, seeds=[0, 1]).run()


def test_a_sweep_killed_twice_ends_with_the_same_table(whole, settings, tmp_path):
    code = (
        "import json, sys; from monai_betavae.workflows import Sweep; "
        "Sweep(sys.argv[1], *json.loads(sys.argv[2]), seeds=[0, 1], choose_by='error', n_processes=2).run()"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "killed"), json.dumps([SPACE, settings])]

    def finished():
        return len(list((tmp_path / "killed").rglob("trained"))) if (tmp_path / "killed").exists() else 0

    for wanted in (1, 2):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 240
        while finished() < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert wanted <= finished() < 4
    subprocess.run(words, check=True, capture_output=True)
    found = pd.read_csv(tmp_path / "killed" / "sweep.csv")
    # the choice of the whole sweep was made anew by another criterion meanwhile
    pd.testing.assert_frame_equal(
        found.drop(columns="chosen"), pd.read_csv(whole[0] / "sweep.csv").drop(columns="chosen")
    )


def test_a_training_that_fails_is_named_with_what_it_said(settings, tmp_path):
    with pytest.raises(RuntimeError, match=r'"architecture": "none".*seed 0.*`architecture` must be'):
        Sweep(tmp_path, {"architecture": ["none"]}, {**settings, "beta": 0.01}, seeds=[0]).run()


def test_optuna_proposes_settings_and_goes_on(settings, tmp_path):
    pytest.importorskip("optuna")
    space = {"beta": {"low": 0.001, "high": 1.0, "log": True}}
    arguments = {"seeds": [0], "sampler": "tpe", "choose_by": "error"}
    fixed = {**settings, "latent_dim": 2, "max_epochs": 1}
    first = Sweep(tmp_path, space, fixed, n_settings=2, **arguments).run()
    then = Sweep(tmp_path, space, fixed, n_settings=3, **arguments).run()
    assert [row["beta"] for row in then[:2]] == [row["beta"] for row in first]
    assert len({row["beta"] for row in then}) == 3
    assert all(0.001 <= row["beta"] <= 1 for row in then)
