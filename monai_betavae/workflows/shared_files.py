"""The files of a model that is passed on: which there are, their digests, and what isn't in them.

A shared model is a bundle in the model zoo's layout without ``scripts/``, with the card as ``README.md`` and with
``digests.json``, which has the SHA-256 of every other file.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..bundle import bundle_root, config_file
from ..saving.safe_loading import load_weights_only
from .model_card import CARD_FILE, MIN_CELL, WEIGHTS_LINE, file_sha256
from .model_description import MODEL_FILE, SETTINGS_FILE, trained_description
from .trained_model import trained_network
from .zoo import LOGGING, write_zoo_bundle

README, DIGESTS_FILE = "README.md", "digests.json"
WEIGHTS, DESCRIPTION = f"models/{MODEL_FILE}", f"models/{SETTINGS_FILE}"

NEEDED = (README, DIGESTS_FILE, WEIGHTS, DESCRIPTION)
"""Files without which a repository holds no shared model."""

FURTHER = re.compile(r"LICENSE|docs/README\.md|configs/\w+\.json|configs/logging\.conf")
"""Further files that it may hold: texts and configs, of which nothing is run or kept when it is pulled."""

OF_THE_HUB = (".gitattributes",)
"""Files that the hub itself puts into a repository."""

FORMAT = "monai_betavae.shared/1"

MAX_TEXT = 16 * 2**20
"""Largest accepted size of a file other than the weights, in bytes."""


def is_shared_file(name: str) -> bool:
    """Return whether a shared model may have a file.

    Args:
        name: path in the repository.

    Example:
        >>> names = ("models/model.pt", "configs/train.json", "configs/../x.json", "setup.py")
        >>> [is_shared_file(name) for name in names]
        [True, True, False, False]
    """
    return name in NEEDED or FURTHER.fullmatch(name) is not None


def check_file_names(names: Iterable[str], where: str) -> None:
    """Refuse files that a shared model can't have.

    Args:
        names: paths in the repository.
        where: what holds them, for the message.

    Raises:
        ValueError: naming the files.
    """
    others = sorted(name for name in names if not is_shared_file(name) and name not in OF_THE_HUB)
    if others:
        raise ValueError(
            f"{where} must hold a shared model and nothing else, got {', '.join(map(repr, others[:5]))}"
            f"{f' and {len(others) - 5} more' if len(others) > 5 else ''}. Accepted are {', '.join(NEEDED)}, LICENSE, "
            "docs/README.md and the configs."
        )


def write_shared_files(folder: Path, ckpt_dir: Path, card: Path, *, small_groups: bool = False) -> None:
    """Write the files that are pushed.

    Args:
        folder: a new folder.
        ckpt_dir: folder of the trained model.
        card: its card.
        small_groups: whether the coding of covariates may tell of groups of fewer than five training volumes.

    Raises:
        ValueError: naming the file, if there is no model or card, the card is of other weights, the weights don't fit,
            a part of the model is the user's own, or a group is small.
    """
    description = trained_description(ckpt_dir)
    if not card.is_file():
        raise ValueError(
            f"{card} must be the model's card: training writes it, and so does "
            "monai_betavae.workflows.write_model_card for a model of an earlier version."
        )
    if not small_groups:
        _check_groups(description, ckpt_dir / SETTINGS_FILE)
    models = folder.with_name(folder.name + "-model")
    models.mkdir()
    shutil.copyfile(ckpt_dir / MODEL_FILE, models / MODEL_FILE)
    stored = json.loads((ckpt_dir / SETTINGS_FILE).read_text(encoding="utf-8"))
    (models / SETTINGS_FILE).write_text(json.dumps(shared_description(stored), indent=1) + "\n", encoding="utf-8")
    check_weights(models, str(ckpt_dir / MODEL_FILE))
    write_zoo_bundle(folder, models)
    shutil.rmtree(models)
    shutil.rmtree(folder / "scripts")
    for name in _files_of(folder):
        if not is_shared_file(name):
            (folder / name).unlink()
    shutil.copyfile(card, folder / README)
    _check_card(folder, card)
    digests = {name: file_sha256(folder / name) for name in _files_of(folder)}
    (folder / DIGESTS_FILE).write_text(json.dumps({"format": FORMAT, "files": digests}, indent=1) + "\n")


def _files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def shared_files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by their path in it, and refuse any that a shared model can't have."""
    names = _files_of(folder)
    check_file_names(names, "what is pushed")
    return {name: folder / name for name in names}


def harmless_files(root: Path | None = None) -> dict[str, Path]:
    """Return the package's own files that a shared model holds, by their path in it."""
    root = bundle_root() if root is None else root
    found = {"LICENSE": root / "LICENSE", "docs/README.md": root / "docs" / "README.md"}
    configs = config_file(root, LOGGING).parent
    return found | {f"configs/{path.name}": path for path in (*configs.glob("*.json"), configs / LOGGING)}


