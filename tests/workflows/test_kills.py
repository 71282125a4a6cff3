"""A run that is killed at any moment, again and again, ends with the files of one that was never interrupted."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from monai_betavae import bundle_root
from monai_betavae.data import simulate_cohort

pytestmark = pytest.mark.slow
RUNS = Path(__file__).parent.parent / "killed_runs.py"
SAME = ("output/metrics.csv", "models/model.pt", "output/split.json", "models/model.json", "output/scores.json")
N_STARTING, N_IN_WRITES, N_BETWEEN = 2, 10, 10


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return simulate_cohort(tmp_path_factory.mktemp("kills") / "cohort", 14, spacing=12, seed=5, progress=False)


def runs(folder, cohort, kills, **more):
    """Train to the end in a folder, killed on the way; return what each run came to and how long it took."""
    overrides = {
        "config_file": str(bundle_root() / "train.json"),
        "dataset_dir": str(cohort),
        "output_dir": str(folder / "output"),
        "ckpt_dir": str(folder / "models"),
        "cache_dir": str(folder / "cache"),
        "spatial_shape": [16, 20, 16],
        "spacing": 12.0,
        "channels": [4, 8],
        "latent_dim": 3,
        "batch_size": 3,
        "max_epochs": 100,
        "dropout": 0.2,
        "num_workers": 0,
        "logger": "none",
        "augment": True,
        "resume": True,
        **more,
    }
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps({"overrides": overrides, "kills": kills}))
    done = subprocess.run([sys.executable, str(RUNS), str(folder / "plan.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def whole(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills") / "whole"
    found = runs(folder, cohort, [])
    assert found["outcomes"] == ["done"], (folder / "plan.log").read_text()
    return folder


def assert_same(folder, whole):
    for name in SAME:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    left = [path.name for path in folder.rglob("*") if path.name.startswith(".writing")]
    assert left == []


def test_at_random_moments(cohort, whole, tmp_path):
    reference = whole
    rng = np.random.default_rng(0)
    names = ("fsync", "replace")
    # while it starts; in the middle of a write, when the file is there under its temporary name; and at any moment
    # after a write. Counted in writes, of which an epoch has three or four, no run comes to its end however fast it is
    kills = [{"seconds": float(rng.uniform(0, 1))} for _ in range(N_STARTING)]
    kills += [{"call": names[i % 2], "number": int(rng.integers(1, 9))} for i in range(N_IN_WRITES)]
    kills += [
        {"call": names[i % 2], "number": int(rng.integers(1, 9)), "later": float(rng.uniform(0.001, 0.1))}
        for i in range(N_BETWEEN)
    ]
    rng.shuffle(kills)
    found = runs(tmp_path / "broken", cohort, kills)
    assert "failed" not in found["outcomes"], (tmp_path / "broken" / "plan.log").read_text()[-3000:]
    assert found["outcomes"] == ["killed"] * len(kills) + ["done"]
    assert_same(tmp_path / "broken", reference)
