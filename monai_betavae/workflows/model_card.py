"""The model card that every training writes beside its weights: what the model is, whom it saw, how well it does.

A card names no subject, no file and no folder. Numbers of subjects are shown for groups of :data:`MIN_CELL` or more;
see :func:`demographics`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._texts import markdown_text
from ..data.tables.covariate_values import is_finite, level_of, value_of
from ..data.tables.covariates import head_of, is_number, is_sex, ordered_covariates
from ..saving.atomic_files import atomic_path
from .model_description import MODEL_FILE, trained_description
from .provenance import RUN_FILE, read_provenance
from .records import MIN_EVALUATED, PARTS, SPLIT_FILE, Record, read_split
from .run_checks import METRICS_FILE
from .training_course import epochs_text
from .training_results import SCORES_FILE

CARD_FILE = "MODEL_CARD.md"

MIN_CELL = 5
"""Smallest group of subjects that a card counts or averages."""

AGE_STEP = 5
"""Limits of the ages in a card are multiples of this."""

HIDDEN = "–"
"""A cell without a number: nobody, or too few to tell of."""

WEIGHTS_LINE = "Weights: SHA-256 `{}` of `model.pt`."

FRONT_MATTER = """---
library_name: monai
pipeline_tag: image-feature-extraction
license: other
license_name: not-chosen-yet
tags:
- monai
- medical
- mri
- brain
- beta-vae
{simulated}---
"""

INTENDED_USE = """Research on groups of subjects: latents as covariates or features, reconstructions, deviation
from a norm. The volumes must be prepared as those of the training: same modality, registration and brain extraction.
Not for clinical use, and not for decisions about a person."""

LICENCE = """**Not chosen yet.** Whoever passes the model on writes a licence here, and its identifier in place of
`license: other` and `license_name` at the top. The consent of the training subjects may limit the choice.
The configs are licensed under Apache-2.0."""

USE = """```python
from monai_betavae.workflows import pull_model

pull_model("<owner>/<name>", "vae", revision="<commit>", digest="<digest>")
```

