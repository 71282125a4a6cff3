"""What all benchmarks share: interleaved runs, the machine in words, a table as Markdown and as JSON.

A ratio is that of the medians of runs that alternate, ours against the peer's, so that a machine that slows down or
speeds up meets both alike.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def interleaved(runs: Mapping[str, Callable[[], Any]], n_rounds: int, n_warmup: int = 1) -> dict[str, list[float]]:
    """Return the seconds of each run: all in turn, round after round; the first rounds don't count.

    Args:
        runs: what to time, by name. One that returns a number is believed instead of the clock: it has timed a part.
        n_rounds: rounds that count.
        n_warmup: rounds before them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(n_warmup + n_rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            own = run()
            taken = own if isinstance(own, float) else time.perf_counter() - start
            if number >= n_warmup:
                seconds[name].append(taken)
        print(f"round {number + 1} of {n_warmup + n_rounds}", file=sys.stderr)
    return seconds


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def ratio(ours: Sequence[float], peer: Sequence[float]) -> str:
    """Return the ratio of the medians, with the range of the ratios of single rounds."""
    pairs = sorted(own / other for own, other in zip(ours, peer, strict=True))
    return f"{median(ours) / median(peer):.2f} ({pairs[0]:.2f}–{pairs[-1]:.2f})"


def resident_bytes(which: str) -> int:
    """Return this process's resident set now ("VmRSS") or its peak since :func:`reset_peak` ("VmHWM"); Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(which)).split()[1]) * 1024


def reset_peak() -> None:
    """Give freed memory back and let the peak count from here."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def in_a_process(script: str, arguments: Mapping[str, Any]) -> Any:
    """Run ``script --row <arguments>`` in a fresh process and return the JSON of its last line: for peak memory."""
    command = [sys.executable, script, "--row", json.dumps(dict(arguments))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def matrix_product_gflops(size: int = 2048, n_runs: int = 5) -> float:
    """Return the speed of a float32 matrix product on this machine's CPU, the ceiling that others are held against."""
    import torch

    matrix = torch.rand(size, size)
    best = min(_seconds(lambda: matrix @ matrix) for _ in range(n_runs + 1))
    return 2 * size**3 / best / 1e9


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def machine() -> dict[str, Any]:
    """Return what the figures hang on: processor, threads, versions."""
    import lightning
    import monai
    import torch

    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        models = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ]
        name = models[0] if models else name
    described = {
        "processor": name,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vector": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
        "monai": monai.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


def report(
    name: str, title: str, tables: Mapping[str, Sequence[Mapping[str, Any]]], notes: str = "", **extra: Any
) -> None:
    """Print tables as Markdown, and write them and their JSON to ``benchmarks/results``.

    Args:
        name: name of the files.
        title: heading.
        tables: rows by heading; the keys of the first row are the columns.
        notes: what the tables don't say.
        extra: further content of the JSON.
    """
    described = machine()
    lines = [f"# {title}", ""]
    if notes:
        lines += [notes.strip(), ""]
    lines += [", ".join(f"{key} {value}" for key, value in described.items()) + ".", ""]
    for heading, rows in tables.items():
        columns = list(rows[0])
        lines += [f"## {heading}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]
        lines.append("")
    text = "\n".join(lines)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    content = {"machine": described, "tables": tables, **extra}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
