"""Copies of a cohort with other intensities, or in another field of view, have the codes of the original."""

import shutil

import nibabel as nib
import numpy as np
import pytest
from bundle_runs import latents, tiny_cohort, train

TOLERANCE = 1e-3


def copied(cohort, folder, change):
    """Copy a cohort with every volume changed: ``change`` takes voxels and affine and returns new ones."""
    shutil.copytree(cohort, folder)
    for path in sorted(folder.glob("sub-*/anat/*_T1w.nii.gz")):
        image = nib.load(path)
        values, affine = change(image.get_fdata(dtype=np.float32), image.affine.copy())
        nib.save(nib.Nifti1Image(values.astype(np.float32), affine), path)
    return folder


def z_scored(values, affine):
    return (values - values.mean()) / values.std(), affine


def shifted_intensities(values, affine):
    return values + 1000, affine


def scaled_and_shifted(values, affine):
    return 0.01 * values - 7, affine


def off_centre(values, affine):
    """Pad and crop on one side of each axis, and let the affine say so."""
    before = (4, 0, 1)
    affine[:3, 3] -= affine[:3, :3] @ before
    return np.pad(values, tuple(zip(before, (0, 5, 0), strict=True))), affine


INTENSITIES = [z_scored, shifted_intensities, scaled_and_shifted]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return tiny_cohort(tmp_path_factory.mktemp("copies") / "cohort")


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(folder, cohort)
    return folder, latents(folder / "all", ckpt_dir=str(folder), dataset_dir=str(cohort))


@pytest.mark.parametrize("change", INTENSITIES, ids=lambda change: change.__name__)
def test_other_intensities(cohort, trained, tmp_path, change):
    folder, expected = trained
    copy = copied(cohort, tmp_path / "copy", change)
    codes = latents(tmp_path / "out", ckpt_dir=str(folder), dataset_dir=str(copy))
    assert np.ptp(expected, axis=0).max() > 0.1, "codes that are all alike would agree with anything"
    assert np.abs(codes - expected).max() < TOLERANCE


def test_training_on_a_z_scored_copy_gives_the_same_model(cohort, trained, tmp_path):
    copy = copied(cohort, tmp_path / "copy", z_scored)
    train(tmp_path / "out", copy)
    codes = latents(tmp_path / "all", ckpt_dir=str(tmp_path / "out"), dataset_dir=str(cohort))
    assert np.abs(codes - trained[1]).max() < TOLERANCE


@pytest.mark.parametrize("center", ["foreground", [0.0, -18.0, 8.0]], ids=["foreground", "point"])
def test_another_field_of_view(cohort, tmp_path, center):
    train(tmp_path / "run", cohort, center=center)
    expected = latents(tmp_path / "all", ckpt_dir=str(tmp_path / "run"), dataset_dir=str(cohort))
    copy = copied(cohort, tmp_path / "copy", off_centre)
    codes = latents(tmp_path / "out", ckpt_dir=str(tmp_path / "run"), dataset_dir=str(copy))
    assert np.abs(codes - expected).max() < TOLERANCE
    z_scored_too = copied(copy, tmp_path / "both", z_scored)
    codes = latents(tmp_path / "out", ckpt_dir=str(tmp_path / "run"), dataset_dir=str(z_scored_too))
    assert np.abs(codes - expected).max() < TOLERANCE
