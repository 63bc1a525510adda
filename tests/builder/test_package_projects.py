"""Whole projects as users have them: what runs here runs from what was built, and hostile folders end in one line."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

FLOW = """
import importlib
from pathlib import Path
from importlib.resources import files

import profile
from lokki import flow, main, step

import atlas
import team

READERS = {}


def reader(kind):
    def add(function):
        READERS[kind] = function
        return function
    return add


@step
def names() -> list[str]:
    return ["goose.csv", "duck.csv"]


@step
@reader("csv")
def read_csv(name: str) -> str:
    return f"csv of {name}"


@step
def shout(text: str) -> str:
    return text.upper()


@step
def read_any(name: str) -> str:
    plugin = importlib.import_module(f"plugins.{name.partition('.')[0]}")
    shouted = globals()["sho" + "ut"].fn(name)
    return " ".join([READERS["csv"](name), shouted, plugin.apply(), profile.name_of(name)])


@step
def collect(texts: list[str]) -> list[str]:
    data = Path(__file__).parent / "data"
    linked = (data / "answer.txt").read_text()
    return [*texts, files("atlas").joinpath("countries.json").read_text(), team.motto(), linked]


@flow
def read_flow():
    return names().map(read_any).agg(collect).next(again)


@step
def again(texts: list[str]) -> list[str]:
    return [shout.fn(read_csv.fn(texts[0])), *texts]


if __name__ == "__main__":
    main(read_flow)
"""

PROJECT = {
    "app/flow.py": FLOW,
    "app/lokki.yml": "artifact_bucket: my-bucket\ninclude: [plugins/*.py, data]\n",
    "app/profile.py": "def name_of(bird):\n    return f'Ms {bird}'\n",
    "app/plugins/goose.py": "from shared import mark\ndef apply():\n    return mark('honk')\n",
    "app/plugins/duck.py": "from shared import mark\ndef apply():\n    return mark('quack')\n",
    "app/shared.py": "def mark(text):\n    return text + '!'\n",
    "app/team/__init__.py": (
        "from pathlib import Path\n"
        "def motto():\n    return (Path(__file__).parent / 'texts' / 'motto.txt').read_text()\n"
    ),
    "app/team/texts/motto.txt": "fly",
    "libs/atlas/src/atlas/__init__.py": "",
    "libs/atlas/src/atlas/countries.json": '["FI", "SE"]',
    "elsewhere/answer.txt": "42",
}


@dataclass(frozen=True)
class Project:
    """A project's folder, in which a user's flow is started as a program."""

    folder: Path
    path: tuple[Path, ...] = ()

    def write(self, files: Mapping[str, str | bytes]) -> "Project":
        for path, content in files.items():
            file = self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return self

    def start(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, self.path))}
        command = [sys.executable, "flow.py", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=environ, capture_output=True, text=True, errors="replace", check=False
        )


def test_what_reaches_for_code_and_data_in_every_way_runs_from_packages_as_it_does_here(tmp_path: Path) -> None:
    Project(tmp_path).write(PROJECT)
    (tmp_path / "app" / "data").symlink_to("../elsewhere")
    url = {"url": f"file://{tmp_path}/libs/atlas", "dir_info": {"editable": True}}
    Project(tmp_path).write({"site-packages/atlas-1.dist-info/direct_url.json": json.dumps(url)})
    project = Project(tmp_path / "app", (tmp_path / "site-packages", tmp_path / "libs" / "atlas" / "src"))
    here = project.start("run")
    assert here.returncode == 0, here.stderr
    assert json.loads(here.stdout)[0] == "CSV OF CSV OF GOOSE.CSV GOOSE.CSV HONK! MS GOOSE.CSV"
    emulated = project.start("emulate")
    assert (emulated.returncode, emulated.stdout) == (0, here.stdout), emulated.stderr


BASE = """
from lokki import flow, main, step
{imports}

@step
def one() -> int:
    {inside}
    return 1

@step
def two(number: int) -> int:
    return number

@flow
def a_flow():
    return one().next(two)

if __name__ == "__main__":
    main(a_flow)
