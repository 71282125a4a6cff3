"""Wall-clock to a held-out error: ours against MONAI's VarAutoEncoder and PCA, on the simulated cohort.

python benchmarks/quality.py [--data_dir folder] [--n_training 128] [--n_epochs 16]

The held-out error is the summed squared error of reconstructions from the posterior mean, relative to that of the mean
training image. Its evaluation doesn't count as time, ours includes the warm start. All models: 32 latents, channels
16-32-64-128, batches of 4 in one order, AdamW at a constant 1e-3, the loss SSE + KL.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fire
import peers
import torch
from measure import report
from torch import Tensor

from monai_betavae.data import brain_transforms, discover, simulate_cohort
from monai_betavae.evaluation.reconstruction import pca_reconstruction

BATCH_SIZE, SPACING, N_HELD_OUT = 4, 3.0, 48


def volumes(data_dir: str | None, n_subjects: int) -> Tensor:
    """Return the images of a simulated cohort, made where it isn't there yet."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(data_dir or temporary) / f"simulated_{n_subjects}"
        if not folder.is_dir():
            simulate_cohort(folder, n_subjects=n_subjects, spacing=SPACING, seed=11)
        transform: Any = brain_transforms(peers.SHAPE, SPACING)
        return torch.stack([transform(record)["image"] for record in discover(folder)])


class Race:
    """A model in training: its own seconds, its held-out error after each epoch."""

    def __init__(
        self, name: str, make: Callable[[], tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor]]]
    ) -> None:
        self.name = name
        start = time.perf_counter()
        self.step, self.reconstruct = make()
        self.seconds = time.perf_counter() - start
        self.course: list[tuple[float, float]] = []

    def epoch(self, training: Tensor, order: Tensor) -> None:
        """Train on all volumes once."""
        start = time.perf_counter()
        for rows in order.split(BATCH_SIZE):
            self.step(training[rows])
        self.seconds += time.perf_counter() - start

    def score(self, held_out: Tensor, base: float) -> None:
        """Add the held-out error to the course."""
        parts = [self.reconstruct(part) - part for part in held_out.split(8)]
        error = float(torch.cat(parts).square().flatten(1).sum(1).mean()) / base
        self.course.append((self.seconds, error))
        print(f"{self.name}: {len(self.course) - 1} epochs, {self.seconds:.0f} s, {error:.4f}", flush=True)


def main(data_dir: str | None = None, n_training: int = 128, n_epochs: int = 16, plain: bool = False) -> None:
    """Train all models, epoch by epoch in turn, and print when ours passed the peer's last error."""
    images = volumes(data_dir, n_training + N_HELD_OUT)
    training, held_out = images[:n_training], images[n_training:]
    base = float((held_out - training.mean(0)).square().flatten(1).sum(1).mean())

    def ours(**arguments: Any) -> Callable[[], Any]:
        def make() -> Any:
            torch.manual_seed(0)
            vae = peers.our_vae(images=training, **arguments)
            return peers.our_step(vae), lambda part: vae.reconstruct(part).detach()

        return make

    def peer() -> Any:
        network = peers.var_autoencoder()
        return peers.var_autoencoder_step(network), lambda part: peers.reconstruct_with_var_autoencoder(network, part)

    wanted = {name: arguments for name, arguments in peers.OURS.items() if plain or arguments["architecture"] == "conv"}
    races = [Race(peers.PEER, peer)] + [Race(name, ours(**arguments)) for name, arguments in wanted.items()]
    start = time.perf_counter()
    arrays = training.numpy(), held_out.numpy()
    restored = pca_reconstruction(*arrays, peers.LATENT_DIM)
    pca_seconds = time.perf_counter() - start
    pca_error = float(((restored - arrays[1]) ** 2).reshape(len(held_out), -1).sum(1).mean()) / base

    for race in races:
        race.score(held_out, base)
    for number in range(n_epochs):
        order = torch.randperm(n_training, generator=torch.Generator().manual_seed(number))
        for race in races:
            race.epoch(training, order)
            race.score(held_out, base)

    peer_seconds, peer_error = races[0].course[-1]
    rows = [{"model": f"PCA, {peers.LATENT_DIM} components (sklearn)", "error": pca_error, "seconds": pca_seconds}]
    for race in races:
        reached = next((seconds for seconds, error in race.course if error <= peer_error), None)
        rows.append(
            {
                "model": race.name,
                "error at the start": race.course[0][1],
                "error": race.course[-1][1],
                "best error": min(error for _, error in race.course),
                "/ PCA's": race.course[-1][1] / pca_error,
                "seconds": race.course[-1][0],
                "seconds to the peer's error": reached,
                "/ peer's seconds": None if reached is None else reached / peer_seconds,
            }
        )
    rows = [{key: row.get(key) for key in rows[-1]} for row in rows]
    heading = f"{n_training} training volumes of 64×80×64, {N_HELD_OUT} held out, {n_epochs} epochs (simulated)"
    report(
        "quality" if n_training == 128 else f"quality_{n_training}",
        "Quality: wall-clock to a held-out error",
        {heading: rows},
        notes=(__doc__ or "").split("\n\n", 2)[2],
        courses={race.name: race.course for race in races},
    )


if __name__ == "__main__":
    fire.Fire(main)
