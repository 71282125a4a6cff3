"""The estimator's contract: one section per row of the contract table in the design."""

import copy
import inspect
import json

import lightning.pytorch as pl
import pytest
import torch
from monai.data import MetaTensor
from sklearn.exceptions import NotFittedError
from torch import nn
from torch.distributions import Bernoulli, Laplace, Normal
from torch.utils.data import DataLoader

from monai_betavae import VAE, build_vae

pytestmark = [
    # Lightning's advice and torch's deprecation inside it; nothing the package could do otherwise
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\).*"),
    pytest.mark.filterwarnings(r"ignore:.*have no `val_dataloader`.*"),
    pytest.mark.filterwarnings(r"ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings(r"ignore:.*sampler has shuffling enabled.*"),
    pytest.mark.filterwarnings(r"ignore:.*Checkpoint directory .* exists and is not empty.*"),
]

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "devices": 1,
    "max_epochs": 1,
}
IMAGES = torch.rand(10, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))


class DictDataset(torch.utils.data.Dataset):
    def __init__(self, images=IMAGES, meta=False):
        self.images, self.meta = images, meta

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        return {"image": MetaTensor(image) if self.meta else image, "subject": f"sub-{index}", "label": index}


def loader(dataset=IMAGES, **options):
    return DataLoader(dataset, **{"batch_size": 4, **options})


def small(**options):
    return build_vae((8, 8, 8), 3, **{"channels": (4, 8), "random_state": 0, **QUIET, **options})


