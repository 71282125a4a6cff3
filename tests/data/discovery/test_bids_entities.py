import pytest

from monai_betavae.data.discovery.bids_entities import check_entities, choose_by_entities, entities_of, refuse_several


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-01_space-MNI152_res-2_T1w.nii.gz", {"sub": "01", "space": "MNI152", "res": "2"}),
        ("sub-01_desc-pre-proc_T1w.nii", {"sub": "01", "desc": "pre-proc"}),
        ("T1w.nii", {}),
        ("my-file.nii.gz", {"my": "file"}),
        ("x_acq-.nii", {}),
    ],
)
def test_entities_of_a_name(name, expected):
    assert entities_of(f"/data/acq-folder/{name}") == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {}),
        ("space=MNI152", {"space": "MNI152"}),
        (" space = MNI152 , desc=none,", {"space": "MNI152", "desc": "none"}),
        ("space=space-MNI152", {"space": "MNI152"}),
        ({"space": "MNI152", "desc": None}, {"space": "MNI152", "desc": "none"}),
        ({"run": 1}, {"run": "1"}),
        ("desc=a=b", {"desc": "a=b"}),
    ],
)
def test_chosen_entities(given, expected):
    assert check_entities(given) == expected


@pytest.mark.parametrize(
    "given", ["", "space", "space=", "=MNI", "a b=c", ["space=MNI"], 3, {}, {"": "x"}, {"space": " "}]
)
def test_what_are_no_entities(given):
    with pytest.raises(ValueError, match="`entities` must be pairs such as space=MNI152NLin2009cAsym,desc=none"):
        check_entities(given)


def test_the_files_that_have_them():
    images = ["sub-1_T1w.nii", "sub-1_space-A_T1w.nii", "sub-1_space-A_desc-x_T1w.nii"]
    assert choose_by_entities(images, {}, []) == images
    assert choose_by_entities(images, {"space": "A"}, []) == images[1:]
    assert choose_by_entities(images, {"space": "none"}, []) == images[:1]
    assert choose_by_entities(images, {"space": "A", "desc": "none"}, []) == images[1:2]
    problems = []
    assert choose_by_entities(images, {"space": "B", "desc": "x"}, problems) == []
    assert problems == [
        "no volume has the entities space=B,desc=x; there is space: A (2), none (1); desc: none (2), x (1)"
    ]
    assert choose_by_entities([], {"space": "B"}, problems) == []
    assert len(problems) == 1, "that there is no file is said elsewhere"


def several(*images, subjects=None, **more):
    problems = []
    names = subjects or [image.split("_")[0] for image in images]
    rows = [
        {"image": f"/data/{image}", "subject": subject, **{key: values[i] for key, values in more.items()}}
        for i, (image, subject) in enumerate(zip(images, names, strict=True))
    ]
    refuse_several(rows, problems)
    return problems


@pytest.mark.parametrize("entity", ["space", "res", "rec", "acq", "desc", "part", "chunk", "echo", "ce", "inv"])
def test_volumes_of_one_visit_that_differ_in_an_entity(entity):
    (problem,) = several(f"sub-1_{entity}-a_T1w.nii.gz", f"sub-1_{entity}-b_T1w.nii.gz", f"sub-2_{entity}-a_T1w.nii.gz")
    assert problem == (
        f"1 of 2 visits have several volumes, such as sub-1_{entity}-a_T1w.nii.gz and sub-1_{entity}-b_T1w.nii.gz; "
        f"they differ in {entity}: choose with --entities {entity}=a (2), --entities {entity}=b (1)"
    )


def test_an_entity_that_one_of_them_lacks():
    (problem,) = several("sub-1_T1w.nii.gz", "sub-1_space-MNI_T1w.nii.gz")
    assert "choose with --entities space=none (1), --entities space=MNI (1)" in problem


def test_volumes_that_differ_in_their_ending_only():
    (problem,) = several("sub-1_T1w.nii", "sub-1_T1w.nii.gz", "sub-2_T1w.nii")
    assert problem == (
        "1 of 2 visits have several volumes, such as sub-1_T1w.nii and sub-1_T1w.nii.gz; the same name twice, .nii "
        "beside .nii.gz: remove one of each"
    )


def test_volumes_that_differ_in_nothing_that_is_known():
    (problem,) = several("sub-1/x/T1.nii", "sub-1/y/T1.nii", subjects=["sub-1", "sub-1"])
    assert "such as x/T1.nii and y/T1.nii; if these are kinds, take one with a pattern as --dataset_dir" in problem
    assert 'if they are sessions, name them with --subject_from, such as "{subject}/{session}/*"' in problem


def test_sessions_and_runs_are_several_visits():
    assert not several("sub-1_ses-1_T1w.nii", "sub-1_ses-2_T1w.nii", session=["ses-1", "ses-2"])
    assert not several("sub-1_run-1_T1w.nii", "sub-1_run-2_T1w.nii", run=["run-1", "run-2"])
    assert several("sub-1_run-1_T1w.nii", "sub-1_run-2_T1w.nii", run=["run-1", "run-1"])


@pytest.mark.parametrize("entity", ["space", "res", "den"])
def test_grids_that_differ_from_subject_to_subject(entity):
    (problem,) = several(f"sub-1_{entity}-a_T1w.nii", f"sub-2_{entity}-b_T1w.nii", "sub-3_T1w.nii")
    assert problem == (
        f"the volumes are mixed, {entity}: a (1), b (1), none (1); choose one with --entities {entity}=a (1), "
        f"--entities {entity}=b (1), --entities {entity}=none (1)"
    )


def test_other_entities_may_differ_from_subject_to_subject():
    assert not several("sub-1_acq-a_T1w.nii", "sub-2_acq-b_T1w.nii", "sub-3_T1w.nii")
