"""What a Trainer knows before it trains."""

import lightning.pytorch as pl
import pytest
import quiet_trainer
import torch
from torch.utils.data import DataLoader

from monai_betavae.training.running_trainer import as_one_loader, is_running, resumes, training_loader


class Asking(pl.LightningModule):
    """Asks in ``setup``, where the estimator asks."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.found = {}

    def setup(self, stage):
        self.found = {"resumes": resumes(self.trainer), "loader": training_loader(self.trainer)}

    def training_step(self, batch, batch_idx):
        self.found["running"] = is_running(self.trainer)
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path, epochs=1):
    return pl.Trainer(**quiet_trainer.QUIET, max_epochs=epochs, default_root_dir=tmp_path)


def test_a_run_from_the_beginning_and_one_that_resumes(tmp_path):
    loader, model = DataLoader(torch.zeros(4, 2), batch_size=2), Asking()
    first = trainer(tmp_path)
    first.fit(model, loader)
    assert model.found == {"resumes": False, "loader": loader, "running": True}
    assert not is_running(first)
    first.save_checkpoint(tmp_path / "last.ckpt")
    trainer(tmp_path, epochs=2).fit(model, loader, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert model.found["resumes"] is True


def test_outside_a_fit_nothing_is_known(tmp_path):
    idle = trainer(tmp_path)
    assert resumes(idle) is None
    assert training_loader(idle) is None
    assert not is_running(idle)
    assert not is_running(None)


@pytest.mark.parametrize("several", [list, lambda loaders: dict(enumerate(loaders))])
def test_several_loaders_are_not_one(tmp_path, several):
    model = Asking()
    model.training_step = lambda batch, batch_idx: model.layer(torch.zeros(1, 2)).sum()
    loaders = several([DataLoader(torch.zeros(2, 2)), DataLoader(torch.zeros(2, 2))])
    trainer(tmp_path).fit(model, loaders)
    assert model.found["loader"] is None


def test_a_list_of_batches_becomes_one_loader_and_others_stay():
    batches = [torch.zeros(2, 2), torch.ones(1, 2)]
    assert [batch.tolist() for batch in as_one_loader(batches)] == [batch.tolist() for batch in batches]
    loaders = [DataLoader(batches)]
    assert as_one_loader(loaders) is loaders
    assert as_one_loader(None) is None
