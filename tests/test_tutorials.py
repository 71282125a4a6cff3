"""The tutorials run as they stand, and their results are what their texts say of them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

TUTORIALS = Path(__file__).parents[1] / "tutorials"

pytestmark = pytest.mark.slow


def output_of(name, folder, **environment):
    """What a tutorial prints that runs as a script of its own."""
    done = subprocess.run(
        [sys.executable, str(TUTORIALS / name), str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_first_latents(tmp_path):
    printed = output_of("first_latents.py", tmp_path)
    assert "R² of a ridge probe" in printed
    scores = {
        row.split()[0]: [float(cell) for cell in row.split()[1:3]]
        for row in printed.splitlines()
        if re.match(r"(intracranial_ml|control)\s", row)
    }
    assert scores["intracranial_ml"][0] > 0.8
    assert scores["control"][0] < 0.2
    assert (tmp_path / "reconstructions.png").stat().st_size > 10_000
    assert (tmp_path / "vae.pt").is_file()


def test_choose_beta(tmp_path):
    printed = output_of("choose_beta.py", tmp_path, TUTORIAL_SIZE="small")

    table = pd.read_csv(tmp_path / "sweep" / "sweep.csv").sort_values("beta")
    best = table.loc[table["elbo"].idxmax()]
    assert table.loc[table["chosen"], "beta"].tolist() == [best["beta"]]
    assert f"Chosen: beta {best['beta']:g}," in printed
    assert (np.diff(table["kl"]) < 0).all()
    assert (np.diff(table["error"]) > 0).all()

    shrinkage = pd.read_csv(tmp_path / "shrinkage.csv").set_index("beta")
    assert shrinkage.loc[16.0, "variance left"] < 0.5 * shrinkage.loc[best["beta"], "variance left"]
    assert shrinkage.loc[16.0, "SD of the posterior"] > shrinkage.loc[best["beta"], "SD of the posterior"]

    probes = pd.read_csv(tmp_path / "probes.csv").set_index("factor")
    assert np.isfinite(probes.to_numpy()).all()
    assert probes.loc["factor_brain_size", "VAE"] > 0.7
    assert probes.loc["control", "VAE"] < 0.3
    scores = pd.read_csv(tmp_path / "disentanglement.csv", index_col=0)
    assert ((scores >= 0) & (scores <= 1)).all(axis=None)
    for words in ("R² of ridge probes on 21 held-out subjects", "warm-up to beta 16", "MIG"):
        assert words in printed
    for picture in ("sweep/sweep.png", "reconstructions.png"):
        assert (tmp_path / picture).stat().st_size > 10_000
