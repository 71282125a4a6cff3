"""Linear probes: prediction of covariates from codes, scored on unseen subjects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._checks import check_choice, check_integer, check_seed
from .intervals import estimate
from .reconstruction import fit_pca
from .targets import MIN_SUBJECTS, ProbeData, Rows, check_subjects, kind_of, listed, present_targets, read_probe_data

Array = NDArray[Any]
Floats = NDArray[np.float64]


ALPHAS = np.logspace(-3, 6, 19)
"""Candidate penalties of the ridge regression, for standardised codes."""

LOGIT_VARIANCE = 4.0
"""Prior variance of the logits under the logistic regression's penalty: a standard deviation of 2 for any codes."""


@dataclasses.dataclass(frozen=True, eq=False)
class ProbeScore:
    """Score and predictions of a linear probe of a covariate.

    Attributes:
        kind: "regression" or "classification".
        score: name of the score, "r2" or "balanced_accuracy".
        value: the score of ``predicted``.
        low: lower end of its 95 % bootstrap interval over subjects. The predictions are fixed, so the interval doesn't
            include the variation from other training subjects.
        high: upper end of the interval.
        p_value: p-value of the permutation test; NaN without permutations.
        chance: the score of uninformative codes: 0, or 1 / number of classes.
        mae: mean absolute error in units of the target; NaN for a classification.
        auroc: area under the ROC curve for two classes, the second against the first; NaN otherwise.
        n_used: number of rows with a target.
        n_missing: number of rows without a target, which are left out.
        n_subjects: number of subjects among the rows used.
        rows: indices of the rows used, shape (n_used,).
        target: their targets, shape (n_used,).
        predicted: predictions by probes that saw no row of the same subject, shape (n_used,).
        probabilities: probabilities of the classes, shape (n_used, n_classes); ``None`` for a regression.
        classes: the classes, sorted; ``None`` for a regression.
        folds: the fold in which each row was predicted, shape (n_used, n_repeats); one fold for a held-out design.
    """

    kind: str
    score: str
    value: float
    low: float
    high: float
    p_value: float
    chance: float
    mae: float
    auroc: float
    n_used: int
    n_missing: int
    n_subjects: int
    rows: Rows
    target: Array
    predicted: Array
    probabilities: Floats | None
    classes: Array | None
    folds: Rows


