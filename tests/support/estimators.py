"""Estimators, images and losses that several tests of the estimator use."""

import random

import numpy as np
import quiet_trainer
import torch
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from monai_betavae import VAE, BetaVAELoss, build_vae

QUIET = {**quiet_trainer.QUIET, "max_epochs": 1}


SHAPE = (1, 4, 4, 4)


LOSSES = {"loss", "rec_loss", "kl_loss"}


def images(n_items=6, seed=0):
    return torch.rand(n_items, *SHAPE, generator=torch.Generator().manual_seed(seed))


def networks(*, seed=0, latent_dim=2, head=None):
    """Networks no builder of the package made; dropout shows which mode they run in."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5), nn.Tanh())
        layers = [nn.Linear(latent_dim, 64), nn.Dropout(0.5), nn.Unflatten(1, SHAPE)]
        decoder = nn.Sequential(*layers, *([head] if head is not None else []))
    return encoder, decoder


def custom_vae(head=None, **kwargs):
    options = {"latent_dim": 2, "random_state": 0, **QUIET, **kwargs}
    return VAE(*networks(head=head, latent_dim=options["latent_dim"]), encoder_out_dim=8, **options)


def built_vae(**kwargs):
    return build_vae((4, 4, 4), 2, **{**QUIET, "channels": (4,), "random_state": 0, **kwargs})


def fitted_vae(**kwargs):
    return custom_vae(**kwargs).fit(DataLoader(images(), batch_size=3))


class Head(nn.Module):
    """Turns a tensor into a distribution."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


def number(value):
    """torch warns, once per process, of ``float`` on a tensor with a gradient."""
    return value.detach().item()


def rng_states():
    return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002


def assert_same_rng(before):
    after = rng_states()
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    assert before[2] == after[2]


def seed_everything(seed):
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


class DictItems(Dataset):
    def __init__(self, x, key="image"):
        self.x, self.key = x, key

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {self.key: self.x[index], "subject": f"sub-{index:02d}"}


def batch_loader(kind):
    x = images()
    return {
        "tensor": lambda: DataLoader(x, batch_size=3),
        "tuple": lambda: DataLoader(TensorDataset(x, torch.arange(6)), batch_size=3),
        "dict": lambda: DataLoader(DictItems(x), batch_size=3),
        "MetaTensor": lambda: DataLoader([MetaTensor(i) for i in x], batch_size=3, collate_fn=list_data_collate),
        "dict of MetaTensor": lambda: DataLoader(
            DictItems([MetaTensor(i) for i in x]), batch_size=3, collate_fn=list_data_collate
        ),
    }[kind]()


class Halved(BetaVAELoss):
    """Counts half the divergence."""

    def kl_normal_loss(self, q):
        return 0.5 * super().kl_normal_loss(q)


class Weighted(nn.Module):
    """A loss with a weight that is learned, and no setting of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x, p, q):
        error = self.weight * (x - p.mean).square().sum() / len(x)
        divergence = q.mean.square().sum() / len(x)
        return {"loss": error + divergence, "rec_loss": error, "kl_loss": divergence, "extra": 2 * divergence}


def plain_loss(x, p, q):
    zero = (x - p.mean).square().sum()
    return {"loss": zero, "rec_loss": zero, "kl_loss": 0 * zero}


LOSSES_OF_ONE_S_OWN = {"subclass": lambda: Halved(2.0), "module": Weighted, "function": lambda: plain_loss}
