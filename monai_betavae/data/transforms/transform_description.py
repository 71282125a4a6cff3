"""Descriptions of the preprocessing as plain values, which a saved model contains and which execute no code.

A description is ``{"transforms": [{"name": "ReadVolumed", "arguments": {"keys": "image"}}, ...]}``, made only of JSON
values; a type is ``{"dtype": "torch.float32"}`` or ``{"dtype": "numpy.float32"}``. This module fixes the names that it
may contain: this package's transforms, and those of MONAI's deterministic dictionary transforms that only compute on a
sample, whatever plain values they are given. A file can't cause any name to be imported or evaluated. The remaining
risk is that a file requests a computation that takes a long time or much memory.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import reprlib
from collections.abc import Mapping
from typing import Any

import monai.transforms
import numpy as np
import torch
from monai.transforms import Compose, RandomizableTrait

from ..._checks import MAX_VOXELS
from .field_of_view import CropToGridd, PadToGridd
from .intensity import ScaleBrainIntensityd
from .plain_samples import ToPlainSampled
from .resampling import ResampleAntiAliasedd
from .volume_reading import ReadVolumed

OWN: dict[str, type] = {
    kind.__name__: kind
    for kind in (ReadVolumed, ResampleAntiAliasedd, CropToGridd, ScaleBrainIntensityd, PadToGridd, ToPlainSampled)
}
"""Transforms of this package that a description may name."""

MONAI_NAMES = (
    "AdjustContrastd",
    "AsChannelLastd",
    "BorderPadd",
    "CastToTyped",
    "CenterScaleCropd",
    "CenterSpatialCropd",
    "ClipIntensityPercentilesd",
    "ConcatItemsd",
    "CopyItemsd",
    "CropForegroundd",
    "DeleteItemsd",
    "DivisiblePadd",
    "EnsureChannelFirstd",
    "EnsureTyped",
    "Flipd",
    "GaussianSharpend",
    "GaussianSmoothd",
    "HistogramNormalized",
    "Identityd",
    "LoadImaged",
    "MaskIntensityd",
    "MedianSmoothd",
    "NormalizeIntensityd",
    "Orientationd",
    "RepeatChanneld",
    "ResampleToMatchd",
    "ResizeWithPadOrCropd",
    "Resized",
    "Rotate90d",
    "Rotated",
    "ScaleIntensityRangePercentilesd",
    "ScaleIntensityRanged",
    "ScaleIntensityd",
    "SelectItemsd",
    "ShiftIntensityd",
    "Spacingd",
    "SpatialCropd",
    "SpatialPadd",
    "SpatialResampled",
    "SqueezeDimd",
    "StdShiftIntensityd",
    "ThresholdIntensityd",
    "ToTensord",
    "Transposed",
    "Zoomd",
)
"""Transforms of MONAI that a description may name, if the installed version has them."""

LEFT_OUT = {
    "CropForegroundd": {"select_fn"},  # a function
    "DeleteItemsd": {"use_re"},  # a regular expression can take forever
    "EnsureTyped": {"device"},  # a sample is made where it is loaded
    "HistogramNormalized": {"mask"},  # an array
    "LoadImaged": {"prune_meta_pattern", "prune_meta_sep"},  # a regular expression
    "MaskIntensityd": {"mask_data", "select_fn"},  # an array, a function
    "SpatialCropd": {"roi_slices"},  # objects
    "ToTensord": {"device"},
}
"""Parameters of these transforms that a description may not set."""

LATER = ("contrasts",)
"""Arguments that earlier versions don't know: where they are null they are left out, so that those read the rest."""

READERS = (None, "NibabelReader", "ITKReader")
"""Accepted readers of ``LoadImaged``: MONAI would import any other name."""

SIZES = ("spatial_size", "spatial_border", "roi_size", "k", "k_divisible", "margin", "radius", "repeats", "times")
MAX_SIDE = 4096
"""Largest entry of a size parameter, except ``spatial_size``, which may have as many voxels as an image."""

MAX_TRANSFORMS, MAX_LEVELS, MAX_ENTRIES, MAX_LETTERS, MAX_JSON = 100, 4, 10_000, 1000, 100_000
"""Limits on transforms, nesting of lists, entries of a list, letters of a text, and letters of an argument as JSON."""

_MONAI: dict[str, type] = {
    name: vars(monai.transforms)[name] for name in MONAI_NAMES if hasattr(monai.transforms, name)
}
_KINDS: dict[str, Any] = {**OWN, **_MONAI}
_ALIASES = {f"{name[:-1]}{ending}": name for name in _MONAI for ending in ("d", "D", "Dict")}

_TYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
_DTYPES: dict[str, Any] = {
    "torch.bfloat16": torch.bfloat16,
    **{f"torch.{name}": getattr(torch, name) for name in _TYPES},
    **{f"numpy.{name}": np.dtype(name).type for name in _TYPES},
}
_EXPRESSIONS = {f"${name.replace('numpy', short)}": name for name in _DTYPES for short in ("numpy", "np")}


