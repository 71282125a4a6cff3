import json

import lightning.pytorch as pl
import pytest
import torch
from estimators import same_weights
from moving_shapes import SHAPE, blobs, started
from quiet_trainer import QUIET
from torch.utils.data import DataLoader

from monai_betavae import VAE, BetaVAELoss, build_vae
from monai_betavae.data import GlobalOrder
from monai_betavae.networks.warm_start import likelihood_variance
from monai_betavae.objectives import OBJECTIVES, BetaTCVAELoss, CapacityLoss, DIPVAELoss, FreeBitsLoss, InfoVAELoss

OF_MEANS = pytest.mark.filterwarnings("ignore:.*acts on the posteriors' means")


def made(loss, **options):
    return build_vae(
        SHAPE, 3, channels=(4, 8), warm_start="deformable", random_state=0, loss=loss, **{**QUIET, **options}
    )


class Logged(pl.Callback):
    """What a training step logs, and the loss of each validation."""

    def __init__(self):
        self.values, self.validated = [], []

    def on_train_batch_end(self, trainer, *_args):
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.values.append({name: value for name, value in found.items() if name.startswith("train/")})

    def on_validation_epoch_end(self, trainer, module):
        self.validated.append(module.criterion.beta)


@OF_MEANS
@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_objective_trains_and_comes_back_from_files(name, tmp_path):
    volumes, logged = blobs(22), Logged()
    vae = made(
        OBJECTIVES[name](schedule={"kind": "linear", "length": 4, "start": 0.5}), max_epochs=2, callbacks=[logged]
    )
    vae.fit(DataLoader(volumes, batch_size=8), DataLoader(volumes[:5], batch_size=4))
    expected = {"train/loss", "train/rec_loss", "train/kl_loss"} | {f"train/{each}" for each in vae.criterion.scheduled}
    assert expected <= set(logged.values[-1])
    first = vae.criterion.scheduled[0]
    target = getattr(vae.criterion, first)
    assert [row[f"train/{first}"] / target for row in logged.values] == pytest.approx([0.5, 0.625, 0.75, 0.875, 1, 1])

    checkpoint = tmp_path / "vae.ckpt"
    trainer = pl.Trainer(max_epochs=1, **{**QUIET, "default_root_dir": tmp_path})
    other = made(OBJECTIVES[name](schedule={"kind": "linear", "length": 4}))
    trainer.fit(other, DataLoader(volumes, batch_size=8))
    trainer.save_checkpoint(checkpoint)
    for original, again in (
        (vae, VAE.load(vae.save(tmp_path / "vae.pt"))),
        (other, VAE.load_from_checkpoint(checkpoint)),
    ):
        assert type(again.criterion) is type(original.criterion)
        assert vars(again.criterion) == vars(original.criterion)
        same_weights(again, original)
        assert torch.equal(again.encode(volumes).mean, original.encode(volumes).mean)


def test_a_plain_loss_is_stored_as_before():
    vae = made(None)
    assert vae._described_loss() is None
    assert made(BetaVAELoss(2.0))._described_loss() is None
    assert made(FreeBitsLoss(2.0))._described_loss()["name"] == "free-bits"


@OF_MEANS
def test_the_codes_are_those_that_were_decoded_and_the_number_that_of_the_training_images():
    volumes, seen = blobs(21), []

    class Recorded(BetaTCVAELoss):
        def __call__(self, x, p, q, z=None, n_images=None):
            seen.append((len(x), n_images, torch.equal(vae.decoder(z), p.mean)))
            return super().__call__(x, p, q, z, n_images)

    vae = made(Recorded(), max_epochs=1)
    vae.fit(DataLoader(volumes, batch_size=8), DataLoader(volumes[:5], batch_size=4))
    assert [row[:2] for row in seen][-5:] == [(8, 21), (8, 21), (5, 21), (4, 21), (1, 21)]  # last batches are smaller
    assert (4, 21, True) in seen  # also in a validation, whose terms are compared with the training's


