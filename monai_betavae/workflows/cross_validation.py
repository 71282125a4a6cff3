"""Cross-validation: a training per fold, and the scores of all subjects by models that never saw them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._checks import check_integer, check_seed
from ..evaluation.intervals import estimate
from ..plots import plot_folds, save_figure
from ..saving.atomic_files import atomic_path, lock_folders, write_table
from .model_evaluation.part import as_dict
from .model_evaluation.run import EVALUATION_FOLDER, SUBJECTS_FILE, SUMMARY_FILE
from .records import SPLIT_FILE, print_once, read_split
from .trained_runs import RESERVED, TrainedRun, check_same_settings, evaluate_run, train_all

if TYPE_CHECKING:
    import pandas as pd

TABLE_FILE, SCORES_FILE, PICTURE_FILE, SETTINGS_FILE = (
    "subjects.csv",
    "scores.json",
    "folds.png",
    "cross_validation.json",
)

BASELINES = {"sse_mean_image": "sse_ratio", "sse_pca": "sse_ratio_to_pca"}
"""Column of each baseline's error, and the key of the error relative to it, as in the evaluation."""


def pool_folds(tables: Sequence[pd.DataFrame], seed: int = 0) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Pool the scores of held-out subjects over the folds of a cross-validation.

    The summed squared error of all n volumes is compared with that of a baseline b, each scored in its own fold:

    ratio = sum_i sse_i / sum_i sse_i^b

    Its interval draws subjects, with both of their errors. Two models share most of their training subjects, so the
    interval tells how much other subjects would change the ratio, not other trainings.

    Args:
        tables: the table ``reconstruction.csv`` of each fold's evaluation, with the columns "subject" and "sse", and
            "sse_mean_image" and "sse_pca" where there is such a baseline.
        seed: seed of the resamples.

    Returns:
        one table with the column "fold", and the scores: "sse", "sse_ratio" and "sse_ratio_to_pca", each with "value",
        "low", "high" and the value of each fold, "by_fold".

    Raises:
        ValueError: if there is no fold, or a subject was held out in two: then the folds are of different data.

    Source:
        Bengio & Grandvalet, "No Unbiased Estimator of the Variance of K-Fold Cross-Validation", JMLR 5, 2004.

    Example:
        >>> import pandas as pd
        >>> first = pd.DataFrame({"subject": ["a", "b"], "sse": [1.0, 3.0], "sse_mean_image": [4.0, 4.0]})
        >>> second = pd.DataFrame({"subject": ["c"], "sse": [2.0], "sse_mean_image": [4.0]})
        >>> table, scores = pool_folds([first, second])
        >>> table["fold"].tolist(), scores["sse_ratio"]["value"], scores["sse_ratio"]["by_fold"]
        ([0, 0, 1], 0.5, [0.5, 0.5])
    """
    import pandas as pd

    if not tables:
        raise ValueError("`tables` must hold the table of at least one fold, got none.")
    table = pd.concat([each.assign(fold=fold) for fold, each in enumerate(tables)], ignore_index=True)
    folds_of = table.groupby("subject")["fold"].unique()
    twice = folds_of[folds_of.map(len) > 1]
    if len(twice):
        folds = " and ".join(str(fold) for fold in twice.iloc[0])
        raise ValueError(
            f"`tables` must hold each subject in one fold, got {twice.index[0]!r} in {folds}: the data changed between "
            "the trainings, or a fold is there twice."
        )
    people = table["subject"].to_numpy()
    scores: dict[str, Any] = {"n_folds": len(tables), "n_volumes": len(table), "n_subjects": len(folds_of)}
    errors = table["sse"].to_numpy(dtype=float)
    scores["sse"] = as_dict(estimate(errors, subjects=people, seed=seed))
    scores["sse"]["by_fold"] = [float(each["sse"].mean()) for each in tables]
    for column, key in BASELINES.items():
        if all(column in each for each in tables):
            theirs = table[column].to_numpy(dtype=float)
            found = estimate(errors, theirs, statistic=_ratio, subjects=people, seed=seed)
            scores[key] = as_dict(found)
            scores[key]["by_fold"] = [_ratio(each["sse"], each[column]) for each in tables]
    columns = ["subject", "fold", *(name for name in table.columns if name not in ("subject", "fold"))]
    return table[columns], scores


def _ratio(ours: Any, theirs: Any) -> float:
    return float(ours.mean() / theirs.mean())


class CrossValidation:
    """Train the bundle's model once per fold, and score every subject by the model that it was held out from.

    Every training and evaluation is the bundle's own command in a process of its own; fold k is in
    ``<output_dir>/fold<k>``, like any trained model. What is in the folder already is used again: an interrupted
    cross-validation goes on with the same command. Writes ``subjects.csv``, ``scores.json`` and ``folds.png``.

    Latents aren't pooled: each fold's model has axes of its own. For latents of all subjects, train one model on all.

    Args:
        output_dir: folder for the folds, the table and the picture.
        dataset_dir: the data, as for a training; ``None`` for simulated brains.
        n_folds: number of folds, 2 or more.
        seed: seed of the split, the trainings and the intervals.
        settings: further settings of all trainings, by id.
        n_processes: number of trainings at once.

    Raises:
        ValueError: naming the argument, what came and what is accepted.
        RuntimeError: if a training or an evaluation fails, with what it said.

    Example:
        >>> folds = CrossValidation("cv", "/data/bids", 5, settings={"max_epochs": 10})  # run() trains 5 models
        >>> folds.runs[4].folder.as_posix(), dict(folds.runs[4].setting)
        ('cv/fold4', {'n_folds': 5, 'fold': 4})
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        dataset_dir: str | os.PathLike[str] | None = None,
        n_folds: int = 5,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        n_processes: int = 1,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.n_folds = check_integer("n_folds", n_folds, minimum=2)
        self.seed = int(check_seed("seed", seed) or 0)
        if not isinstance(settings, Mapping | None):
            raise ValueError(f"`settings` must hold values by id of the training, got {settings!r}.")
        own = [name for name in settings or {} if name in (*RESERVED, "n_folds", "fold", "dataset_dir")]
        if own:
            raise ValueError(f"`settings` must not hold {', '.join(own)}, which the cross-validation sets itself.")
        self.settings: dict[str, Any] = dict(settings or {})
        if dataset_dir is not None:
            self.settings["dataset_dir"] = os.fspath(dataset_dir)
        self.n_processes = check_integer("n_processes", n_processes, minimum=1)
        self.runs = [
            TrainedRun({"n_folds": self.n_folds, "fold": fold}, self.seed, self.output_dir / f"fold{fold}")
            for fold in range(self.n_folds)
        ]

    def run(self) -> dict[str, Any]:
        """Train and evaluate what isn't there yet, write the table, the scores and the picture, and say what came out.

        Returns:
            the scores, as in ``scores.json``.
        """
        from tqdm.auto import tqdm

        device = {"device": self.settings["device"]} if "device" in self.settings else {}
        told = {"settings": self.settings, "n_folds": self.n_folds, "seed": self.seed}
        check_same_settings(self.output_dir / SETTINGS_FILE, told)
        with lock_folders(self.output_dir):
            done = sum(run.finished for run in self.runs)
            with tqdm(total=self.n_folds, desc="training folds", unit="fold", initial=done) as bar:

                def note(_run: TrainedRun) -> None:
                    bar.update()

                train_all(self.runs, self.settings, self.n_processes, None, note)
            for run in tqdm(self.runs, desc="evaluating folds", unit="fold"):
                if not all((run.folder / EVALUATION_FOLDER / name).is_file() for name in (SUMMARY_FILE, SUBJECTS_FILE)):
                    evaluate_run(run, {"parts": ["reconstruction"], "seed": self.seed, **device})
            return self._written()

    def _written(self) -> dict[str, Any]:
        import pandas as pd

        folders = [run.folder / EVALUATION_FOLDER for run in self.runs]
        # as text: "007" is a subject, not a number
        tables = [pd.read_csv(folder / SUBJECTS_FILE, dtype={"subject": str, "image": str}) for folder in folders]
        summaries = [json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8")) for folder in folders]
        _check_same_subjects([run.folder for run in self.runs])
        table, scores = pool_folds(tables, self.seed)
        scores["simulated"] = any(summary["simulated"] for summary in summaries)
        write_table(table, self.output_dir / TABLE_FILE)
        label = "simulated" if scores["simulated"] else ""
        save_figure(plot_folds(table, label), self.output_dir / PICTURE_FILE)
        with atomic_path(self.output_dir / SCORES_FILE) as temporary:
            temporary.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
        self._say(scores, label)
        return scores

    def _say(self, scores: Mapping[str, Any], label: str) -> None:
        lines = [
            f"Cross-validated: {scores['n_volumes']} volumes of {scores['n_subjects']} subjects"
            f"{', ' + label if label else ''}, each scored by one of {self.n_folds} models that never saw the subject",
            f"  summed squared error {_interval(scores['sse'], '.0f')}",
        ]
        for key, whose in (("sse_ratio", "the mean training image's"), ("sse_ratio_to_pca", "PCA's")):
            if key in scores:
                by_fold = ", ".join(f"{ratio:.2f}" for ratio in scores[key]["by_fold"])
                lines.append(f"  relative to {whose}: {_interval(scores[key], '.2f')}; by fold {by_fold}")
        lines.append(f"Table: {self.output_dir / TABLE_FILE}; picture: {self.output_dir / PICTURE_FILE}")
        print_once("\n".join(lines))


def _check_same_subjects(folders: Sequence[Path]) -> None:
    """Refuse folds of different subjects: volumes came or went between the trainings."""
    subjects = [
        {str(record["subject"]) for members in read_split(folder / SPLIT_FILE).values() for record in members}
        for folder in folders
    ]
    for folder, found in zip(folders, subjects, strict=True):
        other = sorted(found ^ subjects[0])
        if other:
            raise ValueError(
                f"{folder / SPLIT_FILE} must have the subjects of {folders[0] / SPLIT_FILE}, got {len(other)} that "
                f"only one of them has, the first is {other[0]}: the data changed. Remove {folder}, and train it again."
            )


def _interval(found: Mapping[str, Any], spec: str) -> str:
    ends = [found["low"], found["high"]]
    return format(found["value"], spec) + (
        "" if None in ends else f" ({' to '.join(format(end, spec) for end in ends)})"
    )
