"""Every id of train.json: overriding it takes effect, and no later run forgets it.

For each id a case overrides it and trains two epochs. Then

- the override is seen to have taken effect;
- inference gives, to 1e-5, the codes that the objects of the training give by hand for who was held out, and evaluation
  their error;
- resuming with the same overrides goes on, and resuming without them is refused with the id's name, unless nothing that
  a model learns follows from the id.

Or the override is refused, by name, before any volume is read.
"""

import json
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bundle_runs import by_hand, evaluated, latents, metrics, tiny_cohort, train

from monai_betavae import bundle_root
from monai_betavae.workflows.resumption import is_free

# MONAI's warning of expressions in configs, and Lightning's advice on speed
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def leaves(name, value):
    """Yield the id of everything in a config that isn't a dictionary or a list of parts."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from leaves(f"{name}#{key}" if name else key, entry)
    elif isinstance(value, list) and any(isinstance(entry, dict | str) for entry in value):
        for index, entry in enumerate(value):
            yield from leaves(f"{name}#{index}", entry)
    else:
        yield name


@dataclass
class Case:
    """What is overridden, how that is seen, and what is to be given again later."""

    value: Any
    effect: Any
    beside: dict = field(default_factory=dict)  # further overrides
    free: bool | None = None  # whether it may be forgotten when resuming; by default as is_free says
    named: str | None = None  # by what name a resumption that has forgotten it is refused


# ---- how an effect is seen -------------------------------------------------------------------------------------------


def losses(run, base):
    """Return whether other numbers were learned."""
    ours, theirs = metrics(run.folder), metrics(base.folder)
    return ours.shape != theirs.shape or not np.array_equal(ours, theirs)


def content(name, expected, run, _base):
    """Return whether a part of the config is what it was set to, or is so made."""
    found = run.workflow.parser.get_parsed_content(name)
    return expected(found) if callable(expected) else found == expected


def file(pattern, run, _base):
    """Return whether the run left a file."""
    return any(run.folder.glob(pattern))


def attribute(name, path, expected):
    """See an attribute of a made part."""

    def reached(found):
        for step in path.split("."):
            found = found[int(step)] if step.isdigit() else getattr(found, step)
        return expected(found) if callable(expected) else found == expected

    return partial(content, name, reached)


def split_sizes(*sizes):
    def seen(run, _base):
        split = json.loads((run.folder / "split.json").read_text())
        return tuple(len(split[part]) for part in ("training", "validation", "test")) == sizes

    return seen


def described(*path_and_value):
    """See a value in model.json."""
    *path, expected = path_and_value

    def seen(run, _base):
        found = json.loads((run.folder / "model.json").read_text())
        for step in path:
            found = found[step]
        return found == expected

    return seen


def conditional_on(*names):
    """See the covariates of a conditional model."""

    def seen(run, _base):
        found = json.loads((run.folder / "model.json").read_text())
        return [entry["name"] for entry in found["covariates"]["covariates"]] == list(names)

    return seen


def both(*effects):
    return lambda run, base: all(effect(run, base) for effect in effects)


trainer = partial(attribute, "train#trainer")
STEP_3, STEP_4, STEP_5 = (f"train#preprocessing#transforms#{index}" for index in (3, 4, 5))
ARRAY = ("preprocessing", "transforms")
READING = (*ARRAY, 0, "arguments")
TWO = {"image_column": ["scan", "other"]}

CASES = {
    # where
    "bundle_root": Case("$'{folder}/moved'", partial(content, "run_root", lambda root: root.endswith("moved"))),
    "run_root": Case("$'{folder}/elsewhere'", partial(content, "cache_dir", lambda path: "elsewhere" in path)),
    "output_dir": Case("{folder}", partial(file, "metrics.csv")),
    "ckpt_dir": Case("{folder}", partial(file, "model.pt")),
    "cache_dir": Case("{folder}/mine", partial(file, "mine/*/*.pt"), {"cache": "disk"}),
    "cache": Case("none", attribute("train#dataset", "__class__.__name__", "Dataset")),
    "num_workers": Case(1, partial(content, "train#dataset", lambda data: len(data) == 8)),
    # whose volumes
    "dataset_dir": Case("{cohort}/sub-*/anat/*_T1w.nii.gz", lambda run, base: run.n_volumes() == 12),
    "suffix": Case("T1w", lambda run, base: run.n_volumes() == 12),
    "image_column": Case("scan", lambda run, base: run.n_volumes() == 12, {"dataset_dir": "{table}"}),
    "channel": Case(1, lambda run, base: run.n_volumes() == 12 and losses(run, base), {"dataset_dir": "{pairs}"}),
    "subject_from": Case(
        "sub-{subject}/**",
        lambda run, base: not any(subject.startswith("sub-") for subject in run.subjects()),
        {"dataset_dir": "{cohort}/sub-*/anat/*_T1w.nii.gz"},
    ),
    "entities": Case("space=none", described("trained_on", "told", "entities", "space=none")),
    "covariates": Case(["age", "sex"], both(losses, conditional_on("age", "sex"))),
    "covariate_coding": Case(
        "$monai_betavae.data.CovariateCoding.fit(@split['training'], ['brain_ml'])",
        both(losses, conditional_on("brain_ml")),
        named="give --covariates",
    ),
    "missing_values": Case(["-5"], described("trained_on", "told", "missing_values", ["-5"])),
    "on_incomplete": Case("skip", lambda run, base: run.n_volumes() == 11, {"dataset_dir": "{gaps}", **TWO}),
    "contrasts": Case(
        ["first", "other"],
        both(described("contrasts", ["first", "other"]), described(*READING, "contrasts", ["first", "other"])),
        {"dataset_dir": "{two}", **TWO},
    ),
    "max_cut_away": Case(0.9, attribute("model_training", "max_cut_away", 0.9)),
    "min_filled": Case(0.001, attribute("model_training", "min_filled", 0.001)),
    "simulated_cohort#output_dir": Case("{folder}/brains", partial(file, "brains/participants.tsv"), "simulated"),
    "simulated_cohort#n_subjects": Case(14, lambda run, base: run.n_volumes() == 14, "simulated"),
    "simulated_cohort#spacing": Case(10.0, partial(file, "brains/participants.tsv"), "simulated"),
    "simulated_cohort#seed": Case(3, losses, "simulated"),
    "records": Case("$monai_betavae.data.discover('{cohort}')[:10]", lambda run, base: run.n_volumes() == 10),
    "usable_records": Case("$@records[:11]", lambda run, base: run.n_volumes() == 11),
    "split": Case("$dict(training=@records[:7], validation=@records[7:9], test=@records[9:])", split_sizes(7, 2, 3)),
    "on_bad_volume": Case("skip", partial(content, "usable_records", lambda found: len(found) == 12)),
    "fractions": Case([0.5, 0.25, 0.25], split_sizes(6, 3, 3)),
    "stratify": Case("sex", lambda run, base: run.split() != base.split()),
    "n_folds": Case(3, split_sizes(7, 1, 4)),
    "fold": Case(1, lambda run, base: run.split() != base.split(), {"n_folds": 3}),
    "split_file": Case("{base}/split.json", lambda run, base: run.split() == base.split(), {"seed": 5}),
    # the model that it starts from
    "init_from": Case("{base}", losses),
    "initial_model": Case("$monai_betavae.workflows.initial_model('{base}/model.pt')", losses),
    # the run
    "resume": Case(True, lambda run, base: True, free=True),
    "resume_changes": Case(["batch_size"], lambda run, base: True, free=True),
    "overwrite": Case(True, lambda run, base: True, free=True),
    "device": Case("$torch.device('cpu')", trainer("strategy.root_device.type", "cpu")),
    "max_epochs": Case(1, lambda run, base: len(np.atleast_2d(metrics(run.folder))) == 1),
    "early_stopping": Case(True, trainer("early_stopping_callbacks", bool)),
    "patience": Case(3, trainer("early_stopping_callbacks.0.patience", 3), {"early_stopping": True}),
    "seed": Case(5, losses),
    "batch_size": Case(3, losses),
    "augment": Case(True, losses),
    "precision": Case("64-true", trainer("precision", "64-true")),
    "recompute_activations": Case(True, lambda run, base: np.allclose(metrics(run.folder), metrics(base.folder))),
    "storage": Case("uint8", losses),
    "logger": Case("tensorboard", partial(file, "tensorboard/*/events*")),
    "tracking_uri": Case("{folder}/uri", partial(file, "uri/*"), {"logger": "mlflow"}),
    "experiment_name": Case(
        "brains", trainer("logger.name", str), {"logger": "mlflow", "tracking_uri": "{folder}/uri"}
    ),
    "run_name": Case("first", trainer("logger.run_id", bool), {"logger": "mlflow", "tracking_uri": "{folder}/uri"}),
    # the network
    "spatial_shape": Case([8, 12, 8], described("grid", "spatial_shape", [8, 12, 8])),
    "spacing": Case(20.0, described("grid", "spacing", [20.0] * 3)),
    "center": Case([3.0, -18, 8], both(losses, described(*ARRAY, 3, "arguments", "center", [3.0, -18, 8]))),
    "padding": Case("edge", described(*ARRAY, 5, "arguments", "padding", "edge")),
    "latent_dim": Case(3, described("network", "arguments", "latent_dim", 3)),
    "architecture": Case("residual", both(losses, described("network", "arguments", "architecture", "residual"))),
    "channels": Case([4, 6], both(losses, described("network", "arguments", "channels", [4, 6]))),
    "n_blocks": Case(2, both(losses, described("network", "arguments", "n_blocks", 2))),
    "norm": Case("batch", both(losses, described("network", "arguments", "norm", "batch"))),
    "act": Case("prelu", both(losses, described("network", "arguments", "act", "prelu"))),
    "kernel_size": Case(
        5, both(losses, described("network", "arguments", "kernel_size", 5)), {"architecture": "plain"}
    ),
    "dropout": Case(0.5, both(losses, described("network", "arguments", "dropout", 0.5))),
    "output": Case(
        "sigmoid", both(losses, described("network", "arguments", "output", "sigmoid")), {"warm_start": "mean"}
    ),
    "warm_start": Case("mean", both(losses, described("network", "arguments", "warm_start", "mean"))),
    "noise": Case("voxel", both(losses, described("network", "arguments", "noise", "voxel"))),
    "n_corrections": Case(3, both(losses, described("network", "arguments", "n_corrections", 3))),
    "n_voxels": Case(20, partial(content, "network_def", lambda found: len(found.decoder.template.voxels) != 20)),
    # the loss and the optimizer
    "beta": Case(0.05, both(losses, described("likelihood", "beta", 0.05))),
    "learning_rate": Case(0.005, losses),
    "weight_decay": Case(0.5, losses),
    "loss#_target_": Case(
        "bundle_parts.Doubled", both(losses, described("likelihood", "distribution", "normal")), named="loss"
    ),
    "loss#beta": Case(0.05, both(losses, described("likelihood", "beta", 0.05)), named="beta"),
    "loss#schedule": Case({"kind": "linear", "length": 4, "start": 0.5}, losses),
    "loss#default_dist": Case(
        "laplace", both(losses, described("likelihood", "distribution", "laplace")), named="distribution"
    ),
    "optimizer#_target_": Case("torch.optim.Adam", losses, named="optimizer"),
    "optimizer#lr": Case(0.005, losses),
    "optimizer#weight_decay": Case(0.5, losses),
    "optimizer#fused": Case(False, trainer("optimizers.0.defaults", lambda found: found["fused"] is False)),
    "lr_scheduler#_target_": Case(
        "torch.optim.lr_scheduler.CosineAnnealingLR",
        losses,
        {"lr_scheduler": {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "_mode_": "callable", "T_max": 40}},
        named="lr_scheduler",
    ),
    "lr_scheduler#warmup_steps": Case(2, losses),
    "lr_scheduler#decay_fraction": Case(1.0, losses),
    "estimator#lr_interval": Case("epoch", losses),
    "estimator#random_state": Case(5, partial(content, "estimator", lambda found: found.random_state == 5)),
    # the network's entry, in place of the ids above
    "network_def#latent_dim": Case(3, described("network", "arguments", "latent_dim", 3), named="latent_dim"),
    "network_def#spatial_shape": Case(
        [8, 12, 8],
        described("network", "arguments", "spatial_shape", [8, 12, 8]),
        {f"{STEP_3}#spatial_size": [8, 12, 8], f"{STEP_5}#spatial_size": [8, 12, 8]},
        named="spatial_shape",
    ),
    "network_def#architecture": Case("plain", losses, named="architecture"),
    "network_def#channels": Case([4, 6], losses, named="channels"),
    "network_def#n_blocks": Case(2, losses, named="n_blocks"),
    "network_def#norm": Case("instance", losses, named="norm"),
    "network_def#act": Case("swish", losses, named="act"),
    "network_def#kernel_size": Case(5, losses, {"architecture": "plain"}, named="kernel_size"),
    "network_def#dropout": Case(0.5, losses, named="dropout"),
    "network_def#output": Case("sigmoid", losses, {"warm_start": "mean"}, named="output"),
    "network_def#warm_start": Case("linear", losses, named="warm_start"),
    "network_def#noise": Case("voxel", losses, named="noise"),
    "network_def#n_corrections": Case(4, losses, named="n_corrections"),
    "network_def#in_channels": Case(
        2, described("network", "arguments", "in_channels", 2), {"dataset_dir": "{two}", **TWO}, named="in_channels"
    ),
    "network_def#n_voxels": Case(7, lambda run, base: True),
    "network_def#random_state": Case(3, losses),
    # the transforms
    "train#preprocessing#transforms#0#background": Case(
        "zero", described(*ARRAY, 0, "arguments", "background", "zero"), named="background"
    ),
    "train#preprocessing#transforms#0#contrasts": Case(
        ["scan", "other"],
        described(*READING, "contrasts", ["scan", "other"]),
        {"dataset_dir": "{two}", **TWO},
        named="contrasts",
    ),
    "train#preprocessing#transforms#1#axcodes": Case(
        "LPS", both(losses, described(*ARRAY, 1, "arguments", "axcodes", "LPS")), named="axcodes"
    ),
    "train#preprocessing#transforms#2#spacing": Case(
        20.0, both(losses, described(*ARRAY, 2, "arguments", "spacing", 20.0)), named="spacing"
    ),
    "train#preprocessing#transforms#2#center": Case(
        "foreground", both(losses, described(*ARRAY, 2, "arguments", "center", "foreground")), named="center"
    ),
    "train#preprocessing#transforms#2#_disabled_": Case(
        True,
        lambda run, base: len(json.loads((run.folder / "model.json").read_text())["preprocessing"]["transforms"]) == 6,
        {"max_cut_away": 1.0},
        named="train#preprocessing",
    ),
    f"{STEP_3}#spatial_size": Case(
        [8, 12, 8],
        described("grid", "spatial_shape", [8, 12, 8]),
        {"network_def#spatial_shape": [8, 12, 8], f"{STEP_5}#spatial_size": [8, 12, 8]},
        named="spatial_",
    ),
    f"{STEP_3}#center": Case(
        [30.0, -18, 8], both(losses, described(*ARRAY, 3, "arguments", "center", [30.0, -18, 8])), named="center"
    ),
    f"{STEP_5}#spatial_size": Case(
        [8, 12, 8],
        described("grid", "spatial_shape", [8, 12, 8]),
        {"network_def#spatial_shape": [8, 12, 8], f"{STEP_3}#spatial_size": [8, 12, 8]},
        named="spatial_",
    ),
    f"{STEP_5}#padding": Case("edge", described(*ARRAY, 5, "arguments", "padding", "edge"), named="padding"),
    f"{STEP_4}#percentiles": Case(
        [10, 70], both(losses, described(*ARRAY, 4, "arguments", "percentiles", [10, 70])), named="percentiles"
    ),
    f"{STEP_4}#background": Case("zero", described(*ARRAY, 4, "arguments", "background", "zero"), named="background"),
    f"{STEP_4}#_target_": Case(
        "ScaleIntensityd",
        both(losses, described(*ARRAY, 4, "name", "ScaleIntensityd")),
        {STEP_4: {"_target_": "ScaleIntensityd", "keys": "image"}},
        named="train#preprocessing",
    ),
    "train#preprocessing#transforms#6#keep#0": Case(
        "site", partial(content, "train#dataset", lambda data: "site" in data[0]), named="keep"
    ),
    # the data path
    "train#dataset#cache": Case("none", attribute("train#dataset", "__class__.__name__", "Dataset")),
    "train#dataset#cache_dir": Case("{folder}/mine", partial(file, "mine/*/*.pt"), {"train#dataset#cache": "disk"}),
    "train#dataset#storage": Case("uint8", losses),
    "train#dataset#num_workers": Case(1, partial(content, "train#dataset", lambda data: len(data) == 8)),
    "train#dataset#data": Case("$@split['training'][:6]", losses),
    "train#augmentation#seed": Case(7, losses, {"augment": True}),
    "train#samples": Case("$torch.utils.data.Subset(@train#dataset, range(4))", losses),
    "train#dataloader#batch_size": Case(3, losses),
    "train#dataloader#sampler#shuffle": Case(False, losses),
    "train#dataloader#sampler#seed": Case(7, losses),
    "train#dataloader#num_workers": Case(1, attribute("train#dataloader", "num_workers", 1)),
    "train#callbacks#0#seed": Case(7, losses),
    "train#callbacks#1#checkpoint": Case("{folder}/last.ckpt", trainer("callbacks", bool)),
    "train#callbacks#2#path": Case("{folder}/metrics.csv", partial(file, "metrics.csv")),
    "train#callbacks#3#path": Case("{folder}/model.pt", partial(file, "model.pt")),
    "train#callbacks#4#path": Case("{folder}/last.ckpt", partial(file, "last.ckpt")),
    "train#callbacks#5#_target_": Case(
        "lightning.pytorch.callbacks.RichProgressBar",
        trainer("callbacks", bool),
        {"train#callbacks#5": {"_target_": "lightning.pytorch.callbacks.LearningRateMonitor"}, "logger": "tensorboard"},
        free=False,
    ),
    "train#callbacks#7#path": Case("{folder}/activity.csv", partial(file, "activity.csv")),
    "train#callbacks#6#_disabled_": Case(False, trainer("early_stopping_callbacks", bool)),
    "train#callbacks#6#monitor": Case(
        "val/rec_loss", trainer("early_stopping_callbacks.0.monitor", "val/rec_loss"), {"early_stopping": True}
    ),
    "train#callbacks#6#patience": Case(3, trainer("early_stopping_callbacks.0.patience", 3), {"early_stopping": True}),
    "train#logger#_target_": Case(
        "lightning.pytorch.loggers.CSVLogger",
        partial(file, "csv/version_0/hparams.yaml"),
        {"train#logger": {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "{folder}", "name": "csv"}},
    ),
    "train#logger#name": Case("tensorboard", partial(file, "tensorboard/*/events*")),
    "train#logger#output_dir": Case(
        "{folder}/logs", partial(file, "logs/tensorboard/*/events*"), {"logger": "tensorboard"}
    ),
    "train#logger#tracking_uri": Case("{folder}/uri", partial(file, "uri/*"), {"logger": "mlflow"}),
    "train#logger#experiment_name": Case(
        "brains", trainer("logger.name", str), {"logger": "mlflow", "tracking_uri": "{folder}/uri"}
    ),
    "train#logger#run_name": Case(
        "one", trainer("logger.run_id", bool), {"logger": "mlflow", "tracking_uri": "{folder}/uri"}
    ),
    "train#trainer#max_epochs": Case(1, lambda run, base: len(np.atleast_2d(metrics(run.folder))) == 1),
    "train#trainer#accelerator": Case("cpu", trainer("strategy.root_device.type", "cpu")),
    "train#trainer#devices": Case("auto", trainer("world_size", 1)),
    "train#trainer#precision": Case("64-true", trainer("precision", "64-true")),
    "train#trainer#strategy": Case("auto", trainer("world_size", 1)),
    "train#trainer#num_nodes": Case(1, trainer("num_nodes", 1)),
    "train#trainer#logger": Case(False, trainer("logger", None)),
    "train#trainer#default_root_dir": Case(
        "{folder}/root", trainer("default_root_dir", lambda path: path.endswith("root"))
    ),
    "train#trainer#enable_model_summary": Case(
        True, trainer("callbacks", lambda found: any("Summary" in type(each).__name__ for each in found))
    ),
    "train#trainer#num_sanity_val_steps": Case(0, trainer("num_sanity_val_steps", 0)),
    "validate#dataset#cache": Case("none", attribute("validate#dataset", "__class__.__name__", "Dataset")),
    "validate#dataset#cache_dir": Case(
        "{folder}/mine", partial(file, "mine/*/*.pt"), {"validate#dataset#cache": "disk"}
    ),
    "validate#dataset#storage": Case("uint8", losses),
    "validate#dataset#num_workers": Case(1, partial(content, "validate#dataset", lambda data: len(data) == 2)),
    "validate#dataset#data": Case("$@split['validation'][:1]", losses),
    "validate#dataloader#batch_size": Case(1, attribute("validate#dataloader", "batch_size", 1)),
    "validate#dataloader#num_workers": Case(1, attribute("validate#dataloader", "num_workers", 1)),
    "test#dataset#cache": Case("none", attribute("test#dataset", "__class__.__name__", "Dataset")),
    "test#dataset#cache_dir": Case("{folder}/mine", partial(file, "mine/*/*.pt"), {"test#dataset#cache": "disk"}),
    "test#dataset#storage": Case("uint8", partial(content, "test#dataset", lambda data: len(data) == 2)),
    "test#dataset#num_workers": Case(1, partial(content, "test#dataset", lambda data: len(data) == 2)),
    "test#dataset#data": Case("$@split['test'][:1]", lambda run, base: run.scores()["n_held_out"] == 1),
}

REFUSED = {
    "network_def#n_covariates": (2, "`network_def` must take 0 coded covariates"),
    "compile": ("yes", "'compile' must be True or False"),
    "validate#preprocessing": (
        {"_target_": "monai_betavae.data.brain_transforms", "spatial_shape": [8, 10, 8]},
        "'validate#preprocessing' must be that of training",
    ),
    "test#preprocessing": (
        {"_target_": "monai_betavae.data.brain_transforms", "spatial_shape": [8, 10, 8]},
        "'test#preprocessing' must be that of training",
    ),
    # of a run without epochs, see tests/workflows/test_fine_tuning.py
    "train_only": ("decoder", "`train_only` must be one of 'condition', got 'decoder'"),
    "train#callbacks#3#network": ("@netwrk", "'train#callbacks#3#network' refers to @netwrk"),
    "train#preprocessing#_target_": ("Compos", "Compos"),
}
"""Overrides that are refused by name before any volume is read."""

WIRING = (
    # what a part is made by or from: another target or another part is another entry, see the tests of swapped parts
    r".*#_target_|.*#_mode_|.*#_desc_|imports#\d|training#\d|check#\d|run|model_training#.*",
    r"estimator#(network|loss|optimizer|lr_scheduler)|.*#transforms#\d#keys|.*#transforms#1#labels",
    r"(train|validate|test)#dataset#(transform|coding)|(train|validate)#dataloader(#sampler)?#dataset|train#trainer#callbacks",
    r"train#callbacks#\d#network|network_def#initial",
)


class Run:
    """One training run of a case."""

    def __init__(self, folder, workflow):
        self.folder = folder
        self.workflow = workflow

    def split(self):
        split = json.loads((self.folder / "split.json").read_text())
        return {part: [Path(record["image"]).name for record in members] for part, members in split.items()}

    def subjects(self):
        split = json.loads((self.folder / "split.json").read_text())
        return {record["subject"] for members in split.values() for record in members}

    def n_volumes(self):
        return sum(map(len, self.split().values()))

    def scores(self):
        return json.loads((self.folder / "scores.json").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Some tiny brains, the same as a table, as files of two volumes, and as tables of two images a subject."""
    import nibabel as nib

    from monai_betavae.data import discover

    folder = tmp_path_factory.mktemp("place")
    cohort = tiny_cohort(folder / "cohort")
    records = discover(cohort)
    rows = [{"scan": record["image"], "subject": record["subject"]} for record in records]
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    (folder / "pairs").mkdir()
    for record in records:
        image = nib.load(record["image"])
        values = image.get_fdata(dtype=np.float32)
        pair = nib.Nifti1Image(np.stack([values, values**2], -1), image.affine)
        nib.save(pair, folder / "pairs" / f"{record['subject']}.nii.gz")
    (folder / "others").mkdir()
    for row, record in zip(rows, records, strict=True):
        image = nib.load(record["image"])
        row["other"] = str(folder / "others" / f"{record['subject']}.nii.gz")
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) ** 2, image.affine), row["other"])
    pd.DataFrame(rows).to_csv(folder / "two.csv", index=False)
    pd.DataFrame([{**rows[0], "other": None}, *rows[1:]]).to_csv(folder / "gaps.csv", index=False)
    return folder


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Leave out the pictures, which take most of the time; other tests look at them."""
    from monai_betavae.workflows import model_training, training_results
    from monai_betavae.workflows.model_evaluation import model_parts
    from monai_betavae.workflows.model_evaluation import run as evaluation
    from monai_betavae.workflows.model_evaluation.report import Report

    drawn = {
        model_training: ("save_figure", "plot_losses"),
        training_results: ("save_figure", "plot_reconstructions", "plot_traversals"),
        evaluation: ("save_figure", "plot_losses"),
        model_parts: ("plot_reconstructions", "plot_traversals"),
    }
    for module, names in drawn.items():
        for name in names:
            monkeypatch.setattr(module, name, lambda *args, **kwargs: None)
    monkeypatch.setattr(Report, "figure", lambda *args, **kwargs: None)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


@pytest.fixture(scope="module")
def base(place):
    """The run without an override."""
    folder = place / "base"
    return Run(folder, train(folder, place / "cohort"))


def filled(value, **names):
    """Put the test's folders into an override."""
    if isinstance(value, dict):
        return {key: filled(entry, **names) for key, entry in value.items()}
    if isinstance(value, str) and "{" in value:
        for name, path in names.items():
            value = value.replace(f"{{{name}}}", str(path))
    return value


