"""Random posteriors and images for tests of objectives."""

import torch
from torch.distributions import Normal


def random_case(seed, n_batch=None, n_latents=None, dtype=torch.float64):
    """Return images, reconstructions, posteriors and codes; sizes follow from the seed unless given."""
    draws = torch.Generator().manual_seed(seed)
    n_batch = n_batch or int(torch.randint(2, 9, (), generator=draws))
    n_latents = n_latents or int(torch.randint(1, 7, (), generator=draws))

    def normal(*shape):
        return torch.randn(*shape, generator=draws, dtype=torch.float64).to(dtype)

    q = Normal(1.5 * normal(n_batch, n_latents), (0.7 * normal(n_batch, n_latents)).exp())
    z = q.mean + q.scale * normal(n_batch, n_latents)
    return normal(n_batch, 1, 3, 4), normal(n_batch, 1, 3, 4), q, z
