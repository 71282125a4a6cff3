"""Files that somebody else made: nothing in them runs, and each is refused by name, on every way a file comes in."""

import contextlib
import json
import warnings

import lightning.pytorch as pl
import nibabel as nib
import numpy as np
import pytest
import quiet_trainer
import torch
from described_models import write_model
from hostile_files import broken_archives, damaged, hostile_files, payload_of, zipped
from lightning.pytorch.callbacks import Callback
from monai.bundle import ConfigParser
from monai.transforms import Compose
from torch.utils.data import DataLoader

from monai_betavae import VAE, build_vae, bundle_root
from monai_betavae.data import DiskCacheDataset, discover
from monai_betavae.data.transforms import ReadVolumed
from monai_betavae.data.volumes.volume_files import read_header
from monai_betavae.networks.builders import build_network
from monai_betavae.workflows.model_description import read_description
from monai_betavae.workflows.model_evaluation.subjects import training_summary
from monai_betavae.workflows.model_training import ModelTraining
from monai_betavae.workflows.records import read_split
from monai_betavae.workflows.settings import unwrap_error
from monai_betavae.workflows.trained_model import (
    grid_affine,
    load_weights,
    of_another_run,
    trained_likelihood,
    trained_network,
    trained_preprocessing,
)
from monai_betavae.workflows.zoo import write_zoo_bundle

pytestmark = [
    # what torch says before it refuses
    pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning"),
    pytest.mark.filterwarnings("ignore:'torch.load' received a zip file:UserWarning"),
]

QUIET = {**quiet_trainer.QUIET, "num_nodes": 1}
SHAPE = (8, 8, 8)
N_EXECUTING, N_BROKEN = {"vae": 66, "checkpoint": 100, "weights": 66, "sample": 60}, 16


def small_vae(max_epochs=1):
    return build_vae((8, 8), 2, channels=(4, 8), random_state=0, max_epochs=max_epochs, **QUIET)


def small_network():
    return build_network(SHAPE, 2, channels=(4, 8), random_state=0)


