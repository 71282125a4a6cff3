import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_betavae.data.splits import records_by_subject, split_subjects


def cohort(n, **covariates):
    """Records of n subjects; a covariate is a function of the subject's number."""
    return [{"image": f"{i}.nii", "subject": f"sub-{i}", **{k: f(i) for k, f in covariates.items()}} for i in range(n)]


def subjects(part):
    return {record["subject"] for record in part}


def sizes(parts):
    return [len(subjects(part)) for part in parts]


# ---- sizes ----


@pytest.mark.parametrize(
    ("n", "fractions", "expected"),
    [
        (20, (0.7, 0.15, 0.15), [14, 3, 3]),
        (10, (0.7, 0.15, 0.15), [7, 2, 1]),  # 7, 1.5, 1.5: the earlier of equal remainders
        (100, (0.29, 0.71), [29, 71]),  # 0.29 * 100 is 28.999999999999996 as a float
        (7, (0.5, 0.5), [4, 3]),
        (3, (0.9, 0.05, 0.05), [1, 1, 1]),
        (5, (0.98, 0.01, 0.01), [3, 1, 1]),
        (4, (0.5, 0.0, 0.5), [2, 0, 2]),
        (1, (1.0, 0.0), [1, 0]),
        (10, [1 / 3] * 3, [4, 3, 3]),
        (10, np.array([0.8, 0.2]), [8, 2]),
    ],
)
def test_sizes_by_hand(n, fractions, expected):
    assert sizes(split_subjects(cohort(n), fractions)) == expected


FRACTIONS = st.lists(st.integers(0, 20), min_size=2, max_size=5).filter(any).map(lambda w: [x / sum(w) for x in w])


@settings(max_examples=60, deadline=None)
@given(
    volumes=st.lists(st.integers(1, 3), min_size=5, max_size=40),
    fractions=FRACTIONS,
    seed=st.integers(0, 2**32 - 1),
    stratify=st.sampled_from([None, "sex", ["age", "sex"]]),
    data=st.data(),
)
def test_a_split_is_a_partition_by_subject_that_only_seed_and_records_decide(volumes, fractions, seed, stratify, data):
    n = len(volumes)
    sexes = data.draw(st.lists(st.sampled_from(["F", "M", None]), min_size=n, max_size=n))
    ages = data.draw(st.lists(st.none() | st.integers(20, 90), min_size=n, max_size=n))
    records = [
        {"image": f"{i}-{j}", "subject": f"s{i}", "sex": sexes[i], "age": ages[i]}
        for i in range(n)
        for j in range(volumes[i])
    ]
    if stratify is not None:
        records[0] |= {"sex": "F", "age": 30}
    parts = split_subjects(records, fractions, seed, stratify)

    assert sorted(r["image"] for part in parts for r in part) == sorted(r["image"] for r in records)
    assert sum(sizes(parts)) == n, "no subject on two sides"
    for part, fraction in zip(parts, fractions, strict=True):
        assert [r for r in records if r in part] == part, "original order"
        assert (len(part) > 0) == (fraction > 0)
    if all(n * fraction >= 1 or fraction == 0 for fraction in fractions):
        assert all(abs(size - n * f) < 1 + 1e-9 for size, f in zip(sizes(parts), fractions, strict=True))

    shuffled = data.draw(st.permutations(records))
    again = split_subjects(shuffled, fractions, seed, stratify)
    assert [subjects(part) for part in again] == [subjects(part) for part in parts]


def test_records_are_handed_on_unchanged():
    records = cohort(6)
    parts = split_subjects(records, (0.5, 0.5))
    assert all(any(record is given for given in records) for part in parts for record in part)


def test_mapping_gives_a_dict_with_the_same_split():
    records = cohort(20)
    named = split_subjects(records, {"training": 0.7, "validation": 0.15, "test": 0.15}, seed=4)
    assert list(named) == ["training", "validation", "test"]
    assert tuple(named.values()) == split_subjects(records, (0.7, 0.15, 0.15), seed=4)


def test_the_split_of_a_seed_stays_what_it_is():
    # written down once: a change of this would move subjects between training and test of published splits
    first, second = split_subjects(cohort(8), (0.5, 0.5), seed=0)
    assert [r["subject"] for r in first] == ["sub-0", "sub-4", "sub-6", "sub-7"]
    assert len(second) == 4


def test_seeds_differ_and_every_subject_gets_everywhere():
    splits = [split_subjects(cohort(10), (0.8, 0.2), seed=seed) for seed in range(200)]
    times_in_test = Counter(s for _, test in splits for s in subjects(test))
    # binomial(200, 0.2): mean 40, sd 5.7; five of them either way
    assert len(times_in_test) == 10
    assert all(12 <= times <= 68 for times in times_in_test.values())


def test_no_seed_draws_anew():
    records = cohort(40)
    assert len({frozenset(subjects(split_subjects(records, (0.5, 0.5), seed=None)[0])) for _ in range(5)}) > 1


