"""The estimator's contract: training, embedding, sampling, files, seeds and messages."""

import functools
import inspect
import json
import os
import random
import resource
import warnings

import lightning.pytorch as pl
import numpy as np
import pytest
import quiet_trainer
import torch
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.distributions import Bernoulli, Laplace, Normal
from torch.utils.data import DataLoader, Dataset, TensorDataset

from monai_betavae import VAE, BetaVAELoss, build_encoder, build_vae
from monai_betavae.training.optimization import warmup_and_decay

pytestmark = [
    # Lightning 2.6 calls what torch 2.13 deprecates
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    # Lightning's advice on speed, of no use for seven tiny images
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings(
        "ignore:.*number of training batches .* is smaller than the logging interval:UserWarning"
    ),
    # training without a validation loader is part of the contract
    pytest.mark.filterwarnings("ignore:.*but have no `val_dataloader`:UserWarning"),
    # a checkpoint folder is used by the run and by the one resumed from it
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory .* exists and is not empty:UserWarning"),
]

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


# ---- signature and attributes ----------------------------------------------------------------------------------------


def test_signature_and_defaults_are_the_reference_ones():
    parameters = inspect.signature(VAE).parameters
    reference = {
        "encoder": inspect.Parameter.empty,
        "decoder": inspect.Parameter.empty,
        "encoder_out_dim": inspect.Parameter.empty,
        "latent_dim": inspect.Parameter.empty,
        "beta": 1.0,
        "default_dist": "normal",
        "stochastic_transform": True,
        "lr": 1e-4,
        "weight_decay": 0.01,
        "random_state": None,
    }
    positional = [name for name, p in parameters.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert positional == list(reference)
    assert {name: parameters[name].default for name in reference} == reference
    assert parameters["kwargs"].kind is inspect.Parameter.VAR_KEYWORD
    for method in ("training_step", "validation_step", "transform_step"):
        step = inspect.signature(getattr(VAE, method)).parameters
        assert list(step) == ["self", "batch", "batch_idx", "dataloader_idx"]
        assert step["dataloader_idx"].default == 0
    assert list(inspect.signature(VAE.sample).parameters) == ["self", "n_samples"]
    assert list(inspect.signature(VAE.forward).parameters) == ["self", "x"]
    fit = inspect.signature(VAE.fit).parameters
    assert list(fit) == ["self", "train_dataloader", "val_dataloader", "ckpt_path"]
    assert fit["val_dataloader"].default is None
    assert fit["ckpt_path"].kind is inspect.Parameter.KEYWORD_ONLY


def test_attributes():
    encoder, decoder = networks()
    vae = VAE(encoder, decoder, 8, 2, 3.0, "laplace", lr=0.1, weight_decay=0.2, max_epochs=3)
    assert isinstance(vae, pl.LightningModule)
    assert vae.encoder is encoder
    assert vae.decoder is decoder
    for layer in (vae.fc_mu, vae.fc_logvar):
        assert (type(layer), layer.in_features, layer.out_features) == (nn.Linear, 8, 2)
    assert isinstance(vae.criterion, BetaVAELoss)
    assert (vae.criterion.beta, vae.criterion.default_dist) == (3.0, "laplace")
    assert vae.trainer_params["max_epochs"] == 3
    assert vae.fitted is False
    (optimizer,) = vae.configure_optimizers()
    assert type(optimizer) is torch.optim.AdamW
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.1, 0.2)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in vae.parameters()}


def test_hparams_hold_no_objects():
    vae = custom_vae(callbacks=[pl.Callback()], plugins=[], profiler=pl.profilers.PassThroughProfiler())
    assert json.loads(json.dumps(dict(vae.hparams))) == dict(vae.hparams)
    assert not {"encoder", "decoder", "callbacks", "profiler"} & set(vae.hparams)
    assert vae.hparams["latent_dim"] == 2
    assert vae.hparams["max_epochs"] == 1
    assert len(vae.trainer_params["callbacks"]) == 1


# ---- training --------------------------------------------------------------------------------------------------------


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


def test_metatensor_loader_yields_metatensors():
    """Else the tests below would show nothing."""
    assert isinstance(next(iter(batch_loader("MetaTensor"))), MetaTensor)
    assert isinstance(next(iter(batch_loader("dict of MetaTensor")))["image"], MetaTensor)


@pytest.mark.parametrize("kind", ["tensor", "tuple", "dict", "MetaTensor", "dict of MetaTensor"])
def test_fit_on_every_kind_of_batch(kind):
    reference = fitted_vae()
    vae, untrained = custom_vae(), custom_vae()
    assert same_weights(vae, untrained)
    assert vae.fit(batch_loader(kind), batch_loader(kind)) is vae
    assert vae.fitted is True
    assert not same_weights(vae, untrained)
    assert set(vae.trainer.callback_metrics) >= {f"{stage}/{name}" for stage in ("train", "val") for name in LOSSES}
    assert all(type(value) is torch.Tensor for value in vae.trainer.callback_metrics.values())
    # the same images give the same model, whatever wraps them (validation draws noise only after training)
    trained = custom_vae().fit(batch_loader(kind))
    assert same_weights(trained, reference)
    assert type(vae.transform(batch_loader(kind))) is torch.Tensor


def test_image_key():
    loader = DataLoader(DictItems(images(), key="t1w"), batch_size=3)
    assert same_weights(custom_vae(image_key="t1w").fit(loader), fitted_vae())
    with pytest.raises(ValueError, match=r"`image_key` must be a key of the batch, got 'image'; .*'t1w', 'subject'"):
        custom_vae().fit(loader)


class Recorder(pl.Callback):
    def __init__(self):
        self.outputs, self.logged = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.outputs.append({name: number(value) for name, value in outputs.items()})
        self.logged.append({name: number(value) for name, value in trainer.callback_metrics.items()})


def test_logged_numbers_are_the_losses():
    recorder = Recorder()
    custom_vae(beta=3.0, callbacks=[recorder]).fit(DataLoader(images(), batch_size=3))
    assert len(recorder.outputs) == 2
    for output, logged in zip(recorder.outputs, recorder.logged, strict=True):
        assert output.keys() == LOSSES
        assert logged == {f"train/{name}": pytest.approx(value) for name, value in output.items()}
        assert output["loss"] == pytest.approx(output["rec_loss"] + 3 * output["kl_loss"], rel=1e-5)


def test_validation_is_averaged_over_images_with_the_training_definition():
    class Zeros(nn.Module):
        def forward(self, z):
            return z.new_zeros(len(z), *SHAPE) + 0 * z.sum()

    class Constant(nn.Module):
        def forward(self, x):
            return x.new_ones(len(x), 3)

    x = images(5)
    vae = VAE(Constant(), Zeros(), 3, 2, beta=2.0, **QUIET)
    trainer = pl.Trainer(**QUIET)
    trainer.validate(vae, DataLoader(x, batch_size=3), verbose=False)
    metrics = {name: number(value) for name, value in trainer.callback_metrics.items()}
    rec = number((x**2).sum() / 5)  # the decoder gives zeros: a sum per image, averaged over all five
    mu, logvar = vae.fc_mu(torch.ones(3)), vae.fc_logvar(torch.ones(3))
    kl = number(0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum())
    assert metrics == {
        "val/loss": pytest.approx(rec + 2 * kl, rel=1e-5),
        "val/rec_loss": pytest.approx(rec, rel=1e-5),
        "val/kl_loss": pytest.approx(kl, rel=1e-5),
    }


@pytest.mark.parametrize("step", ["training_step", "validation_step"])
@pytest.mark.parametrize("kind", ["tensor", "dict", "tuple"])
def test_steps_without_a_trainer(step, kind):
    batch = {"tensor": images(), "dict": {"image": images()}, "tuple": (images(), torch.zeros(6))}[kind]
    vae = custom_vae(beta=2.0)
    losses = getattr(vae, step)(batch, 0)
    assert losses.keys() == LOSSES
    assert all(value.shape == () for value in losses.values())
    torch.testing.assert_close(losses["loss"], losses["rec_loss"] + 2 * losses["kl_loss"])
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())
    assert any(p.grad.abs().sum() > 0 for p in vae.encoder.parameters())  # through the sampling


