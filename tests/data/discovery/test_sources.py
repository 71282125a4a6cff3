import csv
import json
import os
import re
import tempfile
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_betavae.data.discovery.sources import discover


def touch(root, *names):
    """Make empty files below root: discovery reads no voxels, so it needs none."""
    for name in names:
        file = Path(root) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def names(records, root):
    return [Path(record["image"]).relative_to(root).as_posix() for record in records]


def refused(source, **kwargs):
    with pytest.raises(ValueError, match="`source`") as caught:
        discover(source, **kwargs)
    message = str(caught.value)
    assert repr(str(source)) in message or source == ""
    return message


# ---- BIDS ----


def test_bids_joins_participants_and_keeps_types(tmp_path):
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii", "sub-03/anat/sub-03_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tage\tvolume\tsex\tcode\tempty\n"
        "sub-02\t31\t1.5\tF\t007\tn/a\n"
        "sub-01\t60\t2\tn/a\t012\tn/a\n"
        "sub-99\tn/a\t0.25\tM\t100\tn/a\n"
    )
    shared = {"empty": None}
    with pytest.warns(
        UserWarning, match=r"1 of 3 subjects with volumes have no row \(sub-03\), and 1 of 3 rows have no"
    ):
        records = discover(tmp_path)
    assert records == [
        {"image": str(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz"), "subject": "sub-01"}
        | {"age": 60, "volume": 2.0, "sex": None, "code": "012"}
        | shared,
        {"image": str(tmp_path / "sub-02/anat/sub-02_T1w.nii"), "subject": "sub-02"}
        | {"age": 31, "volume": 1.5, "sex": "F", "code": "007"}
        | shared,
        {"image": str(tmp_path / "sub-03/anat/sub-03_T1w.nii.gz"), "subject": "sub-03"}
        | {"age": None, "volume": None, "sex": None, "code": None}
        | shared,
    ]
    assert [type(records[0][key]) for key in ("age", "volume")] == [int, float]


def test_bids_sessions_and_runs_are_volumes_of_one_subject(tmp_path):
    touch(
        tmp_path,
        "sub-1/ses-10/anat/sub-1_ses-10_T1w.nii.gz",
        "sub-1/ses-2/anat/sub-1_ses-2_run-2_T1w.nii.gz",
        "sub-1/ses-2/anat/sub-1_ses-2_run-1_T1w.nii.gz",
        "sub-2/anat/sub-2_T1w.nii.gz",
    )
    found = [(r["subject"], r["session"], r["run"]) for r in discover(tmp_path)]
    assert found == [
        ("sub-1", "ses-2", "run-1"),
        ("sub-1", "ses-2", "run-2"),
        ("sub-1", "ses-10", None),
        ("sub-2", None, None),
    ]


def test_bids_takes_only_the_suffix_asked_for(tmp_path):
    touch(
        tmp_path,
        "sub-1/anat/sub-1_T1w.nii.gz",
        "sub-2/anat/sub-2_acq-a_T1w.nii",
        "sub-1/anat/sub-1_T1w.json",
        "sub-1/anat/._sub-1_T1w.nii.gz",
        "sub-1/anat/sub-1_FLAIR.nii.gz",
        "sub-3/anat/sub-3_desc-preproc_T1w.nii.gz",
        "sub-1/func/sub-1_T1w.nii.gz",
        "sub-1_notes.txt",
        "derivatives/tool/sub-1/anat/sub-1_T1w.nii.gz",
        "sourcedata/sub-1/anat/sub-1_T1w.nii.gz",
    )
    assert names(discover(tmp_path), tmp_path) == [
        "sub-1/anat/sub-1_T1w.nii.gz",
        "sub-2/anat/sub-2_acq-a_T1w.nii",
        "sub-3/anat/sub-3_desc-preproc_T1w.nii.gz",
    ]
    assert names(discover(tmp_path, suffix="FLAIR"), tmp_path) == ["sub-1/anat/sub-1_FLAIR.nii.gz"]
    found = names(discover(tmp_path, suffix="desc-preproc_T1w"), tmp_path)
    assert found == ["sub-3/anat/sub-3_desc-preproc_T1w.nii.gz"]


@pytest.mark.parametrize("marker", ["dataset_description.json", "participants.tsv", None])
def test_bids_wins_over_a_datalist_in_the_folder(tmp_path, marker):
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz", "other.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [{"image": "other.nii.gz"}]}))
    if marker:
        (tmp_path / marker).write_text("participant_id\tage\nsub-1\t5\n")
    assert names(discover(tmp_path), tmp_path) == ["sub-1/anat/sub-1_T1w.nii.gz"]


def test_a_derivative_dataset_can_be_the_source(tmp_path):
    root = tmp_path / "derivatives" / "fmriprep"
    touch(root, "dataset_description.json", "sub-1/anat/sub-1_desc-preproc_T1w.nii.gz")
    assert [record["subject"] for record in discover(root)] == ["sub-1"]


def test_sessions_tables_are_joined_by_session(tmp_path):
    touch(
        tmp_path,
        *(f"sub-{s}/ses-{v}/anat/sub-{s}_ses-{v}_T1w.nii.gz" for s in (1, 2) for v in (1, 2)),
        "sub-3/anat/sub-3_T1w.nii.gz",
    )
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\tage\nsub-1\tF\t30\nsub-2\tM\t40\nsub-3\tF\t50\n")
    (tmp_path / "sub-1" / "sub-1_sessions.tsv").write_text("session_id\tage\tscore\nses-1\t30.5\t3\nses-2\tn/a\t4\n")
    (tmp_path / "sub-2" / "sub-2_sessions.tsv").write_text("session_id\tsite\n2\tA\n")
    with pytest.warns(UserWarning, match=r"_sessions.tsv: 1 of 4 sessions with volumes have no row \(sub-2/ses-1\)"):
        records = discover(tmp_path)
    found = {(r["subject"], r["session"]): (r["sex"], r["age"], r["score"], r["site"]) for r in records}
    assert found == {
        ("sub-1", "ses-1"): ("F", 30.5, 3, None),
        ("sub-1", "ses-2"): ("F", 30, 4, None),
        ("sub-2", "ses-1"): ("M", 40, None, None),
        ("sub-2", "ses-2"): ("M", 40, None, "A"),
        ("sub-3", None): ("F", 50, None, None),
    }


