import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_betavae.data.identity.joins import compare_keys


def compared(wanted, rows, **options):
    problems = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compare_keys("t.tsv", "subject", wanted, rows, problems, **options)
    return problems, [str(each.message) for each in caught]


@pytest.mark.parametrize(("wanted", "rows"), [([], ["a"]), (["a"], []), (["a", "b", "a"], ["b", "a"])])
def test_nothing_to_say(wanted, rows):
    assert compared(wanted, rows) == ([], [])


@pytest.mark.parametrize(
    ("wanted", "rows", "pairs"),
    [
        (["sub-001", "sub-002"], ["sub-1", "sub-2"], "'sub-1' for 'sub-001', 'sub-2' for 'sub-002'"),
        (["sub-a1"], ["sub-A1"], "'sub-A1' for 'sub-a1'"),
        (["P-01"], ["P01"], "'P01' for 'P-01'"),
        (["001"], ["sub-1"], "'sub-1' for '001'"),
        (
            [f"sub-{i:02d}" for i in range(1, 6)],
            [f"sub-{i}" for i in range(1, 6)],
            "'sub-1' for 'sub-01', 'sub-2' for 'sub-02', 'sub-3' for 'sub-03' and 2 more",
        ),
    ],
)
def test_keys_that_people_write_differently_are_named(wanted, rows, pairs):
    problems, said = compared(wanted, rows)
    assert problems == [
        f"t.tsv: no row is of a subject with volumes, although they are alike: {pairs}. Write them the same way"
    ]
    assert not said


def test_keys_that_have_nothing_in_common():
    assert compared(["anna", "ben"], ["1", "2", "3", "4"])[0] == [
        "t.tsv: no row is of a subject with volumes: "
        "the volumes are of 'anna', 'ben', the rows of '1', '2', '3' and 1 more"
    ]


def test_a_partial_match_is_a_warning_with_both_counts():
    assert compared(["a", "b", "c"], ["c", "d"]) == (
        [],
        ["t.tsv: 2 of 3 subjects with volumes have no row (a, b), and 1 of 2 rows have no volume (d)."],
    )
    assert compared(["a"], ["a", "b"])[1] == ["t.tsv: 1 of 2 rows have no volume (b)."]
    assert compared(["a", "b"], ["a"])[1] == ["t.tsv: 1 of 2 subjects with volumes have no row (b)."]
    assert compared(["a", "sub-1"], ["a", "sub-01"])[1] == [
        "t.tsv: 1 of 2 subjects with volumes have no row (sub-1), and 1 of 2 rows have no volume (sub-01), "
        "although they are alike: 'sub-01' for 'sub-1'. Write them the same way."
    ]


def test_a_table_of_more_than_the_cohort():
    assert compared(["a"], ["a", "b"], complete=False) == ([], [])
    assert compared(["a", "c"], ["a", "b"], complete=False)[1] == [
        "t.tsv: 1 of 2 subjects with volumes have no row (c)."
    ]
    assert len(compared(["c"], ["a", "b"], complete=False)[0]) == 1


KEYS = st.lists(st.sampled_from([f"sub-{i}" for i in range(6)]), min_size=1)


@given(KEYS, KEYS)
def test_silence_means_that_both_have_the_same_keys(wanted, rows):
    problems, said = compared(wanted, rows)
    assert bool(problems) == (not set(wanted) & set(rows))
    assert bool(problems or said) == (set(wanted) != set(rows))
    for key in {*set(wanted) ^ set(rows)} if len({*wanted, *rows}) <= 3 else ():
        assert key in (problems or said)[0]
