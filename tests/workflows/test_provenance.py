"""What a run came from is written beside it, runs again, and differences are told."""

import copy
import json
import subprocess

import pytest

from monai_betavae.workflows.provenance import (
    data_fingerprint,
    differences,
    environment,
    git_state,
    read_provenance,
    runnable,
    write_run,
)


def records_in(folder, n=3):
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(n):
        path = folder / f"sub-{number}_T1w.nii.gz"
        path.write_bytes(bytes([number]) * 200_000)
        records.append({"image": str(path), "subject": f"sub-{number}", "age": 30 + number})
    return records


def test_a_fingerprint_is_of_subjects_order_and_content_and_not_of_the_place(tmp_path):
    here, there = records_in(tmp_path / "here"), records_in(tmp_path / "there")
    found = data_fingerprint({"training": here[:2], "test": here[2:]})
    assert found["training"]["volumes"] == 2
    assert found == data_fingerprint({"training": there[:2], "test": there[2:]})
    assert found["training"] != data_fingerprint({"training": here[1::-1]})["training"]
    renamed = [{**here[0], "subject": "sub-9"}, here[1]]
    assert found["training"] != data_fingerprint({"training": renamed})["training"]


@pytest.mark.parametrize("place", [0, 65_535, 199_999])
def test_a_byte_at_either_end_changes_the_fingerprint(tmp_path, place):
    records = records_in(tmp_path, 1)
    before = data_fingerprint({"test": records})
    content = bytearray((tmp_path / "sub-0_T1w.nii.gz").read_bytes())
    content[place] ^= 1
    (tmp_path / "sub-0_T1w.nii.gz").write_bytes(content)
    assert data_fingerprint({"test": records}) != before


def test_every_channels_file_counts(tmp_path):
    first, other = records_in(tmp_path, 2)
    one = {"image": first["image"], "subject": "a"}
    two = {**one, "other_images": {"T2w": other["image"]}}
    before = data_fingerprint({"test": [two]})
    assert before != data_fingerprint({"test": [one]})
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "sub-1_T1w.nii.gz"
    moved.write_bytes((tmp_path / "sub-1_T1w.nii.gz").read_bytes())
    assert before == data_fingerprint({"test": [{**one, "other_images": {"T2w": str(moved)}}]})
    moved.write_bytes(b"other")
    assert before != data_fingerprint({"test": [{**one, "other_images": {"T2w": str(moved)}}]})


def test_a_folder_counts_by_its_files(tmp_path):
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(b"one")
    record = {"image": str(tmp_path / "series"), "subject": "a"}
    before = data_fingerprint({"test": [record]})
    (tmp_path / "series" / "2.dcm").write_bytes(b"two")
    after = data_fingerprint({"test": [record]})
    assert before != after
    assert after == data_fingerprint({"test": [record]})


def test_the_state_of_a_checkout(tmp_path):
    assert git_state(tmp_path) is None
    name = ("-c", "user.name=n", "-c", "user.email=n@localhost")
    for words in (["init", "-q"], ["add", "."], [*name, "commit", "-qm", "x"]):
        (tmp_path / "file").write_text("1")
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    clean = git_state(tmp_path)
    assert len(clean["commit"]) == 40
    assert not clean["changed"]
    (tmp_path / "file").write_text("2")
    assert git_state(tmp_path) == {"commit": clean["commit"], "changed": True}
    # an environment within somebody's checkout isn't part of it
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "module.py").touch()
    assert git_state(tmp_path / "environment") is None


NOW = {"seed": 0, "threads": 2, "versions": {"torch": "2.13"}, "git": {"commit": "a" * 40, "changed": False}}
DATA = {"training": {"volumes": 3, "digest": "x"}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, []),
        ({"started": "later", "command": ["other"]}, []),
        ({"seed": 1}, ["seed was 0, now 1"]),
        ({"versions": {"torch": "2.14"}}, ["torch was 2.13, now 2.14"]),
        ({"versions": {}}, ["torch was 2.13, now None"]),
        ({"git": None}, ["the code was at commit aaaaaaaaaaaa, now at none"]),
        ({"git": {"commit": "a" * 40, "changed": True}}, ["the code has changes that commit aaaaaaaaaaaa hasn't"]),
        ({"data": {"training": {"volumes": 2, "digest": "y"}}}, ["training was of 3 volumes, now 2"]),
        ({"data": {"training": {"volumes": 3, "digest": "y"}}}, ["training was of other volumes"]),
        ({"data": {}}, ["training was of 3 volumes, now 0"]),
        ({"weights": "w"}, ["the weights are others"]),
    ],
)
def test_what_differs(change, told):
    before = {**NOW, "data": DATA}
    assert differences(before, {**before, **change}) == told


def test_nothing_differs_from_itself():
    now = {**environment(), "git": None}
    assert differences(now, {**environment(), "git": None}) == []


def test_a_config_that_runs_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {
        "_meta_": {"version": "1"},
        "provenance": {"seed": 9},
        "dataset_dir": "bids/*.nii.gz",
        "output_dir": "~/out",
        "cache_dir": "$@run_root + '/cache'",
        "split_file": None,
        "simulated_cohort": {"output_dir": "cohort", "seed": 0},
        "resume": True,
        "overwrite": True,
    }
    before = copy.deepcopy(config)
    found = runnable(config)
    assert found == {
        "dataset_dir": str(tmp_path / "bids/*.nii.gz"),
        "output_dir": found["output_dir"],
        "cache_dir": "$@run_root + '/cache'",
        "split_file": None,
        "simulated_cohort": {"output_dir": str(tmp_path / "cohort"), "seed": 0},
        "resume": False,
        "overwrite": False,
    }
    assert found["output_dir"].endswith("/out")
    assert "~" not in found["output_dir"]
    assert config == before


def test_a_resumed_run_keeps_its_origin_and_tells_what_differs(tmp_path, capsys):
    parts = {"training": records_in(tmp_path / "data")}
    path = tmp_path / "run.json"
    write_run(path, parts, seed=0)
    origin = read_provenance(path)
    assert "Not as" not in capsys.readouterr().out
    stored = json.loads(path.read_text())
    stored["provenance"]["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(stored))
    write_run(path, parts, seed=0, resumed=True)
    assert "Not as before: torch was 1.0, now" in capsys.readouterr().out
    found = read_provenance(path)
    assert found["started"] == origin["started"]
    assert [each["versions"]["torch"] for each in found["resumed"]] == [origin["versions"]["torch"]]
    write_run(path, parts, seed=0, resumed=True)
    assert len(read_provenance(path)["resumed"]) == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"provenance": 3}', "\x00"])
def test_another_file_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json must be the run\.json of a training run"):
        read_provenance(tmp_path / "run.json")
    assert read_provenance(tmp_path / "none.json") is None


def test_weights_are_part_of_what_was_used(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    write_run(tmp_path / "run.json", {"data": []}, weights=tmp_path / "model.pt")
    before = read_provenance(tmp_path / "run.json")
    (tmp_path / "model.pt").write_bytes(b"others")
    write_run(tmp_path / "other.json", {"data": []}, weights=tmp_path / "model.pt")
    assert "the weights are others" in differences(before, read_provenance(tmp_path / "other.json"))