def test_fit_learns():
    x = images(8)
    vae = custom_vae(latent_dim=8, lr=0.02, beta=0.01, max_epochs=60)
    before = number(((vae.reconstruct(x) - x) ** 2).sum() / 8)
    vae.fit(DataLoader(x, batch_size=8))
    after = number(((vae.reconstruct(x) - x) ** 2).sum() / 8)
    assert after < 0.6 * before


def test_in_a_trainer_the_user_builds():
    x = images(7)
    vae = custom_vae(stochastic_transform=False)
    trainer = pl.Trainer(**QUIET)
    trainer.fit(vae, DataLoader(x, batch_size=3), DataLoader(x, batch_size=3))
    assert vae.fitted is True
    assert {f"{stage}/{name}" for stage in ("train", "val") for name in LOSSES} <= set(trainer.callback_metrics)
    parts = trainer.predict(vae, DataLoader(x, batch_size=3))
    z = torch.cat(parts)
    torch.testing.assert_close(z, vae.transform(DataLoader(x, batch_size=3)))
    torch.testing.assert_close(z, vae.encode(x).mean.detach())


def test_fit_resumes_from_a_checkpoint(tmp_path):
    loader = DataLoader(images(), batch_size=3)

    def vae(max_epochs, **kwargs):
        saver = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
        return custom_vae(enable_checkpointing=True, callbacks=[saver], max_epochs=max_epochs, **kwargs)

    first = vae(1).fit(loader)
    assert (first.trainer.current_epoch, first.trainer.global_step) == (1, 2)
    path = tmp_path / "epoch=0.ckpt"
    resumed = vae(3).fit(loader, ckpt_path=path)
    assert (resumed.trainer.current_epoch, resumed.trainer.global_step) == (3, 6)
    # nothing left to do: the weights are those of the file
    again = vae(1, random_state=5).fit(loader, ckpt_path=path)
    assert again.trainer.global_step == 2
    assert same_weights(again, first)
    assert again.fitted


def test_fit_leaves_hyperparameters_alone():
    callbacks = [Recorder()]
    vae = custom_vae(beta=2.5, callbacks=callbacks)
    before = dict(vae.hparams), dict(vae.trainer_params)
    vae.fit(DataLoader(images(), batch_size=3), DataLoader(images(), batch_size=3))
    assert (dict(vae.hparams), dict(vae.trainer_params)) == before
    assert vae.trainer_params["callbacks"] is callbacks
    assert len(callbacks) == 1
    assert (vae.beta, vae.lr, vae.weight_decay, vae.latent_dim) == (2.5, 1e-4, 0.01, 2)


def test_a_second_fit_goes_on_and_says_so():
    loader = DataLoader(images(), batch_size=3)
    twice = custom_vae(lr=0.01).fit(loader)
    once = {name: value.clone() for name, value in twice.state_dict().items()}
    with pytest.warns(
        UserWarning, match=r"`fit` goes on from its weights. To start anew, fit sklearn\.base\.clone\(vae\)"
    ):
        twice.fit(loader)
    by_hand = custom_vae(lr=0.01)
    by_hand.load_state_dict(once)
    assert same_weights(twice, by_hand.fit(loader))  # a fresh optimizer, as Lightning's
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*(many workers|logging interval|val_dataloader)")
        custom_vae().fit(loader)  # the first says nothing


def test_the_list_of_callbacks_stays_the_users_own():
    callbacks = [Recorder()]
    quiet = {name: QUIET[name] for name in ("logger", "accelerator", "devices")}
    vae = VAE(*networks(), 8, 2, callbacks=callbacks, max_epochs=1, enable_checkpointing=False, **quiet)
    vae.fit(DataLoader(images(), batch_size=3))
    assert len(callbacks) == 1  # Lightning adds its progress bar and summary to the list that it gets


class Noisy(Dataset):
    """Images with a random brightness of torch's, and the order in which they were asked for."""

    def __init__(self):
        self.images, self.seen = images(11), []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.seen.append(int(index))
        return self.images[index] + 0.1 * torch.rand(())


ORDERS = {
    "in order": lambda data: {},
    "shuffled": lambda data: {"shuffle": True},
    "weighted": lambda data: {"sampler": torch.utils.data.WeightedRandomSampler(torch.arange(1.0, 12), 11)},
}


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_a_resumed_fit_ends_as_one_that_was_not_interrupted(tmp_path, order, validated):
    def trained(folder, max_epochs, ckpt_path=None):
        saver = pl.callbacks.ModelCheckpoint(dirpath=tmp_path / folder, save_last=True)
        vae = custom_vae(max_epochs=max_epochs, lr=0.01, callbacks=[saver], enable_checkpointing=True)
        data = Noisy()
        loader = DataLoader(data, batch_size=4, **ORDERS[order](data))
        vae.fit(loader, DataLoader(Noisy(), batch_size=4) if validated else None, ckpt_path=ckpt_path)
        assert order == "in order" or type(loader.batch_sampler.sampler) is type(loader.sampler)  # given back
        return vae, data.seen

    whole, order_of_whole = trained("whole", 4)
    _, first = trained("parts", 2)
    resumed, second = trained("parts", 4, tmp_path / "parts" / "last.ckpt")
    assert same_weights(resumed, whole)
    assert first + second == order_of_whole
    if order == "shuffled":
        epochs = [tuple(order_of_whole[start : start + 11]) for start in range(0, 44, 11)]
        assert len(set(epochs)) == 4


def test_a_fit_on_a_list_of_batches_is_resumed_with_the_noise_of_its_steps(tmp_path):
    """Without a sampler, whose epochs would be seeded."""

    def trained(folder, max_epochs, ckpt_path=None):
        saver = pl.callbacks.ModelCheckpoint(dirpath=tmp_path / folder, save_last=True)
        vae = custom_vae(max_epochs=max_epochs, lr=0.01, callbacks=[saver], enable_checkpointing=True)
        return vae.fit(list(images(11).split(4)), ckpt_path=ckpt_path)

    whole = trained("whole", 4)
    trained("parts", 2)
    assert same_weights(trained("parts", 4, tmp_path / "parts" / "last.ckpt"), whole)


# ---- scikit-learn's parameters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [custom_vae, built_vae])
def test_a_clone_is_untrained_and_trains_to_the_same_weights(make):
    vae = make(lr=0.01, beta=2.0, max_epochs=2)
    loader = DataLoader(images(), batch_size=3, shuffle=True)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    untrained = clone(vae)
    vae.fit(loader)
    trained = {name: value.clone() for name, value in vae.state_dict().items()}
    for twin in (untrained, clone(vae)):
        assert not twin.fitted
        assert twin.encoder is not vae.encoder
        assert {name: float((value - before[name]).abs().sum()) for name, value in twin.state_dict().items()} == (
            dict.fromkeys(before, 0.0)
        )
        assert (twin.beta, twin.hparams["beta"], twin.random_state, twin.trainer_params["max_epochs"]) == (2, 2, 0, 2)
        assert same_weights(twin.fit(loader), vae)
    assert all(torch.equal(value, trained[name]) for name, value in vae.state_dict().items())  # none is shared


def test_a_clone_of_a_trainer_of_ones_own():
    vae = built_vae(lr=0.01)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    pl.Trainer(**QUIET).fit(vae, DataLoader(images(), batch_size=3))
    twin = clone(vae).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in twin.items())


def test_the_callbacks_of_a_clone_are_its_own():
    stopper = pl.callbacks.EarlyStopping("train/loss", patience=1, min_delta=1e9)
    vae = custom_vae(callbacks=[stopper], max_epochs=9).fit(DataLoader(images(), batch_size=3))
    assert stopper.wait_count == 1
    (copied,) = clone(vae).trainer_params["callbacks"]
    assert copied is not stopper
    assert copied.wait_count == 0


def test_a_model_that_was_loaded_trained_cannot_be_cloned(tmp_path):
    loaded = VAE.load(built_vae().fit(DataLoader(images(), batch_size=3)).save(tmp_path / "vae.pt"))
    with pytest.raises(ValueError, match="clone needs the weights that the networks had before training"):
        clone(loaded)
    untrained = VAE.load(built_vae().save(tmp_path / "untrained.pt"))
    assert same_weights(clone(untrained), untrained)


