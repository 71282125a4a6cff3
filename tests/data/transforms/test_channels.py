"""Volumes of several channels through the transforms and back."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_betavae.data import ReadVolumed, RestoreVolume, brain_transforms
from monai_betavae.data.transforms.channels import on_grid_of

SHAPE = (12, 14, 12)


def head(seed, background=0.0, scale=1.0, shape=(20, 24, 18)):
    """Make an ellipsoid of noise around the middle in a constant background."""
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, side) for side in shape], indexing="ij"))
    values = scale * np.random.default_rng(seed).uniform(100, 900, shape) + background
    return np.where((places**2).sum(axis=0) < 0.7, values, background).astype(np.float32)


def write(folder, affine=None, **images):
    """Write images as files, and return their paths."""
    paths = {}
    for name, values in images.items():
        paths[name] = str(folder / f"sub-1_{name}.nii.gz")
        nib.save(nib.Nifti1Image(values, np.diag([-2.0, 2, 2, 1]) if affine is None else affine), paths[name])
    return paths


def record(paths, first="T1w"):
    return {"image": paths[first], "subject": "sub-1", "other_images": {k: p for k, p in paths.items() if k != first}}


@pytest.mark.parametrize("options", [{}, {"spacing": 3.0}, {"spacing": 3.0, "padding": "edge"}, {"center": [2, -3, 1]}])
@pytest.mark.parametrize("background", [0.0, -40.0])
def test_each_channel_is_what_its_file_alone_gives(tmp_path, options, background):
    paths = write(tmp_path, T1w=head(0, background), T2w=head(1, background, scale=3.0))
    transform = brain_transforms(SHAPE, **options)
    both = transform(record(paths))
    alone = [transform({"image": paths[name]}) for name in ("T1w", "T2w")]
    assert both["image"].shape == (2, *SHAPE)
    for channel, one in enumerate(alone):
        assert torch.equal(both["image"][channel], one["image"][0])
        assert both["image_range"][channel].tolist() == one["image_range"].tolist()
        assert both["image_background"][channel] == one["image_background"]
    for name in ("path", "affine", "cut_away", "filled", "padded", "source_affine", "source_shape"):
        ours, theirs = both[f"image_{name}"], alone[0][f"image_{name}"]
        assert ours == theirs if isinstance(ours, str) else torch.equal(ours, theirs)


def test_backgrounds_may_differ(tmp_path):
    paths = write(tmp_path, T1w=head(0), T2w=head(1, -40.0), FLAIR=np.random.default_rng(2).random((20, 24, 18)))
    transform = brain_transforms((24, 28, 24), spacing=3.0)
    both = transform(record(paths))
    assert both["image_background"][:2].tolist() == [0.0, -40.0]
    assert bool(both["image_background"][2].isnan())
    for channel, name in enumerate(paths):
        # a volume with a background other than 0 is computed in float64, and the others with it
        torch.testing.assert_close(both["image"][channel], transform({"image": paths[name]})["image"][0])
        assert float(both["image"][channel].min()) == 0.0


def test_one_channel_is_as_it_was(tmp_path):
    paths = write(tmp_path, T1w=head(0))
    sample = brain_transforms(SHAPE, spacing=3.0)({"image": paths["T1w"]})
    assert sample["image"].shape == (1, *SHAPE)
    assert sample["image_range"].shape == (2,)
    assert sample["image_background"].shape == ()
    assert "contrasts" not in brain_transforms(SHAPE).description["transforms"][0]["arguments"]


def test_the_channels_that_a_model_has_are_needed(tmp_path):
    paths = write(tmp_path, T1w=head(0), T2w=head(1), FLAIR=head(2))
    transform = brain_transforms(SHAPE, contrasts=["T1w", "FLAIR", "T2w"])
    sample = transform(record(paths))
    assert sample["image"].shape[0] == 3
    # in the model's order, not in the record's
    expected = brain_transforms(SHAPE)({"image": paths["FLAIR"]})["image"][0]
    assert torch.equal(sample["image"][1], expected)
    without = {name: path for name, path in paths.items() if name != "FLAIR"}
    with pytest.raises(RuntimeError, match="applying transform") as error:
        transform(record(without))
    assert "sub-1_T1w.nii.gz must have the images of T1w, FLAIR, T2w, got none of FLAIR" in str(error.value.__cause__)


def test_another_grid_is_resampled_by_its_affine(tmp_path):
    # linear in the world's coordinates, so that linear interpolation is exact
    def ramp(affine, shape):
        index = np.stack(np.meshgrid(*[np.arange(side) for side in shape], indexing="ij"), axis=-1)
        world = index @ affine[:3, :3].T + affine[:3, 3]
        return (world @ [1.0, 2.0, -1.0] + 100).astype(np.float32)

    ours = np.diag([2.0, 2, 2, 1])
    theirs = np.array([[0.0, 0, 1.5, -6], [-1.5, 0, 0, 50], [0, 1.5, 0, -5], [0, 0, 0, 1]])
    first = write(tmp_path, ours, T1w=ramp(ours, (16, 20, 16)))
    other = write(tmp_path, theirs, T2w=ramp(theirs, (45, 36, 36)))
    sample = ReadVolumed("image", background="auto")(record({**first, **other}))
    assert sample["image"].shape == (2, 16, 20, 16)
    # smoothing towards the coarser grid bends the ramp where it meets a face
    inside = (slice(3, -3), slice(3, -3), slice(3, -3))
    np.testing.assert_allclose(sample["image"][1][inside], sample["image"][0][inside], atol=1e-2)
    np.testing.assert_array_equal(sample["image"].affine, ours)


def test_beyond_its_faces_an_image_is_background():
    reference = MetaTensor(torch.rand(1, 10, 10, 10), affine=torch.eye(4, dtype=torch.float64))
    values = torch.full((1, 10, 10, 10), -3.0)
    values[:, 2:8, 2:8, 2:8] = 5.0
    shifted = torch.eye(4, dtype=torch.float64)
    shifted[0, 3] = 4.0
    found = on_grid_of("other.nii", MetaTensor(values, affine=shifted), reference, -3.0)
    expected = torch.full((1, 10, 10, 10), -3.0)
    expected[:, 6:, 2:8, 2:8] = 5.0
    assert torch.equal(found.as_tensor(), expected)
    # without one, as its faces
    found = on_grid_of("other.nii", MetaTensor(values + torch.arange(10.0), affine=shifted), reference, None)
    assert torch.equal(found.as_tensor()[:, :4], found.as_tensor()[:, 4:5].expand(-1, 4, -1, -1))


def test_images_of_different_places_are_refused(tmp_path):
    away = np.diag([-2.0, 2, 2, 1])
    away[2, 3] = 30.0
    paths = {**write(tmp_path, T1w=head(0)), **write(tmp_path, away, T2w=head(1))}
    with pytest.raises(ValueError, match=r"sub-1_T2w\.nii\.gz must show what .* first image shows, got 1\d%"):
        ReadVolumed("image")(record(paths))


def test_a_damaged_image_is_named(tmp_path):
    paths = write(tmp_path, T1w=head(0), T2w=np.zeros((20, 24, 18), np.float32))
    with pytest.raises(ValueError, match=r"sub-1_T2w\.nii\.gz must not be constant"):
        ReadVolumed("image")(record(paths))


def test_the_mask_counts_for_every_channel(tmp_path):
    mask = np.zeros((20, 24, 18), np.float32)
    mask[5:15, 6:18, 5:13] = 1
    paths = write(tmp_path, T1w=head(0), T2w=head(1), mask=mask)
    given = {"image": paths["T1w"], "other_images": {"T2w": paths["T2w"]}, "mask": paths["mask"]}
    for background in ("auto", "zero"):
        volume = ReadVolumed("image", "mask", background)(given)["image"].as_tensor()
        assert (volume[:, mask == 0] == 0).all()
        assert (volume[1][mask > 0] == torch.from_numpy(head(1)[mask > 0])).all()


def test_images_in_memory(tmp_path):
    paths = write(tmp_path, T1w=head(0), T2w=head(1))
    affine = np.diag([-2.0, 2, 2, 1])
    loaded = {name: MetaTensor(torch.from_numpy(head(i))[None], affine=affine) for i, name in enumerate(paths)}
    ours = ReadVolumed("image")({"image": loaded["T1w"], "other_images": {"T2w": loaded["T2w"]}})
    assert torch.equal(ours["image"].as_tensor(), ReadVolumed("image")(record(paths))["image"].as_tensor())


def test_each_channel_goes_back_to_its_own_units(tmp_path):
    images = {"T1w": head(0), "T2w": head(1, -40.0, scale=3.0)}
    paths = write(tmp_path, **images)
    sample = brain_transforms((24, 28, 24), percentiles=(0, 100))(record(paths))
    restored = RestoreVolume()(sample["image"], sample)
    assert restored.shape == (20, 24, 18, 2)
    for channel, values in enumerate(images.values()):
        np.testing.assert_allclose(restored.get_fdata()[..., channel], values, atol=1e-2)
    with pytest.raises(ValueError, match=r"must be one volume of shape \(2, x, y, z\), got shape \(1, "):
        RestoreVolume()(sample["image"][:1], sample)
