"""Progress of a training: one bar, or a line per epoch; the first process alone shows it."""

import re
from types import SimpleNamespace

import pytest
import torch
import tqdm
from torch.utils.data import DataLoader

from monai_betavae import build_vae
from monai_betavae.training import MetricsTable, TrainingProgress


def fitted(progress, epochs=3, validation=True, more=(), **options):
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "random_state": 0, **options}
    vae = build_vae(
        (4, 4, 4),
        1,
        channels=(2, 2),
        warm_start="none",
        max_epochs=epochs,
        callbacks=[progress, *more],
        enable_model_summary=False,
        **options,
    )
    loader = DataLoader(torch.rand(6, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0)), batch_size=2)
    return vae.fit(loader, loader if validation else None)


def test_a_line_per_epoch_where_there_is_no_terminal(capsys):
    fitted(TrainingProgress())
    found = capsys.readouterr()
    lines = [line for line in found.out.splitlines() if line.startswith("Epoch")]
    number = r"[-+.e\d]+"
    assert len(lines) == 3
    for epoch, line in enumerate(lines, start=1):
        left = r", about \d+ (s|min) left" if epoch < 3 else ""
        assert re.fullmatch(rf"Epoch {epoch}/3: train/loss {number}, val/loss {number} \(\d+ s{left}\)", line), line
    assert "it/s" not in found.err  # no bar of Lightning's


def test_a_library_that_imports_ipykernel_makes_no_notebook(capsys):
    pytest.importorskip("ipykernel")
    fitted(TrainingProgress(), epochs=1)
    assert "Epoch 1/1" in capsys.readouterr().out


def test_a_bar_in_a_notebook(capsys, monkeypatch):
    IPython = pytest.importorskip("IPython")
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr("tqdm.auto.tqdm", tqdm.std.tqdm)  # the widget needs a real front end
    fitted(TrainingProgress(), epochs=1)
    found = capsys.readouterr()
    assert "Epoch" not in found.out
    assert "training" in found.err


def test_one_bar_for_all_epochs_on_a_terminal(capsys):
    fitted(TrainingProgress(as_lines=False))
    found = capsys.readouterr()
    assert "Epoch" not in found.out
    last = found.err.replace("\r", "\n").strip().splitlines()
    bars = [line for line in last if line.startswith("training")]
    assert "9/9" in bars[-1]  # three epochs of three steps
    assert re.search(r"epoch 3/3, train/loss \S+, val/loss \S+", bars[-1])


def test_losses_are_those_of_the_epoch(capsys):
    vae = fitted(TrainingProgress(as_lines=True), epochs=1)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch"))
    shown = float(re.search(r"val/loss (\S+)", line).group(1))
    assert shown == pytest.approx(float(vae.trainer.callback_metrics["val/loss"]), rel=1e-3)


def test_without_validation_only_the_training_loss(capsys):
    fitted(TrainingProgress(as_lines=True), epochs=1, validation=False)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch"))
    assert "train/loss" in line
    assert "val/loss" not in line


def test_a_disabled_one_shows_nothing(capsys):
    progress = TrainingProgress(as_lines=True)
    progress.on_train_epoch_end = lambda *_: (progress.disable(), TrainingProgress.on_train_epoch_end(progress, *_))
    fitted(progress, epochs=2)
    assert "Epoch" not in capsys.readouterr().out


def test_the_bar_is_closed_by_an_error(capsys):
    progress = TrainingProgress(as_lines=False)

    def stop(*_):
        raise RuntimeError("full disk")

    progress.on_train_epoch_start = stop
    with pytest.raises(RuntimeError, match="full disk"):
        fitted(progress)
    assert progress._bar is None


def test_the_training_loss_is_the_mean_over_the_epoch(tmp_path, capsys):
    table = MetricsTable(tmp_path / "metrics.csv")
    fitted(TrainingProgress(as_lines=True), epochs=2, more=[table])
    shown = [float(value) for value in re.findall(r"train/loss (\S+?),", capsys.readouterr().out)]
    assert shown == pytest.approx([row["train/loss"] for row in table.rows], rel=1e-3)
    assert shown[0] != shown[1]
