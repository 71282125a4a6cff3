"""A cohort of simulated T1-weighted brains with known ground truth as a BIDS folder."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from monai_betavae._checks import check_choice, check_integer, check_real
from monai_betavae.data.simulation.anatomy import Anatomy, cohort_grid, load_anatomy
from monai_betavae.data.simulation.cohort_texts import (
    COLUMNS,
    FOLDED_COLUMNS,
    FOLDED_NOTICE,
    FOLDED_README,
    NOTICE,
    README,
)
from monai_betavae.data.simulation.cortex import FoldedAnatomy
from monai_betavae.data.simulation.folded_subject import (
    draw_morphology,
    load_folded_anatomy,
    morphology_columns,
    simulate_folded_subject,
)
from monai_betavae.data.simulation.subject import SimulatedSubject, simulate_subject
from monai_betavae.data.simulation.subject_factors import Factors, Nuisance, draw_nuisance, draw_subject, stream

_VALIDATION_SHARE, _TEST_SHARE = 0.15, 0.15
_MAX_WORKERS = 8
_ANATOMIES = ("warped", "folded")


def simulate_cohort(
    output_dir: str | os.PathLike[str],
    n_subjects: int,
    seed: int = 0,
    *,
    spacing: float = 3.0,
    lesion_fraction: float = 0.2,
    anatomy: str = "warped",
    noise: bool = True,
    n_workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Write a BIDS folder of simulated T1-weighted brains whose anatomy is known.

    There are two kinds of anatomy. Each subject of the "warped" one is the MNI152 2009a template (skull-stripped,
    shipped with nilearn) under a warp x -> template. A "folded" one has a cortex of its own: one of five base
    anatomies (sulci of the hemispheres of fsaverage5 or of MNI152), of which each subject has other sulci at another
    depth and place, and own sulci from a random field (see `monai_betavae.data.simulation.folding`); some have a
    paracingulate sulcus, a cavum septi pellucidi, an arachnoid cyst, a mega cisterna magna or an error of brain
    extraction. Factors, covariates and nuisance of subject i are the same in both.

    The rendering is the same: I = gain · rice(bias · (WM + (1 - contrast) · GM + 0.3 · CSF + texture), noise). Six
    factors are drawn independently for each subject: brain size, ventricle volume, cortical atrophy, GM/WM contrast,
    left-right asymmetry and, for a share of the subjects, a white-matter lesion. ``age``, ``sex`` and ``site`` follow
    from or shift them; ``control`` is standard normal and changes nothing. Label scores obtained on these data as
    "simulated".

    The folder contains ``sub-001/anat/sub-001_T1w.nii.gz`` (int16, RAS, mm from the anterior commissure, 0 outside the
    brain), ``participants.tsv`` with every factor and the truth measured in ml (described in ``participants.json``),
    a MONAI datalist ``dataset.json`` with the sections training, validation and test (70/15/15), and, for subjects
    with a lesion, the same image without it under ``derivatives/healthy`` and its mask under ``derivatives/lesions``.

    The same arguments give the same bytes for any number of workers. The images, factors and truth of subject i depend
    only on ``seed`` and i; the choice of subjects with a lesion and the sections also depend on ``n_subjects``.

    Args:
        output_dir: the folder to make; it may exist if it is empty. It appears only when everything is written.
        n_subjects: number of subjects.
        seed: integer that determines all random draws.
        spacing: voxel size in mm, from 1 to 12. The field of view is 192 x 240 x 192 mm, 64 x 80 x 64 voxels at 3 mm.
        lesion_fraction: share of the subjects with a lesion; exactly ``round(lesion_fraction * n_subjects)`` have one.
        anatomy: "warped" or "folded".
        noise: whether to add Rician noise. Without it everything else is the same, so that the difference between two
            cohorts is the noise. The files say so only if it is left out.
        n_workers: number of threads; by default one per available processor, at most 8.
        progress: whether to show a progress bar.

    Returns:
        ``output_dir`` as a path.

    Raises:
        ValueError: if an argument is out of range, or if ``output_dir`` is a file or a folder that is not empty.

    Source:
        Fonov et al. 2009, NeuroImage 47, S102 (template); BIDS 1.10 (layout); Gudbjartsson and Patz 1995, Magnetic
        Resonance in Medicine 34, 910-914 (Rician noise); Fischl et al. 1999, Human Brain Mapping 8, 272-284
        (fsaverage).

    Example:
        >>> import tempfile
        >>> folder = simulate_cohort(Path(tempfile.mkdtemp()) / "brains", 2, spacing=8, progress=False)
        >>> sorted(path.name for path in folder.glob("sub-*/anat/*"))
        ['sub-001_T1w.nii.gz', 'sub-002_T1w.nii.gz']
    """
    n_subjects = check_integer("n_subjects", n_subjects, 1)
    seed = check_integer("seed", seed, 0)
    spacing = check_real("spacing", spacing, 1, 12)
    lesion_fraction = check_real("lesion_fraction", lesion_fraction, 0, 1)
    anatomy = check_choice("anatomy", anatomy, _ANATOMIES)
    if not isinstance(noise, bool):
        raise ValueError(f"`noise` must be True or False, got {noise!r}.")
    workers = _available_workers() if n_workers is None else check_integer("n_workers", n_workers, 1)

    arguments: dict[str, Any] = {
        "seed": seed,
        "spacing": spacing,
        "n_subjects": n_subjects,
        "lesion_fraction": lesion_fraction,
    }
    # the arguments that came later are named where they aren't the default, so that older cohorts keep their bytes
    arguments |= {"anatomy": anatomy} if anatomy != "warped" else {}
    arguments |= {} if noise else {"noise": False}
    with _folder_when_done(output_dir) as folder:
        maps = load_anatomy(spacing) if anatomy == "warped" else load_folded_anatomy(spacing)
        with_lesion = set(_ranked(seed, n_subjects, "key")[: round(lesion_fraction * n_subjects)])

        def write(subject: int) -> dict[str, Any]:
            nuisance = draw_nuisance(seed, subject)
            nuisance = nuisance if noise else replace(nuisance, noise=0.0)
            return _write_subject(folder, maps, nuisance, n_subjects, subject in with_lesion, spacing)

        done = _in_order(write, range(n_subjects), workers)
        bar = tqdm(done, "simulating the cohort", n_subjects, disable=not progress, unit="subject")
        columns = COLUMNS if anatomy == "warped" else COLUMNS | FOLDED_COLUMNS
        _write_tables(folder, list(bar), seed, columns)
        _write_descriptions(folder, anatomy, columns, arguments)
    return Path(output_dir)


