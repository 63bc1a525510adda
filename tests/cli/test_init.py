"""A new project: what is written, what is refused, and that it runs and passes at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.command import Place

from lokki.cli.commands.init import project_module
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


@pytest.mark.slow
def test_from_nothing_to_a_passing_test_with_the_built_wheel(tmp_path: Path) -> None:
    """An empty folder, the wheel, `init`, a run and the tests, one of them emulated. Timed: it takes no minute."""
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv, "run the tests with uv"
    began = time.monotonic()
    root = Path(__file__).parents[2]

    def run(*words: str, folder: Path = tmp_path) -> str:
        environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
        environment |= {"UV": uv, "HOME": str(tmp_path), "UV_CACHE_DIR": cache}
        # What was installed for other packages need not be installed again.
        environment.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    cache = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    run(uv, "build", "-q", "--wheel", "--out-dir", str(tmp_path / "dist"), str(root))
    [wheel] = (tmp_path / "dist").glob("*.whl")
    run(uv, "venv", "-q", "--python", sys.executable, "venv")
    run(uv, "pip", "install", "-q", "--python", "venv/bin/python", f"{wheel}[emulator]", "pytest")
    run("venv/bin/lokki", "init", "my-flow")
    project = tmp_path / "my-flow"
    assert run("../venv/bin/python", "my_flow.py", "run", "--quiet", "--report", "a.html", folder=project) == (
        '{\n  "a": 4,\n  "the": 3,\n  "duck": 2\n}\n'
    )
    assert "each item of read_texts" in (project / "a.html").read_text()
    tested = run("../venv/bin/pytest", "-q", "-p", "no:cacheprovider", folder=project)
    assert "3 passed" in tested
    assert "lokki_emulated" in run("../venv/bin/pytest", "--fixtures", folder=project)
    assert time.monotonic() - began < 180, "a newcomer would have left"


LOADED = "import sys, lokki_pytest; print(sorted(name for name in sys.modules if name.split('.')[0] == 'lokki'))"


def test_the_plugin_of_pytest_loads_nothing_of_lokki() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