def test_sessions_tables_that_cannot_be_used(tmp_path):
    for subject in ("sub-1", "sub-2"):
        touch(tmp_path, f"{subject}/ses-1/anat/{subject}_ses-1_T1w.nii.gz")
    (tmp_path / "sub-1" / "sub-1_sessions.tsv").write_text("visit\tage\nses-1\t3\n")
    (tmp_path / "sub-2" / "sub-2_sessions.tsv").write_text("session_id\tage\nses-1\t3\n1\t4\nn/a\t5\n\t6\n")
    with pytest.warns(UserWarning, match="2 of 3 rows have no volume"):
        message = refused(tmp_path)
    assert "sub-1_sessions.tsv: no column 'session_id'; the columns there are: visit, age" in message
    assert "sub-2_sessions.tsv, line 3: session '1' is listed before, in sub-2_sessions.tsv, line 2" in message
    assert "sub-2_sessions.tsv, line 5: no session_id" in message


def test_participants_without_the_prefix_are_joined(tmp_path):
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\n01\t44\n")
    assert discover(tmp_path)[0]["age"] == 44


def test_a_column_of_participants_does_not_replace_what_names_the_volume(tmp_path):
    touch(tmp_path, "sub-1/ses-a/anat/sub-1_ses-a_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tsubject\tsession\tage\nsub-1\tJD\t3\t50\n")
    with pytest.warns(UserWarning, match=r"participants.tsv: session, subject left out"):
        (record,) = discover(tmp_path)
    assert (record["subject"], record["session"], record["age"]) == ("sub-1", "ses-a", 50)


