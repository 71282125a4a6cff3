"""The same content under several names is found, however it is compressed; nothing else is."""

import gzip
import shutil

import numpy as np
import pytest
from awkward_volumes import brain, save
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_betavae.data.checks.duplicates import same_content


def test_copies_links_and_other_compressions(tmp_path):
    first = save(tmp_path / "a.nii.gz", brain())
    shutil.copy(first, tmp_path / "b.nii.gz")
    (tmp_path / "c.nii.gz").symlink_to(first)
    content = gzip.decompress(first.read_bytes())
    (tmp_path / "d.nii.gz").write_bytes(gzip.compress(content, 1, mtime=7))
    other = save(tmp_path / "e.nii.gz", brain() + 1)
    plain = save(tmp_path / "f.nii", brain() + 2)
    shutil.copy(plain, tmp_path / "g.nii")
    names = [tmp_path / f"{letter}.nii{'' if letter in 'fg' else '.gz'}" for letter in "abcdefg"]
    assert names[4] == other
    assert same_content(names) == [[0, 1, 2, 3], [5, 6]]
    assert same_content(names[::-1]) == [[0, 1], [3, 4, 5, 6]]


def test_what_differs_in_one_voxel_is_another(tmp_path):
    values = np.zeros((64, 64, 64), np.float32)
    names = []
    for number in range(3):
        # beyond the three blocks that are compared first
        values[20, 20, 20 + number] = 1
        names.append(save(tmp_path / f"{number}.nii", values.copy()))
    assert same_content(names) == []


def test_blocked_gzip_is_read_whole(tmp_path):
    # bgzip ends every file with the same empty member
    end = gzip.compress(b"")
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"a" * 2000) + end)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(b"b" * 2000) + end)
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(b"a" * 1000) + gzip.compress(b"a" * 1000) + end)
    assert same_content([tmp_path / f"{name}.nii.gz" for name in "abc"]) == [[0, 2]]


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"\x1f\x8b\x08broken gzip" * 3])
def test_what_cannot_be_read_is_like_nothing(tmp_path, content):
    for name in ("a.nii.gz", "b.nii.gz"):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    found = same_content([tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", tmp_path / "folder", tmp_path / "gone.nii"])
    assert found == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 9)), max_size=8))
def test_groups_are_those_of_the_content(tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("files")
    names, keys = [], []
    for index, (which, compressed, level) in enumerate(drawn):
        content = bytes([which]) * 900
        name = folder / f"{index}.nii{'.gz' * compressed}"
        name.write_bytes(gzip.compress(content, level, mtime=index) if compressed else content)
        names.append(name)
        keys.append((which, compressed))  # plain and compressed ones aren't compared: that is left to their voxels
    groups = {key: [i for i, each in enumerate(keys) if each == key] for key in keys}
    assert same_content(names) == sorted(group for group in groups.values() if len(group) > 1)
