"""Records of the volumes of a run, and their split into training, validation and test."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only

from .._checks import check_integer
from ..data import discover, simulate_cohort, split_subjects
from ..data.discovery.cohort_loaders import set_channel
from ..data.splits import records_by_subject
from ..data.volumes.contrasts import contrast_names, other_images
from ..saving.atomic_files import atomic_path

Record = dict[str, Any]
Split = dict[str, list[Record]]

PARTS = ("training", "validation", "test")

SPLIT_FILE = "split.json"

MIN_EVALUATED = 20
"""Evaluated subjects below which splits and evaluations say that scores mean little."""

EARLIER_FILE = "earlier_subjects.json"
"""Whom the model that a run started from was trained on, beside the run's ``split.json``."""

Earlier = list[Record] | None
"""Training and validation volumes of an earlier training, ``None`` where they aren't known."""

COHORT_WAIT_S = 3600
"""Seconds for which other processes wait for the first one to simulate the cohort."""

print_once = rank_zero_only(print)
"""Print on the first of several processes only."""


def process_rank() -> int:
    """Return the number of this process from the launcher's settings, before a process group exists."""
    return int(getattr(rank_zero_only, "rank", 0))


def process_of_launch() -> tuple[int, int]:
    """Return the number of this process and the number of processes of a launch by torchrun or a similar tool.

    Parallel SLURM tasks aren't such processes, since each of them may have its own volumes.
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0, 1


def is_working_process(what: str) -> bool:
    """Return whether this process does work that isn't distributed; the first one of a launch does, with a message.

    Args:
        what: name of the work, for the message.
    """
    number, n_processes = process_of_launch()
    if number == 0 and n_processes > 1:
        print(f"{what} runs on one process: of the {n_processes} that were started the first does all of it.")
    return number == 0


def given_records(
    dataset_dir: str | os.PathLike[str],
    suffix: str | Sequence[str] = "T1w",
    image_column: str | Sequence[str] = "image",
    channel: int | None = None,
    subject_from: str | None = None,
    entities: str | Mapping[str, str | None] | None = None,
    missing_values: str | Sequence[str] | None = None,
    on_incomplete: str = "stop",
) -> list[Record]:
    """Return the records of a user's cohort, and print a summary of its subjects.

    Args:
        dataset_dir: any source that :func:`~monai_betavae.data.discover` accepts.
        suffix: suffix of the volumes in a BIDS folder, or several, one per channel.
        image_column: the column of a table, or the key of a datalist's entries, with the path; or several, one per
            channel.
        channel: index of the volume in files with several volumes along a fourth axis.
        subject_from: pattern or column from which the subjects are read, as in ``discover``.
        entities: BIDS entities that file names must have, as in ``discover``.
        missing_values: texts in tables that mean missing, as in ``discover``.
        on_incomplete: what to do if volumes lack an image of a channel, as in ``discover``.

    Raises:
        ValueError: as in ``discover``, naming ``dataset_dir``.
    """
    how: dict[str, Any] = {"subject_from": subject_from, "entities": entities, "missing_values": missing_values}
    how["on_incomplete"] = on_incomplete
    try:
        records = discover(dataset_dir, suffix=suffix, image_column=image_column, **how)
    except ValueError as error:
        raise ValueError(str(error).replace("`source`", "`dataset_dir`", 1)) from error
    print_once(f"Data: {cohort_summary(records)} from {os.fspath(dataset_dir)}")
    return set_channel(records, channel)


def cohort_summary(records: Sequence[Record], n_shown: int = 3) -> str:
    """Return a summary: the numbers of volumes, subjects and sessions, and the first few subjects with their files.

    Args:
        records: output of :func:`~monai_betavae.data.discover`.
        n_shown: number of subjects to show.

    Example:
        >>> cohort_summary([{"image": "/data/sub-1_T1w.nii.gz", "subject": "sub-1"}])
        '1 volume of 1 subject (sub-1: sub-1_T1w.nii.gz)'
    """
    by_subject: dict[str, list[Record]] = {}
    for record in records:
        by_subject.setdefault(str(record["subject"]), []).append(record)
    n_sessions = len({(record["subject"], record["session"]) for record in records if record.get("session")})
    shown = "; ".join(
        f"{subject}: {os.path.basename(members[0]['image'])}" + f" and {len(members) - 1} more" * (len(members) > 1)
        for subject, members in itertools.islice(by_subject.items(), n_shown)
    )
    more = ", ..." if len(by_subject) > n_shown else ""
    sessions = f", {n_sessions} session{'s' * (n_sessions != 1)}" if n_sessions else ""
    return (
        f"{len(records)} volume{'s' * (len(records) != 1)} of {len(by_subject)} subject{'s' * (len(by_subject) != 1)}"
        f"{sessions} ({shown}{more})"
    )


def training_records(
    dataset_dir: str | os.PathLike[str] | None,
    simulated: Mapping[str, Any],
    suffix: str | Sequence[str] = "T1w",
    image_column: str | Sequence[str] = "image",
    channel: int | None = None,
    subject_from: str | None = None,
    entities: str | Mapping[str, str | None] | None = None,
    missing_values: str | Sequence[str] | None = None,
    on_incomplete: str = "stop",
) -> list[Record]:
    r"""Return the records of ``dataset_dir``, or of a simulated cohort if it is ``None``.

    The cohort is simulated once and reused. A ``dataset_dir`` that doesn't exist is an error.

    Args:
        dataset_dir: any source that :func:`~monai_betavae.data.discover` accepts, or ``None``.
        simulated: arguments of :func:`~monai_betavae.data.simulate_cohort`.
        suffix: as in :func:`given_records`.
        image_column: as in :func:`given_records`.
        channel: as in :func:`given_records`.
        subject_from: as in :func:`given_records`.
        entities: as in :func:`given_records`.
        missing_values: as in :func:`given_records`.
        on_incomplete: as in :func:`given_records`.

    Raises:
        ValueError: as in ``discover``, or if the folder of the cohort holds one that was made with other arguments.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("a", "b"):
        ...         _ = (Path(folder) / f"{name}.nii.gz").write_bytes(b"")
        ...     table = Path(folder) / "cohort.csv"
        ...     _ = table.write_text("subject,image,age\nsub-1,a.nii.gz,71\nsub-2,b.nii.gz,64\n")
        ...     records = training_records(table, simulated={})
        Data: 2 volumes of 2 subjects (sub-1: a.nii.gz; sub-2: b.nii.gz) from ...cohort.csv
        >>> [(record["subject"], record["age"]) for record in records]
        [('sub-1', 71), ('sub-2', 64)]
    """
    if dataset_dir is not None:
        return given_records(
            dataset_dir, suffix, image_column, channel, subject_from, entities, missing_values, on_incomplete
        )
    arguments = dict(simulated)
    contrasts = contrast_names(suffix)
    if contrasts is not None:
        arguments["suffixes"] = contrasts
    folder = Path(arguments.pop("output_dir"))
    if process_rank() != 0:
        _wait_for(folder)
    if folder.is_dir() and any(folder.iterdir()):
        _check_same_cohort(folder, arguments)
        print_once(f"Data: no dataset_dir given, using the simulated cohort in {folder}")
    else:
        print_once(f"Data: no dataset_dir given, simulating a cohort of {arguments['n_subjects']} brains in {folder}")
        simulate_cohort(folder, **arguments)
    return discover(folder, suffix=contrasts or "T1w")


def _wait_for(folder: Path) -> None:
    """Wait until the first process has made the cohort, which appears whole or not at all."""
    for _ in range(COHORT_WAIT_S):
        if folder.is_dir() and any(folder.iterdir()):
            return
        time.sleep(1)
    raise ValueError(f"{folder} must hold the simulated cohort, which the first process hasn't made in time.")


def _check_same_cohort(folder: Path, arguments: Mapping[str, Any]) -> None:
    description = folder / "dataset_description.json"
    try:
        made = json.loads(description.read_text())["GeneratedBy"][0]["Description"]
        stored = json.loads(made[made.index("{") :])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{folder} must be empty or hold a simulated cohort: {description} doesn't say so.") from error
    # arguments that a cohort doesn't name have their defaults; those that don't change it are never named
    parameters = inspect.signature(simulate_cohort).parameters
    made_with = {name: parameters[name].default for name in arguments if name in parameters} | stored
    differing = {
        name: value
        for name, value in arguments.items()
        if name in made_with and name not in ("n_workers", "progress") and made_with[name] != value
    }
    if differing:
        asked = ", ".join(f"{name}={value}" for name, value in differing.items())
        found = ", ".join(f"{name}={made_with[name]}" for name in differing)
        raise ValueError(
            f"{folder} holds a cohort simulated with {found}, not {asked}. Remove it, or give another folder with "
            "--simulated_cohort#output_dir."
        )


def is_simulated(records: Sequence[Record]) -> bool:
    """Return whether the volumes come from the simulated cohort, which reports must mention."""
    for parent in Path(records[0]["image"]).parents if records else []:
        description = parent / "dataset_description.json"
        if description.is_file():
            try:
                return "simulate_cohort" in description.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                return False
    return False


def split_records(
    records: Sequence[Record],
    fractions: Sequence[float],
    seed: int,
    resumed_dir: str | os.PathLike[str] | None = None,
    *,
    stratify: str | Sequence[str] | None = None,
    n_folds: int | None = None,
    fold: int = 0,
    split_file: str | os.PathLike[str] | None = None,
) -> Split:
    """Split records into training, validation and test by subject.

    With ``split_file`` the parts are those of another run. Otherwise, if every record has its part under "split" (as in
    a MONAI datalist with sections, or the simulated cohort), these parts are used; a subject must not be in two of
    them.

    Args:
        records: output of :func:`training_records`.
        fractions: fractions of the subjects in training, validation and test, if the records have no parts.
        seed: seed of the split.
        resumed_dir: folder of the run to resume; its split.json must hold the same split.
        stratify: covariates whose distributions should be similar in all parts.
        n_folds: number of folds of a cross-validation, at least 2. The subjects of fold ``fold`` are the test part, and
            the first two ``fractions`` divide the others. The parts in the records are then ignored.
        fold: number of the fold, from 0.
        split_file: ``split.json`` of another run, whose parts are used again.

    Raises:
        ValueError: if there are too few subjects, a subject is in two parts, a resumed run had another split, or
            ``split_file`` names missing volumes.

    Example:
        >>> visits = [{"image": f"sub-{n}_ses-{s}.nii.gz", "subject": f"sub-{n}"} for n in range(5) for s in (1, 2)]
        >>> split = split_records(visits, [0.6, 0.2, 0.2], seed=0)  # doctest: +NORMALIZE_WHITESPACE
        Split by subject: 6 training, 2 validation, 2 test
        Only 1 test subject: scores will say little. `monai-betavae cross-validate` tests every subject once, in
        five trainings.
        >>> {part: len({record["subject"] for record in members}) for part, members in split.items()}
        {'training': 3, 'validation': 1, 'test': 1}
    """
    if len(fractions) != len(PARTS):
        raise ValueError(f"`fractions` must be three numbers, of {', '.join(PARTS)}, got {list(fractions)}.")
    stated = {record.get("split") for record in records}
    given = n_folds is None and split_file is None and stated <= set(PARTS) and "training" in stated
    if split_file is not None:
        split = _taken_again(records, Path(split_file))
    elif given:
        records_by_subject(records)  # refuses records without a subject
        split = {part: [record for record in records if record["split"] == part] for part in PARTS}
        seen: dict[str, str] = {}
        for part, members in split.items():
            for record in members:
                other = seen.setdefault(record["subject"], part)
                if other != part:
                    raise ValueError(f"Subject {record['subject']} must be in one part, got {other} and {part}.")
    elif n_folds is None:
        split = split_subjects(records, dict(zip(PARTS, fractions, strict=True)), seed, stratify)
    else:
        split = _fold(records, fractions, seed, stratify, check_integer("n_folds", n_folds, minimum=2), fold)
    if resumed_dir is not None:
        _check_same_split(split, Path(resumed_dir) / SPLIT_FILE)
    sizes = ", ".join(f"{len(members)} {part}" for part, members in split.items())
    print_once(f"Split by subject: {sizes}" + (" (as the data say; `fractions` isn't used)" if given else ""))
    n_tested = len({record["subject"] for record in split["test"]})
    if 0 < n_tested < MIN_EVALUATED:
        every = "tests every subject once, in five trainings" if n_folds is None else "pools the scores of all folds"
        print_once(
            f"Only {n_tested} test subject{'s' * (n_tested > 1)}: scores will say little. "
            f"`monai-betavae cross-validate` {every}."
        )
    return split


def _taken_again(records: Sequence[Record], path: Path) -> Split:
    """Return the split of another run with the current records."""
    now = {record["image"]: record for record in records}
    before = read_split(path)
    images = [record["image"] for members in before.values() for record in members]
    missing = [image for image in images if image not in now]
    if missing:
        raise ValueError(
            f"`split_file` {path} must name volumes of this cohort, got {len(missing)} others, the first is "
            f"{missing[0]}."
        )
    if len(images) < len(now):
        print_once(f"Left out: {len(now) - len(images)} volumes that {path} doesn't name")
    return {part: [now[record["image"]] for record in members] for part, members in before.items()}


def _fold(
    records: Sequence[Record],
    fractions: Sequence[float],
    seed: int,
    stratify: str | Sequence[str] | None,
    n_folds: int,
    fold: int,
) -> Split:
    """Return the split of one fold; the test parts of all folds are disjoint and together contain all subjects."""
    if check_integer("fold", fold, minimum=0) >= n_folds:
        raise ValueError(f"`fold` must be an integer from 0 to {n_folds - 1} for {n_folds} folds, got {fold}.")
    folds = split_subjects(records, [1 / n_folds] * n_folds, seed, stratify)
    others = [record for number, members in enumerate(folds) if number != fold for record in members]
    training, validation = fractions[:2]
    if validation == 0:
        return {"training": others, "validation": [], "test": list(folds[fold])}
    share = training / (training + validation)
    parts = split_subjects(others, {"training": share, "validation": 1 - share}, seed, stratify)
    return {**parts, "test": list(folds[fold])}


def _check_same_split(split: Split, path: Path) -> None:
    """Refuse to resume with another split, since a volume of the old training part could be held out now."""
    if not path.is_file():
        return
    before, now = (
        {record["image"]: (part, other_images(record)) for part, members in each.items() for record in members}
        for each in (read_split(path), split)
    )
    differing = sorted(image for image in before.keys() | now.keys() if before.get(image) != now.get(image))
    if differing:
        was, now_is = (_place_of(parts.get(differing[0])) for parts in (before, now))
        raise ValueError(
            f"`resume` needs the data and split of {path}: {len(differing)} volumes differ, the first is "
            f"{differing[0]}, then {was}, now {now_is}."
        )


def _place_of(found: tuple[str, Mapping[str, Any]] | None) -> str:
    """Return the part of a volume, with its further images."""
    if found is None:
        return "absent"
    part, others = found
    return ", ".join([part, *(f"with {name} {path}" for name, path in others.items())])


def write_split(split: Split, path: str | os.PathLike[str]) -> None:
    """Write a split as JSON, with a list of records for each part."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(split, indent=1, default=str) + "\n", encoding="utf-8")


