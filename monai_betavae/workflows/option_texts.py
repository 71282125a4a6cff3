"""The settings that are texts, and what each of them may hold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

MARKS = ("$", "@", "%")
"""First characters of MONAI's own syntax: an expression, a reference, a macro."""

REFERENCE = r"@\w+(?:(?:#|::)\w+)*"


@dataclass(frozen=True)
class Text:
    """Values that a text setting accepts.

    Attributes:
        null: whether it may be null.
        several: whether it may be a list of texts.
        numbers: whether a config file may give a number for its text.
        instead: advice for users who type ``None``, if ``None`` is refused.
        checked: whether the package itself reads the value; otherwise a user's own part may accept other values.
        url: whether the value may contain "::".
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
    "suffix": Text(several=True),
    "image_column": Text(several=True),
    "subject_from": Text(),
    "entities": Text(),
    "missing_values": Text(several=True, numbers=True),
    "stratify": Text(several=True),
    "covariates": Text(several=True),
    "init_from": Text(),
    "train_only": Text(),
    "parts": Text(several=True),
    "resume_changes": Text(several=True),
    "tracking_uri": Text(url=True),
    "run_name": Text(),
}
"""Text settings that the bundle's own value doesn't reveal as such."""

NOT_ONLY_TEXT = ("norm", "act", "center", "precision")
"""Settings whose own value is a text but that accept other types too."""


def texts_of(own: Mapping[str, Any]) -> dict[str, Text]:
    """Return the text settings of a config, by id.

    They are those of :data:`TEXTS` that it has, those whose own value is a text, and those that refer to one of them.

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


def check_text(name: str, value: Any, text: Text) -> None:
    """Refuse a value that a text setting doesn't accept.

    Args:
        name: id of the setting.
        value: its value in the config.
        text: values that it accepts.

    Raises:
        ValueError: naming the id, the value received and the values accepted.

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
    """Return the requirement that a value violates, as the end of a sentence, or ``None`` if it is accepted.

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