def test_all_problems_of_a_bids_folder_come_in_one_error(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz", "sub-2/anat/sub-3_T1w.nii.gz")
    (tmp_path / "sub-1/anat/sub-1_run-1_T1w.nii.gz").symlink_to(tmp_path / ".git/annex/gone")
    (tmp_path / "sub-1/anat/sub-1_run-2_T1w.nii.gz").mkdir()
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-1\t5\n\nsub-1\t6\n1\t6\nn\t1\t2\n\t3\n")
    with pytest.warns(UserWarning, match="1 of 2 subjects with volumes have no row"):
        message = refused(tmp_path)
    assert "7 problems" in message
    assert "participants.tsv, line 4: subject 'sub-1' is listed before, in participants.tsv, line 2" in message
    assert "participants.tsv, line 5: subject '1' is listed before, in participants.tsv, line 2" in message
    assert "participants.tsv, line 6: 3 fields, the header has 2" in message
    assert "participants.tsv, line 7: no participant_id" in message
    assert "sub-3_T1w.nii.gz' is named 'sub-3' but stands in the folder of 'sub-2'" in message
    assert re.search(r"sub-1_run-1_T1w.nii.gz' is a link to a file that is not there .*datalad get", message)
    assert "sub-1_run-2_T1w.nii.gz' is a folder without DICOM files, not a volume" in message


def test_bids_without_volumes_says_what_was_looked_for_and_what_is_there(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_FLAIR.nii.gz", "sub-1/anat/sub-1_T2w.nii")
    message = refused(tmp_path, suffix="T1w")
    assert "no volume sub-*/[ses-*/]anat/*_T1w.nii[.gz]" in message
    assert "there is FLAIR, T2w" in message


def test_participants_without_their_key_column(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant id\tage\nsub-1\t5\n")
    expected = "participants.tsv: no column 'participant_id'; the columns there are: participant id, age"
    assert expected in refused(tmp_path)


def test_a_folder_that_may_not_be_read_is_not_passed_over(tmp_path, monkeypatch):
    touch(tmp_path, "a/x.nii.gz", "b/y.nii.gz")
    scandir = os.scandir

    def denying(path):
        if os.path.basename(path) == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denying)  # tests may run as root, who is denied nothing
    assert f"{str(tmp_path / 'b')!r}: Permission denied" in refused(tmp_path)


LABEL = st.text("0123456789abAB", min_size=1, max_size=3)
# on a disk without upper and lower case, "a" and "A" would be one folder
LABELS = st.lists(LABEL, min_size=1, max_size=5, unique_by=str.casefold)
COVARIATES = {
    "age": st.none() | st.integers(-120, 120),
    "score": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "site": st.none() | st.text("abcxyz -_'", min_size=1, max_size=6).map(str.strip).filter(bool).map("s{}".format),
}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_discovery_finds_exactly_what_was_written(data):
    expected = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subjects = [f"sub-{label}" for label in data.draw(LABELS)]
        rows = {s: {k: data.draw(v) for k, v in COVARIATES.items()} for s in subjects if data.draw(st.booleans())}
        # one number that is not whole, so that the column is read as float whatever is drawn
        rows["sub-nowhere"] = {"age": 1, "score": 0.5, "site": "s"}
        cells = [[s, *("n/a" if v is None else str(v) for v in row.values())] for s, row in rows.items()]
        lines = [["participant_id", *COVARIATES], *cells]
        (root / "participants.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
        for subject in subjects:
            sessions = data.draw(st.just([None]) | LABELS)
            for session in sessions:
                runs = data.draw(st.just([None]) | st.lists(st.integers(1, 30), min_size=1, max_size=3, unique=True))
                for run in runs:
                    own = {"session": session and f"ses-{session}", "run": run and f"run-{run}"}
                    name = "_".join(filter(None, [subject, *own.values()]))
                    image = root.joinpath(*filter(None, [subject, own["session"], "anat", f"{name}_T1w.nii.gz"]))
                    touch(root, image, image.with_name(f"{name}_T2w.nii.gz"), root / "derivatives" / image.name)
                    expected[str(image)] = {"subject": subject, **own, **rows.get(subject, dict.fromkeys(COVARIATES))}
        with warnings.catch_warnings():  # rows without volumes, and volumes without rows
            warnings.simplefilter("ignore")
            if not set(subjects) & set(rows):
                with pytest.raises(ValueError, match="no row is of a subject with volumes"):
                    discover(root)
                return
            found = discover(root, missing_values=[])  # -9 is a value here
    assert len(found) == len(expected)
    for record in found:
        want = expected[record.pop("image")]
        assert {**dict.fromkeys(("session", "run")), **record} == want
        assert all(type(record[key]) is type(want[key]) for key in COVARIATES)


VISITS = {
    "age": st.none() | st.floats(18, 90).map(lambda value: round(value, 2)),
    "scanner": st.none() | st.sampled_from(["Prisma", "Skyra", "007"]),
    "score": st.none() | st.integers(0, 30),
}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_sessions_tables_give_each_volume_what_was_written_for_its_visit(data):
    expected = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        people = {f"sub-{label}": {"sex": data.draw(st.sampled_from("FM"))} for label in data.draw(LABELS)}
        at_enrolment = {subject: data.draw(st.none() | st.floats(18, 90).map(round)) for subject in people}
        lines = [
            f"{s}\t{row['sex']}\t{'n/a' if at_enrolment[s] is None else at_enrolment[s]}\n" for s, row in people.items()
        ]
        # a subject without files holds each column to its type: float, text, whole number
        (root / "participants.tsv").write_text("participant_id\tsex\tage\n" + "".join(lines) + "sub-none\tF\t0.5\n")
        columns = data.draw(st.lists(st.sampled_from(list(VISITS)), min_size=1, unique=True))
        has_tables = listed_sessions = False
        for subject, person in people.items():
            sessions = data.draw(LABELS)
            has_table = data.draw(st.booleans())
            rows = [
                ["session_id", *columns],
                ["ses-none", *({"age": "0.5", "scanner": "x", "score": "0"}[c] for c in columns)],
            ]
            for session in sessions:
                listed = has_table and data.draw(st.booleans())
                visit = {column: data.draw(VISITS[column]) for column in columns} if listed else {}
                prefix = data.draw(st.sampled_from(["ses-", ""]))  # identifiers stand with and without it
                if listed:
                    rows.append([prefix + session, *("n/a" if visit[c] is None else str(visit[c]) for c in columns)])
                image = root / subject / f"ses-{session}" / "anat" / f"{subject}_ses-{session}_T1w.nii.gz"
                touch(root, image)
                known = {**person, "age": at_enrolment[subject]}
                known |= {column: visit.get(column) for column in columns if column != "age"}
                if visit.get("age") is not None:
                    known["age"] = visit["age"]
                expected[str(image)] = {"subject": subject, "session": f"ses-{session}", **known}
            if has_table:
                body = rows[1:]
                data.draw(st.randoms()).shuffle(body)
                text = "".join("\t".join(row) + "\n" for row in [rows[0], *body])
                (root / subject / f"{subject}_sessions.tsv").write_text(text)
                listed_sessions |= any(row[0] != "ses-none" for row in rows[1:])
                has_tables = True
        with warnings.catch_warnings():  # rows without volumes, and volumes without rows
            warnings.simplefilter("ignore")
            if has_tables and not listed_sessions:
                with pytest.raises(ValueError, match="no row is of a session with volumes"):
                    discover(root)
                return
            found = discover(root)
    assert len(found) == len(expected)
    for record in found:
        want = expected[record.pop("image")]
        # a column that no table has is in no record
        assert {**dict.fromkeys(want), **record} == want


# ---- datalists ----


def test_datalist_sections_become_splits(tmp_path):
    touch(tmp_path, "d/imagesTr/a.nii.gz", "d/imagesTr/b.nii.gz", "d/imagesTs/c.nii.gz", "d/labelsTr/a.nii.gz")
    content = {
        "name": "x",
        "labels": {"0": "background"},
        "train": [
            {"image": "./imagesTr/b.nii.gz", "age": 4, "weight": 0.5},
            {"image": "imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz", "age": float("nan")},
        ],
        "testing": ["imagesTs/c.nii.gz"],
    }
    (tmp_path / "d/dataset.json").write_text(json.dumps(content))
    expected = [
        {"image": str(tmp_path / "d/imagesTr/b.nii.gz"), "subject": "b", "split": "training"}
        | {"age": 4, "weight": 0.5, "label": None},
        {"image": str(tmp_path / "d/imagesTr/a.nii.gz"), "subject": "a", "split": "training"}
        | {"age": None, "weight": None, "label": str(tmp_path / "d/labelsTr/a.nii.gz")},
        {"image": str(tmp_path / "d/imagesTs/c.nii.gz"), "subject": "c", "split": "test"}
        | {"age": None, "weight": None, "label": None},
    ]
    assert discover(tmp_path / "d/dataset.json") == expected
    assert discover(tmp_path / "d") == expected, "in a folder that is not BIDS, dataset.json says what the images are"


def test_datalist_of_one_section_has_no_split(tmp_path):
    touch(tmp_path, "sub-4/x.nii.gz", "t1.nii")
    entries = [{"image": "sub-4/x.nii.gz", "subject": 4}, {"image": str(tmp_path / "t1.nii"), "subject": "me"}]
    # as the Decathlon's files have it: an empty section is no part
    (tmp_path / "list.json").write_text(json.dumps({"training": entries, "test": []}))
    records = discover(tmp_path / "list.json")
    assert [sorted(record) for record in records] == [["image", "subject"]] * 2
    assert [record["subject"] for record in records] == ["4", "me"]


def test_datalist_with_another_image_key(tmp_path):
    touch(tmp_path, "a.nii", "b.nii")
    (tmp_path / "list.json").write_text(json.dumps({"training": [{"t1": "a.nii", "image": "b.nii"}]}))
    with pytest.warns(UserWarning, match=r"list.json: image left out"):
        assert discover(tmp_path / "list.json", image_column="t1") == [
            {"image": str(tmp_path / "a.nii"), "subject": "a"}
        ]


def test_all_problems_of_a_datalist_come_in_one_error(tmp_path):
    touch(tmp_path, "a.nii.gz")
    entries = [{"image": "a.nii.gz"}, {"image": "gone.nii.gz"}, {"label": "a.nii.gz"}, {"image": ["x", "y"]}, 3]
    content = {"training": entries, "validation": {"image": "a.nii.gz"}, "test": ["./a.nii.gz"]}
    (tmp_path / "list.json").write_text(json.dumps(content))
    message = refused(tmp_path / "list.json")
    image = repr(str(tmp_path / "a.nii.gz"))
    assert "6 problems" in message
    assert "list.json, training[2]: 'image' must be the path of one volume, got None" in message
    assert "list.json, training[3]: 'image' must be the path of one volume, got ['x', 'y']" in message
    assert "list.json, training[4]: 'image' must be the path of one volume, got 3" in message
    assert "list.json: 'validation' must be a list of entries, got {'image': 'a.nii.gz'}" in message
    assert f"list.json, training[1]: no such file: {str(tmp_path / 'gone.nii.gz')!r}" in message
    assert f"list.json, test[0]: {image} is listed before, in list.json, training[0]" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{\n  'training': []}", "list.json, line 2: not JSON: Expecting property name"),
        ("", "list.json, line 1: not JSON: Expecting value"),
        ("\udcff", "list.json: cannot be read: 'utf-8' codec can't decode byte 0xff"),
        ("[" * 200_000, "list.json: cannot be read"),
        ('{"channel_names": {}, "numTraining": 3}', "the keys there are: channel_names, numTraining"),
        ('["a.nii.gz"]', "the file holds a list"),
        ('{"training": [], "test": []}', "list.json: no entry in training, test"),
    ],
)
def test_a_datalist_that_cannot_be_used(tmp_path, content, expected):
    (tmp_path / "list.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    assert expected in refused(tmp_path / "list.json")


# ---- tables ----


def test_csv_is_relative_to_its_folder_and_keeps_file_order(tmp_path):
    touch(tmp_path, "t/b.nii.gz", "t/other/a.nii", "c.nii.gz", "t/masks/b.nii.gz")
    (tmp_path / "t/list.csv").write_text(
        "\ufeffage , image,site,mask\r\n"
        '31,b.nii.gz,"Zürich, CH",masks/b.nii.gz\r\n'
        "\r\n"
        ",other/a.nii,NA,\r\n"
        f"40,{tmp_path / 'c.nii.gz'},x,\r\n",
        encoding="utf-8",
        newline="",
    )
    assert discover(tmp_path / "t/list.csv", subject_from="**/{subject}") == [
        {"image": str(tmp_path / "t/b.nii.gz"), "subject": "b", "age": 31, "site": "Zürich, CH"}
        | {"mask": str(tmp_path / "t/masks/b.nii.gz")},
        {"image": str(tmp_path / "t/other/a.nii"), "subject": "a", "age": None, "site": None, "mask": None},
        {"image": str(tmp_path / "c.nii.gz"), "subject": "c", "age": 40, "site": "x", "mask": None},
    ]


@pytest.mark.parametrize("column", ["subject", "participant_id"])
def test_subject_column(tmp_path, column):
    touch(tmp_path, "1/T1.nii.gz", "2/T1.nii.gz")
    (tmp_path / "list.tsv").write_text(f"image\t{column}\n1/T1.nii.gz\t001\n2/T1.nii.gz\tna\n")
    records = discover(str(tmp_path / "list.tsv"))
    assert [record["subject"] for record in records] == ["001", "na"], "identifiers are text as it stands"
    assert [sorted(record) for record in records] == [["image", "subject"]] * 2


def test_image_column_by_name(tmp_path):
    touch(tmp_path, "a.nii.gz", "b.nii.gz")
    (tmp_path / "list.csv").write_text("t1,image\na.nii.gz,b.nii.gz\n")
    with pytest.warns(UserWarning, match=r"list.csv: image left out"):
        assert names(discover(tmp_path / "list.csv", image_column="t1"), tmp_path) == ["a.nii.gz"]
    assert names(discover(tmp_path / "list.csv"), tmp_path) == ["b.nii.gz"]


def test_the_session_a_table_states_stands(tmp_path):
    touch(tmp_path, "sub-1_ses-x_T1w.nii.gz", "sub-1_ses-y_T1w.nii.gz")
    (tmp_path / "list.csv").write_text("image,session\nsub-1_ses-x_T1w.nii.gz,1\nsub-1_ses-y_T1w.nii.gz,2\n")
    assert [(r["subject"], r["session"]) for r in discover(tmp_path / "list.csv")] == [("sub-1", 1), ("sub-1", 2)]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "-2", "+3"], [1, -2, 3]),
        (["1", "n/a", "NaN"], [1, None, None]),
        (["1", "2.5"], [1.0, 2.5]),
        ([".5", "-1e-3", "2."], [0.5, -0.001, 2.0]),
        (["0", "0.0"], [0.0, 0.0]),
        (["01", "2"], ["01", "2"]),
        (["1_000", "2"], ["1_000", "2"]),
        (["1e999", "2"], ["1e999", "2"]),
        (["12345678901234567890", "2"], ["12345678901234567890", "2"]),
        (["1", "x"], ["1", "x"]),
        (["None", "true"], ["None", "true"]),
        (["", "#N/A"], [None, None]),
    ],
)
def test_types_of_a_column(tmp_path, cells, expected):
    touch(tmp_path, *(f"{i}.nii" for i in range(len(cells))))
    rows = [f"{i}.nii,{cell}\n" for i, cell in enumerate(cells)]
    (tmp_path / "list.csv").write_text("image,x\n" + "".join(rows))
    found = [record["x"] for record in discover(tmp_path / "list.csv")]
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))


