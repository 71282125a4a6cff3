"""Images of several contrasts that belong together: in BIDS folders, and in the columns of lists."""

import json
from pathlib import Path

import pytest

from monai_betavae.data import discover
from monai_betavae.data.discovery.matched_contrasts import match_contrasts


def bids(root, *names):
    """Make empty files of a BIDS folder; a name with a session stands in its folder."""
    for name in names:
        parts = name.split("_")
        place = [parts[0], *(part for part in parts[1:2] if part.startswith("ses-")), "anat"]
        path = root.joinpath(*place, f"{name}.nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def found(root, **options):
    """Return the names of the images of each record."""
    return {
        Path(record["image"]).name[:-7]: {key: Path(path).name[:-7] for key, path in record["other_images"].items()}
        for record in discover(root, **options)
    }


def test_images_of_one_visit_belong_together(tmp_path):
    bids(tmp_path, "sub-1_ses-1_T1w", "sub-1_ses-1_T2w", "sub-1_ses-1_FLAIR")
    bids(tmp_path, "sub-1_ses-2_T1w", "sub-1_ses-2_T2w", "sub-1_ses-2_FLAIR", "sub-1_ses-2_PDw")
    assert found(tmp_path, suffix=["T2w", "FLAIR", "T1w"]) == {
        f"sub-1_{ses}_T2w": {"FLAIR": f"sub-1_{ses}_FLAIR", "T1w": f"sub-1_{ses}_T1w"} for ses in ("ses-1", "ses-2")
    }
    records = discover(tmp_path, suffix=["T1w", "T2w"])
    assert json.loads(json.dumps(records)) == records
    # one suffix in a list is one suffix
    assert discover(tmp_path, suffix=["T1w"]) == discover(tmp_path)
    assert "other_images" not in discover(tmp_path)[0]


def test_a_suffix_may_hold_entities(tmp_path):
    bids(tmp_path, "sub-1_T1w", "sub-1_desc-preproc_T1w", "sub-1_desc-preproc_FLAIR", "sub-1_FLAIR")
    suffix = ["desc-preproc_T1w", "desc-preproc_FLAIR"]
    assert found(tmp_path, suffix=suffix) == {"sub-1_desc-preproc_T1w": {"FLAIR": "sub-1_desc-preproc_FLAIR"}}


def test_entities_must_agree_except_acquisition_and_run(tmp_path):
    bids(tmp_path, "sub-1_space-A_T1w", "sub-1_space-B_T2w", "sub-2_acq-mprage_T1w", "sub-2_acq-tse_T2w")
    with pytest.raises(ValueError, match=r"lack an image: sub-1_space-A_T1w\.nii\.gz has no T2w"):
        discover(tmp_path, suffix=["T1w", "T2w"])
    with pytest.warns(UserWarning, match=r"Left out: 2 of 3 volumes, which lack an image: sub-1_space-A_T1w\.nii\.gz"):
        kept = found(tmp_path, suffix=["T1w", "T2w"], on_incomplete="skip")
    assert kept == {"sub-2_acq-mprage_T1w": {"T2w": "sub-2_acq-tse_T2w"}}


def test_images_that_could_belong_to_several_are_refused(tmp_path):
    bids(tmp_path, "sub-1_T1w", "sub-1_run-1_T2w", "sub-1_run-2_T2w", "sub-2_T1w", "sub-2_T2w")
    message = r"which T2w belongs to which T1w: sub-1_T1w\.nii\.gz, sub-1_run-1_T2w\.nii\.gz, sub-1_run-2_T2w\.nii\.gz"
    for how in ("stop", "skip"):
        with pytest.raises(ValueError, match=message):
            discover(tmp_path, suffix=["T1w", "T2w"], on_incomplete=how)


def test_the_same_run_is_taken_where_there_are_several(tmp_path):
    bids(tmp_path, *(f"sub-1_run-{run}_{suffix}" for run in (1, 2) for suffix in ("T1w", "T2w")), "sub-1_run-3_T2w")
    expected = {f"sub-1_run-{run}_T1w": {"T2w": f"sub-1_run-{run}_T2w"} for run in (1, 2)}
    assert found(tmp_path, suffix=["T1w", "T2w"]) == expected


def test_entities_choose_the_first_image_and_what_belongs_to_it(tmp_path):
    bids(tmp_path, "sub-1_acq-a_T1w", "sub-1_acq-b_T1w", "sub-1_T2w")
    with pytest.raises(ValueError, match=r"it isn't clear which T2w belongs to which T1w.*choose with --entities"):
        discover(tmp_path, suffix=["T1w", "T2w"])
    kept = found(tmp_path, suffix=["T1w", "T2w"], entities="acq=b")
    assert kept == {"sub-1_acq-b_T1w": {"T2w": "sub-1_T2w"}}


def test_every_lacking_image_is_named(tmp_path):
    bids(tmp_path, "sub-1_T1w", "sub-2_T1w", "sub-2_T2w", "sub-3_T2w", "sub-4_T1w", "sub-4_T2w", "sub-4_FLAIR")
    with pytest.raises(ValueError, match="3 of 4 volumes lack an image") as error:
        discover(tmp_path, suffix=["T1w", "T2w", "FLAIR"])
    for told in ("sub-1_T1w.nii.gz has no T2w and no FLAIR", "sub-2_T1w.nii.gz has no FLAIR", "--on_incomplete skip"):
        assert told in str(error.value)
    assert "sub-3_T2w.nii.gz has no T1w" in str(error.value)
    (tmp_path / "sub-4" / "anat" / "sub-4_T2w.nii.gz").rename(tmp_path / "sub-4" / "anat" / "sub-4_PDw.nii.gz")
    with pytest.raises(ValueError, match=r"no volume has an image of every channel: sub-1_T1w\.nii\.gz has no T2w and"):
        discover(tmp_path, suffix=["T1w", "T2w", "FLAIR"], on_incomplete="skip")


def test_tables_join_as_for_one_channel(tmp_path):
    bids(tmp_path, "sub-1_T1w", "sub-1_T2w", "sub-2_T1w", "sub-2_T2w")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-1\t31\nsub-2\t45\n")
    one, two = discover(tmp_path), discover(tmp_path, suffix=["T1w", "T2w"])
    assert [{key: value for key, value in record.items() if key != "other_images"} for record in two] == one


def test_columns_of_a_table(tmp_path):
    for name in ("a1", "a2", "b1", "b2"):
        (tmp_path / f"{name}.nii").touch()
    table = tmp_path / "table.csv"
    table.write_text("subject,t1,t2,age\na,a1.nii,a2.nii,30\nb,b1.nii,b2.nii,40\nc,b1.nii,,50\n")
    with pytest.raises(ValueError, match=r"1 of 3 volumes lack an image: table\.csv, line 4 has no t2"):
        discover(table, image_column=["t1", "t2"])
    with pytest.warns(UserWarning, match=r"Left out: 1 of 3 volumes.*line 4 has no t2"):
        records = discover(table, image_column=["t1", "t2"], on_incomplete="skip")
    assert records == [
        {
            "image": str(tmp_path / f"{who}1.nii"),
            "subject": who,
            "age": age,
            "other_images": {"t2": str(tmp_path / f"{who}2.nii")},
        }
        for who, age in (("a", 30), ("b", 40))
    ]
    with pytest.raises(ValueError, match="no column 't3'; the columns there are: subject, t1, t2, age"):
        discover(table, image_column=["t1", "t3"])


def test_keys_of_a_datalist(tmp_path):
    for name in ("a1", "a2"):
        (tmp_path / f"{name}.nii").touch()
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": [{"subject": "a", "image": "a1.nii", "flair": "a2.nii"}]}))
    (record,) = discover(path, image_column=["image", "flair"])
    assert record == {
        "image": str(tmp_path / "a1.nii"),
        "subject": "a",
        "other_images": {"flair": str(tmp_path / "a2.nii")},
    }
    path.write_text(json.dumps({"training": [{"subject": "a", "image": "a1.nii", "flair": ["a2.nii"]}]}))
    with pytest.raises(ValueError, match=r"training\[0\]: 'flair' must be the path of one volume"):
        discover(path, image_column=["image", "flair"])


def test_a_file_is_one_image(tmp_path):
    for name in ("a1", "b1", "t2"):
        (tmp_path / f"{name}.nii").touch()
    table = tmp_path / "table.csv"
    table.write_text("subject,t1,t2\na,a1.nii,t2.nii\nb,b1.nii,t2.nii\n")
    with pytest.raises(ValueError, match=r"line 3: .*t2\.nii' is an image of .*b1\.nii' and already one of .*a1\.nii'"):
        discover(table, image_column=["t1", "t2"])
    table.write_text("subject,t1,t2\na,a1.nii,gone.nii\n")
    with pytest.raises(ValueError, match=r"line 2: no such file: .*gone\.nii"):
        discover(table, image_column=["t1", "t2"])


def test_what_is_refused(tmp_path):
    (tmp_path / "sub-1_T1w.nii.gz").touch()
    with pytest.raises(ValueError, match=r"`suffix` must be one for files without a list, got .*`image_column`"):
        discover(tmp_path, suffix=["T1w", "T2w"])
    for wrong in ([], ["T1w", ""], ["T1w", 2]):
        with pytest.raises(ValueError, match="`suffix` must be a non-empty string or a list of such"):
            discover(tmp_path, suffix=wrong)
    with pytest.raises(ValueError, match=r"`suffix` must name different images, got .*'T1w', 'T1w'"):
        discover(tmp_path, suffix=["T1w", "T1w"])
    with pytest.raises(ValueError, match="`on_incomplete` must be one of 'stop', 'skip', got 'drop'"):
        discover(tmp_path, on_incomplete="drop")
    bids(tmp_path / "bids", "sub-1_T1w")
    with pytest.raises(ValueError, match=r"no volume .*_T2w\.nii\[\.gz\] in this BIDS folder; there is T1w"):
        discover(tmp_path / "bids", suffix=["T1w", "T2w"])


def test_the_order_of_the_files_does_not_matter():
    firsts = [f"/d/sub-{n}_acq-{a}_T1w.nii" for n in range(3) for a in "ab"]
    others = [f"/d/sub-{n}_acq-{a}_T2w.nii" for n in range(3) for a in "ab"]
    expected = {first: {"T2w": other} for first, other in zip(firsts, others, strict=True)}
    found = match_contrasts({"T1w": firsts[::-1], "T2w": others[2:] + others[:2]}, ["T1w", "T2w"])
    assert (found.complete, found.lacking, found.ambiguous) == (expected, [], [])
    assert list(found.complete) == firsts[::-1]
