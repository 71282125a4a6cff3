"""Deformable template: the decoder's path from a code to intensities and displacements that are linear in it.

The module is empty and adds nothing until :func:`~monai_betavae.networks.warm_start.warm_start` sets its values, or a
state dict is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .field_of_view import STEEPNESS, edge_profiles, has_edges, no_edges
from .sampling_slopes import sampling_slopes, written_out_slopes
from .varying_voxels import VaryingVoxels

LINEAR_UNITS, DEFORMABLE_UNITS = (0.3, 1.0), (1.2, 4.0)
"""Intensity and voxels that a weight of 1 in ``components`` and in ``displacements`` stands for.

An optimizer such as AdamW moves every weight by about the learning rate, and components are smaller than the weights of
a network. In these units one learning rate suits both. A template that deforms needs larger steps than components
beside convolutions (docs/decisions/0026-the-template-learns-faster.md).
"""

FEEDBACK_STRIDE = 2
"""The slope of the error is computed from one in so many voxels: half of them say the same in half of the time."""

CONTROL_SPACING, MAX_CONTROLS = 8, 10
"""Spacing of the control points of a displacement, in voxels, and their maximum number along an axis."""


class DeformableTemplate(VaryingVoxels):
    r"""Decoder that deforms a template whose intensities, displacements and field of view are linear in the code.

    .. math::
        \hat x(z)[v] = w_z[v] \, T_z[v + \sum_k z_k d_k(v)], \quad T_z = \bar x + \sum_k z_k c_k, \quad
        w_z[v] = \prod_f \sigma(4 (\pm v_f \mp \bar e_f \mp \sum_k z_k e_{kf}))

    with the mean image, components c (intensities) and displacements d (voxels). Displacements are interpolated
    linearly from control points, and values between voxels linearly from the voxels. Where the scans are crops, w is
    the box that a crop covers, a product over its faces f with edges e (voxels); else it is 1. Without displacements
    this is a linear decoder, the mean plus components. The model is also known as an active appearance model.

    Attributes:
        components: parameter of shape (latent_dim, channel, voxel), in units of ``units[0]`` intensities; without
            voxels until it is set.
        displacements: parameter of shape (latent_dim, axis, *controls), in units of ``units[1]`` voxels; empty if not
            ``deformable``. The control points are evenly spaced in the bounding box of the voxels.
        edges: parameter of shape (latent_dim, axis, 2), in voxels; empty if not ``deformable``, and without gradient
            where no scan is cut off.
        mean_edges: buffer of shape (axis, 2), the edges at z = 0; far away where there is none.
        units: buffer of shape (2,), see :data:`DEFORMABLE_UNITS`; weights of release 0.1.0 have :data:`LINEAR_UNITS`.

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
        self.steepness = STEEPNESS
        self.units: Tensor
        self.register_buffer("units", torch.tensor(DEFORMABLE_UNITS if deformable else LINEAR_UNITS))
        self.component_unit, self.displacement_unit = DEFORMABLE_UNITS if deformable else LINEAR_UNITS
        self.components = nn.Parameter(torch.zeros(latent_dim, out_shape[0], n_voxels))
        n_axes = len(out_shape) - 1
        controls = control_points(out_shape[1:]) if deformable else [0] * n_axes
        self.displacements = nn.Parameter(torch.zeros(latent_dim, n_axes, *controls))
        # without gradient until a field of view is set: processes that share gradients wait for every parameter
        self.edges = nn.Parameter(torch.zeros(latent_dim, n_axes, 2 if deformable else 0), requires_grad=False)
        self.mean_edges: Tensor
        self.register_buffer("mean_edges", no_edges(n_axes))
        self.cut, self.stride = False, 1
        # bounding box of the voxels, as numbers, since indexing with tensors makes a GPU synchronise
        self.corner = [0] * n_axes
        self.sides = [0] * n_axes
        self.register_buffer("in_box", torch.zeros(0, dtype=torch.long), persistent=False)
        self.in_box: Tensor
        self._adopt()

    def _sized(self, n_voxels: int) -> dict[str, list[int]]:
        return {"voxels": [n_voxels], "components": [self.latent_dim, self.shape[0], n_voxels]}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if prefix + "components" in state_dict:
            # without units the weights are of a time when there was one choice
            state_dict.setdefault(prefix + "units", torch.tensor(LINEAR_UNITS))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _adopt(self) -> None:
        """Derive from the values of the tensors what is kept as plain numbers."""
        if not self.units.is_meta:
            # as numbers, since reading a tensor makes a GPU synchronise
            self.component_unit, self.displacement_unit = self.units.tolist()
        self.cut = self.deformable and has_edges(self.mean_edges)
        self.stride = 1 if self.cut or not self.deformable else FEEDBACK_STRIDE
        self.edges.requires_grad_(self.cut and self.components.requires_grad)
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

    def set_components(
        self,
        components: Tensor,
        displacements: Tensor,
        voxels: Tensor,
        edges: Tensor | None = None,
        mean_edges: Tensor | None = None,
    ) -> None:
        """Set components in units of intensity, displacements and edges in voxels, and the indices of the voxels."""
        self._set(
            components=components / self.component_unit,
            displacements=displacements / self.displacement_unit,
            voxels=voxels,
        )
        if edges is not None and mean_edges is not None:
            self._set(edges=edges, mean_edges=mean_edges)
        self._adopt()

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
        template = self._template(z, mean)
        if not self.deformable:
            return template
        # torch.jit's names aren't exported to mypy
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            places = self._places(z)
        else:
            # in bfloat16 coordinates would be a quarter of a voxel off
            with torch.autocast(device_type=z.device.type, enabled=False):
                places = self._places(z)
        image = self._placed(self._sampled(template, places), mean)
        return image * _visible(self._edge_steps(z)).to(image.dtype) if self.cut else image

    def energy_slope(
        self, z: Tensor, mean: Tensor, image: Tensor, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Return the varying values of the images of codes, and half the negative gradient of the squared error.

        .. math:: J^T W^2 (x - \hat x(z)), \quad J = \partial \hat x / \partial z

        It is written out instead of left to autograd, so that TorchScript and exported programs contain it.

        Args:
            z: codes, shape (batch, latent_dim), float32 or float64.
            mean: mean image, shape (channel, ...).
            image: images x, shape (batch, channel, ...).
            weight: factor W of each voxel's residual, shape (channel, ...); ``None`` stands for 1.

        Returns:
            the values as in :meth:`varying_values`, and the slope of shape (batch, latent_dim). The components must be
            set.
        """
        template = self._template(z, mean)
        if not self.deformable:
            values = self._chosen(template)
            rest = self._chosen(image) - values
            if weight is not None:
                factor = self._chosen(weight[None])
                values, rest = values * factor, rest * factor * factor
            return values, rest.flatten(1) @ self.components.flatten(1).T * self.component_unit
        places = self._places(z)[..., :: self.stride, :]
        values = self._sampled(template, places)
        if not self.cut:
            rest = self._chosen(image, self.stride) - values
            if weight is not None:
                factor = self._chosen(weight[None], self.stride)
                return values * factor, self._by_content(rest * factor * factor, template, places)
            return values, self._by_content(rest, template, places)
        content = self._placed(values, mean)
        steps = self._edge_steps(z)
        visible = _visible(steps)
        restored = content * visible
        rest = image - restored
        if weight is not None:
            restored, rest = restored * weight, rest * weight * weight
        slope = self._by_content(self._chosen(rest * visible), template, places)
        return restored, slope + self._by_edges((rest * content).sum(dim=1), steps)

    def varying_values(self, z: Tensor, mean: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the values of the images of codes that depend on the code, weighted as in :meth:`energy_slope`.

        Returns:
            the voxels of the components, (batch, channel, voxel); or, since with a field of view every voxel may depend
            on the code, the images, (batch, channel, ...).
        """
        template = self._template(z, mean)
        if not self.deformable:
            values = self._chosen(template)
            return values if weight is None else values * self._chosen(weight[None])
        values = self._sampled(template, self._places(z)[..., :: self.stride, :])
        if self.cut:
            restored = self._placed(values, mean) * _visible(self._edge_steps(z))
            return restored if weight is None else restored * weight
        return values if weight is None else values * self._chosen(weight[None], self.stride)

    def _template(self, z: Tensor, mean: Tensor) -> Tensor:
        """Return the mean plus components, before any displacement."""
        flat = mean.flatten(1).expand(z.shape[0], -1, -1)
        change = (z @ self.components.flatten(1)).unflatten(1, [self.shape[0], -1]) * self.component_unit
        # gather and scatter use all cores of a CPU, index_select and index_add only one
        where = self.voxels.expand(z.shape[0], self.shape[0], -1)
        sizes = [z.shape[0]] + self.shape  # noqa: RUF005  # TorchScript has no unpacking
        return flat.scatter_add(2, where, change.to(flat.dtype)).reshape(sizes)

    def _chosen(self, image: Tensor, stride: int = 1) -> Tensor:
        """Return the values of an image at the voxels of the components, shape (batch, channel, voxel)."""
        return image.flatten(2).gather(2, self.voxels[::stride].expand(image.shape[0], image.shape[1], -1))

    def _sampled(self, template: Tensor, places: Tensor) -> Tensor:
        """Return the template's values at places, shape (batch, channel, voxel)."""
        values = F.grid_sample(template.to(places.dtype), places, padding_mode="border", align_corners=True)
        return values.reshape(template.shape[0], template.shape[1], -1)

    def _placed(self, values: Tensor, mean: Tensor) -> Tensor:
        """Return the mean image with the values of :meth:`_sampled` at their voxels."""
        flat = mean.flatten(1).expand(values.shape[0], -1, -1)
        where = self.voxels.expand(values.shape[0], values.shape[1], -1)
        sizes = [values.shape[0]] + self.shape  # noqa: RUF005  # TorchScript has no unpacking
        return flat.scatter(2, where, values.to(flat.dtype)).reshape(sizes)

    def _edge_steps(self, z: Tensor) -> list[Tensor]:
        """Return for each axis the steps at both edges, shape (batch, 2, side)."""
        change = (z.to(self.edges.dtype) @ self.edges.flatten(1)).unflatten(1, [len(self.sides), 2])
        return edge_profiles(self.mean_edges + change, self.shape[1:])

    def _by_content(self, rest: Tensor, template: Tensor, places: Tensor) -> Tensor:
        """Return the slope by the code through components and displacements.

        Args:
            rest: what is missing in the values, shape (batch, channel, voxel).
            template: the template that the values are sampled from.
            places: where.
        """
        n_axes = len(self.sides)
        output = rest.reshape([rest.shape[0], rest.shape[1]] + [1] * (n_axes - 1) + [-1])  # likewise
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            by_template, by_places = sampling_slopes(output, template, places)
        elif torch.onnx.is_in_onnx_export():
            by_template, by_places = written_out_slopes(output, template, places)
        else:
            by_template, by_places = sampling_slopes(output, template, places)
        slope: Tensor = self._chosen(by_template).flatten(1) @ self.components.flatten(1).T * self.component_unit
        # coordinates run from -1 to 1, the last axis first; in voxels, the first axis first
        along: list[Tensor] = []
        for axis in range(n_axes):
            scale = 2.0 / max(self.shape[axis + 1] - 1, 1)
            along.append(by_places[..., n_axes - 1 - axis].reshape(rest.shape[0], -1) * scale)
        by_voxels = torch.stack(along, dim=1)
        field = by_voxels.new_zeros([rest.shape[0], n_axes] + self.sides).flatten(2)  # noqa: RUF005  # likewise
        field = field.scatter(2, self.in_box[:: self.stride].expand(rest.shape[0], n_axes, -1), by_voxels)
        field = field.reshape([rest.shape[0], n_axes] + self.sides)  # noqa: RUF005  # likewise
        # the transpose of the interpolation in _places; the last axis, which lies together in memory, comes first
        for level in range(n_axes):
            axis = n_axes - 1 - level
            n_controls = self.displacements.shape[2 + axis]
            weights = interpolation_weights(self.sides[axis], n_controls, field.device, field.dtype)
            if level == 0:
                field = torch.matmul(field, weights)
            else:
                after = list(field.shape[axis + 3 :])
                field = torch.matmul(weights.T, field.flatten(axis + 3)).unflatten(axis + 2, [n_controls])
                field = field.unflatten(axis + 3, after)
        return slope + field.flatten(1) @ self.displacements.flatten(1).T * self.displacement_unit

    def _by_edges(self, product: Tensor, steps: list[Tensor]) -> Tensor:
        """Return the slope by the code through the edges.

        Args:
            product: what is missing in the image times its content, summed over channels, shape (batch, ...).
            steps: the steps at the edges.
        """
        n_axes = len(steps)
        slopes: list[Tensor] = []
        for axis in range(n_axes):
            line = product[:, None]
            for other in range(n_axes):
                if other != axis:
                    line = line * _along(steps[other][:, 0] * steps[other][:, 1], other, n_axes)
            line = line.transpose(2, axis + 2).flatten(3).sum(dim=3)[:, 0]
            low, high = steps[axis][:, 0], steps[axis][:, 1]
            both = low * high
            slopes.append(-self.steepness * (line * both * (1 - low)).sum(dim=1))
            slopes.append(self.steepness * (line * both * (1 - high)).sum(dim=1))
        return torch.stack(slopes, dim=1) @ self.edges.flatten(1).T

    def _places(self, z: Tensor) -> Tensor:
        """Return the sampling coordinates of each voxel for ``grid_sample``, shape (batch, 1 ..., voxel, axis)."""
        n_axes = len(self.sides)
        n_controls = list(self.displacements.shape[2:])
        displacements = self.displacements.flatten(1) * self.displacement_unit
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


def _visible(steps: list[Tensor]) -> Tensor:
    """Return how visible each voxel is, shape (batch, 1, ...), from the steps at the edges."""
    visible = _along(steps[0][:, 0] * steps[0][:, 1], 0, len(steps))
    for axis in range(1, len(steps)):
        visible = visible * _along(steps[axis][:, 0] * steps[axis][:, 1], axis, len(steps))
    return visible


def _along(values: Tensor, axis: int, n_axes: int) -> Tensor:
    """Return values of shape (batch, side) as (batch, 1, ..., side, ...), along an axis of the grid."""
    shape = [1] * (n_axes + 2)
    shape[0] = values.shape[0]
    shape[axis + 2] = values.shape[1]
    return values.reshape(shape)


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
