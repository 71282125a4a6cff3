"""Disentanglement scores on ideal, useless, duplicated and rotated codes, hand-computed tables, and refusals."""

import functools
import math

import numpy as np
import pandas as pd
import pytest

from monai_betavae.evaluation.disentanglement import MODELS, dci, disentanglement_of, factor_vae_score, mig, sap

METRICS = (mig, sap, dci, factor_vae_score)
DCI_SCORES = ("disentanglement", "completeness", "informativeness")
N = 150
# a reflection in which every code mixes all factors, two of them equally
ROTATION = np.eye(3) - 2 / 3


def independent_factors():
    return np.random.default_rng(0).normal(size=(N, 3))


def codes_of(kind):
    factors = independent_factors()
    noise = np.random.default_rng(1).normal(size=(N, 6))
    return {
        "ideal": factors,
        "ideal and unused": np.hstack([noise[:, :2], factors]),
        "useless": noise,
        "duplicated": np.hstack([factors, factors]),
        "rotated": factors @ ROTATION,
    }[kind]


@functools.cache
def found(metric, kind):
    return metric(codes_of(kind), independent_factors())


def binary_pair():
    """Twenty subjects, ten of each level, and a code that agrees with the level of eight in ten."""
    level = np.repeat([0, 1], 10)
    agreeing = level.copy()
    agreeing[[0, 1, 10, 11]] = 1 - agreeing[[0, 1, 10, 11]]
    return level, agreeing


@pytest.fixture(autouse=True)
def _fewer_trees(monkeypatch):
    # the same code in a fifth of the time
    monkeypatch.setattr("monai_betavae.evaluation.importance.N_TREES", 10)
    monkeypatch.setattr("monai_betavae.evaluation.importance.N_ROUNDS", 25)


# MIG


def test_mig_of_a_table_computed_by_hand():
    level, agreeing = binary_pair()
    result = mig(np.stack([agreeing, level], axis=1), level[:, None], names=["sex"], n_bins=2)
    conditional = -0.8 * math.log(0.8) - 0.2 * math.log(0.2)
    assert result["mutual_information"] == pytest.approx(np.array([[math.log(2) - conditional], [math.log(2)]]))
    assert result["entropy"] == pytest.approx({"sex": math.log(2)})
    assert result["score"] == pytest.approx(conditional / math.log(2))
    assert result["per_factor"] == pytest.approx({"sex": 0.721928})


def test_mig_divides_by_the_factor_s_own_entropy_and_averages():
    level, agreeing = binary_pair()
    site = np.array(["a"] * 5 + ["b"] * 15)
    result = mig(np.stack([agreeing, level], axis=1), {"sex": level, "site": site}, n_bins=2)
    assert result["entropy"]["site"] == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    assert result["score"] == pytest.approx((result["per_factor"]["sex"] + result["per_factor"]["site"]) / 2)
    # the five of site a all have level 0; two of them disagree
    counts = {"level": [[5, 5], [0, 10]], "agreeing": [[3, 7], [2, 8]]}
    for row, name in enumerate(["agreeing", "level"]):
        joint = np.array(counts[name]) / 20
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = joint * np.log(joint / np.outer(joint.sum(axis=1), joint.sum(axis=0)))
        assert result["mutual_information"][row, 1] == pytest.approx(np.nansum(terms))


def test_mig_s_bias_of_useless_codes_is_the_documented_one():
    rng = np.random.default_rng(3)
    result = mig(rng.normal(size=(300, 200)), {"x": rng.normal(size=300), "y": rng.integers(0, 3, 300)})
    bias = result["mutual_information"].mean(axis=0)
    assert bias[0] == pytest.approx(6 * 6 / 600, rel=0.1)
    assert bias[1] == pytest.approx(6 * 2 / 600, rel=0.2)


