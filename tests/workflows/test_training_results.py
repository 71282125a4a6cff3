"""What a training prints at its end: where the files are, and the commands that use them."""

from pathlib import Path

import pytest

from monai_betavae import bundle_root
from monai_betavae.bundle import run_root
from monai_betavae.workflows import training_results
from monai_betavae.workflows.training_results import print_files, residual_text

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


@pytest.mark.parametrize("longer", [True, False])
def test_a_longer_training_is_offered_where_it_may_help(capsys, longer):
    print_files(Path("run"), Path("run"), validated=True, scored=True, longer=longer)
    assert ("Longer: " in capsys.readouterr().out) is longer


@pytest.mark.parametrize(
    ("squared", "end"),
    [
        (0.79, "the noise is overestimated for these subjects)"),
        (0.8, "1"),
        (1.25, "1"),
        (1.3, "underestimated for these subjects)"),
    ],
)
def test_what_a_residual_says_of_the_noise(squared, end):
    assert residual_text(squared).startswith(f"mean squared standardised residual {squared:.2f}, ideally 1")
    assert residual_text(squared).endswith(end)
