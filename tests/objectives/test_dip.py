import independent_objectives
import numpy as np
import pytest
import torch
from random_posteriors import random_case
from torch.distributions import Normal

from monai_betavae import BetaVAELoss
from monai_betavae.objectives import DIPVAELoss
from monai_betavae.objectives.dip import KINDS, dip_penalty


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_loops_give(kind):
    for seed in range(100):
        x, p, q, _ = random_case(seed)
        expected = independent_objectives.dip(q.loc.numpy(), q.scale.numpy(), 7.0, 3.0, kind)
        np.testing.assert_allclose(float(dip_penalty(q, 7.0, 3.0, kind)), expected, rtol=1e-9, atol=1e-9)
        loss = DIPVAELoss(2.0, off_diagonal=7.0, diagonal=3.0, kind=kind)(x, p, q)
        np.testing.assert_allclose(float(loss["loss"]), float(BetaVAELoss(2.0)(x, p, q)["loss"]) + expected, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind):
    _, _, q, _ = random_case(3, 5, 3)
    inputs = (q.loc.requires_grad_(), q.scale.requires_grad_())
    assert torch.autograd.gradcheck(lambda loc, scale: dip_penalty(Normal(loc, scale), 7.0, 3.0, kind), inputs)


def test_uncorrelated_codes_of_variance_one_cost_nothing():
    means = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert float(dip_penalty(Normal(means, 0.5), 10.0, 10.0, "I")) == 0
    assert float(dip_penalty(Normal(means * 0.75**0.5, 0.5), 10.0, 10.0, "II")) == pytest.approx(0, abs=1e-10)
    assert float(dip_penalty(Normal(means[:, [0, 0]], 0.5), 10.0, 10.0, "I")) == pytest.approx(20)  # duplicated


def test_without_weights_it_is_the_beta_vae_loss():
    for seed in range(20):
        x, p, q, _ = random_case(seed, dtype=torch.float32)
        expected, found = BetaVAELoss(2.0)(x, p, q), DIPVAELoss(2.0, off_diagonal=0.0, diagonal=0.0)(x, p, q)
        assert {name: float(found[name]) for name in expected} == {name: float(expected[name]) for name in expected}


def test_defaults_are_the_sources():
    assert (DIPVAELoss(kind="I").off_diagonal, DIPVAELoss(kind="I").diagonal) == (10.0, 100.0)
    assert (DIPVAELoss(kind="II").off_diagonal, DIPVAELoss(kind="II").diagonal) == (10.0, 10.0)
    with pytest.raises(ValueError, match="`kind`"):
        DIPVAELoss(kind="III")
    with pytest.raises(ValueError, match="`diagonal`"):
        DIPVAELoss(diagonal=-1.0)
