"""The short forms of the bundle's commands: the words they stand for, their help, and a run of each."""

import json
import subprocess
import sys

import pandas as pd
import pytest
from bundle_runs import TINY, tiny_cohort

from monai_betavae import bundle_root
from monai_betavae.command import FORMS, bundle_words, main


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("train", "training train.json"),
        ("train /d", "training train.json --dataset_dir /d"),
        ("train /d --out r", "training train.json --dataset_dir /d --output_dir r --ckpt_dir r"),
        ("train /d --out r --model m", "training train.json --dataset_dir /d --output_dir r --ckpt_dir m"),
        ("train /d --output_dir r", "training train.json --dataset_dir /d --output_dir r --ckpt_dir r"),
        (
            "embed /d --ckpt_dir r --output_dir l",
            "inference inference.json --dataset_dir /d --output_dir l --ckpt_dir r",
        ),
        ("train --latent_dim 16 --beta -1", "training train.json --latent_dim 16 --beta -1"),
        ("train --max_epochs=3 --out r", "training train.json --output_dir r --ckpt_dir r --max_epochs=3"),
        ("check /d --spacing 2.0", "check train.json --dataset_dir /d --spacing 2.0"),
        ("embed /d --model r --out l", "inference inference.json --dataset_dir /d --output_dir l --ckpt_dir r"),
        ("embed --model r", "inference inference.json --output_dir r --ckpt_dir r"),
        ("cross-validate /d --out f", "cross_validation cross_validate.json --dataset_dir /d --output_dir f"),
        ("evaluate --parts ['viewer']", "evaluation evaluate.json --parts ['viewer']"),
        ("sample --model r --n_samples 8", "generation generate.json --output_dir r --ckpt_dir r --n_samples 8"),
    ],
)
def test_words_of_the_bundles_command(typed, words):
    run_id, config, *rest = words.split()
    assert bundle_words(typed.split()) == ["run", run_id, "--config_file", str(bundle_root() / config), *rest]


def test_every_form_runs_what_its_config_has():
    for run_id, config, _ in FORMS.values():
        assert f'"{run_id}": [' in (bundle_root() / config).read_text()


@pytest.mark.parametrize("typed", ["", "fit /d", "sample /d", "--out r", "cross-validate /d --model m"])
def test_what_is_refused(typed, capsys):
    with pytest.raises(SystemExit) as stopped:
        bundle_words(typed.split())
    assert stopped.value.code == 2
    assert "usage: monai-betavae FORM [DATA]" in capsys.readouterr().err


def test_the_help_fits_a_screen(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["monai-betavae", "--help"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert all(any(f"  {name} " in line for line in lines) for name in FORMS)


def test_the_help_and_a_mistyped_form_are_answered_without_torch():
    code = (
        "import sys; from monai_betavae.command import bundle_words\n"
        "try: bundle_words(sys.argv[1:])\n"
        "except SystemExit: print([name for name in ('torch', 'monai', 'lightning') if name in sys.modules])"
    )
    for typed in (["--help"], ["fit", "/d"], ["--version"]):
        done = subprocess.run([sys.executable, "-c", code, *typed], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("form", FORMS)
def test_the_help_of_a_form_lists_its_settings(form, capsys):
    with pytest.raises(SystemExit) as stopped:
        bundle_words([form, "/d", "--help"])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: monai-betavae {form} ")
    run_id, config, _ = FORMS[form]
    assert f"python -m monai.bundle run {run_id} --config_file bundles/vae/{config}" in lines
    listed = dict(line.strip().removeprefix("--").split(maxsplit=1) for line in lines if line.startswith("  --"))
    settings = json.loads((bundle_root() / config).read_text())
    assert {name: str(settings[name]) for name in listed} == listed
    assert ("batch_size" in listed) is (form in ("train", "check", "embed", "evaluate", "sample"))
    assert not {"imports", "run", run_id, "output_dir"} & set(listed)


@pytest.mark.slow
def test_the_forms_run(tmp_path):
    brains = tiny_cohort(tmp_path / "brains")
    tiny = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]

    def run(*words):
        code = "from monai_betavae.command import main; main()"
        done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.startswith("$ python -m monai.bundle run ")
        return done.stdout

    run("train", str(brains), "--out", "run", *tiny, "--device", "$torch.device('cpu')")
    assert (tmp_path / "run" / "model.pt").is_file()
    run("embed", str(brains), "--model", "run", "--out", "latents")
    assert len(pd.read_csv(tmp_path / "latents" / "latents.csv")) == 12
    assert "samples" in run("sample", "--model", "run", "--n_samples", "2")
    assert "--config_file" in run("check", str(brains), "--out", "checked", *tiny)
    assert (tmp_path / "checked" / "volumes.tsv").is_file()
