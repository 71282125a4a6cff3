"""The parsing of one column from text to numbers or categories, with a note of everything that isn't read literally."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ..volumes.volume_files import VOLUME_SUFFIXES
from .covariates import is_genotype, is_named_category, is_sex

Value = int | float | str | None

# Missing values of BIDS ("n/a"), pandas (""), R ("NA"), numpy ("nan") and Excel ("#N/A"). "none" is not among them:
# it is a category in columns such as medication.
MISSING = {"", "n/a", "na", "nan", "#n/a"}
# Texts that only software writes and that name no category: Excel's errors, pandas' NA and NaT.
_MARKERS = {"#value!", "#div/0!", "#ref!", "#name?", "#num!", "#null!", "<na>", "nat"}
# Texts that hardly ever name a category, and texts that sometimes do; among numbers both mean missing.
_SIGNS = {"-", "--", "\N{EN DASH}", "\N{EM DASH}", ".", "?", "null", "missing", "not available", "n.a."}
_WORDS = {"unknown", "unk", "none", "nil", "not known", "not applicable"}
_NO_NUMBERS = _MARKERS | _SIGNS | _WORDS

# A leading zero ("007") or more than 18 digits make an identifier, which a number would not preserve.
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]{0,17})(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}\.[0-9]{3}")
_WITH_UNIT = re.compile(r"(.*[0-9.])\s?(%|[a-z]+)", re.IGNORECASE)
_UNITS = {
    "%": "%",
    **dict.fromkeys(("y", "yr", "yrs", "year", "years"), "years"),
    **dict.fromkeys(("mo", "mos", "month", "months"), "months"),
    **dict.fromkeys(("kg", "cm", "mm", "ml", "mg"), ""),
}

MOSTLY = 0.8
"""Share of numbers among a column's cells from which it counts as a numeric column with mistakes."""

# Missing-value codes of SPSS, Stata and most questionnaires; a measurement is unlikely to equal one exactly
_CODES = {-7, -8, -9, -77, -88, -99, -777, -888, -999, -9999, -99999, 777, 888, 999, 9999, 99999}
# a two-digit number may be an outlier: it is a code only if it occurs several times
_SHORT_CODES = {77, 88, 99}
# ADNI's codes, which may also be differences of two scores: missing only if the user says so
_SMALL_CODES = {-1, -4}
_ENOUGH, _MIN_COUNT = 10, 3  # other values needed to call one distant, and to judge a code at all

_YES_NO = ({"y": "yes", "yes": "yes", "n": "no", "no": "no"}, {"t": "t", "true": "t", "f": "f", "false": "f"})
_SEXES = {**dict.fromkeys(("m", "male", "man"), "m"), **dict.fromkeys(("f", "female", "woman"), "f")}

NoteKind = Literal["code", "text", "doubtful", "missing", "notation", "category", "kept"]


class Note(NamedTuple):
    """A note that part of a column was not read literally, or could be read differently.

    Attributes:
        kind: kind of note.
        entry: the column and the part concerned.
        texts: texts that may mean missing, in the form that ``missing_values`` takes.
    """

    kind: NoteKind
    entry: str
    texts: tuple[str, ...] = ()


class MissingValues:
    """The texts and numbers that mean missing, as given by the user.

    Args:
        values: texts or numbers, or a single one.

    Attributes:
        texts: the values as text.

    Raises:
        ValueError: if ``missing_values`` is anything else.

    Example:
        >>> given = MissingValues(["-9", "Refused"])
        >>> [cell in given for cell in ("-9.0", "refused", "9")]
        [True, True, False]
    """

    def __init__(self, values: str | float | Iterable[str | float]) -> None:
        listed = [values] if isinstance(values, str | int | float) or not isinstance(values, Iterable) else list(values)
        for value in listed:
            if not isinstance(value, str | int | float) or isinstance(value, bool):
                raise ValueError(
                    f"`missing_values` must be a list of the texts that mean missing, such as ['-9', 'refused'], "
                    f"got {values!r:.80}."
                )
        self.texts = [str(value).strip() for value in listed]
        self._folded = {text.casefold() for text in self.texts}
        numbers = [_parsed(text) for text in self.texts]
        self._numbers = {float(number.text) for number in numbers if number is not None and not number.unit}

    def __contains__(self, cell: str) -> bool:
        if cell.casefold() in self._folded:
            return True
        number = _parsed(cell) if self._numbers else None
        return number is not None and not number.unit and float(number.text) in self._numbers


