"""MONAI's `$` expressions in settings: written for texts, and checked before they are evaluated."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Mapping
from typing import Any

from .option_texts import REFERENCE, text_problem, texts_of


def expression_of(value: Any) -> str:
    """Return a MONAI expression for a text or a list of texts, with # and @ escaped."""
    return "$" + repr(value).replace("#", "\\x23").replace("@", "\\x40")


def json_expression(text: str) -> str:
    r"""Return the notation of a text with "#" for a config file.

    Example:
        >>> print(json_expression("study#2"))
        "$'study\\x232'"
    """
    return '"' + expression_of(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def check_expressions(parser: Any, own: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Refuse options in MONAI's syntax that can't be evaluated or don't evaluate to an accepted text.

    Args:
        parser: MONAI's ``ConfigParser`` of the running config.
        own: the bundle's own config.
        typed: the options as typed, by id.

    Raises:
        ValueError: naming the option and the reason.
    """
    texts = texts_of(own)
    for name, option in typed.items():
        if option.startswith("$"):
            problem = expression_problem(option[1:], parser.globals)
            if problem is not None:
                literal = f"; for a path that begins so type --{name} './{option}'" if name in texts else ""
                raise ValueError(
                    f"--{name} {option!r} begins with $, so it is evaluated as Python, but {problem}{literal}"
                )
        if name not in texts or not option.startswith(("$", "@")):
            continue
        try:
            value = parser.get_parsed_content(name)
        except Exception as error:
            cause = error.__cause__ or error
            raise ValueError(f"--{name} {option!r} can't be evaluated: {type(cause).__name__}: {cause}") from error
        problem = text_problem(value, texts[name])
        if problem is not None:
            raise ValueError(f"--{name} {option!r} gives {value!r}, but {problem}")


def expression_problem(expression: str, known: Mapping[str, Any]) -> str | None:
    """Return why an expression can't be evaluated, as far as is known without evaluating it, or ``None``.

    Args:
        expression: Python, with MONAI references.
        known: the names that it may use in addition to Python's built-ins.

    Example:
        >>> expression_problem("a + @beta", {"torch": None})
        "'a' isn't a name that it may use: those are torch, and @<id> for another setting"
        >>> expression_problem("[i for i in @channels]", {})
    """
    stand_in = "_reference"
    try:
        tree = ast.parse(re.sub(REFERENCE, stand_in, expression).strip())
    except (SyntaxError, ValueError) as error:
        return f"that isn't Python: {getattr(error, 'msg', error)}"
    bound = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound |= {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    unknown = [
        node.id
        for node in names
        if node.id not in bound and node.id not in known and node.id != stand_in and not hasattr(builtins, node.id)
    ]
    if not unknown:
        return None
    listed = ", ".join(sorted(name for name in known if name.isidentifier() and not name.startswith("_")))
    return f"{unknown[0]!r} isn't a name that it may use: those are {listed}, and @<id> for another setting"
