"""How a run starts and goes on, and the scores after it."""

import lightning.pytorch as pl
import nibabel as nib
import numpy as np
import pytest
import quiet_trainer
import torch

from monai_betavae import VAE, BetaVAELoss
from monai_betavae.data import GlobalOrder, brain_transforms
from monai_betavae.networks.builders import build_network
from monai_betavae.training.callbacks import BestWeights, MetricsTable
from monai_betavae.training.checkpoints import LastCheckpoint, Position
from monai_betavae.workflows import ModelTraining, load_weights, trained_network, trained_preprocessing
from monai_betavae.workflows.model_description import read_description
from monai_betavae.workflows.model_training import _grid, _print_resumed
from monai_betavae.workflows.provenance import data_fingerprint
from monai_betavae.workflows.trained_model import of_another_run
from monai_betavae.workflows.training_results import held_out_scores, print_scores


def loader_of(images):
    return torch.utils.data.DataLoader([{"image": image} for image in images], batch_size=2)


def test_held_out_scores_on_ideal_and_useless_reconstructions():
    rng = np.random.default_rng(0)
    mode = rng.normal(size=(1, 4, 4, 4)).astype(np.float32)  # one mode of variation: one component is enough
    train = np.stack([amount * mode for amount in rng.normal(size=12)]).astype(np.float32)
    test = np.stack([amount * mode for amount in (-1.0, 2.0)]).astype(np.float32)
    loader = loader_of(torch.from_numpy(train))
    ideal = held_out_scores(loader, test, test, 1, seed=0)
    assert ideal["sse"] == ideal["sse_ratio"] == 0
    assert ideal["sse_ratio_pca"] < 1e-6
    mean = np.broadcast_to(train.mean(0), test.shape)
    useless = held_out_scores(loader, test, mean, 1, seed=0)
    assert useless["sse_ratio"] == pytest.approx(1.0)
    assert useless["sse"] == pytest.approx(float(((test - mean) ** 2).reshape(2, -1).sum(1).mean()), rel=1e-5)
    # whoever is drawn, the mean image is as good as itself; two scans of one subject tell of no interval
    assert useless["intervals"]["sse_ratio"] == pytest.approx([1.0, 1.0])
    assert held_out_scores(loader, test, mean, 1, seed=0, subjects=["a", "a"])["intervals"] == {}
    # half of the error for the first subject, all of it for the second: drawn alone they have 1/2 and 1
    half = np.stack([test[0] - np.sqrt(0.5) * (test[0] - mean[0]), mean[1]])
    mixed = held_out_scores(loader, test, half, 1, seed=0, subjects=["a", "b"])["intervals"]["sse_ratio"]
    assert mixed == pytest.approx([0.5, 1.0], rel=1e-5)


@pytest.mark.parametrize(
    ("max_epochs", "said"), [(3, "going on"), (-1, "going on"), (2, "it is only scored and drawn")]
)
def test_what_resuming_does(tmp_path, capsys, max_epochs, said):
    for batches, told in ((0, "has 2 epochs; "), (3, "has 2 epochs and 3 batches of the next; ")):
        _print_resumed(tmp_path / "last.ckpt", Position(2, batches, 4), max_epochs)
        printed = capsys.readouterr().out
        assert told in printed
        assert said in printed


# ---- the run itself, without a config --------------------------------------------------------------------------------

SHAPE = (8, 8, 8)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def volumes_at(affines):
    samples = [{"image": torch.zeros(1, *SHAPE), "image_affine": torch.tensor(affine)} for affine in affines]
    return torch.utils.data.DataLoader(samples, batch_size=2)


def test_the_grid_of_a_models_volumes():
    at_origin = np.diag([-2.0, 2.0, 2.5, 1.0])
    moved = at_origin.copy()
    moved[:3, 3] = 7
    assert _grid(volumes_at([at_origin, at_origin])) == {
        "spatial_shape": [8, 8, 8],
        "spacing": [2.0, 2.0, 2.5],
        "affine": at_origin.tolist(),
    }
    # of one voxel size, at different places: centred on the origin
    found = _grid(volumes_at([at_origin, moved]))
    assert found["spacing"] == [2.0, 2.0, 2.5]
    assert found["affine"] == [[2.0, 0, 0, -7.0], [0, 2.0, 0, -7.0], [0, 0, 2.5, -8.75], [0, 0, 0, 1]]
    coarser = np.diag([3.0, 3.0, 3.0, 1.0])
    assert _grid(volumes_at([at_origin, coarser]))["spacing"] is None
    assert _grid(loader_of(torch.zeros(2, 1, 4, 5))) == {
        "spatial_shape": [4, 5],
        "spacing": None,
        "affine": np.eye(4).tolist(),
    }


