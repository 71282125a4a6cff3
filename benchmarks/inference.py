"""Embedding volumes: ``transform``, ours against nidl's, the same networks and weights.

python benchmarks/inference.py [--n_rounds 9]
"""

from __future__ import annotations

from typing import Any

import fire
import peers
import torch
from measure import interleaved, median, ratio, report

from monai_betavae import VAE

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def main(n_rounds: int = 9) -> None:
    """Time ``transform`` of 8, 32 and 128 volumes in batches of 4."""
    images = peers.brain_like(128)
    rows = []
    for architecture in ("conv", "plain"):
        built = peers.our_vae(architecture=architecture, warm_start="none")
        parts = (built.encoder, built.decoder, built.encoder_out_dim, peers.LATENT_DIM)
        made: dict[str, Any] = {}
        for name, kind in (("ours", VAE), ("nidl", peers.nidl_vae())):
            made[name] = kind(*parts, random_state=0, stochastic_transform=False, max_epochs=1, **QUIET)
            made[name].fitted_ = True
        ours, theirs = (made[name].transform(torch.utils.data.DataLoader(images[:8], batch_size=4)) for name in made)
        for n_volumes in (8, 32, 128):
            loader = torch.utils.data.DataLoader(images[:n_volumes], batch_size=4)
            runs = {
                name: (lambda model=model, loader=loader: model.transform(loader) is None)
                for name, model in made.items()
            }
            seconds = interleaved(runs, n_rounds)
            rows.append(
                {
                    "networks": architecture,
                    "volumes": n_volumes,
                    "ours, volumes per second": n_volumes / median(seconds["ours"]),
                    "nidl 0.0.2, volumes per second": n_volumes / median(seconds["nidl"]),
                    "ours / nidl's": ratio(seconds["nidl"], seconds["ours"]),
                }
            )
        print(architecture, "shapes of the latents", tuple(ours.shape), tuple(theirs.shape))
    report("inference", "Inference: transform", {"Volumes of 64×80×64 in memory, batches of 4": rows})


if __name__ == "__main__":
    fire.Fire(main)
