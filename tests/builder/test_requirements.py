"""lokki.builder.requirements.find: what projects of every kind require, or one line that says why it cannot be told."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lokki.builder.package_types import BuildError
from lokki.builder.requirements.find import Requirements, find_requirements
from lokki.builder.requirements.uv import Uv

UV = Uv(os.environ)

# A build backend of the project's own, which needs nothing from an index. It reads a file, as a hook of hatch does.
BACKEND = """
import os, zipfile
METADATA = "Metadata-Version: 2.1\\nName: birds\\nVersion: 1\\n"

def metadata():
    lines = open("birds.list").read().split()
    print("what backends print is not their answer")
    return METADATA + "Requires-Python: >=3.11\\n" + "".join(f"Requires-Dist: {line}\\n" for line in lines) + "\\n"

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    os.makedirs("birds.egg-info", exist_ok=True)
    os.mkdir(os.path.join(folder, "birds-1.dist-info"))
    with open(os.path.join(folder, "birds-1.dist-info", "METADATA"), "w") as file:
        file.write(metadata())
    return "birds-1.dist-info"

def build_wheel(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(os.path.join(folder, "birds-1-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("birds-1.dist-info/METADATA", metadata())
    return "birds-1-py3-none-any.whl"
"""
BUILD_SYSTEM = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
DYNAMIC = '[project]\nname = "birds"\nversion = "1"\ndynamic = ["dependencies"]\n' + BUILD_SYSTEM


@dataclass(frozen=True)
class Project:
    """A project's folder, with a flow in a folder below it."""

    folder: Path

    def write(self, files: Mapping[str, str | bytes]) -> None:
        for path, content in {".git/config": "", "flows/flow.py": "", **files}.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())

    def find(self, uv: Uv = UV) -> Requirements:
        return find_requirements(self.folder / "flows" / "flow.py", uv, self.folder.parent / "cache")

    def lines(self, files: Mapping[str, str | bytes], uv: Uv = UV) -> tuple[str, ...]:
        self.write(files)
        return self.find(uv).lines

    def refusal(self, files: Mapping[str, str | bytes], uv: Uv = UV) -> str:
        self.write(files)
        with pytest.raises(BuildError) as caught:
            self.find(uv)
        return str(caught.value).replace(f"{self.folder}/", "")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


# Text in other encodings

TEXT = "# für Vögel\nsix\r\n"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        b"\xff\xfe\0\0" + TEXT.encode("utf-32-le"),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("latin-1"),
        b"# -*- coding: latin-1 -*-\n" + "./vögel\n".encode("latin-1") + TEXT.encode("latin-1"),
    ],
)
def test_a_requirements_file_is_read_in_the_encoding_that_pip_sees(project: Project, content: bytes) -> None:
    assert project.lines({"requirements.txt": content, "vögel/birds.py": ""}) == ("six",)


NAME_IT = "or name its encoding in its first line: # coding: latin-1"
WRONG_TEXT = [
    (
        {"requirements.txt": b"six\n./v\xf6gel\n"},
        f"requirements.txt, line 2: is not UTF-8 text. Save it as UTF-8, {NAME_IT}",
    ),
    (
        {"requirements.txt": "six\n".encode("utf-16-le")},
        f"requirements.txt, line 1: is not UTF-8 text. Save it as UTF-8, {NAME_IT}",
    ),
    (
        {"requirements.txt": b"# coding: bird\n"},
        "requirements.txt: there is no encoding 'bird'. Correct the comment that names it.",
    ),
    (
        {"pyproject.toml": b"# v\xf6gel\n[project]"},
        "pyproject.toml is not UTF-8 text, as TOML has to be. Save it as UTF-8.",
    ),
]


@pytest.mark.parametrize(("files", "message"), WRONG_TEXT)
def test_text_that_cannot_be_read_is_named(project: Project, files: dict[str, bytes], message: str) -> None:
    assert project.refusal(files) == message


def test_script_metadata_is_read_in_the_encoding_of_the_flows_file(project: Project) -> None:
    flow = '# coding: latin-1\n# vögel\n# /// script\n# dependencies = ["six"]\n# ///\n'
    assert project.lines({"flows/flow.py": flow.encode("latin-1")}) == ("six",)


# The version of Python

OTHER_PYTHONS = [
    (
        {"pyproject.toml": '[project]\nname = "birds"\nrequires-python = ">=3.99"\n'},
        "pyproject.toml: requires-python is '>=3.99', and functions run Python 3.13. Allow 3.13 there.",
    ),
    (
        {"flows/flow.py": '# /// script\n# requires-python = "<3.12"\n# ///\n'},
        "the script metadata of flows/flow.py is '<3.12', and functions run Python 3.13. Allow 3.13 there.",
    ),
    (
        {"pyproject.toml": '[project]\nname = "birds"\nrequires-python = "three"\n'},
        "pyproject.toml: requires-python: 'three' names no versions of Python. Correct it, such as >=3.13.",
    ),
]


