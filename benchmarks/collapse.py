"""Two remedies for codes that collapse, where training starts cold: a warm-up of beta, and free bits.

python benchmarks/collapse.py [--seeds "[0,1,2]"] [--n_epochs 120] [--beta 16] [--work_dir folder]

A simulated cohort of 130 at 4 mm (100 for training, 30 held out), 10 latents, convolutions that start at the mean image
(`--warm_start mean`), batches of 4. The warm-up is linear over two thirds of the epochs. The error is relative to that
of the mean training image. A latent is active if its posterior mean's variance over held-out subjects exceeds 0.01.
What is in the working folder already is used again.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch
from measure import report
from torch.utils.data import DataLoader

from monai_betavae import BetaVAELoss, build_vae
from monai_betavae.data import brain_transforms, discover, simulate_cohort
from monai_betavae.evaluation import active_units, kl_per_dimension, squared_error
from monai_betavae.networks.latent_model import decode_array, encode_array
from monai_betavae.objectives import FreeBitsLoss
from monai_betavae.training import warmup_and_decay

COHORT_SEED, N_SUBJECTS, N_TRAINING, SPACING, SHAPE, LATENT_DIM = 2028, 130, 100, 4.0, (48, 60, 48), 10
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def losses(beta: float, n_epochs: int) -> dict[str, Callable[[], BetaVAELoss]]:
    """Return the losses of the table."""
    rising = {"kind": "linear", "length": 2 * n_epochs // 3, "unit": "epoch"}
    return {
        "constant beta": lambda: BetaVAELoss(beta),
        f"linear warm-up over {2 * n_epochs // 3} epochs": lambda: BetaVAELoss(beta, schedule=rising),
        "free bits of 3 nats": lambda: FreeBitsLoss(beta, free_nats=3.0),
    }


def one_run(loss: BetaVAELoss, images: Any, n_epochs: int, seed: int) -> dict[str, float]:
    """Train a model and return its scores on the held-out subjects."""
    vae = build_vae(
        SHAPE,
        LATENT_DIM,
        warm_start="mean",
        loss=loss,
        lr=1e-3,
        lr_scheduler=warmup_and_decay,
        random_state=seed,
        max_epochs=n_epochs,
        **QUIET,
    )
    training, held_out = images[:N_TRAINING], images[N_TRAINING:]
    vae.fit(DataLoader(torch.from_numpy(training), batch_size=4, shuffle=True))
    mu, logvar = encode_array(vae, held_out)
    mean = np.broadcast_to(training.mean(axis=0), held_out.shape)
    error = squared_error(held_out, decode_array(vae, mu)).sum() / squared_error(held_out, mean).sum()
    return {
        "active units": int(active_units(mu).sum()),
        "KL [nats]": float(kl_per_dimension(mu, logvar).sum()),
        "error": float(error),
    }


def main(
    seeds: Sequence[int] = (0, 1, 2), n_epochs: int = 120, beta: float = 16.0, work_dir: str | None = None
) -> None:
    """Train with every loss and seed, and write the table."""
    folder = Path(work_dir or tempfile.mkdtemp())
    place = folder / "brains"
    if not place.is_dir():
        simulate_cohort(place, N_SUBJECTS, COHORT_SEED, spacing=SPACING, lesion_fraction=0.0)
    transform: Any = brain_transforms(SHAPE, SPACING)
    records = sorted(discover(place), key=lambda record: str(record["subject"]))
    images = np.stack([transform(record)["image"].numpy() for record in records])
    rows = []
    for name, make in losses(beta, n_epochs).items():
        runs = []
        for seed in seeds:
            stored = folder / f"{name}_{beta:g}_{n_epochs}_{seed}.json"
            if not stored.is_file():
                began = time.monotonic()
                stored.write_text(json.dumps(one_run(make(), images, n_epochs, seed)))
                print(name, seed, f"{time.monotonic() - began:.0f} s", stored.read_text(), flush=True)
            runs.append(json.loads(stored.read_text()))
        row: dict[str, Any] = {"loss": name}
        for column, digits in (("active units", 0), ("KL [nats]", 1), ("error", 3)):
            row[column] = " / ".join(f"{run[column]:.{digits}f}" for run in runs)
        rows.append(row)
    table = {f"beta {beta:g}, {n_epochs} epochs, one value for each seed": rows}
    report("collapse", "Remedies for collapse", table, notes=(__doc__ or "").partition("folder]\n\n")[2])


if __name__ == "__main__":
    fire.Fire(main)
