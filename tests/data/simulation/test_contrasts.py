"""Further contrasts of the simulated cohort."""

import json

import nibabel as nib
import numpy as np
import pytest

from monai_betavae.data import discover, simulate_cohort
from monai_betavae.data.simulation.contrasts import render_contrast

OPTIONS = {"spacing": 8.0, "seed": 3, "lesion_fraction": 1.0, "progress": False}
ALL = ("T1w", "T2w", "FLAIR")


@pytest.fixture(scope="module", params=["warped", "folded"])
def cohorts(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp(request.param)
    options = {**OPTIONS, "anatomy": request.param}
    one = simulate_cohort(folder / "one", 2, **options)
    return one, simulate_cohort(folder / "all", 2, suffixes=ALL, n_workers=1, **options)


def volumes(folder, subject, suffix):
    return nib.load(folder / subject / "anat" / f"{subject}_{suffix}.nii.gz").get_fdata()


def test_tissues_look_as_by_hand():
    pure = {name: np.float32([i == j for j in range(3)]) for i, name in enumerate(("wm", "gm", "csf"))}
    pure["texture"] = np.zeros(3, np.float32)
    np.testing.assert_allclose(render_contrast(pure, 0.25, "T2w"), [0.42, 0.62, 1.0], rtol=1e-6)
    np.testing.assert_allclose(render_contrast(pure, 0.25, "FLAIR"), [0.6, 0.75, 0.1], rtol=1e-6)


def test_what_is_there_without_them_stays_as_it_is(cohorts):
    one, more = cohorts
    for path in (path for path in one.rglob("*") if path.is_file()):
        same = (more / path.relative_to(one)).read_bytes() == path.read_bytes()
        # these name the arguments or the further images
        assert same != (path.name in ("README", "dataset.json", "dataset_description.json")), path


def test_the_images_are_of_one_brain(cohorts):
    _, folder = cohorts
    for record in discover(folder, suffix=list(ALL)):
        images = [nib.load(path) for path in (record["image"], *record["other_images"].values())]
        t1, t2, flair = (image.get_fdata() for image in images)
        for image in images[1:]:
            np.testing.assert_array_equal(image.affine, images[0].affine)
        inside = t1 > 0.5 * np.percentile(t1, 99)
        assert np.corrcoef(t1[inside], t2[inside])[0, 1] < -0.3
        # noise and bias field are their own
        assert abs(np.corrcoef(t2[inside], flair[inside])[0, 1]) < 0.95
        assert ((t1 > 0) == (t2 > 0)).mean() > 0.97


def test_lesions_are_bright(cohorts):
    _, folder = cohorts
    for subject in ("sub-001", "sub-002"):
        mask = folder / "derivatives" / "lesions" / subject / "anat" / f"{subject}_label-lesion_mask.nii.gz"
        lesion = nib.load(mask).get_fdata() > 0
        t1, flair = (volumes(folder, subject, suffix) for suffix in ("T1w", "FLAIR"))
        white = (t1 > np.percentile(t1[t1 > 0], 80)) & ~lesion
        assert t1[lesion].mean() < t1[white].mean()
        assert flair[lesion].mean() > flair[white].mean()


def test_the_datalist_names_them(cohorts):
    _, folder = cohorts
    records = [record for part in json.loads((folder / "dataset.json").read_text()).values() for record in part]
    assert {record["FLAIR"] for record in records} == {f"sub-00{n}/anat/sub-00{n}_FLAIR.nii.gz" for n in (1, 2)}
    assert "suffixes: ['T1w', 'T2w', 'FLAIR']" in (folder / "README").read_text()


@pytest.mark.parametrize("wrong", ["T2w", ["T2w", "T1w"], ["T1w", "PDw"], ["T1w", "T1w"], []])
def test_other_contrasts_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="`suffixes` must be T1w, followed by any of T2w and FLAIR, got"):
        simulate_cohort(tmp_path / "no", 1, suffixes=wrong)
    assert not (tmp_path / "no").exists()
