"""Docstrings that use reStructuredText, as the Markdown that the site is made of.

The docstrings name objects by roles (``:class:`~monai_betavae.VAE` ``), write formulas in ``.. math::`` blocks and
list modules in simple tables. This griffe extension turns roles into links, formulas into MathML, which browsers draw
without any script, and tables into Markdown's.
"""

from __future__ import annotations

import html
import re
from typing import Any

import griffe
from latex2mathml.converter import convert

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc|obj):`(~?)([^`]+)`")
INLINE_MATH = re.compile(r":math:`([^`]+)`")
DISPLAY_MATH = re.compile(
    r"^(?P<indent> *)\.\. math::[ ]*(?P<first>[^\n]*)\n(?P<more>(?:(?P=indent)[ ]+\S[^\n]*(?:\n|\Z)|[ ]*\n)*)",
    re.MULTILINE,
)
TABLE = re.compile(
    r"^(?P<indent> *)(?P<rule>=+(?:[ ]+=+)+)\n(?P<rows>(?:[^\n]+\n)+?)(?P<end>(?P=indent)(?P=rule)\n(?!(?P=indent)\S))",
    re.MULTILINE,
)
RULE = re.compile(r"[= ]+")
RETURNS = re.compile(r"^( *Returns:[ ]*\n +)(\S)", re.MULTILINE)
SINGULAR_EXAMPLE = re.compile(r"^( *)Example:[ ]*$", re.MULTILINE)


class RestDocstrings(griffe.Extension):
    """Rewrite all docstrings of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrite the docstrings of a package and of everything in it."""
        _rewrite(pkg)


def _rewrite(item: griffe.Object) -> None:
    if item.docstring is not None:
        item.docstring.value = markdown_of(item.docstring.value, item)
    if item.name.startswith("__sklearn"):  # for scikit-learn alone
        item.public = False
    for member in item.members.values():
        if not member.is_alias:
            _rewrite(member)  # type: ignore[arg-type]  # an alias is left out


def markdown_of(text: str, item: griffe.Object | None = None) -> str:
    """Return a docstring as Markdown.

    Args:
        text: the docstring.
        item: what it describes; names in roles are looked up from there.
    """
    text = DISPLAY_MATH.sub(_display_math, text + "\n").rstrip("\n")
    text = INLINE_MATH.sub(lambda found: _math(found[1], "inline"), text)
    text = TABLE.sub(_table, text + "\n\n").rstrip("\n")
    text = _typed_returns(text, item)
    # griffe knows the plural, and shows anything else as a note
    text = SINGULAR_EXAMPLE.sub(r"\1Examples:", text)
    return ROLE.sub(lambda found: _link(found[1] == "~", found[2], item), text)


def _typed_returns(text: str, item: griffe.Object | None) -> str:
    """Return a docstring whose "Returns:" begins with the type: else griffe takes what stands before a colon for it."""
    returns = getattr(item, "returns", None)
    if returns is None:
        return text
    return RETURNS.sub(lambda found: f"{found[1]}{returns}: {found[2]}", text)


def _math(tex: str, display: str) -> str:
    # a tilde alone isn't what \sim looks like
    return convert(tex, display=display).replace("&#x0007E;", "&#x0223C;")


def _display_math(found: re.Match[str]) -> str:
    tex = " ".join([found["first"], *found["more"].split()]).strip()
    lines = [_math(part.strip(), "block") for part in re.split(r"\\quad", tex) if part.strip()]
    indent = found["indent"]
    return "\n".join(f"{indent}<div>{line}</div>\n" for line in lines) + "\n"


def _table(found: re.Match[str]) -> str:
    """Return a simple table of two columns as Markdown's; a row without a first cell goes on with the row before."""
    indent, width = found["indent"], found["rule"].index(" ")
    rows: list[list[str]] = []
    head = ["Name", "Content"]
    for line in (line.removeprefix(indent) for line in found["rows"].splitlines()):
        if RULE.fullmatch(line):  # what stood above was the head
            head = rows.pop()
            continue
        first, second = line[:width].strip(), line[width:].strip()
        if line[width : width + 1].strip():  # a name that is longer than its column
            first, _, second = (part.strip() for part in line.partition("  "))
        if first or not rows:
            rows.append([first, second])
        else:
            rows[-1][1] += f" {second}"
    lines = [head, ["---", "---"], *rows]
    cells = ([cell.replace("|", "\\|") for cell in row] for row in lines)
    return "".join(f"{indent}| {first} | {second} |\n" for first, second in cells) + "\n"


def _link(short: bool, target: str, item: griffe.Object | None) -> str:
    """Return a reference to an object, which stays code where the site doesn't show that object."""
    relative = target.startswith(".")
    name = target.lstrip(".")
    shown = name.rpartition(".")[2] if short else name
    path = _path(name, relative, item)
    return f'<autoref identifier="{html.escape(path)}" optional><code>{html.escape(shown)}</code></autoref>'


def _path(name: str, relative: bool, item: griffe.Object | None) -> str:
    if item is None or name.startswith("monai_betavae."):
        return name
    if relative:
        package = item.module if item.module.is_init_module else item.module.parent
        return name if package is None else f"{package.path}.{name}"
    first, dot, rest = name.partition(".")
    scope: Any = item
    while scope is not None:
        if first in (scope.all_members if scope.is_class else scope.members):
            return f"{scope.path}.{first}{dot}{rest}"
        scope = None if scope.is_module else scope.parent
    try:
        return item.resolve(first) + dot + rest
    except griffe.NameResolutionError:
        return name
