"""What a user types as a text stays that text, though MONAI's runner reads it as Python.

``python -m monai.bundle`` hands its options to fire, which evaluates what looks like Python: ``20240501`` is a number,
``1,2`` a tuple, ``{subject}`` a set, and of ``study#2`` only ``study`` is left, since # begins a comment. ``None``
doesn't arrive at all. MONAI then writes "::" for every "#" that is left, in config files too. So the first step of
every run looks at what was typed, or stands in the files, and puts it in its place before anything is made of it.
"""

from __future__ import annotations

import ast
import builtins
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from monai.bundle import ConfigItem, ConfigParser
from monai.bundle.config_item import ConfigExpression

MARKS = ("$", "@", "%")
"""What begins with one of these is MONAI's own syntax: an expression, a reference, a macro."""

SEPARATOR = "-"
"""What ends fire's options where it stands on its own."""

REFERENCE = r"@\w+(?:(?:#|::)\w+)*"


@dataclass(frozen=True)
class Text:
    """What a setting that takes text accepts.

    Attributes:
        null: whether it may be null.
        several: whether it may be a list of texts.
        numbers: whether a number in a config file is as good as its text.
        instead: what to do in place of typing ``None``, where that is refused.
        checked: whether the package reads the value itself; else a part of somebody's own may take something else.
        url: whether "::" may be meant.
    """

    null: bool = True
    several: bool = False
    numbers: bool = False
    instead: str | None = None
    checked: bool = True
    url: bool = False


_OWN_FOLDER = Text(null=False, instead="leave it out for the bundle's own")

TEXTS: dict[str, Text] = {
    "dataset_dir": Text(instead="leave it out for the subjects that training held out"),
    "run_root": _OWN_FOLDER,
    "output_dir": _OWN_FOLDER,
    "ckpt_dir": _OWN_FOLDER,
    "training_output_dir": _OWN_FOLDER,
    "checkpoint": _OWN_FOLDER,
    "simulated_cohort#output_dir": _OWN_FOLDER,
    "cache_dir": Text(),
    "split_file": Text(),
    "subject_from": Text(),
    "entities": Text(),
    "missing_values": Text(several=True, numbers=True),
    "stratify": Text(several=True),
    "covariates": Text(several=True),
    "parts": Text(several=True),
    "resume_changes": Text(several=True),
    "tracking_uri": Text(url=True),
    "run_name": Text(),
}
"""Settings that take text though the bundle's own value doesn't say so."""

NOT_ONLY_TEXT = ("norm", "act", "center", "precision")
"""Settings whose own value is a text, and that take something else as well."""


def texts_of(own: Mapping[str, Any]) -> dict[str, Text]:
    """Return the settings of a config that take text, by id.

    Those of :data:`TEXTS` that it has, those whose own value is a text, and those that refer to one of them.

    Args:
        own: the bundle's own config.

    Example:
        >>> list(texts_of({"suffix": "T1w", "beta": 1.0, "run_name": None, "logger": {"name": "@run_name"}}))
        ['suffix', 'run_name', 'logger#name']
    """
    found: dict[str, Text] = {}
    for name, value in own.items():
        if name in TEXTS:
            found[name] = TEXTS[name]
        elif isinstance(value, str) and not value.startswith(MARKS) and name not in NOT_ONLY_TEXT:
            found[name] = Text()
    if "dataset_dir" in found and "simulated_cohort" in own:
        found["dataset_dir"] = Text(instead="leave it out for the simulated cohort")
    for name, value in _leaves("", own):
        if "#" not in name:
            continue
        if name in TEXTS:
            found[name] = TEXTS[name]
        elif isinstance(value, str) and value.startswith("@") and value[1:] in found:
            found[name] = replace(found[value[1:]], checked=False)
    return found


def _leaves(name: str, config: Any) -> list[tuple[str, Any]]:
    if isinstance(config, Mapping | list):
        entries = config.items() if isinstance(config, Mapping) else enumerate(config)
        return [
            leaf
            for key, value in entries
            if key != "_meta_"
            for leaf in _leaves(f"{name}#{key}" if name else str(key), value)
        ]
    return [(name, config)]


# ---- what was typed -------------------------------------------------------------------------------------------------


