"""What the gallery's pages are made of; test_tutorials.py executes the tutorials themselves."""

from pathlib import Path

import pytest
import yaml
from gallery_hook import gallery, needs_jupyter

ROOT = Path(__file__).parents[1]


def notebook(*cells, **run):
    return {"cells": list(cells), "metadata": {"gallery": run} if run else {}}


def picture_cell(source, n_pictures=1):
    shown = {"output_type": "display_data", "data": {"image/png": ""}}
    return {"cell_type": "code", "source": source, "outputs": [shown] * n_pictures}


def test_every_tutorial_is_in_the_navigation_and_in_the_table():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    scripts = {path.stem for path in (ROOT / "tutorials").glob("*.py")}
    names = gallery.tutorials(nav)
    assert sorted(names) == sorted(scripts)
    page = (ROOT / "docs" / "gallery" / "index.md").read_text(encoding="utf-8")
    assert sorted(names, key=lambda name: page.index(f"(../../tutorials/{name}.py)")) == names
    assert gallery.CARDS in page


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("\x1b[31mred\x1b[0m line\n", "red line\n"),
        ("0%\r50%\r100%\nEpoch 1\n", "100%\nEpoch 1\n"),
        ("a line of Windows\r\nthe next\r\n", "a line of Windows\nthe next\n"),
        ("In /tmp/abc/tmp12x_/run and /tmp/abc/tmp12x_\n", "In my_folder/run and my_folder\n"),
        ("  indented  \n", "  indented\n"),
        ("one\n\n \n\ntwo\n", "one\n\ntwo\n"),
        ("2026-11-29 02:11:49,197 - INFO - > run_id: 'training'\nData: 2 volumes\n", "Data: 2 volumes\n"),
    ],
)
def test_what_is_printed_is_cleaned(printed, shown):
    assert gallery.cleaned(printed, {r"/tmp/abc/tmp\w+": "my_folder"}) == shown


def test_pictures_are_named_by_the_file_that_their_cell_shows():
    cells = [
        {"cell_type": "markdown", "source": "# Title"},
        picture_cell('save(folder / "first.png")\nImage.open(folder / "loss_curves.png")'),
        picture_cell("figure", n_pictures=2),
        {"cell_type": "code", "source": 'Image.open("not shown.png")', "outputs": []},
    ]
    assert gallery.picture_labels(notebook(*cells)) == ["loss curves", "picture", "picture"]


def test_a_page_says_how_it_was_executed():
    assert "Not executed" in gallery.stamp(notebook())
    run = {"seconds": 125.4, "cores": 2, "version": "0.1.0"}
    assert gallery.stamp(notebook(size="full", **run)) == "Executed in 2 min 5 s on 2 CPU cores, with version 0.1.0."
    assert "numbers mean nothing" in gallery.stamp(notebook(size="small", **run))


def test_an_unknown_size_is_refused(monkeypatch):
    monkeypatch.setenv("TUTORIAL_SIZE", "tiny")
    with pytest.raises(ValueError, match="TUTORIAL_SIZE='tiny': must be one of full, small, none"):
        gallery.on_startup("build")


@pytest.fixture
def small_gallery(tmp_path, monkeypatch):
    """A checkout of one tutorial."""
    (tmp_path / "tutorials").mkdir()
    (tmp_path / "monai_betavae").mkdir()
    script = "\n".join(
        [
            "# %% [markdown]",
            "# # A title",
            "# Its text.",
            "",
            "# %%",
            "import os, subprocess, sys, tempfile",
            "from PIL import Image",
            "folder = tempfile.mkdtemp()",
            'print(os.environ["TUTORIAL_SIZE"], "in", folder)',
            'subprocess.run([sys.executable, "-c", "print(1 + 1)"], check=True)',
            "",
            "# %%",
            'Image.new("RGB", (8, 8)).save(folder + "/black.png")',
            'Image.open(folder + "/black.png")',
        ]
    )
    (tmp_path / "tutorials" / "one.py").write_text(script, encoding="utf-8")
    monkeypatch.setattr(gallery, "ROOT", tmp_path)
    monkeypatch.setattr(gallery, "EXECUTED", tmp_path / ".gallery")
    return tmp_path


@needs_jupyter
def test_a_tutorial_becomes_a_page(small_gallery):
    import nbformat

    folder = gallery.execute("one", "small", small_gallery / ".gallery" / "one.ipynb", small_gallery)
    assert (folder / "black.png").is_file()
    executed = nbformat.read(small_gallery / ".gallery" / "one.ipynb", 4)
    page, pictures = gallery.page_of("one", executed)
    assert page.startswith("# A title\n\n*Executed in its small size")
    assert "    2\n" in page  # what a command prints, too
    assert "small in my_folder\n" in page
    assert "CompletedProcess" not in page
    assert [content[:4] for content in pictures.values()] == [b"\x89PNG"]
    assert f"![black](one_files/{next(iter(pictures))})" in page
    assert str(small_gallery) not in page
    card = gallery.card("one", executed)
    assert 'href="one.html"' in card
    assert "A title" in card


@needs_jupyter
def test_a_tutorial_is_executed_again_once_something_changes(small_gallery):
    before = gallery._digest("one", "small")
    assert before != gallery._digest("one", "full")
    (small_gallery / "monai_betavae" / "new.py").write_text("")
    changed = gallery._digest("one", "small")
    assert changed != before
    with (small_gallery / "tutorials" / "one.py").open("a") as file:
        file.write("\nprint(3)\n")
    assert gallery._digest("one", "small") not in (before, changed)


@needs_jupyter
def test_an_error_in_a_cell_stops_the_build(small_gallery):
    (small_gallery / "tutorials" / "one.py").write_text("# %%\n1 / 0\n")
    from nbclient.exceptions import CellExecutionError

    with pytest.raises(CellExecutionError, match="division by zero"):
        gallery.execute("one", "small", small_gallery / ".gallery" / "one.ipynb")
    assert not (small_gallery / ".gallery").exists()


def test_a_page_shows_what_is_printed_and_drawn():
    def printed(name, text):
        return {"output_type": "stream", "name": name, "text": text}

    picture = {"output_type": "execute_result", "data": {"image/png": "p", "image/jpeg": "j", "text/plain": "<Image>"}}
    value = {"output_type": "execute_result", "data": {"text/plain": "CompletedProcess(args=[])"}}
    outputs = [printed("stdout", "in /tm"), printed("stderr", "10%\r"), printed("stdout", "p/x\n"), value, picture]
    assert gallery.shown_outputs(outputs, {"/tmp/x": "my_folder"}) == [
        printed("stdout", "in my_folder\n"),
        {"output_type": "execute_result", "data": {"image/png": "p"}},
    ]
