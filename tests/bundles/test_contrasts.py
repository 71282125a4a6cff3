"""Two channels through the bundle: trained, used, resumed, exported, refused."""

import json

import nibabel as nib
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from bundle_runs import TINY, by_hand, evaluated, latents, metrics, run_bundle, train
from monai.bundle import ConfigWorkflow, ckpt_export, onnx_export, verify_net_in_out

from monai_betavae import bundle_root
from monai_betavae.data import simulate_cohort
from monai_betavae.networks.latent_model import encode_array
from monai_betavae.workflows import load_weights, trained_contrasts, trained_network, trained_preprocessing
from monai_betavae.workflows.export import export_program
from monai_betavae.workflows.records import split_records
from monai_betavae.workflows.zoo import write_zoo_bundle

# MONAI's warning of expressions in configs, and Lightning's advice on speed
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CONTRASTS = ["T1w", "T2w"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort") / "brains"
    return simulate_cohort(folder, 14, seed=0, spacing=12.0, suffixes=CONTRASTS, progress=False)


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, train(folder, cohort, suffix=CONTRASTS, augment=True)


@pytest.fixture
def run(trained):
    return trained[0]


def test_the_model_knows_its_channels(run):
    described = json.loads((run / "model.json").read_text())
    assert described["contrasts"] == CONTRASTS == trained_contrasts(run)
    assert described["network"]["arguments"]["in_channels"] == 2
    assert described["preprocessing"]["transforms"][0]["arguments"]["contrasts"] == CONTRASTS
    assert described["trained_on"]["told"]["suffix"] == CONTRASTS
    scores = json.loads((run / "scores.json").read_text())
    assert scores["n_voxels"] == 2 * 8 * 10 * 8
    assert {"reconstructions.png", "traversals.png"} <= {path.name for path in run.iterdir()}


def test_inference_gives_the_codes_and_a_file_for_each_channel(run, trained):
    codes = latents(run)
    np.testing.assert_allclose(codes, by_hand(trained[1], run)[0], rtol=1e-4, atol=1e-5)
    records = json.loads((run / "split.json").read_text())["test"]
    names = {path.name for path in (run / "reconstructions").iterdir()}
    subjects = [record["subject"] for record in records]
    assert names == {f"{subject}_{each}_reconstruction.nii.gz" for subject in subjects for each in CONTRASTS}
    for each, image in (("T1w", records[0]["image"]), ("T2w", records[0]["other_images"]["T2w"])):
        restored = nib.load(run / "reconstructions" / f"{subjects[0]}_{each}_reconstruction.nii.gz")
        given = nib.load(image)
        assert restored.shape == given.shape
        np.testing.assert_array_equal(restored.affine, given.affine)
        # each channel is in the units of its own file
        brain = given.get_fdata() > 0
        assert 0.8 < restored.get_fdata()[brain].mean() / given.get_fdata()[brain].mean() < 1.2


def test_the_order_of_the_volumes_does_not_matter(run, cohort):
    codes = latents(run, dataset_dir=str(cohort))
    records = json.loads((cohort / "dataset.json").read_text())
    reordered = [record for part in ("test", "training", "validation") for record in records[part]]
    table = cohort.parent / "reordered.csv"
    rows = [
        {"subject": record["subject"], "scan": cohort / record["image"], "T2w": cohort / record["T2w"]}
        for record in reordered
    ]
    pd.DataFrame(rows).to_csv(table, index=False)
    shuffled = latents(run, dataset_dir=str(table), image_column=["scan", "T2w"], subject_from="subject")
    order = np.argsort([record["subject"] for record in reordered])
    np.testing.assert_allclose(shuffled[order], codes, rtol=1e-5, atol=1e-6)


def test_evaluation_scores_all_channels(run, trained):
    summary = evaluated(run, parts=["reconstruction", "latents", "anomaly", "normative", "generation"])
    assert summary["reconstruction"]["sse"]["value"] == pytest.approx(by_hand(trained[1], run)[1], rel=1e-4)
    pictures = {path.name for path in (run / "evaluation").iterdir()}
    assert {"reconstructions.png", "traversals.png", "traversals.gif", "samples_prior.png"} <= pictures


def test_samples_have_a_file_for_each_channel(run, tmp_path):
    options = {"ckpt_dir": str(run), "device": "$torch.device('cpu')", "n_samples": 2}
    run_bundle("generate", output_dir=str(tmp_path), **options)
    names = {path.name for path in (tmp_path / "samples").glob("*.nii.gz")}
    assert names == {f"sample_00{number}_{each}.nii.gz" for number in range(2) for each in CONTRASTS}
    network = load_weights(trained_network(run), run / "model.pt")
    code = pd.read_csv(tmp_path / "samples" / "codes.csv")[["z_0", "z_1"]].to_numpy(np.float32)
    with torch.no_grad():
        expected = network.decode(torch.from_numpy(code)).numpy()
    found = [nib.load(tmp_path / "samples" / f"sample_001_{each}.nii.gz").get_fdata() for each in CONTRASTS]
    np.testing.assert_allclose(np.stack(found), expected[1], rtol=1e-4, atol=1e-5)


def test_a_run_is_resumed_with_its_channels(cohort, tmp_path):
    """test_kills compares a run that is killed with one that isn't."""
    train(tmp_path, cohort, suffix=CONTRASTS, max_epochs=1)
    with pytest.raises(ValueError, match="in_channels was 2, now 1"):
        train(tmp_path, cohort, resume=True, max_epochs=2)
    with pytest.raises(ValueError, match=r"contrasts was \['T1w', 'T2w'\], now \['T1w', 'FLAIR'\]"):
        train(tmp_path, cohort, suffix=["T1w", "FLAIR"], resume=True, max_epochs=2)
    train(tmp_path, cohort, suffix=CONTRASTS, resume=True, max_epochs=2)
    assert len(metrics(tmp_path)) == 2


def test_the_other_images_count_when_a_run_is_resumed(cohort, run, tmp_path):
    split = json.loads((run / "split.json").read_text())
    other = split["training"][0]["other_images"]["T2w"].replace("_T2w", "_acq-b_T2w")
    (tmp_path / "split.json").write_text(json.dumps(split))
    split["training"][0]["other_images"]["T2w"] = other
    records = [{**record, "split": part} for part, members in split.items() for record in members]
    with pytest.raises(ValueError, match=r"1 volumes differ.*now training, with T2w .*acq-b"):
        split_records(records, [0.7, 0.15, 0.15], 0, tmp_path)


def test_what_is_refused(cohort, run, tmp_path):
    with pytest.raises(ValueError, match=r"no volume .*_FLAIR\.nii"):
        train(tmp_path / "a", cohort, suffix=["T1w", "FLAIR"])
    with pytest.raises(ValueError, match=r"must name the channels .*T1w, T2w, in this order, got one channel"):
        latents(run, dataset_dir=str(cohort), suffix="T1w")
    with pytest.raises(ValueError, match="in this order, got T2w, T1w"):
        latents(run, dataset_dir=str(cohort), suffix=["T2w", "T1w"])
    hidden = next(cohort.glob("sub-003/anat/*_T2w.nii.gz"))
    hidden.rename(cohort / "hidden")
    try:
        with pytest.raises(ValueError, match=r"1 of 14 volumes lack an image: sub-003_T1w\.nii\.gz has no T2w"):
            latents(run, dataset_dir=str(cohort))
        assert len(latents(run, dataset_dir=str(cohort), on_incomplete="skip")) == 13
    finally:
        (cohort / "hidden").rename(hidden)


def test_an_unusable_other_image_is_refused_or_left_out(cohort, tmp_path):
    image = next(cohort.glob("sub-003/anat/*_T2w.nii.gz"))
    content = image.read_bytes()
    image.write_bytes(content[:100])
    try:
        with pytest.raises(ValueError, match=r"sub-003_T1w\.nii\.gz has the T2w image .*sub-003_T2w\.nii\.gz, which"):
            train(tmp_path / "a", cohort, suffix=CONTRASTS)
        train(tmp_path / "b", cohort, suffix=CONTRASTS, on_bad_volume="skip", max_epochs=1)
        assert pd.read_csv(tmp_path / "b" / "left_out.tsv", sep="\t")["subject"].tolist() == ["sub-003"]
    finally:
        image.write_bytes(content)


def test_a_single_channel_model_does_not_take_two(cohort, tmp_path):
    train(tmp_path, cohort, max_epochs=1)
    described = json.loads((tmp_path / "model.json").read_text())
    assert "contrasts" not in described
    assert "contrasts" not in described["preprocessing"]["transforms"][0]["arguments"]
    with pytest.raises(ValueError, match="one channel, got T1w, T2w"):
        latents(tmp_path, dataset_dir=str(cohort), suffix=CONTRASTS)


def test_a_training_that_starts_from_the_model_needs_its_channels(cohort, run, tmp_path):
    train(tmp_path / "a", cohort, suffix=CONTRASTS, init_from=str(run), max_epochs=1)
    assert trained_contrasts(tmp_path / "a") == CONTRASTS
    with pytest.raises(ValueError, match="contrasts"):
        train(tmp_path / "b", cohort, init_from=str(run), max_epochs=1)


@pytest.fixture
def images(run):
    records = json.loads((run / "split.json").read_text())["training"][:3]
    return torch.stack([trained_preprocessing(run)(record)["image"] for record in records])


def test_exports_give_what_the_network_gives(run, images, tmp_path):
    network = load_weights(trained_network(run), run / "model.pt").eval()
    with torch.no_grad():
        expected = network(images)
    assert expected.shape == (3, 2, 8, 10, 8)
    assert expected.std() > 0.01
    path, difference = export_program(tmp_path / "model.pt2", run)
    assert difference < 1e-5
    torch.testing.assert_close(torch.export.load(path).module()(images), expected, rtol=1e-4, atol=1e-5)

    zoo = write_zoo_bundle(tmp_path / "zoo", run)
    config, weights = str(zoo / "configs" / "inference.json"), str(zoo / "models" / "model.pt")
    script = tmp_path / "model.ts"
    ckpt_export("network_def", str(script), weights, str(zoo / "configs" / "metadata.json"), config)
    torch.testing.assert_close(torch.jit.load(str(script))(images), expected, rtol=1e-4, atol=1e-5)

    onnx = tmp_path / "model.onnx"
    onnx_export(
        "network_def", str(onnx), weights, str(zoo / "configs" / "metadata.json"), config, input_shape=[1, 2, 8, 10, 8]
    )
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: images[:1].numpy()})[0]
    np.testing.assert_allclose(found, expected[:1], rtol=1e-3, atol=1e-4)


