"""What a flow requires: which versions that is, and what is installed."""

import base64
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pytest
from support.wheels import make_wheel, offline_uv

import lokki
from lokki.builder.package_types import BuildError
from lokki.builder.packages.archive import write_archive
from lokki.builder.requirements.distributions import Distribution
from lokki.builder.requirements.find import Requirements, find_requirements
from lokki.builder.requirements.resolve import Resolved, check_imports, installed_versions, resolve
from lokki.builder.requirements.uv import Uv
from lokki.builder.requirements.vendoring import (
    Index,
    Installation,
    InstalledFile,
    Vendored,
    check_zip_size,
    install_once,
)

X86 = "x86_64-manylinux_2_34"
UV = Uv(os.environ)


def vendor(resolved: Resolved, uv: Uv, cache: Path) -> Vendored:
    """Return all that pins install, as a package takes it."""
    return install_once(resolved, uv, cache).select()


class NoUv(Uv):
    """A uv that must not be run."""

    @cached_property
    def command(self) -> str:
        raise AssertionError("uv was run")


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder / "flows" / "flow.py"


SCRIPT = (
    '# /// script\n# requires-python = ">=3.13"\n# dependencies = [\n#   "six",  # why\n#   "lokki>=0.1",\n# ]\n# ///\n'
)
PYPROJECT = '[project]\nname = "birds"\nversion = "1"\ndependencies = ["pandas>=2", "Lokki", "lokki-extras"]\n'

SIX = ("six",)
BOTH = ("pandas>=2", "lokki-extras")
OWN = '[project]\nname = "lokki"\ndependencies = ["a"]'
PLACES = [
    ({"flows/flow.py": SCRIPT, "flows/requirements.txt": "a"}, SIX, "the script metadata of flow.py"),
    ({"flows/flow.py": "# /// script\n#\n# ///\n", "requirements.txt": "a"}, (), "the script metadata of flow.py"),
    ({"pyproject.toml": PYPROJECT}, BOTH, "pyproject.toml"),
    ({"pyproject.toml": PYPROJECT, "requirements.txt": "a"}, BOTH, "pyproject.toml"),
    ({"pyproject.toml": PYPROJECT, "flows/requirements.txt": "a"}, ("a",), "requirements.txt"),
    ({"pyproject.toml": "[tool.ruff]", "requirements.txt": "lokki\na"}, ("a",), "requirements.txt"),
    ({"pyproject.toml": OWN}, (), "nothing beyond lokki"),
    ({"flows/.git/config": "", "requirements.txt": "a"}, (), "nothing beyond lokki"),
]


@pytest.mark.parametrize(("files", "lines", "source"), PLACES)
def test_requirements_come_from_the_flows_file_or_the_nearest_project(
    tmp_path: Path, files: dict[str, str], lines: tuple[str, ...], source: str
) -> None:
    found = find_requirements(
        write(tmp_path, {".git/config": "", "flows/flow.py": "", **files}), NoUv({}), tmp_path / "cache"
    )
    assert (found.lines, found.source, found.locked) == (lines, source, False)


def test_a_requirements_file_is_read_as_pip_reads_it(tmp_path: Path) -> None:
    text = (
        "# comment\n-r more.txt\n-c bounds.txt\n--find-links wheels\n-e .\n-e local[plot]\n\n"
        "-e git+https://birds.example/honk.git#egg=honk\n"
        "six==1.0 \\\n    --hash=sha256:ab \\\n    --hash=sha256:cd\nb#not-a-comment # comment\n"
    )
    files = {
        "flows/flow.py": "",
        "flows/requirements.txt": text,
        "flows/more.txt": "m\n-c deep/more.txt",
        "flows/deep/more.txt": "n<2",
        "flows/bounds.txt": "o<3",
        "flows/local/pyproject.toml": (
            '[project]\nname = "local"\nversion = "1"\ndependencies = ["p"]\noptional-dependencies = { plot = ["q"] }\n'
        ),
    }
    found = find_requirements(write(tmp_path, files), NoUv({}), tmp_path / "cache")
    assert found.lines == ("m", "p", "q", "honk @ git+https://birds.example/honk.git", "six==1.0", "b#not-a-comment")
    assert found.origins.options == (f"--find-links {tmp_path}/flows/wheels",)
    assert found.constraints == ("n<2", "o<3")


