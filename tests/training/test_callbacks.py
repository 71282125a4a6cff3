"""What a training run writes while it goes."""

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from monai_betavae import build_vae
from monai_betavae.training.callbacks import BestWeights, MetricsTable, WarmupAndDecay

IMAGES = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def train(callbacks, epochs=3, validate=True, **options):
    vae = build_vae((8, 8), 2, channels=(4, 8), random_state=0, lr=1e-2, **options)
    trainer = pl.Trainer(max_epochs=epochs, callbacks=callbacks, accelerator="cpu", devices=1, **QUIET)
    loader = DataLoader(IMAGES, batch_size=4)
    trainer.fit(vae, loader, loader if validate else None)
    return vae, trainer


class Recorder(pl.Callback):
    """Remember every training loss and every learning rate."""

    def __init__(self):
        self.losses, self.rates = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"].detach()))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_metrics_table(tmp_path):
    recorder = Recorder()
    _, trainer = train([recorder, MetricsTable(tmp_path / "metrics.csv")])
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert table["epoch"].tolist() == [0, 1, 2]
    assert table["step"].tolist() == [2, 4, 6]
    expected = torch.tensor(recorder.losses).reshape(3, 2).mean(1)
    torch.testing.assert_close(torch.tensor(table["train/loss"].to_numpy(), dtype=torch.float32), expected)
    assert table["val/loss"].iloc[-1] == pytest.approx(float(trainer.callback_metrics["val/loss"]))


def test_metrics_table_travels_in_its_state(tmp_path):
    table = MetricsTable(tmp_path / "metrics.csv")
    train([table], epochs=1)
    other = MetricsTable(tmp_path / "other.csv")
    other.load_state_dict(table.state_dict())
    assert other.rows == table.rows


def test_metrics_table_of_an_epoch_that_is_interrupted(tmp_path):
    whole, first, second = (MetricsTable(tmp_path / name) for name in ("whole.csv", "first.csv", "second.csv"))
    losses = [torch.rand(3, generator=torch.Generator().manual_seed(i)).tolist() for i in range(4)]
    outputs = [dict(zip(("loss", "rec_loss", "kl_loss"), map(torch.tensor, each), strict=True)) for each in losses]
    for table, steps in ((whole, range(4)), (first, range(2))):
        table.on_train_epoch_start(None, None)
        for step in steps:
            table.on_train_batch_end(None, None, outputs[step], None, step)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in (2, 3):
        second.on_train_batch_end(None, None, outputs[step], None, step)
    assert second._batches == whole._batches == 4
    assert all(torch.equal(value, second._sums[name]) for name, value in whole._sums.items())


def test_best_weights_are_those_of_the_lowest_validation_loss(tmp_path):
    vae = build_vae((8, 8), 2, channels=(4, 8), random_state=0)
    best = BestWeights(vae, tmp_path / "model.pt")

    class Trainer:
        is_global_zero = True
        callback_metrics = None

    def epoch_with(loss, value):
        with torch.no_grad():
            vae.fc_mu.bias.fill_(value)
        Trainer.callback_metrics = {"val/loss": torch.tensor(loss)}
        best.on_train_epoch_end(Trainer, vae)
        return float(torch.load(tmp_path / "model.pt", weights_only=True)["fc_mu.bias"][0])

    assert epoch_with(5.0, 1.0) == 1.0
    assert epoch_with(6.0, 2.0) == 1.0
    assert epoch_with(float("nan"), 3.0) == 1.0
    assert epoch_with(4.0, 4.0) == 4.0
    assert best.best == 4.0


def test_without_validation_the_last_weights_are_kept(tmp_path):
    vae = build_vae((8, 8), 2, channels=(4, 8), random_state=0)
    trainer = pl.Trainer(
        max_epochs=2, callbacks=[BestWeights(vae, tmp_path / "model.pt")], accelerator="cpu", devices=1, **QUIET
    )
    trainer.fit(vae, DataLoader(IMAGES, batch_size=4))
    stored = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(torch.equal(value, stored[name]) for name, value in vae.state_dict().items())


def test_learning_rate_course():
    recorder = Recorder()
    train([WarmupAndDecay(warmup_steps=2, decay_fraction=0.5), recorder], epochs=4)
    assert recorder.rates == pytest.approx([0.005, 0.01, 0.01, 0.01, 0.01, 0.0075, 0.005, 0.0025])


def test_bad_course():
    with pytest.raises(ValueError, match="`decay_fraction` must be a finite number > 0 and <= 1, got 0"):
        WarmupAndDecay(decay_fraction=0)
