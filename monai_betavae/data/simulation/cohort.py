"""Simulated T1-weighted brains with known ground truth: one subject as a pure function, a cohort as a BIDS folder."""

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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from monai_betavae._checks import check_integer, check_real
from monai_betavae.data.simulation import anatomy as anatomies
from monai_betavae.data.simulation import rendering
from monai_betavae.data.simulation.anatomy import Anatomy, cohort_grid, load_anatomy
from monai_betavae.data.simulation.cohort_texts import COLUMNS, NOTICE, README
from monai_betavae.data.simulation.subject_factors import Factors, Nuisance, draw_nuisance, draw_subject, stream

_VALIDATION_SHARE, _TEST_SHARE = 0.15, 0.15
_MAX_WORKERS = 8


@dataclass(frozen=True)
class SimulatedSubject:
    """A simulated scan with its ground truth.

    Attributes:
        volume: T1-weighted image, int16, 0 outside the brain.
        healthy: the same image without the lesion, or ``None`` if there is none.
        lesion_mask: uint8 mask of the lesion, or ``None`` if there is none.
        truth: measurements on the warped tissue maps, by column name; volumes in ml.
    """

    volume: npt.NDArray[np.int16]
    healthy: npt.NDArray[np.int16] | None
    lesion_mask: npt.NDArray[np.uint8] | None
    truth: dict[str, float]


def simulate_subject(
    anatomy: Anatomy,
    factors: Factors,
    nuisance: Nuisance | None = None,
    *,
    spacing: float = 3.0,
) -> SimulatedSubject:
    """Render one subject from its factors and measure the truth, as a pure function of the arguments.

    Truth is measured on the warped tissue fractions f in voxels of volume v: V = v · Σ f. Tissue volumes are those of
    the anatomy before the lesion. The coarser the grid, the more of the ventricles is partial volume at their edge,
    which does not grow with them: for three times the template's ventricles, ``ventricle_ml`` is 2.9 times as large at
    1.5 mm, 2.8 times at 3 mm and 2.3 times at 8 mm.

    Args:
        anatomy: the result of ``load_anatomy(spacing)``.
        factors: the subject's anatomy and contrast.
        nuisance: tilt, deformation, bias field, noise; by default none of them.
        spacing: voxel size in mm, the same as for ``anatomy``.

    Example:
        >>> anatomy = load_anatomy(8.0)
        >>> wide = simulate_subject(anatomy, Factors(ventricles=2.0), spacing=8.0)
        >>> narrow = simulate_subject(anatomy, Factors(ventricles=1.0), spacing=8.0)
        >>> wide.volume.shape
        (24, 30, 24)
        >>> wide.truth["ventricle_ml"] > 1.5 * narrow.truth["ventricle_ml"]
        True
    """
    nuisance = nuisance or Nuisance()
    shape, affine = cohort_grid(spacing)
    voxel_ml = spacing**3 / 1000
    warp = anatomies.warp_grid(anatomy, shape, affine, factors, nuisance)
    tissues = anatomies.sample_tissues(anatomy, warp, factors.atrophy)
    coverage = tissues["gm"] + tissues["wm"] + tissues["csf"]
    signal = rendering.render_signal(tissues, factors.contrast)
    volume = rendering.scan(signal, coverage, warp, shape, nuisance)

    healthy = mask = None
    if factors.lesion > 0:
        weight = rendering.place_lesion(anatomy, warp, tissues["wm"], shape, voxel_ml, factors, nuisance)
        lesioned = rendering.add_lesion(signal, weight, factors.lesion_intensity)
        healthy, volume = volume, rendering.scan(lesioned, coverage, warp, shape, nuisance)
        flat = np.zeros(volume.size, np.uint8)
        flat[warp.voxels] = weight > 0
        mask = flat.reshape(shape)

    def millilitres(fraction: npt.NDArray[Any]) -> float:
        return float(fraction.sum(dtype=np.float64)) * voxel_ml

    volumes = {name: millilitres(tissues[name]) for name in ("gm", "wm", "csf", "ventricle")}
    brain = tissues["gm"] + tissues["wm"]
    # hemispheres are defined in the template, so a shift of the head does not move tissue to the other side
    right = millilitres(brain * np.clip(warp.template[0] / np.float32(spacing) + np.float32(0.5), 0, 1))
    brain_ml = volumes["gm"] + volumes["wm"]
    truth = {
        "intracranial_ml": brain_ml + volumes["csf"],
        "brain_ml": brain_ml,
        **{f"{name}_ml": volume for name, volume in volumes.items()},
        "cortical_csf_fraction": (volumes["csf"] - volumes["ventricle"]) / (brain_ml + volumes["csf"]),
        "contrast": _contrast(signal, tissues),
        "asymmetry_index": 2 * right / brain_ml - 1,
        "lesion_ml": 0.0 if mask is None else millilitres(mask),
    }
    return SimulatedSubject(volume, healthy, mask, truth)


