"""Settings that Optuna's tree-structured Parzen estimator proposes, from what the settings before have given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from .space import Setting

STUDY_FILE = "study.db"


class Proposals:
    """An Optuna study in a SQLite file, whose proposals follow from the seed and the values so far.

    The sampler of a proposal is seeded by the proposal's number, so that a study that was stopped goes on as if it had
    not been.

    Args:
        folder: of the study's file.
        space: lists of values and ranges by id, see :func:`~.space.check_space`.
        direction: "maximize" or "minimize".
        seed: of the sampler.

    Raises:
        ValueError: if Optuna isn't installed.
    """

    def __init__(
        self, folder: Path, space: Mapping[str, Any], direction: Literal["maximize", "minimize"], seed: int
    ) -> None:
        try:
            import optuna
        except ImportError as error:
            raise ValueError("`sampler` 'tpe' needs Optuna: pip install 'monai_betavae[sweep]', or optuna.") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._space, self._seed = optuna, dict(space), seed
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder / STUDY_FILE}")
        self._study = optuna.create_study(storage=storage, study_name="sweep", direction=direction, load_if_exists=True)

    def propose(self, number: int) -> Setting:
        """Return the setting of a number: the one proposed before, or a new one.

        Args:
            number: from 0 on; all before it must have been reported.
        """
        trials = self._study.trials
        if number < len(trials):
            return self._setting_of(trials[number].params)
        self._study.sampler = self._optuna.samplers.TPESampler(seed=self._seed + number)
        trial = self._study.ask()
        for name, values in self._space.items():
            if isinstance(values, Mapping):
                integers = all(isinstance(values[end], int) for end in ("low", "high"))
                suggest: Any = trial.suggest_int if integers else trial.suggest_float
                suggest(name, values["low"], values["high"], log=bool(values.get("log", False)))
            else:
                # by place, since Optuna's categories must be plain
                trial.suggest_categorical(name, list(range(len(values))))
        return self._setting_of(trial.params)

    def report(self, number: int, value: float) -> None:
        """Store what the setting of a number has given, unless that has happened."""
        if not self._study.trials[number].state.is_finished():
            self._study.tell(number, value)

    def _setting_of(self, params: Mapping[str, Any]) -> Setting:
        places = {name: values for name, values in self._space.items() if isinstance(values, Sequence)}
        return {name: places[name][params[name]] if name in places else params[name] for name in self._space}