MISTAKES = [
    (
        {"requirements.txt": "-r requirements.txt"},
        "FLOWS/requirements.txt includes itself. Remove one of its -r lines.",
    ),
    (
        {"requirements.txt": "-r gone.txt"},
        "FLOWS/gone.txt cannot be read: No such file or directory. Correct the line that names it.",
    ),
    (
        {"pyproject.toml": "[project"},
        "FLOWS/pyproject.toml is not valid TOML: Expected ']' at the end of a table declaration (at end of document)",
    ),
    (
        {"pyproject.toml": "[project]\ndependencies = 'six'"},
        "FLOWS/pyproject.toml: dependencies must be a list of texts",
    ),
]


@pytest.mark.parametrize(("files", "message"), MISTAKES)
def test_a_mistake_in_a_file_of_requirements_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    file = write(tmp_path, {"flows/flow.py": "", **{f"flows/{name}": text for name, text in files.items()}})
    with pytest.raises(BuildError) as caught:
        find_requirements(file, NoUv({}), tmp_path / "cache")
    assert str(caught.value).replace(str(tmp_path / "flows"), "FLOWS").removesuffix(". Correct it.") == message


def test_a_lock_file_gives_its_versions_without_lokki_and_what_only_lokki_needs(tmp_path: Path) -> None:
    root = Path(lokki.__file__).parent.parent
    project = (
        '[project]\nname = "birds"\nversion = "1"\nrequires-python = ">=3.13"\ndependencies = ["six<1.17", "lokki"]\n'
        f'[dependency-groups]\ndev = ["iniconfig"]\n[tool.uv.sources]\nlokki = {{ path = "{root}", editable = true }}\n'
    )
    file = write(tmp_path, {"flows/flow.py": "", "pyproject.toml": project})
    subprocess.run([UV.command, "lock", "--quiet", "--python", sys.executable], cwd=tmp_path, check=True)
    found = find_requirements(file, UV, tmp_path / "cache")
    assert (found.lines, found.source, found.locked) == (("six==1.16.0",), "pyproject.toml, as uv.lock has it", True)
    assert find_requirements(file, NoUv({}), tmp_path / "cache") == found
    resolved = resolve(found, (), "x86_64", UV, tmp_path / "cache")
    assert "six==1.16.0" in resolved.pins
    assert resolved.note == "other versions than here: six"


def test_versions_are_those_installed_here(tmp_path: Path) -> None:
    installed = installed_versions()
    resolved = resolve(Requirements(("python-dateutil",)), (), "arm64", UV, tmp_path)
    names = ("isal", "msgspec", "obstore", "python-dateutil", "six")
    assert resolved == Resolved(tuple(f"{name}=={installed[name]}" for name in names), "aarch64-manylinux_2_34")
    assert resolved.text == "".join(f"{pin}\n" for pin in resolved.pins)
    assert resolve(Requirements(("python-dateutil",)), (), "arm64", NoUv({}), tmp_path) == resolved


def test_a_requirement_that_the_versions_here_do_not_meet_wins_and_is_told(tmp_path: Path) -> None:
    resolved = resolve(Requirements(("six",)), ("six<1.17",), "x86_64", UV, tmp_path)
    assert "six==1.16.0" in resolved.pins
    assert resolved.note == "other versions than here: six"


