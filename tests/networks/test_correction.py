import os
import signal

import lightning.pytorch as pl
import pytest
import torch
from estimators import QUIET, same_weights
from moving_shapes import SHAPE, blobs, crops, started
from seeded_draws import generator
from torch import nn
from torch.utils.data import DataLoader

import monai_betavae.estimator as estimator_module
import monai_betavae.networks.correction as correction_module
import monai_betavae.networks.template as template_module
from monai_betavae import VAE, build_vae
from monai_betavae.data import GlobalOrder
from monai_betavae.evaluation.refinement import refined_codes
from monai_betavae.networks.correction import (
    CURVATURE_PAIRS,
    RENEWAL_BATCHES,
    CodeCorrection,
    mean_curvature,
    renew_gain,
)
from monai_betavae.networks.template import DeformableTemplate
from monai_betavae.networks.warm_start import likelihood_variance
from monai_betavae.training.checkpoints import LastCheckpoint, begin_at, position_of
from monai_betavae.training.preemption import Preempted


def energies(vae, images, codes):
    with torch.no_grad():
        rest = (vae.decoder(codes) - images).flatten(1).square().sum(1)
        return rest + likelihood_variance(vae) * codes.square().sum(1)


@pytest.mark.parametrize("make", [lambda seed: blobs(30, seed=seed), lambda seed: crops(30, seed=seed)[0]])
def test_corrected_codes_approach_the_mode(make):
    vae = started("deformable", make(0), latent_dim=4, beta=0.1)
    images = make(1)
    encoded, best = {}, None
    for n_steps in (0, 1, 2, 20):
        vae.decoder.n_corrections = n_steps
        encoded[n_steps] = vae.encode(images).mean.detach()
    best = torch.from_numpy(
        refined_codes(vae.decode, images, encoded[20], variance=likelihood_variance(vae), n_steps=5)
    )
    found = {n_steps: energies(vae, images, codes) for n_steps, codes in encoded.items()}
    lowest = energies(vae, images, best)
    gap = {n_steps: float((found[n_steps] - lowest).mean()) for n_steps in found}
    assert gap[1] < 0.5 * gap[0]
    assert gap[2] < gap[1]
    assert gap[20] < 0.05 * gap[0]


def test_no_corrections_leave_the_encoders_codes():
    volumes = blobs()
    vae = started("deformable", volumes, n_corrections=0)
    features = vae.encoder(volumes)
    torch.testing.assert_close(vae.encode(volumes).mean, vae.fc_mu(features))


def test_the_encoder_learns_the_corrected_codes():
    volumes = blobs()
    vae = started("deformable", volumes)
    distance = {}
    for epochs in (0, 8):
        optimizer = torch.optim.Adam([*vae.encoder.parameters(), *vae.fc_mu.parameters()], lr=3e-3)
        for _ in range(epochs):
            for images in volumes.split(8):
                optimizer.zero_grad()
                vae.training_step(images, 0)["loss"].backward()
                optimizer.step()
        encoded, corrected = vae.fc_mu(vae.encoder(volumes)), vae.encode(volumes).mean
        distance[epochs] = float((encoded - corrected).detach().square().sum())
    assert distance[8] < 0.5 * distance[0]


def test_the_curvature_without_displacements_is_the_product_of_components():
    template = DeformableTemplate(3, (1, *SHAPE), True)
    components = torch.randn(3, 1, 400, generator=generator())
    template.set_components(components, torch.zeros(template.displacements.shape), torch.arange(400))
    expected = (components[:, 0] @ components[:, 0].T).double()
    torch.testing.assert_close(mean_curvature(template, torch.zeros(1, *SHAPE)), expected, rtol=1e-3, atol=0.5)


@pytest.mark.parametrize("make", [lambda: blobs(30), lambda: crops(30)[0]])
def test_the_curvature_is_the_mean_product_of_slopes(make):
    vae = started("deformable", make(), latent_dim=3)
    decoder = vae.decoder.double()
    half = torch.randn(CURVATURE_PAIRS, 3, generator=generator()).double()
    codes, expected = torch.cat([half, -half]), torch.zeros(3, 3, dtype=torch.float64)
    for code in codes:
        slopes = torch.autograd.functional.jacobian(lambda z: decoder(z[None]).flatten(), code)
        expected += slopes.T @ slopes / len(codes)
    found = mean_curvature(decoder.template, decoder.output_mean)
    # finite differences over a tenth of a deviation; edges are steep
    assert (found - expected).norm() < 0.1 * expected.norm()


