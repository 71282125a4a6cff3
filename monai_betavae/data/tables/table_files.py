"""Readers of covariate tables, which turn text into typed columns and record the place of every row."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from .columns import MissingValues, Note, NoteKind, parse_column

# invisible characters that spreadsheets and web pages leave at the ends of cells
_INVISIBLE = "\N{ZERO WIDTH SPACE}\N{ZERO WIDTH NO-BREAK SPACE}\N{WORD JOINER}\N{LEFT-TO-RIGHT MARK}"
_AT_THE_ENDS = re.compile(rf"^[\s{_INVISIBLE}]+|[\s{_INVISIBLE}]+$")

_MAX_COLUMNS_SHOWN = 6
_HEADINGS: dict[NoteKind, str] = {
    "code": "taken as missing, as codes for it",
    "text": "left as text, although most cells are numbers; correct the others, or name them with --missing_values",
    "doubtful": "left as numbers, though they look like codes for missing",
    "missing": "taken as missing",
    "notation": "read as numbers",
    "category": "one category, read by its most frequent spelling",
    "kept": "kept as categories, though they may mean missing",
}


class TableRow(NamedTuple):
    """A row of a table as text, with its place in the file."""

    cells: dict[str, str]
    place: str


def read_table(path: Path, problems: list[str]) -> tuple[list[str], list[TableRow]]:
    """Return the named columns and the non-blank rows of a table as text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.reader(io.StringIO(text), delimiter=_delimiter(path, text), strict=True)
        lines = [(reader.line_num, [_AT_THE_ENDS.sub("", cell) for cell in line]) for line in reader]
    except OSError as error:
        problems.append(f"{path.name}: cannot be read: {error.strerror}")
        return [], []
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        problems.append(f"{path.name}, line {line}: not UTF-8 text")
        return [], []
    except csv.Error as error:
        problems.append(f"{path.name}, line {reader.line_num}: not a table: {error}")
        return [], []
    lines = [(number, cells) for number, cells in lines if any(cells)]
    header = lines[0][1] if lines else []
    if len(lines) < 2:
        problems.append(f"{path.name}: no rows below the header" if lines else f"{path.name}: an empty table")
    # pandas writes its index as a column without a name, and spreadsheets add empty columns on the right
    columns = [column for column in header if column]
    if len(set(columns)) < len(columns):
        twice = sorted({column for column in columns if columns.count(column) > 1})
        problems.append(f"{path.name}: columns of the same name: {', '.join(twice)}")
    width = 1 + max((i for i, column in enumerate(header) if column), default=-1)
    rows = []
    for number, cells in lines[1:]:
        place = f"{path.name}, line {number}"
        if len(cells) < width or any(cells[width:]):
            problems.append(f"{place}: {len(cells)} fields, the header has {width}")
        else:
            pairs = zip(header[:width], cells[:width], strict=True)
            rows.append(TableRow({column: cell for column, cell in pairs if column}, place))
    return columns, rows


def _delimiter(path: Path, text: str) -> str:
    """Return the tab for a TSV, or the most frequent delimiter in a CSV's header; European spreadsheets write ";"."""
    header = text.lstrip().partition("\n")[0]
    return "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)


def parse_rows(
    rows: list[TableRow],
    columns: list[str],
    text_columns: Iterable[str],
    missing_values: str | float | Iterable[str | float] | None = None,
) -> list[dict[str, Any]]:
    """Return the rows with typed values, and warn once of everything that isn't read literally.

    A column is ``int`` if all its present cells are integers, ``float`` if all are numbers, otherwise ``str``;
    missing cells are ``None``.

    - Always missing: an empty cell, n/a, NA, NaN, #N/A; Excel's other errors, <NA>, NaT (with a warning).
    - Missing, with a warning, if the other cells are numbers: ``-``, ``.``, ``?``, unknown, null, none and similar
      texts. Among texts they are kept: "none" is a category, and "-" a test result.
    - Missing, with a warning, unless ``missing_values`` is given: codes (-9, -99, -999, -7, -8, 999, 9999, ...) that
      are negative while no other number is, or more than twice the largest of at least ten other values; 77, 88 and 99
      only if they occur at least twice. In a column whose name says that it holds categories, such as ``site_id``, only
      negative codes count, or any among single digits. Uncertain codes are kept, with a warning.
    - Numbers, with a warning: decimal commas, if every cell has at most one and no cell has a point (``1,234`` alone
      could be a thousand, so such a column stays text); the same unit in every cell (%, kg, years, ...); a typographic
      minus.
    - One category, with a warning, in the most frequent spelling: texts that differ only in case, space or the form of
      accents; m, male, man and f, female, woman in a column of sex or gender; y and yes, n and no. Columns of names
      (nearly all different), paths and genotypes are kept unchanged.

    Args:
        rows: rows of the table.
        columns: names of the columns to parse.
        text_columns: columns of paths and identifiers, which stay text; an empty cell and n/a are missing.
        missing_values: texts that mean missing in addition to the usual ones, compared as text regardless of case, and
            as numbers if both are numbers. If given, no code is guessed; an empty list means that there is none.

    Raises:
        ValueError: if ``missing_values`` isn't as described.

    Example:
        >>> rows = [TableRow({"id": f"{i:03}", "age": str(20 + i)}, f"t.csv, line {i + 2}") for i in range(3)]
        >>> rows.append(TableRow({"id": "003", "age": "-9"}, "t.csv, line 5"))
        >>> parse_rows(rows, ["id", "age"], [], missing_values=["-9"])[2:]
        [{'id': '002', 'age': 22}, {'id': '003', 'age': None}]
    """
    texts = set(text_columns)
    given = None if missing_values is None else MissingValues(missing_values)
    places = [row.place for row in rows]
    typed: dict[str, list[Any]] = {}
    notes: list[Note] = []
    for column in columns:
        cells = [row.cells[column] for row in rows]
        if column in texts:
            typed[column] = [None if cell in ("", "n/a") else cell for cell in cells]
        else:
            typed[column], found = parse_column(column, cells, places, given)
            notes += found
    if notes:
        warnings.warn(_summary(places, notes, [] if given is None else given.texts), stacklevel=2)
    return [{column: typed[column][i] for column in columns} for i in range(len(rows))]


def _summary(places: list[str], notes: list[Note], given: list[str]) -> str:
    """Return a text of at most one screen with everything that isn't read literally, and the option to settle it."""
    tables = list(dict.fromkeys(place.rpartition(", line ")[0] or place for place in places))
    others = f" and {len(tables) - 1} more tables" if len(tables) > 1 else ""
    lines = [f"{tables[0]}{others}: not everything is read as it stands."]
    at_most = _MAX_COLUMNS_SHOWN if len(notes) <= 2 * _MAX_COLUMNS_SHOWN else _MAX_COLUMNS_SHOWN // 2
    for kind, heading in _HEADINGS.items():
        entries = [note.entry for note in notes if note.kind == kind]
        if len(entries) == 1:
            lines.append(f"  - {heading}: {entries[0]}")
        elif entries:
            lines += [f"  - {heading}:", *(f"      {entry}" for entry in entries[:at_most])]
        if len(entries) > at_most:
            lines.append(f"      and {len(entries) - at_most} more columns")
    listed = list(dict.fromkeys(text for note in notes for text in note.texts))
    if listed:
        # escaped for double quotes in a shell
        option = re.sub(r'(["$`\\])', r"\\\1", repr([*given, *listed[:12]]))
        lines.append(f'  Say what means missing: --missing_values "{option}" (those that do; "[]" if none does)')
    return "\n".join(lines)
