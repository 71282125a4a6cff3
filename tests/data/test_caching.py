"""Caches: what they give is what the transforms give, never stale, never half written."""

import functools
import multiprocessing
import os
import signal
import sys
import time

import numpy as np
import pytest
import torch
from awkward_volumes import SHAPE, brain, save
from monai.data import CacheDataset, Dataset
from monai.transforms import Compose, Lambda, RandGaussianNoised, ScaleIntensityd, Transform

from monai_betavae.data import DiskCacheDataset, brain_transforms, cached_dataset, caching
from monai_betavae.data.caching import fingerprint


@pytest.fixture
def records(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "volumes"
    folder.mkdir()
    return [
        {"image": str(save(folder / f"sub-{i}.nii.gz", brain() + rng.random(SHAPE))), "subject": f"sub-{i}", "age": i}
        for i in range(5)
    ]


TRANSFORMS = brain_transforms(SHAPE, keep=("subject", "age"))


def equal(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert type(value) is torch.Tensor
            torch.testing.assert_close(value, other[key], rtol=0, atol=0, equal_nan=True)
        else:
            assert value == other[key]


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_samples_are_those_of_the_transforms(records, tmp_path, cache):
    plain = Dataset(records, TRANSFORMS)
    for _ in range(2):  # filled, then found
        dataset = cached_dataset(records, TRANSFORMS, cache, cache_dir=tmp_path / "cache", progress=False)
        assert len(dataset) == 5
        for found, expected in zip(dataset, plain, strict=True):
            equal(found, expected)


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_what_is_known_of_a_volume_is_kept(records, tmp_path, cache):
    save(tmp_path / "volumes" / "zero.nii.gz", brain())
    both = [records[0], {"image": str(tmp_path / "volumes" / "zero.nii.gz"), "subject": "zero", "age": 9}]
    for _ in range(2):
        found = list(cached_dataset(both, TRANSFORMS, cache, cache_dir=tmp_path / "cache", progress=False))
        # noise has no constant background, and a brain in zeros has
        assert found[0]["image_background"].isnan()
        assert found[1]["image_background"] == 0
        for sample in found:
            assert [float(sample[f"image_{name}"]) for name in ("cut_away", "padded")] == [0, 0]
            assert 0.3 < float(sample["image_filled"]) < 1


@pytest.mark.parametrize("cache", ["memory", "disk"])
@pytest.mark.parametrize(("storage", "error"), [("float16", 2**-12), ("uint8", 0.5 / 255 + 1e-6)])
def test_storage_has_the_error_that_is_stated(records, tmp_path, cache, storage, error):
    plain = TRANSFORMS(records[0])
    dataset = cached_dataset(records, TRANSFORMS, cache, cache_dir=tmp_path, storage=storage, progress=False)
    image = dataset[0]["image"]
    assert image.dtype == torch.float32
    difference = float((image - plain["image"]).abs().max())
    assert 0 < difference <= error


def test_storage_takes_the_bytes_that_are_stated(tmp_path):
    data = [{"image": torch.rand(1, 40, 40, 40)}]
    sizes = {}
    for storage in ("float32", "float16", "uint8"):
        folder = tmp_path / storage
        DiskCacheDataset(data, Compose([]), folder, storage=storage, progress=False)
        sizes[storage] = sum(file.stat().st_size for file in folder.rglob("*.pt"))
    assert sizes["float16"] / sizes["float32"] == pytest.approx(0.5, abs=0.02)
    assert sizes["uint8"] / sizes["float32"] == pytest.approx(0.25, abs=0.02)


def test_uint8_needs_the_unit_range(tmp_path):
    with pytest.raises(ValueError, match=r"`storage` uint8 needs images in \[0, 1\], got 2 to 2"):
        DiskCacheDataset([{"image": torch.full((1, 2, 2, 2), 2.0)}], Compose([]), tmp_path, storage="uint8")


def counting(calls):
    def count(data):
        calls.append(1)
        return data

    return Lambda(count)


def test_nothing_is_made_twice(records, tmp_path):
    calls = []
    steps = Compose([counting(calls), TRANSFORMS])
    for _ in range(2):
        dataset = DiskCacheDataset(records, steps, tmp_path / "cache", progress=False)
        list(dataset)
    assert len(calls) >= 5
    again = len(calls)
    list(dataset)
    assert len(calls) == again


def test_a_changed_file_is_read_again(records, tmp_path):
    before = DiskCacheDataset(records, TRANSFORMS, tmp_path / "cache", progress=False)[0]["image"]
    save(tmp_path / "volumes" / "sub-0.nii.gz", brain()[::-1].copy())
    dataset = DiskCacheDataset(records, TRANSFORMS, tmp_path / "cache", progress=False)
    equal(dataset[0], TRANSFORMS(records[0]))
    assert not torch.equal(dataset[0]["image"], before)


def test_a_changed_image_of_another_channel_is_read_again(records, tmp_path):
    others = [str(save(tmp_path / f"other{i}.nii.gz", 2 * brain())) for i in range(len(records))]
    both = [{**record, "other_images": {"T2w": path}} for record, path in zip(records, others, strict=True)]
    transform = brain_transforms((8, 8, 8))
    before = DiskCacheDataset(both, transform, tmp_path / "cache", progress=False)[0]["image"]
    assert before.shape[0] == 2
    save(tmp_path / "other0.nii.gz", brain() ** 2)
    after = DiskCacheDataset(both, transform, tmp_path / "cache", progress=False)
    assert torch.equal(after[0]["image"][0], before[0])
    assert not torch.equal(after[0]["image"][1], before[1])
    assert len(list((tmp_path / "cache").rglob("*.pt"))) == len(both) + 1


def test_a_changed_setting_makes_new_samples(records, tmp_path):
    settings = [
        {}, {"percentiles": (0.5, 99.0)}, {"center": "foreground"}, {"center": (9.0, 10.0, 11.0)},
        {"center": (9.0, 10.0, 12.0)}, {"padding": "edge"},
    ]  # fmt: skip
    for spatial_shape, changed in ((SHAPE, {}), *(((10, 10, 20), each) for each in settings)):
        steps = brain_transforms(spatial_shape, **changed)
        dataset = DiskCacheDataset(records, steps, tmp_path / "cache", progress=False)
        equal(dataset[0], steps(records[0]))
    assert len(list((tmp_path / "cache").iterdir())) == 1 + len(settings)


def test_the_changed_code_of_ones_own_transform_makes_new_samples(tmp_path):
    def kind(factor):
        class Scale(Transform):
            if factor == 2:

                def __call__(self, data):
                    return {"image": data["image"] * 2}

            else:

                def __call__(self, data):
                    return {"image": data["image"] * 3}

        return Scale()

    data = [{"image": torch.ones(1, 2, 2, 2)}]
    for factor in (2, 3):
        dataset = DiskCacheDataset(data, Compose([kind(factor)]), tmp_path, progress=False)
        assert float(dataset[0]["image"].max()) == factor


def test_a_relative_path_is_read_again_when_its_file_changes(records, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "volumes")
    record = {"image": "sub-0.nii.gz"}
    DiskCacheDataset([record], TRANSFORMS, tmp_path / "cache", progress=False)
    save(tmp_path / "volumes" / "sub-0.nii.gz", brain()[::-1].copy())
    dataset = DiskCacheDataset([record], TRANSFORMS, tmp_path / "cache", progress=False)
    equal(dataset[0], TRANSFORMS(record))


def test_another_version_of_this_package_makes_new_samples(monkeypatch):
    before = fingerprint(TRANSFORMS)
    monkeypatch.setattr(sys.modules["monai_betavae"], "__version__", "0.0.0")
    assert fingerprint(TRANSFORMS) != before


def test_a_changed_record_makes_a_new_sample(records, tmp_path):
    DiskCacheDataset(records, TRANSFORMS, tmp_path, progress=False)
    older = [{**record, "age": record["age"] + 50} for record in records]
    assert DiskCacheDataset(older, TRANSFORMS, tmp_path, progress=False)[1]["age"] == 51


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_random_transforms_run_at_every_access(records, tmp_path, cache):
    steps = Compose([TRANSFORMS, RandGaussianNoised("image", prob=1.0, std=0.1)])
    dataset = cached_dataset(records, steps, cache, cache_dir=tmp_path, progress=False)
    assert not torch.equal(dataset[0]["image"], dataset[0]["image"])


@pytest.mark.parametrize("content", [b"", b"torn", None], ids=["empty", "torn", "a pickle"])
def test_a_broken_or_hostile_file_is_made_again(records, tmp_path, content):
    dataset = DiskCacheDataset(records, TRANSFORMS, tmp_path / "cache", progress=False)
    file = dataset._files[0]
    mark = tmp_path / "executed"
    if content is None:
        torch.save({"image": Payload(str(mark))}, file)
    else:
        file.write_bytes(content)
    with pytest.warns(UserWarning, match="It is made again"):
        equal(dataset[0], TRANSFORMS(records[0]))
    assert not mark.exists()
    equal(dataset[0], TRANSFORMS(records[0]))


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def slow_fill(records, folder):
    steps = Compose([Lambda(slowly), TRANSFORMS])
    DiskCacheDataset(records, steps, folder, num_workers=1, progress=False)


def slowly(data):
    time.sleep(0.05)
    return data


def test_killed_while_filling_the_next_start_completes(records, tmp_path):
    process = multiprocessing.get_context("fork").Process(target=slow_fill, args=(records, tmp_path / "cache"))
    process.start()
    deadline = time.monotonic() + 30
    while len(list((tmp_path / "cache").rglob("*.pt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    half = len([file for file in (tmp_path / "cache").rglob("*.pt") if not file.name.startswith(".")])
    assert 0 < half < len(records)
    steps = Compose([Lambda(slowly), TRANSFORMS])
    resumed = DiskCacheDataset(records, steps, tmp_path / "cache", progress=False)
    clean = DiskCacheDataset(records, steps, tmp_path / "clean", progress=False)
    for found, expected in zip(resumed, clean, strict=True):
        equal(found, expected)


def test_set_data_keeps_the_folder(records, tmp_path):
    dataset = DiskCacheDataset(records, TRANSFORMS, tmp_path, progress=False)
    dataset.set_data(records[:2])
    assert len(dataset) == 2
    assert len(list(tmp_path.rglob("*.pt"))) == 5
    equal(dataset[1], TRANSFORMS(records[1]))


@pytest.mark.parametrize(("free", "kind"), [(10**9, CacheDataset), (10, DiskCacheDataset), (None, CacheDataset)])
def test_auto_goes_by_the_memory_that_is_free(records, tmp_path, monkeypatch, capsys, free, kind):
    monkeypatch.setattr(caching, "free_memory", lambda: free)
    dataset = cached_dataset(records, TRANSFORMS, cache_dir=tmp_path, progress=False)
    assert type(dataset) is kind
    assert "Cache: 5 volumes of 0.0 MiB" in capsys.readouterr().out


def test_free_memory_is_a_number_of_bytes():
    free = caching.free_memory()
    assert free is None or 2**20 < free < 2**50


def test_no_volumes():
    assert len(cached_dataset([], TRANSFORMS, "auto")) == 0


def test_bad_arguments(records, tmp_path):
    with pytest.raises(ValueError, match="`cache` must be one of"):
        cached_dataset(records, TRANSFORMS, "ram")
    with pytest.raises(ValueError, match="`storage` must be one of"):
        cached_dataset(records, TRANSFORMS, "disk", cache_dir=tmp_path, storage="int4")
    with pytest.raises(ValueError, match="`cache_dir` must be a folder for a disk cache, got None"):
        cached_dataset(records, TRANSFORMS, "disk")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="`cache_dir` must be a folder that can be written"):
        DiskCacheDataset(records, TRANSFORMS, tmp_path / "file")


def test_a_bad_volume_is_named(records, tmp_path):
    (tmp_path / "empty.nii").touch()
    bad = [*records, {"image": str(tmp_path / "empty.nii")}]
    with pytest.raises(RuntimeError) as caught:
        DiskCacheDataset(bad, TRANSFORMS, tmp_path / "cache", progress=False)
    assert "empty.nii is an empty file" in str(caught.value.__cause__)


def test_fingerprints():
    def add(value):
        return value + 1

    def add_more(value):
        return value + 2

    distinct = [
        None, True, 1, 1.0, "1", [1], {"a": 1}, {"a": 2}, {1}, np.ones(2), np.ones(3), np.ones(2, np.float32),
        torch.zeros(2), ScaleIntensityd("image"), ScaleIntensityd("label"), ScaleIntensityd("image", maxv=2.0),
        add, add_more, functools.partial(add, 1), functools.partial(add, 2), Compose([]), int, float,
    ]  # fmt: skip
    digests = [fingerprint(value) for value in distinct]
    assert len(set(digests)) == len(distinct)
    assert digests == [fingerprint(value) for value in distinct]


def test_a_fingerprint_survives_use_and_a_value_that_holds_itself(records):
    steps = brain_transforms(SHAPE, spacing=3.0)
    before = fingerprint(steps)
    steps(records[0])
    assert fingerprint(steps) == before
    looped = []
    looped.append(looped)
    assert fingerprint(looped) == fingerprint(looped)
