"""Tables of covariates: text to typed columns, every row with the place where it stands."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

# What BIDS ("n/a"), pandas (""), R ("NA"), numpy ("nan") and Excel ("#N/A") write. "none" is left out:
# it is a category in columns such as medication.
MISSING = {"", "n/a", "na", "nan", "#n/a"}
# A leading zero ("007") or more than 18 digits is an identifier: a number would not give it back.
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]{0,17})(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


class TableRow(NamedTuple):
    """A row of a table as text, and the place where it stands."""

    cells: dict[str, str]
    place: str


def read_table(path: Path, problems: list[str]) -> tuple[list[str], list[TableRow]]:
    """Return the named columns and the rows of a table as text, without blank rows."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.reader(io.StringIO(text), delimiter=_delimiter(path, text), strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader]
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
    # pandas writes its index as a column without a name, spreadsheets add empty columns at the right
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
    """Return the tab for a TSV; for a CSV what its header has most of: spreadsheets in Europe write semicolons."""
    header = text.lstrip().partition("\n")[0]
    return "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)


def _typed(cells: list[str]) -> list[int | float | str | None]:
    """Return a column's cells as int if all are integers, as float if all are numbers, otherwise as str."""
    missing = [cell.casefold() in MISSING for cell in cells]
    present = [cell for cell, absent in zip(cells, missing, strict=True) if not absent]
    kind: type[int] | type[float] | type[str] = str
    if all(_INTEGER.fullmatch(cell) for cell in present):
        kind = int
    elif all(_NUMBER.fullmatch(cell) and math.isfinite(float(cell)) for cell in present):
        kind = float
    return [None if absent else kind(cell) for cell, absent in zip(cells, missing, strict=True)]


def typed_rows(rows: list[TableRow], columns: list[str], text_columns: Iterable[str]) -> list[dict[str, Any]]:
    """Return the rows with typed values; ``text_columns`` hold paths and identifiers, and stay as they are."""
    typed: dict[str, list[Any]] = {}
    for column in columns:
        cells = [row.cells[column] for row in rows]
        typed[column] = (
            [None if cell in ("", "n/a") else cell for cell in cells] if column in text_columns else _typed(cells)
        )
    return [{column: typed[column][i] for column in columns} for i in range(len(rows))]