def test_semicolons_and_unnamed_columns_of_spreadsheets(tmp_path):
    touch(tmp_path, "a.nii", "b.nii")
    (tmp_path / "excel.csv").write_text("image;height;;\na.nii;1,5;;\nb.nii;1,6;;\n;;;\n")
    (tmp_path / "pandas.csv").write_text(",image,age\n0,a.nii,5\n1,b.nii,6\n")
    with pytest.warns(UserWarning, match=r"read as numbers: height: decimal commas \(2\)"):
        assert [r["height"] for r in discover(tmp_path / "excel.csv")] == [1.5, 1.6]
    assert [sorted(r) for r in discover(tmp_path / "pandas.csv")] == [["age", "image", "subject"]] * 2


def test_all_problems_of_a_table_come_in_one_error(tmp_path):
    touch(tmp_path, "a.nii", "b.nii")
    (tmp_path / "list.csv").write_text(
        "image,subject,age\na.nii,1,5\ngone.nii,2,6\n,3,7\nb.nii,,8\n./a.nii,4,9\nb.nii\n"
    )
    message = refused(tmp_path / "list.csv")
    assert "5 problems" in message
    assert f"list.csv, line 3: no such file: {str(tmp_path / 'gone.nii')!r}" in message
    assert "list.csv, line 4: 'image' must be the path of one volume, got None" in message
    assert "list.csv, line 5: no subject" in message
    assert f"list.csv, line 6: {str(tmp_path / 'a.nii')!r} is listed before, in list.csv, line 2" in message
    assert "list.csv, line 7: 1 fields, the header has 3" in message


