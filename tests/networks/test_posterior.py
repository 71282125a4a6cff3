"""The posterior's float32 and its bounds."""

import pytest
import torch
from torch import nn

from monai_betavae.networks.posterior import (
    LOGVAR_RANGE,
    LossScale,
    corrected_means,
    posterior_distribution,
    posterior_parameters,
)


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


class Halving(nn.Module):
    """A decoder whose feedback halves every code."""

    def corrected_codes(self, images, codes):
        assert not torch.is_grad_enabled()
        assert codes.dtype == images.dtype == torch.float32
        return codes / 2


def test_means_are_those_of_the_decoders_feedback():
    mu = torch.randn(4, 3, requires_grad=True)
    means = corrected_means(Halving(), torch.zeros(4, 1, 2, 2).bfloat16(), mu)
    assert torch.equal(means, mu / 2)
    # whatever the loss makes of the means, the encoder is drawn to them: d/dmu of |mu - mu / 2|^2 / 2, over the batch
    (1e6 * means.sum()).backward()
    torch.testing.assert_close(mu.grad, mu.detach() / 2 / 4)


@pytest.mark.parametrize("factor", [0.25, 65536.0])
def test_the_encoders_gradient_is_scaled_as_the_loss_is(factor):
    mu, scale = torch.randn(4, 3, requires_grad=True), LossScale()
    means = corrected_means(Halving(), torch.zeros(4, 1, 2, 2), mu, scale)
    # the weight of a process, a part of an accumulated batch, the factor of a gradient scaler
    (factor * scale.of(1e6 * means.sum())).backward()
    torch.testing.assert_close(mu.grad, factor * mu.detach() / 2 / 4)


def test_without_feedback_means_stay_the_encoders():
    mu = torch.randn(4, 3, requires_grad=True)
    assert corrected_means(nn.Linear(2, 2), torch.zeros(4, 1, 2, 2), mu) is mu
    rows = torch.randn(4, 2, 3)
    assert corrected_means(Halving(), torch.zeros(4, 1, 2, 2), rows) is rows


def test_feedback_is_computed_without_autocast():
    class Product(nn.Module):
        def corrected_codes(self, images, codes):
            return codes @ torch.eye(3)

    with torch.autocast("cpu", torch.bfloat16):
        assert corrected_means(Product(), torch.zeros(4, 1, 2, 2), torch.randn(4, 3)).dtype == torch.float32
