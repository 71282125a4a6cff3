"""A run that goes wrong stops before it spoils what it has written, and says where."""

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from monai_betavae import build_vae
from monai_betavae.training.callbacks import BestWeights
from monai_betavae.training.checkpoints import LastCheckpoint
from monai_betavae.training.divergence import StopOnDivergence, non_finite

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


class Named(Dataset):
    """Eight images with the names of their subjects."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(index))
        return {"image": image, "subject": f"sub-{index}"}


class Spoil(pl.Callback):
    """At one step, make a weight or a gradient infinite."""

    def __init__(self, step, what):
        self.step, self.what = step, what

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.step and self.what == "gradient":
            pl_module.fc_mu.weight.grad.fill_(float("inf"))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step and self.what == "unused":
            pl_module.register_buffer("unused", torch.tensor([1.0, float("nan")]))


def train(folder, *callbacks, epochs=3, validate=True, **options):
    arguments = {"lr": 1e-3, **options}
    vae = build_vae((8, 8), 2, channels=(4, 8), random_state=0, **arguments)
    loader = DataLoader(Named(), batch_size=2)
    last = LastCheckpoint(folder / "last.ckpt")
    stop = StopOnDivergence(folder / "last.ckpt")
    callbacks = [*callbacks, stop, BestWeights(vae, folder / "model.pt"), last]
    trainer = pl.Trainer(max_epochs=epochs, callbacks=callbacks, accelerator="cpu", devices=1, **QUIET)
    trainer.fit(vae, loader, loader if validate else None)
    return stop


def test_a_loss_that_is_not_finite_stops_the_run_and_costs_no_file(tmp_path):
    # four steps an epoch: the fifth step's gradient spoils the weights, the sixth step's loss shows it
    with pytest.raises(ValueError, match=r"Training diverged at step 6 \(epoch 2\): the loss is nan") as error:
        train(tmp_path, Spoil(4, "gradient"))
    text = str(error.value)
    assert "of sub-2, sub-3; the step before was of sub-0, sub-1." in text
    assert f"The last good checkpoint is {tmp_path / 'last.ckpt'}: go on from it with --resume True" in text
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 0
    for weights in (checkpoint["state_dict"], torch.load(tmp_path / "model.pt", weights_only=True)):
        assert all(bool(torch.isfinite(value).all()) for value in weights.values())


def test_before_the_first_checkpoint_the_message_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"step 2 \(epoch 1\).*No checkpoint was written yet"):
        train(tmp_path, Spoil(0, "gradient"))
    assert list(tmp_path.iterdir()) == []


def test_weights_that_the_loss_does_not_see_stop_it_too(tmp_path):
    with pytest.raises(ValueError, match="1 weights or buffers aren't finite, the first unused; the last step was of"):
        train(tmp_path, Spoil(6, "unused"))
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert (checkpoint["epoch"], "unused" in checkpoint["state_dict"]) == (0, False)


def test_weights_that_are_not_finite_are_never_the_best(tmp_path):
    vae = build_vae((8, 8), 2, channels=(4, 8), random_state=0)
    best = BestWeights(vae, tmp_path / "model.pt")

    class Trainer:
        callback_metrics = {"val/loss": torch.tensor(1.0)}  # noqa: RUF012
        is_global_zero = True

    with torch.no_grad():
        vae.fc_mu.bias.fill_(float("nan"))
    best.on_train_epoch_end(Trainer, vae)
    assert not (tmp_path / "model.pt").exists()
    with torch.no_grad():
        vae.fc_mu.bias.fill_(0)
    best.on_train_epoch_end(Trainer, vae)
    assert (tmp_path / "model.pt").exists()


def test_a_good_run_is_neither_stopped_nor_warned(tmp_path, recwarn):
    train(tmp_path)
    assert not [warning for warning in recwarn if "KL" in str(warning.message)]


def test_collapse_and_explosion_are_warned_of_once():
    stop = StopOnDivergence("last.ckpt")
    with pytest.warns(UserWarning, match="The posterior has collapsed: its KL divergence is 0.005 nats"):
        stop._look_at_kl(0.005)
    stop._look_at_kl(0.001)  # said already: a warning would be an error here
    other = StopOnDivergence("last.ckpt")
    for kl in (20.0, 90.0, 199.0):
        other._look_at_kl(kl)
    resumed = StopOnDivergence("last.ckpt")
    resumed.load_state_dict(other.state_dict())
    with pytest.warns(UserWarning, match="The KL divergence explodes: 201 nats, after 20 in the first epoch"):
        resumed._look_at_kl(201.0)
    resumed._look_at_kl(900.0)


@pytest.mark.filterwarnings("ignore:The posterior has collapsed")
def test_a_huge_beta_collapses(tmp_path):
    stop = train(tmp_path, beta=1e5, lr=3e-2, epochs=30)
    assert stop._warned == {"collapsed"}


def test_names_of_what_is_not_finite():
    layer = torch.nn.BatchNorm1d(2)
    assert non_finite(layer) == []
    layer.running_var[0] = float("inf")
    assert non_finite(layer) == ["running_var"]
