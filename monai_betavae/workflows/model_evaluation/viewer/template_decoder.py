"""A decoder that a page can run itself: a template whose intensities and displacements are linear in the code."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ....networks.template import DeformableTemplate
from .planes import packed, range_of, symmetric_range

Array = NDArray[Any]

MAX_DECODER_BYTES = 5_000_000
"""Bytes of a decoder in a page, at most."""

LEAST_SLIDERS = 4
"""Latents of which a page must hold the components, if there are so many: with fewer, decoded planes serve better."""


def template_of(network: Any) -> DeformableTemplate | None:
    """Return the template of a decoder that consists of nothing else, or ``None`` if a page can't run the decoder.

    Convolutional levels, several channels and a field of view are what a page can't run.

    Example:
        >>> from monai_betavae.networks import build_network
        >>> template_of(build_network((8, 8, 8), 2, warm_start="mean")) is None
        True
    """
    decoder: Any = getattr(network, "decoder", None)
    template = getattr(decoder, "template", None)
    if not isinstance(template, DeformableTemplate) or getattr(decoder, "levels", None) is not None:
        return None
    if template.voxels.numel() == 0 or len(template.shape) != 4 or template.shape[0] != 1 or template.cut:
        return None
    values = (template.components, template.displacements, decoder.output_mean)
    return template if all(bool(torch.isfinite(each).all()) for each in values) else None


def template_entry(
    network: Any, dimensions: Sequence[int], max_bytes: int = MAX_DECODER_BYTES
) -> dict[str, Any] | None:
    r"""Return the decoder as a page runs it, or ``None`` if that isn't possible or too large.

    A page computes T(v + sum_k z_k d_k(v)) with T = mean + sum_k z_k c_k, as
    :class:`~monai_betavae.networks.template.DeformableTemplate` does: the mean in 16 bits, components c_k in 8 bits
    each within its own range, displacements d_k as they are.

    Args:
        network: module with ``decoder``.
        dimensions: latents, the most important ones first; as many of them are held as there is room for.
        max_bytes: of the entry.

    Example:
        >>> from monai_betavae.networks import build_network
        >>> network = build_network((8, 8, 8), 2, warm_start="deformable", random_state=0)
        >>> network.decoder.template.set_components(torch.ones(2, 1, 3), torch.zeros(2, 3, 2, 2, 2), torch.arange(3))
        >>> [each["latent"] for each in template_entry(network, [1, 0])["latents"]]
        [1, 0]
    """
    template = template_of(network)
    if template is None:
        return None
    decoder = network.decoder
    mean = decoder.output_mean[0].detach().double().cpu().numpy()
    voxels = template.voxels.cpu().numpy()
    # base64 takes four bytes for three
    left = max_bytes - (mean.size * 2 + mean.size / 8) * 4 / 3
    controls = template.displacements[0].numel()
    held = [int(each) for each in dimensions[: max(0, int(left / ((len(voxels) + 4 * controls) * 4 / 3 + 200)))]]
    if len(held) < min(LEAST_SLIDERS, len(dimensions)):
        return None
    inside = np.zeros(mean.size, bool)
    inside[voxels] = True
    stored = range_of(mean)
    step = (stored.high - stored.low) / 65535
    components = template.components.detach()[:, 0].double().cpu().numpy() * template.component_unit
    moves = template.displacements.detach().double().cpu().numpy() * template.displacement_unit
    latents = []
    for dimension in held:
        extent = symmetric_range(components[dimension])
        entry = {"latent": dimension, "extent": list(extent), "component": packed(components[dimension], extent)}
        if template.deformable:
            entry["displacement"] = _text(moves[dimension].astype("<f4"))
        latents.append(entry)
    return {
        "shape": list(mean.shape),
        "stored": list(stored),
        "mean": _text(np.rint((mean.ravel() - stored.low) / step).astype("<u2")),
        "inside": _text(np.packbits(inside, bitorder="little")),
        "controls": list(template.displacements.shape[2:]),
        "corner": list(template.every_voxel.corner) if template.deformable else [],
        "box": list(template.every_voxel.box) if template.deformable else [],
        "sigmoid": bool(decoder.sigmoid),
        "latents": latents,
    }


def _text(values: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