def _available_workers() -> int:
    """Return the number of processors that this process may use, at most 8."""
    affinity = getattr(os, "sched_getaffinity", None)
    available = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(available, _MAX_WORKERS)


def _in_order(
    work: Callable[[int], dict[str, Any]], subjects: Iterable[int], n_workers: int
) -> Iterator[dict[str, Any]]:
    """Yield the result of ``work`` for each subject, in order.

    Threads are used instead of processes: numpy, scipy.ndimage and zlib release the interpreter lock, and the maps are
    shared in memory. Nothing is pickled or imported again, so this works in a notebook and without a main guard.
    """
    if n_workers == 1:
        yield from map(work, subjects)
        return
    pool = ThreadPoolExecutor(n_workers, thread_name_prefix="simulate")
    try:
        yield from pool.map(work, subjects)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _folder_when_done(output_dir: str | os.PathLike[str]) -> Iterator[Path]:
    """Provide a temporary folder next to ``output_dir``, and rename it to ``output_dir`` on success.

    Each run has its own temporary folder, so that the remains of a killed run don't interfere.
    """
    target = Path(output_dir).resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"`output_dir` must be a new or an empty folder, got {str(output_dir)!r}, which holds files.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-building-", dir=target.parent) as holder:
        # one level down, since the folder of tempfile is private and this one gets the usual permissions
        folder = Path(holder) / target.name
        folder.mkdir()
        yield folder
        if target.exists():
            target.rmdir()
        folder.rename(target)


def _ranked(seed: int, n_subjects: int, name: str) -> list[int]:
    """Return the subjects in random order, sorted by a random key of each subject."""
    keys = [stream(seed, subject, name).random() for subject in range(n_subjects)]
    return sorted(range(n_subjects), key=keys.__getitem__)


def _write_subject(
    folder: Path, maps: Anatomy | FoldedAnatomy, nuisance: Nuisance, n_subjects: int, lesion: bool, spacing: float
) -> dict[str, Any]:
    """Simulate one subject, write its files, and return its row of the participants table."""
    subject = nuisance.subject
    factors, covariates = draw_subject(nuisance.seed, subject, lesion=lesion)
    scan, more = _simulated(maps, factors, nuisance, spacing)
    name = f"sub-{subject + 1:0{max(3, len(str(n_subjects)))}d}"
    _, affine = cohort_grid(spacing)
    _write_nifti(folder / name / "anat" / f"{name}_T1w.nii.gz", scan.volume, affine)
    if scan.healthy is not None and scan.lesion_mask is not None:
        healthy = folder / "derivatives" / "healthy" / name / "anat" / f"{name}_desc-healthy_T1w.nii.gz"
        _write_nifti(healthy, scan.healthy, affine)
        mask = folder / "derivatives" / "lesions" / name / "anat" / f"{name}_label-lesion_mask.nii.gz"
        _write_nifti(mask, scan.lesion_mask, affine)
    row: dict[str, Any] = {"participant_id": name, "group": "lesion" if lesion else "control", **asdict(covariates)}
    numbers = {f"factor_{knob}": value for knob, value in asdict(factors).items()} | scan.truth
    numbers |= {column: value for column, value in more.items() if not isinstance(value, str)}
    row |= {column: value for column, value in more.items() if isinstance(value, str)}
    row["control"] = round(covariates.control, 6)
    # + 0.0 turns -0.0 into 0.0
    return row | {column: round(value, 6) + 0.0 for column, value in numbers.items()}


