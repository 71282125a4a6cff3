"""The evaluation of a conditional model: every image with its own covariates, scores as computed by hand."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.inferers import SimpleInferer

from monai_betavae import VAE
from monai_betavae.data import CovariateCoding, brain_transforms, discover, simulate_cohort
from monai_betavae.evaluation import elbo, latent_deviation, log_likelihood, refined_codes
from monai_betavae.networks.builders import build_network
from monai_betavae.networks.conditional_mean import fit_condition
from monai_betavae.networks.warm_start import warm_start
from monai_betavae.workflows import ModelEvaluation
from monai_betavae.workflows.model_evaluation import subjects as module
from monai_betavae.workflows.model_evaluation.run import PARTS
from monai_betavae.workflows.model_evaluation.subjects import embed
from monai_betavae.workflows.records import write_split

SHAPE, SPACING, NAMES = (12, 14, 12), 15.0, ["age", "sex"]
LIKELIHOOD = {"distribution": "normal", "beta": 0.1}
OF_SUBJECTS = [name for name in PARTS if name not in ("latents", "generation", "viewer")]
"""Parts in which every code is a subject's."""

pytestmark = pytest.mark.filterwarnings("ignore:.*(divide by zero|invalid value).*:RuntimeWarning")


class Run:
    """A cohort of files, its split, and a network that is conditional on age and sex."""

    def __init__(self, folder, sizes):
        self.folder = folder
        simulate_cohort(folder / "cohort", sum(sizes), seed=3, spacing=12.0, lesion_fraction=0.1, progress=False)
        records = [{key: value for key, value in r.items() if key != "split"} for r in discover(folder / "cohort")]
        first, second = sizes[0], sizes[0] + sizes[1]
        self.split = {"training": records[:first], "validation": records[first:second], "test": records[second:]}
        write_split(self.split, folder / "split.json")
        self.transform = brain_transforms(SHAPE, SPACING)
        self.coding = CovariateCoding.fit(self.split["training"], NAMES)
        images, rows = self.images("training"), self.rows("training")
        self.network = build_network(
            SHAPE, 3, channels=(4, 8), warm_start="deformable", n_covariates=self.coding.n_columns, random_state=0
        ).eval()
        warm_start(self.network, DataLoader(images, batch_size=8))
        assert fit_condition(self.network, [{"image": images, "covariates": rows}])
        assert self.network.decoder.condition.weight.abs().max() > 0.1

    def images(self, part):
        return torch.stack([self.transform(record)["image"] for record in self.split[part]])

    def rows(self, part):
        return torch.from_numpy(self.coding.rows(self.split[part]))

    def evaluation(self, output_dir, records=None, **options):
        records = self.split["test"] if records is None else records
        given = {"network": self.network, "coding": self.coding, "n_samples": 3, **options}
        return ModelEvaluation(
            given.pop("network"),
            records,
            DataLoader(Dataset(list(records), self.transform), batch_size=4),
            SimpleInferer(),
            self.transform,
            LIKELIHOOD,
            output_dir,
            self.folder,
            **given,
        )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("run"), (26, 26, 26))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("small"), (12, 2, 7))


def be_strict(run, monkeypatch):
    """Refuse to decode without covariates, which would silently give the average subject's image."""
    decode, forward = run.network.decode, run.network.decoder.forward

    def decoded(z, covariates=None):
        assert covariates is not None
        assert covariates.shape == (len(z), run.coding.n_columns)
        return decode(z, covariates)

    def checked(z, covariates=None):
        assert covariates is not None
        return forward(z, covariates)

    monkeypatch.setattr(run.network, "decode", decoded)
    monkeypatch.setattr(run.network.decoder, "forward", checked)


def content(folder):
    return json.loads((folder / "evaluation" / "scores.json").read_text())