@OF_MEANS
def test_a_loader_without_length_needs_the_number_of_images():
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(blobs(8))

    loader = DataLoader(Endless(), batch_size=4)
    started_already = started("deformable", blobs(20), latent_dim=3)
    with pytest.raises(ValueError, match="`n_images` must be given"):
        VAE.from_network(started_already, loss=BetaTCVAELoss(), max_epochs=1, **QUIET).fit(loader)
    VAE.from_network(started_already, loss=BetaTCVAELoss(n_images=8), max_epochs=1, **QUIET).fit(loader)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_steps_are_those_of_the_optimizer_and_go_on_after_a_resume(accumulated, tmp_path):
    volumes = blobs(24)
    schedule = {"kind": "cyclical", "length": 4, "n_cycles": 2}

    def loader():
        return DataLoader(volumes, batch_size=4, sampler=GlobalOrder(volumes, seed=3))

    def trained(folder, epochs, resumed=None):
        logged = Logged()
        vae = made(BetaVAELoss(2.0, schedule=schedule), lr=0.01)
        trainer = pl.Trainer(max_epochs=epochs, accumulate_grad_batches=accumulated, callbacks=[logged], **QUIET)
        trainer.fit(vae, loader(), ckpt_path=resumed)
        trainer.save_checkpoint(folder / "last.ckpt")
        return vae, [row["train/beta"] for row in logged.values]

    whole, betas = trained(tmp_path / "whole", 3)
    steps = [number // accumulated for number in range(18)]
    expected = [2 * BetaVAELoss(schedule=schedule).schedule(step, 0) for step in steps]
    assert betas == pytest.approx(expected)
    _, first = trained(tmp_path / "first", 2)
    resumed, then = trained(tmp_path / "then", 3, tmp_path / "first" / "last.ckpt")
    assert first + then == pytest.approx(expected)
    assert resumed.decoder.correction.variance == whole.decoder.correction.variance


def test_the_correction_follows_the_weight_of_the_divergence():
    volumes, variances = blobs(24), []

    class Variances(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_args):
            variances.append(float(module.decoder.correction.variance))

    vae = made(
        BetaVAELoss(2.0, schedule={"kind": "linear", "length": 2, "unit": "epoch"}),
        max_epochs=3,
        callbacks=[Variances()],
    )
    vae.fit(DataLoader(volumes, batch_size=8), DataLoader(volumes[:8], batch_size=8))
    # beta 0, which counts as 0.001, then 1, then 2: half of it
    assert variances[::3] == pytest.approx([0.0005, 0.5, 1.0])
    assert float(vae.decoder.correction.variance) == likelihood_variance(vae) == 1.0


def test_a_fit_ends_with_the_weights_of_the_schedules_end():
    volumes, validated = blobs(24), []

    class Validated(pl.Callback):
        def on_validation_end(self, trainer, module):
            validated.append(module.encode(volumes).mean)

    schedule = {"kind": "linear", "length": 10, "unit": "epoch"}
    for loaders in ((volumes,), (volumes, volumes)):
        vae = made(BetaVAELoss(8.0, schedule=schedule), max_epochs=2, callbacks=[Validated()])
        vae.fit(*(DataLoader(each, batch_size=8) for each in loaders))
        assert float(vae.decoder.correction.variance) == likelihood_variance(vae) == 4.0
    torch.testing.assert_close(vae.encode(volumes).mean, validated[-1])


def test_after_a_validation_within_an_epoch_the_position_counts_again():
    volumes, variances = blobs(32), []

    class Variances(pl.Callback):
        def on_before_backward(self, trainer, module, loss):
            variances.append(float(module.decoder.correction.variance))

    loss = BetaVAELoss(4.0, schedule={"kind": "linear", "length": 2, "unit": "epoch"})
    vae = made(loss, max_epochs=2, callbacks=[Variances()], val_check_interval=2)
    vae.fit(DataLoader(volumes, batch_size=8), DataLoader(volumes[:8], batch_size=8))
    assert variances == pytest.approx([0.0005] * 4 + [1.0] * 4)


def test_losses_of_ones_own_need_no_schedule_and_may_have_an_attribute_of_that_name():
    volumes = blobs(16)

    class Derived(BetaVAELoss):
        def __init__(self):
            self.beta, self.default_dist = 1.0, "normal"

    class Own:
        schedule = "slow"

        def __call__(self, x, p, q):
            return BetaVAELoss(1.0)(x, p, q)

    for loss in (Derived(), Own()):
        made(loss, max_epochs=1).fit(DataLoader(volumes, batch_size=8))


def test_a_derived_class_that_makes_its_objective_itself_is_loaded(tmp_path):
    class Own(VAE):
        def __init__(self, *args, beta=1.0, default_dist="normal", **kwargs):
            super().__init__(*args, loss=FreeBitsLoss(2.0), **kwargs)

    volumes = blobs(16)
    parts = started("deformable", volumes)
    vae = Own(parts.encoder, parts.decoder, parts.encoder_out_dim, parts.latent_dim)
    again = Own.load(vae.save(tmp_path / "own.pt"))
    assert type(again.criterion) is FreeBitsLoss


@OF_MEANS
def test_a_weight_of_the_divergence_of_its_own_settles_the_start():
    volumes = blobs(24)
    for loss, variance in (
        (BetaTCVAELoss(beta=8.0, gamma=3.0), 1.5),
        (InfoVAELoss(2.0, alpha=0.5), 0.5),
        (CapacityLoss(4.0), 2.0),
    ):
        vae = made(loss)
        assert likelihood_variance(vae) == variance
        vae.trainer_params_["max_epochs"] = 1
        vae.fit(DataLoader(volumes, batch_size=8))
        assert float(vae.decoder.correction.variance) == variance


def test_a_run_with_an_objective_is_not_resumed_without_it(tmp_path):
    volumes = blobs(16)
    options = {**QUIET, "default_root_dir": tmp_path}
    trainer = pl.Trainer(max_epochs=1, **options)
    trainer.fit(made(FreeBitsLoss(2.0)), DataLoader(volumes, batch_size=8))
    trainer.save_checkpoint(tmp_path / "free.ckpt")
    for loss, message in (
        (None, "the objective 'free-bits'"),
        (FreeBitsLoss(3.0), "the checkpoint's was the objective free-bits"),
        (BetaVAELoss(2.0), "this model's is the beta-VAE's without a schedule"),
    ):
        with pytest.raises(ValueError, match=message):
            pl.Trainer(max_epochs=2, **options).fit(
                made(loss), DataLoader(volumes, batch_size=8), ckpt_path=tmp_path / "free.ckpt"
            )


def test_a_wrong_objective_in_a_file_is_refused_by_name(tmp_path):
    path = made(FreeBitsLoss(2.0)).save(tmp_path / "vae.pt")
    content = torch.load(path, weights_only=True)
    description = json.loads(content["description"])
    description["loss"]["name"] = "os.system"
    content["description"] = json.dumps(description)
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"vae\.pt.*An objective must be one of"):
        VAE.load(path)