def canonical_name(target: Any) -> str | None:
    """Return the name in descriptions of the class in a MONAI config's ``_target_``, or ``None``.

    Args:
        target: the value of ``_target_``. It is compared, not imported.

    Example:
        >>> canonical_name("monai.transforms.OrientationDict"), canonical_name("monai_betavae.data.ReadVolumed")
        ('Orientationd', 'ReadVolumed')
        >>> canonical_name("os.system") is None
        True
    """
    if not isinstance(target, str):
        return None
    short = target.rpartition(".")[2]
    name = short if short in OWN else _ALIASES.get(short)
    if name is None:
        return None
    kind = _KINDS[name]
    modules = ("monai_betavae.data", "monai_betavae.data.transforms.brain") if name in OWN else ("monai.transforms",)
    return name if target in (short, *(f"{module}.{short}" for module in (*modules, kind.__module__))) else None


def is_random(target: Any) -> bool:
    """Return whether a MONAI config's ``_target_`` is one of MONAI's random transforms.

    Example:
        >>> is_random("RandFlipd"), is_random("monai.transforms.RandGaussianNoised"), is_random("Flipd")
        (True, True, False)
    """
    if not isinstance(target, str):
        return False
    short = target.rpartition(".")[2]
    if target != short and not target.startswith("monai.transforms."):
        return False
    kind = vars(monai.transforms).get(short)
    # MONAI marks Compose as random because of the transforms that it may contain
    return inspect.isclass(kind) and issubclass(kind, RandomizableTrait) and kind is not Compose


