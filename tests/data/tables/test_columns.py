"""A column of a table: what its cells are taken for, and what is said of those that aren't read as they stand."""

import re

import pytest

from monai_betavae.data.tables.columns import MissingValues, number_share, parse_column

NBSP, MINUS, COMBINING = "\N{NO-BREAK SPACE}", "\N{MINUS SIGN}", "\N{COMBINING DIAERESIS}"
WORDS = "- -- \N{EN DASH} \N{EM DASH} . ? unknown UNK Null none Nil MISSING n.a. <NA> #VALUE! #DIV/0! #REF! NaT nat"
AGES = [str(20 + i) for i in range(12)]


def read(cells, name="x", missing_values=None):
    """Return values, and the notes as "kind: entry"."""
    places = [f"t.tsv, line {i + 2}" for i in range(len(cells))]
    given = None if missing_values is None else MissingValues(missing_values)
    values, notes = parse_column(name, cells, places, given)
    return values, [f"{note.kind}: {note.entry}" for note in notes]


def same(values, expected):
    return values == expected and list(map(type, values)) == list(map(type, expected))


# ---- numbers ----


@pytest.mark.parametrize("word", [*WORDS.split(), "Not available"])
def test_a_text_that_means_missing_leaves_the_others_numbers(word):
    values, notes = read(["31", word, "40", "n/a", word])
    assert same(values, [31, None, 40, None, None])
    assert notes == [f"missing: x: {word!r} (2)"]
    assert same(read(["31.5", word])[0], [31.5, None])


def test_numbers_without_anything_else_are_read_without_a_word():
    assert read(["1", "-2", "+3"]) == ([1, -2, 3], [])
    assert read(["1", "2.5", "", "NA", "1e3"]) == ([1.0, 2.5, None, None, 1000.0], [])
    assert read(["", "n/a", "NaN", "#N/A"]) == ([None] * 4, [])
    assert read(["007", "008", "120"]) == (["007", "008", "120"], [])


def test_words_alone_are_no_numbers():
    assert read(["none", "unknown", "none", "nil"])[0] == ["none", "unknown", "none", "nil"]


def test_decimal_commas():
    values, notes = read(["34,5", "40", ",5", "-1,25e2", "?"])
    assert same(values, [34.5, 40.0, 0.5, -125.0, None])
    assert notes == ["missing: x: '?' (1)", "notation: x: decimal commas (3)"]
    # four digits before, a zero, or not three behind: no thousands
    assert read(["1,234", "0,125"])[0] == [1.234, 0.125]
    assert read(["1,234", "1234,125"])[0] == [1.234, 1234.125]


@pytest.mark.parametrize("cells", [["1,234", "12,345", "-100,000"], ["1,234", "900"], ["1,234 ml", "1,250 ml"]])
def test_commas_that_may_be_thousands_stay_text(cells):
    values, notes = read(cells)
    assert values == cells
    assert len(notes) == 1
    assert notes[0].startswith(f"text: x: a comma may stand for thousands or for decimals in {cells[0]!r} (t.tsv, line")
    assert notes[0].endswith("write 1234 or 1.234" if " " not in cells[0] else "write 1234 ml or 1.234 ml")


@pytest.mark.parametrize("odd", ["34,5", "1,234.5", "1,2,3", "34y", "<18", "12/05/1980", "08", "3 4", "1e999", "34%"])
def test_a_number_that_is_none_leaves_the_column_text_and_is_named(odd):
    cells = ["34.5", *AGES, odd, "?"]
    values, notes = read(cells)
    assert values == cells
    assert notes == [f"text: x: 92 % of 14 cells, but not {odd!r} (t.tsv, line 15)"]


def test_points_and_commas_in_one_column():
    cells = ["1.5", "2,5"] * 4
    values, notes = read(cells)
    assert values == cells
    expected = ", ".join(f"'2,5' (t.tsv, line {line})" for line in (3, 5, 7))
    assert notes == [f"text: x: 50 % of 8 cells, but not {expected} and 1 more"]


def test_four_fifths_are_most():
    assert read(["1", "2", "3", "4", "y"])[1] == ["text: x: 80 % of 5 cells, but not 'y' (t.tsv, line 6)"]
    assert read(["1", "2", "3", "4", "y", "z"])[1] == []


@pytest.mark.parametrize(
    ("cells", "expected", "unit"),
    [
        (["34 y", "35Years", "-"], [34, 35, None], "years"),
        (["12%", f"12.5{NBSP}%"], [12.0, 12.5], "%"),
        (["70,5 kg", "71 kg"], [70.5, 71.0], "kg"),
        (["7 mo", "8 months"], [7, 8], "months"),
    ],
)
def test_a_unit_that_all_have(cells, expected, unit):
    values, notes = read(cells)
    assert same(values, expected)
    assert notes[-1].endswith(f"all in {unit}")


