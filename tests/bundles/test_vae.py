"""The bundle as MONAI's consumers use it, through the real command line, on a small simulated cohort.

Every command of the bundle's docs runs here, in a copy of the bundle: what stands in the docs is what is tested. The
commands run two at a time while the tests wait for those they look at.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from warm_runner import WarmRunner

from monai_betavae import bundle_root
from monai_betavae.data import discover, simulate_cohort
from monai_betavae.training.loggers import _local_store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHAPE = [32, 40, 32]
SMALL = {
    "simulated_cohort#n_subjects": "16",
    "simulated_cohort#spacing": "6.0",
    "spatial_shape": "[32,40,32]",
    "spacing": "6.0",
    "channels": "[4,8]",
    "latent_dim": "4",
    "num_workers": "0",
    "max_epochs": "2",
    "learning_rate": "0.02",  # a model that hardly moves would agree with anything
}
CONFIGS = {"training": "train", "inference": "inference", "evaluation": "evaluate", "generation": "generate"}
RUNNER = [sys.executable, "-m", "monai.bundle"]


def small(command):
    """Return a training command with the settings of a small model, but for those it gives itself."""
    given = {word.removeprefix("--") for word in command if word.startswith("--")}
    return [*command, *(word for name, value in SMALL.items() if name not in given for word in (f"--{name}", value))]


def docs_commands():
    """Return every command of the bundle's docs, as a list of words."""
    blocks = re.findall(r"```sh\n(.*?)```", (bundle_root() / "docs" / "README.md").read_text(), re.DOTALL)
    return [shlex.split(block.replace("\\\n", " ")) for block in blocks]


def copy_bundle(checkout):
    """Copy the flat bundle, without what runs have left in it."""
    target = checkout / "bundles" / "vae"
    shutil.copytree(bundle_root(), target, ignore=shutil.ignore_patterns("data", "output", "models", "__pycache__"))
    return target


def listing(folder):
    """Return the files below a folder; TensorBoard's carry time and process in their names."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(re.sub(r"events\.out.*", "events", name) for name in files)


class Commands:
    """Commands that run in the background, two at a time, in the order they were given."""

    def __init__(self, home):
        self.pool = ThreadPoolExecutor(2)
        self.runner = WarmRunner()
        self.home = home
        self.futures = {}

    def start(self, name, command, cwd, after=(), **environment):
        """Start a command when those it needs are done; they must have been started before."""
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("MONAI_BETAVAE", "MLFLOW"))}
        variables |= {"HOME": str(self.home), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **environment}

        def run():
            for other in after:
                self.futures[other].result()
            if self.runner.takes(command) and "PYTHONPATH" not in environment:
                return self.runner.run(command, cwd, variables)
            return subprocess.run(
                command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=400, stdin=subprocess.DEVNULL
            )

        self.futures[name] = self.pool.submit(run)

    def __getitem__(self, name):
        return self.futures[name].result()

    def done(self, name):
        """Wait for a command that must succeed, and return what it printed."""
        completed = self[name]
        assert completed.returncode == 0, f"{name}:\n{completed.stdout[-2000:]}\n{completed.stderr[-4000:]}"
        return completed.stdout


def start_docs_commands(commands, checkout, data):
    """Start each command of the docs; the name of each is what the tests know it by."""
    names = {
        "run.json": "again",
        "--resume": "resume",
        "--beta": "override",
        "decathlon": "public cohort",
        "run check": "check",
        "--n_folds": "fold",
        "torch.distributed.run": "torchrun",
        "--train#trainer#devices": "two",
        "mlflow": "mlflow",
        "run training": "train",
        "run evaluation": "evaluation",
        "run inference": "inference",
        "run generation": "generation",
        "verify_net_in_out": "verify",
        "ckpt_export": "torchscript",
        "onnx_export": "onnx",
        "--codes": "codes",
        "export_program.py": "program",
        "write_zoo_bundle.py": "zoo",
    }
    started = {}
    for words in docs_commands():
        command = [sys.executable if word == "python" else word.replace("/data/", f"{data}/") for word in words]
        name = next(name for mark, name in names.items() if mark in " ".join(words))
        assert name not in started, f"two commands of the docs look alike: {words}"
        if "training" in words and name != "again":
            command = small(["3" if word == "60" else word for word in command])
        if name == "onnx":
            command += ["--input_shape", str([1, 1, *SHAPE])]
        started[name] = command
    assert set(started) == set(names.values()), "the docs have lost a command"
    first = ["train", "two", "override", "resume"]
    for name in [*first, *(name for name in started if name not in first)]:
        after = () if name in ("train", "two", "override", "check", "public cohort", "fold", "verify") else ("train",)
        if name not in (*first, "torchrun", "mlflow", "verify"):
            after = ("override",) if name == "again" else ("train", "resume")
        environment = {"MLFLOW_ALLOW_FILE_STORE": "true"} if name == "mlflow" else {}
        commands.start(name, started[name], checkout, after=after, **environment)


def write_task(task, bids):
    """Write volumes of two channels as the Decathlon's tasks hold them."""
    (task / "imagesTr").mkdir(parents=True)
    listed = []
    for number, record in enumerate(discover(bids)[:3]):
        image = nib.load(record["image"])
        values = image.get_fdata(dtype=np.float32)
        listed.append({"image": f"./imagesTr/BRATS_{number:03d}.nii.gz", "label": "./labelsTr/none.nii.gz"})
        nib.save(nib.Nifti1Image(np.stack([values, 2 * values], -1), image.affine), task / listed[-1]["image"])
    (task / "dataset.json").write_text(json.dumps({"training": listed}))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folders of these tests: a checkout with the bundle, data, and somewhere else."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("home", "elsewhere"):
        (folder / name).mkdir()
    copy_bundle(folder / "checkout")
    simulate_cohort(folder / "data" / "bids", 10, seed=5, spacing=6.0, progress=False)
    # the cohort that training would simulate: several start at once here
    simulate_cohort(folder / "checkout/bundles/vae/data/simulated", 16, seed=0, spacing=6.0, progress=False)
    for name in ("root", "bundle", "other"):
        copy_bundle(folder / name)
    write_task(folder / "data" / "msd" / "Task01_BrainTumour", folder / "data" / "bids")
    return folder


