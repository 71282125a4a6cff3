"""The modules of the networks: encoder, decoder, blocks of voxels as channels, and one plain module of all parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from .conditional_mean import ConditionalMean
from .correction import CodeCorrection
from .latent_model import LatentModel
from .noise import Noise
from .posterior import bounded, corrected_means, posterior_distribution, posterior_parameters
from .principal_projection import PrincipalProjection
from .template import DeformableTemplate


class Encoder(nn.Module):
    """A convolutional body whose feature map is flattened, and principal component scores after it, if wanted.

    Args:
        body: network from images to a feature map.
        in_shape: channels and spatial shape of the images.
        out_dim: number of features after flattening, scores included.
        projection: gives the scores, once a warm start has set it; zeros until then.
    """

    def __init__(
        self, body: nn.Module, in_shape: Sequence[int], out_dim: int, projection: PrincipalProjection | None = None
    ) -> None:
        super().__init__()
        self.body = body
        self.in_shape = list(in_shape)
        self.out_dim = out_dim
        self.projection = projection

    def forward(self, image: Tensor) -> Tensor:
        """Map images of shape (batch, channel, ...) to features of shape (batch, out_dim)."""
        if list(image.shape[1:]) != self.in_shape:
            raise ValueError(
                f"`image` must have channels and spatial shape {self.in_shape}, for which this encoder was built, "
                f"got {list(image.shape[1:])}."
            )
        features: Tensor = self.body(image).flatten(1)
        if self.projection is not None:
            features = torch.cat([features, self.projection(image).to(features.dtype)], dim=1)
        return features


class Decoder(nn.Module):
    """Convolutional levels from a code to an image, and the mean training image, or a template, added at the end.

    A deformable template decodes alone: beside it convolutional levels only learned the training volumes by heart
    (docs/performance.md). So there are none in a decoder that has one.

    Attributes:
        output_mean: buffer of shape (channel, ...), added to what the levels give; zero until
            :meth:`set_output_mean`. In front of a sigmoid it is on the logit scale.
        template: what a warm start beyond the mean image sets, or ``None``.

    Args:
        latent_dim: number of latent dimensions.
        start_shape: channels and sides of the coarsest grid.
        levels: network from that grid to at least ``out_shape``; ``None`` for a template alone.
        out_shape: channels and spatial shape of the output; what the levels give beyond it is cut off.
        sigmoid: whether the output passes through a sigmoid.
        warm_start: where training starts; see :mod:`~monai_betavae.networks.warm_start`.
        n_voxels: how many voxels the template's components will have.
        n_corrections: number of steps by which a deformable template corrects the encoder's codes; see
            :meth:`corrected_codes`.
        noise: "unit", "global" or "voxel"; see :mod:`~monai_betavae.networks.noise`.
        n_covariates: number of coded covariates that the mean of the prior follows; see
            :mod:`~monai_betavae.networks.conditional_mean`.
    """

    def __init__(
        self,
        latent_dim: int,
        start_shape: Sequence[int],
        levels: nn.Module | None,
        out_shape: Sequence[int],
        sigmoid: bool,
        warm_start: str = "mean",
        n_voxels: int = 0,
        n_corrections: int = 0,
        noise: str = "unit",
        n_covariates: int = 0,
    ) -> None:
        super().__init__()
        self.warm_start = warm_start
        self.n_corrections = n_corrections
        self.start_shape = list(start_shape)
        self.out_shape = list(out_shape)
        self.sigmoid = sigmoid
        self.linear = nn.Linear(latent_dim, math.prod(start_shape)) if levels is not None else None
        self.levels = levels
        # typed here and not in the class: TorchScript can't read a class annotation that is a string
        self.output_mean: Tensor
        self.register_buffer("output_mean", torch.zeros(*out_shape))
        self.template: DeformableTemplate | None = None
        if warm_start in ("linear", "deformable"):
            self.template = DeformableTemplate(latent_dim, out_shape, warm_start == "deformable", n_voxels)
        self.correction: CodeCorrection | None = None
        if warm_start == "deformable" and levels is None:
            self.correction = CodeCorrection(latent_dim)
        self.noise: Noise | None = None if noise == "unit" else Noise(noise, out_shape)
        self.condition: ConditionalMean | None = ConditionalMean(n_covariates, latent_dim) if n_covariates else None

    def forward(self, z: Tensor, covariates: Tensor | None = None) -> Tensor:
        """Map codes of shape (batch, latent_dim) to images of shape (batch, channel, ...).

        Args:
            z: codes; of a conditional decoder, what the covariates leave.
            covariates: coded covariates of a conditional decoder, shape (batch, n_covariates); ``None`` for the average
                subject.
        """
        if z.ndim != 2:
            raise ValueError(f"`z` must have shape (batch, latent_dim), got {list(z.shape)}.")
        # nested, and not one condition: TorchScript looks into a part that is None only then
        if self.condition is not None:  # noqa: SIM102
            if covariates is not None:
                z = z + self.condition(covariates)
        image = self.output_mean
        if self.template is not None:
            image = self.template(z, image)
        if self.linear is not None and self.levels is not None:
            change: Tensor = self.levels(self.linear(z).unflatten(1, self.start_shape))
            for axis, side in enumerate(self.out_shape[1:]):
                change = change.narrow(axis + 2, 0, side)
            image = change + image
        # a template that isn't set gives one image for all
        image = image.expand([z.shape[0]] + self.out_shape)  # noqa: RUF005  # TorchScript has no unpacking
        return torch.sigmoid(image) if self.sigmoid else image

    def corrected_codes(self, image: Tensor, z: Tensor, prior: Tensor | None = None) -> Tensor:
        r"""Return codes that explain the images better than the given ones, by feedback through the template.

        The mode of the posterior minimises :math:`E(z) = |x - \hat x(z)|^2 + s^2 |z|^2` with the likelihood's variance
        s^2. Each step goes along :math:`A J^T (x - \hat x(z)) - A s^2 z`, with the slopes J of the template at z and
        the gain A of :class:`~monai_betavae.networks.correction.CodeCorrection`, to the minimum of
        E along this line if the template were linear there. With a noise of each voxel
        (:mod:`~monai_betavae.networks.noise`) the squared error is weighted. The slopes are those of an eighth of the
        voxels in training mode, else of half of them, or of all: see
        :meth:`~monai_betavae.networks.template.DeformableTemplate.energy_slope`. A step takes about as long as
        decoding once in training mode, else twice.

        Args:
            image: images x, shape (batch, channel, ...).
            z: codes, shape (batch, latent_dim), such as the encoder's means.
            prior: mean of their prior, of that shape; ``None`` for zero. Then |z|^2 stands for |z - prior|^2.

        Returns:
            codes of the same shape, or ``z`` itself before a warm start and for a decoder that has convolutional
            levels or no deformable template.

        Source:
            Marino, Yue & Mandt, "Iterative Amortized Inference", ICML 2018 (feedback); Matthews & Baker, "Active
            Appearance Models Revisited", IJCV 60, 2004 (one curvature for all codes).
        """
        # nested, and not one condition: TorchScript looks into a part that is None only then
        if self.template is not None and self.correction is not None:
            if self.template.voxels.numel() == 0 or z.ndim != 2:
                return z
            weight: Tensor | None = None
            if self.noise is not None:
                weight = self.noise.weight() if self.noise.by_voxel else None
            # in training a slope of fewer voxels does as well (docs/decisions/0029-a-correction-from-few-voxels.md)
            thinned = 2 if self.training else 1
            for _ in range(self.n_corrections):
                restored, slope = self.template.energy_slope(z, self.output_mean, image, weight, thinned)
                step, slope = self.correction(z if prior is None else z - prior, slope)
                shifted = z + self.correction.probe * step
                change = self.template.varying_values(shifted, self.output_mean, weight, thinned) - restored
                length = self.correction.line_length(change, step, slope)
                z = z + length * step
        return z

    def set_output_mean(self, mean: Tensor) -> None:
        """Make the output start at the mean training image instead of at zero.

        It saves the epochs in which a network learns what every brain has in common, and is stored with the weights.

        Args:
            mean: mean image, shape (channel, ...).

        Raises:
            ValueError: if its shape isn't the output's.
        """
        if list(mean.shape) != self.out_shape:
            raise ValueError(f"`mean` must have the output's shape {self.out_shape}, got {list(mean.shape)}.")
        self.output_mean.copy_(torch.logit(mean, eps=1e-3) if self.sigmoid else mean)


class BlocksToChannels(nn.Module):
    """Turn blocks of ``factor`` voxels a side into channels; a grid that doesn't divide is padded with zeros.

    Args:
        factor: side of a block.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, image: Tensor) -> Tensor:
        """Map (batch, channel, *sides) to (batch, channel * factor**d, *ceil(sides / factor))."""
        factor = self.factor
        n_axes = image.ndim - 2
        margins: list[int] = []
        for axis in range(n_axes):
            margins = [0, -image.shape[axis + 2] % factor] + margins  # noqa: RUF005  # TorchScript has no unpacking
        if sum(margins) > 0:
            image = F.pad(image, margins)
        split = [image.shape[0], image.shape[1]]
        for side in image.shape[2:]:
            split = split + [side // factor, factor]  # noqa: RUF005  # likewise
        order = [0, 1] + [3 + 2 * axis for axis in range(n_axes)] + [2 + 2 * axis for axis in range(n_axes)]
        return image.reshape(split).permute(order).flatten(1, n_axes + 1)


class ReconstructionNetwork(nn.Module):
    """Encoder, posterior and decoder as one plain module that maps images to their reconstructions.

    ``forward`` returns one tensor, the decoded posterior mean, in training and in eval mode alike, as MONAI's inferers,
    exporters and bundle checks expect. The state dict has the same names as the estimator's.

    Args:
        encoder: network with ``out_dim`` from images to features.
        decoder: network from codes to images.
        latent_dim: number of latent dimensions.

    Example:
        >>> from monai_betavae.networks import build_decoder, build_encoder
        >>> shape = (16, 20, 16)
        >>> network = ReconstructionNetwork(build_encoder(shape), build_decoder(4, shape), latent_dim=4).eval()
        >>> images = torch.rand(2, 1, *shape)
        >>> network(images).shape, bool(torch.equal(network(images), network.decode(network.encode(images).mean)))
        (torch.Size([2, 1, 16, 20, 16]), True)
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latent_dim: int) -> None:
        super().__init__()
        out_dim: Any = encoder.out_dim
        self.encoder = encoder
        self.decoder: Any = decoder
        self.fc_mu = nn.Linear(out_dim, latent_dim)
        self.fc_logvar = nn.Linear(out_dim, latent_dim)

    @classmethod
    def from_layers(
        cls, encoder: nn.Module, decoder: nn.Module, fc_mu: nn.Linear, fc_logvar: nn.Linear
    ) -> ReconstructionNetwork:
        """Make one of layers that exist: they are shared, and no random number is drawn.

        Args:
            encoder: network from images to ``fc_mu.in_features`` features; it needs no ``out_dim``.
            decoder: network from codes to images.
            fc_mu: linear layer to the mean of the posterior.
            fc_logvar: linear layer to its log-variance.
        """
        network = cls.__new__(cls)
        nn.Module.__init__(network)
        network.encoder, network.decoder = encoder, decoder
        network.fc_mu, network.fc_logvar = fc_mu, fc_logvar
        return network

    def encode(self, image: Tensor, covariates: Tensor | None = None) -> Normal:
        """Return the posterior q(z|x), a ``Normal`` with parameters of shape (batch, latent_dim).

        Args:
            image: shape (batch, channel, ...).
            covariates: coded covariates that a conditional model needs, shape (batch, n_covariates).
        """
        return posterior_distribution(*self.posterior_parameters(image, covariates))

    def posterior_parameters(self, image: Tensor, covariates: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the posterior, each of shape (batch, latent_dim): what TorchScript takes."""
        prior: Tensor | None = None
        if hasattr(self.decoder, "condition"):  # noqa: SIM102  # likewise
            if self.decoder.condition is not None:
                if covariates is None:
                    raise ValueError("`covariates` must be given: this model is conditional on them.")
                prior = self.decoder.condition(covariates)
        features: Tensor = self.encoder(image)
        # modules as arguments and autocast by device are beyond TorchScript; torch.jit's names aren't exported to mypy
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            mu, logvar = bounded(self.fc_mu(features), self.fc_logvar(features))
            if hasattr(self.decoder, "corrected_codes"):
                mu = self.decoder.corrected_codes(image.to(mu.dtype), mu, prior)
            return mu if prior is None else mu - prior, logvar
        mu, logvar = posterior_parameters(features, self.fc_mu, self.fc_logvar)
        mu = corrected_means(self.decoder, image, mu, prior=prior)
        return mu if prior is None else mu - prior, logvar

    def decode(self, z: Tensor, covariates: Tensor | None = None) -> Tensor:
        """Return the images of codes of shape (batch, latent_dim), at a conditional model's covariates."""
        if covariates is None:
            image: Tensor = self.decoder(z)
            return image
        conditional: Tensor = self.decoder(z, covariates)
        return conditional

    def forward(self, image: Tensor, covariates: Tensor | None = None) -> Tensor:
        """Return the reconstruction from the posterior mean, of the image's shape."""
        return self.decode(self.posterior_parameters(image, covariates)[0], covariates)


PARTS = ("encoder", "decoder", "fc_mu", "fc_logvar")
"""What an autoencoder must have as its attributes, to be trained and to reconstruct."""


def check_network_parts(name: str, network: Any) -> None:
    """Raise ``ValueError`` if a network lacks one of the four parts, or one isn't what it must be."""
    missing = [part for part in PARTS if not isinstance(getattr(network, part, None), nn.Module)]
    if missing:
        raise ValueError(
            f"`{name}` must have encoder, decoder, fc_mu and fc_logvar, got a {type(network).__name__} without "
            f"{', '.join(missing)}."
        )
    mu, logvar = network.fc_mu, network.fc_logvar
    for part, layer in (("fc_mu", mu), ("fc_logvar", logvar)):
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"`{name}.{part}` must be a torch.nn.Linear, got a {type(layer).__name__}.")
    if mu.weight.shape != logvar.weight.shape:
        raise ValueError(
            f"`{name}` must have fc_mu and fc_logvar of one size, got {tuple(mu.weight.shape)} and "
            f"{tuple(logvar.weight.shape)}."
        )