@pytest.mark.parametrize("cells", [["1a", "2a"], ["3T", "1.5T"], ["12e", "13e"], ["34 y", "35 months"]])
def test_other_endings_are_no_units(cells):
    assert read(cells)[0] == cells


def test_the_minus_of_a_word_processor():
    assert read([f"{MINUS}1.5", "2"]) == ([-1.5, 2.0], ["notation: x: typographic minus signs (1)"])


def test_share_of_numbers():
    assert number_share(["1", "2,5", 3, "x"]) == 0.75
    assert number_share(["1", "2,5", "3.5", "4.5"]) == 0.75, "one of the two isn't a decimal"
    assert number_share(["1y", "2y", "3"]) == 2 / 3
    assert number_share([]) == 0
    assert number_share(["007", *map(str, range(100, 200))]) == 0, "identifiers"


# ---- codes for missing ----


@pytest.mark.parametrize("code", ["-9", "-99", "-999", "-9999", "-7", "-8", "999", "9999", "99999", "999.0"])
def test_codes_far_from_all_the_others(code):
    values, notes = read([*AGES, code, code], "age")
    assert values == [*map(int, AGES), None, None]
    assert notes == [f"code: age: {float(code):g} (2), the others from 20 to 31"]


def test_a_code_among_the_others_is_a_value():
    assert read(["-9", "-3", "4"]) == ([-9, -3, 4], [])
    assert read([*map(str, range(400, 1000, 50)), "999"])[1] == []
    assert read(["-99.5", "-120", "3", "-99"])[1] == []


def test_a_code_beside_z_scores():
    scores = [f"{i / 4 - 1.5:.2f}" for i in range(12)]  # -1.50 to 1.25
    assert read([*scores, "-999"])[0][-1] is None
    assert read([*scores, "-9"])[0][-1] is None
    assert read([*scores[:5], "-999"]) == (
        [*map(float, scores[:5]), -999.0],
        ["doubtful: x: -999 (1), the others from -1.5 to -0.5"],
    )


def test_few_others_leave_a_doubt_and_very_few_none():
    assert read([*AGES[:9], "999"])[1] == ["doubtful: x: 999 (1), the others from 20 to 28"]
    assert read([*AGES[:3], "-9"])[0] == [20, 21, 22, None]
    assert read([*AGES[:2], "-9", "999"]) == ([20, 21, -9, 999], [])


def test_two_digits_are_a_code_only_if_several_have_it():
    assert read([*AGES, "99"]) == ([*map(int, AGES), 99], ["doubtful: x: 99 (1), the others from 20 to 31"])
    assert read([*AGES, "99", "88", "88"])[0] == [*map(int, AGES), 99, None, None]
    # an age, where some are over half of it
    assert read([*AGES, "55", "99", "99"])[1] == []


def test_small_negative_numbers_are_only_asked_about():
    assert read([*AGES, "-4", "-4", "-1"])[1] == ["doubtful: x: -4 (2), -1 (1), the others from 20 to 31"]
    assert read(["0", "1", "-1"] * 10)[1] == []
    # beside them -9 isn't clear either, since a difference of scores has negative values
    assert read([*AGES, "-1", "-9"])[1] == ["doubtful: x: -9 (1), -1 (1), the others from 20 to 31"]


def test_numbers_of_sites_are_no_sizes():
    sites = [str(1 + i) for i in range(20)]
    assert read([*sites, "999"], "site_id")[1] == ["doubtful: site_id: 999 (1), the others from 1 to 20"]
    assert read([*sites, "-9"], "site_id")[0][-1] is None
    assert read([*sites, "999"], "score")[0][-1] is None
    assert read([*("12" * 8), "999"], "sex")[0][-1] is None


def test_codes_among_texts():
    values, notes = read([*("FM" * 5), "-9", "999"], "sex")
    assert values == [*("FM" * 5), None, "999"]
    assert notes == [
        "code: sex: '-9' (1), the others are no numbers",
        "kept: sex: '999' (1), the others are no numbers",
    ]
    # one of several numbers
    assert read(["a", "b", "b", "-9", "5", "a"])[0] == ["a", "b", "b", "-9", "5", "a"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["-9"], [20, 21, 22, None, 999, None]),
        (["999", "-9.0"], [20, 21, 22, None, None, None]),
        ([999], [20, 21, 22, -9, None, None]),
        ([], [20, 21, 22, -9, 999, None]),
        ("-9", [20, 21, 22, None, 999, None]),
    ],
)
def test_given_texts_are_missing_and_no_others(given, expected):
    values, notes = read([*AGES[:3], "-9", "999", "?"], missing_values=given)
    assert values == expected
    assert notes == ["missing: x: '?' (1)"]


