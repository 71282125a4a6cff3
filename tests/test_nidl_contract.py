"""What a user of nidl 0.0.2's ``VAE`` and ``BetaVAELoss`` relies on, and where this package differs on purpose.

Numbers are compared with formulas written out here, not with the package's own functions. The differences are those of
docs/coming_from_nidl.md.
"""

import copy
import inspect
import math

import lightning.pytorch as pl
import pytest
import quiet_trainer
import torch
from torch import nn
from torch.distributions import Bernoulli, Gamma, Laplace, Normal
from torch.utils.data import DataLoader, TensorDataset

from monai_betavae import VAE, BetaVAELoss
from monai_betavae._checks import ArgumentTypeError

QUIET = {**quiet_trainer.QUIET, "max_epochs": 1}
N_ITEMS, SHAPE, FEATURES, LATENTS = 6, (1, 4, 4), 5, 3
X = torch.rand(N_ITEMS, *SHAPE, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N_ITEMS)


def networks():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, FEATURES), nn.Tanh())
        decoder = nn.Sequential(nn.Linear(LATENTS, 16), nn.Sigmoid(), nn.Unflatten(1, SHAPE))
    return encoder, decoder


def vae(**kwargs):
    return VAE(*networks(), FEATURES, LATENTS, **{"random_state": 0, **QUIET, **kwargs})


def loader(batch_size=2, **options):
    return DataLoader(X, batch_size=batch_size, **options)


def written_out(x, mean, mu, logvar, beta, dist):
    """The losses of a batch, image by image."""
    rec = kl = 0.0
    for image, decoded, m, lv in zip(x.double(), mean.double(), mu.double(), logvar.double(), strict=True):
        for value, prediction in zip(image.flatten().tolist(), decoded.flatten().tolist(), strict=True):
            if dist == "normal":
                rec += (value - prediction) ** 2
            elif dist == "laplace":
                rec += abs(value - prediction)
            else:
                rec -= value * math.log(prediction) + (1 - value) * math.log(1 - prediction)
        for centre, log_variance in zip(m.tolist(), lv.tolist(), strict=True):
            kl += 0.5 * (centre**2 + math.exp(log_variance) - 1 - log_variance)
    return {"rec_loss": rec / len(x), "kl_loss": kl / len(x), "loss": (rec + beta * kl) / len(x)}


# ---- signatures, attributes, hyperparameters -------------------------------------------------------------------------


def test_signature_of_the_loss():
    parameters = inspect.signature(BetaVAELoss).parameters
    reference = {name: p.default for name, p in parameters.items() if p.kind == p.POSITIONAL_OR_KEYWORD}
    assert reference == {"beta": 4.0, "default_dist": "normal"}
    # what was added is by keyword only and changes nothing unless it is given
    assert {name: p.default for name, p in parameters.items() if name not in reference} == {"schedule": None}
    assert parameters["schedule"].kind == inspect.Parameter.KEYWORD_ONLY
    assert list(inspect.signature(BetaVAELoss.__call__).parameters) == ["self", "x", "p", "q"]
    assert list(inspect.signature(BetaVAELoss.reconstruction_loss).parameters) == ["self", "p", "data"]
    assert list(inspect.signature(BetaVAELoss.kl_normal_loss).parameters) == ["self", "q"]
    assert (BetaVAELoss(2.0, "laplace").beta, BetaVAELoss(2.0, "laplace").default_dist) == (2.0, "laplace")


def test_arguments_by_position():
    encoder, decoder = networks()
    made = VAE(encoder, decoder, FEATURES, LATENTS, 2.0, "laplace", False, 1e-3, 0.1, 7)
    assert (made.encoder, made.decoder, made.encoder_out_dim, made.latent_dim) == (encoder, decoder, FEATURES, LATENTS)
    assert (made.beta, made.criterion.default_dist, made.stochastic_transform) == (2.0, "laplace", False)
    assert (made.lr, made.weight_decay, made.hparams.random_state) == (1e-3, 0.1, 7)


def test_attributes_and_defaults():
    made = VAE(*networks(), FEATURES, LATENTS)
    assert isinstance(made, pl.LightningModule)
    assert isinstance(made.criterion, BetaVAELoss)
    assert (made.beta, made.criterion.beta, made.criterion.default_dist) == (1.0, 1.0, "normal")
    assert (made.stochastic_transform, made.lr, made.weight_decay) == (True, 1e-4, 0.01)
    for layer in (made.fc_mu, made.fc_logvar):
        assert (type(layer), layer.in_features, layer.out_features) == (nn.Linear, FEATURES, LATENTS)
    assert (made.fitted, made.fitted_) == (False, False)
    assert set(made.state_dict()) >= {"fc_mu.weight", "fc_mu.bias", "fc_logvar.weight", "fc_logvar.bias"}
    assert all(name.split(".")[0] in ("encoder", "decoder", "fc_mu", "fc_logvar") for name in made.state_dict())


