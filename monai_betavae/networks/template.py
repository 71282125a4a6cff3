"""Deformable template: the decoder's path from a code to intensities and displacements that are linear in it.

The module is empty and adds nothing until :func:`~monai_betavae.networks.warm_start.warm_start` sets its values, or a
state dict is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .field_of_view import STEEPNESS, edge_profiles, has_edges, no_edges
from .sampling_slopes import sampling_slopes, written_out_slopes
from .varying_voxels import VaryingVoxels
from .voxel_lattice import VoxelLattice

LINEAR_UNITS, DEFORMABLE_UNITS = (0.3, 1.0), (1.2, 4.0)
"""Intensity and voxels that a weight of 1 in ``components`` and in ``displacements`` stands for.

An optimizer such as AdamW moves every weight by about the learning rate, and components are smaller than the weights of
a network. In these units one learning rate suits both. A template that deforms needs larger steps than components
beside convolutions (docs/decisions/0026-the-template-learns-faster.md).
"""

LEAST_FOR_SLOPE = 100
"""Number of voxels for each latent dimension that a slope is computed from at least, if there are so many."""

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
        self.cut = False
        self.every_voxel, self.planes, self.points = (VoxelLattice(n_axes) for _ in range(3))
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
        self.edges.requires_grad_(self.cut and self.components.requires_grad)
        # on the meta device, used for dry runs, voxels have no values
        if not self.deformable or len(self.voxels) == 0 or self.voxels.is_meta:
            return
        n_axes = len(self.shape) - 1
        self.every_voxel.choose(self.voxels, self.shape[1:], [1] * n_axes)
        if not self.cut:
            least = LEAST_FOR_SLOPE * self.latent_dim
            self.planes.choose(self.voxels, self.shape[1:], [2] + [1] * (n_axes - 1), least)
            self.points.choose(self.voxels, self.shape[1:], [2] * n_axes, least)

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
            places = self._places(z, 0)
        else:
            # in bfloat16 coordinates would be a quarter of a voxel off
            with torch.autocast(device_type=z.device.type, enabled=False):
                places = self._places(z, 0)
        image = self._placed(self._sampled(template, places), mean)
        return image * _visible(self._edge_steps(z)).to(image.dtype) if self.cut else image

    def energy_slope(
        self, z: Tensor, mean: Tensor, image: Tensor, weight: Tensor | None = None, thinned: int = 0
    ) -> tuple[Tensor, Tensor]:
        r"""Return the varying values of the images of codes, and half the negative gradient of the squared error.

        .. math:: J^T W^2 (x - \hat x(z)), \quad J = \partial \hat x / \partial z

        It is written out instead of left to autograd, so that TorchScript and exported programs contain it.

        Args:
            z: codes, shape (batch, latent_dim), float32 or float64.
            mean: mean image, shape (channel, ...).
            image: images x, shape (batch, channel, ...).
            weight: factor W of each voxel's residual, shape (channel, ...); ``None`` stands for 1.
            thinned: voxels to compute: 0 for all, 1 for those of every second plane, 2 for those at every second
                position along all axes. The slope is estimated from them. Small grids are thinned less, see
                :data:`LEAST_FOR_SLOPE`, and with a field of view all voxels are needed.

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
        # edges are known by all voxels
        places = self._places(z, 0 if self.cut else thinned)
        values = self._sampled(template, places)
        if not self.cut:
            scale = self._scale(thinned)
            rest = self._picked(image, thinned) - values
            if weight is not None:
                factor = self._picked(weight[None], thinned)
                values, rest = values * factor, rest * factor * factor
            return values * math.sqrt(scale), scale * self._by_content(rest, template, places, thinned)
        content = self._placed(values, mean)
        steps = self._edge_steps(z)
        visible = _visible(steps)
        restored = content * visible
        rest = image - restored
        if weight is not None:
            restored, rest = restored * weight, rest * weight * weight
        slope = self._by_content(self._chosen(rest * visible), template, places, 0)
        return restored, slope + self._by_edges((rest * content).sum(dim=1), steps)

    def varying_values(self, z: Tensor, mean: Tensor, weight: Tensor | None = None, thinned: int = 0) -> Tensor:
        """Return the values of the images of codes that depend on the code, weighted as in :meth:`energy_slope`.

        Returns:
            the voxels of the components, (batch, channel, voxel); or, since with a field of view every voxel may depend
            on the code, the images, (batch, channel, ...). If only some voxels are computed, their values are scaled
            such that the squares of two codes' difference sum to an estimate of the sum over all voxels.
        """
        template = self._template(z, mean)
        if not self.deformable:
            values = self._chosen(template)
            return values if weight is None else values * self._chosen(weight[None])
        values = self._sampled(template, self._places(z, 0 if self.cut else thinned))
        if self.cut:
            restored = self._placed(values, mean) * _visible(self._edge_steps(z))
            return restored if weight is None else restored * weight
        if weight is not None:
            values = values * self._picked(weight[None], thinned)
        return values * math.sqrt(self._scale(thinned))

    def _template(self, z: Tensor, mean: Tensor) -> Tensor:
        """Return the mean plus components, before any displacement."""
        flat = mean.flatten(1).expand(z.shape[0], -1, -1)
        change = (z @ self.components.flatten(1)).unflatten(1, [self.shape[0], -1]) * self.component_unit
        # gather and scatter use all cores of a CPU, index_select and index_add only one
        where = self.voxels.expand(z.shape[0], self.shape[0], -1)
        sizes = [z.shape[0]] + self.shape  # noqa: RUF005  # TorchScript has no unpacking
        return flat.scatter_add(2, where, change.to(flat.dtype)).reshape(sizes)

    def _chosen(self, image: Tensor) -> Tensor:
        """Return the values of an image at the voxels of the components, shape (batch, channel, voxel)."""
        return image.flatten(2).gather(2, self.voxels.expand(image.shape[0], image.shape[1], -1))

    # TorchScript can't return one of the lattices, so each of these chooses one

    def _picked(self, image: Tensor, thinned: int) -> Tensor:
        if thinned == 0:
            return self.every_voxel.picked(image)
        return self.planes.picked(image) if thinned == 1 else self.points.picked(image)

    def _interpolated(self, controls: Tensor, thinned: int) -> Tensor:
        if thinned == 0:
            return self.every_voxel.interpolated(controls)
        return self.planes.interpolated(controls) if thinned == 1 else self.points.interpolated(controls)

    def _spread(self, values: Tensor, n_controls: list[int], thinned: int) -> Tensor:
        if thinned == 0:
            return self.every_voxel.spread(values, n_controls)
        return self.planes.spread(values, n_controls) if thinned == 1 else self.points.spread(values, n_controls)

    def _scale(self, thinned: int) -> float:
        if thinned == 0:
            return 1.0
        return self.planes.scale if thinned == 1 else self.points.scale

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
        change = (z.to(self.edges.dtype) @ self.edges.flatten(1)).unflatten(1, [len(self.shape) - 1, 2])
        return edge_profiles(self.mean_edges + change, self.shape[1:])

    def _by_content(self, rest: Tensor, template: Tensor, places: Tensor, thinned: int) -> Tensor:
        """Return the slope by the code through components and displacements.

        Args:
            rest: what is missing in the values, shape (batch, channel, voxel).
            template: the template that the values are sampled from.
            places: where.
            thinned: which voxels these are.
        """
        n_axes = len(self.shape) - 1
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
        field = self._spread(by_voxels, list(self.displacements.shape[2:]), thinned)
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

    def _places(self, z: Tensor, thinned: int) -> Tensor:
        """Return the sampling coordinates of the voxels for ``grid_sample``, shape (batch, 1 ..., voxel, axis)."""
        n_axes = len(self.shape) - 1
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
                scale * self.every_voxel.corner[axis] - 1.0,
                scale * (self.every_voxel.corner[axis] + self.every_voxel.box[axis] - 1) - 1.0,
                n_controls[axis],
                dtype=change.dtype,
                device=change.device,
            )
            # linear interpolation is exact for the identity, so it is added at the few control points
            identity = line.reshape([-1] + [1] * (n_axes - 1 - axis))
            coordinates.append(change[:, axis] * scale + identity)
        field = torch.stack(coordinates, dim=1)
        chosen = self._interpolated(field, thinned).transpose(1, 2)
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
