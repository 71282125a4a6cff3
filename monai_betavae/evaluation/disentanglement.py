"""Whether each latent dimension carries one known factor, and each factor sits in one: MIG, SAP, DCI, FactorVAE.

All four need the factors' true values, so they describe a model and can't choose one where there are no labels
(Locatello et al. 2019, arXiv 1811.12359). They were made for factors that are independent of each other. In a cohort
age, sex and site seldom are, and a code that carries one of two related factors then counts as carrying both.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .._checks import check_choice, check_integer, check_real, check_seed

if TYPE_CHECKING:
    from pandas import DataFrame

Array = NDArray[Any]
Factors: TypeAlias = "Array | Mapping[str, Any] | DataFrame"

MIN_SUBJECTS = 20
MAX_LEVELS = 10  # numbers with more distinct values than this are continuous, unless `discrete` says otherwise
MISSING_TEXT = ("", "n/a", "nan")  # "n/a" is BIDS's; "nan" is what numpy makes of NaN in an array of text
N_FOLDS = 5
N_TREES = 50
N_ROUNDS = 100
N_PENALTIES = 30
MODELS = ("random_forest", "gradient_boosting", "lasso")


def mig(
    codes: Array,
    factors: Factors,
    *,
    names: Sequence[str] | None = None,
    seed: int | None = 0,
    discrete: Iterable[str] | None = None,
    n_bins: int | None = None,
) -> dict[str, Any]:
    """Return the mutual information gap: how far the best code of a factor is ahead of the second best.

    MIG = mean_k (I(z_(1); v_k) - I(z_(2); v_k)) / H(v_k), where z_(1) and z_(2) are the two codes that share most
    information with the factor v_k. 1: each factor is in one code and no other. 0: two codes share each factor, or none
    carries it.

    Codes and continuous factors are cut into bins of equal mass, equal values in one bin. So the score depends on the
    order of a code's values alone: it stays the same under every strictly monotonic transform. (A decreasing one may
    move the middle subject where an even ``n_bins`` meets an odd number of subjects; the default is odd.)

    The information is the plug-in estimate of the table of counts. With B bins, C levels of the factor and n subjects,
    a useless code has about (B - 1) (C - 1) / (2 n) nats too much. The gap cancels most of that, but the best of many
    useless codes is still ahead of the second by chance. The default, the odd number next to n^(1/3) between 3 and 19
    (5 for 100 subjects, 7 for 300), keeps that bias near n^(-1/3) / 2 nats at most: 0.06 of an entropy of 1.95 nats for
    300 subjects, where the 20 bins of large synthetic sets would give 0.6 of 3.0. More bins see finer relations. Scores
    of different numbers of bins, or of cohorts of very different size, don't compare.

    Args:
        codes: posterior means, shape (n, latent_dim), at least 20 subjects and two codes.
        factors: shape (n, n_factors), or columns by name: a mapping of arrays of shape (n,), or a DataFrame.
        names: of an array's columns, by default "factor_0", ...; of columns by name, those to use, by default all.
        seed: not used, since nothing is drawn; here so that all four scores are called alike.
        discrete: names of the discrete factors; all others that are numbers are then continuous. By default text,
            booleans and numbers of at most 10 distinct values are discrete.
        n_bins: number of bins, at least 2; by default it follows from the number of subjects.

    Returns:
        "score"; "per_factor", the normalised gap by name; "mutual_information", shape (latent_dim, n_factors), nats;
        "entropy", H(v_k) by name, nats; "n_bins".

    Raises:
        ValueError: if a factor has missing values or one value only, a discrete one has a value that only one subject
            has, or an argument isn't as described.

    Source:
        Chen et al., "Isolating Sources of Disentanglement in Variational Autoencoders", NeurIPS 2018, section 4.

    Example:
        >>> v = np.random.default_rng(0).normal(size=(1000, 2))
        >>> mig(v, v)["score"] > 0.95, mig(np.hstack([v, v]), v)["score"]
        (True, 0.0)
    """
    codes, typed = _checked(codes, factors, names, discrete)
    check_seed("seed", seed)
    n_bins = _number_of_bins(n_bins, len(codes))
    binned_codes = [_quantile_bins(code, n_bins) for code in codes.T]
    binned_factors = [_levels(factor, n_bins) for factor in typed]
    information = np.array([[_mutual_information(z, v) for v in binned_factors] for z in binned_codes])
    entropy = np.array([_mutual_information(v, v) for v in binned_factors])  # I(v; v) = H(v)
    gaps = _gap(information) / entropy
    return {
        "score": float(gaps.mean()),
        "per_factor": _by_name(typed, gaps),
        "mutual_information": information,
        "entropy": _by_name(typed, entropy),
        "n_bins": n_bins,
    }


def sap(
    codes: Array,
    factors: Factors,
    *,
    names: Sequence[str] | None = None,
    seed: int | None = 0,
    discrete: Iterable[str] | None = None,
) -> dict[str, Any]:
    """Return the separated attribute predictability: the gap between the two codes that predict a factor best alone.

    SAP = mean_k (S_(1)k - S_(2)k), with S_dk the score of code d alone for factor k:

    - continuous factor: R^2 of the linear regression on that code, cov(z_d, v_k)^2 / (var(z_d) var(v_k));
    - discrete factor: balanced accuracy, the mean over levels of the share predicted right, of the linear discriminant
      with equal priors. In one dimension that is the level whose mean is nearest. Each subject is predicted from the
      other four fifths of the subjects, the fifths stratified by level.

    The paper fits thresholds; the discriminant has a closed form, handles more than two levels and needs no tuning.
    For C levels chance is 1 / C, so the gap of a discrete factor is 1 - 1 / C at most, not 1.

    Args:
        codes: posterior means, shape (n, latent_dim), at least 20 subjects and two codes.
        factors: shape (n, n_factors), or columns by name: a mapping of arrays of shape (n,), or a DataFrame.
        names: of an array's columns, by default "factor_0", ...; of columns by name, those to use, by default all.
        seed: of the fifths.
        discrete: names of the discrete factors; all others that are numbers are then continuous. By default text,
            booleans and numbers of at most 10 distinct values are discrete.

    Returns:
        "score"; "per_factor", the gap by name; "predictability", S, shape (latent_dim, n_factors).

    Raises:
        ValueError: if a factor has missing values or one value only, a discrete one has a value that only one subject
            has, or an argument isn't as described.

    Source:
        Kumar, Sattigeri & Balakrishnan, "Variational Inference of Disentangled Latent Concepts from Unlabeled
        Observations", ICLR 2018, section 3.

    Example:
        >>> v = np.random.default_rng(0).normal(size=(1000, 2))
        >>> sap(v, v)["score"] > 0.95, sap(np.hstack([v, v]), v)["score"]
        (True, 0.0)
    """
    codes, typed = _checked(codes, factors, names, discrete)
    rng = np.random.default_rng(check_seed("seed", seed))
    scaled = _standardised(codes)
    columns = []
    for factor in typed:
        if not factor.discrete:
            target = _standardised(factor.values[:, None])[:, 0]
            columns.append((scaled.T @ target / len(target)) ** 2)
            continue
        predicted = np.empty(codes.shape)
        folds = _folds(factor, rng)
        for fold in range(N_FOLDS):
            train, test = folds != fold, folds == fold
            centres = np.array([scaled[train & (factor.values == level)].mean(axis=0) for level in factor.levels])
            predicted[test] = np.abs(scaled[test] - centres[:, None]).argmin(axis=0)
        columns.append(_balanced_accuracy(factor.values, predicted))
    predictability = np.stack(columns, axis=1)
    gaps = _gap(predictability)
    return {"score": float(gaps.mean()), "per_factor": _by_name(typed, gaps), "predictability": predictability}


def dci(
    codes: Array,
    factors: Factors,
    *,
    names: Sequence[str] | None = None,
    seed: int | None = 0,
    discrete: Iterable[str] | None = None,
    model: str = "random_forest",
) -> dict[str, Any]:
    """Return disentanglement, completeness and informativeness of codes, from models that predict each factor.

    - disentanglement: each code is important for one factor (``disentanglement_of`` the importance matrix);
    - completeness: each factor needs one code (``completeness_of``);
    - informativeness: how well all codes together predict the factors, the mean over factors of R^2 (continuous) or
      balanced accuracy (discrete) of subjects that the model wasn't fitted to. Higher is better; the paper reports
      errors, where lower is. R^2 is at most 1 and can be below 0; balanced accuracy is 1 / levels by chance.

    Each subject is predicted by a model of the other four fifths of the subjects, the fifths stratified by level, and
    the importances are the mean over the five models. Codes are standardised, and sorted so that their order and sign
    don't matter. Discrete factors are fitted with equal weight for each level.

    The importances of a tree model add up to one for every factor, whether or not it can be predicted: with a low
    informativeness the other two numbers mean little.

    The default is a random forest. It sees relations that aren't linear, its importances aren't negative, and it
    divides them among duplicated codes, where the lasso would pick one and call that complete. All codes are offered at
    every split, since a random subset of them would spread the importance of a single good code. It takes about 0.2
    seconds for each model, of which there are five for each factor, for 300 subjects and 32 codes.

    Args:
        codes: posterior means, shape (n, latent_dim), at least 20 subjects and two codes.
        factors: shape (n, n_factors), at least two, or columns by name: a mapping of arrays of shape (n,), or a
            DataFrame.
        names: of an array's columns, by default "factor_0", ...; of columns by name, those to use, by default all.
        seed: of the fifths and the models.
        discrete: names of the discrete factors; all others that are numbers are then continuous. By default text,
            booleans and numbers of at most 10 distinct values are discrete.
        model: "random_forest" (50 trees, at least 3 subjects in a leaf), "gradient_boosting" (100 rounds of depth 3),
            both with the impurity importances, or "lasso": importance |w|, the penalty chosen by cross-validation
            within the training subjects; for a discrete factor the mean |w| over one lasso for each level.

    Returns:
        "disentanglement", "completeness", "informativeness"; "importance", shape (latent_dim, n_factors);
        "per_code", disentanglement of each code, shape (latent_dim,); "per_factor", completeness by name;
        "informativeness_per_factor", by name.

    Raises:
        ValueError: if there are fewer than two factors, a factor has missing values or one value only, a discrete one
            has a value that only one subject has, or an argument isn't as described.

    Source:
        Eastwood & Williams, "A Framework for the Quantitative Evaluation of Disentangled Representations", ICLR 2018,
        section 2.

    Example:
        >>> v = np.random.default_rng(0).normal(size=(100, 2))
        >>> found = dci(v, v, model="lasso")
        >>> [round(found[key], 1) for key in ("disentanglement", "completeness", "informativeness")]
        [1.0, 1.0, 1.0]
    """
    codes, typed = _checked(codes, factors, names, discrete, min_factors=2)
    model = check_choice("model", model, MODELS)
    rng = np.random.default_rng(check_seed("seed", seed))
    scaled = _standardised(codes)
    # A tree breaks ties among codes by their position, and mirrored codes sort elsewhere: one sign, one order.
    scaled = scaled * np.where(scaled[0] < 0, -1.0, 1.0)
    order = np.lexsort(scaled[::-1])
    scaled = scaled[:, order]
    importance = np.zeros((codes.shape[1], len(typed)))
    informativeness = np.zeros(len(typed))
    for k, factor in enumerate(typed):
        folds = _folds(factor, rng)
        predicted = np.empty(len(codes))
        for fold in range(N_FOLDS):
            train, test = folds != fold, folds == fold
            weights, predicted[test] = _fitted(
                model, scaled[train], factor.values[train], scaled[test], factor, int(rng.integers(2**31))
            )
            importance[order, k] += weights / N_FOLDS
        if factor.discrete:
            informativeness[k] = _balanced_accuracy(factor.values, predicted[:, None])[0]
        else:
            informativeness[k] = 1 - np.mean((factor.values - predicted) ** 2) / np.var(factor.values)
    return {
        "disentanglement": disentanglement_of(importance),
        "completeness": completeness_of(importance),
        "informativeness": float(informativeness.mean()),
        "importance": importance,
        "per_code": _concentration(importance),
        "per_factor": _by_name(typed, _concentration(importance.T)),
        "informativeness_per_factor": _by_name(typed, informativeness),
    }


def disentanglement_of(importance: Array) -> float:
    """Return the disentanglement of an importance matrix: whether each code is important for one factor only.

    D = sum_d rho_d D_d with D_d = 1 - H_K(P_d), the entropy to base K of the shares P_dk = R_dk / sum_k R_dk of the K
    factors in the importance of code d, and the code's weight rho_d = sum_k R_dk / sum_dk R_dk. A code that is
    important for nothing has no weight.

    Args:
        importance: R, shape (latent_dim, n_factors), not negative, at least two of each.

    Returns:
        between 0, all codes equally important for all factors, and 1; 0 for a matrix of zeros.

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
    return float(importance.sum(axis=1) @ _concentration(importance) / total) if total > 0 else 0.0