def shared_description(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's description without the lowest and highest value of its covariates, which are single subjects'.

    In their place are the mean and two standard deviations on either side. Only a warning for values far outside of the
    training's depends on them; the coding doesn't.

    Args:
        description: content of ``model.json``.

    Example:
        >>> age = {"name": "age", "kind": "quantity", "mean": 60.0, "sd": 10.0, "range": [18.0, 97.0]}
        >>> made = shared_description({"covariates": {"covariates": [age], "added": []}})
        >>> made["covariates"]["covariates"][0]["range"]
        [40.0, 80.0]
    """
    made: dict[str, Any] = copy.deepcopy(dict(description))
    for entry in (made.get("covariates") or {}).get("covariates") or ():
        if entry.get("kind") == "quantity":
            entry["range"] = [entry["mean"] - 2 * entry["sd"], entry["mean"] + 2 * entry["sd"]]
    return made


def _check_groups(description: Mapping[str, Any], source: Path) -> None:
    """Refuse a coding from whose shares a reader could tell how few subjects of a level there were."""
    n_volumes = (description.get("trained_on") or {}).get("volumes")
    for entry in (description.get("covariates") or {}).get("covariates") or ():
        levels = dict(zip(entry.get("levels") or (), entry.get("shares") or (), strict=False))
        levels["missing"] = entry.get("missing") or 0.0
        for level, share in levels.items():
            count = None if n_volumes is None else round(share * n_volumes)
            if share > 0 and (count is None or count < MIN_CELL):
                raise ValueError(
                    f"{source} must not tell of groups of fewer than {MIN_CELL} training volumes, got "
                    f"{'an unknown number' if count is None else count} of {entry['name']} = {level!r}, whose share is "
                    "in the model's coding; nothing was pushed. Train without such groups, or give `small_groups=True` "
                    "if they may be known."
                )


def _check_card(folder: Path, card: Path) -> None:
    """Refuse a card that says that it is of other weights."""
    try:
        text = (folder / README).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{card} must be a text in UTF-8: {error}") from error
    before, after = WEIGHTS_LINE.split("{}")
    named = re.findall(re.escape(before) + "([0-9a-f]{64})" + re.escape(after), text)
    digest = file_sha256(folder / WEIGHTS)
    if any(each != digest for each in named):
        raise ValueError(
            f"{card} is of other weights, SHA-256 {named[0]}, than {MODEL_FILE}, SHA-256 {digest}: write it again with "
            "monai_betavae.workflows.write_model_card."
        )


def check_weights(models: Path, source: str) -> None:
    """Refuse weights that are more or less than those of the described network; nothing in them is executed.

    Args:
        models: folder of ``model.pt`` and ``model.json``.
        source: the weights, for the message.

    Raises:
        ValueError: naming the file.
    """
    network = trained_network(models)
    try:
        network.load_state_dict(load_weights_only(models / MODEL_FILE))
    except Exception as error:  # a file may hold values that torch doesn't expect in place of weights
        reasons = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
        raise ValueError(f"{source} doesn't fit its {SETTINGS_FILE}: {reasons[min(1, len(reasons) - 1)]}") from error


def read_digests(path: Path, names: Iterable[str], where: str) -> dict[str, str]:
    """Read ``digests.json`` and compare its files with those of the repository.

    Args:
        path: the file.
        names: files of the repository.
        where: the repository, for messages.

    Returns:
        SHA-256 of each file.

    Raises:
        ValueError: naming the files that are missing, additional or not accepted.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        digests = found["files"]
        if found["format"] != FORMAT or not all(re.fullmatch("[0-9a-f]{64}", digests[name]) for name in digests):
            raise ValueError(f"no digests of format {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{DIGESTS_FILE} of {where} must be what push_model wrote: {error!s:.200}") from error
    there = {name for name in names if name not in (*OF_THE_HUB, DIGESTS_FILE)}
    missing, additional = sorted(digests.keys() - there), sorted(there - digests.keys())
    missing += [name for name in NEEDED if name not in digests and name != DIGESTS_FILE and name not in missing]
    for kind, files in (("lacks", missing), ("has besides", additional)):
        if files:
            raise ValueError(
                f"{where} must hold the files that {DIGESTS_FILE} lists, but {kind} {', '.join(map(repr, files[:5]))}; "
                "nothing was kept."
            )
    check_file_names(digests, where)
    return dict(digests)


def check_digest(path: Path, name: str, digest: str, where: str) -> None:
    """Refuse a file that isn't the one that was pushed.

    Args:
        path: the file.
        name: its path in the repository.
        digest: SHA-256 that it must have.
        where: the repository, for the message.

    Raises:
        ValueError: naming the file.
    """
    found = file_sha256(path)
    if found != digest:
        raise ValueError(
            f"{name} of {where} must have SHA-256 {digest}, got {found}: it was changed; nothing was kept."
        )


def card_of(ckpt_dir: Path, card: str | Path | None) -> Path:
    """Return the path of a model's card."""
    return ckpt_dir / CARD_FILE if card is None else Path(card)