@pytest.fixture(scope="module")
def true(tmp_path_factory):
    """A folder with a true file of each kind, and loaders of what they were made from."""
    folder = tmp_path_factory.mktemp("true")
    loader = DataLoader(torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), batch_size=4)
    vae, trainer = small_vae(), pl.Trainer(max_epochs=1, **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fixture knows nothing of the marks above
        trainer.fit(vae, loader)
    vae.save(folder / "vae.pt")
    trainer.save_checkpoint(folder / "last.ckpt")
    write_model(folder, small_network(), SHAPE, 2.0)
    return folder, loader


class Cache:
    """A disk cache of one sample, and where that lies."""

    def __init__(self, folder):
        self.image = torch.rand(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
        self.dataset = DiskCacheDataset([{"image": self.image, "subject": "a"}], Compose([]), folder, progress=False)
        (self.file,) = self.dataset.folder.iterdir()


def loaded_or_refused(read, path, *arguments):
    """Return what was read, or the error that names the file; any other error is one of the test's."""
    try:
        return read(path, *arguments)
    except ValueError as error:
        return pytest.fail(str(error)) if path.name not in str(error) and "model.pt" not in str(error) else error


def content_of(kind, folder):
    if kind == "sample":
        return {"image": torch.ones(1, 4, 4, 4), "image_path": "a.nii.gz", "subject": "a"}
    name = {"vae": "vae.pt", "checkpoint": "last.ckpt", "weights": "model.pt"}[kind]
    content = torch.load(folder / name, weights_only=True)
    return dict(list(content.items())[:6]) if kind == "weights" else dict(content)


def resume_run(path, loader):
    """Do what the bundle's ``--resume True`` does."""
    trainer = pl.Trainer(max_epochs=2, **QUIET)
    training = ModelTraining(trainer, SPARE, SPARE, Compose([]), path.parent / "output", path.parent, resume=True)
    training.run(loader, None, [], {"training": [], "test": []})


READERS = {
    "VAE.load": ("vae", "vae.pt", lambda path, _: VAE.load(path)),
    "VAE.load, networks passed in": ("vae", "vae.pt", lambda path, _: VAE.load(path, SPARE.encoder, SPARE.decoder)),
    "load_from_checkpoint": ("checkpoint", "last.ckpt", lambda path, _: VAE.load_from_checkpoint(path)),
    "fit, resumed": ("checkpoint", "last.ckpt", lambda path, loader: SPARE.fit(loader, ckpt_path=path)),
    "training, resumed": ("checkpoint", "last.ckpt", resume_run),
    "inference, evaluation and generation": ("weights", "model.pt", lambda path, _: load_weights(NETWORK, path)),
}
"""By way in: the kind of file, its name, what reads it."""

NETWORK, SPARE = small_network(), small_vae(2)
"""What the files are read into, where that is given."""


@pytest.mark.parametrize("kind", N_EXECUTING)
def test_the_payloads_are_real(true, tmp_path, kind):
    """Unpickled, all but two of each kind run: a tar around another format, and TorchScript's own unpickler."""
    marker = tmp_path / "marker"
    files = hostile_files(content_of(kind, true[0]), marker)
    silent = []
    for name, data in files.items():
        (tmp_path / "evil.pt").write_bytes(data)
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file that a payload leaves open
            if name.startswith("numpy"):
                archive = np.load(tmp_path / "evil.pt", allow_pickle=True)
                list(archive.values() if hasattr(archive, "values") else archive)
            else:
                torch.load(tmp_path / "evil.pt", weights_only=False)
        if marker.is_dir():
            marker.rmdir()
        elif marker.exists():
            marker.unlink()
        else:
            silent.append(name)
    assert silent == ["tar of a torch file", "script"]
    assert len(files) == N_EXECUTING[kind]


@pytest.mark.parametrize("reader", READERS)
def test_nothing_runs_and_the_file_is_refused_by_name(true, tmp_path, reader):
    kind, name, read = READERS[reader]
    marker = tmp_path / "marker"
    content = content_of(kind, true[0])
    files = {**hostile_files(content, marker), **broken_archives(content)}
    assert len(files) == N_EXECUTING[kind] + N_BROKEN
    for hostile, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name):
            read(tmp_path / name, true[1])
        assert not marker.exists(), hostile


def test_a_cached_sample_that_would_run_is_named_and_made_again(tmp_path):
    cache, marker = Cache(tmp_path / "cache"), tmp_path / "marker"
    content = content_of("sample", None)
    files = {**hostile_files(content, marker), **broken_archives(content)}
    assert len(files) == N_EXECUTING["sample"] + N_BROKEN
    for number, content in enumerate(([], {}, {"image": "text"}, {"image": None}, torch.ones(3), "text")):
        files[f"of another form {number}"] = zipped(content)
    for hostile, data in files.items():
        cache.file.write_bytes(data)
        with pytest.warns(UserWarning, match=rf"{cache.file.name}.* made again"):
            sample = cache.dataset[0]
        assert torch.equal(sample["image"], cache.image), hostile
        assert not marker.exists(), hostile
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cache.dataset[0]["image"], cache.image)  # the one made again


def test_a_checkpoint_that_lightning_finds_by_itself_runs_nothing_either(true, tmp_path, monkeypatch):
    """Under SLURM Lightning restores from hpc_ckpt_*.ckpt in ``default_root_dir``, which nobody asked for."""
    for name in ("NTASKS", "JOB_ID", "JOB_NAME", "PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0" if name.endswith("ID") else "1")
    marker = tmp_path / "marker"
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(zipped({"state_dict": payload_of(marker)}))
    vae = build_vae((8, 8), 2, channels=(4, 8), max_epochs=1, default_root_dir=str(tmp_path), **QUIET)
    with pytest.raises(ValueError, match=r"hpc_ckpt_1\.ckpt was refused"):
        vae.fit(true[1])
    assert not marker.exists()


