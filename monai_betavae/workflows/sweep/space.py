"""Settings of a sweep: a grid of values, or ranges to draw from, and names for folders and tables."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..._checks import check_real
from ...saving.descriptions import is_plain
from ..trained_runs import RESERVED

Setting = dict[str, Any]


def check_space(space: Any, ranges: bool) -> dict[str, Any]:
    """Return the space of a sweep, checked.

    Args:
        space: values by id of the training's config: a list of values; or, if ``ranges``, also ``{"low", "high"}`` of a
            number, with "log" for a logarithmic scale.
        ranges: whether ranges are accepted.

    Raises:
        ValueError: naming the id, what came and what is accepted.
    """
    accepted = "lists of values by id of the training, such as {'beta': [1, 4], 'latent_dim': [16, 32]}"
    if not isinstance(space, Mapping) or not space:
        raise ValueError(f"`space` must hold {accepted}, got {space!r}.")
    for name, values in space.items():
        if name in RESERVED:
            raise ValueError(f"`space` must not hold {name!r}, which the sweep sets itself.")
        if ranges and isinstance(values, Mapping):
            if not {"low", "high"} <= set(values) <= {"low", "high", "log"}:
                raise ValueError(f"`space` must hold 'low' and 'high', and may hold 'log', for {name!r}, got {values}.")
            low = check_real(f"space#{name}#low", values["low"])
            check_real(f"space#{name}#high", values["high"], minimum=low)
            if values.get("log") and low <= 0:
                raise ValueError(f"`space#{name}#low` must be larger than 0 on a logarithmic scale, got {low!r}.")
            continue
        if not isinstance(values, Sequence) or isinstance(values, str) or not values or not is_plain(list(values)):
            raise ValueError(f"`space` must hold {accepted}, got {values!r} for {name!r}.")
        texts = [json.dumps(value, sort_keys=True) for value in values]
        if len(set(texts)) < len(texts):
            raise ValueError(f"`space` must hold each value once, got {values!r} for {name!r}.")
    return dict(space)


def grid_of(space: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """Return all combinations of values, the last id varying fastest.

    Example:
        >>> grid_of({"beta": [1, 4], "latent_dim": [8, 16]})[1]
        {'beta': 1, 'latent_dim': 16}
    """
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def name_of_setting(setting: Mapping[str, Any]) -> str:
    """Return a name for a folder: ids and values where they make one, else with a digest.

    Example:
        >>> name_of_setting({"beta": 4.0, "latent_dim": 16})
        'beta=4.0,latent_dim=16'
        >>> name_of_setting({"loss#_target_": "monai_betavae.objectives.FreeBitsLoss"})[:27]
        'loss._target_=FreeBitsLoss-'
    """
    text = ",".join(f"{name}={value}" for name, value in setting.items())
    if re.fullmatch(r"[A-Za-z0-9_.,=+-]{1,80}", text):
        return text
    digest = hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()[:8]
    short = ",".join(f"{name}={str(value).rpartition('.')[2] or value}" for name, value in setting.items())
    return re.sub(r"[^A-Za-z0-9_.,=+-]+", ".", short)[:60] + f"-{digest}"
