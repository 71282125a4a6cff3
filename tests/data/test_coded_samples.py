"""Samples with their coded covariates, from the record to a batch."""

import pickle

import numpy as np
import pytest
import torch
from awkward_volumes import brain, save
from monai.data import DataLoader, Dataset
from monai.transforms import Compose

from monai_betavae.data import CodeCovariatesd, CovariateCoding, brain_transforms
from monai_betavae.data.caching import fingerprint

PEOPLE = [{"age": 20 + i, "sex": "FM"[i % 2], "site": "AAB"[i % 3]} for i in range(60)]
CODING = CovariateCoding.fit(PEOPLE, ["age", "sex", "site"])


@pytest.mark.filterwarnings("ignore:Missing values are coded")  # of the second record, as in the next test
def test_batch_has_the_rows_of_the_records(tmp_path):
    volume = str(save(tmp_path / "sub-1_T1w.nii.gz", brain(), np.diag([2.0, 2.0, 2.0, 1.0])))
    records = [{"image": volume, "subject": "1", "age": 31, "sex": "F", "site": "B"}, {"image": volume, "subject": "2"}]
    steps = Compose([CodeCovariatesd(CODING), brain_transforms((8, 8, 8), keep=("subject", "covariates"))])
    batch = next(iter(DataLoader(Dataset(records, steps), batch_size=2)))
    assert batch["covariates"].dtype == torch.float32
    np.testing.assert_array_equal(batch["covariates"].numpy(), CODING.rows(records))
    assert batch["image"].shape == (2, 1, 8, 8, 8)


def test_warning_is_the_same_for_all_samples():
    transform = CodeCovariatesd(CODING)
    texts = set()
    for age in (30, 40):
        with pytest.warns(UserWarning, match="'sex' in 1 of 1 records") as caught:
            transform({"age": age, "sex": None, "site": "A", "image": age})
        texts.add(str(caught[0].message))
    assert len(texts) == 1


def test_description_and_unseen_levels():
    transform = CodeCovariatesd(CODING.description(), unseen={"site": {"C": "B"}}, key="told")
    sample = transform({"age": 31, "sex": "F", "site": "C", "subject": "1"})
    expected = CODING.rows([{"age": 31, "sex": "F", "site": "B"}])[0]
    np.testing.assert_array_equal(sample["told"].numpy(), expected)
    assert list(sample) == ["age", "sex", "site", "subject", "told"]
    again = pickle.loads(pickle.dumps(transform))  # noqa: S301  # workers get it so
    assert torch.equal(again(sample)["told"], sample["told"])


def test_cache_tells_codings_apart():
    longer = CODING.with_categories("site", ["C"])
    one, same, other = (fingerprint(CodeCovariatesd(coding)) for coding in (CODING, CODING.description(), longer))
    assert one == same
    assert one != other


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`key` must be a text that isn't the name of a covariate, got 'age'"):
        CodeCovariatesd(CODING, key="age")
    with pytest.raises(ValueError, match="`unseen` must map 'C' to None or a known level"):
        CodeCovariatesd(CODING, unseen={"site": {"C": "E"}})
    with pytest.raises(ValueError, match="`description` must have the entries"):
        CodeCovariatesd({})
    with pytest.raises(ValueError, match=r"known values of 'site', 'A', 'B', got 'C' \(1\)"):
        CodeCovariatesd(CODING)({"age": 31, "sex": "F", "site": "C"})