def test_given_texts_hold_in_texts_too():
    assert read(["a", "Refused", "b", "none"], missing_values=["refused"]) == (["a", None, "b", "none"], [])
    assert read(["a", "a", "?", "b"], missing_values=[]) == (["a", "a", "?", "b"], [])
    assert read([*AGES, "34y"], missing_values=["34Y"])[0] == [*map(int, AGES), None]
    assert read(["0,5", "-9,0"], missing_values=["-9"])[0] == [0.5, None]


@pytest.mark.parametrize("given", [3.5j, [None], [True], [["-9"]]])
def test_missing_values_of_another_type(given):
    with pytest.raises(ValueError, match="`missing_values` must be a list of the texts that mean missing") as caught:
        MissingValues(given)
    assert repr(given)[:60] in str(caught.value)


# ---- categories ----


def test_spellings_of_one_category():
    cells = [*(["Site A"] * 4), f"site{NBSP}a", "SITE  A", *(["Zürich"] * 3), f"Zu{COMBINING}rich", "zürich", "Bern"]
    values, notes = read(cells)
    assert values == [*(["Site A"] * 6), *(["Zürich"] * 5), "Bern"]
    assert len(notes) == 1
    assert re.fullmatch(
        r"category: x: 'site\\xa0a' \(1\), 'SITE  A' \(1\) as 'Site A' \(4\); "
        r"'Zu.rich' \(1\), 'zürich' \(1\) as 'Zürich' \(3\)",
        notes[0].replace(f"u{COMBINING}", "u."),
    )


@pytest.mark.parametrize("name", ["sex", "Gender", "SEX_ID"])
def test_words_for_the_sexes(name):
    values, notes = read(["F", "M", "f", "Female", "male", "M", "F", "woman", "man", "other"], name)
    assert values == ["F", "M", "F", "F", "M", "M", "F", "F", "M", "other"]
    assert notes == [
        f"category: {name}: 'f' (1), 'Female' (1), 'woman' (1) as 'F' (2); 'male' (1), 'man' (1) as 'M' (2)"
    ]
    assert read(["male", "male", "m"], name)[0] == ["male"] * 3
    assert read(["M", "m", "M", "male", "male"], "species")[0] == ["M", "M", "M", "male", "male"]


@pytest.mark.parametrize("word", ["?", "unknown", "-", "none"])
def test_a_sex_is_no_question_mark(word):
    values, notes = read(["F", "M", word, "F"], "sex")
    assert values == ["F", "M", None, "F"]
    assert notes == [f"missing: sex: {word!r} (1)"]
    assert read(["F", "M", "X", "F", word], "sex")[0][-1] == word


def test_yes_and_no():
    assert read(["yes", "Y", "no", "no", "yes", "N"])[0] == ["yes", "yes", "no", "no", "yes", "no"]
    assert read(["y", "y", "n", "no"])[0] == ["y", "y", "n", "n"]
    assert read(["true", "T", "true", "F", "False", "F"])[0] == ["true", "true", "true", "F", "F", "F"]
    # "n" for normal, perhaps
    assert read(["yes", "yes", "y", "n", "n", "maybe", "maybe"])[1] == []


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("x", ["sub-a1", "sub-A1", "sub-b1", "sub-B1"]),  # all different
        ("x", ["a1", "A1", "b", "c", "d", "d"]),  # nearly all
        ("mask", ["m/A.nii", "m/a.nii", "m/a.nii"]),
        ("APOE_genotype", ["Aa", "aa", "AA", "aa", "aA", "AA"]),
        ("x", ["+", "-", "-", "+", "++"]),
        ("medication", ["none", "aspirin", "none", "unknown", "aspirin"]),
    ],
)
def test_what_is_no_spelling_of_something_else_stays(name, cells):
    assert read(cells, name) == (cells, [])


def test_signs_stay_categories_with_a_word():
    assert read(["a", "b", "?", "a", "missing", "b", "?", "b"]) == (
        ["a", "b", "?", "a", "missing", "b", "?", "b"],
        ["kept: x: '?' (2), 'missing' (1)"],
    )


def test_what_only_software_writes_is_no_category():
    values, notes = read(["a", "b", "#REF!", "a", "<NA>", "b"])
    assert values == ["a", "b", None, "a", None, "b"]
    assert notes == ["missing: x: '#REF!' (1), '<NA>' (1)"]
