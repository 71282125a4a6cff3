"""Self-contained HTML reports: text, tables, pictures, a viewer; nothing is fetched, and all text is escaped."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from ..._checks import check_choice
from ..._texts import make_visible
from ...saving.atomic_files import atomic_path

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc; }
p { max-width: 46rem; } .lead { color: #555; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .8rem .22rem 0; text-align: left; border-bottom: 1px solid #e5e5e5; vertical-align: top; }
th { font-weight: 600; border-bottom: 2px solid #999; } td.number, th.number { text-align: right; }
caption { caption-side: top; text-align: left; font-weight: 600; padding-bottom: .2rem; }
td, p, div { overflow-wrap: anywhere; }
figure { margin: 1rem 0; overflow-x: auto; } img { max-width: 100%; height: auto; }
figcaption { color: #555; max-width: 46rem; font-size: .9rem; }
.warning, .good, .plain { padding: .5rem .9rem; margin: .6rem 0; max-width: 45rem; }
.warning { border-left: 4px solid #d95f02; background: #fdf3ea; }
.good { border-left: 4px solid #2ca02c; background: #eff8ef; }
.plain { border-left: 4px solid #1f77b4; background: #eef4fa; }
nav { font-size: .92rem; } nav a { margin-right: .9rem; white-space: nowrap; color: #1f5f9f; }
@media print { body { margin: 0; max-width: none; } h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""


class Report:
    """A page to which sections, texts, tables and pictures are added in order.

    Args:
        title: title of the page.
        lead: line below the title.

    Example:
        >>> report = Report("Scores", "of <nobody>")
        >>> report.section("Errors")
        >>> report.table(["subject", "error"], [["sub-1", 0.123456]])
        >>> page = report.page()
        >>> "of &lt;nobody&gt;" in page, "0.123" in page
        (True, True)
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self.title = title
        self.lead = lead
        self._parts: list[str] = []
        self._sections: list[str] = []
        self._scripts: list[str] = []

    def section(self, heading: str) -> None:
        """Start a section."""
        self._sections.append(heading)
        self._parts.append(f'<h2 id="section-{len(self._sections)}">{_escaped(heading)}</h2>')

    def text(self, paragraph: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{_escaped(paragraph)}</p>")

    def note(self, message: str, kind: str = "warning") -> None:
        """Add a message in a box.

        Args:
            message: the message.
            kind: "warning", "good" or "plain".
        """
        check_choice("kind", kind, ("warning", "good", "plain"))
        sign = "⚠ " if kind == "warning" else ""
        self._parts.append(f'<div class="{kind}">{sign}{_escaped(message)}</div>')

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> None:
        """Add a table with three significant digits for numbers and a dash for missing values.

        Args:
            columns: headings of the columns.
            rows: cells of each row, as many as columns.
            caption: caption above the table.
        """
        cells = [list(row) for row in rows]
        numeric = [
            all(row[i] is None or isinstance(row[i], int | float) for row in cells) and bool(cells)
            for i in range(len(columns))
        ]
        kinds = [' class="number"' if each else "" for each in numeric]
        head = "".join(f"<th{kind}>{_escaped(name)}</th>" for name, kind in zip(columns, kinds, strict=True))
        body = "".join(
            "<tr>" + "".join(f"<td{kind}>{_cell(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
            for row in cells
        )
        above = f"<caption>{_escaped(caption)}</caption>" if caption else ""
        self._parts.append(f"<table>{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def facts(self, pairs: Mapping[str, Any]) -> None:
        """Add a table of names and values without a header."""
        rows = "".join(f"<tr><th>{_escaped(name)}</th><td>{_cell(value)}</td></tr>" for name, value in pairs.items())
        self._parts.append(f"<table><tbody>{rows}</tbody></table>")

    def figure(self, picture: Figure | bytes, caption: str) -> None:
        """Add a picture.

        Args:
            picture: a figure, or the bytes of a GIF.
            caption: caption below the picture, also its text for screen readers.
        """
        kind, data = ("gif", picture) if isinstance(picture, bytes) else ("png", _png(picture))
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
        text = _escaped(caption)
        self._parts.append(f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>')

    def widget(self, markup: str, style: str, script: str, data: Mapping[str, Any]) -> None:
        """Add something that a script moves; it is the only script that the page lets a browser run.

        Args:
            markup: HTML, trusted: it must not hold texts from outside, which are for ``data``.
            style: its style sheet, trusted.
            script: its script, trusted. It reads the JSON in the element ``viewer-data``, must set its texts as text
                and not as HTML, and must not hold the end of a script's tag.
            data: what JSON can hold, texts from outside included.

        Raises:
            ValueError: if ``script`` holds a tag that would end it.

        Example:
            >>> report = Report("Scores")
            >>> report.widget("<p id='here'></p>", "p { color: #222; }", "start();", {"name": "</script><b>"})
            >>> "<b>" in report.page(), "script-src 'sha256-" in report.page()
            (False, True)
        """
        if "</script" in script.casefold() or "<!--" in script:
            raise ValueError("`script` must not hold a tag that ends it or begins a comment of HTML.")
        code = f'\n"use strict";\n(() => {{\n{script}\n}})();\n'
        told = json.dumps(data, allow_nan=False, separators=(",", ":"))
        for sign in "<>&":
            told = told.replace(sign, f"\\u{ord(sign):04x}")
        self._scripts.append(code)
        self._parts.append(
            f'<style>{style}</style>{markup}<script type="application/json" id="viewer-data">{told}</script>'
            f"<script>{code}</script>"
        )

    def page(self) -> str:
        """Return the page as HTML."""
        links = "".join(
            f'<a href="#section-{number}">{_escaped(heading)}</a> '
            for number, heading in enumerate(self._sections, start=1)
        )
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            # nothing is fetched and no script runs but a widget's own, whatever a cell of a table contains
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
            f"style-src 'unsafe-inline'{self._script_policy()}\">"
            f"<title>{_escaped(self.title)}</title><style>{_STYLE}</style></head><body>"
            f'<h1>{_escaped(self.title)}</h1><p class="lead">{_escaped(self.lead)}</p><nav>{links}</nav>\n'
            + "\n".join(self._parts)
            + "\n</body></html>\n"
        )

    def _script_policy(self) -> str:
        hashes = (base64.b64encode(hashlib.sha256(code.encode()).digest()).decode("ascii") for code in self._scripts)
        allowed = " ".join(f"'sha256-{each}'" for each in hashes)
        return f"; script-src {allowed}" if allowed else ""

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page atomically."""
        with atomic_path(path) as temporary:
            temporary.write_text(self.page(), encoding="utf-8")


def number_text(value: float | int | None, digits: int = 3) -> str:
    """Return a number with a few significant digits, or a dash for ``None`` and numbers that aren't finite.

    Example:
        >>> number_text(0.00123456), number_text(1234.5), number_text(12), number_text(float("nan"))
        ('0.00123', '1234', '12', '–')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, int) or float(value).is_integer():
        return f"{value:.0f}"
    magnitude = math.floor(math.log10(abs(value)))
    if -4 <= magnitude < 6:
        return f"{value:.{max(digits - 1 - magnitude, 0)}f}"
    return f"{value:.{digits}g}"


def interval_text(value: float, low: float, high: float, digits: int = 3) -> str:
    """Return a score with its interval as text.

    Example:
        >>> interval_text(0.5, 0.4, 0.613)
        '0.500 [0.400, 0.613]'
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return number_text(value, digits)
    return f"{number_text(value, digits)} [{number_text(low, digits)}, {number_text(high, digits)}]"


def _escaped(text: Any) -> str:
    """Escape a text, so that it contains no tags and doesn't change the direction of the surrounding text."""
    return html.escape(make_visible(text))


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return number_text(value)
    return _escaped(value)


def _png(figure: Figure, dpi: int = 100) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
    return stream.getvalue()
