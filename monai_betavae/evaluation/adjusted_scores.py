"""Scores of deviation adjusted for covariates, so that p-values hold for every age and site."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._checks import check_real

Array = NDArray[Any]
Floats = NDArray[np.float64]

RIDGE = 1.0
"""Penalty of both regressions, in subjects at one unit of a covariate's code."""

MIN_PER_COLUMN = 5
"""Smallest number of reference subjects for each coded covariate, the intercept included."""


class AdjustedScores(NamedTuple):
    """Scores of deviation without what covariates do to them.

    Attributes:
        scores: adjusted scores of the subjects, shape (m,): spreads above the healthy mean at their covariates.
        p: p-values of the subjects, shape (m,), ranks among the reference.
        reference: adjusted scores of the reference, each without its own part, shape (n,).

    Example:
        >>> AdjustedScores(np.array([3.0]), np.array([0.5]), np.array([0.1])).p.tolist()
        [0.5]
    """

    scores: Floats
    p: Floats
    reference: Floats


def adjust_scores(
    scores: Array,
    covariates: Array,
    reference_scores: Array,
    reference_covariates: Array,
    *,
    ridge: float = RIDGE,
) -> AdjustedScores:
    r"""Adjust scores of deviation for what covariates do to healthy subjects' scores.

    A conditional model adjusts its codes, but not how much they vary: at a site with noisy scans, or in old age,
    healthy subjects deviate more from anything. The location and the scale of their scores s follow the coded
    covariates c:

    .. math:: \log s = a_0 + a^T c + e, \quad \log |e| = b_0 + b^T c + \text{noise}, \quad t = e / \exp(b_0 + b^T c)

    Both are ridge regressions on the n healthy subjects of the reference, without a penalty of the intercepts. The
    reference's own e come from the regression on the others (leave-one-out, by the hat matrix), so that they are as
    large as those of new subjects. The p-value is the rank of t, p = (1 + #{t_ref >= t}) / (n + 1).

    Args:
        scores: scores above 0 of the subjects, shape (m,), such as those of
            :func:`~monai_betavae.evaluation.normative.latent_deviation`.
        covariates: their coded covariates, shape (m, k), see :class:`~monai_betavae.data.CovariateCoding`.
        reference_scores: scores of healthy subjects that the model wasn't trained on, shape (n,), each computed without
            the subject's own part.
        reference_covariates: their coded covariates, shape (n, k), with n of at least 5 (k + 1).
        ridge: penalty, above 0.

    Raises:
        ValueError: naming the argument.

    Source:
        The location and scale model of ComBat (Johnson, Li & Rabinovic, Biostatistics 8, 2007), of scores; Phipson &
        Smyth, Statistical Applications in Genetics and Molecular Biology 9, 39, 2010 (ranks as p-values).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> site = rng.choice([-1.0, 1.0], size=(200, 1))
        >>> healthy = np.exp(site[:, 0] + 0.1 * rng.standard_normal(200))  # higher scores at one site
        >>> found = adjust_scores([1.0, 1.0], [[1.0], [-1.0]], healthy, site)
        >>> (found.p < 0.05).tolist()  # the same score is low for one site and high for the other
        [False, True]
    """
    ridge = check_real("ridge", ridge, minimum=0, exclusive=True)
    ours, rows = _pair("scores", scores, "covariates", covariates)
    healthy, known = _pair("reference_scores", reference_scores, "reference_covariates", reference_covariates)
    n, k = known.shape
    if rows.shape[1] != k:
        raise ValueError(f"`covariates` must have the {k} columns of `reference_covariates`, got {rows.shape[1]}.")
    if n < MIN_PER_COLUMN * (k + 1):
        raise ValueError(
            f"`reference_scores` must be of at least {MIN_PER_COLUMN} subjects for each of {k} coded covariates and "
            f"the intercept, {MIN_PER_COLUMN * (k + 1)}, got {n}."
        )
    design, new = np.column_stack([np.ones(n), known]), np.column_stack([np.ones(len(rows)), rows])
    solved = np.linalg.solve(design.T @ design + ridge * np.diag([0.0, *np.ones(k)]), design.T)
    location = solved @ np.log(healthy)
    leverage = np.einsum("ij,ji->i", design, solved)
    rest = (np.log(healthy) - design @ location) / (1 - leverage)
    # a subject on the regression would have a log of minus infinity
    floor = 1e-3 * max(float(np.abs(rest).mean()), 1e-9)
    scale = solved @ np.log(np.maximum(np.abs(rest), floor))
    reference = rest / np.exp(design @ scale)
    adjusted = (np.log(ours) - new @ location) / np.exp(new @ scale)
    p = (1 + (reference >= adjusted[:, None]).sum(axis=1)) / (n + 1)
    return AdjustedScores(adjusted, p, reference)


def _pair(name: str, scores: Array, covariates_name: str, covariates: Array) -> tuple[Floats, Floats]:
    values, rows = np.asarray(scores, dtype=np.float64), np.asarray(covariates, dtype=np.float64)
    if values.ndim != 1 or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"`{name}` must have shape (n,) with finite values above 0, got {_told(values)}.")
    if rows.ndim != 2 or len(rows) != len(values) or not np.isfinite(rows).all():
        raise ValueError(
            f"`{covariates_name}` must have shape ({len(values)}, k), a finite row for each score, got {_told(rows)}."
        )
    return values, rows


def _told(values: Floats) -> str:
    return f"shape {values.shape}" + (f" from {values.min():g} to {values.max():g}" if values.size else "")
