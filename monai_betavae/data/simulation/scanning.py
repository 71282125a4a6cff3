"""From a brain to a scan with its truth: what the subjects of both cohorts have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_betavae.data.simulation import rendering
from monai_betavae.data.simulation.anatomy import Anatomy, Floats, Warp, cohort_grid
from monai_betavae.data.simulation.contrasts import CONTRASTS, render_contrast
from monai_betavae.data.simulation.scanners import Scanner
from monai_betavae.data.simulation.subject_factors import Factors, Nuisance

# share of a voxel that the disease must change to be in its mask
_MASKED_CHANGE = 0.05


@dataclass(frozen=True)
class SimulatedSubject:
    """A simulated scan with its ground truth.

    Attributes:
        volume: T1-weighted image, int16, 0 outside the brain.
        healthy: the same image without the lesion, or ``None`` if there is none.
        lesion_mask: uint8 mask of the lesion, or ``None`` if there is none.
        truth: measurements on the warped tissue maps, by column name; volumes in ml. Empty if not asked for.
        unaffected: the same image without lesion and disease, or ``None`` without a disease.
        disease_map: share of each voxel that the disease changed, float32, or ``None`` without a disease.
        others: images of further contrasts by suffix, int16, as ``volume``.
    """

    volume: npt.NDArray[np.int16]
    healthy: npt.NDArray[np.int16] | None
    lesion_mask: npt.NDArray[np.uint8] | None
    truth: dict[str, float]
    unaffected: npt.NDArray[np.int16] | None = None
    disease_map: Floats | None = None
    others: dict[str, npt.NDArray[np.int16]] = field(default_factory=dict)

    @property
    def disease_mask(self) -> npt.NDArray[np.uint8] | None:
        """uint8 mask of the voxels of which the disease changed at least 5 %, or ``None`` without a disease."""
        return None if self.disease_map is None else (self.disease_map >= _MASKED_CHANGE).astype(np.uint8)


@dataclass(frozen=True)
class Brain:
    """The anatomy of a subject as a scanner finds it, on the voxels of one scan.

    Attributes:
        warp: the voxels.
        tissues: fractions ``gm``, ``wm``, ``csf`` and ``ventricle``.
        signal: signal before lesion and scanner, in which white matter is 1.
        coverage: fraction of each voxel that brain extraction leaves.
        white: fraction in which a lesion may lie.
        kept: share of the signal that brain extraction leaves, or ``None`` for all of it.
        added: signal of what brain extraction left beyond the brain, or ``None`` for nothing.
        measured: truth beyond what `measure_truth` returns.
    """

    warp: Warp
    tissues: dict[str, Floats]
    signal: Floats
    coverage: Floats
    white: Floats
    kept: Floats | None = None
    added: Floats | None = None
    measured: dict[str, float] = field(default_factory=dict)

    def extracted(self, signal: Floats) -> Floats:
        """Return what brain extraction makes of a signal."""
        return signal if self.kept is None or self.added is None else signal * self.kept + self.added


def scan_subject(
    brain_of: Callable[[float, Scanner | None], Brain],
    template: Anatomy,
    factors: Factors,
    nuisance: Nuisance,
    *,
    spacing: float,
    severity: float = 0.0,
    scanner: Scanner | None = None,
    with_truth: bool = True,
    kinds: Sequence[str] = (),
) -> SimulatedSubject:
    """Scan a brain, with and without lesion and disease, and measure its truth.

    Args:
        brain_of: function of the disease's severity and of the scanner that distorts the head.
        template: source of the places for lesions.
        factors: the lesion.
        nuisance: bias field, noise and gain.
        spacing: voxel size in mm.
        severity: severity of the disease, 0 for none.
        scanner: effects of the site's scanner; by default none.
        with_truth: whether to measure the truth, for which a scanner that distorts needs the brain once more.
        kinds: further contrasts, keys of `contrasts.CONTRASTS`.
    """
    shape, _ = cohort_grid(spacing)
    brain = brain_of(severity, scanner)

    def scanned(brain: Brain, signal: Floats, kind: str = "") -> npt.NDArray[np.int16]:
        seen = brain.extracted(signal)
        return rendering.scan(seen, brain.coverage, brain.warp, shape, nuisance, scanner, spacing, kind)

    volume = scanned(brain, brain.signal)
    signals = {kind: render_contrast(brain.tissues, factors.contrast, kind) for kind in kinds}
    healthy = mask = None
    if factors.lesion > 0:
        voxel_ml = spacing**3 / 1000
        weight = rendering.place_lesion(template, brain.warp, brain.white, shape, voxel_ml, factors, nuisance)
        lesioned = rendering.add_lesion(brain.signal, weight, factors.lesion_intensity)
        healthy, volume = volume, scanned(brain, lesioned)
        mask = _on_grid((weight > 0).astype(np.uint8), brain, shape)
        for kind, signal in signals.items():
            signals[kind] = rendering.add_lesion(signal, weight, factors.lesion_intensity, CONTRASTS[kind].lesion)

    unaffected = change = None
    well = brain
    if severity > 0:
        well = brain_of(0.0, scanner)
        unaffected, change = scanned(well, well.signal), _change(brain, well, shape)

    truth: dict[str, float] = {}
    if with_truth:
        undistorted = scanner is None or not scanner.distortion_mm
        true_brain = brain if undistorted else brain_of(severity, None)
        truth = measure_truth(true_brain.tissues, true_brain.signal, true_brain.warp, mask, spacing)
        truth |= true_brain.measured
        if severity > 0:
            true_well = well if undistorted else brain_of(0.0, None)
            gained = [brain.tissues["csf"].sum(dtype=np.float64) for brain in (true_brain, true_well)]
            truth["disease_csf_ml"] = float(gained[0] - gained[1]) * spacing**3 / 1000
    others = {kind: scanned(brain, signal, kind) for kind, signal in signals.items()}
    return SimulatedSubject(volume, healthy, mask, truth, unaffected, change, others)


def disease_effect(brain_of: Callable[[float, Scanner | None], Brain], spacing: float) -> Floats:
    """Return the share of each voxel that the disease changes at severity 1."""
    shape, _ = cohort_grid(spacing)
    return _change(brain_of(1.0, None), brain_of(0.0, None), shape)


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


def _change(one: Brain, other: Brain, shape: tuple[int, int, int]) -> Floats:
    """Return the share of each voxel that holds another tissue in one brain than in the other."""
    total = np.zeros(shape, np.float32)
    for name in ("gm", "wm", "csf"):
        total += np.abs(_on_grid(one.tissues[name], one, shape) - _on_grid(other.tissues[name], other, shape))
    return np.asarray(total / 2, dtype=np.float32)


def _on_grid(values: npt.NDArray[Any], brain: Brain, shape: tuple[int, int, int]) -> npt.NDArray[Any]:
    """Return the values of a brain's voxels on the grid of the scan, 0 elsewhere."""
    flat = np.zeros(math.prod(shape), values.dtype)
    flat[brain.warp.voxels] = values
    return flat.reshape(shape)


def _contrast(signal: npt.NDArray[Any], tissues: dict[str, npt.NDArray[Any]]) -> float:
    """Return 1 - GM / WM, with tissue intensities from the least-squares fit of the tissue fractions to the signal."""
    fractions = [tissues[name] for name in ("gm", "wm", "csf")]
    # sums rather than a matrix product, since the order in which BLAS adds may depend on the number of threads
    normal = [[(a * b).sum(dtype=np.float64) for b in fractions] for a in fractions]
    gm, wm, _ = np.linalg.solve(normal, [(a * signal).sum(dtype=np.float64) for a in fractions])
    return float(1 - gm / wm)