def overrides_of(name, case, place, folder):
    beside = case.beside
    if beside == "simulated":
        small = {"output_dir": f"{folder}/brains", "n_subjects": 14, "spacing": 12.0, "seed": 0}
        beside = {f"simulated_cohort#{key}": value for key, value in small.items()}
        beside["dataset_dir"] = None
    given = {**beside} if any(name.startswith(f"{key}#") for key in beside) else {**beside, name: case.value}
    names = {
        "folder": folder,
        "cohort": place / "cohort",
        "table": place / "table.csv",
        "pairs": place / "pairs",
        "two": place / "two.csv",
        "gaps": place / "gaps.csv",
        "base": place / "base",
    }
    return {key: filled(value, **names) for key, value in given.items()}


def test_every_id_has_a_case():
    config = json.loads((bundle_root() / "train.json").read_text())
    ids = set(leaves("", config))
    unknown = (CASES.keys() | REFUSED.keys()) - ids - {"tracking_uri"}
    assert not unknown
    left = [name for name in ids - CASES.keys() - REFUSED.keys() if not any(re.fullmatch(p, name) for p in WIRING)]
    assert sorted(left) == []


@pytest.mark.parametrize("name", CASES)
def test_an_override_takes_effect_and_is_not_forgotten(name, place, base, tmp_path):
    case, folder = CASES[name], tmp_path / "run"
    given = overrides_of(name, case, place, folder)
    run = Run(folder, train(folder, place / "cohort", **given))
    assert case.effect(run, base), f"{name} had no effect"

    codes, error = by_hand(run.workflow, folder)
    np.testing.assert_allclose(latents(folder), codes, atol=1e-5)
    found = evaluated(folder, parts=["reconstruction"], n_reference=0)  # without PCA beside it, which takes longest
    assert found["reconstruction"]["sse"]["value"] == pytest.approx(error, rel=1e-4, abs=1e-6)

    more = {"resume": True, "max_epochs": 3} | ({"train#trainer#max_epochs": 3} if "max_epochs" in name else {})
    given.pop("overwrite", None)
    repeated = {**given, **more}
    keep = {
        key: value for key, value in given.items() if case.beside == "simulated" or key in ("dataset_dir", "records")
    }
    forgotten = {**keep, **more} if name not in keep else None
    free = is_free(name) if case.free is None else case.free
    if forgotten is not None and not free:
        with pytest.raises(ValueError, match=re.escape(case.named or name.split("#")[0])):
            train(folder, place / "cohort", **forgotten)
        assert len(np.atleast_2d(metrics(folder))) < 3
    train(folder, place / "cohort", **repeated)
    assert len(np.atleast_2d(metrics(folder))) == 3


@pytest.mark.parametrize("name", REFUSED)
def test_an_override_is_refused_by_name(name, place, tmp_path):
    value, message = REFUSED[name]
    with pytest.raises(Exception, match=re.escape(message)):
        train(tmp_path, place / "cohort", **{name: value})
    assert not (tmp_path / "split.json").exists()
