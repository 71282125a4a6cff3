import numpy as np
import pytest
import torch
from estimators import LOSSES, QUIET, Halved, Weighted, built_vae, custom_vae, images, networks, number, plain_loss
from torch import nn
from torch.utils.data import DataLoader

from monai_betavae import VAE, BetaVAELoss


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


def test_an_image_key_that_is_no_string():
    with pytest.raises(ValueError, match=r"`image_key` must be a string, got \['image'\]"):
        custom_vae(image_key=["image"])


def test_layers_that_no_memory_holds():
    encoder, decoder = networks()
    with pytest.raises(
        ValueError, match="`encoder_out_dim` times `latent_dim` must be at most 4294967296, got 8 and 10"
    ):
        VAE(encoder, decoder, encoder_out_dim=8, latent_dim=10**12)


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


def test_hparams_hold_checked_values_in_both_copies():
    vae = custom_vae(beta=torch.tensor(2.0), lr=np.float64(0.1))
    for found in (vae.hparams, vae.hparams_initial):
        assert (type(found["beta"]), found["beta"]) == (float, 2.0)
        assert type(found["lr"]) is float
    assert vae.hparams["max_steps"] == -1  # the reference's trainer arguments too


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
