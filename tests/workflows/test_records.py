"""Which volumes a run takes, and how they are parted."""

import nibabel as nib
import numpy as np
import pytest

from monai_betavae.data import simulate_cohort
from monai_betavae.workflows.records import (
    given_records,
    is_simulated,
    process_rank,
    read_split,
    split_records,
    training_records,
    write_split,
)

COHORT = {"n_subjects": 4, "spacing": 10.0, "seed": 3, "progress": False}


def records(n, **extra):
    return [{"image": f"/data/sub-{i}.nii.gz", "subject": f"sub-{i}", **extra} for i in range(n)]


def test_without_data_the_cohort_is_made_once(tmp_path, capsys):
    simulated = {"output_dir": tmp_path / "cohort", **COHORT}
    first = training_records(None, simulated)
    assert "simulating a cohort of 4 brains" in capsys.readouterr().out
    stamp = (tmp_path / "cohort" / "participants.tsv").stat().st_mtime_ns
    assert training_records(None, simulated) == first
    assert "using the simulated cohort" in capsys.readouterr().out
    assert (tmp_path / "cohort" / "participants.tsv").stat().st_mtime_ns == stamp
    assert len(first) == 4
    assert is_simulated(first)
    with pytest.raises(ValueError, match="simulated with n_subjects=4, not n_subjects=5"):
        training_records(None, {**simulated, "n_subjects": 5})
    # a cohort doesn't name what has its default
    with pytest.raises(ValueError, match="simulated with n_sessions=1, not n_sessions=2"):
        training_records(None, {**simulated, "n_sessions": 2})
    assert training_records(None, {**simulated, "n_sessions": 1, "n_workers": 1}) == first


def test_the_cohort_has_the_channels_that_are_asked_for(tmp_path):
    simulated = {"output_dir": tmp_path / "cohort", **COHORT}
    records = training_records(None, simulated, suffix=["T1w", "FLAIR"])
    assert [list(record["other_images"]) for record in records] == [["FLAIR"]] * 4
    assert training_records(None, simulated, suffix=["T1w", "FLAIR"]) == records
    # the T1w of it are those of a cohort without
    assert all("other_images" not in record for record in training_records(None, simulated))
    with pytest.raises(ValueError, match=r"suffixes=.'T1w', 'FLAIR'., not suffixes=.'T1w', 'T2w'."):
        training_records(None, simulated, suffix=["T1w", "T2w"])