def test_the_zoos_form(run, images, cohort, tmp_path, monkeypatch):
    monkeypatch.delenv("MONAI_BETAVAE_HOME", raising=False)
    zoo = write_zoo_bundle(tmp_path / "zoo", run)
    formats = json.loads((zoo / "configs" / "metadata.json").read_text())["network_data_format"]
    assert formats["inputs"]["image"]["num_channels"] == formats["outputs"]["pred"]["num_channels"] == 2
    verify_net_in_out("network_def", str(zoo / "configs" / "metadata.json"), str(zoo / "configs" / "inference.json"))
    assert formats["inputs"]["image"]["channel_def"] == {"0": "T1w image", "1": "T2w image"}
    assert json.loads((zoo / "configs" / "train.json").read_text())["suffix"] == CONTRASTS
    inference = ConfigWorkflow(
        str(zoo / "configs" / "inference.json"),
        logging_file=False,
        workflow_type="inference",
        run_id="inference",
        dataset_dir=str(cohort),
        output_dir=str(tmp_path / "out"),
        device="$torch.device('cpu')",
    )
    inference.initialize()
    assert inference.check_properties() == []
    inference.run()
    codes = pd.read_csv(tmp_path / "out" / "latents.csv")[["mu_0", "mu_1"]].to_numpy()
    network = load_weights(trained_network(run), run / "model.pt")
    subjects = [record["subject"] for record in json.loads((run / "split.json").read_text())["training"][:3]]
    rows = pd.read_csv(tmp_path / "out" / "latents.csv")["subject"].tolist()
    expected = encode_array(network, images.numpy())[0]
    np.testing.assert_allclose(codes[[rows.index(each) for each in subjects]], expected, rtol=1e-4, atol=1e-5)


