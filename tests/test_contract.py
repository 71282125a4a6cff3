"""The estimator's contract, on every architecture of the builders, with every likelihood, in 2D and 3D."""

import itertools
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import pytest
import quiet_trainer
import torch
from sklearn.exceptions import NotFittedError
from torch.utils.data import DataLoader

from monai_betavae import VAE, build_vae
from monai_betavae.losses import LIKELIHOODS
from monai_betavae.networks.builders import ENCODERS

# not 7 first: for a kernel of 7 ("densenet") on 7 slices oneDNN (torch 2.13, AVX-512) gives the weights a gradient that
# is whatever was in memory
SHAPES = ((9, 8), (8, 9, 7))
N_ITEMS, LATENT_DIM = 7, 2
CHANNELS = {"resnet": (4, 4, 4, 8), "densenet": (4, 8, 8)}
QUIET = {**quiet_trainer.QUIET, "max_epochs": 2}
CASES = [
    *itertools.product(ENCODERS, LIKELIHOODS, SHAPES, ("mean",)),
    # what starts at principal components has a linear output, so no Bernoulli
    *itertools.product(("conv",), ("normal", "laplace"), SHAPES, ("linear", "deformable")),
]


@dataclass
class Trained:
    """A model, what was known of it before it was trained, and how another of it is made."""

    arguments: dict[str, Any]
    vae: VAE
    returned: VAE
    hparams: dict[str, Any]
    trainer_params: dict[str, Any]
    start: dict[str, torch.Tensor]
    images: torch.Tensor

    def loader(self, images=None, **options):
        return DataLoader(self.images if images is None else images, **{"batch_size": 3, **options})

    def another(self, **changes):
        """An untrained one of the same arguments, but for changes."""
        return build_vae(**{**self.arguments, **changes})


def name_of(case):
    architecture, dist, shape, start = case
    return f"{architecture}-{dist}-{len(shape)}D-{start}"


@pytest.fixture(scope="module", params=CASES, ids=name_of)
def trained(request):
    architecture, dist, shape, start = request.param
    arguments = {
        "spatial_shape": shape,
        "latent_dim": LATENT_DIM,
        "architecture": architecture,
        "channels": CHANNELS.get(architecture, (4, 8)),
        "norm": "group",
        "warm_start": start,
        "default_dist": dist,
        # what varies less than beta stands for is noise to a model that starts at principal components
        "beta": 0.01,
        "lr": 0.01,
        "random_state": 3,
        **QUIET,
    }
    vae = build_vae(**arguments)
    images = torch.rand(N_ITEMS, 1, *shape, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    hparams, trainer_params = dict(vae.hparams), dict(vae.trainer_params)
    torch.manual_seed(1)
    returned = vae.fit(DataLoader(images, batch_size=3, shuffle=True))
    return Trained(arguments, vae, returned, hparams, trainer_params, before, images)


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def outputs(trained, vae):
    with torch.no_grad():
        return {
            "transform": vae.transform(trained.loader()),
            "mean": vae.encode(trained.images).mean,
            "reconstruct": vae.reconstruct(trained.images),
            "sample": vae.sample(3),
        }


def assert_same_outputs(trained, vae):
    for name, value in outputs(trained, trained.vae).items():
        assert torch.equal(outputs(trained, vae)[name], value), name


def test_fit_returns_self_and_trains(trained):
    assert trained.returned is trained.vae
    assert trained.vae.fitted is True
    after = trained.vae.state_dict()
    same = [name for name, value in trained.start.items() if torch.equal(value, after[name])]
    for part in ("fc_mu", "fc_logvar", "decoder"):
        assert any(name.startswith(part) and name not in same for name in after), part
    assert all(bool(value.isfinite().all()) for value in after.values())


def test_fit_leaves_hyperparameters_alone(trained):
    assert dict(trained.vae.hparams) == trained.hparams
    assert dict(trained.vae.trainer_params) == trained.trainer_params
    for name in ("latent_dim", "beta", "default_dist", "lr", "random_state"):
        assert trained.hparams[name] == trained.arguments[name]


def test_unfitted_raises(trained):
    vae = trained.another()
    assert vae.fitted is False
    with pytest.raises(NotFittedError, match="call `fit`"):
        vae.transform(trained.loader())
    with pytest.raises(NotFittedError, match="call `fit`"):
        vae.transform_with_targets(trained.loader())


def test_the_order_of_the_dataset_is_irrelevant_to_each_row(trained):
    order = torch.tensor([4, 0, 6, 2, 1, 5, 3])
    vae = trained.vae
    vae.stochastic_transform = False
    try:
        z = vae.transform(trained.loader())
        turned = vae.transform(trained.loader(trained.images[order]))
        shuffled = vae.transform(trained.loader(shuffle=True))
    finally:
        vae.stochastic_transform = True
    assert z.shape == (N_ITEMS, LATENT_DIM)
    assert len(z.unique(dim=0)) == N_ITEMS
    torch.testing.assert_close(turned, z[order], rtol=1e-5, atol=1e-5)
    assert torch.equal(shuffled, z)


def test_save_and_load_give_equal_output(trained, tmp_path):
    loaded = VAE.load(trained.vae.save(tmp_path / "vae.pt"))
    assert loaded.fitted is True
    assert dict(loaded.hparams) == dict(trained.vae.hparams)
    assert same_weights(loaded, trained.vae)
    assert_same_outputs(trained, loaded)


def test_load_from_checkpoint_gives_equal_output(trained, tmp_path):
    trained.vae.trainer.save_checkpoint(tmp_path / "vae.ckpt")
    loaded = VAE.load_from_checkpoint(tmp_path / "vae.ckpt")
    assert loaded.fitted is True
    assert same_weights(loaded, trained.vae)
    assert_same_outputs(trained, loaded)


def test_the_same_seed_gives_the_same_numbers_and_another_others(trained):
    torch.manual_seed(99)
    same = trained.another()
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in trained.start.items())
    same.fit(trained.loader(shuffle=True))
    assert same_weights(same, trained.vae)
    assert_same_outputs(trained, same)
    other = trained.another(random_state=4)
    assert not torch.equal(other.fc_mu.weight, trained.start["fc_mu.weight"])
    other.fit(trained.loader(shuffle=True))
    for name, value in outputs(trained, trained.vae).items():
        assert not torch.equal(outputs(trained, other)[name], value), name


