"""What an evaluation looks at: held-out subjects, and the training and validation subjects of the model's run."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from ..._checks import is_missing
from ...batches.ordering import OrderedRows
from ...data import CovariateCoding
from ...data.tables.columns import MOSTLY, number_share, percent
from ...data.tables.covariate_values import level_of
from ...data.tables.covariates import MAX_CATEGORIES, is_identifier, is_named_category, is_number, kind_of_covariate
from ...data.volumes.contrasts import OTHER_IMAGES, image_files
from ...data.volumes.volume_files import VOLUME_SUFFIXES, read_header, read_voxels
from ...networks.latent_model import encode_images, evaluating, latent_dim_of, logvar_of
from ...training.latent_activity import ACTIVITY_FILE
from ..covariates import Unseen
from ..records import SPLIT_FILE, Record, read_split

Array = NDArray[Any]

LESION_KEY, HEALTHY_KEY = "lesion_mask", "healthy_image"
"""Keys of a record: the mask of a lesion, and the same subject's image without it."""

IMAGE_BYTES = 2 * 2**30
"""Images are kept up to this much per group of subjects; beyond, a part of the subjects, evenly taken."""


@dataclass
class Subjects:
    """Volumes of some subjects and their codes, in the order of the records.

    Attributes:
        records: one per volume.
        mu: posterior means, shape (n, latent_dim).
        logvar: posterior log-variances, the same shape.
        images: preprocessed, shape (k, channel, x, y, z), k <= n.
        shown: which of the volumes ``images`` holds, shape (k,).
        affines: of the images' grids, shape (k, 4, 4).
        covariates: coded ones of each volume, shape (n, n_covariates); ``None`` for a model that isn't conditional.
    """

    records: list[Record]
    mu: Array
    logvar: Array
    images: Array
    shown: Array
    affines: Array
    covariates: Array | None = None

    def __len__(self) -> int:
        return len(self.records)

    def column(self, name: str) -> list[Any]:
        """Return a covariate of each volume; ``None`` where it is missing."""
        return [record.get(name) for record in self.records]

    @property
    def people(self) -> Array:
        """A label per volume, the same for volumes of one subject; one that says no subject is of one of its own."""
        names = self.column("subject")
        return np.array([f"row {row}" if name is None else f"subject {name}" for row, name in enumerate(names)])

    @property
    def shown_people(self) -> Array:
        """The labels of ``images``."""
        return self.people[self.shown]

    @property
    def shown_covariates(self) -> Array | None:
        """Coded covariates of ``images``, ``None`` for a model that isn't conditional."""
        return None if self.covariates is None else self.covariates[self.shown]