def describe_call(name: Any, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the entry of a description for a transform and its arguments, or ``None`` if none is possible.

    Args:
        name: the class, as in :func:`canonical_name`.
        arguments: arguments by name. Tuples become lists; types of torch and numpy, or a config's ``"$torch.float32"``
            and ``"$np.float32"``, become ``{"dtype": ...}``.

    Example:
        >>> describe_call("OrientationD", {"keys": ("image",), "axcodes": "RAS"})
        {'name': 'Orientationd', 'arguments': {'keys': ['image'], 'axcodes': 'RAS'}}
        >>> describe_call("Lambdad", {"keys": "image", "func": print}) is None
        True
    """
    known = canonical_name(name)
    if known is None or not isinstance(arguments, Mapping):
        return None
    try:
        given = {key: value for key, value in arguments.items() if value is not None or key not in LATER}
        entry = {"name": known, "arguments": {key: _encoded(value) for key, value in given.items()}}
    except RecursionError:
        return None
    return entry if _problem(entry) is None else None


def rebuild_transforms(description: Any, source: str) -> Compose:
    """Make the transforms that a description specifies.

    Args:
        description: ``{"transforms": [{"name": ..., "arguments": {...}}, ...]}``.
        source: origin of the description, for messages.

    Returns:
        a MONAI ``Compose`` with the description as its attribute ``description``.

    Raises:
        ValueError: if a transform isn't accepted or refuses its arguments; the message names the source and transform.

    Example:
        >>> entry = {"name": "ScaleIntensityd", "arguments": {"keys": "image", "dtype": {"dtype": "torch.float32"}}}
        >>> rebuild_transforms({"transforms": [entry]}, "model.json")({"image": torch.arange(3.0)})["image"].tolist()
        [0.0, 0.5, 1.0]
        >>> rebuild_transforms({"transforms": [{"name": "os.system", "arguments": {"command": "ls"}}]}, "model.json")
        Traceback (most recent call last):
        ValueError: model.json: transform 0: 'os.system' is none of the transforms that a description may name.
    """
    steps = []
    for index, entry in enumerate(_checked_entries(description, source)):
        kind = _KINDS[entry["name"]]
        try:
            steps.append(kind(**{name: _decoded(value) for name, value in entry["arguments"].items()}))
        except Exception as error:  # a transform may refuse plain values with any kind of error
            raise ValueError(
                f"{source}: transform {index}, {entry['name']}, refuses {_shown(entry['arguments'])}: {error}"
            ) from error
    transforms = Compose(steps)
    transforms.description = copy.deepcopy(description)
    return transforms


def transforms_config(description: Any) -> dict[str, Any]:
    """Return the MONAI config that a description specifies, for a bundle.

    Raises:
        ValueError: as in :func:`rebuild_transforms`.

    Example:
        >>> entry = {"name": "CastToTyped", "arguments": {"keys": "image", "dtype": {"dtype": "numpy.float32"}}}
        >>> transforms_config({"transforms": [entry]})["transforms"]
        [{'_target_': 'CastToTyped', 'keys': 'image', 'dtype': '$np.float32'}]
    """
    steps = [
        {
            "_target_": f"monai_betavae.data.{entry['name']}" if entry["name"] in OWN else entry["name"],
            **{name: _in_config(value) for name, value in entry["arguments"].items()},
        }
        for entry in _checked_entries(description, "The description of transforms")
    ]
    return {"_target_": "Compose", "transforms": steps}


def _checked_entries(description: Any, source: str) -> list[dict[str, Any]]:
    """Return a description's entries after checking that all are acceptable."""
    entries = description.get("transforms") if isinstance(description, dict) else None
    if not isinstance(entries, list) or set(description) != {"transforms"} or len(entries) > MAX_TRANSFORMS:
        raise ValueError(
            f"{source}: a description of transforms must be {{'transforms': [...]}}, of at most {MAX_TRANSFORMS}, "
            f"got {_shown(description)}."
        )
    for index, entry in enumerate(entries):
        problem = _problem(entry)
        if problem is not None:
            raise ValueError(f"{source}: transform {index}: {problem}.")
    return entries


def _problem(entry: Any) -> str | None:
    """Return the reason why an entry isn't acceptable, or ``None``."""
    if not isinstance(entry, dict) or set(entry) != {"name", "arguments"} or not isinstance(entry["arguments"], dict):
        return f"it must be {{'name': ..., 'arguments': {{...}}}}, got {_shown(entry)}"
    name, arguments = entry["name"], entry["arguments"]
    if not isinstance(name, str) or name not in _KINDS:
        return f"{_shown(name)} is none of the transforms that a description may name"
    accepted = _parameters(name)
    for parameter, value in arguments.items():
        if parameter not in accepted:
            return f"{name} takes {', '.join(accepted)} in a description, got {_shown(parameter)}"
        what = f"{parameter!r} of {name}"
        if not _is_plain(value, MAX_LEVELS) or len(json.dumps(value)) > MAX_JSON:
            return (
                f"{what} must be a finite number, a text that is no expression of a config, true, false, null, a "
                f"type, or a list of them, got {_shown(value)}"
            )
        if parameter in SIZES and _too_large(value, parameter):
            return f"{what} must be a size that memory holds, got {_shown(value)}"
        if parameter == "reader" and value not in READERS:
            return f"{what} must be one of {', '.join(map(repr, READERS))}, got {_shown(value)}"
    return None


def _parameters(name: str) -> list[str]:
    """Return the parameters that a description may set: all named ones except the excluded ones."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(_KINDS[name].__init__).parameters.values()
    return [
        each.name
        for each in parameters
        if each.kind in named and each.name != "self" and each.name not in LEFT_OUT.get(name, ())
    ]


def _is_plain(value: Any, levels: int) -> bool:
    """Return whether a value can be JSON and isn't an expression, a reference or a macro in a config."""
    if value is None or type(value) is bool:
        return True
    if type(value) in (int, float):
        return bool(abs(value) <= 2**53) and math.isfinite(value)
    if type(value) is str:
        return len(value) <= MAX_LETTERS and not value.lstrip().startswith(("$", "@", "%"))
    if type(value) is dict:
        return set(value) == {"dtype"} and type(value["dtype"]) is str and value["dtype"] in _DTYPES
    if type(value) is list:
        return levels > 0 and len(value) <= MAX_ENTRIES and all(_is_plain(entry, levels - 1) for entry in value)
    return False


def _too_large(value: Any, parameter: str) -> bool:
    entries = value if isinstance(value, list) else [value]
    sides = [abs(entry) for entry in entries if type(entry) in (int, float)]
    if parameter != "spatial_size":
        return any(side > MAX_SIDE for side in sides)
    # a single number means all three sides
    n_voxels: float = math.prod(sides if isinstance(value, list) else sides * 3)
    return n_voxels > MAX_VOXELS


def _encoded(value: Any) -> Any:
    """Return a value in the form of a description, or unchanged if a description can't contain it."""
    if isinstance(value, torch.dtype):
        return {"dtype": str(value)}
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return {"dtype": f"numpy.{np.dtype(value).name}"}
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()
    if isinstance(value, str):
        return {"dtype": _EXPRESSIONS[value]} if value in _EXPRESSIONS else str.__str__(value)
    if isinstance(value, list | tuple):
        return [_encoded(entry) for entry in value]
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return _DTYPES[value["dtype"]]
    return [_decoded(entry) for entry in value] if isinstance(value, list) else value


def _in_config(value: Any) -> Any:
    if isinstance(value, dict):
        return f"${value['dtype'].replace('numpy', 'np')}"
    return [_in_config(entry) for entry in value] if isinstance(value, list) else value


def _shown(value: Any) -> str:
    try:
        return reprlib.repr(value)[:300]
    except ValueError:  # Python doesn't convert integers of more than 4300 digits to text
        return f"a {type(value).__name__}"