def simulate_cohort(
    output_dir: str | os.PathLike[str],
    n_subjects: int,
    seed: int = 0,
    *,
    spacing: float = 3.0,
    lesion_fraction: float = 0.2,
    n_workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Write a BIDS folder of simulated T1-weighted brains whose anatomy is known.

    Each subject is the MNI152 2009a template (skull-stripped, shipped with nilearn) under a warp x -> template and a
    rendering: I = gain · rice(bias · (WM + (1 - contrast) · GM + 0.3 · CSF + texture), noise). Six factors are drawn
    independently for each subject: brain size, ventricle volume, cortical atrophy, GM/WM contrast, left-right asymmetry
    and, for a share of the subjects, a white-matter lesion. ``age``, ``sex`` and ``site`` follow from or shift them;
    ``control`` is standard normal and changes nothing. Label scores obtained on these data as "simulated".

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
        n_workers: number of threads; by default one per available processor, at most 8.
        progress: whether to show a progress bar.

    Returns:
        ``output_dir`` as a path.

    Raises:
        ValueError: if an argument is out of range, or if ``output_dir`` is a file or a folder that is not empty.

    Source:
        Fonov et al. 2009, NeuroImage 47, S102 (template); BIDS 1.10 (layout); Gudbjartsson and Patz 1995, Magnetic
        Resonance in Medicine 34, 910-914 (Rician noise).

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
    workers = _available_workers() if n_workers is None else check_integer("n_workers", n_workers, 1)

    with _folder_when_done(output_dir) as folder:
        anatomy = load_anatomy(spacing)
        with_lesion = set(_ranked(seed, n_subjects, "key")[: round(lesion_fraction * n_subjects)])

        def write(subject: int) -> dict[str, Any]:
            return _write_subject(folder, anatomy, seed, subject, n_subjects, subject in with_lesion, spacing)

        done = _in_order(write, range(n_subjects), workers)
        bar = tqdm(done, "simulating the cohort", n_subjects, disable=not progress, unit="subject")
        _write_tables(folder, list(bar), seed)
        _write_descriptions(folder, seed=seed, spacing=spacing, n_subjects=n_subjects, lesion_fraction=lesion_fraction)
    return Path(output_dir)


def _contrast(signal: npt.NDArray[Any], tissues: dict[str, npt.NDArray[Any]]) -> float:
    """Return 1 - GM / WM, with tissue intensities from the least-squares fit of the tissue fractions to the signal."""
    fractions = [tissues[name] for name in ("gm", "wm", "csf")]
    # sums rather than a matrix product, since the order in which BLAS adds may depend on the number of threads
    normal = [[(a * b).sum(dtype=np.float64) for b in fractions] for a in fractions]
    gm, wm, _ = np.linalg.solve(normal, [(a * signal).sum(dtype=np.float64) for a in fractions])
    return float(1 - gm / wm)


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
    folder: Path, anatomy: Anatomy, seed: int, subject: int, n_subjects: int, lesion: bool, spacing: float
) -> dict[str, Any]:
    """Simulate one subject, write its files, and return its row of the participants table."""
    factors, covariates = draw_subject(seed, subject, lesion=lesion)
    scan = simulate_subject(anatomy, factors, draw_nuisance(seed, subject), spacing=spacing)
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
    row["control"] = round(covariates.control, 6)
    # + 0.0 turns -0.0 into 0.0
    return row | {column: round(value, 6) + 0.0 for column, value in numbers.items()}


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


def _write_tables(folder: Path, rows: list[dict[str, Any]], seed: int) -> None:
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
        writer = csv.DictWriter(file, ["participant_id", *COLUMNS], delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

    def record(row: dict[str, Any]) -> dict[str, Any]:
        name = row["participant_id"]
        covariates = {column: value for column, value in row.items() if column not in ("participant_id", "split")}
        return {"image": f"{name}/anat/{name}_T1w.nii.gz", "subject": name, **covariates}

    datalist = {section: [record(rows[member]) for member in members] for section, members in sections.items()}
    _write_json(folder / "dataset.json", datalist)


def _write_descriptions(folder: Path, **arguments: Any) -> None:
    """Write the files that describe the folder to readers and to BIDS tools."""
    # looked up, not imported: the package is above this module, and imports flow downwards
    version = sys.modules["monai_betavae"].__version__
    _write_json(folder / "participants.json", COLUMNS)
    source = {
        "Name": "monai_betavae.data.simulate_cohort",
        "Version": version,
        "Description": "Simulated from the MNI152 2009a template with " + json.dumps(arguments),
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
    text = README.format(version=version, arguments="\n".join(lines))
    (folder / "README").write_text(text, encoding="utf-8")
    (folder / "NOTICE").write_text(NOTICE, encoding="utf-8")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
