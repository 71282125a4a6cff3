"""Tables of covariates: what is read, what is said of it, and that no dirty cell becomes a wrong value."""

import ast
import csv
import math
import random
import re
import subprocess
import tempfile
import unicodedata
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_betavae.data.tables.table_files import TableRow, parse_rows, read_table

NBSP = "\N{NO-BREAK SPACE}"


def table(path, columns, delimiter="\t"):
    """Write columns of cells, by name."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([list(columns), *zip(*columns.values(), strict=True)])
    return path


def read(path, text_columns=(), missing_values=None):
    """Return a table's columns of values, and the warnings."""
    problems = []
    columns, rows = read_table(path, problems)
    assert problems == []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        records = parse_rows(rows, columns, text_columns, missing_values)
    return {column: [record[column] for record in records] for column in columns}, [str(w.message) for w in caught]


def test_one_warning_says_everything_and_how_to_settle_it(tmp_path):
    n = 20
    columns = {
        "participant_id": [f"sub-{i}" for i in range(n)],
        "age": ["-9", "-", "unknown", *(str(30 + i) for i in range(3, n))],
        "weight": ["?", "?", *(f"{60 + i},5" for i in range(2, n))],
        "height": ["1.80"] * (n - 1) + ["180cm"],
        "sex": ["F", "M"] * 9 + ["f", "Male"],
        "site": ["A", "B"] * 9 + ["A", "."],
        "moca": [*(str(i) for i in range(n - 1)), "88"],
    }
    values, messages = read(table(tmp_path / "participants.tsv", columns), ["participant_id"])
    assert values["age"] == [None, None, None, *range(33, 50)]
    assert values["weight"] == [None, None, *(60.5 + i for i in range(2, n))]
    assert values["height"] == columns["height"]
    assert values["sex"] == ["F", "M"] * 10
    assert len(messages) == 1
    assert messages[0].splitlines()[:-1] == [
        "participants.tsv: not everything is read as it stands.",
        "  - taken as missing, as codes for it: age: -9 (1), the others from 33 to 49",
        "  - left as text, although most cells are numbers; correct the others, or name them with --missing_values: "
        "height: 95 % of 20 cells, but not '180cm' (participants.tsv, line 21)",
        "  - left as numbers, though they look like codes for missing: moca: 88 (1), the others from 0 to 18",
        "  - taken as missing:",
        "      age: '-' (1), 'unknown' (1)",
        "      weight: '?' (2)",
        "  - read as numbers: weight: decimal commas (18)",
        "  - one category, read by its most frequent spelling: sex: 'f' (1) as 'F' (9); 'Male' (1) as 'M' (9)",
        "  - kept as categories, though they may mean missing: site: '.' (1)",
    ]
    option = "['-9', '180cm', '.', '88']"
    assert messages[0].endswith(
        f'  Say what means missing: --missing_values "{option}" (those that do; "[]" if none does)'
    )


def option_of(message):
    """What a shell and Python make of the option that a warning ends with."""
    option = re.search(r"--missing_values (.*) \(", message.splitlines()[-1]).group(1)
    done = subprocess.run(["sh", "-c", f"printf %s {option}"], capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stdout)


def test_the_option_of_the_warning_settles_it(tmp_path):
    columns = {"age": [*map(str, range(20, 40)), "-9"], "height": ["1.7"] * 20 + ["don't $know"]}
    path = table(tmp_path / "t.tsv", columns)
    _, [message] = read(path)
    assert option_of(message) == ["-9", "don't $know"]
    values, messages = read(path, missing_values=["-9", "don't $know"])
    assert values == {"age": [*range(20, 40), None], "height": [1.7] * 20 + [None]}
    assert messages == []
    values, [message] = read(path, missing_values=["-9"])
    assert values["height"][-1] == "don't $know"
    assert option_of(message) == ["-9", "don't $know"], "what was given stays"
    # what the one text hides: named alone, it would leave -9 a number
    columns = {"age": [*map(str, range(20, 40)), "-9", "34y"]}
    _, [message] = read(table(tmp_path / "hidden.tsv", columns))
    assert option_of(message) == ["34y", "-9"]
    values, messages = read(path, missing_values=[])
    assert values["age"][-1] == -9
    assert len(messages) == 1


def test_a_wide_table_is_said_in_one_screen(tmp_path):
    columns = {f"c{i:03}": [*(str(number) for number in range(30)), "-9", "-", "88"] for i in range(200)}
    _, [message] = read(table(tmp_path / "wide.tsv", columns))
    lines = message.splitlines()
    assert len(lines) <= 20
    assert lines.count("      and 197 more columns") == 3
    assert max(map(len, lines)) < 200


