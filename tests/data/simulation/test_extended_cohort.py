"""Cohorts with sessions, scanners that differ and patients; `test_cohort` has those without."""

import hashlib
import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from monai_betavae.data import discover, split_subjects
from monai_betavae.data.simulation import cohort as simulation
from monai_betavae.data.simulation.cohort import simulate_cohort
from monai_betavae.data.simulation.cohort_texts import (
    COLUMNS,
    DISEASE_COLUMNS,
    FOLDED_COLUMNS,
    SESSION_COLUMNS,
    SITE_COLUMNS,
)
from monai_betavae.data.simulation.subject_factors import draw_subject, site_names

SPACING = 6.0
N_SUBJECTS = 8
ALL = {"n_sessions": 2, "site_effects": "strong", "disease_fraction": 0.34}


@pytest.fixture(scope="module")
def anatomy(warped_anatomy):
    return warped_anatomy


@pytest.fixture(scope="module")
def make(tmp_path_factory, anatomy, folded_anatomy):
    def cohort(name, n_subjects=N_SUBJECTS, **arguments):
        arguments = {"seed": 5, "spacing": SPACING, "lesion_fraction": 0.25, "progress": False} | arguments
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(simulation, "load_anatomy", lambda spacing: anatomy)
            patch.setattr(simulation, "load_folded_anatomy", lambda spacing: folded_anatomy)
            return simulate_cohort(tmp_path_factory.mktemp("made") / name, n_subjects, **arguments)

    return cohort


@pytest.fixture(scope="module")
def plain(make):
    return make("plain")


@pytest.fixture(scope="module")
def extended(make):
    return make("extended", **ALL)


def table(folder, name="participants.tsv", index="participant_id"):
    return pd.read_csv(folder / name, sep="\t", index_col=index)


def read(path):
    return np.asanyarray(nib.load(path).dataobj)


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# What simulate_cohort(folder, 2, 5, spacing=8, lesion_fraction=0.5) and the same with anatomy="folded" at 6 mm gave
# before there were sessions, scanners and patients: sha256 of the voxels, and of participants.tsv
KEPT = {
    "warped": {
        "derivatives/healthy/sub-001/anat/sub-001_desc-healthy_T1w.nii.gz": "f1cea79ac4f44022",
        "derivatives/lesions/sub-001/anat/sub-001_label-lesion_mask.nii.gz": "b00b5c11a20fefce",
        "sub-001/anat/sub-001_T1w.nii.gz": "536bd802f5233571",
        "sub-002/anat/sub-002_T1w.nii.gz": "d377d0c3238b2b45",
        "participants.tsv": "0dcfdaf3fa396068",
    },
    "folded": {
        "derivatives/healthy/sub-001/anat/sub-001_desc-healthy_T1w.nii.gz": "56c7255f51001209",
        "derivatives/lesions/sub-001/anat/sub-001_label-lesion_mask.nii.gz": "9325eb42c75471b5",
        "sub-001/anat/sub-001_T1w.nii.gz": "c0e65dd9a6bdc714",
        "sub-002/anat/sub-002_T1w.nii.gz": "a589206190b229bb",
        "participants.tsv": "cbb84b7b62103f21",
    },
}


@pytest.mark.parametrize("kind", KEPT)
def test_a_cohort_without_additions_is_what_it_was(make, tmp_path, kind):
    if kind == "folded":
        folder = make("kept", 2, anatomy="folded", lesion_fraction=0.5)
    else:
        folder = simulate_cohort(tmp_path / "kept", 2, 5, spacing=8, lesion_fraction=0.5, progress=False)
    found = {
        path.relative_to(folder).as_posix(): hashlib.sha256(read(path).tobytes()).hexdigest()[:16]
        for path in sorted(folder.rglob("*.nii.gz"))
    }
    found |= {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16] for name in ("participants.tsv",)}
    assert found == KEPT[kind]


def test_layout_is_bids_with_sessions(extended):
    names = [f"sub-{number:03d}" for number in range(1, N_SUBJECTS + 1)]
    who = table(extended)
    groups = {
        "healthy": ("desc-healthy_T1w", who.index[who["group"] == "lesion"]),
        "lesions": ("label-lesion_mask", who.index[who["group"] == "lesion"]),
        "unaffected": ("desc-unaffected_T1w", who.index[who["diagnosis"] == "patient"]),
        "disease": ("label-disease_mask", who.index[who["diagnosis"] == "patient"]),
    }
    expected = {f"{name}/{name}_sessions.tsv" for name in names}
    expected |= {f"derivatives/{kind}/dataset_description.json" for kind in groups}
    expected |= {"derivatives/disease/severity1_label-disease_probseg.nii.gz"}
    for session in ("ses-1", "ses-2"):
        expected |= {f"{name}/{session}/anat/{name}_{session}_T1w.nii.gz" for name in names}
        for kind, (ending, members) in groups.items():
            expected |= {
                f"derivatives/{kind}/{name}/{session}/anat/{name}_{session}_{ending}.nii.gz" for name in members
            }
    texts = ("participants.tsv", "participants.json", "sessions.json", "sites.tsv", "sites.json", "README", "NOTICE")
    expected |= {*texts, "dataset_description.json", "dataset.json"}
    assert set(digests(extended)) == expected
    assert (who["group"] == "lesion").sum() == 2
    assert (who["diagnosis"] == "patient").sum() == 3


