"""Files are whole or absent."""

import pytest

from monai_betavae.files import atomic_path


def test_written_under_the_final_name_only_when_complete(tmp_path):
    target = tmp_path / "new" / "volume.nii.gz"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.name.endswith("volume.nii.gz")
        temporary.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert [path.name for path in target.parent.iterdir()] == ["volume.nii.gz"]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")

    def write_half():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    ordinary, target = tmp_path / "ordinary", tmp_path / "target"
    ordinary.touch()
    with atomic_path(target) as temporary:
        temporary.write_text("x")
    assert target.stat().st_mode == ordinary.stat().st_mode
