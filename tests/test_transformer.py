"""The scikit-learn transformer: scikit-learn's own checks, pipelines and searches, volumes, units, seeds, silence."""

import logging
import math
import pickle
import random

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch.utils.data import DataLoader

from monai_betavae import build_vae
from monai_betavae.transformer import VAETransformer

SHAPE = (6, 7, 5)
N_VOXELS = math.prod(SHAPE)


def features(n=60, n_features=6, seed=0):
    """Two factors behind all features, on scales of their own, and a little noise."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, 2))
    mixed = factors @ np.random.default_rng(99).normal(size=(2, n_features)) + 0.1 * rng.normal(size=(n, n_features))
    return mixed * 10.0 ** np.arange(n_features) + 5, factors


def volumes(n=24, seed=0):
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(98).normal(size=(2, *SHAPE))
    return (
        0.5 + 0.3 * np.einsum("nk,kxyz->nxyz", rng.normal(size=(n, 2)), patterns) + 0.05 * rng.normal(size=(n, *SHAPE))
    )


def transformer(**changes):
    return VAETransformer(**{"latent_dim": 2, "max_epochs": 2, "random_state": 0, "accelerator": "cpu", **changes})


def volume_transformer(**changes):
    return transformer(**{"spatial_shape": SHAPE, "channels": (4,), "warm_start": "linear", **changes})


@parametrize_with_checks([VAETransformer(latent_dim=2, max_epochs=1, accelerator="cpu")])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_features_are_reconstructed_from_their_factors():
    X, _factors = features(200)
    fitted = transformer(max_epochs=60, beta=0.05, lr=5e-3).fit(X)
    new, new_factors = features(100, seed=1)
    explained = 1 - ((new - fitted.inverse_transform(fitted.transform(new))) ** 2).mean(axis=0) / new.var(axis=0)
    assert explained.min() > 0.8  # of every feature, whatever its scale
    codes = np.c_[fitted.transform(new), np.ones(100)]
    residual = np.linalg.lstsq(codes, new_factors, rcond=None)[1] / 100
    assert (residual < 0.3).all()


def test_the_units_of_features_do_not_matter():
    X, _ = features()
    first, second = (transformer().fit(data) for data in (X, 3 * X - 100))
    assert second.transform(3 * X - 100) == pytest.approx(first.transform(X), abs=1e-5)
    Z = first.transform(X)
    assert second.inverse_transform(Z) == pytest.approx(3 * first.inverse_transform(Z) - 100, rel=1e-4)
    assert second.score(3 * X - 100) == pytest.approx(9 * first.score(X), rel=1e-4)
    assert first.mean_ == pytest.approx(X.mean(axis=0))
    assert first.scale_ == pytest.approx(X.std(axis=0))
    constant = transformer().fit(np.c_[X, np.ones(60)])
    assert constant.scale_[-1] == 1


def test_the_score_is_minus_the_summed_squared_error():
    X, _ = features(n_features=3)
    fitted = transformer().fit(X)
    rows = [((row - fitted.inverse_transform(fitted.transform(row[None]))[0]) ** 2).sum() for row in X]
    assert fitted.score(X) == pytest.approx(-np.mean(rows))
    flat = volumes()
    fitted = volume_transformer().fit(flat)
    reconstructed = fitted.inverse_transform(fitted.transform(flat)).reshape(flat.shape)
    assert fitted.score(flat) == pytest.approx(-((flat - reconstructed) ** 2).sum(axis=(1, 2, 3)).mean())


def test_training_and_beta_count():
    X, _ = features(100)
    X = X / X.std(axis=0)
    options = {"batch_size": 10, "lr": 1e-2}
    scores = [transformer(max_epochs=n_epochs, beta=0.1, **options).fit(X).score(X) for n_epochs in (1, 8)]
    assert scores[1] > scores[0] + 1
    spread = [transformer(max_epochs=8, beta=beta, **options).fit_transform(X).var() for beta in (0.1, 100.0)]
    assert spread[1] < 0.05 * spread[0]


# what the transformer keeps to itself
def test_volumes_are_embedded_as_build_vae_does_it():
    data = volumes()
    fitted = volume_transformer().fit(data)
    vae = build_vae(
        SHAPE,
        2,
        channels=(4,),
        warm_start="linear",
        random_state=0,
        lr=1e-3,
        max_epochs=2,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    tensor = torch.tensor(data, dtype=torch.float32)[:, None]
    vae.fit(DataLoader(tensor, batch_size=16, shuffle=True))
    assert fitted.transform(data) == pytest.approx(vae.encode(tensor).mean.detach().numpy(), abs=1e-6)
    decoded = vae.reconstruct(tensor).detach().numpy().reshape(24, -1)
    assert fitted.inverse_transform(fitted.transform(data)) == pytest.approx(decoded, abs=1e-5)


@pytest.mark.parametrize("start", ["none", "mean", "linear", "deformable"])
def test_volumes_come_flat_or_not(start):
    data = volumes(12)
    fitted = volume_transformer(warm_start=start).fit(data)
    flat = volume_transformer(warm_start=start).fit(data.reshape(12, -1))
    Z = fitted.transform(data)
    assert Z.shape == (12, 2)
    assert (flat.transform(data.reshape(12, -1)) == Z).all()
    assert fitted.inverse_transform(Z).shape == (12, N_VOXELS)
    assert fitted.n_features_in_ == N_VOXELS
    assert fitted.mean_ is None
    assert fitted.scale_ is None


def test_a_linear_start_reconstructs_as_pca_does():
    train, new = volumes(60), volumes(30, seed=1)
    fitted = volume_transformer(max_epochs=1, lr=1e-6, beta=1e-3).fit(train)
    flat = new.reshape(30, -1)
    pca = PCA(2).fit(train.reshape(60, -1))
    error = ((flat - pca.inverse_transform(pca.transform(flat))) ** 2).sum(axis=1).mean()
    assert fitted.score(new) == pytest.approx(-error, rel=0.05)
    assert error < 0.1 * ((flat - flat.mean(axis=0)) ** 2).sum(axis=1).mean()


def test_two_dimensional_images():
    images = volumes()[..., 2]
    fitted = volume_transformer(spatial_shape=[6, 7]).fit(images)
    assert fitted.inverse_transform(fitted.transform(images)).shape == (24, 42)


def test_a_pipeline_predicts_from_codes():
    X, factors = features(120)
    y = factors[:, 0] > 0
    pipeline = make_pipeline(
        transformer(max_epochs=7, batch_size=5, lr=1e-2, beta=0.05), StandardScaler(), LogisticRegression()
    )
    scores = cross_val_score(pipeline, X, y, cv=2)
    assert scores.mean() > 0.85
    volume_pipeline = make_pipeline(volume_transformer(), LogisticRegression()).fit(volumes(), np.arange(24) % 2)
    assert volume_pipeline.predict(volumes()).shape == (24,)


def test_a_search_finds_the_number_of_dimensions():
    X, _ = features(80)
    X = X / X.std(axis=0)
    search = GridSearchCV(
        transformer(max_epochs=7, batch_size=5, lr=1e-2, beta=0.05), {"latent_dim": [1, 2]}, cv=2
    ).fit(X)
    assert search.best_params_ == {"latent_dim": 2}
    assert search.best_estimator_.transform(X).shape == (80, 2)
    assert search.cv_results_["mean_test_score"][1] > search.cv_results_["mean_test_score"][0] + 0.5


def test_a_search_over_beta_chooses_by_what_the_codes_are_for():
    X, factors = features(60)
    pipeline = make_pipeline(transformer(max_epochs=20, batch_size=5, lr=1e-2), StandardScaler(), LogisticRegression())
    # of beta 1e4 nothing of X is left in the codes
    search = GridSearchCV(pipeline, {"vaetransformer__beta": [1e4, 0.05]}, cv=2, error_score="raise")
    search.fit(X, factors[:, 0] > 0)
    assert search.best_params_ == {"vaetransformer__beta": 0.05}
    assert search.cv_results_["mean_test_score"][1] > search.cv_results_["mean_test_score"][0] + 0.1


def test_pandas_in_and_out():
    X, _ = features(20)
    frame = pd.DataFrame(X, columns=list("abcdef"), index=[f"sub-{number}" for number in range(20)])
    fitted = transformer().set_output(transform="pandas").fit(frame)
    codes = fitted.transform(frame)
    assert codes.columns.tolist() == ["vaetransformer0", "vaetransformer1"]
    assert codes.index.tolist() == frame.index.tolist()
    assert fitted.feature_names_in_.tolist() == list("abcdef")
    with pytest.raises(ValueError, match="feature names"):
        fitted.transform(frame[list("fedcba")])


def test_clones_and_pickles():
    X, _ = features(20)
    fitted = transformer(channels=(4, 8)).fit(X)
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        copy.transform(X)
    again = pickle.loads(pickle.dumps(fitted))  # noqa: S301 -- made here
    assert (again.transform(X) == fitted.transform(X)).all()
    assert fitted.vae_._trainer is None  # it would keep the training data


def test_a_seed_decides_everything_and_leaves_the_callers_generators_alone():
    X, _ = features(30)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    first, again, other = (transformer(random_state=seed).fit_transform(X) for seed in (1, 1, 2))
    assert (first == again).all()
    assert abs(first - other).max() > 1e-3
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert (torch.get_rng_state() == states[2]).all()
    drawn = np.random.RandomState(0)
    one, two = (transformer(random_state=drawn).fit_transform(X) for _ in range(2))
    assert abs(one - two).max() > 1e-3
    assert (transformer(random_state=np.random.RandomState(0)).fit_transform(X) == one).all()
    np.random.seed(0)  # noqa: NPY002
    assert (transformer(random_state=None).fit_transform(X) == one).all()


def test_a_code_depends_on_its_row_alone():
    X, _ = features(30)
    fitted = transformer(batch_size=7).fit(X)
    codes = fitted.transform(X)
    assert codes.dtype == np.float64
    assert (fitted.transform(X[::-1]) == codes[::-1]).all()
    assert (fitted.transform(X[4:5]) == codes[4:5]).all()
    assert fitted.transform(X.astype(np.float32)) == pytest.approx(codes, abs=1e-4)
    # memory that may not be written to
    frozen = volumes(12).astype(np.float32)
    frozen.flags.writeable = False
    before = frozen.copy()
    assert volume_transformer().fit_transform(frozen).shape == (12, 2)
    assert (frozen == before).all()


def test_it_is_quiet_and_writes_nothing(tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.chdir(tmp_path)
    levels = [logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")]
    volume_transformer().fit_transform(volumes())
    X, _ = features(20)
    transformer().fit(X).score(X)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert not caplog.records
    assert list(tmp_path.iterdir()) == []
    assert [logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")] == levels
    transformer(verbose=1).fit(X)
    out, err = capfd.readouterr()
    assert "Epoch 1" in out + err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "X", "message"),
    [
        ({"latent_dim": 0}, None, "`latent_dim` must be an integer >= 1, got 0"),
        ({"beta": -1}, None, "`beta` must be a finite number >= 0, got -1"),
        ({"lr": 0}, None, "`lr` must be a finite number > 0"),
        ({"max_epochs": 0}, None, "`max_epochs` must be an integer >= 1, got 0"),
        ({"batch_size": 2.5}, None, "`batch_size` must be an integer >= 1, got 2.5"),
        ({"verbose": -1}, None, "`verbose` must be an integer >= 0"),
        ({"random_state": "x"}, None, "`random_state` must be None, an integer"),
        ({"accelerator": "cuad"}, None, "`accelerator` must be one of .* Did you mean 'cuda'"),
        ({"spatial_shape": (6,)}, None, "`spatial_shape` must be two or three positive integers"),
        (
            {"spatial_shape": (6, 8, 5)},
            np.zeros((3, *SHAPE)),
            r"`X` must have shape \(n, 6, 8, 5\), got \(3, 6, 7, 5\)",
        ),
        ({"spatial_shape": (6, 8)}, np.zeros((3, 7)), "`X` must have 48 columns, the voxels of `spatial_shape`"),
        ({"spatial_shape": (6, 8), "architecture": "con"}, np.zeros((3, 48)), "`architecture` must be one of"),
        ({"spatial_shape": (6, 8), "warm_start": "x"}, np.zeros((3, 48)), "`warm_start` must be one of"),
        ({"spatial_shape": (6, 8), "channels": ()}, np.zeros((3, 48)), "`channels` must be a sequence"),
        ({}, np.full((3, 2), np.nan), "contains NaN"),
        ({}, np.zeros((1, 2)), "minimum of 2 is required"),
        ({}, np.zeros((4, 2, 2)), "dim 3"),
    ],
)
def test_refusals(changes, X, message):
    with pytest.raises(ValueError, match=message):
        transformer(**changes).fit(np.eye(4) if X is None else X)


def test_refusals_after_fitting():
    fitted = transformer().fit(np.eye(4))
    with pytest.raises(ValueError, match="`Z` must have latent_dim=2 columns, got 3"):
        fitted.inverse_transform(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="Input Z contains NaN"):
        fitted.inverse_transform(np.full((1, 2), np.nan))
    with pytest.raises(ValueError, match="X has 3 features, but VAETransformer is expecting 4"):
        fitted.transform(np.eye(3))
    for method in ("transform", "inverse_transform", "score"):
        with pytest.raises(NotFittedError):
            getattr(transformer(), method)(np.eye(4))
