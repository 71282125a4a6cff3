"""A training of several: a process of its own, so that it ends, fails and frees its memory alone."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle import bundle_root, config_file
from ..saving.atomic_files import atomic_path
from .records import SPLIT_FILE
from .run_checks import RESUME_FILE

LOG_FILE, DONE_FILE, EVALUATION_LOG = "training.log", "trained", "evaluation.log"
"""What a training printed, an empty file that says that it ended well, and what its evaluation printed."""

RESERVED = ("output_dir", "ckpt_dir", "seed", "resume", "overwrite", "split_file")
"""Ids of a training that only those who start several of them set."""


@dataclass(frozen=True)
class TrainedRun:
    """A setting with a seed, and the folder of its training.

    Attributes:
        setting: values by id.
        seed: seed of the training.
        folder: of its outputs and weights.
    """

    setting: Mapping[str, Any]
    seed: int
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether the training has ended well."""
        return (self.folder / DONE_FILE).is_file()


def command_of(run: TrainedRun, shared: Mapping[str, Any], split_file: Path | None) -> list[str]:
    """Return the command of a run: the bundle's own, resumed where an interrupted one has left a checkpoint.

    Args:
        run: the run.
        shared: settings of all runs by id.
        split_file: split of the subjects, ``None`` for the first run, which makes it.
    """
    given: dict[str, Any] = {**shared, **run.setting, "seed": run.seed}
    given |= {"output_dir": str(run.folder), "ckpt_dir": str(run.folder)}
    # the weights of a checkpoint, its table and its split belong together; anything less is begun again
    resumed = (run.folder / RESUME_FILE).is_file() and (run.folder / SPLIT_FILE).is_file()
    given["resume" if resumed else "overwrite"] = True
    if split_file is not None:
        given["split_file"] = str(split_file)
    words = [word for name, value in given.items() for word in (f"--{name}", as_typed(value))]
    config = str(config_file(bundle_root(), "train.json"))
    return [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", config, *words]


def as_typed(value: Any) -> str:
    """Return a value as one types it for MONAI's runner.

    Example:
        >>> as_typed("mean"), as_typed(4.0), as_typed([1, 2]), as_typed({"kind": "linear"})
        ('mean', '4.0', '[1, 2]', "{'kind': 'linear'}")
    """
    return value if isinstance(value, str) else repr(value)


def check_same_settings(path: Path, told: Mapping[str, Any], noted: Mapping[str, Any] | None = None) -> None:
    """Note what trainings in a folder are told, or refuse one where a training has begun that was told something else.

    Args:
        path: JSON file of the folder, which is created.
        told: what must stay the same.
        noted: what may change, and is noted too.

    Raises:
        ValueError: naming the file and each difference.
    """
    plain = json.loads(json.dumps(dict(told)))
    # a mistyped setting ends before the first checkpoint, and may be corrected
    begun = next(path.parent.rglob(RESUME_FILE), None) is not None
    if begun and path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        differing = [
            f"{name} was {before.get(name)}, now {now}" for name, now in plain.items() if before.get(name) != now
        ]
        if differing:
            raise ValueError(f"`output_dir` must be another one: in {path}, {'; '.join(differing)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({**plain, **(noted or {})}, indent=1) + "\n", encoding="utf-8")


def train_all(
    runs: Sequence[TrainedRun],
    shared: Mapping[str, Any],
    n_processes: int,
    split_file: Path | None,
    on_finish: Callable[[TrainedRun], None],
) -> None:
    """Train the runs that aren't finished, several at once.

    Args:
        runs: the runs.
        shared: settings of all runs by id.
        n_processes: number of trainings at once.
        split_file: split of the subjects, if there is one already.
        on_finish: called after each run.

    Raises:
        RuntimeError: naming the run and its log, if a training fails; others that run are ended, and go on with the
            same command.
    """
    waiting = iter([run for run in runs if not run.finished])
    running: list[tuple[TrainedRun, subprocess.Popen[bytes]]] = []
    try:
        while _fill(running, waiting, shared, n_processes, split_file) or running:
            time.sleep(0.2)
            for run, process in list(running):
                if process.poll() is None:
                    continue
                running.remove((run, process))
                if process.returncode != 0:
                    raise RuntimeError(_failure(run, process.returncode))
                (run.folder / DONE_FILE).touch()
                on_finish(run)
    finally:
        for _, process in running:
            process.terminate()
        for _, process in running:
            process.wait()


def _fill(
    running: list[tuple[TrainedRun, subprocess.Popen[bytes]]],
    waiting: Iterator[TrainedRun],
    shared: Mapping[str, Any],
    n_processes: int,
    split_file: Path | None,
) -> bool:
    """Start runs while there are fewer than wanted; return whether one was started."""
    started = False
    while len(running) < n_processes:
        run = next(waiting, None)
        if run is None:
            break
        run.folder.mkdir(parents=True, exist_ok=True)
        with (run.folder / LOG_FILE).open("ab") as log:
            process = subprocess.Popen(
                command_of(run, shared, split_file), stdout=log, stderr=subprocess.STDOUT, preexec_fn=_end_with_parent
            )
        running.append((run, process))
        started = True
    return started


def evaluate_run(run: TrainedRun, options: Mapping[str, Any]) -> None:
    """Evaluate a trained run on the subjects that it held out, by the bundle's own command.

    Args:
        run: the run, which has finished.
        options: values by id of ``evaluate.json``.

    Raises:
        RuntimeError: naming the run and its log, if the evaluation fails.
    """
    folders = {"output_dir": str(run.folder), "ckpt_dir": str(run.folder), "overwrite": True}
    words = [word for name, value in {**folders, **options}.items() for word in (f"--{name}", as_typed(value))]
    config = str(config_file(bundle_root(), "evaluate.json"))
    command = [sys.executable, "-m", "monai.bundle", "run", "evaluation", "--config_file", config, *words]
    with (run.folder / EVALUATION_LOG).open("wb") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, preexec_fn=_end_with_parent).returncode
    if code != 0:
        raise RuntimeError(_failure(run, code, "evaluation", EVALUATION_LOG))


def _end_with_parent() -> None:
    """Have a command killed with the process that started it, so that a second one doesn't meet it in its folder."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _failure(run: TrainedRun, code: int, what: str = "training", log: str = LOG_FILE) -> str:
    """Return what to say of a command that failed: its own last line."""
    text = (run.folder / log).read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    lines = [line for line in text.splitlines() if line.strip()]
    said = lines[-1].strip() if lines else "it printed nothing"
    return (
        f"The {what} with {json.dumps(dict(run.setting))} and seed {run.seed} ended with status {code}: {said[:300]} "
        f"Its log is {os.fspath(run.folder / log)}; the same command goes on from here."
    )