@pytest.fixture(scope="module")
def commands(place):
    """Every command of this file, started in the background."""
    commands = Commands(place / "home")
    checkout, data, elsewhere = place / "checkout", place / "data", place / "elsewhere"
    bundle = checkout / "bundles" / "vae"
    start_docs_commands(commands, checkout, data)

    def runner(name, *words, cwd=elsewhere, after=(), **environment):
        commands.start(name, [*RUNNER, *map(str, words)], cwd, after=after, **environment)

    def training(name, config, *words, cwd=elsewhere, run_id="training", **options):
        command = small(["--config_file", str(config), "--max_epochs", "1", *map(str, words)])
        runner(name, "run", run_id, *command, cwd=cwd, **options)

    schema = place / "schema.json"
    shutil.copyfile(Path(__file__).parent / "required_metadata.json", schema)
    runner("metadata", "verify_metadata", "--meta_file", bundle / "metadata.json", "--filepath", schema)
    # without a trained model: metadata.json has the default shape
    pristine = place / "root" / "bundles" / "vae"
    files = ("--meta_file", pristine / "metadata.json", "--config_file", pristine / "inference.json")
    runner("verify inference", "verify_net_in_out", "network_def", *files, MONAI_BETAVAE_HOME=str(place / "empty"))
    training("from the root", "bundles/vae/train.json", cwd=place / "root", after=("verify inference",))
    training("from the bundle", "train.json", cwd=place / "bundle" / "bundles" / "vae", run_id="run")
    training("from elsewhere", place / "other" / "bundles" / "vae" / "train.json")
    site = place / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(ROOT)]
    commands.start("install", install, elsewhere)
    installed = site / "monai_betavae" / "bundles" / "vae"
    training("installed", installed / "train.json", after=("install",), PYTHONPATH=str(site))
    command = ("--config_file", bundle / "inference.json", "--output_dir", data / "held_out")
    runner("run", "run", "run", *command, after=("train", "resume"))
    other = ("--dataset_dir", data / "bids", "--ckpt_dir", data / "beta4", "--training_output_dir", data / "beta4")
    command = ("--config_file", bundle / "evaluate.json", *other, "--output_dir", data / "trained")
    runner("trained subjects", "run", "evaluation", *command, after=("override",))
    training("existing", bundle / "train.json", after=("train", "resume"))
    training("resume another", bundle / "train.json", "--resume", True, "--latent_dim", 6, after=("train", "resume"))
    # another run's weights lie where the variable points
    training("another run", bundle / "train.json", "--seed", 3, MONAI_BETAVAE_HOME=str(place / "another"))
    zoo = data / "zoo" / "vae"
    for name, home in (("unset", None), ("empty", place / "empty"), ("another run's", place / "another")):
        words = ("--config_file", zoo / "configs/inference.json", "--dataset_dir", data / "bids")
        where = {} if home is None else {"MONAI_BETAVAE_HOME": str(home)}
        output = ("--output_dir", data / f"zoo at {name}")
        runner(f"zoo at {name}", "run", "inference", *words, *output, after=("zoo", "another run"), **where)
    files = ("--meta_file", zoo / "configs/metadata.json", "--config_file", zoo / "configs/inference.json")
    runner("zoo metadata", "verify_metadata", *files[:2], "--filepath", schema, after=("zoo",))
    runner("zoo verify", "verify_net_in_out", "network_def", *files, after=("zoo",))
    export = ("--ckpt_file", zoo / "models/model.pt", "--filepath", data / "zoo.ts")
    runner("zoo export", "ckpt_export", "network_def", *files, *export, after=("zoo",))
    script = Path(__file__).parents[1] / "support" / "load_zoo_bundle.py"
    commands.start("zoo load", [sys.executable, str(script), str(zoo), str(data)], elsewhere, after=("zoo",))
    nothing = ("--output_dir", place / "nothing", "--ckpt_dir", place / "nothing")
    training("wrong id", bundle / "train.json", "--latent_dims", 8, *nothing)
    training("wrong type", bundle / "train.json", "--beta", "strong", *nothing)
    training("wrong architecture", bundle / "train.json", "--architecture", "resnet50", *nothing)
    training("no dataset", bundle / "train.json", "--dataset_dir", "/does/not/exist", *nothing)
    training("tracking", bundle / "train.json", "--tracking", "mlflow", *nothing)
    runner("no checkpoint", "run", "inference", "--config_file", bundle / "inference.json", *nothing)
    yield commands
    commands.pool.shutdown(cancel_futures=True)
    commands.runner.close()