def parse_column(
    name: str, cells: Sequence[str], places: Sequence[str], missing_values: MissingValues | None = None
) -> tuple[list[Value], list[Note]]:
    """Return a column's cells as int if all are integers, as float if all are numbers, otherwise as str.

    Args:
        name: name of the column, which may say that it holds sexes, sites, ...
        cells: text of the cells.
        places: place of each cell in the file.
        missing_values: values that mean missing in addition to the usual ones; ``None`` to guess codes such as -9.

    Returns:
        the values, with ``None`` for missing ones, and the notes.

    Example:
        >>> values, notes = parse_column("age", ["31", "?", "40"], ["line 2", "line 3", "line 4"])
        >>> values, notes[0].entry
        ([31, None, 40], "age: '?' (1)")
    """
    texts = [
        None if cell.casefold() in MISSING or (missing_values is not None and cell in missing_values) else cell
        for cell in cells
    ]
    numbers = _plain_numbers(texts)
    notes: list[Note] = []
    if numbers is None:
        texts, marked = _without(texts, _MARKERS)
        numbers, notes = _numbers_of(name, texts, places, marked)
        if numbers is None:
            if notes:
                return list(texts), [*_missing_note(name, marked), *notes]
            if missing_values is None:
                texts, notes = _without_text_codes(name, texts)
            words, more = _categories_of(name, texts, marked)
            notes += [note for note in more if missing_values is None or note.kind != "kept"]
            return list(words), [*_missing_note(name, marked), *notes]
    if missing_values is None:
        numbers, more = _without_codes(name, numbers)
        notes += more
    return list(numbers), notes


def number_share(cells: Iterable[Any]) -> float:
    """Return the share of values, of any type, that are numbers or numeric text in one notation; 0 without values.

    Example:
        >>> number_share(["31", "40.5", "34y", "?"])
        0.5
    """
    listed = [str(cell).strip() for cell in cells]
    parsed = {row: number for row, cell in enumerate(listed) if (number := _parsed(cell)) is not None}
    return len(_written_alike(parsed)) / len(listed) if parsed and not _is_padded(listed) else 0.0


# ---- numbers ----


class _Number(NamedTuple):
    """A numeric cell: its text with a decimal point, and its original notation."""

    text: str
    comma: bool
    point: bool
    minus: bool  # a typographic minus
    unit: str


def _parsed(cell: str) -> _Number | None:
    unit = ""
    found = _WITH_UNIT.fullmatch(cell)
    if found and found.group(2).casefold() in _UNITS:
        cell, unit = found.group(1), found.group(2).casefold()
        unit = _UNITS[unit] or unit
    text = cell.replace("\N{MINUS SIGN}", "-", 1) if cell.startswith("\N{MINUS SIGN}") else cell
    comma = text.count(",") == 1 and "." not in text and re.search(",[0-9]", text) is not None
    plain = text.replace(",", ".") if comma else text
    if not _NUMBER.fullmatch(plain) or not math.isfinite(float(plain)):
        return None
    return _Number(plain, comma, "." in text, text != cell, unit)


def _plain_numbers(texts: Sequence[str | None]) -> list[int | float | None] | None:
    """Return texts as numbers, or ``None`` if one of them isn't a plain number."""
    present = [text for text in texts if text is not None]
    kind: type[int] | type[float]
    if all(_INTEGER.fullmatch(text) for text in present):
        kind = int
    elif all(_NUMBER.fullmatch(text) and math.isfinite(float(text)) for text in present):
        kind = float
    else:
        return None
    return [None if text is None else kind(text) for text in texts]


def _numbers_of(
    name: str, texts: Sequence[str | None], places: Sequence[str], marked: Counter[str]
) -> tuple[list[int | float | None] | None, list[Note]]:
    """Return a column as numbers, or ``None`` if it is text, with a note if most cells are numbers."""
    bare, odd = _without(texts, _NO_NUMBERS)
    rows = [row for row, text in enumerate(bare) if text is not None]
    parsed = {row: number for row in rows if (number := _parsed(bare[row] or "")) is not None}
    if not parsed:
        return None, []
    fits = _written_alike(parsed)
    others = [row for row in rows if row not in fits]
    if others:
        if len(parsed) < MOSTLY * len(rows) or _is_padded(bare[row] for row in rows):
            return None, []
        shown = ", ".join(f"{cells_text(bare[row])} ({places[row]})" for row in others[:3])
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        entry = f"{name}: {percent(len(fits) / len(rows))} of {len(rows)} cells, but not {shown}{more}"
        # a user who names the others as missing disables the guessing of codes, so this note must list the codes too
        _, codes = _without_codes(name, _plain_numbers([number.text for number in fits.values()]) or [])
        named = [*(str(bare[row]) for row in others[:3]), *(text for note in codes for text in note.texts)]
        return None, [Note("text", entry, tuple(dict.fromkeys(named)))]
    with_comma = [row for row, number in fits.items() if number.comma]
    if with_comma and all(_THOUSANDS.fullmatch(fits[row].text) for row in with_comma):
        first = with_comma[0]
        example = str(bare[first])
        entry = (
            f"{name}: a comma may stand for thousands or for decimals in {cells_text(example)} ({places[first]}); "
            f"write {example.replace(',', '')} or {example.replace(',', '.')}"
        )
        return None, [Note("text", entry)]
    plain = [fits[row].text if row in fits else None for row in range(len(bare))]
    return _plain_numbers(plain), [*_missing_note(name, marked + odd), *_notation_note(name, list(fits.values()))]