@pytest.mark.slow
def test_scores_of_subjects_are_those_computed_by_hand(run, tmp_path, monkeypatch):
    be_strict(run, monkeypatch)
    run.evaluation(tmp_path, parts=OF_SUBJECTS, refinement_steps=1).run()
    scores = content(tmp_path)
    images, rows = run.images("test"), run.rows("test")
    with torch.no_grad():
        q = run.network.encode(images, rows)
        restored = run.network.decode(q.mean, rows)
        reference = run.network.encode(run.images("validation"), run.rows("validation"))
    sse = ((images - restored) ** 2).flatten(1).sum(1).numpy()
    table = pd.read_csv(tmp_path / "evaluation" / "reconstruction.csv")
    np.testing.assert_allclose(table["sse"], sse, rtol=1e-3)

    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1).numpy()
    table = pd.read_csv(tmp_path / "evaluation" / "likelihood.csv")
    np.testing.assert_allclose(table["kl"], kl, rtol=1e-3)
    estimator = VAE.from_network(run.network, beta=LIKELIHOOD["beta"], default_dist="normal")
    batch = [{"image": images, "covariates": rows}]
    np.testing.assert_allclose(table["elbo"], elbo(estimator, batch, progress=False).elbo, rtol=1e-5)
    np.testing.assert_allclose(table["log_likelihood"], log_likelihood(estimator, batch, 3, progress=False), rtol=1e-5)

    assert scores["rate_distortion"]["rate"] == pytest.approx(kl.mean(), rel=1e-3)
    assert scores["rate_distortion"]["distortion"] == pytest.approx(sse.mean(), rel=1e-3)
    assert scores["rate_distortion"]["truncated"]["distortion"][-1] == pytest.approx(sse.mean(), rel=1e-3)
    with torch.no_grad():
        nothing = run.network.decode(torch.zeros_like(q.mean), rows)
    expected = ((images - nothing) ** 2).flatten(1).sum(1).mean().item()
    assert scores["rate_distortion"]["truncated"]["distortion"][0] == pytest.approx(expected, rel=1e-3)

    refined = refined_codes(
        run.network.decode, images, q.mean, variance=LIKELIHOOD["beta"] / 2, n_steps=1, covariates=rows
    )
    with torch.no_grad():
        again = run.network.decode(torch.from_numpy(refined), rows)
    expected = ((images - again) ** 2).flatten(1).sum(1).mean().item()
    assert scores["reconstruction"]["sse_refined"]["value"] == pytest.approx(expected, rel=1e-3)

    healthy = [i for i, record in enumerate(run.split["validation"]) if record["group"] == "control"]
    assert 20 <= len(healthy) < 26
    mu, logvar = reference.mean.numpy()[healthy], 2 * np.log(reference.scale.numpy()[healthy])
    found = latent_deviation(q.mean.numpy(), 2 * q.scale.log().numpy(), mu, logvar)
    table = pd.read_csv(tmp_path / "evaluation" / "deviation.csv")
    np.testing.assert_allclose(table["latent_deviation"], found["score"], rtol=1e-3)
    table = pd.read_csv(tmp_path / "evaluation" / "calibration.csv")
    well = np.array([record["group"] == "control" for record in run.split["test"]])
    assert (table["n"][0], table["beyond"][0]) == (well.sum(), (found["p_subject"][well] <= 0.05).sum())
    assert table["by"].tolist() == ["all", "age", "age", "age", "sex", "sex"]
    assert scores["anomaly"]["n_subjects"] == (~well).sum()


@pytest.mark.slow
def test_the_report_says_what_the_model_is_conditional_on(run, tmp_path):
    run.evaluation(tmp_path).run()
    scores = content(tmp_path)
    assert set(PARTS) - {"reliability"} <= set(scores)
    assert scores["conditional_on"] == NAMES
    assert scores["probes"]["age"]["conditioned"] is True
    assert "conditioned" not in scores["probes"]["brain_ml"]
    page = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    sentence = "The model is conditional on age, sex: its codes are what is left of the images without them"
    assert page.count(sentence) == 4  # the viewer, latents, probes, the norm
    for text in ("conditional on</", "age (conditioned on)", "sex (conditioned on)", "at the average subject",
                 "The deviation is therefore adjusted for them", "Healthy subjects beyond the limit"):  # fmt: skip
        assert text in page
    assert (tmp_path / "evaluation" / "calibration.png").stat().st_size > 1000