def test_an_eighth_of_the_voxels_says_nearly_the_same(monkeypatch):
    monkeypatch.setattr(template_module, "LEAST_FOR_SLOPE", 10)
    vae = started("deformable", blobs(30, (24, 28, 20)), latent_dim=3)
    template, found = vae.decoder.template, {}
    for thinned in (0, 2):
        monkeypatch.setattr(correction_module, "THINNED", thinned)
        found[thinned] = mean_curvature(template, vae.decoder.output_mean)
    assert 7 < template.points.scale < 9
    assert 0 < (found[2] - found[0]).norm() < 0.1 * found[0].norm()


def test_in_training_the_slope_is_that_of_fewer_voxels(monkeypatch):
    monkeypatch.setattr(template_module, "LEAST_FOR_SLOPE", 10)
    volumes = blobs(30, (24, 28, 20))
    decoder = started("deformable", volumes, latent_dim=3).decoder
    z, taken = torch.zeros(2, 3), []
    template_class = type(decoder.template)
    original = template_class.energy_slope

    def recorded(self, z, mean, image, weight=None, thinned=0):
        taken.append(thinned)
        return original(self, z, mean, image, weight, thinned)

    monkeypatch.setattr(template_class, "energy_slope", recorded)
    found = {training: decoder.train(training).corrected_codes(volumes[:2], z) for training in (True, False)}
    assert taken == [2] * decoder.n_corrections + [1] * decoder.n_corrections
    assert 0 < (found[True] - found[False]).abs().max() < 0.1 * found[False].abs().max()


def test_a_renewed_gain_corrects_better_once_the_template_has_changed():
    volumes, images = blobs(30), blobs(30, seed=1)
    # a second correction makes up for much of what a wrong gain leaves
    options = QUIET | {"max_epochs": 20, "lr": 0.01, "n_corrections": 1}
    vae = build_vae(SHAPE, 4, channels=(4, 8), warm_start="deformable", random_state=0, **options)
    vae.fit(DataLoader(volumes, batch_size=8, shuffle=True))
    encoded = vae.fc_mu(vae.encoder(images)).detach()
    decoder, first = vae.decoder, started("deformable", volumes, latent_dim=4).decoder
    found = {"encoder": encoded}
    for name, gain in (("start", first.correction.gain), ("zero", torch.zeros(4, 4)), ("now", decoder.correction.gain)):
        made = decoder.correction.gain.clone()
        decoder.correction.gain.copy_(gain)
        found[name] = decoder.corrected_codes(images, encoded)
        decoder.correction.gain.copy_(made)
    mean = {name: float(energies(vae, images, codes).mean()) for name, codes in found.items()}
    assert mean["zero"] == mean["encoder"]
    assert mean["now"] < 0.95 * mean["start"] < 0.95 * mean["encoder"]

    curvature = mean_curvature(decoder.template, decoder.output_mean) + likelihood_variance(vae) * torch.eye(4)
    torch.testing.assert_close(decoder.correction.gain.double() @ curvature, torch.eye(4).double(), atol=1e-3, rtol=0)


def test_a_gain_is_measured_only_where_there_is_one():
    custom = VAE(nn.Flatten(), nn.Sequential(nn.Linear(2, 8), nn.Unflatten(1, (1, 2, 2, 2))), 8, 2)
    assert not renew_gain(custom)
    assert not renew_gain(build_vae(SHAPE, 2, channels=(4, 8), random_state=0))
    assert not renew_gain(started("linear", blobs()))
    assert not renew_gain(object())

    vae = started("deformable", blobs())
    gain = vae.decoder.correction.gain
    gain.zero_()  # weights from before the correction: their codes stay as they are
    assert not renew_gain(vae)
    assert not gain.any()
    gain.fill_(2.0)
    vae.decoder.template.components.data[0, 0, 0] = float("nan")
    assert not renew_gain(vae)
    assert bool((gain == 2).all())


class Gains(pl.Callback):
    """Compare the gain with that of the weights when an epoch is validated."""

    def __init__(self):
        self.current = []

    def on_validation_start(self, trainer, vae):
        if not trainer.sanity_checking:
            self.current.append(is_current(vae))


def is_current(vae):
    decoder, expected = vae.decoder, CodeCorrection(vae.latent_dim)
    weight = decoder.noise.weight() if decoder.noise is not None else None
    expected.variance.copy_(decoder.correction.variance)
    assert expected.set_curvature(mean_curvature(decoder.template, decoder.output_mean, weight))
    return torch.equal(decoder.correction.gain, expected.gain)


def trained(volumes, validated=True, noise="unit", **options):
    options = {**QUIET, "lr": 0.01, "channels": (4, 8), "warm_start": "deformable", **options}
    vae = build_vae(tuple(volumes.shape[2:]), 3, noise=noise, random_state=0, **options)
    loader = DataLoader(volumes, batch_size=4)
    return vae.fit(loader, loader if validated else None)