def test_columns_are_described(extended):
    who = table(extended)
    described = json.loads((extended / "participants.json").read_text())
    assert list(described) == list(who.columns) == [*COLUMNS, *DISEASE_COLUMNS]
    assert set(who["site"]) <= set(described["site"]["Levels"])
    sites = table(extended, "sites.tsv", "site")
    assert list(sites.index) == ["site-A", "site-B", "site-C"]
    assert list(json.loads((extended / "sites.json").read_text())) == list(sites.columns) == list(SITE_COLUMNS)
    sessions = table(extended, "sub-001/sub-001_sessions.tsv", "session_id")
    assert list(json.loads((extended / "sessions.json").read_text())) == list(sessions.columns)
    assert list(sessions.columns) == list(SESSION_COLUMNS)
    readme = (extended / "README").read_text()
    for text in ("- n_sessions: 2\n", "- site_effects: strong\n", "- disease_fraction: 0.34\n", "ses-1", "sites.tsv"):
        assert text in readme


def test_same_bytes_whatever_the_number_of_workers(extended, make):
    assert digests(make("again", n_workers=3, **ALL)) == digests(extended)


def test_discovery_reads_subjects_and_sessions_and_splits_by_subject(extended):
    records = discover(extended)
    assert len(records) == 2 * N_SUBJECTS
    assert {record["session"] for record in records} == {"ses-1", "ses-2"}
    first, second = (next(r for r in records if r["session"] == session) for session in ("ses-1", "ses-2"))
    assert first["scan_gain"] != second["scan_gain"]
    assert first["ventricle_ml"] == second["ventricle_ml"]
    parts = split_subjects(records, (0.5, 0.25, 0.25), seed=1)
    subjects = [{record["subject"] for record in part} for part in parts]
    assert sum(map(len, subjects)) == len(set.union(*subjects)) == N_SUBJECTS
    listed = discover(extended / "dataset.json")
    assert {(r["subject"], r["session"], r["split"]) for r in listed} == {
        (r["subject"], r["session"], r["split"]) for r in records
    }
    by_image = {record["image"]: record for record in listed}
    assert all(by_image[record["image"]]["scan_gain"] == record["scan_gain"] for record in records)


def test_truth_is_that_of_the_anatomy(plain, extended):
    before, after = table(plain), table(extended)
    controls = after.index[after["diagnosis"] == "control"]
    columns = [column for column in COLUMNS if column != "lesion_ml"]
    pd.testing.assert_frame_equal(before.loc[controls, columns], after.loc[controls, columns])
    factors = [column for column in columns if column.startswith("factor_")] + ["age", "sex", "site", "split", "group"]
    pd.testing.assert_frame_equal(before[factors], after[factors])
    assert (after.loc[controls, ["severity", "disease_csf_ml"]] == 0).all(axis=None)
    patients = after.index[after["diagnosis"] == "patient"]
    gained = after.loc[patients, "csf_ml"] - before.loc[patients, "csf_ml"]
    np.testing.assert_allclose(after.loc[patients, "disease_csf_ml"], gained, atol=2e-6)
    assert (after.loc[patients, "ventricle_ml"] > before.loc[patients, "ventricle_ml"]).all()
    assert after.loc[patients, "severity"].between(0.2, 1).all()


def test_the_first_session_is_the_scan_without_sessions(plain, make):
    repeated = make("repeated", 4, n_sessions=3, lesion_fraction=0)
    for name in ("sub-001", "sub-002"):
        once = plain / "derivatives/healthy" / name / "anat" / f"{name}_desc-healthy_T1w.nii.gz"
        once = once if once.exists() else plain / name / "anat" / f"{name}_T1w.nii.gz"
        sessions = [repeated / name / f"ses-{i}" / "anat" / f"{name}_ses-{i}_T1w.nii.gz" for i in (1, 2, 3)]
        assert sessions[0].read_bytes() == once.read_bytes()
        images = [read(path).astype(int) for path in sessions]
        for one, two in ((0, 1), (0, 2), (1, 2)):
            assert np.abs(images[one] - images[two]).mean() > 5
    # strong site effects are the only reason for the table of sites
    assert not (repeated / "sites.tsv").exists()


