"""Linear paths of a network: principal component scores in the encoder, a deformable template in the decoder.

Both modules are empty and add nothing until :func:`~monai_betavae.networks.warm_start.warm_start` sets their values, or
a state dict is loaded, whose sizes they adopt. They cover the voxels that vary between subjects, about a quarter of the
usual grid around a brain.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..saving.descriptions import ADDED_LATER
from .field_of_view import STEEPNESS, edge_profiles, has_edges, inside_indices, no_edges, visible_edges

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
            for name in ADDED_LATER:
                if hasattr(self, name):
                    state_dict.setdefault(prefix + name, getattr(self, name).detach().clone())
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._adopt()

    def _adopt(self) -> None:
        """Derive from the values of the tensors what is kept as plain numbers."""


class PrincipalProjection(_VaryingVoxels):
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


class DeformableTemplate(_VaryingVoxels):
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


def sampling_slopes(output: Tensor, image: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slopes of sampled values by image and places: torch's backward function of ``grid_sample``.

    Args:
        output: slopes by the sampled values, shape (batch, channel, ..., n).
        image: what is sampled, shape (batch, channel, ...).
        places: where, shape (batch, ..., n, axis), as in ``grid_sample`` with border padding and aligned corners.

    Returns:
        slopes of the shape of ``image`` and of ``places``.
    """
    if image.ndim == 5:
        by_image, by_places = torch.ops.aten.grid_sampler_3d_backward(output, image, places, 0, 1, True, [True, True])
    else:
        by_image, by_places = torch.ops.aten.grid_sampler_2d_backward(output, image, places, 0, 1, True, [True, True])
    return by_image, by_places


def written_out_slopes(output: Tensor, image: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return :func:`sampling_slopes` by operations that ONNX has, several times slower.

    Arguments and results are the same.
    """
    sides = image.shape[2:]
    n_axes, n_places = len(sides), places.shape[-2]
    values, rest = image.flatten(2), output.reshape(*image.shape[:2], n_places)
    lower, shares, inside = [], [], []
    for axis, side in enumerate(sides):
        place = (places[..., n_axes - 1 - axis].reshape(-1, n_places) + 1) / 2 * (side - 1)
        inside.append(((place > 0) & (place < side - 1)).to(place.dtype))
        place = place.clamp(0, side - 1)
        lower.append(place.floor().clamp(0, max(side - 2, 0)))
        shares.append(place - lower[-1])
    by_values = torch.zeros_like(values)
    along = [torch.zeros_like(share) for share in shares]
    for corner in itertools.product((0, 1), repeat=n_axes):
        index = torch.zeros_like(lower[0])
        for axis, side in enumerate(sides):
            index = index * side + (lower[axis] + corner[axis]).clamp(0, side - 1)
        weights = [share if upper else 1 - share for share, upper in zip(shares, corner, strict=True)]
        where = index.long()[:, None].expand(-1, image.shape[1], -1)
        by_values = by_values.scatter_add(2, where, rest * math.prod(weights[1:], start=weights[0])[:, None])
        product = (values.gather(2, where) * rest).sum(dim=1)
        for axis, upper in enumerate(corner):
            others = [weight for other, weight in enumerate(weights) if other != axis]
            along[axis] = along[axis] + (1 if upper else -1) * math.prod(others, start=product)
    scaled = [slope * seen * (side - 1) / 2 for slope, seen, side in zip(along, inside, sides, strict=True)]
    return by_values.reshape(image.shape), torch.stack(scaled[::-1], dim=-1).reshape(places.shape)


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
