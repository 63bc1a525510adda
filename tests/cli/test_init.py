"""A new project: what is written, what is refused, and that it runs and passes at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from support.command import Place

from lokki.cli.commands.init import project_module, uv_sources
from lokki.errors import FlowError, LokkiError

FILES = [
    ".github/workflows/test.yml", ".gitignore", "README.md", "lokki.yml", "my_flow.py", "pyproject.toml",
    "test_my_flow.py",
]  # fmt: skip


def test_a_new_project_runs_and_says_how(tmp_path: Path) -> None:
    place = Place(tmp_path)
    ran = place.run("lokki", "init", "my-flow")
    assert (ran.code, ran.out) == (
        0, "a new project in my-flow. Run it:\n  cd my-flow\n  uv run my_flow.py run\n  uv run pytest\n",
    )  # fmt: skip
    project = Place(tmp_path / "my-flow")
    written = sorted(path.relative_to(project.folder).as_posix() for path in project.folder.rglob("*"))
    assert [path for path in written if (project.folder / path).is_file()] == sorted(FILES)
    assert not [
        path for path in FILES if any(word in (project.folder / path).read_text() for word in ("MODULE", "FLOW"))
    ]
    assert project.run("my_flow.py", "run", "--top", "1").out == '{\n  "a": 4\n}\n'
    formatted = [sys.executable, "-m", "ruff", "format", "--check", "--isolated", "."]
    assert subprocess.run(formatted, cwd=project.folder, capture_output=True).returncode == 0
    again = place.run("lokki", "init", "my-flow")
    assert (again.code, again.err) == (
        1, "error: my-flow is there already, and not an empty folder. Nothing was written.\n",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["json", "count-words", "My", "1st", "a b", "class", "pytest", "", "x" * 80, "../up"])
def test_names_that_no_flow_could_have_are_refused(name: str) -> None:
    with pytest.raises((LokkiError, FlowError)):
        project_module(name)


@pytest.mark.parametrize(
    ("noted", "source"),
    [
        (None, None),
        ({"url": "file:///my%20wheels/lokki.whl", "archive_info": {}}, {"path": "/my wheels/lokki.whl"}),
        ({"url": "file:///lokki", "dir_info": {"editable": True}}, {"path": "/lokki", "editable": True}),
        ({"url": "https://example.com/lokki.whl", "archive_info": {}}, {"url": "https://example.com/lokki.whl"}),
        (
            {
                "url": "https://example.com/lokki",
                "vcs_info": {"vcs": "git", "commit_id": "abc", "requested_revision": "v1"},
            },
            {"git": "https://example.com/lokki", "rev": "abc"},
        ),
    ],
)
def test_a_project_takes_the_lokki_that_made_it(noted: object, source: object) -> None:
    table = tomllib.loads(uv_sources(None if noted is None else json.dumps(noted)))
    assert table == ({} if source is None else {"tool": {"uv": {"sources": {"lokki": source}}}})


@pytest.mark.slow
def test_from_nothing_to_a_passing_test_and_an_emulated_run_by_uvx_and_the_wheel(tmp_path: Path) -> None:
    """What a newcomer types in an empty folder, timed: it takes less than a minute where nothing else runs."""
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv, "run the tests with uv"
    cache = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    environment |= {"UV": uv, "UV_PYTHON": sys.executable, "HOME": str(tmp_path), "UV_CACHE_DIR": cache}
    # What was installed for other packages need not be installed again.
    environment.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))

    def run(*words: str, folder: Path) -> str:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    root, start = Path(__file__).parents[2], tmp_path / "start"
    start.mkdir()
    run(uv, "build", "-q", "--wheel", "--out-dir", str(tmp_path / "dist"), str(root), folder=tmp_path)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    began = time.monotonic()
    assert "a new project in my-flow" in run(
        uv, "tool", "run", "--from", str(wheel), "lokki", "init", "my-flow", folder=start
    )
    project = start / "my-flow"
    words = '{\n  "a": 4,\n  "the": 3,\n  "duck": 2\n}\n'
    assert run(uv, "run", "-q", "my_flow.py", "run", "--quiet", "--report", "a.html", folder=project) == words
    assert "each item of read_texts" in (project / "a.html").read_text()
    assert "3 passed" in run(uv, "run", "-q", "pytest", "-q", "-p", "no:cacheprovider", folder=project)
    assert run(uv, "run", "-q", "my_flow.py", "emulate", "--quiet", folder=project) == words
    seconds = time.monotonic() - began
    assert "lokki_emulated" in run(uv, "run", "-q", "pytest", "--fixtures", folder=project)
    print(f"from an empty folder to an emulated run: {seconds:.0f} s")
    assert seconds < 180, "a newcomer would have left"


LOADED = "import sys, lokki_pytest; print(sorted(name for name in sys.modules if name.split('.')[0] == 'lokki'))"


def test_the_plugin_of_pytest_loads_nothing_of_lokki() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