@pytest.mark.parametrize(("files", "message"), OTHER_PYTHONS)
def test_a_project_of_another_python_is_refused(project: Project, files: dict[str, str], message: str) -> None:
    assert project.refusal(files) == message


@pytest.mark.parametrize("specifier", [">=3.13.2", "~=3.13", ">3.12,<4", "==3.13.*", "!=3.13.1"])
def test_any_patch_of_the_python_is_enough(project: Project, specifier: str) -> None:
    text = f'[project]\nname = "birds"\nrequires-python = "{specifier}"\ndependencies = ["six"]\n'
    assert project.lines({"pyproject.toml": text}) == ("six",)


# Dependencies that a pyproject.toml does not list

LISTED = {"birds.list": "six>=1 eggs;extra=='nest'", "backend.py": BACKEND}


def test_the_build_backend_is_asked_for_dynamic_dependencies(project: Project) -> None:
    assert project.lines({"pyproject.toml": DYNAMIC, **LISTED}) == ("six>=1",)
    assert not (project.folder / "birds.egg-info").exists()


def test_a_backend_that_can_only_build_is_asked_so(project: Project) -> None:
    only_builds = BACKEND.replace("def prepare_metadata_for_build_wheel", "def _unused")
    assert project.lines({"pyproject.toml": DYNAMIC, **LISTED, "backend.py": only_builds}) == ("six>=1",)


def test_what_a_backend_answered_is_remembered_until_a_file_changes(project: Project) -> None:
    project.write({"pyproject.toml": DYNAMIC, **LISTED})
    first = project.find()
    (project.folder / "backend.py").touch()
    assert project.find(Uv({"PATH": ""})) == first
    (project.folder / "backend.py").write_text(BACKEND.replace("birds.list", "other.list"))
    assert project.lines({"other.list": "iniconfig"}) == ("iniconfig",)


def test_a_folder_whose_dependencies_are_dynamic_gives_way_to_them(project: Project) -> None:
    own = '[project]\nname = "own"\ndependencies = ["birds[nest]"]\n[tool.uv.sources]\nbirds = { path = "birds" }\n'
    files = {f"birds/{path}": text for path, text in {"pyproject.toml": DYNAMIC, **LISTED}.items()}
    assert project.lines({"pyproject.toml": own, **files}) == ("six>=1", "eggs")


def test_a_backend_that_fails_is_told_in_its_own_words(project: Project) -> None:
    message = project.refusal({"pyproject.toml": DYNAMIC, "backend.py": "raise RuntimeError('no eggs')"})
    assert "what the project requires failed. uv says:" in message
    assert "RuntimeError: no eggs" in message
    assert message.splitlines()[-1] == "Or list what it requires under [project] in its pyproject.toml."


def test_setuptools_reads_what_setup_cfg_and_setup_py_say(project: Project) -> None:
    setup = "[metadata]\nname = birds\nversion = 1\n[options]\npy_modules =\ninstall_requires = six<2\n"
    assert project.lines({"setup.cfg": setup}) == ("six<2",)
    setup_py = "from setuptools import setup\nsetup(name='birds', py_modules=[], install_requires=['iniconfig'])\n"
    (project.folder / "setup.cfg").unlink()
    assert project.lines({"setup.py": setup_py}) == ("iniconfig",)


# Poetry

POETRY = """
[tool.poetry]
package-mode = false
[tool.poetry.dependencies]
python = "^3.11"
six = "^1.16"
iniconfig = { version = "*", optional = true }
attrs = { version = "~25.3", extras = ["nest"], markers = "sys_platform == 'linux'" }
[tool.poetry.group.dev.dependencies]
pytest = "*"
"""
LOCKED = '[[package]]\nname = "six"\nversion = "1.16.0"\n[[package]]\nname = "Attrs"\nversion = "25.3.0"\n'


def test_the_tables_of_poetry_are_read_by_poetry(project: Project) -> None:
    lines = ("six (>=1.16,<2.0)", 'attrs[nest] (>=25.3,<25.4) ; sys_platform == "linux"')
    project.write({"pyproject.toml": POETRY})
    assert (project.find().lines, project.find().source) == (lines, "pyproject.toml")
    project.write({"poetry.lock": LOCKED})
    found = project.find()
    assert (found.lines, found.constraints) == (lines, ("attrs==25.3.0", "six==1.16.0"))
    assert found.source == "pyproject.toml, as poetry.lock has it"
    stale = project.refusal({"poetry.lock": LOCKED.replace("1.16.0", "1.15.0")})
    assert stale == "poetry.lock is not up to date: it has no six (>=1.16,<2.0); run poetry lock."


# What lokki does not read

UNREAD = [
    ("Pipfile", "pipenv requirements > requirements.txt"),
    ("environment.yml", "pip freeze > requirements.txt"),
    ("requirements.in", "uv pip compile requirements.in -o requirements.txt"),
]