Then `python -m monai.bundle run inference --config_file vae/configs/inference.json --dataset_dir <volumes>`.
This executes nothing that came from the repository."""


def model_card(
    description: Mapping[str, Any],
    split: Mapping[str, Sequence[Record]],
    *,
    scores: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    weights: str | None = None,
) -> str:
    """Return the card of a trained model as Markdown, with the front matter that Hugging Face reads.

    Args:
        description: content of ``model.json``.
        split: the records of each part.
        scores: content of the training's ``scores.json``; ``None`` if nobody is held out.
        evaluation: content of the ``scores.json`` of an evaluation, if there was one.
        run: "seed" and "versions" of the training, as in the provenance of ``run.json``.
        epochs: number of epochs; ``None`` if unknown.
        weights: SHA-256 of ``model.pt`` as hexadecimal digits.

    Returns:
        the card. Equal arguments give equal texts: there is no date in it.

    Example:
        >>> split = {"training": [{"image": f"{n}.nii.gz", "subject": f"sub-{n}", "age": 60 + n} for n in range(12)]}
        >>> described = {"network": {"own": "mine.Net"}, "likelihood": None, "preprocessing": {"own": "mine.Transform"}}
        >>> grid = {"spatial_shape": [64, 80, 64], "spacing": [3.0, 3.0, 3.0]}
        >>> card = model_card({**described, "grid": grid}, split)
        >>> print(card.split("## Training data")[1].split("## ")[0].strip().splitlines()[-1])
        | age, 5th lowest to 5th highest | 60 to 70 | – | – |
        >>> "sub-" in card, ".nii" in card
        (False, False)
    """
    trained_on = description.get("trained_on") or {}
    simulated = bool(trained_on.get("simulated") or (scores or {}).get("simulated"))
    sections = {
        "Intended use": [INTENDED_USE],
        "Model": _model_lines(description, run or {}, epochs, weights, (scores or {}).get("best_epoch")),
        "Training data": _data_lines(description, split, simulated),
        "Held-out scores": _score_lines(scores, simulated),
        **({} if evaluation is None else {"Evaluation": _evaluation_lines(evaluation)}),
        "Limits": _limit_lines(description, split, simulated),
        "Use": [USE],
        "Licence": [LICENCE],
    }
    parts = [FRONT_MATTER.format(simulated="- simulated\n" * simulated)]
    parts += ["# Beta-VAE for 3D brain MRI" + ", trained on simulated brains" * simulated]
    for title, lines in sections.items():
        parts.append(f"\n## {title}\n\n" + "\n".join(lines))
    return "\n".join(parts) + "\n"


def write_model_card(
    ckpt_dir: str | os.PathLike[str],
    training_output_dir: str | os.PathLike[str],
    evaluation: str | os.PathLike[str] | None = None,
) -> Path:
    """Write the card of a trained model beside its ``model.json``, from what its training left.

    Every training of the bundle does so at its end. Call this to add the scores of an evaluation.

    Args:
        ckpt_dir: folder of the weights.
        training_output_dir: folder of the results of the training, with its ``split.json``.
        evaluation: the ``scores.json`` of an evaluation, to be added with its intervals.

    Returns:
        the path of the card.

    Raises:
        ValueError: naming the file that is missing or that no run wrote.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as empty:
        ...     try:
        ...         write_model_card(empty, empty)
        ...     except ValueError as error:
        ...         print(str(error).split(",")[0])
        `ckpt_dir` must hold the model.pt and model.json of a training run
    """
    models, results = Path(ckpt_dir), Path(training_output_dir)
    description = trained_description(models)
    split = read_split(results / SPLIT_FILE)
    scores = _read_scores(results / SCORES_FILE) if (results / SCORES_FILE).is_file() else None
    if scores is not None and scores.get("n_held_out") != len(split["test"]):
        scores = None  # of a run before, with other subjects
    card = model_card(
        description,
        split,
        scores=scores,
        evaluation=None if evaluation is None else _read_scores(Path(evaluation)),
        run=read_provenance(results / RUN_FILE),
        epochs=_n_epochs(results / METRICS_FILE),
        weights=file_sha256(models / MODEL_FILE),
    )
    with atomic_path(models / CARD_FILE) as temporary:
        temporary.write_text(card, encoding="utf-8")
    return models / CARD_FILE


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_scores(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError(type(found).__name__)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} must be the {SCORES_FILE} of a training or an evaluation: {error}") from error
    return found


def _n_epochs(path: Path) -> int | None:
    if not path.is_file():
        return None
    return max(len(path.read_text(encoding="utf-8").splitlines()) - 1, 0)


# ---- whom it saw -----------------------------------------------------------------------------------------------------


def demographics(split: Mapping[str, Sequence[Record]], covariates: Iterable[str] = ()) -> list[list[str]]:
    """Return the table of the subjects of each part, in which nobody can be found.

    Columns of age, sex (gender) and site are shown, one of each, and the model's covariates; no other column of the
    user's tables is. A subject counts once, with the first value that is known.

    - A quantity has mean and standard deviation where :data:`MIN_CELL` subjects or more have a value, and its 5th
      lowest and 5th highest value where ten or more have one, so that no limit is that of a single person. Ages are
      rounded outwards to multiples of five.
    - A category has the number of subjects of each level. The smallest levels are merged until they are
      :data:`MIN_CELL` subjects or more together, so that neither a number in the table nor the difference of two of
      them is that of a smaller group.

    Args:
        split: the records of each part.
        covariates: the model's covariates.

    Returns:
        rows of texts: a label, and a cell for training, validation and test.

    Example:
        >>> people = [{"image": "", "subject": n, "sex": "FFFM"[n % 4], "site": "AAB"[n % 3]} for n in range(12)]
        >>> for row in demographics({"training": people}):
        ...     print(row[:2])
        ['subjects', '12']
        ['volumes', '12']
        ['sex: all levels together', '12']
        ['site: all levels together', '12']
    """
    people = {part: _first_values(split.get(part, ())) for part in PARTS}
    rows = [
        ["subjects", *(str(len(people[part])) for part in PARTS)],
        ["volumes", *(str(len(split.get(part, ()))) for part in PARTS)],
    ]
    for name in _shown_covariates(people, list(covariates)):
        columns = [[person[name] for person in people[part] if name in person] for part in PARTS]
        known = [value for column in columns for value in column]
        if all(isinstance(value, int | float) for value in known) and not is_sex(name) and head_of(name) != "site":
            rows += _quantity_rows(name, columns)
        else:
            sizes = [len(people[part]) for part in PARTS]
            rows += _category_rows(name, [[str(level_of(value)) for value in column] for column in columns], sizes)
    return rows


def _first_values(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the first known value of each column for each subject."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        person = found.setdefault(str(record.get("subject")), {})
        for name, value in record.items():
            known = None if name in ("image", "subject", "session", "split") else _known_value(value)
            if known is not None:
                person.setdefault(name, known)
    return list(found.values())


def _known_value(value: Any) -> Any:
    """Return a value that the table can show, ``None`` for a missing one, an infinite one, or one of several parts."""
    found = value_of(value)
    return None if level_of(found) is None or (is_number(found) and not is_finite(found)) else found


def _shown_covariates(people: Mapping[str, list[dict[str, Any]]], covariates: list[str]) -> list[str]:
    there = {name for part in people.values() for person in part for name in person}
    ordered = ordered_covariates(sorted(there))
    kinds = (lambda name: head_of(name) == "age", is_sex, lambda name: head_of(name) == "site")
    usual = [next((name for name in ordered if is_kind(name)), None) for is_kind in kinds]
    return list(dict.fromkeys(name for name in [*usual, *covariates] if name in there))


def _quantity_rows(name: str, columns: Sequence[Sequence[Any]]) -> list[list[str]]:
    means, ranges = [], []
    for column in columns:
        values = np.sort(np.array(column, dtype=float))
        enough = len(values) >= MIN_CELL
        means.append(f"{values.mean():.3g} ({values.std(ddof=1):.3g})" if enough else HIDDEN)
        if len(values) < 2 * MIN_CELL:
            ranges.append(HIDDEN)
            continue
        low, high = values[MIN_CELL - 1], values[-MIN_CELL]
        if head_of(name) == "age":
            low, high = math.floor(low / AGE_STEP) * AGE_STEP, math.ceil(high / AGE_STEP) * AGE_STEP
        ranges.append(f"{low:.3g} to {high:.3g}")
    label = markdown_text(name)
    return [
        [f"{label}, mean (standard deviation)", *means],
        [f"{label}, {MIN_CELL}th lowest to {MIN_CELL}th highest", *ranges],
    ]


def _category_rows(name: str, columns: Sequence[Sequence[str]], sizes: Sequence[int]) -> list[list[str]]:
    shown: list[Counter[str]] = []
    rest: list[int] = []
    for column, size in zip(columns, sizes, strict=True):
        counts, merged = Counter(column), size - len(column)
        while counts and (0 < merged < MIN_CELL or min(counts.values()) < MIN_CELL):
            smallest = min(counts, key=lambda level: (counts[level], level))
            merged += counts.pop(smallest)
        shown.append(counts)
        rest.append(merged)
    label = markdown_text(name)
    levels = sorted({level for each in shown for level in each})
    rows = [
        [f"{label}: {markdown_text(level)}", *(str(each[level]) if level in each else HIDDEN for each in shown)]
        for level in levels
    ]
    if any(rest):
        what = "others and unknown together" if levels else "all levels together"
        rows.append([f"{label}: {what}", *(str(count) if count >= MIN_CELL else HIDDEN for count in rest)])
    return rows


# ---- the sections ----------------------------------------------------------------------------------------------------


def _model_lines(
    description: Mapping[str, Any],
    run: Mapping[str, Any],
    epochs: int | None,
    weights: str | None,
    best_epoch: int | None = None,
) -> list[str]:
    network, grid = description["network"], description["grid"]
    arguments = network.get("arguments") or {}
    shape = "×".join(str(side) for side in grid["spatial_shape"])
    spacing = grid.get("spacing")
    voxels = f"{' × '.join(f'{side:g}' for side in spacing)} mm" if spacing else "voxel sizes of the volumes"
    transforms = description["preprocessing"].get("transforms")
    likelihood, objective = description.get("likelihood") or {}, description.get("objective") or {}
    rows = {
        "Network": markdown_text(network.get("builder") or network.get("own")),
        "Latents": markdown_text(arguments.get("latent_dim", "unknown")),
        "Architecture": ", ".join(
            f"{name} {markdown_text(arguments[name])}"
            for name in ("architecture", "channels", "warm_start", "n_corrections", "noise")
            if arguments.get(name) is not None
        ),
        "Grid": f"{shape}, {voxels}",
        "Preprocessing": "of the author's own"
        if transforms is None
        else ", ".join(markdown_text(each.get("name")) for each in transforms),
        "Likelihood": markdown_text(likelihood.get("distribution") or likelihood.get("own") or "unknown"),
        "Objective": markdown_text(objective.get("name") or objective.get("own") or "unknown"),
        "Beta": f"{likelihood['beta']:g}" if "beta" in likelihood else "",
        "Covariates of the prior": ", ".join(markdown_text(name) for name in covariates_of(description)),
        "Epochs": "" if epochs is None else epochs_text(epochs, best_epoch),
        "Seed": markdown_text(run["seed"]) if run.get("seed") is not None else "",
        "Versions": ", ".join(
            f"{markdown_text(name)} {markdown_text(version)}"
            for name, version in (run.get("versions") or {}).items()
            if version is not None
        ),
    }
    lines = [
        "A beta-VAE (Kingma and Welling 2014, Higgins et al. 2017) that embeds a brain-extracted volume as a row of",
        "latents and reconstructs it. Made with the Python package `monai-betavae`.",
        "",
        *_table(["Part", "Value"], [[name, text] for name, text in rows.items() if text]),
    ]
    return lines if weights is None else [*lines, "", WEIGHTS_LINE.format(weights)]


def covariates_of(description: Mapping[str, Any]) -> list[str]:
    """Return the names of the covariates that a described model is conditional on."""
    entries = (description.get("covariates") or {}).get("covariates") or []
    return [str(entry["name"]) for entry in entries]


def _data_lines(description: Mapping[str, Any], split: Mapping[str, Sequence[Record]], simulated: bool) -> list[str]:
    rows = demographics(split, covariates_of(description))
    earlier = (description.get("trained_on") or {}).get("before") or []
    lines = []
    if simulated:
        lines = ["**The subjects are simulated**: no person was scanned. Ages, sexes and sites are made up.", ""]
    lines += [
        f"{HIDDEN} stands for nobody, or for too few subjects to tell of: groups of fewer than {MIN_CELL} are merged",
        "with others. A subject is in one part only.",
        "",
        *_table(["", *PARTS], rows),
    ]
    for entry in reversed(earlier):
        kind = "simulated " if entry.get("simulated") else ""
        counted = f"{entry.get('volumes')} {kind}volumes of {entry.get('subjects')} subjects"
        known = counted if "volumes" in entry else "volumes that aren't known"
        lines += ["", f"Before that, the model was trained on {known}."]
    return lines


def _score_lines(scores: Mapping[str, Any] | None, simulated: bool) -> list[str]:
    if scores is None:
        return ["No subject was held out: nothing is known about subjects that the training didn't see."]
    intervals = scores.get("intervals") or {}
    labels = {
        "sse_ratio": "this model",
        "sse_ratio_pca": f"PCA, {scores.get('pca_components')} components",
        "sse_ratio_to_pca": "this model, relative to PCA",
    }
    values = {**scores, "sse_ratio": scores.get("sse_ratio")}
    if scores.get("sse_ratio_pca"):
        values["sse_ratio_to_pca"] = scores["sse_ratio"] / scores["sse_ratio_pca"]
    n_held_out, active = scores["n_held_out"], scores.get("active_units")
    rows = [["mean training image", "1", ""]]
    for key, label in labels.items():
        if values.get(key) is not None:
            rows.append([label, _number(values[key]), _interval(intervals.get(key))])
    few = n_held_out < MIN_EVALUATED
    lines = [
        f"{n_held_out} held-out{' simulated' * simulated} volumes. Summed squared error relative to that of",
        "the mean training image (lower is better), with a 95 % bootstrap interval over subjects:",
        "",
        *_table(["", "Error", "95 % interval"], rows),
        *(["", f"**Only {n_held_out} held-out volume{'s' * (n_held_out > 1)}: these scores say little.**"] * few),
        "",
        f"Exact ELBO {_number(scores.get('elbo_nats'))} nats, KL divergence {_number(scores.get('kl_nats'))} nats"
        + (f", {active} of {scores.get('latent_dim')} latents active." if active is not None else "."),
    ]
    return lines


EVALUATED = {
    ("reconstruction", "sse_ratio"): "summed squared error, relative to the mean training image's",
    ("reconstruction", "sse_ratio_to_pca"): "summed squared error, relative to PCA's",
    ("reconstruction", "mse_brain"): "mean squared error in the brain",
    ("reconstruction", "psnr_brain"): "PSNR in the brain [dB]",
    ("reconstruction", "ssim_brain"): "SSIM in the brain",
    ("likelihood", "elbo"): "ELBO [nats]",
    ("likelihood", "log_likelihood"): "log-likelihood [nats]",
}
"""Scores of an evaluation that a card shows."""


def _evaluation_lines(evaluation: Mapping[str, Any]) -> list[str]:
    rows = []
    for (part, name), label in EVALUATED.items():
        found = (evaluation.get(part) or {}).get(name)
        if isinstance(found, Mapping) and isinstance(found.get("value"), int | float):
            rows.append([label, _number(found["value"]), _interval([found.get("low"), found.get("high")])])
    simulated = "simulated " if evaluation.get("simulated") else ""
    return [
        f"{evaluation.get('n_volumes')} {simulated}volumes of {evaluation.get('n_subjects')} subjects, with 95 %",
        "bootstrap intervals over subjects:",
        "",
        *_table(["", "Score", "95 % interval"], rows),
    ]


def _limit_lines(description: Mapping[str, Any], split: Mapping[str, Sequence[Record]], simulated: bool) -> list[str]:
    n_subjects = len({str(record.get("subject")) for record in split.get("training", ())})
    arguments = description["network"].get("arguments") or {}
    lines = [
        "- Scores are those of subjects like the training's. Another scanner, age range, disease or preprocessing can",
        "  be coded wrongly without any sign of it.",
        "- Latents carry age, sex, site and more of what the volumes show, and could be linked to a person: treat them",
        "  as you treat the volumes.",
        "- Nothing shows that single latents mean anything by themselves.",
    ]
    if arguments.get("warm_start") in ("linear", "deformable"):
        few = n_subjects <= int(arguments.get("latent_dim") or 0) + 1
        lines += [
            "- The weights hold the mean training image and principal components, which are sums of training images."
            + f" **There are only {n_subjects} training subjects: their images can be computed from the weights.**"
            * few
        ]
    if simulated:
        lines += ["- The training brains are simulated, without disease: scores say little about real volumes."]
    return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _number(value: Any) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "unknown"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _interval(ends: Sequence[Any] | None) -> str:
    if ends is None or not all(isinstance(end, int | float) and math.isfinite(end) for end in ends):
        return ""
    return f"{_number(ends[0])} to {_number(ends[1])}"
