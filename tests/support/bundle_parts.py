"""Parts of a user's own, as a config names them."""

from monai.transforms import MapTransform
from torch import nn

from monai_betavae import BetaVAELoss


class Doubled(BetaVAELoss):
    """The beta-VAE loss with the divergence counted twice."""

    def kl_normal_loss(self, q):
        return 2 * super().kl_normal_loss(q)


def plain_loss(x, p, q):
    """A loss that says neither distribution nor beta."""
    rec_loss = (x - p.mean).abs().flatten(1).sum(1).mean()
    kl_loss = (q.mean**2).sum(1).mean()
    return {"loss": rec_loss + 0.01 * kl_loss, "rec_loss": rec_loss, "kl_loss": kl_loss}


class Squared(MapTransform):
    """Square the intensities."""

    def __call__(self, data):
        return {**data, **{key: data[key] ** 2 for key in self.keys}}


class FourParts(nn.Module):
    """A network of one's own with nothing but encoder, decoder, fc_mu and fc_logvar."""

    def __init__(self, spatial_shape, latent_dim):
        super().__init__()
        n_voxels = spatial_shape[0] * spatial_shape[1] * spatial_shape[2]
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(n_voxels, 6), nn.ReLU())
        self.decoder = nn.Sequential(nn.Linear(latent_dim, n_voxels), nn.Unflatten(1, (1, *spatial_shape)))
        self.fc_mu, self.fc_logvar = nn.Linear(6, latent_dim), nn.Linear(6, latent_dim)
