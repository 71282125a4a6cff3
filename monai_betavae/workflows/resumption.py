"""Comparison of the settings of a resumed run with those of the original run, id by id.

The settings of a run are the values in which its config differs from the bundle's own config. They are stored in its
``last.ckpt`` and compared when the run is resumed, so that no setting is lost if a command isn't repeated in full.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..saving.descriptions import name_of

FREE = (
    "imports|bundle_root|run_root|output_dir|ckpt_dir|device|resume|overwrite|resume_changes|max_epochs|initialize|finalize",
    # the volumes and their split are compared separately
    "dataset_dir|suffix|image_column|channel|subject_from|entities|missing_values|on_incomplete|max_cut_away|min_filled",
    "simulated_cohort(#.*)?|records|usable_records|split|split_file|fractions|stratify|n_folds|fold|on_bad_volume",
    # where and how the computation runs, not its result
    "cache|cache_dir|num_workers|compile|recompute_activations",
    "(train|validate|test)#(dataset|dataloader)#(cache|cache_dir|num_workers|pin_memory|prefetch_factor|persistent_workers)",
    "train#trainer#(devices|num_nodes|strategy|accelerator|logger|default_root_dir|max_epochs|enable_\\w+|log_every.*)",
    "logger|tracking_uri|experiment_name|run_name|train#logger(#.*)?|provenance(#.*)?|_meta_(#.*)?",
    "model_training(#.*)?|training(#.*)?|check(#.*)?|run(#.*)?|train#inferer(#.*)?",
)
"""Ids, as regular expressions, that may differ when a run is resumed, since they don't affect what a model learns."""

ABSENT = "absent"

MAX_SHOWN = 4


def collect_settings(config: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a config that differ from the bundle's own config, by id.

    Args:
        config: raw config, overrides included.
        own: the bundle's own config.

    Example:
        >>> shipped = {"beta": 1.0, "loss": {"default_dist": "normal"}}
        >>> collect_settings({"beta": 4.0, "loss": {"default_dist": "laplace"}}, shipped)
        {'beta': 4.0, 'loss#default_dist': 'laplace'}
    """
    # a parsed config has "::" in place of "#" as the separator of ids
    plain, bundle = (json.loads(json.dumps(dict(each), default=name_of).replace("#", "::")) for each in (config, own))
    found: dict[str, Any] = {}
    _compare("", plain, bundle, plain, found)
    return {name: value for name, value in found.items() if not is_free(name)}


def is_free(name: str) -> bool:
    """Return whether a setting may differ when a run is resumed."""
    return any(re.fullmatch(pattern, name) for pattern in FREE)


def check_told(
    then: Mapping[str, Any], now: Mapping[str, Any], own: Mapping[str, Any], may_change: Sequence[str], source: str
) -> list[str]:
    """Refuse to resume a run with other settings than its original ones.

    Args:
        then: original settings, from :func:`collect_settings`.
        now: current settings.
        own: the bundle's own config, with the values of all other settings.
        may_change: ids that may differ.
        source: origin of ``then``, for error messages.

    Returns:
        the permitted differences, each as "id was this, now that".

    Raises:
        ValueError: naming each id that differs, with its old and its new value.
    """
    found: dict[bool, list[str]] = {True: [], False: []}
    for name in dict.fromkeys([*then, *now]):
        values = [each[name] if name in each else _looked_up(own, name) for each in (then, now)]
        if values[0] != values[1]:
            allowed = any(name == each or name.startswith(f"{each}#") for each in may_change)
            found[allowed].append(f"{name} was {_shown(values[0])}, now {_shown(values[1])}")
    if found[False]:
        names = [text.split(" was ")[0] for text in found[False]]
        more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
        raise ValueError(
            f"`resume` needs the settings of {source}: {'; '.join(found[False][:MAX_SHOWN])}{more}. Repeat those of "
            f"then, or say that they may change: --resume_changes \"['{names[0]}']\"."
        )
    return found[True]


def _compare(name: str, value: Any, own: Any, config: Mapping[str, Any], found: dict[str, Any]) -> None:
    """Add the differences between a value and the bundle's own value to ``found``."""
    if isinstance(own, str) and own.startswith("%") and value != own:
        own = _looked_up(config, own[1:])  # MONAI has replaced the macro by the value it names
    if isinstance(value, dict) and isinstance(own, dict):
        if value.get("_target_") == own.get("_target_") and not own.keys() - value.keys():
            for key in value:
                _compare(f"{name}#{key}" if name else key, value[key], own.get(key, ABSENT), config, found)
            return
        if not name:  # the whole config
            for key in {**own, **value}:
                _compare(key, value.get(key, ABSENT), own.get(key, ABSENT), config, found)
            return
    elif isinstance(value, list) and isinstance(own, list) and len(value) == len(own):
        for index, (entry, own_entry) in enumerate(zip(value, own, strict=True)):
            _compare(f"{name}#{index}", entry, own_entry, config, found)
        return
    if value != own:
        found[name] = value


def _looked_up(config: Any, name: str) -> Any:
    """Return the value of an id in a raw config."""
    for key in re.split("#|::", name):
        if isinstance(config, Mapping):
            config = config.get(key, ABSENT)
        elif isinstance(config, list) and key.isdigit() and int(key) < len(config):
            config = config[int(key)]
        else:
            return ABSENT
    return config


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
