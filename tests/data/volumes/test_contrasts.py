"""Names of channels."""

import pytest

from monai_betavae.data.volumes.contrasts import contrast_names


@pytest.mark.parametrize(
    ("suffix", "column", "names"),
    [
        (None, None, None),
        ("T1w", "image", None),
        (["T1w"], ["image"], None),
        (["T1w", "T2w"], "image", ["T1w", "T2w"]),
        (["desc-a_T1w", "desc-b_T1w"], None, ["desc-a_T1w", "desc-b_T1w"]),
        ("T1w", ["t1", "t2"], ["t1", "t2"]),
        (["T1w", "T2w"], ["T1w", "T2w"], ["T1w", "T2w"]),
    ],
)
def test_channels_are_named_after_suffixes_or_columns(suffix, column, names):
    assert contrast_names(suffix, column) == names


def test_two_lists_must_agree():
    with pytest.raises(ValueError, match="`suffix` and `image_column` must not name different channels"):
        contrast_names(["T1w", "T2w"], ["t1", "t2"])
