"""The command ``init`` makes a project with a flow, its tests, its settings and its CI."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import click

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


def new_project(folder: Path, name: str, module: str) -> None:
    """Write the files of a project.

    Raises LokkiError for a folder that is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LokkiError(f"{folder} is there already, and not an empty folder. Nothing was written.")
    words = {"IMPORTS": ", ".join(sorted((module, "count_words"))), "MODULE": module, "FLOW": module, "PROJECT": name}
    try:
        for path, template in _FILES.items():
            file = folder / path.format(module=module)
            file.parent.mkdir(parents=True, exist_ok=True)
            text = (_TEMPLATES / template).read_text(encoding="utf-8")
            file.write_text(
                re.sub(r"\b(IMPORTS|MODULE|FLOW|PROJECT)\b", lambda word: words[word[0]], text), encoding="utf-8"
            )
    except OSError as error:
        raise LokkiError(f"{error.filename} cannot be written: {error.strerror}.") from None