@pytest.mark.parametrize("training", [True, False])
def test_the_state_after_transform_is_that_before(trained, training):
    vae = trained.vae.train(training)
    vae.encoder.eval()  # a part whose mode is another
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    modes = {name: module.training for name, module in vae.named_modules()}
    generator, attributes = torch.get_rng_state(), set(vars(vae))
    first = vae.transform(trained.loader())
    assert torch.equal(vae.transform(trained.loader(shuffle=True)), first)
    vae.transform_with_targets(DataLoader(list(zip(trained.images, range(N_ITEMS), strict=True)), batch_size=2))
    assert torch.equal(torch.get_rng_state(), generator)
    assert {name: module.training for name, module in vae.named_modules()} == modes
    assert set(vars(vae)) == attributes
    assert all(torch.equal(value, vae.state_dict()[name]) for name, value in before.items())
    assert all(weights.grad is None or not weights.grad.isnan().any() for weights in vae.parameters())


def test_the_decoder_gives_the_shape_of_the_images(trained):
    shape = trained.images.shape[1:]
    restored = trained.vae.reconstruct(trained.images).detach()
    assert restored.shape == trained.images.shape
    assert trained.vae.decode(torch.zeros(4, LATENT_DIM)).shape == (4, *shape)
    assert trained.vae.sample(2).shape == (2, *shape)
    if trained.vae.criterion.default_dist == "bernoulli":
        assert 0 <= float(restored.min()) <= float(restored.max()) <= 1


def test_samples_are_reproducible_and_need_no_gradient(trained):
    trained.vae.train()
    first = trained.vae.sample(5)
    torch.manual_seed(7)
    assert torch.equal(trained.vae.sample(5), first)
    assert not first.requires_grad
    assert trained.vae.training
    assert len(first.flatten(1).unique(dim=0)) == 5


def test_a_trainer_of_ones_own_gives_what_fit_gives(trained):
    """The other way to train: the same seeds, the same warm start, a Trainer that is built outside."""
    from monai_betavae._randomness import seeded
    from monai_betavae.networks.warm_start import warm_start
    from monai_betavae.training.step_seeds import StepSeeds, order_by_epoch

    vae = trained.another()
    loader = trained.loader(shuffle=True)
    warm_start(vae, loader, seed=3)
    with seeded(3), order_by_epoch(loader, 3):
        pl.Trainer(**QUIET, callbacks=[StepSeeds(3)]).fit(vae, loader)
    assert vae.fitted
    assert same_weights(vae, trained.vae)
