"""The coding of subjects' covariates: age, sex, site, ... as a row of numbers, for a model that is told them."""

from __future__ import annotations

import difflib
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..._checks import check_choice, is_missing
from .covariate_codes import CategoryCode, QuantityCode, checked_keys
from .covariate_values import (
    MAX_VALUES,
    Record,
    check_several,
    check_shared,
    checked_records,
    counted_text,
    judged_kind,
    level_of,
    levels_of,
    listed_text,
    numbers_of,
    value_of,
)
from .covariates import is_number

Unseen = Mapping[str, Mapping[Any, Any]]

KINDS = ("quantity", "category")


@dataclass(frozen=True)
class CovariateCoding:
    r"""The coding of subjects' covariates as rows of numbers, measured on the training records by :meth:`fit`.

    A **quantity** :math:`x`, such as age, has two columns. Its natural (restricted) cubic spline has knots
    :math:`t_1 < t_2 < t_3` at the 10th, 50th and 90th percentile of the training values. With their mean :math:`m` and
    standard deviation :math:`s` (with :math:`n` in the denominator), and with :math:`(u)_+ = \max(u, 0)`, the columns
    are

    .. math::
        z = \frac{x - m}{s}, \qquad b = \frac{1}{c} (r(z) - \alpha - \beta z),

    .. math::
        r(z) = \frac{1}{(k_3 - k_1)^2} \left[ (z - k_1)_+^3 - \frac{k_3 - k_1}{k_3 - k_2} (z - k_2)_+^3
        + \frac{k_2 - k_1}{k_3 - k_2} (z - k_3)_+^3 \right], \qquad k_i = \frac{t_i - m}{s}.

    :math:`\alpha + \beta z` is the regression of :math:`r` on :math:`z` over the training values, and :math:`c` the
    standard deviation of what it leaves. Both columns therefore have mean 0 and standard deviation 1 and are
    uncorrelated, and both are linear in :math:`x` below :math:`t_1` and above :math:`t_3`. There is only :math:`z` if
    there are fewer than 10 distinct values, if knots (nearly) coincide, or if nothing of :math:`r` is left.

    A **category**, such as site, has a column for each level: 1 or 0, minus the level's share of the training records.
    The mean over the training records is 0, so zeros stand for the average subject. Levels are compared as texts: 1,
    1.0 and "1" are the same.

    **Missing** values (``None``, NaN, pandas' ``NA``, and the texts "", "n/a", "na", "nan", "#n/a") have zeros in the
    columns above. If values were missing in training, there is one more column: 1 or 0 for missing or not, minus the
    share of the training records without a value.

    Attributes:
        codes: the code of each covariate, in order.
        added: covariate and level of each column that :meth:`with_categories` added.

    Source:
        F. E. Harrell, "Regression Modeling Strategies", 2nd edition, Springer 2015, section 2.4.5; the percentiles are
        those of Harrell's ``rcspline.eval`` in the R package Hmisc for three knots.

    Example:
        >>> records = [{"age": 20 + i, "sex": "FM"[i % 2], "site": "AAB"[i % 3]} for i in range(60)]
        >>> coding = CovariateCoding.fit(records, ["age", "sex", "site"])
        >>> coding.columns
        ('age', 'age, bend', 'sex=F', 'sex=M', 'site=A', 'site=B')
        >>> coding.rows(records).shape, coding.slices()["sex"]
        ((60, 6), [2, 3])
        >>> coding.row_of({"age": 49.5, "sex": "M"}).astype(float).round(1).tolist()
        [0.0, -1.3, -0.5, 0.5, 0.0, 0.0]
        >>> CovariateCoding.from_description(coding.description()) == coding
        True
    """

    codes: tuple[QuantityCode | CategoryCode, ...]
    added: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        twice = [column for column, count in Counter(self.columns).items() if count > 1]
        if twice:
            raise ValueError(
                f"`names` must lead to different columns, got {twice[0]!r} twice from {list(self.names)!r}."
            )

    @classmethod
    def fit(
        cls, records: Iterable[Record], names: Sequence[str], *, kinds: Mapping[str, str] | None = None
    ) -> CovariateCoding:
        """Measure the coding on the training records.

        Args:
            records: the training records; each counts once. A record without a key has a missing value.
            names: the covariates, in the order of their columns.
            kinds: "quantity" or "category" for the covariates whose kind
                :func:`~monai_betavae.data.tables.covariates.kind_of_covariate` doesn't judge as you do.

        Returns:
            the coding.

        Raises:
            ValueError: if there are no records; if a name occurs twice or in no record; if a covariate has no values or
                a single one; if each level of a category belongs to one subject (``record["subject"]`` where all
                records have it, otherwise the record), as those of an identifier do; if a quantity has a value that
                isn't a finite number, or nearly all values are numbers and the rest texts.

        Example:
            >>> records = [{"score": i % 4, "sex": "FM"[i % 2]} for i in range(12)]
            >>> CovariateCoding.fit(records, ["score"]).columns
            ('score=0', 'score=1', 'score=2', 'score=3')
            >>> CovariateCoding.fit(records, ["score"], kinds={"score": "quantity"}).columns
            ('score',)
        """
        training = checked_records(records)
        if not training:
            raise ValueError("`records` must contain the training records, got none.")
        asked = _checked_names(names, training)
        given = _checked_kinds(kinds, asked)
        subjects = [record.get("subject") for record in training]
        if any(map(is_missing, subjects)):
            subjects = list(range(len(training)))
        codes: list[QuantityCode | CategoryCode] = []
        for name in asked:
            values = [value_of(record.get(name)) for record in training]
            kind = given.get(name) or judged_kind(name, values)
            if kind == "quantity":
                numbers = numbers_of(name, values)
                check_several(name, numbers)
                codes.append(QuantityCode.fit(name, numbers))
            else:
                levels = levels_of(name, values)
                check_several(name, levels)
                check_shared(name, levels, subjects, all(is_number(value) for value in values if value is not None))
                codes.append(CategoryCode.fit(name, levels))
        return cls(tuple(codes))

    @property
    def names(self) -> tuple[str, ...]:
        """The covariates, in order."""
        return tuple(code.name for code in self.codes)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns: "age", "age, bend", "age, missing", "sex=F", ..."""
        own = [column for code in self.codes for column in code.columns]
        return (*own, *(f"{name}={level}" for name, level in self.added))

    @property
    def n_columns(self) -> int:
        """Number of columns."""
        return len(self.columns)

    def slices(self) -> dict[str, list[int]]:
        """Return the columns of each covariate, as indices; those of added categories are at the end."""
        places: dict[str, list[int]] = {}
        start = 0
        for code in self.codes:
            places[code.name] = list(range(start, start + len(code.columns)))
            start += len(code.columns)
        for place, (name, _) in enumerate(self.added, start):
            places[name].append(place)
        return places

    def rows(self, records: Iterable[Record], *, unseen: Unseen | None = None) -> NDArray[np.float32]:
        """Code the covariates of records.

        Args:
            records: the records. A record without a key has a missing value.
            unseen: for a category's levels that training had none of, the known level that each is coded as, or
                ``None`` for the average: ``{"site": {"C": "A", "D": None}}``.

        Returns:
            float32 of shape (number of records, ``n_columns``).

        Raises:
            ValueError: if a category has a level that is neither known nor in ``unseen``, or a quantity a value that
                isn't a finite number.

        Warns:
            UserWarning: once, with counts, if values are missing, or if values of a quantity lie outside its training
                range by more than half of the range's width, where the coding continues as a line.

        Example:
            >>> coding = CovariateCoding.fit([{"site": site} for site in "AAAB"], ["site"])
            >>> coding.rows([{"site": "B"}, {"site": "C"}], unseen={"site": {"C": None}}).tolist()
            [[-0.75, 0.75], [0.0, 0.0]]
        """
        coded = self._coded(checked_records(records), unseen)
        notes = []
        if coded.missing:
            notes.append(f"Missing values are coded as those of the average subject: {'; '.join(coded.missing)}.")
        if coded.far:
            notes.append(_far_note(coded.far))
        if notes:
            warnings.warn(" ".join(notes), stacklevel=2)
        return coded.rows

    def row_of(self, values: Mapping[str, Any], *, unseen: Unseen | None = None) -> NDArray[np.float32]:
        """Code one subject of whom only some covariates are given; the others are those of the average subject.

        Args:
            values: the covariates that are given; one given as ``None`` is coded as missing.
            unseen: as in :meth:`rows`.

        Returns:
            float32 of shape (``n_columns``,).

        Raises:
            ValueError: if ``values`` has a name that isn't in ``names``, or as in :meth:`rows`.

        Warns:
            UserWarning: if a quantity lies far outside its training range, as in :meth:`rows`.

        Example:
            >>> records = [{"age": 60 + 5 * (i % 3), "sex": "FM"[i % 2]} for i in range(12)]
            >>> CovariateCoding.fit(records, ["age", "sex"]).row_of({"age": 65}).tolist()
            [0.0, 0.0, 0.0]
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"`values` must be a mapping from covariates to values, got {values!r:.200}.")
        for name in values:
            check_choice("values", name, self.names)
        coded = self._coded([values], unseen)
        row: NDArray[np.float32] = coded.rows[0]
        for name, places in self.slices().items():
            if name not in values:
                row[places] = 0.0
        if coded.far:
            warnings.warn(_far_note(coded.far), stacklevel=2)
        return row

    def with_categories(self, name: str, values: Iterable[Any]) -> CovariateCoding:
        """Return a coding that knows further levels of a category, such as a new site.

        All existing columns keep their place and their values. Each new level has one more column at the end: 1 or 0,
        since its share of the training records is 0.

        Args:
            name: the category.
            values: its new levels; known ones are left as they are.

        Returns:
            the longer coding, with the new columns in the order of the levels' texts.

        Raises:
            ValueError: if ``name`` isn't a category of this coding, or a value can't be a level.

        Example:
            >>> coding = CovariateCoding.fit([{"site": site} for site in "AAAB"], ["site"])
            >>> longer = coding.with_categories("site", ["C"])
            >>> longer.columns, longer.row_of({"site": "C"}).tolist()
            (('site=A', 'site=B', 'site=C'), [-0.75, -0.25, 1.0])
        """
        known = self._levels_of(check_choice("name", name, self._categories()))
        levels = set()
        for value in [values] if isinstance(values, str) or not isinstance(values, Iterable) else values:
            level = level_of(value)
            if level is None:
                raise ValueError(
                    f"`values` must be texts, numbers or booleans that aren't missing, got {value!r:.200}."
                )
            levels.add(level)
        new = [(name, level) for level in sorted(levels) if level not in known]
        return replace(self, added=(*self.added, *new))

    def with_levels_of(self, records: Iterable[Record]) -> CovariateCoding:
        """Return a coding that also knows the levels of categories in records; see :meth:`with_categories`.

        Args:
            records: the records; missing values add nothing.

        Example:
            >>> coding = CovariateCoding.fit([{"site": site} for site in "AAAB"], ["site"])
            >>> coding.with_levels_of([{"site": "C"}, {"site": "A"}, {"site": None}]).columns
            ('site=A', 'site=B', 'site=C')
        """
        checked, longer = checked_records(records), self
        for name in self._categories():
            levels = {level_of(value_of(record.get(name))) for record in checked}
            longer = longer.with_categories(name, sorted(level for level in levels if level is not None))
        return longer

    def description(self) -> dict[str, Any]:
        """Return the coding as plain values, which :meth:`from_description` turns into an equal one.

        Returns:
            ``{"covariates": [...], "added": [[name, level], ...]}``, made of JSON values only. Each covariate has a
            "name", a "kind" and "missing", the share of the training records without a value. A quantity has "mean",
            "sd", "range" and "bend", which is null or has "knots" in the quantity's unit, "intercept", "slope" and
            "scale", the alpha, beta and c of the formula. A category has "levels" and "shares".
        """
        return {
            "covariates": [code.description() for code in self.codes],
            "added": [[name, level] for name, level in self.added],
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> CovariateCoding:
        """Return the coding of a description. Nothing in it is executed.

        Args:
            description: what :meth:`description` returned, also after a way through JSON.

        Raises:
            ValueError: if ``description`` isn't as :meth:`description` makes it; the message names the entry.
        """
        checked_keys("description", description, ("covariates", "added"))
        entries, added = description["covariates"], description["added"]
        if not isinstance(entries, list | tuple) or not entries:
            raise ValueError(f"`description: covariates` must be a list with an entry or more, got {entries!r:.200}.")
        codes: list[QuantityCode | CategoryCode] = []
        for entry in entries:
            if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
                raise ValueError(f"`description: covariates` must each have a name, got {entry!r:.200}.")
            kind = check_choice(f"description: kind of {entry['name']!r}", entry.get("kind"), KINDS)
            codes.append((QuantityCode if kind == "quantity" else CategoryCode).from_description(entry))
        names = [code.name for code in codes]
        if len(set(names)) < len(names):
            raise ValueError(f"`description: covariates` must have different names, got {names!r:.200}.")
        coding = cls(tuple(codes))
        if not isinstance(added, list | tuple):
            raise ValueError(f"`description: added` must be a list of names with levels, got {added!r:.200}.")
        for pair in added:
            if (
                not isinstance(pair, list | tuple)
                or len(pair) != 2
                or not all(isinstance(text, str) for text in pair)
                or pair[0] not in coding._categories()
                or pair[1] in coding._levels_of(pair[0])
            ):
                raise ValueError(
                    f"`description: added` must be pairs of a category and a new level, got {pair!r:.200}."
                )
            coding = replace(coding, added=(*coding.added, (pair[0], pair[1])))
        return coding

    def _coded(self, records: Sequence[Record], unseen: Unseen | None) -> _Coded:
        stand_ins = self._checked_unseen(unseen)
        blocks, missing, far = [], [], []
        settled: dict[str, list[str | None]] = {}
        for code in self.codes:
            values = [value_of(record.get(code.name)) for record in records]
            n_missing = sum(value is None for value in values)
            if n_missing:
                nowhere = "" if any(code.name in record for record in records) else ", which have no such column"
                missing.append(f"{code.name!r} in {n_missing} of {len(records)} records{nowhere}")
            if isinstance(code, QuantityCode):
                numbers = numbers_of(code.name, values)
                blocks.append(code.coded(numbers))
                n_far = code.n_far(numbers)
                if n_far:
                    low, high = code.range
                    far.append(f"{code.name!r} in {n_far} of {len(records)} records, trained from {low:g} to {high:g}")
            else:
                levels, average = self._known(code, levels_of(code.name, values), stand_ins.get(code.name, {}))
                block = code.coded(levels)
                block[average] = 0.0
                blocks.append(block)
                settled[code.name] = levels
        for name, level in self.added:
            blocks.append(np.array([[value == level] for value in settled[name]], dtype=float).reshape(-1, 1))
        with np.errstate(over="ignore"):
            rows = np.concatenate(blocks, axis=1).astype(np.float32)
        overflown = ~np.isfinite(rows)
        if overflown.any():
            place = int(overflown.any(axis=0).argmax())
            name = next(name for name, places in self.slices().items() if place in places)
            value = records[int(overflown[:, place].argmax())].get(name)
            raise ValueError(f"`records` must have a {name!r} whose code float32 can hold, got {value!r:.100}.")
        return _Coded(rows, missing, far)

    def _known(
        self, code: CategoryCode, levels: Sequence[str | None], stand_ins: Mapping[str, str | None]
    ) -> tuple[list[str | None], list[bool]]:
        """Return known levels, and which records are coded as the average although they have a level."""
        known = set(self._levels_of(code.name))
        strange = Counter(
            level for level in levels if level is not None and level not in known and level not in stand_ins
        )
        if strange:
            shown = list(strange)[:MAX_VALUES]
            more = ", ..." if len(strange) > MAX_VALUES else ""
            as_known = ", ".join(f"{level!r}: {code.levels[0]!r}" for level in shown) + more
            as_average = ", ".join(f"{level!r}: None" for level in shown) + more
            counts = Counter({repr(level): count for level, count in strange.items()})
            raise ValueError(
                f"`records` must have known values of {code.name!r}, {listed_text(self._levels_of(code.name))}, got "
                f"{counted_text(counts)}. `unseen={{{code.name!r}: {{{as_known}}}}}` codes them as "
                f"{code.levels[0]!r}, `unseen={{{code.name!r}: {{{as_average}}}}}` as the average."
            )
        settled = [stand_ins.get(level, level) if level is not None else None for level in levels]
        average = [level is not None and after is None for level, after in zip(levels, settled, strict=True)]
        return settled, average

    def _checked_unseen(self, unseen: Unseen | None) -> dict[str, dict[str, str | None]]:
        given = {} if unseen is None else unseen
        if not isinstance(given, Mapping) or not all(isinstance(entry, Mapping) for entry in given.values()):
            raise ValueError(
                "`unseen` must map categories to mappings from new to known levels, such as {'site': {'C': 'A'}}, got "
                f"{unseen!r:.200}."
            )
        checked: dict[str, dict[str, str | None]] = {}
        for name, entry in given.items():
            known = self._levels_of(check_choice("unseen", name, self._categories()))
            checked[name] = {}
            for value, stand_in in entry.items():
                level, standing_for = level_of(value), level_of(stand_in)
                if level is None or level in known:
                    raise ValueError(
                        f"`unseen` must map new levels of {name!r}, got {value!r}, known are {listed_text(known)}."
                    )
                if stand_in is not None and standing_for not in known:
                    raise ValueError(
                        f"`unseen` must map {value!r} to None or a known level of {name!r}, {listed_text(known)}, got "
                        f"{stand_in!r:.100}."
                    )
                checked[name][level] = standing_for
        return checked

    def _categories(self) -> list[str]:
        return [code.name for code in self.codes if isinstance(code, CategoryCode)]

    def _levels_of(self, name: str) -> list[str]:
        own = [
            level
            for code in self.codes
            if code.name == name and isinstance(code, CategoryCode)
            for level in code.levels
        ]
        return [*own, *(level for covariate, level in self.added if covariate == name)]


class _Coded(NamedTuple):
    """Rows, and what is to be said about them: values that are missing, and quantities far outside training."""

    rows: NDArray[np.float32]
    missing: list[str]
    far: list[str]


def _far_note(far: Sequence[str]) -> str:
    return f"Values far outside the training range are coded by a line: {'; '.join(far)}."


def _checked_names(names: Sequence[str], records: Sequence[Record]) -> list[str]:
    asked = [names] if isinstance(names, str) else list(names)
    if not asked or not all(isinstance(name, str) for name in asked):
        raise ValueError(f"`names` must be the names of one covariate or more, got {names!r:.200}.")
    twice = [name for name, count in Counter(asked).items() if count > 1]
    if twice:
        raise ValueError(f"`names` must name each covariate once, got {', '.join(map(repr, twice))} twice.")
    there = list(dict.fromkeys(str(key) for record in records for key in record))
    for name in asked:
        if name not in there:
            close = difflib.get_close_matches(name, there, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"`names` must be columns of `records`, {listed_text(there)}, got {name!r}.{hint}")
    return asked


def _checked_kinds(kinds: Mapping[str, str] | None, names: Sequence[str]) -> dict[str, str]:
    given = {} if kinds is None else kinds
    if not isinstance(given, Mapping):
        raise ValueError(f"`kinds` must map covariates to 'quantity' or 'category', got {kinds!r:.200}.")
    return {
        check_choice("kinds", name, names): check_choice(f"kinds[{name!r}]", kind, KINDS)
        for name, kind in given.items()
    }
