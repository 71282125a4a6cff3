"""Covariates through the bundle: trained, described, used, resumed, exported, refused."""

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from bundle_runs import latents, run_bundle, tiny_cohort, train
from monai.bundle import ckpt_export

from monai_betavae import bundle_root
from monai_betavae.bundle import config_file
from monai_betavae.data import CovariateCoding, RestoreVolumed
from monai_betavae.networks.latent_model import encode_array
from monai_betavae.workflows import load_weights, trained_covariates, trained_network, trained_preprocessing
from monai_betavae.workflows.export import export_program
from monai_betavae.workflows.zoo import write_zoo_bundle

COVARIATES = ["age", "sex"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return tiny_cohort(tmp_path_factory.mktemp("cohort") / "brains")


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(folder, cohort, covariates=COVARIATES, augment=True)
    return folder


def test_the_coding_is_that_of_the_training_subjects(run):
    split = json.loads((run / "split.json").read_text())
    described = json.loads((run / "model.json").read_text())
    coding = CovariateCoding.fit(split["training"], COVARIATES)
    assert described["covariates"] == json.loads(json.dumps(coding.description()))
    assert described["network"]["arguments"]["n_covariates"] == coding.n_columns
    weight = torch.load(run / "model.pt", weights_only=True)["decoder.condition.weight"]
    assert weight.shape == (2, coding.n_columns)
    assert weight.abs().max() > 0


def test_inference_uses_each_subjects_covariates(run):
    codes = latents(run)
    network = load_weights(trained_network(run), run / "model.pt").eval()
    records, transform = json.loads((run / "split.json").read_text())["test"], trained_preprocessing(run)
    images = np.stack([transform(record)["image"].numpy() for record in records])
    rows = trained_covariates(run).rows(records)
    np.testing.assert_allclose(codes, encode_array(network, images, covariates=rows)[0], rtol=1e-4, atol=1e-5)
    # what it would be for the average subject
    assert np.abs(codes - encode_array(network, images, covariates=0 * rows)[0]).max() > 1e-3


def test_volumes_are_decoded_at_other_covariates(run, tmp_path):
    options = {"ckpt_dir": str(run), "training_output_dir": str(run), "device": "$torch.device('cpu')"}
    run_bundle("inference", output_dir=str(tmp_path), at={"age": 35}, **options)
    assert not (tmp_path / "reconstructions").exists()
    assert json.loads((tmp_path / "reconstructions_at" / "at.json").read_text()) == {"age": 35}
    network, coding = load_weights(trained_network(run), run / "model.pt").eval(), trained_covariates(run)
    record = json.loads((run / "split.json").read_text())["test"][0]
    sample = trained_preprocessing(run)(record)
    z = torch.from_numpy(pd.read_csv(tmp_path / "latents.csv").filter(like="mu_").to_numpy(np.float32)[:1])
    rows = torch.from_numpy(coding.rows([{**record, "age": 35}]))
    with torch.no_grad():
        expected = RestoreVolumed("pred")({**sample, "pred": network.decode(z, rows)[0]})["pred"]
    written = nib.load(tmp_path / "reconstructions_at" / f"{record['subject']}_T1w_reconstruction.nii.gz")
    np.testing.assert_allclose(written.get_fdata(), expected[0], rtol=1e-3, atol=1e-2 * float(expected.max()))
    with pytest.raises(ValueError, match="`at` must give values of some of"):
        run_bundle("inference", output_dir=str(tmp_path / "no"), at={"weight": 70}, **options)


def test_samples_at_covariates(run, tmp_path):
    options = {"ckpt_dir": str(run), "device": "$torch.device('cpu')", "n_samples": 2}
    means = {}
    for age in (35, 60):
        run_bundle("generate", output_dir=str(tmp_path / str(age)), at={"age": age, "sex": "F"}, **options)
        folder = tmp_path / str(age) / "samples"
        assert pd.read_csv(folder / "codes.csv")["age"].tolist() == [age, age]
        means[age] = nib.load(folder / "sample_000.nii.gz").get_fdata()
    assert not np.allclose(means[35], means[60])
    with pytest.raises(ValueError, match="weight"):
        run_bundle("generate", output_dir=str(tmp_path / "no"), at={"weight": 70}, **options)


def test_a_run_is_resumed_with_its_coding(cohort, tmp_path):
    train(tmp_path, cohort, covariates=COVARIATES)
    before = json.loads((tmp_path / "model.json").read_text())["covariates"]
    train(tmp_path, cohort, covariates=COVARIATES, resume=True, max_epochs=3)
    assert json.loads((tmp_path / "model.json").read_text())["covariates"] == before
    assert len(pd.read_csv(tmp_path / "metrics.csv")) == 3
    # neither others, nor none, nor another order, which would be that of other columns
    for covariates in (["age"], ["sex", "age"], None):
        with pytest.raises(ValueError, match=re.escape("""give --covariates "['age', 'sex']".""")):
            train(tmp_path, cohort, covariates=covariates, resume=True, max_epochs=4)


def test_a_run_without_covariates_is_resumed_without(cohort, tmp_path):
    train(tmp_path, cohort)
    with pytest.raises(ValueError, match="which has none, got \\['age'\\]: leave --covariates out"):
        train(tmp_path, cohort, covariates=["age"], resume=True, max_epochs=3)


def shuffled(cohort, folder):
    """Copy a cohort, its table's rows in another order."""
    shutil.copytree(cohort, folder)
    path = folder / "participants.tsv"
    table = pd.read_csv(path, sep="\t").sample(frac=1, random_state=1)
    assert not table.index.is_monotonic_increasing
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    return folder


def test_the_order_of_the_tables_rows_changes_nothing(cohort, run, tmp_path):
    train(tmp_path / "run", shuffled(cohort, tmp_path / "brains"), covariates=COVARIATES, augment=True)
    for name in ("model.pt", "metrics.csv", "scores.json"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes(), name
    covariates = [json.loads((each / "model.json").read_text())["covariates"] for each in (tmp_path / "run", run)]
    assert covariates[0] == covariates[1]
    np.testing.assert_array_equal(
        latents(run, dataset_dir=str(tmp_path / "brains")), latents(run, dataset_dir=str(cohort))
    )


def test_the_order_of_covariates_is_that_of_columns_and_nothing_else(cohort, run, tmp_path):
    train(tmp_path, cohort, covariates=COVARIATES[::-1], augment=True)
    weights = [torch.load(each / "model.pt", weights_only=True) for each in (run, tmp_path)]
    columns = [trained_covariates(each).columns for each in (run, tmp_path)]
    assert columns[0] != columns[1]
    order = [columns[1].index(name) for name in columns[0]]
    for name, value in weights[0].items():
        other = weights[1][name][:, order] if name.endswith("condition.weight") else weights[1][name]
        # sums over the columns are in another order
        torch.testing.assert_close(other, value, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    np.testing.assert_allclose(latents(tmp_path), latents(run), rtol=1e-2, atol=1e-3)


def test_what_is_refused(cohort, run, tmp_path):
    with pytest.raises(ValueError, match="height"):
        train(tmp_path / "a", cohort, covariates=["height"])
    with pytest.raises(ValueError, match="`network_def` must take"):
        train(tmp_path / "b", cohort, covariates=["age"], network_def__n_covariates=7)
    # a table without the column
    path = cohort / "participants.tsv"
    kept = path.read_text()
    try:
        pd.read_csv(path, sep="\t").replace({"sex": {"F": "X"}}).to_csv(path, sep="\t", index=False, na_rep="n/a")
        with pytest.raises(ValueError, match="'X'"):
            latents(run, dataset_dir=str(cohort))
        assert len(latents(run, dataset_dir=str(cohort), unseen={"sex": {"X": "F"}})) == 12
    finally:
        path.write_text(kept)


@pytest.fixture(scope="module")
def expected(run):
    """Three images and rows of covariates, and the trained network's reconstructions and codes."""
    network = load_weights(trained_network(run), run / "model.pt").eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 1, 8, 10, 8, generator=generator)
    rows = torch.randn(3, network.decoder.condition.n_covariates, generator=generator)
    with torch.no_grad():
        outputs = network(images, rows), *network.posterior_parameters(images, rows)
        # covariates that an export had lost would be seen, in codes and in images
        others = network(images, -rows), network.posterior_parameters(images, -rows)[0]
    assert min((one - other).abs().max() for one, other in zip(outputs, others, strict=False)) > 1e-3
    return images, rows, outputs


def assert_outputs(found, outputs):
    assert len(found) == len(outputs)
    for one, other in zip(found, outputs, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), other, rtol=1e-4, atol=1e-4)


def test_torch_programs_take_the_covariates(run, expected, tmp_path):
    images, rows, outputs = expected
    for codes in (False, True):
        path, difference = export_program(tmp_path / f"codes_{codes}.pt2", run, codes)
        assert difference < 1e-4
        with torch.no_grad():
            found = torch.export.load(path).module()(images, rows)
        assert_outputs(found if codes else [found], outputs if codes else outputs[:1])


@pytest.mark.slow  # torch's exporter takes half a minute
def test_the_onnx_model_takes_the_covariates(run, expected, tmp_path):
    import onnxruntime

    images, rows, outputs = expected
    path, difference = export_program(tmp_path / "model.onnx", run, codes=True)
    assert difference < 1e-4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["image", "covariates"]
    assert [each.name for each in session.get_outputs()] == ["pred", "mu", "logvar"]
    for n in (1, 3):
        found = session.run(None, {"image": images[:n].numpy(), "covariates": rows[:n].numpy()})
        assert_outputs(found, [each[:n] for each in outputs])


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated")
@pytest.mark.parametrize("form", ["flat", "zoo"])
def test_monais_torchscript_export_takes_the_covariates(run, expected, form, tmp_path):
    root, options = bundle_root(), {"ckpt_dir": str(run)}
    if form == "zoo":
        root, options = write_zoo_bundle(tmp_path / "zoo", run), {}
    ckpt_export(
        "network_def",
        str(tmp_path / "model.ts"),
        ckpt_file=str(run / "model.pt"),
        meta_file=str(config_file(root, "metadata.json")),
        config_file=str(config_file(root, "inference.json")),
        **options,
    )
    exported = torch.jit.load(tmp_path / "model.ts")
    images, rows, outputs = expected
    with torch.no_grad():
        mu, logvar = exported.posterior_parameters(images, rows)
        assert_outputs([exported(images, rows), mu, logvar], outputs)
        assert_outputs([exported.decode(mu, rows)], outputs[:1])


def test_the_zoos_form_holds_them(run, tmp_path):
    zoo = write_zoo_bundle(tmp_path / "zoo", run)
    training = json.loads((zoo / "configs" / "train.json").read_text())
    assert training["covariates"] == COVARIATES
    assert trained_covariates(zoo / "models").names == tuple(COVARIATES)
