"""Recovery of the texts that a user typed, which MONAI's runner reads as Python.

``python -m monai.bundle`` passes its options to fire, which evaluates what looks like Python: ``20240501`` becomes a
number, ``1,2`` a tuple, ``{subject}`` a set, and ``study#2`` is cut to ``study``, since # starts a comment. ``None``
is dropped. MONAI then replaces every remaining "#" by "::", in config files too. The first step of every run therefore
reads the original texts from the command line or the files and restores them before the config is resolved.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from monai.bundle import ConfigItem, ConfigParser
from monai.bundle.config_item import ConfigExpression

from .expressions import expression_of, json_expression
from .option_texts import MARKS, Text, texts_of

SEPARATOR = "-"
"""Argument that, on its own, ends fire's options."""


def typed_options(arguments: Sequence[str]) -> dict[str, str | None]:
    """Return the options of a command exactly as typed, split by fire's rules.

    Args:
        arguments: arguments of the command, ``sys.argv[1:]``.

    Returns:
        the text of each option by name, with underscores for hyphens; ``None`` for an option without a value. The last
        one counts if an option is repeated.

    Raises:
        ValueError: if a hyphen on its own ends the options before the last one.

    Source:
        ``fire.core._ParseKeywordArgs`` of fire 0.6 and 0.7.

    Example:
        >>> typed_options(["run", "training", "--dataset-dir", "study#2", "-beta=4", "--resume"])
        {'dataset_dir': 'study#2', 'beta': '4', 'resume': None}
    """
    given = list(arguments)
    if "--" in given:  # fire's own flags follow the last one
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
    """Return the intended text: the typed text without the quotation marks that fire requires.

    Example:
        >>> typed_text("study#2"), typed_text("'study#2'"), typed_text("it's")
        ('study#2', 'study#2', "it's")
    """
    quoted = re.fullmatch(r"""(["'])((?:(?!\1)[^\\])*)\1""", typed, re.DOTALL)
    return typed if quoted is None else quoted[2]


def typed_texts(typed: str) -> str | list[str]:
    """Return the intended text, or the list of intended texts between commas, with or without brackets.

    Example:
        >>> typed_texts("age"), typed_texts("age,1"), typed_texts("['a, b', -9, #N/A]"), typed_texts("[]")
        ('age', ['age', '1'], ['a, b', '-9', '#N/A'], [])
    """
    inner = re.fullmatch(r"\s*(?:\[(.*)\]|\((.*)\))\s*", typed, re.DOTALL)
    listed = typed if inner is None else inner[1] if inner[1] is not None else inner[2]
    entries = re.findall(r"""\s*("[^"]*"|'[^']*'|[^,]*?)\s*(?:,|$)""", listed)
    # the pattern also matches the empty text at the end
    entries = [typed_text(entry) for entry in entries[:-1]] if listed.strip() else []
    return typed_text(typed) if inner is None and len(entries) < 2 else entries


def parse_typed(name: str, text: Text, typed: str | None) -> str | list[str] | None:
    """Return the intended value of a setting on the command line.

    Args:
        name: id of the setting.
        text: values that it accepts.
        typed: typed text of the option, or ``None`` if it has no value.

    Raises:
        ValueError: naming the option, the value received and what to type.

    Example:
        >>> parse_typed("output_dir", Text(), "20240501"), parse_typed("run_name", Text(), "None")
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


def restore_texts(parser: Any, own: Mapping[str, Any], arguments: Sequence[str] | None = None) -> dict[str, str]:
    """Restore every text of the command line and the config files that fire or MONAI changed.

    Call it before the config is resolved. Outside ``python -m monai.bundle`` there is no command line, and only texts
    that can't be recovered are refused.

    Args:
        parser: MONAI's ``ConfigParser`` of the running config.
        own: the bundle's own config.
        arguments: arguments of the command; default: ``sys.argv[1:]``.

    Returns:
        the options as typed, by id.

    Raises:
        ValueError: naming the option or id, the value received, and what to type.
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
                known[name] = parse_typed(name, texts[name], option)
        elif option == "None" and name in own and parser.get(name) is not None:
            if isinstance(own[name], Mapping) or (isinstance(own[name], str) and own[name].startswith(MARKS)):
                raise ValueError(f"--{name} None has no effect: leave it out, or type --{name} '$None'")
            known[name] = None  # MONAI ignores options that are None
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
    """Return the options that MONAI's runner received, its config file and its file of options.

    Return ``None`` if ``python -m monai.bundle`` doesn't run the config of ``parser``.
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
    """Return whether this process is ``python -m monai.bundle``."""
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    return main is not None and main.name.startswith("monai.bundle")


def _written(config_file: Any, args_file: Any) -> ConfigParser:
    """Return the config as written in the files, with every "#"."""
    pairs = ConfigParser.load_config_file(args_file) if isinstance(args_file, str) else {}
    files = pairs.get("config_file") if config_file is None else config_file
    written = ConfigParser(config={})
    written.config = ConfigParser.load_config_files(files) if files is not None else {}
    for name, value in pairs.items():
        if _plain_id(name).split("#")[0] in written.config or "#" not in _plain_id(name):
            written[name] = value
    return written


def place(parser: Any, name: str, value: Any) -> None:
    """Replace the value of an id of a parsed config, before anything that depends on it is resolved.

    The config stores the value itself. If it contains "#", which MONAI would replace by "::", the resolver gets an
    equivalent expression.

    Args:
        parser: MONAI's ``ConfigParser``.
        name: the id; the group of a nested one must exist.
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
    stored: Any = expression_of(value) if "#" in repr(value) else value
    resolver = parser.ref_resolver
    resolver_id = resolver.normalize_id(name)
    if stored is value:
        resolver.items[resolver_id] = ConfigItem(config=value, id=resolver_id)
    else:
        resolver.items[resolver_id] = ConfigExpression(config=stored, id=resolver_id, globals=parser.globals)
    # set also because a parser that hasn't resolved anything yet would parse the config again
    resolver.resolved_content[resolver_id] = value
    # a group is resolved from its own copy of the config, which therefore needs the expression
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


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) and not value.startswith(MARKS)


def _plain_id(name: str) -> str:
    return name.replace("::", "#")