def test_an_error_of_the_training_itself_is_not_the_checkpoints(true):
    class Failing(Callback):
        def on_train_batch_start(self, *_):
            raise KeyError("mine")

    folder, loader = true
    vae = build_vae((8, 8), 2, channels=(4, 8), max_epochs=2, callbacks=[Failing()], **QUIET)
    with pytest.raises(KeyError, match="mine"):
        vae.fit(loader, ckpt_path=folder / "last.ckpt")


def test_a_checkpoint_removes_no_file_of_others(tmp_path, monkeypatch):
    """Lightning's ModelCheckpoint removes the best checkpoint so far, wherever the file says that it lies."""
    monkeypatch.chdir(tmp_path)
    options = {**QUIET, "enable_checkpointing": True}
    loader = DataLoader(torch.rand(4, 1, 8, 8), batch_size=4)

    def resumed(path):
        return build_vae((8, 8), 2, channels=(4, 8), max_epochs=2, **options).fit(loader, ckpt_path=path)

    build_vae((8, 8), 2, channels=(4, 8), max_epochs=1, **options).fit(loader)
    (first,) = (tmp_path / "checkpoints").iterdir()
    checkpoint = torch.load(first, weights_only=True)
    (key,) = (key for key in checkpoint["callbacks"] if key.startswith("ModelCheckpoint"))
    state = checkpoint["callbacks"][key]
    mine = tmp_path / "mine"
    mine.mkdir()
    paths = [f"local://{mine}", "checkpoints/../mine", f"{tmp_path}/checkpoints/../mine", "checkpoints\\..\\mine"]
    paths += [f"simplecache::{mine}", f"file://{mine}", "s3://bucket/mine"]
    for path in paths:
        changes = {"best_model_path": path}, {"last_model_path": path}, {"best_k_models": {path: torch.ones(1)}}
        for change in changes:
            torch.save({**checkpoint, "callbacks": {key: {**state, **change}}}, tmp_path / "evil.ckpt")
            with pytest.raises(
                ValueError, match=r"evil\.ckpt can't be resumed from: its earlier checkpoints must lie in"
            ):
                resumed(tmp_path / "evil.ckpt")
    for path in (str(mine), "mine"):  # Lightning itself leaves these alone
        torch.save({**checkpoint, "callbacks": {key: {**state, "best_model_path": path}}}, tmp_path / "other.ckpt")
        resumed(tmp_path / "other.ckpt")
    assert mine.is_dir()
    resumed(first)
    assert first.is_file()


# ---- values that run nothing, and aren't a model's ----


def changed_description(content, **changes):
    description = json.loads(content["description"])
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = description
        for parent in parents:
            place = place[parent]
        place[last] = value
    return {**content, "description": json.dumps(description)}


