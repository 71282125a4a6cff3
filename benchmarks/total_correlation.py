"""The estimated total correlation of Gaussian codes against its closed form, by batch size and number of latents.

python benchmarks/total_correlation.py [--n_images 2000] [--n_codes 20000]
"""

from __future__ import annotations

import math
from typing import Any

import fire
import numpy as np
import torch
from measure import report
from torch.distributions import Normal

from monai_betavae.objectives.total_correlation import ESTIMATORS, decomposed_kl

CORRELATION = 0.6
LATENTS, DEVIATIONS, BATCHES = (4, 16, 32), (0.5, 0.2), (4, 16, 64, 256)


def codes_of(n_images: int, latent_dim: int, deviation: float, seed: int) -> Normal:
    """Return posteriors whose aggregate is normal, with unit variances and pairs of correlated latents."""
    block = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]], dtype=torch.float64)
    means = torch.block_diag(*[block] * (latent_dim // 2)) - deviation**2 * torch.eye(latent_dim, dtype=torch.float64)
    draws = torch.Generator().manual_seed(seed)
    noise = torch.randn(n_images, latent_dim, generator=draws, dtype=torch.float64)
    return Normal(noise @ torch.linalg.cholesky(means).T, torch.full((n_images, latent_dim), deviation).double())


def main(n_images: int = 2000, n_codes: int = 20000) -> None:
    """Estimate in batches of several sizes, drawn without replacement from one cohort."""
    rows: list[dict[str, Any]] = []
    for latent_dim in LATENTS:
        exact = -latent_dim / 4 * math.log(1 - CORRELATION**2)
        for deviation in DEVIATIONS:
            q = codes_of(n_images, latent_dim, deviation, seed=0)
            for estimator in ESTIMATORS:
                row: dict[str, Any] = {
                    "latents": latent_dim,
                    "posterior's deviation": deviation,
                    "estimator": estimator,
                    "closed form": round(exact, 2),
                }
                for size in BATCHES:
                    draws, found = torch.Generator().manual_seed(1), []
                    for _ in range(n_codes // size):
                        chosen = torch.randperm(n_images, generator=draws)[:size]
                        batch = Normal(q.loc[chosen], q.scale[chosen])
                        noise = torch.randn(batch.loc.shape, generator=draws, dtype=torch.float64)
                        z = batch.loc + batch.scale * noise
                        found.append(float(decomposed_kl(z, batch, n_images, estimator)[1]))
                    error = np.std(found) / math.sqrt(len(found))
                    row[f"batch of {size}"] = f"{np.mean(found):.2f} ± {error:.2f}"
                rows.append(row)
    report(
        "total_correlation",
        "Estimated total correlation of Gaussian codes",
        {f"{n_images:,} images, pairs of latents with correlation {CORRELATION}, in nats": rows},
    )


if __name__ == "__main__":
    fire.Fire(main)