@pytest.mark.parametrize("n", [100, 101, 60, 77])
def test_mig_depends_on_the_order_of_values_alone(n):
    rng = np.random.default_rng(4)
    codes = rng.normal(size=(n, 4)).round(1)  # with ties
    factors = {"age": rng.normal(size=n) + codes[:, 0], "sex": codes[:, 1] > 0.3}
    transformed = np.stack([np.exp(codes[:, 0]), -(codes[:, 1] ** 3), 1e3 - 7 * codes[:, 2], np.arctan(codes[:, 3])], 1)
    before = mig(codes, factors)
    after = mig(transformed[:, [2, 0, 3, 1]], factors | {"age": -np.exp(factors["age"])})
    assert after["mutual_information"] == pytest.approx(before["mutual_information"][[2, 0, 3, 1]], abs=1e-12)
    assert after["score"] == pytest.approx(before["score"], abs=1e-12)


# SAP


def test_sap_of_a_continuous_factor_is_the_squared_correlation():
    rng = np.random.default_rng(5)
    codes = rng.normal(size=(50, 3))
    factor = 3 - 2 * codes[:, 1] + codes[:, 0] + rng.normal(size=50)
    result = sap(codes, {"age": factor})
    squares = np.array([np.corrcoef(code, factor)[0, 1] ** 2 for code in codes.T])
    assert result["predictability"][:, 0] == pytest.approx(squares)
    first, second = np.sort(squares)[:-3:-1]
    assert result["per_factor"] == pytest.approx({"age": first - second})


def test_sap_of_a_rare_level_is_balanced_accuracy():
    rng = np.random.default_rng(6)
    patient = np.arange(20000) < 2000
    codes = rng.normal(size=(20000, 2))
    codes[:, 0] += np.where(patient, 1, -1)
    result = sap(codes, {"diagnosis": patient})
    # the best threshold of two normals at -1 and 1 is 0, right with probability Phi(1) on either side
    assert result["predictability"][:, 0] == pytest.approx([0.8413, 0.5], abs=0.015)
    assert result["score"] == pytest.approx(0.3413, abs=0.02)


def test_sap_finds_a_level_between_two_others():
    site = np.tile(["a", "b", "c"], 20)
    codes = np.random.default_rng(7).normal(size=(60, 2))
    codes[:, 1] = np.select([site == "a", site == "b"], [0.0, 9.0], 5.0) + 0.1 * codes[:, 1]
    result = sap(codes, {"site": site})
    assert result["predictability"][1, 0] == 1
    assert result["score"] == pytest.approx(1 - result["predictability"][0, 0])


def test_sap_predicts_subjects_it_was_not_fitted_to():
    rng = np.random.default_rng(8)
    result = sap(rng.normal(size=(30, 2000)), {"sex": np.arange(30) % 2})
    assert result["predictability"].mean() < 0.505  # fitted to the same subjects it would be 0.56


def test_two_subjects_of_a_level_are_never_held_out_together():
    site = np.repeat(["a", "b", "c"], [2, 18, 20])
    codes = np.stack([np.select([site == "a", site == "b"], [0.0, 1.0], 2.0), np.zeros(40)], axis=1)
    for seed in range(20):
        assert sap(codes, {"site": site}, seed=seed)["predictability"][0, 0] == 1


def test_a_constant_code_predicts_nothing():
    factors = {"age": independent_factors()[:, 0], "sex": np.arange(N) % 2}
    codes = np.stack([np.full(N, 0.1), factors["age"]], axis=1)
    result = sap(codes, factors)
    assert result["predictability"][0].tolist() == [0, 0.5]
    assert result["per_factor"]["age"] == pytest.approx(1)
    result = dci(codes, factors)
    assert result["importance"][0].tolist() == [0, 0]
    assert result["per_code"][0] == 0


# DCI


def test_dci_reports_the_numbers_its_scores_are_made_of():
    result = found(dci, "ideal and unused")
    importance = result["importance"]
    assert importance.shape == (5, 3)
    assert importance.sum(axis=0) == pytest.approx(np.ones(3))
    assert importance.argmax(axis=0).tolist() == [2, 3, 4]
    assert result["disentanglement"] == disentanglement_of(importance)
    weights = importance.sum(axis=1) / 3
    assert result["disentanglement"] == pytest.approx(weights @ result["per_code"])
    assert result["completeness"] == pytest.approx(np.mean(list(result["per_factor"].values())))
    assert result["informativeness"] == pytest.approx(np.mean(list(result["informativeness_per_factor"].values())))


