"""Inference on files: a row of latents per volume, and its reconstruction on the file's own grid."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import nn

from ..batches import check_images, image_tensor, item_names
from ..data import discover
from ..files import atomic_path
from ..persistence import load_weights_only
from .records import Record, read_split
from .training import MODEL_FILE, SETTINGS_FILE, SPLIT_FILE

LATENTS_FILE, RECONSTRUCTIONS_FOLDER = "latents.csv", "reconstructions"


def trained_settings(ckpt_dir: str | os.PathLike[str], defaults: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the settings that a model was trained with, so that inference needs no repeated overrides.

    Args:
        ckpt_dir: folder of the weights, with the ``model.json`` that training left there.
        defaults: the training config, whose values hold where there is no such file.

    Returns:
        values of the ids that shape network and preprocessing: spatial_shape, spacing, latent_dim, architecture, ...

    Raises:
        ValueError: if the file isn't what training writes.
    """
    config = json.loads(Path(defaults).read_text(encoding="utf-8"))
    names = {name for name, reference in config["network_def"].items() if reference == f"@{name}"} | {"spacing"}
    settings = {name: config[name] for name in names}
    path = Path(ckpt_dir) / SETTINGS_FILE
    if path.is_file():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            found = {**stored["network"]["arguments"], **stored["preprocessing"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} must be the model.json that training wrote.") from error
        settings.update({name: value for name, value in found.items() if name in names})
    return settings


def inference_records(
    dataset_dir: str | os.PathLike[str] | None, training_output_dir: str | os.PathLike[str]
) -> list[Record]:
    """Return the records of ``dataset_dir``, or, if none is given, the subjects the training run held out.

    Args:
        dataset_dir: anything :func:`~monai_betavae.data.discover` takes, or ``None``.
        training_output_dir: folder of the training run's ``split.json``.

    Raises:
        ValueError: as in ``discover``; or if no data is given and there is no training run.
    """
    if dataset_dir is not None:
        records = discover(dataset_dir)
        print(f"Data: {len(records)} volumes from {os.fspath(dataset_dir)}")
        return records
    path = Path(training_output_dir) / SPLIT_FILE
    if not path.is_file():
        raise ValueError(
            f"`dataset_dir` must be given: there is no {path} of a training run that says who is held out."
        )
    records = read_split(path)["test"]
    missing = [record["image"] for record in records if not Path(record["image"]).is_file()]
    if missing or not records:
        what = f"{len(missing)} files are gone, the first is {missing[0]}" if missing else "it holds nobody out"
        raise ValueError(f"{path} can't be used ({what}); give the volumes with `dataset_dir`.")
    print(f"Data: no dataset_dir given, using the {len(records)} held-out volumes of {path}")
    return records


def check_inference(
    output_dir: str | os.PathLike[str], checkpoint: str | os.PathLike[str], overwrite: bool = False
) -> None:
    """Refuse to start without weights, or over existing latents, before any volume is read.

    Args:
        output_dir: folder of the results.
        checkpoint: the weights.
        overwrite: whether existing results may be replaced.

    Raises:
        ValueError: naming the file.
    """
    if not Path(checkpoint).is_file():
        raise ValueError(
            f"{os.fspath(checkpoint)} must be the {MODEL_FILE} of a training run, and doesn't exist: run training "
            "first, or name another with --ckpt_dir."
        )
    latents = Path(output_dir) / LATENTS_FILE
    if latents.exists() and not overwrite:
        raise ValueError(f"{latents} exists. Give --overwrite True to replace it, or another folder with --output_dir.")


def load_weights(network: nn.Module, checkpoint: str | os.PathLike[str]) -> nn.Module:
    """Load a bare state dict into a network; nothing in the file is executed.

    Args:
        network: the network.
        checkpoint: the file.

    Returns:
        the network, in eval mode.

    Raises:
        ValueError: naming the file, if it can't be read or doesn't fit the network.
    """
    weights = load_weights_only(checkpoint)
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{os.fspath(checkpoint)} doesn't fit `network_def`; it needs the settings it was trained with. {error}"
        ) from error
    return network.eval()


