import unicodedata
import warnings

import pytest

from monai_betavae.data.identity.path_records import path_records


def records(paths, **options):
    return path_records([f"/data/{path}.nii.gz" for path in paths.split()], "/data", **options)


def subjects(paths, **options):
    return [record["subject"] for record in records(paths, **options)]


def refused(paths, **options):
    with pytest.raises(ValueError, match=r"whose the \d+ volumes are can't be told: they ") as caught:
        records(paths, **options)
    return str(caught.value)


def test_no_file():
    assert path_records([], "/data") == []


def test_a_record_is_what_the_path_says():
    assert records("AD/anna/visit1 AD/anna/visit2 CN/ben/visit1") == [
        {"image": "/data/AD/anna/visit1.nii.gz", "subject": "anna", "session": "visit1", "group": "AD"},
        {"image": "/data/AD/anna/visit2.nii.gz", "subject": "anna", "session": "visit2", "group": "AD"},
        {"image": "/data/CN/ben/visit1.nii.gz", "subject": "ben", "session": "visit1", "group": "CN"},
    ]


def test_the_refusal_is_one_screen_with_lines_to_type():
    paths = " ".join(f"{site}/p{number}/T1" for number, site in enumerate(["oslo", "bergen"] * 100))
    assert refused(paths).splitlines() == [
        "whose the 200 volumes are can't be told: "
        "they differ in 2 parts of their paths, and each could be the subject.",
        "  oslo/p0/T1.nii.gz",
        "  bergen/p1/T1.nii.gz",
        "  oslo/p2/T1.nii.gz",
        "  ... 196 more",
        "  bergen/p199/T1.nii.gz",
        "Say whose they are with one of",
        '  --subject_from "{subject}/*/T1"  2 subjects: oslo, bergen',
        '  --subject_from "*/{subject}/T1"  200 subjects: p0, p1, p2 and 197 more',
        "or give a table (.csv, .tsv) with the columns image and subject as --dataset_dir.",
    ]


def test_a_refusal_without_readings_says_what_a_pattern_is():
    assert 'a pattern, such as --subject_from "{subject}/*" or "{subject}_T1",' in refused("anna ben mean")


# ---- names with sub- ----


def test_entities_of_bids():
    found = records("sub-1/ses-2/sub-1_ses-2_run-1_T1w sub-1/ses-2/sub-1_ses-2_run-2_T1w sub-A/T1w")
    assert [(r["subject"], r.get("session"), r.get("run")) for r in found] == [
        ("sub-1", "ses-2", "run-1"),
        ("sub-1", "ses-2", "run-2"),
        ("sub-A", None, None),
    ]


@pytest.mark.parametrize(
    ("paths", "sessions"),
    [
        ("sub-1/baseline/T1 sub-1/followup/T1 sub-2/baseline/T1", ["baseline", "followup", "baseline"]),
        ("sub-1/sub-1_visit1 sub-1/sub-1_visit2 sub-2/sub-2_visit1", ["visit1", "visit2", "visit1"]),
        ("visit1/sub-1 visit2/sub-1 visit1/sub-2", ["visit1", "visit2", "visit1"]),
        ("sub-1_20190131 sub-1_20200131 sub-2_20190211", ["20190131", "20200131", "20190211"]),
        (
            "OAS30001_MR_d0129/sub-OAS30001_sess-d0129_T1w OAS30001_MR_d0757/sub-OAS30001_sess-d0757_T1w",
            ["sessd0129", "sessd0757"],
        ),
    ],
)
def test_sessions_that_are_not_named_as_in_bids(paths, sessions):
    assert [record["session"] for record in records(paths)] == sessions


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        ("siteA/sub-01/T1 siteB/sub-01/T1", "have 'sub-01' in 'siteA' and in 'siteB': one subject, or two"),
        ("sub-01 siteB/sub-01/T1", "have 'sub-01' in '.' and in 'siteB'"),
        ("sub-1_T1w sub-01_T1w", "could be one subject's or two subjects': 'sub-1' and 'sub-01'"),
        ("sub-a1_T1w sub-A1_T1w", "could be one subject's or two subjects': 'sub-a1' and 'sub-A1'"),
        ("sub-01T1 sub-01seg sub-02T1", "could be one subject's or two subjects': 'sub-01T1' and 'sub-01seg'"),
        ("sub-01 sub-01pre sub-02", "could be one subject's or two subjects': 'sub-01' and 'sub-01pre'"),
        ("sub-01visit1 sub-01visit2", "could be one subject's or two subjects': 'sub-01visit1' and 'sub-01visit2'"),
        ("sub-01_T1w sub-01_T2w sub-02_T1w", "several kinds, of which one must be chosen: T1w (2), T2w (1)"),
        ("sub-01_T1w sub-02_desc-brain_mask", "several kinds, of which one must be chosen: T1w (1), mask (1)"),
        ("sub-01/T1 sub-01/T2 sub-02/T1", "several kinds, of which one must be chosen: t1 (2), t2 (1)"),
        ("sub-01 sub-01-2 sub-02", "named by sub- and letters or digits in 2 of 3 cases only, not sub-01-2.nii.gz"),
        ("sub-01-1 sub-01-2 sub-02-1", "have '01' with 1, 2: one subject, or several"),
        ("sub-01.visit2 sub-01.visit1x sub-02.visit2", "have '01' with visit1x, visit2: one subject, or several"),
    ],
)
def test_names_with_sub_that_do_not_say_enough(paths, reason):
    assert reason in refused(paths)


