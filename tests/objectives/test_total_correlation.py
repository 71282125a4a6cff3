import independent_objectives
import numpy as np
import pytest
import torch
from random_posteriors import random_case
from torch.distributions import Normal

from monai_betavae import BetaVAELoss
from monai_betavae.objectives import BetaTCVAELoss
from monai_betavae.objectives.total_correlation import ESTIMATORS, decomposed_kl, log_weights


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_it_is_what_loops_over_images_and_latents_give(estimator):
    for seed in range(100):
        _, _, q, z = random_case(seed)
        n_images = len(z) + seed
        found = torch.stack(decomposed_kl(z, q, n_images, estimator)).numpy()
        expected = independent_objectives.decomposed(z.numpy(), q.loc.numpy(), q.scale.numpy(), n_images, estimator)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients(estimator):
    _, _, q, z = random_case(3, 4, 3)
    inputs = tuple(value.detach().requires_grad_() for value in (z, q.loc, q.scale))

    def parts(z, loc, scale):
        return decomposed_kl(z, Normal(loc, scale), 50, estimator)

    assert torch.autograd.gradcheck(parts, inputs)


def test_weights_of_a_row_sum_to_one_and_are_unbiased_for_the_mean_of_all():
    like = torch.zeros((), dtype=torch.float64)
    for n_batch, n_images in ((1, 10), (2, 10), (4, 10), (10, 10)):
        torch.testing.assert_close(
            log_weights(n_batch, n_images, "stratified", like).exp().sum(1), torch.ones(n_batch, dtype=torch.float64)
        )
    # over all batches that hold image 0, its density's mean is that of the whole dataset
    densities = torch.rand(5, dtype=torch.float64)
    weights = log_weights(3, 5, "stratified", like).exp()[0]
    batches = [(0, i, j) for i in range(1, 5) for j in range(1, 5) if i != j]
    mean = torch.stack([weights @ densities[list(batch)] for batch in batches]).mean()
    torch.testing.assert_close(mean, densities.mean())


def test_a_whole_dataset_as_a_batch_gives_the_density_itself():
    _, _, q, z = random_case(5, 6, 2)
    log_density = Normal(q.loc[None], q.scale[None]).log_prob(z[:, None]).sum(2).logsumexp(1) - np.log(6)
    _, correlation, _ = decomposed_kl(z, q, 6, "weighted")
    by_latent = Normal(q.loc[None], q.scale[None]).log_prob(z[:, None]).logsumexp(1) - np.log(6)
    # the weighted estimator counts each image N times too little there, once in the joint and once in each latent
    expected = (log_density - np.log(6) - (by_latent - np.log(6)).sum(1)).mean()
    torch.testing.assert_close(correlation, expected)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_parts_sum_to_the_divergence_of_the_drawn_codes(estimator):
    _, _, q, z = random_case(7)
    sampled = (q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(1).mean()
    torch.testing.assert_close(sum(decomposed_kl(z, q, 30, estimator)), sampled.to(torch.float64))


def gaussian_codes(n_batch, correlation, seed, n_latents=2):
    """Codes of subjects whose latents are correlated, and narrow posteriors about them."""
    draws = torch.Generator().manual_seed(seed)
    covariance = torch.full((n_latents, n_latents), correlation) + (1 - correlation) * torch.eye(n_latents)
    noise, variance = torch.randn(n_batch, n_latents, generator=draws), 0.25
    # the posteriors' variance is part of the codes' covariance
    means = noise @ torch.linalg.cholesky(covariance - variance * torch.eye(n_latents)).T
    q = Normal(means, torch.full_like(means, variance**0.5))
    return q, means + q.scale * torch.randn(n_batch, n_latents, generator=draws)


def test_with_large_batches_it_approaches_the_closed_form():
    correlation = 0.6
    expected = -0.5 * np.log(1 - correlation**2)
    found = {}
    for n_batch in (4, 64, 1024):
        values = []
        for seed in range(4096 // n_batch):
            q, z = gaussian_codes(n_batch, correlation, seed)
            values.append(float(decomposed_kl(z, q, 10_000)[1]))
        found[n_batch] = np.mean(values)
    assert abs(found[1024] - expected) < 0.05
    assert abs(found[1024] - expected) < abs(found[64] - expected) < abs(found[4] - expected)


def test_with_equal_weights_it_is_the_beta_vae_loss():
    for seed in range(20):
        x, p, q, z = random_case(seed, dtype=torch.float32)
        expected = BetaVAELoss(1.0)(x, p, q)
        found = BetaTCVAELoss(1.0, n_images=40)(x, p, q, z)
        assert {name: float(found[name]) for name in expected} == {name: float(expected[name]) for name in expected}


def test_each_weight_is_that_of_its_part():
    x, p, q, z = random_case(2)
    base = BetaTCVAELoss(1.0, n_images=40)(x, p, q, z)
    for name, term in (("alpha", "mutual_information"), ("beta", "total_correlation")):
        changed = BetaTCVAELoss(**{"beta": 1.0, name: 3.0}, n_images=40)(x, p, q, z)
        torch.testing.assert_close(changed["loss"] - base["loss"], 2 * base[term])
    changed = BetaTCVAELoss(1.0, gamma=3.0, n_images=40)(x, p, q, z)
    others = base["mutual_information"] + base["total_correlation"]
    torch.testing.assert_close(changed["loss"] - base["loss"], 2 * (base["kl_loss"] - others))


def test_the_number_of_images_is_the_losss_or_the_callers():
    x, p, q, z = random_case(4)
    loss = BetaTCVAELoss()
    torch.testing.assert_close(loss(x, p, q, z, 70)["loss"], BetaTCVAELoss(n_images=70)(x, p, q, z)["loss"])
    with pytest.raises(ValueError, match="`n_images` must be given"):
        loss(x, p, q, z)
    with pytest.raises(ValueError, match="`n_images` must be at least"):
        BetaTCVAELoss(n_images=1)(x, p, q, z)


def test_wrong_input_is_refused():
    _, _, q, z = random_case(1, 3, 2)
    with pytest.raises(ValueError, match="`z` must have the shape"):
        decomposed_kl(z[:2], q, 10)
    with pytest.raises(ValueError, match="`n_images` must be at least the 3 images"):
        decomposed_kl(z, q, 2)
    with pytest.raises(ValueError, match="`estimator`"):
        decomposed_kl(z, q, 10, "exact")
    with pytest.raises(ValueError, match="shape \\(batch, latent_dim\\)"):
        decomposed_kl(z[None], Normal(q.loc[None], q.scale[None]), 10)
    with pytest.raises(TypeError, match="`q` must be"):
        decomposed_kl(z, z, 10)
    with pytest.raises(ValueError, match="`alpha`"):
        BetaTCVAELoss(alpha=-1)


def test_a_last_batch_of_one_image_has_no_total_correlation():
    _, _, q, z = random_case(6, 1, 3)
    information, correlation, _ = decomposed_kl(z, q, 30)
    assert (float(information), float(correlation)) == (0, 0)
