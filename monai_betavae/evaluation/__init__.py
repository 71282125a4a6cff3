"""Arrays in, numbers out: how good reconstructions and latents are."""
