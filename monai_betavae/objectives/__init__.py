"""Objectives beside the beta-VAE loss: each a pure function, and a thin class in the place of ``BetaVAELoss``.

- ``free_bits``: a KL divergence up to a floor costs nothing (:class:`FreeBitsLoss`).
- ``capacity``: the KL divergence is held at a value that rises (:class:`CapacityLoss`).
- ``total_correlation``: the total correlation has a weight of its own (:class:`BetaTCVAELoss`).
- ``dip``: the codes' covariance is pulled to the identity (:class:`DIPVAELoss`).
- ``mmd``: the aggregated posterior is pulled to the prior (:class:`InfoVAELoss`).
- ``sigma``: the likelihood's scale is learned (:class:`SigmaVAELoss`).
- ``objective_description``: objectives as JSON and back.
- ``batch_terms``: which losses compare the images of a batch, and where they don't act as they should.
- ``codes``: what objectives ask of codes and posteriors.

Schedules of their weights are in :mod:`monai_betavae.schedules`.
"""

from ..schedules import Schedule
from .capacity import CapacityLoss
from .dip import DIPVAELoss
from .free_bits import FreeBitsLoss
from .mmd import InfoVAELoss
from .objective_description import OBJECTIVES, describe_objective, objective_from_description
from .sigma import SigmaVAELoss
from .total_correlation import BetaTCVAELoss

__all__ = [
    "OBJECTIVES",
    "BetaTCVAELoss",
    "CapacityLoss",
    "DIPVAELoss",
    "FreeBitsLoss",
    "InfoVAELoss",
    "Schedule",
    "SigmaVAELoss",
    "describe_objective",
    "objective_from_description",
]
