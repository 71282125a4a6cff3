"""The loss against the reference page's numbers, against a second implementation, and its invariances."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from torch.distributions import Bernoulli, Laplace, Normal, kl_divergence

from monai_betavae import BetaVAELoss
from monai_betavae.losses import (
    LIKELIHOODS,
    _cross_entropy,
    kl_normal_loss,
    kl_per_dimension,
    likelihood,
    reconstruction_loss,
)

X = torch.linspace(0, 1, 16).reshape(2, 1, 2, 2, 2)
P = torch.linspace(0.9, 0.2, 16).reshape(2, 1, 2, 2, 2)
Q = Normal(torch.tensor([[0.5, -1, 0], [2, 0.1, -0.3]]), torch.tensor([[1, 0.5, 2], [0.1, 1.5, 0.9]]))


def numpy_losses(x, p, mu, scale, beta, dist):
    """Second implementation, in float64 numpy, from the formulas and not from the package."""
    x, p, mu, scale = (np.asarray(value, dtype=np.float64) for value in (x, p, mu, scale))
    per_voxel = {
        "normal": lambda: (x - p) ** 2,
        "laplace": lambda: np.abs(x - p),
        "bernoulli": lambda: -(x * np.log(p) + (1 - x) * np.log1p(-p)),
    }[dist]()
    rec = per_voxel.reshape(len(x), -1).sum(axis=1).mean()
    kl = (0.5 * (mu**2 + scale**2 - 1 - 2 * np.log(scale))).sum(axis=1).mean()
    return rec, kl, rec + beta * kl


@pytest.mark.parametrize(
    ("dist", "rec", "kl", "total"),
    [
        ("normal", 2.203555, 2.918740, 13.878516),
        ("laplace", 3.626667, 2.918740, 15.301628),
        ("bernoulli", 9.035404, 2.918740, 20.710365),
    ],
)
def test_reference_values(dist, rec, kl, total):
    losses = BetaVAELoss(beta=4.0, default_dist=dist)(X, P, Q)
    assert list(losses) == ["rec_loss", "kl_loss", "loss"]
    assert float(losses["rec_loss"]) == pytest.approx(rec, abs=1e-5)
    assert float(losses["kl_loss"]) == pytest.approx(kl, abs=1e-5)
    assert float(losses["loss"]) == pytest.approx(total, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 4),
    latent_dim=st.integers(1, 5),
    beta=st.floats(0, 50),
    dist=st.sampled_from(LIKELIHOODS),
)
def test_agrees_with_a_second_implementation(seed, batch, latent_dim, beta, dist):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (batch, 2, 3, 4)).astype(np.float32)
    p = rng.uniform(0.05, 0.95, x.shape).astype(np.float32)
    mu = rng.normal(0, 2, (batch, latent_dim)).astype(np.float32)
    scale = rng.uniform(0.05, 3, mu.shape).astype(np.float32)
    losses = BetaVAELoss(beta, dist)(
        torch.from_numpy(x), torch.from_numpy(p), Normal(torch.from_numpy(mu), torch.from_numpy(scale))
    )
    expected = numpy_losses(x, p, mu, scale, beta, dist)
    for name, value in zip(("rec_loss", "kl_loss", "loss"), expected, strict=True):
        assert float(losses[name]) == pytest.approx(value, rel=2e-5, abs=1e-5)


def test_defaults_are_the_reference_ones():
    loss = BetaVAELoss()
    assert (loss.beta, loss.default_dist) == (4.0, "normal")


def test_scale_of_beta_against_exact_log_likelihoods():
    """Normal: SSE = 2 NLL - N log 2 pi; Laplace: L1 = NLL - N log 2; Bernoulli: exact."""
    n_voxels = X[0].numel()
    nll = {
        "normal": -Normal(P, 1.0).log_prob(X).flatten(1).sum(1).mean(),
        "laplace": -Laplace(P, 1.0).log_prob(X).flatten(1).sum(1).mean(),
    }
    normal = reconstruction_loss(likelihood(P, "normal"), X)
    assert float(normal) == pytest.approx(2 * float(nll["normal"]) - n_voxels * math.log(2 * math.pi), abs=1e-4)
    laplace = reconstruction_loss(likelihood(P, "laplace"), X)
    assert float(laplace) == pytest.approx(float(nll["laplace"]) - n_voxels * math.log(2), abs=1e-4)


def test_kl_against_torch():
    expected = kl_divergence(Q, Normal(torch.zeros(2, 3), torch.ones(2, 3))).mean(0)
    torch.testing.assert_close(kl_per_dimension(Q), expected)
    torch.testing.assert_close(kl_normal_loss(Q), expected.sum())


def test_kl_of_the_prior_is_zero_and_positive_elsewhere():
    assert float(kl_normal_loss(Normal(torch.zeros(3, 2), torch.ones(3, 2)))) == 0.0
    assert float(kl_normal_loss(Normal(torch.full((3, 2), 0.1), torch.ones(3, 2)))) == pytest.approx(0.01)


def test_distributions_count_as_their_parameters():
    loss = BetaVAELoss(1.0, "normal")
    for dist, p in (("normal", Normal(P, 1.0)), ("laplace", Laplace(P, 1.0)), ("bernoulli", Bernoulli(probs=P))):
        assert float(loss(X, p, Q)["rec_loss"]) == pytest.approx(float(BetaVAELoss(1.0, dist)(X, P, Q)["rec_loss"]))
    logits = Bernoulli(logits=torch.logit(P))
    assert float(loss(X, logits, Q)["rec_loss"]) == pytest.approx(9.035404, abs=1e-5)


def test_batch_order_and_duplication_change_nothing():
    loss = BetaVAELoss(2.0)
    whole = loss(X, P, Q)
    flipped = loss(X.flip(0), P.flip(0), Normal(Q.loc.flip(0), Q.scale.flip(0)))
    doubled = loss(
        torch.cat([X, X]), torch.cat([P, P]), Normal(torch.cat([Q.loc, Q.loc]), torch.cat([Q.scale, Q.scale]))
    )
    for name, value in whole.items():
        torch.testing.assert_close(flipped[name], value)
        torch.testing.assert_close(doubled[name], value)


@pytest.mark.parametrize("dist", LIKELIHOODS)
def test_float32_under_autocast(dist):
    """Under bfloat16 autocast the numbers are those without it, not off in the second digit."""
    expected = BetaVAELoss(4.0, dist)(X, P, Q)
    with torch.autocast("cpu", torch.bfloat16):
        losses = BetaVAELoss(4.0, dist)(X, P, Q)
    for name, value in expected.items():
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], value)


def test_half_precision_input_is_summed_in_float32():
    x = torch.zeros(1, 1, 64, 64, 64, dtype=torch.float16)
    losses = BetaVAELoss(1.0)(x, torch.ones_like(x), Normal(torch.zeros(1, 1), torch.ones(1, 1)))
    assert float(losses["rec_loss"]) == 64**3  # float16 ends at 65504


def test_metatensor_gives_a_plain_loss():
    losses = BetaVAELoss()(MetaTensor(X), MetaTensor(P), Q)
    assert all(type(value) is torch.Tensor for value in losses.values())


def test_gradient_reaches_both_terms():
    p = P.clone().requires_grad_()
    mu, scale = Q.loc.clone().requires_grad_(), Q.scale.clone().requires_grad_()
    BetaVAELoss(3.0)(X, p, Normal(mu, scale))["loss"].backward()
    torch.testing.assert_close(p.grad, 2 * (P - X) / 2)  # d SSE / dp over a batch of two
    torch.testing.assert_close(mu.grad, 3.0 * Q.loc / 2)


@pytest.mark.parametrize("beta", [-1.0, float("nan"), float("inf"), "4", None, True])
def test_bad_beta(beta):
    with pytest.raises(ValueError, match=r"`beta` must be a finite number >= 0, got"):
        BetaVAELoss(beta=beta)


def test_bad_distribution_name():
    with pytest.raises(ValueError, match=r"`default_dist` must be one of 'normal'.*got 'norml'. Did you mean 'normal'"):
        BetaVAELoss(default_dist="norml")


def test_bad_decoder_output():
    for error in (ValueError, TypeError):
        with pytest.raises(error, match="got Gamma"):
            BetaVAELoss()(X, torch.distributions.Gamma(1.0, 1.0), Q)
    with pytest.raises(ValueError, match=r"\(2, 1, 2, 2, 2\), got \(2, 1, 2, 2, 1\)"):
        BetaVAELoss()(X, P[..., :1], Q)
    with pytest.raises(ValueError, match=r"`q` must be a torch\.distributions Normal, got Tensor"):
        BetaVAELoss()(X, P, X)


def test_bernoulli_refuses_data_outside_the_unit_interval():
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\].*0 to 2"):
        BetaVAELoss(1.0, "bernoulli")(2 * X, P, Q)


def test_a_decoder_without_a_sigmoid_is_told_so():
    with pytest.raises(ValueError, match=r"decoder's output must lie in \[0, 1\] for a Bernoulli.* from 0\.2 to 1\.9"):
        BetaVAELoss(1.0, "bernoulli")(X, P + (P > 0.85), Q)


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1])
def test_a_probability_that_is_none_makes_the_cross_entropy_nan(value):
    """On a GPU torch would stop the process; StopOnDivergence needs a number."""
    probabilities = P.clone()
    probabilities[0, 0, 0, 0, 0] = value
    if math.isnan(value):
        assert math.isnan(float(_cross_entropy(probabilities, X)))
        assert math.isnan(float(BetaVAELoss(1.0, "bernoulli")(X, probabilities, Q)["loss"]))
    else:
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            _cross_entropy(probabilities, X)
    expected = torch.nn.functional.binary_cross_entropy(P, X, reduction="sum")
    assert torch.equal(_cross_entropy(P, X), expected)


def test_cross_entropy_of_two_types():
    losses = BetaVAELoss(1.0, "bernoulli")(X, P.double(), Q)
    assert float(losses["rec_loss"]) == pytest.approx(9.035404, abs=1e-5)


@pytest.mark.parametrize(("scale", "expected"), [(1e-30, 30 * math.log(10) - 0.5), (1e15, 5e29), (1e30, math.inf)])
def test_kl_of_extreme_scales_is_a_number(scale, expected):
    """Their squares leave float32: infinity minus infinity is NaN, and the logarithm of 0 minus infinity."""
    assert float(kl_normal_loss(Normal(torch.zeros(1, 1), torch.tensor([[scale]])))) == pytest.approx(expected)


@pytest.mark.parametrize("beta", [0.0, 1e-320])
def test_an_infinite_kl_does_not_count_for_a_beta_of_zero(beta):
    losses = BetaVAELoss(beta)(X, P, Normal(torch.full((2, 3), 1e30), torch.ones(2, 3)))
    assert math.isinf(float(losses["kl_loss"]))
    assert float(losses["loss"]) == float(losses["rec_loss"])


def test_a_beta_that_float32_cannot_hold():
    with pytest.raises(ValueError, match=r"`beta` must be finite in float32, got 1e\+300"):
        BetaVAELoss(1e300)


@pytest.mark.parametrize("shape", [(0, 1, 2, 2), (2, 1, 0, 2), ()])
def test_a_batch_without_an_image(shape):
    with pytest.raises(ValueError, match=r"`data` must be a tensor of at least one image, got shape \("):
        BetaVAELoss()(torch.zeros(shape), torch.zeros(shape), Q)


@pytest.mark.parametrize("rows", [(0, 3), (3,), (2, 0, 3)])
def test_a_posterior_of_another_shape(rows):
    with pytest.raises(ValueError, match=r"`q` must have parameters of shape \(batch, latent_dim\), got \("):
        BetaVAELoss()(X, P, Normal(torch.zeros(rows), torch.ones(rows), validate_args=False))


def test_a_posterior_of_several_rows_for_an_image():
    mu, scale = (
        torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0.5, 2.0]).expand(4, 3, 2),
    )
    q = Normal(mu, scale)
    per_entry = 0.5 * (mu.square() + scale.square() - 1) - scale.log()
    torch.testing.assert_close(kl_per_dimension(q), per_entry.mean(0))
    torch.testing.assert_close(kl_normal_loss(q), per_entry.sum() / 4)
    x = torch.zeros(4, 1, 2)
    torch.testing.assert_close(BetaVAELoss(3.0)(x, x, q)["loss"], 3 * per_entry.sum() / 4)


@pytest.mark.parametrize("beta", [torch.tensor(2.5), torch.tensor(2.5, dtype=torch.float64, requires_grad=True)])
def test_a_tensor_as_beta_becomes_a_number(beta):
    loss = BetaVAELoss(beta)
    assert type(loss.beta) is float
    assert loss.beta == 2.5
    for wrong in (torch.tensor(-1.0), torch.tensor([1.0, 2.0]), torch.tensor(True)):
        with pytest.raises(ValueError, match="`beta` must be a finite number >= 0"):
            BetaVAELoss(wrong)


def test_a_posterior_of_another_batch():
    with pytest.raises(ValueError, match="`q` must have a row for each of the 2 images, got 1"):
        BetaVAELoss()(X, P, Normal(torch.zeros(1, 3), 1.0))


def test_complex_images_are_refused():
    with pytest.raises(ValueError, match=r"must be real numbers, got torch\.complex64"):
        BetaVAELoss()(X.to(torch.complex64), P, Q)
