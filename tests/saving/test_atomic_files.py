"""Files are whole or absent."""

import csv
import errno
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monai_betavae.saving.atomic_files import (
    UnwritableFileError,
    atomic_path,
    check_available,
    check_space,
    lock_folders,
    name_unwritable_file,
    remove_unfinished,
    write_table,
)


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


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with (
            pytest.raises(UnwritableFileError, match=r"table\.csv can't be written: File too large\.$") as error,
            atomic_path(target) as temporary,
        ):
            temporary.write_bytes(b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.errno == errno.EFBIG
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_folder_that_is_gone_is_made_or_told_of(tmp_path):
    target = tmp_path / "gone" / "table.csv"
    with (
        pytest.raises(UnwritableFileError, match=r"gone/table\.csv can't be written: No such file or directory\."),
        atomic_path(target, make_folder=False),
    ):
        pass
    with atomic_path(target) as temporary:
        temporary.write_text("x")
    assert target.read_text() == "x"


def test_a_folder_that_vanishes_while_a_file_is_written(tmp_path):
    def write():
        with atomic_path(tmp_path / "run" / "table.csv") as temporary:
            temporary.write_text("x")
            shutil.rmtree(tmp_path / "run")

    with pytest.raises(UnwritableFileError, match=r"table\.csv can't be written: No such file or directory\."):
        write()
    assert not (tmp_path / "run").exists()


def test_an_error_of_another_file_is_not_ours(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere") as error, name_unwritable_file(tmp_path / "a" / "table.csv"):
        (tmp_path / "b" / "nowhere").read_text()
    assert not isinstance(error.value, UnwritableFileError)


def test_room_is_asked_for_before(tmp_path, monkeypatch):
    check_space(tmp_path, 1)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(10, 7, 3_000_000))
    check_space(tmp_path, 3_000_000)
    with pytest.raises(ValueError, match=r"must have room for 3\.1 MB, has 3\.0 MB; give another folder, or make room"):
        check_space(tmp_path, 3_100_000)


def test_available_folders_are_left_as_they_are(tmp_path):
    (tmp_path / "empty").mkdir()
    check_available(tmp_path / "empty", tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"file.* can't be (written|made)"):
            check_available(folder)


READ_ONLY = """
import os, sys
from monai_betavae.saving.atomic_files import atomic_path, check_available, lock_folders
import filelock, tempfile
if os.geteuid() == 0:  # who may write everywhere, and so knows no read-only folder
    os.setgid(65534); os.setuid(65534)
def try_all():
    for attempt in (lambda: check_available(sys.argv[1]), lambda: check_available(sys.argv[1] + "/new"),
                    lambda: lock_folders(sys.argv[1]).__enter__(), lambda: atomic_path(sys.argv[1] + "/x").__enter__()):
        try:
            attempt()
            print("written")
        except Exception as error:
            print(type(error).__name__, error)
try_all()
"""


def test_a_read_only_folder_is_named():
    # not in pytest's folder, whose parents nobody else may enter
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    done = subprocess.run([sys.executable, "-c", READ_ONLY, str(folder)], capture_output=True, text=True, check=True)
    folder.rmdir()
    assert done.stdout.splitlines() == [
        f"ValueError {folder} can't be written: Permission denied.",
        f"ValueError {folder}/new can't be made: {folder}: Permission denied.",
        f"ValueError {folder} can't be written: Permission denied.",
        f"UnwritableFileError {folder}/x can't be written: Permission denied.",
    ]


def test_permissions_are_those_of_any_new_file(tmp_path):
    ordinary, target = tmp_path / "ordinary", tmp_path / "target"
    ordinary.touch()
    with atomic_path(target) as temporary:
        temporary.write_text("x")
    assert target.stat().st_mode == ordinary.stat().st_mode


HOSTILE = ["=1+1", '=HYPERLINK("http://x","y")', "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "a\r=1"]


def test_no_cell_and_no_heading_starts_like_a_formula(tmp_path):
    sites = pd.Categorical(["=x"] * len(HOSTILE))
    table = pd.DataFrame(
        {"subject": HOSTILE, "=evil": range(len(HOSTILE)), "site": sites, "mixed": [None, *HOSTILE[1:]]}
    )
    write_table(table, tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as file:
        head, *rows = list(csv.reader(file))
    for cell in [*head, *(cell for row in rows for cell in row)]:
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    expected = ["'" + name for name in HOSTILE[:-1]] + [HOSTILE[-1]]
    assert [row[0] for row in rows] == [name.replace("\r", "\n") for name in expected]
    assert head == ["subject", "'=evil", "site", "mixed"]
    assert rows[0][3] == ""


def test_numbers_stay_numbers(tmp_path):
    texts, numbers = ["-7", "+1e-3"], np.float32([-0.1, 0.2])
    table = pd.DataFrame({"x": [-1.5, float("nan")], "text": texts, "f": numbers, "b": [True, False]})
    before = table.copy()
    write_table(table, tmp_path / "table.tsv", sep="\t", na_rep="n/a")
    assert (tmp_path / "table.tsv").read_text().splitlines() == [
        "x\ttext\tf\tb",
        "-1.5\t-7\t-0.1\tTrue",
        "n/a\t+1e-3\t0.2\tFalse",
    ]
    pd.testing.assert_frame_equal(table, before)


def test_columns_of_one_name_are_all_written(tmp_path):
    table = pd.DataFrame([["=a", "=b"]], columns=["x", "x"])
    write_table(table, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().split() == ["x,x", "'=a,'=b"]


HOLD = """
import sys, time
from monai_betavae.saving.atomic_files import lock_folders
with lock_folders(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_until_the_process_ends_however(tmp_path):
    folder = tmp_path / "run"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=r"run is in use by another run"), lock_folders(tmp_path / "own", folder):
            pass
        with lock_folders(tmp_path / "own"):  # what was held before the refusal is free again
            pass
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    with lock_folders(folder):
        pass


def test_what_a_killed_run_left_is_removed(tmp_path):
    for name in (".writing-x-table.csv", ".writing-last.ckpt", ".writing-y-latents.csv", "table.csv"):
        (tmp_path / name).write_text("x")
    with lock_folders(tmp_path, tmp_path):  # one folder for both is held once
        remove_unfinished(tmp_path, ["table.csv", "last.ckpt"])
    # latents.csv may be being written by an inference
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".writing-y-latents.csv", "table.csv"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ValueError, match=r"file/run can't be written: Not a directory"),
        lock_folders(tmp_path / "file" / "run"),
    ):
        pass
