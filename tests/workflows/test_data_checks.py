"""Bad volumes are refused before the work begins, or left out and recorded; trained subjects aren't scored."""

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from awkward_volumes import REFUSED, SHAPE, brain, save
from monai.transforms import Lambda

from monai_betavae.data import brain_transforms
from monai_betavae.workflows import check_data, check_held_out, checked_records, volume_dataset
from monai_betavae.workflows.data_checks import check_grid


@pytest.fixture
def records(tmp_path):
    return [{"image": str(save(tmp_path / f"sub-{i}.nii.gz", brain() + i)), "subject": f"sub-{i}"} for i in range(4)]


@pytest.fixture
def mixed(records, tmp_path):
    """Good volumes, one that its header gives away, and one that only its voxels do."""
    header = {"image": str(REFUSED["4D"][0](tmp_path)), "subject": "sub-4d"}
    voxels = {"image": str(REFUSED["zeros"][0](tmp_path)), "subject": "sub-z"}
    return [*records[:2], header, *records[2:], voxels]


def test_good_volumes_pass(records, tmp_path):
    assert checked_records(records) == records
    assert checked_records(records, "skip", tmp_path / "out") == records
    assert not (tmp_path / "out").exists()


def test_headers_stop_a_run_with_all_problems_at_once(mixed, tmp_path):
    another = {"image": str(REFUSED["2D"][0](tmp_path)), "subject": "sub-2d"}
    with pytest.raises(ValueError, match="4d") as caught:
        checked_records([*mixed, another])
    message = str(caught.value)
    assert "4d.nii.gz must hold one three-dimensional volume, got 3 of them" in message
    assert "2d.nii.gz must hold one three-dimensional volume, got one slice" in message
    assert "--on_bad_volume skip" in message


def test_voxels_stop_a_run_when_they_are_read(mixed):
    good_headers = [record for record in mixed if record["subject"] != "sub-4d"]
    assert checked_records(good_headers) == good_headers
    with pytest.raises(ValueError, match=r"z\.nii\.gz must not be constant, got 0 in every voxel\. Go on without"):
        volume_dataset(good_headers, brain_transforms(SHAPE), "memory")


def test_skipping_leaves_out_and_records(mixed, records, tmp_path):
    assert checked_records(mixed, "skip", tmp_path / "out") == records
    table = pd.read_csv(tmp_path / "out" / "left_out.tsv", sep="\t")
    assert list(table["subject"]) == ["sub-4d", "sub-z"]
    assert table["problem"].str.startswith("must").all()


def test_nothing_left(tmp_path):
    record = {"image": str(REFUSED["zeros"][0](tmp_path)), "subject": "sub-z"}
    with pytest.raises(ValueError, match=r"No volume can be used\. .*z\.nii\.gz"):
        checked_records([record], "skip", tmp_path)


def test_a_choice_that_is_none(records):
    with pytest.raises(ValueError, match="`on_bad_volume` must be one of"):
        checked_records(records, "ignore")


def test_check_data_writes_a_table(mixed, tmp_path, capsys):
    check_data(mixed, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "volumes.tsv", sep="\t")
    assert list(table["subject"]) == [record["subject"] for record in mixed]
    assert table["problem"].notna().sum() == 2
    assert "6 checked, 2 can't be used" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"volumes\.tsv exists; give --overwrite True"):
        check_data(mixed, tmp_path / "out")
    check_data(mixed[:1], tmp_path / "out", overwrite=True)
    assert len(pd.read_csv(tmp_path / "out" / "volumes.tsv", sep="\t")) == 1


def test_check_data_draws_every_volume_and_says_what_to_change(mixed, records, tmp_path, capsys):
    copy = tmp_path / "copy.nii.gz"
    shutil.copy(records[1]["image"], copy)
    cohort = [*mixed, {"image": str(copy), "subject": "sub-copy"}]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "volumes_07.png").touch()
    check_data(cohort, tmp_path / "out", transform=brain_transforms((12, 14, 5)))
    said = capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out" / "volumes.tsv", sep="\t")
    assert table["cut_away"].notna().sum() == 5
    assert table["duplicate_of"].dropna().tolist() == [records[1]["image"]]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["volumes_01.png"], "none of a run before"
    assert "STOPS TRAINING: 1 scan is in the cohort as several subjects" in said
    assert "STOPS TRAINING: the grid cuts away over 20% of 5 of 5 heads" in said
    assert '-> --center foreground --spatial_shape "[16,16,8]"' in said
    assert "Training would stop" in said
    check_data(records[:1], tmp_path / "one")
    assert "Ready: give the same options to the training" in capsys.readouterr().out


