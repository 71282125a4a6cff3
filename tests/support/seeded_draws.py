"""A generator of its own for what a test draws."""

import torch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)
