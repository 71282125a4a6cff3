"""What a training prints at its end: where the files are, and the commands that use them."""

from pathlib import Path

import pytest

from monai_betavae import bundle_root
from monai_betavae.bundle import run_root
from monai_betavae.workflows import training_results
from monai_betavae.workflows.training_results import print_files

DATA = "<folder, table or file>"


@pytest.mark.parametrize(
    ("output", "models", "scored", "report", "latents"),
    [
        ("run", "run", True, "monai-betavae evaluate --model run", f"monai-betavae embed [{DATA}] --model run"),
        ("run", "w", True, "monai-betavae evaluate --model w --out run", f"embed [{DATA}] --model w --out run"),
        ("a run", "a run", False, None, f"monai-betavae embed {DATA} --model 'a run'"),
    ],
)
def test_the_short_commands_come_next(capsys, output, models, scored, report, latents):
    print_files(Path(output), Path(models), validated=True, scored=scored)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("Report: ")] == [f"Report:    {report}"] * scored
    assert next(line for line in lines if line.startswith("Latents: ")).endswith(latents)


def test_default_folders_need_no_option(capsys):
    root = run_root(bundle_root())
    print_files(root / "output", root / "models", validated=True, scored=True)
    printed = capsys.readouterr().out
    assert "Report:    monai-betavae evaluate\n" in printed
    assert f"Latents:   monai-betavae embed [{DATA}]\n" in printed


def test_a_copy_of_the_bundle_is_run_by_its_own_configs(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(training_results, "running_bundle_root", lambda: tmp_path)
    print_files(Path("run"), Path("run"), validated=True, scored=True)
    printed = capsys.readouterr().out
    run = "python -m monai.bundle run"
    folders = "--ckpt_dir run --output_dir run"
    assert f"Report:    {run} evaluation --config_file {tmp_path / 'evaluate.json'} {folders}\n" in printed
    assert f"{run} inference --config_file {tmp_path / 'inference.json'} {folders} [--dataset_dir {DATA}]\n" in printed
