"""Peak memory and time of a training step: image shape x batch size, on this machine's CPU or GPU.

python benchmarks/memory.py [--device cpu] [--precision 32-true] [--output table.md]

Each row is a process of its own: the bundle's network (a deformable template), AdamW, smooth random images, the median
of some steps after one of warm-up. On the CPU memory is the process's peak resident set minus that before the network
was made, on a GPU the peak that torch allocated. Images that are cached (4 bytes per voxel and volume) come on top.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time

import fire

SHAPES = {3.0: (64, 80, 64), 2.0: (96, 120, 96), 1.5: (128, 160, 128), 1.0: (192, 240, 192)}
BATCHES = (1, 2, 4, 8)


def measure(spacing: float, batch_size: int, device: str, precision: str, n_steps: int) -> dict[str, float]:
    """Measure one row in this process."""
    import peers
    import torch
    from measure import reset_peak, resident_bytes

    shape = SHAPES[spacing]
    images = peers.brain_like(34, shape)
    before = resident_bytes("VmRSS")
    vae = peers.our_vae(shape, images, **next(iter(peers.OURS.values()))).to(device).train()
    optimizer = vae.configure_optimizers()[0]
    images = images[:batch_size].clone().to(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        before -= 4 * (34 - batch_size) * images[0].numel()  # what the other volumes took is given back
        reset_peak()
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    seconds = []
    for _ in range(n_steps + 1):
        _wait(device)
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(device, half, enabled=half is not None):
            loss = vae.training_step(images, 0)["loss"]
        loss.backward()
        optimizer.step()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident_bytes("VmHWM") - before
    return {"gib": peak / 2**30, "seconds": statistics.median(seconds[1:])}


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def main(
    device: str = "cpu",
    precision: str = "32-true",
    output: str = "",
    row: dict[str, float] | None = None,
    n_steps: int = 5,
    at_most_gib: float = 16.0,
) -> None:
    """Measure all rows, each in a fresh process, and print a Markdown table; ``row`` names one and prints JSON."""
    if row is not None:
        print(json.dumps(measure(**row, device=device, precision=precision, n_steps=n_steps)))
        return
    lines = [
        f"{device}, {precision}; {os.cpu_count()} CPUs ({platform.machine()})",
        "",
        "| image | " + " | ".join(f"batch {batch}" for batch in BATCHES) + " |",
        "|---|" + "---|" * len(BATCHES),
    ]
    for spacing, shape in SHAPES.items():
        cells: list[str] = []
        last = 0.0
        for batch in BATCHES:
            if 2 * last > at_most_gib:
                cells.append("–")
                continue
            arguments = json.dumps({"spacing": spacing, "batch_size": batch})
            command = [sys.executable, __file__, "--row", arguments, "--device", device, "--precision", precision]
            done = subprocess.run([*command, "--n_steps", str(n_steps)], capture_output=True, text=True, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
            last = result["gib"]
            cells.append(f"{result['gib']:.2g} GiB, {result['seconds']:.2g} s")
            print(f"{shape} batch {batch}: {cells[-1]}", file=sys.stderr)
        lines.append(f"| {'×'.join(map(str, shape))} ({spacing:g} mm) | " + " | ".join(cells) + " |")
    table = "\n".join(lines)
    print(table)
    if output:
        with open(output, "w", encoding="utf-8") as file:
            file.write(table + "\n")


if __name__ == "__main__":
    fire.Fire(main)
