import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group, spearmanr

from monai_betavae.evaluation import canonical_correlations, udr


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def by_loops(codes, kl, threshold=0.01):
    """A second implementation, one correlation after the other."""
    n_models = len(codes)
    pairs = np.zeros((n_models, n_models))
    for i in range(n_models):
        for j in range(n_models):
            table = np.array([[abs(spearmanr(a, b).statistic) for b in codes[j].T] for a in codes[i].T])
            found = [table[:, b].max() ** 2 / table[:, b].sum() for b in range(table.shape[1]) if kl[j][b] > threshold]
            found += [table[a].max() ** 2 / table[a].sum() for a in range(table.shape[0]) if kl[i][a] > threshold]
            pairs[i, j] = np.mean(found) if found else 0
    return [np.median([pairs[i, j] for j in range(n_models) if j != i]) for i in range(n_models)]


def test_it_is_what_loops_give():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        codes = [rng.normal(size=(40, int(rng.integers(1, 6)))) for _ in range(4)]
        kl = [rng.choice([0.001, 0.5], size=each.shape[1]) for each in codes]
        np.testing.assert_allclose(udr(codes, kl)["per_model"], by_loops(codes, kl), rtol=1e-9)


def test_ideal_useless_and_duplicated_codes():
    rng = np.random.default_rng(0)
    # uncorrelated ranks, so that no dimension has a share of another
    base = np.stack(np.meshgrid(*[np.arange(5.0)] * 3), axis=-1).reshape(-1, 3)
    turned = -3 * base[:, [2, 0, 1]] ** 3
    ones = np.ones(3)
    assert udr([base, turned], [ones, ones])["score"] == pytest.approx(1)
    assert udr([normal(2000, 3), normal(2000, 3, seed=1)], [ones, ones])["score"] < 0.05
    rotated = base @ ortho_group.rvs(3, random_state=rng)
    assert udr([base, rotated], [ones, ones])["score"] < 0.7
    duplicated = base[:, [0, 0, 1]]
    assert udr([duplicated, duplicated], [ones, ones])["score"] == pytest.approx((0.5 + 0.5 + 1) / 3)


def test_only_informative_dimensions_count():
    base = np.stack(np.meshgrid(*[np.arange(5.0)] * 2), axis=-1).reshape(-1, 2)
    noisy = [np.column_stack([base, normal(25, seed=seed)]) for seed in (1, 2)]
    kl = [np.array([1.0, 1.0, 0.0])] * 2
    assert udr(noisy, kl)["score"] > udr(noisy, [np.ones(3)] * 2)["score"]
    assert udr(noisy, [np.zeros(3)] * 2)["score"] == 0  # collapsed models aren't stable, they say nothing
    constant = np.zeros((25, 2))
    assert udr([constant, constant], [np.ones(2)] * 2)["score"] == 0


@given(st.integers(0, 1000), st.integers(2, 4), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_it_lies_between_zero_and_one_and_knows_no_order_sign_or_scale(seed, n_models, n_latents):
    rng = np.random.default_rng(seed)
    codes = [rng.normal(size=(15, n_latents)) for _ in range(n_models)]
    kl = [rng.exponential(size=n_latents) for _ in range(n_models)]
    found = udr(codes, kl)
    assert ((found["per_model"] >= 0) & (found["per_model"] <= 1)).all()
    order = rng.permutation(n_latents)
    changed = [-2 * codes[0][:, order] + 1, *codes[1:]]
    again = udr(changed, [kl[0][order], *kl[1:]])
    np.testing.assert_allclose(again["per_model"], found["per_model"])


def test_canonical_correlations_of_known_codes():
    codes, noise = normal(4000, 3), normal(4000, 3, seed=1)
    turned = codes @ ortho_group.rvs(3, random_state=0) * [1, 5, 0.1] + 7
    np.testing.assert_allclose(canonical_correlations(codes, turned), 1)
    assert canonical_correlations(codes, noise).max() < 0.08
    half = canonical_correlations(codes, codes + noise)
    np.testing.assert_allclose(half, np.sqrt(0.5), atol=0.03)
    assert canonical_correlations(codes, codes[:, :1]).shape == (1,)
    assert canonical_correlations(codes[:, [0, 0]], codes).shape == (1,)  # a copy adds no direction
    assert canonical_correlations(np.zeros((40, 2)), codes[:40]).shape == (0,)


@pytest.mark.parametrize(
    ("codes", "kl", "message"),
    [
        ([normal(20, 2)], [np.ones(2)], "at least two models"),
        ([normal(20, 2), normal(21, 2)], [np.ones(2)] * 2, "same subjects"),
        ([normal(9, 2)] * 2, [np.ones(2)] * 2, "at least 10 subjects"),
        ([normal(20, 2), np.full((20, 2), np.nan)], [np.ones(2)] * 2, "finite"),
        ([normal(20, 2)] * 2, [np.ones(2)], "one entry for each"),
        ([normal(20, 2)] * 2, [np.ones(2), np.array([1.0, np.nan])], "`kl` must be finite"),
        ([normal(20, 2)] * 2, [np.ones(3)] * 2, "one value for each of the 2 dimensions"),
    ],
)
def test_wrong_input_is_refused(codes, kl, message):
    with pytest.raises(ValueError, match=message):
        udr(codes, kl)


def test_too_few_subjects_for_canonical_correlations_are_refused():
    with pytest.raises(ValueError, match="more than 24 subjects"):
        canonical_correlations(normal(24, 6), normal(24, 6))