def r_squared(target: Array, predicted: Array) -> float:
    """Return the share of the target's variance that predictions explain.

    R^2 = 1 - sum_i (y_i - p_i)^2 / sum_i (y_i - mean y)^2

    Args:
        target: y, shape (n,), not constant.
        predicted: p, the same shape.

    Returns:
        at most 1; 0 if every prediction is the mean of these targets, negative if predictions are worse.

    Raises:
        ValueError: if the shapes differ or aren't one-dimensional, or the target is constant.

    Example:
        >>> r_squared(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.0]))
        0.5
    """
    target, predicted = np.asarray(target, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    _check_pair(target, predicted)
    if np.ptp(target) == 0:
        raise ValueError(f"`target` must have more than one value, got {target[0]:g} in all {len(target)} rows.")
    return _r_squared(_regression_sums(target, predicted))


def balanced_accuracy(target: Array, predicted: Array) -> float:
    """Return the mean, over the k classes of the target, of the share of each class that is predicted correctly.

    Args:
        target: classes, shape (n,), n >= 1.
        predicted: predicted classes, the same shape.

    Returns:
        from 0 to 1; 1/k if all predictions are the same class, whatever the class sizes.

    Raises:
        ValueError: if the shapes differ or aren't one-dimensional.

    Example:
        >>> balanced_accuracy(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))  # (2/3 + 1) / 2
        0.8333333333333333
    """
    target, predicted = np.asarray(target), np.asarray(predicted)
    _check_pair(target, predicted)
    classes, numbers = np.unique(target, return_inverse=True)
    return _balanced_accuracy(_class_sums(numbers, target == predicted, len(classes)))


def probe(
    codes: Array,
    target: Array,
    *,
    groups: Array | None = None,
    kind: str | None = None,
    n_folds: int = 5,
    n_repeats: int = 1,
    n_permutations: int = 200,
    seed: int | None = 0,
) -> ProbeScore:
    """Measure how well a linear probe predicts a covariate from codes, cross-validated by subject.

    The codes are standardised on the training subjects of each fold. A regression probe is a ridge regression, with its
    penalty chosen by leave-one-out on the training rows; its score is R^2 (:func:`r_squared`) over the predictions for
    all subjects. A classification probe is a logistic regression with balanced classes and a fixed penalty
    (``C`` = :data:`LOGIT_VARIANCE` / number of codes); its score is the balanced accuracy (:func:`balanced_accuracy`).
    Folds never split a subject; for a classification they are stratified as far as possible.

    The permutation test compares the score with the scores for targets permuted across subjects. Every permutation
    repeats the whole fit, including the choice of the penalty: p = (1 + number of permutations that score at least as
    high) / (1 + n_permutations). If a target varies within subjects, subjects with the same number of rows swap all
    their targets.

    Args:
        codes: posterior means, principal component scores or the like, shape (n, n_codes).
        target: covariate, shape (n,). ``None`` and NaN are missing: such rows are left out.
        groups: the subject of each row, shape (n,); ``None`` if each row is a separate subject. Scans of one subject
            in both training and test rows would inflate the score.
        kind: "regression" or "classification". ``None`` infers it: strings, booleans and whole numbers with at
            most 10 distinct values are classes; other numbers are a regression target.
        n_folds: number of folds, 2 or more.
        n_repeats: number of cross-validations with different folds; their predictions (probabilities) are averaged.
        n_permutations: number of permutations; 0 for no test.
        seed: seed of folds, permutations and resamples.

    Returns:
        the score with its interval and p-value, and the out-of-fold predictions.

    Raises:
        ValueError: if codes and target don't match or aren't finite, the target has a single value, there are fewer
            subjects than folds or fewer than 4, or the training subjects of a fold lack a class.

    Source:
        Ojala & Garriga, "Permutation Tests for Studying Classifier Performance", JMLR 11, 2010; Winkler et al.,
        "Multi-level block permutation", NeuroImage 123, 2015; ``sklearn.linear_model.RidgeCV`` and
        ``LogisticRegression``.

    Example:
        >>> codes = np.random.default_rng(0).normal(size=(60, 4))
        >>> found = probe(codes, 70 + 5 * codes[:, 1], n_permutations=19)
        >>> found.score, round(found.value, 3), found.p_value, found.predicted.shape
        ('r2', 1.0, 0.05, (60,))
    """
    n_folds = check_integer("n_folds", n_folds, minimum=2)
    n_repeats = check_integer("n_repeats", n_repeats, minimum=1)
    n_permutations = check_integer("n_permutations", n_permutations, minimum=0)
    fixed = _fixed_seed(seed)
    data = read_probe_data("codes", codes, "target", target, "groups", groups, kind)
    check_subjects(data, n_folds)
    folds = _folds(data, n_folds, n_repeats, np.random.default_rng([fixed, 0]))
    raw = _out_of_fold(data, data.values[:, None], folds)
    permuted = _permutations(data, n_permutations, np.random.default_rng([fixed, 1]))
    if data.kind == "regression":
        # the folds don't depend on the target, so all permuted targets share one decomposition of the codes
        targets = data.values[permuted].T
        null = _column_r_squared(targets, _out_of_fold(data, targets, folds))
    else:
        # the folds are stratified by class, so they are permuted with the classes
        null = np.array([_class_score(data, data.values[rows], folds[rows]) for rows in permuted])
    return _scored(data, raw, folds, null, fixed)


def probe_held_out(
    train_codes: Array,
    train_target: Array,
    test_codes: Array,
    test_target: Array,
    *,
    train_groups: Array | None = None,
    test_groups: Array | None = None,
    kind: str | None = None,
    n_permutations: int = 200,
    seed: int | None = 0,
) -> ProbeScore:
    """Measure how well a linear probe fitted to training subjects predicts a covariate of held-out subjects.

    The probe is that of :func:`probe`, fitted once. R^2 is relative to the mean of the held-out subjects. The
    permutation test permutes the held-out targets across subjects; the predictions stay fixed.

    Args:
        train_codes: codes of the training rows, shape (n_train, n_codes).
        train_target: their covariate, shape (n_train,); rows without a value are left out.
        test_codes: codes of the held-out rows, shape (n, n_codes).
        test_target: their covariate, shape (n,); rows without a value are left out.
        train_groups: the subject of each training row.
        test_groups: the subject of each held-out row. ``None`` if each row is a separate subject.
        kind: "regression" or "classification", or ``None`` to infer it from both targets, as in :func:`probe`.
        n_permutations: number of permutations; 0 for no test.
        seed: seed of permutations and resamples.

    Returns:
        the score, its interval and p-value, and the predictions; counts and rows refer to the held-out rows.

    Raises:
        ValueError: if codes and targets don't match or aren't finite, a target has a single value, the two targets have
            different classes, either set has fewer than 4 subjects, or a subject is in both sets.

    Example:
        >>> codes = np.random.default_rng(0).normal(size=(60, 4))
        >>> found = probe_held_out(codes[:40], codes[:40, 1] > 0, codes[40:], codes[40:, 1] > 0, n_permutations=19)
        >>> found.score, found.value > 0.8, found.chance, found.p_value
        ('balanced_accuracy', True, 0.5, 0.05)
    """
    n_permutations = check_integer("n_permutations", n_permutations, minimum=0)
    fixed = _fixed_seed(seed)
    if train_groups is not None and test_groups is not None:
        both = np.intersect1d(np.asarray(train_groups), np.asarray(test_groups))
        if len(both):
            raise ValueError(f"`test_groups` must have no subject of `train_groups`, got {both[0]!r} in both.")
    if kind is None:
        kind = kind_of(np.concatenate([present_targets(train_target)[1], present_targets(test_target)[1]]))
    train = read_probe_data(
        "train_codes", train_codes, "train_target", train_target, "train_groups", train_groups, kind
    )
    test = read_probe_data("test_codes", test_codes, "test_target", test_target, "test_groups", test_groups, kind)
    for name, data in (("train_target", train), ("test_target", test)):
        check_subjects(data, MIN_SUBJECTS, name)
    if train.codes.shape[1] != test.codes.shape[1]:
        raise ValueError(
            f"`test_codes` must have {train.codes.shape[1]} columns as `train_codes` has, got {test.codes.shape[1]}."
        )
    if list(train.classes) != list(test.classes):
        raise ValueError(
            f"`test_target` must have the classes of `train_target`, {listed(train.classes)}, "
            f"got {listed(test.classes)}."
        )
    raw = _fit_predict(train, train.codes, train.values[:, None], test.codes)
    permuted = _permutations(test, n_permutations, np.random.default_rng([fixed, 1]))
    if train.kind == "regression":
        targets = test.values[permuted].T
        null = _column_r_squared(targets, np.broadcast_to(raw, targets.shape))
    else:
        null = np.array([balanced_accuracy(test.values[rows], raw.argmax(axis=1)) for rows in permuted])
    return _scored(test, raw, np.zeros((len(test.values), 1), dtype=np.intp), null, fixed)


def predict_quantity(train_codes: Array, train_target: Array, codes: Array) -> Floats:
    """Return the predictions of a quantity by the ridge regression of :func:`probe_held_out`, for any codes.

    Args:
        train_codes: codes of the training rows, shape (n_train, n_codes).
        train_target: their quantity, shape (n_train,); rows without a value are left out.
        codes: codes to predict from, shape (n, n_codes). Nobody needs to know their quantity.

    Returns:
        shape (n,), in units of the target.

    Raises:
        ValueError: if codes and target don't match, aren't finite, or the target has a single value.

    Example:
        >>> codes = np.random.default_rng(0).normal(size=(60, 4))
        >>> predict_quantity(codes[:50], 70 + 5 * codes[:50, 1], codes[50:]).round(1).tolist() == (
        ...     70 + 5 * codes[50:, 1]
        ... ).round(1).tolist()
        True
    """
    data = read_probe_data("train_codes", train_codes, "train_target", train_target, "groups", None, "regression")
    if np.ndim(codes) != 2 or np.shape(codes)[1] != data.codes.shape[1]:
        raise ValueError(
            f"`codes` must have shape (n, {data.codes.shape[1]}), columns as `train_codes` has, got {np.shape(codes)}."
        )
    predicted: Floats = _fit_predict(data, data.codes, data.values[:, None], np.asarray(codes, dtype=np.float64))[:, 0]
    return predicted


def compare_probes(
    codes_by_method: Mapping[str, Array],
    targets: Mapping[str, Array],
    *,
    groups: Array | None = None,
    kinds: Mapping[str, str] | None = None,
    control: str | None = None,
    n_folds: int = 5,
    n_repeats: int = 1,
    n_permutations: int = 200,
    seed: int | None = 0,
) -> list[dict[str, Any]]:
    """Probe codes of the same volumes by several methods for several covariates.

    For each covariate all methods share the same folds, permutations and resamples, since these don't depend on the
    codes; see :func:`probe`.

    Args:
        codes_by_method: codes by name of the method, each of shape (n, n_codes), for example
            ``{"VAE": mu, "PCA": pca_codes(...)}``; the number of codes may differ.
        targets: covariates by name, each of shape (n,).
        groups: the subject of each row.
        kinds: "regression" or "classification" by covariate, where it isn't to be inferred from the values.
        control: name of a covariate that is known to have no effect; a score above chance for it is a warning sign.
        n_folds: number of folds.
        n_repeats: number of cross-validations.
        n_permutations: number of permutations; 0 for no test.
        seed: seed of everything random.

    Returns:
        a row for each covariate and method, in the given order, covariate by covariate: "method", "covariate",
        "control" (whether the covariate is the control), "kind", "score", "value", "low", "high", "p_value", "chance",
        "mae", "auroc", "n_used", "n_missing".

    Raises:
        ValueError: if a mapping is empty, if ``control`` or a name of ``kinds`` isn't in ``targets``, or as in
            :func:`probe`, naming method and covariate.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> codes = rng.normal(size=(60, 3))
        >>> targets = {"age": codes[:, 0], "coin": rng.normal(size=60)}
        >>> methods = {"VAE": codes, "noise": rng.normal(size=(60, 3))}
        >>> for row in compare_probes(methods, targets, control="coin", n_permutations=19):
        ...     print(row["covariate"], row["method"], row["control"], row["value"] > 0.9)
        age VAE False True
        age noise False False
        coin VAE True False
        coin noise True False
    """
    for name, mapping in (("codes_by_method", codes_by_method), ("targets", targets)):
        if not isinstance(mapping, Mapping) or not mapping:
            raise ValueError(f"`{name}` must be a mapping with at least one entry, got {mapping!r:.80}.")
    kinds = dict(kinds or {})
    if control is not None:
        check_choice("control", control, targets)
    for covariate in kinds:
        check_choice("kinds", covariate, targets)
    fixed = _fixed_seed(seed)
    table = []
    for covariate, target in targets.items():
        for method, codes in codes_by_method.items():
            try:
                found = probe(
                    codes,
                    target,
                    groups=groups,
                    kind=kinds.get(covariate),
                    n_folds=n_folds,
                    n_repeats=n_repeats,
                    n_permutations=n_permutations,
                    seed=fixed,
                )
            except ValueError as error:
                raise ValueError(f"{method!r} probed for {covariate!r}: {error}") from error
            row = {"method": method, "covariate": covariate, "control": covariate == control}
            for name in ("kind", "score", "value", "low", "high", "p_value", "chance", "mae", "auroc"):
                row[name] = getattr(found, name)
            table.append({**row, "n_used": found.n_used, "n_missing": found.n_missing})
    return table


def pca_codes(train_images: Array, images: Array, n_components: int, seed: int | None = 0) -> Floats:
    """Return principal component scores of images, the baseline for probes of VAE codes.

    Args:
        train_images: images from which mean and components are computed, shape (n_train, ...); for a fair comparison,
            the training images of the VAE.
        images: images to embed, shape (n, ...).
        n_components: number of components; at most n_train - 1 exist and are used.
        seed: seed of the randomised solver.

    Returns:
        shape (n, n_components), or fewer columns.

    Raises:
        ValueError: if ``n_components`` isn't a positive integer, or the shapes don't match.

    Source:
        ``sklearn.decomposition.PCA``.

    Example:
        >>> train = np.outer(np.arange(6.0), np.ones(4)).reshape(6, 2, 2)
        >>> np.abs(pca_codes(train, train, 1)[:, 0]).round(6).tolist()
        [5.0, 3.0, 1.0, 1.0, 3.0, 5.0]
    """
    train_images, images = np.asarray(train_images), np.asarray(images)
    if train_images.shape[1:] != images.shape[1:] or len(train_images) < 2:
        raise ValueError(
            f"`train_images` must hold at least two images of the shape {images.shape[1:]}, "
            f"got shape {train_images.shape}."
        )
    pca = fit_pca(train_images, n_components, check_seed("seed", seed))
    scores: Floats = pca.transform(images.reshape(len(images), -1)).astype(np.float64)
    return scores


def _fixed_seed(seed: Any) -> int:
    """Return the seed, or a random one for ``None``, since results that belong together must share one seed."""
    seed = check_seed("seed", seed)
    return int(np.random.default_rng().integers(2**32)) if seed is None else seed


def _check_pair(target: Array, predicted: Array) -> None:
    if target.ndim != 1 or target.shape != predicted.shape or len(target) == 0:
        raise ValueError(
            f"`target` and `predicted` must have one shape (n,), n >= 1, got {target.shape} and {predicted.shape}."
        )


# ---- folds and permutations -----------------------------------------------------------------------------------------


def _folds(data: ProbeData, n_folds: int, n_repeats: int, rng: np.random.Generator) -> Rows:
    """Return the fold of each row in each repeat; subjects are dealt to folds one by one, class after class."""
    names, numbers = np.unique(data.subjects, return_inverse=True)
    strata = np.zeros(len(names), dtype=np.intp)
    if data.kind == "classification":
        counts = np.zeros((len(names), len(data.classes)))
        np.add.at(counts, (numbers, data.values), 1)
        strata = counts.argmax(axis=1)
    folds = np.empty((len(numbers), n_repeats), dtype=np.intp)
    for repeat in range(n_repeats):
        shuffled = rng.permutation(len(names))
        dealt = np.empty(len(names), dtype=np.intp)
        dealt[shuffled[np.argsort(strata[shuffled], kind="stable")]] = np.arange(len(names)) % n_folds
        folds[:, repeat] = dealt[numbers]
    if data.kind == "classification":
        for repeat, fold in np.ndindex(n_repeats, n_folds):
            absent = np.setdiff1d(np.arange(len(data.classes)), data.values[folds[:, repeat] != fold])
            if len(absent):
                raise ValueError(
                    "`target` must have every class among the training subjects of every fold, in two subjects at "
                    f"least, got a fold without class {data.classes.tolist()[absent[0]]!r}; the classes are "
                    f"{listed(data.classes)}. If it is a quantity, give `kind` 'regression'."
                )
    return folds


def _permutations(data: ProbeData, n_permutations: int, rng: np.random.Generator) -> Rows:
    """Return, for each permutation, the row from which each row takes its target, shape (n_permutations, n)."""
    _, first, numbers, counts = np.unique(data.subjects, return_index=True, return_inverse=True, return_counts=True)
    permuted = np.empty((n_permutations, len(numbers)), dtype=np.intp)
    if (data.values == data.values[first][numbers]).all():
        for row in permuted:
            row[:] = first[rng.permutation(len(first))][numbers]
        return permuted
    by_subject = np.split(np.argsort(numbers, kind="stable"), np.cumsum(counts)[:-1])
    for row in permuted:
        for count in np.unique(counts):
            alike = np.flatnonzero(counts == count)
            for subject, other in zip(alike, rng.permutation(alike), strict=True):
                row[by_subject[subject]] = by_subject[other]
    return permuted


# ---- fitting and scoring --------------------------------------------------------------------------------------------


def _fit_predict(data: ProbeData, train_codes: Floats, train_values: Array, test_codes: Floats) -> Floats:
    """Fit a probe and apply it; return a prediction for each column of targets, or class probabilities."""
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if data.kind == "classification":
        strength = LOGIT_VARIANCE / train_codes.shape[1]
        # with the default tolerance the fourth digit of a probability depends on the solver
        logistic = LogisticRegression(C=strength, class_weight="balanced", tol=1e-6, max_iter=10000)
        probe = make_pipeline(StandardScaler(), logistic).fit(train_codes, train_values[:, 0])
        probabilities: Floats = probe.predict_proba(test_codes)
        return probabilities
    # each column of targets gets its own penalty, as if it were fitted alone
    ridge = RidgeCV(ALPHAS, alpha_per_target=True)
    predicted: Floats = make_pipeline(StandardScaler(), ridge).fit(train_codes, train_values).predict(test_codes)
    return predicted.reshape(len(test_codes), -1)


def _out_of_fold(data: ProbeData, values: Array, folds: Rows) -> Floats:
    """Return a prediction for every row by probes fitted to the other folds, averaged over the repeats."""
    width = values.shape[1] if data.kind == "regression" else len(data.classes)
    predicted = np.zeros((len(values), width))
    if width == 0:
        return predicted
    for fold_of in folds.T:
        for fold in np.unique(fold_of):
            test = fold_of == fold
            predicted[test] += _fit_predict(data, data.codes[~test], values[~test], data.codes[test])
    predicted /= folds.shape[1]
    return predicted


def _class_score(data: ProbeData, values: Array, folds: Rows) -> float:
    return balanced_accuracy(values, _out_of_fold(data, values[:, None], folds).argmax(axis=1))


def _scored(data: ProbeData, raw: Floats, folds: Rows, null: Floats, seed: int) -> ProbeScore:
    """Score predictions (one column) or class probabilities."""
    _, numbers = np.unique(data.subjects, return_inverse=True)
    mae = auroc = float("nan")
    regression = data.kind == "regression"
    if regression:
        target, predicted = data.values, raw[:, 0]
        sums, statistic = _regression_sums(target, predicted), _r_squared
        mae = float(np.abs(target - predicted).mean())
    else:
        chosen = raw.argmax(axis=1)
        target, predicted = data.classes[data.values], data.classes[chosen]
        sums, statistic = _class_sums(data.values, chosen == data.values, len(data.classes)), _balanced_accuracy
        if len(data.classes) == 2:
            from sklearn.metrics import roc_auc_score

            auroc = float(roc_auc_score(data.values, raw[:, 1]))
    by_subject = np.zeros((numbers.max() + 1, sums.shape[1]))
    np.add.at(by_subject, numbers, sums)
    found = estimate(by_subject, statistic=statistic, seed=seed)
    # equal scores can differ by rounding
    as_good = int((null >= found.value - 1e-12).sum())
    return ProbeScore(
        kind=data.kind,
        score="r2" if regression else "balanced_accuracy",
        value=found.value,
        low=found.low,
        high=found.high,
        p_value=(1 + as_good) / (1 + len(null)) if len(null) else float("nan"),
        chance=0.0 if regression else 1 / len(data.classes),
        mae=mae,
        auroc=auroc,
        n_used=len(data.used),
        n_missing=data.n_rows - len(data.used),
        n_subjects=len(by_subject),
        rows=data.used,
        target=target,
        predicted=predicted,
        probabilities=None if regression else raw,
        classes=None if regression else data.classes,
        folds=folds,
    )


# The scores are functions of sums over rows, so resamples of subjects work on one sum per subject, not on rows.


def _regression_sums(target: Floats, predicted: Floats) -> Floats:
    centred = target - target.mean()
    return np.stack([(target - predicted) ** 2, centred**2, centred, np.ones_like(centred)], axis=1)


def _r_squared(sums: Floats) -> float:
    error, square, first, n = sums.sum(axis=0)
    return float(1 - error / (square - first**2 / n))


def _class_sums(numbers: Rows, right: Array, n_classes: int) -> Floats:
    members = np.eye(n_classes)[numbers]
    return np.concatenate([members * right[:, None], members], axis=1)


def _balanced_accuracy(sums: Floats) -> float:
    right, members = np.split(sums.sum(axis=0), 2)
    return float((right / members).mean())


def _column_r_squared(targets: Floats, predicted: Floats) -> Floats:
    pairs = zip(targets.T, predicted.T, strict=True)
    return np.array([_r_squared(_regression_sums(target, prediction)) for target, prediction in pairs])
