"""Generation: volumes decoded from codes that are drawn from the prior."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .._checks import check_integer, check_seed
from .._randomness import generator
from .._texts import file_stem
from ..data import CovariateCoding
from ..networks.latent_model import decode_array, latent_dim_of
from ..networks.modules import reconstruction_network
from ..plots import channel_labels, channel_rows, plot_volumes, save_figure
from ..saving.atomic_files import atomic_path, write_table
from .records import is_working_process
from .trained_model import check_outputs

SAMPLES_FOLDER, CODES_FILE, SHEET_FILE = "samples", "codes.csv", "contact_sheet.png"


def check_generation(
    output_dir: str | os.PathLike[str], checkpoint: str | os.PathLike[str], overwrite: bool = False
) -> None:
    """Check that a generation has weights to run, and no samples to overwrite.

    Raises:
        ValueError: naming the file that is missing or in the way.

    Example:
        >>> try:
        ...     check_generation("out", "out/model.pt")
        ... except ValueError as error:
        ...     print(str(error).split(":")[0])
        out/model.pt must be the model.pt of a training run, and doesn't exist
    """
    check_outputs(Path(output_dir) / SAMPLES_FOLDER / CODES_FILE, checkpoint, overwrite)


class PriorSampling:
    """Draw codes from the prior N(0, I), decode them and write the volumes.

    Writes into ``<output_dir>/samples``: ``sample_000.nii.gz`` ..., float32 in the preprocessing's intensities on the
    model's grid; ``contact_sheet.png``; and ``codes.csv``, one row per sample (sample, z_0 ...), which is complete only
    when all volumes are. The codes are those of ``VAE.sample`` under the same seed. Of several processes that a
    launcher started alike, the first does everything.

    Args:
        network: module with ``decode`` and ``fc_mu``.
        n_samples: number of volumes.
        affine: 4x4 affine of the model's grid, millimetres, RAS+.
        output_dir: folder of the run.
        seed: of the codes.
        device: where to compute.
        batch_size: volumes decoded at once.
        coding: coding of a conditional model's covariates, ``None`` without any.
        at: values of covariates by name for all samples, such as ``{"age": 80, "sex": "F"}``; those that aren't named,
            or ``None``, stand for the average training subject.
        contrasts: names of the channels of a model of several, each of which gets a file: ``sample_000_T2w.nii.gz``.

    Raises:
        ValueError: if ``n_samples`` or ``batch_size`` isn't a positive integer, ``seed`` a seed, or ``at`` names what
            the model isn't conditional on.

    Example:
        >>> import contextlib, io, tempfile
        >>> from monai_betavae.networks import build_network
        >>> network = build_network((8, 8, 8), latent_dim=2)
        >>> quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        >>> with tempfile.TemporaryDirectory() as folder, quiet[0], quiet[1]:
        ...     PriorSampling(network, 2, np.eye(4), folder).run()
        ...     names = sorted(path.name for path in (Path(folder) / "samples").iterdir())
        >>> names
        ['codes.csv', 'contact_sheet.png', 'sample_000.nii.gz', 'sample_001.nii.gz']
    """

    def __init__(
        self,
        network: nn.Module,
        n_samples: int,
        affine: NDArray[np.float64],
        output_dir: str | os.PathLike[str],
        seed: int | None = 0,
        device: torch.device | str = "cpu",
        batch_size: int = 4,
        coding: CovariateCoding | None = None,
        at: Mapping[str, Any] | None = None,
        contrasts: Sequence[str] | None = None,
    ) -> None:
        self.network = network
        self.n_samples = check_integer("n_samples", n_samples, minimum=1)
        self.affine = np.asarray(affine, dtype=float)
        self.output_dir = Path(output_dir) / SAMPLES_FOLDER
        self.seed = check_seed("seed", seed)
        self.device = torch.device(device)
        self.batch_size = check_integer("batch_size", batch_size, minimum=1)
        self.contrasts = contrasts
        if at is not None and coding is None:
            raise ValueError(f"`at` must not be given for a model that isn't conditional on covariates, got {at!r}.")
        self.at = dict(at or {})
        self.covariates = None if coding is None else coding.row_of(self.at)[None]

    def run(self) -> None:
        """Draw, decode and write all samples, and say where they are."""
        import pandas as pd
        from tqdm.auto import tqdm

        if not is_working_process("Generation"):
            return
        network: Any = reconstruction_network(self.network.to(self.device).eval())
        codes = torch.randn(self.n_samples, latent_dim_of(network), generator=generator(self.seed, "sample"))
        names = [f"sample_{index:0{max(3, len(str(self.n_samples - 1)))}d}" for index in range(self.n_samples)]
        shown: list[NDArray[np.float32]] = []
        written: list[str] = []
        with torch.inference_mode():
            for start in tqdm(range(0, self.n_samples, self.batch_size), desc="generating", unit="batch"):
                part = codes[start : start + self.batch_size].numpy()
                rows = None if self.covariates is None else np.repeat(self.covariates, len(part), axis=0)
                volumes = decode_array(network, part, self.device, covariates=rows)
                for offset, volume in enumerate(volumes):
                    files = self._files(names[start + offset], len(volume))
                    written += files
                    for file, channel in zip(files, volume, strict=True):
                        with atomic_path(self.output_dir / f"{file}.nii.gz") as temporary:
                            nib.save(self._image(channel), temporary)
                shown.extend(volumes[: max(0, 24 - len(shown))])
        self._remove_others(written)
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        where = ", ".join(f"{name} {value}" for name, value in self.at.items())
        title = f"Samples from the prior{f' at {where}' if where else ''}"
        sheet = plot_volumes(*channel_rows(np.stack(shown), names[: len(shown)], self.contrasts), title, spacing)
        save_figure(sheet, self.output_dir / SHEET_FILE)
        table = pd.DataFrame(codes.numpy(), columns=[f"z_{index}" for index in range(codes.shape[1])])
        table.insert(0, "sample", names)
        for name, value in self.at.items():
            table[name] = value
        write_table(table, self.output_dir / CODES_FILE)
        print(f"Samples:  {self.n_samples} volumes, {SHEET_FILE} and {CODES_FILE} in {self.output_dir}")

    def _files(self, name: str, n_channels: int) -> list[str]:
        """Return the name of the file of each channel, without its extension."""
        if n_channels == 1:
            return [name]
        return [f"{name}_{file_stem(label)}" for label in channel_labels(n_channels, self.contrasts)]

    def _image(self, volume: NDArray[np.float32]) -> Any:
        image = nib.Nifti1Image(volume, self.affine)
        image.header.set_xyzt_units("mm")
        image.header["descrip"] = b"sample from the prior of a beta-VAE"
        return image

    def _remove_others(self, names: list[str]) -> None:
        """Remove samples of an earlier, larger set that is being replaced: they belong to other codes."""
        for path in self.output_dir.glob("sample_*.nii.gz"):
            if path.name.removesuffix(".nii.gz") not in names:
                path.unlink()
