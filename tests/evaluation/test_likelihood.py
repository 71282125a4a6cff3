"""Likelihoods against closed forms: linear Gaussian models, constants by hand, and what must not change the numbers."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from monai.data import MetaTensor
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from torch import nn
from torch.distributions import Bernoulli, Laplace, Normal
from torch.utils.data import DataLoader

from monai_betavae import VAE
from monai_betavae.evaluation.likelihood import elbo, log_likelihood, probabilistic_pca_log_density
from monai_betavae.losses import BetaVAELoss

SHAPE = (1, 2, 2, 3)
N_VOXELS = 12
RNG = np.random.default_rng(0)
W = np.linalg.qr(RNG.normal(size=(N_VOXELS, 3)))[0] * [2.0, 1.0, 0.3]  # orthogonal columns: a diagonal posterior
B = RNG.normal(size=N_VOXELS)
X = (RNG.normal(size=(7, 3)) @ W.T + B + RNG.normal(size=(7, N_VOXELS))).reshape(7, *SHAPE)


class LinearGaussian(nn.Module):
    """p(x|z) = N(W z + b, noise^2 I), with q(z|x) the true posterior, or one that is ``wider`` times as wide."""

    default_dist = "normal"

    def __init__(self, noise=1.0, wider=1.0, dtype=torch.float64):
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(3, N_VOXELS), nn.Unflatten(1, SHAPE)).to(dtype)
        self.dropout = nn.Dropout(0.5)
        with torch.no_grad():
            self.decoder[0].weight.copy_(torch.from_numpy(W))
            self.decoder[0].bias.copy_(torch.from_numpy(B))
        self.variance = 1 / (1 + (W**2).sum(axis=0) / noise**2)
        self.noise, self.wider = noise, wider

    def encode(self, x):
        weights, bias = self.decoder[0].weight, self.decoder[0].bias
        variance = torch.from_numpy(self.variance).to(weights)
        loc = variance / self.noise**2 * ((self.dropout(x.to(weights)).flatten(1) - bias) @ weights)
        return Normal(loc, (self.wider * variance.sqrt()).expand_as(loc))


class Fixed:
    """Gives one distribution whatever the code; q(z|x) = N(2, 0.5^2) in two dimensions. Not a module."""

    def __init__(self, output, default_dist="normal"):
        self.output, self.default_dist = output, default_dist

    def encode(self, x):
        return Normal(torch.full((len(x), 2), 2.0), torch.full((len(x), 2), 0.5))

    def decoder(self, z):
        return self.output(len(z))


class Recording(LinearGaussian):
    def __init__(self):
        super().__init__()
        self.codes, self.modes = [], []
        self.decoder.register_forward_pre_hook(lambda module, args: self.codes.append(args[0].numpy().copy()))

    def encode(self, x):
        self.modes.append((self.training, self.dropout.training, torch.is_grad_enabled()))
        return super().encode(x)


def batches(size=3):
    return list(torch.from_numpy(X).split(size))


def exact(noise=1.0):
    return multivariate_normal(B, W @ W.T + noise**2 * np.eye(N_VOXELS)).logpdf(X.reshape(7, -1))


@pytest.mark.parametrize(("scale", "noise"), [(None, 1.0), (0.4, 0.4)])
def test_with_the_true_posterior_every_bound_is_the_density(scale, noise):
    model = LinearGaussian(noise)
    for k in (1, 2, 7):
        np.testing.assert_allclose(log_likelihood(model, batches(), k, scale=scale), exact(noise), rtol=1e-12)
    # the ELBO's density term is a mean over draws, its KL is exact: equal in expectation, the more draws the closer
    found = elbo(model, batches(), n_samples=4000, scale=scale, chunk_size=4000)
    np.testing.assert_allclose(found.elbo, exact(noise), atol=0.15)
    assert (found.log_density - found.kl).tolist() == found.elbo.tolist()


def test_kl_is_that_of_torch():
    model = LinearGaussian(wider=1.7)
    q = model.eval().encode(torch.from_numpy(X))
    expected = torch.distributions.kl_divergence(q, Normal(0.0, 1.0)).sum(dim=1)
    np.testing.assert_allclose(elbo(model, batches()).kl, expected.detach().numpy(), rtol=1e-12)


def test_a_float32_network_gives_the_density_to_its_precision():
    model = LinearGaussian(dtype=torch.float32)
    found = log_likelihood(model, [batch.float() for batch in batches()], 5)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, exact(), rtol=1e-5)


def test_with_a_wrong_posterior_the_bound_rises_with_k():
    model, wider, density = LinearGaussian(wider=3.0), 3.0, exact().mean()
    # many times the same volumes, to see the expectations
    loader = [torch.from_numpy(X).repeat(60, 1, 1, 1, 1)]
    options = {"chunk_size": 4000, "seed": 1}
    lower = elbo(model, loader, n_samples=100, **options).elbo.mean()
    bounds = [log_likelihood(model, loader, k, **options).mean() for k in (1, 10, 100)]
    # the gap of the ELBO is the KL divergence of q from the true posterior, in three dimensions
    assert lower == pytest.approx(density - 3 * (0.5 * (wider**2 - 1) - math.log(wider)), abs=0.1)
    assert bounds[0] == pytest.approx(lower, abs=0.7)
    assert bounds[0] < lower + 1 < bounds[1] < bounds[2] < density
    assert bounds[2] == pytest.approx(density, abs=0.1)
    rows = log_likelihood(model, loader, 100, **options) - elbo(model, loader, n_samples=100, **options).elbo
    assert (rows > 0).all()


def test_elbo_draws_are_the_first_of_the_bound():
    model = LinearGaussian(wider=2.0)
    q = model.eval().encode(torch.from_numpy(X))
    recording = Recording()
    recording.wider = 2.0
    first = log_likelihood(recording, batches(7), 1)
    z = torch.from_numpy(recording.codes[0])
    ratio = (Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)).sum(dim=1).detach().numpy()
    np.testing.assert_allclose(elbo(model, batches()).log_density + ratio, first, rtol=1e-9)


def test_neither_batches_nor_chunks_change_the_numbers():
    model = LinearGaussian(wider=2.0, dtype=torch.float32)
    images = torch.from_numpy(X).float()
    expected = log_likelihood(model, images.split(7), 10)
    for size, chunk in ((1, 16), (2, 1), (3, 7), (7, 1000)):
        np.testing.assert_allclose(log_likelihood(model, images.split(size), 10, chunk_size=chunk), expected, rtol=1e-6)
    found = elbo(model, images.split(2), n_samples=3, chunk_size=2)
    np.testing.assert_allclose(found.elbo, elbo(model, images.split(7), n_samples=3).elbo, rtol=1e-6)


def test_noise_depends_on_seed_row_and_draw_alone():
    def codes(k, **options):
        model = Recording()
        log_likelihood(model, batches(7), k, chunk_size=1000, **options)
        return model.codes[0].reshape(7, k, 3)

    few, many = codes(3), codes(20)
    np.testing.assert_array_equal(many[:, :3], few)
    noise = (many - many.mean(axis=1, keepdims=True)) / LinearGaussian().variance ** 0.5
    assert np.abs(np.corrcoef(noise.reshape(7, -1)) - np.eye(7)).max() < 0.6  # unrelated between rows
    assert noise.std() == pytest.approx(1, abs=0.1)
    assert not (codes(3, seed=1) == few).any()
    assert not (codes(3, seed=None) == codes(3, seed=None)).any()


def test_each_decoder_call_holds_at_most_a_chunk():
    model = Recording()
    log_likelihood(model, batches(4), 5, chunk_size=8)
    assert [len(codes) for codes in model.codes] == [8, 8, 4, 8, 7]


def test_constants_by_hand():
    x, k = torch.full((2, 1, 2, 2), 0.75), 2
    tensor = torch.full((1, 1, 2, 2), 0.25)

    def density(output, **options):
        default = options.pop("default_dist", "normal")
        model = Fixed(lambda n: output(tensor.expand(n, -1, -1, -1)), default)
        found = elbo(model, [x], n_samples=k, **options)
        np.testing.assert_allclose(found.kl, 2 * 0.5 * (4 + 0.25 - 1 - math.log(0.25)))
        assert len(found.log_density) == 2
        return found.log_density[0]

    # four voxels that are off by 0.5
    assert density(lambda p: p) == pytest.approx(4 * (-0.125 - 0.5 * math.log(2 * math.pi)))
    assert density(lambda p: p, scale=0.5) == pytest.approx(4 * (-0.5 - math.log(0.5) - 0.5 * math.log(2 * math.pi)))
    assert density(lambda p: Normal(p, 0.5)) == pytest.approx(density(lambda p: p, scale=0.5))
    assert density(lambda p: p, default_dist="laplace") == pytest.approx(4 * (-0.5 - math.log(2)))
    assert density(lambda p: p, default_dist="laplace", scale=0.1) == pytest.approx(4 * (-5 - math.log(0.2)))
    assert density(lambda p: Laplace(p, 0.1)) == pytest.approx(4 * (-5 - math.log(0.2)))
    bernoulli = 4 * (0.75 * math.log(0.25) + 0.25 * math.log(0.75))
    assert density(lambda p: p, default_dist="bernoulli") == pytest.approx(bernoulli)
    assert density(lambda p: Bernoulli(probs=p)) == pytest.approx(bernoulli)
    assert density(lambda p: Bernoulli(logits=torch.full_like(p, -math.log(3)))) == pytest.approx(bernoulli)


def test_sums_over_a_million_voxels_keep_their_digits():
    n = 10**6
    model = Fixed(lambda k: torch.full((k, 1, 100, 100, 100), 0.1))
    found = elbo(model, [torch.zeros(1, 1, 100, 100, 100)]).log_density[0]
    off = float(np.float32(0.1))
    assert found == pytest.approx(-n * (off**2 / 2 + 0.5 * math.log(2 * math.pi)), abs=1e-6)


@pytest.mark.parametrize("default_dist", ["normal", "laplace", "bernoulli"])
def test_the_estimator_up_to_the_constants_of_its_loss(default_dist):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh())
    decoder = nn.Sequential(nn.Linear(2, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 4, 4, 4)))
    vae = VAE(encoder, decoder, 5, 2, beta=7.0, default_dist=default_dist, random_state=0)
    nn.init.constant_(vae.fc_logvar.bias, -30.0)  # a draw is the mean
    x = torch.rand(3, 1, 4, 4, 4)
    found = elbo(vae, [x])
    with torch.no_grad():
        losses = BetaVAELoss(7.0, default_dist)(x, vae.reconstruct(x), vae.encode(x))
    rec = float(losses["rec_loss"])
    expected = {
        "normal": -rec / 2 - 32 * math.log(2 * math.pi),
        "laplace": -rec - 64 * math.log(2),
        "bernoulli": -rec,
    }
    assert found.log_density.mean() == pytest.approx(expected[default_dist], rel=1e-5)
    assert found.kl.mean() == pytest.approx(float(losses["kl_loss"]), rel=1e-5)


def test_modes_gradients_and_global_generators_stay():
    model = Recording()
    model.train()
    model.decoder.eval()  # a frozen part
    torch.manual_seed(5)
    states = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    first = log_likelihood(model, DataLoader(torch.from_numpy(X), batch_size=2, shuffle=True), 3)
    np.testing.assert_allclose(first, exact(), rtol=1e-12)  # without dropout, in the dataset's order
    assert model.modes == [(False, False, False)] * 4
    assert (model.training, model.dropout.training, model.decoder.training) == (True, True, False)
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_equal(np.random.get_state(), states[1])  # noqa: NPY002


def test_the_mode_comes_back_after_an_error():
    model = LinearGaussian().train()
    with pytest.raises(ValueError, match="finite"):
        elbo(model, [torch.full((1, *SHAPE), math.nan)])
    assert model.training
    assert model.dropout.training


def test_autocast_around_it_changes_nothing():
    model = LinearGaussian(dtype=torch.float32)
    images = [batch.float() for batch in batches()]
    expected = log_likelihood(model, images, 2)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(log_likelihood(model, images, 2), expected)


def test_batches_of_every_kind():
    model = LinearGaussian()
    for batch in (
        MetaTensor(torch.from_numpy(X)),
        {"scan": MetaTensor(torch.from_numpy(X)), "subject": list("abcdefg")},
        (torch.from_numpy(X), torch.zeros(7)),
    ):
        np.testing.assert_allclose(log_likelihood(model, [batch], 2, image_key="scan"), exact(), rtol=1e-12)
        assert elbo(model, [batch], image_key="scan").elbo.shape == (7,)


def test_processes_share_the_rows_and_their_noise(group, monkeypatch):
    model = LinearGaussian(wider=2.0)
    loader = DataLoader(torch.from_numpy(X), batch_size=2)
    expected = log_likelihood(model, loader, 4)

    def only_mine(every, parts):
        every[:] = [[], parts]

    monkeypatch.setattr(dist, "all_gather_object", only_mine)
    group(rank=1, world=2)
    # shares are whole batches: two of the four batches, of 2, 2, 2 and 1 volumes
    np.testing.assert_allclose(log_likelihood(model, loader, 4), expected[4:], rtol=1e-12)


def test_a_progress_bar_can_be_had(capsys):
    elbo(LinearGaussian(), batches(), progress=False)
    assert capsys.readouterr().err == ""


class Encodes(LinearGaussian):
    def __init__(self, posterior):
        super().__init__()
        self.posterior = posterior

    def encode(self, x):
        return self.posterior


@pytest.mark.parametrize(
    ("model", "loader", "options", "message"),
    [
        (LinearGaussian(), [], {}, "`dataloader` must give at least one batch, got an empty loader"),
        (LinearGaussian(), iter([]), {}, "`dataloader` must give at least one batch, got none"),
        (LinearGaussian(), None, {}, "`dataloader` must be a DataLoader"),
        (LinearGaussian(), batches(), {"n_samples": 0}, "`n_samples` must be an integer >= 1, got 0"),
        (LinearGaussian(), batches(), {"chunk_size": 0}, "`chunk_size` must be an integer >= 1, got 0"),
        (LinearGaussian(), batches(), {"seed": -1}, "`seed` must be None or an integer"),
        (LinearGaussian(), batches(), {"scale": 0.0}, "`scale` must be a finite number > 0, got 0.0"),
        (LinearGaussian(), [{"a": 1}], {"image_key": "b"}, "`image_key` must be a key of the batch, got 'b'"),
        (LinearGaussian(), [torch.full((2, *SHAPE), math.inf)], {}, "images of batch 0 must be finite"),
        (object(), batches(), {}, "`model` must have a callable `encode`, got a object without"),
        (
            Encodes(torch.zeros(3)),
            batches(),
            {},
            "`model.encode` must give .*Normal of .*, got a Tensor",
        ),
        (Encodes(Normal(torch.zeros(2, 3), 1.0)), batches(), {}, r"Normal of shape \(batch=3, latent_dim\), got one"),
        (Fixed(lambda n: torch.zeros(n, 5)), batches(), {}, r"`model.decoder` must give .*, got \(3, 5\)"),
        (Fixed(lambda n: "text"), batches(), {}, "decoder's output must be a tensor or a torch.distributions"),
        (Fixed(None, "gauss"), batches(), {}, "`model.default_dist` must be one of 'normal', 'laplace', 'bernoulli'"),
        (
            Fixed(lambda n: Normal(torch.zeros(n, *SHAPE), 1.0)),
            batches(),
            {"scale": 2.0},
            "`scale` must be None for this decoder .its distribution has its own., got 2.0",
        ),
        (
            Fixed(lambda n: torch.zeros(n, *SHAPE), "bernoulli"),
            batches(),
            {"scale": 2.0},
            "`scale` must be None for this decoder .a bernoulli has none.",
        ),
        (Fixed(lambda n: torch.full((n, *SHAPE), 0.5), "bernoulli"), batches(), {}, r"must lie in \[0, 1\]"),
    ],
)
def test_refusals(model, loader, options, message):
    with pytest.raises(ValueError, match=message):
        elbo(model, loader, **options)


def test_a_model_that_does_not_say_its_likelihood_is_refused():
    model = Fixed(lambda n: torch.zeros(n, *SHAPE))
    del model.default_dist
    with pytest.raises(ValueError, match="`model` must have `default_dist`, one of 'normal'"):
        log_likelihood(model, batches())


def test_probabilistic_pca_is_the_normal_density():
    for s2 in (1.0, 1e-3):
        expected = multivariate_normal(B, W @ W.T + s2 * np.eye(N_VOXELS)).logpdf(X.reshape(7, -1))
        np.testing.assert_allclose(probabilistic_pca_log_density(X, B.reshape(SHAPE), W, s2), expected, rtol=1e-9)
    oblique = RNG.normal(size=(N_VOXELS, 15))  # more components than voxels, not orthogonal
    expected = multivariate_normal(B, oblique @ oblique.T + 0.3 * np.eye(N_VOXELS)).logpdf(X.reshape(7, -1))
    np.testing.assert_allclose(probabilistic_pca_log_density(X, B, oblique, 0.3), expected, rtol=1e-9)


def test_probabilistic_pca_is_that_of_scikit_learn():
    data = RNG.normal(size=(40, N_VOXELS)) * np.arange(1, N_VOXELS + 1)
    pca = PCA(4).fit(data)
    loadings = pca.components_.T * np.sqrt(pca.explained_variance_ - pca.noise_variance_)
    found = probabilistic_pca_log_density(data, pca.mean_, loadings, pca.noise_variance_)
    np.testing.assert_allclose(found, pca.score_samples(data), rtol=1e-9)
    assert found.mean() == pytest.approx(pca.score(data))


def test_the_linear_model_has_the_density_of_probabilistic_pca():
    found = log_likelihood(LinearGaussian(noise=0.4), batches(), 3, scale=0.4)
    np.testing.assert_allclose(found, probabilistic_pca_log_density(X, B, W, 0.16), rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, B, W, 0.0), "`noise_variance` must be a finite number > 0, got 0.0"),
        ((X, B[1:], W, 1.0), "`pca_mean` must have the 12 values of an image, got 11"),
        ((X, B, W.T, 1.0), r"`loadings` must have shape \(12, k\), as an image has values, got \(3, 12\)"),
        ((B, B, W, 1.0), r"`images` must have shape \(n, ...\) with at least one row, got \(12,\)"),
        ((X[:0], B, W, 1.0), "`images` must have shape"),
    ],
)
def test_refusals_of_probabilistic_pca(arguments, message):
    with pytest.raises(ValueError, match=message):
        probabilistic_pca_log_density(*arguments)
