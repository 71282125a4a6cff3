"""How time and memory of a training step grow with voxels, batch and processes.

python benchmarks/scaling.py [--n_rounds 5]

Our default network (conv, deformable template), isotropic grids from 32³ to 128³, each size in processes of its own.
The exponent is the slope of log time, or log memory, against log voxels.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import fire
import numpy as np
import peers
import torch
from measure import in_a_process, median, report, reset_peak, resident_bytes

SIDES = (32, 48, 64, 96, 128)
BATCHES = (1, 2, 4, 8, 16)


def measure(side: int, batch_size: int, n_steps: int = 5, threads: int = 0) -> dict[str, float]:
    """Measure training steps of one size in this process."""
    if threads:
        torch.set_num_threads(threads)
    shape = (side,) * 3
    images = peers.brain_like(max(batch_size, 40), shape)
    vae = peers.our_vae(shape, images, architecture="conv", warm_start="deformable", norm="group")
    batch = images[:batch_size].clone()
    del images
    step = peers.our_step(vae)
    reset_peak()  # the warm start's memory isn't a step's: it goes back before the count begins
    before = resident_bytes("VmRSS")
    seconds = []
    for _ in range(n_steps + 2):
        start = time.perf_counter()
        step(batch)
        seconds.append(time.perf_counter() - start)
    return {"seconds": median(seconds[2:]), "mib": (resident_bytes("VmHWM") - before) / 2**20}


def slope(sides: list[int], values: list[float]) -> float:
    """Return the exponent of values against voxels."""
    return float(np.polyfit(3 * np.log(sides), np.log(values), 1)[0])


def in_two_processes(side: int, batch_size: int, n_steps: int) -> float:
    """Return the volumes per second of two processes of one thread, each with half the batch, started together."""
    row = {"side": side, "batch_size": batch_size // 2, "n_steps": n_steps, "threads": 1}
    command = [sys.executable, __file__, "--row", json.dumps(row)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    taken = [json.loads(process.communicate()[0].splitlines()[-1])["seconds"] for process in running]
    return batch_size / max(taken)


def main(n_rounds: int = 3, n_steps: int = 5, row: dict[str, Any] | None = None) -> None:
    """Measure all tables; ``row`` names one size and prints JSON."""
    if row is not None:
        print(json.dumps(measure(**row)))
        return
    seconds: dict[tuple[int, int], float] = {}
    mib: dict[tuple[int, int], float] = {}
    for batch_size in BATCHES:
        for side in SIDES:
            if batch_size * side**3 > 8 * 128**3:
                continue
            found = [
                in_a_process(__file__, {"side": side, "batch_size": batch_size, "n_steps": n_steps})
                for _ in range(n_rounds if side < 128 else 1)
            ]
            seconds[side, batch_size] = median([one["seconds"] for one in found])
            mib[side, batch_size] = median([one["mib"] for one in found])
            print(side, batch_size, seconds[side, batch_size], mib[side, batch_size], file=sys.stderr)
    tables: dict[str, list[dict[str, Any]]] = {}
    for heading, values in (("Seconds per step", seconds), ("MiB that a step adds at its peak", mib)):
        rows = []
        for batch_size in BATCHES:
            sides = [side for side in SIDES if (side, batch_size) in values]
            line: dict[str, Any] = {"batch": batch_size}
            line.update({f"{side}³": values.get((side, batch_size)) for side in SIDES})
            line["exponent"] = slope(sides, [values[side, batch_size] for side in sides])
            rows.append(line)
        tables[heading] = rows
    alone = [in_a_process(__file__, {"side": 64, "batch_size": 4, "n_steps": 20})["seconds"] for _ in range(n_rounds)]
    together = [in_two_processes(64, 4, 20) for _ in range(n_rounds)]
    tables["Volumes per second at 64³, a global batch of 4"] = [
        {"one process, two threads": 4 / median(alone), "two processes, one thread each": median(together)}
    ]
    report("scaling", "Scaling: voxels, batch, processes", tables, notes=(__doc__ or "").split("\n\n", 2)[2])


if __name__ == "__main__":
    fire.Fire(main)
