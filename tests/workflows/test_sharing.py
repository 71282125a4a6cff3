"""Models through a stand-in of the hub: the same to the last bit, nothing personal sent, nothing tampered kept."""

import builtins
import getpass
import hashlib
import json
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from bundle_runs import latents, tiny_cohort, train
from hub_stand_in import TOKEN, hub_stand_in
from monai.bundle import ConfigWorkflow

from monai_betavae._texts import markdown_text
from monai_betavae.data import discover
from monai_betavae.workflows import pull_model, push_model, write_model_card

pytest.importorskip("huggingface_hub")
# huggingface_hub uploads to Git LFS in a way that its own HTTP client deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")
KILLED = Path(__file__).parents[1] / "support" / "killed_pulls.py"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return tiny_cohort(tmp_path_factory.mktemp("sharing") / "cohort-of-st-elsewhere")


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(folder, cohort)
    return folder


@pytest.fixture
def hub():
    with hub_stand_in() as served:
        yield served


@pytest.fixture
def at(hub):
    return {"endpoint": hub.endpoint, "token": TOKEN}


@pytest.fixture
def model(trained, tmp_path):
    """A copy of the model that a test may change."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model.pt", "model.json", "split.json", "scores.json", "MODEL_CARD.md"):
        (folder / name).write_bytes((trained / name).read_bytes())
    return folder


# ---- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lfs_files", [(".pt",), ("nothing",)])
def test_the_same_latents_to_the_last_bit(trained, cohort, tmp_path, lfs_files):
    with hub_stand_in(lfs_files=lfs_files) as hub:
        at = {"endpoint": hub.endpoint, "token": TOKEN}
        pushed = push_model("clinic/vae", trained, **at)
        assert hub.private == {"clinic/vae": True}
        assert len(hub.commits["clinic/vae"]) == 2
        assert bool(hub.objects) == (lfs_files == (".pt",))
        pulled = pull_model("clinic/vae", tmp_path / "vae", revision=pushed.revision, digest=pushed.digest, **at)
    assert pulled == pushed
    for name in ("model.pt", "model.json", "MODEL_CARD.md"):
        assert (tmp_path / "vae" / "models" / name).read_bytes() == (trained / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]
    expected = latents(tmp_path / "expected", ckpt_dir=str(trained), dataset_dir=str(cohort))
    workflow = ConfigWorkflow(
        str(tmp_path / "vae" / "configs" / "inference.json"), logging_file=False, workflow_type="inference",
        run_id="inference", dataset_dir=str(cohort), output_dir=str(tmp_path / "found"), device="$torch.device('cpu')",
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    table = pd.read_csv(tmp_path / "found" / "latents.csv")
    found = table[[name for name in table if name.startswith("mu_")]].to_numpy()
    assert found.shape == (12, 2)
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) == found.size


def test_pushed_again_and_pulled_again(trained, hub, at, tmp_path):
    first = push_model("clinic/vae", trained, private=False, **at)
    assert hub.private == {"clinic/vae": False}
    hub.change("clinic/vae", "configs/of_an_old_version.json", b"{}")
    second = push_model("clinic/vae", trained, **at)
    assert second.digest == first.digest
    assert "configs/of_an_old_version.json" not in hub.files("clinic/vae")
    hub.change("clinic/vae", "thesis.tex", b"")
    with pytest.raises(
        ValueError, match=r"`repo_id` clinic/vae must hold a shared model and nothing else, got 'thesis\.tex'"
    ):
        push_model("clinic/vae", trained, **at)
    pull_model("clinic/vae", tmp_path / "vae", revision=first.revision, **at)
    with pytest.raises(ValueError, match=r"`folder` must be a new or an empty folder, got .*vae, which holds files"):
        pull_model("clinic/vae", tmp_path / "vae", revision=second.revision, **at)
    (tmp_path / "vae" / "models" / "model.pt").write_bytes(b"old")
    pull_model("clinic/vae", tmp_path / "vae", revision=second.revision, overwrite=True, **at)
    assert (tmp_path / "vae" / "models" / "model.pt").read_bytes() == (trained / "model.pt").read_bytes()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"`folder` must hold a pulled model for `overwrite`, got .*other"):
        pull_model("clinic/vae", tmp_path / "other", revision=second.revision, overwrite=True, **at)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "vae"]


# ---- nothing personal is sent ----------------------------------------------------------------------------------------


def test_nothing_that_is_sent_names_a_subject_a_path_or_the_user(trained, cohort, hub, at):
    push_model("clinic/vae", trained, **at)
    sent = b"\n".join([*hub.received, *hub.objects.values(), *hub.files("clinic/vae").values()]).decode("latin-1")
    assert "library_name: monai" in sent  # what is encoded in a commit is among it
    assert (trained / "model.pt").read_bytes().decode("latin-1") in sent
    records = discover(cohort)
    assert len(records) == 12
    secrets = {str(record["subject"]) for record in records} | {record["image"] for record in records}
    secrets |= {Path(record["image"]).name for record in records} | {
        str(cohort),
        cohort.name,
        str(trained),
        str(Path.home()),
    }
    secrets |= {"sub-0"}
    assert [secret for secret in secrets if secret in sent] == []
    user = re.compile(rf"(?<![^\W_]){re.escape(getpass.getuser())}(?![^\W_])".encode())
    for name, body in hub.files("clinic/vae").items():
        assert not (name == "README.md" or name.startswith("models/")) or not user.search(body)


def planted_in_card(folder, name):
    path = folder / "MODEL_CARD.md"
    path.write_text(path.read_text() + f"\nThanks to {name}.\n")


def planted_in_description(folder, name):
    content = json.loads((folder / "model.json").read_text())
    content["trained_on"]["told"]["missing_values"] = [name]
    (folder / "model.json").write_text(json.dumps(content))


def planted_in_weights(folder, name):
    weights = torch.load(folder / "model.pt", weights_only=True)
    weights = OrderedDict(weights)
    weights._metadata = OrderedDict({name: {"version": 1}})
    torch.save(weights, folder / "model.pt")
    write_model_card(folder, folder)


@pytest.mark.parametrize(
    ("plant", "file"),
    [
        (planted_in_card, "README.md"),
        (planted_in_description, r"(configs/\w+|models/model)\.json"),
        (planted_in_weights, r"models/model\.pt"),
    ],
)
@pytest.mark.parametrize("kind", ["subject", "path", "folder", "home", "user"])
def test_planted_names_are_refused(model, cohort, hub, at, monkeypatch, plant, file, kind):
    monkeypatch.setenv("HOME", "/home/jroe")
    monkeypatch.setenv("LOGNAME", "jroe")
    record = discover(cohort)[3]
    names = {
        "subject": record["subject"],
        "path": record["image"],
        "folder": str(cohort),
        "home": "/home/jroe",
        "user": "jroe",
    }
    plant(model, names[kind])
    with pytest.raises(ValueError, match=f"^{file} must hold no personal data, got the ") as refused:
        push_model("clinic/vae", model, **at)
    assert repr(names[kind]) in str(refused.value)
    assert "nothing was pushed" in str(refused.value)
    assert hub.received == []
    if kind == "user":
        push_model("clinic/vae", model, allow=["jroe"], **at)
        assert len(hub.commits["clinic/vae"]) == 2


def test_without_the_names_nothing_is_pushed(model, hub, at, tmp_path):
    split = (model / "split.json").read_text()
    (model / "split.json").unlink()
    with pytest.raises(ValueError, match=r"`training_output_dir` must hold the split\.json of the training"):
        push_model("clinic/vae", model, **at)
    other = json.loads(split)
    other["training"].pop()
    (model / "split.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match=r"split\.json is of another training run than .*model\.pt"):
        push_model("clinic/vae", model, training_output_dir=model, **at)
    assert hub.received == []
    (model / "split.json").unlink()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "split.json").write_text(split)
    push_model("clinic/vae", model, training_output_dir=tmp_path / "results", **at)


def test_a_name_that_the_card_cuts_is_found(model, hub, at):
    long = "Anna Maria Luise von und zu " + "Hohenstein " * 5
    (model / "earlier_subjects.json").write_text(json.dumps([[{"image": "/old/x.nii.gz", "subject": long}]]))
    planted_in_card(model, markdown_text(long))
    with pytest.raises(
        ValueError, match=r"README\.md must hold no personal data, got the name of a subject 'Anna Maria"
    ):
        push_model("clinic/vae", model, **at)
    assert hub.received == []


def test_an_earlier_trainings_subjects_are_searched_too(model, hub, at):
    earlier = [[{"image": "/old/mara_voss.nii.gz", "subject": "mara_voss"}], None]
    (model / "earlier_subjects.json").write_text(json.dumps(earlier))
    planted_in_card(model, "mara_voss")
    with pytest.raises(
        ValueError, match=r"README\.md must hold no personal data, got the name of a subject 'mara_voss'"
    ):
        push_model("clinic/vae", model, **at)


# ---- nothing tampered is kept ----------------------------------------------------------------------------------------


def assert_refused(tmp_path, message, **options):
    with pytest.raises(ValueError, match=message):
        pull_model("clinic/vae", tmp_path / "vae", **options)
    assert [path.name for path in tmp_path.iterdir() if "vae" in path.name] == []


@pytest.mark.parametrize("name", ["models/model.pt", "models/model.json", "README.md", "configs/train.json", "LICENSE"])
def test_a_tampered_file_is_refused_by_name(trained, hub, at, tmp_path, name):
    push_model("clinic/vae", trained, **at)
    content = bytearray(hub.files("clinic/vae")[name])
    content[len(content) // 2] ^= 1
    hub.change("clinic/vae", name, bytes(content))
    assert_refused(
        tmp_path, f"^{re.escape(name)} of clinic/vae at [0-9a-f]+ must have SHA-256 .*nothing was kept", **at
    )


def test_missing_and_additional_files_are_refused_by_name(trained, hub, at, tmp_path):
    push_model("clinic/vae", trained, **at)
    whole = hub.files("clinic/vae")
    for name in ("models/model.pt", "digests.json", "README.md", "configs/evaluate.json"):
        hub.commit("clinic/vae", {each: body for each, body in whole.items() if each != name})
        assert_refused(tmp_path, f"clinic/vae at .* lacks '{re.escape(name)}'", **at)
    for name in ("setup.py", "models/other.pt", "data.pkl", "latents.csv", "configs/../../evil.json"):
        hub.commit("clinic/vae", {**whole, name: b""})
        assert_refused(tmp_path, f"must hold a shared model and nothing else, got '{re.escape(name)}'", **at)
    hub.commit("clinic/vae", {**whole, "configs/more.json": b"{}"})
    assert_refused(tmp_path, r"but has besides 'configs/more\.json'", **at)
    hub.commit("clinic/vae", {**whole, "README.md": b" " * (2**24 + 1)})
    assert_refused(tmp_path, "README.md of clinic/vae at .* must have at most 16777216 bytes, got 16777217", **at)


def test_whoever_changes_the_digests_too_is_found_by_the_digest_of_the_digests(trained, hub, at, tmp_path):
    pushed = push_model("clinic/vae", trained, **at)
    files = hub.files("clinic/vae")
    digests = json.loads(files["digests.json"])
    files["README.md"] += b"Send your volumes to us.\n"
    digests["files"]["README.md"] = hashlib.sha256(files["README.md"]).hexdigest()
    hub.commit("clinic/vae", {**files, "digests.json": json.dumps(digests).encode()})
    assert_refused(tmp_path, r"^digests\.json of clinic/vae at .* must have SHA-256", digest=pushed.digest, **at)
    pull_model("clinic/vae", tmp_path / "by_revision", revision=pushed.revision, digest=pushed.digest, **at)


class Boom:
    """Unpickled, it writes a file."""

    def __reduce__(self):
        return builtins.open, (str(Boom.path), "w")


def forged(files, changes):
    """Return files with changes, and digests that fit them."""
    files = {**files, **changes}
    digests = {name: hashlib.sha256(body).hexdigest() for name, body in files.items()}
    del digests["digests.json"], digests[".gitattributes"]
    content = {"format": "monai_betavae.shared/1", "files": digests}
    return {**files, "digests.json": json.dumps(content).encode()}


def test_nothing_that_was_pulled_is_executed_or_becomes_a_config(trained, hub, at, tmp_path):
    pushed = push_model("clinic/vae", trained, **at)
    whole = hub.files("clinic/vae")
    Boom.path = tmp_path / "executed"
    evil = {"run": f"$open({str(Boom.path)!r}, 'w')", "network_def": {"_target_": "os.system", "command": "true"}}
    hub.commit("clinic/vae", forged(whole, {"configs/inference.json": json.dumps(evil).encode()}))
    pull_model("clinic/vae", tmp_path / "pulled", **at)
    pull_model("clinic/vae", tmp_path / "genuine", revision=pushed.revision, **at)
    for path in (tmp_path / "genuine").rglob("*"):
        same = tmp_path / "pulled" / path.relative_to(tmp_path / "genuine")
        assert path.is_dir() or path.read_bytes() == same.read_bytes()
    torch.save({"weights": Boom()}, tmp_path / "evil.pt")
    hub.commit("clinic/vae", forged(whole, {"models/model.pt": (tmp_path / "evil.pt").read_bytes()}))
    assert_refused(tmp_path, r"models/model\.pt .*doesn't fit|holds more than tensors", **at)
    description = json.loads(whole["models/model.json"])
    description["network"]["arguments"]["act"] = f"$open({str(Boom.path)!r}, 'w')"
    hub.commit("clinic/vae", forged(whole, {"models/model.json": json.dumps(description).encode()}))
    assert_refused(tmp_path, r"model\.json must hold values only", **at)
    assert not Boom.path.exists()


# ---- the way there ---------------------------------------------------------------------------------------------------


def test_what_the_hub_refuses_is_told_in_one_line(trained, hub, at, tmp_path):
    with pytest.raises(ValueError, match=r"^`repo_id` 'clinic/none' can't be pulled from: [^\n]*$"):
        pull_model("clinic/none", tmp_path / "vae", **at)
    pushed = push_model("clinic/vae", trained, **at)
    with pytest.raises(ValueError, match=r"^`repo_id` 'clinic/vae' can't be pulled from: [^\n]*$"):
        pull_model("clinic/vae", tmp_path / "vae", revision="0" * 40, **at)
    with pytest.raises(ValueError, match=r"^`repo_id` 'clinic/vae' can't be pushed to: [^\n]*$") as refused:
        push_model("clinic/vae", trained, endpoint=hub.endpoint, token="hf_stolen")
    assert "hf_stolen" not in str(refused.value)
    with pytest.raises(ValueError, match=r"^`repo_id` 'vae of mine' can't be pulled from: [^\n]*$"):
        pull_model("vae of mine", tmp_path / "vae", **at)
    assert len(hub.commits["clinic/vae"]) == 2
    assert pushed.revision == hub.at("clinic/vae", "main")[0]


def test_without_the_package_the_extra_is_named(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: push_model("clinic/vae", trained), lambda: pull_model("clinic/vae", tmp_path / "vae")):
        with pytest.raises(ValueError, match=r"needs the package huggingface_hub: pip install monai-betavae\[hub\]"):
            call()


def children(tmp_path, **plan):
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    done = subprocess.run([sys.executable, str(KILLED), str(tmp_path / "plan.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_killed_pull_leaves_no_half_folder(trained, hub, at, tmp_path):
    pushed = push_model("clinic/vae", trained, **at)
    target = tmp_path / "pulls" / "vae"
    target.parent.mkdir()
    found = children(
        tmp_path, what="pull", args=["clinic/vae", str(target)], options=at, module="os", holder=[], call="rename",
        looked_for=str(target),
    )  # fmt: skip
    # each file is moved into place, then the bundle is, then the folder
    assert len(found) > 3
    assert found == [[True, False]] * (len(found) - 1) + [[False, True]]
    assert [path.name for path in target.parent.iterdir()] == ["vae"], "the last one has removed what the others left"
    pull_model("clinic/vae", tmp_path / "whole", revision=pushed.revision, **at)
    for path in (tmp_path / "whole").rglob("*"):
        assert path.is_dir() or path.read_bytes() == (target / path.relative_to(tmp_path / "whole")).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("call", ["create_repo", "preupload_lfs_files", "create_commit"])
def test_a_killed_push_leaves_no_half_commit(trained, hub, at, tmp_path, call):
    found = children(
        tmp_path, what="push", args=["clinic/vae", str(trained)], options=at, module="huggingface_hub",
        holder=["HfApi"], call=call, looked_for=str(tmp_path / "nothing"),
    )  # fmt: skip
    assert found == [[True, False], [False, False]]
    # the killed one has added none of its files, the other one all of them
    assert [len(files) for _, files in hub.commits["clinic/vae"]] == [1, 16]
