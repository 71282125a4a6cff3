"""A cohort of simulated T1-weighted brains with known ground truth as a BIDS folder."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from monai_betavae._checks import check_choice, check_integer, check_real
from monai_betavae.data.simulation.anatomy import Anatomy, cohort_grid, load_anatomy
from monai_betavae.data.simulation.cohort_tables import (
    image_path,
    write_datalist,
    write_descriptions,
    write_json,
    write_participants,
    write_sessions,
    write_sites,
)
from monai_betavae.data.simulation.cohort_texts import SESSION_COLUMNS, participant_columns
from monai_betavae.data.simulation.contrasts import CONTRASTS
from monai_betavae.data.simulation.cortex import FoldedAnatomy
from monai_betavae.data.simulation.disease import draw_severity
from monai_betavae.data.simulation.folded_subject import (
    draw_morphology,
    load_folded_anatomy,
    morphology_columns,
    simulate_folded_subject,
    typical_folded_disease_effect,
)
from monai_betavae.data.simulation.scanners import Scanner, draw_scanner
from monai_betavae.data.simulation.sessions import draw_session, session_columns
from monai_betavae.data.simulation.subject import SimulatedSubject, simulate_subject, typical_disease_effect
from monai_betavae.data.simulation.subject_factors import MOST_SITES, N_SITES, draw_subject, site_names, stream

_VALIDATION_SHARE, _TEST_SHARE = 0.15, 0.15
_MAX_WORKERS = 8
_ANATOMIES = ("warped", "folded")
_SITE_EFFECTS = ("contrast", "strong")

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class _Plan:
    """What all subjects of a cohort have in common, and who has what."""

    seed: int
    n_subjects: int
    spacing: float
    noise: bool
    n_sessions: int
    n_sites: int
    site_age_correlation: float
    scanners: dict[str, Scanner]
    with_lesion: frozenset[int]
    patients: frozenset[int]
    suffixes: tuple[str, ...]


def simulate_cohort(
    output_dir: str | os.PathLike[str],
    n_subjects: int,
    seed: int = 0,
    *,
    spacing: float = 3.0,
    lesion_fraction: float = 0.2,
    anatomy: str = "warped",
    noise: bool = True,
    n_sessions: int = 1,
    n_sites: int = N_SITES,
    site_effects: str = "contrast",
    site_age_correlation: float = 0.0,
    disease_fraction: float = 0.0,
    suffixes: Sequence[str] = ("T1w",),
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

    Four things can be added, each with its own truth; what is without them stays as it is, to the last bit:

    - Sessions, ``sub-001/ses-1/anat/sub-001_ses-1_T1w.nii.gz`` and so on, scan one anatomy again: the head is turned
      (2.5 degrees) and moved (1.5 mm) since the first session, noise, bias field and gain are new, and the signal is
      raised to a power of exp(0.03 z). ``sub-001/sub-001_sessions.tsv`` has these numbers. The first session is the
      scan of a cohort without sessions. The truth in ml is measured once, on the anatomy as it lies in the first.
    - Strong site effects: beside the shift of contrast, the scanner of each site has a point spread (0.5 to 2.5 mm
      within slices, up to 6 mm across them), a factor of the noise (0.6 to 2.5), a bias field that its scans have in
      common (3 to 12 %) and a factor of theirs (0.5 to 2), a response (s (1 + b) / (1 + b s))^c to the signal s, and a
      cubic distortion (0.3 to 1.2 mm). They follow from ``seed`` and the site's name, and stand in ``sites.tsv``. The
      truth is that of the anatomy before them; only the lesion masks are those of the distorted image.
    - A disease: patients have ventricles that are wider at the back (by up to 2.1 times those of the template), smaller
      hippocampi and a thinner lateral temporal cortex, in proportion to ``severity`` (0.2 to 1). Who is a patient
      depends on nothing else. ``participants.tsv`` gets the columns ``diagnosis``, ``severity`` and ``disease_csf_ml``;
      the same image without disease and lesion stands under ``derivatives/unaffected``, and under
      ``derivatives/disease`` the mask of what has changed, and a map of what changes in a typical head at severity 1.

    - Further contrasts, ``sub-001/anat/sub-001_T2w.nii.gz`` or ``..._FLAIR.nii.gz``, on the grid of the T1w and of the
      same tissues: dark white matter and bright CSF in T2w, dark CSF in FLAIR, bright lesions in both. Bias field and
      noise are their own. Only the order of the tissues' intensities is that of real images. What is under
      ``derivatives`` is T1w.

    The expected ventricles and atrophy at any age, and the same brain at another age:
    `monai_betavae.data.simulation.typical_factors` and `factors_at_age`.

    The same arguments give the same bytes for any number of workers. The images, factors and truth of subject i depend
    only on ``seed``, i and the arguments for sites; the choice of subjects with a lesion and of patients, and the
    sections also depend on ``n_subjects``.

    Args:
        output_dir: the folder to make; it may exist if it is empty. It appears only when everything is written.
        n_subjects: number of subjects.
        seed: integer that determines all random draws.
        spacing: voxel size in mm, from 1 to 12. The field of view is 192 x 240 x 192 mm, 64 x 80 x 64 voxels at 3 mm.
        lesion_fraction: share of the subjects with a lesion; exactly ``round(lesion_fraction * n_subjects)`` have one.
        anatomy: "warped" or "folded".
        noise: whether to add Rician noise. Without it everything else is the same, so that the difference between two
            cohorts is the noise. The files say so only if it is left out.
        n_sessions: number of scans of each subject. With more than one, the files have sessions in their names.
        n_sites: number of sites, from 1 to 26. The shift of contrast goes from -0.03 to 0.03 in equal steps.
        site_effects: "contrast" (sites differ in contrast only) or "strong".
        site_age_correlation: how much sites differ in age, from 0 (not at all) to 1 (the oldest are at the last site):
            the correlation of age with the normal score that decides on the site.
        disease_fraction: share of patients; exactly ``round(disease_fraction * n_subjects)``.
        suffixes: the images of each scan: "T1w", which comes first, and any of "T2w" and "FLAIR".
        n_workers: number of threads; by default one per available processor, at most 8.
        progress: whether to show a progress bar.

    Returns:
        ``output_dir`` as a path.

    Raises:
        ValueError: if an argument is out of range, if ``output_dir`` is a file or a folder that is not empty, or if
            ``disease_fraction`` is above 0 but rounds to no patient.

    Source:
        Fonov et al. 2009, NeuroImage 47, S102 (template); BIDS 1.10 (layout); Gudbjartsson and Patz 1995, Magnetic
        Resonance in Medicine 34, 910-914 (Rician noise); Fischl et al. 1999, Human Brain Mapping 8, 272-284
        (fsaverage); Jovicich et al. 2006, NeuroImage 30, 436-443 (gradient nonlinearity); Fortin et al. 2018,
        NeuroImage 167, 104-120 (effects of sites).

    Example:
        >>> import tempfile
        >>> folder = simulate_cohort(Path(tempfile.mkdtemp()) / "brains", 2, spacing=8, progress=False)
        >>> sorted(path.name for path in folder.glob("sub-*/anat/*"))
        ['sub-001_T1w.nii.gz', 'sub-002_T1w.nii.gz']

        Two scans of each of two subjects, one of whom is a patient, by scanners that differ:

        >>> folder = simulate_cohort(
        ...     folder.parent / "more", 2, spacing=8, n_sessions=2, site_effects="strong", disease_fraction=0.5,
        ...     progress=False,
        ... )
        >>> sorted(path.name for path in folder.glob("sub-002/**/*"))[-2:]
        ['sub-002_ses-2_T1w.nii.gz', 'sub-002_sessions.tsv']
    """
    n_subjects = check_integer("n_subjects", n_subjects, 1)
    seed = check_integer("seed", seed, 0)
    spacing = check_real("spacing", spacing, 1, 12)
    lesion_fraction = check_real("lesion_fraction", lesion_fraction, 0, 1)
    anatomy = check_choice("anatomy", anatomy, _ANATOMIES)
    if not isinstance(noise, bool):
        raise ValueError(f"`noise` must be True or False, got {noise!r}.")
    n_sessions = check_integer("n_sessions", n_sessions, 1)
    n_sites = check_integer("n_sites", n_sites, 1, MOST_SITES)
    site_effects = check_choice("site_effects", site_effects, _SITE_EFFECTS)
    site_age_correlation = check_real("site_age_correlation", site_age_correlation, 0, 1)
    disease_fraction = check_real("disease_fraction", disease_fraction, 0, 1)
    if disease_fraction > 0 and not round(disease_fraction * n_subjects):
        raise ValueError(
            f"`disease_fraction` must be 0 or give at least one patient among {n_subjects} subjects, "
            f"got {disease_fraction!r}."
        )
    suffixes = _checked_suffixes(suffixes)
    workers = _available_workers() if n_workers is None else check_integer("n_workers", n_workers, 1)

    arguments: dict[str, Any] = {
        "seed": seed,
        "spacing": spacing,
        "n_subjects": n_subjects,
        "lesion_fraction": lesion_fraction,
    }
    # the arguments that came later are named where they aren't the default, so that older cohorts keep their bytes
    later = {
        "anatomy": (anatomy, "warped"),
        "noise": (noise, True),
        "n_sessions": (n_sessions, 1),
        "n_sites": (n_sites, N_SITES),
        "site_effects": (site_effects, "contrast"),
        "site_age_correlation": (site_age_correlation, 0.0),
        "disease_fraction": (disease_fraction, 0.0),
        "suffixes": (list(suffixes), ["T1w"]),
    }
    arguments |= {name: value for name, (value, default) in later.items() if value != default}
    folded, strong = anatomy == "folded", site_effects == "strong"
    with _folder_when_done(output_dir) as folder:
        maps = load_folded_anatomy(spacing) if folded else load_anatomy(spacing)
        sites = site_names(n_sites)
        plan = _Plan(
            seed=seed,
            n_subjects=n_subjects,
            spacing=spacing,
            noise=noise,
            n_sessions=n_sessions,
            n_sites=n_sites,
            site_age_correlation=site_age_correlation,
            scanners={site: draw_scanner(seed, site) for site in sites} if strong else {},
            with_lesion=frozenset(_ranked(seed, n_subjects, "key")[: round(lesion_fraction * n_subjects)]),
            patients=frozenset(_ranked(seed, n_subjects, "diagnosis")[: round(disease_fraction * n_subjects)]),
            suffixes=suffixes,
        )
        done = _in_order(lambda subject: _write_subject(folder, maps, plan, subject), range(n_subjects), workers)
        bar = tqdm(done, "simulating the cohort", n_subjects, disable=not progress, unit="subject")
        rows, of_sessions = zip(*bar, strict=True)
        sections = _sections(seed, n_subjects)
        for section, members in sections.items():
            for member in members:
                rows[member]["split"] = section
        columns = participant_columns(folded=folded, disease=bool(plan.patients), sites=sites, strong_sites=strong)
        write_participants(folder, rows, columns)
        sessions = {row["participant_id"]: own for row, own in zip(rows, of_sessions, strict=True)}
        if n_sessions > 1:
            for name, own in sessions.items():
                write_sessions(folder, name, own)
            write_json(folder / "sessions.json", SESSION_COLUMNS)
        if strong:
            write_sites(folder, plan.scanners)
        if plan.patients:
            _write_disease_effect(folder, maps, spacing)
        write_datalist(folder, rows, sections, sessions if n_sessions > 1 else {}, suffixes[1:])
        write_descriptions(folder, columns, arguments, folded=folded)
    return Path(output_dir)