def embed(
    network: Any,
    loader: Iterable[Any],
    records: Sequence[Record],
    device: torch.device | str = "cpu",
    *,
    description: str = "embedding",
    on_batch: Callable[[Mapping[str, Any], torch.Tensor, torch.Tensor | None], None] | None = None,
    coding: CovariateCoding | None = None,
    unseen: Unseen | None = None,
) -> Subjects:
    """Encode every volume, and keep as many images as :data:`IMAGE_BYTES` holds.

    Args:
        network: module with ``encode`` and ``fc_mu``.
        loader: of samples of the records, whose dataset is in their order; its sampler doesn't count.
        records: the records.
        device: where to compute.
        description: of the progress bar.
        on_batch: called with each batch, its images and their coded covariates.
        coding: of the records' covariates, for a conditional network; the samples need not hold them.
        unseen: as in :meth:`~monai_betavae.data.CovariateCoding.rows`.

    Raises:
        ValueError: naming the file of a volume that can't be used, or if the volumes aren't those of the records.
    """
    from tqdm.auto import tqdm

    mus, logvars, images, affines, shown = [], [], [], [], []
    wanted: set[int] = set()
    done = 0
    coded = None if coding is None else coding.rows(records, unseen=unseen)
    network.to(device)
    bar = tqdm(total=len(records), desc=description, unit="volume")
    with bar, evaluating(network), torch.inference_mode():
        for content, volumes, rows, _ in OrderedRows(loader, share=False).image_batches():
            _check_same_volumes([records[row] for row in rows if row < len(records)], content)
            if not wanted:
                at_most = max(1, min(len(records), IMAGE_BYTES // max(volumes[0].numel() * 4, 1)))
                wanted = set(np.linspace(0, len(records) - 1, at_most).round().astype(int).tolist())
            covariates = None if coded is None else torch.from_numpy(coded[rows.start : rows.stop]).to(device)
            q = encode_images(network, volumes.to(device), covariates=covariates)
            mus.append(q.mean.float().cpu().numpy())
            logvars.append(logvar_of(q).float().cpu().numpy())
            for index, row in enumerate(rows):
                if row in wanted:
                    shown.append(row)
                    images.append(volumes[index].float().numpy())
                    affines.append(np.asarray(content["image_affine"][index], dtype=float))
            if on_batch is not None:
                on_batch(content, volumes, covariates)
            done = rows.stop
            bar.update(len(volumes))
    if not mus:
        empty = np.zeros((0, latent_dim_of(network)), np.float32)
        none = np.zeros((0, 1, 1, 1, 1), np.float32), np.zeros(0, int), np.zeros((0, 4, 4))
        return Subjects([], empty, empty, *none, coded)
    if done != len(records):
        raise ValueError(f"`dataloader` must give one volume per record, got {done} for {len(records)} records.")
    codes = np.concatenate(mus), np.concatenate(logvars)
    return Subjects(list(records), *codes, np.stack(images), np.array(shown), np.stack(affines), coded)


def _check_same_volumes(records: Sequence[Record], batch: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if a batch's volumes are others than the records say, whose covariates they would get."""
    images = [str(record["image"]) for record in records]
    paths = list(batch["image_path"])
    if images != paths:
        there, where = next(
            pair for pair in itertools.zip_longest(paths, images, fillvalue="nothing") if pair[0] != pair[1]
        )
        raise ValueError(f"`dataloader` must give the volumes of `records` in their order, got {there} for {where}.")


def run_records(training_output_dir: str | os.PathLike[str], at_most: int) -> dict[str, list[Record]]:
    """Return the training and validation records of a run whose files are there, each at most so many, evenly taken.

    Args:
        training_output_dir: folder of the training run; without a ``split.json`` there are none.
        at_most: number of records per part.
    """
    path = Path(training_output_dir) / SPLIT_FILE
    if not path.is_file():
        return {"training": [], "validation": []}
    found = {}
    for part in ("training", "validation"):
        there = [record for record in read_split(path)[part] if all(map(os.path.exists, image_files(record)))]
        rows = np.linspace(0, max(len(there) - 1, 0), min(at_most, len(there))).round().astype(int)
        found[part] = [add_truth(there[row]) for row in rows]
    return found


def add_truth(record: Record) -> Record:
    """Return a record with the lesion's mask and the healthy image that the simulated cohort has of it, if any."""
    image = Path(record["image"])
    root, subject = image.parents[min(2, len(image.parents) - 1)], str(record.get("subject"))
    if record.get(LESION_KEY) or len(image.parents) < 3 or re.fullmatch(r"[\w-]{1,100}", subject) is None:
        return record
    mask = root / "derivatives" / "lesions" / subject / "anat" / f"{subject}_label-lesion_mask.nii.gz"
    healthy = root / "derivatives" / "healthy" / subject / "anat" / f"{subject}_desc-healthy_T1w.nii.gz"
    found = {key: str(path) for key, path in ((LESION_KEY, mask), (HEALTHY_KEY, healthy)) if path.is_file()}
    return {**record, **found}


def is_healthy(record: Mapping[str, Any]) -> bool:
    """Return whether nothing says that a subject is ill: neither a lesion's mask nor the diagnosis "patient".

    Example:
        >>> [is_healthy(record) for record in ({"diagnosis": "control"}, {"diagnosis": "patient"}, {})]
        [True, False, True]
    """
    diagnosis = level_of(record.get("diagnosis"))
    return not record.get(LESION_KEY) and (diagnosis is None or diagnosis.casefold() != "patient")


def on_grid(path: str | os.PathLike[str], affine: Array, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Return a mask from a file on another grid: linear interpolation, at least one half.

    Args:
        path: of the mask.
        affine: 4x4, of the grid.
        shape: of the grid.
    """
    image = read_header(path)
    values = (read_voxels(path, image) > 0).astype(np.float32)
    to_file = np.linalg.inv(image.affine) @ affine
    inside = ndimage.affine_transform(values, to_file[:3, :3], to_file[:3, 3], output_shape=tuple(shape), order=1)
    mask: NDArray[np.bool_] = inside >= 0.5
    return mask


def training_summary(training_output_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a training run left about itself: sizes of its parts, objective, losses, latents.

    Raises:
        ValueError: naming the file that isn't what its name says.
    """
    folder = Path(training_output_dir)
    found: dict[str, Any] = {}
    if (folder / SPLIT_FILE).is_file():
        found["split"] = {part: len(members) for part, members in read_split(folder / SPLIT_FILE).items()}
    told = _scores_of(folder / "scores.json")
    if isinstance(told.get("objective"), str):
        found["objective"] = told["objective"]
    if isinstance(told.get("best_epoch"), int):
        found["best_epoch"] = told["best_epoch"]
    metrics = folder / "metrics.csv"
    if metrics.is_file():
        import pandas as pd

        try:
            table = pd.read_csv(metrics)
            table[["epoch", "train/loss", "train/rec_loss", "train/kl_loss"]].astype(float)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{metrics} must be the metrics.csv of a training run: {error}") from error
        found["losses"] = table.select_dtypes("number").to_dict("list")
    activity = folder / ACTIVITY_FILE
    if activity.is_file():
        import pandas as pd

        try:
            found["activity"] = (
                pd.read_csv(activity)[["epoch", "latent", "kl", "variance"]].astype(float).to_dict("list")
            )
        except (ValueError, KeyError) as error:
            raise ValueError(f"{activity} must be the {ACTIVITY_FILE} of a training run: {error}") from error
    return found


def _scores_of(scores: Path) -> dict[str, Any]:
    """Return a run's scores, or nothing: the report's wording alone depends on them."""
    try:
        told = json.loads(scores.read_text(encoding="utf-8")) if scores.is_file() else None
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def output_mean(network: nn.Module) -> Array | None:
    """Return the mean training image that the decoder's output started at, if it has one."""
    decoder = getattr(network, "decoder", None)
    mean = getattr(decoder, "output_mean", None)
    if not isinstance(mean, torch.Tensor):
        return None
    mean = torch.sigmoid(mean) if getattr(decoder, "sigmoid", False) else mean
    template = getattr(decoder, "template", None)
    if template is not None and template.cut:
        # the mean goes beyond the edges of crops; at z = 0 it is cut at the mean edges
        with torch.no_grad():
            mean = template(torch.zeros(1, template.latent_dim).to(template.components), mean)[0]
    return mean.float().cpu().numpy()


def side_by_side(volumes: Array) -> Array:
    """Return the channels of volumes one after the other along x, for what knows no channels.

    Args:
        volumes: shape (n, channel, x, y, z).

    Returns:
        shape (n, channel * x, y, z).
    """
    return volumes.reshape(len(volumes), -1, *volumes.shape[3:])


def spacing_of(affine: Array) -> list[float]:
    """Return the voxel sides of a grid, in millimetres."""
    return [float(side) for side in np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)]


def covariates_of(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns that can be asked of latents: numbers and categories, at least two values, no identifiers."""
    columns = _columns_of(records)
    return {name: values for name, values in columns.items() if _why_left_out(name, values) is None}


def left_out_of(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return, by name, why a column isn't among :func:`covariates_of`; nothing of paths and of what names a volume."""
    reasons = {name: _why_left_out(name, values) for name, values in _columns_of(records).items()}
    return {name: reason for name, reason in reasons.items() if reason}


def _columns_of(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    left_out = {"image", "subject", "split", "session", "run", "channel", LESION_KEY, HEALTHY_KEY, "official_split"}
    left_out.add(OTHER_IMAGES)
    names = dict.fromkeys(key for record in records for key in record if key not in left_out)
    return {name: [record.get(name) for record in records] for name in names}


def _why_left_out(name: str, values: Sequence[Any]) -> str | None:
    """Return why a column can't be asked of latents: ``None`` if it can, an empty text if that isn't worth a word."""
    present = [value for value in values if not is_missing(value)]
    if present and all(isinstance(value, str) and _is_path(value) for value in present):
        return ""
    counts = Counter(map(str, present))
    if len(counts) < 2:
        return "one value only" if counts else "no value"
    others = sorted({type(value).__name__ for value in present if not isinstance(value, str | bool | Real)})
    if others:
        return f"neither numbers nor texts: {', '.join(others)}"
    n, distinct = len(present), len(counts)
    nearly_all = distinct > n / 2
    if all(map(is_number, present)):
        if is_identifier(name) and nearly_all and all(value % 1 == 0 for value in present):
            return "an identifier, by its name"
        # site numbers; a quantity has as many values as it likes
        few = kind_of_covariate(name, present) == "category" and distinct > max(MAX_CATEGORIES, n // 5)
        return f"too few volumes of a class: {distinct} classes in {n} volumes" if few else None
    share = number_share(present)
    if share >= MOSTLY and (share < 1 or distinct > MAX_CATEGORIES) and not is_named_category(name):
        if share == 1:
            return f"text, although all {n} cells are numbers: write them as such"
        return (
            f"text, although {percent(share)} of {n} cells are numbers: correct the others, or name those that mean "
            "missing with --missing_values"
        )
    # a text that is another in (nearly) every subject names it or its file
    if distinct <= max(2, n // 5):
        return None
    if nearly_all:
        return "an identifier or a note: another text for nearly everyone"
    return f"too few volumes of a class: {distinct} classes in {n} volumes"


def _is_path(text: str) -> bool:
    return os.path.isabs(text) or text.casefold().endswith((*VOLUME_SUFFIXES, ".npy"))
