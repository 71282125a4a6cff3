"""Disentanglement scores for known factors: MIG, SAP, DCI and FactorVAE.

They measure whether each latent dimension carries one factor and each factor is carried by one dimension. All four need
the true values of the factors, so without labels they can't be used for model selection (Locatello et al. 2019,
arXiv 1811.12359). They were designed for factors that are independent of each other. In a cohort, age, sex and site
rarely are, and a code that carries one of two related factors then counts as carrying both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._checks import check_choice, check_integer, check_real, check_seed
from .importance import MODELS, completeness_of, concentration, disentanglement_of, fit_importance
from .known_factors import (
    N_FOLDS,
    Factor,
    Factors,
    by_name,
    check_factors,
    folds_of,
    levels_of,
    number_of_bins,
    quantile_bins,
    standardize,
)

Array = NDArray[Any]


def mig(
    codes: Array,
    factors: Factors,
    *,
    names: Sequence[str] | None = None,
    seed: int | None = 0,
    discrete: Iterable[str] | None = None,
    n_bins: int | None = None,
) -> dict[str, Any]:
    """Return the mutual information gap between the best and the second-best code of each factor.

    MIG = mean_k (I(z_(1); v_k) - I(z_(2); v_k)) / H(v_k), where z_(1) and z_(2) are the two codes that share the
    most information with the factor v_k. The score is 1 if each factor is in exactly one code, and 0 if two codes share
    each factor or none carries it.

    Codes and continuous factors are cut into bins of equal mass; equal values share a bin. The score therefore depends
    only on the order of a code's values and is invariant under every strictly monotonic transform. (A decreasing one
    may move the middle subject if ``n_bins`` is even and the number of subjects odd; the default is odd.)

    The mutual information is the plug-in estimate from the table of counts. With B bins, C levels of the factor and n
    subjects, it is about (B - 1) (C - 1) / (2 n) nats too high for an uninformative code. The gap cancels most of this
    bias, but the best of many uninformative codes still beats the second best by chance. The default number of bins is
    the odd number nearest to n^(1/3), between 3 and 19 (5 for 100 subjects, 7 for 300). It keeps the bias near
    n^(-1/3) / 2 nats at most: 0.06 of an entropy of 1.95 nats for 300 subjects, where the 20 bins used for large
    synthetic sets would give 0.6 of 3.0. More bins resolve finer relations. Scores for different numbers of bins, or
    for cohorts of very different size, are not comparable.

    Args:
        codes: posterior means, shape (n, latent_dim), at least 20 subjects and two codes.
        factors: shape (n, n_factors), or columns by name: a mapping of arrays of shape (n,), or a DataFrame.
        names: for an array, the names of its columns, by default "factor_0", ...; for columns by name, those to use,
            by default all.
        seed: unused, since nothing is random; accepted so that all four scores take the same arguments.
        discrete: names of the discrete factors; all others that are numbers are then continuous. By default text,
            booleans and numbers of at most 10 distinct values are discrete.
        n_bins: number of bins, at least 2; by default it follows from the number of subjects.

    Returns:
        "score"; "per_factor", the normalised gap by name; "mutual_information", shape (latent_dim, n_factors), nats;
        "entropy", H(v_k) by name, nats; "n_bins".

    Raises:
        ValueError: if a factor has missing values or a single value, a discrete factor has a value that only one
            subject has, or an argument isn't as described.

    Source:
        Chen et al., "Isolating Sources of Disentanglement in Variational Autoencoders", NeurIPS 2018, section 4.

    Example:
        >>> v = np.random.default_rng(0).normal(size=(1000, 2))
        >>> mig(v, v)["score"] > 0.95, mig(np.hstack([v, v]), v)["score"]
        (True, 0.0)
    """
    codes, typed = check_factors(codes, factors, names, discrete)
    check_seed("seed", seed)
    n_bins = number_of_bins(n_bins, len(codes))
    binned_codes = [quantile_bins(code, n_bins) for code in codes.T]
    binned_factors = [levels_of(factor, n_bins) for factor in typed]
    information = np.array([[_mutual_information(z, v) for v in binned_factors] for z in binned_codes])
    entropy = np.array([_mutual_information(v, v) for v in binned_factors])  # I(v; v) = H(v)
    gaps = _gap(information) / entropy
    return {
        "score": float(gaps.mean()),
        "per_factor": by_name(typed, gaps),
        "mutual_information": information,
        "entropy": by_name(typed, entropy),
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
    """Return the separated attribute predictability: the gap between the two best single-code predictors of a factor.

    SAP = mean_k (S_(1)k - S_(2)k), where S_dk is the score of code d alone for factor k:

    - continuous factor: R^2 of the linear regression on that code, cov(z_d, v_k)^2 / (var(z_d) var(v_k));
    - discrete factor: balanced accuracy, the mean over levels of the share predicted correctly, of the linear
      discriminant with equal priors. In one dimension it predicts the level whose mean is nearest. Predictions are
      out of fold, in five folds stratified by level.

    The paper fits thresholds; the discriminant has a closed form, handles more than two levels and needs no tuning.
    For C levels the chance level is 1 / C, so the gap of a discrete factor is at most 1 - 1 / C, not 1.

    Args:
        codes: posterior means, shape (n, latent_dim), at least 20 subjects and two codes.
        factors: shape (n, n_factors), or columns by name: a mapping of arrays of shape (n,), or a DataFrame.
        names: for an array, the names of its columns, by default "factor_0", ...; for columns by name, those to use,
            by default all.
        seed: seed of the folds.
        discrete: names of the discrete factors; all others that are numbers are then continuous. By default text,
            booleans and numbers of at most 10 distinct values are discrete.

    Returns:
        "score"; "per_factor", the gap by name; "predictability", the matrix S, shape (latent_dim, n_factors).

    Raises:
        ValueError: if a factor has missing values or a single value, a discrete factor has a value that only one
            subject has, or an argument isn't as described.

    Source:
        Kumar, Sattigeri & Balakrishnan, "Variational Inference of Disentangled Latent Concepts from Unlabeled
        Observations", ICLR 2018, section 3.

    Example:
        >>> v = np.random.default_rng(0).normal(size=(1000, 2))
        >>> sap(v, v)["score"] > 0.95, sap(np.hstack([v, v]), v)["score"]
        (True, 0.0)
    """
    codes, typed = check_factors(codes, factors, names, discrete)
    rng = np.random.default_rng(check_seed("seed", seed))
    scaled = standardize(codes)
    columns = []
    for factor in typed:
        if not factor.discrete:
            target = standardize(factor.values[:, None])[:, 0]
            columns.append((scaled.T @ target / len(target)) ** 2)
            continue
        predicted = np.empty(codes.shape)
        folds = folds_of(factor, rng)
        for fold in range(N_FOLDS):
            train, test = folds != fold, folds == fold
            centres = np.array([scaled[train & (factor.values == level)].mean(axis=0) for level in factor.levels])
            predicted[test] = np.abs(scaled[test] - centres[:, None]).argmin(axis=0)
        columns.append(_balanced_accuracy(factor.values, predicted))
    predictability = np.stack(columns, axis=1)
    gaps = _gap(predictability)
    return {"score": float(gaps.mean()), "per_factor": by_name(typed, gaps), "predictability": predictability}


def dci(
    codes: Array,
    factors: Factors,
    *,
    names: Sequence[str] | None = None,
    seed: int | None = 0,
    discrete: Iterable[str] | None = None,
    model: str = "random_forest",
) -> dict[str, Any]:
    """Return the disentanglement, completeness and informativeness of codes, from models that predict each factor.

    - disentanglement: whether each code is important for one factor only (``disentanglement_of``);
    - completeness: whether each factor needs one code only (``completeness_of``);
    - informativeness: how well all codes together predict the factors, the mean over factors of R^2 (continuous) or
      balanced accuracy (discrete) on subjects that the model wasn't fitted to. Higher is better; the paper reports
      errors, for which lower is better. R^2 is at most 1 and can be negative; the chance level of the balanced
      accuracy is 1 / levels.

    Predictions are out of fold, in five folds stratified by level, and the importances are averaged over the five
    models. Codes are standardised and sorted, so that their order and sign don't matter. Models of discrete factors
    give each level the same weight.

    The importances of a tree model add up to one for every factor, whether or not it can be predicted. If the
    informativeness is low, the other two scores mean little.

    The default is a random forest. It captures nonlinear relations, its importances aren't negative, and it divides
    them among duplicated codes, where the lasso would pick one and appear complete. All codes are considered at every
    split, since a random subset would spread the importance of a single good code. For 300 subjects and 32 codes, each
    of the five models of a factor takes about 0.2 seconds.

    Args:
        codes: posterior means, shape (n, latent_dim), at least 20 subjects and two codes.
        factors: shape (n, n_factors), at least two, or columns by name: a mapping of arrays of shape (n,), or a
            DataFrame.
        names: for an array, the names of its columns, by default "factor_0", ...; for columns by name, those to use,
            by default all.
        seed: seed of the folds and the models.
        discrete: names of the discrete factors; all others that are numbers are then continuous. By default text,
            booleans and numbers of at most 10 distinct values are discrete.
        model: "random_forest" (50 trees, at least 3 subjects in a leaf), "gradient_boosting" (100 rounds of depth 3),
            both with impurity importances, or "lasso": importance |w|, with the penalty chosen by cross-validation
            within the training subjects; for a discrete factor, the mean |w| over one lasso for each level.

    Returns:
        "disentanglement", "completeness", "informativeness"; "importance", shape (latent_dim, n_factors);
        "per_code", the disentanglement of each code, shape (latent_dim,); "per_factor", the completeness by name;
        "informativeness_per_factor", by name.

    Raises:
        ValueError: if there are fewer than two factors, a factor has missing values or a single value, a discrete one
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
    codes, typed = check_factors(codes, factors, names, discrete, min_factors=2)
    model = check_choice("model", model, MODELS)
    rng = np.random.default_rng(check_seed("seed", seed))
    scaled = standardize(codes)
    # A tree breaks ties among codes by their position, so codes get a canonical sign and order.
    scaled = scaled * np.where(scaled[0] < 0, -1.0, 1.0)
    order = np.lexsort(scaled[::-1])
    scaled = scaled[:, order]
    importance = np.zeros((codes.shape[1], len(typed)))
    informativeness = np.zeros(len(typed))
    for k, factor in enumerate(typed):
        folds = folds_of(factor, rng)
        predicted = np.empty(len(codes))
        for fold in range(N_FOLDS):
            train, test = folds != fold, folds == fold
            weights, predicted[test] = fit_importance(
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
        "per_code": concentration(importance),
        "per_factor": by_name(typed, concentration(importance.T)),
        "informativeness_per_factor": by_name(typed, informativeness),
    }


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
    """Return the FactorVAE score: whether the code that varies least identifies the factor that a group shares.

    For each vote, choose a factor, one of its levels, and ``group_size`` subjects with that level. The code d with the
    smallest var_group(z_d) / var(z_d) votes for the factor. Each code is assigned to the factor with most of its votes,
    and the score is the share of other votes that go to the factor of their code.

    In the paper a generator draws new images with one factor fixed and all others free. Here the cohort is fixed, so:

    - the subjects of a group share a level of a discrete factor or a quantile bin of a continuous factor (see ``mig``),
      and an ideal code still varies within a bin;
    - the other factors vary as they do in the cohort: if two factors are related, the codes of both vary little;
    - subjects are split at random into halves, stratified by the discrete factors. Codes are assigned by the votes of
      one half and scored on the votes of the other; then the halves swap roles. Otherwise both would contain the same
      few subjects, and noise would score above chance. A code without a vote in the first half scores at chance level
      in the other;
    - factors take turns, and levels are drawn with equal probability.

    The score can't be computed if a level has fewer than ``group_size`` subjects in a half. The variance of a smaller
    group is noisier, and among many codes another one then varies least by chance.

    Args:
        codes: posterior means, shape (n, latent_dim), at least 20 subjects and two codes, in units of the prior's
            standard deviation if ``threshold`` is to have its meaning.
        factors: shape (n, n_factors), at least two, or columns by name: a mapping of arrays of shape (n,), or a
            DataFrame.
        names: for an array, the names of its columns, by default "factor_0", ...; for columns by name, those to use,
            by default all.
        seed: seed of the halves and the groups.
        discrete: names of the discrete factors; all others that are numbers are then continuous. By default text,
            booleans and numbers of at most 10 distinct values are discrete.
        n_bins: number of bins of a continuous factor in each half, at least 2; by default it follows from the number of
            subjects.
        group_size: number of subjects in a group, at least 2.
        n_votes: number of votes of each half.
        threshold: codes whose variance over the cohort doesn't exceed it are inactive and have no vote. Only this part
            of the score depends on the scale of the codes; 0 leaves out constant codes only.

    Returns:
        "score"; "chance", 1 / n_factors; "active", shape (latent_dim,), boolean; "votes", the votes of both halves,
        shape (latent_dim, n_factors); "n_bins". Without an active code there are no votes and the score is 0.

    Raises:
        ValueError: if there are fewer than two factors, a level has too few subjects, a factor has missing values or
            a single value, or an argument isn't as described.

    Source:
        Kim & Mnih, "Disentangling by Factorising", ICML 2018, section 4 and appendix B.

    Example:
        >>> v = np.random.default_rng(0).normal(size=(1000, 2))
        >>> found = factor_vae_score(v, v)
        >>> found["score"] > 0.95, found["chance"]
        (True, 0.5)
    """
    codes, typed = check_factors(codes, factors, names, discrete, min_factors=2)
    rng = np.random.default_rng(check_seed("seed", seed))
    n_bins = number_of_bins(n_bins, len(codes))
    group_size = check_integer("group_size", group_size, minimum=2)
    n_votes = check_integer("n_votes", n_votes, minimum=1)
    active = np.var(codes, axis=0) > check_real("threshold", threshold, minimum=0)
    # All factors share one split. If each had its own, a code that varies little among some subjects of one half would
    # meet them again in the other half of another factor, and noise would score below chance.
    halves = [[_groups(factor, half, n_bins, group_size) for factor in typed] for half in _halves(typed, rng)]
    votes = np.zeros((2, codes.shape[1], len(typed)), dtype=np.int64)
    if not active.any():
        score = 0.0
    else:
        scaled = standardize(codes[:, active])
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


