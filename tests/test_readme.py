"""The README's Python runs as it stands, and its commands name what exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_block_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    done = subprocess.run([sys.executable, "-c", blocks[0]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "vae.pt").is_file()


def test_pictures_and_links_exist():
    targets = re.findall(r"\]\(([^)]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_configs_in_commands_exist():
    for config in set(re.findall(r"--config_file (\S+)", README)):
        assert (ROOT / config).is_file(), config


@pytest.mark.slow
def test_tutorial(tmp_path):
    script = ROOT / "tutorials" / "first_latents.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert "R² of a ridge probe" in done.stdout
    scores = {row.split()[0]: [float(cell) for cell in row.split()[1:3]] for row in done.stdout.splitlines() if
              re.match(r"(intracranial_ml|control)\s", row)}  # fmt: skip
    assert scores["intracranial_ml"][0] > 0.8
    assert scores["control"][0] < 0.2
    assert (tmp_path / "reconstructions.png").stat().st_size > 10_000
    assert (tmp_path / "vae.pt").is_file()
