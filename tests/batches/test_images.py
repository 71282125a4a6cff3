"""Every kind of batch becomes one kind of tensor."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_betavae.batches.images import batch_targets, check_images, image_tensor, item_names

IMAGES = torch.arange(16.0).reshape(2, 1, 2, 2, 2)


@pytest.mark.parametrize(
    "batch",
    [
        IMAGES,
        MetaTensor(IMAGES),
        (IMAGES, torch.zeros(2)),
        [IMAGES],
        {"image": IMAGES},
        {"image": MetaTensor(IMAGES), "label": 1},
        ({"image": IMAGES}, 3),
        IMAGES.to(torch.int16),
    ],
    ids=["tensor", "MetaTensor", "tuple", "list", "dict", "dict of MetaTensor", "dict in tuple", "int16"],
)
def test_every_kind(batch):
    images = image_tensor(batch)
    assert type(images) is torch.Tensor
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, IMAGES)


def test_no_copy_is_made():
    assert image_tensor(MetaTensor(IMAGES)).data_ptr() == IMAGES.data_ptr()


def test_image_key():
    assert image_tensor({"t1": IMAGES}, "t1") is IMAGES
    with pytest.raises(ValueError, match="`image_key` must be a key of the batch, got 'image'; the batch has 't1'"):
        image_tensor({"t1": IMAGES})


@pytest.mark.parametrize("batch", ["image", 3, None, [], np.zeros((2, 1, 3))])
def test_other_kinds_are_refused(batch):
    with pytest.raises(ValueError, match=r"`batch` must be a tensor.*got"):
        image_tensor(batch)


@pytest.mark.parametrize("shape", [(0, 1, 2, 2), (3,)])
def test_no_image_is_refused(shape):
    with pytest.raises(ValueError, match="must hold at least one image"):
        image_tensor(torch.zeros(shape))


def test_names():
    assert item_names({"image": IMAGES, "subject": ["sub-1", "sub-2"]}) == ["sub-1", "sub-2"]
    assert item_names({"image": IMAGES, "image_path": ["a.nii", "b.nii"]}) == ["a.nii", "b.nii"]
    assert item_names(IMAGES) == []


def test_non_finite_images_are_named():
    bad = IMAGES.clone()
    bad[1, 0, 0, 0, 0] = float("nan")
    bad[1, 0, 0, 0, 1] = float("inf")
    check_images(IMAGES, "batch 3")
    with pytest.raises(ValueError, match=r"The images of batch 3 must be finite.*item 1 \(sub-2\) with 2"):
        check_images(bad, "batch 3", ["sub-1", "sub-2"])


def test_infinities_that_cancel_are_found():
    bad = IMAGES.clone()
    bad[0, 0, 0, 0, 0], bad[0, 0, 0, 0, 1] = float("inf"), float("-inf")
    with pytest.raises(ValueError, match="item 0 with 2"):
        check_images(bad, "a batch")


def test_a_sum_that_overflows_is_not_an_error():
    check_images(torch.full((1, 4), 3e38), "a batch")


def test_targets():
    assert batch_targets((IMAGES, torch.tensor([1, 2]))).tolist() == [1, 2]
    assert batch_targets({"image": IMAGES, "age": [50.0, 60.0]}, "age").tolist() == [50.0, 60.0]
    with pytest.raises(ValueError, match="`target_key` must be a key of the batch, got 'label'"):
        batch_targets({"image": IMAGES})
    with pytest.raises(ValueError, match="without targets"):
        batch_targets(IMAGES)
    with pytest.raises(ValueError, match="must be numbers, got"):
        batch_targets((IMAGES, ["a", "b"]))


def test_images_without_voxels_are_refused():
    with pytest.raises(ValueError, match=r"must hold at least one image.*got shape \(2, 1, 0, 4\)"):
        image_tensor(torch.zeros(2, 1, 0, 4))


def test_complex_images_are_refused():
    with pytest.raises(ValueError, match=r"`batch` must hold real numbers, got torch\.complex64"):
        image_tensor(IMAGES.to(torch.complex64))


def test_a_type_that_nothing_computes_in_becomes_float32():
    images = image_tensor(IMAGES.to(torch.float8_e4m3fn))
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, IMAGES)


def test_values_beyond_the_largest_accepted_one():
    check_images(1e15 * IMAGES / 16, "batch 3", largest=1e15)
    check_images(-1e15 * IMAGES / 16, "batch 3", largest=1e15)
    with pytest.raises(
        ValueError, match=r"The codes of `z` must have values of at most 1e\+15 .* from -1\.5e\+16 to -0"
    ):
        check_images(-1e15 * IMAGES, "`z`", largest=1e15, what="codes")


def test_targets_have_a_row_for_each_image():
    assert batch_targets((IMAGES, torch.zeros(2, 3)), n_images=2).shape == (2, 3)
    for targets in (torch.zeros(3), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"must have a row for each of its 2 images, got shape \("):
            batch_targets((IMAGES, targets), n_images=2)
    with pytest.raises(ValueError, match="must be numbers, got"):
        batch_targets((IMAGES, [10**30, 0]))
