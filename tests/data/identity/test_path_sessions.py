import pytest

from monai_betavae.data.identity.path_sessions import is_session_folder, session_words, sessions_of


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("anna/T1", []),
        ("anna/visit2/T1", ["visit2"]),
        ("anna/Visit-02/T1", ["Visit02"]),
        ("anna_2019-01-31_16_17_47.0", ["2019-01-31_16_17_47.0"]),
        ("anna/baseline/m06", ["baseline", "m06"]),
        ("sub-OAS30001_sess-d0129_T1w", ["sessd0129"]),
        ("timepoint_A/anna", ["timepointA"]),
        # numbers of other things
        ("visit_464335/T1", []),
        ("visit_anna/T1", []),
        ("mp2rage/T1", []),
    ],
)
def test_words_for_sessions(path, words):
    assert session_words(path) == words


def test_what_all_paths_have_is_no_session():
    paths = ["visit1/anna_20190131", "visit1/anna_20200131", "visit1/ben_20190211"]
    assert sessions_of(paths, ["anna", "anna", "ben"]) == ["20190131", "20200131", "20190211"]


def test_a_subject_of_whom_one_volume_has_no_session_has_none():
    # the other may be another kind of image, and a session's name would hide that there are two
    assert sessions_of(["anna_visit1", "anna_visit1bet", "ben_visit1"], ["anna", "anna", "ben"]) == ["", "", "visit1"]


@pytest.mark.parametrize("folder", ["ses-1", "ses-pre", "visit2", "Visit_2", "tp-1", "baseline", "20190131", "wave 3"])
def test_folders_of_sessions(folder):
    assert is_session_folder(folder)


@pytest.mark.parametrize("folder", ["anna", "siteA", "session-of-anna", "2", "T1", "sub-01"])
def test_other_folders(folder):
    assert not is_session_folder(folder)
