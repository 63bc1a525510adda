"""The command ``init`` makes a project with a flow, its tests, its settings and its CI."""

from __future__ import annotations

import importlib.metadata
import json
import keyword
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import msgspec

from lokki.base.naming import flow_name
from lokki.cli.options import DONE, EPILOG, SETTINGS
from lokki.cli.text import from_here
from lokki.errors import LokkiError

_TEMPLATES = Path(__file__).parent.parent / "new_project"

_TAKEN = {"lokki", "lokki_pytest", "conftest", "pytest", "read_texts", "count_words", "most_frequent"}
"""Names that mean something else in a new project."""

_FILES: Mapping[str, str] = {
    "{module}.py": "flow.py.txt",
    "test_{module}.py": "test_flow.py.txt",
    "lokki.yml": "lokki.yml.txt",
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    ".gitignore": "gitignore.txt",
    ".github/workflows/test.yml": "workflow.yml.txt",
}
"""The files of a new project, each with its template."""


def init_command() -> click.Command:
    """Make the command that makes a project."""

    def init(folder: Path) -> int:
        name = folder.resolve().name
        module = project_module(name)
        new_project(folder, name, module)
        click.echo(f"a new project in {from_here(str(folder))}. Run it:")
        if folder.resolve() != Path.cwd():
            click.echo(f"  cd {folder}")
        click.echo(f"  uv run {module}.py run\n  uv run pytest")
        return DONE

    return click.Command(
        "init",
        params=[click.Argument(["folder"], metavar="FOLDER", type=click.Path(path_type=Path))],
        help="Make a project in a new or an empty folder, which is named as the flow, such as my-flow: a flow of three "
        "steps, its tests, lokki.yml and a workflow of GitHub. It runs as it is.",
        callback=init,
        epilog=EPILOG,
        context_settings=SETTINGS,
    )


def project_module(name: str) -> str:
    """Return the name of a project's module and of its flow.

    Raises LokkiError for a name that neither could have.

    >>> project_module("my-flow")
    'my_flow'
    """
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", module) or keyword.iskeyword(module) or len(module) > 60:
        raise LokkiError(f"{name!r} can name no flow: take small letters, digits and -, such as my-flow.")
    if module in sys.stdlib_module_names or module in _TAKEN:
        raise LokkiError(f"{module} is the name of something else there: choose another, such as {name}-flow.")
    flow_name(module)
    return module


class _Vcs(msgspec.Struct):
    vcs: str
    commit_id: str


class _Folder(msgspec.Struct):
    editable: bool = False


class _DirectUrl(msgspec.Struct):
    """Where a distribution came from that no index had.

    https://packaging.python.org/en/latest/specifications/direct-url-data-structure/
    """

    url: str
    vcs_info: _Vcs | None = None
    dir_info: _Folder | None = None


def uv_sources(direct_url: str | None) -> str:
    """Return the table that lets uv find the lokki which makes the project.

    Without it uv would take what the index has by that name.

    ``direct_url``: what the installer of that lokki noted, or None if it came from an index.

    >>> print(uv_sources('{"url": "file:///tmp/lokki-0.1.0-py3-none-any.whl", "archive_info": {}}').strip())
    # The lokki that made this project; elsewhere, such as in CI, name another place.
    [tool.uv.sources]
    lokki = { path = "/tmp/lokki-0.1.0-py3-none-any.whl" }
    """
    if direct_url is None:
        return ""
    origin = msgspec.json.decode(direct_url, type=_DirectUrl)
    if origin.vcs_info is not None:
        place = f"{origin.vcs_info.vcs} = {json.dumps(origin.url)}, rev = {json.dumps(origin.vcs_info.commit_id)}"
    elif origin.url.startswith("file:"):
        editable = ", editable = true" if origin.dir_info is not None and origin.dir_info.editable else ""
        place = f"path = {json.dumps(unquote(urlsplit(origin.url).path))}{editable}"
    else:
        place = f"url = {json.dumps(origin.url)}"
    comment = "# The lokki that made this project; elsewhere, such as in CI, name another place."
    return f"\n{comment}\n[tool.uv.sources]\nlokki = {{ {place} }}\n"


def new_project(folder: Path, name: str, module: str) -> None:
    """Write the files of a project.

    Raises LokkiError for a folder that is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LokkiError(f"{folder} is there already, and not an empty folder. Nothing was written.")
    words = {"IMPORTS": ", ".join(sorted((module, "count_words"))), "MODULE": module, "FLOW": module, "PROJECT": name}
    sources = uv_sources(importlib.metadata.distribution("lokki").read_text("direct_url.json"))
    try:
        for path, template in _FILES.items():
            file = folder / path.format(module=module)
            file.parent.mkdir(parents=True, exist_ok=True)
            text = (_TEMPLATES / template).read_text(encoding="utf-8")
            text = re.sub(r"\b(IMPORTS|MODULE|FLOW|PROJECT)\b", lambda word: words[word[0]], text)
            file.write_text(text + (sources if path == "pyproject.toml" else ""), encoding="utf-8")
    except OSError as error:
        raise LokkiError(f"{error.filename} cannot be written: {error.strerror}.") from None
