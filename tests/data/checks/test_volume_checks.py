"""check_volumes: a row per volume, problems and outliers named, nothing changed."""

import nibabel as nib
import numpy as np
import pytest
from awkward_volumes import AFFINE, READ, REFUSED, SHAPE, brain, save

from monai_betavae.data import check_volumes
from monai_betavae.data.checks.volume_checks import COLUMNS, summary

NOISE = np.random.default_rng(1).normal(0, 20, SHAPE)


def cohort(folder, n=20):
    rng = np.random.default_rng(0)
    return [
        {"image": str(save(folder / f"sub-{i}.nii.gz", brain() * rng.uniform(0.9, 1.1))), "subject": f"sub-{i}"}
        for i in range(n)
    ]


def test_every_kind_is_told_apart(tmp_path):
    records, expected = [], []
    for number, kind in enumerate([*READ, *REFUSED]):
        folder = tmp_path / str(number)
        folder.mkdir()
        writer = READ[kind] if kind in READ else REFUSED[kind][0]
        records.append({"image": str(writer(folder)), "subject": kind})
        expected.append(kind in REFUSED)
    table = check_volumes(records, progress=False)
    assert list(table.columns) == list(COLUMNS)
    assert list(table["subject"]) == [*READ, *REFUSED]
    assert [problem != "" for problem in table["problem"]] == expected
    by_header = check_volumes(records, voxels=False, progress=False, num_workers=1)
    in_header = [kind in REFUSED and REFUSED[kind][2] for kind in by_header["subject"]]
    assert [problem != "" for problem in by_header["problem"]] == in_header


def test_an_even_cohort_has_no_outliers(tmp_path):
    table = check_volumes(cohort(tmp_path), progress=False)
    assert (table["warning"] == "").all()
    assert (table["problem"] == "").all()
    assert set(table["shape"]) == {"12x14x10"}
    assert set(table["orientation"]) == {"RAS"}
    assert table["filled_ml"][0] == pytest.approx(np.count_nonzero(brain()) * 8 / 1000)
    assert "20 checked, 0 can't be used, 0 are unlike the others" in summary(table)


@pytest.mark.parametrize(
    ("values", "affine", "warning"),
    [
        (np.pad(brain(), 2), AFFINE, "shape 16x18x14, most have 12x14x10"),
        (brain(), np.diag([1.5, 2.0, 2.0, 1.0]), "spacing 1.5x2x2, most have 2x2x2"),
        (brain() * 100, AFFINE, "median intensity"),
        (brain() + 200, AFFINE, "background 200, most have 0"),
        (np.where(brain() > 0, brain(), 300 + brain()[::-1, ::-1, ::-1] + NOISE), AFFINE, "volume of the foreground"),
        (
            brain()[::-1].copy(),
            np.array([[-2.0, 0, 0, 22], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]),
            "orientation LAS",
        ),
    ],
    ids=["shape", "spacing", "intensity", "background", "not skull-stripped", "orientation"],
)
def test_what_is_unlike_the_others(tmp_path, values, affine, warning):
    records = cohort(tmp_path)
    odd = {"image": str(save(tmp_path / "odd.nii.gz", values, affine)), "subject": "odd"}
    table = check_volumes([*records, odd], progress=False)
    assert warning in table["warning"].iloc[-1]
    assert (table["warning"].iloc[:-1] == "").all()
    assert f"{odd['image']} {table['warning'].iloc[-1]}" in summary(table)


def test_two_scanners_are_not_outliers_of_one_another(tmp_path):
    records = cohort(tmp_path, 10)
    other = tmp_path / "other"
    other.mkdir()
    for number in range(8):
        path = save(other / f"{number}.nii.gz", np.pad(brain(), 1))
        records.append({"image": str(path), "subject": str(number)})
    assert not check_volumes(records, progress=False)["warning"].str.contains("shape").any()


def test_many_problems_stay_on_one_screen(tmp_path):
    (tmp_path / "empty.nii").touch()
    records = [{"image": str(tmp_path / "empty.nii"), "subject": str(i)} for i in range(100)]
    text = summary(check_volumes(records, progress=False))
    assert len(text.splitlines()) < 25
    assert "and 88 more such" in text


@pytest.mark.parametrize(
    ("own", "line"),
    [
        (
            ["2x2x2"],
            "  finer grid: --spacing 2.0 --spatial_shape '[96,120,96]' is as fine as the volumes: 3.4 times the ",
        ),
        (["1x1x1", "1x1x8", "1x1x1.1"], "--spacing 1.0 --spatial_shape '[192,240,192]' is as fine as the volumes: 27 "),
        (["2.5x2.5x2.5"], None),  # about as fine
        (["4x4x4"], None),
        ([""], None),  # unreadable
    ],
)
def test_a_grid_as_fine_as_the_volumes_is_offered(tmp_path, own, line):
    table = check_volumes(cohort(tmp_path, len(own)), progress=False)
    table["spacing"], table["grid_shape"], table["grid_spacing"] = own, "64x80x64", "3x3x3"
    text = summary(table)
    assert line in text if line else "finer grid" not in text
    table["grid_spacing"] = "3x3x4"
    assert "finer grid" not in summary(table)  # no single number for --spacing


def test_no_finer_grid_without_a_grid(tmp_path):
    assert "finer grid" not in summary(check_volumes(cohort(tmp_path, 2), progress=False))


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="`records` must each have a path under 'image'"):
        check_volumes([{"subject": "a"}])
    with pytest.raises(ValueError, match="`num_workers` must be"):
        check_volumes(cohort(tmp_path, 1), num_workers=0)


def test_every_channel_is_checked(tmp_path):
    values = np.random.default_rng(0).random((3, 8, 8, 8)).astype(np.float32)
    paths = [str(tmp_path / f"{name}.nii.gz") for name in ("one", "two", "three", "copy")]
    for path, image in zip(paths, [*values, values[1]], strict=True):
        nib.save(nib.Nifti1Image(image, np.eye(4)), path)
    good = {"image": paths[0], "subject": "a", "other_images": {"T2w": paths[1]}}
    copied = {"image": paths[2], "subject": "b", "other_images": {"T2w": paths[3]}}
    absent = {**good, "subject": "c", "other_images": {"T2w": str(tmp_path / "gone.nii.gz")}}
    same = {**good, "subject": "d", "other_images": {"T2w": paths[0]}}
    table = check_volumes([good, copied, absent, same], progress=False)
    assert table["problem"].tolist()[:2] == ["", ""]
    assert "has the T2w image" in table["problem"][2]
    assert "can't be read" in table["problem"][2]
    assert "has the voxels of the first image" in table["problem"][3]
    assert table["warning"][1] == f"has the voxels of the T2w image of {paths[0]}, subject a"
    assert table["duplicate_of"][1] == paths[0]
    assert table["image"].tolist() == [record["image"] for record in (good, copied, absent, same)]
