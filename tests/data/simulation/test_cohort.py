import csv
import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from monai_betavae.data.simulation import cohort as simulation
from monai_betavae.data.simulation.anatomy import cohort_grid, load_anatomy
from monai_betavae.data.simulation.cohort import simulate_cohort, simulate_subject
from monai_betavae.data.simulation.cohort_texts import COLUMNS
from monai_betavae.data.simulation.subject_factors import Factors, Nuisance, draw_nuisance, draw_subject

SPACING = 6.0
N_SUBJECTS = 10


@pytest.fixture(scope="module")
def anatomy():
    return load_anatomy(SPACING)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("empty-is-fine")
    return simulate_cohort(
        folder, N_SUBJECTS, seed=5, spacing=SPACING, lesion_fraction=0.3, n_workers=1, progress=False
    )


@pytest.fixture(scope="module")
def table(cohort):
    return pd.read_csv(cohort / "participants.tsv", sep="\t", index_col="participant_id")


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read(path):
    return np.asanyarray(nib.load(path).dataobj)


# one subject


KNOBS = {
    "brain_size": ("intracranial_ml", (0.8, 0.9, 1.0, 1.1, 1.2)),
    "ventricles": ("ventricle_ml", (0.6, 1.0, 1.5, 2.2, 3.0)),
    "atrophy": ("cortical_csf_fraction", (0.0, 0.25, 0.5, 0.75, 1.0)),
    "contrast": ("contrast", (0.14, 0.2, 0.27, 0.34, 0.42)),
    "asymmetry": ("asymmetry_index", (-0.075, -0.03, 0.0, 0.03, 0.075)),
    "lesion": ("lesion_ml", (0.0, 2.0, 5.0, 10.0, 15.0)),
}


@pytest.mark.parametrize("knob", KNOBS)
def test_truth_follows_its_knob_and_only_its_knob(anatomy, knob):
    nuisance = draw_nuisance(1, 2)
    truths = [
        simulate_subject(
            anatomy, replace(Factors(lesion_intensity=0.5), **{knob: value}), nuisance, spacing=SPACING
        ).truth
        for value in KNOBS[knob][1]
    ]
    for other, (measure, values) in KNOBS.items():
        got = np.array([truth[measure] for truth in truths])
        if other == knob:
            assert (np.diff(got) > 0).all()
            assert np.corrcoef(got, values)[0, 1] > 0.97
        elif (knob, other) != ("brain_size", "ventricles"):  # larger brains have larger ventricles
            spread = {"intracranial_ml": 15, "ventricle_ml": 0.5, "lesion_ml": 0.01}.get(measure, 0.012)
            assert np.ptp(got) < spread


def test_truth_has_the_size_that_was_asked_for(anatomy):
    def truth(**knobs):
        return simulate_subject(anatomy, replace(Factors(), **knobs), spacing=SPACING).truth

    template = truth(ventricles=1.0, atrophy=0.0)
    # the template's 1667 ml of tissue and 1886 ml in all, times 0.9³
    assert template["brain_ml"] == pytest.approx(0.729 * 1667, rel=0.005)
    assert template["intracranial_ml"] == pytest.approx(0.729 * 1886.5, rel=0.005)
    assert template["brain_ml"] == pytest.approx(template["gm_ml"] + template["wm_ml"])
    assert truth(brain_size=1.1, ventricles=1.0, atrophy=0.0)["brain_ml"] == pytest.approx(
        1.1 * template["brain_ml"], rel=0.005
    )
    # 3 at 1 mm; at 6 mm much of the ventricles is partial volume at their edge, which does not grow with them
    assert 2.2 < truth(ventricles=3.0)["ventricle_ml"] / template["ventricle_ml"] < 3
    assert truth(asymmetry=0.05)["asymmetry_index"] == pytest.approx(0.05, abs=0.003)
    assert truth(contrast=0.3)["contrast"] == pytest.approx(0.3, abs=0.02)
    assert 0.1 < 1 - truth(atrophy=1.0)["gm_ml"] / template["gm_ml"] < 0.3


