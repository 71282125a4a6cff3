import independent_objectives
import numpy as np
import pytest
import torch
from random_posteriors import random_case
from torch.distributions import Normal

from monai_betavae import BetaVAELoss
from monai_betavae.objectives import InfoVAELoss
from monai_betavae.objectives.mmd import mmd


def test_it_is_what_loops_give():
    for seed in range(100):
        x, p, q, _ = random_case(seed)
        bandwidth = 0.5 + seed / 20
        expected = independent_objectives.mmd(q.loc.numpy(), q.scale.numpy(), bandwidth)
        np.testing.assert_allclose(float(mmd(q, bandwidth)), expected, rtol=1e-8, atol=1e-10)
        plain = BetaVAELoss(1.0)(x, p, q)
        loss = InfoVAELoss(2.0, alpha=0.25, weight=10.0, bandwidth=bandwidth)(x, p, q)
        by_hand = float(plain["rec_loss"]) + 2 * (0.75 * float(plain["kl_loss"]) + 9.25 * expected)
        np.testing.assert_allclose(float(loss["loss"]), by_hand, rtol=1e-8)


def test_gradients():
    _, _, q, _ = random_case(3, 4, 3)
    inputs = (q.loc.requires_grad_(), q.scale.requires_grad_())
    assert torch.autograd.gradcheck(lambda loc, scale: mmd(Normal(loc, scale), 1.3), inputs)


def test_expectations_are_those_of_draws():
    _, _, q, _ = random_case(8, 3, 2)
    draws = torch.Generator().manual_seed(0)
    n_draws = 20_000

    def kernel(a, b):
        return float((-(a - b).square().sum(-1) / (2 * 1.5**2)).exp().mean())

    def normal(*shape):
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    z = q.mean + q.scale * normal(n_draws, 3, 2)
    y, other = normal(n_draws, 2), normal(n_draws, 2)
    among = np.mean([kernel(z[:, i], z[:, j]) for i in range(3) for j in range(3) if i != j])
    expected = among - 2 * np.mean([kernel(z[:, i], y) for i in range(3)]) + kernel(y, other)
    assert float(mmd(q, 1.5)) == pytest.approx(expected, abs=0.01)


def test_it_is_zero_for_the_prior_and_unbiased():
    prior = Normal(torch.zeros(5, 3), torch.ones(5, 3))
    assert float(mmd(prior)) == pytest.approx(0, abs=1e-6)
    draws = torch.Generator().manual_seed(1)
    # subjects whose posteriors together are the prior: every batch is one of it
    found = []
    for _ in range(3000):
        means = torch.randn(4, 2, generator=draws, dtype=torch.float64) * 0.75**0.5
        found.append(float(mmd(Normal(means, torch.full_like(means, 0.5)), 1.0)))
    assert abs(np.mean(found)) < 4 * np.std(found) / len(found) ** 0.5
    assert float(mmd(Normal(torch.zeros(1, 2), torch.ones(1, 2)))) == 0  # one image says nothing of a distribution


def test_without_mmd_it_is_the_beta_vae_loss():
    for seed in range(20):
        x, p, q, _ = random_case(seed, dtype=torch.float32)
        expected, found = BetaVAELoss(2.0)(x, p, q), InfoVAELoss(2.0, alpha=0.0, weight=1.0)(x, p, q)
        assert {name: float(found[name]) for name in expected} == {name: float(expected[name]) for name in expected}


def test_with_alpha_one_the_divergence_has_no_weight():
    x, p, q, _ = random_case(3)
    found = InfoVAELoss(1.0, alpha=1.0, weight=5.0)(x, p, q)
    torch.testing.assert_close(found["loss"], found["rec_loss"] + 5 * found["mmd"])
    for arguments in ({"alpha": 1.5}, {"weight": 0.5}, {"bandwidth": 0.0}):
        with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
            InfoVAELoss(**arguments)
