"""The checkpoint stands after every epoch, whole, and a run that goes on from it ends as if it had never stopped."""

import contextlib
import logging
import os
import resource
import signal

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from monai_betavae import build_vae
from monai_betavae._randomness import seeded
from monai_betavae.data import GlobalOrder
from monai_betavae.saving.atomic_files import UnwritableFileError
from monai_betavae.training.callbacks import BestWeights, MetricsTable, WarmupAndDecay
from monai_betavae.training.checkpoints import LastCheckpoint, Position, begin_at, position_of, settings_of
from monai_betavae.training.preemption import Preempted
from monai_betavae.training.step_seeds import StepSeeds

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
IMAGES = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
FILES = ("last.ckpt", "metrics.csv", "model.pt")


class Killed(BaseException):
    """Not an Exception: nothing tidies up after it but what always does."""


class Kill(pl.Callback):
    """End the run at a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise Killed


class Ask(pl.Callback):
    """Ask the run to end, at a step or in a validation, as a scheduler does."""

    def __init__(self, step, name="SIGTERM", validation=False):
        self.step, self.number, self.validation = step, getattr(signal, name), validation

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step and not self.validation:
            os.kill(os.getpid(), self.number)

    def on_validation_start(self, trainer, pl_module):
        if trainer.global_step == self.step and self.validation:
            os.kill(os.getpid(), self.number)


def train(folder, *callbacks, epochs=4, resume=False, sampler=None, batch_size=3, **options):
    vae = build_vae((8, 8), 2, channels=(4, 8), random_state=0, lr=1e-2, dropout=0.1)
    loader = DataLoader(IMAGES, batch_size, sampler=sampler or GlobalOrder(IMAGES, shuffle=True, seed=0))
    ours = [
        StepSeeds(0),
        MetricsTable(folder / "metrics.csv"),
        BestWeights(vae, folder / "model.pt"),
        WarmupAndDecay(4, 0.5),
        LastCheckpoint(folder / "last.ckpt"),
    ]
    options = {"max_epochs": epochs, "accelerator": "cpu", "devices": 1, **QUIET, **options}
    trainer = pl.Trainer(callbacks=[*callbacks, *ours], **options)
    with seeded(0):
        ckpt_path = folder / "last.ckpt" if resume else None
        if resume:
            begin_at(loader, position_of(ckpt_path))
        trainer.fit(vae, loader, DataLoader(IMAGES[:4], batch_size=3), ckpt_path=ckpt_path, weights_only=True)
    return {name: value.clone() for name, value in vae.state_dict().items()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder)


def test_it_stands_after_every_epoch(tmp_path):
    found = []

    class Look(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if (tmp_path / "last.ckpt").exists():
                found.append(torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"])

    train(tmp_path, Look())
    assert found == [0, 1, 2]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "timing.csv"])


@pytest.mark.parametrize("steps", [(5,), (8,), (15,), (4, 9, 14), (5, 6, 7, 11, 12, 13)])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(tmp_path, uninterrupted, steps):
    (whole, expected), broken = uninterrupted, tmp_path / "broken"
    for number, step in enumerate(steps):
        with pytest.raises(Killed):
            train(broken, Kill(step), resume=number > 0)
    found = train(broken, resume=True)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert (broken / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    stored = [torch.load(folder / "model.pt", weights_only=True) for folder in (whole, broken)]
    assert all(torch.equal(value, stored[1][name]) for name, value in stored[0].items())


@contextlib.contextmanager
def room_for(n_bytes):
    """Let the system refuse to write files beyond a size, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_leaves_the_checkpoint_before(tmp_path):
    train(tmp_path, epochs=1)
    before = (tmp_path / "last.ckpt").read_bytes()
    with (
        room_for(len(before) - 1000),
        pytest.raises(UnwritableFileError, match=r"last\.ckpt can't be written: File too large\."),
    ):
        train(tmp_path, epochs=2, resume=True)
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert not list(tmp_path.glob(".writing*"))


