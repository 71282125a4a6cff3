"""One subject of the warped cohort as a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from monai_betavae.data.simulation import anatomy as anatomies
from monai_betavae.data.simulation import rendering
from monai_betavae.data.simulation.anatomy import Anatomy, Floats, cohort_grid, load_anatomy
from monai_betavae.data.simulation.disease import hippocampal_loss, local_atrophy, local_growth
from monai_betavae.data.simulation.scanners import Scanner, distortion_of
from monai_betavae.data.simulation.scanning import Brain, SimulatedSubject, disease_effect, scan_subject
from monai_betavae.data.simulation.structures import add_pocket
from monai_betavae.data.simulation.subject_factors import Factors, Nuisance

__all__ = ["SimulatedSubject", "load_anatomy", "simulate_subject", "typical_disease_effect"]


def simulate_subject(
    anatomy: Anatomy,
    factors: Factors,
    nuisance: Nuisance | None = None,
    *,
    spacing: float = 3.0,
    severity: float = 0.0,
    scanner: Scanner | None = None,
    with_truth: bool = True,
    kinds: Sequence[str] = (),
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
        severity: severity of the disease from 0 (none) to 1, see `monai_betavae.data.simulation.disease`.
        scanner: effects of the site's scanner; by default none. The truth is that of the anatomy before them.
        with_truth: whether to measure the truth; without it, a scan by a scanner that distorts takes half the time.
        kinds: further contrasts to render, "T2w" or "FLAIR".

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
    brain_of = partial(_brain, anatomy, factors, nuisance, spacing)
    return scan_subject(
        brain_of,
        anatomy,
        factors,
        nuisance,
        spacing=spacing,
        severity=severity,
        scanner=scanner,
        with_truth=with_truth,
        kinds=kinds,
    )


def typical_disease_effect(anatomy: Anatomy, *, spacing: float = 3.0) -> Floats:
    """Return the share of each voxel that the disease changes in a typical head at severity 1: where it acts.

    Args:
        anatomy: the result of ``load_anatomy(spacing)``.
        spacing: voxel size in mm, the same as for ``anatomy``.
    """
    return disease_effect(partial(_brain, anatomy, Factors(), Nuisance(), spacing), spacing)


def _brain(
    anatomy: Anatomy,
    factors: Factors,
    nuisance: Nuisance,
    spacing: float,
    severity: float,
    scanner: Scanner | None,
) -> Brain:
    """Return the anatomy of a subject with a disease of some severity, as the scanner finds it."""
    shape, affine = cohort_grid(spacing)
    growth, distortion = local_growth(severity), distortion_of(scanner)
    warp = anatomies.warp_grid(anatomy, shape, affine, factors, nuisance, growth=growth, distortion=distortion)
    if severity > 0:
        tissues = anatomies.sample_tissues(anatomy, warp, factors.atrophy + local_atrophy(warp.template, severity))
        half_voxel = 0.5 * spacing / anatomies.TYPICAL_SCALE
        add_pocket(tissues, hippocampal_loss(warp.template, severity, half_voxel))
    else:
        tissues = anatomies.sample_tissues(anatomy, warp, factors.atrophy)
    coverage = tissues["gm"] + tissues["wm"] + tissues["csf"]
    signal = rendering.render_signal(tissues, factors.contrast)
    return Brain(warp, tissues, signal, coverage, tissues["wm"])