def test_parameters_are_the_arguments():
    encoder, decoder = networks()
    loss = BetaVAELoss(3.0, "laplace")
    vae = VAE(encoder, decoder, 8, 2, loss=loss, lr=np.float32(0.5), random_state=4, max_epochs=3, ignore=["lr"])
    params = vae.get_params()
    assert set(params) >= {name for name in inspect.signature(VAE).parameters if name != "kwargs"}
    assert (params["encoder"], params["decoder"], params["loss"]) == (encoder, decoder, loss)
    assert (params["beta"], params["default_dist"], params["lr"], params["ignore"]) == (3.0, "laplace", 0.5, ["lr"])
    assert (params["max_epochs"], params["save_hparams"]) == (3, True)
    again = VAE(**params)
    assert dict(again.hparams) == dict(vae.hparams)
    assert again.trainer_params == vae.trainer_params
    assert same_weights(again, vae)


def test_setting_parameters():
    vae = custom_vae()
    assert vae.set_params(beta=3.0, max_epochs=2, lr=0.1, log_every_n_steps=1) is vae
    assert (vae.beta, vae.criterion.beta, vae.hparams["beta"], vae.lr) == (3.0, 3.0, 3.0, 0.1)
    assert (vae.trainer_params["max_epochs"], vae.trainer_params["log_every_n_steps"]) == (2, 1)
    assert same_weights(vae, custom_vae())
    assert same_weights(vae.set_params(random_state=5), custom_vae(random_state=5))
    encoder = vae.encoder
    vae.set_params(latent_dim=4, decoder=networks(latent_dim=4)[1])
    assert (vae.fc_mu.out_features, vae.encoder) == (4, encoder)
    assert vae.set_params() is vae


def test_setting_parameters_of_a_trained_model():
    vae = fitted_vae(stochastic_transform=True)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    vae.set_params(stochastic_transform=False, random_state=7, beta=2.0)
    assert vae.fitted
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    loader = DataLoader(images(), batch_size=3)
    torch.testing.assert_close(vae.transform(loader), vae.encode(images()).mean.detach())
    assert same_weights(clone(vae), custom_vae())  # it starts where the networks did
    assert not vae.set_params(encoder=networks(seed=1)[0]).fitted


