"""Loaders of public cohorts: OASIS through nilearn, IXI and the Medical Segmentation Decathlon through MONAI."""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..._checks import check_choice, check_integer
from ..identity.bids_names import Record
from .sources import discover

TISSUES = {"gray_matter": "gray_matter_maps", "white_matter": "white_matter_maps"}

IXI_URL = "http://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI/"
IXI_MODALITIES = ("T1", "T2", "PD", "MRA")
IXI_MD5 = {"IXI-T1.tar": "34901a0593b41dd19c1a1f746eac2d58"}
IXI_SEXES = {1: "M", 2: "F"}


def oasis_vbm(
    n_subjects: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    tissue: str = "gray_matter",
    *,
    dartel: bool = True,
) -> list[Record]:
    """List the voxel-based morphometry maps of OASIS-1; nilearn downloads missing ones.

    Source: D. S. Marcus et al., "Open Access Series of Imaging Studies (OASIS)", Journal of Cognitive Neuroscience 19,
    2007; maps and covariates by ``nilearn.datasets.fetch_oasis_vbm``, under OASIS's terms of use.

    Args:
        n_subjects: number of subjects, from the first; ``None`` for all 403 (415 without DARTEL).
        data_dir: nilearn's data folder; ``None`` for its default.
        tissue: "gray_matter" or "white_matter".
        dartel: whether to use the maps registered with DARTEL.

    Returns:
        records with image, subject (``OAS1_0001``) and the covariates of OASIS's table: age, sex (``"M"``, ``"F"``),
        hand, educ, ses, mmse, cdr, etiv, nwbv, asf, delay.

    Raises:
        ValueError: if an argument is invalid; the message names it.

    Example:
        >>> records = oasis_vbm(100)  # doctest: +SKIP
        >>> oasis_vbm(100, tissue="csf")
        Traceback (most recent call last):
        ValueError: `tissue` must be one of 'gray_matter', 'white_matter', got 'csf'.
    """
    from nilearn.datasets import fetch_oasis_vbm

    check_choice("tissue", tissue, list(TISSUES))
    if n_subjects is not None:
        check_integer("n_subjects", n_subjects, minimum=1)
    bunch = fetch_oasis_vbm(n_subjects, dartel_version=dartel, data_dir=data_dir)
    rows = {row["id"]: row for row in bunch["ext_vars"].to_dict(orient="records")}
    records: list[Record] = []
    for image in bunch[TISSUES[tissue]]:
        found = re.search(r"OAS1_\d{4}", Path(image).name)
        subject = found.group() if found else Path(image).parent.name
        row = {str(key): value for key, value in rows.get(f"{subject}_MR1", {}).items() if key != "id"}
        row["sex"] = row.pop("mf", None)
        records.append({"image": str(image), "subject": subject, **_without_nan(row)})
    return records


def ixi(root_dir: str | os.PathLike[str], modality: str = "T1", *, download: bool = False) -> list[Record]:
    """List the volumes of IXI with the covariates of its subject table.

    Source: https://brain-development.org/ixi-dataset/, CC BY-SA 3.0.

    Args:
        root_dir: folder that contains ``IXI*-{modality}.nii.gz`` and ``IXI.xls`` at any depth.
        modality: "T1", "T2", "PD" or "MRA".
        download: whether to download ``IXI-{modality}.tar`` (4.8 GB for T1) and ``IXI.xls`` into ``root_dir`` with
            MONAI if there is no volume yet.

    Returns:
        records with image, subject (``IXI002``), site (``Guys``, ``HH``, ``IOP``) and, if there is an ``IXI.xls`` (it
        needs the extra ``cohorts``), age, sex and its other columns. If a subject's rows disagree, the value is
        ``None``.

    Raises:
        ValueError: if an argument is invalid or the folder has no volume; the message names the argument or the folder.

    Example:
        >>> records = ixi("data/ixi", download=True)  # doctest: +SKIP
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "IXI002-Guys-0828-T1.nii.gz").touch()
        ...     (record,) = ixi(folder)
        >>> record["subject"], record["site"]
        ('IXI002', 'Guys')
    """
    check_choice("modality", modality, IXI_MODALITIES)
    root = Path(root_dir)
    images = _ixi_images(root, modality)
    if not images and download:
        _fetch_ixi(root, modality)
        images = _ixi_images(root, modality)
    if not images:
        raise ValueError(f"{root} must hold IXI*-{modality}.nii.gz, got none; `download=True` fetches them.")
    table = next(iter(sorted(root.rglob("IXI.xls"))), None)
    rows = {} if table is None else _ixi_rows(table)
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    records: list[Record] = []
    for image in images:
        subject, site = image.name.split("-")[:2]
        row = rows.get(subject, {})
        records.append(
            {"image": str(image), "subject": subject, "site": site, **{column: row.get(column) for column in columns}}
        )
    return records


