"""Probes and disentanglement of codes whose content is known."""

import json

import numpy as np
import pytest
from subjects_of_numbers import subjects

from monai_betavae.evaluation.probes import probe_held_out
from monai_betavae.workflows.model_evaluation.covariate_part import (
    DISENTANGLED,
    MAX_COVARIATES,
    disentanglement_part,
    is_surpassed,
    probes_part,
)
from monai_betavae.workflows.model_evaluation.part import PCA_NAME, REFINED_NAME, VAE_NAME


def two_groups(columns, n_train=60, n_test=30):
    """Training and held-out subjects whose covariates are functions of their codes."""
    groups = []
    for n, seed, prefix in ((n_train, 1, "train"), (n_test, 2, "new")):
        group = subjects(n, seed, prefix=prefix)
        noise = np.random.default_rng(seed + 10).normal(size=n)
        for i, record in enumerate(group.records):
            record.update({name: make(group.mu[i], noise[i]) for name, make in columns.items()})
        groups.append(group)
    return groups


COLUMNS = {
    "age": lambda z, _e: float(60 + 10 * z[0]),
    "sex": lambda z, _e: "M" if z[1] > 0 else "F",
    "control": lambda _z, e: float(e),
}


def probed(columns=COLUMNS, codes=None, covariates=None, conditional=(), **sizes):
    training, held_out = two_groups(columns, **sizes)
    ours = {VAE_NAME: (training.mu, held_out.mu)}
    more = codes(training, held_out) if codes else {}
    return probes_part(
        held_out, training, {**ours, **more}, covariates, "control", 0, n_permutations=99, conditional=conditional
    )


def test_what_is_in_the_codes_is_found_and_what_is_not_is_not():
    part = probed()
    assert part.scores["age"]["score"] == "r2"
    assert part.scores["age"]["model"]["value"] > 0.99
    assert part.scores["sex"]["score"] == "balanced_accuracy"
    assert part.scores["sex"]["model"]["value"] > 0.85
    assert part.scores["sex"]["chance"] == 0.5
    assert abs(part.scores["control"]["model"]["value"]) < 0.25
    assert part.scores["control"]["model"]["p_value"] > 0.05
    assert part.warnings == []
    table = part.files["predictions.csv"]
    assert table["subject"].tolist() == [f"new-{i}" for i in range(30)]
    _, held_out = two_groups(COLUMNS)
    np.testing.assert_allclose(table["age_predicted"], 60 + 10 * held_out.mu[:, 0], atol=0.5)


def test_a_control_that_is_predicted_is_a_leak():
    part = probed({**COLUMNS, "control": COLUMNS["age"]})
    assert len(part.warnings) == 1
    assert "The control control, which has no effect, is predicted (1.00): look for a leak" in part.warnings[0]


def test_methods_stand_beside_each_other_and_the_better_one_is_named():
    def worse(training, held_out):  # this model's codes are noise, PCA's are the right ones
        return {VAE_NAME: (training.mu[::-1], held_out.mu[::-1]), PCA_NAME: (training.mu, held_out.mu)}

    part = probed(codes=worse)
    assert part.scores["age"]["pca"]["value"] > 0.99
    assert part.scores["age"]["model"]["value"] < 0.3
    assert part.warnings == ["PCA's codes say more about age, sex (95 % interval of the difference)."]

    part = probed(codes=lambda training, held_out: {REFINED_NAME: (training.mu, held_out.mu)})
    assert part.scores["age"]["refined"] == part.scores["age"]["model"]


def test_few_training_subjects_are_left_aside():
    part = probed(n_train=10, n_test=40)
    texts = " ".join(arguments[0] for kind, arguments in part._content if kind == "text")
    assert "Cross-validated within the evaluated subjects" in texts
    assert part.scores["age"]["model"]["value"] > 0.95
    assert part.scores["age"]["n"] == 40


def test_covariates_are_chosen_and_missing_ones_named():
    part = probed(covariates=["age", "height"])
    assert set(part.scores) == {"age"}
    assert part.warnings == ["Covariates that no record has: height. There are: age, sex, control."]
    assert set(probed(covariates="age").scores) == {"age"}


def left_out(part):
    """The rows of the table of what isn't probed."""
    tables = [arguments for kind, arguments in part._content if kind == "table"]
    return [tuple(row) for columns, rows, _ in tables for row in rows if columns == ["not probed", "why"]]


def each(make):
    """A column whose values are made of a number of its own."""
    numbers = iter(range(10**6))
    return lambda _z, _e: make(next(numbers))


