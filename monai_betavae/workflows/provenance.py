"""Provenance of a run: config, seed, versions, git state, data and split, in one file that can be run again.

``run.json`` is a config of MONAI's runner: the one that ran, with its overrides, absolute paths in place of relative
ones, and the additional entry "provenance". ``python -m monai.bundle run training --config_file run.json --output_dir
again --ckpt_dir again`` repeats the run and prints what has changed since.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ..bundle import running_config
from ..data.volumes.contrasts import OTHER_IMAGES, other_images
from ..saving.atomic_files import atomic_path
from .records import Record, print_once, process_rank

RUN_FILE = "run.json"
PROVENANCE = "provenance"

PACKAGES = ("monai-betavae", "torch", "monai", "lightning", "numpy", "scipy", "nibabel", "scikit-learn", "nilearn")
"""Packages whose versions can change the results."""

PATHS = (
    "dataset_dir",
    "output_dir",
    "ckpt_dir",
    "training_output_dir",
    "checkpoint",
    "cache_dir",
    "split_file",
    "init_from",
    "simulated_cohort",
)
"""Ids of a config that hold a path or a dictionary with a path."""

SAMPLE_BYTES = 2**16
"""Bytes of each end of a file that enter its fingerprint; a gzip file ends with a checksum of its whole content."""


def write_run(
    path: str | os.PathLike[str],
    parts: Mapping[str, Sequence[Record]],
    *,
    seed: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    resumed: bool = False,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Write the running config and its provenance, and print what has changed since the run that it repeats or resumes.

    Args:
        path: path of the file.
        parts: the records of each part of the data, such as training, validation and test.
        seed: seed of the run.
        weights: the model file that the run uses, if any.
        resumed: whether the run resumes the one that wrote the existing file.
        data: output of :func:`data_fingerprint` for ``parts``, if it is known already.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     scan = Path(folder) / "sub-1_T1w.nii.gz"
        ...     _ = scan.write_bytes(b"voxels")
        ...     write_run(Path(folder) / RUN_FILE, {"training": [{"image": str(scan), "subject": "sub-1"}]}, seed=3)
        ...     found = read_provenance(Path(folder) / RUN_FILE)
        >>> found["seed"], found["data"]["training"]["volumes"], found["versions"]["torch"] == torch.__version__
        (3, 1, True)
    """
    if process_rank() != 0:
        return
    config = running_config() or {}
    now = {"seed": seed, **environment(), "data": data_fingerprint(parts) if data is None else dict(data)}
    if weights is not None:
        now["weights"] = _digest(Path(weights).read_bytes())
    earlier = read_provenance(path) if resumed else None
    origin = earlier or config.get(PROVENANCE)
    if isinstance(origin, Mapping):
        differing = differences(origin, now)
        if differing:
            print_once(f"Not as {'before' if earlier else 'then'}: {'; '.join(differing)}. The numbers may differ.")
    if earlier is not None:
        now = {**earlier, "resumed": [*earlier.get("resumed", []), now]}
    stored = {**runnable(config), PROVENANCE: now}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


