"""Descriptions of the transforms of a training run, from their config, which has the arguments that objects lack."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..data.transforms.transform_description import describe_call, is_random
from .model_description import described_by_name

PREPROCESSING = "train#preprocessing"
"""Id of the transforms in a training config."""

COMPOSE = ("Compose", "monai.transforms.Compose", "monai.transforms.compose.Compose")

NOT_ARGUMENTS = ("_target_", "_requires_", "_disabled_", "_desc_", "_mode_", "_debug_")


def describe_preprocessing(preprocessing: Any, parser: Any = None, where: str = PREPROCESSING) -> dict[str, Any]:
    """Return the description of transforms for a model's file.

    MONAI's transforms don't store the arguments with which they were made, but a config contains them; its resolved
    values are used. Transforms of :func:`~monai_betavae.data.brain_transforms` have a description of their own.

    Args:
        preprocessing: the transforms.
        parser: MONAI's ``ConfigParser`` of the config that contains them, if there is one.
        where: id of the transforms.

    Returns:
        ``{"transforms": [...]}``, or ``{"own": class, "where": id}`` for the first one that can't be described.
    """
    described = getattr(preprocessing, "description", None)
    if isinstance(described, dict):
        return described
    entry, place = _followed(parser, where)
    if not isinstance(entry, Mapping) or entry.get("_target_") not in COMPOSE or _others(entry, ("transforms",)):
        return {**described_by_name(preprocessing), "where": where.replace("::", "#")}
    steps, place = _followed(parser, f"{place}#transforms")
    if not isinstance(steps, list):
        return {**described_by_name(preprocessing), "where": where}
    found = []
    for index in range(len(steps)):
        step, step_place = _followed(parser, f"{place}#{index}")
        if isinstance(step, Mapping) and _is_disabled(parser, step_place, step):
            continue
        call = None
        if isinstance(step, Mapping) and not set(step) & {"_mode_", "_debug_"}:
            names = [name for name in step if name not in NOT_ARGUMENTS]
            values = {name: parser.get_parsed_content(f"{step_place}#{name}") for name in names}
            call = describe_call(step.get("_target_"), values)
        if call is None:
            made = parser.get_parsed_content(f"{place}#{index}")
            return {**described_by_name(made), "where": f"{where}#transforms#{index}"}
        found.append(call)
    return {"transforms": found}


def check_preprocessing(parser: Any = None) -> None:
    """Refuse random transforms, and transforms for validation or test that differ from those for training.

    Args:
        parser: MONAI's ``ConfigParser`` of the running config; without one nothing is checked.

    Raises:
        ValueError: naming the id.
    """
    if parser is None:
        return
    entry, place = _followed(parser, PREPROCESSING)
    has_steps = isinstance(entry, Mapping) and "transforms" in entry
    steps, steps_place = _followed(parser, f"{place}#transforms") if has_steps else ([], "")
    for index in range(len(steps) if isinstance(steps, list) else 0):
        step, _ = _followed(parser, f"{steps_place}#{index}")
        target = step.get("_target_") if isinstance(step, Mapping) else None
        if is_random(target):
            raise ValueError(
                f"'{PREPROCESSING}#transforms#{index}' must be deterministic, since every later run preprocesses as "
                f"training does, got {target}: give random transforms as --train#augmentation, with --augment True."
            )
    # before parsing, the entry may still be a macro
    same = [_text(entry), *(_text(f"{sign}{PREPROCESSING}") for sign in "@%")]
    for part in ("validate", "test"):
        other = parser.get(f"{part}#preprocessing")
        if other is not None and _text(other) not in same:
            raise ValueError(
                f"'{part}#preprocessing' must be that of training, which every later run uses: leave it, and change "
                f"'{PREPROCESSING}'."
            )


def _followed(parser: Any, place: str) -> tuple[Any, str]:
    """Return the raw entry of an id and the id itself, after following plain references."""
    entry = None if parser is None else parser.get(place)
    for _ in range(10):
        if not (isinstance(entry, str) and entry.startswith("@")):
            break
        place = entry[1:].replace("::", "#")
        entry = parser.get(place)
    return entry, place


def _others(entry: Mapping[str, Any], accepted: tuple[str, ...]) -> list[str]:
    return [name for name in entry if name not in accepted and name not in ("_target_", "_desc_", "_requires_")]


def _is_disabled(parser: Any, place: str, step: Mapping[str, Any]) -> bool:
    if "_disabled_" not in step:
        return False
    value = parser.get_parsed_content(f"{place}#_disabled_")
    return value.strip().lower() == "true" if isinstance(value, str) else bool(value)


def _text(entry: Any) -> str:
    return json.dumps(entry, default=str, sort_keys=True).replace("#", "::")
