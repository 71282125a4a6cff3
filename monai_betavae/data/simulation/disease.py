"""A simulated disease: a local change of the anatomy beyond that of age, whose place and size are known.

Its pattern resembles that of Alzheimer's disease: the back of the lateral ventricles widens, the hippocampus shrinks
and leaves CSF beside it, and the cortex of the lateral temporal lobes thins. All of it is proportional to a severity
from 0 to 1, and exactly 0 outside of the regions below.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from monai_betavae.data.simulation.anatomy import Floats, LocalGrowth
from monai_betavae.data.simulation.structures import Pocket, pocket_weight
from monai_betavae.data.simulation.subject_factors import stream

# centre on the right side and radius, in mm of the template; both sides have one
_VENTRICLE_REGION = ((27.0, -40.0, 6.0), 40.0)
_CORTEX_REGION = ((54.0, -20.0, -20.0), 32.0)
# what the ventricles gain, relative to those of the template, and share of the rim of cortex lost, at severity 1
_GROWTH, _LOCAL_ATROPHY = 2.1, 0.6
_HIPPOCAMPUS, _HIPPOCAMPAL_LOSS = Pocket((28.0, -20.0, -15.0), (5.0, 15.0, 5.0)), 0.6
_SEVERITY_SHAPE, _LEAST_SEVERITY = (2.0, 2.0), 0.2


def draw_severity(seed: int, subject: int) -> float:
    """Draw the severity of one patient, 0.2 + 0.8 B with B from a beta distribution (2, 2): 0.6 on average."""
    drawn = stream(seed, subject, "severity").beta(*_SEVERITY_SHAPE)
    return float(_LEAST_SEVERITY + (1 - _LEAST_SEVERITY) * drawn)


def local_growth(severity: float) -> LocalGrowth | None:
    """Return where and by how much the ventricles widen, ``None`` without a disease."""
    if severity == 0:
        return None
    centre, radius = _VENTRICLE_REGION
    return LocalGrowth(1 + _GROWTH * severity, lambda position: _both_sides(position, centre, radius))


def local_atrophy(position: Floats, severity: float) -> npt.NDArray[np.float64]:
    """Return the atrophy that the disease adds to that of age, at positions ``(3, n)`` in the template."""
    # in double precision like a subject's atrophy, so that nothing changes where this is 0
    return _LOCAL_ATROPHY * severity * _both_sides(position, *_CORTEX_REGION).astype(np.float64)


def hippocampal_loss(position: Floats, severity: float, half_voxel: float) -> Floats:
    """Return the share of tissue that turns into CSF at and beside the hippocampus.

    Args:
        position: positions in the template in mm, ``(3, n)``.
        severity: from 0 to 1.
        half_voxel: half of the voxel size in mm of the template.
    """
    right = np.stack([np.abs(position[0]), *position[1:]])
    return np.float32(_HIPPOCAMPAL_LOSS * severity) * pocket_weight(_HIPPOCAMPUS, right, half_voxel)


def _both_sides(position: Floats, centre: tuple[float, float, float], radius: float) -> Floats:
    """Return (1 + cos(pi r / radius)) / 2 with the distance r to the nearer of two centres, 0 from ``radius`` on."""
    right = np.stack([np.abs(position[0]), *position[1:]])
    away = np.sqrt(((right - np.array(centre, np.float32)[:, None]) ** 2).sum(axis=0)) / np.float32(radius)
    share: Floats = (0.5 + 0.5 * np.cos(np.float32(np.pi) * np.minimum(away, 1))).astype(np.float32)
    return share
