import numpy as np
import pytest
import torch
from moving_shapes import SHAPE, grown, told_by
from torch.utils.data import DataLoader, default_collate

from monai_betavae.networks import build_network
from monai_betavae.networks.conditional_mean import (
    ConditionalMean,
    condition_of,
    extend_condition,
    fit_condition,
    keep_condition,
    n_covariates_of,
    regression,
)
from monai_betavae.networks.warm_start import warm_start


def conditional(samples, latent_dim=8, **options):
    network = build_network(SHAPE, latent_dim, channels=(4, 8), n_covariates=2, random_state=0, **options)
    warm_start(network, DataLoader(samples, batch_size=8))
    return network


def test_the_regression_is_that_of_the_normal_equations():
    rng = np.random.default_rng(0)
    rows, codes = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    found = regression(torch.from_numpy(codes), torch.from_numpy(rows), ridge=2.0)
    stacked = np.vstack([rows, np.sqrt(2.0) * np.eye(3)])  # a ridge is the same as rows of its root
    expected = np.linalg.lstsq(stacked, np.vstack([codes, np.zeros((3, 2))]), rcond=None)[0].T
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_columns_of_categories_that_sum_to_zero_have_one_solution():
    site = torch.tensor([[0.5, -0.5], [-0.5, 0.5]]).repeat(50, 1)
    codes = 3 * site[:, :1]
    found = regression(codes, site)
    torch.testing.assert_close(site.double() @ found.T, codes.double(), rtol=0.02, atol=0)
    torch.testing.assert_close(found[0, 0], -found[0, 1])


@pytest.mark.parametrize("covariates", [torch.zeros(2), torch.zeros(2, 4), torch.zeros(1, 2, 3)])
def test_other_shapes_are_refused(covariates):
    with pytest.raises(ValueError, match=r"`covariates` must have shape \(batch, 3\)"):
        ConditionalMean(3, 2)(covariates)


@pytest.mark.parametrize("kind", ["deformable", "linear", "mean"])
def test_codes_are_what_the_covariates_leave(kind):
    samples = grown(80)
    network = conditional(samples, warm_start=kind)
    assert fit_condition(network, DataLoader(samples, batch_size=8))
    found = []
    for batch in (default_collate(samples), default_collate(grown(60, seed=1))):
        with torch.no_grad():
            q = network.eval().encode(batch["image"], batch["covariates"])
            u = q.mean + network.decoder.condition(batch["covariates"])
            restored = network(batch["image"], batch["covariates"])
            torch.testing.assert_close(network.decode(q.mean, batch["covariates"]), restored)
            # the same image from u itself
            torch.testing.assert_close(network.decode(u), restored)
        found.append((u, q.mean, batch["covariates"]))
    if kind == "mean":
        return  # untrained convolutions know nothing of the images
    (u, z, covariates), (other_u, other_z, others) = found
    for column in range(2):
        assert told_by(u, covariates[:, column], other_u, others[:, column]) > 0.5
        assert told_by(z, covariates[:, column], other_z, others[:, column]) < 0.1


def test_the_mode_is_that_under_the_conditional_prior():
    samples = grown(60)
    network = conditional(samples, n_corrections=20, latent_dim=4)
    fit_condition(network, DataLoader(samples, batch_size=8))
    batch = default_collate(grown(10, seed=1))
    network.eval()
    prior = network.decoder.condition(batch["covariates"]).detach()

    def energy(z):
        rest = (network.decoder(z + prior) - batch["image"]).flatten(1).square().sum(1)
        return rest + network.decoder.correction.variance * z.square().sum(1)

    with torch.no_grad():
        z = network.encode(batch["image"], batch["covariates"]).mean
        # the mode under a prior whose mean is zero for all
        other = network.decoder.corrected_codes(batch["image"], z + prior) - prior
        # of half of the voxels, so that single subjects may be a little off
        assert energy(z).mean() < energy(other).mean()