def _checked_suffixes(suffixes: Any) -> tuple[str, ...]:
    """Return the suffixes of the images of a scan, or raise ``ValueError``."""
    known = isinstance(suffixes, Sequence) and not isinstance(suffixes, str) and len(suffixes) > 0
    names = tuple(suffixes) if known else ()
    if not names or names[0] != "T1w" or len(set(names)) < len(names) or set(names) - {"T1w", *CONTRASTS}:
        raise ValueError(f"`suffixes` must be T1w, followed by any of {' and '.join(CONTRASTS)}, got {suffixes!r}.")
    return names


def _available_workers() -> int:
    """Return the number of processors that this process may use, at most 8."""
    affinity = getattr(os, "sched_getaffinity", None)
    available = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(available, _MAX_WORKERS)


def _in_order(work: Callable[[int], ResultT], subjects: Iterable[int], n_workers: int) -> Iterator[ResultT]:
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


def _sections(seed: int, n_subjects: int) -> dict[str, list[int]]:
    """Return the subjects of each section of the datalist."""
    order = _ranked(seed, n_subjects, "split")
    n_validation, n_test = round(_VALIDATION_SHARE * n_subjects), round(_TEST_SHARE * n_subjects)
    n_training = n_subjects - n_validation - n_test
    return {
        "training": sorted(order[:n_training]),
        "validation": sorted(order[n_training : n_training + n_validation]),
        "test": sorted(order[n_training + n_validation :]),
    }


