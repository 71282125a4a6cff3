"""A run that is killed at any moment, again and again, ends with the files of one that was never interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from monai_betavae import bundle_root
from monai_betavae.data import simulate_cohort
from monai_betavae.training.checkpoints import position_of

pytestmark = pytest.mark.slow
RUNS = Path(__file__).parents[1] / "support" / "killed_runs.py"
SAME = (
    "output/metrics.csv",
    "models/model.pt",
    "output/split.json",
    "models/model.json",
    "output/scores.json",
    "models/MODEL_CARD.md",
)
N_STARTING, N_IN_WRITES, N_BETWEEN, N_ASKED, N_FULL = 2, 10, 10, 6, 2


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


def logs(folder):
    """Return what all runs printed; a killed one may end within a character."""
    return "".join(path.read_text(errors="replace") for path in sorted(folder.glob("run*.log")))


def embed(folder):
    """Write latents.csv of the held-out subjects, in a process of its own."""
    command = [sys.executable, "-m", "monai.bundle", "run", "inference"]
    command += ["--config_file", bundle_root() / "inference.json", "--ckpt_dir", folder / "models"]
    command += ["--output_dir", folder / "output", "--training_output_dir", folder / "output"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def whole(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills") / "whole"
    found = runs(folder, cohort, [])
    assert found["outcomes"] == ["done"], logs(folder)[-3000:]
    return folder


def assert_same(folder, whole):
    for name in SAME:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    left = [path.name for path in folder.rglob("*") if path.name.startswith(".writing")]
    assert left == []


def test_two_processes_end_at_one_step_whichever_was_asked(cohort, tmp_path):
    settings = {"spatial_shape": [16, 20, 16], "spacing": 12.0, "channels": [4, 8], "latent_dim": 3, "batch_size": 2}
    settings |= {"max_epochs": 200, "num_workers": 0, "logger": "none", "resume": True, "dataset_dir": cohort}
    settings |= {"train#trainer#accelerator": "cpu", "train#trainer#devices": 2}
    words = [f"--{name}={value}" for name, value in settings.items()]
    start = [sys.executable, "-m", "monai.bundle", "run", "training", f"--config_file={bundle_root() / 'train.json'}"]
    words += [f"--output_dir={tmp_path}", f"--ckpt_dir={tmp_path}"]
    run = subprocess.Popen([*start, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for _ in range(3000):
        if run.poll() is not None or (tmp_path / "last.ckpt").is_file():
            break
        time.sleep(0.1)
    # the second process is Lightning's child; a scheduler may ask either
    (child,) = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(child), signal.SIGTERM)
    text = run.communicate(timeout=120)[0]
    assert run.returncode == 128 + signal.SIGTERM, text[-3000:]
    assert text.count("Stopped by SIGTERM") == 1
    found = position_of(tmp_path / "last.ckpt")
    assert found.epochs > 0
    # 10 subjects on two processes by 2: three steps an epoch
    assert found.batches in (0, 1, 2)
    done = subprocess.run(
        [*start, *words, f"--max_epochs={found.epochs + 1}"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    table = (tmp_path / "metrics.csv").read_text().splitlines()
    assert table[-1].startswith(f"{found.epochs},{3 * (found.epochs + 1)},")


def test_a_model_of_two_channels(tmp_path):
    channels = ["T1w", "T2w"]
    cohort = simulate_cohort(tmp_path / "cohort", 14, spacing=12, seed=5, suffixes=channels, progress=False)
    more = {"suffix": channels, "max_epochs": 6}
    assert runs(tmp_path / "whole", cohort, [], **more)["outcomes"] == ["done"]
    kills = [{"call": "replace", "number": 3}, {"call": "replace", "number": 9}]
    kills.append({"call": "replace", "number": 5, "by": "SIGTERM", "later": 0.005})
    found = runs(tmp_path / "broken", cohort, kills, **more)
    assert found["outcomes"] == ["killed", "killed", "stopped", "done"], logs(tmp_path / "broken")[-3000:]
    assert_same(tmp_path / "broken", tmp_path / "whole")
    assert json.loads((tmp_path / "broken" / "models" / "model.json").read_text())["contrasts"] == channels


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
    # a scheduler asks before it kills: the run ends in the middle of an epoch, and writes where it is
    asked = {"call": "replace", "by": "SIGTERM"}
    kills += [
        {**asked, "number": int(rng.integers(6, 13)), "later": float(rng.uniform(0.001, 0.05))} for _ in range(N_ASKED)
    ]
    # a disk that has room for every file but the checkpoint
    kills += [{"room": (whole / "models" / "last.ckpt").stat().st_size * 3 // 4} for _ in range(N_FULL)]
    rng.shuffle(kills)
    found = runs(tmp_path / "broken", cohort, kills)
    assert "failed" not in found["outcomes"], logs(tmp_path / "broken")[-3000:]
    expected = ["full" if "room" in kill else "stopped" if kill.get("by") else "killed" for kill in kills]
    assert found["outcomes"] == [*expected, "done"]
    assert_same(tmp_path / "broken", reference)
    log = logs(tmp_path / "broken")
    assert " batches of the next; going on" in log
    assert log.count("models/last.ckpt can't be written: File too large.") == N_FULL
    embed(whole)
    embed(tmp_path / "broken")
    assert (tmp_path / "broken" / "output" / "latents.csv").read_bytes() == (
        whole / "output" / "latents.csv"
    ).read_bytes()


def test_a_conditional_run_ends_as_if_it_had_not_been_killed(cohort, tmp_path):
    options = {"covariates": ["age", "sex", "site"], "max_epochs": 30}
    assert runs(tmp_path / "whole", cohort, [], **options)["outcomes"] == ["done"], logs(tmp_path / "whole")[-3000:]
    kills = [
        {"call": "fsync", "number": 3},
        {"call": "replace", "number": 7},
        {"call": "replace", "number": 5, "later": 0.03},
        {"call": "replace", "number": 9, "later": 0.02, "by": "SIGTERM"},
    ]
    found = runs(tmp_path / "broken", cohort, kills, **options)
    assert found["outcomes"] == ["killed", "killed", "killed", "stopped", "done"], logs(tmp_path / "broken")[-3000:]
    assert_same(tmp_path / "broken", tmp_path / "whole")
    described = json.loads((tmp_path / "broken" / "models" / "model.json").read_text())
    assert [entry["name"] for entry in described["covariates"]["covariates"]] == options["covariates"]
    embed(tmp_path / "whole")
    embed(tmp_path / "broken")
    written = [(tmp_path / name / "output" / "latents.csv").read_bytes() for name in ("whole", "broken")]
    assert written[0] == written[1]