# ---- properties ---------------------------------------------------------------------------------------------------


@pytest.fixture
def workflow(tmp_path, monkeypatch):
    """Make workflows of the bundle in this process."""
    from monai.bundle import ConfigWorkflow

    monkeypatch.setenv("MONAI_BETAVAE_HOME", str(tmp_path))

    def make(name, kind, **overrides):
        return ConfigWorkflow(str(bundle_root() / name), logging_file=False, workflow_type=kind, **overrides)

    return make


@pytest.mark.parametrize(
    ("name", "kind"), [("train.json", "train"), ("inference.json", "inference"), ("evaluate.json", "evaluation")]
)
def test_no_required_property_is_missing(workflow, place, name, kind):
    # a training workflow has data; one for inference is whole before it has any
    made = workflow(name, kind, **({"dataset_dir": str(place / "data" / "bids")} if kind == "train" else {}))
    made.initialize()
    assert made.check_properties() == []


def test_properties_of_training_take_effect(workflow, place, tmp_path):
    made = workflow("train.json", "train", logger="none", spatial_shape=[8, 8, 8], spacing=24.0, channels=[4, 8])
    made.initialize()
    assert made.max_epochs == 20
    made.max_epochs = 3
    made.dataset_dir = str(place / "data" / "bids")
    made.device = torch.device("cpu")
    made.bundle_root = str(tmp_path / "moved")
    made.initialize()
    assert made.max_epochs == made.trainer.max_epochs == 3
    assert 0 < len(made.train_dataset_data) < 10
    assert all(str(place / "data" / "bids") in record["image"] for record in made.train_dataset_data)
    assert made.device == torch.device("cpu")
    assert made.bundle_root == str(tmp_path / "moved")
    assert type(made.trainer).__name__ == "Trainer"
    assert made.network_def(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 1, 8, 8, 8)


