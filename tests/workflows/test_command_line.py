"""The bundle through MONAI's runner, as a user types it: a small simulated cohort, and texts that look like Python."""

import ast
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from fire.core import _ParseKeywordArgs
from fire.inspectutils import GetFullArgSpec
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from warm_runner import WarmRunner

from monai_betavae.workflows import command_line
from monai_betavae.workflows.command_line import parse_typed, place, typed_options, typed_text, typed_texts
from monai_betavae.workflows.expressions import expression_problem, json_expression
from monai_betavae.workflows.option_texts import TEXTS, Text, check_text, texts_of
from monai_betavae.workflows.settings import unwrap_error

BUNDLE = Path(__file__).parents[2] / "bundles" / "vae"
SMALL = {
    "simulated_cohort#n_subjects": 16,
    "simulated_cohort#spacing": 6.0,
    "spatial_shape": "[32,40,32]",
    "spacing": 6.0,
    "channels": "[4,8]",
    "latent_dim": 4,
    "num_workers": 0,
}


@pytest.fixture(scope="module", autouse=True)
def warm():
    """The runner without its imports; the first training and the first inference are started as users start them."""
    run.runner = WarmRunner()
    yield
    run.runner.close()


def run(run_id, home, cwd, fresh=False, **overrides):
    """Run a bundle's config in a process of its own and return it."""
    config = BUNDLE / ("inference.json" if run_id == "inference" else "train.json")
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(config)]
    for name, value in overrides.items():
        command += [f"--{name}", str(value)]
    environment = {**os.environ, "MONAI_BETAVAE_HOME": str(home)}
    if fresh:
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    return run.runner.run(command, cwd, environment)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home with a training run of two epochs, started from an unrelated folder."""
    home, elsewhere = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("elsewhere")
    done = run("training", home, elsewhere, fresh=True, max_epochs=2, **SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not list(elsewhere.iterdir())  # nothing is left where the user stands
    return home, done.stdout


@pytest.fixture(scope="module")
def inferred(trained, tmp_path_factory):
    home, _ = trained
    done = run("inference", home, tmp_path_factory.mktemp("inference"), fresh=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return home


@pytest.mark.slow
def test_training_leaves_the_files_of_the_contract(trained):
    home, _ = trained
    weights = torch.load(home / "models" / "model.pt", weights_only=True)
    assert weights["fc_mu.weight"].shape[0] == 4
    assert all(type(value) is torch.Tensor for value in weights.values())
    checkpoint = torch.load(home / "models" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6  # 12 volumes in batches of 4, twice
    metrics = pd.read_csv(home / "output" / "metrics.csv")
    assert metrics["epoch"].tolist() == [0, 1]
    for stage in ("train", "val"):
        losses = metrics[[f"{stage}/loss", f"{stage}/rec_loss", f"{stage}/kl_loss"]].to_numpy()
        np.testing.assert_allclose(losses[:, 0], losses[:, 1] + losses[:, 2], rtol=1e-5)  # beta = 1
    for picture in ("loss_curves", "reconstructions", "traversals"):
        assert (home / "output" / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_training_says_what_it_did(trained):
    home, printed = trained
    assert "no dataset_dir given, simulating a cohort of 16 brains" in printed
    assert "Split by subject: 12 training, 2 validation, 2 test" in printed
    assert "N = 40960 voxels, beta = 1, beta / N = 2.44e-05" in printed
    assert "PCA with 4 components" in printed
    assert str(home / "models" / "model.pt") in printed
    assert "monai-betavae embed" in printed


@pytest.mark.slow
def test_scores_hold_baselines_and_say_simulated(trained):
    scores = json.loads((trained[0] / "output" / "scores.json").read_text())
    assert scores["simulated"] is True
    assert scores["n_held_out"] == 2
    assert scores["sse_ratio"] == pytest.approx(scores["sse"] / scores["sse_mean_image"])
    assert 0 < scores["sse_ratio"] < 1.2  # it starts at the mean image


@pytest.mark.slow
def test_an_existing_run_is_not_overwritten(trained, tmp_path):
    home, _ = trained
    before = (home / "models" / "model.pt").read_bytes()
    done = run("training", home, tmp_path, max_epochs=2, **SMALL)
    assert done.returncode != 0
    assert "Give --resume True to continue it, --overwrite True to replace it" in done.stderr
    assert "Loading dataset" not in done.stderr  # refused before any data is loaded
    assert (home / "models" / "model.pt").read_bytes() == before


@pytest.mark.slow
def test_a_missing_dataset_is_an_error_and_never_a_simulation(tmp_path):
    done = run("training", tmp_path / "home", tmp_path, dataset_dir="/does/not/exist", **SMALL)
    assert done.returncode != 0
    assert "/does/not/exist" in done.stderr
    assert not (tmp_path / "home" / "data").exists()


@pytest.mark.slow
def test_inference_gives_latents_in_input_order(inferred):
    table = pd.read_csv(inferred / "output" / "latents.csv")
    held_out = json.loads((inferred / "output" / "split.json").read_text())["test"]
    assert table["subject"].tolist() == [record["subject"] for record in held_out]
    assert table["image"].tolist() == [record["image"] for record in held_out]
    expected = ["subject", "image", *[f"mu_{i}" for i in range(4)], *[f"logvar_{i}" for i in range(4)]]
    assert table.columns.tolist() == expected


@pytest.mark.slow
def test_latents_are_those_of_the_trained_network(inferred):
    from monai_betavae.data import brain_transforms
    from monai_betavae.networks.builders import build_network

    settings = json.loads((inferred / "models" / "model.json").read_text())
    network = build_network(**settings["network"]["arguments"])
    network.load_state_dict(torch.load(inferred / "models" / "model.pt", weights_only=True))
    table = pd.read_csv(inferred / "output" / "latents.csv")
    transform = brain_transforms((32, 40, 32), 6.0)
    images = torch.stack([transform({"image": path})["image"] for path in table["image"]])
    with torch.no_grad():
        mu, logvar = network.eval().posterior_parameters(images)
    np.testing.assert_allclose(table.filter(like="mu_").to_numpy(), mu.numpy(), atol=1e-4)
    np.testing.assert_allclose(table.filter(like="logvar_").to_numpy(), logvar.numpy(), atol=1e-4)


@pytest.mark.slow
def test_reconstructions_are_on_the_grid_of_their_input(inferred):
    table = pd.read_csv(inferred / "output" / "latents.csv")
    for path in table["image"]:
        name = Path(path).name.removesuffix(".nii.gz") + "_reconstruction.nii.gz"
        volume, reconstruction = nib.load(path), nib.load(inferred / "output" / "reconstructions" / name)
        assert reconstruction.affine.tobytes() == volume.affine.tobytes()
        assert reconstruction.shape == volume.shape
        assert reconstruction.get_data_dtype() == np.float32
        correlation = np.corrcoef(volume.get_fdata().ravel(), reconstruction.get_fdata().ravel())[0, 1]
        assert correlation > 0.8


@pytest.mark.slow
def test_inference_on_a_foreign_volume_of_an_odd_grid(trained, tmp_path):
    from nilearn.datasets import load_mni152_template
    from nilearn.image import resample_img

    affine = np.array([[-2.7, 0.1, 0, 88], [0.1, 3.3, 0.05, -126], [0, -0.05, 2.9, -71], [0, 0, 0, 1]])
    template = load_mni152_template(resolution=2)
    odd = resample_img(template, affine, (67, 71, 53), force_resample=True, copy_header=True)
    path = tmp_path / "template.nii.gz"
    nib.save(odd, path)
    before = path.read_bytes()
    done = run("inference", trained[0], tmp_path, dataset_dir=path, output_dir=tmp_path / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    reconstruction = nib.load(tmp_path / "out" / "reconstructions" / "template_reconstruction.nii.gz")
    assert reconstruction.affine.tobytes() == nib.load(path).affine.tobytes()
    assert reconstruction.shape == (67, 71, 53)
    assert np.corrcoef(odd.get_fdata().ravel(), reconstruction.get_fdata().ravel())[0, 1] > 0.6
    assert path.read_bytes() == before


@pytest.mark.slow
def test_inference_does_not_overwrite(inferred, tmp_path):
    done = run("inference", inferred, tmp_path)
    assert done.returncode != 0
    assert "latents.csv exists. Give --overwrite True" in done.stderr


@pytest.mark.slow
def test_resume_continues_the_table(inferred, tmp_path):
    """This and the next change the run, so they are last."""
    done = run("training", inferred, tmp_path, max_epochs=3, resume=True, **SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    assert pd.read_csv(inferred / "output" / "metrics.csv")["epoch"].tolist() == [0, 1, 2]
    assert torch.load(inferred / "models" / "last.ckpt", weights_only=True)["global_step"] == 9


@pytest.mark.slow
def test_overwrite_costs_nothing_when_the_data_are_missing_and_replaces_otherwise(inferred, tmp_path):
    weights = inferred / "models" / "model.pt"
    before = weights.read_bytes()
    failed = run("training", inferred, tmp_path, overwrite=True, dataset_dir="/does/not/exist", **SMALL)
    assert failed.returncode != 0
    assert weights.read_bytes() == before
    done = run("training", inferred, tmp_path, overwrite=True, max_epochs=1, **{**SMALL, "latent_dim": 3})
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.load(weights, weights_only=True)["fc_mu.weight"].shape[0] == 3
    assert torch.load(inferred / "models" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert sorted(path.name for path in (inferred / "models").glob("*.ckpt")) == ["last.ckpt"]
    assert pd.read_csv(inferred / "output" / "metrics.csv")["epoch"].tolist() == [0]


# ---- texts that look like Python ------------------------------------------------------------------------------------


@given(st.text(), st.booleans())
def test_any_text_survives(text, with_equals):
    arguments = [f"--suffix={text}"] if with_equals else ["--suffix", text]
    if with_equals or not (
        text.startswith("--") or text == "-" or (text[:1] == "-" and text[1:2].isascii() and text[1:2].isalpha())
    ):
        assert typed_options(["run", "training", "--beta", "4", *arguments, "--resume", "True"]) == {
            "beta": "4",
            "suffix": text,
            "resume": "True",
        }


ARGUMENT = st.one_of(
    st.sampled_from(["--a", "--b-c", "-d", "--e#f", "--g=", "-h=1", "--i=x=y", "-5", "word", "study#2", "--", "-7a"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
)


@given(st.lists(ARGUMENT, max_size=8))
def test_options_are_where_fire_sees_them(arguments):
    def function(**override):
        pass

    if "-" in arguments:  # what comes after it is for another function
        return
    before = arguments[: len(arguments) - 1 - arguments[::-1].index("--")] if "--" in arguments else arguments
    seen, _, _ = _ParseKeywordArgs(before, GetFullArgSpec(function))
    # an option without a value is for fire True, or False where it begins with "no"
    ours = {name: text for name, text in typed_options(arguments).items() if text is not None}
    assert ours == {name: text for name, text in seen.items() if name in ours}
    assert all(seen[name] in ("True", "False") for name in seen.keys() - ours)


def test_options_after_a_lone_hyphen_would_be_lost():
    assert typed_options(["--suffix", "-"]) == {"suffix": None}
    assert typed_options(["--suffix=-", "--beta=2"]) == {"suffix": "-", "beta": "2"}
    with pytest.raises(ValueError, match=r"--beta and what follows would be lost.*--missing_values=-"):
        typed_options(["--missing_values", "-", "--beta", "2"])


@pytest.mark.parametrize(
    "text", ["study#2", "20240501", "1,2", "1e5", "{subject}", "(a)", "0x10", "True", "a'b", "'", ""]
)
def test_texts_that_fire_would_read_as_python(text):
    assert parse_typed("dataset_dir", TEXTS["dataset_dir"], text) == text


def test_quotation_marks_that_fire_takes_away_are_taken_away():
    assert typed_text("'study#2'") == "study#2"
    assert typed_text('"it\'s"') == "it's"
    assert typed_text("'a' and 'b'") == "'a' and 'b'"
    assert typed_text("'a\\'") == "'a\\'"  # Python wouldn't end it there


ENTRY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\"'\\,[]()"), min_size=1)


@given(st.lists(ENTRY.map(str.strip).filter(bool), max_size=4))
def test_lists_of_texts(entries):
    assert typed_texts("[" + ", ".join(entries) + "]") == entries
    assert typed_texts("(" + ",".join(f"'{entry}'" for entry in entries) + ")") == entries
    if len(entries) > 1:
        assert typed_texts(",".join(entries)) == entries
    if len(entries) == 1:
        assert typed_texts(entries[0]) == entries[0]


def test_none():
    assert parse_typed("run_name", Text(), "None") is None
    for name, instead in (("dataset_dir", "the simulated cohort"), ("output_dir", "the bundle's own")):
        with pytest.raises(
            ValueError, match=rf"--{name} None isn't a path: leave it out for {instead}; .* --{name} \./None"
        ):
            parse_typed(name, texts_of({"simulated_cohort": {}, name: None})[name], "None")
    with pytest.raises(ValueError, match=r"--suffix needs a text after it, got none\..* --suffix=-text"):
        parse_typed("suffix", Text(), None)


def own(name="train.json"):
    return json.loads((BUNDLE / name).read_text(encoding="utf-8"))


def test_the_settings_that_take_text():
    found = texts_of(own())
    expected = {
        "dataset_dir",
        "output_dir",
        "ckpt_dir",
        "cache_dir",
        "run_root",
        "suffix",
        "image_column",
        "split_file",
    }
    expected |= {"tracking_uri", "experiment_name", "run_name", "simulated_cohort#output_dir", "train#logger#run_name"}
    assert expected <= set(found)
    others = {
        "beta",
        "resume",
        "spatial_shape",
        "norm",
        "act",
        "precision",
        "records",
        "imports",
        "loss#beta",
        "device",
    }
    assert not others & set(found)
    for name in ("inference.json", "evaluate.json"):
        assert {"training_output_dir", "checkpoint", "records#dataset_dir"} <= set(texts_of(own(name)))
    assert (
        texts_of(own("inference.json"))["dataset_dir"].instead == "leave it out for the subjects that training held out"
    )


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: not text.startswith(("$", "@", "%"))))
def test_a_text_in_its_place_comes_out_as_it_is(text):
    parser = ConfigParser({"a": 1, "b": "@a", "c": "$[@a, @group]", "group": {"x": "old", "y": "@a", "z": {"w": 3}}})
    parser.parse()
    for name in ("a", "group#x", "group#z#w"):
        place(parser, name, text)
    group = {"x": text, "y": text, "z": {"w": text}}
    assert parser.get_parsed_content("b") == text
    assert parser.get_parsed_content("group") == group
    assert parser.get_parsed_content("c") == [text, group]
    assert (parser.get("a"), parser.get("group#x"), parser.get("group#z")) == (text, text, {"w": text})


def test_a_list_in_its_place_and_a_components_argument():
    parts = {"_target_": "builtins.dict", "names": "@names", "folder": "x"}
    parser = ConfigParser({"names": 1, "made": parts})
    parser.parse()
    place(parser, "names", ["a#1", "b@c"])
    place(parser, "made#folder", "f#1")
    assert parser.get_parsed_content("made") == {"names": ["a#1", "b@c"], "folder": "f#1"}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_how_to_write_a_text_in_a_config(text):
    parser = ConfigParser(json.loads(f'{{"a": {json_expression(text)}}}'))
    assert parser.get_parsed_content("a") == text


def test_values_that_are_no_text():
    with pytest.raises(
        ValueError, match=r'must be a text that isn\'t empty, got 20240501\. In a config file write "20240501"'
    ):
        check_text("output_dir", 20240501, TEXTS["output_dir"])
    for value in (None, "", True, [], ["a"], {"a": 1}):
        with pytest.raises(ValueError, match="'output_dir' must be a text that isn't empty, got "):
            check_text("output_dir", value, TEXTS["output_dir"])
    with pytest.raises(
        ValueError, match=r"'covariates' must be a text that isn't empty, a list of such or null, got \[3\]"
    ):
        check_text("covariates", [3], TEXTS["covariates"])
    check_text("covariates", ["age"], TEXTS["covariates"])
    check_text("missing_values", [-9, "?"], TEXTS["missing_values"])
    check_text("output_dir", Path("out"), TEXTS["output_dir"])


def test_what_is_wrong_with_an_expression():
    assert expression_problem("a", {"torch": None}).startswith(
        "'a' isn't a name that it may use: those are torch, and @"
    )
    assert expression_problem("1 +", {}) == "that isn't Python: invalid syntax"
    for right in ("@run_root + '/x'", "(lambda n: n)(1)", "[i for i in @channels#0]", "import os", "torch.pi", "None"):
        assert expression_problem(right, {"torch": None}) is None


# what a run id sees, in this process: nothing but the options is read


SEEN = "SEEN "
NAMES = ("dataset_dir", "output_dir", "cache_dir", "suffix", "simulated_cohort", "resume_changes", "spacing")
LOOK = {
    "look": [
        "$monai_betavae.workflows.check_settings('train.json')",
        f"$print({SEEN!r} + repr([{', '.join('@' + name for name in NAMES)}]))",
        "$monai_betavae.workflows.write_run(str(@run_root) + '/run.json', {})",
    ]
}


@pytest.fixture
def typed(monkeypatch, capsys, tmp_path):
    """Return a function that runs the configs with options as a command would, and returns what the steps see."""
    import fire
    from monai.bundle.scripts import run as monai_run

    (tmp_path / "look.json").write_text(json.dumps(LOOK))
    monkeypatch.setenv("MONAI_BETAVAE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(command_line, "is_runner", lambda: True)
    monkeypatch.chdir(tmp_path)  # a relative --run_root is made where the user stands

    def command(*options, config=BUNDLE / "train.json"):
        files = str([*map(str, config if isinstance(config, list) else [config]), str(tmp_path / "look.json")])
        arguments = ["run", "look", "--config_file", files, "--logging_file=False", *options]
        arguments += ["--meta_file", str(BUNDLE / "metadata.json")]
        monkeypatch.setattr(sys, "argv", ["monai.bundle", *arguments])
        try:
            fire.Fire({"run": monai_run}, command=arguments)
        except RuntimeError as error:
            raise unwrap_error(error) from error
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(SEEN))
        return dict(zip(NAMES, ast.literal_eval(line.removeprefix(SEEN)), strict=True))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="parsing config_file")  # MONAI 1.6
        yield command


def written(tmp_path):
    return json.loads((tmp_path / "home" / "run.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text", ["study#2", "20240501", "1,2", "1e5", "{subject}", "{a: b}", "[1, 2]", "a@b#c", "None#", "~#x"]
)
def test_options_are_taken_as_they_are_typed(typed, tmp_path, text):
    seen = typed(
        "--dataset_dir", text, f"--output-dir={text}", "--simulated_cohort#output_dir", text, "--cache_dir", text
    )
    assert [seen[name] for name in ("dataset_dir", "output_dir", "cache_dir")] == [text] * 3
    assert seen["simulated_cohort"] == {"output_dir": text, "n_subjects": 200, "spacing": 3.0, "seed": 0}
    absolute = os.path.abspath(os.path.expanduser(text))
    stored = written(tmp_path)
    assert (stored["dataset_dir"], stored["simulated_cohort"]["output_dir"]) == (absolute, absolute)
    again = typed("--suffix", "T2w", config=tmp_path / "home" / "run.json")
    assert (again["dataset_dir"], again["output_dir"], again["suffix"]) == (absolute, absolute, "T2w")


def test_defaults_follow_the_folders_typed(typed):
    assert typed("--run_root", "study#2")["cache_dir"] == "study#2/cache"
    assert typed("--run_root", "2024")["output_dir"] == "2024/output"


def test_lists_of_ids(typed):
    """As the message about settings that may change tells to type them."""
    assert typed("--resume_changes", "['loss#default_dist']")["resume_changes"] == ["loss#default_dist"]
    assert typed("--resume_changes", "loss#default_dist")["resume_changes"] == "loss#default_dist"


def test_one_or_several_suffixes(typed):
    for text in ("['T1w', 'T2w']", "T1w,T2w"):
        assert typed("--suffix", text)["suffix"] == ["T1w", "T2w"]
    for text in ("T1w", "2024", "study#2"):
        assert typed("--suffix", text)["suffix"] == text


def test_none_is_what_is_typed(typed):
    assert typed("--spacing", "None")["spacing"] is None  # MONAI passes over it, and 3 mm would stay
    assert typed("--cache_dir", "None")["cache_dir"] is None
    with pytest.raises(ValueError, match=r"--device None has no effect: leave it out, or type --device '\$None'"):
        typed("--device", "None")
    with pytest.raises(ValueError, match="'max_epochs' must be an integer >= 1, got None"):
        typed("--max_epochs", "None")
    with pytest.raises(ValueError, match="'resume' must be True or False, got None"):
        typed("--resume", "None")


def test_values_in_files(typed, tmp_path):
    def file(**content):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(content))
        return [BUNDLE / "train.json", path]

    seen = typed(config=file(dataset_dir="study#2", **{"simulated_cohort#output_dir": "s#1"}))
    assert seen["dataset_dir"] == "study#2"
    assert seen["simulated_cohort"]["output_dir"] == "s#1"
    seen = typed("--dataset_dir", "other#3", config=file(dataset_dir="study#2"))
    assert seen["dataset_dir"] == "other#3"
    with pytest.raises(ValueError, match=r"'output_dir' must be a text that isn't empty, got 20240501\."):
        typed(config=file(output_dir=20240501))
    with pytest.raises(ValueError, match="'suffix' must be a text that isn't empty, a list of such or null, got 3"):
        typed(config=file(suffix=3))
    options = tmp_path / "options.json"
    options.write_text(
        json.dumps({"dataset_dir": "study#2", "output_dir": "out#2", "simulated_cohort#output_dir": "s#1"})
    )
    seen = typed("--args_file", str(options), "--output_dir", "1e5")
    assert (seen["dataset_dir"], seen["output_dir"], seen["simulated_cohort"]["output_dir"]) == (
        "study#2",
        "1e5",
        "s#1",
    )
    options.write_text(json.dumps({"dataset_dir": 7}))
    with pytest.raises(ValueError, match="'dataset_dir' must be a text that isn't empty or null, got 7"):
        typed("--args_file", str(options))


def test_monais_own_syntax(typed):
    assert typed("--output_dir", "$@run_root + '/x'")["output_dir"].endswith("/home/x")
    assert typed("--dataset_dir", "@suffix")["dataset_dir"] == "T1w"
    assert typed("--dataset_dir", "./$a")["dataset_dir"] == "./$a"
    with pytest.raises(
        ValueError, match=r"--dataset_dir '\$a' begins with \$, .* but 'a' isn't a name .* --dataset_dir '\./\$a'"
    ):
        typed("--dataset_dir", "$a")
    with pytest.raises(
        ValueError, match=r"--beta '\$two' begins with \$, so it is evaluated as Python, but 'two' isn't a name"
    ):
        typed("--beta", "$two")
    with pytest.raises(ValueError, match=r"--output_dir '\$5' gives 5, but must be a text"):
        typed("--output_dir", "$5")
    with pytest.raises(ValueError, match=r"--output_dir '@beta' gives 1\.0, but must be a text"):
        typed("--output_dir", "@beta")
    with pytest.raises(
        ValueError, match=r"--output_dir '\$1 / 0' can't be evaluated: ZeroDivisionError: division by zero"
    ):
        typed("--output_dir", "$1 / 0")
    with pytest.raises(ValueError, match="'dataset_dir' refers to @a, but 'a' isn't an id of this config"):
        typed("--dataset_dir", "@a")


def test_options_without_a_text(typed):
    with pytest.raises(ValueError, match="--dataset_dir None isn't a path: leave it out for the simulated cohort"):
        typed("--dataset_dir", "None")
    with pytest.raises(ValueError, match="--suffix needs a text after it, got none"):
        typed("--suffix", "--beta", "2")
    with pytest.raises(ValueError, match="'dataset_dir' must be a text that isn't empty or null, got ''"):
        typed("--dataset_dir", "")  # a shell's variable that isn't set


def test_outside_the_command_line_what_monai_made_of_a_text_is_refused():
    from monai.bundle import ConfigWorkflow

    workflow = ConfigWorkflow(str(BUNDLE / "train.json"), logging_file=False, run_id="check", dataset_dir="study#2")
    workflow.initialize()
    with pytest.raises(RuntimeError) as caught:
        workflow.run()
    assert str(unwrap_error(caught.value)) == (
        "'dataset_dir' came as 'study::2', which is what MONAI makes of 'study#2' as well. Type it as an option, "
        '--dataset_dir "study#2", or write it in the config as "$\'study\\\\x232\'"'
    )


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """A folder with cohorts of other sizes in folders whose names look like Python."""
    folder = tmp_path_factory.mktemp("boxes")
    values = np.zeros((12, 14, 12), np.float32)
    values[3:9, 3:11, 3:9] = np.arange(6 * 8 * 6).reshape(6, 8, 6) + 1
    for name, count in (("study", 2), ("study#2", 3), ("20240501", 4), ("1,2", 5), ("1e5", 6), ("None", 7)):
        (folder / name).mkdir()
        for number in range(count):
            affine = np.diag([12.0, 12, 12, 1])
            nib.save(nib.Nifti1Image(values + number, affine), folder / name / f"sub-{number}_T1w.nii.gz")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset_dir", "output_dir", "count"),
    [
        ("study#2", "20240501.out", 3),
        ("20240501", "2#", 4),
        ("1,2", "20240502", 5),
        ("1e5", "3,4", 6),
        ("./None", "1e6", 7),
    ],
)
def test_a_command_reads_and_writes_the_folders_that_were_typed(boxes, dataset_dir, output_dir, count):
    done = run("check", boxes / "home", boxes, dataset_dir=dataset_dir, output_dir=output_dir)
    assert done.returncode == 0, done.stderr[-3000:]
    table = pd.read_csv(boxes / output_dir / "volumes.tsv", sep="\t")
    assert len(table) == count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset_dir", "message"),
    [
        ("None", "--dataset_dir None isn't a path: leave it out for the simulated cohort"),
        ("$a", "--dataset_dir '$a' begins with $"),
        ("@a", "'dataset_dir' refers to @a"),
    ],
)
def test_a_command_names_the_option(boxes, dataset_dir, message):
    done = run("check", boxes / "home", boxes, dataset_dir=dataset_dir, output_dir="out")
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].startswith(f"Error: {message}")
    assert "Traceback" not in done.stderr
    assert not (boxes / "out").exists()
