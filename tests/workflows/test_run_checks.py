"""What a training run is refused for before any volume is read."""

import contextlib
import functools
import json
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from described_models import write_model
from lightning.pytorch.callbacks import EarlyStopping
from monai.bundle import ConfigParser

from monai_betavae import VAE, BetaVAELoss, bundle_root
from monai_betavae.data import brain_transforms
from monai_betavae.data.transforms.brain import first_release_description
from monai_betavae.networks.builders import build_network
from monai_betavae.saving.atomic_files import lock_folders
from monai_betavae.training.callbacks import BestWeights, MetricsTable
from monai_betavae.workflows.model_description import describe_likelihood, describe_network
from monai_betavae.workflows.run_checks import (
    _check_fused,
    check_parts,
    check_resumed,
    check_resumed_settings,
    check_run,
    check_validated,
    running_settings,
)


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
    with lock_folders(tmp_path / "models"), pytest.raises(ValueError, match="models is in use by another run"):
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


def test_a_fused_optimizer_with_clipped_gradients_is_refused_at_mixed_precision():
    network = build_network((8, 8, 8), 2, channels=(4, 8))

    def check(precision, fused, clip):
        optimizer = functools.partial(torch.optim.AdamW, lr=0.001, fused=fused)
        # Lightning takes bf16-mixed for 16-mixed on a CPU
        trainer = SimpleNamespace(gradient_clip_val=clip, precision=precision)
        _check_fused(trainer, VAE.from_network(network, optimizer=optimizer))

    for right in (
        ("16-mixed", True, None),
        ("16-mixed", False, 1.0),
        ("bf16-mixed", True, None),
        ("bf16-mixed", False, 1.0),
        ("32-true", True, 1.0),
    ):
        check(*right)
    for precision in ("16-mixed", "bf16-mixed"):
        message = rf"can't clip the gradients of a fused optimizer at --precision {precision}: .*--optimizer#fused"
        with pytest.raises(ValueError, match=message):
            check(precision, True, 1.0)


def test_early_stopping_needs_validation(tmp_path):
    network = build_network((8, 8, 8), 2, channels=(4, 8))
    stopping = EarlyStopping(monitor="val/loss")
    check_validated(trainer_with(stopping), [1])
    check_validated(trainer_with(MetricsTable(tmp_path / "metrics.csv"), BestWeights(network, tmp_path / "m.pt")), None)
    with pytest.raises(ValueError, match=r"`early_stopping` needs validation subjects, got none: .* --fractions"):
        check_validated(trainer_with(stopping), None)


# ---- the same model --------------------------------------------------------------------------------------------------


def described(network=None, spacing=2.0, loss=None, **transforms):
    network = build_network((8, 8, 8), 2, channels=(4, 8)) if network is None else network
    return {
        "network": describe_network(network),
        "preprocessing": brain_transforms((8, 8, 8), spacing, **transforms).description,
        "likelihood": describe_likelihood(BetaVAELoss(beta=1.0) if loss is None else loss),
    }


@pytest.fixture
def stored(tmp_path):
    return write_model(tmp_path, build_network((8, 8, 8), 2, channels=(4, 8)), (8, 8, 8), 2.0)


def test_only_the_same_model_is_resumed(stored, tmp_path):
    check_resumed(described(), tmp_path / "nothing")  # nothing says what it was
    # the weights are in the checkpoint, with their sizes
    check_resumed(described(build_network((8, 8, 8), 2, channels=[4, 8], random_state=3, n_voxels=5)), stored)
    with pytest.raises(
        ValueError,
        match=r"settings of .*model\.json: latent_dim was 2, now 3; "
        r"train#preprocessing#transforms#2#spacing was \[2\.0, 2\.0, 2\.0\], now \[1\.0, 1\.0, 1\.0\]\.",
    ):
        check_resumed(described(build_network((8, 8, 8), 3, channels=(4, 8)), spacing=1.0), stored)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"loss": BetaVAELoss(beta=4.0)}, r": beta was 1\.0, now 4\.0\."),
        ({"loss": BetaVAELoss(beta=1.0, default_dist="laplace")}, r": distribution was normal, now laplace\."),
        ({"percentiles": (1, 99)}, r": train#preprocessing#transforms#4#percentiles was \[0\.5, 99\.5\], now \[1"),
        ({"network": torch.nn.Linear(2, 2)}, r"network_def was build_network, now torch\.nn\.modules\.linear\.Linear"),
        ({"spacing": None}, r"train#preprocessing#transforms#2 was ResampleAntiAliasedd, now CropToGridd"),
        ({"center": "foreground"}, r"#2#center was image, now foreground; train#preprocessing#transforms#3#center was"),
        ({"padding": "edge"}, r": train#preprocessing#transforms#5#padding was background, now edge\."),
    ],
    ids=str,
)
def test_each_part_of_another_model_is_named(stored, now, said):
    with pytest.raises(ValueError, match=rf"`resume` needs the settings of .*model\.json.*{said}"):
        check_resumed(described(**now), stored)


