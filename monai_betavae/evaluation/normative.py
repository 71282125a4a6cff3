"""Deviation of subjects from a healthy reference, in latent dimensions and in voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._checks import check_choice, check_real
from .volume_batches import mask_batch, volume_batch

Array = NDArray[Any]
Floats = NDArray[np.float64]

METHODS = ("bh", "by", "bonferroni")


def latent_deviation(
    mu: Array,
    logvar: Array,
    train_mu: Array,
    train_logvar: Array | None = None,
    *,
    min_variance: float = 0.0,
) -> dict[str, Array]:
    """Return how far the codes of subjects deviate from those of the healthy training subjects.

    With the mean m_k and the variance v_k (denominator n - 1) of the n training subjects' posterior means in dimension
    k:

    z_bk = (mu_bk - m_k) / sqrt(v_k + exp(logvar_bk)),   score_b = mean_k |z_bk|

    p-value of a dimension: t = (mu_bk - m_k) / sqrt(v_k (1 + 1/n) + exp(logvar_bk)) in a two-sided test against
    Student's t with n - 1 degrees of freedom. It is exact for Gaussian codes without posterior variance. With posterior
    variance it is conservative, since exp(logvar) widens the scale but not the spread of mu.

    p-value of a subject: the rank of its score among the leave-one-out scores of the training subjects,
    p_b = (1 + #{scores >= score_b}) / (n + 1). It assumes no distribution of the codes, only that a healthy new subject
    comes from the same population as the training subjects; the smallest p is 1 / (n + 1). The encoder has seen the
    training subjects, so if it overfits, their codes spread differently from new ones. Codes of healthy validation
    subjects are a better reference and can be passed as ``train_mu``.

    Args:
        mu: posterior means of the subjects, shape (n_subjects, latent_dim). Don't pass
            subjects of the reference.
        logvar: their posterior log-variances, the same shape.
        train_mu: posterior means of the reference, shape (n, latent_dim), n at least 3.
        train_logvar: their posterior log-variances. Pass them if possible: without them the variances count as zero,
            which raises the scores of the reference and makes ``p_subject`` conservative, strongly so if posteriors are
            wide.
        min_variance: dimensions whose v_k doesn't exceed it are left out of the score; 0 leaves out constant dimensions
            only, as published. A collapsed dimension has v_k near 0 and exp(logvar) near 1, so its z is near 0 for
            every subject and dilutes the mean; 0.01 (as in `evaluation.latent_activity.active_units`) excludes it.

    Returns:
        "z", "p_values" and "q_values", shape (n_subjects, latent_dim), NaN in excluded dimensions, with
        Benjamini-Hochberg q-values over the dimensions of each subject; "score", "p_subject" and "q_subject", shape
        (n_subjects,), with q-values over the subjects; "reference_score", shape (n,), the leave-one-out scores of the
        training subjects; "active", shape (latent_dim,), boolean, the dimensions that count.

    Raises:
        ValueError: if shapes don't match, a value isn't finite, the reference has fewer than 3 subjects, or no
            dimension is left.

    Source:
        Lawry Aguila et al. 2022, MICCAI, doi 10.1007/978-3-031-16431-6_41 (latent deviation); Phipson & Smyth 2010,
        Statistical Applications in Genetics and Molecular Biology 9, 39 (the + 1); Benjamini & Hochberg 1995.

    Example:
        >>> train = np.array([[-1.0], [0.0], [1.0]])
        >>> found = latent_deviation(np.array([[4.0]]), np.log([[3.0]]), train)
        >>> found["z"].round(9).tolist(), found["score"].round(9).tolist(), found["p_subject"].tolist()
        ([[2.0]], [2.0], [0.75])
    """
    min_variance = check_real("min_variance", min_variance, minimum=0)
    codes, log_variances = _codes("mu", mu), _codes("logvar", logvar)
    reference = _codes("train_mu", train_mu)
    if log_variances.shape != codes.shape:
        raise ValueError(f"`logvar` must have the shape of `mu`, {codes.shape}, got {log_variances.shape}.")
    n, latent_dim = reference.shape
    if n < 3 or latent_dim != codes.shape[1]:
        raise ValueError(
            f"`train_mu` must have at least 3 rows of the {codes.shape[1]} dimensions of `mu`, got {reference.shape}."
        )
    reference_variance = np.zeros(reference.shape)
    if train_logvar is not None:
        reference_variance = np.exp(_codes("train_logvar", train_logvar))
        if reference_variance.shape != reference.shape:
            raise ValueError(
                f"`train_logvar` must have the shape of `train_mu`, {reference.shape}, got {reference_variance.shape}."
            )
    variance = reference.var(axis=0, ddof=1)
    # rounding can give a constant dimension a variance above 0
    active = (variance > min_variance) & (np.ptp(reference, axis=0) > 0)
    if not active.any():
        raise ValueError(
            f"`train_mu` must have a dimension of variance above {min_variance:g}, got {variance.max():g} at most."
        )
    distance = (codes - reference.mean(axis=0))[:, active]
    posterior_variance = np.exp(log_variances)[:, active]
    z, p, q = (np.full(codes.shape, np.nan) for _ in range(3))
    z[:, active] = distance / np.sqrt(variance[active] + posterior_variance)
    statistic = distance / np.sqrt(variance[active] * (1 + 1 / n) + posterior_variance)
    p[:, active] = _two_sided(statistic, n - 1)
    q = correct_p_values(p)
    score = np.abs(z[:, active]).mean(axis=1)
    healthy = _left_out_scores(reference[:, active], reference_variance[:, active])
    p_subject = (1 + (healthy >= score[:, None]).sum(axis=1)) / (n + 1)
    return {
        "z": z,
        "p_values": p,
        "q_values": q,
        "score": score,
        "p_subject": p_subject,
        "q_subject": correct_p_values(p_subject[None])[0],
        "reference_score": healthy,
        "active": active,
    }


def voxel_deviation(
    residuals: Array, healthy_residuals: Array, mask: Array | None = None, *, sd_floor: float = 1e-3
) -> dict[str, Floats]:
    """Return where a subject's residuals deviate from those of healthy subjects in the same voxel.

    With the mean m_i and the standard deviation s_i (denominator n - 1) of the n healthy residuals in voxel i:

    z_bi = (r_bi - m_i) / max(s_i, sd_floor),   p_bi = 2 P(T > |z_bi| / sqrt(1 + 1/n))

    where T follows Student's t with n - 1 degrees of freedom.

    The reference should be held-out healthy subjects (validation). A model fits its training subjects, so their
    residuals are smaller and less spread than those of new healthy subjects, and against them anyone has significant
    voxels. Pass signed residuals, image - reconstruction, on a common grid: rectified residuals such as those of
    `residual_map` are far from Gaussian, and their p-values are wrong. To check the calibration of p, look at the share
    of significant voxels in other healthy subjects.

    Args:
        residuals: residuals of the subjects, shape (n_subjects, x, y, z) or (n_subjects, 1, x, y, z).
        healthy_residuals: residuals of the reference, shape (n, x, y, z) or (n, 1, x, y, z), n at least 2.
        mask: voxels to test, shape (x, y, z) or one mask for each subject; ``None`` tests all voxels.
        sd_floor: smallest standard deviation, in units of the residuals, above 0. It prevents huge z in voxels where
            all healthy subjects agree. Where it applies, p is conservative.

    Returns:
        "z", shape (n_subjects, x, y, z), 0 outside the mask; "p", the same shape, NaN outside the mask. Correct p with
        `correct_p_values`.

    Raises:
        ValueError: if shapes don't match, a value isn't finite, the reference has fewer than 2 subjects or
            ``sd_floor`` isn't positive.

    Example:
        >>> healthy = np.array([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1)
        >>> voxel_deviation(np.full((1, 1, 1, 1), 3.0), healthy)["z"].item()
        3.0
    """
    sd_floor = check_real("sd_floor", sd_floor, minimum=0, exclusive=True)
    values, reference = volume_batch("residuals", residuals), volume_batch("healthy_residuals", healthy_residuals)
    n = len(reference)
    if n < 2 or reference.shape[1:] != values.shape[1:]:
        raise ValueError(
            f"`healthy_residuals` must hold at least two volumes of shape {values.shape[1:]}, got {reference.shape}."
        )
    inside = mask_batch("mask", mask, values.shape)
    scale = np.maximum(reference.std(axis=0, ddof=1), sd_floor)
    z = np.where(inside, (values - reference.mean(axis=0)) / scale, 0.0)
    p = np.full(z.shape, np.nan)
    p[inside] = _two_sided(z[inside] / np.sqrt(1 + 1 / n), n - 1)
    return {"z": z, "p": p}


def correct_p_values(p: Array, method: str = "bh") -> Floats:
    """Return p-values corrected for the number of tests of each subject.

    With the m p-values of a subject in rising order, "bonferroni" returns m p and controls the family-wise error; "bh"
    returns the minimum over j >= i of m p_j / j and controls the false discovery rate for independent or positively
    dependent tests (smooth maps count as such); "by" returns that times sum 1/j, valid for any dependence. On average,
    at most 5 % of a subject's tests with q <= 0.05 are false discoveries.

    Args:
        p: p-values, shape (n, ...), a row per subject, from 0 to 1; NaN where there is no test.
        method: "bh", "by" or "bonferroni".

    Returns:
        corrected p-values, the shape of ``p``; NaN where ``p`` is NaN.

    Raises:
        ValueError: if ``p`` has fewer than two axes or a value isn't from 0 to 1, or ``method`` isn't known.

    Source:
        Benjamini & Hochberg 1995, Journal of the Royal Statistical Society B 57, 289-300; Benjamini & Yekutieli 2001,
        Annals of Statistics 29, 1165-1188; ``scipy.stats.false_discovery_control``.

    Example:
        >>> correct_p_values(np.array([[0.01, 0.02, 0.5, np.nan]])).round(3).tolist()
        [[0.03, 0.03, 0.5, nan]]
    """
    from scipy.stats import false_discovery_control

    check_choice("method", method, METHODS)
    values = np.asarray(p, dtype=np.float64)
    if values.ndim < 2:
        raise ValueError(f"`p` must have shape (n, ...), a row per subject, got {values.shape}.")
    tested = ~np.isnan(values)
    if not ((values[tested] >= 0) & (values[tested] <= 1)).all():
        raise ValueError(f"`p` must be from 0 to 1, got {values[tested].min():g} to {values[tested].max():g}.")
    q = np.full(values.shape, np.nan)
    for row, chosen, out in zip(values, tested, q, strict=True):
        if not chosen.any():
            continue
        if method == "bonferroni":
            out[chosen] = np.minimum(row[chosen] * chosen.sum(), 1.0)
        else:
            out[chosen] = false_discovery_control(row[chosen], method=method)
    return q


def significant_count(q: Array, level: float = 0.05) -> NDArray[np.int64]:
    """Return how many of each subject's tests are significant, q <= level.

    Args:
        q: output of `correct_p_values`, shape (n, ...); NaN counts as not significant.
        level: significance level, above 0 and at most 1.

    Returns:
        shape (n,).

    Raises:
        ValueError: if ``level`` isn't as described or ``q`` has fewer than two axes.

    Example:
        >>> significant_count(np.array([[0.01, 0.2], [0.3, np.nan]])).tolist()
        [1, 0]
    """
    level = check_real("level", level, minimum=0, maximum=1, exclusive=True)
    values = np.asarray(q, dtype=np.float64)
    if values.ndim < 2:
        raise ValueError(f"`q` must have shape (n, ...), a row per subject, got {values.shape}.")
    counts: NDArray[np.int64] = (values <= level).reshape(len(values), -1).sum(axis=1)
    return counts


def _codes(name: str, codes: Array) -> Floats:
    array = np.asarray(codes, dtype=np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"`{name}` must have shape (n, latent_dim), got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity.")
    return array


def _two_sided(statistic: Floats, degrees: int) -> Floats:
    from scipy.special import stdtr

    p: Floats = 2 * stdtr(degrees, -np.abs(statistic))
    return p


def _left_out_scores(reference: Floats, posterior_variance: Floats) -> Floats:
    """Return each subject's score against the others; their mean and variance follow from sums without its part."""
    n = len(reference)
    distance = reference - reference.mean(axis=0)
    squares = (distance**2).sum(axis=0) - distance**2 * n / (n - 1)
    variance = np.maximum(squares, 0.0) / (n - 2)  # rounding may leave a negative remainder
    # x_i - mean of the others = (x_i - mean of all) n / (n - 1)
    with np.errstate(divide="ignore"):  # a subject that alone differs from a constant is infinitely far from it
        z = distance * n / (n - 1) / np.sqrt(variance + posterior_variance)
    scores: Floats = np.abs(z).mean(axis=1)
    return scores
