"""Work that no process shares: started on several, one does it, whole and in the order of the input."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from described_models import NORMAL, write_model
from monai.data import DataLoader, Dataset
from monai.inferers import SimpleInferer

from monai_betavae import bundle_root
from monai_betavae.data import RestoreVolumed, brain_transforms, discover, simulate_cohort
from monai_betavae.networks.builders import build_network
from monai_betavae.workflows import (
    ModelEvaluation,
    PriorSampling,
    VolumeInference,
    check_data,
    check_generation,
    check_inference,
)
from monai_betavae.workflows.model_evaluation.subjects import embed
from monai_betavae.workflows.records import is_working_process, process_of_launch, write_split

SHAPE, SPACING = (16, 19, 16), 12.0
PREPROCESSING = {"spatial_shape": SHAPE, "spacing": SPACING}
ARGUMENTS = {"latent_dim": 3, "channels": (4,), "norm": "group", "warm_start": "mean", "random_state": 0}


def made_network():
    network = build_network(SHAPE, **ARGUMENTS)
    with torch.no_grad():  # zero in a fresh network
        network.decoder.levels.output.conv_block.conv.weight.normal_(generator=torch.Generator().manual_seed(0))
    return network


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Seven volumes, and a model's files as training leaves them."""
    folder = tmp_path_factory.mktemp("place")
    simulate_cohort(folder / "cohort", 7, seed=1, spacing=SPACING, progress=False)
    network = made_network()
    write_model(folder / "model", network, SHAPE, SPACING)
    records = discover(folder / "cohort")
    write_split({"training": [], "validation": [], "test": records}, folder / "model" / "split.json")
    return folder


@pytest.fixture
def launched(monkeypatch):
    """Say that torchrun has started this process."""

    def pretend(rank, n_processes):
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", n_processes)):
            monkeypatch.setenv(name, str(value))

    return pretend


def loader_of(records, **options):
    return DataLoader(Dataset(records, brain_transforms(**PREPROCESSING)), **{"batch_size": 2, **options})


def infer(place, output_dir, **options):
    loader = loader_of(discover(place / "cohort"), **options)
    VolumeInference(made_network(), loader, SimpleInferer(), RestoreVolumed(), output_dir).run()
    return output_dir / "latents.csv"


def listing(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ---- which process it is ---------------------------------------------------------------------------------------------


def test_the_launcher_or_the_group_says_which_process_this_is(monkeypatch, launched, group):
    assert process_of_launch() == (0, 1)
    # tasks that SLURM starts may each have volumes of their own
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert process_of_launch() == (0, 1)
    launched(1, 2)
    assert process_of_launch() == (1, 2)
    group(2, 3)
    assert process_of_launch() == (2, 3)


def test_the_first_process_says_that_it_does_everything(launched, capsys):
    assert is_working_process("Inference")
    assert capsys.readouterr().out == ""
    launched(1, 3)
    assert not is_working_process("Inference")
    assert capsys.readouterr().out == ""
    launched(0, 3)
    assert is_working_process("Inference")
    expected = "Inference runs on one process: of the 3 that were started the first does all of it.\n"
    assert capsys.readouterr().out == expected


def test_the_other_processes_write_nothing(place, launched, tmp_path):
    launched(1, 2)
    infer(place, tmp_path)
    records = discover(place / "cohort")
    evaluation = ModelEvaluation(
        made_network(), records, loader_of(records), SimpleInferer(), abs, NORMAL, tmp_path, place / "model"
    )
    evaluation.run()
    PriorSampling(made_network(), 2, np.eye(4), tmp_path).run()
    check_data(records, tmp_path)
    assert listing(tmp_path) == []


def test_what_the_first_process_has_written_already_is_not_refused_to_the_others(place, launched, tmp_path):
    checkpoint = place / "model" / "model.pt"
    (tmp_path / "samples").mkdir()
    for name, check in (("latents.csv", check_inference), ("samples/codes.csv", check_generation)):
        (tmp_path / name).touch()
        launched(0, 2)
        with pytest.raises(ValueError, match=r"csv exists"):
            check(tmp_path, checkpoint)
        launched(1, 2)
        check(tmp_path, checkpoint)


# ---- the order of the input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"shuffle": True}, {"drop_last": True}, {"sampler": [4, 1, 1]}])
def test_inference_undoes_what_a_sampler_does(place, tmp_path, options):
    table = pd.read_csv(infer(place, tmp_path / "odd", **options))
    assert table["image"].tolist() == [record["image"] for record in discover(place / "cohort")]
    assert (tmp_path / "odd/latents.csv").read_bytes() == infer(place, tmp_path / "plain").read_bytes()
    assert listing(tmp_path / "odd") == listing(tmp_path / "plain")
    assert len(listing(tmp_path / "odd")) == 8


def test_inference_refuses_a_loader_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="`dataloader` must give at least one volume, got none"):
        VolumeInference(made_network(), [], SimpleInferer(), RestoreVolumed(), tmp_path).run()
    assert listing(tmp_path) == []


