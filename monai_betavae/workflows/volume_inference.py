"""Inference on files: a row of latents per volume, and its reconstruction on the file's own grid."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import nibabel as nib
import numpy as np
import torch
from monai.inferers import SimpleInferer
from torch import nn

from .._texts import file_stem
from ..batches.covariates import batch_covariates
from ..batches.ordering import OrderedRows
from ..data import volume_image
from ..data.identity.bids_names import stem_of
from ..data.volumes.contrasts import OTHER_IMAGES, contrast_names, image_files, other_images
from ..networks.conditional_mean import n_covariates_of
from ..networks.latent_model import encode_images, logvar_of
from ..networks.modules import reconstruction_network
from ..plots import channel_labels
from ..saving.atomic_files import atomic_path, write_table
from .covariates import AT_KEY
from .data_checks import refuse_bad_headers, seen_in_training
from .model_description import data_options_of, trained_contrasts
from .records import SPLIT_FILE, Record, given_records, is_working_process, print_once, read_split
from .trained_model import check_outputs

LATENTS_FILE, RECONSTRUCTIONS_FOLDER = "latents.csv", "reconstructions"
RECONSTRUCTIONS_AT_FOLDER = "reconstructions_at"


class InferenceRecords(Sequence[Record]):
    """The records of ``dataset_dir``, or of the subjects that the training run held out if none is given.

    They are looked up at the first access, because a bundle's workflow must exist, with its network and all its
    properties, before there are data.

    Args:
        dataset_dir: anything :func:`~monai_betavae.data.discover` takes, or ``None``.
        training_output_dir: folder of the training run's ``split.json``.
        suffix: as in :func:`~.records.given_records`; ``None`` for the value that training had.
        image_column: as in :func:`~.records.given_records`; ``None`` for the value that training had.
        channel: as in :func:`~.records.given_records`.
        subject_from: as in :func:`~.records.given_records`.
        entities: as in :func:`~.records.given_records`; ``None`` for the value that training had.
        missing_values: as in :func:`~.records.given_records`; ``None`` for the value that training had.
        ckpt_dir: folder of the weights, with the ``model.json`` that holds the values of training.
        on_incomplete: as in :func:`~.records.given_records`.

    Example:
        >>> import contextlib, io, tempfile
        >>> volume = nib.Nifti1Image(np.ones((4, 5, 6), np.float32), np.eye(4))
        >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        ...     nib.save(volume, f"{folder}/sub-01_T1w.nii.gz")
        ...     records = InferenceRecords(folder, "out")
        ...     found = [record["subject"] for record in records]
        >>> found
        ['sub-01']
    """

    def __init__(
        self,
        dataset_dir: str | os.PathLike[str] | None,
        training_output_dir: str | os.PathLike[str],
        suffix: str | Sequence[str] | None = None,
        image_column: str | Sequence[str] | None = None,
        channel: int | None = None,
        subject_from: str | None = None,
        entities: str | Mapping[str, str | None] | None = None,
        missing_values: str | Sequence[str] | None = None,
        ckpt_dir: str | os.PathLike[str] | None = None,
        on_incomplete: str = "stop",
    ) -> None:
        self.dataset_dir = dataset_dir
        self.training_output_dir = training_output_dir
        self.ckpt_dir = ckpt_dir
        self.how = {
            "suffix": suffix,
            "image_column": image_column,
            "channel": channel,
            "subject_from": subject_from,
            "entities": entities,
            "missing_values": missing_values,
            "on_incomplete": on_incomplete,
        }
        self._records: list[Record] | None = None

    @property
    def records(self) -> list[Record]:
        """The records.

        Raises:
            ValueError: as in ``discover``; or if no data is given and there is no training run.
        """
        if self._records is None:
            how = {name: value for name, value in self.how.items() if value is not None}
            if self.dataset_dir is not None:
                how = {**_told(self.ckpt_dir, how), **how}
            contrasts = None if self.ckpt_dir is None else trained_contrasts(self.ckpt_dir)
            self._records = _find_records(self.dataset_dir, self.training_output_dir, how, contrasts)
        return self._records

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        return self.records[index]


def _told(ckpt_dir: str | os.PathLike[str] | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what training was told of the volumes, and say where it isn't the default, or isn't done here."""
    told = data_options_of(ckpt_dir)
    # channels that are named here replace those that training was given for the other kind of source
    for name, other in (("suffix", "image_column"), ("image_column", "suffix")):
        if isinstance(given.get(name), list | tuple) and isinstance(told.get(other), list):
            del told[other]
    as_in_training = [f"{name} {told[name]}" for name in told if name not in given and told[name] != DEFAULTS.get(name)]
    if as_in_training:
        print_once(f"As in training: {', '.join(as_in_training)}")
    otherwise = [
        f"{name} {given[name]}, not {told.get(name)}"
        for name in ("suffix", "entities")
        if name in given and given[name] != told.get(name, DEFAULTS.get(name)) and ckpt_dir is not None
    ]
    if otherwise:
        print_once(f"Other than in training: {'; '.join(otherwise)}")
    return told


