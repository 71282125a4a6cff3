"""What a run asks of its data before it begins: volumes that can be used, and subjects that it hasn't trained on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai.data import Dataset

from .._checks import check_choice
from ..data import cached_dataset, check_volumes
from ..data.checking import summary
from ..files import write_table
from .records import SPLIT_FILE, Record, does_it_all, process_rank, read_split, say

if TYPE_CHECKING:
    import pandas as pd

ON_BAD_VOLUME = ("stop", "skip")
VOLUMES_FILE, LEFT_OUT_FILE = "volumes.tsv", "left_out.tsv"

GO_ON = (
    "Go on without such volumes with --on_bad_volume skip; `python -m monai.bundle run check` with the same options "
    "tells all of them."
)

MANY = 500
"""Volumes from which reading headers shows a progress bar."""

_MOST_SHOWN = 10


def checked_records(
    records: Sequence[Record], on_bad_volume: str = "stop", output_dir: str | os.PathLike[str] = "."
) -> list[Record]:
    """Refuse volumes that can't be used, or leave them out, before anything is read that takes long.

    With "stop" the headers are read, some milliseconds per volume; what only voxels tell is found when the volumes are
    cached, before training. With "skip" all voxels are read once, and what is left out stands in
    ``<output_dir>/left_out.tsv``.

    Args:
        records: the records of all volumes.
        on_bad_volume: "stop" or "skip".
        output_dir: folder of the run's tables.

    Returns:
        the records that can be used.

    Raises:
        ValueError: naming every volume that can't be used; with "skip", if none is left.
    """
    if check_choice("on_bad_volume", on_bad_volume, ON_BAD_VOLUME) == "stop":
        refuse_bad_headers(records, GO_ON)
        return list(records)
    first = process_rank() == 0
    table = check_volumes(records, progress=first)
    bad = table[table["problem"] != ""]
    if bad.empty:
        return list(records)
    if len(bad) == len(records):
        raise ValueError(f"No volume can be used. {_listed(bad)}")
    if first:
        path = Path(output_dir) / LEFT_OUT_FILE
        _write(bad, path)
        say(f"Left out: {len(bad)} of {len(records)} volumes that can't be used, see {path}")
    kept = set(table.index[table["problem"] == ""])
    return [record for position, record in enumerate(records) if position in kept]


def refuse_bad_headers(records: Sequence[Record], advice: str = "") -> None:
    """Read all headers, some milliseconds per volume.

    Args:
        records: the records.
        advice: the end of the message.

    Raises:
        ValueError: naming every volume whose header says that it can't be used.
    """
    table = check_volumes(records, voxels=False, progress=process_rank() == 0 and len(records) > MANY)
    bad = table[table["problem"] != ""]
    if not bad.empty:
        raise ValueError(f"{_listed(bad)} {advice}".rstrip())


def check_data(records: Sequence[Record], output_dir: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Check every volume, voxels too; print a summary and write ``<output_dir>/volumes.tsv``, a row per volume.

    Args:
        records: the records of all volumes.
        output_dir: folder of the table.
        overwrite: whether an existing table may be replaced.

    Raises:
        ValueError: if there is a table and it may not be replaced.
    """
    if not does_it_all("The check"):
        return
    path = Path(output_dir) / VOLUMES_FILE
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists; give --overwrite True to replace it, or another folder with --output_dir.")
    table = check_volumes(records)
    _write(table, path)
    print(f"{summary(table)}\nTable: {path}")


def volume_dataset(
    data: Sequence[Record],
    transform: Callable[..., Any],
    cache: str = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    storage: str = "float32",
    num_workers: int = 2,
) -> Dataset:
    """Make the dataset of a part of the cohort, every volume read now; see :func:`~monai_betavae.data.cached_dataset`.

    Raises:
        ValueError: naming the file of a volume that can't be used, and how to go on.
    """
    try:
        return cached_dataset(
            data,
            transform,
            cache,
            cache_dir=cache_dir,
            storage=storage,
            num_workers=num_workers,
            progress=process_rank() == 0,
        )
    except RuntimeError as error:
        cause: BaseException | None = error  # MONAI wraps what a transform raises
        while isinstance(cause, RuntimeError):
            cause = cause.__cause__
        if isinstance(cause, ValueError):
            raise ValueError(f"{cause} {GO_ON}") from error
        raise


def check_held_out(
    records: Iterable[Mapping[str, Any]],
    training_output_dir: str | os.PathLike[str],
    allow_training_subjects: bool = False,
) -> None:
    """Refuse to score subjects that the model was trained or validated on, by its run's ``split.json``.

    Args:
        records: the volumes to score.
        training_output_dir: folder of the training run.
        allow_training_subjects: whether to score them all the same.

    Raises:
        ValueError: with their number and the first of them.
    """
    path = Path(training_output_dir) / SPLIT_FILE
    if allow_training_subjects or not path.is_file():
        return
    split = read_split(path)
    used: dict[str, str] = {}
    for part in ("training", "validation"):
        for record in split[part]:
            used[os.path.realpath(record["image"])] = part
            if record.get("subject") is not None:
                used[f"subject {record['subject']}"] = part
    seen: list[tuple[Mapping[str, Any], str]] = []
    for scored in records:
        where = used.get(os.path.realpath(scored["image"])) or used.get(f"subject {scored.get('subject')}")
        if where is not None:
            seen.append((scored, where))
    if seen:
        first, where = seen[0]
        raise ValueError(
            f"{len(seen)} of the volumes are of subjects that the model was trained or validated on, the first is "
            f"{first['image']}, subject {first.get('subject')}, in {where} by {path}: scores on them say nothing "
            "about new ones. Give others, or --allow_training_subjects True, also where it is only the name that "
            "is the same."
        )


def _listed(bad: pd.DataFrame) -> str:
    shown = [f"{row['image']} {row['problem']}." for _, row in bad.head(_MOST_SHOWN).iterrows()]
    more = f" And {len(bad) - _MOST_SHOWN} more." if len(bad) > _MOST_SHOWN else ""
    return "\n".join(shown) + more


def _write(table: pd.DataFrame, path: Path) -> None:
    write_table(table, path, sep="\t", na_rep="n/a")