class VolumeInference:
    """Embed and reconstruct every volume of a loader, in its order.

    Writes ``<output_dir>/latents.csv``, one row per volume (subject, image, mu_0 ..., logvar_0 ...), and
    ``<output_dir>/reconstructions/<name>_reconstruction.nii.gz`` on each input's own grid and affine.

    Args:
        network: module with ``encode``; calling it reconstructs.
        dataloader: loader of samples from :func:`~monai_betavae.data.brain_transforms`.
        inferer: MONAI inferer that calls the network.
        postprocessing: from (reconstruction, sample) to a nibabel image, such as
            :class:`~monai_betavae.data.RestoreVolume`.
        output_dir: folder of the results.
        device: where to compute.
        image_key: key of the images in a batch.
    """

    def __init__(
        self,
        network: nn.Module,
        dataloader: Iterable[Mapping[str, Any]],
        inferer: Callable[..., torch.Tensor],
        postprocessing: Callable[[torch.Tensor, Mapping[str, Any]], Any],
        output_dir: str | os.PathLike[str],
        device: torch.device | str = "cpu",
        image_key: str = "image",
    ) -> None:
        self.network = network
        self.dataloader = dataloader
        self.inferer = inferer
        self.postprocessing = postprocessing
        self.output_dir = Path(output_dir)
        self.device = torch.device(device)
        self.image_key = image_key

    def run(self) -> None:
        """Process all volumes, then write the table and say where everything is."""
        import pandas as pd
        from tqdm.auto import tqdm

        rows: list[dict[str, Any]] = []
        names = _OutputNames()
        self.network.to(self.device).eval()
        with torch.inference_mode():
            for batch in tqdm(self.dataloader, desc="embedding and reconstructing", unit="batch"):
                images = image_tensor(batch, self.image_key)
                check_images(images, f"the batch after {len(rows)} volumes", item_names(batch))
                images = images.to(self.device)
                mu, logvar = (values.float().cpu().numpy() for values in self.network.encode(images))  # type: ignore[operator]  # nn.Module types its attributes as Tensor | Module
                reconstructions = self.inferer(images, self.network)
                for index in range(len(images)):
                    sample = {key: values[index] for key, values in batch.items()}
                    path = sample[f"{self.image_key}_path"]
                    rows.append(_row(sample.get("subject"), path, mu[index], logvar[index]))
                    restored = self.postprocessing(reconstructions[index], sample)
                    target = self.output_dir / RECONSTRUCTIONS_FOLDER / names.unique(path, str(sample.get("subject")))
                    with atomic_path(target) as temporary:
                        nib.save(restored, temporary)
        with atomic_path(self.output_dir / LATENTS_FILE) as temporary:
            pd.DataFrame(rows).to_csv(temporary, index=False)
        print(
            f"Latents:          {self.output_dir / LATENTS_FILE} ({len(rows)} rows)\n"
            f"Reconstructions:  {self.output_dir / RECONSTRUCTIONS_FOLDER}"
        )


class _OutputNames:
    """File names for reconstructions: the input's, made unique where two folders have a file of one name."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def unique(self, path: str, subject: str) -> str:
        stem = Path(path).name
        for suffix in (".gz", ".nii", ".mgz"):
            stem = stem.removesuffix(suffix)
        safe_subject = "".join(character if character.isalnum() or character in "-_." else "_" for character in subject)
        candidates = [stem, f"{safe_subject}_{stem}"]
        candidates += [f"{safe_subject}_{stem}_{number}" for number in range(2, len(self.taken) + 3)]
        name = next(candidate for candidate in candidates if candidate not in self.taken)
        self.taken.add(name)
        return f"{name}_reconstruction.nii.gz"


def _row(subject: Any, path: str, mu: Sequence[float], logvar: Sequence[float]) -> dict[str, Any]:
    row: dict[str, Any] = {"subject": subject, "image": path}
    row.update({f"mu_{index}": np.float32(value) for index, value in enumerate(mu)})
    row.update({f"logvar_{index}": np.float32(value) for index, value in enumerate(logvar)})
    return row
