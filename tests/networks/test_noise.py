import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.decomposition import FactorAnalysis
from torch import nn
from torch.distributions import Bernoulli, Laplace, Normal
from torch.utils.data import DataLoader

from monai_betavae import VAE, BetaVAELoss, build_vae
from monai_betavae.evaluation.likelihood import elbo
from monai_betavae.networks.builders import build_decoder, build_network
from monai_betavae.networks.correction import mean_curvature
from monai_betavae.networks.noise import (
    NOISE_FLOOR,
    Noise,
    calibrate_noise,
    noise_of,
    residual_variances,
    weighted_residuals,
)
from monai_betavae.networks.principal_components import TrainingVolumes, principal_components
from monai_betavae.networks.warm_start import warm_start

SHAPE = (16, 8, 6)


def factors(n=60, seed=0, deviations=(0.05, 0.5), n_factors=3):
    """Volumes of a few smooth factors and noise, whose deviation is larger in the second half of the first axis."""
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(7).normal(size=(n_factors, *SHAPE))
    loadings = np.stack([ndimage.gaussian_filter(loading, 2.0) for loading in loadings])
    loadings /= loadings.std()
    deviation = np.full(SHAPE, deviations[0])
    deviation[SHAPE[0] // 2 :] = deviations[1]
    codes = rng.normal(size=(n, n_factors))
    volumes = np.einsum("nk,k...->n...", codes, loadings) + deviation * rng.normal(size=(n, *SHAPE))
    return torch.from_numpy(volumes.astype(np.float32))[:, None], codes, torch.from_numpy(deviation)


def started(volumes, noise="voxel", kind="linear", latent_dim=3, **arguments):
    arguments = {"channels": (2, 4), "random_state": 0, **({} if "loss" in arguments else {"beta": 0.01}), **arguments}
    vae = build_vae(tuple(volumes.shape[2:]), latent_dim, warm_start=kind, noise=noise, **arguments)
    warm_start(vae, DataLoader(volumes, batch_size=16))
    return vae


def test_a_unit_noise_is_none_and_leaves_weights_and_loss_as_they_were():
    volumes, _, _ = factors(24)
    plain, told = started(volumes, "unit"), build_vae(SHAPE, 3, channels=(2, 4), warm_start="linear", random_state=0)
    assert noise_of(plain) is None
    assert noise_of(nn.Identity()) is None
    assert not any("noise" in name for name in plain.state_dict())
    assert told.decoder.noise is None
    p = Normal(torch.zeros(2, 1), torch.ones(()))
    assert weighted_residuals(plain, volumes, p) == (volumes, p)


def test_a_global_noise_leaves_codes_and_loss_as_they_were():
    volumes, _, _ = factors(24)
    plain, found = started(volumes, "unit"), started(volumes, "global")
    found.decoder.noise.scale.fill_(0.3)
    torch.testing.assert_close(plain.encode(volumes).mean, found.encode(volumes).mean, rtol=0, atol=0)
    for vae in (plain, found):
        torch.manual_seed(0)
        vae.loss = vae.training_step(volumes[:4], 0)["loss"].item()
    assert plain.loss == found.loss


def test_relative_deviations_by_hand():
    noise = Noise("voxel", (1, 4))
    # the mean variance of voxels 0, 1, 2 is 4
    noise.set_variances(torch.tensor([[1.0, 2.0, 9.0, 0.0]]), torch.tensor([0, 1, 2]))
    torch.testing.assert_close(noise.relative, torch.tensor([[0.5, math.sqrt(0.5), 1.5, NOISE_FLOOR]]))
    torch.testing.assert_close(noise.weight(), torch.tensor([[1.0, 1.0, 2 / 3, 1.0]]))
    noise.scale.fill_(2.0)
    torch.testing.assert_close(noise.deviation(), 2 * noise.relative)
    assert Noise("global", (1, 4)).relative.shape == (1, 1)


def test_the_noise_of_each_voxel_is_found():
    volumes, _, _ = factors(100, deviations=(0.3, 0.6))
    noise = started(volumes).decoder.noise
    half = SHAPE[0] // 2
    low, high = noise.relative[0, : half - 2].mean(), noise.relative[0, half + 2 :].mean()
    # twice in the data; 3 of 100 volumes' freedom goes to the codes
    assert 1.8 < float(high / low) < 2.2
    assert float(noise.relative.square().mean()) == pytest.approx(1, abs=0.05)


def test_residual_variances_are_those_of_reconstructions():
    volumes, _, _ = factors(20)
    vae = started(volumes, "global")
    read = TrainingVolumes(volumes.split(7), 20, [1, *SHAPE], "image")
    found = residual_variances(vae, read)
    expected = (vae.reconstruct(volumes).detach() - volumes).square().mean(dim=0)
    # smoothing keeps the sum but for the faces
    assert float(found.mean()) == pytest.approx(float(expected.mean()), rel=0.03)
    assert float(np.corrcoef(found.flatten(), expected.flatten())[0, 1]) > 0.9


def test_codes_are_better_where_the_noise_is_known():
    volumes, codes, _ = factors(40, deviations=(0.05, 3.0))
    held_out, true, _ = factors(40, seed=1, deviations=(0.05, 3.0))

    def unexplained(vae):
        found = vae.encode(volumes).mean.detach().numpy()
        weights, *_ = np.linalg.lstsq(np.c_[found, np.ones(len(found))], codes, rcond=None)
        predicted = np.c_[vae.encode(held_out).mean.detach().numpy(), np.ones(len(held_out))] @ weights
        return float(((predicted - true) ** 2).sum())

    assert unexplained(started(volumes, "voxel")) < 0.7 * unexplained(started(volumes, "unit"))


def test_weighted_components_are_those_of_weighted_volumes():
    volumes, _, deviation = factors(30)
    weight = (1 / deviation).float()[None]
    read = TrainingVolumes(DataLoader(volumes, batch_size=8), 30, [1, *SHAPE], "image")
    found = principal_components(read, 3, weight=weight)
    whole = principal_components(TrainingVolumes((volumes * weight).split(8), 30, [1, *SHAPE], "image"), 3)
    np.testing.assert_allclose(found.eigenvalues, whole.eigenvalues, rtol=0.02)  # of other voxels, each 99.9 %
    grid = torch.zeros(3, math.prod(SHAPE))
    grid[:, found.voxels] = found.components[:, 0] * weight.flatten()[found.voxels]
    other = torch.zeros(3, math.prod(SHAPE))
    other[:, whole.voxels] = whole.components[:, 0]
    cosines = torch.nn.functional.cosine_similarity(grid, other).abs()
    assert float(cosines.min()) > 0.99


def test_the_weighted_slope_is_that_of_the_weighted_error():
    volumes, _, _deviation = factors(24)
    for kind in ("linear", "deformable"):
        vae = started(volumes, kind=kind)
        decoder, weight = vae.decoder.double(), vae.decoder.noise.weight().double()
        z = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        images = volumes[:2].double()
        mean = decoder.output_mean
        values, slope = decoder.template.energy_slope(z, mean, images, weight)
        energy = ((decoder.template(z, mean) - images) * weight).square().sum() / 2
        (gradient,) = torch.autograd.grad(energy, z)
        torch.testing.assert_close(slope.detach(), -gradient)
        torch.testing.assert_close(values, decoder.template.varying_values(z, mean, weight))
        doubled = mean_curvature(decoder.template, mean, torch.full_like(weight, 2.0))
        torch.testing.assert_close(doubled, 4 * mean_curvature(decoder.template, mean))


@pytest.mark.parametrize("distribution", ["normal", "laplace"])
def test_the_loss_sees_weighted_residuals(distribution):
    volumes, _, _ = factors(24)
    vae = started(volumes, loss=BetaVAELoss(0.5, distribution))
    torch.manual_seed(0)
    found = {name: value.item() for name, value in vae.training_step(volumes[:4], 0).items()}
    torch.manual_seed(0)
    p, _ = vae._run_step(volumes[:4])
    rest = (volumes[:4] - p.mean) * vae.decoder.noise.weight()
    power = 2 if distribution == "normal" else 1
    assert found["rec_loss"] == pytest.approx(float(rest.detach().abs().pow(power).sum()) / 4, rel=1e-5)
    assert found["loss"] == pytest.approx(found["rec_loss"] + 0.5 * found["kl_loss"], rel=1e-6)
    bernoulli = Bernoulli(torch.full_like(volumes, 0.5))
    assert weighted_residuals(vae, volumes, bernoulli)[1] is bernoulli


@pytest.mark.parametrize("kind", ["global", "voxel"])
def test_calibrated_residuals_have_unit_variance_on_other_volumes(kind):
    volumes, _, deviation = factors(60, deviations=(0.3, 0.6))
    held_out, other = (factors(60, seed, (0.3, 0.6))[0] for seed in (1, 2))
    vae = started(volumes, kind)
    found = calibrate_noise(vae, DataLoader(held_out, batch_size=16))
    assert found == pytest.approx(float(vae.decoder.noise.scale))
    for images, tolerance in ((held_out, 1e-5), (other, 0.05)):
        standardised = (images - vae.reconstruct(images).detach()) / vae.decoder.noise.deviation()
        assert float(standardised.square().mean()) == pytest.approx(1, rel=tolerance)
    assert found == pytest.approx(float(deviation.square().mean().sqrt()), rel=0.1)


def test_a_laplace_scale_is_the_mean_deviation():
    images = torch.from_numpy(np.random.default_rng(0).laplace(0, 0.2, (200, 1, *SHAPE)).astype(np.float32))
    vae = build_vae(SHAPE, 2, channels=(2, 4), warm_start="mean", noise="global", default_dist="laplace")
    assert calibrate_noise(vae, images.split(20)) == pytest.approx(0.2, rel=0.02)


def test_the_exact_elbo_is_that_of_the_noise_and_the_better_one():
    volumes, _, deviation = factors(60)
    held_out = factors(30, seed=1)[0]
    bounds = {}
    for kind in ("unit", "global", "voxel"):
        vae = started(volumes, kind, beta=2 * 0.05**2)
        calibrate_noise(vae, held_out.split(10))
        bounds[kind] = elbo(vae, held_out.split(10), progress=False).log_density.mean()
        if kind == "voxel":
            z = vae.encode(held_out).mean
            scale = vae.decoder.noise.deviation().double().expand(held_out.shape)
            exact = Normal(vae.decode(z).double(), scale).log_prob(held_out.double()).flatten(1).sum(1)
            # one draw of the codes in place of their mean
            np.testing.assert_allclose(exact.detach().mean(), bounds[kind], rtol=0.05)
    assert bounds["unit"] < bounds["global"] < bounds["voxel"]
    ideal = Normal(torch.zeros(()), deviation).entropy().sum()
    # no model of the data is better than the noise allows, but for the chance of 30 volumes
    assert bounds["voxel"] < -float(ideal) + 20
    # a scale that is given replaces the noise
    flat = elbo(vae, held_out.split(10), progress=False, scale=1.0).log_density.mean()
    assert flat == pytest.approx(bounds["unit"], rel=0.01)


def test_the_noise_agrees_with_factor_analysis():
    volumes, _, _ = factors(200)
    relative = started(volumes).decoder.noise.relative.flatten()
    fitted = FactorAnalysis(3, random_state=0).fit(volumes.flatten(1).numpy())
    deviations = np.sqrt(fitted.noise_variance_)
    by_scale = deviations / np.sqrt(fitted.noise_variance_.mean())
    assert float(np.corrcoef(relative, by_scale)[0, 1]) > 0.95


def test_fit_calibrates_on_validation_volumes_and_files_keep_it(tmp_path):
    volumes, held_out = factors(40)[0], factors(20, seed=1)[0]
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    vae = build_vae(
        SHAPE, 3, channels=(2, 4), warm_start="deformable", noise="voxel", random_state=0, max_epochs=1, **quiet
    )
    vae.fit(DataLoader(volumes, batch_size=8), DataLoader(held_out, batch_size=8))
    standardised = (held_out - vae.reconstruct(held_out)) / vae.decoder.noise.deviation()
    assert float(standardised.detach().square().mean()) == pytest.approx(1, rel=1e-4)
    vae.save(tmp_path / "vae.pt")
    loaded = VAE.load(tmp_path / "vae.pt")
    torch.testing.assert_close(loaded.decoder.noise.deviation(), vae.decoder.noise.deviation(), rtol=0, atol=0)
    torch.testing.assert_close(loaded.encode(held_out).mean, vae.encode(held_out).mean, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.parametrize("shape", [SHAPE, (9, 7)])
def test_scripted_networks_have_the_weights(shape):
    volumes = torch.rand(24, 1, *shape, generator=torch.Generator().manual_seed(0))
    volumes[:, :, shape[0] // 2 :] *= 4
    network = build_network(shape, 3, channels=(2, 4), noise="voxel", random_state=0).eval()
    warm_start(network, DataLoader(volumes, batch_size=8))
    assert float(network.decoder.noise.weight().min()) < 1
    scripted = torch.jit.script(network)
    torch.testing.assert_close(scripted(volumes[:3]), network(volumes[:3]))


def test_what_has_no_scale_is_refused():
    with pytest.raises(ValueError, match="`noise` must be one of 'unit', 'global', 'voxel', got 'pixel'"):
        build_decoder(2, SHAPE, noise="pixel")
    with pytest.raises(ValueError, match="`noise` must be 'unit' for a sigmoid output"):
        build_network(SHAPE, 2, output="sigmoid", noise="global")
    with pytest.raises(ValueError, match="`noise` must be 'unit' or 'global' for `warm_start` 'mean', got 'voxel'"):
        build_network(SHAPE, 2, warm_start="mean", noise="voxel")
    vae = build_vae(SHAPE, 2, channels=(2, 4), warm_start="mean", noise="global")
    with pytest.raises(ValueError, match="at least one volume"):
        calibrate_noise(vae, [])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "global"),
        ({"warm_start": "linear"}, "global"),
        ({"warm_start": "mean"}, "global"),
        ({"output": "sigmoid"}, "unit"),
    ],
)
def test_auto_is_the_noise_that_fits(arguments, expected):
    network = build_network(SHAPE, 2, channels=(2, 4), noise="auto", **arguments)
    assert network.description["arguments"]["noise"] == expected
    assert (network.decoder.noise is None) == (expected == "unit")


def test_laplace_and_normal_keep_their_kind():
    volumes, _, _ = factors(24)
    vae = started(volumes)
    for kind in (Normal, Laplace):
        images, p = weighted_residuals(vae, volumes, kind(torch.zeros_like(volumes), torch.ones(())))
        assert type(p) is kind
        torch.testing.assert_close(images, volumes * vae.decoder.noise.weight())
