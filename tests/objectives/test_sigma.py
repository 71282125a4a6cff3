import math

import numpy as np
import pytest
import torch
from random_posteriors import random_case
from torch.distributions import Bernoulli, Laplace, Normal

from monai_betavae.objectives import SigmaVAELoss
from monai_betavae.objectives.sigma import LEAST_SCALE, optimal_scale_nll


@pytest.mark.parametrize(("name", "distribution"), [("normal", Normal), ("laplace", Laplace)])
def test_it_is_the_log_likelihood_under_the_best_scale(name, distribution):
    for seed in range(100):
        x, p, q, _ = random_case(seed)
        found = SigmaVAELoss(2.0, name)(x, p, q)

        def nll(scale, x=x, p=p):
            return float(-distribution(p, scale).log_prob(x).flatten(1).sum(1).mean())

        scale = float(found["scale"])
        np.testing.assert_allclose(float(found["nll"]), nll(scale), rtol=1e-9)
        assert nll(scale) < min(nll(0.99 * scale), nll(1.01 * scale))
        np.testing.assert_allclose(float(found["loss"]), nll(scale) + 2 * float(found["kl_loss"]), rtol=1e-9)


@pytest.mark.parametrize("name", ["normal", "laplace"])
def test_gradients(name):
    x, p, q, _ = random_case(3, 3, 2)
    assert torch.autograd.gradcheck(
        lambda p, loc, scale: SigmaVAELoss(2.0, name)(x, p, Normal(loc, scale))["loss"],
        (p.requires_grad_(), q.loc.requires_grad_(), q.scale.requires_grad_()),
    )


def test_its_gradient_is_that_of_the_beta_of_the_scale():
    x, p, q, _ = random_case(4, 3, 2)
    p.requires_grad_()
    found = SigmaVAELoss(1.0)(x, p, q)
    (gradient,) = torch.autograd.grad(found["loss"], p)
    torch.testing.assert_close(gradient, (p - x).detach() / float(found["scale"]) ** 2 / len(x))


def test_a_perfect_reconstruction_has_a_finite_loss():
    x, _, q, _ = random_case(5, dtype=torch.float32)
    for name in ("normal", "laplace"):
        found = SigmaVAELoss(1.0, name)(x, x, q)
        assert float(found["scale"]) == pytest.approx(LEAST_SCALE)
        assert found["loss"].isfinite()
    nll, _ = optimal_scale_nll(torch.tensor(8.0), 8)
    assert float(nll) == pytest.approx(4 * (math.log(2 * math.pi) + 1))


def test_the_decoders_own_distribution_counts():
    x, p, q, _ = random_case(6)
    found = SigmaVAELoss(1.0)(x, Laplace(p, 1.0), q)
    assert float(found["scale"]) == pytest.approx(float((x - p).abs().mean()))
    with pytest.raises(ValueError, match="which have a scale, got Bernoulli"):
        SigmaVAELoss(1.0)(x, Bernoulli(probs=torch.full_like(x, 0.5)), q)


def test_the_start_assumes_a_scale():
    assert SigmaVAELoss(2.0, start_scale=0.2).kl_weight == pytest.approx(0.16)
    assert SigmaVAELoss(2.0, "laplace", start_scale=0.2).kl_weight == pytest.approx(0.4)
    with pytest.raises(ValueError, match="`start_scale`"):
        SigmaVAELoss(start_scale=0.0)


def test_a_bernoulli_has_no_scale():
    with pytest.raises(ValueError, match="`default_dist`"):
        SigmaVAELoss(default_dist="bernoulli")
