"""Linear paths of a network: principal component scores in the encoder, a deformable template in the decoder.

Both modules are empty and add nothing until :func:`~monai_betavae.networks.warm_start.warm_start` sets their values, or
a state dict is loaded, whose sizes they adopt. They cover the voxels that vary between subjects, about a quarter of the
usual grid around a brain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COMPONENT_UNIT = 0.3
"""Intensity that a weight of 1 in ``components`` stands for.

An optimizer such as AdamW moves every weight by about the learning rate, and components are smaller than the weights of
a network. In these units one learning rate suits both.
"""

CONTROL_SPACING, MAX_CONTROLS = 8, 10
"""Spacing of the control points of a displacement, in voxels, and their maximum number along an axis."""


class _VaryingVoxels(nn.Module):
    """Base of modules on the voxels that vary between subjects; a state dict determines the sizes of all tensors.

    Attributes:
        voxels: buffer of the flat indices of the voxels in the grid, ascending.

    Args:
        shape: channels and spatial shape of the images.
        n_voxels: expected number of voxels, for code that compares sizes before it loads a state dict.
    """

    def __init__(self, shape: Sequence[int], n_voxels: int = 0) -> None:
        super().__init__()
        self.shape = list(shape)
        # annotated here, not in the class: TorchScript can't read class annotations that are strings
        self.voxels: Tensor
        self.register_buffer("voxels", torch.arange(n_voxels))

    def _set(self, **tensors: Tensor) -> None:
        """Replace tensors by copies of the given ones, whatever their sizes."""
        for name, value in tensors.items():
            old = getattr(self, name)
            value = value.detach().to(old.device, old.dtype).clone()
            setattr(self, name, nn.Parameter(value, old.requires_grad) if name in self._parameters else value)

    def _sized(self, n_voxels: int) -> dict[str, list[int]]:
        """Return the shape of each tensor for this number of voxels."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        found = state_dict.get(prefix + "voxels")
        if isinstance(found, Tensor) and found.ndim == 1 and found.dtype == torch.long:
            # indices outside the grid would fail at every use; without resizing, the usual check of sizes refuses them
            n_grid = math.prod(self.shape[1:])
            fits = len(found) <= n_grid  # checked first: a file of a kilobyte may expand to a tensor of 2^40 numbers
            inside = len(found) == 0 or (fits and int(found.min()) >= 0 and int(found.max()) < n_grid)
            if inside and len(found) != len(self.voxels):
                for name, size in self._sized(len(found)).items():
                    self._set(**{name: torch.zeros(size)})
        super()._load_from_state_dict(state_dict, prefix, *args)


