"""One column of a table: from text to numbers or categories, with a note of all that isn't read as it stands."""

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

# What BIDS ("n/a"), pandas (""), R ("NA"), numpy ("nan") and Excel ("#N/A") write. "none" is left out:
# it is a category in columns such as medication.
MISSING = {"", "n/a", "na", "nan", "#n/a"}
# What only software writes, and no category is called: Excel's errors, pandas' NA and NaT.
_MARKERS = {"#value!", "#div/0!", "#ref!", "#name?", "#num!", "#null!", "<na>", "nat"}
# What hardly any category is called, and what some are; between numbers both mean missing.
_SIGNS = {"-", "--", "\N{EN DASH}", "\N{EM DASH}", ".", "?", "null", "missing", "not available", "n.a."}
_WORDS = {"unknown", "unk", "none", "nil", "not known", "not applicable"}
_NO_NUMBERS = _MARKERS | _SIGNS | _WORDS

# A leading zero ("007") or more than 18 digits is an identifier: a number would not give it back.
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
"""Share of a column's cells from which it counts as numbers with mistakes in it."""

# Codes for missing of SPSS, Stata and of most questionnaires; no measurement is likely to be exactly that
_CODES = {-7, -8, -9, -77, -88, -99, -777, -888, -999, -9999, -99999, 777, 888, 999, 9999, 99999}
# two digits are plausible as an outlier: only several of the same are a code
_SHORT_CODES = {77, 88, 99}
# ADNI's codes, which a difference of two scores can be as well: never taken as missing without being told
_SMALL_CODES = {-1, -4}
_ENOUGH, _MIN_COUNT = 10, 3  # others, to tell what is far from them; and to say anything at all

_YES_NO = ({"y": "yes", "yes": "yes", "n": "no", "no": "no"}, {"t": "t", "true": "t", "f": "f", "false": "f"})
_SEXES = {**dict.fromkeys(("m", "male", "man"), "m"), **dict.fromkeys(("f", "female", "woman"), "f")}

NoteKind = Literal["code", "text", "doubtful", "missing", "notation", "category", "kept"]


class Note(NamedTuple):
    """One thing that a column is not read as it stands in, or could be read otherwise.

    Attributes:
        kind: which thing.
        entry: the column, and what of it.
        texts: what may mean missing, as ``missing_values`` would name it.
    """

    kind: NoteKind
    entry: str
    texts: tuple[str, ...] = ()


class MissingValues:
    """The texts and numbers that somebody said mean missing.

    Args:
        values: texts, or numbers; or one of them alone.

    Attributes:
        texts: they as text.

    Raises:
        ValueError: naming ``missing_values``.

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
        name: of the column, which says whether it is one of sexes, of sites, ...
        cells: its text.
        places: where each cell stands.
        missing_values: what means missing besides what always does; ``None`` to guess codes such as -9.

    Returns:
        the values, ``None`` where they are missing, and the notes.

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
    """Return which share of values, of any type, are numbers or text of numbers, written alike; 0 if there are none.

    Example:
        >>> number_share(["31", "40.5", "34y", "?"])
        0.5
    """
    listed = [str(cell).strip() for cell in cells]
    parsed = {row: number for row, cell in enumerate(listed) if (number := _parsed(cell)) is not None}
    return len(_written_alike(parsed)) / len(listed) if parsed and not _is_padded(listed) else 0.0


# ---- numbers ----


class _Number(NamedTuple):
    """A cell that is a number: its text with a point, and how it was written."""

    text: str
    comma: bool
    point: bool
    minus: bool  # the typographic one
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
    """Return texts that are all plain numbers as such; ``None`` if one isn't."""
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
    """Return a column as numbers, or ``None`` with a note if it is text though most of it are numbers."""
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
        # once the others are named as missing, no code is guessed any more: whoever names them sees the codes as well
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
    """Return the numbers that are written as most are: 1,234 and 1.234 in one column can't both be decimals."""
    unit = Counter(number.unit for number in parsed.values()).most_common(1)[0][0]
    commas = sum(number.comma for number in parsed.values())
    points = sum(number.point for number in parsed.values())
    return {
        row: number
        for row, number in parsed.items()
        if number.unit == unit and not (number.point if commas > points else number.comma)
    }


def _is_padded(texts: Iterable[str | None]) -> bool:
    """Whether texts are identifiers of digits, filled up with zeros to one length: 001, 002, ..., 120."""
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
    """Return numbers without those that are codes for missing: far from all the others, and usual as such.

    A code is far if it is negative while all the others are not, or over twice as large as the largest of at least
    ten others. What may be one but is less clear stays, with a note.
    """
    present = [value for value in values if value is not None]
    counts = Counter(present)
    if not any(code in counts for code in (*_CODES, *_SHORT_CODES, *_SMALL_CODES)):
        return values, []
    measured = [value for value in present if value not in _CODES]
    clear = [value for value in measured if value not in _SHORT_CODES]
    usual = [value for value in clear if value not in _SMALL_CODES]
    # site 99 is a site among 30; but 99 beside 1 and 2 is none
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
    """Return categories without the negative codes for missing among them, where none of the others is a number."""
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
    """Return a column of text with one spelling for each category; ``marked`` counts what means missing."""
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
    # where nearly every cell is another, they are names, notes or paths
    named = len(counts) == n_present or n_keys > max(2, n_present / 2)
    if (named and not is_sex(name)) or is_genotype(name) or any(_is_file(text) for text in counts):
        return texts, []
    spellings: dict[str, list[str]] = {}
    for text, _ in counts.most_common():  # equal counts: as they came
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
    # "+" and "-" are the results of a test
    signs = [text for text in counts if keys[text] in _SIGNS and len(counts) > 1]
    signs = [text for text in signs if not (set(text) == {"-"} and any(set(other) == {"+"} for other in counts))]
    if signs:
        listed = ", ".join(f"{cells_text(text)} ({counts[text]})" for text in signs)
        notes.append(Note("kept", f"{name}: {listed}", tuple(signs)))
    return [None if text is None else merged[text] for text in texts], notes


def _key(name: str, text: str) -> str:
    """Return what two spellings of one category have in common: all but case, space and the form of accents."""
    plain = " ".join(unicodedata.normalize("NFC", text).split()).casefold()
    return _SEXES.get(plain, plain) if is_sex(name) else plain


def _is_file(text: str) -> bool:
    return text.casefold().endswith((*VOLUME_SUFFIXES, ".npy"))


# ---- what stands for nothing ----


def _without(texts: Iterable[str | None], absent: set[str]) -> tuple[list[str | None], Counter[str]]:
    """Return texts without those that mean missing, and how often each of these was there."""
    listed = list(texts)
    found = Counter(text for text in listed if text is not None and text.casefold() in absent)
    return [None if text in found else text for text in listed], found


def _missing_note(name: str, found: Counter[str]) -> list[Note]:
    listed = ", ".join(f"{cells_text(text)} ({count})" for text, count in found.most_common(4))
    return [Note("missing", f"{name}: {listed}{_more(found, 4)}")] if found else []


def cells_text(text: str | None, width: int = 40) -> str:
    """Return a cell's text in quotes, cut where it is long."""
    shown = repr(text)
    return shown if len(shown) <= width else f"{shown[: width - 4]}...{shown[-1]}"


def _more(listed: Sequence[Any] | Counter[str], shown: int) -> str:
    return f" and {len(listed) - shown} more" if len(listed) > shown else ""


def percent(share: float) -> str:
    """Return a share for a message."""
    return f"{math.floor(100 * share)} %"  # 99.6 % are not all