def test_a_flip_is_invisible_without_asymmetry(anatomy):
    even = simulate_subject(anatomy, Factors(asymmetry=0.0), spacing=SPACING)
    assert np.abs(even.volume - even.volume[::-1]).max() <= 1
    assert even.truth["asymmetry_index"] == pytest.approx(0, abs=1e-4)
    right, left = (simulate_subject(anatomy, Factors(asymmetry=a), spacing=SPACING) for a in (0.05, -0.05))
    assert np.abs(right.volume - right.volume[::-1]).mean() > 10
    assert np.abs(right.volume - left.volume[::-1]).max() <= 3


def test_shifting_the_head_does_not_make_it_asymmetric(anatomy):
    shifted = simulate_subject(anatomy, Factors(), Nuisance(shift_mm=(3, 0, 0)), spacing=SPACING)
    assert shifted.truth["asymmetry_index"] == pytest.approx(0, abs=2e-3)


def test_ventricles_are_dark_and_background_is_empty(anatomy):
    scan = simulate_subject(anatomy, Factors(ventricles=3.0), draw_nuisance(0, 0), spacing=SPACING)
    _, affine = cohort_grid(SPACING)

    def at(x, y, z):
        return tuple(np.rint(np.linalg.solve(affine, [x, y, z, 1])[:3]).astype(int))

    assert scan.volume[at(16, -34, 18)] < 0.6 * scan.volume[at(26, 10, 22)]
    border = np.ones(scan.volume.shape, bool)
    border[1:-1, 1:-1, 1:-1] = False
    assert (scan.volume[border] == 0).all()
    assert 700 < np.percentile(scan.volume[scan.volume > 0], 95) < 1300


@pytest.mark.parametrize("subject", range(6))
def test_a_lesion_changes_the_mask_and_nothing_else(anatomy, subject):
    factors, _ = draw_subject(11, subject, lesion=True)
    nuisance = draw_nuisance(11, subject)
    scan = simulate_subject(anatomy, factors, nuisance, spacing=SPACING)
    inside = scan.lesion_mask == 1
    assert scan.lesion_mask.dtype == np.uint8
    np.testing.assert_array_equal(scan.volume[~inside], scan.healthy[~inside])
    assert (scan.volume[inside] < scan.healthy[inside]).mean() > 0.95
    assert scan.truth["lesion_ml"] == pytest.approx(inside.sum() * SPACING**3 / 1000)
    plain = simulate_subject(anatomy, replace(factors, lesion=0.0), nuisance, spacing=SPACING)
    assert plain.healthy is None
    assert plain.lesion_mask is None
    np.testing.assert_array_equal(plain.volume, scan.healthy)


def test_lesion_intensity_grades_the_lesion(anatomy):
    nuisance = draw_nuisance(11, 0)
    drops = []
    for intensity in (0.1, 0.4, 0.7, 1.0):
        scan = simulate_subject(anatomy, Factors(lesion=6, lesion_intensity=intensity), nuisance, spacing=SPACING)
        inside = scan.lesion_mask == 1
        drops.append((scan.healthy[inside] - scan.volume[inside]).mean())
    np.testing.assert_allclose(np.array(drops) / drops[-1], [0.1, 0.4, 0.7, 1.0], atol=0.02)


# a cohort


def test_layout_is_bids(cohort, table):
    names = [f"sub-{number:03d}" for number in range(1, N_SUBJECTS + 1)]
    assert list(table.index) == names
    lesioned = list(table.index[table["group"] == "lesion"])
    assert len(lesioned) == 3
    expected = {f"{name}/anat/{name}_T1w.nii.gz" for name in names}
    expected |= {f"derivatives/healthy/{name}/anat/{name}_desc-healthy_T1w.nii.gz" for name in lesioned}
    expected |= {f"derivatives/lesions/{name}/anat/{name}_label-lesion_mask.nii.gz" for name in lesioned}
    expected |= {f"derivatives/{kind}/dataset_description.json" for kind in ("healthy", "lesions")}
    expected |= {
        "participants.tsv",
        "participants.json",
        "dataset_description.json",
        "dataset.json",
        "README",
        "NOTICE",
    }
    assert set(digests(cohort)) == expected


