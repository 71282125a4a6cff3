"""Pockets of CSF that some people have and others don't: cavum septi pellucidi, arachnoid cyst, mega cisterna magna."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monai_betavae.data.simulation.anatomy import Floats

_EDGE_MM = 1.5
# share of the subjects that have one; higher than in the population, so that a cohort of 100 has some of each
_SHARES = {"cavum": 0.15, "cyst": 0.08, "cisterna": 0.1}
_LEFT_CYST_SHARE = 0.65


@dataclass(frozen=True)
class Pocket:
    """An ellipsoid of CSF in the template.

    Attributes:
        centre_mm: position of its centre.
        radii_mm: half of its length along each axis.
    """

    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]


def draw_structures(rng: np.random.Generator) -> dict[str, Pocket]:
    """Draw which structures a subject has, each independently of the others.

    - ``cavum``: cavum septi pellucidi, between the frontal horns (15 % of the subjects);
    - ``cyst``: arachnoid cyst at the temporal pole (8 %), more often on the left;
    - ``cisterna``: mega cisterna magna, behind and below the cerebellum (10 %).

    The draws of one structure are the same whether or not the subject has another.
    """
    found = {name: rng.random() < share for name, share in _SHARES.items()}
    width, length = rng.uniform(2.5, 5.0), rng.uniform(9.0, 15.0)
    side, cyst = (-1.0 if rng.random() < _LEFT_CYST_SHARE else 1.0), rng.uniform(8.0, 17.0)
    cisterna = rng.uniform(8.0, 14.0)
    pockets = {
        "cavum": Pocket((0.0, 8.0, 11.0), (float(width), float(length), 7.0)),
        "cyst": Pocket((43.0 * side, 16.0, -30.0), (float(0.8 * cyst), float(cyst), float(0.9 * cyst))),
        "cisterna": Pocket((0.0, -80.0, -50.0), (float(1.4 * cisterna), float(cisterna), float(0.8 * cisterna))),
    }
    return {name: pocket for name, pocket in pockets.items() if found[name]}


def pocket_weight(pocket: Pocket, position: Floats, half_voxel: float) -> Floats:
    """Return the share of each voxel that lies in a pocket.

    Args:
        pocket: the ellipsoid.
        position: positions in the template in mm, ``(3, n)``.
        half_voxel: half of the voxel size in mm of the template.
    """
    centre, radii = (np.array(values, np.float32)[:, None] for values in (pocket.centre_mm, pocket.radii_mm))
    offset = (position - centre) / radii
    radius = np.sqrt((offset**2).sum(axis=0))
    # to first order, the distance to the edge is (1 - rho) / |gradient of rho|
    slope = np.sqrt(((offset / radii) ** 2).sum(axis=0)) / np.maximum(radius, 1e-3)
    within = (1 - radius) / np.maximum(slope, 1 / radii.max())
    weight: Floats = np.clip(0.5 + within / (2 * max(half_voxel, _EDGE_MM / 2)), 0, 1).astype(np.float32)
    return weight


def add_pocket(tissues: dict[str, Floats], weight: Floats) -> Floats:
    """Turn the tissue in a pocket into CSF, in place, and return how much CSF each voxel gained.

    Args:
        tissues: fractions ``gm``, ``wm`` and ``csf``; ``texture`` fades with the tissue.
        weight: the result of `pocket_weight`.
    """
    gained = weight * (tissues["gm"] + tissues["wm"])
    tissues["csf"] = tissues["csf"] + gained
    for name in ("gm", "wm", "texture"):
        tissues[name] = tissues[name] * (1 - weight)
    return gained