@pytest.fixture
def volumes(tmp_path):
    """Six files of one bright box each, and who is in which part."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(6):
        values = np.zeros(SHAPE, np.float32)
        values[2:6, 2:6, 2:6] = rng.uniform(100, 900, (4, 4, 4))
        path = tmp_path / "data" / f"sub-{number}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(values, AFFINE), path)
        records.append({"image": str(path), "subject": f"sub-{number}"})
    return {"training": records[:4], "validation": [], "test": records[4:]}


def training_of(folder, max_epochs=1, resume=False, loss=None, **changes):
    network = build_network(SHAPE, **{"latent_dim": 2, "channels": (4, 8), "random_state": 0, **changes})
    vae = VAE.from_network(network, loss=BetaVAELoss(2.0, "laplace") if loss is None else loss, random_state=0)
    callbacks = [
        MetricsTable(folder / "metrics.csv"),
        BestWeights(network, folder / "model.pt"),
        LastCheckpoint(folder / "last.ckpt"),
    ]
    options = {**quiet_trainer.QUIET, "enable_checkpointing": True, "default_root_dir": folder}
    trainer = pl.Trainer(max_epochs=max_epochs, callbacks=callbacks, **options)
    return ModelTraining(trainer, vae, network, brain_transforms(SHAPE, 2.0), folder, folder, seed=0, resume=resume)


def run(training, split):
    training.check()
    parts = [[training.preprocessing(record) for record in split[part]] for part in ("training", "test")]
    loader = torch.utils.data.DataLoader(parts[0], batch_size=2, sampler=GlobalOrder(parts[0], shuffle=True, seed=0))
    training.run(loader, None, parts[1], split)


def test_a_run_describes_its_model_and_is_resumed_as_the_same_one(volumes, tmp_path, capsys):
    folder = tmp_path / "run"
    run(training_of(folder), volumes)
    stored = read_description(folder)
    assert stored["preprocessing"] == brain_transforms(SHAPE, 2.0).description
    assert stored["likelihood"] == {"distribution": "laplace", "beta": 2.0}
    assert stored["grid"] == {"spatial_shape": [8, 8, 8], "spacing": [2.0, 2.0, 2.0], "affine": AFFINE.tolist()}
    known = {name: stored["trained_on"][name] for name in ("volumes", "subjects", "simulated")}
    assert known == {"volumes": 4, "subjects": 4, "simulated": False}
    assert stored["trained_on"]["digest"] == data_fingerprint(volumes)["training"]["digest"]
    assert not of_another_run(folder, folder)
    weights = torch.load(folder / "model.pt", weights_only=True)
    found = stored["network"]["arguments"]["n_voxels"]  # what the warm start found: inside the box
    assert 4**3 / 2 < found == len(weights["decoder.template.voxels"]) <= 4**3
    # the network comes back as it was trained
    network = load_weights(trained_network(folder), folder / "model.pt")
    image = trained_preprocessing(folder)(volumes["test"][0])["image"][None]
    with torch.no_grad():
        assert network(image).std() > 0.01
    before = (folder / "model.json").read_bytes()
    capsys.readouterr()
    run(training_of(folder, max_epochs=2, resume=True), volumes)
    assert "has 1 epochs; going on" in capsys.readouterr().out
    assert len((folder / "metrics.csv").read_text().splitlines()) == 3
    assert (folder / "model.json").read_bytes() == before


def test_another_run_is_refused_before_it_touches_anything(volumes, tmp_path):
    folder = tmp_path / "run"
    run(training_of(folder), volumes)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=r"metrics\.csv exists: a run is there already"):
        training_of(folder).check()
    for changes, said in (
        ({"latent_dim": 3}, "latent_dim was 2, now 3"),
        ({"loss": BetaVAELoss(4.0, "laplace")}, r"beta was 2\.0, now 4\.0"),
        ({"loss": BetaVAELoss(2.0)}, "distribution was laplace, now normal"),
    ):
        with pytest.raises(ValueError, match=rf"`resume` needs the settings of .*model\.json: {said}"):
            training_of(folder, resume=True, **changes).check()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_one_held_out_subject_says_nothing_of_active_dimensions(capsys):
    scores = {
        "simulated": False, "n_held_out": 1, "sse": 800.0, "sse_ratio": 0.86, "sse_ratio_pca": 0.85, "latent_dim": 4,
        "pca_components": 4, "active_units": 0, "kl_nats": 10.9,
        "elbo_nats": -1234.5, "noise": None, "squared_standardised_residual": None,
    }  # fmt: skip
    print_scores(scores)
    said = capsys.readouterr().out
    assert "KL 10.9 nats" in said
    assert "Active" not in said
    assert "collapsed" not in said
    assert "Exact ELBO -1234 nats (unit scale)\n" in said
    print_scores({**scores, "n_held_out": 2, "noise": 0.04567, "squared_standardised_residual": 1.049})
    said = capsys.readouterr().out
    assert "Active latent dimensions: 0 of 4; KL 10.9 nats" in said
    assert "Exact ELBO -1234 nats (noise 0.0457); mean squared standardised residual 1.05, ideally 1\n" in said
    assert "the posterior has collapsed" in said
