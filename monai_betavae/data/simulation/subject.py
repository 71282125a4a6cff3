"""One subject of the warped cohort as a pure function, and the truth that is measured on tissue fractions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_betavae.data.simulation import anatomy as anatomies
from monai_betavae.data.simulation import rendering
from monai_betavae.data.simulation.anatomy import Anatomy, Floats, Warp, cohort_grid, load_anatomy
from monai_betavae.data.simulation.subject_factors import Factors, Nuisance

__all__ = ["SimulatedSubject", "load_anatomy", "measure_truth", "simulate_subject"]


@dataclass(frozen=True)
class SimulatedSubject:
    """A simulated scan with its ground truth.

    Attributes:
        volume: T1-weighted image, int16, 0 outside the brain.
        healthy: the same image without the lesion, or ``None`` if there is none.
        lesion_mask: uint8 mask of the lesion, or ``None`` if there is none.
        truth: measurements on the warped tissue maps, by column name; volumes in ml.
    """

    volume: npt.NDArray[np.int16]
    healthy: npt.NDArray[np.int16] | None
    lesion_mask: npt.NDArray[np.uint8] | None
    truth: dict[str, float]


def simulate_subject(
    anatomy: Anatomy,
    factors: Factors,
    nuisance: Nuisance | None = None,
    *,
    spacing: float = 3.0,
) -> SimulatedSubject:
    """Render one subject from its factors and measure the truth, as a pure function of the arguments.

    Truth is measured on the warped tissue fractions f in voxels of volume v: V = v · Σ f. Tissue volumes are those of
    the anatomy before the lesion. The coarser the grid, the more of the ventricles is partial volume at their edge,
    which does not grow with them: for three times the template's ventricles, ``ventricle_ml`` is 2.9 times as large at
    1.5 mm, 2.8 times at 3 mm and 2.3 times at 8 mm.

    Args:
        anatomy: the result of ``load_anatomy(spacing)``.
        factors: the subject's anatomy and contrast.
        nuisance: tilt, deformation, bias field, noise; by default none of them.
        spacing: voxel size in mm, the same as for ``anatomy``.

    Example:
        >>> anatomy = load_anatomy(8.0)
        >>> wide = simulate_subject(anatomy, Factors(ventricles=2.0), spacing=8.0)
        >>> narrow = simulate_subject(anatomy, Factors(ventricles=1.0), spacing=8.0)
        >>> wide.volume.shape
        (24, 30, 24)
        >>> wide.truth["ventricle_ml"] > 1.5 * narrow.truth["ventricle_ml"]
        True
    """
    nuisance = nuisance or Nuisance()
    shape, affine = cohort_grid(spacing)
    voxel_ml = spacing**3 / 1000
    warp = anatomies.warp_grid(anatomy, shape, affine, factors, nuisance)
    tissues = anatomies.sample_tissues(anatomy, warp, factors.atrophy)
    coverage = tissues["gm"] + tissues["wm"] + tissues["csf"]
    signal = rendering.render_signal(tissues, factors.contrast)
    volume = rendering.scan(signal, coverage, warp, shape, nuisance)

    healthy = mask = None
    if factors.lesion > 0:
        weight = rendering.place_lesion(anatomy, warp, tissues["wm"], shape, voxel_ml, factors, nuisance)
        lesioned = rendering.add_lesion(signal, weight, factors.lesion_intensity)
        healthy, volume = volume, rendering.scan(lesioned, coverage, warp, shape, nuisance)
        flat = np.zeros(volume.size, np.uint8)
        flat[warp.voxels] = weight > 0
        mask = flat.reshape(shape)

    truth = measure_truth(tissues, signal, warp, mask, spacing)
    return SimulatedSubject(volume, healthy, mask, truth)


def measure_truth(
    tissues: dict[str, Floats],
    signal: Floats,
    warp: Warp,
    lesion_mask: npt.NDArray[np.uint8] | None,
    spacing: float,
) -> dict[str, float]:
    """Return what can be measured on the tissue fractions of a subject, by column name; volumes in ml.

    Args:
        tissues: fractions of each voxel of ``warp``.
        signal: the signal before lesion, bias field, gain and noise.
        warp: the subject's voxels.
        lesion_mask: mask of the lesion, if there is one.
        spacing: voxel size in mm.
    """
    voxel_ml = spacing**3 / 1000

    def millilitres(fraction: npt.NDArray[Any]) -> float:
        return float(fraction.sum(dtype=np.float64)) * voxel_ml

    volumes = {name: millilitres(tissues[name]) for name in ("gm", "wm", "csf", "ventricle")}
    brain = tissues["gm"] + tissues["wm"]
    # hemispheres are defined in the template, so a shift of the head does not move tissue to the other side
    right = millilitres(brain * np.clip(warp.template[0] / np.float32(spacing) + np.float32(0.5), 0, 1))
    brain_ml = volumes["gm"] + volumes["wm"]
    return {
        "intracranial_ml": brain_ml + volumes["csf"],
        "brain_ml": brain_ml,
        **{f"{name}_ml": volume for name, volume in volumes.items()},
        "cortical_csf_fraction": (volumes["csf"] - volumes["ventricle"]) / (brain_ml + volumes["csf"]),
        "contrast": _contrast(signal, tissues),
        "asymmetry_index": 2 * right / brain_ml - 1,
        "lesion_ml": 0.0 if lesion_mask is None else millilitres(lesion_mask),
    }


def _contrast(signal: npt.NDArray[Any], tissues: dict[str, npt.NDArray[Any]]) -> float:
    """Return 1 - GM / WM, with tissue intensities from the least-squares fit of the tissue fractions to the signal."""
    fractions = [tissues[name] for name in ("gm", "wm", "csf")]
    # sums rather than a matrix product, since the order in which BLAS adds may depend on the number of threads
    normal = [[(a * b).sum(dtype=np.float64) for b in fractions] for a in fractions]
    gm, wm, _ = np.linalg.solve(normal, [(a * signal).sum(dtype=np.float64) for a in fractions])
    return float(1 - gm / wm)