@pytest.mark.parametrize(("name", "command"), UNREAD)
def test_a_file_that_lokki_does_not_read_is_not_taken_for_none(project: Project, name: str, command: str) -> None:
    assert project.refusal({name: "six"}) == (
        f"{name} names requirements, and lokki reads pyproject.toml and requirements.txt. "
        f"Write one: {command} (an empty one, if the flow requires nothing)."
    )
    assert project.lines({"requirements.txt": ""}) == ()


# Locks of uv


def locked_project(*dependencies: str) -> str:
    names = ", ".join(f'"{name}"' for name in dependencies)
    return f'[project]\nname = "birds"\nversion = "1"\nrequires-python = ">=3.13"\ndependencies = [{names}]\n'


def test_a_lock_that_is_not_up_to_date_is_refused(project: Project) -> None:
    project.write({"pyproject.toml": locked_project("six<1.17")})
    subprocess.run([UV.command, "lock", "--quiet", "--python", sys.executable], cwd=project.folder, check=True)
    assert project.find(replace(UV, environ={**os.environ, "UV_FROZEN": "1"})).lines == ("six==1.16.0",)
    message = "uv.lock is not up to date with pyproject.toml; run uv lock."
    offline = replace(UV, environ={**os.environ, "UV_OFFLINE": "1"})
    for changed in (("six<1.17", "iniconfig"), ("six>=1.17",), ("six[nest]<1.17",)):
        assert (
            project.refusal({"pyproject.toml": locked_project(*changed)}).replace(f"{project.folder}/", "") == message
        )
        assert project.refusal({}, offline) == message


def test_a_lock_is_held_against_the_members_of_a_workspace(project: Project) -> None:
    root = (
        locked_project("egg")
        + '[tool.uv.workspace]\nmembers = ["egg"]\n[tool.uv.sources]\negg = { workspace = true }\n'
    )
    member = '[project]\nname = "egg"\nversion = "1"\nrequires-python = ">=3.13"\ndependencies = ["six<1.17"]\n'
    project.write({"pyproject.toml": root, "egg/pyproject.toml": member})
    subprocess.run([UV.command, "lock", "--quiet", "--python", sys.executable], cwd=project.folder, check=True)
    assert project.find().lines == ("six==1.16.0",)
    stale = project.refusal({"egg/pyproject.toml": member.replace("six<1.17", "six<1.16")})
    assert stale == "uv.lock is not up to date with pyproject.toml; run uv lock."


def test_a_lock_is_read_by_the_python_that_builds(project: Project) -> None:
    project.write({"pyproject.toml": locked_project("six<1.17")})
    subprocess.run([UV.command, "lock", "--quiet", "--python", sys.executable], cwd=project.folder, check=True)
    no_other = {"UV_PYTHON_DOWNLOADS": "never", "UV_PYTHON_PREFERENCE": "only-managed"}
    uv = Uv({**os.environ, **no_other, "UV_PYTHON_INSTALL_DIR": str(project.folder / "pythons")})
    assert project.find(uv).lines == ("six==1.16.0",)


# Folders of this machine


def test_what_a_folder_in_a_requirements_file_requires_is_required(project: Project) -> None:
    files = {
        "requirements.txt": "-e ./libs/atlas[maps]\n./libs/old ; python_version >= '3.13'\n",
        "libs/atlas/pyproject.toml": (
            '[project]\nname = "atlas"\nversion = "1"\ndependencies = ["six"]\n'
            'optional-dependencies = { maps = ["iniconfig"] }\n'
        ),
        "libs/old/pyproject.toml": DYNAMIC,
        "libs/old/backend.py": BACKEND,
        "libs/old/birds.list": "attrs",
    }
    assert project.lines(files) == ("six", "iniconfig", "attrs")


def test_a_backend_is_asked_again_when_a_file_that_it_read_has_changed(project: Project) -> None:
    backend = BACKEND.replace("birds.list", "deps/prod/birds.list")
    assert project.lines({"pyproject.toml": DYNAMIC, "backend.py": backend, "deps/prod/birds.list": "six"}) == ("six",)
    assert project.lines({}, Uv({"UV": "/bin/false", "PATH": ""})) == ("six",)  # it is remembered
    assert project.lines({"deps/prod/birds.list": "attrs"}) == ("attrs",)


def test_the_lock_of_a_script_gives_its_versions(project: Project) -> None:
    script = '# /// script\n# requires-python = ">=3.13"\n# dependencies = ["six{}"]\n# ///\n'
    project.write({"flows/flow.py": script.format("<1.17")})
    command = [UV.command, "lock", "--quiet", "--python", sys.executable, "--script", "flow.py"]
    subprocess.run(command, cwd=project.folder / "flows", check=True)
    (project.folder / "flows" / "flow.py").write_text(script.format("<1.17") + "# a comment\n")
    found = project.find()
    assert (found.lines, found.locked) == (("six==1.16.0",), True)
    (project.folder / "flows" / "flow.py").write_text(script.format(">=1.17"))
    with pytest.raises(BuildError) as caught:
        project.find()
    message = "flows/flow.py.lock is not up to date with flows/flow.py; run uv lock --script flow.py."
    assert str(caught.value).replace(f"{project.folder}/", "") == message