@pytest.mark.parametrize("model", MODELS)
def test_dci_s_models_on_mixed_factors(model):
    rng = np.random.default_rng(10)
    factors = {"age": rng.normal(size=60), "site": np.tile(["a", "b", "c"], 20)}
    site = np.select([factors["site"] == "a", factors["site"] == "b"], [0.0, 1.0], 2.0)
    result = dci(np.stack([rng.normal(size=60), site, factors["age"]], axis=1), factors, model=model)
    assert result["importance"].argmax(axis=0).tolist() == [2, 1]
    parts = result["informativeness_per_factor"]
    assert parts["age"] > 0.9
    # a line can't tell the level in the middle from the two around it
    assert parts["site"] == pytest.approx(1, abs=0.03) if model != "lasso" else 0.6 < parts["site"] < 0.8


def test_dci_s_informativeness_of_a_rare_level_is_balanced():
    rng = np.random.default_rng(11)
    factors = {"patient": np.arange(200) < 30, "age": rng.normal(size=200)}
    codes = rng.normal(size=(200, 3))
    codes[:, 0] += 3.0 * factors["patient"]
    parts = dci(codes, factors, model="lasso")["informativeness_per_factor"]
    assert parts["patient"] == pytest.approx(0.933, abs=0.05)  # Phi(1.5); 0.82 if patients had no greater weight
    assert parts["age"] < 0.02
    codes[:, 0] -= 3.0 * factors["patient"]
    assert dci(codes, factors)["informativeness_per_factor"]["patient"] < 0.65  # always "no" is right for 0.85


def test_dci_with_a_line_does_not_lose_information_by_rotation():
    straight = dci(codes_of("ideal"), independent_factors(), model="lasso")
    rotated = dci(codes_of("rotated"), independent_factors(), model="lasso")
    assert straight["informativeness"] == pytest.approx(1, abs=1e-3)
    assert rotated["informativeness"] == pytest.approx(1, abs=1e-3)
    # each factor's weights are 1/3, 2/3, 2/3
    entropy = (0.2 * math.log(5) + 0.8 * math.log(2.5)) / math.log(3)
    assert rotated["disentanglement"] == pytest.approx(1 - entropy, abs=0.02)
    assert straight["disentanglement"] > 0.95


# FactorVAE


def test_factor_vae_leaves_inactive_codes_out():
    factors = independent_factors()
    collapsed = 0.1 * factors[:, [0]]  # tells the first factor perfectly, at a variance of 0.01
    codes = np.hstack([collapsed, factors])
    result = factor_vae_score(codes, factors)
    assert result["active"].tolist() == [False, True, True, True]
    assert result["votes"][0].sum() == 0
    assert result["votes"].sum() == 1600
    assert factor_vae_score(codes, factors, threshold=0.0)["votes"][0].sum() > 0


def test_factor_vae_gives_every_factor_its_votes():
    assert found(factor_vae_score, "duplicated")["chance"] == pytest.approx(1 / 3)
    votes = found(factor_vae_score, "ideal")["votes"]
    assert votes.sum(axis=0).tolist() == [534, 534, 532]
    assert votes.argmax(axis=0).tolist() == [0, 1, 2]


def test_factor_vae_of_codes_that_are_all_inactive_is_zero():
    result = factor_vae_score(np.zeros((N, 4)), independent_factors())
    assert result["score"] == 0
    assert not result["active"].any()
    assert result["votes"].sum() == 0


def test_factor_vae_of_noise_is_chance():
    rng = np.random.default_rng(11)
    scores = [
        factor_vae_score(rng.normal(size=(100, 20)), rng.normal(size=(100, 4)), seed=seed, n_votes=400)["score"]
        for seed in range(15)
    ]
    assert np.mean(scores) == pytest.approx(
        0.25, abs=0.03
    )  # 0.66 if one half did both; 0.20 if factors had their own halves