def test_every_column_that_is_not_probed_is_listed_with_the_reason():
    part = probed(
        {
            "code": each("x{}".format),
            "mask": each("/masks/{}.nii".format),
            "atlas": lambda _z, _e: "MNI152.nii.gz",
            "label": each("labels/{}.nii.gz".format),
            "RID": each(int),
            "same": each(lambda _i: "yes"),
            "empty": each(lambda _i: None),
            "height": each(lambda i: "180cm" if i == 4 else str(150 + i % 30)),
            "weight": each(lambda i: f"1,{100 + i}"),
            "town": each(lambda i: f"town {i % 25}"),
            "site_id": each(lambda i: i % 25),
            **COLUMNS,
            "rare": each(lambda i: "b" if i == 3 else "a"),
            "lists": each(lambda i: [i % 2]),
        }
    )
    assert set(part.scores) == {"age", "sex", "control", "not_probed"}
    few = "too few volumes of a class: "
    assert part.scores["not_probed"] == {
        "code": "an identifier or a note: another text for nearly everyone",
        "RID": "an identifier, by its name",
        "same": "one value only",
        "empty": "no value",
        "height": "text, although 98 % of 90 cells are numbers: correct the others, or name those that mean missing "
        "with --missing_values",
        "weight": "text, although all 90 cells are numbers: write them as such",
        "town": f"{few}25 classes in 90 volumes",
        "site_id": f"{few}25 classes in 90 volumes",
        "rare": f"{few}1 of 2 classes (b) not among both the training and the evaluated volumes",
        "lists": "neither numbers nor texts: list",
    }
    assert ("town, site_id", f"{few}25 classes in 90 volumes") in left_out(part), "one row for a reason"
    assert {name for names, _ in left_out(part) for name in names.split(", ")} == set(part.scores["not_probed"])
    assert part.warnings == []
    json.dumps(part.scores)


def test_age_and_sex_come_first_however_late_their_columns():
    measures = {f"measure_{i}": (lambda z, _e: float(z[0])) for i in range(MAX_COVARIATES + 20)}
    late = {"Sex": COLUMNS["sex"], "age": COLUMNS["age"]}
    training, held_out = two_groups(measures | late)
    part = probes_part(held_out, training, {VAE_NAME: (training.mu, held_out.mu)}, None, None, 0, n_permutations=9)
    kept = [f"measure_{i}" for i in range(MAX_COVARIATES - 2)]
    assert [name for name in part.scores if name != "not_probed"] == ["age", "Sex", *kept]
    reason = f"beyond the first {MAX_COVARIATES}: name it with --covariates"
    rest = list(measures)[len(kept) :]
    assert part.scores["not_probed"] == dict.fromkeys(rest, reason)
    assert left_out(part) == [(f"{', '.join(rest[:12])} and {len(rest) - 12} more, in scores.json", reason)]
    # asked for by name, all are probed
    ours = {VAE_NAME: (training.mu, held_out.mu)}
    part = probes_part(held_out, training, ours, [*measures, "age"], None, 0, n_permutations=9)
    assert list(part.scores) == [*measures, "age"]


def test_what_was_asked_for_and_is_not_probed_is_a_warning():
    columns = {**COLUMNS, "note": each("note {}".format), "mask": each("{}.nii".format), "same": lambda _z, _e: 1}
    part = probed(columns, covariates=["note", "age", "mask", "same", "subject", "age"])
    assert [name for name in part.scores if name != "not_probed"] == ["age"]
    assert part.warnings == [
        "Asked for, but not probed: note (an identifier or a note: another text for nearly everyone); "
        "mask (it names the volume, or holds paths); same (one value only); subject (it names the volume, or holds "
        "paths)."
    ]


def test_numbers_of_sites_are_classes_and_few_ages_are_not():
    columns = {
        "site_id": lambda z, _e: 1 + int(np.clip(np.floor((z[0] + 1.2) * 5), 0, 11)),
        "age": lambda z, _e: 60 + round(float(np.clip(z[1], -2, 2))),
    }
    part = probed(columns, n_train=400, n_test=300)
    assert part.scores["site_id"]["score"] == "balanced_accuracy"
    assert part.scores["site_id"]["chance"] == 1 / 12
    assert part.scores["age"]["score"] == "r2"
    # a code that isn't there for everyone, and nothing but whole numbers
    assert part.scores["age"]["model"]["value"] > 0.8
    assert "age_predicted" in part.files["predictions.csv"]
    assert "site_id_predicted" not in part.files["predictions.csv"]