DEFAULTS = {"suffix": "T1w", "image_column": "image"}
"""What isn't worth a line."""


def _find_records(
    dataset_dir: str | os.PathLike[str] | None,
    training_output_dir: str | os.PathLike[str],
    how: Mapping[str, Any],
    contrasts: Sequence[str] | None = None,
) -> list[Record]:
    if dataset_dir is not None:
        renamed = _as_trained(contrasts, how)
        records = [_renamed(record, renamed) for record in given_records(dataset_dir, **how)]
        refuse_bad_headers(records)
        n_seen = len(seen_in_training(records, training_output_dir))
        if n_seen:
            print_once(
                f"{n_seen} of the {len(records)} volumes are of subjects that the model was trained or validated on: "
                "don't mix them with new ones in one test."
            )
        return records
    path = Path(training_output_dir) / SPLIT_FILE
    if not path.is_file():
        raise ValueError(
            f"`dataset_dir` must be given: there is no {path} of a training run that says who is held out, nor one "
            "beside the weights or in the output folder; or name the folder of the run with --training_output_dir."
        )
    records = read_split(path)["test"]
    missing = [image for record in records for image in image_files(record) if not os.path.exists(image)]
    if missing or not records:
        what = f"{len(missing)} files are gone, the first is {missing[0]}" if missing else "it holds nobody out"
        raise ValueError(f"{path} can't be used ({what}); give the volumes with `dataset_dir`.")
    print_once(f"Data: no dataset_dir given, using the {len(records)} held-out volumes of {path}")
    return records


def _as_trained(contrasts: Sequence[str] | None, how: Mapping[str, Any]) -> dict[str, str]:
    """Return the model's name of each of its channels by the name that the images are asked for with.

    Args:
        contrasts: names of the model's channels, ``None`` for one.
        how: "suffix" and "image_column" of the images.

    Raises:
        ValueError: if they name other channels, or in another order.
    """
    asked = contrast_names(how.get("suffix"), how.get("image_column")) or []
    known = list(contrasts or [])
    of_bids = isinstance(how.get("suffix"), list | tuple)
    # columns of a table may have names of their own; those that are known must be in their place
    same = [a == k for a, k in zip(asked, known, strict=False)]
    misplaced = any(a in known and not found for a, found in zip(asked, same, strict=False))
    if len(asked) != len(known) or misplaced or (of_bids and any(same) and not all(same)):
        channels = f"{', '.join(known)}, in this order" if known else "one channel"
        raise ValueError(
            f"`suffix` or `image_column` must name the channels that the model was trained with, {channels}, got "
            f"{', '.join(asked) or 'one channel'}."
        )
    if not all(same):
        print_once(f"Channels: {', '.join(f'{a} as {k}' for a, k in zip(asked, known, strict=True))}")
    return {} if all(same) else dict(zip(asked, known, strict=True))


def _renamed(record: Record, names: Mapping[str, str]) -> Record:
    """Return a record whose further images have other names."""
    if not names:
        return record
    return {**record, OTHER_IMAGES: {names[name]: path for name, path in other_images(record).items()}}


def check_inference(
    output_dir: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    overwrite: bool = False,
    training_output_dir: str | os.PathLike[str] | None = None,
) -> None:
    """Check that an inference has weights to run, and no latents to overwrite.

    Raises:
        ValueError: naming the file that is missing or in the way.

    Example:
        >>> try:
        ...     check_inference("out", "out/model.pt")
        ... except ValueError as error:
        ...     print(str(error).split(":")[0])
        out/model.pt must be the model.pt of a training run, and doesn't exist
    """
    check_outputs(Path(output_dir) / LATENTS_FILE, checkpoint, overwrite, training_output_dir)


