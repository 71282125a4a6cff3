"""Covariates of a conditional model in a run: their coding, fitted once and then part of the model's description."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ..batches.covariates import COVARIATES_KEY
from ..bundle import running_parser
from ..data import CovariateCoding
from ..data.tables.covariate_values import level_of, value_of
from ..networks.conditional_mean import n_covariates_of
from .fine_tuning import InitialModel
from .model_description import read_description
from .records import Record, print_once

AT_KEY = "covariates_at"
"""Key of a sample's coded covariates that its codes are decoded at, in place of its own."""

Unseen = Mapping[str, Mapping[str, str | None]]


def covariate_coding(
    training: Sequence[Record] | None,
    covariates: Sequence[str] | None,
    ckpt_dir: str | os.PathLike[str] | None = None,
    initial: InitialModel | None = None,
) -> CovariateCoding | None:
    """Return the coding of the covariates that a model is conditional on, or ``None`` without any.

    That of a model to start from is used again, with new levels of its categories at the end. Nothing of it is measured
    anew: a code must mean the same in both trainings.

    Args:
        training: records of the training subjects, on which the coding is fitted; ``None`` for those of the running
            config's split. A config that asked for them would read the data also where there are no covariates, such as
            for a check of its network.
        covariates: names of columns, such as ``["age", "sex", "site"]``.
        ckpt_dir: folder of the weights of a run that is resumed, whose coding is used again; ``None`` for a new run.
        initial: the model that the run starts from, ``None`` without one.

    Raises:
        ValueError: naming the column and what settles it.

    Example:
        >>> coding = covariate_coding([{"site": site} for site in "AAAB"], ["site"])
        Covariates: conditional on site, coded as 2 columns
        >>> coding.columns
        ('site=A', 'site=B')
    """
    stored = None if ckpt_dir is None else trained_covariates(ckpt_dir)
    if not covariates and stored is None and (initial is None or initial.coding is None):
        return None
    names = [covariates] if isinstance(covariates, str) else list(covariates or ())
    if training is None:
        training = running_parser().get_parsed_content("split")["training"]
    if initial is not None:
        return _coding_again(initial, names, stored, training)
    if stored is None and ckpt_dir is not None and read_description(ckpt_dir) is not None:
        raise ValueError(
            f"`covariates` must be those of the run that is resumed, which has none, got {names}: leave --covariates "
            "out."
        )
    if stored is not None:
        if list(stored.names) != names:
            raise ValueError(
                f"`covariates` must be those of the run that is resumed, in their order, got {names or 'none'}: give "
                f'--covariates "{list(stored.names)}".'
            )
        return stored
    coding = CovariateCoding.fit(training, names)
    print_once(f"Covariates: conditional on {', '.join(names)}, coded as {coding.n_columns} columns")
    return coding


def _coding_again(
    initial: InitialModel, names: list[str], stored: CovariateCoding | None, training: Sequence[Record]
) -> CovariateCoding:
    """Return the coding of the model that a run starts from, with the new levels of the training records."""
    known = initial.coding
    if known is None or (names and set(names) != set(known.names)):
        there = "none" if known is None else list(known.names)
        raise ValueError(
            f"`covariates` must be those of the model that the run starts from, {initial.source}, which has {there}, "
            f"got {names}: leave them out."
        )
    coding = known.with_levels_of(training) if stored is None else stored
    new = coding.added[len(known.added) :]
    counts = [
        f"{name}={level} ({sum(level_of(value_of(record.get(name))) == level for record in training)} volumes)"
        for name, level in new
    ]
    print_once(
        f"Covariates: {', '.join(known.names)}, coded as in {initial.source}; new levels: {', '.join(counts) or 'none'}"
    )
    return coding


def trained_covariates(ckpt_dir: str | os.PathLike[str]) -> CovariateCoding | None:
    """Return the coding of the covariates that a trained model is conditional on, or ``None`` without any.

    Args:
        ckpt_dir: folder of the weights, with the ``model.json`` that training wrote.

    Raises:
        ValueError: naming the file, if training can't have written it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as empty:  # nothing was trained
        ...     trained_covariates(empty) is None
        True
    """
    description = read_description(ckpt_dir)
    stored = None if description is None else description.get("covariates")
    return None if stored is None else CovariateCoding.from_description(stored)