def test_properties_of_inference_take_effect(workflow, place):
    preprocessing = {"_target_": "monai_betavae.data.brain_transforms", "spatial_shape": [8, 8, 8], "spacing": 24.0}
    made = workflow("inference.json", "inference", preprocessing=preprocessing)
    made.initialize()
    made.dataset_dir = str(place / "data" / "bids")
    made.initialize()
    assert len(made.dataset_data) == len(made.dataset) == 10
    assert made.dataset[0]["image"].shape == (1, 8, 8, 8)
    assert type(made.evaluator).__name__ == "VolumeInference"


# ---- checks and exports -------------------------------------------------------------------------------------------


def trained_network(models):
    from monai_betavae.networks.builders import build_network
    from monai_betavae.workflows import load_weights

    settings = json.loads((models / "model.json").read_text())
    return load_weights(build_network(**settings["network"]["arguments"]), models / "model.pt")


@pytest.fixture(scope="module")
def images():
    return torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def expected(commands, place, images):
    commands.done("resume")
    network = trained_network(place / "checkout/bundles/vae/models")
    with torch.no_grad():
        reconstruction = network(images)
    # not merely the mean image: five times the widest tolerance below, or agreeing would say nothing
    assert (reconstruction - network.decoder.output_mean).abs().max() > 5e-3
    return reconstruction


@pytest.mark.parametrize("name", ["metadata", "verify", "verify inference"])
def test_the_runners_checks_pass(commands, name):
    assert "with no error" in commands.done(name)


def test_the_torchscript_export_reconstructs_as_the_network(commands, place, images, expected):
    commands.done("torchscript")
    with pytest.warns(DeprecationWarning, match=r"torch\.jit\.load"):
        exported = torch.jit.load(place / "data" / "model.ts")
    torch.testing.assert_close(exported(images).detach(), expected, atol=1e-4, rtol=0)


def test_the_onnx_export_reconstructs_as_the_network(commands, place, images, expected):
    import onnxruntime

    commands.done("onnx")
    session = onnxruntime.InferenceSession(place / "data" / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-3)


def test_the_onnx_model_with_codes_gives_the_networks(commands, place, images, expected):
    import onnxruntime

    assert "largest difference to the network's output" in commands.done("codes")
    session = onnxruntime.InferenceSession(place / "data" / "codes.onnx", providers=["CPUExecutionProvider"])
    found = session.run(["pred", "mu"], {"image": images.numpy()})
    with torch.no_grad():
        mu = trained_network(place / "checkout/bundles/vae/models").encode(images).mean
    for one, other in zip(found, (expected, mu), strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=1e-3)


def test_the_exported_program_reconstructs_as_the_network(commands, place, images, expected):
    assert "largest difference to the network's output" in commands.done("program")
    found = torch.export.load(place / "data" / "model.pt2").module()(images.expand(3, -1, -1, -1, -1))
    torch.testing.assert_close(found.detach(), expected.expand(3, -1, -1, -1, -1), atol=1e-4, rtol=0)


# ---- paths --------------------------------------------------------------------------------------------------------

WRITTEN = [
    "models/.lock",
    "models/MODEL_CARD.md",
    "models/last.ckpt",
    "models/model.json",
    "models/model.pt",
    "output/.lock",
    "output/latent_activity.csv",
    "output/latent_activity.png",
    "output/loss_curves.png",
    "output/metrics.csv",
    "output/reconstructions.png",
    "output/run.json",
    "output/scores.json",
    "output/split.json",
    "output/tensorboard/version_0/events",
    "output/tensorboard/version_0/hparams.yaml",
    "output/timing.csv",
    "output/traversals.png",
]


def written(bundle):
    return [name for name in listing(bundle) if name.startswith(("models/", "output/"))]


