"""Checks of the settings of a run before any volume is read, with one-line errors."""

from __future__ import annotations

import difflib
import inspect
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import Any

from ..bundle import config_file, running_bundle_root, running_parser
from ..saving.atomic_files import UnwritableFileError
from ..training.device import check_precision
from .command_line import is_runner, restore_texts
from .expressions import check_expressions
from .option_texts import MARKS, REFERENCE, Text, check_text, texts_of
from .provenance import PROVENANCE
from .records import print_once

TRACEBACK_VARIABLE = "MONAI_BETAVAE_TRACEBACK"
"""Environment variable that restores the traceback of errors printed in one line."""

MIN_VALUES = {"max_epochs": 1, "batch_size": 1, "num_workers": 0, "n_samples": 1, "seed": 0, "patience": 1}
"""Smallest values of settings that nothing else checks before the data are read."""

OURS = {"_meta_", "initialize", "finalize", PROVENANCE}
"""Ids that MONAI's runner itself reads, and the one that :mod:`~.provenance` adds to the config of a run."""

OF_THE_MODEL = ("network_def", "preprocessing", "likelihood")
"""Ids that configs after training take from the model's description unless they are given."""

PLAIN_ENTRIES = ("likelihood",)
"""Ids of components for which the resulting values may be given instead."""

OF_ANOTHER_CONFIG = ("space", "settings")
"""Ids of sweep.json and cross_validate.json that hold values by id of train.json, which the trainings check."""

ABSENT = object()
"""Marker of a missing value."""

RESERVED = ("_target_", "_requires_", "_disabled_", "_desc_", "_mode_", "_debug_")
"""Keys of a component that aren't arguments of its target."""


def check_settings(name: str) -> None:
    """Check the overrides of the running config, and shorten its errors to one line.

    This is the first step of every run id of the bundle. Texts that the command line read as Python are restored
    first; see :mod:`~.command_line`.

    Args:
        name: the bundle's config whose ids and types are accepted, such as "train.json".

    Raises:
        ValueError: naming the id, the value received and the values accepted.

    Example:
        >>> from monai.bundle import ConfigWorkflow
        >>> from monai_betavae import bundle_root
        >>> config = str(config_file(bundle_root(), "train.json"))
        >>> step = {"initialize": "$monai_betavae.workflows.check_settings('train.json')", "run_id": "initialize"}
        >>> workflow = ConfigWorkflow(config, logging_file=False, workflow_type="train", **step, latent_dims=8)
        >>> try:
        ...     workflow.initialize()
        ... except RuntimeError as error:
        ...     print(unwrap_error(error))
        'latent_dims' isn't an id of this config; did you mean 'latent_dim'?
    """
    shorten_errors()
    parser = running_parser()
    if parser is None:
        raise ValueError("check_settings must be called by a config that MONAI's runner evaluates.")
    own = json.loads(config_file(running_bundle_root(), name).read_text(encoding="utf-8"))
    typed = restore_texts(parser, own)
    config = parser.config
    check_config(config, own)
    check_expressions(parser, own, typed)
    replaced = [part for part in OF_THE_MODEL if part in own and _unlike(config.get(part), own[part])]
    if replaced and name != "train.json":
        print_once(f"Given here, in place of what the model's description says: {', '.join(replaced)}")