def test_a_package_without_a_wheel_for_lambda_is_one_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        resolve(Requirements(("tensorflow==2.15.0",)), (), "x86_64", UV, tmp_path)
    first, *uv, last = str(caught.value).splitlines()
    assert first == "Finding versions for Lambda of what the flow requires failed. uv says:"
    assert "tensorflow" in "\n".join(uv)
    assert last == (
        "A package has no wheel for Lambda's Python 3.13 on this architecture. Require another version of it, "
        "set architecture in lokki.yml, or publish a wheel of it where uv finds it."
    )


@pytest.mark.slow
def test_a_package_of_pure_python_without_a_wheel_is_built(tmp_path: Path) -> None:
    resolved = resolve(Requirements(("docopt==0.6.2",)), (), "x86_64", UV, tmp_path)
    assert (resolved.built, resolved.elsewhere) == (("docopt",), {"docopt==0.6.2": ""})
    vendored = vendor(resolved.of_index(""), UV, tmp_path)
    assert {path for path in vendored.paths if path.endswith(".py")} == {"docopt.py"}


def test_without_uv_there_is_an_error_that_says_how_to_get_it(tmp_path: Path) -> None:
    uv = Uv({"PATH": str(tmp_path), "UV": str(tmp_path / "gone")}, tmp_path / "python")
    (tmp_path / "uv").write_text("#!/bin/sh\nexit 127\n")  # as a shim that leads to nothing
    (tmp_path / "uv").chmod(0o755)
    with pytest.raises(BuildError) as caught:
        resolve(Requirements(("six",)), (), "x86_64", uv, tmp_path / "cache")
    assert str(caught.value) == (
        "uv is needed to install what the flow requires for Lambda, and it is not here. "
        "Install it (pip install uv), or name it in the environment variable UV."
    )


def test_an_import_that_nothing_provides_is_refused_before_lambda_does() -> None:
    resolved = Resolved(("pandas==3", "PyYAML==6", "isal==1"), X86)
    check_imports({"pandas": "a.py", "yaml": "a.py", "isal": "a.py", "boto3": "a.py"}, resolved, "clean")
    with pytest.raises(BuildError) as caught:
        check_imports({"rich": "b.py", "yaml": "a.py", "nowhere": "a.py"}, resolved, "clean")
    assert str(caught.value) == (
        "a.py imports nowhere, b.py imports rich, which nothing that clean() requires provides, so its function could "
        "not start. Add to the project's pyproject.toml, or to a requirements.txt beside the flow: nowhere, rich."
    )


# What is installed

BIRDS = {
    "birds/__init__.py": "from birds.tests import helper\n",
    "birds/tests/__init__.py": "",
    "birds/tests/helper.py": "from .deeper.tests import more\n",
    "birds/tests/deeper/tests/more.py": "",
    "birds/named/tests/__init__.py": "",
    "birds/lazy.py": "from importlib import import_module\nnamed = import_module(f'{__package__}.named.tests')\n",
    "birds/deep/__init__.py": "",
    "birds/deep/tests/test_it.py": "import pytest\n",
    "birds/deep/test/data.bin": b"\0" * 10,
    "birds/data.json": "{}",
    "birds/stubs.pyi": "",
    "birds/py.typed": "",
    "birds/include/birds.h": "",
    "birds/fast.c": "",
    "birds/tool": b"\x7fELF tool",
    "birds/template.py": "def {{ name }}",
    "tests/__init__.py": "",
    "birds-1.0.data/scripts/birds": "#!python -E\nimport birds\n",
    "birds-1.0.data/scripts/birds-tool": b"\x7fELF tool",
    "birds-1.0.dist-info/entry_points.txt": "[console_scripts]\nfly = birds:fly\n",
    "single.py": "y = 2\n",
}