def test_a_long_list_of_problems_is_cut_with_a_count(tmp_path):
    (tmp_path / "list.csv").write_text("image\n" + "".join(f"{i}.nii\n" for i in range(25)))
    lines = refused(tmp_path / "list.csv").splitlines()
    assert lines[0].endswith("25 problems")
    assert len(lines) == 12
    assert "line 11: no such file" in lines[10]
    assert lines[11] == "  - and 15 more"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "list.tsv: an empty table"),
        (b"\n\n", "list.tsv: an empty table"),
        (b"image\tage\n", "list.tsv: no rows below the header"),
        (
            b"path\tage\na.nii\t3\n",
            "list.tsv: no column 'image'; the columns there are: path, age (choose one with `image_column`)",
        ),
        (b"image\tage\tage\na.nii\t3\t4\n", "list.tsv: columns of the same name: age"),
        (b"image\tsite\na.nii\tZ\xfcrich\n", "list.tsv, line 2: not UTF-8 text"),
        (b"\xff\xfei\0m\0", "list.tsv, line 1: not UTF-8 text"),
        (b'image\tage\na.nii\t"3\n', "list.tsv, line 2: not a table: unexpected end of data"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path, content, expected):
    touch(tmp_path, "a.nii")
    (tmp_path / "list.tsv").write_bytes(content)
    assert expected in refused(tmp_path / "list.tsv")


def test_a_participants_file_that_is_none(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz")
    (tmp_path / "participants.tsv").mkdir()
    assert "participants.tsv: cannot be read: Is a directory" in refused(tmp_path)
    (tmp_path / "participants.tsv").rmdir()
    (tmp_path / "participants.tsv").symlink_to(".git/annex/gone")
    assert "participants.tsv: cannot be read: No such file" in refused(tmp_path)


CELL = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="\ufeff."), max_size=5).map("x{}".format)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(CELL, st.none() | st.integers(-(10**17), 10**17)), min_size=1, max_size=6), st.randoms())
def test_tables_give_back_what_was_written(rows, random):
    files = [f"{i}.nii.gz" for i in range(len(rows))]
    random.shuffle(files)
    with tempfile.TemporaryDirectory() as folder:
        touch(folder, *files)
        with open(Path(folder, "list.csv"), "w", newline="", encoding="utf-8") as table:
            writer = csv.writer(table)
            writer.writerow(["word", "image", "number"])
            writer.writerows((word, file, number) for file, (word, number) in zip(files, rows, strict=True))
        found = discover(Path(folder, "list.csv"), missing_values=[])
    assert [Path(record["image"]).name for record in found] == files
    assert [(record["word"], record["number"]) for record in found] == rows


# ---- folders, patterns, single files ----


def test_folder_in_natural_order_without_hidden_files_and_derivatives(tmp_path):
    touch(
        tmp_path,
        "b10.nii.gz",
        "b9.NII",
        "a/2/x.nii.gz",
        "a/10/x.nii.gz",
        "a/derivatives/y.nii.gz",
        ".cache/z.nii.gz",
        "._b9.nii",
        "notes.txt",
    )
    assert "lie at different depths" in refused(tmp_path)
    with pytest.warns(UserWarning, match=r"2 of 4 volumes don't match and are left out \(b9.NII, b10.nii.gz\)"):
        records = discover(tmp_path, subject_from="**/{subject}/x")
    assert names(records, tmp_path) == ["a/2/x.nii.gz", "a/10/x.nii.gz"]
    assert [record["subject"] for record in records] == ["2", "10"]
    (tmp_path / "notes.txt").unlink()
    for flat in ("b9.NII", "b10.nii.gz"):
        (tmp_path / "flat" / flat).parent.mkdir(exist_ok=True)
        (tmp_path / flat).rename(tmp_path / "flat" / flat)
    assert [record["subject"] for record in discover(tmp_path / "flat")] == ["b9", "b10"]


def test_folder_subjects_from_bids_names(tmp_path):
    touch(tmp_path, "sub-A/T1.nii.gz", "x/mri_sub-B_ses-2_run-3_T1w.nii.gz")
    assert [(r["subject"], r["session"], r["run"]) for r in discover(tmp_path)] == [
        ("sub-A", None, None),
        ("sub-B", "ses-2", "run-3"),
    ]


def test_folder_follows_links_once(tmp_path):
    touch(tmp_path, "disk/one/a.nii.gz", "cohort/b.nii.gz")
    (tmp_path / "cohort/linked").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/one/loop").symlink_to(tmp_path / "cohort")
    assert names(discover(tmp_path / "cohort"), tmp_path) == ["cohort/b.nii.gz", "cohort/linked/one/a.nii.gz"]


def test_a_link_keeps_its_own_name(tmp_path):
    touch(tmp_path, "annex/MD5E-0123.nii.gz")
    (tmp_path / "sub-1_T1w.nii.gz").symlink_to("annex/MD5E-0123.nii.gz")
    assert discover(tmp_path / "sub-1_T1w.nii.gz") == [
        {"image": str(tmp_path / "sub-1_T1w.nii.gz"), "subject": "sub-1"}
    ]


