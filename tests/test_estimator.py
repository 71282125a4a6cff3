"""The estimator's contract: training, embedding, sampling, files, seeds and messages."""

import inspect
import json
import warnings

import lightning.pytorch as pl
import pytest
import torch
from estimators import (
    LOSSES,
    QUIET,
    SHAPE,
    DictItems,
    Head,
    assert_same_rng,
    batch_loader,
    built_vae,
    custom_vae,
    fitted_vae,
    images,
    networks,
    number,
    rng_states,
    same_weights,
    seed_everything,
)
from monai.data import MetaTensor
from sklearn.exceptions import NotFittedError
from torch import nn
from torch.distributions import Bernoulli, Laplace, Normal
from torch.utils.data import DataLoader, Dataset, TensorDataset

from monai_betavae import VAE, BetaVAELoss, build_encoder

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
    for method, names in (("sample", ["self", "n_samples"]), ("forward", ["self", "x"])):
        own = inspect.signature(getattr(VAE, method)).parameters
        assert [name for name, p in own.items() if p.kind is not p.KEYWORD_ONLY] == names
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


# ---- mistakes --------------------------------------------------------------------------------------------------------


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