def completeness_of(importance: Array) -> float:
    """Return the completeness of an importance matrix: whether each factor has its importance in one code only.

    C = sum_k w_k C_k with C_k = 1 - H_L(P_k), the entropy to base L of the shares P_dk = R_dk / sum_d R_dk of the L
    codes in the importances for factor k, and the weight w_k = sum_d R_dk / sum_dk R_dk. Where every factor's
    importances add up to one, as those of trees do, that is the paper's mean over factors; otherwise a factor that
    nothing is important for has no weight.

    Args:
        importance: R, shape (latent_dim, n_factors), not negative, at least two of each.

    Returns:
        between 0, all codes equally important for all factors, and 1; 0 for a matrix of zeros.

    Raises:
        ValueError: if the matrix isn't as described.

    Source:
        Eastwood & Williams, ICLR 2018, section 2.

    Example:
        >>> completeness_of(np.array([[1.0, 0], [1.0, 0], [0, 1], [0, 1]]))  # 1 - log 2 / log 4
        0.5
    """
    return disentanglement_of(np.transpose(importance))


def factor_vae_score(
    codes: Array,
    factors: Factors,
    *,
    names: Sequence[str] | None = None,
    seed: int | None = 0,
    discrete: Iterable[str] | None = None,
    n_bins: int | None = None,
    group_size: int = 10,
    n_votes: int = 800,
    threshold: float = 0.05,
) -> dict[str, Any]:
    """Return the FactorVAE score: whether the code that varies least tells which factor a group of subjects shares.

    A vote: take a factor, one of its levels, and ``group_size`` subjects of that level; the code d with the least
    var_group(z_d) / var(z_d) votes for the factor. The majority of its votes assigns each code to a factor, and the
    score is the share of other votes that go to the factor of their code.

    In the paper a generator draws new images with one factor fixed and all others free. Here the cohort is fixed, so:

    - subjects of a group share a level of a discrete factor, or the quantile bin of a continuous one (see ``mig``), and
      an ideal code still varies within a bin;
    - the other factors vary as they do in the cohort: of two related factors both codes vary little;
    - subjects are halved at random, stratified by the discrete factors. Codes are assigned by the votes of one half and
      scored on those of the other, and the halves then change places. Otherwise the same few subjects would be in both,
      and noise would score above chance. A code without a vote in the first half is right by chance in the other;
    - factors take turns, and levels are drawn with equal probability.

    It can't be computed where a level has fewer than ``group_size`` subjects in a half. A smaller group has a noisier
    variance, and with many codes another one then varies least by chance.

    Args:
        codes: posterior means, shape (n, latent_dim), at least 20 subjects and two codes, in units of the prior's
            standard deviation, for ``threshold``.
        factors: shape (n, n_factors), at least two, or columns by name: a mapping of arrays of shape (n,), or a
            DataFrame.
        names: of an array's columns, by default "factor_0", ...; of columns by name, those to use, by default all.
        seed: of the halves and the groups.
        discrete: names of the discrete factors; all others that are numbers are then continuous. By default text,
            booleans and numbers of at most 10 distinct values are discrete.
        n_bins: number of bins of a continuous factor in each half, at least 2; by default it follows from the number of
            subjects.
        group_size: subjects in a group, at least 2.
        n_votes: votes of each half.
        threshold: codes of no greater variance over the cohort are inactive and have no vote. It is the one part of the
            score that depends on the scale of the codes; 0 leaves out constant codes only.

    Returns:
        "score"; "chance", 1 / n_factors; "active", shape (latent_dim,), boolean; "votes" of both halves, shape
        (latent_dim, n_factors); "n_bins". With no active code there are no votes and the score is 0.

    Raises:
        ValueError: if there are fewer than two factors, a level has too few subjects, a factor has missing values or
            one value only, or an argument isn't as described.

    Source:
        Kim & Mnih, "Disentangling by Factorising", ICML 2018, section 4 and appendix B.

    Example:
        >>> v = np.random.default_rng(0).normal(size=(1000, 2))
        >>> found = factor_vae_score(v, v)
        >>> found["score"] > 0.95, found["chance"]
        (True, 0.5)
    """
    codes, typed = _checked(codes, factors, names, discrete, min_factors=2)
    rng = np.random.default_rng(check_seed("seed", seed))
    n_bins = _number_of_bins(n_bins, len(codes))
    group_size = check_integer("group_size", group_size, minimum=2)
    n_votes = check_integer("n_votes", n_votes, minimum=1)
    active = np.var(codes, axis=0) > check_real("threshold", threshold, minimum=0)
    # One split for all factors: if each had its own, a code that varies little in some subjects of one half would find
    # them again in the other half of another factor, and noise would score below chance.
    halves = [[_groups(factor, half, n_bins, group_size) for factor in typed] for half in _halves(typed, rng)]
    votes = np.zeros((2, codes.shape[1], len(typed)), dtype=np.int64)
    if not active.any():
        score = 0.0
    else:
        scaled = _standardised(codes[:, active])
        for half, groups in enumerate(halves):
            votes[half][active] = _votes(scaled, groups, n_votes, group_size, rng)
        score = (_share_of_majority(votes[0], votes[1]) + _share_of_majority(votes[1], votes[0])) / 2
    return {
        "score": score,
        "chance": 1 / len(typed),
        "active": active,
        "votes": votes.sum(axis=0),
        "n_bins": n_bins,
    }