def test_a_folder_that_vanishes_is_told_of_and_not_made_again(tmp_path):
    class Remove(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 5:
                for path in run.iterdir():
                    path.unlink()
                run.rmdir()

    run = tmp_path / "run"
    with pytest.raises(UnwritableFileError, match=r"metrics\.csv can't be written: No such file or directory\."):
        train(run, Remove())
    assert not run.exists()


# ---- asked to end ---------------------------------------------------------------------------------------------------

RESUMED_INSIDE = pytest.mark.filterwarnings("ignore:.*resuming from a checkpoint that ended before the epoch ended.*")


@RESUMED_INSIDE
# four steps an epoch: in the first, in the middle, in the last but one and last step of an epoch, in a validation
@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("SIGUSR1", [6]),
        ("SIGTERM", [0]),
        ("SIGTERM", [7]),
        ("SIGTERM", [(8, True)]),
        ("SIGTERM", [1, 2, 9, 10]),
        ("SIGTERM", [3, 4, (8, True), 14]),
    ],
)
def test_a_run_that_was_asked_to_end_goes_on_as_if_it_had_not_been(tmp_path, uninterrupted, name, stops, capsys):
    (whole, expected), broken = uninterrupted, tmp_path / "broken"
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    for number, stop in enumerate(stops):
        step, validation = stop if isinstance(stop, tuple) else (stop, False)
        with pytest.raises(Preempted) as ended:
            train(broken, Ask(step, name, validation), resume=number > 0)
        assert ended.value.code == 128 + getattr(signal, name)
        # after the step that it was at, not after the epoch
        found = position_of(broken / "last.ckpt")
        done = step if validation else step + 1
        assert found == Position(done // 4, done % 4, 3 if done % 4 else found.global_batch)
        text = capsys.readouterr().out
        inside = f"in epoch {done // 4 + 1} after {done % 4} of 4 batches" if done % 4 else f"after epoch {done // 4}"
        assert f"Stopped by {name} {inside}: {broken / 'last.ckpt'} is written; --resume True goes on." in text
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before
    found = train(broken, resume=True)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert (broken / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert (broken / "model.pt").read_bytes() == (whole / "model.pt").read_bytes()


@RESUMED_INSIDE
def test_under_slurm_lightning_writes_no_checkpoint_of_its_own(tmp_path, monkeypatch):
    for variable, value in {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(variable, value)
    for variable in ("SLURM_LOCALID", "SLURM_PROCID", "SLURM_NODEID"):
        monkeypatch.setenv(variable, "0")
    called = []
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.signal_connector.call", called.append)
    run = tmp_path / "run"
    with pytest.raises(Preempted):
        train(run, Ask(5, "SIGUSR1"), default_root_dir=run)
    assert called == []
    assert sorted(path.name for path in run.iterdir()) == sorted([*FILES, "timing.csv"])
    assert position_of(run / "last.ckpt") == Position(1, 2, 3)


def test_in_the_middle_of_summed_gradients_it_goes_on_to_their_step(tmp_path):
    # two batches a step: the third batch begins a sum
    with pytest.raises(Preempted):
        train(tmp_path, Ask(0), accumulate_grad_batches=2)
    assert position_of(tmp_path / "last.ckpt") == Position(0, 2, 3)


def test_a_loader_that_cannot_begin_in_the_middle_keeps_the_last_epoch(tmp_path, capsys):
    plain = torch.utils.data.SequentialSampler(IMAGES)
    with pytest.raises(Preempted):
        train(tmp_path, Ask(5), sampler=plain)
    assert "after 2 of 4 batches; this epoch is begun anew" in capsys.readouterr().out
    assert position_of(tmp_path / "last.ckpt") == Position(1, 0, None)
    with pytest.raises(Preempted):
        train(tmp_path / "new", Ask(1), sampler=plain)
    assert "no epoch was finished" in capsys.readouterr().out


def test_another_batch_size_cannot_go_on_inside_an_epoch(tmp_path):
    with pytest.raises(Preempted):
        train(tmp_path, Ask(5))
    with pytest.raises(ValueError, match="must be 3 until the epoch that was interrupted is over, got 5"):
        train(tmp_path, resume=True, batch_size=5)
    loader = DataLoader(IMAGES, batch_size=3)
    with pytest.raises(ValueError, match="`train_dataloader` needs a sampler that can begin there"):
        begin_at(loader, Position(1, 2, 3))
    begin_at(loader, Position(1, 0, 3))


LOOPS = {"fit_loop": {"epoch_progress": {"current": {"processed": 1}}}}


@pytest.mark.parametrize(
    "content",
    [
        {},
        [1, 2],
        {"state_dict": {}},
        {"loops": None},
        {"loops": {"fit_loop": 3}, "state_dict": {}},
        {"loops": LOOPS},
        {"loops": LOOPS, "state_dict": {}, "callbacks": {"LastCheckpoint": {"global_batch": [3]}}},
        {"loops": LOOPS, "state_dict": {}, "callbacks": {"LastCheckpoint": {"batches": float("inf")}}},
    ],
)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt must be the checkpoint of a training run"):
        position_of(tmp_path / "last.ckpt")


def test_the_settings_of_a_run_travel_in_its_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    saver = LastCheckpoint(path)
    for settings in (None, '{"learning_rate": 0.001}'):
        saver.settings = settings
        vae = build_vae((8, 8), 2, channels=(4, 8), random_state=0)
        trainer = pl.Trainer(max_epochs=1, callbacks=[saver], accelerator="cpu", devices=1, **QUIET)
        trainer.fit(vae, DataLoader(IMAGES, 5), DataLoader(IMAGES, 5))
        assert settings_of(path) == settings
        assert position_of(path) == Position(1, 0, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"callbacks": {"LastCheckpoint": {"settings": 3}}}, "the settings of the run must be text, got int"),
        ({"state_dict": {}}, "must be the checkpoint of a training run"),
        ([1], "must be the checkpoint of a training run"),
        ({"callbacks": [1]}, "must be the checkpoint of a training run"),
    ],
)
def test_settings_that_are_none(content, message, tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=f"other.ckpt.*{message}"):
        settings_of(path)


@pytest.mark.parametrize("content", [{"callbacks": {}}, {"callbacks": {"LastCheckpoint": {"batches": 0}}}])
def test_a_checkpoint_of_before_has_no_settings(content, tmp_path):
    torch.save(content, tmp_path / "old.ckpt")
    assert settings_of(tmp_path / "old.ckpt") is None


def test_lightning_logs_no_line_about_the_checkpoint(tmp_path, caplog):
    with caplog.at_level(logging.DEBUG):
        train(tmp_path, epochs=2)
    assert caplog.records  # Lightning does log
    assert not [record for record in caplog.records if "weights_only" in record.getMessage()]
