"""Refined codes against the closed form of a linear decoder, and never worse than where they start."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_betavae import build_vae
from monai_betavae.evaluation.refinement import refined_codes
from monai_betavae.networks.warm_start import warm_start

RNG = np.random.default_rng(0)


def energy(decode, images, codes, variance):
    """|x - f(z)|^2 + s^2 |z|^2, written once more, in float64."""
    restored = decode(torch.from_numpy(np.asarray(codes, dtype=np.float32))).flatten(1).double().numpy()
    flat = np.asarray(images, dtype=float).reshape(len(images), -1)
    return ((flat - restored) ** 2).sum(axis=1) + variance * (np.asarray(codes, dtype=float) ** 2).sum(axis=1)


@pytest.mark.parametrize("variance", [0.05, 0.5, 8.0])
def test_a_linear_decoder_has_its_mode_after_one_step(variance):
    loadings, offset = RNG.normal(size=(60, 5)), RNG.normal(size=60)
    weight = torch.from_numpy(loadings).float()
    images = RNG.normal(size=(7, 1, 3, 4, 5))
    expected = np.linalg.solve(
        loadings.T @ loadings + variance * np.eye(5), loadings.T @ (images.reshape(7, 60) - offset).T
    ).T
    found = refined_codes(
        lambda z: z @ weight.T + torch.from_numpy(offset).float(),
        images,
        RNG.normal(size=(7, 5)),
        variance=variance,
        chunk_size=3,
    )
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_a_known_code_is_found_again_through_a_curved_decoder():
    weight = torch.from_numpy(RNG.normal(size=(80, 4))).float()

    def decode(z):
        return torch.sinh(0.5 * z @ weight.T)

    codes = RNG.normal(size=(6, 4)).astype(np.float32)
    images = decode(torch.from_numpy(codes)).numpy()
    near = codes + 0.3 * RNG.normal(size=codes.shape)
    errors = [
        np.abs(refined_codes(decode, images, near, variance=1e-6, n_steps=steps) - codes).max() for steps in (0, 1, 6)
    ]
    assert errors[0] > 0.3
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < 0.02


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 10.0), st.integers(1, 3))
def test_no_code_becomes_worse(seed, variance, n_steps):
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.normal(size=(20, 3)) * rng.uniform(0.1, 5)).float()

    def decode(z):
        return torch.sin(z @ weight.T)  # with many local minima

    images, start = rng.normal(size=(4, 20)), rng.normal(size=(4, 3)) * 2
    found = refined_codes(decode, images, start, variance=variance, n_steps=n_steps)
    before = energy(decode, images, start, variance)
    assert (energy(decode, images, found, variance) <= before * (1 + 1e-5) + 1e-5).all()


def test_no_step_changes_nothing_and_rows_do_not_depend_on_others():
    weight = torch.from_numpy(RNG.normal(size=(20, 3))).float()

    def decode(z):
        return torch.tanh(z @ weight.T)

    images, start = RNG.normal(size=(5, 20)), RNG.normal(size=(5, 3)).astype(np.float32)
    assert np.array_equal(refined_codes(decode, images, start, n_steps=0), start)
    together = refined_codes(decode, images, start)
    np.testing.assert_allclose(refined_codes(decode, images[2:3], start[2:3]), together[2:3], atol=1e-6)
    assert not np.allclose(together, start)


def test_a_deformable_template_is_explained_better():
    # blobs that move: linear scores can't say where they are
    places = np.stack(np.meshgrid(*[np.arange(12.0)] * 3, indexing="ij"))
    centres = 5.5 + RNG.uniform(-1.5, 1.5, size=(40, 3))
    images = np.exp(-((places[None] - centres[:, :, None, None, None]) ** 2).sum(axis=1) / 8)[:, None]
    volumes = torch.from_numpy(images).float()
    vae = build_vae(
        (12, 12, 12), 3, channels=(4, 8), warm_start="deformable", beta=0.01, random_state=0, n_corrections=0
    )
    warm_start(vae, torch.utils.data.DataLoader(volumes, batch_size=8))
    vae.eval()
    start = vae.encode(volumes).mean.detach().numpy()
    found = refined_codes(vae.decode, volumes, start, variance=0.005, n_steps=3)
    before, after = (energy(lambda z: vae.decode(z).detach(), images, codes, 0.005) for codes in (start, found))
    assert (after <= before).all()
    assert after.mean() < 0.96 * before.mean()  # seen: 0.94, of an untrained model


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"codes": np.zeros((3, 2))}, r"`codes` must have shape \(n=2, latent_dim\)"),
        ({"images": np.full((2, 6), np.nan)}, "`images` must be finite"),
        ({"codes": np.full((2, 2), np.inf)}, "`codes` must be finite"),
        ({"variance": 0}, "`variance`"),
        ({"n_steps": -1}, "`n_steps`"),
        ({"images": np.zeros((2, 7))}, "`decode` must give the 7 values of an image, got 6"),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    arguments = {"images": np.zeros((2, 6)), "codes": np.zeros((2, 2)), **changed}
    with pytest.raises(ValueError, match=message):
        refined_codes(lambda z: z.repeat(1, 3), **arguments)


def test_each_volume_is_decoded_with_its_own_covariates():
    rng = np.random.default_rng(3)
    weight, shift = (torch.from_numpy(rng.normal(size=(size, 60))).float() for size in (4, 2))
    images, covariates = rng.normal(size=(5, 60)), rng.normal(size=(5, 2))
    found = refined_codes(
        lambda z, c: z @ weight + c @ shift, images, np.zeros((5, 4)), chunk_size=3, covariates=covariates
    )
    w = weight.double().numpy()
    rest = images - covariates @ shift.double().numpy()
    np.testing.assert_allclose(found, np.linalg.solve(w @ w.T + 0.5 * np.eye(4), w @ rest.T).T, atol=1e-4)
    with pytest.raises(ValueError, match=r"`covariates` must have shape \(n=5, n_covariates\).* got \(4, 2\)"):
        refined_codes(lambda z, c: z @ weight, images, np.zeros((5, 4)), covariates=covariates[:4])
