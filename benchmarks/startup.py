"""Start-up: what imports take, and how long a training command needs to its first step.

python benchmarks/startup.py [--n_rounds 3]

The command trains on a simulated cohort on disk (200 subjects at 3 mm); its first step ends when a callback sees
the first batch done. Everything runs in fresh processes; the first round fills the file cache and doesn't count.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import fire
import lightning.pytorch as pl

IMPORTS = """
import time
start = time.perf_counter()
import torch, monai.bundle, monai.data, monai.networks.nets, monai.transforms, lightning.pytorch
middle = time.perf_counter()
import monai_betavae, monai_betavae.workflows
print(middle - start, time.perf_counter() - middle)
"""


class StopAtFirstStep(pl.Callback):
    """Write the time when the first batch is done, and end the process."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_batch_end(self, *_: Any) -> None:
        """Write and leave."""
        Path(self.path).write_text(str(time.time()), encoding="utf-8")
        os._exit(0)


def imports() -> tuple[float, float]:
    """Return the seconds of importing the dependencies, and of ours on top."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    others, ours = done.stdout.split()[-2:]
    return float(others), float(ours)


def first_step(folder: Path, cohort: Path, number: int, *overrides: str) -> float:
    """Return the seconds from the command to the end of its first step."""
    from monai_betavae import bundle_root

    stamp, merged = folder / f"stamp_{number}", folder / "stop.json"
    merged.write_text(
        f'{{"+train#callbacks": [{{"_target_": "startup.StopAtFirstStep", "path": "{stamp}"}}]}}', encoding="utf-8"
    )
    configs = f"['{bundle_root() / 'train.json'}','{merged}']"
    out = str(folder / f"run_{number}")
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", configs]
    command += ["--dataset_dir", str(cohort), "--output_dir", out, "--ckpt_dir", out, *overrides]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    start = time.time()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if not stamp.is_file():
        raise RuntimeError(done.stdout[-1000:] + done.stderr[-2000:])
    return float(stamp.read_text(encoding="utf-8")) - start


def main(n_rounds: int = 3, data_dir: str | None = None) -> None:
    """Measure imports and first steps in turn."""
    from measure import median, report

    from monai_betavae.data import simulate_cohort

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cohort = Path(data_dir) if data_dir else simulate_cohort(folder / "cohort", n_subjects=200, spacing=3.0)
        others, ours, steps, mean_steps = [], [], [], []
        for number in range(n_rounds + 1):
            taken = imports()
            step = first_step(folder, cohort, 2 * number)
            mean_step = first_step(folder, cohort, 2 * number + 1, "--warm_start", "mean")
            if number:
                others.append(taken[0])
                ours.append(taken[1])
                steps.append(step)
                mean_steps.append(mean_step)
    rows = [
        {"what": "import torch, monai, lightning", "seconds": median(others), "/ that import": 1.0},
        {"what": "import monai_betavae and its workflows after them", "seconds": median(ours)},
        {"what": "command to first step", "seconds": median(steps)},
        {"what": "command to first step, --warm_start mean", "seconds": median(mean_steps)},
    ]
    for row in rows:
        row["/ that import"] = float(row["seconds"]) / median(others)
    report("startup", "Start-up", {"200 subjects on disk, 140 for training, 64×80×64": rows}, notes=(__doc__ or ""))


if __name__ == "__main__":
    fire.Fire(main)
