import functools
import json
import os
import resource

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from estimators import (
    LOSSES_OF_ONE_S_OWN,
    QUIET,
    batch_loader,
    built_vae,
    custom_vae,
    fitted_vae,
    images,
    networks,
    same_weights,
)
from torch import nn
from torch.utils.data import DataLoader

from monai_betavae import VAE, BetaVAELoss
from monai_betavae.training.learning_rate import warmup_and_decay


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


@pytest.mark.parametrize("change", [{"latent_dim": 10**8}, {"encoder_out_dim": 10**12}, {"latent_dim": None}])
def test_a_file_that_asks_for_other_layers_than_it_holds(tmp_path, change):
    path = custom_vae().save(tmp_path / "model.pt")
    content = torch.load(path, weights_only=True)
    description = json.loads(content["description"])
    description["hparams"].update(change)
    torch.save({**content, "description": json.dumps(description)}, path)
    with pytest.raises(ValueError, match=r"model\.pt.* the weights don't fit the networks: `latent_dim` and"):
        VAE.load(path, *networks())


@pytest.mark.parametrize("kind", LOSSES_OF_ONE_S_OWN)
def test_a_model_with_a_loss_of_one_s_own_needs_it_again(kind, tmp_path):
    loss = LOSSES_OF_ONE_S_OWN[kind]()
    saver = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="last")
    vae = built_vae(loss=loss, callbacks=[saver], enable_checkpointing=True).fit(DataLoader(images(), batch_size=3))
    vae.save(tmp_path / "model.pt")
    name = {"subclass": "Halved", "module": "Weighted", "function": "plain_loss"}[kind]
    description = json.loads(torch.load(tmp_path / "model.pt", weights_only=True)["description"])
    assert description["loss"].endswith(f"estimators.{name}")
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