def plain(**options):
    """A model of custom networks, which no builder knows."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(512, 6))
    decoder = nn.Sequential(nn.Linear(3, 512), nn.Unflatten(1, (1, 8, 8, 8)))
    return VAE(encoder, decoder, **{"encoder_out_dim": 6, "latent_dim": 3, **QUIET, **options})


@pytest.fixture(scope="module")
def fitted():
    return small(stochastic_transform=False).fit(loader())


# ---- signature ------------------------------------------------------------------------------------------------------


def test_signature_is_the_reference_one():
    parameters = inspect.signature(VAE).parameters
    positional = {name: p.default for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
    assert positional == {
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
    assert isinstance(plain(), pl.LightningModule)


def test_attributes():
    vae = plain(beta=2.0)
    assert (vae.fc_mu.in_features, vae.fc_mu.out_features) == (vae.fc_logvar.in_features, 3) == (6, 3)
    assert (vae.criterion.beta, vae.criterion.default_dist, vae.fitted) == (2.0, "normal", False)
    assert vae.trainer_params["max_epochs"] == 1
    assert vae.trainer_params["check_val_every_n_epoch"] == 1
    assert vae.hparams["latent_dim"] == 3
    assert vae.hparams["beta"] == 2.0
    optimizer = vae.configure_optimizers()[0]
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (1e-4, 0.01)


def test_hparams_hold_no_objects():
    vae = plain(callbacks=[pl.Callback()], plugins=[], strategy=pl.strategies.SingleDeviceStrategy())
    assert not {"encoder", "decoder", "callbacks", "strategy"} & set(vae.hparams)
    json.dumps(dict(vae.hparams))
    assert len(vae.trainer_params["callbacks"]) == 1


# ---- batches and training -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dataset",
    [
        IMAGES,
        torch.utils.data.TensorDataset(IMAGES, torch.arange(10)),
        DictDataset(),
        DictDataset(meta=True),
    ],
    ids=["tensor", "tuple", "dict", "MetaTensor"],
)
def test_fit_takes_any_batch_and_gives_the_same_weights(dataset):
    from monai.data import DataLoader as MonaiLoader

    vae = small()
    assert vae.fit(MonaiLoader(dataset, batch_size=4), MonaiLoader(dataset, batch_size=4)) is vae
    assert vae.fitted
    reference = small().fit(loader(), loader())
    for name, value in reference.state_dict().items():
        assert torch.equal(vae.state_dict()[name], value), name


def test_training_lowers_the_loss():
    vae = small(max_epochs=30, lr=1e-2)
    before = float(vae.training_step(IMAGES, 0)["loss"].detach())
    vae.fit(loader())
    assert float(vae.training_step(IMAGES, 0)["loss"].detach()) < 0.8 * before


def test_logged_names_and_returned_keys():
    vae = small()
    trainer = pl.Trainer(**QUIET)
    trainer.fit(vae, loader(), loader())
    expected = {f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", "rec_loss", "kl_loss")}
    assert set(trainer.callback_metrics) == expected
    assert vae.fitted
    losses = vae.training_step(IMAGES, 0)
    assert set(losses) == {"loss", "rec_loss", "kl_loss"}
    assert set(vae.validation_step(IMAGES, 0)) == set(losses)
    torch.testing.assert_close(losses["loss"], losses["rec_loss"] + vae.beta * losses["kl_loss"])
    predicted = torch.cat(trainer.predict(vae, loader()))
    assert predicted.shape == (10, 3)


def test_validation_loss_is_the_mean_over_images_not_over_batches():
    vae = plain(beta=0.0, random_state=0)
    with torch.no_grad():
        vae.fc_logvar.weight.zero_()
        vae.fc_logvar.bias.fill_(-30)  # no noise: the loss is a function of the image
        per_image = torch.stack([vae.validation_step(image[None], 0)["rec_loss"] for image in IMAGES])
    metrics = pl.Trainer(**QUIET).validate(vae, loader(), verbose=False)[0]
    assert metrics["val/rec_loss"] == pytest.approx(float(per_image.mean()), rel=1e-5)


@pytest.mark.parametrize("distribution", [Normal, Laplace, Bernoulli])
def test_decoders_that_return_distributions(distribution):
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 512), nn.Unflatten(1, (1, 8, 8, 8)))

        def forward(self, z):
            out = self.net(z)
            return Bernoulli(logits=out) if distribution is Bernoulli else distribution(out, torch.ones_like(out))

    vae = VAE(plain().encoder, Decoder(), 6, 3, **QUIET)
    vae.training_step(IMAGES, 0)["loss"].backward()
    assert vae.decoder.net[0].weight.grad.abs().sum() > 0
    assert vae.sample(2).shape == (2, 1, 8, 8, 8)
    z = torch.zeros(1, 3)
    torch.testing.assert_close(vae.decode(z), vae.decoder(z).mean)


def test_bernoulli_model():
    vae = small(default_dist="bernoulli").fit(loader())
    samples = vae.sample(4)
    assert float(samples.min()) > 0
    assert float(samples.max()) < 1
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        vae.training_step(IMAGES * 3, 0)


# ---- transform ------------------------------------------------------------------------------------------------------


def test_transform_is_the_posterior_mean_row_by_row(fitted):
    fitted.eval()
    with torch.no_grad():
        expected = torch.cat([fitted.fc_mu(fitted.encoder(image[None])) for image in IMAGES])
    torch.testing.assert_close(fitted.transform(loader()), expected)


@pytest.mark.parametrize(
    "options",
    [{"shuffle": True}, {"drop_last": True}, {"batch_size": 3}, {"batch_size": 10}, {"num_workers": 2}],
    ids=str,
)
def test_row_i_is_item_i_whatever_the_loader(fitted, options):
    torch.testing.assert_close(fitted.transform(loader(**options)), fitted.transform(loader(batch_size=1)))


def test_stochastic_transform_repeats_and_does_not_depend_on_batches(fitted):
    vae = copy.copy(fitted)
    vae.stochastic_transform = True
    first = vae.transform(loader())
    assert torch.equal(first, vae.transform(loader()))
    torch.testing.assert_close(first, vae.transform(loader(batch_size=3, shuffle=True)))
    mean = fitted.transform(loader())
    q = fitted.encode(IMAGES)
    standardised = (first - mean) / q.scale.detach()
    assert 0.5 < float(standardised.std()) < 1.5  # noise of the posterior's own scale


def test_transform_with_targets(fitted):
    features, targets = fitted.transform_with_targets(loader(DictDataset(), shuffle=True))
    assert targets.tolist() == list(range(10))
    torch.testing.assert_close(features, fitted.transform(loader()))
    pairs = torch.utils.data.TensorDataset(IMAGES, torch.arange(10) * 2)
    assert fitted.transform_with_targets(loader(pairs, batch_size=3))[1].tolist() == list(range(0, 20, 2))
    with pytest.raises(ValueError, match="`target_key` must be a key of the batch, got 'age'"):
        fitted.transform_with_targets(loader(DictDataset()), target_key="age")


def test_transform_does_not_touch_training_callbacks():
    class Counter(pl.Callback):
        starts = 0

        def setup(self, trainer, pl_module, stage):
            Counter.starts += 1

    vae = small(callbacks=[Counter()]).fit(loader())
    assert Counter.starts == 1
    vae.transform(loader())
    assert Counter.starts == 1


def test_unfitted():
    for call in (small().transform, small().transform_with_targets):
        with pytest.raises(NotFittedError, match="not fitted"):
            call(loader())


def test_modes_are_restored(fitted):
    vae = copy.deepcopy(fitted)
    vae.train()
    vae.encoder.eval()  # a frozen part
    vae.transform(loader())
    vae.sample(1)
    vae.reconstruct(IMAGES)
    assert vae.training
    assert vae.decoder.training
    assert not vae.encoder.training


def test_dropout_is_off_in_everything_but_training():
    vae = small(dropout=0.5).fit(loader())
    vae.train()
    torch.testing.assert_close(vae.encode(IMAGES).mean, vae.encode(IMAGES).mean)
    torch.testing.assert_close(vae.reconstruct(IMAGES), vae.reconstruct(IMAGES))


# ---- encode, decode, reconstruct, sample ----------------------------------------------------------------------------


def test_encode_decode_reconstruct(fitted):
    q = fitted.encode({"image": MetaTensor(IMAGES)})
    assert isinstance(q, Normal)
    assert q.mean.shape == (10, 3)
    torch.testing.assert_close(fitted.reconstruct(IMAGES), fitted.decode(q.mean))
    torch.manual_seed(0)
    z = fitted(IMAGES)
    torch.manual_seed(0)
    torch.testing.assert_close(z, q.mean + q.scale * torch.randn(10, 3))


def test_sample(fitted):
    samples = fitted.sample(3)
    assert samples.shape == (3, 1, 8, 8, 8)
    assert not samples.requires_grad
    assert torch.equal(samples, fitted.sample(3))
    unseeded = small(random_state=None)
    assert not torch.equal(unseeded.decoder.linear(torch.randn(2, 3)), unseeded.decoder.linear(torch.randn(2, 3)))


# ---- one seed -------------------------------------------------------------------------------------------------------


def run_under(global_seed, random_state):
    torch.manual_seed(global_seed)
    vae = small(random_state=random_state, max_epochs=2)
    start = copy.deepcopy(vae.state_dict())
    vae.fit(loader(shuffle=True))
    return start, vae.state_dict(), vae.sample(2), vae.transform(loader())


def test_random_state_alone_decides():
    first, second, other = run_under(1, 5), run_under(2, 5), run_under(1, 6)
    for mine, same in zip(first[:2], second[:2], strict=True):
        assert all(torch.equal(value, same[name]) for name, value in mine.items())
    assert torch.equal(first[2], second[2])
    assert torch.equal(first[3], second[3])
    assert not torch.equal(first[0]["fc_mu.weight"], other[0]["fc_mu.weight"])
    assert not torch.equal(first[2], other[2])


def test_the_callers_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.get_rng_state()
    vae = small(random_state=7)
    vae.fit(loader(shuffle=True)).transform(loader())
    vae.sample(2)
    assert torch.equal(torch.get_rng_state(), expected)


# ---- precision ------------------------------------------------------------------------------------------------------


def test_losses_are_float32_under_autocast():
    vae = small()
    with torch.no_grad():
        expected = {name: float(value) for name, value in vae.training_step(IMAGES, 0).items()}
        with torch.autocast("cpu", torch.bfloat16):
            losses = vae.training_step(IMAGES, 0)
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert float(losses["rec_loss"]) == pytest.approx(expected["rec_loss"], rel=0.02)


def test_mixed_precision_training_is_finite():
    vae = small(precision="bf16-mixed", max_epochs=2).fit(loader())
    assert all(value.isfinite().all() for value in vae.state_dict().values())
    assert vae.transform(loader()).dtype == torch.float32


def test_huge_features_give_finite_losses():
    vae = plain()
    with torch.no_grad():
        vae.fc_logvar.bias.fill_(1e4)
        assert vae.training_step(IMAGES, 0)["kl_loss"].isfinite()
        vae.fc_logvar.bias.fill_(-1e4)
        assert vae.training_step(IMAGES, 0)["kl_loss"].isfinite()


# ---- files ----------------------------------------------------------------------------------------------------------


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def test_save_and_load(fitted, tmp_path):
    path = fitted.save(tmp_path / "models" / "vae.pt")
    torch.load(path, weights_only=True)
    loaded = VAE.load(path)
    assert loaded.fitted
    assert dict(loaded.hparams) == dict(fitted.hparams)
    torch.testing.assert_close(loaded.transform(loader()), fitted.transform(loader()))
    assert torch.equal(loaded.sample(2), fitted.sample(2))
    assert [entry.name for entry in path.parent.iterdir()] == ["vae.pt"]


def test_custom_networks_are_passed_in(tmp_path):
    vae = plain(random_state=0).fit(loader())
    path = vae.save(tmp_path / "vae.pt")
    with pytest.raises(ValueError, match=r"`encoder` must be passed in: .*vae\.pt"):
        VAE.load(path)
    fresh = plain()
    loaded = VAE.load(path, encoder=fresh.encoder, decoder=fresh.decoder)
    assert torch.equal(loaded.transform(loader()), vae.transform(loader()))
    with pytest.raises(ValueError, match=r"vae\.pt: the weights don't fit"):
        VAE.load(path, encoder=nn.Linear(2, 2), decoder=fresh.decoder)


def test_a_failed_save_leaves_the_old_file(fitted, tmp_path, monkeypatch):
    path = fitted.save(tmp_path / "vae.pt")
    before = path.read_bytes()
    monkeypatch.setattr(torch, "save", lambda content, target: (target.write_bytes(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        fitted.save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["vae.pt"]


@pytest.mark.parametrize("read", [VAE.load, VAE.load_from_checkpoint])
def test_a_payload_is_refused_and_not_run(read, tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "vae.pt"
    torch.save({"format": "monai_betavae.VAE/1", "state_dict": Payload(marker)}, path)
    with pytest.raises(ValueError, match=r"vae\.pt was refused"):
        read(path)
    assert not marker.exists()


def test_files_that_are_no_models_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.pt must be an existing model file"):
        VAE.load(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("not a model")
    with pytest.raises(ValueError, match=r"text\.pt"):
        VAE.load(tmp_path / "text.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt must be a file written by VAE\.save"):
        VAE.load(tmp_path / "other.pt")


def test_checkpoint_of_metatensor_training(tmp_path):
    from monai.data import DataLoader as MonaiLoader

    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, monitor="val/loss", save_last=True)
    vae = small(**{**QUIET, "enable_checkpointing": True, "callbacks": [checkpoint]})
    batches = MonaiLoader(DictDataset(meta=True), batch_size=4)
    vae.fit(batches, batches)
    content = torch.load(checkpoint.last_model_path, weights_only=True)
    assert "state_dict" in content
    loaded = VAE.load_from_checkpoint(checkpoint.last_model_path)
    assert loaded.fitted
    assert torch.equal(loaded.transform(loader()), vae.transform(loader()))
    resumed = small(**{**QUIET, "max_epochs": 2, "callbacks": [checkpoint], "enable_checkpointing": True}).fit(
        loader(), loader(), ckpt_path=checkpoint.last_model_path
    )
    assert resumed.trainer.current_epoch == 2
    assert resumed.trainer.global_step == 6


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -0.5}, r"`beta` must be a finite number >= 0, got -0\.5"),
        ({"latent_dim": 0}, "`latent_dim` must be an integer >= 1, got 0"),
        ({"latent_dim": 2.5}, r"`latent_dim` must be an integer >= 1, got 2\.5"),
        ({"encoder_out_dim": 0}, "`encoder_out_dim` must be an integer >= 1, got 0"),
        ({"default_dist": "gauss"}, "`default_dist` must be one of 'normal', 'laplace', 'bernoulli', got 'gauss'"),
        ({"lr": 0}, "`lr` must be a finite number > 0, got 0"),
        ({"weight_decay": -1}, "`weight_decay` must be a finite number >= 0, got -1"),
        ({"random_state": -1}, r"`random_state` must be None or an integer .*got -1"),
        ({"max_epoch": 3}, "got 'max_epoch'. Did you mean 'max_epochs'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        plain(**options)


def test_networks_must_be_modules():
    with pytest.raises(ValueError, match=r"`encoder` must be a torch\.nn\.Module, got str"):
        VAE("encoder", nn.Linear(3, 3), 6, 3)
    with pytest.raises(ValueError, match="`network` must have encoder, decoder, fc_mu and fc_logvar, got a Linear"):
        VAE.from_network(nn.Linear(3, 3))


def test_wrong_encoder_out_dim():
    vae = plain(encoder_out_dim=7)
    with pytest.raises(ValueError, match=r"`encoder_out_dim` .* got 7; the encoder gave shape \(4, 6\)"):
        vae.fit(loader())


def test_wrong_decoder_shape():
    vae = VAE(plain().encoder, nn.Linear(3, 5), 6, 3, **QUIET)
    with pytest.raises(
        ValueError, match=r"`decoder` must give the shape of the images, \(4, 1, 8, 8, 8\), got \(4, 5\)"
    ):
        vae.fit(loader())


def test_empty_loaders(fitted):
    empty = loader(batch_size=20, drop_last=True)
    for name, call in (
        ("train_dataloader", lambda: small().fit(empty)),
        ("val_dataloader", lambda: small().fit(loader(), empty)),
        ("test_dataloader", lambda: fitted.transform([])),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must give at least one batch, got an empty loader"):
            call()


def test_non_finite_images_name_batch_and_subject(fitted):
    images = IMAGES.clone()
    images[5, 0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"training batch 1 must be finite.*item 1 \(sub-5\) with 1"):
        small().fit(loader(DictDataset(images)))
    with pytest.raises(ValueError, match=r"batch 1 must be finite"):
        fitted.transform(loader(images))


def test_bad_codes_and_counts(fitted):
    with pytest.raises(ValueError, match=r"`z` must be a tensor of shape \(batch, latent_dim=3\), got shape \(2, 4\)"):
        fitted.decode(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="`n_samples` must be an integer >= 1, got 0"):
        fitted.sample(0)


def test_images_of_another_shape_are_named(fitted):
    with pytest.raises(
        ValueError, match=r"`image` must have channels and spatial shape \[1, 8, 8, 8\].*got \[1, 8, 8, 9\]"
    ):
        fitted.encode(torch.zeros(1, 1, 8, 8, 9))
