"""Functions that make outside text, such as subject and covariate names, safe to display and to use in file names."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of invisible characters: controls, formats (right-to-left overrides), surrogate halves."""

JOINERS = "\u200c\u200d"
"""Format characters that the spelling of some languages requires."""

FORBIDDEN = '<>:"/\\|?*'
"""Characters that at least one operating system forbids in file names."""

PORTS = {f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789¹²³"}

DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", *PORTS}
"""Names that Windows reserves for devices, with any extension."""

MAX_STEM_LENGTH = 180
"""Maximum bytes of a stem: most systems allow 255 per file name, and extensions and temporary names need some."""


def make_visible(value: Any) -> str:
    r"""Return a text with its invisible characters escaped, so that they can't affect the text around them.

    Line breaks and tabs are kept.

    Example:
        >>> make_visible("sub-1\u202egpj.exe"), make_visible("a\x00b"), make_visible("Zoë\n")
        ('sub-1\\u202egpj.exe', 'a\\x00b', 'Zoë\n')
    """
    return "".join(
        character
        if character in "\n\t" or character in JOINERS or unicodedata.category(character) not in HIDDEN
        else character.encode("unicode_escape").decode("ascii")
        for character in str(value)
    )


def figure_label(value: Any, width: int = 48, n_lines: int = 3) -> str:
    r"""Return a name in a form that a figure can show: plain text, not too long, without formulas.

    matplotlib parses text between two dollar signs as a formula and fails if it isn't one. It leaves labels that begin
    with an underscore out of legends, and it enlarges a figure to fit its text.

    Args:
        value: the name; line breaks are kept.
        width: maximum characters per line; longer lines are cut.
        n_lines: maximum number of lines; further lines are cut.

    Example:
        >>> figure_label("$\\frac{$"), figure_label("_private"), figure_label("a" * 60, width=5)
        ('\\$\\frac{\\$', ' _private', 'aaaa…')
    """
    lines = make_visible(value).replace("\t", " ").split("\n")
    lines = [*lines[: n_lines - 1], "…"] if len(lines) > n_lines else lines
    text = "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in lines)
    return (" " + text if text.startswith("_") else text).replace("$", r"\$")


MARKUP = re.compile(r"([!-/:-@\[-`{-~])")
"""Every ASCII punctuation character: Markdown takes any of them literally after a backslash (CommonMark 0.31, 2.4)."""

LITERAL = re.compile(r",|(?<=[A-Za-z0-9])[-_](?=[A-Za-z0-9])|(?<=[0-9])[.+](?=[A-Za-z0-9])")
"""Punctuation that is no markup where it stands, as in 2.13.0+cpu: a card is read as plain text, too."""


MARKDOWN_WIDTH = 60
"""Characters of the longest name that :func:`markdown_text` leaves whole."""


def markdown_text(value: Any, width: int = MARKDOWN_WIDTH) -> str:
    r"""Return a name in a form that Markdown and HTML show as it is: one line, no markup, no link, no table cell.

    Args:
        value: the name.
        width: maximum characters; a longer name is cut.

    Example:
        >>> print(markdown_text("<b>A|B</b>\n[x](http://y)"))
        \<b\>A\|B\<\/b\> \[x\]\(http\:\/\/y\)
        >>> print(markdown_text("beta-vae, torch 2.13.0+cpu, _x"))
        beta-vae, torch 2.13.0+cpu, \_x
    """
    text = " ".join(make_visible(value).split())
    text = text if len(text) <= width else text[: width - 1] + "…"
    literal = {found.start() for found in LITERAL.finditer(text)}
    return MARKUP.sub(lambda found: found[0] if found.start() in literal else f"\\{found[0]}", text)


def without_markup(text: str) -> str:
    r"""Return Markdown without the backslashes that make punctuation literal.

    Example:
        >>> print(without_markup(markdown_text("sub-01_T1w")))
        sub-01_T1w
    """
    return re.sub(r"\\" + MARKUP.pattern, r"\1", text)


def file_stem(name: str, longest: int = MAX_STEM_LENGTH) -> str:
    r"""Return a file name without extension, made from a name, that every system accepts and that contains no folder.

    Args:
        name: the name.
        longest: maximum number of bytes; a longer name is cut.

    Example:
        >>> file_stem("../../evil"), file_stem("C:\\evil"), file_stem("con.x"), file_stem("sub 1 (new)")
        ('.._.._evil', 'C__evil', '_con.x', 'sub 1 (new)')
    """
    signs = (
        "_" if character in FORBIDDEN or unicodedata.category(character) in HIDDEN else character for character in name
    )
    stem = "".join(signs).encode()[:longest].decode(errors="ignore")
    return f"_{stem}" if stem.partition(".")[0].strip().upper() in DEVICES else stem
