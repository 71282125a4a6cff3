"""The documentation names what exists: files, modules, functions, options, pages."""

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import monai_betavae

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
PAGES = sorted(
    [
        *DOCS.rglob("*.md"),
        *ROOT.glob("*.md"),
        *ROOT.glob("benchmarks/results/*.md"),
        ROOT / "bundles/vae/docs/README.md",
        ROOT / "bundles/vae/models/README.md",
    ]
)
PAGE_NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

WRITTEN_BY_RUNS = re.compile(r"bundles/vae/(data|models|output|cache)\b")
CODE_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
REPOSITORY_PATH = re.compile(
    r"(?<![\w/~.<>-])((?:tests|monai_betavae|benchmarks|bundles|docs|tutorials|\.ci)/[\w./*-]*\w/?)"
)
DOTTED_NAME = re.compile(r"(?<![\w/.-])monai_betavae(?:\.[A-Za-z_]\w*)+")
OPTION = re.compile(r"(?<!\S)--([A-Za-z_][\w#]*)")
OF_OTHER_COMMANDS = {"requeue", "signal"}
"""Options named alone that are those of SLURM."""


def text_of(name):
    """A page's text; of the changelog's table of moved modules only the new paths."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"^ +\| `[^|]*\|", "", text, flags=re.MULTILINE) if name == "CHANGELOG.md" else text


def prose_of(name):
    return CODE_BLOCK.sub("", text_of(name))


def anchors_of(path):
    headings = re.findall(r"^#+ (.*)$", CODE_BLOCK.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(name):
    found = []
    for link in LINK.findall(prose_of(name)):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        path = (ROOT / name).parent / target if target else ROOT / name
        if not path.exists() or (anchor and anchor not in anchors_of(path)):
            found.append(link)
    return found


def missing_paths(name):
    named = {path.rstrip(".") for path in REPOSITORY_PATH.findall(text_of(name))}
    return sorted(path for path in named if not WRITTEN_BY_RUNS.match(path) and not any(ROOT.glob(path)))


def resolved(dotted):
    """The module, or attribute of one, that a dotted name means."""
    parts = dotted.split(".")
    for n_parts in range(len(parts), 0, -1):
        module = ".".join(parts[:n_parts])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not module.startswith(str(error.name)):
                raise
            continue
        for attribute in parts[n_parts:]:
            found = getattr(found, attribute)
        return found
    raise ModuleNotFoundError(dotted)


def unknown_names(name):
    unknown = []
    for dotted in sorted(set(DOTTED_NAME.findall(text_of(name)))):
        try:
            resolved(dotted)
        except (ModuleNotFoundError, AttributeError):
            unknown.append(dotted)
    return unknown


def bundle_config(path):
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def is_id(config, option):
    """Whether an option is an id of a config, or an argument of a component in it."""
    first, *rest = option.split("#")
    if first not in config:
        return False
    entry = config[first]
    for key in rest[:-1]:
        key = int(key) if isinstance(entry, list) else key
        if not (key in entry if isinstance(entry, dict) else isinstance(entry, list) and key < len(entry)):
            return False
        entry = entry[key]
    return not rest or isinstance(entry, dict | list)


def wrong_in_commands(name):
    """Run ids, configs and options in a page's commands that the bundle doesn't have."""
    wrong = []
    for language, block in CODE_BLOCK.findall(text_of(name)):
        commands = block.replace("\\\n", " ").splitlines() if language in ("sh", "bash") else []
        for command in commands:
            found = re.search(r"monai\.bundle run (\w+) .*?--config_file (\S+)", command)
            if found is None:
                continue
            files = [file for file in re.findall(r"[\w./]+\.json", found[2]) if file.startswith("bundles/")]
            wrong += [file for file in files if not (ROOT / file).is_file()]
            config = {
                key: value for file in files if (ROOT / file).is_file() for key, value in bundle_config(file).items()
            }
            if config:
                options = [found[1], *OPTION.findall(command[found.start() :])]
                wrong += [option for option in options if option != "config_file" and not is_id(config, option)]
    return wrong


def unknown_options(name):
    """Options that a page's prose names in code, and that no config of the bundle has."""
    configs = [bundle_config(path) for path in sorted(ROOT.glob("bundles/vae/*.json"))]
    spans = re.findall(r"`(--[^`]+)`", prose_of(name))
    options = {option for span in spans for option in OPTION.findall(span)} - OF_OTHER_COMMANDS
    return sorted(option for option in options if not any(is_id(config, option) for config in configs))