@pytest.mark.parametrize(
    ("name", "where"), [("from the root", "root"), ("from the bundle", "bundle"), ("from elsewhere", "other")]
)
def test_results_are_in_the_same_places_from_any_folder(commands, place, name, where):
    before = {path.name for path in bundle_root().iterdir() if path.is_file()}
    printed = commands.done(name)
    bundle = place / where / "bundles" / "vae"
    assert "simulating a cohort of 16 brains in " + str(bundle / "data" / "simulated") in printed
    assert written(bundle) == WRITTEN
    assert {path.name for path in bundle.iterdir() if path.is_file()} == before  # nothing where the user stands
    assert {path.name for path in (place / where).iterdir()} == {"bundles"}


def test_nothing_is_left_in_the_callers_folder(commands, place):
    for name in list(commands.futures):
        commands[name]
    assert list((place / "elsewhere").iterdir()) == []
    assert {path.name for path in (place / "checkout").iterdir()} == {"bundles"}
    at_home = {path.name for path in (place / "home").iterdir()}
    assert {name for name in at_home if not name.startswith(".")} == {"monai_betavae"}  # others' caches are hidden


def test_an_installed_bundle_never_writes_into_its_package(commands, place):
    commands.done("install")
    commands.done("installed")
    assert written(place / "home" / "monai_betavae" / "vae") == WRITTEN
    package = listing(place / "site" / "monai_betavae")
    assert [name for name in package if name.startswith("bundles/vae/") and "/data/" in name] == []
    assert [name for name in package if name.endswith((".pt", ".ckpt", ".csv", ".png", ".nii.gz"))] == []


def test_the_places_can_be_overridden(commands, place):
    commands.done("override")
    assert {"model.pt", "model.json", "last.ckpt", "metrics.csv", "split.json"} <= set(
        listing(place / "data" / "beta4")
    )
    split = json.loads((place / "data" / "beta4" / "split.json").read_text())
    paths = {record["image"] for part in split.values() for record in part}
    assert len(paths) == 10
    assert all(path.startswith(str(place / "data" / "bids")) for path in paths)
    commands.done("inference")
    assert len(pd.read_csv(place / "data" / "latents" / "latents.csv")) == 10


# ---- run ids, evaluation and generation ---------------------------------------------------------------------------


@pytest.mark.parametrize(("run_id", "name"), CONFIGS.items())
def test_run_is_an_alias_of_the_run_id(run_id, name):
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(bundle_root() / f"{name}.json")
    parser.parse()
    assert parser["run"] == parser[run_id]
    assert parser["run"][0] == f"$monai_betavae.workflows.check_settings('{name}.json')"


def test_run_gives_latents_of_the_held_out(commands, place):
    commands.done("run")
    commands.done("from the bundle")  # `run run` of train.json
    split = json.loads((place / "checkout/bundles/vae/output/split.json").read_text())
    table = pd.read_csv(place / "data" / "held_out" / "latents.csv")
    assert table["subject"].tolist() == [record["subject"] for record in split["test"]]


def test_check_writes_a_table(commands, place):
    assert "can't be used" in commands.done("check")
    table = pd.read_csv(place / "data" / "checked" / "volumes.tsv", sep="\t")
    assert len(table) > 0
    assert table["problem"].isna().all()


def test_check_reads_a_public_cohort(commands, place):
    assert "3 checked, 0 can't be used" in commands.done("public cohort")
    table = pd.read_csv(place / "data" / "decathlon" / "volumes.tsv", sep="\t")
    plain = pd.read_csv(place / "data" / "checked" / "volumes.tsv", sep="\t")
    assert table["subject"].tolist() == ["BRATS_000", "BRATS_001", "BRATS_002"]
    np.testing.assert_allclose(table["maximum"], 2 * plain["maximum"][:3], rtol=1e-5)


def test_a_fold_with_augmentation_and_a_disk_cache_trains(commands, place):
    printed = commands.done("fold")
    split = json.loads((place / "data" / "fold0" / "split.json").read_text())
    everyone = {record["subject"] for part in split.values() for record in part}
    assert len(split["test"]) == round(len(everyone) / 5)
    cached = list((place / "data" / "cache").rglob("*.pt"))
    assert len(cached) == len(everyone)
    assert f"Split by subject: {len(split['training'])} training" in printed