def environment() -> dict[str, Any]:
    """Return the time, command and software environment of this process.

    Returns:
        "started" (UTC), "command", "python", "platform", "versions" of packages, "git" (commit of this package's
        checkout, and whether files have changed since; ``None`` for an installed package), "device", "threads".

    Example:
        >>> environment()["versions"]["torch"] == importlib.metadata.version("torch")
        True
    """
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": list(sys.argv),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {name: _version(name) for name in PACKAGES},
        "git": git_state(Path(__file__).parent),
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_state(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the commit of the checkout that contains a folder and whether files differ from it, or ``None``.

    git must track the folder's files: a package in an environment inside a checkout isn't part of the checkout.
    """

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not git("ls-files", "."):
        return None
    return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--untracked-files=no"))}


def data_fingerprint(parts: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """Return the number of volumes of each part, and a digest of their subjects, their order and their files.

    The size and both ends of a file, 64 KiB each, enter the digest. That covers any ``.nii.gz``, which ends with a
    checksum of its content, but misses a change in the middle of an uncompressed file. The location of the files
    doesn't matter.

    Args:
        parts: the records of each part.

    Returns:
        "volumes" and "digest" for each part.
    """
    with ThreadPoolExecutor(8) as pool:
        return {
            part: {"volumes": len(records), "digest": _digest(json.dumps(list(pool.map(_described, records))).encode())}
            for part, records in parts.items()
        }


def _described(record: Record) -> list[Any]:
    # the folder of a path may differ between machines
    facts = {
        name: os.path.basename(value) if isinstance(value, str) and os.path.isabs(value) else str(value)
        for name, value in sorted(record.items())
        if name not in ("image", OTHER_IMAGES)
    }
    others = [[name, _file_digest(Path(path))] for name, path in other_images(record).items()]
    return [facts, _file_digest(Path(record["image"])), *([others] if others else [])]


def _file_digest(path: Path) -> Any:
    if path.is_dir():  # a DICOM series
        return [[child.name, _file_digest(child)] for child in sorted(path.iterdir()) if child.is_file()]
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            ends = file.read(SAMPLE_BYTES)
            if size > SAMPLE_BYTES:
                file.seek(max(SAMPLE_BYTES, size - SAMPLE_BYTES))
                ends += file.read()
    except OSError:  # for example a path followed by the number of a volume
        return None
    return [size, _digest(ends)]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def runnable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config that runs from any working directory: with absolute paths, and without resuming or overwriting.

    Args:
        config: raw config of MONAI's runner.

    Example:
        >>> found = runnable({"dataset_dir": "bids", "output_dir": "$@run_root + '/output'", "resume": True, "beta": 4})
        >>> Path(found["dataset_dir"]).is_absolute(), found["output_dir"], found["resume"], found["beta"]
        (True, "$@run_root + '/output'", False, 4)
    """
    plain: dict[str, Any] = json.loads(json.dumps(dict(config), default=str))
    for name in ("_meta_", PROVENANCE):
        plain.pop(name, None)
    for name in ("resume", "overwrite"):
        if name in plain:
            plain[name] = False
    for name in PATHS:
        holder, key = (plain[name], "output_dir") if isinstance(plain.get(name), dict) else (plain, name)
        value = holder.get(key)
        if isinstance(value, str) and not value.startswith(("$", "@", "%")):
            holder[key] = os.path.abspath(os.path.expanduser(value))
    return plain


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the provenance in the file of a run, or ``None`` if there is no such file.

    Raises:
        ValueError: naming the file, if :func:`write_run` didn't write it.
    """
    if not Path(path).is_file():
        return None
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))[PROVENANCE]
        if not isinstance(found, dict):
            raise TypeError(type(found).__name__)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{os.fspath(path)} must be the run.json of a training run: {error!r}.") from error
    return found


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences between two provenances that can change results, each as "name was this, now that".

    Example:
        >>> differences({"versions": {"torch": "2.12"}, "threads": 2}, {"versions": {"torch": "2.13"}, "threads": 2})
        ['torch was 2.12, now 2.13']
    """
    found = []
    for name in ("seed", "python", "platform", "device", "threads"):
        if name in before and before[name] != now.get(name):
            found.append(f"{name} was {before[name]}, now {now.get(name)}")
    for name, version in dict(before.get("versions") or {}).items():
        current = dict(now.get("versions") or {}).get(name)
        if version != current:
            found.append(f"{name} was {version}, now {current}")
    then_git, now_git = (dict(each.get("git") or {}) for each in (before, now))
    if then_git.get("commit") != now_git.get("commit"):
        found.append(f"the code was at commit {_short(then_git)}, now at {_short(now_git)}")
    elif then_git.get("changed") or now_git.get("changed"):
        found.append(f"the code has changes that commit {_short(now_git)} hasn't")
    for part, facts in dict(before.get("data") or {}).items():
        current = dict(now.get("data") or {}).get(part)
        if facts != current:
            counts = [dict(each or {}).get("volumes", 0) for each in (facts, current)]
            what = f"{counts[0]} volumes, now {counts[1]}" if counts[0] != counts[1] else "other volumes"
            found.append(f"{part} was of {what}")
    if before.get("weights") != now.get("weights"):
        found.append("the weights are others")
    return found


def _short(state: Mapping[str, Any]) -> str:
    return str(state.get("commit") or "none")[:12]
