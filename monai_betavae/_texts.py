"""Texts from outside, such as names of subjects and covariates: made harmless to show, and to name files by."""

from __future__ import annotations

import unicodedata
from typing import Any

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories without a sign of their own: controls, formats (right-to-left overrides), halves of characters."""

JOINERS = "\u200c\u200d"
"""Formats that words of some languages are written with."""

FORBIDDEN = '<>:"/\\|?*'
"""Characters that some system doesn't take in a file's name."""

PORTS = {f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789¹²³"}

DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", *PORTS}
"""Names that Windows keeps for devices, whatever follows after a dot."""

MAX_STEM_LENGTH = 180
"""Bytes of a stem: 255 are a file's name on most systems, and endings and temporary names need some."""


def make_visible(value: Any) -> str:
    r"""Return a text with what has no sign of its own written out, so that it changes nothing around it.

    Line breaks and tabs stay.

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
    r"""Return a name as a picture can show it: plain text, not too long, no formula.

    matplotlib takes what is between two dollar signs for a formula, and fails where it is none; leaves labels that
    begin with an underscore out of legends; and makes a picture as large as its text.

    Args:
        value: the name; line breaks stay.
        width: characters per line, beyond which it is cut.
        n_lines: lines, beyond which it is cut.

    Example:
        >>> figure_label("$\\frac{$"), figure_label("_private"), figure_label("a" * 60, width=5)
        ('\\$\\frac{\\$', ' _private', 'aaaa…')
    """
    lines = make_visible(value).replace("\t", " ").split("\n")
    lines = [*lines[: n_lines - 1], "…"] if len(lines) > n_lines else lines
    text = "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in lines)
    return (" " + text if text.startswith("_") else text).replace("$", r"\$")


def file_stem(name: str, longest: int = MAX_STEM_LENGTH) -> str:
    r"""Return a name as every system takes it for a file's, before an ending; it holds no folder.

    Args:
        name: the name.
        longest: bytes, beyond which it is cut.

    Example:
        >>> file_stem("../../evil"), file_stem("C:\\evil"), file_stem("con.x"), file_stem("sub 1 (new)")
        ('.._.._evil', 'C__evil', '_con.x', 'sub 1 (new)')
    """
    signs = (
        "_" if character in FORBIDDEN or unicodedata.category(character) in HIDDEN else character for character in name
    )
    stem = "".join(signs).encode()[:longest].decode(errors="ignore")
    return f"_{stem}" if stem.partition(".")[0].strip().upper() in DEVICES else stem
