"""Programs that load volumes themselves use a bundle's transforms, as MONAI Deploy and MONAI Label do it.

MONAI Deploy's bundle operator takes ``compose.transforms``, leaves out every class with LoadImage or SaveImage in its
name, and gives the rest an image in memory. MONAI Label calls ``compose.transforms`` one after the other.
"""

import nibabel as nib
import numpy as np
import pytest
import torch
from awkward_volumes import READ, SHAPE, brain, save
from monai.data import DataLoader, Dataset, MetaTensor
from monai.inferers import SimpleInferer
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImage,
    LoadImaged,
    Orientationd,
    ResizeWithPadOrCropd,
    SaveImaged,
    ScaleIntensityd,
    Spacingd,
)

from monai_betavae.data import PadToGridd, RestoreVolume, RestoreVolumed, ToPlainSampled, brain_transforms, volume_image
from monai_betavae.networks.builders import build_network

OBLIQUE = np.array([[1.9, 0.3, 0, -20], [-0.3, 1.9, 0.1, -25], [0, -0.1, 2.1, -15], [0, 0, 0, 1]])
MODEL_SHAPE = (16, 16, 12)
POST = Compose([RestoreVolumed()])


@pytest.fixture(scope="module")
def network():
    made = build_network(MODEL_SHAPE, 3, channels=(4, 8), random_state=0).eval()
    made.decoder.set_output_mean(torch.rand(1, *MODEL_SHAPE, generator=torch.Generator().manual_seed(0)))
    return made


@pytest.fixture
def record(tmp_path):
    return {"image": str(save(tmp_path / "sub-1_T1w.nii.gz", brain() + 20, OBLIQUE))}


def predicted(network, image):
    with torch.inference_mode():
        return SimpleInferer()(image[None], network)[0]


def by_file(network, transforms, record):
    """What this package's own inference does."""
    sample = transforms(record)
    return sample, RestoreVolume()(predicted(network, sample["image"]), sample)


def as_deploy(network, pre, post, image):
    """Filter by class name, an image in memory, the outcome under "pred" beside what went in."""

    def kept(compose):
        names = ("LoadImage", "SaveImage")
        return Compose([step for step in compose.transforms if not any(n in type(step).__name__ for n in names)])

    data = kept(pre)({"image": image})
    return kept(post)({**data, "pred": predicted(network, data["image"])})


def as_label(network, pre, post, data):
    """Call one after the other."""
    for step in pre.transforms:
        data = step(data)
    data["pred"] = predicted(network, data["image"])
    for step in post.transforms:
        data = step(data)
    return data


@pytest.mark.parametrize("spacing", [None, 3.0])
@pytest.mark.parametrize("consumer", [as_deploy, as_label])
@pytest.mark.parametrize("form", ["MetaTensor", "channel first", "tensor", "array"])
def test_an_image_in_memory_gives_what_its_file_gives(network, record, consumer, form, spacing):
    transforms = brain_transforms(MODEL_SHAPE, spacing)
    sample, expected = by_file(network, transforms, record)
    image = LoadImage(image_only=True, ensure_channel_first=form == "channel first")(record["image"])
    if form in ("tensor", "array"):  # nothing but voxels: taken for RAS, 1 mm
        record["image"] = str(save(record["image"].replace("sub-1", "sub-2"), brain() + 20, np.eye(4)))
        sample, expected = by_file(network, transforms, record)
        image = image.as_tensor() if form == "tensor" else image.numpy()
        with pytest.warns(UserWarning, match="has no affine: it is taken for RAS with voxels of 1 mm"):
            data = consumer(network, transforms, POST, image if consumer is as_deploy else {"image": image})
    else:
        data = consumer(network, transforms, POST, image if consumer is as_deploy else {"image": image})
    assert torch.equal(data["image"], sample["image"])
    for key in ("range", "affine", "background", "cut_away", "filled", "padded", "source_affine", "source_shape"):
        assert torch.equal(data[f"image_{key}"], sample[f"image_{key}"])
    restored = data["pred"]
    assert isinstance(restored, MetaTensor)
    assert np.array_equal(restored.numpy()[0], expected.get_fdata(dtype=np.float32))
    assert restored.affine.numpy().tobytes() == nib.load(record["image"]).affine.tobytes()
    assert tuple(restored.shape) == (1, *SHAPE)
    assert restored.dtype == torch.float32


def test_label_gives_a_path(network, record):
    transforms = brain_transforms(MODEL_SHAPE, 3.0)
    _, expected = by_file(network, transforms, record)
    data = as_label(network, transforms, POST, dict(record))
    image = volume_image(data["pred"], data["pred"].meta["filename_or_obj"])
    assert np.array_equal(image.get_fdata(), expected.get_fdata())
    assert image.header == expected.header