def test_a_folder_of_something_else_is_not_taken_for_the_cohort(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be empty or hold a simulated cohort"):
        training_records(None, {"output_dir": tmp_path, **COHORT})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_given_data_is_taken_and_not_called_simulated(tmp_path, capsys):
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    found = training_records(tmp_path, {"output_dir": tmp_path / "never"})
    assert [record["subject"] for record in found] == ["a"]
    assert "1 volume of 1 subject (a: a.nii.gz) from" in capsys.readouterr().out
    assert not is_simulated(found)


def test_split_by_fractions():
    split = split_records(records(20), (0.7, 0.15, 0.15), seed=0)
    assert {part: len(members) for part, members in split.items()} == {"training": 14, "validation": 3, "test": 3}


def test_a_stated_split_is_taken():
    stated = [*records(3, split="training"), {**records(9)[8], "split": "test"}]
    split = split_records(stated, (0.7, 0.15, 0.15), seed=0)
    assert [len(split[part]) for part in ("training", "validation", "test")] == [3, 0, 1]


def test_a_subject_in_two_stated_parts_is_refused():
    both = [*records(2, split="training"), *records(1, split="test")]
    with pytest.raises(ValueError, match="Subject sub-0 must be in one part, got training and test"):
        split_records(both, (0.7, 0.15, 0.15), seed=0)


def test_split_file_round_trip(tmp_path):
    split = split_records(records(10, age=40.5), (0.6, 0.2, 0.2), seed=1)
    write_split(split, tmp_path / "split.json")
    assert read_split(tmp_path / "split.json") == split


@pytest.mark.parametrize("text", ["", "[]", '{"training": []}', '{"training": [1], "validation": [], "test": []}'])
def test_bad_split_files_are_named(tmp_path, text):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(ValueError, match=r"split\.json must"):
        read_split(tmp_path / "split.json")


def test_other_processes_wait_for_the_cohort(tmp_path, monkeypatch):
    arguments = {"output_dir": str(tmp_path / "cohort"), "n_subjects": 4, "spacing": 12.0, "seed": 0}
    monkeypatch.setattr("monai_betavae.workflows.records.process_rank", lambda: 1)
    monkeypatch.setattr("monai_betavae.workflows.records.COHORT_WAIT_S", 0)
    with pytest.raises(ValueError, match="which the first process hasn't made in time"):
        training_records(None, arguments)
    assert not (tmp_path / "cohort").exists()  # it didn't make one itself
    slept = []

    def make_meanwhile(seconds):
        slept.append(seconds)
        simulate_cohort(arguments["output_dir"], 4, seed=0, spacing=12.0, progress=False)

    monkeypatch.setattr("monai_betavae.workflows.records.COHORT_WAIT_S", 3)
    monkeypatch.setattr("monai_betavae.workflows.records.time.sleep", make_meanwhile)
    assert len(training_records(None, arguments)) == 4
    assert slept == [1]


def test_the_rank_is_what_the_launcher_says():
    assert process_rank() == 0


def test_a_resumed_run_keeps_its_split(tmp_path):
    split = split_records(records(10), (0.6, 0.2, 0.2), seed=0)
    write_split(split, tmp_path / "split.json")
    assert split_records(records(10), (0.6, 0.2, 0.2), 0, tmp_path) == split
    with pytest.raises(ValueError, match=r"`resume` needs the data and split of .*split\.json: \d+ volumes differ"):
        split_records(records(10), (0.6, 0.2, 0.2), 1, tmp_path)
    write_split({**split, "training": split["training"][1:]}, tmp_path / "split.json")
    with pytest.raises(ValueError, match=r"1 volumes differ, the first is .*, then absent, now training"):
        split_records(records(10), (0.6, 0.2, 0.2), 0, tmp_path)
    assert split_records(records(10), (0.6, 0.2, 0.2), 5, tmp_path / "nothing")  # a run that was killed before it wrote


def test_fractions_are_three():
    with pytest.raises(ValueError, match=r"`fractions` must be three numbers, .*got \[0\.5, 0\.25\]"):
        split_records(records(10), [0.5, 0.25], 0)


def test_folds_share_no_subject_and_are_everyone():
    everyone = [{**record, "sex": "FM"[i % 2]} for i, record in enumerate(records(20))]
    splits = [split_records(everyone, (0.8, 0.2, 0.0), 3, stratify="sex", n_folds=5, fold=fold) for fold in range(5)]
    tested = [record["subject"] for split in splits for record in split["test"]]
    assert sorted(tested) == sorted(record["subject"] for record in everyone)
    for split in splits:
        parts = [{record["subject"] for record in split[part]} for part in ("training", "validation", "test")]
        assert [len(part) for part in parts] == [13, 3, 4]
        assert len(set.union(*parts)) == 20
        assert sum(record["sex"] == "F" for record in split["test"]) == 2


def test_folds_without_validation():
    split = split_records(records(9), (1.0, 0.0, 0.0), 0, n_folds=3, fold=2)
    assert [len(split[part]) for part in ("training", "validation", "test")] == [6, 0, 3]


def test_a_fold_that_is_none():
    with pytest.raises(ValueError, match="`fold` must be an integer from 0 to 4 for 5 folds, got 5"):
        split_records(records(20), (0.8, 0.2, 0.0), 0, n_folds=5, fold=5)


def test_the_split_of_another_run_is_taken_again(tmp_path, capsys):
    split = split_records(records(10), (0.6, 0.2, 0.2), seed=0)
    write_split(split, tmp_path / "split.json")
    again = split_records([{**r, "age": 5} for r in records(12)], (0.5, 0.5, 0), 7, split_file=tmp_path / "split.json")
    assert {part: [r["image"] for r in members] for part, members in again.items()} == {
        part: [r["image"] for r in members] for part, members in split.items()
    }
    assert again["test"][0]["age"] == 5  # the records are those of now
    assert "Left out: 2 volumes that" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"`split_file` .*split.json must name volumes of this cohort, got 4 others"):
        split_records(records(6), (0.6, 0.2, 0.2), 0, split_file=tmp_path / "split.json")
    with pytest.raises(ValueError, match=r"nowhere.json must be the split.json of a training run"):
        split_records(records(6), (0.6, 0.2, 0.2), 0, split_file=tmp_path / "nowhere.json")


def test_what_the_user_named_is_what_the_message_names(tmp_path):
    with pytest.raises(ValueError, match="`dataset_dir` must be a BIDS folder"):
        given_records(tmp_path / "gone")
    (tmp_path / "list.csv").write_text("scan\n4d.nii.gz\n")
    (tmp_path / "4d.nii.gz").touch()
    found = given_records(tmp_path / "list.csv", image_column="scan", channel=2)
    assert [(record["subject"], record["channel"]) for record in found] == [("4d", 2)]
    with pytest.raises(ValueError, match="`channel` must be an integer"):
        given_records(tmp_path / "list.csv", image_column="scan", channel=-1)


def test_a_split_of_brackets_without_end_is_refused_by_name(tmp_path):
    (tmp_path / "split.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"split\.json must be the split\.json of a training run"):
        read_split(tmp_path / "split.json")


def test_few_test_subjects_are_told_of(capsys):
    split_records(records(31), (0.7, 0.2, 0.1), 0)
    assert (
        "Only 3 test subjects: scores will say little. `monai-betavae cross-validate` tests every"
        in capsys.readouterr().out
    )
    split_records(records(31), (0.8, 0.2, 0.0), 0, n_folds=5, fold=1)
    printed = capsys.readouterr().out
    assert "Only 6 test subjects: scores will say little. `monai-betavae cross-validate` pools the scores" in printed
    # enough are nothing to tell of
    split_records(records(60), (0.4, 0.2, 0.4), 0)
    assert "Only" not in capsys.readouterr().out
