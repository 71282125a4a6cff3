import independent_objectives
import numpy as np
import pytest
import torch
from random_posteriors import random_case
from torch.distributions import Normal

from monai_betavae import BetaVAELoss
from monai_betavae.objectives import FreeBitsLoss
from monai_betavae.objectives.free_bits import free_bits_kl


def test_it_is_what_loops_give():
    for seed in range(100):
        x, p, q, _ = random_case(seed)
        by_dimension = independent_objectives.kl_by_dimension(q.loc.numpy(), q.scale.numpy())
        floor = seed / 50
        expected = sum(max(value, floor) for value in by_dimension)
        np.testing.assert_allclose(float(free_bits_kl(q, floor)), expected, rtol=1e-9)
        np.testing.assert_allclose(float(free_bits_kl(q, floor, "total")), max(sum(by_dimension), floor), rtol=1e-9)
        loss = FreeBitsLoss(3.0, free_nats=floor)(x, p, q)
        error = float((x - p).square().sum()) / len(x)
        np.testing.assert_allclose(float(loss["loss"]), error + 3 * expected, rtol=1e-9)


@pytest.mark.parametrize("group", ["dimension", "total"])
def test_gradients_vanish_below_the_floor_only(group):
    _, _, q, _ = random_case(3, 4, 3)
    loc, scale = q.loc.requires_grad_(), q.scale.requires_grad_()
    assert torch.autograd.gradcheck(lambda loc, scale: free_bits_kl(Normal(loc, scale), 0.3, group), (loc, scale))
    free_bits_kl(Normal(loc, scale), 1e6, group).backward()
    assert not loc.grad.any()


def test_without_free_nats_it_is_the_beta_vae_loss():
    for seed in range(20):
        x, p, q, _ = random_case(seed, dtype=torch.float32)
        expected, found = BetaVAELoss(2.0)(x, p, q), FreeBitsLoss(2.0, free_nats=0.0)(x, p, q)
        assert {name: float(found[name]) for name in expected} == {name: float(expected[name]) for name in expected}


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="`free_nats`"):
        FreeBitsLoss(free_nats=-1)
    with pytest.raises(ValueError, match="`group`"):
        FreeBitsLoss(group="image")