TRAINER_PARAMS = {
    "callbacks": None,
    "check_val_every_n_epoch": 1,
    "num_sanity_val_steps": None,
    "val_check_interval": None,
    "max_epochs": None,
    "min_epochs": None,
    "max_steps": -1,
    "min_steps": None,
    "enable_checkpointing": None,
    "enable_progress_bar": None,
    "enable_model_summary": None,
    "accelerator": "auto",
    "strategy": "auto",
    "devices": "auto",
    "num_nodes": 1,
    "precision": None,
}


def test_trainer_params():
    assert VAE(*networks(), FEATURES, LATENTS).trainer_params == TRAINER_PARAMS
    made = VAE(*networks(), FEATURES, LATENTS, max_epochs=3, limit_train_batches=2)
    assert made.trainer_params == {**TRAINER_PARAMS, "max_epochs": 3, "limit_train_batches": 2}
    assert made.trainer_params is made.trainer_params_


def test_hparams():
    own = {
        "encoder_out_dim": FEATURES,
        "latent_dim": LATENTS,
        "beta": 1.0,
        "default_dist": "normal",
        "stochastic_transform": True,
        "lr": 1e-4,
        "weight_decay": 0.01,
        "random_state": None,
    }
    trainer = {name: value for name, value in TRAINER_PARAMS.items() if name != "callbacks"}
    made = VAE(*networks(), FEATURES, LATENTS, limit_train_batches=2, callbacks=[])
    assert dict(made.hparams).items() >= {**own, **trainer, "limit_train_batches": 2}.items()
    assert set(made.hparams) - {*own, *trainer, "limit_train_batches"} == {"image_key", "lr_interval"}
    assert dict(VAE(*networks(), FEATURES, LATENTS, save_hparams=False).hparams) == {}
    assert "lr" not in VAE(*networks(), FEATURES, LATENTS, ignore=["lr"]).hparams


def test_methods_and_their_arguments():
    for name in ("training_step", "validation_step", "transform_step", "transform_step_with_targets", "predict_step"):
        parameters = inspect.signature(getattr(VAE, name)).parameters
        assert list(parameters) == ["self", "batch", "batch_idx", "dataloader_idx"]
        assert parameters["dataloader_idx"].default == 0
    assert list(inspect.signature(VAE.fit).parameters)[:3] == ["self", "train_dataloader", "val_dataloader"]
    for name in ("transform", "transform_with_targets"):
        assert list(inspect.signature(getattr(VAE, name)).parameters)[:2] == ["self", "test_dataloader"]
    assert not hasattr(vae(), "predict")  # it is a transformer


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dist", ["normal", "laplace", "bernoulli"])
@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_losses(dist, beta):
    generator = torch.Generator().manual_seed(1)
    p = torch.rand(X.shape, generator=generator) * 0.8 + 0.1
    mu, logvar = torch.randn(2, N_ITEMS, LATENTS, generator=generator)
    losses = BetaVAELoss(beta, dist)(X, p, Normal(mu, (logvar / 2).exp()))
    assert list(losses) == ["rec_loss", "kl_loss", "loss"]
    for name, value in written_out(X, p, mu, logvar, beta, dist).items():
        assert float(losses[name]) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(("make", "dist"), [(Normal, "normal"), (Laplace, "laplace")])
