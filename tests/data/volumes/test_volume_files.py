"""Every awkward kind of volume is read rightly, every broken one refused by name, and no file is changed."""

import gc
import gzip
import hashlib

import nibabel as nib
import numpy as np
import pytest
from awkward_volumes import READ, REFUSED, SHAPE, brain, save

from monai_betavae.data import brain_transforms
from monai_betavae.data.volumes.volume_files import read_header, read_voxels, repair_non_finite, voxel_problem


def digest(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_there_are_enough_kinds():
    assert len(READ) + len(REFUSED) >= 20


@pytest.mark.parametrize("kind", READ)
@pytest.mark.filterwarnings("ignore:.*non-finite voxels")
def test_awkward_volumes_are_read_rightly(tmp_path, kind):
    path = READ[kind](tmp_path)
    before = digest(tmp_path)
    transform = brain_transforms(SHAPE, percentiles=(0, 99))
    sample = transform({"image": str(path)})
    # no_code.nii.gz has no orientation: nibabel takes the left for the right, as NIfTI's reader of reference does
    expected = transform({"image": str(save(tmp_path / "expected.nii.gz", brain()))})
    found = sample["image"].flip(1) if kind == "no orientation code" else sample["image"]
    difference = (found - expected["image"]).abs()
    # uint8 rounds to a step of 4 in 900, the NaN takes its neighbours' mean, the hot voxel is clipped
    loose = {"uint8": 0.006, "one NaN": 0.03, "a hot voxel": 1.0, "int16 with a slope": 1e-3}
    assert float(difference.max()) <= loose.get(kind, 1e-5)
    assert int((difference > 0.006).sum()) <= 1
    (tmp_path / "expected.nii.gz").unlink()
    assert digest(tmp_path) == before


@pytest.mark.parametrize("kind", REFUSED)
def test_broken_volumes_are_refused_by_name(tmp_path, kind):
    writer, message, in_header = REFUSED[kind]
    path = writer(tmp_path)
    before = digest(tmp_path)
    with pytest.raises(RuntimeError) as caught:  # MONAI wraps what a transform raises
        brain_transforms(SHAPE)({"image": str(path)})
    assert isinstance(caught.value.__cause__, ValueError)
    assert str(path) in str(caught.value.__cause__)
    if in_header:
        with pytest.raises(ValueError, match=message) as by_header:
            read_header(path)
        assert str(by_header.value).startswith(str(path))
    else:
        assert read_header(path) is not None
    assert digest(tmp_path) == before


@pytest.mark.parametrize("kind", [kind for kind, (_, _, in_header) in REFUSED.items() if not in_header])
def test_what_only_voxels_tell(tmp_path, kind):
    writer, message, _ = REFUSED[kind]
    path = writer(tmp_path)
    with pytest.raises(RuntimeError) as caught:
        brain_transforms(SHAPE)({"image": str(path)})
    with pytest.raises(ValueError, match=message):
        raise caught.value.__cause__


def test_isolated_nan_is_repaired_with_a_warning(tmp_path):
    path = READ["one NaN"](tmp_path)
    with pytest.warns(UserWarning, match=r"one_nan.nii.gz has 1 non-finite voxels"):
        sample = brain_transforms(SHAPE)({"image": str(path)})
    assert bool(sample["image"].isfinite().all())


def test_repair_takes_the_mean_of_finite_neighbours():
    values = np.zeros((5, 5, 5), np.float32)
    values[1:4, 1:4, 1:4] = np.arange(27).reshape(3, 3, 3)
    values[2, 2, 2], values[2, 2, 3] = np.nan, np.inf
    around = np.delete(np.arange(27), [13, 14])
    repaired = repair_non_finite(values)
    assert repaired[2, 2, 2] == pytest.approx(around.mean())
    untouched = np.isfinite(values)
    np.testing.assert_array_equal(repaired[untouched], values[untouched])


def test_repair_without_finite_neighbours_is_zero():
    values = np.ones((7, 7, 7), np.float32)
    values[2:5, 2:5, 2:5] = np.nan
    assert repair_non_finite(values)[3, 3, 3] == 0


def test_up_to_one_percent_is_repaired():
    values = np.random.default_rng(0).normal(size=1000).reshape(10, 10, 10)
    values.reshape(-1)[:10] = np.nan
    assert voxel_problem(values) is None
    values.reshape(-1)[:11] = np.nan
    assert "11 non-finite voxels" in voxel_problem(values)


def test_voxels_are_scaled_by_the_header(tmp_path):
    path = READ["int16 with a slope"](tmp_path)
    np.testing.assert_allclose(read_voxels(path, read_header(path)), brain(), atol=0.051)


def test_a_mask_empties_what_is_outside(tmp_path):
    inside = brain() > 700
    record = {
        "image": str(save(tmp_path / "a.nii.gz", brain() + 10)),
        "mask": str(save(tmp_path / "mask.nii.gz", inside.astype(np.uint8))),
    }
    image = brain_transforms(SHAPE, mask_key="mask")(record)["image"][0].numpy()
    np.testing.assert_array_equal(image > 0, inside)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((3, 3, 3), np.uint8), "must be on the grid of"),
        (np.zeros(SHAPE, np.uint8), "must have a voxel above 0"),
        (None, "must have a mask's path under 'mask', got None"),
    ],
)
def test_masks_that_do_not_fit(tmp_path, mask, message):
    record = {"image": str(save(tmp_path / "a.nii.gz", brain()))}
    if mask is not None:
        record["mask"] = str(save(tmp_path / "mask.nii.gz", mask))
    with pytest.raises(RuntimeError) as caught:
        brain_transforms(SHAPE, mask_key="mask")(record)
    assert message in str(caught.value.__cause__)