def test_terms_of_means_need_codes_that_are_not_corrected():
    volumes = blobs(24)
    found = {}
    for n_corrections in (0, 1):
        for loss in (BetaVAELoss(1.0), DIPVAELoss(1.0, kind="I", off_diagonal=1e4)):
            vae = made(loss, n_corrections=n_corrections, max_epochs=3)
            loader = DataLoader(volumes, batch_size=12)
            if n_corrections and isinstance(loss, DIPVAELoss):
                with pytest.warns(UserWarning, match="n_corrections=0"):
                    vae.fit(loader)
            else:
                vae.fit(loader)
            found[n_corrections, type(loss)] = vae.encode(volumes).mean.detach()
    assert torch.equal(found[1, BetaVAELoss], found[1, DIPVAELoss])  # what the warning says
    assert not torch.allclose(found[0, BetaVAELoss], found[0, DIPVAELoss], atol=1e-3)


def test_a_loss_of_ones_own_is_called_as_before_on_several_processes(group):
    class Derived(BetaTCVAELoss):
        def __call__(self, x, p, q, z=None, n_images=None):
            return super().__call__(x, p, q, z, n_images)

    class Own:
        of_the_batch = True

        def __call__(self, x, p, q):
            return BetaVAELoss(1.0)(x, p, q)

    parts, volumes = started("deformable", blobs(20), latent_dim=3), blobs(4)
    group(0, 2)  # there is no other process, and to gather its rows would fail
    for loss in (Derived(n_images=8), Own(), FreeBitsLoss(2.0)):
        assert VAE.from_network(parts, loss=loss).training_step(volumes, 0)["loss"].isfinite()
    with pytest.raises(ValueError, match="process group has not been initialized"):
        VAE.from_network(parts, loss=DIPVAELoss()).training_step(volumes, 0)