def test_pattern(tmp_path):
    touch(tmp_path, "g2/t1.nii.gz", "g10/t1.nii.gz", "g10/t1.json", "g10/t2.nii.gz", "g10/deep/t1.nii")
    assert names(discover(tmp_path / "*" / "t1*"), tmp_path) == ["g2/t1.nii.gz", "g10/t1.nii.gz"]
    assert [record["subject"] for record in discover(tmp_path / "*" / "t1*")] == ["g2", "g10"]
    everything = discover(tmp_path / "**" / "**" / "*.nii*", subject_from="{subject}/**")
    assert len(everything) == 4, "each file once"


def test_a_name_with_brackets_is_no_pattern_if_it_exists(tmp_path):
    touch(tmp_path, "scan[1].nii.gz")
    assert discover(tmp_path / "scan[1].nii.gz")[0]["subject"] == "scan[1]"


def test_relative_source_gives_absolute_paths(tmp_path, monkeypatch):
    touch(tmp_path, "data/a.nii.gz")
    monkeypatch.chdir(tmp_path)
    for source in ("data", "data/*", "./data/a.nii.gz", "../" + tmp_path.name + "/data"):
        assert discover(source) == [{"image": str(tmp_path / "data/a.nii.gz"), "subject": "a"}]


def test_records_point_at_volumes_that_load(tmp_path):
    touch(tmp_path, "sub-1/anat/x")
    volume = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "sub-1/anat/sub-1_T1w.nii.gz")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    (record,) = discover(tmp_path)
    np.testing.assert_array_equal(nibabel.load(record["image"]).get_fdata(), volume)
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("source", ["", "  ", None, 5, b"x", ["a.nii"]])
def test_source_of_the_wrong_type(source):
    with pytest.raises(ValueError, match=r"`source` must be a BIDS folder, .* or a glob pattern, got ") as caught:
        discover(source)
    assert repr(source) in str(caught.value)


def test_source_that_is_not_there(tmp_path):
    assert "a BIDS folder, a folder of NIfTI files or of DICOM folders, a datalist (.json)" in refused(
        tmp_path / "gone"
    )
    assert "and nothing is there" in refused(tmp_path / "gone.nii.gz")
    touch(tmp_path, "scan.dcm")
    assert "a file of another kind" in refused(tmp_path / "scan.dcm")


def test_nothing_found(tmp_path):
    touch(tmp_path, "notes.txt")
    assert "no .nii or .nii.gz file in this folder or below it" in refused(tmp_path)
    assert "no .nii, .nii.gz, .mgz or .mgh file matches this pattern" in refused(tmp_path / "*")