# ---- names that say another compression or kind ----------------------------------------------------------------------


def image_bytes(tmp_path, ending):
    kind = nib.MGHImage if ending.startswith(".mg") else nib.Nifti2Image if ending == ".ni2" else nib.Nifti1Image
    path = tmp_path / f"source{'.nii' if ending == '.ni2' else ending}"
    nib.save(kind(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.eye(4)), path)
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.mark.parametrize(
    ("kind", "times", "name", "message"),
    [
        (".nii", 1, "a.nii", "is gzip-compressed but its name doesn't end in .gz: rename it to a.nii.gz"),
        (".ni2", 1, "a.nii", "is gzip-compressed but its name doesn't end in .gz: rename it to a.nii.gz"),
        (".nii", 1, "a.nii.gz.nii", "is gzip-compressed but its name doesn't end in .gz: rename it to a.nii.gz"),
        (".nii", 1, "a.nii.nii", "is gzip-compressed but its name doesn't end in .gz: rename it to a.nii.gz"),
        (".nii", 0, "a.nii.gz", "isn't gzip-compressed but its name ends in .gz: rename it to a.nii"),
        (".ni2", 0, "A.NII.GZ", "isn't gzip-compressed but its name ends in .gz: rename it to A.nii"),
        (".nii", 0, "a.nii.nii.gz", "isn't gzip-compressed but its name ends in .gz: rename it to a.nii"),
        (".mgh", 1, "a.mgh", "is gzip-compressed but its name doesn't end in .mgz: rename it to a.mgz"),
        (".mgh", 0, "a.mgz", "isn't gzip-compressed but its name ends in .mgz: rename it to a.mgh"),
        (
            ".mgh",
            1,
            "a.nii.gz",
            "holds an MGH volume, gzip-compressed, but its name ends in .nii.gz: rename it to a.mgz",
        ),
        (".mgh", 0, "a.nii", "holds an MGH volume but its name ends in .nii: rename it to a.mgh"),
        (".nii", 1, "a.mgz", "holds a NIfTI volume, gzip-compressed, but its name ends in .mgz: rename it to a.nii.gz"),
        (".nii", 0, "a.mgh", "holds a NIfTI volume but its name ends in .mgh: rename it to a.nii"),
        (".nii", 2, "a.nii.gz", "is gzip-compressed 2 times, one is usual: decompress it with gunzip"),
        (".mgh", 3, "a.mgz", "is gzip-compressed 3 times, one is usual: decompress it with gunzip"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # nibabel's
def test_misnamed_files_are_told_their_name(tmp_path, kind, times, name, message):
    content = image_bytes(tmp_path, kind)
    for _ in range(times):
        content = gzip.compress(content)
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"rename|gunzip") as caught:
        read_header(path)
    assert str(caught.value) == f"{path} {message}."
    if "rename" in message:
        right = path.rename(tmp_path / message.rsplit(" ", 1)[1])
        assert read_header(right).shape == (3, 4, 5)
    gc.collect()  # while the warnings of files that nibabel left open are ignored


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.nii", gzip.compress(b"no volume" * 99)),
        ("a.nii.gz", b"<html>not found</html>" * 40),
        ("a.nii.gz", b"\x1f\x8b broken" * 40),
        ("a.nii", b"\x5c\x01"),
    ],
    # gzip writes the time, and pytest an id from the bytes
    ids=["compressed", "page", "broken gzip", "two bytes"],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_holds_no_volume_is_not_told_another_name(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match="can't be read as a NIfTI or MGH volume") as caught:
        read_header(path)
    assert "rename" not in str(caught.value)
    gc.collect()