def test_a_clean_table_is_read_in_silence(tmp_path):
    columns = {"id": ["001", "002", "003"], "age": ["31", "n/a", "40.5"], "sex": ["F", "M", "M"], "note": ["", "", "?"]}
    values, messages = read(table(tmp_path / "t.tsv", columns))
    assert messages == []
    assert values == {"id": ["001", "002", "003"], "age": [31.0, None, 40.5], "sex": ["F", "M", "M"]} | {
        "note": [None, None, "?"]
    }


def test_text_columns_stay_as_they_are(tmp_path):
    columns = {"image": ["a.nii", "?", "n/a"], "subject": ["-9", "F", "f"]}
    values, messages = read(table(tmp_path / "t.tsv", columns), ["image", "subject"])
    assert messages == []
    assert values == {"image": ["a.nii", "?", None], "subject": ["-9", "F", "f"]}


def test_several_tables_typed_together_are_all_named():
    rows = [TableRow({"age": cell}, f"sub-{i}_sessions.tsv, line 2") for i, cell in enumerate(["31", "?", "40"])]
    with pytest.warns(UserWarning, match=r"sub-0_sessions\.tsv and 2 more tables: not everything is read"):
        assert parse_rows(rows, ["age"], ()) == [{"age": 31}, {"age": None}, {"age": 40}]


def test_a_column_of_a_comma_file_has_decimal_commas_if_it_is_quoted(tmp_path):
    (tmp_path / "t.csv").write_text('age,weight\n31,"70,5"\n32,"71,25"\n')
    values, [message] = read(tmp_path / "t.csv")
    assert values == {"age": [31, 32], "weight": [70.5, 71.25]}
    assert message == "t.csv: not everything is read as it stands.\n  - read as numbers: weight: decimal commas (2)"


def test_what_nobody_sees_at_the_ends_of_cells_is_dropped(tmp_path):
    text = f"\ufeff\ufeffage\u200b\tsex{NBSP}\n{NBSP}31\u200b\tF{NBSP}\n32\t\u2060M\n\u200b\t{NBSP}\n"
    (tmp_path / "t.tsv").write_text(text, encoding="utf-8")
    assert read(tmp_path / "t.tsv") == ({"age": [31, 32], "sex": ["F", "M"]}, [])


def test_missing_values_of_another_type_are_refused():
    rows = [TableRow({"age": "31"}, "t.tsv, line 2")]
    with pytest.raises(ValueError, match="`missing_values` must be a list of the texts that mean missing"):
        parse_rows(rows, ["age"], (), missing_values=[None])


# ---- random tables with dirty cells ----

STANDARD = ["", "n/a", "NA", "nan", "#N/A"]
SOFTWARE = ["#VALUE!", "#DIV/0!", "#REF!", "<NA>", "NaT"]
BETWEEN_NUMBERS = ["-", "--", ".", "?", "unknown", "UNK", "null", "None", "nil", "missing", "Not available"]
CODES = ["-9", "-99", "-999", "-9999", "-7", "-8", "999", "9999", "99999"]
SPELLINGS = {
    "F": ["f", "Female", "FEMALE", "woman"],
    "M": ["m", "male", "Man"],
    "Site A": ["site a", "SITE A", f"Site{NBSP}A", "Site  A"],
    "Zürich": ["zürich", "ZÜRICH", unicodedata.normalize("NFD", "Zürich")],
    "Bern": ["bern", "BERN"],
}


