"""MONAI's runner in processes that have imported everything already: what a command costs, less ten seconds of imports.

A server imports torch, MONAI, Lightning and this package once and computes nothing. For each command it forks a child
that takes the command's folder, environment and arguments, and runs ``python -m monai.bundle`` as Python itself would.
What a command prints, writes and returns is the same; a test that must see a fresh interpreter starts one.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

MODULE = "monai.bundle"


def run_child(request: dict[str, Any]) -> None:
    """Become the command's process."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        os.dup2(os.open(request.get(name, os.devnull), flags), number)
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    tempfile.tempdir = None
    import torch

    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sys.argv = request["argv"]
    status = 0
    try:
        os.chdir(request["cwd"])
        sys.path[0] = request["cwd"]
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        with contextlib.suppress(Exception):
            threading._shutdown()  # what an interpreter does at its end: wait for threads, then what was registered
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status)


def serve() -> None:
    """Fork a child for each line of JSON, and print its number and status when it has ended."""
    import torch.utils.tensorboard  # noqa: F401  # it takes seconds, and a run that logs imports it

    import monai_betavae.workflows  # noqa: F401

    lock = threading.Lock()

    def answer(number: int, child: int) -> None:
        _, status = os.waitpid(child, 0)
        with lock:
            print(json.dumps([number, os.waitstatus_to_exitcode(status)]), flush=True)

    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        with lock:  # no thread is printing while the process is copied
            child = os.fork()
        if child == 0:
            run_child(request)
        threading.Thread(target=answer, args=(request["number"], child), daemon=True).start()


class WarmRunner:
    """Commands of MONAI's runner through a server; start it once for a file of tests, and close it."""

    def __init__(self) -> None:
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.lock = threading.Lock()
        self.ended: dict[int, int] = {}
        self.changed = threading.Condition()
        self.number = 0
        self.folder = tempfile.TemporaryDirectory()
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        assert self.server.stdout is not None
        for line in self.server.stdout:
            if line.startswith("["):
                number, status = json.loads(line)
                with self.changed:
                    self.ended[number] = status
                    self.changed.notify_all()
        with self.changed:
            self.ended[-1] = self.server.wait()
            self.changed.notify_all()

    def takes(self, command: list[str]) -> bool:
        """Return whether a command is one of the runner's."""
        return list(command[:3]) == [sys.executable, "-m", MODULE]

    def run(
        self, command: list[str], cwd: Any, env: dict[str, str] | None = None, timeout: float = 400
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, as ``subprocess.run(..., capture_output=True, text=True)`` does."""
        assert self.takes(command), command
        with self.lock:
            self.number += 1
            number = self.number
            files = {name: str(Path(self.folder.name) / f"{number}.{name}") for name in ("stdout", "stderr")}
            import monai.bundle

            arguments = [str(Path(monai.bundle.__file__).with_name("__main__.py")), *map(str, command[3:])]
            request = {"number": number, "argv": arguments, "cwd": str(cwd), "env": dict(env or os.environ), **files}
            assert self.server.stdin is not None
            self.server.stdin.write(json.dumps(request) + "\n")
            self.server.stdin.flush()
        with self.changed:
            done = self.changed.wait_for(lambda: number in self.ended or -1 in self.ended, timeout)
        if not done:
            raise subprocess.TimeoutExpired(command, timeout)
        assert number in self.ended, f"the server ended with {self.ended[-1]}"
        read = {name: Path(path).read_text(errors="replace") for name, path in files.items()}
        return subprocess.CompletedProcess(command, self.ended[number], read["stdout"], read["stderr"])

    def close(self) -> None:
        """End the server."""
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(timeout=60)
        self.listener.join(timeout=60)
        self.server.stdout.close()  # type: ignore[union-attr]
        self.folder.cleanup()


if __name__ == "__main__":
    serve()