@pytest.mark.parametrize("options", [{"max_epochs": 2}, {"max_steps": 7}, {"max_epochs": 1, "val_check_interval": 2}])
@pytest.mark.parametrize("kind", ["whole", "crops", "a noise for each voxel", "not validated"])
def test_training_keeps_the_gain_current(kind, options):
    volumes, gains = crops(20)[0] if kind == "crops" else blobs(20), Gains()
    validated, noise = kind != "not validated", "voxel" if kind.startswith("a noise") else "unit"
    if not validated:
        options = {name: value for name, value in options.items() if name != "val_check_interval"}
    vae = trained(volumes, validated, noise, callbacks=[gains], **options)
    assert bool(gains.current) == validated
    assert all(gains.current)
    assert is_current(vae)
    untrained = started("deformable", volumes, latent_dim=3, noise=noise)
    assert not torch.allclose(vae.decoder.correction.gain, untrained.decoder.correction.gain)


def test_a_training_that_is_stopped_within_an_epoch_has_a_current_gain():
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step == 3

    vae = trained(blobs(24), validated=False, callbacks=[Stop()], max_epochs=1, min_steps=1)
    assert is_current(vae)


def test_the_gain_is_measured_once_in_so_many_batches(monkeypatch):
    steps = []
    monkeypatch.setattr(estimator_module, "renew_gain", lambda model: steps.append(model.trainer.global_step))
    vae = build_vae(SHAPE, 2, channels=(4, 8), warm_start="deformable", random_state=0, **QUIET | {"max_epochs": 2})
    n_batches = 2 * RENEWAL_BATCHES + 5
    vae.fit([blobs(2)] * n_batches)
    one = [0, RENEWAL_BATCHES, 2 * RENEWAL_BATCHES, n_batches]
    assert steps == one + [n_batches + step for step in one[1:]]


def test_a_frozen_decoder_keeps_its_gain():
    volumes = blobs(20)
    vae = started("deformable", volumes, **QUIET)
    vae.decoder.requires_grad_(False)
    vae.decoder.correction.gain.mul_(0.9)  # as of weights that were measured in another way
    gain = vae.decoder.correction.gain.clone()
    vae.fit(DataLoader(volumes, batch_size=4))
    assert torch.equal(vae.decoder.correction.gain, gain)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.parametrize("stop_at", [3, 4])
def test_a_run_that_a_signal_stops_between_two_measurements_goes_on_as_if_it_had_not(tmp_path, monkeypatch, stop_at):
    monkeypatch.setattr(estimator_module, "RENEWAL_BATCHES", 2)
    volumes = blobs(28)

    class Signal(pl.Callback):
        def on_train_batch_end(self, trainer, vae, outputs, batch, batch_idx):
            if trainer.current_epoch == 1 and batch_idx + 1 == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

    def run(folder, *callbacks, resume=False):
        last = LastCheckpoint(tmp_path / folder / "last.ckpt")
        options = QUIET | {"max_epochs": 3, "callbacks": [*callbacks, last], "lr": 0.01, "enable_checkpointing": True}
        vae = build_vae(SHAPE, 3, channels=(4, 8), warm_start="deformable", random_state=0, **options)
        loader = DataLoader(volumes, batch_size=4, sampler=GlobalOrder(volumes, shuffle=True, seed=0))
        if resume:
            begin_at(loader, position_of(last.path))
        return vae.fit(loader, ckpt_path=last.path if resume else None)

    whole = run("whole")
    with pytest.raises(Preempted):
        run("parts", Signal())
    assert same_weights(run("parts", resume=True), whole)


def test_the_curvature_is_measured_at_full_precision_under_autocast():
    vae = started("deformable", blobs(30), latent_dim=3)
    expected = mean_curvature(vae.decoder.template, vae.decoder.output_mean)
    with torch.autocast("cpu", torch.bfloat16):
        found = mean_curvature(vae.decoder.template, vae.decoder.output_mean)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "bad", [torch.full((2, 2), torch.nan), torch.inf * torch.eye(2), torch.tensor([[1.0, 3.0], [3.0, 1.0]])]
)
def test_a_curvature_without_an_inverse_leaves_the_gain(bad):
    correction = CodeCorrection(2)
    correction.gain.fill_(2.0)
    assert not correction.set_curvature(bad.double())
    assert bool((correction.gain == 2).all())


def test_a_weighted_loss_has_the_weighted_gradient_of_every_weight():
    vae = started("deformable", blobs())
    images, gradients = blobs(4, seed=3), []
    for factor in (1.0, 0.125):
        vae.zero_grad()
        torch.manual_seed(0)
        (factor * vae.training_step(images, 0)["loss"]).backward()
        gradients.append({name: value.grad for name, value in vae.named_parameters() if value.grad is not None})
    assert any(name.startswith("encoder") for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], 0.125 * gradient, msg=name)