def test_texts_say_what_this_is(cohort):
    readme = (cohort / "README").read_text()
    assert 'Label every score obtained on these data "simulated"' in readme
    for argument in ("seed: 5", "spacing: 6.0", "n_subjects: 10", "lesion_fraction: 0.3"):
        assert f"- {argument}\n" in readme
    assert "Copyright (C) 1993-2009 Louis Collins" in (cohort / "NOTICE").read_text()
    description = json.loads((cohort / "dataset_description.json").read_text())
    assert "imulated" in description["Name"]
    assert description["GeneratedBy"][0]["Name"].endswith("simulate_cohort")
    derivative = json.loads((cohort / "derivatives/healthy/dataset_description.json").read_text())
    assert derivative["DatasetType"] == "derivative"


def test_every_column_is_described(cohort, table):
    described = json.loads((cohort / "participants.json").read_text())
    assert list(described) == list(table.columns) == list(COLUMNS)
    assert all(column["Description"] for column in described.values())
    assert {name for name in described if name.endswith("_ml")} <= {
        name for name, column in described.items() if column.get("Units") == "ml"
    }
    for column in ("sex", "site", "group", "split"):
        assert set(table[column]) <= set(described[column]["Levels"])
    assert table.notna().all(axis=None)


def test_rows_say_what_the_volumes_hold(cohort, table, anatomy):
    voxel_ml = SPACING**3 / 1000
    for number, (name, row) in enumerate(table.iterrows()):
        factors, covariates = draw_subject(5, number, lesion=row["group"] == "lesion")
        for knob, value in asdict(factors).items():
            assert row[f"factor_{knob}"] == pytest.approx(value, abs=1e-6)
        assert row["sex"] == covariates.sex
        assert 800 < row["brain_ml"] < 1500
        assert 5 < row["ventricle_ml"] < 50
        image = read(cohort / name / "anat" / f"{name}_T1w.nii.gz")
        # voxels at least half of which are brain
        assert (image > 150).sum() * voxel_ml == pytest.approx(row["intracranial_ml"], rel=0.2)
        mask = cohort / "derivatives/lesions" / name / "anat" / f"{name}_label-lesion_mask.nii.gz"
        assert mask.exists() == (row["group"] == "lesion")
        assert row["lesion_ml"] == pytest.approx(read(mask).sum() * voxel_ml if mask.exists() else 0, abs=1e-6)
    scan = simulate_subject(anatomy, factors, draw_nuisance(5, number), spacing=SPACING)
    np.testing.assert_array_equal(image, scan.volume)
    for column, value in scan.truth.items():
        assert row[column] == pytest.approx(value, abs=1e-6)


def test_volumes_have_the_grid_of_the_contract(cohort):
    shape, affine = cohort_grid(SPACING)
    dtypes = {"T1w": np.int16, "mask": np.uint8}
    paths = sorted(cohort.rglob("*.nii.gz"))
    assert len(paths) == N_SUBJECTS + 6
    for path in paths:
        image = nib.load(path)
        assert image.shape == shape
        assert image.get_data_dtype() == dtypes[path.name.split("_")[-1].split(".")[0]]
        np.testing.assert_allclose(image.affine, affine)
        for form, code in (image.header.get_qform(coded=True), image.header.get_sform(coded=True)):
            np.testing.assert_allclose(form, affine, atol=1e-5)
            assert code == 1
        assert image.header.get_xyzt_units()[0] == "mm"
        assert image.header.get_slope_inter() in ((1, 0), (None, None))
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")


def test_datalist_names_every_volume_once(cohort, table):
    datalist = json.loads((cohort / "dataset.json").read_text())
    assert {section: len(records) for section, records in datalist.items()} == {
        "training": 6,
        "validation": 2,
        "test": 2,
    }
    records = [record | {"split": section} for section, part in datalist.items() for record in part]
    assert sorted(record["subject"] for record in records) == list(table.index)
    assert len({tuple(record) for record in records}) == 1
    for record in records:
        assert (cohort / record["image"]).is_file()
        assert not Path(record["image"]).is_absolute()
        row = table.loc[record["subject"]]
        for column in table.columns:
            assert record[column] == row[column]