def test_a_parameter_that_is_refused_changes_nothing():
    vae = fitted_vae()
    for params, message in (
        ({"beta": -1.0}, "`beta` must be"),
        ({"bata": 2.0}, "`name of a parameter of VAE` must be one of"),
        ({"lr": 0.5, "latent_dim": 0}, "`latent_dim` must be an integer >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            vae.set_params(**params)
    assert vae.fitted
    assert (vae.beta, vae.lr, vae.latent_dim) == (1.0, 1e-4, 2)


def test_a_derived_class_is_cloned_with_its_own_arguments():
    class Wide(VAE):
        def __init__(self, width, depth=1, **kwargs):
            encoder, decoder = networks()
            super().__init__(encoder, decoder, 8, 2, **kwargs)
            self.width = width
            self.depth_of_it = depth

    vae = Wide(5, beta=3.0, random_state=0, **QUIET)
    assert vae.get_params()["width"] == 5
    twin = clone(vae)
    assert (type(twin), twin.width, twin.hparams["depth"]) == (Wide, 5, 1)
    assert clone(vae).set_params(width=7).width == 7

    class Forgetful(VAE):
        def __init__(self, seed, **kwargs):
            super().__init__(*networks(seed=seed), 8, 2, save_hparams=False, **kwargs)

    with pytest.raises(ValueError, match="Forgetful must keep its argument `seed` as an attribute of that name"):
        clone(Forgetful(3))


def test_scikit_learn_knows_whether_it_is_fitted():
    with pytest.raises(NotFittedError):
        check_is_fitted(custom_vae())
    check_is_fitted(fitted_vae())


def test_a_search_over_batches_finds_beta():
    batches = list(images(24).split(4))

    def error(vae, held_out):
        return -sum(number((vae.reconstruct(batch) - batch).square().sum()) for batch in held_out)

    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    decoder = nn.Sequential(nn.Linear(2, 64), nn.Unflatten(1, SHAPE))
    vae = VAE(encoder, decoder, 8, 2, random_state=0, lr=0.02, **{**QUIET, "max_epochs": 20})
    search = GridSearchCV(vae, {"beta": [0.01, 1000.0]}, scoring=error, cv=2, error_score="raise").fit(batches)
    assert search.best_params_ == {"beta": 0.01}
    assert search.best_estimator_.fitted
    assert not vae.fitted
    scores = cross_val_score(clone(vae).set_params(beta=0.01), batches, scoring=error, cv=2, error_score="raise")
    np.testing.assert_allclose(scores.mean(), search.cv_results_["mean_test_score"][0], rtol=1e-6)


# ---- embedding -------------------------------------------------------------------------------------------------------


def test_unfitted():
    vae = custom_vae()
    for method in (vae.transform, vae.transform_with_targets):
        with pytest.raises(NotFittedError, match="call `fit`"):
            method(DataLoader(images()))


def test_deterministic_transform_is_the_mean():
    vae, x = fitted_vae(stochastic_transform=False), images(5)
    z = vae.transform(DataLoader(x, batch_size=2))
    vae.eval()
    rows = torch.cat([vae.fc_mu(vae.encoder(image[None])) for image in x])
    torch.testing.assert_close(z, rows.detach(), rtol=1e-5, atol=1e-6)
    assert (z.shape, z.dtype, z.requires_grad) == ((5, 2), torch.float32, False)


@pytest.mark.parametrize("random_state", [None, 3])
def test_two_stochastic_transforms_agree(random_state):
    vae = fitted_vae(random_state=random_state)
    z = vae.transform(DataLoader(images(5), batch_size=2))
    torch.manual_seed(99)
    assert torch.equal(z, vae.transform(DataLoader(images(5), batch_size=2)))
    torch.testing.assert_close(z, vae.transform(DataLoader(images(5), batch_size=5)), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(z, vae.encode(images(5)).mean)


class NoPrediction(pl.Callback):
    """A training callback that can't stand prediction."""

    def setup(self, trainer, pl_module, stage):
        if stage == "predict":
            raise AssertionError("touched")

    def on_predict_start(self, trainer, pl_module):
        raise AssertionError("touched")

    on_predict_end = on_predict_start


def test_transform_leaves_training_callbacks_alone():
    guard = NoPrediction()
    vae = custom_vae(callbacks=[guard]).fit(DataLoader(images(), batch_size=3))
    trainer = vae.trainer
    assert guard in trainer.callbacks
    assert vae.transform(DataLoader(images(), batch_size=3)).shape == (6, 2)
    assert vae.trainer is trainer
    with pytest.raises(AssertionError, match="touched"):  # it does stand guard
        trainer.predict(vae, DataLoader(images(), batch_size=3))


def test_transform_with_targets():
    vae, x, y = fitted_vae(), images(5), torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0])
    z, found = vae.transform_with_targets(DataLoader(TensorDataset(x, y), batch_size=2, shuffle=True))
    assert torch.equal(found, y)
    assert torch.equal(z, vae.transform(DataLoader(x, batch_size=2)))
    items = [{"image": image, "label": value, "age": -value} for image, value in zip(x, y, strict=True)]
    assert torch.equal(vae.transform_with_targets(DataLoader(items, batch_size=2))[1], y)
    z, found = vae.transform_with_targets(DataLoader(items, batch_size=2), target_key="age")
    assert torch.equal(found, -y)
    assert torch.equal(z, vae.transform(DataLoader(x, batch_size=2)))


def test_encode_decode_reconstruct():
    vae, x = custom_vae(), images()
    q = vae.encode(x)
    assert type(q) is Normal
    assert q.mean.shape == q.stddev.shape == (6, 2)
    assert torch.equal(vae.reconstruct(x), vae.decode(q.mean))
    vae.eval()
    features = vae.encoder(x)
    torch.testing.assert_close(q.mean, vae.fc_mu(features))
    torch.testing.assert_close(q.stddev, torch.exp(vae.fc_logvar(features) / 2))
    z = torch.randn(3, 2)
    torch.testing.assert_close(vae.decode(z), vae.decoder(z))
    for batch in ({"image": x}, (x, None), MetaTensor(x)):
        assert torch.equal(vae.reconstruct(batch), vae.reconstruct(x))
        assert type(vae.reconstruct(batch)) is torch.Tensor


def test_forward_draws_from_the_posterior():
    vae, x = custom_vae().eval(), images(1)
    q = vae.encode(x)
    draws = vae(x.expand(4000, *SHAPE)).detach()
    assert draws.shape == (4000, 2)
    # five standard errors
    assert torch.all((draws.mean(0) - q.mean).abs() < 5 * q.stddev / 4000**0.5)
    assert torch.all((draws.std(0) / q.stddev - 1).abs() < 5 / 8000**0.5)


@pytest.mark.parametrize(
    ("head", "dist", "mean"),
    [
        (lambda x: Normal(x, 2.0), "laplace", lambda x: x),
        (lambda x: Laplace(x, 0.5), "normal", lambda x: x),
        (lambda x: Bernoulli(logits=x), "normal", torch.sigmoid),
        (lambda x: Bernoulli(probs=torch.sigmoid(x)), "normal", torch.sigmoid),
    ],
    ids=["normal", "laplace", "bernoulli logits", "bernoulli probs"],
)
def test_decoder_may_give_a_distribution(head, dist, mean):
    """A distribution says itself what it is; ``default_dist`` doesn't enter."""
    vae = custom_vae(head=Head(head), default_dist=dist).fit(DataLoader(images(), batch_size=3))
    z = torch.randn(4, 2)
    torch.testing.assert_close(vae.decode(z), mean(vae.eval().decoder[:-1](z)))
    assert vae.sample(3).shape == (3, *SHAPE)
    losses = vae.training_step(images(), 0)
    assert all(value.isfinite() for value in losses.values())
    with torch.no_grad():
        torch.manual_seed(0)
        rec = vae.training_step(images(), 0)["rec_loss"]
        torch.manual_seed(0)
        p = vae.decoder(vae(images()))
    torch.testing.assert_close(rec, BetaVAELoss().reconstruction_loss(p, images()))


def test_bernoulli_gives_probabilities():
    vae = built_vae(default_dist="bernoulli", lr=0.05, max_epochs=5).fit(DataLoader(images(), batch_size=3))
    far = 20 * torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    for values in (vae.sample(5), vae.reconstruct(images())):
        assert 0 < number(values.min()) <= number(values.max()) < 1
    # in float32 a sigmoid reaches 1 itself
    assert 0 <= number(vae.decode(far).min()) < number(vae.decode(far).max()) <= 1
    # without the sigmoid the same weights leave (0, 1): the numbers above aren't a coincidence of small weights
    vae.decoder.sigmoid = False
    assert number(vae.decode(far).min()) < 0
    with pytest.raises(ValueError, match=r"training batch 0 must lie in \[0, 1\] .*'bernoulli', got values from"):
        vae.training_step(images() - 0.5, 0)


# ---- sampling, modes -------------------------------------------------------------------------------------------------


def test_sample():
    vae = custom_vae()
    x = vae.sample(4)
    assert x.shape == (4, *SHAPE)
    assert x.requires_grad is False
    assert torch.equal(x, vae.sample(4))
    assert torch.equal(x, custom_vae().sample(4))
    assert not torch.equal(x[0], x[1])
    other = custom_vae(random_state=1)
    other.load_state_dict(vae.state_dict())
    assert not torch.equal(x, other.sample(4))


def test_sample_without_random_state_follows_the_global_generator():
    vae = custom_vae(random_state=None)
    assert not torch.equal(vae.sample(2), vae.sample(2))
    torch.manual_seed(3)
    first = vae.sample(2)
    torch.manual_seed(3)
    assert torch.equal(first, vae.sample(2))


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_restored(training):
    vae = fitted_vae()
    vae.train(training)
    vae.encoder[2].train(not training)
    modes = {name: module.training for name, module in vae.named_modules()}
    assert len(set(modes.values())) == 2
    vae.encode(images())
    vae.decode(torch.zeros(1, 2))
    vae.reconstruct(images())
    vae.sample(1)
    vae.transform(DataLoader(images(), batch_size=3))
    with pytest.raises(ValueError, match="finite"):
        vae.transform(DataLoader(images() * torch.nan, batch_size=3))
    assert {name: module.training for name, module in vae.named_modules()} == modes


# ---- seeds -----------------------------------------------------------------------------------------------------------


class Order(Dataset):
    def __init__(self):
        self.seen = []

    def __len__(self):
        return 16

    def __getitem__(self, index):
        self.seen.append(index)
        return images(16)[index]


def seeded_run(random_state, global_seed):
    seed_everything(global_seed)
    # a deformable template, the default, starts without a random number
    vae, data = built_vae(random_state=random_state, dropout=0.2, lr=0.01, warm_start="mean"), Order()
    start = {name: value.clone() for name, value in vae.state_dict().items()}
    vae.fit(DataLoader(data, batch_size=4, shuffle=True))
    return vae, start, data.seen[16:]  # before training the warm start reads all 16, in order


def test_random_state_alone_decides():
    a, start_a, order_a = seeded_run(0, 1)
    b, start_b, order_b = seeded_run(0, 2)
    c, start_c, order_c = seeded_run(1, 1)
    assert all(torch.equal(start_a[name], start_b[name]) for name in start_a)
    assert order_a == order_b
    assert sorted(order_a) == list(range(16))
    assert same_weights(a, b)
    assert torch.equal(a.sample(3), b.sample(3))
    loader = DataLoader(images(), batch_size=3)
    assert torch.equal(a.transform(loader), b.transform(loader))
    for part in ("encoder", "decoder", "fc_mu", "fc_logvar"):
        assert any(not torch.equal(start_a[name], start_c[name]) for name in start_a if name.startswith(part))
    assert order_a != order_c
    assert not torch.equal(a.sample(3), c.sample(3))
    c.load_state_dict(a.state_dict())
    assert not torch.equal(a.transform(loader), c.transform(loader))


def test_random_state_decides_the_training_noise():
    def trained(random_state, global_seed):
        vae = custom_vae(random_state=random_state, lr=0.01)
        vae.load_state_dict(custom_vae().state_dict())
        seed_everything(global_seed)
        return vae.fit(DataLoader(images(), batch_size=3))

    assert same_weights(trained(0, 1), trained(0, 2))
    assert not same_weights(trained(0, 1), trained(1, 1))


def test_the_callers_generators_stay_as_they_were():
    vae = fitted_vae()
    seed_everything(5)
    before = rng_states()
    built_vae()
    assert_same_rng(before)
    vae.sample(3)
    vae.transform(DataLoader(images(), batch_size=2, shuffle=True))
    vae.encode(images())
    vae.reconstruct(images())
    assert_same_rng(before)
    custom_vae().fit(DataLoader(images(), batch_size=3, shuffle=True))
    assert_same_rng(before)


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dist", ["normal", "laplace", "bernoulli"])
def test_losses_are_float32_under_autocast(dist):
    # trained a little, as a built decoder starts with a constant image, on which precision would not show
    vae, x = built_vae(default_dist=dist, lr=0.05, max_epochs=5).fit(DataLoader(images(), batch_size=3)), images()
    torch.manual_seed(0)
    exact = vae.training_step(x, 0)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        assert vae.encoder(x).dtype == torch.bfloat16  # autocast is at work
        losses = vae.training_step(x, 0)
    for name, value in losses.items():
        assert value.dtype == torch.float32
        assert number(value) != number(exact[name])
        assert number(value) == pytest.approx(number(exact[name]), rel=0.02), name


def test_kl_is_exact_under_autocast():
    vae = VAE(nn.Flatten(), networks()[1], 64, 2, random_state=0)  # an encoder without arithmetic
    exact = vae.training_step(images(), 0)["kl_loss"]
    with torch.autocast("cpu", torch.bfloat16):
        assert vae.fc_mu(images().flatten(1)).dtype == torch.bfloat16
        found = vae.training_step(images(), 0)["kl_loss"]
        assert vae.encode(images()).mean.dtype == torch.float32
    assert number(found) == pytest.approx(number(exact), rel=1e-6)


@pytest.mark.parametrize(("bias", "bound"), [(1e6, 20), (-1e6, -30)])
def test_log_variance_is_bounded(bias, bound):
    vae = custom_vae()
    nn.init.constant_(vae.fc_logvar.bias, bias)
    torch.testing.assert_close(vae.encode(images()).stddev.log() * 2, torch.full((6, 2), float(bound)))
    assert all(value.isfinite() for value in vae.training_step(images(), 0).values())


# ---- files -----------------------------------------------------------------------------------------------------------


def assert_same_model(a, b):
    assert same_weights(a, b)
    loader = DataLoader(images(5, seed=9), batch_size=2)
    assert torch.equal(a.transform(loader), b.transform(loader))
    assert torch.equal(a.reconstruct(images()), b.reconstruct(images()))
    assert torch.equal(a.sample(3), b.sample(3))
    assert dict(a.hparams) == dict(b.hparams)


@pytest.mark.parametrize("architecture", ["conv", "residual"])
def test_save_and_load_with_builders(architecture, tmp_path):
    vae = built_vae(architecture=architecture, beta=2.0, default_dist="bernoulli")
    vae.fit(DataLoader(images(), batch_size=3))
    assert vae.save(tmp_path / "new" / "model.pt") == tmp_path / "new" / "model.pt"
    loaded = VAE.load(tmp_path / "new" / "model.pt")
    assert loaded.fitted is True
    assert_same_model(vae, loaded)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.pt"]


def test_an_untrained_model_stays_untrained(tmp_path):
    assert VAE.load(built_vae().save(tmp_path / "model.pt")).fitted is False


def test_save_and_load_with_custom_networks(tmp_path):
    vae = fitted_vae()
    path = vae.save(tmp_path / "model.pt")
    encoder, decoder = networks(seed=1)
    loaded = VAE.load(path, encoder=encoder, decoder=decoder)
    assert loaded.encoder is encoder
    assert_same_model(vae, loaded)
    with pytest.raises(ValueError, match=r"`encoder` must be passed in: .*model\.pt"):
        VAE.load(path, decoder=decoder)
    with pytest.raises(ValueError, match=r"`decoder` must be passed in: .*model\.pt"):
        VAE.load(path, encoder=encoder)
    with pytest.raises(ValueError, match=r"model\.pt: the weights don't fit the networks[\s\S]*encoder\.0\.weight"):
        VAE.load(path, encoder=nn.Sequential(nn.Linear(3, 8)), decoder=decoder)


def test_save_with_numpy_numbers(tmp_path):
    """numpy's numbers are accepted as arguments, so they must survive the file."""
    vae = VAE(
        *networks(), np.int64(8), np.int64(2), beta=np.float32(2), lr=np.float64(0.1), random_state=np.int64(3), **QUIET
    )
    loaded = VAE.load(vae.save(tmp_path / "model.pt"), *networks())
    assert (loaded.beta, loaded.latent_dim, loaded.random_state) == (2.0, 2, 3)


def test_failed_save_leaves_the_file(tmp_path):
    path = custom_vae().save(tmp_path / "model.pt")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))  # as on a full disk
    try:
        with pytest.raises(OSError, match=r"model\.pt can't be written: File too large"):
            custom_vae(random_state=1).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("custom", [False, True], ids=["builders", "custom networks"])