def test_factor_vae_refuses_levels_with_too_few_subjects():
    factors = {"age": np.arange(60.0), "site": np.repeat(["a", "b"], [41, 19])}
    codes = np.random.default_rng(12).normal(size=(60, 2))
    with pytest.raises(ValueError, match=r"at least `group_size` = 10 .* got 9 in a level of 'site'"):
        factor_vae_score(codes, factors)
    with pytest.raises(ValueError, match="got 6 in a quantile bin of 5 of 'age'"):
        factor_vae_score(codes, factors, n_bins=5)
    assert factor_vae_score(codes, factors, group_size=9)["n_bins"] == 3


# all four


def test_ideal_codes_score_high():
    assert found(mig, "ideal")["score"] > 0.9
    assert found(sap, "ideal")["score"] > 0.95
    assert found(factor_vae_score, "ideal")["score"] > 0.95
    assert all(found(dci, "ideal")[key] > 0.95 for key in DCI_SCORES)


def test_unused_codes_beside_ideal_ones_cost_little():
    assert found(mig, "ideal and unused")["score"] > 0.85
    assert found(sap, "ideal and unused")["score"] > 0.95
    assert found(factor_vae_score, "ideal and unused")["score"] > 0.9
    assert all(found(dci, "ideal and unused")[key] > 0.95 for key in DCI_SCORES)


def test_useless_codes_score_low():
    assert found(mig, "useless")["score"] < 0.05
    assert found(sap, "useless")["score"] < 0.05
    assert found(factor_vae_score, "useless")["score"] == pytest.approx(1 / 3, abs=0.1)
    assert found(dci, "useless")["disentanglement"] < 0.1
    assert found(dci, "useless")["completeness"] < 0.1
    assert found(dci, "useless")["informativeness"] < 0.05


def test_duplicated_codes_have_no_gap_and_less_completeness():
    assert found(mig, "duplicated")["score"] == 0
    assert found(sap, "duplicated")["score"] == pytest.approx(0, abs=1e-12)
    assert found(factor_vae_score, "duplicated")["score"] > 0.95
    assert found(dci, "duplicated")["disentanglement"] > 0.95
    assert found(dci, "duplicated")["informativeness"] > 0.95
    assert found(dci, "duplicated")["completeness"] == pytest.approx(1 - math.log(2) / math.log(6), abs=0.03)


def test_rotated_codes_score_low_and_inform():
    assert found(mig, "rotated")["score"] < 0.15
    assert found(sap, "rotated")["score"] < 0.15
    assert found(factor_vae_score, "rotated")["score"] < 0.65  # two codes vary equally little: 1/2
    assert found(dci, "rotated")["disentanglement"] < 0.3
    assert found(dci, "rotated")["completeness"] < 0.3
    assert found(dci, "rotated")["informativeness"] > 0.7


def scores(result):
    return [result[key] for key in ("score", *DCI_SCORES) if key in result]


@pytest.mark.parametrize("metric", METRICS)
def test_order_and_scale_of_codes_do_not_matter(metric):
    rng = np.random.default_rng(13)
    factors = {"age": rng.normal(size=60), "sex": np.arange(60) % 2}
    codes = np.hstack([np.stack(list(factors.values()), axis=1), np.zeros((60, 2))]) + rng.normal(size=(60, 4))
    before = scores(metric(codes, factors))
    changed = (codes * [4.0, -0.5, 1024.0, -2.0])[:, [3, 1, 0, 2]]
    assert scores(metric(changed, factors)) == pytest.approx(before, abs=1e-9)
    # a shift rounds, and one rounding may move a subject across a tree's threshold
    assert scores(metric(3 * codes + [100, -7, 0.3, 5], factors)) == pytest.approx(before, abs=0.01)


@pytest.mark.parametrize("metric", METRICS)
def test_a_seed_repeats_the_scores_and_leaves_numpy_s_generator_alone(metric):
    rng = np.random.default_rng(14)
    factors = {"age": rng.normal(size=60), "sex": np.arange(60) % 2}
    codes = rng.normal(size=(60, 3))
    np.random.seed(0)  # noqa: NPY002
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    first = scores(metric(codes, factors, seed=1))
    np.random.seed(0)  # noqa: NPY002
    assert scores(metric(codes, factors, seed=1)) == first
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
    assert (scores(metric(codes, factors, seed=2)) == first) == (metric is mig)


# refusals


