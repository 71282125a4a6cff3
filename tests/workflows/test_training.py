"""The checks before a run and the scores after it."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from monai_betavae import VAE, build_vae
from monai_betavae.callbacks import BestWeights, MetricsTable
from monai_betavae.networks import build_network
from monai_betavae.workflows.trained_model import centred_affine, write_settings
from monai_betavae.workflows.training import (
    _say_resumed,
    check_parts,
    check_resumed,
    check_run,
    held_out_scores,
    start_at_mean_image,
)


def loader_of(images):
    return torch.utils.data.DataLoader([{"image": image} for image in images], batch_size=2)


def test_check_run(tmp_path):
    output, weights = tmp_path / "output", tmp_path / "models"
    check_run(output, weights)
    with pytest.raises(ValueError, match=r"`resume` needs .*last\.ckpt, which doesn't exist"):
        check_run(output, weights, resume=True)
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


def test_start_at_mean_image():
    images = torch.rand(5, 1, 8, 8, 8)
    vae = build_vae((8, 8, 8), 2, channels=(4, 8), random_state=0)
    start_at_mean_image(vae, loader_of(images))
    expected = images.mean(0).expand(3, -1, -1, -1, -1)
    torch.testing.assert_close(vae.reconstruct(torch.rand(3, 1, 8, 8, 8)).detach(), expected)


def test_a_decoder_that_cannot_is_left_alone():
    vae = build_vae((8, 8, 8), 2, channels=(4, 8), random_state=0)
    vae.decoder = torch.nn.Linear(2, 4)
    before = vae.decoder.weight.clone()
    start_at_mean_image(vae, loader_of(torch.rand(3, 1, 8, 8, 8)))
    assert torch.equal(vae.decoder.weight, before)


def test_held_out_scores_on_ideal_and_useless_reconstructions():
    rng = np.random.default_rng(0)
    mode = rng.normal(size=(1, 4, 4, 4)).astype(np.float32)  # one mode of variation: one component is enough
    train = np.stack([amount * mode for amount in rng.normal(size=12)]).astype(np.float32)
    test = np.stack([amount * mode for amount in (-1.0, 2.0)]).astype(np.float32)
    loader = loader_of(torch.from_numpy(train))
    ideal = held_out_scores(loader, test, test, 1, seed=0)
    assert ideal["sse"] == ideal["sse_ratio"] == 0
    assert ideal["sse_ratio_pca"] < 1e-6
    mean = np.broadcast_to(train.mean(0), test.shape)
    useless = held_out_scores(loader, test, mean, 1, seed=0)
    assert useless["sse_ratio"] == pytest.approx(1.0)
    assert useless["sse"] == pytest.approx(float(((test - mean) ** 2).reshape(2, -1).sum(1).mean()), rel=1e-5)


def test_a_checkpoint_that_is_none_is_refused(tmp_path):
    for content in ({"state_dict": {}}, [1, 2]):
        torch.save(content, tmp_path / "last.ckpt")
        with pytest.raises(ValueError, match=r"last\.ckpt must be the checkpoint of a training run"):
            _say_resumed(tmp_path / "last.ckpt", 3)


@pytest.mark.parametrize(
    ("max_epochs", "said"), [(3, "going on"), (-1, "going on"), (2, "it is only scored and drawn")]
)
def test_what_resuming_does(tmp_path, capsys, max_epochs, said):
    progress = {"epoch_progress": {"current": {"processed": 2}}}
    torch.save({"loops": {"fit_loop": progress}}, tmp_path / "last.ckpt")
    _say_resumed(tmp_path / "last.ckpt", max_epochs)
    printed = capsys.readouterr().out
    assert "has 2 epochs; " in printed
    assert said in printed


def test_other_processes_do_not_ask_again(tmp_path, monkeypatch):
    (tmp_path / "model.pt").touch()
    monkeypatch.setattr("monai_betavae.workflows.training.process_rank", lambda: 1)
    check_run(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="`resume` needs"):
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
