"""llms.txt: the pages of the documentation as a list with a sentence each (llmstxt.org), from the navigation."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

type Nav = list[dict[str, str | Nav]]


def llms_text(root: Path, written: Mapping[str, str]) -> str:
    """Return the text. ``written``: pages that are made now, by path below docs/."""
    project = tomllib.loads((root / "zensical.toml").read_text(encoding="utf-8"))["project"]
    parts = [f"# {project['site_name']}\n", f"> {project['site_description']}\n"]
    for section in project["nav"]:
        for title, pages in section.items():
            lines = [_line(root, name, path, written) for name, path in pages_of(pages)]
            parts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def pages_of(nav: str | Nav, title: str = "") -> Iterator[tuple[str, str]]:
    """Yield title and path of each page of a navigation."""
    if isinstance(nav, str):
        yield title, nav
        return
    for entry in nav:
        for name, below in entry.items():
            yield from pages_of(below, name)


def _line(root: Path, title: str, path: str, written: Mapping[str, str]) -> str:
    text = written.get(path) or (root / "docs" / path).read_text(encoding="utf-8")
    return f"- [{title}]({path}): {first_sentence(text)}"


def first_sentence(markdown: str) -> str:
    """Return the first sentence of a page's text, without links."""
    paragraphs = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL).split("\n\n")
    text = next(part for part in paragraphs if part.strip() and not part.lstrip().startswith(("#", "!", "|")))
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", " ".join(text.split()))
    return re.split(r"(?<=\.)\s", text)[0].rstrip(":.") + "."