class VolumeInference:
    """Embed and reconstruct every volume of a loader's dataset, in the dataset's order.

    Writes ``<output_dir>/latents.csv``, one row per volume (subject, image, mu_0 ..., logvar_0 ...), and
    ``<output_dir>/reconstructions/<name>_reconstruction.nii.gz`` on each input's own grid and affine. Of several
    processes that a launcher started alike, the first does everything.

    Args:
        network: module with ``encode`` and ``decode``, whose call reconstructs, or with the parts of
            :func:`~monai_betavae.networks.modules.reconstruction_network`.
        dataloader: loader of samples from :func:`~monai_betavae.data.brain_transforms`. Its sampler doesn't count: no
            volume is left out, and none is out of order.
        inferer: MONAI inferer that calls the network; with ``SimpleInferer`` the codes are decoded, which is the same
            and encodes once.
        postprocessing: dictionary transforms from a sample with the reconstruction under "pred" to one with a
            ``MetaTensor`` on the input's grid there, such as :class:`~monai_betavae.data.RestoreVolumed`.
        output_dir: folder of the results.
        device: where to compute.
        image_key: key of the images in a batch.
        at: values of covariates that codes are decoded at in place of the subjects' own, such as ``{"site": "A"}``; the
            loader's samples hold them coded, see :func:`~monai_betavae.workflows.with_covariates`. The volumes are then
            in ``reconstructions_at``, with the values in ``at.json``, and not in ``reconstructions``.
        contrasts: names of the channels of a model of several. Each gets a file, named as the input with its own
            suffix: ``sub-01_T2w_reconstruction.nii.gz``.

    Raises:
        ValueError: if ``at`` is given with an inferer of one's own, which encodes and decodes at once.

    Example:
        >>> import contextlib, io, tempfile
        >>> from monai.data import DataLoader, Dataset
        >>> from monai_betavae.data import RestoreVolumed, brain_transforms
        >>> from monai_betavae.networks import build_network
        >>> values = np.random.default_rng(0).random((9, 8, 7), dtype=np.float32)
        >>> quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        >>> with tempfile.TemporaryDirectory() as folder, quiet[0], quiet[1]:
        ...     path = f"{folder}/sub-01_T1w.nii.gz"
        ...     nib.save(nib.Nifti1Image(values, np.diag([2, 2, 2, 1])), path)
        ...     transform = brain_transforms((8, 8, 8), spacing=2.0)
        ...     loader = DataLoader(Dataset([{"image": path, "subject": "sub-01"}], transform))
        ...     network = build_network((8, 8, 8), latent_dim=2)
        ...     VolumeInference(network, loader, SimpleInferer(), RestoreVolumed("pred"), folder).run()
        ...     shape = nib.load(f"{folder}/reconstructions/sub-01_T1w_reconstruction.nii.gz").shape
        ...     header = (Path(folder) / "latents.csv").read_text().split()[0]
        >>> shape, header  # the reconstruction is on the file's own grid
        ((9, 8, 7), 'subject,image,mu_0,mu_1,logvar_0,logvar_1')
    """

    def __init__(
        self,
        network: nn.Module,
        dataloader: Iterable[Mapping[str, Any]],
        inferer: Callable[..., torch.Tensor],
        postprocessing: Callable[[dict[str, Any]], Mapping[Any, Any]],
        output_dir: str | os.PathLike[str],
        device: torch.device | str = "cpu",
        image_key: str = "image",
        at: Mapping[str, Any] | None = None,
        contrasts: Sequence[str] | None = None,
    ) -> None:
        if at is not None and type(inferer) is not SimpleInferer:
            raise ValueError(f"`inferer` must be a SimpleInferer if `at` is given, got a {type(inferer).__name__}.")
        self.at = at
        self.network = network
        self.dataloader = dataloader
        self.inferer = inferer
        self.postprocessing = postprocessing
        self.output_dir = Path(output_dir)
        self.device = torch.device(device)
        self.image_key = image_key
        self.contrasts = contrasts

    def run(self) -> None:
        """Process all volumes, then write the table and say where everything is.

        Raises:
            ValueError: if the loader gives no volume, or naming a volume that can't be used.
        """
        import pandas as pd
        from tqdm.auto import tqdm

        if not is_working_process("Inference"):
            return
        loader = OrderedRows(self.dataloader, share=False)
        rows: list[dict[str, Any]] = []
        names = OutputNames()
        folder = self.output_dir / (RECONSTRUCTIONS_FOLDER if self.at is None else RECONSTRUCTIONS_AT_FOLDER)
        network: Any = reconstruction_network(self.network.to(self.device).eval())
        with torch.inference_mode():
            batches = loader.image_batches(self.image_key)
            for batch in tqdm(batches, total=loader.n_batches, desc="embedding and reconstructing", unit="batch"):
                images = batch.images.to(self.device)
                covariates = batch_covariates(batch.content, n_covariates_of(network), len(images))
                covariates = None if covariates is None else covariates.to(self.device)
                given = () if covariates is None else (covariates,)
                if self.at is not None:
                    given = (batch.content[AT_KEY].to(self.device),)
                q = encode_images(network, images, covariates=covariates)
                # calling the network would encode once more, which only an inferer of one's own may need
                simple = type(self.inferer) is SimpleInferer
                reconstructions = network.decode(q.mean, *given) if simple else self.inferer(images, network, *given)
                mu, logvar = (values.float().cpu().numpy() for values in (q.mean, logvar_of(q)))
                for index in range(len(images)):
                    sample = {key: values[index] for key, values in batch.content.items()}
                    path = sample[f"{self.image_key}_path"]
                    rows.append(_row(sample.get("subject"), path, mu[index], logvar[index]))
                    restored = self.postprocessing({**sample, "pred": reconstructions[index].float().cpu()})["pred"]
                    for channel, name in enumerate(self._names(path, len(restored))):
                        unique = names.unique(name, str(sample.get("subject")))
                        with atomic_path(folder / unique) as temporary:
                            nib.save(volume_image(restored[channel : channel + 1], path), temporary)
        if not rows:
            raise ValueError("`dataloader` must give at least one volume, got none.")
        if self.at is not None:
            with atomic_path(folder / "at.json") as temporary:
                temporary.write_text(json.dumps(dict(self.at)) + "\n", encoding="utf-8")
        write_table(pd.DataFrame(rows), self.output_dir / LATENTS_FILE)
        where = "" if self.at is None else f" (at {', '.join(f'{name} {value}' for name, value in self.at.items())})"
        print(
            f"Latents:          {self.output_dir / LATENTS_FILE} ({len(rows)} rows)\nReconstructions:  {folder}{where}"
        )

    def _names(self, path: str, n_channels: int) -> list[str]:
        """Return the name of the file of each channel: the input's, with the contrast in place of the first one's."""
        if n_channels == 1:
            return [path]
        labels = channel_labels(n_channels, self.contrasts)
        stem = stem_of(Path(path).name)
        stem = stem.removesuffix(f"_{labels[0]}")
        return [f"{stem}_{label}" if stem else label for label in labels]