def _write_subject(
    folder: Path, maps: Anatomy | FoldedAnatomy, plan: _Plan, subject: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Simulate one subject, write its files, and return its row of the participants table and those of its sessions."""
    lesion, patient = subject in plan.with_lesion, subject in plan.patients
    factors, covariates = draw_subject(
        plan.seed,
        subject,
        lesion=lesion,
        n_sites=plan.n_sites,
        site_age_correlation=plan.site_age_correlation,
    )
    severity = draw_severity(plan.seed, subject) if patient else 0.0
    name = f"sub-{subject + 1:0{max(3, len(str(plan.n_subjects)))}d}"
    _, affine = cohort_grid(plan.spacing)
    morphology = None if isinstance(maps, Anatomy) else draw_morphology(plan.seed, subject)
    truth: dict[str, float] = {}
    sessions = []
    for number in range(plan.n_sessions):
        nuisance = draw_session(plan.seed, subject, number)
        nuisance = nuisance if plan.noise else replace(nuisance, noise=0.0)
        shared: dict[str, Any] = {
            "spacing": plan.spacing,
            "severity": severity,
            "scanner": plan.scanners.get(covariates.site),
            # of the anatomy, which all sessions have in common
            "with_truth": number == 0,
            "kinds": plan.suffixes[1:],
        }
        if isinstance(maps, Anatomy):
            scan = simulate_subject(maps, factors, nuisance, **shared)
        else:
            scan = simulate_folded_subject(maps, factors, morphology, nuisance, **shared)
        truth = truth or scan.truth
        session = f"ses-{number + 1}" if plan.n_sessions > 1 else ""
        _write_scan(folder, scan, name, session, affine)
        described = {column: round(value, 6) + 0.0 for column, value in session_columns(nuisance).items()}
        sessions.append({"session_id": session, **described})

    row: dict[str, Any] = {"participant_id": name, "group": "lesion" if lesion else "control", **asdict(covariates)}
    more = {} if morphology is None else morphology_columns(morphology)
    numbers = {f"factor_{knob}": value for knob, value in asdict(factors).items()} | truth
    numbers |= {column: value for column, value in more.items() if not isinstance(value, str)}
    row |= {column: value for column, value in more.items() if isinstance(value, str)}
    row["control"] = round(covariates.control, 6)
    if plan.patients:
        row["diagnosis"] = "patient" if patient else "control"
        numbers |= {"severity": severity, "disease_csf_ml": truth.get("disease_csf_ml", 0.0)}
    # + 0.0 turns -0.0 into 0.0
    return row | {column: round(value, 6) + 0.0 for column, value in numbers.items()}, sessions


def _write_scan(folder: Path, scan: SimulatedSubject, name: str, session: str, affine: npt.NDArray[np.float64]) -> None:
    """Write an image, and what it would be without lesion or disease."""
    derivatives = folder / "derivatives"
    files: dict[Path, npt.NDArray[Any]] = {folder / image_path(name, session): scan.volume}
    files |= {folder / image_path(name, session, suffix): image for suffix, image in scan.others.items()}
    if scan.healthy is not None and scan.lesion_mask is not None:
        files[derivatives / "healthy" / image_path(name, session, "desc-healthy_T1w")] = scan.healthy
        files[derivatives / "lesions" / image_path(name, session, "label-lesion_mask")] = scan.lesion_mask
    if scan.unaffected is not None and scan.disease_mask is not None:
        files[derivatives / "unaffected" / image_path(name, session, "desc-unaffected_T1w")] = scan.unaffected
        files[derivatives / "disease" / image_path(name, session, "label-disease_mask")] = scan.disease_mask
    for path, data in files.items():
        _write_nifti(path, data, affine)


def _write_disease_effect(folder: Path, maps: Anatomy | FoldedAnatomy, spacing: float) -> None:
    """Write the map of where the disease acts in a typical head."""
    if isinstance(maps, Anatomy):
        effect = typical_disease_effect(maps, spacing=spacing)
    else:
        effect = typical_folded_disease_effect(maps, spacing=spacing)
    path = folder / "derivatives" / "disease" / "severity1_label-disease_probseg.nii.gz"
    _write_nifti(path, effect, cohort_grid(spacing)[1])


def _write_nifti(path: Path, data: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> None:
    """Write a volume whose bytes depend only on the arguments."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    # scanner coordinates: origin at the anterior commissure, not scaled to the template
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=4, fileobj=buffer, mtime=0) as packed:
        packed.write(image.to_bytes())
    path.write_bytes(buffer.getvalue())
