"""The rendering of tissue maps as a T1-weighted image: intensities, bias field, noise and lesions."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from monai_betavae.data.simulation.anatomy import TEMPLATE_CSF, Anatomy, Floats, Warp, smooth_noise
from monai_betavae.data.simulation.scanners import Scanner, blurred, response, site_bias_field
from monai_betavae.data.simulation.subject_factors import Factors, Nuisance

_BIAS_WIDTH_MM, _BIAS_LATTICE_MM = 45.0, 12.0
_LESION_WIDTH_MM, _LESION_LATTICE_MM = 6.0, 3.0
_LESION_EDGE = 0.3  # weight at the lesion's edge: the lesion fades in, but changes every voxel of its mask


def render_signal(tissues: dict[str, Floats], contrast: float) -> Floats:
    """Return the noise-free signal, in which white matter is 1.

    Args:
        tissues: the result of `anatomy.sample_tissues`.
        contrast: 1 - GM / WM intensity.
    """
    signal = tissues["wm"] + np.float32(1 - contrast) * tissues["gm"] + np.float32(TEMPLATE_CSF) * tissues["csf"]
    positive: Floats = np.maximum(signal + tissues["texture"], 0)
    return positive


def place_lesion(
    anatomy: Anatomy,
    warp: Warp,
    white_matter: Floats,
    shape: tuple[int, int, int],
    voxel_ml: float,
    factors: Factors,
    nuisance: Nuisance,
) -> Floats:
    """Return the weight of a lesion at each voxel of ``warp``: 0 outside, rising inwards to at most 1.

    The lesion consists of the connected white matter nearest to a random site, with as many voxels as make up
    ``factors.lesion`` ml. A smooth random field stretches the distances, so that the outline is irregular.

    Args:
        anatomy: source of the sites.
        warp: the subject's voxels.
        white_matter: white-matter fraction of each voxel.
        shape: shape of the subject's grid.
        voxel_ml: volume of a voxel.
        factors: the lesion's volume.
        nuisance: the subject's random streams.
    """
    rng = nuisance.stream("lesion")
    site = anatomy.lesion_sites[rng.integers(len(anatomy.lesion_sites))]
    # well below half, since a lesion that ended short of the edge of white matter would leave a bright rim
    allowed = white_matter > 0.3
    away = np.sum((warp.template - site[:, None]) ** 2, axis=0)
    centre = int(np.argmin(np.where(allowed, away, np.inf)))
    head = warp.in_head
    distance = np.sqrt(np.sum((head - head[:, centre : centre + 1]) ** 2, axis=0))
    field = distance * np.exp(np.float32(0.3) * smooth_noise(rng, head, _LESION_WIDTH_MM, _LESION_LATTICE_MM))

    count = max(1, round(factors.lesion / voxel_ml))
    order = np.sort(field[allowed])
    edge = order[min(count, len(order)) - 1]
    grid = np.zeros(math.prod(shape), bool)
    grid[warp.voxels] = allowed & (field <= edge)
    labels, _ = ndimage.label(grid.reshape(shape))
    labels = labels.ravel()[warp.voxels]
    inside = labels == labels[centre]
    depth = np.clip((1 - field / max(float(edge), 1e-3)) / 0.6, 0, 1)
    return np.where(inside, _LESION_EDGE + (1 - _LESION_EDGE) * depth, 0).astype(np.float32)


def add_lesion(signal: Floats, weight: Floats, intensity: float, target: float = TEMPLATE_CSF) -> Floats:
    """Return the signal with the lesion, shifted by ``intensity`` times ``weight`` of the way from tissue to CSF.

    Args:
        signal: noise-free signal.
        weight: the result of :func:`place_lesion`.
        intensity: how far the lesion goes.
        target: signal of the lesion at intensity 1; in T1w that of CSF.
    """
    share = np.float32(intensity) * weight
    return (1 - share) * signal + share * np.float32(target)


def scan(
    signal: Floats,
    coverage: Floats,
    warp: Warp,
    shape: tuple[int, int, int],
    nuisance: Nuisance,
    scanner: Scanner | None = None,
    spacing: float = 1.0,
    kind: str = "",
) -> npt.NDArray[np.int16]:
    """Return the image: the signal under a bias field, a gain and Rician noise, 0 outside the brain.

    The noise is drawn for the whole grid: the same ``nuisance`` gives the same noise in every voxel for any anatomy.

    Args:
        signal: noise-free signal, in which white matter is 1.
        coverage: brain fraction of each voxel; the noise fades with it, as after brain extraction.
        warp: the subject's voxels.
        shape: shape of the subject's grid.
        nuisance: gain, bias field and noise.
        scanner: response, point spread, and what it adds to bias field and noise; by default nothing.
        spacing: voxel size in mm; only a point spread needs it.
        kind: contrast other than T1w, whose bias field and noise are its own.
    """
    if nuisance.exponent != 1:
        signal = signal ** np.float32(nuisance.exponent)
    bias_sd, noise_sd = nuisance.bias, nuisance.noise
    if scanner is not None:
        signal = blurred(response(signal, scanner), coverage, warp, shape, spacing, scanner)
        signal = signal * np.exp(site_bias_field(warp.scanner, scanner))
        bias_sd, noise_sd = bias_sd * scanner.bias_scale, noise_sd * scanner.noise_scale
    bias = smooth_noise(nuisance.stream(f"{kind} bias".strip()), warp.scanner, _BIAS_WIDTH_MM, _BIAS_LATTICE_MM)
    signal = signal * np.exp(np.float32(bias_sd) * bias)
    rng = nuisance.stream(f"{kind} noise".strip())
    real, imaginary = (rng.standard_normal(math.prod(shape), dtype=np.float32)[warp.voxels] for _ in range(2))
    spread = np.float32(noise_sd) * coverage
    magnitude = np.sqrt((signal + spread * real) ** 2 + (spread * imaginary) ** 2)
    image = np.zeros(math.prod(shape), np.int16)
    image[warp.voxels] = np.rint(np.float32(nuisance.gain) * magnitude)
    return image.reshape(shape)
