"""What a project requires that its pyproject.toml does not list: its build backend or Poetry is asked.

https://packaging.python.org/en/latest/specifications/pyproject-toml/#dynamic
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from lokki.builder.package_types import BuildError
from lokki.builder.requirements.cache import cache_key, read_entry, write_entry
from lokki.builder.requirements.uv import Uv

_INPUTS: Final = ("*.toml", "*.cfg", "*.py", "*.txt", "*.in", "*.lock", "requirements/*")
"""Files by which an answer is remembered, beside those that were read for it: others that would count if they came."""

_LARGEST: Final = 2**20

# Backends read dependencies from files of any name, such as deps/base.list, which Python tells to a hook.
_NOTE_FILES: Final = """
import os, sys
files, project = set(), os.getcwd() + os.sep
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        file = os.path.abspath(os.fsdecode(arguments[0]))
        if file.startswith(project):
            files.add(file.removeprefix(project))
sys.addaudithook(note)
"""

# What backends print goes to standard output, so an answer goes to a file.
_ASK_BACKEND: Final = (
    _NOTE_FILES
    + """import importlib, json, os, sys, tempfile, zipfile
answer, hook, backend, *paths = sys.argv[1:]
sys.dont_write_bytecode = True  # a backend in the project, edited twice in a second, would be taken for what it was
sys.path[:0] = paths
module, _, attributes = backend.partition(":")
asked = importlib.import_module(module)
for name in filter(None, attributes.split(".")):
    asked = getattr(asked, name)
if hook == "requires":
    lines = getattr(asked, "get_requires_for_build_wheel", list)()
else:
    from email import message_from_bytes
    with tempfile.TemporaryDirectory() as folder:
        if hasattr(asked, "prepare_metadata_for_build_wheel"):
            info = asked.prepare_metadata_for_build_wheel(folder)
            with open(os.path.join(folder, info, "METADATA"), "rb") as file:
                metadata = message_from_bytes(file.read())
        else:
            with zipfile.ZipFile(os.path.join(folder, asked.build_wheel(folder))) as wheel:
                [path] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
                metadata = message_from_bytes(wheel.read(path))
    lines = [metadata.get("Requires-Python") or "", *(metadata.get_all("Requires-Dist") or [])]
with open(answer, "w") as file:
    json.dump({"lines": lines, "files": sorted(files)}, file)
"""
)

_ASK_POETRY: Final = (
    _NOTE_FILES
    + """
import json, sys
from pathlib import Path
from poetry.core.factory import Factory
package = Factory().create_poetry(Path.cwd()).package
required = [each for each in package.requires if each.in_extras or not each.is_optional()]
lines = [dependency.to_pep_508() for dependency in required]
with open(sys.argv[1], "w") as file:
    json.dump({"lines": [str(package.python_constraint), *lines], "files": sorted(files)}, file)
"""
)


class _Answer(msgspec.Struct, frozen=True):
    """What a backend answers.

    ``files``: those of the project that were read for it.
    """

    lines: list[str]
    files: list[str]


class _Remembered(msgspec.Struct, frozen=True):
    """An answer, and hashes of the files that it came from."""

    lines: list[str]
    digests: dict[str, str]


@dataclass(frozen=True, slots=True)
class BuiltMetadata:
    """What a project requires.

    - ``requires_python``: versions of Python, "" for any
    - ``requires``: packages, of which some may be for extras
    """

    requires_python: str
    requires: tuple[str, ...]


def backend_metadata(folder: Path, build_system: Mapping[str, object], uv: Uv, cache: Path) -> BuiltMetadata:
    """Ask the build backend of a project, as installing it would.

    Raises BuildError with what the backend says when it fails.
    https://peps.python.org/pep-0517/#build-backend-interface
    """
    requires = _texts(build_system.get("requires", ["setuptools"]))
    backend = str(build_system.get("build-backend", "setuptools.build_meta:__legacy__"))
    paths = [str(folder / path) for path in _texts(build_system.get("backend-path", []))]

    def ask(hook: str, packages: Sequence[str]) -> _Answer:
        return _answer(folder, uv, packages, _ASK_BACKEND, hook, backend, *paths)

    return _remembered(folder, cache, lambda: ask("metadata", [*requires, *ask("requires", requires).lines]))


def poetry_metadata(folder: Path, uv: Uv, cache: Path) -> BuiltMetadata:
    """Ask Poetry's core what a project requires.

    It answers for projects that are no packages, too.
    """
    return _remembered(folder, cache, lambda: _answer(folder, uv, ["poetry-core"], _ASK_POETRY))


def _remembered(folder: Path, cache: Path, ask: Callable[[], _Answer]) -> BuiltMetadata:
    """Return the answer that the cache has, or ask for it.

    It is asked anew when a file has changed that the last answer was read from.
    """
    place = cache / "metadata" / cache_key("metadata 2", str(folder), list(_inputs(folder)))
    content = read_entry(place)
    remembered = msgspec.json.decode(content, type=_Remembered) if content is not None else None
    if remembered is None or remembered.digests != _digests(folder, remembered.digests):
        answer = ask()
        remembered = _Remembered(answer.lines, _digests(folder, answer.files))
        write_entry(place, msgspec.json.encode(remembered))
    python, *requires = remembered.lines
    return BuiltMetadata("" if python == "*" else python, tuple(requires))


def _digests(folder: Path, files: Iterable[str]) -> dict[str, str]:
    """Return hashes of files, by their paths in a folder.

    It is "" for what is no file, or is none any more.
    """
    places = {path: folder / path for path in files}
    return {
        path: hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "" for path, file in places.items()
    }


def _inputs(folder: Path) -> Iterator[str]:
    """Yield names and content of the files that an answer depends on."""
    for file in sorted(file for pattern in _INPUTS for file in folder.glob(pattern) if file.is_file()):
        status = file.stat()
        yield file.name
        # A text file of data beside the project is not read for it.
        yield (
            file.read_bytes().decode("latin-1")
            if status.st_size <= _LARGEST
            else f"{status.st_size} {status.st_mtime_ns}"
        )


def _answer(folder: Path, uv: Uv, packages: Sequence[str], script: str, *arguments: str) -> _Answer:
    """Run a script in the folder of a project, and return its answer.

    ``packages``: installed for the script alone.
    """
    left_before = set(_left_behind(folder))
    with TemporaryDirectory() as temporary:
        answer = Path(temporary) / "answer.json"
        options = ["--no-project", "--isolated", "--quiet", "--python", str(uv.python)]
        needs = [argument for package in packages for argument in ("--with", package)]
        try:
            uv.run(
                ["run", *options, *needs, "python", "-c", script, str(answer), *arguments],
                folder,
                f"Asking the build backend of {folder} what the project requires",
            )
        except BuildError as error:
            raise BuildError(f"{error}\nOr list what it requires under [project] in its pyproject.toml.") from None
        finally:
            for place in set(_left_behind(folder)) - left_before:
                rmtree(place, ignore_errors=True)
        return msgspec.json.decode(answer.read_bytes(), type=_Answer)


def _left_behind(folder: Path) -> Iterator[Path]:
    """Yield what setuptools leaves in a project when it is asked."""
    for place in (folder, folder / "src"):
        yield from place.glob("*.egg-info")


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