def check_coding(network: Any, coding: CovariateCoding | None) -> None:
    """Raise ``ValueError`` if a network doesn't take the covariates of a run.

    Args:
        network: the network.
        coding: the run's coding, ``None`` without covariates.
    """
    taken, coded = n_covariates_of(network), 0 if coding is None else coding.n_columns
    if taken != coded:
        raise ValueError(
            f"`network_def` must take {coded} coded covariates, as `covariates` says, and takes {taken}: give it "
            "n_covariates."
        )


def stack_covariates(dataset: Sequence[Any], n_covariates: int) -> NDArray[np.float32] | None:
    """Return the coded covariates of a dataset's samples, ``None`` for a model without any."""
    if n_covariates == 0:
        return None
    rows = [np.asarray(dataset[index][COVARIATES_KEY], np.float32) for index in range(len(dataset))]
    return np.stack(rows) if rows else np.zeros((0, n_covariates), np.float32)


class ConditionalDataset(Dataset[Any]):
    """A dataset whose samples also hold their coded covariates.

    They are computed from the records once, so that what a cache holds of the volumes doesn't depend on them.

    Args:
        volumes: dataset of the volumes, in the order of the records.
        records: the records.
        coding: the coding.
        unseen: as in :meth:`~monai_betavae.data.CovariateCoding.rows`.
        at: as in :func:`rows_at`; the samples then also hold these rows, under "covariates_at".

    Example:
        >>> coding = CovariateCoding.fit([{"site": site} for site in "AAAB"], ["site"])
        >>> dataset = ConditionalDataset([{"image": torch.zeros(1, 4, 4)}], [{"site": "B"}], coding)
        >>> dataset[0]["covariates"]
        tensor([-0.7500,  0.7500])
    """

    def __init__(
        self,
        volumes: Any,
        records: Sequence[Record],
        coding: CovariateCoding,
        unseen: Unseen | None = None,
        at: Mapping[str, Any] | None = None,
    ) -> None:
        if len(volumes) != len(records):
            raise ValueError(f"`records` must be those of the {len(volumes)} samples, got {len(records)}.")
        self.volumes = volumes
        rows = coding.rows(records, unseen=unseen)
        self.rows = {COVARIATES_KEY: torch.from_numpy(rows)}
        if at is not None:
            self.rows[AT_KEY] = torch.from_numpy(rows_at(rows, coding, at))

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> Any:
        return {**self.volumes[index], **{key: rows[index] for key, rows in self.rows.items()}}


def rows_at(rows: NDArray[np.float32], coding: CovariateCoding, at: Mapping[str, Any]) -> NDArray[np.float32]:
    """Return coded covariates of which some are the same for all, such as one site.

    Args:
        rows: coded covariates, shape (n, n_columns).
        coding: the coding.
        at: values by name; ``None`` for those of the average subject.

    Raises:
        ValueError: if ``at`` names no covariate of the coding, or a level that training had none of.

    Example:
        >>> coding = CovariateCoding.fit([{"site": site} for site in "AAAB"], ["site"])
        >>> rows_at(coding.rows([{"site": "A"}, {"site": "B"}]), coding, {"site": "B"}).tolist()
        [[-0.75, 0.75], [-0.75, 0.75]]
    """
    if not isinstance(at, Mapping) or not at or not set(at) <= set(coding.names):
        raise ValueError(f"`at` must give values of some of {list(coding.names)}, got {at!r:.200}.")
    given = coding.row_of({name: value for name, value in at.items() if value is not None})
    made = rows.copy()
    for name in at:
        made[:, coding.slices()[name]] = given[coding.slices()[name]]
    return made


def with_covariates(
    dataset: Any,
    records: Sequence[Record],
    coding: CovariateCoding | None,
    unseen: Unseen | None = None,
    at: Mapping[str, Any] | None = None,
) -> Any:
    """Return a dataset with coded covariates, or the dataset itself for a model without any.

    Args:
        dataset: dataset of the volumes, in the order of the records.
        records: the records.
        coding: the coding, or ``None``.
        unseen: as in :meth:`~monai_betavae.data.CovariateCoding.rows`.
        at: as in :class:`ConditionalDataset`.

    Raises:
        ValueError: if ``at`` is given without a coding, or isn't as described.

    Example:
        >>> volumes = [{"image": torch.zeros(1, 4, 4)}]
        >>> with_covariates(volumes, [{"site": "B"}], None) is volumes
        True
    """
    if coding is None:  # records that are found when they are read first aren't, without need
        if at is not None:
            raise ValueError(f"`at` must not be given for a model that isn't conditional on covariates, got {at!r}.")
        return dataset
    return ConditionalDataset(dataset, list(records), coding, unseen, at)