@pytest.mark.parametrize("name", ["suffix", "image_column"])
@pytest.mark.parametrize("value", ["", None, 3])
def test_names_must_be_strings(tmp_path, name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be a non-empty string or a list of such, got {value!r}"):
        discover(tmp_path, **{name: value})


def test_one_mgz_file_and_a_pattern_of_them(tmp_path):
    touch(tmp_path, "sub-1/mri/brain.mgz", "sub-2/mri/brain.mgz")
    assert discover(tmp_path / "sub-1" / "mri" / "brain.mgz")[0]["subject"] == "sub-1"
    assert [record["subject"] for record in discover(tmp_path / "sub-*" / "mri" / "brain.mgz")] == ["sub-1", "sub-2"]
    (tmp_path / "list.csv").write_text("image\nsub-2/mri/brain.mgz\n")
    assert discover(tmp_path / "list.csv")[0]["subject"] == "sub-2"


def test_a_source_whose_name_is_too_long_for_the_file_system(tmp_path):
    with pytest.raises(ValueError, match=r"`source` must be .*, and nothing is there"):
        discover(tmp_path / ("x" * 5000))


# ---- whose the volumes are ----


def by_file(records, root):
    return {file: record["subject"] for file, record in zip(names(records, root), records, strict=True)}


def test_one_file_under_two_subjects(tmp_path):
    touch(tmp_path, "store/1.nii.gz", "store/2.nii.gz")
    for subject, number in (("anna", 1), ("ben", 2), ("clara", 1)):
        (tmp_path / "cohort" / subject).mkdir(parents=True)
        (tmp_path / "cohort" / subject / "T1.nii.gz").symlink_to(tmp_path / f"store/{number}.nii.gz")
    message = refused(tmp_path / "cohort")
    assert "1 problem" in message
    clara, anna = (str(tmp_path / f"cohort/{subject}/T1.nii.gz") for subject in ("clara", "anna"))
    assert f"{clara!r} of subject clara is the same file as {anna!r} of subject anna" in message
    (tmp_path / "cohort/clara/T1.nii.gz").unlink()
    assert [record["subject"] for record in discover(tmp_path / "cohort")] == ["anna", "ben"]


def test_one_file_under_two_subjects_of_a_table_and_of_bids(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz", "sub-2/anat/x")
    (tmp_path / "sub-2/anat/sub-2_T1w.nii.gz").symlink_to("../../sub-1/anat/sub-1_T1w.nii.gz")
    assert "sub-2_T1w.nii.gz' of subject sub-2 is the same file as" in refused(tmp_path)
    files = ["sub-1/anat/sub-1_T1w.nii.gz", "sub-2/anat/sub-2_T1w.nii.gz"]
    (tmp_path / "list.csv").write_text(f"image,subject\n{files[0]},a\n{files[1]},b\n")
    assert "list.csv, line 3: " in refused(tmp_path / "list.csv")
    # two names of one file, of one subject: no leak, and said by the check of duplicates
    (tmp_path / "list.csv").write_text(f"image,subject\n{files[0]},a\n{files[1]},a\n")
    assert len(discover(tmp_path / "list.csv")) == 2


def test_groups_are_not_subjects(tmp_path):
    files = [f"groups/{group}/p{i}/T1.nii.gz" for i, group in enumerate(["AD", "AD", "CN", "CN", "MCI"])]
    touch(tmp_path, *files)
    expected = {file: file.split("/")[2] for file in files}
    assert by_file(discover(tmp_path / "groups"), tmp_path) == expected
    assert by_file(discover(tmp_path / "groups/*/*/T1.nii.gz"), tmp_path) == expected
    assert {record["group"] for record in discover(tmp_path)} == {"AD", "CN", "MCI"}
    (tmp_path / "groups/MCI").rename(tmp_path / "groups/oslo")
    message = refused(tmp_path / "groups/*/*/T1.nii.gz")
    assert '--subject_from "{subject}/*/T1"  3 subjects: AD, CN, oslo' in message
    assert '--subject_from "*/{subject}/T1"  5 subjects: p0, p1, p2 and 2 more' in message
    records = discover(tmp_path / "groups", subject_from="{group}/{subject}/*")
    assert [(record["group"], record["subject"]) for record in records][-1] == ("oslo", "p4")


def test_freesurfer_s_subjects(tmp_path):
    touch(tmp_path, *(f"subjects/{subject}/mri/brain.mgz" for subject in ("anna", "ben", "fsaverage")))
    with pytest.warns(UserWarning, match="1 of 3 volumes are FreeSurfer's templates"):
        records = discover(tmp_path / "subjects/*/mri/brain.mgz")
    assert [record["subject"] for record in records] == ["anna", "ben"]


def test_training_and_test_folders_are_a_split(tmp_path):
    touch(tmp_path, "train/anna/T1.nii.gz", "train/ben/T1.nii.gz", "val/clara/T1.nii.gz", "test/dora/T1.nii.gz")
    assert {record["subject"]: record["split"] for record in discover(tmp_path)} == {
        "anna": "training",
        "ben": "training",
        "clara": "validation",
        "dora": "test",
    }
    touch(tmp_path, "test/anna/T1.nii.gz")
    assert "have 'anna' with test, train: one subject, or several" in refused(tmp_path)


def test_decathlon_folders_without_their_list(tmp_path):
    touch(tmp_path, "imagesTr/hip_1.nii.gz", "imagesTr/hip_3.nii.gz", "imagesTs/hip_2.nii.gz")
    assert {record["subject"]: record["split"] for record in discover(tmp_path)} == {
        "hip_1": "training",
        "hip_3": "training",
        "hip_2": "test",
    }
    touch(tmp_path, "labelsTr/hip_1.nii.gz", "labelsTr/hip_3.nii.gz")
    message = refused(tmp_path)
    assert "several kinds, of which one must be chosen: imagestr (2), imagests (1), labelstr (2)" in message
    assert [record["subject"] for record in discover(tmp_path / "images*" / "*")] == ["hip_1", "hip_3", "hip_2"]


def test_dicom_folders(tmp_path):
    for folder in ("AD/anna/T1", "AD/ben/T1", "CN/clara/T1"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "IM_0001").write_bytes(b"\0" * 128 + b"DICM")
    assert by_file(discover(tmp_path), tmp_path) == {"AD/anna/T1": "anna", "AD/ben/T1": "ben", "CN/clara/T1": "clara"}
    assert [record["subject"] for record in discover(tmp_path, subject_from="{group}/{subject}/*")] == [
        "anna",
        "ben",
        "clara",
    ]


def test_several_volumes_of_one_subject_that_nothing_tells_apart(tmp_path):
    touch(tmp_path, "sub-1/a/x.nii.gz", "sub-1/b/x.nii.gz", "sub-2/a/x.nii.gz")
    message = refused(tmp_path)
    assert "1 of 2 visits have several volumes, such as a/x.nii.gz and b/x.nii.gz" in message
    records = discover(tmp_path, subject_from="{subject}/{session}/*")
    assert [(record["subject"], record["session"]) for record in records] == [
        ("sub-1", "a"),
        ("sub-1", "b"),
        ("sub-2", "a"),
    ]


# ---- BIDS entities ----

FMRIPREP = [
    f"sub-{subject}/anat/sub-{subject}_{rest}.nii.gz"
    for subject in ("01", "02")
    for rest in ("desc-preproc_T1w", "space-MNI152NLin2009cAsym_desc-preproc_T1w", "desc-brain_mask", "dseg")
]


def test_native_and_template_space_are_not_mixed(tmp_path):
    touch(tmp_path, "dataset_description.json", *FMRIPREP)
    message = refused(tmp_path)
    assert "2 of 2 visits have several volumes" in message
    assert (
        "they differ in space: choose with --entities space=none (2), --entities space=MNI152NLin2009cAsym (2)"
        in message
    )
    native, template = FMRIPREP[0::4], FMRIPREP[1::4]
    for entities in (
        "space=MNI152NLin2009cAsym",
        {"space": "MNI152NLin2009cAsym"},
        "space=MNI152NLin2009cAsym,desc=preproc",
    ):
        assert names(discover(tmp_path, entities=entities), tmp_path) == template
    for entities in ("space=none", {"space": None}):
        assert names(discover(tmp_path, entities=entities), tmp_path) == native
    assert "no volume has the entities space=T1w; there is space: none (2), MNI152NLin2009cAsym (2)" in refused(
        tmp_path, entities="space=T1w"
    )
    # a pattern of the same files
    assert names(discover(tmp_path / "sub-*/anat/*_T1w.nii.gz", entities="space=none"), tmp_path) == native
    assert "they differ in space" in refused(tmp_path / "sub-*/anat/*_T1w.nii.gz")


def test_spaces_that_differ_from_subject_to_subject(tmp_path):
    touch(tmp_path, "dataset_description.json", FMRIPREP[0], FMRIPREP[5])
    assert (
        "the volumes are mixed, space: none (1), MNI152NLin2009cAsym (1); choose one with --entities space=none (1)"
        in (refused(tmp_path))
    )


def test_nii_beside_nii_gz(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz", "sub-1/anat/sub-1_T1w.nii", "sub-2/anat/sub-2_T1w.nii")
    assert "the same name twice, .nii beside .nii.gz: remove one of each" in refused(tmp_path)
    touch(tmp_path / "flat", "anna.nii", "anna.nii.gz", "ben.nii")
    assert "the same name twice, .nii beside .nii.gz: remove one of each" in refused(tmp_path / "flat")


def test_what_a_bids_folder_has_instead_is_one_option_away(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_FLAIR.nii.gz", "sub-2/anat/sub-2_FLAIR.nii.gz")
    assert "there is FLAIR: choose with --suffix FLAIR" in refused(tmp_path)
    for subject in ("sub-1", "sub-2"):
        (tmp_path / f"{subject}/anat/{subject}_FLAIR.nii.gz").unlink()
        touch(tmp_path, f"{subject}/anat/mri/mwp1{subject}_T1w.nii.gz")
    pattern = os.path.join(tmp_path, "sub-*", "**", "*.nii*")
    assert f"a pattern reads other files, such as --dataset_dir {pattern!r}" in refused(tmp_path)
    assert [record["subject"] for record in discover(pattern)] == ["sub-1", "sub-2"]


def test_subject_from_is_not_for_bids_folders(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz")
    assert "`subject_from` isn't used for a BIDS folder" in refused(tmp_path, subject_from="{subject}/**")


# ---- tables that are joined ----


@pytest.mark.parametrize(
    ("folder", "row", "expected"),
    [
        ("sub-001", "1", "'sub-1' for 'sub-001'"),
        ("sub-001", "sub-1", "'sub-1' for 'sub-001'"),
        ("sub-a1", "sub-A1", "'sub-A1' for 'sub-a1'"),
        ("sub-P01", "P-01", "'sub-P-01' for 'sub-P01'"),
    ],
)
def test_participants_that_are_written_differently(tmp_path, folder, row, expected):
    touch(tmp_path, f"{folder}/anat/{folder}_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text(f"participant_id\tage\n{row}\t30\n")
    assert (
        "participants.tsv: no row is of a subject with volumes, although they are alike: "
        f"{expected}. Write them the same way" in refused(tmp_path)
    )


def test_participants_of_another_cohort(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-x\t30\n")
    assert "no row is of a subject with volumes: the volumes are of 'sub-1', the rows of 'sub-x'" in refused(tmp_path)


def test_a_pattern_of_bids_files_is_joined_with_participants(tmp_path):
    touch(tmp_path, *(f"bids/sub-{i}/anat/sub-{i}_T1w.nii.gz" for i in (1, 2)))
    (tmp_path / "bids/participants.tsv").write_text("participant_id\tage\nsub-1\t30\nsub-2\t31\n")
    for pattern in ("bids/sub-*/anat/*_T1w.nii.gz", "bids/**/*.nii.gz", "*/sub-*/anat/*"):
        assert [record["age"] for record in discover(tmp_path / pattern)] == [30, 31]
    (tmp_path / "bids/participants.tsv").write_text("participant_id\tage\nsub-01\t30\nsub-02\t31\n")
    assert "'sub-01' for 'sub-1', 'sub-02' for 'sub-2'" in refused(tmp_path / "bids/sub-*/anat/*_T1w.nii.gz")


def scans_folder(root, scans="age\tscanner\tscore\n", rows=("40\tA\t1", "n/a\tB\tn/a")):
    """Write one subject with two sessions, and an age in each of the three tables."""
    for session, row in zip((1, 2), rows, strict=True):
        touch(root, f"sub-1/ses-{session}/anat/sub-1_ses-{session}_T1w.nii.gz")
        other = f"anat/sub-1_ses-{session}_FLAIR.nii.gz\t{row}\n"
        own = f"anat/sub-1_ses-{session}_T1w.nii.gz\t{row}\n"
        table = root / f"sub-1/ses-{session}/sub-1_ses-{session}_scans.tsv"
        table.write_text(f"filename\t{scans}" + (other.replace("\tA", "\tX") + own if row else ""))
    (root / "participants.tsv").write_text("participant_id\tage\tscore\tsex\nsub-1\t20\t7\tF\n")
    (root / "sub-1/sub-1_sessions.tsv").write_text("session_id\tage\nses-1\t30\nses-2\t31\n")


def test_a_scan_s_own_value_stands_over_its_session_s_and_that_over_its_subject_s(tmp_path):
    scans_folder(tmp_path)
    assert [(r["sex"], r["age"], r["score"], r["scanner"]) for r in discover(tmp_path)] == [
        ("F", 40, 1, "A"),
        ("F", 31, 7, "B"),
    ]


def test_scans_without_sessions(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz", "sub-2/anat/sub-2_T1w.nii.gz")
    (tmp_path / "sub-1/sub-1_scans.tsv").write_text("filename\tage\nanat/sub-1_T1w.nii.gz\t33\n")
    assert [record["age"] for record in discover(tmp_path)] == [33, None]


def test_scans_that_lack_rows(tmp_path):
    scans_folder(tmp_path, rows=("40\tA\t1", ""))
    lacks = pytest.warns(UserWarning, match=r"_scans.tsv: 1 of 2 volumes have no row \(sub-1_ses-2_T1w.nii.gz\)")
    with lacks, pytest.raises(ValueError, match=r"sub-1_ses-2_scans.tsv: no rows below the header"):
        discover(tmp_path)
    scans_folder(tmp_path)
    table = tmp_path / "sub-1/ses-2/sub-1_ses-2_scans.tsv"
    table.write_text("filename\tscore\nanat/sub-1_ses-2_FLAIR.nii.gz\t3\n")
    with pytest.warns(UserWarning, match=r"_scans.tsv: 1 of 2 volumes have no row \(sub-1_ses-2_T1w.nii.gz\)"):
        assert [record["scanner"] for record in discover(tmp_path)] == ["A", None]


def test_scans_that_cannot_be_used(tmp_path):
    scans_folder(tmp_path)
    first, second = (tmp_path / f"sub-1/ses-{i}/sub-1_ses-{i}_scans.tsv" for i in (1, 2))
    first.write_text("file\tage\nx\t1\n")
    second.write_text("filename\tage\nanat/sub-1_ses-2_T1w.nii.gz\t1\nanat/sub-1_ses-2_T1w.nii.gz\t2\n")
    message = refused(tmp_path)
    assert "sub-1_ses-1_scans.tsv: no column 'filename'; the columns there are: file, age" in message
    assert "sub-1_ses-2_scans.tsv, line 3: 'anat/sub-1_ses-2_T1w.nii.gz' is listed before" in message
    for table in (first, second):
        table.write_text("filename\tage\nsub-1_T1w.nii.gz\t1\n")
    assert (
        "*_scans.tsv: no row names a volume of this cohort, such as 'sub-1_ses-1_T1w.nii.gz' by its path "
        "anat/sub-1_ses-1_T1w.nii.gz" in refused(tmp_path)
    )