def typed_options(arguments: Sequence[str]) -> dict[str, str | None]:
    """Return the options of a command, each as it was typed, by fire's rules for where one begins and ends.

    Args:
        arguments: of the command, ``sys.argv[1:]``.

    Returns:
        by name, with underscores for hyphens, the text of the option typed last; ``None`` where it has no value.

    Raises:
        ValueError: if a hyphen on its own ends the options before the last one.

    Source:
        ``fire.core._ParseKeywordArgs`` of fire 0.6 and 0.7.

    Example:
        >>> typed_options(["run", "training", "--dataset-dir", "study#2", "-beta=4", "--resume"])
        {'dataset_dir': 'study#2', 'beta': '4', 'resume': None}
    """
    given = list(arguments)
    if "--" in given:  # fire's own flags come after the last one
        given = given[: len(given) - 1 - given[::-1].index("--")]
    lost: list[str] = []
    if SEPARATOR in given:
        end = given.index(SEPARATOR)
        given, lost = given[:end], [each for each in given[end + 1 :] if _is_flag(each)]
    if lost:
        raise ValueError(
            f"a hyphen on its own ends the options, and {lost[0]} and what follows would be lost. As a text it is "
            "typed with an equals sign, such as --missing_values=-"
        )
    found: dict[str, str | None] = {}
    index = 0
    while index < len(given):
        argument = given[index]
        index += 1
        if not _is_flag(argument):
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        typed: str | None = value
        if not equals:
            typed = None
            if index < len(given) and not _is_flag(given[index]):
                typed = given[index]
                index += 1
        if name:
            found[name.replace("-", "_")] = typed
    return found


def _is_flag(argument: str) -> bool:
    return argument.startswith("--") or re.match("-[a-zA-Z]", argument) is not None


def typed_text(typed: str) -> str:
    """Return the text that was meant: what was typed, or what stands between the quotation marks that fire wants.

    Example:
        >>> typed_text("study#2"), typed_text("'study#2'"), typed_text("it's")
        ('study#2', 'study#2', "it's")
    """
    quoted = re.fullmatch(r"""(["'])((?:(?!\1)[^\\])*)\1""", typed, re.DOTALL)
    return typed if quoted is None else quoted[2]


def typed_texts(typed: str) -> str | list[str]:
    """Return the texts that were meant: one, or a list of those between commas, with or without brackets.

    Example:
        >>> typed_texts("age"), typed_texts("age,1"), typed_texts("['a, b', -9, #N/A]"), typed_texts("[]")
        ('age', ['age', '1'], ['a, b', '-9', '#N/A'], [])
    """
    inner = re.fullmatch(r"\s*(?:\[(.*)\]|\((.*)\))\s*", typed, re.DOTALL)
    listed = typed if inner is None else inner[1] if inner[1] is not None else inner[2]
    entries = re.findall(r"""\s*("[^"]*"|'[^']*'|[^,]*?)\s*(?:,|$)""", listed)
    # the pattern also finds nothing at the end
    entries = [typed_text(entry) for entry in entries[:-1]] if listed.strip() else []
    return typed_text(typed) if inner is None and len(entries) < 2 else entries


def meant(name: str, text: Text, typed: str | None) -> str | list[str] | None:
    """Return the value that a setting was given on the command line.

    Args:
        name: id of the setting.
        text: what it accepts.
        typed: the option's text, ``None`` where it has no value.

    Raises:
        ValueError: naming the option, what came and what to type.

    Example:
        >>> meant("output_dir", Text(), "20240501"), meant("run_name", Text(), "None")
        ('20240501', None)
    """
    if typed is None:
        raise ValueError(
            f"--{name} needs a text after it, got none. One that begins with a hyphen is typed with an equals sign, "
            f"such as --{name}=-text"
        )
    if typed == "None":
        if text.instead is not None:
            raise ValueError(
                f"--{name} None isn't a path: {text.instead}; for a file or folder of that name type --{name} ./None"
            )
        return None
    return typed_texts(typed) if text.several else typed_text(typed)


# ---- putting it in its place ----------------------------------------------------------------------------------------


