"""An evaluation from files to report: every part with its data, and what is said where there is none."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.inferers import SimpleInferer

from monai_betavae.data import brain_transforms, discover, simulate_cohort
from monai_betavae.networks.builders import build_network
from monai_betavae.networks.warm_start import warm_start
from monai_betavae.workflows import ModelEvaluation, check_evaluation, split_records
from monai_betavae.workflows.model_evaluation.run import PARTS
from monai_betavae.workflows.model_evaluation.subjects import add_truth, covariates_of, on_grid
from monai_betavae.workflows.records import write_split

SHAPE, SPACING = (20, 24, 20), 9.0
pytestmark = pytest.mark.filterwarnings("ignore:.*(divide by zero|invalid value).*:RuntimeWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A cohort, its split as a training run leaves it, and a network that gives the mean training image."""
    folder = tmp_path_factory.mktemp("run")
    simulate_cohort(folder / "cohort", 60, seed=3, spacing=9.0, lesion_fraction=0.25, progress=False)
    records = [{key: value for key, value in r.items() if key != "split"} for r in discover(folder / "cohort")]
    split = split_records(records, (0.5, 0.2, 0.3), 0, stratify="group")
    write_split(split, folder / "split.json")
    transform = brain_transforms(SHAPE, SPACING)
    images = torch.stack([transform(record)["image"] for record in split["training"]])
    network = build_network(SHAPE, 4, channels=(4, 8), warm_start="mean", architecture="plain", random_state=0)
    network.decoder.set_output_mean(images.mean(dim=0))
    return folder, split, network, images


def evaluation(folder, split_part, network, output_dir, likelihood=None, **options):
    transform = brain_transforms(SHAPE, SPACING)
    loader = DataLoader(Dataset(list(split_part), transform), batch_size=4)
    return ModelEvaluation(
        network,
        split_part,
        loader,
        SimpleInferer(),
        transform,
        {"distribution": "normal", "beta": 1.0, **(likelihood or {})},
        output_dir,
        folder,
        n_samples=3,
        **options,
    )


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory):
    folder, split, network, _ = run
    output = tmp_path_factory.mktemp("evaluated")
    evaluation(folder, split["test"], network, output).run()
    return output / "evaluation"


@pytest.mark.slow
def test_every_part_is_there(run, evaluated):
    scores = json.loads((evaluated / "scores.json").read_text())
    # the simulated cohort has one scan of each subject
    assert set(PARTS) - {"reliability"} <= set(scores)
    assert (scores["n_volumes"], scores["simulated"], scores["latent_dim"]) == (18, True, 4)
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    for text in ("These brains are simulated", "18 test", "Lesions", "control (control: no effect)", "PCA",
                 "needs 5 evaluated subjects with several scans"):  # fmt: skip
        assert text in page
    for name in ("reconstructions.png", "traversals.gif", "precision_recall.png", "predictions.png", "latents.png",
                 "rate_distortion.png"):  # fmt: skip
        assert (evaluated / name).stat().st_size > 1000


@pytest.mark.slow
def test_a_network_that_gives_the_mean_image_is_called_what_it_is(run, evaluated):
    _folder, split, _network, images = run
    scores = json.loads((evaluated / "scores.json").read_text())
    table = pd.read_csv(evaluated / "reconstruction.csv")
    assert table["subject"].tolist() == [record["subject"] for record in split["test"]]
    transform = brain_transforms(SHAPE, SPACING)
    held_out = torch.stack([transform(record)["image"] for record in split["test"]])
    expected = ((held_out - images.mean(dim=0)) ** 2).sum(dim=(1, 2, 3, 4)).numpy()
    np.testing.assert_allclose(table["sse"], expected, rtol=1e-4)
    np.testing.assert_allclose(table["sse_mean_image"], expected, rtol=1e-4)
    assert scores["reconstruction"]["sse_ratio"]["value"] == pytest.approx(1, abs=1e-4)
    assert scores["reconstruction"]["sse_ratio_to_pca"]["value"] > 1.1
    assert any("PCA reconstructs better" in warning for warning in scores["warnings"])
    assert any("Lesions are found no better" in warning for warning in scores["warnings"])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_scores(run, evaluated, tmp_path):
    folder, split, network, _ = run
    parts = ["reconstruction", "likelihood", "probes", "normative"]
    evaluation(folder, split["test"], network, tmp_path, parts=parts).run()
    again = json.loads((tmp_path / "evaluation" / "scores.json").read_text())
    first = json.loads((evaluated / "scores.json").read_text())
    assert {name: again[name] for name in parts} == {name: first[name] for name in parts}
    assert not (tmp_path / "evaluation" / "traversals.gif").exists()


