"""The estimator with covariates: training, codes, files, refusals."""

import copy
import json

import lightning.pytorch as pl
import pytest
import torch
from moving_shapes import SHAPE, grown, told_by
from quiet_trainer import QUIET
from torch.utils.data import DataLoader, default_collate

from monai_betavae import VAE, build_vae
from monai_betavae.networks.conditional_mean import extend_condition, fit_condition
from monai_betavae.training import LastCheckpoint, StepSeeds
from monai_betavae.training.step_seeds import order_by_epoch


def model(**options):
    defaults = {"channels": (4, 8), "n_covariates": 2, "random_state": 0, "stochastic_transform": False, "beta": 0.2}
    return build_vae(SHAPE, 8, **{**QUIET, **defaults, "lr": 1e-3, "max_epochs": 3, **options})


def loader(samples, **options):
    return DataLoader(samples, batch_size=8, **options)


@pytest.fixture(scope="module")
def fitted():
    train, validation = grown(80), grown(20, seed=2)
    return model().fit(loader(train, shuffle=True), loader(validation))


def test_codes_leave_the_covariates_out(fitted):
    train, others = grown(80), grown(60, seed=1)
    values, true = (default_collate(each)["covariates"] for each in (train, others))
    plain = model(n_covariates=0).fit(loader(train, shuffle=True))
    for column in range(2):
        told = [
            told_by(vae.transform(loader(train)), values[:, column], vae.transform(loader(others)), true[:, column])
            for vae in (plain, fitted)
        ]
        assert told[0] > 0.5
        assert told[1] < 0.1


def test_the_same_image_at_other_covariates(fitted):
    samples = grown(20, seed=1)
    batch = default_collate(samples)
    z = fitted.encode(batch).mean
    small, large = (fitted.decode(z, torch.tensor([growth, 0.0])) for growth in (-1.0, 1.0))
    volumes = [(image > 2).sum((1, 2, 3, 4)).float().mean() for image in (small, large)]
    # the simulator: the radius follows exp(0.12 growth), a volume exp(0.36 growth)
    assert float((volumes[1] / volumes[0]).log()) == pytest.approx(0.72, rel=0.25)
    torch.testing.assert_close(fitted.decode(z), fitted.decode(z, torch.zeros(2)))
    dim, bright = (
        fitted.sample(6, covariates=torch.tensor([0.0, site])).amax(dim=(1, 2, 3, 4)) for site in (-0.5, 0.5)
    )
    assert float((bright / dim).mean()) == pytest.approx(1.25 / 0.75, rel=0.1)


def test_reconstructions_use_the_images_own(fitted):
    batch = default_collate(grown(4, seed=1))
    restored = fitted.reconstruct(batch)
    torch.testing.assert_close(restored, fitted.reconstruct(batch["image"], batch["covariates"]))
    torch.testing.assert_close(restored, fitted.decode(fitted.encode(batch).mean, batch["covariates"]))
    assert fitted(batch["image"], covariates=batch["covariates"]).shape == (4, 8)


def test_files_bring_the_conditional_model_back(fitted, tmp_path):
    batch = default_collate(grown(4, seed=1))
    loaded = VAE.load(fitted.save(tmp_path / "vae.pt"))
    assert torch.equal(loaded.encode(batch).mean, fitted.encode(batch).mean)
    assert torch.equal(loaded.decode(torch.ones(1, 8), [1.0, 0.5]), fitted.decode(torch.ones(1, 8), [1.0, 0.5]))


