"""What a training run is refused for before any volume is read."""

import lightning.pytorch as pl
import pytest
import torch

from monai_betavae import VAE
from monai_betavae.callbacks import BestWeights, MetricsTable
from monai_betavae.files import locked
from monai_betavae.networks import build_network
from monai_betavae.workflows.run_checks import check_parts, check_resumed, check_run
from monai_betavae.workflows.trained_model import centred_affine, write_settings


def test_check_run(tmp_path, capsys):
    output, weights = tmp_path / "output", tmp_path / "models"
    check_run(output, weights)
    check_run(output, weights, resume=True)
    assert "Nothing to resume" in capsys.readouterr().out
    output.mkdir()
    (output / "metrics.csv").write_text("epoch\n0\n")  # killed within the first epoch's writes
    check_run(output, weights, resume=True)
    (output / "metrics.csv").write_text("epoch\n0\n1\n")
    with pytest.raises(ValueError, match=r"`resume` needs .*last\.ckpt, which is gone"):
        check_run(output, weights, resume=True)
    (output / "metrics.csv").unlink()
    weights.mkdir()
    (weights / "last.ckpt").write_text("weights")
    with pytest.raises(ValueError, match=r"last\.ckpt exists: a run is there already"):
        check_run(output, weights)
    with pytest.raises(ValueError, match="Only one of `resume` and `overwrite`"):
        check_run(output, weights, resume=True, overwrite=True)
    check_run(output, weights, resume=True)
    assert (weights / "last.ckpt").exists()
    check_run(output, weights, overwrite=True)
    assert (weights / "last.ckpt").read_text() == "weights"  # replaced later, by a complete one


def test_a_folder_in_use_or_out_of_reach_is_refused_before_any_work(tmp_path):
    with locked(tmp_path / "models"), pytest.raises(ValueError, match="models is in use by another run"):
        check_run(tmp_path / "output", tmp_path / "models")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/output can't be made: .*file: Not a directory"):
        check_run(tmp_path / "file" / "output", tmp_path / "models")
    assert not (tmp_path / "output").exists()


def test_a_checkpoint_that_lightning_would_begin_from_is_refused(tmp_path):
    (tmp_path / "hpc_ckpt_3.ckpt").touch()
    with pytest.raises(ValueError, match=r"hpc_ckpt_3\.ckpt must be moved away"):
        check_run(tmp_path, tmp_path / "models")


def test_other_processes_do_not_ask_again(tmp_path, monkeypatch):
    (tmp_path / "model.pt").touch()
    monkeypatch.setattr("monai_betavae.workflows.run_checks.process_rank", lambda: 1)
    check_run(tmp_path, tmp_path)
    (tmp_path / "metrics.csv").write_text("epoch\n0\n1\n")
    check_run(tmp_path, tmp_path, resume=True)


def trainer_with(*callbacks):
    return pl.Trainer(
        accelerator="cpu", callbacks=list(callbacks), logger=False, enable_checkpointing=False, max_epochs=1
    )


def test_parts_that_cannot_make_a_run(tmp_path):
    network = build_network((8, 8, 8), 2, channels=(4, 8))
    vae = VAE.from_network(network)
    table, weights = MetricsTable(tmp_path / "metrics.csv"), BestWeights(network, tmp_path / "model.pt")
    check_parts(trainer_with(table, weights), vae, network, abs)
    for callbacks, missing in (((table,), "BestWeights"), ((weights,), "MetricsTable")):
        with pytest.raises(ValueError, match=f"'train#callbacks' must keep {missing}"):
            check_parts(trainer_with(*callbacks), vae, network, abs)
    trainer = trainer_with(table, weights)
    for name, parts in (
        ("'train#trainer' must be a lightning", ({}, vae, network, abs)),
        ("'estimator' must be a monai_betavae.VAE, got Linear", (trainer, torch.nn.Linear(1, 1), network, abs)),
        ("'network_def' must be a torch.nn.Module, got dict", (trainer, vae, {}, abs)),
        ("'train#preprocessing' must be a transform, got dict", (trainer, vae, network, {})),
    ):
        with pytest.raises(ValueError, match=name):
            check_parts(*parts)


def test_only_the_same_model_is_resumed(tmp_path):
    preprocessing = {"spatial_shape": (8, 8, 8), "spacing": 2.0}
    network = build_network((8, 8, 8), 2, channels=(4, 8))
    check_resumed(network, preprocessing, tmp_path)  # nothing says what it was
    write_settings(network, preprocessing, centred_affine((8, 8, 8), 2.0), tmp_path / "model.json")
    check_resumed(build_network((8, 8, 8), 2, channels=[4, 8], random_state=3), preprocessing, tmp_path)
    with pytest.raises(
        ValueError, match=r"settings of .*model\.json: latent_dim was 2, now 3; spacing was 2\.0, now 1\.0"
    ):
        check_resumed(build_network((8, 8, 8), 3, channels=(4, 8)), {**preprocessing, "spacing": 1.0}, tmp_path)
