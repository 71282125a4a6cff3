import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from estimators import QUIET, same_weights
from moving_shapes import SHAPE, blobs, crops, started
from sklearn.decomposition import PCA
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import monai_betavae.networks.principal_components as components_module
import monai_betavae.networks.warm_start as warm_start_module
from monai_betavae import VAE, build_vae
from monai_betavae.networks.builders import build_network
from monai_betavae.networks.principal_components import TrainingVolumes, principal_components, varying_voxels
from monai_betavae.networks.warm_start import (
    check_started,
    displace,
    likelihood_variance,
    smooth,
    warm_start,
)


def sse(vae, volumes):
    return float((vae.reconstruct(volumes).detach() - volumes).square().sum())


@pytest.mark.parametrize("kind", ["mean", "linear", "deformable"])
@pytest.mark.parametrize("architecture", ["conv", "residual"])
def test_the_output_starts_at_the_mean_image(kind, architecture):
    volumes = blobs(24, channels=2)
    vae = started(kind, volumes, in_channels=2, architecture=architecture)
    torch.testing.assert_close(vae.decode(torch.zeros(1, 4))[0], volumes.mean(0), atol=1e-5, rtol=0)


def test_linear_starts_as_probabilistic_pca(monkeypatch):
    monkeypatch.setattr(components_module, "VARIANCE_KEPT", 1 - 1e-12)  # all voxels
    volumes = blobs()
    vae = started("linear", volumes)
    flat = volumes.flatten(1).double().numpy()
    pca = PCA(4).fit(flat)
    variances, noise = pca.explained_variance_, 0.5
    centred = flat - pca.mean_

    posterior = vae.encode(volumes)
    np.testing.assert_allclose(posterior.scale[0].square().detach(), noise / variances, rtol=1e-4)
    signs = np.sign((posterior.mean.detach().numpy() * (centred @ pca.components_.T)).sum(0))
    mean = centred @ pca.components_.T * np.sqrt(variances - noise) / variances
    np.testing.assert_allclose(posterior.mean.detach().numpy() * signs, mean, atol=1e-3)
    shrunk = centred @ pca.components_.T * (variances - noise) / variances @ pca.components_ + pca.mean_
    reconstructed = vae.reconstruct(volumes).detach().flatten(1).numpy()
    np.testing.assert_allclose(reconstructed, shrunk, atol=1e-3)


def test_the_start_is_a_stationary_point_of_the_linear_model():
    # the maximum likelihood solution of probabilistic PCA: no linear encoder or decoder does better
    volumes = blobs()
    vae = started("linear", volumes)

    @torch.no_grad()
    def loss(scale_mean=1.0, scale_components=1.0, shift_logvar=0.0):
        scores = vae.encoder.projection(volumes)
        mu = scale_mean * scores @ vae.fc_mu.weight[:, -4:].T
        logvar = vae.fc_logvar.bias + shift_logvar
        components = vae.decoder.template.components.flatten(1) * vae.decoder.template.component_unit * scale_components
        image = vae.decoder.output_mean.flatten()[vae.decoder.template.voxels] + mu @ components
        error = (image - volumes.flatten(1)[:, vae.decoder.template.voxels]).square().sum(1).mean()
        spread = (logvar.exp() * components.square().sum(1)).sum()  # E |W (z - mu)|^2
        kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1).mean()
        return float(error + spread + kl)

    best = loss()
    for change in ({"scale_mean": 1.03}, {"scale_mean": 0.97}, {"shift_logvar": 0.1}, {"shift_logvar": -0.1}):
        assert loss(**change) > best
    assert loss(scale_components=1.05) > best
    assert loss(scale_components=0.95) > best