@pytest.mark.parametrize("reader", ["load", "load_from_checkpoint"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_code_in_a_file_is_refused_and_not_run(reader, custom, legacy, tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "model.pt"
    content = torch.load(built_vae().save(path), weights_only=True)
    content["extra"] = Payload(marker)
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    given = dict(zip(("encoder", "decoder"), networks(), strict=True)) if custom else {}
    with pytest.raises(ValueError, match=r"model\.pt was refused: .*execute code"):
        getattr(VAE, reader)(path, **given)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # the payload works


@pytest.mark.parametrize("reader", [VAE.load, VAE.load_from_checkpoint])
def test_files_of_another_kind(reader, tmp_path):
    missing, text, other = tmp_path / "missing.pt", tmp_path / "text.pt", tmp_path / "other.pt"
    text.write_text("hello")
    torch.save({"a": torch.zeros(1)}, other)
    for path in (missing, text, other):
        with pytest.raises(ValueError, match=path.name):
            reader(path)


@pytest.fixture(scope="module")
def checkpointed(tmp_path_factory):
    """A model of builders and its checkpoint, written while training on MetaTensors."""
    folder = tmp_path_factory.mktemp("checkpoints")
    saver = pl.callbacks.ModelCheckpoint(dirpath=folder, filename="best", monitor="val/loss")
    vae = built_vae(enable_checkpointing=True, callbacks=[saver])
    vae.fit(batch_loader("dict of MetaTensor"), batch_loader("dict of MetaTensor"))
    return vae, folder / "best.ckpt"


def test_checkpoint_holds_nothing_but_plain_values(checkpointed):
    content = torch.load(checkpointed[1], weights_only=True)
    (saver_state,) = content["callbacks"].values()
    assert type(saver_state["best_model_score"]) is torch.Tensor
    assert set(content["state_dict"]) == set(checkpointed[0].state_dict())


def test_load_from_checkpoint_with_builders(checkpointed):
    vae, path = checkpointed
    loaded = VAE.load_from_checkpoint(path)
    assert loaded.fitted is True
    assert_same_model(vae, loaded)
    with open(path, "rb") as stream:
        assert_same_model(vae, VAE.load_from_checkpoint(stream))
    assert VAE.load_from_checkpoint(path, beta=7.0).beta == 7.0


def test_load_from_checkpoint_with_custom_networks(tmp_path):
    vae = fitted_vae()
    vae.trainer.save_checkpoint(tmp_path / "custom.ckpt")
    with pytest.raises(ValueError, match=r"`encoder` must be passed in: .*custom\.ckpt"):
        VAE.load_from_checkpoint(tmp_path / "custom.ckpt")
    encoder, decoder = networks(seed=1)
    loaded = VAE.load_from_checkpoint(tmp_path / "custom.ckpt", encoder=encoder, decoder=decoder)
    assert loaded.fitted is True
    assert_same_model(vae, loaded)


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": -1.0}, r"`beta` must be a finite number >= 0, got -1\.0"),
        ({"beta": float("nan")}, "`beta` must be a finite number >= 0, got nan"),
        ({"beta": "4"}, "`beta` must be a finite number >= 0, got '4'"),
        ({"latent_dim": 0}, "`latent_dim` must be an integer >= 1, got 0"),
        ({"latent_dim": 2.0}, r"`latent_dim` must be an integer >= 1, got 2\.0"),
        ({"encoder_out_dim": 0}, "`encoder_out_dim` must be an integer >= 1, got 0"),
        ({"default_dist": "gaussian"}, r"`default_dist` must be one of 'normal', .*got 'gaussian'"),
        ({"lr": 0.0}, r"`lr` must be a finite number > 0, got 0\.0"),
        ({"weight_decay": -0.1}, r"`weight_decay` must be a finite number >= 0, got -0\.1"),
        ({"random_state": -1}, r"`random_state` must be None or an integer from 0 to 2\*\*32 - 1, got -1"),
        ({"random_state": "0"}, r"`random_state` must be None or an integer from 0 to 2\*\*32 - 1, got '0'"),
        ({"encoder": torch.relu}, r"`encoder` must be a torch\.nn\.Module, got builtin"),
        ({"decoder": None}, r"`decoder` must be a torch\.nn\.Module, got NoneType"),
        ({"max_epoch": 3}, r"keyword argument of VAE .*'max_epochs'.*got 'max_epoch'\. Did you mean 'max_epochs'"),
    ],
    ids=lambda value: ",".join(f"{k}={v!r:.10}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_wrong_arguments(arguments, message):
    encoder, decoder = networks()
    right = {"encoder": encoder, "decoder": decoder, "encoder_out_dim": 8, "latent_dim": 2}
    VAE(**right)
    with pytest.raises(ValueError, match=message):
        VAE(**{**right, **arguments})


def test_wrong_encoder_out_dim():
    encoder, decoder = networks()
    vae = VAE(encoder, decoder, encoder_out_dim=9, latent_dim=2, **QUIET)
    message = r"`encoder_out_dim` must be .*got 9; the encoder gave shape \(3, 8\) for images of shape \(3, 1, 4"
    with pytest.raises(ValueError, match=message):
        vae.fit(DataLoader(images(), batch_size=3))
    with pytest.raises(ValueError, match=message):
        vae.encode(images(3))
    with pytest.raises(ValueError, match=r"got 64; the encoder gave shape \(2, 1, 4, 4, 4\)"):
        VAE(nn.Identity(), decoder, 64, 2).encode(images(2))  # not flattened
    assert vae.fitted is False


def test_decoder_of_another_shape():
    encoder, _ = networks()
    # would broadcast against the images without a word
    decoder = nn.Sequential(nn.Linear(2, 16), nn.Unflatten(1, (1, 4, 4, 1)))
    vae = VAE(encoder, decoder, 8, 2, **QUIET)
    message = r"`decoder` must give the shape of the images, \(3, 1, 4, 4, 4\), got \(3, 1, 4, 4, 1\)"
    with pytest.raises(ValueError, match=message):
        vae.fit(DataLoader(images(), batch_size=3))


def test_empty_loaders():
    empty, full = DataLoader(images(2), batch_size=3, drop_last=True), DataLoader(images(), batch_size=3)
    details = r"at least one batch, got an empty loader \(dataset of 2 items, batch_size=3, drop_last=True\)"
    with pytest.raises(ValueError, match=f"`train_dataloader` must give {details}"):
        custom_vae().fit(empty)
    with pytest.raises(ValueError, match=f"`val_dataloader` must give {details}"):
        custom_vae().fit(full, empty)
    vae = fitted_vae()
    for method in (vae.transform, vae.transform_with_targets):
        with pytest.raises(ValueError, match="`test_dataloader` must give at least one batch, got an empty loader"):
            method([])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_non_finite_images(value):
    x = images()
    x[4, 0, 1, 2, 3] = value
    loader = DataLoader(DictItems(x), batch_size=3)
    vae = fitted_vae()
    before = {name: p.clone() for name, p in vae.state_dict().items()}
    where = r"batch 1 must be finite, got non-finite values in item 1 \(sub-04\) with 1"
    with pytest.raises(ValueError, match=f"training {where}"):
        custom_vae().fit(loader)
    with pytest.raises(ValueError, match=f"validation {where}"):
        custom_vae(num_sanity_val_steps=2).fit(DataLoader(images(), batch_size=3), loader)
    with pytest.raises(ValueError, match=f"images of {where}"):
        vae.transform(loader)
    with pytest.raises(ValueError, match="images of `x` must be finite"):
        vae.encode(x)
    assert all(torch.equal(before[name], p) for name, p in vae.state_dict().items())


def test_codes_of_the_wrong_shape():
    vae = custom_vae()
    message = r"`z` must be a tensor of shape \(batch, latent_dim=2\), got shape "
    with pytest.raises(ValueError, match=message + r"\(4, 3\)"):
        vae.decode(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=message + r"\(2,\)"):
        vae.decode(torch.zeros(2))
    with pytest.raises(ValueError, match="got list"):
        vae.decode([[0.0, 0.0]])


@pytest.mark.parametrize("n_samples", [0, -1, 2.0, True])
def test_number_of_samples(n_samples):
    with pytest.raises(ValueError, match=f"`n_samples` must be an integer >= 1, got {n_samples!r}"):
        custom_vae().sample(n_samples)


def test_from_network():
    encoder = build_encoder((4, 4, 4), channels=(4,))
    with pytest.raises(ValueError, match="got a Encoder without encoder, decoder, fc_mu, fc_logvar"):
        VAE.from_network(encoder)
    donor = built_vae()
    vae = VAE.from_network(donor, beta=3.0)
    for part in ("encoder", "decoder", "fc_mu", "fc_logvar"):
        assert getattr(vae, part) is getattr(donor, part)
    assert (vae.beta, vae.latent_dim, vae.encoder_out_dim) == (3.0, 2, donor.encoder_out_dim)


@pytest.mark.parametrize(
    "precision", ["bf16-true", "16-true", "transformer-engine", "transformer-engine-float16", "half"]
)
def test_true_half_precisions_are_refused(precision):
    with pytest.raises(ValueError, match=rf"`precision` must be one of '32-true', .*'16-mixed', got '{precision}'"):
        custom_vae(precision=precision)


def test_true_half_precision_of_a_trainer_of_ones_own_is_refused():
    vae = custom_vae()
    with pytest.raises(ValueError, match=r"`precision` must be one of .*, got 'bf16-true'"):
        pl.Trainer(**QUIET, precision="bf16-true").fit(vae, DataLoader(images(), batch_size=3))
    vae.trainer_params["precision"] = "bf16-true"
    with pytest.raises(ValueError, match=r"`precision` must be one of .*, got 'bf16-true'"):
        vae.fit(DataLoader(images() * torch.nan, batch_size=3))  # before an image is read


@pytest.mark.parametrize("precision", ["32-true", 32, "64-true", "bf16-mixed", None])
def test_precisions_that_are_accepted_train(precision):
    vae = built_vae(precision=precision).fit(DataLoader(images(), batch_size=3))
    assert vae.transform(DataLoader(images(), batch_size=3)).isfinite().all()


@pytest.mark.parametrize(("name", "alias"), [("bf16-mixed", "bf16"), ("16-mixed", 16)])
def test_lightnings_other_names_of_precisions_embed_alike(name, alias):
    def codes(precision):
        vae = custom_vae(precision=precision, stochastic_transform=False)
        vae.fitted_ = True
        return vae.transform(DataLoader(images(), batch_size=3))

    assert torch.equal(codes(name), codes(alias))
    assert not torch.equal(codes(name), codes("32-true"))


def batch_norm_vae(layer=None, **kwargs):
    layer = nn.BatchNorm1d(8) if layer is None else layer
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), layer)
    return VAE(encoder, networks()[1], encoder_out_dim=8, latent_dim=2, **{**QUIET, **kwargs})


def test_batch_normalisation_and_a_batch_of_one_image_are_refused_before_training():
    message = (
        r"training batch 2 is of one image \(7 in batches of 3\), which the batch normalisation in `encoder\.2` can't "
        r"be trained on\. Give the DataLoader drop_last=True or another batch_size; to the bundle, --train#dataloader#"
    )
    vae = batch_norm_vae()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        vae.fit(DataLoader(images(7), batch_size=3))
    with pytest.raises(ValueError, match=message):
        pl.Trainer(**QUIET).fit(vae, DataLoader(images(7), batch_size=3))
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


@pytest.mark.filterwarnings("ignore:Found 1 module.* in eval mode:UserWarning")  # the frozen one
def test_batch_normalisation_and_batches_of_more_train():
    for loader in (
        DataLoader(images(7), batch_size=3, drop_last=True),
        DataLoader(images(8), batch_size=3),
    ):
        assert batch_norm_vae().fit(loader).fitted
    assert batch_norm_vae(limit_train_batches=2).fit(DataLoader(images(7), batch_size=3)).fitted
    frozen = batch_norm_vae()
    frozen.encoder[2].eval()
    assert frozen.fit(DataLoader(images(7), batch_size=3)).fitted
    # one image has more than one value per channel here
    encoder = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2), nn.Flatten(), nn.Linear(16, 8))
    maps = VAE(encoder, networks()[1], encoder_out_dim=8, latent_dim=2, **QUIET)
    assert maps.fit(DataLoader(images(7), batch_size=3)).fitted


