"""A training step and an epoch: time, volumes per second, memory, share of the machine's arithmetic.

python benchmarks/training.py [--n_rounds 12] [--n_epochs 4]
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from typing import Any

import fire
import peers
import torch
from measure import in_a_process, interleaved, matrix_product_gflops, median, ratio, report, reset_peak, resident_bytes
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from monai_betavae import VAE, BetaVAELoss
from monai_betavae.networks.correction import RENEWAL_BATCHES, renew_gain

BATCH_SIZE, N_VOLUMES = 4, 48
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
DEFAULT = next(iter(peers.OURS))


def make_step(name: str, images: Tensor) -> Callable[[Tensor], None]:
    if name == peers.PEER:
        return peers.var_autoencoder_step(peers.var_autoencoder())
    return peers.our_step(peers.our_vae(images=images, **peers.OURS[name]))


def memory(name: str) -> dict[str, float]:
    """Measure what training adds to this process at a step's peak: weights, gradients, optimizer, activations."""
    images = peers.brain_like(N_VOLUMES)
    batch = images[:BATCH_SIZE].clone()
    before = resident_bytes("VmRSS")
    step = make_step(name, images)
    reset_peak()  # a warm start reads volumes once, which isn't a step's memory
    for _ in range(4):
        step(batch)
    return {"mib": (resident_bytes("VmHWM") - before) / 2**20}


def steps(n_rounds: int) -> list[dict[str, Any]]:
    """Time single steps of all models in turn."""
    images = peers.brain_like(N_VOLUMES)
    batch = images[:BATCH_SIZE].clone()
    made = {name: make_step(name, images) for name in (*peers.OURS, peers.PEER)}
    ceiling = matrix_product_gflops()
    seconds = interleaved({name: lambda step=step: step(batch) for name, step in made.items()}, n_rounds, n_warmup=2)
    # the curvature is measured once in so many steps: each step takes its share
    started = peers.our_vae(images=images, **peers.OURS[DEFAULT])
    renewals = interleaved({DEFAULT: lambda: renew_gain(started)}, 3, n_warmup=1)
    seconds[DEFAULT] = [taken + median(renewals[DEFAULT]) / RENEWAL_BATCHES for taken in seconds[DEFAULT]]
    rows = []
    for name, step in made.items():
        with FlopCounterMode(display=False) as counter:
            step(batch)
        speed = counter.get_total_flops() / median(seconds[name]) / 1e9
        rows.append(
            {
                "model": name,
                "seconds per step": median(seconds[name]),
                "volumes per second": BATCH_SIZE / median(seconds[name]),
                "time / VarAutoEncoder's": ratio(seconds[name], seconds[peers.PEER]),
                "GFLOP/s": speed,
                "of a matrix product's": speed / ceiling,
            }
        )
    found = [{name: in_a_process(__file__, {"name": name})["mib"] for name in made} for _ in range(3)]
    peaks = {name: median([row[name] for row in found]) for name in made}
    for row in rows:
        row["peak MiB"] = peaks[row["model"]]
        row["memory / VarAutoEncoder's"] = peaks[row["model"]] / peaks[peers.PEER]
    return rows


def epochs(n_rounds: int, n_epochs: int) -> list[dict[str, Any]]:
    """Time whole epochs of the same networks: by hand, by ours, by nidl's, the latter two also as they come."""
    images = peers.brain_like(N_VOLUMES)
    network = peers.our_vae(architecture="conv", warm_start="none")

    def loader() -> Any:
        return torch.utils.data.DataLoader(images, batch_size=BATCH_SIZE, shuffle=True)

    def hand_written() -> float:
        vae = copy.deepcopy(network).train()
        optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3)
        criterion = BetaVAELoss(beta=1.0)
        taken = []
        for _ in range(n_epochs):
            start = time.perf_counter()
            for batch in loader():
                features = vae.encoder(batch)
                mu, logvar = vae.fc_mu(features), vae.fc_logvar(features)
                posterior = torch.distributions.Normal(mu, torch.exp(0.5 * logvar))
                loss = criterion(batch, vae.decoder(posterior.rsample()), posterior)["loss"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            taken.append(time.perf_counter() - start)
        return median(taken[1:])

    def fitted(make: Callable[..., Any], **options: Any) -> float:
        clock = EpochClock()
        parts = copy.deepcopy(network)
        estimator = make(
            parts.encoder,
            parts.decoder,
            parts.encoder_out_dim,
            peers.LATENT_DIM,
            lr=1e-3,
            random_state=0,
            max_epochs=n_epochs,
            callbacks=[clock],
            **options,
        )
        estimator.fit(loader())
        return median(clock.seconds[1:])

    nidl_vae = peers.nidl_vae()
    runs: dict[str, Callable[[], float]] = {
        "hand-written loop": hand_written,
        "ours, VAE.fit": lambda: fitted(VAE, **QUIET),
        "nidl 0.0.2, VAE.fit": lambda: fitted(nidl_vae, **QUIET),
        "ours, VAE.fit as it comes (progress bar, checkpoints, log)": lambda: fitted(VAE),
        "nidl 0.0.2, VAE.fit as it comes": lambda: fitted(nidl_vae),
    }
    seconds = interleaved(runs, n_rounds)
    return [
        {
            "run": name,
            "seconds per epoch": median(taken),
            "/ hand-written": ratio(taken, seconds["hand-written loop"]),
            "/ nidl's": ratio(taken, seconds["nidl 0.0.2, VAE.fit"]),
        }
        for name, taken in seconds.items()
    ]


def _epoch_clock() -> Any:
    import lightning.pytorch as pl

    class _Clock(pl.Callback):
        """Time from the first to the last of an epoch's hooks."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self._start = 0.0

        def on_train_epoch_start(self, *_: Any) -> None:
            self._start = time.perf_counter()

        def on_train_epoch_end(self, *_: Any) -> None:
            self.seconds.append(time.perf_counter() - self._start)

    return _Clock


EpochClock = _epoch_clock()


def main(n_rounds: int = 12, n_epochs: int = 4, row: dict[str, Any] | None = None) -> None:
    """Measure both tables; ``row`` names a model whose memory is printed as JSON."""
    if row is not None:
        print(json.dumps(memory(**row)))
        return
    report(
        "training",
        "Training: a step and an epoch",
        {
            "One step, batches of 4 volumes of 64×80×64, 32 latents, channels 16-32-64-128": steps(n_rounds),
            "One epoch of 48 volumes, our conv networks in all": epochs(max(3, n_rounds), n_epochs),
        },
        notes="Medians of interleaved runs; behind each ratio the range of the ratios of single rounds.",
    )


if __name__ == "__main__":
    fire.Fire(main)