"""


def base(imports: str = "", inside: str = "pass", include: str = "[]") -> dict[str, str | bytes]:
    return {
        "flow.py": BASE.format(imports=imports, inside=inside),
        "lokki.yml": f"artifact_bucket: my-bucket\ninclude: {include}\n",
    }


def one_line(project: Project, *arguments: str) -> str:
    """Start the program, which fails, and return the one line that says why."""
    done = project.start(*(arguments or ("build",)))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    return line


def test_a_module_of_pythons_that_is_hidden_is_named_in_one_line(tmp_path: Path) -> None:
    project = Project(tmp_path).write({**base(), "json.py": "x = 1"})
    assert one_line(project) == "error: json.py hides Python's own module 'json', which lokki needs. Rename it."


@pytest.mark.parametrize(("command", "name"), [("run", "random"), ("emulate", "queue"), ("emulate", "select")])
def test_a_hidden_module_that_a_library_needs_is_named_in_one_line(tmp_path: Path, command: str, name: str) -> None:
    project = Project(tmp_path).write({**base(inside=f"import {name}"), f"{name}.py": "x = 1"})
    line = f"error: {name}.py hides Python's own module '{name}', which lokki needs. Rename it."
    assert one_line(project, command) == line


def test_a_hidden_module_that_lokki_imports_first_is_named(tmp_path: Path) -> None:
    project = Project(tmp_path).write({**base(), "token.py": "x = 1"})
    last = project.start("run").stderr.splitlines()[-1]
    assert last == f"ImportError: {tmp_path}/token.py hides the module 'token' of Python: rename the file."


def test_a_module_that_hides_one_of_pythons_disturbs_no_process_of_the_emulators(tmp_path: Path) -> None:
    project = Project(tmp_path).write({**base("import calendar"), "calendar.py": "x = 1"})
    emulated = project.start("emulate")
    assert (emulated.returncode, emulated.stdout) == (0, "1\n"), emulated.stderr


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("x = 1\ndef (", "helper.py:2 is not valid Python: invalid syntax"),
        ("X = '\0'", "helper.py is not valid Python: source code string cannot contain null bytes"),
        (b"# coding: nonsense\n", "helper.py is not valid Python: unknown encoding: nonsense"),
        (b"X = '\xe9'", "helper.py:1 is not valid Python: (unicode error) 'utf-8' codec can't decode byte 0xe9 in"),
        (f"X = {'(' * 5000}1{')' * 5000}", "helper.py:1 is not valid Python: too many nested parentheses"),
        (f"X = {'-' * 200_000}1", "helper.py is not valid Python: "),
    ],
    ids=["syntax", "nul", "coding", "undeclared", "parentheses", "operators"],
)
@pytest.mark.slow
def test_a_module_that_is_no_python_ends_a_build_in_one_line(tmp_path: Path, content: str | bytes, line: str) -> None:
    project = Project(tmp_path).write({**base(inside="import helper"), "helper.py": content})
    message = one_line(project)
    assert message.startswith(f"error: {line}")
    assert message.endswith("Correct it, or exclude it in lokki.yml.")


@pytest.mark.slow
def test_modules_in_other_encodings_are_packed_as_they_are(tmp_path: Path) -> None:
    latin = b"# -*- coding: latin-1 -*-\nX = '\xe9'\n"
    project = Project(tmp_path).write({**base("import lat, mark"), "lat.py": latin, "mark.py": b"\xef\xbb\xbfX = 1\n"})
    done = project.start("emulate")
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert project.start("build").returncode == 0
    with zipfile.ZipFile(tmp_path / "lokki-build" / "lambdas" / "two.zip") as archive:
        assert (archive.read("lat.py"), archive.read("mark.py")) == (latin, b"\xef\xbb\xbfX = 1\n")


@pytest.mark.slow
def test_pipes_beside_the_flow_and_in_its_packages_are_never_opened(tmp_path: Path) -> None:
    project = Project(tmp_path).write(
        {**base("import helper", include="[data]"), "helper/__init__.py": "", "data/a": ""}
    )
    for place in ("pipe.py", "helper/x.py", "helper/pipe", "data/pipe"):
        os.mkfifo(tmp_path / place)
    done = project.start("build")
    assert done.returncode == 0, done.stderr
    assert "  note: data/pipe is a pipe and not a file, so it is not packed" in done.stdout.splitlines()
    assert "  note: helper/pipe is a pipe and not a file, so it is not packed" in done.stdout.splitlines()


@pytest.mark.slow
def test_images_have_no_secrets_in_what_they_are_built_from(tmp_path: Path) -> None:
    project = Project(tmp_path).write({**base(include="['*']"), "prod.env": "s", "key.pem": "s", "a.csv": ""})
    (tmp_path / "lokki.yml").write_text((tmp_path / "lokki.yml").read_text() + "ecr_repo_prefix: registry/acme\n")
    done = project.start("build")
    assert done.returncode == 0, done.stderr
    built = {path.name for path in (tmp_path / "lokki-build").rglob("*")}
    assert "a.csv" in built
    assert not {"prod.env", "key.pem"} & built
    assert "  note: key.pem looks like a secret, so it is not packed; to pack it, name it in include" in done.stdout


@pytest.mark.slow
def test_an_import_that_nothing_provides_stops_the_build_and_one_in_a_function_is_a_note(tmp_path: Path) -> None:
    project = Project(tmp_path).write(base("import rich", inside="import click"))
    assert one_line(project).startswith(
        "error: flow.py:3 imports rich, which nothing that one() requires provides, so its function could not start. "
        "Add to the project's pyproject.toml, or to a requirements.txt beside the flow: rich."
    )
    project.write({"lokki.yml": "artifact_bucket: my-bucket\necr_repo_prefix: registry/acme\n"})
    assert one_line(project).startswith("error: flow.py:3 imports rich, which nothing that one() requires provides")
    project.write({**base("import plots"), "plots.py": "", "lokki.yml": "artifact_bucket: b-c\nexclude: [plots.py]\n"})
    for more in ("", "ecr_repo_prefix: registry/acme\n"):
        project.write({"lokki.yml": f"artifact_bucket: b-c\nexclude: [plots.py]\n{more}"})
        assert "It is excluded in lokki.yml" in one_line(project)
    project.write(base(inside="import click"))
    done = project.start("build")
    note = "  note: flow.py:7 imports click, which no package has: that fails if it comes to it"
    assert (done.returncode, note in done.stdout.splitlines()) == (0, True), done.stdout
