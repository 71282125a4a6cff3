"""Which files are passed on, and what is refused before any of them is."""

import json
import shutil

import pytest
import torch
from described_models import SHAPE, SPLIT, changed, network_of, write_model

from monai_betavae.data import CovariateCoding
from monai_betavae.workflows import load_weights, write_model_card
from monai_betavae.workflows.model_card import file_sha256
from monai_betavae.workflows.records import write_split
from monai_betavae.workflows.shared_files import (
    check_file_names,
    harmless_files,
    is_shared_file,
    read_digests,
    shared_description,
    shared_files,
    write_shared_files,
)
from monai_betavae.workflows.trained_model import trained_network

PEOPLE = [{"age": 40 + n, "sex": "F" if n < 5 else "M"} for n in range(20)]


def conditional(folder, people=PEOPLE):
    """Write a conditional model that was trained on people of these covariates."""
    coding = CovariateCoding.fit(people, ["age", "sex"])
    network = network_of(n_covariates=coding.n_columns)
    return write_model(
        folder,
        network,
        SHAPE,
        12.0,
        covariates=coding.description(),
        trained_on={"volumes": len(people), "simulated": False},
    )


@pytest.fixture
def models(tmp_path):
    folder = write_model(tmp_path / "models", network_of(), SHAPE, 12.0)
    write_split(SPLIT, folder / "split.json")
    write_model_card(folder, folder)
    return folder


def written(tmp_path, models, **options):
    tmp_path.mkdir(exist_ok=True)
    folder = tmp_path / "shared"
    write_shared_files(folder, models, models / "MODEL_CARD.md", **options)
    return folder


def test_nothing_else_than_these(models, tmp_path):
    (models / "latents.csv").write_text("subject,mu_0\na,0.5\n")
    folder = written(tmp_path, models)
    files = shared_files(folder)
    configs = {name for name in harmless_files() if name.startswith("configs/")}
    assert len(configs) == 9
    assert set(files) == {
        "README.md", "LICENSE", "digests.json", "docs/README.md", "models/model.pt", "models/model.json", *configs
    }  # fmt: skip
    digests = json.loads(files["digests.json"].read_text())["files"]
    assert digests == {name: file_sha256(path) for name, path in files.items() if name != "digests.json"}
    assert (folder / "README.md").read_bytes() == (models / "MODEL_CARD.md").read_bytes()
    for name in ("LICENSE", "docs/README.md", "configs/logging.conf"):
        assert files[name].read_bytes() == harmless_files()[name].read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("shared")] == ["shared"]


@pytest.mark.parametrize(
    "name",
    [
        "latents.csv", "output/latents.csv", "reconstructions/a.nii.gz", "codes.npy", "models/split.json",
        "configs/a.py", "scripts/push_model.py", "models/other.pt", "model.pkl", "configs/../../x.json",
        "/etc/passwd",
        "configs/a/b.json", "models/model.pt ", "README.md\n",
    ],
)  # fmt: skip
def test_other_files_are_refused_by_name(name):
    assert not is_shared_file(name)
    with pytest.raises(ValueError, match=r"the folder must hold a shared model and nothing else, got ") as refused:
        check_file_names(["README.md", name, ".gitattributes"], "the folder")
    assert repr(name) in str(refused.value)