def restore_texts(parser: Any, own: Mapping[str, Any], arguments: Sequence[str] | None = None) -> dict[str, str]:
    """Put every text that was typed, or stands in a config file, in place of what fire and MONAI made of it.

    To be called before anything of the config is resolved. Outside ``python -m monai.bundle`` nothing was typed, and
    only texts that can't be known any more are refused.

    Args:
        parser: MONAI's ``ConfigParser`` of the running config.
        own: the bundle's own config.
        arguments: of the command; default: ``sys.argv[1:]``.

    Returns:
        the options as they were typed, by id.

    Raises:
        ValueError: naming the option or id, what came, and what to type.
    """
    texts = texts_of(own)
    call = _runner_call(parser)
    typed: dict[str, str | None] = {}
    known: dict[str, Any] = {}
    if call is not None:
        arrived, config_file, args_file = call
        options = typed_options(sys.argv[1:] if arguments is None else arguments)
        typed = {_plain_id(name): options[name] for name in arrived if name in options}
        files = _written(config_file, args_file)
        for name in texts.keys() - {_plain_id(name) for name in arrived}:
            value = files.get(name)
            if _is_plain(value) or (isinstance(value, list) and value and all(map(_is_plain, value))):
                known[name] = value
    for name, option in typed.items():
        if name in texts:
            if option is None or not typed_text(option).startswith(MARKS):
                known[name] = meant(name, texts[name], option)
        elif option == "None" and name in own and parser.get(name) is not None:
            if isinstance(own[name], Mapping) or (isinstance(own[name], str) and own[name].startswith(MARKS)):
                raise ValueError(f"--{name} None has no effect: leave it out, or type --{name} '$None'")
            known[name] = None  # MONAI passes over options that are None
    for name, value in known.items():
        if name in parser and (parser.get(name) != value or "#" in repr(value)):
            place(parser, name, value)
    for name, text in texts.items():
        value = parser.get(name)
        if text.checked and not text.url and name not in known and _is_plain(value) and "::" in value:
            wanted = value.replace("::", "#")
            raise ValueError(
                f"'{name}' came as {value!r}, which is what MONAI makes of {wanted!r} as well. Type it as an option, "
                f'--{name} "{wanted}", or write it in the config as {json_expression(wanted)}'
            )
    return {name: option for name, option in typed.items() if option is not None}


def _runner_call(parser: Any) -> tuple[Mapping[str, Any], Any, Any] | None:
    """Return the options that arrived in MONAI's runner, its config file and its file of options.

    ``None`` where the config of ``parser`` isn't run by ``python -m monai.bundle``.
    """
    if not is_runner():
        return None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        runs = {"run": "override", "run_workflow": "kwargs"}.get(frame.f_code.co_name)
        if runs is not None and frame.f_globals.get("__name__") == "monai.bundle.scripts":
            local = frame.f_locals
            mine = any(getattr(each, "__dict__", {}).get("parser") is parser for each in local.values())
            arrived = local.get(runs)
            if not (mine and isinstance(arrived, Mapping)):
                return None
            return arrived, local.get("config_file", arrived.get("config_file")), local.get("args_file")
        frame = frame.f_back
    return None


def is_runner() -> bool:
    """Whether this process is ``python -m monai.bundle``."""
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    return main is not None and main.name.startswith("monai.bundle")


def _written(config_file: Any, args_file: Any) -> ConfigParser:
    """Return the config as the files have it, with "#" where it stands there."""
    pairs = ConfigParser.load_config_file(args_file) if isinstance(args_file, str) else {}
    files = pairs.get("config_file") if config_file is None else config_file
    written = ConfigParser(config={})
    written.config = ConfigParser.load_config_files(files) if files is not None else {}
    for name, value in pairs.items():
        if _plain_id(name).split("#")[0] in written.config or "#" not in _plain_id(name):
            written[name] = value
    return written


