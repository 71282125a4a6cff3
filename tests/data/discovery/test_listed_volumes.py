import pytest
from file_trees import touch

from monai_betavae.data.discovery.listed_volumes import PERHAPS_SUBJECT_COLUMNS, SUBJECT_COLUMNS, subject_columns
from monai_betavae.data.discovery.sources import discover


def table(folder, header, *rows):
    """Write list.csv, with empty files for its column image, and return its path."""
    lines = [header, *rows]
    touch(folder, *(row.split(",")[0] for row in rows))
    (folder / "list.csv").write_text("".join(f"{line}\n" for line in lines))
    return folder / "list.csv"


def refused(source, **options):
    with pytest.raises(ValueError, match="`source`") as caught:
        discover(source, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["image", "age"], []),
        (["image", "subject"], ["subject"]),
        (["Participant_ID", "image"], ["Participant_ID"]),
        (["SubjectID", "PatientID", "participant_id"], ["participant_id", "SubjectID", "PatientID"]),
        (["ID", "code", "sub"], []),
    ],
)
def test_columns_that_hold_the_subject(columns, expected):
    assert subject_columns(columns) == expected


def test_names_of_columns_are_in_lower_case_and_have_one_meaning():
    assert all(name == name.casefold() for name in {*SUBJECT_COLUMNS, *PERHAPS_SUBJECT_COLUMNS})
    assert not PERHAPS_SUBJECT_COLUMNS.intersection(SUBJECT_COLUMNS)


@pytest.mark.parametrize("column", ["subject", "Subject", "participant_id", "PARTICIPANT", "Subject_ID", "PatientID"])
def test_the_column_says_the_subject_and_nothing_else_does(tmp_path, column):
    source = table(tmp_path, f"image,{column}", "sub-9/x.nii.gz,007", "anna.nii.gz,A b", "ben_1.nii.gz,007")
    assert [record["subject"] for record in discover(source)] == ["007", "A b", "007"]
    assert all(column not in record for record in discover(source) if column != "subject")


def test_two_columns_that_say_the_same(tmp_path):
    source = table(tmp_path, "image,subject_id,patient", "a.nii.gz,1,x", "b.nii.gz,2,y")
    assert [(record["subject"], record["patient"]) for record in discover(source)] == [("1", "x"), ("2", "y")]


def test_two_columns_that_say_different_subjects(tmp_path):
    source = table(tmp_path, "image,subject_id,patient", "a.nii.gz,1,x", "b.nii.gz,2,x", "c.nii.gz,3,y")
    message = refused(source)
    assert "list.csv: the columns subject_id, patient say different subjects; choose one with" in message
    assert "--subject_from subject_id or --subject_from patient" in message
    assert [record["subject"] for record in discover(source, subject_from="patient")] == ["x", "x", "y"]


@pytest.mark.parametrize("column", ["ID", "PTID", "eid", "case"])
def test_a_column_that_may_hold_the_subject_and_says_the_same_as_the_paths(tmp_path, column):
    source = table(tmp_path, f"image,{column},age", "anna.nii.gz,1,30", "ben.nii.gz,2,31")
    assert [(record["subject"], record[column]) for record in discover(source)] == [("anna", 1), ("ben", 2)]


@pytest.mark.parametrize("column", ["ID", "PTID", "eid", "case"])
def test_a_column_that_may_hold_the_subject_and_says_others_than_the_paths(tmp_path, column):
    # one row per volume, two volumes of each person: the paths alone would make four people of two
    source = table(tmp_path, f"image,{column}", "x1.nii.gz,7", "x2.nii.gz,7", "x3.nii.gz,8", "x4.nii.gz,8")
    message = refused(source)
    assert f"no column 'subject', and the paths say other subjects than the column {column!r} does (7, 8)" in message
    assert f"choose with --subject_from {column}, or --subject_from and a pattern of the paths" in message
    assert [record["subject"] for record in discover(source, subject_from=column)] == ["7", "7", "8", "8"]
    by_path = discover(source, subject_from="{subject}")
    assert [record["subject"] for record in by_path] == ["x1", "x2", "x3", "x4"]


def test_a_column_by_name_keeps_its_text(tmp_path):
    source = table(tmp_path, "image,code,age", "a.nii.gz,007,30", "b.nii.gz,012,31", "c.nii.gz,007,32")
    found = discover(source, subject_from="code")
    assert [record["subject"] for record in found] == ["007", "012", "007"]
    assert "code" not in found[0]
    assert "no column 'cod' for `subject_from`; the columns there are: image, code, age" in refused(
        source, subject_from="cod"
    )


def test_a_pattern_of_a_table_s_paths(tmp_path):
    source = table(tmp_path, "image,age", "AD/01/x.nii.gz,30", "CN/01/x.nii.gz,31")
    assert "whose the 2 volumes are can't be told" not in refused(source, subject_from="{subject")
    assert "`subject_from` must be a pattern" in refused(source, subject_from="{subject")
    found = discover(source, subject_from="{subject1}/{subject2}/*")
    assert [(record["subject"], record["age"]) for record in found] == [("AD_01", 30), ("CN_01", 31)]


def test_a_pattern_that_some_rows_do_not_match(tmp_path):
    source = table(tmp_path, "image,age", "a_T1.nii.gz,30", "a_T2.nii.gz,30", "b_T1.nii.gz,31")
    with pytest.warns(UserWarning, match="1 of 3 volumes don't match and are left out"):
        assert [record["subject"] for record in discover(source, subject_from="{subject}_T1")] == ["a", "b"]


def test_paths_of_a_table_that_do_not_say_whose_they_are(tmp_path):
    source = table(tmp_path, "image,age", "oslo/p1.nii.gz,3", "oslo/p2.nii.gz,4", "bergen/p3.nii.gz,5")
    message = refused(source)
    assert "list.csv: whose the 3 volumes are can't be told" in message
    assert '--subject_from "*/{subject}"  3 subjects: p1, p2, p3' in message


def test_paths_of_a_table_give_sessions_but_no_groups(tmp_path):
    source = table(tmp_path, "image,group", "AD/p1/visit1.nii.gz,x", "AD/p1/visit2.nii.gz,x", "CN/p2/visit1.nii.gz,y")
    assert [(r["subject"], r["session"], r["group"]) for r in discover(source)] == [
        ("p1", "visit1", "x"),
        ("p1", "visit2", "x"),
        ("p2", "visit1", "y"),
    ]


def test_a_table_above_and_beside_its_files(tmp_path):
    touch(tmp_path, "data/anna/T1.nii.gz", "data/ben/T1.nii.gz")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/list.csv").write_text("image\n../data/anna/T1.nii.gz\n../data/ben/T1.nii.gz\n")
    assert [record["subject"] for record in discover(tmp_path / "tables/list.csv")] == ["anna", "ben"]


def test_one_row(tmp_path):
    assert discover(table(tmp_path, "image,ID", "x/anna.nii.gz,5"))[0]["subject"] == "anna"


def test_a_subject_that_a_row_lacks(tmp_path):
    source = table(tmp_path, "image,subject", "a.nii.gz,1", "b.nii.gz,", "c.nii.gz,n/a")
    message = refused(source)
    assert "list.csv, line 3: no subject" in message
    assert "list.csv, line 4: no subject" in message


def test_files_listed_twice_are_told_with_both_places(tmp_path):
    message = refused(table(tmp_path, "image,age", "a.nii.gz,1", "b.nii.gz,2", "./a.nii.gz,3"))
    assert "list.csv, line 4: " in message
    assert "is listed before, in list.csv, line 2" in message
