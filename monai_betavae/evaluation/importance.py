"""Importance of each code for each factor, from models that predict the factors, and scores of such matrices."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .known_factors import N_FOLDS, Factor

Array = NDArray[Any]

N_TREES = 50
N_ROUNDS = 100
N_PENALTIES = 30
MODELS = ("random_forest", "gradient_boosting", "lasso")


def disentanglement_of(importance: Array) -> float:
    """Return the disentanglement of an importance matrix: whether each code is important for one factor only.

    D = sum_d rho_d D_d with D_d = 1 - H_K(P_d). H_K is the entropy to base K of the shares P_dk = R_dk / sum_k R_dk of
    the K factors in the importance of code d, and rho_d = sum_k R_dk / sum_dk R_dk is the weight of the code. A code
    that is important for no factor has no weight.

    Args:
        importance: R, shape (latent_dim, n_factors), non-negative, at least two codes and two factors.

    Returns:
        a value from 0 (all codes equally important for all factors) to 1; 0 for a matrix of zeros.

    Raises:
        ValueError: if the matrix isn't as described.

    Source:
        Eastwood & Williams, ICLR 2018, section 2.

    Example:
        >>> disentanglement_of(np.eye(2)), disentanglement_of(np.ones((2, 2)))
        (1.0, 0.0)
        >>> disentanglement_of(np.array([[3.0, 0], [0.5, 0.5]]))
        0.75
    """
    importance = _checked_importance(importance)
    total = importance.sum()
    return float(importance.sum(axis=1) @ concentration(importance) / total) if total > 0 else 0.0


def completeness_of(importance: Array) -> float:
    """Return the completeness of an importance matrix: whether each factor has its importance in one code only.

    C = sum_k w_k C_k with C_k = 1 - H_L(P_k). H_L is the entropy to base L of the shares P_dk = R_dk / sum_d R_dk of
    the L codes in the importances for factor k, and w_k = sum_d R_dk / sum_dk R_dk is the weight of the factor. If the
    importances of every factor add up to one, as those of trees do, C is the paper's mean over factors; otherwise a
    factor for which no code is important has no weight.

    Args:
        importance: R, shape (latent_dim, n_factors), non-negative, at least two codes and two factors.

    Returns:
        a value from 0 (all codes equally important for all factors) to 1; 0 for a matrix of zeros.

    Raises:
        ValueError: if the matrix isn't as described.

    Source:
        Eastwood & Williams, ICLR 2018, section 2.

    Example:
        >>> completeness_of(np.array([[1.0, 0], [1.0, 0], [0, 1], [0, 1]]))  # 1 - log 2 / log 4
        0.5
    """
    return disentanglement_of(np.transpose(importance))


def fit_importance(
    model: str, train: Array, target: Array, test: Array, factor: Factor, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit a model to the training subjects; return each code's importance and the predictions for the test subjects."""
    weights = np.ones(len(target))
    if factor.discrete:
        weights = 1 / np.bincount(target.astype(np.int64))[target.astype(np.int64)]
        weights *= len(target) / weights.sum()
    if model == "lasso":
        return _fitted_lasso(train, target, test, weights, factor.levels if factor.discrete else None, seed)

    from sklearn import ensemble

    estimator: Any
    if model == "random_forest":
        forest = ensemble.RandomForestClassifier if factor.discrete else ensemble.RandomForestRegressor
        estimator = forest(N_TREES, min_samples_leaf=3, max_features=None, random_state=seed)
    else:
        boosting = ensemble.GradientBoostingClassifier if factor.discrete else ensemble.GradientBoostingRegressor
        estimator = boosting(n_estimators=N_ROUNDS, random_state=seed)
    estimator.fit(train, target, sample_weight=weights)
    return estimator.feature_importances_, estimator.predict(test)


def _fitted_lasso(
    train: Array,
    target: Array,
    test: Array,
    weights: NDArray[np.float64],
    levels: NDArray[np.float64] | None,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LassoCV
    from sklearn.model_selection import KFold

    # targets: a column of 0 and 1 for each level, or the factor itself; scaled so that coefficients are comparable
    targets = target[:, None] if levels is None else (target[:, None] == levels).astype(np.float64)
    mean = np.average(targets, axis=0, weights=weights)
    spread = np.sqrt(np.average((targets - mean) ** 2, axis=0, weights=weights))
    importance, predictions = np.zeros(train.shape[1]), []
    for column in ((targets - mean) / spread).T:
        strongest = np.abs(train.T @ (weights * column)).max() / len(train)
        penalties = np.geomspace(1.0, 1e-3, N_PENALTIES) * max(strongest, 1e-6)
        estimator = LassoCV(alphas=penalties, cv=KFold(N_FOLDS, shuffle=True, random_state=seed))
        with warnings.catch_warnings():
            # with duplicated codes the weakest penalties of the path converge slowly; their fits are close enough
            warnings.simplefilter("ignore", ConvergenceWarning)
            estimator.fit(train, column, sample_weight=weights)
        importance += np.abs(estimator.coef_) / targets.shape[1]
        predictions.append(estimator.predict(test))
    if levels is None:
        return importance, predictions[0] * spread[0] + mean[0]
    return importance, levels[np.argmax(predictions, axis=0)]


def _checked_importance(importance: Array) -> NDArray[np.float64]:
    importance = np.asarray(importance, dtype=np.float64)
    if importance.ndim != 2 or min(importance.shape) < 2:
        raise ValueError(
            f"`importance` must have shape (latent_dim, n_factors), at least two of each, got {importance.shape}."
        )
    if not np.isfinite(importance).all() or importance.min() < 0:
        raise ValueError(f"`importance` must be finite and not negative, got {importance.min()} as its least.")
    return importance


def concentration(importance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 minus the entropy of each row's shares, to the base of the number of columns; 0 for a row of zeros."""
    total = importance.sum(axis=1, keepdims=True)
    n = importance.shape[1]
    shares = np.where(total > 0, importance / np.where(total > 0, total, 1.0), 1 / n)
    logarithms = np.log(np.where(shares > 0, shares, 1.0))  # 0 log 0 = 0
    concentration: NDArray[np.float64] = 1 + (shares * logarithms).sum(axis=1) / math.log(n)
    return np.clip(concentration, 0.0, 1.0)
