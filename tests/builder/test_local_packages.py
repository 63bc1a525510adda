"""What importlib.metadata knows in a package of what is installed from a folder."""

import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import lokki
from lokki.builder.packages.local_packages import own_metadata
from lokki.builder.requirements.uv import Uv


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def installed(site: Path, name: str, version: str, root: Path, files: tuple[str, ...] = (), **about: str) -> None:
    """Write the metadata of a package that is installed from a folder, editable unless it has files."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: egg @ file://{root}/egg ; a\n"
    direct_url = {"url": root.as_uri(), "dir_info": {} if files else {"editable": True}}
    record = "".join(f"{path},,\n" for path in (*files, f"{name}.pth", f"{info}/RECORD"))
    texts = {"METADATA": metadata, "INSTALLER": "uv", "REQUESTED": "", "WHEEL": "Generator: some 1", "RECORD": record}
    texts |= {"direct_url.json": json.dumps(direct_url), "licenses/LICENSE": "Anybody may.", **about}
    write(site, {f"{info}/{path}": text for path, text in texts.items()})


FILES = {"birds/flow.py": b"version('Wing-Span')", "birds/nest.py": b"", "egg/__init__.py": b"", "data.csv": b"1"}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    write(tmp_path / "birds", {"lib/birds/flow.py": "", "lib/birds/nest.py": "", "lib/birds/other.py": ""})
    write(tmp_path / "site", {"birds.pth": f"import sys\n{tmp_path}/birds/lib\n", "egg/__init__.py": ""})
    entry_points = {"entry_points.txt": "[lokki.test]\nfly = birds.flow:fly\n"}
    installed(tmp_path / "site", "birds", "1.2", tmp_path / "birds", **entry_points)
    installed(tmp_path / "site", "egg", "2", tmp_path / "egg", files=("egg/__init__.py", "egg/shell.py"))
    installed(tmp_path / "site", "wing_span", "3", tmp_path / "wing")
    installed(tmp_path / "site", "unrelated", "4", tmp_path / "unrelated")
    installed(tmp_path / "site", "lokki", "5", tmp_path / "lokki")
    return tmp_path / "site"


def test_packages_installed_from_folders_are_known_where_their_code_is_packed(site: Path, tmp_path: Path) -> None:
    packed = own_metadata([str(site)], FILES, tmp_path / "birds" / "lib" / "birds" / "flow.py")
    assert not [path for path, content in packed.items() if str(tmp_path).encode() in content]
    for path, content in {**FILES, **packed}.items():
        write(tmp_path / "task", {path: content.decode()})
    distributions = list(importlib.metadata.distributions(path=[str(tmp_path / "task")]))
    assert sorted((found.name, found.version) for found in distributions) == [
        ("birds", "1.2"),
        ("egg", "2"),
        ("wing_span", "3"),
    ]
    files = {found.name: sorted(map(str, found.files or [])) for found in distributions}
    assert [path for path in files["birds"] if "dist-info" not in path] == ["birds/flow.py", "birds/nest.py"]
    assert [path for path in files["egg"] if "dist-info" not in path] == ["egg/__init__.py"]
    (birds,) = (found for found in distributions if found.name == "birds")
    assert [(point.group, point.value) for point in birds.entry_points] == [("lokki.test", "birds.flow:fly")]
    assert birds.requires == ["egg; a"]
    names = sorted(path.partition("/")[2] for path in packed if path.startswith("birds-"))
    assert names == ["METADATA", "RECORD", "entry_points.txt", "licenses/LICENSE"]


def test_a_project_that_no_file_is_of_is_known_by_the_place_of_the_flow(site: Path, tmp_path: Path) -> None:
    assert own_metadata([str(site)], {"flow.py": b""}, tmp_path / "elsewhere" / "flow.py") == {}
    packed = own_metadata([str(site)], {"flow.py": b""}, tmp_path / "birds" / "flow.py")
    assert {path.partition("/")[0] for path in packed} == {"birds-1.2.dist-info"}


FLOW = """
from importlib.metadata import version
from lokki import flow, step
__version__ = version("birdlib")

@step
def greet() -> str:
    return __version__

@flow
def greeting():
    return greet()
"""
PYPROJECT = """
[project]
name = "birdlib"
version = "1.2.3"
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
"""


@pytest.mark.slow
def test_the_packages_of_an_editable_project_start(tmp_path: Path) -> None:
    project = write(tmp_path / "project", {"src/birdlib/__init__.py": "", "src/birdlib/flow.py": FLOW})
    write(project, {"pyproject.toml": PYPROJECT, "lokki.yml": "artifact_bucket: acme-artifacts\n"})
    uv, python = Uv(os.environ).command, tmp_path / "venv" / "bin" / "python"
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, tmp_path / "venv"], check=True)
    root = Path(lokki.__file__).parent.parent
    subprocess.run([uv, "pip", "install", "-q", "--python", python, root, "-e", project], cwd=project, check=True)
    subprocess.run([python.with_name("lokki"), "build", "birdlib.flow"], cwd=project, check=True)
    with zipfile.ZipFile(project / "lokki-build" / "lambdas" / "greet.zip") as archive:
        archive.extractall(tmp_path / "task")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import birdlib.flow; print(birdlib.flow.__version__)"
    command = [sys.executable, "-I", "-S", "-c", code, tmp_path / "task"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1.2.3\n"
