"""Sentences of the report: what it says of the data, of the result, and of what is left out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ...data import CovariateCoding
from ...evaluation.reconstruction import PrincipalComponentModel
from ..covariates import Unseen
from ..records import MIN_EVALUATED, Record
from .part import MIN_TO_FIT
from .reliability_part import MIN_REPEATED
from .report import interval_text

NEEDS = {
    "disentanglement": "needs the true factors of simulated brains",
    "anomaly": "needs evaluated subjects with a `lesion_mask`, and validation subjects without one",
    "normative": f"who is unusual: needs {MIN_TO_FIT} healthy validation or training subjects",
    "reliability": f"needs {MIN_REPEATED} evaluated subjects with several scans",
}
"""What a part that is left out lacks."""

SIMULATED = (
    "These brains are simulated: they were computed from the MNI152 template with known factors, and no person was "
    "scanned. Scores on them say that the method works, and how well against the known truth; they say nothing about "
    "how well it works on scans, which vary in more ways."
)


def verdict(scores: Mapping[str, Any]) -> str | None:
    """Return what the reconstruction's scores come to in one sentence, ``None`` without any.

    Args:
        scores: those of the part "reconstruction".

    Example:
        >>> print(verdict({"sse_ratio_to_pca": {"value": 0.64, "low": 0.6, "high": 0.68}}))
        The reconstruction error is 0.640 [0.600, 0.680] of PCA's.
    """
    names = {"sse_ratio": "the mean training image's", "sse_ratio_to_pca": "PCA's"}
    known = {key: scores[key] for key in names if key in scores and scores[key]["value"] is not None}
    if not known:
        return None
    parts = []
    for key, found in known.items():
        value, low, high = (math.nan if found[end] is None else found[end] for end in ("value", "low", "high"))
        parts.append(f"{interval_text(value, low, high)} of {names[key]}")
    return f"The reconstruction error is {' and '.join(parts)}."


def few_subjects(n_subjects: int) -> str:
    """Return the warning about an evaluation of fewer than :data:`MIN_EVALUATED` subjects.

    Example:
        >>> few_subjects(5).split(":")[0]
        'Only 5 subjects were evaluated'
    """
    subjects = "1 subject was" if n_subjects == 1 else f"{n_subjects} subjects were"
    return (
        f"Only {subjects} evaluated: with fewer than {MIN_EVALUATED} the intervals are wide, and even so too "
        "narrow, and neither probes nor comparisons between models can be trusted."
    )


def pca_text(pca: PrincipalComponentModel, asked: int, n_volumes: int) -> str:
    """Return what the baseline is: its number of components, why they are fewer than asked for, and if not exact.

    Example:
        >>> import numpy as np
        >>> from monai_betavae.evaluation.reconstruction import fit_pca
        >>> pca_text(fit_pca(np.eye(4), 3), 3, 4), pca_text(fit_pca(np.eye(4), 8), 8, 4)
        ('3 components', '3 components: of 4 training volumes there are no 8')
    """
    fewer = f": of {n_volumes} training volumes there are no {asked}" if pca.n_components_ < asked else ""
    rough = "" if pca.exact else ", by a randomised solver, a little weaker than exact ones"
    return f"{pca.n_components_} component{'s' * (pca.n_components_ != 1)}{fewer}{rough}"


def notes_on_covariates(coding: CovariateCoding | None, records: Sequence[Record], unseen: Unseen | None) -> list[str]:
    """Return what the coding says of missing values and of those far outside the training range."""
    if coding is None:
        return []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        coding.rows(records, unseen=unseen)
    return [f"Covariates of the evaluated volumes: {warning.message}" for warning in caught]
