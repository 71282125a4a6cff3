"""Names and paths that somebody else chose: outputs stay in their folder, pages and pictures show text."""

import csv
import hashlib
import html.parser
import json
import os
import re

import nibabel as nib
import numpy as np
import pytest
import torch
from described_models import NORMAL
from monai.data import DataLoader, Dataset
from monai.inferers import SimpleInferer

from monai_betavae._texts import DEVICES
from monai_betavae.data import RestoreVolumed, brain_transforms, discover
from monai_betavae.data.volumes.volume_files import read_header
from monai_betavae.networks.builders import build_network
from monai_betavae.plots import (
    plot_latents,
    plot_maps,
    plot_precision_recall,
    plot_predictions,
    plot_reconstructions,
    plot_traversals,
    plot_volumes,
    save_figure,
    traversal_gif,
)
from monai_betavae.workflows import ModelEvaluation, PriorSampling, VolumeInference
from monai_betavae.workflows.model_evaluation.report import Report
from monai_betavae.workflows.model_evaluation.subjects import add_truth, on_grid
from monai_betavae.workflows.volume_inference import InferenceRecords, OutputNames

SHAPE = (10, 12, 10)

SUBJECTS = [
    "../../evil",
    "/etc/evil",
    "a/b",
    "..",
    ".",
    "C:\\evil",
    "\\\\server\\share",
    "NUL",
    "CON.x",
    "~",
    "~root",
    "$HOME",
    "%s%n",
    "a" * 300,
    "é" * 200,
    "new\nline",
    "tab\tcell",
    "nul\x00byte",
    "\u202egpj.exe",
    "\u200fright to left",
    "=1+1",
    "-rf",
    "trailing dot.",
    "trailing space ",
    "<script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>",
    "\"' onmouseover='alert(1)",
    "$\\frac{$",
    "_hidden",
    "x" * 5000,
    "日本語",
    "half \ud800 a character",
]
"""What a datalist may call somebody; JSON holds all of these."""

FILES = [
    "C:\\evil",
    "NUL",
    "CON.x",
    "aux",
    "COM1.2.840",
    "~",
    "$HOME",
    "%s",
    "..evil",
    "a" * 248,
    "é" * 124,
    "new\nline",
    "\u202egpj.exe",
    "=1+1",
    "-rf",
    "trailing dot.",
    "trailing space ",
    "<script>",
    "a;b&c|d",
    "*?",
    "$\\frac{$",
    "x",
]
"""What a file may be called here, with ``.nii.gz`` after it."""


def volume(seed=0):
    values = np.zeros(SHAPE, np.float32)
    values[2:-2, 2:-2, 2:-2] = np.random.default_rng(seed).uniform(0.2, 1, tuple(side - 4 for side in SHAPE))
    return nib.Nifti1Image(values, np.diag([2.0, 2.0, 2.0, 1.0]))


def tree(folder, but):
    """Return everything below a folder but for what is in another: links by their target, files by their bytes."""
    found = {}
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if os.path.join(where, name) != str(but)]
        for name in [*folders, *files]:
            path = os.path.join(where, name)
            if os.path.islink(path):
                found[path] = "link to " + os.readlink(path)
            elif os.path.isdir(path):
                found[path] = "folder"
            else:
                with open(path, "rb") as file:
                    found[path] = hashlib.sha256(file.read()).hexdigest()
    return found


def infer(records, output_dir):
    network = build_network(SHAPE, 2, channels=(4, 8), random_state=0)
    loader = DataLoader(Dataset(list(records), brain_transforms(SHAPE, 2.0)), batch_size=4)
    VolumeInference(network, loader, SimpleInferer(), RestoreVolumed(), output_dir).run()
    return sorted(path.name for path in (output_dir / "reconstructions").iterdir())


def check_names(names):
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert len(name.encode()) <= 220
        assert not re.search(r'[\x00-\x1f<>:"/\\|?*]', name)
        assert not set(name) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
        assert name.partition(".")[0].strip().upper() not in DEVICES
        assert name.endswith("_reconstruction.nii.gz")