def test_a_part_of_the_images_keeps_its_own_covariates(small, tmp_path, monkeypatch):
    be_strict(small, monkeypatch)
    monkeypatch.setattr(module, "IMAGE_BYTES", 4 * 4 * int(np.prod(SHAPE)))
    small.evaluation(tmp_path, parts=["reconstruction", "likelihood", "rate_distortion"]).run()
    shown = np.linspace(0, 6, 4).round().astype(int)
    images, rows = small.images("test")[shown], small.rows("test")[shown]
    with torch.no_grad():
        q = small.network.encode(images, rows)
        restored = small.network.decode(q.mean, rows)
    table = pd.read_csv(tmp_path / "evaluation" / "likelihood.csv")
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1).numpy()
    np.testing.assert_allclose(table["kl"], kl, rtol=1e-3)
    expected = ((images - restored) ** 2).flatten(1).sum(1).mean().item()
    assert content(tmp_path)["rate_distortion"]["distortion"] == pytest.approx(expected, rel=1e-3)


def test_levels_that_training_had_none_of(small, tmp_path):
    strange = [{**record, "sex": "X"} for record in small.split["test"][:3]]
    with pytest.raises(ValueError, match=r"known values of 'sex', 'F', 'M', got 'X' \(3\)"):
        small.evaluation(tmp_path, strange, parts=["reconstruction"]).run()
    small.evaluation(tmp_path, strange, parts=["reconstruction"], unseen={"sex": {"X": "F"}}).run()
    table = pd.read_csv(tmp_path / "evaluation" / "reconstruction.csv")
    rows = torch.from_numpy(small.coding.rows([{**record, "sex": "F"} for record in strange]))
    images = small.images("test")[:3]
    with torch.no_grad():
        restored = small.network.decode(small.network.encode(images, rows).mean, rows)
    np.testing.assert_allclose(table["sse"], ((images - restored) ** 2).flatten(1).sum(1), rtol=1e-3)


@pytest.mark.filterwarnings("ignore:Missing values are coded:UserWarning")
def test_missing_covariates_are_said_in_the_report(small, tmp_path):
    records = [{key: value for key, value in record.items() if key != "age"} for record in small.split["test"][:2]]
    small.evaluation(tmp_path, [*records, small.split["test"][2]], parts=["reconstruction"]).run()
    (warning,) = [text for text in content(tmp_path)["warnings"] if "Covariates" in text]
    assert warning == (
        "Covariates of the evaluated volumes: Missing values are coded as those of the average subject: "
        "'age' in 2 of 3 records."
    )
    assert "&#x27;age&#x27; in 2 of 3 records" in (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")


def test_embedded_subjects_hold_their_covariates(small):
    records = small.split["test"][:3]
    loader = DataLoader(Dataset(records, small.transform), batch_size=2)
    found = embed(small.network, loader, records, coding=small.coding)
    np.testing.assert_array_equal(found.covariates, small.rows("test")[:3])
    np.testing.assert_array_equal(found.shown_covariates, found.covariates)
    nobody = embed(small.network, [], [], coding=small.coding)
    assert nobody.covariates.shape == (0, small.coding.n_columns)
    plain = build_network(SHAPE, 3, channels=(4, 8), random_state=0)
    assert embed(plain, loader, records).shown_covariates is None


def test_refusals(small, tmp_path):
    plain = build_network(SHAPE, 3, channels=(4, 8), random_state=0)
    one = CovariateCoding.fit(small.split["training"], ["age"])
    for options, message in (
        ({"coding": None}, r"`coding` must be given, as the network is conditional on \d coded covariates"),
        ({"network": plain}, r"`coding` must be None for a network that isn't conditional, got \d columns of age, sex"),
        ({"coding": one}, r"`coding` must have the \d columns that the network takes, got \d columns of age\."),
        ({"coding": ["age"]}, "`coding` must be a CovariateCoding or None, got list"),
        (
            {"network": plain, "coding": None, "unseen": {}},
            "`unseen` must be None for a network that isn't conditional",
        ),
        ({"unseen": {"site": {"C": None}}}, "`unseen` must be"),
        ({"unseen": {"sex": {"X": "Y"}}}, "`unseen` must map 'X' to None or a known level of 'sex'"),
    ):
        with pytest.raises(ValueError, match=message):
            small.evaluation(tmp_path, **options)
