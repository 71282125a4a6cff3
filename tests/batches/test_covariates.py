import numpy as np
import pytest
import torch

from monai_betavae.batches.covariates import array_batches, batch_covariates, covariate_rows

IMAGES = torch.zeros(3, 1, 4, 4)


def test_a_model_without_covariates_takes_any_batch():
    assert batch_covariates(IMAGES, 0, 3) is None
    assert batch_covariates({"image": IMAGES, "covariates": "anything"}, 0, 3) is None


@pytest.mark.parametrize(
    ("batch", "holds"), [(IMAGES, "no keys: it is a Tensor"), ({"image": IMAGES, "age": 1}, "'image', 'age'")]
)
def test_a_batch_without_them_is_refused(batch, holds):
    with pytest.raises(ValueError, match=f"must hold 'covariates', 2 coded columns.*{holds}"):
        batch_covariates(batch, 2, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.zeros(2, 2), r"must have shape \(3, 2\)"),
        (torch.zeros(3, 1), r"must have shape \(3, 2\)"),
        ([[0.0, float("nan")]] * 3, "finite"),
        (torch.zeros(3, 2, dtype=torch.complex64), "real"),
        (["F", "M"], "must be numbers"),
    ],
)
def test_other_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        covariate_rows(values, 2, 3)


def test_one_row_stands_for_all():
    assert covariate_rows([1, 2], 2, 3).tolist() == [[1.0, 2.0]] * 3


def test_arrays_in_batches_keep_their_rows():
    images = np.arange(5, dtype=np.float32).reshape(5, 1, 1)
    batches = array_batches(images, images[:, 0] * 10, batch_size=2, image_key="scan")
    assert [batch["scan"].flatten().tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    assert [batch["covariates"].flatten().tolist() for batch in batches] == [[0, 10], [20, 30], [40]]
    assert [batch.flatten().tolist() for batch in array_batches(images, None, batch_size=3)] == [[0, 1, 2], [3, 4]]
