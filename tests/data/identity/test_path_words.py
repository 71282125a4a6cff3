from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_betavae.data.identity.path_words import (
    GROUPS,
    KINDS,
    MAPS,
    SESSIONS,
    SPM_PREFIX,
    SUBJECT_WORDS,
    TEMPLATE_SUBJECT,
    atoms_of,
    chunks_of,
    is_date,
)

NAMES = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), max_size=30)


@pytest.mark.parametrize(
    ("name", "chunks"),
    [
        ("P01_visit-2 (T1w)", ["P01", "visit", "2", "T1w"]),
        ("anna.smith, 3", ["anna", "smith", "3"]),
        ("0c7f4a52-7a0f-4f0e-9a3f-2f2b7a1f0a11_T1", ["0c7f4a52-7a0f-4f0e-9a3f-2f2b7a1f0a11", "T1"]),
        ("1.2.840.113619.2.1", ["1.2.840.113619.2.1"]),
        ("1.5T", ["1", "5T"]),
        ("anna_2019-01-31", ["anna", "2019-01-31"]),
        ("2006-05-19_16_17_47.0", ["2006-05-19_16_17_47.0"]),
        ("2006-05-19_161747", ["2006-05-19_161747"]),
        ("2006-05-19_16-17-47_T1", ["2006-05-19_16-17-47", "T1"]),
        # no time of the day, and no time but a number and a year
        ("2006-05-19_825504", ["2006-05-19", "825504"]),
        ("2019-01-02_01_2010", ["2019-01-02", "01", "2010"]),
        ("Zoë_李雷", ["Zoë", "李雷"]),
        ("--", []),
        ("", []),
    ],
)
def test_chunks(name, chunks):
    assert chunks_of(name) == chunks


@pytest.mark.parametrize(
    ("chunk", "atoms"),
    [
        ("P01visit2", ["P", "01", "visit", "2"]),
        ("annaLate", ["anna", "Late"]),
        ("ZoëA", ["Zoë", "A"]),
        ("李雷A", ["李雷", "A"]),
        ("MRI", ["MRI"]),
        ("McDonald", ["Mc", "Donald"]),
        ("20190131", ["20190131"]),
        ("20190131101112", ["20190131101112"]),
        # a number and a day without anything between them
        ("0120190131", ["01", "20190131"]),
        ("2019013101", ["20190131", "01"]),
        ("1234567890", ["1234567890"]),
        ("2019-01-31", ["2019-01-31"]),
        ("1.2.840.113619.2.1", ["1.2.840.113619.2.1"]),
    ],
)
def test_atoms(chunk, atoms):
    assert atoms_of(chunk) == atoms


@given(NAMES)
def test_chunks_and_atoms_are_the_name_without_its_separators(name):
    chunks = chunks_of(name)
    rest = name
    for chunk in chunks:
        assert chunk
        before, _, rest = rest.partition(chunk)
        assert not any(sign.isalnum() and sign != "_" for sign in before)
        assert "".join(atoms_of(chunk)) == chunk
    assert not any(sign.isalnum() for sign in rest)


@given(st.dates(date(1900, 1, 1), date(2099, 12, 31)), st.sampled_from(["", "-", "_", "."]))
def test_every_day_is_a_date(day, sign):
    assert is_date(day.strftime(f"%Y{sign}%m{sign}%d"))


@given(st.integers(0, 99_999_999))
def test_a_number_is_a_date_if_it_is_a_day(number):
    text = f"{number:08d}"
    try:
        real = 1900 <= date(int(text[:4]), int(text[4:6]), int(text[6:])).year <= 2099
    except ValueError:
        real = False
    assert is_date(text) is real


@pytest.mark.parametrize(
    "text", ["", "2019", "201901", "2019-1-31", "31-01-2019", "18990131", "20190131_2", "x20190131"]
)
def test_what_is_no_date(text):
    assert not is_date(text)


def test_words_are_in_lower_case_and_have_one_meaning():
    lists = {"kinds": KINDS, "maps": MAPS, "sessions": SESSIONS}
    for name, words in lists.items():
        assert all(word == word.casefold() for word in words), name
    assert not KINDS & MAPS
    assert not KINDS & SESSIONS
    assert not MAPS & SESSIONS
    assert sorted(GROUPS & KINDS) == ["pd"], "proton density, and Parkinson's disease"
    # the plural is a folder's name: subjects_0011 counts something else
    assert not any(word.endswith("s") for word in SUBJECT_WORDS)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("mwp1anna", "mwp1"),
        ("smwp1anna", "smwp1"),
        ("s8mwp1anna", "s8mwp1"),
        ("m0wp2anna", "m0wp2"),
        ("p0anna", "p0"),
        ("wmanna", "wm"),
        ("c1anna", "c1"),
        ("rc1anna", "rc1"),
        ("smwc1anna", "smwc1"),
        ("y_anna", "y_"),
        ("iy_anna", "iy_"),
        ("manna", "m"),
        ("anna", None),
        ("clara", None),
    ],
)
def test_prefixes_of_spm_and_cat12(name, prefix):
    found = SPM_PREFIX.match(name)
    assert (found and found[0]) == prefix


@pytest.mark.parametrize("name", ["fsaverage", "fsaverage5", "fsaverage_sym", "lh.EC_average", "cvs_avg35_inMNI152"])
def test_freesurfer_s_templates(name):
    assert TEMPLATE_SUBJECT.fullmatch(name)
    assert not TEMPLATE_SUBJECT.fullmatch(f"{name}_anna")
