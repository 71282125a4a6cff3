"""Further contrasts of a simulated brain: the same tissues as a T2w or FLAIR image shows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monai_betavae.data.simulation.anatomy import Floats


@dataclass(frozen=True)
class Contrast:
    """How bright tissues are.

    Attributes:
        white: white matter.
        per_contrast: how much brighter grey matter is, per unit of the factor "contrast", 1 - GM / WM in T1w.
        fluid: CSF.
        lesion: a lesion.
        texture: share of the T1w's texture, which is dark where the T1w is bright.
    """

    white: float
    per_contrast: float
    fluid: float
    lesion: float
    texture: float = -0.4


CONTRASTS = {
    "T2w": Contrast(white=0.42, per_contrast=0.8, fluid=1.0, lesion=0.85),
    "FLAIR": Contrast(white=0.6, per_contrast=0.6, fluid=0.1, lesion=1.0),
}
"""Contrasts beside T1w. Only the order of their tissues is that of real images."""


def render_contrast(tissues: dict[str, Floats], contrast: float, kind: str) -> Floats:
    """Return the noise-free signal of a contrast.

    Args:
        tissues: the result of `anatomy.sample_tissues`.
        contrast: the factor, 1 - GM / WM intensity in T1w.
        kind: a key of :data:`CONTRASTS`.
    """
    look = CONTRASTS[kind]
    grey = np.float32(look.white + look.per_contrast * contrast)
    signal = np.float32(look.white) * tissues["wm"] + grey * tissues["gm"] + np.float32(look.fluid) * tissues["csf"]
    positive: Floats = np.maximum(signal + np.float32(look.texture) * tissues["texture"], 0)
    return positive