def read_split(path: str | os.PathLike[str]) -> Split:
    """Read a split that :func:`write_split` wrote.

    Raises:
        ValueError: naming the file, if it doesn't contain a split.
    """
    try:
        split = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{os.fspath(path)} must be the split.json of a training run: {error}") from error
    well_formed = isinstance(split, dict) and all(
        isinstance(split.get(part), list)
        and all(isinstance(record, dict) and isinstance(record.get("image"), str) for record in split[part])
        for part in PARTS
    )
    if not well_formed:
        raise ValueError(f"{os.fspath(path)} must hold lists of records under {', '.join(PARTS)}.")
    return {part: split[part] for part in PARTS}


def write_earlier(earlier: Sequence[Earlier], path: str | os.PathLike[str]) -> None:
    """Write the volumes of earlier trainings: for each one a list of images and subjects, or null."""
    content = [
        None
        if records is None
        else [{"image": record["image"], "subject": record.get("subject")} for record in records]
        for records in earlier
    ]
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def read_earlier(output_dir: str | os.PathLike[str]) -> list[Earlier]:
    """Read what :func:`write_earlier` wrote into the folder of a run; empty for a run that started from no model.

    Raises:
        ValueError: naming the file, if it doesn't contain that.
    """
    path = Path(output_dir) / EARLIER_FILE
    if not path.is_file():
        return []
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be the {EARLIER_FILE} of a training run: {error}") from error
    if not isinstance(found, list) or not all(records is None or _are_records(records) for records in found):
        raise ValueError(f"{path} must hold null or a list of records for each earlier training.")
    return list(found)


def _are_records(found: Any) -> bool:
    return isinstance(found, list) and all(
        isinstance(record, dict) and isinstance(record.get("image"), str) for record in found
    )