def test_a_loaded_model_learns_a_new_site_alone_or_with_the_rest(fitted, tmp_path):
    old = grown(8, seed=1)
    new = [{**each, "covariates": torch.tensor([*each["covariates"], 1.0])} for each in grown(24, seed=5)]
    vae = VAE.load(fitted.save(tmp_path / "old.pt"))
    extend_condition(vae, 1)
    assert fit_condition(vae, loader(new))
    with_zero = [{**each, "covariates": torch.tensor([*each["covariates"], 0.0])} for each in old]
    assert torch.equal(vae.transform(loader(with_zero)), fitted.transform(loader(old)))
    loaded = VAE.load(vae.save(tmp_path / "new.pt"))
    torch.testing.assert_close(loaded.decoder.condition.mean_code, fitted.decoder.condition.mean_code)
    assert torch.equal(loaded.transform(loader(new)), vae.transform(loader(new)))
    before = fitted.decoder.condition.weight.detach()
    with pytest.warns(UserWarning, match="goes on from its weights"):
        vae.fit(loader(new, shuffle=True))
    assert torch.equal(vae.decoder.condition.weight[:, :2], before)
    assert not torch.equal(vae.fc_mu.weight, fitted.fc_mu.weight)


def test_columns_that_are_kept_stay_so_in_files(fitted, tmp_path):
    def new(n_covariates, n=24):
        rows = torch.ones(n_covariates)
        return [{**each, "covariates": torch.tensor([*each["covariates"], *rows[2:]])} for each in grown(n, seed=5)]

    vae = copy.deepcopy(fitted)
    extend_condition(vae, 1)
    fit_condition(vae, loader(new(3)))
    loaded = VAE.load(vae.save(tmp_path / "kept.pt"))
    assert (loaded.decoder.condition.n_fixed, loaded.decoder.condition.weight.requires_grad) == (2, False)
    before = loaded.decoder.condition.weight.detach().clone()
    with pytest.warns(UserWarning, match="goes on from its weights"):
        loaded.fit(loader(new(3), shuffle=True))
    assert torch.equal(loaded.decoder.condition.weight[:, :2], before[:, :2])
    assert not torch.equal(loaded.decoder.condition.weight[:, 2], before[:, 2])
    # a checkpoint of the training is resumed with the same columns, and the optimizer that has none of them
    path = tmp_path / "last.ckpt"
    loaded.trainer.save_checkpoint(path)
    read = VAE.load_from_checkpoint(path)
    assert (read.decoder.condition.n_fixed, read.decoder.condition.weight.requires_grad) == (2, False)
    other = model(n_covariates=3, max_epochs=4)
    other.fit(loader(new(3), shuffle=True), ckpt_path=path)
    assert torch.equal(other.decoder.condition.weight[:, :2], before[:, :2])
    # those of a model that keeps none are all trained again
    assert VAE.load(fitted.save(tmp_path / "all.pt")).decoder.condition.weight.requires_grad


@pytest.mark.parametrize("kept", [3, -1, "2", [1]])
def test_a_file_that_keeps_columns_it_has_not_is_refused(fitted, tmp_path, kept):
    path = fitted.save(tmp_path / "vae.pt")
    content = torch.load(path, weights_only=True)
    described = {**json.loads(content["description"]), "kept_covariates": kept}
    torch.save({**content, "description": json.dumps(described)}, path)
    with pytest.raises(ValueError, match=r"vae\.pt can't be loaded: `n_fixed` must be an integer from 0 to 2, got"):
        VAE.load(path)


def test_codes_of_a_new_site_end_where_the_others_are(fitted):
    def at_new_site(n, seed):
        rows = [(each, torch.tensor([float(each["covariates"][0]), 0.0, 1.0])) for each in grown(n, seed=seed)]
        return [{"image": 1.4 * each["image"], "covariates": row} for each, row in rows]

    vae = copy.deepcopy(fitted)
    extend_condition(vae, 1)
    before = vae.transform(loader(at_new_site(60, 9)))
    fit_condition(vae, loader(at_new_site(40, 7)))
    after, mean = vae.transform(loader(at_new_site(60, 9))), fitted.transform(loader(grown(80))).mean(0)
    torch.testing.assert_close(fitted.decoder.condition.mean_code, mean, atol=0.05, rtol=0)
    assert (after.mean(0) - mean).norm() < 0.5 * (before.mean(0) - mean).norm()