def test_subjects_keep_their_own_codes_whatever_the_sampler(place):
    records = discover(place / "cohort")
    plain, shuffled = (embed(made_network(), loader_of(records, shuffle=s), records) for s in (False, True))
    np.testing.assert_array_equal(plain.mu, shuffled.mu)
    np.testing.assert_array_equal(plain.images, shuffled.images)
    assert len(np.unique(plain.mu, axis=0)) == 7


def test_volumes_that_are_not_those_of_the_records_are_refused(place):
    records = discover(place / "cohort")
    with pytest.raises(ValueError, match=r"in their order, got .*sub-002.* for .*sub-001"):
        embed(made_network(), loader_of([records[1], records[0]]), records)
    with pytest.raises(ValueError, match="must give one volume per record, got 4 for 7 records"):
        embed(made_network(), loader_of(records[:4]), records)
    with pytest.raises(ValueError, match=r"in their order, got .*sub-005.* for nothing"):
        embed(made_network(), loader_of(records), records[:4])


def test_in_a_process_group_the_first_process_needs_no_other(place, group, tmp_path):
    """A likelihood whose rows the processes shared out would wait for the others, which have ended."""
    group(0, 2)
    records = discover(place / "cohort")
    transform = brain_transforms(**PREPROCESSING)
    evaluation = ModelEvaluation(
        made_network(),
        records,
        loader_of(records),
        SimpleInferer(),
        transform,
        NORMAL,
        tmp_path,
        tmp_path,
        parts=["likelihood"],
        n_samples=2,
    )
    evaluation.run()
    table = pd.read_csv(tmp_path / "evaluation" / "likelihood.csv")
    assert table["subject"].tolist() == [record["subject"] for record in records]


# ---- real processes, as torchrun starts them -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "n_processes"), [("inference", 3), ("evaluation", 2)])
def test_torchrun(place, tmp_path, kind, n_processes):
    config = {"inference": "inference.json", "evaluation": "evaluate.json"}[kind]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(n_processes)]
    command += ["-m", "monai.bundle", "run", kind, "--config_file", str(bundle_root() / config)]
    command += ["--ckpt_dir", str(place / "model"), "--training_output_dir", str(place / "model")]
    command += ["--output_dir", str(tmp_path), "--dataset_dir", str(place / "cohort"), "--batch_size", "2"]
    command += ["--device", "$torch.device('cpu')"]
    if kind == "evaluation":
        command += ["--parts", "['reconstruction']"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("runs on one process: ") == 1
    images = [record["image"] for record in discover(place / "cohort")]
    if kind == "inference":
        assert done.stdout.count("Latents: ") == 1
        expected = infer(place, tmp_path / "alone")
        found = pd.read_csv(tmp_path / "latents.csv")
        assert found["image"].tolist() == images
        pd.testing.assert_frame_equal(found, pd.read_csv(expected), rtol=1e-5)
        assert len(list((tmp_path / "reconstructions").iterdir())) == 7
    else:
        table = pd.read_csv(tmp_path / "evaluation" / "reconstruction.csv")
        assert table["image"].tolist() == images
        assert [path.name for path in (tmp_path / "evaluation").glob(".*")] == []
