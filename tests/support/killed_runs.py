"""Train by the bundle again and again in one process's children, each killed at a moment of its own.

python killed_runs.py <plan.json>: the plan has the overrides of a run and a list of kills; the last run is left alone.
A child is a fork of a process that has imported everything and computed nothing, so that a run costs no imports.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

FULL = 28
"""Status of a run that ended because a file couldn't be written."""


def die_at_call(module: Any, name: str, number: int, later: float = 0.0, by: str = "SIGKILL") -> None:
    """Send this process a signal when a function is called for the number-th time, or some seconds after that."""

    def die() -> None:
        time.sleep(later)
        os.kill(os.getpid(), getattr(signal, by))

    real, calls = getattr(module, name), [0]

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            if later:
                threading.Thread(target=die, daemon=True).start()
            else:
                die()
        return real(*args, **kwargs)

    setattr(module, name, counted)


def run_once(overrides: dict[str, Any], kill: dict[str, Any] | None, log: Path) -> str:
    """Fork a run; return "killed", "stopped" (it ended when it was asked to), "full" (disk), "done" or "failed"."""
    from monai.bundle import run

    from monai_betavae.saving.atomic_files import UnwritableFileError
    from monai_betavae.workflows.settings import unwrap_error

    child = os.fork()
    if child == 0:
        with open(log, "ab", buffering=0) as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        status = 1
        try:
            if kill and "room" in kill:
                # files beyond a size are refused by the system, as on a full disk
                resource.setrlimit(resource.RLIMIT_FSIZE, (kill["room"], resource.RLIM_INFINITY))
            if kill and "call" in kill:
                die_at_call(os, kill["call"], kill["number"], kill.get("later", 0.0), kill.get("by", "SIGKILL"))
            run("training", **overrides)
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        except BaseException as error:
            cause = unwrap_error(error)
            print(f"{type(cause).__name__}: {cause}", flush=True)
            status = FULL if isinstance(cause, UnwritableFileError) else 1
        finally:
            os._exit(status)
    if kill and "seconds" in kill:
        time.sleep(kill["seconds"])
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "killed"
    return {0: "done", FULL: "full", 128 + signal.SIGTERM: "stopped"}.get(os.WEXITSTATUS(status), "failed")


def main(plan_file: str) -> None:
    """Carry out a plan and print what each run came to, as JSON in the last line."""
    import torch

    import monai_betavae.workflows  # noqa: F401  # everything is imported before the forks

    torch.set_num_threads(1)
    plan = json.loads(Path(plan_file).read_text(encoding="utf-8"))
    outcomes, times = [], []
    for number, kill in enumerate([*plan["kills"], None]):
        # each its own: a limit on the size of files is one on its log too
        log = Path(plan_file).with_name(f"run{number:03d}.log")
        start = time.monotonic()
        outcomes.append(run_once(plan["overrides"], kill, log))
        times.append(round(time.monotonic() - start, 2))
    print(json.dumps({"outcomes": outcomes, "seconds": times}))


if __name__ == "__main__":
    main(sys.argv[1])
