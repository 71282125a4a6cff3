import pytest

from monai_betavae.data.identity.readings import channel_readings, depth_readings, kind_readings, prefix_readings


@pytest.mark.parametrize(
    ("paths", "kinds", "expected"),
    [
        # images before maps, and maps before segmentations
        ("a_t1 a_brain a_seg b_t1 b_brain b_seg", ["seg", "brain", "t1"],
         ['--subject_from "{subject}_t1"  2 subjects: a, b']),
        ("a_brain a_seg b_brain b_seg", ["seg", "brain"], ['--subject_from "{subject}_brain"  2 subjects: a, b']),
        ("a a_seg b b_seg", ["seg"], ['--subject_from "{subject}_seg"  2 subjects: a, b']),
        # as it is written
        ("a_T1 a_T2 b_T1 b_T2", ["T2"], ['--subject_from "{subject}_T2"  2 subjects: a, b']),
        # of one subject only, in all paths, or glued to the name
        ("a_t1 b_t2 c_t2 d_x", ["t1"], []),
        ("a_t1 b_t1", ["t1"], []),
        ("at1 at2 bt1 bt2", ["t1"], []),
    ],
)  # fmt: skip
def test_patterns_that_take_one_kind(paths, kinds, expected):
    assert kind_readings(paths.split(), kinds) == expected


def test_patterns_for_files_at_several_depths():
    assert depth_readings(["anna/T1", "ben/x/T1", "ben/y/T1"]) == [
        '--subject_from "{subject}/**"  2 subjects: anna, ben',
        '--subject_from "**/{subject}/*"  3 subjects: anna, x, y',
    ]


def test_patterns_that_take_one_channel_or_prefix():
    assert channel_readings(["a_0000", "a_0001", "b_0000", "b_0001"], ["0001"]) == [
        '--subject_from "**/{subject}_0001"  2 subjects: a, b'
    ]
    assert prefix_readings(["mri/c1a", "mri/c2a", "mri/c1b", "mri/c2b"], 1, ["c2"]) == [
        '--subject_from "*/c2{subject}"  2 subjects: a, b'
    ]
