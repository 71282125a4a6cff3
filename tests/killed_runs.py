"""Train by the bundle again and again in one process's children, each killed at a moment of its own.

python killed_runs.py <plan.json>: the plan has the overrides of a run and a list of kills; the last run is left alone.
A child is a fork of a process that has imported everything and computed nothing, so that a run costs no imports.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any


def die_at_call(module: Any, name: str, number: int, later: float = 0.0) -> None:
    """Kill this process by SIGKILL when a function is called for the number-th time, or some seconds after that."""

    def die() -> None:
        time.sleep(later)
        os.kill(os.getpid(), signal.SIGKILL)

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
    """Fork a run; return "killed", "done" or "failed"."""
    from monai.bundle import run

    child = os.fork()
    if child == 0:
        with open(log, "ab", buffering=0) as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        status = 1
        try:
            if kill and "call" in kill:
                die_at_call(os, kill["call"], kill["number"], kill.get("later", 0.0))
            run("training", **overrides)
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        finally:
            os._exit(status)
    if kill and "seconds" in kill:
        time.sleep(kill["seconds"])
        os.kill(child, getattr(signal, kill.get("signal", "SIGKILL")))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "killed"
    return "done" if os.WEXITSTATUS(status) == 0 else "failed"


def main(plan_file: str) -> None:
    """Carry out a plan and print what each run came to, as JSON in the last line."""
    import torch

    import monai_betavae.workflows  # noqa: F401  # everything is imported before the forks

    torch.set_num_threads(1)
    plan = json.loads(Path(plan_file).read_text(encoding="utf-8"))
    log = Path(plan_file).with_suffix(".log")
    outcomes, times = [], []
    for kill in [*plan["kills"], None]:
        start = time.monotonic()
        outcomes.append(run_once(plan["overrides"], kill, log))
        times.append(round(time.monotonic() - start, 2))
    print(json.dumps({"outcomes": outcomes, "seconds": times}))


if __name__ == "__main__":
    main(sys.argv[1])