def test_subjects_of_the_training_are_not_scored(commands, place):
    refused = commands["trained subjects"]
    assert refused.returncode == 1
    assert "of subjects that the model was trained or validated on" in refused.stderr
    assert refused.stderr.strip().splitlines()[-1].startswith("Error: ")


def test_evaluation_writes_scores_and_a_report(commands, place):
    printed = commands.done("evaluation")
    folder = place / "checkout/bundles/vae/output"
    table = pd.read_csv(folder / "evaluation" / "reconstruction.csv")
    summary = json.loads((folder / "evaluation" / "scores.json").read_text())
    held_out = json.loads((folder / "split.json").read_text())["test"]
    assert table["image"].tolist() == [record["image"] for record in held_out]
    assert summary["n_volumes"] == len(held_out) == 2
    assert summary["simulated"] is True
    scores = summary["reconstruction"]
    assert scores["sse"]["value"] == pytest.approx(table["sse"].mean())
    training = json.loads((folder / "scores.json").read_text())
    assert scores["sse"]["value"] == pytest.approx(training["sse"], rel=1e-3)  # one definition
    assert scores["sse_ratio"]["value"] == pytest.approx(training["sse_ratio"], rel=1e-3)
    assert scores["sse_ratio_to_pca"]["value"] == pytest.approx(training["sse"] / training["sse_pca"], rel=1e-3)
    assert "Evaluated: 2 volumes, simulated" in printed
    assert "These brains are simulated" in (folder / "evaluation" / "report.html").read_text(encoding="utf-8")


def test_generation_writes_volumes_and_their_codes(commands, place):
    commands.done("generation")
    folder = place / "checkout/bundles/vae/output/samples"
    table = pd.read_csv(folder / "codes.csv")
    assert len(table) == 8
    volume = nib.load(place / "checkout/bundles/vae/data/simulated/sub-001/anat/sub-001_T1w.nii.gz")
    for name in table["sample"]:
        sample = nib.load(folder / f"{name}.nii.gz")
        assert list(sample.shape) == SHAPE
        np.testing.assert_allclose(sample.affine, volume.affine, atol=1e-4)  # the cohort's grid is the model's
    assert (folder / "contact_sheet.png").stat().st_size > 10_000


# ---- resume -------------------------------------------------------------------------------------------------------


