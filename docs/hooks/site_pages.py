"""Pages of the site that stand elsewhere in the repository, and links between all of them.

Links in the documentation are relative to the repository, so that they work where it is browsed. In the site, a link to
a page leads to that page, and a link to another file becomes the file's path.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]

TUTORIAL = re.compile(r"tutorials/(\w+)\.py")
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def on_files(files: Files, config: Any, **kwargs: Any) -> Files:
    """Add the pages that stand elsewhere."""
    for source, place in config.extra["repository_pages"].items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **kwargs: Any) -> str:
    """Turn links that are relative to the repository into links between pages."""
    elsewhere = config.extra["repository_pages"]
    place = page.file.src_uri
    source = next((path for path, other in elsewhere.items() if other == place), f"docs/{place}")
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    prose = range(0, len(parts), 2)
    # the table of contents shows what is below one title
    if sum(len(re.findall(r"^# ", parts[index], re.MULTILINE)) for index in prose) > 1:
        for index in prose:
            parts[index] = re.sub(r"^(#+ )", r"#\1", parts[index], flags=re.MULTILINE)
        parts[0] = f"# {page.title}\n\n{parts[0]}"
    for index in prose:
        parts[index] = _linked(parts[index], source, place, elsewhere)
    return "".join(parts)


def _linked(markdown: str, source: str, place: str, elsewhere: dict[str, str]) -> str:
    def replace(found: re.Match[str]) -> str:
        target, _, anchor = found["target"].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        page = elsewhere.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if page is None and (tutorial := TUTORIAL.fullmatch(path)):
            page = f"gallery/{tutorial[1]}.md"
        if page is not None:  # if there is no such page, mkdocs reports the link
            to = posixpath.relpath(page, posixpath.dirname(place) or ".")
            return f"{found['image']}[{found['text']}]({to}{'#' + anchor if anchor else ''})"
        if not (ROOT / path).exists():
            return found[0]
        return f"`{path}`" if found["text"].strip("`") == path else f"{found['text']} (`{path}`)"

    return LINK.sub(replace, markdown)