def roughness(image):
    """Return the share of an image that is finer than a voxel or so, inside the brain."""
    image = image.astype(float)
    inside = ndimage.binary_erosion(image > 150, iterations=3)
    return np.abs(image - ndimage.gaussian_filter(image, 1.0))[inside].mean() / image[inside].mean()


def test_sites_differ_as_their_table_says(make):
    # without noise, which would be the finest part of an image
    arguments = {"noise": False, "lesion_fraction": 0, "seed": 3}
    strong, contrast = (make(kind, 9, site_effects=kind, **arguments) for kind in ("strong", "contrast"))
    sites = table(strong, "sites.tsv", "site")
    width = (sites["in_plane_mm"] ** 2 * sites["slice_mm"]) ** (1 / 3)
    rougher = {}
    for name, row in table(strong).iterrows():
        images = [read(folder / name / "anat" / f"{name}_T1w.nii.gz") for folder in (strong, contrast)]
        rougher.setdefault(row["site"], []).append(roughness(images[0]) / roughness(images[1]))
        # brain extraction comes after the scan, so the edge of the brain moves by the distortion only
        assert (images[0] > 0).sum() == pytest.approx((images[1] > 0).sum(), rel=0.06)
    smoothest, sharpest = width.idxmax(), width.idxmin()
    assert {smoothest, sharpest} <= set(rougher)
    assert max(rougher[smoothest]) < min(rougher[sharpest])
    assert max(rougher[smoothest]) < 0.95


@pytest.mark.parametrize("n_sites", [1, 2, 7])
def test_there_are_as_many_sites_as_asked(n_sites):
    sites, contrasts = [], []
    for subject in range(400):
        factors, covariates = draw_subject(2, subject, lesion=False, n_sites=n_sites)
        usual, others = draw_subject(2, subject, lesion=False)
        assert (factors.ventricles, factors.atrophy, covariates.age) == (usual.ventricles, usual.atrophy, others.age)
        assert covariates.control == others.control
        sites.append(covariates.site)
        contrasts.append(factors.contrast)
    counts = pd.Series(sites).value_counts()
    assert sorted(counts.index) == site_names(n_sites)
    assert counts.min() > 0.6 * 400 / n_sites
    means = pd.Series(contrasts).groupby(sites).mean()
    assert means.iloc[-1] - means.iloc[0] == pytest.approx(0.06 if n_sites > 1 else 0, abs=0.02)


@pytest.mark.parametrize("correlation", [0.0, 0.6, 1.0])
def test_sites_differ_in_age_as_much_as_asked(correlation):
    drawn = [draw_subject(2, i, lesion=False, n_sites=4, site_age_correlation=correlation)[1] for i in range(1000)]
    ages, places = [who.age for who in drawn], [site_names(4).index(who.site) for who in drawn]
    # four sites hold less than the score: its correlation is 0.93 at most
    assert np.corrcoef(ages, places)[0, 1] == pytest.approx(0.93 * correlation, abs=0.08)
    assert pd.Series(places).value_counts().min() > 180


def test_who_is_a_patient_depends_on_nothing_else():
    patients = set(simulation._ranked(1, 1000, "diagnosis")[:300])
    rows = []
    for subject in range(1000):
        factors, covariates = draw_subject(1, subject, lesion=False)
        site = site_names(3).index(covariates.site)
        rows.append((subject in patients, covariates.age, covariates.sex == "M", site, factors.ventricles))
    correlation = np.corrcoef(np.array(rows, float).T)[0, 1:]
    assert np.abs(correlation).max() < 4 / np.sqrt(1000)
    assert patients != set(simulation._ranked(1, 1000, "key")[:300])


def test_a_folded_cohort_has_all_additions(make):
    folder = make("folded", 4, anatomy="folded", n_sites=2, site_age_correlation=0.5, **ALL | {"disease_fraction": 0.5})
    who = table(folder)
    assert list(who.columns) == [*COLUMNS, *FOLDED_COLUMNS, *DISEASE_COLUMNS]
    assert len(discover(folder)) == 8
    assert (who["disease_csf_ml"] > 0).sum() == 2
    assert set(json.loads((folder / "participants.json").read_text())["site"]["Levels"]) == {"site-A", "site-B"}


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("n_sessions", 0, "an integer >= 1"),
        ("n_sites", 27, "an integer from 1 to 26"),
        ("site_effects", "weak", "one of 'contrast', 'strong'"),
        ("site_age_correlation", 1.1, "a finite number"),
        ("disease_fraction", -0.1, "a finite number"),
        ("disease_fraction", 0.1, "0 or give at least one patient among 2 subjects"),
    ],
)
def test_bad_arguments_are_named(tmp_path, name, value, accepted):
    with pytest.raises(ValueError, match=rf"^`{name}` must be {accepted}.*, got {value!r}\."):
        simulate_cohort(tmp_path / "never", 2, progress=False, **{name: value})
    assert not any(tmp_path.iterdir())