@pytest.mark.slow
def test_refined_codes_are_scored_beside_the_encoders(run, tmp_path):
    folder, split, _network, images = run
    network = build_network(SHAPE, 4, channels=(4, 8), warm_start="linear", architecture="plain", random_state=0)
    warm_start(network, DataLoader(images, batch_size=4))
    with torch.no_grad():
        network.fc_mu.weight.mul_(0.3)  # an encoder that falls short
    parts = ["reconstruction", "probes", "disentanglement"]
    evaluation(folder, split["test"], network, tmp_path, parts=parts, refinement_steps=1).run()
    scores = json.loads((tmp_path / "evaluation" / "scores.json").read_text())
    # the decoder is linear, so one step gives the mode: what probabilistic PCA does, far nearer to PCA than the encoder
    found = {name: scores["reconstruction"][name]["value"] for name in ("sse", "sse_refined", "sse_pca")}
    assert found["sse_pca"] <= found["sse_refined"] * 1.001
    assert found["sse_refined"] < 1.1 * found["sse_pca"] < found["sse"]
    ratio = found["sse_refined"] / found["sse"]
    assert scores["reconstruction"]["sse_ratio_refined"]["value"] == pytest.approx(ratio, rel=1e-6)
    probed = scores["probes"]["brain_ml"]
    assert probed["refined"]["value"] == pytest.approx(probed["pca"]["value"], abs=0.03)
    assert set(scores["disentanglement"]) == {"model", "refined", "pca", "factors"}
    page = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "the amortization gap" in page
    assert "this model, refined codes" in page


@pytest.mark.parametrize("likelihood", [{"beta": 1.0}, {"beta": 4.0}, {"distribution": "laplace", "beta": 2.0}])
def test_the_likelihood_is_that_of_the_model(run, tmp_path, likelihood):
    folder, split, network, images = run
    evaluation(folder, split["test"][:3], network, tmp_path, likelihood, parts=["likelihood"]).run()
    table = pd.read_csv(tmp_path / "evaluation" / "likelihood.csv")
    given = {"distribution": "normal", **likelihood}
    transform = brain_transforms(SHAPE, SPACING)
    held_out = torch.stack([transform(record)["image"] for record in split["test"][:3]]).double()
    # every code gives the mean image, so its density is known
    difference = (held_out - images.double().mean(dim=0)).flatten(1)
    n = difference.shape[1]
    expected = {
        "normal": -0.5 * (difference**2).sum(1) - 0.5 * n * np.log(2 * np.pi),
        "laplace": -difference.abs().sum(1) - n * np.log(2),
    }[given["distribution"]]
    np.testing.assert_allclose(table["elbo"] + table["kl"], expected, rtol=1e-6)
    page = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert f"{given['beta']:g}; beta / N = " in page
    assert given["distribution"] in page
    assert "20×24×20 voxels of 9×9×9 mm" in page


def test_volumes_without_run_truth_or_covariates(run, tmp_path):
    _folder, split, network, _ = run
    bare = [{"image": record["image"], "subject": f"new-{i}"} for i, record in enumerate(split["test"][:3])]
    evaluation(tmp_path / "nowhere", bare, network, tmp_path, parts=["reconstruction", "probes", "normative"]).run()
    scores = json.loads((tmp_path / "evaluation" / "scores.json").read_text())
    assert "sse_pca" not in scores["reconstruction"]
    assert "normative" not in scores
    assert scores["probes"] == {}
    page = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "The records have no covariate" in page
    assert "who is unusual: needs 20 healthy validation or training subjects" in page


@pytest.mark.slow
def test_two_volumes_are_enough_for_a_report(run, tmp_path):
    folder, split, network, _ = run
    evaluation(folder, split["test"][:2], network, tmp_path, n_reference=12).run()
    scores = json.loads((tmp_path / "evaluation" / "scores.json").read_text())
    assert scores["n_volumes"] == 2
    assert {"reconstruction", "likelihood", "latents", "generation"} <= set(scores)


def test_few_subjects_are_warned_of(run, tmp_path, capsys):
    folder, split, network, _ = run
    evaluation(folder, split["test"][:5], network, tmp_path, parts=["reconstruction"]).run()
    scores = json.loads((tmp_path / "evaluation" / "scores.json").read_text())
    assert scores["n_subjects"] == 5
    (warning,) = [warning for warning in scores["warnings"] if "subjects were evaluated" in warning]
    assert warning.startswith("Only 5 subjects were evaluated: with fewer than 20 the intervals are wide")
    assert "  Warning: Only 5 subjects were evaluated" in capsys.readouterr().out
    page = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "Only 5 subjects were evaluated" in page
    assert "No warning" not in page


