"""Where orientation comes from: every combination of a NIfTI header's two codes, and transforms that disagree."""

import nibabel as nib
import numpy as np
import pytest

from monai_betavae.data.checks.orientation import orientation_source
from monai_betavae.data.volumes.volume_files import read_header

RAS, LAS = np.diag([2.0, 2.0, 2.0, 1.0]), np.diag([-2.0, 2.0, 2.0, 1.0])
TURNED = RAS[:, [1, 2, 0, 3]]  # x, y and z in another order: the same handedness


def image_of(sform, sform_code, qform, qform_code, kind=nib.Nifti1Image):
    image = kind(np.zeros((4, 5, 6), np.float32), None)
    image.set_sform(sform, code=sform_code)
    image.set_qform(qform, code=qform_code)
    return image


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(
    ("sform", "sform_code", "qform", "qform_code", "expected"),
    [
        (RAS, 1, RAS, 1, "agree"),
        (LAS, 4, LAS, 1, "agree"),
        (RAS, 2, LAS, 0, "sform"),
        (LAS, 0, RAS, 1, "qform"),
        (RAS, 0, RAS, 0, "guessed"),
        (RAS, 1, LAS, 1, "mirrored"),
        (LAS, 4, RAS, 1, "mirrored"),
        (RAS, 1, TURNED, 1, "turned"),
    ],
)
def test_every_combination(kind, sform, sform_code, qform, qform_code, expected, tmp_path):
    image = image_of(sform, sform_code, qform, qform_code, kind)
    assert orientation_source(image) == expected
    nib.save(image, tmp_path / "a.nii.gz")
    assert orientation_source(read_header(tmp_path / "a.nii.gz")) == expected


def test_a_small_difference_agrees():
    # registration writes a rigid motion into the sform and leaves the scanner's qform
    angle = np.radians(12)
    turned = RAS.copy()
    turned[1:3, 1:3] = 2 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert orientation_source(image_of(turned, 4, RAS, 1)) == "agree"


def test_formats_with_one_transform():
    assert orientation_source(nib.MGHImage(np.zeros((2, 2, 2), np.float32), RAS)) == ""
    assert orientation_source(object()) == ""


def test_what_nibabel_guesses_is_a_mirror_image(tmp_path):
    """The reason for all this: without codes, x runs to the left, whatever the voxels were."""
    image = image_of(RAS, 0, RAS, 0)
    nib.save(image, tmp_path / "a.nii.gz")
    assert nib.aff2axcodes(nib.load(tmp_path / "a.nii.gz").affine) == ("L", "A", "S")