def test_a_loss_of_ones_own_is_compared_by_its_class(tmp_path):
    network = build_network((8, 8, 8), 2, channels=(4, 8))
    stored = write_model(tmp_path, network, (8, 8, 8), 2.0, likelihood={"own": "mine.Loss"})
    now = {**described(), "likelihood": {"own": "mine.Loss"}}
    check_resumed(now, stored)
    with pytest.raises(ValueError, match=r"loss was mine\.Loss, now mine\.Other"):
        check_resumed({**now, "likelihood": {"own": "mine.Other"}}, stored)


def test_a_run_of_the_first_release_is_compared_in_what_its_description_knows(tmp_path):
    network = build_network((8, 8, 8), 2, channels=(4, 8))
    preprocessing = {"spatial_shape": [8, 8, 8], "spacing": 2.0}
    old = {"network": network.description, "preprocessing": preprocessing, "grid_affine": torch.eye(4).tolist()}
    (tmp_path / "model.json").write_text(json.dumps(old))
    earlier = {"preprocessing": first_release_description((8, 8, 8), 2.0)}
    check_resumed({**described(loss=BetaVAELoss(beta=9.0, default_dist="laplace")), **earlier}, tmp_path)
    with pytest.raises(ValueError, match=r"latent_dim was 2, now 3\."):
        check_resumed({**described(build_network((8, 8, 8), 3, channels=(4, 8))), **earlier}, tmp_path)
    # today's transforms scale and pad otherwise
    with pytest.raises(ValueError, match=r"#3 was ResizeWithPadOrCropd, now CropToGridd;.*#4#background was None, now"):
        check_resumed(described(), tmp_path)


# ---- what the run was told -------------------------------------------------------------------------------------------


def checkpoint_with(path, settings):
    torch.save({"callbacks": {"LastCheckpoint": {"settings": settings}}}, path)
    return path


@contextlib.contextmanager
def running(**overrides):
    """Pretend to be called by the training config with overrides, as MONAI's parser does."""
    parser = ConfigParser(json.loads((bundle_root() / "train.json").read_text()))
    parser.update({name.replace("__", "#"): value for name, value in overrides.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monai_betavae.workflows.run_checks.running_config", lambda: parser.config)
        yield


def test_outside_a_config_nothing_is_compared(tmp_path):
    assert running_settings() is None
    path = checkpoint_with(tmp_path / "last.ckpt", json.dumps({"beta": 4.0}))
    assert check_resumed_settings(path) == []


def test_settings_of_the_running_config():
    with running():
        assert running_settings() == {}
    with running(beta=4.0, train__trainer__gradient_clip_val=1.0, max_epochs=3, output_dir="/elsewhere"):
        assert running_settings() == {"beta": 4.0, "train#trainer#gradient_clip_val": 1.0}


def test_a_run_that_was_told_otherwise_is_not_resumed(tmp_path):
    path = checkpoint_with(tmp_path / "last.ckpt", json.dumps({"learning_rate": 0.01, "batch_size": 2}))
    with running(learning_rate=0.01, batch_size=2, max_epochs=99):
        assert check_resumed_settings(path) == []
    with (
        running(learning_rate=0.01),
        pytest.raises(ValueError, match=r"last\.ckpt: batch_size was 2, now 4\."),
    ):
        check_resumed_settings(path)
    with running(learning_rate=0.02, batch_size=2):
        assert check_resumed_settings(path, ["learning_rate"]) == ["learning_rate was 0.01, now 0.02"]
    with (
        running(learning_rate=0.01, batch_size=2, weight_decay=0.5),
        pytest.raises(ValueError, match=r"weight_decay was 0\.01"),
    ):
        check_resumed_settings(path)


def test_a_checkpoint_without_settings_is_resumed(tmp_path):
    with running(beta=3.0):
        assert check_resumed_settings(checkpoint_with(tmp_path / "last.ckpt", None)) == []


@pytest.mark.parametrize("settings", ["[]", "1", '"text"', "null", "[" * 100_000, "{", 3])
def test_settings_of_another_form_are_refused_by_name(tmp_path, settings):
    path = checkpoint_with(tmp_path / "last.ckpt", settings)
    with running(), pytest.raises(ValueError, match=r"last\.ckpt"):
        check_resumed_settings(path)