def test_a_batch_of_one_image_that_was_not_foreseen_is_named():
    batches = [images(3), images(1)]
    with pytest.raises(
        ValueError, match=r"training batch 1 is of one image, .* \(Expected more than 1 value per channel"
    ):
        batch_norm_vae().fit(batches)


def test_instance_normalisation_of_maps_of_one_voxel_is_named():
    encoder = nn.Sequential(nn.Conv3d(1, 8, 4), nn.InstanceNorm3d(8), nn.Flatten())
    vae = VAE(encoder, networks()[1], encoder_out_dim=8, latent_dim=2, **QUIET)
    with pytest.raises(
        ValueError, match=r"training batch 0: instance normalisation can't be trained on maps of one voxel"
    ):
        vae.fit(DataLoader(images(), batch_size=3))


# ---- inputs nobody expects -------------------------------------------------------------------------------------------


def test_images_that_a_network_cannot_take_name_it():
    vae = custom_vae()
    with pytest.raises(
        ValueError, match=r"`encoder` must take images of shape \(2, 1, 5, 5\), but stops: mat1 and mat2"
    ):
        vae.encode(torch.rand(2, 1, 5, 5))
    encoder, _ = networks()
    other = VAE(encoder, nn.Linear(3, 64), encoder_out_dim=8, latent_dim=2)
    with pytest.raises(ValueError, match=r"`decoder` must take codes of shape \(2, 2\), but stops: mat1 and mat2"):
        other.training_step(images(2), 0)