def _written_alike(parsed: Mapping[int, _Number]) -> dict[int, _Number]:
    """Return the numbers in the most common notation: 1,234 and 1.234 in one column can't both be decimals."""
    unit = Counter(number.unit for number in parsed.values()).most_common(1)[0][0]
    commas = sum(number.comma for number in parsed.values())
    points = sum(number.point for number in parsed.values())
    return {
        row: number
        for row, number in parsed.items()
        if number.unit == unit and not (number.point if commas > points else number.comma)
    }


def _is_padded(texts: Iterable[str | None]) -> bool:
    """Return whether texts are numeric identifiers, padded with zeros to one length: 001, 002, ..., 120."""
    listed = [text for text in texts if text is not None]
    same_length = len({len(text) for text in listed}) == 1
    return same_length and all(map(str.isdecimal, listed)) and any(len(text) > 1 and text[0] == "0" for text in listed)


def _notation_note(name: str, parsed: Sequence[_Number]) -> list[Note]:
    changes = []
    for what, count in (
        ("decimal commas", sum(number.comma for number in parsed)),
        ("typographic minus signs", sum(number.minus for number in parsed)),
    ):
        if count:
            changes.append(f"{what} ({count})")
    if parsed and parsed[0].unit:
        changes.append(f"all in {parsed[0].unit}")
    return [Note("notation", f"{name}: {', '.join(changes)}")] if changes else []


def _without_codes(name: str, values: list[int | float | None]) -> tuple[list[int | float | None], list[Note]]:
    """Return numbers without missing-value codes, which are usual codes that are far from all other values.

    A code is far if it is negative and no other value is, or if it is more than twice the largest of at least ten other
    values. Uncertain codes are kept, with a note.
    """
    present = [value for value in values if value is not None]
    counts = Counter(present)
    if not any(code in counts for code in (*_CODES, *_SHORT_CODES, *_SMALL_CODES)):
        return values, []
    measured = [value for value in present if value not in _CODES]
    clear = [value for value in measured if value not in _SHORT_CODES]
    usual = [value for value in clear if value not in _SMALL_CODES]
    # among 30 sites, 99 is a site; next to 1 and 2 it is a code
    labels = is_named_category(name) and max(map(abs, usual), default=0) > 9
    taken: list[int] = []
    doubtful: list[int] = []
    for code in sorted(_CODES | _SHORT_CODES | _SMALL_CODES):
        if code not in counts or len(usual) < _MIN_COUNT:
            continue
        if code in _SMALL_CODES:
            sure, unsure = False, len(set(usual)) >= _ENOUGH and min(usual) >= 0
        elif code in _SHORT_CODES:
            far = _is_beyond(code, clear)
            sure, unsure = far and counts[code] > 1 and not labels, far
        else:
            others = measured if _is_outside(code, measured) else usual
            unsure = _is_outside(code, others) or abs(code) > 2 * max(map(abs, others))
            sure = others is measured and not (labels and code > 0)
        if sure:
            taken.append(code)
        elif unsure:
            doubtful.append(code)
    notes = []
    kinds: tuple[tuple[NoteKind, list[int]], ...] = (("code", taken), ("doubtful", doubtful))
    rest = [value for value in present if value not in taken and value not in doubtful]
    for kind, codes in kinds:
        if codes:
            listed = ", ".join(f"{code} ({counts[code]})" for code in codes)
            entry = f"{name}: {listed}, the others from {min(rest):g} to {max(rest):g}"
            notes.append(Note(kind, entry, tuple(map(str, codes))))
    return [None if value in taken else value for value in values], notes


