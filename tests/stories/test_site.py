"""The documentation's site: whole, current, linked, and readable without the network."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import threading
import tomllib
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from llms_text import first_sentence, pages_of
from messages_page import FAMILIES, Message, anchor, family_of, messages
from support.browser import browser
from support.pages import blocks
from write_docs import outdated, written_pages

import lokki

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def headings(markdown: str) -> list[str]:
    return re.findall(r"^## (.+)$", markdown, re.MULTILINE)


def test_every_page_stands_in_the_navigation_once() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    assert sorted(path for _, path in pages_of(nav)) == PAGES


@pytest.mark.slow
def test_pages_made_from_the_code_are_current() -> None:
    assert outdated() == [], "uv run scripts/write_docs.py"


def test_every_public_name_has_its_place_in_the_reference() -> None:
    page = (DOCS / "reference/api.md").read_text()
    assert set(lokki.__all__) - set(re.findall(r"^### (\w+)$", page, re.MULTILINE)) == set()


@pytest.mark.slow
def test_every_message_of_an_error_belongs_to_a_section_on_what_to_do() -> None:
    found = messages(ROOT / "lokki")
    assert {family_of(message.module) for message in found} == set(FAMILIES)
    assert headings((DOCS / "troubleshooting.md").read_text()) == list(FAMILIES)
    assert len(found) > 400


def test_messages_are_found_however_they_are_made(tmp_path: Path) -> None:
    (tmp_path / "chain.py").write_text(
        "class FlowError(LokkiError): ...\n"
        "class OpenBlockError(FlowError): ...\n"
        "def refusal(step):\n    return f'{step} is no step' if step else 'there is no step'\n"
        "def draw(step):\n"
        "    problem = f'`{step}` is drawn ' + 'twice'\n"
        "    problems = []\n    problems.append('close the block')\n"
        "    if step:\n        raise FlowError(problem)\n"
        "    raise FlowError(refusal(step)) from OpenBlockError('\\n'.join(problems))\n"
        "def other():\n    raise ValueError('this is not of lokki')\n"
    )
    assert messages(tmp_path) == [
        Message("'…' is drawn twice", "FlowError", "chain.py"),
        Message("close the block", "OpenBlockError", "chain.py"),
        Message("there is no step", "FlowError", "chain.py"),
        Message("… is no step", "FlowError", "chain.py"),
    ]


def test_a_module_of_no_family_is_named() -> None:
    with pytest.raises(LookupError, match=r"lokki/news/here\.py belong to no family"):
        family_of("news/here.py")
    assert [family_of(module) for module in ("cli/main.py", "cli/parameters.py")] == [
        "The command line", "Parameters and values",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("markdown", "sentence"),
    [
        ("# A\n\n```sh\nls\n```\n\nA [flow](f.md) is\ndrawn. Once.\n", "A flow is drawn."),
        ("# A\n\nHere it is:\n\n* so\n", "Here it is."),
    ],
)
def test_the_first_sentence_of_a_page(markdown: str, sentence: str) -> None:
    assert first_sentence(markdown) == sentence


@pytest.mark.parametrize("page", PAGES)
def test_examples_in_python_parse_and_have_titles_that_the_site_can_show(page: str) -> None:
    text = (DOCS / page).read_text()
    assert re.findall(r'^```\w+ (?!title="[^"\n]+"$).*$', text, re.MULTILINE) == []
    if not page.startswith("reference/"):
        for block in blocks(text):
            if block.language == "python":
                ast.parse(block.text)


class Links(HTMLParser):
    """The links and anchors of a page, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif source := values.get("src") or (values.get("href") if tag == "link" else None):
            self.loaded.append(source)


@pytest.mark.slow
def test_the_site_is_built_strictly_and_every_link_leads_to_a_page_and_a_place(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    done = subprocess.run(["zensical", "build", "--strict"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    read = {path.resolve(): Links(path.read_text()) for path in site.rglob("*.html")}
    broken = []
    for path, page in read.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            inside = not parts.scheme and path.name != "404.html"
            if inside and not (target.exists() and (target not in read or parts.fragment in read[target].anchors)):
                broken.append(f"{path.name}: {link}")
        assert [source for source in page.loaded if urlsplit(source).netloc] == []
        assert "```" not in re.sub(r"<code>.*?</code>", "", path.read_text(), flags=re.DOTALL), path
    assert broken == []
    assert sorted(path.relative_to(site.resolve()).as_posix() for path in read if path.name != "404.html") == [
        page.removesuffix("md") + "html" for page in PAGES
    ]
    assert (site / "llms.txt").read_text() == written_pages()["llms.txt"]


@pytest.mark.slow
def test_the_site_is_shown_without_a_complaint_and_asks_nobody_else(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    subprocess.run(["zensical", "build"], cwd=tmp_path, check=True, capture_output=True)
    serving = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), serving) as server, browser() as shown:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, width, dark in (("index.html", 1300, False), ("reference/api.html", 400, True)):
            shown.show(width, dark=dark)
            shown.driver.get(f"http://127.0.0.1:{server.server_port}/{name}")
            assert shown.complaints() == []
            assert {urlsplit(request).hostname for request in shown.requests()} <= {"127.0.0.1", None}
            assert shown.ask("return document.documentElement.scrollWidth <= window.innerWidth")
        server.shutdown()


def test_anchors_are_those_of_the_site() -> None:
    assert anchor("A run on this machine") == "a-run-on-this-machine"