def test_subjects_and_not_volumes_are_counted(run, tmp_path):
    folder, split, network, _ = run
    members = [*split["test"], *split["validation"]][:20]
    enough = [{"image": record["image"], "subject": f"s{number}"} for number, record in enumerate(members)]
    for name, records, n_subjects in (
        ("enough", enough, 20),
        ("of one", [{**record, "subject": "one"} for record in enough], 1),
        ("nameless", [{"image": record["image"]} for record in enough], 20),
    ):
        evaluation(folder, records, network, tmp_path / name, parts=["reconstruction"]).run()
        scores = json.loads((tmp_path / name / "evaluation" / "scores.json").read_text())
        assert (scores["n_volumes"], scores["n_subjects"]) == (20, n_subjects)
        few = [warning for warning in scores["warnings"] if "evaluated: with fewer than" in warning]
        assert bool(few) == (n_subjects < 20)
        assert not few or few[0].startswith("Only 1 subject was evaluated")


def test_fewer_components_than_latent_dimensions_are_said(run, tmp_path, capsys):
    _folder, split, _network, _ = run
    network = build_network(SHAPE, 12, channels=(4, 8), warm_start="none", architecture="plain", random_state=0)
    few = tmp_path / "few"
    few.mkdir()
    write_split({**split, "training": split["training"][:10]}, few / "split.json")
    evaluation(few, split["test"][:3], network, tmp_path, parts=["reconstruction"]).run()
    scores = json.loads((tmp_path / "evaluation" / "scores.json").read_text())
    assert scores["pca_components"] == 9
    assert "of that of PCA with 9 components" in capsys.readouterr().out
    page = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "9 components: of 10 training volumes there are no 12" in page


def test_subjects_of_the_training_are_warned_of(run, tmp_path):
    folder, split, network, _ = run
    members = [*split["training"][:1], *split["test"][:2]]
    evaluation(folder, members, network, tmp_path, parts=["reconstruction"]).run()
    scores = json.loads((tmp_path / "evaluation" / "scores.json").read_text())
    assert "1 of the volumes are of subjects that the model was trained" in scores["warnings"][0]


def test_refusals(run, tmp_path):
    (tmp_path / "model.pt").touch()
    check_evaluation(tmp_path, tmp_path / "model.pt")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "scores.json").touch()
    with pytest.raises(ValueError, match=r"scores\.json exists"):
        check_evaluation(tmp_path, tmp_path / "model.pt")
    folder, split, network, _ = run
    with pytest.raises(ValueError, match="`dataloader` must give at least one volume"):
        evaluation(folder, [], network, tmp_path, n_reference=2).run()
    for options, message in (
        ({"parts": ["everything"]}, "`parts` must be one of"),
        ({"lesions": "grey"}, "`lesions` must be one of 'dark', 'bright', 'both'"),
        ({"n_reference": -1}, "`n_reference` must be an integer >= 0"),
        (
            {"likelihood": {"distribution": "poisson"}},
            "`likelihood` must be {'distribution': one of 'normal', 'laplace'",
        ),
        ({"likelihood": {"beta": -1}}, "`likelihood` must be {'distribution'"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluation(folder, split["test"], network, tmp_path, **options)


def test_truth_of_the_simulated_cohort_is_found_and_brought_to_the_grid(run):
    _, split, _, _ = run
    sick = next(record for record in split["training"] if record["group"] == "lesion")
    well = next(record for record in split["training"] if record["group"] == "control")
    assert add_truth(well) == well
    found = add_truth(sick)
    sample = brain_transforms(SHAPE, SPACING)(sick)
    mask = on_grid(found["lesion_mask"], sample["image_affine"].numpy(), SHAPE)
    healthy = brain_transforms(SHAPE, SPACING)({"image": found["healthy_image"]})["image"]
    changed = (healthy - sample["image"]).abs()[0].numpy() > 0.02
    assert mask.sum() > 0
    assert changed[mask].mean() > 0.5
    assert changed[~mask].mean() < 0.01


def test_covariates_are_numbers_and_categories():
    records = [
        {"image": f"{i}.nii", "subject": f"s{i}", "age": float(i), "sex": "FM"[i % 2], "note": f"text {i}", "same": 1}
        for i in range(20)
    ]
    assert list(covariates_of(records)) == ["age", "sex"]