def check_config(config: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Check a config against the bundle's own values.

    Args:
        config: raw config, overrides included.
        own: the bundle's own config.

    Raises:
        ValueError: for an id that nothing refers to, a value of another type, an argument that a component doesn't
            have, or MONAI's ``--tracking``, which has no effect on a Lightning trainer.

    Example:
        >>> check_config({"beta": 4.0, "latent_dims": 8}, {"beta": 1.0, "latent_dim": 32})
        Traceback (most recent call last):
        ...
        ValueError: 'latent_dims' isn't an id of this config; did you mean 'latent_dim'?
    """
    _check_tracking(config)
    text = json.dumps(_plain(config)).replace("#", "::")
    for name, value in config.items():
        if name not in own and name not in OURS and not _is_used(name, value, text):
            of_trainings = f" An option of the trainings goes into --settings \"{{'{name}': ...}}\"." * (
                "settings" in own
            )
            raise ValueError(f"{name!r} isn't an id of this config{_accepted(name, own)}{of_trainings}")
        if name in own:
            _check_type(name, value, own[name])
            _check_group(name, value, own[name], text)
    for name, accepted in texts_of(own).items():
        if accepted.checked:
            _check_text(name, accepted, config)
    for name in ("precision", "train#trainer#precision"):
        precision = _value(config, name)
        if not (isinstance(precision, str) and precision.startswith(MARKS)):
            check_precision(precision, f"'{name}'")
    _check_references("", config, config)
    _check_arguments("", config)


def shorten_errors() -> None:
    """Shorten the report of an uncaught error of ``python -m monai.bundle`` to one line.

    MONAI wraps every error of a config in errors that show the expression. For a ``ValueError`` of this package, or a
    file that it can't write, only its message is printed, one line or a list of files and options
    (``MONAI_BETAVAE_TRACEBACK=1`` restores the rest). For other errors that line follows the traceback. Configs that
    are run from Python aren't affected.
    """
    if is_runner() and sys.excepthook is sys.__excepthook__:
        sys.excepthook = _print_error


def _print_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, Exception):
        sys.__excepthook__(kind, error, trace)
        return
    cause = unwrap_error(error)
    package = str(Path(__file__).resolve().parents[1])
    frames = traceback.extract_tb(cause.__traceback__)
    ours = (
        isinstance(cause, ValueError | UnwritableFileError) and bool(frames) and frames[-1].filename.startswith(package)
    )
    if not ours or os.environ.get(TRACEBACK_VARIABLE):
        sys.__excepthook__(kind, error, trace)
    print(listed_lines(cause) if ours else one_line(cause), file=sys.stderr)


def unwrap_error(error: BaseException) -> BaseException:
    """Return the original error inside MONAI's "Failed to evaluate", "Failed to instantiate" and "applying" errors."""
    wrapping = ("Failed to ", "applying transform ")
    while isinstance(error, RuntimeError) and str(error).startswith(wrapping) and error.__cause__ is not None:
        error = error.__cause__
    return error


def listed_lines(error: BaseException, at_most: int = 40) -> str:
    r"""Return the message of an error of this package: one line, or several if it lists files and options.

    Example:
        >>> print(listed_lines(ValueError("2 problems:\n  - one\n  - another")))
        Error: 2 problems:
          - one
          - another
    """
    lines = [line.rstrip() for line in str(error).strip().splitlines()]
    if len(lines) < 2:
        return one_line(error)
    more = [f"  ... {len(lines) - at_most} more lines"] if len(lines) > at_most else []
    return "\n".join([f"Error: {lines[0]}", *lines[1:at_most], *more])


def one_line(error: BaseException, at_most: int = 400) -> str:
    """Return the message of an error as one line.

    Example:
        >>> one_line(KeyError("train#trainr"))
        "Error: KeyError: 'train#trainr'"
    """
    text = " ".join(str(error).split())
    told = isinstance(error, ValueError | UnwritableFileError)
    named = text if told else f"{type(error).__name__}: {text}"
    return "Error: " + (named if len(named) <= at_most else named[: at_most - 4] + " ...")


def _accepted(name: str, own: Mapping[str, Any]) -> str:
    """Return the end of a message about an unknown name: the closest name, or all accepted names."""
    close = difflib.get_close_matches(name, own, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f". Accepted: {', '.join([key for key in own if not _is_part(own[key])] or own)}."


def _is_part(value: Any) -> bool:
    """Return whether a value is no setting but an expression, a component, a group of them or a list of steps."""
    if isinstance(value, str):
        return value.startswith(("$", "@", "%"))
    if isinstance(value, Mapping):
        return "_target_" in value or any(isinstance(entry, Mapping) for entry in value.values())
    return isinstance(value, list) and any(isinstance(entry, str) and entry.startswith("$") for entry in value)


def _is_used(name: str, value: Any, text: str) -> bool:
    """Return whether an id that the bundle doesn't have is referred to by another id, or can be run."""
    runs = value if isinstance(value, list) else [value]
    runnable = all(isinstance(item, str) and item.startswith(("$", "%")) for item in runs) and bool(runs)
    return runnable or re.search(rf"[@%]{re.escape(name)}(?![A-Za-z0-9_])", text) is not None


def _check_text(name: str, accepted: Text, config: Mapping[str, Any]) -> None:
    """Refuse the value of a text setting that is neither accepted nor in MONAI's syntax."""
    value = _value(config, name, ABSENT)
    if value is not ABSENT and not (isinstance(value, str) and value.startswith(MARKS)):
        check_text(name, value, accepted)


def _value(config: Any, name: str, default: Any = None) -> Any:
    """Return the value of an id, or ``default`` if the id is missing."""
    for key in name.split("#"):
        if not isinstance(config, Mapping) or key not in config:
            return default
        config = config[key]
    return config


def _check_type(name: str, value: Any, own: Any) -> None:
    """Refuse a value whose type doesn't match that of the bundle's own value."""
    last = name.rsplit("#", 1)[-1]
    if value is None and (isinstance(own, bool) or (last in MIN_VALUES and last != "seed" and isinstance(own, int))):
        wanted = "True or False" if isinstance(own, bool) else f"an integer >= {MIN_VALUES[last]}"
        raise ValueError(f"'{name}' must be {wanted}, got None.")
    if value is None or (isinstance(value, str) and value.startswith(("$", "@", "%"))):
        return
    if name in OF_ANOTHER_CONFIG:
        return
    if isinstance(own, Mapping) and isinstance(value, Mapping) and name not in PLAIN_ENTRIES:
        lacking = [key for key in own if key not in value and (key == "_target_" or not _is_part(own))]
        if lacking:
            raise ValueError(
                f"'{name}' lacks {', '.join(lacking)}: a dictionary replaces the whole entry, set a single one with "
                f"--{name}#<name> <value>."
            )
        if "_target_" in own:
            return
        for key, entry in value.items():
            if key in own:
                _check_type(f"{name}#{key}", entry, own[key])
            elif not _is_part(own):
                raise ValueError(f"'{name}#{key}' isn't an id of this config{_accepted(key, own)}")
        return
    accepted: tuple[str, Callable[[Any], bool]] | None = None
    if isinstance(own, bool):
        accepted = "True or False", lambda came: isinstance(came, bool)
    elif isinstance(own, int):
        lowest = MIN_VALUES.get(name.rsplit("#", 1)[-1])
        kind = "an integer" + ("" if lowest is None else f" >= {lowest}")
        accepted = kind, lambda came: _is_integer(came) and (lowest is None or came >= lowest)
    elif isinstance(own, float):
        accepted = "a number", lambda came: not isinstance(came, str | bool | Mapping)
    elif isinstance(own, list) and own and all(isinstance(entry, Real) for entry in own):
        kind = "integers" if all(isinstance(entry, int) for entry in own) else "numbers"
        check = _is_integer if kind == "integers" else _is_number
        accepted = (
            f"a list of {kind} such as {own}",
            lambda came: (
                isinstance(came, Sequence) and not isinstance(came, str) and bool(came) and all(map(check, came))
            ),
        )
    if accepted is not None and not accepted[1](value):
        raise ValueError(f"'{name}' must be {accepted[0]}, got {value!r}.")


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_tracking(config: Mapping[str, Any]) -> None:
    for name, component in _components("", config):
        if "train_handlers" in component or "val_handlers" in component:
            raise ValueError(
                f"--tracking adds MONAI's ignite handlers to '{name}', which isn't an ignite engine: use --logger "
                "mlflow (with --tracking_uri and --experiment_name, if you like) instead."
            )


def _check_references(name: str, value: Any, config: Mapping[str, Any]) -> None:
    """Refuse a value that refers to a missing id."""
    if isinstance(value, str) and re.fullmatch(REFERENCE, value):
        _check_reference(name, value, config)
    elif isinstance(value, str) and value.startswith("$"):
        for reference in re.finditer(REFERENCE, value):
            # an @ may be a Python operator; it is a reference if an id of this config follows
            if re.split("#|::", reference[0][1:])[0] in config:
                _check_reference(name, reference[0], config)
    elif isinstance(value, Mapping | list):
        for key, entry in value.items() if isinstance(value, Mapping) else enumerate(value):
            if key != "_meta_":
                _check_references(f"{name}#{key}" if name else str(key), entry, config)


def _check_reference(name: str, reference: str, config: Mapping[str, Any]) -> None:
    """Refuse a reference with a missing part: a key of a group, or an index of a list."""
    parts = re.split("#|::", reference[1:])
    there: Any = config
    for level, part in enumerate(parts):
        if isinstance(there, str) and there.startswith(("@", "%", "$")):
            return  # its value is known only when it is resolved
        shown = f"'{name}' refers to {reference.replace('::', '#')}"
        if isinstance(there, Mapping) and part not in there:
            where = f"an id of '{'#'.join(parts[:level])}'" if level else "an id of this config"
            raise ValueError(f"{shown}, but {part!r} isn't {where}{_accepted(part, there)}")
        if isinstance(there, list) and not (part.isdigit() and int(part) < len(there)):
            raise ValueError(
                f"{shown}, but '{'#'.join(parts[:level])}' is a list of {len(there)}, counted from 0, got {part!r}."
            )
        if not isinstance(there, Mapping | list):
            raise ValueError(f"{shown}, but '{'#'.join(parts[:level])}' has no parts.")
        there = there[part] if isinstance(there, Mapping) else there[int(part)]


def _check_group(name: str, value: Any, own: Any, text: str) -> None:
    """Refuse an id in a group such as ``train`` that the bundle doesn't have and nothing refers to.

    A typing error in a merged config file creates such an id.
    """
    if not (isinstance(value, Mapping) and isinstance(own, Mapping)) or "_target_" in own or name in OF_ANOTHER_CONFIG:
        return
    for key, entry in value.items():
        where = f"{name}#{key}"
        if key in own:
            _check_group(where, entry, own[key], text)
        elif re.search(rf"[@%]{re.escape(where.replace('#', '::'))}(?![A-Za-z0-9_])", text) is None:
            raise ValueError(f"{where!r} isn't an id of this config{_accepted(key, own)}")


def _unlike(value: Any, own: Any) -> bool:
    texts = [json.dumps(each, default=str, sort_keys=True).replace("#", "::") for each in (value, own)]
    return texts[0] != texts[1]


def _check_arguments(name: str, config: Mapping[str, Any]) -> None:
    """Refuse arguments that the target of a component doesn't have, before anything is built."""
    for where, component in _components(name, config):
        accepted = _parameters(component["_target_"])
        if accepted is None:
            continue
        for argument in component:
            if argument not in accepted and argument not in RESERVED:
                raise ValueError(
                    f"'{where}#{argument}' isn't an argument of {component['_target_']}"
                    f"{_accepted(argument, dict.fromkeys(accepted))}"
                )


def _parameters(target: Any) -> list[str] | None:
    """Return the argument names of a component's target, or ``None`` if it accepts any or isn't found."""
    from pydoc import locate

    # MONAI finds its own names by scanning all its modules; the bundle's components are in these
    modules = ("monai.data", "monai.inferers", "monai.transforms", "monai.networks.nets")
    names = [target] if "." in str(target) else [f"{module}.{target}" for module in modules]
    candidates: list[Any] = [locate(str(name)) for name in names]
    located = next((candidate for candidate in candidates if callable(candidate)), None)
    if located is None:
        return None
    accepted: list[str] = []
    makers = [located]
    if inspect.isclass(located):
        # a class passes arguments that it doesn't know to its base
        makers = [vars(kind)["__init__"] for kind in located.__mro__ if "__init__" in vars(kind)]
    for maker in makers:
        try:
            parameters = inspect.signature(maker).parameters
        except (TypeError, ValueError):
            return None
        accepted += [name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD]
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return [name for name in accepted if name != "self"]
    return None


def _components(name: str, config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every component of a config that names a target, with its id."""
    if isinstance(config, Mapping):
        if isinstance(config.get("_target_"), str):
            yield name, config
        entries: Any = config.items()
    elif isinstance(config, list):
        entries = enumerate(config)
    else:
        return
    for key, value in entries:
        if key != "_meta_":
            yield from _components(f"{name}#{key}" if name else str(key), value)


def _plain(config: Any) -> Any:
    """Return a config with values that JSON doesn't support as text, since properties may be set to objects."""
    return json.loads(json.dumps(config, default=str))
