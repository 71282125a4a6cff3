"""The data path: memory of an epoch, second start, cached loading, a kill while the cache is built.

python benchmarks/data.py [--n_rounds 7]

Volumes of 96×120×96 at 2 mm, int16 in .nii.gz, resampled to 64×80×64 at 3 mm by the bundle's preprocessing. Starts and
epochs run in processes of their own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import fire
import nibabel as nib
import numpy as np
import peers
import torch
from measure import in_a_process, interleaved, median, ratio, report, reset_peak, resident_bytes
from monai.data import CacheDataset, DataLoader, PersistentDataset

from monai_betavae.data import DiskCacheDataset, brain_transforms

SOURCE_SHAPE, SHAPE = (96, 120, 96), (64, 80, 64)


def write_volumes(folder: Path, n_volumes: int) -> None:
    """Write the files; the shapes repeat, the noise and so every file differs."""
    images = peers.brain_like(20, SOURCE_SHAPE).numpy()
    rng = np.random.default_rng(0)
    for index in range(n_volumes):
        values = images[index % len(images), 0] * rng.uniform(500, 1500)
        image = nib.Nifti1Image(values.astype(np.int16), np.diag([2.0, 2.0, 2.0, 1.0]))
        nib.save(image, folder / f"sub-{index:03d}.nii.gz")


def records(folder: Path, n_volumes: int) -> list[dict[str, str]]:
    return [{"image": str(folder / f"sub-{i:03d}.nii.gz"), "subject": f"sub-{i:03d}"} for i in range(n_volumes)]


def dataset(folder: Path, n_volumes: int, cache: Path, storage: str = "float32") -> DiskCacheDataset:
    steps = brain_transforms(SHAPE, 3.0)
    return DiskCacheDataset(records(folder, n_volumes), steps, cache, storage=storage, progress=False)


def start(folder: str, n_volumes: int, cache: str) -> dict[str, float]:
    """Time from the records to a dataset that is ready."""
    begun = time.perf_counter()
    dataset(Path(folder), n_volumes, Path(cache))
    return {"seconds": time.perf_counter() - begun}


def epoch(folder: str, n_volumes: int, cache: str) -> dict[str, float]:
    """Measure the peak resident memory of an epoch of training steps, and what the process had before."""
    samples = dataset(Path(folder), n_volumes, Path(cache))
    step = peers.our_step(peers.our_vae(SHAPE, architecture="conv", warm_start="none"))
    reset_peak()
    for batch in DataLoader(samples, batch_size=4, shuffle=True, num_workers=0):
        step(batch["image"])
    return {"mib": resident_bytes("VmHWM") / 2**20}


def killed_and_resumed(folder: Path, n_volumes: int, base: Path) -> dict[str, Any]:
    """Kill a process while it fills a cache; start again and compare with a clean cache."""
    row = {"what": "start", "folder": str(folder), "n_volumes": n_volumes, "cache": str(base / "killed")}
    process = subprocess.Popen([sys.executable, __file__, "--row", json.dumps(row)], stdout=subprocess.DEVNULL)
    while len(list((base / "killed").rglob("[0-9a-f]*.pt"))) < n_volumes // 2:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = len(list((base / "killed").rglob("[0-9a-f]*.pt")))
    resumed, clean = (dataset(folder, n_volumes, base / name) for name in ("killed", "clean"))
    same = all(torch.equal(resumed[i]["image"], clean[i]["image"]) for i in range(n_volumes))
    return {"volumes": n_volumes, "there when killed": left, "after the next start equal to a clean build": same}


def loading(folder: Path, n_volumes: int, base: Path, n_rounds: int) -> list[dict[str, Any]]:
    """Time reading all items once, caches filled."""
    data, steps = records(folder, n_volumes), brain_transforms(SHAPE, 3.0)
    datasets: dict[str, Any] = {
        f"ours, disk, {storage}": dataset(folder, n_volumes, base / "ours", storage)
        for storage in ("float32", "float16", "uint8")
    }
    datasets["MONAI CacheDataset"] = CacheDataset(data, steps, progress=False)
    datasets["MONAI PersistentDataset"] = PersistentDataset(data, steps, base / "monai")

    def read(items: Any) -> None:
        for index in range(n_volumes):
            items[index]["image"]

    def by_nibabel() -> None:
        for record in data:
            np.asarray(nib.load(record["image"]).dataobj)

    runs: dict[str, Any] = {name: lambda items=items: read(items) for name, items in datasets.items()}
    runs["nibabel alone, the file's own grid"] = by_nibabel
    seconds = interleaved(runs, n_rounds)
    size = {name: "–" for name in runs}
    for storage in ("float32", "float16", "uint8"):
        files = list(datasets[f"ours, disk, {storage}"].folder.iterdir())
        size[f"ours, disk, {storage}"] = f"{sum(file.stat().st_size for file in files) / len(files) / 2**20:.2f}"
    peer = seconds["MONAI PersistentDataset"]
    return [
        {
            "dataset": name,
            "volumes per second": n_volumes / median(taken),
            "/ PersistentDataset's": ratio(peer, taken),
            "MiB per volume on disk": size[name],
        }
        for name, taken in seconds.items()
    ]


def main(n_rounds: int = 7, row: dict[str, Any] | None = None) -> None:
    """Measure all tables; ``row`` names one start or epoch and prints JSON."""
    if row is not None:
        print(json.dumps({"start": start, "epoch": epoch}[row.pop("what")](**row)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        folder = base / "volumes"
        folder.mkdir()
        write_volumes(folder, 400)
        one = {"folder": str(folder), "n_volumes": 100}
        firsts, seconds = [], []
        for number in range(3):
            arguments = {"what": "start", **one, "cache": str(base / f"start_{number}")}
            firsts.append(in_a_process(__file__, arguments)["seconds"])
            seconds.append(in_a_process(__file__, arguments)["seconds"])
        starts = [{"first": median(firsts), "second": median(seconds), "second / first": ratio(seconds, firsts)}]
        cache = str(base / "epochs")
        in_a_process(__file__, {"what": "start", "folder": str(folder), "n_volumes": 400, "cache": cache})
        peaks: dict[int, list[float]] = {100: [], 400: []}
        for _ in range(3):
            for n_volumes, found in peaks.items():
                arguments = {"what": "epoch", "folder": str(folder), "n_volumes": n_volumes, "cache": cache}
                found.append(in_a_process(__file__, arguments)["mib"])
        memory = [
            {
                "100 volumes": median(peaks[100]),
                "400 volumes": median(peaks[400]),
                "400 / 100": ratio(peaks[400], peaks[100]),
            }
        ]
        tables = {
            "Peak resident MiB of an epoch, disk cache": memory,
            "Seconds to a dataset of 100 volumes": starts,
            "Reading 64 volumes, caches filled": loading(folder, 64, base, n_rounds),
            "Killed while the cache is filled": [killed_and_resumed(folder, 64, base)],
        }
    report("data", "The data path", tables, notes=(__doc__ or "").split("\n\n", 2)[2])


if __name__ == "__main__":
    fire.Fire(main)
