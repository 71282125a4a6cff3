"""The posterior's float32 and its bounds."""

import torch
from torch import nn

from monai_betavae.networks.posterior import LOGVAR_RANGE, posterior_distribution, posterior_parameters


def layers():
    torch.manual_seed(0)
    return nn.Linear(6, 3), nn.Linear(6, 3)


def test_equals_the_linear_layers_inside_the_bounds():
    fc_mu, fc_logvar = layers()
    features = torch.randn(4, 6)
    mu, logvar = posterior_parameters(features, fc_mu, fc_logvar)
    torch.testing.assert_close(mu, fc_mu(features))
    torch.testing.assert_close(logvar, fc_logvar(features))


def test_bounded_and_finite_for_huge_features():
    fc_mu, fc_logvar = layers()
    with torch.no_grad():
        _, logvar = posterior_parameters(1e6 * torch.randn(4, 6), fc_mu, fc_logvar)
    assert float(logvar.min()) == LOGVAR_RANGE[0]
    assert float(logvar.max()) == LOGVAR_RANGE[1]
    assert posterior_distribution(logvar, logvar).scale.isfinite().all()


def test_float32_under_autocast_and_from_half_features():
    fc_mu, fc_logvar = layers()
    features = torch.randn(4, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        mu, logvar = posterior_parameters(features, fc_mu, fc_logvar)
    assert mu.dtype == logvar.dtype == torch.float32
    torch.testing.assert_close(mu, fc_mu(features.float()))


def test_half_precision_weights_still_give_float32():
    fc_mu, fc_logvar = (layer.bfloat16() for layer in layers())
    mu, logvar = posterior_parameters(torch.randn(4, 6), fc_mu, fc_logvar)
    assert mu.dtype == logvar.dtype == torch.float32


def test_scale_is_the_root_of_the_variance():
    q = posterior_distribution(torch.zeros(1, 1), torch.full((1, 1), 2.0).log())
    torch.testing.assert_close(q.variance, torch.full((1, 1), 2.0))
