"""Probes: ideal, useless and duplicated codes, subjects kept together, p-values, held-out subjects, refusals."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from monai_betavae.evaluation import probes
from monai_betavae.evaluation.intervals import Estimate
from monai_betavae.evaluation.probes import (
    balanced_accuracy,
    compare_probes,
    pca_codes,
    predict_quantity,
    probe,
    probe_held_out,
    r_squared,
)
from monai_betavae.evaluation.targets import read_probe_data

N = 80


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


CODES = normal(N, 4)
AGE = 60 + 10 * CODES[:, 0] + 5 * normal(N, seed=1)
SEX = np.where(CODES[:, 1] + 0.7 * normal(N, seed=2) > 0, "m", "f")


@pytest.fixture
def no_intervals(monkeypatch):
    """Leave out the resamples, which take most of the time of a hundred small probes."""
    monkeypatch.setattr(
        probes, "estimate", lambda *arrays, statistic, seed: Estimate(statistic(*arrays), math.nan, math.nan)
    )


def test_the_scores_are_the_definitions():
    # mean 2, total (1 + 0 + 1) = 2, errors 0.25 + 0 + 1
    assert r_squared(np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.0, 4.0])) == pytest.approx(1 - 1.25 / 2)
    target, predicted = np.array(["a", "a", "a", "a", "b", "c", "c"]), np.array(["a", "a", "b", "c", "b", "a", "c"])
    assert balanced_accuracy(target, predicted) == pytest.approx((2 / 4 + 1 + 1 / 2) / 3)
    y, p = normal(50), normal(50, seed=1)
    assert r_squared(1000 + y, 1000 + p) == pytest.approx(r2_score(y, p))
    assert balanced_accuracy(y > 0, p > 0.3) == pytest.approx(balanced_accuracy_score(y > 0, p > 0.3))


@pytest.mark.parametrize("k", [2, 3, 5])
def test_a_majority_predictor_is_at_chance(k):
    target = np.concatenate([np.zeros(90, dtype=int), np.arange(k)])
    assert balanced_accuracy(target, np.zeros_like(target)) == pytest.approx(1 / k)


def test_ideal_codes():
    found = probe(CODES, 3 - 2 * CODES[:, 2], n_permutations=19)
    assert found.value > 0.9999
    assert (found.kind, found.score, found.chance, found.p_value) == ("regression", "r2", 0, 0.05)
    assert found.low > 0.999
    assert found.mae < 0.01
    classes = probe(CODES, CODES[:, 2] > 0, n_permutations=19)
    assert classes.value > 0.9
    assert classes.auroc > 0.98
    assert (classes.kind, classes.score, classes.chance, classes.p_value) == (
        "classification",
        "balanced_accuracy",
        0.5,
        0.05,
    )


def test_useless_codes():
    found = probe(CODES, normal(N, seed=5), n_permutations=99)
    assert -0.3 < found.value <= 0.02
    assert found.p_value > 0.1
    assert math.isnan(found.auroc)
    coin = probe(CODES, np.random.default_rng(6).integers(0, 3, N), n_permutations=19)
    assert abs(coin.value - 1 / 3) < 0.12
    assert coin.chance == pytest.approx(1 / 3)
    assert coin.p_value > 0.1
    assert math.isnan(coin.mae)


@pytest.mark.parametrize("grouped", [False, True])
def test_p_values_of_useless_codes_are_uniform(no_intervals, grouped):
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(15), 2) if grouped else None
    found = []
    for number in range(100):
        codes, target = rng.normal(size=(30, 3)), rng.normal(size=30)
        if grouped:  # scans of a subject are alike, as is their target: rows permuted one by one would be too sure
            codes, target = codes[groups] + 0.1 * codes, target[groups] + 0.1 * target
        found.append(probe(codes, target, groups=groups, n_folds=2, n_permutations=19, seed=number).p_value)
    found = np.array(found)
    assert abs(found.mean() - 0.525) < 0.09  # of 0.05, 0.1, ..., 1; the mean's sd is 0.029
    assert 10 <= (found <= 0.2).sum() <= 32  # binomial(100, 0.2): mean 20, sd 4


@pytest.mark.parametrize("balanced", [True, False])
def test_p_values_of_useless_codes_are_uniform_for_classes(no_intervals, balanced):
    rng = np.random.default_rng(4)
    target = np.arange(24) % 2 if balanced else (np.arange(24) < 6).astype(int)
    found = [
        probe(rng.normal(size=(24, 2)), target, n_folds=2, n_permutations=9, seed=number).p_value
        for number in range(50)
    ]
    # scores of 24 subjects tie, which makes p-values larger, never smaller
    assert 0.48 < np.mean(found) < 0.75
    assert np.mean(np.array(found) <= 0.2) < 0.35


def test_scans_of_a_subject_leak_unless_they_are_in_one_fold():
    subjects = np.repeat(np.arange(25), 4)
    codes, target = normal(25, 40)[subjects], normal(25, seed=1)[subjects]
    leaking, grouped = (probe(codes, target, groups=groups, n_permutations=0) for groups in (None, subjects))
    assert leaking.value > 0.8
    assert grouped.value < 0.1
    labels = target > 0
    leaking, grouped = (probe(codes, labels, groups=groups, n_permutations=0) for groups in (None, subjects))
    assert leaking.value > 0.9
    assert grouped.value < 0.7
    assert (grouped.n_used, grouped.n_subjects) == (100, 25)
    # as sure as 25 subjects make it, not 100
    assert grouped.high - grouped.low > 1.5 * (probe(codes, labels, n_permutations=0, seed=1).high - leaking.low)


def test_all_rows_of_a_subject_are_in_one_fold_of_every_repeat():
    groups = np.array([f"sub-{number}" for number in [*range(20), *np.random.default_rng(0).integers(0, 20, N - 20)]])
    for target in (AGE, SEX):
        folds = probe(CODES, target, groups=groups, n_folds=4, n_repeats=3, n_permutations=0).folds
        assert folds.shape == (N, 3)
        for subject in np.unique(groups):
            assert (np.ptp(folds[groups == subject], axis=0) == 0).all()
        n_subjects = [len(np.unique(groups[folds[:, 0] == fold])) for fold in range(4)]
        assert set(n_subjects) == {5}
        assert (folds[:, 0] != folds[:, 1]).any()


def test_folds_have_the_same_share_of_every_class():
    target = np.repeat(["a", "b", "c"], [50, 20, 10])
    folds = probe(CODES, target, n_permutations=0).folds[:, 0]
    counts = [[int((target[folds == fold] == name).sum()) for name in "abc"] for fold in range(5)]
    assert counts == [[10, 4, 2]] * 5


def test_it_is_the_pipeline_of_scikit_learn_on_every_fold():
    found = probe(CODES, AGE, n_permutations=0)
    pipeline = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 6, 19)))
    for fold in range(5):
        test = found.folds[:, 0] == fold
        expected = pipeline.fit(CODES[~test], AGE[~test]).predict(CODES[test])
        assert found.predicted[test] == pytest.approx(expected)
    assert found.value == pytest.approx(r2_score(AGE, found.predicted))
    assert found.mae == pytest.approx(np.abs(AGE - found.predicted).mean())


@pytest.mark.parametrize(
    "target",
    [SEX, np.digitize(AGE, [52, 70]), CODES[:, 0] > 1, np.arange(N) % 4],
    ids=["sex", "three", "ideal", "useless"],
)
def test_classes_are_those_of_scikit_learn_on_every_fold(target):
    found = probe(CODES, target, n_permutations=0)
    logistic = LogisticRegression(C=4 / 4, class_weight="balanced", tol=1e-8, max_iter=10000)
    pipeline = make_pipeline(StandardScaler(), logistic)
    for fold in range(5):
        test = found.folds[:, 0] == fold
        fitted = pipeline.fit(CODES[~test], target[~test])
        assert found.probabilities[test] == pytest.approx(fitted.predict_proba(CODES[test]), abs=2e-4)
        assert (found.predicted[test] == found.classes[found.probabilities[test].argmax(axis=1)]).all()
    assert found.value == pytest.approx(balanced_accuracy_score(target, found.predicted))
    if len(found.classes) == 2:
        assert found.auroc == pytest.approx(roc_auc_score(target, found.probabilities[:, 1]))


def test_a_constant_code_says_nothing():
    constant = np.hstack([CODES, np.full((N, 1), 0.1)])
    assert probe(constant, AGE, n_permutations=0).value == pytest.approx(probe(CODES, AGE, n_permutations=0).value)
    assert probe(constant, SEX, n_permutations=0).value == pytest.approx(
        probe(CODES, SEX, n_permutations=0).value, abs=0.03
    )


def test_permuted_targets_are_probed_as_the_true_ones_are(monkeypatch):
    rows = np.random.default_rng(9).permutation(N)
    monkeypatch.setattr(probes, "_permutations", lambda data, n, rng: np.stack([rows, np.arange(N)]))
    nulls = []
    scored = probes._scored

    def spy(data, raw, folds, null, seed):
        nulls.append(null)
        return scored(data, raw, folds, null, seed)

    monkeypatch.setattr(probes, "_scored", spy)
    found = probe(CODES, AGE)
    permuted = AGE[rows]
    expected = np.empty(N)
    for fold in range(5):
        test = found.folds[:, 0] == fold
        pipeline = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 6, 19))).fit(CODES[~test], permuted[~test])
        expected[test] = pipeline.predict(CODES[test])
    assert nulls[0] == pytest.approx([r2_score(permuted, expected), found.value])
    found = probe(CODES, SEX)
    assert nulls[1][1] == pytest.approx(found.value)
    assert nulls[1][0] < found.value


def test_permutations_swap_targets_of_subjects():
    groups = np.array([3, 3, 1, 2, 2, 0, 0, 4])
    constant = np.array([3.0, 3, 1, 2, 2, 0, 0, 4])
    data = read_probe_data("codes", CODES[:8], "target", constant, "groups", groups, "regression")
    drawn = probes._permutations(data, 50, np.random.default_rng(0))
    for row in constant[drawn]:
        assert sorted(row[[0, 2, 3, 5, 7]]) == [0, 1, 2, 3, 4]
        assert (row[[0, 3, 5]] == row[[1, 4, 6]]).all()
    changing = np.arange(8.0)
    data = read_probe_data("codes", CODES[:8], "target", changing, "groups", groups, "regression")
    drawn = probes._permutations(data, 50, np.random.default_rng(0))
    pairs = {(0.0, 1.0), (3.0, 4.0), (5.0, 6.0)}
    for row in changing[drawn]:
        assert {tuple(row[[0, 1]]), tuple(row[[3, 4]]), tuple(row[[5, 6]])} == pairs
        assert set(row[[2, 7]]) == {2.0, 7.0}
    assert len(np.unique(drawn, axis=0)) == 12  # 3! orders of the pairs times 2


def test_duplicated_codes_change_little():
    for target in (AGE, SEX):
        once, twice = (probe(codes, target, n_permutations=0) for codes in (CODES, np.hstack([CODES, CODES])))
        assert twice.value == pytest.approx(once.value, abs=0.02)
    # the penalty of a classification is per code: exactly the same probe
    assert twice.probabilities == pytest.approx(once.probabilities, abs=1e-3)


@pytest.mark.parametrize("target", [AGE, SEX])
def test_scale_offset_and_order_of_codes_do_not_matter(target):
    changed = (CODES * [1e-3, 1, 50, -7] + [0, 1e3, 2, 0])[:, [2, 0, 3, 1]]
    first, second = (probe(codes, target, n_permutations=9) for codes in (CODES, changed))
    assert second.value == pytest.approx(first.value)
    assert second.p_value == first.p_value
    if first.kind == "regression":
        assert second.predicted == pytest.approx(first.predicted)
        shifted = probe(CODES, 1000 - 3 * target, n_permutations=9)
        assert (shifted.value, shifted.high, shifted.p_value) == pytest.approx((first.value, first.high, first.p_value))
    else:
        assert second.probabilities == pytest.approx(first.probabilities, abs=1e-3)


def test_imbalanced_classes_are_weighed_alike():
    target = np.where(CODES[:, 0] > 1.2, "rare", "common")  # 10 of 80
    assert (target == "rare").mean() < 0.2
    found = probe(CODES, target, n_permutations=0)
    assert found.value > 0.8
    assert found.classes.tolist() == ["common", "rare"]
    # the area under the ROC curve is that of the second class
    assert found.probabilities[target == "rare", 1].mean() > found.probabilities[target == "common", 1].mean()


def test_interval_of_one_scan_each_is_the_bootstrap_of_the_predictions():
    found = probe(CODES, AGE, n_permutations=0, seed=4)
    drawn = np.random.default_rng(4).integers(0, N, (2000, N))
    target, predicted = AGE[drawn], found.predicted[drawn]
    values = 1 - ((target - predicted) ** 2).mean(axis=1) / target.var(axis=1)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_repeats_are_averaged():
    once, thrice = (probe(CODES, AGE, n_repeats=n, n_permutations=9) for n in (1, 3))
    assert (thrice.folds[:, 0] == once.folds[:, 0]).all()
    assert thrice.value == pytest.approx(once.value, abs=0.05)
    assert (thrice.predicted != once.predicted).any()
    classes = probe(CODES, SEX, n_repeats=3, n_permutations=0)
    assert classes.probabilities.sum(axis=1) == pytest.approx(np.ones(N))


@pytest.mark.parametrize("missing", [None, math.nan, pd.NA])
def test_missing_targets_are_left_out(missing):
    kept = np.arange(N) % 7 > 0
    for target in (AGE, SEX):
        holes = [value if keep else missing for value, keep in zip(target.tolist(), kept, strict=True)]
        found, expected = (
            probe(codes, values, n_permutations=9)
            for codes, values in ((CODES, np.array(holes, dtype=object)), (CODES[kept], target[kept]))
        )
        assert (found.n_used, found.n_missing) == (kept.sum(), N - kept.sum())
        assert (found.rows == np.flatnonzero(kept)).all()
        assert (found.target == target[kept]).all()
        assert (found.value, found.low, found.p_value) == (expected.value, expected.low, expected.p_value)


def test_a_seed_decides_everything():
    first, again, other = (probe(CODES, SEX, n_permutations=9, seed=seed) for seed in (1, 1, 2))
    assert (first.value, first.low, first.high, first.p_value) == (again.value, again.low, again.high, again.p_value)
    assert (first.folds == again.folds).all()
    assert (first.folds != other.folds).any()
    # None draws, but the folds and what goes with them from one seed
    drawn = [probe(CODES, AGE, n_permutations=0, seed=None).folds for _ in range(2)]
    assert (drawn[0] != drawn[1]).any()


def test_permutations_do_not_change_the_score():
    without, with_ = (probe(CODES, AGE, n_permutations=n) for n in (0, 19))
    assert math.isnan(without.p_value)
    assert (without.value, without.low) == (with_.value, with_.low)


def test_methods_are_compared_on_the_same_folds():
    targets = {"age": AGE, "sex": SEX, "coin": normal(N, seed=8)}
    methods = {"VAE": CODES, "PCA": normal(N, 2, seed=9), "copy": CODES.copy()}
    rows = compare_probes(methods, targets, control="coin", n_permutations=9, seed=5)
    assert [(row["covariate"], row["method"]) for row in rows] == [(c, m) for c in targets for m in methods]
    assert [row["control"] for row in rows] == [False] * 6 + [True] * 3
    for covariate in range(3):
        vae, pca, copy = rows[3 * covariate : 3 * covariate + 3]
        assert {**vae, "method": ""} == pytest.approx({**copy, "method": ""}, nan_ok=True)
        alone = [
            probe(codes, targets[vae["covariate"]], n_permutations=9, seed=5) for codes in list(methods.values())[:2]
        ]
        assert (alone[0].folds == alone[1].folds).all()
        assert (vae["value"], pca["value"]) == (alone[0].value, alone[1].value)
        assert (vae["p_value"], vae["low"], vae["kind"]) == (alone[0].p_value, alone[0].low, alone[0].kind)
    assert rows[0]["value"] > rows[1]["value"] + 0.3


def test_comparisons_without_a_seed_share_folds_too():
    rows = compare_probes({"a": CODES, "b": CODES}, {"age": AGE}, n_permutations=0, seed=None)
    assert rows[0]["value"] == rows[1]["value"]
    kind = compare_probes({"a": CODES}, {"stage": np.arange(N) % 4}, kinds={"stage": "regression"}, n_permutations=0)
    assert kind[0]["kind"] == "regression"


def test_held_out_subjects_are_predicted_by_the_training_subjects():
    train, test = slice(0, 50), slice(50, N)
    found = probe_held_out(CODES[train], AGE[train], CODES[test], AGE[test], n_permutations=99)
    pipeline = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 6, 19))).fit(CODES[train], AGE[train])
    expected = pipeline.predict(CODES[test])
    assert found.predicted == pytest.approx(expected)
    assert found.value == pytest.approx(r2_score(AGE[test], expected))
    assert found.p_value == 0.01
    assert found.n_used == 30
    classes = probe_held_out(CODES[train], SEX[train], CODES[test], SEX[test], n_permutations=99)
    assert classes.value == pytest.approx(balanced_accuracy_score(SEX[test], classes.predicted))
    assert classes.p_value < 0.05
    useless = normal(N, seed=5)
    assert probe_held_out(CODES[train], useless[train], CODES[test], useless[test]).p_value > 0.1


def test_a_quantity_is_predicted_as_by_the_probe_of_held_out_subjects():
    holes = np.where(np.arange(len(AGE)) == 3, np.nan, AGE)
    expected = probe_held_out(CODES[:50], holes[:50], CODES[50:], AGE[50:], kind="regression", n_permutations=0)
    found = predict_quantity(CODES[:50], holes[:50], CODES[50:])
    np.testing.assert_array_equal(found, expected.predicted)
    with pytest.raises(ValueError, match=r"`codes` must have shape \(n, \d+\), columns as `train_codes` has, got"):
        predict_quantity(CODES[:50], AGE[:50], CODES[50:, :1])
    with pytest.raises(ValueError, match="`train_target` must have more than one value"):
        predict_quantity(CODES[:50], np.ones(50), CODES[50:])


def test_held_out_p_values_of_useless_codes_are_uniform(no_intervals):
    rng = np.random.default_rng(5)
    found = np.array(
        [
            probe_held_out(
                rng.normal(size=(20, 3)),
                rng.normal(size=20),
                rng.normal(size=(15, 3)),
                rng.normal(size=15),
                n_permutations=19,
            ).p_value
            for _ in range(150)
        ]
    )
    assert abs(found.mean() - 0.525) < 0.08
    assert 16 <= (found <= 0.2).sum() <= 45  # binomial(150, 0.2): mean 30, sd 4.9


def test_held_out_missing_targets():
    holes = AGE.copy()
    holes[[0, 60]] = np.nan
    found = probe_held_out(CODES[:50], holes[:50], CODES[50:], holes[50:], n_permutations=0)
    expected = probe_held_out(CODES[1:50], AGE[1:50], CODES[50:], AGE[50:], n_permutations=0)
    assert (found.n_used, found.n_missing) == (29, 1)
    assert found.predicted == pytest.approx(np.delete(expected.predicted, 10))


def test_principal_components_come_from_the_training_images():
    train, images = normal(20, 3, 4, 5), normal(6, 3, 4, 5, seed=1)
    found = pca_codes(train, images, 4)
    expected = PCA(4).fit(train.reshape(20, -1)).transform(images.reshape(6, -1))
    assert found == pytest.approx(expected)
    assert found.dtype == np.float64
    assert pca_codes(train[:5], images, 30).shape == (6, 4)
    own = pca_codes(train, train, 4)
    assert own.mean(axis=0) == pytest.approx(np.zeros(4), abs=1e-12)
    assert (np.diff(own.var(axis=0)) < 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": CODES[:, 0]}, r"`codes` must have shape \(n, n_codes\), n_codes >= 1, got \(80,\)"),
        ({"codes": np.where(CODES > 3, np.nan, np.inf)}, "`codes` must be finite, got non-finite values in 80 rows"),
        ({"codes": SEX[:, None]}, "`codes` must be numbers"),
        ({"target": AGE[:5]}, "`target` must have 80 rows as `codes` has, got 5"),
        ({"target": AGE[:, None]}, r"`target` must have shape \(n,\), got \(80, 1\)"),
        ({"target": np.where(AGE > 60, np.inf, AGE)}, "`target` must be finite or missing"),
        ({"target": np.ones(N)}, "`target` must have more than one value"),
        ({"target": np.full(N, np.nan)}, "`target` must have more than one value, got 0 rows"),
        ({"target": np.array([*SEX[1:], 3], dtype=object)}, "`target` must be numbers, booleans or strings"),
        ({"target": SEX, "kind": "regression"}, "`target` must be numbers for a regression"),
        ({"target": np.where(np.arange(N) == 3, "x", SEX)}, "without class 'x'"),
        ({"target": np.where(np.arange(N) < 3, AGE, np.nan)}, "known for at least 5 subjects"),
        ({"groups": np.arange(3)}, r"`groups` must have shape \(80,\)"),
        ({"groups": np.where(np.arange(N) == 4, np.nan, 1.0)}, "`groups` must say every row's subject"),
        ({"groups": np.arange(N) % 3}, "at least 5 subjects"),
        ({"kind": "ordinal"}, "`kind` must be one of 'regression', 'classification', got 'ordinal'"),
        ({"n_folds": 1}, "`n_folds` must be an integer >= 2"),
        ({"n_repeats": 0}, "`n_repeats` must be an integer >= 1"),
        ({"n_permutations": -1}, "`n_permutations` must be an integer >= 0"),
        ({"seed": -1}, "`seed` must be None or an integer"),
    ],
)
def test_refusals(change, message):
    arguments = {"codes": CODES, "target": AGE, **change}
    with pytest.raises(ValueError, match=message):
        probe(arguments.pop("codes"), arguments.pop("target"), **arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare_probes({}, {"age": AGE}), "`codes_by_method` must be a mapping with at least one entry"),
        (lambda: compare_probes({"a": CODES}, {"age": AGE}, control="coin"), "`control` must be one of 'age', got"),
        (lambda: compare_probes({"a": CODES}, {"age": AGE}, kinds={"aeg": "regression"}), "`kinds` must be one of"),
        (lambda: compare_probes({"PCA": CODES[:3]}, {"age": AGE}), "'PCA' probed for 'age': `target` must have 3 rows"),
        (
            lambda: probe_held_out(CODES, AGE, CODES, AGE, train_groups=np.arange(N), test_groups=np.arange(N) + 79),
            "`test_groups` must have no subject of `train_groups`, got .*79.* in both",
        ),
        (lambda: probe_held_out(CODES, AGE, CODES[:, :2], AGE), "`test_codes` must have 4 columns"),
        (lambda: probe_held_out(CODES, SEX, CODES[:6], np.array(list("abcabc"))), "must have the classes of"),
        (lambda: probe_held_out(CODES, AGE, CODES[:3], AGE[:3]), "`test_target` must be known for at least 4"),
        (lambda: pca_codes(CODES, CODES, 0), "`n_components` must be an integer >= 1"),
        (lambda: pca_codes(CODES, CODES[:, :2], 1), "`train_images` must hold at least two images of the shape"),
        (lambda: r_squared(AGE, AGE[:3]), "`target` and `predicted` must have one shape"),
        (lambda: r_squared(np.ones(3), AGE[:3]), "`target` must have more than one value, got 1 in all 3 rows"),
        (lambda: balanced_accuracy(SEX[:0], SEX[:0]), "n >= 1"),
    ],
)
def test_further_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
