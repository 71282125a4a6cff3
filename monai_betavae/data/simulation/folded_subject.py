"""One subject of the folded cohort: its anatomy, its image and its truth as a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from monai_betavae.data.simulation import rendering
from monai_betavae.data.simulation.anatomy import (
    TYPICAL_SCALE,
    Floats,
    cohort_grid,
    warp_grid,
)
from monai_betavae.data.simulation.cortex import (
    Columns,
    FoldedAnatomy,
    load_folded_anatomy,
    sample_coarse,
    sample_columns,
    sample_template,
)
from monai_betavae.data.simulation.disease import hippocampal_loss, local_atrophy, local_growth
from monai_betavae.data.simulation.folding import Folding, cortical_tissues, draw_folding, fold
from monai_betavae.data.simulation.scanners import Scanner, distortion_of
from monai_betavae.data.simulation.scanning import Brain, SimulatedSubject, disease_effect, scan_subject
from monai_betavae.data.simulation.strip_errors import StripError, draw_strip_error, strip_error_weight
from monai_betavae.data.simulation.structures import Pocket, add_pocket, draw_structures, pocket_weight
from monai_betavae.data.simulation.subject_factors import Factors, Nuisance, stream

__all__ = [
    "Morphology",
    "draw_morphology",
    "load_folded_anatomy",
    "simulate_folded_subject",
    "typical_folded_disease_effect",
]

# fsaverage's thickness is that of a real brain; the template is larger, and atrophy thins the cortex
_TEMPLATE_THICKNESS, _THINNING = 1.3, 0.12
_SULCUS_MM, _SULCUS_ATROPHY_MM = 0.3, 0.9
_RETREAT_MM, _RETREAT_ATROPHY_MM = 0.2, 1.0
# the two hemispheres lie close to each other: near the midline the cortex retreats less
_FISSURE_MM, _FISSURE_SHARE = 12.0, 0.2
# below this depth CSF counts as that of sulci, with a soft limit 2 mm wide
_SULCAL_DEPTH_MM = 2.0
# a scanner averages over a little more than the voxel
_BLUR = 1.25
# nothing happens farther outside
_MOST_DURA_MM = 7.0
_PRESENCE = ("cavum", "cyst", "cisterna")


@dataclass(frozen=True)
class Morphology:
    """What distinguishes the anatomy of a folded brain beyond its `Factors`; the defaults are typical.

    Attributes:
        folding: the sulci.
        structures: the pockets of CSF that the subject has, by name.
        strip_error: what went wrong in brain extraction.
        thickness: thickness of the cortex relative to a typical one.
        ventricle_form: see `anatomy.warp_grid`.
    """

    folding: Folding = field(default_factory=Folding)
    structures: dict[str, Pocket] = field(default_factory=dict)
    strip_error: StripError = field(default_factory=StripError)
    thickness: float = 1.0
    ventricle_form: tuple[float, float, float] = (0.0, 0.0, 0.0)


def draw_morphology(seed: int, subject: int) -> Morphology:
    """Draw the morphology of one subject, independently of its factors.

    Args:
        seed: the cohort's seed.
        subject: index of the subject.
    """
    rng = stream(seed, subject, "folding")
    folding = draw_folding(rng)
    thickness = float(np.clip(rng.normal(1, 0.05), 0.85, 1.15))
    x, y = (float(value) for value in np.clip(rng.standard_normal(2), -2, 2) * (0.12, 0.2))
    structures = draw_structures(stream(seed, subject, "structures"))
    strip_error = draw_strip_error(stream(seed, subject, "strip"))
    return Morphology(folding, structures, strip_error, thickness, (x, y, 0.0))


def morphology_columns(morphology: Morphology) -> dict[str, float | str]:
    """Return the columns of the participants table that say what the subject was made from."""
    folding = morphology.folding
    present = {name: float(name in morphology.structures) for name in _PRESENCE}
    return {
        "base_anatomy": folding.base,
        "strip_error": morphology.strip_error.kind,
        "factor_shared_sulci": folding.shared,
        "factor_own_sulci": folding.own,
        "factor_fold_wavelength": folding.wavelength_mm,
        "factor_cortical_thickness": morphology.thickness,
        "factor_horns": morphology.ventricle_form[1],
        "factor_ventricle_side": morphology.ventricle_form[0],
        "paracingulate_left": float(folding.paracingulate_left > 0),
        "paracingulate_right": float(folding.paracingulate_right > 0),
        **present,
    }


def simulate_folded_subject(
    anatomy: FoldedAnatomy,
    factors: Factors,
    morphology: Morphology | None = None,
    nuisance: Nuisance | None = None,
    *,
    spacing: float = 3.0,
    severity: float = 0.0,
    scanner: Scanner | None = None,
    with_truth: bool = True,
    kinds: Sequence[str] = (),
) -> SimulatedSubject:
    """Render one folded brain and measure its truth, as a pure function of the arguments.

    Tissue volumes are those of the anatomy before the lesion and before errors of brain extraction.

    Args:
        anatomy: the result of ``load_folded_anatomy(spacing)``.
        factors: size, ventricles, atrophy, contrast, asymmetry and lesion.
        morphology: sulci, structures and errors of brain extraction; by default typical sulci and nothing else.
        nuisance: tilt, deformation, bias field, noise; by default none of them.
        spacing: voxel size in mm, the same as for ``anatomy``.
        severity: severity of the disease from 0 (none) to 1, see `monai_betavae.data.simulation.disease`.
        scanner: effects of the site's scanner; by default none. The truth is that of the anatomy before them.
        with_truth: whether to measure the truth; without it, a scan by a scanner that distorts takes half the time.
        kinds: further contrasts to render, "T2w" or "FLAIR".
    """
    morphology, nuisance = morphology or Morphology(), nuisance or Nuisance()
    return scan_subject(
        partial(_brain, anatomy, factors, morphology, nuisance, spacing),
        anatomy.template,
        factors,
        nuisance,
        spacing=spacing,
        severity=severity,
        scanner=scanner,
        with_truth=with_truth,
        kinds=kinds,
    )


def typical_folded_disease_effect(anatomy: FoldedAnatomy, *, spacing: float = 3.0) -> Floats:
    """Return the share of each voxel that the disease changes in a typical head at severity 1: where it acts.

    Args:
        anatomy: the result of ``load_folded_anatomy(spacing)``.
        spacing: voxel size in mm, the same as for ``anatomy``.
    """
    return disease_effect(partial(_brain, anatomy, Factors(), Morphology(), Nuisance(), spacing), spacing)


def _brain(
    anatomy: FoldedAnatomy,
    factors: Factors,
    morphology: Morphology,
    nuisance: Nuisance,
    spacing: float,
    severity: float,
    scanner: Scanner | None,
) -> Brain:
    """Return the anatomy of a folded brain with a disease of some severity, as the scanner finds it."""
    shape, affine = cohort_grid(spacing)
    voxel_ml = spacing**3 / 1000
    form = morphology.ventricle_form
    growth, distortion = local_growth(severity), distortion_of(scanner)
    warp = warp_grid(
        anatomy.template, shape, affine, factors, nuisance, ventricle_form=form, growth=growth, distortion=distortion
    )
    scale = TYPICAL_SCALE * factors.brain_size ** (1 / 3)
    half_voxel = 0.5 * _BLUR * spacing / scale
    margin = sample_coarse(anatomy, anatomy.margin[..., None], warp.template)[0]
    near = margin > -_MOST_DURA_MM - 2 * half_voxel
    warp, margin = warp.only(near), margin[near]
    columns = sample_columns(anatomy, warp.template)
    atrophy: float | npt.NDArray[np.float64] = factors.atrophy
    if severity > 0:
        atrophy = np.minimum(factors.atrophy + local_atrophy(warp.template, severity), 1)
    tissues, sulci = _fold_tissues(anatomy, warp.template, columns, margin, atrophy, morphology, nuisance, half_voxel)
    if severity > 0:
        add_pocket(tissues, hippocampal_loss(warp.template, severity, half_voxel))
    pockets = {}
    for name in _PRESENCE:
        pocket = morphology.structures.get(name)
        weight = np.zeros_like(margin) if pocket is None else pocket_weight(pocket, warp.template, half_voxel)
        pockets[name] = add_pocket(tissues, weight)
    coverage = tissues["gm"] + tissues["wm"] + tissues["csf"]
    signal = rendering.render_signal(tissues, factors.contrast)

    error = morphology.strip_error
    rng = nuisance.stream("strip_outline")
    wrong = strip_error_weight(error, anatomy.surface_sites, warp.template, margin, half_voxel, rng)
    cut = wrong if error.kind == "bite" else np.zeros_like(wrong)
    dura = wrong * (1 - coverage) if error.kind == "dura" else np.zeros_like(wrong)

    volumes = {**sulci, **pockets, "dura": dura, "bite": cut * coverage}
    measured = {f"{name}_ml": float(values.sum(dtype=np.float64)) * voxel_ml for name, values in volumes.items()}
    sulcal = sulci["sulcal_csf"]
    mean = (sulcal * columns.depth).sum(dtype=np.float64) / max(sulcal.sum(dtype=np.float64), 1e-6)
    return Brain(
        warp=warp,
        tissues=tissues,
        signal=signal,
        coverage=coverage * (1 - cut) + dura,
        # no lesion where the brain is cut away, since nobody can see it there
        white=tissues["wm"] * (cut == 0),
        kept=1 - cut,
        added=np.float32(error.intensity) * dura,
        measured=measured | {"sulcal_depth_mm": float(mean * scale)},
    )


def _fold_tissues(
    anatomy: FoldedAnatomy,
    position: Floats,
    columns: Columns,
    margin: Floats,
    atrophy: float | npt.NDArray[np.float64],
    morphology: Morphology,
    nuisance: Nuisance,
    half_voxel: float,
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return the tissue fractions of a folded brain, and the CSF that its sulci, and some of them, hold."""
    # cerebellum, brainstem, ventricles and the surroundings of the corpus callosum stay as they are in the template
    template = sample_template(anatomy, position)
    total = template["gm"] + template["wm"] + template["csf"]
    coverage = np.clip(0.5 + margin / (2 * half_voxel), 0, 1) * np.clip(2 * total, 0, 1)
    old = {name: template[name] / np.maximum(total, np.float32(1e-3)) for name in ("gm", "wm", "ventricle")}
    kept = columns.unfolded

    sheets = fold(anatomy, position, columns, morphology.folding, nuisance.stream("sulci"))
    thickness = columns.thickness * _single(_TEMPLATE_THICKNESS * morphology.thickness * (1 - _THINNING * atrophy))
    retreat = _single(_RETREAT_MM + _RETREAT_ATROPHY_MM * atrophy)
    retreat = retreat * np.clip(np.abs(position[0]) / np.float32(_FISSURE_MM), np.float32(_FISSURE_SHARE), 1)
    sulcus_mm = _SULCUS_MM + _SULCUS_ATROPHY_MM * atrophy

    def brain(without: str = "") -> dict[str, Floats]:
        grey, white = cortical_tissues(sheets, thickness, half_voxel, sulcus_mm, retreat, without=without)
        # what the cortex encloses is white matter, deep nuclei and ventricles
        nuclei = white * np.minimum(template["deep"], 1 - old["ventricle"])
        white = white * (1 - old["ventricle"]) - nuclei
        gm = coverage * (kept * old["gm"] + (1 - kept) * (grey + nuclei))
        wm = coverage * (kept * old["wm"] + (1 - kept) * white)
        return {"gm": gm, "wm": wm, "csf": coverage - gm - wm}

    tissues = brain()
    tissues["ventricle"] = np.minimum(coverage * old["ventricle"], tissues["csf"])
    # the texture of the template's cortex shows the template's sulci, so only that of other parts is used
    tissues["texture"] = template["texture"] * np.maximum(kept, np.clip(2 * template["deep"], 0, 1)) * coverage
    below = np.clip((sheets.depth - np.float32(_SULCAL_DEPTH_MM)) / 2 + np.float32(0.5), 0, 1)
    sulci = {"sulcal_csf": below * (1 - kept) * (tissues["csf"] - tissues["ventricle"])}
    for name, kind in (("own_sulci", "own"), ("paracingulate", "paracingulate")):
        gained = tissues["csf"] - brain(kind)["csf"] if kind in sheets.sulci else np.zeros_like(coverage)
        sulci[name] = gained
    return tissues, sulci


def _single(values: float | npt.NDArray[np.float64]) -> Floats:
    return np.asarray(values, dtype=np.float32)
