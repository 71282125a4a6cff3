"""The gallery: each tutorial is executed as a notebook, and becomes a page with what it prints and draws.

Jupytext reads the script, nbclient executes it, nbconvert makes Markdown of the result. ``TUTORIAL_SIZE`` chooses the
size: ``full`` (what ``mkdocs build`` does), ``small`` (continuous integration: shows that the code runs), or ``none``
(what ``mkdocs serve`` does: pages without outputs, unless there are some already). What was executed is kept in
``.gallery/``, under a digest of the tutorial and of the package, and is used until one of them changes. One tutorial
alone, for its wall time::

    python docs/hooks/gallery.py first_latents full .gallery/first_latents.ipynb
"""

from __future__ import annotations

import base64
import concurrent.futures
import hashlib
import html
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EXECUTED = ROOT / ".gallery"
PAGES = "gallery/"
"""Where the pages stand in the site."""
CARDS = "<!-- cards -->"
"""What the cards replace in the gallery's first page."""
SIZES = ("full", "small", "none")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LOGGED = re.compile(r"^\d{4}-\d\d-\d\d [\d:,]+ - [A-Z]+ - .*\n", re.MULTILINE)
"""What the bundle runner logs of its settings."""
PICTURE = re.compile(r'"([\w./]+)\.(?:png|gif)"')

log = logging.getLogger("mkdocs.hooks.gallery")
_size = "full"


def on_startup(command: str, **kwargs: Any) -> None:
    """Choose the size: while pages are edited, nothing is executed."""
    global _size
    _size = os.environ.get("TUTORIAL_SIZE", "none" if command == "serve" else "full")
    if _size not in SIZES:
        raise ValueError(f"TUTORIAL_SIZE={_size!r}: must be one of {', '.join(SIZES)}")


def on_files(files: Any, config: Any, **kwargs: Any) -> Any:
    """Add a page per tutorial, its pictures, the script and the notebook."""
    from mkdocs.exceptions import PluginError
    from mkdocs.structure.files import File

    names = tutorials(config.nav)
    try:
        notebooks = dict(zip(names, _executed(names, _size), strict=True))
    except subprocess.CalledProcessError as error:
        raise PluginError(f"{' '.join(error.cmd[1:3])} failed:\n{error.stderr}") from error
    for name, notebook in notebooks.items():
        body, pictures = page_of(name, notebook)
        contents = {
            f"{name}.md": body,
            f"{name}.py": (ROOT / "tutorials" / f"{name}.py").read_text(encoding="utf-8"),
            f"{name}.ipynb": json.dumps(notebook, indent=1),
            **{f"{name}_files/{file}": content for file, content in pictures.items()},
        }
        for file, content in contents.items():
            files.append(File.generated(config, PAGES + file, content=content))
    config.extra["gallery_cards"] = "\n".join(card(name, notebook) for name, notebook in notebooks.items())
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **kwargs: Any) -> str:
    """Put the cards into the gallery's first page."""
    if page.file.src_uri != f"{PAGES}index.md":
        return markdown
    return markdown.replace(CARDS, f'<div class="gallery">\n{config.extra["gallery_cards"]}\n</div>')


def tutorials(nav: Any) -> list[str]:
    """Return the tutorials' names in the order of the navigation."""
    if isinstance(nav, str):
        name = nav.removeprefix(PAGES).removesuffix(".md")
        return [name] if nav.startswith(PAGES) and name != "index" else []
    entries = nav.values() if isinstance(nav, dict) else nav
    return [name for entry in entries for name in tutorials(entry)]


