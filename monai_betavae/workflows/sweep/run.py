"""What the bundle's ``sweep.json`` calls."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ..._checks import check_choice, check_integer, check_seed
from ...plots import plot_sweep, save_figure
from ...saving.atomic_files import atomic_path, write_table
from ..records import SPLIT_FILE, is_simulated, print_once, read_split
from ..trained_runs import RESERVED, TrainedRun, check_same_settings, train_all
from .comparison import CRITERIA, choose, compare, doubts
from .proposals import Proposals
from .space import Setting, check_space, grid_of, name_of_setting
from .validation import baselines, validation_scores, without_codes

SAMPLERS = ("grid", "tpe")

TABLE_FILE, RUNS_FILE, PICTURE_FILE, SETTINGS_FILE = "sweep.csv", "runs.csv", "sweep.png", "sweep.json"

IMAGE_SETTINGS = ("spatial_shape", "spacing", "center", "padding", "dataset_dir", "fractions", "stratify")
"""Ids by which runs differ in their images: errors then aren't relative to one mean image."""


class Sweep:
    """Train the bundle's model with several settings and seeds, compare them on the validation subjects, and choose.

    Every training is the bundle's own command in a process of its own, with the split of the first run. What is in the
    folder already is used again: a sweep that was stopped, however, goes on with the same command and ends with the
    same table. Held-out subjects and labels play no part in the choice.

    Args:
        output_dir: folder for the runs, the tables and the picture.
        space: values by id of the training's config; for "tpe" also ranges, ``{"low": 0.1, "high": 16, "log": True}``.
        settings: settings of all runs, by id.
        seeds: seeds with which each setting is trained.
        sampler: "grid" for all combinations, or "tpe" for ``n_settings`` that Optuna proposes.
        n_settings: number of settings for "tpe".
        choose_by: "elbo" (highest), "error" (lowest) or "udr" (highest), all of the validation subjects.
        n_processes: number of trainings at once.
        device: where validation subjects are scored.

    Raises:
        ValueError: naming the argument, what came and what is accepted.
        RuntimeError: if a training fails, with what it said.

    Example:
        >>> sweep = Sweep("sweep", {"beta": [1.0, 4.0]}, {"max_epochs": 10}, seeds=[0, 1])  # run() trains 4 models
        >>> sweep.choose_by, sweep.n_processes
        ('elbo', 1)
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        space: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
        seeds: Sequence[int] = (0, 1, 2),
        sampler: str = "grid",
        n_settings: int | None = None,
        choose_by: str = "elbo",
        n_processes: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.output_dir = Path(output_dir)
        self.sampler = check_choice("sampler", sampler, SAMPLERS)
        self.space = check_space(space, ranges=sampler == "tpe")
        if (sampler == "tpe") != (n_settings is not None):
            raise ValueError(f"`n_settings` must be given for the sampler 'tpe', and only for it, got {n_settings!r}.")
        self.n_settings = None if n_settings is None else check_integer("n_settings", n_settings, minimum=1)
        if not isinstance(settings, Mapping | None):
            raise ValueError(f"`settings` must hold values by id of the training, got {settings!r}.")
        own = [name for name in settings or {} if name in RESERVED]
        if own:
            raise ValueError(f"`settings` must not hold {', '.join(own)}, which the sweep sets itself.")
        self.settings = dict(settings or {})
        both = [name for name in self.settings if name in self.space]
        if both:
            raise ValueError(f"`settings` must not hold what `space` varies, got {', '.join(both)}.")
        listed: Any = seeds
        if not isinstance(listed, list | tuple) or not listed or len(set(listed)) < len(listed):
            raise ValueError(f"`seeds` must be a list of different numbers, got {seeds!r}.")
        self.seeds = [int(check_seed("seeds", seed) or 0) for seed in seeds]
        self.choose_by = check_choice("choose_by", choose_by, tuple(CRITERIA))
        if self.choose_by == "udr" and len(self.seeds) < 2:
            raise ValueError("`choose_by` must be 'elbo' or 'error' for one seed: 'udr' compares seeds.")
        self.n_processes = check_integer("n_processes", n_processes, minimum=1)
        self.device = device

    def run(self) -> list[dict[str, Any]]:
        """Train what isn't trained yet, and write the tables, the picture and the choice.

        Returns:
            the rows of the table.
        """
        # more values, seeds or settings are fine
        told, noted = {"settings": self.settings, "sampler": self.sampler}, {"space": self.space, "seeds": self.seeds}
        check_same_settings(self.output_dir / SETTINGS_FILE, told, noted)
        compared: list[Setting] = []
        if self.sampler == "grid":
            compared = grid_of(self.space)
            self._train(compared)
        else:
            assert self.n_settings is not None
            direction: Literal["maximize", "minimize"] = "minimize"
            if CRITERIA[self.choose_by] == "highest":
                direction = "maximize"
            proposals = Proposals(self.output_dir, self.space, direction, self.seeds[0])
            for number in range(self.n_settings):
                setting = proposals.propose(number)
                if setting not in compared:  # discrete values may be proposed again
                    compared.append(setting)
                self._train([setting])
                row = compare([setting], [self._scores(setting)], None)[0]
                proposals.report(number, float(row[self.choose_by] if row[self.choose_by] is not None else 0.0))
        return self._written(compared)

    def _runs_of(self, setting: Setting) -> list[TrainedRun]:
        folder = self.output_dir / "runs" / name_of_setting(setting)
        return [TrainedRun(setting, seed, folder / f"seed{seed}") for seed in self.seeds]

    def _train(self, settings: Sequence[Setting]) -> None:
        from tqdm.auto import tqdm

        runs = [run for setting in settings for run in self._runs_of(setting)]
        with tqdm(total=len(runs), desc="trainings", unit="run", initial=sum(run.finished for run in runs)) as bar:

            def note(run: TrainedRun) -> None:
                bar.set_postfix_str(f"{run.folder.parent.name} seed {run.seed}")
                bar.update()

            split = self.output_dir / SPLIT_FILE
            if not split.is_file():
                # the first run splits the subjects, for all
                train_all(runs[:1], self.settings, 1, None, note)
                with atomic_path(split) as temporary:
                    temporary.write_bytes((runs[0].folder / SPLIT_FILE).read_bytes())
            train_all(runs, self.settings, self.n_processes, split, note)

    def _scores(self, setting: Setting) -> list[dict[str, Any]]:
        return [validation_scores(run.folder, self.device) for run in self._runs_of(setting)]

    def _written(self, settings: Sequence[Setting]) -> list[dict[str, Any]]:
        """Write the tables and the picture, and say what was chosen."""
        import pandas as pd

        scores = [self._scores(setting) for setting in settings]
        same_images = not any(name in self.space for name in IMAGE_SETTINGS)
        first = self._runs_of(settings[0])[0].folder
        sizes = sorted({int(score["n_latents"]) for by_seed in scores for score in by_seed})
        found = baselines(first, sizes) if same_images else {"mean_image": None, "pca": {}}
        rows = compare(settings, scores, found["mean_image"])
        best = choose(rows, self.choose_by)
        for number, row in enumerate(rows):
            row["chosen"] = number == best
        plain = [
            {**setting, "seed": seed, **without_codes(score), "folder": str(run.folder.relative_to(self.output_dir))}
            for setting, by_seed in zip(settings, scores, strict=True)
            for seed, score, run in zip(self.seeds, by_seed, self._runs_of(setting), strict=True)
        ]
        write_table(pd.DataFrame([_as_cells(row) for row in rows]), self.output_dir / TABLE_FILE)
        write_table(pd.DataFrame([_as_cells(row) for row in plain]), self.output_dir / RUNS_FILE)
        label = "simulated" if is_simulated(read_split(first / SPLIT_FILE)["training"]) else ""
        save_figure(plot_sweep(rows, list(self.space), found, label), self.output_dir / PICTURE_FILE)
        chosen = ", ".join(f"{name} {value}" for name, value in settings[best].items())
        spread = rows[best].get(f"{self.choose_by}_sd")
        print_once(
            f"Chosen by the {CRITERIA[self.choose_by]} validation {self.choose_by}: {chosen} "
            f"({rows[best][self.choose_by]:.4g}{'' if spread is None else f' ± {spread:.2g} over seeds'}). "
            f"Table: {self.output_dir / TABLE_FILE}; picture: {self.output_dir / PICTURE_FILE}"
        )
        for doubt in doubts(rows, best, self.choose_by, list(self.space)):
            print_once(f"  But {doubt}")
        return rows


def _as_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose lists and mappings are JSON."""
    return {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in row.items()}