def untrue_models(content):
    """Return files of plain values that VAE.save would never write."""
    weights = content["state_dict"]
    first = next(iter(weights))
    texts = {
        "brackets": "[" * 100_000,
        "a number of 5000 digits": '{"hparams": {"lr": ' + "1" * 5000 + "}}",
        "a list": "[]",
        "hparams a list": '{"hparams": []}',
    }
    descriptions = {
        "an argument that is a network": {"hparams__encoder": 1},
        "an unknown argument": {"hparams__evil": 1},
        "a private argument": {"hparams___instantiator": "os.system"},
        "an infinite rate": {"hparams__lr": float("inf")},
        "a rate of text": {"hparams__lr": "$1"},
        "a negative number of dimensions": {"hparams__latent_dim": -2},
        "2^40 dimensions": {"hparams__latent_dim": 2**40},
        "2^34 features": {"hparams__encoder_out_dim": 2**34},
        "another builder": {"encoder__builder": "os.system"},
        "a builder with a module": {"encoder__builder": "torch.nn.Linear"},
        "a builder that is a list": {"encoder__builder": ["build_encoder"]},
        "a layer that is code": {"encoder__arguments__act": "$__import__('os')"},
        "a layer that is a component": {"encoder__arguments__norm": {"_target_": "os.mkdir", "path": "x"}},
        "2^40 template voxels": {"decoder__arguments__n_voxels": 2**40},
        "2^60 voxels": {"decoder__arguments__spatial_shape": [2**30, 2**30]},
        "2^30 channels": {"encoder__arguments__channels": [2**30, 2**30]},
        "no encoder": {"encoder": None},
    }
    tensors = {
        "no weights": {},
        "weights a list": [1, 2],
        "weights None": None,
        "weights of text": {name: "text" for name in weights},
        "numbers for names": dict(enumerate(weights.values())),
        "a meta tensor": {**weights, first: weights[first].to("meta")},
        "a sparse tensor": {**weights, first: weights[first].to_sparse()},
        "a complex tensor": {**weights, first: weights[first].to(torch.complex64)},
        "a tensor of 2^40 equal numbers": {**weights, first: torch.zeros(1).expand(2**40)},
        "2^40 voxels": {**weights, "decoder.template.voxels": torch.zeros(1, dtype=torch.long).expand(2**40)},
    }
    return {
        **{f"description: {name}": {**content, "description": text} for name, text in texts.items()},
        **{f"description: {name}": changed_description(content, **how) for name, how in descriptions.items()},
        **{f"weights: {name}": {**content, "state_dict": value} for name, value in tensors.items()},
        "a list": [content],
        "another format": {**content, "format": "monai_betavae.VAE/2"},
        "a tensor for a format": {**content, "format": torch.ones(2)},
    }


@pytest.mark.filterwarnings("ignore:Casting complex values to real:UserWarning")
def test_a_file_of_values_that_are_no_model_is_refused_by_name(true, tmp_path):
    content = torch.load(true[0] / "vae.pt", weights_only=True)
    models = untrue_models(content)
    assert len(models) == 34
    loaded = []
    for name, model in models.items():
        torch.save(model, tmp_path / "evil.pt")
        loaded += [name] * isinstance(loaded_or_refused(VAE.load, tmp_path / "evil.pt"), VAE)
    assert loaded == ["weights: a complex tensor"]  # torch takes its real part


