"""Public cohorts: small files of the same form where the real loaders look, so that nothing is fetched."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from awkward_volumes import AFFINE, SHAPE, brain, save

from monai_betavae.data import brain_transforms, check_volumes, decathlon, discover, ixi, oasis_vbm


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a test must not fetch anything")

    monkeypatch.setattr("socket.socket.connect", refuse)


# ---- OASIS ----


def write_oasis(folder, n_subjects=3):
    """The files of OASIS-1 as nilearn unpacks them; its first subjects are 1, 2 and 3."""
    root = folder / "oasis1"
    for number in range(1, n_subjects + 1):
        (root / f"OAS1_{number:04d}_MR1").mkdir(parents=True)
        for tissue in (1, 2):
            name = f"mwrc{tissue}OAS1_{number:04d}_MR1_mpr_anon_fslswapdim_bet.nii.gz"
            save(root / f"OAS1_{number:04d}_MR1" / name, brain() / 1000)
    rows = ["ID,M/F,Hand,Age,Educ,SES,MMSE,CDR,eTIV,nWBV,ASF,Delay"]
    rows += [f"OAS1_{n:04d}_MR1,{'FM'[n % 2]},R,{70 + n},,,29,0,1344,0.743,1.306,N/A" for n in range(1, 9)]
    (root / "oasis_cross-sectional.csv").write_text("\n".join(rows) + "\n")
    (root / "data_usage_agreement.txt").write_text("terms\n")


@pytest.mark.filterwarnings("ignore")  # nilearn's own about its data folder and license
def test_oasis_through_nilearn(tmp_path):
    write_oasis(tmp_path)
    records = oasis_vbm(3, tmp_path)
    assert [record["subject"] for record in records] == ["OAS1_0001", "OAS1_0002", "OAS1_0003"]
    assert [(record["age"], record["sex"], record["educ"]) for record in records] == [
        (71, "M", None),
        (72, "F", None),
        (73, "M", None),
    ]
    assert Path(records[0]["image"]).name.startswith("mwrc1")
    assert Path(oasis_vbm(1, tmp_path, "white_matter")[0]["image"]).name.startswith("mwrc2")
    assert brain_transforms(SHAPE)(records[0])["image"].shape == (1, *SHAPE)
    json.dumps(records)  # plain values, for split.json
    with pytest.raises(ValueError, match="`tissue` must be one of"):
        oasis_vbm(1, tmp_path, "bone")
    with pytest.raises(ValueError, match="`n_subjects` must be"):
        oasis_vbm(0, tmp_path)


# ---- IXI ----


def write_xls(path, rows):
    """Write a sheet in BIFF 2, the simplest of the formats that are called .xls."""
    content = struct.pack("<HHHH", 0x0009, 4, 7, 0x10)
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            head = struct.pack("<HH3s", i, j, b"\0\0\0")
            if isinstance(value, str):
                cell, code = head + struct.pack("<B", len(value)) + value.encode("ascii"), 0x0004
            elif value is not None:
                cell, code = head + struct.pack("<d", value), 0x0003
            else:
                continue
            content += struct.pack("<HH", code, len(cell)) + cell
    path.write_bytes(content + struct.pack("<HH", 0x000A, 0))


def write_ixi(root):
    folder = root / "IXI-T1"
    folder.mkdir(parents=True)
    for name in ("IXI002-Guys-0828", "IXI012-HH-1211", "IXI035-IOP-0873", "IXI036-Guys-0736"):
        save(folder / f"{name}-T1.nii.gz", brain())
    write_xls(
        root / "IXI.xls",
        [
            ["IXI_ID", "SEX_ID (1=m, 2=f)", "HEIGHT", "DOB", "AGE"],
            [2, 2, 164, "1970-01-02", 35.5],
            [12, 1, 175, "1966-08-20", 38.75],
            [12, 1, 175, "1966-08-20", 38.75],  # the same twice
            [35, 1, 180, None, None],
            [36, 2, 170, "1950-01-01", 50.25],
            [36, 2, 170, "1950-01-01", 55.5],  # which age?
            [500, 1, 170, None, 20.0],
        ],
    )


def test_ixi_with_its_table(tmp_path):
    write_ixi(tmp_path)
    with pytest.warns(UserWarning, match=r"IXI.xls: the rows of 1 subjects disagree \(IXI036"):
        records = ixi(tmp_path)
    assert [(r["subject"], r["site"], r["sex"], r["age"], r["height"]) for r in records] == [
        ("IXI002", "Guys", "F", 35.5, 164),
        ("IXI012", "HH", "M", 38.75, 175),
        ("IXI035", "IOP", "M", None, 180),
        ("IXI036", "Guys", "F", None, 170),
    ]
    assert len({tuple(record) for record in records}) == 1
    assert set(check_volumes(records, progress=False)["problem"]) == {""}
    json.dumps(records)


def test_ixi_without_a_table_or_a_subject_in_it(tmp_path):
    write_ixi(tmp_path)
    write_xls(tmp_path / "IXI.xls", [["IXI_ID", "AGE"], [2, 35.5]])
    assert [record["age"] for record in ixi(tmp_path)] == [35.5, None, None, None]
    (tmp_path / "IXI.xls").unlink()
    assert set(ixi(tmp_path)[0]) == {"image", "subject", "site"}


def test_ixi_that_cannot_be_used(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"must hold IXI\*-T2.nii.gz, got none; `download=True` fetches them"):
        ixi(tmp_path, "T2")
    with pytest.raises(ValueError, match="`modality` must be one of"):
        ixi(tmp_path, "FLAIR")
    write_ixi(tmp_path)
    write_xls(tmp_path / "IXI.xls", [["ID", "AGE"], [2, 35.5]])
    with pytest.raises(ValueError, match=r"IXI.xls must have a column IXI_ID, got ID, AGE"):
        ixi(tmp_path)
    (tmp_path / "IXI.xls").write_text("<html>moved</html>")
    with pytest.raises(ValueError, match=r"IXI.xls can't be read as IXI's table of subjects"):
        ixi(tmp_path)
    monkeypatch.setattr("monai_betavae.data.discovery.cohort_loaders.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"needs xlrd to be read: pip install 'monai-betavae\[cohorts\]'"):
        ixi(tmp_path)


def test_ixi_is_fetched_with_monai_when_asked(tmp_path, monkeypatch):
    asked = []

    def extract(url, archive, target, **kwargs):
        asked.append((url, Path(archive), Path(target), kwargs))
        write_ixi(tmp_path / "ixi")

    monkeypatch.setattr("monai.apps.download_url", lambda url, path: asked.append((url, Path(path))))
    monkeypatch.setattr("monai.apps.download_and_extract", extract)
    with pytest.warns(UserWarning, match="disagree"):
        assert len(ixi(tmp_path / "ixi", download=True)) == 4
    base, root = "http://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI/", tmp_path / "ixi"
    assert asked[0] == (base + "IXI.xls", root / "IXI.xls")
    assert asked[1][:3] == (base + "IXI-T1.tar", root / "IXI-T1.tar", root / "IXI-T1")
    assert asked[1][3] == {"hash_val": "34901a0593b41dd19c1a1f746eac2d58", "hash_type": "md5", "has_base": False}
    with pytest.warns(UserWarning, match="disagree"):
        ixi(tmp_path / "ixi", download=True)
    assert len(asked) == 2  # what is there isn't fetched again


# ---- Decathlon ----


def write_decathlon(root, n_channels=4):
    folder = root / "Task01_BrainTumour"
    for part in ("imagesTr", "imagesTs", "labelsTr"):
        (folder / part).mkdir(parents=True)
    values = np.stack([brain() * (channel + 1) for channel in range(n_channels)], -1)
    for name in ("BRATS_001", "BRATS_002"):
        save(folder / "imagesTr" / f"{name}.nii.gz", values)
        save(folder / "labelsTr" / f"{name}.nii.gz", (brain() > 800).astype(np.uint8))
    save(folder / "imagesTs" / "BRATS_485.nii.gz", values)
    listed = [
        {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("BRATS_001", "BRATS_002")
    ]
    description = {
        "name": "BRATS",
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "numTraining": 2,
        "training": listed,
        "test": ["./imagesTs/BRATS_485.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def test_decathlon_takes_one_channel_of_each_file(tmp_path):
    write_decathlon(tmp_path)
    records = decathlon(tmp_path, "Task01_BrainTumour", channel=1)
    assert [(r["subject"], r["split"], r["channel"]) for r in records] == [
        ("BRATS_001", "training", 1),
        ("BRATS_002", "training", 1),
        ("BRATS_485", "test", 1),
    ]
    assert Path(records[0]["label"]).is_file()
    table = check_volumes(records, progress=False)
    assert set(table["problem"]) == {""}
    assert set(table["maximum"].round()) == {round(2 * float(brain().max()))}
    transform = brain_transforms(SHAPE, percentiles=(0, 100))
    sample = transform(records[0])
    plain = transform({"image": str(save(tmp_path / "t1w.nii.gz", 2 * brain()))})
    assert float((sample["image"] - plain["image"]).abs().max()) < 1e-6
    assert sample["image_affine"].tolist() == AFFINE.tolist()


def test_a_restored_channel_is_one_volume(tmp_path):
    from monai_betavae.data import RestoreVolume

    write_decathlon(tmp_path)
    record = decathlon(tmp_path, "Task01_BrainTumour", channel=2)[0]
    sample = brain_transforms(SHAPE, percentiles=(0, 100))(record)
    restored = RestoreVolume()(sample["image"], sample)
    assert restored.shape == SHAPE
    assert np.abs(restored.get_fdata() - 3 * brain()).max() < 1e-2


@pytest.mark.parametrize("channel", [4, -1, "T1w", True])
def test_a_channel_that_is_not_there(tmp_path, channel):
    write_decathlon(tmp_path)
    records = [{**record, "channel": channel} for record in discover(tmp_path / "Task01_BrainTumour")]
    table = check_volumes(records, voxels=False, progress=False)
    assert table["problem"].str.contains(r"has no channel .*: its shape is \(12, 14, 10, 4\)").all()


def test_decathlon_without_its_folder(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"`root_dir` must hold the folder Task01_BrainTumour, .* `download=True`"):
        decathlon(tmp_path, "Task01_BrainTumour")
    with pytest.raises(ValueError, match="`task` must be one of"):
        decathlon(tmp_path, "Task99")
    asked = []

    def extract(url, archive, target, **kwargs):
        asked.append((url, kwargs["hash_type"]))
        write_decathlon(Path(target))

    monkeypatch.setattr("monai.apps.download_and_extract", extract)
    assert len(decathlon(tmp_path, "Task01_BrainTumour", download=True)) == 3
    assert asked == [("https://msd-for-monai.s3-us-west-2.amazonaws.com/Task01_BrainTumour.tar", "md5")]


# ---- OpenBHB ----

QUASIRAW, VBM = "preproc-quasiraw_T1w", "preproc-cat12vbm_desc-gm_T1w"


def write_openbhb(root, *, templates=True):
    people = {"train": [101, 20], "val": [3]}
    for part, numbers in people.items():
        for number in numbers:
            folder = root / part / "derivatives" / f"sub-{number}" / "ses-1"
            folder.mkdir(parents=True)
            for kind, factor in ((QUASIRAW, 1), (VBM, 0.001)):
                np.save(folder / f"sub-{number}_{kind}.npy", (brain() * factor + number)[None, None])
            np.save(folder / f"sub-{number}_preproc-freesurfer_desc-xhemi_T1w.npy", np.zeros((1, 8, 5)))
    (root / "participants.tsv").write_text(
        "participant_id\tage\tsex\tsplit\n101\t30.5\tmale\ttrain\n20\t41\tfemale\ttrain\n3\t22\tmale\tinternal_test\n"
    )
    (root / "resource").mkdir()
    if templates:
        grid = np.array([[-2.0, 0, 0, 11], [0, 2, 0, -13], [0, 0, 2, -9], [0, 0, 0, 1]])
        save(root / "resource" / "quasiraw_space-MNI152_desc-brain_T1w.nii.gz", brain(), grid)
        save(root / "resource" / "cat12vbm_space-MNI152_desc-gm_TPM.nii.gz", brain(), grid)
    return root


def test_openbhb_is_a_cohort_with_the_affine_of_its_template(tmp_path):
    root = write_openbhb(tmp_path / "openbhb")
    records = discover(root, suffix=QUASIRAW)
    assert [(r["subject"], r["session"], r["age"], r["sex"], r["official_split"]) for r in records] == [
        ("sub-20", "ses-1", 41.0, "female", "train"),
        ("sub-101", "ses-1", 30.5, "male", "train"),
        ("sub-3", "ses-1", 22.0, "male", "internal_test"),
    ]
    assert [record["subject"] for record in discover(root / "val", suffix=VBM)] == ["sub-3"]
    assert set(check_volumes(records, progress=False)["problem"]) == {""}
    sample = brain_transforms(SHAPE, percentiles=(0, 100))(records[0])
    # the template's first axis runs to the left: the sample is turned to the right
    assert sample["image_affine"][:3, :3].tolist() == np.diag([2.0, 2.0, 2.0]).tolist()
    values = brain()[::-1]  # the 20 around it are background
    np.testing.assert_allclose(sample["image"][0], values / values.max(), atol=1e-6)


def test_openbhb_needs_a_kind_of_array_and_its_template(tmp_path):
    root = write_openbhb(tmp_path / "openbhb", templates=False)
    with pytest.raises(ValueError, match=r"`suffix` must choose one kind of OpenBHB's arrays, 'preproc-quasiraw_T1w'"):
        discover(root)
    with pytest.raises(ValueError, match="got 'FLAIR' for none"):
        discover(root, suffix="FLAIR")
    records = discover(root, suffix=VBM)
    table = check_volumes(records, voxels=False, progress=False)
    assert table["problem"].str.contains("is an array without an affine").all()
    save(root / "resource" / "cat12vbm_space-MNI152_desc-gm_TPM.nii.gz", brain()[:-1])
    table = check_volumes(records, voxels=False, progress=False)
    assert table["problem"].str.contains(r"must have the shape of cat12vbm.*, \(11, 14, 10\), got \(12, 14, 10\)").all()


def test_an_array_of_objects_is_not_loaded(tmp_path):
    root = write_openbhb(tmp_path / "openbhb")
    record = discover(root, suffix=VBM)[0]
    np.save(record["image"], np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "can't be read as an array" in check_volumes([record], voxels=False, progress=False)["problem"][0]