class PrincipalProjection(_VaryingVoxels):
    """Whitened principal component scores of images: their projection on fixed components.

    Attributes:
        weight: buffer of shape (n_components, channel, voxel); without voxels until it is set.
        mean: buffer of shape (channel, voxel), which is subtracted from the image.

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

    def _sized(self, n_voxels: int) -> dict[str, list[int]]:
        channels = self.shape[0]
        return {
            "voxels": [n_voxels],
            "weight": [self.n_components, channels, n_voxels],
            "mean": [channels, n_voxels],
        }

    def set_components(self, weight: Tensor, mean: Tensor, voxels: Tensor) -> None:
        """Set components of shape (n_components, channel, voxel), the mean at their voxels, and the voxel indices."""
        self._set(weight=weight, mean=mean, voxels=voxels)

    def forward(self, image: Tensor) -> Tensor:
        """Map images of shape (batch, channel, ...) to scores of shape (batch, n_components); zeros while unset."""
        if self.voxels.numel() == 0:
            return image.new_zeros([image.shape[0], self.n_components])
        values = image.flatten(2).gather(2, self.voxels.expand(image.shape[0], image.shape[1], -1))
        return F.linear((values - self.mean).flatten(1), self.weight.flatten(1))


class DeformableTemplate(_VaryingVoxels):
    r"""Decoder that deforms a template whose intensities and displacements are linear in the code.

    .. math:: \hat x(z)[v] = T_z[v + \sum_k z_k d_k(v)], \quad T_z = \bar x + \sum_k z_k c_k

    with the mean image, components c (intensities) and displacements d (voxels). Displacements are interpolated
    linearly from control points, and values between voxels linearly from the voxels. Without displacements this is a
    linear decoder, the mean plus components. The model is also known as an active appearance model.

    Attributes:
        components: parameter of shape (latent_dim, channel, voxel), in units of :data:`COMPONENT_UNIT` intensities;
            without voxels until it is set.
        displacements: parameter of shape (latent_dim, axis, *controls), in voxels; empty if not ``deformable``. The
            control points are evenly spaced in the bounding box of the voxels.

    Args:
        latent_dim: number of latent dimensions.
        out_shape: channels and spatial shape of the images.
        deformable: whether there are displacements.
        n_voxels: expected number of voxels.

    Source:
        Cootes, Edwards & Taylor, "Active Appearance Models", IEEE PAMI 23, 2001.
    """

    def __init__(self, latent_dim: int, out_shape: Sequence[int], deformable: bool, n_voxels: int = 0) -> None:
        super().__init__(out_shape, n_voxels)
        self.latent_dim = latent_dim
        self.deformable = deformable
        self.unit = COMPONENT_UNIT
        self.components = nn.Parameter(torch.zeros(latent_dim, out_shape[0], n_voxels))
        controls = control_points(out_shape[1:]) if deformable else [0] * (len(out_shape) - 1)
        self.displacements = nn.Parameter(torch.zeros(latent_dim, len(controls), *controls))
        # bounding box of the voxels, as numbers, since indexing with tensors makes a GPU synchronise
        self.corner = [0] * len(controls)
        self.sides = [0] * len(controls)
        self.register_buffer("in_box", torch.zeros(0, dtype=torch.long), persistent=False)
        self.in_box: Tensor
        self._find_box()

    def _sized(self, n_voxels: int) -> dict[str, list[int]]:
        return {"voxels": [n_voxels], "components": [self.latent_dim, self.shape[0], n_voxels]}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._find_box()

    def _find_box(self) -> None:
        # on the meta device, used for dry runs, voxels have no values
        if not self.deformable or len(self.voxels) == 0 or self.voxels.is_meta:
            return
        places = torch.unravel_index(self.voxels, self.shape[1:])
        self.corner = [int(place.min()) for place in places]
        self.sides = [int(place.max()) + 1 - start for place, start in zip(places, self.corner, strict=True)]
        number = torch.zeros_like(self.voxels)
        for place, start, side in zip(places, self.corner, self.sides, strict=True):
            number = number * side + place - start
        self.in_box = number

    def set_components(self, components: Tensor, displacements: Tensor, voxels: Tensor) -> None:
        """Set components in units of intensity, displacements in voxels, and the voxel indices of the components."""
        self._set(components=components / COMPONENT_UNIT, displacements=displacements, voxels=voxels)
        self._find_box()

    def forward(self, z: Tensor, mean: Tensor) -> Tensor:
        """Map codes to images.

        Args:
            z: codes, shape (batch, latent_dim).
            mean: mean image, shape (channel, ...).

        Returns:
            images of shape (batch, channel, ...), or ``mean`` itself while the components are unset.
        """
        if self.voxels.numel() == 0:
            return mean
        sizes = [z.shape[0]] + self.shape  # noqa: RUF005  # TorchScript has no unpacking
        flat = mean.flatten(1).expand(z.shape[0], -1, -1)
        change = (z @ self.components.flatten(1)).unflatten(1, [self.shape[0], -1]) * self.unit
        # gather and scatter use all cores of a CPU, index_select and index_add only one
        where = self.voxels.expand(z.shape[0], self.shape[0], -1)
        template = flat.scatter_add(2, where, change.to(flat.dtype))
        if not self.deformable:
            return template.reshape(sizes)
        # torch.jit's names aren't exported to mypy
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            places = self._places(z)
        else:
            # in bfloat16 coordinates would be a quarter of a voxel off
            with torch.autocast(device_type=z.device.type, enabled=False):
                places = self._places(z)
        template = template.reshape(sizes).to(places.dtype)
        values = F.grid_sample(template, places, padding_mode="border", align_corners=True).to(flat.dtype)
        return flat.scatter(2, where, values.reshape(z.shape[0], self.shape[0], -1)).reshape(sizes)

    def _places(self, z: Tensor) -> Tensor:
        """Return the sampling coordinates of each voxel for ``grid_sample``, shape (batch, 1 ..., voxel, axis)."""
        n_axes = len(self.sides)
        n_controls = list(self.displacements.shape[2:])
        displacements = self.displacements.flatten(1)
        if displacements.dtype != torch.float64:
            displacements = displacements.float()
        change = (z.to(displacements.dtype) @ displacements).unflatten(1, [n_axes] + n_controls)  # noqa: RUF005
        # NaN coordinates, as in a run that diverges, make torch's sampler (2.13, 2D, CPU) write out of bounds; the
        # template itself is NaN then, and so are the sampled values
        change = torch.nan_to_num(change, nan=0.0, posinf=0.0, neginf=0.0)
        coordinates: list[Tensor] = []
        # grid_sample expects the last axis first
        for level in range(n_axes):
            axis = n_axes - 1 - level
            # converts voxels to coordinates of the whole grid, which run from -1 to 1
            scale = 2.0 / max(self.shape[axis + 1] - 1, 1)
            line = torch.linspace(
                scale * self.corner[axis] - 1.0,
                scale * (self.corner[axis] + self.sides[axis] - 1) - 1.0,
                n_controls[axis],
                dtype=change.dtype,
                device=change.device,
            )
            # linear interpolation is exact for the identity, so it is added at the few control points
            identity = line.reshape([-1] + [1] * (n_axes - 1 - axis))
            coordinates.append(change[:, axis] * scale + identity)
        field = torch.stack(coordinates, dim=1)
        # from the last axis to the first, so that only one product is large, and it has long rows
        for level in range(n_axes):
            axis = n_axes - level
            weights = interpolation_weights(self.sides[axis - 1], n_controls[axis - 1], field.device, field.dtype)
            if level == 0:
                field = torch.matmul(field, weights.T)
            else:
                after = list(field.shape[axis + 2 :])
                field = torch.matmul(weights, field.flatten(axis + 2)).unflatten(axis + 2, after)
        chosen: Tensor = field.flatten(2).gather(2, self.in_box.expand(z.shape[0], n_axes, -1)).transpose(1, 2)
        for _ in range(n_axes - 1):
            chosen = chosen.unsqueeze(1)
        return chosen


def control_points(spatial_shape: Sequence[int]) -> list[int]:
    """Return the number of control points of a displacement along each axis.

    Example:
        >>> control_points((64, 80, 64)), control_points((192, 240, 5))
        ([8, 10, 8], [10, 10, 2])
    """
    return [max(2, min(MAX_CONTROLS, round(side / CONTROL_SPACING))) for side in spatial_shape]


def interpolation_weights(side: int, n_controls: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return linear interpolation weights, (side, n), from control points evenly spaced from end to end.

    Example:
        >>> interpolation_weights(3, 2, torch.device("cpu"), torch.float32).tolist()
        [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    """
    positions = torch.linspace(0.0, float(n_controls - 1), side, device=device, dtype=dtype)
    nodes = torch.arange(n_controls, device=device, dtype=dtype)
    return (1 - (positions[:, None] - nodes[None]).abs()).clamp_min(0)