def page_of(name: str, notebook: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    """Return a page's Markdown, and the content of its pictures by name."""
    import nbformat
    from nbconvert import MarkdownExporter

    resources = {"output_files_dir": f"{name}_files", "unique_key": name}
    body, resources = MarkdownExporter().from_notebook_node(nbformat.from_dict(notebook), resources)
    labels = iter(picture_labels(notebook))
    body = re.sub(r"!\[(?:png|jpeg|svg)\]\(", lambda _: f"![{next(labels)}](", body)
    title, _, rest = body.lstrip().partition("\n")
    links = f"[script]({name}.py), [notebook]({name}.ipynb)"
    return f"{title}\n\n*{stamp(notebook)}* Download: {links}.\n{rest}", {
        Path(path).name: content for path, content in resources["outputs"].items()
    }


def stamp(notebook: dict[str, Any]) -> str:
    """Return one line about when and how a notebook was executed."""
    run = notebook["metadata"].get("gallery", {})
    if "seconds" not in run:
        return "Not executed: the outputs are in the published site."
    minutes, seconds = divmod(round(run["seconds"]), 60)
    where = f"{minutes} min {seconds} s on {run['cores']} CPU cores"
    if run["size"] == "small":
        return f"Executed in its small size ({where}): the code runs, its numbers mean nothing."
    return f"Executed in {where}, with version {run['version']}."


def picture_labels(notebook: dict[str, Any]) -> list[str]:
    """Return a text for each picture of a notebook: the name of the file that its cell shows."""
    labels = []
    for cell in notebook["cells"]:
        shown = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
        named = PICTURE.findall("".join(cell["source"]))
        labels += [Path(named[-1]).name.replace("_", " ") if named else "picture"] * len(shown)
    return labels


def card(name: str, notebook: dict[str, Any]) -> str:
    """Return the HTML of a card: a picture, the title and the wall time."""
    title = re.match(r"#\s*(.+)", "".join(notebook["cells"][0]["source"]))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    run = notebook["metadata"].get("gallery", {})
    took = f"{run['seconds'] / 60:.1f} min" if run.get("size") == "full" else ""
    image = f'<img alt="" src="data:image/png;base64,{_thumbnail(pictures[0])}">' if pictures else ""
    label = html.escape(title[1] if title else name)
    return f'<a href="{name}.html">{image}<strong>{label}</strong> <span>{took}</span></a>'


def _thumbnail(encoded: str | list[str], width: int = 360) -> str:
    from io import BytesIO

    from PIL import Image

    picture = Image.open(BytesIO(base64.b64decode("".join(encoded)))).convert("RGB")
    picture.thumbnail((width, width))
    content = BytesIO()
    picture.save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


def cleaned(text: str, places: dict[str, str]) -> str:
    """Return what a cell printed as a page shows it.

    Args:
        text: what was printed.
        places: paths of this machine, and what stands for each.
    """
    text = LOGGED.sub("", ESCAPES.sub("", text))
    # of a progress bar, the state that a terminal would show last
    text = "\n".join(line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n"))
    for path, place in places.items():
        text = re.sub(path, place, text)
    return re.sub(r"\n{3,}", "\n\n", text)


def shown_outputs(outputs: list[Any], places: dict[str, str]) -> list[Any]:
    """Return what a page shows of a cell's outputs: what it printed and the picture that it ends with.

    Left out are errors and progress bars (stderr), other values that a cell ends with, and a picture's second format.

    Args:
        outputs: of the notebook.
        places: as in :func:`cleaned`.
    """
    shown: list[Any] = []
    for output in outputs:
        if output["output_type"] == "stream" and output["name"] == "stdout":
            if shown and shown[-1]["output_type"] == "stream":  # one text: a path may lie across two pieces
                shown[-1]["text"] += output["text"]
            else:
                shown.append(output)
        elif "image/png" in output.get("data", {}):
            output["data"] = {"image/png": output["data"]["image/png"]}
            shown.append(output)
    for output in shown:
        if output["output_type"] == "stream":
            output["text"] = cleaned(output["text"], places)
    return shown


def kept_at(name: str, size: str) -> Path:
    """Return where a notebook is kept that was executed with the code as it is now."""
    return EXECUTED / f"{name}-{size}-{_digest(name, size)}.ipynb"


def _executed(names: list[str], size: str) -> list[dict[str, Any]]:
    import jupytext
    import nbformat

    paths = {name: kept_at(name, size) for name in names}
    missing = [name for name in names if size != "none" and not paths[name].is_file()]
    # full sizes run one by one, since their wall times are shown
    with concurrent.futures.ThreadPoolExecutor((os.cpu_count() or 1) if size == "small" else 1) as pool:
        runs = [pool.submit(_execute_apart, name, size, paths[name]) for name in missing]
        for name, run in zip(missing, runs, strict=True):
            log.info("tutorials/%s.py: %.0f s", name, run.result())
    notebooks = []
    for name, path in paths.items():
        if size == "none":
            path = max(EXECUTED.glob(f"{name}-full-*.ipynb"), key=lambda found: found.stat().st_mtime, default=path)
        script = ROOT / "tutorials" / f"{name}.py"
        notebooks.append(nbformat.read(path, 4) if path.is_file() else jupytext.read(script))
    return notebooks


def _digest(name: str, size: str) -> str:
    parts = [size, os.environ.get("TUTORIAL_DATA", "")]
    sources = [ROOT / "tutorials" / f"{name}.py", *sorted((ROOT / "monai_betavae").rglob("*.py"))]
    sources += sorted((ROOT / "bundles" / "vae").glob("*.json"))
    digest = hashlib.sha256("\n".join(parts).encode())
    for source in sources:
        content = source.read_bytes()
        digest.update(f"\n{source.relative_to(ROOT).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _execute_apart(name: str, size: str, to: Path) -> float:
    start = time.monotonic()
    # a process of its own: what a tutorial leaves in memory ends with it
    words = [sys.executable, str(Path(__file__).relative_to(ROOT)), name, size, str(to)]
    threads = {"OMP_NUM_THREADS": "1"} if size == "small" else {}
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True, env={**os.environ, **threads})
    return time.monotonic() - start


def execute(name: str, size: str, to: Path, parent: Path | None = None) -> Path:
    """Execute a tutorial, and write the notebook with its outputs.

    Args:
        name: of the tutorial.
        size: one of :data:`SIZES`.
        to: file of the notebook.
        parent: folder in which the tutorial makes its own; by default one that is removed afterwards.

    Returns:
        the tutorial's folder.
    """
    if parent is None:
        with tempfile.TemporaryDirectory() as removed:
            return execute(name, size, to, Path(removed))
    import jupytext
    import nbformat
    from nbclient import NotebookClient
    from traitlets.config import Config

    from monai_betavae import __version__

    notebook = jupytext.read(ROOT / "tutorials" / f"{name}.py")
    environment = {
        **os.environ,
        "TUTORIAL_SIZE": size,
        "TMPDIR": str(parent),  # where the tutorial makes its folder
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    environment.pop("PYTEST_CURRENT_TEST", None)  # kernels that see it don't show what commands print
    with tempfile.TemporaryDirectory() as sockets:
        client = NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            resources={"metadata": {"path": str(parent)}},
            startup_timeout=600,
            # files in place of open ports
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
        )
        start = time.monotonic()
        client.execute(env=environment)
        seconds = time.monotonic() - start
    (folder,) = (path for path in parent.iterdir() if re.fullmatch(r"tmp\w{8}", path.name) and path.is_dir())
    places = {rf"{re.escape(str(folder))}\b": "my_folder", re.escape(f"{ROOT}/"): ""}
    if os.environ.get("TUTORIAL_DATA"):
        data = Path(os.environ["TUTORIAL_DATA"])
        places[re.escape(f"{data.parent}/")] = "/data/"
    for cell in notebook.cells:
        if "outputs" in cell:
            cell["outputs"] = shown_outputs(cell["outputs"], places)
    notebook.metadata["gallery"] = {
        "seconds": seconds,
        "size": size,
        "cores": os.cpu_count(),
        "version": __version__,
    }
    to.parent.mkdir(exist_ok=True)
    temporary = to.with_suffix(".part")
    nbformat.write(notebook, temporary)
    temporary.replace(to)
    return folder


if __name__ == "__main__":
    execute(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