def test_options_for_names_with_sub():
    message = refused("siteA/sub-01/T1 siteB/sub-01/T1")
    assert '--subject_from "{subject1}/{subject2}/**"  for subjects of their own in every folder' in message
    assert subjects("siteA/sub-01/T1 siteB/sub-01/T1", subject_from="{subject1}/{subject2}/**") == [
        "siteA_sub-01",
        "siteB_sub-01",
    ]
    assert '--dataset_dir "/data/**/*T1w.nii*"' in refused("sub-01_T1w sub-01_T2w sub-02_T1w")
    assert '--dataset_dir "/data/**/sub-*/**/*"' in refused("sub-01/T1 sub-02/T1 phantom/T1")
    assert '--dataset_dir "/data/**/sub-*"' in refused("sub-01 sub-02 phantom")


def test_a_label_of_bids_is_believed():
    # twins and groups: what stands after sub- is the subject's
    assert subjects("sub-01a sub-01b sub-CON01 sub-PAT01") == ["sub-01a", "sub-01b", "sub-CON01", "sub-PAT01"]


# ---- FreeSurfer's templates ----


def test_templates_beside_subjects_are_left_out_with_a_warning():
    with pytest.warns(
        UserWarning, match=r"^1 of 3 volumes are FreeSurfer's templates.* \(fsaverage/mri/brain.nii.gz\)"
    ):
        assert subjects("anna/mri/brain ben/mri/brain fsaverage/mri/brain") == ["anna", "ben"]
    with pytest.warns(UserWarning, match="2 of 4 volumes are FreeSurfer's templates"):
        assert subjects("sub-1/brain sub-2/brain fsaverage5/brain fsaverage/brain") == ["sub-1", "sub-2"]
    with pytest.warns(UserWarning, match="1 of 2 volumes are"):
        assert subjects("anna/mri/brain fsaverage/mri/brain", subject_from="{subject}/**") == ["anna"]


def test_templates_alone_are_taken():
    assert subjects("fsaverage/T1 fsaverage5/T1", subject_from="{subject}/*") == ["fsaverage", "fsaverage5"]


# ---- patterns ----


def test_a_pattern_says_it_all():
    found = records("oslo/p1/v2 bergen/p1/v1", subject_from="{site}/{subject}/{session}")
    assert found == [
        {"image": "/data/oslo/p1/v2.nii.gz", "subject": "p1", "site": "oslo", "session": "v2"},
        {"image": "/data/bergen/p1/v1.nii.gz", "subject": "p1", "site": "bergen", "session": "v1"},
    ]


def test_the_ending_may_be_given_or_left_out():
    for pattern in ("{subject}_T1", "{subject}_T1.nii.gz", "{subject}_T1.nii*"):
        assert subjects("anna_T1 ben_T1", subject_from=pattern) == ["anna", "ben"]


def test_files_that_do_not_match_are_counted_and_named():
    with pytest.warns(
        UserWarning, match=r"--subject_from {subject}_T1: 2 of 4 volumes don't match and are left out \(anna_T2.nii.gz"
    ):
        assert subjects("anna_T1 anna_T2 ben_T1 ben_T2", subject_from="{subject}_T1") == ["anna", "ben"]
    with pytest.raises(ValueError, match=r"`subject_from` '{subject}/\*' must match the paths .* such as anna.nii.gz"):
        records("anna ben", subject_from="{subject}/*")


def test_all_records_have_the_same_keys():
    with warnings.catch_warnings(record=True):
        found = records("sub-1/ses-1/x ben/y", subject_from="{subject}/**")
    assert [sorted(record) for record in found] == [["image", "session", "subject"]] * 2
    assert found[1]["session"] is None


def test_accents_that_macos_writes_apart():
    apart = unicodedata.normalize("NFD", "Zoë")
    assert apart != "Zoë"
    assert subjects(f"{apart}/Zoë_visit1 Zoë/{apart}_visit2 Ida/Ida_visit1") == ["Zoë", "Zoë", "Ida"]
    assert subjects(f"Zoë_1 {apart}_2", subject_from="{subject}_?") == ["Zoë", "Zoë"]
    assert subjects(f"x_{apart}_1", subject_from=f"x_{apart}_{{subject}}") == ["1"]
    image = records(f"{apart}/T1 ben/T1")[0]["image"]
    assert image == f"/data/{apart}/T1.nii.gz", "the file's own name opens it"
