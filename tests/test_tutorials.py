"""The tutorials run as they stand, and their results are what their texts say of them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from gallery_hook import gallery, needs_jupyter

nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[1]
START = 'Path(sys.argv[1]) if len(sys.argv) == 2 and __name__ == "__main__" else Path(tempfile.mkdtemp())'

pytestmark = [pytest.mark.slow, needs_jupyter]


def executed(name, parent):
    """Execute a tutorial in its small size as a notebook, which the site shows if it is built of the same code.

    Returns:
        what it prints, and the folder that it writes into.
    """
    notebook = gallery.kept_at(name, "small")
    folder = gallery.execute(name, "small", notebook, parent)
    cells = nbformat.read(notebook, 4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(output["text"] for output in outputs if output["output_type"] == "stream"), folder


def test_a_tutorial_runs_as_a_script(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tutorials" / "first_latents.py"), str(tmp_path / "kept")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "TUTORIAL_SIZE": "small"},
    )
    assert done.returncode == 0, done.stderr
    assert "R² of a ridge probe" in done.stdout
    assert (tmp_path / "kept" / "vae.pt").is_file()
    # all of them take a folder in the same way
    others = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tutorials").glob("*.py")}
    assert [name for name, text in others.items() if f"folder = {START}" not in text] == []


def test_first_latents(tmp_path):
    printed, folder = executed("first_latents", tmp_path)
    assert "R² of a ridge probe" in printed
    scores = {
        row.split()[0]: [float(cell) for cell in row.split()[1:3]]
        for row in printed.splitlines()
        if re.match(r"(intracranial_ml|control)\s", row)
    }
    assert scores["intracranial_ml"][0] > 0.8
    assert scores["control"][0] < 0.2
    assert (folder / "reconstructions.png").stat().st_size > 10_000
    assert (folder / "vae.pt").is_file()


def test_choose_beta(tmp_path):
    printed, folder = executed("choose_beta", tmp_path)

    table = pd.read_csv(folder / "sweep" / "sweep.csv").sort_values("beta")
    best = table.loc[table["elbo"].idxmax()]
    assert table.loc[table["chosen"], "beta"].tolist() == [best["beta"]]
    assert f"Chosen: beta {best['beta']:g}," in printed
    assert (np.diff(table["kl"]) < 0).all()
    assert (np.diff(table["error"]) > 0).all()

    shrinkage = pd.read_csv(folder / "shrinkage.csv").set_index("beta")
    assert shrinkage.loc[16.0, "variance left"] < 0.5 * shrinkage.loc[best["beta"], "variance left"]
    assert shrinkage.loc[16.0, "SD of the posterior"] > shrinkage.loc[best["beta"], "SD of the posterior"]

    probes = pd.read_csv(folder / "probes.csv").set_index("factor")
    assert np.isfinite(probes.to_numpy()).all()
    assert probes.loc["factor_brain_size", "VAE"] > 0.7
    assert probes.loc["control", "VAE"] < 0.3
    scores = pd.read_csv(folder / "disentanglement.csv", index_col=0)
    assert ((scores >= 0) & (scores <= 1)).all(axis=None)
    for words in ("R² of ridge probes on 21 held-out subjects", "warm-up to beta 16", "MIG"):
        assert words in printed
    for picture in ("sweep/sweep.png", "reconstructions.png"):
        assert (folder / picture).stat().st_size > 10_000


def test_deploying(tmp_path):
    printed, folder = executed("deploying", tmp_path)
    table = pd.read_csv(folder / "exports.csv", index_col=0)
    assert table.index.tolist() == ["the model itself", "TorchScript", "torch.export", "ONNX"]
    assert (table[["difference of the image", "of the latents"]] < 1e-4).all(axis=None)
    assert "Same latents: True" in printed
    # the bundle, run by somebody else, gives the latents of the model
    consumed = pd.read_csv(folder / "consumed" / "latents.csv")
    assert len(consumed) == 40
    embedded = pd.read_csv(folder / "latents.csv", index_col="subject")
    columns = list(embedded.columns)
    matched = consumed.set_index("subject").loc[embedded.index, columns]
    np.testing.assert_allclose(matched, embedded, atol=1e-4)
    (restored,) = (folder / "restored").iterdir()
    original = nib.load(folder / "cohort" / embedded.index[0] / "anat" / f"{embedded.index[0]}_T1w.nii.gz")
    assert nib.load(restored).shape == original.shape
    np.testing.assert_allclose(nib.load(restored).affine, original.affine)


def test_coming_from_nidl(tmp_path):
    printed, folder = executed("coming_from_nidl", tmp_path)

    losses = {row.split()[0]: row.split()[1:] for row in printed.splitlines() if re.match(r"(rec_|kl_)?loss ", row)}
    assert set(losses) == {"rec_loss", "kl_loss", "loss"}
    for ours, by_hand in losses.values():
        assert float(ours) == pytest.approx(float(by_hand), rel=1e-5, abs=2e-5)
    rec, kl, loss = (float(losses[name][0]) for name in ("rec_loss", "kl_loss", "loss"))
    assert loss == pytest.approx(rec + 0.1 * kl, rel=1e-5)

    assert re.findall(r"^Equal .*: (\w+)$", printed, re.MULTILINE) == ["True"] * 6
    assert "Content of the file: ['format', 'description', 'state_dict']" in printed
    assert (folder / "vae.pt").is_file()

    latents = pd.read_csv(folder / "latents.csv")
    assert latents.shape == (4, 18)
    ages = pd.read_csv(folder / "cohort" / "participants.tsv", sep="\t").set_index("participant_id")["age"]
    assert latents["age"].tolist() == ages[latents["subject"]].tolist()

    errors = pd.read_csv(folder / "errors.csv").set_index("model")
    assert (errors["low"] <= errors["/ mean image"]).all()
    assert (errors["/ mean image"] <= errors["high"]).all()
    assert errors.loc["PCA", ["/ PCA", "PCA low", "PCA high"]].tolist() == [1, 1, 1]
    # a warm start is at least near PCA after one epoch; two epochs from random weights are far from it
    assert errors.loc["build_vae, warm start", "/ PCA"] < 1.1
    assert errors.loc["ported network", "/ PCA"] > 2
    assert (folder / "reconstructions.png").stat().st_size > 10_000


def test_own_pipeline(tmp_path):
    printed, folder = executed("own_pipeline", tmp_path)

    assert "16 training, 2 validation and 6 held-out volumes (simulated)" in printed
    assert "Same affine: True | same shape: True" in printed
    written = sorted((folder / "reconstructions").glob("*_rec.nii.gz"))
    assert len(written) == 6
    for path in written:
        subject = path.name.split("_")[1]
        source, restored = (
            nib.load(each) for each in (folder / "cohort" / subject / "anat" / f"{subject}_T1w.nii.gz", path)
        )
        assert np.array_equal(restored.affine, source.affine)
        assert restored.shape == source.shape
        # in the file's intensities, and of that subject: far nearer than 0, which an unscaled volume nearly is
        values, found = source.get_fdata(), restored.get_fdata()
        assert np.square(found - values).sum() < 0.2 * np.square(values).sum()

    metrics = pd.read_csv(folder / "logs" / "metrics.csv")
    validated = metrics["val/loss"].dropna()
    assert len(validated) == 3
    assert metrics["train/loss"].count() == 3 * 4
    assert f"lowest validation loss {validated.min():.1f}" in printed
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == validated.to_numpy().argmin()
    assert "decoder.8.image" in best["state_dict"]

    ratios = pd.read_csv(folder / "errors.csv").set_index("ratio")
    assert ratios.loc["PCA / mean image", "value"] < 1
    assert ratios.loc["VAE / PCA", "value"] == pytest.approx(
        ratios.loc["VAE / mean image", "value"] / ratios.loc["PCA / mean image", "value"]
    )
    assert ((ratios["low"] <= ratios["value"]) & (ratios["value"] <= ratios["high"])).all()
    probes = pd.read_csv(folder / "probes.csv").set_index("quantity")
    assert float(probes.loc["control", "VAE"].split()[0]) < 0.5
    for picture in ("losses.png", "reconstructions.png"):
        assert (folder / picture).stat().st_size > 10_000


def test_own_bids_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("TUTORIAL_DATA", raising=False)
    printed, folder = executed("own_bids_folder", tmp_path)

    damaged = re.search(r"^Damaged: (sub-\d+)_T1w.nii.gz$", printed, re.MULTILINE)[1]
    for opening in ("  problem: ", "Error: "):
        assert re.search(rf"^{opening}\S+/{damaged}_T1w.nii.gz is truncated", printed, re.MULTILINE), opening
    assert "Exit status: 1\n" in printed
    assert "28 checked, 1 can't be used" in printed
    left_out = pd.read_csv(folder / "run" / "left_out.tsv", sep="\t")
    assert left_out["subject"].tolist() == [damaged]
    split = json.loads((folder / "run" / "split.json").read_text(encoding="utf-8"))
    subjects = {part: {record["subject"] for record in split[part]} for part in ("training", "validation", "test")}
    assert damaged not in set.union(*subjects.values())
    assert sum(map(len, subjects.values())) == 27

    scores = pd.read_csv(folder / "scores.csv", index_col="score")
    assert (scores["low"] <= scores["value"]).all()
    assert (scores["value"] <= scores["high"]).all()
    error = scores.loc["error of the model", "value"]
    for baseline, ratio in (("error of the mean image", "model / mean image"), ("error of PCA", "model / PCA")):
        (row,) = (name for name in scores.index if name.startswith(baseline))
        assert scores.loc[ratio, "value"] == pytest.approx(error / scores.loc[row, "value"])
    assert scores.loc["model / mean image", "high"] < 1
    assert f"Too few held-out subjects ({len(subjects['test'])}): the table proves nothing" in printed
    assert "reconstructs better than PCA" not in printed

    joined = pd.read_csv(folder / "latents_and_participants.csv")
    assert set(joined["subject"]) == subjects["test"]
    assert (joined["subject"] == joined["participant_id"]).all()
    people = pd.read_csv(folder / "cohort" / "participants.tsv", sep="\t").set_index("participant_id")
    assert joined["age"].tolist() == people.loc[joined["subject"], "age"].tolist()
    latents = pd.read_csv(folder / "run" / "latents.csv")
    assert joined[latents.columns.tolist()].equals(latents)
    for picture in ("checked/volumes_01.png", "run/reconstructions.png", "run/evaluation/report.html"):
        assert (folder / picture).stat().st_size > 10_000


def test_cluster_run(tmp_path):
    printed, folder = executed("cluster_run", tmp_path)

    assert printed.count("Stopped by SIGUSR1") == 1
    assert re.findall(r"^Exit status: (\d+)$", printed, re.MULTILINE) == ["138", "0", "1"]
    finished = [int(number) for number in re.findall(r"^Finished epochs: (\d+) of", printed, re.MULTILINE)]
    assert 5 <= finished[0] < 15
    assert finished[1] == 20
    assert f"{finished[0]} epochs" in re.search(r"^Resuming: .*$", printed, re.MULTILINE)[0]

    digests = pd.read_csv(folder / "digests.csv", index_col="file")
    assert digests.index.tolist() == ["model.pt", "metrics.csv", "scores.json"]
    assert digests["equal"].all()
    assert digests["uninterrupted"].nunique() == 3
    # otherwise the weights would be those from before the interruption, and equal anyway
    assert int(re.search(r"^model.pt has the weights of epoch (\d+)$", printed, re.MULTILINE)[1]) > finished[0]
    # the longer run goes on from there: what it had done before stays
    metrics = [(folder / run / "metrics.csv").read_text() for run in ("whole", "run")]
    assert metrics[1].startswith(metrics[0])

    refusal = re.search(r"^Error: .*$", printed, re.MULTILINE)[0]
    assert "batch_size was 4, now 2" in refusal
    assert "--resume_changes \"['batch_size']\"" in refusal
    assert "The checkpoint is unchanged: True" in printed
    assert "Resuming with other settings: batch_size was 4, now 2" in printed

    # what the job script does with the status of the training, with stand-ins for SLURM's commands
    for name, body in (("srun", 'printf "%s\\n" "$@"; exit $STATUS'), ("scontrol", 'echo "scontrol $*"')):
        (folder / "bin" / name).parent.mkdir(exist_ok=True)
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / "bin" / name).chmod(0o755)
    for status, queued in (("138", True), ("0", False), ("1", False)):
        environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "STATUS": status, "SLURM_JOB_ID": "7"}
        job = subprocess.run(["bash", folder / "job.sh"], capture_output=True, text=True, env=environment)
        words = job.stdout.splitlines()
        assert words[:3] == ["monai-betavae", "train", str(folder / "cohort")]
        assert words[words.index("--resume") + 1] == "True"
        assert words[words.index("--out") + 1] == str(folder / "run")
        assert ("scontrol requeue 7" in words) == queued


def test_anomaly_maps(tmp_path):
    printed, folder = executed("anomaly_maps", tmp_path)
    assert "12 subjects with a lesion (simulated)" in printed

    shares = pd.read_csv(folder / "false_positives.csv").set_index("map")
    assert shares.index.tolist() == ["VAE", "PCA", "mean image", "intensity"]
    assert ((shares["low"] <= shares["value"]) & (shares["value"] <= shares["high"])).all()
    assert shares.loc["VAE", "value"] < 1  # in percent; the threshold is for 0.1

    scores = pd.read_csv(folder / "scores.csv").set_index(["score", "map"])["value"]
    assert scores["AUPRC", "VAE"] > 3 * scores["AUPRC", "intensity"]
    assert scores["RMSE outside", "VAE"] < scores["RMSE outside", "mean image"]
    assert scores["repaired", "VAE"] < 1
    assert ("repaired", "intensity") not in scores.index

    echo = pd.read_csv(folder / "echo.csv").set_index("model")["value"]
    assert ((echo > 0) & (echo < 0.5)).all()
    halves = pd.read_csv(folder / "halves.csv").set_index(["lesions by", "group"])
    assert halves.loc["contrast", "n"].sum() == halves.loc["volume", "n"].sum() == 12
    assert halves.loc[("contrast", "upper half"), "value"] > halves.loc[("contrast", "lower half"), "value"]
    assert (folder / "maps.png").stat().st_size > 10_000
    assert (folder / "vae.pt").is_file()


def test_adjusted_norms(tmp_path):
    printed, folder = executed("adjusted_norms", tmp_path)
    assert "42 training, 42 reference and 42 held-out subjects" in printed
    assert "Columns: age, age, bend, sex=F, sex=M, site=site-A, site=site-B, site=site-C" in printed

    probes = pd.read_csv(folder / "probes.csv").set_index(["codes", "covariate"])
    site = probes.xs("site", level="covariate")
    assert site["chance"].tolist() == [pytest.approx(1 / 3)] * 3
    assert site.loc["plain", "value"] > 0.8
    assert site["value"].is_monotonic_decreasing  # plain, conditional, fitted to all
    assert site.loc["conditional, fitted to all", "low"] < 1 / 3
    assert probes.loc[("conditional, fitted to all", "age"), "value"] < 0.2

    shares = pd.read_csv(folder / "calibration.csv")
    assert shares["norm"].unique().tolist() == [
        f"{score}, {kind}" for kind in ("unadjusted", "adjusted") for score in ("codes", "residuals")
    ]
    of_one = shares[shares["norm"] == "codes, adjusted"]
    assert of_one["by"].tolist() == ["all"] + 3 * ["age"] + 3 * ["site"]
    assert of_one.groupby("by")["n"].sum().tolist() == [42, 42, 42]
    assert ((shares["low"] <= shares["value"]) & (shares["value"] <= shares["high"])).all()
    everybody = shares[shares["by"] == "all"]
    assert (everybody["value"] <= everybody["highest"]).all()

    growth = pd.read_csv(folder / "growth.csv", index_col=0)
    assert growth.index.tolist() == ["decoded", "regression on age"]
    assert growth.loc["decoded", "low"] > 0
    assert (folder / "other_covariates.png").stat().st_size > 10_000
    assert (folder / "conditional.pt").is_file()
