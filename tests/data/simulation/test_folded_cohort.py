import hashlib
import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from monai_betavae.data.simulation import cohort as simulation
from monai_betavae.data.simulation.cohort import simulate_cohort
from monai_betavae.data.simulation.cohort_texts import COLUMNS, FOLDED_COLUMNS

N_SUBJECTS = 6


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def volumes(folder):
    return np.stack([np.asanyarray(nib.load(path).dataobj) for path in sorted(folder.glob("sub-*/anat/*"))]).astype(int)


@pytest.fixture(scope="module")
def make(tmp_path_factory, folded_anatomy):
    def cohort(name, **arguments):
        arguments = {"seed": 5, "spacing": 6.0, "lesion_fraction": 0.3, "n_workers": 1, "progress": False} | arguments
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(simulation, "load_folded_anatomy", lambda spacing: folded_anatomy)
            return simulate_cohort(tmp_path_factory.mktemp("made") / name, N_SUBJECTS, **arguments)

    return cohort


@pytest.fixture(scope="module")
def folded(make):
    return make("folded", anatomy="folded")


@pytest.fixture(scope="module")
def warped(make):
    return make("warped")


def table(folder):
    return pd.read_csv(folder / "participants.tsv", sep="\t", index_col="participant_id", keep_default_na=False)


def test_every_column_is_filled_and_described(folded):
    assert list(table(folded)) == [*COLUMNS, *FOLDED_COLUMNS]
    assert not table(folded).isna().any().any()
    assert not (table(folded) == "").any().any()
    assert set(json.loads((folded / "participants.json").read_text())) == set(COLUMNS) | set(FOLDED_COLUMNS)


def test_same_subjects_as_in_the_warped_cohort_with_another_anatomy(folded, warped):
    same = [name for name in COLUMNS if name.startswith("factor_")]
    same += ["group", "split", "age", "sex", "site", "control"]
    pd.testing.assert_frame_equal(table(folded)[same], table(warped)[same])
    assert (table(folded)["gm_ml"] != table(warped)["gm_ml"]).all()
    assert np.abs(volumes(folded) - volumes(warped)).mean() > 10


def test_same_bytes_whatever_the_number_of_workers(folded, make):
    assert digests(make("again", anatomy="folded", n_workers=2)) == digests(folded)


def test_texts_say_what_this_is(folded, warped):
    readme, notice = (folded / "README").read_text(), (folded / "NOTICE").read_text()
    assert "- anatomy: folded\n" in readme
    assert 'Label every score obtained on these data "simulated"' in readme
    assert "FreeSurfer" in notice
    assert "Copyright (C) 1993-2009 Louis Collins" in notice
    assert "- anatomy" not in (warped / "README").read_text()
    assert "FreeSurfer" not in (warped / "NOTICE").read_text()


@pytest.mark.parametrize("anatomy", ["folded", "warped"])
def test_without_noise_only_the_noise_is_gone(make, request, anatomy):
    noisy, clean = request.getfixturevalue(anatomy), make("clean", anatomy=anatomy, noise=False)
    pd.testing.assert_frame_equal(table(noisy), table(clean))
    assert "- noise: False\n" in (clean / "README").read_text()
    assert "- noise" not in (noisy / "README").read_text()
    one, two = volumes(noisy), volumes(clean)
    difference = (one - two)[two > 600]
    # 1 to 2.5 % of white matter at about 900, with a mean near 0
    assert 900 * 0.008 < difference.std() < 900 * 0.03
    assert abs(difference.mean()) < 3
    # no noise where there is no brain
    assert (one[two == 0] <= 3).all()


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [("anatomy", "fold", "one of 'warped', 'folded'"), ("anatomy", None, "one of"), ("noise", 0.02, "True or False")],
)
def test_bad_arguments_are_named(tmp_path, name, value, accepted):
    with pytest.raises(ValueError, match=rf"^`{name}` must be {accepted}.*, got {value!r}\."):
        simulate_cohort(tmp_path / "never", 1, **{name: value})
    assert not any(tmp_path.iterdir())