def test_resume_goes_on_to_more_epochs(commands, place):
    printed = commands.done("resume")
    models = place / "checkout/bundles/vae/models"
    assert f"Resuming: {models / 'last.ckpt'} has 2 epochs; going on" in printed
    metrics = pd.read_csv(place / "checkout/bundles/vae/output/metrics.csv")
    assert metrics["epoch"].tolist() == [0, 1, 2]
    assert metrics["step"].tolist() == [3, 6, 9]
    checkpoint = torch.load(models / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 9


def test_a_run_is_run_again_from_its_own_file(commands, place):
    commands.done("override"), commands.done("again")
    before, after = place / "data" / "beta4", place / "data" / "again"
    for name in ("metrics.csv", "model.pt", "scores.json", "split.json"):
        assert (before / name).read_bytes() == (after / name).read_bytes(), name
    provenance = [json.loads((folder / "run.json").read_text())["provenance"] for folder in (before, after)]
    assert provenance[0]["data"] == provenance[1]["data"]
    assert "Not as then" not in commands.done("again") or "the code has changes" in commands.done("again")


def test_an_existing_result_is_not_overwritten(commands):
    refused = commands["existing"]
    assert refused.returncode != 0
    last = refused.stderr.strip().splitlines()[-1]
    assert "exists: a run is there already. Give --resume True to continue it, --overwrite True" in last


def test_a_model_of_other_settings_is_not_resumed(commands, place):
    before = (place / "checkout/bundles/vae/output/split.json").read_bytes()
    refused = commands["resume another"]
    assert refused.returncode != 0
    assert "latent_dim was 4, now 6." in refused.stderr.strip().splitlines()[-1]
    assert "Loading dataset" not in refused.stdout + refused.stderr
    assert (place / "checkout/bundles/vae/output/split.json").read_bytes() == before


# ---- several devices ----------------------------------------------------------------------------------------------


def test_two_processes_give_the_losses_of_one(commands, place):
    commands.done("train"), commands.done("two"), commands.done("resume")
    alone = pd.read_csv(place / "checkout/bundles/vae/output/metrics.csv").iloc[:2]
    shared = pd.read_csv(place / "data" / "two" / "metrics.csv")
    columns = [f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", "rec_loss", "kl_loss")]
    np.testing.assert_allclose(shared[columns], alone[columns], rtol=1e-3)
    assert shared["step"].tolist() == alone["step"].tolist()


def test_files_come_from_the_first_process_alone(commands, place):
    for name in ("two", "torchrun"):
        printed = commands.done(name)
        assert printed.count("Held-out subjects") == printed.count("Split by subject") == printed.count("Model: ") == 1
        assert "on 2 cpu devices" in printed
        folder = place / "data" / name
        assert len(list(folder.glob("tensorboard/*/events*"))) == 1
        assert [path.name for path in folder.glob("*.ckpt")] == ["last.ckpt"]
        assert len(pd.read_csv(folder / "metrics.csv")) == 2


# ---- tracking -----------------------------------------------------------------------------------------------------


def test_losses_go_to_tensorboard_by_default(commands, place):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    commands.done("two")
    (events,) = (place / "data" / "two" / "tensorboard").glob("*/events*")
    recorded = EventAccumulator(str(events)).Reload().Scalars("val/loss")
    table = pd.read_csv(place / "data" / "two" / "metrics.csv")
    np.testing.assert_allclose([event.value for event in recorded], table["val/loss"], rtol=1e-6)


@pytest.mark.filterwarnings("ignore:.*noload")  # of MLflow with its database
def test_losses_go_to_mlflow_by_one_override(commands, place, monkeypatch):
    from mlflow.tracking import MlflowClient

    commands.done("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = place / "data" / "tracked"
    client = MlflowClient(_local_store(folder))  # a database where the packages for one are installed
    (run,) = client.search_runs([client.get_experiment_by_name("brains").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["latent_dim"] == "4"
    recorded = client.get_metric_history(run.info.run_id, "val/loss")
    table = pd.read_csv(folder / "metrics.csv")
    np.testing.assert_allclose([metric.value for metric in recorded], table["val/loss"], rtol=1e-6)
    assert not (folder / "tensorboard").exists()


# ---- the zoo's form -----------------------------------------------------------------------------------------------


def test_load_returns_the_network_with_its_weights(commands, place, images, expected):
    commands.done("zoo")
    result = json.loads(commands.done("zoo load").splitlines()[-1])
    assert result["loaded"] == "ReconstructionNetwork"
    assert result["properties"] == {"train": [], "inference": []}
    loaded = torch.load(place / "data" / "loaded.pt", weights_only=True)
    weights = torch.load(place / "checkout/bundles/vae/models/model.pt", weights_only=True)
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_create_workflow_runs_its_inference(commands, place):
    commands.done("zoo load"), commands.done("inference")
    zoo = pd.read_csv(place / "data" / "zoo_latents" / "latents.csv")
    flat = pd.read_csv(place / "data" / "latents" / "latents.csv")
    pd.testing.assert_frame_equal(zoo, flat, rtol=1e-4, atol=1e-5)


def test_the_zoos_weights_are_its_own_wherever_the_variable_points(commands, place):
    commands.done("another run")
    other = torch.load(place / "another" / "models" / "model.pt", weights_only=True)
    own = torch.load(place / "data/zoo/vae/models/model.pt", weights_only=True)
    assert own.keys() == other.keys()
    assert any(own[name].shape != other[name].shape or not torch.equal(own[name], other[name]) for name in own)
    tables = []
    for name in ("unset", "empty", "another run's"):
        assert f"Weights: {place / 'data/zoo/vae/models/model.pt'}" in commands.done(f"zoo at {name}")
        tables.append((place / "data" / f"zoo at {name}" / "latents.csv").read_bytes())
    assert tables[0] == tables[1] == tables[2]


def test_the_zoos_configs_show_network_and_transforms(commands, place):
    commands.done("zoo")
    zoo = place / "data" / "zoo" / "vae" / "configs"
    config, training = (json.loads((zoo / f"{name}.json").read_text()) for name in ("inference", "train"))
    assert config["network_def"]["_target_"] == "monai_betavae.networks.builders.build_network"
    assert config["preprocessing"]["_target_"] == "Compose"
    names = [step["_target_"].rpartition(".")[2] for step in config["preprocessing"]["transforms"]]
    assert names == ["ReadVolumed", "Orientationd", "ResampleAntiAliasedd", "CropToGridd", "ScaleBrainIntensityd",
                     "PadToGridd", "ToPlainSampled"]  # fmt: skip
    assert training["train"]["preprocessing"] == config["preprocessing"]
    assert json.loads((zoo / "metadata.json").read_text())["required_packages_version"]["monai-betavae"]


@pytest.mark.parametrize("name", ["zoo metadata", "zoo verify"])
def test_the_runners_checks_of_the_zoo_form_pass(commands, name):
    assert "with no error" in commands.done(name)


def test_the_zoo_form_exports(commands, place, images, expected):
    commands.done("zoo export")
    with pytest.warns(DeprecationWarning, match=r"torch\.jit\.load"):
        exported = torch.jit.load(place / "data" / "zoo.ts")
    torch.testing.assert_close(exported(images).detach(), expected, atol=1e-4, rtol=0)


def test_the_zoo_form_has_the_zoos_files(commands, place):
    commands.done("zoo")
    zoo = place / "data" / "zoo" / "vae"
    for name in ("configs/metadata.json", "configs/inference.json", "configs/train.json", "configs/logging.conf",
                 "models/model.pt", "docs/README.md", "LICENSE"):  # fmt: skip
        assert (zoo / name).is_file(), name
    metadata = json.loads((zoo / "configs/metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]


# ---- short errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong id", "'latent_dims' isn't an id of this config; did you mean 'latent_dim'?"),
        ("wrong type", "'beta' must be a number, got 'strong'."),
        ("wrong architecture", "must be one of 'conv', 'plain', 'residual', 'resnet', 'densenet', got 'resnet50'"),
        ("no dataset", "a datalist (.json), a table (.csv, .tsv), .* got '/does/not/exist', and nothing is there"),
        ("no checkpoint", "must be the model.pt of a training run, and doesn't exist: run training first"),
        ("tracking", "use --logger mlflow"),
    ],
)
def test_errors_are_one_line(commands, place, name, message):
    failed = commands[name]
    assert failed.returncode != 0
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert re.search(message.replace("(", r"\(").replace(")", r"\)"), last), last
    assert len(last) < 240 + len(str(place)), last  # two lines of a terminal; paths of tests are long
    assert "Traceback" not in failed.stderr
    assert "Loading dataset" not in failed.stdout + failed.stderr
    assert not list((place / "nothing").rglob("*.nii.gz")) + list((place / "nothing").rglob("*.pt"))


# ---- the docs ----------------------------------------------------------------------------------------------------


def test_every_command_of_the_docs_runs(commands):
    assert len(docs_commands()) == 19
    for name in ("train", "override", "resume", "evaluation", "inference", "generation", "two", "torchrun",
                 "mlflow", "verify", "torchscript", "onnx", "program", "codes", "zoo"):  # fmt: skip
        commands.done(name)


def test_the_docs_have_the_zoos_sections():
    docs = (bundle_root() / "docs" / "README.md").read_text()
    sections = re.findall(r"^# (.*)$", docs, re.MULTILINE)
    wanted = ["Model Description", "Data", "Training Configuration", "Memory Warning", "Performance", "Commands"]
    assert [name for name in sections if name in wanted] == wanted
    assert {"Limitations", "Citation Info", "References", "License"} <= set(sections)
    assert re.search(r"\| 64×80×64 .*GiB", docs)
    assert "MonaiAlgo" in docs