def test_a_distribution_from_the_decoder_counts_as_itself_without_its_scale(make, dist):
    p = X.flip(0)
    q = Normal(torch.zeros(N_ITEMS, 1), 1.0)
    expected = written_out(X, p, torch.zeros(N_ITEMS, 1), torch.zeros(N_ITEMS, 1), 1.0, dist)["rec_loss"]
    other = "laplace" if dist == "normal" else "normal"
    assert float(BetaVAELoss(1.0, other)(X, make(p, 3.0), q)["rec_loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("dist", "kind"), [("normal", Normal), ("laplace", Laplace), ("bernoulli", Bernoulli)])
def test_parse_distribution(dist, kind):
    parsed = BetaVAELoss(1.0, dist)._parse_distribution(X)
    assert type(parsed) is kind
    torch.testing.assert_close(parsed.mean, X)
    if dist != "bernoulli":
        assert torch.equal(parsed.scale, torch.ones_like(X))
    for given in (Normal(X, 2.0), Laplace(X, 2.0), Bernoulli(probs=X)):
        assert BetaVAELoss(1.0, dist)._parse_distribution(given) is given


@pytest.mark.parametrize(
    "call",
    [
        lambda loss: loss._parse_distribution(None),
        lambda loss: loss._parse_distribution(Gamma(1.0, 1.0)),
        lambda loss: loss(X, "x", Normal(X, 1.0)),
        lambda loss: loss.reconstruction_loss(X, X),
        lambda loss: loss.reconstruction_loss(Gamma(1.0, 1.0), X),
        lambda loss: loss.reconstruction_loss(Normal(X, 1.0), [1.0]),
        lambda loss: loss.kl_normal_loss(Gamma(1.0, 1.0)),
        lambda loss: loss.kl_normal_loss(X),
    ],
)
def test_a_wrong_type_is_a_type_error_and_a_value_error(call):
    for error in (TypeError, ValueError, ArgumentTypeError):
        with pytest.raises(error):
            call(BetaVAELoss())


def test_an_unknown_distribution_is_a_value_error():
    with pytest.raises(ValueError, match="default_dist"):
        BetaVAELoss(default_dist="poisson")


def test_a_tensor_as_beta():
    made = vae(beta=torch.tensor(2.5))
    assert (type(made.beta), made.beta, made.criterion.beta) == (float, 2.5, 2.5)
    assert type(BetaVAELoss(torch.tensor(4)).beta) is float


def test_kl_of_latents_of_more_axes():
    mu, logvar = torch.randn(2, N_ITEMS, 4, LATENTS, generator=torch.Generator().manual_seed(2))
    kl = BetaVAELoss().kl_normal_loss(Normal(mu, (logvar / 2).exp()))
    per_image = [
        sum(
            0.5 * (m**2 + math.exp(lv) - 1 - lv)
            for m, lv in zip(mu[i].flatten().tolist(), logvar[i].flatten().tolist(), strict=True)
        )
        for i in range(N_ITEMS)
    ]
    assert float(kl) == pytest.approx(sum(per_image) / N_ITEMS, rel=1e-5)


# ---- steps -----------------------------------------------------------------------------------------------------------


def posterior_of(model, x):
    with torch.no_grad():
        features = model.encoder(x)
        return model.fc_mu(features), model.fc_logvar(features)


def test_forward_draws_from_the_posterior():
    model = vae()
    mu, logvar = posterior_of(model, X)
    torch.manual_seed(5)
    noise = torch.normal(torch.zeros(N_ITEMS, LATENTS), torch.ones(N_ITEMS, LATENTS))
    torch.manual_seed(5)
    torch.testing.assert_close(model(X).detach(), mu + (logvar / 2).exp() * noise)


def test_run_step_takes_images_alone():
    model = vae()
    mu, logvar = posterior_of(model, X)
    torch.manual_seed(5)
    p, q = model._run_step(X)
    torch.manual_seed(5)
    z = model(X)
    torch.testing.assert_close(p.mean, model.decoder(z))
    torch.testing.assert_close(q.mean.detach(), mu)
    torch.testing.assert_close(q.stddev.detach(), (logvar / 2).exp())


@pytest.mark.parametrize("step", ["training_step", "validation_step"])
@pytest.mark.parametrize("dist", ["normal", "laplace", "bernoulli"])
def test_steps_return_the_losses_of_one_draw(step, dist):
    model = vae(beta=3.0, default_dist=dist)
    torch.manual_seed(5)
    with torch.no_grad():
        p, _ = model._run_step(X)
    torch.manual_seed(5)
    losses = getattr(model, step)(X, 0)
    assert set(losses) == {"loss", "rec_loss", "kl_loss"}
    for name, value in written_out(X, p.mean, *posterior_of(model, X), 3.0, dist).items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4)


class Logged(pl.Callback):
    def __init__(self):
        self.at_step, self.at_end = [], {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.at_step.append(set(trainer.logged_metrics))

    def on_validation_epoch_end(self, trainer, pl_module):
        self.at_end = dict(trainer.callback_metrics)


def test_logged_names():
    logged = Logged()
    model = vae(callbacks=[logged], log_every_n_steps=1)
    model.fit(loader(), loader())
    train = {"train/loss", "train/rec_loss", "train/kl_loss"}
    assert all(names >= train for names in logged.at_step)
    assert set(model.trainer.callback_metrics) == train | {"val/loss", "val/rec_loss", "val/kl_loss"}


def test_optimizer():
    (optimizer,) = vae(lr=0.1, weight_decay=0.2).configure_optimizers()
    assert type(optimizer) is torch.optim.AdamW
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.1, 0.2)
    assert optimizer.defaults["betas"] == (0.9, 0.999)


def test_one_step_is_adamw_s():
    """The fused AdamW makes the reference's step."""
    model = vae(lr=0.01, weight_decay=0.1)
    twin = copy.deepcopy(model)
    torch.manual_seed(3)
    twin_optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.1, fused=False)
    twin.training_step(X, 0)["loss"].backward()
    twin_optimizer.step()
    torch.manual_seed(3)
    (optimizer,) = model.configure_optimizers()
    model.training_step(X, 0)["loss"].backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name])