def nav_entries(nav):
    for entry in nav:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(value, list):
            yield from nav_entries(value)
        else:
            yield value


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_links_lead_to_files_and_headings(name):
    assert broken_links(name) == []


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_named_paths_exist(name):
    assert missing_paths(name) == []


@pytest.mark.parametrize("name", PAGE_NAMES)
def test_dotted_names_can_be_imported(name):
    assert unknown_names(name) == []


@pytest.mark.parametrize("name", [name for name in PAGE_NAMES if name.startswith("docs/")])
def test_commands_and_options_are_those_of_the_bundle(name):
    assert wrong_in_commands(name) == []
    if not name.startswith("docs/decisions/"):
        assert unknown_options(name) == []


def test_checks_find_what_is_wrong(tmp_path, monkeypatch):
    (tmp_path / "bundles").symlink_to(ROOT / "bundles")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# A heading, here\n")
    (tmp_path / "page.md").write_text(
        "[a](other.md#a-heading-here) [b](other.md#no-heading) [c](gone.md) `tests/test_gone.py` "
        "`monai_betavae.VAE.fit` `monai_betavae.data.gone` `--beta 4` `--betas 4` bundles/vae/output/scores.json\n"
        "```sh\npython -m monai.bundle run trainings --config_file bundles/vae/train.json \\\n"
        "  --train#trainer#devices 2 --train#trainr#devices 2 --latent_dims 8\n```\n"
    )
    assert broken_links("page.md") == ["other.md#no-heading", "gone.md"]
    assert missing_paths("page.md") == ["tests/test_gone.py"]
    assert unknown_names("page.md") == ["monai_betavae.data.gone"]
    assert unknown_options("page.md") == ["betas"]
    assert wrong_in_commands("page.md") == ["trainings", "train#trainr#devices", "latent_dims"]


def test_every_page_is_in_the_navigation():
    nav = list(nav_entries(SITE["nav"]))
    elsewhere = SITE["extra"]["repository_pages"]
    own = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    executed = {f"gallery/{script.stem}.md" for script in (ROOT / "tutorials").glob("*.py")}
    assert sorted(nav) == sorted(own | executed | set(elsewhere.values()))
    assert [source for source in elsewhere if not (ROOT / source).is_file()] == []


def test_public_names_are_in_the_reference():
    shown = [
        resolved(name)
        for page in (DOCS / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    shown += [getattr(module, name) for module in shown if isinstance(module, ModuleType) for name in module.__all__]
    public = {name: getattr(monai_betavae, name) for name in monai_betavae.__all__}
    assert [name for name, value in public.items() if not any(value is each for each in shown)] == []


def test_first_python_is_the_tested_one_of_the_readme():
    def python_blocks(name):
        return [block for language, block in CODE_BLOCK.findall(text_of(name)) if language == "python"]

    assert python_blocks("docs/getting_started.md") == python_blocks("README.md")


@pytest.mark.skipif(importlib.util.find_spec("mkdocstrings") is None, reason="needs the extra docs")
def test_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        # .ci/run builds it with the tutorials executed
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "TUTORIAL_SIZE": "none"},
    )
    assert done.returncode == 0, done.stderr
    loaded = re.compile(r'<(?:script|img|iframe|link|source)\b[^>]*?\b(?:src|href)="(?:https?:)?//[^"]*"')
    unread = re.compile(r":(?:class|func|meth|mod|data|math):`|\.\. math::|={6,}")
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert loaded.findall(text) == [], page
        if page.parent.name == "api":
            assert unread.findall(text) == [], page


def public_names():
    """Yield each public class and function of the package, by the shortest name that it can be imported by."""
    seen = set()
    for package in ("", "data", "networks", "training", "evaluation", "plots", "workflows", "transformer"):
        module = importlib.import_module(f"monai_betavae.{package}" if package else "monai_betavae")
        names = getattr(module, "__all__", None) or ["VAETransformer"]
        for name in names:
            value = getattr(module, name)
            if callable(value) and id(value) not in seen:
                seen.add(id(value))
                yield f"{module.__name__}.{name}", value


def test_every_public_name_has_an_example():
    found = dict(public_names())
    assert len(found) > 100
    # doctests are collected from the same docstrings, so an example that is there runs
    assert [name for name, value in found.items() if ">>>" not in (value.__doc__ or "")] == []
