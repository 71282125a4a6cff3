"""From files on disk to tensors: discovery, splits, transforms, and the simulated cohort."""