def place(parser: Any, name: str, value: Any) -> None:
    """Give an id of a parsed config another value, before anything that depends on it is resolved.

    The config has the value itself; what is resolved is an expression of it where MONAI would write "::" for "#".

    Args:
        parser: MONAI's ``ConfigParser``.
        name: the id; a nested one's group must be there.
        value: a text, a list of texts, or ``None``.

    Example:
        >>> parser = ConfigParser({"folder": "study", "path": "$@folder + '/a'", "group": {"inner": 3}})
        >>> parser.parse()
        >>> place(parser, "folder", "study#2")
        >>> place(parser, "group#inner", "b#1")
        >>> parser.get_parsed_content("path"), parser.get_parsed_content("group"), parser.get("folder")
        ('study#2/a', {'inner': 'b#1'}, 'study#2')
    """
    *above, last = _plain_id(name).split("#")
    holder = parser.get("#".join(above)) if above else parser.config
    holder[_key(holder, last)] = value
    stored: Any = _expression(value) if "#" in repr(value) else value
    resolver = parser.ref_resolver
    resolver_id = resolver.normalize_id(name)
    if stored is value:
        resolver.items[resolver_id] = ConfigItem(config=value, id=resolver_id)
    else:
        resolver.items[resolver_id] = ConfigExpression(config=stored, id=resolver_id, globals=parser.globals)
    # also because a parser that has resolved nothing yet would parse the config anew
    resolver.resolved_content[resolver_id] = value
    # a group is resolved from a config of its own, in which the text is the expression
    shadow = stored
    for depth in range(len(above), 0, -1):
        outer = "#".join(above[:depth])
        key = [*above, last][depth]
        item = resolver.items.get(resolver.normalize_id(outer))
        group = parser.get(outer) if item is None else item.get_config()
        changed = list(group) if isinstance(group, list) else dict(group)
        changed[_key(group, key)] = shadow
        if item is not None:
            item.update_config(changed)
        shadow = changed


def _key(holder: Any, key: str) -> Any:
    return int(key) if isinstance(holder, list) else key


def _expression(value: Any) -> str:
    """Return an expression of MONAI's for a text or texts, without the signs that it would take for references."""
    return "$" + repr(value).replace("#", "\\x23").replace("@", "\\x40")


def json_expression(text: str) -> str:
    r"""Return how to write a text with "#" in a config file.

    Example:
        >>> print(json_expression("study#2"))
        "$'study\\x232'"
    """
    return '"' + _expression(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) and not value.startswith(MARKS)


def _plain_id(name: str) -> str:
    return name.replace("::", "#")


# ---- what is wrong with it ------------------------------------------------------------------------------------------


def check_text(name: str, value: Any, text: Text) -> None:
    """Refuse the value of a setting that takes text, if it isn't one.

    Args:
        name: id of the setting.
        value: its value in the config.
        text: what it accepts.

    Raises:
        ValueError: naming the id, what came and what is accepted.

    Example:
        >>> check_text("output_dir", 20240501, TEXTS["output_dir"])
        Traceback (most recent call last):
        ...
        ValueError: 'output_dir' must be a text that isn't empty, got 20240501. In a config file write "20240501"
    """
    problem = text_problem(value, text)
    if problem is not None:
        hint = f' In a config file write "{value}"' if _is_number(value) else ""
        raise ValueError(f"'{name}' {problem}, got {value!r}.{hint}")


def text_problem(value: Any, text: Text) -> str | None:
    """Return what a value must be that isn't accepted, as the end of a sentence; ``None`` if it is.

    Example:
        >>> text_problem(3, Text(several=True)), text_problem("a", Text()), text_problem(["a"], Text(several=True))
        ("must be a text that isn't empty, a list of such or null", None, None)
    """
    listed = text.several and isinstance(value, list | tuple)
    entries = value if listed else [value]
    if (value is None and text.null) or all(_is_text(each) or (text.numbers and _is_number(each)) for each in entries):
        return None
    kinds = ["a text that isn't empty", *(["a list of such"] if text.several else []), *(["null"] if text.null else [])]
    return f"must be {' or '.join([', '.join(kinds[:-1]), kinds[-1]] if len(kinds) > 1 else kinds)}"


def _is_text(value: Any) -> bool:
    return (isinstance(value, str) and bool(value)) or isinstance(value, os.PathLike)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_expressions(parser: Any, own: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Refuse options in MONAI's own syntax that can't be evaluated, or give something else than the text wanted.

    Args:
        parser: MONAI's ``ConfigParser`` of the running config.
        own: the bundle's own config.
        typed: the options as they were typed, by id.

    Raises:
        ValueError: naming the option, and why.
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
    """Return why an expression can't be evaluated, as far as that is seen without evaluating it; ``None`` if it may.

    Args:
        expression: Python, with references of MONAI's.
        known: the names that it may use beside Python's own.

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