def reconstruction_network(network: nn.Module) -> nn.Module:
    """Return a network from images to reconstructions: this one, or one made of its parts.

    Args:
        network: :class:`~monai_betavae.networks.latent_model.LatentModel` with ``forward``, returned as it is; or a
            module with ``encoder``, ``decoder``, ``fc_mu`` and ``fc_logvar``, which are shared, not copied.

    Returns:
        module with ``encode`` and ``decode`` whose ``forward`` maps images to reconstructions.

    Raises:
        ValueError: naming what is missing.

    Example:
        >>> parts = nn.Module()
        >>> parts.encoder, parts.decoder = nn.Flatten(), nn.Unflatten(1, (1, 2))
        >>> parts.fc_mu, parts.fc_logvar = nn.Linear(4, 2), nn.Linear(4, 2)
        >>> reconstruction_network(parts)(torch.zeros(3, 1, 4)).shape
        torch.Size([3, 1, 2])
    """
    runs = isinstance(network, nn.Module) and type(network).forward is not nn.Module.forward
    if runs and isinstance(network, LatentModel):
        return network
    check_network_parts("network_def", network)
    parts: Any = network
    made = ReconstructionNetwork.from_layers(parts.encoder, parts.decoder, parts.fc_mu, parts.fc_logvar)
    made.training = network.training
    return made