def _mutual_information(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Return the mutual information of two discrete variables in nats, from the table of their counts."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    outer = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float(np.sum(joint[seen] * np.log(joint[seen] / outer[seen])))


def _gap(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for each column (a factor), the gap between the best and the second-best row (a code)."""
    ranked = np.sort(scores, axis=0)
    gap: NDArray[np.float64] = ranked[-1] - ranked[-2]
    return gap


def _balanced_accuracy(true: NDArray[np.float64], predicted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for each column of predictions, the mean over levels of the share of subjects predicted correctly."""
    shares = [(predicted[true == level] == level).mean(axis=0) for level in np.unique(true)]
    accuracy: NDArray[np.float64] = np.mean(shares, axis=0)
    return accuracy


def _halves(factors: list[Factor], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Return the subjects of two random halves, stratified by the discrete factors, the rarest level first."""
    discrete = [factor.values for factor in factors if factor.discrete]
    keys = sorted(discrete, key=lambda values: -np.unique(values, return_counts=True)[1].min())
    order = np.lexsort([rng.permutation(len(factors[0].values)), *keys])  # the last key counts most
    return [order[0::2], order[1::2]]


def _groups(factor: Factor, subjects: NDArray[np.int64], n_bins: int, group_size: int) -> list[NDArray[np.int64]]:
    """Group these subjects by their level of a discrete factor, or by their quantile bin of a continuous one."""
    own = factor._replace(values=factor.values[subjects])
    levels = levels_of(own, n_bins)
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
    """Return how often each code varied least in the groups of each factor, shape (latent_dim, n_factors)."""
    votes = np.zeros((scaled.shape[1], len(groups)), dtype=np.int64)
    for number in range(n_votes):
        factor = number % len(groups)
        members = groups[factor][rng.integers(len(groups[factor]))]
        chosen = rng.choice(members, group_size, replace=False)
        votes[scaled[chosen].var(axis=0).argmin(), factor] += 1
    return votes


def _share_of_majority(votes: NDArray[np.int64], others: NDArray[np.int64]) -> float:
    """Return the share of the other votes that agree with the majority vote of their code."""
    voted = votes.sum(axis=1) > 0
    right = others[np.arange(len(others)), votes.argmax(axis=1)]
    # a code without a vote scores at chance: counted as wrong, it would put noise below chance if there are many codes
    right = np.where(voted, right, others.sum(axis=1) / others.shape[1])
    return float(right.sum() / others.sum())