def test_a_resumed_training_ends_with_the_same_weights(tmp_path):
    train, states = grown(24), {}
    for name, stops in {"whole": [3], "resumed": [1, 3]}.items():
        for last in stops:
            path = tmp_path / name / "last.ckpt"
            vae = model(max_epochs=last, callbacks=[LastCheckpoint(path)], enable_checkpointing=True)
            vae.fit(loader(train, shuffle=True), ckpt_path=path if last != stops[0] else None)
        states[name] = vae.state_dict()
    for name, value in states["whole"].items():
        assert torch.equal(value, states["resumed"][name]), name


class Data(pl.LightningDataModule):
    def __init__(self, samples):
        super().__init__()
        self.samples = samples

    def train_dataloader(self):
        return loader(self.samples, shuffle=True)


@pytest.fixture
def reads(monkeypatch):
    """The loaders that the conditional mean was fitted from, at the start and at the end of a training."""
    found = []

    def counted(vae, read, *args):
        found.append(read)
        return fit_condition(vae, read, *args)

    monkeypatch.setattr("monai_betavae.estimator.fit_condition", counted)
    return found


@pytest.mark.filterwarnings("ignore:You have overridden `on_before_batch_transfer`")
@pytest.mark.parametrize("kind", ["loader", "datamodule"])
def test_a_trainer_of_ones_own_gives_the_model_of_fit(reads, kind):
    train = grown(24)
    fitted = model(max_epochs=2).fit(loader(train, shuffle=True))
    assert len(reads) == 2  # at the start and at the end
    vae = model(max_epochs=2)
    trainer = pl.Trainer(**{**QUIET, "max_epochs": 2}, callbacks=[StepSeeds(0)])
    with order_by_epoch(given := loader(train, shuffle=True), 0):
        trainer.fit(vae, given if kind == "loader" else Data(train))
    assert len(reads) == 4
    assert vae.decoder.condition.mean_code.abs().max() > 0
    if kind == "loader":  # a datamodule's loader has an order of its own
        for name, value in fitted.state_dict().items():
            assert torch.equal(value, vae.state_dict()[name]), name
    # nothing is left to fit
    before = vae.decoder.condition.weight.detach().clone()
    fit_condition(vae, loader(train), n_rounds=1)
    torch.testing.assert_close(vae.decoder.condition.weight, before, rtol=0.01, atol=0.01)


def test_the_fit_at_the_end_can_be_left_to_others(reads):
    train = grown(24)
    vae = model(max_epochs=1)
    vae.fits_condition = False
    vae.fit(loader(train))
    assert len(reads) == 1  # at the start
    assert vae.fitted


def test_loaders_that_cant_be_read_again_are_told(reads):
    samples = grown(16)
    vae = model(max_epochs=1, warm_start="none")
    with pytest.warns(UserWarning, match=r"fit_condition\(vae, loader\)"):
        pl.Trainer(**{**QUIET, "max_epochs": 1}).fit(vae, iter([default_collate(samples)]))
    assert reads == []
    plain = model(max_epochs=1, warm_start="none", n_covariates=0)
    pl.Trainer(**{**QUIET, "max_epochs": 1}).fit(plain, iter([default_collate(samples)]))  # has nothing to say


def test_the_prior_learns_in_training():
    vae = model(max_epochs=1)
    vae.fit(loader(grown(16)))
    vae.zero_grad()
    vae.training_step(default_collate(grown(8)), 0)["loss"].backward()
    assert vae.decoder.condition.weight.grad.abs().max() > 0


def test_what_lacks_covariates_is_refused(fitted):
    images = default_collate(grown(4))["image"]
    for call in (fitted.encode, fitted.reconstruct, fitted.forward):
        with pytest.raises(ValueError, match="must hold 'covariates', 2 coded columns"):
            call(images)
    with pytest.raises(ValueError, match="must hold 'covariates'"):
        fitted.transform(loader(images))
    with pytest.raises(ValueError, match="must hold 'covariates'"):
        model().fit(loader([{"image": image} for image in images]))
    plain = model(n_covariates=0)
    with pytest.raises(ValueError, match="the model isn't conditional"):
        plain.decode(torch.zeros(1, 8), [1.0, 2.0])