class _Factor(NamedTuple):
    name: str
    values: NDArray[np.float64]  # of a discrete factor: 0, 1, ..., the position among its sorted values
    discrete: bool

    @property
    def levels(self) -> NDArray[np.float64]:
        return np.unique(self.values)


def _checked(
    codes: Array,
    factors: Factors,
    names: Sequence[str] | None,
    discrete: Iterable[str] | None,
    min_factors: int = 1,
) -> tuple[NDArray[np.float64], list[_Factor]]:
    codes = np.asarray(codes, dtype=np.float64)
    if codes.ndim != 2 or len(codes) < MIN_SUBJECTS or codes.shape[1] < 2:
        raise ValueError(
            f"`codes` must have shape (n, latent_dim), at least {MIN_SUBJECTS} subjects and 2 dimensions, "
            f"got {codes.shape}."
        )
    if not np.isfinite(codes).all():
        raise ValueError(f"`codes` must be finite, got {np.count_nonzero(~np.isfinite(codes))} values that aren't.")
    columns = _named_columns(factors, names)
    if len(columns) < min_factors:
        raise ValueError(f"`factors` must be at least {min_factors}, got {len(columns)}.")
    chosen = None if discrete is None else [discrete] if isinstance(discrete, str) else list(discrete)
    unknown = [name for name in chosen or [] if name not in columns]
    if unknown:
        raise ValueError(f"`discrete` must name factors among {list(columns)}, got {unknown}.")
    typed = []
    for name, column in columns.items():
        if column.shape != (len(codes),):
            raise ValueError(
                f"`factors` must have a value for each of {len(codes)} subjects, got {name!r} of shape {column.shape}."
            )
        typed.append(_typed(name, column, None if chosen is None else name in chosen))
    return codes, typed