def plain_reading(cells):
    """The reading without any guess: int if all are integers, float if all are numbers, otherwise text."""
    present = [cell for cell in cells if cell.lower() not in {"", "n/a", "na", "nan", "#n/a"}]
    kind = str
    if all(re.fullmatch(r"-?(0|[1-9]\d*)", cell) for cell in present):
        kind = int
    elif all(re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?", cell) for cell in present):
        kind = float
    return [kind(cell) if cell in present else None for cell in cells]


def dirty_numbers(rng, truth, write):
    """Cells of a quantity: clean ones by ``write``, others of each dirty kind."""
    n = len(truth)
    cells = [write(value) for value in truth]
    order = rng.sample(range(n), n)
    absent, spoilt = order[: rng.randint(0, n // 3)], order[n // 2 :][: rng.choice([0, 0, rng.randint(0, n // 10)])]
    for row in absent:
        cells[row] = rng.choice(rng.choice([STANDARD, SOFTWARE, BETWEEN_NUMBERS, CODES]))
    for row in spoilt:
        number = f"{truth[row]}"
        cells[row] = rng.choice(
            [number + "y", "<18", "12/05/1980", f"{truth[row]:.1f}".replace(".", ","), f"0{number}", f"{number} %"]
        )
    return cells, set(absent) | set(spoilt)


def dirty_categories(rng, truth, absent_words):
    """Cells of a category: the truth, other spellings of it, and words for missing; less than half are dirty."""
    n = len(truth)
    rows = rng.sample(range(n), rng.randint(0, n // 2 - 1))
    cells = list(truth)
    for row in rows:
        cells[row] = rng.choice([*SPELLINGS[truth[row]], *SPELLINGS[truth[row]], rng.choice(absent_words)])
    return cells, {row for row in rows if cells[row] in absent_words}


@settings(max_examples=600, deadline=None)
@given(
    n=st.integers(20, 45),
    whole=st.booleans(),
    commas=st.booleans(),
    file=st.sampled_from([("t.tsv", "\t"), ("t.csv", ","), ("t.csv", ";")]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_dirty_cell_becomes_a_wrong_value(n, whole, commas, file, seed):
    rng = random.Random(seed)
    ages = [rng.randint(18, 85) if whole else round(rng.uniform(18, 85), 1) for _ in range(n)]
    sites = [rng.randint(1, 30) for _ in range(n)]
    sexes = [rng.choice("FM") for _ in range(n)]
    towns = [rng.choice(["Site A", "Zürich", "Bern"]) for _ in range(n)]
    labels = ["007", *(f"{number:03}" for number in rng.sample(range(8, 999), n - 1))]
    cells, spoilt = {"label": labels}, {}
    cells["age"], spoilt["age"] = dirty_numbers(rng, ages, lambda age: str(age).replace(".", "," if commas else "."))
    cells["site_id"] = [str(site) for site in sites]
    spoilt["site_id"] = set(rng.sample(range(n), rng.randint(0, n // 2 - 1)))
    for row in spoilt["site_id"]:
        cells["site_id"][row] = rng.choice([*STANDARD, *SOFTWARE, *BETWEEN_NUMBERS, "-9", "-999"])
    cells["sex"], spoilt["sex"] = dirty_categories(rng, sexes, [*STANDARD, *SOFTWARE, *BETWEEN_NUMBERS])
    cells["town"], spoilt["town"] = dirty_categories(rng, towns, [*STANDARD, *SOFTWARE, "-9", "-999"])
    with tempfile.TemporaryDirectory() as folder:
        values, messages = read(table(Path(folder, file[0]), cells, file[1]))
    said = "\n".join(messages)

    assert values["label"] == labels, "identifiers"
    for name, truth in (("age", ages), ("site_id", sites)):
        if any(isinstance(value, str) for value in values[name]):
            assert re.search(rf"left as text.*\b{name}: ", said, re.DOTALL), "text, and said so"
            assert all(value in (None, cell) for value, cell in zip(values[name], cells[name], strict=True))
            continue
        for row, value in enumerate(values[name]):
            if row in spoilt[name]:
                assert value is None or math.isclose(value, truth[row]), (name, cells[name][row], value)
            else:
                assert value == truth[row], (name, cells[name][row], value)
    for name, truth in (("sex", sexes), ("town", towns)):
        names = {}
        for row, value in enumerate(values[name]):
            if row in spoilt[name]:
                assert value is None, (name, cells[name][row])
            else:
                assert value in [truth[row], *SPELLINGS[truth[row]]]
                assert names.setdefault(truth[row], value) == value, "one name for one category"
    for name, column in values.items():
        if column != plain_reading(cells[name]):
            assert re.search(rf"\b{name}: ", said), f"{name} was changed without a word"


def test_the_random_tables_have_what_they_should():
    # a property over tables without a dirty cell, or whose ages all stay text, would say nothing
    rng = random.Random(0)
    seen, clean, spoilt = set(), 0, 0
    for _ in range(300):
        cells, dirty = dirty_numbers(rng, [rng.randint(18, 85) for _ in range(30)], str)
        seen |= set(cells)
        clean += not dirty
        spoilt += any(re.search(r"\dy|<|\d,|/05|\d%|0\d|\d %", cell) for cell in cells)
    assert {*STANDARD, *SOFTWARE, *BETWEEN_NUMBERS, *CODES, "<18", "12/05/1980"} <= seen
    assert clean > 5
    assert 50 < spoilt < 150