def test_a_full_gpu_is_not_told_as_a_wrong_shape():
    class Full(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("the GPU is full")

    with pytest.raises(torch.OutOfMemoryError):
        VAE(Full(), nn.Identity(), encoder_out_dim=8, latent_dim=2).encode(images(2))


def test_an_encoder_that_gives_no_tensor():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(ValueError, match=r"got 8; the encoder gave a tuple for images of shape \(2, 1, 4, 4, 4\)"):
        VAE(Pair(), nn.Identity(), encoder_out_dim=8, latent_dim=2).encode(images(2))


def test_images_beyond_float32_are_refused_in_every_type():
    vae = custom_vae()
    assert vae.encode(1e15 * images(2)).mean.isfinite().all()
    for dtype, value in ((torch.float32, 3e38), (torch.float64, 1e300)):
        bad = torch.full((2, *SHAPE), value, dtype=dtype)
        with pytest.raises(ValueError, match=r"images of `x` must have values of at most 1e\+15 in magnitude"):
            vae.encode(bad)
        with pytest.raises(ValueError, match=r"images of training batch 3 must have values of at most 1e\+15"):
            vae.training_step(bad, 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.uint8])
def test_codes_of_every_type(dtype):
    vae = custom_vae()
    z = torch.tensor([[1, 2], [0, 3]])
    torch.testing.assert_close(vae.decode(z.to(dtype)), vae.decode(z.float()))


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.tensor([[torch.nan, 0.0]]), "The codes of `z` must be finite, got non-finite values in item 0 with 1"),
        (torch.tensor([[3e38, 0.0]]), r"The codes of `z` must have values of at most 1e\+15"),
        (torch.zeros(0, 2), r"`z` must be a tensor of shape \(batch, latent_dim=2\), got shape \(0, 2\)"),
        (torch.zeros(1, 2, dtype=torch.complex64), r"`z` must be .*got shape \(1, 2\), torch\.complex64"),
    ],
)
def test_codes_that_are_refused(z, message):
    with pytest.raises(ValueError, match=message):
        custom_vae().decode(z)


def test_targets_of_another_number_than_the_images():
    with pytest.raises(ValueError, match="must have a row for each of its 3 images"):
        fitted_vae().transform_with_targets([(images(3), torch.zeros(2))])


def test_a_list_of_batches_is_one_loader():
    """Lightning takes a list for several loaders, here of images whose rows would be batches."""
    listed = custom_vae(max_epochs=3).fit([images(3), (images(2, seed=1), torch.zeros(2))], [images(3)])
    batched = custom_vae(max_epochs=3).fit(DataLoader([images(3), images(2, seed=1)], batch_size=None), [images(3)])
    assert same_weights(listed, batched)
    assert not same_weights(listed, custom_vae())


def test_a_batch_of_none_is_refused():
    """Lightning would pass over it, and with ``max_steps`` look for another for ever."""
    with pytest.raises(ValueError, match=r"`batch` must be a tensor.*got NoneType"):
        custom_vae(max_steps=1).fit([None])


def test_an_image_key_that_is_no_string():
    with pytest.raises(ValueError, match=r"`image_key` must be a string, got \['image'\]"):
        custom_vae(image_key=["image"])


def test_layers_that_no_memory_holds():
    encoder, decoder = networks()
    with pytest.raises(
        ValueError, match="`encoder_out_dim` times `latent_dim` must be at most 4294967296, got 8 and 10"
    ):
        VAE(encoder, decoder, encoder_out_dim=8, latent_dim=10**12)


@pytest.mark.parametrize("change", [{"latent_dim": 10**8}, {"encoder_out_dim": 10**12}, {"latent_dim": None}])
def test_a_file_that_asks_for_other_layers_than_it_holds(tmp_path, change):
    path = custom_vae().save(tmp_path / "model.pt")
    content = torch.load(path, weights_only=True)
    description = json.loads(content["description"])
    description["hparams"].update(change)
    torch.save({**content, "description": json.dumps(description)}, path)
    with pytest.raises(ValueError, match=r"model\.pt.* the weights don't fit the networks: `latent_dim` and"):
        VAE.load(path, *networks())


# ---- a loss of one's own ---------------------------------------------------------------------------------------------


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


def test_a_loss_that_is_passed_in_is_the_criterion():
    loss = BetaVAELoss(2.5, "laplace")
    vae = custom_vae(loss=loss)
    assert vae.criterion is loss
    assert (vae.beta, vae.default_dist) == (2.5, "laplace")
    assert (vae.hparams["beta"], vae.hparams["default_dist"]) == (2.5, "laplace")
    torch.manual_seed(0)
    found = vae.training_step(images(), 0)
    torch.manual_seed(0)
    expected = custom_vae(beta=2.5, default_dist="laplace").training_step(images(), 0)
    assert all(torch.equal(found[name], expected[name]) for name in LOSSES)


def test_settings_of_a_loss_that_has_none_are_the_arguments():
    vae = custom_vae(loss=plain_loss, beta=3.0, default_dist="bernoulli", head=nn.Sigmoid())
    assert (vae.beta, vae.default_dist) == (3.0, "bernoulli")
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\] for `default_dist` 'bernoulli'"):
        vae.training_step(2 * images() + 1, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": 2.0}, r"`beta` must not be given beside `loss`, whose setting it is: got 2\.0, the loss has 4\.0"),
        ({"default_dist": "laplace"}, "`default_dist` must not be given .*got 'laplace', the loss has 'normal'"),
        ({"loss": 3}, "`loss` must be None, a BetaVAELoss or another callable.*type int"),
        ({"loss": "mse"}, "`loss` must be None, a BetaVAELoss or another callable.*type str"),
    ],
)
def test_a_loss_and_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        custom_vae(**{"loss": BetaVAELoss(4.0), **arguments})


def test_arguments_that_say_what_the_loss_says_are_accepted():
    assert custom_vae(loss=BetaVAELoss(4.0, "laplace"), beta=4.0, default_dist="laplace").beta == 4.0
    assert custom_vae(loss=BetaVAELoss(4.0), beta=1.0).beta == 4.0  # the default can't be told from one given


@pytest.mark.parametrize("name", ["beta", "default_dist"])
def test_where_it_is_known_settings_beside_a_loss_are_always_refused(name):
    loss = BetaVAELoss(1.0)
    with pytest.raises(
        ValueError, match=f"`{name}` must not be given beside `loss`, whose setting it is: give it to the"
    ):
        built_vae(loss=loss, **{name: getattr(loss, name)})
    assert built_vae(loss=loss).criterion is loss


@pytest.mark.parametrize(("name", "value"), [("beta", -1.0), ("beta", "4"), ("default_dist", "student")])
def test_settings_of_a_loss_are_checked(name, value):
    loss = Weighted()
    setattr(loss, name, value)
    with pytest.raises(ValueError, match=rf"`loss\.{name}` must be .*got {value!r}"):
        custom_vae(loss=loss)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda x, p, q: None, "`loss` must give a dictionary .* got a NoneType, where 'loss', 'rec_loss', 'kl_loss'"),
        (lambda x, p, q: {"loss": x.sum()}, "got keys 'loss', where 'rec_loss', 'kl_loss' isn't one"),
        (lambda x, p, q: {**plain_loss(x, p, q), "kl_loss": 3.0}, "where 'kl_loss' isn't one"),
        (lambda x, p, q: {**plain_loss(x, p, q), "loss": x}, "where 'loss' isn't one"),
    ],
)
def test_what_a_loss_must_give(given, message):
    with pytest.raises(ValueError, match=message):
        custom_vae(loss=given).training_step(images(), 0)


def test_a_loss_s_weights_are_trained_and_its_further_numbers_logged():
    loss = Weighted()
    vae = custom_vae(loss=loss, lr=0.1).fit(DataLoader(images(), batch_size=3))
    assert number(loss.weight) != 1
    assert "train/extra" in vae.trainer.callback_metrics
    assert "criterion.weight" in vae.state_dict()


def test_a_subclass_counts():
    torch.manual_seed(0)
    whole = custom_vae(beta=2.0).training_step(images(), 0)
    torch.manual_seed(0)
    halved = custom_vae(loss=Halved(2.0)).training_step(images(), 0)
    torch.testing.assert_close(halved["kl_loss"], whole["kl_loss"] / 2)


LOSSES_OF_ONE_S_OWN = {"subclass": lambda: Halved(2.0), "module": Weighted, "function": lambda: plain_loss}