def test_pages_of_many(records, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("monai_betavae.workflows.data_checks.VOLUMES_PER_PAGE", 3)
    check_data(records, tmp_path / "out", transform=brain_transforms(SHAPE))
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["volumes_01.png", "volumes_02.png"]
    assert "volumes_01.png to volumes_02.png" in capsys.readouterr().out


def test_one_scan_as_two_subjects_stops_a_run_or_is_left_out(records, tmp_path):
    copy = tmp_path / "copy.nii.gz"
    shutil.copy(records[1]["image"], copy)
    again = {"image": str(copy), "subject": "sub-9"}
    with pytest.raises(
        ValueError, match=r"1 scan is in the cohort as several subjects: .*copy.nii.gz of sub-9 is"
    ) as caught:
        checked_records([*records, again])
    assert "--on_bad_volume skip" in str(caught.value)
    assert checked_records([*records, again], "skip", tmp_path / "out") == records
    table = pd.read_csv(tmp_path / "out" / "left_out.tsv", sep="\t")
    assert table["problem"].tolist()[0].startswith("1 scan is in the cohort as several subjects")


def test_one_scan_twice_of_a_subject_is_said(records, tmp_path, capsys):
    copy = tmp_path / "copy.nii.gz"
    shutil.copy(records[1]["image"], copy)
    cohort = [*records, {"image": str(copy), "subject": "sub-1"}]
    assert checked_records(cohort) == cohort
    assert "Worth a look: 1 scan is in the cohort several times, as the same subject" in capsys.readouterr().out


def test_left_and_right_that_one_file_leaves_open_stop_a_run(records, tmp_path):
    image = nib.load(records[2]["image"])
    image.header["sform_code"] = image.header["qform_code"] = 0
    nib.save(nib.Nifti1Image(image.get_fdata().astype(np.float32), None, image.header), tmp_path / "open.nii.gz")
    cohort = [*records, {"image": str(tmp_path / "open.nii.gz"), "subject": "sub-open"}]
    with pytest.raises(ValueError, match=r"1 of 5 files don't say their orientation .*open.nii.gz"):
        checked_records(cohort)
    assert checked_records(cohort, "skip", tmp_path / "out") == records


def test_the_grid_stops_a_run_or_warns(records, capsys):
    narrow = [brain_transforms((12, 14, 5))(record) for record in records]
    with pytest.raises(ValueError, match=r"The grid cuts away over 20% of 4 of 4 heads.*--max_cut_away 0.25"):
        check_grid([narrow[:2], [], narrow[2:]])
    check_grid([narrow], max_cut_away=0.6)
    assert "Worth a look: the grid cuts away over 2% of 4 of 4 heads" in capsys.readouterr().out
    empty = [brain_transforms((64, 64, 64))(record) for record in records]
    with pytest.raises(ValueError, match=r"4 of 4 volumes fill less than 2.0% of the grid.*--min_filled"):
        check_grid([empty])
    check_grid([[brain_transforms(SHAPE)(record) for record in records], [], [torch.zeros(1, 2, 2, 2)]])
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="`max_cut_away` must be"):
        check_grid([narrow], max_cut_away=2)


def test_errors_that_are_no_volumes_stay_what_they_are(records):
    def broken(_):
        raise KeyError("mine")

    with pytest.raises(RuntimeError, match="applying transform"):
        volume_dataset(records, Lambda(broken), "memory")


@pytest.fixture
def trained(records, tmp_path):
    split = {"training": records[:2], "validation": records[2:3], "test": records[3:]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    return tmp_path


def test_held_out_subjects_may_be_scored(records, trained):
    check_held_out(records[3:], trained)
    check_held_out(records, trained / "elsewhere")  # no run, nothing known


@pytest.mark.parametrize("index", [0, 2])
def test_subjects_of_the_training_may_not(records, trained, index):
    with pytest.raises(ValueError, match=f"1 of the volumes .* subject sub-{index}, in (training|validation)"):
        check_held_out(records[index : index + 1], trained)
    check_held_out(records, trained, allow_training_subjects=True)


def test_another_scan_of_a_subject_counts_and_so_does_a_link(records, trained, tmp_path):
    again = {"image": str(save(tmp_path / "again.nii.gz", np.flip(brain(), 0))), "subject": "sub-0"}
    with pytest.raises(ValueError, match="subject sub-0, in training"):
        check_held_out([again], trained)
    link = tmp_path / "link.nii.gz"
    link.symlink_to(records[0]["image"])
    with pytest.raises(ValueError, match="1 of the volumes"):
        check_held_out([{"image": str(link), "subject": "renamed"}], trained)