@pytest.mark.parametrize("kind", READ)
@pytest.mark.filterwarnings("ignore:.*non-finite voxels")
def test_whatever_can_be_read_can_be_taken(tmp_path, kind):
    path = str(READ[kind](tmp_path))
    transforms = brain_transforms(SHAPE, percentiles=(0, 100))
    expected = transforms({"image": path})
    for channel_first in (False, True):
        loaded = LoadImage("NibabelReader", image_only=True, ensure_channel_first=channel_first)(path)
        found = transforms({"image": loaded})
        assert found.keys() == expected.keys()
        assert found["image_path"] == expected["image_path"] == path
        for key, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert type(found[key]) is torch.Tensor
                torch.testing.assert_close(found[key], value, rtol=0, atol=0, equal_nan=True)


def test_saved_by_monai(network, record, tmp_path):
    writer = SaveImaged("pred", output_dir=tmp_path / "out", output_postfix="r", print_log=False, separate_folder=False)
    post = Compose([RestoreVolumed(), writer])
    _, expected = by_file(network, brain_transforms(MODEL_SHAPE), record)
    as_label(network, brain_transforms(MODEL_SHAPE), post, dict(record))
    saved = nib.load(tmp_path / "out" / "sub-1_T1w_r.nii.gz")
    assert np.array_equal(saved.get_fdata(), expected.get_fdata())
    np.testing.assert_allclose(saved.affine, OBLIQUE, atol=1e-6)


def test_a_batch_taken_apart_again(network, record, tmp_path):
    other = {"image": str(save(tmp_path / "sub-2.nii.gz", brain()[:-2], np.diag([-2.0, 2, 2, 1])))}
    transforms = brain_transforms(MODEL_SHAPE, 2.5)
    batch = next(iter(DataLoader(Dataset([record, other], transforms), batch_size=2)))
    for index, single in enumerate((record, other)):
        sample = {key: values[index] for key, values in batch.items()}
        sample["pred"] = predicted(network, sample["image"])
        restored = POST(sample)["pred"]
        _, expected = by_file(network, transforms, single)
        np.testing.assert_allclose(restored.numpy()[0], expected.get_fdata(), rtol=1e-4, atol=1e-3)
        assert restored.meta["filename_or_obj"] == single["image"]
        assert restored.affine.numpy().tobytes() == expected.affine.tobytes()


STEPS = {
    "MONAI's reader": lambda: [
        LoadImaged("image"),
        EnsureChannelFirstd("image"),
        *brain_transforms(MODEL_SHAPE, 2.5).transforms[1:],
    ],
    "MONAI's scaling": lambda: [
        *brain_transforms(MODEL_SHAPE, 2.5).transforms[:-3],
        ScaleIntensityd("image"),
        PadToGridd("image", MODEL_SHAPE),
        ToPlainSampled("image"),
    ],
    "MONAI throughout": lambda: [
        LoadImaged("image", ensure_channel_first=True),
        Orientationd("image", axcodes="RAS", labels=None),
        Spacingd("image", pixdim=(2.5, 2.5, 2.5)),
        ResizeWithPadOrCropd("image", MODEL_SHAPE),
        ScaleIntensityd("image"),
        ToPlainSampled("image"),
    ],
    "lazily": lambda: [
        LoadImaged("image", ensure_channel_first=True),
        Spacingd("image", pixdim=(2.5, 2.5, 2.5), lazy=True),
        ResizeWithPadOrCropd("image", MODEL_SHAPE, lazy=True),
        ToPlainSampled("image"),
    ],
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_steps_of_ones_own(record, steps):
    transforms = Compose(steps())
    sample = transforms(record)
    assert sample["image_path"] == record["image"]
    assert sample["image_source_affine"].numpy().tobytes() == nib.load(record["image"]).affine.tobytes()
    assert sample["image_source_shape"].tolist() == list(SHAPE)
    assert type(sample["image"]) is torch.Tensor
    assert sample["image"].shape == (1, *MODEL_SHAPE)
    restored = POST({**sample, "pred": torch.ones(1, *MODEL_SHAPE)})["pred"]
    assert restored.shape == (1, *SHAPE)
    batch = next(iter(DataLoader(Dataset([record] * 2, transforms), batch_size=2)))
    assert batch["image_source_affine"].shape == (2, 4, 4)


def test_what_is_known_of_volumes_makes_a_batch(record, tmp_path):
    noisy = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    records = [record, {"image": str(save(tmp_path / "noise.nii.gz", noisy))}]
    for center in ("image", "foreground", [2.0, 3.0, 4.0]):
        transforms = brain_transforms(MODEL_SHAPE, 2.5, center=center)
        batch = next(iter(DataLoader(Dataset(records, transforms), batch_size=2)))
        for name in ("background", "cut_away", "filled", "padded"):
            assert (batch[f"image_{name}"].shape, batch[f"image_{name}"].dtype) == ((2,), torch.float64)
        assert batch["image_background"].isnan().tolist() == [False, True]
        assert "image_center" not in batch
