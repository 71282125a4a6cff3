"""DICOM folders: the same sample as from NIfTI, and every way in which a folder isn't one volume refused by name."""

import importlib
import locale
import sys

import nibabel as nib
import numpy as np
import pytest
from awkward_volumes import SHAPE, brain, save
from dicom_series import write_series

from monai_betavae.data import RestoreVolume, brain_transforms, cached_dataset, check_volumes, discover
from monai_betavae.data.volumes.dicom import is_dicom_folder, itk_alone, open_series
from monai_betavae.data.volumes.volume_files import read_header, read_voxels

# ITK's wrappers warn about themselves on some versions of Python
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TURN = nib.eulerangles.euler2mat(0.2, -0.1, 0.3)
AFFINES = {
    "RAS": np.diag([2.0, 1.5, 3.0, 1.0]),
    "LPS": nib.affines.from_matvec(np.diag([-2.0, -1.5, 3.0]), [20, 30, -10]),
    "sagittal": nib.affines.from_matvec(np.array([[0, 0, 3.0], [2.0, 0, 0], [0, -1.5, 0]]), [5, -20, 40]),
    "oblique": nib.affines.from_matvec(TURN @ np.diag([2.0, 1.5, 3.0]), [-30, 10, 5]),
}


def integers():
    return np.round(brain()).astype(np.int16)


@pytest.mark.parametrize("orientation", AFFINES)
def test_a_series_gives_the_sample_of_its_nifti_copy(tmp_path, orientation):
    affine = AFFINES[orientation]
    folder = write_series(tmp_path / "person" / "series", integers(), affine)
    copy = save(tmp_path / "copy.nii.gz", integers(), affine)
    transform = brain_transforms((16, 16, 16), spacing=2.5, percentiles=(0, 100))
    sample, expected = transform({"image": str(folder)}), transform({"image": str(copy)})
    # positions in DICOM are texts of 16 letters
    assert float((sample["image"] - expected["image"]).abs().max()) < 1e-4
    assert np.allclose(sample["image_affine"], expected["image_affine"], atol=1e-4)


@pytest.mark.parametrize("orientation", AFFINES)
def test_the_header_is_that_of_the_voxels(tmp_path, orientation):
    folder = write_series(tmp_path / "series", integers(), AFFINES[orientation])
    image = read_header(folder)
    loaded = brain_transforms(SHAPE).transforms[0]({"image": str(folder)})["image"]
    assert image.shape == tuple(loaded.shape[1:])
    assert np.allclose(image.affine, loaded.affine, atol=1e-6)
    assert np.array_equal(read_voxels(folder, image), loaded[0].numpy())
    # each voxel at its place in the world has its value
    to_written = np.linalg.inv(AFFINES[orientation]) @ image.affine
    i, j, k = np.round((to_written @ [3, 4, 2, 1])[:3]).astype(int)
    assert read_voxels(folder, image)[3, 4, 2] == integers()[i, j, k]


def test_a_reconstruction_returns_to_the_grid_of_the_series(tmp_path):
    folder = write_series(tmp_path / "series", integers(), AFFINES["LPS"])
    sample = brain_transforms((16, 16, 16), percentiles=(0, 100))({"image": str(folder)})
    restored = RestoreVolume()(sample["image"], sample)
    series = read_header(folder)
    assert np.allclose(restored.affine, series.affine)
    assert np.abs(restored.get_fdata() - read_voxels(folder, series)).max() < 0.1  # of 950


def test_a_folder_of_people_is_a_cohort(tmp_path):
    for person in ("p2", "p10"):
        write_series(tmp_path / person / "1.2.840" / "T1.5", integers(), AFFINES["RAS"])
    (tmp_path / "p2" / "1.2.840" / "notes.txt").write_text("no DICOM")
    records = discover(tmp_path)
    assert [record["subject"] for record in records] == ["p2", "p10"]
    assert discover(records[0]["image"]) == [{"image": records[0]["image"], "subject": "T1.5"}]
    assert [record["image"] for record in discover(tmp_path / "*" / "*" / "*")] == [r["image"] for r in records]
    table = check_volumes(records, progress=False)
    assert set(table["problem"]) == {""}
    assert set(table["shape"]) == {"12x14x10"}
    (tmp_path / "list.csv").write_text("image,subject,age\np2/1.2.840/T1.5,a,30\np10,b,40\n")
    with pytest.raises(ValueError, match=r"p10' is a folder without DICOM files, not a volume"):
        discover(tmp_path / "list.csv")