# ---- strata ----


def test_strata_with_whole_shares_are_exact():
    records = cohort(40, sex=lambda i: "FM"[i % 2], site=lambda i: "ab"[i // 20])
    parts = split_subjects(records, (0.6, 0.2, 0.2), seed=1, stratify=["sex", "site"])
    expected = [6, 2, 2]
    for part, each in zip(parts, expected, strict=True):
        counts = Counter((r["sex"], r["site"]) for r in part)
        assert counts == {(sex, site): each for sex in "FM" for site in "ab"}


@settings(max_examples=60, deadline=None)
@given(
    strata=st.lists(st.sampled_from("abcd") | st.none(), min_size=10, max_size=60).filter(any),
    fractions=FRACTIONS,
    seed=st.integers(0, 100),
)
def test_each_stratum_is_within_two_of_its_share(strata, fractions, seed):
    records = cohort(len(strata), group=lambda i: strata[i])
    parts = split_subjects(records, fractions, seed, "group")
    assert sizes(parts) == sizes(split_subjects(records, fractions, seed)), "strata do not change the sizes"
    for part in parts:
        counts = Counter(r["group"] for r in part)
        for stratum, total in Counter(strata).items():
            assert abs(counts[stratum] - total * len(part) / len(strata)) < 2


def test_two_parts_are_within_one_of_their_share():
    groups = ["a"] * 13 + ["b"] * 7 + [None] * 5
    first, _ = split_subjects(cohort(25, group=lambda i: groups[i]), (0.5, 0.5), seed=2, stratify="group")
    counts = Counter(r["group"] for r in first)  # 13 of 25
    for group, total in (("a", 13), ("b", 7), (None, 5)):
        assert abs(counts[group] - total * 13 / 25) <= 1


def test_numeric_covariate_is_cut_at_its_quintiles():
    parts = split_subjects(cohort(100, age=lambda i: 20 + 0.5 * i), (0.7, 0.2, 0.1), seed=3, stratify="age")
    for part, each in zip(parts, (14, 4, 2), strict=True):
        assert Counter(int((r["age"] - 20) // 10) for r in part) == {quintile: each for quintile in range(5)}


def test_few_numeric_values_are_categories():
    parts = split_subjects(cohort(100, site=lambda i: i % 10), (0.8, 0.2), seed=3, stratify="site")
    assert Counter(r["site"] for r in parts[1]) == {site: 2 for site in range(10)}


@pytest.mark.parametrize("name", ["site_id", "scanner_number"])
def test_numbers_of_sites_are_not_cut_at_quintiles(name):
    # twenty sites of four subjects: at quintiles, four sites would be one stratum, and a site could be all in one part
    records = cohort(80, **{name: lambda i: 1 + i % 20})
    parts = split_subjects(records, (0.75, 0.25), seed=3, stratify=name)
    assert Counter(record[name] for record in parts[1]) == {site: 1 for site in range(1, 21)}
    records = cohort(80, n_sites=lambda i: 1 + i % 20)
    counts = Counter(record["n_sites"] for record in split_subjects(records, (0.75, 0.25), 3, "n_sites")[1])
    assert set(counts.values()) != {1}


@pytest.mark.parametrize("missing", [None, math.nan, np.float64("nan"), pd.NA, pd.NaT, "absent"])
def test_missing_values_are_a_stratum(missing):
    records = cohort(60, age=lambda i: None if i % 2 else i)
    for record in records[1::2]:
        if isinstance(missing, str):
            del record["age"]
        else:
            record["age"] = missing
    _, test = split_subjects(records, (0.8, 0.2), seed=5, stratify="age")
    assert sum(int(r["subject"][4:]) % 2 for r in test) == 6


def test_a_subject_counts_with_its_first_age():
    # two visits each; by the second age, 40 years later for half of them, the halves would not be alike
    records = [
        {"image": f"{i}-{visit}", "subject": i, "age": 20 + i % 2 + visit * 40 * (i % 3)}
        for i in range(40)
        for visit in (1, 0)
    ]
    first, _ = split_subjects(records, (0.5, 0.5), seed=0, stratify="age")
    assert Counter(i % 2 for i in subjects(first)) == {0: 10, 1: 10}


def test_rare_strata_have_the_same_chances():
    records = cohort(10, site=lambda i: "a" if i == 0 else "b")
    splits = [split_subjects(records, (0.7, 0.3), seed, "site")[1] for seed in range(300)]
    # binomial(300, 0.3): mean 90, sd 7.9; four of them either way
    assert 58 <= sum("sub-0" in subjects(test) for test in splits) <= 122


def test_values_of_mixed_kinds_are_categories():
    values = [1, "1x", True, None, 2.5, ["list"]]
    parts = split_subjects(cohort(60, odd=lambda i: values[i % 6]), (0.5, 0.5), stratify="odd")
    assert Counter(str(r["odd"]) for r in parts[0]) == {str(value): 5 for value in values}


# ---- mistakes ----


@pytest.mark.parametrize(
    "fractions", [(1.0,), (), (0.5, 0.4), (0.7, 0.7), {"training": 1.0}, {"a": 0.5, "b": 0.6}, "0.5", 0.5, None]
)
def test_fractions_that_are_none(fractions):
    with pytest.raises(ValueError, match="`fractions` must be two or more numbers that sum to 1") as caught:
        split_subjects(cohort(10), fractions)
    assert repr(fractions) in str(caught.value)


@pytest.mark.parametrize(
    ("fractions", "named"),
    [
        ((0.5, -0.1, 0.6), r"fractions\[1\]` .*-0\.1"),
        ((70, 30), r"fractions\[0\]` .*70"),
        ({"a": 0.5, "b": math.nan}, r"fractions\['b'\]` .*nan"),
        ({"a": "half", "b": 0.5}, r"fractions\['a'\]` .*'half'"),
    ],
)
def test_a_fraction_that_is_none(fractions, named):
    with pytest.raises(ValueError, match=named):
        split_subjects(cohort(10), fractions)


def test_fewer_subjects_than_parts():
    with pytest.raises(ValueError, match=r"`records` must have at least one subject for each of 3 parts, got 2"):
        split_subjects(cohort(2) * 3)
    with pytest.raises(ValueError, match=r"`records` .* got 0"):
        split_subjects([])


def test_record_without_subject():
    with pytest.raises(ValueError, match=r"`records` must each have a 'subject', got \{'image': 'x'\} at position 1"):
        split_subjects([{"subject": "a"}, {"image": "x"}])


@pytest.mark.parametrize("nobody", [None, math.nan, np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT")], ids=str)
def test_a_missing_subject_is_refused(nobody):
    records = cohort(20)
    records[3]["subject"] = records[7]["subject"] = nobody
    with pytest.raises(ValueError, match=r"`records` must each have a 'subject', got .* at position 3") as caught:
        split_subjects(records)
    message = str(caught.value)
    assert f"got {nobody!r} at position 3 (image '3.nii'); 2 of 20 records have none." in message
    assert "say whose they are, or leave them out" in message


@pytest.mark.parametrize("nobody", ["", "  ", "\t\n", "nan", "NaN", "None", "<NA>", "NaT", " nan "])
def test_the_text_of_a_missing_subject_is_refused(nobody):
    records = cohort(20)
    records[0]["subject"] = nobody
    with pytest.raises(ValueError, match="must each have a 'subject'") as caught:
        split_subjects(records)
    assert f"got {nobody!r} at position 0 (image '0.nii'); 1 of 20 records" in str(caught.value)


def test_records_of_a_pandas_table_without_subjects():
    frame = pd.DataFrame({"image": list("abcd"), "subject": pd.array([1, 2, None, 4], dtype="Int64")})
    rows = [{"image": image, "subject": subject} for image, subject in zip(frame.image, frame.subject, strict=True)]
    with pytest.raises(ValueError, match=r"got <NA> at position 2 \(image 'c'\); 1 of 4 records have none"):
        split_subjects(rows, (0.5, 0.5))
    with pytest.raises(ValueError, match=r"got 'nan' at position 2"):
        split_subjects([{**row, "subject": str(float("nan"))} if row["image"] == "c" else row for row in rows])


@pytest.mark.parametrize("subject", [0, False, "0", "Nan Li", "nano", "none-01", "NA", 10**400, np.zeros(2)])
def test_subjects_that_only_look_like_nobody(subject):
    assert list(records_by_subject([{"subject": subject}])) == [str(subject)]


def test_unknown_covariate():
    with pytest.raises(ValueError, match=r"`stratify` must be one of 'age', 'sex', got 'Age'"):
        split_subjects(cohort(10, sex=str, age=int), stratify=["sex", "Age"])
    with pytest.raises(ValueError, match=r"`stratify` must be .* got 'subject'"):
        split_subjects(cohort(10, sex=str), stratify="subject")
    with pytest.raises(ValueError, match=r"`stratify` must be None, the name of a covariate or a list .* got 3"):
        split_subjects(cohort(10, sex=str), stratify=3)


@pytest.mark.parametrize("seed", [-1, 1.5, "0", True])
def test_seed(seed):
    with pytest.raises(ValueError, match=rf"`seed` must be .* got {seed!r}"):
        split_subjects(cohort(10), seed=seed)


@pytest.mark.parametrize("record", [None, "sub-1", 3])
def test_a_record_that_is_no_mapping(record):
    with pytest.raises(ValueError, match=r"`records` must each have a 'subject', got .* at position 0"):
        split_subjects([record], (0.5, 0.5))


def test_a_covariate_beyond_all_floats():
    records = [{"subject": number, "age": 10**400 + number} for number in range(4)]
    assert [len(part) for part in split_subjects(records, (0.5, 0.5), stratify="age")] == [2, 2]