def test_output_names_are_ones_that_every_system_takes():
    for paths in (["/a/T1.nii.gz"], [f"/data/{name}.nii.gz" for name in (*FILES, *SUBJECTS)]):
        names = OutputNames()
        found = [names.unique(path, subject) for path in paths for subject in (*SUBJECTS, *SUBJECTS, *sorted(DEVICES))]
        check_names(found)
    assert OutputNames().unique("/data/sub-01 (new)_T1w.nii.gz", "sub-01") == "sub-01 (new)_T1w_reconstruction.nii.gz"


def test_nothing_is_written_outside_the_folder_whatever_subjects_and_files_are_called(tmp_path):
    data, output = tmp_path / "data", tmp_path / "a" / "b" / "output"
    data.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for seed, name in enumerate(FILES):
        nib.save(volume(seed), data / "plain.nii.gz")
        os.rename(data / "plain.nii.gz", data / f"{name}.nii.gz")
    # an entry of its own for each subject, through a link as in a dataset of DataLad
    (tmp_path / "store").mkdir()
    for number in range(len(SUBJECTS)):
        (data / f"link-{number}").mkdir()
        nib.save(volume(number), tmp_path / "store" / f"{number}.nii.gz")
        (data / f"link-{number}" / "T1.nii.gz").symlink_to(tmp_path / "store" / f"{number}.nii.gz")
    entries = [{"image": f"{name}.nii.gz", "subject": "../evil"} for name in FILES]
    entries += [{"image": f"link-{i}/T1.nii.gz", "subject": subject} for i, subject in enumerate(SUBJECTS)]
    (data / "dataset.json").write_text(json.dumps({"training": entries}))
    # what stands in the way: links out of the folder, where results are going to be
    (output / "reconstructions").mkdir(parents=True)
    for link in ("latents.csv", "reconstructions/x_reconstruction.nii.gz", "reconstructions/T1_reconstruction.nii.gz"):
        (output / link).symlink_to(victim)
    before = tree(tmp_path, output)
    names = infer(InferenceRecords(str(data / "dataset.json"), tmp_path), output)
    assert tree(tmp_path, output) == before
    assert victim.read_text() == "mine"
    assert len(names) == len(FILES) + len(SUBJECTS)
    check_names(names)
    written = [path for path in output.rglob("*") if not path.is_dir()]
    assert not any(path.is_symlink() for path in written)
    assert len(written) == len(names) + 1
    with open(output / "latents.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(names)
    for row in rows:
        assert not row["subject"].lstrip().startswith(("=", "+", "-", "@"))


def test_samples_replace_links_and_do_not_follow_them(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    samples = tmp_path / "output" / "samples"
    samples.mkdir(parents=True)
    for name in ("sample_000.nii.gz", "sample_001.nii.gz", "sample_007.nii.gz", "codes.csv", "contact_sheet.png"):
        (samples / name).symlink_to(victim)
    before = tree(tmp_path, tmp_path / "output")
    network = build_network(SHAPE, 2, channels=(4, 8), random_state=0)
    PriorSampling(network, 2, np.diag([2.0, 2.0, 2.0, 1.0]), tmp_path / "output").run()
    assert tree(tmp_path, tmp_path / "output") == before
    found = sorted(path.name for path in samples.iterdir())
    assert found == ["codes.csv", "contact_sheet.png", "sample_000.nii.gz", "sample_001.nii.gz"]
    assert not any(path.is_symlink() for path in samples.iterdir())


def test_a_bids_dataset_of_links_is_read_by_the_names_of_the_links(tmp_path):
    annex = tmp_path / ".git" / "annex" / "objects"
    annex.mkdir(parents=True)
    for number in (1, 2):
        anat = tmp_path / f"sub-{number}" / "anat"
        anat.mkdir(parents=True)
        nib.save(volume(number), annex / f"MD5E-{number}.nii.gz")
        (anat / f"sub-{number}_T1w.nii.gz").symlink_to(f"../../.git/annex/objects/MD5E-{number}.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\n../../sub-1\t30\nsub-2\t40\n")
    with pytest.warns(UserWarning, match=r"1 of 2 subjects with volumes have no row \(sub-1\)"):
        records = discover(tmp_path)
    assert [record["age"] for record in records] == [None, 40]
    names = infer(records, tmp_path / "output")
    assert names == ["sub-1_T1w_reconstruction.nii.gz", "sub-2_T1w_reconstruction.nii.gz"]


@pytest.mark.parametrize(
    "image", ["a\x00b.nii.gz", "x" * 5000 + ".nii.gz", "../" * 3000 + "x.nii.gz", "~nobody/x.nii.gz", "\n"]
)
def test_paths_that_no_file_can_have_are_named(tmp_path, image):
    (tmp_path / "list.json").write_text(json.dumps({"training": [{"image": image}]}))
    with pytest.raises(ValueError, match=r"training\[0\]"):
        discover(tmp_path / "list.json")
    split = {"training": [], "validation": [], "test": [{"image": image}]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    with pytest.raises(ValueError, match=r"split\.json can't be used \(1 files are gone"):
        len(InferenceRecords(None, tmp_path))


def test_a_file_without_an_end_is_no_volume(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii.gz")
    for path in ("/dev/zero", tmp_path / "pipe.nii.gz"):
        with pytest.raises(ValueError, match="is an empty file"):
            read_header(path)


def test_a_subject_names_no_mask_elsewhere(tmp_path):
    mask = tmp_path / "evil" / "anat" / "evil_label-lesion_mask.nii.gz"
    mask.parent.mkdir(parents=True)
    nib.save(volume(), mask)
    image = str(tmp_path / "cohort" / "sub-1" / "anat" / "sub-1_T1w.nii.gz")
    (tmp_path / "cohort" / "derivatives" / "lesions").mkdir(parents=True)
    for subject in ("../../../evil", str(tmp_path / "evil"), "a" * 300, "nul\x00", *SUBJECTS):
        record = {"image": image, "subject": subject}
        assert add_truth(record) == record


def test_a_mask_that_is_none_is_named(tmp_path):
    (tmp_path / "mask.nii.gz").write_bytes(b"evil")
    with pytest.raises(ValueError, match=r"mask\.nii\.gz can't be read"):
        on_grid(tmp_path / "mask.nii.gz", np.eye(4), SHAPE)


# ---- reports ----


class Tags(html.parser.HTMLParser):
    """The tags of a page with the names of their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, [name for name, _ in attrs]))

    def handle_data(self, data):
        self.text.append(data)


def page_of(names):
    """Return a page with names in each of its places."""
    figure = plot_volumes(np.ones((1, 4, 4, 4)), ["a"])
    report = Report(f"Of {names[0]}", f"for {names[1]}")
    for name in names:
        report.section(name)
        report.text(f"before {name} after")
        report.note(name, "plain")
        report.note(name)
        report.table([name, "b"], [[name, 1.0], ["a", name]], name)
        report.facts({name: name})
    report.figure(figure, names[-1])
    report.figure(b"GIF89a", names[0])
    return report


def test_no_name_adds_a_tag_to_a_page_or_turns_its_text(tmp_path):
    names = [*SUBJECTS, "\ud800"]
    page_of(names).write(tmp_path / "report.html")
    page = Tags((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.found == Tags(page_of(["harmless"] * len(names)).page()).found
    text = "".join(page.text)
    assert "<script>alert(1)</script>" in text
    assert "\\u202egpj.exe" in text
    assert not set(text) & set("\u202e\u200f\x00\ud800")


# ---- pictures ----


VOLUMES = np.random.default_rng(0).uniform(size=(2, 10, 12, 8))
AWKWARD = ["\ud800", *(name for name in SUBJECTS if name != "日本語")]  # for which matplotlib's font has no signs


def drawings(name):
    """Return every picture that takes names, drawn with one."""
    curve = (np.array([1.0, 0.5]), np.array([0.5, 1.0]))
    numbers = np.arange(4.0)
    return {
        "reconstructions": plot_reconstructions(VOLUMES, VOLUMES, [f"{name}\nSSE 1", "b"]),
        "traversals": plot_traversals(VOLUMES[None], [-1.0, 1.0], [name]),
        "volumes": plot_volumes(VOLUMES, [name, "b"]),
        "latents": plot_latents(np.eye(4), {name: [name, "b", name, "b"], "age": numbers}),
        "predictions": plot_predictions(numbers, {name: numbers}, name, {name: f"R² {name}"}),
        "precision and recall": plot_precision_recall({name: curve}, 0.1, {name: f"{name}: 0.5"}),
        "maps": plot_maps(VOLUMES[:1], VOLUMES[:1], np.diag([4.0, 4.0, 4.0, 1.0]), [name]),
    }


@pytest.mark.parametrize("name", ["$\\frac{$", "$x$", "\\$", "<script>", "_hidden", "x" * 5000, "a\n" * 500])
def test_a_picture_shows_any_name_as_text_and_keeps_its_size(tmp_path, name):
    for what, figure in drawings(name).items():
        save_figure(figure, tmp_path / "a.png", dpi=40)
        width, height = figure.get_size_inches()
        with open(tmp_path / "a.png", "rb") as file:
            head = file.read(24)
        pixels = [int.from_bytes(head[start : start + 4], "big") for start in (16, 20)]
        assert pixels[0] < 40 * (width + 6), what
        assert pixels[1] < 40 * (height + 3), what
    assert traversal_gif(VOLUMES[None], [-1.0, 1.0], [name]).startswith(b"GIF89a")


def test_every_name_can_be_drawn(tmp_path):
    volumes = np.repeat(VOLUMES[:1, 3:7, 3:7, 3:7], len(AWKWARD), axis=0)
    save_figure(plot_volumes(volumes, AWKWARD, columns=7), tmp_path / "a.png", dpi=40)
    assert (tmp_path / "a.png").stat().st_size < 2**20


def test_a_category_that_begins_with_an_underscore_is_in_the_legend():
    legend = plot_latents(np.eye(4), {"site": ["_a", "_b", "_a", "$b$"]}).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [r"\$b\$", " _a", " _b"]


# ---- an evaluation, from files to the report ----


def cohort(folder, subjects, columns):
    """Write volumes, and the split of a run on them, whose names are given."""
    rng = np.random.default_rng(0)
    records = []
    for number, subject in enumerate(subjects):
        path = folder / f"{number}.nii.gz"
        nib.save(volume(number), path)
        age, group = float(rng.uniform(20, 80)), "ab"[number % 2]
        records.append(
            {"image": str(path), "subject": subject, columns[0]: age, columns[1]: f"{columns[1]} {group}", "age": age}
        )
    split = {"training": records[8:], "validation": [], "test": records[:8]}
    (folder / "split.json").write_text(json.dumps(split))
    return split


def evaluated(folder, subjects, columns):
    folder.mkdir()
    split = cohort(folder, subjects, columns)
    network = build_network(SHAPE, 2, channels=(4, 8), random_state=0)
    with torch.no_grad():  # zero in a fresh network
        network.fc_mu.weight.mul_(5)
    transform = brain_transforms(SHAPE, 2.0)
    loader = DataLoader(Dataset(split["test"], transform), batch_size=8)
    parts = ["reconstruction", "likelihood", "latents", "probes", "normative", "viewer"]
    before = tree(folder, folder / "output")
    ModelEvaluation(
        network, split["test"], loader, SimpleInferer(), transform, NORMAL, folder / "output", folder, n_samples=1,
        parts=parts,
    ).run()  # fmt: skip
    assert tree(folder, folder / "output") == before
    return folder / "output" / "evaluation"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(divide by zero|invalid value).*:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Glyph .* missing from:UserWarning")
def test_an_evaluation_of_hostile_names_is_that_of_harmless_ones_but_for_the_names(tmp_path):
    subjects = (SUBJECTS * 2)[:34]
    hostile = evaluated(tmp_path / "a", subjects, ["<script>alert(1)</script>\n$\\frac{$", "=cmd|' /C calc'!A0"])
    harmless = evaluated(tmp_path / "b", [f"sub-{i % len(SUBJECTS)}" for i in range(34)], ["score", "sex"])
    pages = [Tags((folder / "report.html").read_text(encoding="utf-8")) for folder in (hostile, harmless)]
    assert pages[0].found == pages[1].found
    assert sorted(path.name for path in hostile.iterdir()) == sorted(path.name for path in harmless.iterdir())
    for path in hostile.glob("*.csv"):
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert len(rows) == 9
        assert not [cell for row in rows for cell in row if cell.lstrip().startswith(("=", "+", "@"))]