def test_a_file_does_not_choose_the_folder_that_is_written_into(true, tmp_path):
    content = torch.load(true[0] / "vae.pt", weights_only=True)
    torch.save(changed_description(content, hparams__default_root_dir=str(tmp_path / "evil")), tmp_path / "vae.pt")
    vae = VAE.load(tmp_path / "vae.pt")
    assert vae.trainer_params["default_root_dir"] is None
    checkpoint = torch.load(true[0] / "last.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["default_root_dir"] = str(tmp_path / "evil")
    torch.save(checkpoint, tmp_path / "last.ckpt")
    assert VAE.load_from_checkpoint(tmp_path / "last.ckpt").trainer_params["default_root_dir"] is None
    mine = VAE.load_from_checkpoint(tmp_path / "last.ckpt", default_root_dir=str(tmp_path))
    assert mine.trainer_params["default_root_dir"] == str(tmp_path)


@pytest.mark.parametrize("key", ["hyper_parameters", "hparams", "module_arguments"])
def test_a_checkpoint_names_no_code_that_lightning_would_import(true, tmp_path, monkeypatch, key):
    (tmp_path / "evil_module.py").write_text("import pathlib\npathlib.Path(__file__).with_name('marker').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    checkpoint = torch.load(true[0] / "last.ckpt", weights_only=True)
    checkpoint[key] = {**checkpoint.get(key, {}), "_instantiator": "evil_module.call", "_class_path": "evil_module.VAE"}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt can't be loaded: its arguments must be those of VAE, got '_inst"):
        VAE.load_from_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("tag", ["python/object/apply:os.system", "python/object/new:os.system"])
def test_hyperparameters_in_yaml_run_nothing(true, tmp_path, tag):
    (tmp_path / "hparams.yaml").write_text(f"lr: !!{tag} ['touch {tmp_path}/marker']\n")
    with pytest.raises(ValueError, match=r"last\.ckpt can't be loaded: ConstructorError"):
        VAE.load_from_checkpoint(true[0] / "last.ckpt", hparams_file=tmp_path / "hparams.yaml")
    assert not (tmp_path / "marker").exists()


# ---- model.json, split.json ----


def hostile_settings(marker):
    return {
        "act": f"$__import__('pathlib').Path({str(marker)!r}).touch()",
        "norm": {"_target_": "os.mkdir", "path": str(marker)},
        "architecture": "@run_root",
        "output": "%/etc/passwd",
        "channels": [4, {"deep": ["$1"]}],
        "$kernel": 3,
    }


def of_the_first_release(description):
    """Return the description of a model in the form of release 0.1.0."""
    preprocessing = {"spatial_shape": list(SHAPE), "spacing": 2.0}
    affine = description["grid"]["affine"]
    return {"network": description["network"], "preprocessing": preprocessing, "grid_affine": affine}


def test_settings_that_are_programs_are_refused(true, tmp_path):
    """They become values of a zoo bundle's configs, which MONAI runs."""
    settings = json.loads((true[0] / "model.json").read_text())
    (tmp_path / "model.pt").write_bytes((true[0] / "model.pt").read_bytes())
    marker = tmp_path / "marker"
    places = {
        "network": lambda content: content["network"]["arguments"],
        "a transform": lambda content: content["preprocessing"]["transforms"][0]["arguments"],
        "the transforms": lambda content: content["preprocessing"],
        "likelihood": lambda content: content["likelihood"],
        "grid": lambda content: content["grid"],
        "trained_on": lambda content: content["trained_on"],
        "beside the rest": lambda content: content,
    }
    assert settings["trained_on"] is None
    for form in (settings, of_the_first_release(settings)):
        known = form["likelihood"] is not None if "format" in form else False
        for place, find in places.items():
            if place in ("a transform", "likelihood", "grid", "trained_on") and not known:
                continue  # the first release had none
            for name, value in hostile_settings(marker).items():
                changed = json.loads(json.dumps(form))
                if place == "trained_on":
                    changed["trained_on"] = {"volumes": 3}
                find(changed)[name] = value
                (tmp_path / "model.json").write_text(json.dumps(changed))
                with pytest.raises(ValueError, match=r"model\.json must hold values only, got"):
                    write_zoo_bundle(tmp_path / "zoo", tmp_path)
                parser = ConfigParser()
                parser.read_config(str(bundle_root() / "evaluate.json"))
                parser["ckpt_dir"] = str(tmp_path)
                for id_ in ("network_def", "preprocessing", "likelihood"):
                    with pytest.raises(RuntimeError, match="Failed to instantiate") as caught:
                        parser.get_parsed_content(id_)
                    assert "model.json must hold values only" in str(unwrap_error(caught.value))
                assert not marker.exists()


@pytest.mark.parametrize("name", ["model.json", "split.json"])
def test_texts_that_break_a_parser_are_refused_by_name(tmp_path, name):
    read = read_description if name == "model.json" else lambda folder: read_split(folder / "split.json")
    for text in ("[" * 100_000, '{"a":' * 100_000, "1" * 5000, "", "\x00", "null", '"text"', "[]", "{}", "NaN"):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=name):
            read(tmp_path)


def test_what_a_run_left_about_itself_is_read_or_named(tmp_path):
    for text in ("[" * 100_000, "[]", "1", '{"beta": "$1"}', '{"beta": [1]}', "\x00"):
        (tmp_path / "scores.json").write_text(text)
        assert training_summary(tmp_path) == {}  # not read: the model's own description says beta
    (tmp_path / "scores.json").write_text('{"beta": 2}')
    head = "epoch,train/loss,train/rec_loss,train/kl_loss"
    for text in ("", "epoch\n0", f"{head}\n0,=1+1,2,3", f"{head}\n0,1,2\n1,2,3,4,5,6", '"', "\x00" * 9):
        (tmp_path / "metrics.csv").write_text(text)
        with pytest.raises(ValueError, match=r"metrics\.csv must be the metrics\.csv of a training run"):
            training_summary(tmp_path)
    (tmp_path / "metrics.csv").write_text(f"{head},evil\n0,1,2,3,=1+1\n")
    losses = {"epoch": [0], "train/loss": [1], "train/rec_loss": [2], "train/kl_loss": [3]}
    assert training_summary(tmp_path) == {"losses": losses}


def test_an_affine_that_is_none_is_refused(true, tmp_path):
    settings = json.loads((true[0] / "model.json").read_text())
    for affine in ([], [[1]], "text", [[[0] * 4] * 4], {"a": 1}, 3):
        for changed in (
            {**settings, "grid": {**settings["grid"], "affine": affine}},
            {**of_the_first_release(settings), "grid_affine": affine},
        ):
            (tmp_path / "model.json").write_text(json.dumps(changed))
            with pytest.raises(ValueError, match=r"model\.json must be the model\.json that training wrote"):
                grid_affine(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "os.system", "arguments": {"command": "touch marker"}},
        {"name": "monai.transforms.Lambdad", "arguments": {"keys": "image", "func": "print"}},
        {"name": "LoadImaged", "arguments": {"keys": "image", "reader": "evil_module.Reader"}},
        {"name": "ToTensord", "arguments": {"keys": "image", "device": "cuda"}},
        {"name": "Resized", "arguments": {"keys": "image", "spatial_size": 10**6}},
    ],
    ids=str,
)
def test_transforms_of_a_file_run_nothing(true, tmp_path, monkeypatch, entry):
    (tmp_path / "evil_module.py").write_text("import pathlib\npathlib.Path(__file__).with_name('marker').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    settings = json.loads((true[0] / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**settings, "preprocessing": {"transforms": [entry]}}))
    (tmp_path / "model.pt").write_bytes((true[0] / "model.pt").read_bytes())
    for read in (lambda: trained_preprocessing(tmp_path), lambda: write_zoo_bundle(tmp_path / "zoo", tmp_path)):
        with pytest.raises(ValueError, match="transform 0"):
            read()
    assert not (tmp_path / "marker").exists()
    assert not (tmp_path / "zoo").exists()


# ---- volumes ----


@pytest.mark.filterwarnings("ignore:unclosed file.*mgh:ResourceWarning")  # nibabel leaves it so
def test_volumes_that_are_pickles_are_refused_by_name(tmp_path):
    marker = tmp_path / "marker"
    files = hostile_files({"data": np.zeros(2).tolist()}, marker)
    endings = (".nii.gz", ".nii", ".mgz", ".mgh", ".npy", ".pt", ".pkl", ".npz", ".mat", ".img", ".tif")
    for ending in endings:
        for name in ("pickle, protocol 2", "pickle: INST", "zip: open", "numpy array of objects", "tar"):
            (tmp_path / f"evil{ending}").write_bytes(files[name])
            with pytest.raises(ValueError, match=f"evil{ending}"):
                read_header(tmp_path / f"evil{ending}")
            with pytest.raises(ValueError, match=f"evil{ending}"):
                ReadVolumed("image")({"image": str(tmp_path / f"evil{ending}")})
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the wrappers of ITK, about themselves
def test_a_dicom_file_that_goes_on_as_a_pickle_is_refused(tmp_path):
    marker = tmp_path / "marker"
    folder = tmp_path / "series"
    folder.mkdir()
    for name in ("pickle, protocol 2", "pickle: INST"):
        (folder / "1.dcm").write_bytes(bytes(128) + b"DICM" + hostile_files({}, marker)[name])
        with pytest.raises(ValueError, match=r"series must hold one DICOM series, got none"):
            read_header(folder)
    assert not marker.exists()


def test_a_matlab_file_beside_an_image_runs_nothing(tmp_path):
    nib.save(nib.Spm99AnalyzeImage(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / "a.img")
    marker = tmp_path / "marker"
    (tmp_path / "a.mat").write_bytes(hostile_files({}, marker)["pickle, protocol 2"])
    with pytest.raises(ValueError, match=r"a\.img can't be read"):
        read_header(tmp_path / "a.img")
    assert not marker.exists()


def test_a_folder_of_openbhb_with_objects_is_refused(tmp_path):
    folder = tmp_path / "train" / "derivatives" / "sub-1" / "ses-1"
    folder.mkdir(parents=True)
    marker = tmp_path / "marker"
    image = folder / "sub-1_preproc-quasiraw_T1w.npy"
    image.write_bytes(hostile_files({}, marker)["numpy array of objects"])
    (record,) = discover(tmp_path, suffix="preproc-quasiraw_T1w")
    with pytest.raises(ValueError, match=r"quasiraw_T1w\.npy can't be read as an array"):
        read_header(record["image"])
    assert not marker.exists()


# ---- damage at random ----


def read_all_settings(path, _):
    trained_preprocessing(path.parent)
    trained_likelihood(path.parent)
    grid_affine(path.parent)
    of_another_run(path.parent, path.parent)
    return load_weights(trained_network(path.parent), path.with_name("model.pt"))


DAMAGED = {
    "VAE.load": ("vae.pt", READERS["VAE.load"][2], 120),
    "load_from_checkpoint": ("last.ckpt", READERS["load_from_checkpoint"][2], 90),
    "fit, resumed": ("last.ckpt", READERS["fit, resumed"][2], 48),
    "inference": ("model.pt", READERS["inference, evaluation and generation"][2], 120),
    "settings": ("model.json", read_all_settings, 120),
}


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided.*")
@pytest.mark.filterwarnings("ignore:.*is being loaded in a version.*")
@pytest.mark.filterwarnings("ignore:.*Found keys that are not.*")
@pytest.mark.parametrize("reader", DAMAGED)
def test_a_damaged_file_gives_the_same_weights_or_is_refused_by_name(true, tmp_path, reader):
    name, read, n_cases = DAMAGED[reader]
    folder, loader = true
    (tmp_path / "model.pt").write_bytes((folder / "model.pt").read_bytes())
    (tmp_path / name).write_bytes((folder / name).read_bytes())
    expected = {key: value.clone() for key, value in read(tmp_path / name, loader).state_dict().items()}
    refused = 0
    for data in damaged((folder / name).read_bytes(), n_cases, seed=0):
        (tmp_path / name).write_bytes(data)
        model = loaded_or_refused(read, tmp_path / name, loader)
        if isinstance(model, ValueError):
            refused += 1
        else:
            # settings hold no weights but the seed that a network of them begins with
            found = model.state_dict()
            assert {key: value.shape for key, value in found.items()} == {k: v.shape for k, v in expected.items()}
            assert [k for k, v in found.items() if not torch.equal(v, expected[k])] == []
    assert refused > n_cases / 2


def test_a_damaged_sample_is_made_again(tmp_path):
    cache = Cache(tmp_path / "cache")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for data in damaged(cache.file.read_bytes(), 120, seed=0):
            cache.file.write_bytes(data)
            assert cache.dataset[0]["image"].shape == (1, 4, 4, 4)
    assert len(caught) > 60
    assert all("made again" in str(each.message) or "pickle protocol" in str(each.message) for each in caught)