def _named_columns(factors: Factors, names: Sequence[str] | None) -> dict[str, Array]:
    if isinstance(names, str):
        names = [names]
    if names is not None and len(set(names)) != len(names):
        raise ValueError(f"`names` must be different from each other, got {list(names)}.")
    if isinstance(factors, Mapping) or hasattr(factors, "columns"):
        unknown = [name for name in names or [] if name not in factors]
        if unknown:
            raise ValueError(f"`names` must be among the factors {[str(name) for name in factors]}, got {unknown}.")
        table: Any = factors
        return {str(name): np.asarray(table[name]) for name in (table if names is None else names)}
    array = np.asarray(factors)
    if array.ndim != 2:
        raise ValueError(f"`factors` must have shape (n, n_factors) or be columns by name, got shape {array.shape}.")
    if names is None:
        names = [f"factor_{number}" for number in range(array.shape[1])]
    if len(names) != array.shape[1]:
        raise ValueError(f"`names` must be one for each of {array.shape[1]} factors, got {list(names)}.")
    return {str(name): column for name, column in zip(names, array.T, strict=True)}


def _typed(name: str, column: Array, discrete: bool | None) -> _Factor:
    """Return a factor as numbers, its values or its levels' positions; ``discrete=None`` decides by the values."""
    import pandas

    missing = pandas.isna(column) | np.isin(column.astype(str), MISSING_TEXT)
    if missing.any():
        raise ValueError(
            f"`factors` must have no missing values, got {np.count_nonzero(missing)} in {name!r}: "
            "leave these subjects out of `codes` and `factors`."
        )
    number = column.dtype.kind in "iuf" or (
        column.dtype.kind == "O" and all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in column)
    )
    values = column.astype(np.float64) if number else column.astype(str)
    if number and not np.isfinite(values).all():
        raise ValueError(f"`factors` must be finite, got {np.count_nonzero(np.isinf(values))} infinite in {name!r}.")
    levels, positions, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(levels) == 1:
        raise ValueError(f"`factors` must vary, got the one value {levels[0]} for all subjects in {name!r}.")
    if number and not (len(levels) <= MAX_LEVELS if discrete is None else discrete):
        return _Factor(name, values, discrete=False)
    if counts.min() < 2:
        raise ValueError(
            f"`factors` that are discrete must have at least 2 subjects of each value, "
            f"got 1 of {levels[counts.argmin()]} in {name!r}, which has {len(levels)} values."
        )
    return _Factor(name, positions.astype(np.float64), discrete=True)


