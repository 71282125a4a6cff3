"""KL and active units on ideal, useless and duplicated codes."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from monai_betavae import losses
from monai_betavae.evaluation.latent_activity import active_units, kl_per_dimension

RNG = np.random.default_rng(0)
MU, LOGVAR = RNG.normal(size=(30, 4)), RNG.normal(size=(30, 4))


def test_kl_agrees_with_the_loss():
    q = Normal(torch.from_numpy(MU), torch.from_numpy(np.exp(LOGVAR / 2)))
    np.testing.assert_allclose(kl_per_dimension(MU, LOGVAR), losses.kl_per_dimension(q).numpy())


def test_collapsed_codes_carry_nothing():
    assert kl_per_dimension(np.zeros((5, 2)), np.zeros((5, 2))).tolist() == [0.0, 0.0]
    assert not active_units(np.zeros((5, 2))).any()


def test_duplicated_subjects_change_nothing():
    twice = np.tile(MU, (2, 1))
    np.testing.assert_allclose(kl_per_dimension(twice, np.tile(LOGVAR, (2, 1))), kl_per_dimension(MU, LOGVAR))
    assert active_units(twice).tolist() == active_units(MU).tolist() == [True] * 4


def test_a_constant_dimension_is_inactive_however_far_from_zero():
    codes = np.column_stack([np.full(30, 9.0), MU[:, 0]])
    assert active_units(codes).tolist() == [False, True]


def test_bad_shapes():
    with pytest.raises(ValueError, match=r"one shape \(n, latent_dim\), got \(30, 4\) and \(30, 3\)"):
        kl_per_dimension(MU, LOGVAR[:, :3])
