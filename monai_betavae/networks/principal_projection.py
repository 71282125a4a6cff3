"""Linear path of the encoder: principal component scores, added to what the convolutions give.

The module is empty and adds nothing until :func:`~monai_betavae.networks.warm_start.warm_start` sets its values, or a
state dict is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .field_of_view import has_edges, inside_indices, no_edges, visible_edges
from .varying_voxels import VaryingVoxels


class PrincipalProjection(VaryingVoxels):
    """Whitened principal component scores of images: their projection on fixed components.

    With a field of view (see :mod:`~monai_betavae.networks.field_of_view`) the edges of an image are values beside its
    intensities, and voxels outside take the intensity of the nearest one inside.

    Attributes:
        weight: buffer of shape (n_components, channel, voxel); without voxels until it is set.
        mean: buffer of shape (channel, voxel), which is subtracted from the image.
        edge_weight: buffer of shape (n_components, axis, 2), zero without a field of view.
        mean_edges: buffer of shape (axis, 2), in voxels, which is subtracted from the edges.

    Args:
        n_components: number of scores.
        in_shape: channels and spatial shape of the images.
        n_voxels: expected number of voxels.
    """

    def __init__(self, n_components: int, in_shape: Sequence[int], n_voxels: int = 0) -> None:
        super().__init__(in_shape, n_voxels)
        self.n_components = n_components
        self.weight: Tensor
        self.mean: Tensor
        self.register_buffer("weight", torch.zeros(n_components, in_shape[0], n_voxels))
        self.register_buffer("mean", torch.zeros(in_shape[0], n_voxels))
        self.edge_weight: Tensor
        self.mean_edges: Tensor
        n_axes = len(in_shape) - 1
        self.register_buffer("edge_weight", torch.zeros(n_components, n_axes, 2))
        self.register_buffer("mean_edges", no_edges(n_axes))
        self.cut = False

    def _sized(self, n_voxels: int) -> dict[str, list[int]]:
        channels = self.shape[0]
        return {
            "voxels": [n_voxels],
            "weight": [self.n_components, channels, n_voxels],
            "mean": [channels, n_voxels],
        }

    def _adopt(self) -> None:
        self.cut = has_edges(self.mean_edges)

    def set_components(
        self,
        weight: Tensor,
        mean: Tensor,
        voxels: Tensor,
        edge_weight: Tensor | None = None,
        mean_edges: Tensor | None = None,
    ) -> None:
        """Set components of shape (n_components, channel, voxel), the mean at their voxels, and the voxel indices.

        Args:
            weight: components.
            mean: mean of the voxels.
            voxels: flat indices of the voxels.
            edge_weight: components of the edges, (n_components, axis, 2), if there is a field of view.
            mean_edges: mean edges, (axis, 2).
        """
        self._set(weight=weight, mean=mean, voxels=voxels)
        if edge_weight is not None and mean_edges is not None:
            self._set(edge_weight=edge_weight, mean_edges=mean_edges)
        self._adopt()

    def forward(self, image: Tensor) -> Tensor:
        """Map images of shape (batch, channel, ...) to scores of shape (batch, n_components); zeros while unset."""
        if self.voxels.numel() == 0:
            return image.new_zeros([image.shape[0], self.n_components])
        if not self.cut:
            values = image.flatten(2).gather(2, self.voxels.expand(image.shape[0], image.shape[1], -1))
            return F.linear((values - self.mean).flatten(1), self.weight.flatten(1))
        edges = visible_edges(image, self.mean_edges)
        where = inside_indices(edges, self.shape[1:], self.voxels)
        values = image.flatten(2).gather(2, where[:, None].expand(-1, image.shape[1], -1))
        change = (edges - self.mean_edges).flatten(1).to(values.dtype)
        return F.linear((values - self.mean).flatten(1), self.weight.flatten(1)) + F.linear(
            change, self.edge_weight.flatten(1)
        )