def _standardised(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return columns with mean 0 and variance 1; a constant one as zeros, and not as the rounding of its mean."""
    constant = np.ptp(columns, axis=0) == 0
    spread = np.where(constant, 1.0, columns.std(axis=0))
    return np.where(constant, 0.0, (columns - columns.mean(axis=0)) / spread)


def _number_of_bins(n_bins: int | None, n: int) -> int:
    if n_bins is None:
        # odd, so that an odd number of subjects has its middle one inside a bin, not on an edge
        root: float = n ** (1 / 3)
        return min(max(2 * round((root - 1) / 2) + 1, 3), 19)
    n_bins = check_integer("n_bins", n_bins, minimum=2)
    if n_bins > n:
        raise ValueError(f"`n_bins` must be at most the number of subjects, {n}, got {n_bins}.")
    return n_bins


def _quantile_bins(values: NDArray[np.float64], n_bins: int) -> NDArray[np.int64]:
    """Return the bin of equal mass of each value, from its rank alone.

    Equal values share their mean rank r in 1..n, and the position (r - 1/2) n_bins / n falls in a bin. A position on an
    edge goes to the bin on the side of the median, so that values in reverse fall in the bins in reverse. In integers,
    since rounding would move positions across edges.
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    doubled = 2 * (np.cumsum(counts) - counts) + counts  # 2 r - 1
    position, edge = doubled[inverse] * n_bins, 2 * len(values)
    return np.where(2 * position < n_bins * edge, position // edge, (position - 1) // edge)


def _levels(factor: _Factor, n_bins: int) -> NDArray[np.int64]:
    return factor.values.astype(np.int64) if factor.discrete else _quantile_bins(factor.values, n_bins)


def _mutual_information(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Return the mutual information of two discrete variables in nats, from the table of their counts."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    outer = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float(np.sum(joint[seen] * np.log(joint[seen] / outer[seen])))


def _gap(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each column, a factor, by how much the best row, a code, is ahead of the second best."""
    ranked = np.sort(scores, axis=0)
    gap: NDArray[np.float64] = ranked[-1] - ranked[-2]
    return gap


def _by_name(factors: list[_Factor], values: NDArray[np.float64]) -> dict[str, float]:
    return {factor.name: float(value) for factor, value in zip(factors, values, strict=True)}


def _folds(factor: _Factor, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the fold of each subject. A level's members are dealt out in turn, so no fold holds all of them."""
    shuffled = rng.permutation(len(factor.values))
    if factor.discrete:
        shuffled = shuffled[np.argsort(factor.values[shuffled], kind="stable")]
    folds = np.empty(len(shuffled), dtype=np.int64)
    folds[shuffled] = np.arange(len(shuffled)) % N_FOLDS
    return folds


def _balanced_accuracy(true: NDArray[np.float64], predicted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each column of predictions the mean over levels of the share of a level's subjects that are right."""
    shares = [(predicted[true == level] == level).mean(axis=0) for level in np.unique(true)]
    accuracy: NDArray[np.float64] = np.mean(shares, axis=0)
    return accuracy


def _fitted(
    model: str, train: Array, target: Array, test: Array, factor: _Factor, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each code's importance to a model of the training subjects, and its prediction of the test subjects."""
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

    # a column of 0 and 1 for each level, or the factor itself; the targets' scale is one, so coefficients compare
    targets = target[:, None] if levels is None else (target[:, None] == levels).astype(np.float64)
    mean = np.average(targets, axis=0, weights=weights)
    spread = np.sqrt(np.average((targets - mean) ** 2, axis=0, weights=weights))
    importance, predictions = np.zeros(train.shape[1]), []
    for column in ((targets - mean) / spread).T:
        strongest = np.abs(train.T @ (weights * column)).max() / len(train)
        penalties = np.geomspace(1.0, 1e-3, N_PENALTIES) * max(strongest, 1e-6)
        estimator = LassoCV(alphas=penalties, cv=KFold(N_FOLDS, shuffle=True, random_state=seed))
        with warnings.catch_warnings():
            # of duplicated codes the weakest penalties of the path converge slowly: their fits are close, not wrong
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


def _concentration(importance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 minus the entropy of each row's shares, to the base of the number of columns; 0 for a row of zeros."""
    total = importance.sum(axis=1, keepdims=True)
    n = importance.shape[1]
    shares = np.where(total > 0, importance / np.where(total > 0, total, 1.0), 1 / n)
    logarithms = np.log(np.where(shares > 0, shares, 1.0))  # 0 log 0 = 0
    concentration: NDArray[np.float64] = 1 + (shares * logarithms).sum(axis=1) / math.log(n)
    return np.clip(concentration, 0.0, 1.0)


def _halves(factors: list[_Factor], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Return the subjects of two random halves, stratified by the discrete factors, the rarest level first."""
    discrete = [factor.values for factor in factors if factor.discrete]
    keys = sorted(discrete, key=lambda values: -np.unique(values, return_counts=True)[1].min())
    order = np.lexsort([rng.permutation(len(factors[0].values)), *keys])  # the last key counts most
    return [order[0::2], order[1::2]]


def _groups(factor: _Factor, subjects: NDArray[np.int64], n_bins: int, group_size: int) -> list[NDArray[np.int64]]:
    """Return those subjects by their level of a factor, or by the quantile bin among them."""
    own = factor._replace(values=factor.values[subjects])
    levels = _levels(own, n_bins)
    counts = np.bincount(levels, minlength=len(factor.levels) if factor.discrete else 0)
    smallest = counts.min() if factor.discrete else counts[counts > 0].min()
    if smallest < group_size:
        kind = "level" if factor.discrete else f"quantile bin of {n_bins}"
        raise ValueError(
            f"`factors` must have at least `group_size` = {group_size} of each half of the subjects in each level, "
            f"got {smallest} in a {kind} of {factor.name!r}; lower `group_size`, or `n_bins` of continuous factors."
        )
    return [subjects[levels == level] for level in np.flatnonzero(counts)]


def _votes(
    scaled: NDArray[np.float64],
    groups: list[list[NDArray[np.int64]]],
    n_votes: int,
    group_size: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return how often each code varied least in a group of each factor, shape (latent_dim, n_factors)."""
    votes = np.zeros((scaled.shape[1], len(groups)), dtype=np.int64)
    for number in range(n_votes):
        factor = number % len(groups)
        members = groups[factor][rng.integers(len(groups[factor]))]
        chosen = rng.choice(members, group_size, replace=False)
        votes[scaled[chosen].var(axis=0).argmin(), factor] += 1
    return votes


def _share_of_majority(votes: NDArray[np.int64], others: NDArray[np.int64]) -> float:
    """Return the share of the other votes that go to the factor that most votes of the same code went to."""
    voted = votes.sum(axis=1) > 0
    right = others[np.arange(len(others)), votes.argmax(axis=1)]
    # a code that hasn't voted is guessed: as wrong, it would put noise below chance where groups are few and codes many
    right = np.where(voted, right, others.sum(axis=1) / others.shape[1])
    return float(right.sum() / others.sum())