def decathlon(
    root_dir: str | os.PathLike[str], task: str, *, channel: int | None = None, download: bool = False
) -> list[Record]:
    """List the volumes of a task of the Medical Segmentation Decathlon, with the path of each volume's labels.

    Source: M. Antonelli et al., "The Medical Segmentation Decathlon", Nature Communications 13, 2022; addresses and
    digests are those of ``monai.apps.DecathlonDataset``.

    Args:
        root_dir: folder that contains the task's folder.
        task: name such as "Task01_BrainTumour" (four channels: FLAIR, T1w, T1gd, T2w) or "Task04_Hippocampus".
        channel: index of the channel, from 0, in a task with several channels.
        download: whether to download the task with MONAI if its folder doesn't exist.

    Returns:
        the records of :func:`discover`, with "split" from the task's ``dataset.json``, and "channel".

    Raises:
        ValueError: if an argument is invalid (the message names it), or for the reasons given in ``discover``.

    Example:
        >>> records = decathlon("data", "Task01_BrainTumour", channel=1, download=True)  # doctest: +SKIP
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "Task04_Hippocampus").mkdir()
        ...     Path(folder, "Task04_Hippocampus", "hippocampus_001.nii.gz").touch()
        ...     text = '{"training": [{"image": "hippocampus_001.nii.gz", "label": "label_001.nii.gz"}]}'
        ...     _ = Path(folder, "Task04_Hippocampus", "dataset.json").write_text(text)
        ...     (record,) = decathlon(folder, "Task04_Hippocampus")
        >>> record["subject"], Path(record["label"]).name
        ('hippocampus_001', 'label_001.nii.gz')
    """
    from monai.apps import DecathlonDataset, download_and_extract

    check_choice("task", task, list(DecathlonDataset.resource))
    folder = Path(root_dir) / task
    if not folder.is_dir():
        if not download:
            raise ValueError(f"`root_dir` must hold the folder {task}, got {root_dir}; `download=True` fetches it.")
        archive = Path(root_dir) / f"{task}.tar"
        archive.parent.mkdir(parents=True, exist_ok=True)
        url, digest = DecathlonDataset.resource[task], DecathlonDataset.md5[task]
        download_and_extract(url, archive, root_dir, hash_val=digest, hash_type="md5")
    return set_channel(discover(folder), channel)


def set_channel(records: list[Record], channel: int | None) -> list[Record]:
    """Add to records the channel to read from files with a fourth axis; ``None`` adds nothing."""
    if channel is None:
        return records
    check_integer("channel", channel, minimum=0)
    return [{**record, "channel": channel} for record in records]


def _ixi_images(root: Path, modality: str) -> list[Path]:
    return sorted(Path(os.path.abspath(path)) for path in root.rglob(f"IXI*-{modality}.nii.gz"))


def _fetch_ixi(root: Path, modality: str) -> None:
    from monai.apps import download_and_extract, download_url

    root.mkdir(parents=True, exist_ok=True)
    archive = f"IXI-{modality}.tar"
    digest = IXI_MD5.get(archive)
    download_url(IXI_URL + "IXI.xls", root / "IXI.xls")
    download_and_extract(
        IXI_URL + archive, root / archive, root / f"IXI-{modality}", hash_val=digest, hash_type="md5", has_base=False
    )


def _ixi_rows(path: Path) -> dict[str, Record]:
    """Return the covariates of each subject in IXI.xls, ``None`` where its rows disagree."""
    if find_spec("xlrd") is None:
        raise ValueError(f"{path} needs xlrd to be read: pip install 'monai-betavae[cohorts]'.")
    import xlrd

    try:
        with xlrd.open_workbook(path, logfile=io.StringIO()) as book:
            lines = [[_xls_value(cell, book.datemode) for cell in line] for line in book.sheet_by_index(0).get_rows()]
    except Exception as error:  # xlrd raises many kinds of errors for files that aren't XLS
        raise ValueError(f"{path} can't be read as IXI's table of subjects: {error}") from error
    header = [str(name) for name in lines[0]] if lines else []
    if "IXI_ID" not in header:
        raise ValueError(f"{path} must have a column IXI_ID, got {', '.join(header)}.")
    table = [dict(zip(header, line, strict=True)) for line in lines[1:]]
    rows: dict[str, Record] = {}
    unclear = set()
    for entry in table:
        if entry["IXI_ID"] is None:
            continue
        row = {_ixi_column(key): value for key, value in entry.items() if key != "IXI_ID"}
        row["sex"] = IXI_SEXES.get(row["sex"]) if "sex" in row else None
        subject = f"IXI{int(entry['IXI_ID']):03d}"
        before = rows.setdefault(subject, row)
        for column in row:
            if before[column] != row[column]:
                before[column] = None
                unclear.add(subject)
    if unclear:
        warnings.warn(
            f"{path}: the rows of {len(unclear)} subjects disagree ({', '.join(sorted(unclear)[:5])} ...): "
            "conflicting values are treated as missing.",
            stacklevel=3,
        )
    return rows


def _xls_value(cell: Any, datemode: int) -> Any:
    """Return a cell's number or text, its date as text, or ``None`` if it is empty."""
    import xlrd

    if cell.ctype == xlrd.XL_CELL_DATE:
        return xlrd.xldate_as_datetime(cell.value, datemode).date().isoformat()
    return None if cell.value == "" else cell.value


def _ixi_column(name: str) -> str:
    return "sex" if name.startswith("SEX_ID") else name.lower()


def _without_nan(row: Mapping[str, Any]) -> Record:
    """Return a row as plain values, with missing ones as ``None`` and dates as text."""
    plain: Record = {}
    for key, value in row.items():
        entry = value.item() if hasattr(value, "item") else value
        missing = entry is None or entry != entry or (isinstance(entry, float) and not math.isfinite(entry))
        plain[key] = None if missing else entry if isinstance(entry, bool | int | float | str) else str(entry)
    return plain