def test_fit_returns_the_fitted_estimator():
    model = vae()
    assert model.fit(loader(), loader()) is model
    assert model.fitted
    assert model.trainer.current_epoch == 1
    assert vae().fit(loader()).fitted


def test_a_second_fit_goes_on_from_the_weights_of_the_first():
    model = vae(lr=0.01).fit(loader())
    twin = vae(lr=0.01)
    twin.load_state_dict(model.state_dict())
    twin.fit(loader())
    with pytest.warns(UserWarning, match="goes on from its weights"):  # nidl says nothing
        model.fit(loader())
    for name, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name])


# ---- embedding and sampling ------------------------------------------------------------------------------------------


def test_transform_without_noise_is_fc_mu_of_the_encoder():
    model = vae(stochastic_transform=False).fit(loader())
    mu, _ = posterior_of(model, X)
    torch.testing.assert_close(model.transform(loader()), mu)
    torch.testing.assert_close(model.transform_step(X, 0).detach(), mu)


def test_transform_with_noise_is_of_the_posterior():
    model = vae().fit(loader())
    mu, logvar = posterior_of(model, X)
    many = torch.stack([model.transform_step(X, 0).detach() for _ in range(4000)])
    torch.testing.assert_close(many.mean(0), mu, atol=0.12, rtol=0)
    torch.testing.assert_close(many.std(0), (logvar / 2).exp(), atol=0.08, rtol=0.08)
    z = model.transform(loader())
    assert z.shape == (N_ITEMS, LATENTS)
    assert not torch.allclose(z, mu)


def test_transform_step_with_targets():
    model = vae(stochastic_transform=False).fit(loader())
    found = model.transform_step_with_targets((X, Y), 0)
    assert set(found) == {"features", "targets"}
    torch.testing.assert_close(found["features"], model.transform_step(X, 0))
    assert torch.equal(found["targets"], Y)
    assert torch.equal(model.transform_step_with_targets([X, Y, Y], 0, 1)["targets"], Y)
    assert torch.equal(model.transform_step_with_targets({"image": X, "label": Y}, 0)["targets"], Y)
    for batch in (X, (X,), {"image": X}):
        with pytest.raises(ValueError, match="target"):
            model.transform_step_with_targets(batch, 0)


def test_transform_with_targets():
    model = vae(stochastic_transform=False).fit(loader())
    features, targets = model.transform_with_targets(DataLoader(TensorDataset(X, Y), batch_size=4))
    torch.testing.assert_close(features, posterior_of(model, X)[0])
    assert torch.equal(targets, Y)


def test_an_overridden_step_with_targets_is_what_transform_with_targets_calls():
    class Doubled(VAE):
        def transform_step_with_targets(self, batch, batch_idx, dataloader_idx=0):
            found = super().transform_step_with_targets(batch, batch_idx, dataloader_idx)
            return {"features": found["features"], "targets": 2 * found["targets"]}

    model = Doubled(*networks(), FEATURES, LATENTS, **QUIET).fit(loader())
    _, targets = model.transform_with_targets(DataLoader(TensorDataset(X, Y), batch_size=4))
    assert torch.equal(targets, 2 * Y)


def test_sample_decodes_draws_from_the_prior():
    model = vae(random_state=None)
    torch.manual_seed(1)
    z = torch.randn(4, LATENTS)
    torch.manual_seed(1)
    torch.testing.assert_close(model.sample(4), model.decoder(z).detach())


def test_trainer_predict_gives_the_embedding():
    model = vae(stochastic_transform=False).fit(loader())
    rows = torch.cat(pl.Trainer(**quiet_trainer.QUIET).predict(model, loader()))
    torch.testing.assert_close(rows, posterior_of(model, X)[0])


# ---- different on purpose: docs/coming_from_nidl.md ------------------------------------------------------------------


def test_transform_keeps_the_dataset_s_order_and_agrees_with_itself():
    model = vae().fit(loader())
    expected = model.transform(loader())
    assert torch.equal(model.transform(loader(shuffle=True)), expected)
    assert model.transform(loader(batch_size=4, drop_last=True)).shape == expected.shape


def test_transform_before_fit_is_sklearn_s_error():
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        vae().transform(loader())


def test_sample_has_no_gradient_and_is_reproducible():
    model = vae()
    images = model.sample(2)
    assert not images.requires_grad
    assert torch.equal(images, model.sample(2))


def test_fit_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    vae().fit(loader())
    assert torch.equal(state, torch.get_rng_state())


def test_the_other_lightning_package_s_trainer_takes_no_module_of_this_one():
    other = pytest.importorskip("pytorch_lightning")
    trainer = other.Trainer(**quiet_trainer.QUIET, max_epochs=1)
    with pytest.raises(TypeError, match="`model` must be a `LightningModule`"):
        trainer.fit(vae(), loader())
