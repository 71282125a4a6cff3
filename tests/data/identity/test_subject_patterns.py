import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_betavae.data.identity.subject_patterns import SubjectPattern, is_pattern, listed

# names that hold none of the separators below
PIECES = st.text(st.characters(exclude_characters="/_-.", exclude_categories=["Cs"]), min_size=1, max_size=6)
SEPARATORS = st.sampled_from(["/", "_", "-", ".", "_T1_", "/anat/"])
FIELDS = ["group", "session", "site", "run", "age"]


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("{subject}/*", "anna/T1", {"subject": "anna"}),
        ("{subject}/*", "anna/x/T1", None),
        ("{subject}/**", "anna/x/T1", {"subject": "anna"}),
        ("**/{subject}", "a/b/anna", {"subject": "anna"}),
        ("**/{subject}", "anna", {"subject": "anna"}),
        ("**/{subject}/T1", "x/anna/T1", {"subject": "anna"}),
        ("{group}/{subject}_{session}_T1w", "AD/P1_v2_T1w", {"subject": "P1", "group": "AD", "session": "v2"}),
        # as few characters as it can
        ("{subject}_*", "a_b_c", {"subject": "a"}),
        ("*_{subject}", "a_b_c", {"subject": "c"}),
        ("{subject}", "", None),
        ("{subject}_", "_", None),
        # a name that stands twice takes the same text twice
        ("{subject}/{subject}_T1", "anna/anna_T1", {"subject": "anna"}),
        ("{subject}/{subject}_T1", "anna/ben_T1", None),
        ("{subject1}/{subject2}", "AD/01", {"subject": "AD_01"}),
        ("{subject2}/{subject1}", "AD/01", {"subject": "01_AD"}),
        ("P{subject}?", "P01a", {"subject": "01"}),
        ("mwp1{subject}", "mwp1anna", {"subject": "anna"}),
        # of a regular expression's signs none means anything
        ("(a|b)+{subject}$", "(a|b)+x$", {"subject": "x"}),
        ("./{subject}/*", "anna/T1", {"subject": "anna"}),
        ("/{subject}/*", "anna/T1", {"subject": "anna"}),
        ("{subject}/*", "two\nlines/T1", {"subject": "two\nlines"}),
    ],
)
def test_what_a_pattern_takes(pattern, path, expected):
    assert SubjectPattern(pattern).match(path) == expected


def test_the_first_form_of_a_path_that_matches_counts():
    pattern = SubjectPattern("{subject}.nii.gz")
    assert pattern.match("anna", "anna.nii.gz") == {"subject": "anna"}
    assert SubjectPattern("{subject}").match("anna", "anna.nii.gz") == {"subject": "anna"}


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("*/T1", "got '*/T1'"),
        ("{group}/*", "got '{group}/*'"),
        ("{subject", "got '{subject'"),
        ("subject}", "got 'subject}'"),
        ("{{subject}}", "got '{{subject}}'"),
        ("{subject}/{}", "got the name '' in"),
        ("{subject}/{my session}", "got the name 'my session' in"),
        ("{subject}/{1}", "got the name '1' in"),
        ("{subject}/{image}", "got the name 'image' in"),
        ("{subject}/{split}", "got the name 'split' in"),
        ("{subject12}", "got '{subject12}'"),
        ("{subject/x}", "got '{subject/x}'"),
        ("", "got ''"),
    ],
)
def test_what_is_no_pattern(text, got):
    with pytest.raises(ValueError, match=r"`subject_from` must be a pattern with {subject} such as") as caught:
        SubjectPattern(text)
    assert got in str(caught.value)


@given(st.text(), st.text())
def test_any_text_is_a_pattern_or_refused_and_any_path_matches_or_not(text, path):
    try:
        pattern = SubjectPattern(text)
    except ValueError:
        return
    found = pattern.match(path)
    assert found is None or found["subject"]


@given(
    st.lists(st.sampled_from(["{subject}", "{session}", "{subject1}", "*", "**/", "**", "?", "/", "_", "a", "(", "["])),
    st.text("a/_1([", max_size=12),
)
def test_any_pattern_of_signs_works(signs, path):
    text = "".join(signs)
    try:
        pattern = SubjectPattern(text)
    except ValueError:
        assert "{subject}" not in text
        assert "{subject1}" not in text
        return
    found = pattern.match(path)
    if found is not None:
        assert set(found) == {"subject", *re.findall(r"{(session)}", text)}
        assert all(value and "/" not in value for value in found.values())


@given(st.data())
def test_a_path_that_is_built_from_a_pattern_gives_the_names_back(data):
    names = ["subject", *data.draw(st.lists(st.sampled_from(FIELDS), unique=True, max_size=4))]
    names = data.draw(st.permutations(names))
    texts = {name: data.draw(PIECES) for name in names}
    text = path = data.draw(st.sampled_from(["", "T1_", "data/"]))
    for i, name in enumerate(names):
        separator = data.draw(SEPARATORS) if i else ""
        text += f"{separator}{{{name}}}"
        path += f"{separator}{texts[name]}"
    ending = data.draw(st.sampled_from(["", "_T1w", "/mri/brain", ".nii.gz"]))
    assert SubjectPattern(text + ending).match(path + ending) == texts


@pytest.mark.parametrize(
    ("text", "expected"), [("ID", False), ("subject id", False), ("{subject}", True), ("a/b", True)]
)
def test_a_pattern_or_a_column(text, expected):
    assert is_pattern(text) is expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b, c"), (["a", "b", "c", "d", "e"], "a, b, c and 2 more")],
)
def test_a_short_list(values, expected):
    assert listed(values) == expected