def test_a_changed_slice_makes_a_new_sample_in_the_cache(tmp_path):
    folder = write_series(tmp_path / "series", integers(), AFFINES["RAS"])
    transform = brain_transforms(SHAPE, percentiles=(0, 100))

    def sample():
        data = [{"image": str(folder)}]
        return cached_dataset(data, transform, "disk", cache_dir=tmp_path / "cache", progress=False)[0]["image"]

    before = sample()
    other = integers()
    other[:, :, 4] = 7
    write_series(folder, other, AFFINES["RAS"], slices=[4])
    assert not bool((sample() == before).all())


REFUSED = {
    "two series": (
        lambda folder: write_series(folder, integers(), AFFINES["RAS"], series=2, prefix="B"),
        r"one DICOM series, got 2, of 10, 10 files",
    ),
    "a missing slice": (
        lambda folder: (folder / "IM0004").unlink(),
        r"equal distances, got 6 mm after slice 4 of 9, otherwise 3 mm: is one missing",
    ),
    "one slice": (
        lambda folder: [file.unlink() for file in folder.iterdir() if file.name != "IM0004"],
        r"one three-dimensional volume, got one slice: shape \(12, 14, 1\)",
    ),
    "two volumes": (
        lambda folder: write_series(folder, integers(), AFFINES["RAS"], prefix="echo2_"),
        r"one slice at each place, got 20 slices at 10 places",
    ),
    "a slice of another size": (
        lambda folder: write_series(folder, integers()[:8], AFFINES["RAS"], slices=[4]),
        r"one DICOM series, got 2|slices of one size",
    ),
    "a tilted gantry": (
        lambda folder: write_series(folder, integers(), AFFINES["RAS"], shift=(0, 0.5, 0)),
        r"slices above each other, got ones shifted by 4.5 mm",
    ),
    "a truncated slice": (
        lambda folder: (folder / "IM0004").write_bytes((folder / "IM0004").read_bytes()[:300]),
        r"can't be read as|equal distances|one DICOM series",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_one_volume_is_refused_by_name(tmp_path, kind):
    change, message = REFUSED[kind]
    folder = write_series(tmp_path / "series", integers(), AFFINES["RAS"])
    change(folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ValueError, match=message) as caught:
        read_header(folder)
    assert str(folder) in str(caught.value)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_one_slice_asks_for_its_folder(tmp_path):
    folder = write_series(tmp_path / "series", integers(), AFFINES["RAS"])
    with pytest.raises(ValueError, match=r"IM0003 can't be read .* DICOM file: give the folder of its series"):
        read_header(folder / "IM0003")


def test_a_folder_is_dicom_by_its_content(tmp_path):
    (tmp_path / "IM0001.dcm").write_bytes(b"\0" * 200)
    assert not is_dicom_folder(tmp_path)
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")  # an index, no image
    assert not is_dicom_folder(tmp_path)
    (tmp_path / "scan").write_bytes(b"\0" * 128 + b"DICM")
    assert is_dicom_folder(tmp_path)
    assert not is_dicom_folder(tmp_path / "gone")
    assert not is_dicom_folder(tmp_path / "scan")


def test_the_locale_of_the_process_stays(tmp_path):
    before = locale.setlocale(locale.LC_ALL)
    folder = write_series(tmp_path / "series", integers(), AFFINES["RAS"])
    read_voxels(folder, read_header(folder))
    (folder / "IM0004").unlink()
    with pytest.raises(ValueError, match="is one missing"):
        read_header(folder)
    assert locale.setlocale(locale.LC_ALL) == before
    with itk_alone():
        locale.setlocale(locale.LC_ALL, "C")  # what GDCM does, on some paths
    assert locale.setlocale(locale.LC_ALL) == before


def test_the_types_of_itk_outlive_the_modules():
    # freed at the end of a process they bring it down, in an order of modules that can't be forced: so by the count
    with itk_alone():
        importlib.import_module("itk").GDCMImageIO.New()
    freed = {"module": object()}
    held = [freed["module"]] + [
        capsule
        for name, module in sys.modules.items()
        if name.startswith("swig_runtime_data")
        for capsule in vars(module).values()
        if type(capsule).__name__ == "PyCapsule"
    ]
    with itk_alone():
        pass  # what stays, stays once
    counts = [sys.getrefcount(each) for each in held]
    assert len(counts) > 1
    assert counts[1:] == [counts[0] + 1] * (len(counts) - 1)


def test_without_itk_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_betavae.data.volumes.dicom.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"needs ITK: pip install 'monai-betavae\[dicom\]'"):
        open_series(tmp_path)