def test_deformable_beats_linear_where_shape_varies():
    volumes, held_out = blobs(60), blobs(30, seed=1)
    linear, deformable = (started(kind, volumes) for kind in ("linear", "deformable"))
    pca = PCA(4).fit(volumes.flatten(1).numpy())
    flat = held_out.flatten(1).numpy()
    pca_sse = float(((pca.inverse_transform(pca.transform(flat)) - flat) ** 2).sum())
    assert sse(linear, held_out) < 1.02 * pca_sse  # the price of shrinking and of the voxels left out
    # the best code for each volume, found by descent: what the decoders can show, whatever the encoder
    errors = {}
    for name, vae in (("linear", linear), ("deformable", deformable)):
        z = vae.encode(held_out).mean.detach().requires_grad_()
        optimizer = torch.optim.LBFGS([z], max_iter=60)

        def closure(vae=vae, z=z, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (vae.decoder(z) - held_out).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        errors[name] = float(closure().detach())
    assert errors["deformable"] < 0.9 * errors["linear"]


def test_deformable_agrees_with_linear_to_first_order(monkeypatch):
    monkeypatch.setattr(warm_start_module, "SMOOTHING", 0.0)
    volumes = blobs()
    linear, deformable = (started(kind, volumes) for kind in ("linear", "deformable"))
    z = torch.tensor([[1.0, -0.5, 0.3, 0.8]])
    with torch.no_grad():
        linear.decoder.linear.weight.zero_()
        far, near = (
            float((linear.decode(step * z) - deformable.decode(step * z)).norm() / step) for step in (1.0, 0.125)
        )
        change = float((linear.decode(z) - linear.decode(0 * z)).norm())
    # not to zero: a linear interpolation between voxels has kinks where the gradient of the mean has none
    assert near < 0.8 * far
    assert near < 0.25 * change


def test_displaced_finds_a_translation():
    mean = blobs(1)[0]
    shifted = torch.gradient(mean, dim=2)[0]  # to first order the image displaced by one voxel along the second axis
    voxels = varying_voxels(blobs().flatten(2))
    component = 0.5 * shifted.flatten(1)[None, :, voxels]
    old = warm_start_module.RIDGE
    try:
        warm_start_module.RIDGE = 1e-6
        rest, displacement = displace(component, mean, voxels, (2, 2, 2))
    finally:
        warm_start_module.RIDGE = old
    assert rest.norm() < 1e-4 * component.norm()
    expected = torch.tensor([0.0, 0.5, 0.0])[:, None, None, None].expand(3, 2, 2, 2)
    torch.testing.assert_close(displacement[0], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["linear", "deformable"])
def test_more_latents_than_volumes_leaves_the_rest_inactive(kind):
    volumes = blobs(5)
    vae = started(kind, volumes, latent_dim=9)
    posterior = vae.encode(volumes)
    assert torch.isfinite(vae.reconstruct(volumes)).all()
    torch.testing.assert_close(posterior.scale[:, 4:], torch.ones(5, 5))
    torch.testing.assert_close(posterior.mean[:, 4:], torch.zeros(5, 5), atol=1e-5, rtol=0)


def test_volumes_that_do_not_differ_are_reconstructed():
    volumes = torch.rand(1, 1, *SHAPE).repeat(6, 1, 1, 1, 1)
    vae = started("deformable", volumes)
    torch.testing.assert_close(vae.reconstruct(volumes), volumes, atol=1e-5, rtol=0)


def test_a_large_beta_leaves_weak_dimensions_inactive():
    volumes = blobs()
    read = TrainingVolumes(DataLoader(volumes, batch_size=8), len(volumes), list(volumes.shape[1:]), "image")
    variances = principal_components(read, 4).eigenvalues
    beta = 2 * float(variances[1] + variances[2]) / 2
    vae = started("linear", volumes, beta=beta)
    scale = vae.encode(volumes).scale[0].detach()
    np.testing.assert_allclose(scale.square(), np.minimum(1, beta / 2 / variances.numpy()), rtol=1e-4)
    assert vae.decoder.template.components[2:].abs().max() == 0
    assert vae.decoder.template.components[:2].abs().amax(dim=(1, 2)).min() > 0


@pytest.mark.parametrize(
    ("arguments", "variance"), [({}, 0.5), ({"beta": 4.0}, 2.0), ({"beta": 2.0, "default_dist": "laplace"}, 8.0)]
)
def test_likelihood_variance(arguments, variance):
    assert likelihood_variance(build_vae((8, 8, 8), 2, channels=(4, 8), **arguments)) == variance


def test_only_an_unset_network_that_asks_for_it_is_set():
    volumes = blobs(12)
    loader = DataLoader(volumes, batch_size=4)
    for kind in ("mean", "linear", "deformable"):
        vae = started(kind, volumes)
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        assert not warm_start(vae, DataLoader(blobs(12, seed=3), batch_size=4))
        assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    unset = build_vae(SHAPE, 2, channels=(4, 8), warm_start="none", random_state=0)
    assert not warm_start(unset, loader)
    custom = VAE(nn.Flatten(), nn.Sequential(nn.Linear(2, 8), nn.Unflatten(1, (1, 2, 2, 2))), 8, 2)
    assert not warm_start(custom, DataLoader(torch.rand(4, 1, 2, 2, 2)))


class Stream(IterableDataset):
    def __iter__(self):
        yield from blobs(12)


@pytest.mark.parametrize("form", ["dictionaries", "pairs", "stream", "batches", "shuffled"])
def test_any_loader(form):
    volumes = blobs(12)
    loader = {
        "dictionaries": DataLoader([{"scan": volume, "subject": "x"} for volume in volumes], batch_size=5),
        "pairs": DataLoader([(volume, 0) for volume in volumes], batch_size=5),
        "stream": DataLoader(Stream(), batch_size=5),
        "batches": list(volumes.split(5)),
        "shuffled": DataLoader(volumes, batch_size=5, shuffle=True, drop_last=True),
    }[form]
    vae = build_vae(SHAPE, 2, channels=(4, 8), warm_start="linear", random_state=0, image_key="scan")
    state = torch.get_rng_state()
    assert warm_start(vae, loader)
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(vae.decoder.output_mean, volumes.mean(0), atol=1e-6, rtol=0)


def test_no_more_volumes_are_read_than_needed(monkeypatch):
    monkeypatch.setattr(warm_start_module, "PCA_VOLUMES", 6)
    read = []

    class Counting(torch.utils.data.Dataset):
        def __len__(self):
            return 31

        def __getitem__(self, index):
            read.append(index)
            return volumes[index]

    volumes = blobs(31)
    vae = build_vae(SHAPE, 2, channels=(4, 8), warm_start="linear", random_state=0)
    warm_start(vae, DataLoader(Counting(), batch_size=4))
    assert read == [0, 6, 12, 18, 24, 30]


@pytest.mark.parametrize(
    ("volumes", "message"),
    [
        (torch.full((4, 1, *SHAPE), torch.nan), "must be finite.*item 0"),
        (torch.rand(4, 1, 5, 5, 5), r"decoder's shape \[1, 12, 14, 10\], got \[1, 5, 5, 5\]"),
        (torch.rand(1, 1, *SHAPE), "at least two volumes.*got 1"),
    ],
)
def test_what_it_refuses(volumes, message):
    vae = build_vae(SHAPE, 2, channels=(4, 8), warm_start="linear", random_state=0)
    with pytest.raises(ValueError, match=message):
        warm_start(vae, DataLoader(volumes, batch_size=4))
    assert not vae.decoder.output_mean.any()


def test_a_sigmoid_output_has_no_linear_start():
    with pytest.raises(ValueError, match="`warm_start` must be 'none' or 'mean' for a sigmoid output, got 'linear'"):
        build_vae(SHAPE, 2, default_dist="bernoulli", warm_start="linear")
    with pytest.raises(
        ValueError, match="`warm_start` must be one of 'none', 'mean', 'linear', 'deformable', got 'pca'"
    ):
        build_network(SHAPE, 2, warm_start="pca")


def test_a_template_that_was_never_set_is_not_trained():
    vae = build_vae(SHAPE, 2, channels=(4, 8), warm_start="deformable", random_state=0)
    # batches that can be read once only aren't read for the start
    with pytest.raises(ValueError, match=r"'deformable' needs the training volumes first.*warm_start"):
        pl.Trainer(**QUIET).fit(vae, iter([blobs(4)]))
    check_started(started("deformable", blobs(4)))
    check_started(build_vae(SHAPE, 2, channels=(4, 8), warm_start="mean"))


@pytest.mark.parametrize("kind", ["mean", "linear", "deformable"])
def test_fit_starts_warm_and_the_model_comes_back(kind, tmp_path):
    volumes = blobs(12)
    loader = DataLoader(volumes, batch_size=4)
    vae = build_vae(SHAPE, 3, channels=(4, 8), warm_start=kind, random_state=0, lr=1e-3, **QUIET).fit(loader)
    twin = build_vae(SHAPE, 3, channels=(4, 8), warm_start=kind, random_state=0, lr=1e-3, **QUIET).fit(loader)
    image = vae.reconstruct(volumes)
    assert torch.equal(twin.reconstruct(volumes), image)
    torch.testing.assert_close(vae.decoder.output_mean, volumes.mean(0), atol=1e-6, rtol=0)

    loaded = VAE.load(vae.save(tmp_path / "vae.pt"))
    assert torch.equal(loaded.reconstruct(volumes), image)
    trainer = pl.Trainer(**QUIET)
    trainer.strategy.connect(vae)
    trainer.save_checkpoint(tmp_path / "vae.ckpt")
    assert torch.equal(VAE.load_from_checkpoint(tmp_path / "vae.ckpt").reconstruct(volumes), image)
    more = build_vae(SHAPE, 3, channels=(4, 8), warm_start=kind, random_state=0, lr=1e-3, **{**QUIET, "max_epochs": 2})
    more.fit(loader, ckpt_path=tmp_path / "vae.ckpt")
    if kind == "deformable":
        assert (more.decoder.template.components - vae.decoder.template.components).abs().max() > 1e-5


# ---- in a Trainer of the user's --------------------------------------------------------------------------------------


class Volumes(pl.LightningDataModule):
    """Loaders that exist only once Lightning has called ``setup``."""

    def setup(self, stage):
        self.volumes = blobs(12)

    def train_dataloader(self):
        return DataLoader(self.volumes, batch_size=4, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.volumes, batch_size=4)


def unstarted(**arguments):
    return build_vae(SHAPE, 3, channels=(4, 8), random_state=0, lr=1e-3, **{**QUIET, **arguments})


@pytest.mark.parametrize("given", ["loader", "with validation", "datamodule"])
@pytest.mark.filterwarnings("ignore:.*have passed in a `LightningDataModule`:UserWarning")
def test_the_default_model_starts_warm_in_a_trainer(given):
    volumes = blobs(12)
    loader = DataLoader(volumes, batch_size=4, shuffle=True)
    vae, twin = unstarted(), unstarted()
    trainer = pl.Trainer(**QUIET)
    if given == "datamodule":
        trainer.fit(vae, datamodule=Volumes())
    else:
        trainer.fit(vae, loader, DataLoader(volumes, batch_size=4) if given == "with validation" else None)
    assert vae.fitted
    torch.testing.assert_close(vae.decoder.output_mean, volumes.mean(0), atol=1e-6, rtol=0)
    held = {id(weights) for group in trainer.optimizers[0].param_groups for weights in group["params"]}
    assert id(vae.decoder.template.components) in held  # of its new size
    warm_start(twin, loader, seed=0)
    assert (vae.decoder.template.components - twin.decoder.template.components).abs().max() < 0.1
    assert not torch.equal(vae.decoder.template.components, twin.decoder.template.components)
    assert vae.transform(DataLoader(volumes, batch_size=5)).shape == (12, 3)


class Counting(torch.utils.data.Dataset):
    """Volumes that count how often they are read."""

    def __init__(self):
        self.volumes, self.n_read = blobs(12), 0

    def __len__(self):
        return 12

    def __getitem__(self, index):
        self.n_read += 1
        return self.volumes[index]


@pytest.mark.parametrize("kind", ["mean", "deformable"])
def test_it_starts_once(kind):
    data = Counting()
    loader = DataLoader(data, batch_size=4)
    vae = unstarted(warm_start=kind)
    pl.Trainer(**QUIET).fit(vae, loader)
    assert data.n_read == 24  # for the start, and one epoch
    start = vae.decoder.output_mean.clone()
    pl.Trainer(**QUIET).fit(vae, loader)
    assert data.n_read == 36
    assert torch.equal(start, vae.decoder.output_mean)
    alone = unstarted(warm_start=kind)
    alone.fit(loader)
    assert data.n_read == 60
    called = unstarted(warm_start=kind)
    warm_start(called, loader)
    pl.Trainer(**QUIET).fit(called, loader)
    assert data.n_read == 84


def test_volumes_without_intensities_are_read_for_the_start_once():
    """Their mean image looks like one that was never set."""
    data = Counting()
    data.volumes = torch.zeros(12, 1, *SHAPE)
    unstarted(warm_start="mean").fit(DataLoader(data, batch_size=4))
    assert data.n_read == 24


def test_a_checkpoint_takes_the_place_of_the_start(tmp_path):
    data = Counting()
    loader = DataLoader(data, batch_size=4)
    first = unstarted()
    trainer = pl.Trainer(**QUIET)
    trainer.fit(first, loader)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    data.n_read = 0
    # what the checkpoint holds is of other volumes than those it is trained on now
    data.volumes = data.volumes.flip(0) + 1
    resumed = unstarted()
    again = pl.Trainer(**{**QUIET, "max_epochs": 2})
    again.fit(resumed, loader, ckpt_path=tmp_path / "first.ckpt", weights_only=True)
    assert data.n_read == 12  # one epoch, no start
    assert torch.equal(resumed.decoder.output_mean, first.decoder.output_mean)
    assert again.global_step == 6


@pytest.mark.parametrize("loaders", ["two", "named", "iterator"])
def test_loaders_that_give_no_single_start_are_told_so(loaders):
    loader = DataLoader(blobs(4), batch_size=2)
    given = {"two": [loader, loader], "named": {"a": loader}, "iterator": iter([blobs(2)])}[loaders]
    with pytest.raises(
        ValueError, match="`warm_start` 'deformable' needs the training volumes first, and they couldn't"
    ):
        pl.Trainer(**QUIET).fit(unstarted(), given)


def test_a_lightning_that_keeps_its_loader_elsewhere_is_told_so(monkeypatch):
    trainer = pl.Trainer(**QUIET)
    monkeypatch.setattr("monai_betavae.estimator.training_loader", lambda trainer: None)
    with pytest.raises(ValueError, match="they couldn't be read from the Trainer"):
        trainer.fit(unstarted(), DataLoader(blobs(4), batch_size=2))
    monkeypatch.undo()
    monkeypatch.setattr("monai_betavae.estimator.resumes", lambda trainer: None)
    with pytest.raises(ValueError, match="they couldn't be read from the Trainer"):
        trainer.fit(unstarted(), DataLoader(blobs(4), batch_size=2))


def test_likelihood_variance_of_a_loss_without_settings():
    vae = VAE(nn.Flatten(), nn.Identity(), 4, 4, beta=4.0, loss=lambda x, p, q: {})
    assert likelihood_variance(vae) == 2.0


def test_edges_of_crops_become_a_field_of_view():
    volumes, edges = crops()
    held_out, true = crops(20, seed=1)
    vae = started("deformable", volumes, latent_dim=8)
    template, projection = vae.decoder.template, vae.encoder.projection
    np.testing.assert_allclose(template.mean_edges, edges.mean(axis=0), atol=1e-5)
    assert template.cut
    assert template.edges.requires_grad
    assert projection.cut

    moved = template.mean_edges + torch.einsum("bk,kaf->baf", vae.encode(held_out).mean, template.edges)
    assert np.abs(moved.detach().numpy() - true).mean() < 0.2
    pca = PCA(8).fit(volumes.flatten(1).numpy())
    flat = held_out.flatten(1).numpy()
    assert sse(vae, held_out) < 0.3 * ((pca.inverse_transform(pca.transform(flat)) - flat) ** 2).sum()


def test_a_fit_on_crops_is_resumed_as_if_it_had_not_been_interrupted(tmp_path):
    """The edges have a gradient only after the start, and the optimizer's state must still fit."""
    loader = DataLoader(crops(24)[0], batch_size=8, shuffle=True)

    def trained(folder, max_epochs, ckpt_path=None):
        saver = pl.callbacks.ModelCheckpoint(dirpath=tmp_path / folder, save_last=True)
        options = {"max_epochs": max_epochs, "callbacks": [saver], "enable_checkpointing": True, "lr": 0.01}
        vae = build_vae((44, 40), 4, channels=(4, 8), warm_start="deformable", random_state=0, **QUIET | options)
        return vae.fit(loader, ckpt_path=ckpt_path)

    whole = trained("whole", 4)
    trained("parts", 2)
    resumed = trained("parts", 4, tmp_path / "parts" / "last.ckpt")

    assert resumed.decoder.template.cut
    assert torch.equal(resumed.decoder.template.edges, whole.decoder.template.edges)
    assert same_weights(resumed, whole)
    started_only = started("deformable", crops(24)[0])
    assert not torch.allclose(whole.decoder.template.edges, started_only.decoder.template.edges)


def test_the_mean_image_of_crops_goes_beyond_their_edges():
    volumes, _ = crops()
    vae = started("deformable", volumes, latent_dim=8)
    assert volumes.mean(0).min() < 0.1
    assert vae.decoder.output_mean.min() > 0.4


@pytest.mark.parametrize("kind", ["linear", "deformable"])
def test_volumes_that_fill_the_grid_have_no_field_of_view(kind):
    vae = started(kind, crops()[0] + 0.5)
    assert not vae.decoder.template.cut
    assert not vae.decoder.template.edges.requires_grad
    torch.testing.assert_close(vae.decoder.output_mean, (crops()[0] + 0.5).mean(0))


def test_crops_are_read_in_chunks_as_at_once(monkeypatch):
    volumes, _ = crops()
    read = TrainingVolumes(DataLoader(volumes, batch_size=7), len(volumes), list(volumes.shape[1:]), "image")
    whole = principal_components(read, 4, find_field_of_view=True)
    monkeypatch.setattr(components_module, "VARIANCE_VOLUMES", len(volumes))
    at_once = principal_components(read, 4, find_field_of_view=True)
    monkeypatch.setattr(components_module, "CHUNK_BYTES", 4)
    chunks = principal_components(read, 4, find_field_of_view=True)
    for found in (whole, chunks):
        np.testing.assert_allclose(found.eigenvalues, at_once.eigenvalues, rtol=1e-3)
        torch.testing.assert_close(found.mean, at_once.mean)
        torch.testing.assert_close(found.field_of_view.mean_edges, at_once.field_of_view.mean_edges)


def test_smoothing_keeps_what_is_even_and_spreads_a_voxel():
    voxels = torch.arange(81)
    even, spike = torch.ones(1, 1, 81), torch.zeros(1, 1, 81)
    spike[0, 0, 40] = 1.0
    torch.testing.assert_close(smooth(even, voxels, [9, 9], 0.7), even)
    found = smooth(spike, voxels, [9, 9], 0.7).reshape(9, 9)
    weights = np.exp(-0.5 * (np.arange(-3, 4) / 0.7) ** 2)
    weights /= weights.sum()
    np.testing.assert_allclose(found[1:8, 1:8], np.outer(weights, weights), atol=1e-6)
    torch.testing.assert_close(smooth(spike, voxels, [9, 9], 0.0), spike)