def test_columns_of_a_table_are_channels(cohort, run, tmp_path):
    records = [record for part in json.loads((cohort / "dataset.json").read_text()).values() for record in part]
    rows = [{"subject": r["subject"], "t1": cohort / r["image"], "t2": cohort / r["T2w"]} for r in records]
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    train(tmp_path / "out", tmp_path / "table.csv", image_column=["t1", "t2"], max_epochs=1)
    assert trained_contrasts(tmp_path / "out") == ["t1", "t2"]
    # the columns by the model's names, in the order in which they are given
    by_table = latents(run, dataset_dir=str(tmp_path / "table.csv"), image_column=["t1", "t2"])
    by_folder = latents(run, dataset_dir=str(cohort))
    order = np.argsort([record["subject"] for record in records])
    np.testing.assert_allclose(by_table[order], by_folder, rtol=1e-5, atol=1e-6)


def test_the_check_shows_every_channel(cohort, tmp_path):
    options = {**TINY, "dataset_dir": str(cohort), "output_dir": str(tmp_path), "suffix": CONTRASTS}
    workflow = ConfigWorkflow(
        str(bundle_root() / "train.json"),
        logging_file=False,
        workflow_type="train",
        run_id="check",
        **options,
    )
    workflow.initialize()
    workflow.run()
    assert len(pd.read_csv(tmp_path / "volumes.tsv", sep="\t")) == 14
    assert (tmp_path / "volumes_01.png").is_file()