def test_a_new_column_changes_no_bit_of_the_others():
    generator = torch.Generator().manual_seed(0)
    for n_covariates in range(1, 40):
        old, new = ConditionalMean(n_covariates, 8), ConditionalMean(n_covariates + 3, 8)
        weight, rows = (torch.randn(n, n_covariates + 3, generator=generator) for n in (8, 40))
        rows[:, n_covariates:] = 0
        with torch.no_grad():
            old.weight.copy_(weight[:, :n_covariates])
            new.weight.copy_(weight)
            for n_rows in (1, 2, 40):
                assert torch.equal(old(rows[:n_rows, :n_covariates]), new(rows[:n_rows]))
            torch.testing.assert_close(new(rows), rows @ weight.T, rtol=1e-5, atol=1e-5)


def test_a_new_site_is_fitted_to_what_the_old_columns_leave():
    samples = grown(60)
    network = conditional(samples)
    fit_condition(network, DataLoader(samples, batch_size=8))
    before = network.decoder.condition.weight.detach().clone()
    # volumes twice as bright, as of a new site, at the average of the old ones
    others = [
        {"image": 2 * each["image"], "covariates": torch.tensor([float(each["covariates"][0]), 0.0, 1.0])}
        for each in grown(40, seed=3)
    ]
    extend_condition(network, 1)
    assert n_covariates_of(network) == 3
    assert torch.equal(network.decoder.condition.weight[:, 2], torch.zeros(8))
    assert fit_condition(network, DataLoader(others, batch_size=8))
    after = network.decoder.condition.weight.detach()
    assert torch.equal(after[:, :2], before)
    batch = default_collate(grown(40, seed=4))
    rows = torch.cat([batch["covariates"][:, :1], torch.zeros(40, 1), torch.ones(40, 1)], dim=1)
    with torch.no_grad():
        network.eval()
        left = network.encode(2 * batch["image"], rows).mean.mean(0)
        with_old = network.encode(2 * batch["image"], rows * torch.tensor([1.0, 1.0, 0.0])).mean.mean(0)
    # new subjects of the site are as far from the mean as their number allows, and were far before
    assert left.norm() < 0.2 * with_old.norm()
    # nothing is left to fit where all columns are kept
    keep_condition(network, 3)
    assert not fit_condition(network, [])


def test_what_cant_be_extended():
    with pytest.raises(ValueError, match="`model` must be conditional on covariates"):
        extend_condition(build_network(SHAPE, 3, channels=(4, 8)), 1)
    network = build_network(SHAPE, 3, channels=(4, 8), n_covariates=2)
    with pytest.raises(ValueError, match="`n_new` must be an integer >= 0, got -1"):
        extend_condition(network, -1)
    with pytest.raises(ValueError, match="`n_fixed` must be an integer from 0 to 2, got 3"):
        keep_condition(network, 3)
    plain = build_network(SHAPE, 3, channels=(4, 8))
    keep_condition(plain, 0)
    assert condition_of(plain) is None


def test_without_covariates():
    network = build_network(SHAPE, 3, channels=(4, 8), random_state=0)
    assert condition_of(network) is None
    assert n_covariates_of(network) == 0
    assert not fit_condition(network, [])
    assert not any("condition" in name for name in network.state_dict())


def test_a_conditional_network_needs_them():
    network = build_network(SHAPE, 3, channels=(4, 8), n_covariates=2, random_state=0)
    assert n_covariates_of(network) == 2
    with pytest.raises(ValueError, match="`covariates` must be given"):
        network.encode(torch.zeros(1, 1, *SHAPE))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.parametrize("kind", ["deformable", "linear"])
def test_torchscript_and_export_hold_the_covariates(kind):
    samples = grown(40)
    network = conditional(samples, warm_start=kind)
    fit_condition(network, DataLoader(samples, batch_size=8))
    network.eval()
    batch = default_collate(samples[:3])
    inputs = batch["image"], batch["covariates"]
    with torch.no_grad():
        expected = network(*inputs)
        scripted = torch.jit.script(network)
        torch.testing.assert_close(scripted(*inputs), expected, rtol=1e-4, atol=1e-5)
        exported = torch.export.export(network, inputs).module()
        torch.testing.assert_close(exported(*inputs), expected, rtol=1e-4, atol=1e-5)
        other = inputs[1].flip(0)
        assert not torch.allclose(
            scripted.decode(torch.zeros(3, 8), other), scripted.decode(torch.zeros(3, 8), inputs[1])
        )