VENDORED = {
    "bin/birds",
    "bin/birds-tool",
    "bin/fly",
    "birds-1.0.dist-info/METADATA",
    "birds-1.0.dist-info/RECORD",
    "birds-1.0.dist-info/WHEEL",
    "birds-1.0.dist-info/entry_points.txt",
    "birds-1.0.dist-info/licenses/LICENSE",
    "birds/__init__.py",
    "birds/__pycache__/__init__.cpython-313.pyc",
    "birds/__pycache__/lazy.cpython-313.pyc",
    "birds/data.json",
    "birds/deep/__init__.py",
    "birds/deep/__pycache__/__init__.cpython-313.pyc",
    "birds/deep/test/data.bin",
    "birds/fast.c",
    "birds/include/birds.h",
    "birds/lazy.py",
    "birds/named/tests/__init__.py",
    "birds/named/tests/__pycache__/__init__.cpython-313.pyc",
    "birds/py.typed",
    "birds/stubs.pyi",
    "birds/template.py",
    "birds/tests/__init__.py",
    "birds/tests/__pycache__/__init__.cpython-313.pyc",
    "birds/tests/__pycache__/helper.cpython-313.pyc",
    "birds/tests/deeper/tests/__pycache__/more.cpython-313.pyc",
    "birds/tests/deeper/tests/more.py",
    "birds/tests/helper.py",
    "birds/tool",
    "single.py",
    "__pycache__/single.cpython-313.pyc",
    "tests/__init__.py",
    "tests/__pycache__/__init__.cpython-313.pyc",
}


def unpacked(vendored: Vendored, folder: Path) -> Path:
    with (folder / "packed.zip").open("wb") as file:
        write_archive(file, vendored.members())
    with zipfile.ZipFile(folder / "packed.zip") as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_all_that_is_installed_is_packed_but_modules_of_tests_that_nothing_imports(tmp_path: Path) -> None:
    pin = make_wheel(tmp_path / "wheels", "birds", BIRDS)
    vendored = vendor(Resolved((pin,), X86), offline_uv(tmp_path / "wheels", tmp_path / "uv"), tmp_path / "cache")
    unpacked(vendored, tmp_path)
    with zipfile.ZipFile(tmp_path / "packed.zip") as archive:
        files = {info.filename: info for info in archive.infolist()}
    assert files.keys() == VENDORED == vendored.paths
    assert vendored.size == sum(info.file_size for info in files.values())
    programs = [path for path, info in files.items() if info.external_attr >> 16 & 0o111]
    assert programs == ["bin/birds", "bin/birds-tool", "bin/fly", "birds/tool"]


def test_programs_of_packages_name_no_path_of_this_machine_and_run(tmp_path: Path) -> None:
    pin = make_wheel(tmp_path / "wheels", "birds", {**BIRDS, "birds/__init__.py": "def fly(): print('flap')\n"})
    place = tmp_path / "a place"  # for which installers write another first line
    subprocess.run([UV.command, "venv", "-q", "--python", sys.executable, str(place)], check=True)
    uv = replace(offline_uv(tmp_path / "wheels", tmp_path / "uv"), python=place / "bin" / "python")
    site = unpacked(vendor(Resolved((pin,), X86), uv, tmp_path / "cache"), tmp_path)
    first = {file.name: file.read_bytes().splitlines()[0] for file in (site / "bin").iterdir()}
    env = b"#!/usr/bin/env python3"
    assert first == {"birds": env, "birds-tool": b"\x7fELF tool", "fly": env}
    (site / "bin" / "fly").chmod(0o755)
    done = subprocess.run([site / "bin" / "fly"], env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True)
    assert done.stdout == b"flap\n"


def test_metadata_and_its_record_say_what_is_packed(tmp_path: Path) -> None:
    pin = make_wheel(tmp_path / "wheels", "birds", BIRDS)
    vendored = vendor(Resolved((pin,), X86), offline_uv(tmp_path / "wheels", tmp_path / "uv"), tmp_path / "cache")
    site = unpacked(vendored, tmp_path)
    (found,) = importlib.metadata.distributions(path=[str(site)])
    assert (found.name, found.version, [point.value for point in found.entry_points]) == ("birds", "1.0", ["birds:fly"])
    files = found.files or []
    assert {str(path) for path in files} == {path for path in VENDORED if not path.endswith(".pyc")}
    for path in files:
        content = Path(path.locate()).read_bytes()
        assert path.name == "RECORD" or (path.size, path.hash and path.hash.value) == (
            len(content),
            base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode(),
        )