@pytest.mark.parametrize("kind", LOSSES_OF_ONE_S_OWN)
def test_a_model_with_a_loss_of_one_s_own_needs_it_again(kind, tmp_path):
    loss = LOSSES_OF_ONE_S_OWN[kind]()
    saver = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="last")
    vae = built_vae(loss=loss, callbacks=[saver], enable_checkpointing=True).fit(DataLoader(images(), batch_size=3))
    vae.save(tmp_path / "model.pt")
    name = {"subclass": "Halved", "module": "Weighted", "function": "plain_loss"}[kind]
    description = json.loads(torch.load(tmp_path / "model.pt", weights_only=True)["description"])
    assert description["loss"].endswith(f"test_estimator.{name}")
    for reader, file in ((VAE.load, "model.pt"), (VAE.load_from_checkpoint, "last.ckpt")):
        path = tmp_path / file
        with pytest.raises(ValueError, match=rf"`loss` must be passed in: .*{file} .*{name}") as caught:
            reader(path)
        assert "\n" not in str(caught.value)
        again = LOSSES_OF_ONE_S_OWN[kind]()
        loaded = reader(path, loss=again)
        assert loaded.criterion is again
        assert (loaded.beta, loaded.default_dist) == (vae.beta, vae.default_dist)
        assert same_weights(loaded, vae)
        replaced = BetaVAELoss(7.0, "laplace")
        if kind != "module":
            assert reader(path, loss=replaced).beta == 7.0
    networks_again = {"encoder": built_vae().encoder, "decoder": built_vae().decoder}
    with pytest.raises(ValueError, match="`loss` must be passed in"):
        VAE.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=False, **networks_again)
    with pytest.raises(ValueError, match=r"last\.ckpt can't be resumed from: `loss` must be passed in"):
        built_vae(max_epochs=2, callbacks=[saver], enable_checkpointing=True).fit(
            DataLoader(images(), batch_size=3), ckpt_path=tmp_path / "last.ckpt"
        )


def test_the_settings_of_a_beta_vae_loss_are_stored(tmp_path):
    vae = built_vae(loss=BetaVAELoss(2.5, "laplace"))
    loaded = VAE.load(vae.save(tmp_path / "model.pt"))
    assert type(loaded.criterion) is BetaVAELoss
    assert (loaded.beta, loaded.criterion.beta, loaded.criterion.default_dist) == (2.5, 2.5, "laplace")
    description = json.loads(torch.load(tmp_path / "model.pt", weights_only=True)["description"])
    assert "loss" not in description


def test_factories_are_not_stored(tmp_path):
    def make(**kwargs):
        saver = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="last")
        return built_vae(callbacks=[saver], enable_checkpointing=True, **kwargs)

    factories = {"optimizer": functools.partial(torch.optim.SGD, lr=0.01), "lr_scheduler": warmup_and_decay}
    vae = make(**factories).fit(DataLoader(images(), batch_size=3))
    assert not {"loss", *factories} & set(vae.hparams)
    loaded = VAE.load(vae.save(tmp_path / "model.pt"))
    assert loaded.optimizer is loaded.lr_scheduler is None
    assert VAE.load_from_checkpoint(tmp_path / "last.ckpt").optimizer is None
    resumed = make(max_epochs=2, **factories).fit(DataLoader(images(), batch_size=3), ckpt_path=tmp_path / "last.ckpt")
    assert type(resumed.trainer.optimizers[0]) is torch.optim.SGD


# ---- hyperparameters -------------------------------------------------------------------------------------------------


def test_hparams_hold_checked_values_in_both_copies():
    vae = custom_vae(beta=torch.tensor(2.0), lr=np.float64(0.1))
    for found in (vae.hparams, vae.hparams_initial):
        assert (type(found["beta"]), found["beta"]) == (float, 2.0)
        assert type(found["lr"]) is float
    assert vae.hparams["max_steps"] == -1  # the reference's trainer arguments too


@pytest.mark.parametrize("builders", [True, False])
@pytest.mark.parametrize(
    "options", [{"save_hparams": False}, {"ignore": ["lr", "latent_dim", "beta"]}, {"ignore": "lr"}]
)
def test_files_keep_what_hparams_do_not(builders, options, tmp_path):
    make = built_vae if builders else custom_vae
    saver = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="last")
    arguments = {"lr": 0.02, "beta": 3.0, "callbacks": [saver], "enable_checkpointing": True, **options}
    vae = make(**arguments).fit(DataLoader(images(), batch_size=3))
    left_out = [options["ignore"]] if isinstance(options.get("ignore"), str) else options.get("ignore")
    if left_out is None:
        assert dict(vae.hparams) == {}
    else:
        assert not set(left_out) & set(vae.hparams)
        assert vae.hparams["weight_decay"] == 0.01
    vae.save(tmp_path / "model.pt")
    given = {} if builders else dict(zip(("encoder", "decoder"), networks(seed=5), strict=True))
    for reader, file in ((VAE.load, "model.pt"), (VAE.load_from_checkpoint, "last.ckpt")):
        loaded = reader(tmp_path / file, **given)
        assert (loaded.lr, loaded.beta, loaded.latent_dim) == (0.02, 3.0, 2)
        assert dict(loaded.hparams) == dict(vae.hparams)
        assert same_weights(loaded, vae)
    assert VAE.load_from_checkpoint(tmp_path / "last.ckpt", lr=0.5, **given).lr == 0.5
    resumed = make(**{**arguments, "max_epochs": 2}).fit(
        DataLoader(images(), batch_size=3), ckpt_path=tmp_path / "last.ckpt"
    )
    assert resumed.trainer.global_step == 4


def test_arguments_of_a_derived_class_are_hparams_too(tmp_path):
    class Named(VAE):
        def __init__(self, encoder, decoder, *, study="ixi", **kwargs):
            super().__init__(encoder, decoder, **kwargs)
            self.study = study

    vae = Named(*networks(), encoder_out_dim=8, latent_dim=2, study="adni", **QUIET)
    assert vae.hparams["study"] == "adni"
    assert Named.load(vae.save(tmp_path / "model.pt"), *networks()).study == "adni"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ignore": 3}, "`ignore` must be None or a list of names of arguments, got 3"),
        ({"ignore": ["lr", 3]}, "`ignore` must be None or a list of names of arguments, got "),
        ({"save_hparams": "no"}, "`save_hparams` must be True or False, got 'no'"),
    ],
)
def test_wrong_arguments_about_hparams(arguments, message):
    with pytest.raises(ValueError, match=message):
        custom_vae(**arguments)


# ---- several rows of features for an image ---------------------------------------------------------------------------


class Slices(nn.Module):
    """Features of each of an image's slices, as a network along time or slices gives."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 8)

    def forward(self, x):
        return torch.tanh(self.linear(x.flatten(3).squeeze(1)))


class OfSlices(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 16)

    def forward(self, z):
        return self.linear(z).unflatten(2, (4, 4)).unsqueeze(1)


def sliced_vae(**kwargs):
    return VAE(Slices(), OfSlices(), 8, 3, **{"random_state": 0, **QUIET, **kwargs})


@pytest.mark.parametrize("stochastic", [False, True])
def test_an_encoder_of_several_rows(stochastic):
    vae, x = sliced_vae(stochastic_transform=stochastic), images(6)
    loader = DataLoader(TensorDataset(x, torch.arange(6)), batch_size=4)
    vae.fit(loader, loader)
    z = vae.transform(loader)
    assert z.shape == (6, 4, 3)
    assert torch.equal(z, vae.transform(loader))
    torch.testing.assert_close(z, vae.transform(DataLoader(x, batch_size=1)))
    features, targets = vae.transform_with_targets(loader)
    assert torch.equal(features, z)
    assert targets.tolist() == list(range(6))
    q = vae.encode(x)
    assert q.mean.shape == (6, 4, 3)
    assert torch.allclose(z, q.mean, atol=1e-6) is not stochastic
    assert vae.decode(z).shape == x.shape
    torch.testing.assert_close(vae.decode(q.mean), vae.reconstruct(x))
    losses = vae.training_step(x, 0)
    entries = 0.5 * (q.mean.square() + q.scale.square() - 1) - q.scale.log()
    torch.testing.assert_close(losses["kl_loss"], entries.sum() / 6)
