"""Stability of codes across seeds: whether trainings that differ in their seed alone find the same latents.

Neither score needs labels, so both may choose a model. The UDR asks for the same single dimensions, up to order and
sign; canonical correlations ask for the same space, however it is turned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._checks import check_real

Array = NDArray[Any]


def udr(codes: Sequence[Array], kl: Sequence[Array], threshold: float = 0.01) -> dict[str, Any]:
    r"""Return the unsupervised disentanglement ranking of models that differ in their seed.

    For two models with the absolute rank correlations R_ab between their dimensions

    .. math::
        UDR_{ij} = \frac{1}{d_i + d_j}
        \left(\sum_b \frac{r_b^2}{\sum_a R_{ab}} + \sum_a \frac{r_a^2}{\sum_b R_{ab}}\right),
        \quad r_b = \max_a R_{ab}, \; r_a = \max_b R_{ab}

    where sums of b and a run over the informative dimensions, d_i and d_j in number, and the sums in the denominators
    over all dimensions. It is 1 if each informative dimension correlates perfectly with one of the other model, and
    with no other. A model's score is the median over the other models.

    Args:
        codes: posterior means of the same subjects by each of at least two models, shape (n, latent_dim).
        kl: each model's KL divergence per dimension, in nats.
        threshold: divergence above which a dimension is informative.

    Returns:
        "score", the mean over models; "per_model", shape (n_models,); "pairs", shape (n_models, n_models). Two models
        without an informative dimension have 0.

    Raises:
        ValueError: for fewer than two models or 10 subjects, other shapes, or values that aren't finite.

    Source:
        Duan et al., "Unsupervised Model Selection for Variational Disentangled Representation Learning", ICLR 2020.

    Example:
        >>> codes = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), axis=-1).reshape(-1, 3)  # uncorrelated
        >>> turned = codes[:, [2, 0, 1]] * [1, -2, 3]  # the same dimensions in another order
        >>> round(udr([codes, turned], [np.ones(3)] * 2)["score"], 6)
        1.0
    """
    checked = _checked(codes, "codes")
    threshold = check_real("threshold", threshold, minimum=0)
    if len(kl) != len(checked):
        raise ValueError(f"`kl` must have one entry for each of the {len(checked)} models, got {len(kl)}.")
    informative = []
    for number, (each, divergence) in enumerate(zip(checked, kl, strict=True)):
        divergence = np.asarray(divergence, dtype=np.float64)
        if not np.isfinite(divergence).all():
            raise ValueError(f"`kl` must be finite, got {divergence} for model {number}.")
        if divergence.shape != (each.shape[1],):
            raise ValueError(
                f"`kl` must have one value for each of the {each.shape[1]} dimensions of model {number}, got shape "
                f"{divergence.shape}."
            )
        informative.append(divergence > threshold)
    ranked = [_standardized(_ranks(each)) for each in checked]
    pairs = np.eye(len(checked))
    for i in range(len(checked)):
        for j in range(i):
            pairs[i, j] = pairs[j, i] = _pair(np.abs(ranked[i].T @ ranked[j]), informative[i], informative[j])
    others = ~np.eye(len(checked), dtype=bool)
    per_model = np.array([np.median(row[other]) for row, other in zip(pairs, others, strict=True)])
    return {"score": float(per_model.mean()), "per_model": per_model, "pairs": pairs}


def canonical_correlations(first: Array, second: Array) -> NDArray[np.float64]:
    """Return the canonical correlations of two models' codes of the same subjects, in descending order.

    They are 1 if the codes are the same up to an affine map. In a sample of n subjects they are too large by chance:
    independent codes of p and q dimensions have correlations up to about sqrt(p / n) + sqrt(q / n).

    Args:
        first: posterior means, shape (n, p), more than 2 (p + q) subjects.
        second: shape (n, q).

    Returns:
        shape (min(p, q),), or fewer where dimensions are constant or copies of others; in [0, 1].

    Raises:
        ValueError: for too few subjects, other shapes, or values that aren't finite.

    Source:
        Hotelling, "Relations between Two Sets of Variates", Biometrika 28, 1936; Raghu et al., "SVCCA", NeurIPS 2017.

    Example:
        >>> codes = np.random.default_rng(0).normal(size=(100, 2))
        >>> canonical_correlations(codes, codes @ [[1.0, 2.0], [0.0, 1.0]] + 5).round(6).tolist()
        [1.0, 1.0]
    """
    checked = _checked([first, second], "codes")
    n, total = len(checked[0]), sum(each.shape[1] for each in checked)
    if n <= 2 * total:
        raise ValueError(
            f"There must be more than {2 * total} subjects, twice the dimensions of both codes, got {n}: with fewer, "
            "correlations are large by chance."
        )
    bases = []
    for each in checked:
        left, sizes, _ = np.linalg.svd(_standardized(each), full_matrices=False)
        bases.append(left[:, sizes > 1e-8 * max(float(sizes.max()), 1e-300)])
    found: NDArray[np.float64] = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    return found.clip(0, 1)


def _pair(correlations: Array, rows: Array, columns: Array) -> float:
    """Return the UDR of two models from their dimensions' absolute correlations, and which are informative."""
    if not rows.any() and not columns.any():
        return 0.0
    total = 0.0
    for matrix, chosen in ((correlations, columns), (correlations.T, rows)):
        sums = matrix.sum(axis=0)
        shares = np.divide(matrix.max(axis=0) ** 2, sums, out=np.zeros_like(sums), where=sums > 0)
        total += float(shares[chosen].sum())
    return total / int(rows.sum() + columns.sum())


def _ranks(codes: Array) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    ranks: NDArray[np.float64] = rankdata(codes, axis=0)
    return ranks


def _standardized(values: Array) -> NDArray[np.float64]:
    """Return columns of mean 0 and length 1; a constant one becomes 0."""
    centred = values - values.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=0)
    # rounding leaves a constant column of large numbers with a tiny length
    constant = lengths <= 1e-10 * np.abs(values).max(axis=0) * len(values) ** 0.5
    result: NDArray[np.float64] = np.where(constant, 0.0, centred / np.where(constant, 1.0, lengths))
    return result


def _checked(codes: Sequence[Array], name: str) -> list[NDArray[np.float64]]:
    arrays = [np.asarray(each, dtype=np.float64) for each in codes]
    if len(arrays) < 2:
        raise ValueError(f"`{name}` must be of at least two models, got {len(arrays)}.")
    for each in arrays:
        if each.ndim != 2 or each.shape[1] == 0 or len(each) != len(arrays[0]):
            shapes = [each.shape for each in arrays]
            raise ValueError(f"`{name}` must have shape (n, latent_dim) with the same subjects, got {shapes}.")
        if not np.isfinite(each).all():
            raise ValueError(f"`{name}` must be finite.")
    if len(arrays[0]) < 10:
        raise ValueError(f"`{name}` must be of at least 10 subjects, got {len(arrays[0])}.")
    return arrays