def _simulated(
    maps: Anatomy | FoldedAnatomy, factors: Factors, nuisance: Nuisance, spacing: float
) -> tuple[SimulatedSubject, dict[str, float | str]]:
    """Return the scan of one subject, and the columns that describe its morphology if it is a folded brain."""
    if isinstance(maps, Anatomy):
        return simulate_subject(maps, factors, nuisance, spacing=spacing), {}
    morphology = draw_morphology(nuisance.seed, nuisance.subject)
    scan = simulate_folded_subject(maps, factors, morphology, nuisance, spacing=spacing)
    return scan, morphology_columns(morphology)


def _write_nifti(path: Path, data: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> None:
    """Write a volume whose bytes depend only on the arguments."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    # scanner coordinates: origin at the anterior commissure, not scaled to the template
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    path.parent.mkdir(parents=True)
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=4, fileobj=buffer, mtime=0) as packed:
        packed.write(image.to_bytes())
    path.write_bytes(buffer.getvalue())


def _write_tables(folder: Path, rows: list[dict[str, Any]], seed: int, columns: Iterable[str]) -> None:
    """Write participants.tsv and the MONAI datalist."""
    order = _ranked(seed, len(rows), "split")
    n_validation, n_test = round(_VALIDATION_SHARE * len(rows)), round(_TEST_SHARE * len(rows))
    n_training = len(rows) - n_validation - n_test
    sections = {
        "training": sorted(order[:n_training]),
        "validation": sorted(order[n_training : n_training + n_validation]),
        "test": sorted(order[n_training + n_validation :]),
    }
    for section, members in sections.items():
        for member in members:
            rows[member]["split"] = section

    with open(folder / "participants.tsv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["participant_id", *columns], delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

    def record(row: dict[str, Any]) -> dict[str, Any]:
        name = row["participant_id"]
        covariates = {column: value for column, value in row.items() if column not in ("participant_id", "split")}
        return {"image": f"{name}/anat/{name}_T1w.nii.gz", "subject": name, **covariates}

    datalist = {section: [record(rows[member]) for member in members] for section, members in sections.items()}
    _write_json(folder / "dataset.json", datalist)


def _write_descriptions(
    folder: Path, anatomy: str, columns: dict[str, dict[str, Any]], arguments: dict[str, Any]
) -> None:
    """Write the files that describe the folder to readers and to BIDS tools."""
    # looked up, not imported: the package is above this module, and imports flow downwards
    version = sys.modules["monai_betavae"].__version__
    _write_json(folder / "participants.json", columns)
    based_on = "the MNI152 2009a template" + (" and fsaverage5" if anatomy == "folded" else "")
    source = {
        "Name": "monai_betavae.data.simulate_cohort",
        "Version": version,
        "Description": f"Simulated from {based_on} with " + json.dumps(arguments),
    }
    for path, name, kind in (
        (folder, "Simulated brains with known truth", "raw"),
        (
            folder / "derivatives" / "healthy",
            "Simulated brains: subjects with a lesion, before the lesion",
            "derivative",
        ),
        (folder / "derivatives" / "lesions", "Simulated brains: lesion masks", "derivative"),
    ):
        # without lesions there are no derivatives
        if path.is_dir():
            description = {"Name": name, "BIDSVersion": "1.10.0", "DatasetType": kind, "GeneratedBy": [source]}
            _write_json(path / "dataset_description.json", description | {"License": "see NOTICE"})
    lines = [f"- {name}: {value}" for name, value in arguments.items()]
    readme, notice = (README, NOTICE) if anatomy == "warped" else (FOLDED_README, NOTICE + FOLDED_NOTICE)
    text = readme.format(version=version, arguments="\n".join(lines))
    (folder / "README").write_text(text, encoding="utf-8")
    (folder / "NOTICE").write_text(notice, encoding="utf-8")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
