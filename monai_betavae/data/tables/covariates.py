"""The kind of a covariate (quantity or category), judged by its name and values, and the order of covariates."""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from monai_betavae._checks import is_missing

MAX_CATEGORIES = 10
"""Whole numbers with more distinct values are a quantity, unless the covariate's name says that they are categories."""


def _vocabulary(words: str) -> frozenset[str]:
    return frozenset(words.split())


_CATEGORIES = _vocabulary(
    """site scanner center centre hospital institution clinic station machine device manufacturer manufacturers vendor
    model coil country city language operator rater technician group grp arm treatment condition cohort study
    protocol batch diagnosis diag dx subtype status sex gender race ethnicity ethnic hand handedness smoker smoking
    genotype allele apoe class category"""
)
_SEXES = _vocabulary("sex gender")
_GENES = _vocabulary("genotype allele alleles apoe snp haplotype")
# endings that say how a value is written or when it was recorded: "site_id", "dx_bl"
_SUFFIXES = _vocabulary(
    """id ids number num nr no nb code coded name label key index idx value type cat category class bin binary numeric
    bl baseline screening followup fu visit v t session"""
)
_UNITS = _vocabulary("year years yrs yr y months days")
_COUNTS = _vocabulary("n num number count nr total")
_IDENTIFIERS = _vocabulary("id ids rid guid mrn identifier")
_PREPOSITIONS = _vocabulary("at in of since to from for by per until till before after on between with")


def kind_of_covariate(name: str, values: Iterable[Any]) -> Literal["quantity", "category"]:
    """Return whether a covariate is a quantity, whose differences are meaningful, or a category, whose aren't.

    Texts and booleans are categories. Whole numbers are

    - categories if the name says so: its head, the last word before an "of" or "at" and without endings such as
      ``_id`` or ``_number``, is a word such as site, scanner, group, diagnosis, sex, handedness or batch (``site_id``,
      ``scanner_number``, ``acqSite``, ``age_group``; but not ``n_sites`` or ``age_at_diagnosis``);
    - a quantity if the head is age;
    - otherwise categories if there are at most 10 distinct values.

    Other numbers are a quantity.

    Args:
        name: name of the column.
        values: values of the subjects; missing ones (``None``, NaN) don't count.

    Returns:
        "quantity" or "category".

    Example:
        >>> numbers = list(range(1, 31))
        >>> [kind_of_covariate(name, numbers) for name in ("site_id", "n_sites", "age")]
        ['category', 'quantity', 'quantity']
        >>> kind_of_covariate("score", [0, 1, 1, 2, None]), kind_of_covariate("site", [1.5, 3.0])
        ('category', 'quantity')
    """
    present = [value for value in values if not is_missing(value)]
    if not all(map(is_number, present)):
        return "category"
    if not all(value == value // 1 for value in present):
        return "quantity"
    if is_named_category(name):
        return "category"
    few = len(set(present)) <= MAX_CATEGORIES
    return "category" if few and head_of(name) != "age" else "quantity"


def is_named_category(name: str) -> bool:
    """Return whether a column's name says that its numbers are categories, as ``site_id`` does."""
    return head_of(name) in _CATEGORIES


def is_sex(name: str) -> bool:
    """Return whether a column's name denotes sex or gender."""
    return head_of(name) in _SEXES


def is_genotype(name: str) -> bool:
    """Return whether a column's name denotes a genotype, in which ``A`` and ``a`` are two alleles."""
    return not _GENES.isdisjoint(_words(name))


def is_identifier(name: str) -> bool:
    """Return whether a column's name says that it identifies subjects or scans, as ``RID`` or ``participant_id``."""
    words = _words(name)
    return bool(words) and words[-1] in _IDENTIFIERS and not is_named_category(name)


def is_number(value: Any) -> bool:
    """Return whether a value is a number; True and False aren't."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def head_of(name: str) -> str:
    """Return the word of a column's name that says what its values are, in lower case, or "" without one.

    Example:
        >>> [head_of(name) for name in ("Site_ID", "acqSite2", "age_at_diagnosis", "n_sites", "Sex (M/F)")]
        ['site', 'site', 'age', 'sites', 'sex']
    """
    words = _words(re.sub(r"\(.*?\)|\[.*?\]", " ", name))
    end = next((i for i, word in enumerate(words) if i > 0 and word in _PREPOSITIONS), len(words))
    words = words[:end]
    if len(words) > 1 and words[0] in _COUNTS and words[-1] not in _SUFFIXES:
        return "" if words[-1] in _CATEGORIES else words[-1]  # "n_site" is a count
    # "age_years" is an age, "study_years" a number of years
    while len(words) > 1 and (words[-1] in _SUFFIXES or (words[-1] in _UNITS and words[-2] == "age")):
        words.pop()
    return words[-1] if words else ""


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case, without digits; ``acqSite2_ID`` has "acq", "site" and "id"."""
    pieces = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[^\W\d_]+", name)
    words = [piece.casefold() for piece in pieces]
    # "siteid", "SEXID"
    glued = {word: [word[:-2], "id"] for word in words if word.endswith("id") and word[:-2] in _CATEGORIES}
    return [part for word in words for part in glued.get(word, [word])]


def ordered_covariates(names: Iterable[str], named: Sequence[str] = ()) -> list[str]:
    """Sort covariates by interest: the named ones, age, sex (gender), and the rest in the order of the table.

    Args:
        names: names of the columns, in the order of the table.
        named: covariates that the user asked for, in that order; names that aren't in ``names`` are ignored.

    Returns:
        every name once.

    Example:
        >>> ordered_covariates(["site", "Sex", "iq", "Age_years"], named=["iq"])
        ['iq', 'Age_years', 'Sex', 'site']
    """
    there = list(dict.fromkeys(names))
    asked = [name for name in dict.fromkeys(named) if name in there]

    def rank(name: str) -> int:
        plain, head = name.casefold(), head_of(name)
        return 0 if plain == "age" else 1 if head == "age" else 2 if plain in _SEXES else 3 if head in _SEXES else 4

    return [*asked, *sorted((name for name in there if name not in asked), key=rank)]
