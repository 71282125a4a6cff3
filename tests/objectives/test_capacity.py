import independent_objectives
import numpy as np
import pytest
import torch
from random_posteriors import random_case
from torch.distributions import Normal

from monai_betavae import BetaVAELoss
from monai_betavae.objectives import CapacityLoss


def test_it_is_what_loops_give():
    for seed in range(100):
        x, p, q, _ = random_case(seed)
        divergence = independent_objectives.kl_by_dimension(q.loc.numpy(), q.scale.numpy()).sum()
        error = float((x - p).square().sum()) / len(x)
        loss = CapacityLoss(5.0, capacity=seed / 5)(x, p, q)
        np.testing.assert_allclose(float(loss["loss"]), error + 5 * abs(divergence - seed / 5), rtol=1e-9)
        np.testing.assert_allclose(float(loss["kl_loss"]), divergence, rtol=1e-9)


def test_gradients_pull_to_the_capacity_from_both_sides():
    x, p, q, _ = random_case(3, 4, 3)
    loc, scale = q.loc.requires_grad_(), q.scale.requires_grad_()
    divergence = float(BetaVAELoss()(x, p, q)["kl_loss"].detach())
    gradients = {}
    for capacity in (0.5 * divergence, 2 * divergence):
        loss = CapacityLoss(5.0, capacity=capacity)
        assert torch.autograd.gradcheck(
            lambda loc, scale, loss=loss: loss(x, p, Normal(loc, scale))["loss"], (loc, scale)
        )
        gradients[capacity] = torch.autograd.grad(loss(x, p, Normal(loc, scale))["loss"], loc)[0]
    below, above = gradients.values()
    torch.testing.assert_close(below, -above)


def test_without_capacity_it_is_the_beta_vae_loss():
    for seed in range(20):
        x, p, q, _ = random_case(seed, dtype=torch.float32)
        expected, found = BetaVAELoss(2.0)(x, p, q), CapacityLoss(2.0, capacity=0.0)(x, p, q)
        assert {name: float(found[name]) for name in found} == {name: float(expected[name]) for name in expected}


def test_the_schedule_is_that_of_the_capacity():
    loss = CapacityLoss(5.0, capacity=20.0, schedule={"kind": "linear", "length": 10})
    assert (loss.at(5, 0).capacity, loss.at(5, 0).beta) == (10.0, 5.0)
    with pytest.raises(ValueError, match="`capacity`"):
        CapacityLoss(capacity=-1)
