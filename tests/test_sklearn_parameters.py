import inspect

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from estimators import QUIET, SHAPE, built_vae, custom_vae, fitted_vae, images, networks, number, same_weights
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.utils.data import DataLoader

from monai_betavae import VAE, BetaVAELoss


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
