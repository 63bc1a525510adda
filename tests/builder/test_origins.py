"""Packages that are not from the public index: indexes of a project's own, repositories, files, folders, sources."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from support.package_index import PackageIndex, package_index
from support.wheels import make_sdist, make_wheel, project_files

import lokki
from lokki.builder.package_types import BuildError
from lokki.builder.requirements.find import Requirements, find_requirements
from lokki.builder.requirements.resolve import Resolved, resolve
from lokki.builder.requirements.uv import Uv
from lokki.builder.requirements.vendoring import install_once

RUNTIME = {"isal", "msgspec", "obstore"}
LOKKI = Path(lokki.__file__).parent.parent


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PackageIndex]:
    """An index that needs a password, and has packages of these names that the public one has not."""
    folder = tmp_path_factory.mktemp("index")
    make_wheel(folder, "lokki_test_honk", {"lokki_test_honk.py": "sound = 'honk'"})
    make_sdist(folder, "lokki_test_pure", "from lokki_test_honk import sound")
    make_sdist(folder, "lokki_test_bound", "", tag="cp313-cp313-linux_x86_64")
    with package_index(folder) as served:
        yield served


class Place:
    """A folder with a project, and a uv that has a cache of its own."""

    def __init__(self, folder: Path, index: PackageIndex) -> None:
        self.folder, self.index = folder, index
        self.write({".git/config": "", "flows/flow.py": ""})
        self.uv = Uv(
            {
                **os.environ,
                "UV_CACHE_DIR": str(folder / "uv"),
                "ACME_PLACE": index.url_with_password,
                "NOTHING": "",
            }
        )

    def write(self, files: Mapping[str, str]) -> None:
        for path, text in files.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(
                text.replace("INDEX", self.index.url_with_password).replace("FOLDER", str(self.folder))
            )

    def find(self, files: Mapping[str, str]) -> Requirements:
        """Write files and find what the flow in ``flows/flow.py`` requires."""
        self.write(files)
        return find_requirements(self.folder / "flows" / "flow.py", self.uv, self.folder / "cache")

    def resolve(self, files: Mapping[str, str]) -> Resolved:
        """Resolve what a project with these files requires, without what lokki needs itself."""
        found = resolve(self.find(files), (), "x86_64", self.uv, self.folder / "cache")
        return replace(found, pins=tuple(pin for pin in found.pins if pin.partition("==")[0] not in RUNTIME))

    def vendored(self, resolved: Resolved) -> dict[str, str]:
        """Install and return the modules at the top."""
        with zipfile.ZipFile(install_once(resolved, self.uv, self.folder / "cache").archive) as archive:
            return {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}


@pytest.fixture
def place(tmp_path: Path, index: PackageIndex) -> Place:
    return Place(tmp_path, index)


def project(*dependencies: str, uv: str = "") -> str:
    required = ", ".join(f'"{each}"' for each in dependencies)
    return (
        f'[project]\nname = "birds"\nversion = "1"\nrequires-python = ">=3.13"\ndependencies = [{required}]\n'
        f'[tool.uv.sources]\nlokki = {{ path = "{LOKKI}", editable = true }}\n{uv}'
    )


WHEEL = "lokki_test_file-1.0-py3-none-any.whl"
SOURCE = 'lokki-test-honk = { index = "acme" }\n'
INDEX = '[[tool.uv.index]]\nname = "acme"\nurl = "INDEX"\n'
EXPLICIT = f"{INDEX}explicit = true\n"
SCRIPT = '# /// script\n# dependencies = ["lokki_test_honk"]\n# [[tool.uv.index]]\n# url = "INDEX"\n{}# ///\n'

WAYS = {
    "an explicit index": {"pyproject.toml": project("lokki-test-honk", "lokki", uv=SOURCE + EXPLICIT)},
    "one of several sources": {
        "pyproject.toml": project(
            "lokki_test.honk",
            uv='lokki_test_honk = [{ index = "acme", marker = "sys_platform == \'linux\'" }]\n' + EXPLICIT,
        )
    },
    "an index beside the public one": {"pyproject.toml": project("lokki-test-honk", uv=INDEX)},
    "an index as uv had it before": {
        "pyproject.toml": project("lokki-test-honk", uv='[tool.uv]\nextra-index-url = ["INDEX"]\n')
    },
    "a line in requirements.txt": {"requirements.txt": "--extra-index-url INDEX\nlokki-test-honk\n"},
    "a line with a variable": {"requirements.txt": "--extra-index-url ${ACME_PLACE}\n${NOTHING}lokki-test-honk\n"},
    "a script": {"flows/flow.py": SCRIPT.format("")},
    "a script with a source": {
        "flows/flow.py": SCRIPT.format(
            '# name = "acme"\n# explicit = true\n# [tool.uv.sources]\n# lokki_test_honk = { index = "acme" }\n'
        )
    },
    "a workspace": {
        "pyproject.toml": f'[tool.uv.workspace]\nmembers = ["flows"]\n[tool.uv.sources]\n{SOURCE}{EXPLICIT}',
        "flows/pyproject.toml": project("lokki-test-honk"),
    },
    "an index that the workspace names otherwise": {
        "pyproject.toml": '[tool.uv.workspace]\nmembers = ["flows"]\n'
        + EXPLICIT.replace("INDEX", "http://127.0.0.1:9/simple"),
        "flows/pyproject.toml": project("lokki-test-honk", uv=SOURCE + EXPLICIT),
    },
}


@pytest.mark.parametrize("files", WAYS.values(), ids=WAYS)
def test_a_package_of_an_index_of_ones_own_is_found_and_installed(place: Place, files: Mapping[str, str]) -> None:
    found = place.resolve(files)
    assert found.pins == ("lokki-test-honk==1.0",)
    assert found.elsewhere == {"lokki-test-honk==1.0": place.index.url}
    assert place.vendored(found) == {"lokki_test_honk.py": "sound = 'honk'"}
    place.index.asked.clear()
    assert place.resolve({}) == found
    assert place.index.asked == []


@pytest.mark.parametrize("locked", [False, True])
def test_folders_and_repositories_and_files_of_this_machine(place: Place, locked: bool) -> None:
    """Folders are packaged as the flow imports them, so only what they require is required."""
    place.write(
        {
            **{f"repository/{name}": text for name, text in project_files("lokki_test_repo", "r = 1").items()},
            "library/pyproject.toml": project("lokki-test-honk", uv=SOURCE + EXPLICIT),
            "member/pyproject.toml": project("six", "birds").replace('"birds"', '"member"', 1),
        }
    )
    make_wheel(place.folder / "wheels", "lokki_test_file", {"lokki_test_file.py": "f = 1"})
    git = ["git", "-C", str(place.folder / "repository"), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    sources = (
        'lokki-test-repo = { git = "file://FOLDER/repository" }\nlibrary = { path = "library", editable = true }\n'
        'lokki-test-file = { path = "wheels/lokki_test_file-1.0-py3-none-any.whl" }\nmember = { workspace = true }\n'
        'birds = { workspace = true }\n[tool.uv.workspace]\nmembers = ["member"]\n'
    )
    pyproject = project("lokki-test-repo", "library", "lokki-test-file", "member", "lokki", uv=sources)
    place.write({"pyproject.toml": pyproject, "library/pyproject.toml": (
        project("lokki-test-honk", uv=SOURCE + EXPLICIT).replace('"birds"', '"library"')
    )})  # fmt: skip
    if locked:
        subprocess.run(
            [place.uv.command, "lock", "-q", "--python", sys.executable],
            cwd=place.folder,
            check=True,
            env=place.uv.environ,
        )
    found = place.resolve({})
    wheel = f"lokki-test-file @ file://{place.folder}/wheels/lokki_test_file-1.0-py3-none-any.whl"
    repository = f"lokki-test-repo @ git+file://{place.folder}/repository@{head}"
    honk, six = "lokki-test-honk==1.0", next(pin for pin in found.pins if pin.startswith("six=="))
    assert found.pins == (wheel, honk, repository, six)
    assert found.elsewhere == {wheel: "", honk: place.index.url, repository: ""}
    assert found.built == ("lokki-test-repo",)
    assert place.vendored(found.of_index("")) == {"lokki_test_file.py": "f = 1", "lokki_test_repo.py": "r = 1"}
    assert place.vendored(found).keys() == {f"lokki_test_{name}.py" for name in ("file", "repo", "honk")} | {"six.py"}
    assert found.files_for("image") == {
        "requirements.txt": f"{six}\n".encode(),
        "requirements-1.txt": f"--index-url {place.index.url}\n{honk}\n".encode(),
    }
    assert found.files_for("zip")["requirements.txt"].decode().splitlines()[0] == (
        "lokki-test-file @ lokki_test_file-1.0-py3-none-any.whl"
    )


def test_references_are_written_with_and_without_spaces(place: Place) -> None:
    make_wheel(place.folder / "my wheels", "lokki_test_file", {"lokki_test_file.py": "f = 1"})
    extra = f'[project.optional-dependencies]\nMy-Files = ["lokki-test-file@file://FOLDER/my%20wheels/{WHEEL}"]\n'
    place.write({"my library/pyproject.toml": project(uv=extra)})
    found = place.resolve(
        {"pyproject.toml": project("library[other, my_files]@ file://FOLDER/my%20library ; python_version > '3'")}
    )
    assert found.pins == (f"lokki-test-file @ file://{place.folder}/my%20wheels/{WHEEL}",)
    assert place.vendored(found) == {"lokki_test_file.py": "f = 1"}


def test_a_file_that_changed_is_installed_again(place: Place) -> None:
    make_wheel(place.folder / "wheels", "lokki_test_file", {"lokki_test_file.py": "f = 1"})
    files = {"requirements.txt": "./wheels/lokki_test_file-1.0-py3-none-any.whl\n-e .\n./flows\n"}
    assert place.vendored(place.resolve(files)) == {"lokki_test_file.py": "f = 1"}
    make_wheel(place.folder / "wheels", "lokki_test_file", {"lokki_test_file.py": "f = 22"})
    assert place.vendored(place.resolve({})) == {"lokki_test_file.py": "f = 22"}


def test_wheels_are_found_in_a_folder(place: Place) -> None:
    make_wheel(place.folder / "flows" / "wheels", "lokki_test_file", {"lokki_test_file.py": "f = 1"})
    found = place.resolve({"flows/requirements.txt": "-f wheels\nlokki-test-file"})
    assert found.elsewhere == {"lokki-test-file==1.0": ""}
    assert place.vendored(found) == {"lokki_test_file.py": "f = 1"}


def test_sources_are_built_where_there_is_no_wheel(place: Place) -> None:
    found = place.resolve({"requirements.txt": "--extra-index-url INDEX\nlokki-test-pure\nlokki-test-honk"})
    pins = ("lokki-test-honk==1.0", "lokki-test-pure==1.0")
    assert (found.pins, found.built) == (pins, ("lokki-test-pure",))
    assert found.elsewhere == {pins[0]: place.index.url, pins[1]: ""}
    modules = {"lokki_test_honk.py": "sound = 'honk'", "lokki_test_pure.py": "from lokki_test_honk import sound"}
    assert place.vendored(found) == modules
    assert place.vendored(found.of_index("")).keys() == {"lokki_test_pure.py"}


def test_sources_that_are_built_to_more_than_python_are_refused(place: Place) -> None:
    with pytest.raises(BuildError) as caught:
        place.resolve({"requirements.txt": "--extra-index-url INDEX\nlokki-test-bound"})
    assert str(caught.value) == (
        "lokki_test_bound 1.0 has no wheel for Lambda's Python 3.13 on this architecture, and what was built of it "
        "here runs only on machines like this one. Require another version of it, set architecture in lokki.yml, or "
        "publish a wheel of it where uv finds it."
    )


def test_a_source_that_is_no_member_of_the_workspace_is_named(place: Place) -> None:
    uv = "six = { workspace = true }\n[tool.uv.workspace]\nmembers = []\n"
    with pytest.raises(BuildError) as caught:
        place.find({"pyproject.toml": project("six", uv=uv)})
    assert str(caught.value) == (
        f"{place.folder}/pyproject.toml: six is no member of its workspace. Correct its source."
    )


def test_no_password_stands_in_what_is_written_for_people() -> None:
    pins = ("a @ git+https://token@acme/a@1", "b @ https://goose:egg@acme/b.whl", "c @ git+ssh://git@acme/c@1")
    assert Resolved(pins, "x86_64-manylinux_2_34").text.splitlines() == [
        "a @ git+https://acme/a@1", "b @ https://acme/b.whl", "c @ git+ssh://git@acme/c@1",
    ]  # fmt: skip


def test_a_package_of_the_public_index_needs_nothing_beside_it() -> None:
    resolved = Resolved(("six==1.17.0",), "x86_64-manylinux_2_34")
    assert resolved.files_for("image") == {"requirements.txt": b"six==1.17.0\n"}
    assert resolved.of_index("").pins == ()
