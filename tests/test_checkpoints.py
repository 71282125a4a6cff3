"""The checkpoint stands after every epoch, whole, and a run that goes on from it ends as if it had never stopped."""

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from monai_betavae import build_vae
from monai_betavae.callbacks import BestWeights, MetricsTable, StepSeeds, WarmupAndDecay
from monai_betavae.checkpoints import LastCheckpoint
from monai_betavae.data import GlobalOrder
from monai_betavae.randomness import seeded

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\).*"),
]
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


def train(folder, *callbacks, epochs=4, resume=False):
    vae = build_vae((8, 8), 2, channels=(4, 8), random_state=0, lr=1e-2)
    loader = DataLoader(IMAGES, batch_size=3, sampler=GlobalOrder(IMAGES, shuffle=True, seed=0))
    ours = [
        StepSeeds(0),
        MetricsTable(folder / "metrics.csv"),
        BestWeights(vae, folder / "model.pt"),
        WarmupAndDecay(4, 0.5),
        LastCheckpoint(folder / "last.ckpt"),
    ]
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[*callbacks, *ours], accelerator="cpu", devices=1, **QUIET)
    with seeded(0):
        ckpt_path = folder / "last.ckpt" if resume else None
        trainer.fit(vae, loader, DataLoader(IMAGES[:4], batch_size=3), ckpt_path=ckpt_path, weights_only=True)
    return {name: value.clone() for name, value in vae.state_dict().items()}


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
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(tmp_path, steps):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = train(whole)
    for number, step in enumerate(steps):
        with pytest.raises(Killed):
            train(broken, Kill(step), resume=number > 0)
    found = train(broken, resume=True)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert (broken / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    stored = [torch.load(folder / "model.pt", weights_only=True) for folder in (whole, broken)]
    assert all(torch.equal(value, stored[1][name]) for name, value in stored[0].items())


def test_a_write_that_fails_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    train(tmp_path, epochs=1)
    before = (tmp_path / "last.ckpt").read_bytes()

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("monai_betavae.checkpoints.os.fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path, epochs=2, resume=True)
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert not list(tmp_path.glob(".writing*"))