def test_nothing_to_probe_is_said_in_two_ways():
    texts = [arguments[0] for kind, arguments in probed({})._content if kind == "text"]
    assert texts == [
        "The records have no covariate: give a table with columns, or a BIDS folder with participants.tsv."
    ]
    part = probed({"note": each("x{}".format)})
    assert [arguments[0] for kind, arguments in part._content if kind == "text"] == [
        "No column of the records can be probed."
    ]
    assert left_out(part) == [("note", "an identifier or a note: another text for nearly everyone")]


def test_a_column_called_as_the_list_of_the_others_is():
    part = probed({**COLUMNS, "not_probed": COLUMNS["age"]})
    assert part.scores["not_probed"] == {"not_probed": "the report calls something else by this name"}


def test_too_few_volumes_are_a_reason_in_plain_words():
    part = probed({**COLUMNS, "iq": each(lambda i: 100.5 + i if i < 61 else None)})
    reason = part.scores["not_probed"]["iq"]
    assert reason.startswith("the values of the evaluated volumes must have more than one value, got 1 rows")


def test_factors_of_their_own_codes_are_disentangled_and_mixed_ones_less():
    training, held_out = two_groups({name: (lambda z, _e, k=k: float(z[k])) for k, name in enumerate(DISENTANGLED[:3])})
    rotation = np.eye(3, dtype=np.float32) - np.float32(2 / 3)
    codes = {
        VAE_NAME: [training.mu, held_out.mu],
        PCA_NAME: [training.mu @ rotation, held_out.mu @ rotation],
    }
    part = disentanglement_part([training, held_out], codes, seed=0)
    assert part.scores["factors"] == list(DISENTANGLED[:3])
    for name in ("MIG", "SAP", "DCI disentanglement", "DCI completeness"):
        assert part.scores["model"][name] > 0.5 > part.scores["pca"][name]
    assert part.scores["model"]["DCI informativeness"] > 0.8


@pytest.mark.parametrize("names", [[], DISENTANGLED[:1]])
def test_without_two_known_factors_there_is_no_disentanglement(names):
    training, held_out = two_groups({name: (lambda z, _e: float(z[0])) for name in names})
    assert disentanglement_part([training, held_out], {VAE_NAME: [training.mu, held_out.mu]}, seed=0) is None


def test_a_difference_within_the_interval_is_no_warning():
    rng = np.random.default_rng(0)
    target = rng.normal(size=40)
    scores = [
        probe_held_out(target[:, None], target, target[:, None] + noise, target, n_permutations=0)
        for noise in (0.5 * rng.normal(size=(40, 1)), 0.5 * rng.normal(size=(40, 1)), 0.0)
    ]
    worse, better = sorted(scores[:2], key=lambda score: score.value)
    assert better.value > worse.value
    people = np.arange(40)
    assert not is_surpassed(worse, better, people, seed=0)
    assert is_surpassed(worse, scores[2], people, seed=0)
    assert not is_surpassed(scores[2], worse, people, seed=0)


def test_repeated_scans_make_no_difference_a_certain_one():
    """Forty scans of each of four subjects: by scans the difference is certain, by subjects it isn't."""
    subject = np.repeat(np.arange(4), 40)
    target = np.random.default_rng(0).normal(size=160)
    # bad codes of three subjects and perfect ones of the fourth: one of twenty resamples has him three times
    errors = np.array([1.0, 1.0, 1.0, 0.0])[subject], np.full(160, 0.6)
    worse, better = (
        probe_held_out(target[:, None], target, (target + error * np.sign(target[::-1]))[:, None], target)
        for error in errors
    )
    assert is_surpassed(worse, better, np.arange(160), seed=0)
    assert not is_surpassed(worse, better, subject, seed=0)


def test_what_the_model_is_conditional_on_is_marked_and_pca_is_not_better_for_it():
    def codes(training, held_out):
        # of this model's codes the noise, of PCA's what they are made of
        return {
            VAE_NAME: tuple(np.random.default_rng(seed).normal(size=(len(group), 3))
                            for seed, group in enumerate((training, held_out))),
            PCA_NAME: (training.mu, held_out.mu),
        }  # fmt: skip

    plain, part = probed(codes=codes), probed(codes=codes, conditional=["age"])
    assert "age, sex" in plain.warnings[0]
    assert [warning.split(" say more about ")[1][:5] for warning in part.warnings] == ["sex ("]
    assert part.scores["age"].pop("conditioned") is True
    assert part.scores == plain.scores
    (table,) = [arguments for kind, arguments in part._content if kind == "table" and arguments[0][0] == "covariate"]
    assert [row[0] for row in table[1]] == ["age (conditioned on)", "sex", "control (control: no effect)"]
    texts = " ".join(arguments[0] for kind, arguments in part._content if kind == "text")
    assert "conditional on age: its codes are what is left of the images without it, so that a probe" in texts
