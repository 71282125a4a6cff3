"""Trainings in processes of their own: their commands, and that those of one folder are told the same."""

import json
import sys
from pathlib import Path

import pytest

from monai_betavae import bundle_root
from monai_betavae.workflows.trained_runs import TrainedRun, check_same_settings, command_of


def test_a_folder_of_trainings_that_have_begun_keeps_its_settings(tmp_path):
    path = tmp_path / "runs" / "settings.json"
    check_same_settings(path, {"settings": {"beta": 1.0}}, {"seeds": [0]})
    assert json.loads(path.read_text()) == {"settings": {"beta": 1.0}, "seeds": [0]}
    # no training has begun, so that a mistyped setting may be corrected
    check_same_settings(path, {"settings": {"beta": 4.0}}, {"seeds": [0]})
    (path.parent / "fold0").mkdir()
    (path.parent / "fold0" / "last.ckpt").touch()
    check_same_settings(path, {"settings": {"beta": 4.0}}, {"seeds": [0, 1]})  # what is only noted may change
    assert json.loads(path.read_text())["seeds"] == [0, 1]
    with pytest.raises(ValueError, match=r"`output_dir` must be another one: .*settings was \{'beta': 4.0\}, now \{\}"):
        check_same_settings(path, {"settings": {}}, {"seeds": [0]})
    assert json.loads(path.read_text())["settings"] == {"beta": 4.0}


@pytest.mark.parametrize(
    ("there", "mode"),
    [((), "--overwrite"), (("last.ckpt",), "--overwrite"), (("last.ckpt", "split.json"), "--resume")],
)
def test_a_training_is_resumed_where_checkpoint_and_split_are(tmp_path, there, mode):
    for name in there:
        (tmp_path / name).touch()
    run = TrainedRun({"beta": 4.0}, 3, tmp_path)
    words = command_of(run, {"beta": 1.0, "channels": [2, 2]}, Path("split.json"))
    assert words[:6] == [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file"]
    assert words[6] == str(bundle_root() / "train.json")
    given = dict(zip(words[7::2], words[8::2], strict=True))
    assert given == {
        "--beta": "4.0",
        "--channels": "[2, 2]",
        "--seed": "3",
        "--output_dir": str(tmp_path),
        "--ckpt_dir": str(tmp_path),
        mode: "True",
        "--split_file": "split.json",
    }
    assert "--split_file" not in command_of(run, {}, None)