GOOD = np.random.default_rng(16).normal(size=(40, 2))
TEXT = np.array(["a", "b"] * 20, dtype=object)


def changed(values, value, *positions):
    values = np.array(values)
    values[list(positions)] = value
    return values


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("codes", "factors", "options", "message"),
    [
        (GOOD[:19], GOOD[:19], {}, "`codes` must have shape .* at least 20 subjects and 2 dimensions, got \\(19, 2\\)"),
        (GOOD[:, :1], GOOD, {}, "`codes` must have shape .* got \\(40, 1\\)"),
        (GOOD[:, 0], GOOD, {}, "`codes` must have shape .* got \\(40,\\)"),
        (changed(GOOD, np.nan, 3), GOOD, {}, "`codes` must be finite, got 2 values"),
        (GOOD, GOOD[:, 0], {}, "`factors` must have shape \\(n, n_factors\\)"),
        (GOOD, GOOD[:30], {}, "`factors` must have a value for each of 40 subjects, got 'factor_0' of shape \\(30,\\)"),
        (GOOD, {}, {}, "`factors` must be at least [12], got 0"),
        (GOOD, GOOD, {"names": ["a"]}, "`names` must be one for each of 2 factors, got \\['a'\\]"),
        (GOOD, GOOD, {"names": ["a", "a"]}, "`names` must be different"),
        (GOOD, {"a": TEXT, "b": TEXT}, {"names": ["a", "c"]}, "`names` must be among .* got \\['c'\\]"),
        (GOOD, {"a": TEXT, "b": TEXT}, {"discrete": ["c"]}, "`discrete` must name factors among .* got \\['c'\\]"),
        (GOOD, {"age": changed(GOOD[:, 0], np.nan, 1, 2), "b": TEXT}, {}, "no missing values, got 2 in 'age'"),
        (GOOD, {"sex": changed(TEXT, None, 1, 2, 3), "b": TEXT}, {}, "no missing values, got 3 in 'sex'"),
        (GOOD, {"sex": changed(TEXT, pd.NA, 4), "b": TEXT}, {}, "no missing values, got 1 in 'sex'"),
        (GOOD, {"sex": changed(TEXT, "n/a", 4, 5), "b": TEXT}, {}, "no missing values, got 2 in 'sex'"),
        (GOOD, {"age": changed(GOOD[:, 0], np.inf, 1), "b": TEXT}, {}, "must be finite, got 1 infinite in 'age'"),
        (GOOD, {"site": np.full(40, "x"), "b": TEXT}, {}, "must vary, got the one value x for all subjects in 'site'"),
        (GOOD, {"dose": np.full(40, 2.5), "b": TEXT}, {}, "must vary, got the one value 2.5 .* 'dose'"),
        (
            GOOD,
            {"site": changed(TEXT, "c", 7), "b": TEXT},
            {},
            "at least 2 subjects of each value, got 1 of c in 'site'",
        ),
        (GOOD, GOOD, {"seed": -1}, "`seed` must be None or an integer"),
    ],
)
def test_refusals(metric, codes, factors, options, message):
    with pytest.raises(ValueError, match=message):
        metric(codes, factors, **options)


@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        (mig, {"n_bins": 1}, "`n_bins` must be an integer >= 2, got 1"),
        (mig, {"n_bins": 41}, "`n_bins` must be at most the number of subjects, 40, got 41"),
        (dci, {"model": "forest"}, "`model` must be one of 'random_forest', .* got 'forest'"),
        (factor_vae_score, {"group_size": 1}, "`group_size` must be an integer >= 2, got 1"),
        (factor_vae_score, {"n_votes": 0}, "`n_votes` must be an integer >= 1, got 0"),
        (factor_vae_score, {"threshold": -1}, "`threshold` must be a finite number >= 0, got -1"),
    ],
)
def test_refusals_of_one_metric(metric, options, message):
    with pytest.raises(ValueError, match=message):
        metric(GOOD, GOOD, **options)


@pytest.mark.parametrize("metric", [dci, factor_vae_score])
def test_scores_that_compare_factors_need_two(metric):
    with pytest.raises(ValueError, match="`factors` must be at least 2, got 1"):
        metric(GOOD, GOOD[:, :1])
