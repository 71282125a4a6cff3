"""What inference refuses, and how it names its files."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from described_models import write_model
from monai.data import MetaTensor
from monai.inferers import SimpleInferer

from monai_betavae.networks.builders import build_network
from monai_betavae.workflows.model_description import split_digest
from monai_betavae.workflows.records import PARTS, read_split, write_split
from monai_betavae.workflows.volume_inference import InferenceRecords, OutputNames, VolumeInference, check_inference

AFFINE = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))


def test_check_inference(tmp_path):
    with pytest.raises(ValueError, match=r"model\.pt must be the model\.pt of a training run, and doesn't exist"):
        check_inference(tmp_path, tmp_path / "model.pt")
    (tmp_path / "model.pt").touch()
    check_inference(tmp_path, tmp_path / "model.pt")
    (tmp_path / "latents.csv").touch()
    with pytest.raises(ValueError, match=r"latents\.csv exists"):
        check_inference(tmp_path, tmp_path / "model.pt")
    check_inference(tmp_path, tmp_path / "model.pt", overwrite=True)


def test_records_need_data_or_a_training_run(tmp_path):
    records = InferenceRecords(None, tmp_path)  # nothing is looked up yet
    with pytest.raises(ValueError, match="`dataset_dir` must be given"):
        len(records)
    gone = {"training": [], "validation": [], "test": [{"image": str(tmp_path / "gone.nii.gz"), "subject": "a"}]}
    (tmp_path / "split.json").write_text(json.dumps(gone))
    with pytest.raises(ValueError, match=r"1 files are gone, the first is .*gone\.nii\.gz"):
        records[0]


def test_records_are_the_held_out_or_those_of_the_data(tmp_path, capsys):
    for name in ("a", "b", "c"):
        nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / f"{name}.nii.gz")
    held_out = [{"image": str(tmp_path / f"{name}.nii.gz"), "subject": name} for name in "ab"]
    (tmp_path / "split.json").write_text(json.dumps({"training": [], "validation": [], "test": held_out}))
    records = InferenceRecords(None, tmp_path)
    assert (len(records), records[1], records[:1]) == (2, held_out[1], held_out[:1])
    assert capsys.readouterr().out.count("using the 2 held-out volumes") == 1  # found once
    assert [record["subject"] for record in InferenceRecords(str(tmp_path), "nowhere")] == ["a", "b", "c"]


def test_output_names_are_unique_and_stay_in_their_folder():
    names = OutputNames()
    found = [
        names.unique(path, subject)
        for path, subject in (
            ("/d/sub-1/T1.nii.gz", "sub-1"),
            ("/d/sub-2/T1.nii.gz", "../sub-2"),
            ("/e/sub-2/T1.nii", "../sub-2"),
        )
    ]
    assert found == [
        "T1_reconstruction.nii.gz",
        ".._sub-2_T1_reconstruction.nii.gz",
        ".._sub-2_T1_2_reconstruction.nii.gz",
    ]


def test_each_volume_is_encoded_once(tmp_path):
    network = build_network((8, 8, 8), 2, channels=(4, 8), warm_start="mean", random_state=0).eval()
    with torch.no_grad():  # zero in a fresh network
        network.decoder.levels.output.conv_block.conv.weight.normal_(generator=torch.Generator().manual_seed(0))
    images = torch.rand(3, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    batches = [{"image": images, "image_path": ["a.nii.gz", "b.nii.gz", "c.nii.gz"], "subject": ["a", "b", "c"]}]
    encoded = []
    network.encoder.register_forward_hook(lambda _module, inputs, _output: encoded.append(len(inputs[0])))

    class Inferer(SimpleInferer):
        """One of a user's own, which calls the network."""

    def run(inferer, folder):
        def on_its_grid(sample):
            assert {"image", "image_path", "subject", "pred"} == set(sample)
            return {**sample, "pred": MetaTensor(sample["pred"], affine=AFFINE)}

        VolumeInference(network, batches, inferer, on_its_grid, folder).run()
        paths = sorted((folder / "reconstructions").iterdir())
        assert all(nib.load(path).affine.tolist() == AFFINE.tolist() for path in paths)
        return np.stack([nib.load(path).get_fdata(dtype=np.float32) for path in paths])

    once = run(SimpleInferer(), tmp_path / "simple")
    assert encoded == [3]
    twice = run(Inferer(), tmp_path / "own")
    assert encoded == [3, 3, 3]
    np.testing.assert_array_equal(once, twice)
    np.testing.assert_allclose(once, network(images)[:, 0].detach(), atol=1e-6)
    assert np.abs(once[0] - once[1]).max() > 1e-3


@pytest.mark.parametrize("made", [lambda pred: pred, lambda pred: MetaTensor(pred[0])])
def test_postprocessing_that_gives_no_volume_is_refused(tmp_path, made):
    network = build_network((8, 8, 8), 2, channels=(4, 8), random_state=0)
    batches = [{"image": torch.rand(1, 1, 8, 8, 8), "image_path": ["a.nii.gz"]}]
    inference = VolumeInference(network, batches, SimpleInferer(), lambda s: {"pred": made(s["pred"])}, tmp_path)
    with pytest.raises(ValueError, match=r"`restored` must be a MetaTensor of shape \(1, x, y, z\), got"):
        inference.run()
    assert not (tmp_path / "latents.csv").exists()


def test_a_split_of_another_run_than_the_weights_is_refused(tmp_path):
    for name, subject in (("this", "a"), ("other", "b")):
        split = {part: [] for part in PARTS} | {"test": [{"image": f"/d/{subject}.nii.gz", "subject": subject}]}
        write_split(split, tmp_path / name / "split.json")
    known = {"volumes": 1, "subjects": 1, "split": split_digest(read_split(tmp_path / "this" / "split.json"))}
    network = build_network((8, 8, 8), 2, channels=(4, 8), random_state=0)
    write_model(tmp_path, network, (8, 8, 8), trained_on=known)
    check_inference(tmp_path, tmp_path / "model.pt", training_output_dir=tmp_path / "this")
    check_inference(tmp_path, tmp_path / "model.pt", training_output_dir=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"other/split\.json is of another training run than .*model\.pt: name the"):
        check_inference(tmp_path, tmp_path / "model.pt", training_output_dir=tmp_path / "other")


def test_volumes_of_training_subjects_are_counted(tmp_path, capsys):
    for name in "abc":
        nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / f"{name}.nii.gz")
    seen, validated, held_out = ([{"image": str(tmp_path / f"{name}.nii.gz"), "subject": name}] for name in "abc")
    run = tmp_path / "run"
    run.mkdir()
    (run / "split.json").write_text(json.dumps({"training": seen, "validation": validated, "test": held_out}))
    assert len(InferenceRecords(str(tmp_path / "*.nii.gz"), run).records) == 3
    assert "2 of the 3 volumes are of subjects that the model was trained or validated on" in capsys.readouterr().out
    assert len(InferenceRecords(str(tmp_path / "c.nii.gz"), run).records) == 1
    assert "trained or validated" not in capsys.readouterr().out
