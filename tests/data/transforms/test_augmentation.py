"""Random changes: from one seed, of the size that was asked for, and none of what must see plain volumes."""

import pytest
import torch
from awkward_volumes import SHAPE, brain

from monai_betavae.data import AugmentedDataset, GlobalOrder
from monai_betavae.data.transforms import augmentation

OFF = {"rotation": 0, "translation": 0, "scaling": 0, "contrast": 0, "intensity": 0, "noise": 0}


def sample():
    return {"image": torch.from_numpy(brain() / 1000)[None], "subject": "sub-1"}


def test_everything_off_changes_nothing():
    found = augmentation(probability=1.0, **OFF)(sample())
    torch.testing.assert_close(found["image"], sample()["image"])
    assert found["subject"] == "sub-1"


@pytest.mark.parametrize("kind", OFF)
def test_each_kind_changes_the_image_and_keeps_its_form(kind):
    strength = {"rotation": 10.0, "translation": 2.0}.get(kind, 0.2)
    image = augmentation(probability=1.0, **{**OFF, kind: strength})(sample())["image"]
    assert type(image) is torch.Tensor
    assert (image.dtype, tuple(image.shape)) == (torch.float32, (1, *SHAPE))
    assert 0 <= float(image.min()) <= float(image.max()) <= 1
    assert float((image - sample()["image"]).abs().max()) > 0.01


def test_a_flip_is_one_of_the_first_axis():
    image = augmentation(probability=1.0, flip=True, **OFF)(sample())["image"]
    torch.testing.assert_close(image, sample()["image"].flip(1))


def test_probability_zero_changes_nothing():
    torch.testing.assert_close(augmentation(probability=0.0)(sample())["image"], sample()["image"])


def test_one_seed_gives_one_series():
    def series(seed):
        change = augmentation(seed=seed)
        return torch.stack([change(sample())["image"] for _ in range(4)])

    first = series(3)
    assert torch.equal(series(3), first)
    assert not torch.equal(series(4), first)
    assert not torch.equal(first[0], first[1])


def test_the_plain_dataset_is_at_hand():
    plain = [sample()]
    dataset = AugmentedDataset(plain, augmentation(probability=1.0))
    assert not torch.equal(dataset[0]["image"], plain[0]["image"])
    assert dataset.plain is plain
    torch.testing.assert_close(plain[0]["image"], sample()["image"])  # not changed in place


@pytest.mark.parametrize(
    ("argument", "value"), [("probability", 1.5), ("rotation", -1), ("noise", float("nan")), ("contrast", 1.0)]
)
def test_bad_arguments(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        augmentation(**{argument: value})


def test_a_change_depends_on_seed_epoch_and_item_alone():
    from monai.data import DataLoader

    plain = [{"image": torch.rand(1, 8, 8, 8, generator=torch.Generator().manual_seed(i))} for i in range(4)]

    def made(epoch=0, seed=3):
        dataset = AugmentedDataset(plain, augmentation(probability=1.0), seed)
        # MONAI's loader seeds the dataset's transforms from torch's generator, which is somewhere else every time
        loader = DataLoader(dataset, batch_size=2, sampler=GlobalOrder(dataset))
        loader.sampler.set_epoch(epoch)
        return dataset, torch.cat([batch["image"] for batch in loader])

    dataset, first = made()
    torch.rand(7)
    assert torch.equal(made()[1], first)
    backwards = torch.stack([dataset[index]["image"] for index in (3, 2, 1, 0)])
    assert torch.equal(backwards.flip(0), first)
    for other in (made(epoch=1)[1], made(seed=4)[1]):
        assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0] - plain[0]["image"], first[1] - plain[1]["image"])