class OutputNames:
    """File names for reconstructions: the input's, made unique where two folders have a file of one name.

    Of a path only the last part counts, so that no record can put a file elsewhere; what some system doesn't take in a
    name becomes an underscore (see :func:`~monai_betavae._texts.file_stem`). Names that differ in case alone are one on
    some file systems.
    """

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def unique(self, path: str, subject: str) -> str:
        """Return a name that hasn't been returned yet."""
        stem = file_stem(stem_of(Path(path).name))
        safe_subject = "".join(character if character.isalnum() or character in "-_." else "_" for character in subject)
        longer = file_stem(f"{safe_subject}_{stem}")
        candidates = itertools.chain([stem, longer], (f"{longer}_{number}" for number in itertools.count(2)))
        name = next(candidate for candidate in candidates if candidate.casefold() not in self.taken)
        self.taken.add(name.casefold())
        return f"{name}_reconstruction.nii.gz"


def _row(subject: Any, path: str, mu: Sequence[float], logvar: Sequence[float]) -> dict[str, Any]:
    row: dict[str, Any] = {"subject": subject, "image": path}
    row.update({f"mu_{index}": np.float32(value) for index, value in enumerate(mu)})
    row.update({f"logvar_{index}": np.float32(value) for index, value in enumerate(logvar)})
    return row