def _without_text_codes(name: str, texts: list[str | None]) -> tuple[list[str | None], list[Note]]:
    """Return categories without negative missing-value codes, if none of the other texts is a number."""
    numbers = {text: number for text in set(texts) if text is not None and (number := _parsed(text)) is not None}
    if not numbers or any(float(number.text) not in _CODES for number in numbers.values()):
        return texts, []
    if sum(text is not None and text not in numbers for text in texts) < _MIN_COUNT:
        return texts, []
    taken = {text for text, number in numbers.items() if float(number.text) < 0}
    kept, found = _without(texts, {text.casefold() for text in taken})
    others = Counter(text for text in texts if text in numbers and text not in taken)
    notes = []
    kinds: tuple[tuple[NoteKind, Counter[str]], ...] = (("code", found), ("kept", others))
    for kind, counts in kinds:
        if counts:
            listed = ", ".join(f"{cells_text(text)} ({count})" for text, count in counts.items())
            notes.append(Note(kind, f"{name}: {listed}, the others are no numbers", tuple(counts)))
    return kept, notes


def _is_beyond(code: int, others: Sequence[float]) -> bool:
    return len(others) >= _ENOUGH and abs(code) > 2 * max(map(abs, others))


def _is_outside(code: int, others: Sequence[float]) -> bool:
    return bool(others) and ((code < 0 and min(others) >= 0) or _is_beyond(code, others))


# ---- categories ----


def _categories_of(name: str, texts: list[str | None], marked: Counter[str]) -> tuple[list[str | None], list[Note]]:
    """Return a column of text with one spelling per category; ``marked`` counts the texts that mean missing."""
    counts = Counter(text for text in texts if text is not None)
    keys = {text: _key(name, text) for text in counts}
    if is_sex(name) and (words := {key for key in keys.values() if key not in _NO_NUMBERS}) and words <= {"m", "f"}:
        texts, odd = _without(texts, _NO_NUMBERS)
        marked.update(odd)
        counts = Counter(text for text in texts if text is not None)
        keys = {text: _key(name, text) for text in counts}
    for answers in _YES_NO:
        if set(keys.values()) <= set(answers):
            keys = {text: answers[key] for text, key in keys.items()}
    n_keys, n_present = len(set(keys.values())), counts.total()
    # if nearly all cells differ, they are names, notes or paths
    named = len(counts) == n_present or n_keys > max(2, n_present / 2)
    if (named and not is_sex(name)) or is_genotype(name) or any(_is_file(text) for text in counts):
        return texts, []
    spellings: dict[str, list[str]] = {}
    for text, _ in counts.most_common():  # equal counts keep their order
        spellings.setdefault(keys[text], []).append(text)
    merged = {text: same[0] for same in spellings.values() for text in same}
    notes = []
    changes = [
        f"{', '.join(f'{cells_text(text)} ({counts[text]})' for text in same[1:])} as "
        f"{cells_text(same[0])} ({counts[same[0]]})"
        for same in spellings.values()
        if len(same) > 1
    ]
    if changes:
        notes.append(Note("category", f"{name}: {'; '.join(changes[:6])}{_more(changes, 6)}"))
    # "+" and "-" are test results
    signs = [text for text in counts if keys[text] in _SIGNS and len(counts) > 1]
    signs = [text for text in signs if not (set(text) == {"-"} and any(set(other) == {"+"} for other in counts))]
    if signs:
        listed = ", ".join(f"{cells_text(text)} ({counts[text]})" for text in signs)
        notes.append(Note("kept", f"{name}: {listed}", tuple(signs)))
    return [None if text is None else merged[text] for text in texts], notes


def _key(name: str, text: str) -> str:
    """Return a key that all spellings of a category share, regardless of case, space and the form of accents."""
    plain = " ".join(unicodedata.normalize("NFC", text).split()).casefold()
    return _SEXES.get(plain, plain) if is_sex(name) else plain


def _is_file(text: str) -> bool:
    return text.casefold().endswith((*VOLUME_SUFFIXES, ".npy"))


# ---- missing values ----


def _without(texts: Iterable[str | None], absent: set[str]) -> tuple[list[str | None], Counter[str]]:
    """Return texts without those that mean missing, and the count of each of these."""
    listed = list(texts)
    found = Counter(text for text in listed if text is not None and text.casefold() in absent)
    return [None if text in found else text for text in listed], found


def _missing_note(name: str, found: Counter[str]) -> list[Note]:
    listed = ", ".join(f"{cells_text(text)} ({count})" for text, count in found.most_common(4))
    return [Note("missing", f"{name}: {listed}{_more(found, 4)}")] if found else []


def cells_text(text: str | None, width: int = 40) -> str:
    """Return a cell's text in quotes, shortened if it is long."""
    shown = repr(text)
    return shown if len(shown) <= width else f"{shown[: width - 4]}...{shown[-1]}"


def _more(listed: Sequence[Any] | Counter[str], shown: int) -> str:
    return f" and {len(listed) - shown} more" if len(listed) > shown else ""


def percent(share: float) -> str:
    """Return a share as a percentage for a message."""
    return f"{math.floor(100 * share)} %"  # rounded down, since 99.6 % is not all