def test_same_seed_same_bytes_whatever_the_number_of_workers(cohort, anatomy, monkeypatch, tmp_path):
    arguments = {"spacing": SPACING, "lesion_fraction": 0.3, "progress": False}
    again = simulate_cohort(tmp_path / "again", N_SUBJECTS, seed=5, n_workers=3, **arguments)
    assert digests(again) == digests(cohort)
    monkeypatch.setattr(simulation, "load_anatomy", lambda spacing: anatomy)
    other = digests(simulate_cohort(tmp_path / "other", 2, seed=6, n_workers=2, **arguments))
    for name, digest in other.items():
        if name.endswith("_T1w.nii.gz") or name.startswith("participants.tsv"):
            assert digests(cohort).get(name) != digest


def test_a_subject_does_not_depend_on_how_many_there_are(cohort, table, anatomy, monkeypatch, tmp_path):
    monkeypatch.setattr(simulation, "load_anatomy", lambda spacing: anatomy)
    fewer = simulate_cohort(tmp_path / "few", 3, 5, spacing=SPACING, lesion_fraction=0, n_workers=1, progress=False)
    assert not (fewer / "derivatives").exists()
    with open(fewer / "participants.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for row in rows:
        name = row["participant_id"]
        assert float(row["brain_ml"]) == table.loc[name, "brain_ml"]
        healthy = cohort / "derivatives/healthy" / name / "anat" / f"{name}_desc-healthy_T1w.nii.gz"
        image = f"{name}/anat/{name}_T1w.nii.gz"
        same = healthy if healthy.exists() else cohort / image
        assert (fewer / image).read_bytes() == same.read_bytes()


@pytest.mark.parametrize("n", [1, 2, 7, 20, 100])
def test_lesions_and_sections_are_drawn_from_everyone(n):
    for name in ("key", "split"):
        ranked = simulation._ranked(0, n, name)
        assert sorted(ranked) == list(range(n))
    assert n < 7 or simulation._ranked(0, n, "key") != simulation._ranked(0, n, "split")


def test_anything_in_the_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match=r"`output_dir` must be a new or an empty folder, got '.*full'"):
        simulate_cohort(tmp_path / "full", 1)
    with pytest.raises(ValueError, match=r"`output_dir` must be a new or an empty folder, got '.*mine.txt'"):
        simulate_cohort(tmp_path / "full" / "mine.txt", 1)
    assert digests(tmp_path) == {"full/mine.txt": hashlib.sha256(b"keep").hexdigest()}


@pytest.mark.parametrize("n_workers", [1, 2])
def test_an_interrupted_run_leaves_nothing_and_blocks_nothing(anatomy, monkeypatch, tmp_path, n_workers):
    monkeypatch.setattr(simulation, "load_anatomy", lambda spacing: anatomy)
    # what a killed run leaves
    (tmp_path / ".brains-building-killed" / "brains").mkdir(parents=True)
    arguments = {"spacing": SPACING, "n_workers": n_workers, "progress": False}
    write = simulation._write_nifti

    def interrupted(path, *others):
        if "sub-003" in path.name:
            raise KeyboardInterrupt
        write(path, *others)

    with monkeypatch.context() as patch:
        patch.setattr(simulation, "_write_nifti", interrupted)
        with pytest.raises(KeyboardInterrupt):
            simulate_cohort(tmp_path / "brains", 4, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == [".brains-building-killed"]
    finished = simulate_cohort(tmp_path / "brains", 4, **arguments)
    assert len(list(finished.glob("sub-*"))) == 4


def test_progress_bar_counts_subjects(anatomy, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(simulation, "load_anatomy", lambda spacing: anatomy)
    simulate_cohort(tmp_path / "shown", 2, spacing=SPACING)
    shown = capsys.readouterr().err
    assert "simulating the cohort" in shown
    assert "2/2" in shown
    simulate_cohort(tmp_path / "silent", 2, spacing=SPACING, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_subjects", 0),
        ("n_subjects", 2.5),
        ("seed", -1),
        ("seed", None),
        ("spacing", 0.5),
        ("spacing", 13),
        ("spacing", float("nan")),
        ("lesion_fraction", -0.1),
        ("lesion_fraction", 1.1),
        ("n_workers", 0),
    ],
)
def test_bad_arguments_are_named(tmp_path, name, value):
    arguments = {"n_subjects": 2, "progress": False} | {name: value}
    with pytest.raises(ValueError, match=rf"^`{name}` must be .*, got {value!r}\.$"):
        simulate_cohort(tmp_path / "never", **arguments)
    assert not any(tmp_path.iterdir())