def test_a_file_that_slipped_in_is_refused(models, tmp_path):
    folder = written(tmp_path, models)
    (folder / "configs" / "codes.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"what is pushed must hold .* got 'configs/codes\.npy'"):
        shared_files(folder)


def test_the_card_is_that_of_the_weights(models, tmp_path):
    weights = torch.load(models / "model.pt", weights_only=True)
    weights["fc_mu.bias"] += 1.0
    torch.save(weights, models / "model.pt")
    with pytest.raises(ValueError, match=r"MODEL_CARD\.md is of other weights, .*write_model_card"):
        written(tmp_path / "a", models)
    (models / "MODEL_CARD.md").unlink()
    with pytest.raises(ValueError, match=r"MODEL_CARD\.md must be the model's card: training writes it"):
        written(tmp_path / "b", models)


@pytest.mark.parametrize("more", [True, False])
def test_weights_that_do_not_fit_are_refused(models, tmp_path, more):
    weights = torch.load(models / "model.pt", weights_only=True)
    if more:
        weights["codes_of_the_subjects"] = torch.zeros(12, 3)
    else:
        del weights["fc_mu.bias"]
    torch.save(weights, models / "model.pt")
    with pytest.raises(ValueError, match=r"models/model\.pt doesn't fit its model\.json"):
        written(tmp_path, models)


def test_covariates_without_extremes_and_codes_the_same(tmp_path):
    people = [*PEOPLE[:-1], {"age": 97, "sex": "M"}]
    models = conditional(tmp_path / "models", people)
    before = json.loads((models / "model.json").read_text())
    assert before["covariates"]["covariates"][0]["range"] == [40.0, 97.0]
    after = shared_description(before)
    age = after["covariates"]["covariates"][0]
    assert age["range"] == [age["mean"] - 2 * age["sd"], age["mean"] + 2 * age["sd"]]
    age["range"] = [40.0, 97.0]
    assert after == before
    codings = [CovariateCoding.from_description(each["covariates"]) for each in (before, shared_description(before))]
    assert (codings[0].rows(people) == codings[1].rows(people)).all()


def test_small_groups_are_refused_unless_they_may_be_known(tmp_path):
    write_split(SPLIT, tmp_path / "split.json")
    for n_women, refused in ((5, False), (4, True)):
        folder = tmp_path / str(n_women)
        people = [{"age": 40 + n, "sex": "F" if n < n_women else "M"} for n in range(20)]
        models = conditional(folder / "models", people)
        write_model_card(models, tmp_path)
        if refused:
            with pytest.raises(ValueError, match=r"model\.json must not tell of groups .* got 4 of sex = 'F'"):
                written(folder, models)
        found = written(folder, models, small_groups=refused)
        for name in ("models/model.json", "configs/inference.json"):
            assert "59.0" not in (found / name).read_text().split('"range"')[1].split("]")[0]


def digests_of(folder):
    return folder / "digests.json"


def names_of(folder):
    return [*shared_files(folder), ".gitattributes"]


def test_digests_name_what_is_missing_or_too_much(models, tmp_path):
    folder = written(tmp_path, models)
    names = names_of(folder)
    assert set(read_digests(digests_of(folder), names, "it")) == set(names) - {".gitattributes", "digests.json"}
    with pytest.raises(ValueError, match=r"it must hold the files that digests\.json lists, but lacks 'LICENSE'"):
        read_digests(digests_of(folder), [name for name in names if name != "LICENSE"], "it")
    with pytest.raises(ValueError, match=r"but has besides 'configs/more\.json'"):
        read_digests(digests_of(folder), [*names, "configs/more.json"], "it")
    content = json.loads(digests_of(folder).read_text())
    del content["files"]["models/model.pt"]
    digests_of(folder).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"lacks 'models/model\.pt'"):
        read_digests(digests_of(folder), [name for name in names if name != "models/model.pt"], "it")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": "x", "files": {}}', '{"format": "monai_betavae.shared/1", "files": {"a": "00"}}'],
)
def test_foreign_digests_are_refused(tmp_path, content):
    (tmp_path / "digests.json").write_text(content)
    with pytest.raises(ValueError, match=r"digests\.json of it must be what push_model wrote"):
        read_digests(tmp_path / "digests.json", [], "it")


def test_parts_of_ones_own_are_refused(models, tmp_path):
    changed(models, "network", to={"own": "mine.Net"})
    with pytest.raises(ValueError, match="network_def"):
        written(tmp_path, models)


def test_what_is_shared_works_as_the_model_does(models, tmp_path):
    folder = written(tmp_path, models)
    shutil.rmtree(models)
    network = load_weights(trained_network(folder / "models"), folder / "models" / "model.pt")
    expected = network_of().eval()
    image = torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network.encode(image).mean, expected.encode(image).mean)