def test_what_compilers_and_tests_read_is_left_out_of_what_would_not_fit(tmp_path: Path) -> None:
    sizes = {"birds/__init__.py": 10, "birds/fast.c": 200 * 2**20, "birds/tests/data.bin": 50 * 2**20, "birds/a.pyi": 9}
    sizes |= {"birds/__pycache__/__init__.cpython-313.pyc": 10, "birds/test/data.bin": 5}
    files = {path: InstalledFile("00", size) for path, size in sizes.items()}
    index = Index(files, {"birds": Distribution(tuple(files))}, ("birds/tests",))
    small = Installation(tmp_path, replace(index, files=files | {"birds/fast.c": InstalledFile("00", 2**20)})).select()
    assert (small.paths, small.note) == (frozenset(files), "")
    large = Installation(tmp_path, index).select()
    assert large.paths == frozenset(files) - {"birds/fast.c", "birds/tests/data.bin"}  # compiled modules then fit
    assert large.note == "what only compilers and tests read is left out, since it would not fit"


def test_what_was_installed_once_is_not_installed_again(tmp_path: Path) -> None:
    pin = make_wheel(tmp_path / "wheels", "birds", {"birds.py": ""})
    uv = offline_uv(tmp_path / "wheels", tmp_path / "uv")
    vendored = vendor(Resolved((pin,), X86), uv, tmp_path / "cache")
    assert vendor(Resolved((pin,), X86), NoUv({}), tmp_path / "cache") == vendored
    vendored.archive.unlink()
    with pytest.raises(AssertionError, match="uv was run"):
        vendor(Resolved((pin,), X86), NoUv({}), tmp_path / "cache")
    assert vendor(Resolved((pin,), X86), uv, tmp_path / "cache") == vendored


def test_an_installation_has_equal_bytes_wherever_it_is_made(tmp_path: Path) -> None:
    pin = make_wheel(tmp_path / "wheels", "birds", BIRDS)
    made = []
    for place in ("one", "two"):
        uv = offline_uv(tmp_path / "wheels", tmp_path / f"uv-{place}")
        (tmp_path / place).mkdir()
        vendored = vendor(Resolved((pin,), X86), uv, tmp_path / place)
        unpacked(vendored, tmp_path / place)
        packed = (tmp_path / place / "packed.zip").read_bytes()
        made.append((packed, vendored.digest, json.dumps(vendored.sizes)))
    assert made[0] == made[1]


def test_an_installation_that_fails_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels", "birds", BIRDS)
    with pytest.raises(BuildError, match=r"Installing for Lambda what the flow requires failed\. uv says:"):
        vendor(Resolved(("gone==1",), X86), offline_uv(tmp_path / "wheels", tmp_path / "uv"), tmp_path / "cache")
    assert list((tmp_path / "cache" / "vendored").iterdir()) == []


def test_a_package_over_the_limit_is_refused_with_a_table_of_its_largest_parts() -> None:
    check_zip_size({"a": 262_144_000}, "clean")
    sizes = {f"package_{number:02}": number * 5 * 2**20 for number in range(12)}
    with pytest.raises(BuildError) as caught:
        check_zip_size(sizes, "clean")
    first, title, *table, last = str(caught.value).replace(". The", ".\nThe").splitlines()
    assert first == "the zip package of clean() has 330.0 MiB unzipped; Lambda takes 250 MiB."
    assert title == "The largest are:"
    assert table == [f"  {number * 5:9.1f} MiB  package_{number:02}" for number in range(11, 1, -1)]
    assert last == "Require less, or set package_type: image in lokki.yml, where 10 GB fit."
